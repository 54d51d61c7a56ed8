//! MIG of a GPU: capability, mode, profiles and placements, existing MIG devices.
//!
//! Measured on an H200 with MIG off: profiles and placements can be read, the maximum count is 0, slots and instances
//! are not found.

use crate::abi::{
    Attributes, GpuInstancePlacement, GpuInstanceProfile, GpuInstanceProfileV2,
    GpuInstanceProfileV3, Handle, Out, fixed, versioned,
};
use crate::code::{Answer, Code};
use crate::exports::{device_calls, gpu_calls};
use crate::partition::{agreed, profile_by_id, profiles_of};
use crate::portrait::{Mig, MigProfile};
use crate::session::{Device, Instance, Seen, Session};

pub fn capable<'a>(session: &'a Session, gpu: &Seen) -> Answer<&'a Mig> {
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

fn placements(
    session: &Session,
    gpu: &Seen,
    id: u32,
    out: Out<GpuInstancePlacement>,
    count: Out<u32>,
) -> Answer {
    let profile = profile_by_id(capable(session, gpu)?, id)?;
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

/// What the GPU instance of a MIG device can have been made from.
pub fn profiles<'a>(session: &'a Session, gpu: &Seen, id: u32) -> Answer<Vec<&'a MigProfile>> {
    let instance = session.gpu_instance(gpu, id)?;
    Ok(profiles_of(capable(session, gpu)?, &instance))
}

/// The name of a MIG device's profile: `1g.10gb`, `1c.3g.40gb`; where it is not known, all that may be meant.
pub fn mig_name(session: &Session, gpu: &Seen, id: u32, compute: u32) -> Answer<String> {
    let instance = session.gpu_instance(gpu, id)?;
    let all = profiles_of(capable(session, gpu)?, &instance);
    let within = instance.compute.iter().find(|other| other.id == compute);
    let texts: Vec<String> = all
        .iter()
        .map(|profile| within.map_or(profile.text.clone(), |within| within.name(profile)))
        .collect();
    Ok(texts.join("/"))
}

/// What a MIG device has. Without a word on its compute instance, that one is the whole (documented: the usual case).
fn attributes(session: &Session, gpu: &Seen, id: u32, compute: u32) -> Answer<Attributes> {
    let mig = capable(session, gpu)?;
    let instance = session.gpu_instance(gpu, id)?;
    let within = instance.compute.iter().find(|other| other.id == compute);
    let within = within.ok_or(Code::INVALID_ARGUMENT)?;
    let all = profiles_of(mig, &instance);
    let of = |value: fn(&MigProfile) -> u32| agreed(all.iter().map(|profile| value(profile)));
    let slices = of(|profile| profile.slices)?;
    let compute_slices = if within.profile.is_some() {
        within.size
    } else {
        slices
    };
    let multiprocessors = all
        .iter()
        .map(|profile| multiprocessors(mig, profile, compute_slices));
    Ok(Attributes {
        multiprocessor_count: agreed(multiprocessors)?,
        shared_copy_engine_count: of(|profile| profile.ce)?,
        shared_decoder_count: of(|profile| profile.dec)?,
        shared_encoder_count: of(|profile| profile.enc)?,
        shared_jpeg_count: of(|profile| profile.jpg)?,
        shared_ofa_count: of(|profile| profile.ofa)?,
        gpu_instance_slice_count: slices,
        compute_instance_slice_count: compute_slices,
        memory_size_mib: agreed(all.iter().map(|profile| profile.memory_mib))?,
    })
}

/// Multiprocessors of so many compute slices of an instance.
///
/// Documented: all slices have all of the instance's. Assumed: fewer have as many each as the smallest profile has.
pub fn multiprocessors(mig: &Mig, profile: &MigProfile, slices: u32) -> u32 {
    if slices == profile.slices {
        return profile.sm;
    }
    let one = mig
        .profiles
        .iter()
        .filter(|other| other.slices == 1)
        .map(|other| other.sm)
        .min();
    slices * one.unwrap_or(profile.sm / profile.slices)
}

device_calls! {
    nvmlDeviceIsMigDeviceHandle(_session, device, is_mig: Out<u32>) {
        is_mig.set(u32::from(matches!(device, Device::Mig(..))))
    }

    nvmlDeviceGetDeviceHandleFromMigDeviceHandle(session, device, parent: Out<Handle>) {
        match device {
            Device::Gpu(_) => Err(Code::INVALID_ARGUMENT),
            Device::Mig(gpu, ..) => parent.set(session.handle(gpu)),
        }
    }

    nvmlDeviceGetGpuInstanceId(_session, device, id: Out<u32>) {
        match device {
            Device::Gpu(_) => Err(Code::NOT_SUPPORTED),
            Device::Mig(_, instance, _) => id.set(*instance),
        }
    }

    nvmlDeviceGetComputeInstanceId(_session, device, id: Out<u32>) {
        match device {
            Device::Gpu(_) => Err(Code::NOT_SUPPORTED),
            Device::Mig(_, _, compute) => id.set(*compute),
        }
    }

    nvmlDeviceGetAttributes(session, device, out: Out<Attributes>) {
        match device {
            Device::Gpu(_) => Err(Code::NOT_SUPPORTED),
            Device::Mig(gpu, instance, compute) => out.set(attributes(session, gpu, *instance, *compute)?),
        }
    }

    nvmlDeviceGetAttributes_v2(session, device, out: Out<Attributes>) {
        match device {
            Device::Gpu(_) => Err(Code::NOT_SUPPORTED),
            Device::Mig(gpu, instance, compute) => out.set(attributes(session, gpu, *instance, *compute)?),
        }
    }
}

gpu_calls! {
    nvmlDeviceGetMigMode(session, gpu, current: Out<u32>, pending: Out<u32>) {
        capable(session, gpu)?;
        if pending.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        let state = session.partitioning(gpu)?;
        current.set(u32::from(state.mode))?;
        pending.set(u32::from(state.pending))
    }

    nvmlDeviceSetMigMode(session, gpu, mode: u32, activation: Out<u32>) {
        capable(session, gpu)?;
        if mode > 1 || activation.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        let model = session.model(gpu);
        if model.is_vgpu_guest() {
            return Err(Code::NOT_SUPPORTED);
        }
        // Assumed: a GPU whose events are waited for is in use.
        if session.is_watched(gpu) {
            return Err(Code::IN_USE);
        }
        let rule = model.mode_change();
        let went = session.change(gpu, |state, processes| state.set_mode(mode == 1, rule, processes))?;
        activation.set(went.0)
    }

    // Zero while MIG is off is measured; as many as the smallest profile fits in is documented.
    nvmlDeviceGetMaxMigDeviceCount(session, gpu, count: Out<u32>) {
        let is_on = session.partitioning(gpu)?.mode;
        let most = session.model(gpu).mig.iter().flat_map(|mig| &mig.profiles).map(|profile| profile.instances).max();
        count.set(most.filter(|_| is_on).unwrap_or(0))
    }

    nvmlDeviceGetMigDeviceHandleByIndex(session, gpu, index: u32, device: Out<Handle>) {
        capable(session, gpu)?;
        let devices = session.mig_devices(gpu)?;
        let (instance, compute) = *devices.get(index as usize).ok_or(Code::NOT_FOUND)?;
        device.set(session.instance_handle(gpu, Instance::Mig(instance, compute)))
    }

    // Not found while MIG is off is measured.
    nvmlDeviceGetGpuInstanceById(session, gpu, id: u32, out: Out<Handle>) {
        capable(session, gpu)?;
        let state = session.partitioning(gpu)?;
        state.instance(id).ok_or(Code::NOT_FOUND)?;
        out.set(session.instance_handle(gpu, Instance::Gpu(id)))
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
        versioned_profile(profile_by_id(capable(session, gpu)?, id)?, &out)
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
        let mig = capable(session, gpu)?;
        count.set(session.partitioning(gpu)?.remaining(mig, id)?)
    }
}
