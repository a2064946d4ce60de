//! How much longer than NPM's own login the first request of an account takes.
//!
//! Each try is a new nginx, so that its worker starts its login thread as well. The login is at the
//! NPM that `TEST_NPM` names, else at a stand-in, where it takes 420 ms; the page that is asked for is
//! a stand-in's in either case, so that only the login counts.

use std::time::Duration;

use serde_json::json;
use testbed::{proxy_host, Npm, Outpost, Target, Visitor};

use crate::table::{self, millis, percentile};

const TRIES: usize = 25;

pub fn run() {
    let (npm, page, outpost) = (Target::from_environment(), Npm::start(), Outpost::start());
    let session = outpost.sign_in(Visitor::new("akadmin"));
    let credentials = json!({"identity": npm.identity, "secret": npm.secret});
    let account = json!({"user": "akadmin", "identity": npm.identity, "secret": npm.secret});
    let host = proxy_host(&outpost.url(), &page.url())
        .accounts(&json!({"api": npm.url, "accounts": [account]}).to_string())
        .quiet();

    let (mut logins, mut firsts, mut nexts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TRIES {
        // In turns, so that what else the machine does befalls all of them.
        let client = npm.client();
        let login = client.request("POST", "/api/tokens").json(&credentials).send();
        assert_eq!(login.status, 200, "{login:?}");
        logins.push(login.time);

        let nginx = host.clone().start();
        let client = nginx.client();
        for times in [&mut firsts, &mut nexts] {
            let reply = client.request("GET", "/").cookie(&session).send();
            assert_eq!(reply.status, 200, "{reply:?}");
            times.push(reply.time);
        }
    }

    let [login, first, next] = [&mut logins, &mut firsts, &mut nexts].map(|t| percentile(t, 0.5));
    let row = |name: &str, time: Duration| vec![name.to_owned(), millis(time)];
    table::print(
        &format!(
            "The first request for an account, on {}; medians of {TRIES} tries",
            if npm.stand_in.is_some() { "a stand-in for NPM" } else { &npm.url }
        ),
        &["", "median"],
        &[
            row("a login at NPM itself, `POST /api/tokens`", login),
            row("the first request through nginx", first),
            row("what it takes beyond the login", first.saturating_sub(login)),
            row("the next request, from the cache", next),
        ],
    );
}
