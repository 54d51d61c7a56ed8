//! The program that asks the daemon, and one that computes with it.

use std::io::{BufRead, BufReader, Write};

use crate::files::{Folders, PID};

const NO_DAEMON: &str = "Cannot find MPS control daemon process";

/// Each command's answer on standard output.
pub fn ask(folders: &Folders, commands: &str) -> Result<(), String> {
    if !sees_daemon(folders) {
        return Err(NO_DAEMON.to_string());
    }
    let stream = folders.connect().map_err(|_| NO_DAEMON.to_string())?;
    let mut answers = BufReader::new(stream.try_clone().map_err(|error| error.to_string())?);
    let mut commanding = stream;
    for command in commands
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
    {
        writeln!(commanding, "{command}").map_err(|_| NO_DAEMON.to_string())?;
        let mut answer = String::new();
        // The daemon ends each answer with a line of its own; one that dies answers nothing.
        while answers.read_line(&mut answer).is_ok_and(|bytes| bytes > 0) {
            if let Some(whole) = answer.strip_suffix(".\n") {
                print!("{whole}");
                break;
            }
        }
    }
    Ok(())
}

/// Whether the daemon's process exists in this PID namespace: the real program asks no other.
fn sees_daemon(folders: &Folders) -> bool {
    let pid = std::fs::read_to_string(folders.pipe.join(PID));
    pid.is_ok_and(|text| {
        // SAFETY: signal 0 is not sent.
        text.trim()
            .parse::<libc::pid_t>()
            .is_ok_and(|pid| unsafe { libc::kill(pid, 0) } == 0)
    })
}

/// What a CUDA program does first: it connects, and the daemon starts a server.
pub fn compute(folders: &Folders) -> Result<(), String> {
    let mut stream = folders.connect().map_err(|_| NO_DAEMON.to_string())?;
    // SAFETY: neither call has preconditions.
    let (pid, uid) = unsafe { (libc::getpid(), libc::getuid()) };
    let mut answer = String::new();
    writeln!(stream, "!client {pid} {uid}").map_err(|error| error.to_string())?;
    BufReader::new(stream)
        .read_line(&mut answer)
        .map_err(|error| error.to_string())?;
    Ok(())
}
