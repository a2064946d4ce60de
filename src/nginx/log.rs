//! nginx's error log, at the levels that the module uses.
//!
//! Nothing that is or holds a secret or a token implements `Display`, so none gets in here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use ngx::core::NgxStr;
use parking_lot::Mutex;

use super::bindings::ngx_conf_t;
use crate::sso::time::is_ahead;
use crate::sso::token::Millis;

macro_rules! log_error {
    ($log:expr, $($message:tt)+) => {{
        ngx::ngx_log_error!(ngx::ffi::NGX_LOG_ERR, $log, "npm_token_inject: {}", format_args!($($message)+));
    }};
}

macro_rules! log_warn {
    ($log:expr, $($message:tt)+) => {{
        ngx::ngx_log_error!(ngx::ffi::NGX_LOG_WARN, $log, "npm_token_inject: {}", format_args!($($message)+));
    }};
}

macro_rules! log_notice {
    ($log:expr, $($message:tt)+) => {{
        ngx::ngx_log_error!(ngx::ffi::NGX_LOG_NOTICE, $log, "npm_token_inject: {}", format_args!($($message)+));
    }};
}

/// File and line of the directive that is being read.
pub fn place(cf: &ngx_conf_t) -> String {
    // SAFETY: nginx reads every directive from a configuration file, or from the command line,
    // which it presents as one.
    match unsafe { cf.conf_file.as_ref() } {
        Some(file) => {
            let name = NgxStr::from_bytes(file.file.name.as_bytes());
            format!("{}:{}", name.to_string_lossy(), file.line)
        }
        None => "the configuration".to_owned(),
    }
}

/// Lets one message through per interval, so that a fault which every request meets does not
/// fill the disk.
pub struct Throttle {
    quiet_until: AtomicU64,
}

impl Throttle {
    const INTERVAL: Millis = 10_000;

    pub const fn new() -> Self {
        Self { quiet_until: AtomicU64::new(0) }
    }

    /// Whether a message may be logged now.
    pub fn lets_through(&self, now: Millis) -> bool {
        let quiet = is_ahead(self.quiet_until.load(Ordering::Relaxed), now, Self::INTERVAL);
        if !quiet {
            self.quiet_until.store(now + Self::INTERVAL, Ordering::Relaxed);
        }
        !quiet
    }
}

/// The same for messages of which each is about somebody.
pub struct ThrottleEach {
    quiet_until: Mutex<BTreeMap<Box<[u8]>, Millis>>,
}

impl ThrottleEach {
    /// Of how many a worker keeps in mind that they have been named. Others are not named meanwhile.
    const NAMES_MAX: usize = 1024;

    pub const fn new() -> Self {
        Self { quiet_until: Mutex::new(BTreeMap::new()) }
    }

    /// Whether a message about `name` may be logged now.
    pub fn lets_through(&self, name: &[u8], now: Millis) -> bool {
        let mut all = self.quiet_until.lock();
        let is_quiet = |until: &Millis| is_ahead(*until, now, Throttle::INTERVAL);
        if all.get(name).is_some_and(is_quiet) {
            return false;
        }
        if all.len() >= Self::NAMES_MAX {
            all.retain(|_, until| is_quiet(until));
        }
        let has_room = all.len() < Self::NAMES_MAX;
        if has_room {
            all.insert(name.into(), now + Throttle::INTERVAL);
        }
        has_room
    }
}
