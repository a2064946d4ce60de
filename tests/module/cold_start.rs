//! An accounts file that cannot be used. Whoever is there to see it is told, and nothing changes; an
//! nginx that starts, as in a container, starts all the same, and signs nobody in.

use std::process::Command;
use std::time::Duration;

use testbed::nginx::{binary, Builder};
use testbed::{Nginx, Npm, Outpost, Visitor};

use crate::page::{navigation, scripts_in};
use crate::site::*;

/// What each accounts file is, and what is said of it.
fn broken(npm: &Npm) -> Vec<(String, &'static str)> {
    let with = |key: &str, value: &str| {
        let mut file = accounts(npm);
        file[key] = value.into();
        file.to_string()
    };
    let with_account = |fields: &str| format!(r#"{{"accounts": [{{"user": "*", {fields}}}]}}"#);
    vec![
        (String::new(), "EOF while parsing a value at line 1 column 0"),
        (r#"{"accounts": ["#.to_owned(), "EOF while parsing a list at line 1 column 14"),
        (with("acounts", "x"), "unknown field `acounts`"),
        (with("timeout", "an hour"), "timeout \"an hour\" is not a time"),
        (with("ca_file", "missing.pem"), "cannot use ca_file"),
        (with_account(r#""identity": "i", "secret_file": "missing""#), "cannot read secret_file"),
        (with_account(r#""identity": "i""#), "exactly one of \"secret\" and \"secret_file\""),
    ]
}

const STARTS: &str = "which starts all the same: nobody is signed in by the directive in";

/// What the log says of it; nginx says it to who starts it as well.
fn told_at_start(nginx: &Nginx) -> Vec<String> {
    let mut lines = nginx.log_lines(STARTS);
    lines.retain(|line| !line.starts_with("nginx: "));
    lines
}

#[test]
fn an_nginx_that_starts_serves_all_else_and_signs_nobody_in() {
    let npm = quick_npm();
    let own = npm.issue_token(ADMIN, Duration::from_secs(3600));
    for (file, why) in broken(&npm) {
        let site = site(&npm).accounts(&file);
        let test = site.test();
        assert!(!test.ok && test.output.contains(why) && !test.output.contains(STARTS), "{test:?}");

        let nginx = site.start();
        let lines = told_at_start(&nginx);
        // One for each of the three directives.
        assert_eq!(lines.len(), 3, "{lines:#?}");
        for part in ["[emerg]", why, "nginx.conf:"] {
            assert!(lines.iter().all(|line| line.contains(part)), "{part:?} is not in {lines:#?}");
        }
        let client = nginx.client();
        assert_eq!(client.get("/pid").status, 200);
        for path in ["/echo", "/as/echo"] {
            let request = || client.request("GET", path).header("X-Credentials", "Basic YTpi");
            let plain = request().send();
            assert_eq!(status(&plain), "error");
            assert!(echoed_authorization(&plain).is_empty());
            // What is no token of NPM's is removed, and a login made by hand works.
            let other = request().header("Authorization", "Basic YTpi").send();
            assert!(echoed_authorization(&other).is_empty());
            let by_hand = request().bearer(&own).send();
            assert_eq!(status(&by_hand), "kept");
            assert_eq!(echoed_authorization(&by_hand), [format!("Bearer {own}")]);
        }
        npm.forget_requests();
        for user in ["akadmin", "nobody"] {
            let request = || client.request("GET", "/deny/echo").header("X-User", user);
            for denied in [request().send(), request().bearer(&own).send()] {
                assert_eq!((denied.status, status(&denied)), (502, "error"));
            }
        }
        assert!(npm.requests().is_empty());
        assert_eq!(npm.logins(), 0);
        let told = nginx.log_lines("could not be used when nginx started");
        assert!(told.len() == 1 && told[0].contains("nginx.conf:"), "{told:#?}");
    }
}

#[test]
fn an_accounts_file_that_is_missing_at_the_start_takes_nothing_down_and_may_come_later() {
    let npm = quick_npm();
    let missing = "npm_token_inject missing.json user=$user trust_headers=on;";
    let nginx =
        site(&npm).location("/missing/", &format!("{missing} proxy_pass {}/;", npm.url())).start();
    let client = nginx.client();
    assert_eq!(status(&client.get("/echo")), "miss");
    assert_eq!(status(&client.get("/missing/echo")), "error");
    let lines = told_at_start(&nginx);
    assert!(lines.len() == 1 && lines[0].contains("create it"), "{lines:#?}");

    nginx.write_file("missing.json", accounts(&npm).to_string());
    nginx.reload();
    assert_eq!(status(&nginx.client().get("/missing/echo")), "hit");
}

#[test]
fn a_reload_with_a_broken_accounts_file_changes_nothing() {
    let npm = quick_npm();
    let nginx = site(&npm).start();
    assert_eq!(status(&nginx.client().get("/echo")), "miss");
    let workers = nginx.worker_pids();
    for (n, (file, why)) in broken(&npm).into_iter().enumerate() {
        nginx.write_accounts(&file);
        nginx.signal(libc::SIGHUP);
        nginx.wait_for_log(why, SOON);

        // `nginx -s` reads the configuration too, and sends nothing.
        let mut command = Command::new(binary());
        command.current_dir(nginx.dir()).arg("-p").arg(nginx.dir());
        command.args(["-c", "nginx.conf", "-e", "error.log", "-s", "reload"]);
        let output = command.output().expect("nginx");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{n}: {said}");
        assert_eq!(nginx.worker_pids(), workers);
        assert_eq!(status(&nginx.client().get("/echo")), "hit");
    }
    assert!(nginx.log_lines(STARTS).is_empty());
}

#[test]
fn after_such_a_start_a_reload_is_refused_until_the_file_is_mended_and_then_signs_in() {
    let npm = quick_npm();
    let nginx = site(&npm).accounts("{").start();
    let workers = nginx.worker_pids();
    nginx.write_accounts("{}");
    nginx.signal(libc::SIGHUP);
    nginx.wait_for_log("missing field `accounts`", SOON);
    assert_eq!(nginx.worker_pids(), workers);
    assert_eq!(status(&nginx.client().get("/echo")), "error");

    nginx.write_accounts(&accounts(&npm).to_string());
    nginx.reload();
    assert!(is_signed_in(&nginx.client().get(ME)));
    assert_eq!(nginx.client().get(&format!("/deny{ME}")).status, 200);
}

#[test]
fn a_single_process_starts_all_the_same() {
    let npm = quick_npm();
    let nginx = site(&npm).accounts("{").single_process().start();
    assert_eq!(nginx.client().get("/pid").status, 200);
    assert_eq!(nginx.client().get("/deny/echo").status, 502);
}

/// A new binary (SIGUSR2) finds its sockets by this variable. Where it does not start, the old one
/// serves on.
#[test]
fn a_new_binary_beside_a_running_one_is_refused() {
    let npm = quick_npm();
    let inherits = |site: Builder| site.run_by(&["env", "NGINX=0;"]);
    let log = inherits(site(&npm).accounts("{")).try_start().err().unwrap_or_default();
    assert!(log.contains("EOF while parsing") && !log.contains(STARTS), "{log}");
}

#[test]
fn a_mistake_in_the_directive_itself_is_refused_at_the_start_too() {
    let npm = quick_npm();
    let site = site(&npm).location("/more/", "npm_token_inject accounts.json on_error=deni;");
    let log = site.try_start().err().unwrap_or_default();
    assert!(log.contains("invalid value \"deni\""), "{log}");
}

/// The proxy host of NPM's own UI, as the README sets it up.
#[test]
fn the_ui_shows_npms_login_page_and_whom_authentik_does_not_know_is_asked_to_sign_in() {
    let (npm, outpost) = (quick_npm(), Outpost::start());
    let nginx = testbed::npm_proxy_host(&outpost, &npm).accounts("{}").start();
    let client = nginx.client();
    assert_eq!(client.get("/").status, 302);
    let session = outpost.sign_in(Visitor::new("akadmin"));
    let page = navigation(&client, "GET", "/", &session).send();
    assert_eq!(page.status, 200);
    // Of the two scripts, the one that opens nothing.
    assert!(page.text().contains("<script>(function () {"), "{page:?}");
    assert_eq!(scripts_in(&page.text()), 0);
}
