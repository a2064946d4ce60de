//! What there is to ask of a request, beside its headers.

use std::cell::UnsafeCell;
use std::ffi::c_void;

use ngx::core::Pool;
use ngx::http::HttpModule;

use super::bindings::{ngx_http_request_t, ngx_log_t, ngx_uint_t, NGX_HTTP_GET, NGX_HTTP_HEAD};
use super::TokenInject;
use crate::sso::path;

/// A request. (That of `ngx` reads nginx's structure by other bindings.) In a cell, for nginx changes it
/// where it is only asked: for the value of a variable, which other modules may make.
#[repr(transparent)]
pub struct Request(UnsafeCell<ngx_http_request_t>);

impl Request {
    /// The request that nginx passes to a handler.
    ///
    /// # Safety
    ///
    /// The pointer is valid, and nothing else refers to the request, as long as the reference is
    /// used.
    pub unsafe fn from_ngx_http_request<'r>(r: *mut ngx_http_request_t) -> &'r mut Self {
        // SAFETY: as promised by the caller; both types are the same in memory.
        unsafe { &mut *r.cast::<Self>() }
    }

    /// The pointer to it, for nginx's own functions.
    pub fn as_ptr(&self) -> *mut ngx_http_request_t {
        self.0.get()
    }

    /// Whether it is no subrequest.
    pub fn is_main(&self) -> bool {
        std::ptr::eq(self.as_ref(), self.as_ref().main)
    }

    /// The request that it is a part of, or itself.
    pub fn main(&self) -> &Self {
        // SAFETY: every request has a main one, which lives longer; both types are the same in memory.
        unsafe { &*self.as_ref().main.cast::<Self>() }
    }

    /// The slot in which it keeps what the module knows of it. nginx clears that where it redirects
    /// the request internally.
    pub fn slot(&self) -> *mut *mut c_void {
        self.as_ref().ctx.wrapping_add(TokenInject::module().ctx_index)
    }

    /// Its pool.
    pub fn pool(&self) -> Pool {
        // SAFETY: a request has a pool, which lives as long.
        unsafe { Pool::from_ngx_pool(self.as_ref().pool) }
    }

    /// The log of its connection.
    pub fn log(&self) -> *mut ngx_log_t {
        // SAFETY: a request has a connection, which lives longer.
        unsafe { (*self.as_ref().connection).log }
    }
}

impl AsRef<ngx_http_request_t> for Request {
    fn as_ref(&self) -> &ngx_http_request_t {
        // SAFETY: the request is valid; nobody keeps this reference while nginx is asked for a value.
        unsafe { &*self.0.get() }
    }
}

impl AsMut<ngx_http_request_t> for Request {
    fn as_mut(&mut self) -> &mut ngx_http_request_t {
        self.0.get_mut()
    }
}

/// Whether the request only reads.
pub fn is_read(request: &Request) -> bool {
    request.as_ref().method as u32 & (NGX_HTTP_GET | NGX_HTTP_HEAD) != 0
}

/// Whether the request may go to NPM's API, which has no pages.
#[inline]
pub fn is_api(request: &Request) -> bool {
    path::is_api(request.as_ref().uri.as_bytes())
}

/// Whether NPM may answer this request with a token.
pub fn asks_for_token(request: &Request) -> bool {
    let path = request.as_ref().uri.as_bytes();
    is_read(request)
        && (may_be_encoded(request) || path::may_be_tokens(path))
        && path::is_tokens(path)
}

/// Whether anything in the path may be, or have been, encoded (RFC 3986, section 2.1). Not where it is
/// still the one of the request line, in which there was no `%` (`ngx_http_process_request_uri`).
fn may_be_encoded(request: &Request) -> bool {
    let r: &ngx_http_request_t = request.as_ref();
    r.valid_unparsed_uri() == 0 || r.quoted_uri() != 0
}

/// Whether it came by https.
pub fn is_https(request: &Request) -> bool {
    // SAFETY: a request has a connection.
    unsafe { !(*request.as_ref().connection).ssl.is_null() }
}

/// `NGX_HTTP_VERSION_30`, which nginx has no name for before 1.25.
const HTTP_3: ngx_uint_t = 3000;

/// The host that the client asked, with its port: the header `Host`, which nginx makes of
/// `:authority` in HTTP/2, and in HTTP/3 that itself.
pub fn host(request: &Request) -> &[u8] {
    let r: &ngx_http_request_t = request.as_ref();
    // SAFETY: null, or a header of the request.
    if let Some(host) = unsafe { r.headers_in.host.as_ref() } {
        return host.value.as_bytes();
    }
    if r.http_version != HTTP_3 || r.host_start.is_null() {
        return &[];
    }
    // SAFETY: ngx_http_v3_process_pseudo_header sets both to one text, which lives as long as the
    // request's connection.
    unsafe {
        let len = r.host_end.offset_from(r.host_start);
        std::slice::from_raw_parts(r.host_start, usize::try_from(len).unwrap_or_default())
    }
}
