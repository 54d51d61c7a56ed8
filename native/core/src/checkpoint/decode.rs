//! From the file to a record.

use std::collections::HashSet;

use super::prepared::decode_prepared;
use super::verify::verify;
use super::{Entry, Prepared, Record};
use crate::error::{Error, Kind, Result};
use crate::json::{self, Node, Value, parse, text, write_compact, write_text};
use crate::shape::{CHECKPOINT, Style, marshal};

/// The record in a file of any release. Kinds of error: syntax, truncated, checksum, future.
pub fn decode(content: &[u8]) -> Result<Record> {
    let text = text(content);
    let source = &*text;
    let root = parse(source)?;
    let Some(members) = root.members() else {
        return Err(Error::new(
            Kind::Future,
            format!("not a checkpoint: the file holds {}", root.noun()),
        ));
    };
    let (v1, v2) = (root.get("v1"), root.get("v2"));
    let unknown = members
        .iter()
        .filter(|(key, _)| !matches!(&**key, "checksum" | "v1" | "v2"));
    let mut left_out: Vec<String> = unknown.map(|(key, _)| key.to_string()).collect();
    if v2.is_none() && !left_out.is_empty() {
        // The first section alone is a complete record only where nothing newer stands beside it.
        let found = left_out.join(", ");
        return Err(Error::new(
            Kind::Future,
            format!("v2 is not there, but {found} is: written by a later release?"),
        ));
    }
    verify(&root, source, content)?;
    let mut record = Record::default();
    let (section, name) = match (v1, v2) {
        (_, Some(v2)) => (v2, "v2"),
        (Some(v1), None) => (v1, "v1"),
        (None, None) => return Ok(record),
    };
    for (key, member) in section
        .members()
        .ok_or_else(|| strange(name, "an object", section))?
    {
        match (&**key, name) {
            ("checksum", "v2") => {}
            ("nodeBootID", "v2") => record.boot_id = text_of(Some(member), "v2.nodeBootID")?,
            ("preparedClaims", _) if member.value == Value::Null => {}
            ("preparedClaims", _) => {
                let path = format!("{name}.preparedClaims");
                let mut seen = HashSet::new();
                for (uid, entry) in member
                    .members()
                    .ok_or_else(|| strange(&path, "an object", member))?
                {
                    let entry = decode_entry(uid, entry, source, name)?;
                    if !seen.insert(uid) {
                        // Of equal keys the last one counts.
                        record.entries.retain(|earlier| earlier.uid != entry.uid);
                    }
                    record.entries.push(entry);
                }
            }
            _ => left_out.push(format!("{name}.{key}")),
        }
    }
    record.left_out = left_out;
    Ok(record)
}

/// The file as the releases would write it, checksums as they are stored: the other side of the diff for people.
pub fn remarshal(content: &[u8]) -> Result<String> {
    let source = text(content);
    marshal(
        &parse(&source)?,
        &source,
        &CHECKPOINT,
        Style::RELEASED,
        "checkpoint",
    )
}

pub(super) fn strange(path: &str, wanted: &str, node: &Node<'_>) -> Error {
    Error::new(
        Kind::Future,
        format!(
            "{path}: {wanted} was expected, found {}: written by a later release?",
            node.noun()
        ),
    )
}

pub(super) fn text_of(node: Option<&Node<'_>>, path: &str) -> Result<String> {
    match node.filter(|node| node.value != Value::Null) {
        None => Ok(String::new()),
        Some(node) => Ok(node
            .text()
            .ok_or_else(|| strange(path, "a string", node))?
            .to_owned()),
    }
}

fn decode_entry(uid: &str, node: &Node<'_>, source: &str, section: &str) -> Result<Entry> {
    let path = format!("{section}.preparedClaims[\"{uid}\"]");
    let members = node
        .members()
        .ok_or_else(|| strange(&path, "an object", node))?;
    let mut unknown = String::new();
    for (key, member) in members {
        if !matches!(
            &**key,
            "checkpointState" | "status" | "preparedDevices" | "name" | "namespace"
        ) {
            if !unknown.is_empty() {
                unknown.push(',');
            }
            write_text(&mut unknown, key);
            unknown.push(':');
            write_compact(&mut unknown, member.source(source));
        }
    }
    let is_completed = match (
        section,
        &*text_of(
            node.get("checkpointState"),
            &format!("{path}.checkpointState"),
        )?,
    ) {
        ("v1", _) | (_, "PrepareCompleted") => true,
        (_, "PrepareStarted") => false,
        (_, state) => {
            let text =
                format!("{path}: unknown checkpointState {state:?}: written by a later release?");
            return Err(Error::new(Kind::Future, text));
        }
    };
    let mut status = String::new();
    match node.get("status") {
        None => status.push_str("{}"),
        Some(node) if node.members().is_none() => {
            return Err(strange(&format!("{path}.status"), "an object", node));
        }
        Some(node) => write_compact(&mut status, node.source(source)),
    }
    let prepared = match node.get("preparedDevices") {
        None => Prepared::Groups(Vec::new()),
        Some(groups) => decode_prepared(groups, source, &format!("{path}.preparedDevices"))?,
    };
    Ok(Entry {
        uid: uid.to_owned(),
        is_completed,
        status,
        prepared,
        name: text_of(node.get("name"), &format!("{path}.name"))?,
        namespace: text_of(node.get("namespace"), &format!("{path}.namespace"))?,
        unknown,
    })
}

/// A JSON text indented for people.
pub fn indent(content: &[u8]) -> Result<String> {
    json::indent(&text(content))
}
