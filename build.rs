//! Has the bindings to nginx made.

#[cfg(feature = "module")]
#[path = "src/nginx/layout.rs"]
mod layout;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/nginx/layout.rs");

    #[cfg(feature = "module")]
    {
        layout::make();
    }
}
