//! Memory, and who uses it: nobody.

use crate::abi::{Memory, MemoryV2, Out, versioned};
use crate::code::{Answer, Code};
use crate::exports::{gpu_calls, supported};
use crate::session::{Seen, Session};

fn total_and_reserved(session: &Session, gpu: &Seen) -> Answer<(u64, u64)> {
    let model = session.model(gpu);
    Ok((
        supported(&model.memory_total_bytes)?,
        model
            .memory_reserved_bytes
            .as_ref()
            .map_or(0, |bytes| bytes.value),
    ))
}

gpu_calls! {
    // The first form counts what the driver reserves as used.
    nvmlDeviceGetMemoryInfo(session, gpu, memory: Out<Memory>) {
        let (total, reserved) = total_and_reserved(session, gpu)?;
        memory.set(Memory { total, free: total - reserved, used: reserved })
    }

    nvmlDeviceGetMemoryInfo_v2(session, gpu, memory: Out<MemoryV2>) {
        let asked = memory.get()?;
        if asked.version != versioned::<MemoryV2>(2) {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        let (total, reserved) = total_and_reserved(session, gpu)?;
        memory.set(MemoryV2 { version: asked.version, total, reserved, free: total - reserved, used: 0 })
    }

    nvmlDeviceGetBAR1MemoryInfo(session, gpu, memory: Out<Memory>) {
        let bars = &session.model(gpu).bars;
        let total = bars.iter().map(|bar| bar.size_bytes.value).max().ok_or(Code::NOT_SUPPORTED)?;
        memory.set(Memory { total, free: total, used: 0 })
    }

    nvmlDeviceGetComputeRunningProcesses(_session, _gpu, count: Out<u32>) { count.set(0) }
    nvmlDeviceGetComputeRunningProcesses_v2(_session, _gpu, count: Out<u32>) { count.set(0) }
    nvmlDeviceGetComputeRunningProcesses_v3(_session, _gpu, count: Out<u32>) { count.set(0) }
    nvmlDeviceGetGraphicsRunningProcesses(_session, _gpu, count: Out<u32>) { count.set(0) }
    nvmlDeviceGetGraphicsRunningProcesses_v2(_session, _gpu, count: Out<u32>) { count.set(0) }
    nvmlDeviceGetGraphicsRunningProcesses_v3(_session, _gpu, count: Out<u32>) { count.set(0) }
    nvmlDeviceGetMPSComputeRunningProcesses(_session, _gpu, count: Out<u32>) { count.set(0) }
    nvmlDeviceGetMPSComputeRunningProcesses_v2(_session, _gpu, count: Out<u32>) { count.set(0) }
    nvmlDeviceGetMPSComputeRunningProcesses_v3(_session, _gpu, count: Out<u32>) { count.set(0) }
}
