//! Init, shutdown, and the texts of return codes.

use std::ffi::c_char;

use crate::exports::returned;
use crate::functions::Function;
use crate::{calls, code, faults, session};

fn init(function: Function, flags: u32) -> u32 {
    returned(function, || {
        faults::strike(function, &[])?;
        session::init(flags)
    })
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlInit() -> u32 {
    init(Function::nvmlInit, 0)
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlInit_v2() -> u32 {
    init(Function::nvmlInit_v2, 0)
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlInitWithFlags(flags: u32) -> u32 {
    init(Function::nvmlInitWithFlags, flags)
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlShutdown() -> u32 {
    returned(Function::nvmlShutdown, || {
        faults::strike(Function::nvmlShutdown, &[])?;
        session::shutdown()
    })
}

/// Works without a session and has no faults: it returns a text, not a code.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlErrorString(result: u32) -> *const c_char {
    faults::begin(&session::location().root);
    calls::count(Function::nvmlErrorString);
    code::text(result).as_ptr().cast()
}
