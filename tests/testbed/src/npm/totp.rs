//! Time-based one-time passwords, RFC 6238 (SHA-1, six digits, 30 seconds).

use hmac::{Hmac, Mac};
use sha1::Sha1;

use crate::random;

/// A new secret of 20 bytes, in base32.
pub(super) fn new_secret() -> String {
    let letters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    random::bytes(32).iter().map(|byte| char::from(letters[usize::from(byte % 32)])).collect()
}

/// The code of a base32 secret at a time, in seconds since 1970.
///
/// # Panics
///
/// When the secret is not base32 (RFC 4648; blanks, case and padding do not matter).
pub fn totp(base32: &str, unix: u64) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(&decode(base32)).expect("any length will do");
    mac.update(&(unix / 30).to_be_bytes());
    let digest = mac.finalize().into_bytes();
    let offset = usize::from(digest[19] & 15);
    let word = digest[offset..offset + 4].iter().fold(0, |word, &byte| word << 8 | u32::from(byte));
    format!("{:06}", (word & 0x7fff_ffff) % 1_000_000)
}

fn decode(base32: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for letter in base32.bytes().filter(|letter| !matches!(letter, b'=' | b' ')) {
        let value = match letter.to_ascii_uppercase() {
            upper @ b'A'..=b'Z' => upper - b'A',
            digit @ b'2'..=b'7' => digit - b'2' + 26,
            _ => panic!("not base32: {base32}"),
        };
        bits = bits << 5 | u32::from(value);
        held += 5;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 0xff) as u8);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_rfc() {
        let secret = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
        assert_eq!(totp(secret, 59), "287082");
        assert_eq!(totp(secret, 1_111_111_109), "081804");
        assert_eq!(totp(secret, 20_000_000_000), "353130");
    }
}
