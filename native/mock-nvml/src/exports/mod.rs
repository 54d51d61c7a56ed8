//! The exported functions by subject. Each one counts its call, applies faults, and answers from the session.

mod events;
mod fabric;
mod fields;
mod identity;
mod instances;
mod lifetime;
mod lookup;
mod memory;
mod mig;
mod pci;
mod system;
mod topology;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use crate::abi::Handle;
use crate::code::{Answer, Code};
use crate::functions::Function;
use crate::session::{self, Device, Instance, Seen, Session};
use crate::{calls, faults};

/// The return value; a bug in here is an unknown error to the caller, never an abort.
pub fn returned(function: Function, body: impl FnOnce() -> Answer) -> u32 {
    faults::begin(&session::location().root);
    calls::count(function);
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => 0,
        Ok(Err(code)) => code.0,
        Err(_) => Code::UNKNOWN.0,
    }
}

/// A call that concerns no GPU, or finds out itself which.
pub fn on_system(function: Function, body: impl FnOnce(&Session) -> Answer) -> u32 {
    returned(function, || body(&*session::current()?))
}

/// A call on the GPU of a handle; a MIG device is not what it is for.
pub fn on_gpu(
    function: Function,
    handle: Handle,
    body: impl FnOnce(&Session, &Seen) -> Answer,
) -> u32 {
    returned(function, || {
        let session = session::current()?;
        let device = session.device(handle)?;
        let seen = device.gpu();
        faults::around(function, &[session.gpu(seen).minor], || match device {
            Device::Gpu(seen) => body(&session, seen),
            Device::Mig(..) => Err(Code::NOT_SUPPORTED),
        })
    })
}

/// A call on the GPU or MIG device of a handle.
pub fn on_device(
    function: Function,
    handle: Handle,
    body: impl FnOnce(&Session, &Device) -> Answer,
) -> u32 {
    returned(function, || {
        let session = session::current()?;
        let device = session.device(handle)?;
        let minor = session.gpu(device.gpu()).minor;
        faults::around(function, &[minor], || body(&session, &device))
    })
}

/// A call on the GPU instance or compute instance of a handle; `body` finds out whether that one exists.
pub fn on_instance(
    function: Function,
    handle: Handle,
    body: impl FnOnce(&Session, &Seen, Instance) -> Answer,
) -> u32 {
    returned(function, || {
        let session = session::current()?;
        let (seen, instance) = session.instance(handle).ok_or(Code::INVALID_ARGUMENT)?;
        let minor = session.gpu(seen).minor;
        faults::around(function, &[minor], || body(&session, seen, instance))
    })
}

/// A call on two GPUs.
pub fn on_pair(
    function: Function,
    one: Handle,
    other: Handle,
    body: impl FnOnce(&Session, &Seen, &Seen) -> Answer,
) -> u32 {
    returned(function, || {
        let session: Arc<Session> = session::current()?;
        let (one, other) = (session.seen(one)?, session.seen(other)?);
        let minors = [session.gpu(one).minor, session.gpu(other).minor];
        faults::around(function, &minors, || body(&session, one, other))
    })
}

/// What a function answers that this mock does not have.
pub fn decline(function: Function, first: usize) -> u32 {
    returned(function, || {
        let session = session::current()?;
        let instance = session.instance(first).map(|(seen, _)| seen);
        let seen = instance.or_else(|| session.seen(first).ok());
        let minors: Vec<u32> = seen.iter().map(|seen| session.gpu(seen).minor).collect();
        faults::strike(function, &minors)?;
        Err(Code::NOT_SUPPORTED)
    })
}

/// A value the portrait may not have: then the driver does not support the question.
pub fn supported<T: Clone>(value: &Option<crate::portrait::Marked<T>>) -> Answer<T> {
    value
        .as_ref()
        .map(|marked| marked.value.clone())
        .ok_or(Code::NOT_SUPPORTED)
}

/// Defines exported functions on the system.
macro_rules! system_calls {
    ($($name:ident($session:ident $(, $argument:ident: $kind:ty)* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub extern "C" fn $name($($argument: $kind),*) -> u32 {
            crate::exports::on_system(crate::functions::Function::$name, |$session| {
                crate::faults::around(crate::functions::Function::$name, &[], || $body)
            })
        }
    )*};
}

/// Defines exported functions on one GPU, whose handle is the first argument.
macro_rules! gpu_calls {
    ($($name:ident($session:ident, $gpu:ident $(, $argument:ident: $kind:ty)* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub extern "C" fn $name(handle: crate::abi::Handle $(, $argument: $kind)*) -> u32 {
            crate::exports::on_gpu(crate::functions::Function::$name, handle, |$session, $gpu| $body)
        }
    )*};
}

/// Defines exported functions on one GPU or MIG device, whose handle is the first argument.
macro_rules! device_calls {
    ($($name:ident($session:ident, $device:ident $(, $argument:ident: $kind:ty)* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub extern "C" fn $name(handle: crate::abi::Handle $(, $argument: $kind)*) -> u32 {
            crate::exports::on_device(crate::functions::Function::$name, handle, |$session, $device| $body)
        }
    )*};
}

/// Defines exported functions on one GPU instance or compute instance, as the pattern says; of another it is invalid.
macro_rules! instance_calls {
    ($($name:ident($session:ident, $gpu:ident, $pattern:pat $(, $argument:ident: $kind:ty)* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub extern "C" fn $name(handle: crate::abi::Handle $(, $argument: $kind)*) -> u32 {
            crate::exports::on_instance(
                crate::functions::Function::$name,
                handle,
                |$session, $gpu, instance| {
                    let $pattern = instance else { return Err(crate::code::Code::INVALID_ARGUMENT) };
                    $body
                },
            )
        }
    )*};
}

/// Defines exported functions on two GPUs, whose handles are the first arguments.
macro_rules! pair_calls {
    ($($name:ident($session:ident, $one:ident, $other:ident $(, $argument:ident: $kind:ty)* $(,)?) $body:block)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(non_snake_case)]
        pub extern "C" fn $name(first: crate::abi::Handle, second: crate::abi::Handle $(, $argument: $kind)*) -> u32 {
            crate::exports::on_pair(
                crate::functions::Function::$name, first, second, |$session, $one, $other| $body,
            )
        }
    )*};
}

use {device_calls, gpu_calls, instance_calls, pair_calls, system_calls};
