//! A stand-in for `nvidia-imex`: reads the real configuration, listens for peers and commands, and says READY by the
//! documented rules. No memory is exported.
//!
//!     nvidia-imex -c CONFIG
//!
//! Documented: the node list is read at start; SIGUSR1 resolves the names again and connects anew, and is ignored
//! within 5 s of the last one; SIGTERM, SIGINT and SIGQUIT notify the peers and end it; persist.dat is discarded when
//! the node list changed. Assumed: it is READY once one entry of the list resolves to its own address, with
//! IMEX_WAIT_FOR_QUORUM=FULL once all entries that resolve are connected too; a peer of another domain is refused.
//!
//! A file `nvdra-mock-imex-faults` beside CONFIG has one word a line: `exit N` (end at once with this status), `hang`
//! (no answer to any command), `not-ready`, `deaf` (SIGTERM is ignored). It is looked at all the time.

mod config;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use config::{Config, resolve};

const FAULTS: &str = "nvdra-mock-imex-faults";
const STATE: &str = "NVDRA_MOCK_IMEX_STATE";
const IGNORED_WITHIN: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(20);
const RECONNECT: Duration = Duration::from_secs(1);

static STOP: AtomicI32 = AtomicI32::new(0);
static RELOAD: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(number: i32) {
    if number == libc::SIGUSR1 {
        RELOAD.store(true, Ordering::SeqCst);
    } else {
        STOP.store(number, Ordering::SeqCst);
    }
}

/// What is known of one line of the node list.
#[derive(Default)]
struct Peer {
    address: Option<IpAddr>,
    stream: Option<TcpStream>,
    instance: String,
    tried: Option<Instant>,
}

struct Daemon {
    config: Config,
    nodes: Vec<String>,
    /// Tells this process from the one that ran here before.
    instance: String,
    domain: String,
    peers: Mutex<Vec<Peer>>,
    own: Mutex<Option<usize>>,
}

impl Daemon {
    fn faults(&self) -> BTreeMap<String, String> {
        let file = self.config.path.with_file_name(FAULTS);
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines()
            .map(|line| line.trim().split_once(' ').unwrap_or((line.trim(), "")))
            .map(|(word, rest)| (word.to_string(), rest.to_string()))
            .collect()
    }

    fn resolve_all(&self) {
        let own = self.config.own_address().ok().flatten();
        let mut found = None;
        let mut peers = self.peers.lock().unwrap();
        for (index, node) in self.nodes.iter().enumerate() {
            let address = resolve(node);
            if address.is_some() && address == own && found.is_none() {
                found = Some(index);
            }
            let peer = &mut peers[index];
            if peer.address != address {
                if let Some(stream) = peer.stream.take() {
                    let _ = stream.shutdown(Shutdown::Both);
                }
                peer.address = address;
                peer.instance.clear();
            }
            peer.tried = None;
        }
        *self.own.lock().unwrap() = found;
    }

    fn state(&self) -> &'static str {
        if self.faults().contains_key("not-ready") {
            return "NOT_READY";
        }
        let Some(own) = *self.own.lock().unwrap() else {
            return "INITIALIZING";
        };
        let peers = self.peers.lock().unwrap();
        let is_alone = peers
            .iter()
            .enumerate()
            .any(|(index, peer)| index != own && peer.address.is_some() && peer.stream.is_none());
        if self.config.text("IMEX_WAIT_FOR_QUORUM") == "FULL" && is_alone {
            return "WAITING_FOR_QUORUM";
        }
        "READY"
    }

    fn table(&self) -> String {
        let own = *self.own.lock().unwrap();
        let peers = self.peers.lock().unwrap();
        let mut text = String::new();
        for (index, (node, peer)) in self.nodes.iter().zip(peers.iter()).enumerate() {
            let address = peer
                .address
                .map(|address| address.to_string())
                .unwrap_or("-".into());
            let how = match (Some(index) == own, &peer.stream, peer.address) {
                (true, _, _) => "SELF",
                (_, Some(_), _) => "CONNECTED",
                (_, None, Some(_)) => "DISCONNECTED",
                (_, None, None) => "UNRESOLVED",
            };
            text += &format!("{index} {node} {address} {how} {}\n", peer.instance);
        }
        text
    }

    /// Connect to every peer that resolves and is not connected; says hello, and which instance answered.
    fn connect(&self) {
        let Some(own) = *self.own.lock().unwrap() else {
            return;
        };
        let port = self.config.number("SERVER_PORT", 50000).unwrap_or(50000);
        for index in 0..self.nodes.len() {
            let address = {
                let mut peers = self.peers.lock().unwrap();
                let peer = &mut peers[index];
                let is_due = peer.tried.is_none_or(|tried| tried.elapsed() >= RECONNECT);
                if index == own || !is_due || peer.stream.as_ref().is_some_and(is_alive) {
                    continue;
                }
                peer.stream = None;
                peer.tried = Some(Instant::now());
                let Some(address) = peer.address else {
                    continue;
                };
                address
            };
            let hello = format!("hello {} {own} {}\n", self.domain, self.instance);
            match greet(SocketAddr::new(address, port), &hello) {
                Ok((stream, instance)) => {
                    let mut peers = self.peers.lock().unwrap();
                    if peers[index].instance != instance {
                        say(&format!("connected to node {index}, instance {instance}"));
                    }
                    peers[index].instance = instance;
                    peers[index].stream = Some(stream);
                }
                Err(error) if error.starts_with("refused") => {
                    say(&format!("node {index} at {address}: {error}"));
                }
                Err(_) => {}
            }
        }
        self.persist();
    }

    /// One peer's connection to here: its hello is answered, then it is held until either side ends.
    fn welcome(&self, stream: TcpStream) {
        let mut reader = BufReader::new(&stream);
        let mut line = String::new();
        if reader.read_line(&mut line).is_err() {
            return;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = match words.as_slice() {
            ["hello", domain, _, _] if *domain == self.domain => {
                format!("welcome {}\n", self.instance)
            }
            ["hello", domain, index, _] => {
                say(&format!("refused a peer, node {index} of domain {domain}"));
                format!("refused: this is domain {}\n", self.domain)
            }
            _ => "refused: no hello\n".into(),
        };
        let is_refused = answer.starts_with("refused");
        if (&stream).write_all(answer.as_bytes()).is_err() || is_refused {
            return;
        }
        line.clear();
        let _ = reader.read_line(&mut line);
        if line.starts_with("bye") {
            say(&format!("{} left", line.trim()));
        }
    }

    fn answer(&self, command: &str) -> Option<String> {
        if self.faults().contains_key("hang") {
            return None;
        }
        Some(match command {
            "status" => format!("{}\n", self.state()),
            "nodes" => self.table(),
            _ => format!("unknown command {command:?}\n"),
        })
    }

    fn persist_file() -> PathBuf {
        let folder = std::env::var(STATE).unwrap_or_else(|_| "/var/run/nvidia-imex".into());
        Path::new(&folder).join("persist.dat")
    }

    /// The peers seen, for a restart; a file of another node list is discarded.
    fn persist(&self) {
        let file = Daemon::persist_file();
        let peers = self.peers.lock().unwrap();
        let seen: Vec<String> = peers
            .iter()
            .enumerate()
            .filter(|(_, peer)| !peer.instance.is_empty())
            .map(|(index, peer)| format!("{index} {}", peer.instance))
            .collect();
        let text = format!("{}\n{}\n", self.nodes.join(" "), seen.join("\n"));
        if fs::read_to_string(&file).is_ok_and(|stored| stored == text) {
            return;
        }
        let new = file.with_extension("new");
        let _ = fs::create_dir_all(file.parent().unwrap_or(Path::new("/")));
        if fs::write(&new, text).is_ok() {
            let _ = fs::rename(new, file);
        }
    }

    fn recall(&self) {
        let Ok(stored) = fs::read_to_string(Daemon::persist_file()) else {
            return;
        };
        if stored.lines().next() == Some(self.nodes.join(" ").as_str()) {
            say("continuing with the stored quorum");
        } else {
            say("discarded the stored quorum: the node list changed");
            let _ = fs::remove_file(Daemon::persist_file());
        }
    }
}

fn is_alive(stream: &TcpStream) -> bool {
    let mut byte = [0];
    let _ = stream.set_nonblocking(true);
    let read = stream.peek(&mut byte);
    let _ = stream.set_nonblocking(false);
    match read {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
    }
}

fn greet(peer: SocketAddr, hello: &str) -> Result<(TcpStream, String), String> {
    let stream = TcpStream::connect_timeout(&peer, CONNECT).map_err(|error| error.to_string())?;
    stream
        .set_read_timeout(Some(CONNECT))
        .map_err(|error| error.to_string())?;
    (&stream)
        .write_all(hello.as_bytes())
        .map_err(|error| error.to_string())?;
    let mut line = String::new();
    BufReader::new(&stream)
        .read_line(&mut line)
        .map_err(|error| error.to_string())?;
    match line.trim().split_once(' ') {
        Some(("welcome", instance)) => Ok((stream, instance.to_string())),
        _ => Err(line.trim().to_string()),
    }
}

fn say(text: &str) {
    eprintln!("nvidia-imex (stand-in): {text}");
}

fn fail(text: &str) -> ! {
    say(text);
    exit(1)
}

fn serve_commands<S: std::io::Read + Write>(daemon: &Daemon, mut stream: S) {
    let mut line = String::new();
    if BufReader::new(&mut stream).read_line(&mut line).is_err() {
        return;
    }
    match daemon.answer(line.trim()) {
        Some(answer) => {
            let _ = stream.write_all(answer.as_bytes());
        }
        None => thread::sleep(Duration::from_secs(3600)),
    }
}

fn instance() -> String {
    let mut bytes = [0; 8];
    if let Ok(mut random) = fs::File::open("/dev/urandom") {
        let _ = std::io::Read::read_exact(&mut random, &mut bytes);
    }
    format!("{:016x}", u64::from_le_bytes(bytes))
}

fn start() -> Result<Arc<Daemon>, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path = match arguments.as_slice() {
        [option, path] if option == "-c" => path.clone(),
        [option] if option == "--version" => {
            println!("IMEX version is: stand-in");
            exit(0)
        }
        [] => "/etc/nvidia-imex/config.cfg".into(),
        _ => return Err("usage: nvidia-imex -c CONFIG".into()),
    };
    let config = Config::read(Path::new(&path))?;
    let nodes = config.nodes()?;
    let domain = match std::env::var("COMPUTE_DOMAIN_UUID") {
        Ok(uid) if !uid.is_empty() => uid,
        _ => "none".into(),
    };
    let daemon = Arc::new(Daemon {
        peers: Mutex::new(nodes.iter().map(|_| Peer::default()).collect()),
        own: Mutex::new(None),
        instance: instance(),
        domain,
        nodes,
        config,
    });
    if let Some(status) = daemon.faults().get("exit") {
        exit(status.parse().unwrap_or(1))
    }
    Ok(daemon)
}

fn listen(daemon: &Arc<Daemon>) -> Result<(), String> {
    let any = || IpAddr::from([0, 0, 0, 0]);
    let address = daemon.config.own_address()?.unwrap_or_else(any);
    let peers = SocketAddr::new(address, daemon.config.number("SERVER_PORT", 50000)?);
    let listener = TcpListener::bind(peers).map_err(|error| format!("{peers}: {error}"))?;
    let ours = daemon.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let ours = ours.clone();
            thread::spawn(move || ours.welcome(stream));
        }
    });
    if daemon.config.text("IMEX_CMD_ENABLED") == "0" {
        return Ok(());
    }
    let ours = daemon.clone();
    let socket = daemon.config.text("IMEX_CMD_UNIX_DOMAIN_PATH");
    if !socket.is_empty() {
        let _ = fs::remove_file(socket);
        let listener = UnixListener::bind(socket).map_err(|error| format!("{socket}: {error}"))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let ours = ours.clone();
                thread::spawn(move || serve_commands(&ours, stream));
            }
        });
        return Ok(());
    }
    let command = daemon.config.command()?;
    let listener = TcpListener::bind(command).map_err(|error| format!("{command}: {error}"))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let ours = ours.clone();
            thread::spawn(move || serve_commands(&ours, stream));
        }
    });
    Ok(())
}

fn main() {
    let handler = on_signal as *const () as libc::sighandler_t;
    for number in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT, libc::SIGUSR1] {
        // SAFETY: the handler only stores into atomics.
        unsafe { libc::signal(number, handler) };
    }
    let daemon = start().unwrap_or_else(|error| fail(&error));
    listen(&daemon).unwrap_or_else(|error| fail(&error));
    daemon.recall();
    daemon.resolve_all();
    say("started");
    let mut reloaded: Option<Instant> = None;
    let mut looked: Option<Instant> = None;
    loop {
        let faults = daemon.faults();
        if let Some(status) = faults.get("exit") {
            exit(status.parse().unwrap_or(1))
        }
        if STOP.swap(0, Ordering::SeqCst) != 0 && !faults.contains_key("deaf") {
            for peer in daemon.peers.lock().unwrap().iter_mut() {
                if let Some(mut stream) = peer.stream.take() {
                    let _ = stream.write_all(format!("bye {}\n", daemon.instance).as_bytes());
                }
            }
            say("stopped");
            exit(0)
        }
        if RELOAD.swap(false, Ordering::SeqCst) {
            if reloaded.is_some_and(|last| last.elapsed() < IGNORED_WITHIN) {
                say("ignored SIGUSR1: the last one was less than 5 s ago");
            } else {
                reloaded = Some(Instant::now());
                daemon.resolve_all();
                looked = None;
                say("resolved the names again");
            }
        }
        if looked.is_none_or(|last| last.elapsed() >= RECONNECT / 4) {
            daemon.connect();
            looked = Some(Instant::now());
        }
        thread::sleep(LOOK);
    }
}
