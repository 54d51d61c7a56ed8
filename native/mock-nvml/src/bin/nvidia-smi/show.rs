//! Output: a list, a table, values by field.

use nvdra_mock_nvml::notation::address;
use nvdra_mock_nvml::portrait::Gpu;

use crate::node::Node;
use crate::settings::compute_mode;
use crate::{Failure, Outcome, misuse};

impl Node {
    /// A value as `--query-gpu` prints it.
    fn field(&self, index: usize, gpu: &Gpu, field: &str, with_units: bool) -> Outcome<String> {
        let model = &self.portrait.models[&gpu.model];
        let total = model.memory_total_bytes.as_ref().map(|bytes| bytes.value);
        let reserved = model
            .memory_reserved_bytes
            .as_ref()
            .map_or(0, |bytes| bytes.value);
        let mib = |bytes: Option<u64>| match bytes {
            Some(bytes) if with_units => format!("{} MiB", bytes >> 20),
            Some(bytes) => format!("{}", bytes >> 20),
            None => "[N/A]".into(),
        };
        let or_not_available = |text: Option<String>| text.unwrap_or_else(|| "[N/A]".into());
        Ok(match field {
            "index" => index.to_string(),
            "count" => self.visible()?.len().to_string(),
            "uuid" | "gpu_uuid" => self.portrait.uuid(gpu),
            "name" | "gpu_name" => model.name.value.clone(),
            "pci.bus_id" | "gpu_bus_id" => long_bus_id(gpu),
            "memory.total" => mib(total),
            "memory.used" => mib(total.map(|_| 0)),
            "memory.free" => mib(total.map(|total| total - reserved)),
            "memory.reserved" => mib(total.map(|_| reserved)),
            "driver_version" => self.location.driver_version(&self.portrait),
            "serial" | "gpu_serial" => {
                or_not_available(gpu.serial.as_ref().map(|serial| serial.value.clone()))
            }
            "minor_number" => gpu.minor.to_string(),
            "compute_cap" => format!(
                "{}.{}",
                model.compute_capability.value.0, model.compute_capability.value.1
            ),
            "compute_mode" => compute_mode(self, gpu)?,
            "persistence_mode" => "Enabled".into(),
            "mig.mode.current" | "mig.mode.pending" => {
                let state = self.partitioning(gpu)?;
                let is_on = if field.ends_with("current") {
                    state.mode
                } else {
                    state.pending
                };
                let word = if is_on { "Enabled" } else { "Disabled" };
                or_not_available(model.mig.as_ref().map(|_| word.into()))
            }
            "vbios_version" => {
                or_not_available(model.vbios.as_ref().map(|vbios| vbios.value.clone()))
            }
            _ => {
                return Err(Failure(
                    format!("Field \"{field}\" is not a valid field to query."),
                    2,
                ));
            }
        })
    }
}

pub fn long_bus_id(gpu: &Gpu) -> String {
    let (domain, bus, device, function) = address(&gpu.pci_bus_id.value).unwrap_or_default();
    format!("{domain:08X}:{bus:02X}:{device:02X}.{function}")
}

pub fn cuda_version(node: &Node) -> String {
    let version = node.portrait.cuda_version.value;
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

pub fn list(node: &Node) -> Outcome<String> {
    let mut text = String::new();
    for (index, gpu) in node.visible()?.into_iter().enumerate() {
        let name = &node.portrait.models[&gpu.model].name.value;
        text += &format!("GPU {index}: {name} (UUID: {})\n", node.portrait.uuid(gpu));
        for (at, (name, uuid)) in node.mig_devices(gpu)?.into_iter().enumerate() {
            text += &format!("  MIG {name:<11} Device {at:2}: (UUID: {uuid})\n");
        }
    }
    Ok(text)
}

pub fn version(node: &Node) -> String {
    let driver = node.location.driver_version(&node.portrait);
    let nvml: Vec<&str> = driver.split('.').take(2).collect();
    format!(
        "NVIDIA-SMI version  : {driver}\nNVML version        : {}\nDRIVER version      : {driver}\nCUDA Version        : {}\n",
        nvml.join("."),
        cuda_version(node)
    )
}

pub fn table(node: &Node) -> Outcome<String> {
    let driver = node.location.driver_version(&node.portrait);
    let rule = format!("+{}+\n", "-".repeat(91));
    let row = |text: String| format!("| {text:<89} |\n");
    let mut text = rule.clone();
    text += &row(format!(
        "NVIDIA-SMI {driver:<20} Driver Version: {driver:<20} CUDA Version: {}",
        cuda_version(node)
    ));
    text += &rule;
    text += &row(format!(
        "{:<4}{:<32}{:<20}{:>22}{:>8}",
        "GPU", "Name", "Bus-Id", "Memory-Usage", "MIG M."
    ));
    text += &rule;
    for (index, gpu) in node.visible()?.into_iter().enumerate() {
        let field = |name: &str| node.field(index, gpu, name, true);
        let memory = format!("{} / {}", field("memory.used")?, field("memory.total")?);
        let (name, mig) = (field("name")?, field("mig.mode.current")?);
        text += &row(format!(
            "{index:<4}{name:<32}{:<20}{memory:>22}{mig:>9}",
            long_bus_id(gpu)
        ));
    }
    Ok(text + &rule)
}

pub fn csv(node: &Node, chosen: &[(usize, &Gpu)], fields: &str, format: &str) -> Outcome<String> {
    let formats: Vec<&str> = format.split(',').collect();
    if !formats.contains(&"csv")
        || formats
            .iter()
            .any(|word| !["csv", "noheader", "nounits"].contains(word))
    {
        return Err(misuse(
            "--query-gpu needs --format=csv[,noheader][,nounits]",
        ));
    }
    let fields: Vec<&str> = fields.split(',').map(str::trim).collect();
    let with_units = !formats.contains(&"nounits");
    let mut text = String::new();
    if !formats.contains(&"noheader") {
        let titled = |field: &&str| {
            if with_units && field.starts_with("memory.") {
                format!("{field} [MiB]")
            } else {
                field.to_string()
            }
        };
        text += &(fields.iter().map(titled).collect::<Vec<_>>().join(", ") + "\n");
    }
    for (index, gpu) in chosen {
        let values: Outcome<Vec<String>> = fields
            .iter()
            .map(|field| node.field(*index, gpu, field, with_units))
            .collect();
        text += &(values?.join(", ") + "\n");
    }
    Ok(text)
}
