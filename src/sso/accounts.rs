//! Accounts: which Authentik user signs in to NPM as whom.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, MapAccess};
use serde::{Deserialize, Deserializer};
use thiserror::Error;
use ureq::tls::Certificate;
use zeroize::Zeroizing;

use super::account::{Account, AccountKey, NoAccount, Origin, Terms, Visitor, TIMEOUT_MAX};
use super::file::{self, Content, FileError};
use super::groups::Separator;
use super::known::Known;
use super::npm::{self, BaseUrl, Credentials, Issuer, Role};
use super::secret::Secret;
use super::sign_in_as::SignInAs;
use super::token::Millis;
use super::totp::TotpSecret;

/// The part of what Authentik says that an account is found by.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Matcher {
    Anyone,
    User(String),
    Email(String),
    Group(String),
}

impl Matcher {
    fn fits(&self, visitor: &Visitor) -> bool {
        match self {
            Self::Anyone => true,
            // Authentik tells names apart by case too, and anybody may enrol under one that
            // differs by nothing else.
            Self::User(name) => visitor.user == name.as_bytes(),
            Self::Email(address) => visitor.email.eq_ignore_ascii_case(address.as_bytes()),
            Self::Group(name) => {
                visitor.separator.split(visitor.groups).any(|g| g == name.as_bytes())
            }
        }
    }
}

/// The accounts of one directive, in the order in which they are tried.
pub struct Accounts {
    issuer: Arc<Issuer>,
    rules: Vec<(Matcher, Arc<Account>)>,
    sign_in_as: Option<SignInAs>,
    /// Whether any account is found by e-mail address.
    pub asks_for_email: bool,
    /// Whether any account is found by group.
    pub asks_for_groups: bool,
    /// Whom an account has been found for, by all that Authentik says of them.
    visitors: RefCell<Known<Arc<Account>, 3>>,
    /// What has been handed over.
    handed_over: RefCell<Known<Arc<Account>, 1>>,
}

impl Accounts {
    /// No accounts but those that Authentik hands over, see [`Self::handed_over`].
    pub fn none(api: Option<BaseUrl>, warn: &mut dyn FnMut(String)) -> Self {
        let url = api.unwrap_or_else(|| BaseUrl::own(warn));
        let issuer = Issuer::new(url, npm::DEFAULT_TIMEOUT, Vec::new());
        Self::new(Arc::new(issuer), Vec::new(), None)
    }

    fn new(
        issuer: Arc<Issuer>,
        rules: Vec<(Matcher, Arc<Account>)>,
        sign_in_as: Option<SignInAs>,
    ) -> Self {
        let any = |is: fn(&Matcher) -> bool| rules.iter().any(|(matcher, _)| is(matcher));
        let groups = sign_in_as.as_ref().is_some_and(|own| !own.terms().groups.is_empty());
        Self {
            asks_for_email: sign_in_as.is_some() || any(|m| matches!(m, Matcher::Email(_))),
            asks_for_groups: groups || any(|m| matches!(m, Matcher::Group(_))),
            issuer,
            rules,
            sign_in_as,
            visitors: RefCell::default(),
            handed_over: RefCell::default(),
        }
    }

    /// Reads an accounts file, and the files that it names. `api` goes before the file's own, and
    /// `separator` is what no group's name can hold.
    /// `warn` is told of files that others can read or change, and the like.
    ///
    /// # Errors
    ///
    /// See [`AccountsError`].
    pub fn load(
        path: &Path,
        api: Option<BaseUrl>,
        separator: Separator,
        warn: &mut dyn FnMut(String),
    ) -> Result<Self, AccountsError> {
        // Now, for at a later reading it may be gone.
        npm::admin_port();
        let text = file::read(path, Content::Secret, warn).map_err(AccountsError::Read)?;
        Self::read(&text, path, api, separator, warn)
    }

    /// The same, of a text that has been read from there.
    ///
    /// # Errors
    ///
    /// As [`Self::load`].
    pub fn read(
        text: &[u8],
        path: &Path,
        api: Option<BaseUrl>,
        separator: Separator,
        warn: &mut dyn FnMut(String),
    ) -> Result<Self, AccountsError> {
        let file: AccountsFile = serde_json::from_slice(text)
            .map_err(|error| AccountsError::Content(path.to_owned(), without_value(&error)))?;

        let folder = path.parent().unwrap_or(Path::new("/"));
        let certificates = match &file.ca_file {
            Some(name) => read_certificates(&folder.join(name), warn)?,
            None => Vec::new(),
        };
        let url = api.or(file.api).unwrap_or_else(|| BaseUrl::own(warn));
        let timeout = file.timeout.map_or(npm::DEFAULT_TIMEOUT, |timeout| timeout.0);
        let issuer = Arc::new(Issuer::new(url, timeout, certificates));

        let mut credentials = |written: WrittenCredentials| {
            let secret = match written.secret {
                SecretSource::Inline(secret) => secret,
                SecretSource::File(name) => read_secret(&folder.join(name), warn)?,
            };
            let totp = match written.totp {
                Some(TotpSource::Inline(totp)) => Some(totp),
                Some(TotpSource::File(name)) => Some(read_totp(&folder.join(name), warn)?),
                None => None,
            };
            Ok::<_, AccountsError>(Credentials { identity: written.identity, secret, totp })
        };
        let check_group = |name: &str| match name.as_bytes().contains(&separator.byte()) {
            true => Err(AccountsError::Group(path.to_owned(), name.to_owned(), separator)),
            false => Ok(()),
        };
        let account =
            |credentials| Arc::new(Account::new(issuer.clone(), credentials, Origin::File));
        let mut rules = Vec::with_capacity(file.accounts.len());
        for entry in file.accounts {
            if let Matcher::Group(name) = &entry.matcher {
                check_group(name)?;
            }
            rules.push((entry.matcher, account(credentials(entry.credentials)?)));
        }
        let sign_in_as = match file.sign_in_as {
            Some(written) => {
                written.groups.iter().try_for_each(|(name, _)| check_group(name))?;
                let service = account(credentials(written.credentials)?);
                let WrittenSignInAs { create, groups, raise, .. } = written;
                Some(SignInAs::new(Terms { service, create, groups, raise }))
            }
            None => None,
        };
        Ok(Self::new(issuer, rules, sign_in_as))
    }

    /// The account of a visitor: the first that fits, else one of their own. `name` is what people call
    /// them, which is asked for once.
    ///
    /// # Errors
    ///
    /// Those of `name`.
    #[inline(always)]
    pub fn find<'a, E>(
        &self,
        visitor: Visitor,
        name: impl FnOnce() -> Result<&'a [u8], E>,
        now: Millis,
    ) -> Result<Result<Arc<Account>, NoAccount>, E> {
        let Visitor { user, email, groups, .. } = visitor;
        let known = self.visitors.borrow_mut().find([user, email, groups], now);
        match known {
            Some(account) => Ok(Ok(account)),
            None => self.find_anew(visitor, name, now),
        }
    }

    #[inline(never)]
    fn find_anew<'a, E>(
        &self,
        visitor: Visitor,
        name: impl FnOnce() -> Result<&'a [u8], E>,
        now: Millis,
    ) -> Result<Result<Arc<Account>, NoAccount>, E> {
        let rule = self.rules.iter().find(|(matcher, _)| matcher.fits(&visitor));
        let found = match (rule, &self.sign_in_as) {
            (Some((_, account)), _) => Ok(account.clone()),
            (None, Some(sign_in_as)) => sign_in_as.find(&visitor, name)?,
            (None, None) => Err(NoAccount::NoneFits),
        };
        if let Ok(account) = &found {
            let Visitor { user, email, groups, .. } = visitor;
            self.visitors.borrow_mut().add([user, email, groups], account.clone(), now);
        }
        Ok(found)
    }

    /// Whether an account of this key is among them.
    pub fn name(&self, key: &AccountKey) -> bool {
        let service = self.sign_in_as.iter().map(|sign_in_as| &sign_in_as.terms().service);
        let mut all = self.rules.iter().map(|(_, account)| account).chain(service);
        all.any(|account| account.key == *key)
    }

    /// How those are signed in whom no account fits.
    pub fn sign_in_as(&self) -> Option<&SignInAs> {
        self.sign_in_as.as_ref()
    }

    /// The account that Authentik itself hands over, as `Basic …` (RFC 7617), when it is set to
    /// send HTTP-Basic authentication. `None` for a value that is not of this form.
    pub fn handed_over(&self, basic: &[u8], now: Millis) -> Option<Arc<Account>> {
        let known = self.handed_over.borrow_mut().find([basic], now);
        known.or_else(|| {
            let account = Arc::new(self.read_handed_over(basic)?);
            self.handed_over.borrow_mut().add([basic], account.clone(), now);
            Some(account)
        })
    }

    fn read_handed_over(&self, basic: &[u8]) -> Option<Account> {
        let (scheme, encoded) = basic.split_at_checked("Basic ".len())?;
        if !scheme.eq_ignore_ascii_case(b"Basic ") {
            return None;
        }
        let pair = Zeroizing::new(STANDARD.decode(encoded).ok()?);
        let (identity, secret) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
        if identity.is_empty() || secret.is_empty() {
            return None;
        }
        let identity = identity.to_owned();
        let secret = Secret::new(secret.to_owned());
        let credentials = Credentials { identity, secret, totp: None };
        Some(Account::new(self.issuer.clone(), credentials, Origin::HandedOver))
    }
}

/// What is wrong with an accounts file.
#[derive(Debug, Error)]
pub enum AccountsError {
    #[error("cannot read {0}{mend}", mend = mend(.0))]
    Read(FileError),
    #[error("\"{}\": {}", .0.display(), .1)]
    Content(PathBuf, String),
    #[error(
        "\"{}\": \"group\" is one group, and \"{separator}\" separates groups: \"{name}\"",
        .0.display(), name = .1, separator = char::from(.2.byte())
    )]
    Group(PathBuf, String, Separator),
    #[error("cannot read secret_file {0}")]
    SecretFile(FileError),
    #[error("cannot read secret_file \"{}\": {}", .0.display(), .1)]
    NoSecret(PathBuf, &'static str),
    #[error("cannot read totp_secret_file {0}")]
    TotpFile(FileError),
    #[error("cannot read totp_secret_file \"{}\": {}", .0.display(), .1)]
    NoTotp(PathBuf, &'static str),
    #[error("cannot use ca_file {0}")]
    CaFile(FileError),
    #[error("cannot use ca_file \"{}\": {}", .0.display(), .1)]
    NoCertificate(PathBuf, String),
}

impl AccountsError {
    /// Whether the accounts file itself does not exist.
    pub fn is_missing_file(&self) -> bool {
        matches!(self, Self::Read(error) if error.is_missing())
    }
}

/// What to do about an accounts file that is not there.
fn mend(error: &FileError) -> &'static str {
    match error.is_missing() {
        true => "; create it, or give its path in the directive",
        false => "",
    }
}

/// What serde says, but for a text that stands where none belongs: it may be a secret.
fn without_value(error: &serde_json::Error) -> String {
    let message = error.to_string();
    match (message.split_once(": string \""), message.rsplit_once("\", expected ")) {
        (Some((what, _)), Some((_, expected))) => format!("{what}: string, expected {expected}"),
        _ => message,
    }
}

/// The accounts file as it is written.
struct AccountsFile {
    api: Option<BaseUrl>,
    ca_file: Option<PathBuf>,
    timeout: Option<Timeout>,
    accounts: Vec<Entry>,
    sign_in_as: Option<WrittenSignInAs>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAccountsFile {
    api: Option<BaseUrl>,
    ca_file: Option<PathBuf>,
    timeout: Option<Timeout>,
    accounts: Option<Vec<Entry>>,
    sign_in_as: Option<WrittenSignInAs>,
}

impl<'de> Deserialize<'de> for AccountsFile {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object::<RawAccountsFile, Self, D>(deserializer)
    }
}

impl TryFrom<RawAccountsFile> for AccountsFile {
    type Error = &'static str;

    fn try_from(raw: RawAccountsFile) -> Result<Self, Self::Error> {
        let RawAccountsFile { api, ca_file, timeout, accounts, sign_in_as } = raw;
        match (accounts, &sign_in_as) {
            (None, None) => Err("missing field `accounts`, or `sign_in_as`"),
            (accounts, _) => {
                let accounts = accounts.unwrap_or_default();
                Ok(Self { api, ca_file, timeout, accounts, sign_in_as })
            }
        }
    }
}

/// One of `accounts`.
struct Entry {
    matcher: Matcher,
    credentials: WrittenCredentials,
}

/// The object `sign_in_as`.
struct WrittenSignInAs {
    credentials: WrittenCredentials,
    create: bool,
    groups: Vec<(String, Role)>,
    raise: bool,
}

/// With what an account logs in.
struct WrittenCredentials {
    identity: String,
    secret: SecretSource,
    totp: Option<TotpSource>,
}

enum SecretSource {
    Inline(Secret),
    File(PathBuf),
}

enum TotpSource {
    Inline(TotpSecret),
    File(PathBuf),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    user: Option<String>,
    email: Option<String>,
    group: Option<String>,
    identity: String,
    secret: Option<Secret>,
    secret_file: Option<PathBuf>,
    totp_secret: Option<TotpSecret>,
    totp_secret_file: Option<PathBuf>,
}

/// Reads a value that is written as an object, and makes what it means of it. Serde would take a
/// list of the fields' values as well, and would name the place of whatever comes next.
fn object<'de, Raw, T, D>(deserializer: D) -> Result<T, D::Error>
where
    Raw: Deserialize<'de>,
    T: TryFrom<Raw, Error: fmt::Display>,
    D: Deserializer<'de>,
{
    struct Fields<Raw, T>(PhantomData<(Raw, T)>);

    impl<'de, Raw, T> de::Visitor<'de> for Fields<Raw, T>
    where
        Raw: Deserialize<'de>,
        T: TryFrom<Raw, Error: fmt::Display>,
    {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            let raw = Raw::deserialize(MapAccessDeserializer::new(map))?;
            T::try_from(raw).map_err(de::Error::custom)
        }
    }

    deserializer.deserialize_map(Fields(PhantomData))
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object::<RawEntry, Self, D>(deserializer)
    }
}

impl TryFrom<RawEntry> for Entry {
    type Error = &'static str;

    fn try_from(raw: RawEntry) -> Result<Self, Self::Error> {
        let matcher = match (raw.user, raw.email, raw.group) {
            (Some(user), None, None) if user == "*" => Matcher::Anyone,
            (Some(user), None, None) => Matcher::User(user),
            (None, Some(email), None) => Matcher::Email(email),
            (None, None, Some(group)) => Matcher::Group(group),
            _ => return Err("an account needs exactly one of \"user\", \"email\" and \"group\""),
        };
        match &matcher {
            // An empty name would fit whoever has none.
            Matcher::User(name) | Matcher::Email(name) | Matcher::Group(name)
                if name.is_empty() =>
            {
                return Err("\"user\", \"email\" and \"group\" cannot be empty");
            }
            _ => {}
        }
        let secret = (raw.secret, raw.secret_file);
        let totp = (raw.totp_secret, raw.totp_secret_file);
        let credentials = WrittenCredentials::new(raw.identity, secret, totp)?;
        Ok(Self { matcher, credentials })
    }
}

impl WrittenCredentials {
    /// Makes them of the keys that an account has, wherever it stands.
    fn new(
        identity: String,
        secret: (Option<Secret>, Option<PathBuf>),
        totp: (Option<TotpSecret>, Option<PathBuf>),
    ) -> Result<Self, &'static str> {
        if identity.is_empty() {
            return Err("\"identity\" is empty");
        }
        let secret = match secret {
            (Some(secret), None) => SecretSource::Inline(secret),
            (None, Some(name)) => SecretSource::File(name),
            _ => return Err("an account needs exactly one of \"secret\" and \"secret_file\""),
        };
        let totp = match totp {
            (None, None) => None,
            (Some(totp), None) => Some(TotpSource::Inline(totp)),
            (None, Some(name)) => Some(TotpSource::File(name)),
            _ => {
                return Err("an account has only one of \"totp_secret\" and \"totp_secret_file\"");
            }
        };
        Ok(Self { identity, secret, totp })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSignInAs {
    identity: String,
    secret: Option<Secret>,
    secret_file: Option<PathBuf>,
    totp_secret: Option<TotpSecret>,
    totp_secret_file: Option<PathBuf>,
    #[serde(default)]
    create: bool,
    groups: Option<BTreeMap<String, RoleName>>,
    #[serde(default)]
    raise: bool,
}

/// A role, as the accounts file names it.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RoleName {
    Admin,
    User,
}

impl<'de> Deserialize<'de> for WrittenSignInAs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object::<RawSignInAs, Self, D>(deserializer)
    }
}

impl TryFrom<RawSignInAs> for WrittenSignInAs {
    type Error = &'static str;

    fn try_from(raw: RawSignInAs) -> Result<Self, Self::Error> {
        let secret = (raw.secret, raw.secret_file);
        let totp = (raw.totp_secret, raw.totp_secret_file);
        let credentials = WrittenCredentials::new(raw.identity, secret, totp)?;
        let groups = match raw.groups {
            // It would shut everybody out.
            Some(groups) if groups.is_empty() => return Err("\"groups\" names no group"),
            groups => groups.unwrap_or_default(),
        };
        if groups.keys().any(String::is_empty) {
            return Err("a group's name cannot be empty");
        }
        if raw.raise && groups.is_empty() {
            return Err("\"raise\" needs \"groups\"");
        }
        let role = |role| match role {
            RoleName::Admin => Role::Administrator,
            RoleName::User => Role::Standard,
        };
        let groups = groups.into_iter().map(|(name, named)| (name, role(named))).collect();
        Ok(Self { credentials, create: raw.create, groups, raise: raw.raise })
    }
}

/// A span of time as nginx writes it: a number with `ms`, `s` or `m`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
struct Timeout(Duration);

impl TryFrom<String> for Timeout {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit);
        let span = number.parse::<u32>().ok().and_then(|n| match unit {
            "ms" => Some(Duration::from_millis(n.into())),
            "s" | "" => Some(Duration::from_secs(n.into())),
            "m" => Some(Duration::from_secs(u64::from(n) * 60)),
            _ => None,
        });
        match span {
            Some(span) if !span.is_zero() && span <= TIMEOUT_MAX => Ok(Self(span)),
            _ => Err(format!("timeout \"{text}\" is not a time from \"1ms\" to \"1m\"")),
        }
    }
}

/// Reads a file that holds one secret, which a line end may follow.
fn read_secret(path: &Path, warn: &mut dyn FnMut(String)) -> Result<Secret, AccountsError> {
    let fail = |why| AccountsError::NoSecret(path.to_owned(), why);
    let content = file::read(path, Content::Secret, warn).map_err(AccountsError::SecretFile)?;
    let text = std::str::from_utf8(&content).map_err(|_| fail("it is not UTF-8"))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(fail("it is empty")),
        secret => Ok(Secret::new(secret.to_owned())),
    }
}

/// Reads a file that holds what two-factor codes are made of.
fn read_totp(path: &Path, warn: &mut dyn FnMut(String)) -> Result<TotpSecret, AccountsError> {
    let fail = |why| AccountsError::NoTotp(path.to_owned(), why);
    let content = file::read(path, Content::Secret, warn).map_err(AccountsError::TotpFile)?;
    let text = std::str::from_utf8(&content).map_err(|_| fail("it is not UTF-8"))?;
    TotpSecret::parse(text).map_err(fail)
}

fn read_certificates(
    path: &Path,
    warn: &mut dyn FnMut(String),
) -> Result<Vec<Certificate<'static>>, AccountsError> {
    let pem = file::read(path, Content::Public, warn).map_err(AccountsError::CaFile)?;
    npm::parse_certificates(&pem).map_err(|why| AccountsError::NoCertificate(path.to_owned(), why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AccountsFile, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    fn accounts(entries: &str) -> Accounts {
        let issuer = Accounts::none(None, &mut |_| ()).issuer;
        let file = parse(&format!(r#"{{"accounts": [{entries}]}}"#)).unwrap();
        let rules = file.accounts.into_iter().map(|entry| {
            let secret = Secret::new("secret".to_owned());
            let credentials =
                Credentials { identity: entry.credentials.identity, secret, totp: None };
            (entry.matcher, Arc::new(Account::new(issuer.clone(), credentials, Origin::File)))
        });
        Accounts::new(issuer.clone(), rules.collect(), None)
    }

    fn found(accounts: &Accounts, user: &str, email: &str, groups: &str) -> Option<String> {
        let visitor = Visitor {
            user: user.as_bytes(),
            email: email.as_bytes(),
            groups: groups.as_bytes(),
            separator: Separator::Bar,
        };
        let found = accounts.find(visitor, || Ok::<_, ()>(b""), 0).unwrap();
        found.ok().map(|account| account.credentials.identity.clone())
    }

    #[test]
    fn the_first_account_that_fits_wins() {
        let accounts = accounts(
            r#"{"user": "akadmin", "identity": "first", "secret": "s"},
               {"group": "npm-admins", "identity": "second", "secret": "s"},
               {"email": "bob@example.com", "identity": "third", "secret": "s"},
               {"user": "*", "identity": "last", "secret": "s"}"#,
        );
        assert_eq!(found(&accounts, "akadmin", "", "npm-admins").as_deref(), Some("first"));
        assert_eq!(found(&accounts, "eve", "", "a|npm-admins|b").as_deref(), Some("second"));
        assert_eq!(found(&accounts, "bob", "bob@example.com", "").as_deref(), Some("third"));
        assert_eq!(found(&accounts, "eve", "", "").as_deref(), Some("last"));
        assert!(accounts.asks_for_email && accounts.asks_for_groups);
    }

    #[test]
    fn user_and_group_match_exactly_and_email_without_regard_to_case() {
        let accounts = accounts(
            r#"{"user": "AkAdmin", "identity": "user", "secret": "s"},
               {"email": "Bob@Example.com", "identity": "email", "secret": "s"},
               {"group": "NPM admins", "identity": "group", "secret": "s"}"#,
        );
        assert_eq!(found(&accounts, "AkAdmin", "", "").as_deref(), Some("user"));
        for user in ["akadmin", "AKADMIN", "aKaDMIN", "AkAdmin ", "AkAdmi", ""] {
            assert_eq!(found(&accounts, user, "", ""), None, "{user}");
        }
        assert_eq!(found(&accounts, "x", "bOB@eXAMPLE.COM", "").as_deref(), Some("email"));
        assert_eq!(found(&accounts, "x", "", "NPM admins").as_deref(), Some("group"));
        for groups in ["npm admins", "NPM admins2", "NPM", "NPM admins |", "", "|"] {
            assert_eq!(found(&accounts, "x", "", groups), None, "{groups}");
        }
    }

    #[test]
    fn an_address_that_only_unicode_folds_to_another_is_another_address() {
        let accounts = accounts(r#"{"email": "sk@example.com", "identity": "i", "secret": "s"}"#);
        assert!(found(&accounts, "x", "SK@example.com", "").is_some());
        assert_eq!(found(&accounts, "x", "s\u{212a}@example.com", ""), None);
        assert_eq!(found(&accounts, "x", "\u{17f}k@example.com", ""), None);
    }

    #[test]
    fn what_is_wrong_is_said_with_line_and_column() {
        let entry = |fields: &str| format!("{{\n \"accounts\": [\n  {{{fields}}}\n ]\n}}");
        let sign_in_as =
            |more: &str| format!("{{\n \"sign_in_as\": {{\"identity\": \"i\"{more}}}\n}}");
        for (text, message) in [
            ("{".to_owned(), "EOF while parsing an object at line 1 column 1"),
            ("{\"accounts\": []}x".to_owned(), "trailing characters at line 1 column 17"),
            ("{\"acounts\": []}".to_owned(), "unknown field `acounts`"),
            ("{}".to_owned(), "missing field `accounts`"),
            ("{\"accounts\": {}}".to_owned(), "invalid type: map, expected a sequence"),
            ("{\"accounts\": [], \"api\": 81}".to_owned(), "expected a string at line 1 column 26"),
            ("{\"accounts\": [], \"api\": \"npm:81\"}".to_owned(), "does not begin with http://"),
            ("{\"accounts\": [], \"timeout\": \"5h\"}".to_owned(), "from \"1ms\" to \"1m\""),
            ("{\"accounts\": [], \"timeout\": \"0s\"}".to_owned(), "from \"1ms\" to \"1m\""),
            ("{\"accounts\": [], \"sign_in_as\": {}}".to_owned(), "missing field `identity`"),
            ("{\"accounts\": [], \"sign_in_as\": []}".to_owned(), "expected an object"),
            (sign_in_as(""), "exactly one of \"secret\""),
            (sign_in_as(r#", "secret": "s", "create": 1"#), "expected a boolean"),
            (sign_in_as(r#", "secret": "s", "groups": {}"#), "names no group"),
            (sign_in_as(r#", "secret": "s", "groups": {"": "user"}"#), "cannot be empty"),
            (sign_in_as(r#", "secret": "s", "groups": {"a": "root"}"#), "`admin` or `user`"),
            (sign_in_as(r#", "secret": "s", "raise": true"#), "\"raise\" needs \"groups\""),
            (sign_in_as(r#", "secret": "s", "user": "x""#), "unknown field `user`"),
            (entry(r#""user": "a", "identity": "i""#), "exactly one of \"secret\""),
            (
                entry(r#""user": "a", "identity": "i", "secret": "s", "secret_file": "f""#),
                "exactly one of \"secret\" and \"secret_file\" at line",
            ),
            (entry(r#""user": "a", "secret": "s""#), "missing field `identity` at line"),
            (entry(r#""identity": "i", "secret": "s""#), "exactly one of \"user\""),
            (
                entry(r#""user": "a", "group": "g", "identity": "i", "secret": "s""#),
                "exactly one of \"user\"",
            ),
            (entry(r#""user": "", "identity": "i", "secret": "s""#), "cannot be empty"),
            (entry(r#""user": "a", "identity": "", "secret": "s""#), "\"identity\" is empty"),
            (entry(r#""user": "a", "identity": "i", "secret": """#), "the secret is empty"),
            (entry(r#""user": "a", "identity": "i", "secret": 12345"#), "must be a string"),
            (entry(r#""user": "a", "user": "b", "identity": "i""#), "duplicate field `user`"),
            (
                entry(r#""user": "a", "identity": "i", "secret": "s", "totp_secret": "B1""#),
                "totp_secret: it is not base32",
            ),
            (
                entry(r#""user": "a", "identity": "i", "secret": "s", "totp_secret": 12345"#),
                "must be a string",
            ),
            (
                entry(
                    r#""user": "a", "identity": "i", "secret": "s", "totp_secret": "GEZDGNBV",
                       "totp_secret_file": "f""#,
                ),
                "only one of \"totp_secret\" and \"totp_secret_file\"",
            ),
        ] {
            let error = parse(&text).err().expect(&text);
            assert!(error.contains(message), "{text}\n{error}");
            assert!(error.contains(" at line ") && error.contains(" column "), "{error}");
            assert!(!error.contains("12345"), "{error}");
        }
    }

    #[test]
    fn a_changed_secret_is_another_account() {
        let account = |identity: &str, secret: &str| {
            let pair = STANDARD.encode(format!("{identity}:{secret}"));
            Accounts::none(None, &mut |_| ())
                .handed_over(format!("Basic {pair}").as_bytes(), 0)
                .unwrap()
        };
        assert_eq!(account("a@b.c", "one").key, account("a@b.c", "one").key);
        assert_ne!(account("a@b.c", "one").key, account("a@b.c", "two").key);
        assert_ne!(account("a@b.co", "ne").key, account("a@b.c", "one").key);
    }

    #[test]
    fn credentials_that_authentik_hands_over_are_read_as_basic_authentication() {
        let accounts = Accounts::none(None, &mut |_| ());
        let account = accounts.handed_over(b"Basic YUBiLmM6c2U6Y3JldA==", 0).unwrap();
        assert_eq!(account.credentials.identity, "a@b.c");
        assert_eq!(account.credentials.secret.expose(), "se:cret");
        for wrong in ["", "Basic", "Basic ", "Basic !", "Bearer YUBiLmM6c2U6Y3JldA==", "YTpi"] {
            assert!(accounts.handed_over(wrong.as_bytes(), 0).is_none(), "{wrong}");
        }
        // "user:" and ":secret"
        assert!(accounts.handed_over(b"Basic dXNlcjo=", 0).is_none());
        assert!(accounts.handed_over(b"Basic OnNlY3JldA==", 0).is_none());
        // What has been read is known again.
        let again = accounts.handed_over(b"Basic YUBiLmM6c2U6Y3JldA==", 0).unwrap();
        assert!(Arc::ptr_eq(&account, &again));
    }

    #[test]
    fn times_are_written_as_nginx_writes_them() {
        let time = |text: &str| Timeout::try_from(text.to_owned()).map(|timeout| timeout.0);
        assert_eq!(time("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(time("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(time("1m"), Ok(Duration::from_secs(60)));
        for wrong in ["", "s", "-1s", "1.5s", "61s", "2m", "5 s", "99999999999s"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
