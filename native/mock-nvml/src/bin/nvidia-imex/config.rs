//! The configuration of IMEX: `KEY=value` lines, and the list of nodes that it names. Shared by the two programs.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

/// Stands for `/etc/hosts`, for several nodes on one machine without namespaces of their own.
const HOSTS: &str = "NVDRA_MOCK_HOSTS";

#[derive(Clone, Debug)]
pub struct Config {
    pub path: PathBuf,
    values: BTreeMap<String, String>,
}

impl Config {
    pub fn read(path: &Path) -> Result<Config, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut values = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let Some((key, value)) = line.split_once('=') else {
                return Err(format!(
                    "{}:{}: {line:?} is no KEY=value",
                    path.display(),
                    number + 1
                ));
            };
            values.insert(key.trim().to_string(), value.trim().to_string());
        }
        Ok(Config {
            path: path.to_path_buf(),
            values,
        })
    }

    pub fn text(&self, key: &str) -> &str {
        self.values.get(key).map(String::as_str).unwrap_or("")
    }

    pub fn number(&self, key: &str, default: u16) -> Result<u16, String> {
        match self.text(key) {
            "" => Ok(default),
            text => text.parse().map_err(|_| format!("{key}={text}: no port")),
        }
    }

    /// The address of this node: the command service's, else the server's.
    pub fn own_address(&self) -> Result<Option<IpAddr>, String> {
        ["IMEX_CMD_BIND_INTERFACE_IP", "BIND_INTERFACE_IP"]
            .into_iter()
            .map(|key| (key, self.text(key)))
            .find(|(_, text)| !text.is_empty())
            .map(|(key, text)| {
                text.parse()
                    .map_err(|_| format!("{key}={text}: no address"))
            })
            .transpose()
    }

    /// Where the command service listens, over TCP.
    pub fn command(&self) -> Result<SocketAddr, String> {
        let address = self.own_address()?.unwrap_or([127, 0, 0, 1].into());
        Ok(SocketAddr::new(
            address,
            self.number("IMEX_CMD_PORT", 50005)?,
        ))
    }

    pub fn nodes(&self) -> Result<Vec<String>, String> {
        let file = match self.text("IMEX_NODE_CONFIG_FILE") {
            "" => "/etc/nvidia-imex/nodes_config.cfg",
            file => file,
        };
        let text = fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
        let nodes: Vec<String> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .map(String::from)
            .collect();
        if nodes.is_empty() {
            return Err(format!("{file}: no node is listed"));
        }
        Ok(nodes)
    }
}

/// The address of a node: itself, or what the hosts file says. A static program has no other resolver.
pub fn resolve(node: &str) -> Option<IpAddr> {
    if let Ok(address) = node.parse() {
        return Some(address);
    }
    let file = std::env::var(HOSTS).unwrap_or_else(|_| "/etc/hosts".into());
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|name| name == node).then_some(address)
    })
}
