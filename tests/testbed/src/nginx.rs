//! nginx itself, with the module, in a folder of its own.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::TcpStream;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::Client;
use crate::process;
use crate::server::lock;
use crate::tls::Tls;
use crate::wait::{eventually, free_port, happens};

/// How long nginx may take to start, to reload, to end.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How many ports are tried: another process may take a free one first.
const PORTS: usize = 5;

/// What a user copies to load the module, and where the module is for that user.
const ROOT_TOP: &str = include_str!("../../../nginx-conf/root_top.conf");
const INSTALLED: &str = "/data/nginx/custom/ngx_http_npm_token_inject_module.so";

/// Never to be found in an error log.
const CRASHES: [&str; 3] = ["exited on signal", "open socket #", "panicked"];

/// The folder of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The file that `variable` names, from the folder of the repository on, else `default`.
fn file_of(variable: &str, default: &str) -> PathBuf {
    let name = env::var(variable).ok().filter(|name| !name.is_empty());
    let path = root().join(name.as_deref().unwrap_or(default));
    path.canonicalize().unwrap_or_else(|error| panic!("{} ({variable}): {error}", path.display()))
}

/// The nginx binary: `$TEST_NGINX`, else `build/nginx`.
pub fn binary() -> PathBuf {
    file_of("TEST_NGINX", "build/nginx")
}

/// The module: `$TEST_NGINX_MODULE`, else `build/ngx_http_npm_token_inject_module.so`.
pub fn module() -> PathBuf {
    file_of("TEST_NGINX_MODULE", "build/ngx_http_npm_token_inject_module.so")
}

/// Whether nginx has a log at debug level, in which it says what it does.
pub fn has_debug_log() -> bool {
    version().contains("--with-debug")
}

/// What `nginx -V` says.
fn version() -> &'static str {
    static VERSION: OnceLock<String> = OnceLock::new();
    VERSION.get_or_init(|| {
        let output = Command::new(binary()).arg("-V").output();
        let output = output.unwrap_or_else(|error| panic!("nginx -V: {error}"));
        String::from_utf8_lossy(&output.stderr).into_owned()
    })
}

/// Whether it is OpenResty, which without a master ends at SIGHUP, where nginx stays.
pub fn is_openresty() -> bool {
    version().contains("nginx version: openresty/")
}

/// A `user` line where nginx would need the user that it was built for, who may not exist here.
pub fn user_line() -> &'static str {
    // SAFETY: geteuid(2) always succeeds and touches no memory.
    match unsafe { libc::geteuid() } {
        0 => "user root;",
        _ => "",
    }
}

/// An nginx to start: one server, whose configuration is put together here.
#[derive(Clone, Default)]
pub struct Builder {
    without_module: bool,
    module: Option<PathBuf>,
    binary: Option<PathBuf>,
    single_process: bool,
    workers: usize,
    connections: Option<usize>,
    port: Option<u16>,
    main: String,
    events: String,
    http: String,
    listen: String,
    server: String,
    locations: Vec<(String, String)>,
    directive: Option<String>,
    files: Vec<(String, Vec<u8>, u32)>,
    tls: Option<Arc<Tls>>,
    log_level: Option<&'static str>,
    admin_port: Option<String>,
    run_by: Vec<String>,
}

impl Builder {
    /// Leaves the module out, and [`Self::directive`] with it.
    #[must_use]
    pub fn without_module(mut self) -> Self {
        self.without_module = true;
        self
    }

    /// Loads the module in another file than [`module`].
    #[must_use]
    pub fn module(mut self, file: impl Into<PathBuf>) -> Self {
        self.module = Some(file.into());
        self
    }

    /// Runs another program than [`binary`].
    #[must_use]
    pub fn binary(mut self, file: impl Into<PathBuf>) -> Self {
        self.binary = Some(file.into());
        self
    }

    /// How many workers there are; one by default.
    #[must_use]
    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// `worker_connections`; 8192 by default.
    #[must_use]
    pub fn worker_connections(mut self, count: usize) -> Self {
        self.connections = Some(count);
        self
    }

    /// `master_process off`.
    #[must_use]
    pub fn single_process(mut self) -> Self {
        self.single_process = true;
        self
    }

    /// Listens on this port, not on a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Adds lines at the top level.
    #[must_use]
    pub fn main(mut self, lines: &str) -> Self {
        push_line(&mut self.main, lines);
        self
    }

    /// Adds lines to `events`.
    #[must_use]
    pub fn events(mut self, lines: &str) -> Self {
        push_line(&mut self.events, lines);
        self
    }

    /// Adds lines to `http`, before the server.
    #[must_use]
    pub fn http(mut self, lines: &str) -> Self {
        push_line(&mut self.http, lines);
        self
    }

    /// Adds lines to `server`, before its locations.
    #[must_use]
    pub fn server(mut self, lines: &str) -> Self {
        push_line(&mut self.server, lines);
        self
    }

    /// Adds a location, or lines before what the location of that path has.
    #[must_use]
    pub fn location(mut self, path: &str, lines: &str) -> Self {
        match self.locations.iter_mut().find(|location| location.0 == path) {
            Some((_, text)) => *text = format!("{lines}\n{text}"),
            None => self.locations.push((path.to_owned(), lines.to_owned())),
        }
        self
    }

    /// Puts `line` where the configuration says `npm_token_inject on;`.
    #[must_use]
    pub fn directive(mut self, line: &str) -> Self {
        self.directive = Some(line.to_owned());
        self
    }

    /// Adds parameters of `listen`, such as `http2`.
    #[must_use]
    pub fn listen(mut self, parameters: &str) -> Self {
        self.listen = format!("{} {parameters}", self.listen);
        self
    }

    /// Serves https.
    #[must_use]
    pub fn tls(mut self, tls: &Arc<Tls>) -> Self {
        self.tls = Some(tls.clone());
        self
    }

    /// Writes the accounts file, `accounts.json`.
    #[must_use]
    pub fn accounts(self, json: &str) -> Self {
        self.file_with_mode("accounts.json", json, 0o600)
    }

    /// Writes a file into nginx's folder, which nginx's relative paths start from.
    #[must_use]
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        self.file_with_mode(name, content, 0o644)
    }

    /// Writes a file with its permissions.
    #[must_use]
    pub fn file_with_mode(mut self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> Self {
        self.files.retain(|file| file.0 != name);
        self.files.push((name.to_owned(), content.as_ref().to_owned(), mode));
        self
    }

    /// Logs errors alone, not at debug level.
    #[must_use]
    pub fn quiet(self) -> Self {
        self.log_level("error")
    }

    /// Logs at this level, not at debug level.
    #[must_use]
    pub fn log_level(mut self, level: &'static str) -> Self {
        self.log_level = Some(level);
        self
    }

    /// Sets `NPM_ADMIN_PORT` in nginx's environment.
    #[must_use]
    pub fn admin_port(mut self, value: &str) -> Self {
        self.admin_port = Some(value.to_owned());
        self
    }

    /// Has nginx run by another program, such as valgrind, whose arguments come before nginx's.
    #[must_use]
    pub fn run_by(mut self, program: &[&str]) -> Self {
        self.run_by = program.iter().map(ToString::to_string).collect();
        self
    }

    /// Runs `nginx -t`.
    ///
    /// # Panics
    ///
    /// When nginx cannot be run.
    pub fn test(&self) -> ConfigTest {
        self.test_by("-t")
    }

    /// Runs `nginx -T`, which shows the configuration as well.
    ///
    /// # Panics
    ///
    /// When nginx cannot be run.
    pub fn dump(&self) -> ConfigTest {
        self.test_by("-T")
    }

    fn test_by(&self, option: &str) -> ConfigTest {
        let dir = self.write(self.port.unwrap_or_else(free_port));
        let output = self.command(dir.path()).arg(option).output().expect("nginx");
        let text = [output.stdout, output.stderr].concat();
        let output_text = String::from_utf8_lossy(&text).into_owned();
        ConfigTest { ok: output.status.success(), output: output_text }
    }

    /// Starts nginx and waits until it accepts connections.
    ///
    /// # Panics
    ///
    /// When it does not come to that; with its error log.
    pub fn start(self) -> Nginx {
        self.try_start().unwrap_or_else(|log| panic!("nginx did not start:\n{log}"))
    }

    /// Starts nginx and waits until it accepts connections.
    ///
    /// # Errors
    ///
    /// When it does not come to that: its error log.
    pub fn try_start(self) -> Result<Nginx, String> {
        let mut ports = 1..=if self.port.is_some() { 1 } else { PORTS };
        loop {
            let port = self.port.unwrap_or_else(free_port);
            match self.start_on(port) {
                Err(log) if log.contains("Address already in use") && ports.next().is_some() => {}
                result => return result,
            }
        }
    }

    fn start_on(&self, port: u16) -> Result<Nginx, String> {
        let dir = self.write(port);
        let stderr = File::create(dir.path().join("stderr")).expect("a file in a new folder");
        let mut command = self.command(dir.path());
        command.stderr(stderr);
        let child = spawn(command).unwrap_or_else(|error| panic!("nginx: {error}"));
        let mut nginx = Nginx {
            child,
            dir,
            port,
            tls: self.tls.clone(),
            workers: if self.single_process { 0 } else { self.worker_count() },
            status: None,
            crash_expected: false,
        };
        let is_up = happens(TIMEOUT, || nginx.exit_status().is_some() || nginx.is_up());
        if is_up && nginx.exit_status().is_none() {
            return Ok(nginx);
        }
        nginx.crash_expected = true;
        Err(nginx.error_log())
    }

    fn worker_count(&self) -> usize {
        self.workers.max(1)
    }

    /// The configuration, with what is needed to run it in a folder of its own.
    fn configuration(&self, port: u16) -> String {
        let mut main = String::new();
        if !self.without_module {
            let module = self.module.clone().unwrap_or_else(module);
            push_line(&mut main, &ROOT_TOP.replace(INSTALLED, &module.display().to_string()));
        }
        push_line(&mut main, user_line());
        let master = if self.single_process { "off" } else { "on" };
        push_line(&mut main, &format!("daemon off;\nmaster_process {master};"));
        push_line(&mut main, &format!("worker_processes {};", self.worker_count()));
        let level = self.log_level.unwrap_or("debug");
        push_line(&mut main, &format!("pid nginx.pid;\nerror_log error.log {level};"));
        push_line(&mut main, &self.main);

        let mut http = String::from("access_log access.log;\n");
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            if !version().contains(&format!("--without-http_{kind}_module")) {
                push_line(&mut http, &format!("{kind}_temp_path {kind}_temp;"));
            }
        }
        push_line(&mut http, &self.http);

        let ssl = if self.tls.is_some() { " ssl" } else { "" };
        let mut server = format!("listen 127.0.0.1:{port}{ssl}{};\n", self.listen);
        if self.tls.is_some() {
            push_line(&mut server, "ssl_certificate tls.crt;\nssl_certificate_key tls.key;");
        }
        push_line(&mut server, &self.server);
        for (path, lines) in &self.locations {
            push_line(&mut server, &block(&format!("location {path}"), lines));
        }

        let connections = self.connections.unwrap_or(8192);
        let events = format!("worker_connections {connections};\n{}", self.events);
        push_line(&mut main, &block("events", &events));
        push_line(&mut http, &block("server", &server));
        push_line(&mut main, &block("http", &http));
        self.directed(&main)
    }

    /// `text` with [`Self::directive`] in place.
    fn directed(&self, text: &str) -> String {
        const LINE: &str = "npm_token_inject on;";
        match &self.directive {
            _ if self.without_module => text.replace(LINE, ""),
            Some(line) => text.replace(LINE, line),
            None => text.to_owned(),
        }
    }

    fn command(&self, dir: &Path) -> Command {
        let nginx = self.binary.clone().unwrap_or_else(binary);
        let mut words = self.run_by.iter().map(OsStr::new).chain([nginx.as_os_str()]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).current_dir(dir).arg("-p").arg(dir);
        command.args(["-c", "nginx.conf", "-e", "error.log"]);
        match &self.admin_port {
            Some(value) => command.env("NPM_ADMIN_PORT", value),
            None => command.env_remove("NPM_ADMIN_PORT"),
        };
        command
    }

    fn write(&self, port: u16) -> TempDir {
        let dir = tempfile::Builder::new().prefix("nginx-").tempdir().expect("a folder");
        let at = |name: &str| dir.path().join(name);
        write_file(&at("nginx.conf"), self.configuration(port).as_bytes(), 0o644);
        for (name, content, mode) in &self.files {
            write_file(&at(name), content, *mode);
        }
        if let Some(tls) = &self.tls {
            write_file(&at("tls.crt"), tls.cert_pem().as_bytes(), 0o644);
            write_file(&at("tls.key"), tls.key_pem().as_bytes(), 0o600);
        }
        dir
    }
}

fn push_line(text: &mut String, line: &str) {
    text.push_str(line.trim_end());
    text.push('\n');
}

fn block(name: &str, lines: &str) -> String {
    let lines: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!("{name} {{\n{lines}}}\n")
}

/// Writes a file whole: who reads it sees the old content or the new.
fn write_file(path: &Path, content: &[u8], mode: u32) {
    let written = (|| {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = path.with_extension("new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&new)?;
        // As it is said, whatever this process's umask is.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        fs::rename(&new, path)
    })();
    written.unwrap_or_else(|error: io::Error| panic!("{}: {error}", path.display()));
}

/// Starts a program that ends with this process, however this process ends. It leads a process
/// group of its own.
///
/// # Errors
///
/// When it cannot be started.
pub fn spawn(mut command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();

    command.process_group(0);
    let ends_with_parent = || {
        // SAFETY: prctl(2) with these arguments touches no memory.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(ends_with_parent) };

    // The signal comes when the thread that started the program ends: so one thread starts them
    // all, and lives as long as the process.
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, started) in orders {
                // Who ordered it may be gone.
                let _ = started.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (sender, started) = mpsc::channel();
    lock(spawner).send((command, sender)).map_err(io::Error::other)?;
    started.recv().map_err(io::Error::other)?
}

/// What `nginx -t` says, or `nginx -T`.
#[derive(Debug)]
pub struct ConfigTest {
    pub ok: bool,
    pub output: String,
}

/// A running nginx. It is stopped when dropped.
///
/// # Panics
///
/// When dropped, if nginx or a worker of it had crashed; see [`Self::expect_crash`].
pub struct Nginx {
    child: Child,
    dir: TempDir,
    port: u16,
    tls: Option<Arc<Tls>>,
    workers: usize,
    status: Option<ExitStatus>,
    crash_expected: bool,
}

impl Nginx {
    /// An nginx to start.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// `http://127.0.0.1:PORT`, or `https://localhost:PORT`.
    pub fn url(&self) -> String {
        match self.tls {
            None => format!("http://127.0.0.1:{}", self.port),
            Some(_) => format!("https://localhost:{}", self.port),
        }
    }

    /// The port of 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder that nginx's relative paths start from.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A client of this nginx, with a connection of its own.
    pub fn client(&self) -> Client {
        match &self.tls {
            None => Client::new(&self.url()),
            Some(tls) => Client::with_tls(&self.url(), tls),
        }
    }

    fn is_up(&self) -> bool {
        // The pid is written once the sockets are bound.
        self.dir().join("nginx.pid").exists()
            && self.worker_pids().len() >= self.workers
            && TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    /// The process started: the master, or the only one.
    pub fn master_pid(&self) -> u32 {
        self.child.id()
    }

    /// The workers that accept connections, not those that are shutting down.
    pub fn worker_pids(&self) -> Vec<u32> {
        worker_pids_of(self.master_pid())
    }

    /// Has nginx read its configuration again, and waits until new workers have taken over.
    ///
    /// # Panics
    ///
    /// When they do not; with the error log.
    pub fn reload(&self) {
        let old = self.worker_pids();
        let logged = self.error_log_length();
        let log = || self.error_log_from(logged);
        self.signal(libc::SIGHUP);
        let mut refused = false;
        let taken_over = happens(TIMEOUT, || {
            let workers = self.worker_pids();
            refused = log().contains("[emerg]");
            refused || workers.len() >= self.workers && !workers.iter().any(|pid| old.contains(pid))
        });
        assert!(taken_over && !refused, "nginx did not reload:\n{}", log());
    }

    /// As [`Self::reload`], and waits until the old workers have ended. Until then they answer on
    /// connections on which nothing has been sent yet, and browsers open such ones in advance;
    /// `client_header_timeout` bounds that.
    ///
    /// # Panics
    ///
    /// When they do not end.
    pub fn reload_and_retire(&self) {
        let old = self.worker_pids();
        self.reload();
        eventually(TIMEOUT, "the old workers to end", || {
            !old.iter().any(|&pid| process::is_child_of(pid, self.master_pid()))
        });
    }

    /// All processes that the master has started and that run, those that are shutting down among
    /// them.
    pub fn child_pids(&self) -> Vec<u32> {
        children_of(self.master_pid())
    }

    /// The error log so far, with what nginx said before it had one. At debug level, where nginx
    /// was built with it.
    pub fn error_log(&self) -> String {
        ["stderr", "error.log"].map(|name| self.read(name)).concat()
    }

    /// How many bytes nginx has logged since it had a log.
    pub fn error_log_length(&self) -> u64 {
        fs::metadata(self.dir().join("error.log")).map_or(0, |file| file.len())
    }

    /// What nginx has logged from that byte on. A log may be long.
    pub fn error_log_from(&self, start: u64) -> String {
        let mut bytes = Vec::new();
        let read = File::open(self.dir().join("error.log")).and_then(|mut log| {
            log.seek(SeekFrom::Start(start))?;
            log.read_to_end(&mut bytes)
        });
        read.map_or_else(|_| String::new(), |_| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The lines of the error log that contain `text`.
    pub fn log_lines(&self, text: &str) -> Vec<String> {
        lines_with(&self.error_log(), text)
    }

    /// Waits for a line of the error log that contains `text`, and returns the first.
    ///
    /// # Panics
    ///
    /// When there is none within `timeout`.
    pub fn wait_for_log(&self, text: &str, timeout: Duration) -> String {
        let mut found = None;
        eventually(timeout, &format!("{text:?} in the error log"), || {
            found = self.log_lines(text).into_iter().next();
            found.is_some()
        });
        found.unwrap_or_default()
    }

    /// The last lines of the error log that are not at debug level.
    pub fn error_log_excerpt(&self) -> String {
        let log = self.error_log();
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("[debug]")).collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// The access log so far. A line is written after its reply.
    pub fn access_log(&self) -> String {
        self.read("access.log")
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.dir().join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Writes the accounts file anew. nginx reads it at the next reload.
    pub fn write_accounts(&self, json: &str) {
        write_file(&self.dir().join("accounts.json"), json.as_bytes(), 0o600);
    }

    /// Writes a file in nginx's folder anew.
    pub fn write_file(&self, name: &str, content: impl AsRef<[u8]>) {
        write_file(&self.dir().join(name), content.as_ref(), 0o644);
    }

    /// Sends a signal to the master: `libc::SIGHUP`, …
    pub fn signal(&self, signal: i32) {
        kill(self.master_pid(), signal);
    }

    /// Has nginx end gracefully, and waits for it.
    pub fn quit(&mut self) -> ExitStatus {
        self.end(libc::SIGQUIT)
    }

    /// Has nginx end fast, and waits for it.
    pub fn terminate(&mut self) -> ExitStatus {
        self.end(libc::SIGTERM)
    }

    fn end(&mut self, signal: i32) -> ExitStatus {
        self.signal_until_end(signal);
        self.exit_status().unwrap_or_else(|| {
            panic!(
                "nginx still runs {TIMEOUT:?} after signal {signal}:\n{}",
                self.error_log_excerpt()
            )
        })
    }

    /// Sends a signal that ends nginx, and waits for that. A process without a master may have looked
    /// for signals just before one comes, and then waits for events (`ngx_single_process_cycle`,
    /// which blocks none meanwhile): it is sent again.
    fn signal_until_end(&mut self, signal: i32) {
        const AGAIN: Duration = Duration::from_millis(250);
        let mut sent = Instant::now();
        self.signal(signal);
        happens(TIMEOUT, || {
            if self.workers == 0 && sent.elapsed() >= AGAIN && self.exit_status().is_none() {
                sent = Instant::now();
                self.signal(signal);
            }
            self.exit_status().is_some()
        });
    }

    /// How nginx ended; `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = ended(self.child.id());
        }
        self.status
    }

    /// A crash, or a killed worker, is what this test wants.
    pub fn expect_crash(&mut self) {
        self.crash_expected = true;
    }

    fn crash(&self) -> Option<String> {
        if let Some(signal) = self.status.and_then(|status| status.signal()) {
            return Some(format!("nginx ended by signal {signal}"));
        }
        let log = self.error_log();
        CRASHES.iter().find_map(|crash| lines_with(&log, crash).into_iter().next())
    }
}

/// The lines of a log that contain `text`. A log at debug level is long, and most often there is
/// none.
fn lines_with(log: &str, text: &str) -> Vec<String> {
    if !log.contains(text) {
        return Vec::new();
    }
    log.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

impl Drop for Nginx {
    fn drop(&mut self) {
        if self.exit_status().is_none() {
            self.signal_until_end(libc::SIGTERM);
        }
        let ended = self.exit_status();
        // What is left of the group: workers of a killed master, a binary that took over.
        // SAFETY: kill(2) touches no memory; the group is our child's own.
        unsafe { libc::kill(-(self.master_pid() as libc::pid_t), libc::SIGKILL) };
        let _ = self.child.wait();

        if thread::panicking() {
            eprintln!("nginx said:\n{}", self.error_log_excerpt());
        } else if !self.crash_expected {
            assert!(ended.is_some(), "nginx did not end:\n{}", self.error_log_excerpt());
            if let Some(crash) = self.crash() {
                panic!("{crash}\nnginx said:\n{}", self.error_log_excerpt());
            }
        }
    }
}

/// How a child ended; `None` while it runs. It stays to be waited for: until then nobody else gets its
/// number, which signals go to.
fn ended(pid: u32) -> Option<ExitStatus> {
    // SAFETY: all zeros is a siginfo_t, which waitid(2) fills in for a child.
    let (code, status) = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        let how = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        if libc::waitid(libc::P_PID, pid, &raw mut info, how) != 0 || info.si_pid() == 0 {
            return None;
        }
        (info.si_code, info.si_status())
    };
    Some(ExitStatus::from_raw(if code == libc::CLD_EXITED { status << 8 } else { status }))
}

/// Sends a signal to a process of nginx's.
pub fn kill(pid: u32, signal: i32) {
    // SAFETY: kill(2) touches no memory.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// The workers of a master that accept connections.
pub fn worker_pids_of(master: u32) -> Vec<u32> {
    let mut pids = children_of(master);
    pids.retain(|&pid| {
        let title = process::read(pid, "cmdline");
        title.contains("worker process") && !title.contains("shutting down")
    });
    pids
}

fn children_of(parent: u32) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut pids: Vec<u32> = pids.filter(|&pid| process::is_child_of(pid, parent)).collect();
    pids.sort_unstable();
    pids
}
