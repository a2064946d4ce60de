//! NPM behind nginx with the module, without Authentik, and requests to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use serde_json::{json, Value};
use testbed::client::RequestBuilder;
use testbed::nginx::Builder;
use testbed::process::Process;
use testbed::{eventually, Client, Nginx, Npm, Reply};

/// An administrator of the small NPM's.
pub const ADMIN: &str = "admin@example.com";

/// Another.
pub const BOB: &str = "bob@example.com";

/// What NPM's web UI asks to learn who is signed in.
pub const ME: &str = "/api/users/me";

/// What the module logs of a login that NPM granted, and of one that failed.
pub const SIGNED_IN: &str = "npm_token_inject: signed in";
pub const FAILED: &str = "npm_token_inject: login of";

/// How long anything may take that takes no time.
pub const SOON: Duration = Duration::from_secs(10);

/// How long an answer may take that waits for nobody, on a machine that has much to do. What would
/// wait for NPM, would do so for the five seconds of the default `timeout`.
pub const AT_ONCE: Duration = Duration::from_secs(3);

/// How long a pause between the requests of one client is.
const BREATH: Duration = Duration::from_millis(2);

/// An NPM whose logins take no time.
pub fn quick_npm() -> Npm {
    Npm::builder().login_time(Duration::ZERO).start()
}

/// An accounts file by which everybody is NPM's administrator.
pub fn accounts(npm: &Npm) -> Value {
    accounts_at(&npm.url(), &npm.secret(ADMIN))
}

/// The same, for the NPM at `url`.
pub fn accounts_at(url: &str, secret: &str) -> Value {
    json!({"api": url, "accounts": [{"user": "*", "identity": ADMIN, "secret": secret}]})
}

/// The accounts file with another `timeout`.
pub fn with_timeout(mut accounts: Value, timeout: &str) -> String {
    accounts["timeout"] = timeout.into();
    accounts.to_string()
}

/// nginx before NPM.
///
/// | location | |
/// |---|---|
/// | `/` | NPM, for a user whom `X-User` names, else `akadmin` |
/// | `/deny/` | the same with `on_error=deny` |
/// | `/as/` | NPM, with the credentials in `X-Credentials` |
/// | `/pid` | the worker |
/// | `/requests` | how many there are |
pub fn site(npm: &Npm) -> Builder {
    let directive = "npm_token_inject accounts.json user=$user trust_headers=on";
    let npm_url = npm.url();
    Nginx::builder()
        .accounts(&accounts(npm).to_string())
        .http("map $http_x_user $user { default $http_x_user; '' akadmin; }")
        .http("add_header X-Status $npm_token_status always;")
        .location("/", &format!("{directive}; proxy_pass {npm_url};"))
        .location("/deny/", &format!("{directive} on_error=deny; proxy_pass {npm_url}/;"))
        .location(
            "/as/",
            &format!("{directive} credentials=$http_x_credentials; proxy_pass {npm_url}/;"),
        )
        .location("= /pid", "return 200 $pid;")
        .location("= /requests", "stub_status;")
}

/// A site with many requests: its log is kept short, and each worker has its share of them.
pub fn busy_site(npm: &Npm, workers: usize) -> Builder {
    busy(site(npm)).workers(workers)
}

/// As [`busy_site`].
pub fn busy(site: Builder) -> Builder {
    site.http("error_log error.log notice;").listen("reuseport backlog=4096")
}

/// The status of a request's token.
pub fn status(reply: &Reply) -> &str {
    reply.header("X-Status").unwrap_or_default()
}

/// The user that NPM takes a request to [`ME`] for.
pub fn email(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{reply:?}");
    reply.json()["email"].as_str().unwrap_or_default().to_owned()
}

/// Whether the request to [`ME`] was signed in to NPM.
pub fn is_signed_in(reply: &Reply) -> bool {
    reply.status == 200 && email(reply) == ADMIN
}

/// What reached NPM as `Authorization`, by its own words at `/echo`.
pub fn echoed_authorization(reply: &Reply) -> Vec<String> {
    assert_eq!(reply.status, 200, "{reply:?}");
    let body = reply.json();
    let headers = body["headers"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pairs = headers.iter().map(|pair| (text(&pair[0]), text(&pair[1])));
    pairs.filter(|pair| pair.0.eq_ignore_ascii_case("authorization")).map(|pair| pair.1).collect()
}

/// Connections to each worker, `count` of them, by its process.
pub fn clients_by_worker(nginx: &Nginx, count: usize) -> BTreeMap<u32, Vec<Client>> {
    let workers = nginx.worker_pids();
    let mut clients: BTreeMap<u32, Vec<Client>> = BTreeMap::new();
    eventually(SOON, "connections to all workers", || {
        let client = nginx.client();
        let pid = client.get("/pid").text().parse().expect("the process of a worker");
        let of_worker = clients.entry(pid).or_default();
        if of_worker.len() < count {
            of_worker.push(client);
        }
        workers.iter().all(|pid| clients.get(pid).is_some_and(|c| c.len() == count))
    });
    clients.retain(|pid, _| workers.contains(pid));
    // A worker counts a request until it frees it, which is after its answer. Of these it counts none
    // any more when it has answered another.
    let mut behind: BTreeSet<_> = workers.into_iter().collect();
    eventually(SOON, "all workers", || {
        behind.remove(&get_to_the_end(nginx, "/pid").trim().parse().expect("a process"));
        behind.is_empty()
    });
    clients
}

/// The answer's body, read to the connection's end: by then its request is counted no more.
fn get_to_the_end(nginx: &Nginx, path: &str) -> String {
    let mut stream = nginx.client().connect().expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: npm\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("a request sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a reply");
    reply.split_once("\r\n\r\n").expect("a head").1.to_owned()
}

/// How many requests are under way, those that wait for a login among them.
pub fn under_way(nginx: &Nginx) -> usize {
    // Another worker may be asked the next time.
    let page = get_to_the_end(nginx, "/requests");
    let writing = page.split_once("Writing: ").and_then(|(_, rest)| rest.split(' ').next());
    // The request that asks is one of them.
    writing.and_then(|count| count.parse::<usize>().ok()).expect("stub_status") - 1
}

/// Waits until `count` requests are under way.
pub fn wait_until_under_way(nginx: &Nginx, count: usize) {
    eventually(SOON, &format!("{count} requests to be under way"), || under_way(nginx) == count);
}

/// Has several clients send requests, one after the other, while `act` runs. What became of them,
/// and what `act` has found.
pub fn under_load<T>(
    clients: usize,
    request: impl Fn(&Client) -> io::Result<Reply> + Sync,
    nginx: &Nginx,
    act: impl FnOnce() -> T,
) -> (Vec<io::Result<Reply>>, T) {
    /// Ends the load, also when `act` panics.
    struct Stop<'a>(&'a AtomicBool);
    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let stopped = AtomicBool::new(false);
    let send = || {
        let client = nginx.client();
        let mut results = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            results.push(request(&client));
            thread::sleep(BREATH);
        }
        results
    };
    thread::scope(|scope| {
        let stop = Stop(&stopped);
        let senders: Vec<_> = (0..clients).map(|_| scope.spawn(send)).collect();
        let found = act();
        drop(stop);
        let results = senders.into_iter().flat_map(|sender| sender.join().expect("a sender"));
        (results.collect(), found)
    })
}

/// Asks who is signed in.
pub fn me(client: &Client) -> io::Result<Reply> {
    client.request("GET", ME).try_send()
}

/// A request to [`ME`] with credentials of its own.
pub fn me_with<'c>(client: &'c Client, identity: &str, secret: &str) -> RequestBuilder<'c> {
    let pair = STANDARD.encode(format!("{identity}:{secret}"));
    let request = client.request("GET", &format!("/as{ME}"));
    request.header("X-Credentials", &format!("Basic {pair}"))
}

/// The names of a process's threads, but for the first.
pub fn threads(pid: u32) -> Vec<String> {
    let name = |task: fs::DirEntry| fs::read_to_string(task.path().join("comm")).ok();
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let others = tasks.filter(|task| task.file_name().to_string_lossy() != pid.to_string());
    others.filter_map(name).map(|name| name.trim_end().to_owned()).collect()
}

/// The workers that accept connections.
pub fn workers(nginx: &Nginx) -> Vec<Process> {
    nginx.worker_pids().into_iter().map(Process::of).collect()
}

/// Does it, and says how long that took.
pub fn timed<T>(act: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let done = act();
    (done, begun.elapsed())
}

/// The answer to a request by the Unix socket `socket` in nginx's folder, which is no connection of
/// this machine's loopback interface. It says in `X-Real-IP` that it comes from an address.
pub fn get_by_socket(nginx: &Nginx, path: &str, address: &str) -> String {
    let mut stream = UnixStream::connect(nginx.dir().join("socket")).expect("the socket");
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: npm\r\nX-Real-IP: {address}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).expect("a request sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("a reply");
    reply
}
