//! A stand-in for `nvidia-smi`: reads the portrait and the device nodes of the root it lies in, and nothing else.
//!
//! Linked statically, so that it runs in any container. Settings are accepted and written down, one line a run, in
//! `var/log/nvdra-mock-smi.log` of that root if it can be written.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use nvdra_mock_nvml::place::Place;
use nvdra_mock_nvml::portrait::{Gpu, Portrait, address};

const LOG: &str = "var/log/nvdra-mock-smi.log";
const HELP: &str = "\
nvidia-smi of the mock NVML

    nvidia-smi                                              a table of the GPUs
    nvidia-smi -L                                           one line a GPU
    nvidia-smi --version
    nvidia-smi [-i GPU] --query-gpu=FIELDS --format=csv[,noheader][,nounits]
        FIELDS: index, uuid, name, pci.bus_id, memory.total, memory.used, memory.free, driver_version, serial,
                minor_number, compute_cap, compute_mode, mig.mode.current, vbios_version
    nvidia-smi compute-policy -i GPU --set-timeslice N      accepted and written down
    nvidia-smi -i GPU -c MODE                               accepted and written down
    nvidia-smi -i GPU -pm 0|1                               accepted and written down

GPU is an index, a UUID or a PCI bus id.
";

/// What went wrong, and the exit status it gets: the real program's numbers.
struct Failure(String, u8);

type Outcome<T = ()> = Result<T, Failure>;

struct Node {
    place: Place,
    portrait: Portrait,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(text) => {
            // A reader that closed the pipe has seen enough.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(Failure(text, status)) => {
            let _ = writeln!(io::stdout(), "{text}");
            ExitCode::from(status)
        }
    }
}

fn run(arguments: &[String]) -> Outcome<String> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["-h" | "--help"] = words[..] {
        return Ok(HELP.into());
    }
    let node = node()?;
    match words[..] {
        [] => table(&node),
        ["-L" | "--list-gpus"] => list(&node),
        ["--version"] => Ok(version(&node)),
        ["compute-policy", ref rest @ ..] => compute_policy(&node, rest, arguments),
        ref rest => queried_or_set(&node, rest, arguments),
    }
}

fn node() -> Outcome<Node> {
    let failed = |why: &str| {
        let advice = "Make sure that the latest NVIDIA driver is installed and running.";
        let text = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.";
        Failure(format!("{text} {advice}\n(mock: {why})"), 9)
    };
    let program = fs::read_link("/proc/self/exe")
        .map_err(|error| failed(&format!("/proc/self/exe: {error}")))?;
    let place =
        Place::of_program(&program).ok_or_else(|| failed("no libnvidia-ml.so.1 in this root"))?;
    let portrait = place.portrait().map_err(|error| failed(&error))?;
    Ok(Node { place, portrait })
}

impl Node {
    fn visible(&self) -> Outcome<Vec<&Gpu>> {
        let gpus = self.place.visible(&self.portrait);
        if gpus.is_empty() {
            Err(Failure("No devices were found".into(), 6))
        } else {
            Ok(gpus)
        }
    }

    /// The GPUs chosen by `-i`, with their indices; all without it.
    fn chosen(&self, choice: Option<&str>) -> Outcome<Vec<(usize, &Gpu)>> {
        let all: Vec<(usize, &Gpu)> = self.visible()?.into_iter().enumerate().collect();
        let Some(choice) = choice else { return Ok(all) };
        let is_it = |index: usize, gpu: &Gpu| {
            choice.parse() == Ok(index)
                || self.portrait.uuid(gpu) == choice
                || (choice.contains(':') && address(choice) == address(&gpu.pci_bus_id.value))
        };
        let found: Vec<_> = all
            .into_iter()
            .filter(|(index, gpu)| is_it(*index, gpu))
            .collect();
        if found.is_empty() {
            Err(Failure(format!("No devices were found for {choice:?}"), 6))
        } else {
            Ok(found)
        }
    }

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
            "driver_version" => self.place.driver_version(&self.portrait),
            "serial" | "gpu_serial" => {
                or_not_available(gpu.serial.as_ref().map(|serial| serial.value.clone()))
            }
            "minor_number" => gpu.minor.to_string(),
            "compute_cap" => format!(
                "{}.{}",
                model.compute_capability.value.0, model.compute_capability.value.1
            ),
            "compute_mode" => "Default".into(),
            "persistence_mode" => "Enabled".into(),
            "mig.mode.current" | "mig.mode.pending" => {
                or_not_available(model.mig.as_ref().map(|_| "Disabled".into()))
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

    fn write_down(&self, arguments: &[String]) {
        let file = self.place.root.join(LOG);
        // A root that cannot be written is as good as any other; what was asked for is then not kept.
        let _ = fs::create_dir_all(file.parent().unwrap_or(Path::new("/")));
        if let Ok(mut log) = OpenOptions::new().create(true).append(true).open(file) {
            let _ = log.write_all(format!("{}\n", arguments.join(" ")).as_bytes());
        }
    }
}

fn long_bus_id(gpu: &Gpu) -> String {
    let (domain, bus, device, function) = address(&gpu.pci_bus_id.value).unwrap_or_default();
    format!("{domain:08X}:{bus:02X}:{device:02X}.{function}")
}

fn cuda_version(node: &Node) -> String {
    let version = node.portrait.cuda_version.value;
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn list(node: &Node) -> Outcome<String> {
    let line = |(index, gpu): (usize, &&Gpu)| {
        let name = &node.portrait.models[&gpu.model].name.value;
        format!("GPU {index}: {name} (UUID: {})\n", node.portrait.uuid(gpu))
    };
    Ok(node.visible()?.iter().enumerate().map(line).collect())
}

fn version(node: &Node) -> String {
    let driver = node.place.driver_version(&node.portrait);
    let nvml: Vec<&str> = driver.split('.').take(2).collect();
    format!(
        "NVIDIA-SMI version  : {driver}\nNVML version        : {}\nDRIVER version      : {driver}\nCUDA Version        : {}\n",
        nvml.join("."),
        cuda_version(node)
    )
}

fn table(node: &Node) -> Outcome<String> {
    let driver = node.place.driver_version(&node.portrait);
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

fn compute_policy(node: &Node, words: &[&str], arguments: &[String]) -> Outcome<String> {
    let (mut choice, mut slice) = (None, None);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let (name, attached) = word
            .split_once('=')
            .map_or((*word, None), |(name, value)| (name, Some(value)));
        match name {
            "-i" | "--id" => choice = attached.or_else(|| rest.next().copied()),
            "--set-timeslice" => slice = attached.or_else(|| rest.next().copied()),
            _ => return Err(misuse(&format!("compute-policy has no option {word:?}"))),
        }
    }
    match slice.map(str::parse::<u32>) {
        Some(Ok(0..=3)) => {}
        Some(_) => {
            return Err(misuse(
                "--set-timeslice takes 0 (default), 1 (short), 2 (medium) or 3 (long)",
            ));
        }
        None => return Err(misuse("compute-policy needs --set-timeslice")),
    }
    let chosen = node.chosen(choice)?;
    node.write_down(arguments);
    let line = |(_, gpu): &(usize, &Gpu)| {
        format!(
            "Successfully set Timeslice policy for GPU {} to {}.\n",
            long_bus_id(gpu),
            slice.unwrap_or_default()
        )
    };
    Ok(chosen.iter().map(line).collect())
}

fn queried_or_set(node: &Node, words: &[&str], arguments: &[String]) -> Outcome<String> {
    let (mut choice, mut query, mut format, mut setting) = (None, None, None, None);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let (name, attached) = word
            .split_once('=')
            .map_or((*word, None), |(name, value)| (name, Some(value)));
        let mut value = || {
            attached
                .or_else(|| rest.next().copied())
                .ok_or_else(|| misuse(&format!("{name} needs a value")))
        };
        match name {
            "-i" | "--id" => choice = Some(value()?),
            "--query-gpu" => query = Some(value()?),
            "--format" => format = Some(value()?),
            "-c" | "--compute-mode" => setting = Some(("compute mode", value()?)),
            "-pm" | "--persistence-mode" => setting = Some(("persistence mode", value()?)),
            _ => {
                return Err(misuse(&format!(
                    "{word:?} is not an option of this stand-in"
                )));
            }
        }
    }
    let chosen = node.chosen(choice)?;
    match (query, setting) {
        (Some(fields), None) => csv(node, &chosen, fields, format.unwrap_or_default()),
        (None, Some((what, value))) => {
            let known = if what == "compute mode" {
                [
                    "0",
                    "1",
                    "2",
                    "3",
                    "DEFAULT",
                    "EXCLUSIVE_THREAD",
                    "PROHIBITED",
                    "EXCLUSIVE_PROCESS",
                ]
                .contains(&value)
            } else {
                ["0", "1", "ENABLED", "DISABLED"].contains(&value)
            };
            if !known {
                return Err(misuse(&format!("{value:?} is no {what}")));
            }
            node.write_down(arguments);
            let line = |(_, gpu): &(usize, &Gpu)| {
                format!("Set {what} to {value} for GPU {}.\n", long_bus_id(gpu))
            };
            Ok(chosen.iter().map(line).collect::<String>() + "All done.\n")
        }
        _ => Err(misuse("nothing to do, or too much at once")),
    }
}

fn csv(node: &Node, chosen: &[(usize, &Gpu)], fields: &str, format: &str) -> Outcome<String> {
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

fn misuse(what: &str) -> Failure {
    Failure(
        format!(
            "Invalid combination of input arguments: {what}. Please run 'nvidia-smi -h' for help."
        ),
        2,
    )
}
