//! JSON as it was written: a tree that remembers where every value stood, and writers that agree with Go's encoder.
//!
//! Checksums are taken over text, and opaque parameters must survive as text, so a parser of values alone will not do.

mod parser;
mod split;
mod writer;

use std::borrow::Cow;

pub use parser::{LIMIT, parse, parse_within};
pub use split::{List, list, members};
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
    /// A list or an object that lies deeper than any field of ours. Only its text is known.
    Deep,
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
            Value::Deep => "a value nested too deep",
        }
    }
}

/// The bytes as text of the same length. A byte that is no UTF-8 becomes a question mark: the API server stores opaque
/// parameters as they were sent, and one odd byte in the config of another driver must not hide a whole claim.
#[must_use]
pub fn text(content: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(content) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(content.len());
    for chunk in content.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|_| '?'));
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_no_utf8_become_question_marks_in_place() {
        assert!(matches!(text("é".as_bytes()), Cow::Borrowed("é")));
        assert_eq!(text(b""), "");
        assert_eq!(text(b"a\xff\xe2\x82b\xc3"), "a???b?");
    }
}
