//! Checks what the loader takes for the same in every nginx against the one that this build is for.

use std::mem::{offset_of, size_of};

use super::bindings as ffi;

#[allow(dead_code, clashing_extern_declarations)]
#[path = "../loader/structures.rs"]
mod structures;

/// These fields of a structure are at the same places.
macro_rules! same_fields {
    ($($structure:ident { $($field:ident),* })*) => { $($(
        const _: () = assert!(
            offset_of!(structures::$structure, $field) == offset_of!(ffi::$structure, $field)
        );
    )*)* };
}

/// These structures are of the same size.
macro_rules! same_sizes {
    ($($structure:ident)*) => { $(
        const _: () =
            assert!(size_of::<structures::$structure>() == size_of::<ffi::$structure>());
    )* };
}

macro_rules! same_values {
    ($($constant:ident)*) => { $(
        const _: () = assert!(structures::$constant as u64 == ffi::$constant as u64);
    )* };
}

same_sizes! {
    ngx_str_t ngx_module_t ngx_core_module_t ngx_http_module_t ngx_command_t ngx_pool_cleanup_t
    ngx_http_variable_t ngx_http_variable_value_t
}
same_fields! {
    ngx_str_t { len, data }
    ngx_module_t {
        ctx_index, index, name, version, signature, ctx, commands, type_, init_master, init_module,
        exit_master
    }
    ngx_core_module_t { name, create_conf, init_conf }
    ngx_http_module_t { preconfiguration, postconfiguration, create_main_conf, merge_loc_conf }
    ngx_command_t { name, type_, set, conf, offset, post }
    ngx_cycle_t { conf_ctx, pool, log }
    ngx_pool_cleanup_t { handler, data }
    ngx_http_variable_t { name, get_handler, data, flags, index }
    ngx_http_variable_value_t { data }
}
same_values! {
    NGX_OK NGX_ERROR NGX_LOG_WARN NGX_CORE_MODULE NGX_HTTP_MODULE NGX_CONF_ANY NGX_HTTP_MAIN_CONF
    NGX_HTTP_SRV_CONF NGX_HTTP_LOC_CONF NGX_HTTP_VAR_NOCACHEABLE
}
