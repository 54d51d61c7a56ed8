//! Stand-ins for `nvidia-smi` and, under that name, `nvidia-modprobe`: they read the portrait and the device nodes of
//! the root they lie in, and nothing else.
//!
//! Linked statically, so that they run in any container. A run that lists or changes settings is written down before
//! anything else is done, one line a run, in `var/log/nvdra-mock-smi.log` of that root if it can be written.

mod mig;
mod modprobe;
mod node;
mod settings;
mod show;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use nvdra_mock_nvml::portrait::Gpu;

use crate::node::Node;
use crate::show::{csv, list, long_bus_id, table, version};

const HELP: &str = "\
nvidia-smi of the mock NVML

    nvidia-smi                                              a table of the GPUs
    nvidia-smi -L                                           one line a GPU
    nvidia-smi --version
    nvidia-smi [-i GPU] --query-gpu=FIELDS --format=csv[,noheader][,nounits]
        FIELDS: index, uuid, name, pci.bus_id, memory.total, memory.used, memory.free, driver_version, serial,
                minor_number, compute_cap, compute_mode, mig.mode.current, mig.mode.pending, vbios_version
    nvidia-smi [-i GPU] -mig 0|1                            changes the MIG mode
    nvidia-smi [-i GPU] --gpu-reset                         a pending MIG mode counts, partitions are gone
    nvidia-smi mig [-i GPU] -lgip | -lgi | -lci             lists what could be made; GPU, compute instances
    nvidia-smi mig [-i GPU] -cgi PROFILE[:START][,…] [-C]   makes GPU instances, with -C a compute instance in each
    nvidia-smi mig [-i GPU] -cci PROFILE_ID -gi ID          makes a compute instance
    nvidia-smi mig [-i GPU] -dci|-dgi [-gi ID] [-ci ID]     destroys compute, GPU instances
    nvidia-smi compute-policy [-i GPU] -l                   lists time slices
    nvidia-smi compute-policy [-i GPU] --set-timeslice N    0 default, 1 short, 2 medium, 3 long
    nvidia-smi [-i GPU] -c MODE                             DEFAULT, PROHIBITED, EXCLUSIVE_PROCESS, or the number
    nvidia-smi [-i GPU] -pm 0|1                             accepted, and forgotten

GPU is an index, a UUID or a PCI bus id; several with commas between.
";

/// What went wrong, and the exit status it gets: the real program's numbers.
struct Failure(String, u8);

type Outcome<T = ()> = Result<T, Failure>;

fn main() -> ExitCode {
    let mut words = std::env::args();
    let name = words.next().unwrap_or_default();
    let arguments: Vec<String> = words.collect();
    let outcome = if Path::new(&name).ends_with("nvidia-modprobe") {
        modprobe::run(&arguments)
    } else {
        run(&arguments)
    };
    match outcome {
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
    let node = Node::here()?;
    match words[..] {
        [] => table(&node),
        ["-L" | "--list-gpus"] => list(&node),
        ["--version"] => Ok(version(&node)),
        ["mig", ref rest @ ..] => mig::run(&node, rest),
        ["compute-policy", ref rest @ ..] => {
            node.write_down(arguments);
            settings::compute_policy(&node, rest)
        }
        ref rest => queried_or_set(&node, rest, arguments),
    }
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
            "-mig" | "--multi-instance-gpu" => setting = Some(("MIG mode", value()?)),
            "-r" | "--gpu-reset" => setting = Some(("reset", "")),
            "-pm" | "--persistence-mode" => setting = Some(("persistence mode", value()?)),
            _ => {
                return Err(misuse(&format!(
                    "{word:?} is not an option of this stand-in"
                )));
            }
        }
    }
    if let (None, Some((what @ ("compute mode" | "persistence mode"), value))) = (query, setting) {
        node.write_down(arguments);
        if what == "compute mode" {
            return settings::set_compute_mode(node, choice, value);
        }
    }
    let chosen = node.chosen(choice)?;
    let for_each = |done: fn(&Node, usize, &Gpu, bool) -> Outcome<String>, on: bool| {
        let one = |(index, gpu): &(usize, &Gpu)| done(node, *index, gpu, on);
        Ok(chosen.iter().map(one).collect::<Outcome<String>>()? + "All done.\n")
    };
    match (query, setting) {
        (None, Some(("MIG mode", "0" | "DISABLED"))) => for_each(mig::set_mode, false),
        (None, Some(("MIG mode", "1" | "ENABLED"))) => for_each(mig::set_mode, true),
        (None, Some(("MIG mode", value))) => Err(misuse(&format!("{value:?} is no MIG mode"))),
        (None, Some(("reset", _))) => {
            for_each(|node, index, gpu, _| mig::reset(node, index, gpu), false)
        }
        (Some(fields), None) => csv(node, &chosen, fields, format.unwrap_or_default()),
        (None, Some((what, value))) => {
            if !["0", "1", "ENABLED", "DISABLED"].contains(&value) {
                return Err(misuse(&format!("{value:?} is no {what}")));
            }
            let line = |(_, gpu): &(usize, &Gpu)| {
                format!("Set {what} to {value} for GPU {}.\n", long_bus_id(gpu))
            };
            Ok(chosen.iter().map(line).collect::<String>() + "All done.\n")
        }
        _ => Err(misuse("nothing to do, or too much at once")),
    }
}

fn misuse(what: &str) -> Failure {
    Failure(
        format!(
            "Invalid combination of input arguments: {what}. Please run 'nvidia-smi -h' for help."
        ),
        2,
    )
}
