//! Single sign-on for Nginx Proxy Manager (NPM) behind Authentik, as an nginx module.
//!
//! The house has two floors. [`sso`] is plain Rust: accounts, NPM's API, tokens and their cache.
//! `nginx` is the glue: the directive, the request handler, the shared zone, the login threads.
//! The glue calls down; nothing calls up. What happens to a request stands in `nginx/handler.rs`.

#[cfg(feature = "module")]
mod nginx;
pub mod sso;
