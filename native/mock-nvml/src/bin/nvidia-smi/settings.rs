//! Time slices and compute modes as an administrator, or the Go driver, lists and sets them.
//!
//! Measured on an H200 (driver 580): the listing, what is not understood, what names no GPU. Documented by the texts in
//! the real program: what a change says. Assumed: what a listing says of the GPUs
//! beside one that failed, and exit statuses of failures.

use nvdra_mock_nvml::code::{Answer, Code};
use nvdra_mock_nvml::faults::{LIST_POLICIES, SET_COMPUTE_MODE, SET_TIME_SLICE, around_command};
use nvdra_mock_nvml::portrait::Gpu;
use nvdra_mock_nvml::settings::{COMPUTE_MODES, Settings, TIME_SLICES};

use crate::mig::said;
use crate::node::Node;
use crate::show::long_bus_id;
use crate::{Failure, Outcome};

const POLICY_HELP: &str = "
    nvidia-smi compute-policy [-i GPU,…] -l|--list               lists the time slice of each GPU
    nvidia-smi compute-policy [-i GPU,…] --set-timeslice N       0 DEFAULT, 1 SHORT, 2 MEDIUM, 3 LONG
";

/// `nvidia-smi compute-policy …`: -l or --set-timeslice; help if neither is asked for.
pub fn compute_policy(node: &Node, words: &[&str]) -> Outcome<String> {
    let (mut choice, mut is_list, mut slice) = (None, false, None);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let (name, attached) = word
            .split_once('=')
            .map_or((*word, None), |(name, value)| (name, Some(value)));
        let mut value = || {
            let missing = || Failure(format!("Option \"{name}\" is missing its value."), 2);
            attached
                .or_else(|| rest.next().copied())
                .ok_or_else(missing)
        };
        match name {
            "-i" | "--id" => choice = Some(value()?),
            "-l" | "--list" => is_list = true,
            "--set-timeslice" => slice = Some(value()?),
            "-h" | "--help" => return Ok(POLICY_HELP.into()),
            _ => return Err(Failure(format!("Option \"{word}\" is not recognized."), 2)),
        }
    }
    match (is_list, slice) {
        (true, Some(_)) => {
            let text = "One, and only one, compute-policy command allowed at a time";
            Err(Failure(text.into(), 2))
        }
        (true, None) => list(node, choice),
        (false, Some(slice)) => set_time_slice(node, choice, slice),
        (false, None) => Ok(POLICY_HELP.into()),
    }
}

fn list(node: &Node, choice: Option<&str>) -> Outcome<String> {
    const RULE: &str = "+-------------------------------------+\n";
    let (mut refusals, mut rows, mut last) = (String::new(), String::new(), None);
    for (index, gpu) in node.chosen(choice)? {
        match node.command(LIST_POLICIES, gpu, || node.state.settings(gpu.minor)) {
            Ok(seen) => {
                let value = in_words(TIME_SLICES, seen.time_slice);
                rows += &format!("| {index:>3}   {:<15} {value:<13} |\n", "Timeslice");
            }
            Err(code) => {
                let why = said(code);
                refusals += &format!("Failed to get compute policies for GPU {index} : {why}\n");
                last = Some(code);
            }
        }
    }
    let table = format!(
        "{refusals}{RULE}| GPU compute policies:               |\n\
         | GPU     Name           Value        |\n\
         |=====================================|\n{rows}{RULE}"
    );
    let refused = "Failed to retrieve compute policies for requested devices";
    last.map_or(Ok(table.clone()), |code| {
        Err(failure(table + refused, code))
    })
}

fn set_time_slice(node: &Node, choice: Option<&str>, wanted: &str) -> Outcome<String> {
    let invalid = || {
        Failure(
            format!("Option \"{wanted}\" is invalid for \"--set-timeslice={wanted}\"."),
            2,
        )
    };
    let slice: u32 = wanted.parse().map_err(|_| invalid())?;
    let chosen = node.chosen(choice)?;
    let word = TIME_SLICES.get(slice as usize).ok_or_else(invalid)?;
    let mut text = String::new();
    for (index, gpu) in chosen {
        let set = node.set(SET_TIME_SLICE, gpu, |settings, _| {
            settings.set_time_slice(slice)
        });
        set.map_err(|code| {
            let what = format!(
                "Failed to set timeslice policy with value {word} for GPU {index} : {}",
                said(code)
            );
            failure(
                format!("{what}\nFailed to set timeslice for requested devices"),
                code,
            )
        })?;
        text += &format!("Successfully set timeslice policy with value {word} for GPU {index}\n");
    }
    Ok(text)
}

/// `nvidia-smi -c MODE`. One that does not support it is a warning, and the exit status is 0.
pub fn set_compute_mode(node: &Node, choice: Option<&str>, wanted: &str) -> Outcome<String> {
    let is_it = |(number, name): &(usize, &&str)| **name == wanted || wanted.parse() == Ok(*number);
    let (mode, word) = COMPUTE_MODES
        .iter()
        .enumerate()
        .find(is_it)
        .ok_or_else(|| {
            let advice = "Please run 'nvidia-smi -h' for help.";
            Failure(
                format!("ERROR: Option {wanted} is invalid for -c. {advice}\n"),
                2,
            )
        })?;
    let mut text = String::new();
    for (_, gpu) in node.chosen(choice)? {
        let name = long_bus_id(gpu);
        let set = node.set(SET_COMPUTE_MODE, gpu, |settings, is_mig| {
            let before = settings.compute_mode;
            settings.set_compute_mode(mode as u32, is_mig)?;
            Ok(before == settings.compute_mode)
        });
        text += &match set {
            Ok(true) => format!("Compute mode is already set to {word} for GPU {name}.\n"),
            Ok(false) => format!("Set compute mode to {word} for GPU {name}.\n"),
            Err(Code::NOT_SUPPORTED) => format!(
                "Setting compute mode to {word} is not supported for GPU {name}.\n\
                 Treating as warning and moving on.\n"
            ),
            Err(code) => {
                let what = format!("Unable to set the compute mode for GPU {name}");
                return Err(failure(what, code));
            }
        };
    }
    Ok(text + "All done.\n")
}

/// A compute mode as `--query-gpu=compute_mode` prints it: `Exclusive_Process`.
pub fn compute_mode(node: &Node, gpu: &Gpu) -> Outcome<String> {
    let seen = node.state.settings(gpu.minor);
    let seen = seen.map_err(|code| failure("cannot read the settings".into(), code))?;
    Ok(in_words(COMPUTE_MODES, seen.compute_mode))
}

impl Node {
    fn command<T>(&self, name: &str, gpu: &Gpu, work: impl FnOnce() -> Answer<T>) -> Answer<T> {
        around_command(&self.location.root, &self.state, name, gpu.minor, work)
    }

    fn set<T>(
        &self,
        name: &str,
        gpu: &Gpu,
        rule: impl FnOnce(&mut Settings, bool) -> Answer<T>,
    ) -> Answer<T> {
        self.command(name, gpu, || {
            self.state.set(&self.portrait, gpu.minor, rule)
        })
    }
}

fn failure(what: String, code: Code) -> Failure {
    Failure(format!("{what} : {}", said(code)), code.0.min(255) as u8)
}

/// `EXCLUSIVE_PROCESS` as `Exclusive_Process`.
fn in_words<const N: usize>(names: [&str; N], number: u32) -> String {
    let name = names.get(number as usize).copied().unwrap_or("N/A");
    let word = |part: &str| part[..1].to_string() + &part[1..].to_lowercase();
    name.split('_').map(word).collect::<Vec<_>>().join("_")
}
