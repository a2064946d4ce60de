//! How many instructions nginx executes for one request, counted by valgrind's callgrind.
//!
//! Unlike time, they are the same on every run, to a fraction of a percent. nginx runs as one
//! process, what it proxies to as another. The difference of a long and a short run is free of
//! what nginx does only once: starting, logging in, ending.
//!
//! Two configurations: the least that there can be, and what `nginx-conf` sets up within NPM, where
//! each request makes two connections of its own.

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use testbed::nginx::Builder;
use testbed::{proxy_host, Nginx, Npm};

use crate::table;

const SHORT: u64 = 100;
const LONG: u64 = 600;

/// What NPM's web UI sends once the module has signed it in. The module replaces it.
const AUTHORIZATION: &str = "Bearer npm-token-inject-0123456789abcdef0123456789abcdef0123456789a";

pub fn run() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!(
            "\nInstructions: skipped, for there is no valgrind here (apt-get install valgrind)"
        );
        return;
    }
    let (upstream, npm) = (upstream(), Npm::start());
    let fixed = format!("proxy_set_header Authorization \"Bearer {}\";", "e".repeat(560));
    let (file, people) = (accounts(&npm), sign_in_as(&npm));
    let credentials = "auth_request_set $authentik_authorization $upstream_http_authorization;
         npm_token_inject accounts.json credentials=$authentik_authorization;";
    let lines = [
        ("nothing", "npm_token_inject off;", &file),
        ("`proxy_set_header Authorization \"Bearer …\"`", &*fixed, &file),
        ("`npm_token_inject on`", "npm_token_inject accounts.json;", &file),
        ("the same, with `sign_in_as`", "npm_token_inject accounts.json;", &people),
        ("`npm_token_inject on credentials=…`", credentials, &file),
    ];
    let (bare, npms) = (bare(&upstream), proxy_host(&upstream.url(), &upstream.url()));
    let columns =
        [(&bare, None), (&bare, Some(AUTHORIZATION)), (&npms, None), (&npms, Some(AUTHORIZATION))];

    let mut rows: Vec<Vec<String>> = lines.iter().map(|line| vec![line.0.to_owned()]).collect();
    for (host, authorization) in columns {
        let mut nothing = None;
        for (row, (_, line, accounts)) in rows.iter_mut().zip(&lines) {
            let host = host.clone().accounts(accounts).directive(line);
            let count = |requests| instructions(&host, authorization, requests);
            let counted = (count(LONG) - count(SHORT)) / (LONG - SHORT);
            let more = counted.saturating_sub(*nothing.get_or_insert(counted));
            row.push(match more {
                0 => table::count(counted),
                more => format!("{} (+{})", table::count(counted), table::count(more)),
            });
        }
    }
    table::print(
        "Instructions of nginx for a request whose token is in the cache, with auth_request. Bare: no \
         more than that, on connections that are kept. NPM: as nginx-conf sets it up. Replaced: the \
         client sends an Authorization, as NPM's web UI does",
        &["in the location", "bare", "bare, replaced", "NPM", "NPM, replaced"],
        &rows,
    );
}

fn accounts(npm: &Npm) -> String {
    let secret = npm.secret("admin@example.com");
    let account = json!({"user": "akadmin", "identity": "admin@example.com", "secret": secret});
    json!({"api": npm.url(), "accounts": [account]}).to_string()
}

/// An accounts file by which everybody is their own NPM user.
fn sign_in_as(npm: &Npm) -> String {
    let secret = npm.secret("admin@example.com");
    json!({"api": npm.url(), "sign_in_as": {
        "identity": "admin@example.com",
        "secret": secret,
        "create": true,
        "groups": {"npm-admins": "admin"},
    }})
    .to_string()
}

/// Authentik's outpost and NPM in one, as fast and as steady as can be.
fn upstream() -> Nginx {
    Nginx::builder()
        .without_module()
        .single_process()
        .quiet()
        .server("access_log off;\nkeepalive_requests 1000000;")
        .location(
            "/outpost.goauthentik.io/auth/nginx",
            "add_header X-authentik-username akadmin;
             add_header X-authentik-groups   \"authentik Admins|npm-admins\";
             add_header X-authentik-email    akadmin@example.com;
             add_header X-authentik-name     akadmin;
             add_header Authorization        \"Basic YWRtaW5AZXhhbXBsZS5jb206YWRtaW4tc2VjcmV0\";
             return 200;",
        )
        .location("/", "default_type application/json;\nreturn 200 \"{}\";")
        .start()
}

/// The least that a location needs, on connections that are kept.
fn bare(upstream: &Nginx) -> Builder {
    const PROXY: &str = "proxy_http_version 1.1; proxy_set_header Connection \"\";";
    let address = upstream.url().replace("http://", "");
    Nginx::builder()
        .http(&format!("upstream both {{ server {address}; keepalive 4; }}"))
        .location(
            "= /auth",
            &format!(
                "internal; {PROXY}
                 proxy_pass http://both/outpost.goauthentik.io/auth/nginx;
                 proxy_pass_request_body off; proxy_set_header Content-Length \"\";"
            ),
        )
        .location(
            "/",
            &format!(
                "auth_request /auth;
                 auth_request_set $authentik_username $upstream_http_x_authentik_username;
                 auth_request_set $authentik_groups   $upstream_http_x_authentik_groups;
                 auth_request_set $authentik_email    $upstream_http_x_authentik_email;
                 npm_token_inject on;
                 {PROXY} proxy_pass http://both;"
            ),
        )
}

/// What nginx executes from its start to its end, with so many requests in between.
fn instructions(host: &Builder, authorization: Option<&str>, requests: u64) -> u64 {
    let mut nginx = host
        .clone()
        .single_process()
        .quiet()
        .server("access_log off;")
        .run_by(&["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .start();
    let client = nginx.client();
    for number in 0..requests {
        // Of all lengths, or it would be chance whether what a line adds needs one more block of
        // nginx's memory pool.
        let cookie = format!("authentik_proxy_test={}", "0".repeat((number % 50 * 10) as usize));
        let mut request = client
            .request("GET", "/api/users?expand=permissions")
            .header("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101")
            .header("Accept", "application/json")
            .header("Accept-Encoding", "gzip, deflate")
            .header("Cookie", &cookie);
        if let Some(authorization) = authorization {
            request = request.header("Authorization", authorization);
        }
        let reply = request.send();
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    // Slow as it is under valgrind, the signal may come just before it waits for events again: the
    // end of the connection is one.
    nginx.signal(libc::SIGTERM);
    drop(client);
    nginx.terminate();
    let line = nginx.wait_for_log("Collected :", Duration::ZERO);
    let count = line.rsplit(' ').next().and_then(|count| count.parse().ok());
    count.unwrap_or_else(|| panic!("callgrind said {line}"))
}
