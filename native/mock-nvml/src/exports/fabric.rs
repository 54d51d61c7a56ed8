//! The NVLink fabric of a GPU.
//!
//! What the portrait says, unless `etc/nvdra-mock-fabric.json` in the driver root says otherwise. That file is read at
//! each call, so that a fabric can register, fail or change while programs run.

use std::fs;
use std::path::Path;

use crate::abi::{FabricInfo, FabricInfoV2, FabricInfoV3, Out, versioned};
use crate::code::{Answer, Code};
use crate::exports::gpu_calls;
use crate::notation::uuid_bytes;
use crate::session::{Seen, Session};

const IN_ROOT: &str = "etc/nvdra-mock-fabric.json";

/// What differs from the portrait, on one GPU or, without a minor, on all.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Override {
    minor: Option<u32>,
    cluster_uuid: Option<String>,
    clique_id: Option<u32>,
    status: Option<u32>,
    state: Option<u8>,
}

fn overrides(root: &Path) -> Answer<Vec<Override>> {
    let file = root.join(IN_ROOT);
    let Ok(text) = fs::read(&file) else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(&text).map_err(|error| {
        eprintln!("nvdra-mock-nvml: {}: {error}", file.display());
        Code::UNKNOWN
    })
}

fn whole(session: &Session, gpu: &Seen, version: u32) -> Answer<FabricInfoV3> {
    let fabric = session
        .portrait
        .fabric
        .as_ref()
        .ok_or(Code::NOT_SUPPORTED)?;
    let minor = session.gpu(gpu).minor;
    let now = overrides(session.state.root())?
        .into_iter()
        .find(|each| each.minor.is_none_or(|its| its == minor))
        .unwrap_or_default();
    let cluster = now
        .cluster_uuid
        .as_ref()
        .unwrap_or(&fabric.cluster_uuid.value);
    Ok(FabricInfoV3 {
        version,
        cluster_uuid: uuid_bytes(cluster).ok_or(Code::UNKNOWN)?,
        status: now.status.unwrap_or(fabric.status.value),
        clique_id: now.clique_id.unwrap_or(fabric.clique_id.value),
        state: now.state.unwrap_or(fabric.state.value),
        health_mask: fabric.health_mask.value,
        health_summary: fabric.health_summary.value,
    })
}

gpu_calls! {
    nvmlDeviceGetGpuFabricInfo(session, gpu, out: Out<FabricInfo>) {
        let whole = whole(session, gpu, 0)?;
        out.set(FabricInfo {
            cluster_uuid: whole.cluster_uuid,
            status: whole.status,
            clique_id: whole.clique_id,
            state: whole.state,
        })
    }

    nvmlDeviceGetGpuFabricInfoV(session, gpu, out: Out<u32>) {
        let version = out.get()?;
        let whole = whole(session, gpu, version)?;
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
