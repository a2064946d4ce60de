//! Links the module so that it stays loaded.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");

    // A worker that exits closes the module (ngx_unload_module in ngx_cycle.c) while the login
    // thread may still be running in it: its code has to stay mapped until the process is gone.
    if env::var_os("CARGO_FEATURE_MODULE").is_some() {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
