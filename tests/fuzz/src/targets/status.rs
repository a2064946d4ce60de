//! What the status page shows of accounts whose names come from outside.

use ngx_http_npm_token_inject_module::sso::account::AccountKey;
use ngx_http_npm_token_inject_module::sso::cache::{Description, Kind, OwnTable};
use ngx_http_npm_token_inject_module::sso::npm::LoginError;
use ngx_http_npm_token_inject_module::sso::status::Status;

const NOW: u64 = 1_700_000_000_000;

/// Lines: an account's name, its user's, its NPM's address, and why it failed last. All four are shown
/// as they are, and change nothing around them.
pub fn status(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut lines = text.splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let texts = [line(), line(), line(), line()];
    let (shown, plain) = (status_of(texts), status_of(["a"; 4]));

    let (page, other) = (shown.to_html(), plain.to_html());
    let count = |page: &str, of: &str| page.matches(of).count();
    let has_user = !texts[1].is_empty();
    assert_eq!(count(&page, "<"), count(&other, "<"), "{page}");
    assert_eq!(count(&page, ">"), count(&other, ">"), "{page}");
    assert_eq!(count(&page, "\""), count(&other, "\""), "{page}");

    let json: serde_json::Value = serde_json::from_str(&shown.to_json()).expect("JSON");
    let account = &json["accounts"][0];
    let begins = |value: &serde_json::Value, with: &str| {
        value.as_str().is_some_and(|value| with.starts_with(value))
    };
    assert!(begins(&account["identity"], texts[0]), "{json}");
    assert!(!has_user || begins(&account["user"], texts[1]), "{json}");
    assert!(begins(&account["api"], texts[2]), "{json}");
    let error = format!("NPM could not be reached: {}", texts[3]);
    assert!(begins(&account["last_error"], &error), "{json}");

    let (samples, others) = (shown.to_prometheus(), plain.to_prometheus());
    assert_eq!(samples.split('\n').count(), others.split('\n').count(), "{samples}");
    for (sample, other) in samples.split('\n').zip(others.split('\n')) {
        let (name, rest) = sample.split_once("{identity=").unwrap_or((sample, ""));
        let (other_name, other_rest) = other.split_once("{identity=").unwrap_or((other, ""));
        assert_eq!(name, other_name);
        if rest.is_empty() {
            continue;
        }
        let (identity, rest) = unquoted(rest);
        let (api, rest) = unquoted(rest.strip_prefix(",api=").expect("the address"));
        assert!(texts[0].starts_with(&identity) && texts[2].starts_with(&api), "{sample}");
        let (_, other_rest) = unquoted(other_rest);
        let (_, other_rest) = unquoted(other_rest.strip_prefix(",api=").expect("the address"));
        assert_eq!(rest, other_rest);
    }
}

fn status_of([identity, user, url, error]: [&str; 4]) -> Status {
    let mut table = OwnTable::new(2);
    let key = AccountKey([1; 4]);
    table.describe(&key, Description { identity, url, kind: Kind::Named, user }, NOW);
    table.fail(&key, &LoginError::Unreachable(error.to_owned()), NOW);
    table.status(NOW, |_, _| true)
}

/// The text of a label's value, and what follows it.
fn unquoted(text: &str) -> (String, &str) {
    let text = text.strip_prefix('"').expect("a quote");
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, c @ ('"' | '\\'))) => value.push(c),
                _ => panic!("no escape: {text}"),
            },
            _ => value.push(c),
        }
    }
    panic!("no end: {text}");
}
