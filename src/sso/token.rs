//! NPM's tokens: what a JWT says of itself, and when it may still be used.
//!
//! The module verifies no signature: it has no key, and need not. A token that NPM handed out is
//! taken as it came; a token that a client sends is passed on for NPM to verify, or not at all.

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use serde::Deserialize;
use thiserror::Error;
use zeroize::Zeroizing;

/// Milliseconds: of the Unix clock for a moment, or of a span.
pub type Millis = u64;

/// The longest `Authorization` value that is kept, in bytes. NPM's own are some 570 bytes long.
pub const AUTHORIZATION_MAX: usize = 2048;

/// A token is used no longer than this before it expires, or a tenth of its life if that is less.
const EXPIRY_MARGIN: Millis = 30_000;

/// NPM's dates are whole seconds, rounded down (`jsonwebtoken`): a token expires by so much sooner
/// than the span between them says.
const ROUNDING: Millis = 1_000;

const SCHEME: &str = "Bearer ";

/// Why an answer's `token` cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    #[error("its token is not a JWT")]
    NotJwt,
    #[error("its token has no \"exp\" claim")]
    NoExpiry,
    #[error("its token has expired already")]
    Expired,
    #[error("its token is longer than {AUTHORIZATION_MAX} bytes")]
    TooLong,
}

/// A token that NPM issued, ready to be sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    authorization: Zeroizing<String>,
    /// When the token expires, on this machine's clock.
    pub expires_at: Millis,
    /// The moment after which it is no longer sent.
    pub use_until: Millis,
    /// How long it lives in all.
    life: Millis,
}

impl Token {
    /// Reads a JWT that NPM issued in answer to a request sent at `sent_at`.
    ///
    /// The life of the token counts from then: NPM's clock, which set `iat` and `exp`, need not
    /// agree with this machine's.
    ///
    /// # Errors
    ///
    /// When the text is no JWT, has no `exp` (RFC 7519, section 4.1.4), has expired, or is too long.
    pub fn issued(jwt: &str, sent_at: Millis) -> Result<Self, TokenError> {
        if SCHEME.len() + jwt.len() > AUTHORIZATION_MAX {
            return Err(TokenError::TooLong);
        }
        let claims = Claims::of(jwt.as_bytes()).ok_or(TokenError::NotJwt)?;
        let expires = claims.exp.ok_or(TokenError::NoExpiry)?.millis();
        let expires_at = match claims.iat.map(NumericDate::millis) {
            Some(issued) => {
                sent_at.saturating_add(expires.saturating_sub(issued).saturating_sub(ROUNDING))
            }
            None => expires,
        };
        let life = expires_at.saturating_sub(sent_at);
        if life == 0 {
            return Err(TokenError::Expired);
        }
        Ok(Self {
            authorization: Zeroizing::new(format!("{SCHEME}{jwt}")),
            expires_at,
            use_until: expires_at - EXPIRY_MARGIN.min(life / 10),
            life,
        })
    }

    /// When it is to be renewed: when a fifth of its life is left, or, so that not all tokens of
    /// one hour are renewed at once, a little later. `spread` is any number that accounts differ in.
    pub fn renew_at(&self, spread: u64) -> Millis {
        self.expires_at - self.life / 5 + spread % (self.life / 20 + 1)
    }

    /// The value of the `Authorization` header that carries this token.
    pub fn authorization(&self) -> &str {
        &self.authorization
    }
}

/// Whether a client's `Authorization` carries a JWT of NPM's that has not expired at `now`.
pub fn is_live_npm_token(authorization: &[u8], now: Millis) -> bool {
    // To the letter: NPM takes no other spelling of the scheme (backend/lib/express/jwt.js). And
    // every JWT of NPM's begins like that: it is `{"` in base64url. Most else ends here.
    if !authorization.starts_with(b"Bearer eyJ") {
        return false;
    }
    let jwt = authorization.strip_prefix(SCHEME.as_bytes());
    jwt.and_then(Claims::of).is_some_and(|claims| {
        claims.iss.as_deref() == Some("api")
            && claims.scope.iter().any(|scope| scope == "user")
            && claims.exp.is_some_and(|exp| exp.millis() > now)
    })
}

/// The claims that matter here, of those in NPM's payload.
#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    /// `user`, but for the challenge of a two-factor login.
    #[serde(default)]
    scope: Vec<String>,
    iat: Option<NumericDate>,
    exp: Option<NumericDate>,
}

/// Seconds since 1970, perhaps with a fraction (RFC 7519, section 2).
#[derive(Clone, Copy, Deserialize)]
#[serde(transparent)]
struct NumericDate(f64);

impl NumericDate {
    fn millis(self) -> Millis {
        // A cast from f64 saturates: nonsense becomes 0 or the far future, never a panic.
        (self.0 * 1000.0) as Millis
    }
}

impl Claims {
    /// The claims of a JWT in compact form: three parts in the base64url alphabet, so that the
    /// text is fit for a header as well.
    fn of(jwt: &[u8]) -> Option<Self> {
        let mut parts = jwt.split(|&b| b == b'.');
        let (header, payload, signature) = (parts.next()?, parts.next()?, parts.next()?);
        let is_base64url = |part: &[u8]| {
            let alphabet = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_';
            !part.is_empty() && part.iter().all(alphabet)
        };
        if parts.next().is_some() || ![header, payload, signature].into_iter().all(is_base64url) {
            return None;
        }
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_700_000_000_000;

    fn jwt(payload: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(payload), part("signature"))
    }

    fn npm_jwt(iat: u64, exp: u64) -> String {
        jwt(&format!(
            r#"{{"iss":"api","attrs":{{"id":1}},"scope":["user"],"iat":{iat},"exp":{exp}}}"#
        ))
    }

    #[test]
    fn a_token_is_used_until_shortly_before_it_expires() {
        let day = Token::issued(&npm_jwt(1_700_000_000, 1_700_086_400), NOW).unwrap();
        assert_eq!(day.expires_at, NOW + 86_399_000);
        assert_eq!(day.use_until, day.expires_at - 30_000);
        assert!(day.authorization().starts_with("Bearer eyJ"));

        for spread in [0, 1, 4_319_999, 4_320_000, 4_320_001, u64::MAX] {
            let left = day.expires_at - day.renew_at(spread);
            assert!((86_399_000 * 3 / 20..=86_399_000 / 5).contains(&left), "{left}");
        }

        let short = Token::issued(&npm_jwt(1_700_000_000, 1_700_000_011), NOW).unwrap();
        assert_eq!(short.use_until, NOW + 9_000);
    }

    #[test]
    fn the_life_of_a_token_counts_from_its_login_whatever_npms_clock_says() {
        let ahead = Token::issued(&npm_jwt(1_700_000_600, 1_700_087_000), NOW).unwrap();
        assert_eq!(ahead.expires_at, NOW + 86_399_000);
        let behind = Token::issued(&npm_jwt(1_600_000_000, 1_600_086_400), NOW).unwrap();
        assert_eq!(behind.expires_at, NOW + 86_399_000);
    }

    #[test]
    fn a_token_that_cannot_be_used_is_an_error() {
        let issue = |text: &str| Token::issued(text, NOW).err();
        assert_eq!(issue("garbage"), Some(TokenError::NotJwt));
        assert_eq!(issue("a.b.c.d"), Some(TokenError::NotJwt));
        assert_eq!(
            issue(&npm_jwt(0, 1).replace('.', ".\r\nX-Injected: 1")),
            Some(TokenError::NotJwt)
        );
        assert_eq!(issue(&jwt(r#"{"iss":"api","iat":1}"#)), Some(TokenError::NoExpiry));
        assert_eq!(issue(&npm_jwt(1_700_000_000, 1_700_000_000)), Some(TokenError::Expired));
        assert_eq!(issue(&jwt(r#"{"exp":1600000000}"#)), Some(TokenError::Expired));
        assert_eq!(issue(&"e".repeat(AUTHORIZATION_MAX)), Some(TokenError::TooLong));
        assert_eq!(issue(&jwt(r#"{"iat":0,"exp":-1e300}"#)), Some(TokenError::Expired));
    }

    #[test]
    fn only_an_unexpired_jwt_of_npm_is_a_clients_own_token() {
        let live = npm_jwt(1_699_999_000, 1_700_000_001);
        assert!(is_live_npm_token(format!("Bearer {live}").as_bytes(), NOW));

        let live_with = |claims: &str| jwt(&format!(r#"{{"exp":1700000100,{claims}}}"#));
        let expired = npm_jwt(1_600_000_000, 1_700_000_000);
        let foreign = live_with(r#""iss":"https://authentik.example.com/""#);
        let challenge = live_with(r#""iss":"api","scope":["2fa-challenge"]"#);
        let endless = jwt(r#"{"iss":"api","scope":["user"]}"#);
        let four_parts = format!("{live}.x");
        for dead in [&expired, &foreign, &challenge, &endless, &four_parts, "null", "", "a.b.c"] {
            assert!(!is_live_npm_token(format!("Bearer {dead}").as_bytes(), NOW), "{dead}");
        }
        for scheme in ["Basic ", "bearer ", "Bearer  ", "Bearer", ""] {
            assert!(!is_live_npm_token(format!("{scheme}{live}").as_bytes(), NOW), "{scheme}");
        }
        assert!(!is_live_npm_token(b"Bearer \xff\xfe.a.b", NOW));
    }
}
