//! How two GPUs of a portrait are joined, worked out from where they hang.

use crate::portrait::{Gpu, NvLink, Portrait};

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
    let address = crate::portrait::address(bus_id);
    portrait
        .gpus
        .iter()
        .find(|gpu| crate::portrait::address(&gpu.pci_bus_id.value) == address)
}

/// A set of numbers as NVML's callers want it: words of machine size, lowest first, what does not fit left out.
pub fn bit_words(numbers: impl Iterator<Item = u32>, words: usize) -> Vec<usize> {
    let mut set = vec![0usize; words];
    for number in numbers {
        if let Some(word) = set.get_mut(number as usize / usize::BITS as usize) {
            *word |= 1 << (number % usize::BITS);
        }
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lowest_first() {
        assert_eq!(bit_words([0, 1, 64, 200].into_iter(), 2), vec![3, 1]);
        assert_eq!(bit_words(std::iter::empty(), 1), vec![0]);
    }
}
