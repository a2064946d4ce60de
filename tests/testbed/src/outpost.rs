//! A small Authentik outpost, for forward auth by nginx.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use percent_encoding::{utf8_percent_encode, NON_ALPHANUMERIC};

use crate::random;
use crate::server::{lock, Answer, Request, Response, Server};
use crate::wait::Stop;

/// Every path of an outpost's begins so.
const PREFIX: &str = "/outpost.goauthentik.io";

const COOKIE: &str = "authentik_proxy_test";

/// A user of Authentik's.
#[derive(Clone, Debug, Default)]
pub struct Visitor {
    username: String,
    email: String,
    name: String,
    groups: Vec<String>,
    entitlements: Vec<String>,
    basic: Option<(String, String)>,
    additional_headers: Vec<(String, String)>,
}

impl Visitor {
    /// A user of that name, in no group, with an address at example.com.
    pub fn new(username: &str) -> Self {
        Self {
            username: username.to_owned(),
            email: format!("{username}@example.com"),
            name: username.to_owned(),
            ..Self::default()
        }
    }

    /// Sets the e-mail address.
    #[must_use]
    pub fn email(mut self, email: &str) -> Self {
        email.clone_into(&mut self.email);
        self
    }

    /// Sets the display name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Sets the groups.
    #[must_use]
    pub fn groups(mut self, groups: &[&str]) -> Self {
        self.groups = groups.iter().map(ToString::to_string).collect();
        self
    }

    /// Sets the entitlements.
    #[must_use]
    pub fn entitlements(mut self, entitlements: &[&str]) -> Self {
        self.entitlements = entitlements.iter().map(ToString::to_string).collect();
        self
    }

    /// Sets the attributes `nginx_username` and `nginx_password`, which the outpost sends as HTTP
    /// Basic.
    #[must_use]
    pub fn basic(mut self, user: &str, password: &str) -> Self {
        self.basic = Some((user.to_owned(), password.to_owned()));
        self
    }

    /// Adds one of the `additionalHeaders`.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.additional_headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn headers(&self) -> Vec<(&str, String)> {
        let mut headers = vec![
            ("X-authentik-username", self.username.clone()),
            ("X-authentik-groups", self.groups.join("|")),
            ("X-authentik-entitlements", self.entitlements.join("|")),
            ("X-authentik-email", self.email.clone()),
            ("X-authentik-name", self.name.clone()),
            ("X-authentik-uid", format!("{:0>64x}", self.username.len())),
            ("X-authentik-jwt", "eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl".to_owned()),
            ("X-authentik-meta-jwks", "http://authentik/application/o/npm/jwks/".to_owned()),
            ("X-authentik-meta-outpost", "authentik Embedded Outpost".to_owned()),
            ("X-authentik-meta-provider", "npm".to_owned()),
            ("X-authentik-meta-app", "npm".to_owned()),
            ("X-authentik-meta-version", "goauthentik.io/outpost/2025.10.0".to_owned()),
        ];
        if let Some((user, password)) = &self.basic {
            let credentials = STANDARD.encode(format!("{user}:{password}"));
            headers.push(("Authorization", format!("Basic {credentials}")));
        }
        headers.extend(self.additional_headers.iter().map(|(n, v)| (n.as_str(), v.clone())));
        headers
    }
}

/// A visitor's session with the outpost.
#[derive(Clone, Debug)]
pub struct Session(String);

impl Session {
    /// The cookie that the browser sends: `authentik_proxy_test=…`.
    pub fn cookie(&self) -> String {
        format!("{COOKIE}={}", self.0)
    }
}

#[derive(Default)]
struct State {
    visitors: Vec<Visitor>,
    sessions: HashMap<String, Visitor>,
    requests: Vec<Request>,
    delay: Duration,
    cookies_for_all_sites: bool,
}

impl State {
    fn session(&mut self, visitor: Visitor) -> Session {
        let id = random::text(32);
        self.sessions.insert(id.clone(), visitor);
        Session(id)
    }

    fn cookie(&self, id: &str) -> String {
        let same_site = if self.cookies_for_all_sites { "None; Secure" } else { "Lax" };
        format!("{COOKIE}={id}; Path=/; HttpOnly; SameSite={same_site}")
    }
}

/// A running outpost.
///
/// Paths below `/open/` need no session, as by a provider's "unauthenticated paths".
pub struct Outpost {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl Outpost {
    /// Starts an outpost.
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let server = Server::start(None, None, move |request, stop| answer(&shared, request, stop));
        Self { server, state }
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The port of 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Signs a visitor in.
    pub fn sign_in(&self, visitor: Visitor) -> Session {
        lock(&self.state).session(visitor)
    }

    /// Ends a session.
    pub fn sign_out(&self, session: &Session) {
        lock(&self.state).sessions.remove(&session.0);
    }

    /// Ends every session.
    pub fn sign_everybody_out(&self) {
        lock(&self.state).sessions.clear();
    }

    /// Has browsers send the cookies of sessions to come whichever site starts a request, which
    /// works over https.
    pub fn set_cookies_for_all_sites(&self) {
        lock(&self.state).cookies_for_all_sites = true;
    }

    /// Offers a visitor on the sign-in page.
    pub fn offer(&self, visitor: Visitor) {
        lock(&self.state).visitors.push(visitor);
    }

    /// Sets how long the outpost takes for an answer.
    pub fn set_delay(&self, delay: Duration) {
        lock(&self.state).delay = delay;
    }

    /// Every request received.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state).requests.clone()
    }

    /// Empties [`Self::requests`].
    pub fn forget_requests(&self) {
        lock(&self.state).requests.clear();
    }

    /// Closes the port and every connection.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Listens on the same port again, after [`Self::stop`].
    pub fn start_again(&self) {
        self.server.start_again();
    }
}

fn answer(state: &Mutex<State>, request: &Request, stop: &Stop) -> Answer {
    let mut state_now = lock(state);
    state_now.requests.push(request.clone());
    let delay = state_now.delay;
    drop(state_now);
    stop.pause(delay);

    let mut state = lock(state);
    match request.path.strip_prefix(PREFIX) {
        Some("/auth/nginx") => auth(&state, request),
        Some("/start") => {
            let rd = request.query_value("rd").unwrap_or_default();
            Response::redirect(&format!("{PREFIX}/sign_in?rd={}", encoded(&rd)))
        }
        Some("/sign_in") => sign_in_page(&state, request),
        Some("/callback") => callback(&mut state, request),
        Some("/sign_out") => {
            state.sessions.remove(request.cookie(COOKIE).unwrap_or_default());
            Response::redirect(&format!("{PREFIX}/sign_in"))
                .header("Set-Cookie", format!("{COOKIE}=; Path=/; Max-Age=0"))
        }
        _ => Response::new(404),
    }
    .into()
}

/// The answer to nginx's `auth_request`.
fn auth(state: &State, request: &Request) -> Response {
    let Some(path) = original_path(request) else {
        return Response::html(500, "configuration error");
    };
    let session = request.cookie(COOKIE).and_then(|id| state.sessions.get(id));
    if let Some(visitor) = session {
        let response = Response::new(200);
        return visitor
            .headers()
            .into_iter()
            .fold(response, |r, (name, value)| r.header(name, value));
    }
    if path.starts_with("/open/") || path.starts_with(PREFIX) {
        return Response::new(200);
    }
    // A session of nobody's, which remembers where to go after the sign-in.
    Response::new(401)
        .header("Set-Cookie", state.cookie(&random::text(32)))
        .body("unauthorized request")
}

/// The path that the visitor asked for. As in Authentik, `X-Original-URI` is believed first.
fn original_path(request: &Request) -> Option<String> {
    if let Some(path) = request.header("X-Original-URI") {
        return Some(path.to_owned());
    }
    let url = request.header("X-Original-URL")?;
    let (_, rest) = url.split_once("://")?;
    let path = rest.find('/').map_or("/", |at| &rest[at..]);
    path.split('?').next().map(str::to_owned)
}

fn sign_in_page(state: &State, request: &Request) -> Response {
    let rd = encoded(&request.query_value("rd").unwrap_or_else(|| "/".into()));
    let link = |visitor: &Visitor| {
        let name = &visitor.username;
        format!(r#"<li><a href="{PREFIX}/callback?user={}&rd={rd}">{name}</a></li>"#, encoded(name))
    };
    let links: String = state.visitors.iter().map(link).collect();
    Response::html(
        200,
        format!("<!DOCTYPE html>\n<title>Sign in</title>\n<h1>Sign in as</h1>\n<ul>{links}</ul>\n"),
    )
}

/// Where the browser comes back to from Authentik.
fn callback(state: &mut State, request: &Request) -> Response {
    let name = request.query_value("user").unwrap_or_default();
    let visitor = state.visitors.iter().find(|visitor| visitor.username == name).cloned();
    let Some(visitor) = visitor else { return Response::new(400) };
    let session = state.session(visitor);
    // Only back to the host that the visitor came from.
    let host = request.header("Host").unwrap_or_default();
    let rd = request.query_value("rd").unwrap_or_default();
    let rest = rd.split_once("://").map_or("", |(_, rest)| rest);
    let rd = if rest.split('/').next() == Some(host) { rd } else { "/".into() };
    Response::redirect(&rd).header("Set-Cookie", state.cookie(&session.0))
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}
