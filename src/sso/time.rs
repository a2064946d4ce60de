//! Times: in words, and beside a clock that may be set.

use std::num::NonZero;

use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};
use time::format_description::well_known::Iso8601;
use time::OffsetDateTime;

use super::token::Millis;

/// By how much a worker's clock may lag behind another's: each is set once in a turn of its event
/// loop. Milliseconds.
const LAG: Millis = 5_000;

/// Whether a moment lies ahead, by at most its longest span. If by more, the clock has stepped back
/// since it was noted, and nothing waits for it: it would be hours.
pub fn is_ahead(at: Millis, now: Millis, longest: Millis) -> bool {
    at > now && at - now <= longest + LAG
}

/// Whether something was less than `span` ago. A moment that lies ahead by less counts too: the
/// clocks of two workers differ by a turn of their event loops.
pub fn is_recent(at: Millis, now: Millis, span: Millis) -> bool {
    at.abs_diff(now) < span
}

/// As JavaScript's `toISOString` writes a time, which is how NPM sends it.
const JAVASCRIPT: EncodedConfig = Config::DEFAULT
    .set_time_precision(TimePrecision::Second { decimal_digits: NonZero::new(3) })
    .encode();

/// A moment as `2026-11-25T01:57:52.505Z`; empty beyond the year 9999.
pub fn iso8601(at: Millis) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(at) * 1_000_000)
        .ok()
        .and_then(|time| time.format(&Iso8601::<JAVASCRIPT>).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_ahead_by_more_than_its_span_does_so_for_a_clock_that_was_set() {
        let now = 1_700_000_000_000;
        for (at, expected) in [
            (0, false),
            (now, false),
            (now + 1, true),
            (now + 10_000 + LAG, true),
            (now + 10_001 + LAG, false),
            (Millis::MAX, false),
        ] {
            assert_eq!(is_ahead(at, now, 10_000), expected, "{at}");
        }
        for (at, expected) in [
            (0, false),
            (now - 10_000, false),
            (now - 9_999, true),
            (now + 9_999, true),
            (now + 10_000, false),
        ] {
            assert_eq!(is_recent(at, now, 10_000), expected, "{at}");
        }
    }
}
