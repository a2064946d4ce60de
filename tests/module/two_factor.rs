//! Accounts with two-factor authentication.

use std::time::Duration;

use ngx_http_npm_token_inject_module::sso::npm::{BaseUrl, Credentials, Issuer, LoginError};
use ngx_http_npm_token_inject_module::sso::secret::Secret;
use ngx_http_npm_token_inject_module::sso::totp::TotpSecret;
use serde_json::{json, Value};
use testbed::npm::TOTP_SECRET;
use testbed::{Npm, Reply};

use crate::site::*;

/// A user of the small NPM's with two-factor authentication.
const TOTP: &str = "totp@example.com";

/// Another one's secret.
const OTHER: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";

/// An accounts file by which everybody is that user, with these keys more.
fn accounts_with(npm: &Npm, more: &Value) -> String {
    let mut account = json!({"user": "*", "identity": TOTP, "secret": npm.secret(TOTP)});
    let more = more.as_object().expect("keys").clone();
    account.as_object_mut().expect("an account").extend(more);
    json!({"api": npm.url(), "accounts": [account]}).to_string()
}

fn assert_signs_in(reply: &Reply) {
    assert_eq!((status(reply), &*email(reply)), ("miss", TOTP));
}

#[test]
fn the_code_is_sent_that_npm_asks_for() {
    for secret in [TOTP_SECRET.to_owned(), TOTP_SECRET.to_lowercase()] {
        let npm = quick_npm();
        let accounts = accounts_with(&npm, &json!({"totp_secret": secret}));
        let nginx = site(&npm).accounts(&accounts).start();
        assert_signs_in(&nginx.client().get(ME));
        assert_eq!(status(&nginx.client().get(ME)), "hit");
        // One code, and another where a step began before NPM looked at it.
        assert_eq!(npm.logins(), 1);
        assert!((1..=2).contains(&npm.codes()));
        // It says nothing of how that is done.
        assert!(!nginx.error_log().contains(TOTP_SECRET));
    }
}

#[test]
fn its_secret_may_stand_in_a_file() {
    let npm = quick_npm();
    let accounts = accounts_with(&npm, &json!({"totp_secret_file": "secrets/totp"}));
    let with = |content: &str, mode| {
        site(&npm).accounts(&accounts).file_with_mode("secrets/totp", content, mode)
    };
    let nginx = with(&format!("{TOTP_SECRET}\n"), 0o600).start();
    assert_signs_in(&nginx.client().get(ME));

    let test = with(TOTP_SECRET, 0o644).test();
    assert!(test.ok && test.output.contains("others can read \""), "{test:?}");
    for (content, why) in [("", "it is empty"), ("secret 1", "it is not base32")] {
        let test = with(content, 0o600).test();
        let message = format!("secrets/totp\": {why}");
        assert!(!test.ok && test.output.contains("cannot read totp_secret_file"), "{test:?}");
        assert!(test.output.contains(&message), "{test:?}");
    }
    let test = site(&npm).accounts(&accounts).test();
    assert!(!test.ok && test.output.contains("cannot read totp_secret_file"), "{test:?}");
}

#[test]
fn a_wrong_one_is_a_refusal_and_a_corrected_one_works_from_the_reload_on() {
    let npm = quick_npm();
    let accounts = |secret: &str| accounts_with(&npm, &json!({"totp_secret": secret}));
    let nginx = site(&npm).accounts(&accounts(OTHER)).start();
    for _ in 0..3 {
        assert_eq!(status(&nginx.client().get(ME)), "error");
    }
    let lines = nginx.log_lines(FAILED);
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    for part in ["refused the two-factor code", "set \"totp_secret\"", "not tried again for 60 s"] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    assert_eq!(npm.logins(), 1);
    // One code, and another where the first was made within three seconds of its step's beginning.
    assert!((1..=2).contains(&npm.codes()));

    nginx.write_accounts(&accounts(TOTP_SECRET));
    nginx.reload();
    assert_signs_in(&nginx.client().get(ME));
    let log = nginx.error_log();
    assert!(!log.contains(OTHER) && !log.contains(TOTP_SECRET));
}

/// Milliseconds.
const STEP: u64 = 30_000;

/// A login by a clock that shows these moments, one after the other, of NPM's own time: before, or
/// after, the step in which NPM is.
fn log_in_at(npm: &Npm, moments: &[i64]) -> Result<(), LoginError> {
    // NPM is in the middle of a step, and will be for ten seconds.
    let now = npm.seconds() % 30;
    npm.clock_offset(10 - i64::try_from(now).expect("seconds"));
    let step = npm.seconds() * 1000 / STEP * STEP;

    let issuer = Issuer::new(
        BaseUrl::try_from(npm.url()).expect("an address"),
        Duration::from_secs(5),
        Vec::new(),
    );
    let credentials = Credentials {
        identity: TOTP.to_owned(),
        secret: Secret::new(npm.secret(TOTP)),
        totp: Some(TotpSecret::parse(TOTP_SECRET).expect("a secret")),
    };
    let mut moments = moments.iter();
    let clock = || step.checked_add_signed(*moments.next().expect("a moment")).expect("a moment");
    issuer.log_in_by(&credentials, clock).map(|_| ())
}

#[test]
fn a_code_that_comes_late_for_its_step_is_followed_by_one_of_the_next() {
    let npm = quick_npm();
    // Made at the end of the step before, refused in this one.
    assert_eq!(log_in_at(&npm, &[-100, 1_000, 1_001]), Ok(()));
    assert_eq!(npm.codes(), 2);
}

#[test]
fn a_code_of_a_step_that_npms_clock_has_not_reached_is_followed_by_another() {
    let npm = quick_npm();
    // Made at the beginning of the next step; NPM's clock lags. It has not caught up, so that the
    // second one is refused as well, and is the last.
    let next = i64::try_from(STEP).expect("a step");
    let result = log_in_at(&npm, &[next + 100, next + 1_200, next + 1_201]);
    assert_eq!(result, Err(LoginError::RefusedCode));
    assert_eq!(npm.codes(), 2);
}

#[test]
fn a_code_that_is_wrong_in_the_middle_of_a_step_is_not_followed_by_another() {
    let npm = quick_npm();
    let other = 3 * i64::try_from(STEP).expect("a step");
    let result = log_in_at(&npm, &[other + 10_000, other + 11_100]);
    assert_eq!(result, Err(LoginError::RefusedCode));
    assert_eq!(npm.codes(), 1);
}
