//! The functions of the environment and what each costs.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use regex::Regex;

use super::semver::Semver;
use super::value::{self, Evaluated, Fault, Value, View, compare, error, no_overload};
use crate::quantity::{Format, Quantity};

/// The Go environment cannot look a version up among keys and ends the whole evaluation.
pub const UNHASHABLE: &str = "internal error: runtime error: hash of unhashable type cel.Semver";

/// What functions may look at besides their arguments.
pub struct Input<'a> {
    pub view: View<'a>,
}

impl Input<'_> {
    pub fn of_constants() -> Input<'static> {
        Input { view: None }
    }

    pub fn equal(&self, a: &Value, b: &Value) -> Result<bool, Fault> {
        value::equal(a, b, self.view)
    }

    fn is(&self, a: &Value, b: &Value) -> bool {
        matches!(self.equal(a, b), Ok(true))
    }
}

type Body = fn(&Input, &[Value]) -> Evaluated;

#[derive(Clone, Copy, Debug)]
pub enum Cost {
    One,
    /// A tenth of the argument's size, times the factor.
    Text(usize, u64),
    Result(u64),
    Smaller,
    Sum,
    Search,
    Match,
    ListSize,
    Traversal,
    ListOutput,
    Flatten,
    SelfCompare(usize),
    Sets(u64),
}

pub struct Function {
    pub name: &'static str,
    pub body: Body,
    pub cost: Cost,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name)
    }
}

const TABLE: &[(&str, Body, Cost)] = &[
    ("!_", not, Cost::One),
    ("-_", negate, Cost::One),
    (
        "_==_",
        |i, a| i.equal(&a[0], &a[1]).map(Value::Bool),
        Cost::Smaller,
    ),
    (
        "_!=_",
        |i, a| Ok(Value::Bool(!i.is(&a[0], &a[1]))),
        Cost::Smaller,
    ),
    ("_<_", |_, a| ordered(a, Ordering::is_lt), Cost::Smaller),
    ("_<=_", |_, a| ordered(a, Ordering::is_le), Cost::Smaller),
    ("_>_", |_, a| ordered(a, Ordering::is_gt), Cost::Smaller),
    ("_>=_", |_, a| ordered(a, Ordering::is_ge), Cost::Smaller),
    ("_+_", add, Cost::Sum),
    (
        "_-_",
        |_, a| arithmetic(a, i64::checked_sub, u64::checked_sub, |a, b| a - b),
        Cost::One,
    ),
    (
        "_*_",
        |_, a| arithmetic(a, i64::checked_mul, u64::checked_mul, |a, b| a * b),
        Cost::One,
    ),
    ("_/_", divide, Cost::One),
    ("_%_", modulo, Cost::One),
    ("@in", contained, Cost::ListSize),
    ("size", |i, a| sized(i, a), Cost::One),
    (
        "contains",
        |_, a| texts(a, |a, b| a.contains(b)),
        Cost::Search,
    ),
    (
        "startsWith",
        |_, a| texts(a, |a, b| a.starts_with(b)),
        Cost::Text(1, 1),
    ),
    (
        "endsWith",
        |_, a| texts(a, |a, b| a.ends_with(b)),
        Cost::Text(1, 1),
    ),
    ("matches", matches_regex, Cost::Match),
    ("find", find_regex, Cost::Match),
    ("findAll", find_all, Cost::Match),
    ("bool", to_bool, Cost::One),
    ("bytes", to_bytes, Cost::Text(0, 1)),
    ("double", to_double, Cost::One),
    ("dyn", |_, a| Ok(a[0].clone()), Cost::One),
    ("int", to_int, Cost::One),
    ("string", to_string, Cost::One),
    (
        "type",
        |_, a| Ok(Value::Type(a[0].type_name().into())),
        Cost::One,
    ),
    ("uint", to_uint, Cost::One),
    ("isSorted", is_sorted, Cost::Traversal),
    ("sum", sum, Cost::Traversal),
    (
        "max",
        |_, a| extreme(a, "max", Ordering::Less),
        Cost::Traversal,
    ),
    (
        "min",
        |_, a| extreme(a, "min", Ordering::Greater),
        Cost::Traversal,
    ),
    ("indexOf", |i, a| index_of(i, a, false), Cost::Traversal),
    ("lastIndexOf", |i, a| index_of(i, a, true), Cost::Traversal),
    ("includes", includes, Cost::Traversal),
    (
        "optional.of",
        |_, a| Ok(Value::some(a[0].clone())),
        Cost::One,
    ),
    ("optional.ofNonZeroValue", of_non_zero, Cost::One),
    ("optional.none", |_, _| Ok(Value::Optional(None)), Cost::One),
    ("value", optional_value, Cost::One),
    ("hasValue", has_value, Cost::One),
    (
        "first",
        |_, a| list(a).map(|l| Value::Optional(l.first().cloned().map(Arc::new))),
        Cost::One,
    ),
    (
        "last",
        |_, a| list(a).map(|l| Value::Optional(l.last().cloned().map(Arc::new))),
        Cost::One,
    ),
    ("optional.unwrap", unwrap, Cost::One),
    ("unwrapOpt", unwrap, Cost::One),
    ("charAt", char_at, Cost::One),
    (
        "lowerAscii",
        |_, a| text(&a[0]).map(|s| Value::str(&s.to_ascii_lowercase())),
        Cost::Text(0, 1),
    ),
    (
        "upperAscii",
        |_, a| text(&a[0]).map(|s| Value::str(&s.to_ascii_uppercase())),
        Cost::Text(0, 1),
    ),
    ("replace", replace, Cost::Text(0, 2)),
    ("split", split, Cost::Text(0, 2)),
    ("substring", substring, Cost::Text(0, 1)),
    (
        "trim",
        |_, a| text(&a[0]).map(|s| Value::str(s.trim())),
        Cost::Text(0, 1),
    ),
    ("join", join, Cost::Result(2)),
    (
        "strings.quote",
        |_, a| text(&a[0]).map(|s| Value::str(&quote(s))),
        Cost::Text(0, 1),
    ),
    (
        "sets.contains",
        |i, a| sets(a, |a, b| all_in(i, b, a)),
        Cost::Sets(1),
    ),
    (
        "sets.equivalent",
        |i, a| sets(a, |a, b| all_in(i, b, a) && all_in(i, a, b)),
        Cost::Sets(2),
    ),
    (
        "sets.intersects",
        |i, a| sets(a, |a, b| b.iter().any(|x| a.iter().any(|y| i.is(y, x)))),
        Cost::Sets(1),
    ),
    ("quantity", quantity, Cost::Text(0, 1)),
    (
        "isQuantity",
        |_, a| text(&a[0]).map(|s| Value::Bool(Quantity::parse(s).is_ok())),
        Cost::Text(0, 1),
    ),
    (
        "sign",
        |_, a| quantity_of(&a[0]).map(|q| Value::Int(q.sign())),
        Cost::One,
    ),
    (
        "isInteger",
        |_, a| quantity_of(&a[0]).map(|q| Value::Bool(q.short_integer().is_some())),
        Cost::One,
    ),
    ("asInteger", as_integer, Cost::One),
    (
        "asApproximateFloat",
        |_, a| quantity_of(&a[0]).map(|q| Value::Double(q.approximate())),
        Cost::One,
    ),
    ("add", |_, a| combine(a, Quantity::plus), Cost::One),
    ("sub", |_, a| combine(a, Quantity::minus), Cost::One),
    (
        "isGreaterThan",
        |_, a| precedence(a).map(|o| Value::Bool(o.is_gt())),
        Cost::One,
    ),
    (
        "isLessThan",
        |_, a| precedence(a).map(|o| Value::Bool(o.is_lt())),
        Cost::One,
    ),
    (
        "compareTo",
        |_, a| precedence(a).map(|o| Value::Int(o as i64)),
        Cost::One,
    ),
    (
        "semver",
        |_, a| semver(a).and_then(|r| r.map_or_else(error, |v| Ok(Value::Semver(Arc::new(v))))),
        Cost::Text(0, 1),
    ),
    (
        "isSemver",
        |_, a| semver(a).map(|r| Value::Bool(r.is_ok())),
        Cost::Text(0, 1),
    ),
    (
        "major",
        |_, a| version(&a[0]).map(|v| Value::Int(v.major as i64)),
        Cost::One,
    ),
    (
        "minor",
        |_, a| version(&a[0]).map(|v| Value::Int(v.minor as i64)),
        Cost::One,
    ),
    (
        "patch",
        |_, a| version(&a[0]).map(|v| Value::Int(v.patch as i64)),
        Cost::One,
    ),
    ("slice", slice, Cost::ListOutput),
    ("flatten", flatten, Cost::Flatten),
    (
        "sort",
        |_, a| sort(list(a)?, list(a)?),
        Cost::SelfCompare(0),
    ),
    ("@sortByAssociatedKeys", sort_by, Cost::SelfCompare(1)),
    (
        "reverse",
        |_, a| list(a).map(|l| Value::list(l.iter().rev().cloned().collect())),
        Cost::ListOutput,
    ),
    ("distinct", distinct, Cost::SelfCompare(0)),
    ("lists.range", range, Cost::ListOutput),
    ("cel.@mapInsert", map_insert, Cost::One),
];

pub fn find(name: &str) -> Option<&'static Function> {
    static BY_NAME: OnceLock<HashMap<&str, Function>> = OnceLock::new();
    let by_name = BY_NAME.get_or_init(|| {
        let mut map: HashMap<&str, Function> = TABLE
            .iter()
            .map(|(name, body, cost)| {
                (
                    *name,
                    Function {
                        name,
                        body: *body,
                        cost: *cost,
                    },
                )
            })
            .collect();
        let body: Body = |_, a| Ok(Value::Bool(!matches!(a[0], Value::Bool(false))));
        map.insert(
            "@not_strictly_false",
            Function {
                name: "@not_strictly_false",
                body,
                cost: Cost::One,
            },
        );
        map
    });
    by_name.get(name)
}

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
        Cost::Text(..) if function.name == "bytes" && !matches!(args[0], Some(Value::Str(_))) => 1,
        Cost::Text(index, factor) => tenths(size(index), factor),
        Cost::Result(factor) => tenths(result.map_or(1, |v| v.size(view)), factor),
        Cost::Smaller => match args[0] {
            Some(Value::Quantity { .. } | Value::Semver(_)) if function.name == "_==_" => 1,
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

fn text(value: &Value) -> Result<&Arc<str>, Fault> {
    match value {
        Value::Str(text) => Ok(text),
        _ => no_overload(),
    }
}

fn list(args: &[Value]) -> Result<&Arc<Vec<Value>>, Fault> {
    match args.first() {
        Some(Value::List(list)) => Ok(list),
        _ => no_overload(),
    }
}

fn int(value: Option<&Value>) -> Result<i64, Fault> {
    match value {
        Some(Value::Int(i)) => Ok(*i),
        _ => no_overload(),
    }
}

fn not(_: &Input, args: &[Value]) -> Evaluated {
    match args[0] {
        Value::Bool(b) => Ok(Value::Bool(!b)),
        _ => no_overload(),
    }
}

fn negate(_: &Input, args: &[Value]) -> Evaluated {
    match args[0] {
        Value::Int(i) => i
            .checked_neg()
            .map_or_else(|| error("integer overflow"), |i| Ok(Value::Int(i))),
        Value::Double(d) => Ok(Value::Double(-d)),
        _ => no_overload(),
    }
}

fn ordered(args: &[Value], holds: fn(Ordering) -> bool) -> Evaluated {
    if let Some(None) = value::compare_numbers(&args[0], &args[1]) {
        return error("NaN values cannot be ordered");
    }
    compare(&args[0], &args[1]).map(|order| Value::Bool(holds(order)))
}

fn arithmetic(
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

fn add(_: &Input, args: &[Value]) -> Evaluated {
    match (&args[0], &args[1]) {
        (Value::Str(a), Value::Str(b)) => Ok(Value::str(&format!("{a}{b}"))),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(Value::Bytes([&a[..], &b[..]].concat().into())),
        (Value::List(a), Value::List(b)) => {
            Ok(Value::list(a.iter().chain(b.iter()).cloned().collect()))
        }
        _ => arithmetic(args, i64::checked_add, u64::checked_add, |a, b| a + b),
    }
}

fn divide(_: &Input, args: &[Value]) -> Evaluated {
    if matches!(args[1], Value::Int(0) | Value::Uint(0))
        && args[0].type_name() == args[1].type_name()
    {
        return error("division by zero");
    }
    arithmetic(args, i64::checked_div, u64::checked_div, |a, b| a / b)
}

fn modulo(_: &Input, args: &[Value]) -> Evaluated {
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

fn contained(input: &Input, args: &[Value]) -> Evaluated {
    match &args[1] {
        Value::List(list) => Ok(Value::Bool(
            list.iter().any(|item| input.is(item, &args[0])),
        )),
        Value::Map(entries) if !entries.is_empty() && matches!(args[0], Value::Semver(_)) => {
            Err(Fault::Cancelled(UNHASHABLE.into()))
        }
        map if map.is_map() => Ok(Value::Bool(value::contains_key(map, &args[0], input.view))),
        _ => no_overload(),
    }
}

fn sized(input: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        v @ (Value::Str(_) | Value::Bytes(_) | Value::List(_)) => {
            Ok(Value::Int(v.size(input.view) as i64))
        }
        map if map.is_map() => Ok(Value::Int(map.size(input.view) as i64)),
        _ => no_overload(),
    }
}

fn texts(args: &[Value], test: fn(&str, &str) -> bool) -> Evaluated {
    Ok(Value::Bool(test(text(&args[0])?, text(&args[1])?)))
}

/// Compiles a pattern of Go's syntax: Perl classes and word boundaries are ASCII there.
pub fn regex(pattern: &str) -> Result<Regex, String> {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('d') => out.push_str("[0-9]"),
            Some('D') => out.push_str("[^0-9]"),
            Some('w') => out.push_str("[0-9A-Za-z_]"),
            Some('W') => out.push_str("[^0-9A-Za-z_]"),
            Some('s') => out.push_str("[\\t\\n\\f\\r ]"),
            Some('S') => out.push_str("[^\\t\\n\\f\\r ]"),
            Some('b') => out.push_str("(?-u:\\b)"),
            Some('B') => out.push_str("(?-u:\\B)"),
            Some('z') => out.push_str("\\z"),
            Some('Q') => {
                let rest: String = chars.by_ref().collect();
                let (quoted, after) = rest.split_once("\\E").unwrap_or((&rest, ""));
                out.push_str(&regex::escape(quoted));
                return regex(after)
                    .map_err(|e| e.to_string())
                    .and_then(|_| Regex::new(&(out + after)).map_err(|e| e.to_string()));
            }
            Some(other) => {
                out.push('\\');
                out.push(other);
            }
            None => out.push('\\'),
        }
    }
    Regex::new(&out).map_err(|error| error.to_string())
}

/// Patterns compiled by this thread; attributes rarely hold patterns, so there are few.
fn compiled(pattern: &str) -> Result<Regex, Fault> {
    thread_local! {
        static KNOWN: std::cell::RefCell<HashMap<String, Regex>> = std::cell::RefCell::new(HashMap::new());
    }
    KNOWN.with(|known| {
        let mut known = known.borrow_mut();
        if let Some(found) = known.get(pattern) {
            return Ok(found.clone());
        }
        let made = regex(pattern).or_else(|e| error(format!("error parsing regexp: {e}")))?;
        if known.len() > 256 {
            known.clear();
        }
        known.insert(pattern.into(), made.clone());
        Ok(made)
    })
}

fn matches_regex(_: &Input, args: &[Value]) -> Evaluated {
    Ok(Value::Bool(
        compiled(text(&args[1])?)?.is_match(text(&args[0])?),
    ))
}

fn find_regex(_: &Input, args: &[Value]) -> Evaluated {
    let subject = text(&args[0])?;
    Ok(Value::str(
        compiled(text(&args[1])?)?
            .find(subject)
            .map_or("", |m| m.as_str()),
    ))
}

fn find_all(_: &Input, args: &[Value]) -> Evaluated {
    let limit = match args.len() {
        3 => usize::try_from(int(args.get(2))?).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let subject = text(&args[0])?;
    let pattern = compiled(text(&args[1])?)?;
    Ok(Value::list(
        pattern
            .find_iter(subject)
            .take(limit)
            .map(|m| Value::str(m.as_str()))
            .collect(),
    ))
}

fn to_bool(_: &Input, args: &[Value]) -> Evaluated {
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

fn to_bytes(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Bytes(b) => Ok(Value::Bytes(b.clone())),
        Value::Str(s) => Ok(Value::Bytes(s.as_bytes().into())),
        _ => no_overload(),
    }
}

fn to_double(_: &Input, args: &[Value]) -> Evaluated {
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

fn to_int(_: &Input, args: &[Value]) -> Evaluated {
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
        _ => no_overload(),
    }
}

fn to_uint(_: &Input, args: &[Value]) -> Evaluated {
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

fn to_string(_: &Input, args: &[Value]) -> Evaluated {
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
        _ => return no_overload(),
    })
}

/// Shortest text, as Go prints it; large exponents are left to Go.
fn go_double(d: f64) -> Result<String, Fault> {
    if d != 0.0 && (d.abs() < 1e-4 || d.abs() >= 1e21) {
        return Err(Fault::Unsupported(
            "text of very large or small doubles is not evaluated by this engine".into(),
        ));
    }
    Ok(d.to_string())
}

fn is_sorted(_: &Input, args: &[Value]) -> Evaluated {
    let list = list(args)?;
    for pair in list.windows(2) {
        if compare(&pair[0], &pair[1])?.is_gt() {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum(input: &Input, args: &[Value]) -> Evaluated {
    let list = list(args)?;
    let zero = match list.first() {
        None | Some(Value::Int(_)) => Value::Int(0),
        Some(Value::Uint(_)) => Value::Uint(0),
        Some(Value::Double(_)) => Value::Double(0.0),
        Some(_) => return no_overload(),
    };
    list.iter()
        .try_fold(zero, |total, next| add(input, &[total, next.clone()]))
}

fn extreme(args: &[Value], name: &str, worse: Ordering) -> Evaluated {
    let list = list(args)?;
    let Some(first) = list.first() else {
        return error(format!("{name} called on empty list"));
    };
    if !matches!(
        first,
        Value::Int(_)
            | Value::Uint(_)
            | Value::Double(_)
            | Value::Bool(_)
            | Value::Str(_)
            | Value::Bytes(_)
    ) {
        return no_overload();
    }
    let mut best = first;
    for next in &list[1..] {
        if compare(best, next)? == worse {
            best = next;
        }
    }
    Ok(best.clone())
}

fn index_of(input: &Input, args: &[Value], last: bool) -> Evaluated {
    if let Value::List(list) = &args[0] {
        if args.len() != 2 {
            return no_overload();
        }
        let test = |item: &Value| input.is(item, &args[1]);
        let found = if last {
            list.iter().rposition(test)
        } else {
            list.iter().position(test)
        };
        return Ok(Value::Int(found.map_or(-1, |i| i as i64)));
    }
    let subject: Vec<char> = text(&args[0])?.chars().collect();
    let wanted: Vec<char> = text(&args[1])?.chars().collect();
    let length = subject.len() as i64;
    let offset = if args.len() == 3 {
        Some(int(args.get(2))?)
    } else {
        None
    };
    if let Some(offset) = offset.filter(|offset| *offset < 0) {
        return error(format!("index out of range: {offset}"));
    }
    if wanted.is_empty() {
        return Ok(Value::Int(
            offset.map_or(if last { length } else { 0 }, |offset| offset.min(length)),
        ));
    }
    if offset.is_some_and(|offset| offset >= length) {
        return Ok(Value::Int(-1));
    }
    let at = |i: &i64| subject[*i as usize..].starts_with(&wanted);
    let end = length - wanted.len() as i64;
    let found = if last {
        (0..=end.min(offset.unwrap_or(end))).rev().find(at)
    } else {
        (offset.unwrap_or(0)..=end).find(at)
    };
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn includes(input: &Input, args: &[Value]) -> Evaluated {
    Ok(Value::Bool(match &args[0] {
        Value::List(list) => list.iter().any(|item| input.is(item, &args[1])),
        other => input.is(other, &args[1]),
    }))
}

fn of_non_zero(input: &Input, args: &[Value]) -> Evaluated {
    Ok(if args[0].is_zero(input.view) {
        Value::Optional(None)
    } else {
        Value::some(args[0].clone())
    })
}

fn optional_value(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Optional(Some(value)) => Ok((**value).clone()),
        Value::Optional(None) => error("optional.none() dereference"),
        _ => no_overload(),
    }
}

fn has_value(_: &Input, args: &[Value]) -> Evaluated {
    match &args[0] {
        Value::Optional(value) => Ok(Value::Bool(value.is_some())),
        _ => no_overload(),
    }
}

fn unwrap(_: &Input, args: &[Value]) -> Evaluated {
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

fn char_at(_: &Input, args: &[Value]) -> Evaluated {
    let (subject, index) = (text(&args[0])?, int(args.get(1))?);
    let length = subject.chars().count() as i64;
    if index < 0 || index > length {
        return error(format!("index out of range: {index}"));
    }
    Ok(Value::str(
        &subject
            .chars()
            .nth(index as usize)
            .map_or(String::new(), |c| c.to_string()),
    ))
}

fn replace(_: &Input, args: &[Value]) -> Evaluated {
    let (subject, from, to) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    let limit = if args.len() == 4 {
        int(args.get(3))?
    } else {
        -1
    };
    Ok(Value::str(&match usize::try_from(limit) {
        Ok(limit) => subject.replacen(&**from, to, limit),
        Err(_) => subject.replace(&**from, to),
    }))
}

fn split(_: &Input, args: &[Value]) -> Evaluated {
    let (subject, by) = (text(&args[0])?, text(&args[1])?);
    let limit = if args.len() == 3 {
        int(args.get(2))?
    } else {
        -1
    };
    let Ok(limit) = usize::try_from(limit) else {
        return Ok(Value::list(parts(subject, by, usize::MAX)));
    };
    Ok(Value::list(if limit == 0 {
        Vec::new()
    } else {
        parts(subject, by, limit)
    }))
}

fn parts(subject: &str, by: &str, limit: usize) -> Vec<Value> {
    if !by.is_empty() {
        return subject.splitn(limit, by).map(Value::str).collect();
    }
    let chars: Vec<String> = subject.chars().map(|c| c.to_string()).collect();
    if chars.len() <= limit {
        return chars.iter().map(|c| Value::str(c)).collect();
    }
    let (head, tail) = chars.split_at(limit - 1);
    head.iter()
        .map(|c| Value::str(c))
        .chain([Value::str(&tail.concat())])
        .collect()
}

fn substring(_: &Input, args: &[Value]) -> Evaluated {
    let chars: Vec<char> = text(&args[0])?.chars().collect();
    let length = chars.len() as i64;
    let start = int(args.get(1))?;
    let end = if args.len() == 3 {
        int(args.get(2))?
    } else {
        length
    };
    if start > end {
        return error(format!(
            "invalid substring range. start: {start}, end: {end}"
        ));
    }
    for index in [start, end] {
        if index < 0 || index > length {
            return error(format!("index out of range: {index}"));
        }
    }
    Ok(Value::str(
        &chars[start as usize..end as usize]
            .iter()
            .collect::<String>(),
    ))
}

fn join(_: &Input, args: &[Value]) -> Evaluated {
    let separator = if args.len() == 2 {
        text(&args[1])?.to_string()
    } else {
        String::new()
    };
    let mut pieces = Vec::new();
    let items = list(args)?;
    if !matches!(items.first(), None | Some(Value::Str(_))) {
        return no_overload();
    }
    for item in items.iter() {
        match item {
            Value::Str(piece) => pieces.push(piece.to_string()),
            other => return error(format!("join: invalid input: {}", other.type_name())),
        }
    }
    Ok(Value::str(&pieces.join(&separator)))
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\x07' => out.push_str("\\a"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x0b' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out + "\""
}

fn sets(args: &[Value], test: impl Fn(&[Value], &[Value]) -> bool) -> Evaluated {
    match (&args[0], &args[1]) {
        (Value::List(a), Value::List(b)) => Ok(Value::Bool(test(a, b))),
        _ => no_overload(),
    }
}

fn all_in(input: &Input, items: &[Value], list: &[Value]) -> bool {
    items
        .iter()
        .all(|item| list.iter().any(|known| input.is(known, item)))
}

fn quantity(_: &Input, args: &[Value]) -> Evaluated {
    match Quantity::parse(text(&args[0])?) {
        Ok(quantity) => Ok(Value::Quantity {
            quantity,
            computed: false,
        }),
        Err(text) if text == crate::quantity::TOO_LARGE => Err(Fault::Unsupported(text.into())),
        Err(text) => error(text),
    }
}

fn quantity_of(value: &Value) -> Result<&Quantity, Fault> {
    match value {
        Value::Quantity { quantity, .. } => Ok(quantity),
        _ => no_overload(),
    }
}

fn as_integer(_: &Input, args: &[Value]) -> Evaluated {
    match quantity_of(&args[0])?.short_integer() {
        Some(value) => Ok(Value::Int(value)),
        None => error("cannot convert value to integer"),
    }
}

fn combine(args: &[Value], operation: fn(&Quantity, &Quantity) -> Option<Quantity>) -> Evaluated {
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

fn precedence(args: &[Value]) -> Result<Ordering, Fault> {
    match (&args[0], &args[1]) {
        (Value::Quantity { quantity: a, .. }, Value::Quantity { quantity: b, .. }) => Ok(a.cmp(b)),
        (Value::Semver(a), Value::Semver(b)) => Ok(a.precedence(b)),
        _ => no_overload(),
    }
}

fn semver(args: &[Value]) -> Result<Result<Semver, String>, Fault> {
    let source = text(&args[0])?;
    match args.get(1) {
        Some(Value::Bool(true)) => Ok(Semver::parse_normalized(source)),
        None | Some(Value::Bool(false)) => Ok(Semver::parse(source)),
        Some(_) => no_overload(),
    }
}

fn version(value: &Value) -> Result<&Semver, Fault> {
    match value {
        Value::Semver(version) => Ok(version),
        _ => no_overload(),
    }
}

fn slice(_: &Input, args: &[Value]) -> Evaluated {
    let list = list(args)?;
    let (start, end) = (int(args.get(1))?, int(args.get(2))?);
    if start < 0 || end < 0 {
        return error(format!(
            "cannot slice({start}, {end}), negative indexes not supported"
        ));
    }
    if start > end {
        return error(format!(
            "cannot slice({start}, {end}), start index must be less than or equal to end index"
        ));
    }
    if end > list.len() as i64 {
        return error(format!(
            "cannot slice({start}, {end}), list is length {}",
            list.len()
        ));
    }
    Ok(Value::list(list[start as usize..end as usize].to_vec()))
}

fn flatten(_: &Input, args: &[Value]) -> Evaluated {
    let depth = if args.len() == 2 {
        int(args.get(1))?
    } else {
        1
    };
    if depth < 0 {
        return error("level must be non-negative");
    }
    fn into(list: &[Value], depth: i64, out: &mut Vec<Value>) {
        for item in list {
            match item {
                Value::List(inner) if depth > 0 => into(inner, depth - 1, out),
                other => out.push(other.clone()),
            }
        }
    }
    let mut out = Vec::new();
    into(list(args)?, depth, &mut out);
    Ok(Value::list(out))
}

fn sort(list: &[Value], keys: &[Value]) -> Evaluated {
    if list.len() != keys.len() {
        return error(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list",
        );
    }
    if let Some(first) = keys.first() {
        if keys.iter().any(|k| k.type_name() != first.type_name()) {
            return error("list elements must have the same type");
        }
        compare(first, first).or_else(|_| error("list elements must be comparable"))?;
    }
    let mut order: Vec<usize> = (0..keys.len()).collect();
    order.sort_by(|a, b| compare(&keys[*a], &keys[*b]).unwrap_or(Ordering::Equal));
    Ok(Value::list(
        order.into_iter().map(|i| list[i].clone()).collect(),
    ))
}

fn sort_by(_: &Input, args: &[Value]) -> Evaluated {
    match (&args[0], &args[1]) {
        (Value::List(list), Value::List(keys)) => sort(list, keys),
        _ => no_overload(),
    }
}

fn distinct(input: &Input, args: &[Value]) -> Evaluated {
    let mut out: Vec<Value> = Vec::new();
    for item in list(args)?.iter() {
        if !out.iter().any(|known| input.is(known, item)) {
            out.push(item.clone());
        }
    }
    Ok(Value::list(out))
}

fn range(_: &Input, args: &[Value]) -> Evaluated {
    let end = int(args.first())?;
    if end < 0 {
        return error(format!("lists.range: size must be non-negative, got {end}"));
    }
    if end > 1_000_000 {
        // Beyond the cost limit anyway; the list is not made.
        return Err(Fault::Cancelled(super::OVER_LIMIT.into()));
    }
    Ok(Value::list((0..end).map(Value::Int).collect()))
}

fn map_insert(input: &Input, args: &[Value]) -> Evaluated {
    let Value::Map(known) = &args[0] else {
        return no_overload();
    };
    let added = match args {
        [_, key, value] => vec![(key.clone(), value.clone())],
        [_, map] => value::entries(map, input.view),
        _ => return no_overload(),
    };
    let mut entries = known.to_vec();
    for (key, value) in added {
        if entries.iter().any(|(k, _)| input.is(k, &key)) {
            return error("insert failed: key already exists");
        }
        entries.push((key, value));
    }
    Ok(Value::Map(Arc::new(entries)))
}
