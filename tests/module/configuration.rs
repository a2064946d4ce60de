//! What `nginx -t` says of the directive and of the files that it names, and what the directive
//! means where it stands.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{json, Value};
use testbed::nginx::{self, Builder};
use testbed::{Nginx, Tls};

use crate::{status, World, ASKED, SHOWN};

/// The parameters that say who the user is.
const IDENTITY: [&str; 5] = ["user", "email", "groups", "name", "credentials"];

/// A location behind auth_request, with a directive on line 3 of a file of its own.
fn location(directive: &str) -> Builder {
    let user = "auth_request_set $authentik_username $upstream_http_x_authentik_username;";
    bare_location(directive).location("/", &format!("auth_request /auth;\n{user}"))
}

/// The same, but nothing sets the user.
fn bare_location(directive: &str) -> Builder {
    println!("{directive}");
    Nginx::builder()
        .location("= /auth", "internal;\nproxy_pass http://127.0.0.1:1;")
        .location("/", "include directive.conf;")
        .file("directive.conf", format!("\n\n{directive}\n"))
        .accounts(r#"{"accounts": [{"user": "akadmin", "identity": "i", "secret": "s"}]}"#)
}

/// A location with this accounts file.
fn accounts(json: &str) -> Builder {
    println!("{json}");
    location("npm_token_inject accounts.json;").accounts(json)
}

/// An accounts file with one account, on line 3.
fn account(fields: &str) -> Builder {
    accounts(&format!("{{\n  \"accounts\": [\n    {{{fields}}}\n  ]\n}}"))
}

#[track_caller]
fn is_accepted(nginx: &Builder) -> String {
    let test = nginx.test();
    assert!(test.ok, "{}", test.output);
    test.output
}

/// nginx does not start, and one line says why, with file and line of the directive.
#[track_caller]
fn is_refused(nginx: &Builder, message: &str) -> String {
    is_refused_at(nginx, "directive.conf:3", message)
}

#[track_caller]
fn is_refused_at(nginx: &Builder, place: &str, message: &str) -> String {
    let test = nginx.test();
    let output = test.output;
    assert!(!test.ok, "nginx starts, and does not say: {message}");
    let errors: Vec<&str> = output.lines().filter(|line| line.contains("[emerg]")).collect();
    assert_eq!(errors.len(), 1, "{output}");
    assert!(errors[0].contains("npm_token_inject: ") && errors[0].contains(message), "{output}");
    assert!(errors[0].ends_with(&format!("/{place}")), "{output}");
    errors[0].to_owned()
}

#[test]
fn an_unknown_parameter_is_refused() {
    for parameter in
        ["users=$authentik_username", "USER=x", "sign_in_as=x", "timeout=5s", "=x", "pass", "on"]
    {
        let directive = format!("npm_token_inject accounts.json {parameter};");
        is_refused(&location(&directive), "unknown parameter");
    }
    is_refused(&location("npm_token_inject accounts.json users=x;"), "\"users");
}

#[test]
fn a_parameter_has_a_value_and_stands_once() {
    let others = ["api", "browser", "sign_out", "on_error", "client_token", "trust_headers"];
    for name in IDENTITY.into_iter().chain(others) {
        let wrong = |parameters: &str| location(&format!("npm_token_inject on {parameters};"));
        let no_value = format!("parameter \"{name}\" has no value");
        is_refused(&wrong(&format!("{name}=")), &no_value);
        is_refused(&wrong(&format!("\"{name}=\"")), &no_value);
        is_refused(&wrong(name), "unknown parameter");
        let twice = format!("{name}=x {name}=x");
        is_refused(&wrong(&twice), &format!("duplicate parameter \"{name}\""));
    }
}

#[test]
fn a_parameter_that_is_one_of_two_words_takes_no_other() {
    for (name, words) in [
        ("browser", ["on", "off"]),
        ("on_error", ["pass", "deny"]),
        ("client_token", ["keep", "replace"]),
        ("groups_separator", ["|", ","]),
        ("trust_headers", ["off", "on"]),
    ] {
        let directive = |value: &str| format!("npm_token_inject accounts.json {name}={value};");
        for word in words {
            is_accepted(&location(&directive(word)));
        }
        for wrong in ["yes", &format!("{}S", words[0]), "$authentik_username", "1"] {
            let mend = format!("\"{name}\": it is \"{}\" or \"{}\"", words[0], words[1]);
            is_refused(&location(&directive(wrong)), &mend);
        }
    }
}

#[test]
fn api_is_a_base_url() {
    let directive = |url: &str| location(&format!("npm_token_inject accounts.json \"api={url}\";"));
    let in_file = |url: &str| accounts(&json!({"api": url, "accounts": []}).to_string());
    for right in ["http://127.0.0.1:81", "https://npm.example.com/", "HTTP://[::1]:81/npm"] {
        is_accepted(&directive(right));
        is_accepted(&in_file(right));
    }
    for wrong in [
        "npm:81",
        "127.0.0.1:81",
        "//npm",
        "ftp://npm",
        "http://",
        "http://a b",
        "http://user:secret@npm",
        "http://npm/?query",
        "http://npm/#fragment",
        "/api",
        "$host",
    ] {
        is_refused(&directive(wrong), "invalid value of parameter \"api\": ");
        is_refused(&in_file(wrong), " at line 1 column ");
    }
}

#[test]
fn an_api_without_a_host_or_with_a_port_that_is_none_is_refused() {
    for wrong in ["http://npm:port", "http://npm:99999", "http://:81"] {
        let directive = format!("npm_token_inject accounts.json api={wrong};");
        is_refused(&location(&directive), "invalid value of parameter \"api\": ");
    }
}

#[test]
fn sign_out_is_an_address_and_of_use_only_with_the_browser() {
    let directive =
        |parameters: &str| location(&format!("npm_token_inject accounts.json {parameters};"));
    is_accepted(&directive("sign_out=/outpost.goauthentik.io/sign_out"));
    is_accepted(&directive("browser=on sign_out=https://auth.example.com/sign_out?a=b"));
    for wrong in ["sign_out", "javascript:alert(1)", "auth.example.com", "ftp://auth"] {
        is_refused(&directive(&format!("sign_out={wrong}")), "of parameter \"sign_out\": ");
    }
    is_refused(&directive("browser=off sign_out=/x"), "\"sign_out\" needs browser=on");
}

#[test]
fn off_takes_no_parameters() {
    is_accepted(&location("npm_token_inject off;"));
    is_refused(&location("npm_token_inject off on_error=pass;"), "\"off\" takes no parameters");
}

#[test]
fn a_directive_needs_a_file_or_a_word() {
    let test = location("npm_token_inject;").test();
    assert!(!test.ok && test.output.contains("invalid number of arguments"), "{test:?}");
    is_refused(&location("npm_token_inject \"\";"), "is a directory");
}

#[test]
fn the_directive_stands_once_in_a_level() {
    let (on, off) = ("npm_token_inject accounts.json;", "npm_token_inject off;");
    for (first, second) in [(on, on), (on, off), (off, on), (off, off)] {
        let twice = location(&format!("{first}\n{second}"));
        is_refused_at(&twice, "directive.conf:4", "the directive is duplicate");
    }
    for level in [Builder::http, Builder::server] {
        let nginx = level(location(off), "include twice.conf;");
        let twice = nginx.file("twice.conf", format!("{off}\n{off}"));
        is_refused_at(&twice, "twice.conf:2", "the directive is duplicate");
    }
}

#[test]
fn a_variable_that_nothing_sets_is_told_with_the_line_that_sets_it() {
    let line = "add the line \"auth_request_set $authentik_username \
                $upstream_http_x_authentik_username;\" beside auth_request";
    is_refused(&bare_location("npm_token_inject accounts.json;"), line);

    for (parameter, source) in [
        ("user", "$upstream_http_x_authentik_username"),
        ("email", "$upstream_http_x_authentik_email"),
        ("groups", "$upstream_http_x_authentik_groups"),
        ("name", "$upstream_http_x_authentik_name"),
        ("credentials", "$upstream_http_authorization"),
    ] {
        let line = format!("add the line \"auth_request_set $other {source};\"");
        for value in ["$other", "${other}", "$OTHER", "a-${other}b", "$authentik_username|$other"] {
            let directive = format!("npm_token_inject accounts.json {parameter}={value};");
            let error = is_refused(&location(&directive), &line);
            assert!(error.contains(&format!("which \"{parameter}\" needs")), "{error}");
        }
    }
}

#[test]
fn a_variable_may_be_set_anywhere() {
    let other = location("npm_token_inject accounts.json user=$other email=$other;");
    for set in ["map $server_port $other { default x; }", "geo $other { default x; }"] {
        is_accepted(&other.clone().http(set));
    }
    is_accepted(&other.clone().server("set $other x;"));
    is_accepted(&other.clone().location("/x", "auth_request_set $other $upstream_http_x;"));
    is_accepted(&other.http("server { listen 127.0.0.1:1; set $OTHER x; }"));
    for built_in in ["$realip_remote_addr", "$upstream_http_x_authentik_username", "akadmin"] {
        let directive = format!("npm_token_inject accounts.json user={built_in};");
        is_accepted(&bare_location(&directive));
    }
}

#[test]
fn an_identity_that_the_client_could_send_is_refused() {
    for parameter in IDENTITY {
        for value in [
            "$http_x_user",
            "$HTTP_X_User",
            "${http_x_user}",
            "$authentik_username$http_x_user",
            "a-${http_x_user}-b",
            "$http_authorization",
            "$arg_user",
            "$cookie_user",
            "$remote_user",
            "$args",
            "$query_string",
            "$request_uri",
        ] {
            let directive = format!("npm_token_inject accounts.json {parameter}={value}");
            let untrusted = location(&format!("{directive};"));
            let error = is_refused(&untrusted, "trust_headers=on");
            assert!(error.contains(&format!("\"{parameter}\" comes from the client")), "{error}");
            assert!(error.contains("auth_request_set"), "{error}");
            is_refused(&location(&format!("{directive} trust_headers=off;")), "trust_headers=on");
            is_accepted(&location(&format!("{directive} trust_headers=on;")));
        }
    }
    is_accepted(&location("npm_token_inject accounts.json trust_headers=on user=$http_x_user;"));
}

#[test]
fn whatever_a_client_can_choose_is_refused() {
    for name in [
        "request_filename",
        "realpath_root",
        "document_root",
        "uri",
        "request_method",
        "request_body",
        "content_length",
        "proxy_add_x_forwarded_for",
        "remote_addr",
        "remote_port",
        "server_protocol",
        "host",
        "fastcgi_script_name",
        "fastcgi_path_info",
        "ssl_server_name",
        "ssl_client_s_dn",
        "ssl_client_fingerprint",
        "proxy_protocol_addr",
        "proxy_protocol_tlv_authority",
        "uid_got",
        "uid_set",
        "slice_range",
        "secure_link_expires",
        "1",
    ] {
        let directive = format!("npm_token_inject accounts.json user=${name}");
        is_refused(&location(&format!("{directive};")), &format!("anybody could send ${name};"));
    }
}

#[test]
fn a_named_part_of_a_regular_expression_is_refused() {
    let regular = "location ~ ^/(?<Found>.*)$ { return 204; }";
    for value in ["$found", "${found}x", "$FOUND"] {
        let directive = format!("npm_token_inject accounts.json user={value}");
        let nginx = |directive: &str| location(directive).server(regular);
        is_refused(&nginx(&format!("{directive};")), "anybody could send $found;");
        is_accepted(&nginx(&format!("{directive} trust_headers=on;")));
    }
    // What a map makes of such a part is the map's.
    let map = "map $authentik_email $local { default ''; ~^(?<before>[^@]+)@ $before; }";
    let email = "auth_request_set $authentik_email $upstream_http_x_authentik_email;";
    let directive = "npm_token_inject accounts.json user=$local;";
    is_accepted(&location(directive).http(map).location("/", email));
    // And one that the directive does not use is nobody's concern.
    is_accepted(&location("npm_token_inject accounts.json;").server(regular));
}

#[test]
fn an_auth_request_set_whose_value_comes_from_the_client_is_refused_with_what_to_write() {
    let refused = |set: &str, parameter: &str, variable: &str, place: &str| {
        let nginx = bare_location("auth_request /auth;\nnpm_token_inject accounts.json;");
        let nginx = nginx.location("/", "include set.conf;").file("set.conf", format!("\n{set}"));
        let error = is_refused_at(&nginx, place, &format!("anybody could send ${variable},"));
        assert!(error.contains(&format!("\"{parameter}\" comes from the client")), "{error}");
        assert!(error.contains("trust_headers=on"), "{error}");
        error
    };
    for value in
        ["$http_x_authentik_username", "${http_x_user}", "a-$cookie_user", "$arg_user", "$uri"]
    {
        let set = format!("auth_request_set $authentik_username {value};");
        let variable = variable_of(value);
        let error = refused(&set, "user", &variable, "set.conf:2");
        let line = "\"auth_request_set $authentik_username $upstream_http_x_authentik_username;\"";
        assert!(error.contains(line), "{error}");
    }
    // In the parameters' defaults, and by way of another variable.
    let user = "auth_request_set $authentik_username $upstream_http_x_authentik_username;";
    for (parameter, name) in [("email", "authentik_email"), ("groups", "authentik_groups")] {
        let set = format!("auth_request_set ${name} $http_x;\n{user}");
        let error = refused(&set, parameter, "http_x", "set.conf:2");
        assert!(error.contains(&format!("${name} $upstream_http_x_{name};")), "{error}");
    }
    let both = "auth_request_set $a $HTTP_x;\nauth_request_set $Authentik_Username $A;";
    refused(both, "user", "http_x", "set.conf:3");
    let circle = "auth_request_set $a $b;\nauth_request_set $b $a;";
    let nginx = location("npm_token_inject accounts.json email=$a;");
    is_accepted(&nginx.location("/", circle));
}

fn variable_of(value: &str) -> String {
    let name = value.split('$').nth(1).expect("a variable");
    name.trim_matches(['{', '}']).to_owned()
}

#[test]
fn an_auth_request_set_counts_where_nginx_would_use_it() {
    let forged = "auth_request_set $authentik_username $http_x;";
    let right = "auth_request_set $authentik_username $upstream_http_x_authentik_username;";
    let directive = "npm_token_inject accounts.json;";
    let trusting = "npm_token_inject accounts.json trust_headers=on;";
    let nginx = || bare_location("auth_request /auth;");
    let refused = |nginx: &Builder| {
        let test = nginx.test();
        assert!(!test.ok && test.output.contains("anybody could send $http_x,"), "{test:?}");
    };
    // From an outer level, which an inner one replaces whole.
    refused(&nginx().server(forged).location("/", directive));
    refused(&nginx().http(forged).location("/", directive));
    refused(&nginx().server(right).location("/", forged).location("/", directive));
    refused(&nginx().server(directive).location("/", forged));
    is_accepted(&nginx().server(forged).location("/", &format!("{right}\n{directive}")));
    is_accepted(&nginx().http(forged).location("/", trusting));
    // In a location from where nginx may come, but not in another server.
    refused(&nginx().location("/", directive).location("/a/", forged));
    let by_way = format!("auth_request_set $authentik_username $a;\n{directive}");
    refused(&nginx().location("/", &by_way).location("/a/", "auth_request_set $a $http_x;"));
    let own = format!("auth_request_set $a $upstream_http_x_a;\n{by_way}");
    is_accepted(&nginx().location("/", &own).location("/a/", "auth_request_set $a $http_x;"));
    let other = format!("server {{ listen 127.0.0.1:1; location / {{ {forged} {trusting} }} }}");
    is_accepted(&nginx().http(&other).location("/", &format!("{right}\n{directive}")));
}

#[test]
fn directives_of_other_modules_are_what_they_were() {
    for (line, message) in [
        ("auth_request_set $a;", "invalid number of arguments in \"auth_request_set\""),
        ("auth_request_set a b;", "invalid variable name \"a\""),
        ("auth_request /a;\nauth_request /b;", "\"auth_request\" directive is duplicate"),
        ("allow nobody;", "invalid parameter \"nobody\""),
        ("deny;", "invalid number of arguments in \"deny\""),
        ("auth_basic a;\nauth_basic b;", "\"auth_basic\" directive is duplicate"),
        ("limit_except GET { auth_request /a; }", "\"auth_request\" directive is not allowed here"),
    ] {
        let nginx = Nginx::builder().location("/", line);
        let (with, without) = (nginx.test(), nginx.clone().without_module().test());
        let said = |output: &str| {
            let line = output.lines().find(|line| line.contains("[emerg]"));
            let line = line.unwrap_or_default();
            line.split_once("[emerg]").map_or("", |line| line.1)[..].to_owned()
        };
        let place = |text: String| text.split(" in /").next().unwrap_or_default().to_owned();
        let words = |text: String| place(text).split(": ").skip(1).collect::<Vec<_>>().join(": ");
        assert!(!with.ok && with.output.contains(message), "{with:?}");
        assert_eq!(words(said(&with.output)), words(said(&without.output)));
    }
    let stream = "stream { server { listen 127.0.0.1:1; allow all; deny all; return x; } }";
    let nginx = Nginx::builder().main(stream);
    // Debian's has no streams of its own.
    assert_eq!(nginx.test().ok, nginx.clone().without_module().test().ok);
    is_accepted(&Nginx::builder().location("/", "limit_except GET { deny all; auth_basic x; }"));
}

#[test]
fn a_user_without_a_variable_is_warned_of() {
    let output = is_accepted(&location("npm_token_inject accounts.json user=akadmin;"));
    let warning = output.lines().find(|line| line.contains("\"user\" names no variable"));
    assert!(warning.is_some_and(|line| line.contains("[warn]")), "{output}");
    for directive in ["", " user=$authentik_username", " user=x-$authentik_username"] {
        let output = is_accepted(&location(&format!("npm_token_inject accounts.json{directive};")));
        assert!(!output.contains("[warn]"), "{output}");
    }
}

#[test]
fn a_missing_accounts_file_is_told_with_its_path() {
    for (file, path) in [("nosuch.json", "/nosuch.json\""), ("/no/such.json", "\"/no/such.json\"")]
    {
        let error = is_refused(&location(&format!("npm_token_inject {file};")), path);
        assert!(error.contains("No such file") && error.contains("create it"), "{error}");
    }
    is_refused(&location("npm_token_inject .;"), "is a directory");
}

#[test]
fn on_means_the_default_file_which_credentials_can_do_without() {
    if Path::new("/data/npm_token_inject.json").exists() {
        return;
    }
    is_refused(&location("npm_token_inject on;"), "\"/data/npm_token_inject.json\"");
    is_accepted(&location("npm_token_inject on credentials=$authentik_username;"));
    let named = location("npm_token_inject nosuch.json credentials=$authentik_username;");
    is_refused(&named, "/nosuch.json\"");
}

#[test]
fn what_is_wrong_in_an_accounts_file_is_told_with_line_and_column() {
    for (json, message) in [
        ("", "EOF while parsing a value at line 1 column 0"),
        ("accounts", "expected value at line 1 column 1"),
        ("{\"accounts\": []", "EOF while parsing an object at line 1 column 15"),
        ("{\"accounts\": []}\n}", "trailing characters at line 2 column 1"),
        ("{\"accounts\": [],}", "trailing comma at line 1 column 17"),
        ("{\n}", "missing field `accounts`, or `sign_in_as` at line 2 column 1"),
        ("{\"account\": []}", "unknown field `account`"),
        ("{\"sign_in_as\": {}}", "missing field `identity` at line 1 column 17"),
        ("{\"accounts\": {}}", "expected a sequence at line 1 column 13"),
        ("{\"accounts\": [],\n\"timeout\": 5}", "expected a string at line 2 column 12"),
        ("{\"accounts\": [],\n\"timeout\": \"5h\"}", "from \"1ms\" to \"1m\" at line 2 column"),
        ("{\"accounts\": [],\n\"timeout\": \"0s\"}", "from \"1ms\" to \"1m\" at line 2 column"),
        ("{\"accounts\": [],\n\"api\": 81}", "expected a string at line 2 column 9"),
        ("{\"accounts\": [],\n\"ca_file\": 81}", "at line 2 column 13"),
    ] {
        let error = is_refused(&accounts(json), message);
        assert!(error.contains("/accounts.json\": "), "{error}");
        assert!(error.contains(" at line ") && error.contains(" column "), "{error}");
    }
}

#[test]
fn what_is_wrong_in_an_account_is_told_with_line_and_column() {
    for (fields, message) in [
        (r#""user": "a", "identity": "i""#, "exactly one of \"secret\" and \"secret_file\""),
        (
            r#""user": "a", "identity": "i", "secret": "s", "secret_file": "f""#,
            "exactly one of \"secret\" and \"secret_file\"",
        ),
        (r#""identity": "i", "secret": "s""#, "exactly one of \"user\", \"email\" and \"group\""),
        (
            r#""user": "a", "group": "b", "identity": "i", "secret": "s""#,
            "exactly one of \"user\", \"email\" and \"group\"",
        ),
        (r#""user": "a", "secret": "s""#, "missing field `identity`"),
        (r#""user": "", "identity": "i", "secret": "s""#, "cannot be empty"),
        (r#""user": "a", "identity": "", "secret": "s""#, "\"identity\" is empty"),
        (r#""user": "a", "identity": "i", "secret": """#, "the secret is empty"),
        (r#""user": "a", "identity": "i", "secret": 12345"#, "must be a string, in quotes"),
        (r#""user": "a", "identity": 1, "secret": "s""#, "expected a string"),
        (r#""user": 1, "identity": "i", "secret": "s""#, "expected a string"),
        (r#""user": "a", "identity": "i", "secret_file": []"#, "expected path string"),
        (r#""user": "a", "user": "b", "identity": "i""#, "duplicate field `user`"),
        (r#""user": "a", "identity": "i", "password": "s""#, "unknown field `password`"),
        (
            r#""user": "a", "identity": "i", "secret": "s", "totp_secret": "B1""#,
            "totp_secret: it is not base32",
        ),
    ] {
        let error = is_refused(&account(fields), message);
        assert!(error.contains(" at line ") && error.contains(" column "), "{error}");
    }
}

#[test]
fn a_groups_name_cannot_hold_what_separates_groups() {
    let file = |group: &str| {
        json!({"accounts": [{"group": group, "identity": "i", "secret": "s"}]}).to_string()
    };
    for (parameter, separator, other) in
        [("", '|', ','), (" groups_separator=|", '|', ','), (" groups_separator=,", ',', '|')]
    {
        let directive = format!("npm_token_inject accounts.json{parameter};");
        let nginx = location(&directive).accounts(&file(&format!("a{separator}b")));
        let message =
            format!("accounts.json\": \"group\" is one group, and \"{separator}\" separates");
        is_refused(&nginx, &message);
        is_accepted(&location(&directive).accounts(&file(&format!("a{other}b"))));
    }
}

#[test]
fn what_is_wrong_in_an_account_is_told_with_the_line_of_that_account() {
    for wrong in [
        r#""user": "a", "identity": "i""#,
        r#""identity": "i", "secret": "s""#,
        r#""user": "", "identity": "i", "secret": "s""#,
        r#""user": "a", "identity": "", "secret": "s""#,
        r#""user": "a", "identity": "i", "secret": """#,
        r#""user": "a", "identity": 1, "secret": "s""#,
        r#""user": "a", "secret": "s""#,
    ] {
        let right = r#"{"user": "a", "identity": "i", "secret": "s"}"#;
        is_refused(&account(wrong), " at line 3 column ");
        let first = format!("{{\"accounts\": [\n{{{wrong}}},\n\n{right}\n]}}");
        is_refused(&accounts(&first), " at line 2 column ");
        let last = format!("{{\"accounts\": [\n{right},\n\n{{{wrong}}}\n]}}");
        is_refused(&accounts(&last), " at line 4 column ");
    }
}

#[test]
fn an_account_is_an_object_with_named_fields() {
    for wrong in [r#"["akadmin", null, null, "i", "s", null]"#, r#""akadmin""#, "1", "null"] {
        let error = is_refused(&accounts(&format!("{{\"accounts\": [{wrong}]}}")), " at line 1 ");
        assert!(!error.contains("struct"), "in nginx's words, not in Rust's: {error}");
    }
    for wrong in [r#"["http://npm", null, null, []]"#, r#""accounts""#, "1", "null"] {
        let error = is_refused(&accounts(wrong), " at line 1 ");
        assert!(!error.contains("struct"), "in nginx's words, not in Rust's: {error}");
    }
}

#[test]
fn a_secret_file_that_holds_no_secret_is_refused() {
    let nginx = account(r#""user": "a", "identity": "i", "secret_file": "secret""#);
    is_refused(&nginx, "/secret\": No such file");
    let with = |content: &[u8]| nginx.clone().file_with_mode("secret", content, 0o600);
    is_refused(&with(b""), "/secret\": it is empty");
    is_refused(&with(b"\r\n\n"), "/secret\": it is empty");
    is_refused(&with(b"secret\xff"), "/secret\": it is not UTF-8");
    is_accepted(&with(b"secret\r\n"));
    is_refused(&nginx.file("secret/file", ""), "is a directory");
}

#[test]
fn a_ca_file_that_holds_no_certificate_is_refused() {
    let nginx = accounts(r#"{"ca_file": "ca.pem", "accounts": []}"#);
    is_refused(&nginx, "ca_file \"");
    for wrong in ["", "-----BEGIN CERTIFICATE-----\nAAAA", Tls::localhost().key_pem()] {
        is_refused(&nginx.clone().file("ca.pem", wrong), "/ca.pem\": ");
    }
    let (one, other) = (Tls::localhost(), Tls::localhost());
    is_accepted(&nginx.clone().file("ca.pem", one.ca_pem()));
    is_accepted(&nginx.file("ca.pem", [one.ca_pem(), other.ca_pem()].concat()));
}

/// nginx, that is given up where it waits for something.
fn impatient(nginx: Builder) -> Builder {
    nginx.run_by(&["timeout", "--signal=KILL", "60"])
}

/// One location for each kind of file that the configuration names: the accounts file, a secret and
/// a certificate.
fn with_file_at(path: &Path) -> [(Builder, String); 3] {
    let path = path.display();
    let secret = json!({"user": "a", "identity": "i", "secret_file": path.to_string()});
    let secret = json!({"accounts": [secret]}).to_string();
    let ca = json!({"ca_file": path.to_string(), "accounts": []}).to_string();
    [
        (location(&format!("npm_token_inject {path};")), "cannot read".to_owned()),
        (accounts(&secret), "cannot read secret_file".to_owned()),
        (accounts(&ca), "cannot use ca_file".to_owned()),
    ]
    .map(|(nginx, what)| (impatient(nginx), format!("{what} \"{path}\": ")))
}

#[test]
fn what_is_no_regular_file_is_refused_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let pipe = dir.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|done| done.success()));
    // A device without an end, one at its end, and one that waits for what is typed.
    let devices = ["/dev/zero", "/dev/null", "/dev/ptmx"].map(Path::new);
    for path in [&*pipe].into_iter().chain(devices) {
        for (nginx, message) in with_file_at(path) {
            is_refused(&nginx, &format!("{message}it is not a regular file"));
        }
    }
    for (nginx, message) in with_file_at(dir.path()) {
        is_refused(&nginx, &format!("{message}is a directory"));
    }
    for (nginx, message) in with_file_at(&dir.path().join("nosuch")) {
        is_refused(&nginx, &format!("{message}No such file"));
    }
}

#[test]
fn no_file_larger_than_a_megabyte_is_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("large");
    for size in [1024 * 1024 + 1, 1 << 40] {
        // It takes no room: there is nothing in it.
        fs::File::create(&path).and_then(|file| file.set_len(size)).expect("a file");
        for (nginx, message) in with_file_at(&path) {
            is_refused(&nginx, &format!("{message}it is larger than 1 MB"));
        }
    }
}

#[test]
fn a_file_that_may_not_be_read_is_told_with_whose_it_must_be() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("file");
    fs::write(&path, "secret").expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("its mode");
    let owner = fs::metadata(&path).expect("its owner");
    // To root a mode is none, but for one that has put its powers away.
    let powerless = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];
    for (nginx, message) in with_file_at(&path) {
        let nginx = if owner.uid() == 0 { nginx.run_by(&powerless) } else { nginx };
        let error = is_refused(&nginx, &message);
        let mend = format!(
            "Permission denied (os error 13); it must belong to the user that starts nginx: \
             run \"chown {}:{} {}\"",
            owner.uid(),
            owner.gid(),
            path.display()
        );
        assert!(error.contains(&mend) && !error.contains("create it"), "{error}");
    }
}

#[test]
fn files_that_others_can_change_are_warned_of_and_taken() {
    let nginx = account(r#""user": "a", "identity": "i", "secret_file": "secret""#);
    for mode in [0o602, 0o606] {
        let output = is_accepted(&nginx.clone().file_with_mode("secret", "s", mode));
        assert!(output.contains("[warn] npm_token_inject: others can change \""), "{output}");
        assert!(output.contains("/secret\": run \"chmod 600 /"), "{output}");
    }
    let nginx = accounts(r#"{"ca_file": "ca.pem", "accounts": []}"#);
    let tls = Tls::localhost();
    let with = |mode| nginx.clone().file_with_mode("ca.pem", tls.ca_pem(), mode);
    assert!(!is_accepted(&with(0o644)).contains("[warn]"));
    let output = is_accepted(&with(0o646));
    assert!(output.contains("/ca.pem\": run \"chmod o-w /"), "{output}");

    let nginx = location("npm_token_inject accounts.json;");
    let output = is_accepted(&nginx.file_with_mode("accounts.json", r#"{"accounts": []}"#, 0o602));
    assert!(output.contains("/accounts.json\": run \"chmod 600 /"), "{output}");
}

#[test]
fn files_that_others_can_read_are_warned_of_and_taken() {
    let nginx = account(r#""user": "a", "identity": "i", "secret_file": "secret""#);
    let nginx = |mode| nginx.clone().file_with_mode("secret", "s", mode);
    assert!(!is_accepted(&nginx(0o600)).contains("[warn]"));
    assert!(!is_accepted(&nginx(0o640)).contains("[warn]"));
    let output = is_accepted(&nginx(0o604));
    assert!(output.contains("[warn] npm_token_inject: others can read \""), "{output}");
    assert!(output.contains("/secret\": run \"chmod 600 /"), "{output}");

    let accounts = r#"{"accounts": []}"#;
    let nginx = location("npm_token_inject accounts.json;");
    let output = is_accepted(&nginx.file_with_mode("accounts.json", accounts, 0o644));
    assert!(output.contains("/accounts.json\": run \"chmod 600 /"), "{output}");
    assert!(output.contains("/directive.conf:3"), "{output}");
}

#[test]
fn relative_paths_are_beside_nginx_conf_and_those_in_the_accounts_file_beside_it() {
    let account = json!({"user": "a", "identity": "i", "secret_file": "secret"});
    let accounts = json!({"ca_file": "ca.pem", "accounts": [account]}).to_string();
    let user = "map '' $authentik_username { default x; }";
    let nginx = Nginx::builder()
        .file_with_mode("below/accounts/here.json", accounts, 0o600)
        .file_with_mode("below/accounts/secret", "s", 0o600)
        .file("below/accounts/ca.pem", Tls::localhost().ca_pem())
        .file("below/directives/here.conf", format!("{user} npm_token_inject accounts/here.json;"))
        .file("below/nginx.conf", "events {}\nhttp { include directives/here.conf; }")
        .start();
    let (module, user) = (nginx::module(), nginx::user_line());
    let prelude = format!("{user} pid test.pid; load_module {};", module.display());
    let test = Command::new(nginx::binary())
        .args(["-t", "-c", "below/nginx.conf", "-e", "stderr", "-g", &prelude, "-p"])
        .arg(nginx.dir())
        .current_dir("/")
        .output()
        .expect("nginx");
    assert!(test.status.success(), "{}", String::from_utf8_lossy(&test.stderr));
}

#[test]
fn testing_the_configuration_asks_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("a socket");
    let url = format!("http://{}", listener.local_addr().expect("its port"));
    is_accepted(&location(&format!("npm_token_inject accounts.json api={url};")));
    is_accepted(&accounts(&json!({"api": url, "accounts": []}).to_string()));
    assert!(listener.accept().is_err(), "somebody was asked");

    // Nor does it look up names, of which there is none in this domain (RFC 2606).
    is_accepted(&location("npm_token_inject accounts.json api=https://npm.invalid;"));
}

/// Two secrets, as they may stand in a configuration.
const WORD: &str = "Correct-Horse";
const NUMBER: &str = "20406080";

#[track_caller]
fn quotes_no_secret(outputs: &[String]) {
    let lines = outputs.iter().flat_map(|output| output.lines());
    let told: Vec<_> = lines.filter(|l| l.contains(WORD) || l.contains(NUMBER)).collect();
    assert!(told.is_empty(), "{told:#?}");
}

#[test]
fn no_secret_in_an_accounts_file_is_ever_quoted() {
    let (word, number) = (WORD, NUMBER);
    let mut outputs = Vec::new();
    for fields in [
        format!(r#""user": "a", "identity": "i", "secret": {number}"#),
        format!(r#""user": "a", "identity": "i", "secret": -{number}"#),
        format!(r#""user": "a", "identity": "i", "secret": {number}.5"#),
        format!(r#""user": "a", "identity": "i", "secret": [{number}]"#),
        format!(r#""user": "a", "identity": "i", "secret": {{"{word}": {number}}}"#),
        format!(r#""user": "a", "identity": "i", "secret": ["{word}"]"#),
        format!(r#""user": "a", "identity": "i", "secret": "{word}" x"#),
        format!(r#""user": "a", "identity": "i", "secret": "{word}"" "#),
        format!(r#""user": "a", "identity": "i", "secret": "{word}"#),
        format!(r#""user": "a", "identity": "i", "secret": "{word}\y""#),
        format!("\"user\": \"a\", \"identity\": \"i\", \"secret\": \"{word}\n\""),
        format!(r#""user": "a", "identity": "i", "secret": {word}"#),
        format!(r#""user": "a", "identity": "i", "secret": '{word}'"#),
        format!(r#""user": "a", "identity": "i", "secret" "{word}""#),
        format!(r#""user": "a", "identity": "i", "secret": "{word}", "secret": "{word}""#),
        format!(r#""user": "a", "identity": "i", "secret": "{word}", "secret_file": "f""#),
        format!(r#""user": "a", "identity": 5, "secret": "{word}""#),
        format!(r#""user": "a", "secret": "{word}""#),
        format!(r#""user": "a", "identity": "i", "password": "{word}""#),
        format!(r#""user": "a", "identity": "i", "secret": "{word}", "totp_secret": "{word}""#),
    ] {
        let test = account(&fields).test();
        assert!(!test.ok, "{fields}");
        outputs.push(test.output);
    }
    let secret_file = account(r#""user": "a", "identity": "i", "secret_file": "secret""#);
    for content in [WORD.as_bytes(), b"Correct-Horse\xff"] {
        outputs.push(secret_file.clone().file("secret", content).test().output);
    }
    for url in [format!("http://npm:{WORD}@host"), format!("npm:{WORD}@host")] {
        outputs.push(accounts(&json!({"api": url, "accounts": []}).to_string()).test().output);
    }
    quotes_no_secret(&outputs);
}

#[test]
fn no_secret_in_the_directive_is_ever_quoted() {
    let (word, basic) = (WORD, format!("Basic {WORD}"));
    let mut outputs = Vec::new();
    for directive in [
        format!("npm_token_inject accounts.json \"credential={basic}\";"),
        format!("npm_token_inject accounts.json \"credentials={basic}$\";"),
        format!("npm_token_inject accounts.json \"credentials={basic}\" \"credentials={basic}\";"),
        format!("npm_token_inject accounts.json \"credentials={basic}$other\";"),
        format!("npm_token_inject accounts.json \"credentials={basic}$http_x\";"),
        format!("npm_token_inject accounts.json api=http://npm:{word}@host;"),
        format!("npm_token_inject accounts.json api=ftp://npm:{word}@host;"),
        format!("npm_token_inject accounts.json api=npm:{word}@host;"),
        format!("npm_token_inject accounts.json \"api=http://npm:{word} @host\";"),
    ] {
        let test = location(&directive).test();
        assert!(!test.ok, "{directive}");
        outputs.push(test.output);
    }
    quotes_no_secret(&outputs);
}

#[test]
fn the_directive_stands_in_http_server_and_location() {
    let line = "npm_token_inject off;";
    let nginx = Nginx::builder;
    for allowed in [
        nginx().http(line),
        nginx().server(line),
        nginx().location("/", line),
        nginx().location("/", &format!("location /below {{ {line} }}")),
        nginx().location("~ x", line),
        nginx().location("@x", line),
    ] {
        is_accepted(&allowed);
    }
    for refused in [
        nginx().main(line),
        nginx().events(line),
        nginx().http(&format!("upstream x {{ server 127.0.0.1; {line} }}")),
        nginx().server(&format!("if ($uri) {{ {line} }}")),
        nginx().location("/", &format!("if ($uri) {{ {line} }}")),
        nginx().location("/", &format!("limit_except GET {{ {line} }}")),
    ] {
        let test = refused.test();
        let message = "\"npm_token_inject\" directive is not allowed here";
        assert!(!test.ok && test.output.contains(message), "{test:?}");
    }
}

#[test]
fn an_inner_level_replaces_an_outer_one_whole() {
    let world = World::new();
    let npm = world.npm.url();
    let mut others: Value = serde_json::from_str(&world.accounts()).expect("JSON");
    others["accounts"][0]["identity"] = "bob@example.com".into();
    others["accounts"][0]["secret"] = world.npm.secret("bob@example.com").into();
    let location = |directive: &str| format!("{directive}\nproxy_pass {npm};");
    let nginx = world
        .nginx()
        .http(SHOWN)
        .http("npm_token_inject accounts.json on_error=deny client_token=replace;")
        .server(ASKED)
        .file_with_mode("others.json", others.to_string(), 0o600)
        .location("/inherits/", &location(""))
        .location("/off/", &location("npm_token_inject off;"))
        .location("/passes/", &location("npm_token_inject accounts.json;"))
        .location("/others/", "npm_token_inject others.json;")
        .location("/others/", &format!("location /others/below/ {{ proxy_pass {npm}; }}"))
        .location("/off/again/", &location("npm_token_inject others.json;"))
        .start();
    let client = nginx.client();
    let (akadmin, nobody) = (world.sign_in("akadmin"), world.sign_in("nobody"));
    let own = world.npm.issue_token("guest@example.com", Duration::from_secs(60));

    // The path, how a user without an account is answered, whose token akadmin has, and what
    // becomes of her own.
    for (path, refusal, token, own_status) in [
        ("/inherits/", 403, "admin@example.com", "hit"),
        ("/off/", 200, "", ""),
        ("/passes/", 200, "admin@example.com", "kept"),
        ("/others/below/", 200, "bob@example.com", "kept"),
        ("/off/again/", 200, "bob@example.com", "kept"),
    ] {
        let get = |session| client.request("GET", path).cookie(session);
        assert_eq!(get(&nobody).send().status, refusal, "{path}");
        assert_eq!(get(&akadmin).send().status, 200, "{path}");
        let carried =
            if token.is_empty() { "nothing".into() } else { format!("the token of {token}") };
        assert_eq!(world.carried_to(path), carried, "{path}");
        assert_eq!(status(&get(&akadmin).bearer(&own).send()), own_status, "{path}");
    }
}

#[test]
fn a_module_that_is_loaded_and_not_used_changes_nothing() {
    let nginx =
        Nginx::builder().location("/", "return 200 '<$npm_token_status$npm_token_identity>';");
    assert_eq!(nginx.start().client().get("/").text(), "<>");
}
