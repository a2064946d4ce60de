//! What the memory of nginx holds of secrets and tokens, and what a core dump has of it.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use testbed::{eventually, Client, Nginx, Npm};

use crate::site::*;

/// A piece of a process's memory, see proc_pid_smaps(5).
struct Mapping {
    is_shared: bool,
    is_in_core_dump: bool,
    bytes: Vec<u8>,
}

impl Mapping {
    fn has(&self, text: &str) -> bool {
        let (bytes, text) = (&self.bytes, text.as_bytes());
        // SAFETY: memmem(3) reads two slices. Of all that searches, it alone is quick without
        // optimization.
        let found = unsafe {
            libc::memmem(bytes.as_ptr().cast(), bytes.len(), text.as_ptr().cast(), text.len())
        };
        !found.is_null()
    }
}

/// All that a process can write to.
fn memory(pid: u32) -> Vec<Mapping> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("a process");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("a process of ours");
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some((from, to)) = first.split_once('-') {
            let address = |text| u64::from_str_radix(text, 16).expect("an address");
            let (from, to) = (address(from), address(to));
            let permissions = words.next().unwrap_or_default();
            let mut bytes = Vec::new();
            if permissions.starts_with("rw") {
                bytes.resize((to - from) as usize, 0);
                memory.read_exact_at(&mut bytes, from).expect("memory that can be read");
            }
            let is_shared = permissions.ends_with('s');
            mappings.push(Mapping { is_shared, is_in_core_dump: true, bytes });
        } else if first == "VmFlags:" && words.any(|flag| flag == "dd") {
            mappings.last_mut().expect("its mapping").is_in_core_dump = false;
        }
    }
    assert!(mappings.iter().any(|mapping| !mapping.bytes.is_empty()));
    mappings
}

fn processes(nginx: &Nginx) -> Vec<u32> {
    [vec![nginx.master_pid()], nginx.worker_pids()].concat()
}

/// The part of a user's token that stands nowhere else, by what reaches NPM.
fn signature(client: &Client, identity: &str, secret: &str) -> String {
    let pair = STANDARD.encode(format!("{identity}:{secret}"));
    let request = client.request("GET", "/as/echo");
    let reply = request.header("X-Credentials", &format!("Basic {pair}")).send();
    let authorization = echoed_authorization(&reply).remove(0);
    authorization.rsplit_once('.').expect("a JWT").1.to_owned()
}

fn is_in_zone(pid: u32, text: &str) -> bool {
    memory(pid).iter().any(|mapping| mapping.is_shared && mapping.has(text))
}

fn npm_with_users(count: usize) -> Npm {
    let npm = Npm::builder().login_time(Duration::ZERO).administrator(ADMIN, "admin-secret");
    (0..count).fold(npm, |npm, n| npm.user(&user(n), "user-secret")).start()
}

fn user(number: usize) -> String {
    format!("user{number}@example.com")
}

/// The zone's pages are marked so; those of an nginx that is told to use another size too.
#[test]
fn a_core_dump_leaves_the_zone_out() {
    let npm = npm_with_users(0);
    let nginx = site(&npm).workers(2).http("npm_token_inject_zone 64k;").start();
    let token = signature(&nginx.client(), ADMIN, "admin-secret");
    let look = || {
        for pid in processes(&nginx) {
            let memory = memory(pid);
            let mut zones =
                memory.iter().filter(|mapping| mapping.is_shared && mapping.has(&token));
            assert!(zones.next().is_some_and(|zone| !zone.is_in_core_dump));
            assert!(zones.all(|zone| !zone.is_in_core_dump));
        }
    };
    look();
    nginx.reload_and_retire();
    look();
    let configuration = fs::read_to_string(nginx.dir().join("nginx.conf")).expect("a file");
    nginx.write_file("nginx.conf", configuration.replace("zone 64k;", "zone 1m;"));
    nginx.reload_and_retire();
    look();
}

#[test]
fn the_zone_forgets_a_token_that_npm_no_longer_takes() {
    let npm = npm_with_users(0);
    let nginx = site(&npm).start();
    let client = nginx.client();
    let token = || signature(&client, ADMIN, "admin-secret");
    let old = token();
    assert!(is_in_zone(nginx.master_pid(), &old));
    npm.replace_keys();
    eventually(SOON, "another token", || {
        me_with(&client, ADMIN, "admin-secret").send();
        token() != old
    });
    assert!(is_in_zone(nginx.master_pid(), &token()));
    assert!(!is_in_zone(nginx.master_pid(), &old));
}

#[test]
fn the_zone_forgets_the_token_of_an_account_that_makes_room() {
    const PLACES: usize = 10;
    let npm = npm_with_users(PLACES + 1);
    let nginx = site(&npm).http("npm_token_inject_zone 32k;").start();
    let client = nginx.client();
    let tokens: Vec<_> =
        (0..=PLACES).map(|number| signature(&client, &user(number), "user-secret")).collect();
    assert!(!is_in_zone(nginx.master_pid(), &tokens[0]));
    for token in &tokens[1..] {
        assert!(is_in_zone(nginx.master_pid(), token));
    }
}

/// A long one: a text that grows leaves pieces of itself behind. They are longer here than what a
/// processor has in a register, which may be on a stack for a while.
#[test]
fn a_secret_that_authentik_hands_over_is_forgotten_when_many_others_have_come() {
    /// More than a worker knows again.
    const OTHERS: usize = 600;

    let secret: String = (0..40).map(|n| format!("piece-{n:03}-")).collect();
    let npm = Npm::builder().login_time(Duration::ZERO).administrator(ADMIN, "admin-secret");
    let npm = npm.user(BOB, &secret).start();
    let nginx = site(&npm).quiet().start();
    let client = nginx.client();
    let found_in = |pid| {
        let memory = memory(pid);
        let pieces = secret.as_bytes().chunks(80).map(|piece| String::from_utf8_lossy(piece));
        pieces.filter(|piece| memory.iter().any(|mapping| mapping.has(piece))).count()
    };
    assert_eq!(email(&me_with(&client, BOB, &secret).send()), BOB);
    assert_eq!(status(&me_with(&client, BOB, &secret).send()), "hit");
    assert_eq!(found_in(nginx.master_pid()), 0);
    for number in 0..OTHERS {
        let reply = me_with(&client, &user(number), "wrong").send();
        assert_eq!(status(&reply), "error");
    }
    for pid in processes(&nginx) {
        assert_eq!(found_in(pid), 0, "{pid}");
    }
}
