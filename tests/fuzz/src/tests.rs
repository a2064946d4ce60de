//! The short run: every text in `corpus/`, and a fixed number of changed ones.

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use crate::{Target, TARGETS};

/// How many changed texts each target gets.
const CHANGED: usize = 3_000;

/// No text grows longer than that.
const LENGTH_MAX: usize = 4_096;

/// Marsaglia's xorshift64*: the same texts at every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        (number as usize) % end.max(1)
    }

    fn change(&mut self, text: &mut Vec<u8>, others: &[Vec<u8>]) {
        let at = self.below(text.len() + 1);
        let end = (at + 1 + self.below(8)).min(text.len());
        match self.below(6) {
            0 => {
                text.drain(at..end);
            }
            1 => text.insert(at, self.below(256) as u8),
            2 => {
                let part = text[at..end].to_vec();
                text.splice(at..at, part);
            }
            3 => {
                let other = &others[self.below(others.len())];
                let from = self.below(other.len());
                let to = (from + 1 + self.below(32)).min(other.len());
                text.splice(at..end, other[from..to].iter().copied());
            }
            _ if at < text.len() => text[at] ^= 1 << self.below(8),
            _ => text.push(b"\0\xff%/\"<|,.:-"[self.below(11)]),
        }
        text.truncate(LENGTH_MAX);
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a text of the corpus")).collect()
}

/// Runs a target in a way that tells the text that breaks it.
fn run(name: &str, target: Target, text: &[u8]) {
    if let Err(cause) = panic::catch_unwind(AssertUnwindSafe(|| target(text))) {
        eprintln!("{name} is broken by b\"{}\"", text.escape_ascii());
        panic::resume_unwind(cause);
    }
}

fn run_all(name: &str) {
    let (_, target) = TARGETS.iter().find(|(target, _)| *target == name).expect("a target");
    let texts = corpus(name);
    assert!(!texts.is_empty() && texts.len() <= 64, "a few texts");
    run(name, *target, b"");
    texts.iter().for_each(|text| run(name, *target, text));

    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..CHANGED {
        let mut text = texts[random.below(texts.len())].clone();
        for _ in 0..=random.below(4) {
            random.change(&mut text, &texts);
        }
        run(name, *target, &text);
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run_all(stringify!($name)); })*

        #[test]
        fn every_target_is_tested() {
            assert!(TARGETS.iter().map(|(name, _)| *name).eq([$(stringify!($name)),*]));
        }
    };
}

targets! {
    accounts base_url basic build_id build_names cache certificates framing groups library marker
    npm_login npm_me npm_users origin page parameters path script status token totp variables visitor
}
