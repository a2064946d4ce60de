//! A request's path, as NPM may see it.
//!
//! Which path NPM will see is not certain before the request is passed on: a location may take a
//! beginning away or add one, and may leave slashes, dots and encoded letters for NPM's own nginx
//! to deal with. So a path counts by how it could end, and in every spelling that NPM could take.

use std::borrow::Cow;

/// Whether it may be one of NPM's API, which has no pages.
#[inline]
pub fn is_api(path: &[u8]) -> bool {
    // As it usually is.
    matches!(path, [b'/', b'a', b'p', b'i', b'/', ..]) || may_be_api(path)
}

#[inline(never)]
fn may_be_api(path: &[u8]) -> bool {
    decoded(path).split(|&b| b == b'/').any(|segment| segment.eq_ignore_ascii_case(b"api"))
}

/// Whether it may be `/api/tokens`: nothing else in NPM ends like that, in its API or in its UI.
pub fn is_tokens(path: &[u8]) -> bool {
    let is_name = |segment: &[u8]| segment.eq_ignore_ascii_case(b"tokens");
    // White space, which was encoded, ends the path where it is passed on as it is.
    let is_blank = |b: &u8| *b <= b' ';
    if path.iter().any(|b| *b == b'%' || is_blank(b)) {
        // Which segment is the last depends on how often NPM decodes dots, slashes and marks.
        return decoded(path).split(|b| b"/?#".contains(b) || is_blank(b)).any(is_name);
    }
    // What was encoded may begin the query where it is passed on as it is.
    let before_query = path.split(|b| b"?#".contains(b)).next().unwrap_or_default();
    [before_query, path].into_iter().any(|path| is_name(last_segment(path)))
}

/// Whether a path in which nothing was encoded ends as those of which [`is_tokens`] is true may end. A
/// look at its end is enough to say no of most.
pub fn may_be_tokens(path: &[u8]) -> bool {
    matches!(path, [.., b'n' | b'N', b's' | b'S'] | [.., b'/' | b'.'])
}

/// The last segment that is left when slashes are collapsed and dots resolved (RFC 3986, section
/// 5.2.4).
fn last_segment(path: &[u8]) -> &[u8] {
    let mut taken_back = 0;
    for segment in path.rsplit(|&b| b == b'/') {
        match segment {
            b"" | b"." => {}
            b".." => taken_back += 1,
            _ if taken_back > 0 => taken_back -= 1,
            _ => return segment,
        }
    }
    b""
}

/// Decoded until nothing is left to decode. nginx has done so once, most often.
fn decoded(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.contains(&b'%') {
        return path.into();
    }
    let mut out = Vec::with_capacity(path.len());
    for &byte in path {
        out.push(byte);
        // A letter may complete what a letter that was encoded itself has begun.
        while let [.., b'%', high, low] = out[..] {
            let (Some(high), Some(low)) = (hex(high), hex(low)) else { break };
            out.truncate(out.len() - 3);
            out.push(high << 4 | low);
        }
    }
    out.into()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_may_end_as_the_path_of_tokens_is_one() {
        for path in [
            "/api/tokens",
            "/api/tokens/",
            "/API/Tokens",
            "//api//tokens//",
            "/pre/api/tokens",
            "/npms-api/tokens",
            "/tokens",
            "tokens",
            "/api/./tokens/.",
            "/api/tokens/x/..",
            "/api/tokens/x/y/../..",
            "/api/tokens/2fa/%2e%2E",
            "/api/%74okens",
            "/api/%2574okens",
            "/api/%25252574okens",
            "/api/%%374okens",
            "/api%2Ftokens%2f",
            "/api/tokens?x/y",
            "/api/tokens%3fx/y",
            "/api/tokens#x",
            "/x?y/api/tokens",
            // NPM's, when it is decoded once, and another when it is decoded twice.
            "/api/tokens/%252e%252e/%2e%2e",
            "/x%253f/../api/tokens%3fx/y",
            // The request line ends there, or the one of another request.
            "/api/tokens HTTP/1.0\r\nX: y",
            "/api/tokens\nX/y",
            "/x HTTP/1.0\r\n\r\nGET /api/tokens HTTP/1.0\r\nX: y",
            "/api/tokens%20HTTP/1.0%0aX: y",
        ] {
            assert!(is_tokens(path.as_bytes()), "{path}");
            let was_encoded = path.contains(['%', '?', '#', ' ', '\n']);
            assert!(may_be_tokens(path.as_bytes()) || was_encoded, "{path}");
        }
        for path in [
            "",
            "/",
            "/..",
            "/api",
            "/api/",
            "/api/tokens/2fa",
            "/api/tokens/..",
            "/api/tokensx",
            "/api/xtokens",
            "/api/token",
            "/api/tokens/x",
            "/api/%7tokens",
            "/api/tokens%",
            "/assets/tokens-1.js",
            "/nginx/proxy",
        ] {
            assert!(!is_tokens(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn whatever_may_be_a_path_of_the_api_is_one() {
        for path in [
            "/api/",
            "/api",
            "/api/users",
            "/API/users",
            "//api/users",
            "/pre/api/users",
            "/%61pi/users",
            "/%2561pi/users",
            "/api%2Fusers",
        ] {
            assert!(is_api(path.as_bytes()), "{path}");
        }
        for path in
            ["", "/", "/login", "/nginx/proxy", "/apix/users", "/xapi/users", "/assets/api-1.js"]
        {
            assert!(!is_api(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn a_long_path_takes_no_longer_for_what_it_holds() {
        let path = format!("/%{}74okens", "25".repeat(4_000_000));
        assert!(is_tokens(path.as_bytes()));
    }
}
