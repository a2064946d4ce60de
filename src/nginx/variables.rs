//! The variables `$npm_token_status`, `$npm_token_identity` and `$npm_token_authorization`, and how long
//! nginx's own `$http_authorization` holds.

use std::ptr;

use ngx::core::Status;
use ngx::http::{HttpModuleLocationConf, HttpModuleMainConf};
use ngx::ngx_string;

use super::bindings::{
    ngx_conf_t, ngx_http_add_variable, ngx_http_core_main_conf_t, ngx_http_request_t,
    ngx_http_variable_t, ngx_http_variable_value_t, ngx_int_t, ngx_str_t, HttpCore,
    NGX_HTTP_VAR_NOCACHEABLE,
};
use super::context::RequestContext;
use super::request::Request;
use super::settings::Directive;
use super::TokenInject;

type Get = unsafe extern "C" fn(
    *mut ngx_http_request_t,
    *mut ngx_http_variable_value_t,
    usize,
) -> ngx_int_t;

/// Adds the variables to the configuration.
pub fn add(cf: *mut ngx_conf_t) -> Status {
    let variables: [(ngx_str_t, Get); 3] = [
        (ngx_string!("npm_token_status"), status),
        (ngx_string!("npm_token_identity"), identity),
        (ngx_string!("npm_token_authorization"), authorization),
    ];
    for (mut name, get) in variables {
        // SAFETY: cf is valid, and the name static.
        let variable =
            unsafe { ngx_http_add_variable(cf, &mut name, NGX_HTTP_VAR_NOCACHEABLE as _).as_mut() };
        let Some(variable) = variable else {
            return Status::NGX_ERROR;
        };
        variable.get_handler = Some(get);
    }
    Status::NGX_OK
}

/// Has nginx read `$http_authorization` anew each time. By itself it keeps the first value, in all
/// locations that a request comes to and in its subrequests: there it would be a token that is not for
/// them, or, in the token's place, what the client sent.
///
/// # Errors
///
/// When memory is out, or another module has that variable for itself, which nginx has logged.
pub fn forget_authorization(cf: &mut ngx_conf_t) -> Result<(), Status> {
    let core: &ngx_http_core_main_conf_t = HttpCore::main_conf(cf).ok_or(Status::NGX_ERROR)?;
    let mut name = ngx_string!("http_authorization");
    // SAFETY: the array has elements of this type; cf is valid, and the name static.
    let (headers, variable) = unsafe {
        let prefixes = core.prefix_variables.as_slice::<ngx_http_variable_t>();
        let headers = prefixes.iter().find(|prefix| prefix.name.as_bytes() == b"http_");
        let get = headers.and_then(|headers| headers.get_handler);
        (get, ngx_http_add_variable(cf, &mut name, NGX_HTTP_VAR_NOCACHEABLE as _).as_mut())
    };
    let variable = variable.ok_or(Status::NGX_ERROR)?;
    // Where the configuration sets it, as by `map`, it is no header.
    if variable.get_handler.is_none() {
        variable.get_handler = headers;
        // As ngx_http_variables_init_vars does it for what begins with `http_`.
        variable.data = ptr::from_ref(&variable.name).expose_provenance();
    }
    Ok(())
}

unsafe extern "C" fn status(
    r: *mut ngx_http_request_t,
    v: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    // SAFETY: nginx passes a valid request.
    let request = unsafe { Request::from_ngx_http_request(r) };
    let text = match (RequestContext::of(request), TokenInject::location_conf(request.as_ref())) {
        (Some(context), _) => context.status.as_str(),
        (None, Some(Directive::On(_))) => "none",
        (None, _) => "",
    };
    // SAFETY: nginx passes a valid value; the text is static.
    unsafe { set(v, text.as_bytes()) }
}

unsafe extern "C" fn identity(
    r: *mut ngx_http_request_t,
    v: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    // SAFETY: nginx passes a valid request.
    let request = unsafe { Request::from_ngx_http_request(r) };
    let account = RequestContext::of(request).and_then(|context| context.account.as_ref());
    let text = account.map_or("", |account| &account.credentials.identity);
    // SAFETY: nginx passes a valid value; the context keeps the account as long as the request.
    unsafe { set(v, text.as_bytes()) }
}

unsafe extern "C" fn authorization(
    r: *mut ngx_http_request_t,
    v: *mut ngx_http_variable_value_t,
    _: usize,
) -> ngx_int_t {
    // SAFETY: nginx passes a valid request.
    let request = unsafe { Request::from_ngx_http_request(r) };
    let context = RequestContext::of(request);
    let value = context.and_then(RequestContext::authorization);
    let text = value.as_ref().map_or(&[][..], ngx_str_t::as_bytes);
    // SAFETY: nginx passes a valid value; the text is what the client sent, or the token, which the
    // context keeps as long as the request.
    unsafe { set(v, text) }
}

/// # Safety
///
/// The value is valid, and the text lives as long as the request.
unsafe fn set(v: *mut ngx_http_variable_value_t, text: &[u8]) -> ngx_int_t {
    // SAFETY: as promised by the caller.
    let value = unsafe { &mut *v };
    value.set_valid(1);
    value.set_no_cacheable(0);
    value.set_not_found(0);
    value.set_len(text.len() as u32);
    value.data = text.as_ptr().cast_mut();
    Status::NGX_OK.into()
}
