//! Who there is: at Authentik, and at the two NPMs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{json, Value};
use testbed::{Npm, Outpost, Session, Visitor};

/// How long NPM takes for a login.
const LOGIN_TIME: Duration = Duration::from_millis(50);

/// How long a token of the first NPM lives: all of its life passes hundreds of times. One of the
/// second lives so long that the module must find out by itself that it is not good any more.
pub const LIFETIMES: [Duration; 2] = [Duration::from_secs(6), Duration::from_secs(150)];

/// The `timeout` of the accounts files.
pub const TIMEOUT: Duration = Duration::from_secs(3);

/// The account that signs others in, at both.
pub const SERVICE: &str = "sso@example.com";

/// Authentik's users whom the accounts file of the first NPM names, and whom they are there. The
/// first is an administrator. The last comes rarely: its token ends unused.
const NAMED: [(&str, &str); 6] = [
    ("akadmin", "admin@example.com"),
    ("bob", "bob@example.com"),
    ("carol", "carol@example.com"),
    ("dave", "dave@example.com"),
    ("guest", "guest@example.com"),
    ("rare", "rare@example.com"),
];

/// How many are their own users, at either NPM.
const PERSONS: usize = 8;

/// Those whose passwords Authentik keeps, and one for whom it keeps a wrong one.
const KEEPERS: [&str; 2] = ["keeper0@example.com", "keeper1@example.com"];
pub const WRONG: &str = "wrong@example.com";

const SECRET: &str = "a secret of theirs";

/// Authentik's groups, and what they make of a person.
const ADMINS: &str = "npm-admins";
const USERS: &str = "npm-users";

/// Where a user goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// The first NPM, by its accounts file.
    First,
    /// The second one.
    Second,
    /// The first one, by the passwords that Authentik keeps.
    Passwords,
}

impl Host {
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "npm.example.com",
            Self::Second => "second.example.com",
            Self::Passwords => "passwords.example.com",
        }
    }

    /// The number of its NPM.
    pub fn npm(self) -> usize {
        usize::from(self == Self::Second)
    }
}

/// How a user is found at NPM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// By name: the id is that at NPM.
    Name { id: u64 },
    /// By e-mail address: they are their own user.
    Address,
    /// By their password.
    Password,
    /// By one that is wrong.
    WrongPassword,
}

/// A user of Authentik's, at one host.
pub struct User {
    pub host: Host,
    pub by: By,
    /// The NPM account.
    pub identity: String,
    ticket: Arc<Mutex<Ticket>>,
}

/// With what a user comes.
#[derive(Clone)]
pub struct Ticket {
    pub session: Session,
    /// Whether the groups say that they are no administrator.
    pub is_standard: bool,
}

impl User {
    fn new(host: Host, by: By, identity: &str, session: Session) -> Self {
        let ticket = Arc::new(Mutex::new(Ticket { session, is_standard: false }));
        Self { host, by, identity: identity.to_owned(), ticket }
    }

    pub fn ticket(&self) -> Ticket {
        self.ticket.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has the groups of a person be others, from the next request on.
    pub fn set_standard(&self, outpost: &Outpost, is_standard: bool) {
        let groups = if is_standard { USERS } else { ADMINS };
        let session = person_session(outpost, &self.identity, groups);
        let mut ticket = self.ticket.lock().unwrap_or_else(PoisonError::into_inner);
        *ticket = Ticket { session, is_standard };
    }
}

pub struct People {
    pub named: Vec<User>,
    /// Those who are their own users, at the first NPM and at the second.
    pub persons: [Vec<User>; 2],
    pub keepers: Vec<User>,
    pub wrong: User,
    /// Somebody whom no account fits.
    pub stranger: Session,
}

impl People {
    /// Signs everybody in.
    pub fn sign_in(outpost: &Outpost) -> Self {
        let named = (1..).zip(NAMED).map(|(id, (name, identity))| {
            let session = outpost.sign_in(Visitor::new(name));
            User::new(Host::First, By::Name { id }, identity, session)
        });
        let person = |number: usize| {
            let identity = format!("person{number}@example.com");
            let session = person_session(outpost, &identity, ADMINS);
            User::new(Host::First, By::Address, &identity, session)
        };
        let persons: Vec<User> = (0..PERSONS).map(person).collect();
        let at_second = |person: &User| User {
            host: Host::Second,
            by: By::Address,
            identity: person.identity.clone(),
            ticket: person.ticket.clone(),
        };
        let at_second = persons.iter().map(at_second).collect();
        let keeper = |identity: &str, by, secret| {
            let visitor = Visitor::new("keeper").basic(identity, secret);
            User::new(Host::Passwords, by, identity, outpost.sign_in(visitor))
        };
        Self {
            named: named.collect(),
            keepers: KEEPERS.map(|identity| keeper(identity, By::Password, SECRET)).into(),
            wrong: keeper(WRONG, By::WrongPassword, "another"),
            stranger: outpost.sign_in(Visitor::new("stranger").groups(&["others"])),
            persons: [persons, at_second],
        }
    }
}

fn person_session(outpost: &Outpost, identity: &str, group: &str) -> Session {
    let name = identity.split('@').next().unwrap_or_default();
    outpost.sign_in(Visitor::new(name).email(identity).groups(&[group]))
}

fn npm(number: usize) -> testbed::npm::Builder {
    Npm::builder().login_time(LOGIN_TIME).token_lifetime(LIFETIMES[number])
}

/// The NPM of everybody.
pub fn first_npm() -> Npm {
    let npm = npm(0).administrator(NAMED[0].1, SECRET);
    let npm = NAMED[1..].iter().fold(npm, |npm, user| npm.user(user.1, SECRET));
    let npm = KEEPERS.iter().fold(npm, |npm, identity| npm.user(identity, SECRET));
    npm.user(WRONG, SECRET).administrator(SERVICE, SECRET).start()
}

/// The NPM of those who are their own users.
pub fn second_npm() -> Npm {
    npm(1).administrator(SERVICE, SECRET).start()
}

/// The accounts file of an NPM.
pub fn accounts(number: usize, url: &str) -> String {
    let account =
        |user: &(&str, &str)| json!({"user": user.0, "identity": user.1, "secret": SECRET});
    let accounts: Vec<Value> = match number {
        0 => NAMED.iter().map(account).collect(),
        _ => Vec::new(),
    };
    json!({
        "api": url,
        "timeout": format!("{}ms", TIMEOUT.as_millis()),
        "accounts": accounts,
        "sign_in_as": {
            "identity": SERVICE, "secret": SECRET, "create": true,
            "groups": {ADMINS: "admin", USERS: "user"},
        },
    })
    .to_string()
}
