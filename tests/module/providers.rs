//! Other providers than Authentik: the texts for them in `nginx-conf` work with what those answer.

use serde_json::json;
use testbed::{Client, Nginx, Npm, Reply, Request, Response, NPM_HTTP, NPM_LOCATION};

use crate::site::{quick_npm, ADMIN, BOB};
use crate::Elsewhere;

/// What begins each of the two texts in a file.
const PARTS: [&str; 2] = [
    "# ---- 1. The gear beside the tabs (Advanced) ----",
    "# ---- 2. Custom Locations > the location \"/\" > its gear ----",
];

/// A provider, as its documentation and its source have it.
struct Provider {
    text: &'static str,
    /// What a user replaces: its address as nginx reaches it.
    address: &'static str,
    /// Where it is asked who a visitor is, and what tells it where that visitor is.
    question: &'static str,
    asked_with: &'static [(&'static str, &'static str)],
    /// Its answer for a signed-in user.
    status: u16,
    user: &'static str,
    email: &'static str,
    groups: &'static str,
    list: fn(&[&str]) -> String,
    /// Its answer for all others.
    denial: &'static [(&'static str, &'static str)],
    /// Where those go then.
    sign_in: &'static str,
}

const PROVIDERS: [Provider; 4] = [
    Provider {
        text: include_str!("../../nginx-conf/authelia.conf"),
        address: "http://authelia:9091",
        question: "/api/authz/auth-request",
        asked_with: &[
            ("X-Original-URL", "http://npm.example.com/nginx/proxy?a=b"),
            ("X-Original-Method", "GET"),
        ],
        status: 200,
        user: "Remote-User",
        email: "Remote-Email",
        groups: "Remote-Groups",
        list: |names| names.join(","),
        denial: &[("Location", "https://auth.example.com/?rd=there&rm=GET")],
        sign_in: "https://auth.example.com/?rd=there&rm=GET",
    },
    Provider {
        text: include_str!("../../nginx-conf/oauth2-proxy.conf"),
        address: "http://oauth2-proxy:4180",
        question: "/oauth2/auth",
        asked_with: &[
            ("Host", "npm.example.com"),
            ("X-Forwarded-Host", "npm.example.com"),
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Uri", "/nginx/proxy?a=b"),
        ],
        status: 202,
        user: "X-Auth-Request-User",
        email: "X-Auth-Request-Email",
        groups: "X-Auth-Request-Groups",
        list: |names| names.join(","),
        denial: &[],
        sign_in: "/oauth2/sign_in?rd=http://npm.example.com/nginx/proxy?a=b",
    },
    Provider {
        text: include_str!("../../nginx-conf/tinyauth.conf"),
        address: "http://tinyauth:3000",
        question: "/api/auth/nginx",
        asked_with: &[
            ("X-Forwarded-Host", "npm.example.com"),
            ("X-Forwarded-Proto", "http"),
            ("X-Forwarded-Uri", "/nginx/proxy?a=b"),
        ],
        status: 200,
        user: "Remote-User",
        email: "Remote-Email",
        groups: "Remote-Groups",
        list: |names| names.join(", "),
        denial: &[],
        sign_in:
            "https://tinyauth.example.com/login?redirect_uri=http://npm.example.com/nginx/proxy?a=b",
    },
    Provider {
        text: include_str!("../../nginx-conf/vouch.conf"),
        address: "http://vouch:9090",
        question: "/validate",
        asked_with: &[("Host", "npm.example.com")],
        status: 200,
        user: "X-Vouch-User",
        email: "X-Vouch-User",
        groups: "X-Vouch-IdP-Claims-Groups",
        list: |names| names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(","),
        denial: &[("X-Vouch-Err", "no jwt"), ("X-Vouch-Failcount", "1")],
        sign_in: "https://vouch.example.com/login?url=http://npm.example.com/nginx/proxy?a=b\
                  &vouch-failcount=1&X-Vouch-Token=&error=no jwt",
    },
];

/// Who sits before a browser whose cookie `sso` has that name: a group decides, or an address.
fn groups_of(user: &str) -> &'static [&'static str] {
    match user {
        "alice" => &["people", "npm admins", "others"],
        "eve" => &["npm admins of old", "people"],
        _ => &[],
    }
}

/// The user's name where the provider has an address of its own, else the address.
fn name_for(provider: &Provider, user: &str) -> String {
    let is_address = provider.user == provider.email;
    if is_address {
        address_of(user)
    } else {
        user.to_owned()
    }
}

fn address_of(user: &str) -> String {
    format!("{user}@example.com")
}

struct World {
    asked: Elsewhere,
    npm: Npm,
    nginx: Nginx,
}

impl World {
    fn of(provider: &'static Provider) -> Self {
        let npm = quick_npm();
        let asked = Elsewhere::answering(move |request| answer(provider, request));
        let (_, texts) = provider.text.split_once(PARTS[0]).expect("the first text");
        let (advanced, location) = texts.split_once(PARTS[1]).expect("the second text");
        assert_eq!(advanced.matches(provider.address).count(), 1);
        let advanced = advanced.replace(provider.address, &asked.url());
        let location = location.replace("npm_token_inject on ", "npm_token_inject accounts.json ");
        let accounts = json!({"api": npm.url(), "accounts": [
            {"group": "npm admins", "identity": ADMIN, "secret": npm.secret(ADMIN)},
            {"user": name_for(provider, "carol"), "identity": ADMIN, "secret": npm.secret(ADMIN)},
            {"email": BOB, "identity": BOB, "secret": npm.secret(BOB)},
        ]});
        let nginx = Nginx::builder()
            .http(NPM_HTTP)
            .server(&format!("server_name npm.example.com;\n{advanced}"))
            .location("/", &format!("{location}\n{NPM_LOCATION}\nproxy_pass {};", npm.url()))
            .accounts(&accounts.to_string())
            .start();
        Self { asked, npm, nginx }
    }

    fn get(&self, client: &Client, path: &str, user: Option<&str>) -> Reply {
        let request = client.request("GET", path).header("Host", "npm.example.com");
        match user {
            Some(user) => request.header("Cookie", &format!("sso={user}")).send(),
            None => request.send(),
        }
    }
}

fn answer(provider: &Provider, request: &Request) -> Response {
    assert_eq!(request.path, provider.question);
    let answer = |status, headers: &[(&str, &str)]| {
        let start = Response::new(status);
        headers.iter().fold(start, |response, (name, value)| response.header(name, *value))
    };
    match request.cookie("sso") {
        None => answer(401, provider.denial),
        Some(user) => {
            let groups = (provider.list)(groups_of(user));
            let (name, address) = (name_for(provider, user), address_of(user));
            let mut headers = vec![(provider.user, &*name)];
            if provider.email != provider.user {
                headers.push((provider.email, &*address));
            }
            if !groups.is_empty() {
                headers.push((provider.groups, &*groups));
            }
            answer(provider.status, &headers)
        }
    }
}

#[test]
fn the_users_of_each_provider_are_signed_in() {
    for provider in &PROVIDERS {
        let world = World::of(provider);
        let client = world.nginx.client();
        for (user, expected) in [("alice", ADMIN), ("carol", ADMIN), ("bob", BOB)] {
            let me = world.get(&client, "/api/users/me", Some(user));
            assert_eq!((me.status, me.json()["email"].as_str()), (200, Some(expected)), "{user}");
        }
        for user in ["eve", "nobody"] {
            let reply = world.get(&client, "/echo", Some(user));
            assert!(reply.status == 200 && !reply.text().contains("Bearer"), "{reply:?}");
        }
    }
}

#[test]
fn whom_a_provider_does_not_know_is_led_to_its_sign_in() {
    for provider in &PROVIDERS {
        let world = World::of(provider);
        let client = world.nginx.client();
        let page = world.get(&client, "/nginx/proxy?a=b", None);
        assert_eq!((page.status, page.header("Location")), (302, Some(provider.sign_in)));
        let asked = world.asked.last();
        for (name, value) in provider.asked_with {
            assert_eq!(asked.headers.all(name), [*value], "{name}");
        }
        let call = world.get(&client, "/api/users/me", None);
        assert_eq!((call.status, &call.json()["error"]["code"]), (401, &401.into()));
        assert!(world.npm.requests().is_empty());
    }
}

/// What the client says counts nowhere: not to nginx, and not to a provider that would believe it.
#[test]
fn nobody_signs_in_by_headers_of_their_own() {
    for provider in &PROVIDERS {
        let world = World::of(provider);
        let client = world.nginx.client();
        for user in [None, Some("nobody")] {
            let mut request = client.request("GET", "/echo").header("Host", "npm.example.com");
            for name in [provider.user, provider.email, provider.groups] {
                request = request.header(name, "npm admins");
            }
            request = request.header("Authorization", "Basic YWxpY2U6YQ==");
            if let Some(user) = user {
                request = request.header("Cookie", &format!("sso={user}"));
            }
            let reply = request.send();
            assert!(!reply.text().contains("Bearer"), "{reply:?}");
            assert_eq!(world.asked.last().authorization(), [""; 0]);
        }
        assert_eq!(world.npm.logins(), 0);
    }
}
