//! What reaches NPM as `Authorization`, whatever the client sent, and that all else of the request
//! arrives as it was.

use std::io::{Read, Write};
use std::process::Command;
use std::time::Duration;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use serde_json::json;
use testbed::nginx::Builder;
use testbed::{eventually, AccessList, Client, Fault, Nginx, Reply, Response, Session};

use crate::{status, token_answer, Elsewhere, World};

const ADMINS: &str = "the token of admin@example.com";
const NOTHING: &str = "nothing";

/// For a page the module changes more headers than for anything else.
const ASKED_FOR: [&str; 2] = ["text/html", "application/json"];

/// `visitor:password`, which the access list knows.
const BASIC: &str = "Basic dmlzaXRvcjpwYXNzd29yZA==";

/// A JWT that looks like NPM's, and is not.
fn jwt(payload: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let header = part(r#"{"alg":"RS256","typ":"JWT"}"#);
    format!("{header}.{}.{}", part(payload), part(&"signature".repeat(28)))
}

/// What a client may send that is no live token of NPM's.
fn dead(world: &World) -> Vec<String> {
    let live = world.npm.issue_token("guest@example.com", Duration::from_secs(60));
    let two_factor = json!({"identity": "totp@example.com", "secret": "totp-secret"});
    let npm = Client::new(&world.npm.url());
    let challenge = npm.request("POST", "/api/tokens").json(&two_factor).send().json();
    let challenge = challenge["challenge_token"].as_str().expect("a challenge").to_owned();
    let expired = world.npm.issue_expired_token("guest@example.com");
    let endless = world.npm.issue_token_without_expiry("guest@example.com");
    let bearers = [
        "null".to_owned(),
        "garbage".to_owned(),
        "a.b.c".to_owned(),
        expired,
        endless,
        challenge,
        jwt(r#"{"iss":"https://authentik/","scope":["user"],"exp":4102444800}"#),
        jwt(r#"{"scope":["user"],"exp":4102444800}"#),
        jwt(r#"{"iss":"api","exp":4102444800}"#),
        format!("{live}.x"),
        format!("{live} word"),
        format!("{live}, Bearer {live}"),
        format!(" {live}"),
    ];
    let mut dead: Vec<_> = bearers.iter().map(|token| format!("Bearer {token}")).collect();
    dead.extend(["", "Basic", BASIC, "garbage", "Bearer", "null"].map(str::to_owned));
    dead.extend(["bearer", "BEARER", "Basic", "Token"].map(|scheme| format!("{scheme} {live}")));
    dead.push(live);
    dead.push("x".repeat(6000));
    dead
}

fn live(world: &World) -> String {
    format!("Bearer {}", world.npm.issue_token("guest@example.com", Duration::from_secs(60)))
}

/// Sends a request by HTTP/2, with curl, and returns its status.
fn http2(nginx: &Nginx, headers: &[(&str, &str)], arguments: &[&str]) -> u16 {
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--http2-prior-knowledge", "-o", "/dev/null"]);
    curl.args(["-w", "%{http_version} %{http_code}"]);
    for (name, value) in headers {
        // An empty value is written with a semicolon.
        let line = if value.is_empty() { format!("{name};") } else { format!("{name}: {value}") };
        curl.args(["-H", &line]);
    }
    let output = curl.args(arguments).arg(format!("{}/echo", nginx.url())).output().expect("curl");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = text.strip_prefix("2 ").unwrap_or_else(|| panic!("no HTTP/2: {output:?}"));
    status.parse().expect("a status")
}

#[test]
fn whatever_the_client_sends_npm_gets_the_users_token_and_no_other() {
    let world = World::new();
    let nginx = world.host().start();
    let client = nginx.client();
    let akadmin = world.sign_in("akadmin");
    client.request("GET", "/echo").cookie(&akadmin).send();
    assert_eq!(world.carried_to("/echo"), ADMINS);
    for sent in dead(&world) {
        for asked in ASKED_FOR {
            let request = client.request("GET", "/echo").cookie(&akadmin).header("Accept", asked);
            let reply = request.header("Authorization", &sent).send();
            assert_eq!((reply.status, status(&reply)), (200, "hit"), "{sent}");
            assert_eq!(world.carried_to("/echo"), ADMINS, "{sent}");
        }
    }
}

#[test]
fn whatever_the_client_sends_is_removed_where_there_is_no_token() {
    let world = World::new();
    let nginx = world.host().start();
    let client = nginx.client();
    world.npm.fault(Fault::Status(500));
    for (user, what) in [("nobody", "no_account"), ("akadmin", "error")] {
        let session = world.sign_in(user);
        world.npm.clear_fault();
        let dead = dead(&world);
        world.npm.fault(Fault::Status(500));
        for (sent, asked) in dead.iter().flat_map(|sent| ASKED_FOR.map(|asked| (sent, asked))) {
            let request = client.request("GET", "/echo").cookie(&session).header("Accept", asked);
            let reply = request.header("Authorization", sent).send();
            assert_eq!((reply.status, status(&reply)), (200, what), "{sent}");
            assert_eq!(world.carried_to("/echo"), NOTHING, "{sent}");
        }
    }
}

#[test]
fn whatever_the_client_sends_is_replaced_after_a_wait_too() {
    let all = dead(&World::new()).len();
    for index in [0, 3, all - 8, all - 1] {
        let world = World::new();
        let sent = dead(&world).swap_remove(index);
        let request = |client: &Client| {
            let request = client.request("GET", "/echo").cookie(&world.sign_in("akadmin"));
            request.header("Authorization", &sent).send()
        };
        let nginx = world.host().start();
        assert_eq!(status(&request(&nginx.client())), "miss", "{sent}");
        assert_eq!(world.carried_to("/echo"), ADMINS, "{sent}");
    }
}

/// A request with a token of the client's own, to `/echo`. What became of it, and whether NPM got
/// that token.
fn send_own(world: &World, client: &Client, user: &str, own: &str) -> (u16, String, bool) {
    world.npm.forget_requests();
    let request = client.request("GET", "/echo").cookie(&world.sign_in(user));
    let reply = request.header("Authorization", own).send();
    let arrived = world.npm.requests_to("/echo");
    let kept = arrived.iter().any(|request| request.authorization() == [own]);
    (reply.status, status(&reply).to_owned(), kept)
}

fn kept() -> (u16, String, bool) {
    (200, "kept".to_owned(), true)
}

/// A token with the right claims that nobody has signed.
fn made_up() -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let claims = r#"{"iss":"api","attrs":{"id":1},"scope":["user"],"iat":1,"exp":4102444800}"#;
    format!("Bearer {}.{}.{}", part(r#"{"alg":"none"}"#), part(claims), part("signature"))
}

#[test]
fn an_administrators_own_live_token_is_kept() {
    let world = World::new();
    let nginx = world.host().start();
    let client = nginx.client();
    let own = live(&world);
    // What the account may do is not known before its first login, which is waited for.
    assert_eq!(send_own(&world, &client, "akadmin", &own), kept());
    assert_eq!(world.npm.logins(), 1);
    assert_eq!(send_own(&world, &client, "akadmin", &own), kept());
    let reply = client.request("GET", "/echo").cookie(&world.sign_in("akadmin")).send();
    assert_eq!((status(&reply), &*world.carried_to("/echo")), ("hit", ADMINS));
    assert_eq!(send_own(&world, &client, "akadmin", &own), kept());
    assert_eq!(world.npm.logins(), 1);
}

/// Nobody becomes another user by a token that they once got hold of, as a former administrator has.
#[test]
fn a_token_of_the_clients_own_is_replaced_for_who_is_no_administrator() {
    for on_error in ["pass", "deny"] {
        let world = World::new();
        let directive = format!("npm_token_inject accounts.json on_error={on_error};");
        let nginx = world.host().directive(&directive).start();
        let client = nginx.client();
        let admins = world.npm.issue_token("admin@example.com", Duration::from_secs(3600));
        let guests = world.npm.issue_token("guest@example.com", Duration::from_secs(3600));
        let own = [format!("Bearer {admins}"), format!("Bearer {guests}"), made_up()];
        for (n, own) in own.iter().cycle().take(6).enumerate() {
            let what = if n == 0 { "miss" } else { "hit" };
            let expected = (200, what.to_owned(), false);
            assert_eq!(send_own(&world, &client, "guest", own), expected, "{own}");
            assert_eq!(world.carried_to("/echo"), "the token of guest@example.com", "{own}");
        }
        assert_eq!(world.npm.logins(), 1);
    }
}

#[test]
fn who_gets_no_token_may_log_in_by_hand() {
    let world = World::new();
    let nginx = world.host().start();
    let client = nginx.client();
    let own = live(&world);
    assert_eq!(send_own(&world, &client, "nobody", &own), kept());
    // Who has said who they are needs no account.
    assert!(nginx.log_lines("no account fits").is_empty());

    world.npm.fault(Fault::Status(400));
    for user in ["akadmin", "guest"] {
        // After the login that fails, and in the pause that follows it.
        assert_eq!(send_own(&world, &client, user, &own), kept());
        assert_eq!(send_own(&world, &client, user, &own), kept());
    }
    assert_eq!(world.npm.logins(), 2);
}

#[test]
fn on_error_deny_gives_way_to_no_token_of_the_clients_own() {
    let world = World::new();
    let directive = "npm_token_inject accounts.json on_error=deny;";
    let nginx = world.host().directive(directive).start();
    let client = nginx.client();
    let own = [made_up(), live(&world)];
    for own in &own {
        let denied = (403, "no_account".to_owned(), false);
        assert_eq!(send_own(&world, &client, "nobody", own), denied);
    }
    world.npm.fault(Fault::Status(500));
    for own in own.iter().cycle().take(4) {
        let denied = (502, "error".to_owned(), false);
        assert_eq!(send_own(&world, &client, "akadmin", own), denied);
    }
    assert!(world.npm.requests_to("/echo").is_empty());
}

/// Takes NPM's role of an administrator from bob.
fn demote_bob(world: &World) {
    let admins = world.npm.issue_token("admin@example.com", Duration::from_secs(60));
    let npm = Client::new(&world.npm.url());
    let request = npm.request("PUT", "/api/users/2").bearer(&admins);
    assert_eq!(request.json(&json!({"roles": []})).send().json()["email"], "bob@example.com");
}

/// Waits until bob's own token is replaced, while bob does something.
fn wait_for_replacement(world: &World, client: &Client, own: &str, act: impl Fn()) {
    eventually(Duration::from_secs(20), "another's token to be replaced", || {
        act();
        let (code, what, is_kept) = send_own(world, client, "bob", own);
        assert!(code == 200 && matches!(&*what, "kept" | "hit" | "miss"), "{code} {what}");
        assert_eq!(is_kept, what == "kept");
        !is_kept
    });
    assert_eq!(world.carried_to("/echo"), "the token of bob@example.com");
}

#[test]
fn who_is_no_administrator_any_more_is_found_out_when_npm_is_next_asked_about_the_token() {
    let world = World::new();
    let nginx = world.host().start();
    let client = nginx.client();
    let own = live(&world);
    assert_eq!(send_own(&world, &client, "bob", &own), kept());
    demote_bob(&world);
    // Not permitted any more, which NPM answers with an error that raises a doubt.
    wait_for_replacement(&world, &client, &own, || {
        client.request("GET", "/api/users").cookie(&world.sign_in("bob")).send();
    });
    assert_eq!(world.npm.logins(), 1);
}

#[test]
fn who_is_no_administrator_any_more_is_found_out_when_the_token_is_renewed() {
    let world = World::new();
    world.npm.set_token_lifetime(Duration::from_secs(6));
    let nginx = world.host().start();
    let client = nginx.client();
    let own = live(&world);
    assert_eq!(send_own(&world, &client, "bob", &own), kept());
    demote_bob(&world);
    wait_for_replacement(&world, &client, &own, || ());
}

#[test]
fn where_npm_does_not_say_what_an_account_may_do_it_has_its_token_and_no_other() {
    let issued = World::new().npm.issue_token("admin@example.com", Duration::from_secs(3600));
    for code in [403, 500, 503] {
        let answer = token_answer(&issued);
        let elsewhere =
            Elsewhere::answering(move |request| match (&*request.method, &*request.path) {
                ("POST", "/api/tokens") => answer.clone(),
                (_, "/api/users/me") => Response::json(code, "{\"roles\": [\"admin\"]}"),
                _ => Response::html(200, ""),
            });
        let world = World::new();
        let mut accounts: serde_json::Value =
            serde_json::from_str(&world.accounts()).expect("JSON");
        accounts["api"] = elsewhere.url().into();
        let nginx = world.host().accounts(&accounts.to_string()).start();
        let client = nginx.client();
        let own = live(&world);
        for what in ["miss", "hit"] {
            let expected = (200, what.to_owned(), false);
            assert_eq!(send_own(&world, &client, "akadmin", &own), expected, "{code}");
            let sent = format!("Bearer {issued}");
            assert_eq!(world.last("/echo").authorization(), [sent], "{code}");
        }
    }
}

#[test]
fn the_clients_own_live_token_is_replaced_where_the_directive_says_so() {
    let world = World::new();
    let directive = "npm_token_inject accounts.json client_token=replace;";
    let nginx = world.host().directive(directive).start();
    let client = nginx.client();
    let own = live(&world);
    for (user, what, carried) in
        [("akadmin", "miss", ADMINS), ("akadmin", "hit", ADMINS), ("nobody", "no_account", NOTHING)]
    {
        let request = client.request("GET", "/echo").cookie(&world.sign_in(user));
        assert_eq!(status(&request.header("Authorization", &own).send()), what);
        assert_eq!(world.carried_to("/echo"), carried);
    }
}

#[test]
fn a_header_is_found_however_its_name_is_written_and_others_are_left_alone() {
    let world = World::new();
    let nginx = world.host().start();
    let client = nginx.client();
    for (user, carried) in [("akadmin", ADMINS), ("nobody", NOTHING)] {
        let session = world.sign_in(user);
        for name in ["authorization", "AUTHORIZATION", "aUTHORIZATION", "AuThOrIzAtIoN"] {
            let request = client.request("GET", "/echo").cookie(&session).header(name, BASIC);
            assert_eq!(request.send().status, 200);
            assert_eq!(world.carried_to("/echo"), carried, "{name}");
        }
        for name in ["X-Authorization", "Proxy-Authorization", "Authorizatio", "Authorization2"] {
            client.request("GET", "/echo").cookie(&session).header(name, BASIC).send();
            assert_eq!(world.carried_to("/echo"), carried, "{name}");
            assert_eq!(world.last("/echo").headers.all(name), [BASIC]);
        }
    }
}

#[test]
fn several_authorization_headers_never_reach_npm() {
    let world = World::new();
    let nginx = world.host().listen("http2").start();
    let own = live(&world);
    let session = world.sign_in("akadmin").cookie();
    let mut refused = 0;
    for (first, second) in [(BASIC, &*own), (&own, BASIC), (&own, &own), (BASIC, ""), ("", "")] {
        let headers = [("Cookie", &*session), ("Authorization", first), ("Authorization", second)];
        refused += usize::from(http2(&nginx, &headers, &[]) == 400);
    }
    assert_eq!(refused, 5);

    let nginx = world.host().start();
    for (first, second) in [(BASIC, &*own), (&own, BASIC), (&own, &own), (BASIC, ""), ("", "")] {
        for other in ["Authorization", "authorization"] {
            let client = nginx.client();
            let request = client.request("GET", "/echo").header("Cookie", &session);
            let request = request.header("Authorization", first).header(other, second);
            assert_eq!(request.send().status, 400);
        }
    }
    assert!(world.npm.requests().is_empty());
}

#[test]
fn http2_is_no_different() {
    let world = World::new();
    let nginx = world.host().listen("http2").start();
    let (akadmin, nobody) = (world.sign_in("akadmin").cookie(), world.sign_in("nobody").cookie());
    let own = live(&world);
    let send = |cookie: &str, sent: Option<&str>| {
        let mut headers = vec![("Cookie", cookie)];
        headers.extend(sent.map(|sent| ("Authorization", sent)));
        assert_eq!(http2(&nginx, &headers, &[]), 200, "{sent:?}");
        world.carried_to("/echo")
    };
    assert_eq!(send(&akadmin, None), ADMINS);
    assert_eq!(send(&nobody, None), NOTHING);
    assert_eq!(send(&akadmin, Some(&own)), "the token of guest@example.com");
    for sent in dead(&world) {
        assert_eq!(send(&akadmin, Some(&sent)), ADMINS, "{sent}");
        assert_eq!(send(&nobody, Some(&sent)), NOTHING, "{sent}");
    }
    assert_eq!(http2(&nginx, &[], &[]), 302);
}

/// nginx keeps a request's headers in parts of twenty. Where a part ends, and where in it the
/// header stands, makes no difference.
#[test]
fn all_other_headers_arrive_unchanged_in_order_and_once() {
    let world = World::new();
    let nginx = world.host().start();
    let client = nginx.client();
    let users = [(world.sign_in("akadmin"), ADMINS), (world.sign_in("nobody"), NOTHING)];
    for count in 0..=45 {
        for position in [None, Some(0), Some(count / 2), Some(count)] {
            for (session, carried) in &users {
                let mut sent = Vec::new();
                let method = if count % 2 == 0 { "GET" } else { "POST" };
                let mut request = client.request(method, "/echo").body("body");
                for index in 0..=count {
                    if position == Some(index) {
                        request = request.header("Authorization", BASIC);
                    }
                    if index == count / 3 {
                        request = request.cookie(session);
                    }
                    if index < count {
                        // Every third name comes again.
                        let (name, value) = (format!("X-{}", index / 3 * 3), format!("v{index}"));
                        request = request.header(&name, &value);
                        sent.push((name, value));
                    }
                }
                let reply = request.send();
                assert_eq!(reply.json()["body_length"], 4);
                let arrived = world.last("/echo");
                let name_value = |(n, v): (&str, &str)| (n.to_owned(), v.to_owned());
                let ours = arrived.headers.iter().filter(|h| h.1.starts_with('v'));
                let ours: Vec<_> = ours.map(name_value).collect();
                assert_eq!(ours, sent, "{position:?}");
                assert_eq!(arrived.headers.all("Cookie"), [session.cookie()]);
                assert_eq!(arrived.headers.all("Content-Length"), ["4"]);
                let seen = arrived.authorization();
                match *carried {
                    NOTHING => assert!(seen.is_empty(), "{count} {position:?}"),
                    _ => assert!(seen.len() == 1 && seen[0].starts_with("Bearer ey")),
                }
            }
        }
    }
}

/// A request whose body is sent in three parts: before it waits for a login, while it waits, and
/// after. What of it reached NPM.
fn body_sent_around_a_wait(
    nginx: impl FnOnce(Builder) -> Builder,
    head: &str,
    [before, during, after]: [&[u8]; 3],
) -> Vec<u8> {
    let world = World::new();
    world.npm.fault(Fault::Hold);
    let nginx = nginx(world.host()).start();
    let mut stream = nginx.client().connect().expect("a connection");
    let mut send = |bytes: &[u8]| stream.write_all(bytes).expect("an open connection");
    send(&start_of_request(&world.sign_in("akadmin"), head));
    send(before);
    eventually(Duration::from_secs(10), "the login", || world.npm.logins() == 1);
    send(during);
    world.npm.clear_fault();
    send(after);
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a whole reply");
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert_eq!(world.carried_to("/echo"), ADMINS);
    world.last("/echo").body
}

fn start_of_request(session: &Session, head: &str) -> Vec<u8> {
    let (cookie, basic) = (session.cookie(), BASIC);
    let start = "POST /echo HTTP/1.1\r\nHost: npm\r\nConnection: close";
    format!("{start}\r\nCookie: {cookie}\r\nAuthorization: {basic}\r\n{head}\r\n\r\n").into_bytes()
}

fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

#[test]
fn a_body_arrives_whole_while_its_request_waits_for_a_login() {
    let megabyte: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let (small, large) = (&megabyte[..1000], &megabyte[..]);
    let length = |body: &[u8]| format!("Content-Length: {}", body.len());
    for (body, splits) in [
        (small, [1000, 1000]),
        (small, [0, 1000]),
        (small, [0, 0]),
        (small, [300, 600]),
        (large, [1000, 30_000]),
        (large, [0, 0]),
        (large, [20_000, 20_000]),
    ] {
        let parts = [&body[..splits[0]], &body[splits[0]..splits[1]], &body[splits[1]..]];
        let chunks = parts.map(|part| if part.is_empty() { vec![] } else { chunk(part) });
        let last = [&chunks[2][..], b"0\r\n\r\n"].concat();
        let chunked = [&chunks[0][..], &chunks[1], &last];
        for buffering in ["on", "off"] {
            let nginx = |host: Builder| {
                host.location("/", &format!("proxy_request_buffering {buffering};"))
            };
            let told = format!("{splits:?} of {}, buffering {buffering}", body.len());
            let arrived = body_sent_around_a_wait(nginx, &length(body), parts);
            assert!(arrived == body, "{told}: {} bytes", arrived.len());
            let arrived = body_sent_around_a_wait(nginx, "Transfer-Encoding: chunked", chunked);
            assert!(arrived == body, "{told}, chunked: {} bytes", arrived.len());
        }
    }
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it_after_the_login() {
    let world = World::new();
    let nginx = world.host().start();
    let mut stream = nginx.client().connect().expect("a connection");
    let head = "Content-Length: 5\r\nExpect: 100-continue";
    stream.write_all(&start_of_request(&world.sign_in("akadmin"), head)).expect("a connection");
    let mut interim = [0; 25];
    stream.read_exact(&mut interim).expect("an interim reply");
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").expect("an open connection");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a whole reply");
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
    assert_eq!((&*world.last("/echo").body, &*world.carried_to("/echo")), (&b"hello"[..], ADMINS));
}

#[test]
fn a_body_arrives_whole_by_http2_too() {
    let body: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    for buffering in ["on", "off"] {
        let world = World::new();
        world.npm.set_login_time(Duration::from_millis(100));
        let buffering = format!("proxy_request_buffering {buffering};");
        let nginx = world.host().listen("http2").location("/", &buffering).start();
        nginx.write_file("body", &body);
        let file = format!("@{}/body", nginx.dir().display());
        let cookie = world.sign_in("akadmin").cookie();
        let headers = [("Cookie", &*cookie), ("Authorization", BASIC)];
        assert_eq!(http2(&nginx, &headers, &["--data-binary", &file]), 200);
        assert!(world.last("/echo").body == body, "{buffering}");
        assert_eq!(world.carried_to("/echo"), ADMINS);
    }
}

#[test]
fn a_header_that_the_location_sets_goes_before() {
    let world = World::new();
    for line in ["proxy_set_header Authorization \"\";", "proxy_pass_request_headers off;"] {
        let nginx = world.host().location("/", line).start();
        let request = |client: &Client| {
            let request = client.request("GET", "/echo").cookie(&world.sign_in("akadmin"));
            request.header("Authorization", BASIC).send()
        };
        request(&nginx.client());
        assert_eq!(world.carried_to("/echo"), NOTHING, "{line}");
    }
    let line = "proxy_set_header Authorization custom;";
    let nginx = world.host().location("/", line).start();
    nginx.client().request("GET", "/echo").cookie(&world.sign_in("akadmin")).send();
    assert_eq!(world.carried_to("/echo"), "custom");
}

#[test]
fn an_access_list_that_clears_the_header_is_told_to_send_the_token() {
    let list = AccessList { users: true, pass_auth: false, ..AccessList::default() };
    let world = World::new();
    let host = || world.host().access_list(list);
    let send = |nginx: &Nginx, user: &str, sent: &str| -> Reply {
        let client = nginx.client();
        let request = client.request("GET", "/echo").cookie(&world.sign_in(user));
        request.header("Authorization", sent).send()
    };
    // NPM's own text: the header is empty, whatever the module does.
    let nginx = host().start();
    assert_eq!(send(&nginx, "akadmin", BASIC).status, 200);
    assert_eq!(world.carried_to("/echo"), NOTHING);

    let line = "proxy_set_header Authorization $npm_token_authorization;";
    let nginx = host().location("/", line).start();
    for (user, carried) in [("akadmin", ADMINS), ("nobody", NOTHING), ("akadmin", ADMINS)] {
        assert_eq!(send(&nginx, user, BASIC).status, 200);
        assert_eq!(world.carried_to("/echo"), carried);
    }
    let seen = world.npm.requests_to("/echo").len();
    assert_eq!(send(&nginx, "akadmin", "Basic d3Jvbmc6d3Jvbmc=").status, 302);
    assert_eq!(world.npm.requests_to("/echo").len(), seen);
}

#[test]
fn an_access_list_of_npms_and_authentik_together() {
    let users = AccessList { users: true, pass_auth: true, ..AccessList::default() };
    let here = AccessList { allow: Some("127.0.0.1"), ..AccessList::default() };
    let elsewhere = AccessList { allow: Some("192.0.2.1"), ..AccessList::default() };
    let any = |list: AccessList| AccessList { satisfy_any: true, ..list };
    let both = |list: AccessList| AccessList { allow: list.allow, ..users };
    // The access list, whether there is a session and a password; the status, what became of the
    // token, and what NPM got.
    for (list, session, password, expected) in [
        (here, true, false, (200, "hit", ADMINS)),
        (here, false, false, (302, "", "")),
        (elsewhere, true, false, (403, "none", "")),
        (users, true, true, (200, "hit", ADMINS)),
        (users, true, false, (302, "", "")),
        (users, false, true, (302, "", "")),
        (both(here), true, true, (200, "hit", ADMINS)),
        (both(elsewhere), true, true, (403, "none", "")),
        // Where any is enough, Authentik is asked last, and only if nobody else has let them in.
        (any(here), true, false, (200, "none", NOTHING)),
        (any(here), false, false, (200, "none", NOTHING)),
        (any(elsewhere), true, false, (200, "hit", ADMINS)),
        (any(elsewhere), false, false, (302, "", "")),
        (any(users), true, false, (200, "hit", ADMINS)),
        (any(users), true, true, (200, "none", BASIC)),
        (any(users), false, true, (200, "none", BASIC)),
        (any(users), false, false, (302, "", "")),
        (any(both(elsewhere)), true, false, (200, "hit", ADMINS)),
        (any(both(elsewhere)), false, true, (200, "none", BASIC)),
        (any(both(here)), false, false, (200, "none", NOTHING)),
    ] {
        let told = format!("{list:?}, session: {session}, password: {password}");
        let world = World::new();
        let nginx = world.host().access_list(list).start();
        let client = nginx.client();
        let send = |authorization: Option<&str>| {
            let mut request = client.request("GET", "/echo");
            if session {
                request = request.cookie(&world.sign_in("akadmin"));
            }
            if let Some(authorization) = authorization {
                request = request.header("Authorization", authorization);
            }
            request.send()
        };
        let password = password.then_some(BASIC);
        send(password);
        let reply = send(password);
        assert_eq!((reply.status, status(&reply)), (expected.0, expected.1), "{told}");
        match expected.0 {
            200 => assert_eq!(world.carried_to("/echo"), expected.2, "{told}"),
            _ => assert!(world.npm.requests().is_empty(), "{told}"),
        }
    }
}
