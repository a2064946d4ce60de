//! What Authentik says of a user: whether, and with which role, they are signed in as a user of their
//! own.

use std::path::Path;
use std::sync::LazyLock;

use ngx_http_npm_token_inject_module::sso::accounts::{Accounts, Visitor};
use ngx_http_npm_token_inject_module::sso::groups::Separator;
use ngx_http_npm_token_inject_module::sso::sign_in_as::{Found, Wanted};

const FILE: &[u8] = br#"{"sign_in_as": {"identity": "sso@example.com", "secret": "s",
    "groups": {"admins": "admin", "users": "user"}}}"#;

static ACCOUNTS: LazyLock<Accounts> = LazyLock::new(|| {
    let read = Accounts::read(FILE, Path::new("f"), None, Separator::Bar, &mut |_| ());
    read.unwrap_or_else(|error| panic!("{error}"))
});

/// Lines: the user, their address, their groups, their name.
pub fn visitor(data: &[u8]) {
    let mut lines = data.splitn(4, |&b| b == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let [user, email, groups, name] = [line(), line(), line(), line()];
    let visitor = Visitor { user, email, groups, separator: Separator::Bar };
    let has = |group: &str| groups.split(|&b| b == b'|').any(|name| name == group.as_bytes());
    let wanted = match () {
        () if has("admins") => Some(Wanted::Administrator),
        () if has("users") => Some(Wanted::Standard),
        () => None,
    };
    let is_address = std::str::from_utf8(email).is_ok_and(|text| {
        let is_fit = |c: char| c.is_ascii_graphic() && !"\"(),:;<>@[\\]".contains(c);
        let in_domain = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
        let parts: Vec<_> = text.split('@').collect();
        let [local, domain] = parts[..] else { return false };
        [local, domain].iter().all(|part| !part.is_empty())
            && local.chars().all(is_fit)
            && domain.chars().all(in_domain)
            && text.len() <= 254
    });
    let sign_in_as = ACCOUNTS.sign_in_as().expect("it is in the file");
    // The second time, it is known.
    for _ in 0..2 {
        match sign_in_as.find(&visitor, || Ok::<_, ()>(name)) {
            Ok(Found::Account(account)) => {
                let person = account.person().expect("a person");
                assert!(is_address && wanted == Some(person.wanted));
                assert_eq!(person.email.as_bytes(), email.to_ascii_lowercase());
                assert_eq!(person.user, String::from_utf8_lossy(user));
            }
            Ok(Found::ShutOut) => assert_eq!(wanted, None),
            Ok(Found::NoAddress) => assert!(wanted.is_some() && !is_address),
            Err(()) => panic!("it has a name"),
        }
    }
}
