//! This process: its clock, its log, its pid.

use std::io;

use super::bindings::{ngx_cycle, ngx_log_t, ngx_pid, ngx_timeofday};
use crate::sso::cache::Pid;
use crate::sso::token::Millis;

/// The Unix clock, as of this turn of the event loop.
pub fn now() -> Millis {
    let time = ngx_timeofday();
    time.sec as Millis * 1000 + time.msec as Millis
}

/// The log of the process.
pub fn cycle_log() -> *mut ngx_log_t {
    // SAFETY: there is a cycle, with a log, whenever a module's code runs.
    unsafe { (*ngx_cycle).log }
}

/// This process.
pub fn process() -> Pid {
    // SAFETY: nginx sets its own pid before any module's code runs in a process.
    unsafe { ngx_pid }
}

/// Whether a process lives.
pub fn is_alive(pid: Pid) -> bool {
    // SAFETY: signal 0 is not sent. A process of another user (EPERM) lives.
    pid == process()
        || unsafe { libc::kill(pid, 0) } == 0
        || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}
