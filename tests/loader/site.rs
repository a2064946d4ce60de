//! NPM behind an nginx that loads the loader.

use std::fs;
use std::time::Duration;

use serde_json::json;
use testbed::nginx::Builder;
use testbed::{Nginx, Npm, Reply};

use crate::builds::Installed;

/// An administrator of the small NPM's.
const ADMIN: &str = "admin@example.com";

/// What NPM's web UI asks to learn who is signed in.
pub const ME: &str = "/api/users/me";

/// How long anything may take that takes no time.
pub const SOON: Duration = Duration::from_secs(10);

/// What the loader says where it stands aside.
pub const ASIDE: &str = "npm_token_inject stands aside";

/// An NPM whose logins take no time.
pub fn npm() -> Npm {
    Npm::builder().login_time(Duration::ZERO).start()
}

/// Locations with all that the module brings: the directive, the status page, and the variables in
/// what nginx sends to NPM, and to the client.
pub fn site(npm: &Npm, installed: &Installed) -> Builder {
    let url = npm.url();
    let accounts = json!({
        "api": url, "accounts": [{"user": "*", "identity": ADMIN, "secret": npm.secret(ADMIN)}],
    });
    let inject = format!("npm_token_inject accounts.json user=akadmin; proxy_pass {url};");
    Nginx::builder()
        .module(installed.loader())
        .accounts(&accounts.to_string())
        .http("add_header X-Token \"[$npm_token_status][$npm_token_identity]\" always;")
        .location("/", &inject)
        .location(
            "/passed/",
            &format!(
                "npm_token_inject accounts.json user=akadmin; proxy_pass {url}/;
                 proxy_set_header Authorization $npm_token_authorization;"
            ),
        )
        .location("= /npm-token-status", "npm_token_inject_status;")
}

/// The same with directives that no build takes, and accounts files that are missing or broken.
pub fn site_with_anything(npm: &Npm, installed: &Installed) -> Builder {
    site(npm, installed)
        .file("broken.json", "{")
        .http("npm_token_inject one two three four five six seven eight nine ten a=b;")
        .http("npm_token_inject_zone; npm_token_inject_zone 1m 2m unknown;")
        .server("npm_token_inject;")
        .location("/missing/", &format!("npm_token_inject missing.json; proxy_pass {};", npm.url()))
        .location("/broken/", &format!("npm_token_inject broken.json; proxy_pass {};", npm.url()))
        .location("= /status", "npm_token_inject_status with arguments;")
}

fn ask(nginx: &Nginx, path: &str, authorization: Option<&str>) -> Reply {
    let client = nginx.client();
    let request = client.request("GET", path);
    match authorization {
        Some(value) => request.header("Authorization", value).send(),
        None => request.send(),
    }
}

/// What reached NPM as `Authorization` with the last request.
fn arrived(npm: &Npm) -> Vec<String> {
    let request = npm.requests().into_iter().rfind(|request| request.method == "GET");
    let request = request.expect("a request at NPM");
    request.authorization().into_iter().map(str::to_owned).collect()
}

/// What becomes of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Module {
    Injects,
    StandsAside,
}

impl Module {
    pub fn assert(self, nginx: &Nginx, npm: &Npm) {
        match self {
            Self::Injects => assert_injects(nginx, npm),
            Self::StandsAside => assert_aside(nginx, npm),
        }
    }
}

/// The module does its work.
pub fn assert_injects(nginx: &Nginx, npm: &Npm) {
    for path in [ME, &format!("/passed{ME}")] {
        for sent in [None, Some("Basic Zm9v")] {
            let reply = ask(nginx, path, sent);
            assert_eq!(reply.status, 200, "{reply:?}");
            assert_eq!(reply.json()["email"], ADMIN);
            let token = reply.header("X-Token").unwrap_or_default();
            let expected = ["miss", "hit"].map(|status| format!("[{status}][{ADMIN}]"));
            assert!(expected.iter().any(|value| value == token), "{token}");
            let arrived = arrived(npm);
            assert!(arrived.len() == 1 && arrived[0].starts_with("Bearer "), "{arrived:?}");
        }
    }
    let status = ask(nginx, "/npm-token-status", None);
    assert_eq!((status.status, status.text().contains(ADMIN)), (200, true), "{status:?}");
}

/// nginx works as if the module were not there.
pub fn assert_aside(nginx: &Nginx, npm: &Npm) {
    for path in [ME, &format!("/passed{ME}")] {
        for sent in [None, Some("Basic Zm9v")] {
            let reply = ask(nginx, path, sent);
            assert_eq!(reply.status, 500, "what NPM answers to who has no token: {reply:?}");
            assert_eq!(reply.header("X-Token"), Some("[][]"));
            assert_eq!(arrived(npm), sent.into_iter().collect::<Vec<_>>());
        }
    }
    let status = ask(nginx, "/npm-token-status", None);
    assert_eq!((status.status, status.text().contains(ADMIN)), (404, false), "{status:?}");
}

/// How often the loader has said in the log that it stands aside.
pub fn times_aside(nginx: &Nginx) -> usize {
    let log = fs::read_to_string(nginx.dir().join("error.log")).unwrap_or_default();
    log.lines().filter(|line| line.contains("[warn]") && line.contains(ASIDE)).count()
}

/// Has nginx read a configuration that is wrong: it goes on with the one that it has.
pub fn reload_broken(nginx: &Nginx) {
    let name = nginx.dir().join("nginx.conf");
    let right = fs::read_to_string(name).expect("nginx.conf");
    let before = nginx.log_lines("unknown directive").len();
    nginx.write_file("nginx.conf", format!("{right}\nnonsense;"));
    nginx.signal(libc::SIGHUP);
    testbed::eventually(SOON, "a refusal", || {
        nginx.log_lines("unknown directive \"nonsense\"").len() > before
    });
    nginx.write_file("nginx.conf", right);
}

/// Tests nginx, starts it, has it reload three times, then read a wrong configuration and a right
/// one, and end, and looks at requests after each step.
pub fn live(site: Builder, npm: &Npm, module: Module) {
    let is_aside = usize::from(module == Module::StandsAside);
    let test = site.test();
    assert!(test.ok, "{test:?}");
    assert_eq!(test.output.matches(ASIDE).count(), is_aside, "{test:?}");

    let mut nginx = site.start();
    module.assert(&nginx, npm);
    assert_eq!(times_aside(&nginx), is_aside);
    for _ in 0..3 {
        nginx.reload();
        module.assert(&nginx, npm);
    }
    reload_broken(&nginx);
    module.assert(&nginx, npm);
    nginx.reload();
    module.assert(&nginx, npm);
    // Once for each reading of the configuration.
    assert_eq!(times_aside(&nginx), 6 * is_aside);

    assert!(nginx.quit().success());
    for level in ["[alert]", "[crit]"] {
        let lines = nginx.log_lines(level);
        assert!(lines.is_empty(), "{lines:?}");
    }
    let refusals = nginx.log_lines("[emerg]");
    assert!(refusals.iter().all(|line| line.contains("\"nonsense\"")), "{refusals:?}");
}
