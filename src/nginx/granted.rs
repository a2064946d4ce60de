//! Whether access to a location was granted before nginx went on from there with the request in
//! another one.
//!
//! Authentik's answer may name a user and deny access all the same, and `auth_request_set` keeps the
//! name. So a location that a denied request comes to, by `error_page`, would give that user's token,
//! unless it asks Authentik itself.
//!
//! nginx clears a request's module contexts when it redirects it internally, but not its variables.
//! So the flag of a variable keeps what was granted until the redirect, and the context of this
//! module, from the redirect on, what had been.

use std::ffi::{c_void, CStr};

use ngx::core::Status;
use ngx::http::{HttpModule, HttpModuleMainConf};
use ngx::ngx_string;

use super::bindings::{
    modules, ngx_conf_t, ngx_http_add_variable, ngx_http_get_variable_index, ngx_http_request_t,
    ngx_http_variable_value_t, ngx_int_t, ngx_uint_t, NGX_HTTP_MAX_URI_CHANGES,
    NGX_HTTP_VAR_NOHASH,
};
use super::request::Request;
use super::settings::{Granted, MainConf};
use super::{AccessPhase, TokenInject};

/// What this module's context says from the first rewrite phase of a location on, anew after each
/// internal redirect. None is a pointer.
const NOT_REDIRECTED: usize = 3;
const HAD_BEEN_GRANTED: usize = 1;
const HAD_NOT_BEEN_GRANTED: usize = 2;

/// Prepares it for a configuration in which the directive stands.
///
/// # Errors
///
/// When memory is out.
pub fn prepare(cf: &mut ngx_conf_t) -> Result<(), Status> {
    // For nobody to read.
    let mut name = ngx_string!("npm_token_granted");
    // SAFETY: cf is valid, and the name static.
    let index = unsafe {
        let variable = ngx_http_add_variable(cf, &mut name, NGX_HTTP_VAR_NOHASH as _).as_mut();
        variable.ok_or(Status::NGX_ERROR)?.get_handler = Some(not_found);
        ngx_http_get_variable_index(cf, &mut name)
    };
    let variable = ngx_uint_t::try_from(index).map_err(|_| Status::NGX_ERROR)?;
    let auth_request = modules(cf)
        // SAFETY: nginx gives each module that it loads a name.
        .find(|module| unsafe { CStr::from_ptr(module.name) == c"ngx_http_auth_request_module" })
        .map(|module| module.ctx_index);
    let main = TokenInject::main_conf_mut(cf).ok_or(Status::NGX_ERROR)?;
    main.granted = Some(Granted { variable, auth_request });
    Ok(())
}

unsafe extern "C" fn not_found(
    _: *mut ngx_http_request_t,
    value: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    // SAFETY: nginx passes a valid value.
    unsafe { (*value).set_not_found(1) };
    Status::NGX_OK.into()
}

/// A main request's location is about to be known, maybe not for the first time.
///
/// Whether it has been redirected until here is told by nginx's own count of what may still change its
/// address, which a redirect takes from. Not by its being an internal one: a `rewrite` makes it that.
pub fn note_route(request: &mut Request) {
    // SAFETY: a request has a slot for each module, and this one is the module's own.
    let what = unsafe { &mut *slot(request, AccessPhase::module().ctx_index) };
    if !what.is_null() {
        return;
    }
    let is_redirected = request.as_ref().uri_changes() <= NGX_HTTP_MAX_URI_CHANGES;
    let noted = match is_redirected {
        true => had_been_granted(request),
        false => NOT_REDIRECTED,
    };
    *what = std::ptr::without_provenance_mut(noted);
}

/// What the flag says, which is taken back.
#[inline(never)]
fn had_been_granted(request: &mut Request) -> usize {
    let Some(flag) = flag(request) else {
        return NOT_REDIRECTED;
    };
    let had_been = flag.valid() != 0;
    flag.set_valid(0);
    match had_been {
        true => HAD_BEEN_GRANTED,
        false => HAD_NOT_BEEN_GRANTED,
    }
}

/// A request has come past the access phase of its location.
pub fn note_access(request: &mut Request) {
    let is_granted = is_granted(request);
    if let Some(flag) = flag(request) {
        flag.set_valid(u32::from(is_granted));
    }
}

/// Whether a request that its location lets in has been let in wherever it was before, or its
/// location has asked Authentik itself.
pub fn is_granted(request: &Request) -> bool {
    let auth_request = || TokenInject::main_conf(request.as_ref())?.granted?.auth_request;
    // SAFETY: a request has a slot for each module.
    let in_slot = |index| unsafe { *slot(request, index) };
    let what = in_slot(AccessPhase::module().ctx_index).addr();
    request.as_ref().internal() == 0
        || matches!(what, NOT_REDIRECTED | HAD_BEEN_GRANTED)
        || auth_request().is_some_and(|index| !in_slot(index).is_null())
}

/// The value whose flag says that access has been granted in this location.
fn flag(request: &mut Request) -> Option<&mut ngx_http_variable_value_t> {
    let conf: &MainConf = TokenInject::main_conf(request.as_ref())?;
    let index = conf.granted?.variable;
    // SAFETY: a request has a value for each variable that has an index.
    unsafe { request.as_ref().variables.add(index).as_mut() }
}

fn slot(request: &Request, index: usize) -> *mut *mut c_void {
    request.as_ref().ctx.wrapping_add(index)
}
