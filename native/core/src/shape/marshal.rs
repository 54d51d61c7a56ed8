//! A JSON value, read into a struct and written again.

use super::Keep::{Always, ByRelease, NonEmpty, OrNull, Present};
use super::Shape::{
    self, Boolean, Checksum, Integer, List, Map, Quantity, Raw, Struct, Text, Time,
};
use super::{Field, Style};
use crate::error::{Error, Kind, Result};
use crate::json::{Node, Value, write_compact, write_text};
use crate::{quantity, time};

/// The text Go makes of the value read as `shape`. The error names the field that does not fit, under `root`.
pub fn marshal(
    node: &Node<'_>,
    source: &str,
    shape: &Shape,
    style: Style,
    root: &str,
) -> Result<String> {
    let mut out = String::with_capacity(node.end - node.start);
    let writer = Writer { source, style };
    match writer.write(&mut out, Some(node), shape) {
        Ok(()) => Ok(out),
        Err(misfit) => Err(Error::new(
            Kind::Malformed,
            format!("{root}{}: {}", misfit.path, misfit.text),
        )),
    }
}

/// A value that does not fit its field. The path grows from the inside out.
struct Misfit {
    path: String,
    text: String,
}

impl Misfit {
    fn wanted(noun: &str, node: &Node<'_>) -> Self {
        Misfit {
            path: String::new(),
            text: format!("{noun} was expected, found {}", node.noun()),
        }
    }

    fn under(mut self, step: &str) -> Self {
        self.path.insert_str(0, step);
        self
    }
}

struct Writer<'s> {
    source: &'s str,
    style: Style,
}

impl Writer<'_> {
    fn write(
        &self,
        out: &mut String,
        node: Option<&Node<'_>>,
        shape: &Shape,
    ) -> std::result::Result<(), Misfit> {
        let node = node.filter(|node| node.value != Value::Null);
        match shape {
            Text => match node.map(|node| (node, node.text())) {
                None => out.push_str("\"\""),
                Some((_, Some(text))) => write_text(out, text),
                Some((node, None)) => return Err(Misfit::wanted("a string", node)),
            },
            Checksum if self.style.zero_checksums => out.push('0'),
            Integer | Checksum => match node.map(|node| (node, &node.value)) {
                None => out.push('0'),
                Some((_, Value::Number(token))) if is_integer(token) => {
                    out.push_str(if *token == "-0" { "0" } else { token });
                }
                Some((node, _)) => return Err(Misfit::wanted("an integer", node)),
            },
            Boolean => match node.map(|node| (node, &node.value)) {
                None => out.push_str("false"),
                Some((_, Value::Boolean(is_true))) => {
                    out.push_str(if *is_true { "true" } else { "false" })
                }
                Some((node, _)) => return Err(Misfit::wanted("a boolean", node)),
            },
            Raw => match node {
                None => out.push_str("null"),
                Some(node) => write_compact(out, node.source(self.source)),
            },
            Time => self.write_time(out, node)?,
            Quantity => self.write_quantity(out, node)?,
            Struct(fields) => self.write_struct(out, node, fields)?,
            List(item) => self.write_list(out, node, item)?,
            Map(item) => self.write_map(out, node, item)?,
        }
        Ok(())
    }

    fn write_time(
        &self,
        out: &mut String,
        node: Option<&Node<'_>>,
    ) -> std::result::Result<(), Misfit> {
        let Some(node) = node else {
            out.push_str("null");
            return Ok(());
        };
        let text = node.text().ok_or_else(|| Misfit::wanted("a time", node))?;
        match time::to_utc_seconds(text) {
            Some(moment) if moment == "0001-01-01T00:00:00Z" => out.push_str("null"),
            Some(moment) => write_text(out, &moment),
            None => {
                return Err(Misfit {
                    path: String::new(),
                    text: format!("{text:?} is no RFC 3339 time"),
                });
            }
        }
        Ok(())
    }

    fn write_quantity(
        &self,
        out: &mut String,
        node: Option<&Node<'_>>,
    ) -> std::result::Result<(), Misfit> {
        let text = match node.map(|node| (node, &node.value)) {
            None => "0",
            Some((_, Value::Text(text))) => text,
            Some((_, Value::Number(token))) => token,
            Some((node, _)) => return Err(Misfit::wanted("a quantity", node)),
        };
        match quantity::canonical(text.trim()) {
            Some(canonical) => write_text(out, &canonical),
            None => {
                return Err(Misfit {
                    path: String::new(),
                    text: format!("{text:?} is no quantity"),
                });
            }
        }
        Ok(())
    }

    fn write_struct(
        &self,
        out: &mut String,
        node: Option<&Node<'_>>,
        fields: &[Field],
    ) -> std::result::Result<(), Misfit> {
        if let Some(node) = node
            && node.members().is_none()
        {
            return Err(Misfit::wanted("an object", node));
        }
        out.push('{');
        let mut is_first = true;
        for field in fields {
            let member = node.and_then(|node| node.get(field.name));
            let is_written = match field.keep {
                Always | OrNull => true,
                Present => member.is_some(),
                NonEmpty => member.is_some_and(|member| !is_zero(member, field.shape)),
                ByRelease => {
                    self.style.mps_id_always
                        || member.is_some_and(|member| !is_zero(member, field.shape))
                }
            };
            if !is_written {
                continue;
            }
            if !is_first {
                out.push(',');
            }
            is_first = false;
            write_text(out, field.name);
            out.push(':');
            if member.is_none() && field.keep == OrNull {
                out.push_str("null");
                continue;
            }
            self.write(out, member, field.shape)
                .map_err(|misfit| misfit.under(field.name).under("."))?;
        }
        out.push('}');
        Ok(())
    }

    fn write_list(
        &self,
        out: &mut String,
        node: Option<&Node<'_>>,
        item: &Shape,
    ) -> std::result::Result<(), Misfit> {
        let Some(node) = node else {
            out.push_str("null");
            return Ok(());
        };
        out.push('[');
        for (index, member) in node
            .list()
            .ok_or_else(|| Misfit::wanted("a list", node))?
            .iter()
            .enumerate()
        {
            if index > 0 {
                out.push(',');
            }
            self.write(out, Some(member), item)
                .map_err(|misfit| misfit.under(&format!("[{index}]")))?;
        }
        out.push(']');
        Ok(())
    }

    fn write_map(
        &self,
        out: &mut String,
        node: Option<&Node<'_>>,
        item: &Shape,
    ) -> std::result::Result<(), Misfit> {
        let Some(node) = node else {
            out.push_str("null");
            return Ok(());
        };
        let members = node
            .members()
            .ok_or_else(|| Misfit::wanted("an object", node))?;
        // A stable sort, so that the last of equal keys is the one before the next key.
        let mut sorted: Vec<_> = members.iter().collect();
        sorted.sort_by(|one, other| one.0.cmp(&other.0));
        out.push('{');
        let mut is_first = true;
        for (index, (key, member)) in sorted.iter().enumerate() {
            if sorted.get(index + 1).is_some_and(|next| next.0 == *key) {
                continue;
            }
            if !is_first {
                out.push(',');
            }
            is_first = false;
            write_text(out, key);
            out.push(':');
            self.write(out, Some(member), item)
                .map_err(|misfit| misfit.under(&format!("[{key:?}]")))?;
        }
        out.push('}');
        Ok(())
    }
}

fn is_integer(token: &str) -> bool {
    token
        .bytes()
        .all(|byte| byte == b'-' || byte.is_ascii_digit())
}

/// Whether `omitempty` leaves the value out. A value of a wrong type is not zero: writing it tells.
fn is_zero(node: &Node<'_>, shape: &Shape) -> bool {
    match (&node.value, shape) {
        (Value::Boolean(false), Boolean) => true,
        (Value::Text(text), Text) => text.is_empty(),
        (Value::Number(token), Integer) => *token == "0" || *token == "-0",
        (Value::List(items), List(_)) => items.is_empty(),
        (Value::Object(members), Map(_)) => members.is_empty(),
        _ => false,
    }
}
