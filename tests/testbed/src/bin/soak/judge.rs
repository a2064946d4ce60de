//! The judge: what becomes of requests, of nginx's log and of all else, and what of that is a failure.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use testbed::client::RequestBuilder;
use testbed::wait::happens;
use testbed::{Nginx, Reply};

use super::history::{clock, now, History, Millis};
use super::log::{Account, Counts, Line, Log};
use super::people::User;
use super::reasons::{Refusals, LINE_DELAY};
use super::traffic::status;

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
    pub urls: [String; 2],
    pub history: History,
    log: Mutex<Log>,
    /// The workers that were killed.
    pub killed: Mutex<Vec<u32>>,
    tally: Mutex<BTreeMap<&'static str, Tally>>,
    /// How often which symptom was excused by what.
    excused: Mutex<BTreeMap<(Symptom, String), u64>>,
    /// For each account and fault by which its token became void, what was seen of that.
    pub refusals: Mutex<HashMap<(Account, Millis), Refusals>>,
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
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
        let mut excuse = None;
        let mut is_excused = || {
            self.read_log(nginx);
            excuse = self.excuse(symptom, user, from, to);
            excuse.is_some()
        };
        // A request that has waited for a login as long as may be is sent on without a token, and the
        // login ends at the same moment: its line may be a little later, in another worker's turn.
        match symptom {
            Symptom::NoToken => happens(LINE_DELAY, is_excused),
            _ => is_excused(),
        };
        if let Some(why) = excuse {
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
