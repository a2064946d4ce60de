//! NPM's users.

use serde::Serialize;
use serde_json::{json, Value};

use crate::clock;

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
    pub totp_secret: Option<String>,
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
            let visibility = if self.is_administrator() { "all" } else { "user" };
            shown["permissions"] = json!({
                "visibility": visibility, "proxy_hosts": "manage", "redirection_hosts": "manage",
                "dead_hosts": "manage", "streams": "manage", "access_lists": "manage",
                "certificates": "manage",
            });
        }
        shown
    }
}

/// All users, deleted ones too, by their id.
#[derive(Default)]
pub(super) struct Users(Vec<User>);

impl Users {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a user, whose name is the part of the address before `@`.
    pub fn add(&mut self, email: &str, secret: &str, administrator: bool) -> &mut User {
        let name = email.split('@').next().unwrap_or_default().to_owned();
        let now = clock::sql(clock::unix_millis());
        let at = self.0.len();
        self.0.push(User {
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
            totp_secret: None,
        });
        &mut self.0[at]
    }

    /// The first user with that address who is not deleted.
    pub fn of_identity(&mut self, identity: &str) -> Option<&mut User> {
        self.0.iter_mut().find(|user| user.email == identity && !user.is_deleted)
    }

    /// The user with that id who is not deleted.
    pub fn of_id(&mut self, id: u64) -> Option<&mut User> {
        self.0.iter_mut().find(|user| user.id == id && !user.is_deleted)
    }

    /// The user with that id, deleted or not.
    pub fn of_any_id(&self, id: u64) -> Option<&User> {
        self.0.iter().find(|user| user.id == id)
    }

    /// Who is not deleted and has `text` in name or address, by name.
    pub fn list(&self, text: &str) -> Vec<&User> {
        // SQL's LIKE folds case.
        let text = text.to_lowercase();
        let fits = |field: &str| field.to_lowercase().contains(&text);
        let mut found: Vec<&User> = self.0.iter().filter(|user| !user.is_deleted).collect();
        found.retain(|user| fits(&user.name) || fits(&user.email));
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found
    }
}
