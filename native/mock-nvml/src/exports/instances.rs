//! GPU instances and compute instances: create, list, query, destroy.

use crate::abi::{
    ComputeInstanceInfo, ComputeInstanceInfoLegacy, ComputeInstanceProfile,
    ComputeInstanceProfileV2, ComputeInstanceProfileV3, GpuInstanceInfo, GpuInstancePlacement,
    Handle, Out, fixed, versioned,
};
use crate::code::{Answer, Code};
use crate::exports::mig::{capable, multiprocessors};
use crate::exports::{gpu_calls, instance_calls};
use crate::partition::{
    ComputeInstance, GpuInstance, agreed, compute_profile, profile_by_id, profiles_of,
};
use crate::portrait::{Mig, MigProfile};
use crate::session::{Instance, Seen, Session};

/// The first engine profile, shared by all, is the only one there is (documented).
const SHARED_ENGINES: u32 = 0;

/// The table of a GPU whose GPU instances can be made and destroyed: not so in a guest with a virtual GPU.
fn manageable<'a>(session: &'a Session, gpu: &Seen) -> Answer<&'a Mig> {
    if session.model(gpu).is_vgpu_guest() {
        return Err(Code::NOT_SUPPORTED);
    }
    capable(session, gpu)
}

fn create(
    session: &Session,
    gpu: &Seen,
    profile: u32,
    at: Option<(u32, u32)>,
    out: &Out<Handle>,
) -> Answer {
    let mig = manageable(session, gpu)?;
    if out.is_null() {
        return Err(Code::INVALID_ARGUMENT);
    }
    let id = session.change(gpu, |state, _| state.create_instance(mig, profile, at))?;
    out.set(session.instance_handle(gpu, Instance::Gpu(id)))
}

/// An instance and the profile it was made from.
fn known<'a>(session: &'a Session, gpu: &Seen, id: u32) -> Answer<(GpuInstance, &'a MigProfile)> {
    let instance = session.gpu_instance(gpu, id)?;
    let all = profiles_of(capable(session, gpu)?, &instance);
    agreed(all.iter().map(|profile| profile.id))?;
    Ok((instance, all[0]))
}

fn known_compute(session: &Session, gpu: &Seen, id: u32, compute: u32) -> Answer<ComputeInstance> {
    let instance = session.gpu_instance(gpu, id)?;
    let found = instance
        .compute
        .into_iter()
        .find(|other| other.id == compute);
    found.ok_or(Code::INVALID_ARGUMENT)
}

/// What the profile with this index would be in an instance, and its name.
fn profile(
    session: &Session,
    gpu: &Seen,
    id: u32,
    index: u32,
    engines: u32,
) -> Answer<(ComputeInstanceProfile, String)> {
    if engines != SHARED_ENGINES {
        return Err(Code::INVALID_ARGUMENT);
    }
    let (_, of) = known(session, gpu, id)?;
    let compute = compute_profile(of, index)?;
    let found = ComputeInstanceProfile {
        id: compute.id,
        slice_count: compute.slices,
        instance_count: compute.instances,
        multiprocessor_count: multiprocessors(capable(session, gpu)?, of, compute.slices),
        shared_copy_engine_count: of.ce,
        shared_decoder_count: of.dec,
        shared_encoder_count: of.enc,
        shared_jpeg_count: of.jpg,
        shared_ofa_count: of.ofa,
    };
    Ok((found, compute.name(of)))
}

fn info(session: &Session, gpu: &Seen, id: u32, compute: u32) -> Answer<ComputeInstanceInfo> {
    let found = known_compute(session, gpu, id, compute)?;
    Ok(ComputeInstanceInfo {
        device: session.instance_handle(gpu, Instance::Mig(id, compute)),
        gpu_instance: session.instance_handle(gpu, Instance::Gpu(id)),
        id: compute,
        profile_id: found.profile.ok_or(Code::NOT_SUPPORTED)?,
        start: found.start,
        size: found.size,
    })
}

/// An array the caller made long enough for all that can be (documented): nobody says how long it is.
fn told(handles: &[Handle], out: &Out<Handle>, count: &Out<u32>) -> Answer {
    if !handles.is_empty() {
        out.fill(handles)?;
    }
    count.set(handles.len() as u32)
}

gpu_calls! {
    nvmlDeviceCreateGpuInstance(session, gpu, profile: u32, out: Out<Handle>) {
        create(session, gpu, profile, None, &out)
    }

    nvmlDeviceCreateGpuInstanceWithPlacement(
        session, gpu, profile: u32, placement: Out<GpuInstancePlacement>, out: Out<Handle>,
    ) {
        let at = placement.get()?;
        create(session, gpu, profile, Some((at.start, at.size)), &out)
    }

    // Documented: not supported while MIG is off. Assumed: a container, which manages nothing, has no permission.
    nvmlDeviceGetGpuInstances(session, gpu, profile: u32, out: Out<Handle>, count: Out<u32>) {
        profile_by_id(capable(session, gpu)?, profile)?;
        let state = session.partitioning(gpu)?;
        if !state.mode {
            return Err(Code::NOT_SUPPORTED);
        }
        if !session.state.is_host() {
            return Err(Code::NO_PERMISSION);
        }
        let handles: Vec<Handle> = state
            .instances
            .iter()
            .filter(|instance| instance.profile == Some(profile))
            .map(|instance| session.instance_handle(gpu, Instance::Gpu(instance.id)))
            .collect();
        told(&handles, &out, &count)
    }
}

instance_calls! {
    nvmlGpuInstanceGetInfo(session, gpu, Instance::Gpu(id), out: Out<GpuInstanceInfo>) {
        let (instance, profile) = known(session, gpu, id)?;
        out.set(GpuInstanceInfo {
            device: session.handle(gpu),
            id,
            profile_id: profile.id,
            placement: GpuInstancePlacement { start: instance.start, size: instance.size },
        })
    }

    nvmlGpuInstanceDestroy(session, gpu, Instance::Gpu(id)) {
        manageable(session, gpu)?;
        session.change(gpu, |state, processes| state.destroy_instance(id, processes))
    }

    nvmlGpuInstanceGetComputeInstanceProfileInfo(
        session, gpu, Instance::Gpu(id), index: u32, engines: u32, out: Out<ComputeInstanceProfile>,
    ) {
        out.set(profile(session, gpu, id, index, engines)?.0)
    }

    nvmlGpuInstanceGetComputeInstanceProfileInfoV(
        session, gpu, Instance::Gpu(id), index: u32, engines: u32, out: Out<u32>,
    ) {
        let version = out.get()?;
        let (profile, name) = profile(session, gpu, id, index, engines)?;
        let name = fixed(&format!("MIG {name}"));
        if version == versioned::<ComputeInstanceProfileV2>(2) {
            out.cast().set(ComputeInstanceProfileV2 { version, profile, name })
        } else if version == versioned::<ComputeInstanceProfileV3>(3) {
            out.cast().set(ComputeInstanceProfileV3 { version, profile, name, capabilities: 0 })
        } else {
            Err(Code::ARGUMENT_VERSION_MISMATCH)
        }
    }

    nvmlGpuInstanceGetComputeInstanceRemainingCapacity(
        session, gpu, Instance::Gpu(id), profile: u32, count: Out<u32>,
    ) {
        let (_, of) = known(session, gpu, id)?;
        compute_profile(of, profile)?;
        count.set(session.partitioning(gpu)?.remaining_compute(capable(session, gpu)?, id, profile)?)
    }

    nvmlGpuInstanceCreateComputeInstance(session, gpu, Instance::Gpu(id), profile: u32, out: Out<Handle>) {
        let mig = capable(session, gpu)?;
        if out.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        let compute = session.change(gpu, |state, _| state.create_compute(mig, id, profile))?;
        out.set(session.instance_handle(gpu, Instance::Compute(id, compute)))
    }

    nvmlGpuInstanceGetComputeInstances(
        session, gpu, Instance::Gpu(id), profile: u32, out: Out<Handle>, count: Out<u32>,
    ) {
        if !session.state.is_host() {
            return Err(Code::NO_PERMISSION);
        }
        let (instance, of) = known(session, gpu, id)?;
        compute_profile(of, profile)?;
        let handles: Vec<Handle> = instance
            .compute
            .iter()
            .filter(|compute| compute.profile == Some(profile))
            .map(|compute| session.instance_handle(gpu, Instance::Compute(id, compute.id)))
            .collect();
        told(&handles, &out, &count)
    }

    nvmlGpuInstanceGetComputeInstanceById(session, gpu, Instance::Gpu(id), compute: u32, out: Out<Handle>) {
        let instance = session.gpu_instance(gpu, id)?;
        if !instance.compute.iter().any(|other| other.id == compute) {
            return Err(Code::NOT_FOUND);
        }
        out.set(session.instance_handle(gpu, Instance::Compute(id, compute)))
    }

    nvmlComputeInstanceGetInfo(session, gpu, Instance::Compute(id, compute), out: Out<ComputeInstanceInfoLegacy>) {
        let whole = info(session, gpu, id, compute)?;
        out.set(ComputeInstanceInfoLegacy {
            device: whole.device,
            gpu_instance: whole.gpu_instance,
            id: whole.id,
            profile_id: whole.profile_id,
        })
    }

    nvmlComputeInstanceGetInfo_v2(session, gpu, Instance::Compute(id, compute), out: Out<ComputeInstanceInfo>) {
        out.set(info(session, gpu, id, compute)?)
    }

    nvmlComputeInstanceDestroy(session, gpu, Instance::Compute(id, compute)) {
        session.change(gpu, |state, processes| state.destroy_compute(id, compute, processes))
    }
}
