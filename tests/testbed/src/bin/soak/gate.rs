//! A gate that all clients pass with each request: while it is closed, nginx is idle.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    is_closed: bool,
    inside: usize,
}

/// Somebody inside.
pub struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.state().inside -= 1;
        self.0.changed.notify_all();
    }
}

impl Gate {
    /// Goes in, where the gate is open.
    pub fn pass(&self) -> Option<Pass<'_>> {
        let mut state = self.state();
        (!state.is_closed).then(|| {
            state.inside += 1;
            Pass(self)
        })
    }

    /// Waits until it is open.
    pub fn wait(&self) {
        let waiting = self.changed.wait_while(self.state(), |state| state.is_closed);
        drop(waiting.unwrap_or_else(PoisonError::into_inner));
    }

    /// Closes it, and waits until nobody is inside.
    pub fn close(&self) {
        self.state().is_closed = true;
        let empty = self.changed.wait_while(self.state(), |state| state.inside > 0);
        drop(empty.unwrap_or_else(PoisonError::into_inner));
    }

    pub fn open(&self) {
        self.state().is_closed = false;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
