//! NPM's API, as far as signing in needs it.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::num::NonZeroU16;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use ureq::http::{Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig};
use ureq::typestate::WithBody;
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, RustlsConnector, TcpConnector};
use ureq::{Agent, Body, RequestBuilder};
use zeroize::Zeroizing;

use super::deadline::Deadline;
use super::secret::Secret;
use super::token::{Millis, Token, TokenError};
use super::totp::{may_have_been_late, TotpSecret};

/// Status and body.
type Answer = (u16, Zeroizing<Vec<u8>>);

/// The largest answer that is read, in bytes.
const RESPONSE_MAX: u64 = 64 * 1024;

/// The same for a list of users, each of whom takes some 400 bytes.
const LIST_MAX: u64 = 8 * 1024 * 1024;

/// The default for `timeout`.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The port of NPM's web UI and API, unless [`ADMIN_PORT`] names another.
const DEFAULT_PORT: NonZeroU16 = NonZeroU16::new(81).unwrap();

/// The environment variable by which NPM's container moves that port.
const ADMIN_PORT: &str = "NPM_ADMIN_PORT";

/// The base URL of an NPM, without a slash at its end.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub struct BaseUrl(String);

impl BaseUrl {
    /// The URL as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl BaseUrl {
    /// The default for `api`: NPM's own port, from inside its container. `warn` is told of a
    /// [`ADMIN_PORT`] that is no port; nginx has other sites to serve.
    pub fn own(warn: &mut dyn FnMut(String)) -> Self {
        let port = admin_port().unwrap_or_else(|| {
            warn(format!(
                "{ADMIN_PORT} is {:?} in nginx's environment, which is no port: NPM is looked for \
                 at {DEFAULT_PORT}; mend it, or set \"api\"",
                env::var_os(ADMIN_PORT).unwrap_or_default()
            ));
            DEFAULT_PORT
        });
        Self(format!("http://127.0.0.1:{port}"))
    }
}

/// The port that [`ADMIN_PORT`] says, as of the first call; `None` where it says none. Later it may be
/// gone: an nginx without a master process takes most variables away when it has read its
/// configuration for the first time (`ngx_single_process_cycle`).
pub fn admin_port() -> Option<NonZeroU16> {
    static FOUND: OnceLock<Option<NonZeroU16>> = OnceLock::new();
    *FOUND.get_or_init(|| parse_port(&env::var_os(ADMIN_PORT).unwrap_or_default()))
}

/// The port that [`ADMIN_PORT`] says, or the default one.
fn parse_port(text: &OsStr) -> Option<NonZeroU16> {
    match text.to_str()? {
        "" => Some(DEFAULT_PORT),
        text => text.parse().ok(),
    }
}

impl TryFrom<String> for BaseUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // The text is not quoted: somebody may have put a password into it.
        let wrong =
            |what: &str| Err(format!("{what}; it is a base URL such as http://127.0.0.1:81"));
        let Ok(url) = text.parse::<Uri>() else {
            return wrong("it is no URL");
        };
        if !matches!(url.scheme_str(), Some("http" | "https")) {
            return wrong("it does not begin with http:// or https://");
        }
        let Some(authority) = url.authority().filter(|a| !a.host().is_empty()) else {
            return wrong("it has no host");
        };
        if authority.as_str().contains('@') {
            return wrong("it has a user or a password");
        }
        // What follows the host is nothing, or a colon and a port.
        if authority.port_u16().is_none() && authority.as_str() != authority.host() {
            return wrong("its port is no number");
        }
        if url.query().is_some() || text.contains('#') {
            return wrong("it has a query or a fragment");
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

/// Identity and secret of an NPM account, as NPM's login page asks for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub identity: String,
    pub secret: Secret,
    /// For an account with two-factor authentication.
    pub totp: Option<TotpSecret>,
}

/// What an account may do at NPM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Only what NPM's administrators grant it; also where NPM does not say.
    #[default]
    Standard,
    /// Everything, being any other user included.
    Administrator,
}

/// Why a login failed, in words that finish the sentence "login failed: NPM …".
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LoginError {
    #[error("refused identity and secret")]
    Refused,
    #[error("asks for a two-factor code for this account")]
    TwoFactor,
    #[error("refused the two-factor code")]
    RefusedCode,
    #[error("has no user with this e-mail address")]
    NoUser,
    #[error("has several users with this e-mail address")]
    SeveralUsers,
    #[error("has disabled this user")]
    Disabled,
    #[error(
        "has this address for the account of \"sign_in_as\" itself, as which nobody is signed in"
    )]
    ServiceUser,
    #[error("does not let the account of \"sign_in_as\" do what an administrator may")]
    NotAdministrator,
    #[error("does not take the token of the account of \"sign_in_as\"")]
    ServiceToken,
    #[error("is not asked, for the account of \"sign_in_as\" cannot log in")]
    NoService,
    #[error("sent an answer that is no user of NPM's")]
    NotUsers,
    #[error("answered with status {0}")]
    Status(u16),
    #[error("could not be reached: {0}")]
    Unreachable(String),
    #[error("did not answer within {0:?}")]
    Timeout(Duration),
    #[error("could not be trusted: {0}")]
    Tls(String),
    #[error("sent an answer larger than {0} bytes")]
    TooLarge(u64),
    #[error("sent an answer that is not a token")]
    NotToken,
    #[error("sent an answer, but {0}")]
    Token(#[from] TokenError),
    #[error("does not take the token that it has just given")]
    RefusedToken,
    #[error("could not be asked: {0}")]
    Local(String),
}

impl LoginError {
    /// What the person who reads the log can do about it.
    pub fn mend(&self) -> &'static str {
        match self {
            Self::Refused => "set the identity and secret of an NPM account that can sign in",
            Self::TwoFactor => {
                "add \"totp_secret\" to the account, \
                 or use an NPM account without two-factor authentication"
            }
            Self::RefusedCode => {
                "set \"totp_secret\" to what NPM showed when two-factor authentication was \
                 turned on, and check the clocks"
            }
            Self::NoUser => "make one in NPM, or set \"create\" in \"sign_in_as\"",
            Self::SeveralUsers => "leave one of them in NPM",
            Self::Disabled => "enable the user in NPM if they may sign in",
            Self::ServiceUser => {
                "give the account of \"sign_in_as\" an address that no Authentik user has"
            }
            Self::NotAdministrator => "make that account an administrator in NPM",
            Self::ServiceToken | Self::NoService => "see what the log says of that account",
            Self::Status(300..=499) => {
                "check that \"api\" is NPM's own address (its port 81), \
                 not the one behind Authentik"
            }
            Self::Status(_) => "look into NPM's own log",
            Self::Unreachable(_) | Self::Timeout(_) => "check that NPM runs, and \"api\"",
            Self::Tls(_) => {
                "set \"ca_file\" to the certificate authority of NPM, \
                 and \"api\" to a name that its certificate holds"
            }
            Self::TooLarge(_) | Self::NotToken | Self::NotUsers => {
                "check that \"api\" is the address of an NPM"
            }
            Self::Token(_) | Self::RefusedToken => "check the clock and the version of NPM",
            Self::Local(_) => "look at the limits of this worker process",
        }
    }

    /// The kind of fault, for counting.
    pub fn cause(&self) -> Cause {
        match self {
            Self::Refused
            | Self::TwoFactor
            | Self::RefusedCode
            | Self::NoUser
            | Self::SeveralUsers
            | Self::Disabled
            | Self::ServiceUser
            | Self::NotAdministrator
            | Self::NoService => Cause::Refused,
            Self::Unreachable(_) => Cause::Unreachable,
            Self::Timeout(_) => Cause::Timeout,
            Self::Tls(_) => Cause::Tls,
            Self::Status(_)
            | Self::TooLarge(_)
            | Self::NotToken
            | Self::NotUsers
            | Self::ServiceToken
            | Self::Token(_)
            | Self::RefusedToken => Cause::Answer,
            Self::Local(_) => Cause::Local,
        }
    }

    /// Whether NPM did not answer at all.
    pub fn is_no_answer(&self) -> bool {
        matches!(self.cause(), Cause::Unreachable | Cause::Timeout | Cause::Tls)
    }

    /// Whether another try within a minute would only be refused again.
    pub fn is_refusal(&self) -> bool {
        self.cause() == Cause::Refused && !self.is_of_user() && *self != Self::NoService
    }

    /// Whether NPM has no user whom the person may sign in as: no fault of NPM's, nor of an account's.
    pub fn is_of_user(&self) -> bool {
        matches!(self, Self::NoUser | Self::SeveralUsers | Self::Disabled | Self::ServiceUser)
    }
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Refused,
    Unreachable,
    Timeout,
    Tls,
    Answer,
    Local,
}

impl Cause {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Refused, Self::Unreachable, Self::Timeout, Self::Tls, Self::Answer, Self::Local];

    /// The kind in one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Answer => "answer",
            Self::Local => "local",
        }
    }
}

/// An NPM that issues tokens: where it is and how it is reached.
pub struct Issuer {
    url: BaseUrl,
    timeout: Duration,
    certificates: Vec<Certificate<'static>>,
    /// Made on the first login, in the worker process that needs it: its connections stay there.
    agent: OnceLock<Agent>,
    deadline: Deadline,
}

impl Issuer {
    /// An NPM at `url`, each call to which takes no longer than `timeout`.
    /// Without `certificates`, https trusts the public authorities.
    pub fn new(url: BaseUrl, timeout: Duration, certificates: Vec<Certificate<'static>>) -> Self {
        Self { url, timeout, certificates, agent: OnceLock::new(), deadline: Deadline::default() }
    }

    /// The base URL.
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The longest time that one call takes, from name resolution to the answer's last byte.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Logs in: `POST /api/tokens`, and `POST /api/tokens/2fa` where NPM asks for a code. Blocks, up
    /// to the timeout, in which the account's role is asked for as well.
    ///
    /// # Errors
    ///
    /// See [`LoginError`]. No error holds any of the answer's text: a server that echoes what it
    /// is sent would put the secret there.
    pub fn log_in(&self, credentials: &Credentials) -> Result<(Token, Role), LoginError> {
        self.log_in_by(credentials, unix_millis)
    }

    /// The same, with the clock by which two-factor codes are made. Milliseconds since 1970.
    ///
    /// # Errors
    ///
    /// As [`Self::log_in`].
    pub fn log_in_by(
        &self,
        credentials: &Credentials,
        clock: impl FnMut() -> Millis,
    ) -> Result<(Token, Role), LoginError> {
        #[derive(Serialize)]
        struct Login<'a> {
            identity: &'a str,
            secret: &'a str,
        }
        let login = Login { identity: &credentials.identity, secret: credentials.secret.expose() };

        self.deadline.begin(self.timeout);
        let sent_at = unix_millis();
        let token = match self.post("/api/tokens", &login)? {
            (200, answer) => match issued(&answer, sent_at)? {
                Issued::Token(token) => token,
                Issued::Challenge(challenge) => {
                    let totp = credentials.totp.as_ref().ok_or(LoginError::TwoFactor)?;
                    self.answer_challenge(&challenge, totp, clock)?
                }
            },
            // NPM answers 400 to a wrong password (observed on 2.13 and 2.15).
            (400, _) => return Err(LoginError::Refused),
            (status, _) => return Err(LoginError::Status(status)),
        };
        self.with_role(token)
    }

    /// Sends a two-factor code, made as late as can be, and another one where the first may have come
    /// late for its step.
    fn answer_challenge(
        &self,
        challenge: &str,
        totp: &TotpSecret,
        mut clock: impl FnMut() -> Millis,
    ) -> Result<Token, LoginError> {
        #[derive(Serialize)]
        struct Code<'a> {
            challenge_token: &'a str,
            code: &'a str,
        }
        let mut is_last = false;
        loop {
            let (made_at, sent_at) = (clock(), unix_millis());
            let code = Zeroizing::new(totp.code(made_at));
            let code = Code { challenge_token: challenge, code: &code };
            match self.post("/api/tokens/2fa", &code)? {
                (200, answer) => match issued(&answer, sent_at)? {
                    Issued::Token(token) => return Ok(token),
                    Issued::Challenge(_) => return Err(LoginError::NotToken),
                },
                (400, _) if !is_last && may_have_been_late(made_at, clock()) => is_last = true,
                (400, _) => return Err(LoginError::RefusedCode),
                (status, _) => return Err(LoginError::Status(status)),
            }
        }
    }

    /// Renews a token that is still valid: `GET /api/tokens`. Blocks as [`Self::log_in`] does.
    ///
    /// # Errors
    ///
    /// As [`Self::log_in`].
    pub fn renew(&self, authorization: &str) -> Result<(Token, Role), LoginError> {
        self.deadline.begin(self.timeout);
        let sent_at = unix_millis();
        match self.get("/api/tokens", authorization)? {
            (200, answer) => match issued(&answer, sent_at)? {
                Issued::Token(token) => self.with_role(token),
                Issued::Challenge(_) => Err(LoginError::NotToken),
            },
            (status, _) => Err(LoginError::Status(status)),
        }
    }

    /// Asks whether NPM takes a token, and what its account may do: `GET /api/users/me`, the one
    /// request that fails when the token, or its user, is no longer good. Blocks, up to the timeout.
    ///
    /// # Errors
    ///
    /// As [`Self::log_in`], when NPM does not say so either way.
    pub fn takes(&self, authorization: &str) -> Result<Option<Role>, LoginError> {
        self.deadline.begin(self.timeout);
        Ok(self.me(authorization)?.map(|me| me.role()))
    }

    /// A token, with what NPM lets it do. It is good also where NPM does not say that.
    fn with_role(&self, token: Token) -> Result<(Token, Role), LoginError> {
        let me = self.me(token.authorization()).ok().flatten().unwrap_or_default();
        Ok((token, me.role()))
    }

    /// Whose a token is, if NPM takes it.
    pub(super) fn me(&self, authorization: &str) -> Result<Option<Me>, LoginError> {
        match self.get("/api/users/me", authorization)? {
            (200, answer) => Ok(Some(serde_json::from_slice(&answer).unwrap_or_default())),
            // A dead token is a client's error to NPM, or a crash of its own handler.
            (400..=404 | 500, _) => Ok(None),
            (status, _) => Err(LoginError::Status(status)),
        }
    }

    /// Begins what is to take no longer than the timeout, in all.
    pub(super) fn begin(&self) {
        self.deadline.begin(self.timeout);
    }

    /// The token in an answer that has just come.
    ///
    /// # Errors
    ///
    /// When it holds none that can be used.
    pub fn token_in(&self, answer: &[u8]) -> Result<Token, LoginError> {
        match issued(answer, unix_millis())? {
            Issued::Token(token) => Ok(token),
            Issued::Challenge(_) => Err(LoginError::NotToken),
        }
    }

    fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, LoginError> {
        self.send(self.agent().post(self.address(path)), body)
    }

    fn send(
        &self,
        request: RequestBuilder<WithBody>,
        body: &impl Serialize,
    ) -> Result<Answer, LoginError> {
        let body = serde_json::to_vec(body).map(Zeroizing::new);
        let body = body.map_err(|error| LoginError::Local(error.to_string()))?;
        self.answer(request.content_type("application/json").send(&body[..]))
    }

    pub(super) fn get(&self, path: &str, authorization: &str) -> Result<Answer, LoginError> {
        let request = self.agent().get(self.address(path));
        self.answer(request.header("Authorization", authorization).call())
    }

    /// As [`Self::get`], for a list of users.
    pub(super) fn list(&self, path: &str, authorization: &str) -> Result<Answer, LoginError> {
        let request = self.agent().get(self.address(path));
        self.answer_up_to(LIST_MAX, request.header("Authorization", authorization).call())
    }

    pub(super) fn delete(&self, path: &str, authorization: &str) -> Result<Answer, LoginError> {
        let request = self.agent().delete(self.address(path));
        self.answer(request.header("Authorization", authorization).call())
    }

    pub(super) fn post_nothing(
        &self,
        path: &str,
        authorization: &str,
    ) -> Result<Answer, LoginError> {
        let request = self.agent().post(self.address(path));
        self.answer(request.header("Authorization", authorization).send_empty())
    }

    pub(super) fn post_with(
        &self,
        path: &str,
        authorization: &str,
        body: &impl Serialize,
    ) -> Result<Answer, LoginError> {
        let request = self.agent().post(self.address(path));
        self.send(request.header("Authorization", authorization), body)
    }

    pub(super) fn put(
        &self,
        path: &str,
        authorization: &str,
        body: &impl Serialize,
    ) -> Result<Answer, LoginError> {
        let request = self.agent().put(self.address(path));
        self.send(request.header("Authorization", authorization), body)
    }

    fn address(&self, path: &str) -> String {
        format!("{}{path}", self.url())
    }

    /// Status and body of an answer.
    fn answer(&self, sent: Result<Response<Body>, ureq::Error>) -> Result<Answer, LoginError> {
        self.answer_up_to(RESPONSE_MAX, sent)
    }

    fn answer_up_to(
        &self,
        limit: u64,
        sent: Result<Response<Body>, ureq::Error>,
    ) -> Result<Answer, LoginError> {
        let mut response = sent.map_err(|error| self.explain(error))?;
        let body = response.body_mut().with_config().limit(limit).read_to_vec();
        let body = body.map_err(|error| self.explain(error))?;
        Ok((response.status().as_u16(), Zeroizing::new(body)))
    }

    /// What makes the calls, none of which goes beyond the deadline.
    fn agent(&self) -> &Agent {
        self.agent.get_or_init(|| {
            let roots = match &self.certificates[..] {
                [] => RootCerts::WebPki,
                certificates => RootCerts::Specific(Arc::new(certificates.to_vec())),
            };
            let config = Agent::config_builder()
                .timeout_global(Some(self.timeout))
                .http_status_as_error(false)
                .max_redirects(0)
                .proxy(None)
                .user_agent(concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")))
                .tls_config(TlsConfig::builder().root_certs(roots).build())
                .build();
            let connector = TcpConnector::default()
                .chain(self.deadline.clone())
                .chain(RustlsConnector::default());
            Agent::with_parts(config, connector, DefaultResolver::default())
        })
    }

    fn explain(&self, error: ureq::Error) -> LoginError {
        match error {
            ureq::Error::Timeout(_) => LoginError::Timeout(self.timeout),
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => {
                LoginError::Timeout(self.timeout)
            }
            // ureq gives a connection whole milliseconds, and when those have passed, but not what
            // is left of the last one, it says that the connection was refused (`try_connect` in
            // 3.2).
            ureq::Error::Io(error)
                if error.kind() == io::ErrorKind::ConnectionRefused && self.deadline.is_over() =>
            {
                LoginError::Timeout(self.timeout)
            }
            // rustls reports a certificate that it does not trust through the socket.
            ureq::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                LoginError::Tls(error.to_string())
            }
            // No descriptor is left, in this process or at all (ENFILE, EMFILE).
            ureq::Error::Io(error) if matches!(error.raw_os_error(), Some(23 | 24)) => {
                LoginError::Local(error.to_string())
            }
            ureq::Error::Rustls(error) => LoginError::Tls(error.to_string()),
            ureq::Error::Tls(error) => LoginError::Tls(error.to_owned()),
            ureq::Error::BodyExceedsLimit(limit) => LoginError::TooLarge(limit),
            ureq::Error::LargeResponseHeader(..) => LoginError::TooLarge(RESPONSE_MAX),
            ureq::Error::Protocol(_) | ureq::Error::Http(_) => LoginError::NotToken,
            other => LoginError::Unreachable(other.to_string()),
        }
    }
}

/// What NPM answers to a login.
enum Issued {
    Token(Token),
    /// To be sent back with a two-factor code.
    Challenge(Zeroizing<String>),
}

/// What is in the answer to a login, or to a renewal, that was sent at `sent_at`.
fn issued(answer: &[u8], sent_at: Millis) -> Result<Issued, LoginError> {
    #[derive(Deserialize)]
    struct Answer {
        token: Option<Zeroizing<String>>,
        #[serde(default)]
        requires_2fa: bool,
        challenge_token: Option<Zeroizing<String>>,
    }
    let answer: Answer = serde_json::from_slice(answer).map_err(|_| LoginError::NotToken)?;
    if answer.requires_2fa {
        return answer.challenge_token.map(Issued::Challenge).ok_or(LoginError::NotToken);
    }
    let token = answer.token.ok_or(LoginError::NotToken)?;
    Ok(Issued::Token(Token::issued(&token, sent_at)?))
}

/// NPM's answer to the question who one is. Empty where that is no user.
#[derive(Default, Deserialize)]
pub struct Me {
    #[serde(default)]
    pub id: Option<u64>,
    #[serde(default)]
    roles: Vec<String>,
}

impl Me {
    pub fn role(&self) -> Role {
        role_of(&self.roles)
    }
}

/// The role of a user for whom NPM names these.
pub(super) fn role_of(names: &[String]) -> Role {
    match names.iter().any(|name| name == "admin") {
        true => Role::Administrator,
        false => Role::Standard,
    }
}

/// The certificates in a PEM file's text.
///
/// # Errors
///
/// When the text has no certificate, or one that cannot be read.
pub fn parse_certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>, String> {
    let mut certificates = Vec::new();
    for item in ureq::tls::parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    if certificates.is_empty() {
        return Err("it holds no certificate in PEM form".to_owned());
    }
    Ok(certificates)
}

/// The Unix clock.
pub fn unix_millis() -> Millis {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as Millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_has_npms_role_of_that_name_is_an_administrator() {
        let role = |answer: &str| serde_json::from_str::<Me>(answer).unwrap_or_default().role();
        assert_eq!(role(r#"{"id": 1, "roles": ["admin"]}"#), Role::Administrator);
        assert_eq!(role(r#"{"id": 1, "roles": ["user", "admin"]}"#), Role::Administrator);
        for other in [
            r#"{"roles": []}"#,
            r#"{"roles": ["Admin", "administrator"]}"#,
            r#"{"roles": "admin"}"#,
            r#"{"roles": null}"#,
            r#"{"id": 1}"#,
            r#"{"error": {"roles": ["admin"]}}"#,
            "[]",
            "",
        ] {
            assert_eq!(role(other), Role::Standard, "{other}");
        }
    }

    #[test]
    fn npm_is_looked_for_at_its_own_port() {
        for (text, port) in [("", 81), ("8181", 8181), ("1", 1), ("65535", 65535)] {
            assert_eq!(parse_port(text.as_ref()), NonZeroU16::new(port), "{text}");
        }
        for text in ["0", "65536", "-1", "81;", " 81", "eighty"] {
            assert_eq!(parse_port(text.as_ref()), None, "{text}");
        }
    }
}
