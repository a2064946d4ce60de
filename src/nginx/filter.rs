//! What happens to a response.
//!
//! NPM's page gets its script, and says who may frame it; an error that NPM answered raises a doubt
//! about the token.
//!
//! A module of its own, for a module has one place in nginx's order: the handlers of the other one
//! may stand anywhere, this one's filters must come before `ngx_http_headers_filter_module`. There
//! they see a response with the headers that `add_header` and `expires` add, still uncompressed, and
//! in memory.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use ngx::core::Status;
use ngx::http::HttpModuleLocationConf;

use super::bindings::{
    ngx_chain_t, ngx_conf_t, ngx_cycle_t, ngx_http_module_t, ngx_http_output_body_filter_pt,
    ngx_http_output_header_filter_pt, ngx_http_request_t, ngx_http_top_body_filter,
    ngx_http_top_header_filter, ngx_int_t, ngx_module_t, ngx_str_t, ngx_uint_t, NGX_HTTP_MODULE,
    NGX_HTTP_OK, NGX_HTTP_UNAUTHORIZED,
};
use super::context::{Page, RequestContext};
use super::logins;
use super::page::{self, OpenPage};
use super::pool::OutOfMemory;
use super::request::{is_api, Request};
use super::respond::{may_be_page, restrict_framing};
use super::settings::Directive;
use super::TokenInject;
use crate::sso::cache::Doubt;

static CONTEXT: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: None,
    postconfiguration: Some(postconfiguration),
    create_main_conf: None,
    init_main_conf: None,
    create_srv_conf: None,
    merge_srv_conf: None,
    create_loc_conf: None,
    merge_loc_conf: None,
};

/// The module, under the name that nginx knows it by.
#[used]
#[allow(non_upper_case_globals)]
pub static mut ngx_http_npm_token_inject_filter_module: ngx_module_t = ngx_module_t {
    ctx: ptr::addr_of!(CONTEXT).cast_mut().cast(),
    type_: NGX_HTTP_MODULE as ngx_uint_t,
    init_module: Some(init_module),
    ..ngx_module_t::default()
};

/// Whether nginx has ever taken a configuration with this build. Else it has none in which the
/// module's places in a request (`ctx_index`) are its own: see [`postconfiguration`].
static IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// nginx has read all of a configuration, and takes it.
extern "C" fn init_module(_: *mut ngx_cycle_t) -> ngx_int_t {
    IS_TAKEN.store(true, Ordering::Relaxed);
    Status::NGX_OK.into()
}

/// The filters behind this one. Set while a configuration is read, in a process with one thread.
static mut NEXT_HEADER_FILTER: ngx_http_output_header_filter_pt = None;
static mut NEXT_BODY_FILTER: ngx_http_output_body_filter_pt = None;

/// Puts the filters into nginx's chain, whether or not the directive stands anywhere: the chain is
/// the process's, not the configuration's. Where nginx refuses a configuration after it has read all
/// of it, as for an address that is taken, it goes on with the one before and this one's chain. Where
/// the one before is another build's, or has none, these filters pass everything on (`IS_TAKEN`), and
/// the loader keeps them where they are.
extern "C" fn postconfiguration(_: *mut ngx_conf_t) -> ngx_int_t {
    // SAFETY: nginx reads its configuration in one thread, and filters chain up like this.
    unsafe {
        NEXT_HEADER_FILTER = ngx_http_top_header_filter;
        ngx_http_top_header_filter = Some(header_filter);
        NEXT_BODY_FILTER = ngx_http_top_body_filter;
        ngx_http_top_body_filter = Some(body_filter);
    }
    Status::NGX_OK.into()
}

unsafe extern "C" fn header_filter(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid request.
    let request = unsafe { Request::from_ngx_http_request(r) };
    if IS_TAKEN.load(Ordering::Relaxed) && is_of_interest(request) && look_at(request).is_err() {
        return Status::NGX_ERROR.into();
    }
    // SAFETY: set before any request, to the filter that nginx had at the top.
    match unsafe { NEXT_HEADER_FILTER } {
        // SAFETY: as nginx calls it.
        Some(next) => unsafe { next(r) },
        None => Status::NGX_OK.into(),
    }
}

unsafe extern "C" fn body_filter(r: *mut ngx_http_request_t, input: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: nginx passes a valid request.
    let request = unsafe { Request::from_ngx_http_request(r) };
    let page = match IS_TAKEN.load(Ordering::Relaxed) {
        true => open_page(request),
        false => None,
    };
    match page {
        Some(page) => filter_page(request, page, input),
        None => next_body_filter(request, input),
    }
}

#[inline(never)]
fn filter_page(request: &mut Request, page: &mut OpenPage, input: *mut ngx_chain_t) -> ngx_int_t {
    let Ok(output) = page.filter(request.pool(), input) else {
        return Status::NGX_ERROR.into();
    };
    if page.is_done() {
        set_open_page(request, ptr::null_mut());
    }
    // All of it is held back for now.
    match output.is_null() && !input.is_null() {
        true => Status::NGX_OK.into(),
        false => next_body_filter(request, output),
    }
}

fn next_body_filter(request: &mut Request, output: *mut ngx_chain_t) -> ngx_int_t {
    // SAFETY: as in header_filter.
    match unsafe { NEXT_BODY_FILTER } {
        // SAFETY: as nginx calls it.
        Some(next) => unsafe { next(request.as_mut(), output) },
        None => Status::NGX_OK.into(),
    }
}

/// Whether there is anything to do about a response: most are no pages, and no errors.
fn is_of_interest(request: &Request) -> bool {
    let r: &ngx_http_request_t = request.as_ref();
    matches!(TokenInject::location_conf(r), Some(Directive::On(_)))
        && request.is_main()
        && (may_refuse_token(r.headers_out.status as u32) || may_be_page(r))
}

/// Looks at a response that is about to begin.
#[inline(never)]
fn look_at(request: &mut Request) -> Result<(), OutOfMemory> {
    let Some(Directive::On(settings)) = TokenInject::location_conf(request.as_ref()) else {
        return Ok(());
    };
    if may_be_page(request.as_ref()) {
        restrict_framing(request, &settings.framing)?;
    }
    let own = RequestContext::of_main(request).filter(|context| context.is_of(settings));
    let Some(context) = own else {
        return Ok(());
    };
    let (page, has_token) = (context.page, context.token.is_some());
    let (is_page, status) = (page != Page::No, request.as_ref().headers_out.status as u32);
    if is_page && status == NGX_HTTP_OK {
        let page = page::prepare(request, settings, page, has_token)?;
        set_open_page(request, page);
    } else if may_refuse_token(status) && is_api(request) {
        match (&context.account, &context.token) {
            (Some(account), Some(token)) => {
                let refused = status == NGX_HTTP_UNAUTHORIZED;
                let doubt = if refused { Doubt::Refused } else { Doubt::Error };
                logins::doubt(settings.zone, account, token, doubt);
            }
            _ if context.lacks_token() && settings.browser.is_some() => sign_out(request),
            _ => {}
        }
    }
    Ok(())
}

/// NPM's UI holds a marker, and there is no token for it any more. Of all errors only 401 tells it
/// so, upon which it drops the marker and loads its page anew, which is NPM's login page then. With
/// what NPM says of a request without a token it would show a dashboard of nothing.
fn sign_out(request: &mut Request) {
    let out = &mut request.as_mut().headers_out;
    out.status = NGX_HTTP_UNAUTHORIZED as ngx_uint_t;
    out.status_line = ngx_str_t::empty();
}

/// Whether NPM may mean the token by this status. Up to 2.15, a token that is no longer good is 400,
/// 404 or 500 to it, and never 401; from 2.16 on, it may be 401, and what is not permitted is 403.
fn may_refuse_token(status: u32) -> bool {
    matches!(status, 400..=404 | 500)
}

fn open_page(request: &Request) -> Option<&'static mut OpenPage> {
    // SAFETY: the slot of this module holds what `set_open_page` put there, or null; it lives as
    // long as the request, and only one filter call at a time uses it.
    unsafe { (*slot(request)).cast::<OpenPage>().as_mut() }
}

fn set_open_page(request: &Request, page: *mut OpenPage) {
    // SAFETY: the slot is this module's own.
    unsafe { *slot(request) = page.cast() };
}

fn slot(request: &Request) -> *mut *mut c_void {
    // SAFETY: a request has a slot for each module.
    unsafe { request.as_ref().ctx.add(ngx_http_npm_token_inject_filter_module.ctx_index) }
}
