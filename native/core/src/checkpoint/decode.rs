//! Decodes a checkpoint file.

use std::collections::HashSet;

use super::verify::verify;
use super::{Checkpoint, Driver, Entry, Prepared, State};
use crate::error::{Error, Kind, Result};
use crate::json::{self, Node, Value, parse, text, write_compact, write_text};
use crate::shape::{Style, marshal};
use crate::time;

/// The checkpoint in a file of `driver`, of any release. Kinds of error: syntax, truncated, checksum, future.
///
/// Entries with a device of an `unsupported` kind ("vfio", or "mps" for its group) are unsupported.
pub fn decode(content: &[u8], driver: Driver, unsupported: &[String]) -> Result<Checkpoint> {
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
        // The first section alone is a complete checkpoint only where nothing newer stands beside it.
        let found = left_out.join(", ");
        return Err(Error::new(
            Kind::Future,
            format!("v2 is not there, but {found} is: written by a later release?"),
        ));
    }
    verify(&root, source, content, driver)?;
    let reader = Reader {
        source,
        driver,
        unsupported,
        is_rc2: false,
    };
    let mut checkpoint = Checkpoint::default();
    let (section, name) = match (v1, v2) {
        (_, Some(v2)) => (v2, "v2"),
        (Some(v1), None) => (v1, "v1"),
        (None, None) => return Ok(checkpoint),
    };
    for (key, member) in section
        .members()
        .ok_or_else(|| strange(name, "an object", section))?
    {
        match (&**key, name) {
            ("checksum", "v2") => {}
            ("nodeBootID", "v2") => checkpoint.boot_id = text_of(Some(member), "v2.nodeBootID")?,
            ("preparedClaims", _) if member.value == Value::Null => {}
            ("preparedClaims", _) => {
                let path = format!("{name}.preparedClaims");
                let mut seen = HashSet::new();
                for (uid, entry) in member
                    .members()
                    .ok_or_else(|| strange(&path, "an object", member))?
                {
                    let entry = reader.entry(uid, entry, name)?;
                    if !seen.insert(uid) {
                        // Of equal keys the last one counts.
                        checkpoint
                            .entries
                            .retain(|earlier| earlier.uid != entry.uid);
                    }
                    checkpoint.entries.push(entry);
                }
            }
            _ => left_out.push(format!("{name}.{key}")),
        }
    }
    checkpoint.left_out = left_out;
    Ok(checkpoint)
}

/// The file as the Go releases would rewrite it, with its stored checksums: the other side of the diff for users.
pub fn remarshal(content: &[u8], driver: Driver) -> Result<String> {
    let source = text(content);
    marshal(
        &parse(&source)?,
        &source,
        &driver.sections().file,
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

/// How the entries of one file are read.
///
/// is_rc2   the claim is a list of groups, as v25.3.0-rc.2 of the compute-domain plugin wrote it
#[derive(Clone, Copy)]
pub(super) struct Reader<'s> {
    pub source: &'s str,
    pub driver: Driver,
    pub unsupported: &'s [String],
    pub is_rc2: bool,
}

impl Reader<'_> {
    fn entry(&self, uid: &str, node: &Node<'_>, section: &str) -> Result<Entry> {
        let path = format!("{section}.preparedClaims[\"{uid}\"]");
        if section == "v1" && self.driver == Driver::Domain && node.list().is_some() {
            return self.rc2_entry(uid, node, &path);
        }
        let members = node
            .members()
            .ok_or_else(|| strange(&path, "an object", node))?;
        let mut unknown = String::new();
        for (key, member) in members {
            let is_known = match &**key {
                "checkpointState" | "status" | "preparedDevices" | "name" | "namespace" => true,
                "abortedAt" => self.driver.can_abort(),
                _ => false,
            };
            if !is_known {
                if !unknown.is_empty() {
                    unknown.push(',');
                }
                write_text(&mut unknown, key);
                unknown.push(':');
                write_compact(&mut unknown, member.source(self.source));
            }
        }
        let mut status = String::new();
        match node.get("status") {
            None => status.push_str("{}"),
            Some(node) if node.members().is_none() => {
                return Err(strange(&format!("{path}.status"), "an object", node));
            }
            Some(node) => write_compact(&mut status, node.source(self.source)),
        }
        let prepared = match node.get("preparedDevices") {
            None => Prepared::Groups(Vec::new()),
            Some(groups) => self.prepared(groups, &format!("{path}.preparedDevices"))?,
        };
        Ok(Entry {
            uid: uid.to_owned(),
            state: self.state(node, section, &path)?,
            status,
            prepared,
            name: text_of(node.get("name"), &format!("{path}.name"))?,
            namespace: text_of(node.get("namespace"), &format!("{path}.namespace"))?,
            aborted_at: self.aborted_at(node, &path)?,
            unknown,
        })
    }

    /// The entry that the Go driver makes of such a list: completed, without status, name and namespace.
    fn rc2_entry(&self, uid: &str, node: &Node<'_>, path: &str) -> Result<Entry> {
        let reader = Reader {
            is_rc2: true,
            ..*self
        };
        Ok(Entry {
            uid: uid.to_owned(),
            state: State::Completed,
            status: "{}".to_owned(),
            prepared: reader.prepared(node, path)?,
            name: String::new(),
            namespace: String::new(),
            aborted_at: None,
            unknown: String::new(),
        })
    }

    fn state(&self, node: &Node<'_>, section: &str, path: &str) -> Result<State> {
        let name = text_of(
            node.get("checkpointState"),
            &format!("{path}.checkpointState"),
        )?;
        match State::named(&name) {
            _ if section == "v1" => Ok(State::Completed),
            Some(state) if state != State::Aborted || self.driver.can_abort() => Ok(state),
            _ => Err(Error::new(
                Kind::Future,
                format!("{path}: unknown checkpointState {name:?}: written by a later release?"),
            )),
        }
    }

    fn aborted_at(&self, node: &Node<'_>, path: &str) -> Result<Option<i64>> {
        let Some(node) = node.get("abortedAt").filter(|_| self.driver.can_abort()) else {
            return Ok(None);
        };
        let moment = node
            .text()
            .and_then(time::seconds)
            .ok_or_else(|| strange(&format!("{path}.abortedAt"), "a time", node))?;
        Ok(Some(moment).filter(|moment| *moment != time::ZERO))
    }
}

/// A JSON text indented for people.
pub fn indent(content: &[u8]) -> Result<String> {
    json::indent(&text(content))
}
