//! How many instructions nginx executes for a request whose token is in the cache, beside what else
//! could stand in the module's place.
//!
//! nginx runs as one process, what it proxies to as another. The request is one of the web UI's for the
//! API, of a user for whom `auth_request` is answered at once.

use std::process::Command;
use std::time::Duration;

use serde_json::json;
use testbed::nginx::Builder;
use testbed::{proxy_host, Client, Npm, Reply};

use crate::callgrind::{self, Cost};
use crate::{table, upstream};

const RUNS: [u64; 2] = [100, 400];

/// What NPM's web UI sends once the module has signed it in. The module replaces it.
const AUTHORIZATION: &str = "Bearer npm-token-inject-0123456789abcdef0123456789abcdef0123456789a";

/// As long as NPM's own.
const TOKEN_LEN: usize = 560;

/// Debian's modules for Lua and JavaScript, as `make bench` unpacks them.
const PEERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/build/peers");

const CREDENTIALS: &str = "auth_request_set $authentik_authorization $upstream_http_authorization;
     npm_token_inject accounts.json credentials=$authentik_authorization;";

const NOTHING: &str = "nothing";
const FIXED: &str = "`proxy_set_header Authorization \"Bearer …\"`";

/// A thread that does nothing. The process has it all the same: the C library takes locks, and notes at
/// each system call that it may be cancelled.
pub const IDLE_THREAD: &str = "thread_pool idle threads=1;";

/// Whether there is a valgrind to count with, or else a line that says so.
pub fn can_count() -> bool {
    let is_there = Command::new("valgrind").arg("--version").output().is_ok();
    if !is_there {
        println!("\nInstructions: skipped, for there is no valgrind here");
    }
    is_there
}

/// What stands in the location.
struct Contender {
    name: &'static str,
    host: Builder,
}

pub fn run() {
    if !can_count() {
        return;
    }
    let (upstream, npm) = (upstream::start(), npm());
    peers(&upstream::host(&upstream), &npm);
    within_npm(&proxy_host(&upstream.url(), &upstream.url()), &npm);
}

/// All that could stand in the location, and the same in a process with a second thread.
fn peers(bare: &Builder, npm: &Npm) {
    let mut contenders = own(bare, npm);
    let others = [lua(bare), javascript(bare)];
    match others.iter().all(|other| other.host.test().ok) {
        true => contenders.splice(2..2, others).for_each(drop),
        false => println!("\nLua and njs: left out, for this nginx cannot load what is in {PEERS}"),
    }
    let mut rows = Vec::new();
    let (mut alone, mut beside) = (None, None);
    for contender in contenders {
        let cost = count(&contender, "", None);
        let with_thread = count(&contender, IDLE_THREAD, None);
        let mut row = vec![contender.name.to_owned()];
        if contender.name == FIXED {
            (alone, beside) = (Some(cost.total), Some(with_thread.total));
        }
        row.extend([table::count(cost.total), ratio(cost.total, alone)]);
        row.extend([table::count(cost.module), table::count(cost.nginx)]);
        row.push(table::count(cost.total - cost.module - cost.nginx));
        row.extend([table::count(with_thread.total), ratio(with_thread.total, beside)]);
        rows.push(row);
    }
    table::print(
        "Instructions for a request whose token is in the cache, with auth_request; how many of these are \
         the module's own, nginx's, and the libraries'; and all of them in a process with an idle second \
         thread",
        &[
            "in the location",
            "instructions",
            "to the static header",
            "module",
            "nginx",
            "libraries",
            "second thread",
            "to the static header",
        ],
        &rows,
    );
}

/// What nginx-conf sets up within NPM, where each request makes two connections of its own.
fn within_npm(host: &Builder, npm: &Npm) {
    let mut rows = Vec::new();
    let mut fixed = [None; 2];
    for contender in own(host, npm) {
        let mut row = vec![contender.name.to_owned()];
        for (authorization, fixed) in [None, Some(AUTHORIZATION)].into_iter().zip(&mut fixed) {
            let total = count(&contender, "", authorization).total;
            if contender.name == FIXED {
                *fixed = Some(total);
            }
            row.extend([table::count(total), ratio(total, *fixed)]);
        }
        rows.push(row);
    }
    table::print(
        "The same as nginx-conf sets it up within NPM, where nothing keeps its connections; and where the \
         client sends an Authorization, as NPM's web UI does",
        &[
            "in the location",
            "instructions",
            "to the static header",
            "with an Authorization",
            "to the static header",
        ],
        &rows,
    );
}

fn ratio(total: u64, fixed: Option<u64>) -> String {
    fixed.map_or_else(String::new, |fixed| format!("{:.3}", total as f64 / fixed as f64))
}

fn own(host: &Builder, npm: &Npm) -> Vec<Contender> {
    let (file, people) = (accounts(npm), sign_in_as(npm));
    let fixed = format!("proxy_set_header Authorization \"{}\";", token());
    [
        (NOTHING, "npm_token_inject off;", &file),
        (FIXED, &*fixed, &file),
        ("`npm_token_inject on`", "npm_token_inject accounts.json;", &file),
        ("the same, with `sign_in_as`", "npm_token_inject accounts.json;", &people),
        ("`npm_token_inject on credentials=…`", CREDENTIALS, &file),
    ]
    .map(|(name, line, accounts)| Contender {
        name,
        host: host.clone().accounts(accounts).directive(line),
    })
    .into()
}

fn token() -> String {
    format!("Bearer {}", "e".repeat(TOKEN_LEN))
}

/// The token from a dictionary that all workers share, as people write it.
fn lua(bare: &Builder) -> Contender {
    let host = bare
        .clone()
        .main(&load(&["ndk_http_module", "ngx_http_lua_module"]))
        .http(&format!(
            "lua_package_path \"{PEERS}/usr/share/lua/5.1/?.lua;;\";
             lua_shared_dict tokens 1m;
             init_by_lua_block {{ ngx.shared.tokens:set(\"akadmin\", \"{}\") }}",
            token()
        ))
        .directive(
            "access_by_lua_block {
                 local token = ngx.shared.tokens:get(ngx.var.authentik_username)
                 if token then ngx.req.set_header(\"Authorization\", token) end
             }",
        );
    Contender { name: "Lua, from a `lua_shared_dict`", host }
}

/// The token from a constant: this njs has no memory that workers share.
fn javascript(bare: &Builder) -> Contender {
    let script = format!(
        "const tokens = {{akadmin: \"{}\"}};
         function token(r) {{ return tokens[r.variables.authentik_username]; }}
         export default {{token}};",
        token()
    );
    let host = bare
        .clone()
        .main(&load(&["ngx_http_js_module"]))
        .file("token.js", script)
        .http("js_path .; js_import token.js; js_set $token token.token;")
        .directive("proxy_set_header Authorization $token;");
    Contender { name: "njs, from a constant", host }
}

/// The lines that load modules of Debian's.
fn load(names: &[&str]) -> String {
    let line = |name: &&str| format!("load_module {PEERS}/usr/lib/nginx/modules/{name}.so;\n");
    names.iter().map(line).collect()
}

/// An NPM that takes no time: nginx looks every few milliseconds whether a login has ended. Whoever is
/// signed in there is a user already, for to make one costs more.
pub fn npm() -> Npm {
    let npm = Npm::builder().login_time(Duration::ZERO);
    npm.administrator("admin@example.com", "admin-secret")
        .administrator("akadmin@example.com", "akadmin-secret")
        .start()
}

/// An accounts file for one user.
pub fn accounts(npm: &Npm) -> String {
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

fn count(contender: &Contender, more: &str, authorization: Option<&str>) -> Cost {
    let host = contender.host.clone().main(more);
    callgrind::cost(&host, RUNS, |client, number| {
        let reply = ask(client, authorization, number);
        let expected = if contender.name == NOTHING { "no" } else { "yes" };
        assert_eq!(reply.header("X-Token"), Some(expected), "{}: {reply:?}", contender.name);
        reply
    })
}

fn ask(client: &Client, authorization: Option<&str>, number: u64) -> Reply {
    // Of all lengths, or it would be chance whether what a line adds needs one more block of
    // nginx's memory pool.
    let cookie = format!("authentik_proxy_test={}", "0".repeat((number % 50 * 10) as usize));
    let request = client
        .request("GET", "/api/users?expand=permissions")
        .header("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101")
        .header("Accept", "application/json")
        .header("Accept-Encoding", "gzip, deflate")
        .header("Cookie", &cookie);
    match authorization {
        Some(authorization) => request.header("Authorization", authorization).send(),
        None => request.send(),
    }
}
