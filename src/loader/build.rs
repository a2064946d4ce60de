//! Links the loader so that its tables are its own: nginx has an `ngx_modules` too, which the
//! dynamic linker would take for it.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-Bsymbolic");
}
