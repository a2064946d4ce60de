//! That an nginx which the module does not fit runs on without it: the loader with every build that
//! lies in `build/`, and with builds that are broken in every way, on `TEST_NGINX`.

extern crate alloc;

mod aside;
mod builds;
mod comes_and_goes;
#[allow(dead_code)]
#[path = "../../src/loader/elf.rs"]
mod elf;
mod files;
mod site;
