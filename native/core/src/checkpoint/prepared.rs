//! What an entry says of its prepared devices: groups of this driver's kinds, or foreign text.

use super::decode::{strange, text_of};
use super::encode::write_group;
use super::{Device, Group, Mig, Prepared};
use crate::error::{Error, Kind, Result};
use crate::json::{Node, Value, write_compact};

pub(super) fn decode_prepared(node: &Node<'_>, source: &str, path: &str) -> Result<Prepared> {
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
            if kind != "gpu" && device.mig.is_none() {
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
        mig: (kind == "mig").then(|| decode_mig(record)).flatten(),
    };
    Ok((kind, prepared))
}

/// Where the MIG device lies; None unless all of it is said, for it may be destroyed by these ids. Releases before
/// v25.12 say it in another form.
fn decode_mig(record: &Node<'_>) -> Option<Mig> {
    let concrete = record.get("concrete")?;
    let number = |key| match concrete.get(key)?.value {
        Value::Number(token) => token.parse().ok(),
        _ => None,
    };
    concrete.get("migUUID")?;
    Some(Mig {
        parent_minor: number("parentMinor")?,
        parent_uuid: concrete.get("parentUUID")?.text()?.to_owned(),
        gi_id: number("giId")?,
        ci_id: number("ciId")?,
        parent_pci_bus_id: match concrete.get("parentPCIBusID") {
            None => String::new(),
            Some(node) => node.text()?.to_owned(),
        },
    })
}
