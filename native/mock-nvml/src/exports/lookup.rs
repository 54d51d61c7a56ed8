//! How a handle is got: by index, UUID, serial, PCI bus id.

use std::ffi::c_char;

use crate::abi::{
    Handle, LOOKED_UP_AS_ASCII, LOOKED_UP_AS_BINARY, Out, UuidQuery, read_text, versioned,
};
use crate::code::{Answer, Code};
use crate::exports::{on_system, supported};
use crate::faults;
use crate::functions::Function;
use crate::notation;
use crate::session::{Seen, Session};

fn count(function: Function, count: Out<u32>) -> u32 {
    on_system(function, |session| {
        faults::strike(function, &[])?;
        count.set(session.gpus.len() as u32)
    })
}

/// Hands out the handle of the GPU that `choose` picks. A lost GPU gives none, and the fault is that GPU's.
fn look_up(
    function: Function,
    device: Out<Handle>,
    choose: impl FnOnce(&Session) -> Answer<Option<&Seen>>,
) -> u32 {
    on_system(function, |session| {
        let chosen = choose(session);
        let minors: Vec<u32> = chosen
            .iter()
            .flatten()
            .map(|seen| session.gpu(seen).minor)
            .collect();
        faults::strike(function, &minors)?;
        let seen = chosen?.ok_or(Code::NOT_FOUND)?;
        if device.is_null() {
            return Err(Code::INVALID_ARGUMENT);
        }
        device.set(session.handle(seen))
    })
}

fn by_index(function: Function, index: u32, device: Out<Handle>) -> u32 {
    look_up(function, device, |session| {
        match session.gpus.get(index as usize) {
            Some(seen) => Ok(Some(seen)),
            None => Err(Code::INVALID_ARGUMENT),
        }
    })
}

fn by_bus_id(function: Function, bus_id: *const c_char, device: Out<Handle>) -> u32 {
    look_up(function, device, |session| {
        let address = notation::address(read_text(bus_id)?).ok_or(Code::INVALID_ARGUMENT)?;
        Ok(session.gpus.iter().find(|seen| seen.address == address))
    })
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlDeviceGetCount(number: Out<u32>) -> u32 {
    count(Function::nvmlDeviceGetCount, number)
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlDeviceGetCount_v2(number: Out<u32>) -> u32 {
    count(Function::nvmlDeviceGetCount_v2, number)
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlDeviceGetHandleByIndex(index: u32, device: Out<Handle>) -> u32 {
    by_index(Function::nvmlDeviceGetHandleByIndex, index, device)
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: u32, device: Out<Handle>) -> u32 {
    by_index(Function::nvmlDeviceGetHandleByIndex_v2, index, device)
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlDeviceGetHandleByPciBusId(bus_id: *const c_char, device: Out<Handle>) -> u32 {
    by_bus_id(Function::nvmlDeviceGetHandleByPciBusId, bus_id, device)
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(
    bus_id: *const c_char,
    device: Out<Handle>,
) -> u32 {
    by_bus_id(Function::nvmlDeviceGetHandleByPciBusId_v2, bus_id, device)
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: Out<Handle>) -> u32 {
    look_up(Function::nvmlDeviceGetHandleByUUID, device, |session| {
        let uuid = read_text(uuid)?;
        Ok(session.gpus.iter().find(|seen| seen.uuid == uuid))
    })
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlDeviceGetHandleByUUIDV(query: Out<UuidQuery>, device: Out<Handle>) -> u32 {
    look_up(Function::nvmlDeviceGetHandleByUUIDV, device, |session| {
        let query = query.get()?;
        if query.version != versioned::<UuidQuery>(1) {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        let wanted: Vec<u8> = match query.kind {
            LOOKED_UP_AS_ASCII => query
                .value
                .iter()
                .copied()
                .take_while(|byte| *byte != 0)
                .collect(),
            LOOKED_UP_AS_BINARY => query.value[..16].to_vec(),
            _ => return Err(Code::INVALID_ARGUMENT),
        };
        Ok(session.gpus.iter().find(|seen| match query.kind {
            LOOKED_UP_AS_ASCII => seen.uuid.as_bytes() == wanted,
            _ => raw(&seen.uuid) == wanted,
        }))
    })
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlDeviceGetHandleBySerial(serial: *const c_char, device: Out<Handle>) -> u32 {
    look_up(Function::nvmlDeviceGetHandleBySerial, device, |session| {
        let wanted = read_text(serial)?;
        Ok(session
            .gpus
            .iter()
            .find(|seen| supported(&session.gpu(seen).serial).is_ok_and(|own| own == wanted)))
    })
}

/// The sixteen bytes a UUID's digits spell.
fn raw(uuid: &str) -> Vec<u8> {
    let digits: Vec<u8> = uuid.bytes().skip(4).filter(|byte| *byte != b'-').collect();
    let byte = |pair: &[u8]| {
        u8::from_str_radix(std::str::from_utf8(pair).unwrap_or("0"), 16).unwrap_or_default()
    };
    digits.chunks(2).map(byte).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuid_as_bytes() {
        let bytes = raw("GPU-4d4f434b-0000-0000-0000-000000000005");
        assert_eq!(
            bytes,
            [0x4d, 0x4f, 0x43, 0x4b, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]
        );
    }
}
