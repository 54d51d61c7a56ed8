//! Handles by index, UUID, serial, PCI bus id.

use std::ffi::c_char;

use crate::abi::{
    Handle, LOOKED_UP_AS_ASCII, LOOKED_UP_AS_BINARY, Out, UuidQuery, read_text, versioned,
};
use crate::code::{Answer, Code};
use crate::exports::{on_system, supported};
use crate::faults;
use crate::functions::Function;
use crate::notation;
use crate::session::{Device, Instance, Seen, Session};

fn count(function: Function, count: Out<u32>) -> u32 {
    on_system(function, |session| {
        faults::around(function, &[], || count.set(session.gpus.len() as u32))
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
        faults::around(function, &minors, || {
            let seen = chosen?.ok_or(Code::NOT_FOUND)?;
            if device.is_null() {
                return Err(Code::INVALID_ARGUMENT);
            }
            device.set(session.handle(seen))
        })
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

/// The handle of what has this UUID: a GPU, or a MIG device that can be seen (documented: both are found).
fn look_up_uuid(
    function: Function,
    device: Out<Handle>,
    wanted: impl FnOnce() -> Answer<Wanted>,
) -> u32 {
    on_system(function, |session| {
        let found = wanted().and_then(|wanted| find(session, &wanted));
        let minors: Vec<u32> = found
            .iter()
            .flatten()
            .map(|found| session.gpu(found.gpu()).minor)
            .collect();
        faults::around(function, &minors, || {
            let found = found?.ok_or(Code::NOT_FOUND)?;
            if device.is_null() {
                return Err(Code::INVALID_ARGUMENT);
            }
            device.set(match found {
                Device::Gpu(seen) => session.handle(seen),
                Device::Mig(seen, instance, compute) => {
                    session.handle(seen);
                    session.instance_handle(seen, Instance::Mig(instance, compute))
                }
            })
        })
    })
}

/// A UUID in one of the two ways to say it.
enum Wanted {
    Text(Vec<u8>),
    Bytes([u8; 16]),
}

impl Wanted {
    fn is(&self, uuid: &str) -> bool {
        match self {
            Wanted::Text(text) => uuid.as_bytes() == text,
            Wanted::Bytes(bytes) => notation::uuid_bytes(uuid).as_ref() == Some(bytes),
        }
    }
}

fn find<'a>(session: &'a Session, wanted: &Wanted) -> Answer<Option<Device<'a>>> {
    if let Some(seen) = session.gpus.iter().find(|seen| wanted.is(&seen.uuid)) {
        return Ok(Some(Device::Gpu(seen)));
    }
    for seen in &session.gpus {
        for (instance, compute) in session.mig_devices(seen)? {
            let own = session
                .portrait
                .mig_uuid(session.gpu(seen), instance, compute);
            if wanted.is(&own) {
                return Ok(Some(Device::Mig(seen, instance, compute)));
            }
        }
    }
    Ok(None)
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: Out<Handle>) -> u32 {
    look_up_uuid(Function::nvmlDeviceGetHandleByUUID, device, || {
        Ok(Wanted::Text(read_text(uuid)?.as_bytes().to_vec()))
    })
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlDeviceGetHandleByUUIDV(query: Out<UuidQuery>, device: Out<Handle>) -> u32 {
    look_up_uuid(Function::nvmlDeviceGetHandleByUUIDV, device, || {
        let query = query.get()?;
        if query.version != versioned::<UuidQuery>(1) {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        let bytes = query.value.iter().copied();
        match query.kind {
            LOOKED_UP_AS_ASCII => Ok(Wanted::Text(bytes.take_while(|byte| *byte != 0).collect())),
            LOOKED_UP_AS_BINARY => Ok(Wanted::Bytes(std::array::from_fn(|at| query.value[at]))),
            _ => Err(Code::INVALID_ARGUMENT),
        }
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
