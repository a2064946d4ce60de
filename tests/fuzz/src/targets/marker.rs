//! The marker, and who has it.

use ngx_http_npm_token_inject_module::sso::marker::{is_marker, token, Marker, PREFIX};
use ngx_http_npm_token_inject_module::sso::token::{is_live_npm_token, Millis};
use serde_json::Value;

const NOW: Millis = 1_700_000_000_000;

/// The text as a header's value, as a user's name, and, cut at the first line end, as two.
pub fn marker(data: &[u8]) {
    let is_one = data.starts_with(format!("Bearer {PREFIX}").as_bytes());
    assert_eq!(is_marker(data), is_one);
    assert!(!is_one || !is_live_npm_token(data, NOW));

    let of = |user: &[u8]| Marker::new(token(user, &[7; 32]), NOW);
    let marker = of(data);
    let rest = marker.token.strip_prefix(PREFIX).expect("it begins like all");
    assert!(
        rest.len() == 43 && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    );
    let header = format!("Bearer {}", marker.token);
    assert!(is_marker(header.as_bytes()) && !is_live_npm_token(header.as_bytes(), NOW));
    let json: Value = serde_json::from_str(&marker.to_json()).expect("JSON");
    assert_eq!((&json["token"], &json["expires"]), (&marker.token.into(), &marker.expires.into()));

    if let Some(end) = data.iter().position(|&b| b == b'\n') {
        let (one, other) = (&data[..end], &data[end + 1..]);
        assert_eq!(of(one) == of(other), one == other);
    }
}
