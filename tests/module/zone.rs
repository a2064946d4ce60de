//! The shared zone: how many tokens there is room for, and what becomes of them where its size changes.

use std::thread;
use std::time::Duration;

use serde_json::json;
use testbed::nginx::Builder;
use testbed::{eventually, Client, Fault, Nginx, Npm};

use crate::site::*;

/// As the README has it.
const PLACES_OF_1M: usize = 370;

const PLACES_OF_32K: usize = 10;

fn identity(number: usize) -> String {
    format!("user{number}@example.com")
}

fn npm_with_users(count: usize) -> Npm {
    let npm = Npm::builder().login_time(Duration::ZERO).administrator(ADMIN, "admin-secret");
    let users = (0..count).map(|n| (identity(n), format!("secret{n}")));
    users.fold(npm, |npm, (identity, secret)| npm.user(&identity, &secret)).start()
}

/// A site whose zone has that size.
fn sized(npm: &Npm, size: &str) -> Builder {
    busy_site(npm, 1).http(&format!("npm_token_inject_zone {size};"))
}

/// Whether a user's token was there.
fn visit(client: &Client, number: usize) -> bool {
    let reply = me_with(client, &identity(number), &format!("secret{number}")).send();
    assert_eq!(email(&reply), identity(number));
    status(&reply) == "hit"
}

fn reload_with(nginx: &Nginx, old: &str, new: &str) {
    let configuration = std::fs::read_to_string(nginx.dir().join("nginx.conf")).expect("a file");
    assert!(configuration.contains(old), "{configuration}");
    nginx.write_file("nginx.conf", configuration.replace(old, new));
    nginx.reload();
}

#[test]
fn so_many_tokens_have_room_and_of_one_more_the_least_recently_used_is_forgotten() {
    for (size, places) in [("32k", PLACES_OF_32K), ("1m", PLACES_OF_1M)] {
        let npm = npm_with_users(places + 1);
        let nginx = sized(&npm, size).start();
        let client = nginx.client();
        for number in 0..places {
            assert!(!visit(&client, number), "{number} of {size}");
        }
        for number in 0..places {
            assert!(visit(&client, number), "{number} of {size}");
        }
        // The first is used once more, and the second is the one that goes.
        assert!(visit(&client, 0));
        assert!(!visit(&client, places));
        assert!(visit(&client, 0));
        assert!(visit(&client, 2));
        assert!(!visit(&client, 1));
    }
}

#[test]
fn a_megabyte_is_the_default() {
    let npm = npm_with_users(PLACES_OF_1M + 1);
    let nginx = busy_site(&npm, 1).start();
    let client = nginx.client();
    for round in [false, true] {
        for number in 0..PLACES_OF_1M {
            assert_eq!(visit(&client, number), round, "{number}");
        }
    }
    assert!(!visit(&client, PLACES_OF_1M));
    assert!(!visit(&client, 0));
}

#[test]
fn a_reload_with_another_size_keeps_the_tokens_that_have_room() {
    const COUNT: usize = 2 * PLACES_OF_32K;
    let npm = npm_with_users(COUNT);
    let nginx = sized(&npm, "64k").start();
    let client = nginx.client();
    for number in 0..COUNT {
        assert!(!visit(&client, number));
    }
    // Larger: all are there. The pages of old workers are of use, too.
    reload_with(&nginx, "npm_token_inject_zone 64k;", "npm_token_inject_zone 1m;");
    let client = nginx.client();
    for number in 0..COUNT {
        assert!(visit(&client, number), "{number}");
    }
    // Smaller: those that were used last.
    reload_with(&nginx, "npm_token_inject_zone 1m;", "npm_token_inject_zone 32k;");
    let client = nginx.client();
    let logins = npm.logins();
    for number in (COUNT - PLACES_OF_32K..COUNT).rev() {
        assert!(visit(&client, number), "{number}");
    }
    assert_eq!(npm.logins(), logins);
    assert!(!visit(&client, 0));
    // The same: as ever.
    nginx.reload();
    assert!(visit(&nginx.client(), 0));
    assert_eq!(npm.logins(), logins + 1);
}

#[test]
fn after_a_reload_with_another_size_nobody_waits_for_a_login_that_began_before() {
    let npm =
        Npm::builder().login_time(Duration::ZERO).administrator(ADMIN, "admin-secret").start();
    npm.fault(Fault::Hold);
    let patient = with_timeout(accounts(&npm), "30s");
    let nginx = sized(&npm, "1m").accounts(&patient).start();
    thread::scope(|scope| {
        let first = scope.spawn(|| nginx.client().get(ME));
        eventually(SOON, "a login", || npm.logins() == 1);
        reload_with(&nginx, "npm_token_inject_zone 1m", "npm_token_inject_zone 2m");
        let second = scope.spawn(|| nginx.client().get(ME));
        eventually(SOON, "another one", || npm.logins() == 2);
        npm.clear_fault();
        for reply in [first, second].map(|reply| reply.join().expect("a reply")) {
            assert_eq!((status(&reply), is_signed_in(&reply)), ("miss", true));
        }
    });
}

/// A reload that fails after the new zone has been made leaves the old one in use.
#[test]
fn a_reload_that_fails_changes_nothing() {
    let npm = npm_with_users(2);
    let nginx = sized(&npm, "64k").start();
    assert!(!visit(&nginx.client(), 0));
    let configuration = std::fs::read_to_string(nginx.dir().join("nginx.conf")).expect("a file");
    // An address of nobody's here (TEST-NET-1).
    let broken = configuration
        .replace("npm_token_inject_zone 64k;", "npm_token_inject_zone 128k;")
        .replacen("listen ", "listen 192.0.2.1:9;\nlisten ", 1);
    nginx.write_file("nginx.conf", &broken);
    nginx.signal(libc::SIGHUP);
    nginx.wait_for_log("bind() to 192.0.2.1:9 failed", SOON);
    assert!(visit(&nginx.client(), 0));
    nginx.write_file("nginx.conf", configuration.replace("zone 64k;", "zone 256k;"));
    nginx.reload();
    assert!(visit(&nginx.client(), 0));
    assert!(!visit(&nginx.client(), 1));
}

#[test]
fn the_size_is_looked_at_by_the_configuration_test() {
    let npm = quick_npm();
    let test = |line: &str| site(&npm).http(line).test();
    for line in ["npm_token_inject_zone 32k;", "npm_token_inject_zone 8M;"] {
        assert!(test(line).ok, "{:?}", test(line));
    }
    for (line, why) in [
        (
            "npm_token_inject_zone 31k;",
            "invalid size \"31k\": it is a number with k or m, as 1m, and no less than 32k",
        ),
        ("npm_token_inject_zone 0;", "invalid size \"0\""),
        ("npm_token_inject_zone much;", "invalid size \"much\""),
        ("npm_token_inject_zone -1m;", "invalid size \"-1m\""),
        ("npm_token_inject_zone 1m;\nnpm_token_inject_zone 1m;", "the directive is duplicate"),
        ("npm_token_inject_zone;", "invalid number of arguments"),
        ("npm_token_inject_zone 1m 2m;", "invalid number of arguments"),
    ] {
        let said = test(line);
        assert!(!said.ok && said.output.contains(why), "{line}: {said:?}");
    }
    let in_server = site(&npm).server("npm_token_inject_zone 1m;").test();
    assert!(!in_server.ok && in_server.output.contains("is not allowed here"), "{in_server:?}");
    // Where nothing needs the zone there is none.
    let unused = Nginx::builder().http("npm_token_inject_zone 1m;").test();
    assert!(unused.ok, "{unused:?}");
}

#[test]
fn the_status_page_alone_needs_the_zone_too() {
    let nginx = Nginx::builder().location("= /status", "npm_token_inject_status;").start();
    let status = nginx.client().get("/status").json();
    assert_eq!(status["accounts"], json!([]));
}
