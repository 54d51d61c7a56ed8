//! Text as Go's encoder writes it.

use std::fmt::Write;

use super::{Node, Value, parse};
use crate::error::Result;

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
