//! The connection between two GPUs of a portrait, derived from their PCI positions.

use crate::notation::{address, cpus};
use crate::portrait::{Gpu, NumaNode, NvLink, Portrait};

/// `nvmlGpuTopologyLevel_t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Level {
    Internal = 0,
    Single = 10,
    Multiple = 20,
    HostBridge = 30,
    Node = 40,
    System = 50,
}

/// The nearest thing two GPUs have in common.
///
/// A path is host bridge, root port, then the ports of the switches; the last entry is the port right above the GPU.
/// One switch in common: the paths differ in that last entry alone. Source: `nvmlGpuTopologyLevel_t` in nvml.h.
pub fn common_ancestor(one: &Gpu, other: &Gpu) -> Level {
    if one.minor == other.minor {
        return Level::Internal;
    }
    let (one_path, other_path) = (&one.pcie_path.value, &other.pcie_path.value);
    let shared = one_path
        .iter()
        .zip(other_path)
        .take_while(|(left, right)| left == right)
        .count();
    match shared {
        0 if one.numa_node.value >= 0 && one.numa_node.value == other.numa_node.value => {
            Level::Node
        }
        0 => Level::System,
        1 => Level::HostBridge,
        _ if one_path.len() == shared + 1 && other_path.len() == shared + 1 => Level::Single,
        _ => Level::Multiple,
    }
}

/// The far ends of a GPU's links; empty without NVLink.
pub fn remote_ends<'a>(gpu: &'a Gpu, nvlink: &'a NvLink) -> &'a [String] {
    gpu.nvlink_remote
        .as_ref()
        .map_or(&nvlink.remote.value, |remote| &remote.value)
}

/// The GPU with this bus id, if it is one of the portrait: else a link ends in a switch.
pub fn gpu_at<'a>(portrait: &'a Portrait, bus_id: &str) -> Option<&'a Gpu> {
    let wanted = address(bus_id);
    portrait
        .gpus
        .iter()
        .find(|gpu| address(&gpu.pci_bus_id.value) == wanted)
}

/// How far "near" reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    Node = 0,
    Socket = 1,
}

/// NUMA nodes near a GPU: its own, all of the socket, or all there are when the platform does not say.
pub fn nodes(portrait: &Portrait, gpu: &Gpu, scope: Scope) -> Vec<u32> {
    let own = gpu.numa_node.value;
    let all = &portrait.host.numa_nodes;
    let socket = all
        .iter()
        .find(|node| node.node as i32 == own)
        .map(|node| node.socket);
    let is_near = |node: &NumaNode| match (socket, scope) {
        (None, _) => true,
        (Some(socket), Scope::Socket) => node.socket == socket,
        (Some(_), Scope::Node) => node.node as i32 == own,
    };
    all.iter()
        .filter(|node| is_near(node))
        .map(|node| node.node)
        .collect()
}

/// Processors near a GPU, as words of bits.
pub fn processors(portrait: &Portrait, gpu: &Gpu, scope: Scope) -> Vec<usize> {
    let near = nodes(portrait, gpu, scope);
    let all = portrait
        .host
        .numa_nodes
        .iter()
        .filter(|node| near.contains(&node.node));
    bit_words(
        all.flat_map(|node| cpus(&node.cpus.value).unwrap_or_default())
            .collect(),
    )
}

/// A set of numbers as NVML's callers want it: words of machine size, lowest first.
pub fn bit_words(numbers: Vec<u32>) -> Vec<usize> {
    let word = |number: u32| (number / usize::BITS) as usize;
    let mut set = vec![0; numbers.iter().max().map_or(0, |highest| word(*highest) + 1)];
    for number in numbers {
        set[word(number)] |= 1usize << (number % usize::BITS);
    }
    set
}

pub fn has_bit(set: &[usize], number: u32) -> bool {
    set.get((number / usize::BITS) as usize)
        .is_some_and(|word| word >> (number % usize::BITS) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lowest_first() {
        assert_eq!(bit_words(vec![0, 1, 64]), vec![3, 1]);
        assert_eq!(bit_words(vec![]), Vec::<usize>::new());
    }
}
