//! What has been found out before: a request whose like has been here needs a comparison, and neither
//! base64 nor a hash nor a list of groups read.
//!
//! What Authentik says may be a password. So whatever is kept of it is zeroized when it is forgotten,
//! which it is when it has not been used for a while in which others came, or when there is no more room.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::rc::Rc;

use zeroize::Zeroizing;

use super::time::is_recent;
use super::token::Millis;

/// What is not used for so long, while anything else is, is forgotten, at the latest after twice the time.
const GENERATION: Millis = 600_000;

/// How much is known at once, at most: twice as much.
const GENERATION_MAX: usize = 256;

/// What was found by `N` texts. A map in two generations: what is used moves to the recent one, and the
/// one before is forgotten as a whole.
pub struct Known<T, const N: usize> {
    /// What was used last: a page has many requests, one after the other.
    last: Option<Rc<Entry<T, N>>>,
    /// By the hash of the texts. Of two with the same hash, the one that came last.
    recent: HashMap<u64, Rc<Entry<T, N>>>,
    before: HashMap<u64, Rc<Entry<T, N>>>,
    since: Millis,
    hasher: RandomState,
}

struct Entry<T, const N: usize> {
    hash: u64,
    texts: [Zeroizing<Box<[u8]>>; N],
    found: T,
}

impl<T, const N: usize> Entry<T, N> {
    #[inline(always)]
    fn is_of(&self, texts: &[&[u8]; N]) -> bool {
        let is_same = |own: &[u8], text: &[u8]| {
            // Most often there is nothing to compare in some of them.
            own.len() == text.len() && (own.is_empty() || own == text)
        };
        self.texts.iter().zip(texts).all(|(own, text)| is_same(own, text))
    }
}

impl<T, const N: usize> Default for Known<T, N> {
    fn default() -> Self {
        Self {
            last: None,
            recent: HashMap::new(),
            before: HashMap::new(),
            since: 0,
            hasher: RandomState::new(),
        }
    }
}

impl<T: Clone, const N: usize> Known<T, N> {
    /// What was found by these texts before.
    #[inline(always)]
    pub fn find(&mut self, texts: [&[u8]; N], now: Millis) -> Option<T> {
        match &self.last {
            Some(last) if last.is_of(&texts) => Some(last.found.clone()),
            _ => self.look_up(texts, now),
        }
    }

    /// Keeps what was found by these texts.
    pub fn add(&mut self, texts: [&[u8]; N], found: T, now: Millis) {
        self.turn(now);
        let hash = self.hasher.hash_one(texts);
        let texts = texts.map(|text| Zeroizing::new(text.into()));
        self.use_now(Rc::new(Entry { hash, texts, found }));
    }

    #[cold]
    fn look_up(&mut self, texts: [&[u8]; N], now: Millis) -> Option<T> {
        self.turn(now);
        let hash = self.hasher.hash_one(texts);
        let entry = self.recent.get(&hash).or_else(|| self.before.get(&hash));
        let entry = entry.filter(|entry| entry.is_of(&texts))?.clone();
        self.use_now(entry.clone());
        Some(entry.found.clone())
    }

    /// Makes this one the last, which its predecessor has been until now.
    fn use_now(&mut self, entry: Rc<Entry<T, N>>) {
        self.recent.insert(entry.hash, entry.clone());
        if let Some(before) = self.last.replace(entry) {
            self.recent.entry(before.hash).or_insert(before);
        }
    }

    /// Begins another generation, if this one has had its time or is full.
    fn turn(&mut self, now: Millis) {
        if !is_recent(self.since, now, GENERATION) || self.recent.len() >= GENERATION_MAX {
            self.before = mem::take(&mut self.recent);
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = 1_700_000_000_000;

    fn known(texts: &[[&str; 2]]) -> Known<usize, 2> {
        let mut known = Known::default();
        for (number, texts) in texts.iter().enumerate() {
            known.find(texts.map(str::as_bytes), NOW);
            known.add(texts.map(str::as_bytes), number, NOW);
        }
        known
    }

    fn find(known: &mut Known<usize, 2>, texts: [&str; 2], now: Millis) -> Option<usize> {
        known.find(texts.map(str::as_bytes), now)
    }

    #[test]
    fn what_was_found_is_found_again_by_the_very_same_texts() {
        let mut known = known(&[["a", "b"], ["ab", ""], ["", "ab"], ["A", "b"]]);
        for _ in 0..2 {
            for (number, texts) in
                [["a", "b"], ["ab", ""], ["", "ab"], ["A", "b"]].into_iter().enumerate()
            {
                assert_eq!(find(&mut known, texts, NOW), Some(number));
                assert_eq!(find(&mut known, texts, NOW), Some(number));
            }
            for texts in [["", ""], ["a", "B"], ["b", "a"], ["a", "b "]] {
                assert_eq!(find(&mut known, texts, NOW), None);
            }
        }
    }

    #[test]
    fn another_one_with_the_same_hash_is_not_taken_for_it() {
        let mut known = known(&[["a", "b"]]);
        let entry = known.recent.drain().next().expect("an entry").1;
        let hash = known.hasher.hash_one([b"c", b"d"].map(|text| &text[..]));
        known.recent.insert(hash, entry);
        assert_eq!(find(&mut known, ["c", "d"], NOW), None);
    }

    #[test]
    fn what_is_used_stays_and_the_rest_is_forgotten() {
        let mut known = known(&[["b", ""], ["c", ""], ["a", ""]]);
        for turn in 1..=5 {
            let now = NOW + turn * GENERATION;
            assert_eq!(find(&mut known, ["a", ""], now), Some(2), "{turn}");
            assert_eq!(find(&mut known, ["c", ""], now), Some(1), "{turn}");
            assert_eq!(find(&mut known, ["x", ""], now), None, "{turn}");
        }
        let mut all = known.recent.values().chain(known.before.values());
        assert!(all.all(|entry| **entry.texts[0] != *b"b"));
        assert_eq!(find(&mut known, ["b", ""], NOW + 5 * GENERATION), None);
        // The clock may be set back.
        assert_eq!(find(&mut known, ["a", ""], NOW), Some(2));

        // And nobody's who does not come, however many strangers do.
        for turn in 2..=5 {
            assert_eq!(find(&mut known, ["x", ""], NOW + turn * GENERATION), None);
        }
        assert_eq!(known.recent.len() + known.before.len(), 0);
    }

    #[test]
    fn there_is_an_end_to_what_is_known() {
        let mut known = known(&[]);
        for number in 0..5 * GENERATION_MAX {
            let text = number.to_string();
            assert_eq!(find(&mut known, [&text, ""], NOW), None);
            known.add([text.as_bytes(), b""], number, NOW);
            assert_eq!(find(&mut known, [&text, ""], NOW), Some(number));
        }
        assert!(known.recent.len() + known.before.len() <= 2 * (GENERATION_MAX + 1));
    }
}
