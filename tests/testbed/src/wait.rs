//! Waiting for what others do.

use std::collections::HashSet;
use std::net::TcpListener;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(2);

/// Waits until `condition` holds.
///
/// # Panics
///
/// When it does not hold within `timeout`; `what` says what was waited for.
pub fn eventually(timeout: Duration, what: &str, condition: impl FnMut() -> bool) {
    assert!(happens(timeout, condition), "still waiting after {timeout:?} for {what}");
}

/// Whether `condition` holds within `timeout`.
pub fn happens(timeout: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(INTERVAL);
    }
}

/// A port of 127.0.0.1 that nobody listens on, a new one at each call.
///
/// # Panics
///
/// When there is none.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let given = given.get_or_insert_default();
    loop {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("the port of a bound socket").port();
        if given.insert(port) {
            return port;
        }
    }
}

/// A signal that ends pauses: given once, seen by all.
#[derive(Default)]
pub struct Stop {
    given: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Gives the signal.
    pub fn give(&self) {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Whether the signal was given.
    pub fn is_given(&self) -> bool {
        *self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pauses for `duration`, or until the signal is given; says whether it was.
    pub fn pause(&self, duration: Duration) -> bool {
        let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = self.changed.wait_timeout_while(given, duration, |given| !*given);
        *wait.unwrap_or_else(PoisonError::into_inner).0
    }
}
