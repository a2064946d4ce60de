//! What a user is promised, with nginx, the module, an Authentik outpost and NPM in their places.
//!
//! NPM is the one at `TEST_NPM`, with its administrator `TEST_NPM_IDENTITY` and `TEST_NPM_SECRET`,
//! as `make test-npm` sets them; else a stand-in. So nothing here looks inside NPM, or changes
//! anything there but a user that the test itself has made.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::Engine;
use serde_json::{json, Value};
use testbed::client::RequestBuilder;
use testbed::nginx::Builder;
use testbed::{
    eventually, proxy_host, Client, Nginx, Outpost, Reply, Session, Target, Visitor,
    TOKEN_BEGINNING,
};

/// What NPM's web UI asks to learn who is signed in.
const ME: &str = "/api/users/me";

/// What the module logs of each login that NPM has granted.
const SIGNED_IN: &str = "npm_token_inject: signed in";

/// NPM's own web UI as a proxy host of NPM's nginx. `akadmin` is NPM's administrator there.
struct Site {
    npm: Target,
    outpost: Outpost,
    nginx: Nginx,
}

impl Site {
    fn open() -> Self {
        Self::open_with(|nginx, _| nginx)
    }

    /// The site, with its configuration changed.
    fn open_with(change: impl FnOnce(Builder, &Target) -> Builder) -> Self {
        let (npm, outpost) = (Target::from_environment(), Outpost::start());
        let nginx = proxy_host(&outpost.url(), &npm.url)
            .accounts(&accounts(&npm, &npm.secret))
            .http(r#"log_format visits '"$request_uri" from $upstream_addr.';"#)
            .server("access_log access.log visits;")
            .location(
                "/",
                "add_header X-Status   $npm_token_status   always;
                 add_header X-Identity $npm_token_identity always;
                 add_header X-Worker   $pid                always;",
            );
        let nginx = change(nginx, &npm).start();
        Self { npm, outpost, nginx }
    }

    fn sign_in(&self, user: &str) -> Session {
        self.outpost.sign_in(Visitor::new(user))
    }

    /// Whom NPM takes a request for that brings this `Authorization`.
    fn who(&self, session: &Session, authorization: Option<&str>) -> Reply {
        let client = self.nginx.client();
        let request = client.request("GET", ME).cookie(session);
        match authorization {
            Some(value) => request.header("Authorization", value).send(),
            None => request.send(),
        }
    }

    fn assert_is_administrator(&self, reply: &Reply) {
        assert_eq!((reply.status, email(reply)), (200, self.npm.identity.clone()), "{reply:?}");
        assert_eq!(reply.header("X-Identity"), Some(&*self.npm.identity));
    }

    /// What NPM answers to whoever brings no token.
    fn assert_is_npms_own_answer(&self, reply: &Reply) {
        let direct = self.npm.client().get(ME);
        assert_eq!((reply.status, reply.text()), (direct.status, direct.text()));
        assert_ne!(direct.status, 200);
    }

    /// How often NPM has granted a login.
    fn logins(&self) -> usize {
        self.nginx.log_lines(SIGNED_IN).len()
    }

    /// That a request for `target` was answered without NPM.
    fn assert_npm_was_not_asked(&self, target: &str) {
        let visit = format!("\"{target}\" from ");
        eventually(Duration::from_secs(5), "the request in the access log", || {
            self.nginx.access_log().contains(&visit)
        });
        assert!(self.nginx.access_log().contains(&format!("{visit}-.")));
        assert_eq!(self.logins(), 0);
    }
}

/// The accounts file, with a time limit that suits a busy machine.
fn accounts(npm: &Target, secret: &str) -> String {
    let account = json!({"user": "akadmin", "identity": npm.identity, "secret": secret});
    json!({"api": npm.url, "timeout": "30s", "accounts": [account]}).to_string()
}

fn status(reply: &Reply) -> &str {
    reply.header("X-Status").unwrap_or_default()
}

fn email(reply: &Reply) -> String {
    let user: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    user["email"].as_str().unwrap_or_default().to_owned()
}

/// A user of NPM's that the test makes, through nginx. It is deleted at the latest when dropped.
struct NewUser<'a> {
    site: &'a Site,
    session: &'a Session,
    client: Client,
    email: String,
    path: String,
}

impl<'a> NewUser<'a> {
    fn create(site: &'a Site, session: &'a Session) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let email = format!("test-{}-{count}@example.com", since.as_nanos());

        let client = site.nginx.client();
        let user = json!({
            "name": "Test", "nickname": "Test", "email": email, "roles": [], "is_disabled": false,
        });
        let reply = client.request("POST", "/api/users").cookie(session).json(&user).send();
        assert_eq!((reply.status, self::email(&reply)), (201, email.clone()), "{reply:?}");
        let path = format!("/api/users/{}", reply.json()["id"]);
        Self { site, session, client, email, path }
    }

    /// A request of the administrator's about this user.
    fn request(&self, method: &str, below: &str) -> RequestBuilder<'_> {
        self.client.request(method, &format!("{}{below}", self.path)).cookie(self.session)
    }

    /// A token of this user's, as "Sign in as" of NPM's web UI gets it.
    fn token(&self) -> String {
        let reply = self.request("POST", "/login").send();
        reply.json()["token"].as_str().unwrap_or_else(|| panic!("{reply:?}")).to_owned()
    }
}

impl Drop for NewUser<'_> {
    fn drop(&mut self) {
        // Directly: what is tested may be broken. Mostly the user is gone already.
        let token = log_in(&self.site.npm);
        let client = self.site.npm.client();
        // Nobody is left to tell.
        let _ = client.request("DELETE", &self.path).bearer(&token).try_send();
    }
}

/// A token that NPM gives the administrator who logs in to it directly.
fn log_in(npm: &Target) -> String {
    let credentials = json!({"identity": npm.identity, "secret": npm.secret});
    let reply = npm.client().request("POST", "/api/tokens").json(&credentials).send();
    reply.json()["token"].as_str().unwrap_or_else(|| panic!("{reply:?}")).to_owned()
}

/// A JWT with NPM's claims and these, which NPM never signed.
fn forged_jwt(expires: u64) -> String {
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({"iss": "api", "attrs": {"id": 1}, "scope": ["user"], "exp": expires});
    format!("{}.{}.c2lnbmF0dXJl", part(json!({"alg": "RS256", "typ": "JWT"})), part(claims))
}

#[test]
fn an_authentik_user_is_the_npm_user_of_the_account_after_one_login() {
    let site = Site::open();
    let session = site.sign_in("akadmin");

    let first = site.who(&session, None);
    site.assert_is_administrator(&first);
    assert_eq!(status(&first), "miss");

    for _ in 0..5 {
        let next = site.who(&session, None);
        site.assert_is_administrator(&next);
        assert_eq!(status(&next), "hit");
    }
    assert_eq!(site.logins(), 1);
}

#[test]
fn whoever_is_not_signed_in_to_authentik_never_gets_to_npm() {
    let site = Site::open();
    let visit = |target: &str| {
        let client = site.nginx.client();
        let forged = client
            .request("GET", target)
            .header("X-authentik-username", "akadmin")
            .header("Cookie", "authentik_proxy_test=forged")
            .send();
        site.assert_npm_was_not_asked(target);
        forged
    };
    let page = visit("/");
    let location = page.header("Location").unwrap_or_default();
    assert_eq!(page.status, 302, "{page:?}");
    assert!(location.starts_with("/outpost.goauthentik.io/start"), "{location}");
    assert_eq!(visit(ME).status, 401);
}

#[test]
fn a_user_without_an_account_sees_npm_as_without_a_token() {
    let site = Site::open();
    let session = site.sign_in("stranger");
    for authorization in [None, Some("Basic c3RyYW5nZXI6cGFzc3dvcmQ=")] {
        let reply = site.who(&session, authorization);
        assert_eq!(status(&reply), "no_account");
        site.assert_is_npms_own_answer(&reply);
    }
    let line = site.nginx.wait_for_log("no account fits", Duration::from_secs(5));
    assert!(line.contains("\"stranger\""), "{line}");
    assert_eq!(site.logins(), 0);
}

#[test]
fn a_wrong_secret_is_one_line_in_the_log_and_no_token() {
    let site =
        Site::open_with(|nginx, npm| nginx.accounts(&accounts(npm, "this is not the secret")));
    let session = site.sign_in("akadmin");
    for _ in 0..3 {
        let reply = site.who(&session, Some("Bearer null"));
        assert_eq!(status(&reply), "error");
        site.assert_is_npms_own_answer(&reply);
    }
    let lines = site.nginx.log_lines("login of");
    assert_eq!(lines.len(), 1, "{lines:?}");
    for part in [&*site.npm.identity, &site.npm.url, "refused", "not tried again for 60 s"] {
        assert!(lines[0].contains(part), "{part} in {}", lines[0]);
    }
    assert_eq!(site.logins(), 0);
}

#[test]
fn with_deny_npm_is_not_asked_where_there_is_no_token() {
    let site = Site::open_with(|nginx, npm| {
        nginx
            .accounts(&accounts(npm, "this is not the secret"))
            .directive("npm_token_inject accounts.json on_error=deny;")
    });
    assert_eq!(site.who(&site.sign_in("stranger"), None).status, 403);
    assert_eq!(site.who(&site.sign_in("akadmin"), None).status, 502);
    site.assert_npm_was_not_asked(ME);
}

#[test]
fn whatever_else_a_client_sends_as_authorization_is_replaced() {
    let site = Site::open();
    let session = site.sign_in("akadmin");
    let expired = format!("Bearer {}", forged_jwt(1_600_000_000));
    for authorization in [
        "Bearer null",
        "Bearer",
        "Bearer garbage",
        "Bearer managed",
        "Basic YWRtaW46YWRtaW4=",
        "Digest username=\"admin\"",
        "",
        &expired,
    ] {
        let reply = site.who(&session, Some(authorization));
        site.assert_is_administrator(&reply);
    }
    assert_eq!(site.logins(), 1);
}

#[test]
fn who_has_an_account_that_cannot_log_in_may_do_so_by_hand() {
    let site =
        Site::open_with(|nginx, npm| nginx.accounts(&accounts(npm, "this is not the secret")));
    let own = format!("Bearer {}", log_in(&site.npm));
    let reply = site.who(&site.sign_in("akadmin"), Some(&own));
    assert_eq!((reply.status, email(&reply)), (200, site.npm.identity.clone()));
    assert_eq!(status(&reply), "kept");
    assert_eq!(site.nginx.log_lines("login of").len(), 1);
}

#[test]
fn an_administrator_can_sign_in_as_another_user() {
    let site = Site::open();
    let session = site.sign_in("akadmin");
    let user = NewUser::create(&site, &session);
    let token = format!("Bearer {}", user.token());

    let reply = site.who(&session, Some(&token));
    assert_eq!((reply.status, email(&reply)), (200, user.email.clone()));
    assert_eq!(status(&reply), "kept");
    site.assert_is_administrator(&site.who(&session, None));
}

#[test]
fn with_replace_a_clients_own_token_is_replaced_too() {
    let site = Site::open_with(|nginx, _| {
        nginx.directive("npm_token_inject accounts.json client_token=replace;")
    });
    let session = site.sign_in("akadmin");
    let user = NewUser::create(&site, &session);
    let token = format!("Bearer {}", user.token());
    site.assert_is_administrator(&site.who(&session, Some(&token)));
}

#[test]
fn what_a_user_creates_changes_and_deletes_arrives_whole_also_while_waiting_for_the_login() {
    let site = Site::open();
    let session = site.sign_in("akadmin");
    // The very first request, so that its body waits for the login.
    let user = NewUser::create(&site, &session);
    assert_eq!(site.logins(), 1);

    let name = "ü".repeat(40);
    let reply = user.request("PUT", "").json(&json!({"name": name})).send();
    assert_eq!((reply.status, &reply.json()["name"]), (200, &json!(name)), "{reply:?}");
    assert_eq!(user.request("GET", "").send().json()["name"], json!(name));

    assert_eq!(user.request("DELETE", "").send().text(), "true");
    assert_eq!(user.request("GET", "").send().status, 404);
}

#[test]
fn npms_page_opens_signed_in_and_no_token_gets_into_the_browser() {
    // NPM itself compresses the page for whoever takes that.
    let site = Site::open_with(|nginx, _| nginx.server("gzip off;"));
    let session = site.sign_in("akadmin");
    let client = site.nginx.client();
    let page = client
        .request("GET", "/")
        .header("Accept", "text/html,application/xhtml+xml")
        .header("Accept-Encoding", "gzip, deflate, br")
        .cookie(&session)
        .send();
    assert_eq!((page.status, page.header("Cache-Control")), (200, Some("no-store")), "{page:?}");

    let renewed = client.request("GET", "/api/tokens").cookie(&session).send();
    assert_eq!(renewed.status, 200, "{renewed:?}");
    let (marker, expires) = (&renewed.json()["token"], &renewed.json()["expires"]);
    let marker = marker.as_str().unwrap_or_default();
    assert!(marker.starts_with("npm-token-inject-"), "{renewed:?}");
    assert!(expires.as_str().is_some_and(|expires| expires.ends_with('Z')), "{renewed:?}");

    // In the page the marker comes before the first script of NPM's own.
    let text = page.text();
    let npms_script = text.find("<script ").unwrap_or(text.len());
    assert!(text[..npms_script].contains(marker), "{text}");
    assert!(!text.contains(TOKEN_BEGINNING), "{text}");

    let reply = site.who(&session, Some(&format!("Bearer {marker}")));
    site.assert_is_administrator(&reply);
    assert_eq!(site.logins(), 1);
}

#[test]
fn no_other_site_can_use_the_session() {
    let site = Site::open();
    let session = site.sign_in("akadmin");
    site.assert_is_administrator(&site.who(&session, None));

    let email = "another-site@example.com";
    for (name, value) in [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
        let client = site.nginx.client();
        let form = client
            .request("POST", "/api/users")
            .cookie(&session)
            .header(name, value)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .body(format!("name=Evil&nickname=Evil&email={email}&roles[]=admin"))
            .send();
        assert_eq!((form.status, status(&form)), (404, "cross_site"), "{form:?}");

        let read = client.request("GET", ME).cookie(&session).header(name, value).send();
        assert_eq!(status(&read), "cross_site");
        site.assert_is_npms_own_answer(&read);
    }
    let client = site.nginx.client();
    let users = client.request("GET", "/api/users").cookie(&session).send();
    assert_eq!(users.status, 200, "{users:?}");
    assert!(!users.text().contains(email), "{users:?}");
}

#[test]
fn credentials_that_authentik_hands_over_go_before_the_accounts_file() {
    let site = Site::open_with(|nginx, npm| {
        let set = "auth_request_set $authentik_authorization $upstream_http_authorization;";
        nginx
            .location("/", set)
            .accounts(&accounts(npm, "this is not the secret"))
            .directive("npm_token_inject accounts.json credentials=$authentik_authorization;")
    });
    let (identity, secret) = (&site.npm.identity, &site.npm.secret);
    let session = site.outpost.sign_in(Visitor::new("akadmin").basic(identity, secret));
    let basic = format!("Basic {}", STANDARD.encode(format!("{identity}:{secret}")));
    site.assert_is_administrator(&site.who(&session, None));
    site.assert_is_administrator(&site.who(&session, Some(&basic)));
    assert_eq!(site.logins(), 1);
}

#[test]
fn a_reload_keeps_the_token() {
    let site = Site::open();
    let session = site.sign_in("akadmin");
    site.assert_is_administrator(&site.who(&session, None));
    site.nginx.reload();
    let reply = site.who(&session, None);
    site.assert_is_administrator(&reply);
    assert_eq!((status(&reply), site.logins()), ("hit", 1));
}

#[test]
fn all_workers_share_one_login() {
    let site = Site::open_with(|nginx, _| nginx.workers(4).listen("reuseport"));
    let session = site.sign_in("akadmin");
    let replies: Vec<Reply> = thread::scope(|scope| {
        let visits: Vec<_> = (0..64).map(|_| scope.spawn(|| site.who(&session, None))).collect();
        visits.into_iter().map(|visit| visit.join().expect("a reply")).collect()
    });
    replies.iter().for_each(|reply| site.assert_is_administrator(reply));
    let workers: HashSet<_> = replies.iter().filter_map(|reply| reply.header("X-Worker")).collect();
    assert!(workers.len() > 1, "{workers:?}");
    assert_eq!(site.logins(), 1);
}

/// People with addresses of this test's own, whose NPM users are deleted when dropped.
struct People {
    npm: Target,
    outpost: Outpost,
    nginx: Nginx,
    domain: String,
}

impl People {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let domain = format!("test-{}-{count}.example.com", since.as_nanos());
        let site = Site::open_with(|nginx, npm| {
            let accounts = json!({"api": npm.url, "timeout": "30s", "sign_in_as": {
                "identity": npm.identity,
                "secret": npm.secret,
                "create": true,
                "groups": {"npm-admins": "admin", "npm-users": "user"},
                "raise": true,
            }});
            nginx.accounts(&accounts.to_string())
        });
        let Site { npm, outpost, nginx } = site;
        Self { npm, outpost, nginx, domain }
    }

    fn address(&self, user: &str) -> String {
        format!("{user}@{}", self.domain)
    }

    /// What NPM answers to somebody in those groups who asks it something.
    fn get(&self, path: &str, user: &str, groups: &[&str]) -> Reply {
        let visitor = Visitor::new(user).email(&self.address(user)).name("A Person").groups(groups);
        let session = self.outpost.sign_in(visitor);
        self.nginx.client().request("GET", path).cookie(&session).send()
    }

    /// A call of the administrator's at NPM itself.
    fn as_admin(&self, method: &str, path: &str, body: &Value) -> Value {
        let token = log_in(&self.npm);
        let reply = self.npm.client().request(method, path).bearer(&token).json(body).send();
        assert!(matches!(reply.status, 200 | 201), "{method} {path}: {reply:?}");
        reply.json()
    }

    /// The users of NPM's with this test's addresses.
    fn users(&self) -> Vec<Value> {
        let path = format!("/api/users?query={}&expand=permissions", self.domain);
        let token = log_in(&self.npm);
        let users = self.npm.client().request("GET", &path).bearer(&token).send().json();
        users.as_array().cloned().unwrap_or_default()
    }

    fn user(&self, user: &str) -> Value {
        let (address, users) = (self.address(user), self.users());
        let found = users.iter().filter(|user| user["email"] == *address).collect::<Vec<_>>();
        let [user] = found[..] else { panic!("{users:#?}") };
        user.clone()
    }

    fn path(&self, user: &str) -> String {
        format!("/api/users/{}", self.user(user)["id"])
    }

    #[track_caller]
    fn assert_is(&self, user: &str, groups: &[&str], roles: &Value) {
        let me = self.get(ME, user, groups);
        assert_eq!((me.status, email(&me)), (200, self.address(user)), "{me:?}");
        assert_eq!(&me.json()["roles"], roles);
        assert_eq!(me.header("X-Identity"), Some(&*self.address(user)));
    }

    #[track_caller]
    fn assert_is_nobody(&self, user: &str, groups: &[&str]) {
        let reply = self.get(ME, user, groups);
        assert_eq!((status(&reply), reply.status == 200), ("no_account", false), "{reply:?}");
    }
}

impl Drop for People {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let token = log_in(&self.npm);
        for user in self.users() {
            let path = format!("/api/users/{}", user["id"]);
            let _ = self.npm.client().request("DELETE", &path).bearer(&token).try_send();
        }
    }
}

#[test]
fn each_authentik_user_is_their_own_npm_user_made_or_found() {
    let people = People::new();
    let address = people.address("found");
    let user =
        json!({"name": "F", "nickname": "F", "email": address, "roles": [], "is_disabled": false});
    people.as_admin("POST", "/api/users", &user);
    people.assert_is("found", &["npm-users"], &json!([]));
    people.assert_is("made", &["npm-users"], &json!([]));
    assert_eq!(people.user("made")["name"], "A Person");
    assert_eq!(people.users().len(), 2);
}

#[test]
fn roles_follow_the_groups_and_who_is_in_none_is_shut_out() {
    let people = People::new();
    people.assert_is("made", &["npm-users"], &json!([]));
    assert_eq!(people.user("made")["permissions"]["visibility"], "user");
    people.assert_is("made", &["others", "npm-admins", "npm-users"], &json!(["admin"]));
    assert_eq!(people.user("made")["permissions"]["visibility"], "all");
    people.assert_is("made", &["npm-users"], &json!([]));
    assert_eq!(people.user("made")["permissions"]["visibility"], "user");
    people.assert_is_nobody("made", &["others"]);
    assert_eq!(people.user("made")["roles"], json!([]));
    people.assert_is("made", &["npm-users"], &json!([]));
    assert_eq!(people.users().len(), 1);
}

#[test]
fn a_disabled_npm_user_is_shut_out_and_a_deleted_one_made_anew() {
    let people = People::new();
    people.assert_is("gone", &["npm-users"], &json!([]));
    let path = people.path("gone");
    let token = log_in(&people.npm);
    people.npm.client().request("DELETE", &path).bearer(&token).send();
    eventually(Duration::from_secs(30), "another user", || {
        people.get(ME, "gone", &["npm-users"]).status == 200
    });
    assert_ne!(people.path("gone"), path);

    people.as_admin("PUT", &people.path("gone"), &json!({"is_disabled": true}));
    eventually(Duration::from_secs(30), "the user to be shut out", || {
        status(&people.get(ME, "gone", &["npm-users"])) == "no_account"
    });
    people.as_admin("PUT", &people.path("gone"), &json!({"is_disabled": false}));
    eventually(Duration::from_secs(30), "the user to be back", || {
        people.get(ME, "gone", &["npm-users"]).status == 200
    });
}

#[test]
fn many_first_requests_of_one_person_make_one_npm_user() {
    let people = People::new();
    thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| people.assert_is("many", &["npm-users"], &json!([])));
        }
    });
    people.user("many");
}

#[test]
fn what_a_person_does_is_in_npms_audit_log_by_their_own_name() {
    let people = People::new();
    let groups = ["npm-admins"];
    people.assert_is("doer", &groups, &json!(["admin"]));
    let session =
        people.outpost.sign_in(Visitor::new("doer").email(&people.address("doer")).groups(&groups));
    let new = json!({"name": "N", "nickname": "N", "email": people.address("new"), "roles": [], "is_disabled": false});
    let made =
        people.nginx.client().request("POST", "/api/users").cookie(&session).json(&new).send();
    assert_eq!(made.status, 201, "{made:?}");
    let log = people.get("/api/audit-log?expand=user", "doer", &groups).json();
    let entries = log.as_array().expect("a list");
    let entry = entries
        .iter()
        .find(|entry| entry["action"] == "created" && entry["object_id"] == made.json()["id"]);
    let entry = entry.unwrap_or_else(|| panic!("{log:#}"));
    assert_eq!(entry["user_id"], people.user("doer")["id"]);
}
