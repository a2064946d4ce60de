//! A small Nginx Proxy Manager, as seen on port 81: its API and a page for its web UI.
//!
//! It answers as 2.15.1 does, with its odd status codes and its time for a login, or as 2.16 is
//! told to, see [`Release`].

mod api;
mod fault;
mod page;
mod token;
mod totp;
mod user;

use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use fault::Fault;
pub use totp::totp;

use serde_json::Value;

use crate::server::{lock, Request, Server};
use crate::tls::Tls;
use crate::{clock, headers::Headers};
use token::{Lifetime, Tokens};
use user::{User, Users};

/// How long bcrypt takes in NPM.
const LOGIN_TIME: Duration = Duration::from_millis(420);

/// How long a token of NPM's lives.
const TOKEN_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// The base32 secret of the default user with 2FA, `totp@example.com`.
pub const TOTP_SECRET: &str = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP";

/// What each of NPM's tokens begins with, `{"alg":` in base64url. Its first three letters are no sign of
/// one: what the module itself makes has them by chance, once in some thousand times.
pub const TOKEN_BEGINNING: &str = "eyJhbGciOi";

/// Which NPM the small one is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// 2.15 and older: a request that is not permitted is answered with 404, and none with 401.
    V2_15,
    /// By its release notes: 403 for what is not permitted, and 401 for a token that was issued
    /// before its user's password was changed. Its UI leaves `/login` when somebody is signed in.
    V2_16,
}

impl Release {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::V2_15, Self::V2_16];

    /// As the API names it.
    fn version(self) -> &'static str {
        match self {
            Self::V2_15 => r#"{"major":2,"minor":15,"revision":1}"#,
            Self::V2_16 => r#"{"major":2,"minor":16,"revision":0}"#,
        }
    }
}

/// A running NPM.
///
/// Unless told otherwise its users are, from id 1 on, the administrators `admin@example.com` (secret
/// `admin-secret`) and `bob@example.com` (`bob-secret`), `guest@example.com` (`guest-secret`)
/// without a role, and `totp@example.com` (`totp-secret`) with 2FA by [`TOTP_SECRET`].
pub struct Npm {
    server: Server,
    state: Arc<Mutex<State>>,
}

/// What NPM knows.
struct State {
    release: Release,
    users: Users,
    tokens: Tokens,
    requests: Vec<Request>,
    logins: usize,
    codes: usize,
    audit_log: Vec<Value>,
    fault: Option<Fault>,
    login_time: Duration,
    token_lifetime: Duration,
    renewal_time: Duration,
    /// How far the clock is off, in milliseconds.
    clock_offset: i64,
}

impl State {
    /// The time by NPM's clock, in milliseconds since 1970.
    fn now(&self) -> i64 {
        clock::unix_millis() + self.clock_offset
    }

    /// The same in whole seconds.
    fn seconds(&self) -> u64 {
        u64::try_from(self.now().div_euclid(1000)).unwrap_or_default()
    }

    /// A token as a login gives it, with the date of its end.
    fn issue(&mut self, user: &User, scope: &str, lifetime: &Lifetime) -> (String, String) {
        let now = self.now();
        (self.tokens.issue(user, scope, lifetime, now), clock::iso8601(lifetime.end(now)))
    }

    fn day(&self) -> Lifetime {
        Lifetime { name: "1d".into(), duration: self.token_lifetime }
    }
}

impl Npm {
    /// Starts an NPM with the default users.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// An NPM to start.
    pub fn builder() -> Builder {
        Builder {
            port: None,
            tls: None,
            release: Release::V2_15,
            users: Users::default(),
            login_time: LOGIN_TIME,
            token_lifetime: TOKEN_LIFETIME,
        }
    }

    /// `http://127.0.0.1:PORT`, or `https://localhost:PORT`.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The port of 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// How many times `POST /api/tokens` was received.
    pub fn logins(&self) -> usize {
        lock(&self.state).logins
    }

    /// How many times a code was received, at `POST /api/tokens/2fa`.
    pub fn codes(&self) -> usize {
        lock(&self.state).codes
    }

    /// The time by NPM's clock, in seconds since 1970: codes go by it.
    pub fn seconds(&self) -> u64 {
        lock(&self.state).seconds()
    }

    /// The users who are not deleted, by their names, as an administrator sees them, with their
    /// permissions.
    pub fn users(&self) -> Vec<Value> {
        let state = lock(&self.state);
        state.users.list("").iter().map(|user| user.shown(Some("permissions"))).collect()
    }

    /// The user of that address, as in [`Self::users`].
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn shown(&self, identity: &str) -> Value {
        self.with_user(identity, |user| user.shown(Some("permissions")))
    }

    /// Who has done what to which user, the first first: what `GET /api/audit-log` shows of it.
    pub fn audit_log(&self) -> Vec<Value> {
        lock(&self.state).audit_log.clone()
    }

    /// Has two users hold each other's row of permissions, as two that were made at once may. NPM
    /// cannot change the permissions of either.
    pub fn swap_permissions(&self, one: &str, other: &str) {
        let [one, other] = [one, other].map(|identity| self.with_user(identity, |user| user.id));
        lock(&self.state).users.swap_permissions(one, other);
    }

    /// Every request received, in order, those that were answered by a [`Fault`] too.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state).requests.clone()
    }

    /// The requests for `path`.
    pub fn requests_to(&self, path: &str) -> Vec<Request> {
        let state = lock(&self.state);
        state.requests.iter().filter(|request| request.path == path).cloned().collect()
    }

    /// Empties [`Self::requests`], not [`Self::logins`].
    pub fn forget_requests(&self) {
        lock(&self.state).requests.clear();
    }

    /// Answers `POST /api/tokens` with a fault, until [`Self::clear_fault`].
    pub fn fault(&self, fault: Fault) {
        lock(&self.state).fault = Some(fault);
    }

    /// Ends a fault.
    pub fn clear_fault(&self) {
        lock(&self.state).fault = None;
    }

    /// Closes the port and every connection.
    pub fn stop(&self) {
        self.server.stop();
    }

    /// Listens on the same port again, after [`Self::stop`].
    pub fn start_again(&self) {
        self.server.start_again();
    }

    /// Makes every issued token invalid, as new keys in `/data/keys.json` do.
    pub fn replace_keys(&self) {
        lock(&self.state).tokens = Tokens::default();
    }

    /// The secret of a user, as given to NPM.
    pub fn secret(&self, identity: &str) -> String {
        self.with_user(identity, |user| user.secret.clone())
    }

    /// Changes a user's secret. Tokens stay valid, but for [`Release::V2_16`].
    pub fn set_secret(&self, identity: &str, secret: &str) {
        self.with_user(identity, |user| user.change_secret(secret));
    }

    /// Disables a user.
    pub fn disable(&self, identity: &str) {
        self.with_user(identity, |user| user.is_disabled = true);
    }

    /// Enables a user again.
    pub fn enable(&self, identity: &str) {
        self.with_user(identity, |user| user.is_disabled = false);
    }

    /// Deletes a user.
    pub fn delete(&self, identity: &str) {
        self.with_user(identity, |user| user.is_deleted = true);
    }

    /// Sets how long a login takes, for logins to come.
    pub fn set_login_time(&self, time: Duration) {
        lock(&self.state).login_time = time;
    }

    /// Sets how long a token lives, for tokens to come.
    pub fn set_token_lifetime(&self, lifetime: Duration) {
        lock(&self.state).token_lifetime = lifetime;
    }

    /// Sets how long a renewal, `GET /api/tokens`, takes; no time by default.
    pub fn set_renewal_time(&self, time: Duration) {
        lock(&self.state).renewal_time = time;
    }

    /// Sets how many seconds NPM's clock is ahead (or, if negative, behind).
    pub fn clock_offset(&self, seconds: i64) {
        lock(&self.state).clock_offset = seconds * 1000;
    }

    /// A token of a user's, valid for `lifetime` (in whole seconds) from now on.
    pub fn issue_token(&self, identity: &str, lifetime: Duration) -> String {
        self.mint(identity, Some(Lifetime { name: "1d".into(), duration: lifetime }), 0)
    }

    /// A token of a user's that expired a minute ago.
    pub fn issue_expired_token(&self, identity: &str) -> String {
        let hour = Lifetime { name: "1h".into(), duration: Duration::from_secs(3600) };
        self.mint(identity, Some(hour), -3_660_000)
    }

    /// A token of a user's that never expires. NPM makes none, but takes them.
    pub fn issue_token_without_expiry(&self, identity: &str) -> String {
        self.mint(identity, None, 0)
    }

    fn mint(&self, identity: &str, lifetime: Option<Lifetime>, age: i64) -> String {
        let user = self.with_user(identity, |user| user.clone());
        let mut state = lock(&self.state);
        let issued = state.now() + age;
        match lifetime {
            Some(lifetime) => state.tokens.issue(&user, "user", &lifetime, issued),
            None => state.tokens.issue_endless(&user, "user", issued),
        }
    }

    fn with_user<T>(&self, identity: &str, change: impl FnOnce(&mut User) -> T) -> T {
        let mut state = lock(&self.state);
        let user = state.users.of_identity(identity);
        change(user.unwrap_or_else(|| panic!("NPM has no user {identity}")))
    }
}

/// An NPM to start.
pub struct Builder {
    port: Option<u16>,
    tls: Option<Arc<Tls>>,
    release: Release,
    users: Users,
    login_time: Duration,
    token_lifetime: Duration,
}

impl Builder {
    /// Listens on this port, not on a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Serves https.
    #[must_use]
    pub fn tls(mut self, tls: &Arc<Tls>) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Which NPM it is like; [`Release::V2_15`] by default.
    #[must_use]
    pub fn release(mut self, release: Release) -> Self {
        self.release = release;
        self
    }

    /// How long the password of a login is looked at, 420 ms by default.
    #[must_use]
    pub fn login_time(mut self, time: Duration) -> Self {
        self.login_time = time;
        self
    }

    /// How long a token lives, in whole seconds; a day by default.
    #[must_use]
    pub fn token_lifetime(mut self, lifetime: Duration) -> Self {
        self.token_lifetime = lifetime;
        self
    }

    /// Adds a user without a role. Users added go instead of the default ones.
    #[must_use]
    pub fn user(mut self, identity: &str, secret: &str) -> Self {
        self.users.add(identity, secret, false);
        self
    }

    /// Adds an administrator.
    #[must_use]
    pub fn administrator(mut self, identity: &str, secret: &str) -> Self {
        self.users.add(identity, secret, true);
        self
    }

    /// Adds an administrator with 2FA, by a base32 secret.
    #[must_use]
    pub fn two_factor(mut self, identity: &str, secret: &str, base32: &str) -> Self {
        let factor = &mut self.users.add(identity, secret, true).second_factor;
        factor.secret = Some(base32.to_owned());
        factor.backup_codes = api::backup_codes();
        self
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// When its port is taken.
    pub fn start(self) -> Npm {
        if self.users.is_empty() {
            return self
                .administrator("admin@example.com", "admin-secret")
                .administrator("bob@example.com", "bob-secret")
                .user("guest@example.com", "guest-secret")
                .two_factor("totp@example.com", "totp-secret", TOTP_SECRET)
                .start();
        }
        let state = Arc::new(Mutex::new(State {
            release: self.release,
            users: self.users,
            tokens: Tokens::default(),
            requests: Vec::new(),
            logins: 0,
            codes: 0,
            audit_log: Vec::new(),
            fault: None,
            login_time: self.login_time,
            token_lifetime: self.token_lifetime,
            renewal_time: Duration::ZERO,
            clock_offset: 0,
        }));
        let shared = state.clone();
        let server = Server::start(self.port, self.tls.as_deref(), move |request, stop| {
            lock(&shared).requests.push(request.clone());
            api::answer(&shared, request, stop)
        });
        Npm { server, state }
    }
}

/// What NPM's nginx puts before the headers of an answer.
fn front_headers(state: &Mutex<State>) -> Headers {
    let mut headers = Headers::default();
    headers.push("Server", "openresty");
    headers.push("Date", clock::http(lock(state).now()));
    headers
}
