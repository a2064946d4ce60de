//! Dates as HTTP and NPM write them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970.
pub(crate) fn unix_millis() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

struct Civil {
    year: i64,
    month: usize,
    day: i64,
    weekday: usize,
    second_of_day: i64,
}

/// Howard Hinnant's `civil_from_days`, <https://howardhinnant.github.io/date_algorithms.html>.
fn civil(unix: i64) -> Civil {
    let days = unix.div_euclid(86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    Civil {
        year: year_of_era + era * 400 + i64::from(month <= 2),
        month: usize::try_from(month).unwrap_or(1),
        day: day_of_year - (153 * month_from_march + 2) / 5 + 1,
        weekday: usize::try_from((days + 4).rem_euclid(7)).unwrap_or(0),
        second_of_day: unix.rem_euclid(86_400),
    }
}

fn time_of_day(second: i64) -> String {
    format!("{:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

/// `2026-11-25T01:57:52.505Z`, as NPM's `expires`.
pub(crate) fn iso8601(unix_millis: i64) -> String {
    let date = civil(unix_millis.div_euclid(1000));
    let (time, millis) = (time_of_day(date.second_of_day), unix_millis.rem_euclid(1000));
    format!("{:04}-{:02}-{:02}T{time}.{millis:03}Z", date.year, date.month, date.day)
}

/// `2026-11-25 01:57:52`, as NPM's `created_on`.
pub(crate) fn sql(unix_millis: i64) -> String {
    iso8601(unix_millis)[..19].replace('T', " ")
}

/// `Wed, 25 Nov 2026 01:57:52 GMT`, as HTTP's `Date`.
pub(crate) fn http(unix_millis: i64) -> String {
    const DAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let date = civil(unix_millis.div_euclid(1000));
    let (day, month) = (DAYS[date.weekday], MONTHS[date.month - 1]);
    let time = time_of_day(date.second_of_day);
    format!("{day}, {:02} {month} {:04} {time} GMT", date.day, date.year)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_the_calendars() {
        assert_eq!(iso8601(1_795_587_450_898), "2026-11-25T06:17:30.898Z");
        assert_eq!(http(1_795_587_450_898), "Wed, 25 Nov 2026 06:17:30 GMT");
        assert_eq!(http(951_782_400_000), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(sql(0), "1970-01-01 00:00:00");
    }
}
