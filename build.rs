//! Has the bindings to nginx made, and links the module.

#[cfg(feature = "module")]
#[path = "src/nginx/layout.rs"]
mod layout;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/nginx/layout.rs");

    #[cfg(feature = "module")]
    {
        // A worker that exits closes the module (ngx_unload_module in ngx_cycle.c) while the login
        // thread may still be running in it: its code has to stay mapped until the process is gone.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
        layout::make();
    }
}
