//! Encodes entries into the file, in pieces that are rendered once.

use super::{Config, Device, Entry, Group, Info, Prepared, State};
use crate::fnv::checksum;
use crate::json::write_text;
use crate::time;

/// An entry's text in both sections, rendered once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fragment {
    uid: String,
    state: State,
    /// `"status":…[,"preparedDevices":…]`: the part of both sections.
    body: String,
    /// `[,"name":…][,"namespace":…][,"abortedAt":…][,…]`: the part of the second section only.
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
            Prepared::Unsupported { text, .. } => {
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
        if let Some(moment) = entry.aborted_at {
            tail.push_str(",\"abortedAt\":");
            write_text(&mut tail, &time::from_seconds(moment));
        }
        if !entry.unknown.is_empty() {
            tail.push(',');
            tail.push_str(&entry.unknown);
        }
        Fragment {
            uid: entry.uid.clone(),
            state: entry.state,
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

pub(super) fn write_group(out: &mut String, group: &Group) {
    if !group.verbatim.is_empty() {
        out.push_str(&group.verbatim);
        return;
    }
    out.push_str("{\"devices\":[");
    for (index, device) in group.devices.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_device(out, device);
    }
    out.push_str("],\"configState\":");
    match &group.config {
        Config::Gpu {
            mps_daemon_id,
            time_slice_applied,
        } => {
            out.push_str("{\"mpsControlDaemonID\":");
            write_text(out, mps_daemon_id);
            if let Some(is_applied) = time_slice_applied {
                out.push_str(",\"timeSliceApplied\":");
                out.push_str(if *is_applied { "true" } else { "false" });
            }
        }
        Config::Domain {
            config_type,
            domain,
        } => {
            out.push_str("{\"Type\":");
            write_text(out, config_type);
            out.push_str(",\"ComputeDomain\":");
            write_text(out, domain);
        }
    }
    out.push_str("}}");
}

fn write_device(out: &mut String, device: &Device) {
    let (before, after) = match &device.info {
        Info::Gpu { .. } => ("{\"gpu\":", ",\"mig\":null}"),
        Info::Mig(_) | Info::UnplacedMig { .. } => ("{\"gpu\":null,\"mig\":", "}"),
        Info::Vfio { .. } => ("{\"gpu\":null,\"mig\":null,\"vfio\":", "}"),
        Info::Channel { .. } => ("{\"channel\":", ",\"daemon\":null}"),
        Info::Daemon { .. } => ("{\"channel\":null,\"daemon\":", "}"),
    };
    out.push_str(before);
    write_info(out, &device.info);
    write_answer(out, device);
    out.push('}');
    out.push_str(after);
}

fn write_info(out: &mut String, info: &Info) {
    match info {
        Info::Gpu { uuid } | Info::UnplacedMig { uuid } => {
            out.push_str("{\"info\":{\"uuid\":");
            write_text(out, uuid);
        }
        Info::Mig(mig) => {
            out.push_str("{\"concrete\":{");
            for (key, number) in [
                ("parentMinor", mig.parent_minor),
                ("giId", mig.gi_id),
                ("ciId", mig.ci_id),
            ] {
                out.push_str(&format!("\"{key}\":{number},"));
            }
            out.push_str("\"migUUID\":");
            write_text(out, &mig.uuid);
            out.push_str(",\"parentUUID\":");
            write_text(out, &mig.parent_uuid);
            if !mig.parent_pci_bus_id.is_empty() {
                out.push_str(",\"parentPCIBusID\":");
                write_text(out, &mig.parent_pci_bus_id);
            }
        }
        Info::Vfio { uuid, pci_bus_id } => {
            out.push_str("{\"info\":{\"uuid\":");
            write_text(out, uuid);
            if !pci_bus_id.is_empty() {
                out.push_str(",\"pciBusID\":");
                write_text(out, pci_bus_id);
            }
        }
        Info::Channel { id } | Info::Daemon { id } => {
            out.push_str(&format!("{{\"info\":{{\"id\":{id}"));
        }
    }
    out.push_str("},");
}

/// The answer that kubelet got.
fn write_answer(out: &mut String, device: &Device) {
    out.push_str("\"device\":{\"Requests\":");
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
    if !device.metadata.is_empty() {
        out.push_str(",\"Metadata\":");
        out.push_str(&device.metadata);
    }
    out.push('}');
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
        if fragment.state == State::Completed {
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
        second.push_str(fragment.state.name());
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
