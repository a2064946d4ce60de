//! The accounts file: who fits which account, and what an error tells.

use std::path::Path;
use std::sync::Arc;

use ngx_http_npm_token_inject_module::sso::account::{Account, Visitor};
use ngx_http_npm_token_inject_module::sso::accounts::{Accounts, AccountsError};
use ngx_http_npm_token_inject_module::sso::groups::Separator;
use serde_json::{Map, Value};

/// Nothing can lie in there.
const FILE: &str = "/dev/null/accounts.json";

/// A secret that no message may hold, and one that was written without quotes.
const SECRET: &str = "k3ep-th1s-0ut";
const NUMBER: u64 = 8_675_309_135_792_468;

pub fn file(data: &[u8]) {
    let Ok(mut document) = serde_json::from_slice::<Value>(data) else {
        assert!(read(data, Separator::Bar).is_err(), "it is no JSON");
        return;
    };
    let names_files = walk(&mut document, &mut |key, value| {
        matches!(key, "secret_file" | "totp_secret_file" | "ca_file") && value.is_string() && {
            // Whatever else it says, nobody's file is to be read.
            *value = "x".into();
            true
        }
    });
    for separator in [Separator::Bar, Separator::Comma] {
        if !names_files {
            check(data, &document, separator);
        }
        check(document.to_string().as_bytes(), &document, separator);
    }
    hide_secrets(&mut document);
    if let Err(error) = read(document.to_string().as_bytes(), Separator::Bar) {
        let error = error.to_string();
        assert!(!error.contains(SECRET) && !error.contains(&NUMBER.to_string()), "{error}");
    }
}

fn read(text: &[u8], separator: Separator) -> Result<Accounts, AccountsError> {
    Accounts::read(text, Path::new(FILE), None, separator, &mut |_| ())
}

fn check(text: &[u8], document: &Value, separator: Separator) {
    let accounts = match read(text, separator) {
        Ok(accounts) => accounts,
        Err(error) => {
            let message = error.to_string();
            if matches!(error, AccountsError::Content(..)) {
                assert!(has_place(&message), "{message}");
            }
            return;
        }
    };
    let rules = document["accounts"].as_array().map_or(&[][..], Vec::as_slice);
    let values = ["user", "email", "group"].map(|key| {
        rules.iter().filter_map(move |rule| rule[key].as_str()).chain(["", "nobody", "*"])
    });
    let [users, emails, groups] = values.map(Iterator::collect::<Vec<_>>);
    // Each with its neighbours in the lists, so that several could fit.
    for n in 0..users.len().max(emails.len()).max(groups.len()) {
        let of = |values: &[&str]| values[n % values.len()].to_owned();
        let (user, email) = (of(&users), of(&emails).to_ascii_uppercase());
        let list = format!("x{}{}", char::from(separator.byte()), of(&groups));
        let visitor = Visitor {
            user: user.as_bytes(),
            email: email.as_bytes(),
            groups: list.as_bytes(),
            separator,
        };
        let names = match separator {
            Separator::Bar => vec!["x".to_owned(), of(&groups)],
            Separator::Comma => vec!["x".to_owned(), bare(&of(&groups)).to_owned()],
        };
        let fits = |rule: &&Value| match (&rule["user"], &rule["email"], &rule["group"]) {
            (Value::String(name), _, _) => name == "*" || *name == user,
            (_, Value::String(address), _) => address.eq_ignore_ascii_case(&email),
            (_, _, Value::String(group)) => names.contains(group),
            _ => panic!("an account of nobody: {rule}"),
        };
        let expected = rules.iter().find(fits).and_then(|rule| rule["identity"].as_str());
        // The second time, it is known.
        for _ in 0..2 {
            let account = find(&accounts, visitor);
            let found = account.as_ref().map(|account| &*account.credentials.identity);
            assert_eq!(found, expected, "{visitor:?}");
        }
        if let Some(account) = find(&accounts, visitor) {
            assert!(!account.credentials.secret.expose().is_empty());
            assert!(accounts.name(&account.key));
        }
    }
}

/// The account of the file that fits. People's own are for the target `visitor`.
fn find(accounts: &Accounts, visitor: Visitor) -> Option<Arc<Account>> {
    let found = accounts.find(visitor, || Ok::<_, ()>(b"Name"), 0).expect("it has a name");
    found.ok().filter(|account| account.person().is_none())
}

/// A name without what may stand around it between commas.
fn bare(name: &str) -> &str {
    let name = name.trim_matches([' ', '\t', '\n', '\r', '\x0c']);
    match name.len() >= 2 && name.starts_with('"') && name.ends_with('"') {
        true => &name[1..name.len() - 1],
        false => name,
    }
}

/// Whether it ends with the place in the file.
fn has_place(message: &str) -> bool {
    let place = message.rsplit_once(" at line ").and_then(|(_, place)| {
        let (line, column) = place.split_once(" column ")?;
        Some((line.parse::<usize>().ok()?, column.parse::<usize>().ok()?))
    });
    place.is_some_and(|(line, _)| line > 0)
}

/// Puts secrets where they belong, and texts in quotes where those belong that are none.
fn hide_secrets(document: &mut Value) {
    walk(document, &mut |key, value| {
        let is_secret = matches!(key, "secret" | "totp_secret");
        match value {
            Value::String(_) if is_secret => *value = SECRET.into(),
            Value::Number(_) if is_secret => *value = NUMBER.into(),
            Value::String(_)
                if matches!(key, "accounts" | "sign_in_as" | "create" | "raise" | "groups") =>
            {
                *value = format!("\": string \"{SECRET}\", expected ").into();
            }
            _ => {}
        }
        false
    });
}

/// Shows every value with its key, that of a list with its list's; whether `visit` said so of any.
fn walk(value: &mut Value, visit: &mut dyn FnMut(&str, &mut Value) -> bool) -> bool {
    fn go(key: &str, value: &mut Value, visit: &mut dyn FnMut(&str, &mut Value) -> bool) -> bool {
        let mut any = visit(key, value);
        match value {
            Value::Object(map) => {
                for (key, value) in Map::iter_mut(map) {
                    any |= go(key, value, visit);
                }
            }
            Value::Array(list) => {
                for value in list {
                    any |= go(key, value, visit);
                }
            }
            _ => {}
        }
        any
    }
    go("", value, visit)
}
