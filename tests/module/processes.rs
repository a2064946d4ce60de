//! Workers that come, go and are killed.

use std::fs;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use testbed::nginx::{binary, kill, worker_pids_of};
use testbed::process::Process;
use testbed::{
    eventually, hold_port, npm_proxy_host, process, Client, Fault, Nginx, Npm, Outpost, Reply,
    Visitor,
};

use crate::site::*;

/// The name of the thread that logs in.
const LOGIN_THREAD: &str = "npm_token_login";

/// Waits until all `requests` are answered.
fn replies(requests: Vec<thread::ScopedJoinHandle<'_, Reply>>) -> Vec<Reply> {
    requests.into_iter().map(|request| request.join().expect("a reply")).collect()
}

fn assert_all_signed_in(replies: &[Reply]) {
    assert!(!replies.is_empty());
    for reply in replies {
        assert!(is_signed_in(reply), "{reply:?}");
    }
}

/// Nothing that nginx itself finds worth an alert has happened.
fn assert_no_alert(nginx: &Nginx) {
    for level in ["[alert]", "[crit]", "[emerg]"] {
        let lines = nginx.log_lines(level);
        assert!(lines.is_empty(), "{lines:?}");
    }
}

/// Sends a request that waits for NPM, which hangs.
fn send_waiting(nginx: &Nginx) -> Box<dyn testbed::server::Stream> {
    let before = under_way(nginx);
    let mut waiting = nginx.client().connect().expect("a connection");
    write!(waiting, "GET {ME} HTTP/1.1\r\nHost: npm\r\n\r\n").expect("a request sent");
    wait_until_under_way(nginx, before + 1);
    waiting
}

#[test]
fn ten_reloads_under_load_fail_no_request() {
    let (npm, outpost) = (Npm::start(), Outpost::start());
    let nginx = busy(npm_proxy_host(&outpost, &npm))
        .location("/", "add_header X-Status $npm_token_status always;")
        .workers(2)
        .start();
    let session = outpost.sign_in(Visitor::new("akadmin"));
    let as_akadmin = |client: &Client| client.request("GET", ME).cookie(&session).try_send();
    let first = as_akadmin(&nginx.client()).expect("a reply");
    assert_eq!((status(&first), email(&first)), ("miss", ADMIN.to_owned()));

    let workers = workers(&nginx);
    let (results, ()) = under_load(4, as_akadmin, &nginx, || (0..10).for_each(|_| nginx.reload()));
    assert!(results.len() > 20, "only {} requests", results.len());
    for result in results {
        let reply = result.expect("a reply");
        assert_eq!((status(&reply), email(&reply)), ("hit", ADMIN.to_owned()));
    }
    assert_eq!(npm.logins(), 1);
    let gone = || !workers.iter().any(Process::runs);
    eventually(SOON, "the old workers' end", gone);
    assert_no_alert(&nginx);
}

#[test]
fn a_login_under_way_is_finished_across_a_reload() {
    let npm = quick_npm();
    npm.fault(Fault::Hold);
    let nginx = busy_site(&npm, 2).start();
    let old = workers(&nginx);
    thread::scope(|scope| {
        let wait = |client: Client| scope.spawn(move || client.get(ME));
        let clients = clients_by_worker(&nginx, 2).into_values().flatten();
        let mut requests: Vec<_> = clients.map(wait).collect();
        wait_until_under_way(&nginx, 4);
        nginx.reload();
        // The new workers wait for the old one's login, too.
        let clients = clients_by_worker(&nginx, 1).into_values().flatten();
        requests.extend(clients.map(wait));
        wait_until_under_way(&nginx, 6);
        assert!(old.iter().all(Process::runs));
        npm.clear_fault();
        let replies = replies(requests);
        assert_all_signed_in(&replies);
        assert!(replies.iter().all(|reply| status(reply) == "miss"));
    });
    assert_eq!(npm.logins(), 1);
    eventually(SOON, "the old workers' end", || !old.iter().any(Process::runs));
    assert_no_alert(&nginx);
}

#[test]
fn a_graceful_stop_answers_those_who_wait_for_a_login() {
    let npm = quick_npm();
    npm.fault(Fault::Hold);
    let mut nginx = busy_site(&npm, 2).start();
    let workers = workers(&nginx);
    thread::scope(|scope| {
        let wait = |client: Client| scope.spawn(move || client.get(ME));
        let clients = clients_by_worker(&nginx, 2).into_values().flatten();
        let requests: Vec<_> = clients.map(wait).collect();
        wait_until_under_way(&nginx, 4);
        nginx.signal(libc::SIGQUIT);
        eventually(SOON, "all to shut down", || nginx.worker_pids().is_empty());
        assert!(workers.iter().all(Process::runs));
        npm.clear_fault();
        assert_all_signed_in(&replies(requests));
    });
    assert!(nginx.quit().success());
    assert_eq!(npm.logins(), 1);
    assert_no_alert(&nginx);
}

#[test]
fn a_graceful_stop_does_not_wait_for_an_idle_login_thread() {
    let npm = quick_npm();
    let mut nginx = site(&npm).start();
    assert!(is_signed_in(&nginx.client().get(ME)));
    let (status, time) = timed(|| nginx.quit());
    assert!(status.success() && time < SOON, "{status} after {time:?}");
    assert_no_alert(&nginx);
}

#[test]
fn a_graceful_stop_does_not_wait_for_a_login_that_nobody_waits_for() {
    let npm = quick_npm();
    npm.fault(Fault::Hang);
    let accounts = with_timeout(accounts(&npm), "60s");
    let mut nginx = site(&npm).accounts(&accounts).start();
    drop(send_waiting(&nginx));
    wait_until_under_way(&nginx, 0);
    let (status, time) = timed(|| nginx.quit());
    assert!(status.success() && time < SOON, "{status} after {time:?}");
    assert_no_alert(&nginx);
}

#[test]
fn worker_shutdown_timeout_ends_the_wait_for_a_login() {
    let npm = quick_npm();
    npm.fault(Fault::Hang);
    let accounts = with_timeout(accounts(&npm), "60s");
    let mut nginx = site(&npm).accounts(&accounts).main("worker_shutdown_timeout 300ms;").start();
    let waiting = send_waiting(&nginx);
    let (status, time) = timed(|| nginx.quit());
    assert!(status.success() && time < SOON, "{status} after {time:?}");
    assert_no_alert(&nginx);
    drop(waiting);
}

#[test]
fn a_fast_stop_does_not_wait_for_npm() {
    let npm = quick_npm();
    npm.fault(Fault::Hang);
    for single_process in [false, true] {
        let nginx = site(&npm).accounts(&with_timeout(accounts(&npm), "60s"));
        let mut nginx = if single_process { nginx.single_process() } else { nginx }.start();
        let waiting = send_waiting(&nginx);
        let (status, time) = timed(|| nginx.terminate());
        assert!(status.success() && time < SOON, "{status} after {time:?}");
        assert_no_alert(&nginx);
        drop(waiting);
    }
}

#[test]
fn the_login_of_a_killed_worker_is_taken_over() {
    let npm = quick_npm();
    npm.fault(Fault::Hold);
    let accounts = with_timeout(accounts(&npm), "60s");
    let mut nginx = busy_site(&npm, 3).accounts(&accounts).start();
    nginx.expect_crash();
    let mut clients = clients_by_worker(&nginx, 2);
    let (killed, of_killed) = clients.pop_first().expect("three workers");
    thread::scope(|scope| {
        for client in of_killed {
            // It sends its request again, as a browser does.
            scope.spawn(move || assert!(is_signed_in(&client.get(ME))));
        }
        wait_until_under_way(&nginx, 2);
        eventually(SOON, "the login", || npm.logins() == 1);
        let wait = |client: Client| scope.spawn(move || client.get(ME));
        let requests: Vec<_> = clients.into_values().flatten().map(wait).collect();
        wait_until_under_way(&nginx, 6);
        assert_eq!(npm.logins(), 1);

        kill(killed, libc::SIGKILL);
        eventually(SOON, "another login", || npm.logins() == 2);
        npm.clear_fault();
        let replies = replies(requests);
        assert_all_signed_in(&replies);
        assert!(replies.iter().all(|reply| status(reply) == "miss"));
    });
    assert_eq!(npm.logins(), 2);
    eventually(SOON, "a new worker", || nginx.worker_pids().len() == 3);
    for clients in clients_by_worker(&nginx, 1).values() {
        assert_eq!(status(&clients[0].get(ME)), "hit");
    }
}

#[test]
fn workers_killed_under_load_harm_nobody_else() {
    let npm = quick_npm();
    let mut nginx = busy_site(&npm, 4).start();
    nginx.expect_crash();
    assert!(is_signed_in(&nginx.client().get(ME)));
    let (results, killed) = under_load(4, me, &nginx, || {
        let mut killed = Vec::new();
        for round in 0..12 {
            let workers = nginx.worker_pids();
            let victim = workers[round % workers.len()];
            kill(victim, libc::SIGKILL);
            killed.push(victim);
            eventually(SOON, "a new worker", || {
                let workers = nginx.worker_pids();
                workers.len() == 4 && !workers.contains(&victim)
            });
        }
        killed
    });
    // Only who was talking to a killed worker may notice: four clients, a dozen times.
    let failed = results.iter().filter(|result| result.is_err()).count();
    assert!(failed <= 4 * killed.len(), "{failed} of {} requests failed", results.len());
    assert!(results.len() - failed > 20, "only {} requests", results.len());
    for reply in results.iter().flatten() {
        assert_eq!((status(reply), is_signed_in(reply)), ("hit", true), "{reply:?}");
    }
    for clients in clients_by_worker(&nginx, 1).values() {
        assert_eq!(status(&clients[0].get(ME)), "hit");
    }
    assert_eq!(npm.logins(), 1);
    let lines = nginx.log_lines("exited on signal");
    let others = lines.iter().filter(|line| !line.contains("exited on signal 9"));
    assert_eq!(others.collect::<Vec<_>>(), Vec::<&String>::new());
    assert!(nginx.quit().success());
}

/// While the logins of ever new accounts are under way, workers are killed: each request that is
/// answered has its token.
#[test]
fn workers_killed_while_they_log_in_leave_a_zone_that_works() {
    const ROUNDS: usize = 6;
    let npm = (0..ROUNDS)
        .fold(Npm::builder().administrator(ADMIN, "secret"), |npm, n| {
            npm.user(&format!("{n}@example.com"), "secret")
        })
        .login_time(Duration::from_millis(20))
        .start();
    let mut nginx = busy_site(&npm, 3).start();
    nginx.expect_crash();
    for round in 0..ROUNDS {
        let identity = format!("{round}@example.com");
        let request = |client: &Client| me_with(client, &identity, "secret").try_send();
        let before = npm.logins();
        let (results, ()) = under_load(4, request, &nginx, || {
            eventually(SOON, "a login", || npm.logins() > before);
            let killed: Vec<u32> = nginx.worker_pids().into_iter().take(2).collect();
            killed.iter().for_each(|&pid| kill(pid, libc::SIGKILL));
            eventually(SOON, "new workers", || {
                let workers = nginx.worker_pids();
                workers.len() == 3 && !workers.iter().any(|pid| killed.contains(pid))
            });
            eventually(SOON, "a token", || request(&nginx.client()).is_ok_and(|r| r.status == 200));
        });
        for reply in results.iter().flatten() {
            assert_eq!(email(reply), identity);
        }
    }
    assert!(nginx.log_lines(FAILED).is_empty());
    assert!(nginx.quit().success());
}

#[test]
fn one_worker_and_eight_and_a_master_that_is_none_share_one_login() {
    for workers in [1, 8] {
        let npm = quick_npm();
        let mut nginx = busy_site(&npm, workers).start();
        let mut statuses = Vec::new();
        for clients in clients_by_worker(&nginx, 1).values() {
            let reply = clients[0].get(ME);
            assert!(is_signed_in(&reply));
            statuses.push(status(&reply).to_owned());
        }
        assert_eq!(statuses[0], "miss");
        assert!(statuses.len() == workers && statuses[1..].iter().all(|status| status == "hit"));
        assert_eq!(npm.logins(), 1);
        assert!(nginx.quit().success());
        assert_no_alert(&nginx);
    }

    let npm = quick_npm();
    let mut nginx = site(&npm).single_process().start();
    let client = nginx.client();
    for expected in ["miss", "hit"] {
        let reply = client.get(ME);
        assert_eq!((status(&reply), is_signed_in(&reply)), (expected, true));
    }
    assert_eq!(npm.logins(), 1);
    assert!(nginx.quit().success());
    assert_no_alert(&nginx);
}

/// nginx as a daemon: only so can it be upgraded in place. It runs on the port and in the folder of
/// one that has ended.
struct Daemon<'a>(&'a Nginx);

impl<'a> Daemon<'a> {
    fn start(nginx: &'a Nginx) -> Self {
        let configuration = fs::read_to_string(nginx.dir().join("nginx.conf")).expect("nginx.conf");
        nginx.write_file("nginx.conf", configuration.replace("daemon off;", "daemon on;"));
        let mut command = Command::new(binary());
        command.current_dir(nginx.dir()).arg("-p").arg(nginx.dir());
        let started = command.args(["-c", "nginx.conf", "-e", "error.log"]).status();
        let daemon = Self(nginx);
        assert!(started.is_ok_and(|status| status.success()), "{}", nginx.error_log_excerpt());
        eventually(SOON, "the daemon", || daemon.master().is_some());
        daemon
    }

    /// The master that has written its number there, while it runs.
    fn master_of(&self, file: &str) -> Option<Process> {
        let pid: u32 = fs::read_to_string(self.0.dir().join(file)).ok()?.trim().parse().ok()?;
        let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
        arguments.contains(self.0.dir().to_str()?).then(|| Process::of(pid))
    }

    /// The newest master, once it has workers.
    fn master(&self) -> Option<Process> {
        self.master_of("nginx.pid").filter(|master| !worker_pids_of(master.pid).is_empty())
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        let masters = ["nginx.pid", "nginx.pid.oldbin"].map(|file| self.master_of(file));
        for Process { pid, .. } in masters.into_iter().flatten() {
            worker_pids_of(pid).into_iter().for_each(|worker| kill(worker, libc::SIGKILL));
            kill(pid, libc::SIGKILL);
        }
    }
}

#[test]
fn an_upgrade_in_place_fails_no_request() {
    let npm = quick_npm();
    let mut nginx = busy_site(&npm, 2).start();
    assert!(nginx.quit().success());
    // No other test's server gets the port before it has another nginx.
    let held = hold_port(nginx.port());
    let daemon = Daemon::start(&nginx);
    drop(held);
    assert!(is_signed_in(&nginx.client().get(ME)));

    let old = daemon.master().expect("a master");
    let (results, new) = under_load(4, me, &nginx, || {
        kill(old.pid, libc::SIGUSR2);
        let new_master = || daemon.master().filter(|master| master.pid != old.pid);
        eventually(SOON, "a new master", || new_master().is_some());
        kill(old.pid, libc::SIGQUIT);
        eventually(SOON, "the old master's end", || !old.runs());
        new_master().expect("a new master")
    });
    assert!(results.iter().all(|result| result.as_ref().is_ok_and(is_signed_in)));
    assert!(is_signed_in(&nginx.client().get(ME)));
    // The new nginx has a zone of its own.
    assert_eq!(npm.logins(), 2);
    kill(new.pid, libc::SIGQUIT);
    eventually(SOON, "the new master's end", || !new.runs());
    assert_no_alert(&nginx);
}

#[test]
fn a_worker_leaks_no_descriptor_whatever_becomes_of_its_requests() {
    let (npm, gone) = (quick_npm(), quick_npm());
    gone.stop();
    let accounts = serde_json::json!({
        "api": npm.url(), "timeout": "1s", "accounts": [
            {"user": "refused", "identity": ADMIN, "secret": "wrong"},
            {"user": "*", "identity": ADMIN, "secret": "admin-secret"},
        ],
    });
    let accounts_of_gone = accounts_at(&gone.url(), "secret").to_string();
    let npm_url = npm.url();
    let nginx = busy_site(&npm, 1)
        .accounts(&accounts.to_string())
        .file_with_mode("gone.json", accounts_of_gone, 0o600)
        .location(
            "/gone/",
            &format!("npm_token_inject gone.json user=akadmin; proxy_pass {npm_url}/;"),
        )
        .start();
    let worker = nginx.worker_pids()[0];
    let client = nginx.client();
    assert!(is_signed_in(&client.get(ME)));
    assert_eq!(status(&client.get("/gone/echo")), "error");
    let settled = || {
        let (files, threads) = (process::open_files(worker), threads(worker));
        // One thread for each NPM.
        (threads.len() == 2 && under_way(&nginx) == 0).then_some(files)
    };
    let mut before = 0;
    eventually(SOON, "rest", || settled().inspect(|&files| before = files).is_some());

    let target = |n: usize| match n % 5 {
        0 => client.request("GET", ME),
        1 => client.request("GET", "/gone/echo"),
        2 => client.request("GET", "/echo").header("X-User", "refused"),
        3 => client.request("GET", "/deny/echo").header("X-User", "refused"),
        // An account of its own, so that each asks NPM.
        _ => me_with(&client, &format!("{n}@example.com"), "secret"),
    };
    let faults = [
        None,
        Some(Fault::CloseAtOnce),
        Some(Fault::HalfAnswer),
        Some(Fault::Status(500)),
        Some(Fault::Endless(1_000_000)),
        Some(Fault::NotHttp),
    ];
    for n in 0..500 {
        if n % 20 == 0 {
            match faults[n / 20 % faults.len()].clone() {
                Some(fault) => npm.fault(fault),
                None => npm.clear_fault(),
            }
        }
        target(n).send();
    }
    npm.fault(Fault::Hang);
    for n in 500..502 {
        me_with(&client, &format!("{n}@example.com"), "secret").send();
    }
    assert!(npm.logins() > 100, "only {} logins", npm.logins());
    npm.clear_fault();
    eventually(SOON, &format!("{before} open files"), || settled() == Some(before));
}

#[test]
fn a_worker_starts_one_thread_for_each_npm_when_it_first_logs_in_there() {
    let (npm, another) = (quick_npm(), quick_npm());
    let directive = "npm_token_inject another.json user=$user trust_headers=on";
    let location = format!("{directive}; proxy_pass {}/;", another.url());
    let nginx = busy_site(&npm, 2)
        .file_with_mode("another.json", accounts(&another).to_string(), 0o600)
        .location("/another/", &location)
        .start();
    let workers = clients_by_worker(&nginx, 1);
    let mut workers = workers.iter().map(|(&pid, clients)| (pid, &clients[0]));
    let (one, client) = workers.next().expect("two workers");
    let (other, client_of_other) = workers.next().expect("two workers");
    assert!(threads(one).is_empty() && threads(other).is_empty());

    assert_eq!(status(&client.get(ME)), "miss");
    eventually(SOON, "one thread", || threads(one) == [LOGIN_THREAD]);
    // Another worker's token takes no thread.
    assert_eq!(status(&client_of_other.get(ME)), "hit");
    assert!(threads(other).is_empty());

    let logins = npm.logins();
    for n in 0..20 {
        me_with(client, &format!("{n}@example.com"), "secret").send();
    }
    assert_eq!(npm.logins(), logins + 20);
    eventually(SOON, "one thread", || threads(one) == [LOGIN_THREAD]);
    assert!(threads(other).is_empty());

    assert_eq!(status(&client.get("/another/")), "miss");
    eventually(SOON, "two threads", || threads(one) == [LOGIN_THREAD; 2]);
    assert_eq!(status(&client_of_other.get("/another/")), "hit");
    assert!(threads(other).is_empty());
}

/// nginx reads this configuration anew, in the place of its own.
fn rewrite_conf(nginx: &Nginx, change: impl Fn(&str) -> String) {
    let configuration = fs::read_to_string(nginx.dir().join("nginx.conf")).expect("nginx.conf");
    nginx.write_file("nginx.conf", change(&configuration));
}

/// The lines of a configuration that do not say this.
fn lines_without(configuration: &str, text: &str) -> String {
    let lines = configuration.lines().filter(|line| !line.contains(text));
    lines.map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_worker_that_is_replaced_after_a_refused_reload_still_opens_the_page() {
    let npm = quick_npm();
    let mut nginx = site(&npm).start();
    nginx.expect_crash();
    // An address that is taken: nginx finds that out last.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address");
    rewrite_conf(&nginx, |configuration| {
        let without = lines_without(configuration, "X-Status");
        let without = without.replace("npm_token_inject accounts.json", "#");
        without.replacen("server {", &format!("server {{ listen {address}; }}\nserver {{"), 1)
    });
    nginx.signal(libc::SIGHUP);
    nginx.wait_for_log("still could not bind()", SOON);
    let workers = nginx.worker_pids();
    kill(workers[0], libc::SIGKILL);
    eventually(SOON, "a new worker", || {
        let now = nginx.worker_pids();
        now.len() == 1 && now != workers
    });
    let client = nginx.client();
    let page = client.request("GET", "/").header("Sec-Fetch-Mode", "navigate");
    let page = page.header("Accept", "text/html").send();
    assert_eq!((page.status, status(&page)), (200, "miss"));
    assert!(page.text().contains("localStorage"), "{page:?}");
}

/// A module that does nothing, as nginx takes it: `ngx_module_t` has this size, and its first fields
/// these places, in every nginx.
const ANOTHER_MODULE: &str = r#"
struct module {
    unsigned long ctx_index, index; char *name; unsigned long spare0, spare1, version;
    const char *signature; void *ctx, *commands; unsigned long type; void *rest[15];
};
extern struct module ngx_core_module;
static void *context[8];
struct module another_module = { -1UL, -1UL, 0, 0, 0, 0, 0, context, 0, 0x50545448 };
struct module *ngx_modules[] = { &another_module, 0 };
char *ngx_module_names[] = { "another_module", 0 };
char *ngx_module_order[] = { 0 };
__attribute__((constructor)) static void fit(void) {
    another_module.version = ngx_core_module.version;
    another_module.signature = ngx_core_module.signature;
}
"#;

#[test]
fn the_module_can_go_at_a_reload_and_come_back_among_other_modules() {
    let npm = quick_npm();
    let nginx = site(&npm).file("another.c", ANOTHER_MODULE).start();
    let mut cc = Command::new("cc");
    cc.current_dir(nginx.dir()).args(["-shared", "-fPIC", "-Wl,-Bsymbolic"]);
    assert!(cc.args(["-o", "another.so", "another.c"]).status().is_ok_and(|s| s.success()));
    let configuration = fs::read_to_string(nginx.dir().join("nginx.conf")).expect("nginx.conf");
    assert!(is_signed_in(&nginx.client().get(ME)));

    let another = "load_module another.so;\n";
    let maps = || fs::read_to_string(format!("/proc/{}/maps", nginx.master_pid()));
    let is_mapped = || maps().expect("the master's maps").contains("npm_token_inject");
    assert!(is_mapped());
    // All that says nothing of the module, with a server that has no location.
    let (main, http) = configuration.split_once("http {").expect("a configuration");
    let temporary: String = http.lines().filter(|line| line.contains("_temp_path")).collect();
    let server = format!("server {{ listen 127.0.0.1:{}; }}", nginx.port());
    let main = lines_without(main, "load_module");
    let without = format!("{another}{main}http {{ access_log off; {temporary} {server} }}");
    for before in [true, false, true] {
        nginx.write_file("nginx.conf", &without);
        nginx.reload();
        assert!(!is_mapped(), "the master keeps the module");

        let back = match before {
            true => format!("{another}{configuration}"),
            false => configuration.replacen("events", &format!("{another}events"), 1),
        };
        nginx.write_file("nginx.conf", back);
        nginx.reload();
        let reply = nginx.client().get(ME);
        assert!(is_signed_in(&reply), "{reply:?}");
    }
    assert_no_alert(&nginx);
}
