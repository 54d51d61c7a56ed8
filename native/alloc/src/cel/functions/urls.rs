//! Functions of URLs.

use std::sync::Arc;

use super::{Input, text};
use crate::cel::url::Url;
use crate::cel::value::{Evaluated, Fault, Value, error, no_overload};

pub fn url(_: &Input, args: &[Value]) -> Evaluated {
    let source = text(&args[0])?;
    Url::parse(source).map_or_else(
        || error(format!("URL parse error of {source:?}")),
        |url| Ok(Value::Url(Arc::new(url))),
    )
}

pub fn is_url(_: &Input, args: &[Value]) -> Evaluated {
    Ok(Value::Bool(Url::is_request(text(&args[0])?)))
}

/// A part of a URL.
pub fn part(args: &[Value], of: fn(&Url) -> Vec<u8>) -> Evaluated {
    match &args[0] {
        Value::Url(url) => string(of(url)),
        _ => no_overload(),
    }
}

pub fn query(_: &Input, args: &[Value]) -> Evaluated {
    let Value::Url(url) = &args[0] else {
        return no_overload();
    };
    let mut entries = Vec::new();
    for (name, values) in url.query() {
        let values: Result<Vec<Value>, Fault> = values.into_iter().map(string).collect();
        entries.push((string(name)?, Value::list(values?)));
    }
    Ok(Value::Map(Arc::new(entries)))
}

fn string(bytes: Vec<u8>) -> Evaluated {
    String::from_utf8(bytes).map_or_else(
        |_| {
            Err(Fault::Unsupported(
                "text that is no UTF-8 is not evaluated by this engine".into(),
            ))
        },
        |text| Ok(Value::str(&text)),
    )
}
