//! Counts what nginx executes for a request, by valgrind's callgrind.
//!
//! Unlike time, instructions are the same on every run, to a fraction of a percent. The difference of a
//! long and a short run is free of what nginx does only once: starting, logging in, ending.

use std::fs;
use std::time::Duration;

use tempfile::TempDir;
use testbed::nginx::{self, Builder};
use testbed::{Client, Reply};

/// Where a process's free memory lies is chance, and what an allocation costs depends on it: up to a
/// thousand instructions a request. So each count is the least of several, in processes that have
/// another number of connections to begin with.
const CONNECTIONS: [usize; 3] = [512, 700, 1000];

/// Instructions for one request.
#[derive(Clone, Copy, Default)]
pub struct Cost {
    pub total: u64,
    /// Those of the module's own code.
    pub module: u64,
    /// Those of nginx's own code.
    pub nginx: u64,
}

/// What one request costs. `runs` are the lengths of the two, in requests. `request` makes the request
/// of a number.
pub fn cost(
    host: &Builder,
    [short, long]: [u64; 2],
    request: impl Fn(&Client, u64) -> Reply,
) -> Cost {
    let costs = CONNECTIONS.map(|connections| {
        let host = host.clone().worker_connections(connections);
        let [before, after] = [short, long].map(|count| run(&host, count, &request));
        let of_one =
            |count: fn(&Cost) -> u64| count(&after).saturating_sub(count(&before)) / (long - short);
        Cost {
            total: of_one(|cost| cost.total),
            module: of_one(|cost| cost.module),
            nginx: of_one(|cost| cost.nginx),
        }
    });
    costs.into_iter().min_by_key(|cost| cost.total).unwrap_or_default()
}

/// What nginx executes from its start to its end.
fn run(host: &Builder, requests: u64, request: &impl Fn(&Client, u64) -> Reply) -> Cost {
    let folder = TempDir::new().expect("a folder");
    let counts = folder.path().join("counts");
    let out = format!("--callgrind-out-file={}", counts.display());
    let mut nginx = host
        .clone()
        .single_process()
        .quiet()
        .server("access_log off;")
        .run_by(&["valgrind", "--tool=callgrind", &out])
        .start();
    let client = nginx.client();
    for number in 0..requests {
        let reply = request(&client, number);
        assert_eq!(reply.status, 200, "{reply:?}");
    }
    // Slow as it is under valgrind, the signal may come just before it waits for events again: the
    // end of the connection is one.
    nginx.signal(libc::SIGTERM);
    drop(client);
    nginx.terminate();
    nginx.wait_for_log("Collected :", Duration::ZERO);
    read(&fs::read_to_string(counts).expect("what callgrind has counted"))
}

/// Reads callgrind's format: a function's own cost stands in the lines after its name and its object's,
/// that of its calls in the line after each `calls=`. Names are said once, and numbered.
fn read(text: &str) -> Cost {
    let is_module = |name: &str| name.contains("npm_token_inject");
    let is_nginx = |name: &str| name.ends_with(&nginx::binary().display().to_string());
    let (mut of_module, mut of_nginx) = (Vec::new(), Vec::new());
    let (mut object, mut is_call) = ("", false);
    let mut cost = Cost::default();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("ob=").or(line.strip_prefix("cob=")) {
            let (number, name) = name.split_once(' ').unwrap_or((name, ""));
            if is_module(name) {
                of_module.push(number);
            } else if is_nginx(name) {
                of_nginx.push(number);
            }
            if line.starts_with("ob=") {
                object = number;
            }
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|c: char| c.is_ascii_digit() || "+-*".contains(c)) {
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
            let count = count.filter(|_| !is_call).unwrap_or_default();
            is_call = false;
            cost.total += count;
            cost.module += if of_module.contains(&object) { count } else { 0 };
            cost.nginx += if of_nginx.contains(&object) { count } else { 0 };
        }
    }
    cost
}
