//! Kubernetes quantities: exact decimals with nine places, their canonical text, and the internal form that some of the
//! scheduler's answers depend on.
//!
//! Canonical: the largest suffix that leaves no fraction; binary suffixes stay binary unless the value is below 1024 or
//! fractional. Source: k8s.io/apimachinery, package resource.

use std::cmp::Ordering;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

/// Nano units in one unit.
const UNIT: i128 = 1_000_000_000;
/// No number of a power beyond this can be represented anyway.
const FAR: i64 = 99_999;
/// Digits that the short form takes at most.
const SHORT_DIGITS: i32 = 18;

pub const BAD_FORMAT: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
pub const BAD_NUMBER: &str = "unable to parse numeric part of quantity";
pub const BAD_SUFFIX: &str = "unable to parse quantity's suffix";
pub const TOO_LARGE: &str = "quantity is larger than this engine can represent";

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

/// The canonical form of `text`, or None if it is no quantity. Numbers beyond 38 digits are left as they are written.
#[must_use]
pub fn canonical(text: &str) -> Option<String> {
    let parts = Parts::split(text).ok()?;
    if parts.short().ok()?.is_some_and(|(_, _, keeps)| keeps) {
        return Some(text.to_owned());
    }
    let canonical = parts.exact().and_then(|(mantissa, scale)| {
        let signed = if parts.negative { -mantissa } else { mantissa };
        render(signed, scale, parts.format)
    });
    Some(canonical.unwrap_or_else(|| text.to_owned()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

impl Format {
    const NAMES: [(Format, &str); 3] = [
        (Format::DecimalSi, "decimal"),
        (Format::BinarySi, "binary"),
        (Format::DecimalExponent, "exponent"),
    ];

    #[must_use]
    pub fn named(name: &str) -> Option<Format> {
        let found = Format::NAMES.iter().find(|(_, known)| *known == name);
        found.map(|(format, _)| *format)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        Format::NAMES[self as usize].1
    }
}

/// An exact decimal. `short` is the 64-bit form (value, power of ten) in which the API machinery keeps most numbers.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    short: Option<(i64, i32)>,
    format: Format,
    /// Hash of the text that the parser kept; 0 if it kept none.
    text: u64,
}

impl Quantity {
    pub const ZERO: Quantity = Quantity {
        nanos: 0,
        short: Some((0, 0)),
        format: Format::DecimalSi,
        text: 0,
    };

    /// Whether the API machinery keeps it in 64 bits.
    pub fn is_short(&self) -> bool {
        self.short.is_some()
    }

    /// Everything about the quantity as numbers: equal parts are one and the same quantity.
    pub fn parts(&self) -> [u64; 6] {
        let (value, scale) = self.short.unwrap_or((0, i32::MIN));
        let nanos = self.nanos as u128;
        [
            nanos as u64,
            (nanos >> 64) as u64,
            value as u64,
            scale as u64,
            self.format as u64,
            self.text,
        ]
    }

    /// # Errors
    ///
    /// The text of the API machinery's error, or `TOO_LARGE`.
    pub fn parse(text: &str) -> Result<Quantity, &'static str> {
        let parts = Parts::split(text)?;
        if let Some((value, scale, keeps_text)) = parts.short()? {
            return Ok(Quantity {
                nanos: scaled(i128::from(value), scale + 9).ok_or(TOO_LARGE)?,
                short: Some((value, scale)),
                format: parts.format,
                text: if keeps_text { hash(text) } else { 0 },
            });
        }
        let (mantissa, scale) = parts.exact().ok_or(TOO_LARGE)?;
        let nanos = scaled(mantissa, scale + 9).ok_or(TOO_LARGE)?;
        let is_small_binary = parts.format == Format::BinarySi && 0 < nanos && nanos < UNIT;
        Ok(Quantity {
            nanos: if parts.negative { -nanos } else { nanos },
            short: None,
            format: if is_small_binary {
                Format::DecimalSi
            } else {
                parts.format
            },
            text: 0,
        })
    }

    /// A whole number in its short form.
    pub fn of(value: i64, format: Format) -> Quantity {
        Quantity {
            nanos: i128::from(value) * UNIT,
            short: Some((value, 0)),
            format,
            text: 0,
        }
    }

    pub fn of_milli(value: i64, format: Format) -> Quantity {
        Quantity {
            nanos: i128::from(value) * 1_000_000,
            short: Some((value, -3)),
            format,
            text: 0,
        }
    }

    /// Billionths, in the long form.
    pub fn of_nanos(nanos: i128, format: Format) -> Quantity {
        Quantity {
            nanos,
            short: None,
            format,
            text: 0,
        }
    }

    pub fn nanos(&self) -> i128 {
        self.nanos
    }

    pub fn format(&self) -> Format {
        self.format
    }

    pub fn sign(&self) -> i64 {
        self.nanos.signum() as i64
    }

    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// Whole units, rounded away from zero; wraps beyond 64 bits as the scheduler's arithmetic does.
    pub fn value(&self) -> i64 {
        round_away(self.nanos, UNIT) as i64
    }

    /// Thousandths, or nothing if that loses precision.
    pub fn exact_milli(&self) -> Option<i64> {
        if self.nanos % 1_000_000 != 0 {
            return None;
        }
        i64::try_from(self.nanos / 1_000_000).ok()
    }

    /// The integer that the short form holds; nothing for numbers in the long form or with a fraction.
    pub fn short_integer(&self) -> Option<i64> {
        let (value, scale) = self.short?;
        match scale {
            0 => Some(value),
            1.. => i64::try_from(scaled(i128::from(value), scale)?).ok(),
            _ => None,
        }
    }

    pub fn approximate(&self) -> f64 {
        match self.short {
            Some((value, 0)) => value as f64,
            Some((value, scale)) => value as f64 * 10f64.powi(scale),
            None => self.nanos as f64 / UNIT as f64,
        }
    }

    pub fn plus(&self, other: &Quantity) -> Option<Quantity> {
        let format = if self.is_zero() {
            other.format
        } else {
            self.format
        };
        let nanos = self.nanos.checked_add(other.nanos)?;
        Some(Quantity {
            nanos,
            short: add_short(self.short, other.short, 1),
            format,
            text: 0,
        })
    }

    pub fn minus(&self, other: &Quantity) -> Option<Quantity> {
        let format = if self.is_zero() {
            other.format
        } else {
            self.format
        };
        let nanos = self.nanos.checked_sub(other.nanos)?;
        Some(Quantity {
            nanos,
            short: add_short(self.short, other.short, -1),
            format,
            text: 0,
        })
    }

    /// Whether both have the same internal form: number, scale, format and kept text. Long forms are never identical.
    pub fn identical(&self, other: &Quantity) -> bool {
        self.short.is_some()
            && self.short == other.short
            && self.format == other.format
            && self.text == other.text
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match render(self.nanos, -9, self.format) {
            Some(text) => out.write_str(&text),
            // Without a suffix, as the API machinery writes it.
            None => write!(out, "{}", without_zeros(self.nanos, -9).0),
        }
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, target: S) -> Result<S::Ok, S::Error> {
        target.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(source: D) -> Result<Quantity, D::Error> {
        source.deserialize_any(Taker)
    }
}

/// A quantity is a string, or a number as people write it.
struct Taker;

impl Visitor<'_> for Taker {
    type Value = Quantity;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a quantity, which is a string or a number")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Quantity, E> {
        Quantity::parse(text.trim()).map_err(|e| E::custom(format!("quantity {text:?}: {e}")))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Quantity, E> {
        self.visit_str(&number.to_string())
    }
}

/// The canonical text of `value` × 10^`scale`; None if there is no suffix for it.
fn render(value: i128, scale: i32, format: Format) -> Option<String> {
    if value == 0 {
        return Some("0".to_owned());
    }
    let (value, scale) = without_zeros(value, scale);
    if format == Format::BinarySi && scale >= 0 {
        let mut whole = scaled(value, scale)?;
        if whole.unsigned_abs() >= 1024 {
            let mut power = 0;
            while whole % 1024 == 0 && power + 1 < BINARY.len() {
                whole /= 1024;
                power += 1;
            }
            return Some(format!("{whole}{}", BINARY[power]));
        }
    }
    let down = scale.rem_euclid(3);
    let (value, scale) = (scaled(value, down)?, scale - down);
    if format == Format::DecimalExponent {
        return Some(match scale {
            0 => format!("{value}"),
            _ => format!("{value}e{scale}"),
        });
    }
    let suffix = DECIMAL.get(usize::try_from(scale / 3 + 3).ok()?)?;
    Some(format!("{value}{suffix}"))
}

/// The same number, its trailing zeros moved into the scale.
fn without_zeros(mut value: i128, mut scale: i32) -> (i128, i32) {
    while value != 0 && value % 10 == 0 {
        value /= 10;
        scale += 1;
    }
    (value, scale)
}

/// A text taken apart, as the API machinery does it.
struct Parts<'a> {
    negative: bool,
    num: &'a str,
    denom: &'a str,
    /// Of ten, or of two for the binary suffixes.
    exponent: i32,
    format: Format,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Parts<'a>, &'static str> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(BAD_FORMAT),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let rest = rest.trim_start_matches('0');
        let (num, mut rest) = digits(rest);
        let num = if num.is_empty() { "0" } else { num };
        let mut denom = "";
        if let Some(after) = rest.strip_prefix('.') {
            (denom, rest) = digits(after);
        }
        let letters = rest.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let signed = letters.strip_prefix(['-', '+']).unwrap_or(letters);
        if !digits(signed).1.is_empty() {
            return Err(BAD_FORMAT);
        }
        let (exponent, format) = suffix(rest).ok_or(BAD_SUFFIX)?;
        Ok(Parts {
            negative,
            num,
            denom,
            exponent,
            format,
        })
    }

    /// The 64-bit form where it is used, and whether the text counts as canonical: signs and points survive in it then.
    fn short(&self) -> Result<Option<(i64, i32, bool)>, &'static str> {
        let length = (self.num.len() + self.denom.len()) as i32;
        let places = self.denom.len() as i32;
        let (factor, precision, scale) = match self.format {
            Format::BinarySi if self.denom.is_empty() => {
                let lost = self.exponent * 3 / 10;
                (1i64 << self.exponent, 14 - length - lost, 0)
            }
            Format::BinarySi => return Ok(None),
            _ => (1, SHORT_DIGITS - length, self.exponent - places),
        };
        if precision < 0 || scale < -9 {
            return Ok(None);
        }
        let shifted = format!("{}{}", self.num, self.denom);
        let value: i64 = shifted.parse().map_err(|_| BAD_NUMBER)?;
        let keeps_text = match self.format {
            Format::BinarySi => value & 7 != 0,
            _ => scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0'),
        };
        Ok(value.checked_mul(factor).map(|product| {
            let value = if self.negative { -product } else { product };
            (value, scale, keeps_text)
        }))
    }

    /// (mantissa, power of ten) without the sign: rounded up at nine places, capped if binary. None beyond 38 digits.
    fn exact(&self) -> Option<(i128, i32)> {
        let fraction = self.denom.trim_end_matches('0');
        let mut mantissa: i128 = format!("{}{fraction}", self.num).parse().ok()?;
        let mut scale = -i32::try_from(fraction.len()).ok()?;
        if self.format == Format::BinarySi {
            let limit = scaled(i64::MAX.into(), -scale).unwrap_or(i128::MAX);
            match mantissa.checked_mul(1 << self.exponent) {
                Some(product) if product <= limit => mantissa = product,
                _ => (mantissa, scale) = (i64::MAX.into(), 0),
            }
        } else {
            scale += self.exponent;
        }
        let (mantissa, scale) = without_zeros(mantissa, scale);
        if scale >= -9 {
            return Some((mantissa, scale));
        }
        Some((scaled_up(mantissa, scale + 9)?, -9))
    }
}

fn digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// How a suffix is meant: its power, of ten or (binary) of two.
fn suffix(text: &str) -> Option<(i32, Format)> {
    if let Some(step) = DECIMAL.iter().position(|name| *name == text) {
        return Some((step as i32 * 3 - 9, Format::DecimalSi));
    }
    if let Some(step) = BINARY.iter().position(|name| *name == text) {
        return Some((step as i32 * 10, Format::BinarySi));
    }
    let exponent = text.strip_prefix(['e', 'E'])?.parse::<i64>().ok()?;
    let exponent = exponent.clamp(-FAR, FAR) as i32;
    Some((exponent, Format::DecimalExponent))
}

/// `value` times ten to the power; nothing if that overflows or is not exact.
fn scaled(value: i128, power: i32) -> Option<i128> {
    if value == 0 {
        return Some(0);
    }
    if power >= 0 {
        value.checked_mul(10i128.checked_pow(power as u32)?)
    } else {
        let divisor = 10i128.checked_pow(power.unsigned_abs())?;
        (value % divisor == 0).then_some(value / divisor)
    }
}

/// Like `scaled`, rounding away from zero.
fn scaled_up(value: i128, power: i32) -> Option<i128> {
    if power >= 0 || value == 0 {
        return scaled(value, power);
    }
    match 10i128.checked_pow(power.unsigned_abs()) {
        Some(divisor) => Some(round_away(value, divisor)),
        None => Some(value.signum()),
    }
}

fn round_away(value: i128, divisor: i128) -> i128 {
    let quotient = value / divisor;
    if value % divisor == 0 {
        quotient
    } else {
        quotient + value.signum()
    }
}

/// The short form of a sum as the API machinery computes it, or nothing if it changes to the long form.
fn add_short(a: Option<(i64, i32)>, b: Option<(i64, i32)>, sign: i64) -> Option<(i64, i32)> {
    let ((a, a_scale), (b, b_scale)) = (a?, b?);
    let b = b.wrapping_mul(sign);
    if b == 0 {
        return Some((a, a_scale));
    }
    if a == 0 {
        return Some((b, b_scale));
    }
    let scale = a_scale.min(b_scale);
    let raise =
        |value: i64, from: i32| i64::try_from(scaled(i128::from(value), from - scale)?).ok();
    Some((raise(a, a_scale)?.checked_add(raise(b, b_scale)?)?, scale))
}

/// FNV-1a, never 0.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }) | 1
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
