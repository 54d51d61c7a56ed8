//! Operators: arithmetic, order, membership and size.

use std::cmp::Ordering;

use super::{Input, UNHASHABLE, time};
use crate::cel::value::{self, Evaluated, Fault, Value, compare, error, no_overload};

pub fn not(_: &Input, args: &[Value]) -> Evaluated {
    match args[0] {
        Value::Bool(b) => Ok(Value::Bool(!b)),
        _ => no_overload(),
    }
}

pub fn negate(_: &Input, args: &[Value]) -> Evaluated {
    match args[0] {
        Value::Int(i) => i
            .checked_neg()
            .map_or_else(|| error("integer overflow"), |i| Ok(Value::Int(i))),
        Value::Double(d) => Ok(Value::Double(-d)),
        _ => no_overload(),
    }
}

pub fn ordered(args: &[Value], holds: fn(Ordering) -> bool) -> Evaluated {
    if let Some(None) = value::compare_numbers(&args[0], &args[1]) {
        return error("NaN values cannot be ordered");
    }
    compare(&args[0], &args[1]).map(|order| Value::Bool(holds(order)))
}

pub fn arithmetic(
    args: &[Value],
    ints: fn(i64, i64) -> Option<i64>,
    uints: fn(u64, u64) -> Option<u64>,
    doubles: fn(f64, f64) -> f64,
) -> Evaluated {
    match (&args[0], &args[1]) {
        (Value::Int(a), Value::Int(b)) => {
            ints(*a, *b).map_or_else(|| error("integer overflow"), |v| Ok(Value::Int(v)))
        }
        (Value::Uint(a), Value::Uint(b)) => uints(*a, *b).map_or_else(
            || error("unsigned integer overflow"),
            |v| Ok(Value::Uint(v)),
        ),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(doubles(*a, *b))),
        _ => no_overload(),
    }
}

pub fn add(_: &Input, args: &[Value]) -> Evaluated {
    match (&args[0], &args[1]) {
        (Value::Str(a), Value::Str(b)) => Ok(Value::str(&format!("{a}{b}"))),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([&a[..], &b[..]].concat().into())),
        (Value::List(a), Value::List(b)) => {
            Ok(Value::list(a.iter().chain(b.iter()).cloned().collect()))
        }
        (a, b) => time::plus(a, b)
            .unwrap_or_else(|| arithmetic(args, i64::checked_add, u64::checked_add, |a, b| a + b)),
    }
}

pub fn subtract(_: &Input, args: &[Value]) -> Evaluated {
    time::minus(&args[0], &args[1])
        .unwrap_or_else(|| arithmetic(args, i64::checked_sub, u64::checked_sub, |a, b| a - b))
}

pub fn divide(_: &Input, args: &[Value]) -> Evaluated {
    if matches!(args[1], Value::Int(0) | Value::Uint(0))
        && args[0].type_name() == args[1].type_name()
    {
        return error("division by zero");
    }
    arithmetic(args, i64::checked_div, u64::checked_div, |a, b| a / b)
}

pub fn modulo(_: &Input, args: &[Value]) -> Evaluated {
    if matches!(args[1], Value::Int(0) | Value::Uint(0))
        && args[0].type_name() == args[1].type_name()
    {
        return error("modulus by zero");
    }
    match args[0] {
        Value::Double(_) => no_overload(),
        _ => arithmetic(args, i64::checked_rem, u64::checked_rem, |a, b| a % b),
    }
}

pub fn contained(input: &Input, args: &[Value]) -> Evaluated {
    match &args[1] {
        Value::List(list) => Ok(Value::Bool(
            list.iter().any(|item| input.is(item, &args[0])),
        )),
        Value::Map(entries)
            if !entries.is_empty() && matches!(args[0], Value::Semver(_) | Value::Format(_)) =>
        {
            Err(Fault::Cancelled(UNHASHABLE.into()))
        }
        map if map.is_map() => Ok(Value::Bool(value::contains_key(map, &args[0], input.view))),
        _ => no_overload(),
    }
}

pub fn sized(input: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        v @ (Value::Str(_) | Value::Bytes(_) | Value::List(_)) => {
            Ok(Value::Int(v.size(input.view) as i64))
        }
        map if map.is_map() => Ok(Value::Int(map.size(input.view) as i64)),
        _ => no_overload(),
    }
}
