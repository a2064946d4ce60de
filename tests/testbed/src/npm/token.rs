//! NPM's tokens: JWTs in shape and length. Which of them are genuine, NPM knows by heart.

use std::collections::HashMap;
use std::time::Duration;

use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::Engine;

use super::user::User;
use crate::random;

/// The bytes of an RS256 signature.
const SIGNATURE: usize = 256;

/// How long a token lives.
pub(super) struct Lifetime {
    /// As the API and the JWT name it: `1d`.
    pub name: String,
    pub duration: Duration,
}

impl Lifetime {
    /// A period such as `5m`, by NPM's rules.
    pub fn parse(name: &str) -> Option<Self> {
        let digits = name.find(|c: char| !c.is_ascii_digit())?;
        let count: u64 = name[..digits].parse().ok()?;
        let millis = match &name[digits..] {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            "w" => 7 * 86_400_000,
            "M" => 30 * 86_400_000,
            "Q" => 91 * 86_400_000,
            "y" => 31_557_600_000,
            _ => return None,
        };
        Some(Self {
            name: name.to_owned(),
            duration: Duration::from_millis(count.checked_mul(millis)?),
        })
    }

    /// The end of a life that begins at `now`, both in milliseconds since 1970.
    pub fn end(&self, now: i64) -> i64 {
        now.saturating_add(i64::try_from(self.duration.as_millis()).unwrap_or(i64::MAX))
    }
}

/// What a token says.
#[derive(Clone)]
pub(super) struct Claims {
    pub user: u64,
    /// How often the user's secret had been changed when the token was issued. (The real one says
    /// when it was issued; this tells what happened before it also within one second.)
    pub changes: u32,
    pub scope: String,
    /// In seconds since 1970.
    pub expires: Option<i64>,
}

impl Claims {
    fn new(user: &User, scope: &str, expires: Option<i64>) -> Self {
        Self { user: user.id, changes: user.changes, scope: scope.to_owned(), expires }
    }
}

/// Why a token is refused.
pub(super) enum Refusal {
    Unknown,
    /// Since then, in seconds since 1970.
    Expired(i64),
}

/// The tokens that were issued.
#[derive(Default)]
pub(super) struct Tokens(HashMap<String, Claims>);

impl Tokens {
    /// Issues a token at `now`, in milliseconds since 1970.
    pub fn issue(&mut self, user: &User, scope: &str, lifetime: &Lifetime, now: i64) -> String {
        let issued = now.div_euclid(1000);
        let seconds = i64::try_from(lifetime.duration.as_secs()).unwrap_or(i64::MAX);
        let expires = Some(issued.saturating_add(seconds));
        self.sign(Claims::new(user, scope, expires), &lifetime.name, issued)
    }

    /// Issues a token without `exp`.
    pub fn issue_endless(&mut self, user: &User, scope: &str, now: i64) -> String {
        self.sign(Claims::new(user, scope, None), "1d", now.div_euclid(1000))
    }

    fn sign(&mut self, claims: Claims, lifetime: &str, issued: i64) -> String {
        let (user, scope) = (claims.user, &claims.scope);
        let jti = STANDARD.encode(random::bytes(12));
        let exp = claims.expires.map(|exp| format!(r#","exp":{exp}"#)).unwrap_or_default();
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","typ":"JWT"}"#);
        let payload = URL_SAFE_NO_PAD.encode(format!(
            r#"{{"iss":"api","attrs":{{"id":{user}}},"scope":["{scope}"],"expiresIn":"{lifetime}","jti":"{jti}","iat":{issued}{exp}}}"#
        ));
        let token = format!("{header}.{payload}.{}", random::text(SIGNATURE));
        self.0.insert(token.clone(), claims);
        token
    }

    /// What a token says, if it is valid at `now`, in milliseconds since 1970.
    pub fn verify(&self, token: &str, now: i64) -> Result<&Claims, Refusal> {
        let claims = self.0.get(token).ok_or(Refusal::Unknown)?;
        match claims.expires {
            Some(expires) if expires <= now.div_euclid(1000) => Err(Refusal::Expired(expires)),
            _ => Ok(claims),
        }
    }
}
