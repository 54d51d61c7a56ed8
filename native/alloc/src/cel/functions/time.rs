//! Functions of durations and timestamps.

use super::{Input, text};
use crate::cel::time::{Civil, Timestamp, parse_duration};
use crate::cel::value::{Evaluated, Fault, Value, error, no_overload};

pub fn duration(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Duration(_) => Ok(args[0].clone()),
        Value::Str(text) => match parse_duration(text) {
            Some(nanos) => Ok(Value::Duration(nanos)),
            None => error("type conversion error from 'string' to 'google.protobuf.Duration'"),
        },
        _ => no_overload(),
    }
}

pub fn timestamp(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Timestamp(_) => Ok(args[0].clone()),
        Value::Int(seconds) => made(Timestamp::new(*seconds, 0, 0)),
        Value::Str(text) => match Timestamp::parse(text) {
            Some(at) => made(Some(at).filter(Timestamp::is_in_range)),
            None => error("type conversion error from 'string' to 'google.protobuf.Timestamp'"),
        },
        _ => no_overload(),
    }
}

fn made(at: Option<Timestamp>) -> Evaluated {
    at.map_or_else(
        || error("timestamp overflow"),
        |at| Ok(Value::Timestamp(at)),
    )
}

fn lasting(nanos: Option<i64>) -> Evaluated {
    nanos.map_or_else(|| error("duration overflow"), |n| Ok(Value::Duration(n)))
}

/// Sums with a duration; nothing if neither value is a time.
pub fn plus(a: &Value, b: &Value) -> Option<Evaluated> {
    Some(match (a, b) {
        (Value::Duration(a), Value::Duration(b)) => lasting(a.checked_add(*b)),
        (Value::Duration(by), Value::Timestamp(at))
        | (Value::Timestamp(at), Value::Duration(by)) => made(at.plus(*by)),
        _ => return None,
    })
}

/// Differences of times; nothing if the left value is none.
pub fn minus(a: &Value, b: &Value) -> Option<Evaluated> {
    Some(match (a, b) {
        (Value::Duration(a), Value::Duration(b)) => lasting(a.checked_sub(*b)),
        (Value::Timestamp(at), Value::Duration(by)) => match by.checked_neg() {
            Some(by) => made(at.plus(by)),
            None => error("duration overflow"),
        },
        (Value::Timestamp(a), Value::Timestamp(b)) => lasting(a.minus(b)),
        _ => return None,
    })
}

/// A part of a timestamp in UTC or in a zone.
pub fn part(args: &[Value], of: fn(&Civil) -> i64) -> Evaluated {
    let Value::Timestamp(at) = &args[0] else {
        return no_overload();
    };
    Ok(Value::Int(of(&at.civil(zone(args)?))))
}

/// A part of a timestamp, or a duration in units of so many nanoseconds.
pub fn part_or_units(args: &[Value], of: fn(&Civil) -> i64, unit: i64) -> Evaluated {
    match &args[0] {
        Value::Duration(nanos) if args.len() == 1 => Ok(Value::Int(nanos / unit)),
        _ => part(args, of),
    }
}

pub fn milliseconds(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Duration(nanos) if args.len() == 1 => Ok(Value::Int(nanos / 1_000_000)),
        Value::Timestamp(at) => {
            zone(args)?;
            Ok(Value::Int(i64::from(at.nanos / 1_000_000)))
        }
        _ => no_overload(),
    }
}

/// Seconds east of UTC of the zone that the second argument names.
fn zone(args: &[Value]) -> Result<i64, Fault> {
    let Some(name) = args.get(1) else {
        return Ok(0);
    };
    let name = text(name)?;
    let Some((hours, minutes)) = name.split_once(':') else {
        return match &**name {
            "" | "UTC" => Ok(0),
            other => Err(Fault::Unsupported(format!(
                "time zone {other:?} is not known to this engine: it knows UTC and offsets such as +02:00"
            ))),
        };
    };
    let number = |text: &str| text.parse::<i64>().ok();
    let (Some(hours), Some(minutes)) = (number(hours), number(minutes)) else {
        return error(format!("invalid time zone {name:?}"));
    };
    let sign = if name.starts_with('-') { -1 } else { 1 };
    let total = hours
        .checked_mul(60)
        .and_then(|m| m.checked_add(minutes.checked_mul(sign)?))
        .and_then(|m| m.checked_mul(60))
        .filter(|seconds| seconds.abs() < 1 << 40);
    total.map_or_else(
        || {
            Err(Fault::Unsupported(format!(
                "time zone {name:?} is too far from UTC for this engine"
            )))
        },
        Ok,
    )
}
