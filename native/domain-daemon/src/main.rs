//! `compute-domain-daemon check`, which every probe of every daemon runs; any other command becomes the Python program.
//!
//! Texts and rules are those of `nvdra/programs/compute_domain_daemon.py`, which does the same where this program is not
//! installed.

use std::ffi::OsString;
use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, Stdio};

const PROGRAM: &str = "/opt/nvdra/bin/compute-domain-daemon";
const PROGRAM_VARIABLE: &str = "NVDRA_DAEMON_PROGRAM";
const CONTROL: &str = "nvidia-imex-ctl";
const READY: &str = "READY\n";

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if arguments.last().is_some_and(|last| last == "check") {
        return check(&arguments);
    }
    let program = std::env::var_os(PROGRAM_VARIABLE).unwrap_or_else(|| PROGRAM.into());
    let error = Command::new(&program).args(&arguments).exec();
    eprintln!("Error: cannot run {}: {error}", program.display());
    ExitCode::FAILURE
}

fn check(arguments: &[OsString]) -> ExitCode {
    if clique(arguments).is_empty() {
        println!("check succeeded (noop, clique ID is empty)");
        return ExitCode::SUCCESS;
    }
    match asked() {
        Err(why) => {
            eprintln!("IMEX daemon check failed: error running {CONTROL}: {why}");
            ExitCode::FAILURE
        }
        // A warning may stand before the answer.
        Ok(said) if said == READY || said.ends_with(&format!("\n{READY}")) => ExitCode::SUCCESS,
        Ok(said) => {
            eprintln!("IMEX daemon not ready: {}", said.trim());
            ExitCode::FAILURE
        }
    }
}

/// The node's clique: the flag, else the variable.
fn clique(arguments: &[OsString]) -> OsString {
    let mut given = std::env::var_os("CLIQUE_ID").unwrap_or_default();
    for (at, argument) in arguments.iter().enumerate() {
        let text = argument.to_string_lossy();
        let name = text.trim_start_matches('-');
        if let Some(value) = name.strip_prefix("cliqueid=") {
            given = value.into();
        } else if name == "cliqueid" && text.starts_with('-') {
            given = arguments.get(at + 1).cloned().unwrap_or_default();
        }
    }
    given
}

/// What the control program says on both its outputs; why, if it fails.
fn asked() -> Result<String, String> {
    let folder = std::env::var("IMEX_FOLDER").unwrap_or_else(|_| "/imexd".into());
    let (mut reader, writer) = std::io::pipe().map_err(|error| error.to_string())?;
    let also = writer.try_clone().map_err(|error| error.to_string())?;
    let mut command = Command::new(CONTROL);
    command
        .args(["-c", &format!("{folder}/imexd.cfg"), "-q"])
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(also);
    let mut child = command.spawn().map_err(|error| error.to_string())?;
    drop(command); // its ends of the pipe
    let mut said = Vec::new();
    reader
        .read_to_end(&mut said)
        .map_err(|error| error.to_string())?;
    let status = child.wait().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&said).into_owned();
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(said),
        (Some(code), _) => Err(format!("exit status {code}: {}", said.trim())),
        (None, signal) => Err(format!(
            "ended by signal {}: {}",
            signal.unwrap_or(0),
            said.trim()
        )),
    }
}
