//! The files in `nginx-conf`, which users copy, are loaded as they are and work. Replaced is only
//! what they tell a user to replace, and where the module and the accounts file are.

use std::sync::Arc;

use serde_json::Value;
use testbed::nginx::{self, Builder};

use testbed::{Client, Nginx, Tls, Visitor, NPM_HTTP, NPM_LOCATION};

use crate::site::get_by_socket;
use crate::World;

const ROOT_TOP: &str = include_str!("../../nginx-conf/root_top.conf");
const ADVANCED: &str = include_str!("../../nginx-conf/advanced.conf");
const CUSTOM_LOCATION: &str = include_str!("../../nginx-conf/custom-location.conf");
const ACCOUNTS: &str = include_str!("../../nginx-conf/npm_token_inject.json");
const STATUS: &str = include_str!("../../nginx-conf/status.conf");

/// What a user replaces in `advanced.conf`.
const AUTHENTIK: &str = "http://authentik:9000";

/// `text` with `old` replaced, which it has once.
fn replaced(text: &str, old: &str, new: &str) -> String {
    assert_eq!(text.matches(old).count(), 1, "{old:?} in\n{text}");
    text.replace(old, new)
}

fn root_top() -> String {
    let installed = "/data/nginx/custom/ngx_http_npm_token_inject_module.so";
    replaced(
        ROOT_TOP,
        &format!("load_module {installed};"),
        &format!("load_module {};", nginx::module().display()),
    )
}

/// The example with the secrets that NPM knows, and its address.
fn accounts(world: &World) -> String {
    let mut accounts: Value = serde_json::from_str(ACCOUNTS).expect("JSON");
    accounts["api"] = world.npm.url().into();
    for account in accounts["accounts"].as_array_mut().expect("a list") {
        let identity = account["identity"].as_str().expect("an identity").to_owned();
        let placeholder = format!("NPM password of {identity}");
        assert_eq!(account["secret"], *placeholder);
        account["secret"] = world.npm.secret(&identity).into();
    }
    accounts.to_string()
}

/// A proxy host of NPM's with the files in their places.
fn host(world: &World) -> Builder {
    host_with(world, &world.outpost.url())
}

/// The same, for an Authentik at that address.
fn host_with(world: &World, authentik: &str) -> Builder {
    let advanced = replaced(ADVANCED, AUTHENTIK, authentik);
    let on = "npm_token_inject on;";
    let custom = replaced(CUSTOM_LOCATION, on, "npm_token_inject npm_token_inject.json;");
    let npm = world.npm.url();
    Nginx::builder()
        .without_module()
        .main(&root_top())
        .http(NPM_HTTP)
        .file("advanced.conf", advanced)
        .file("custom-location.conf", custom)
        .file_with_mode("npm_token_inject.json", accounts(world), 0o600)
        .server("include advanced.conf;")
        .location("/", &format!("include custom-location.conf;\n{NPM_LOCATION}\nproxy_pass {npm};"))
}

fn me(client: &Client, cookie: &str) -> String {
    let reply = client.request("GET", "/api/users/me").header("Cookie", cookie).send();
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["email"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn root_top_conf_loads_the_module() {
    let nginx = Nginx::builder().without_module().location("/", "npm_token_inject off;");
    let without = nginx.test();
    assert!(without.output.contains("unknown directive \"npm_token_inject\""), "{without:?}");
    let with = nginx.main(&root_top()).test();
    assert!(with.ok, "{with:?}");
}

#[test]
fn the_accounts_file_is_read_without_a_word() {
    let directive = "npm_token_inject accounts.json user=$hostname;";
    let test = Nginx::builder().location("/", directive).accounts(ACCOUNTS).test();
    assert!(test.ok && !test.output.contains("npm_token_inject:"), "{test:?}");
    let shorter = ACCOUNTS.replacen('{', "", 1);
    assert!(!Nginx::builder().location("/", directive).accounts(&shorter).test().ok);
}

#[test]
fn the_configuration_is_accepted_without_a_word() {
    let test = host(&World::new()).test();
    assert!(test.ok && !test.output.contains("[warn]"), "{test:?}");
}

#[test]
fn the_users_of_the_example_are_signed_in() {
    let world = World::new();
    let nginx = host(&world).start();
    for (visitor, expected) in [
        (Visitor::new("akadmin"), "admin@example.com"),
        (Visitor::new("eve").groups(&["a", "npm-admins"]), "admin@example.com"),
        (Visitor::new("eve").email("guest@example.com"), "guest@example.com"),
    ] {
        let session = world.outpost.sign_in(visitor);
        assert_eq!(me(&nginx.client(), &session.cookie()), expected);
    }
    let session = world.sign_in("nobody");
    let reply = nginx.client().request("GET", "/api/users/me").cookie(&session).send();
    assert_eq!(reply.status, 500, "what NPM answers to who has no token");
}

/// A visit from the first page to NPM's API, as a browser makes it.
fn visit(nginx: &Nginx, world: &World) {
    world.outpost.offer(Visitor::new("akadmin"));
    let client = nginx.client();
    let turned_away = client.get("/nginx/proxy?a=b");
    assert_eq!(turned_away.status, 302);
    assert!(turned_away.header("Set-Cookie").is_some(), "Authentik's cookie is handed on");
    let start = turned_away.header("Location").expect("where to sign in").to_owned();
    assert!(start.starts_with("/outpost.goauthentik.io/start?rd="), "{start}");
    assert!(world.npm.requests().is_empty());

    let sign_in = client.get(&start).header("Location").expect("the sign-in page").to_owned();
    let page = client.get(&sign_in).text();
    let link = page.split("href=\"").nth(1).and_then(|rest| rest.split('"').next());
    let signed_in = client.get(link.expect("a link"));
    let back = format!("{}/nginx/proxy?a=b", nginx.url());
    assert_eq!(signed_in.header("Location"), Some(&*back));
    let cookie = signed_in.header("Set-Cookie").and_then(|line| line.split(';').next());
    let cookie = cookie.expect("a session").to_owned();
    assert_eq!(me(&client, &cookie), "admin@example.com");

    // A session that has ended: a page leads to the sign-in, the UI's calls are told so.
    let get = |path| client.request("GET", path).header("Cookie", &cookie).send();
    assert_eq!(get("/outpost.goauthentik.io/sign_out").status, 302);
    let page = get("/nginx/proxy?a=b");
    assert_eq!((page.status, page.header("Location")), (302, Some(&*start)));
    let call = get("/api/users/me");
    assert_eq!((call.status, &call.json()["error"]["code"]), (401, &401.into()));
    assert_eq!(call.header("Content-Type"), Some("application/json"));
}

#[test]
fn a_visitor_signs_in_and_out() {
    let world = World::new();
    visit(&host(&world).start(), &world);
}

#[test]
fn a_visitor_signs_in_and_out_by_https() {
    let world = World::new();
    let tls = Arc::new(Tls::localhost());
    visit(&host(&world).tls(&tls).listen("http2").start(), &world);
}

/// As by HTTP/3, which has no header Host.
#[test]
fn a_visitor_without_a_host_header_is_led_to_the_hosts_own_name() {
    let world = World::new();
    let nginx = host(&world).server("server_name npm.example.com;").start();
    let turned_away = nginx.client().raw("GET /nginx/proxy HTTP/1.0\r\n\r\n");
    let start = "/outpost.goauthentik.io/start?rd=http://npm.example.com/nginx/proxy";
    assert_eq!((turned_away.status, turned_away.header("Location")), (302, Some(start)));
    let asked = world.outpost.requests().pop().expect("a question to Authentik");
    assert_eq!(asked.header("Host"), Some("npm.example.com"));
    assert_eq!(asked.header("X-Original-URL"), Some("http://npm.example.com/nginx/proxy"));
}

#[test]
fn an_authentik_that_is_not_found_takes_nothing_else_down() {
    let world = World::new();
    let nginx =
        host_with(&world, "http://nowhere.invalid:9000").location("= /other", "return 204;");
    let nginx = nginx.start();
    let client = nginx.client();
    assert_eq!(client.get("/other").status, 204);
    assert_eq!(client.get("/outpost.goauthentik.io/start").status, 502);
    assert_eq!(client.get("/").status, 500);
    assert!(world.npm.requests().is_empty());
}

#[test]
fn a_slash_or_a_path_behind_authentiks_address_does_no_harm() {
    for end in ["/", "/outpost.goauthentik.io", "/outpost.goauthentik.io/auth/nginx"] {
        let world = World::new();
        visit(&host_with(&world, &format!("{}{end}", world.outpost.url())).start(), &world);
    }
}

#[test]
fn authentiks_large_headers_find_room() {
    let world = World::new();
    let nginx = host(&world).start();
    let visitor = Visitor::new("akadmin").header("X-authentik-large", &"x".repeat(24 * 1024));
    let session = world.outpost.sign_in(visitor);
    assert_eq!(me(&nginx.client(), &session.cookie()), "admin@example.com");
}

#[test]
fn the_status_page_is_for_this_machine_whatever_x_real_ip_says() {
    // To NPM all private addresses are proxies: here, whoever comes by the socket, and this machine.
    let realip = "set_real_ip_from unix:;\nset_real_ip_from 127.0.0.0/8;";
    let world = World::new();
    let open = STATUS.replace("    #if", "    if").replace("    #allow", "    allow");
    let other = open.replace("127\\.0\\.0\\.1|::1", "192\\.0\\.2\\.1");
    assert!(open != STATUS && other != open);
    for (status, here) in [(STATUS, 200), (&*open, 200), (&*other, 403)] {
        let nginx = host(&world).http(realip).server("listen unix:socket;").server(status).start();
        for address in ["127.0.0.1", "::1", "192.0.2.1"] {
            let request = nginx.client();
            let request = request.request("GET", "/npm-token-status").header("X-Real-IP", address);
            assert_eq!(request.send().status, here, "{address}");
            let reply = get_by_socket(&nginx, "/npm-token-status", address);
            assert!(reply.starts_with("HTTP/1.1 403 "), "{address}: {reply}");
        }
    }
}
