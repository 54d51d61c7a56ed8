//! From text to tree.

use std::borrow::Cow;

use super::{Node, Value};
use crate::error::{Error, Kind, Result};

/// Deeper nesting than any field of ours has. What lies deeper is kept as text: only down to here the parser recurses.
const DEPTH: usize = 64;

/// How deep the API server, and the Go driver that may read the checkpoint again, let a text be nested.
pub const LIMIT: usize = 10_000;

/// The tree of one JSON text; whitespace around it is allowed, anything else is not.
pub fn parse(source: &str) -> Result<Node<'_>> {
    parse_within(source, LIMIT)
}

/// `parse` with another limit for the nesting.
pub fn parse_within(source: &str, limit: usize) -> Result<Node<'_>> {
    let mut parser = Parser::new(source, limit);
    parser.skip();
    let node = parser.value(0)?;
    parser.skip();
    if parser.at < parser.bytes.len() {
        return Err(parser.wrong("the text goes on after the value's end"));
    }
    Ok(node)
}

struct Parser<'a> {
    source: &'a str,
    bytes: &'a [u8],
    at: usize,
    limit: usize,
}

impl<'a> Parser<'a> {
    fn new(source: &'a str, limit: usize) -> Self {
        Parser {
            source,
            bytes: source.as_bytes(),
            at: 0,
            limit,
        }
    }

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
        let start = self.at;
        let value = match self.peek() {
            Some(b'{' | b'[') if depth >= DEPTH => {
                self.pass(depth)?;
                Value::Deep
            }
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
            let key = self.key()?;
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

    /// A member's name, up to where its value begins.
    fn key(&mut self) -> Result<Cow<'a, str>> {
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
        Ok(key)
    }

    /// Goes past one value, which begins here at `depth`. However deep it is nested, nothing recurses.
    fn pass(&mut self, depth: usize) -> Result<()> {
        let mut open: Vec<u8> = Vec::new(); // how each list and object around will close
        loop {
            if let Some(opening @ (b'{' | b'[')) = self.peek() {
                let closing = opening + 2; // as ASCII has them
                if depth + open.len() >= self.limit {
                    return Err(self.wrong("nested too deep"));
                }
                self.at += 1;
                self.skip();
                if self.peek() != Some(closing) {
                    open.push(closing);
                    if closing == b'}' {
                        self.key()?;
                    }
                    continue;
                }
                self.at += 1;
            } else {
                self.value(depth)?; // has no values inside
            }
            loop {
                let Some(closing) = open.last().copied() else {
                    return Ok(());
                };
                self.skip();
                match self.peek() {
                    Some(byte) if byte == closing => {
                        self.at += 1;
                        open.pop();
                    }
                    Some(b',') => {
                        self.at += 1;
                        self.skip();
                        if closing == b'}' {
                            self.key()?;
                        }
                        break;
                    }
                    _ if closing == b'}' => return Err(self.wrong("',' or '}' was expected")),
                    _ => return Err(self.wrong("',' or ']' was expected")),
                }
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn what_lies_deep_is_kept_as_text_and_checked_all_the_same() {
        let nested =
            |levels: usize| format!("{}[1 ,{{}}]{}", "[".repeat(levels), "]".repeat(levels));
        let source = nested(LIMIT - 2);
        let root = parse(&source).unwrap();
        let mut node = &root;
        for _ in 0..DEPTH {
            node = &node.list().unwrap()[0];
        }
        assert_eq!(node.value, Value::Deep);
        assert_eq!(node.source(&source), nested(LIMIT - 2 - DEPTH));
        assert_eq!(
            parse(&nested(LIMIT - 1)).unwrap_err().kind,
            Kind::Syntax,
            "deeper than the limit"
        );
        let whole = nested(100);
        for end in 0..whole.len() {
            assert_eq!(parse(&whole[..end]).unwrap_err().kind, Kind::Truncated);
        }
        for (right, wrong) in [("1 ,", "1 "), ("{}", "{1}"), ("{}]", "{}}"), ("[1", "[+1")] {
            let text = whole.replacen(right, wrong, 1);
            assert_eq!(parse(&text).unwrap_err().kind, Kind::Syntax, "{text}");
        }
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
}
