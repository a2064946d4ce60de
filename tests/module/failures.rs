//! What becomes of requests when NPM gives no token.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use testbed::nginx::Builder;
use testbed::{closed_port, eventually, Fault, Nginx, Npm, Reply};

use crate::site::*;

/// nginx before `content`, with the logins at `npm`.
fn failing_site(npm: &Npm, content: &Npm) -> Builder {
    site(content).accounts(&accounts(npm).to_string())
}

/// Whether the request went on to NPM without any `Authorization`.
fn went_on_without(reply: &Reply) -> bool {
    status(reply) == "error" && echoed_authorization(reply).is_empty()
}

/// The first request has waited for NPM in vain: it goes on without a token, or not at all, and so
/// do others, at once, without asking NPM again. The log says it once.
fn assert_fails(nginx: &Nginx, npm: &Npm, cause: &str, mend: &str, pause: &str) {
    let client = nginx.client();
    let begun = Instant::now();
    let first = client.get("/echo");
    assert!(went_on_without(&first), "{first:?}");
    assert!(first.time < SOON, "{:?}", first.time);

    let logins = npm.logins();
    for _ in 0..5 {
        let next = client.get("/echo");
        assert!(went_on_without(&next) && next.time < AT_ONCE, "{:?} {next:?}", next.time);
    }
    let denied = client.get("/deny/echo");
    assert_eq!((denied.status, status(&denied)), (502, "error"));
    assert!(denied.time < AT_ONCE, "{:?}", denied.time);
    // A pause of a second may be over meanwhile, on a busy machine, and the next ones, which are longer.
    let again = if pause == "1 s" { begun.elapsed().as_secs() as usize } else { 0 };
    assert!(npm.logins() <= logins + again, "{} logins", npm.logins());

    let lines = nginx.log_lines(FAILED);
    assert!((1..=1 + again).contains(&lines.len()), "{lines:#?}");
    let line = &lines[0];
    let pause = format!("not tried again for {pause}");
    for part in ["[error]", "\"admin@example.com\"", cause, mend, &pause] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
}

/// Without a reload or anything else, requests get tokens again.
fn assert_recovers(nginx: &Nginx, npm: &Npm) {
    let client = nginx.client();
    let logins = npm.logins();
    let mut signed_in = None;
    eventually(SOON, "a token", || {
        let reply = client.get("/echo");
        signed_in = (echoed_authorization(&reply).len() == 1).then_some(reply);
        signed_in.is_some()
    });
    assert_eq!(signed_in.as_ref().map(status), Some("miss"));
    assert_eq!(status(&client.get("/deny/echo")), "hit");
    assert_eq!(npm.logins(), logins + 1);
    assert_eq!(nginx.log_lines(SIGNED_IN).len(), 1);
}

/// A fault from which NPM recovers by itself.
fn try_fault(fault: Fault, cause: &str, mend: &str) {
    let npm = quick_npm();
    try_fault_of(&npm, fault, failing_site(&npm, &npm), cause, mend);
}

/// A fault that lasts longer than nginx waits.
fn try_slowness(fault: Fault) {
    let npm = quick_npm();
    let site = site(&npm).accounts(&with_timeout(accounts(&npm), "1s"));
    try_fault_of(&npm, fault, site, "did not answer within 1s", CHECK_NPM);
}

fn try_fault_of(npm: &Npm, fault: Fault, site: Builder, cause: &str, mend: &str) {
    npm.fault(fault);
    let nginx = site.start();
    assert_fails(&nginx, npm, cause, mend, "1 s");
    assert_ne!(npm.logins(), 0);
    npm.clear_fault();
    assert_recovers(&nginx, npm);
}

/// NPM means it.
fn try_refusal(npm: &Npm, accounts: &str, cause: &str, mend: &str) {
    let nginx = site(npm).accounts(accounts).start();
    assert_fails(&nginx, npm, cause, mend, "60 s");
    assert_eq!(npm.logins(), 1);
}

const CHECK_NPM: &str = "check that NPM runs, and \"api\"";
const CHECK_API: &str = "check that \"api\" is NPM's own address";
const CHECK_ADDRESS: &str = "check that \"api\" is the address of an NPM";
const CHECK_LOG: &str = "look into NPM's own log";
const CHECK_VERSION: &str = "check the clock and the version of NPM";
const CHECK_SECRET: &str = "set the identity and secret of an NPM account";

#[test]
fn npm_that_hangs_is_given_up() {
    try_slowness(Fault::Hang);
}

#[test]
fn npm_that_answers_too_slowly_is_given_up() {
    // Each byte comes in good time.
    try_slowness(Fault::ByteByByte(Duration::from_millis(10)));
}

#[test]
fn npm_that_cannot_answer_now_is_asked_again() {
    try_fault(Fault::Status(500), "answered with status 500", CHECK_LOG);
    try_fault(Fault::Status(503), "answered with status 503", CHECK_LOG);
}

#[test]
fn a_server_without_npms_api_is_told_as_such() {
    try_fault(Fault::Status(404), "answered with status 404", CHECK_API);
}

#[test]
fn an_answer_that_is_not_npms_is_no_token() {
    try_fault(Fault::Garbage, "sent an answer that is not a token", CHECK_ADDRESS);
    try_fault(Fault::NotHttp, "sent an answer that is not a token", CHECK_ADDRESS);
}

#[test]
fn an_empty_answer_is_no_token() {
    try_fault(Fault::EmptyBody, "sent an answer that is not a token", CHECK_ADDRESS);
}

#[test]
fn a_connection_that_breaks_is_no_token() {
    try_fault(Fault::CloseAtOnce, "could not be reached", CHECK_NPM);
    try_fault(Fault::HalfAnswer, "could not be reached", CHECK_NPM);
}

#[test]
fn a_token_without_an_end_is_not_used() {
    try_fault(Fault::NoExpiry, "its token has no \"exp\" claim", CHECK_VERSION);
}

#[test]
fn a_token_that_is_no_jwt_is_not_used() {
    try_fault(Fault::NotJwt, "its token is not a JWT", CHECK_VERSION);
}

#[test]
fn an_answer_of_more_than_64_kib_is_not_read() {
    let cause = "sent an answer larger than 65536 bytes";
    try_fault(Fault::Endless(1_000_000), cause, CHECK_ADDRESS);
    try_fault(Fault::Endless(64 * 1024), cause, CHECK_ADDRESS);
    try_fault(Fault::Endless(60_000), "its token is longer than 2048 bytes", CHECK_VERSION);
}

#[test]
fn a_redirection_is_not_followed() {
    let elsewhere = quick_npm();
    let location = format!("{}/api/tokens", elsewhere.url());
    try_fault(Fault::Redirect(location), "answered with status 302", CHECK_API);
    assert!(elsewhere.requests().is_empty(), "{:?}", elsewhere.requests());
}

#[test]
fn npm_that_is_not_there_is_found_when_it_is() {
    let (npm, content) = (quick_npm(), quick_npm());
    npm.stop();
    let nginx = failing_site(&npm, &content).start();
    assert_fails(&nginx, &npm, "could not be reached", CHECK_NPM, "1 s");
    npm.start_again();
    assert_recovers(&nginx, &npm);
}

#[test]
fn an_unknown_host_is_told_as_such() {
    let npm = quick_npm();
    let accounts = accounts_at("http://npm.invalid:81", &npm.secret(ADMIN));
    let nginx = site(&npm).accounts(&with_timeout(accounts, "2s")).start();
    assert_fails(&nginx, &npm, "NPM at http://npm.invalid:81", CHECK_NPM, "1 s");
}

#[test]
fn a_port_that_speaks_no_tls_is_told_as_such() {
    let npm = quick_npm();
    let url = npm.url().replace("http://", "https://");
    let nginx = site(&npm).accounts(&accounts_at(&url, &npm.secret(ADMIN)).to_string()).start();
    assert_fails(&nginx, &npm, &format!("NPM at {url} could not be"), "\"api\"", "1 s");
}

#[test]
fn a_wrong_secret_is_told_as_such() {
    let npm = quick_npm();
    let accounts = accounts_at(&npm.url(), "wrong-secret").to_string();
    try_refusal(&npm, &accounts, "refused identity and secret", CHECK_SECRET);
}

#[test]
fn whatever_npm_says_with_status_400_is_a_refusal() {
    for fault in [Fault::Status(400), Fault::Echo] {
        let npm = quick_npm();
        npm.fault(fault);
        let accounts = accounts(&npm).to_string();
        try_refusal(&npm, &accounts, "refused identity and secret", CHECK_SECRET);
    }
}

#[test]
fn an_account_with_two_factor_authentication_is_told_as_such() {
    let npm = Npm::builder()
        .two_factor(ADMIN, "admin-secret", testbed::npm::TOTP_SECRET)
        .login_time(Duration::ZERO)
        .start();
    let accounts = accounts(&npm).to_string();
    let mend = "add \"totp_secret\" to the account, or use an NPM account without";
    try_refusal(&npm, &accounts, "asks for a two-factor code", mend);
}

#[test]
fn pauses_between_logins_grow_whichever_worker_is_asked() {
    let npm = quick_npm();
    npm.fault(Fault::CloseAtOnce);
    let nginx = busy(failing_site(&npm, &npm)).workers(4).start();
    let (results, ()) = under_load(4, me, &nginx, || {
        eventually(Duration::from_secs(30), "four logins", || npm.logins() == 4);
    });
    assert!(results.iter().all(|result| result.as_ref().is_ok_and(|r| status(r) == "error")));

    let times: Vec<Instant> =
        npm.requests_to("/api/tokens").iter().map(|r| r.received_at).collect();
    let pauses: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (pause, expected) in pauses.iter().zip([1, 2, 4]) {
        // nginx looks at its clock once in a turn of its event loop. Its own words on how long a
        // pause is follow below: here, a busy machine may take longer.
        assert!(*pause > Duration::from_secs(expected) - Duration::from_millis(100), "{pauses:?}");
    }
    eventually(SOON, "a line for each", || nginx.log_lines(FAILED).len() == 4);
    for (line, pause) in nginx.log_lines(FAILED).iter().zip([1, 2, 4, 8]) {
        assert!(line.ends_with(&format!("not tried again for {pause} s")), "{line}");
    }
}

#[test]
fn a_refused_account_is_left_alone_even_by_other_workers() {
    let npm = quick_npm();
    let accounts = json!({"api": npm.url(), "accounts": [
        {"user": "wrong", "identity": ADMIN, "secret": "wrong-secret"},
        {"user": "totp", "identity": "totp@example.com", "secret": "totp-secret"},
        {"user": "*", "identity": ADMIN, "secret": npm.secret(ADMIN)},
    ]});
    let nginx = busy_site(&npm, 2).accounts(&accounts.to_string()).start();
    let as_user = |user: &'static str| {
        move |client: &testbed::Client| client.request("GET", ME).header("X-User", user).try_send()
    };
    let (wrong, (totp, (others, ()))) = under_load(2, as_user("wrong"), &nginx, || {
        under_load(2, as_user("totp"), &nginx, || {
            under_load(1, me, &nginx, || thread::sleep(Duration::from_secs(3)))
        })
    });
    for reply in wrong.into_iter().chain(totp) {
        assert_eq!(status(&reply.expect("a reply")), "error");
    }
    // The same identity with the right secret is another account.
    assert!(others.iter().all(|result| result.as_ref().is_ok_and(is_signed_in)));
    assert_eq!(npm.logins(), 3);
    assert_eq!(nginx.log_lines(FAILED).len(), 2);
}

#[test]
fn a_corrected_secret_works_from_the_reload_on() {
    let npm = quick_npm();
    let nginx = site(&npm).accounts(&accounts_at(&npm.url(), "wrong").to_string()).start();
    assert_eq!(status(&nginx.client().get(ME)), "error");
    nginx.write_accounts(&accounts(&npm).to_string());
    nginx.reload();
    assert!(is_signed_in(&nginx.client().get(ME)));
}

#[test]
fn npm_restarted_between_logins_is_no_failure() {
    let npm = quick_npm();
    let nginx = site(&npm).start();
    let client = nginx.client();
    assert_eq!(email(&me_with(&client, ADMIN, "admin-secret").send()), ADMIN);
    npm.stop();
    npm.start_again();
    let bob = "bob@example.com";
    assert_eq!(email(&me_with(&client, bob, "bob-secret").send()), bob);
    assert!(nginx.log_lines(FAILED).is_empty());
}

#[test]
fn while_npm_hangs_everything_else_in_the_worker_is_answered_at_once() {
    let npm = quick_npm();
    let nginx = site(&npm).accounts(&with_timeout(accounts(&npm), "60s")).start();
    let client = nginx.client();
    assert!(is_signed_in(&client.get(ME)));

    npm.fault(Fault::Hang);
    let mut waiting = client.connect().expect("a connection");
    let request = "GET /as/ HTTP/1.1\r\nHost: npm\r\nX-Credentials: Basic Ym9iOnNlY3JldA==\r\n\r\n";
    waiting.write_all(request.as_bytes()).expect("a request sent");
    eventually(SOON, "the login", || npm.logins() == 2);
    for _ in 0..50 {
        let (page, cached) = (client.get("/pid"), client.get(ME));
        assert!(page.time < AT_ONCE && cached.time < AT_ONCE, "{:?}", (page.time, cached.time));
        assert_eq!(status(&cached), "hit");
    }
    assert_eq!(under_way(&nginx), 1);
}

#[test]
fn a_token_in_use_outlives_npms_failure() {
    let (npm, content) = (quick_npm(), quick_npm());
    let nginx = failing_site(&npm, &content).start();
    let client = nginx.client();
    assert_eq!(status(&client.get("/echo")), "miss");
    npm.stop();
    for _ in 0..3 {
        let reply = client.get("/echo");
        assert_eq!((status(&reply), echoed_authorization(&reply).len()), ("hit", 1));
    }
}

#[test]
fn a_token_that_ends_while_npm_is_down_is_not_sent() {
    let content = quick_npm();
    let npm =
        Npm::builder().login_time(Duration::ZERO).token_lifetime(Duration::from_secs(2)).start();
    let nginx = failing_site(&npm, &content).start();
    let client = nginx.client();
    let issued = Instant::now();
    assert_eq!(status(&client.get("/echo")), "miss");
    npm.stop();
    eventually(SOON, "the end of the token", || {
        let asked = issued.elapsed();
        let reply = client.get("/echo");
        let sent = !echoed_authorization(&reply).is_empty();
        assert!(!sent || asked < Duration::from_secs(2), "sent after {asked:?}");
        !sent
    });
    assert!(went_on_without(&client.get("/echo")));
    assert_eq!(client.get("/deny/echo").status, 502);
}

#[test]
fn nothing_listens_is_told_as_such() {
    let npm = quick_npm();
    let accounts = accounts_at(&format!("http://127.0.0.1:{}", closed_port()), "secret");
    let nginx = site(&npm).accounts(&accounts.to_string()).start();
    assert_fails(&nginx, &npm, "Connection refused", CHECK_NPM, "1 s");
}
