//! Random bytes of the kernel's.

use std::fs::File;
use std::io::Read;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;

/// `count` random bytes.
///
/// # Panics
///
/// Where there is no `/dev/urandom`.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).expect("urandom");
    bytes
}

/// `count` random bytes in the alphabet of URLs and cookies.
pub(crate) fn text(count: usize) -> String {
    URL_SAFE_NO_PAD.encode(bytes(count))
}
