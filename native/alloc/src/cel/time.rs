//! Durations and timestamps as the Go environment has them: nanoseconds in 64 bits, and seconds of the years 1 to 9999.

const SECOND: i64 = 1_000_000_000;
/// Seconds of 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z.
const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;

/// A moment; the offset of its text is kept, since its text shows it.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp {
    pub seconds: i64,
    pub nanos: u32,
    /// Seconds east of UTC.
    pub offset: i64,
}

/// A moment as people write it, in some zone.
pub struct Civil {
    pub year: i64,
    pub month: i64,
    pub day: i64,
    pub day_of_year: i64,
    pub weekday: i64,
    pub hour: i64,
    pub minute: i64,
    pub second: i64,
}

impl Timestamp {
    /// Nothing if the seconds lie outside the years 1 to 9999.
    pub fn new(seconds: i64, nanos: u32, offset: i64) -> Option<Timestamp> {
        let made = Timestamp {
            seconds,
            nanos,
            offset,
        };
        (FIRST..=LAST).contains(&seconds).then_some(made)
    }

    pub fn total_nanos(&self) -> i128 {
        i128::from(self.seconds) * i128::from(SECOND) + i128::from(self.nanos)
    }

    pub fn is_zero(&self) -> bool {
        self.seconds == FIRST && self.nanos == 0
    }

    pub fn plus(&self, nanos: i64) -> Option<Timestamp> {
        let total = self.total_nanos() + i128::from(nanos);
        let seconds = i64::try_from(total.div_euclid(i128::from(SECOND))).ok()?;
        let rest = total.rem_euclid(i128::from(SECOND));
        Timestamp::new(seconds, u32::try_from(rest).ok()?, self.offset)
    }

    pub fn minus(&self, other: &Timestamp) -> Option<i64> {
        i64::try_from(self.total_nanos() - other.total_nanos()).ok()
    }

    pub fn civil(&self, offset: i64) -> Civil {
        let local = self.seconds + offset;
        let (days, second) = (local.div_euclid(86_400), local.rem_euclid(86_400));
        let (year, month, day) = date_of(days);
        Civil {
            year,
            month,
            day,
            day_of_year: days - days_of(year, 1, 1),
            weekday: (days + 4).rem_euclid(7),
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    /// Reads RFC 3339 as Go does: an hour may have one digit, and a comma may begin the fraction.
    pub fn parse(text: &str) -> Option<Timestamp> {
        let mut rest = text;
        let year = digits(&mut rest, 4)?;
        take(&mut rest, '-')?;
        let month = digits(&mut rest, 2)?;
        take(&mut rest, '-')?;
        let day = digits(&mut rest, 2)?;
        take(&mut rest, 'T')?;
        let wide = rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
        let hour = digits(&mut rest, if wide { 2 } else { 1 })?;
        take(&mut rest, ':')?;
        let minute = digits(&mut rest, 2)?;
        take(&mut rest, ':')?;
        let second = digits(&mut rest, 2)?;
        let nanos = fraction(&mut rest);
        let offset = offset(&mut rest)?;
        let exists = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
        if !rest.is_empty() || !exists || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let seconds = days_of(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
        Some(Timestamp {
            seconds: seconds - offset,
            nanos,
            offset,
        })
    }

    /// Whether the years 1 to 9999 hold it; a text may name others.
    pub fn is_in_range(&self) -> bool {
        (FIRST..=LAST).contains(&self.seconds)
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.civil(self.offset);
        write!(out, "{:04}-{:02}-{:02}", at.year, at.month, at.day)?;
        write!(out, "T{:02}:{:02}:{:02}", at.hour, at.minute, at.second)?;
        if self.nanos > 0 {
            let text = format!("{:09}", self.nanos);
            write!(out, ".{}", text.trim_end_matches('0'))?;
        }
        let minutes = self.offset / 60;
        match minutes {
            0 => out.write_str("Z"),
            _ => {
                let sign = if self.offset < 0 { '-' } else { '+' };
                let minutes = minutes.abs();
                write!(out, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
            }
        }
    }
}

fn take(rest: &mut &str, c: char) -> Option<()> {
    *rest = rest.strip_prefix(c)?;
    Some(())
}

fn digits(rest: &mut &str, number: usize) -> Option<i64> {
    let (head, tail) = rest.split_at_checked(number)?;
    *rest = tail;
    head.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| head.parse().ok())?
}

/// Nanoseconds; nine digits count.
fn fraction(rest: &mut &str) -> u32 {
    let Some(tail) = rest.strip_prefix(['.', ',']) else {
        return 0;
    };
    let end = tail
        .bytes()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(tail.len());
    if end == 0 {
        return 0;
    }
    *rest = &tail[end..];
    let kept = &tail[..end.min(9)];
    format!("{kept:0<9}").parse().unwrap_or(0)
}

fn offset(rest: &mut &str) -> Option<i64> {
    if take(rest, 'Z').is_some() {
        return Some(0);
    }
    let sign = match rest.chars().next()? {
        '+' => 1,
        '-' => -1,
        _ => return None,
    };
    *rest = &rest[1..];
    let hours = digits(rest, 2)?;
    take(rest, ':')?;
    let minutes = digits(rest, 2)?;
    (hours <= 24 && minutes <= 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

pub fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01, by counting from March so that leap days come last.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    days + (153 * month + 2) / 5 + day - 719_469
}

fn date_of(days: i64) -> (i64, i64, i64) {
    // A guess that is never too late.
    let mut year = 1970 + days.div_euclid(if days < 0 { 365 } else { 366 });
    while days_of(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 1;
    let mut left = days - days_of(year, 1, 1);
    while left >= days_in(year, month) {
        left -= days_in(year, month);
        month += 1;
    }
    (year, month, left + 1)
}

/// Reads a duration such as `1h30m` or `-1.5s`, as Go does.
pub fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let (whole, after) = number(rest);
        let (decimals, after) = match after.strip_prefix('.') {
            Some(after) => number(after),
            None => ("", after),
        };
        if whole.is_empty() && decimals.is_empty() {
            return None;
        }
        let end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let unit: u64 = match &after[..end] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &after[end..];
        let whole: u64 = if whole.is_empty() {
            0
        } else {
            whole.parse().ok()?
        };
        let mut part = whole.checked_mul(unit).filter(|v| *v <= 1 << 63)?;
        let (value, scale) = decimal(decimals);
        if value > 0 {
            part += (value as f64 * (unit as f64 / scale)) as u64;
            part = Some(part).filter(|v| *v <= 1 << 63)?;
        }
        total = total.checked_add(part).filter(|v| *v <= 1 << 63)?;
    }
    match negative {
        true => Some((total as i64).wrapping_neg()),
        false => i64::try_from(total).ok(),
    }
}

fn number(text: &str) -> (&str, &str) {
    let end = text
        .bytes()
        .position(|b| !b.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// The digits as a number, and ten to their count; digits beyond 63 bits are dropped.
fn decimal(digits: &str) -> (u64, f64) {
    let (mut value, mut scale) = (0u64, 1.0);
    for digit in digits.bytes().map(|b| u64::from(b - b'0')) {
        let next = value.checked_mul(10).and_then(|v| v.checked_add(digit));
        match next.filter(|v| *v <= 1 << 63 && value <= (i64::MAX / 10) as u64) {
            Some(next) => value = next,
            None => break,
        }
        scale *= 10.0;
    }
    (value, scale)
}

/// Seconds as the shortest number, as Go writes a duration for people of this environment.
pub fn duration_text(nanos: i64) -> String {
    let seconds = (nanos / SECOND) as f64 + (nanos % SECOND) as f64 / 1e9;
    format!("{seconds}s")
}
