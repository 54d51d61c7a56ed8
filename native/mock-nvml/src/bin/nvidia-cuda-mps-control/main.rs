//! A stand-in for `nvidia-cuda-mps-control`: the daemon with its sockets, log and answers, and the program that asks it.
//!
//! Linked statically, so that it runs in any container and in a chroot with nothing else. Measured on an H200 (driver
//! 580): files of the pipe folder and their modes, answers, log lines, what `quit` leaves behind. Assumed: everything
//! about several users (`-M`), which is accepted and changes nothing.
//!
//! What goes wrong is a file, `etc/nvdra-mock-mps` of the root that the program lies in, one word a line, read for each
//! command: `refuse` (the daemon does not start), `hang` (it never answers), `wrong` (it answers something else), `die`
//! (it ends instead of answering).

mod client;
mod daemon;
mod files;

use std::io::Read;
use std::process::ExitCode;

use files::Folders;

const HELP: &str = "\
nvidia-cuda-mps-control of the mock NVML

    nvidia-cuda-mps-control -d [-M]     starts the daemon in the background
    nvidia-cuda-mps-control -f [-M]     runs it in the foreground
    nvidia-cuda-mps-control             asks it: one command a line on standard input, one answer a line
    nvidia-cuda-mps-control --as-client connects to it like a CUDA program

Commands: get_default_active_thread_percentage, set_default_active_thread_percentage N,
          get_default_device_pinned_mem_limit DEVICE, set_default_device_pinned_mem_limit DEVICE LIMIT,
          get_server_list, quit
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let has = |word: &str| words.iter().any(|each| each == word);
    let folders = Folders::here();
    let known = ["-d", "-f", "-M", "--as-client"];
    if has("-h") || has("--help") || !words.iter().all(|word| known.contains(&word.as_str())) {
        print!("{HELP}");
        return ExitCode::from(u8::from(!has("-h") && !has("--help")));
    }
    let outcome = if has("-d") || has("-f") {
        daemon::start(&folders, has("-d"))
    } else if has("--as-client") {
        client::compute(&folders)
    } else {
        let mut commands = String::new();
        match std::io::stdin().read_to_string(&mut commands) {
            Ok(_) => client::ask(&folders, &commands),
            Err(error) => Err(error.to_string()),
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            println!("{text}");
            ExitCode::FAILURE
        }
    }
}
