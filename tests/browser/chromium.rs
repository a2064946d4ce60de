//! Chromium without a window, driven by its DevTools protocol.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use headless_chrome::browser::context::Context;
use headless_chrome::browser::default_executable;
use serde_json::Value;
use tempfile::TempDir;
use testbed::nginx::spawn;
use testbed::{eventually, wait::happens};

/// How long anything may take, on a machine that has much to do.
pub const SOON: Duration = Duration::from_secs(20);

/// How long a connection to Chromium is kept that nothing is sent on.
const IDLE: Duration = Duration::from_secs(120);

const FLAGS: [&str; 18] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-features=SpareRendererForSitePerProcess",
    // Pages that nobody looks at run as fast as others.
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--ignore-certificate-errors",
    "--host-resolver-rules=MAP *.example.com 127.0.0.1, MAP *.example.org 127.0.0.1",
    // A free one.
    "--remote-debugging-port=0",
    "about:blank",
];

/// Other sites' frames get their cookies, as in a window that is not private.
const PREFERENCES: &str = r#"{"profile": {"cookie_controls_mode": 0}}"#;

/// A running Chromium, one for all tests that run at the same time. It is killed with the last.
struct Chromium {
    driver: headless_chrome::Browser,
    _process: Process,
    _profile: TempDir,
}

impl Chromium {
    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Chromium>> = Mutex::new(Weak::new());
        let mut shared = lock(&SHARED);
        shared.upgrade().unwrap_or_else(|| {
            let chromium = Arc::new(Self::start());
            *shared = Arc::downgrade(&chromium);
            chromium
        })
    }

    fn start() -> Self {
        let profile = tempfile::Builder::new().prefix("chromium-").tempdir().expect("a folder");
        fs::create_dir(profile.path().join("Default")).expect("a folder");
        fs::write(profile.path().join("Default/Preferences"), PREFERENCES).expect("a file");

        let mut folder = OsString::from("--user-data-dir=");
        folder.push(profile.path());
        let mut command = Command::new(default_executable().expect("Chromium"));
        command.arg(folder).args(FLAGS);
        // What it leaves there when it is killed goes with its profile.
        command.env("TMPDIR", profile.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process(spawn(command).expect("Chromium"));

        let mut address = None;
        eventually(SOON, "Chromium to listen", || {
            address = devtools(profile.path());
            address.is_some()
        });
        let driver =
            headless_chrome::Browser::connect_with_timeout(address.unwrap_or_default(), IDLE);
        let driver = driver.expect("a connection to Chromium");
        Self { driver, _process: process, _profile: profile }
    }
}

/// Where a Chromium listens, by the file that it writes into its profile.
fn devtools(profile: &Path) -> Option<String> {
    let file = fs::read_to_string(profile.join("DevToolsActivePort")).ok()?;
    let (port, path) = file.split_once('\n')?;
    Some(format!("ws://127.0.0.1:{port}{path}"))
}

/// The leader of a process group, which is killed as a whole.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // SAFETY: kill(2) touches no memory; the group is our child's own.
        unsafe { libc::kill(-(self.0.id() as libc::pid_t), libc::SIGKILL) };
        let _ = self.0.wait();
    }
}

/// A person's browser: cookies and storage of its own, empty at first.
pub struct Browser {
    chromium: Arc<Chromium>,
    context: String,
}

impl Browser {
    pub fn new() -> Self {
        let chromium = Chromium::shared();
        let context = chromium.driver.new_context().expect("a context").get_id().to_owned();
        Self { chromium, context }
    }

    /// An empty tab.
    pub fn tab(&self) -> Tab {
        let context = Context::new(&self.chromium.driver, self.context.clone());
        let page = context.new_tab().expect("a tab");
        let received = Arc::new(Mutex::new(Vec::new()));
        let keep = received.clone();
        let handler: headless_chrome::browser::tab::ResponseHandler =
            Box::new(move |event, fetch_body| {
                let response = event.response;
                let headers = response.headers.0.unwrap_or_default();
                // Of a page that has gone, there is none.
                let body = fetch_body().map(|body| body.body).unwrap_or_default();
                lock(&keep).push(Received { url: response.url, headers, body });
            });
        page.register_response_handling("received", handler).expect("a tab");
        Tab { page, received, _chromium: self.chromium.clone() }
    }
}

/// A response that a page received.
#[derive(Clone, Debug)]
pub struct Received {
    pub url: String,
    pub headers: Value,
    pub body: String,
}

/// A tab. It is closed when dropped.
pub struct Tab {
    page: Arc<headless_chrome::Tab>,
    received: Arc<Mutex<Vec<Received>>>,
    _chromium: Arc<Chromium>,
}

impl Tab {
    /// Opens a URL, as by the address bar, and waits until its page has taken the place of the one
    /// before.
    pub fn open(&self, url: &str) {
        self.run("window.isLeft = true");
        self.page.navigate_to(url).unwrap_or_else(|error| panic!("{url}: {error}"));
        self.until("!window.isLeft && document.readyState === 'complete'");
    }

    /// Loads the page anew, as by the button.
    pub fn reload(&self) {
        self.leave("location.reload()");
        self.until("document.readyState === 'complete'");
    }

    /// Runs what leads to another page, or to the same one anew, and waits until it is there.
    pub fn leave(&self, script: &str) {
        self.run("window.isLeft = true");
        self.run(script);
        self.until("!window.isLeft");
    }

    /// Clicks on the first element that has this text, once there is one.
    pub fn click(&self, text: &str) {
        self.run(&self.clicking(text));
    }

    /// As [`Self::click`], where that leads to another page.
    pub fn follow(&self, text: &str) {
        self.leave(&self.clicking(text));
    }

    fn clicking(&self, text: &str) -> String {
        let element = format!(
            "[...document.querySelectorAll('a, button')].find(e => e.textContent === {})",
            Value::from(text)
        );
        self.until(&format!("!!{element}"));
        format!("{element}.click()")
    }

    /// The value of a JavaScript expression, which may be a promise.
    pub fn run(&self, expression: &str) -> Value {
        self.try_run(expression).unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    fn try_run(&self, expression: &str) -> Result<Value, String> {
        let text = format!("(async () => JSON.stringify((await ({expression})) ?? null))()");
        let object = self.page.evaluate(&text, true).map_err(|error| error.to_string())?;
        match object.value {
            Some(Value::String(json)) => {
                serde_json::from_str(&json).map_err(|error| error.to_string())
            }
            _ => Err(object.description.unwrap_or_default()),
        }
    }

    /// Waits until an expression is true, whatever pages come and go until then.
    pub fn until(&self, expression: &str) {
        if !happens(SOON, || self.try_run(expression) == Ok(Value::Bool(true))) {
            let state = "[location.href, document.documentElement.outerHTML, {...localStorage}]";
            panic!("still waiting for {expression} at {:#?}", self.try_run(state));
        }
    }

    /// Every response that this tab received.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.received).clone()
    }

    /// The cookies that belong to the page.
    pub fn cookies(&self) -> Vec<String> {
        let cookies = self.page.get_cookies().expect("cookies");
        cookies.into_iter().map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect()
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        // It may be gone, with all of Chromium.
        let _ = self.page.close_target();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
