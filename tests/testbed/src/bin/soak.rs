//! `make soak`: mixed traffic through nginx with the module, for ten minutes, while tokens live for
//! seconds, nginx reloads, and NPM goes down, hangs and gets new keys. On loopback.
//!
//! A request fails that does not get what it should: a page or an answer of NPM's for its own user,
//! with one live token, whatever else happens; no token where none belongs. While NPM has a fault,
//! and shortly after, it may go without a token or get an error, and nothing else.
//!
//! | variable | meaning |
//! |---|---|
//! | `SOAK_SECONDS` | how long it lasts; 600 by default |

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use serde_json::{json, Value};
use testbed::client::RequestBuilder;
use testbed::wait::{happens, Stop};
use testbed::{proxy_host, Client, Fault, Nginx, Npm, Outpost, Reply, Session, Visitor};

const WORKERS: usize = 4;

/// How many clients there are. Each sends one request after the other.
const CLIENTS: usize = 8;

/// How long a client pauses between two requests.
const BREATH: Duration = Duration::from_millis(10);

/// How long a token lives: all of its life passes a hundred times.
const TOKEN_LIFETIME: Duration = Duration::from_secs(6);

/// The `timeout` of the accounts file.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How long NPM is without a fault, and how long with one.
const CALM: Duration = Duration::from_secs(9);
const FAULT: Duration = Duration::from_secs(2);

/// How soon after a fault everybody has a token again: pauses between logins grow to some seconds.
const RECOVERY: Duration = Duration::from_secs(15);

/// How much time there is between two reloads, in the parts that have any.
const RELOAD_INTERVAL: Duration = Duration::from_secs(3);

/// The parts of the time, every other of which has reloads: in between, workers live on.
const PARTS: u32 = 10;

/// How many failures of a kind are shown.
const SHOWN: usize = 5;

/// Authentik's users, and whom they are in NPM. The last comes rarely: its token ends unused.
const USERS: [(&str, &str); 6] = [
    ("akadmin", "admin@example.com"),
    ("bob", "bob@example.com"),
    ("carol", "carol@example.com"),
    ("dave", "dave@example.com"),
    ("guest", "guest@example.com"),
    ("rare", "rare@example.com"),
];

/// Somebody whom no account fits.
const STRANGER: &str = "stranger";

type Change = fn(&Npm);

/// What goes wrong with NPM: how that begins, and how it ends.
const FAULTS: [(&str, Change, Change); 4] = [
    ("NPM down", Npm::stop, Npm::start_again),
    (
        "NPM hanging",
        |npm| {
            npm.fault(Fault::Hang);
            npm.set_renewal_time(Duration::from_secs(60));
        },
        |npm| {
            npm.clear_fault();
            npm.set_renewal_time(Duration::ZERO);
        },
    ),
    ("NPM's keys replaced", Npm::replace_keys, |_| {}),
    ("logins failing", |npm| npm.fault(Fault::Status(500)), |npm| npm.clear_fault()),
];

fn main() -> ExitCode {
    let seconds = env::var("SOAK_SECONDS").ok().filter(|seconds| !seconds.is_empty());
    let seconds = seconds.map_or(600, |text| {
        text.parse().unwrap_or_else(|_| panic!("SOAK_SECONDS={text} is no number of seconds"))
    });
    let world = World::start();
    let failures = world.soak(Duration::from_secs(seconds));
    ExitCode::from(u8::from(failures > 0))
}

struct World {
    npm: Npm,
    outpost: Outpost,
    sessions: Vec<Session>,
    stranger: Session,
    nginx: Nginx,
    /// Even while NPM has no fault, odd while it has one; each change is another number.
    trouble: AtomicU64,
    tally: Mutex<BTreeMap<&'static str, Tally>>,
    stop: Stop,
}

/// What became of requests of one kind.
#[derive(Default)]
struct Tally {
    requests: u64,
    failures: u64,
    examples: Vec<String>,
}

/// Ends everything, also when somebody panics.
struct StopAll<'a>(&'a Stop);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        self.0.give();
    }
}

impl World {
    fn start() -> Self {
        let npm = Npm::builder()
            .login_time(Duration::from_millis(50))
            .token_lifetime(TOKEN_LIFETIME)
            .administrator(USERS[0].1, "secret");
        let npm = USERS[1..].iter().fold(npm, |npm, user| npm.user(user.1, "secret")).start();
        let outpost = Outpost::start();
        let sign_in = |name: &str| outpost.sign_in(Visitor::new(name));
        let (sessions, stranger) =
            (USERS.iter().map(|user| sign_in(user.0)).collect(), sign_in(STRANGER));

        let account =
            |user: &(&str, &str)| json!({"user": user.0, "identity": user.1, "secret": "secret"});
        let accounts: Vec<Value> = USERS.iter().map(account).collect();
        let accounts = json!({"api": npm.url(), "timeout": format!("{}ms", TIMEOUT.as_millis()), "accounts": accounts});
        let nginx = proxy_host(&outpost.url(), &npm.url())
            .accounts(&accounts.to_string())
            .location("/", "add_header X-Status $npm_token_status always;")
            .location("= /npm-token-status", "npm_token_inject_status;")
            .server("access_log off;")
            .listen("reuseport backlog=4096")
            .workers(WORKERS)
            .quiet()
            .start();
        Self {
            npm,
            outpost,
            sessions,
            stranger,
            nginx,
            trouble: AtomicU64::new(0),
            tally: Mutex::default(),
            stop: Stop::default(),
        }
    }

    /// Runs for that long. Says how many failures there were.
    fn soak(mut self, duration: Duration) -> u64 {
        println!(
            "nginx {} with {WORKERS} workers, {CLIENTS} clients, {duration:?}",
            self.nginx.url()
        );
        let end = Instant::now() + duration;
        println!("{}", Memory::of(&self.nginx));
        thread::scope(|scope| {
            let _stop = StopAll(&self.stop);
            let world = &self;
            let clients = (0..CLIENTS).map(|n| scope.spawn(move || world.visit(n as u64)));
            let mut threads: Vec<_> = clients.collect();
            threads.push(scope.spawn(|| world.reload(duration / PARTS)));
            threads.push(scope.spawn(|| world.disturb(end)));
            for part in 1..=PARTS {
                let ends = end - duration / PARTS * (PARTS - part);
                while Instant::now() < ends && !threads.iter().any(|thread| thread.is_finished()) {
                    thread::sleep(Duration::from_millis(500));
                    self.npm.forget_requests();
                    self.outpost.forget_requests();
                }
                println!("{}", self.progress(duration / PARTS * part));
            }
        });
        self.report()
    }

    /// Sends requests until all is over.
    fn visit(&self, number: u64) {
        let mut dice = Dice(number + 1);
        let client = self.nginx.client();
        while !self.stop.pause(BREATH) {
            let user = match dice.throw(50) {
                0 => USERS.len() - 1,
                throw => throw % (USERS.len() - 1),
            };
            match dice.throw(20) {
                0 | 1 => self.page(&client, user),
                2..=4 => self.post(&client, user),
                5 | 6 => self.cross_site(&client, user),
                7 | 8 => self.kept(&client, user),
                9 => self.stranger(&client),
                10 => self.without_session(&client),
                11 => self.leave(user),
                _ => self.api(&client, user),
            }
        }
    }

    /// Who am I?
    fn api(&self, client: &Client, user: usize) {
        let request = client.request("GET", "/api/users/me").cookie(&self.sessions[user]);
        self.judge("API", request, |reply, lenient| {
            if lenient && !has_token(reply) {
                return Ok(());
            }
            is(reply, 200)?;
            let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            same("user", body["email"].as_str().unwrap_or_default(), USERS[user].1)?;
            signed_in(reply)
        });
    }

    /// NPM's page, as a browser opens it.
    fn page(&self, client: &Client, user: usize) {
        let request = client
            .request("GET", "/")
            .cookie(&self.sessions[user])
            .header("Accept", "text/html,application/xhtml+xml")
            .header("Sec-Fetch-Site", "none")
            .header("Sec-Fetch-Mode", "navigate")
            .header("Sec-Fetch-Dest", "document");
        self.judge("page", request, |reply, lenient| {
            let page = reply.text();
            if page.contains("eyJ") {
                return Err("a token in the page".to_owned());
            }
            if lenient && !has_token(reply) {
                return Ok(());
            }
            is(reply, 200)?;
            if !page.contains("npm-token-inject-") {
                return Err("no marker in the page".to_owned());
            }
            signed_in(reply)
        });
    }

    /// A form, which comes to NPM whole and once, with the token of its user.
    fn post(&self, client: &Client, user: usize) {
        const LENGTH: usize = 20_000;
        let request = client
            .request("POST", "/echo")
            .cookie(&self.sessions[user])
            .header("Sec-Fetch-Site", "same-origin")
            .header("Authorization", "Bearer managed")
            .body("x".repeat(LENGTH));
        self.judge("POST", request, |reply, lenient| {
            if lenient && reply.status == 502 {
                return Ok(());
            }
            is(reply, 200)?;
            let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            same("body", body["body_length"].as_u64(), Some(LENGTH as u64))?;
            match authorizations(&body)[..] {
                [one] => {
                    let claims = claims(one).ok_or_else(|| format!("sent {one:?}"))?;
                    same("user", claims["attrs"]["id"].as_u64(), Some(user as u64 + 1))?;
                    // What has reached NPM a moment ago has not ended since; but for this process's.
                    let left = claims["exp"].as_i64().unwrap_or_default() - unix_seconds();
                    if left < -1 {
                        return Err(format!("sent a token that ended {} s ago", -left));
                    }
                    signed_in(reply)
                }
                [] if lenient => same("status", status(reply), "error"),
                ref other => Err(format!("sent {} tokens", other.len())),
            }
        });
    }

    /// What another site starts.
    fn cross_site(&self, client: &Client, user: usize) {
        let request = client
            .request("POST", "/echo")
            .cookie(&self.sessions[user])
            .header("Origin", "https://evil.example")
            .header("Sec-Fetch-Site", "cross-site")
            .body("name=x");
        self.judge("cross-site", request, |reply, lenient| {
            without_token(reply, lenient, "cross_site")
        });
    }

    /// A token of NPM's that the client has itself.
    fn kept(&self, client: &Client, user: usize) {
        let owner = USERS[(user + 1) % USERS.len()].1;
        let token = self.npm.issue_token(owner, Duration::from_secs(60));
        let request =
            client.request("GET", "/api/users/me").cookie(&self.sessions[user]).bearer(&token);
        self.judge("kept token", request, |reply, lenient| {
            same("status", status(reply), "kept")?;
            if lenient && reply.status != 200 {
                return Ok(());
            }
            is(reply, 200)?;
            let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            same("user", body["email"].as_str().unwrap_or_default(), owner)
        });
    }

    /// Authentik knows the user, and the accounts file does not.
    fn stranger(&self, client: &Client) {
        let request = client.request("GET", "/echo").cookie(&self.stranger).bearer("managed");
        self.judge("no account", request, |reply, lenient| {
            without_token(reply, lenient, "no_account")
        });
    }

    /// Nobody, who says to be somebody.
    fn without_session(&self, client: &Client) {
        let request = client.request("GET", "/echo").header("X-authentik-username", USERS[0].0);
        self.judge("no session", request, |reply, _| is(reply, 302));
    }

    /// A client that leaves before it has an answer, or while it sends.
    fn leave(&self, user: usize) {
        let request = format!(
            "GET /api/users/me HTTP/1.1\r\nHost: npm\r\nCookie: {}\r\n\r\n",
            self.sessions[user].cookie()
        );
        let left = self.nginx.client().connect().and_then(|mut stream| {
            stream.write_all(request.as_bytes())?;
            stream.flush()
        });
        self.note("left", left.map_err(|error| error.to_string()));
    }

    /// Sends a request and notes what became of it. `check` is told whether to be lenient.
    fn judge(
        &self,
        kind: &'static str,
        request: RequestBuilder<'_>,
        check: impl FnOnce(&Reply, bool) -> Result<(), String>,
    ) {
        let before = self.trouble.load(Ordering::SeqCst);
        let reply = request.try_send();
        let after = self.trouble.load(Ordering::SeqCst);
        let lenient = before != after || before % 2 == 1;
        let verdict = reply.map_err(|error: io::Error| error.to_string()).and_then(|reply| {
            let verdict = match reply.text().contains("Token has expired") {
                true => Err("an expired token was sent".to_owned()),
                false => check(&reply, lenient),
            };
            let when = if lenient { "NPM had a fault" } else { "all was well" };
            verdict.map_err(|error| {
                format!("{error}; status {}, token {:?}, {when}", reply.status, status(&reply))
            })
        });
        self.note(kind, verdict);
    }

    fn note(&self, kind: &'static str, verdict: Result<(), String>) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let tally = tally.entry(kind).or_default();
        tally.requests += 1;
        if let Err(error) = verdict {
            tally.failures += 1;
            if tally.examples.len() < SHOWN {
                let now = unix_seconds() % 86_400;
                let time = format!("{:02}:{:02}:{:02}", now / 3600, now / 60 % 60, now % 60);
                tally.examples.push(format!("{time} UTC: {error}"));
            }
        }
    }

    /// Reloads nginx, in every other part of the time.
    fn reload(&self, part: Duration) {
        let begun = Instant::now();
        while !self.stop.pause(RELOAD_INTERVAL) {
            if begun.elapsed().as_millis() / part.as_millis().max(1) % 2 == 0 {
                self.nginx.reload();
                self.note("reload", Ok(()));
            }
        }
    }

    /// Has NPM go wrong now and then, and sees to it that everybody has a token again afterwards.
    fn disturb(&self, end: Instant) {
        for (name, begin, finish) in FAULTS.into_iter().cycle() {
            if self.stop.pause(CALM) {
                return;
            }
            if Instant::now() + FAULT + 2 * TIMEOUT + RECOVERY > end {
                // It would not be over in time.
                continue;
            }
            self.trouble.fetch_add(1, Ordering::SeqCst);
            begin(&self.npm);
            self.stop.pause(FAULT);
            finish(&self.npm);
            // What was begun meanwhile fails as late as that.
            self.stop.pause(2 * TIMEOUT);
            let client = self.nginx.client();
            let recovered = happens(RECOVERY, || {
                thread::sleep(Duration::from_millis(100));
                let has_token = |session: &Session| {
                    let request = client.request("GET", "/api/users/me").cookie(session);
                    request.try_send().is_ok_and(|reply| reply.status == 200 && has_token(&reply))
                };
                self.sessions.iter().all(has_token) && !Counts::of(&self.nginx).is_failing()
            });
            self.trouble.fetch_add(1, Ordering::SeqCst);
            let verdict = if recovered { Ok(()) } else { Err("no token afterwards".to_owned()) };
            self.note(name, verdict);
        }
    }

    fn progress(&self, elapsed: Duration) -> String {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let (requests, failures) =
            tally.values().fold((0, 0), |sum, t| (sum.0 + t.requests, sum.1 + t.failures));
        drop(tally);
        format!(
            "{:>5} s  {requests} requests, {failures} failures, {}\n         {}",
            elapsed.as_secs(),
            Counts::of(&self.nginx),
            Memory::of(&self.nginx)
        )
    }

    /// Ends nginx, and prints what there is to say. Returns the number of failures.
    fn report(&mut self) -> u64 {
        let quit = self.nginx.quit();
        if !quit.success() {
            self.note("end", Err(format!("nginx ended with {quit}")));
        }
        for level in ["[alert]", "[crit]", "[emerg]"] {
            for line in self.nginx.log_lines(level) {
                self.note("error log", Err(line));
            }
        }
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        println!("\n{:<20} {:>10} {:>10}", "", "requests", "failures");
        for (kind, tally) in tally.iter() {
            println!("{kind:<20} {:>10} {:>10}", tally.requests, tally.failures);
            tally.examples.iter().for_each(|example| println!("    {example}"));
        }
        let failures: u64 = tally.values().map(|tally| tally.failures).sum();
        if failures == 0 {
            println!("\nAll as it should be.");
        } else {
            println!("\nThere were failures; nginx said:");
            self.nginx.log_lines("npm_token_inject").iter().for_each(|line| println!("    {line}"));
        }
        failures
    }
}

fn status(reply: &Reply) -> &str {
    reply.header("X-Status").unwrap_or_default()
}

fn has_token(reply: &Reply) -> bool {
    matches!(status(reply), "hit" | "miss") && reply.status < 500
}

fn signed_in(reply: &Reply) -> Result<(), String> {
    match status(reply) {
        "hit" | "miss" => Ok(()),
        other => Err(format!("token status {other:?}")),
    }
}

fn is(reply: &Reply, status: u16) -> Result<(), String> {
    same("status", reply.status, status)
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("{what} {found:?} instead of {expected:?}")),
    }
}

/// The request reached NPM without any `Authorization`.
fn without_token(reply: &Reply, lenient: bool, expected: &str) -> Result<(), String> {
    same("token status", status(reply), expected)?;
    if lenient && reply.status == 502 {
        return Ok(());
    }
    is(reply, 200)?;
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    same("tokens sent:", authorizations(&body).len(), 0)
}

/// Every `Authorization` that reached NPM, by its own words.
fn authorizations(echo: &Value) -> Vec<&str> {
    let headers = echo["headers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let named = headers.iter().filter(|pair| {
        pair[0].as_str().is_some_and(|name| name.eq_ignore_ascii_case("authorization"))
    });
    named.filter_map(|pair| pair[1].as_str()).collect()
}

/// What a JWT says.
fn claims(authorization: &str) -> Option<Value> {
    let payload = authorization.strip_prefix("Bearer ")?.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or_default()
}

/// What the module has counted.
struct Counts(Value);

impl Counts {
    /// Whether an account is waiting for its next try: its token may end before.
    fn is_failing(&self) -> bool {
        let accounts = self.0["accounts"].as_array().map(Vec::as_slice).unwrap_or_default();
        accounts.is_empty() || accounts.iter().any(|account| !account["next_try"].is_null())
    }

    fn of(nginx: &Nginx) -> Self {
        let reply = nginx.client().request("GET", "/npm-token-status").try_send();
        Self(
            reply.map_or(Value::Null, |reply| {
                serde_json::from_slice(&reply.body).unwrap_or_default()
            }),
        )
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let accounts = self.0["accounts"].as_array().map(Vec::as_slice).unwrap_or_default();
        let sum = |name: &str| accounts.iter().filter_map(|a| a[name].as_u64()).sum::<u64>();
        write!(
            f,
            "{} logins, {} renewals, {} of both failed, {} waits",
            sum("logins"),
            sum("renewals"),
            sum("failures"),
            sum("waits")
        )
    }
}

/// The memory of nginx's processes.
struct Memory {
    master: u64,
    workers: Vec<u64>,
}

impl Memory {
    fn of(nginx: &Nginx) -> Self {
        let workers = nginx.worker_pids().into_iter().map(resident).collect();
        Self { master: resident(nginx.master_pid()), workers }
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "memory: master {} KiB, workers {:?} KiB", self.master, self.workers)
    }
}

/// A process's `VmRSS`, in KiB.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

/// Numbers in no order, the same each time (Knuth's MMIX).
struct Dice(u64);

impl Dice {
    fn throw(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}
