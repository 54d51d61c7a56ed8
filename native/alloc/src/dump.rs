//! Reads documents object by object, so that a list of any size is never held whole.

use std::io::{ErrorKind, Read};

/// Bytes that are read at a time.
const CHUNK: usize = 1 << 20;
const NO_OBJECT: &str = "expected an object of the Kubernetes API or a list of them";

/// Calls `each` with the text of every object of a list, or of the one object that the document is, and with the
/// list's kind as far as it is known by then.
pub fn objects(
    source: impl Read,
    mut each: impl FnMut(Vec<u8>, Option<&str>) -> Result<(), String>,
) -> Result<(), String> {
    let mut scanner = Scanner::new(source);
    match scanner.peek("a value")? {
        b'{' => {}
        b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n' => return Err(NO_OBJECT.into()),
        _ => return Err(scanner.unexpected("expected value")),
    }
    scanner.next += 1;
    let mut kind: Option<String> = None;
    // The object itself, unless it turns out to be a list.
    let mut single = Vec::from(b"{");
    let mut is_list = false;
    while scanner.peek("an object")? != b'}' {
        if single.len() > 1 {
            scanner.expect(b',')?;
            single.push(b',');
        }
        let start = single.len();
        if scanner.peek("a field")? != b'"' {
            return Err(scanner.unexpected("expected a field name"));
        }
        scanner.value(&mut single, "a field")?;
        let name = single[start..].to_vec();
        scanner.expect(b':')?;
        single.push(b':');
        if name == b"\"items\"" {
            is_list = true;
            let mut number = 0;
            if scanner.peek("items")? != b'[' {
                scanner.value(&mut Vec::new(), "items")?;
                continue;
            }
            scanner.next += 1;
            while scanner.peek("items")? != b']' {
                if number > 0 {
                    scanner.expect(b',')?;
                }
                number += 1;
                let mut item = Vec::new();
                scanner.value(&mut item, &format!("item {number}"))?;
                each(item, kind.as_deref())?;
            }
            scanner.next += 1;
            continue;
        }
        let start = single.len();
        scanner.value(&mut single, "an object")?;
        if name == b"\"kind\"" {
            kind = serde_json::from_slice(&single[start..]).ok();
        }
        if is_list {
            // What follows the items of a list says nothing about them.
            single.truncate(1);
            single.push(b' ');
        }
    }
    scanner.next += 1;
    if scanner.more()? {
        return Err(scanner.unexpected("trailing characters"));
    }
    if !is_list {
        single.push(b'}');
        each(single, None)?;
    }
    Ok(())
}

struct Scanner<R> {
    source: R,
    buffer: Vec<u8>,
    next: usize,
    /// Bytes before the buffer.
    before: usize,
}

impl<R: Read> Scanner<R> {
    fn new(source: R) -> Scanner<R> {
        Scanner {
            source,
            buffer: Vec::new(),
            next: 0,
            before: 0,
        }
    }

    /// Whether there is another byte.
    fn fill(&mut self) -> Result<bool, String> {
        while self.next >= self.buffer.len() {
            self.before += self.buffer.len();
            self.next = 0;
            self.buffer.resize(CHUNK, 0);
            match self.source.read(&mut self.buffer) {
                Ok(read) => {
                    self.buffer.truncate(read);
                    if read == 0 {
                        return Ok(false);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => self.buffer.clear(),
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(true)
    }

    /// Whether anything but white space follows.
    fn more(&mut self) -> Result<bool, String> {
        while self.fill()? {
            match self.buffer[self.next] {
                b' ' | b'\t' | b'\r' | b'\n' => self.next += 1,
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    /// The next byte that is no white space.
    fn peek(&mut self, within: &str) -> Result<u8, String> {
        match self.more()? {
            true => Ok(self.buffer[self.next]),
            false => Err(format!("EOF while parsing {within}")),
        }
    }

    fn expect(&mut self, byte: u8) -> Result<(), String> {
        if self.peek("an object")? != byte {
            return Err(self.unexpected(&format!("expected `{}`", char::from(byte))));
        }
        self.next += 1;
        Ok(())
    }

    fn unexpected(&self, text: &str) -> String {
        format!("{text} at byte {}", self.before + self.next)
    }

    /// Appends the text of the next value. Only brackets and strings are looked at: the value is parsed later.
    fn value(&mut self, out: &mut Vec<u8>, within: &str) -> Result<(), String> {
        let first = self.peek(within)?;
        if matches!(first, b',' | b':' | b']' | b'}') {
            return Err(self.unexpected("expected value"));
        }
        let (mut depth, mut text, mut escaped) = (0usize, false, false);
        loop {
            if !self.fill()? {
                // A number or word at the end of the document ends there.
                return match depth == 0 && !text && !out.is_empty() {
                    true => Ok(()),
                    false => Err(format!("EOF while parsing {within}")),
                };
            }
            let bytes = &self.buffer[self.next..];
            let mut taken = 0;
            let mut ended = false;
            for byte in bytes {
                if text {
                    taken += 1;
                    match byte {
                        _ if escaped => escaped = false,
                        b'\\' => escaped = true,
                        b'"' => {
                            text = false;
                            ended = depth == 0;
                        }
                        _ => {}
                    }
                } else {
                    match byte {
                        b'"' => text = true,
                        b'{' | b'[' => depth += 1,
                        b'}' | b']' if depth > 0 => {
                            depth -= 1;
                            ended = depth == 0;
                        }
                        // The end of a number or word.
                        b',' | b'}' | b']' | b' ' | b'\t' | b'\r' | b'\n' if depth == 0 => {
                            out.extend_from_slice(&bytes[..taken]);
                            self.next += taken;
                            return Ok(());
                        }
                        _ => {}
                    }
                    taken += 1;
                }
                if ended {
                    break;
                }
            }
            out.extend_from_slice(&bytes[..taken]);
            self.next += taken;
            if ended {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, Option<String>)>, String> {
        let mut found = Vec::new();
        objects(text.as_bytes(), |item, kind| {
            let item = String::from_utf8(item).expect("the text is UTF-8");
            found.push((item, kind.map(str::to_string)));
            Ok(())
        })?;
        Ok(found)
    }

    #[test]
    fn lists_come_item_by_item() {
        let text = r#" {"kind": "NodeList", "metadata": {"a": [1, "]"]}, "items": [{"a":"}\""} , 2,null ], "z": 1} "#;
        let kind = Some("NodeList".to_string());
        let items = [r#"{"a":"}\""}"#, "2", "null"].map(|item| (item.to_string(), kind.clone()));
        assert_eq!(read(text), Ok(items.to_vec()));
        assert_eq!(read(r#"{"items":null,"kind":"List"}"#), Ok(Vec::new()));
        assert_eq!(read(r#"{"items":[],"kind":"List","a":{}}"#), Ok(Vec::new()));
    }

    #[test]
    fn another_object_is_one_item() {
        let text = r#"{"kind":"Node" , "metadata":{"name":"n"}}"#;
        let whole = r#"{"kind":"Node","metadata":{"name":"n"}}"#;
        assert_eq!(read(text), Ok(vec![(whole.to_string(), None)]));
        assert_eq!(read("{}"), Ok(vec![("{}".to_string(), None)]));
    }

    #[test]
    fn what_is_cut_off_or_no_object_is_an_error() {
        for (text, said) in [
            ("", "EOF"),
            ("{\"items\": [", "EOF while parsing items"),
            ("{\"items\": [{\"a\":", "EOF while parsing item 1"),
            ("[]", "an object of the Kubernetes API"),
            ("\u{0}", "expected value at byte 0"),
            ("{} x", "trailing characters"),
            ("{\"a\" 1}", "expected `:`"),
            ("{1:2}", "expected a field name"),
            ("{\"a\":}", "expected value"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
