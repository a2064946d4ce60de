//! NPM's API, `/api/…`.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex};

use percent_encoding::{percent_decode_str, utf8_percent_encode, AsciiSet, NON_ALPHANUMERIC};
use serde::Serialize;
use serde_json::{json, Map, Value};

use super::fault;
use super::page;
use super::token::{Claims, Lifetime, Refusal};
use super::totp::{new_secret, totp};
use super::user::{User, PERMISSIONS};
use super::{front_headers, Release, State};
use crate::server::{form_fields, lock, Answer, Request, Response};
use crate::wait::Stop;
use crate::{clock, random};

/// NPM hands a user so many backup codes.
pub(super) const BACKUP_CODES: usize = 8;

/// How many rows of the audit log are shown.
const AUDIT_LOG_MAX: usize = 100;

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
    } else if let Some(path) = path_in_api(&request.path) {
        let path = path.as_str();
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

/// The path below `/api/` that NPM's nginx looks for: decoded, slashes collapsed and dots resolved.
/// What it hands over it encodes again, and the router behind it takes letters as they are.
fn path_in_api(path: &str) -> Option<String> {
    let path = percent_decode_str(path).decode_utf8_lossy().into_owned();
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let is_last = parts.peek().is_none();
        match part {
            "" | "." => {}
            ".." => drop(segments.pop()),
            part => segments.push(part),
        }
        if is_last && matches!(part, "" | "." | "..") {
            segments.push("");
        }
    }
    segments.join("/").strip_prefix("api/").map(str::to_owned)
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
        ("POST", ["tokens", "2fa"]) => second_factor(state, request, stop),
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
            ("PUT", ["users", id, "permissions"]) => self.change_permissions(state, self.id(id)?),
            ("POST", ["users", id, "login"]) => self.sign_in_as(state, id),
            ("GET", ["users", id, "2fa"]) => self.show_second_factor(state, self.id(id)?),
            ("POST", ["users", id, "2fa"]) => self.start_second_factor(state, self.id(id)?),
            ("DELETE", ["users", id, "2fa"]) => self.end_second_factor(state, self.id(id)?),
            ("POST", ["users", id, "2fa", "enable"]) => {
                self.enable_second_factor(state, self.id(id)?)
            }
            ("GET", ["audit-log"]) => self.show_audit_log(state),
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
        let expand = self.request.query_value("expand");
        let text = self.request.query_value("query").unwrap_or_default();
        if text.chars().count() > 255 {
            return Err(error(400, "Internal Error"));
        }
        self.permitted(self.is_administrator())?;
        if expand.as_deref().is_some_and(|names| names != "permissions") {
            return Err(internal_error());
        }
        let users = state.users.list(&text);
        let users: Vec<_> = users.iter().map(|user| user.shown(expand.as_deref())).collect();
        Ok(Response::json(200, json!(users)))
    }

    fn make_user(&self, state: &mut State) -> Result {
        let required = ["name", "nickname", "email"];
        let fields = Fields::new(&self.body, &required, &["roles", "is_disabled", "auth"])?;
        let changes = fields.changes()?;
        self.permitted(self.is_administrator())?;
        let email = changes.email.clone().unwrap_or_default();
        let user = state.users.add_without_permissions(&email, "", false);
        changes.make(user);
        // Only a change folds the address.
        user.email = email;
        let id = user.id;
        // The row of the password goes in the place of the user, of whom the rest needs the id.
        if let Some(auth) = fields.0.get("auth") {
            auth["secret"].as_str().unwrap_or_default().clone_into(&mut user.secret);
            return Err(internal_error());
        }
        state.users.permit(id);
        let shown = self.user_of(state, id)?.shown(Some("permissions"));
        self.note(state, "created", id, shown.clone());
        Ok(Response::json(201, shown))
    }

    fn show_user(&self, state: &mut State, id: u64) -> Result {
        let expand = self.request.query_value("expand");
        Ok(Response::json(200, self.user_of(state, id)?.shown(expand.as_deref())))
    }

    fn change_user(&self, state: &mut State, id: u64) -> Result {
        let known = ["name", "nickname", "email", "roles", "is_disabled"];
        let fields = Fields::new(&self.body, &[], &known)?;
        if fields.0.is_empty() {
            return Err(too_few_properties());
        }
        let mut changes = fields.changes()?;
        let mut meta = fields.0;
        if !self.is_administrator() {
            changes.roles = None;
            meta.remove("roles");
        }
        self.user_of(state, id)?;
        if let Some(email) = &mut changes.email {
            *email = email.to_lowercase().trim().to_owned();
            meta.insert("email".to_owned(), json!(email));
            if state.users.is_taken(email, id) {
                return Err(error(400, &format!("Email address already in use - {email}")));
            }
        }
        let now = clock::sql(state.now());
        let user = self.user_of(state, id)?;
        changes.make(user);
        user.modified_on = now;
        let shown = user.shown(None);
        meta.extend([("id".to_owned(), json!(id)), ("name".to_owned(), shown["name"].clone())]);
        self.note(state, "updated", id, Value::Object(meta));
        Ok(Response::json(200, shown))
    }

    fn delete_user(&self, state: &mut State, id: u64) -> Result {
        self.permitted(self.is_administrator())?;
        if self.is_self(id) {
            return Err(error(403, "Permission Denied"));
        }
        let user = self.user_of(state, id)?;
        let shown = user.shown(None);
        user.is_deleted = true;
        self.note(state, "deleted", id, shown);
        Ok(Response::json(200, "true"))
    }

    fn change_permissions(&self, state: &mut State, id: u64) -> Result {
        let fields = self.body.clone().ok_or_else(|| error(400, "Payload is undefined"))?;
        if fields.is_empty() {
            return Err(too_few_properties());
        }
        for (name, value) in &fields {
            let allowed: &[&str] = match name.as_str() {
                "visibility" => &["all", "user"],
                name if PERMISSIONS.contains(&name) => &["hidden", "view", "manage"],
                // What it does not know, it leaves to the database.
                _ => continue,
            };
            if !value.as_str().is_some_and(|value| allowed.contains(&value)) {
                let message = format!("data/{name} must be equal to one of the allowed values");
                return Err(error(400, &message));
            }
        }
        self.permitted(self.is_administrator())?;
        let mut meta = json!({"name": self.user_of(state, id)?.name});
        match state.users.set_permissions(id, fields) {
            Err(()) => return Err(internal_error()),
            Ok(Some(permissions)) => meta["permissions"] = permissions,
            Ok(None) => {}
        }
        self.note(state, "updated", id, meta);
        Ok(Response::json(200, "true"))
    }

    fn change_secret(&self, state: &mut State, id: u64) -> Result {
        let fields = Fields::of(&self.body, &["type", "secret"])?;
        let kind = fields.text("type", 0..=usize::MAX)?;
        let current = fields.text("current", 1..=64)?;
        let secret = fields.text("secret", 8..=64)?.unwrap_or_default();
        if kind.is_some_and(|kind| kind != "password") {
            return Err(error(400, "data/type must match pattern \"^password$\""));
        }
        let user = self.user_of(state, id)?;
        if self.is_self(id) {
            match current {
                None => return Err(error(400, "Current password was not supplied")),
                Some(current) if current != user.secret => return Err(wrong_password()),
                Some(_) => {}
            }
        }
        user.change_secret(&secret);
        let name = user.name.clone();
        let meta = json!({"name": name, "password_changed": true, "auth_type": "password"});
        self.note(state, "updated", id, meta);
        Ok(Response::json(200, "true"))
    }

    /// The user, who has a password: 2FA is kept beside it.
    fn user_with_secret<'s>(&self, state: &'s mut State, id: u64) -> Result<&'s mut User> {
        match self.user_of(state, id)? {
            user if user.secret.is_empty() => Err(error(404, "Not Found - Auth not found")),
            user => Ok(user),
        }
    }

    fn show_second_factor(&self, state: &mut State, id: u64) -> Result {
        let factor = &self.user_with_secret(state, id)?.second_factor;
        let (enabled, left) = (factor.secret.is_some(), factor.backup_codes.len());
        Ok(Response::json(200, json!({"enabled": enabled, "backup_codes_remaining": left})))
    }

    fn start_second_factor(&self, state: &mut State, id: u64) -> Result {
        let user = self.user_with_secret(state, id)?;
        if user.second_factor.secret.is_some() {
            return Err(error(400, "2FA is already enabled"));
        }
        let secret = new_secret();
        user.second_factor.pending = Some(secret.clone());
        // As encodeURIComponent.
        const SET: &AsciiSet =
            &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
        let label = utf8_percent_encode(&user.email, SET);
        let name = "Nginx%20Proxy%20Manager";
        let url = format!("otpauth://totp/{name}:{label}?secret={secret}&issuer={name}");
        Ok(Response::json(200, json!({"secret": secret, "otpauth_url": url})))
    }

    fn enable_second_factor(&self, state: &mut State, id: u64) -> Result {
        let fields = Fields::new(&self.body, &["code"], &[])?;
        let code = fields.text("code", 6..=8)?.unwrap_or_default();
        let seconds = state.seconds();
        let factor = &mut self.user_with_secret(state, id)?.second_factor;
        let Some(pending) = factor.pending.clone() else {
            return Err(error(400, "No pending 2FA setup found"));
        };
        if !is_code(&code) {
            return Err(internal_error());
        }
        if totp(&pending, seconds) != code {
            return Err(error(400, "Invalid verification code"));
        }
        factor.pending = None;
        factor.secret = Some(pending);
        factor.backup_codes = backup_codes();
        Ok(Response::json(200, json!({"backup_codes": factor.backup_codes})))
    }

    fn end_second_factor(&self, state: &mut State, id: u64) -> Result {
        let code = self.request.query_value("code").filter(|code| !code.is_empty());
        let code = code.ok_or_else(|| error(400, "Missing required parameter: code"))?;
        let seconds = state.seconds();
        let factor = &mut self.user_with_secret(state, id)?.second_factor;
        match &factor.secret {
            None => Err(error(400, "2FA is not enabled")),
            Some(_) if !is_code(&code) => Err(internal_error()),
            Some(secret) if totp(secret, seconds) != code => {
                Err(error(400, "Invalid verification code"))
            }
            Some(_) => {
                *factor = Default::default();
                Ok(Response::json(200, "true"))
            }
        }
    }

    /// Puts into the audit log what the request has done to a user.
    fn note(&self, state: &mut State, action: &'static str, id: u64, meta: Value) {
        let now = clock::sql(state.now());
        state.audit_log.push(json!({
            "id": state.audit_log.len() + 1, "created_on": now, "modified_on": now,
            "user_id": self.user.as_ref().map(|user| user.id), "object_type": "user",
            "object_id": id, "action": action, "meta": meta,
        }));
    }

    fn show_audit_log(&self, state: &State) -> Result {
        self.permitted(self.is_administrator())?;
        let expand = self.request.query_value("expand");
        let shown = state.audit_log.iter().rev().take(AUDIT_LOG_MAX).map(|row| {
            let mut row = row.clone();
            if expand.as_deref() == Some("user") {
                let by = row["user_id"].as_u64().and_then(|id| state.users.of_any_id(id));
                row["user"] = json!(by);
            }
            row
        });
        Ok(Response::json(200, json!(shown.collect::<Vec<_>>())))
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
    let identity = fields.text("identity", 1..=usize::MAX)?.unwrap_or_default();
    let secret = fields.text("secret", 1..=usize::MAX)?.unwrap_or_default();
    if fields.text("scope", 1..=usize::MAX)?.is_some_and(|scope| scope != "user") {
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
    if user.second_factor.secret.is_some() {
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
fn second_factor(state: &Mutex<State>, request: &Request, stop: &Stop) -> Result {
    let fields = Fields::new(&body(request)?, &["challenge_token", "code"], &[])?;
    let challenge = fields.text("challenge_token", 1..=usize::MAX)?.unwrap_or_default();
    let code = fields.text("code", 6..=8)?.unwrap_or_default();

    let mut state_now = lock(state);
    state_now.codes += 1;
    let now = state_now.now();
    let claims = state_now.tokens.verify(&challenge, now).cloned();
    let claims = claims.map_err(|_| error(400, "Invalid or expired challenge token"))?;
    if claims.scope != "2fa-challenge" {
        return Err(error(400, "Invalid challenge token"));
    }
    let seconds = state_now.seconds();
    // Two hashes of a backup code cost less than one of a password.
    let hash_time = state_now.login_time / 3;
    let user = state_now.users.of_id(claims.user);
    let user = user.ok_or_else(|| error(400, "Invalid challenge token"))?;
    let factor = &mut user.second_factor;
    if code.len() == 6 && !is_code(&code) {
        return Err(internal_error());
    }
    if factor.secret.as_ref().is_none_or(|secret| totp(secret, seconds) != code) {
        let backup = factor.backup_codes.iter().position(|held| held.eq_ignore_ascii_case(&code));
        let compared = backup.map_or(factor.backup_codes.len(), |at| at + 1);
        if let Some(at) = backup {
            factor.backup_codes.remove(at);
        }
        drop(state_now);
        stop.pause(hash_time * u32::try_from(compared).unwrap_or_default());
        if backup.is_none() {
            return Err(error_of(
                json!({"code": 400, "message": "Invalid verification code", "message_i18n": "error.invalid-2fa"}),
            ));
        }
        state_now = lock(state);
    }
    let user = state_now.users.of_any_id(claims.user).cloned().ok_or_else(internal_error)?;
    let day = state_now.day();
    let (token, expires) = state_now.issue(&user, "user", &day);
    Ok(token_answer(&token, &expires))
}

/// Whether a text may be a code: NPM's library throws where it is not.
fn is_code(text: &str) -> bool {
    text.len() == 6 && text.bytes().all(|b| b.is_ascii_digit())
}

pub(super) fn backup_codes() -> Vec<String> {
    let code = |_| random::bytes(4).iter().map(|byte| format!("{byte:02X}")).collect();
    (0..BACKUP_CODES).map(code).collect()
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

/// What is to become of a user.
struct Changes {
    name: Option<String>,
    nickname: Option<String>,
    email: Option<String>,
    roles: Option<Vec<String>>,
    is_disabled: Option<bool>,
}

impl Changes {
    fn make(self, user: &mut User) {
        let Self { name, nickname, email, roles, is_disabled } = self;
        let fields =
            [(name, &mut user.name), (nickname, &mut user.nickname), (email, &mut user.email)];
        for (text, field) in fields {
            *field = text.unwrap_or_else(|| std::mem::take(field));
        }
        user.roles = roles.unwrap_or_else(|| std::mem::take(&mut user.roles));
        user.is_disabled = is_disabled.unwrap_or(user.is_disabled);
    }
}

impl Fields {
    fn new(
        body: &Option<Map<String, Value>>,
        required: &[&str],
        optional: &[&str],
    ) -> Result<Self> {
        let is_known =
            |name: &String| required.iter().chain(optional).any(|known| *known == name.as_str());
        Self::checked(body, required, is_known)
    }

    /// Fields of any name.
    fn of(body: &Option<Map<String, Value>>, required: &[&str]) -> Result<Self> {
        Self::checked(body, required, |_| true)
    }

    fn checked(
        body: &Option<Map<String, Value>>,
        required: &[&str],
        is_known: impl Fn(&String) -> bool,
    ) -> Result<Self> {
        let body = body.clone().ok_or_else(|| error(400, "Payload is undefined"))?;
        let missing = required.iter().filter(|name| !body.contains_key(**name));
        let mut wrong: Vec<String> =
            missing.map(|name| format!("data must have required property '{name}'")).collect();
        if !body.keys().all(is_known) {
            wrong.push("data must NOT have additional properties".into());
        }
        if wrong.is_empty() {
            Ok(Self(body))
        } else {
            Err(error(400, &wrong.join(", ")))
        }
    }

    /// A text of so many characters. Numbers and booleans are taken for texts, null for none.
    fn text(&self, name: &str, length: RangeInclusive<usize>) -> Result<Option<String>> {
        let text = match self.0.get(name) {
            None => return Ok(None),
            Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
            Some(_) => return Err(error(400, &format!("data/{name} must be string"))),
        };
        let (least, most) = (length.start(), length.end());
        match text.chars().count() {
            count if count < *least => {
                Err(error(400, &format!("data/{name} must NOT have fewer than {least} characters")))
            }
            count if count > *most => {
                Err(error(400, &format!("data/{name} must NOT have more than {most} characters")))
            }
            _ => Ok(Some(text)),
        }
    }

    fn changes(&self) -> Result<Changes> {
        let roles = match self.0.get("roles") {
            None => None,
            Some(Value::Array(roles)) => {
                Some(roles.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            }
            Some(_) => return Err(error(400, "data/roles must be array")),
        };
        let is_disabled = match self.0.get("is_disabled") {
            None => None,
            Some(Value::Bool(is)) => Some(*is),
            Some(Value::String(text)) if text == "true" || text == "false" => Some(text == "true"),
            Some(_) => return Err(error(400, "data/is_disabled must be boolean")),
        };
        Ok(Changes {
            name: self.text("name", 1..=usize::MAX)?,
            nickname: self.text("nickname", 0..=usize::MAX)?,
            email: self.text("email", 3..=usize::MAX)?,
            roles,
            is_disabled,
        })
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

fn too_few_properties() -> Response {
    error(400, "data must NOT have fewer than 1 properties")
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
