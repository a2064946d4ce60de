//! Reasons: what explains that a request did not get what it should, and what a line of the log.

use std::time::Duration;

use super::history::{Fault, Kind, Millis, Of};
use super::judge::{lock, Judge, Symptom};
use super::log::{ended_by_signal, Account, Line, Log, Pause, Said, DISABLED};
use super::people::{By, Host, User, LIFETIMES, SERVICE, TIMEOUT, WRONG};

/// NPM is asked no more often than this whether it still takes a token, as the README has it.
const CHECK_INTERVAL: Millis = 10_000;

/// So long the module may be at one call of NPM's.
const CALL: Millis = TIMEOUT.as_millis() as Millis;

/// And so long at one sign-in: a renewal that fails and a login, and for a person those of the
/// account that signs them in before.
const SIGN_IN: Millis = 4 * CALL + 1000;

/// So much later the log may say why a login failed than a request that waited for it is answered:
/// the request's own time is up at the same moment.
pub const LINE_DELAY: Duration = Duration::from_secs(1);

/// The requests that had a token which NPM does not take any more.
pub struct Refusals {
    /// When the first was answered.
    first: Millis,
    /// When the first was answered that has NPM asked, however lately it was asked before.
    asked: Option<Millis>,
}

impl Judge {
    /// Why a request that was under way between two moments may have had this. `None`: nothing
    /// explains it.
    pub fn excuse(
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
                        let until = to + LINE_DELAY.as_millis() as Millis;
                        !log.pauses(&self.account(identity, npm), from, until).is_empty()
                    };
                    (paused(&user.identity) || user.by == By::Address && paused(SERVICE))
                        .then(|| "a pause that the log announced".to_owned())
                };
                announced().or_else(|| {
                    let npm = [Kind::Down, Kind::Hangs, Kind::FailsLogins, Kind::Killed];
                    fault(&npm).or_else(|| fault(&no_room)).or_else(|| fault(&[Kind::Stalled]))
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
        let npm = user.host.npm();
        let account = self.account(&user.identity, npm);
        // No token of before lives longer.
        let life = Millis::try_from(LIFETIMES[npm].as_millis()).unwrap_or_default();
        let faults = self.history.between(Millis::MIN, to);
        let is_recent = |fault: &&Fault| fault.ended.is_none_or(|ended| ended + life >= from);
        // The first that the module has not learnt of: others after it have changed nothing.
        let unknown = faults.iter().filter(is_recent).find(|fault| {
            // What NPM has given while keys were being replaced may be of either.
            let done = if fault.kind == Kind::Disabled { None } else { fault.ended };
            let after = done.unwrap_or(fault.begun);
            let learnt = || self.log().has_learnt(&account, after, DISABLED);
            self.voids(fault, &account) && learnt().is_none_or(|learnt| learnt >= from)
        })?;
        self.may_still_be_sent((account, unknown.begun), user.host, from, to)
            .then(|| format!("{}, until the module knows", unknown.kind))
    }

    /// Whether the module may still send a token that is void: until it has asked NPM, and signed in
    /// anew.
    fn may_still_be_sent(
        &self,
        void: (Account, Millis),
        host: Host,
        from: Millis,
        to: Millis,
    ) -> bool {
        let mut refusals = lock(&self.refusals);
        let seen = refusals.entry(void).or_insert(Refusals { first: to, asked: None });
        if to >= seen.first + CHECK_INTERVAL {
            seen.asked.get_or_insert(to);
        }
        let Some(asked) = seen.asked else { return true };
        if from <= asked + SIGN_IN {
            return true;
        }
        // NPM may not have been there to be asked, or not have got round to it: a login that is never
        // answered goes before. It is asked again then, as late as at first.
        let faults = self.history.between(asked - CALL, asked + CALL / 4);
        let hinders = |fault: &Fault| match fault.kind {
            Kind::Down | Kind::Hangs | Kind::FailsLogins => fault.of == Of::Npm(host.npm()),
            Kind::Killed | Kind::NoDescriptors | Kind::NoConnections => true,
            _ => false,
        };
        let was_hindered = faults.iter().any(hinders);
        if was_hindered {
            *seen = Refusals { first: to, asked: None };
        }
        was_hindered
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
    pub fn is_explained(&self, log: &Log, line: &Line) -> bool {
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
        // A renewal that has failed may have been before it.
        let faults = self.history.between(line.at - 2 * CALL, line.until());
        let is_npms = |fault: &Fault| {
            fault.of == Of::Npm(npm)
                && matches!(fault.kind, Kind::Down | Kind::Hangs | Kind::FailsLogins)
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
        let is_late = why.starts_with("did not answer within");
        faults.iter().any(|fault| is_npms(fault) || is_late && fault.kind == Kind::Stalled)
    }

    /// Whether a fault of nginx's was in force when a line was written, or so long before.
    fn was(&self, kinds: &[Kind], line: &Line, before: Millis) -> bool {
        let faults = self.history.between(line.at - before, line.until());
        faults.iter().any(|fault| kinds.contains(&fault.kind))
    }

    fn account(&self, identity: &str, npm: usize) -> Account {
        (identity.to_owned(), self.urls[npm].clone())
    }
}
