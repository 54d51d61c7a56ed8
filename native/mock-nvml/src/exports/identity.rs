//! Identity and capabilities of a GPU.

use std::ffi::{c_char, c_int};

use crate::abi::{AddressingMode, Out, versioned, write_text};
use crate::code::Code;
use crate::exports::mig::mig_name;
use crate::exports::{device_calls, gpu_calls, pair_calls, supported};
use crate::session::Device;

gpu_calls! {
    nvmlDeviceGetIndex(session, gpu, index: Out<u32>) {
        let _ = session;
        index.set(gpu.index)
    }

    nvmlDeviceGetMinorNumber(session, gpu, minor: Out<u32>) {
        minor.set(session.gpu(gpu).minor)
    }

    nvmlDeviceGetSerial(session, gpu, serial: Out<c_char>, length: u32) {
        write_text(&serial, length, &supported(&session.gpu(gpu).serial)?)
    }

    nvmlDeviceGetBoardId(session, gpu, board: Out<u32>) {
        let _ = session;
        let (domain, bus, device, _) = gpu.address;
        board.set(domain << 16 | u32::from(bus) << 8 | u32::from(device) << 3)
    }

    nvmlDeviceGetMultiGpuBoard(_session, _gpu, is_multi: Out<u32>) {
        is_multi.set(0)
    }

    nvmlDeviceGetBoardPartNumber(session, gpu, part: Out<c_char>, length: u32) {
        write_text(&part, length, &supported(&session.model(gpu).part_number)?)
    }

    nvmlDeviceGetVbiosVersion(session, gpu, version: Out<c_char>, length: u32) {
        write_text(&version, length, &supported(&session.model(gpu).vbios)?)
    }

    nvmlDeviceGetModuleId(session, gpu, module: Out<u32>) {
        module.set(supported(&session.gpu(gpu).module_id)?)
    }

    nvmlDeviceGetNumGpuCores(session, gpu, cores: Out<u32>) {
        cores.set(supported(&session.model(gpu).cores)?)
    }

    nvmlDeviceGetMemoryBusWidth(session, gpu, width: Out<u32>) {
        width.set(supported(&session.model(gpu).memory_bus_width_bits)?)
    }

    nvmlDeviceGetArchitecture(session, gpu, architecture: Out<u32>) {
        architecture.set(session.model(gpu).architecture.value)
    }

    nvmlDeviceGetBrand(session, gpu, brand: Out<u32>) {
        brand.set(session.model(gpu).brand.value)
    }

    nvmlDeviceGetCudaComputeCapability(session, gpu, major: Out<c_int>, minor: Out<c_int>) {
        let capability = session.model(gpu).compute_capability.value;
        if minor.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        major.set(capability.0)?;
        minor.set(capability.1)
    }

    nvmlDeviceGetAddressingMode(session, gpu, mode: Out<AddressingMode>) {
        let asked = mode.get()?;
        if asked.version != versioned::<AddressingMode>(1) {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        mode.set(AddressingMode { value: supported(&session.model(gpu).addressing_mode)?, ..asked })
    }

    nvmlDeviceGetVirtualizationMode(session, gpu, mode: Out<u32>) {
        mode.set(supported(&session.model(gpu).virtualization_mode)?)
    }

    nvmlDeviceGetPersistenceMode(_session, _gpu, mode: Out<u32>) {
        mode.set(1)
    }

    nvmlDeviceGetComputeMode(session, gpu, mode: Out<u32>) {
        mode.set(session.state.settings(session.gpu(gpu).minor)?.compute_mode)
    }

    nvmlDeviceSetComputeMode(session, gpu, mode: u32) {
        let minor = session.gpu(gpu).minor;
        session.state.set(&session.portrait, minor, |settings, is_mig| settings.set_compute_mode(mode, is_mig))
    }

    nvmlDeviceGetSupportedEventTypes(session, gpu, types: Out<u64>) {
        types.set(session.model(gpu).event_types.value)
    }
}

device_calls! {
    nvmlDeviceGetName(session, device, name: Out<c_char>, length: u32) {
        let whole = &session.model(device.gpu()).name.value;
        match device {
            Device::Gpu(_) => write_text(&name, length, whole),
            Device::Mig(gpu, instance, compute) => {
                let part = mig_name(session, gpu, *instance, *compute)?;
                write_text(&name, length, &format!("{whole} MIG {part}"))
            }
        }
    }

    nvmlDeviceGetUUID(session, device, uuid: Out<c_char>, length: u32) {
        match device {
            Device::Gpu(gpu) => write_text(&uuid, length, &gpu.uuid),
            Device::Mig(gpu, instance, compute) => {
                let own = session.portrait.mig_uuid(session.gpu(gpu), *instance, *compute);
                write_text(&uuid, length, &own)
            }
        }
    }
}

pair_calls! {
    nvmlDeviceOnSameBoard(session, one, other, is_same: Out<c_int>) {
        is_same.set(c_int::from(session.gpu(one).minor == session.gpu(other).minor))
    }
}
