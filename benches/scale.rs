//! What many accounts cost, and many requests that wait at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use ngx_http_npm_token_inject_module::sso::account::{AccountKey, Wanted};
use ngx_http_npm_token_inject_module::sso::cache::{Access, Claim, OwnTable, Table};
use ngx_http_npm_token_inject_module::sso::npm::Role;
use ngx_http_npm_token_inject_module::sso::token::Token;
use serde_json::json;
use testbed::{eventually, process, Nginx, Npm};

use crate::table::{self, millis};
use crate::upstream;

const NOW: u64 = 1_700_000_000_000;
const LOOK_UPS: usize = 2_000_000;

/// The time that NPM takes for the one login that all wait for: so that all are there before its end.
const LOGIN_TIME: Duration = Duration::from_secs(8);

pub fn run() {
    accounts();
    waiting();
}

/// Keys are hashes: numbers without order.
fn key(number: usize) -> AccountKey {
    let mut state = number as u64 + 1;
    AccountKey([(); 4].map(|()| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        state ^ state >> 29
    }))
}

fn token() -> Token {
    let claims =
        json!({"iss": "api", "scope": ["user"], "iat": NOW / 1000, "exp": NOW / 1000 + 86_400});
    let [head, claims] =
        [json!({"alg": "RS256"}), claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    let jwt = format!("{head}.{claims}.{}", "s".repeat(342));
    Token::issued(&jwt, NOW).unwrap_or_else(|error| panic!("{error}"))
}

/// Look-ups in a table that so many accounts fill, of one after the other.
fn accounts() {
    let token = token();
    let rows = [1, 256, 10_000].map(|count| {
        let mut table = OwnTable::new(count);
        for number in 0..count {
            table.store(&key(number), Wanted::Any, (&token, Role::Standard), false, NOW);
        }
        let keys: Vec<AccountKey> = (0..count).map(key).collect();
        let mut hints = vec![0; count];
        let mut look_up = |with_hint: bool| {
            let begun = Instant::now();
            for round in 0..LOOK_UPS {
                // A step that meets all in another order than the one in which they came.
                let number = round * 7919 % count;
                let mut none = usize::MAX;
                let hint = if with_hint { &mut hints[number] } else { &mut none };
                let claim = || Claim { by: 1, until: NOW };
                match table.access(&keys[number], Wanted::Any, hint, NOW, claim, |_| true) {
                    Access::Fresh { hits, .. } => *hits += 1,
                    other => panic!("{other:?}"),
                }
            }
            begun.elapsed().as_secs_f64() * 1e9 / LOOK_UPS as f64
        };
        let times = [look_up(false), look_up(true)];
        let mut row = vec![table::count(count as u64)];
        row.extend(times.map(|time| format!("{time:.0} ns")));
        row.push(table::count((Table::size(count) / count) as u64));
        row
    });
    table::print(
        "Look-ups in the shared table, of all accounts in turn: by a worker that has not met the account \
         yet, and by one that has; and what an account takes of the zone",
        &["accounts", "first look-up", "later ones", "bytes of the zone"],
        &rows,
    );
    let sizes = ["32k", "1m", "8m", "32m"].map(|size| {
        let bytes = size.trim_end_matches(['k', 'm']).parse::<usize>().unwrap_or_default()
            << if size.ends_with('k') { 10 } else { 20 };
        // nginx keeps some pages of a zone for itself.
        vec![size.to_owned(), table::count(Table::places_in(bytes) as u64)]
    });
    table::print(
        "Accounts that have room, at most",
        &["npm_token_inject_zone", "accounts"],
        &sizes,
    );
}

/// Requests of one user that wait for one login.
fn waiting() {
    let mut rows = Vec::new();
    for requests in [1_000, 10_000] {
        for workers in [1, 2, 8] {
            rows.push(wait(requests, workers));
        }
    }
    table::print(
        &format!(
            "Requests that wait at once for a login that takes {}: how many logins are made, when the last \
             request has been answered, and the processor's time that all workers take meanwhile, for a \
             second of waiting",
            millis(LOGIN_TIME)
        ),
        &["requests", "workers", "logins", "last answer after the login", "processor, while they wait"],
        &rows,
    );
}

fn wait(requests: usize, workers: usize) -> Vec<String> {
    const REQUEST: &str = "GET /waits HTTP/1.1\r\nHost: localhost\r\n\r\n";

    let (upstream, npm) = (upstream::start(), Npm::builder().login_time(LOGIN_TIME).start());
    let secret = npm.secret("admin@example.com");
    let account = json!({"user": "akadmin", "identity": "admin@example.com", "secret": secret});
    let file = json!({"api": npm.url(), "timeout": "60s", "accounts": [account]});
    let nginx = upstream::host(&upstream)
        .directive("npm_token_inject accounts.json;")
        .accounts(&file.to_string())
        // Answered by nginx itself: a process may not have two connections for each.
        .file("html/waits", "{}")
        .location(
            "= /waits",
            "auth_request /auth;
             auth_request_set $authentik_username $upstream_http_x_authentik_username;
             npm_token_inject on;
             root html;",
        )
        .workers(workers)
        .worker_connections(30_000)
        .quiet()
        .start();
    let ask = || {
        let mut stream = TcpStream::connect(("127.0.0.1", nginx.port())).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
        stream.write_all(REQUEST.as_bytes()).expect("a request sent");
        stream
    };
    let begun = Instant::now();
    let mut crowd = vec![ask()];
    eventually(Duration::from_secs(20), "a login", || npm.logins() > 0);
    crowd.extend((1..requests).map(|_| ask()));
    // All have been asked for at the outpost, and nothing is left to do but to wait.
    let mut before = processor(&nginx);
    eventually(LOGIN_TIME, "quiet", || {
        let now = processor(&nginx);
        let is_quiet = now - before <= 2 && begun.elapsed() > LOGIN_TIME / 4;
        before = now;
        is_quiet
    });
    let (waiting, from) = (Instant::now(), processor(&nginx));
    let mut answer = [0; 4096];
    let mut first = None;
    let mut spent = None;
    for mut stream in crowd {
        let count = stream.read(&mut answer).expect("an answer");
        assert!(
            answer[..count].starts_with(b"HTTP/1.1 200"),
            "{}",
            String::from_utf8_lossy(&answer)
        );
        spent.get_or_insert_with(|| (processor(&nginx) - from, waiting.elapsed()));
        first.get_or_insert_with(|| begun.elapsed());
    }
    let (ticks, waited) = spent.unwrap_or_default();
    // A clock tick is 10 ms (`sysconf(_SC_CLK_TCK)`).
    let share = Duration::from_millis(ticks * 10).as_secs_f64() / waited.as_secs_f64();
    let last = begun.elapsed().saturating_sub(LOGIN_TIME);
    vec![
        table::count(requests as u64),
        workers.to_string(),
        npm.logins().to_string(),
        millis(last),
        format!("{:.1} ms", share * 1000.0),
    ]
}

/// The processor's time of all workers, in clock ticks.
fn processor(nginx: &Nginx) -> u64 {
    nginx.worker_pids().into_iter().map(process::ticks).sum()
}
