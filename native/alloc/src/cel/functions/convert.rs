//! Conversions between types.

use super::Input;
use crate::cel::time::duration_text;
use crate::cel::value::{Evaluated, Fault, Value, error, no_overload};

pub fn to_bool(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Bool(b) => Ok(Value::Bool(*b)),
        Value::Str(s) => match &**s {
            "1" | "t" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => error(format!(
                "type conversion error from 'string' to 'bool': {s}"
            )),
        },
        _ => no_overload(),
    }
}

pub fn to_bytes(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Bytes(b) => Ok(Value::Bytes(b.clone())),
        Value::Str(s) => Ok(Value::Bytes(s.as_bytes().into())),
        _ => no_overload(),
    }
}

pub fn to_double(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Double(d) => Ok(Value::Double(*d)),
        Value::Int(i) => Ok(Value::Double(*i as f64)),
        Value::Uint(u) => Ok(Value::Double(*u as f64)),
        Value::Str(s) => s.parse().map_or_else(
            |_| error(format!("cannot parse double {s:?}")),
            |d| Ok(Value::Double(d)),
        ),
        _ => no_overload(),
    }
}

pub fn to_int(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Int(i) => Ok(Value::Int(*i)),
        Value::Double(d) if d.is_nan() || *d <= i64::MIN as f64 || *d >= i64::MAX as f64 => {
            error("integer overflow")
        }
        Value::Double(d) => Ok(Value::Int(*d as i64)),
        Value::Uint(u) => {
            i64::try_from(*u).map_or_else(|_| error("integer overflow"), |i| Ok(Value::Int(i)))
        }
        Value::Str(s) => s.parse().map_or_else(
            |_| error(format!("cannot parse int {s:?}")),
            |i| Ok(Value::Int(i)),
        ),
        Value::Duration(nanos) => Ok(Value::Int(*nanos)),
        Value::Timestamp(at) => Ok(Value::Int(at.seconds)),
        _ => no_overload(),
    }
}

pub fn to_uint(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Uint(u) => Ok(Value::Uint(*u)),
        Value::Double(d) if d.is_nan() || *d < 0.0 || *d >= u64::MAX as f64 => {
            error("unsigned integer overflow")
        }
        Value::Double(d) => Ok(Value::Uint(*d as u64)),
        Value::Int(i) => u64::try_from(*i).map_or_else(
            |_| error("unsigned integer overflow"),
            |u| Ok(Value::Uint(u)),
        ),
        Value::Str(s) => s.parse().map_or_else(
            |_| error(format!("cannot parse uint {s:?}")),
            |u| Ok(Value::Uint(u)),
        ),
        _ => no_overload(),
    }
}

pub fn to_string(_: &Input, args: &[Value]) -> Evaluated {
    Ok(match &args[0] {
        Value::Str(s) => Value::Str(s.clone()),
        Value::Bool(b) => Value::str(&b.to_string()),
        Value::Int(i) => Value::str(&i.to_string()),
        Value::Uint(u) => Value::str(&u.to_string()),
        Value::Double(d) => Value::str(&go_double(*d)?),
        Value::Bytes(b) => match std::str::from_utf8(b) {
            Ok(text) => Value::str(text),
            Err(_) => return error("invalid UTF-8 in bytes, cannot convert to string"),
        },
        Value::Duration(nanos) => Value::str(&duration_text(*nanos)),
        Value::Timestamp(at) => Value::str(&at.to_string()),
        Value::Ip(address) => Value::str(&address.to_string()),
        Value::Cidr(address, bits) => Value::str(&format!("{address}/{bits}")),
        _ => return no_overload(),
    })
}

/// Shortest text, as Go prints it; large exponents are left to Go.
pub fn go_double(d: f64) -> Result<String, Fault> {
    if d != 0.0 && (d.abs() < 1e-4 || d.abs() >= 1e21) {
        return Err(Fault::Unsupported(
            "text of very large or small doubles is not evaluated by this engine".into(),
        ));
    }
    Ok(d.to_string())
}
