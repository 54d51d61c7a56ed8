//! Times as Kubernetes writes them: RFC 3339, whole seconds, UTC. The calendar is jiff's.
//!
//! The text is read here, because it is the Go driver's strict form: jiff takes more than a checkpoint may hold (lower
//! case, a space for the T, a second 60), and its moments end a day before the year 9999 does.

use jiff::SignedDuration;
use jiff::civil::{Date, date};

const EPOCH: Date = date(1970, 1, 1);

/// Go's zero time, 0001-01-01T00:00:00Z, which its encoder writes as null.
pub const ZERO: i64 = -62_135_596_800;

/// The first second of year 0: earlier ones have no RFC 3339 text.
pub const FIRST: i64 = -62_167_219_200;

/// The last second of year 9999: later ones have no RFC 3339 text.
pub const LAST: i64 = 253_402_300_799;

/// `text`, an RFC 3339 time with any offset and fraction, in UTC with whole seconds; None if it is no such time.
#[must_use]
pub fn to_utc_seconds(text: &str) -> Option<String> {
    // An offset may lead out of the years that the format can say.
    seconds(text)
        .filter(|at| (FIRST..=LAST).contains(at))
        .map(from_seconds)
}

/// The time in `text` in whole seconds since 1970; None if it is no RFC 3339 time.
#[must_use]
pub fn seconds(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        digits.iter().all(u8::is_ascii_digit).then(|| {
            digits
                .iter()
                .fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0'))
        })
    };
    let literal = |at: usize, byte: u8| (bytes.get(at) == Some(&byte)).then_some(());
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    for (at, byte) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        literal(at, byte)?;
    }
    let date = Date::new(
        year.try_into().ok()?,
        month.try_into().ok()?,
        day.try_into().ok()?,
    )
    .ok()?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut at = 19;
    if literal(at, b'.').is_some() {
        at += 1;
        let start = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        if at == start {
            return None;
        }
    }
    let offset = match bytes.get(at)? {
        b'Z' if bytes.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == at + 6 => {
            literal(at + 3, b':')?;
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'+' { 60 } else { -60 }
        }
        _ => return None,
    };
    let days = date.duration_since(EPOCH).as_hours() / 24;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second - offset)
}

/// The RFC 3339 text of a moment in seconds since 1970.
#[must_use]
pub fn from_seconds(moment: i64) -> String {
    let days = SignedDuration::from_hours(moment.div_euclid(86_400) * 24);
    let date = EPOCH.saturating_add(days);
    let rest = moment.rem_euclid(86_400);
    format!(
        "{date}T{:02}:{:02}:{:02}Z",
        rest / 3_600,
        rest / 60 % 60,
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_and_fractions_go() {
        for (text, wanted) in [
            ("2026-11-24T00:10:22Z", "2026-11-24T00:10:22Z"),
            ("2026-11-24T00:10:22.999999Z", "2026-11-24T00:10:22Z"),
            ("2026-01-01T00:30:00+01:00", "2025-12-31T23:30:00Z"),
            ("2024-02-28T23:59:59-00:01", "2024-02-29T00:00:59Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
            ("1969-12-31T23:59:59Z", "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(to_utc_seconds(text).as_deref(), Some(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "2026-11-24",
            "2026-13-24T00:10:22Z",
            "2025-02-29T00:00:00Z",
            "2026-11-24 00:10:22Z",
            "2026-11-24T24:10:22Z",
            "2026-11-24T00:10:60Z",
            "2026-11-24t00:10:22z",
            "2026-11-24T00:10:22,5Z",
            "2026-11-24T00:10:22",
            "2026-11-24T00:10:22.Z",
            "2026-11-24T00:10:22+0100",
            "ü026-11-24T00:10:22Z",
        ] {
            assert_eq!(to_utc_seconds(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_survives_the_way_to_a_text_and_back() {
        for day in (FIRST..=LAST).step_by(13 * 86_400) {
            assert_eq!(seconds(&from_seconds(day)), Some(day));
        }
        assert_eq!(from_seconds(FIRST), "0000-01-01T00:00:00Z");
        assert_eq!(from_seconds(LAST), "9999-12-31T23:59:59Z");
        assert_eq!(from_seconds(ZERO), "0001-01-01T00:00:00Z");
    }
}
