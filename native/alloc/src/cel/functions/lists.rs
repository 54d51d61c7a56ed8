//! Functions of lists, sets and maps.

use std::cmp::Ordering;
use std::sync::Arc;

use super::operators::add;
use super::{Input, int, list, text};
use crate::cel::value::{self, Evaluated, Fault, Value, compare, error, no_overload};

pub fn is_sorted(_: &Input, args: &[Value]) -> Evaluated {
    let list = list(args)?;
    for pair in list.windows(2) {
        if compare(&pair[0], &pair[1])?.is_gt() {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

pub fn sum(input: &Input, args: &[Value]) -> Evaluated {
    let list = list(args)?;
    let zero = match list.first() {
        None | Some(Value::Int(_)) => Value::Int(0),
        Some(Value::Uint(_)) => Value::Uint(0),
        Some(Value::Double(_)) => Value::Double(0.0),
        Some(Value::Duration(_)) => Value::Duration(0),
        Some(_) => return no_overload(),
    };
    list.iter()
        .try_fold(zero, |total, next| add(input, &[total, next.clone()]))
}

pub fn extreme(args: &[Value], name: &str, worse: Ordering) -> Evaluated {
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
            | Value::Duration(_)
            | Value::Timestamp(_)
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

/// As `index_of`; earlier releases find the empty text at any offset, also outside of the text.
pub fn index_of_old(input: &Input, args: &[Value], last: bool) -> Evaluated {
    match args {
        [Value::Str(_), Value::Str(wanted), Value::Int(offset)] if wanted.is_empty() => {
            Ok(Value::Int(*offset))
        }
        _ => index_of(input, args, last),
    }
}

pub fn index_of(input: &Input, args: &[Value], last: bool) -> Evaluated {
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

pub fn includes(input: &Input, args: &[Value]) -> Evaluated {
    Ok(Value::Bool(match &args[0] {
        Value::List(list) => list.iter().any(|item| input.is(item, &args[1])),
        other => input.is(other, &args[1]),
    }))
}

pub fn sets(args: &[Value], test: impl Fn(&[Value], &[Value]) -> bool) -> Evaluated {
    match (&args[0], &args[1]) {
        (Value::List(a), Value::List(b)) => Ok(Value::Bool(test(a, b))),
        _ => no_overload(),
    }
}

pub fn all_in(input: &Input, items: &[Value], list: &[Value]) -> bool {
    items
        .iter()
        .all(|item| list.iter().any(|known| input.is(known, item)))
}

pub fn slice(_: &Input, args: &[Value]) -> Evaluated {
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

pub fn flatten(_: &Input, args: &[Value]) -> Evaluated {
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

pub fn sort(list: &[Value], keys: &[Value]) -> Evaluated {
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

pub fn sort_by(_: &Input, args: &[Value]) -> Evaluated {
    match (&args[0], &args[1]) {
        (Value::List(list), Value::List(keys)) => sort(list, keys),
        _ => no_overload(),
    }
}

pub fn distinct(input: &Input, args: &[Value]) -> Evaluated {
    let mut out: Vec<Value> = Vec::new();
    for item in list(args)?.iter() {
        if !out.iter().any(|known| input.is(known, item)) {
            out.push(item.clone());
        }
    }
    Ok(Value::list(out))
}

pub fn range(_: &Input, args: &[Value]) -> Evaluated {
    let end = int(args.first())?;
    if end < 0 {
        return error(format!("lists.range: size must be non-negative, got {end}"));
    }
    if end > 1_000_000 {
        // Beyond the cost limit anyway; the list is not made.
        return Err(Fault::Cancelled(crate::cel::OVER_LIMIT.into()));
    }
    Ok(Value::list((0..end).map(Value::Int).collect()))
}

pub fn map_insert(input: &Input, args: &[Value]) -> Evaluated {
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
