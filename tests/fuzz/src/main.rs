//! Searches one target for what breaks it, by libFuzzer: the one that `FUZZ_TARGET` names. `make
//! fuzz` builds this, and runs it.

#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<fuzz::Target> = LazyLock::new(|| {
    let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
    match fuzz::TARGETS.iter().find(|(target, _)| *target == name) {
        Some((_, target)) => *target,
        None => {
            let names: Vec<_> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
            eprintln!("fuzz: FUZZ_TARGET is \"{name}\"; it is one of {}", names.join(", "));
            std::process::exit(2);
        }
    }
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| TARGET(data));
