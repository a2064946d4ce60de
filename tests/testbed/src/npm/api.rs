//! NPM's API, `/api/…`.

use std::sync::{Arc, Mutex};

use serde::Serialize;
use serde_json::{json, Map, Value};

use super::fault;
use super::page;
use super::token::{Claims, Lifetime, Refusal};
use super::totp::totp;
use super::user::User;
use super::{front_headers, Release, State};
use crate::clock;
use crate::server::{form_fields, lock, Answer, Request, Response};
use crate::wait::Stop;

/// The most that the body parsers take, in bytes.
const BODY_MAX: usize = 100 * 1024;

type Result<T = Response> = std::result::Result<T, Response>;

/// Answers a request to port 81.
pub(super) fn answer(state: &Mutex<State>, request: &Request, stop: &Arc<Stop>) -> Answer {
    let response = if request.authorization().len() > 1 {
        // NPM's nginx refuses it before any location is chosen.
        page::error(400, "Bad Request")
    } else if request.path == "/api" {
        page::redirect(request, "/api/")
    } else if let Some(path) = request.path.strip_prefix("/api/") {
        if request.method == "POST" && matches!(path, "tokens" | "tokens/") {
            let mut state_now = lock(state);
            state_now.logins += 1;
            let fault = state_now.fault.clone();
            drop(state_now);
            if let Some(fault) = fault {
                return fault::answer(fault, state, request, stop);
            }
        }
        let response = route(state, request, path, stop).unwrap_or_else(|refusal| refusal);
        return dressed(state, request, response).into();
    } else if request.path.starts_with("/echo") {
        echo(request)
    } else {
        page::answer(request, lock(state).release)
    };
    let mut headers = front_headers(state);
    response.headers.iter().for_each(|(name, value)| headers.push(name, value));
    Response { headers, ..response }.into()
}

/// Tells what reached NPM. The real one has no such path.
fn echo(request: &Request) -> Response {
    let headers: Vec<_> = request.headers.iter().collect();
    Response::json(
        200,
        json!({
            "method": request.method, "path": request.path, "query": request.query,
            "headers": headers, "body_length": request.body.len(),
        }),
    )
}

fn route(state: &Mutex<State>, request: &Request, path: &str, stop: &Stop) -> Result {
    let parts: Vec<&str> = path.trim_end_matches('/').split('/').collect();
    let method = if request.method == "HEAD" { "GET" } else { &*request.method };
    match (method, parts.as_slice()) {
        ("POST", ["tokens"]) => login(state, request, stop),
        ("POST", ["tokens", "2fa"]) => second_factor(state, request),
        ("OPTIONS", ["tokens" | "users" | "nginx" | "reports" | "settings" | "audit-log", ..]) => {
            Ok(Response::new(204))
        }
        ("GET", [""]) => Ok(Response::json(
            200,
            format!(
                r#"{{"status":"OK","setup":true,"version":{}}}"#,
                lock(state).release.version()
            ),
        )),
        ("GET", ["version", "check"]) => {
            Ok(Response::json(200, r#"{"current":null,"latest":null,"update_available":false}"#))
        }
        // Only below a router's own path a slash at the end does not matter.
        (_, [_, _, ..]) if path.ends_with('/') => Err(not_found(path)),
        (_, ["tokens" | "users" | "nginx" | "reports" | "settings" | "audit-log", ..]) => {
            let body = body(request)?;
            if (method, parts.as_slice()) == ("GET", &["tokens"]) {
                let renewal_time = lock(state).renewal_time;
                stop.pause(renewal_time);
            }
            let mut state = lock(state);
            let claims = state.claims(request)?;
            let release = state.release;
            let user = claims.as_ref().and_then(|claims| state.signed_in(claims));
            Call { path, method, request, body, release, claims, user }.answer(&mut state, &parts)
        }
        _ => Err(not_found(path)),
    }
}

/// A request for what needs a token.
struct Call<'a> {
    path: &'a str,
    method: &'a str,
    request: &'a Request,
    body: Option<Map<String, Value>>,
    release: Release,
    claims: Option<Claims>,
    user: Option<User>,
}

impl Call<'_> {
    fn answer(&self, state: &mut State, parts: &[&str]) -> Result {
        match (self.method, parts) {
            ("GET", ["tokens"]) => self.renew(state),
            ("GET", ["users"]) => self.list_users(state),
            ("POST", ["users"]) => self.make_user(state),
            ("GET", ["users", id]) => self.show_user(state, self.id(id)?),
            ("PUT", ["users", id]) => self.change_user(state, self.id(id)?),
            ("DELETE", ["users", id]) => self.delete_user(state, self.id(id)?),
            ("PUT", ["users", id, "auth"]) => self.change_secret(state, self.id(id)?),
            ("PUT", ["users", _, "permissions"]) => {
                self.permitted(self.is_administrator())?;
                Ok(Response::json(200, "true"))
            }
            ("POST", ["users", id, "login"]) => self.sign_in_as(state, id),
            ("GET", ["audit-log"]) => {
                self.permitted(self.is_administrator())?;
                Ok(Response::json(200, "[]"))
            }
            (
                "GET",
                ["nginx", "proxy-hosts" | "redirection-hosts" | "dead-hosts" | "streams" | "access-lists"
                | "certificates"],
            ) => {
                self.permitted(self.user.is_some())?;
                Ok(Response::json(200, "[]"))
            }
            ("GET", ["reports", "hosts"]) => {
                self.permitted(self.user.is_some())?;
                Ok(Response::json(200, r#"{"proxy":0,"redirection":0,"stream":0,"dead":0}"#))
            }
            _ => Err(not_found(self.path)),
        }
    }

    fn is_administrator(&self) -> bool {
        self.user.as_ref().is_some_and(User::is_administrator)
    }

    fn is_self(&self, id: u64) -> bool {
        self.user.as_ref().is_some_and(|user| user.id == id)
    }

    /// What is not permitted is not found, before 2.16.
    fn permitted(&self, is: bool) -> Result<()> {
        match self.release {
            _ if is => Ok(()),
            Release::V2_15 => Err(not_found(self.path)),
            Release::V2_16 => Err(error(403, "Permission Denied")),
        }
    }

    fn id(&self, text: &str) -> Result<u64> {
        match (text, &self.claims) {
            ("me", Some(claims)) => Ok(claims.user),
            // NPM reads the id of a user whom it does not have.
            ("me", None) => Err(internal_error()),
            (text, _) => text.parse().map_err(|_| error(400, "Internal Error")),
        }
    }

    /// Of other users only administrators may know.
    fn user_of<'s>(&self, state: &'s mut State, id: u64) -> Result<&'s mut User> {
        self.permitted(self.is_administrator() || self.is_self(id))?;
        state.users.of_id(id).ok_or_else(|| error(404, &format!("Not Found - {id}")))
    }

    fn renew(&self, state: &mut State) -> Result {
        let claims = self.claims.as_ref().ok_or_else(internal_error)?;
        let lifetime = match self.request.query_value("expiry") {
            None => state.day(),
            Some(name) => Lifetime::parse(&name)
                .ok_or_else(|| error(400, &format!("Invalid expiry time: {name}")))?,
        };
        // Also of a user who is no longer there: NPM does not look.
        let user = state.users.of_any_id(claims.user).cloned().ok_or_else(internal_error)?;
        let (token, expires) = state.issue(&user, &claims.scope, &lifetime);
        Ok(token_answer(&token, &expires))
    }

    fn list_users(&self, state: &State) -> Result {
        self.permitted(self.is_administrator())?;
        let expand = self.request.query_value("expand");
        let text = self.request.query_value("query").unwrap_or_default();
        let users = state.users.list(&text);
        let users: Vec<_> = users.iter().map(|user| user.shown(expand.as_deref())).collect();
        Ok(Response::json(200, json!(users)))
    }

    fn make_user(&self, state: &mut State) -> Result {
        let required = ["name", "nickname", "email"];
        let fields = Fields::new(&self.body, &required, &["roles", "is_disabled", "auth"])?;
        let email = fields.text("email")?.unwrap_or_default();
        self.permitted(self.is_administrator())?;
        let secret = fields.0.get("auth").and_then(|auth| auth["secret"].as_str());
        let user = state.users.add(&email, secret.unwrap_or_default(), false);
        fields.change(user)?;
        // Only a change folds the address.
        user.email = email;
        Ok(Response::json(201, user.shown(Some("permissions"))))
    }

    fn show_user(&self, state: &mut State, id: u64) -> Result {
        let expand = self.request.query_value("expand");
        Ok(Response::json(200, self.user_of(state, id)?.shown(expand.as_deref())))
    }

    fn change_user(&self, state: &mut State, id: u64) -> Result {
        let known = ["name", "nickname", "email", "roles", "is_disabled"];
        let mut fields = Fields::new(&self.body, &[], &known)?;
        if fields.0.is_empty() {
            return Err(error(400, "data must NOT have fewer than 1 properties"));
        }
        if !self.is_administrator() {
            fields.0.remove("roles");
        }
        let now = clock::sql(state.now());
        let user = self.user_of(state, id)?;
        fields.change(user)?;
        user.modified_on = now;
        Ok(Response::json(200, user.shown(None)))
    }

    fn delete_user(&self, state: &mut State, id: u64) -> Result {
        self.permitted(self.is_administrator())?;
        if self.is_self(id) {
            return Err(error(403, "Permission Denied"));
        }
        self.user_of(state, id)?.is_deleted = true;
        Ok(Response::json(200, "true"))
    }

    fn change_secret(&self, state: &mut State, id: u64) -> Result {
        let fields = Fields::new(&self.body, &["type", "secret"], &["current"])?;
        let current = fields.text("current")?;
        let user = self.user_of(state, id)?;
        if self.is_self(id) {
            match current {
                None => return Err(error(400, "Current password was not supplied")),
                Some(current) if current != user.secret => return Err(wrong_password()),
                Some(_) => {}
            }
        }
        user.change_secret(&fields.text("secret")?.unwrap_or_default());
        Ok(Response::json(200, "true"))
    }

    fn sign_in_as(&self, state: &mut State, id: &str) -> Result {
        self.permitted(self.is_administrator())?;
        // What is no number is oneself.
        let own = self.user.as_ref().map_or(0, |user| user.id);
        let user = self.user_of(state, id.parse().unwrap_or(own))?;
        let (user, shown) = (user.clone(), user.shown(None));
        let day = state.day();
        let (token, expires) = state.issue(&user, "user", &day);
        Ok(Response::json(200, json!({"token": token, "expires": expires, "user": shown})))
    }
}

/// `POST /api/tokens`, without any fault.
pub(super) fn login(state: &Mutex<State>, request: &Request, stop: &Stop) -> Result {
    let fields = Fields::new(&body(request)?, &["identity", "secret"], &["scope"])?;
    let identity = fields.text("identity")?.unwrap_or_default();
    let secret = fields.text("secret")?.unwrap_or_default();
    if fields.text("scope")?.is_some_and(|scope| scope != "user") {
        return Err(error(400, "data/scope must be equal to one of the allowed values"));
    }

    let mut state_now = lock(state);
    let user = state_now.users.of_identity(identity.to_lowercase().trim());
    let Some(user) = user.filter(|user| user.is_live() && !user.secret.is_empty()).cloned() else {
        return Err(error(400, "Invalid email or password"));
    };
    let login_time = state_now.login_time;
    drop(state_now);
    stop.pause(login_time);
    if secret != user.secret {
        return Err(wrong_password());
    }

    let mut state = lock(state);
    if user.totp_secret.is_some() {
        let five_minutes = Lifetime::parse("5m").unwrap_or_else(|| state.day());
        let (token, _) = state.issue(&user, "2fa-challenge", &five_minutes);
        let challenge = format!(r#"{{"requires_2fa":true,"challenge_token":"{token}"}}"#);
        return Ok(Response::json(200, challenge));
    }
    let day = state.day();
    let (token, expires) = state.issue(&user, "user", &day);
    Ok(token_answer(&token, &expires))
}

/// `POST /api/tokens/2fa`.
fn second_factor(state: &Mutex<State>, request: &Request) -> Result {
    let fields = Fields::new(&body(request)?, &["challenge_token", "code"], &[])?;
    let challenge = fields.text("challenge_token")?.unwrap_or_default();
    let code = fields.text("code")?.unwrap_or_default();
    if code.len() < 6 {
        return Err(error(400, "data/code must NOT have fewer than 6 characters"));
    }

    let mut state = lock(state);
    let now = state.now();
    let claims = state.tokens.verify(&challenge, now).cloned();
    let claims = claims.map_err(|_| error(400, "Invalid or expired challenge token"))?;
    if claims.scope != "2fa-challenge" {
        return Err(error(400, "Invalid challenge token"));
    }
    let user = state.users.of_id(claims.user).cloned();
    let user = user.ok_or_else(|| error(400, "Invalid challenge token"))?;
    let seconds = u64::try_from(now.div_euclid(1000)).unwrap_or_default();
    if user.totp_secret.as_ref().is_none_or(|secret| totp(secret, seconds) != code) {
        return Err(error_of(
            json!({"code": 400, "message": "Invalid verification code", "message_i18n": "error.invalid-2fa"}),
        ));
    }
    let day = state.day();
    let (token, expires) = state.issue(&user, "user", &day);
    Ok(token_answer(&token, &expires))
}

impl State {
    /// What the request's token says; `None` where it has none.
    fn claims(&self, request: &Request) -> Result<Option<Claims>> {
        let mut words = request.header("Authorization").unwrap_or_default().split(' ');
        let (scheme, token) = (words.next(), words.next().unwrap_or_default());
        if scheme != Some("Bearer") || token.is_empty() {
            return Ok(None);
        }
        if token == "null" {
            return Err(error(400, "Empty token"));
        }
        let claims = self.tokens.verify(token, self.now()).map_err(|refusal| match refusal {
            Refusal::Unknown => internal_error(),
            Refusal::Expired(since) => error_of(json!({
                "code": 400, "message": "Token has expired", "message_i18n": {
                    "name": "TokenExpiredError", "message": "jwt expired",
                    "expiredAt": clock::iso8601(since * 1000),
                },
            })),
        })?;
        let user = self.users.of_any_id(claims.user);
        if self.release == Release::V2_16 && user.is_some_and(|user| user.changes > claims.changes)
        {
            return Err(error(401, "The password has been changed"));
        }
        Ok(Some(claims.clone()))
    }

    /// The live user whose token it is. A challenge's token signs nobody in.
    fn signed_in(&mut self, claims: &Claims) -> Option<User> {
        let user = self.users.of_id(claims.user)?;
        (user.is_live() && claims.scope == "user").then(|| user.clone())
    }
}

/// The fields of a body, checked as NPM's schema does.
struct Fields(Map<String, Value>);

impl Fields {
    fn new(
        body: &Option<Map<String, Value>>,
        required: &[&str],
        optional: &[&str],
    ) -> Result<Self> {
        let body = body.clone().ok_or_else(|| error(400, "Payload is undefined"))?;
        let missing = required.iter().filter(|name| !body.contains_key(**name));
        let mut wrong: Vec<String> =
            missing.map(|name| format!("data must have required property '{name}'")).collect();
        let is_known = |name| required.iter().chain(optional).any(|known| known == name);
        if !body.keys().all(is_known) {
            wrong.push("data must NOT have additional properties".into());
        }
        if wrong.is_empty() {
            Ok(Self(body))
        } else {
            Err(error(400, &wrong.join(", ")))
        }
    }

    /// A text of at least one character. Numbers and booleans are taken for texts.
    fn text(&self, name: &str) -> Result<Option<String>> {
        match self.0.get(name) {
            None => Ok(None),
            Some(value) if *value == Value::Null || *value == "" => {
                Err(error(400, &format!("data/{name} must NOT have fewer than 1 characters")))
            }
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => Ok(Some(value.to_string())),
            Some(_) => Err(error(400, &format!("data/{name} must be string"))),
        }
    }

    /// Puts the fields into a user.
    fn change(&self, user: &mut User) -> Result<()> {
        if let Some(name) = self.text("name")? {
            user.name = name;
        }
        if let Some(nickname) = self.text("nickname")? {
            user.nickname = nickname;
        }
        if let Some(email) = self.text("email")? {
            user.email = email.to_lowercase().trim().to_owned();
        }
        match self.0.get("roles") {
            None => {}
            Some(Value::Array(roles)) => {
                user.roles = roles.iter().filter_map(Value::as_str).map(str::to_owned).collect();
            }
            Some(_) => return Err(error(400, "data/roles must be array")),
        }
        match self.0.get("is_disabled") {
            None => {}
            Some(Value::Bool(is)) => user.is_disabled = *is,
            Some(Value::String(text)) if text == "true" || text == "false" => {
                user.is_disabled = text == "true";
            }
            Some(_) => return Err(error(400, "data/is_disabled must be boolean")),
        }
        Ok(())
    }
}

/// What NPM's body parsers make of a body; `None` where its type is none of theirs.
fn body(request: &Request) -> Result<Option<Map<String, Value>>> {
    let kind = request.header("Content-Type").unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let form = kind == "application/x-www-form-urlencoded";
    if !form && kind != "application/json" {
        return Ok(None);
    }
    if request.body.len() > BODY_MAX {
        return Err(error(413, "Internal Error"));
    }
    let text = String::from_utf8_lossy(&request.body);
    if form {
        return Ok(Some(nested(form_fields(&text))));
    }
    if text.is_empty() {
        return Ok(Some(Map::new()));
    }
    match serde_json::from_str(&text) {
        Ok(Value::Object(fields)) => Ok(Some(fields)),
        Ok(Value::Array(_)) => Err(error(400, "data must be object")),
        _ => Err(error(400, "Internal Error")),
    }
}

/// A form's fields, with `name[]=…` as a list and `name[key]=…` as an object.
fn nested(fields: Vec<(String, String)>) -> Map<String, Value> {
    let mut body = Map::new();
    for (name, value) in fields {
        let value = Value::String(value);
        match name.split_once('[').map(|(name, key)| (name, key.trim_end_matches(']'))) {
            None => drop(body.insert(name, value)),
            Some((name, "")) => match body.entry(name).or_insert_with(|| json!([])) {
                Value::Array(list) => list.push(value),
                other => *other = value,
            },
            Some((name, key)) => match body.entry(name).or_insert_with(|| json!({})) {
                Value::Object(object) => drop(object.insert(key.to_owned(), value)),
                other => *other = value,
            },
        }
    }
    body
}

/// A response with the headers that NPM adds.
pub(super) fn dressed(state: &Mutex<State>, request: &Request, response: Response) -> Response {
    let mut headers = front_headers(state);
    response.headers.iter().for_each(|(name, value)| headers.push(name, value));
    for (name, value) in [
        ("X-XSS-Protection", "1; mode=block"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Cache-Control", "no-cache, no-store, max-age=0, must-revalidate"),
        ("Pragma", "no-cache"),
        ("Expires", "0"),
        ("Vary", "Accept-Encoding"),
    ] {
        headers.push(name, value);
    }
    if let Some(origin) = request.header("Origin") {
        headers.push("Access-Control-Allow-Origin", origin);
        for (name, value) in [
            ("Access-Control-Allow-Credentials", "true"),
            ("Access-Control-Allow-Methods", "OPTIONS, GET, POST, PUT, DELETE"),
            ("Access-Control-Allow-Headers", "Content-Type, Cache-Control, Pragma, Expires, Authorization, X-Dataset-Total, X-Dataset-Offset, X-Dataset-Limit"),
            ("Access-Control-Max-Age", "300"),
            ("Access-Control-Expose-Headers", "X-Dataset-Total, X-Dataset-Offset, X-Dataset-Limit"),
        ] {
            headers.push(name, value);
        }
    }
    Response { headers, ..response }
}

pub(super) fn token_answer(token: &str, expires: &str) -> Response {
    #[derive(Serialize)]
    struct Token<'a> {
        token: &'a str,
        expires: &'a str,
    }
    Response::json(200, json_text(&Token { token, expires }))
}

/// In the order of the fields, which a [`Value`] does not keep.
fn json_text(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// `{"error": {"code": …, "message": …}}`.
pub(super) fn error(status: u16, message: &str) -> Response {
    error_of(json!({"code": status, "message": message}))
}

fn error_of(error: Value) -> Response {
    let status = error["code"].as_u64().and_then(|code| u16::try_from(code).ok());
    Response::json(status.unwrap_or(500), json!({"error": error}))
}

fn internal_error() -> Response {
    error(500, "Internal Error")
}

fn not_found(path: &str) -> Response {
    error(404, &format!("Not Found - /{path}"))
}

fn wrong_password() -> Response {
    error_of(
        json!({"code": 400, "message": "Invalid email or password", "message_i18n": "error.invalid-auth"}),
    )
}
