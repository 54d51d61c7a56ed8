//! `libnvidia-ml.so.1` without hardware.
//!
//! What a node has is data (`portrait`); where it is seen from decides how much of it is visible (`place`); what goes
//! wrong is data too (`faults`). How GPUs are partitioned is the one thing that changes: the rules are pure
//! (`partition`), what they come to is kept in the root (`ledger`, `capabilities`). A session holds no more than that,
//! and the exported functions (`exports`) only translate it into NVML's C interface.

#[allow(dead_code)]
mod abi;
mod calls;
pub mod capabilities;
pub mod code;
mod events;
mod exports;
mod faults;
mod functions;
pub mod ledger;
pub mod notation;
pub mod partition;
pub mod place;
pub mod portrait;
mod session;
pub mod topology;
