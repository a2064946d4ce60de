//! What nginx weighs, and what there is to say in the end.

use std::fmt;
use std::time::Duration;

use testbed::process;
use testbed::wait::happens;

use super::traffic::status;
use super::{site, World};

/// How long nginx may take to let go of all that requests had.
const IDLE: Duration = Duration::from_secs(20);

/// How long until everybody has a token, when nothing goes wrong any more: the longest pause, and
/// all logins.
const RECOVERY: Duration = Duration::from_secs(60);

/// What a worker keeps open beside what nginx itself does: two descriptors by which login threads
/// wake it, and a connection for each accounts file and NPM. No more, however long it lives.
const OWN_DESCRIPTORS: usize = 2 + 4;

/// The main thread, and a login thread for each NPM.
const THREADS: usize = 3;

/// By how much a process may grow while it does the same as ever, in KiB and in parts of itself: the
/// C library gives back what was freed when it likes.
const GROWTH: u64 = 512;
const GROWTH_PART: u64 = 20;

/// What an idle process has.
#[derive(Clone, Copy, Default)]
struct Weight {
    /// In KiB.
    memory: u64,
    descriptors: usize,
    threads: usize,
}

impl Weight {
    fn of(pid: u32) -> Self {
        Self {
            memory: process::memory(pid),
            descriptors: process::open_files(pid),
            threads: process::threads(pid) as usize,
        }
    }
}

/// What nginx had when it was idle.
struct Weighing {
    when: String,
    master: Weight,
    workers: Vec<Weight>,
    /// Workers of before a reload that should have ended.
    lingering: usize,
}

impl fmt::Display for Weighing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |what: fn(&Weight) -> u64| self.workers.iter().map(what).collect::<Vec<_>>();
        write!(
            f,
            "{:<22} master {:>6} KiB, {} descriptors; workers {:?} KiB, {:?} descriptors, \
             {:?} threads",
            self.when,
            self.master.memory,
            self.master.descriptors,
            of(|worker| worker.memory),
            of(|worker| worker.descriptors as u64),
            of(|worker| worker.threads as u64),
        )
    }
}

/// All weighings, the first being that of an nginx that has answered nothing yet. The others come in
/// pairs, of workers that have lived for a while, and of the same some time later.
#[derive(Default)]
pub struct Scales(Vec<Weighing>);

impl Scales {
    /// Weighs nginx while it is idle.
    pub fn weigh(&mut self, world: &World, when: &str) {
        world.gate.close();
        let nginx = &world.site.nginx;
        let most = self.0.first().map_or(usize::MAX, Weighing::most_descriptors);
        let weigh = || {
            let workers = nginx.worker_pids();
            Weighing {
                when: when.to_owned(),
                master: Weight::of(nginx.master_pid()),
                lingering: nginx.child_pids().len().saturating_sub(workers.len()),
                workers: workers.into_iter().map(Weight::of).collect(),
            }
        };
        let mut weighing = weigh();
        // What clients have left behind goes when nginx notices.
        happens(IDLE, || {
            weighing = weigh();
            let is_idle = |worker: &Weight| worker.descriptors <= most;
            weighing.lingering == 0 && weighing.workers.iter().all(is_idle)
        });
        world.gate.open();
        println!("         {weighing}");
        self.0.push(weighing);
    }

    /// What looks like a leak.
    fn leaks(&self) -> Vec<String> {
        let mut leaks = Vec::new();
        let Some(first) = self.0.first() else { return leaks };
        for weighing in &self.0 {
            let when = weighing.when.trim();
            if weighing.lingering > 0 {
                leaks.push(format!("{when}: {} old workers have not ended", weighing.lingering));
            }
            for worker in &weighing.workers {
                if worker.descriptors > first.most_descriptors() {
                    leaks.push(format!("{when}: a worker has {} descriptors", worker.descriptors));
                }
                if worker.threads > THREADS {
                    leaks.push(format!("{when}: a worker has {} threads", worker.threads));
                }
            }
            if weighing.master.descriptors > first.master.descriptors {
                leaks.push(format!(
                    "{when}: master has {} descriptors",
                    weighing.master.descriptors
                ));
            }
        }
        let has_grown = |from: u64, to: u64| to > from + from / GROWTH_PART + GROWTH;
        let pairs: Vec<_> = self.0[1..].chunks_exact(2).map(|pair| (&pair[0], &pair[1])).collect();
        for (warm, later) in &pairs {
            for (before, after) in warm.workers.iter().zip(&later.workers) {
                // What a thread takes for itself is no leak.
                if before.threads == after.threads && has_grown(before.memory, after.memory) {
                    let (before, after) = (before.memory, after.memory);
                    leaks.push(format!("{}: a worker from {before} to {after} KiB", later.when));
                }
            }
        }
        if let [(_, early), .., (_, last)] = pairs[..] {
            if has_grown(early.master.memory, last.master.memory) {
                let (before, after) = (early.master.memory, last.master.memory);
                leaks.push(format!("the master from {before} to {after} KiB"));
            }
            if has_grown(early.largest_worker(), last.largest_worker()) {
                let (before, after) = (early.largest_worker(), last.largest_worker());
                leaks.push(format!("workers of one age from {before} to {after} KiB"));
            }
        }
        leaks
    }
}

impl Weighing {
    /// How many descriptors a worker may have, where this is an nginx that has answered nothing.
    fn most_descriptors(&self) -> usize {
        self.workers.iter().map(|worker| worker.descriptors).max().unwrap_or_default()
            + OWN_DESCRIPTORS
    }

    fn largest_worker(&self) -> u64 {
        self.workers.iter().map(|worker| worker.memory).max().unwrap_or_default()
    }
}

impl World {
    /// Nothing goes wrong any more: everybody is signed in.
    fn check_that_all_are_signed_in(&self) {
        let people = &self.people;
        let persons = people.persons.iter().flatten();
        for user in people.named.iter().chain(persons).chain(&people.keepers) {
            let client = self.site.nginx.client();
            let is_signed_in = happens(RECOVERY, || {
                let request = client.request("GET", "/api/users/me");
                let request = request.header("Host", user.host.name());
                let reply = request.cookie(&user.ticket().session).try_send();
                reply.is_ok_and(|reply| {
                    reply.status == 200 && matches!(status(&reply), "hit" | "miss")
                })
            });
            let who = || format!("{} is not, at {}", user.identity, user.host.name());
            self.judge.note("in the end", if is_signed_in { Ok(()) } else { Err(who()) });
        }
    }

    /// Ends nginx, and prints what there is to say. Says whether all was as it should be.
    pub fn report(&mut self, scales: &Scales) -> bool {
        self.check_that_all_are_signed_in();
        let quit = self.site.nginx.quit();
        if !quit.success() {
            self.judge.note("end", Err(format!("nginx ended with {quit}")));
        }
        self.judge.read_log(&self.site.nginx);

        println!("\n{:<30} {:>10} {:>10}", "", "number", "failures");
        for (kind, tally) in self.judge.tally().iter() {
            println!("{kind:<30} {:>10} {:>10}", tally.requests, tally.failures);
        }
        println!("\nWhat went wrong, and how often:");
        for ((kind, npm), count) in self.judge.history.counts() {
            let npm = npm.map(|npm| if npm == 0 { " (the first)" } else { " (the second)" });
            println!("    {count:>6}  {kind}{}", npm.unwrap_or_default());
        }
        println!("\nRequests that were not as ever, and why:");
        for ((symptom, why), count) in self.judge.excused() {
            println!("    {count:>6}  {:<12} {why}", format!("{symptom:?}"));
        }
        let counts = self.judge.log().counts;
        println!(
            "\n{} logins, {} renewals, {} of both failed; {} users made, {} roles taken away, \
             {} tokens found to be void",
            counts.logins,
            counts.renewals,
            counts.failed,
            counts.made,
            counts.demoted,
            counts.revoked
        );
        println!("\nnginx, idle, {} workers:", site::WORKERS);
        scales.0.iter().for_each(|weighing| println!("    {weighing}"));

        let failures: u64 = self.judge.tally().values().map(|tally| tally.failures).sum();
        let leaks = scales.leaks();
        match leaks.is_empty() {
            true => println!("Memory, descriptors and threads are flat."),
            false => leaks.iter().for_each(|leak| println!("Like a leak: {leak}")),
        }
        for (kind, tally) in self.judge.tally().iter() {
            for example in &tally.examples {
                println!("FAILURE ({kind}) {}", example.lines().next().unwrap_or_default());
            }
        }
        let is_well = failures == 0 && leaks.is_empty();
        println!("\n{}", if is_well { "All as it should be." } else { "Not all as it should be." });
        is_well
    }
}
