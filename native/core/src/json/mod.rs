//! JSON as it was written: a tree that remembers where every value stood, and writers that agree with Go's encoder.
//!
//! Checksums are taken over text, and opaque parameters must survive as text, so a parser of values alone will not do.

mod parser;
mod writer;

use std::borrow::Cow;

use crate::error::{Error, Kind, Result};

pub use parser::parse;
pub use writer::{indent, write_compact, write_text};

#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    Null,
    Boolean(bool),
    /// The token, untouched.
    Number(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    /// Members in their order, duplicates included.
    Object(Vec<(Cow<'a, str>, Node<'a>)>),
}

/// A value and where it stands: `source[start..end]` is its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Node<'a> {
    pub start: usize,
    pub end: usize,
    pub value: Value<'a>,
}

impl<'a> Node<'a> {
    /// The member named `key`; the last one if the key repeats, as Go has it. A null counts as absent.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node<'a>> {
        match &self.value {
            Value::Object(members) => members
                .iter()
                .rev()
                .find(|(name, _)| name == key)
                .map(|(_, node)| node)
                .filter(|node| node.value != Value::Null),
            _ => None,
        }
    }

    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    #[must_use]
    pub fn list(&self) -> Option<&[Node<'a>]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    #[must_use]
    pub fn members(&self) -> Option<&[(Cow<'a, str>, Node<'a>)]> {
        match &self.value {
            Value::Object(members) => Some(members),
            _ => None,
        }
    }

    /// The value's text in `source`, the text it was parsed from.
    #[must_use]
    pub fn source<'s>(&self, source: &'s str) -> &'s str {
        &source[self.start..self.end]
    }

    /// What the value is, for error texts.
    #[must_use]
    pub fn noun(&self) -> &'static str {
        match self.value {
            Value::Null => "null",
            Value::Boolean(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "a string",
            Value::List(_) => "a list",
            Value::Object(_) => "an object",
        }
    }
}

/// The bytes as text, or what is wrong with them.
pub fn utf8(content: &[u8]) -> Result<&str> {
    std::str::from_utf8(content).map_err(|error| {
        Error::new(
            Kind::Syntax,
            format!("not UTF-8 at byte {}", error.valid_up_to()),
        )
    })
}
