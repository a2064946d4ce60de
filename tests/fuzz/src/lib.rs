//! Fuzz targets: functions of any bytes, which panic where the module breaks a promise about what it
//! did not write. They read no file of anybody's, and reach no network.
//!
//! What a target says of a text it finds out by itself, in another way than the module does. The
//! tests replay the texts in `corpus/`, and a fixed number of changed ones; `make fuzz` searches on.

extern crate alloc;

#[path = "../../../src/loader/elf.rs"]
mod elf;
#[path = "../../../src/loader/names.rs"]
mod names;
mod targets;
#[cfg(test)]
mod tests;

pub use targets::{Target, TARGETS};
