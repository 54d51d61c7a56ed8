//! From entries to the file, in pieces that are rendered once.

use super::{Device, Entry, Group, Prepared};
use crate::fnv::checksum;
use crate::json::write_text;

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
    out.push_str("],\"configState\":{\"mpsControlDaemonID\":");
    write_text(out, &group.mps_daemon_id);
    if let Some(is_applied) = group.time_slice_applied {
        out.push_str(",\"timeSliceApplied\":");
        out.push_str(if is_applied { "true" } else { "false" });
    }
    out.push_str("}}");
}

fn write_device(out: &mut String, device: &Device) {
    match &device.mig {
        None => {
            out.push_str("{\"gpu\":{\"info\":{\"uuid\":");
            write_text(out, &device.uuid);
            out.push_str("},");
            write_answer(out, device);
            out.push_str("},\"mig\":null}");
        }
        Some(mig) => {
            out.push_str("{\"gpu\":null,\"mig\":{\"concrete\":{");
            for (key, number) in [
                ("parentMinor", mig.parent_minor),
                ("giId", mig.gi_id),
                ("ciId", mig.ci_id),
            ] {
                out.push_str(&format!("\"{key}\":{number},"));
            }
            out.push_str("\"migUUID\":");
            write_text(out, &device.uuid);
            out.push_str(",\"parentUUID\":");
            write_text(out, &mig.parent_uuid);
            if !mig.parent_pci_bus_id.is_empty() {
                out.push_str(",\"parentPCIBusID\":");
                write_text(out, &mig.parent_pci_bus_id);
            }
            out.push_str("},");
            write_answer(out, device);
            out.push_str("}}");
        }
    }
}

/// What was answered to kubelet.
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
