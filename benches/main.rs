//! `make bench`: what the module costs, beside what stands in its place. Prints tables, and asserts
//! nothing of them.
//!
//! `cargo bench -- NAME` prints one of them alone: `instructions`, `first_request`, `hanging_npm`.

mod first_request;
mod hanging_npm;
mod instructions;
mod table;

use std::env;

fn main() {
    // Cargo adds options of its own.
    let wanted: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let benches: [(&str, fn()); 3] = [
        ("instructions", instructions::run),
        ("first_request", first_request::run),
        ("hanging_npm", hanging_npm::run),
    ];
    for (name, run) in benches {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            run();
        }
    }
}
