//! `text.format(list)`: clauses such as `%s` and `%d` with the values of the list.

use super::convert::to_string;
use super::{Input, list, text};
use crate::cel::types::Type;
use crate::cel::value::{Evaluated, Fault, Value, error};

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
        ('s', Value::List(_)) | ('f' | 'e', _) => return unsupported(clause),
        ('s', value) if value.is_map() => return unsupported(clause),
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

fn signed(value: i64, text: fn(u64) -> String) -> String {
    let sign = if value < 0 { "-" } else { "" };
    format!("{sign}{}", text(value.unsigned_abs()))
}

fn unsupported(clause: char) -> Result<String, Fault> {
    Err(Fault::Unsupported(format!(
        "clause %{clause} of format is not evaluated by this engine for doubles, lists and maps"
    )))
}
