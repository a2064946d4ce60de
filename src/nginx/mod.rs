//! The upper floor: the glue between nginx and [`crate::sso`].
//!
//! This file is the module's definition, and which handler enters which phase.

use std::ffi::{c_char, c_void};
use std::ptr;

use ngx::core::{Status, NGX_CONF_ERROR, NGX_CONF_OK};
use ngx::http::{HttpModule, HttpModuleLocationConf, HttpModuleMainConf, Merge};

#[macro_use]
mod log;

mod bindings;
mod context;
mod directive;
mod filter;
mod granted;
mod handler;
mod headers_in;
mod heap;
mod loader;
mod login_thread;
mod logins;
mod others;
mod page;
mod pool;
mod process;
mod request;
mod respond;
mod settings;
mod status_page;
mod tokens_answer;
mod value;
mod variables;
mod waiting;
mod zone;

use bindings::{
    ngx_array_push, ngx_conf_t, ngx_cycle_t, ngx_http_handler_pt, ngx_http_module_t,
    ngx_http_phases, ngx_http_phases_NGX_HTTP_ACCESS_PHASE,
    ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE, ngx_http_phases_NGX_HTTP_REWRITE_PHASE,
    ngx_http_phases_NGX_HTTP_SERVER_REWRITE_PHASE, ngx_http_request_t, ngx_int_t, ngx_module_t,
    ngx_uint_t, HttpCore, NGX_HTTP_MODULE,
};
use settings::{Directive, MainConf};

struct TokenInject;

impl HttpModule for TokenInject {
    fn module() -> &'static ngx_module_t {
        // SAFETY: nginx writes to the module's definition only while it loads the module.
        unsafe { &*ptr::addr_of!(ngx_http_npm_token_inject_module) }
    }

    unsafe extern "C" fn preconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
        variables::add(cf).into()
    }

    unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
        // SAFETY: nginx passes a configuration that is valid for the call.
        let cf = unsafe { &mut *cf };
        let registered = directive::finish(cf).and_then(|()| {
            if !TokenInject::main_conf(cf).is_some_and(MainConf::is_in_use) {
                return Ok(());
            }
            granted::prepare(cf)?;
            variables::forget_authorization(cf)?;
            let early = ngx_http_phases_NGX_HTTP_SERVER_REWRITE_PHASE;
            register(cf, early, handler::take_back_early)?;
            register(cf, ngx_http_phases_NGX_HTTP_REWRITE_PHASE, handler::take_back)?;
            register(cf, ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE, handler::precontent)
        });
        registered.map_or_else(Into::into, |()| Status::NGX_OK.into())
    }
}

// SAFETY: both types are those that the module's context creates below.
unsafe impl HttpModuleMainConf for TokenInject {
    type MainConf = MainConf;
}

// SAFETY: as above.
unsafe impl HttpModuleLocationConf for TokenInject {
    type LocationConf = Directive;
}

/// Puts a handler into a phase, where the directive stands anywhere.
fn register(
    cf: &mut ngx_conf_t,
    phase: ngx_http_phases,
    handler: extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t,
) -> Result<(), Status> {
    if !TokenInject::main_conf(cf).is_some_and(MainConf::is_in_use) {
        return Ok(());
    }
    let core = HttpCore::main_conf_mut(cf).ok_or(Status::NGX_ERROR)?;
    let phase = core.phases.get_mut(phase as usize).ok_or(Status::NGX_ERROR)?;
    // SAFETY: a phase's handlers are an array of ngx_http_handler_pt; it gives room for one more,
    // or null.
    let place =
        unsafe { ngx_array_push(&mut phase.handlers).cast::<ngx_http_handler_pt>().as_mut() };
    *place.ok_or(Status::NGX_ERROR)? = Some(handler);
    Ok(())
}

extern "C" fn merge_loc_conf(
    cf: *mut ngx_conf_t,
    outer: *mut c_void,
    inner: *mut c_void,
) -> *mut c_char {
    // SAFETY: both were made by create_loc_conf.
    let (outer, inner) = unsafe { (&*outer.cast::<Directive>(), &mut *inner.cast::<Directive>()) };
    // Infallible, as the signature that nginx asks for is not.
    let _ = inner.merge(outer);
    // SAFETY: nginx passes a configuration that is valid for the call.
    directive::check_sources(unsafe { &*cf }, inner).map_or(NGX_CONF_ERROR, |()| NGX_CONF_OK)
}

extern "C" fn exit_process(cycle: *mut ngx_cycle_t) {
    // SAFETY: nginx passes the current cycle.
    let zone = TokenInject::main_conf(unsafe { &*cycle }).and_then(|conf| conf.zone);
    logins::stop(zone);
}

static CONTEXT: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: Some(TokenInject::preconfiguration),
    postconfiguration: Some(TokenInject::postconfiguration),
    create_main_conf: Some(TokenInject::create_main_conf),
    init_main_conf: None,
    create_srv_conf: None,
    merge_srv_conf: None,
    create_loc_conf: Some(TokenInject::create_loc_conf),
    merge_loc_conf: Some(merge_loc_conf),
};

/// The tables by which nginx finds the modules in a shared object, as its own build makes them.
/// (`ngx::ngx_modules!` makes them too, but has no order.)
mod tables {
    #![allow(non_upper_case_globals)]

    use super::*;

    const ACCESS: *const c_char = c"ngx_http_npm_token_inject_access_module".as_ptr();
    const FILTER: *const c_char = c"ngx_http_npm_token_inject_filter_module".as_ptr();

    #[no_mangle]
    static mut ngx_modules: [*const ngx_module_t; 4] = [
        ptr::addr_of!(ngx_http_npm_token_inject_module),
        ptr::addr_of!(ngx_http_npm_token_inject_access_module),
        ptr::addr_of!(filter::ngx_http_npm_token_inject_filter_module),
        ptr::null(),
    ];

    #[no_mangle]
    static mut ngx_module_names: [*const c_char; 4] =
        [c"ngx_http_npm_token_inject_module".as_ptr(), ACCESS, FILTER, ptr::null()];

    /// nginx places a module before all those that follow its name here (`ngx_add_module`), and
    /// runs handlers and filters from the last module to the first. So the access handler comes
    /// behind those of nginx's own modules and of any other that is linked with it, and the filters
    /// behind the one that adds headers. The module that is not named here stands last: its handlers
    /// run first.
    #[no_mangle]
    static mut ngx_module_order: [*const c_char; 8] = [
        ACCESS,
        c"ngx_http_auth_request_module".as_ptr(),
        c"ngx_http_auth_basic_module".as_ptr(),
        c"ngx_http_access_module".as_ptr(),
        FILTER,
        c"ngx_http_headers_filter_module".as_ptr(),
        c"ngx_http_copy_filter_module".as_ptr(),
        ptr::null(),
    ];
}

/// The module, under the name that nginx knows it by.
#[used]
#[allow(non_upper_case_globals)]
pub static mut ngx_http_npm_token_inject_module: ngx_module_t = ngx_module_t {
    ctx: ptr::addr_of!(CONTEXT).cast_mut().cast(),
    commands: ptr::addr_of_mut!(directive::COMMANDS).cast(),
    type_: NGX_HTTP_MODULE as ngx_uint_t,
    exit_process: Some(exit_process),
    ..ngx_module_t::default()
};

/// The part of it that stands elsewhere in nginx's order: the handler of the access phase, and what
/// sees the directives of the modules behind it.
#[used]
#[allow(non_upper_case_globals)]
pub static mut ngx_http_npm_token_inject_access_module: ngx_module_t = ngx_module_t {
    ctx: ptr::addr_of!(ACCESS_CONTEXT).cast_mut().cast(),
    commands: ptr::addr_of_mut!(others::COMMANDS).cast(),
    type_: NGX_HTTP_MODULE as ngx_uint_t,
    ..ngx_module_t::default()
};

struct AccessPhase;

impl HttpModule for AccessPhase {
    fn module() -> &'static ngx_module_t {
        // SAFETY: nginx writes to the module's definition only while it loads the module.
        unsafe { &*ptr::addr_of!(ngx_http_npm_token_inject_access_module) }
    }
}

// SAFETY: the type is the one that the context creates below.
unsafe impl HttpModuleLocationConf for AccessPhase {
    type LocationConf = others::Others;
}

static ACCESS_CONTEXT: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: None,
    postconfiguration: Some(postconfiguration_of_access),
    create_main_conf: None,
    init_main_conf: None,
    create_srv_conf: None,
    merge_srv_conf: None,
    create_loc_conf: Some(AccessPhase::create_loc_conf),
    merge_loc_conf: Some(AccessPhase::merge_loc_conf),
};

unsafe extern "C" fn postconfiguration_of_access(cf: *mut ngx_conf_t) -> ngx_int_t {
    // SAFETY: nginx passes a configuration that is valid for the call.
    let registered =
        register(unsafe { &mut *cf }, ngx_http_phases_NGX_HTTP_ACCESS_PHASE, handler::access);
    registered.map_or_else(Into::into, |()| Status::NGX_OK.into())
}
