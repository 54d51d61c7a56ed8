//! Topology of a GPU: other GPUs, switches, processors, memory.

use crate::abi::{Handle, Out, P2P_CAPABILITIES, PciInfo, PciInfoLegacy};
use crate::code::{Answer, Code};
use crate::exports::pci::legacy;
use crate::exports::{gpu_calls, pair_calls};
use crate::notation::address;
use crate::session::{Seen, Session};
use crate::topology::{Scope, bit_words, common_ancestor, gpu_at, nodes, remote_ends};

const REMOTE_GPU: u32 = 0;
const REMOTE_SWITCH: u32 = 2;
const P2P_NOT_SUPPORTED: u32 = 5;
/// Names of `nvmlGpuP2PCapsIndex_t` as portraits use them.
const P2P_NAMES: [&str; P2P_CAPABILITIES as usize] = ["read", "write", "nvlink", "atomics", "pci"];

/// An array whose length is told first: null asks for the length, too short is an error that tells it.
pub fn counted<T: Copy>(all: &[T], count: &Out<u32>, out: &Out<T>) -> Answer {
    let room = count.get()? as usize;
    count.set(all.len() as u32)?;
    if out.is_null() || room == 0 {
        return Ok(());
    }
    if room < all.len() {
        return Err(Code::INSUFFICIENT_SIZE);
    }
    out.fill(all)
}

/// `nvmlAffinityScope_t`.
fn scope(number: u32) -> Answer<Scope> {
    match number {
        0 => Ok(Scope::Node),
        1 => Ok(Scope::Socket),
        _ => Err(Code::INVALID_ARGUMENT),
    }
}

/// Writes a set of bits to an array of `words`: what is not there is zero, what does not fit is left out.
fn write_set(set: &[usize], words: u32, out: &Out<usize>) -> Answer {
    if words == 0 || out.is_null() {
        return Err(Code::INVALID_ARGUMENT);
    }
    let mut whole = set.to_vec();
    whole.resize(words as usize, 0);
    out.fill(&whole)
}

/// The far end of a link; links beyond the model's count are an invalid argument.
fn remote<'a>(session: &'a Session, gpu: &'a Seen, link: u32) -> Answer<(&'a str, u32)> {
    let nvlink = session
        .model(gpu)
        .nvlink
        .as_ref()
        .ok_or(Code::NOT_SUPPORTED)?;
    if link >= nvlink.links.value {
        return Err(Code::INVALID_ARGUMENT);
    }
    let ends = remote_ends(session.gpu(gpu), nvlink);
    let end = ends.get(link as usize).ok_or(Code::NOT_SUPPORTED)?;
    Ok((end, nvlink.remote_pci_device_id.value))
}

fn remote_pci(session: &Session, gpu: &Seen, link: u32) -> Answer<PciInfo> {
    let (end, device_id) = remote(session, gpu, link)?;
    Ok(PciInfo::new(
        address(end).ok_or(Code::UNKNOWN)?,
        device_id,
        0,
    ))
}

pair_calls! {
    nvmlDeviceGetTopologyCommonAncestor(session, one, other, level: Out<u32>) {
        level.set(common_ancestor(session.gpu(one), session.gpu(other)) as u32)
    }

    nvmlDeviceGetP2PStatus(session, _one, _other, capability: u32, status: Out<u32>) {
        let name = P2P_NAMES.get(capability as usize).ok_or(Code::INVALID_ARGUMENT)?;
        let stated = session.portrait.p2p.as_ref().and_then(|all| all.get(*name));
        status.set(stated.map_or(P2P_NOT_SUPPORTED, |marked| marked.value))
    }
}

gpu_calls! {
    nvmlDeviceGetTopologyNearestGpus(session, gpu, level: u32, count: Out<u32>, out: Out<Handle>) {
        let own = session.gpu(gpu);
        let near: Vec<Handle> = session
            .gpus
            .iter()
            .filter(|other| {
                let other = session.gpu(other);
                other.minor != own.minor && common_ancestor(own, other) as u32 == level
            })
            .map(|other| session.handle(other))
            .collect();
        counted(&near, &count, &out)
    }

    nvmlDeviceGetNvLinkState(session, gpu, link: u32, is_active: Out<u32>) {
        remote(session, gpu, link)?;
        is_active.set(1)
    }

    nvmlDeviceGetNvLinkVersion(session, gpu, link: u32, version: Out<u32>) {
        remote(session, gpu, link)?;
        let nvlink = session.model(gpu).nvlink.as_ref().ok_or(Code::NOT_SUPPORTED)?;
        version.set(nvlink.version.value)
    }

    nvmlDeviceGetNvLinkCapability(session, gpu, link: u32, capability: u32, result: Out<u32>) {
        remote(session, gpu, link)?;
        // P2P, system memory, atomics to each, SLI bridge, valid: everything but the bridge.
        match capability {
            0..=3 | 5 => result.set(1),
            4 => result.set(0),
            _ => Err(Code::INVALID_ARGUMENT),
        }
    }

    nvmlDeviceGetNvLinkRemotePciInfo(session, gpu, link: u32, out: Out<PciInfoLegacy>) {
        out.set(legacy(remote_pci(session, gpu, link)?))
    }

    nvmlDeviceGetNvLinkRemotePciInfo_v2(session, gpu, link: u32, out: Out<PciInfo>) {
        out.set(remote_pci(session, gpu, link)?)
    }

    nvmlDeviceGetNvLinkRemoteDeviceType(session, gpu, link: u32, kind: Out<u32>) {
        let (end, _) = remote(session, gpu, link)?;
        kind.set(if gpu_at(&session.portrait, end).is_some() { REMOTE_GPU } else { REMOTE_SWITCH })
    }

    nvmlDeviceGetCpuAffinity(_session, gpu, words: u32, set: Out<usize>) {
        write_set(&gpu.processors[Scope::Node as usize], words, &set)
    }

    nvmlDeviceGetCpuAffinityWithinScope(_session, gpu, words: u32, set: Out<usize>, scope: u32) {
        write_set(&gpu.processors[self::scope(scope)? as usize], words, &set)
    }

    nvmlDeviceGetMemoryAffinity(session, gpu, words: u32, set: Out<usize>, scope: u32) {
        let near = nodes(&session.portrait, session.gpu(gpu), self::scope(scope)?);
        write_set(&bit_words(near), words, &set)
    }

    // The node of the GPU's own memory, which only coherent platforms have.
    nvmlDeviceGetNumaNodeId(_session, _gpu, _node: Out<u32>) {
        Err(Code::NOT_SUPPORTED)
    }
}
