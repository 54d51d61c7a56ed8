//! An object or a list cut into its values, none of which is read.
//!
//! However deep a value is nested and whatever its strings hold, it costs nobody but who reads it.

use std::ops::Range;

use super::parser::Parser;
use crate::error::{Error, Kind, Result};

/// Names and where their values stand, in their order.
pub type Members = Vec<(String, Range<usize>)>;

/// A list object as the API server sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// Its members but `items`.
    pub members: Members,
    /// Where its items stand; none if it has no list of items.
    pub items: Option<Vec<Range<usize>>>,
}

/// The members of the object that `source` holds.
pub fn members(source: &str) -> Result<Members> {
    let mut parser = Parser::new(source, usize::MAX);
    let mut found = Members::new();
    parser.skip();
    expect(&mut parser, b'{', "an object was expected")?;
    parser.skip();
    if parser.peek() == Some(b'}') {
        parser.at += 1;
    } else {
        loop {
            let key = parser.key()?.into_owned();
            let start = parser.at;
            parser.pass(0)?;
            found.push((key, start..parser.at));
            if !goes_on(&mut parser, b'}')? {
                break;
            }
        }
    }
    end(parser)?;
    Ok(found)
}

/// Where the elements of the list that `source` holds stand.
pub fn elements(source: &str) -> Result<Vec<Range<usize>>> {
    let mut parser = Parser::new(source, usize::MAX);
    let mut found = Vec::new();
    parser.skip();
    expect(&mut parser, b'[', "a list was expected")?;
    parser.skip();
    if parser.peek() == Some(b']') {
        parser.at += 1;
    } else {
        loop {
            parser.skip();
            let start = parser.at;
            parser.pass(0)?;
            found.push(start..parser.at);
            if !goes_on(&mut parser, b']')? {
                break;
            }
        }
    }
    end(parser)?;
    Ok(found)
}

/// A list object. Items that are null are none; of a doubled name the last one counts.
pub fn list(source: &str) -> Result<List> {
    let mut members = members(source)?;
    let items = members
        .iter()
        .rposition(|(name, _)| name == "items")
        .map(|index| members[index].1.clone());
    members.retain(|(name, _)| name != "items");
    let items = match items {
        None => None,
        Some(range) if &source[range.clone()] == "null" => Some(Vec::new()),
        Some(range) => {
            let moved =
                |element: Range<usize>| range.start + element.start..range.start + element.end;
            let elements = elements(&source[range.clone()])?;
            Some(elements.into_iter().map(moved).collect())
        }
    };
    Ok(List { members, items })
}

fn expect(parser: &mut Parser<'_>, mark: u8, otherwise: &str) -> Result<()> {
    if parser.peek() != Some(mark) {
        return Err(parser.wrong(otherwise));
    }
    parser.at += 1;
    Ok(())
}

/// Whether another value follows, else past the end.
fn goes_on(parser: &mut Parser<'_>, closing: u8) -> Result<bool> {
    parser.skip();
    match parser.peek() {
        Some(b',') => {
            parser.at += 1;
            Ok(true)
        }
        Some(byte) if byte == closing => {
            parser.at += 1;
            Ok(false)
        }
        _ => Err(parser.wrong("',' or the end was expected")),
    }
}

fn end(mut parser: Parser<'_>) -> Result<()> {
    parser.skip();
    if parser.at < parser.bytes.len() {
        return Err(Error::new(
            Kind::Syntax,
            format!(
                "at byte {}: the text goes on after the value's end",
                parser.at
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_what_they_are_however_deep() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let source = format!(r#" {{"a" : {deep}, "a\u0062":[ 1.50 ,"]"] }} "#);
        let found = members(&source).unwrap();
        let texts: Vec<_> = found
            .iter()
            .map(|(name, range)| (name.as_str(), &source[range.clone()]))
            .collect();
        assert_eq!(texts, [("a", deep.as_str()), ("ab", r#"[ 1.50 ,"]"]"#)]);
    }

    #[test]
    fn a_list_object_is_its_items_and_the_rest() {
        let source = r#"{"items":[1],"kind":"L","items": [ {"n": 1} ,null ]}"#;
        let found = list(source).unwrap();
        assert_eq!(found.members.len(), 1);
        let items: Vec<_> = found
            .items
            .unwrap()
            .into_iter()
            .map(|range| &source[range])
            .collect();
        assert_eq!(items, [r#"{"n": 1}"#, "null"]);
        assert_eq!(list("{}").unwrap().items, None);
        assert_eq!(list(r#"{"items":null}"#).unwrap().items, Some(Vec::new()));
        for wrong in [
            r#"{"items":{}}"#,
            r#"{"items":1}"#,
            "[]",
            "{}x",
            "",
            r#"{"a":1 "b":2}"#,
        ] {
            assert!(list(wrong).is_err(), "{wrong}");
        }
    }
}
