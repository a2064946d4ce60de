//! What Authentik says of a user: whether, and with which role, they are signed in as a user of their
//! own.

use std::path::Path;

use ngx_http_npm_token_inject_module::sso::account::{NoAccount, Visitor, Wanted};
use ngx_http_npm_token_inject_module::sso::accounts::Accounts;
use ngx_http_npm_token_inject_module::sso::groups::Separator;

const FILE: &[u8] = br#"{"sign_in_as": {"identity": "sso@example.com", "secret": "s",
    "groups": {"admins": "admin", "users": "user"}}}"#;

thread_local! {
    static ACCOUNTS: Accounts = {
        let read = Accounts::read(FILE, Path::new("f"), None, Separator::Bar, &mut |_| ());
        read.unwrap_or_else(|error| panic!("{error}"))
    };
}

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
    // The second time, it is known.
    for _ in 0..2 {
        let find = |accounts: &Accounts| accounts.find(visitor, || Ok::<_, ()>(name), 0);
        match ACCOUNTS.with(find).expect("it has a name") {
            Ok(account) => {
                let person = account.person().expect("a person");
                assert!(is_address && wanted == Some(person.wanted));
                assert_eq!(person.email.as_bytes(), email.to_ascii_lowercase());
                assert_eq!(person.user, String::from_utf8_lossy(user));
            }
            Err(NoAccount::ShutOut) => assert_eq!(wanted, None),
            Err(NoAccount::NoAddress) => assert!(wanted.is_some() && !is_address),
            Err(NoAccount::NoneFits) => panic!("each has their own"),
        }
    }
}
