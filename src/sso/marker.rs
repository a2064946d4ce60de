//! The marker: what the browser keeps in the place of a token.
//!
//! NPM's UI takes itself for signed in when its storage holds a token, and never looks inside it.
//! So it gets a marker, which tells one Authentik user's browser from another's and opens nothing:
//! whatever a client sends as `Authorization`, be it this, the module replaces.

use super::time::iso8601;
use super::token::Millis;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use hmac::{Hmac, Mac};
use serde::Serialize;
use sha2::Sha256;

/// How long the UI takes a marker for valid, and drops it afterwards. It asks for a new one every
/// five minutes, where it may. Milliseconds: two days.
pub const LIFE: Millis = 2 * 24 * 60 * 60 * 1000;

/// What every marker begins with.
pub const PREFIX: &str = "npm-token-inject-";

/// Whether the value of an `Authorization` header is a marker, be it whose it may.
pub fn is_marker(authorization: &[u8]) -> bool {
    let marker = authorization.strip_prefix(b"Bearer ");
    marker.is_some_and(|marker| marker.starts_with(PREFIX.as_bytes()))
}

/// What markers are made with: random bytes, which stay in the shared zone.
pub type MarkerKey = [u8; 32];

/// A marker and its expiry, as NPM answers to `GET /api/tokens`.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct Marker {
    /// Text of the base64url alphabet, and no JWT.
    pub token: String,
    pub expires: String,
}

impl Marker {
    /// The marker of an Authentik user, as of `now`, with the [`token`] of that user.
    pub fn new(token: String, now: Millis) -> Self {
        Self { token, expires: iso8601(now + LIFE) }
    }

    /// The body of the answer.
    pub fn to_json(&self) -> String {
        // Both are plain ASCII text without quotes: this does not fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What tells an Authentik user's marker from those of others.
pub fn token(user: &[u8], key: &MarkerKey) -> String {
    // HMAC takes keys of any length.
    let mac = Hmac::<Sha256>::new_from_slice(key).map(|mac| mac.chain_update(user).finalize());
    let mac = mac.map(|mac| URL_SAFE_NO_PAD.encode(mac.into_bytes())).unwrap_or_default();
    format!("{PREFIX}{mac}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sso::token::is_live_npm_token;

    const NOW: Millis = 1_700_000_000_000;

    #[test]
    fn a_marker_is_one_users_and_as_unguessable_as_its_key() {
        let marker = |user: &str, key: u8| token(user.as_bytes(), &[key; 32]);
        assert_eq!(marker("akadmin", 1), marker("akadmin", 1));
        assert_ne!(marker("akadmin", 1), marker("bob", 1));
        assert_ne!(marker("akadmin", 1), marker("akadmin", 2));
        assert_eq!(marker("akadmin", 1).len(), "npm-token-inject-".len() + 43);
    }

    #[test]
    fn a_marker_is_no_token_that_a_client_may_keep() {
        let marker = token(b"akadmin", &[1; 32]);
        assert!(!is_live_npm_token(format!("Bearer {marker}").as_bytes(), NOW));
        assert!(is_marker(format!("Bearer {marker}").as_bytes()));
        for other in ["", "Bearer ", "Bearer eyJ", &marker, "Basic npm-token-inject-"] {
            assert!(!is_marker(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn the_answer_has_npms_own_format() {
        let json = Marker::new(token(b"akadmin", &[1; 32]), NOW).to_json();
        assert!(json.starts_with(r#"{"token":"npm-token-inject-"#), "{json}");
        assert!(json.ends_with(r#"","expires":"2023-11-16T22:13:20.000Z"}"#), "{json}");
    }
}
