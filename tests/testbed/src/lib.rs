//! What the tests and the demo run against: a small Nginx Proxy Manager ([`Npm`]), a small Authentik
//! outpost ([`Outpost`]) and nginx itself with the module ([`Nginx`]), all on 127.0.0.1, each stopped
//! when it is dropped.
//!
//! ```no_run
//! use testbed::{npm_proxy_host, Npm, Outpost, Visitor};
//!
//! let npm = Npm::start();
//! let outpost = Outpost::start();
//! let nginx = npm_proxy_host(&outpost, &npm).start();
//!
//! let session = outpost.sign_in(Visitor::new("akadmin"));
//! let reply = nginx.client().request("GET", "/api/users/me").cookie(&session).send();
//! assert_eq!(reply.json()["email"], "admin@example.com");
//! ```

pub mod client;
mod clock;
mod headers;
pub mod nginx;
pub mod npm;
pub mod outpost;
pub mod process;
mod proxy_host;
mod random;
pub mod server;
mod target;
pub mod tls;
pub mod wait;

pub use client::{Client, Reply};
pub use headers::Headers;
pub use nginx::{ConfigTest, Nginx};
pub use npm::{Fault, Npm, Release, TOKEN_BEGINNING};
pub use outpost::{Outpost, Session, Visitor};
pub use proxy_host::{
    another_proxy_host, npm_proxy_host, proxy_host, AccessList, NPM_HTTP, NPM_LOCATION,
};
pub use server::{Request, Response, Server};
pub use target::Target;
pub use tls::Tls;
pub use wait::{closed_port, eventually, free_port, hold_port};
