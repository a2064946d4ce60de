//! What the module takes of the machine: memory, threads, time to read a configuration, size on disk.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use testbed::nginx::{self, Builder};
use testbed::Nginx;

use crate::instructions::{accounts, npm};
use crate::table::{self, millis, percentile};
use crate::upstream;

const REQUESTS: usize = 1_000_000;
const CLIENTS: usize = 4;
const TESTS: usize = 25;

pub fn run() {
    let (upstream, npm) = (upstream::start(), npm());
    let host = upstream::host(&upstream)
        .accounts(&accounts(&npm))
        .server("access_log off;")
        .directive("npm_token_inject accounts.json;")
        .quiet();

    let rows = [("without the module", true), ("with it", false)].map(|(name, without)| {
        let host = if without { host.clone().without_module() } else { host.clone() };
        let mut tests: Vec<_> = (0..TESTS).map(|_| test(&host)).collect();
        let nginx = host.start();
        let mut row = vec![name.to_owned(), millis(percentile(&mut tests, 0.5))];
        row.push(shown(nginx.master_pid()));
        let worker = nginx.worker_pids()[0];
        row.push(shown(worker));
        nginx.client().get("/api/users/me");
        row.push(shown(worker));
        ask_often(&nginx);
        row.push(shown(worker));
        row
    });
    table::print(
        &format!(
            "nginx -t, median of {TESTS}; memory (RSS) and threads of the master and of a worker, which is idle \
             at first, has then answered one request, and at last {REQUESTS} more"
        ),
        &["", "nginx -t", "master", "idle worker", "after one request", "after all"],
        &rows,
    );
    let size = |path: &std::path::Path| fs::metadata(path).map_or(0, |file| file.len());
    let loader = nginx::module();
    let builds = loader.with_file_name("npm_token_inject");
    let builds = fs::read_dir(builds).into_iter().flatten().flatten();
    let mut rows = vec![vec!["the loader".to_owned(), table::count(size(&loader))]];
    rows.extend(builds.map(|build| {
        vec![
            format!("`{}`", build.file_name().to_string_lossy()),
            table::count(size(&build.path())),
        ]
    }));
    table::print("What is loaded", &["file", "bytes"], &rows);
}

fn test(host: &Builder) -> Duration {
    let begun = Instant::now();
    let test = host.test();
    assert!(test.ok, "{}", test.output);
    begun.elapsed()
}

/// Sends requests on connections that are kept, several at once.
fn ask_often(nginx: &Nginx) {
    const REQUEST: &[u8] = b"GET /api/users/me HTTP/1.1\r\nHost: localhost\r\n\r\n";

    let port = nginx.port();
    let client = move || {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
        let mut reader = BufReader::new(stream);
        for _ in 0..REQUESTS / CLIENTS {
            reader.get_mut().write_all(REQUEST).expect("a request sent");
            let (mut line, mut len) = (String::new(), 0);
            while reader.read_line(&mut line).expect("an answer") > 2 {
                if let Some(value) = line.strip_prefix("Content-Length: ") {
                    len = value.trim_end().parse().unwrap_or_default();
                }
                line.clear();
            }
            let mut body = vec![0; len];
            reader.read_exact(&mut body).expect("an answer");
        }
    };
    let clients: Vec<_> = (0..CLIENTS).map(|_| thread::spawn(client)).collect();
    for client in clients {
        client.join().expect("a client");
    }
}

fn shown(pid: u32) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.trim_end_matches("kB").trim().parse::<u64>().unwrap_or_default()
    };
    format!("{} KiB, {}", table::count(value("VmRSS:")), value("Threads:"))
}
