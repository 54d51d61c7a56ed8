//! Kubernetes quantities: exact decimals with nine places, and the internal form that some answers depend on.

use std::cmp::Ordering;
use std::fmt;

/// Nano units in one unit.
const UNIT: i128 = 1_000_000_000;
/// Digits that the short form takes at most.
const SHORT_DIGITS: i32 = 18;

pub const BAD_FORMAT: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
pub const BAD_NUMBER: &str = "unable to parse numeric part of quantity";
pub const BAD_SUFFIX: &str = "unable to parse quantity's suffix";
pub const TOO_LARGE: &str = "quantity is larger than this engine can represent";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    DecimalSi,
    BinarySi,
    DecimalExponent,
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

    pub fn parse(text: &str) -> Result<Quantity, &'static str> {
        if text.is_empty() {
            return Err(BAD_FORMAT);
        }
        if text == "0" {
            return Ok(Quantity {
                text: hash(text),
                ..Quantity::ZERO
            });
        }
        let parts = Parts::split(text)?;
        let (base, exponent, format) = suffix(parts.suffix).ok_or(BAD_SUFFIX)?;
        let digits = (parts.num.len() + parts.denom.len()) as i32;
        let (mantissa, precision, scale) = match format {
            Format::BinarySi if parts.denom.is_empty() => {
                let lost = (exponent as f32 * 3.0 / 10.0) as i32;
                (1i64 << exponent, 15 - parts.num.len() as i32 - lost - 1, 0)
            }
            Format::BinarySi => (1, -1, 0),
            _ => (1, SHORT_DIGITS - digits, exponent),
        };
        let scale = scale - parts.denom.len() as i32;
        if precision >= 0 && scale >= -9 {
            let shifted = format!("{}{}", parts.num, parts.denom);
            let value: i64 = shifted.parse().map_err(|_| BAD_NUMBER)?;
            if let Some(product) = value.checked_mul(mantissa) {
                let keeps_text = match format {
                    Format::BinarySi => exponent % 10 == 0 && value & 7 != 0,
                    _ => scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0'),
                };
                let value = if parts.negative { -product } else { product };
                return Ok(Quantity {
                    nanos: scaled(i128::from(value), scale + 9).ok_or(TOO_LARGE)?,
                    short: Some((value, scale)),
                    format,
                    text: if keeps_text { hash(text) } else { 0 },
                });
            }
        }
        parts.long(base, exponent, format)
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
        if self.nanos == 0 {
            return out.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * UNIT;
        if self.format == Format::BinarySi && !small && self.nanos % UNIT == 0 {
            let (mut value, mut power) = (self.nanos / UNIT, 0);
            while value % 1024 == 0 && power < 6 {
                value /= 1024;
                power += 1;
            }
            return write!(
                out,
                "{value}{}",
                ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]
            );
        }
        let (mut value, mut exponent) = (self.nanos, -9);
        while value % 1000 == 0 {
            value /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent {
            return match exponent {
                0 => write!(out, "{value}"),
                _ => write!(out, "{value}e{exponent}"),
            };
        }
        let names = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        write!(
            out,
            "{value}{}",
            names.get(((exponent + 9) / 3) as usize).unwrap_or(&"")
        )
    }
}

struct Parts<'a> {
    negative: bool,
    num: &'a str,
    denom: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Parts<'a>, &'static str> {
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
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
        Ok(Parts {
            negative,
            num,
            denom,
            suffix: rest,
        })
    }

    /// The long form: any number of digits, rounded away from zero at nine places, capped if binary.
    fn long(&self, base: i32, exponent: i32, format: Format) -> Result<Quantity, &'static str> {
        let text = format!("{}{}", self.num, self.denom);
        let digits: i128 = text.parse().map_err(|_| TOO_LARGE)?;
        let places = self.denom.len() as i32;
        let nanos = if base == 2 {
            let shift = u32::try_from(exponent).map_err(|_| TOO_LARGE)?;
            let shifted = digits
                .checked_mul(1i128 << shift.min(100))
                .ok_or(TOO_LARGE)?;
            scaled_up(shifted, 9 - places)
        } else {
            scaled_up(digits, 9 - places + exponent)
        }
        .ok_or(TOO_LARGE)?;
        let cap = i128::from(i64::MAX) * UNIT;
        let nanos = if format == Format::BinarySi {
            nanos.min(cap)
        } else {
            nanos
        };
        let format = match format {
            Format::BinarySi if 0 < nanos && nanos < UNIT => Format::DecimalSi,
            _ => format,
        };
        let nanos = if self.negative { -nanos } else { nanos };
        Ok(Quantity {
            nanos,
            short: None,
            format,
            text: 0,
        })
    }
}

fn digits(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

fn suffix(text: &str) -> Option<(i32, i32, Format)> {
    Some(match text {
        "" => (10, 0, Format::DecimalSi),
        "n" => (10, -9, Format::DecimalSi),
        "u" => (10, -6, Format::DecimalSi),
        "m" => (10, -3, Format::DecimalSi),
        "k" => (10, 3, Format::DecimalSi),
        "M" => (10, 6, Format::DecimalSi),
        "G" => (10, 9, Format::DecimalSi),
        "T" => (10, 12, Format::DecimalSi),
        "P" => (10, 15, Format::DecimalSi),
        "E" => (10, 18, Format::DecimalSi),
        "Ki" => (2, 10, Format::BinarySi),
        "Mi" => (2, 20, Format::BinarySi),
        "Gi" => (2, 30, Format::BinarySi),
        "Ti" => (2, 40, Format::BinarySi),
        "Pi" => (2, 50, Format::BinarySi),
        "Ei" => (2, 60, Format::BinarySi),
        _ => {
            let exponent = text.strip_prefix(['e', 'E'])?;
            (
                10,
                exponent.parse::<i64>().ok()?.clamp(-1000, 1000) as i32,
                Format::DecimalExponent,
            )
        }
    })
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
