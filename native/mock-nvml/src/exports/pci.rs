//! PCI identity, in every version of the struct.

use crate::abi::{Out, PciInfo, PciInfoExt, PciInfoLegacy, versioned};
use crate::code::Code;
use crate::exports::gpu_calls;

/// The unversioned form: 52 bytes, the long bus id is not in it.
pub fn legacy(pci: PciInfo) -> PciInfoLegacy {
    PciInfoLegacy {
        bus_id_legacy: pci.bus_id_legacy,
        domain: pci.domain,
        bus: pci.bus,
        device: pci.device,
        pci_device_id: pci.pci_device_id,
        pci_subsystem_id: pci.pci_subsystem_id,
        reserved: [0; 4],
    }
}

gpu_calls! {
    nvmlDeviceGetPciInfo(_session, gpu, out: Out<PciInfoLegacy>) {
        out.set(legacy(gpu.pci))
    }

    nvmlDeviceGetPciInfo_v2(_session, gpu, out: Out<PciInfoLegacy>) {
        out.set(legacy(gpu.pci))
    }

    nvmlDeviceGetPciInfo_v3(_session, gpu, out: Out<PciInfo>) {
        out.set(gpu.pci)
    }

    nvmlDeviceGetPciInfoExt(session, gpu, out: Out<PciInfoExt>) {
        let asked = out.get()?;
        if asked.version != versioned::<PciInfoExt>(1) {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        let (pci, class) = (gpu.pci, session.model(gpu).pci_class.value);
        out.set(PciInfoExt {
            version: asked.version,
            domain: pci.domain,
            bus: pci.bus,
            device: pci.device,
            pci_device_id: pci.pci_device_id,
            pci_subsystem_id: pci.pci_subsystem_id,
            base_class: class >> 16,
            sub_class: class >> 8 & 0xff,
            bus_id: pci.bus_id,
        })
    }
}
