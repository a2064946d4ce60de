//! Faults of NPM's, of the network's and of the machine's, and what requests got meanwhile.

use std::cmp;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde_json::{json, Value};
use testbed::nginx::{is_openresty, kill, Builder};
use testbed::process::Process;
use testbed::{eventually, Client, Fault, Nginx, Npm, Reply, Tls};

use crate::site::*;

/// The `timeout` of these tests' accounts files, where NPM does not answer.
const TIMEOUT: &str = "1s";

/// Longer than that, and than all that a worker does besides.
const GIVEN_UP: Duration = Duration::from_secs(5);

fn echo(client: &Client) -> io::Result<Reply> {
    client.request("GET", "/echo").try_send()
}

fn has_token(reply: &Reply) -> bool {
    matches!(status(reply), "hit" | "miss")
}

/// Each request was answered in time, and reached its destination with a token or with nothing.
fn assert_all_served(results: &[io::Result<Reply>]) {
    assert!(results.len() > 20, "only {} requests", results.len());
    for reply in results.iter().map(|result| result.as_ref().expect("a reply")) {
        assert_eq!(echoed_authorization(reply).len(), usize::from(has_token(reply)), "{reply:?}");
        assert!(has_token(reply) || status(reply) == "error", "{reply:?}");
        assert!(reply.time < GIVEN_UP, "{:?}", reply.time);
    }
}

/// Where there is no token, a request goes on without one or is denied, at once.
fn assert_without_token(client: &Client) {
    let (passed, denied) = (client.get("/echo"), client.get("/deny/echo"));
    assert_eq!((status(&passed), echoed_authorization(&passed).len()), ("error", 0));
    assert_eq!((status(&denied), denied.status), ("error", 502));
    assert!(passed.time < AT_ONCE && denied.time < AT_ONCE, "{passed:?}");
}

/// Without a reload or anything else, requests get tokens again.
fn assert_recovers(client: &Client) {
    eventually(SOON, "a token", || has_token(&client.get("/echo")));
    let reply = client.get("/deny/echo");
    assert_eq!((status(&reply), echoed_authorization(&reply).len()), ("hit", 1));
}

fn identity(number: usize) -> String {
    format!("user{number}@example.com")
}

/// An NPM with that many users besides the administrator.
fn npm_with_users(count: usize) -> testbed::npm::Builder {
    let npm = Npm::builder().administrator(ADMIN, "admin-secret").login_time(Duration::ZERO);
    (0..count).fold(npm, |npm, n| npm.user(&identity(n), "secret"))
}

/// A request on a connection of its own, but for its last bytes. Its connection cannot be
/// taken back by nginx, as one that has not been used yet can.
fn begin(nginx: &Nginx, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", nginx.port())).expect("a connection");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    let head = format!("GET {target} HTTP/1.1\r\nConnection: close\r\n");
    stream.write_all(head.as_bytes()).expect("half a request");
    stream
}

/// Sends the last bytes of a request, and reads the reply as text.
fn finish(mut stream: TcpStream) -> String {
    let mut reply = String::new();
    stream.write_all(b"Host: npm\r\n\r\n").expect("the rest of a request");
    stream.read_to_string(&mut reply).expect("a reply");
    reply
}

#[test]
fn npm_restarted_while_a_token_is_cached_costs_no_login() {
    let npm = quick_npm();
    let nginx = busy_site(&npm, 2).start();
    assert!(is_signed_in(&nginx.client().get(ME)));
    let (results, ()) = under_load(4, me, &nginx, || {
        for _ in 0..5 {
            npm.stop();
            thread::sleep(Duration::from_millis(50));
            npm.start_again();
            eventually(SOON, "NPM", || nginx.client().get(ME).status == 200);
        }
    });
    // nginx itself answers 502 while nobody listens.
    for reply in results.iter().map(|result| result.as_ref().expect("a reply")) {
        assert!(reply.status == 502 || is_signed_in(reply), "{reply:?}");
        assert_eq!(status(reply), "hit");
    }
    assert_eq!(npm.logins(), 1);
    assert!(nginx.log_lines(FAILED).is_empty());
}

#[test]
fn npm_restarted_while_no_token_is_cached_is_found_when_it_is_back() {
    let (npm, content) = (quick_npm(), quick_npm());
    npm.stop();
    // NPM is not there, or answers: a login that a busy machine holds up is no timeout.
    let nginx = busy_site(&content, 2).accounts(&with_timeout(accounts(&npm), "3s")).start();
    let (results, ()) = under_load(4, echo, &nginx, || {
        nginx.wait_for_log(FAILED, SOON);
        assert_without_token(&nginx.client());
        npm.start_again();
        assert_recovers(&nginx.client());
    });
    assert_all_served(&results);
    assert_eq!(npm.logins(), 1);
}

#[test]
fn npm_that_goes_down_during_a_login_keeps_nobody_waiting() {
    let (npm, content) = (quick_npm(), quick_npm());
    npm.fault(Fault::Hold);
    let nginx = busy_site(&content, 2).accounts(&accounts(&npm).to_string()).start();
    thread::scope(|scope| {
        let clients = clients_by_worker(&nginx, 2).into_values().flatten();
        let waiting: Vec<_> =
            clients.map(|client| scope.spawn(move || client.get("/echo"))).collect();
        wait_until_under_way(&nginx, 4);
        eventually(SOON, "the login", || npm.logins() == 1);
        npm.stop();
        for waiting in waiting {
            let reply = waiting.join().expect("a reply");
            assert_eq!((status(&reply), echoed_authorization(&reply).len()), ("error", 0));
        }
    });
    assert_eq!(npm.logins(), 1);
    npm.clear_fault();
    npm.start_again();
    assert_recovers(&nginx.client());
    assert_eq!(npm.logins(), 2);
    // A worker that a busy machine holds up until the pause is over tries for itself.
    assert!((1..=2).contains(&nginx.log_lines(FAILED).len()), "{:?}", nginx.log_lines(FAILED));
}

/// An address that takes no connection and refuses none: its queue is full, so that Linux drops
/// what asks for one.
struct Blackhole {
    listener: TcpListener,
    _queue: Vec<TcpStream>,
}

impl Blackhole {
    fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        // SAFETY: the descriptor is open, as `listener` owns it. Linux takes the new number.
        unsafe { libc::listen(listener.as_raw_fd(), 0) };
        let address = listener.local_addr().expect("the port of a bound socket");
        let mut queue = Vec::new();
        let full = loop {
            match TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
                Ok(stream) => queue.push(stream),
                Err(error) => break error,
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::TimedOut, "{full}, {queue:?}");
        Self { listener, _queue: queue }
    }

    fn port(&self) -> u16 {
        self.listener.local_addr().expect("the port of a bound socket").port()
    }
}

#[test]
fn a_connection_that_nobody_answers_is_given_up_and_made_when_somebody_does() {
    let (blackhole, content) = (Blackhole::start(), quick_npm());
    let port = blackhole.port();
    let accounts = accounts_at(&format!("http://127.0.0.1:{port}"), "admin-secret");
    let nginx = busy_site(&content, 2).accounts(&with_timeout(accounts, TIMEOUT)).start();
    let (results, npm) = under_load(4, echo, &nginx, || {
        let line = nginx.wait_for_log(FAILED, SOON);
        assert!(line.contains("did not answer within 1s"), "{line}");
        assert_without_token(&nginx.client());
        drop(blackhole);
        let npm = Npm::builder().port(port).login_time(Duration::ZERO).start();
        assert_recovers(&nginx.client());
        npm
    });
    assert_all_served(&results);
    // A first one may take longer than TIMEOUT on a busy machine.
    assert!((1..=2).contains(&npm.logins()), "{} logins", npm.logins());
}

/// nginx in a mount namespace where name resolution asks a server that never answers. `None` where
/// the system does not permit that.
fn start_with_silent_dns(site: Builder, server: &UdpSocket) -> Option<Nginx> {
    let permitted = Command::new("unshare").args(["--mount", "true"]).status();
    let address = permitted.ok()?.success().then_some(server.local_addr().ok()?.ip())?;
    let script = "mount --bind resolv.conf /etc/resolv.conf && exec \"$0\" \"$@\"";
    let site = site.run_by(&["unshare", "--mount", "sh", "-c", script]);
    Some(site.file("resolv.conf", format!("nameserver {address}\noptions timeout:30\n")).start())
}

#[test]
fn a_name_server_that_never_answers_is_given_up() {
    // The port of name servers, which is root's to give.
    let Ok(server) = UdpSocket::bind(("127.1.2.3", 53)) else { return };
    let content = quick_npm();
    let accounts = accounts_at("http://npm.example.com:81", "admin-secret");
    let site = busy_site(&content, 1).accounts(&with_timeout(accounts, TIMEOUT));
    let Some(mut nginx) = start_with_silent_dns(site, &server) else { return };
    let (results, ()) = under_load(4, echo, &nginx, || {
        // One second's pause, then another try.
        eventually(SOON, "two logins", || nginx.log_lines(FAILED).len() == 2);
        assert_without_token(&nginx.client());
    });
    assert_all_served(&results);
    assert!(server.recv(&mut [0; 512]).is_ok(), "a question was asked");
    let line = &nginx.log_lines(FAILED)[0];
    for part in ["NPM at http://npm.example.com:81", "did not answer within 1s"] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    // Threads that still wait for the name server hold up neither an exit nor anything else.
    let (status, time) = timed(|| nginx.quit());
    assert!(status.success() && time < SOON, "{status} after {time:?}");
}

#[test]
fn an_npm_whose_certificate_changes_serves_until_its_new_authority_is_known() {
    let (old, new) = (Arc::new(Tls::localhost()), Arc::new(Tls::localhost()));
    let content = quick_npm();
    let npm = npm_with_users(2).tls(&old).start();
    let account =
        |n: usize| json!({"user": n.to_string(), "identity": identity(n), "secret": "secret"});
    let accounts =
        json!({"api": npm.url(), "ca_file": "ca.pem", "accounts": [account(0), account(1)]});
    let nginx =
        busy_site(&content, 2).accounts(&accounts.to_string()).file("ca.pem", old.ca_pem()).start();
    let echo = |user: &str| nginx.client().request("GET", "/echo").header("X-User", user).send();
    assert_eq!(status(&echo("0")), "miss");

    let port = npm.port();
    drop(npm);
    let npm = npm_with_users(2).tls(&new).port(port).start();
    assert_eq!(status(&echo("0")), "hit");
    let reply = echo("1");
    assert_eq!((status(&reply), echoed_authorization(&reply).len()), ("error", 0));
    assert_eq!(npm.logins(), 0);
    let line = nginx.wait_for_log(FAILED, SOON);
    assert!(line.contains("could not be trusted") && line.contains("\"ca_file\""), "{line}");

    nginx.write_file("ca.pem", new.ca_pem());
    nginx.reload();
    eventually(SOON, "a token", || has_token(&echo("1")));
    assert_eq!(npm.logins(), 1);
}

#[test]
fn more_accounts_at_once_than_the_zone_holds_get_their_own_tokens() {
    const ACCOUNTS: usize = 300;
    let npm = npm_with_users(ACCOUNTS).start();
    let nginx = busy_site(&npm, 4).http("npm_token_inject_zone 256k;").start();
    let next = AtomicUsize::new(0);
    let request = |client: &Client| {
        let number = next.fetch_add(1, Ordering::Relaxed) % ACCOUNTS;
        let reply = me_with(client, &identity(number), "secret").try_send()?;
        assert_eq!(email(&reply), identity(number));
        assert!(has_token(&reply), "{reply:?}");
        Ok(reply)
    };
    let (results, ()) = under_load(16, request, &nginx, || {
        eventually(Duration::from_secs(30), "three rounds", || {
            next.load(Ordering::Relaxed) > 3 * ACCOUNTS
        });
    });
    assert!(results.iter().all(Result::is_ok));
    assert!(nginx.log_lines("[error]").is_empty(), "{:?}", nginx.log_lines("[error]"));
}

/// An accounts file with that many users, each with an account of its own.
fn accounts_of_many(npm: &Npm, count: usize, timeout: &str) -> String {
    let account =
        |n: usize| json!({"user": n.to_string(), "identity": identity(n), "secret": "secret"});
    let accounts: Vec<Value> = (0..count).map(account).collect();
    json!({"api": npm.url(), "timeout": timeout, "accounts": accounts}).to_string()
}

/// Sends a request to `/echo` for the user of that number, and waits for no reply.
fn send_as(nginx: &Nginx, user: usize) -> TcpStream {
    let mut stream = begin(nginx, "/echo");
    write!(stream, "Host: npm\r\nX-User: {user}\r\n\r\n").expect("the rest of a request");
    stream
}

#[test]
fn an_npm_that_hangs_keeps_nobody_waiting_for_another() {
    const ACCOUNTS: usize = 8;
    let (hanging, healthy) = (npm_with_users(ACCOUNTS).start(), quick_npm());
    hanging.fault(Fault::Hang);
    let directive = "npm_token_inject healthy.json user=$user trust_headers=on";
    let nginx = busy_site(&healthy, 1)
        .accounts(&accounts_of_many(&hanging, ACCOUNTS, "60s"))
        .file_with_mode("healthy.json", accounts(&healthy).to_string(), 0o600)
        .location("/healthy/", &format!("{directive}; proxy_pass {}/;", healthy.url()))
        .start();
    let waiting: Vec<_> = (0..ACCOUNTS).map(|user| send_as(&nginx, user)).collect();
    wait_until_under_way(&nginx, ACCOUNTS);
    eventually(SOON, "the login that hangs", || hanging.logins() == 1);

    let reply = nginx.client().get(&format!("/healthy{ME}"));
    assert_eq!((status(&reply), is_signed_in(&reply)), ("miss", true));
    // None of the others has been given up meanwhile.
    assert_eq!((under_way(&nginx), hanging.logins()), (ACCOUNTS, 1));
    drop(waiting);
}

#[test]
fn all_that_wait_for_an_npm_that_does_not_answer_fail_together() {
    const ACCOUNTS: usize = 20;
    let (npm, content) = (npm_with_users(ACCOUNTS).start(), quick_npm());
    npm.fault(Fault::Hang);
    let accounts = accounts_of_many(&npm, ACCOUNTS, "5s");
    let nginx = busy_site(&content, 1).accounts(&accounts).start();
    let mut waiting: Vec<_> = (0..ACCOUNTS).map(|user| send_as(&nginx, user)).collect();
    wait_until_under_way(&nginx, ACCOUNTS);
    for stream in &mut waiting {
        let mut reply = String::new();
        stream.read_to_string(&mut reply).expect("a reply");
        assert!(reply.contains("X-Status: error"), "{reply}");
    }
    eventually(SOON, "a line for each", || nginx.log_lines(FAILED).len() == ACCOUNTS);
    let lines = nginx.log_lines(FAILED);
    assert!(lines.iter().all(|line| line.contains("did not answer within 5s")), "{lines:?}");
    // NPM has been asked for one of them.
    assert_eq!(npm.logins(), 1);

    npm.clear_fault();
    for user in 0..ACCOUNTS {
        eventually(SOON, "a token", || {
            let request = nginx.client();
            has_token(&request.request("GET", "/echo").header("X-User", &user.to_string()).send())
        });
    }
    assert_eq!(npm.logins(), 1 + ACCOUNTS);
}

/// While NPM hangs, logins are asked for again and again. They are not all done when it is back.
#[test]
fn logins_do_not_pile_up_while_npm_hangs() {
    const ACCOUNTS: usize = 30;
    let (npm, content) = (npm_with_users(ACCOUNTS).start(), quick_npm());
    npm.fault(Fault::Hang);
    let accounts = accounts_of_many(&npm, ACCOUNTS, "100ms");
    let nginx = busy_site(&content, 1).accounts(&accounts).start();
    let next = AtomicUsize::new(0);
    let request = |client: &Client| {
        let number = next.fetch_add(1, Ordering::Relaxed) % ACCOUNTS;
        client.request("GET", "/echo").header("X-User", &number.to_string()).try_send()
    };
    let (results, logins) = under_load(ACCOUNTS, request, &nginx, || {
        thread::sleep(Duration::from_secs(6));
        let logins = npm.logins();
        npm.clear_fault();
        let client = nginx.client();
        eventually(Duration::from_secs(40), "tokens for all", || {
            (0..ACCOUNTS).all(|_| has_token(&request(&client).expect("a reply")))
        });
        // What else has been asked for is done by then, too.
        thread::sleep(Duration::from_millis(500));
        npm.logins() - logins
    });
    assert_all_served(&results);
    assert!(logins <= ACCOUNTS + ACCOUNTS / 2, "{logins} logins for {ACCOUNTS} accounts");
}

#[test]
fn the_only_worker_killed_during_a_login_is_followed_by_one_that_logs_in() {
    let npm = quick_npm();
    npm.fault(Fault::Hold);
    let mut nginx = busy_site(&npm, 1).start();
    nginx.expect_crash();
    let worker = nginx.worker_pids()[0];
    thread::scope(|scope| {
        // They send their requests again, as browsers do.
        let waiting: Vec<_> = (0..4).map(|_| scope.spawn(|| retry(&nginx))).collect();
        wait_until_under_way(&nginx, 4);
        eventually(SOON, "the login", || npm.logins() == 1);
        kill(worker, libc::SIGKILL);
        eventually(SOON, "another login", || npm.logins() == 2);
        npm.clear_fault();
        for waiting in waiting {
            let reply = waiting.join().expect("a reply");
            assert!(is_signed_in(&reply) && reply.time < SOON, "{reply:?}");
        }
    });
    assert_eq!(npm.logins(), 2);
    assert_eq!(status(&nginx.client().get(ME)), "hit");
}

/// Asks who is signed in, until there is an answer.
fn retry(nginx: &Nginx) -> Reply {
    let mut reply = None;
    eventually(SOON, "a reply", || {
        reply = me(&nginx.client()).ok();
        reply.is_some()
    });
    reply.expect("a reply")
}

#[test]
fn the_only_worker_killed_during_a_renewal_is_followed_by_one_that_renews() {
    /// Between the moment from which a token is renewed and the one from which it is not used any more
    /// is a twentieth of this at the least: a busy machine has a new worker by then.
    const LIFE: Duration = Duration::from_secs(40);

    let npm = Npm::builder().login_time(Duration::ZERO).token_lifetime(LIFE).start();
    npm.set_renewal_time(Duration::from_secs(60));
    let mut nginx = busy_site(&npm, 1).start();
    nginx.expect_crash();
    let worker = nginx.worker_pids()[0];
    assert_eq!(status(&retry(&nginx)), "miss");
    let renewals = || npm.requests_to("/api/tokens").iter().filter(|r| r.method == "GET").count();
    let hit_until = |what: &str, condition: &dyn Fn() -> bool| {
        eventually(LIFE, what, || {
            let reply = retry(&nginx);
            assert_eq!((status(&reply), is_signed_in(&reply)), ("hit", true));
            condition()
        });
    };
    hit_until("a renewal", &|| renewals() == 1);
    npm.set_renewal_time(Duration::ZERO);
    kill(worker, libc::SIGKILL);
    hit_until("another renewal", &|| renewals() == 2);
    hit_until("its line", &|| !nginx.log_lines("npm_token_inject: renewed").is_empty());
    assert_eq!(npm.logins(), 1);
}

#[test]
fn fifty_reloads_under_load_fail_no_request() {
    let npm = Npm::builder()
        .login_time(Duration::from_millis(20))
        .token_lifetime(Duration::from_secs(8))
        .start();
    let nginx = busy_site(&npm, 2).start();
    assert!(is_signed_in(&nginx.client().get(ME)));
    let workers = workers(&nginx);
    let (results, ()) = under_load(4, me, &nginx, || (0..50).for_each(|_| nginx.reload()));
    assert!(results.len() > 500, "only {} requests", results.len());
    for reply in results.iter().map(|result| result.as_ref().expect("a reply")) {
        assert!(is_signed_in(reply) && has_token(reply), "{reply:?}");
    }
    eventually(SOON, "the old workers' end", || !workers.iter().any(Process::runs));
    assert!(nginx.log_lines("[alert]").is_empty(), "{:?}", nginx.log_lines("[alert]"));
}

/// After a reload with `master_process off` nginx has no connections to give, with this module or
/// without: it answers nobody any more (`ngx_single_process_cycle` starts no process anew). The
/// module makes that no crash. OpenResty ends.
#[test]
fn a_reload_without_a_master_does_what_nginx_itself_does() {
    let npm = quick_npm();
    let mut nginx = site(&npm).single_process().start();
    let reply = nginx.client().get(ME);
    assert_eq!((status(&reply), is_signed_in(&reply)), ("miss", true));
    if is_openresty() {
        nginx.signal(libc::SIGHUP);
        eventually(SOON, "the end", || nginx.exit_status().is_some());
        assert!(nginx.exit_status().is_some_and(|status| status.success()));
        return;
    }
    for _ in 0..3 {
        nginx.signal(libc::SIGHUP);
        thread::sleep(Duration::from_millis(100));
        // Whatever comes of it.
        let _ = me(&nginx.client().timeout(Duration::from_millis(500)));
    }
    assert!(nginx.exit_status().is_none(), "{}", nginx.error_log_excerpt());
    assert!(nginx.terminate().success());
}

/// A site with locations that need no descriptor, and no connection but their client's.
fn site_on_its_own(npm: &Npm) -> Builder {
    let directive = "npm_token_inject accounts.json user=$user trust_headers=on";
    site(npm)
        .location("= /signed", &format!("{directive}; stub_status;"))
        .location("= /signed/deny", &format!("{directive} on_error=deny; stub_status;"))
}

/// Two requests that nginx has taken in already: no login can be started, so the first goes on
/// without a token and the second is denied. Returns the line that says why.
fn assert_no_login(nginx: &Nginx, passed: TcpStream, denied: TcpStream) -> String {
    let ((passed, denied), time) = timed(|| (finish(passed), finish(denied)));
    assert!(passed.starts_with("HTTP/1.1 200") && passed.contains("X-Status: error"), "{passed}");
    assert!(denied.starts_with("HTTP/1.1 502") && denied.contains("X-Status: error"), "{denied}");
    assert!(time < AT_ONCE, "{time:?}");
    nginx.wait_for_log(FAILED, SOON)
}

/// How many descriptors of a process are below a limit: others may have been inherited.
fn descriptors_below(pid: u32, limit: usize) -> usize {
    let names = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").flatten();
    let number = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<usize>().ok();
    names.filter_map(number).filter(|&number| number < limit).count()
}

#[test]
fn a_worker_without_descriptors_says_so_and_recovers() {
    const LIMIT: usize = 48;
    // A login takes two for the thread, and one for NPM.
    for left in 0..3 {
        let npm = quick_npm();
        let nginx =
            busy(site_on_its_own(&npm)).main(&format!("worker_rlimit_nofile {LIMIT};")).start();
        let worker = nginx.worker_pids()[0];
        let (passed, denied) = (begin(&nginx, "/signed"), begin(&nginx, "/signed/deny"));
        let mut others = Vec::new();
        eventually(SOON, "all descriptors taken", || {
            let free = LIMIT - descriptors_below(worker, LIMIT);
            match free.cmp(&left) {
                cmp::Ordering::Greater => others.push(begin(&nginx, "/")),
                // The worker has not taken all at once.
                cmp::Ordering::Less => drop(others.pop()),
                cmp::Ordering::Equal => return true,
            }
            thread::sleep(Duration::from_millis(20));
            false
        });
        let line = assert_no_login(&nginx, passed, denied);
        for part in ["Too many open files", "look at the limits of this worker process"] {
            assert!(line.contains(part), "{left} left: {part:?} is not in {line}");
        }
        assert_eq!(npm.logins(), 0, "{left} left");

        drop(others);
        assert_recovers(&nginx.client());
        assert_eq!((npm.logins(), nginx.log_lines(FAILED).len()), (1, 1), "{left} left");
    }
}

#[test]
fn a_worker_without_connections_says_so_and_recovers() {
    let npm = quick_npm();
    let nginx = busy(site_on_its_own(&npm)).worker_connections(16).start();
    let (passed, denied) = (begin(&nginx, "/signed"), begin(&nginx, "/signed/deny"));
    let mut others = Vec::new();
    eventually(SOON, "all connections taken", || {
        others.push(begin(&nginx, "/"));
        thread::sleep(Duration::from_millis(20));
        !nginx.log_lines("16 worker_connections are not enough").is_empty()
    });
    let line = assert_no_login(&nginx, passed, denied);
    for part in ["worker_connections are not enough", "look at the limits of this worker process"] {
        assert!(line.contains(part), "{part:?} is not in {line}");
    }
    assert_eq!(npm.logins(), 0);

    drop(others);
    assert_recovers(&nginx.client());
    assert_eq!((npm.logins(), nginx.log_lines(FAILED).len()), (1, 1));
}
