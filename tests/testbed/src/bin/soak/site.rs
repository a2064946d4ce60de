//! nginx with the module, before both NPMs.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use testbed::nginx::module;
use testbed::{another_proxy_host, free_port, proxy_host, Nginx, Npm, Outpost};

use super::people::{self, Host};

pub const WORKERS: usize = 4;

/// Shows what became of a request.
const SHOWN: &str = "add_header X-Status $npm_token_status always;";

/// The zone, and one that is too small for all.
const ZONE: [&str; 2] = ["npm_token_inject_zone 1m;", "npm_token_inject_zone 32k;"];

/// How many accounts have room in the small one, as the README has it.
pub const PLACES: usize = 10;

/// How many descriptors a worker may have when they are to run out, and how many connections.
pub const DESCRIPTORS: usize = 64;
const CONNECTIONS: usize = 32;

/// What nginx's configuration says of them else.
const NO_LIMIT: &str = "worker_rlimit_nofile 10240;";
const ALL_CONNECTIONS: &str = "worker_connections 8192;";

pub struct Site {
    pub nginx: Nginx,
    installed: Installed,
    configuration: String,
}

impl Site {
    pub fn start(npms: &[Npm; 2], outpost: &Outpost) -> Self {
        let installed = Installed::new();
        let [first, second] = npms.each_ref().map(Npm::url);
        let (outpost, port) = (outpost.url(), free_port());
        let second_host = another_proxy_host(
            (Host::Second.name(), port),
            &outpost,
            &second,
            ("npm_token_inject second.json;", SHOWN),
        );
        let passwords_host = another_proxy_host(
            (Host::Passwords.name(), port),
            &outpost,
            &first,
            (
                "auth_request_set $authentik_authorization $upstream_http_authorization;\n\
                 npm_token_inject accounts.json credentials=$authentik_authorization;",
                SHOWN,
            ),
        );
        let nginx = proxy_host(&outpost, &first)
            .module(installed.loader())
            .accounts(&people::accounts(0, &first))
            .file_with_mode("second.json", people::accounts(1, &second), 0o600)
            .main(NO_LIMIT)
            .http(ZONE[0])
            .http(&format!("access_log off;\n{second_host}\n{passwords_host}"))
            .location("/", SHOWN)
            .location("= /npm-token-status", "npm_token_inject_status;")
            .port(port)
            .listen("reuseport backlog=4096 default_server")
            .workers(WORKERS)
            .log_level("notice");
        let mut nginx = nginx.start();
        // Workers are killed.
        nginx.expect_crash();
        let configuration = fs::read_to_string(nginx.dir().join("nginx.conf")).expect("nginx.conf");
        Self { nginx, installed, configuration }
    }

    /// Has nginx run with a zone that is too small.
    pub fn shrink_zone(&self) {
        self.reload_with(ZONE[0], ZONE[1]);
    }

    /// Has nginx run with few descriptors.
    pub fn limit_descriptors(&self) {
        self.reload_with(NO_LIMIT, &format!("worker_rlimit_nofile {DESCRIPTORS};"));
    }

    /// Has nginx run with few connections.
    pub fn limit_connections(&self) {
        self.reload_with(ALL_CONNECTIONS, &format!("worker_connections {CONNECTIONS};"));
    }

    /// Has nginx run as ever, and waits until workers that run otherwise have ended.
    pub fn restore(&self) {
        self.nginx.write_file("nginx.conf", &self.configuration);
        self.nginx.reload_and_retire();
    }

    /// Replaces the builds by others, and has nginx take them up.
    pub fn swap_builds(&self) {
        self.installed.replace_builds();
        self.nginx.reload();
    }

    fn reload_with(&self, old: &str, new: &str) {
        assert!(self.configuration.contains(old), "{}", self.configuration);
        self.nginx.write_file("nginx.conf", self.configuration.replace(old, new));
        self.nginx.reload_and_retire();
    }
}

/// The loader and its builds, in a folder of their own.
struct Installed(TempDir);

impl Installed {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("loader-").tempdir().expect("a folder");
        let installed = Self(folder);
        fs::copy(module(), installed.loader()).expect("the loader");
        fs::create_dir(installed.builds()).expect("a folder for builds");
        let built = module().with_file_name("npm_token_inject");
        for build in fs::read_dir(built).expect("builds beside the loader").flatten() {
            fs::copy(build.path(), installed.builds().join(build.file_name())).expect("a build");
        }
        installed
    }

    fn loader(&self) -> PathBuf {
        self.0.path().join("ngx_http_npm_token_inject_module.so")
    }

    fn builds(&self) -> PathBuf {
        self.0.path().join("npm_token_inject")
    }

    /// Puts another file in the place of each, as an upgrade does.
    fn replace_builds(&self) {
        for build in fs::read_dir(self.builds()).expect("builds").flatten() {
            let new = self.0.path().join("new");
            fs::copy(build.path(), &new)
                .and_then(|_| fs::rename(new, build.path()))
                .expect("a build");
        }
    }
}
