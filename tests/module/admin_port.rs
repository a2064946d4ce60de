//! NPM's container moves its port with `NPM_ADMIN_PORT`, and the default of `api` goes with it.

use serde_json::Value;
use testbed::nginx::{is_openresty, Builder};
use testbed::{closed_port, eventually, Npm};

use crate::site::*;

/// An accounts file that does not say where NPM is.
fn accounts_without_api(npm: &Npm) -> Value {
    let mut accounts = accounts(npm);
    accounts.as_object_mut().expect("an object").remove("api");
    accounts
}

fn site_without_api(npm: &Npm) -> Builder {
    site(npm).accounts(&accounts_without_api(npm).to_string())
}

/// What the module warns of.
const NO_PORT: &str = "which is no port";

#[test]
fn the_default_address_follows_npms_port() {
    let npm = quick_npm();
    let nginx = site_without_api(&npm).admin_port(&npm.port().to_string());
    let test = nginx.test();
    assert!(test.ok && !test.output.contains("npm_token_inject:"), "{test:?}");
    let nginx = nginx.start();
    assert!(is_signed_in(&nginx.client().get(ME)));

    // Credentials alone, without an accounts file.
    let reply = me_with(&nginx.client(), BOB, "bob-secret").send();
    assert_eq!(email(&reply), BOB);
}

#[test]
fn it_does_so_after_reloads_too() {
    let npm = quick_npm();
    let nginx = site_without_api(&npm).admin_port(&npm.port().to_string()).start();
    for secret in ["one", "two"] {
        npm.set_secret(ADMIN, secret);
        nginx.write_accounts(&accounts_without_api(&npm).to_string());
        nginx.reload();
        let reply = nginx.client().get(ME);
        assert_eq!((status(&reply), is_signed_in(&reply)), ("miss", true), "{reply:?}");
    }
}

/// Where nginx has no master, it takes the variable away before it is reloaded.
#[test]
fn it_does_so_after_a_reload_without_a_master() {
    let nginx = site_without_api(&quick_npm()).admin_port("rubbish").single_process().start();
    let warned = nginx.log_lines(NO_PORT).len();
    assert_ne!(warned, 0);
    if is_openresty() {
        return; // It does not reload without a master, but ends.
    }
    nginx.signal(libc::SIGHUP);
    eventually(SOON, "a reload", || {
        // Where the signal came just before it waits for events, an event wakes it.
        drop(nginx.client().connect());
        nginx.log_lines(NO_PORT).len() > warned
    });
}

#[test]
fn an_address_that_is_given_goes_before_it() {
    let npm = quick_npm();
    let nobody = closed_port().to_string();
    let nginx = site(&npm).admin_port(&nobody).start();
    assert!(is_signed_in(&nginx.client().get(ME)));

    let location = format!(
        "npm_token_inject accounts.json user=x api={url}; proxy_pass {url}/;",
        url = npm.url()
    );
    let nginx = site_without_api(&npm).admin_port("rubbish").location("/given/", &location);
    let nginx = nginx.start();
    assert!(is_signed_in(&nginx.client().get(&format!("/given{ME}"))));
}

#[test]
fn a_value_that_is_no_port_is_warned_of_and_stops_nothing() {
    let npm = quick_npm();
    for value in ["rubbish", "0", "65536", "8181 "] {
        let test = site_without_api(&npm).admin_port(value).test();
        assert!(test.ok, "{test:?}");
        let warning = test.output.lines().find(|line| line.contains(NO_PORT));
        let warning = warning.unwrap_or_else(|| panic!("no warning: {test:?}"));
        for part in ["[warn]", "NPM_ADMIN_PORT", value, "at 81", "nginx.conf:"] {
            assert!(warning.contains(part), "{part}: {warning}");
        }
    }
    // Nobody needs it here, or it is as good as not there.
    for test in [
        Builder::default().location("/", "npm_token_inject off;").admin_port("rubbish").test(),
        site(&npm).admin_port("rubbish").test(),
        site_without_api(&npm).admin_port("").test(),
        site_without_api(&npm).test(),
    ] {
        assert!(test.ok && !test.output.contains(NO_PORT), "{test:?}");
    }

    let nginx = site_without_api(&npm).admin_port("rubbish").start();
    assert_eq!(nginx.client().get("/pid").status, 200);
    assert!(!nginx.log_lines(NO_PORT).is_empty());
}
