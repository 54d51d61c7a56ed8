//! Versions of driver, library and CUDA.

use std::ffi::{c_char, c_int};

use crate::abi::{Handle, Out, write_text};
use crate::code::Code;
use crate::exports::{returned, system_calls};
use crate::faults;
use crate::functions::Function;
use crate::session::{self, Session};
use crate::topology::{Scope, has_bit};

/// CUDA's version is known without a session too.
fn cuda_version(function: Function, version: Out<c_int>) -> u32 {
    returned(function, || {
        faults::strike(function, &[])?;
        let cuda_version = match session::current() {
            Ok(session) => session.portrait.cuda_version.value,
            Err(_) => {
                session::location()
                    .portrait()
                    .map_err(|_| Code::LIBRARY_NOT_FOUND)?
                    .cuda_version
                    .value
            }
        };
        version.set(cuda_version as c_int)
    })
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlSystemGetCudaDriverVersion(version: Out<c_int>) -> u32 {
    cuda_version(Function::nvmlSystemGetCudaDriverVersion, version)
}

#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: Out<c_int>) -> u32 {
    cuda_version(Function::nvmlSystemGetCudaDriverVersion_v2, version)
}

system_calls! {
    nvmlSystemGetDriverVersion(session, version: Out<c_char>, length: u32) {
        write_text(&version, length, &session.driver_version)
    }

    nvmlSystemGetNVMLVersion(session, version: Out<c_char>, length: u32) {
        let cuda_major = session.portrait.cuda_version.value / 1000;
        write_text(&version, length, &format!("{cuda_major}.{}", session.driver_version))
    }

    nvmlSystemGetTopologyGpuSet(session, cpu: u32, count: Out<u32>, devices: Out<Handle>) {
        let near: Vec<Handle> = session
            .gpus
            .iter()
            .filter(|seen| has_bit(&seen.processors[Scope::Node as usize], cpu))
            .map(|seen| session.handle(seen))
            .collect();
        super::topology::counted(&near, &count, &devices)
    }
}

/// `nvmlSystemDriverBranchInfo_v1_t`: a version word, then 80 bytes text.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Branch {
    version: u32,
    branch: [u8; 80],
}

fn branch(session: &Session) -> String {
    let major = session.driver_version.split('.').next().unwrap_or_default();
    format!("r{major}_00")
}

/// The branch of the driver; `length` bounds the text inside the struct.
#[unsafe(no_mangle)]
#[allow(non_snake_case)]
pub extern "C" fn nvmlSystemGetDriverBranch(out: Out<Branch>, length: u32) -> u32 {
    crate::exports::on_system(Function::nvmlSystemGetDriverBranch, |session| {
        faults::strike(Function::nvmlSystemGetDriverBranch, &[])?;
        let asked = out.get()?;
        if asked.version != crate::abi::versioned::<Branch>(1) {
            return Err(Code::ARGUMENT_VERSION_MISMATCH);
        }
        let branch = branch(session);
        if length as usize <= branch.len() {
            return Err(Code::INSUFFICIENT_SIZE);
        }
        out.set(Branch {
            branch: crate::abi::fixed(&branch),
            ..asked
        })
    })
}
