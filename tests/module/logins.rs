//! Logging in to NPM, and the tokens that all workers share.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{json, Value};
use testbed::client::RequestBuilder;
use testbed::nginx::Builder;
use testbed::{eventually, Client, Fault, Nginx, Npm, Reply, Tls};

use crate::site::*;

/// Lets this process have many connections open, as many as the system does.
fn raise_file_limit() {
    // SAFETY: both calls read or write the structure, which lives as long as they do.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
    }
}

/// A request to [`ME`] for the user of that number.
fn me_as(client: &Client, number: usize) -> RequestBuilder<'_> {
    client.request("GET", ME).header("X-User", &identity(number))
}

fn identity(number: usize) -> String {
    format!("user{number}@example.com")
}

/// An NPM with that many users besides the administrator.
fn npm_with_users(count: usize) -> testbed::npm::Builder {
    let npm = Npm::builder().administrator(ADMIN, "admin-secret");
    (0..count).fold(npm, |npm, n| npm.user(&identity(n), &format!("secret{n}")))
}

/// A site where each of NPM's users has an account.
fn site_with_users(npm: &Npm, count: usize) -> Builder {
    let account =
        |n| json!({"user": identity(n), "identity": identity(n), "secret": format!("secret{n}")});
    let accounts: Vec<Value> = (0..count).map(account).collect();
    site(npm).accounts(&json!({"api": npm.url(), "accounts": accounts}).to_string())
}

#[test]
fn a_thousand_cold_requests_at_once_lead_to_exactly_one_login() {
    const COUNT: usize = 1_000;
    raise_file_limit();
    let npm = quick_npm();
    npm.fault(Fault::Hold);
    let nginx = busy_site(&npm, 4)
        .main("worker_rlimit_nofile 4096;")
        .accounts(&with_timeout(accounts(&npm), "30s"))
        .start();

    let client = nginx.client();
    let mut streams: Vec<_> = (0..COUNT).map(|_| client.connect().expect("a connection")).collect();
    let request = format!("GET {ME} HTTP/1.1\r\nHost: npm\r\nConnection: close\r\n\r\n");
    for stream in &mut streams {
        stream.write_all(request.as_bytes()).expect("a request sent");
    }
    wait_until_under_way(&nginx, COUNT);
    npm.clear_fault();

    for (number, mut stream) in streams.into_iter().enumerate() {
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("a reply");
        let is_right = reply.starts_with("HTTP/1.1 200")
            && reply.contains("X-Status: miss\r\n")
            && reply.contains(ADMIN);
        assert!(is_right, "request {number}: {reply}");
    }
    assert_eq!(npm.logins(), 1);
    assert_eq!(nginx.log_lines(SIGNED_IN).len(), 1);
}

#[test]
fn after_the_first_request_every_worker_has_the_token() {
    let npm = quick_npm();
    let nginx = busy_site(&npm, 4).start();
    let first = nginx.client().get(ME);
    assert_eq!((status(&first), is_signed_in(&first)), ("miss", true));
    for clients in clients_by_worker(&nginx, 1).values() {
        let reply = clients[0].get(ME);
        assert_eq!((status(&reply), is_signed_in(&reply)), ("hit", true));
    }
    assert_eq!(npm.logins(), 1);
}

#[test]
fn many_accounts_at_once_log_in_once_each() {
    const ACCOUNTS: usize = 20;
    let npm = npm_with_users(ACCOUNTS).login_time(Duration::from_millis(20)).start();
    let nginx = busy(site_with_users(&npm, ACCOUNTS)).workers(4).start();
    thread::scope(|scope| {
        for number in 0..ACCOUNTS * 8 {
            let client = nginx.client();
            scope.spawn(move || {
                let number = number % ACCOUNTS;
                assert_eq!(email(&me_as(&client, number).send()), identity(number));
            });
        }
    });
    assert_eq!(npm.logins(), ACCOUNTS);
}

/// Sends steady requests until `npm` has given that many tokens, at logins or for older ones.
/// Returns the replies to those who were not signed in.
fn refused_during(npm: &Npm, tokens: usize) -> Vec<io::Result<Reply>> {
    let nginx = busy_site(npm, 2).start();
    let (mut results, ()) = under_load(2, me, &nginx, || {
        let given = || npm.requests_to("/api/tokens").len();
        eventually(Duration::from_secs(60), "new tokens", || given() > tokens);
    });
    assert!(results.len() > 100, "only {} requests", results.len());
    results.retain(|result| !result.as_ref().is_ok_and(is_signed_in));
    results
}

#[test]
fn no_expired_token_ever_reaches_npm() {
    let npm = Npm::builder()
        .login_time(Duration::from_millis(50))
        .token_lifetime(Duration::from_secs(8))
        .start();
    let refused = refused_during(&npm, 2);
    assert!(refused.is_empty(), "{} requests: {:?}", refused.len(), refused[0]);
    // Nor did a request go without one, nor was a token used for less than half of its life.
    let requests = npm.requests();
    assert!(requests.iter().filter(|r| r.path == ME).all(|r| r.authorization().len() == 1));
    for pair in npm.requests_to("/api/tokens").windows(2) {
        let used = pair[1].received_at - pair[0].received_at;
        assert!(used >= Duration::from_secs(4), "a token was used for {used:?}");
    }
}

#[test]
fn an_npm_whose_clock_is_minutes_ahead_or_behind_is_no_trouble() {
    thread::scope(|scope| {
        for offset in [-600, 600] {
            scope.spawn(move || {
                let npm = Npm::builder()
                    .login_time(Duration::ZERO)
                    .token_lifetime(Duration::from_secs(8))
                    .start();
                npm.clock_offset(offset);
                let refused = refused_during(&npm, 2);
                assert!(refused.is_empty(), "{offset} s: {refused:?}");
            });
        }
    });
}

#[test]
fn a_changed_secret_makes_a_new_login_after_the_reload() {
    let npm = quick_npm();
    let nginx = site(&npm).start();
    assert!(is_signed_in(&nginx.client().get(ME)));
    npm.set_secret(ADMIN, "another-secret");
    nginx.write_accounts(&accounts(&npm).to_string());
    nginx.reload();
    let reply = nginx.client().get(ME);
    assert_eq!((status(&reply), is_signed_in(&reply)), ("miss", true));
    assert_eq!(npm.logins(), 2);
    let sent = String::from_utf8(npm.requests_to("/api/tokens")[1].body.clone()).expect("JSON");
    assert!(sent.contains("another-secret"), "{sent}");
}

#[test]
fn a_changed_secret_file_makes_a_new_login_after_the_reload() {
    let npm = quick_npm();
    let accounts = json!({
        "api": npm.url(),
        "accounts": [{"user": "*", "identity": ADMIN, "secret_file": "npm.secret"}],
    });
    let secret_file = format!("{}\n", npm.secret(ADMIN));
    let nginx = site(&npm).accounts(&accounts.to_string()).file("npm.secret", secret_file).start();
    assert!(is_signed_in(&nginx.client().get(ME)));
    npm.set_secret(ADMIN, "another-secret");
    nginx.write_file("npm.secret", "another-secret\n");
    nginx.reload();
    let reply = nginx.client().get(ME);
    assert_eq!((status(&reply), is_signed_in(&reply), npm.logins()), ("miss", true, 2));
}

#[test]
fn tokens_outlive_a_reload() {
    let npm = quick_npm();
    let nginx = site(&npm).workers(2).start();
    assert!(is_signed_in(&nginx.client().get(ME)));
    for _ in 0..3 {
        nginx.reload();
        let reply = nginx.client().get(ME);
        assert_eq!((status(&reply), is_signed_in(&reply)), ("hit", true));
    }
    assert_eq!(npm.logins(), 1);
}

#[test]
fn the_connection_to_npm_is_kept_between_logins() {
    let npm = npm_with_users(3).login_time(Duration::ZERO).start();
    let nginx = site_with_users(&npm, 3).start();
    let client = nginx.client();
    for number in 0..3 {
        assert_eq!(email(&me_as(&client, number).send()), identity(number));
    }
    let connections: Vec<u64> =
        npm.requests_to("/api/tokens").iter().map(|request| request.connection).collect();
    assert_eq!(connections, [connections[0]; 3]);
}

#[test]
fn a_client_that_leaves_is_forgotten_at_once_and_its_login_goes_on() {
    let npm = quick_npm();
    npm.fault(Fault::Hold);
    let nginx = site(&npm).start();
    let mut leaving = nginx.client().connect().expect("a connection");
    write!(leaving, "GET /gone HTTP/1.1\r\nHost: npm\r\n\r\n").expect("a request sent");
    eventually(SOON, "the login", || npm.logins() == 1);
    drop(leaving);
    wait_until_under_way(&nginx, 0);
    eventually(SOON, "its line", || nginx.access_log().contains("\"GET /gone HTTP/1.1\" 499"));

    npm.clear_fault();
    nginx.wait_for_log(SIGNED_IN, SOON);
    let reply = nginx.client().get(ME);
    assert_eq!((status(&reply), is_signed_in(&reply), npm.logins()), ("hit", true, 1));
    assert!(npm.requests_to("/gone").is_empty());
}

#[test]
fn a_client_that_leaves_does_not_take_the_login_from_those_who_stay() {
    let npm = quick_npm();
    npm.fault(Fault::Hold);
    let nginx = site(&npm).start();
    let mut leaving = nginx.client().connect().expect("a connection");
    write!(leaving, "GET / HTTP/1.1\r\nHost: npm\r\n\r\n").expect("a request sent");
    wait_until_under_way(&nginx, 1);
    thread::scope(|scope| {
        let staying = scope.spawn(|| nginx.client().get(ME));
        wait_until_under_way(&nginx, 2);
        drop(leaving);
        wait_until_under_way(&nginx, 1);
        npm.clear_fault();
        let reply = staying.join().expect("a reply");
        assert_eq!((status(&reply), is_signed_in(&reply)), ("miss", true));
    });
    assert_eq!(npm.logins(), 1);
}

#[test]
fn requests_whose_time_is_up_go_on_by_on_error() {
    let npm = quick_npm();
    npm.fault(Fault::Hang);
    let accounts = with_timeout(accounts(&npm), "300ms");
    let nginx = busy_site(&npm, 2).accounts(&accounts).start();
    thread::scope(|scope| {
        for clients in clients_by_worker(&nginx, 2).into_values() {
            for (client, target) in clients.into_iter().zip(["/echo", "/deny/echo"]) {
                scope.spawn(move || {
                    let reply = client.get(target);
                    assert!(reply.time < SOON, "{target}: {:?}", reply.time);
                    assert_eq!(status(&reply), "error");
                    if target == "/echo" {
                        assert!(echoed_authorization(&reply).is_empty());
                    } else {
                        assert_eq!(reply.status, 502);
                    }
                });
            }
        }
    });
    assert_eq!(npm.requests_to("/echo").len(), 2);
}

#[test]
fn an_answer_that_comes_in_pieces_within_the_timeout_is_taken() {
    let npm = quick_npm();
    npm.fault(Fault::ByteByByte(Duration::from_micros(200)));
    let nginx = site(&npm).start();
    assert!(is_signed_in(&nginx.client().get(ME)));
}

/// nginx before an NPM that is reached by https for its logins, with that `ca_file` for them.
fn site_with_https(npm: &Npm, content: &Npm, ca_file: Option<&str>) -> Nginx {
    let mut accounts = accounts(npm);
    if ca_file.is_some() {
        accounts["ca_file"] = "ca.pem".into();
    }
    let accounts = accounts.to_string();
    site(content).accounts(&accounts).file("ca.pem", ca_file.unwrap_or_default()).start()
}

#[test]
fn an_npm_behind_https_is_trusted_by_ca_file() {
    let (tls, content) = (Arc::new(Tls::localhost()), quick_npm());
    let npm = Npm::builder().login_time(Duration::ZERO).tls(&tls).start();
    let nginx = site_with_https(&npm, &content, Some(tls.ca_pem()));
    let reply = nginx.client().get("/echo");
    assert_eq!((status(&reply), echoed_authorization(&reply).len()), ("miss", 1));
    assert_eq!(npm.logins(), 1);
}

#[test]
fn an_npm_behind_https_that_cannot_be_trusted_gets_no_secret_and_the_log_names_ca_file() {
    let (right, other) = (Tls::localhost(), Tls::localhost());
    let wrong_name = Tls::for_names(&["npm.example.com"]);
    let wrong_name_ca = wrong_name.ca_pem().to_owned();
    let right = Arc::new(right);
    let cases = [
        ("another authority", right.clone(), Some(other.ca_pem())),
        ("no ca_file", right, None),
        ("another name", Arc::new(wrong_name), Some(wrong_name_ca.as_str())),
    ];
    for (what, tls, ca_file) in cases {
        let content = quick_npm();
        let npm = Npm::builder().login_time(Duration::ZERO).tls(&tls).start();
        let nginx = site_with_https(&npm, &content, ca_file);
        let reply = nginx.client().get("/echo");
        assert_eq!((status(&reply), echoed_authorization(&reply).len()), ("error", 0), "{what}");
        assert_eq!(npm.logins(), 0, "{what}");
        let lines = nginx.log_lines(FAILED);
        let tells = |line: &String| {
            line.contains("could not be trusted") && line.contains("set \"ca_file\"")
        };
        assert!(lines.len() == 1 && lines.iter().all(tells), "{what}: {lines:?}");
    }
}
