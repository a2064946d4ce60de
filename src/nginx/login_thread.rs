//! The threads of a worker that may block: they log in, and wake the event loop.
//!
//! Each NPM has a thread and a queue of its own, so that one that hangs keeps nobody waiting but
//! those who wait for it. Threads do not survive a fork, so that a worker starts its own, and only
//! when it first needs one. They log nothing and touch nothing of nginx's.

use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Write};
use std::iter;
use std::mem::{discriminant, MaybeUninit};
use std::os::fd::{FromRawFd, IntoRawFd, RawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::sso::account::{Account, Authorization};
use crate::sso::npm::{Issuer, LoginError, Role};
use crate::sso::sign_in_as::{self, Deed, SignedIn};
use crate::sso::token::Token;

/// What a thread is asked for.
pub enum Task {
    /// A token.
    LogIn,
    /// A token for this one, which lives on for a while.
    Renew(Arc<Authorization>),
    /// Whether NPM still takes this one, and what its account may do.
    Check(Arc<Authorization>),
    /// A token of a person's own NPM user.
    SignIn(Errand),
}

/// How a person is to be signed in.
#[derive(Clone)]
pub struct Errand {
    /// The service account's token.
    pub service: Arc<Authorization>,
    /// Whether NPM has not taken another one of these before.
    pub again: bool,
    /// Whether the person has a token, which lives on for a while.
    pub renewed: bool,
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
    /// What was done at NPM beside that.
    pub deeds: Vec<Deed>,
    /// How long NPM took.
    pub took: Duration,
}

/// The threads, from the event loop's side.
pub struct LoginThreads {
    /// By the URL of the NPM that they ask.
    threads: HashMap<String, LoginThread>,
    results: Arc<Results>,
}

/// What the threads have done.
struct Results {
    done: Mutex<Vec<Done>>,
    /// An eventfd: written to when `done` has something.
    wake: File,
}

impl LoginThreads {
    /// None yet.
    ///
    /// # Errors
    ///
    /// When the system gives no descriptor, or does not keep the library.
    pub fn new() -> io::Result<Self> {
        stay_mapped()?;
        let results = Results { done: Mutex::default(), wake: eventfd()? };
        Ok(Self { threads: HashMap::new(), results: Arc::new(results) })
    }

    /// A descriptor of its own that is readable when [`Self::take_done`] has something. The caller
    /// closes it.
    ///
    /// # Errors
    ///
    /// When the system gives no descriptor.
    pub fn wake_descriptor(&self) -> io::Result<RawFd> {
        self.results.wake.try_clone().map(File::into_raw_fd)
    }

    /// Asks the account's NPM for something, by a thread that is started if need be.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub fn ask(&mut self, account: Arc<Account>, task: Task) -> io::Result<()> {
        let url = account.issuer.url();
        if !self.threads.contains_key(url) {
            let thread = LoginThread::start(self.results.clone())?;
            self.threads.insert(url.to_owned(), thread);
        }
        if let Some(thread) = self.threads.get(url) {
            thread.queue.add(account, task);
        }
        Ok(())
    }

    /// What has been done since the last call.
    pub fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut *self.results.done.lock())
    }
}

impl Results {
    fn add(&self, done: impl Iterator<Item = Done>) {
        self.done.lock().extend(done);
        // A full counter (EAGAIN) is as good: the event loop is woken.
        let _ = (&self.wake).write(&1u64.to_ne_bytes());
    }
}

/// One of the threads. Dropped, it ends when its login under way has ended.
struct LoginThread {
    queue: Arc<Queue>,
}

impl LoginThread {
    fn start(results: Arc<Results>) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let theirs = queue.clone();
        let _blocked = BlockedSignals::block();
        let thread = thread::Builder::new().name("npm_token_login".to_owned());
        thread.spawn(move || run(&theirs, &results))?;
        Ok(Self { queue })
    }
}

impl Drop for LoginThread {
    fn drop(&mut self) {
        self.queue.wanted.lock().stop = true;
        self.queue.something_wanted.notify_one();
    }
}

/// What one NPM is to be asked for.
#[derive(Default)]
struct Queue {
    wanted: Mutex<Wanted>,
    something_wanted: Condvar,
}

#[derive(Default)]
struct Wanted {
    tasks: VecDeque<(Arc<Account>, Task)>,
    stop: bool,
}

impl Queue {
    /// One thing is done after the other, and none twice: while NPM hangs, promises become void,
    /// and are made anew, before their turn comes.
    fn add(&self, account: Arc<Account>, task: Task) {
        let mut wanted = self.wanted.lock();
        let is_same = |(other, asked): &(Arc<Account>, Task)| {
            let is_for_same = other.key == account.key && other.wanted() == account.wanted();
            is_for_same && discriminant(asked) == discriminant(&task)
        };
        if !wanted.tasks.iter().any(is_same) {
            wanted.tasks.push_back((account, task));
            self.something_wanted.notify_one();
        }
    }

    /// The next thing, once there is one. `None` when there will be none.
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

    /// All that this one is to be asked for.
    fn take(&self, issuer: &Arc<Issuer>) -> VecDeque<(Arc<Account>, Task)> {
        let mut wanted = self.wanted.lock();
        let is_taken = |(account, _): &(Arc<Account>, Task)| Arc::ptr_eq(&account.issuer, issuer);
        let (taken, left) = wanted.tasks.drain(..).partition(is_taken);
        wanted.tasks = left;
        taken
    }
}

/// What a thread does.
fn run(queue: &Queue, results: &Results) {
    while let Some((account, task)) = queue.next() {
        let begun = Instant::now();
        // Others' code runs in there. Whatever befalls it, those that wait get an answer.
        let mut deeds = Vec::new();
        let result = catch_unwind(AssertUnwindSafe(|| perform(&account, &task, &mut deeds)))
            .unwrap_or_else(|_| Err(LoginError::Local("the login panicked".to_owned())));
        let took = begun.elapsed();
        // Where nobody answers, the others would wait in vain for as long, one after the other.
        let others = match &result {
            Err(error) if error.is_no_answer() => {
                let error = error.clone();
                let fail = move |(account, task)| {
                    let result = Err(error.clone());
                    Done { account, task, result, deeds: Vec::new(), took }
                };
                queue.take(&account.issuer).into_iter().map(fail).collect()
            }
            _ => Vec::new(),
        };
        let first = Done { account, task, result, deeds, took };
        results.add(iter::once(first).chain(others));
    }
}

fn perform(account: &Account, task: &Task, deeds: &mut Vec<Deed>) -> Result<Answer, LoginError> {
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
        Task::SignIn(errand) => {
            let person = account.person().ok_or(LoginError::NoUser)?;
            let service = errand.service.expose();
            let SignedIn { token, role } =
                sign_in_as::sign_in(&account.issuer, service, person, deeds)?;
            Ok(Answer::Token { token, role, renewed: errand.renewed })
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
