//! Memory, and the processes that use it, as named in the root.

use crate::abi::{
    Memory, MemoryV2, Out, ProcessInfo, ProcessInfoLegacy, VALUE_NOT_AVAILABLE, versioned,
};
use crate::code::{Answer, Code};
use crate::exports::mig::profiles;
use crate::exports::topology::counted;
use crate::exports::{device_calls, gpu_calls, supported};
use crate::partition::{Process, agreed};
use crate::session::{Device, Session};

/// Total, reserved and used bytes.
///
/// A MIG device has the memory of its GPU instance, of which the driver reserves nothing more (assumed).
fn sizes(session: &Session, device: &Device) -> Answer<(u64, u64, u64)> {
    let used = processes(session, device)?
        .iter()
        .map(|process| process.memory_bytes)
        .sum();
    match device {
        Device::Gpu(gpu) => {
            let model = session.model(gpu);
            let reserved = &model.memory_reserved_bytes;
            let reserved = reserved.as_ref().map_or(0, |bytes| bytes.value);
            Ok((supported(&model.memory_total_bytes)?, reserved, used))
        }
        Device::Mig(gpu, instance, _) => {
            let all = profiles(session, gpu, *instance)?;
            let total = agreed(all.iter().map(|profile| profile.memory_mib << 20))?;
            Ok((total, 0, used))
        }
    }
}

/// The programs on a GPU, or in the GPU instance of a MIG device.
fn processes(session: &Session, device: &Device) -> Answer<Vec<Process>> {
    let mut all = session.processes(device.gpu())?;
    if let Device::Mig(_, instance, _) = device {
        all.retain(|process| process.gi == Some(*instance));
    }
    Ok(all)
}

/// Those of them that are listed: of a MIG device only its own.
fn listed(session: &Session, device: &Device) -> Answer<Vec<ProcessInfo>> {
    let mut all = processes(session, device)?;
    all.retain(|process| !process.hidden);
    if let Device::Mig(_, _, compute) = device {
        all.retain(|process| process.ci == Some(*compute));
    }
    let info = |process: &Process| ProcessInfo {
        pid: process.pid,
        used_memory: process.memory_bytes,
        gpu_instance_id: process.gi.unwrap_or(VALUE_NOT_AVAILABLE),
        compute_instance_id: process.ci.unwrap_or(VALUE_NOT_AVAILABLE),
    };
    Ok(all.iter().map(info).collect())
}

/// Documented: an array that is too short, null included, is INSUFFICIENT_SIZE, and the count says how long it must be.
fn list<T: Copy>(all: &[T], count: &Out<u32>, out: &Out<T>) -> Answer {
    let room = if out.is_null() {
        0
    } else {
        count.get()? as usize
    };
    if room < all.len() {
        count.set(all.len() as u32)?;
        return Err(Code::INSUFFICIENT_SIZE);
    }
    counted(all, count, out)
}

device_calls! {
    // The first form counts what the driver reserves as used.
    nvmlDeviceGetMemoryInfo(session, device, memory: Out<Memory>) {
        let (total, reserved, used) = sizes(session, device)?;
        let used = (used + reserved).min(total);
        memory.set(Memory { total, free: total - used, used })
    }

    nvmlDeviceGetMemoryInfo_v2(session, device, memory: Out<MemoryV2>) {
        let asked = memory.get()?;
        if asked.version != versioned::<MemoryV2>(2) {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        let (total, reserved, used) = sizes(session, device)?;
        let used = used.min(total - reserved);
        memory.set(MemoryV2 { version: asked.version, total, reserved, free: total - reserved - used, used })
    }

    nvmlDeviceGetComputeRunningProcesses(session, device, count: Out<u32>, out: Out<ProcessInfoLegacy>) {
        let short = |info: ProcessInfo| ProcessInfoLegacy { pid: info.pid, used_memory: info.used_memory };
        let all: Vec<_> = listed(session, device)?.into_iter().map(short).collect();
        list(&all, &count, &out)
    }

    nvmlDeviceGetComputeRunningProcesses_v2(session, device, count: Out<u32>, out: Out<ProcessInfo>) {
        list(&listed(session, device)?, &count, &out)
    }

    nvmlDeviceGetComputeRunningProcesses_v3(session, device, count: Out<u32>, out: Out<ProcessInfo>) {
        list(&listed(session, device)?, &count, &out)
    }

    nvmlDeviceGetGraphicsRunningProcesses(_session, _device, count: Out<u32>) { count.set(0) }
    nvmlDeviceGetGraphicsRunningProcesses_v2(_session, _device, count: Out<u32>) { count.set(0) }
    nvmlDeviceGetGraphicsRunningProcesses_v3(_session, _device, count: Out<u32>) { count.set(0) }
    nvmlDeviceGetMPSComputeRunningProcesses(_session, _device, count: Out<u32>) { count.set(0) }
    nvmlDeviceGetMPSComputeRunningProcesses_v2(_session, _device, count: Out<u32>) { count.set(0) }
    nvmlDeviceGetMPSComputeRunningProcesses_v3(_session, _device, count: Out<u32>) { count.set(0) }
}

gpu_calls! {
    nvmlDeviceGetBAR1MemoryInfo(session, gpu, memory: Out<Memory>) {
        let bars = &session.model(gpu).bars;
        let total = bars.iter().map(|bar| bar.size_bytes.value).max().ok_or(Code::NOT_SUPPORTED)?;
        memory.set(Memory { total, free: total, used: 0 })
    }
}
