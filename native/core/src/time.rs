//! Times as Kubernetes writes them: RFC 3339, whole seconds, UTC.

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
    if !(1..=12).contains(&month)
        || day < 1
        || day > days_in(year, month)
        || hour > 23
        || minute > 59
        || second > 59
    {
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
    Some(days_before(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset)
}

/// The RFC 3339 text of a moment in seconds since 1970.
#[must_use]
pub fn from_seconds(moment: i64) -> String {
    let (year, month, day) = date_of(moment.div_euclid(86_400));
    let rest = moment.rem_euclid(86_400);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        rest / 3_600,
        rest / 60 % 60,
        rest % 60
    )
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the Gregorian calendar; years are counted from March, so that leap days end them.
fn days_before(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (
        year_of_era + era * 400 + i64::from(month <= 2),
        month,
        of_year - (153 * shifted + 2) / 5 + 1,
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
            "2026-11-24T00:10:22",
            "2026-11-24T00:10:22.Z",
            "2026-11-24T00:10:22+0100",
            "ü026-11-24T00:10:22Z",
        ] {
            assert_eq!(to_utc_seconds(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_survives_the_way_to_a_number_and_back() {
        for days in -800_000..800_000 {
            let (year, month, day) = date_of(days);
            assert_eq!(days_before(year, month, day), days);
        }
    }
}
