//! What the module knows of one request.

use std::ffi::c_void;
use std::mem::size_of;
use std::ptr;
use std::sync::Arc;

use ngx::http::HttpModuleLocationConf;

use super::bindings::{ngx_pool_cleanup_add, ngx_str_t};
use super::headers_in::{self, Original, Sent};
use super::pool::OutOfMemory;
use super::request::Request;
use super::settings::{Directive, Settings};
use super::waiting::{self, Ticket};
use super::TokenInject;
use crate::sso::account::{Account, Authorization};
use crate::sso::marker::is_marker;
use crate::sso::token::Millis;

/// What became of a request: the values of `$npm_token_status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenStatus {
    /// The token came from the cache.
    Hit,
    /// The request waited for a login.
    Miss,
    /// The client's own token was left alone.
    Kept,
    /// Another site started the request.
    CrossSite,
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
            Self::CrossSite => "cross_site",
            Self::NoAccount => "no_account",
            Self::Error => "error",
        }
    }
}

/// Whether the answer to a request, if it is a page, is NPM's UI, to be given a script: that which
/// opens it signed in, or, where there is no token, that which takes back what the first one left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    No,
    /// The client does not say what it asks for, as programs do.
    MayOpen,
    /// A browser's navigation. It gets the whole page, whatever part it has already.
    Opens,
}

/// The state of a request that has an Authentik user. Lives in the request's pool, and is dropped
/// with it.
pub struct RequestContext {
    /// The directive of the location in which it was made. Only to be compared.
    directive: *const Settings,
    pub status: TokenStatus,
    pub account: Option<Arc<Account>>,
    /// The token of the account's that goes to NPM.
    pub token: Option<Arc<Authorization>>,
    /// What the client sent.
    pub sent: Sent,
    /// Whether the answer is to be given a script.
    pub page: Page,
    /// The headers that the client sent, where the module changed them.
    pub original: Option<Original>,
    /// The place among those that wait for a login.
    pub ticket: Option<Ticket>,
    /// When it began to wait.
    pub waiting_since: Millis,
}

impl RequestContext {
    /// Gives the request a context.
    ///
    /// # Errors
    ///
    /// When memory is out.
    pub fn create(
        request: &mut Request,
        settings: &Settings,
        sent: Sent,
    ) -> Result<&'static mut Self, OutOfMemory> {
        // SAFETY: the pool is the request's, and gives room for the context, aligned for any type.
        // The reference ends with the request; no handler keeps it beyond its own call, or evaluates a
        // variable meanwhile, which may look at the context.
        let context = unsafe {
            let cleanup = ngx_pool_cleanup_add(request.pool().as_ptr(), size_of::<Self>());
            let cleanup = cleanup.as_mut().ok_or(OutOfMemory)?;
            let context = cleanup.data.cast::<Self>();
            context.write(Self {
                directive: settings,
                status: TokenStatus::Error,
                account: None,
                token: None,
                sent,
                page: Page::No,
                original: None,
                ticket: None,
                waiting_since: 0,
            });
            cleanup.handler = Some(DROP_CONTEXT);
            &mut *context
        };
        // SAFETY: the slot is the request's.
        unsafe { *request.slot() = ptr::from_mut(context).cast() };
        Ok(context)
    }

    /// The context that the request has been given in this location. A subrequest has that of its
    /// main request, where both locations have the same directive.
    pub fn of(request: &Request) -> Option<&Self> {
        let context = Self::of_main(request)?;
        match TokenInject::location_conf(request.as_ref()) {
            Some(Directive::On(settings)) if context.is_of(settings) => Some(context),
            _ => None,
        }
    }

    /// The context of the main request, which may be the request itself.
    pub fn of_main(request: &Request) -> Option<&Self> {
        // SAFETY: as for `of_mut`.
        unsafe { Self::slot(request.main()).as_ref() }
    }

    /// Whether it was made in a location with this very directive.
    pub fn is_of(&self, settings: &Settings) -> bool {
        ptr::eq(self.directive, settings)
    }

    /// The same, of a main request, to be changed.
    pub fn of_mut(request: &mut Request) -> Option<&'static mut Self> {
        // SAFETY: the slot holds what `create` put there, or null. The reference ends with the
        // request; no handler keeps it beyond its own call, or evaluates a variable meanwhile.
        unsafe { Self::slot(request).as_mut() }
    }

    /// Whether NPM's UI asked with a marker for a token that there is not.
    pub fn lacks_token(&self) -> bool {
        matches!(self.status, TokenStatus::Error | TokenStatus::NoAccount)
            && self.sent.only_one().is_some_and(|sent| is_marker(sent.as_bytes()))
    }

    fn slot(request: &Request) -> *mut Self {
        // SAFETY: the slot is the request's.
        unsafe { (*request.slot()).cast() }
    }

    /// Makes `token` the one `Authorization` that NPM gets, or lets it get none.
    ///
    /// # Errors
    ///
    /// When memory is out.
    #[inline(always)]
    pub fn authorize(
        &mut self,
        request: &mut Request,
        token: Option<Arc<Authorization>>,
    ) -> Result<(), OutOfMemory> {
        self.token = token;
        let whole_page = self.page == Page::Opens;
        let value = self.authorization();
        self.original = Some(headers_in::change(request, self.sent, value, whole_page)?);
        Ok(())
    }

    /// What goes to NPM as `Authorization`.
    pub fn authorization(&self) -> Option<ngx_str_t> {
        match (&self.token, self.status) {
            (Some(token), _) => {
                let value = token.expose();
                Some(ngx_str_t { len: value.len(), data: value.as_ptr().cast_mut() })
            }
            (None, TokenStatus::Kept) => self.sent.only_one(),
            (None, _) => None,
        }
    }
}

impl Drop for RequestContext {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            waiting::leave(ticket);
        }
    }
}

/// The cleanup by which a context is found when nginx has cleared the slot of this module.
const DROP_CONTEXT: unsafe extern "C" fn(*mut c_void) = drop_context;

unsafe extern "C" fn drop_context(data: *mut c_void) {
    // SAFETY: `create` registered this handler with the context as its data; nginx calls it once.
    unsafe { ptr::drop_in_place(data.cast::<RequestContext>()) }
}

/// Gives the client its own headers back, where the module changed them.
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
            if let Some(original) = context.original.take() {
                return headers_in::restore(request, original, context.sent);
            }
        }
        // SAFETY: as above.
        cleanup = unsafe { this.next.as_ref() };
    }
    Ok(())
}
