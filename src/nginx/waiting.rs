//! Requests that wait: their tickets, how they park, and how they run on.
//!
//! A request is known here by its pointer, and by what stands in its slot while it waits. It has been
//! freed where its ticket has been given up, which whoever holds the ticket does. It has gone elsewhere
//! where its slot holds something else: nginx does a location's `post_action` with the request of a
//! client that has left.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use ngx::core::Status;

use super::bindings::{
    ngx_handle_read_event, ngx_http_block_reading, ngx_http_core_run_phases,
    ngx_http_finalize_request, ngx_http_log_ctx_t, ngx_http_request_empty_handler,
    ngx_http_request_t, ngx_http_run_posted_requests, ngx_http_test_reading, ngx_int_t,
    ngx_post_event, ngx_posted_events, NGX_HTTP_INTERNAL_SERVER_ERROR, NGX_OK,
};
use super::request::Request;
use crate::sso::account::Authorization;

thread_local! {
    static ROOM: RefCell<Room> = RefCell::default();
}

/// What came of what a request has waited for.
#[derive(Clone)]
pub enum Outcome {
    Token(Arc<Authorization>),
    Failure,
    /// NPM has no user who may sign in.
    Nobody,
}

/// A place among those that wait. The request gives it up when it is freed, or goes on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

#[derive(Default)]
struct Room {
    last: u64,
    waiting: HashMap<Ticket, Waiting>,
    /// Those that are to go on, in this order.
    called: VecDeque<Ticket>,
}

struct Waiting {
    request: NonNull<ngx_http_request_t>,
    /// What its slot holds as long as it waits.
    context: *mut c_void,
    outcome: Option<Outcome>,
}

impl Waiting {
    /// Whether the request still waits here.
    fn is_here(&self) -> bool {
        // SAFETY: a place is given up before its request is freed.
        unsafe { *Request::from_ngx_http_request(self.request.as_ptr()).slot() == self.context }
    }
}

/// Gives the request a place.
pub fn enter(request: &mut Request) -> Ticket {
    // SAFETY: the slot is the request's.
    let context = unsafe { *request.slot() };
    ROOM.with_borrow_mut(|room| {
        room.last += 1;
        let waiting = Waiting { request: NonNull::from(request.as_mut()), context, outcome: None };
        room.waiting.insert(Ticket(room.last), waiting);
        Ticket(room.last)
    })
}

/// Gives up a place.
pub fn leave(ticket: Ticket) {
    ROOM.with_borrow_mut(|room| room.waiting.remove(&ticket));
}

/// Whether the place is still taken, and not called yet.
pub fn waits(ticket: Ticket) -> bool {
    ROOM.with_borrow(|room| room.waiting.get(&ticket).is_some_and(|w| w.outcome.is_none()))
}

/// Has a request go on at the next [`go_on`].
pub fn call(ticket: Ticket, outcome: Outcome) {
    ROOM.with_borrow_mut(|room| {
        if let Some(waiting) = room.waiting.get_mut(&ticket) {
            waiting.outcome = Some(outcome);
            room.called.push_back(ticket);
        }
    });
}

/// What the request has waited for, if it has been called. Its place is given up then.
pub fn outcome(ticket: Ticket) -> Option<Outcome> {
    ROOM.with_borrow_mut(|room| {
        let outcome = room.waiting.get_mut(&ticket)?.outcome.take()?;
        room.waiting.remove(&ticket);
        Some(outcome)
    })
}

/// Goes on with all requests that have been called. One may free others, as when a connection with
/// many streams is closed: those give up their places by themselves, so that each is asked for anew.
pub fn go_on() {
    while let Some(ticket) = ROOM.with_borrow_mut(|room| room.called.pop_front()) {
        let request = ROOM.with_borrow(|room| {
            let waiting = room.waiting.get(&ticket).filter(|waiting| waiting.is_here());
            waiting.map(|waiting| waiting.request)
        });
        match request {
            // SAFETY: a place is given up before its request is freed, and it has been parked.
            Some(request) => unsafe { run_phases(request.as_ptr()) },
            None => leave(ticket),
        }
    }
}

/// Sets a waiting request's events, so that a client that leaves is noticed
/// (as `ngx_http_limit_req_handler` does).
pub fn park(request: &mut Request) -> Status {
    let r: &mut ngx_http_request_t = request.as_mut();
    // SAFETY: the request is valid, and so are its connection and that one's events.
    unsafe {
        let read = (*r.connection).read;
        if (*read).ready() != 0 {
            ngx_post_event(read, ptr::addr_of_mut!(ngx_posted_events));
        } else if ngx_handle_read_event(read, 0) != NGX_OK as ngx_int_t {
            return Status(NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t);
        }
    }
    r.read_event_handler = Some(ngx_http_test_reading);
    r.write_event_handler = Some(ngx_http_request_empty_handler);
    Status::NGX_AGAIN
}

/// Goes on with a request that has been parked (as `ngx_http_limit_req_delay` does).
///
/// # Safety
///
/// The request is valid, and has been parked.
unsafe fn run_phases(r: *mut ngx_http_request_t) {
    // SAFETY: as promised by the caller. The connection outlives the request.
    unsafe {
        let connection = (*r).connection;
        let log_context = (*(*connection).log).data.cast::<ngx_http_log_ctx_t>();
        if let Some(log_context) = log_context.as_mut() {
            log_context.current_request = r;
        }
        if ngx_handle_read_event((*connection).read, 0) != NGX_OK as ngx_int_t {
            ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR as ngx_int_t);
        } else {
            (*r).read_event_handler = Some(ngx_http_block_reading);
            (*r).write_event_handler = Some(ngx_http_core_run_phases);
            ngx_http_core_run_phases(r);
        }
        ngx_http_run_posted_requests(connection);
    }
}
