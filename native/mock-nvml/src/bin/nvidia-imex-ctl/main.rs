//! A stand-in for `nvidia-imex-ctl`: asks the stand-in of `nvidia-imex` how it is.
//!
//!     nvidia-imex-ctl -c CONFIG -q        READY, or what it waits for
//!     nvidia-imex-ctl -c CONFIG -N        the nodes: index, name, address, connection, instance
//!     nvidia-imex-ctl -q --u=SOCKET       over its Unix socket

#[path = "../nvidia-imex/config.rs"]
#[allow(dead_code)]
mod config;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::exit;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(5);

fn asked<S: Read + Write>(mut stream: S, command: &str) -> Result<String, String> {
    stream
        .write_all(format!("{command}\n").as_bytes())
        .map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .map_err(|error| error.to_string())?;
    Ok(answer)
}

fn run() -> Result<String, String> {
    let (mut file, mut socket, mut command) =
        (String::from("/etc/nvidia-imex/config.cfg"), None, None);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "-c" => file = arguments.next().ok_or("-c needs a file")?,
            "-q" => command = Some("status"),
            "-N" => command = Some("nodes"),
            "--version" => return Ok("IMEX-CTL version is: stand-in\n".into()),
            other => match other.strip_prefix("--u=") {
                Some(path) => socket = Some(path.to_string()),
                None => return Err(format!("unknown option {other}")),
            },
        }
    }
    let command = command.ok_or("nothing to ask: -q or -N")?;
    if let Some(path) = socket {
        let stream = UnixStream::connect(&path).map_err(|error| format!("{path}: {error}"))?;
        stream
            .set_read_timeout(Some(TIMEOUT))
            .map_err(|error| error.to_string())?;
        return asked(stream, command);
    }
    let address = config::Config::read(Path::new(&file))?.command()?;
    let stream = TcpStream::connect_timeout(&address, TIMEOUT)
        .map_err(|error| format!("{address}: {error}"))?;
    stream
        .set_read_timeout(Some(TIMEOUT))
        .map_err(|error| error.to_string())?;
    asked(stream, command)
}

fn main() {
    match run() {
        Ok(answer) => print!("{answer}"),
        Err(error) => {
            eprintln!("nvidia-imex-ctl: {error}");
            exit(1)
        }
    }
}
