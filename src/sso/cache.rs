//! The cache of tokens that all workers share.
//!
//! A table of as many places as there is room for, laid over shared memory: no pointers and no
//! allocation, so that a full table evicts and never fails, and a worker that is killed half-way
//! leaves nothing that another could follow into the void. Places are linked by their numbers, twice:
//! those whose keys fall into the same bucket, and all in the order of their last use. Whoever holds a
//! `&mut Table` holds its lock.

use std::cmp::Reverse;
use std::mem::{offset_of, size_of};
use std::ops::{Deref, DerefMut};
use std::ptr;
use std::sync::atomic::{compiler_fence, Ordering};
use std::time::Duration;

use super::account::{AccountKey, Wanted, TIMEOUT_MAX};
use super::marker::MarkerKey;
use super::npm::{LoginError, Role};
use super::status::{AccountStatus, Counters, State, Status, Totals};
use super::time::{is_ahead, is_recent};
use super::token::{Millis, Token, AUTHORIZATION_MAX};

/// A refused secret is not tried again for so long.
const REFUSED_PAUSE: Millis = 60_000;

/// For somebody for whom NPM has no user, it is asked again after so long.
const NOBODY_PAUSE: Millis = 10_000;

/// A login that failed otherwise is tried again after the first pause; each failure doubles it,
/// up to the last.
const FIRST_PAUSE: Millis = 1_000;
const LAST_PAUSE: Millis = 30_000;

/// How long after its last possible end a login counts as lost.
const CLAIM_GRACE: Millis = 1_000;

/// The longest promise: a renewal that NPM refuses is followed by a login.
const LAST_CLAIM: Millis = 2 * TIMEOUT_MAX.as_millis() as Millis + CLAIM_GRACE;

/// NPM is asked no more often than this whether it still takes an account's token.
const CHECK_INTERVAL: Millis = 10_000;

/// A process, as the system names it.
pub type Pid = i32;

/// A short text, cut where there is no more room.
#[derive(Clone, Copy)]
#[repr(C)]
struct Text<const N: usize> {
    len: u32,
    bytes: [u8; N],
}

impl<const N: usize> Text<N> {
    fn set(&mut self, text: &str) {
        let end = (0..=N.min(text.len())).rev().find(|&end| text.is_char_boundary(end));
        let text = &text.as_bytes()[..end.unwrap_or(0)];
        self.bytes[..text.len()].copy_from_slice(text);
        self.len = text.len() as u32;
    }

    fn get(&self) -> String {
        String::from_utf8_lossy(written(&self.bytes, self.len)).into_owned()
    }
}

/// The number of a place, plus one. All zeros is none.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
struct Link(u32);

impl Link {
    const NONE: Self = Self(0);

    fn to(index: usize) -> Self {
        Self(u32::try_from(index + 1).unwrap_or(0))
    }

    fn index(self) -> Option<usize> {
        (self.0 as usize).checked_sub(1)
    }
}

/// One account's state. All zeros is a free slot.
#[derive(Clone, Copy)]
#[repr(C)]
struct Slot {
    key: [u64; 4],
    /// The first place in the bucket of this slot's number, whichever account has the slot itself.
    first: Link,
    /// The next place in the bucket of this account's key.
    next: Link,
    /// The places that were used after this one, and before it.
    newer: Link,
    older: Link,
    /// The table's clock at the last use; 0 marks a free slot.
    used: u64,
    /// The token in `authorization` may be sent until then; 0 where there is none.
    use_until: Millis,
    /// From then on it is to be renewed.
    renew_at: Millis,
    expires_at: Millis,
    /// The worker that promised to log in, to renew or to check; 0 where none did.
    claimed_by: Pid,
    /// How many logins have failed since the last that did not.
    failures: u32,
    /// The promise is void after this moment, even if its worker lives.
    claimed_until: Millis,
    /// No login before this moment.
    retry_at: Millis,
    /// When NPM was last asked whether it takes the token.
    checked_at: Millis,
    /// When it was last asked because of a 401.
    refused_at: Millis,
    /// When it last did not take a token.
    revoked_at: Millis,
    /// Not 0: NPM has answered 401 to the token, which is held back until it has been asked.
    is_refused: u64,
    /// Not 0: its account is an administrator's.
    is_administrator: u64,
    /// Tells this token from all others, so that a worker knows one that it has a copy of.
    issue: u64,
    /// When NPM last gave a token; 0 where it never did.
    issued_at: Millis,
    /// When it last gave none; 0 where it never did.
    failed_at: Millis,
    /// The role that Authentik's groups gave when the token was got, see [`Wanted`]. Where they give
    /// another one, it is not good any more.
    wanted: u64,
    /// Not 0: NPM has no user for this account, or none who may sign in.
    is_nobody: u64,
    /// Which kind of account this is, see [`Kind`].
    kind: u64,
    counters: Counters,
    identity: Text<124>,
    /// The Authentik user whose account this is alone, if it is.
    user: Text<60>,
    url: Text<124>,
    error: Text<188>,
    authorization_len: u32,
    authorization: [u8; AUTHORIZATION_MAX],
}

impl Slot {
    fn kind(&self) -> Kind {
        [Kind::HandedOver, Kind::Person]
            .into_iter()
            .find(|&kind| self.kind == kind as u64)
            .unwrap_or_default()
    }

    fn role(&self) -> Role {
        match self.is_administrator {
            0 => Role::Standard,
            _ => Role::Administrator,
        }
    }

    fn set_role(&mut self, role: Role) {
        self.is_administrator = u64::from(role == Role::Administrator);
    }

    fn is_claimed(&self, now: Millis, is_alive: impl FnOnce(Pid) -> bool) -> bool {
        self.claimed_by != 0
            && is_ahead(self.claimed_until, now, LAST_CLAIM)
            && is_alive(self.claimed_by)
    }

    /// When a login may be tried again, if not yet.
    fn pauses_until(&self, now: Millis) -> Option<Millis> {
        is_ahead(self.retry_at, now, REFUSED_PAUSE).then_some(self.retry_at)
    }

    fn claim(&mut self, claim: Claim) {
        self.claimed_by = claim.by;
        self.claimed_until = claim.until;
    }

    /// Whether this issue of a token has neither been replaced nor forgotten.
    fn is_in_use(&self, issue: u64) -> bool {
        self.issue == issue && self.use_until != 0
    }

    /// NPM is asked whether it takes the token.
    fn check(&mut self, doubt: Doubt, claim: Claim, now: Millis) {
        self.checked_at = now;
        if doubt == Doubt::Refused {
            self.refused_at = now;
        }
        self.claim(claim);
    }

    fn forget_token(&mut self) {
        self.use_until = 0;
        self.is_refused = 0;
        self.refused_at = 0;
        self.is_administrator = 0;
        compiler_fence(Ordering::SeqCst);
        self.authorization.fill(0);
        self.authorization_len = 0;
    }

    /// Makes the slot another account's. Its links stay.
    fn clear(&mut self, key: &AccountKey) {
        self.used = 0;
        self.forget_token();
        self.claimed_by = 0;
        self.claimed_until = 0;
        self.failures = 0;
        self.retry_at = 0;
        self.checked_at = 0;
        self.revoked_at = 0;
        self.expires_at = 0;
        self.issued_at = 0;
        self.failed_at = 0;
        self.wanted = 0;
        self.is_nobody = 0;
        self.kind = 0;
        self.counters = Counters::default();
        self.identity.set("");
        self.user.set("");
        self.url.set("");
        self.error.set("");
        compiler_fence(Ordering::SeqCst);
        self.key = key.0;
    }

    fn status(&self, now: Millis) -> AccountStatus {
        let moment = |at: Millis| (at != 0).then_some(at);
        AccountStatus {
            identity: self.identity.get(),
            user: Some(self.user.get()).filter(|user| !user.is_empty()),
            api: self.url.get(),
            state: match () {
                () if self.use_until > now => State::SignedIn,
                () if self.is_claimed(now, |_| true) => State::SigningIn,
                () if self.pauses_until(now).is_some() => State::Failing,
                () => State::Idle,
            },
            token_expires: moment(self.expires_at).filter(|_| self.use_until > now),
            last_login: moment(self.issued_at),
            last_failure: moment(self.failed_at),
            last_error: moment(self.failed_at).map(|_| self.error.get()),
            next_try: self.pauses_until(now),
            counters: self.counters,
        }
    }
}

/// The part of a text's room that is written to. The table may have been left by a killed worker: no
/// length is trusted.
fn written(room: &[u8], len: u32) -> &[u8] {
    room.get(..len as usize).unwrap_or_default()
}

/// The table itself. All zeros, but for the number of its places, is an empty one.
#[repr(C)]
pub struct Table {
    /// How many slots there are.
    places: u64,
    /// Counts uses.
    clock: u64,
    /// Slots from here on have never been used.
    filled: u64,
    /// Not 0 while links are being changed: where a worker was killed then, they are made anew.
    is_relinking: u64,
    newest: Link,
    oldest: Link,
    marker_key: MarkerKey,
    totals: Totals,
    slots: [Slot],
}

/// Where the slots of a table begin.
const HEADER: usize = {
    let end = offset_of!(Table, totals) + size_of::<Totals>();
    end.next_multiple_of(align_of::<Slot>())
};

/// Where in the table an account was last seen. Saves the search.
pub type Hint = usize;

/// A worker's promise to log in, to renew or to check.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    pub by: Pid,
    /// When the promise is void.
    pub until: Millis,
}

impl Claim {
    /// The promise of a process, where NPM may take `timeout` for each answer.
    pub fn new(by: Pid, now: Millis, timeout: Duration) -> Self {
        Self { by, until: now + 2 * timeout.as_millis() as Millis + CLAIM_GRACE }
    }
}

/// Where an account comes from, to the status page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// The accounts file names it, by its key.
    #[default]
    Named,
    /// Authentik has handed it over.
    HandedOver,
    /// It is a person's own.
    Person,
}

/// An account in words.
#[derive(Clone, Copy, Debug, Default)]
pub struct Description<'a> {
    pub identity: &'a str,
    pub url: &'a str,
    pub kind: Kind,
    /// The Authentik user whose own the account is, if it is anybody's.
    pub user: &'a str,
}

/// Why a token is doubted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// NPM has answered with an error that may have many reasons. The token serves on.
    Error,
    /// NPM has answered 401, as it does (from 2.16 on) to a token that was issued before its user's
    /// password was changed. Its UI drops what it keeps then and loads its page anew, which is to
    /// find a token that is good, or none: this one is held back until NPM has been asked.
    Refused,
}

/// What becomes of a token that NPM does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// It is forgotten, and the promise is now one to log in.
    LogIn,
    /// It is forgotten, and the promise is to be ended by a failure: NPM has lately refused another
    /// token, and the login after that has not helped. The UI, which reloads the page at each
    /// refusal, would do so for ever.
    Fail,
    /// It was not in use any more. Nothing is promised.
    Before,
}

/// What a request that needs a token finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Access<'a> {
    /// A token.
    Fresh {
        /// The value of an `Authorization` header.
        authorization: &'a [u8],
        /// The number of its issue.
        issue: u64,
        /// What its account may do.
        role: Role,
        /// Whether the caller has just promised to renew it.
        renew: bool,
        /// Counts requests that have found a token. One that waited for it is none of these, though
        /// the token is found in the end.
        hits: &'a mut u64,
    },
    /// None. The caller has just promised to log in.
    LogIn,
    /// None yet: another caller has promised to log in, or to ask about a token that is held back.
    Wait,
    /// None, and no login is tried before this moment.
    Pause(Millis),
    /// None, for NPM has no user who may sign in; it is not asked again before this moment.
    Nobody(Millis),
}

impl Table {
    /// How many accounts a table holds for which there are so many bytes. Beyond, the least recently
    /// used one is forgotten.
    pub const fn places_in(bytes: usize) -> usize {
        let places = bytes.saturating_sub(HEADER) / size_of::<Slot>();
        // A link is a number of 32 bits.
        if places < u32::MAX as usize {
            places
        } else {
            u32::MAX as usize - 1
        }
    }

    /// How many bytes a table of so many places needs.
    pub const fn size(places: usize) -> usize {
        HEADER + places * size_of::<Slot>()
    }

    /// Lays an empty table of so many places out.
    ///
    /// # Safety
    ///
    /// There are [`Self::size`] zeroed bytes at the address, aligned for a `u64`.
    pub unsafe fn lay_out(address: *mut u8, places: usize) -> *mut Self {
        // SAFETY: the number of places is the first of the zeroed bytes.
        unsafe {
            address.cast::<u64>().write(places as u64);
            Self::at(address)
        }
    }

    /// The table that has been laid out there.
    ///
    /// # Safety
    ///
    /// It has, with as many places as it says at its beginning.
    pub unsafe fn at(address: *mut u8) -> *mut Self {
        // SAFETY: as promised by the caller. A pointer to a structure that ends with a slice has the
        // slice's length.
        let places = unsafe { address.cast::<u64>().read() };
        ptr::slice_from_raw_parts_mut(address, places as usize) as *mut Self
    }

    /// Takes the accounts of another table over, those that were used last where there is no room for
    /// all of them, and what was counted there.
    pub fn take_over(&mut self, other: &mut Self) {
        other.mend();
        self.clock = other.clock;
        self.marker_key = other.marker_key;
        self.totals = other.totals;
        let mut order = Vec::new();
        let mut link = other.newest;
        while let Some((index, slot)) =
            other.slot_of(link).filter(|_| order.len() < self.slots.len())
        {
            order.push(index);
            link = slot.older;
        }
        for (place, index) in self.slots.iter_mut().zip(order.iter().rev()) {
            *place = other.slots[*index];
            // What was promised there ends there.
            place.claimed_by = 0;
        }
        self.filled = order.len() as u64;
        self.link_anew();
    }

    /// Sets what markers are made with. Once, for a new table.
    pub fn set_marker_key(&mut self, key: MarkerKey) {
        self.marker_key = key;
    }

    /// What markers are made with.
    pub fn marker_key(&self) -> MarkerKey {
        self.marker_key
    }

    /// Looks for a token. Where there is none, or one that is to be renewed, and nobody else is
    /// at it, the claim is taken.
    ///
    /// A token that was got for another role than the one `wanted` is as none.
    ///
    /// `is_alive` tells whether a process runs: the promise of one that was killed is void.
    pub fn access(
        &mut self,
        key: &AccountKey,
        wanted: Wanted,
        hint: &mut Hint,
        now: Millis,
        claim: impl FnOnce() -> Claim,
        is_alive: impl FnOnce(Pid) -> bool,
    ) -> Access<'_> {
        let slot = self.slot(key, hint, now);
        let is_for_role = slot.wanted == wanted as u64;
        if slot.use_until > now && slot.is_refused == 0 && is_for_role {
            let renew = slot.renew_at <= now
                && slot.pauses_until(now).is_none()
                && !slot.is_claimed(now, is_alive);
            if renew {
                slot.claim(claim());
            }
            let (issue, role) = (slot.issue, slot.role());
            let Slot { authorization, authorization_len, counters, .. } = slot;
            let authorization = written(authorization, *authorization_len);
            return Access::Fresh { authorization, issue, role, renew, hits: &mut counters.hits };
        }
        if slot.is_claimed(now, is_alive) {
            return Access::Wait;
        }
        if let Some(retry_at) = slot.pauses_until(now) {
            return match slot.is_nobody {
                0 => Access::Pause(retry_at),
                _ => Access::Nobody(retry_at),
            };
        }
        slot.claim(claim());
        Access::LogIn
    }

    /// Says in words which account a key stands for.
    pub fn describe(&mut self, key: &AccountKey, description: Description, now: Millis) {
        let slot = self.slot(key, &mut 0, now);
        slot.identity.set(description.identity);
        slot.url.set(description.url);
        slot.user.set(description.user);
        slot.kind = description.kind as u64;
    }

    /// Keeps a token that NPM gave, for the role that was `wanted`, and ends the promise. Answers the
    /// number of its issue.
    pub fn store(
        &mut self,
        key: &AccountKey,
        wanted: Wanted,
        (token, role): (&Token, Role),
        renewed: bool,
        now: Millis,
    ) -> u64 {
        let authorization = token.authorization().as_bytes();
        let slot = self.slot(key, &mut 0, now);
        slot.forget_token();
        slot.issue = slot.used;
        slot.expires_at = token.expires_at;
        slot.renew_at = token.renew_at(key.0[0]);
        slot.issued_at = now;
        // A token's length has been checked against AUTHORIZATION_MAX when it was read.
        if let Some(room) = slot.authorization.get_mut(..authorization.len()) {
            room.copy_from_slice(authorization);
            slot.authorization_len = authorization.len() as u32;
            slot.set_role(role);
            slot.wanted = wanted as u64;
            // Last, so that a worker that is killed here leaves no token rather than half of one.
            compiler_fence(Ordering::SeqCst);
            slot.use_until = token.use_until;
        }
        slot.failures = 0;
        slot.retry_at = 0;
        slot.is_nobody = 0;
        slot.claimed_by = 0;
        match renewed {
            true => slot.counters.renewals += 1,
            false => slot.counters.logins += 1,
        }
        slot.issue
    }

    /// Notes that a login failed, and ends the promise. Answers when the next one may be tried.
    pub fn fail(&mut self, key: &AccountKey, error: &LoginError, now: Millis) -> Millis {
        self.totals.failures_by_cause[error.cause() as usize] += 1;
        let slot = self.slot(key, &mut 0, now);
        let pause = match () {
            () if error.is_refusal() => REFUSED_PAUSE,
            () if error.is_of_user() => NOBODY_PAUSE,
            () => (FIRST_PAUSE << slot.failures.min(16)).min(LAST_PAUSE),
        };
        slot.is_nobody = u64::from(error.is_of_user());
        if error.is_of_user() {
            slot.forget_token();
        }
        slot.failures = slot.failures.saturating_add(1);
        slot.counters.failures += 1;
        slot.failed_at = now;
        slot.error.set(&format!("NPM {error}"));
        slot.retry_at = now + pause;
        slot.claimed_by = 0;
        slot.retry_at
    }

    /// Whether NPM is to be asked if it still takes this issue of a token: it has answered a
    /// request with an error, and it has not been asked lately. If so, the claim is taken.
    pub fn doubt(
        &mut self,
        key: &AccountKey,
        issue: u64,
        doubt: Doubt,
        now: Millis,
        claim: Claim,
        is_alive: impl FnOnce(Pid) -> bool,
    ) -> bool {
        let slot = self.slot(key, &mut 0, now);
        let is_refused = doubt == Doubt::Refused;
        let last = if is_refused { slot.refused_at } else { slot.checked_at };
        if slot.issue != issue || slot.use_until <= now || is_recent(last, now, CHECK_INTERVAL) {
            return false;
        }
        slot.is_refused |= u64::from(is_refused);
        let is_doubted = !slot.is_claimed(now, is_alive);
        if is_doubted {
            slot.check(doubt, claim, now);
        }
        is_doubted
    }

    /// Ends the promise of a check: NPM takes this issue of the token, and has said what its account
    /// may do now, or it could not be asked. Answers whether it is to be asked once more, in which case
    /// the promise is renewed: NPM has refused a request with the token meanwhile, and what it has said
    /// may be from before that. A promise that somebody else has made since stays.
    pub fn let_be(
        &mut self,
        key: &AccountKey,
        issue: u64,
        role: Option<Role>,
        claim: Claim,
        now: Millis,
    ) -> bool {
        let slot = self.slot(key, &mut 0, now);
        if !slot.is_in_use(issue) {
            return false;
        }
        if let Some(role) = role {
            slot.set_role(role);
        }
        if slot.claimed_by != 0 && slot.claimed_by != claim.by {
            return false;
        }
        // A check that a refusal led to began when the refusal came.
        let is_refused_since = slot.is_refused != 0 && slot.refused_at != slot.checked_at;
        match is_refused_since {
            true => slot.check(Doubt::Refused, claim, now),
            false => {
                slot.is_refused = 0;
                slot.claimed_by = 0;
            }
        }
        is_refused_since
    }

    /// Forgets this issue of a token, which NPM does not take.
    pub fn revoke(&mut self, key: &AccountKey, issue: u64, claim: Claim, now: Millis) -> Revoked {
        let slot = self.slot(key, &mut 0, now);
        if !slot.is_in_use(issue) {
            return Revoked::Before;
        }
        slot.forget_token();
        slot.claim(claim);
        let is_first = !is_recent(slot.revoked_at, now, CHECK_INTERVAL);
        slot.revoked_at = now;
        if is_first {
            Revoked::LogIn
        } else {
            Revoked::Fail
        }
    }

    /// Whether NPM has refused a request with the token since it was last asked whether it takes it.
    pub fn is_refused(&mut self, key: &AccountKey, now: Millis) -> bool {
        self.slot(key, &mut 0, now).is_refused != 0
    }

    /// Counts a request that has waited for a login.
    pub fn count_wait(&mut self, key: &AccountKey, waited: Millis, now: Millis) {
        let slot = self.slot(key, &mut 0, now);
        slot.counters.waits += 1;
        slot.counters.waited_ms += waited;
    }

    /// What is counted of requests that need no account.
    pub fn totals(&mut self) -> &mut Totals {
        &mut self.totals
    }

    /// All that may be shown: no secret, no token. `is_used` tells whether the configuration uses an
    /// account, by its key and its kind. One that was used with
    /// another secret before is the same to whoever looks: it is shown as it was used last, with what
    /// is counted of both.
    pub fn status(&mut self, now: Millis, is_used: impl Fn(&AccountKey, Kind) -> bool) -> Status {
        let totals = self.totals;
        let is_shown = |slot: &&Slot| slot.used != 0 && is_used(&AccountKey(slot.key), slot.kind());
        let slots = self.filled_slots().iter().filter(is_shown);
        let mut accounts: Vec<_> = slots.map(|slot| (slot.status(now), slot.used)).collect();
        let key = |account: &AccountStatus| (account.identity.clone(), account.api.clone());
        accounts.sort_by_cached_key(|(account, used)| (key(account), Reverse(*used)));
        accounts.dedup_by(|(before, _), (last, _)| {
            let is_same = key(before) == key(last);
            if is_same {
                last.counters.add(&before.counters);
            }
            is_same
        });
        let accounts = accounts.into_iter().map(|(account, _)| account).collect();
        Status { now, accounts, totals }
    }

    /// Ends all promises of a process that will not keep them.
    pub fn release(&mut self, pid: Pid) {
        for slot in self.filled_slots() {
            if slot.claimed_by == pid {
                slot.claimed_by = 0;
            }
        }
    }

    fn filled_slots(&mut self) -> &mut [Slot] {
        let filled = (self.filled as usize).min(self.slots.len());
        &mut self.slots[..filled]
    }

    /// The account's slot, the least recently used one being made its own if it has none.
    #[inline]
    fn slot(&mut self, key: &AccountKey, hint: &mut Hint, now: Millis) -> &mut Slot {
        self.clock += 1;
        if !self.slots.get(*hint).is_some_and(|slot| slot.used != 0 && slot.key == key.0) {
            *hint = self.find(key).unwrap_or_else(|| self.make_room(key, now));
        }
        if self.newest != Link::to(*hint) {
            self.make_newest(*hint);
        }
        let slot = &mut self.slots[*hint];
        slot.used = self.clock;
        slot
    }

    #[inline(never)]
    fn make_newest(&mut self, index: usize) {
        self.change_links(|table| {
            table.leave_order(index);
            table.enter_order(index);
        });
    }

    #[inline(never)]
    fn find(&mut self, key: &AccountKey) -> Option<usize> {
        self.mend();
        let mut link = self.slots[self.bucket(key)].first;
        for _ in 0..=self.slots.len() {
            let (index, slot) = self.slot_of(link)?;
            if slot.key == key.0 && slot.used != 0 {
                return Some(index);
            }
            link = slot.next;
        }
        // Links that lead in a circle nobody has made.
        self.link_anew();
        None
    }

    #[inline(never)]
    fn make_room(&mut self, key: &AccountKey, now: Millis) -> usize {
        let bucket = self.bucket(key);
        let mut made = 0;
        self.change_links(|table| {
            let filled = table.filled as usize;
            let index = match filled < table.slots.len() {
                true => {
                    table.filled += 1;
                    filled
                }
                false => {
                    let index = table.least_recently_used(now);
                    table.leave_bucket(index);
                    table.leave_order(index);
                    index
                }
            };
            table.slots[index].clear(key);
            table.slots[index].next =
                std::mem::replace(&mut table.slots[bucket].first, Link::to(index));
            table.enter_order(index);
            made = index;
        });
        made
    }

    /// Accounts that are being logged in go last: somebody waits for them.
    fn least_recently_used(&self, now: Millis) -> usize {
        let mut link = self.oldest;
        for _ in 0..self.slots.len() {
            match self.slot_of(link) {
                Some((index, slot)) if !slot.is_claimed(now, |_| true) => return index,
                Some((_, slot)) => link = slot.newer,
                None => break,
            }
        }
        self.oldest.index().filter(|&index| index < self.slots.len()).unwrap_or(0)
    }

    /// The number of the slot that has the beginning of a key's bucket. Keys are hashes.
    fn bucket(&self, key: &AccountKey) -> usize {
        (key.0[0] % self.slots.len() as u64) as usize
    }

    /// The slot that a link leads to. The table may have been left by a killed worker: no link is
    /// trusted.
    fn slot_of(&self, link: Link) -> Option<(usize, &Slot)> {
        let index = link.index()?;
        self.slots.get(index).map(|slot| (index, slot))
    }

    /// Changes links, so that it shows where that has ended half-way.
    fn change_links(&mut self, change: impl FnOnce(&mut Self)) {
        self.mend();
        self.is_relinking = 1;
        compiler_fence(Ordering::SeqCst);
        change(self);
        compiler_fence(Ordering::SeqCst);
        self.is_relinking = 0;
    }

    /// Makes the links anew where a worker was killed while it changed them.
    fn mend(&mut self) {
        if self.is_relinking != 0 {
            self.link_anew();
        }
    }

    /// Makes all links anew, by what the slots themselves hold.
    fn link_anew(&mut self) {
        self.is_relinking = 1;
        compiler_fence(Ordering::SeqCst);
        self.newest = Link::NONE;
        self.oldest = Link::NONE;
        for slot in &mut self.slots {
            for link in [&mut slot.first, &mut slot.next, &mut slot.newer, &mut slot.older] {
                *link = Link::NONE;
            }
        }
        let mut order: Vec<_> = self
            .filled_slots()
            .iter()
            .enumerate()
            .map(|(index, slot)| (slot.used, index))
            .collect();
        order.sort_unstable();
        for (_, index) in order {
            let bucket = self.bucket(&AccountKey(self.slots[index].key));
            self.slots[index].next =
                std::mem::replace(&mut self.slots[bucket].first, Link::to(index));
            self.enter_order(index);
        }
        compiler_fence(Ordering::SeqCst);
        self.is_relinking = 0;
    }

    fn leave_bucket(&mut self, index: usize) {
        let bucket = self.bucket(&AccountKey(self.slots[index].key));
        let next = self.slots[index].next;
        if self.slots[bucket].first == Link::to(index) {
            self.slots[bucket].first = next;
            return;
        }
        let mut link = self.slots[bucket].first;
        for _ in 0..self.slots.len() {
            match self.slot_of(link) {
                Some((before, slot)) if slot.next == Link::to(index) => {
                    self.slots[before].next = next;
                    return;
                }
                Some((_, slot)) => link = slot.next,
                None => return,
            }
        }
    }

    /// Takes a slot out of the order of use, if it is in it.
    fn leave_order(&mut self, index: usize) {
        let Slot { newer, older, .. } = self.slots[index];
        match newer.index().and_then(|index| self.slots.get_mut(index)) {
            Some(slot) => slot.older = older,
            None if self.newest == Link::to(index) => self.newest = older,
            None => {}
        }
        match older.index().and_then(|index| self.slots.get_mut(index)) {
            Some(slot) => slot.newer = newer,
            None if self.oldest == Link::to(index) => self.oldest = newer,
            None => {}
        }
    }

    /// Makes a slot the one that was used last.
    fn enter_order(&mut self, index: usize) {
        let before = std::mem::replace(&mut self.newest, Link::to(index));
        self.slots[index].newer = Link::NONE;
        self.slots[index].older = before;
        match before.index().and_then(|index| self.slots.get_mut(index)) {
            Some(slot) => slot.newer = Link::to(index),
            None => self.oldest = Link::to(index),
        }
    }
}

/// A table in this process's own memory, as tests and benchmarks have it.
#[derive(Clone)]
pub struct OwnTable(Box<[u64]>);

impl OwnTable {
    /// An empty table of so many places.
    pub fn new(places: usize) -> Self {
        let mut words = vec![0; Table::size(places).div_ceil(8)].into_boxed_slice();
        // SAFETY: there are so many zeroed bytes.
        unsafe { Table::lay_out(words.as_mut_ptr().cast(), places) };
        Self(words)
    }

    /// All words behind the number of places, which may be anything where a worker was killed half-way.
    pub fn words_mut(&mut self) -> &mut [u64] {
        self.0.get_mut(1..).unwrap_or_default()
    }
}

impl Deref for OwnTable {
    type Target = Table;

    fn deref(&self) -> &Table {
        // SAFETY: `new` has laid it out, and nothing changes the number of places.
        unsafe { &*Table::at(self.0.as_ptr().cast_mut().cast()) }
    }
}

impl DerefMut for OwnTable {
    fn deref_mut(&mut self) -> &mut Table {
        // SAFETY: as above.
        unsafe { &mut *Table::at(self.0.as_mut_ptr().cast()) }
    }
}

#[cfg(test)]
mod tests {

    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use base64::Engine;

    use super::super::npm::Cause;
    use super::*;

    const NOW: Millis = 1_700_000_000_000;

    const PLACES: usize = 256;

    fn table() -> OwnTable {
        OwnTable::new(PLACES)
    }

    fn key(n: u64) -> AccountKey {
        AccountKey([n, 0, 0, 0])
    }

    fn claim(by: Pid) -> Claim {
        Claim { by, until: NOW + 6_000 }
    }

    fn describe(table: &mut Table, n: u64, identity: &str, url: &str, kind: Kind) {
        table.describe(&key(n), Description { identity, url, kind, user: "" }, NOW);
    }

    fn token(life: Millis) -> Token {
        let seconds = NOW / 1000;
        let payload = format!(r#"{{"iat":{seconds},"exp":{}}}"#, seconds + life / 1000);
        let jwt = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
        Token::issued(&jwt, NOW).unwrap()
    }

    fn fresh<'t>(found: &Access<'t>) -> Option<&'t [u8]> {
        match found {
            Access::Fresh { authorization, .. } => Some(authorization),
            _ => None,
        }
    }

    fn access(table: &mut Table, n: u64, now: Millis, pid: Pid) -> Access<'_> {
        table.access(&key(n), Wanted::Any, &mut 0, now, || claim(pid), |_| true)
    }

    #[test]
    fn one_worker_logs_in_and_all_others_wait_for_it() {
        let mut table = table();
        assert_eq!(access(&mut table, 1, NOW, 10), Access::LogIn);
        assert_eq!(access(&mut table, 1, NOW, 10), Access::Wait);
        assert_eq!(access(&mut table, 1, NOW, 11), Access::Wait);
        assert_eq!(access(&mut table, 2, NOW, 11), Access::LogIn);

        let token = token(86_400_000);
        table.store(&key(1), Wanted::Any, (&token, Role::Standard), false, NOW);
        let authorization = Some(token.authorization().as_bytes());
        assert_eq!(fresh(&access(&mut table, 1, NOW, 11)), authorization);
    }

    #[test]
    fn an_expired_token_is_never_given() {
        let mut table = table();
        let token = token(100_000);
        table.store(&key(1), Wanted::Any, (&token, Role::Standard), false, NOW);
        let authorization = Some(token.authorization().as_bytes());
        assert_eq!(fresh(&access(&mut table, 1, token.use_until - 1, 10)), authorization);
        assert_eq!(access(&mut table, 1, token.use_until, 10), Access::LogIn);
    }

    #[test]
    fn the_promise_of_a_killed_worker_is_taken_over_at_once() {
        let mut table = table();
        assert_eq!(access(&mut table, 1, NOW, 10), Access::LogIn);
        let taken =
            table.access(&key(1), Wanted::Any, &mut 0, NOW + 1, || claim(11), |pid| pid != 10);
        assert_eq!(taken, Access::LogIn);
        assert_eq!(access(&mut table, 1, NOW + 1, 12), Access::Wait);
    }

    #[test]
    fn a_promise_is_void_when_its_time_is_up() {
        let mut table = table();
        assert_eq!(access(&mut table, 1, NOW, 10), Access::LogIn);
        assert_eq!(access(&mut table, 1, NOW + 5_999, 11), Access::Wait);
        assert_eq!(access(&mut table, 1, NOW + 6_000, 11), Access::LogIn);
    }

    #[test]
    fn a_worker_that_exits_gives_its_promises_back() {
        let mut table = table();
        assert_eq!(access(&mut table, 1, NOW, 10), Access::LogIn);
        assert_eq!(access(&mut table, 2, NOW, 11), Access::LogIn);
        table.release(10);
        assert_eq!(access(&mut table, 1, NOW, 12), Access::LogIn);
        assert_eq!(access(&mut table, 2, NOW, 12), Access::Wait);
    }

    #[test]
    fn pauses_grow_from_one_second_to_thirty_and_end_with_a_success() {
        let mut table = table();
        let pauses = [1, 2, 4, 8, 16, 30, 30].map(|seconds| seconds * 1000);
        for pause in pauses {
            assert_eq!(table.fail(&key(1), &LoginError::NotToken, NOW), NOW + pause);
        }
        assert_eq!(access(&mut table, 1, NOW + 29_999, 10), Access::Pause(NOW + 30_000));
        assert_eq!(access(&mut table, 1, NOW + 30_000, 10), Access::LogIn);
        table.store(&key(1), Wanted::Any, (&token(10_000), Role::Standard), false, NOW);
        assert_eq!(table.fail(&key(1), &LoginError::NotToken, NOW), NOW + 1_000);
    }

    #[test]
    fn after_a_clock_that_steps_back_nothing_is_waited_for_that_lies_hours_ahead() {
        const HOUR: Millis = 3_600_000;
        let (now, back) = (NOW, NOW - HOUR);
        let at = |now| Claim::new(10, now, TIMEOUT_MAX);
        let access = |table: &mut Table, now| match table.access(
            &key(1),
            Wanted::Any,
            &mut 0,
            now,
            || at(now),
            |_| true,
        ) {
            Access::Fresh { renew, .. } => format!("fresh, renew: {renew}"),
            other => format!("{other:?}"),
        };

        // The longest promise of all holds, and is void when the clock has stepped back.
        let mut table = table();
        assert_eq!(access(&mut table, now), "LogIn");
        assert_eq!(access(&mut table, now), "Wait");
        assert_eq!(access(&mut table, back), "LogIn");
        assert_eq!(access(&mut table, back), "Wait");

        // So does the longest pause.
        let retry_at = table.fail(&key(1), &LoginError::Refused, now);
        assert_eq!(access(&mut table, now), format!("Pause({retry_at})"));
        assert_eq!(table.status(back, |_, _| true).accounts[0].next_try, None);
        assert_eq!(access(&mut table, back), "LogIn");

        // And a token is doubted again.
        let issue =
            table.store(&key(1), Wanted::Any, (&token(86_400_000), Role::Standard), false, now);
        for doubt in [Doubt::Error, Doubt::Refused] {
            for now in [now, back] {
                assert!(table.doubt(&key(1), issue, doubt, now, at(now), |_| true), "{doubt:?}");
                assert!(!table.let_be(&key(1), issue, None, at(now), now));
                assert!(!table.doubt(&key(1), issue, doubt, now, at(now), |_| true), "{doubt:?}");
            }
        }
        for (now, revoked) in [(now, Revoked::LogIn), (now, Revoked::Fail), (back, Revoked::LogIn)]
        {
            let token = (&token(86_400_000), Role::Standard);
            let issue = table.store(&key(1), Wanted::Any, token, false, now);
            assert_eq!(table.revoke(&key(1), issue, at(now), now), revoked);
        }
    }

    /// Whoever lost a role, or got one, is looked at anew, by whichever worker.
    #[test]
    fn a_token_for_another_role_is_as_none() {
        let mut table = table();
        let token = token(86_400_000);
        let find = |table: &mut Table, wanted| {
            let found = table.access(&key(1), wanted, &mut 0, NOW, || claim(10), |_| true);
            fresh(&found).is_some()
        };
        table.store(&key(1), Wanted::Administrator, (&token, Role::Administrator), false, NOW);
        assert!(find(&mut table, Wanted::Administrator));
        assert!(!find(&mut table, Wanted::Standard));
        table.store(&key(1), Wanted::Standard, (&token, Role::Standard), false, NOW);
        assert!(find(&mut table, Wanted::Standard));
        assert!(!find(&mut table, Wanted::Administrator));
        assert!(!find(&mut table, Wanted::Any));
    }

    #[test]
    fn for_somebody_who_is_no_user_npm_is_asked_again_after_ten_seconds() {
        let mut table = table();
        let token = token(86_400_000);
        for error in [LoginError::NoUser, LoginError::Disabled, LoginError::SeveralUsers] {
            table.store(&key(1), Wanted::Any, (&token, Role::Standard), false, NOW);
            assert_eq!(table.fail(&key(1), &error, NOW), NOW + 10_000);
            // A token that there was is not used any more.
            assert_eq!(access(&mut table, 1, NOW + 9_999, 10), Access::Nobody(NOW + 10_000));
            assert_eq!(access(&mut table, 1, NOW + 10_000, 10), Access::LogIn);
        }
        table.fail(&key(1), &LoginError::NotToken, NOW);
        assert!(matches!(access(&mut table, 1, NOW, 11), Access::Wait | Access::Pause(_)));
    }

    #[test]
    fn a_refused_secret_is_not_tried_again_for_a_minute() {
        let mut table = table();
        assert_eq!(table.fail(&key(1), &LoginError::Refused, NOW), NOW + 60_000);
        assert_eq!(access(&mut table, 1, NOW + 59_999, 10), Access::Pause(NOW + 60_000));
        assert_eq!(access(&mut table, 1, NOW + 60_000, 10), Access::LogIn);
    }

    #[test]
    fn a_full_table_forgets_the_least_recently_used_account() {
        let mut table = table();
        let token = token(86_400_000);
        for n in 1..=PLACES as u64 {
            table.store(&key(n), Wanted::Any, (&token, Role::Standard), false, NOW);
        }
        let authorization = Some(token.authorization().as_bytes());
        assert_eq!(fresh(&access(&mut table, 1, NOW, 10)), authorization);
        assert_eq!(access(&mut table, 1_000, NOW, 10), Access::LogIn);
        assert_eq!(fresh(&access(&mut table, 1, NOW, 10)), authorization);
        assert_eq!(fresh(&access(&mut table, 3, NOW, 10)), authorization);
        assert_eq!(access(&mut table, 2, NOW, 10), Access::LogIn);
    }

    /// A table does what a list of the last accounts does, whatever is asked of it.
    #[test]
    fn a_table_forgets_as_a_list_of_the_last_accounts_does() {
        const ROUNDS: usize = 20_000;
        for places in [1, 2, 3, 7, 64] {
            let mut table = OwnTable::new(places);
            let token = token(86_400_000);
            let mut recent: Vec<u64> = Vec::new();
            let mut random = 1u64;
            for _ in 0..ROUNDS {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // Some of these fall into the same bucket.
                let n = (random >> 33) % (2 * places as u64 + 1);
                let known = recent.iter().position(|&other| other == n);
                let found = access(&mut table, n, NOW, 10);
                assert_eq!(fresh(&found).is_some(), known.is_some(), "{n} in {recent:?}");
                if known.is_none() {
                    table.store(&key(n), Wanted::Any, (&token, Role::Standard), false, NOW);
                }
                recent.retain(|&other| other != n);
                recent.push(n);
                if recent.len() > places {
                    recent.remove(0);
                }
            }
            let shown = table.status(NOW, |_, _| true);
            assert_eq!(shown.accounts.len(), 1, "all have the same name");
            assert_eq!(table.filled as usize, places);
        }
    }

    #[test]
    fn a_table_of_another_size_takes_over_what_was_used_last() {
        let token = token(86_400_000);
        for (places, more) in [(10, 20), (10, 10), (10, 4), (10, 1)] {
            let mut table = OwnTable::new(places);
            table.set_marker_key([7; 32]);
            for n in 0..10 {
                table.store(&key(n), Wanted::Any, (&token, Role::Standard), false, NOW);
            }
            // The first is the last now.
            assert!(fresh(&access(&mut table, 0, NOW, 10)).is_some());
            table.totals().kept = 3;

            let mut other = OwnTable::new(more);
            other.take_over(&mut table);
            assert_eq!((other.marker_key(), other.totals().kept), ([7; 32], 3));
            let last: Vec<u64> = [0, 9, 8, 7, 6, 5, 4, 3, 2, 1].into_iter().take(more).collect();
            for n in 0..10 {
                let is_known = other.find(&key(n)).is_some();
                assert_eq!(is_known, last.contains(&n), "{n} of {more}");
            }
            // The order is the same: what was used first goes first.
            let first = *last.last().expect("an account");
            for n in 100..100 + (more - last.len() + 1) as u64 {
                assert_eq!(access(&mut other, n, NOW, 10), Access::LogIn);
            }
            assert_eq!(other.find(&key(first)), None);
        }
    }

    #[test]
    fn a_table_of_another_size_takes_no_promise_over() {
        let mut table = table();
        assert_eq!(access(&mut table, 1, NOW, 10), Access::LogIn);
        let mut other = OwnTable::new(PLACES * 2);
        other.take_over(&mut table);
        // The worker that made it keeps it in its own table.
        assert_eq!(access(&mut other, 1, NOW, 20), Access::LogIn);
    }

    /// A worker that is killed may leave links half-way, or anything in their place.
    #[test]
    fn links_that_were_left_half_way_are_made_anew() {
        let token = token(86_400_000);
        let fill = || {
            let mut table = OwnTable::new(8);
            for n in 0..8 {
                table.store(&key(n), Wanted::Any, (&token, Role::Standard), false, NOW);
            }
            table
        };
        let damages: [fn(&mut Table); 5] = [
            |table| table.slots.iter_mut().for_each(|slot| slot.next = Link::to(3)),
            |table| table.slots.iter_mut().for_each(|slot| slot.first = Link(u32::MAX)),
            |table| table.slots.iter_mut().for_each(|slot| slot.older = Link::to(99)),
            |table| table.slots.iter_mut().for_each(|slot| slot.newer = Link::to(0)),
            |table| (table.newest, table.oldest) = (Link::to(1_000), Link::NONE),
        ];
        for (n, damage) in damages.iter().enumerate() {
            let mut table = fill();
            damage(&mut table);
            table.is_relinking = 1;
            for n in 0..8 {
                assert!(fresh(&access(&mut table, n, NOW, 10)).is_some(), "{n}");
            }
            for n in 8..12 {
                assert_eq!(access(&mut table, n, NOW, 10), Access::LogIn);
            }
            assert_eq!(table.find(&key(0)), None);
            assert!(table.find(&key(7)).is_some());

            // Where nothing says that they were being changed, they cost no more than tokens.
            let mut table = fill();
            damage(&mut table);
            for n in 0..100 {
                let _ = access(&mut table, n, NOW, 10);
            }
            table.store(&key(1), Wanted::Any, (&token, Role::Standard), false, NOW);
            assert!(fresh(&access(&mut table, 1, NOW, 10)).is_some(), "damage {n}");
        }
    }

    #[test]
    fn a_table_full_of_promises_still_finds_room() {
        let mut table = table();
        for n in 1..=2 * PLACES as u64 {
            assert_eq!(access(&mut table, n, NOW, 10), Access::LogIn);
        }
    }

    #[test]
    fn a_hint_that_is_wrong_is_corrected() {
        let mut table = table();
        table.store(&key(1), Wanted::Any, (&token(10_000), Role::Standard), false, NOW);
        for wrong in [1, 5, PLACES - 1, PLACES, usize::MAX] {
            let mut hint = wrong;
            let found = table.access(&key(1), Wanted::Any, &mut hint, NOW, || claim(10), |_| true);
            assert!(matches!(found, Access::Fresh { .. }));
            assert_eq!(hint, 0);
        }
    }

    #[test]
    fn each_token_has_a_number_of_its_own() {
        let mut table = table();
        let mut issues = Vec::new();
        for (n, life) in [(1, 10_000), (2, 10_000), (1, 20_000)] {
            table.store(&key(n), Wanted::Any, (&token(life), Role::Standard), false, NOW);
            let Access::Fresh { issue, .. } = access(&mut table, n, NOW, 10) else { panic!() };
            let again = access(&mut table, n, NOW, 10);
            assert!(matches!(again, Access::Fresh { issue: same, .. } if same == issue));
            issues.push(issue);
        }
        issues.dedup();
        assert_eq!(issues.len(), 3);
    }

    #[test]
    fn a_damaged_table_does_no_more_than_lose_its_tokens() {
        let mut table = table();
        table.store(&key(1), Wanted::Any, (&token(10_000), Role::Standard), false, NOW);
        table.slots[0].authorization_len = u32::MAX;
        table.filled = u64::MAX;
        assert_eq!(fresh(&access(&mut table, 1, NOW, 10)), Some(&b""[..]));
        assert_eq!(access(&mut table, 9, NOW, 10), Access::LogIn);
    }

    /// Whether the caller has just promised to renew.
    fn renews(table: &mut Table, n: u64, now: Millis, pid: Pid) -> bool {
        match access(table, n, now, pid) {
            Access::Fresh { renew, .. } => renew,
            other => panic!("{other:?}"),
        }
    }

    fn issue(table: &mut Table, n: u64, now: Millis) -> u64 {
        match access(table, n, now, 10) {
            Access::Fresh { issue, .. } => issue,
            other => panic!("{other:?}"),
        }
    }

    fn counters(table: &mut Table, now: Millis) -> Counters {
        let accounts = table.status(now, |_, _| true).accounts;
        assert_eq!(accounts.len(), 1);
        accounts[0].counters
    }

    #[test]
    fn one_worker_renews_and_all_go_on_with_the_old_token() {
        let mut table = table();
        let old = token(100_000);
        table.store(&key(0), Wanted::Any, (&old, Role::Standard), false, NOW);
        let due = old.renew_at(0);
        assert!(!renews(&mut table, 0, due - 1, 10));
        let claim = Claim { by: 10, until: due + 6_000 };
        let found = table.access(&key(0), Wanted::Any, &mut 0, due, || claim, |_| true);
        assert!(matches!(found, Access::Fresh { renew: true, .. }));
        for pid in [10, 11, 12] {
            assert!(!renews(&mut table, 0, due, pid));
        }

        let new = token(200_000);
        table.store(&key(0), Wanted::Any, (&new, Role::Standard), true, due);
        let found = access(&mut table, 0, due, 11);
        assert_eq!(fresh(&found), Some(new.authorization().as_bytes()));
        assert!(!renews(&mut table, 0, due, 11));
        let counters = counters(&mut table, due);
        assert_eq!((counters.logins, counters.renewals, counters.failures), (1, 1, 0));
    }

    #[test]
    fn the_renewal_of_a_killed_worker_is_taken_over_at_once() {
        let mut table = table();
        let token = token(100_000);
        table.store(&key(0), Wanted::Any, (&token, Role::Standard), false, NOW);
        let due = token.renew_at(0);
        let claim = |by| Claim { by, until: due + 6_000 };
        let renews = |table: &mut Table, by, dead| {
            let found =
                table.access(&key(0), Wanted::Any, &mut 0, due, || claim(by), |pid| pid != dead);
            matches!(found, Access::Fresh { renew: true, .. })
        };
        assert!(renews(&mut table, 10, 0));
        assert!(renews(&mut table, 11, 10));
        assert!(!renews(&mut table, 12, 10));
        table.release(11);
        assert!(renews(&mut table, 12, 0));
    }

    #[test]
    fn a_renewal_that_fails_is_tried_again_after_its_pause_while_the_old_token_serves() {
        let mut table = table();
        let token = token(100_000);
        table.store(&key(0), Wanted::Any, (&token, Role::Standard), false, NOW);
        let due = token.renew_at(0);
        assert!(renews(&mut table, 0, due, 10));
        let retry_at = table.fail(&key(0), &LoginError::NotToken, due);
        assert!(!renews(&mut table, 0, retry_at - 1, 10));
        assert!(renews(&mut table, 0, retry_at, 10));

        // Refused, it is not tried again before the end.
        let retry_at = table.fail(&key(0), &LoginError::Refused, retry_at);
        assert!(token.use_until < retry_at);
        assert!(!renews(&mut table, 0, token.use_until - 1, 10));
        assert_eq!(access(&mut table, 0, token.use_until, 10), Access::Pause(retry_at));
        assert_eq!(access(&mut table, 0, retry_at, 10), Access::LogIn);
    }

    #[test]
    fn tokens_that_were_issued_together_are_not_renewed_together() {
        const HOUR: Millis = 3_600_000;
        let mut table = table();
        let token = token(24 * HOUR);
        // Keys are the beginnings of hashes.
        let keys: Vec<u64> =
            (1..=200).map(|n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).collect();
        for &n in &keys {
            table.store(&key(n), Wanted::Any, (&token, Role::Standard), false, NOW);
        }
        let first = NOW + 24 * HOUR * 4 / 5;
        let (mut left, mut waves) = (keys.clone(), Vec::new());
        for minutes in (0..=72).step_by(6) {
            let now = first + minutes * 60_000;
            let claim = Claim { by: 10, until: now + 6_000 };
            let before = left.len();
            left.retain(|&n| {
                let found = table.access(&key(n), Wanted::Any, &mut 0, now, || claim, |_| true);
                !matches!(found, Access::Fresh { renew: true, .. })
            });
            waves.push(before - left.len());
        }
        assert_eq!(waves.iter().sum::<usize>(), keys.len(), "{waves:?}");
        assert!(waves.iter().all(|&wave| wave < keys.len() / 5), "{waves:?}");
        assert!(waves[1..].iter().all(|&wave| wave > 0), "{waves:?}");
    }

    #[test]
    fn a_token_is_doubted_once_in_ten_seconds() {
        let mut table = table();
        table.store(&key(1), Wanted::Any, (&token(86_400_000), Role::Standard), false, NOW);
        let issue = issue(&mut table, 1, NOW);
        let doubt = |table: &mut Table, now, pid| {
            table.doubt(
                &key(1),
                issue,
                Doubt::Error,
                now,
                Claim { by: pid, until: now + 6_000 },
                |_| true,
            )
        };
        assert!(doubt(&mut table, NOW, 10));
        assert!(!doubt(&mut table, NOW, 11));
        table.let_be(&key(1), issue, None, claim(10), NOW);
        assert!(!doubt(&mut table, NOW + 9_999, 11));
        assert!(doubt(&mut table, NOW + 10_000, 11));
        // Nobody has given that promise up.
        assert!(!doubt(&mut table, NOW + 15_999, 10));
        assert!(doubt(&mut table, NOW + 20_000, 10));
    }

    #[test]
    fn what_is_not_in_use_is_not_doubted() {
        let mut table = table();
        let token = token(100_000);
        table.store(&key(1), Wanted::Any, (&token, Role::Standard), false, NOW);
        let issue = issue(&mut table, 1, NOW);
        let doubt = |table: &mut Table, n, issue, now| {
            table.doubt(
                &key(n),
                issue,
                Doubt::Error,
                now,
                Claim { by: 10, until: now + 6_000 },
                |_| true,
            )
        };
        assert!(!doubt(&mut table, 1, issue + 1, NOW), "another token");
        assert!(!doubt(&mut table, 1, issue, token.use_until), "an expired token");
        assert!(!doubt(&mut table, 2, issue, NOW), "an account without a token");
        let due = token.renew_at(1);
        assert!(renews(&mut table, 1, due, 10));
        table.slots[0].claimed_until = due + 6_000;
        assert!(!doubt(&mut table, 1, issue, due), "a token that is being renewed");
        assert!(doubt(&mut table, 1, issue, due + 6_000));
    }

    #[test]
    fn a_revoked_token_is_forgotten_and_one_worker_logs_in() {
        let mut table = table();
        table.store(&key(1), Wanted::Any, (&token(86_400_000), Role::Standard), false, NOW);
        let issue = issue(&mut table, 1, NOW);
        assert!(table.doubt(&key(1), issue, Doubt::Error, NOW, claim(10), |_| true));
        table.revoke(&key(1), issue, claim(10), NOW);
        assert_eq!(access(&mut table, 1, NOW, 10), Access::Wait);
        assert_eq!(access(&mut table, 1, NOW, 11), Access::Wait);
        let authorization = &table.slots[0].authorization;
        assert!(authorization.iter().all(|&byte| byte == 0));

        let new = token(200_000);
        table.store(&key(1), Wanted::Any, (&new, Role::Standard), false, NOW);
        let found = access(&mut table, 1, NOW, 11);
        assert_eq!(fresh(&found), Some(new.authorization().as_bytes()));
    }

    /// A table with a token, and the number of its issue.
    fn signed_in() -> (OwnTable, u64) {
        let mut table = table();
        let issue =
            table.store(&key(1), Wanted::Any, (&token(86_400_000), Role::Standard), false, NOW);
        (table, issue)
    }

    fn refuse(table: &mut Table, issue: u64, now: Millis) -> bool {
        let claim = Claim { by: 10, until: now + 6_000 };
        table.doubt(&key(1), issue, Doubt::Refused, now, claim, |_| true)
    }

    #[test]
    fn a_refused_token_is_held_back_until_npm_has_been_asked() {
        let (mut table, issue) = signed_in();
        assert!(refuse(&mut table, issue, NOW));
        assert_eq!(access(&mut table, 1, NOW, 11), Access::Wait);
        assert!(!refuse(&mut table, issue, NOW), "it is being asked about");
        table.let_be(&key(1), issue, None, claim(10), NOW);
        assert!(fresh(&access(&mut table, 1, NOW, 11)).is_some());

        // It was not the token: not asked about again for a while.
        assert!(!refuse(&mut table, issue, NOW + 9_999));
        assert!(fresh(&access(&mut table, 1, NOW + 9_999, 11)).is_some());
        assert!(refuse(&mut table, issue, NOW + 10_000));
    }

    #[test]
    fn a_refusal_is_heeded_though_npm_was_asked_a_moment_before() {
        let (mut table, issue) = signed_in();
        assert!(table.doubt(&key(1), issue, Doubt::Error, NOW, claim(10), |_| true));
        table.let_be(&key(1), issue, None, claim(10), NOW);
        assert!(refuse(&mut table, issue, NOW + 1));
        assert_eq!(table.revoke(&key(1), issue, claim(10), NOW + 2), Revoked::LogIn);
        assert_eq!(access(&mut table, 1, NOW + 2, 11), Access::Wait);

        // And that of the token after it too, but that is no reason for yet another login.
        let issue =
            table.store(&key(1), Wanted::Any, (&token(86_400_000), Role::Standard), false, NOW + 3);
        assert!(refuse(&mut table, issue, NOW + 4));
        assert_eq!(table.revoke(&key(1), issue, claim(10), NOW + 5), Revoked::Fail);
        let retry_at = table.fail(&key(1), &LoginError::RefusedToken, NOW + 5);
        assert_eq!(access(&mut table, 1, NOW + 5, 11), Access::Pause(retry_at));
        assert_eq!(access(&mut table, 1, retry_at, 11), Access::LogIn);
    }

    #[test]
    fn a_refusal_that_comes_during_a_check_leads_to_another() {
        let (mut table, issue) = signed_in();
        assert!(table.doubt(&key(1), issue, Doubt::Error, NOW, claim(11), |_| true));
        assert!(!refuse(&mut table, issue, NOW + 1), "the promise is another worker's");
        assert_eq!(access(&mut table, 1, NOW + 1, 12), Access::Wait);
        assert!(table.let_be(&key(1), issue, None, claim(11), NOW + 2));
        assert_eq!(access(&mut table, 1, NOW + 2, 12), Access::Wait);

        // Once: what it has led to is as any other.
        assert!(!refuse(&mut table, issue, NOW + 3));
        assert!(!table.let_be(&key(1), issue, None, claim(11), NOW + 4));
        assert!(fresh(&access(&mut table, 1, NOW + 4, 12)).is_some());
    }

    #[test]
    fn an_error_is_heeded_though_each_renewal_is_refused() {
        let mut table = table();
        let token = token(86_400_000);
        let issue = table.store(&key(1), Wanted::Any, (&token, Role::Standard), false, NOW);
        let due = token.renew_at(1);
        assert!(renews(&mut table, 1, due, 10));
        table.fail(&key(1), &LoginError::Refused, due + 500);
        assert!(table.doubt(&key(1), issue, Doubt::Error, due + 600, claim(10), |_| true));
    }

    #[test]
    fn the_end_of_a_check_ends_no_login() {
        let (mut table, issue) = signed_in();
        assert!(table.doubt(&key(1), issue, Doubt::Error, NOW, claim(10), |_| true));
        // NPM has refused it to a sign-in for which it was needed.
        assert_eq!(table.revoke(&key(1), issue, claim(10), NOW + 1), Revoked::LogIn);
        assert_eq!(table.revoke(&key(1), issue, claim(10), NOW + 2), Revoked::Before);
        assert_eq!(access(&mut table, 1, NOW + 2, 12), Access::Wait);
        assert!(!table.let_be(&key(1), issue, Some(Role::Standard), claim(10), NOW + 2));
        assert_eq!(access(&mut table, 1, NOW + 2, 12), Access::Wait);
    }

    #[test]
    fn the_end_of_a_check_says_nothing_of_a_later_token() {
        let (mut table, old) = signed_in();
        assert!(table.doubt(&key(1), old, Doubt::Error, NOW, claim(10), |_| true));
        let new = (&token(86_400_000), Role::Standard);
        let new = table.store(&key(1), Wanted::Any, new, false, NOW + 1);
        assert_eq!(table.revoke(&key(1), old, claim(10), NOW + 2), Revoked::Before);
        assert!(fresh(&access(&mut table, 1, NOW + 2, 12)).is_some());
        assert!(refuse(&mut table, new, NOW + 2));
        assert!(!table.let_be(&key(1), old, Some(Role::Standard), claim(10), NOW + 3));
        assert_eq!(access(&mut table, 1, NOW + 3, 12), Access::Wait);
    }

    #[test]
    fn the_end_of_a_check_whose_promise_is_void_ends_no_other() {
        let (mut table, issue) = signed_in();
        let until = NOW + 6_000;
        assert!(table.doubt(&key(1), issue, Doubt::Error, NOW, claim(11), |_| true));
        assert!(refuse(&mut table, issue, until + 10_000), "by another worker");
        let late = Claim { by: 11, until: until + 20_000 };
        assert!(!table.let_be(&key(1), issue, Some(Role::Standard), late, until + 10_001));
        assert_eq!(access(&mut table, 1, until + 10_001, 12), Access::Wait);
    }

    #[test]
    fn a_tokens_role_is_what_npm_said_last() {
        let mut table = table();
        let role = |table: &mut Table| match access(table, 1, NOW, 10) {
            Access::Fresh { role, .. } => role,
            other => panic!("{other:?}"),
        };
        let (old, day) = (token(86_400_000), token(86_400_000));
        table.store(&key(1), Wanted::Any, (&old, Role::Administrator), false, NOW);
        assert_eq!(role(&mut table), Role::Administrator);
        let issue = table.store(&key(1), Wanted::Any, (&day, Role::Standard), true, NOW);
        assert_eq!(role(&mut table), Role::Standard);
        table.let_be(&key(1), issue, Some(Role::Administrator), claim(10), NOW);
        assert_eq!(role(&mut table), Role::Administrator);
        table.let_be(&key(1), issue, None, claim(10), NOW);
        assert_eq!(role(&mut table), Role::Administrator);
        // Said of a token before that.
        table.let_be(&key(1), issue - 1, Some(Role::Standard), claim(10), NOW);
        assert_eq!(role(&mut table), Role::Administrator);
        table.revoke(&key(1), issue, claim(10), NOW);
        table.store(&key(1), Wanted::Any, (&day, Role::Standard), false, NOW);
        assert_eq!(role(&mut table), Role::Standard);
    }

    #[test]
    fn a_refused_token_that_nobody_asks_about_is_not_used_again() {
        let (mut table, issue) = signed_in();
        assert!(refuse(&mut table, issue, NOW));
        let taken = table.access(&key(1), Wanted::Any, &mut 0, NOW, || claim(11), |pid| pid != 10);
        assert_eq!(taken, Access::LogIn);
        table.store(&key(1), Wanted::Any, (&token(86_400_000), Role::Standard), false, NOW);
        assert!(fresh(&access(&mut table, 1, NOW, 12)).is_some());
    }

    #[test]
    fn only_the_token_that_was_asked_about_is_revoked() {
        let mut table = table();
        table.store(&key(1), Wanted::Any, (&token(86_400_000), Role::Standard), false, NOW);
        let issue = issue(&mut table, 1, NOW);
        let new = token(200_000);
        table.store(&key(1), Wanted::Any, (&new, Role::Standard), true, NOW);
        table.revoke(&key(1), issue, claim(10), NOW);
        let found = access(&mut table, 1, NOW, 11);
        assert_eq!(fresh(&found), Some(new.authorization().as_bytes()));
    }

    #[test]
    fn a_doubt_that_comes_to_nothing_leaves_the_token_in_use() {
        let mut table = table();
        let token = token(100_000);
        table.store(&key(0), Wanted::Any, (&token, Role::Standard), false, NOW);
        let issue = issue(&mut table, 0, NOW);
        let due = token.renew_at(0);
        let claim = Claim { by: 10, until: due + 6_000 };
        assert!(table.doubt(&key(0), issue, Doubt::Error, due - 1, claim, |_| true));
        assert!(!renews(&mut table, 0, due, 11));
        table.let_be(&key(0), issue, None, claim, due);
        assert!(renews(&mut table, 0, due, 11));
    }

    #[test]
    fn requests_logins_and_failures_are_counted() {
        let mut table = table();
        assert_eq!(access(&mut table, 1, NOW, 10), Access::LogIn);
        assert_eq!(access(&mut table, 1, NOW, 11), Access::Wait);
        table.fail(&key(1), &LoginError::NotToken, NOW);
        table.fail(&key(1), &LoginError::Refused, NOW);
        table.fail(&key(1), &LoginError::TwoFactor, NOW);
        table.store(&key(1), Wanted::Any, (&token(10_000), Role::Standard), false, NOW);
        table.count_wait(&key(1), 400, NOW);
        table.count_wait(&key(1), 20, NOW);
        for mut hint in [0, 1, PLACES] {
            match table.access(&key(1), Wanted::Any, &mut hint, NOW, || claim(10), |_| true) {
                Access::Fresh { hits, .. } => *hits += 1,
                other => panic!("{other:?}"),
            }
        }
        let expected =
            Counters { hits: 3, waits: 2, waited_ms: 420, logins: 1, renewals: 0, failures: 3 };
        assert_eq!(counters(&mut table, NOW), expected);

        table.totals().kept += 2;
        let totals = table.status(NOW, |_, _| true).totals;
        let by_cause = |cause: Cause| totals.failures_by_cause[cause as usize];
        assert_eq!((by_cause(Cause::Refused), by_cause(Cause::Answer)), (2, 1));
        assert_eq!((totals.kept, totals.errors), (2, 0));
        assert_eq!(totals.failures_by_cause.iter().sum::<u64>(), 3);
    }

    #[test]
    fn an_account_shows_its_state() {
        let mut table = table();
        let shown = |table: &mut Table, now| table.status(now, |_, _| true).accounts.remove(0);
        assert!(table.status(NOW, |_, _| true).accounts.is_empty());

        assert_eq!(access(&mut table, 1, NOW, 10), Access::LogIn);
        describe(&mut table, 1, "admin@example.com", "http://npm:81", Kind::Named);
        let account = shown(&mut table, NOW);
        assert_eq!(account.state, State::SigningIn);
        assert_eq!((&*account.identity, &*account.api), ("admin@example.com", "http://npm:81"));
        assert_eq!((account.last_login, account.last_error), (None, None));

        let retry_at = table.fail(&key(1), &LoginError::Refused, NOW);
        let account = shown(&mut table, NOW);
        assert_eq!((account.state, account.next_try), (State::Failing, Some(retry_at)));
        assert_eq!(account.last_error.as_deref(), Some("NPM refused identity and secret"));
        assert_eq!(account.last_failure, Some(NOW));
        let account = shown(&mut table, retry_at);
        assert_eq!((account.state, account.next_try), (State::Idle, None));

        let token = token(100_000);
        table.store(&key(1), Wanted::Any, (&token, Role::Standard), false, NOW + 1);
        let account = shown(&mut table, NOW + 1);
        assert_eq!((account.state, account.next_try), (State::SignedIn, None));
        assert_eq!(account.token_expires, Some(token.expires_at));
        assert_eq!((account.last_login, account.last_failure), (Some(NOW + 1), Some(NOW)));

        let account = shown(&mut table, token.use_until);
        assert_eq!((account.state, account.token_expires), (State::Idle, None));
    }

    #[test]
    fn accounts_are_shown_by_name_and_long_ones_are_cut_between_letters() {
        let mut table = table();
        let long = "\u{e9}".repeat(100);
        for (n, identity) in [(1, "b@example.com"), (2, &long), (3, "a@example.com")] {
            table.store(&key(n), Wanted::Any, (&token(10_000), Role::Standard), false, NOW);
            describe(&mut table, n, identity, "http://npm:81", Kind::Named);
        }
        let accounts = table.status(NOW, |_, _| true).accounts;
        let shown: Vec<&str> = accounts.iter().map(|account| account.identity.as_str()).collect();
        assert_eq!(shown, ["a@example.com", "b@example.com", &long[..124]]);
    }

    #[test]
    fn an_account_with_another_secret_is_shown_once_as_it_was_used_last() {
        let mut table = table();
        for n in [1, 2, 3] {
            describe(
                &mut table,
                n,
                "a@example.com",
                "http://npm:81",
                if n == 3 { Kind::HandedOver } else { Kind::Named },
            );
        }
        describe(&mut table, 4, "a@example.com", "http://other:81", Kind::Named);
        table.store(&key(1), Wanted::Any, (&token(10_000), Role::Standard), false, NOW);
        table.store(&key(3), Wanted::Any, (&token(10_000), Role::Standard), false, NOW);
        table.fail(&key(2), &LoginError::Refused, NOW);
        let accounts = table.status(NOW, |_, _| true).accounts;
        let shown: Vec<_> =
            accounts.iter().map(|a| (&*a.api, a.state, a.counters.logins)).collect();
        let here = ("http://npm:81", State::Failing, 2);
        assert_eq!(shown, [here, ("http://other:81", State::Idle, 0)]);
        assert_eq!(accounts[0].counters.failures, 1);

        // Of those, what the configuration uses.
        let of =
            |accounts: Vec<AccountStatus>| accounts.iter().map(|a| a.state).collect::<Vec<_>>();
        let named = table.status(NOW, |used, _| *used == key(1)).accounts;
        assert_eq!(of(named), [State::SignedIn]);
        let handed_over = table.status(NOW, |_, kind| kind == Kind::HandedOver).accounts;
        assert_eq!(of(handed_over), [State::SignedIn]);
        assert!(table.status(NOW, |_, _| false).accounts.is_empty());
    }

    #[test]
    fn an_account_that_has_made_room_is_no_longer_shown() {
        let mut table = table();
        for n in 1..=PLACES as u64 + 1 {
            describe(&mut table, n, &format!("user{n}"), "http://npm:81", Kind::Named);
        }
        let accounts = table.status(NOW, |_, _| true).accounts;
        assert_eq!(accounts.len(), PLACES);
        assert!(!accounts.iter().any(|account| account.identity == "user1"));
    }
}
