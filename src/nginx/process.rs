//! This process: its clock, its log, its pid.

use std::io;

use super::bindings::{
    ngx_conf_t, ngx_cycle, ngx_inherited, ngx_log_t, ngx_pid, ngx_process, ngx_test_config,
    ngx_timeofday, ngx_uint_t, NGX_PROCESS_SIGNALLER,
};
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

/// Whether the configuration is being read to start an nginx where none runs. Not so for a test of
/// it, by the sender of a signal (`nginx -s`), at a reload, and by a new binary beside the old one.
pub fn is_cold_start(cf: &ngx_conf_t) -> bool {
    // SAFETY: nginx sets these before it reads a configuration, and changes them in no other thread;
    // each cycle has one before it, of which the first has no configuration (`ngx_is_init_cycle`).
    unsafe {
        let is_first = (*(*cf.cycle).old_cycle).conf_ctx.is_null();
        let is_signaller = ngx_process == NGX_PROCESS_SIGNALLER as ngx_uint_t;
        is_first && !is_signaller && ngx_test_config == 0 && ngx_inherited == 0
    }
}
