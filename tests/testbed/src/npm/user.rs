//! NPM's users.

use serde::Serialize;
use serde_json::{json, Map, Value};

use crate::clock;

/// What a user may see, and do with it.
pub(super) const PERMISSIONS: [&str; 7] = [
    "visibility",
    "proxy_hosts",
    "redirection_hosts",
    "dead_hosts",
    "streams",
    "access_lists",
    "certificates",
];

/// A user, as the API shows it.
#[derive(Clone, Serialize)]
pub(super) struct User {
    pub id: u64,
    pub created_on: String,
    pub modified_on: String,
    pub is_disabled: bool,
    pub email: String,
    pub name: String,
    pub nickname: String,
    pub avatar: &'static str,
    pub roles: Vec<String>,
    #[serde(skip)]
    pub is_deleted: bool,
    /// Empty where there is none: a new user cannot log in.
    #[serde(skip)]
    pub secret: String,
    /// How often the secret was changed.
    #[serde(skip)]
    pub changes: u32,
    #[serde(skip)]
    pub second_factor: SecondFactor,
    /// The row of this user's permissions; `None` for one whose making failed half-way.
    #[serde(skip)]
    pub permissions: Option<Permissions>,
}

/// 2FA, of which NPM keeps three things beside the password.
#[derive(Clone, Default)]
pub(super) struct SecondFactor {
    pub secret: Option<String>,
    pub pending: Option<String>,
    pub backup_codes: Vec<String>,
}

/// A row of NPM's table of permissions. Its id is mostly that of its user.
#[derive(Clone)]
pub(super) struct Permissions {
    id: u64,
    fields: Map<String, Value>,
}

impl Permissions {
    /// The row as it is shown.
    pub fn shown(&self) -> Value {
        json!(self.fields)
    }
}

impl User {
    pub fn is_administrator(&self) -> bool {
        self.roles.iter().any(|role| role == "admin")
    }

    /// Gives the user another secret.
    pub fn change_secret(&mut self, secret: &str) {
        secret.clone_into(&mut self.secret);
        self.changes += 1;
    }

    /// Neither deleted nor disabled.
    pub fn is_live(&self) -> bool {
        !self.is_deleted && !self.is_disabled
    }

    /// The user, with permissions where `expand` names them.
    pub fn shown(&self, expand: Option<&str>) -> Value {
        let mut shown = json!(self);
        if expand.is_some_and(|names| names.split(',').any(|name| name == "permissions")) {
            shown["permissions"] = json!(self.permissions.as_ref().map(Permissions::shown));
        }
        shown
    }
}

/// All users, deleted ones too, by their id.
#[derive(Default)]
pub(super) struct Users {
    users: Vec<User>,
    /// The highest id that a row of permissions has had.
    last_row: u64,
}

impl Users {
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// Adds a user, whose name is the part of the address before `@`.
    pub fn add(&mut self, email: &str, secret: &str, administrator: bool) -> &mut User {
        let id = self.add_without_permissions(email, secret, administrator).id;
        self.permit(id);
        let at = self.users.len() - 1;
        &mut self.users[at]
    }

    /// Adds a user who has no row of permissions.
    pub fn add_without_permissions(
        &mut self,
        email: &str,
        secret: &str,
        administrator: bool,
    ) -> &mut User {
        let name = email.split('@').next().unwrap_or_default().to_owned();
        let now = clock::sql(clock::unix_millis());
        let at = self.users.len();
        self.users.push(User {
            id: at as u64 + 1,
            created_on: now.clone(),
            modified_on: now,
            is_disabled: false,
            email: email.to_owned(),
            nickname: name.clone(),
            name,
            avatar: "//www.gravatar.com/avatar/00000000000000000000000000000000?default=mm",
            roles: if administrator { vec!["admin".into()] } else { Vec::new() },
            is_deleted: false,
            secret: secret.to_owned(),
            changes: 0,
            second_factor: SecondFactor::default(),
            permissions: None,
        });
        &mut self.users[at]
    }

    /// Adds the row of a new user's permissions, by the roles that the user has now.
    pub fn permit(&mut self, id: u64) {
        self.last_row += 1;
        let row = self.last_row;
        let Some(user) = self.of_id(id) else { return };
        let mut fields: Map<_, _> =
            PERMISSIONS.iter().map(|&field| (field.to_owned(), json!("manage"))).collect();
        let visibility = if user.is_administrator() { "all" } else { "user" };
        fields.insert("visibility".to_owned(), json!(visibility));
        user.permissions = Some(Permissions { id: row, fields });
    }

    /// Changes a user's permissions. NPM gives the row the id of its user at that, which the
    /// database refuses where another row has it. A user without a row needs all of the fields.
    /// Answers what the change left, if it was made: the row before it got that id cannot be read.
    pub fn set_permissions(
        &mut self,
        id: u64,
        changes: Map<String, Value>,
    ) -> Result<Option<Value>, ()> {
        let is_known = |field: &String| PERMISSIONS.contains(&field.as_str());
        let row_of = |user: &User| user.permissions.as_ref().map(|row| row.id);
        let is_taken = self.users.iter().any(|user| user.id != id && row_of(user) == Some(id));
        if !changes.keys().all(is_known) || is_taken {
            return Err(());
        }
        let user = self.of_id(id).ok_or(())?;
        let result = match &mut user.permissions {
            Some(row) => {
                let moved = row.id != id;
                row.id = id;
                row.fields.extend(changes);
                (!moved).then(|| row.shown())
            }
            None if changes.len() == PERMISSIONS.len() => {
                let row = user.permissions.insert(Permissions { id, fields: changes });
                Some(row.shown())
            }
            None => return Err(()),
        };
        self.last_row = self.last_row.max(id);
        Ok(result)
    }

    /// Exchanges two users' rows of permissions.
    pub fn swap_permissions(&mut self, one: u64, other: u64) {
        let row_of = |users: &Self, id| {
            users.of_any_id(id).and_then(|user| Some(user.permissions.as_ref()?.id))
        };
        let rows = [row_of(self, one), row_of(self, other)];
        for (id, row) in [(one, rows[1]), (other, rows[0])] {
            let permissions = self.of_id(id).and_then(|user| user.permissions.as_mut());
            if let (Some(permissions), Some(row)) = (permissions, row) {
                permissions.id = row;
            }
        }
    }

    /// The first user with that address who is not deleted.
    pub fn of_identity(&mut self, identity: &str) -> Option<&mut User> {
        self.users.iter_mut().find(|user| user.email == identity && !user.is_deleted)
    }

    /// The user with that id who is not deleted.
    pub fn of_id(&mut self, id: u64) -> Option<&mut User> {
        self.users.iter_mut().find(|user| user.id == id && !user.is_deleted)
    }

    /// The user with that id, deleted or not.
    pub fn of_any_id(&self, id: u64) -> Option<&User> {
        self.users.iter().find(|user| user.id == id)
    }

    /// Whether another user than `id` has that address.
    pub fn is_taken(&self, email: &str, id: u64) -> bool {
        self.users.iter().any(|user| user.id != id && user.email == email && !user.is_deleted)
    }

    /// Who is not deleted and has `pattern` in name or address, by name.
    pub fn list(&self, pattern: &str) -> Vec<&User> {
        let pattern: Vec<char> = format!("%{pattern}%").chars().collect();
        let fits = |field: &str| like(&pattern, &field.chars().collect::<Vec<_>>());
        let mut found: Vec<&User> = self.users.iter().filter(|user| !user.is_deleted).collect();
        found.retain(|user| fits(&user.name) || fits(&user.email));
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }
}

/// SQLite's LIKE without an escape: `%` is any text, `_` any letter, and ASCII letters have no case.
fn like(pattern: &[char], text: &[char]) -> bool {
    match (pattern.split_first(), text.split_first()) {
        (None, _) => text.is_empty(),
        (Some(('%', rest)), None) => like(rest, text),
        (Some(('%', rest)), Some((_, after))) => like(rest, text) || like(pattern, after),
        (Some(('_', rest)), Some((_, after))) => like(rest, after),
        (Some((one, rest)), Some((other, after))) => {
            one.eq_ignore_ascii_case(other) && like(rest, after)
        }
        (Some(_), None) => false,
    }
}
