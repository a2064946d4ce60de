//! nginx's variables that say who a user is: which a text names, and which of them the client chooses.

/// What a variable is set to, as by `auth_request_set`.
#[derive(Clone, Copy)]
pub struct Set<'a> {
    /// In lowercase and without its `$`.
    pub variable: &'a str,
    /// A text that may name others.
    pub value: &'a [u8],
}

/// The variables that a text names, in lowercase, as `ngx_http_script_compile` reads it.
pub fn names(text: &[u8]) -> Vec<String> {
    let is_name = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    let mut names = Vec::new();
    let mut rest = text;
    while let Some(dollar) = rest.iter().position(|&b| b == b'$') {
        rest = &rest[dollar + 1..];
        rest = rest.strip_prefix(b"{").unwrap_or(rest);
        let end = rest.iter().position(|b| !is_name(b)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if !name.is_empty() {
            names.push(String::from_utf8_lossy(name).to_ascii_lowercase());
        }
        rest = after;
    }
    names
}

/// Whether a variable holds what the client sent, or chooses: of all that nginx and OpenResty have.
pub fn is_from_client(name: &str) -> bool {
    const PREFIXES: [&str; 8] =
        ["http_", "arg_", "cookie_", "proxy_protocol_", "ssl_", "uid_", "echo_", "fastcgi_"];
    const NAMES: [&str; 33] = [
        "ancient_browser",
        "args",
        "binary_remote_addr",
        "content_length",
        "content_type",
        "document_root",
        "document_uri",
        "host",
        "http2",
        "http3",
        "https",
        "is_args",
        "is_request_port",
        "modern_browser",
        "msie",
        "proxy_add_via",
        "proxy_add_x_forwarded_for",
        "query_string",
        "realpath_root",
        // By X-Real-IP, for one.
        "remote_addr",
        "remote_port",
        "remote_user",
        "request",
        "request_body",
        "request_body_file",
        "request_filename",
        "request_length",
        "request_method",
        "request_port",
        "request_uri",
        "scheme",
        "server_protocol",
        "uri",
    ];
    // What a part of a regular expression has found, as $1.
    let is_capture = name.starts_with(|first: char| first.is_ascii_digit());
    let is_other = matches!(name, "secure_link_expires" | "slice_range");
    let has_prefix = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    is_capture || is_other || has_prefix || NAMES.contains(&name)
}

/// The variable of the client's that this variable is set from, be it by way of others.
pub fn source(name: &str, sets: &[Set<'_>]) -> Option<String> {
    let mut met = vec![name.to_owned()];
    let mut next = 0;
    while let Some(name) = met.get(next).cloned() {
        next += 1;
        let here = sets.iter().filter(|set| set.variable == name);
        for other in here.flat_map(|set| names(set.value)) {
            if is_from_client(&other) {
                return Some(other);
            }
            if !met.contains(&other) {
                met.push(other);
            }
        }
    }
    None
}

/// Where Authentik's answer to `auth_request` has what a parameter needs.
pub fn answer(parameter: &str) -> &'static str {
    match parameter {
        "email" => "$upstream_http_x_authentik_email",
        "groups" => "$upstream_http_x_authentik_groups",
        "name" => "$upstream_http_x_authentik_name",
        "credentials" => "$upstream_http_authorization",
        _ => "$upstream_http_x_authentik_username",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_names_what_nginx_finds_in_it() {
        for (text, expected) in [
            ("", &[][..]),
            ("alice", &[]),
            ("$a", &["a"]),
            ("$A_b1", &["a_b1"]),
            ("${a}", &["a"]),
            ("x-$a.${b}c$d@$e", &["a", "b", "d", "e"]),
            ("$1", &["1"]),
            ("$ $", &[]),
            ("$$a", &["a"]),
            ("${a", &["a"]),
            ("$\u{e4}a", &[]),
        ] {
            assert_eq!(names(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_variable_is_followed_to_what_it_is_set_from() {
        let sets = [
            ("user", "$upstream_http_x_user"),
            ("other", "$user@${mail}"),
            ("mail", "$upstream_http_x_mail$forged"),
            ("forged", "$ring"),
            ("ring", "$forged$http_x_user"),
            ("circle", "$circle$round"),
            ("round", "$circle"),
        ];
        let sets = sets.map(|(variable, value)| Set { variable, value: value.as_bytes() });
        for (name, expected) in [
            ("user", None),
            ("other", Some("http_x_user")),
            ("ring", Some("http_x_user")),
            ("circle", None),
            ("unknown", None),
        ] {
            assert_eq!(source(name, &sets).as_deref(), expected, "{name}");
        }
    }
}
