//! The functions of the environment and what each costs.

mod convert;
mod cost;
mod format;
mod lists;
mod named;
mod net;
mod operators;
mod optionals;
mod quantities;
mod text;
mod time;
mod urls;

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use super::value::{self, Evaluated, Fault, Value, View, no_overload};
use crate::quantity::Quantity;
use convert::{to_bool, to_bytes, to_double, to_int, to_string, to_uint};
pub use cost::cost;
pub use format::check as check_format;
use lists::{
    all_in, distinct, extreme, flatten, includes, index_of, index_of_old, is_sorted, map_insert,
    range, sets, slice, sort, sort_by, sum,
};
pub use named::Named;
use operators::{
    add, arithmetic, contained, divide, modulo, negate, not, ordered, sized, subtract,
};
use optionals::{has_value, of_non_zero, optional_value, unwrap};
use quantities::{as_integer, combine, precedence, quantity, quantity_of, semver, version};
pub use text::regex;
use text::{
    char_at, find_all, find_regex, join, matches_regex, quote, replace, split, substring, texts,
};

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
    /// Whether a network holds an address or another network.
    Contains {
        network: bool,
    },
    Validate,
    /// An authorization check, or a selector of one.
    Authorization {
        check: bool,
    },
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

/// Ends the name of a function that earlier releases have otherwise.
const OLD: &str = "@old";

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
    ("_-_", subtract, Cost::One),
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
    ("semver", semver, Cost::Text(0, 1)),
    ("isSemver", quantities::is_semver, Cost::Text(0, 1)),
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
    (
        "startsWith@old",
        |_, a| texts(a, |a, b| a.starts_with(b)),
        Cost::Text(0, 1),
    ),
    (
        "endsWith@old",
        |_, a| texts(a, |a, b| a.ends_with(b)),
        Cost::Text(0, 1),
    ),
    ("includes@old", includes, Cost::One),
    (
        "indexOf@old",
        |i, a| index_of_old(i, a, false),
        Cost::Traversal,
    ),
    (
        "lastIndexOf@old",
        |i, a| index_of_old(i, a, true),
        Cost::Traversal,
    ),
    ("add@old", quantities::add_in_place, Cost::One),
    ("sub@old", quantities::sub_in_place, Cost::One),
    (
        "lists.range@old",
        |i, a| range(i, &[Value::Int(int(a.first())?.max(0))]),
        Cost::ListOutput,
    ),
    ("format", format::format, Cost::Text(0, 1)),
    ("path", nothing, Cost::One),
    ("group", nothing, Cost::One),
    ("serviceAccount", nothing, Cost::One),
    ("resource", nothing, Cost::One),
    ("subresource", nothing, Cost::One),
    ("namespace", nothing, Cost::One),
    ("name", nothing, Cost::One),
    (
        "fieldSelector",
        nothing,
        Cost::Authorization { check: false },
    ),
    (
        "labelSelector",
        nothing,
        Cost::Authorization { check: false },
    ),
    ("check", nothing, Cost::Authorization { check: true }),
    ("errored", nothing, Cost::One),
    ("error", nothing, Cost::One),
    ("allowed", nothing, Cost::One),
    ("reason", nothing, Cost::One),
    ("duration", time::duration, Cost::One),
    ("timestamp", time::timestamp, Cost::One),
    ("getFullYear", |_, a| time::part(a, |c| c.year), Cost::One),
    ("getMonth", |_, a| time::part(a, |c| c.month - 1), Cost::One),
    ("getDate", |_, a| time::part(a, |c| c.day), Cost::One),
    (
        "getDayOfMonth",
        |_, a| time::part(a, |c| c.day - 1),
        Cost::One,
    ),
    (
        "getDayOfWeek",
        |_, a| time::part(a, |c| c.weekday),
        Cost::One,
    ),
    (
        "getDayOfYear",
        |_, a| time::part(a, |c| c.day_of_year),
        Cost::One,
    ),
    (
        "getHours",
        |_, a| time::part_or_units(a, |c| c.hour, 3_600_000_000_000),
        Cost::One,
    ),
    (
        "getMinutes",
        |_, a| time::part_or_units(a, |c| c.minute, 60_000_000_000),
        Cost::One,
    ),
    (
        "getSeconds",
        |_, a| time::part_or_units(a, |c| c.second, 1_000_000_000),
        Cost::One,
    ),
    ("getMilliseconds", time::milliseconds, Cost::One),
    ("url", urls::url, Cost::Text(0, 1)),
    ("isURL", urls::is_url, Cost::One),
    (
        "getScheme",
        |_, a| urls::part(a, |u| u.scheme.clone().into()),
        Cost::One,
    ),
    (
        "getHost",
        |_, a| urls::part(a, |u| u.host.clone()),
        Cost::One,
    ),
    (
        "getHostname",
        |_, a| urls::part(a, |u| u.hostname().to_vec()),
        Cost::One,
    ),
    (
        "getPort",
        |_, a| urls::part(a, |u| u.port().to_vec()),
        Cost::One,
    ),
    (
        "getEscapedPath",
        |_, a| urls::part(a, |u| u.escaped_path().into()),
        Cost::One,
    ),
    ("getQuery", urls::query, Cost::One),
    ("ip", net::ip, Cost::Text(0, 1)),
    ("isIP", net::is_ip, Cost::Text(0, 1)),
    ("ip.isCanonical", net::is_canonical, Cost::Text(0, 2)),
    ("family", net::family, Cost::One),
    (
        "isUnspecified",
        |_, a| net::about(a, |ip| ip.is_unspecified()),
        Cost::One,
    ),
    (
        "isLoopback",
        |_, a| net::about(a, |ip| ip.is_loopback()),
        Cost::One,
    ),
    (
        "isLinkLocalMulticast",
        |_, a| net::about(a, net::is_link_local_multicast),
        Cost::One,
    ),
    (
        "isLinkLocalUnicast",
        |_, a| net::about(a, net::is_link_local_unicast),
        Cost::One,
    ),
    (
        "isGlobalUnicast",
        |_, a| net::about(a, net::is_global_unicast),
        Cost::One,
    ),
    ("cidr", net::cidr, Cost::Text(0, 1)),
    ("isCIDR", net::is_cidr, Cost::Text(0, 1)),
    (
        "containsIP",
        net::contains_ip,
        Cost::Contains { network: false },
    ),
    (
        "containsCIDR",
        net::contains_cidr,
        Cost::Contains { network: true },
    ),
    ("prefixLength", net::prefix_length, Cost::One),
    ("masked", net::masked, Cost::One),
    ("format.named", named::named, Cost::One),
    ("validate", named::validate, Cost::Validate),
    (
        "format.dns1123Label",
        |_, _| named::constant("dns1123Label"),
        Cost::One,
    ),
    (
        "format.dns1123Subdomain",
        |_, _| named::constant("dns1123Subdomain"),
        Cost::One,
    ),
    (
        "format.dns1035Label",
        |_, _| named::constant("dns1035Label"),
        Cost::One,
    ),
    (
        "format.qualifiedName",
        |_, _| named::constant("qualifiedName"),
        Cost::One,
    ),
    (
        "format.dns1123LabelPrefix",
        |_, _| named::constant("dns1123LabelPrefix"),
        Cost::One,
    ),
    (
        "format.dns1123SubdomainPrefix",
        |_, _| named::constant("dns1123SubdomainPrefix"),
        Cost::One,
    ),
    (
        "format.dns1035LabelPrefix",
        |_, _| named::constant("dns1035LabelPrefix"),
        Cost::One,
    ),
    (
        "format.labelValue",
        |_, _| named::constant("labelValue"),
        Cost::One,
    ),
    ("format.uri", |_, _| named::constant("uri"), Cost::One),
    ("format.uuid", |_, _| named::constant("uuid"), Cost::One),
    ("format.byte", |_, _| named::constant("byte"), Cost::One),
    ("format.date", |_, _| named::constant("date"), Cost::One),
    (
        "format.datetime",
        |_, _| named::constant("datetime"),
        Cost::One,
    ),
];

/// The function of that name, as releases before 1.37 have it if `old`.
pub fn find(name: &str, old: bool) -> Option<&'static Function> {
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
    let earlier = old.then(|| by_name.get(format!("{name}{OLD}").as_str()));
    earlier.flatten().or_else(|| by_name.get(name))
}

/// What needs an authorizer, which selectors of devices have not.
fn nothing(_: &Input, _: &[Value]) -> Evaluated {
    no_overload()
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
