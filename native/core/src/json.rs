//! JSON as it was written: a tree that remembers where every value stood, and writers that agree with Go's encoder.
//!
//! Checksums are taken over text, and opaque parameters must survive as text, so a parser of values alone will not do.

use std::borrow::Cow;
use std::fmt::Write;

use crate::error::{Error, Kind, Result};

/// Deeper nesting than any object of ours has; a limit, because the parser recurses.
const DEPTH: usize = 200;

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

/// The tree of one JSON text; whitespace around it is allowed, anything else is not.
pub fn parse(source: &str) -> Result<Node<'_>> {
    let mut parser = Parser {
        source,
        bytes: source.as_bytes(),
        at: 0,
    };
    parser.skip();
    let node = parser.value(0)?;
    parser.skip();
    if parser.at < parser.bytes.len() {
        return Err(parser.wrong("the text goes on after the value's end"));
    }
    Ok(node)
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

struct Parser<'a> {
    source: &'a str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Parser<'a> {
    fn wrong(&self, what: &str) -> Error {
        if self.at >= self.bytes.len() {
            Error::new(
                Kind::Truncated,
                format!("the text ends at byte {}: {what}", self.at),
            )
        } else {
            Error::new(Kind::Syntax, format!("at byte {}: {what}", self.at))
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<Node<'a>> {
        if depth > DEPTH {
            return Err(self.wrong("nested too deep"));
        }
        let start = self.at;
        let value = match self.peek() {
            Some(b'{') => self.object(depth)?,
            Some(b'[') => self.list(depth)?,
            Some(b'"') => Value::Text(self.string()?),
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(b't') => self.word("true", Value::Boolean(true))?,
            Some(b'f') => self.word("false", Value::Boolean(false))?,
            Some(b'n') => self.word("null", Value::Null)?,
            _ => return Err(self.wrong("a value was expected")),
        };
        Ok(Node {
            start,
            end: self.at,
            value,
        })
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>> {
        for expected in word.bytes() {
            if self.peek() != Some(expected) {
                return Err(self.wrong("a value was expected"));
            }
            self.at += 1;
        }
        Ok(value)
    }

    fn list(&mut self, depth: usize) -> Result<Value<'a>> {
        self.at += 1;
        let mut items = Vec::new();
        self.skip();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::List(items));
        }
        loop {
            self.skip();
            items.push(self.value(depth + 1)?);
            self.skip();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(Value::List(items));
                }
                _ => return Err(self.wrong("',' or ']' was expected")),
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value<'a>> {
        self.at += 1;
        let mut members = Vec::new();
        self.skip();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(members));
        }
        loop {
            self.skip();
            if self.peek() != Some(b'"') {
                return Err(self.wrong("a key was expected"));
            }
            let key = self.string()?;
            self.skip();
            if self.peek() != Some(b':') {
                return Err(self.wrong("':' was expected"));
            }
            self.at += 1;
            self.skip();
            members.push((key, self.value(depth + 1)?));
            self.skip();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(Value::Object(members));
                }
                _ => return Err(self.wrong("',' or '}' was expected")),
            }
        }
    }

    fn digits(&mut self) -> Result<()> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.wrong("a digit was expected"));
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Value<'a>> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(Value::Number(&self.source[start..self.at]))
    }

    fn string(&mut self) -> Result<Cow<'a, str>> {
        self.at += 1;
        let mut start = self.at;
        let mut owned: Option<String> = None;
        loop {
            match self.peek() {
                Some(b'"') => {
                    let rest = &self.source[start..self.at];
                    self.at += 1;
                    return Ok(match owned {
                        None => Cow::Borrowed(rest),
                        Some(mut text) => {
                            text.push_str(rest);
                            Cow::Owned(text)
                        }
                    });
                }
                Some(b'\\') => {
                    let text = owned.get_or_insert_default();
                    text.push_str(&self.source[start..self.at]);
                    self.at += 1;
                    let character = self.escape()?;
                    if let Some(text) = owned.as_mut() {
                        text.push(character);
                    }
                    start = self.at;
                }
                Some(0x20..) => self.at += 1,
                _ => return Err(self.wrong("the string does not end")),
            }
        }
    }

    /// The character behind a backslash; half a surrogate pair becomes U+FFFD, as in Go.
    fn escape(&mut self) -> Result<char> {
        let Some(letter) = self.peek() else {
            return Err(self.wrong("the string does not end"));
        };
        let plain = match letter {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                let first = self.hex4()?;
                if (0xd800..0xdc00).contains(&first) && self.bytes[self.at..].starts_with(b"\\u") {
                    let before = self.at;
                    self.at += 2;
                    let second = self.hex4()?;
                    if (0xdc00..0xe000).contains(&second) {
                        let joined = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
                        return Ok(char::from_u32(joined).unwrap_or('\u{fffd}'));
                    }
                    self.at = before;
                }
                return Ok(char::from_u32(first).unwrap_or('\u{fffd}'));
            }
            _ => return Err(self.wrong("unknown escape")),
        };
        self.at += 1;
        Ok(plain)
    }

    fn hex4(&mut self) -> Result<u32> {
        let mut number = 0;
        for _ in 0..4 {
            let Some(digit) = self.peek().and_then(|byte| char::from(byte).to_digit(16)) else {
                return Err(self.wrong("four hexadecimal digits were expected"));
            };
            number = number * 16 + digit;
            self.at += 1;
        }
        Ok(number)
    }
}

/// Writes a JSON string as Go's encoder does: HTML characters and the two line separators escaped, the rest raw.
pub fn write_text(out: &mut String, text: &str) {
    out.push('"');
    let mut start = 0;
    for (at, character) in text.char_indices() {
        let escaped: &str = match character {
            '"' => "\\\"",
            '\\' => "\\\\",
            '\u{8}' => "\\b",
            '\u{c}' => "\\f",
            '\n' => "\\n",
            '\r' => "\\r",
            '\t' => "\\t",
            '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => "",
            _ => continue,
        };
        out.push_str(&text[start..at]);
        if escaped.is_empty() {
            let _ = write!(out, "\\u{:04x}", u32::from(character));
        } else {
            out.push_str(escaped);
        }
        start = at + character.len_utf8();
    }
    out.push_str(&text[start..]);
    out.push('"');
}

/// Copies valid JSON, or a passage of it cut between tokens, without its whitespace and with HTML characters escaped.
///
/// Tokens stay what they were: numbers keep their form, keys their order, strings their escapes.
pub fn write_compact(out: &mut String, source: &str) {
    let mut in_string = false;
    let mut after_backslash = false;
    for character in source.chars() {
        match character {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(character));
                after_backslash = false;
                continue;
            }
            ' ' | '\t' | '\n' | '\r' if !in_string => continue,
            '"' if !after_backslash => in_string = !in_string,
            _ => {}
        }
        after_backslash = in_string && character == '\\' && !after_backslash;
        out.push(character);
    }
}

/// The JSON text with two spaces of indent for each level: what people compare.
pub fn indent(source: &str) -> Result<String> {
    let node = parse(source)?;
    let mut out = String::with_capacity(source.len() * 2);
    write_indented(&mut out, &node, source, 0);
    Ok(out)
}

fn write_indented(out: &mut String, node: &Node<'_>, source: &str, level: usize) {
    let fresh_line = |out: &mut String, level: usize| {
        out.push('\n');
        for _ in 0..level {
            out.push_str("  ");
        }
    };
    match &node.value {
        Value::List(items) if !items.is_empty() => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                fresh_line(out, level + 1);
                write_indented(out, item, source, level + 1);
            }
            fresh_line(out, level);
            out.push(']');
        }
        Value::Object(members) if !members.is_empty() => {
            out.push('{');
            for (index, (key, member)) in members.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                fresh_line(out, level + 1);
                write_text(out, key);
                out.push_str(": ");
                write_indented(out, member, source, level + 1);
            }
            fresh_line(out, level);
            out.push('}');
        }
        Value::List(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
        _ => out.push_str(node.source(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compact(source: &str) -> String {
        let mut out = String::new();
        write_compact(&mut out, source);
        out
    }

    fn quoted(text: &str) -> String {
        let mut out = String::new();
        write_text(&mut out, text);
        out
    }

    #[test]
    fn values_know_where_they_stand() {
        let source = r#" {"a": [1, -2.5e3 , "x\n"], "b": {"c": null, "d": true}} "#;
        let root = parse(source).unwrap();
        assert_eq!(
            root.get("a").unwrap().source(source),
            r#"[1, -2.5e3 , "x\n"]"#
        );
        assert_eq!(
            root.get("a").unwrap().list().unwrap()[2].text(),
            Some("x\n")
        );
        assert!(root.get("b").unwrap().get("c").is_none());
        assert_eq!(
            root.get("b").unwrap().get("d").unwrap().value,
            Value::Boolean(true)
        );
    }

    #[test]
    fn the_last_of_equal_keys_counts() {
        assert_eq!(
            parse(r#"{"a":1,"a":2}"#).unwrap().get("a").unwrap().value,
            Value::Number("2")
        );
    }

    #[test]
    fn what_ends_early_is_truncated_and_what_is_wrong_is_syntax() {
        let whole = r#"{"a":[1,{"b":"c\u00e9"},true,null,-1.5e2]}"#;
        for end in 0..whole.len() {
            assert_eq!(
                parse(&whole[..end]).unwrap_err().kind,
                Kind::Truncated,
                "{}",
                &whole[..end]
            );
        }
        for wrong in [
            "{]",
            "[1,]",
            "{\"a\" 1}",
            "01",
            "nul!",
            "\"\\x\"",
            "\"\u{1}\"",
            "1 2",
            "+1",
            ".5",
            "[1}",
            "{a:1}",
        ] {
            assert_eq!(parse(wrong).unwrap_err().kind, Kind::Syntax, "{wrong}");
        }
        assert!(parse(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn surrogates_join_or_become_the_replacement_character() {
        assert_eq!(
            parse(r#""\ud83d\ude00""#).unwrap().text(),
            Some("\u{1f600}")
        );
        assert_eq!(parse(r#""\ud83dx""#).unwrap().text(), Some("\u{fffd}x"));
        assert_eq!(
            parse(r#""\ud83d\ud83d\ude00""#).unwrap().text(),
            Some("\u{fffd}\u{1f600}")
        );
        assert_eq!(parse(r#""\ude00""#).unwrap().text(), Some("\u{fffd}"));
    }

    #[test]
    fn strings_are_escaped_as_go_does() {
        assert_eq!(
            quoted("a\"\\\u{8}\u{c}\n\r\t\u{1}<>&\u{2028}é\u{7f}"),
            "\"a\\\"\\\\\\b\\f\\n\\r\\t\\u0001\\u003c\\u003e\\u0026\\u2028é\u{7f}\""
        );
    }

    #[test]
    fn compact_text_keeps_its_tokens() {
        assert_eq!(
            compact("{ \"b\" : [ 1.50 , 1e3 ],\n\"a\":\"x \\\" <y>\\\\\" }"),
            r#"{"b":[1.50,1e3],"a":"x \" \u003cy\u003e\\"}"#
        );
        assert_eq!(compact(r#"{"b":"\\"  , "c" : 1}"#), r#"{"b":"\\","c":1}"#);
    }

    #[test]
    fn indented_text_reads_line_by_line() {
        assert_eq!(
            indent(r#"{"a":[1,{}],"b":[]}"#).unwrap(),
            "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": []\n}"
        );
    }
}
