//! What goes wrong: with either NPM, with its users, and with nginx.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use testbed::nginx::kill;
use testbed::wait::happens;
use testbed::{Fault, Npm};

use super::history::{now, InForce, Kind, Millis, Of};
use super::people::{User, WRONG};
use super::site::{DESCRIPTORS, PLACES};
use super::traffic::Dice;
use super::World;

/// How long either NPM is well, and how long it is not.
const CALM: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(12)];
const FAULT: Duration = Duration::from_secs(2);

/// How much time there is between two things that befall people, and between two that befall nginx.
const PEOPLE_INTERVAL: Duration = Duration::from_secs(3);
const NGINX_INTERVAL: Duration = Duration::from_secs(3);

/// How long the zone is too small.
const SMALL_ZONE: Duration = Duration::from_secs(5);

/// After how long nginx tries to accept connections again (`accept_mutex_delay`).
const ACCEPT_DELAY: Duration = Duration::from_millis(500);

/// How far NPM's clock steps, in seconds.
const CLOCK_STEP: i64 = 60 * 60;

/// How long anything of nginx's may take, and until all have a token again: the longest pause, and
/// another login.
const SOON: Duration = Duration::from_secs(20);
const RECOVERY: Duration = Duration::from_secs(45);

type Act = fn(&World);

impl World {
    /// Has the first NPM go wrong in each way, one after the other.
    pub fn disturb_first_npm(&self) {
        const ACTS: [Act; 7] = [
            |world| {
                let _fault = world.fault(Kind::Down, 0);
                world.npms[0].stop();
                world.stop.pause(FAULT);
                world.npms[0].start_again();
            },
            |world| world.hang(0),
            |world| world.replace_keys(0),
            |world| {
                let _fault = world.fault(Kind::FailsLogins, 0);
                world.npms[0].fault(Fault::Status(500));
                world.stop.pause(FAULT);
                world.npms[0].clear_fault();
            },
            |world| world.step_clock(Kind::ClockAhead, CLOCK_STEP),
            |world| world.step_clock(Kind::ClockBack, 0),
            |world| {
                world.step_clock(Kind::ClockBack, -CLOCK_STEP);
                world.stop.pause(FAULT);
                world.step_clock(Kind::ClockAhead, 0);
            },
        ];
        self.disturb_npm(0, &ACTS);
    }

    /// Has the second NPM hang from time to time, and lose its keys.
    pub fn disturb_second_npm(&self) {
        const ACTS: [Act; 3] =
            [|world| world.replace_keys(1), |world| world.hang(1), |world| world.hang(1)];
        self.disturb_npm(1, &ACTS);
    }

    fn disturb_npm(&self, npm: usize, acts: &[Act]) {
        for act in acts.iter().cycle() {
            if self.stop.pause(CALM[npm]) {
                return;
            }
            act(self);
            self.recover(npm);
        }
    }

    /// Waits until the pauses are over that the log has announced: from then on no request of this
    /// NPM's may go without a token.
    fn recover(&self, npm: usize) {
        let deadline = now() + Millis::try_from(RECOVERY.as_millis()).unwrap_or_default();
        loop {
            self.judge.read_log(&self.site.nginx);
            let paused_until =
                self.judge.log().paused_until(self.judge.url(npm), |identity| identity == WRONG);
            let left = u64::try_from(paused_until - now()).unwrap_or_default();
            if left == 0 {
                return self.judge.note("recovery of NPM", Ok(()));
            }
            if now() > deadline {
                let error = format!("after {RECOVERY:?} the log still announces pauses");
                return self.judge.note("recovery of NPM", Err(error));
            }
            if self.stop.pause(Duration::from_millis(left.min(500))) {
                return;
            }
        }
    }

    fn fault(&self, kind: Kind, npm: usize) -> InForce<'_> {
        self.judge.history.begin(kind, Of::Npm(npm))
    }

    /// Logins and renewals that have begun meanwhile are never answered.
    fn hang(&self, npm: usize) {
        let _fault = self.fault(Kind::Hangs, npm);
        let npm = &self.npms[npm];
        npm.fault(Fault::Hang);
        npm.set_renewal_time(Duration::from_secs(60));
        self.stop.pause(FAULT);
        npm.clear_fault();
        npm.set_renewal_time(Duration::ZERO);
    }

    fn replace_keys(&self, npm: usize) {
        let _fault = self.fault(Kind::Keys, npm);
        self.npms[npm].replace_keys();
    }

    fn step_clock(&self, kind: Kind, offset: i64) {
        let _fault = self.fault(kind, 0);
        self.npms[0].clock_offset(offset);
    }

    /// Has each person in turn lose a role, be disabled and enabled, and be deleted at the first NPM,
    /// where the next request makes them anew, an administrator again.
    pub fn disturb_people(&self) {
        let acts: [fn(&World, &User); 3] = [Self::demote, Self::disable, Self::delete];
        for person in self.people.persons[0].iter().cycle() {
            for act in acts {
                if self.stop.pause(PEOPLE_INTERVAL) {
                    return;
                }
                if has_user(&self.npms[0], &person.identity) {
                    act(self, person);
                }
            }
        }
    }

    fn demote(&self, person: &User) {
        let _fault = self.fault_of(Kind::Demoted, person);
        person.set_standard(&self.outpost, true);
    }

    fn disable(&self, person: &User) {
        let _fault = self.fault_of(Kind::Disabled, person);
        self.npms[0].disable(&person.identity);
        self.stop.pause(2 * FAULT);
        self.npms[0].enable(&person.identity);
    }

    fn delete(&self, person: &User) {
        let _fault = self.fault_of(Kind::Deleted, person);
        person.set_standard(&self.outpost, false);
        self.npms[0].delete(&person.identity);
    }

    fn fault_of(&self, kind: Kind, person: &User) -> InForce<'_> {
        self.judge.history.begin(kind, Of::Person(person.identity.clone()))
    }

    /// Has nginx reload, lose workers and run out of room, unless it is left alone.
    pub fn disturb_nginx(&self) {
        const ACTS: [Act; 10] = [
            World::reload,
            World::kill_worker,
            World::swap_builds,
            World::fill_zone,
            World::reload,
            World::use_up_descriptors,
            World::swap_builds,
            World::kill_worker,
            World::use_up_connections,
            World::reload,
        ];
        let mut acts = ACTS.iter().cycle();
        while !self.stop.pause(NGINX_INTERVAL) {
            let _work = self.at_nginx();
            if self.is_restless.load(Ordering::SeqCst) {
                acts.next().expect("a cycle")(self);
            }
        }
    }

    fn fault_of_nginx(&self, kind: Kind) -> InForce<'_> {
        self.judge.history.begin(kind, Of::Nginx)
    }

    fn reload(&self) {
        let _fault = self.fault_of_nginx(Kind::Reload);
        self.site.nginx.reload();
    }

    fn swap_builds(&self) {
        let _fault = self.fault_of_nginx(Kind::Swapped);
        self.site.swap_builds();
    }

    /// Kills one, and waits until nginx has said so and started another.
    fn kill_worker(&self) {
        let nginx = &self.site.nginx;
        let workers = nginx.worker_pids();
        let victim = *Dice(now().unsigned_abs()).one_of(&workers);
        self.judge.expect_end_of(victim);
        let _fault = self.fault_of_nginx(Kind::Killed);
        kill(victim, libc::SIGKILL);
        let is_replaced = happens(SOON, || {
            self.judge.read_log(nginx);
            let has_ended = self.judge.log().has_ended(victim);
            has_ended && nginx.worker_pids().len() == workers.len()
        });
        self.check("worker replaced", is_replaced);
    }

    fn fill_zone(&self) {
        let _fault = self.fault_of_nginx(Kind::ZoneFull);
        self.site.shrink_zone();
        let mut shown = 0;
        let is_full = happens(SOON, || {
            shown = self.accounts_shown();
            shown >= PLACES
        });
        self.stop.pause(SMALL_ZONE);
        self.check("zone full", is_full && self.accounts_shown() <= PLACES);
        self.site.restore();
    }

    /// How many accounts the status page shows.
    fn accounts_shown(&self) -> usize {
        let client = self.site.nginx.client();
        let reply = client.request("GET", "/npm-token-status").try_send();
        let page: Option<serde_json::Value> =
            reply.ok().and_then(|reply| serde_json::from_slice(&reply.body).ok());
        page.and_then(|page| page["accounts"].as_array().map(Vec::len)).unwrap_or_default()
    }

    fn use_up_descriptors(&self) {
        let _fault = self.fault_of_nginx(Kind::NoDescriptors);
        self.site.limit_descriptors();
        let workers = self.site.nginx.worker_pids();
        let is_full = |pid: &u32| descriptors_below(*pid, DESCRIPTORS) == DESCRIPTORS;
        self.use_up("descriptors used up", || workers.iter().all(is_full));
    }

    fn use_up_connections(&self) {
        let _fault = self.fault_of_nginx(Kind::NoConnections);
        let before = self.site.nginx.error_log_length();
        self.site.limit_connections();
        self.use_up("connections used up", || {
            let log = self.site.nginx.error_log_from(before);
            log.contains("worker_connections are not enough\n")
        });
    }

    /// Holds requests open, but for their ends, until there is room for no other, and for a while.
    fn use_up(&self, what: &'static str, is_full: impl Fn() -> bool) {
        let before = self.site.nginx.error_log_length();
        let mut held = Vec::new();
        let was_full = happens(SOON, || {
            held.extend(self.begin_request());
            is_full()
        });
        self.check(what, was_full);
        self.stop.pause(FAULT);
        drop(held);
        self.wait_until_accepting(before);
        self.site.restore();
    }

    /// Waits until each worker has tried to accept connections again, which it does by a timer
    /// (`ngx_event_accept`). nginx forgets that timer where it closes its listening sockets, and makes
    /// another connection of the one in which it stands (`ngx_close_listening_sockets`): a worker that
    /// is told to end meanwhile crashes, with the module and without it.
    fn wait_until_accepting(&self, before: u64) {
        let failures = || {
            let log = self.site.nginx.error_log_from(before);
            log.lines().filter(|line| line.contains("accept4() failed")).count()
        };
        let mut last = (failures(), Instant::now());
        let is_over = happens(SOON, || {
            let count = failures();
            if count != last.0 {
                last = (count, Instant::now());
            }
            last.1.elapsed() > 2 * ACCEPT_DELAY
        });
        self.check("connections accepted again", is_over);
    }

    /// A request but for its end. nginx cannot take its connection back, as one that has not been
    /// used yet.
    fn begin_request(&self) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.site.nginx.port())).ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n").ok()?;
        Some(stream)
    }

    fn check(&self, what: &'static str, is_so: bool) {
        let error = || format!("not within {SOON:?}");
        self.judge.note(what, if is_so { Ok(()) } else { Err(error()) });
    }
}

fn has_user(npm: &Npm, identity: &str) -> bool {
    npm.users().iter().any(|user| user["email"] == *identity)
}

/// How many descriptors of a process are below a limit.
fn descriptors_below(pid: u32, limit: usize) -> usize {
    let Ok(names) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return limit };
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<usize>().ok();
    names.flatten().filter_map(number).filter(|&number| number < limit).count()
}
