//! Times in words.

use std::num::NonZero;

use time::format_description::well_known::iso8601::{Config, EncodedConfig, TimePrecision};
use time::format_description::well_known::Iso8601;
use time::OffsetDateTime;

use super::token::Millis;

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
