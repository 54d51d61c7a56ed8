//! NVML's structs and constants in C layout, and the two kinds of results: values and texts.

use std::ffi::{CStr, c_char};

use crate::code::{Answer, Code};

/// `nvmlDevice_t`: an opaque address, never followed.
pub type Handle = usize;

pub const VALUE_NOT_AVAILABLE: u32 = 0xffff_ffff;
pub const INIT_FLAG_NO_GPUS: u32 = 1;
pub const P2P_CAPABILITIES: u32 = 5;
pub const LOOKED_UP_AS_BINARY: u32 = 2;
pub const LOOKED_UP_AS_ASCII: u32 = 1;

/// `NVML_STRUCT_VERSION(T, version)`.
pub const fn versioned<T>(version: u32) -> u32 {
    size_of::<T>() as u32 | (version << 24)
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct PciInfo {
    pub bus_id_legacy: [u8; 16],
    pub domain: u32,
    pub bus: u32,
    pub device: u32,
    pub pci_device_id: u32,
    pub pci_subsystem_id: u32,
    pub bus_id: [u8; 32],
}

impl PciInfo {
    pub fn new(address: (u32, u8, u8, u8), device_id: u32, subsystem_id: u32) -> PciInfo {
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
}

/// The form before `busId` was added; what the unversioned symbols fill.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PciInfoLegacy {
    pub bus_id_legacy: [u8; 16],
    pub domain: u32,
    pub bus: u32,
    pub device: u32,
    pub pci_device_id: u32,
    pub pci_subsystem_id: u32,
    pub reserved: [u32; 4],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct PciInfoExt {
    pub version: u32,
    pub domain: u32,
    pub bus: u32,
    pub device: u32,
    pub pci_device_id: u32,
    pub pci_subsystem_id: u32,
    pub base_class: u32,
    pub sub_class: u32,
    pub bus_id: [u8; 32],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Memory {
    pub total: u64,
    pub free: u64,
    pub used: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct MemoryV2 {
    pub version: u32,
    pub total: u64,
    pub reserved: u64,
    pub free: u64,
    pub used: u64,
}

/// `nvmlDeviceAddressingMode_v1_t`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct AddressingMode {
    pub version: u32,
    pub value: u32,
}

/// `nvmlUUID_v1_t`: the 41 bytes hold text or 16 raw bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UuidQuery {
    pub version: u32,
    pub kind: u32,
    pub value: [u8; 41],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct GpuInstanceProfile {
    pub id: u32,
    pub is_p2p_supported: u32,
    pub slice_count: u32,
    pub instance_count: u32,
    pub multiprocessor_count: u32,
    pub copy_engine_count: u32,
    pub decoder_count: u32,
    pub encoder_count: u32,
    pub jpeg_count: u32,
    pub ofa_count: u32,
    pub memory_size_mib: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct GpuInstanceProfileV2 {
    pub version: u32,
    pub id: u32,
    pub is_p2p_supported: u32,
    pub slice_count: u32,
    pub instance_count: u32,
    pub multiprocessor_count: u32,
    pub copy_engine_count: u32,
    pub decoder_count: u32,
    pub encoder_count: u32,
    pub jpeg_count: u32,
    pub ofa_count: u32,
    pub memory_size_mib: u64,
    pub name: [u8; 96],
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct GpuInstanceProfileV3 {
    pub version: u32,
    pub id: u32,
    pub slice_count: u32,
    pub instance_count: u32,
    pub multiprocessor_count: u32,
    pub copy_engine_count: u32,
    pub decoder_count: u32,
    pub encoder_count: u32,
    pub jpeg_count: u32,
    pub ofa_count: u32,
    pub memory_size_mib: u64,
    pub name: [u8; 96],
    pub capabilities: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct GpuInstancePlacement {
    pub start: u32,
    pub size: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct GpuInstanceInfo {
    pub device: Handle,
    pub id: u32,
    pub profile_id: u32,
    pub placement: GpuInstancePlacement,
}

/// What a compute instance would have, and share with the others of its GPU instance.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ComputeInstanceProfile {
    pub id: u32,
    pub slice_count: u32,
    pub instance_count: u32,
    pub multiprocessor_count: u32,
    pub shared_copy_engine_count: u32,
    pub shared_decoder_count: u32,
    pub shared_encoder_count: u32,
    pub shared_jpeg_count: u32,
    pub shared_ofa_count: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ComputeInstanceProfileV2 {
    pub version: u32,
    pub profile: ComputeInstanceProfile,
    pub name: [u8; 96],
}

/// The third form, with capabilities behind the name.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ComputeInstanceProfileV3 {
    pub version: u32,
    pub profile: ComputeInstanceProfile,
    pub name: [u8; 96],
    pub capabilities: u32,
}

/// The form before the placement was added; what the unversioned symbol fills.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ComputeInstanceInfoLegacy {
    pub device: Handle,
    pub gpu_instance: Handle,
    pub id: u32,
    pub profile_id: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ComputeInstanceInfo {
    pub device: Handle,
    pub gpu_instance: Handle,
    pub id: u32,
    pub profile_id: u32,
    pub start: u32,
    pub size: u32,
}

/// `nvmlDeviceAttributes_t`: what a MIG device has.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Attributes {
    pub multiprocessor_count: u32,
    pub shared_copy_engine_count: u32,
    pub shared_decoder_count: u32,
    pub shared_encoder_count: u32,
    pub shared_jpeg_count: u32,
    pub shared_ofa_count: u32,
    pub gpu_instance_slice_count: u32,
    pub compute_instance_slice_count: u32,
    pub memory_size_mib: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProcessInfoLegacy {
    pub pid: u32,
    pub used_memory: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct ProcessInfo {
    pub pid: u32,
    pub used_memory: u64,
    pub gpu_instance_id: u32,
    pub compute_instance_id: u32,
}

/// What the first form of waiting fills.
/// `nvmlFieldValue_t`; `value` is a union, of which smaller forms take the first bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FieldValue {
    pub field: u32,
    pub scope: u32,
    pub timestamp: i64,
    pub latency_us: i64,
    pub value_type: u32,
    pub code: u32,
    pub value: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct EventDataLegacy {
    pub device: Handle,
    pub kind: u64,
    pub data: u64,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct EventData {
    pub device: Handle,
    pub kind: u64,
    pub data: u64,
    pub gpu_instance_id: u32,
    pub compute_instance_id: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct FabricInfo {
    pub cluster_uuid: [u8; 16],
    pub status: u32,
    pub clique_id: u32,
    pub state: u8,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct FabricInfoV2 {
    pub version: u32,
    pub cluster_uuid: [u8; 16],
    pub status: u32,
    pub clique_id: u32,
    pub state: u8,
    pub health_mask: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct FabricInfoV3 {
    pub version: u32,
    pub cluster_uuid: [u8; 16],
    pub status: u32,
    pub clique_id: u32,
    pub state: u8,
    pub health_mask: u32,
    pub health_summary: u8,
}

/// Where the caller wants a result.
#[repr(transparent)]
pub struct Out<T>(*mut T);

impl<T: Copy> Out<T> {
    pub fn is_null(&self) -> bool {
        self.0.is_null()
    }

    pub fn set(&self, value: T) -> Answer {
        if self.0.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: not null, and NVML's callers pass room for one T; unaligned because C gives no promise.
        unsafe { self.0.write_unaligned(value) };
        Ok(())
    }

    pub fn get(&self) -> Answer<T> {
        if self.0.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: not null, and NVML's callers pass an initialised T where a value goes in too.
        Ok(unsafe { self.0.read_unaligned() })
    }

    /// The whole array, of a length the caller named in another argument.
    pub fn fill(&self, values: &[T]) -> Answer {
        if self.0.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        // SAFETY: not null, and the caller's array holds at least as many elements as it said.
        unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.0, values.len()) };
        Ok(())
    }

    /// The place of one element of an array, which the caller said is long enough.
    pub fn at(&self, index: usize) -> Out<T> {
        Out(self.0.wrapping_add(index))
    }

    /// The same place seen as another struct: versioned calls learn from its first word what lies there.
    pub fn cast<U: Copy>(&self) -> Out<U> {
        Out(self.0.cast())
    }
}

/// Where the caller wants a text, and how much fits.
pub fn write_text(out: &Out<c_char>, length: u32, text: &str) -> Answer {
    if out.is_null() {
        return Err(Code::INVALID_ARGUMENT);
    }
    if (length as usize) <= text.len() {
        return Err(Code::INSUFFICIENT_SIZE);
    }
    let bytes: Vec<c_char> = text.bytes().chain([0]).map(|byte| byte as c_char).collect();
    out.fill(&bytes)
}

/// The text a caller passed; null or not UTF-8 is an invalid argument.
pub fn read_text<'a>(text: *const c_char) -> Answer<&'a str> {
    if text.is_null() {
        return Err(Code::INVALID_ARGUMENT);
    }
    // SAFETY: not null; NVML's callers pass NUL-terminated text that lives as long as the call.
    unsafe { CStr::from_ptr(text) }
        .to_str()
        .map_err(|_| Code::INVALID_ARGUMENT)
}

/// A fixed array with the text in it, zeros behind.
pub fn fixed<const N: usize>(text: &str) -> [u8; N] {
    let mut array = [0; N];
    let length = text.len().min(N - 1);
    array[..length].copy_from_slice(&text.as_bytes()[..length]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structs_have_the_sizes_of_the_header() {
        assert_eq!(size_of::<PciInfo>(), 68);
        assert_eq!(size_of::<PciInfoLegacy>(), 52);
        assert_eq!(size_of::<PciInfoExt>(), 64);
        assert_eq!(size_of::<Memory>(), 24);
        assert_eq!(size_of::<MemoryV2>(), 40);
        assert_eq!(versioned::<AddressingMode>(1), 0x0100_0008);
        assert_eq!(size_of::<GpuInstanceProfile>(), 48);
        assert_eq!(size_of::<GpuInstancePlacement>(), 8);
        assert_eq!(size_of::<GpuInstanceProfileV2>(), 152);
        assert_eq!(size_of::<GpuInstanceProfileV3>(), 152);
        assert_eq!(size_of::<UuidQuery>(), 52);
        assert_eq!(size_of::<GpuInstanceInfo>(), 24);
        assert_eq!(size_of::<ComputeInstanceProfile>(), 36);
        assert_eq!(versioned::<ComputeInstanceProfileV2>(2), 0x0200_0088);
        assert_eq!(size_of::<ComputeInstanceInfo>(), 32);
        assert_eq!(size_of::<ComputeInstanceInfoLegacy>(), 24);
        assert_eq!(size_of::<Attributes>(), 40);
        assert_eq!(size_of::<ProcessInfo>(), 24);
        assert_eq!(size_of::<EventData>(), 32);
        assert_eq!(size_of::<FieldValue>(), 40);
        assert_eq!(versioned::<FabricInfoV2>(2), 0x0200_0024);
        assert_eq!(versioned::<FabricInfoV3>(3), 0x0300_0028);
    }
}
