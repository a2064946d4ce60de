//! Two-factor codes, as authenticator apps show them (RFC 6238), with the parameters that NPM has: six
//! digits, a new code every thirty seconds, SHA-1.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer};
use totp_rs::{Algorithm, TOTP};
use zeroize::Zeroizing;

use super::secret::Secret;
use super::token::Millis;

/// How long a code is good. Milliseconds.
const STEP: Millis = 30_000;

const DIGITS: usize = 6;

/// What the codes of an NPM account are made of. Zeroized when dropped, redacted in debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct TotpSecret(Zeroizing<Vec<u8>>);

impl TotpSecret {
    /// Reads it as NPM shows it: base32 (RFC 4648), with or without white space and padding, in letters
    /// of either case.
    ///
    /// # Errors
    ///
    /// In words that finish a sentence, when the text is none.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        const NOT_BASE32: &str = "it is not base32: letters, and digits from 2 to 7";
        let kept = text.chars().filter(|c| !c.is_whitespace() && *c != '=');
        let text = Zeroizing::new(kept.map(|c| c.to_ascii_uppercase()).collect::<String>());
        if text.is_empty() {
            return Err("it is empty");
        }
        let decode = |text: String| totp_rs::Secret::Encoded(text).to_bytes();
        let bytes = decode(text.to_string()).map(Zeroizing::new).map_err(|_| NOT_BASE32)?;
        match bytes.is_empty() {
            true => Err(NOT_BASE32),
            false => Ok(Self(bytes)),
        }
    }

    /// The code at this moment.
    pub fn code(&self, now: Millis) -> String {
        let totp = TOTP::new_unchecked(Algorithm::SHA1, DIGITS, 0, STEP / 1000, self.0.to_vec());
        totp.generate(now / 1000)
    }

    /// The bytes themselves. Not for messages.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Whether a code that was made at the first moment, and refused at the second, may have been refused
/// for the moment alone, so that one made now is worth a try: NPM takes no code but that of its own step
/// (its window is 0). The step has ended meanwhile, or NPM's clock lags and was in the one before.
pub fn may_have_been_late(made_at: Millis, now: Millis) -> bool {
    /// By how much NPM's clock may lag.
    const LAG: Millis = 3_000;
    made_at / STEP != now / STEP || made_at % STEP < LAG
}

impl fmt::Debug for TotpSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TotpSecret(…)")
    }
}

impl<'de> Deserialize<'de> for TotpSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Secret::deserialize(deserializer)?;
        Self::parse(text.expose()).map_err(|why| de::Error::custom(format!("totp_secret: {why}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The secret of RFC 6238, appendix B, in base32.
    const RFC: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

    #[test]
    fn codes_are_those_of_the_standard() {
        let secret = TotpSecret::parse(RFC).expect("base32");
        assert_eq!(secret.expose(), b"12345678901234567890");
        // The last six of the eight digits in the standard.
        for (seconds, code) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000, "353130"),
        ] {
            assert_eq!(secret.code(seconds * 1000), code, "{seconds}");
            assert_eq!(secret.code(seconds * 1000 + 999), code, "{seconds}");
        }
    }

    #[test]
    fn a_secret_may_be_written_as_people_copy_it() {
        let secret = TotpSecret::parse(RFC);
        for text in [
            "gezdgnbvgy3tqojqgezdgnbvgy3tqojq",
            "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ",
            " GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ==\n",
        ] {
            assert_eq!(TotpSecret::parse(text), secret, "{text}");
        }
        for text in ["", " ", "====", "A", "GEZDGNBVGY3TQOJ0", "GEZDGNBVGY3TQOJ1", "secret!", "ä"]
        {
            assert!(TotpSecret::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_refusal_near_the_end_of_a_step_may_have_come_late() {
        for (made_at, now, late) in [
            (29_900, 31_000, true),
            (29_900, 29_999, false),
            (10_000, 11_100, false),
            (30_100, 31_200, true),
            (33_000, 34_100, false),
        ] {
            assert_eq!(may_have_been_late(made_at, now), late, "{made_at} {now}");
        }
    }

    #[test]
    fn it_is_never_shown() {
        let secret = TotpSecret::parse(RFC).expect("base32");
        assert_eq!(format!("{secret:?}"), "TotpSecret(…)");
    }
}
