//! `Authorization`: a token of NPM's, or an account that Authentik hands over.

use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::Engine;
use ngx_http_npm_token_inject_module::sso::accounts::Accounts;
use ngx_http_npm_token_inject_module::sso::npm::BaseUrl;
use ngx_http_npm_token_inject_module::sso::token::{
    is_live_npm_token, Millis, Token, AUTHORIZATION_MAX,
};
use serde_json::Value;

const NOW: Millis = 1_700_000_000_000;

/// The text as a header's value, and as the pair of name and password within one.
pub fn basic(data: &[u8]) {
    let api = BaseUrl::try_from("http://127.0.0.1:81".to_owned()).expect("a URL");
    let accounts = Accounts::none(Some(api), &mut |_| ());
    let pair = |header: &[u8]| {
        let account = accounts.handed_over(header, NOW)?;
        let secret = account.credentials.secret.expose().to_owned();
        Some((account.credentials.identity.clone(), secret))
    };
    if let Some((identity, secret)) = pair(data) {
        let (scheme, encoded) = data.split_at(6);
        assert!(scheme.eq_ignore_ascii_case(b"basic "));
        assert_eq!(encoded, STANDARD.encode(format!("{identity}:{secret}")).as_bytes());
    }
    let expected = std::str::from_utf8(data).ok().and_then(|text| {
        let colon = text.find(':')?;
        let (identity, secret) = (&text[..colon], &text[colon + 1..]);
        (!identity.is_empty() && !secret.is_empty()).then(|| (identity.into(), secret.into()))
    });
    assert_eq!(pair(format!("basic {}", STANDARD.encode(data)).as_bytes()), expected);
}

/// The text as a header's value, and as the payload of a token within one.
pub fn token(data: &[u8]) {
    check(data);
    let payload = URL_SAFE_NO_PAD.encode(data);
    check(format!("Bearer eyJhbGciOiJSUzI1NiJ9.{payload}.c2ln").as_bytes());
}

fn check(authorization: &[u8]) {
    let jwt = authorization.strip_prefix(b"Bearer ");
    let payload = jwt.and_then(|jwt| jwt.split(|&b| b == b'.').nth(1));
    let payload = payload.and_then(|payload| URL_SAFE_NO_PAD.decode(payload).ok());
    let claims = payload.and_then(|payload| serde_json::from_slice::<Value>(&payload).ok());

    if is_live_npm_token(authorization, NOW) {
        // A list of the values is taken as well, and what does not matter may be no JSON.
        if let Some(claims) = claims.filter(Value::is_object) {
            assert_eq!(claims["iss"], "api");
            let scope = claims["scope"].as_array().expect("a list");
            assert!(scope.iter().any(|scope| scope == "user"));
            assert!(claims["exp"].as_f64().expect("a number") * 1000.0 > NOW as f64);
        }
        assert!(!is_live_npm_token(authorization, Millis::MAX));
    }

    let Some(jwt) = jwt.and_then(|jwt| std::str::from_utf8(jwt).ok()) else { return };
    for sent_at in [0, NOW] {
        let Ok(token) = Token::issued(jwt, sent_at) else { continue };
        assert!(token.authorization().len() <= AUTHORIZATION_MAX);
        assert_eq!(token.authorization().as_bytes(), authorization);
        let is_fit = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        assert!(jwt.bytes().all(is_fit), "it is fit for a header");
        assert!(sent_at < token.use_until && token.use_until <= token.expires_at);
        assert!(token.expires_at - token.use_until <= 30_000);
        for spread in [0, 1, NOW, u64::MAX] {
            let renew_at = token.renew_at(spread);
            assert!(sent_at <= renew_at && renew_at <= token.expires_at);
        }
    }
}
