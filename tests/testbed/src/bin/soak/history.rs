//! What went wrong, and when.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// A moment by the Unix clock, by which nginx's log goes too, or a span.
pub type Millis = i64;

pub fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or_default()
}

/// `11:13:16.123`, of the day by UTC.
pub fn clock(at: Millis) -> String {
    let (second, milli) = (at.div_euclid(1000).rem_euclid(86_400), at.rem_euclid(1000));
    format!("{:02}:{:02}:{:02}.{milli:03}", second / 3600, second / 60 % 60, second % 60)
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// NPM is stopped, and started again.
    Down,
    /// NPM takes logins and renewals, and answers none.
    Hangs,
    /// NPM answers logins with 500.
    FailsLogins,
    /// NPM's signing keys are replaced: no token is good any more.
    Keys,
    /// NPM's clock steps ahead: all tokens have expired.
    ClockAhead,
    /// NPM's clock steps back.
    ClockBack,
    /// A person's groups make them an administrator no more.
    Demoted,
    /// A person's NPM user is disabled, and enabled again.
    Disabled,
    /// A person's NPM user is deleted.
    Deleted,
    /// nginx reads its configuration again.
    Reload,
    /// The module's build is replaced by another file, and nginx reloads.
    Swapped,
    /// A worker is killed.
    Killed,
    /// More accounts are used than the zone has room for.
    ZoneFull,
    /// The workers have no descriptor left.
    NoDescriptors,
    /// The workers have no connection left.
    NoConnections,
    /// This machine had no time for this process, in which NPM's stand-in is, so that NPM may have
    /// been late with an answer. Nobody means that to happen.
    Stalled,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "NPM restarted",
            Self::Hangs => "NPM hangs",
            Self::FailsLogins => "NPM fails logins",
            Self::Keys => "NPM's keys replaced",
            Self::ClockAhead => "NPM's clock stepped ahead",
            Self::ClockBack => "NPM's clock stepped back",
            Self::Demoted => "person demoted",
            Self::Disabled => "person disabled",
            Self::Deleted => "person deleted",
            Self::Reload => "reload",
            Self::Swapped => "build swapped",
            Self::Killed => "worker killed",
            Self::ZoneFull => "zone full",
            Self::NoDescriptors => "descriptors out",
            Self::NoConnections => "connections out",
            Self::Stalled => "this machine stalled",
        })
    }
}

/// What a fault is one of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Of {
    /// NPM, by its number.
    Npm(usize),
    /// The user of the first NPM with this address.
    Person(String),
    Nginx,
}

#[derive(Clone, Debug)]
pub struct Fault {
    pub kind: Kind,
    pub of: Of,
    pub begun: Millis,
    /// `None` while it is in force.
    pub ended: Option<Millis>,
}

impl Fault {
    /// Whether it was in force at any time between two moments.
    pub fn overlaps(&self, from: Millis, to: Millis) -> bool {
        self.begun <= to && self.ended.is_none_or(|ended| ended >= from)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = match &self.of {
            Of::Npm(number) => format!(" ({})", number + 1),
            Of::Person(identity) => format!(" ({identity})"),
            Of::Nginx => String::new(),
        };
        let ended = self.ended.map_or_else(|| "still in force".to_owned(), clock);
        write!(f, "{} to {ended}: {}{of}", clock(self.begun), self.kind)
    }
}

/// How late a beat may be: by a part of the time that NPM has for an answer.
const LATE: Millis = 500;

/// All faults.
#[derive(Default)]
pub struct History {
    faults: Mutex<Vec<Fault>>,
    /// When the heart has last beaten; 0 before the first time.
    beat: AtomicI64,
}

/// A fault in force. Dropped, it has ended.
pub struct InForce<'a>(&'a History, usize);

impl Drop for InForce<'_> {
    fn drop(&mut self) {
        self.0.faults()[self.1].ended = Some(now());
    }
}

impl History {
    /// A fault is about to begin. It is over when what is returned is dropped.
    pub fn begin(&self, kind: Kind, of: Of) -> InForce<'_> {
        let mut faults = self.faults();
        faults.push(Fault { kind, of, begun: now(), ended: None });
        InForce(self, faults.len() - 1)
    }

    /// Beats, as the heart does many times a second. A beat that is late tells of a machine that has
    /// had no time.
    pub fn beat(&self) {
        let late = self.late();
        self.beat.store(now(), Ordering::SeqCst);
        self.faults().extend(late);
    }

    /// What the heart will say that should have beaten by now.
    fn late(&self) -> Option<Fault> {
        let (begun, now) = (self.beat.load(Ordering::SeqCst), now());
        let stalled = Fault { kind: Kind::Stalled, of: Of::Nginx, begun, ended: Some(now) };
        (begun != 0 && now - begun > LATE).then_some(stalled)
    }

    /// The faults in force at any time between two moments.
    pub fn between(&self, from: Millis, to: Millis) -> Vec<Fault> {
        // Whoever asks may go on sooner than the heart.
        let late = self.late();
        let faults = self.faults();
        let overlap = faults.iter().chain(&late).filter(|fault| fault.overlaps(from, to));
        overlap.cloned().collect()
    }

    /// The last faults that have begun before a moment, the first first.
    pub fn last(&self, count: usize, before: Millis) -> Vec<Fault> {
        let faults = self.faults();
        let begun: Vec<&Fault> = faults.iter().filter(|fault| fault.begun <= before).collect();
        begun[begun.len().saturating_sub(count)..].iter().map(|fault| (*fault).clone()).collect()
    }

    /// How many there were of each kind.
    pub fn counts(&self) -> BTreeMap<(Kind, Option<usize>), usize> {
        let mut counts = BTreeMap::new();
        for fault in self.faults().iter() {
            let npm = match fault.of {
                Of::Npm(number) => Some(number),
                _ => None,
            };
            *counts.entry((fault.kind, npm)).or_default() += 1;
        }
        counts
    }

    fn faults(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
