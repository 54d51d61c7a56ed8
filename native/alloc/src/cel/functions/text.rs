//! Functions of strings and regular expressions.

use std::collections::HashMap;

use regex::Regex;

use super::{Input, int, list, text};
use crate::cel::value::{Evaluated, Fault, Value, error, no_overload};

pub fn texts(args: &[Value], test: fn(&str, &str) -> bool) -> Evaluated {
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
pub fn compiled(pattern: &str) -> Result<Regex, Fault> {
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

pub fn matches_regex(_: &Input, args: &[Value]) -> Evaluated {
    Ok(Value::Bool(
        compiled(text(&args[1])?)?.is_match(text(&args[0])?),
    ))
}

pub fn find_regex(_: &Input, args: &[Value]) -> Evaluated {
    let subject = text(&args[0])?;
    Ok(Value::str(
        compiled(text(&args[1])?)?
            .find(subject)
            .map_or("", |m| m.as_str()),
    ))
}

pub fn find_all(_: &Input, args: &[Value]) -> Evaluated {
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

pub fn char_at(_: &Input, args: &[Value]) -> Evaluated {
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

pub fn replace(_: &Input, args: &[Value]) -> Evaluated {
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

pub fn split(_: &Input, args: &[Value]) -> Evaluated {
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

pub fn parts(subject: &str, by: &str, limit: usize) -> Vec<Value> {
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

pub fn substring(_: &Input, args: &[Value]) -> Evaluated {
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

pub fn join(_: &Input, args: &[Value]) -> Evaluated {
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

pub fn quote(text: &str) -> String {
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
