//! Whether a login that hangs is felt by other requests of the same worker, and by those of another NPM.
//!
//! One worker, and a crowd of users, each with an account of its own. Either all of them have been
//! answered, or NPM hangs and all of them wait for it. Meanwhile one client asks for another
//! location again and again.

use std::io::Write;
use std::time::{Duration, Instant};

use serde_json::{json, Value};
use testbed::server::Stream;
use testbed::{proxy_host, Fault, Nginx, Npm, Outpost, Visitor};

use crate::table::{self, millis, percentile};

const USERS: usize = 100;
const REQUESTS: usize = 20_000;
const SIGNED_IN: usize = 5_000;
const FIRSTS: usize = 9;

pub fn run() {
    another_location();
    another_npm();
}

fn another_location() {
    let outpost = Outpost::start();
    let rows = [("NPM answers", None), ("NPM hangs", Some(Fault::Hang))].map(|(name, fault)| {
        let npm = npm_of_many();
        let hangs = fault.is_some();
        fault.into_iter().for_each(|fault| npm.fault(fault));
        let nginx = proxy_host(&outpost.url(), &npm.url())
            .accounts(&accounts_at(&npm))
            .location("= /other", "access_log off; return 204;")
            .quiet()
            .start();
        let mut crowd: Vec<_> = (0..USERS).map(|user| ask(&nginx, &outpost, user)).collect();
        if !hangs {
            crowd.iter_mut().for_each(|stream| _ = stream.read(&mut [0; 4096]));
        }
        testbed::eventually(Duration::from_secs(20), "a login", || npm.logins() > 0);

        let client = nginx.client();
        row(name, REQUESTS, || client.get("/other").time)
    });
    table::print(
        &format!("Another location of the same worker, {REQUESTS} requests one after the other, beside {USERS} users"),
        &["", "median", "99 %", "99.9 %", "longest", "requests a second"],
        &rows,
    );
}

/// Two NPMs behind one worker, the first of which hangs for a crowd of users.
fn another_npm() {
    let outpost = Outpost::start();
    let session = outpost.sign_in(Visitor::new("akadmin"));
    let rows = [("both NPMs answer", None), ("the other NPM hangs", Some(Fault::Hang))];
    let rows = rows.map(|(name, fault)| {
        let (first, second) = (npm_of_many(), npm_of_many());
        let hangs = fault.is_some();
        fault.into_iter().for_each(|fault| first.fault(fault));
        let account = json!({"user": "akadmin", "identity": identity(0), "secret": "secret"});
        let file = json!({"api": second.url(), "accounts": [account]});
        let host = proxy_host(&outpost.url(), &first.url())
            .accounts(&accounts_at(&first))
            .file_with_mode("second.json", file.to_string(), 0o600)
            .location(
                "/second/",
                &format!(
                    "auth_request /outpost.goauthentik.io/auth/nginx;
                     auth_request_set $authentik_username $upstream_http_x_authentik_username;
                     npm_token_inject second.json;
                     proxy_pass {}/;",
                    second.url()
                ),
            )
            .quiet();
        let (mut firsts, mut row_of) = (Vec::new(), Vec::new());
        for try_number in 0..FIRSTS {
            let nginx = host.clone().start();
            let mut crowd: Vec<_> = (0..USERS).map(|user| ask(&nginx, &outpost, user)).collect();
            if !hangs {
                crowd.iter_mut().for_each(|stream| _ = stream.read(&mut [0; 4096]));
            }
            let client = nginx.client();
            let get = || {
                let reply = client.request("GET", "/second/api/users/me").cookie(&session).send();
                assert_eq!(reply.status, 200, "{reply:?}");
                reply.time
            };
            firsts.push(get());
            if try_number == 0 {
                row_of = row(name, SIGNED_IN, get);
            }
        }
        row_of.insert(1, millis(percentile(&mut firsts, 0.5)));
        row_of
    });
    table::print(
        &format!(
            "One of two NPMs, beside {USERS} users of the other: the first request (median of {FIRSTS}), and \
             {SIGNED_IN} more, one after the other"
        ),
        &["", "first", "median", "99 %", "99.9 %", "longest", "requests a second"],
        &rows,
    );
}

fn npm_of_many() -> Npm {
    let npm = Npm::builder().login_time(Duration::ZERO);
    (0..USERS).fold(npm, |npm, user| npm.user(&identity(user), "secret")).start()
}

fn accounts_at(npm: &Npm) -> String {
    let account =
        |user| json!({"user": name_of(user), "identity": identity(user), "secret": "secret"});
    let accounts: Vec<Value> = (0..USERS).map(account).collect();
    json!({"api": npm.url(), "timeout": "60s", "accounts": accounts}).to_string()
}

/// How long something takes, again and again.
fn row(name: &str, count: usize, mut once: impl FnMut() -> Duration) -> Vec<String> {
    let begun = Instant::now();
    let mut times: Vec<_> = (0..count).map(|_| once()).collect();
    let rate = count as f64 / begun.elapsed().as_secs_f64();
    let mut row = vec![name.to_owned()];
    row.extend([0.5, 0.99, 0.999, 1.0].map(|share| millis(percentile(&mut times, share))));
    row.push(table::count(rate as u64));
    row
}

fn name_of(user: usize) -> String {
    format!("user{user}")
}

fn identity(user: usize) -> String {
    format!("user{user}@example.com")
}

/// Sends a user's request, and keeps its connection.
fn ask(nginx: &Nginx, outpost: &Outpost, user: usize) -> Box<dyn Stream> {
    let cookie = outpost.sign_in(Visitor::new(&name_of(user))).cookie();
    let mut stream = nginx.client().connect().expect("a connection");
    let request =
        format!("GET /api/users/me HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request sent");
    stream
}
