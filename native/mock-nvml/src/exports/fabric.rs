//! The NVLink fabric of a GPU.

use crate::abi::{FabricInfo, FabricInfoV2, FabricInfoV3, Out, versioned};
use crate::code::{Answer, Code};
use crate::exports::gpu_calls;
use crate::notation::uuid_bytes;
use crate::session::Session;

fn whole(session: &Session, version: u32) -> Answer<FabricInfoV3> {
    let fabric = session
        .portrait
        .fabric
        .as_ref()
        .ok_or(Code::NOT_SUPPORTED)?;
    Ok(FabricInfoV3 {
        version,
        cluster_uuid: uuid_bytes(&fabric.cluster_uuid.value).ok_or(Code::UNKNOWN)?,
        status: fabric.status.value,
        clique_id: fabric.clique_id.value,
        state: fabric.state.value,
        health_mask: fabric.health_mask.value,
        health_summary: fabric.health_summary.value,
    })
}

gpu_calls! {
    nvmlDeviceGetGpuFabricInfo(session, _gpu, out: Out<FabricInfo>) {
        let whole = whole(session, 0)?;
        out.set(FabricInfo {
            cluster_uuid: whole.cluster_uuid,
            status: whole.status,
            clique_id: whole.clique_id,
            state: whole.state,
        })
    }

    nvmlDeviceGetGpuFabricInfoV(session, _gpu, out: Out<u32>) {
        let version = out.get()?;
        let whole = whole(session, version)?;
        if version == versioned::<FabricInfoV2>(2) {
            out.cast().set(FabricInfoV2 {
                version,
                cluster_uuid: whole.cluster_uuid,
                status: whole.status,
                clique_id: whole.clique_id,
                state: whole.state,
                health_mask: whole.health_mask,
            })
        } else if version == versioned::<FabricInfoV3>(3) {
            out.cast().set(whole)
        } else {
            Err(Code::ARGUMENT_VERSION_MISMATCH)
        }
    }
}
