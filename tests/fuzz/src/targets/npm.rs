//! What NPM answers.

use ngx_http_npm_token_inject_module::sso::npm::{
    unix_millis, BaseUrl, Issuer, LoginError, Me, Role,
};
use ngx_http_npm_token_inject_module::sso::sign_in_as::users_with;
use ngx_http_npm_token_inject_module::sso::token::AUTHORIZATION_MAX;
use serde_json::Value;

/// The answer as an object. A list of the values is taken as well, and what does not matter may be no
/// JSON.
fn object(answer: &[u8]) -> Option<Value> {
    serde_json::from_slice(answer).ok().filter(Value::is_object)
}

/// To a login.
pub fn login(data: &[u8]) {
    let api = BaseUrl::try_from("http://127.0.0.1:81".to_owned()).expect("a URL");
    let issuer = Issuer::new(api, std::time::Duration::from_secs(5), Vec::new());
    let before = unix_millis();
    match issuer.token_in(data) {
        Ok(token) => {
            let header = token.authorization();
            assert!(
                header.len() <= AUTHORIZATION_MAX
                    && header.bytes().all(|b| b.is_ascii_graphic() || b == b' ')
            );
            assert!(before < token.use_until);
            if let Some(answer) = object(data) {
                assert_eq!(
                    answer["token"].as_str().map(|jwt| format!("Bearer {jwt}")).as_deref(),
                    Some(header)
                );
                assert_ne!(answer["requires_2fa"], true);
            }
        }
        // None of these says anything of the answer's own.
        Err(error) => assert!(matches!(error, LoginError::NotToken | LoginError::Token(_))),
    }
}

/// To the question who one is.
pub fn me(data: &[u8]) {
    let me = serde_json::from_slice::<Me>(data).unwrap_or_default();
    if me.role() == Role::Administrator {
        if let Some(answer) = object(data) {
            assert!(answer["roles"]
                .as_array()
                .is_some_and(|roles| roles.contains(&"admin".into())));
            assert_eq!(answer["id"].as_u64(), me.id);
        }
    }
}

/// To the question whom it has.
pub fn users(data: &[u8]) {
    const ADDRESS: &str = "a@b.c";
    let users = match users_with(ADDRESS, data) {
        Ok(users) => users,
        Err(error) => {
            assert_eq!(error, LoginError::NotUsers);
            return;
        }
    };
    let Ok(list) = serde_json::from_slice::<Vec<Value>>(data) else { return };
    let mut expected: Vec<u64> = list
        .iter()
        .map(|user| match user {
            Value::Array(fields) => (&fields[0], &fields[1]),
            user => (&user["id"], &user["email"]),
        })
        .filter(|(_, email)| {
            email.as_str().is_some_and(|text| text.to_ascii_lowercase() == ADDRESS)
        })
        .filter_map(|(id, _)| id.as_u64())
        .collect();
    expected.sort_unstable();
    assert_eq!(users.iter().map(|user| user.id).collect::<Vec<_>>(), expected);
}
