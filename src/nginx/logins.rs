//! Logins under way in this worker: asking for them, collecting what they bring, settling.
//!
//! A request that needs a token which is not there parks: its ticket stands in the group of its
//! account. The group is called up when the login ends, when it turns out that another worker's
//! login has ended, or when its time is up. A client that leaves takes its ticket along.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bindings::{
    ngx_add_timer, ngx_close_connection, ngx_connection_t, ngx_del_timer, ngx_event_t,
    ngx_get_connection, ngx_handle_read_event, ngx_int_t, NGX_OK,
};
use super::login_thread::{Answer, Done, Errand, LoginThreads, Task};
use super::process::{cycle_log, is_alive, now, process};
use super::request::Request;
use super::waiting::{self, Outcome, Ticket};
use super::zone::Zone;
use crate::sso::account::{Account, AccountKey, Authorization, Origin, Terms, Wanted};
use crate::sso::cache::{Access, Claim, Description, Doubt, Kind, Revoked, Table};
use crate::sso::npm::{LoginError, Role};
use crate::sso::sign_in_as::Deed;
use crate::sso::token::{Millis, Token};

/// How often a worker looks whether another one's login has ended. Milliseconds.
const TICK: usize = 5;

thread_local! {
    static LOGINS: RefCell<Logins> = RefCell::default();
}

#[derive(Default)]
struct Logins {
    zone: Option<Zone>,
    threads: Option<Threads>,
    groups: HashMap<GroupKey, Group>,
    /// People who are signed in once the service account has a token.
    pending: Vec<Pending>,
    tick: Option<Box<Tick>>,
}

/// The login threads, and the connection through which they wake the event loop.
struct Threads {
    threads: LoginThreads,
    connection: NonNull<ngx_connection_t>,
}

/// A timer. nginx's debug log reads the descriptor of the connection that an event belongs to.
#[derive(Default)]
struct Tick {
    event: ngx_event_t,
    connection: ngx_connection_t,
}

/// What those that wait for the same have in common.
type GroupKey = (AccountKey, Wanted);

fn group_key(account: &Account) -> GroupKey {
    (account.key, account.wanted())
}

struct Pending {
    account: Arc<Account>,
    again: bool,
    renewed: bool,
}

/// Those that wait for one account's token.
struct Group {
    account: Arc<Account>,
    /// And until when, in that order. (No clock that may be set tells that.) Who has left is taken out
    /// when their turn comes: of thousands, no more than the first is looked at.
    waiting: VecDeque<(Ticket, Instant)>,
    /// Whether a thread of this worker's has been asked to log in.
    asked: bool,
}

/// What a request that needs a token finds.
pub enum Found {
    Token {
        token: Arc<Authorization>,
        /// Whether the caller has just promised to renew it.
        renew: bool,
    },
    /// None. The caller has just promised to log in.
    LogIn,
    /// None yet: another worker, or request, has promised to log in.
    Wait,
    /// None, and no login is tried for a while.
    Pause,
    /// None, for NPM has no user who may sign in.
    Nobody,
}

/// As [`find`], for a request that has not asked before. It counts if it goes on with the token,
/// and not with its own, which an administrator's does if it `has_own`.
pub fn find_and_count(table: &mut Table, account: &Account, has_own: bool, now: Millis) -> Found {
    look_up(table, account, now, |role| !has_own || role != Role::Administrator)
}

/// Asks the table for an account's token, on behalf of this worker.
fn find(table: &mut Table, account: &Account) -> Found {
    look_up(table, account, now(), |_| false)
}

fn look_up(
    table: &mut Table,
    account: &Account,
    now: Millis,
    counts: impl FnOnce(Role) -> bool,
) -> Found {
    let mut hint = account.hint.load(Ordering::Relaxed);
    let (wanted, claim) = (account.wanted(), || claim(account, now));
    let found = match table.access(&account.key, wanted, &mut hint, now, claim, is_alive) {
        Access::Fresh { authorization, issue, role, renew, hits } => {
            *hits += u64::from(counts(role));
            let mut kept = account.kept.lock();
            let token = match &*kept {
                Some(token) if token.issue == issue && token.role == role => token.clone(),
                _ => kept.insert(Authorization::new(authorization, issue, role)).clone(),
            };
            Found::Token { token, renew }
        }
        Access::LogIn => Found::LogIn,
        Access::Wait => Found::Wait,
        Access::Pause(_) => Found::Pause,
        Access::Nobody(_) => Found::Nobody,
    };
    account.hint.store(hint, Ordering::Relaxed);
    found
}

/// This worker's logins, whose results go to the zone.
fn with_logins<T>(zone: Zone, work: impl FnOnce(&mut Logins) -> T) -> T {
    LOGINS.with_borrow_mut(|logins| {
        logins.zone = Some(zone);
        work(logins)
    })
}

fn claim(account: &Account, now: Millis) -> Claim {
    Claim::new(process(), now, account.issuer.timeout())
}

/// Renews a token, as promised. Nobody waits for it.
pub fn renew(zone: Zone, account: &Arc<Account>, token: Arc<Authorization>) {
    with_logins(zone, |logins| logins.renew(account, token));
}

/// NPM has answered a request that had this token with an error: asks it whether it still takes
/// the token, unless that has been asked lately.
pub fn doubt(zone: Zone, account: &Arc<Account>, token: &Arc<Authorization>, doubt: Doubt) {
    let now = now();
    let claim = claim(account, now);
    let is_doubted = zone.lock().doubt(&account.key, token.issue, doubt, now, claim, is_alive);
    if is_doubted {
        with_logins(zone, |logins| logins.ask(account, Task::Check(token.clone())));
    }
}

/// Has the request wait for the account's token, and logs in first if it has the `claim`. `None`
/// where no login can be started.
pub fn wait(
    request: &mut Request,
    zone: Zone,
    account: &Arc<Account>,
    claim: bool,
) -> Option<Ticket> {
    with_logins(zone, |logins| {
        let asked = logins.groups.get(&group_key(account)).is_some_and(|group| group.asked);
        if claim && !asked && !logins.log_in(account) {
            return None;
        }
        let deadline = Instant::now() + account.issuer.timeout();
        let group = logins.groups.entry(group_key(account)).or_insert_with(|| Group {
            account: account.clone(),
            waiting: VecDeque::new(),
            asked: false,
        });
        group.asked |= claim;
        let ticket = waiting::enter(request);
        let place = group.waiting.partition_point(|&(_, other)| other <= deadline);
        group.waiting.insert(place, (ticket, deadline));
        logins.arm_tick();
        Some(ticket)
    })
}

/// Lets go of everything: the worker exits.
pub fn stop(zone: Option<Zone>) {
    LOGINS.with_borrow_mut(|logins| {
        if let Some(tick) = logins.tick.take() {
            tick.disarm();
        }
        if let Some(threads) = logins.threads.take() {
            // SAFETY: the connection is open; nginx closes its descriptor.
            unsafe { ngx_close_connection(threads.connection.as_ptr()) };
        }
    });
    if let Some(zone) = zone {
        zone.lock().release(process());
    }
}

impl Logins {
    /// Asks a login thread, which is started if need be. Where it cannot be, the task has failed.
    fn ask(&mut self, account: &Arc<Account>, task: Task) -> bool {
        self.describe(account);
        match self.threads().and_then(|threads| threads.ask(account.clone(), task)) {
            Ok(()) => true,
            Err(error) => {
                let error = LoginError::Local(format!("no thread can be started: {error}"));
                self.note_failure(account, &error);
                false
            }
        }
    }

    /// Says in the zone which account it is.
    fn describe(&self, account: &Account) {
        let Some(zone) = self.zone else {
            return;
        };
        let (kind, user) = match &account.origin {
            Origin::File => (Kind::Named, ""),
            Origin::HandedOver => (Kind::HandedOver, ""),
            Origin::Person(person) => (Kind::Person, &*person.user),
        };
        let (identity, url) = (&account.credentials.identity, account.issuer.url());
        let description = Description { identity, url, kind, user };
        zone.lock().describe(&account.key, description, now());
    }

    /// Has an account log in, or, if it is a person's own, that person be signed in. Where that cannot
    /// be begun, it has failed.
    fn log_in(&mut self, account: &Arc<Account>) -> bool {
        match account.person() {
            Some(person) => {
                let account = account.clone();
                let pending = Pending { account, again: false, renewed: false };
                self.sign_in(&person.terms, pending)
            }
            None => self.ask(account, Task::LogIn),
        }
    }

    /// Renews a token, as promised. A person is signed in anew, for much may have changed.
    fn renew(&mut self, account: &Arc<Account>, token: Arc<Authorization>) {
        match account.person() {
            Some(person) => {
                let account = account.clone();
                self.sign_in(&person.terms, Pending { account, again: false, renewed: true })
            }
            None => self.ask(account, Task::Renew(token)),
        };
    }

    /// Signs a person in, as soon as the service account has a token.
    fn sign_in(&mut self, terms: &Terms, pending: Pending) -> bool {
        let Some(zone) = self.zone else {
            return false;
        };
        let service = &terms.service;
        let found = find(&mut zone.lock(), service);
        let is_under_way = match found {
            Found::Token { token, renew } => {
                let Pending { account, again, renewed } = pending;
                let errand = Errand { service: token.clone(), again, renewed };
                let begun = self.ask(&account, Task::SignIn(errand));
                // Afterwards: the person waits for the one only.
                if renew {
                    self.ask(service, Task::Renew(token));
                }
                return begun;
            }
            Found::LogIn => self.ask(service, Task::LogIn),
            Found::Wait => true,
            Found::Pause | Found::Nobody => false,
        };
        match is_under_way {
            true => {
                self.pending.push(pending);
                self.arm_tick();
            }
            false => self.note_failure(&pending.account, &LoginError::NoService),
        }
        is_under_way
    }

    /// Goes on with those who wait for the service account.
    fn go_on_with_pending(&mut self) {
        for pending in std::mem::take(&mut self.pending) {
            let account = pending.account.clone();
            let begun = account.person().is_some_and(|person| self.sign_in(&person.terms, pending));
            if !begun {
                self.settle(&account, Outcome::Failure);
            }
        }
    }

    /// NPM does not take the service account's token: another one is got, once.
    fn sign_in_again(&mut self, account: Arc<Account>, errand: Errand) {
        let Some(person) = account.person() else {
            return;
        };
        let service = &person.terms.service;
        let revoked = self.revoke(service, &errand.service);
        let begun = if revoked == Revoked::Fail {
            self.note_failure(service, &LoginError::RefusedToken);
            self.note_failure(&account, &LoginError::NoService);
            false
        } else {
            if revoked == Revoked::LogIn {
                self.ask(service, Task::LogIn);
            }
            let renewed = errand.renewed;
            let pending = Pending { account: account.clone(), again: true, renewed };
            self.sign_in(&person.terms, pending)
        };
        if !begun {
            self.settle(&account, Outcome::Failure);
        }
    }

    fn threads(&mut self) -> io::Result<&mut LoginThreads> {
        let threads = match self.threads.take() {
            Some(threads) => threads,
            None => Threads::new()?,
        };
        Ok(&mut self.threads.insert(threads).threads)
    }

    /// Takes what the threads have done.
    fn collect(&mut self) {
        let done = self.threads.as_ref().map(|threads| threads.threads.take_done());
        for Done { account, task, result, deeds, took } in done.unwrap_or_default() {
            note_deeds(&account, &deeds);
            match (task, result) {
                (_, Ok(Answer::Token { token, role, renewed })) => {
                    // NPM has refused the old one meanwhile: this may be from before that, too.
                    if renewed && self.is_refused(&account) && self.log_in(&account) {
                        continue;
                    }
                    let token = self.note_token(&account, (&token, role), renewed, took);
                    self.settle(&account, Outcome::Token(token));
                }
                (Task::SignIn(errand), Err(LoginError::ServiceToken)) if !errand.again => {
                    self.sign_in_again(account, errand);
                }
                (Task::Check(token), Ok(Answer::TakesNot)) => {
                    let is_under_way = match self.revoke(&account, &token) {
                        Revoked::LogIn => self.log_in(&account),
                        Revoked::Fail => {
                            self.note_failure(&account, &LoginError::RefusedToken);
                            false
                        }
                        Revoked::Before => true,
                    };
                    if !is_under_way {
                        self.settle(&account, Outcome::Failure);
                    }
                }
                (Task::Check(token), answer) => {
                    let role = match answer {
                        Ok(Answer::Takes(role)) => Some(role),
                        _ => None,
                    };
                    let now = now();
                    let claim = claim(&account, now);
                    let let_be = |zone: Zone| {
                        zone.lock().let_be(&account.key, token.issue, role, claim, now)
                    };
                    if self.zone.is_some_and(let_be) {
                        self.ask(&account, Task::Check(token));
                    }
                }
                // Only a check is answered so.
                (_, Ok(Answer::Takes(_) | Answer::TakesNot)) => {}
                (_, Err(error)) => {
                    self.note_failure(&account, &error);
                    let outcome =
                        if error.is_of_user() { Outcome::Nobody } else { Outcome::Failure };
                    self.settle(&account, outcome);
                }
            }
        }
        self.go_on_with_pending();
    }

    /// Notes a token that NPM gave, in the zone and in the log.
    fn note_token(
        &self,
        account: &Account,
        (token, role): (&Token, Role),
        renewed: bool,
        took: Duration,
    ) -> Arc<Authorization> {
        let (identity, url, now) = (&account.credentials.identity, account.issuer.url(), now());
        let (key, wanted) = group_key(account);
        let store = |zone: Zone| zone.lock().store(&key, wanted, (token, role), renewed, now);
        let issue = self.zone.map(store).unwrap_or_default();
        let (took, life) = (took.as_millis(), token.expires_at.saturating_sub(now) / 1000);
        match renewed {
            true => log_notice!(
                cycle_log(),
                "renewed the token of {identity:?} at {url} in {took} ms, valid for {life} s"
            ),
            false => log_notice!(
                cycle_log(),
                "signed in {identity:?} at {url} in {took} ms, valid for {life} s"
            ),
        }
        Authorization::new(token.authorization().as_bytes(), issue, role)
    }

    /// Notes that NPM gave no token, in the zone and in the log.
    fn note_failure(&self, account: &Account, error: &LoginError) {
        self.describe(account);
        let (identity, url, now) = (&account.credentials.identity, account.issuer.url(), now());
        let fail = |zone: Zone| zone.lock().fail(&account.key, error, now);
        let retry_at = self.zone.map(fail).unwrap_or_default();
        let (pause, mend) = (retry_at.saturating_sub(now) / 1000, error.mend());
        log_error!(
            cycle_log(),
            "login of {identity:?} failed: NPM at {url} {error}; {mend}; \
             not tried again for {pause} s"
        );
    }

    /// Whether NPM has refused a request with the account's token, and has not been asked since.
    fn is_refused(&self, account: &Account) -> bool {
        self.zone.is_some_and(|zone| zone.lock().is_refused(&account.key, now()))
    }

    /// Forgets a token that NPM no longer takes.
    fn revoke(&self, account: &Account, token: &Authorization) -> Revoked {
        let (identity, url, now) = (&account.credentials.identity, account.issuer.url(), now());
        let claim = claim(account, now);
        let revoke = |zone: Zone| zone.lock().revoke(&account.key, token.issue, claim, now);
        let revoked = self.zone.map_or(Revoked::Before, revoke);
        if revoked != Revoked::Before {
            log_notice!(cycle_log(), "NPM at {url} no longer takes the token of {identity:?}");
        }
        revoked
    }

    /// Gives all that wait for an account the same outcome.
    fn settle(&mut self, account: &Account, outcome: Outcome) {
        let group = self.groups.remove(&group_key(account));
        for (ticket, _) in group.into_iter().flat_map(|group| group.waiting) {
            waiting::call(ticket, outcome.clone());
        }
    }

    /// Sends on those that have waited long enough, and looks what other workers have done.
    fn look_around(&mut self) {
        let Some(zone) = self.zone else {
            return;
        };
        let now = Instant::now();
        let mut settled = Vec::new();
        let mut claimed = Vec::new();
        let mut renewed = Vec::new();
        for group in self.groups.values_mut() {
            while let Some(&(ticket, deadline)) = group.waiting.front() {
                let waits = waiting::waits(ticket);
                if waits && deadline > now {
                    break;
                }
                if waits {
                    waiting::call(ticket, Outcome::Failure);
                }
                group.waiting.pop_front();
            }
            if group.asked || group.waiting.is_empty() {
                continue;
            }
            match find(&mut zone.lock(), &group.account) {
                Found::Token { token, renew } => {
                    if renew {
                        renewed.push((group.account.clone(), token.clone()));
                    }
                    settled.push((group.account.clone(), Outcome::Token(token)));
                }
                Found::Pause => settled.push((group.account.clone(), Outcome::Failure)),
                Found::Nobody => settled.push((group.account.clone(), Outcome::Nobody)),
                Found::LogIn => claimed.push(group.account.clone()),
                Found::Wait => {}
            }
        }
        for account in claimed {
            match (self.log_in(&account), self.groups.get_mut(&group_key(&account))) {
                (true, Some(group)) => group.asked = true,
                _ => settled.push((account, Outcome::Failure)),
            }
        }
        for (account, token) in renewed {
            self.renew(&account, token);
        }
        for (account, outcome) in settled {
            self.settle(&account, outcome);
        }
        self.go_on_with_pending();
        self.groups.retain(|_, group| !group.waiting.is_empty());
    }

    fn arm_tick(&mut self) {
        if !self.groups.is_empty() || !self.pending.is_empty() {
            self.tick.get_or_insert_with(Tick::new).arm();
        }
    }
}

/// Logs what was done at NPM beside signing a person in.
fn note_deeds(account: &Account, deeds: &[Deed]) {
    let Some(person) = account.person() else {
        return;
    };
    let (log, url) = (cycle_log(), account.issuer.url());
    let (email, user) = (&person.email, &person.user);
    for deed in deeds {
        match deed {
            Deed::Made(Role::Administrator) => {
                log_notice!(log, "made {email:?}, an administrator, at {url} for Authentik user {user:?}");
            }
            Deed::Made(Role::Standard) => {
                log_notice!(log, "made {email:?} at {url} for Authentik user {user:?}");
            }
            Deed::Demoted => log_notice!(
                log,
                "{email:?} at {url} is no administrator any more, by the groups of Authentik user {user:?}"
            ),
            Deed::Raised => log_notice!(
                log,
                "{email:?} at {url} is an administrator now, by the groups of Authentik user {user:?}"
            ),
            Deed::ToBeRaised => log_warn!(
                log,
                "the groups of Authentik user {user:?} make {email:?} an administrator, and at {url} \
                 that is a standard user; an administrator of NPM's may change that, or \"raise\" in \
                 \"sign_in_as\""
            ),
            Deed::VisibilityKept => log_warn!(
                log,
                "NPM at {url} has not changed what {email:?} sees; look at that user's permissions"
            ),
        }
    }
}

impl Threads {
    fn new() -> io::Result<Self> {
        let threads = LoginThreads::new()?;
        let descriptor = threads.wake_descriptor()?;
        // SAFETY: the descriptor is open and the connection's own from here on; ngx_cycle is
        // valid in a worker.
        unsafe {
            let log = cycle_log();
            let Some(connection) = NonNull::new(ngx_get_connection(descriptor, log)) else {
                libc::close(descriptor);
                return Err(io::Error::other("worker_connections are not enough"));
            };
            let read = (*connection.as_ptr()).read;
            (*read).handler = Some(on_wake);
            (*read).log = log;
            if ngx_handle_read_event(read, 0) != NGX_OK as ngx_int_t {
                ngx_close_connection(connection.as_ptr());
                return Err(io::Error::other("the event loop takes no descriptor"));
            }
            Ok(Self { threads, connection })
        }
    }
}

impl Tick {
    fn new() -> Box<Self> {
        let mut tick = Box::<Self>::default();
        tick.connection.fd = -1;
        tick.event.handler = Some(on_tick);
        tick.event.data = ptr::addr_of_mut!(tick.connection).cast();
        tick
    }

    fn arm(&mut self) {
        if self.event.timer_set() == 0 {
            // SAFETY: the event stays where it is, in its box, until it is disarmed.
            unsafe {
                self.event.log = cycle_log();
                ngx_add_timer(&mut self.event, TICK);
            }
        }
    }

    fn disarm(mut self: Box<Self>) {
        if self.event.timer_set() != 0 {
            // SAFETY: armed, as its flag says.
            unsafe { ngx_del_timer(&mut self.event) };
        }
    }
}

/// A login thread has done something.
unsafe extern "C" fn on_wake(event: *mut ngx_event_t) {
    // SAFETY: nginx passes the event of the connection that Threads::new set up; its descriptor
    // is an eventfd, of which one read takes all.
    unsafe {
        let connection = (*event).data.cast::<ngx_connection_t>();
        let mut count = [0u8; 8];
        libc::read((*connection).fd, count.as_mut_ptr().cast(), count.len());
        (*event).set_ready(0);
        ngx_handle_read_event(event, 0);
    }
    LOGINS.with_borrow_mut(Logins::collect);
    waiting::go_on();
}

unsafe extern "C" fn on_tick(_event: *mut ngx_event_t) {
    LOGINS.with_borrow_mut(Logins::look_around);
    waiting::go_on();
    LOGINS.with_borrow_mut(Logins::arm_tick);
}
