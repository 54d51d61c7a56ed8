//! The prepared devices of an entry: groups that the reader supports, or unsupported text.

use super::decode::{Reader, strange, text_of};
use super::encode::write_group;
use super::{Config, Device, Driver, Group, Info, Mig, Prepared};
use crate::error::{Error, Kind, Result};
use crate::json::{Node, Value, write_compact};

impl Reader<'_> {
    pub(super) fn prepared(&self, node: &Node<'_>, path: &str) -> Result<Prepared> {
        let mut groups = Vec::new();
        let mut texts = Vec::new();
        let mut kinds: Vec<&'static str> = Vec::new();
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
            let (mut group, has_mps) = self.group(item, &path)?;
            let found = group.devices.iter().map(|device| match device.info {
                // Whatever the reader supports: nobody can destroy it by what the file says.
                Info::UnplacedMig { .. } => ("mig", true),
                Info::Vfio { .. } => ("vfio", self.lacks("vfio")),
                _ => ("", false),
            });
            for (kind, is_foreign) in found.chain([("mps", has_mps && self.lacks("mps"))]) {
                if is_foreign && !kinds.contains(&kind) {
                    kinds.push(kind);
                }
            }
            let text = self.group_text(item);
            let mut rendered = String::with_capacity(text.len());
            write_group(&mut rendered, &group);
            // The keys of v25.3.0-rc.2 are not kept: no release after it reads them.
            if rendered != text && !self.is_rc2 {
                group.verbatim.clone_from(&text);
            }
            texts.push(text);
            groups.push(group);
        }
        if kinds.is_empty() {
            return Ok(Prepared::Groups(groups));
        }
        let devices = groups.into_iter().flat_map(|group| group.devices).collect();
        Ok(Prepared::Unsupported {
            text: format!("[{}]", texts.join(",")),
            kinds,
            devices,
        })
    }

    fn lacks(&self, kind: &str) -> bool {
        self.unsupported.iter().any(|lacking| lacking == kind)
    }

    /// A group without its text, and whether an MPS daemon serves it.
    fn group(&self, item: &Node<'_>, path: &str) -> Result<(Group, bool)> {
        let devices = match item.get("devices") {
            None => &[],
            Some(list) => list
                .list()
                .ok_or_else(|| strange(&format!("{path}.devices"), "a list", list))?,
        };
        let devices = devices
            .iter()
            .enumerate()
            .map(|(index, device)| self.device(device, &format!("{path}.devices[{index}]")))
            .collect::<Result<_>>()?;
        let state = item.get("configState");
        let word = |key: &str| {
            text_of(
                state.and_then(|state| state.get(key)),
                &format!("{path}.configState.{key}"),
            )
        };
        let flag = |key: &str| match state.and_then(|state| state.get(key)) {
            None => Ok(None),
            Some(node) => match node.value {
                Value::Boolean(is_set) => Ok(Some(is_set)),
                _ => Err(strange(
                    &format!("{path}.configState.{key}"),
                    "a boolean",
                    node,
                )),
            },
        };
        let (config, has_mps) = match self.driver {
            Driver::Domain => {
                let (config_type, domain) = (word("Type")?, word("ComputeDomain")?);
                let config = Config::Domain {
                    config_type,
                    domain,
                };
                (config, false)
            }
            Driver::Gpu => {
                let mps_daemon_id = word("mpsControlDaemonID")?;
                let has_mps = !mps_daemon_id.is_empty() || flag("mpsApplied")? == Some(true);
                let config = Config::Gpu {
                    mps_daemon_id,
                    time_slice_applied: flag("timeSliceApplied")?,
                };
                (config, has_mps)
            }
        };
        let group = Group {
            devices,
            config,
            verbatim: String::new(),
        };
        Ok((group, has_mps))
    }

    /// The group's compact text, with the `mpsControlDaemonID` that one build between two releases left out when empty:
    /// every release writes it, and checks the file by it.
    fn group_text(&self, group: &Node<'_>) -> String {
        let mut text = String::with_capacity(group.end - group.start + 32);
        match group
            .get("configState")
            .map(|state| (state, state.members()))
        {
            Some((state, Some(members)))
                if self.driver == Driver::Gpu
                    && !members.iter().any(|(key, _)| key == "mpsControlDaemonID") =>
            {
                write_compact(&mut text, &self.source[group.start..=state.start]);
                text.push_str("\"mpsControlDaemonID\":\"\"");
                if !members.is_empty() {
                    text.push(',');
                }
                write_compact(&mut text, &self.source[state.start + 1..group.end]);
            }
            _ => write_compact(&mut text, group.source(self.source)),
        }
        text
    }

    fn device(&self, node: &Node<'_>, path: &str) -> Result<Device> {
        let (kind, record) = self.kind(node, path)?;
        let path = format!("{path}.{kind}");
        let info = match kind {
            "channel" => Info::Channel {
                id: role_id(record, &path)?,
            },
            "daemon" => Info::Daemon {
                id: role_id(record, &path)?,
            },
            "mig" => mig(record, &path)?,
            "vfio" => Info::Vfio {
                uuid: info_text(record, "uuid", &path)?,
                pci_bus_id: info_text(record, "pciBusID", &path)?,
            },
            _ => Info::Gpu {
                uuid: info_text(record, "uuid", &path)?,
            },
        };
        let device = record.get("device");
        let member = |key: &str| {
            let key = if self.is_rc2 { rc2_key(key) } else { key };
            device.and_then(|device| device.get(key))
        };
        let texts = |key: &str| -> Result<Vec<String>> {
            let Some(list) = member(key) else {
                return Ok(Vec::new());
            };
            let path = format!("{path}.device.{key}");
            let items = list.list().ok_or_else(|| strange(&path, "a list", list))?;
            items
                .iter()
                .map(|item| text_of(Some(item), &path))
                .collect()
        };
        let text = |key: &str| text_of(member(key), &format!("{path}.device.{key}"));
        let mut metadata = String::new();
        if let Some(node) = member("Metadata") {
            write_compact(&mut metadata, node.source(self.source));
        }
        Ok(Device {
            info,
            requests: texts("Requests")?,
            pool: text("PoolName")?,
            device: text("DeviceName")?,
            cdi_ids: texts("CDIDeviceIDs")?,
            share_id: member("ShareID")
                .is_some()
                .then(|| text("ShareID"))
                .transpose()?,
            metadata,
        })
    }

    /// The device's kind and its description, from the only member that is present.
    fn kind<'n, 'a>(&self, node: &'n Node<'a>, path: &str) -> Result<(&'static str, &'n Node<'a>)> {
        let (known, nouns): (&[&'static str], _) = match self.driver {
            Driver::Gpu => (&["gpu", "mig", "vfio"], "gpu, mig and vfio"),
            Driver::Domain => (&["channel", "daemon"], "channel and daemon"),
        };
        let mut found = known
            .iter()
            .filter_map(|kind| Some((*kind, node.get(kind)?)));
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(Error::new(
                Kind::Future,
                format!("{path}: none of {nouns}, or several: written by a later release?"),
            )),
        }
    }
}

/// What v25.3.0-rc.2 called a member of a device as answered to kubelet.
fn rc2_key(key: &str) -> &str {
    match key {
        "Requests" => "request_names",
        "PoolName" => "pool_name",
        "DeviceName" => "device_name",
        "CDIDeviceIDs" => "cdi_device_ids",
        _ => key,
    }
}

fn info_text(record: &Node<'_>, key: &str, path: &str) -> Result<String> {
    text_of(
        record.get("info").and_then(|info| info.get(key)),
        &format!("{path}.info.{key}"),
    )
}

/// The number of a channel or of a daemon.
fn role_id(record: &Node<'_>, path: &str) -> Result<u32> {
    let id = record.get("info").and_then(|info| info.get("id"));
    match id.map(|id| &id.value) {
        Some(Value::Number(token)) => token.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| strange(&format!("{path}.info.id"), "an index", id.unwrap_or(record)))
}

/// A MIG device, with a placement only if the file has all ids, because rollback destroys it by these ids. Releases
/// before v25.12 use another form.
fn mig(record: &Node<'_>, path: &str) -> Result<Info> {
    let uuid = match record.get("concrete").and_then(|mig| mig.get("migUUID")) {
        Some(uuid) => text_of(Some(uuid), &format!("{path}.concrete.migUUID"))?,
        None => info_text(record, "uuid", path)?,
    };
    Ok(match placed(record, &uuid) {
        Some(mig) => Info::Mig(mig),
        None => Info::UnplacedMig { uuid },
    })
}

fn placed(record: &Node<'_>, uuid: &str) -> Option<Mig> {
    let concrete = record.get("concrete")?;
    let number = |key| match concrete.get(key)?.value {
        Value::Number(token) => token.parse().ok(),
        _ => None,
    };
    concrete.get("migUUID")?;
    Some(Mig {
        uuid: uuid.to_owned(),
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
