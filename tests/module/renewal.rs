//! Tokens are renewed before they expire, and nobody waits for it.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use serde_json::{json, Value};
use testbed::nginx::Builder;
use testbed::{eventually, Client, Fault, Nginx, Npm, Reply, Request};

use crate::site::*;

/// What the module logs of a renewal.
const RENEWED: &str = "npm_token_inject: renewed";

/// How NPM is asked for a token, and for another one.
const TOKENS: &str = "/api/tokens";

/// A token of [`npm_with_users`] lives this long: it is a day that passes in seconds.
const DAY: Duration = Duration::from_secs(6);

/// The same, where a renewal must be over before the day's last tenth: the twentieth of this that is
/// left for it at least is long enough for a machine that has much to do.
const LONG_DAY: Duration = Duration::from_secs(30);

/// No two renewals of a token are closer to each other than this: NPM's dates are whole seconds,
/// so that the module takes a token's life for one less, and uses at least four fifths of that.
const LEAST_USE: Duration = Duration::from_millis(3_500);

fn identity(number: usize) -> String {
    format!("user{number}@example.com")
}

/// An NPM with that many users besides the administrator, whose tokens live for [`DAY`].
fn npm_with_users(count: usize) -> Npm {
    let npm = Npm::builder().administrator(ADMIN, "admin-secret");
    let npm = (0..count).fold(npm, |npm, n| npm.user(&identity(n), &format!("secret{n}")));
    npm.login_time(Duration::from_millis(20)).token_lifetime(DAY).start()
}

/// A busy site where each of NPM's users has an account.
fn site_with_users(npm: &Npm, count: usize) -> Builder {
    let account =
        |n| json!({"user": identity(n), "identity": identity(n), "secret": format!("secret{n}")});
    let accounts: Vec<Value> = (0..count).map(account).collect();
    busy(site(npm)).accounts(&json!({"api": npm.url(), "accounts": accounts}).to_string())
}

/// Asks NPM who the user of that number is, and checks the answer.
fn me_as(client: &Client, number: usize) -> io::Result<Reply> {
    let reply = client.request("GET", ME).header("X-User", &identity(number)).try_send()?;
    assert_eq!(email(&reply), identity(number), "{reply:?}");
    Ok(reply)
}

/// Sends steady requests for each of `count` users in turn, after the first login of each, and
/// checks that each of them finds a token that NPM takes. Says how many there were.
fn assert_nobody_waits<T>(nginx: &Nginx, count: usize, act: impl FnOnce() -> T) -> (usize, T) {
    let client = nginx.client();
    for number in 0..count {
        assert_eq!(me_as(&client, number).as_ref().map(status).expect("a reply"), "miss");
    }
    let next = AtomicUsize::new(0);
    let in_turn = |client: &Client| me_as(client, next.fetch_add(1, Ordering::Relaxed) % count);
    let (results, found) = under_load(4, in_turn, nginx, act);
    for result in &results {
        let reply = result.as_ref().expect("a reply");
        assert_eq!(status(reply), "hit", "{reply:?}");
    }
    (results.len(), found)
}

/// The renewals that NPM was asked for.
fn renewals(npm: &Npm) -> Vec<Request> {
    npm.requests_to(TOKENS).into_iter().filter(|request| request.method == "GET").collect()
}

/// The id of the user whose token a request carries.
fn user_of(request: &Request) -> u64 {
    let claims = request.authorization().first().and_then(|token| token.split('.').nth(1));
    let claims = URL_SAFE_NO_PAD.decode(claims.expect("a token")).expect("base64");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    claims["attrs"]["id"].as_u64().expect("an id")
}

/// Every request to NPM's pages and API carried one token.
fn assert_none_went_without(npm: &Npm) {
    let requests = npm.requests();
    let without = requests.iter().find(|r| r.method == "GET" && r.authorization().len() != 1);
    assert!(without.is_none(), "{without:?}");
}

/// No token was renewed twice, nor while another renewal of its account was under way.
fn assert_renewed_one_by_one(npm: &Npm) {
    let mut renewals = renewals(npm);
    renewals.sort_by_key(|request| (user_of(request), request.received_at));
    for pair in renewals.windows(2).filter(|pair| user_of(&pair[0]) == user_of(&pair[1])) {
        let used = pair[1].received_at - pair[0].received_at;
        assert!(used > LEAST_USE, "user {} renewed after {used:?}", user_of(&pair[0]));
    }
}

#[test]
fn days_pass_under_load_and_nobody_waits_after_the_first_login() {
    const USERS: usize = 20;
    let npm = npm_with_users(USERS);
    npm.set_token_lifetime(LONG_DAY);
    let nginx = site_with_users(&npm, USERS).workers(4).start();
    let (requests, ()) = assert_nobody_waits(&nginx, USERS, || thread::sleep(2 * LONG_DAY));
    assert!(requests > 1_000, "only {requests} requests");

    assert_eq!(npm.logins(), USERS, "each account logs in once");
    let count = renewals(&npm).len();
    assert!(count >= 2 * USERS, "only {count} renewals");
    assert_none_went_without(&npm);
    assert_renewed_one_by_one(&npm);

    assert_eq!(nginx.log_lines(SIGNED_IN).len(), USERS);
    eventually(SOON, "the last lines", || nginx.log_lines(RENEWED).len() == renewals(&npm).len());
    let line = &nginx.log_lines(RENEWED)[0];
    for part in ["[notice]", "@example.com\"", &npm.url(), " ms, valid for "] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    assert!(nginx.log_lines("[error]").is_empty(), "{:?}", nginx.log_lines("[error]"));
}

#[test]
fn one_worker_renews_for_all_and_no_request_waits_for_a_slow_renewal() {
    let npm = npm_with_users(1);
    npm.set_token_lifetime(LONG_DAY);
    npm.set_renewal_time(Duration::from_millis(150));
    let nginx = site_with_users(&npm, 1).workers(4).start();
    assert_nobody_waits(&nginx, 1, || {
        eventually(3 * LONG_DAY, "renewals", || renewals(&npm).len() >= 2);
        // As long as one takes, and more: a second one would be seen.
        thread::sleep(Duration::from_millis(300));
    });
    assert_renewed_one_by_one(&npm);
    assert_eq!(npm.logins(), 1);
}

#[test]
fn reloads_take_no_renewal_along() {
    const USERS: usize = 5;
    let npm = npm_with_users(USERS);
    npm.set_token_lifetime(LONG_DAY);
    let nginx = site_with_users(&npm, USERS).workers(2).start();
    assert_nobody_waits(&nginx, USERS, || {
        let begun = Instant::now();
        while begun.elapsed() < LONG_DAY {
            nginx.reload();
            thread::sleep(Duration::from_millis(300));
        }
    });
    assert_eq!(npm.logins(), USERS);
    assert!(renewals(&npm).len() >= USERS);
    assert_none_went_without(&npm);
}

#[test]
fn a_renewal_that_npm_refuses_is_followed_by_a_login_that_nobody_waits_for() {
    let npm = npm_with_users(0);
    npm.set_token_lifetime(LONG_DAY);
    let nginx = busy_site(&npm, 2).start();
    let client = nginx.client();
    assert_eq!(status(&client.get(ME)), "miss");
    npm.replace_keys();
    // No request to the API, whose answer would tell that the token is no longer good.
    eventually(2 * LONG_DAY, "a login", || {
        let reply = client.get("/echo");
        assert_eq!((status(&reply), echoed_authorization(&reply).len()), ("hit", 1));
        nginx.log_lines(SIGNED_IN).len() == 2
    });
    assert_eq!((renewals(&npm).len(), npm.logins()), (1, 2));
    let reply = client.get(ME);
    assert_eq!((status(&reply), is_signed_in(&reply)), ("hit", true));
    assert!(nginx.log_lines(FAILED).is_empty());
}

#[test]
fn while_npm_gives_no_other_token_the_old_one_serves_until_shortly_before_it_expires() {
    type Break = fn(&Npm);
    let refuse: Break = |npm| {
        npm.replace_keys();
        npm.set_secret(ADMIN, "another-secret");
    };
    let hang: Break = |npm| {
        npm.set_renewal_time(Duration::from_secs(60));
        npm.fault(Fault::Hang);
    };
    let cases: [(&str, Break); 3] =
        [("down", |npm| npm.stop()), ("hanging", hang), ("refusing", refuse)];
    thread::scope(|scope| {
        for (what, act) in cases {
            scope.spawn(move || try_without_renewal(what, act));
        }
    });
}

fn try_without_renewal(what: &str, act: fn(&Npm)) {
    let (content, npm) = (quick_npm(), npm_with_users(0));
    npm.set_token_lifetime(LONG_DAY);
    let accounts = with_timeout(accounts(&npm), "2s");
    let nginx = busy_site(&content, 2).accounts(&accounts).start();
    let client = nginx.client();
    let begun = Instant::now();
    assert_eq!(status(&client.get("/echo")), "miss", "{what}");
    act(&npm);

    let mut served = Duration::ZERO;
    eventually(2 * LONG_DAY, what, || {
        let asked = begun.elapsed();
        let (reply, denied) = (client.get("/echo"), client.get("/deny/echo"));
        assert!(status(&reply) != "miss", "{what}: {reply:?}");
        if status(&reply) == "hit" {
            served = asked;
            return false;
        }
        assert_eq!((status(&reply), echoed_authorization(&reply).len()), ("error", 0), "{what}");
        assert_eq!((denied.status, status(&denied)), (502, "error"), "{what}");
        true
    });
    assert!(served < LONG_DAY, "{what}: a token was used for {served:?}");
    // Until a tenth of its life is left.
    assert!(served > LONG_DAY * 8 / 10, "{what}: a token was given up after {served:?}");
    let line = nginx.wait_for_log(FAILED, SOON);
    assert!(line.contains("[error]"), "{what}: {line}");
    assert!(content.requests_to("/echo").iter().all(|request| request.authorization().len() <= 1));
}

#[test]
fn npm_that_is_back_is_asked_again_by_itself() {
    let (content, npm) = (quick_npm(), npm_with_users(0));
    npm.set_token_lifetime(LONG_DAY);
    let accounts = with_timeout(accounts(&npm), "2s");
    let nginx = busy_site(&content, 2).accounts(&accounts).start();
    let client = nginx.client();
    assert_eq!(status(&client.get("/echo")), "miss");

    // Before the token has expired: no request notices.
    npm.stop();
    eventually(2 * LONG_DAY, "a renewal that fails", || {
        assert_eq!(status(&client.get("/echo")), "hit");
        !nginx.log_lines(FAILED).is_empty()
    });
    // After it has: until the next try.
    eventually(SOON, "no token", || status(&client.get("/echo")) == "error");
    npm.start_again();
    eventually(SOON, "a token", || status(&client.get("/echo")) != "error");
    let reply = client.get("/echo");
    assert_eq!((status(&reply), echoed_authorization(&reply).len()), ("hit", 1));
    eventually(2 * LONG_DAY, "its renewal", || {
        assert_eq!(status(&client.get("/echo")), "hit");
        nginx.log_lines(RENEWED).len() == 1
    });
}

#[test]
fn the_token_of_an_idle_account_is_not_renewed() {
    let npm = npm_with_users(2);
    npm.set_token_lifetime(LONG_DAY);
    let nginx = site_with_users(&npm, 2).workers(2).start();
    let client = nginx.client();
    for number in [0, 1] {
        assert_eq!(me_as(&client, number).as_ref().map(status).expect("a reply"), "miss");
    }
    npm.forget_requests();
    // Requests of other users, and those that need no token, are not this account's.
    let begun = Instant::now();
    while begun.elapsed() < LONG_DAY + Duration::from_secs(1) {
        me_as(&client, 1).expect("a reply");
        thread::sleep(Duration::from_millis(20));
    }
    let idle = renewals(&npm).into_iter().find(|request| user_of(request) == 2);
    assert!(idle.is_none(), "{idle:?}");
    assert!(!renewals(&npm).is_empty());
    assert_eq!(npm.logins(), 2);
    assert_eq!(me_as(&client, 0).as_ref().map(status).expect("a reply"), "miss");
}

#[test]
fn npm_hears_nothing_from_the_module_while_no_requests_come() {
    let npm = npm_with_users(0);
    let nginx = busy_site(&npm, 2).start();
    assert!(is_signed_in(&nginx.client().get(ME)));
    npm.forget_requests();
    thread::sleep(DAY + Duration::from_secs(1));
    assert!(npm.requests().is_empty(), "{:?}", npm.requests());
    let reply = nginx.client().get(ME);
    assert_eq!((status(&reply), is_signed_in(&reply), npm.logins()), ("miss", true, 2));
}
