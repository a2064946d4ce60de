//! Every Authentik user is their own NPM user: one administrator's account at NPM, the service account,
//! signs each in as the NPM user with the same e-mail address, as NPM's own "Sign in as" does.
//!
//! What NPM's API does was observed on 2.15.1: it checks no duplicates, and an e-mail address is its
//! user's own claim (`PUT /api/users/me`).

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use percent_encoding::{utf8_percent_encode, NON_ALPHANUMERIC};
use serde::{Deserialize, Serialize};

use super::account::{Account, NoAccount, Person, Terms, Visitor, Wanted};
use super::npm::{role_of, Issuer, LoginError, Role};
use super::token::Token;

/// How long names may be, in characters: as long as NPM's own form lets them be.
const NAME_MAX: usize = 50;
const NICKNAME_MAX: usize = 30;

/// The longest address (RFC 5321, 4.5.3.1.3).
const EMAIL_MAX: usize = 254;

/// How people are signed in.
pub struct SignInAs {
    terms: Arc<Terms>,
}

impl SignInAs {
    pub fn new(terms: Terms) -> Self {
        Self { terms: Arc::new(terms) }
    }

    /// What the accounts file says.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The account of a visitor. `name` is what people call them.
    ///
    /// # Errors
    ///
    /// Those of `name`.
    pub fn find<'a, E>(
        &self,
        visitor: &Visitor,
        name: impl FnOnce() -> Result<&'a [u8], E>,
    ) -> Result<Result<Arc<Account>, NoAccount>, E> {
        let Some(wanted) = self.wanted(visitor) else {
            return Ok(Err(NoAccount::ShutOut));
        };
        let Some(email) = address(visitor.email) else {
            return Ok(Err(NoAccount::NoAddress));
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (user, name) = (text(visitor.user), text(name()?));
        let person = Person { terms: self.terms.clone(), user, email, name, wanted };
        Ok(Ok(Arc::new(Account::of_person(person))))
    }

    /// The strongest role that a visitor's groups give; `None` for who is in none of them.
    fn wanted(&self, visitor: &Visitor) -> Option<Wanted> {
        if self.terms.groups.is_empty() {
            return Some(Wanted::Any);
        }
        let mut wanted = None;
        for group in visitor.separator.split(visitor.groups) {
            match self.terms.groups.iter().find(|(name, _)| name.as_bytes() == group) {
                Some((_, Role::Administrator)) if self.terms.raise => return Some(Wanted::Raised),
                Some((_, Role::Administrator)) => return Some(Wanted::Administrator),
                Some((_, Role::Standard)) => wanted = Some(Wanted::Standard),
                None => {}
            }
        }
        wanted
    }
}

/// An e-mail address in lower case; `None` for what is no address, or not one. Of letters, only ASCII's:
/// others look alike, and are compared in more ways than one.
fn address(text: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(text).ok()?;
    let (local, domain) = text.split_once('@')?;
    let is_local = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~.".contains(&b);
    let is_domain = |b: u8| b.is_ascii_alphanumeric() || b"-.".contains(&b);
    let is_address = text.len() <= EMAIL_MAX
        && !local.is_empty()
        && !domain.is_empty()
        && local.bytes().all(is_local)
        && domain.bytes().all(is_domain);
    is_address.then(|| text.to_ascii_lowercase())
}

/// What was done at NPM beside signing in, or should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// The user was made.
    Made(Role),
    /// The user is no administrator any more.
    Demoted,
    /// The user was made an administrator.
    Raised,
    /// The groups make the user an administrator, and NPM's administrators have not.
    ToBeRaised,
    /// NPM did not take the visibility that goes with the role.
    VisibilityKept,
}

/// A token of a person's NPM user.
pub struct SignedIn {
    pub token: Token,
    pub role: Role,
}

/// An NPM user, as NPM lists them.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    pub id: u64,
    pub email: String,
    #[serde(default)]
    roles: Vec<String>,
    #[serde(default)]
    is_disabled: Flag,
}

/// NPM's older versions, and its databases, have numbers for truth.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(untagged)]
enum Flag {
    Number(u8),
    Bool(bool),
    #[default]
    None,
}

impl Flag {
    fn is_set(self) -> bool {
        matches!(self, Self::Bool(true) | Self::Number(1..))
    }
}

impl User {
    fn role(&self) -> Role {
        role_of(&self.roles)
    }
}

/// The calls of one sign-in, which together take no longer than the issuer's timeout.
struct Flow<'a> {
    issuer: &'a Issuer,
    /// The service account's token, as an `Authorization`.
    service: &'a str,
    person: &'a Person,
    deeds: &'a mut Vec<Deed>,
}

/// Signs a person in, with the token of the service account. Blocks, up to the timeout. What is done
/// at NPM meanwhile is added to `deeds`, also where the sign-in fails then.
///
/// # Errors
///
/// As [`Issuer::log_in`]; [`LoginError::ServiceToken`] where NPM does not take that token.
pub fn sign_in(
    issuer: &Issuer,
    service: &str,
    person: &Person,
    deeds: &mut Vec<Deed>,
) -> Result<SignedIn, LoginError> {
    issuer.begin();
    Flow { issuer, service, person, deeds }.run()
}

impl Flow<'_> {
    fn run(mut self) -> Result<SignedIn, LoginError> {
        if self.has_address_of_service() {
            return Err(LoginError::ServiceUser);
        }
        for is_last in [false, true] {
            let mut user = self.user()?;
            if user.is_disabled.is_set() {
                return Err(LoginError::Disabled);
            }
            if self.is_service(&user)? {
                return Err(LoginError::ServiceUser);
            }
            self.set_role(&mut user)?;
            if let Some(token) = self.log_in_as(&user, is_last)? {
                return Ok(SignedIn { token, role: user.role() });
            }
        }
        Err(LoginError::NoUser)
    }

    /// Whether the person's address is the service account's: nobody is signed in as that one.
    fn has_address_of_service(&self) -> bool {
        let service = &self.person.terms.service.credentials.identity;
        service.eq_ignore_ascii_case(&self.person.email)
    }

    /// Whether a user is the service account, whose address may have been changed since it logged in.
    /// So NPM always has an administrator left: the account that takes the role from others.
    fn is_service(&self, user: &User) -> Result<bool, LoginError> {
        if user.role() != Role::Administrator {
            return Ok(false);
        }
        let service = self.issuer.me(self.service)?.ok_or(LoginError::ServiceToken)?;
        let id = service.id.ok_or(LoginError::NotUsers)?;
        Ok(user.id == id)
    }

    /// The one user with the person's address, who is made if need be.
    fn user(&mut self) -> Result<User, LoginError> {
        /// How often one looks again for several users, of whom others of this module's take theirs away.
        const LOOKS: u32 = 5;
        const PAUSE: Duration = Duration::from_millis(100);

        let create = self.person.terms.create;
        for look in 1..=LOOKS {
            let mut users = self.find()?;
            match (users.len(), create) {
                (1, _) => return Ok(users.remove(0)),
                (0, false) => return Err(LoginError::NoUser),
                (0, true) => return self.make(),
                (_, true) if look < LOOKS => thread::sleep(PAUSE),
                _ => break,
            }
        }
        Err(LoginError::SeveralUsers)
    }

    /// The users with the person's address, the oldest first. NPM looks for a part of the name or the
    /// address, with `%` and `_` for anything.
    fn find(&self) -> Result<Vec<User>, LoginError> {
        let query = utf8_percent_encode(&self.person.email, NON_ALPHANUMERIC);
        let path = format!("/api/users?query={query}");
        let users = match self.issuer.list(&path, self.service)? {
            (200, answer) => answer,
            (status, _) => return Err(self.refused(status)),
        };
        users_with(&self.person.email, &users)
    }

    /// Makes the user. Others may do so at the same time, and NPM lets them: of several the oldest stays,
    /// and the one that was just made goes.
    fn make(&mut self) -> Result<User, LoginError> {
        #[derive(Serialize)]
        struct NewUser<'a> {
            name: &'a str,
            nickname: &'a str,
            email: &'a str,
            roles: &'a [&'a str],
            is_disabled: bool,
        }
        let Person { user, email, name, wanted, .. } = self.person;
        let role = match wanted {
            Wanted::Administrator | Wanted::Raised => Role::Administrator,
            Wanted::Any | Wanted::Standard => Role::Standard,
        };
        let new = NewUser {
            name: first_of([name, user, email], NAME_MAX),
            nickname: first_of([user, name, email], NICKNAME_MAX),
            email,
            roles: roles(role),
            is_disabled: false,
        };
        let made: User = match self.issuer.post_with("/api/users", self.service, &new)? {
            (200 | 201, answer) => {
                serde_json::from_slice(&answer).map_err(|_| LoginError::NotUsers)?
            }
            (status, _) => return Err(self.refused(status)),
        };
        let users = self.find()?;
        let Some(oldest) = users.first().filter(|oldest| oldest.id < made.id) else {
            self.deeds.push(Deed::Made(role));
            return Ok(made);
        };
        let path = format!("/api/users/{}", made.id);
        match self.issuer.delete(&path, self.service)? {
            // Gone is gone, whoever took it away.
            (200 | 404, _) => Ok(oldest.clone()),
            (status, _) => Err(self.refused(status)),
        }
    }

    /// Takes a role away that the groups no longer give, or gives one where that is asked for.
    fn set_role(&mut self, user: &mut User) -> Result<(), LoginError> {
        let (role, visibility, deed) = match (self.person.wanted, user.role()) {
            (Wanted::Standard, Role::Administrator) => (Role::Standard, "user", Deed::Demoted),
            // An address is its user's own claim: whoever takes that of an administrator-to-be would
            // be made one.
            (Wanted::Administrator, Role::Standard) => {
                self.deeds.push(Deed::ToBeRaised);
                return Ok(());
            }
            (Wanted::Raised, Role::Standard) => (Role::Administrator, "all", Deed::Raised),
            _ => return Ok(()),
        };
        #[derive(Serialize)]
        struct Roles<'a> {
            roles: &'a [&'a str],
        }
        #[derive(Serialize)]
        struct Permissions<'a> {
            visibility: &'a str,
        }
        let path = format!("/api/users/{}", user.id);
        let permissions = format!("{path}/permissions");
        // The role comes last: as long as it is the old one, all of this is done anew.
        match self.issuer.put(&permissions, self.service, &Permissions { visibility })? {
            (200, _) => {}
            // The row of an older user's permissions may have another number than the user.
            (500, _) => self.deeds.push(Deed::VisibilityKept),
            (status, _) => return Err(self.refused(status)),
        }
        match self.issuer.put(&path, self.service, &Roles { roles: roles(role) })? {
            (200, _) => {}
            (status, _) => return Err(self.refused(status)),
        }
        user.roles = roles(role).iter().map(ToString::to_string).collect();
        self.deeds.push(deed);
        Ok(())
    }

    /// NPM's "Sign in as"; `None` for a user who is gone meanwhile.
    fn log_in_as(&self, user: &User, is_last: bool) -> Result<Option<Token>, LoginError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(default)]
            user: Option<User>,
        }
        let path = format!("/api/users/{}/login", user.id);
        let (status, answer) = self.issuer.post_nothing(&path, self.service)?;
        match (status, is_last) {
            (200, _) => {
                let Answer { user: of } =
                    serde_json::from_slice(&answer).map_err(|_| LoginError::NotToken)?;
                // NPM gives a token of a disabled user's too, which is worth nothing.
                match of {
                    Some(user) if user.is_disabled.is_set() => Err(LoginError::Disabled),
                    _ => self.issuer.token_in(&answer).map(Some),
                }
            }
            (404, false) => Ok(None),
            (404, true) => Err(LoginError::NoUser),
            (status, _) => Err(self.refused(status)),
        }
    }

    /// Why NPM refused a call of the service account's: for its token, for its role, or otherwise.
    fn refused(&self, status: u16) -> LoginError {
        match self.issuer.me(self.service).map(|me| me.map(|me| me.role())) {
            Ok(None) => LoginError::ServiceToken,
            Ok(Some(Role::Standard)) => LoginError::NotAdministrator,
            Ok(Some(Role::Administrator)) => LoginError::Status(status),
            Err(error) => error,
        }
    }
}

/// The users of NPM's list who have this address, the oldest first.
///
/// # Errors
///
/// When it is no such list.
pub fn users_with(email: &str, list: &[u8]) -> Result<Vec<User>, LoginError> {
    let mut users: Vec<User> = serde_json::from_slice(list).map_err(|_| LoginError::NotUsers)?;
    users.retain(|user| user.email.eq_ignore_ascii_case(email));
    users.sort_by_key(|user| user.id);
    Ok(users)
}

/// The first of some texts that says something, cut to so many characters.
fn first_of<const N: usize>(texts: [&str; N], max: usize) -> &str {
    let text = texts.into_iter().map(str::trim).find(|text| !text.is_empty()).unwrap_or("-");
    let end = text.char_indices().nth(max).map_or(text.len(), |(end, _)| end);
    text[..end].trim_end()
}

fn roles(role: Role) -> &'static [&'static str] {
    match role {
        Role::Administrator => &["admin"],
        Role::Standard => &[],
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use base64::Engine;

    use super::super::accounts::Accounts;
    use super::super::groups::Separator;
    use super::*;

    fn sign_in_as(groups: &[(&str, Role)]) -> SignInAs {
        let basic = format!("Basic {}", STANDARD.encode("sso@example.com:secret"));
        let service = Accounts::none(None, &mut |_| ()).handed_over(basic.as_bytes(), 0);
        let groups = groups.iter().map(|(name, role)| ((*name).to_owned(), *role)).collect();
        let service = service.expect("an account");
        SignInAs::new(Terms { service, create: false, groups, raise: false })
    }

    const ROLES: [(&str, Role); 2] =
        [("npm-users", Role::Standard), ("npm-admins", Role::Administrator)];

    fn found(all: &SignInAs, email: &str, groups: &str) -> Option<Arc<Account>> {
        let visitor = Visitor {
            user: b"user",
            email: email.as_bytes(),
            groups: groups.as_bytes(),
            separator: Separator::Bar,
        };
        all.find(&visitor, || Ok::<_, ()>(b"A Name")).unwrap().ok()
    }

    #[test]
    fn the_strongest_role_of_all_groups_is_wanted() {
        let all = sign_in_as(&ROLES);
        let wanted = |groups| found(&all, "a@b.c", groups).map(|account| account.wanted());
        assert_eq!(wanted("npm-users"), Some(Wanted::Standard));
        assert_eq!(wanted("npm-admins"), Some(Wanted::Administrator));
        assert_eq!(wanted("x|npm-users|npm-admins|y"), Some(Wanted::Administrator));
        for none in ["", "x", "npm-admins2", "NPM-admins", " npm-admins", "npm-users,npm-admins"] {
            assert_eq!(wanted(none), None, "{none}");
        }
        let any = sign_in_as(&[]);
        assert_eq!(found(&any, "a@b.c", "").map(|account| account.wanted()), Some(Wanted::Any));
    }

    #[test]
    fn a_person_is_one_account_whatever_their_role() {
        let all = sign_in_as(&ROLES);
        let get = |email, groups| found(&all, email, groups).expect("an account");
        let first = get("a@b.c", "npm-users");
        // With another role they are the same account, to which another token belongs.
        let raised = get("a@b.c", "npm-admins");
        assert!(raised.key == first.key && raised.wanted() != first.wanted());
        assert!(get("A@B.c", "npm-users").key == first.key);
        assert!(get("d@b.c", "npm-users").key != first.key);
        assert!(all.terms().service.key != first.key);
    }

    #[test]
    fn an_address_is_one_and_of_ascii_letters() {
        for good in ["a@b", "A.b+c_d%e@Sub.example.COM", "o'neil@example.com", "1@2.3"] {
            assert_eq!(address(good.as_bytes()), Some(good.to_ascii_lowercase()));
        }
        let long = format!("{}@example.com", "x".repeat(EMAIL_MAX));
        for bad in [
            "",
            "@",
            "a",
            "a@",
            "@b",
            "a@b@c",
            "a b@c",
            "a@b c",
            "a,b@c",
            "a@b,c@d",
            "a@b;c@d",
            "<a@b>",
            "\"a\"@b",
            "a@b\n",
            "ä@b",
            "a@ä",
            "a@b\u{212a}",
            &long,
        ] {
            assert_eq!(address(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(address(b"\xff@b"), None);
    }

    #[test]
    fn names_are_cut_and_never_empty() {
        assert_eq!(first_of(["Alice", "a"], 50), "Alice");
        assert_eq!(first_of(["", "  ", "a@b.c"], 50), "a@b.c");
        assert_eq!(first_of(["", ""], 50), "-");
        assert_eq!(first_of(["ÄÖÜäöü"], 3), "ÄÖÜ");
        assert_eq!(first_of(["ab cd"], 3), "ab");
    }
}
