//! The lower floor: who may sign in to NPM as whom, and the life of a token.
//!
//! Plain Rust. Nothing in here knows of nginx.

pub mod account;
pub mod accounts;
pub mod cache;
mod deadline;
pub mod file;
pub mod framing;
pub mod groups;
pub mod known;
pub mod marker;
pub mod npm;
pub mod origin;
pub mod page;
pub mod parameters;
pub mod path;
pub mod secret;
pub mod sign_in_as;
pub mod status;
pub mod time;
pub mod token;
pub mod totp;
pub mod variables;
