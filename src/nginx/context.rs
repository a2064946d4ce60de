//! What the module knows of one request.

use std::ffi::c_void;
use std::mem::size_of;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use ngx::ffi::{ngx_http_request_t, ngx_pool_cleanup_add, ngx_str_t};
use ngx::http::{HttpModule, Request};

use super::authorization::{self, OutOfMemory};
use super::logins::{self, Outcome, Ticket};
use super::TokenInject;
use crate::sso::accounts::Account;

/// What became of a request: the values of `$npm_token_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenStatus {
    /// The token came from the cache.
    Hit,
    /// The request waited for a login.
    Miss,
    /// The client's own token was left alone.
    Kept,
    /// No account fits the Authentik user.
    NoAccount,
    /// NPM gave no token.
    Error,
}

impl TokenStatus {
    /// The text of the variable.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Kept => "kept",
            Self::NoAccount => "no_account",
            Self::Error => "error",
        }
    }
}

/// The state of a request that has an Authentik user. Lives in the request's pool, and is dropped
/// with it.
pub struct RequestContext {
    pub request: NonNull<ngx_http_request_t>,
    pub status: TokenStatus,
    pub account: Option<Arc<Account>>,
    /// What goes to NPM as `Authorization`; empty where nothing does.
    pub authorization: ngx_str_t,
    /// What the client had sent, where the module changed it.
    replaced: Option<Option<ngx_str_t>>,
    /// The place among those that wait for a login.
    pub ticket: Option<Ticket>,
    /// How the login ended that the request waited for.
    pub outcome: Option<Outcome>,
}

impl RequestContext {
    /// Gives the request a context.
    ///
    /// # Errors
    ///
    /// When memory is out.
    pub fn create(request: &mut Request) -> Result<&'static mut Self, OutOfMemory> {
        // SAFETY: the pool is the request's, and gives room for the context, aligned for any type.
        // The reference ends with the request; no handler keeps it beyond its own call.
        let context = unsafe {
            let cleanup = ngx_pool_cleanup_add(request.pool().as_ptr(), size_of::<Self>());
            let cleanup = cleanup.as_mut().ok_or(OutOfMemory)?;
            let context = cleanup.data.cast::<Self>();
            context.write(Self {
                request: NonNull::from(request.as_mut()),
                status: TokenStatus::Error,
                account: None,
                authorization: ngx_str_t::empty(),
                replaced: None,
                ticket: None,
                outcome: None,
            });
            cleanup.handler = Some(DROP_CONTEXT);
            &mut *context
        };
        request.set_module_ctx(ptr::from_mut(context).cast(), TokenInject::module());
        Ok(context)
    }

    /// The context that the request has been given in this location. A subrequest has that of its
    /// main request, whose headers it shares.
    pub fn of(request: &Request) -> Option<&'static mut Self> {
        // SAFETY: every request has a main one, which may be itself.
        let r: &ngx_http_request_t = unsafe { &*request.as_ref().main };
        // SAFETY: the slot of this module holds what `create` put there, or null.
        unsafe { (*r.ctx.add(TokenInject::module().ctx_index)).cast::<Self>().as_mut() }
    }

    /// Makes `authorization` the one that NPM gets, or none.
    ///
    /// # Errors
    ///
    /// When memory is out.
    pub fn authorize(
        &mut self,
        request: &mut Request,
        authorization: Option<ngx_str_t>,
    ) -> Result<(), OutOfMemory> {
        let original = authorization::current(request);
        authorization::replace(request, authorization)?;
        self.replaced = Some(original);
        self.authorization = authorization.unwrap_or(ngx_str_t::empty());
        Ok(())
    }
}

impl Drop for RequestContext {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            logins::leave(ticket);
        }
    }
}

/// The cleanup by which a context is found when nginx has cleared the slot of this module.
const DROP_CONTEXT: unsafe extern "C" fn(*mut c_void) = drop_context;

unsafe extern "C" fn drop_context(data: *mut c_void) {
    // SAFETY: `create` registered this handler with the context as its data; nginx calls it once.
    unsafe { ptr::drop_in_place(data.cast::<RequestContext>()) }
}

/// Gives the client its own `Authorization` back, where the module changed it.
///
/// # Errors
///
/// When memory is out.
pub fn take_back(request: &mut Request) -> Result<(), OutOfMemory> {
    // SAFETY: cleanups are linked by valid pointers, the last one's being null.
    let mut cleanup = unsafe { request.pool().as_ref().cleanup.as_ref() };
    while let Some(this) = cleanup {
        if this.handler.is_some_and(|handler| ptr::fn_addr_eq(handler, DROP_CONTEXT)) {
            // SAFETY: this handler goes with a context as its data.
            let context = unsafe { &mut *this.data.cast::<RequestContext>() };
            if let Some(original) = context.replaced.take() {
                return authorization::replace(request, original);
            }
        }
        // SAFETY: as above.
        cleanup = unsafe { this.next.as_ref() };
    }
    Ok(())
}
