//! The doctor: what it says of a sound set-up, and of one that is broken in one way.
//!
//! `TEST_NGINX` and `TEST_NGINX_MODULE` name another nginx than `build/nginx`, see [`testbed`].

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{json, Value};
use testbed::nginx::{binary, module, Builder};
use testbed::npm::TOTP_SECRET;
use testbed::{
    closed_port, npm_proxy_host, Fault, Nginx, Npm, Outpost, Response, Server, Visitor,
    TOKEN_BEGINNING,
};

const DOCTOR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/nginx-conf/npm-token-inject-doctor");
const STATUS: &str = include_str!("../../nginx-conf/status.conf");
const CUSTOM_LOCATION: &str = include_str!("../../nginx-conf/custom-location.conf");

/// What the doctor has said.
#[derive(Debug)]
struct Said {
    exit: Option<i32>,
    text: String,
}

impl Said {
    /// The lines of what is not as it should be, each followed by its mend.
    fn bad(&self) -> Vec<(&str, &str)> {
        let mut lines = self.text.lines();
        let mut found = Vec::new();
        while let Some(line) = lines.next() {
            if let Some(what) = line.strip_prefix("BAD   ") {
                let mend = lines.next().and_then(|line| line.strip_prefix("      -> "));
                found.push((what, mend.unwrap_or_else(|| panic!("no mend in {self:?}"))));
            }
        }
        found
    }

    #[track_caller]
    fn is_well(&self) {
        assert_eq!((self.exit, self.bad()), (Some(0), vec![]), "{}", self.text);
        assert!(self.text.ends_with("All is well.\n"), "{}", self.text);
    }

    /// One thing is wrong, which is this, and this is what to do.
    #[track_caller]
    fn is_bad(&self, what: &str, mend: &str) {
        assert_eq!(self.exit, Some(1), "{}", self.text);
        let found = self.bad();
        let [(said, advice)] = found[..] else { panic!("{}", self.text) };
        assert!(said.contains(what) && advice.contains(mend), "{what:?}, {mend:?}\n{}", self.text);
    }
}

/// Runs the doctor for an nginx in that folder.
fn examine(folder: &Path, arguments: &[&str]) -> Said {
    let nginx =
        format!("{} -p {}/ -c nginx.conf -e error.log", binary().display(), folder.display());
    let output = Command::new(DOCTOR).args(["--nginx", &nginx]).args(arguments).output();
    let output = output.expect("the doctor");
    let text = [output.stdout, output.stderr].concat();
    let said = Said { exit: output.status.code(), text: String::from_utf8(text).expect("text") };
    println!("{}", said.text);
    said
}

/// NPM's UI behind Authentik, as the texts of `nginx-conf` set it up, with a status page.
struct World {
    npm: Npm,
    outpost: Outpost,
}

impl World {
    fn new() -> Self {
        let npm = Npm::builder().login_time(Duration::ZERO).start();
        Self { npm, outpost: Outpost::start() }
    }

    fn accounts(&self) -> Value {
        let account = |user: &str, identity: &str| json!({"user": user, "identity": identity, "secret": self.npm.secret(identity)});
        json!({"api": self.npm.url(), "accounts": [
            account("akadmin", "admin@example.com"),
            account("bob", "bob@example.com"),
            account("guest", "guest@example.com"),
        ]})
    }

    fn host(&self) -> Builder {
        with_accounts(npm_proxy_host(&self.outpost, &self.npm).server(STATUS), &self.accounts())
    }

    /// What the doctor says where `change` has been made to the set-up.
    fn examine(&self, change: impl FnOnce(Builder) -> Builder) -> Said {
        examine(change(self.host()).start().dir(), &[])
    }

    /// The same, for an accounts file with one account.
    fn examine_account(&self, account: &Value) -> Said {
        let accounts = json!({"api": self.npm.url(), "accounts": [account]});
        self.examine(|host| with_accounts(host, &accounts))
    }
}

/// An accounts file that is nginx's alone.
fn with_accounts(host: Builder, accounts: &Value) -> Builder {
    host.file_with_mode("accounts.json", accounts.to_string(), 0o600)
}

/// A file with the Cookie header of a user's browser.
fn cookie_of(world: &World, nginx: &Nginx, user: &str) -> String {
    let session = world.outpost.sign_in(Visitor::new(user));
    nginx.write_file("cookie", session.cookie());
    nginx.dir().join("cookie").display().to_string()
}

#[test]
fn a_sound_set_up_is_well() {
    let world = World::new();
    let nginx = world.host().start();
    let said = examine(nginx.dir(), &[]);
    said.is_well();
    for part in [
        "ok    nginx -t",
        "ok    loader: ",
        "ok    build: ",
        "ok    the running nginx is that one",
        "ok    npm.example.com, location /: auth_request, the user's name and the directive",
        "ok    npm.example.com: who is not signed in gets status 302",
        "ok    npm.example.com: a form of another site is stopped",
        "is nginx's alone",
        "ok    NPM 2.1",
        "ok    admin@example.com signs in to NPM at http://127.0.0.1:",
        "(administrator)",
        "ok    guest@example.com signs in",
        "(standard)",
        "ok    status page: no account has been used yet",
    ] {
        assert!(said.text.contains(part), "{part:?} in {}", said.text);
    }
}

#[test]
fn a_visit_from_outside_is_looked_at_with_url() {
    let world = World::new();
    let nginx = world.host().start();
    let said = examine(nginx.dir(), &["--url", &format!("{}/", nginx.url())]);
    said.is_well();
    assert!(said.text.contains("leads who is not signed in to"), "{}", said.text);

    let cookie = cookie_of(&world, &nginx, "akadmin");
    let said = examine(nginx.dir(), &["--url", &nginx.url(), "--cookie", &cookie]);
    said.is_well();
    for part in
        ["this browser is signed in to NPM", "a request of another site is not", "opens signed in"]
    {
        assert!(said.text.contains(part), "{part:?} in {}", said.text);
    }

    let nobody = cookie_of(&world, &nginx, "nobody");
    let said = examine(nginx.dir(), &["--cookie", &nobody]);
    said.is_bad("this browser is not signed in to NPM", "has its session ended?");
    let open = Server::start(None, None, |_, _| Response::html(200, "open").into());
    let said = examine(nginx.dir(), &["--url", &open.url()]);
    said.is_bad("answers 200 to who is not signed in", "auth_request");
    let closed = format!("http://127.0.0.1:{}", closed_port());
    examine(nginx.dir(), &["--url", &closed]).is_bad("cannot be reached", "ports 80 and 443");
}

#[test]
fn it_says_how_it_is_called() {
    let run = |arguments: &[&str]| {
        let output = Command::new(DOCTOR).args(arguments).output().expect("the doctor");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    assert_eq!(run(&["--help"]).0, Some(0));
    for (arguments, message) in [
        (&["--nosuch"][..], "unknown argument \"--nosuch\""),
        (&["--url"], "--url needs a value"),
        (&["--url", "npm.example.com"], "begins with http"),
        (&["--cookie", "/nonexistent"], "cannot be read"),
        (&["--nginx", "/nonexistent/nginx"], "there is no /nonexistent/nginx"),
    ] {
        let (exit, said) = run(arguments);
        assert!(exit == Some(2) && said.contains(message), "{exit:?} {said}");
    }
}

#[test]
fn a_configuration_that_nginx_refuses() {
    let world = World::new();
    let nginx = world.host().start();
    let configuration = fs::read_to_string(nginx.dir().join("nginx.conf")).expect("nginx.conf");
    let examine_with = |old: &str, new: &str| {
        assert!(configuration.contains(old), "{old} in {configuration}");
        nginx.write_file("nginx.conf", configuration.replace(old, new));
        examine(nginx.dir(), &[])
    };
    let load = format!("load_module {};", module().display());
    examine_with(&load, "")
        .is_bad("unknown directive \"npm_token_inject", "put root_top.conf into");
    examine_with(&load, "load_module missing.so;")
        .is_bad("missing.so", "put the module's files back");
    examine_with("npm_token_inject accounts.json;", "npm_token_inject accounts.json on_error=x;")
        .is_bad("invalid value \"x\"", "do what this line says");
    examine_with("events {", "evnts {").is_bad("evnts", "mend that first");
    nginx.write_file("nginx.conf", &configuration);
    nginx.write_accounts("{\"accounts\": [");
    examine(nginx.dir(), &[]).is_bad("EOF while parsing", "do what this line says");
}

#[test]
fn an_nginx_for_which_there_is_no_build() {
    let world = World::new();
    let folder = tempfile::tempdir().expect("a folder");
    let loader = folder.path().join("ngx_http_npm_token_inject_module.so");
    fs::copy(module(), &loader).expect("the loader");
    let said = world.examine(|host| host.module(&loader));
    let found = said.bad();
    assert!(found[0].0.contains("build: npm_token_inject stands aside"), "{found:?}");
    assert!(found[0].1.contains("make the build for this nginx"), "{found:?}");
}

#[test]
fn a_module_that_is_not_loaded() {
    let world = World::new();
    let host = npm_proxy_host(&world.outpost, &world.npm).without_module();
    examine(host.start().dir(), &[]).is_bad("no load_module", "put root_top.conf into");
}

#[test]
fn a_host_without_the_directive() {
    let world = World::new();
    world
        .examine(|host| host.directive(""))
        .is_bad("no host has the directive", "paste custom-location.conf");
    let off = world.examine(|host| host.directive("npm_token_inject off;"));
    off.is_bad("no host has the directive", "paste custom-location.conf");
}

/// An nginx with NPM's UI in a location of these lines, and Authentik beside it.
fn plain(world: &World, server: &str, location: &str) -> Said {
    let auth = format!(
        "proxy_pass {}/outpost.goauthentik.io/auth/nginx; proxy_pass_request_body off;
         proxy_set_header Content-Length ''; proxy_set_header X-Original-URL http://npm$request_uri;",
        world.outpost.url()
    );
    let host = Nginx::builder().server(&format!("server_name npm.example.com;\n{server}"));
    let host = host.location("= /ask", &auth).location("@sign_in", "return 302 /sign_in;");
    let host = host.location("/", &format!("{location}\nproxy_pass {};", world.npm.url()));
    examine(with_accounts(host, &world.accounts()).start().dir(), &[])
}

#[test]
fn a_location_in_which_a_part_is_missing() {
    let world = World::new();
    let user = "auth_request_set $authentik_username $upstream_http_x_authentik_username;";
    let on = "npm_token_inject accounts.json;";
    let page = "error_page 401 = @sign_in;";
    plain(&world, "", &format!("auth_request /ask;{user}{page}{on}")).is_well();
    plain(&world, &format!("auth_request /ask;{user}{page}"), on).is_well();

    let without = plain(&world, "", &format!("{user}{page}{on}"));
    without.is_bad("no auth_request", "paste all of custom-location.conf");
    let off = plain(&world, "auth_request /ask;", &format!("auth_request off;{user}{page}{on}"));
    off.is_bad("no auth_request", "paste all of custom-location.conf");
    let elsewhere = format!("location /elsewhere {{ auth_request /ask; {user} }}");
    plain(&world, &elsewhere, &format!("auth_request /ask;{page}{on}")).is_bad(
        "no auth_request_set there sets $authentik_username",
        "add: auth_request_set $authentik_username $upstream_http_x_authentik_username;",
    );
    let other = "npm_token_inject accounts.json user=$who;";
    plain(
        &world,
        "",
        &format!("auth_request /ask;{}{page}{other}", user.replace("$authentik_username", "$who")),
    )
    .is_well();
    plain(&world, "", &format!("auth_request /ask;{user}{on}"))
        .is_bad("no error_page for 401", "add: error_page 401 = @goauthentik_proxy_signin;");
    plain(&world, &format!("auth_request /ask;{user}{page}{on}"), "")
        .is_bad("the directive stands in server", "behind the gear of the custom location");
}

#[test]
fn authentik_that_answers_otherwise() {
    let world = World::new();
    let answering = |status: u16| {
        Server::start(None, None, move |_, _| match status {
            302 => Response::redirect("https://auth.example.com/").into(),
            _ => Response::new(status).into(),
        })
    };
    for (status, what, mend) in [
        (200, "lets in who is not signed in", "unauthenticated paths"),
        (404, "knows no application for this host", "external host"),
        (500, "Authentik answers 500", "outpost's log"),
        (502, "does not reach Authentik", "set $authentik"),
        (302, "redirect to https://auth.example.com/", "set $authentik"),
        (418, "answers 418 where 401 is expected", "outpost's log"),
    ] {
        let server = answering(status);
        let host = testbed::proxy_host(&server.url(), &world.npm.url());
        let nginx = with_accounts(host, &world.accounts()).start();
        let said = examine(nginx.dir(), &[]);
        let found = said.bad();
        assert!(found[0].0.contains(what) && found[0].1.contains(mend), "{status} {found:#?}");
        assert_eq!(said.exit, Some(1));
    }
    let closed = format!("http://127.0.0.1:{}", closed_port());
    let host = testbed::proxy_host(&closed, &world.npm.url());
    let nginx = with_accounts(host, &world.accounts()).start();
    let said = examine(nginx.dir(), &[]);
    assert!(said.bad()[0].0.contains("does not reach Authentik"), "{said:?}");
}

#[test]
fn files_that_are_not_nginxs_alone() {
    let world = World::new();
    let nginx = world.host().start();
    let path = nginx.dir().join("accounts.json");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
    let said = examine(nginx.dir(), &[]);
    said.is_bad("accounts file", "run: chmod 600 ");

    let mut accounts = world.accounts();
    let account = accounts["accounts"][1].as_object_mut().expect("an account");
    account.remove("secret");
    account.insert("secret_file".to_owned(), "bobs".into());
    let with_secret = |mode| {
        let secret = format!("{}\n", world.npm.secret("bob@example.com"));
        world.examine(|host| {
            with_accounts(host, &accounts).file_with_mode("bobs", secret.clone(), mode)
        })
    };
    with_secret(0o600).is_well();
    with_secret(0o640).is_bad("secret_file", "run: chmod 600 ");
}

#[test]
fn an_account_that_does_not_sign_in() {
    let world = World::new();
    let admin = || json!({"user": "akadmin", "identity": "admin@example.com", "secret": world.npm.secret("admin@example.com")});
    let with = |identity: &str, secret: &str| {
        let accounts = json!({"api": world.npm.url(), "accounts": [
            admin(), {"user": "x", "identity": identity, "secret": secret},
        ]});
        world.examine(|host| with_accounts(host, &accounts))
    };
    with("bob@example.com", "wrong").is_bad("bob@example.com: NPM refused", "set the password");
    with("nosuch@example.com", "x").is_bad("NPM has no such user", "e-mail address of a user");
    let totp = world.npm.secret("totp@example.com");
    with("totp@example.com", &totp).is_bad("asks for a two-factor code", "add \"totp_secret\"");
    world.npm.disable("guest@example.com");
    let guests = world.npm.secret("guest@example.com");
    with("guest@example.com", &guests).is_bad("is disabled at NPM", "enable it");

    let alone = json!({"user": "*", "identity": "bob@example.com", "secret": "wrong"});
    world.examine_account(&alone).is_bad("NPM refused identity and secret", "set the password");
}

#[test]
fn an_account_with_two_factor_authentication() {
    let world = World::new();
    let secret = world.npm.secret("totp@example.com");
    let with = |key: &str, value: &str| {
        let mut account = json!({"user": "*", "identity": "totp@example.com", "secret": secret});
        account[key] = value.into();
        let accounts = json!({"api": world.npm.url(), "accounts": [account]});
        world.examine(|host| {
            with_accounts(host, &accounts).file_with_mode("totp", TOTP_SECRET, 0o600)
        })
    };
    for said in [with("totp_secret", TOTP_SECRET), with("totp_secret_file", "totp")] {
        said.is_well();
        assert!(said.text.contains("ok    totp@example.com signs in"), "{}", said.text);
        assert!(!said.text.contains(TOTP_SECRET));
    }
    with("totp_secret", "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ")
        .is_bad("NPM refused the two-factor code", "set \"totp_secret\"");
}

#[test]
fn an_account_that_signs_others_in() {
    let world = World::new();
    let with = |identity: &str, secret: &str| {
        let accounts = json!({"api": world.npm.url(), "sign_in_as": {
            "identity": identity, "secret": secret, "create": true,
        }});
        world.examine(|host| with_accounts(host, &accounts))
    };
    let admins = world.npm.secret("admin@example.com");
    with("admin@example.com", &admins).is_well();
    with("admin@example.com", "wrong")
        .is_bad("NPM refused identity and secret", "set the password");
    with("guest@example.com", &world.npm.secret("guest@example.com"))
        .is_bad("the account of sign_in_as is no administrator", "make it one");
}

#[test]
fn an_npm_that_does_not_answer_as_one() {
    let world = World::new();
    let at = |api: &str| {
        let mut accounts = world.accounts();
        accounts["api"] = api.into();
        accounts["accounts"].as_array_mut().expect("accounts").truncate(1);
        world.examine(|host| with_accounts(host, &accounts))
    };
    let closed = format!("http://127.0.0.1:{}", closed_port());
    at(&closed).is_bad("cannot be reached", "is \"api\" right?");
    let outpost = Server::start(None, None, |_, _| Response::redirect("/outpost/start").into());
    at(&outpost.url()).is_bad("answers 302, a redirect", "NPM's own address");
    let other = Server::start(None, None, |_, _| Response::html(200, "hello").into());
    at(&other.url()).is_bad("not as NPM does", "NPM's own address");
    let broken = Server::start(None, None, |_, _| Response::new(503).into());
    at(&broken.url()).is_bad("answers 503", "NPM's own log");
}

#[test]
fn an_account_that_the_status_page_shows_failing() {
    let world = World::new();
    let nginx = world.host().start();
    world.npm.fault(Fault::Status(500));
    let session = world.outpost.sign_in(Visitor::new("akadmin"));
    nginx.client().request("GET", "/").cookie(&session).send();
    world.npm.clear_fault();
    examine(nginx.dir(), &[]).is_bad(
        "status page: admin@example.com: NPM answered with status 500",
        "said of that account",
    );
}

#[test]
fn a_host_that_is_open_beside_the_directive() {
    let world = World::new();
    let open = format!("proxy_pass {};", world.npm.url());
    let said = world.examine(|host| host.location("/api/", &open));
    said.is_bad("a form of another site gets as far as", "another location for /api");
}

#[test]
fn no_secret_and_no_token_is_shown_or_stands_among_the_arguments_of_a_program() {
    let world = World::new();
    let nginx = world.host().start();
    let cookie = cookie_of(&world, &nginx, "akadmin");
    // Each program that the doctor starts says its arguments first.
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("arguments");
    for name in ["curl", "jq", "perl", "cat", "sed", "grep", "tr", "awk", "stat"] {
        let script = format!(
            "#!/bin/sh\nprintf '%s\\n' \"$0 $*\" >>{}\nPATH=${{PATH#*:}} exec {name} \"$@\"\n",
            log.display()
        );
        let path = folder.path().join(name);
        fs::write(&path, script).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").expect("PATH"));
    let command = format!("{} -p {}/ -c nginx.conf", binary().display(), nginx.dir().display());
    let output = Command::new(DOCTOR)
        .env("PATH", path)
        .args(["--nginx", &command, "--cookie", &cookie])
        .output()
        .expect("the doctor");
    assert!(output.status.success(), "{output:?}");
    let arguments = fs::read_to_string(&log).expect("arguments");
    assert!(arguments.contains("/api/tokens"), "{arguments}");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let secrets = ["admin@example.com", "bob@example.com", "guest@example.com"];
    for secret in secrets.map(|identity| world.npm.secret(identity)) {
        assert!(!said.contains(&secret) && !arguments.contains(&secret), "{secret}");
    }
    let session = fs::read_to_string(nginx.dir().join("cookie")).expect("a cookie");
    for text in [TOKEN_BEGINNING, &session] {
        assert!(!said.contains(text) && !arguments.contains(text), "{text} in {arguments}");
    }
}

/// What the doctor tells to add is what the text has.
#[test]
fn what_it_says_to_add_is_what_the_text_has() {
    const LINE: &str = "error_page 401 = @goauthentik_proxy_signin;";
    let doctor = fs::read_to_string(DOCTOR).expect("the doctor");
    let is_line = |other: &str| other.split_whitespace().eq(LINE.split_whitespace());
    assert!(doctor.contains(LINE) && CUSTOM_LOCATION.lines().any(is_line));
}
