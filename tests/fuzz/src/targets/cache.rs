//! The table of tokens that all workers share, also where one that was killed has left it half-written.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use base64::Engine;
use ngx_http_npm_token_inject_module::sso::account::{AccountKey, Wanted};
use ngx_http_npm_token_inject_module::sso::cache::{
    Access, Claim, Description, Doubt, Hint, Kind, OwnTable, Pid, Revoked,
};
use ngx_http_npm_token_inject_module::sso::npm::{LoginError, Role};
use ngx_http_npm_token_inject_module::sso::token::{Millis, Token};

/// The bytes as what workers do, one thing after the other; and as what a killed one has left.
pub fn table(data: &[u8]) {
    let mut bytes = data.iter().copied();
    let places = places(bytes.next().unwrap_or_default());
    let mut run = Run {
        bytes,
        table: OwnTable::new(places),
        now: 1_700_000_000_000,
        alive: !0,
        hint: 0,
        serial: 0,
        model: Model { places, ..Model::default() },
    };
    while run.step() {}
    let status = run.table.status(run.now, |_, _| true);
    assert!(status.accounts.len() <= places.max(8));
    let (_, _, _) = (status.to_html(), status.to_json(), status.to_prometheus());
}

fn places(byte: u8) -> usize {
    1 + usize::from(byte % 8)
}

/// What is known of a table that no one has left half-written.
#[derive(Default)]
struct Model {
    places: usize,
    /// What was stored last for an account, as long as it is good.
    tokens: HashMap<u8, Stored>,
    /// Who has promised what, and until when.
    claims: HashMap<u8, (Pid, Millis)>,
    /// All accounts there ever were: where they all fit, none is forgotten.
    accounts: HashSet<u8>,
    /// Those whose tokens may be held back.
    doubted: HashSet<u8>,
    /// Nothing is known any more.
    is_lost: bool,
}

struct Stored {
    authorization: String,
    issue: u64,
    wanted: Wanted,
    use_until: Millis,
}

struct Run<B> {
    bytes: B,
    table: OwnTable,
    now: Millis,
    /// A bit for each process.
    alive: u8,
    hint: Hint,
    serial: u64,
    model: Model,
}

impl<B: Iterator<Item = u8>> Run<B> {
    fn byte(&mut self) -> u8 {
        self.bytes.next().unwrap_or_default()
    }

    fn word(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.byte()))
    }

    /// Whether there was something left to do.
    fn step(&mut self) -> bool {
        let Some(what) = self.bytes.next() else { return false };
        let n = self.byte();
        match what % 20 {
            0 => self.now += u64::from(n) * 10,
            1 => self.now += u64::from(n) * 1_000,
            2 => self.now += u64::from(n) * 100_000,
            3 => self.alive = n,
            4 => self.take_over(n),
            5 => self.poke(),
            6 => self.fill(n),
            7 => self.tear(),
            _ => self.work(what, n % 16),
        }
        true
    }

    /// Another reading of the configuration, with a table of another size.
    fn take_over(&mut self, n: u8) {
        let mut other = OwnTable::new(places(n));
        other.take_over(&mut self.table);
        self.table = other;
        self.model.places = self.model.places.min(places(n));
        self.model.claims.clear();
    }

    /// Changes one word, though not the number of places. No count comes to the end of its numbers.
    fn poke(&mut self) {
        let (index, word) = (self.word_index(), self.word() >> 8);
        self.table.words_mut()[index] = word;
        self.model.is_lost = true;
    }

    fn word_index(&mut self) -> usize {
        let index = usize::from(u16::from_le_bytes([self.byte(), self.byte()]));
        index % self.table.words_mut().len()
    }

    /// Changes many words, each to the number of a place or nearly.
    fn fill(&mut self, n: u8) {
        let from = self.word_index();
        let pattern = self.word();
        let words = self.table.words_mut().iter_mut().enumerate().skip(from);
        for (index, word) in words.take(usize::from(n) * 8) {
            let nibble = |shift: usize| pattern >> (((index + 1) * 8 + shift) % 61) & 15;
            *word = nibble(0) | nibble(4) << 32;
        }
        self.model.is_lost = true;
    }

    /// Does something, of which only some words are written.
    fn tear(&mut self) {
        let mut before = self.table.clone();
        let (what, n, lost) = (self.byte(), self.byte(), self.word());
        self.work(what, n % 16);
        let words = self.table.words_mut().iter_mut().zip(before.words_mut());
        for (n, (word, old)) in words.filter(|(word, old)| word != old).enumerate() {
            if lost >> (n % 64) & 1 != 0 {
                *word = *old;
            }
        }
        self.model.is_lost = true;
    }

    /// What a worker does.
    fn work(&mut self, what: u8, n: u8) {
        // Some of them fall into the same buckets.
        let key = AccountKey([u64::from(n) / 2, n.into(), 0, 0]);
        let by = Pid::from(1 + self.byte() % 7);
        let (now, alive) = (self.now, self.alive);
        let is_alive = |pid: Pid| (0..8).contains(&pid) && alive >> pid & 1 != 0;
        let claim = Claim::new(by, now, Duration::from_secs(5));
        let wanted = match by % 4 {
            0 => Wanted::Standard,
            1 => Wanted::Administrator,
            _ => Wanted::Any,
        };
        let issue = self.model.tokens.get(&n).map_or(0, |stored| stored.issue);
        let model = &mut self.model;
        if !matches!(what % 20, 17 | 18) {
            model.accounts.insert(n);
        }
        let all_fit = model.accounts.len() <= model.places && !model.is_lost;
        let promised = model.claims.get(&n).filter(|(pid, until)| *until > now && is_alive(*pid));
        let is_promised = promised.is_some() && all_fit;
        match what % 20 {
            8 | 9 => {
                let good = model.tokens.get(&n);
                let good = good.filter(|good| good.use_until > now && good.wanted == wanted);
                match self.table.access(&key, wanted, &mut self.hint, now, || claim, is_alive) {
                    Access::Fresh { authorization, issue, renew, hits, .. } if !model.is_lost => {
                        *hits += 1;
                        let good = good.expect("a token that was stored, and is good");
                        assert_eq!(authorization, good.authorization.as_bytes());
                        assert_eq!(issue, good.issue);
                        assert!(!renew || !is_promised, "two at once");
                        if renew {
                            model.claims.insert(n, (by, claim.until));
                        }
                    }
                    Access::Fresh { .. } => {}
                    other => {
                        let is_held_back = model.doubted.contains(&n);
                        assert!(good.is_none() || is_held_back || !all_fit, "{other:?}");
                        if other == Access::LogIn {
                            assert!(!is_promised, "two at once");
                            model.claims.insert(n, (by, claim.until));
                        }
                    }
                }
            }
            10 | 11 => {
                self.serial += 1;
                let token = token(now, self.serial, 100 * u64::from(n) + 20);
                let role = if by == 1 { Role::Administrator } else { Role::Standard };
                let issue = self.table.store(&key, wanted, (&token, role), what & 1 == 0, now);
                let authorization = token.authorization().to_owned();
                let use_until = token.use_until;
                model.tokens.insert(n, Stored { authorization, issue, wanted, use_until });
                model.claims.remove(&n);
                model.doubted.remove(&n);
            }
            12 => {
                let error = match by {
                    1 => LoginError::Refused,
                    2 => LoginError::NoUser,
                    _ => LoginError::Unreachable("…".repeat(usize::from(n) * 20)),
                };
                let retry_at = self.table.fail(&key, &error, now);
                assert!(retry_at > now);
                if error.is_of_user() {
                    model.tokens.remove(&n);
                }
                model.claims.remove(&n);
            }
            13 => {
                let doubt = if by & 1 == 0 { Doubt::Error } else { Doubt::Refused };
                if self.table.doubt(&key, issue, doubt, now, claim, is_alive) {
                    assert!(!is_promised, "two at once");
                    model.claims.insert(n, (by, claim.until));
                }
                model.doubted.insert(n);
            }
            14 => {
                let is_asked_again =
                    self.table.let_be(&key, issue, Some(Role::Standard), claim, now);
                let is_anothers = model.claims.get(&n).is_some_and(|(pid, _)| *pid != by);
                if is_asked_again {
                    assert!(model.is_lost || model.doubted.contains(&n) && !is_anothers);
                    model.claims.insert(n, (by, claim.until));
                } else if model.tokens.contains_key(&n) && !is_anothers {
                    model.claims.remove(&n);
                    model.doubted.remove(&n);
                }
            }
            15 => {
                if self.table.revoke(&key, issue, claim, now) != Revoked::Before {
                    model.tokens.remove(&n);
                    model.claims.insert(n, (by, claim.until));
                }
            }
            16 => {
                let user = ["", "someone"][usize::from(n & 1)];
                let description = Description {
                    identity: "sso@example.com",
                    url: "http://npm",
                    kind: Kind::Person,
                    user,
                };
                self.table.describe(&key, description, now);
            }
            17 => {
                self.table.release(by);
                model.claims.retain(|_, (pid, _)| *pid != by);
            }
            18 => self.hint = usize::from(n),
            _ => self.table.count_wait(&key, n.into(), now),
        }
    }
}

fn token(now: Millis, serial: u64, life: u64) -> Token {
    let seconds = now / 1000;
    let payload = format!(r#"{{"iat":{seconds},"exp":{},"serial":{serial}}}"#, seconds + life);
    let jwt = format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload));
    Token::issued(&jwt, now).expect("a token")
}
