//! MIG as a GPU with MIG off shows it: capable or not, and the table of what could be made.
//!
//! Measured on an H200 with MIG off: profiles and placements can be read, the maximum count is 0, slots and instances
//! are not found.

use crate::abi::{
    GpuInstancePlacement, GpuInstanceProfile, GpuInstanceProfileV2, GpuInstanceProfileV3, Handle,
    Out, fixed, versioned,
};
use crate::code::{Answer, Code};
use crate::exports::gpu_calls;
use crate::portrait::{Mig, MigProfile};
use crate::session::{Seen, Session};

fn capable<'a>(session: &'a Session, gpu: &Seen) -> Answer<&'a Mig> {
    session.model(gpu).mig.as_ref().ok_or(Code::NOT_SUPPORTED)
}

fn by_index(mig: &Mig, index: u32) -> Answer<&MigProfile> {
    if index >= mig.index_limit.value {
        return Err(Code::INVALID_ARGUMENT);
    }
    mig.profiles
        .iter()
        .find(|profile| profile.index == index)
        .ok_or(Code::NOT_SUPPORTED)
}

fn by_id(mig: &Mig, id: u32) -> Answer<&MigProfile> {
    mig.profiles
        .iter()
        .find(|profile| profile.id == id)
        .ok_or(Code::INVALID_ARGUMENT)
}

fn placements(
    session: &Session,
    gpu: &Seen,
    id: u32,
    out: Out<GpuInstancePlacement>,
    count: Out<u32>,
) -> Answer {
    let profile = by_id(capable(session, gpu)?, id)?;
    let all: Vec<GpuInstancePlacement> = profile
        .starts
        .iter()
        .map(|start| GpuInstancePlacement {
            start: *start,
            size: profile.size,
        })
        .collect();
    if !out.is_null() {
        if (count.get()? as usize) < all.len() {
            return Err(Code::INSUFFICIENT_SIZE);
        }
        out.fill(&all)?;
    }
    count.set(all.len() as u32)
}

/// The profile in the form whose version the first word asks for.
fn versioned_profile(profile: &MigProfile, out: &Out<u32>) -> Answer {
    let version = out.get()?;
    let name = fixed(&format!("MIG {}", profile.text));
    let (slice_count, instance_count, multiprocessor_count) =
        (profile.slices, profile.instances, profile.sm);
    let (copy_engine_count, decoder_count, encoder_count) = (profile.ce, profile.dec, profile.enc);
    let (jpeg_count, ofa_count, memory_size_mib) = (profile.jpg, profile.ofa, profile.memory_mib);
    if version == versioned::<GpuInstanceProfileV2>(2) {
        out.cast().set(GpuInstanceProfileV2 {
            version,
            id: profile.id,
            is_p2p_supported: 0,
            slice_count,
            instance_count,
            multiprocessor_count,
            copy_engine_count,
            decoder_count,
            encoder_count,
            jpeg_count,
            ofa_count,
            memory_size_mib,
            name,
        })
    } else if version == versioned::<GpuInstanceProfileV3>(3) {
        out.cast().set(GpuInstanceProfileV3 {
            version,
            id: profile.id,
            slice_count,
            instance_count,
            multiprocessor_count,
            copy_engine_count,
            decoder_count,
            encoder_count,
            jpeg_count,
            ofa_count,
            memory_size_mib,
            name,
            capabilities: 0,
        })
    } else {
        Err(Code::ARGUMENT_VERSION_MISMATCH)
    }
}

gpu_calls! {
    nvmlDeviceGetMigMode(session, gpu, current: Out<u32>, pending: Out<u32>) {
        capable(session, gpu)?;
        if pending.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        current.set(0)?;
        pending.set(0)
    }

    nvmlDeviceGetMaxMigDeviceCount(_session, _gpu, count: Out<u32>) {
        count.set(0)
    }

    nvmlDeviceGetMigDeviceHandleByIndex(session, gpu, _index: u32, _device: Out<Handle>) {
        capable(session, gpu)?;
        Err(Code::NOT_FOUND)
    }

    nvmlDeviceIsMigDeviceHandle(_session, _gpu, is_mig: Out<u32>) {
        is_mig.set(0)
    }

    nvmlDeviceGetDeviceHandleFromMigDeviceHandle(_session, _gpu, _device: Out<Handle>) {
        Err(Code::INVALID_ARGUMENT)
    }

    nvmlDeviceGetGpuInstanceId(_session, _gpu, _id: Out<u32>) {
        Err(Code::NOT_SUPPORTED)
    }

    nvmlDeviceGetComputeInstanceId(_session, _gpu, _id: Out<u32>) {
        Err(Code::NOT_SUPPORTED)
    }

    nvmlDeviceGetGpuInstanceById(session, gpu, _id: u32, _instance: Out<Handle>) {
        capable(session, gpu)?;
        Err(Code::NOT_FOUND)
    }

    nvmlDeviceGetGpuInstanceProfileInfo(session, gpu, index: u32, out: Out<GpuInstanceProfile>) {
        let profile = by_index(capable(session, gpu)?, index)?;
        out.set(GpuInstanceProfile {
            id: profile.id,
            is_p2p_supported: 0,
            slice_count: profile.slices,
            instance_count: profile.instances,
            multiprocessor_count: profile.sm,
            copy_engine_count: profile.ce,
            decoder_count: profile.dec,
            encoder_count: profile.enc,
            jpeg_count: profile.jpg,
            ofa_count: profile.ofa,
            memory_size_mib: profile.memory_mib,
        })
    }

    nvmlDeviceGetGpuInstanceProfileInfoV(session, gpu, index: u32, out: Out<u32>) {
        versioned_profile(by_index(capable(session, gpu)?, index)?, &out)
    }

    nvmlDeviceGetGpuInstanceProfileInfoByIdV(session, gpu, id: u32, out: Out<u32>) {
        versioned_profile(by_id(capable(session, gpu)?, id)?, &out)
    }

    nvmlDeviceGetGpuInstancePossiblePlacements(
        session, gpu, id: u32, out: Out<GpuInstancePlacement>, count: Out<u32>,
    ) {
        placements(session, gpu, id, out, count)
    }

    nvmlDeviceGetGpuInstancePossiblePlacements_v2(
        session, gpu, id: u32, out: Out<GpuInstancePlacement>, count: Out<u32>,
    ) {
        placements(session, gpu, id, out, count)
    }

    nvmlDeviceGetGpuInstanceRemainingCapacity(session, gpu, id: u32, count: Out<u32>) {
        by_id(capable(session, gpu)?, id)?;
        count.set(0)
    }
}
