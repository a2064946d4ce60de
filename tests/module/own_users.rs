//! `sign_in_as`: every Authentik user is their own NPM user.

use std::thread;
use std::time::Duration;

use serde_json::{json, Value};
use testbed::nginx::Builder;
use testbed::npm::TOTP_SECRET;
use testbed::{eventually, Client, Nginx, Npm, Reply};

use crate::site::*;
use crate::status::account;

/// The service account, a standard user, and one with two-factor authentication.
const SSO: &str = "sso@example.com";
const GUEST: &str = "guest@example.com";
const TOTP: &str = "totp@example.com";

fn npm() -> Npm {
    Npm::builder()
        .login_time(Duration::ZERO)
        .administrator(ADMIN, "admin-secret")
        .administrator(SSO, "sso-secret")
        .administrator(BOB, "bob-secret")
        .user(GUEST, "guest-secret")
        .start()
}

/// What the accounts file says of `sign_in_as`, with these keys more.
fn sign_in_as(npm: &Npm, more: &Value) -> Value {
    let mut written = json!({"identity": SSO, "secret": npm.secret(SSO)});
    let more = more.as_object().expect("keys").clone();
    written.as_object_mut().expect("keys").extend(more);
    // On a machine that has much to do, a hundred at once take their time.
    json!({"api": npm.url(), "timeout": "30s", "sign_in_as": written})
}

fn groups() -> Value {
    json!({"create": true, "groups": {"npm-admins": "admin", "npm-users": "user"}})
}

/// NPM, for whom the headers `X-User`, `X-Email`, `X-Groups` and `X-Name` say; at `/deny/` with
/// `on_error=deny`.
fn people_site(npm: &Npm, accounts: &Value) -> Builder {
    let who = "user=$http_x_user email=$http_x_email groups=$http_x_groups name=$http_x_name";
    let directive = format!("npm_token_inject accounts.json {who} trust_headers=on");
    let url = npm.url();
    Nginx::builder()
        .accounts(&accounts.to_string())
        .http("add_header X-Status $npm_token_status always;")
        .http("add_header X-Identity $npm_token_identity always;")
        .location("/", &format!("{directive}; proxy_pass {url};"))
        .location("/deny/", &format!("{directive} on_error=deny; proxy_pass {url}/;"))
        .location("= /requests", "stub_status;")
        .location("= /status", "npm_token_inject_status;")
}

/// Somebody whom Authentik knows.
#[derive(Clone, Copy)]
struct Who<'a> {
    user: &'a str,
    email: &'a str,
    groups: &'a str,
    name: &'a str,
}

const fn who<'a>(user: &'a str, email: &'a str, groups: &'a str) -> Who<'a> {
    Who { user, email, groups, name: "" }
}

fn get(client: &Client, path: &str, who: Who) -> Reply {
    client
        .request("GET", path)
        .header("X-User", who.user)
        .header("X-Email", who.email)
        .header("X-Groups", who.groups)
        .header("X-Name", who.name)
        .send()
}

/// Whom NPM takes them for.
#[track_caller]
fn seen_as(client: &Client, who: Who) -> String {
    let reply = get(client, ME, who);
    let seen = email(&reply);
    let identity = reply.header("X-Identity").unwrap_or_default();
    assert!(identity.eq_ignore_ascii_case(&seen), "{identity} {seen}");
    seen
}

/// They get no token, and where that is denied, they are, without NPM being asked by them.
#[track_caller]
fn is_nobody(client: &Client, who: Who) {
    let reply = get(client, "/echo", who);
    assert_eq!((status(&reply), echoed_authorization(&reply)), ("no_account", vec![]));
    assert_eq!(get(client, "/deny/echo", who).status, 403);
}

fn is_administrator(npm: &Npm, identity: &str) -> bool {
    npm.shown(identity)["roles"] == json!(["admin"])
}

/// A call of an administrator's at NPM itself.
fn as_admin(npm: &Npm, method: &str, path: &str, body: &Value) -> Reply {
    let token = npm.issue_token(ADMIN, Duration::from_secs(60));
    Client::new(&npm.url()).request(method, path).bearer(&token).json(body).send()
}

fn id(npm: &Npm, identity: &str) -> u64 {
    npm.shown(identity)["id"].as_u64().expect("a number")
}

fn with_address<'a>(users: &'a [Value], address: &'a str) -> impl Iterator<Item = &'a Value> {
    users.iter().filter(move |user| {
        user["email"].as_str().is_some_and(|email| email.eq_ignore_ascii_case(address))
    })
}

#[test]
fn each_is_the_npm_user_with_the_same_address_by_one_login_of_the_service_account() {
    let npm = npm();
    let nginx = people_site(&npm, &sign_in_as(&npm, &json!({}))).start();
    let client = nginx.client();
    for (address, expected) in [(BOB, BOB), (GUEST, GUEST), ("Guest@Example.COM", GUEST)] {
        assert_eq!(seen_as(&client, who("x", address, "")), expected);
        assert_eq!(status(&get(&client, ME, who("x", address, ""))), "hit");
    }
    assert_eq!(npm.logins(), 1);
    // They are what they were.
    assert!(is_administrator(&npm, BOB) && !is_administrator(&npm, GUEST));
}

#[test]
fn somebody_whom_npm_does_not_know_is_nobody_where_nobody_is_made() {
    let npm = npm();
    let nginx = people_site(&npm, &sign_in_as(&npm, &json!({}))).start();
    let count = npm.users().len();
    is_nobody(&nginx.client(), who("eve", "eve@example.com", ""));
    assert_eq!(npm.users().len(), count);
    let lines = nginx.log_lines(FAILED);
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    for part in
        ["eve@example.com", "has no user with this e-mail address", "set \"create\"", "10 s"]
    {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
}

#[test]
fn a_missing_user_is_made_with_what_authentik_says() {
    let npm = npm();
    let nginx = people_site(&npm, &sign_in_as(&npm, &groups())).start();
    let client = nginx.client();
    let long = "x".repeat(200);
    for (user, address, group, name, expected) in [
        ("alice", "Alice@Example.com", "npm-users", "Alice A.", ("Alice A.", "alice", "user")),
        ("carol", "carol@example.com", "a|npm-users|npm-admins", "", ("carol", "carol", "all")),
        (&long, "long@example.com", "npm-users", &long, (&long[..50], &long[..30], "user")),
    ] {
        let who = Who { user, email: address, groups: group, name };
        let address = address.to_lowercase();
        assert_eq!(seen_as(&client, who), address);
        let made = npm.shown(&address);
        let permissions = &made["permissions"];
        let shown = (&made["name"], &made["nickname"], &permissions["visibility"]);
        assert_eq!(shown, (&expected.0.into(), &expected.1.into(), &expected.2.into()));
        assert_eq!(is_administrator(&npm, &address), expected.2 == "all");
        assert_eq!(nginx.log_lines(&format!("made \"{address}\"")).len(), 1);
        assert!(!nginx.log_lines("[notice]").is_empty());
    }
    // Nobody has a password.
    for request in npm.requests_to("/api/users") {
        assert!(!String::from_utf8_lossy(&request.body).contains("auth"));
    }
    assert_eq!(npm.logins(), 1);
}

/// NPM looks for a part of an address or a name, with `%` and `_` for anything.
#[test]
fn nobody_is_taken_for_another_whose_address_or_name_is_alike() {
    let npm = npm();
    for address in ["axb@example.com", "a_b@example.com", "xa_b@example.com", "a_b@example.comx"] {
        let user = json!({"name": "a%b@example.com", "nickname": "n", "email": address, "roles": [], "is_disabled": false});
        assert_eq!(as_admin(&npm, "POST", "/api/users", &user).status, 201);
    }
    let nginx = people_site(&npm, &sign_in_as(&npm, &json!({}))).start();
    let client = nginx.client();
    assert_eq!(seen_as(&client, who("x", "a_b@example.com", "")), "a_b@example.com");
    is_nobody(&client, who("x", "a%b@example.com", ""));
    is_nobody(&client, who("x", "%@example.com", ""));
}

#[test]
fn an_address_that_is_none_or_several_is_nobodys() {
    let npm = npm();
    let create = sign_in_as(&npm, &json!({"create": true}));
    let nginx = people_site(&npm, &create).start();
    let client = nginx.client();
    let count = npm.users().len();
    for address in [
        "",
        "bob",
        "@example.com",
        "bob@",
        "bob@example.com, guest@example.com",
        "bob@example.com;guest@example.com",
        "bob@example.com@example.com",
        "<bob@example.com>",
        "bob @example.com",
        "bob@exämple.com",
        "\"bob\"@example.com",
    ] {
        is_nobody(&client, who("x", address, ""));
    }
    assert_eq!((npm.users().len(), npm.logins()), (count, 0));
    assert_eq!(nginx.log_lines("Authentik says no e-mail address of its user \"x\"").len(), 1);
}

#[test]
fn who_is_in_none_of_the_groups_is_shut_out_at_once_and_their_npm_user_stays() {
    let npm = npm();
    let nginx = people_site(&npm, &sign_in_as(&npm, &groups())).start();
    let client = nginx.client();
    assert_eq!(seen_as(&client, who("bob", BOB, "npm-admins")), BOB);
    npm.forget_requests();
    for groups in ["", "npm-admins-of-old", "NPM-ADMINS", "npm admins"] {
        is_nobody(&client, who("bob", BOB, groups));
    }
    let asked: Vec<_> = npm.requests().into_iter().filter(|r| r.path != "/echo").collect();
    assert!(asked.is_empty(), "{asked:?}");
    assert!(is_administrator(&npm, BOB));
    assert_eq!(nginx.log_lines("Authentik user \"bob\" is in none of the groups").len(), 1);
    // And back.
    assert_eq!(status(&get(&client, ME, who("bob", BOB, "npm-admins"))), "hit");
}

#[test]
fn a_lost_role_is_taken_away_before_the_next_request_whichever_worker_has_it() {
    let npm = npm();
    let nginx = busy(people_site(&npm, &sign_in_as(&npm, &groups())).workers(4)).start();
    for _ in 0..8 {
        assert_eq!(seen_as(&nginx.client(), who("bob", BOB, "npm-admins")), BOB);
    }
    assert!(is_administrator(&npm, BOB));
    let first = get(&nginx.client(), ME, who("bob", BOB, "npm-users"));
    assert_eq!((status(&first), first.json()["roles"].clone()), ("miss", json!([])));
    assert!(!is_administrator(&npm, BOB));
    assert_eq!(npm.shown(BOB)["permissions"]["visibility"], "user");
    for _ in 0..8 {
        let next = get(&nginx.client(), ME, who("bob", BOB, "npm-users"));
        assert_eq!((status(&next), next.json()["roles"].clone()), ("hit", json!([])));
    }
    assert_eq!(nginx.log_lines("is no administrator any more").len(), 1);
}

/// NPM cannot change the permissions of a user whose row has another number.
#[test]
fn permissions_that_npm_cannot_change_keep_nobody_out() {
    let npm = npm();
    npm.swap_permissions(BOB, GUEST);
    let nginx = people_site(&npm, &sign_in_as(&npm, &groups())).start();
    assert_eq!(seen_as(&nginx.client(), who("bob", BOB, "npm-users")), BOB);
    assert!(!is_administrator(&npm, BOB));
    assert_eq!(nginx.log_lines("has not changed what \"bob@example.com\" sees").len(), 1);
}

/// A standard user takes the address of somebody who is to become an administrator.
#[test]
fn an_address_that_its_user_has_claimed_gives_no_role() {
    let npm = npm();
    let nginx = people_site(&npm, &sign_in_as(&npm, &groups())).start();
    let client = nginx.client();
    let guest = who("guest", GUEST, "npm-users");
    assert_eq!(seen_as(&client, guest), GUEST);
    let claim = json!({"email": "chief@example.com"});
    let claimed = client
        .request("PUT", ME)
        .header("X-User", "guest")
        .header("X-Email", GUEST)
        .header("X-Groups", "npm-users")
        .json(&claim)
        .send();
    assert_eq!(claimed.status, 200);

    // The chief comes for the first time.
    let chief = who("chief", "chief@example.com", "npm-admins");
    assert_eq!(seen_as(&client, chief), "chief@example.com");
    assert!(!is_administrator(&npm, "chief@example.com"));
    let lines = nginx.log_lines("make \"chief@example.com\" an administrator");
    let [line] = &lines[..] else { panic!("{lines:#?}") };
    for part in ["[warn]", "an administrator of NPM's may change that", "\"raise\""] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
}

#[test]
fn a_role_is_raised_later_only_where_that_is_asked_for() {
    let npm = npm();
    let mut with_raise = groups();
    with_raise["raise"] = true.into();
    for (accounts, raised) in [(groups(), false), (with_raise, true)] {
        let nginx = people_site(&npm, &sign_in_as(&npm, &accounts)).start();
        let reply = get(&nginx.client(), ME, who("guest", GUEST, "npm-admins"));
        assert_eq!(reply.json()["roles"] == json!(["admin"]), raised);
        assert_eq!(is_administrator(&npm, GUEST), raised);
        let visibility = if raised { "all" } else { "user" };
        assert_eq!(npm.shown(GUEST)["permissions"]["visibility"], visibility);
        assert_eq!(nginx.log_lines("is an administrator now").len(), usize::from(raised));
    }
}

#[test]
fn nobody_is_signed_in_as_the_service_account_nor_demotes_it() {
    let npm = npm();
    let nginx = people_site(&npm, &sign_in_as(&npm, &groups())).start();
    let client = nginx.client();
    for address in [SSO, "SSO@example.com"] {
        is_nobody(&client, who("sso", address, "npm-users"));
        is_nobody(&client, who("sso", address, "npm-admins"));
    }
    assert!(is_administrator(&npm, SSO));
    assert!(!nginx.log_lines("give the account of \"sign_in_as\" an address").is_empty());
    assert_eq!(npm.users().len(), 4);
}

#[test]
fn a_disabled_user_is_nobody_and_is_back_when_enabled() {
    let npm = npm();
    let nginx = people_site(&npm, &sign_in_as(&npm, &json!({"create": true}))).start();
    let client = nginx.client();
    let path = format!("/api/users/{}", id(&npm, GUEST));
    let guest = who("guest", GUEST, "");
    npm.disable(GUEST);
    is_nobody(&client, guest);
    assert_eq!(nginx.log_lines("has disabled this user").len(), 1);
    assert_eq!(as_admin(&npm, "PUT", &path, &json!({"is_disabled": false})).status, 200);
    eventually(Duration::from_secs(20), "the guest to be back", || {
        status(&get(&client, ME, guest)) != "no_account"
    });
    assert_eq!(seen_as(&client, guest), GUEST);
    assert_eq!(with_address(&npm.users(), GUEST).count(), 1);
}

#[test]
fn a_user_who_is_deleted_is_made_anew_or_is_nobody() {
    for create in [true, false] {
        let npm = npm();
        let nginx = people_site(&npm, &sign_in_as(&npm, &json!({"create": create}))).start();
        let client = nginx.client();
        let guest = who("guest", GUEST, "");
        let old = id(&npm, GUEST);
        assert_eq!(seen_as(&client, guest), GUEST);
        npm.delete(GUEST);
        // NPM's own error is passed on, and asked about.
        assert_eq!(get(&client, ME, guest).status, 404);
        match create {
            true => {
                eventually(SOON, "another user", || get(&client, ME, guest).status == 200);
                assert_ne!(id(&npm, GUEST), old);
            }
            false => {
                eventually(SOON, "nobody", || status(&get(&client, ME, guest)) == "no_account");
                is_nobody(&client, guest);
            }
        }
    }
}

#[test]
fn several_users_of_one_address_are_nobody_until_one_is_left() {
    let npm = npm();
    let double = json!({"name": "n", "nickname": "n", "email": "Guest@example.com", "roles": [], "is_disabled": false});
    let made = as_admin(&npm, "POST", "/api/users", &double);
    assert_eq!(made.status, 201);
    let nginx = people_site(&npm, &sign_in_as(&npm, &json!({"create": true}))).start();
    is_nobody(&nginx.client(), who("guest", GUEST, ""));
    assert_eq!(nginx.log_lines("has several users with this e-mail address").len(), 1);
    assert_eq!(with_address(&npm.users(), GUEST).count(), 2);
}

#[test]
fn a_hundred_first_requests_at_two_nginx_make_one_user() {
    const EACH: usize = 50;
    let npm = npm();
    let accounts = sign_in_as(&npm, &json!({"create": true}));
    let site = || busy(people_site(&npm, &accounts).workers(4)).start();
    let both = [site(), site()];
    let new = who("new", "new@example.com", "");
    thread::scope(|scope| {
        for nginx in &both {
            for _ in 0..EACH {
                scope.spawn(|| assert_eq!(seen_as(&nginx.client(), new), "new@example.com"));
            }
        }
    });
    let users = npm.users();
    assert_eq!(with_address(&users, "new@example.com").count(), 1, "{users:#?}");
    assert_eq!(npm.logins(), 2, "one of each nginx");
}

#[test]
fn the_accounts_of_the_file_go_first() {
    let npm = npm();
    let mut accounts = sign_in_as(&npm, &json!({}));
    accounts["accounts"] = json!([{"user": "bob", "identity": ADMIN, "secret": npm.secret(ADMIN)}]);
    let nginx = people_site(&npm, &accounts).start();
    let client = nginx.client();
    assert_eq!(seen_as(&client, who("bob", BOB, "")), ADMIN);
    assert_eq!(seen_as(&client, who("other", BOB, "")), BOB);
}

/// The same NPM user, by their password and by the service account, are two accounts.
#[test]
fn a_token_by_password_and_one_by_the_service_account_are_kept_apart() {
    let npm = npm();
    let mut accounts = sign_in_as(&npm, &groups());
    accounts["accounts"] =
        json!([{"user": "by-password", "identity": BOB, "secret": npm.secret(BOB)}]);
    let nginx = people_site(&npm, &accounts).start();
    let client = nginx.client();
    assert_eq!(seen_as(&client, who("by-password", "", "")), BOB);
    assert_eq!(status(&get(&client, ME, who("bob", BOB, "npm-admins"))), "miss");
    is_nobody(&client, who("bob", BOB, ""));
    assert_eq!(status(&get(&client, ME, who("by-password", "", ""))), "hit");
}

#[test]
fn tokens_survive_a_reload() {
    let npm = npm();
    let nginx = people_site(&npm, &sign_in_as(&npm, &groups())).start();
    let bob = who("bob", BOB, "npm-admins");
    assert_eq!(seen_as(&nginx.client(), bob), BOB);
    nginx.reload();
    npm.forget_requests();
    assert_eq!(status(&get(&nginx.client(), ME, bob)), "hit");
    assert_eq!(npm.requests().len(), 1);
}

#[test]
fn a_service_token_that_npm_no_longer_takes_is_replaced_once() {
    let npm = npm();
    let nginx = people_site(&npm, &sign_in_as(&npm, &json!({}))).start();
    let client = nginx.client();
    assert_eq!(seen_as(&client, who("bob", BOB, "")), BOB);
    npm.replace_keys();
    assert_eq!(seen_as(&client, who("guest", GUEST, "")), GUEST);
    assert_eq!(npm.logins(), 2);
    assert!(nginx.log_lines(FAILED).is_empty(), "{:?}", nginx.log_lines(FAILED));
}

#[test]
fn a_service_account_that_cannot_log_in_is_an_error_with_its_own_mend() {
    let npm = npm();
    let mut accounts = sign_in_as(&npm, &json!({}));
    accounts["sign_in_as"]["secret"] = "wrong".into();
    let nginx = people_site(&npm, &accounts).start();
    let client = nginx.client();
    let bob = who("bob", BOB, "");
    assert_eq!(status(&get(&client, "/echo", bob)), "error");
    assert_eq!(get(&client, "/deny/echo", bob).status, 502);
    let lines = nginx.log_lines("login of \"sso@example.com\" failed");
    assert!(lines.len() == 1 && lines[0].contains("refused identity and secret"), "{lines:?}");
    assert!(!nginx.log_lines("the account of \"sign_in_as\" cannot log in").is_empty());
    assert_eq!(npm.logins(), 1);
}

#[test]
fn a_service_account_that_is_no_administrator_is_told_as_such() {
    let npm = npm();
    let accounts =
        json!({"api": npm.url(), "sign_in_as": {"identity": GUEST, "secret": npm.secret(GUEST)}});
    let nginx = people_site(&npm, &accounts).start();
    assert_eq!(status(&get(&nginx.client(), "/echo", who("bob", BOB, ""))), "error");
    let lines = nginx.log_lines("login of \"bob@example.com\" failed");
    assert!(
        lines.len() == 1 && lines[0].contains("make that account an administrator"),
        "{lines:?}"
    );
}

#[test]
fn the_service_account_may_have_two_factor_authentication() {
    let npm = Npm::builder()
        .login_time(Duration::ZERO)
        .two_factor(TOTP, "totp-secret", TOTP_SECRET)
        .user(GUEST, "guest-secret")
        .start();
    let accounts = json!({"api": npm.url(), "sign_in_as": {
        "identity": TOTP, "secret": "totp-secret", "totp_secret": TOTP_SECRET,
    }});
    let nginx = people_site(&npm, &accounts).start();
    assert_eq!(seen_as(&nginx.client(), who("guest", GUEST, "")), GUEST);
    // And another where a step began before NPM looked at the first.
    assert!((1..=2).contains(&npm.codes()));
}

#[test]
fn the_status_page_says_whose_npm_user_is_whose_and_nothing_is_a_secret() {
    let npm = npm();
    let nginx = people_site(&npm, &sign_in_as(&npm, &json!({}))).start();
    let client = nginx.client();
    let token = get(&client, "/echo", who("bobby", BOB, ""));
    let token = echoed_authorization(&token).remove(0);
    let status = client.get("/status");
    let of = |identity: &str| account(&status.json(), identity);
    assert_eq!((&of(BOB)["user"], &of(BOB)["state"]), (&"bobby".into(), &"signed_in".into()));
    assert_eq!((&of(SSO)["user"], &of(SSO)["state"]), (&Value::Null, &"signed_in".into()));
    let html = client.request("GET", "/status").header("Accept", "text/html").send().text();
    assert!(html.contains("bobby, http"), "{html}");
    for secret in [&npm.secret(SSO), token.trim_start_matches("Bearer ")] {
        assert!(!status.text().contains(secret) && !html.contains(secret));
    }
    // What nginx itself says at debug level holds the headers that it sends.
    let log = nginx.log_lines("npm_token_inject:");
    assert!(!log.iter().any(|line| line.contains(&npm.secret(SSO)) || line.contains("eyJ")));
}

#[test]
fn who_cannot_be_signed_in_is_on_the_status_page() {
    let npm = npm();
    let nginx = people_site(&npm, &sign_in_as(&npm, &json!({"secret": "wrong"}))).start();
    let client = nginx.client();
    assert_eq!(status(&get(&client, "/echo", who("bobby", BOB, ""))), "error");
    for (identity, user) in [(SSO, Value::Null), (BOB, "bobby".into())] {
        let account = account(&client.get("/status").json(), identity);
        assert_eq!((&account["user"], &account["state"]), (&user, &"failing".into()));
    }
}

#[test]
fn what_authentik_must_say_is_looked_at_by_the_configuration_test() {
    let npm = npm();
    let user = "auth_request_set $authentik_username $upstream_http_x_authentik_username;";
    let email = "auth_request_set $authentik_email $upstream_http_x_authentik_email;";
    let list = "auth_request_set $authentik_groups $upstream_http_x_authentik_groups;";
    let test = |lines: &str, more: &Value| {
        Nginx::builder()
            .location("= /auth", "internal; return 200;")
            .location("/", &format!("auth_request /auth; {lines} npm_token_inject accounts.json;"))
            .accounts(&sign_in_as(&npm, more).to_string())
            .test()
    };
    let all = format!("{user}{email}{list}");
    assert!(test(&all, &groups()).ok && test(&format!("{user}{email}"), &json!({})).ok);
    for (lines, more, variable) in [
        (user.to_owned(), json!({}), "authentik_email"),
        (format!("{user}{list}"), groups(), "authentik_email"),
        (format!("{user}{email}"), groups(), "authentik_groups"),
    ] {
        let said = test(&lines, &more);
        let line = format!("add the line \"auth_request_set ${variable} $upstream_http_x_");
        assert!(!said.ok && said.output.contains(&line), "{said:?}");
    }
    let named = test(&format!("{user}{email}{list}"), &json!({"groups": {"a|b": "admin"}}));
    assert!(!named.ok && named.output.contains("separates groups"), "{named:?}");
}

/// By names, where addresses are not to be trusted.
#[test]
fn an_address_may_be_built_from_the_name() {
    let npm = npm();
    let accounts = sign_in_as(&npm, &json!({"create": true}));
    let directive = "npm_token_inject accounts.json user=$http_x_user \
                     email=$http_x_user@sso.example trust_headers=on;";
    let nginx = people_site(&npm, &accounts)
        .location("/names/", &format!("{directive} proxy_pass {}/;", npm.url()))
        .start();
    let reply = get(&nginx.client(), &format!("/names{ME}"), who("dora", BOB, ""));
    assert_eq!(email(&reply), "dora@sso.example");
    let odd = get(&nginx.client(), "/names/echo", who("two words", BOB, ""));
    assert_eq!(status(&odd), "no_account");
}

/// By its id: nothing keeps an administrator from giving it another address while its token lives.
#[test]
fn the_service_account_is_known_whatever_its_address_is_and_so_the_last_administrator_stays() {
    let npm = Npm::builder()
        .login_time(Duration::ZERO)
        .administrator(SSO, "sso-secret")
        .user(GUEST, "guest-secret")
        .start();
    let nginx = people_site(&npm, &sign_in_as(&npm, &groups())).start();
    let client = nginx.client();
    assert_eq!(seen_as(&client, who("guest", GUEST, "npm-users")), GUEST);
    let token = npm.issue_token(SSO, Duration::from_secs(60));
    let change = json!({"email": "chief@example.com"});
    let changed = Client::new(&npm.url()).request("PUT", ME).bearer(&token).json(&change).send();
    assert_eq!(changed.status, 200);
    for groups in ["npm-users", "npm-admins"] {
        is_nobody(&client, who("chief", "chief@example.com", groups));
    }
    assert!(is_administrator(&npm, "chief@example.com"));
    assert_eq!(npm.shown("chief@example.com")["is_disabled"], false);
    assert!(!nginx.log_lines("give the account of \"sign_in_as\" an address").is_empty());
}

/// NPM, with something between that answers a path in its place, until told otherwise.
fn failing_at(npm: &Npm, path: &str) -> Nginx {
    let pass = format!("proxy_pass {};", npm.url());
    Nginx::builder()
        .without_module()
        .file("answer.conf", "return 503;")
        .location("/", &pass)
        .location(&format!("~ {path}"), &format!("include answer.conf; {pass}"))
        .start()
}

fn mend(front: &Nginx) {
    front.write_file("answer.conf", "");
    front.reload();
}

/// A standard user who sees everything would be as good as an administrator who may change nothing.
#[test]
fn a_role_is_taken_with_what_its_user_sees_or_at_the_next_try() {
    let npm = npm();
    let front = failing_at(&npm, "/permissions$");
    let mut accounts = sign_in_as(&npm, &groups());
    accounts["api"] = front.url().into();
    let nginx = people_site(&npm, &accounts).start();
    let bob = who("bob", BOB, "npm-users");
    assert_eq!(status(&get(&nginx.client(), "/echo", bob)), "error");
    mend(&front);
    eventually(SOON, "bob to be signed in", || {
        status(&get(&nginx.client(), "/echo", bob)) != "error"
    });
    assert!(!is_administrator(&npm, BOB));
    assert_eq!(npm.shown(BOB)["permissions"]["visibility"], "user");
}

#[test]
fn what_was_done_at_npm_is_told_where_the_sign_in_fails_after_it() {
    let npm = npm();
    let front = failing_at(&npm, "/login$");
    let mut accounts = sign_in_as(&npm, &groups());
    accounts["api"] = front.url().into();
    let nginx = people_site(&npm, &accounts).start();
    for who in [who("new", "new@example.com", "npm-users"), who("bob", BOB, "npm-users")] {
        assert_eq!(status(&get(&nginx.client(), "/echo", who)), "error");
    }
    assert_eq!(nginx.log_lines("made \"new@example.com\"").len(), 1);
    assert_eq!(nginx.log_lines("\"bob@example.com\" at http").len(), 1);
    assert_eq!(nginx.log_lines("is no administrator any more").len(), 1);
}

/// NPM lists all whose addresses hold the one that is looked for.
#[test]
fn one_whose_address_ends_that_of_a_thousand_others_is_found_among_them() {
    let mut npm = Npm::builder().login_time(Duration::ZERO).administrator(SSO, "sso-secret");
    for number in 0..1000 {
        npm = npm.user(&format!("user{number}.x@example.com"), "secret");
    }
    let npm = npm.start();
    let nginx = people_site(&npm, &sign_in_as(&npm, &json!({"create": true}))).start();
    assert_eq!(seen_as(&nginx.client(), who("x", "x@example.com", "")), "x@example.com");
    assert_eq!(npm.users().len(), 1002);
}

#[test]
fn each_who_is_shut_out_is_named_once_in_a_while() {
    let npm = npm();
    let nginx = people_site(&npm, &sign_in_as(&npm, &groups())).start();
    let client = nginx.client();
    for _ in 0..3 {
        is_nobody(&client, who("bob", BOB, "others"));
        is_nobody(&client, who("guest", GUEST, ""));
    }
    for user in ["bob", "guest"] {
        let line = format!("Authentik user \"{user}\" is in none of the groups");
        assert_eq!(nginx.log_lines(&line).len(), 1, "{user}");
    }
}

/// Two of Authentik's users may have one address, and the log is where one looks who it was.
#[test]
fn what_was_done_at_npm_is_told_of_the_user_whose_request_it_was() {
    let npm = npm();
    let mut accounts = groups();
    accounts["raise"] = true.into();
    let nginx = people_site(&npm, &sign_in_as(&npm, &accounts)).start();
    let client = nginx.client();
    for (user, list) in [
        ("bob", "npm-users"),
        ("bob", "npm-admins"),
        ("mallory", "npm-users"),
        ("mallory", "npm-admins"),
    ] {
        assert_eq!(seen_as(&client, who(user, BOB, list)), BOB);
    }
    for deed in ["is no administrator any more", "is an administrator now"] {
        let lines = nginx.log_lines(deed);
        let names = |line: &String, user: &str| line.contains(&format!("Authentik user {user:?}"));
        let [one, other] = &lines[..] else { panic!("{lines:#?}") };
        assert!(names(one, "bob") && names(other, "mallory"), "{lines:#?}");
    }
}

#[test]
fn raise_holds_from_the_reload_on_that_brings_it() {
    let npm = npm();
    let nginx = people_site(&npm, &sign_in_as(&npm, &groups())).start();
    let guest = who("guest", GUEST, "npm-admins");
    assert_eq!(seen_as(&nginx.client(), guest), GUEST);
    assert!(!is_administrator(&npm, GUEST));
    let mut with_raise = groups();
    with_raise["raise"] = true.into();
    nginx.write_accounts(&sign_in_as(&npm, &with_raise).to_string());
    nginx.reload();
    let reply = get(&nginx.client(), ME, guest);
    assert_eq!((status(&reply), reply.json()["roles"].clone()), ("miss", json!(["admin"])));
    assert_eq!(status(&get(&nginx.client(), ME, guest)), "hit");
}
