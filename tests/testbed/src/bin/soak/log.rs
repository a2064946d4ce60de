//! What nginx's error log says: of each account, and of nginx itself.

use std::collections::{HashMap, HashSet, VecDeque};

use testbed::Nginx;

use super::history::{clock, Millis};

/// nginx's log tells seconds: what it says of one has happened before its end.
const SECOND: Millis = 1000;

/// How many lines are kept, to be shown around a failure.
const KEPT: usize = 4000;

/// Why a person may not sign in.
pub const DISABLED: &str = "has disabled this user";

/// An NPM account: its identity, and the URL of its NPM.
pub type Account = (String, String);

/// A line of the log.
#[derive(Clone)]
pub struct Line {
    /// The beginning of its second.
    pub at: Millis,
    pub text: String,
}

impl Line {
    fn parse(text: &str) -> Option<Self> {
        Some(Self { at: local_time(text.get(..19)?)?, text: text.to_owned() })
    }

    /// The end of its second.
    pub fn until(&self) -> Millis {
        self.at + SECOND
    }

    /// Whether nginx calls it that: `alert`.
    pub fn is(&self, level: &str) -> bool {
        self.text.get(20..).is_some_and(|rest| {
            rest.strip_prefix('[')
                .and_then(|rest| rest.strip_prefix(level))
                .is_some_and(|rest| rest.starts_with(']'))
        })
    }

    /// What the module says in it of an account.
    pub fn said(&self) -> Option<Said> {
        let (_, said) = self.text.split_once("npm_token_inject: ")?;
        for (start, renewed) in [("signed in ", false), ("renewed the token of ", true)] {
            if let Some((identity, rest)) = said.strip_prefix(start).and_then(quoted) {
                let (url, rest) = rest.strip_prefix(" at ")?.split_once(" in ")?;
                let took: Millis = rest.split_once(" ms")?.0.parse().ok()?;
                let sign_in = SignIn { begun: self.at - took, until: self.until() };
                return Some(Said::SignedIn((identity, url.to_owned()), sign_in, renewed));
            }
        }
        if let Some((identity, rest)) = said.strip_prefix("login of ").and_then(quoted) {
            let (url, rest) = rest.strip_prefix(" failed: NPM at ")?.split_once(' ')?;
            let (why, rest) = rest.split_once("; ")?;
            let seconds = rest.rsplit_once("not tried again for ")?.1.split_once(" s")?.0;
            let until = self.until() + seconds.parse::<Millis>().ok()? * 1000;
            let pause = Pause { from: self.at, until, why: why.to_owned() };
            return Some(Said::Failed((identity, url.to_owned()), pause));
        }
        None
    }
}

/// What the module says of an account in a line.
pub enum Said {
    /// Whether by a renewal.
    SignedIn(Account, SignIn, bool),
    Failed(Account, Pause),
}

/// A token that NPM gave.
#[derive(Clone, Copy)]
pub struct SignIn {
    /// NPM was asked no sooner than that.
    pub begun: Millis,
    /// It had answered then.
    pub until: Millis,
}

/// What comes of a login that failed: so long, no other is tried. A token that another worker gets
/// meanwhile may be in the zone of before a reload, and this in the new one: so it ends none.
#[derive(Clone)]
pub struct Pause {
    pub from: Millis,
    pub until: Millis,
    pub why: String,
}

/// The log so far.
#[derive(Default)]
pub struct Log {
    /// How much of it has been read, in bytes.
    read: u64,
    /// The beginning of a line that is not whole yet.
    rest: String,
    lines: VecDeque<Line>,
    sign_ins: HashMap<Account, Vec<SignIn>>,
    pauses: HashMap<Account, Vec<Pause>>,
    /// The workers that have ended by a signal.
    ended: HashSet<u32>,
    pub counts: Counts,
}

/// What the module has done, by its own words.
#[derive(Clone, Copy, Default)]
pub struct Counts {
    pub logins: u64,
    pub renewals: u64,
    pub failed: u64,
    pub made: u64,
    pub demoted: u64,
    pub revoked: u64,
}

impl Log {
    /// Reads what has been written since the last call. Returns the new lines.
    pub fn read(&mut self, nginx: &Nginx) -> Vec<Line> {
        let new = nginx.error_log_from(self.read);
        self.read += new.len() as u64;
        self.rest.push_str(&new);
        let Some(end) = self.rest.rfind('\n') else { return Vec::new() };
        let whole: String = self.rest.drain(..=end).collect();
        let lines: Vec<Line> = whole.lines().filter_map(Line::parse).collect();
        lines.iter().for_each(|line| self.note(line));
        self.lines.extend(lines.iter().cloned());
        let surplus = self.lines.len().saturating_sub(KEPT);
        self.lines.drain(..surplus);
        lines
    }

    fn note(&mut self, line: &Line) {
        let counts = &mut self.counts;
        if let Some(pid) = ended_by_signal(&line.text) {
            self.ended.insert(pid);
        }
        for (count, text) in [
            (&mut counts.revoked, "no longer takes the token of"),
            (&mut counts.made, "npm_token_inject: made "),
            (&mut counts.demoted, "is no administrator any more"),
        ] {
            *count += u64::from(line.text.contains(text));
        }
        match line.said() {
            Some(Said::SignedIn(account, sign_in, renewed)) => {
                *(if renewed { &mut counts.renewals } else { &mut counts.logins }) += 1;
                self.sign_ins.entry(account).or_default().push(sign_in);
            }
            Some(Said::Failed(account, pause)) => {
                counts.failed += 1;
                self.pauses.entry(account).or_default().push(pause);
            }
            None => {}
        }
    }

    /// The pauses of an account at any time between two moments.
    pub fn pauses(&self, account: &Account, from: Millis, to: Millis) -> Vec<Pause> {
        let pauses = self.pauses.get(account).map(Vec::as_slice).unwrap_or_default();
        let overlaps = |pause: &&Pause| pause.from <= to && pause.until >= from;
        pauses.iter().filter(overlaps).cloned().collect()
    }

    /// When the last pause at an NPM ends of those that the log has announced, but for some accounts
    /// and for those who may not sign in.
    pub fn paused_until(&self, url: &str, but: impl Fn(&str) -> bool) -> Millis {
        let of_npm = self.pauses.iter().filter(|((identity, at), _)| at == url && !but(identity));
        let last = of_npm.filter_map(|(_, pauses)| pauses.last());
        let ends = last.filter(|last| !last.why.contains(DISABLED)).map(|last| last.until);
        ends.max().unwrap_or_default()
    }

    /// The last token that an account got before a moment.
    pub fn last_sign_in(&self, account: &Account, before: Millis) -> Option<SignIn> {
        let all = self.sign_ins.get(account)?;
        all.iter().rfind(|sign_in| sign_in.until - SECOND <= before).copied()
    }

    /// From when on an account has a token that NPM was asked for after a moment, or none, for NPM
    /// was asked and said why not.
    pub fn has_learnt(&self, account: &Account, after: Millis, why_not: &str) -> Option<Millis> {
        let mut learnt = None;
        let since = |until: Millis| until > after;
        let sign_ins = self.sign_ins.get(account).map(Vec::as_slice).unwrap_or_default();
        let first = sign_ins.partition_point(|sign_in| !since(sign_in.until));
        for sign_in in &sign_ins[first..] {
            match sign_in.begun >= after {
                true => learnt = learnt.or(Some(sign_in.until)),
                // It may be of before, and has taken the place of one that was not.
                false => learnt = None,
            }
        }
        let pauses = self.pauses.get(account).map(Vec::as_slice).unwrap_or_default();
        let refused = |pause: &&Pause| {
            pause.from + SECOND > after && !why_not.is_empty() && pause.why.contains(why_not)
        };
        let refused = pauses.iter().find(refused).map(|pause| pause.from + SECOND);
        [learnt, refused].into_iter().flatten().min()
    }

    pub fn has_ended(&self, worker: u32) -> bool {
        self.ended.contains(&worker)
    }

    /// The lines of between two moments: the module's, those of errors, and of workers that ended.
    pub fn around(&self, from: Millis, to: Millis) -> Vec<String> {
        let lines = self.lines.iter().filter(|line| line.until() >= from && line.at <= to);
        let matters = |line: &&Line| {
            let is_ordinary = line.is("notice") || line.is("warn");
            !is_ordinary || ["npm_token_inject", "exited"].iter().any(|t| line.text.contains(t))
        };
        lines.filter(matters).map(|line| line.text.clone()).collect()
    }
}

/// The worker that, by this line, was ended by a signal.
pub fn ended_by_signal(text: &str) -> Option<u32> {
    let (_, rest) = text.split_once("worker process ")?;
    let (pid, rest) = rest.split_once(' ')?;
    rest.starts_with("exited on signal").then(|| pid.parse().ok())?
}

/// The text in the quotes that `said` begins with, and what follows.
fn quoted(said: &str) -> Option<(String, &str)> {
    let (text, rest) = said.strip_prefix('"')?.split_once('"')?;
    Some((text.to_owned(), rest))
}

/// A moment as nginx writes it: `2026/11/26 11:13:16`, by the time zone of this machine.
fn local_time(text: &str) -> Option<Millis> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<i32>().ok();
    // SAFETY: for a `tm` all zeros is a value.
    let mut time: libc::tm = unsafe { std::mem::zeroed() };
    time.tm_year = number(0, 4)? - 1900;
    time.tm_mon = number(5, 7)? - 1;
    time.tm_mday = number(8, 10)?;
    time.tm_hour = number(11, 13)?;
    time.tm_min = number(14, 16)?;
    time.tm_sec = number(17, 19)?;
    // Whether it is summer is for mktime to say.
    time.tm_isdst = -1;
    // SAFETY: mktime(3) reads the value, and completes it.
    let seconds = unsafe { libc::mktime(&mut time) };
    Some(seconds * 1000)
}

impl std::fmt::Display for Pause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} to {}: NPM {}", clock(self.from), clock(self.until), self.why)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNED_IN: &str =
        "2026/11/26 11:36:25 [notice] 28099#28099: npm_token_inject: signed in \
                             \"bob@example.com\" at http://127.0.0.1:81 in 50 ms, valid for 148 s";
    const FAILED: &str = "2026/11/26 11:36:26 [error] 28099#28099: npm_token_inject: login of \
                          \"bob@example.com\" failed: NPM at http://127.0.0.1:81 did not answer within \
                          2s; check that NPM runs, and \"api\"; not tried again for 4 s";

    fn log(lines: &[&str]) -> (Log, Vec<Line>) {
        let lines: Vec<Line> = lines.iter().filter_map(|line| Line::parse(line)).collect();
        let mut log = Log::default();
        lines.iter().for_each(|line| log.note(line));
        (log, lines)
    }

    fn bob() -> Account {
        ("bob@example.com".to_owned(), "http://127.0.0.1:81".to_owned())
    }

    #[test]
    fn a_pause_lasts_as_long_as_the_log_announces() {
        let (log, lines) = log(&[SIGNED_IN, FAILED]);
        let failed = &lines[1];
        assert!(failed.is("error") && !failed.is("err"));
        assert_eq!(log.pauses(&bob(), failed.until() + 4000, Millis::MAX).len(), 1);
        assert_eq!(log.pauses(&bob(), failed.until() + 4001, Millis::MAX).len(), 0);
        assert_eq!(log.pauses(&bob(), 0, failed.at - 1).len(), 0);
        assert_eq!(log.paused_until(&bob().1, |_| false), failed.until() + 4000);
        assert_eq!(log.paused_until(&bob().1, |identity| identity == bob().0), 0);
    }

    #[test]
    fn a_token_is_of_after_a_moment_only_where_that_is_certain() {
        let (log, lines) = log(&[SIGNED_IN]);
        let (at, until) = (lines[0].at, lines[0].until());
        assert_eq!(log.has_learnt(&bob(), at - 50, ""), Some(until));
        assert_eq!(log.has_learnt(&bob(), at - 49, ""), None);
        assert_eq!(log.has_learnt(&bob(), until, ""), None);
    }

    #[test]
    fn a_worker_that_was_killed_is_known_by_its_line() {
        let line = "2026/11/26 11:36:25 [alert] 10#10: worker process 4711 exited on signal 9";
        assert_eq!(ended_by_signal(line), Some(4711));
        assert_eq!(ended_by_signal("worker process 4711 exited with code 0"), None);
        assert!(log(&[line]).0.has_ended(4711));
    }
}
