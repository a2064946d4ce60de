//! What the directive means for a location.

use std::cell::{OnceCell, RefCell};
use std::ffi::c_void;
use std::rc::Rc;

use ngx::http::{Merge, MergeConfigError};

use super::bindings::ngx_uint_t;
use super::pool::OutOfMemory;
use super::request::Request;
use super::value::Value;
use super::zone::Zone;
use crate::sso::accounts::Accounts;
use crate::sso::framing::Framing;
use crate::sso::groups::Separator;
use crate::sso::known::Known;
use crate::sso::parameters::{Browser, ClientToken, OnError};
use crate::sso::variables::Set;

/// What the module knows of the whole configuration.
#[derive(Default)]
pub struct MainConf {
    pub zone: Option<Zone>,
    /// What the configuration says of the zone's size, in bytes.
    pub zone_size: Option<usize>,
    /// Every directive that is not `off`, wherever it stands.
    pub settings: Vec<Rc<Settings>>,
    pub granted: Option<Granted>,
    /// Every `auth_request_set` of the configuration.
    pub auth_request_sets: Vec<Rc<AuthRequestSet>>,
    /// The address that a connection really comes from.
    pub peer: Option<Value>,
}

/// An `auth_request_set`: by what a variable is set from Authentik's answer.
pub struct AuthRequestSet {
    /// The variable, in lowercase and without its `$`.
    pub variable: String,
    pub value: Vec<u8>,
    /// The server in which it stands. Only to be compared.
    pub server: *const c_void,
    /// File and line.
    pub place: String,
}

impl AuthRequestSet {
    /// What it says.
    pub fn text(&self) -> Set<'_> {
        Set { variable: &self.variable, value: &self.value }
    }
}

/// Where `granted.rs` finds what it needs.
#[derive(Clone, Copy)]
pub struct Granted {
    /// The index of its variable.
    pub variable: ngx_uint_t,
    /// The slot of the module that asks Authentik, where nginx has it.
    pub auth_request: Option<usize>,
}

impl MainConf {
    /// Whether the directive stands anywhere, other than `off`.
    pub fn is_in_use(&self) -> bool {
        !self.settings.is_empty()
    }
}

/// What the directive says in a location.
#[derive(Clone, Default)]
pub enum Directive {
    #[default]
    Unset,
    Off,
    On(Rc<Settings>),
}

impl Merge for Directive {
    fn merge(&mut self, outer: &Self) -> Result<(), MergeConfigError> {
        if let Self::Unset = self {
            *self = outer.clone();
        }
        Ok(())
    }
}

/// A directive that is not `off`.
pub struct Settings {
    pub zone: Zone,
    /// `None` where the accounts file could not be used when nginx started.
    pub accounts: Option<Accounts>,
    pub user: Value,
    pub credentials: Option<Value>,
    pub on_error: OnError,
    pub client_token: ClientToken,
    pub browser: Option<Browser>,
    /// Who may frame the UI: the parameter `frame_ancestors`.
    pub framing: Framing,
    pub email: Identity,
    pub groups: Identity,
    pub groups_separator: Separator,
    pub name: Identity,
    /// The markers' tokens of those whose pages have opened.
    pub markers: RefCell<Known<String, 1>>,
    /// Whether the user may be one that the client says.
    pub trust_headers: bool,
    /// The variables that the parameters name, with the parameter.
    pub variables: Vec<(&'static str, String)>,
    /// File and line.
    pub place: String,
}

impl Settings {
    /// The user's e-mail address, as far as Authentik says it.
    pub fn email<'r>(&self, request: &'r Request) -> Result<&'r [u8], OutOfMemory> {
        self.email.evaluate(request)
    }

    /// What people call the user, likewise.
    pub fn name<'r>(&self, request: &'r Request) -> Result<&'r [u8], OutOfMemory> {
        self.name.evaluate(request)
    }

    /// The variables that say who a user is, with the parameter, whether it is given or not.
    pub fn says_who(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let named = self.variables.iter().map(|(parameter, name)| (*parameter, &**name));
        let defaults = [("email", self.email.variable), ("groups", self.groups.variable)];
        let is_given = |name: &str| self.variables.iter().any(|(parameter, _)| *parameter == name);
        named.chain(defaults.into_iter().filter(move |(parameter, _)| !is_given(parameter)))
    }

    /// The user's groups, likewise.
    pub fn groups<'r>(&self, request: &'r Request) -> Result<&'r [u8], OutOfMemory> {
        self.groups.evaluate(request)
    }
}

/// A part of what Authentik says of a user. Without a parameter it is taken from a variable,
/// where the configuration has that: this is known only when all of it has been read.
pub struct Identity {
    pub variable: &'static str,
    pub value: OnceCell<Value>,
}

impl Identity {
    pub fn new(variable: &'static str, value: Option<Value>) -> Self {
        Self { variable, value: value.map_or_else(OnceCell::new, OnceCell::from) }
    }

    fn evaluate<'r>(&self, request: &'r Request) -> Result<&'r [u8], OutOfMemory> {
        match self.value.get() {
            Some(value) => value.evaluate(request).ok_or(OutOfMemory),
            None => Ok(&[]),
        }
    }
}
