//! A token that NPM no longer takes is found out by its answers, and replaced.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use serde_json::json;
use testbed::nginx::Builder;
use testbed::{eventually, Client, Nginx, Npm, Release, Reply, Request, Response, Server};

use crate::site::*;
use crate::{token_answer, Elsewhere};

/// What the module logs of a token that NPM refuses.
const NO_LONGER: &str = "npm_token_inject: NPM at";

/// How often NPM is asked at most whether it takes an account's token.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// How long a check that is not to come is waited for.
const A_WHILE: Duration = Duration::from_millis(400);

/// The requests of the module's own, by which it asks NPM whether it takes a token. (By the first
/// one with each token it asks what the account may do.)
fn checks(npm: &Npm) -> Vec<Request> {
    let of_module = |request: &Request| {
        let agent = request.header("User-Agent").unwrap_or_default();
        agent.starts_with("ngx_http_npm_token_inject_module/")
    };
    let mut known = HashSet::new();
    let asked = npm.requests_to(ME).into_iter().filter(of_module);
    asked.filter(|request| !known.insert(request.authorization().concat())).collect()
}

/// A server that answers `/…/STATUS` with that status, in the shape of NPM's errors.
fn answering() -> Server {
    Server::start(None, None, |request, _| {
        let status = request.path.rsplit('/').next().and_then(|status| status.parse().ok());
        answer_of(status.unwrap_or(200)).into()
    })
}

fn answer_of(status: u16) -> Response {
    let body =
        json!({"error": {"code": status, "message": format!("Error \"{status}\" of NPM's")}});
    Response::json(status, body).header("X-Npm", "1").header("X-Npm", "2")
}

/// [`site`], with `/api/` at an NPM that answers as this test wants, where everybody is signed in.
fn site_at(npm: &Elsewhere) -> Nginx {
    let directive = "npm_token_inject accounts.json user=$user trust_headers=on";
    site(&quick_npm())
        .accounts(&accounts_at(&npm.url(), "secret").to_string())
        .location("/api/", &format!("{directive}; proxy_pass {};", npm.url()))
        .start()
}

/// [`site`] with two more locations.
///
/// | location | |
/// |---|---|
/// | `/api/status/STATUS` | an answer of NPM's API with that status |
/// | `/status/STATUS` | one from elsewhere |
fn status_site(npm: &Npm, answering: &Server) -> Builder {
    let directive = "npm_token_inject accounts.json user=$user trust_headers=on";
    let location = format!("{directive}; proxy_pass {};", answering.url());
    site(npm).location("/api/status/", &location).location("/status/", &location)
}

/// An NPM, and nginx before it, signed in.
fn signed_in(workers: usize) -> (Npm, Nginx) {
    let npm = quick_npm();
    let nginx = busy_site(&npm, workers).start();
    assert!(is_signed_in(&nginx.client().get(ME)));
    (npm, nginx)
}

/// Waits until requests are signed in again, all of them by one new login, whatever the worker.
fn assert_signs_in_anew(npm: &Npm, nginx: &Nginx) {
    let client = nginx.client();
    eventually(SOON, "a new token", || client.get(ME).status == 200);
    for clients in clients_by_worker(nginx, 1).values() {
        let reply = clients[0].get(ME);
        assert_eq!((status(&reply), is_signed_in(&reply)), ("hit", true), "{reply:?}");
    }
    assert_eq!((checks(npm).len(), npm.logins()), (1, 2));
    let lines = nginx.log_lines(NO_LONGER);
    let tells = |line: &String| line.contains("[notice]") && line.contains(ADMIN);
    assert!(lines.len() == 1 && lines.iter().all(tells), "{lines:?}");
    assert_eq!(nginx.log_lines(SIGNED_IN).len(), 2);
    assert!(nginx.log_lines(FAILED).is_empty());
}

/// Waits until requests get no token, for NPM refuses the login.
fn assert_is_signed_out(npm: &Npm, nginx: &Nginx) {
    let client = nginx.client();
    eventually(SOON, "no token", || status(&client.get(ME)) == "error");
    for clients in clients_by_worker(nginx, 1).values() {
        let reply = clients[0].get("/echo");
        assert_eq!((status(&reply), echoed_authorization(&reply).len()), ("error", 0));
        assert_eq!(clients[0].get("/deny/echo").status, 502);
    }
    assert_eq!((checks(npm).len(), npm.logins()), (1, 2));
    assert_eq!(nginx.log_lines(NO_LONGER).len(), 1);
    let lines = nginx.log_lines(FAILED);
    let tells = |line: &String| {
        let parts = ["[error]", ADMIN, "refused identity and secret", "not tried again for 60 s"];
        parts.iter().all(|part| line.contains(part))
    };
    assert!(lines.len() == 1 && lines.iter().all(tells), "{lines:?}");
}

#[test]
fn after_npms_keys_are_replaced_one_error_leads_to_a_new_login_for_all_workers() {
    let (npm, nginx) = signed_in(4);
    npm.replace_keys();
    let refused = nginx.client().get(ME);
    assert_eq!((status(&refused), refused.status), ("hit", 500), "{refused:?}");
    assert_signs_in_anew(&npm, &nginx);
}

#[test]
fn a_user_disabled_in_npm_gets_no_token_any_more() {
    let (npm, nginx) = signed_in(2);
    npm.disable(ADMIN);
    let refused = nginx.client().get(ME);
    assert_eq!((status(&refused), refused.status), ("hit", 404), "{refused:?}");
    assert_is_signed_out(&npm, &nginx);
}

#[test]
fn a_user_deleted_from_npm_gets_no_token_any_more() {
    let (npm, nginx) = signed_in(2);
    npm.delete(ADMIN);
    let refused = nginx.client().get("/api/nginx/proxy-hosts");
    assert_eq!((status(&refused), refused.status), ("hit", 404), "{refused:?}");
    assert_is_signed_out(&npm, &nginx);
}

#[test]
fn a_password_changed_in_npm_changes_nothing_while_the_token_is_good() {
    let (npm, nginx) = signed_in(2);
    npm.set_secret(ADMIN, "another-secret");
    let client = nginx.client();
    // Neither by itself, nor when an error has another reason.
    for _ in 0..3 {
        assert!(is_signed_in(&client.get(ME)));
        assert_eq!(client.get("/api/nosuch").status, 404);
    }
    eventually(SOON, "a check", || checks(&npm).len() == 1);
    thread::sleep(A_WHILE);
    let reply = client.get(ME);
    assert_eq!((status(&reply), is_signed_in(&reply), npm.logins()), ("hit", true, 1));
    assert!(nginx.log_lines(NO_LONGER).is_empty());
}

/// An NPM that answers 401 to a token from before a change of password.
fn npm_2_16() -> Npm {
    Npm::builder().release(Release::V2_16).login_time(Duration::ZERO).start()
}

/// That, and nginx before it, signed in.
fn signed_in_to_2_16(workers: usize) -> (Npm, Nginx) {
    let npm = npm_2_16();
    let nginx = busy_site(&npm, workers).start();
    assert!(is_signed_in(&nginx.client().get(ME)));
    (npm, nginx)
}

/// Sends a request whose token NPM answers 401 to, as it does the UI's call. The UI loads its page
/// anew then, which may go to any worker.
fn refuse(nginx: &Nginx) {
    let refused = nginx.client().get(ME);
    assert_eq!((status(&refused), refused.status), ("hit", 401), "{refused:?}");
}

#[test]
fn after_a_changed_password_the_next_request_gets_no_token_that_npm_refuses() {
    let (npm, nginx) = signed_in_to_2_16(4);
    let clients = clients_by_worker(&nginx, 1);
    npm.set_secret(ADMIN, "another-secret");
    refuse(&nginx);
    for clients in clients.values() {
        assert_eq!(status(&clients[0].get("/")), "error");
    }
    assert_is_signed_out(&npm, &nginx);

    // The new one is in the accounts file.
    nginx.write_accounts(&accounts(&npm).to_string());
    nginx.reload();
    assert!(is_signed_in(&nginx.client().get(ME)));
    assert_eq!(npm.logins(), 3);
}

#[test]
fn after_a_changed_password_that_the_accounts_file_has_already_nobody_is_refused() {
    let (npm, nginx) = signed_in_to_2_16(2);
    npm.set_secret(ADMIN, "another-secret");
    nginx.write_accounts(&accounts(&npm).to_string());
    nginx.reload();
    let reply = nginx.client().get(ME);
    assert_eq!((status(&reply), is_signed_in(&reply)), ("miss", true), "{reply:?}");
    assert!(checks(&npm).is_empty());
}

#[test]
fn after_a_changed_password_that_is_the_old_one_again_the_next_request_is_signed_in() {
    let (npm, nginx) = signed_in_to_2_16(4);
    let clients = clients_by_worker(&nginx, 1);
    npm.set_secret(ADMIN, &npm.secret(ADMIN));
    refuse(&nginx);
    for clients in clients.values() {
        assert!(is_signed_in(&clients[0].get(ME)));
    }
    assert_signs_in_anew(&npm, &nginx);
}

#[test]
fn a_refused_token_is_checked_though_another_error_was_a_moment_before() {
    // The check that the other error has led to is answered before the refusal comes, or after.
    for is_late in [false, true] {
        let signer = Npm::start();
        let token = |hours: u64| signer.issue_token(ADMIN, Duration::from_secs(hours * 3600));
        let tokens = [token(1), token(2)];
        let old = format!("Bearer {}", tokens[0]);
        let (logins, times_asked) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (answered, answer) = mpsc::sync_channel(1);
        let answer = Mutex::new(answer);
        let elsewhere = Elsewhere::answering(move |request| {
            let is_old = request.authorization() == [&old];
            match &*request.path {
                "/api/tokens" => token_answer(&tokens[logins.fetch_add(1, Ordering::Relaxed)]),
                // What the account may do; the first check; the second one.
                ME if is_old => match times_asked.fetch_add(1, Ordering::Relaxed) {
                    0 => Response::json(200, json!({"roles": ["admin"]})),
                    1 => {
                        let answer = answer.lock().expect("no other check");
                        answer.recv_timeout(SOON).expect("an answer to be given");
                        Response::json(200, json!({"roles": ["admin"]}))
                    }
                    _ => answer_of(401),
                },
                ME => Response::json(200, json!({"roles": ["admin"]})),
                "/api/refused" if is_old => answer_of(401),
                "/api/refused" => answer_of(200),
                _ => answer_of(404),
            }
        });
        let asked = || elsewhere.requests().iter().filter(|r| r.path == ME).count();
        let nginx = site_at(&elsewhere);
        let client = nginx.client();
        assert_eq!(client.get("/api/nosuch").status, 404);
        eventually(SOON, "a check", || asked() == 2);
        if !is_late {
            answered.send(()).expect("a check");
        }
        let refused = client.get("/api/refused");
        assert_eq!((status(&refused), refused.status), ("hit", 401), "{refused:?}");
        if is_late {
            answered.send(()).expect("a check");
        }
        // By a new token, of which NPM is asked what its account may do.
        let reply = client.get("/api/refused");
        assert_eq!((reply.status, asked()), (200, 4), "late: {is_late}, {reply:?}");
    }
}

#[test]
fn a_token_that_is_refused_while_it_is_renewed_is_followed_by_one_of_a_login() {
    let signer = Npm::start();
    let token = |seconds| signer.issue_token(ADMIN, Duration::from_secs(seconds));
    let [first, renewed, last] = [30, 3600, 7200].map(token);
    let refused = [&first, &renewed].map(|token| format!("Bearer {token}"));
    let logins = AtomicUsize::new(0);
    let (refuse, renewal) = mpsc::sync_channel(1);
    let renewal = Mutex::new(renewal);
    let elsewhere = Elsewhere::answering(move |request| match (&*request.method, &*request.path) {
        ("GET", "/api/tokens") => {
            // Given before the password is changed, and answered after it.
            let renewal = renewal.lock().expect("no other renewal");
            renewal.recv_timeout(SOON).expect("a refusal");
            token_answer(&renewed)
        }
        (_, "/api/tokens") => match logins.fetch_add(1, Ordering::Relaxed) {
            0 => token_answer(&first),
            _ => token_answer(&last),
        },
        (_, ME) => Response::json(200, json!({"roles": ["admin"]})),
        (_, "/api/refused") if refused.iter().any(|r| request.authorization() == [r]) => {
            answer_of(401)
        }
        _ => answer_of(200),
    });
    let nginx = site_at(&elsewhere);
    let client = nginx.client();
    assert_eq!(status(&client.get("/api/x")), "miss");
    let is_renewed = |r: &Request| r.method == "GET" && r.path == "/api/tokens";
    eventually(Duration::from_secs(40), "a renewal", || {
        assert_eq!(status(&client.get("/api/x")), "hit");
        elsewhere.requests().iter().any(is_renewed)
    });
    let reply = client.get("/api/refused");
    assert_eq!((status(&reply), reply.status), ("hit", 401));
    refuse.send(()).expect("a renewal");
    let reply = client.get("/api/refused");
    assert_eq!((status(&reply), reply.status), ("miss", 200));
}

#[test]
fn credentials_that_authentik_hands_over_may_change_with_the_password() {
    let npm = npm_2_16();
    let directive = "npm_token_inject accounts.json user=$user trust_headers=on";
    let location =
        format!("{directive} credentials=$http_x_credentials; proxy_pass {};", npm.url());
    let nginx = site(&npm).location("/api/", &location).start();
    let client = nginx.client();
    let me = |secret: &str| {
        let pair = STANDARD.encode(format!("{BOB}:{secret}"));
        client.request("GET", ME).header("X-Credentials", &format!("Basic {pair}")).send()
    };
    assert_eq!(email(&me("bob-secret")), BOB);
    npm.set_secret(BOB, "another-secret");
    assert_eq!(me("bob-secret").status, 401);
    assert_eq!(status(&me("bob-secret")), "error");
    assert_eq!(email(&me("another-secret")), BOB);
}

#[test]
fn what_a_user_may_not_do_costs_one_check_and_signs_nobody_out() {
    for (release, code) in [(Release::V2_15, 404), (Release::V2_16, 403)] {
        let npm = Npm::builder().release(release).login_time(Duration::ZERO).start();
        let guest = "guest@example.com";
        let accounts = json!({"api": npm.url(), "accounts": [
            {"user": "*", "identity": guest, "secret": npm.secret(guest)},
        ]});
        let nginx = busy_site(&npm, 2).accounts(&accounts.to_string()).start();
        let client = nginx.client();
        assert_eq!(email(&client.get(ME)), guest);
        let begun = Instant::now();
        for _ in 0..50 {
            let denied = client.get("/api/users");
            assert_eq!((denied.status, status(&denied)), (code, "hit"));
            let reply = client.get(ME);
            assert_eq!((status(&reply), email(&reply).as_str()), ("hit", guest));
        }
        eventually(SOON, "a check", || !checks(&npm).is_empty());
        let most = 1 + (begun.elapsed().as_secs() / CHECK_INTERVAL.as_secs()) as usize;
        assert!(checks(&npm).len() <= most, "{} checks", checks(&npm).len());
        assert_eq!(npm.logins(), 1);
        assert!(nginx.log_lines(NO_LONGER).is_empty());
    }
}

#[test]
fn an_npm_that_refuses_every_token_is_not_asked_for_one_after_the_other() {
    let issued = Npm::start().issue_token(ADMIN, Duration::from_secs(3600));
    let elsewhere = Elsewhere::answering(move |request| match (&*request.method, &*request.path) {
        ("POST", "/api/tokens") => token_answer(&issued),
        _ => answer_of(401),
    });
    let nginx = site_at(&elsewhere);
    let client = nginx.client();
    let statuses: Vec<String> = (0..3).map(|_| status(&client.get("/api/x")).to_owned()).collect();
    // The second one has waited for the second login, or has come after it.
    assert!(matches!(&statuses[1][..], "miss" | "hit"), "{statuses:?}");
    assert_eq!((&*statuses[0], &*statuses[2]), ("miss", "error"));
    let logins = elsewhere.requests().iter().filter(|r| r.path == "/api/tokens").count();
    assert_eq!(logins, 2);
    nginx.wait_for_log("NPM at", SOON);
    let lines = nginx.log_lines(FAILED);
    assert!(lines.len() == 1 && lines[0].contains("does not take the token"), "{lines:?}");
}

#[test]
fn the_ui_that_holds_a_marker_is_told_when_there_is_no_token() {
    for release in Release::ALL {
        let npm = Npm::builder().release(release).login_time(Duration::ZERO).start();
        let directive = "npm_token_inject accounts.json user=$user trust_headers=on browser=off";
        let off = format!("{directive}; proxy_pass {}/api/;", npm.url());
        let nginx = busy_site(&npm, 2).location("/api/off/", &off).start();
        let client = nginx.client();
        let ask = |method: &str, path: &str, authorization: Option<&str>| {
            let request = client.request(method, path);
            let request = authorization.iter().fold(request, |r, a| r.header("Authorization", a));
            request.send()
        };
        let marker = Some("Bearer npm-token-inject-x");
        assert!(is_signed_in(&ask("GET", ME, marker)));
        npm.disable(ADMIN);
        eventually(SOON, "no token", || status(&ask("GET", ME, None)) == "error");

        for (method, path) in
            [("GET", ME), ("GET", "/api/tokens"), ("GET", "/api/users"), ("POST", "/api/users")]
        {
            let own = ask(method, path, None);
            assert!(matches!(own.status, 400..=404 | 500) && own.status != 401, "{own:?}");
            let told = ask(method, path, marker);
            assert_eq!((told.status, status(&told)), (401, "error"), "{method} {path}");
            assert_eq!(told.body, own.body);
        }
        // Who signs in by hand is told what NPM says, and so is whoever else asks.
        for other in [None, Some("Bearer null"), Some("Basic x")] {
            assert_ne!(ask("GET", "/api/users", other).status, 401);
            assert_eq!(ask("POST", "/api/tokens", other).status, 400);
        }
        assert_ne!(ask("GET", "/api/off/users", marker).status, 401);
    }
}

#[test]
fn npms_clock_may_be_minutes_off() {
    for offset in [-300, 300] {
        let npm = quick_npm();
        npm.clock_offset(offset);
        let nginx = busy_site(&npm, 2).start();
        let client = nginx.client();
        for expected in ["miss", "hit", "hit"] {
            let reply = client.get(ME);
            assert_eq!((status(&reply), is_signed_in(&reply)), (expected, true), "{offset} s");
        }
        thread::sleep(A_WHILE);
        assert_eq!((checks(&npm).len(), npm.logins()), (0, 1), "{offset} s");

        // A check finds the token good.
        assert_eq!(client.get("/api/nosuch").status, 404);
        eventually(SOON, "a check", || checks(&npm).len() == 1);
        thread::sleep(A_WHILE);
        let reply = client.get(ME);
        assert_eq!((status(&reply), is_signed_in(&reply), npm.logins()), ("hit", true, 1));
    }
}

#[test]
fn npms_clock_may_be_set_while_tokens_are_in_use() {
    let (npm, nginx) = signed_in(2);
    for offset in [300, -300] {
        npm.clock_offset(offset);
        let reply = nginx.client().get(ME);
        assert_eq!((status(&reply), is_signed_in(&reply)), ("hit", true), "{offset} s");
    }
    assert_eq!((checks(&npm).len(), npm.logins()), (0, 1));

    // By more than the token has left to live.
    npm.clock_offset(2 * 24 * 60 * 60);
    let refused = nginx.client().get(ME);
    assert_eq!((status(&refused), refused.status), ("hit", 400), "{refused:?}");
    assert_signs_in_anew(&npm, &nginx);
}

#[test]
fn many_errors_lead_to_one_check_in_ten_seconds() {
    let npm = quick_npm();
    let nginx = busy_site(&npm, 4).start();
    let not_found = |client: &Client| client.request("GET", "/api/nosuch").try_send();
    assert!(is_signed_in(&nginx.client().get(ME)));
    let begun = Instant::now();
    let (results, ()) = under_load(4, not_found, &nginx, || {
        eventually(SOON, "a check", || checks(&npm).len() == 1);
        eventually(2 * CHECK_INTERVAL, "another one", || checks(&npm).len() > 1);
        thread::sleep(Duration::from_secs(1));
    });
    assert!(begun.elapsed() > CHECK_INTERVAL && results.len() > 500, "{} requests", results.len());
    for result in results {
        let reply = result.expect("a reply");
        assert_eq!((reply.status, status(&reply)), (404, "hit"), "{reply:?}");
    }
    let checks = checks(&npm);
    assert_eq!((checks.len(), npm.logins()), (2, 1));
    let apart = checks[1].received_at - checks[0].received_at;
    // NPM may have received the first later after it was sent than the second.
    assert!(apart > CHECK_INTERVAL - AT_ONCE, "{apart:?}");
}

#[test]
fn the_errors_by_which_npm_refuses_a_token_lead_to_a_check_and_no_others_do() {
    let answering = answering();
    for (code, is_doubt) in [
        (400, true),
        (401, true),
        (403, true),
        (404, true),
        (500, true),
        (200, false),
        (201, false),
        (302, false),
        (304, false),
        (405, false),
        (413, false),
        (429, false),
        (502, false),
        (503, false),
        (504, false),
    ] {
        let npm = quick_npm();
        let nginx = status_site(&npm, &answering).start();
        let client = nginx.client();
        let reply = client.get(&format!("/api/status/{code}"));
        assert_eq!((reply.status, status(&reply)), (code, "miss"));
        if is_doubt {
            eventually(SOON, &format!("a check after {code}"), || checks(&npm).len() == 1);
        }
        thread::sleep(A_WHILE / 4);
        assert_eq!(checks(&npm).len(), usize::from(is_doubt), "{code}");
        assert!(is_signed_in(&client.get(ME)));
        assert_eq!(npm.logins(), 1, "{code}");
    }
}

#[test]
fn an_error_reaches_the_client_as_npm_sent_it() {
    let (npm, answering) = (quick_npm(), answering());
    let nginx = status_site(&npm, &answering).start();
    for code in [400, 404, 500, 502] {
        let target = format!("/api/status/{code}");
        let direct = Client::new(&answering.url()).get(&target);
        let through = nginx.client().get(&target);
        assert_eq!((through.status, through.text()), (code, direct.text()));
        for name in ["Content-Type", "Content-Length", "X-Npm"] {
            assert_eq!(through.headers.all(name), direct.headers.all(name), "{name}");
        }
    }
}

#[test]
fn errors_of_pages_raise_no_doubt() {
    let (npm, answering) = (quick_npm(), answering());
    let nginx = status_site(&npm, &answering).start();
    let client = nginx.client();
    for code in [400, 404, 500] {
        assert_eq!(client.get(&format!("/status/{code}")).status, code);
    }
    thread::sleep(A_WHILE);
    assert!(checks(&npm).is_empty());
    assert_eq!(client.get("/api/status/404").status, 404);
    eventually(SOON, "a check", || checks(&npm).len() == 1);
}

#[test]
fn errors_of_a_clients_own_token_raise_no_doubt() {
    let (npm, nginx) = signed_in(1);
    let client = nginx.client();
    let own = npm.issue_token("guest@example.com", Duration::from_secs(3600));
    let get = |target: &str| client.request("GET", target).bearer(&own).send();
    let reply = get("/api/nosuch");
    assert_eq!((reply.status, status(&reply)), (404, "kept"));
    npm.replace_keys();
    let reply = get("/api/users");
    assert_eq!((reply.status, status(&reply)), (500, "kept"));
    thread::sleep(A_WHILE);
    assert_eq!((checks(&npm).len(), npm.logins()), (0, 1));
}

#[test]
fn errors_of_requests_without_a_token_raise_no_doubt() {
    let (npm, nginx) = signed_in(1);
    let client = nginx.client();
    let request = client.request("GET", ME).header("Sec-Fetch-Site", "cross-site");
    let reply = request.header("Sec-Fetch-Mode", "cors").send();
    assert_eq!((reply.status, status(&reply)), (500, "cross_site"));
    thread::sleep(A_WHILE);
    assert!(checks(&npm).is_empty());
}

#[test]
fn a_doubt_about_one_account_is_none_about_another() {
    let npm = quick_npm();
    let account = |user: &str, identity: &str| json!({"user": user, "identity": identity, "secret": npm.secret(identity)});
    let accounts = json!({"api": npm.url(), "accounts": [
        account("akadmin", ADMIN),
        account("guest", "guest@example.com"),
    ]});
    let nginx = busy_site(&npm, 2).accounts(&accounts.to_string()).start();
    let client = nginx.client();
    let me_as = |user: &str| client.request("GET", ME).header("X-User", user).send();
    assert_eq!(email(&me_as("akadmin")), ADMIN);
    assert_eq!(email(&me_as("guest")), "guest@example.com");
    npm.disable("guest@example.com");
    assert_eq!(me_as("guest").status, 404);
    eventually(SOON, "no token", || status(&me_as("guest")) == "error");
    let reply = me_as("akadmin");
    assert_eq!((status(&reply), email(&reply).as_str()), ("hit", ADMIN));
    assert_eq!((checks(&npm).len(), npm.logins()), (1, 3));
}

#[test]
fn a_token_that_npm_cannot_be_asked_about_is_kept() {
    let (npm, answering) = (quick_npm(), answering());
    let nginx = status_site(&npm, &answering).start();
    let client = nginx.client();
    assert_eq!(status(&client.get("/api/status/200")), "miss");
    npm.stop();
    assert_eq!(client.get("/api/status/500").status, 500);
    thread::sleep(A_WHILE);
    npm.start_again();
    let reply = client.get(ME);
    assert_eq!((status(&reply), is_signed_in(&reply), npm.logins()), ("hit", true, 1));
    assert!(nginx.log_lines(FAILED).is_empty() && nginx.log_lines(NO_LONGER).is_empty());
}

#[test]
fn a_check_that_npm_answers_with_an_error_of_its_own_says_nothing_of_the_token() {
    let issued = Npm::start().issue_token(ADMIN, Duration::from_secs(3600));
    for code in [502, 503, 504, 429] {
        // An NPM that logs in, and is otherwise overloaded.
        let answer = token_answer(&issued);
        let elsewhere =
            Elsewhere::answering(move |request| match (&*request.method, &*request.path) {
                ("POST", "/api/tokens") => answer.clone(),
                (_, ME) => answer_of(code),
                _ => answer_of(404),
            });
        let nginx = site_at(&elsewhere);
        let client = nginx.client();
        assert_eq!(status(&client.get("/api/x")), "miss");
        let count = |path: &str| elsewhere.requests().iter().filter(|r| r.path == path).count();
        // The account's role has been asked for before.
        eventually(SOON, "a check", || count(ME) == 2);
        thread::sleep(A_WHILE);
        let reply: Reply = client.get("/api/x");
        assert_eq!((reply.status, status(&reply), count("/api/tokens")), (404, "hit", 1), "{code}");
    }
}
