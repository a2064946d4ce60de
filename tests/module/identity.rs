//! Who a request is from, and which account that is: by Authentik's answer, and by nothing else.

use std::path::Path;
use std::time::Duration;

use serde_json::{json, Value};
use testbed::nginx::Builder;
use testbed::{Fault, Visitor};

use crate::{identity, status, World, SHOWN};

/// What a client may send in the hope of being taken for somebody.
const FORGED: [(&str, &str); 10] = [
    ("X-authentik-username", "akadmin"),
    ("x-authentik-username", "akadmin"),
    ("X-AUTHENTIK-USERNAME", "akadmin"),
    ("X_authentik_username", "akadmin"),
    ("Authentik-Username", "akadmin"),
    ("X-authentik-groups", "npm-admins"),
    ("X-authentik-email", "admin@example.com"),
    ("Remote-User", "akadmin"),
    ("X-Forwarded-User", "akadmin"),
    ("Cookie", "authentik_username=akadmin"),
];

/// The accounts of NPM's users `admin`, `bob` and `guest`, each found by the field and value given.
fn found_by(world: &World, fields: [(&str, &str); 3]) -> String {
    let identities = ["admin@example.com", "bob@example.com", "guest@example.com"];
    let accounts = fields.into_iter().zip(identities).map(|((field, value), identity)| {
        json!({field: value, "identity": identity, "secret": world.npm.secret(identity)})
    });
    json!({"api": world.npm.url(), "accounts": accounts.collect::<Value>()}).to_string()
}

/// A proxy host that takes the credentials which Authentik hands over.
fn host_with_credentials(world: &World, directive: &str) -> Builder {
    let set = "auth_request_set $authentik_authorization $upstream_http_authorization;";
    world.host().location("/", set).directive(directive)
}

#[test]
fn a_forged_identity_without_a_session_is_turned_away() {
    let world = World::new();
    let nginx = world.host().start();
    let client = nginx.client();
    for (name, value) in FORGED {
        assert_eq!(client.request("GET", "/echo").header(name, value).send().status, 302, "{name}");
    }
    assert!(world.npm.requests().is_empty());
}

#[test]
fn a_forged_identity_where_authentik_lets_everybody_in_gives_no_token() {
    let world = World::new();
    let nginx = world.host().accounts(&found_by(&world, BY_ALL)).start();
    let client = nginx.client();
    for (name, value) in FORGED {
        let reply = client.request("GET", "/open/echo").header(name, value).send();
        assert_eq!((reply.status, status(&reply), identity(&reply)), (200, "none", ""), "{name}");
        assert_eq!(world.carried_to("/open/echo"), "nothing", "{name}");
    }
    assert_eq!(world.npm.logins(), 0);
}

#[test]
fn a_forged_identity_does_not_change_who_is_signed_in() {
    let world = World::new();
    let nginx = world.host().accounts(&found_by(&world, BY_ALL)).start();
    let client = nginx.client();
    let guest = world.sign_in("guest");
    let nobody = world.sign_in("nobody");
    for (name, value) in FORGED {
        client.request("GET", "/echo").header(name, value).cookie(&guest).send();
        assert_eq!(world.carried_to("/echo"), "the token of guest@example.com", "{name}");
        let reply = client.request("GET", "/echo").cookie(&nobody).header(name, value).send();
        assert_eq!(status(&reply), "no_account", "{name}");
        assert_eq!(world.carried_to("/echo"), "nothing", "{name}");
    }
}

/// One account for each way to find one.
const BY_ALL: [(&str, &str); 3] =
    [("user", "akadmin"), ("group", "npm-admins"), ("email", "guest@example.com")];

#[test]
fn without_an_authentik_user_nothing_is_changed() {
    let world = World::new();
    let token = world.npm.issue_token("guest@example.com", Duration::from_secs(60));
    let mut requests = vec![vec![]];
    for authorization in ["", "Basic dXNlcjpwYXNz", "Bearer null", "garbage", &token] {
        requests.push(vec![("Authorization", authorization)]);
        requests.push(vec![("X-A", "1"), ("AUTHORIZATION", authorization), ("X-B", "2")]);
    }
    requests.push(vec![("Range", "bytes=0-1"), ("If-None-Match", "x"), ("Origin", "http://evil")]);
    let host = || testbed::npm_proxy_host(&world.outpost, &world.npm);
    let seen = |builder: Builder| {
        let nginx = builder.start();
        world.npm.forget_requests();
        for headers in &requests {
            for method in ["GET", "POST"] {
                let client = nginx.client();
                let request = client.request(method, "/open/echo?a=b").body("body");
                headers.iter().fold(request, |r, (name, value)| r.header(name, value)).send();
            }
        }
        let seen = world.npm.requests().into_iter();
        seen.map(|r| (r.method, r.path, r.query, format!("{:?}", r.headers), r.body))
            .collect::<Vec<_>>()
    };
    let with = seen(host());
    assert_eq!(with.len(), 2 * requests.len());
    assert_eq!(with, seen(host().without_module()));
    assert_eq!(with, seen(host().directive("npm_token_inject accounts.json on_error=deny;")));
}

#[test]
fn the_account_is_the_first_that_fits_by_user_group_or_email() {
    let (admin, bob, guest, nobody) =
        ("admin@example.com", "bob@example.com", "guest@example.com", "");
    let eve = || Visitor::new("eve");
    let eve_in = |groups: &[&str]| eve().groups(groups);
    let world = World::new();
    let nginx = world.host().accounts(&found_by(&world, BY_ALL)).start();
    let client = nginx.client();
    for (visitor, expected) in [
        (Visitor::new("akadmin"), admin),
        (Visitor::new("akadmin").groups(&["npm-admins"]).email("guest@example.com"), admin),
        (eve_in(&["npm-admins"]), bob),
        (eve_in(&["a", "npm-admins"]), bob),
        (eve_in(&["npm-admins", "b"]), bob),
        (eve_in(&["a", "npm-admins", "b c"]), bob),
        (eve_in(&["npm-admins"]).email("guest@example.com"), bob),
        (eve().email("guest@example.com"), guest),
        (eve().email("GUEST@Example.COM"), guest),
        (Visitor::new("guest"), guest),
        (eve(), nobody),
        (eve_in(&["NPM-admins"]), nobody),
        (eve_in(&["npm-admins2"]), nobody),
        (eve_in(&["2npm-admins"]), nobody),
        (eve_in(&["npm"]), nobody),
        (eve_in(&["npm", "admins"]), nobody),
        (eve_in(&["a", " npm-admins"]), nobody),
        (eve_in(&["a,npm-admins"]), nobody),
        (eve_in(&["akadmin", "guest@example.com"]), nobody),
        (eve_in(&["", ""]), nobody),
        (eve().email(""), nobody),
        (eve().email("guest@example.com.org"), nobody),
        (eve().name("akadmin").entitlements(&["npm-admins"]), nobody),
        (Visitor::new("AKADMIN"), nobody),
        (Visitor::new("Akadmin"), nobody),
        (Visitor::new("akadmin2"), nobody),
        (Visitor::new("kadmin"), nobody),
        (Visitor::new("npm-admins"), nobody),
        (Visitor::new("guest@example.com").email("x@example.com"), nobody),
    ] {
        let told = format!("{visitor:?}");
        let session = world.outpost.sign_in(visitor);
        let reply = client.request("GET", "/echo").cookie(&session).send();
        assert_eq!(identity(&reply), expected, "{told}");
        let carried = match expected {
            "" => "nothing".to_owned(),
            owner => format!("the token of {owner}"),
        };
        assert_eq!(world.carried_to("/echo"), carried, "{told}");
    }
}

#[test]
fn the_order_of_the_accounts_decides() {
    let world = World::new();
    let everybody_last = [("group", "npm-admins"), ("user", "akadmin"), ("user", "*")];
    let everybody_first = [("user", "*"), ("user", "akadmin"), ("group", "npm-admins")];
    for (order, akadmin, both, eve) in [
        (everybody_last, "bob@example.com", "admin@example.com", "guest@example.com"),
        (everybody_first, "admin@example.com", "admin@example.com", "admin@example.com"),
    ] {
        let nginx = world.host().accounts(&found_by(&world, order)).start();
        for (visitor, expected) in [
            (Visitor::new("akadmin"), akadmin),
            (Visitor::new("akadmin").groups(&["npm-admins"]), both),
            (Visitor::new("eve"), eve),
        ] {
            let session = world.outpost.sign_in(visitor);
            let reply = nginx.client().request("GET", "/echo").cookie(&session).send();
            assert_eq!(identity(&reply), expected);
        }
    }
}

/// Authentik has both, and where people enrol themselves anybody may become the second.
#[test]
fn a_user_whose_name_differs_by_case_alone_is_another_user() {
    let world = World::new();
    let nginx = world.host().start();
    let client = nginx.client();
    client.request("GET", "/echo").cookie(&world.sign_in("akadmin")).send();
    assert_eq!(world.carried_to("/echo"), "the token of admin@example.com");
    for name in ["AKADMIN", "Akadmin", "akadmiN"] {
        let reply = client.request("GET", "/echo").cookie(&world.sign_in(name)).send();
        assert_eq!((status(&reply), identity(&reply)), ("no_account", ""), "{name}");
        assert_eq!(world.carried_to("/echo"), "nothing", "{name}");
    }
}

#[test]
fn a_name_that_only_unicode_folds_to_another_is_another_name() {
    let world = World::new();
    let fields = [("user", "kass"), ("user", "akadmin"), ("email", "kiss@example.com")];
    let nginx = world.host().accounts(&found_by(&world, fields)).start();
    for (visitor, expected) in [
        (Visitor::new("kass"), "admin@example.com"),
        (Visitor::new("x").email("KISS@example.com"), "guest@example.com"),
        // The Kelvin sign, the long s, the sharp s.
        (Visitor::new("\u{212a}ass"), ""),
        (Visitor::new("ka\u{17f}s"), ""),
        (Visitor::new("ka\u{df}"), ""),
        (Visitor::new("x").email("\u{212a}iss@example.com"), ""),
        (Visitor::new("x").email("ki\u{17f}s@example.com"), ""),
    ] {
        let told = format!("{visitor:?}");
        let session = world.outpost.sign_in(visitor);
        let reply = nginx.client().request("GET", "/echo").cookie(&session).send();
        assert_eq!(identity(&reply), expected, "{told}");
    }
}

#[test]
fn a_user_may_have_any_name_that_a_header_can_carry() {
    let long = "x".repeat(1024);
    let names = [
        "jürgen",
        "Zoë O'Brien",
        "名前",
        "\"quoted\"",
        "back\\slash",
        "semi;colon, comma=",
        "100%s%n%V",
        "$authentik_email",
        "${uri}",
        "{\"user\": \"akadmin\"}",
        "a|b",
        "a\tb",
        "/../akadmin",
        "<b>",
        &long,
    ];
    let world = World::new();
    let account = |name: &&str| {
        let secret = world.npm.secret("guest@example.com");
        json!({"user": name, "identity": "guest@example.com", "secret": secret})
    };
    let accounts: Value = names.iter().map(account).collect();
    let accounts = json!({"api": world.npm.url(), "accounts": accounts});
    let nginx = world.host().accounts(&accounts.to_string()).start();
    let client = nginx.client();
    for name in names {
        let user = world.sign_in(name);
        client.request("GET", "/echo").cookie(&user).send();
        assert_eq!(world.carried_to("/echo"), "the token of guest@example.com", "{name}");
        let other = world.sign_in(&format!("{name}x"));
        let reply = client.request("GET", "/echo").cookie(&other).send();
        assert_eq!(status(&reply), "no_account", "{name}");
    }
    assert_eq!(world.npm.logins(), 1);
}

#[test]
fn two_users_in_one_connection_have_each_their_own_token() {
    let world = World::new();
    let nginx = world.host().location("/", "add_header X-Connection $connection;").start();
    let client = nginx.client();
    let users = [
        (world.sign_in("akadmin"), "the token of admin@example.com"),
        (world.sign_in("nobody"), "nothing"),
        (world.sign_in("bob"), "the token of bob@example.com"),
    ];
    let mut connections = Vec::new();
    for (session, carried) in users.iter().cycle().take(12) {
        let reply = client.request("GET", "/echo").cookie(session).send();
        connections.extend(reply.header("X-Connection").map(str::to_owned));
        assert_eq!(&world.carried_to("/echo"), carried);
    }
    assert_eq!(connections, vec![connections[0].clone(); 12]);
}

#[test]
fn who_has_signed_out_of_authentik_has_no_token_any_more() {
    let world = World::new();
    let nginx = world.host().start();
    let session = world.sign_in("akadmin");
    let client = nginx.client();
    let echo = || client.request("GET", "/echo").cookie(&session).send().status;
    assert_eq!((echo(), echo()), (200, 200));
    world.outpost.sign_out(&session);
    assert_eq!(echo(), 302);
    assert_eq!(world.npm.requests_to("/echo").len(), 2);
    let open = client.request("GET", "/open/echo").cookie(&session).send();
    assert_eq!((open.status, &*world.carried_to("/open/echo")), (200, "nothing"));
}

#[test]
fn who_has_no_account_sees_npms_login_page_or_a_403() {
    let world = World::new();
    let nobody = world.sign_in("nobody");
    let own = world.npm.issue_expired_token("admin@example.com");

    let nginx = world.host().start();
    let client = nginx.client();
    for _ in 0..3 {
        let reply = client.request("GET", "/echo").cookie(&nobody).bearer(&own).send();
        assert_eq!((reply.status, status(&reply), identity(&reply)), (200, "no_account", ""));
        assert_eq!(world.carried_to("/echo"), "nothing");
    }
    // Once for all of them, and not at each request.
    let lines = nginx.log_lines("no account fits Authentik user \"nobody\"");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("[error]") && lines[0].contains("add one to the accounts file"));

    let directive = "npm_token_inject accounts.json on_error=deny;";
    let nginx = world.host().directive(directive).start();
    world.npm.forget_requests();
    let reply = nginx.client().request("GET", "/echo").cookie(&nobody).bearer(&own).send();
    assert_eq!((reply.status, status(&reply), identity(&reply)), (403, "no_account", ""));
    assert!(world.npm.requests().is_empty());
    assert_eq!(world.npm.logins(), 0);
}

#[test]
fn the_variables_tell_what_became_of_each_request() {
    let world = World::new();
    let log = "log_format token '<$npm_token_status $npm_token_identity>';";
    let nginx = world
        .host()
        .http(log)
        .location("/", "proxy_set_header X-Copy $npm_token_authorization;")
        .location("/", "access_log token.log token;")
        .location("= /off", &format!("{SHOWN}\nproxy_pass {};", world.npm.url()))
        .start();
    let client = nginx.client();
    let (akadmin, bob) = (world.sign_in("akadmin"), world.sign_in("bob"));
    let nobody = world.sign_in("nobody");
    let own = world.npm.issue_token("guest@example.com", Duration::from_secs(60));
    let get = |path| client.request("GET", path);

    let mut lines = String::new();
    let mut tell = |reply: testbed::Reply, expected: (&str, &str), carried: &str| {
        assert_eq!((status(&reply), identity(&reply)), expected);
        lines.push_str(&format!("<{} {}>\n", expected.0, expected.1));
        if carried.is_empty() {
            return;
        }
        let request = world.npm.requests().pop().expect("a request");
        assert_eq!(world.authorization_of(&request), carried);
        // $npm_token_authorization is what was sent, and nothing where nothing was.
        let copies = request.headers.all("X-Copy");
        assert_eq!(copies, if carried == "nothing" { vec![] } else { request.authorization() });
    };
    let token = "the token of admin@example.com";
    tell(get("/echo").cookie(&akadmin).send(), ("miss", "admin@example.com"), token);
    tell(get("/echo").cookie(&akadmin).send(), ("hit", "admin@example.com"), token);
    let kept = get("/echo").cookie(&akadmin).bearer(&own).send();
    tell(kept, ("kept", ""), "the token of guest@example.com");
    tell(get("/open/echo").send(), ("none", ""), "nothing");
    tell(get("/echo").cookie(&nobody).send(), ("no_account", ""), "nothing");
    world.npm.fault(Fault::Status(500));
    tell(get("/echo").cookie(&bob).send(), ("error", "bob@example.com"), "nothing");
    let off = get("/off").send();
    assert_eq!((status(&off), identity(&off)), ("", ""));

    let token_log = || std::fs::read_to_string(nginx.dir().join("token.log")).unwrap_or_default();
    testbed::eventually(Duration::from_secs(5), "all lines", || token_log() == lines);
}

#[test]
fn the_variables_are_there_in_refusals_too() {
    let world = World::new();
    let directive = "npm_token_inject accounts.json on_error=deny;";
    let nginx = world.host().directive(directive).start();
    let client = nginx.client();
    let get = |user: &str| client.request("GET", "/echo").cookie(&world.sign_in(user)).send();
    let refused = get("nobody");
    assert_eq!((refused.status, status(&refused), identity(&refused)), (403, "no_account", ""));
    world.npm.fault(Fault::Status(500));
    let failed = get("bob");
    assert_eq!((failed.status, status(&failed)), (502, "error"));
    assert_eq!(identity(&failed), "bob@example.com");
}

#[test]
fn the_user_may_come_from_a_header_that_the_configuration_trusts() {
    let world = World::new();
    let directive = "npm_token_inject accounts.json user=$http_x_user email=$http_x_email \
                     groups=$http_x_groups trust_headers=on;";
    let npm = world.npm.url();
    let nginx = testbed::Nginx::builder()
        .accounts(&found_by(&world, BY_ALL))
        .location("/", &format!("{SHOWN}\n{directive}\nproxy_pass {npm};"))
        .start();
    let client = nginx.client();
    for (headers, expected, what) in [
        (vec![], "", "none"),
        (vec![("X-User", "")], "", "none"),
        (vec![("X-Groups", "npm-admins")], "", "none"),
        (vec![("X-User", "akadmin")], "admin@example.com", "miss"),
        (vec![("X-User", "eve"), ("X-Groups", "a|npm-admins")], "bob@example.com", "miss"),
        (vec![("X-User", "eve"), ("X-Email", "guest@example.com")], "guest@example.com", "miss"),
        (vec![("X-User", "eve")], "", "no_account"),
    ] {
        let request = client.request("GET", "/echo");
        let request = headers.iter().fold(request, |r, (name, value)| r.header(name, value));
        let reply = request.send();
        assert_eq!((identity(&reply), status(&reply)), (expected, what), "{headers:?}");
    }
}

#[test]
fn the_parameters_take_text_with_variables_and_maps() {
    let world = World::new();
    let nginx = world
        .host()
        .accounts(&found_by(&world, [("user", "npm-akadmin-1"), ("email", "m"), ("group", "g")]))
        .http("map $authentik_username $mail { default ''; bob m; }")
        .http("map $authentik_username $teams { default ''; guest 'a|g'; }")
        .directive(
            "npm_token_inject accounts.json user=npm-${authentik_username}-1 email=$mail \
             groups=$teams name=$authentik_name;",
        )
        .start();
    let client = nginx.client();
    for (user, expected) in [
        ("akadmin", "admin@example.com"),
        ("bob", "bob@example.com"),
        ("guest", "guest@example.com"),
        ("eve", ""),
    ] {
        let reply = client.request("GET", "/echo").cookie(&world.sign_in(user)).send();
        assert_eq!(identity(&reply), expected, "{user}");
    }
}

#[test]
fn an_account_by_email_or_group_fits_nobody_where_the_configuration_asks_for_neither() {
    let world = World::new();
    let fields = [("email", "eve@example.com"), ("group", "npm-admins"), ("user", "guest")];
    let npm = world.npm.url();
    let asked = "auth_request /auth;\n\
                 auth_request_set $authentik_username $upstream_http_x_authentik_username;";
    let location = format!("{asked}\n{SHOWN}\nnpm_token_inject accounts.json;\nproxy_pass {npm};");
    let nginx = world.nginx().accounts(&found_by(&world, fields)).location("/", &location).start();
    let get = |visitor: Visitor| {
        let session = world.outpost.sign_in(visitor);
        nginx.client().request("GET", "/echo").cookie(&session).send()
    };
    assert_eq!(status(&get(Visitor::new("eve").groups(&["npm-admins"]))), "no_account");
    assert_eq!(identity(&get(Visitor::new("guest"))), "guest@example.com");
}

#[test]
fn credentials_from_authentik_sign_in_whom_they_name() {
    let world = World::new();
    let directive = "npm_token_inject accounts.json credentials=$authentik_authorization;";
    let nginx = host_with_credentials(&world, directive).start();
    let client = nginx.client();
    let get = |visitor: Visitor| {
        let session = world.outpost.sign_in(visitor);
        client.request("GET", "/echo").cookie(&session).send()
    };
    // They go before the accounts file.
    let bob = |user: &str| Visitor::new(user).basic("bob@example.com", "bob-secret");
    for user in ["akadmin", "eve", "bob"] {
        assert_eq!(identity(&get(bob(user))), "bob@example.com");
        assert_eq!(world.carried_to("/echo"), "the token of bob@example.com");
    }
    assert_eq!(world.npm.logins(), 1);

    // Who has none is looked up in the accounts file.
    assert_eq!(identity(&get(Visitor::new("akadmin"))), "admin@example.com");
    assert_eq!(status(&get(Visitor::new("eve"))), "no_account");

    // What the client sends is none of them.
    let request = client.request("GET", "/echo").cookie(&world.sign_in("eve"));
    let basic = "Basic Ym9iQGV4YW1wbGUuY29tOmJvYi1zZWNyZXQ=";
    assert_eq!(status(&request.header("Authorization", basic).send()), "no_account");

    // A changed secret is another account, and may be any text.
    for secret in ["changed", "with:colon", "schlüssel \"\\"] {
        world.npm.set_secret("bob@example.com", secret);
        let reply = get(Visitor::new("eve").basic("bob@example.com", secret));
        assert_eq!((status(&reply), identity(&reply)), ("miss", "bob@example.com"), "{secret}");
    }
    let refused = get(Visitor::new("eve").basic("bob@example.com", "wrong"));
    assert_eq!((status(&refused), &*world.carried_to("/echo")), ("error", "nothing"));
}

#[test]
fn credentials_from_authentik_need_no_accounts_file() {
    if Path::new("/data/npm_token_inject.json").exists() {
        return;
    }
    let world = World::new();
    let api = world.npm.url();
    let directive = format!("npm_token_inject on credentials=$authentik_authorization api={api};");
    let nginx = host_with_credentials(&world, &directive).start();
    let client = nginx.client();
    let visitor = Visitor::new("eve").basic("bob@example.com", "bob-secret");
    let session = world.outpost.sign_in(visitor);
    client.request("GET", "/echo").cookie(&session).send();
    assert_eq!(world.carried_to("/echo"), "the token of bob@example.com");
    let reply = client.request("GET", "/echo").cookie(&world.sign_in("akadmin")).send();
    assert_eq!(status(&reply), "no_account");
}

#[test]
fn credentials_that_are_none_are_logged_once_and_the_accounts_file_is_asked() {
    for wrong in [
        "Basic",
        "Basic !!!!",
        // "bob@example.com" without a secret, ":secret" without a name, no UTF-8.
        "Basic Ym9iQGV4YW1wbGUuY29t",
        "Basic Ym9iQGV4YW1wbGUuY29tOg==",
        "Basic OnNlY3JldA==",
        "Basic /zo=",
        "Bearer Ym9iQGV4YW1wbGUuY29tOmJvYi1zZWNyZXQ=",
    ] {
        let world = World::new();
        let directive = "npm_token_inject accounts.json credentials=$authentik_authorization;";
        let nginx = host_with_credentials(&world, directive).start();
        let client = nginx.client();
        for (user, expected) in [("akadmin", "admin@example.com"), ("bob", "bob@example.com")] {
            let visitor = Visitor::new(user).header("Authorization", wrong);
            let session = world.outpost.sign_in(visitor);
            let reply = client.request("GET", "/echo").cookie(&session).send();
            assert_eq!(identity(&reply), expected, "{wrong}");
        }
        let lines = nginx.log_lines("npm_token_inject: credentials=");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("[error]") && lines[0].contains("\"akadmin\""), "{lines:?}");
        assert!(lines[0].contains("HTTP-Basic"), "{lines:?}");
        let encoded = wrong.split(' ').nth(1).unwrap_or(wrong);
        assert!(encoded.len() < 6 || !lines[0].contains(encoded), "{lines:?}");
    }
}
