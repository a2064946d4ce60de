//! What nginx proxies to in a benchmark: Authentik's outpost and NPM in one, as fast and as steady as can
//! be.

use testbed::nginx::Builder;
use testbed::Nginx;

/// As large as NPM 2.15's page.
const PAGE: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"UTF-8\">\
     <link rel=\"icon\" href=\"/images/favicon.ico\"><title>Nginx Proxy Manager</title>\
     <script type=\"module\" crossorigin src=\"/assets/index-BqX1.js\"></script>";
const PAGE_LEN: usize = 1_600;

/// As large as the UI's largest asset, in bytes.
pub const ASSET_LEN: usize = 1 << 20;

/// Starts it.
pub fn start() -> Nginx {
    let page = format!("{PAGE}{:1$}</head><body></body></html>", "", PAGE_LEN - PAGE.len());
    let script = "const a = (b) => b.map((c) => c.d); ".repeat(ASSET_LEN / 36);
    Nginx::builder()
        .without_module()
        .single_process()
        .worker_connections(30_000)
        .quiet()
        .file("html/index.html", page)
        .file("html/assets/index-BqX1.js", script)
        .http("types { text/html html; application/javascript js; }")
        .server("access_log off;\nkeepalive_requests 100000000;\nroot html;\nsendfile on;")
        .location(
            "/outpost.goauthentik.io/auth/nginx",
            "add_header X-authentik-username $user;
             add_header X-authentik-groups   \"authentik Admins|npm-admins\";
             add_header X-authentik-email    $user@example.com;
             add_header X-authentik-name     $user;
             add_header Authorization        \"Basic YWRtaW5AZXhhbXBsZS5jb206YWRtaW4tc2VjcmV0\";
             return 200;",
        )
        .http("map $http_x_user $user { default $http_x_user; \"\" akadmin; }")
        .http("map $http_authorization $has_token { default no; \"~^Bearer e\" yes; }")
        .location(
            "/api/",
            "default_type application/json;
             add_header X-Token $has_token;
             return 200 \"{}\";",
        )
        .start()
}

/// The least that a location needs, on connections that are kept.
pub fn host(upstream: &Nginx) -> Builder {
    const PROXY: &str = "proxy_http_version 1.1; proxy_set_header Connection \"\";";
    let address = upstream.url().replace("http://", "");
    Nginx::builder()
        .http(&format!(
            "upstream both {{ server {address}; keepalive 4; keepalive_requests 100000000; }}"
        ))
        .server("keepalive_requests 100000000;")
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
