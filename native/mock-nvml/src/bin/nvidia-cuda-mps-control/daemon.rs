//! The daemon: its settings, what it answers, and what it writes down.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::files::{CONTROL, Folders, PID, PRIVILEGED};

const FIFO: &str = "log";

struct Daemon {
    folders: Folders,
    log: Mutex<File>,
    settings: Mutex<Settings>,
}

#[derive(Default)]
struct Settings {
    percentage: Option<f64>,
    limits: BTreeMap<String, u64>, // in MiB
    has_server: bool,
}

/// Start the daemon, in the background if that is asked for: then it serves when this returns.
pub fn start(folders: &Folders, in_background: bool) -> Result<(), String> {
    if folders.has_fault("refuse") {
        return Err("Failed to start the MPS control daemon (fault on demand)".into());
    }
    if folders.connect().is_ok() {
        return Err("An instance of this daemon is already running".into());
    }
    if !in_background {
        return serve(|| {}).map(|()| thread::park());
    }
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    if unsafe { libc::pipe(ends.as_mut_ptr()) } != 0 {
        return Err(std::io::Error::last_os_error().to_string());
    }
    // SAFETY: both descriptors are new and belong to nobody else.
    let (mut serving, mut ready) =
        unsafe { (File::from_raw_fd(ends[0]), File::from_raw_fd(ends[1])) };
    // SAFETY: this process has one thread, so the child has all of it.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: no preconditions.
            unsafe { libc::setsid() };
            if serve(|| detach(&mut ready)).is_err() {
                process::exit(1);
            }
            loop {
                thread::park();
            }
        }
        child if child > 0 => {
            drop(ready);
            let mut word = [0];
            match serving.read(&mut word) {
                Ok(1) => Ok(()),
                _ => Err("Failed to start the MPS control daemon: see its log folder".into()),
            }
        }
        _ => Err(std::io::Error::last_os_error().to_string()),
    }
}

/// Tell who waits that the daemon serves, and let go of the terminal.
fn detach(ready: &mut File) {
    if let Ok(nowhere) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        for descriptor in 0..3 {
            // SAFETY: both descriptors are open.
            unsafe { libc::dup2(nowhere.as_raw_fd(), descriptor) };
        }
    } else {
        for descriptor in 0..3 {
            // SAFETY: nothing of this process uses them any more.
            unsafe { libc::close(descriptor) };
        }
    }
    let _ = ready.write_all(b"1");
}

fn serve(serving: impl FnOnce()) -> Result<(), String> {
    let folders = Folders::here();
    let failed = |error: std::io::Error| error.to_string();
    fs::create_dir_all(&folders.pipe).map_err(failed)?;
    fs::create_dir_all(&folders.log).map_err(failed)?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(folders.log.join("control.log"))
        .map_err(failed)?;
    let listeners = [(CONTROL, 0o666), (PRIVILEGED, 0o755)].map(|(name, mode)| {
        let listener = folders.listen(name)?;
        fs::set_permissions(folders.pipe.join(name), fs::Permissions::from_mode(mode))?;
        Ok::<UnixListener, std::io::Error>(listener)
    });
    fs::write(folders.pipe.join("control_lock"), "").map_err(failed)?;
    fs::write(folders.pipe.join(PID), format!("{}\n", process::id())).map_err(failed)?;
    let fifo = std::ffi::CString::new(folders.pipe.join(FIFO).as_os_str().as_encoded_bytes());
    if let Ok(fifo) = fifo {
        // SAFETY: the path ends with a zero byte.
        unsafe { libc::mkfifo(fifo.as_ptr(), 0o666) };
    }
    let daemon = Arc::new(Daemon {
        folders,
        log: Mutex::new(log),
        settings: Mutex::default(),
    });
    for listener in listeners {
        let (listener, daemon) = (listener.map_err(failed)?, daemon.clone());
        thread::spawn(move || daemon.accept(&listener));
    }
    serving();
    Ok(())
}

impl Daemon {
    fn accept(self: Arc<Self>, listener: &UnixListener) {
        for stream in listener.incoming().flatten() {
            self.say("Accepting connection...");
            let daemon = self.clone();
            thread::spawn(move || daemon.hear(stream));
        }
    }

    fn hear(&self, stream: UnixStream) {
        let Ok(mut answering) = stream.try_clone() else {
            return;
        };
        let mut is_known = false;
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if let Some(client) = line.strip_prefix("!client ") {
                self.serve_client(client);
                let _ = answering.write_all(b"ok\n");
                return;
            }
            if !is_known {
                self.say("NEW UI");
                is_known = true;
            }
            self.say(&format!("Cmd:{line}"));
            if self.folders.has_fault("die") {
                process::exit(1);
            }
            if self.folders.has_fault("hang") {
                loop {
                    thread::park();
                }
            }
            let answer = if self.folders.has_fault("wrong") {
                "Unknown error\n".into()
            } else {
                self.answer(&line)
            };
            if line.trim() == "quit" {
                for name in [PID, FIFO] {
                    let _ = fs::remove_file(self.folders.pipe.join(name));
                }
                // Who asked hears that it is over by the end of the connection.
                process::exit(0);
            }
            let _ = answering.write_all(format!("{answer}.\n").as_bytes());
        }
        self.say("UI closed");
    }

    fn serve_client(&self, client: &str) {
        let (pid, uid) = client.split_once(' ').unwrap_or((client, "0"));
        let mut settings = self.settings.lock().expect("no thread panics");
        let server = if settings.has_server {
            "Server already exists"
        } else {
            "Server is not ready, push client to pending list"
        };
        settings.has_server = true;
        drop(settings);
        self.say(&format!("NEW CLIENT {pid} from user {uid}: {server}"));
    }

    /// What a command prints, with the end of its line; nothing for most.
    fn answer(&self, line: &str) -> String {
        let mut settings = self.settings.lock().expect("no thread panics");
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["get_default_active_thread_percentage"] => {
                format!("{:.1}\n", settings.percentage.unwrap_or(100.0))
            }
            ["set_default_active_thread_percentage", value] => match value.parse::<f64>() {
                Ok(value) if value > 0.0 && value <= 100.0 => {
                    settings.percentage = Some(value);
                    format!("{value:.1}\n")
                }
                _ => "Invalid argument\n".into(),
            },
            ["get_default_device_pinned_mem_limit", device] => match settings.limits.get(device) {
                Some(mib) if mib % 1024 == 0 => format!("{}G\n", mib / 1024),
                Some(mib) => format!("{mib}M\n"),
                None => "\n".into(),
            },
            ["set_default_device_pinned_mem_limit", device, limit] => match mebibytes(limit) {
                Some(mib) => {
                    settings.limits.insert(device.into(), mib);
                    String::new()
                }
                None => "Invalid argument\n".into(),
            },
            ["get_server_list"] if settings.has_server => format!("{}\n", process::id()),
            ["get_server_list"] | ["quit"] | ["quit", ..] | [] => String::new(),
            _ => "Unrecognized command\n".into(),
        }
    }

    fn say(&self, text: &str) {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let line = format!(
            "[{:.3} Control {:>5}] {text}\n",
            now.as_secs_f64(),
            process::id()
        );
        let _ = self
            .log
            .lock()
            .expect("no thread panics")
            .write_all(line.as_bytes());
    }
}

/// `1024M`, `1G`.
fn mebibytes(limit: &str) -> Option<u64> {
    let number = |suffix: char| limit.strip_suffix(suffix).map(str::parse::<u64>);
    match (number('M'), number('G')) {
        (Some(Ok(mib)), _) => Some(mib),
        (_, Some(Ok(gib))) => Some(gib * 1024),
        _ => None,
    }
}
