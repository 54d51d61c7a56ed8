//! `nvidia-modprobe`: creates missing device nodes; the modules of a mock are always loaded.

use std::path::Path;

use nvdra_mock_nvml::capabilities::make_node;
use nvdra_mock_nvml::location::{PROGRAM_FOLDERS, above};

use crate::node::own_file;
use crate::{Failure, Outcome, misuse};

const MAJOR: u32 = 195;
const MAJOR_UVM: u32 = 510;
const CONTROL: u32 = 255;

/// `-c MINOR` (once or more), `-u` for unified memory's nodes, `-m` for modesetting's.
pub fn run(arguments: &[String]) -> Outcome<String> {
    let mut wanted = vec![("nvidiactl".to_string(), MAJOR, CONTROL)];
    let mut rest = arguments.iter();
    while let Some(word) = rest.next() {
        let (name, attached) = word
            .split_once('=')
            .map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
        match name {
            "-u" | "--unified-memory" => {
                wanted.push(("nvidia-uvm".into(), MAJOR_UVM, 0));
                wanted.push(("nvidia-uvm-tools".into(), MAJOR_UVM, 1));
            }
            "-m" | "--modeset" => wanted.push(("nvidia-modeset".into(), MAJOR, 254)),
            "-c" | "--create-nvidia-device-file" => {
                let minor = attached
                    .or_else(|| rest.next().map(String::as_str))
                    .unwrap_or_default();
                let minor: u32 = minor.parse().map_err(|_| misuse("-c needs a minor"))?;
                if minor != CONTROL {
                    wanted.push((format!("nvidia{minor}"), MAJOR, minor));
                }
            }
            _ => {
                return Err(misuse(&format!(
                    "{word:?} is not an option of this stand-in"
                )));
            }
        }
    }
    let program =
        own_file().ok_or_else(|| Failure("this program cannot tell where it lies".into(), 1))?;
    let dev = above(program.parent().unwrap_or(Path::new("/")), PROGRAM_FOLDERS).join("dev");
    for (name, major, minor) in wanted {
        let node = dev.join(name);
        if node.exists() {
            continue;
        }
        // In a root whose nodes are plain files, the missing ones are too.
        let made = make_node(&dev, &node, major, minor, 0o666);
        made.map_err(|error| Failure(format!("nvidia-modprobe: {}: {error}", node.display()), 1))?;
    }
    Ok(String::new())
}
