//! Tokens of the expression language.

use std::sync::Arc;

#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    Ident(Arc<str>),
    Int(i64),
    Uint(u64),
    Double(f64),
    Str(Arc<str>),
    Bytes(Arc<[u8]>),
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 26] = [
    "&&", "||", "==", "!=", "<=", ">=", "(", ")", "[", "]", "{", "}", ".", ",", ":", "?", "+", "-",
    "*", "/", "%", "!", "<", ">", "=", "|",
];

/// Splits the text; each token with its offset.
pub fn tokens(text: &str) -> Result<Vec<(usize, Token)>, (usize, String)> {
    let bytes = text.as_bytes();
    let mut list = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        if byte.is_ascii_whitespace() || byte == 0x0c {
            at += 1;
        } else if text[at..].starts_with("//") {
            at = text[at..].find('\n').map_or(bytes.len(), |end| at + end);
        } else if let Some((token, end)) = string(text, at)? {
            list.push((at, token));
            at = end;
        } else if byte.is_ascii_digit()
            || (byte == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit))
        {
            let (token, end) = number(text, at)?;
            list.push((at, token));
            at = end;
        } else if byte.is_ascii_alphabetic() || byte == b'_' {
            let rest = &text[at..];
            let end = rest
                .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            list.push((at, Token::Ident(rest[..end].into())));
            at += end;
        } else {
            let sign = SIGNS.iter().find(|sign| text[at..].starts_with(**sign));
            let sign = sign.ok_or_else(|| {
                (
                    at,
                    format!(
                        "Syntax error: token recognition error at: '{}'",
                        first(text, at)
                    ),
                )
            })?;
            list.push((at, Token::Sign(sign)));
            at += sign.len();
        }
    }
    list.push((at, Token::End));
    Ok(list)
}

fn first(text: &str, at: usize) -> char {
    text[at..].chars().next().unwrap_or(' ')
}

fn number(text: &str, start: usize) -> Result<(Token, usize), (usize, String)> {
    let bytes = text.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let suffix_u = |at: usize| matches!(bytes.get(at), Some(b'u' | b'U'));
    if text[start..].starts_with("0x") || text[start..].starts_with("0X") {
        let mut end = start + 2;
        while bytes.get(end).is_some_and(u8::is_ascii_hexdigit) {
            end += 1;
        }
        let digits = &text[start + 2..end];
        if suffix_u(end) {
            let value = u64::from_str_radix(digits, 16)
                .map_err(|_| (start, "invalid uint literal".into()))?;
            return Ok((Token::Uint(value), end + 1));
        }
        let value = u64::from_str_radix(digits, 16)
            .map_err(|_| (start, "invalid int literal".to_string()))?;
        return Ok((int(value, start)?, end));
    }
    let mut end = digits(start);
    let mut is_double = false;
    if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        end = digits(end + 1);
        is_double = true;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
            end = digits(end + 1 + sign);
            is_double = true;
        }
    }
    if is_double {
        let value = text[start..end]
            .parse()
            .map_err(|_| (start, "invalid double literal".to_string()))?;
        return Ok((Token::Double(value), end));
    }
    let value: u64 = text[start..end]
        .parse()
        .map_err(|_| (start, "invalid int literal".to_string()))?;
    if suffix_u(end) {
        return Ok((Token::Uint(value), end + 1));
    }
    Ok((int(value, start)?, end))
}

/// The parser joins a minus; the largest magnitude only exists with one, and then reads as the smallest integer.
fn int(value: u64, start: usize) -> Result<Token, (usize, String)> {
    match i64::try_from(value) {
        Ok(value) => Ok(Token::Int(value)),
        Err(_) if value == 1 << 63 => Ok(Token::Int(i64::MIN)),
        Err(_) => Err((start, "invalid int literal".into())),
    }
}

fn string(text: &str, start: usize) -> Result<Option<(Token, usize)>, (usize, String)> {
    let bytes = text.as_bytes();
    let (mut at, mut raw, mut binary) = (start, false, false);
    while at < start + 2 {
        match bytes.get(at) {
            Some(b'r' | b'R') if !raw => raw = true,
            Some(b'b' | b'B') if !binary => binary = true,
            _ => break,
        }
        at += 1;
    }
    let quote = match bytes.get(at) {
        Some(b'"') => '"',
        Some(b'\'') => '\'',
        _ => return Ok(None),
    };
    let triple: String = std::iter::repeat_n(quote, 3).collect();
    let fence = if text[at..].starts_with(&triple) {
        &triple[..]
    } else {
        &triple[..1]
    };
    at += fence.len();
    let open = (start, "Syntax error: unterminated string".to_string());
    let mut out: Vec<u8> = Vec::new();
    loop {
        let rest = text.get(at..).ok_or_else(|| open.clone())?;
        if rest.starts_with(fence) {
            at += fence.len();
            break;
        }
        let c = rest.chars().next().ok_or_else(|| open.clone())?;
        if c == '\\' && raw {
            // A quote after a backslash does not end a raw string.
            let next = rest[1..].chars().next().ok_or_else(|| open.clone())?;
            out.push(b'\\');
            out.extend(next.to_string().bytes());
            at += 1 + next.len_utf8();
        } else if c == '\\' {
            at += escape(rest, binary, &mut out)
                .ok_or_else(|| (at, "invalid escape sequence".to_string()))?;
        } else if (c == '\n' || c == '\r') && fence.len() == 1 {
            return Err(open);
        } else {
            out.extend(c.to_string().bytes());
            at += c.len_utf8();
        }
    }
    let token = match binary {
        true => Token::Bytes(out.into()),
        false => Token::Str(
            String::from_utf8(out)
                .map_err(|_| (start, "invalid string".to_string()))?
                .into(),
        ),
    };
    Ok(Some((token, at)))
}

/// Adds what an escape stands for; returns its length.
fn escape(rest: &str, binary: bool, out: &mut Vec<u8>) -> Option<usize> {
    let kind = *rest.as_bytes().get(1)?;
    let simple = match kind {
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b'\\' | b'\'' | b'"' | b'`' | b'?' => kind,
        _ => 0,
    };
    if simple != 0 {
        out.push(simple);
        return Some(2);
    }
    let (digits, radix) = match kind {
        b'x' | b'X' => (rest.get(2..4)?, 16),
        b'u' if !binary => (rest.get(2..6)?, 16),
        b'U' if !binary => (rest.get(2..10)?, 16),
        b'0'..=b'3' => (rest.get(1..4)?, 8),
        _ => return None,
    };
    let code = u32::from_str_radix(digits, radix).ok()?;
    if binary {
        out.push(u8::try_from(code).ok()?);
    } else {
        out.extend(char::from_u32(code)?.to_string().bytes());
    }
    Some(digits.len() + if radix == 8 { 1 } else { 2 })
}
