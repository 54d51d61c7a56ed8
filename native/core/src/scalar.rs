//! YAML scalars: a string in the plainest form that every reader parses as that string.
//!
//! A scalar is plain if YAML 1.1 and 1.2 agree that it is a string, else quoted.

use std::fmt::Write;

/// Writes `text` as a scalar in block context.
pub fn write_text(out: &mut String, text: &str) {
    match style(text) {
        Style::Plain => out.push_str(text),
        Style::Single => {
            out.push('\'');
            for character in text.chars() {
                if character == '\'' {
                    out.push('\'');
                }
                out.push(character);
            }
            out.push('\'');
        }
        Style::Double => write_double(out, text),
    }
}

enum Style {
    Plain,
    Single,
    Double,
}

/// Bytes without meaning in YAML after a letter or a slash.
static HARMLESS: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric()
            || matches!(byte as u8, b'/' | b'_' | b'.' | b'=' | b'-' | b'+');
        byte += 1;
    }
    table
};

fn style(text: &str) -> Style {
    let bytes = text.as_bytes();
    // Nearly every string of a document is a path or a word: one look at each byte.
    if let Some(first) = bytes.first()
        && (*first == b'/' || first.is_ascii_alphabetic())
        && bytes.iter().all(|byte| HARMLESS[usize::from(*byte)])
    {
        return if is_word(text) {
            Style::Double
        } else {
            Style::Plain
        };
    }
    if text.chars().any(|character| !is_printable(character)) {
        return Style::Double;
    }
    if is_other_type(text) {
        return Style::Double;
    }
    if is_plain(text) {
        Style::Plain
    } else {
        Style::Single
    }
}

/// Whether some reader parses the plain word as a null, a boolean, a number, a merge key or a default key.
fn is_word(text: &str) -> bool {
    const WORDS: [&str; 15] = [
        "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", "<<", "=", "inf", "nan",
        "infinity",
    ];
    text.len() <= 8 && WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// Characters allowed unescaped on one line; line breaks of any kind and the byte order mark are not.
fn is_printable(character: char) -> bool {
    matches!(character, ' '..='~' | '\u{a0}'..='\u{2027}' | '\u{202a}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}'
        | '\u{ff00}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

/// Whether a printable text needs no quotes: no leading indicator, no `: `, no ` #`, no space at either end.
fn is_plain(text: &str) -> bool {
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if *first == b' '
        || *last == b' '
        || *last == b':'
        || text.starts_with("---")
        || text.starts_with("...")
    {
        return false;
    }
    match first {
        b'#' | b',' | b'[' | b']' | b'{' | b'}' | b'&' | b'*' | b'!' | b'|' | b'>' | b'\''
        | b'"' | b'%' | b'@' | b'`' => return false,
        b'-' | b'?' | b':' if bytes.get(1).is_none_or(|next| *next == b' ') => return false,
        _ => {}
    }
    !bytes.windows(2).any(|pair| pair == b": " || pair == b" #")
}

/// Whether some reader parses the plain text as something else than a string.
fn is_other_type(text: &str) -> bool {
    if text.is_empty() || is_word(text) {
        return true;
    }
    let unsigned = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    matches!(
        unsigned.as_str(),
        ".inf" | ".nan" | "inf" | "nan" | "infinity"
    ) || is_number(&unsigned)
        || is_date(text)
}

/// Integers of any base, floats and numbers to base 60, all with underscores. Errs towards quoting.
fn is_number(text: &str) -> bool {
    let text = text.replace('_', "");
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            return !digits.is_empty() && digits.chars().all(|digit| digit.is_digit(radix));
        }
    }
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(exponent) || !mantissa.bytes().any(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    is_digits(fraction) && whole.split(':').all(is_digits)
}

/// Dates and times: four digits, a dash, and only characters of dates and times.
fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 8
        && bytes[..4].iter().all(u8::is_ascii_digit)
        && bytes[4] == b'-'
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_digit() || b"-:.+TtZz \t".contains(byte))
}

fn write_double(out: &mut String, text: &str) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            _ if is_printable(character) => out.push(character),
            _ => {
                let code = u32::from(character);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scalar(text: &str) -> String {
        let mut out = String::new();
        write_text(&mut out, text);
        out
    }

    #[test]
    fn paths_and_arguments_stay_plain() {
        for text in [
            "/dev/nvidia0",
            "0.5.0",
            "rwm",
            "NVIDIA_VISIBLE_DEVICES=void",
            "--link",
            "k8s.gpu.nvidia.com/claim",
            "e5",
            "0x",
            "a b",
            "c:d",
            "x#y",
            "../card1::/driver-root/dev/dri/by-path/pci-0000:3b:00.0-card",
            "550.163.01",
            "4c9f0f4e-6a0a-4b4e-9d0a-0b2f4b7a1c11-gpu-0",
            "été",
        ] {
            assert_eq!(scalar(text), text);
        }
    }

    #[test]
    fn what_reads_as_another_type_is_quoted() {
        for text in [
            "",
            "~",
            "null",
            "True",
            "yes",
            "off",
            "0",
            "195",
            "-1",
            "+1",
            "1.5",
            "1e5",
            "1_000",
            "0x1F",
            "0o17",
            "0b1",
            "017",
            "1:30",
            ".inf",
            "-.INF",
            ".NaN",
            ".5",
            "5.",
            "2026-11-24",
            "2026-11-24T00:00:00Z",
            "<<",
            "=",
        ] {
            assert_eq!(scalar(text), format!("\"{text}\""));
        }
    }

    #[test]
    fn what_reads_as_structure_is_quoted() {
        for (text, wanted) in [
            ("a: b", "'a: b'"),
            ("a #b", "'a #b'"),
            ("- a", "'- a'"),
            ("-", "'-'"),
            ("{a", "'{a'"),
            ("it's: x", "'it''s: x'"),
            (" a", "' a'"),
            ("a:", "'a:'"),
            ("---", "'---'"),
            ("a\nb", "\"a\\nb\""),
            (
                "\u{1}\u{85}\u{2028}\u{feff}",
                "\"\\x01\\x85\\u2028\\ufeff\"",
            ),
            ("*a", "'*a'"),
            ("%a", "'%a'"),
        ] {
            assert_eq!(scalar(text), wanted);
        }
    }
}
