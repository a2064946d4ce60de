//! What `load_module` names: the same file for every nginx. The module itself comes as builds, each
//! for one nginx, in `npm_token_inject/` beside the loader. It puts the one for the nginx that is
//! running into its own place; where none fits, it stands aside, and nginx runs on as without it.
//!
//! How it gets there: `ngx_load_module` (nginx.c) opens a library, finds the table `ngx_modules` in
//! it, and adds one module of the table after the other. A core module it initializes at once
//! (`ngx_add_module`). The loader's first is one, and nothing else: when nginx initializes it, it
//! writes what follows into the table. So the choice is made anew whenever nginx reads its
//! configuration, though a master that has the library open never opens it again.

#![cfg_attr(panic = "abort", no_std)]

extern crate alloc;

mod aside;
mod builds;
mod elf;
mod names;
mod running;
mod structures;
#[cfg(panic = "abort")]
mod system;

use alloc::boxed::Box;
use alloc::ffi::CString;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ffi::{c_char, c_void, CStr};
use core::ptr;

use builds::Build;
use running::Running;
use structures::*;

/// What nginx has for one reading of its configuration, and as long as it works by that.
struct Reading {
    cycle: *mut ngx_cycle_t,
    modules: Modules,
}

enum Modules {
    Build(Build),
    Aside(ngx_module_t),
    /// Another loader has been loaded before this one: the image has one, and so has the volume.
    Second,
}

static CORE_CONTEXT: ngx_core_module_t = ngx_core_module_t {
    name: text(c"npm_token_inject_loader"),
    create_conf: Some(choose),
    init_conf: None,
};

static mut CORE: ngx_module_t = ngx_module_t {
    init_module: Some(take),
    ..ngx_module_t::new(NGX_CORE_MODULE, ptr::addr_of!(CORE_CONTEXT).cast())
};

/// The tables that nginx finds by their names, each ended by a null.
mod tables {
    #![allow(non_upper_case_globals)]

    use super::*;

    /// As many modules as a build may have.
    pub const MODULES: usize = 14;
    /// As many names as its order may have.
    pub const ORDER: usize = 30;

    #[no_mangle]
    static mut ngx_modules: [*mut ngx_module_t; MODULES + 2] = {
        let mut modules = [ptr::null_mut(); MODULES + 2];
        modules[0] = ptr::addr_of_mut!(CORE);
        modules
    };

    #[no_mangle]
    static mut ngx_module_names: [*const c_char; MODULES + 2] = [ptr::null(); MODULES + 2];

    #[no_mangle]
    static mut ngx_module_order: [*const c_char; ORDER + 2] = [ptr::null(); ORDER + 2];

    /// Names the loader's own module. nginx refuses a second module of the same name.
    ///
    /// # Safety
    ///
    /// As for [`fill`].
    pub unsafe fn set_own_name(name: *const c_char) {
        // SAFETY: as promised by the caller.
        unsafe { (*ptr::addr_of_mut!(ngx_module_names))[0] = name };
    }

    /// Has nginx find these after the loader's own module; as many as there is room for.
    ///
    /// # Safety
    ///
    /// Nobody but nginx reads the tables, and nginx only while it loads a module, on one thread.
    /// What stands in them is there until they are cleared.
    pub unsafe fn fill(modules: &[(*mut ngx_module_t, *const c_char)], order: &[*const c_char]) {
        // SAFETY: as promised by the caller; these are three tables, each borrowed once.
        let (slots, names, order_slots) = unsafe {
            clear();
            let slots = (*ptr::addr_of_mut!(ngx_modules)).iter_mut();
            let names = (*ptr::addr_of_mut!(ngx_module_names)).iter_mut();
            (slots, names, (*ptr::addr_of_mut!(ngx_module_order)).iter_mut())
        };
        let both = slots.zip(names).skip(1).take(MODULES);
        for ((slot, slot_of_name), (module, name)) in both.zip(modules) {
            (*slot, *slot_of_name) = (*module, *name);
        }
        for (slot, name) in order_slots.take(ORDER).zip(order) {
            *slot = *name;
        }
    }

    /// Leaves the loader's own module alone in the tables.
    ///
    /// # Safety
    ///
    /// As for [`fill`].
    pub unsafe fn clear() {
        // SAFETY: as promised by the caller.
        let (modules, order) = unsafe {
            (&mut *ptr::addr_of_mut!(ngx_modules), &mut *ptr::addr_of_mut!(ngx_module_order))
        };
        modules[1..].fill(ptr::null_mut());
        order.fill(ptr::null());
    }
}

/// Runs when nginx opens the library, before it looks at it: nginx takes no module of another
/// version or signature.
#[used]
#[link_section = ".init_array"]
static INIT: extern "C" fn() = init;

extern "C" fn init() {
    // SAFETY: nginx opens libraries on one thread, and its own module is there.
    unsafe {
        CORE.version = ngx_core_module.version;
        CORE.signature = ngx_core_module.signature;
        tables::set_own_name(builds::own_path());
    }
}

/// `create_conf` of the loader's own module.
unsafe extern "C" fn choose(cycle: *mut ngx_cycle_t) -> *mut c_void {
    // SAFETY: nginx passes the cycle that it reads the configuration for.
    let cleanup = unsafe { ngx_pool_cleanup_add((*cycle).pool, 0).as_mut() };
    let Some(cleanup) = cleanup else {
        return ptr::null_mut();
    };
    // SAFETY: as above.
    let modules = unsafe { modules(cycle) };
    let reading = Box::into_raw(Box::new(Reading { cycle, modules }));
    cleanup.handler = Some(end);
    cleanup.data = reading.cast();
    // SAFETY: nginx is loading the module; `end` clears the tables before anything goes.
    unsafe {
        LAST = reading;
        match &mut (*reading).modules {
            Modules::Build(build) => tables::fill(&build.modules, &build.order),
            Modules::Aside(module) => tables::fill(&[(module, aside::NAME.as_ptr())], &[]),
            Modules::Second => tables::clear(),
        }
    }
    reading.cast()
}

/// # Safety
///
/// nginx is reading its configuration for that cycle.
unsafe fn modules(cycle: *mut ngx_cycle_t) -> Modules {
    // SAFETY: as promised by the caller; nginx' own definition is not written to.
    unsafe {
        let latest = latest();
        if *latest == cycle {
            let path = display(builds::own_path());
            warn(
                cycle,
                format!("npm_token_inject: {path} is not needed: there is another before it"),
            );
            return Modules::Second;
        }
        *latest = cycle;
        let running = Running::new(&*ptr::addr_of!(ngx_core_module));
        match builds::open(&running) {
            Ok(build) => Modules::Build(build),
            Err(lack) => {
                warn(cycle, aside::message(&running, &lack));
                Modules::Aside(aside::module(&running))
            }
        }
    }
}

/// The cycle that a loader was loaded for last.
#[no_mangle]
static mut npm_token_inject_latest: *mut ngx_cycle_t = ptr::null_mut();

/// Where the first of all loaders keeps that: nginx opens modules for all to see.
fn latest() -> *mut *mut ngx_cycle_t {
    // SAFETY: the program itself is open already; the name is ended by a null byte.
    let first = unsafe {
        let all = libc::dlopen(ptr::null(), libc::RTLD_NOW);
        let first = libc::dlsym(all, c"npm_token_inject_latest".as_ptr());
        libc::dlclose(all);
        first
    };
    match first.is_null() {
        true => ptr::addr_of_mut!(npm_token_inject_latest),
        false => first.cast(),
    }
}

/// What `choose` has made last, and what nginx works by; null where that is gone.
static mut LAST: *mut Reading = ptr::null_mut();
static mut TAKEN: *mut Reading = ptr::null_mut();

/// The builds of configurations that nginx has refused, since the last one that it took.
static mut REFUSED: Vec<Build> = Vec::new();

/// `init_module` of the loader's own module: nginx has read all of a configuration, and takes it.
unsafe extern "C" fn take(_: *mut ngx_cycle_t) -> isize {
    // SAFETY: nginx initializes modules on the one thread on which it loads them, right after it has
    // read their configuration; what it goes on with calls nothing of what it has refused.
    unsafe {
        TAKEN = LAST;
        (*ptr::addr_of_mut!(REFUSED)).clear();
    }
    NGX_OK
}

/// Ends what [`choose`] began, when nginx does not need the cycle any more.
unsafe extern "C" fn end(reading: *mut c_void) {
    // SAFETY: nginx is not loading a module, and calls this once with what `choose` made.
    unsafe {
        tables::clear();
        let reading = reading.cast::<Reading>();
        // nginx refuses what it has read last, or nothing.
        let is_refused = LAST == reading && TAKEN != reading;
        for place in [ptr::addr_of_mut!(LAST), ptr::addr_of_mut!(TAKEN)] {
            if *place == reading {
                *place = ptr::null_mut();
            }
        }
        let Reading { cycle, modules } = *Box::from_raw(reading);
        let latest = latest();
        if *latest == cycle {
            *latest = ptr::null_mut();
        }
        match modules {
            Modules::Build(build) if is_refused && is_at_work() => keep(build),
            _ => {}
        }
    }
}

/// Whether nginx works by any configuration. The first one that it reads it may refuse, and end.
fn is_at_work() -> bool {
    // SAFETY: nginx has a cycle whenever it destroys another one; the one that it begins with has no
    // configuration (`ngx_is_init_cycle`).
    unsafe { !(*ngx_cycle).conf_ctx.is_null() }
}

/// Keeps the build of a configuration that nginx has refused open, until it takes another one. It may
/// have refused it after it had read all of it, as for an address that is taken. Then the build's
/// filters stand in the chain of nginx's filters, which is the process's: workers that are started
/// later, for the configuration before, call them.
///
/// # Safety
///
/// nginx is on one thread, and the build's modules are not those of the configuration to be.
unsafe fn keep(build: Build) {
    // SAFETY: as promised by the caller; what nginx works by is there until `end` forgets it.
    unsafe {
        match TAKEN.as_ref() {
            // That one keeps it open.
            Some(Reading { modules: Modules::Build(other), .. }) if other.is(&build) => {}
            _ => {
                build.forget_places();
                (*ptr::addr_of_mut!(REFUSED)).push(build);
            }
        }
    }
}

/// # Safety
///
/// The cycle is valid.
unsafe fn warn(cycle: *const ngx_cycle_t, message: String) {
    let message = CString::new(message).unwrap_or_default();
    // SAFETY: the cycle's log is there, and both texts are ended by a null byte.
    unsafe {
        ngx_log_error_core(NGX_LOG_WARN, (*cycle).log, 0, c"%s".as_ptr(), message.as_ptr());
    }
}

/// A text of nginx's or of the C library's, for a message.
///
/// # Safety
///
/// It is null, or ended by a null byte.
unsafe fn display(text: *const c_char) -> String {
    if text.is_null() {
        return "unknown".into();
    }
    // SAFETY: as promised by the caller.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
