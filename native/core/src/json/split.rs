//! An object or a list cut into its values, none of which is read: by `serde_json`, whose `RawValue` is a value's text.
//!
//! However deep a value is nested and whatever its strings hold, it costs nobody but who reads it.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::error::Category;
use serde_json::value::RawValue;

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
    let Pairs(found) = read(source)?;
    Ok(found
        .into_iter()
        .map(|(Name(name), value)| (name.into_owned(), range(source, value.get())))
        .collect())
}

/// A list object. An `items` of null is an empty list; of a doubled name the last one counts.
pub fn list(source: &str) -> Result<List> {
    let mut members = members(source)?;
    let items = members
        .iter()
        .rposition(|(name, _)| name == "items")
        .map(|index| members[index].1.clone());
    members.retain(|(name, _)| name != "items");
    let Some(items) = items else {
        return Ok(List {
            members,
            items: None,
        });
    };
    let found: Option<Vec<&RawValue>> = read(&source[items])?;
    let items = found.unwrap_or_default();
    let items = items.iter().map(|item| range(source, item.get())).collect();
    Ok(List {
        members,
        items: Some(items),
    })
}

fn read<'a, T: Deserialize<'a>>(source: &'a str) -> Result<T> {
    serde_json::from_str(source).map_err(|error| {
        let kind = match error.classify() {
            Category::Eof => Kind::Truncated,
            _ => Kind::Syntax,
        };
        Error::new(kind, error.to_string())
    })
}

/// Where `part`, a passage of `source`, stands in it.
fn range(source: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - source.as_ptr() as usize;
    start..start + part.len()
}

/// An object's members, duplicates included.
struct Pairs<'a>(Vec<(Name<'a>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(source: D) -> std::result::Result<Self, D::Error> {
        struct Taker;

        impl<'de> Visitor<'de> for Taker {
            type Value = Pairs<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut found = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    found.push(pair);
                }
                Ok(Pairs(found))
            }
        }

        source.deserialize_map(Taker)
    }
}

/// A member's name. U+FFFD stands for the bytes of half a surrogate pair in it, which is no text.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(source: D) -> std::result::Result<Self, D::Error> {
        struct Taker;

        impl<'de> Visitor<'de> for Taker {
            type Value = Name<'de>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a name")
            }

            fn visit_borrowed_bytes<E>(self, name: &'de [u8]) -> std::result::Result<Name<'de>, E> {
                Ok(Name(String::from_utf8_lossy(name)))
            }

            fn visit_bytes<E>(self, name: &[u8]) -> std::result::Result<Name<'de>, E> {
                Ok(Name(String::from_utf8_lossy(name).into_owned().into()))
            }
        }

        // As bytes: as a text, serde_json refuses half a surrogate pair.
        source.deserialize_bytes(Taker)
    }
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
