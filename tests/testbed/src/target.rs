//! The NPM that a test runs against: a real one, or the small one of this crate.

use std::env;

use crate::client::Client;
use crate::npm::Npm;

/// A running NPM, and an administrator of it.
pub struct Target {
    /// `http://HOST:PORT`.
    pub url: String,
    pub identity: String,
    pub secret: String,
    /// The small one, where that is it.
    pub stand_in: Option<Npm>,
}

impl Target {
    /// The NPM at `$TEST_NPM`, with the administrator `$TEST_NPM_IDENTITY` and its
    /// `$TEST_NPM_SECRET`; where that is not set, a small one, which is started.
    ///
    /// # Panics
    ///
    /// When only some of the three are set.
    pub fn from_environment() -> Self {
        Self::from_variables(["TEST_NPM", "TEST_NPM_IDENTITY", "TEST_NPM_SECRET"])
    }

    /// As [`Self::from_environment`], by variables of other names.
    ///
    /// # Panics
    ///
    /// When only some of the three are set.
    pub fn from_variables([url, identity, secret]: [&str; 3]) -> Self {
        let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
        let Some(address) = variable(url) else {
            let npm = Npm::start();
            let identity = "admin@example.com".to_owned();
            let secret = npm.secret(&identity);
            return Self { url: npm.url(), identity, secret, stand_in: Some(npm) };
        };
        let needed = |name: &str| {
            variable(name).unwrap_or_else(|| panic!("{url} needs {name}, of an NPM account"))
        };
        Self {
            url: address.trim_end_matches('/').to_owned(),
            identity: needed(identity),
            secret: needed(secret),
            stand_in: None,
        }
    }

    /// A client that talks to NPM directly.
    pub fn client(&self) -> Client {
        Client::new(&self.url)
    }
}
