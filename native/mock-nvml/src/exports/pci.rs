//! PCI identity, in the forms it had over the years.

use crate::abi::{Out, PciInfo, PciInfoExt, PciInfoLegacy, fixed, versioned};
use crate::code::Code;
use crate::exports::gpu_calls;
use crate::session::{Seen, Session};

/// The struct for an address and two ids.
pub fn pci(address: (u32, u8, u8, u8), device_id: u32, subsystem_id: u32) -> PciInfo {
    let (domain, bus, device, function) = address;
    PciInfo {
        bus_id_legacy: fixed(&format!("{domain:04X}:{bus:02X}:{device:02X}.{function}")),
        domain,
        bus: u32::from(bus),
        device: u32::from(device),
        pci_device_id: device_id,
        pci_subsystem_id: subsystem_id,
        bus_id: fixed(&format!("{domain:08X}:{bus:02X}:{device:02X}.{function}")),
    }
}

fn of(session: &Session, gpu: &Seen) -> PciInfo {
    let model = session.model(gpu);
    pci(
        gpu.address,
        model.pci_device_id.value,
        model.pci_subsystem_id.value,
    )
}

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
    nvmlDeviceGetPciInfo(session, gpu, out: Out<PciInfoLegacy>) {
        out.set(legacy(of(session, gpu)))
    }

    nvmlDeviceGetPciInfo_v2(session, gpu, out: Out<PciInfoLegacy>) {
        out.set(legacy(of(session, gpu)))
    }

    nvmlDeviceGetPciInfo_v3(session, gpu, out: Out<PciInfo>) {
        out.set(of(session, gpu))
    }

    nvmlDeviceGetPciInfoExt(session, gpu, out: Out<PciInfoExt>) {
        let asked = out.get()?;
        if asked.version != versioned::<PciInfoExt>(1) {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        let (pci, class) = (of(session, gpu), session.model(gpu).pci_class.value);
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
