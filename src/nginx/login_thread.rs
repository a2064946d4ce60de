//! The one thread of a worker that may block: it logs in, and wakes the event loop.
//!
//! Threads do not survive a fork, so that a worker starts its own, and only when it first needs
//! one. The thread logs nothing and touches nothing of nginx's.

use std::collections::VecDeque;
use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Write};
use std::mem::{discriminant, MaybeUninit};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::sso::accounts::{Account, Authorization};
use crate::sso::npm::{LoginError, Role};
use crate::sso::token::Token;

/// What the thread is asked for.
pub enum Task {
    /// A token.
    LogIn,
    /// A token for this one, which lives on for a while.
    Renew(Arc<Authorization>),
    /// Whether NPM still takes this one, and what its account may do.
    Check(Arc<Authorization>),
}

/// What NPM gave.
pub enum Answer {
    Token {
        token: Token,
        role: Role,
        renewed: bool,
    },
    /// The token that was asked about is taken.
    Takes(Role),
    TakesNot,
}

/// A task that has been done.
pub struct Done {
    pub account: Arc<Account>,
    pub task: Task,
    pub result: Result<Answer, LoginError>,
    /// How long NPM took.
    pub took: Duration,
}

/// The thread, from the event loop's side. Dropped, it ends when its login under way has ended.
pub struct LoginThread {
    shared: Arc<Shared>,
}

struct Shared {
    wanted: Mutex<Wanted>,
    something_wanted: Condvar,
    done: Mutex<Vec<Done>>,
    /// An eventfd: written to when `done` has something.
    wake: File,
}

#[derive(Default)]
struct Wanted {
    tasks: VecDeque<(Arc<Account>, Task)>,
    stop: bool,
}

impl LoginThread {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// When the system gives no descriptor or no thread.
    pub fn start() -> io::Result<Self> {
        stay_mapped()?;
        let shared = Arc::new(Shared {
            wanted: Mutex::default(),
            something_wanted: Condvar::new(),
            done: Mutex::default(),
            wake: eventfd()?,
        });
        let theirs = shared.clone();
        let _blocked = BlockedSignals::block();
        thread::Builder::new().name("npm_token_login".to_owned()).spawn(move || theirs.run())?;
        Ok(Self { shared })
    }

    /// A descriptor of its own that is readable when [`Self::take_done`] has something. The caller
    /// closes it.
    ///
    /// # Errors
    ///
    /// When the system gives no descriptor.
    pub fn wake_descriptor(&self) -> io::Result<RawFd> {
        // SAFETY: fcntl with a valid descriptor and no pointer.
        match unsafe { libc::fcntl(self.shared.wake.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) } {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(descriptor),
        }
    }

    /// Asks for something. One thing is done after the other, and none twice: while NPM hangs,
    /// promises become void, and are made anew, before their turn comes.
    pub fn ask(&self, account: Arc<Account>, task: Task) {
        let mut wanted = self.shared.wanted.lock();
        let is_same = |(other, asked): &(Arc<Account>, Task)| {
            other.key == account.key && discriminant(asked) == discriminant(&task)
        };
        if !wanted.tasks.iter().any(is_same) {
            wanted.tasks.push_back((account, task));
            self.shared.something_wanted.notify_one();
        }
    }

    /// What has been done since the last call.
    pub fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut *self.shared.done.lock())
    }
}

impl Drop for LoginThread {
    fn drop(&mut self) {
        self.shared.wanted.lock().stop = true;
        self.shared.something_wanted.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        while let Some((account, task)) = self.next() {
            let begun = Instant::now();
            // Others' code runs in there. Whatever befalls it, those that wait get an answer.
            let result = catch_unwind(AssertUnwindSafe(|| perform(&account, &task)))
                .unwrap_or_else(|_| Err(LoginError::Local("the login panicked".to_owned())));
            self.done.lock().push(Done { account, task, result, took: begun.elapsed() });
            // A full counter (EAGAIN) is as good: the event loop is woken.
            let _ = (&self.wake).write(&1u64.to_ne_bytes());
        }
    }

    fn next(&self) -> Option<(Arc<Account>, Task)> {
        let mut wanted = self.wanted.lock();
        loop {
            if wanted.stop {
                return None;
            }
            if let Some(task) = wanted.tasks.pop_front() {
                return Some(task);
            }
            self.something_wanted.wait(&mut wanted);
        }
    }
}

fn perform(account: &Account, task: &Task) -> Result<Answer, LoginError> {
    let log_in = || {
        let (token, role) = account.issuer.log_in(&account.credentials)?;
        Ok(Answer::Token { token, role, renewed: false })
    };
    match task {
        Task::LogIn => log_in(),
        Task::Renew(old) => match account.issuer.renew(old.expose()) {
            Ok((token, role)) => Ok(Answer::Token { token, role, renewed: true }),
            Err(error) if error.is_no_answer() => Err(error),
            Err(_) => log_in(),
        },
        Task::Check(token) => {
            let role = account.issuer.takes(token.expose())?;
            Ok(role.map_or(Answer::TakesNot, Answer::Takes))
        }
    }
}

/// Keeps this library mapped until the process is gone. A worker that exits closes it
/// (`ngx_unload_module`) while the thread may still be running in it. Not so the master, in which it
/// must go with its configuration: nginx has written the places of its modules into it
/// (`ngx_module_t.index`, `ctx_index`), which are others' when it is loaded again.
fn stay_mapped() -> io::Result<()> {
    let within = (stay_mapped as fn() -> io::Result<()>) as *const c_void;
    let mut info = MaybeUninit::<libc::Dl_info>::uninit();
    // SAFETY: dladdr fills what it is given, unless it fails; the name is ended by a null byte. The
    // library of that name is open, so that nothing is loaded and no initializer runs.
    let handle = unsafe {
        match libc::dladdr(within, info.as_mut_ptr()) {
            0 => ptr::null_mut(),
            _ => libc::dlopen(
                info.assume_init().dli_fname,
                libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE,
            ),
        }
    };
    match handle.is_null() {
        true => Err(io::Error::other("the module cannot be kept in memory")),
        false => Ok(()),
    }
}

fn eventfd() -> io::Result<File> {
    // SAFETY: a new descriptor, owned by nobody else.
    unsafe {
        match libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            descriptor => Ok(File::from_raw_fd(descriptor)),
        }
    }
}

/// All signals blocked in this thread, until dropped. A thread that is spawned meanwhile leaves
/// them to the main thread, whose event loop they must wake (as `ngx_thread_pool_cycle` does).
struct BlockedSignals(libc::sigset_t);

impl BlockedSignals {
    fn block() -> Self {
        let mut all = MaybeUninit::uninit();
        let mut before = MaybeUninit::uninit();
        // SAFETY: sigfillset and pthread_sigmask initialize the sets that they are given; neither
        // fails with these arguments.
        unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), before.as_mut_ptr());
            Self(before.assume_init())
        }
    }
}

impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: restores the set that `block` saved.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.0, ptr::null_mut()) };
    }
}
