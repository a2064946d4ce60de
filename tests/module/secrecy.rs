//! Secrets and tokens are nowhere but where they must be.

use std::fs;
use std::path::Path;
use std::process::Command;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use serde_json::json;
use testbed::nginx::{binary, module, Builder};
use testbed::{closed_port, proxy_host, Fault, Nginx, Npm, Outpost, Visitor};

use crate::site::*;

/// Secrets that stand nowhere else, each with the identity that it is of.
const INLINE: (&str, &str) = ("inline@example.com", "CorrectHorse1");
const FROM_FILE: (&str, &str) = ("file@example.com", "BatteryStaple2");
const HANDED_OVER: (&str, &str) = ("handed@example.com", "TroubadorAnd3");
const WRONG: (&str, &str) = ("inline@example.com", "WrongTrousers4");
const TOTP: (&str, &str) = ("totp@example.com", "SecondFactor5");

/// What a secret looks like: itself, and as Authentik hands it over.
fn forms((identity, secret): (&str, &str)) -> [String; 2] {
    // The end of base64 depends on what is before it, and the beginning of the pair is no secret.
    let pair = STANDARD.encode(format!("{identity}:{secret}"));
    let of_identity = STANDARD.encode(identity).len() / 4 * 4;
    [secret.to_owned(), pair[of_identity..].to_owned()]
}

/// All forms of all secrets.
fn secrets() -> Vec<String> {
    [INLINE, FROM_FILE, HANDED_OVER, WRONG, TOTP].into_iter().flat_map(forms).collect()
}

/// What must not be found of the tokens that reached NPM: their claims, and parts of their
/// signatures, as nginx's debug log may cut a token short.
fn parts_of_tokens(npm: &Npm) -> Vec<String> {
    let mut parts = Vec::new();
    for request in npm.requests() {
        for token in request.authorization().iter().filter_map(|a| a.strip_prefix("Bearer ")) {
            let mut of_token = token.split('.').skip(1);
            parts.extend(of_token.next().map(str::to_owned));
            let signature = of_token.next().unwrap_or_default().as_bytes();
            let pieces = signature.chunks_exact(20);
            parts.extend(pieces.map(|piece| String::from_utf8_lossy(piece).into_owned()));
        }
    }
    parts.sort();
    parts.dedup();
    assert!(parts.len() > 20, "no token has reached NPM");
    parts
}

/// The lines of `text` that hold one of `needles`.
fn lines_with<'t>(text: &'t str, needles: &[String]) -> Vec<&'t str> {
    let hold = |line: &&str| needles.iter().any(|needle| line.contains(needle.as_str()));
    text.lines().filter(hold).collect()
}

fn npm() -> Npm {
    Npm::builder()
        .administrator(INLINE.0, INLINE.1)
        .administrator(FROM_FILE.0, FROM_FILE.1)
        .administrator(HANDED_OVER.0, HANDED_OVER.1)
        .two_factor(TOTP.0, TOTP.1, testbed::npm::TOTP_SECRET)
        .login_time(std::time::Duration::ZERO)
        .start()
}

/// NPM behind Authentik, with every way to give a secret, and every log that there is.
fn secret_site(npm: &Npm, outpost: &Outpost) -> Builder {
    let accounts = json!({"api": npm.url(), "accounts": [
        {"user": "inline", "identity": INLINE.0, "secret": INLINE.1},
        {"user": "file", "identity": FROM_FILE.0, "secret_file": "npm.secret"},
        {"user": "wrong", "identity": WRONG.0, "secret": WRONG.1},
        {"user": "totp", "identity": TOTP.0, "secret": TOTP.1},
    ]});
    proxy_host(&outpost.url(), &npm.url())
        .http("log_format npm '$request $npm_token_status $npm_token_identity';")
        .server("access_log npm.log npm; access_log access.log combined;")
        .location(
            "/",
            "auth_request_set $authentik_authorization $upstream_http_authorization;
             add_header X-Status $npm_token_status always;",
        )
        .directive("npm_token_inject accounts.json credentials=$authentik_authorization;")
        .accounts(&accounts.to_string())
        .file_with_mode("npm.secret", format!("{}\n", FROM_FILE.1), 0o600)
}

/// Sends what can be sent: requests that get tokens, and requests that NPM refuses in every way.
fn visit(nginx: &Nginx, npm: &Npm, outpost: &Outpost) {
    let client = nginx.client();
    let visitors = [
        (Visitor::new("inline"), "miss"),
        (Visitor::new("inline"), "hit"),
        (Visitor::new("file"), "miss"),
        (Visitor::new("other").basic(HANDED_OVER.0, HANDED_OVER.1), "miss"),
        (Visitor::new("other").basic(HANDED_OVER.0, HANDED_OVER.1), "hit"),
        (Visitor::new("wrong"), "error"),
        (Visitor::new("wrong"), "error"),
        (Visitor::new("totp"), "error"),
        // No name, no secret: what stands there all the same is not said either.
        (Visitor::new("nobody").basic("", INLINE.1), "no_account"),
    ];
    for (visitor, expected) in visitors {
        let session = outpost.sign_in(visitor);
        // A body that nginx keeps in a file for a while.
        let request = client.request("POST", "/echo").cookie(&session);
        let reply = request.body(vec![b'x'; 100_000]).send();
        assert_eq!((reply.status, status(&reply)), (200, expected), "{reply:?}");
    }
    let faults = [Fault::Echo, Fault::NotJwt, Fault::NoExpiry, Fault::Garbage, Fault::HalfAnswer];
    for (n, fault) in faults.into_iter().enumerate() {
        npm.fault(fault);
        let visitor = Visitor::new("other").basic(&format!("{n}@example.com"), HANDED_OVER.1);
        let session = outpost.sign_in(visitor);
        let reply = client.request("GET", ME).cookie(&session).send();
        assert_eq!(status(&reply), "error");
    }
    npm.clear_fault();
}

/// Every file below a folder, with its content.
fn files(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("nginx's folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if let Ok(bytes) = fs::read(&path) {
            let name = path.display().to_string();
            found.push((name, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    found
}

fn has_debug_log() -> bool {
    let output = Command::new(binary()).arg("-V").output().expect("nginx -V");
    String::from_utf8_lossy(&output.stderr).contains("--with-debug")
}

#[test]
fn below_debug_level_no_file_holds_a_secret_or_a_token() {
    let (npm, outpost) = (npm(), Outpost::start());
    let mut nginx = secret_site(&npm, &outpost).http("error_log error.log info;").start();
    visit(&nginx, &npm, &outpost);
    nginx.reload();
    visit_again(&nginx, &outpost);
    assert!(nginx.quit().success());

    let needles = [secrets(), parts_of_tokens(&npm)].concat();
    let given = ["accounts.json", "npm.secret"];
    let files = files(nginx.dir());
    for expected in ["error.log", "access.log", "npm.log", "accounts.json", "npm.secret"] {
        assert!(files.iter().any(|file| file.0.ends_with(expected) && !file.1.is_empty()));
    }
    for (name, content) in files {
        let lines = lines_with(&content, &needles);
        if given.iter().any(|given| name.ends_with(given)) {
            assert!(!lines.is_empty(), "{name}");
        } else {
            assert!(lines.is_empty(), "{name}: {lines:#?}");
        }
    }
}

/// A request that finds its token, after a reload.
fn visit_again(nginx: &Nginx, outpost: &Outpost) {
    let session = outpost.sign_in(Visitor::new("inline"));
    let reply = nginx.client().request("GET", "/echo").cookie(&session).send();
    assert_eq!(status(&reply), "hit");
}

#[test]
fn at_debug_level_the_module_still_says_no_secret_and_no_token() {
    let (npm, outpost) = (npm(), Outpost::start());
    let mut nginx = secret_site(&npm, &outpost).start();
    visit(&nginx, &npm, &outpost);
    assert!(nginx.quit().success());
    let log = nginx.error_log();
    assert_eq!(lines_with(&log, &[SIGNED_IN.to_owned()]).len(), 3);
    assert_eq!(lines_with(&log, &[FAILED.to_owned()]).len(), 7);

    // The logins themselves pass nginx by, and what is read from files with them.
    let plain: Vec<String> =
        [INLINE, FROM_FILE, HANDED_OVER, WRONG, TOTP].map(|pair| pair.1.to_owned()).into();
    assert_eq!(lines_with(&log, &plain), Vec::<&str>::new());

    let mut needles = [secrets(), parts_of_tokens(&npm)].concat();
    needles.push("Authorization: Bearer".to_owned());
    let mut of_nginx = 0;
    for line in lines_with(&log, &needles) {
        assert!(!line.contains("npm_token_inject"), "{line}");
        // The header that nginx sends is the continuation of its line "http proxy header:". What
        // Authentik hands over comes in another, and goes through auth_request_set.
        let is_sent = line.starts_with("Authorization: Bearer ");
        let is_of_nginx = ["http proxy header: \"Authorization: ", "http script var: \"Basic "];
        assert!(is_sent || is_of_nginx.iter().any(|text| line.contains(text)), "{line}");
        of_nginx += usize::from(is_sent);
    }
    // Only so can it be told that all this looks at the right text.
    assert_eq!(of_nginx > 0, has_debug_log());
}

/// What is of use to whoever lists processes, or looks at them as the same user.
#[test]
fn no_process_has_a_secret_or_a_token_in_its_environment_or_its_command_line() {
    let (npm, outpost) = (npm(), Outpost::start());
    let nginx = secret_site(&npm, &outpost).start();
    visit(&nginx, &npm, &outpost);
    let needles = [secrets(), parts_of_tokens(&npm)].concat();
    for pid in [vec![nginx.master_pid()], nginx.worker_pids()].concat() {
        for name in ["environ", "cmdline", "comm"] {
            let bytes = fs::read(format!("/proc/{pid}/{name}")).expect("a process of ours");
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.is_empty() && lines_with(&text, &needles).is_empty(), "{name}: {text}");
        }
    }
}

#[test]
fn the_status_page_the_error_pages_and_their_headers_show_no_secret_and_no_token() {
    let (npm, outpost) = (npm(), Outpost::start());
    let behind_authentik = "auth_request /outpost.goauthentik.io/auth/nginx;
        auth_request_set $authentik_username $upstream_http_x_authentik_username;
        auth_request_set $authentik_authorization $upstream_http_authorization;
        npm_token_inject accounts.json credentials=$authentik_authorization";
    let strict = format!("{behind_authentik} on_error=deny; proxy_pass {};", npm.url());
    let down = format!(
        "{behind_authentik}; proxy_pass http://127.0.0.1:{}; error_page 502 = @down;",
        closed_port()
    );
    let nginx = secret_site(&npm, &outpost)
        .location("= /status", "npm_token_inject_status;")
        .location("/strict/", &strict)
        .location("/down/", &down)
        .location("@down", "return 502 '$npm_token_status of $npm_token_identity';")
        .start();
    visit(&nginx, &npm, &outpost);

    let client = nginx.client();
    let mut replies = Vec::new();
    for format in ["json", "html", "prometheus"] {
        replies.push((200, client.get(&format!("/status?format={format}"))));
    }
    let get = |visitor: Visitor, path: &str| {
        let session = outpost.sign_in(visitor);
        client.request("GET", path).cookie(&session).send()
    };
    replies.push((502, get(Visitor::new("wrong"), "/strict/")));
    replies.push((403, get(Visitor::new("nobody").basic("", INLINE.1), "/strict/")));
    replies.push((502, get(Visitor::new("inline"), "/down/")));
    assert!(replies.iter().any(|reply| reply.1.text().contains(INLINE.0)));

    let needles = [secrets(), parts_of_tokens(&npm)].concat();
    for (expected, reply) in replies {
        assert_eq!(reply.status, expected, "{reply:?}");
        let all = format!("{reply:?}\n{}", reply.text());
        assert_eq!(lines_with(&all, &needles), Vec::<&str>::new());
    }
}

/// Nor, then, who built it.
#[test]
fn the_module_does_not_name_the_folders_that_it_was_built_in() {
    let loader = module();
    let folder = loader.parent().expect("a folder").join("npm_token_inject");
    let entries = fs::read_dir(folder).expect("the builds").flatten();
    let newest = entries.max_by_key(|entry| entry.metadata().and_then(|m| m.modified()).ok());
    let root = env!("CARGO_MANIFEST_DIR");
    for file in [loader, newest.expect("a build").path()] {
        let bytes = fs::read(&file).expect("the module");
        let text = String::from_utf8_lossy(&bytes);
        for name in [root, "/registry/src/"] {
            let hint = "made before .ci/rustc was there? cargo clean --release";
            assert!(!text.contains(name), "{}: {name} ({hint})", file.display());
        }
    }
}

#[test]
fn the_test_of_a_configuration_says_no_secret() {
    let (npm, outpost) = (npm(), Outpost::start());
    let site = secret_site(&npm, &outpost);
    let (right, whole) = (site.test(), site.dump());
    assert!(right.ok && whole.ok, "{right:?} {whole:?}");
    assert!(whole.output.contains("npm_token_inject accounts.json"), "{whole:?}");
    let mut outputs = vec![right.output, whole.output];

    // What is wrong with an accounts file is told without its secrets, wherever they stand.
    let secret = INLINE.1;
    let entry = format!(r#""user": "a", "identity": "i", "secret": "{secret}""#);
    let wrong = [
        format!(r#"{{"accounts": [{{{entry}, "group": "g"}}]}}"#),
        format!(r#"{{"accounts": [{{{entry}, "secret_file": "npm.secret"}}]}}"#),
        format!(r#"{{"accounts": [{{{entry}, "nosuch": 1}}]}}"#),
        format!(r#"{{"accounts": [{{{entry}, "secret": "{secret}"}}]}}"#),
        format!(r#"{{"accounts": [{{{entry}}}"#),
        format!(r#"{{"accounts": [{{{entry}}}]}} {secret}"#),
        format!(r#"{{"accounts": [{{"user": "a", "identity": "i", "secret": {secret}}}]}}"#),
        format!(r#"{{"accounts": [{{"user": "a", "identity": "i", "secret": ["{secret}"]}}]}}"#),
        format!(
            r#"{{"accounts": [{{"user": "a", "identity": "i", "secret": {{"{secret}": 1}}}}]}}"#
        ),
        format!(r#"{{"accounts": [["a", null, null, "i", "{secret}"]]}}"#),
        format!(r#"{{"accounts": {{"a": "{secret}"}}}}"#),
    ];
    outputs.extend(wrong.iter().map(|accounts| complaint(&site, accounts)));
    for output in outputs {
        assert_eq!(lines_with(&output, &secrets()), Vec::<&str>::new());
    }
}

#[test]
fn the_test_of_a_configuration_does_not_say_a_secret_that_stands_where_none_belongs() {
    let (npm, outpost) = (npm(), Outpost::start());
    let site = secret_site(&npm, &outpost);
    let secret = INLINE.1;
    let wrong = [
        format!(r#""{secret}""#),
        format!(r#"{{"accounts": "{secret}"}}"#),
        format!(r#"{{"accounts": ["{secret}"]}}"#),
    ];
    for accounts in wrong {
        let output = complaint(&site, &accounts);
        assert_eq!(lines_with(&output, &secrets()), Vec::<&str>::new());
    }
}

/// What `nginx -t` says of a wrong accounts file.
fn complaint(site: &Builder, accounts: &str) -> String {
    let test = site.clone().accounts(accounts).test();
    assert!(!test.ok && test.output.contains("accounts.json"), "{accounts}: {test:?}");
    test.output
}
