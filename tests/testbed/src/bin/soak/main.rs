//! `make soak`: a bad week, in ten minutes. Mixed traffic goes through nginx with the module, to two
//! NPMs, while all that may go wrong does, over and over, and nginx's processes are weighed. On
//! loopback.
//!
//! A request fails that does not get what it should: a page or an answer of NPM's for its own user,
//! with one live token; no token where none belongs. It may go without where that is explained: by a
//! fault that is in force while it is under way, or by what nginx's error log says of its account,
//! that it is "not tried again for N s". Whatever else befalls it is a failure, and so is a line of
//! the error log that nothing explains. No request is ever excused for somebody else's token, or for
//! a role that its user does not have any more.
//!
//! Half of the time nginx is left alone, so that its workers live on, and grow if they leak. In the
//! other half it is reloaded every three seconds, gets a new build, loses workers, and runs out of
//! room. NPM and its users have no rest.
//!
//! NPM's stand-in needs a machine that has time for it. Where that has none for half a second, it is
//! a fault like the others, and counted.
//!
//! The clock of this machine is not touched, for other programs have it too: NPM's is.
//!
//! | variable | meaning |
//! |---|---|
//! | `SOAK_SECONDS` | how long it lasts; 600 by default |

mod faults;
mod gate;
mod history;
mod judge;
mod log;
mod people;
mod reasons;
mod report;
mod site;
mod traffic;

use std::env;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use testbed::wait::Stop;
use testbed::{Npm, Outpost};

use gate::Gate;
use judge::Judge;
use people::People;
use report::Scales;
use site::Site;

/// How many clients there are. Each sends one request after the other.
const CLIENTS: usize = 8;

/// How often the log is read at the least.
const LOOK: Duration = Duration::from_millis(200);

/// How often it is looked whether this machine has time.
const BEAT: Duration = Duration::from_millis(50);

/// The parts of the time. In every other one, at whose end is a quarter of it all, nginx is left
/// alone.
const PARTS: u32 = 8;
const QUARTERS: [&str; 4] = ["at a quarter", "at half", "at three quarters", "at the end"];

fn main() -> ExitCode {
    let seconds = env::var("SOAK_SECONDS").ok().filter(|seconds| !seconds.is_empty());
    let seconds = seconds.map_or(600, |text| {
        text.parse().unwrap_or_else(|_| panic!("SOAK_SECONDS={text} is no number of seconds"))
    });
    let is_well = World::start().soak(Duration::from_secs(seconds));
    ExitCode::from(u8::from(!is_well))
}

struct World {
    npms: [Npm; 2],
    outpost: Outpost,
    people: People,
    site: Site,
    judge: Judge,
    gate: Gate,
    /// Whether nginx is not left alone.
    is_restless: AtomicBool,
    /// Held by who does something to nginx.
    nginx: Mutex<()>,
    stop: Stop,
}

/// Ends everything, also when somebody panics.
struct StopAll<'a>(&'a World);

impl Drop for StopAll<'_> {
    fn drop(&mut self) {
        self.0.stop.give();
        self.0.gate.open();
    }
}

impl World {
    fn start() -> Self {
        let npms = [people::first_npm(), people::second_npm()];
        let outpost = Outpost::start();
        let people = People::sign_in(&outpost);
        let site = Site::start(&npms, &outpost);
        let judge = Judge::new(npms.each_ref().map(Npm::url));
        Self {
            npms,
            outpost,
            people,
            site,
            judge,
            gate: Gate::default(),
            is_restless: AtomicBool::new(false),
            nginx: Mutex::new(()),
            stop: Stop::default(),
        }
    }

    /// Runs for that long. Says whether all was as it should be.
    fn soak(mut self, duration: Duration) -> bool {
        println!(
            "nginx {} with {} workers, {CLIENTS} clients, {duration:?}",
            self.site.nginx.url(),
            site::WORKERS
        );
        let mut scales = Scales::default();
        thread::scope(|scope| {
            let _stop = StopAll(&self);
            let world = &self;
            scales.weigh(world, "at the beginning");
            let clients = (0..CLIENTS).map(|n| scope.spawn(move || world.visit(n as u64)));
            let mut threads: Vec<_> = clients.collect();
            threads.push(scope.spawn(|| world.disturb_first_npm()));
            threads.push(scope.spawn(|| world.disturb_second_npm()));
            threads.push(scope.spawn(|| world.disturb_people()));
            threads.push(scope.spawn(|| world.disturb_nginx()));
            threads.push(scope.spawn(|| world.beat()));
            world.watch(duration, &threads, &mut scales);
        });
        self.report(&scales)
    }

    /// Lets the time pass, part by part, and weighs nginx when it has been left alone.
    fn watch(&self, duration: Duration, threads: &[ScopedJoinHandle<()>], scales: &mut Scales) {
        let (begun, part) = (Instant::now(), duration / PARTS);
        for number in 1..=PARTS {
            let ends = begun + part * number;
            let is_restless = number % 2 == 1;
            self.is_restless.store(is_restless, Ordering::SeqCst);
            if !is_restless {
                // All workers are of the same age then.
                let _work = self.at_nginx();
                self.site.nginx.reload_and_retire();
            }
            if !is_restless && self.pass(ends - part * 2 / 3, threads) {
                scales.weigh(self, "  and before that");
            }
            if !self.pass(ends, threads) {
                return;
            }
            if !is_restless {
                scales.weigh(self, QUARTERS[number as usize / 2 - 1]);
            }
            println!("{:>5} s  {}", (part * number).as_secs(), self.judge.progress());
        }
    }

    /// Lets time pass. Says whether that went well: nobody has panicked.
    fn pass(&self, until: Instant, threads: &[ScopedJoinHandle<()>]) -> bool {
        while Instant::now() < until {
            if threads.iter().any(ScopedJoinHandle::is_finished) {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            self.stop.pause(left.min(LOOK));
            self.judge.read_log(&self.site.nginx);
            self.npms.iter().for_each(Npm::forget_requests);
            self.outpost.forget_requests();
        }
        true
    }

    /// Notices when this machine has no time: beats until all is over.
    fn beat(&self) {
        while !self.stop.pause(BEAT) {
            self.judge.history.beat();
        }
    }

    /// Nobody else does anything to nginx meanwhile.
    fn at_nginx(&self) -> MutexGuard<'_, ()> {
        self.nginx.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
