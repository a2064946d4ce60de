//! What the configuration, and the files that it names, say in texts of their own form.

use ngx_http_npm_token_inject_module::sso::framing::Framing;
use ngx_http_npm_token_inject_module::sso::npm::{parse_certificates, BaseUrl};
use ngx_http_npm_token_inject_module::sso::totp::TotpSecret;

pub fn base_url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match BaseUrl::try_from(text.to_owned()) {
        Ok(url) => {
            let url = url.as_str();
            assert!(text.starts_with(url) && text[url.len()..].bytes().all(|b| b == b'/'));
            let lower = url.to_ascii_lowercase();
            let rest = lower.strip_prefix("http://").or(lower.strip_prefix("https://"));
            let authority = rest.expect("a scheme").split('/').next().unwrap_or_default();
            assert!(!authority.is_empty() && !authority.starts_with(':'), "{url}");
            let is_wrong = |c: char| c.is_ascii_control() || " @?#\\".contains(c);
            assert!(!authority.contains(is_wrong), "{url}");
            assert!(!url.contains(|c: char| c.is_ascii_control() || " ?#".contains(c)), "{url}");
            assert!(!url.ends_with('/'), "{url}");
            // What is called there is an address too, and the same URL is itself.
            let called = format!("{url}/api/tokens");
            assert_eq!(BaseUrl::try_from(called.clone()).expect("a URL").as_str(), called);
            assert_eq!(BaseUrl::try_from(url.to_owned()).expect("a URL").as_str(), url);
        }
        // None of the text, which may hold a password.
        Err(error) => {
            const ERRORS: [&str; 6] = [
                "it is no URL",
                "it does not begin with http:// or https://",
                "it has no host",
                "it has a user or a password",
                "its port is no number",
                "it has a query or a fragment",
            ];
            let what = error.strip_suffix("; it is a base URL such as http://127.0.0.1:81");
            assert!(what.is_some_and(|what| ERRORS.contains(&what)), "{error}");
        }
    }
}

pub fn certificates(data: &[u8]) {
    match parse_certificates(data) {
        Ok(certificates) => {
            assert!(!certificates.is_empty());
            assert!(data.windows(10).any(|part| part == b"-----BEGIN"));
        }
        Err(error) => assert!(!error.is_empty()),
    }
}

pub fn framing(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(framing) = Framing::parse(text) else { return };
    assert_eq!(framing.policy, format!("frame-ancestors {}", text.replace(',', " ")));
    for ancestor in text.split(',') {
        if let "'self'" | "'none'" = ancestor {
            continue;
        }
        let (scheme, authority) = ancestor.split_once("://").expect("an origin");
        assert!(matches!(scheme, "http" | "https"), "{ancestor}");
        let is_fit = |b: u8| b.is_ascii_alphanumeric() || b".-_:".contains(&b);
        assert!(!authority.is_empty() && authority.bytes().all(is_fit), "{ancestor}");
        assert!(authority.matches(':').count() <= 1, "{ancestor}");
    }
    let alone = [("'self'", "SAMEORIGIN"), ("'none'", "DENY")];
    let options = alone.iter().find(|(ancestor, _)| text == *ancestor).map(|(_, word)| *word);
    assert_eq!(framing.options, options);
    assert_eq!(framing.names_others(), options.is_none());
    assert!(text == "'none'" || !text.contains("'none'"));
}

pub fn totp(data: &[u8]) {
    if let Some(secret) =
        std::str::from_utf8(data).ok().and_then(|text| TotpSecret::parse(text).ok())
    {
        assert!(!secret.expose().is_empty());
        let code = secret.code(1_700_000_000_000);
        assert!(code.len() == 6 && code.bytes().all(|b| b.is_ascii_digit()), "{code}");
    }
    let encoded = base32(data);
    match TotpSecret::parse(&encoded) {
        Ok(secret) => assert_eq!(secret.expose(), data),
        Err(_) => assert!(data.is_empty(), "{encoded}"),
    }
}

/// RFC 4648, section 6, without padding.
fn base32(bytes: &[u8]) -> String {
    let bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let bits: Vec<u8> = bits.collect();
    let letter = |bits: &[u8]| {
        let number = (0..5).fold(0, |number, n| number * 2 + bits.get(n).copied().unwrap_or(0));
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[usize::from(number)])
    };
    bits.chunks(5).map(letter).collect()
}
