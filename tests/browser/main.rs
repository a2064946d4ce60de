//! The module's promises about NPM's web UI, each tried in Chromium.
//!
//! `TEST_NGINX` and `TEST_NGINX_MODULE` name another nginx than `build/nginx`, see [`testbed`].

mod chromium;
mod framing;
mod opening;
mod other_sites;
mod passwords;
mod sessions;
mod sign_in_as;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{json, Value};
use testbed::nginx::Builder;
use testbed::{npm_proxy_host, Nginx, Npm, Outpost, Release, Tls, Visitor};

use chromium::{Browser, Tab};

/// NPM's administrators, and a user of NPM's.
const ADMIN: &str = "admin@example.com";
const BOB: &str = "bob@example.com";
const GUEST: &str = "guest@example.com";

/// Where a browser ends that is not signed in to Authentik.
const SIGN_IN: &str = "/outpost.goauthentik.io/sign_in";
const SIGN_OUT: &str = "/outpost.goauthentik.io/sign_out";

const SIGN_OUT_TOO: &str =
    "npm_token_inject accounts.json sign_out=/outpost.goauthentik.io/sign_out;";

/// Each request in a line, with the status of its token.
const LOG: &str = "log_format token '$request_method $request_uri $npm_token_status';";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    /// Without the headers `Sec-Fetch-*`, which browsers send over https and to themselves alone.
    Http,
    Https,
}

use Scheme::{Http, Https};

const BOTH: [Scheme; 2] = [Http, Https];

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Http => "http",
            Https => "https",
        }
    }

    fn tls(self) -> Option<Arc<Tls>> {
        (self == Https).then(|| Arc::new(Tls::localhost()))
    }
}

/// NPM's web UI at npm.example.com, behind an outpost.
struct World {
    npm: Npm,
    outpost: Outpost,
    nginx: Nginx,
    scheme: Scheme,
}

impl World {
    fn new(scheme: Scheme) -> Self {
        Self::with(scheme, |host, _| host)
    }

    fn with(scheme: Scheme, change: impl FnOnce(Builder, &Npm) -> Builder) -> Self {
        Self::like(Release::V2_15, scheme, change)
    }

    fn like(
        release: Release,
        scheme: Scheme,
        change: impl FnOnce(Builder, &Npm) -> Builder,
    ) -> Self {
        let npm = Npm::builder().release(release).login_time(Duration::ZERO).start();
        let outpost = Outpost::start();
        let host = npm_proxy_host(&outpost, &npm)
            .accounts(&accounts(&npm).to_string())
            .quiet()
            .http(LOG)
            // So that an old worker does not wait for what a browser has connected in advance.
            .http("client_header_timeout 2s;")
            .server("access_log access.log token;");
        let host = match scheme.tls() {
            Some(tls) => host.tls(&tls),
            None => host,
        };
        let nginx = change(host, &npm).start();
        Self { npm, outpost, nginx, scheme }
    }

    /// The URL of a path of the web UI's.
    fn url(&self, path: &str) -> String {
        format!("{}://npm.example.com:{}{path}", self.scheme.name(), self.nginx.port())
    }

    /// A new browser's tab, in which `user` has signed in to Authentik on the way to `path`.
    fn sign_in_to(&self, path: &str, user: &str) -> (Browser, Tab) {
        let browser = Browser::new();
        let tab = browser.tab();
        self.pass_sign_in(&tab, path, user);
        (browser, tab)
    }

    /// As [`Self::sign_in_to`], to the web UI.
    fn sign_in(&self, user: &str) -> (Browser, Tab) {
        self.sign_in_to("/", user)
    }

    /// Opens a path, and signs in to Authentik where that asks for it.
    fn pass_sign_in(&self, tab: &Tab, path: &str, user: &str) {
        self.outpost.offer(Visitor::new(user));
        tab.open(&self.url(path));
        assert_at(tab, SIGN_IN);
        tab.follow(user);
    }
}

/// `akadmin` is NPM's admin@example.com, `bob` and `guest` are themselves, others are nobody.
fn accounts(npm: &Npm) -> Value {
    let account = |user: &str, identity: &str| json!({"user": user, "identity": identity, "secret": npm.secret(identity)});
    json!({"api": npm.url(), "accounts": [
        account("akadmin", ADMIN),
        account("bob", BOB),
        account("guest", GUEST),
    ]})
}

/// The UI is open, and signed in as `email`.
fn assert_signed_in(tab: &Tab, email: &str) {
    tab.until(&format!("document.querySelector('#user')?.textContent === '{email}'"));
}

/// The UI shows NPM's login page.
fn assert_login_page(tab: &Tab) {
    tab.until("!!document.querySelector('#login')");
}

/// The browser is at that path.
fn assert_at(tab: &Tab, path: &str) {
    tab.until(&format!("location.pathname === '{path}' && document.readyState === 'complete'"));
}

/// The tokens that the UI keeps, the last of which is in use.
fn tokens(tab: &Tab) -> Vec<String> {
    let list = tab.run("JSON.parse(localStorage.getItem('authentications') ?? '[]')");
    let tokens = list.as_array().expect("a list").iter();
    tokens.map(|entry| entry["token"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Puts a text in the place of the tokens.
fn keep(tab: &Tab, text: &str) {
    tab.run(&format!("localStorage.setItem('authentications', {})", Value::from(text)));
}

fn is_marker(token: &str) -> bool {
    token.starts_with("npm-token-inject-")
}

fn is_jwt(token: &str) -> bool {
    token.starts_with("eyJ")
}

/// The only token that the UI keeps is a marker, which is returned.
fn assert_marker_alone(tab: &Tab) -> String {
    let tokens = tokens(tab);
    assert!(tokens.len() == 1 && is_marker(&tokens[0]), "{tokens:?}");
    tokens.into_iter().next().unwrap_or_default()
}
