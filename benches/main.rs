//! `make bench`: what the module costs, beside what stands in its place. Prints tables, and asserts
//! nothing of them.
//!
//! `cargo bench -- NAME` prints one of them alone: `instructions`, `answers`, `first_request`, `scale`,
//! `hanging_npm`, `footprint`.

mod answers;
mod callgrind;
mod first_request;
mod footprint;
mod hanging_npm;
mod instructions;
mod scale;
mod table;
mod upstream;

use std::env;

fn main() {
    // Cargo adds options of its own.
    let wanted: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let benches: [(&str, fn()); 6] = [
        ("instructions", instructions::run),
        ("answers", answers::run),
        ("first_request", first_request::run),
        ("scale", scale::run),
        ("hanging_npm", hanging_npm::run),
        ("footprint", footprint::run),
    ];
    for (name, run) in benches {
        if wanted.is_empty() || wanted.iter().any(|word| word == name) {
            run();
        }
    }
}
