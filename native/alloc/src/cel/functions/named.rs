//! Named formats: what `format.<name>().validate(text)` says.

use std::sync::OnceLock;

use regex::Regex;

use super::{Input, text};
use crate::cel::time::days_in;
use crate::cel::url::Url;
use crate::cel::value::{Evaluated, Value, no_overload};

/// A format with the length of the pattern that its cost is computed from.
pub struct Named {
    pub name: &'static str,
    pub pattern_length: u64,
    complaints: fn(&str) -> Vec<String>,
}

impl std::fmt::Debug for Named {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(self.name)
    }
}

macro_rules! named {
    ($name:literal, $length:expr, $complaints:expr) => {
        Named {
            name: $name,
            pattern_length: $length,
            complaints: $complaints,
        }
    };
}

const FORMATS: &[Named] = &[
    named!("dns1123Label", 30, label),
    named!("dns1123Subdomain", 60, subdomain),
    named!("dns1035Label", 30, dns1035),
    named!("qualifiedName", 60, qualified_name),
    named!("dns1123LabelPrefix", 30, |s| label(&masked(s))),
    named!("dns1123SubdomainPrefix", 60, |s| subdomain(&masked(s))),
    named!("dns1035LabelPrefix", 30, |s| dns1035(&masked(s))),
    named!("labelValue", 40, label_value),
    named!("uri", 1103, |s| unless(
        Url::is_request(s),
        "not a URI of a request"
    )),
    named!("uuid", UUID.len() as u64, |s| unless(
        is_uuid(s),
        "does not match the UUID format"
    )),
    named!("byte", 84, |s| unless(is_base64(s), "invalid base64")),
    named!("date", TIME.len() as u64, |s| unless(
        is_date(s),
        "invalid date"
    )),
    named!("datetime", TIME.len() as u64, |s| unless(
        is_datetime(s),
        "invalid datetime"
    )),
];

/// `format.<name>()`.
pub fn constant(name: &str) -> Evaluated {
    find(name).map_or_else(no_overload, |format| Ok(Value::Format(format)))
}

fn find(name: &str) -> Option<&'static Named> {
    FORMATS.iter().find(|format| format.name == name)
}

pub fn named(_: &Input, args: &[Value]) -> Evaluated {
    let found = find(text(&args[0])?);
    Ok(found.map_or(Value::Optional(None), |f| Value::some(Value::Format(f))))
}

pub fn validate(_: &Input, args: &[Value]) -> Evaluated {
    let Value::Format(format) = &args[0] else {
        return no_overload();
    };
    let complaints = (format.complaints)(text(&args[1])?);
    if complaints.is_empty() {
        return Ok(Value::Optional(None));
    }
    let texts = complaints.iter().map(|c| Value::str(c)).collect();
    Ok(Value::some(Value::list(texts)))
}

fn unless(fine: bool, complaint: &str) -> Vec<String> {
    if fine {
        Vec::new()
    } else {
        vec![complaint.to_string()]
    }
}

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN: &str = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const DNS1035: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const KEY: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const VALUE: &str = "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?";
const UUID: &str = "(?i)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$";
const TIME: &str = "^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$";

/// Whether the whole text matches; each pattern is compiled once.
macro_rules! is_all {
    ($pattern:expr, $text:expr) => {{
        static COMPILED: OnceLock<Regex> = OnceLock::new();
        COMPILED
            .get_or_init(|| Regex::new(&format!("^(?:{})$", $pattern)).expect("a valid pattern"))
            .is_match($text)
    }};
}

fn too_long(text: &str, most: usize, unit: &str) -> Option<String> {
    (text.len() > most).then(|| format!("must be no more than {most} {unit}"))
}

fn pattern(rule: &str, examples: &[&str], pattern: &str) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!(
        "{rule} (e.g. {}regex used for validation is '{pattern}')",
        examples.join(" or ")
    )
}

fn label(text: &str) -> Vec<String> {
    let mut found: Vec<String> = too_long(text, 63, "characters").into_iter().collect();
    if !is_all!(LABEL, text) {
        found.push(if is_all!(SUBDOMAIN, text) {
            "must not contain dots".into()
        } else {
            pattern(
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character",
                &["my-name", "123-abc"],
                LABEL,
            )
        });
    }
    found
}

fn subdomain(text: &str) -> Vec<String> {
    let mut found: Vec<String> = too_long(text, 253, "characters").into_iter().collect();
    if !is_all!(SUBDOMAIN, text) {
        found.push(pattern(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character",
            &["example.com"],
            SUBDOMAIN,
        ));
    }
    found
}

fn dns1035(text: &str) -> Vec<String> {
    let mut found: Vec<String> = too_long(text, 63, "characters").into_iter().collect();
    if !is_all!(DNS1035, text) {
        found.push(pattern(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character",
            &["my-name", "abc-123"],
            DNS1035,
        ));
    }
    found
}

const KEY_RULE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

fn qualified_name(text: &str) -> Vec<String> {
    let examples = ["MyName", "my.name", "123-abc"];
    let mut found = Vec::new();
    let name = match text.split('/').collect::<Vec<_>>()[..] {
        [name] => name,
        ["", name] => {
            found.push("prefix part must be non-empty".into());
            name
        }
        [prefix, name] => {
            found.extend(
                subdomain(prefix)
                    .iter()
                    .map(|c| format!("prefix part {}", c.replace("253 characters", "253 bytes"))),
            );
            name
        }
        _ => {
            return vec![format!(
                "a valid label key {} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')",
                pattern(KEY_RULE, &examples, KEY)
            )];
        }
    };
    if name.is_empty() {
        found.push("name part must be non-empty".into());
    }
    found.extend(too_long(name, 63, "bytes").map(|c| format!("name part {c}")));
    if !is_all!(KEY, name) {
        found.push(format!("name part {}", pattern(KEY_RULE, &examples, KEY)));
    }
    found
}

fn label_value(text: &str) -> Vec<String> {
    let mut found: Vec<String> = too_long(text, 63, "bytes").into_iter().collect();
    if !is_all!(VALUE, text) {
        found.push(pattern(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character",
            &["MyValue", "my_value", "12345"],
            VALUE,
        ));
    }
    found
}

/// A prefix may end with a dash: what follows it is not known yet.
fn masked(text: &str) -> String {
    match text.strip_suffix('-') {
        Some(head) if !head.is_empty() => {
            let kept: Vec<char> = head.chars().collect();
            let kept: String = kept[..kept.len() - 1].iter().collect();
            kept + "a"
        }
        _ => text.to_string(),
    }
}

fn is_uuid(text: &str) -> bool {
    is_all!(UUID, text)
}

/// Standard alphabet with padding, in one line.
fn is_base64(text: &str) -> bool {
    let bytes = text.as_bytes();
    let padding = bytes.iter().rev().take_while(|b| **b == b'=').count();
    let body = &bytes[..bytes.len() - padding];
    let is_letter = |b: &u8| b.is_ascii_alphanumeric() || b"+/".contains(b);
    !text.is_empty() && bytes.len().is_multiple_of(4) && padding <= 2 && body.iter().all(is_letter)
}

fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [year, month, day] = parts[..] else {
        return false;
    };
    let number = |text: &str, digits: usize| {
        (text.len() == digits && text.bytes().all(|b| b.is_ascii_digit()))
            .then(|| text.parse::<i64>().ok())?
    };
    let (Some(year), Some(month), Some(day)) = (number(year, 4), number(month, 2), number(day, 2))
    else {
        return false;
    };
    (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day)
}

fn is_datetime(text: &str) -> bool {
    let lower = text.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(date), Some(time)) = (parts.next(), parts.next()) else {
        return false;
    };
    if text.len() < 4 || !is_date(date) || !is_all!(TIME, time) {
        return false;
    }
    let number = |at: usize| time.get(at..at + 2).and_then(|t| t.parse::<u32>().ok());
    matches!((number(0), number(3), number(6)), (Some(h), Some(m), Some(s)) if h <= 23 && m <= 59 && s <= 59)
}
