//! What calls cost.

use super::{Cost, Function};
use crate::cel::value::{self, Fault, Value, View};

fn tenths(size: u64, factor: u64) -> u64 {
    (size * factor).div_ceil(10)
}

/// The cost of a call; nothing as an argument stands for one whose evaluation failed.
///
/// Rules by overload do not apply if more than one overload fits. The rule for comparing all elements fails on other values.
pub fn cost(
    function: &Function,
    args: &[Option<&Value>],
    result: Option<&Value>,
    open: bool,
    view: View,
) -> Result<u64, Fault> {
    let equality = matches!(function.name, "_==_" | "_!=_");
    let by_overload = matches!(function.cost, Cost::Smaller if !equality)
        || matches!(
            function.cost,
            Cost::Sum | Cost::ListSize | Cost::SelfCompare(_)
        )
        || matches!(function.name, "bytes" | "string");
    if open && by_overload {
        return Ok(1);
    }
    if let Cost::SelfCompare(index) = function.cost
        && !matches!(args.get(index), Some(Some(Value::List(_))))
    {
        return Err(Fault::Cancelled(
            "internal error: cost of a list that is none".into(),
        ));
    }
    // An address that is parsed first costs its text, if it is known to be one.
    if let Cost::Contains { network } = function.cost {
        let size = |index: usize| args[index].map_or(1, |v: &Value| v.size(view));
        let text = matches!(args[1], Some(Value::Str(_))) && !open;
        let parsing = if text { tenths(size(1), 1) } else { 0 };
        let masking = if network { tenths(size(0), 1) + 1 } else { 0 };
        return Ok(tenths(size(0), 2) + masking + parsing);
    }
    Ok(cost_of(function, args, result, view))
}

fn cost_of(
    function: &Function,
    args: &[Option<&Value>],
    result: Option<&Value>,
    view: View,
) -> u64 {
    let size = |index: usize| {
        args.get(index)
            .copied()
            .flatten()
            .map_or(1, |v| v.size(view))
    };
    let is_text =
        |index: usize| matches!(args.get(index), Some(Some(Value::Str(_) | Value::Bytes(_))));
    match function.cost {
        Cost::One if function.name == "string" && matches!(args[0], Some(Value::Bytes(_))) => {
            tenths(size(0), 1)
        }
        Cost::One => 1,
        Cost::Text(..) if matches!(args[0], Some(Value::Cidr(..))) => 1,
        Cost::Validate => match args[0] {
            Some(Value::Format(format)) => {
                tenths(size(1) + 1, 1) * format.pattern_length.div_ceil(4)
            }
            _ => 1,
        },
        Cost::Contains { .. } => 1,
        Cost::Authorization { check: true } => 350_000,
        Cost::Authorization { check: false } => 10 + tenths(size(1), 1) + size(1).div_ceil(2) * 50,
        Cost::Text(..) if function.name == "bytes" && !matches!(args[0], Some(Value::Str(_))) => 1,
        Cost::Text(index, factor) => tenths(size(index), factor),
        Cost::Result(factor) => tenths(result.map_or(1, |v| v.size(view)), factor),
        Cost::Smaller => match args[0] {
            Some(
                Value::Quantity { .. }
                | Value::Semver(_)
                | Value::Ip(_)
                | Value::Cidr(..)
                | Value::Url(_)
                | Value::Format(_),
            ) if function.name == "_==_" => 1,
            _ if function.name.contains("==") || function.name.contains("!=") => {
                tenths(size(0).min(size(1)), 1)
            }
            _ if is_text(0) || is_text(1) => tenths(size(0).min(size(1)), 1),
            _ => 1,
        },
        Cost::Sum if is_text(0) || is_text(1) => tenths(size(0) + size(1), 1),
        Cost::Sum => 1,
        Cost::Search => tenths(size(0), 1) * tenths(size(1), 1),
        Cost::Match => tenths(size(0) + 1, 1) * size(1).div_ceil(4),
        Cost::ListSize => match args.get(1) {
            Some(Some(Value::List(_))) => size(1),
            _ => 1,
        },
        Cost::Traversal => args[0].map_or(1, |v| traversal(v, view)),
        Cost::ListOutput => result.map_or(1, |v| v.size(view)) + 11,
        Cost::Flatten => {
            let depth = match args.get(1) {
                Some(Some(Value::Int(depth))) if *depth >= 0 => *depth as u64,
                _ => 1,
            };
            size(0).saturating_mul(depth) + 11
        }
        Cost::SelfCompare(index) => {
            let square = size(index) * size(index);
            let text = match args.get(index) {
                Some(Some(Value::List(list))) => {
                    matches!(list.first(), Some(Value::Str(_) | Value::Bytes(_)))
                }
                _ => false,
            };
            (square as f64 * if text { 2.1 } else { 2.0 }) as u64 + 11
        }
        Cost::Sets(factor) => size(0) * size(1) * factor + 1,
    }
}

fn traversal(value: &Value, view: View) -> u64 {
    match value {
        Value::Str(s) => (s.len() as f64 * 0.1) as u64,
        Value::Bytes(b) => (b.len() as f64 * 0.1) as u64,
        Value::List(list) => list.iter().map(|v| traversal(v, view)).sum(),
        map if map.is_map() => value::entries(map, view)
            .iter()
            .map(|(k, v)| traversal(k, view) + traversal(v, view))
            .sum(),
        _ => 1,
    }
}
