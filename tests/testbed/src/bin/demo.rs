//! `make demo`: a visit to Nginx Proxy Manager's web UI behind Authentik, step by step, on loopback.
//!
//! | variable | meaning |
//! |---|---|
//! | `DEMO_ONCE=1` | ends after the visit; the exit status says whether all went as it should |
//! | `DEMO_NPM=URL` | uses the NPM that runs there, with the account `DEMO_IDENTITY`, `DEMO_SECRET` |
//! | `DEMO_PORT=PORT` | serves on this port |

use std::env;
use std::process::ExitCode;

use serde_json::json;
use testbed::{proxy_host, Client, Nginx, Outpost, Reply, Target, Visitor, TOKEN_BEGINNING};

/// Where a visitor starts.
const PAGE: &str = "/";

/// What the web UI asks first.
const ME: &str = "/api/users/me";

fn main() -> ExitCode {
    let interrupts = Interrupts::catch();
    let target = Target::from_variables(["DEMO_NPM", "DEMO_IDENTITY", "DEMO_SECRET"]);
    let outpost = Outpost::start();
    outpost.offer(Visitor::new("akadmin"));
    let nginx = start_nginx(&outpost, &target);

    let kind = if target.stand_in.is_some() { "a small stand-in" } else { "given by DEMO_NPM" };
    println!("NPM        {}  ({kind})", target.url);
    println!("Authentik  {}  (a small outpost)", outpost.url());
    println!("nginx      {}  (with the module)", nginx.url());

    let mut visit = Visit { client: nginx.client(), failures: 0 };
    let session = visit.turned_away().and_then(|link| visit.signs_in(&link));
    if let Some(cookie) = session {
        visit.first_request(&cookie, &target.identity);
        visit.second_request(&cookie, &target.identity);
        visit.page(&cookie);
    }
    visit.forged_header(&target);

    println!();
    match visit.failures {
        0 => println!("All as it should be."),
        failures => println!(
            "{failures} steps were not as they should be; nginx says:\n{}",
            nginx.error_log_excerpt()
        ),
    }
    if env::var("DEMO_ONCE").is_ok_and(|once| once == "1") {
        return ExitCode::from(u8::from(visit.failures > 0));
    }
    println!("Serving at {} until Ctrl-C.", nginx.url());
    interrupts.wait();
    ExitCode::SUCCESS
}

fn start_nginx(outpost: &Outpost, target: &Target) -> Nginx {
    let accounts = json!({
        "api": target.url,
        "accounts": [{"user": "akadmin", "identity": target.identity, "secret": target.secret}],
    });
    let nginx = proxy_host(&outpost.url(), &target.url)
        .accounts(&accounts.to_string())
        .location("/", "add_header X-NPM-Token-Status $npm_token_status always;");
    match env::var("DEMO_PORT").ok().and_then(|port| port.parse().ok()) {
        Some(port) => nginx.port(port).start(),
        None => nginx.start(),
    }
}

/// The visit, as a person would make it.
struct Visit {
    client: Client,
    failures: usize,
}

impl Visit {
    /// Without a session there is only Authentik's sign-in page, whose link is returned.
    fn turned_away(&mut self) -> Option<String> {
        title("1. A visitor without a session is turned away to Authentik's sign-in.");
        let reply = self.client.get(PAGE);
        show("GET", PAGE, &reply);
        let start = reply.header("Location").unwrap_or_default().to_owned();
        let turned_away = reply.status == 302 && start.starts_with("/outpost.goauthentik.io/start");
        self.check("sent to Authentik", turned_away);

        let reply = self.client.get(&start);
        let page = self.client.get(reply.header("Location").unwrap_or("/")).text();
        let link = page.split_once("href=\"").and_then(|(_, rest)| rest.split_once('"'));
        self.check("the sign-in page shows", link.is_some());
        link.map(|(link, _)| link.to_owned())
    }

    /// Returns the cookie of the session.
    fn signs_in(&mut self, link: &str) -> Option<String> {
        title("2. akadmin signs in at Authentik, and her first request reaches NPM as its administrator.");
        let reply = self.client.get(link);
        show("GET", link.split('?').next().unwrap_or(link), &reply);
        let cookie = reply.header("Set-Cookie").and_then(|line| line.split(';').next());
        self.check("signed in", cookie.is_some());
        cookie.map(str::to_owned)
    }

    fn first_request(&mut self, cookie: &str, identity: &str) {
        self.request_as(cookie, identity, "miss");
    }

    fn second_request(&mut self, cookie: &str, identity: &str) {
        title("3. Her second request finds the token in the cache.");
        self.request_as(cookie, identity, "hit");
    }

    fn request_as(&mut self, cookie: &str, identity: &str, status: &str) {
        let reply = self.client.request("GET", ME).header("Cookie", cookie).send();
        show("GET", ME, &reply);
        self.check(&format!("NPM says {identity}"), is_user(&reply, identity));
        self.check(&format!("token status {status}"), token_status(&reply) == status);
    }

    fn page(&mut self, cookie: &str) {
        title("4. NPM's page opens signed in: it brings a marker for the browser, and no token.");
        let reply = self.client.request("GET", PAGE).header("Cookie", cookie).send();
        show("GET", PAGE, &Reply { body: Vec::new(), ..reply.clone() });
        let page = reply.text();
        self.check("the marker is in the page", page.contains("npm-token-inject-"));
        self.check("no token is in the page", !page.contains(TOKEN_BEGINNING));
    }

    fn forged_header(&mut self, target: &Target) {
        title("5. A forged X-authentik-username without a session gets nothing.");
        let seen = target.stand_in.as_ref().map(|npm| npm.requests().len());
        let forged = self.client.request("GET", ME).header("X-authentik-username", "akadmin");
        let reply = forged.send();
        show("GET", ME, &reply);
        self.check("turned away", reply.status == 401);
        if let (Some(npm), Some(seen)) = (&target.stand_in, seen) {
            self.check("NPM saw no request", npm.requests().len() == seen);
        }
    }

    fn check(&mut self, what: &str, holds: bool) {
        println!("   {} {what}", if holds { "ok  " } else { "FAIL" });
        self.failures += usize::from(!holds);
    }
}

fn is_user(reply: &Reply, identity: &str) -> bool {
    let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    reply.status == 200 && body["email"] == identity
}

fn token_status(reply: &Reply) -> &str {
    reply.header("X-NPM-Token-Status").unwrap_or_default()
}

fn title(text: &str) {
    println!("\n{text}");
}

fn show(method: &str, target: &str, reply: &Reply) {
    let millis = reply.time.as_secs_f64() * 1000.0;
    println!("   {method} {target}  ->  {} in {millis:.1} ms", reply.status);
    for name in ["Location", "X-NPM-Token-Status"] {
        if let Some(value) = reply.header(name) {
            println!("        {name}: {value}");
        }
    }
    if reply.header("Content-Type").is_some_and(|kind| kind.contains("json")) {
        println!("        {}", reply.text());
    }
}

/// Ctrl-C and the like, which would otherwise end this process without a word to nginx.
struct Interrupts(libc::sigset_t);

impl Interrupts {
    /// Holds them back, for this thread and for those that it starts.
    fn catch() -> Self {
        // SAFETY: a sigset_t is plain data, which sigemptyset(3) fills in; all pointers are to it.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
                libc::sigaddset(&mut set, signal);
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            Self(set)
        }
    }

    /// Waits for the first of them.
    fn wait(&self) {
        let mut signal = 0;
        // SAFETY: both pointers are to values that live as long as the call.
        unsafe { libc::sigwait(&self.0, &mut signal) };
    }
}
