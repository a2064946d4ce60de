//! nginx's structures and functions, as build.rs has bindgen read them from nginx's own headers.
//!
//! What the `ngx` crate's functions take is that crate's, made by another bindgen: structures that
//! hold no bit-fields, and are looked at in C's eyes as all others are. This file does not compile
//! where a field, or a bit, is not where the C compiler has it.

use std::ptr::{self, NonNull};

use ngx::http::{HttpModule, HttpModuleConfExt, HttpModuleLocationConf, HttpModuleMainConf};

mod generated {
    #![allow(dead_code, non_camel_case_types, non_snake_case, non_upper_case_globals)]
    #![allow(improper_ctypes, unknown_lints, unnecessary_transmutes, clippy::all)]
    #![allow(unsafe_op_in_unsafe_fn, clippy::undocumented_unsafe_blocks)]

    use super::of_ngx::*;

    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

mod layout {
    #![allow(clippy::identity_op)]

    use super::*;

    include!(concat!(env!("OUT_DIR"), "/layout.rs"));
}

/// The structures that are those of `ngx`.
mod of_ngx {
    pub use ngx::ffi::{
        ngx_array_t, ngx_command_t, ngx_conf_t, ngx_cycle_t, ngx_http_conf_ctx_t,
        ngx_http_module_t, ngx_log_t, ngx_module_t, ngx_pool_cleanup_t, ngx_pool_t, ngx_queue_t,
        ngx_str_t, NGX_HTTP_LOC_CONF_OFFSET, NGX_HTTP_MAIN_CONF_OFFSET,
    };
}

pub use generated::*;
pub use of_ngx::*;

/// nginx's core module for http, whose configuration is known by its structures.
pub struct HttpCore;

impl HttpModule for HttpCore {
    fn module() -> &'static ngx_module_t {
        // SAFETY: nginx writes to a module's definition only while it loads modules.
        unsafe { &*ptr::addr_of!(ngx::ffi::ngx_http_core_module) }
    }
}

// SAFETY: ngx_http_core_create_main_conf makes this structure.
unsafe impl HttpModuleMainConf for HttpCore {
    type MainConf = ngx_http_core_main_conf_t;
}

// SAFETY: ngx_http_core_create_loc_conf makes this structure.
unsafe impl HttpModuleLocationConf for HttpCore {
    type LocationConf = ngx_http_core_loc_conf_t;
}

impl HttpModuleConfExt for ngx_http_request_t {
    unsafe fn http_main_conf_unchecked<T>(&self, module: &ngx_module_t) -> Option<NonNull<T>> {
        // SAFETY: as `ngx_http_get_module_main_conf` has it, for a module's own type.
        NonNull::new(unsafe { *self.main_conf.add(module.ctx_index) }.cast())
    }

    unsafe fn http_location_conf_unchecked<T>(&self, module: &ngx_module_t) -> Option<NonNull<T>> {
        // SAFETY: as `ngx_http_get_module_loc_conf` has it, for a module's own type.
        NonNull::new(unsafe { *self.loc_conf.add(module.ctx_index) }.cast())
    }
}

impl ngx_http_variable_value_t {
    /// The text of the value; nginx sets `data` wherever it sets a length.
    pub fn as_bytes(&self) -> &[u8] {
        match self.len() {
            0 => &[],
            // SAFETY: as said above.
            len => unsafe { std::slice::from_raw_parts(self.data, len as usize) },
        }
    }
}

/// The modules of nginx, in their order.
pub fn modules(cf: &ngx_conf_t) -> impl Iterator<Item = &ngx_module_t> {
    // SAFETY: a cycle's modules are an array of pointers, ended by a null.
    let mut next = unsafe { (*cf.cycle).modules };
    std::iter::from_fn(move || {
        // SAFETY: as above; `next` stays at the null. nginx writes to a module's definition only while
        // it loads modules.
        unsafe {
            let module = (*next).as_ref()?;
            next = next.add(1);
            Some(module)
        }
    })
}

/// The time as of this turn of the event loop (as the macro `ngx_timeofday`).
pub fn ngx_timeofday() -> &'static ngx_time_t {
    // SAFETY: nginx sets the time before any module's code runs, and keeps what it has pointed at.
    unsafe { &*ngx_cached_time }
}

/// Sets a timer (as `ngx_event_add_timer`, which is an inline function of C).
///
/// # Safety
///
/// The event is valid, is not freed while the timer is set, and its timer is not set now.
pub unsafe fn ngx_add_timer(event: *mut ngx_event_t, after: ngx_msec_t) {
    // SAFETY: as promised by the caller; the tree is the event loop's, in this thread.
    unsafe {
        (*event).timer.key = ngx_current_msec.wrapping_add(after);
        ngx_rbtree_insert(ptr::addr_of_mut!(ngx_event_timer_rbtree), &mut (*event).timer);
        (*event).set_timer_set(1);
    }
}

/// Takes a timer back (as `ngx_event_del_timer`).
///
/// # Safety
///
/// The event is valid, and its timer is set.
pub unsafe fn ngx_del_timer(event: *mut ngx_event_t) {
    // SAFETY: as promised by the caller; the tree is the event loop's, in this thread.
    unsafe {
        ngx_rbtree_delete(ptr::addr_of_mut!(ngx_event_timer_rbtree), &mut (*event).timer);
        (*event).timer.left = ptr::null_mut();
        (*event).timer.right = ptr::null_mut();
        (*event).timer.parent = ptr::null_mut();
        (*event).set_timer_set(0);
    }
}

/// Has the event loop handle an event in its next turn (as the macro `ngx_post_event`).
///
/// # Safety
///
/// The event is valid until then, and the queue is one of the event loop's.
pub unsafe fn ngx_post_event(event: *mut ngx_event_t, queue: *mut ngx_queue_t) {
    // SAFETY: as promised by the caller.
    unsafe {
        if (*event).posted() == 0 {
            (*event).set_posted(1);
            ngx::ffi::ngx_queue_insert_before(queue, &mut (*event).queue);
        }
    }
}
