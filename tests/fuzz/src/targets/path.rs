//! A request's path, as NPM may see it.

use ngx_http_npm_token_inject_module::sso::path::{is_api, is_tokens};

/// However often it is decoded on its way: a path that is NPM's `tokens` then, or in its API, is never
/// taken for another.
pub fn path(data: &[u8]) {
    let mut path = data.to_vec();
    loop {
        for end in [path.len(), path.iter().position(|b| b"?#".contains(b)).unwrap_or(path.len())] {
            let segments = resolved(&path[..end]);
            if segments.last().is_some_and(|last| last.eq_ignore_ascii_case(b"tokens")) {
                assert!(is_tokens(data), "{}", path.escape_ascii());
            }
        }
        let segments: Vec<_> = path.split(|&b| b == b'/').collect();
        let has_api = segments.iter().any(|segment| segment.eq_ignore_ascii_case(b"api"));
        assert!(!has_api || is_api(data), "{}", path.escape_ascii());

        let next = decoded_once(&path);
        if next == path {
            assert_eq!(is_api(data), has_api, "{}", path.escape_ascii());
            break;
        }
        path = next;
    }
    // Neither where the word is nowhere.
    let has = |word: &[u8]| path.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    assert!(has(b"tokens") || !is_tokens(data));
}

fn decoded_once(path: &[u8]) -> Vec<u8> {
    let digit = |b: Option<&u8>| b.and_then(|&b| char::from(b).to_digit(16));
    let mut out = Vec::new();
    let mut at = 0;
    while at < path.len() {
        match (path[at], digit(path.get(at + 1)), digit(path.get(at + 2))) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// The segments that are left of a path (RFC 3986, section 5.2.4), from its beginning on.
fn resolved(path: &[u8]) -> Vec<&[u8]> {
    let mut segments = Vec::new();
    for segment in path.split(|&b| b == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    segments
}
