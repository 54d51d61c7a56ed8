//! The checkpoint file: read from any release, verified, and written as release v0.4.1 writes it.
//!
//! A file is accepted if a stored checksum matches the bytes as they are, or those bytes read into the releases'
//! structs and written again. What this driver does not build is kept as the text it was read as.

use std::collections::HashSet;

use crate::error::{Error, Kind, Result};
use crate::fnv::checksum;
use crate::json::{self, Node, Value, parse, utf8, write_compact, write_text};
use crate::shape::{CHECKPOINT, Style, V1, V2, marshal};

/// One allocation result as answered to kubelet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    pub uuid: String,
    pub requests: Vec<String>,
    pub pool: String,
    pub device: String,
    pub cdi_ids: Vec<String>,
    pub share_id: Option<String>,
}

/// Devices that share one config.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    pub devices: Vec<Device>,
    pub mps_daemon_id: String,
    pub time_slice_applied: Option<bool>,
    /// The group's own text, where it says more than the fields above; empty otherwise.
    pub verbatim: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prepared {
    Groups(Vec<Group>),
    /// Groups of kinds this driver does not build.
    Foreign {
        text: String,
        kinds: Vec<&'static str>,
        devices: Vec<Device>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub uid: String,
    pub is_completed: bool,
    pub status: String,
    pub prepared: Prepared,
    pub name: String,
    pub namespace: String,
    /// Members this release does not know, as `"key":value,"key":value`.
    pub unknown: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    pub boot_id: String,
    pub entries: Vec<Entry>,
    /// Keys outside the entries that the next write drops.
    pub left_out: Vec<String>,
}

/// An entry's text in both sections, rendered once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    uid: String,
    is_completed: bool,
    /// `"status":…[,"preparedDevices":…]`: what both sections say.
    body: String,
    /// `[,"name":…][,"namespace":…][,…]`: what only the second says.
    tail: String,
}

impl Fragment {
    #[must_use]
    pub fn render(entry: &Entry) -> Self {
        let mut body = String::with_capacity(entry.status.len() + 512);
        body.push_str("\"status\":");
        body.push_str(if entry.status.is_empty() {
            "{}"
        } else {
            &entry.status
        });
        match &entry.prepared {
            Prepared::Groups(groups) if groups.is_empty() => {}
            Prepared::Groups(groups) => {
                body.push_str(",\"preparedDevices\":[");
                for (index, group) in groups.iter().enumerate() {
                    if index > 0 {
                        body.push(',');
                    }
                    write_group(&mut body, group);
                }
                body.push(']');
            }
            Prepared::Foreign { text, .. } => {
                body.push_str(",\"preparedDevices\":");
                body.push_str(text);
            }
        }
        let mut tail = String::new();
        for (key, text) in [("name", &entry.name), ("namespace", &entry.namespace)] {
            if !text.is_empty() {
                tail.push_str(",\"");
                tail.push_str(key);
                tail.push_str("\":");
                write_text(&mut tail, text);
            }
        }
        if !entry.unknown.is_empty() {
            tail.push(',');
            tail.push_str(&entry.unknown);
        }
        Fragment {
            uid: entry.uid.clone(),
            is_completed: entry.is_completed,
            body,
            tail,
        }
    }

    #[must_use]
    pub fn size(&self) -> usize {
        self.body.len() + self.tail.len()
    }
}

fn write_texts(out: &mut String, texts: &[String]) {
    out.push('[');
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_text(out, text);
    }
    out.push(']');
}

fn write_group(out: &mut String, group: &Group) {
    if !group.verbatim.is_empty() {
        out.push_str(&group.verbatim);
        return;
    }
    out.push_str("{\"devices\":[");
    for (index, device) in group.devices.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str("{\"gpu\":{\"info\":{\"uuid\":");
        write_text(out, &device.uuid);
        out.push_str("},\"device\":{\"Requests\":");
        write_texts(out, &device.requests);
        out.push_str(",\"PoolName\":");
        write_text(out, &device.pool);
        out.push_str(",\"DeviceName\":");
        write_text(out, &device.device);
        out.push_str(",\"CDIDeviceIDs\":");
        write_texts(out, &device.cdi_ids);
        if let Some(share_id) = &device.share_id {
            out.push_str(",\"ShareID\":");
            write_text(out, share_id);
        }
        out.push_str("}},\"mig\":null}");
    }
    out.push_str("],\"configState\":{\"mpsControlDaemonID\":");
    write_text(out, &group.mps_daemon_id);
    if let Some(is_applied) = group.time_slice_applied {
        out.push_str(",\"timeSliceApplied\":");
        out.push_str(if is_applied { "true" } else { "false" });
    }
    out.push_str("}}");
}

/// The whole file. Entries come in any order and are written in the order of their UIDs.
#[must_use]
pub fn encode(fragments: &[&Fragment], boot_id: &str) -> String {
    let mut sorted: Vec<&Fragment> = fragments.to_vec();
    sorted.sort_unstable_by(|one, other| one.uid.cmp(&other.uid));
    let total: usize = sorted
        .iter()
        .map(|fragment| fragment.size() + 2 * fragment.uid.len() + 64)
        .sum();
    let mut first = String::with_capacity(total + 64);
    let mut second = String::with_capacity(total + 128);
    first.push('{');
    second.push_str(",\"preparedClaims\":{");
    let (mut in_first, mut in_second) = (0, 0);
    for fragment in sorted {
        if fragment.is_completed {
            first.push_str(if in_first == 0 {
                "\"preparedClaims\":{"
            } else {
                ","
            });
            write_text(&mut first, &fragment.uid);
            first.push_str(":{");
            first.push_str(&fragment.body);
            first.push('}');
            in_first += 1;
        }
        if in_second > 0 {
            second.push(',');
        }
        write_text(&mut second, &fragment.uid);
        second.push_str(":{\"checkpointState\":\"");
        second.push_str(if fragment.is_completed {
            "PrepareCompleted"
        } else {
            "PrepareStarted"
        });
        second.push_str("\",");
        second.push_str(&fragment.body);
        second.push_str(&fragment.tail);
        second.push('}');
        in_second += 1;
    }
    first.push_str(if in_first == 0 { "}" } else { "}}" });
    if in_second == 0 {
        second.clear();
    } else {
        second.push('}');
    }
    if !boot_id.is_empty() {
        second.push_str(",\"nodeBootID\":");
        write_text(&mut second, boot_id);
    }
    second.push('}');
    let outer = checksum(&["{\"checksum\":0,\"v1\":", &first, "}"]);
    let inner = checksum(&["{\"checksum\":0", &second]);
    format!("{{\"checksum\":{outer},\"v1\":{first},\"v2\":{{\"checksum\":{inner}{second}}}")
}

/// The record in a file of any release. Kinds of error: syntax, truncated, checksum, future.
pub fn decode(content: &[u8]) -> Result<Record> {
    let source = utf8(content)?;
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
    verify(&root, source)?;
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
    let source = utf8(content)?;
    marshal(
        &parse(source)?,
        source,
        &CHECKPOINT,
        Style::RELEASED,
        "checkpoint",
    )
}

fn strange(path: &str, wanted: &str, node: &Node<'_>) -> Error {
    Error::new(
        Kind::Future,
        format!(
            "{path}: {wanted} was expected, found {}: written by a later release?",
            node.noun()
        ),
    )
}

fn text_of(node: Option<&Node<'_>>, path: &str) -> Result<String> {
    match node.filter(|node| node.value != Value::Null) {
        None => Ok(String::new()),
        Some(node) => Ok(node
            .text()
            .ok_or_else(|| strange(path, "a string", node))?
            .to_owned()),
    }
}

/// Whether the stored checksums agree with the file, taken as it stands or as the releases would write it.
fn verify(root: &Node<'_>, source: &str) -> Result<()> {
    let stored = |node: &Node<'_>| match node.get("checksum").map(|node| &node.value) {
        Some(Value::Number(token)) => token.parse::<u32>().ok(),
        _ => None,
    };
    let rewritten = |node: &Node<'_>, shape, mps_id_always| {
        marshal(
            node,
            source,
            shape,
            Style {
                mps_id_always,
                zero_checksums: true,
            },
            "",
        )
        .ok()
    };
    let outer = |v1: &str| checksum(&["{\"checksum\":0,\"v1\":", v1, "}"]);
    let is_outer_true = match (root.get("v1"), stored(root)) {
        (_, None) => false,
        (None, Some(stored)) => stored == checksum(&["{\"checksum\":0}"]),
        (Some(v1), Some(stored)) => {
            stored == outer(v1.source(source))
                || [true, false].iter().any(|always| {
                    rewritten(v1, &V1, *always).is_some_and(|v1| stored == outer(&v1))
                })
        }
    };
    let is_inner_true = match root.get("v2") {
        None => true,
        Some(v2) => stored(v2).is_some_and(|stored| {
            let text = v2.source(source);
            let as_it_stands = v2.get("checksum").map(|node| {
                checksum(&[
                    &text[..node.start - v2.start],
                    "0",
                    &text[node.end - v2.start..],
                ])
            });
            as_it_stands == Some(stored)
                || [true, false].iter().any(|always| {
                    rewritten(v2, &V2, *always).is_some_and(|v2| stored == checksum(&[&v2]))
                })
        }),
    };
    if is_outer_true && is_inner_true {
        return Ok(());
    }
    Err(Error::new(Kind::Checksum, "checkpoint is corrupted"))
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

fn decode_prepared(node: &Node<'_>, source: &str, path: &str) -> Result<Prepared> {
    let mut groups = Vec::new();
    let mut texts = Vec::new();
    let mut kinds: Vec<&'static str> = Vec::new();
    let mut remember = |kind| {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    };
    for (index, item) in node
        .list()
        .ok_or_else(|| strange(path, "a list", node))?
        .iter()
        .enumerate()
    {
        let path = format!("{path}[{index}]");
        if item.members().is_none() {
            return Err(strange(&path, "an object", item));
        }
        let mut group = Group::default();
        let devices = match item.get("devices") {
            None => &[],
            Some(list) => list
                .list()
                .ok_or_else(|| strange(&format!("{path}.devices"), "a list", list))?,
        };
        for (index, device) in devices.iter().enumerate() {
            let path = format!("{path}.devices[{index}]");
            let (kind, device) = decode_device(device, &path)?;
            if kind != "gpu" {
                remember(kind);
            }
            group.devices.push(device);
        }
        if let Some(state) = item.get("configState") {
            let daemon = state.get("mpsControlDaemonID");
            group.mps_daemon_id =
                text_of(daemon, &format!("{path}.configState.mpsControlDaemonID"))?;
            if !group.mps_daemon_id.is_empty()
                || state
                    .get("mpsApplied")
                    .is_some_and(|node| node.value == Value::Boolean(true))
            {
                remember("mps");
            }
            group.time_slice_applied = match state
                .get("timeSliceApplied")
                .map(|node| (node, &node.value))
            {
                None => None,
                Some((_, Value::Boolean(is_applied))) => Some(*is_applied),
                Some((node, _)) => {
                    return Err(strange(
                        &format!("{path}.configState.timeSliceApplied"),
                        "a boolean",
                        node,
                    ));
                }
            };
        }
        let text = group_text(item, source);
        let mut rendered = String::with_capacity(text.len());
        write_group(&mut rendered, &group);
        if rendered != text {
            group.verbatim.clone_from(&text);
        }
        texts.push(text);
        groups.push(group);
    }
    if kinds.is_empty() {
        return Ok(Prepared::Groups(groups));
    }
    let devices = groups.into_iter().flat_map(|group| group.devices).collect();
    Ok(Prepared::Foreign {
        text: format!("[{}]", texts.join(",")),
        kinds,
        devices,
    })
}

/// The group's compact text, with the `mpsControlDaemonID` that one build between two releases left out when empty:
/// every release writes it, and checks the file by it.
fn group_text(group: &Node<'_>, source: &str) -> String {
    let mut text = String::with_capacity(group.end - group.start + 32);
    match group
        .get("configState")
        .map(|state| (state, state.members()))
    {
        Some((state, Some(members)))
            if !members.iter().any(|(key, _)| key == "mpsControlDaemonID") =>
        {
            write_compact(&mut text, &source[group.start..=state.start]);
            text.push_str("\"mpsControlDaemonID\":\"\"");
            if !members.is_empty() {
                text.push(',');
            }
            write_compact(&mut text, &source[state.start + 1..group.end]);
        }
        _ => write_compact(&mut text, group.source(source)),
    }
    text
}

/// A prepared device's kind, and what is known of it.
fn decode_device(node: &Node<'_>, path: &str) -> Result<(&'static str, Device)> {
    let (kind, record) = match (node.get("gpu"), node.get("mig"), node.get("vfio")) {
        (Some(gpu), None, None) => ("gpu", gpu),
        (None, Some(mig), None) => ("mig", mig),
        (None, None, Some(vfio)) => ("vfio", vfio),
        _ => {
            let text = format!(
                "{path}: none of gpu, mig and vfio, or several: written by a later release?"
            );
            return Err(Error::new(Kind::Future, text));
        }
    };
    let identity = match kind {
        "mig" => record
            .get("concrete")
            .and_then(|mig| mig.get("migUUID"))
            .or_else(|| record.get("info").and_then(|mig| mig.get("uuid"))),
        _ => record.get("info").and_then(|info| info.get("uuid")),
    };
    let device = record.get("device");
    let texts = |key: &str| -> Result<Vec<String>> {
        let Some(list) = device.and_then(|device| device.get(key)) else {
            return Ok(Vec::new());
        };
        let path = format!("{path}.{kind}.device.{key}");
        let items = list.list().ok_or_else(|| strange(&path, "a list", list))?;
        items
            .iter()
            .map(|item| text_of(Some(item), &path))
            .collect()
    };
    let text = |key: &str| {
        text_of(
            device.and_then(|device| device.get(key)),
            &format!("{path}.{kind}.device.{key}"),
        )
    };
    let share_id = device
        .and_then(|device| device.get("ShareID"))
        .is_some()
        .then(|| text("ShareID"))
        .transpose()?;
    let prepared = Device {
        uuid: text_of(identity, &format!("{path}.{kind}.info.uuid"))?,
        requests: texts("Requests")?,
        pool: text("PoolName")?,
        device: text("DeviceName")?,
        cdi_ids: texts("CDIDeviceIDs")?,
        share_id,
    };
    Ok((kind, prepared))
}

/// A JSON text indented for people.
pub fn indent(content: &[u8]) -> Result<String> {
    json::indent(utf8(content)?)
}
