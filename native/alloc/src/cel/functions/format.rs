//! `text.format(list)`: clauses such as `%s` and `%d` with the values of the list.

use super::convert::to_string;
use super::{Input, list, text};
use crate::cel::types::Type;
use crate::cel::value::{Evaluated, Fault, Value, entries, error};

pub fn format(input: &Input, args: &[Value]) -> Evaluated {
    let source = text(&args[0])?;
    let list = match args.get(1) {
        Some(values) => list(std::slice::from_ref(values))?,
        None => return error("no values to format"),
    };
    let mut values = list.iter();
    let mut out = String::new();
    let mut rest = &**source;
    while let Some((before, after)) = rest.split_once('%') {
        out += before;
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let Some(value) = values.next() else {
            return error("more clauses than values to format");
        };
        let (clause, after) = clause(after)?;
        out += &formatted(input, clause, value)?;
        rest = after;
    }
    Ok(Value::str(&(out + rest)))
}

/// The letter of a clause, and what follows it. A precision only matters to doubles.
fn clause(text: &str) -> Result<(char, &str), Fault> {
    let text = match text.strip_prefix('.') {
        None => text,
        Some(after) => {
            let rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
            let digits = &after[..after.len() - rest.len()];
            if rest.is_empty() || digits.parse::<i64>().is_err() {
                return error("the precision of a clause is no number");
            }
            rest
        }
    };
    let mut chars = text.chars();
    match chars.next() {
        Some(letter) if "sdfebxXo".contains(letter) => Ok((letter, chars.as_str())),
        _ => error("unknown clause in a text to format"),
    }
}

/// Whether a constant text fits the types of a list of values: both are checked before anything is evaluated.
pub fn check(text: &str, types: &[Type]) -> Result<(), String> {
    let mut types = types.iter();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('%') {
        if let Some(after) = after.strip_prefix('%') {
            rest = after;
            continue;
        }
        let Some(found) = types.next() else {
            return Err("more clauses than values to format".into());
        };
        let (letter, after) = clause(after).map_err(|fault| match fault {
            Fault::Error(text) | Fault::Cancelled(text) | Fault::Unsupported(text) => text,
        })?;
        let fits = match letter {
            's' => !matches!(
                found,
                Type::Any
                    | Type::Quantity
                    | Type::Semver
                    | Type::Device
                    | Type::Ip
                    | Type::Cidr
                    | Type::Url
                    | Type::Format
                    | Type::Optional(_)
            ),
            'f' | 'e' => matches!(found, Type::Dyn | Type::Double | Type::Str),
            'b' => matches!(found, Type::Dyn | Type::Int | Type::Uint | Type::Bool),
            'x' | 'X' => matches!(
                found,
                Type::Dyn | Type::Int | Type::Uint | Type::Str | Type::Bytes
            ),
            _ => matches!(found, Type::Dyn | Type::Int | Type::Uint),
        };
        if !fits {
            return Err(format!(
                "clause %{letter} does not take a value of type {found}"
            ));
        }
        rest = after;
    }
    match types.len() {
        0 => Ok(()),
        more => Err(format!("{more} more values than clauses to format")),
    }
}

fn formatted(input: &Input, clause: char, value: &Value) -> Result<String, Fault> {
    let found = match (clause, value) {
        ('s', Value::Null) => "null".into(),
        ('s', Value::Type(name)) => name.to_string(),
        ('f' | 'e', _) => return unsupported(clause),
        ('s', Value::List(_)) => literal(input, value)?,
        ('s', value) if value.is_map() => literal(input, value)?,
        (
            's',
            Value::Quantity { .. }
            | Value::Semver(_)
            | Value::Ip(_)
            | Value::Cidr(..)
            | Value::Url(_)
            | Value::Format(_)
            | Value::Optional(_),
        ) => return error("a value that cannot be formatted"),
        ('s', value) => match to_string(input, std::slice::from_ref(value))? {
            Value::Str(text) => text.to_string(),
            _ => return unsupported(clause),
        },
        ('d', Value::Int(i)) => i.to_string(),
        ('d', Value::Uint(u)) => u.to_string(),
        ('b', Value::Bool(b)) => u8::from(*b).to_string(),
        ('b', Value::Int(i)) => signed(*i, |u| format!("{u:b}")),
        ('b', Value::Uint(u)) => format!("{u:b}"),
        ('o', Value::Int(i)) => signed(*i, |u| format!("{u:o}")),
        ('o', Value::Uint(u)) => format!("{u:o}"),
        ('x', Value::Int(i)) => signed(*i, |u| format!("{u:x}")),
        ('x', Value::Uint(u)) => format!("{u:x}"),
        ('x', Value::Str(s)) => s.bytes().map(|b| format!("{b:02x}")).collect(),
        ('x', Value::Bytes(s)) => s.iter().map(|b| format!("{b:02x}")).collect(),
        ('X', value) => formatted(input, 'x', value)?.to_uppercase(),
        _ => return error(format!("clause %{clause} does not take this value")),
    };
    Ok(found)
}

/// A value within a list or map, as it would be written in an expression.
fn literal(input: &Input, value: &Value) -> Result<String, Fault> {
    let as_text = || match to_string(input, std::slice::from_ref(value))? {
        Value::Str(text) => Ok(text.to_string()),
        _ => error("a value that cannot be formatted"),
    };
    Ok(match value {
        Value::List(list) => {
            let items: Result<Vec<String>, Fault> =
                list.iter().map(|item| literal(input, item)).collect();
            format!("[{}]", items?.join(", "))
        }
        map if map.is_map() => {
            let mut pairs = Vec::new();
            for (key, inner) in entries(map, input.view) {
                if !matches!(
                    key,
                    Value::Str(_) | Value::Bool(_) | Value::Int(_) | Value::Uint(_)
                ) {
                    return error("a key that cannot be formatted");
                }
                pairs.push((literal(input, &key)?, literal(input, &inner)?));
            }
            pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            let pairs: Vec<String> = pairs.into_iter().map(|(k, v)| format!("{k}:{v}")).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        Value::Null => "null".into(),
        Value::Type(name) => name.to_string(),
        Value::Double(number) if number.is_nan() => quoted("NaN")?,
        Value::Double(number) if number.is_infinite() => {
            quoted(if *number > 0.0 { "+Inf" } else { "-Inf" })?
        }
        Value::Double(number) => format!("{number:.6}"),
        Value::Str(text) => quoted(text)?,
        Value::Bytes(_) => format!("b{}", quoted(&as_text()?)?),
        Value::Timestamp(_) => format!("timestamp({})", quoted(&as_text()?)?),
        Value::Duration(_) => format!("duration({})", quoted(&as_text()?)?),
        Value::Bool(_) | Value::Int(_) | Value::Uint(_) => as_text()?,
        _ => return error("a value that cannot be formatted"),
    })
}

/// The text in double quotes. Which characters beyond ASCII are escaped is another library's table.
fn quoted(text: &str) -> Result<String, Fault> {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\u{7}' => out += "\\a",
            '\u{8}' => out += "\\b",
            '\u{c}' => out += "\\f",
            '\n' => out += "\\n",
            '\r' => out += "\\r",
            '\t' => out += "\\t",
            '\u{b}' => out += "\\v",
            ' '..='~' => out.push(c),
            c if c.is_ascii() => out += &format!("\\x{:02x}", u32::from(c)),
            _ => {
                return Err(Fault::Unsupported(
                    "text beyond ASCII within a list or map that is formatted is not evaluated by this engine".into(),
                ));
            }
        }
    }
    out.push('"');
    Ok(out)
}

fn signed(value: i64, text: fn(u64) -> String) -> String {
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}", text(value.unsigned_abs()))
}

fn unsupported(clause: char) -> Result<String, Fault> {
    Err(Fault::Unsupported(format!(
        "clause %{clause} of format is not evaluated by this engine"
    )))
}
