//! Waiting for what others do.

use std::collections::HashSet;
use std::io;
use std::mem::size_of;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
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

/// A port of 127.0.0.1 that nobody listens on, nor will while this process runs.
///
/// # Panics
///
/// When there is none.
pub fn closed_port() -> u16 {
    static HELD: Mutex<Vec<TcpListener>> = Mutex::new(Vec::new());
    let held = hold_port(0).expect("a free port");
    let port = held.local_addr().expect("the port of a bound socket").port();
    HELD.lock().unwrap_or_else(PoisonError::into_inner).push(held);
    port
}

/// Takes a port of 127.0.0.1, 0 being any, without listening on it: whoever connects is refused, and
/// nobody else gets it who takes a free one. `listen` makes it a listener as any.
///
/// # Errors
///
/// When it is taken.
pub fn hold_port(port: u16) -> io::Result<TcpListener> {
    let check = |result: i32| match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    };
    // SAFETY: the calls get a descriptor that is open, and the addresses and sizes of values that
    // outlive them; all zeros is an address.
    unsafe {
        let socket = check(libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
        let socket = OwnedFd::from_raw_fd(socket);
        let on = 1i32;
        check(libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_REUSEADDR,
            (&raw const on).cast(),
            size_of::<i32>() as u32,
        ))?;
        let mut address: libc::sockaddr_in = std::mem::zeroed();
        address.sin_family = libc::AF_INET as u16;
        address.sin_port = port.to_be();
        address.sin_addr.s_addr = u32::from(Ipv4Addr::LOCALHOST).to_be();
        let size = size_of::<libc::sockaddr_in>() as u32;
        check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size))?;
        Ok(TcpListener::from(socket))
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
