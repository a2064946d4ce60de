//! What the loader needs of nginx: no more than what is the same in every one, OpenResty's among
//! them, from 1.22 on. Each build of the module checks it against the nginx that it is for
//! (`src/nginx/loader.rs`).

#![allow(non_camel_case_types)]

use core::ffi::{c_char, c_int, c_void, CStr};

pub const NGX_OK: isize = 0;
pub const NGX_ERROR: isize = -1;
pub const NGX_LOG_WARN: usize = 5;
pub const NGX_MODULE_UNSET_INDEX: usize = usize::MAX;
pub const NGX_CORE_MODULE: usize = 0x4552_4F43;
pub const NGX_HTTP_MODULE: usize = 0x5054_5448;
pub const NGX_CONF_ANY: usize = 0x0000_0400;
pub const NGX_HTTP_MAIN_CONF: usize = 0x0200_0000;
pub const NGX_HTTP_SRV_CONF: usize = 0x0400_0000;
pub const NGX_HTTP_LOC_CONF: usize = 0x0800_0000;
pub const NGX_HTTP_VAR_NOCACHEABLE: usize = 2;

/// nginx's own, of which only the address is used.
pub enum ngx_conf_t {}
pub enum ngx_http_request_t {}
pub enum ngx_log_t {}
pub enum ngx_pool_t {}

#[repr(C)]
pub struct ngx_str_t {
    pub len: usize,
    pub data: *const u8,
}

// SAFETY: what is static of these points at what is static too, and nobody writes to it.
unsafe impl Sync for ngx_str_t {}
// SAFETY: as above.
unsafe impl Sync for ngx_command_t {}

/// A text that stays. nginx compares some by their end.
pub const fn text(text: &'static CStr) -> ngx_str_t {
    ngx_str_t { len: text.count_bytes(), data: text.as_ptr().cast() }
}

#[repr(C)]
pub struct ngx_module_t {
    pub ctx_index: usize,
    pub index: usize,
    pub name: *const c_char,
    pub spare0: usize,
    pub spare1: usize,
    pub version: usize,
    pub signature: *const c_char,
    pub ctx: *const c_void,
    pub commands: *const ngx_command_t,
    pub type_: usize,
    pub init_master: usize,
    pub init_module: Option<unsafe extern "C" fn(*mut ngx_cycle_t) -> isize>,
    pub init_process: usize,
    pub init_thread: usize,
    pub exit_thread: usize,
    pub exit_process: usize,
    pub exit_master: usize,
    pub spare_hooks: [usize; 8],
}

impl ngx_module_t {
    /// A module with neither hooks nor directives.
    pub const fn new(type_: usize, ctx: *const c_void) -> Self {
        Self {
            ctx_index: NGX_MODULE_UNSET_INDEX,
            index: NGX_MODULE_UNSET_INDEX,
            name: core::ptr::null(),
            spare0: 0,
            spare1: 0,
            version: 0,
            signature: core::ptr::null(),
            ctx,
            commands: core::ptr::null(),
            type_,
            init_master: 0,
            init_module: None,
            init_process: 0,
            init_thread: 0,
            exit_thread: 0,
            exit_process: 0,
            exit_master: 0,
            spare_hooks: [0; 8],
        }
    }
}

#[repr(C)]
pub struct ngx_core_module_t {
    pub name: ngx_str_t,
    pub create_conf: Option<unsafe extern "C" fn(*mut ngx_cycle_t) -> *mut c_void>,
    pub init_conf: Option<unsafe extern "C" fn(*mut ngx_cycle_t, *mut c_void) -> *mut c_char>,
}

#[repr(C)]
pub struct ngx_http_module_t {
    pub preconfiguration: Option<unsafe extern "C" fn(*mut ngx_conf_t) -> isize>,
    pub postconfiguration: usize,
    pub create_main_conf: usize,
    pub init_main_conf: usize,
    pub create_srv_conf: usize,
    pub merge_srv_conf: usize,
    pub create_loc_conf: usize,
    pub merge_loc_conf: usize,
}

#[repr(C)]
pub struct ngx_command_t {
    pub name: ngx_str_t,
    pub type_: usize,
    pub set: Option<
        unsafe extern "C" fn(*mut ngx_conf_t, *mut ngx_command_t, *mut c_void) -> *mut c_char,
    >,
    pub conf: usize,
    pub offset: usize,
    pub post: *const c_void,
}

/// Its beginning.
#[repr(C)]
pub struct ngx_cycle_t {
    pub conf_ctx: *const c_void,
    pub pool: *mut ngx_pool_t,
    pub log: *mut ngx_log_t,
}

#[repr(C)]
pub struct ngx_pool_cleanup_t {
    pub handler: Option<unsafe extern "C" fn(*mut c_void)>,
    pub data: *mut c_void,
    pub next: *mut ngx_pool_cleanup_t,
}

#[repr(C)]
pub struct ngx_http_variable_t {
    pub name: ngx_str_t,
    pub set_handler: usize,
    pub get_handler: Option<
        unsafe extern "C" fn(
            *mut ngx_http_request_t,
            *mut ngx_http_variable_value_t,
            usize,
        ) -> isize,
    >,
    pub data: usize,
    pub flags: usize,
    pub index: usize,
}

/// A value, which is only copied whole.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct ngx_http_variable_value_t {
    pub bits: u32,
    pub data: *const u8,
}

extern "C" {
    pub static ngx_core_module: ngx_module_t;
    /// What nginx works by.
    pub static mut ngx_cycle: *mut ngx_cycle_t;
    /// The empty text.
    pub static ngx_http_variable_null_value: ngx_http_variable_value_t;

    pub fn ngx_pool_cleanup_add(pool: *mut ngx_pool_t, size: usize) -> *mut ngx_pool_cleanup_t;
    pub fn ngx_log_error_core(
        level: usize,
        log: *mut ngx_log_t,
        error: c_int,
        format: *const c_char,
        ...
    );
    pub fn ngx_http_add_variable(
        cf: *mut ngx_conf_t,
        name: *mut ngx_str_t,
        flags: usize,
    ) -> *mut ngx_http_variable_t;
    pub fn ngx_http_get_variable_index(cf: *mut ngx_conf_t, name: *mut ngx_str_t) -> isize;
    pub fn ngx_http_get_indexed_variable(
        r: *mut ngx_http_request_t,
        index: usize,
    ) -> *mut ngx_http_variable_value_t;
}
