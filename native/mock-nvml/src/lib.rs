//! `libnvidia-ml.so.1` without hardware.
//!
//! What a node has is data (`portrait`); where it is seen from decides how much of it is visible (`place`); what goes
//! wrong is data too (`faults`). A session holds no more than that, and the exported functions (`exports`) only
//! translate it into NVML's C interface. Changing state, when it comes, is one more field of `Session`.

#[allow(dead_code)]
mod abi;
mod calls;
mod code;
mod exports;
mod faults;
mod functions;
pub mod notation;
pub mod place;
pub mod portrait;
mod session;
pub mod topology;
