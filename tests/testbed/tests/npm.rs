//! The small NPM answers as the real one does.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use serde_json::{json, Value};
use testbed::npm::{totp, TOTP_SECRET};
use testbed::wait::happens;
use testbed::{Client, Fault, Npm, Release, Reply, Tls};

const DAY: Duration = Duration::from_secs(86_400);

fn quick() -> Npm {
    Npm::builder().login_time(Duration::ZERO).start()
}

fn log_in(client: &Client, identity: &str, secret: &str) -> Reply {
    let body = json!({"identity": identity, "secret": secret});
    client.request("POST", "/api/tokens").json(&body).send()
}

fn admin(client: &Client) -> String {
    let reply = log_in(client, "admin@example.com", "admin-secret");
    reply.json()["token"].as_str().expect("a token").to_owned()
}

fn me(client: &Client, token: &str) -> Reply {
    client.request("GET", "/api/users/me").bearer(token).send()
}

fn message(reply: &Reply) -> String {
    reply.json()["error"]["message"].as_str().expect("a message").to_owned()
}

fn payload(token: &str) -> Value {
    let part = token.split('.').nth(1).expect("three parts");
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).expect("base64")).expect("JSON")
}

#[test]
fn a_login_takes_its_time_and_gives_a_day() {
    let npm = Npm::start();
    let client = Client::new(&npm.url());
    let started = Instant::now();
    let reply = log_in(&client, " ADMIN@example.com", "admin-secret");
    assert!(started.elapsed() >= Duration::from_millis(420));
    assert_eq!(reply.status, 200);

    let token = reply.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(token.split('.').nth(2).unwrap().len(), 342);
    let payload = payload(&token);
    assert_eq!(payload["attrs"]["id"], 1);
    assert_eq!(payload["exp"].as_i64().unwrap() - payload["iat"].as_i64().unwrap(), 86_400);
    assert!(reply.json()["expires"].as_str().unwrap().ends_with('Z'));
    assert_eq!(me(&client, &token).json()["email"], "admin@example.com");
    assert_eq!(npm.logins(), 1);
}

#[test]
fn a_refused_login_says_what_is_wrong() {
    let npm = quick();
    let client = Client::new(&npm.url());
    let wrong = log_in(&client, "admin@example.com", "wrong");
    assert_eq!(wrong.status, 400);
    assert_eq!(
        wrong.text(),
        r#"{"error":{"code":400,"message":"Invalid email or password","message_i18n":"error.invalid-auth"}}"#
    );
    let unknown = log_in(&client, "nobody@example.com", "wrong");
    assert_eq!(unknown.text(), r#"{"error":{"code":400,"message":"Invalid email or password"}}"#);

    let post = || client.request("POST", "/api/tokens");
    let missing = "data must have required property";
    for (request, status, expected) in [
        (post(), 400, "Payload is undefined".to_owned()),
        (post().json(&json!({})), 400, format!("{missing} 'identity', {missing} 'secret'")),
        (
            post().json(&json!({"identity": "a", "secret": "b", "x": 1})),
            400,
            "data must NOT have additional properties".to_owned(),
        ),
        (
            post().json(&json!({"identity": "", "secret": "b"})),
            400,
            "data/identity must NOT have fewer than 1 characters".to_owned(),
        ),
        (
            post().json(&json!({"identity": "a", "secret": "b", "scope": "admin"})),
            400,
            "data/scope must be equal to one of the allowed values".to_owned(),
        ),
        (
            post().header("Content-Type", "application/json").body("{"),
            400,
            "Internal Error".to_owned(),
        ),
        (
            post().header("Content-Type", "application/json").body(" ".repeat(102_401)),
            413,
            "Internal Error".to_owned(),
        ),
    ] {
        let reply = request.send();
        assert_eq!((reply.status, message(&reply)), (status, expected));
    }
}

#[test]
fn a_bad_token_is_never_401() {
    let npm = quick();
    let client = Client::new(&npm.url());
    let good = npm.issue_token("admin@example.com", DAY);
    let expired = npm.issue_expired_token("admin@example.com");
    let guest = npm.issue_token("guest@example.com", DAY);
    let endless = npm.issue_token_without_expiry("admin@example.com");
    assert!(payload(&endless).get("exp").is_none());

    for (path, authorization, status, expected) in [
        ("/api/users/me", String::new(), 500, "Internal Error"),
        ("/api/users/me", "Bearer null".into(), 400, "Empty token"),
        ("/api/users/me", "Bearer garbage".into(), 500, "Internal Error"),
        ("/api/users/me", format!("bearer {good}"), 500, "Internal Error"),
        ("/api/users/me", format!("Bearer {expired}"), 400, "Token has expired"),
        ("/api/users/me/", format!("Bearer {good}"), 404, "Not Found - /users/me/"),
        ("/api/users", String::new(), 404, "Not Found - /users"),
        ("/api/users", format!("Bearer {guest}"), 404, "Not Found - /users"),
        ("/api/users", "Bearer garbage".into(), 500, "Internal Error"),
        ("/api/users/1", format!("Bearer {guest}"), 404, "Not Found - /users/1"),
        ("/api/tokens", String::new(), 500, "Internal Error"),
        ("/api/tokens", format!("Bearer {expired}"), 400, "Token has expired"),
        ("/api/nosuch", format!("Bearer {good}"), 404, "Not Found - /nosuch"),
        ("/api/nginx/proxy-hosts", String::new(), 404, "Not Found - /nginx/proxy-hosts"),
    ] {
        let mut request = client.request("GET", path);
        if !authorization.is_empty() {
            request = request.header("Authorization", &authorization);
        }
        let reply = request.send();
        assert_eq!((reply.status, &*message(&reply)), (status, expected), "{path} {authorization}");
    }
    assert_eq!(me(&client, &good).status, 200);
    assert_eq!(me(&client, &endless).status, 200);
    assert_eq!(me(&client, &format!("{good} word")).status, 200);

    let twice = client.request("GET", "/api/users/me").bearer(&good).bearer(&good).send();
    assert_eq!((twice.status, twice.header("Content-Type")), (400, Some("text/html")));
}

#[test]
fn from_2_16_on_a_denied_request_is_403_and_a_changed_password_ends_tokens() {
    let npm = Npm::builder().release(Release::V2_16).login_time(Duration::ZERO).start();
    let client = Client::new(&npm.url());
    assert_eq!(client.get("/api/").json()["version"]["minor"], 16);
    let guest = npm.issue_token("guest@example.com", DAY);
    let bob = npm.issue_token("bob@example.com", DAY);
    let get = |path: &str, token: &str| client.request("GET", path).bearer(token).send().status;
    assert_eq!(get("/api/users", &guest), 403);
    assert_eq!(get("/api/nosuch", &guest), 404);
    assert_eq!(client.get("/api/nginx/proxy-hosts").status, 403);

    let change = json!({"type": "password", "current": "guest-secret", "secret": "another-secret"});
    let request = client.request("PUT", "/api/users/me/auth").bearer(&guest);
    assert_eq!(request.json(&change).send().text(), "true");
    for path in ["/api/users/me", "/api/tokens", "/api/nginx/proxy-hosts", "/api/users/3"] {
        assert_eq!(get(path, &guest), 401, "{path}");
    }
    assert_eq!(get("/api/users/me", &bob), 200);
    let anew = log_in(&client, "guest@example.com", "another-secret").json();
    assert_eq!(get("/api/users/me", anew["token"].as_str().expect("a token")), 200);

    let script = |npm: &Npm| {
        let page = Client::new(&npm.url()).get("/").text();
        let path = page.split('"').find(|part| part.starts_with("/assets/")).expect("a script");
        Client::new(&npm.url()).get(path).text()
    };
    assert!(script(&npm).contains("const leavesLoginPath = true;"));
    assert!(script(&quick()).contains("const leavesLoginPath = false;"));
}

#[test]
fn a_token_is_renewed_without_a_password() {
    let npm = quick();
    let client = Client::new(&npm.url());
    let token = npm.issue_token("guest@example.com", DAY);
    npm.disable("guest@example.com");
    let renew = |target: &str| client.request("GET", target).bearer(&token).send();
    assert_eq!(renew("/api/tokens").status, 200);
    let five_minutes = renew("/api/tokens?expiry=5m").json()["token"].as_str().unwrap().to_owned();
    let payload = payload(&five_minutes);
    assert_eq!(payload["exp"].as_i64().unwrap() - payload["iat"].as_i64().unwrap(), 300);
    assert_eq!(message(&renew("/api/tokens?expiry=rubbish")), "Invalid expiry time: rubbish");
    assert_eq!(me(&client, &token).status, 404);
    assert_eq!(npm.logins(), 0);
}

#[test]
fn tokens_end_with_the_keys_the_user_and_the_clock() {
    let npm = Npm::builder()
        .administrator("a@example.com", "a")
        .login_time(Duration::ZERO)
        .token_lifetime(Duration::from_secs(60))
        .start();
    let client = Client::new(&npm.url());
    let token = log_in(&client, "a@example.com", "a").json()["token"].as_str().unwrap().to_owned();
    assert_eq!(me(&client, &token).status, 200);
    npm.clock_offset(61);
    assert_eq!(message(&me(&client, &token)), "Token has expired");
    npm.clock_offset(0);
    npm.set_secret("a@example.com", "b");
    assert_eq!(me(&client, &token).status, 200);
    assert_eq!(log_in(&client, "a@example.com", "a").status, 400);
    npm.replace_keys();
    assert_eq!(me(&client, &token).status, 500);
    let token = npm.issue_token("a@example.com", DAY);
    npm.delete("a@example.com");
    assert_eq!(me(&client, &token).status, 404);
    assert_eq!(log_in(&client, "a@example.com", "b").status, 400);
}

#[test]
fn a_second_factor_is_asked_for() {
    let npm = quick();
    let client = Client::new(&npm.url());
    let reply = log_in(&client, "totp@example.com", "totp-secret");
    assert_eq!((reply.status, &reply.json()["requires_2fa"]), (200, &json!(true)));
    let challenge = reply.json()["challenge_token"].as_str().unwrap().to_owned();
    assert_eq!(me(&client, &challenge).status, 404);

    let answer = |challenge: &str, code: &str| {
        let body = json!({"challenge_token": challenge, "code": code});
        client.request("POST", "/api/tokens/2fa").json(&body).send()
    };
    assert_eq!(message(&answer("garbage", "000000")), "Invalid or expired challenge token");
    // The code may have changed between the question and the answer, and 000000 may be right.
    let code = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        totp(TOTP_SECRET, now.as_secs())
    };
    let wrong = if code() == "000000" { "000001" } else { "000000" };
    assert_eq!(message(&answer(&challenge, wrong)), "Invalid verification code");
    let right = [(); 2].map(|()| answer(&challenge, &code()));
    let right = right.iter().find(|reply| reply.status == 200).expect("a token");
    let token = right.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(me(&client, &token).json()["email"], "totp@example.com");
}

#[test]
fn users_are_made_changed_and_signed_in_as() {
    let npm = quick();
    let client = Client::new(&npm.url());
    let token = admin(&client);
    let call = |method: &str, target: &str, body: Value| {
        client.request(method, target).bearer(&token).json(&body).send()
    };
    let eve = json!({"name": "Eve", "nickname": "Eve", "email": "eve@example.com", "roles": [], "is_disabled": false});
    let made = call("POST", "/api/users", eve);
    assert_eq!((made.status, &made.json()["permissions"]["visibility"]), (201, &json!("user")));
    let id = made.json()["id"].as_u64().unwrap();

    let found = call("GET", "/api/users?query=EVE@&expand=permissions", json!({}));
    assert_eq!(found.json().as_array().unwrap().len(), 1);
    let changed = call("PUT", &format!("/api/users/{id}"), json!({"roles": ["admin"]}));
    assert_eq!((changed.status, &changed.json()["roles"]), (200, &json!(["admin"])));
    let as_eve = call("POST", &format!("/api/users/{id}/login"), json!({}));
    assert_eq!(as_eve.json()["user"]["email"], "eve@example.com");
    assert_eq!(me(&client, as_eve.json()["token"].as_str().unwrap()).json()["id"], id);

    let secret = json!({"type": "password", "secret": "eve-secret"});
    assert_eq!(call("PUT", &format!("/api/users/{id}/auth"), secret).text(), "true");
    assert_eq!(log_in(&client, "eve@example.com", "eve-secret").status, 200);
    assert_eq!(call("DELETE", &format!("/api/users/{id}"), json!({})).text(), "true");
    assert_eq!(call("GET", &format!("/api/users/{id}"), json!({})).status, 404);

    let guest = npm.issue_token("guest@example.com", DAY);
    let as_admin = client.request("POST", "/api/users/1/login").bearer(&guest).send();
    assert_eq!(as_admin.status, 404);
}

/// A client that is an administrator.
struct Admin {
    client: Client,
    token: String,
}

impl Admin {
    fn of(npm: &Npm) -> Self {
        let token = npm.issue_token("admin@example.com", DAY);
        Self { client: Client::new(&npm.url()), token }
    }

    fn call(&self, method: &str, target: &str, body: Value) -> Reply {
        self.client.request(method, target).bearer(&self.token).json(&body).send()
    }

    fn make(&self, name: &str, email: &str, roles: Value) -> u64 {
        let user = json!({"name": name, "nickname": "", "email": email, "roles": roles});
        let made = self.call("POST", "/api/users", user);
        assert_eq!(made.status, 201);
        made.json()["id"].as_u64().expect("an id")
    }

    /// The addresses that a search finds, in its order.
    fn search(&self, query: &str) -> Vec<String> {
        let query: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let found = self.call("GET", &format!("/api/users?query={query}"), json!({})).json();
        let found = found.as_array().expect("a list").clone();
        found.iter().map(|user| user["email"].as_str().expect("an address").to_owned()).collect()
    }
}

#[test]
fn a_search_is_a_like_with_live_wildcards_on_names_too() {
    let npm = quick();
    let admin = Admin::of(&npm);
    admin.make("bob@example.com", "Zed@Example.com", json!([]));
    admin.make("100%", "\u{fc}@example.com", json!([]));
    npm.disable("guest@example.com");
    npm.delete("totp@example.com");
    let all = ["100%", "admin", "bob", "bob@example.com", "guest"].len();
    for (query, found) in [
        ("bob@example.com", &["bob@example.com", "Zed@Example.com"][..]),
        ("ZED@EXAMPLE", &["Zed@Example.com"]),
        ("_ed@example.com", &["Zed@Example.com"]),
        ("z%com", &["Zed@Example.com"]),
        ("guest", &["guest@example.com"]),
        ("\u{fc}@", &["\u{fc}@example.com"]),
        ("\u{dc}@", &[]),
        ("\\%", &[]),
        ("totp", &[]),
    ] {
        assert_eq!(admin.search(query), found, "{query}");
    }
    for everybody in ["", "%", "_"] {
        assert_eq!(admin.search(everybody).len(), all, "{everybody}");
    }
    let long = admin.call("GET", &format!("/api/users?query={}", "q".repeat(256)), json!({}));
    assert_eq!(long.status, 400);
}

#[test]
fn nothing_keeps_two_users_from_having_one_address() {
    let npm = quick();
    let admin = Admin::of(&npm);
    let ids = [(); 2].map(|()| admin.make("Eve", "Eve@example.com", json!([])));
    assert_eq!(admin.search("eve@example.com"), ["Eve@example.com"; 2]);
    assert_eq!(ids[1], ids[0] + 1);
    let makes = |fields: Value| {
        let mut user = json!({"name": "n", "nickname": "n", "email": "e@example.com"});
        user.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        admin.call("POST", "/api/users", user).status
    };
    for (fields, status) in [
        (json!({"nickname": ""}), 201),
        (json!({"name": ""}), 400),
        (json!({"email": "e@"}), 400),
        (json!({"email": "e@x"}), 201),
        (json!({"roles": "admin"}), 400),
        (json!({"id": 1}), 400),
    ] {
        assert_eq!(makes(fields.clone()), status, "{fields}");
    }
}

#[test]
fn a_user_who_is_made_with_a_password_has_no_permissions() {
    let npm = quick();
    let admin = Admin::of(&npm);
    let auth = json!({"type": "password", "secret": "eve-secret"});
    let eve = json!({"name": "E", "nickname": "E", "email": "eve@example.com", "auth": auth});
    assert_eq!(admin.call("POST", "/api/users", eve).status, 500);
    let eve = npm.shown("eve@example.com");
    assert_eq!(eve["permissions"], Value::Null);
    assert_eq!(log_in(&admin.client, "eve@example.com", "eve-secret").status, 200);
    let path = format!("/api/users/{}/permissions", eve["id"]);
    assert_eq!(admin.call("PUT", &path, json!({"visibility": "all"})).status, 500);
}

#[test]
fn a_role_changes_at_once_and_what_is_seen_with_it_only_when_told() {
    let npm = quick();
    let admin = Admin::of(&npm);
    let guest = npm.issue_token("guest@example.com", DAY);
    let lists = || admin.client.request("GET", "/api/users").bearer(&guest).send().status;
    let visibility = || npm.shown("guest@example.com")["permissions"]["visibility"].clone();
    let permit = |fields: Value| admin.call("PUT", "/api/users/3/permissions", fields);
    assert_eq!(lists(), 404);
    admin.call("PUT", "/api/users/3", json!({"roles": ["admin"]}));
    assert_eq!((lists(), visibility()), (200, json!("user")));
    assert_eq!(permit(json!({"visibility": "all"})).text(), "true");
    admin.call("PUT", "/api/users/3", json!({"roles": []}));
    assert_eq!((lists(), visibility()), (404, json!("all")));

    assert_eq!(permit(json!({"visibility": "none"})).status, 400);
    assert_eq!(permit(json!({})).status, 400);
    assert_eq!(permit(json!({"visbility": "user"})).status, 500);
    npm.swap_permissions("guest@example.com", "bob@example.com");
    assert_eq!(permit(json!({"visibility": "user"})).status, 500);
    assert_eq!(visibility(), "all");
}

#[test]
fn an_address_is_its_users_own_claim_where_it_is_free() {
    let npm = quick();
    let admin = Admin::of(&npm);
    let guest = npm.issue_token("guest@example.com", DAY);
    let call = |method: &str, target: &str, body: Value| {
        admin.client.request(method, target).bearer(&guest).json(&body).send()
    };
    let change = |body: Value| call("PUT", "/api/users/me", body);
    let taken = change(json!({"email": " BOB@example.com"}));
    assert_eq!(message(&taken), "Email address already in use - bob@example.com");
    let changed = change(json!({"email": " Boss@Example.com ", "roles": ["admin"]}));
    assert_eq!((changed.status, &changed.json()["email"]), (200, &json!("boss@example.com")));
    assert_eq!(changed.json()["roles"], json!([]));
    for (method, target) in [
        ("PUT", "/api/users/1"),
        ("PUT", "/api/users/me/permissions"),
        ("POST", "/api/users/1/login"),
        ("DELETE", "/api/users/me"),
        ("POST", "/api/users/1/2fa"),
        ("GET", "/api/audit-log"),
    ] {
        let body = json!({"visibility": "all"});
        let body = if target == "/api/users/1" { json!({"name": "x"}) } else { body };
        assert_eq!(call(method, target, body).status, 404, "{method} {target}");
    }
    assert_eq!(admin.call("DELETE", "/api/users/me", json!({})).status, 403);
}

#[test]
fn signing_in_as_a_disabled_user_gives_a_token_that_is_worth_nothing() {
    let npm = quick();
    let admin = Admin::of(&npm);
    admin.call("PUT", "/api/users/3", json!({"is_disabled": true}));
    let reply = admin.call("POST", "/api/users/3/login", json!({}));
    assert_eq!((reply.status, &reply.json()["user"]["is_disabled"]), (200, &json!(true)));
    let token = reply.json()["token"].as_str().unwrap().to_owned();
    assert_eq!(me(&admin.client, &token).status, 404);
    admin.call("PUT", "/api/users/3", json!({"is_disabled": false}));
    assert_eq!(me(&admin.client, &token).status, 200);
    admin.call("DELETE", "/api/users/3", json!({}));
    assert_eq!(admin.call("POST", "/api/users/3/login", json!({})).status, 404);
}

#[test]
fn the_audit_log_names_who_did_it_and_signing_in_as_is_not_in_it() {
    let npm = quick();
    let admin = Admin::of(&npm);
    let reply = admin.call("POST", "/api/users/3/login", json!({}));
    let guest = reply.json()["token"].as_str().unwrap().to_owned();
    let name = json!({"name": "Another"});
    admin.client.request("PUT", "/api/users/me").bearer(&guest).json(&name).send();
    let made = admin.make("Eve", "eve@example.com", json!([]));
    admin.call("DELETE", &format!("/api/users/{made}"), json!({}));
    let log = admin.call("GET", "/api/audit-log?expand=user", json!({})).json();
    let log: Vec<_> = log.as_array().expect("a list").iter().collect();
    let seen = |row: &&Value| {
        (row["user"]["email"].clone(), row["action"].clone(), row["object_id"].clone())
    };
    let expected = [
        ("admin@example.com", "deleted", made),
        ("admin@example.com", "created", made),
        ("guest@example.com", "updated", 3),
    ];
    let expected = expected.map(|(who, what, whom)| (json!(who), json!(what), json!(whom)));
    assert_eq!(log.iter().map(seen).collect::<Vec<_>>(), expected);
    assert_eq!(npm.audit_log()[0]["meta"]["name"], "Another");
}

#[test]
fn a_second_factor_is_set_up_used_and_ended() {
    let npm = quick();
    let client = Client::new(&npm.url());
    let guest = npm.issue_token("guest@example.com", DAY);
    let call = |method: &str, target: &str, body: Value| {
        client.request(method, target).bearer(&guest).json(&body).send()
    };
    let path = "/api/users/me/2fa";
    let enable = |code: &str| call("POST", "/api/users/me/2fa/enable", json!({"code": code}));
    assert_eq!(message(&enable("000000")), "No pending 2FA setup found");
    let begun = call("POST", path, json!({})).json();
    let secret = begun["secret"].as_str().expect("a secret").to_owned();
    assert_eq!(secret.len(), 32);
    assert!(begun["otpauth_url"].as_str().unwrap().starts_with("otpauth://totp/Nginx%20Proxy"));
    assert_eq!(enable("00000").status, 400);
    assert_eq!(enable("0000000").status, 500);
    let code = || totp(&secret, npm.seconds());
    // The code may change between the two clocks' readings.
    let enabled = [(); 2].map(|()| enable(&code()));
    let enabled = enabled.iter().find(|reply| reply.status == 200).expect("it enabled");
    let codes = enabled.json()["backup_codes"].as_array().expect("codes").clone();
    assert_eq!(codes.len(), 8);

    let challenge = log_in(&client, "guest@example.com", "guest-secret").json();
    let answer = |code: &str| {
        let body = json!({"challenge_token": challenge["challenge_token"], "code": code});
        client.request("POST", "/api/tokens/2fa").json(&body).send().status
    };
    for (step, status) in [(-60, 400), (60, 400)] {
        let code = totp(&secret, npm.seconds().checked_add_signed(step).expect("a time"));
        assert_eq!(answer(&code), status, "{step}");
    }
    assert!([(); 2].map(|()| answer(&code())).contains(&200));
    let backup = codes[0].as_str().expect("a code").to_lowercase();
    assert_eq!([(); 2].map(|()| answer(&backup)), [200, 400]);
    assert_eq!(call("GET", path, json!({})).json()["backup_codes_remaining"], 7);
    assert_eq!(answer("abcdef"), 500);

    assert_eq!(message(&call("DELETE", path, json!({}))), "Missing required parameter: code");
    let ended = || call("DELETE", &format!("{path}?code={}", code()), json!({})).status;
    assert!([(); 2].map(|()| ended()).contains(&200));
    assert!(log_in(&client, "guest@example.com", "guest-secret").json()["token"].is_string());
}

#[test]
fn another_sites_form_makes_an_administrator() {
    let npm = quick();
    let client = Client::new(&npm.url());
    let token = admin(&client);
    let reply = client
        .request("POST", "/api/users")
        .bearer(&token)
        .header("Origin", "https://evil.example")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body("name=Eve+E&nickname=Eve&email=eve%40example.com&roles[]=admin")
        .send();
    assert_eq!((reply.status, &reply.json()["roles"]), (201, &json!(["admin"])));
    assert_eq!(reply.header("Access-Control-Allow-Origin"), Some("https://evil.example"));
    assert_eq!(reply.header("Access-Control-Allow-Credentials"), Some("true"));
    let body = npm.requests_to("/api/users")[0].body.clone();
    assert!(body.starts_with(b"name=Eve"));
}

#[test]
fn the_page_is_served_for_every_other_path() {
    let npm = quick();
    let client = Client::new(&npm.url());
    let page = client.get("/");
    assert_eq!((page.status, page.header("Content-Type")), (200, Some("text/html")));
    assert_eq!(client.get("/nginx/proxy").body, page.body);
    assert_eq!(client.request("HEAD", "/").send().body.len(), 0);
    assert_eq!(client.request("POST", "/").send().status, 405);
    assert_eq!(client.get("/index.html").status, 302);
    let etag = page.header("ETag").unwrap();
    assert_eq!(client.request("GET", "/").header("If-None-Match", etag).send().status, 304);
    let part = client.request("GET", "/").header("Range", "bytes=0-8").send();
    assert_eq!((part.status, &*part.text()), (206, "<!DOCTYPE"));
}

#[test]
fn an_echo_tells_what_arrived() {
    let npm = quick();
    let client = Client::new(&npm.url());
    let chunked = "PUT /echo/x?y=1 HTTP/1.1\r\nHost: h\r\nAuthorization: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n";
    let told = client.raw(chunked).json();
    assert_eq!(told["method"], "PUT");
    assert_eq!(told["body_length"], 5);
    assert_eq!(told["headers"][1], json!(["Authorization", "a"]));
    assert_eq!(npm.requests()[0].authorization(), ["a"]);
    npm.forget_requests();
    assert!(npm.requests().is_empty());
}

#[test]
fn faults_show_until_they_are_cleared() {
    let npm = quick();
    let client = Client::new(&npm.url());
    let try_login_by = |client: &Client| {
        let body = json!({"identity": "admin@example.com", "secret": "admin-secret"});
        client.request("POST", "/api/tokens").json(&body).try_send()
    };
    let try_login = || try_login_by(&client);
    npm.fault(Fault::Hang);
    let impatient = Client::new(&npm.url()).timeout(Duration::from_millis(300));
    assert!(try_login_by(&impatient).is_err());
    testbed::eventually(Duration::from_secs(5), "the login", || npm.logins() == 1);
    for fault in [Fault::CloseAtOnce, Fault::NotHttp, Fault::HalfAnswer] {
        npm.fault(fault.clone());
        assert!(try_login().is_err(), "{fault:?}");
    }
    for (fault, status, text) in [
        (Fault::Status(400), 400, "Invalid email or password"),
        (Fault::Status(503), 503, "Internal Error"),
        (Fault::Garbage, 200, "hello"),
        (Fault::EmptyBody, 200, ""),
        (Fault::NoExpiry, 200, "token"),
        (Fault::NotJwt, 200, "not-a-jwt"),
        (Fault::Echo, 400, "admin-secret"),
        (Fault::ByteByByte(Duration::from_micros(10)), 200, "token"),
        (Fault::Delay(Duration::from_millis(50)), 200, "token"),
        (Fault::Redirect("http://127.0.0.1:1/".into()), 302, ""),
        (Fault::Endless(1_000_000), 200, "aaaa"),
    ] {
        npm.fault(fault.clone());
        let reply = try_login().unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        assert_eq!(reply.status, status, "{fault:?}");
        assert!(reply.text().contains(text), "{fault:?}: {reply:?}");
    }
    npm.clear_fault();
    assert_eq!(try_login().unwrap().status, 200);
    assert_eq!(npm.logins(), 16);
}

#[test]
fn it_stops_at_once_and_starts_again() {
    let npm = Npm::builder().login_time(Duration::from_secs(60)).start();
    let url = npm.url();
    let started = Instant::now();
    std::thread::scope(|scope| {
        let log_in = scope.spawn(|| {
            let body = json!({"identity": "admin@example.com", "secret": "admin-secret"});
            Client::new(&url).request("POST", "/api/tokens").json(&body).try_send()
        });
        testbed::eventually(Duration::from_secs(5), "the login", || npm.logins() == 1);
        npm.stop();
        assert!(log_in.join().unwrap().is_err());
    });
    assert!(Client::new(&url).request("GET", "/").try_send().is_err());
    npm.start_again();
    assert_eq!(Client::new(&url).get("/").status, 200);
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// A process that is being started has a copy of each descriptor until it runs its program.
#[test]
fn it_waits_for_a_port_that_a_process_being_started_still_listens_on() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (mut here, mut there) = UnixStream::pair().unwrap();
    there.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut command = Command::new("true");
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe {
        command.pre_exec(move || {
            there.write_all(b".")?;
            there.read_exact(&mut [0])
        })
    };
    std::thread::scope(|scope| {
        let starting = scope.spawn(move || command.status());
        here.read_exact(&mut [0]).unwrap();
        drop(listener);
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), ErrorKind::AddrInUse);
        let npm = scope.spawn(move || Npm::builder().port(address.port()).start());
        // Nobody can see that it waits, but all can that it did not.
        assert!(!happens(Duration::from_millis(50), || npm.is_finished()), "it started");
        here.write_all(b".").unwrap();
        assert!(starting.join().unwrap().unwrap().success());
        assert_eq!(Client::new(&npm.join().unwrap().url()).get("/").status, 200);
    });
}

#[test]
fn https_is_served_to_who_trusts_it() {
    let tls = Arc::new(Tls::localhost());
    let npm = Npm::builder().tls(&tls).start();
    assert_eq!(Client::with_tls(&npm.url(), &tls).get("/api/").json()["status"], "OK");
    let distrustful = Client::with_tls(&npm.url(), &Tls::localhost());
    assert!(distrustful.request("GET", "/").try_send().is_err());

    let elsewhere = Arc::new(Tls::for_names(&["elsewhere.example"]));
    let npm = Npm::builder().tls(&elsewhere).start();
    let client = Client::with_tls(&npm.url(), &elsewhere);
    assert!(client.request("GET", "/").try_send().is_err());
}

#[test]
fn a_path_may_be_spelled_in_all_ways_that_nginx_reads() {
    let npm = quick();
    let client = Client::new(&npm.url());
    let token = admin(&client);
    let status = |path: &str| {
        let reply = client.request("GET", path).bearer(&token).send();
        let kind = reply.header("Content-Type").unwrap_or_default().to_owned();
        (reply.status, kind.starts_with("application/json"))
    };
    for path in [
        "/api/tokens",
        "/api/tokens/",
        "/api/tokens//",
        "//api/tokens",
        "/api//tokens",
        "/api/./tokens",
        "/api/x/../tokens",
        "/api/tokens/.",
        "/api/tokens/x/..",
        "/api/%74okens",
        "/api%2Ftokens",
        "/api/tokens%2F",
        "/api/users/%6De",
    ] {
        assert_eq!(status(path), (200, true), "{path}");
    }
    for path in [
        "/api/%2574okens",
        "/api/Tokens",
        "/api/TOKENS",
        "/api/tokens%3Fx",
        "/api/tokens;x",
        "/api/tokens%20",
        "/api/tokens/2fa",
        "/api/Users/me",
        "/api/users/me/",
    ] {
        assert_eq!(status(path), (404, true), "{path}");
    }
    // NPM's own page, as for any path that is not the API's.
    for path in ["/API/tokens", "/x/api/tokens"] {
        assert_eq!(status(path), (200, false), "{path}");
    }
}
