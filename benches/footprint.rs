//! What the module takes of the machine: memory, threads, time to read a configuration, size on disk.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use testbed::nginx::{self, Builder};
use testbed::{process, Nginx};

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
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let client = nginx.client();
                for _ in 0..REQUESTS / CLIENTS {
                    client.get("/api/users/me");
                }
            });
        }
    });
}

fn shown(pid: u32) -> String {
    format!("{} KiB, {}", table::count(process::memory(pid)), process::threads(pid))
}
