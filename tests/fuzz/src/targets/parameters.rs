//! The parameters of the directive, and the variables that they name.

use ngx_http_npm_token_inject_module::sso::parameters::{ParameterError, Parameters};
use ngx_http_npm_token_inject_module::sso::variables::{is_from_client, names, source, Set};

/// One argument on each line, as nginx hands them on.
pub fn parameters(data: &[u8]) {
    let arguments: Vec<&[u8]> = data.split(|&b| b == b'\n').collect();
    let value = |name: &str| {
        let found = arguments.iter().filter_map(|argument| {
            let (own, rest) = argument.split_at_checked(name.len())?;
            Some(rest.strip_prefix(b"=")?).filter(|_| own == name.as_bytes())
        });
        found.collect::<Vec<_>>()
    };
    match Parameters::parse(arguments.iter().copied()) {
        Ok(parameters) => {
            for (name, read) in [
                ("user", Some(parameters.user)),
                ("email", parameters.email),
                ("groups", parameters.groups),
                ("name", parameters.name),
                ("credentials", parameters.credentials),
            ] {
                match value(name)[..] {
                    [] if name == "user" => assert_eq!(read, Some(&b"$authentik_username"[..])),
                    [] => assert_eq!(read, None),
                    [given] => {
                        assert!(read == Some(given) && !given.is_empty());
                        let mut own = parameters.variables.iter().filter(|(of, _)| *of == name);
                        assert!(own.by_ref().map(|(_, name)| name).eq(&names_of(given)));
                    }
                    _ => panic!("{name} is given more than once"),
                }
            }
            assert_eq!(parameters.trust_headers, value("trust_headers") == [b"on"]);
            let client = parameters.variables.iter().find(|(_, name)| is_from_client(name));
            assert!(client.is_none() || parameters.trust_headers);
            // Their order is of no account.
            let turned = Parameters::parse(arguments.iter().rev().copied());
            assert_eq!(turned, Ok(parameters));
        }
        // What follows an unknown name may be a secret.
        Err(ParameterError::Unknown(name)) => assert!(!name.contains('=')),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// On each line what is set, and to what; the first line is asked for.
pub fn variables(data: &[u8]) {
    let mut lines = data.split(|&b| b == b'\n');
    let first = String::from_utf8_lossy(lines.next().unwrap_or_default()).to_ascii_lowercase();
    let texts: Vec<(String, &[u8])> = lines
        .filter_map(|line| {
            let at = line.iter().position(|&b| b == b' ')?;
            Some((String::from_utf8_lossy(&line[..at]).to_ascii_lowercase(), &line[at + 1..]))
        })
        .collect();
    for (_, value) in &texts {
        assert_eq!(names(value), names_of(value));
    }
    let sets: Vec<Set<'_>> =
        texts.iter().map(|(variable, value)| Set { variable, value }).collect();

    // All that it is set from, as long as that grows.
    let mut reached = vec![first.clone()];
    loop {
        let from = texts.iter().filter(|(variable, _)| reached.contains(variable));
        let found =
            from.flat_map(|(_, value)| names_of(value)).find(|name| !reached.contains(name));
        match found {
            Some(name) => reached.push(name),
            None => break,
        }
    }
    // What is asked for may be a client's only where it is set from itself.
    let is_own = |name: &String| {
        texts
            .iter()
            .any(|(variable, value)| reached.contains(variable) && names_of(value).contains(name))
    };
    let any = reached.iter().any(|name| is_from_client(name) && is_own(name));
    match source(&first, &sets) {
        Some(name) => assert!(is_from_client(&name) && reached.contains(&name)),
        None => assert!(!any),
    }
}

/// The names in a text, letter by letter, as nginx's own loop goes.
fn names_of(text: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    let mut name: Option<String> = None;
    let mut after_dollar = false;
    for &byte in text.iter().chain(b" ") {
        match (byte, &mut name) {
            (b'{', Some(_)) if after_dollar => {
                after_dollar = false;
                continue;
            }
            (b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_', Some(name)) => {
                name.push(byte.to_ascii_lowercase().into());
            }
            _ => {
                names.extend(name.take().filter(|name| !name.is_empty()));
                name = (byte == b'$').then(String::new);
            }
        }
        after_dollar = byte == b'$';
    }
    names
}
