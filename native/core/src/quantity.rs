//! Resource quantities in the one form Kubernetes writes them in.
//!
//! The largest suffix that leaves no fraction; binary suffixes stay binary unless the value is below 1024 or fractional.
//! Source: k8s.io/apimachinery, package resource.

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

enum Format {
    Decimal,
    Exponent,
    Binary,
}

/// The canonical form of `text`, or None if it is no quantity. Numbers beyond 30 digits are left as they are written.
#[must_use]
pub fn canonical(text: &str) -> Option<String> {
    let (is_negative, rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = rest
        .find(|character: char| !character.is_ascii_digit() && character != '.')
        .unwrap_or(rest.len());
    let (number, suffix) = rest.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.contains('.') {
        return None;
    }
    let (format, power) = power_of(suffix)?;
    if is_reused(whole, fraction, &format, power) {
        return Some(text.to_owned());
    }
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Some("0".to_owned());
    }
    if digits.len() > 30 {
        return Some(text.to_owned());
    }
    // value = mantissa × 10^scale, exactly.
    let mut mantissa: i128 = digits.parse().ok()?;
    let mut scale = -i32::try_from(fraction.len()).ok()?;
    let mut is_binary = false;
    match format {
        Format::Binary => {
            // No binary quantity is larger than an i64.
            let limit = i128::from(i64::MAX).saturating_mul(10_i128.pow(scale.unsigned_abs()));
            match mantissa.checked_mul(1_i128 << power) {
                Some(scaled) if scaled <= limit => mantissa = scaled,
                _ => (mantissa, scale) = (i64::MAX.into(), 0),
            }
            is_binary = true;
        }
        Format::Decimal | Format::Exponent => scale += power,
    }
    while mantissa % 10 == 0 {
        mantissa /= 10;
        scale += 1;
    }
    while scale < -9 {
        // Smaller than a billionth: rounded up, away from zero.
        mantissa = mantissa / 10 + i128::from(mantissa % 10 != 0);
        scale += 1;
    }
    while mantissa % 10 == 0 {
        mantissa /= 10;
        scale += 1;
    }
    let sign = if is_negative { "-" } else { "" };
    if is_binary && scale >= 0 {
        let mut value = mantissa.checked_mul(10_i128.checked_pow(scale.unsigned_abs())?)?;
        if value >= 1024 {
            let mut step = 0;
            while value % 1024 == 0 && step + 1 < BINARY.len() {
                value /= 1024;
                step += 1;
            }
            return Some(format!("{sign}{value}{}", BINARY[step]));
        }
    }
    let down = scale.rem_euclid(3);
    let mantissa = mantissa.checked_mul(10_i128.pow(down.unsigned_abs()))?;
    let scale = scale - down;
    if matches!(format, Format::Exponent) {
        return Some(if scale == 0 {
            format!("{sign}{mantissa}")
        } else {
            format!("{sign}{mantissa}e{scale}")
        });
    }
    match DECIMAL.get(usize::try_from(scale / 3 + 3).ok()?) {
        Some(suffix) => Some(format!("{sign}{mantissa}{suffix}")),
        None => Some(text.to_owned()),
    }
}

/// Whether Kubernetes takes the text for canonical without looking further, and writes it as it came.
///
/// It does so for short numbers that end in no zeros to speak of; signs and points may then survive.
fn is_reused(whole: &str, fraction: &str, format: &Format, power: i32) -> bool {
    let whole = whole.trim_start_matches('0');
    let whole = if whole.is_empty() { "0" } else { whole };
    let length = i32::try_from(whole.len() + fraction.len()).unwrap_or(i32::MAX);
    let shifted = format!("{whole}{fraction}");
    let Ok(value) = shifted.parse::<i64>() else {
        return false;
    };
    match format {
        Format::Binary => {
            fraction.is_empty()
                && 14 - length - power * 3 / 10 >= 0
                && value & 7 != 0
                && value.checked_mul(1 << power).is_some()
        }
        Format::Decimal | Format::Exponent => {
            let scale = power - i32::try_from(fraction.len()).unwrap_or(i32::MAX);
            length <= 18
                && scale >= -9
                && scale % 3 == 0
                && !shifted.ends_with("000")
                && !shifted.starts_with('0')
        }
    }
}

/// How a suffix is meant, and its power: of ten, or of two for the binary ones.
fn power_of(suffix: &str) -> Option<(Format, i32)> {
    if let Some(step) = BINARY.iter().skip(1).position(|name| *name == suffix) {
        return Some((Format::Binary, (i32::try_from(step).ok()? + 1) * 10));
    }
    if let Some(step) = DECIMAL.iter().position(|name| *name == suffix) {
        return Some((Format::Decimal, (i32::try_from(step).ok()? - 3) * 3));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let is_number = exponent
        .trim_start_matches(['+', '-'])
        .bytes()
        .all(|byte| byte.is_ascii_digit());
    (is_number && exponent.len() < 6)
        .then(|| exponent.parse().ok().map(|power| (Format::Exponent, power)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, wanted) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("1", "1"),
            ("10", "10"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("1.5", "1500m"),
            ("1.50", "1500m"),
            ("0.001", "1m"),
            ("1200000", "1200k"),
            ("1e3", "1e3"),
            ("1e4", "10e3"),
            ("1E", "1E"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("512", "512"),
            ("0.5Ki", "512"),
            ("1Ki", "1Ki"),
            ("0.5Mi", "512Ki"),
            ("80Gi", "80Gi"),
            ("1024Ti", "1Pi"),
            ("-2048Ki", "-2Mi"),
            ("+5", "+5"),
            ("+8Ki", "8Ki"),
            ("-", "0"),
            ("1000000Ei", "9223372036854775807"),
            ("0.1Ki", "102400m"),
            ("1n", "1n"),
            ("0.5n", "1n"),
            (".5", "500m"),
            ("5.", "5."),
            ("12e0", "12e0"),
            ("-52e-52", "-1e-9"),
            ("-.80e51", "-800e48"),
        ] {
            assert_eq!(canonical(text).as_deref(), Some(wanted), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_none() {
        for text in [
            "", "x", "1x", "1.2.3", "1ki", "1e", "1ee3", "--1", "1 Gi", "1e+-3", "1e3x",
        ] {
            assert_eq!(canonical(text), None, "{text}");
        }
        assert!(canonical("9".repeat(60).as_str()).is_some());
        assert!(canonical("1e999").is_some());
    }
}
