//! Whether what befell a request is explained, and whether what the log says is.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use testbed::client::RequestBuilder;
use testbed::{Nginx, Reply};

use super::history::{clock, now, Fault, History, Kind, Millis, Of};
use super::log::{ended_by_signal, Account, Counts, Line, Log, Pause, Said, DISABLED};
use super::people::{Host, User, SERVICE, TIMEOUT, WRONG};
use super::traffic::status;

/// NPM is asked no more often than this whether it still takes a token, as the README has it.
const CHECK_INTERVAL: Millis = 10_000;

/// So long the module may be at one sign-in: a renewal that fails and a login, and for a person
/// those of the account that signs them in before. Each takes no longer than the `timeout`.
const SIGN_IN: Millis = 4 * TIMEOUT.as_millis() as Millis + 1000;

/// How many failures of a kind are shown, and how many faults and lines with each.
const SHOWN: usize = 5;
const FAULTS_SHOWN: usize = 8;
const LINES_SHOWN: usize = 30;

/// What is wrong with a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Symptom {
    /// There is none.
    NoReply,
    /// nginx answers with an error in NPM's place.
    Unavailable,
    /// The request went on without a token: NPM gave none.
    NoToken,
    /// The same: NPM has no user who may sign in.
    NoAccount,
    /// NPM did not take the token.
    Refused,
    /// NPM did not take the client's own token.
    OwnRefused,
    /// An administrator's own token was not kept.
    NotKept,
    /// What nothing excuses.
    Wrong,
}

impl Symptom {
    pub fn has_no_token(self) -> bool {
        matches!(self, Self::NoToken | Self::NoAccount)
    }
}

#[derive(Debug)]
pub struct Problem {
    pub symptom: Symptom,
    pub detail: String,
}

impl Problem {
    pub fn of(symptom: Symptom, reply: &Reply) -> Self {
        let text: String = reply.text().chars().take(200).collect();
        Self { symptom, detail: text }
    }

    pub fn refused(reply: &Reply) -> Self {
        Self::of(Symptom::Refused, reply)
    }

    pub fn unless(is_well: bool, symptom: Symptom, detail: &str) -> Result<(), Self> {
        match is_well {
            true => Ok(()),
            false => Err(Self { symptom, detail: detail.to_owned() }),
        }
    }
}

/// What became of requests of one kind.
#[derive(Default)]
pub struct Tally {
    pub requests: u64,
    pub failures: u64,
    pub examples: Vec<String>,
}

pub struct Judge {
    /// The URLs of the NPMs.
    urls: [String; 2],
    pub history: History,
    log: Mutex<Log>,
    /// The workers that were killed.
    killed: Mutex<Vec<u32>>,
    tally: Mutex<BTreeMap<&'static str, Tally>>,
    /// How often which symptom was excused by what.
    excused: Mutex<BTreeMap<(Symptom, String), u64>>,
    /// For each account and fault by which its token became void, what was seen of that.
    refusals: Mutex<HashMap<(Account, Millis), Refusals>>,
}

/// The requests that had a token which NPM does not take any more.
struct Refusals {
    /// When the first was answered.
    first: Millis,
    /// When the first was answered that has NPM asked, however lately it was asked before.
    asked: Option<Millis>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Judge {
    pub fn new(urls: [String; 2]) -> Self {
        Self {
            urls,
            history: History::default(),
            log: Mutex::default(),
            killed: Mutex::default(),
            tally: Mutex::default(),
            excused: Mutex::default(),
            refusals: Mutex::default(),
        }
    }

    /// Sends a request, and judges what becomes of it.
    pub fn request(
        &self,
        nginx: &Nginx,
        kind: &'static str,
        user: Option<&User>,
        request: RequestBuilder<'_>,
        check: impl FnOnce(&Reply) -> Result<(), Problem>,
    ) {
        let from = now();
        let reply = request.try_send();
        let to = now();
        let (verdict, seen) = match &reply {
            Ok(reply) => {
                (check(reply), format!("status {}, token {:?}", reply.status, status(reply)))
            }
            Err(error) => {
                let detail = error.to_string();
                (Err(Problem { symptom: Symptom::NoReply, detail }), "no reply".to_owned())
            }
        };
        let Err(Problem { symptom, detail }) = verdict else { return self.note(kind, Ok(())) };
        // What nginx has said before it answered counts.
        self.read_log(nginx);
        if let Some(why) = self.excuse(symptom, user, from, to) {
            *lock(&self.excused).entry((symptom, why)).or_default() += 1;
            return self.note(kind, Ok(()));
        }
        let who = user.map_or_else(String::new, |user| {
            format!(" for {} at {}", user.identity, user.host.name())
        });
        let what = format!("{symptom:?}{who}, {seen}: {detail}");
        self.note(kind, Err(self.with_context(&what, from, to)));
    }

    /// Does what may fail only while workers are killed, or full.
    pub fn attempt(&self, kind: &'static str, act: impl FnOnce() -> io::Result<()>) {
        let from = now();
        let verdict = act();
        let to = now();
        let verdict = match verdict {
            Err(error) if self.excuse(Symptom::NoReply, None, from, to).is_none() => {
                Err(self.with_context(&error.to_string(), from, to))
            }
            _ => Ok(()),
        };
        self.note(kind, verdict);
    }

    /// Reads what nginx has logged, and judges it.
    pub fn read_log(&self, nginx: &Nginx) {
        let mut log = lock(&self.log);
        let lines = log.read(nginx);
        let unexplained: Vec<Line> =
            lines.into_iter().filter(|line| !self.is_explained(&log, line)).collect();
        drop(log);
        for line in unexplained {
            let context = self.with_context(&line.text, line.at, line.until());
            self.note("error log", Err(context));
        }
    }

    /// A worker is about to be killed.
    pub fn expect_end_of(&self, worker: u32) {
        lock(&self.killed).push(worker);
    }

    pub fn log(&self) -> MutexGuard<'_, Log> {
        lock(&self.log)
    }

    pub fn url(&self, npm: usize) -> &str {
        &self.urls[npm]
    }

    /// Counts something, and shows why it failed.
    pub fn note(&self, kind: &'static str, verdict: Result<(), String>) {
        let mut tally = lock(&self.tally);
        let tally = tally.entry(kind).or_default();
        tally.requests += 1;
        if let Err(error) = verdict {
            tally.failures += 1;
            if tally.examples.len() < SHOWN {
                println!("FAILURE ({kind}) {error}");
                tally.examples.push(error);
            }
        }
    }

    pub fn progress(&self) -> String {
        let tally = lock(&self.tally);
        let sum = |count: fn(&Tally) -> u64| tally.values().map(count).sum::<u64>();
        let (requests, failures) = (sum(|tally| tally.requests), sum(|tally| tally.failures));
        let Counts { logins, renewals, failed, .. } = self.log().counts;
        format!(
            "{requests} requests, {failures} failures; {logins} logins, {renewals} renewals, \
             {failed} of both failed"
        )
    }

    pub fn tally(&self) -> MutexGuard<'_, BTreeMap<&'static str, Tally>> {
        lock(&self.tally)
    }

    pub fn excused(&self) -> BTreeMap<(Symptom, String), u64> {
        lock(&self.excused).clone()
    }

    /// Why a request that was under way between two moments may have had this. `None`: nothing
    /// explains it.
    fn excuse(
        &self,
        symptom: Symptom,
        user: Option<&User>,
        from: Millis,
        to: Millis,
    ) -> Option<String> {
        let host = user.map_or(Host::First, |user| user.host);
        let npm = host.npm();
        let faults = self.history.between(from, to);
        let fault = |kinds: &[Kind]| {
            let is_one = |fault: &&Fault| {
                kinds.contains(&fault.kind) && [Of::Nginx, Of::Npm(npm)].contains(&fault.of)
            };
            faults.iter().find(is_one).map(|fault| fault.kind.to_string())
        };
        let no_room = [Kind::NoDescriptors, Kind::NoConnections];
        match symptom {
            Symptom::NoReply => fault(&no_room).or_else(|| fault(&[Kind::Killed])),
            Symptom::Unavailable => fault(&no_room).or_else(|| fault(&[Kind::Down])),
            Symptom::NoToken => {
                let user = user?;
                let announced = || {
                    let log = self.log();
                    let paused = |identity: &str| {
                        !log.pauses(&self.account(identity, npm), from, to).is_empty()
                    };
                    (paused(&user.identity) || paused(SERVICE))
                        .then(|| "a pause that the log announced".to_owned())
                };
                announced().or_else(|| {
                    let npm = [Kind::Down, Kind::Hangs, Kind::FailsLogins, Kind::Killed];
                    fault(&npm).or_else(|| fault(&no_room))
                })
            }
            Symptom::NoAccount => {
                let pauses = self.log().pauses(&self.account(&user?.identity, npm), from, to);
                let is_of_user = |pause: &Pause| pause.why.contains(DISABLED);
                pauses.iter().any(is_of_user).then(|| "the log says: disabled".to_owned())
            }
            Symptom::Refused => self.void_token(user?, from, to),
            // It was made before NPM's keys were replaced.
            Symptom::OwnRefused => fault(&[Kind::Keys]),
            // NPM did not say what the account may do, when it gave the token.
            Symptom::NotKept => {
                let account = self.account(&user?.identity, npm);
                let sign_in = self.log().last_sign_in(&account, to)?;
                let faults = self.history.between(sign_in.begun, sign_in.until);
                let is_one = |fault: &&Fault| {
                    matches!(
                        fault.kind,
                        Kind::Down | Kind::Keys | Kind::NoDescriptors | Kind::NoConnections
                    )
                };
                faults.iter().find(is_one).map(|fault| fault.kind.to_string())
            }
            Symptom::Wrong => None,
        }
    }

    /// Why NPM did not take a user's token between two moments: it had become void, and the module
    /// had not learnt that yet. It does by asking NPM, at most once in ten seconds.
    fn void_token(&self, user: &User, from: Millis, to: Millis) -> Option<String> {
        let account = self.account(&user.identity, user.host.npm());
        let faults = self.history.between(Millis::MIN, to);
        let voided = faults.iter().rev().filter(|fault| self.voids(fault, &account));
        for fault in voided {
            // What NPM has given while keys were being replaced may be of either.
            let after =
                if fault.kind == Kind::Disabled { fault.begun } else { fault.ended.unwrap_or(to) };
            let learnt = self.log().has_learnt(&account, after, DISABLED);
            if learnt.is_some_and(|learnt| learnt < from) {
                continue;
            }
            let mut refusals = lock(&self.refusals);
            let seen = refusals
                .entry((account.clone(), fault.begun))
                .or_insert(Refusals { first: to, asked: None });
            if to >= seen.first + CHECK_INTERVAL {
                seen.asked.get_or_insert(to);
            }
            let asked = seen.asked.unwrap_or(to);
            drop(refusals);
            let was_hindered = self.history.between(asked, to).iter().any(|fault| {
                matches!(
                    fault.kind,
                    Kind::Down
                        | Kind::Hangs
                        | Kind::FailsLogins
                        | Kind::Killed
                        | Kind::NoDescriptors
                        | Kind::NoConnections
                )
            });
            if from <= asked + SIGN_IN || was_hindered {
                return Some(format!("{}, until the module knows", fault.kind));
            }
        }
        None
    }

    /// Whether an account's token is worth nothing after this.
    fn voids(&self, fault: &Fault, (identity, url): &Account) -> bool {
        match &fault.of {
            Of::Npm(npm) => {
                self.urls[*npm] == *url && matches!(fault.kind, Kind::Keys | Kind::ClockAhead)
            }
            Of::Person(person) => {
                self.urls[0] == *url
                    && person == identity
                    && matches!(fault.kind, Kind::Disabled | Kind::Deleted)
            }
            Of::Nginx => false,
        }
    }

    /// Whether there is a reason for a line of the log, or none is needed.
    fn is_explained(&self, log: &Log, line: &Line) -> bool {
        if let Some(Said::Failed(account, pause)) = line.said() {
            return self.is_failure_explained(log, &account, &pause, line);
        }
        if line.text.contains("panicked") {
            return false;
        }
        if !["alert", "crit", "emerg"].into_iter().any(|level| line.is(level)) {
            return true;
        }
        let killed = lock(&self.killed);
        if let Some(pid) = ended_by_signal(&line.text) {
            return line.text.contains("exited on signal 9") && killed.contains(&pid);
        }
        // The master frees what a worker held that was killed.
        if let Some((_, pid)) = line.text.split_once(" was locked by ") {
            return pid.trim().parse().is_ok_and(|pid| killed.contains(&pid));
        }
        let is_of = |kind, text: &str| line.text.contains(text) && self.was(&[kind], line, 0);
        is_of(Kind::NoDescriptors, "(24: Too many open files)")
            // A worker that has none waits for some, and is told to end meanwhile: then nginx looks
            // once more at a socket that it has closed (`ngx_event_accept`).
            || is_of(Kind::NoDescriptors, "accept4() failed (9: Bad file descriptor)")
            || is_of(Kind::NoConnections, "worker_connections are not enough")
    }

    fn is_failure_explained(
        &self,
        log: &Log,
        account: &Account,
        pause: &Pause,
        line: &Line,
    ) -> bool {
        let (identity, url) = account;
        let why = pause.why.as_str();
        let npm = usize::from(*url == self.urls[1]);
        let from = line.at - SIGN_IN;
        let faults = self.history.between(from, line.until());
        let is_of_npm = |fault: &Fault| fault.of == Of::Npm(npm);
        let is_npms = |fault: &Fault| {
            is_of_npm(fault) && matches!(fault.kind, Kind::Down | Kind::Hangs | Kind::FailsLogins)
        };
        let is_persons = |fault: &Fault| fault.of == Of::Person(identity.clone());
        if why.starts_with("refused identity and secret") {
            return identity == WRONG;
        }
        if why.starts_with("could not be asked") {
            return self.was(&[Kind::NoDescriptors, Kind::NoConnections], line, 0);
        }
        if why.starts_with("is not asked, for the account of \"sign_in_as\"") {
            return !log.pauses(&self.account(SERVICE, npm), line.at, line.until()).is_empty();
        }
        if why.starts_with(DISABLED) || why.starts_with("has no user") {
            return faults.iter().any(is_persons);
        }
        if why.starts_with("does not take the token") {
            return self
                .history
                .between(line.at - CHECK_INTERVAL - SIGN_IN, line.until())
                .iter()
                .any(|fault| self.voids(fault, account));
        }
        if why.starts_with("answered with status 4") {
            return faults.iter().any(is_persons);
        }
        faults.iter().any(is_npms)
    }

    /// Whether a fault of nginx's was in force when a line was written, or so long before.
    fn was(&self, kinds: &[Kind], line: &Line, before: Millis) -> bool {
        let faults = self.history.between(line.at - before, line.until());
        faults.iter().any(|fault| kinds.contains(&fault.kind))
    }

    fn account(&self, identity: &str, npm: usize) -> Account {
        (identity.to_owned(), self.urls[npm].clone())
    }

    /// A failure, with what went before it and what nginx said.
    fn with_context(&self, what: &str, from: Millis, to: Millis) -> String {
        let mut text = format!("{} to {}: {what}", clock(from), clock(to));
        for fault in self.history.last(FAULTS_SHOWN, to) {
            text.push_str(&format!("\n    fault {fault}"));
        }
        let lines = self.log().around(from - 3000, to + 1000);
        for line in &lines[lines.len().saturating_sub(LINES_SHOWN)..] {
            text.push_str(&format!("\n    nginx {line}"));
        }
        text
    }
}
