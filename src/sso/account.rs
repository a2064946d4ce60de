//! An account at NPM, whose it is, and its token as this worker's requests share it.

use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::groups::Separator;
use super::npm::{Credentials, Issuer, Role};
use super::secret::Secret;
use super::totp::TotpSecret;

/// The longest `timeout`: nobody waits longer for a page.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// What Authentik says of the user whose request this is. An empty value is one that it did not
/// say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Visitor<'a> {
    pub user: &'a [u8],
    pub email: &'a [u8],
    pub groups: &'a [u8],
    pub separator: Separator,
}

/// Why a visitor has no account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoAccount {
    /// None fits.
    NoneFits,
    /// Each has their own, and Authentik says no e-mail address, or what is none, or several.
    NoAddress,
    /// Each has their own, and this one is in none of the groups.
    ShutOut,
}

/// Names an account among all, in the cache: its NPM, identity and secrets. A changed secret makes
/// another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AccountKey(pub [u64; 4]);

impl AccountKey {
    /// The key of an account that logs in with these, or, with an address, of the person whom it signs
    /// in.
    fn new(url: &str, credentials: &Credentials, address: Option<&str>) -> Self {
        let totp = credentials.totp.as_ref().map(TotpSecret::expose).unwrap_or_default();
        let (identity, secret) = (&credentials.identity, credentials.secret.expose());
        let mut hash = Sha256::new();
        let parts = [url.as_bytes(), identity.as_bytes(), secret.as_bytes(), totp];
        for part in parts.into_iter().chain(address.map(str::as_bytes)) {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut words = digest.chunks_exact(8);
        Self(std::array::from_fn(|_| {
            words.next().and_then(|w| w.try_into().ok()).map_or(0, u64::from_ne_bytes)
        }))
    }
}

/// Where an account comes from.
#[derive(Debug)]
pub enum Origin {
    /// The accounts file names it.
    File,
    /// Authentik has handed it over: no accounts file names it.
    HandedOver,
    /// It is a person's own: `sign_in_as`.
    Person(Person),
}

/// An account at an NPM.
pub struct Account {
    pub issuer: Arc<Issuer>,
    pub credentials: Credentials,
    pub key: AccountKey,
    pub origin: Origin,
    /// Where the cache last had this account.
    pub hint: AtomicUsize,
    /// The token that this process last had from the cache.
    pub kept: Mutex<Option<Arc<Authorization>>>,
}

/// The value of an `Authorization` header, as this process's requests share it.
pub struct Authorization {
    value: Zeroizing<String>,
    /// The number of the token's issue, see [`super::cache::Access::Fresh`].
    pub issue: u64,
    /// What its account may do.
    pub role: Role,
}

impl Authorization {
    /// A copy of the value.
    pub fn new(value: &[u8], issue: u64, role: Role) -> Arc<Self> {
        // It is a token's, of ASCII text.
        let value = std::str::from_utf8(value).unwrap_or_default().to_owned();
        Arc::new(Self { value: Zeroizing::new(value), issue, role })
    }

    /// The value. Not for messages.
    pub fn expose(&self) -> &str {
        &self.value
    }
}

impl Account {
    /// An account at that NPM.
    pub(super) fn new(issuer: Arc<Issuer>, credentials: Credentials, origin: Origin) -> Self {
        let address = match &origin {
            Origin::Person(person) => Some(&*person.email),
            Origin::File | Origin::HandedOver => None,
        };
        let key = match &origin {
            // Whoever signs in as somebody has that one's account, not the other way round.
            Origin::Person(Person { terms, .. }) => {
                AccountKey::new(issuer.url(), &terms.service.credentials, address)
            }
            Origin::File | Origin::HandedOver => AccountKey::new(issuer.url(), &credentials, None),
        };
        let (hint, kept) = (AtomicUsize::new(0), Mutex::new(None));
        Self { issuer, credentials, key, origin, hint, kept }
    }

    /// The account of somebody who is signed in as an NPM user of their own, and has no secret there.
    pub fn of_person(person: Person) -> Self {
        let issuer = person.terms.service.issuer.clone();
        let secret = Secret::new(String::new());
        let credentials = Credentials { identity: person.email.clone(), secret, totp: None };
        Self::new(issuer, credentials, Origin::Person(person))
    }

    /// Who is signed in with it as an NPM user of their own.
    pub fn person(&self) -> Option<&Person> {
        match &self.origin {
            Origin::Person(person) => Some(person),
            Origin::File | Origin::HandedOver => None,
        }
    }

    /// The role that the token is to give, by what Authentik says of its user.
    pub fn wanted(&self) -> Wanted {
        self.person().map_or(Wanted::Any, |person| person.wanted)
    }
}

/// What the accounts file says of how everybody is signed in as an NPM user of their own.
pub struct Terms {
    /// The administrator's account that signs others in.
    pub service: Arc<Account>,
    /// Whether a user that NPM does not have is made.
    pub create: bool,
    /// Authentik's groups, and the role that each gives. Empty: NPM's roles are left alone.
    pub groups: Vec<(String, Role)>,
    /// Whether a user is made an administrator later than when they were made.
    pub raise: bool,
}

/// The role that Authentik's groups give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// They say nothing of roles.
    Any,
    Standard,
    /// When the user is made. One whom NPM has as a standard user stays that.
    Administrator,
    /// In any case.
    Raised,
}

/// Somebody who is signed in as an NPM user of their own.
#[derive(Debug)]
pub struct Person {
    pub terms: Arc<Terms>,
    /// Authentik's user name.
    pub user: String,
    /// In lower case, as NPM compares it at a login.
    pub email: String,
    pub name: String,
    pub wanted: Wanted,
}

impl fmt::Debug for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let service = &self.service.credentials.identity;
        f.debug_struct("Terms").field("service", service).finish_non_exhaustive()
    }
}
