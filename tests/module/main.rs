//! The module's promises, each tried on a real nginx.
//!
//! `TEST_NGINX` and `TEST_NGINX_MODULE` name another nginx than `build/nginx`, see [`testbed`].

mod admin_port;
mod authorization;
mod cold_start;
mod configuration;
mod cross_site;
mod failures;
mod faults;
mod framing;
mod http2;
mod identity;
mod logins;
mod memory;
mod nginx_conf;
mod own_users;
mod page;
#[path = "phases.rs"]
mod phases_under_satisfy_all;
#[allow(clippy::duplicate_mod)]
#[path = "phases.rs"]
mod phases_under_satisfy_any;
mod processes;
mod providers;
mod renewal;
mod revocation;
mod secrecy;
mod site;
mod status;
mod two_factor;
mod zone;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use testbed::nginx::Builder;
use testbed::{
    npm_proxy_host, Client, Nginx, Npm, Outpost, Reply, Request, Response, Server, Session, Visitor,
};

/// Shows the module's variables in every reply.
const SHOWN: &str = "\
add_header X-Token-Status $npm_token_status always;
add_header X-Token-Identity $npm_token_identity always;";

/// Asks the outpost who the visitor is, by the location of [`World::nginx`].
const ASKED: &str = "\
auth_request /auth;
auth_request_set $authentik_username $upstream_http_x_authentik_username;
auth_request_set $authentik_groups $upstream_http_x_authentik_groups;
auth_request_set $authentik_email $upstream_http_x_authentik_email;";

/// An NPM whose logins are quick, and an outpost: what an nginx is put between.
struct World {
    npm: Npm,
    outpost: Outpost,
    /// What nginx's directive `satisfy` says.
    satisfy: &'static str,
}

impl World {
    fn new() -> Self {
        let npm = Npm::builder().login_time(Duration::from_millis(10)).start();
        Self { npm, outpost: Outpost::start(), satisfy: "all" }
    }

    /// Where one access check is enough (`any`), or where all are needed (`all`).
    fn under(satisfy: &'static str) -> Self {
        Self { satisfy, ..Self::new() }
    }

    /// NPM's web UI as a proxy host, as the README sets it up.
    fn host(&self) -> Builder {
        let host = npm_proxy_host(&self.outpost, &self.npm).location("/", SHOWN);
        host.http(&format!("satisfy {};", self.satisfy)).accounts(&self.accounts())
    }

    /// An nginx without that proxy host's location, for locations that begin with [`ASKED`].
    fn nginx(&self) -> Builder {
        self.nginx_with(&self.accounts())
    }

    fn nginx_with(&self, accounts: &str) -> Builder {
        let outpost = self.outpost.url();
        let auth = format!(
            "internal;
             proxy_pass {outpost}/outpost.goauthentik.io/auth/nginx;
             proxy_pass_request_body off;
             proxy_set_header Content-Length \"\";
             proxy_set_header X-Original-URL $scheme://$http_host$request_uri;"
        );
        let nginx = Nginx::builder().http(&format!("satisfy {};", self.satisfy));
        nginx.location("= /auth", &auth).accounts(accounts)
    }

    /// `akadmin` is NPM's admin@example.com, `bob` and `guest` are themselves, others are nobody.
    fn accounts(&self) -> String {
        let account = |user: &str, identity: &str| json!({"user": user, "identity": identity, "secret": self.npm.secret(identity)});
        json!({"api": self.npm.url(), "accounts": [
            account("akadmin", "admin@example.com"),
            account("bob", "bob@example.com"),
            account("guest", "guest@example.com"),
        ]})
        .to_string()
    }

    fn sign_in(&self, user: &str) -> Session {
        self.outpost.sign_in(Visitor::new(user))
    }

    /// The last request that reached NPM's `path`.
    fn last(&self, path: &str) -> Request {
        self.npm.requests_to(path).pop().unwrap_or_else(|| panic!("NPM saw no request to {path}"))
    }

    /// What the last request that reached NPM's `path` carried, see [`Self::authorization_of`].
    fn carried_to(&self, path: &str) -> String {
        self.authorization_of(&self.last(path))
    }

    /// The `Authorization` of a request, a live token by its owner: `the token of bob@example.com`.
    fn authorization_of(&self, request: &Request) -> String {
        match request.authorization()[..] {
            [] => "nothing".to_owned(),
            [one] => match self.owner(one) {
                Some(owner) => format!("the token of {owner}"),
                None => one.to_owned(),
            },
            ref several => format!("{several:?}"),
        }
    }

    /// The user whose live token an `Authorization` is, by NPM itself.
    fn owner(&self, authorization: &str) -> Option<String> {
        let token = authorization.strip_prefix("Bearer ").filter(|token| !token.contains(' '))?;
        let me = Client::new(&self.npm.url()).request("GET", "/api/users/me").bearer(token).send();
        (me.status == 200).then(|| me.json()["email"].as_str().map(str::to_owned))?
    }
}

/// The value of `$npm_token_status`.
fn status(reply: &Reply) -> &str {
    reply.header("X-Token-Status").unwrap_or_default()
}

/// The value of `$npm_token_identity`.
fn identity(reply: &Reply) -> &str {
    reply.header("X-Token-Identity").unwrap_or_default()
}

/// NPM's answer to a login and to a renewal.
fn token_answer(token: &str) -> Response {
    Response::json(200, json!({"token": token, "expires": "2099-01-01T00:00:00.000Z"}))
}

/// A server that is not NPM, and sees what is sent to it.
struct Elsewhere {
    server: Server,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Elsewhere {
    /// Answers 200 to everything.
    fn start() -> Self {
        Self::answering(|_| Response::html(200, "elsewhere"))
    }

    fn answering(answer: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let server = Server::start(None, None, move |request, _| {
            seen.lock().expect("no test panics here").push(request.clone());
            answer(request).into()
        });
        Self { server, requests }
    }

    fn url(&self) -> String {
        self.server.url()
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no test panics here").clone()
    }

    fn last(&self) -> Request {
        self.requests().pop().expect("a request elsewhere")
    }
}
