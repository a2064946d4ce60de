//! Whether a login that hangs is felt by other requests of the same worker.
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

pub fn run() {
    let outpost = Outpost::start();
    let rows = [("NPM answers", None), ("NPM hangs", Some(Fault::Hang))].map(|(name, fault)| {
        let mut npm = Npm::builder().login_time(Duration::ZERO);
        for user in 0..USERS {
            npm = npm.user(&identity(user), "secret");
        }
        let npm = npm.start();
        let hangs = fault.is_some();
        fault.into_iter().for_each(|fault| npm.fault(fault));

        let accounts: Vec<Value> = (0..USERS)
            .map(|user| json!({"user": name_of(user), "identity": identity(user), "secret": "secret"}))
            .collect();
        let accounts = json!({"api": npm.url(), "timeout": "60s", "accounts": accounts});
        let nginx = proxy_host(&outpost.url(), &npm.url())
            .accounts(&accounts.to_string())
            .location("= /other", "access_log off; return 204;")
            .quiet()
            .start();

        let mut crowd: Vec<_> = (0..USERS).map(|user| ask(&nginx, &outpost, user)).collect();
        if !hangs {
            crowd.iter_mut().for_each(|stream| _ = stream.read(&mut [0; 4096]));
        }
        testbed::eventually(Duration::from_secs(20), "a login", || npm.logins() > 0);

        let client = nginx.client();
        let begun = Instant::now();
        let mut times: Vec<_> = (0..REQUESTS).map(|_| client.get("/other").time).collect();
        let rate = REQUESTS as f64 / begun.elapsed().as_secs_f64();
        let mut row = vec![name.to_owned()];
        row.extend([0.5, 0.99, 0.999, 1.0].map(|share| millis(percentile(&mut times, share))));
        row.push(table::count(rate as u64));
        row
    });
    table::print(
        &format!("Another location of the same worker, {REQUESTS} requests one after the other, beside {USERS} users"),
        &["", "median", "99 %", "99.9 %", "longest", "requests a second"],
        &rows,
    );
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
