//! Functions of optional values.

use super::{Input, list};
use crate::cel::value::{Evaluated, Value, error, no_overload};

pub fn of_non_zero(input: &Input, args: &[Value]) -> Evaluated {
    Ok(if args[0].is_zero(input.view) {
        Value::Optional(None)
    } else {
        Value::some(args[0].clone())
    })
}

pub fn optional_value(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Optional(Some(value)) => Ok((**value).clone()),
        Value::Optional(None) => error("optional.none() dereference"),
        _ => no_overload(),
    }
}

pub fn has_value(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Optional(value) => Ok(Value::Bool(value.is_some())),
        _ => no_overload(),
    }
}

pub fn unwrap(_: &Input, args: &[Value]) -> Evaluated {
    let mut found = Vec::new();
    for item in list(args)?.iter() {
        match item {
            Value::Optional(Some(value)) => found.push((**value).clone()),
            Value::Optional(None) => {}
            _ => return error("value is not optional"),
        }
    }
    Ok(Value::list(found))
}
