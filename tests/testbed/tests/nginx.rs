//! nginx is started, watched and ended, and what users paste works with it.

use std::sync::Arc;
use std::time::Duration;

use testbed::nginx::kill;
use testbed::{npm_proxy_host, AccessList, Nginx, Npm, Outpost, Tls, Visitor};

fn hello() -> testbed::nginx::Builder {
    Nginx::builder().without_module().location("/", "return 200 hello;")
}

#[test]
fn it_starts_serves_and_ends() {
    let mut nginx = hello().workers(2).start();
    assert_eq!(nginx.worker_pids().len(), 2);
    assert_eq!(nginx.client().get("/").text(), "hello");
    nginx.wait_for_log("start worker processes", Duration::from_secs(5));
    assert!(nginx.quit().success());
    assert!(nginx.access_log().contains("GET / HTTP/1.1"));
    assert!(hello().single_process().start().terminate().success());
}

#[test]
fn a_reload_brings_new_workers() {
    let nginx = hello().workers(2).start();
    let old = nginx.worker_pids();
    nginx.reload();
    let new = nginx.worker_pids();
    assert!(new.len() == 2 && !new.iter().any(|pid| old.contains(pid)));
    assert_eq!(nginx.client().get("/").status, 200);
}

#[test]
#[should_panic(expected = "exited on signal 11")]
fn a_crashed_worker_fails_the_test() {
    let nginx = hello().start();
    kill(nginx.worker_pids()[0], libc::SIGSEGV);
    nginx.wait_for_log("exited on signal", Duration::from_secs(5));
}

#[test]
fn a_killed_master_leaves_nothing() {
    let mut nginx = hello().start();
    nginx.expect_crash();
    let worker = nginx.worker_pids()[0];
    nginx.signal(libc::SIGKILL);
    drop(nginx);
    let gone = || !std::path::Path::new(&format!("/proc/{worker}/fd")).join("0").exists();
    testbed::eventually(Duration::from_secs(5), "the worker's end", gone);
}

#[test]
fn a_wrong_configuration_is_told() {
    assert!(hello().test().ok);
    let wrong = hello().server("nosuch on;").test();
    assert!(!wrong.ok && wrong.output.contains("unknown directive \"nosuch\""), "{wrong:?}");
}

#[test]
fn https_is_served() {
    let nginx = hello().tls(&Arc::new(Tls::localhost())).start();
    assert_eq!(nginx.client().get("/").text(), "hello");
}

#[test]
fn the_pasted_text_lets_in_who_is_signed_in() {
    let (npm, outpost) = (Npm::start(), Outpost::start());
    let nginx = npm_proxy_host(&outpost, &npm).without_module().start();
    let client = nginx.client();

    let turned_away = client.get("/nginx/proxy?a=b");
    assert_eq!(turned_away.status, 302);
    let back = format!("{}/nginx/proxy?a=b", nginx.url());
    let start = format!("/outpost.goauthentik.io/start?rd={back}");
    assert_eq!(turned_away.header("Location"), Some(&*start));
    assert!(turned_away.header("Set-Cookie").is_some_and(|cookie| cookie.contains("authentik")));
    let asked = &outpost.requests()[0];
    assert_eq!(asked.header("X-Original-URL"), Some(&*back));

    let session = outpost.sign_in(Visitor::new("akadmin"));
    let echo = client.request("POST", "/echo").cookie(&session).body("12345").send();
    assert_eq!((echo.status, &echo.json()["body_length"]), (200, &5.into()));
    let asked = outpost.requests().pop().expect("a request");
    assert_eq!((asked.header("Content-Length"), asked.body.len()), (None, 0));
    assert_eq!(npm.requests()[0].header("X-Forwarded-Proto"), Some("http"));
}

#[test]
fn a_visitor_cannot_tell_the_outpost_another_address() {
    let (npm, outpost) = (Npm::start(), Outpost::start());
    let nginx = npm_proxy_host(&outpost, &npm).without_module().start();
    let client = nginx.client();
    for name in ["X-Original-URI", "X-Original-URL", "X-Forwarded-Host"] {
        let request = client.request("GET", "/").header(name, "/open/");
        assert_eq!(request.send().status, 302, "{name}");
    }
    for asked in outpost.requests() {
        assert_eq!(asked.header("X-Forwarded-Host"), None);
        assert_eq!(asked.headers.all("X-Original-URL"), [format!("{}/", nginx.url())]);
    }
    assert!(npm.requests().is_empty());
}

#[test]
fn an_access_list_stands_beside_it() {
    let (npm, outpost) = (Npm::start(), Outpost::start());
    let list = AccessList { users: true, ..AccessList::default() };
    let nginx = npm_proxy_host(&outpost, &npm).without_module().access_list(list).start();
    let session = outpost.sign_in(Visitor::new("akadmin"));
    let client = nginx.client();
    let request = || client.request("GET", "/echo");
    let basic = ("Authorization", "Basic dmlzaXRvcjpwYXNzd29yZA==");
    assert_eq!(request().cookie(&session).send().status, 302);
    assert_eq!(request().cookie(&session).header(basic.0, basic.1).send().status, 200);
    assert!(npm.requests()[0].authorization().is_empty());
}
