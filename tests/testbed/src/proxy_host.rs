//! A proxy host as Nginx Proxy Manager writes it, around the text that users paste.

use serde_json::Value;

use crate::nginx::{Builder, Nginx};
use crate::npm::Npm;
use crate::outpost::Outpost;

/// What a user copies.
const ADVANCED: &str = include_str!("../../../nginx-conf/advanced.conf");
const CUSTOM_LOCATION: &str = include_str!("../../../nginx-conf/custom-location.conf");
const ACCOUNTS: &str = include_str!("../../../nginx-conf/npm_token_inject.json");

/// What NPM's `nginx.conf` sets for all hosts.
pub const NPM_HTTP: &str = "\
default_type application/octet-stream;
sendfile on;
server_tokens off;
tcp_nopush on;
tcp_nodelay on;
keepalive_timeout 90s;
proxy_connect_timeout 90s;
proxy_send_timeout 90s;
proxy_read_timeout 90s;
gzip on;
proxy_ignore_client_abort off;
client_max_body_size 2000m;
proxy_http_version 1.1;
proxy_set_header X-Forwarded-Scheme $scheme;
proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
proxy_set_header Accept-Encoding \"\";
proxy_cache off;
set_real_ip_from 10.0.0.0/8;
set_real_ip_from 172.16.0.0/12;
set_real_ip_from 192.168.0.0/16;
real_ip_header X-Real-IP;
real_ip_recursive on;";

/// What NPM puts below the text of a custom location.
pub const NPM_LOCATION: &str = "\
proxy_set_header Host $host;
proxy_set_header X-Forwarded-Scheme $scheme;
proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header X-Forwarded-For $remote_addr;
proxy_set_header X-Real-IP $remote_addr;";

/// An access list of NPM's, chosen for a proxy host.
#[derive(Clone, Copy, Debug, Default)]
pub struct AccessList {
    /// Asks for the user `visitor` with the password `password`.
    pub users: bool,
    /// "Pass Auth to Host".
    pub pass_auth: bool,
    /// Addresses: this one is allowed, all others are denied.
    pub allow: Option<&'static str>,
    /// "Satisfy Any".
    pub satisfy_any: bool,
}

impl AccessList {
    fn lines(self) -> String {
        let mut lines = Vec::new();
        if self.users {
            lines.push("auth_basic \"Authorization required\";".to_owned());
            lines.push("auth_basic_user_file access/1;".to_owned());
            if !self.pass_auth {
                lines.push("proxy_set_header Authorization \"\";".to_owned());
            }
        }
        if let Some(address) = self.allow {
            lines.push(format!("allow {address};\ndeny all;"));
        }
        let satisfy = if self.satisfy_any { "any" } else { "all" };
        lines.push(format!("satisfy {satisfy};"));
        lines.join("\n")
    }
}

/// NPM's own web UI as a proxy host of NPM's, as the files in `nginx-conf` set it up, with the
/// accounts of their example. `akadmin` and the group `npm-admins` are `admin@example.com` there.
pub fn npm_proxy_host(outpost: &Outpost, npm: &Npm) -> Builder {
    let mut accounts: Value = serde_json::from_str(ACCOUNTS).expect("npm_token_inject.json");
    accounts["api"] = npm.url().into();
    for account in accounts["accounts"].as_array_mut().expect("npm_token_inject.json") {
        let identity = account["identity"].as_str().expect("npm_token_inject.json");
        account["secret"] = npm.secret(identity).into();
    }
    proxy_host(&outpost.url(), &npm.url()).accounts(&accounts.to_string())
}

/// [`npm_proxy_host`] for an NPM that runs elsewhere; its accounts are still to be set.
pub fn proxy_host(outpost: &str, npm: &str) -> Builder {
    assert!(ADVANCED.contains("http://authentik:9000"), "advanced.conf names an Authentik");

    // No error_log of the host's own, as NPM has: what nginx says at debug level is looked at too.
    let server = format!("server_name npm.example.com;\n{ADVANCED}");
    Nginx::builder()
        .http(NPM_HTTP)
        .server(&server.replace("http://authentik:9000", outpost))
        .location("/", &location(npm))
        .directive("npm_token_inject accounts.json;")
}

/// Another such host, for [`Builder::http`] of the same nginx, at the same `port`. `directive` goes
/// in the place of `npm_token_inject on;`, `lines` before all that is in its location.
pub fn another_proxy_host(
    (name, port): (&str, u16),
    outpost: &str,
    npm: &str,
    (directive, lines): (&str, &str),
) -> String {
    let advanced = ADVANCED.replace("http://authentik:9000", outpost);
    let location = location(npm).replace("npm_token_inject on;", directive);
    format!(
        "server {{\nlisten 127.0.0.1:{port};\nserver_name {name};\n{advanced}\n\
         location / {{\n{lines}\n{location}\n}}\n}}"
    )
}

/// The location of NPM's UI.
fn location(npm: &str) -> String {
    format!("{CUSTOM_LOCATION}\n{NPM_LOCATION}\nproxy_pass {npm};")
}

impl Builder {
    /// Chooses an access list for the proxy host.
    ///
    /// # Panics
    ///
    /// When this is no proxy host.
    #[must_use]
    pub fn access_list(self, list: AccessList) -> Self {
        // Below proxy_pass, as in NPM; the order means nothing to nginx.
        self.location("/", &list.lines()).file("access/1", "visitor:{PLAIN}password\n")
    }
}
