//! Functions of quantities and versions.

use std::cmp::Ordering;

use super::{Input, text};
use crate::cel::semver::Semver;
use crate::cel::value::{Evaluated, Fault, Value, error, no_overload};
use crate::quantity::{Format, Quantity};

pub fn quantity(_: &Input, args: &[Value]) -> Evaluated {
    match Quantity::parse(text(&args[0])?) {
        Ok(quantity) => Ok(Value::Quantity {
            quantity,
            computed: false,
        }),
        Err(text) if text == crate::quantity::TOO_LARGE => Err(Fault::Unsupported(text.into())),
        Err(text) => error(text),
    }
}

pub fn quantity_of(value: &Value) -> Result<&Quantity, Fault> {
    match value {
        Value::Quantity { quantity, .. } => Ok(quantity),
        _ => no_overload(),
    }
}

pub fn as_integer(_: &Input, args: &[Value]) -> Evaluated {
    match quantity_of(&args[0])?.short_integer() {
        Some(value) => Ok(Value::Int(value)),
        None => error("cannot convert value to integer"),
    }
}

pub fn combine(
    args: &[Value],
    operation: fn(&Quantity, &Quantity) -> Option<Quantity>,
) -> Evaluated {
    let left = quantity_of(&args[0])?;
    let right = match &args[1] {
        Value::Int(i) => Quantity::of(*i, Format::DecimalExponent),
        other => *quantity_of(other)?,
    };
    match operation(left, &right) {
        Some(quantity) => Ok(Value::Quantity {
            quantity,
            computed: true,
        }),
        None => Err(Fault::Unsupported(crate::quantity::TOO_LARGE.into())),
    }
}

pub fn precedence(args: &[Value]) -> Result<Ordering, Fault> {
    match (&args[0], &args[1]) {
        (Value::Quantity { quantity: a, .. }, Value::Quantity { quantity: b, .. }) => Ok(a.cmp(b)),
        (Value::Semver(a), Value::Semver(b)) => Ok(a.precedence(b)),
        _ => no_overload(),
    }
}

fn parsed(args: &[Value]) -> Result<Result<Semver, String>, Fault> {
    let source = text(&args[0])?;
    match args.get(1) {
        Some(Value::Bool(true)) => Ok(Semver::parse_normalized(source)),
        None | Some(Value::Bool(false)) => Ok(Semver::parse(source)),
        Some(_) => no_overload(),
    }
}

pub fn version(value: &Value) -> Result<&Semver, Fault> {
    match value {
        Value::Semver(version) => Ok(version),
        _ => no_overload(),
    }
}

pub fn semver(_: &Input, args: &[Value]) -> Evaluated {
    match parsed(args)? {
        Ok(version) => Ok(Value::Semver(version.into())),
        Err(text) => error(text),
    }
}

pub fn is_semver(_: &Input, args: &[Value]) -> Evaluated {
    Ok(Value::Bool(parsed(args)?.is_ok()))
}

/// Earlier releases change a quantity in its slow form where it stands, for all later evaluations.
fn is_kept(args: &[Value]) -> Result<(), Fault> {
    match quantity_of(&args[0])?.is_short() {
        true => Ok(()),
        false => Err(Fault::Unsupported(
            "sums of this quantity change the device itself in this release, which this engine does not do".into(),
        )),
    }
}

pub fn add_in_place(_: &Input, args: &[Value]) -> Evaluated {
    is_kept(args)?;
    combine(args, Quantity::plus)
}

pub fn sub_in_place(_: &Input, args: &[Value]) -> Evaluated {
    is_kept(args)?;
    combine(args, Quantity::minus)
}
