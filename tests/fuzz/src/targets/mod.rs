mod accounts;
mod authorization;
mod cache;
mod configuration;
mod groups;
mod library;
mod marker;
mod npm;
mod origin;
mod page;
mod parameters;
mod path;
mod status;
mod visitor;

/// What is made of any bytes. Panics where a promise is broken.
pub type Target = fn(&[u8]);

/// All of them, by their names, which are those of the folders in `corpus/`.
pub const TARGETS: &[(&str, Target)] = &[
    ("accounts", accounts::file),
    ("base_url", configuration::base_url),
    ("basic", authorization::basic),
    ("build_id", library::build_id),
    ("build_names", library::build_names),
    ("cache", cache::table),
    ("certificates", configuration::certificates),
    ("framing", configuration::framing),
    ("groups", groups::list),
    ("library", library::file),
    ("marker", marker::marker),
    ("npm_login", npm::login),
    ("npm_me", npm::me),
    ("npm_users", npm::users),
    ("origin", origin::provenance),
    ("page", page::place),
    ("parameters", parameters::parameters),
    ("path", path::path),
    ("script", page::script),
    ("status", status::status),
    ("token", authorization::token),
    ("totp", configuration::totp),
    ("variables", parameters::variables),
    ("visitor", visitor::visitor),
];
