//! Values of expressions, their equality, order and size.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::sync::Arc;

use super::DeviceView;
use super::functions::Named;
use super::semver::Semver;
use super::time::Timestamp;
use super::url::Url;
use crate::quantity::Quantity;
use crate::world::{AttributeValue, Sym};

/// The device; constants are folded without one.
pub type View<'a> = Option<&'a DeviceView<'a>>;

#[derive(Clone, Debug)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(Arc<str>),
    Bytes(Arc<[u8]>),
    List(Arc<Vec<Value>>),
    Map(Arc<Vec<(Value, Value)>>),
    /// `computed` results of add and sub are of another type in the Go environment, which equality notices.
    Quantity {
        quantity: Quantity,
        computed: bool,
    },
    Semver(Arc<Semver>),
    /// Nanoseconds.
    Duration(i64),
    Timestamp(Timestamp),
    Ip(IpAddr),
    /// An address and the length of the prefix.
    Cidr(IpAddr, u8),
    Url(Arc<Url>),
    Format(&'static Named),
    Optional(Option<Arc<Value>>),
    Type(Arc<str>),
    /// `device` itself.
    Device,
    /// `device.attributes` or `device.capacity`.
    Domains(Table),
    /// One domain of them; nothing stands for the empty map that unknown domains give.
    Domain(Table, Option<Sym>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Attributes,
    Capacity,
}

/// Why an evaluation ends without a value.
#[derive(Clone, Debug)]
pub enum Fault {
    Error(String),
    /// Ends the evaluation whatever surrounds it.
    Cancelled(String),
    Unsupported(String),
}

pub type Evaluated = Result<Value, Fault>;

pub fn error<T>(text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Error(text.into()))
}

pub fn no_overload<T>() -> Result<T, Fault> {
    error("no such overload")
}

impl Value {
    pub fn str(text: &str) -> Value {
        Value::Str(text.into())
    }

    pub fn list(items: Vec<Value>) -> Value {
        Value::List(Arc::new(items))
    }

    pub fn some(value: Value) -> Value {
        Value::Optional(Some(Arc::new(value)))
    }

    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::Str(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::List(_) => "list",
            Value::Map(_) | Value::Device | Value::Domains(_) | Value::Domain(..) => "map",
            Value::Quantity { .. } => "kubernetes.Quantity",
            Value::Semver(_) => "kubernetes.Semver",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::Ip(_) => "net.IP",
            Value::Cidr(..) => "net.CIDR",
            Value::Url(_) => "kubernetes.URL",
            Value::Format(_) => "kubernetes.NamedFormat",
            Value::Optional(_) => "optional_type",
            Value::Type(_) => "type",
        }
    }

    /// Whether the value is a map, the device's own tables included.
    pub fn is_map(&self) -> bool {
        matches!(
            self,
            Value::Map(_) | Value::Device | Value::Domains(_) | Value::Domain(..)
        )
    }

    pub fn is_zero(&self, view: View) -> bool {
        match self {
            Value::Null => true,
            Value::Bool(b) => !b,
            Value::Int(i) => *i == 0,
            Value::Uint(u) => *u == 0,
            Value::Double(d) => *d == 0.0,
            Value::Str(s) => s.is_empty(),
            Value::Bytes(b) => b.is_empty(),
            Value::List(l) => l.is_empty(),
            Value::Optional(o) => o.is_none(),
            Value::Duration(nanos) => *nanos == 0,
            Value::Timestamp(at) => at.is_zero(),
            other if other.is_map() => entries(other, view).is_empty(),
            _ => false,
        }
    }

    /// The size that costs are computed from.
    pub fn size(&self, view: View) -> u64 {
        let size = match self {
            Value::Str(s) => s.chars().count(),
            Value::Bytes(b) => b.len(),
            Value::List(l) => l.len(),
            Value::Map(m) => m.len(),
            Value::Optional(Some(v)) => return v.size(view),
            Value::Ip(address) => {
                if address.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            Value::Cidr(_, bits) => usize::from(bits.div_ceil(8)),
            other if other.is_map() => entries(other, view).len(),
            _ => 1,
        };
        size as u64
    }
}

/// Converts a published attribute; the device was checked to have only attributes that convert.
pub fn of_attribute(value: &AttributeValue) -> Value {
    let semver = |text: &Arc<str>| match Semver::parse(text) {
        Ok(version) => Value::Semver(Arc::new(version)),
        Err(_) => Value::Null,
    };
    match value {
        AttributeValue::Int(i) => Value::Int(*i),
        AttributeValue::Bool(b) => Value::Bool(*b),
        AttributeValue::Str(s) => Value::Str(s.clone()),
        AttributeValue::Version(s) => semver(s),
        AttributeValue::Ints(l) => Value::list(l.iter().map(|i| Value::Int(*i)).collect()),
        AttributeValue::Bools(l) => Value::list(l.iter().map(|b| Value::Bool(*b)).collect()),
        AttributeValue::Strs(l) => Value::list(l.iter().map(|s| Value::Str(s.clone())).collect()),
        AttributeValue::Versions(l) => Value::list(l.iter().map(semver).collect()),
        AttributeValue::Unknown => Value::Null,
    }
}

/// The value of an attribute or capacity by domain and identifier.
pub fn lookup(table: Table, domain: Sym, id: Sym, view: View) -> Option<Value> {
    let view = view?;
    match table {
        Table::Attributes => {
            let found = view
                .device
                .attributes
                .iter()
                .find(|a| a.domain == domain && a.id == id)?;
            Some(of_attribute(&found.value))
        }
        Table::Capacity => {
            let found = view
                .device
                .capacity
                .iter()
                .find(|c| c.domain == domain && c.id == id)?;
            Some(Value::Quantity {
                quantity: found.value,
                computed: false,
            })
        }
    }
}

/// The entries of any map.
pub fn entries(map: &Value, view: View) -> Vec<(Value, Value)> {
    if let Value::Map(entries) = map {
        return entries.to_vec();
    }
    let Some(device) = view else {
        return Vec::new();
    };
    let text = |sym: Sym| Value::Str(device.world.names.text(sym).clone());
    let pairs = |table: Table| -> Vec<(Sym, Sym)> {
        match table {
            Table::Attributes => device
                .device
                .attributes
                .iter()
                .map(|a| (a.domain, a.id))
                .collect(),
            Table::Capacity => device
                .device
                .capacity
                .iter()
                .map(|c| (c.domain, c.id))
                .collect(),
        }
    };
    match map {
        Value::Domains(table) => {
            let mut domains: Vec<Sym> = Vec::new();
            for (domain, _) in pairs(*table) {
                if !domains.contains(&domain) {
                    domains.push(domain);
                }
            }
            domains
                .into_iter()
                .map(|d| (text(d), Value::Domain(*table, Some(d))))
                .collect()
        }
        Value::Domain(table, Some(domain)) => {
            let mut ids: Vec<Sym> = Vec::new();
            for (_, id) in pairs(*table).into_iter().filter(|(d, _)| d == domain) {
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
            ids.into_iter()
                .filter_map(|id| Some((text(id), lookup(*table, *domain, id, view)?)))
                .collect()
        }
        Value::Device => vec![
            (Value::str("driver"), text(device.slice.driver)),
            (
                Value::str("allowMultipleAllocations"),
                Value::Bool(device.shareable),
            ),
            (Value::str("attributes"), Value::Domains(Table::Attributes)),
            (Value::str("capacity"), Value::Domains(Table::Capacity)),
        ],
        _ => Vec::new(),
    }
}

/// The value under a key; unknown domains give an empty map.
pub fn find(map: &Value, key: &Value, view: View) -> Option<Value> {
    if let Value::Map(entries) = map {
        return entries
            .iter()
            .find(|(k, _)| matches!(equal(k, key, view), Ok(true)))
            .map(|(_, v)| v.clone());
    }
    let device = view?;
    match (map, key) {
        (Value::Domains(table), Value::Str(domain)) => {
            let sym = device.world.names.get(domain);
            let known = |sym: &Sym| match table {
                Table::Attributes => device.device.attributes.iter().any(|a| a.domain == *sym),
                Table::Capacity => device.device.capacity.iter().any(|c| c.domain == *sym),
            };
            Some(Value::Domain(*table, sym.filter(known)))
        }
        (Value::Domains(table), _) => Some(Value::Domain(*table, None)),
        (Value::Domain(table, Some(domain)), Value::Str(id)) => {
            lookup(*table, *domain, device.world.names.get(id)?, view)
        }
        (Value::Device, Value::Str(field)) => Some(match &**field {
            "driver" => Value::Str(device.world.names.text(device.slice.driver).clone()),
            "allowMultipleAllocations" => Value::Bool(device.shareable),
            "attributes" => Value::Domains(Table::Attributes),
            "capacity" => Value::Domains(Table::Capacity),
            _ => return None,
        }),
        _ => None,
    }
}

/// Whether a key is really there, without the default for unknown domains.
pub fn contains_key(map: &Value, key: &Value, view: View) -> bool {
    match map {
        Value::Domains(_) => entries(map, view)
            .iter()
            .any(|(k, _)| matches!(equal(k, key, view), Ok(true))),
        _ => find(map, key, view).is_some(),
    }
}

fn as_f64(value: &Value) -> Option<f64> {
    match value {
        Value::Int(i) => Some(*i as f64),
        Value::Uint(u) => Some(*u as f64),
        Value::Double(d) => Some(*d),
        _ => None,
    }
}

/// Numeric order over all three number types; nothing if one is not a number.
pub fn compare_numbers(a: &Value, b: &Value) -> Option<Option<Ordering>> {
    let order = match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        _ => as_f64(a)?.partial_cmp(&as_f64(b)?),
    };
    Some(order)
}

/// Order of values of one type (or numbers); an error if they have none.
pub fn compare(a: &Value, b: &Value) -> Result<Ordering, Fault> {
    if let Some(order) = compare_numbers(a, b) {
        return order.map_or_else(|| error("NaN values cannot be ordered"), Ok);
    }
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => Ok(a.cmp(b)),
        (Value::Bytes(a), Value::Bytes(b)) => Ok(a.cmp(b)),
        (Value::Bool(a), Value::Bool(b)) => Ok(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Ok(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Ok(a.total_nanos().cmp(&b.total_nanos())),
        _ => no_overload(),
    }
}

pub fn equal(a: &Value, b: &Value, view: View) -> Result<bool, Fault> {
    if let Some(order) = compare_numbers(a, b) {
        return Ok(order == Some(Ordering::Equal));
    }
    Ok(match (a, b) {
        (Value::Null, other) | (other, Value::Null) => matches!(other, Value::Null),
        (
            Value::Quantity { quantity: a, .. },
            Value::Quantity {
                quantity: b,
                computed: false,
            },
        ) => a == b,
        (Value::Semver(a), Value::Semver(b)) => a.precedence(b) == Ordering::Equal,
        (Value::Ip(a), Value::Ip(b)) => a == b,
        (Value::Cidr(a, n), Value::Cidr(b, m)) => (a, n) == (b, m),
        (Value::Url(a), Value::Url(b)) => a.to_string() == b.to_string(),
        (Value::Format(a), Value::Format(b)) => a.name == b.name,
        (
            Value::Quantity { .. }
            | Value::Semver(_)
            | Value::Ip(_)
            | Value::Cidr(..)
            | Value::Url(_)
            | Value::Format(_),
            _,
        ) => return no_overload(),
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a.total_nanos() == b.total_nanos(),
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Str(a), Value::Str(b)) => a == b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => return equal(a, b, view),
            _ => false,
        },
        // Elements whose comparison is an error count as equal.
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b.iter())
                    .all(|(a, b)| !matches!(equal(a, b, view), Ok(false)))
        }
        (a, b) if a.is_map() && b.is_map() => {
            let (left, right) = (entries(a, view), entries(b, view));
            left.len() == right.len()
                && left.iter().all(|(key, value)| {
                    find(b, key, view)
                        .is_some_and(|other| !matches!(equal(value, &other, view), Ok(false)))
                })
        }
        _ => false,
    })
}
