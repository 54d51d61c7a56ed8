//! `libnvidia-ml.so.1` without hardware.
//!
//! What a node has is data (`portrait`); where it is seen from decides how much of it is visible (`location`); what goes
//! wrong is data too (`faults`). Partitions and settings of GPUs are the one thing that changes: the rules are pure
//! (`partition`, `settings`), what they come to is kept in the root (`node_state`, `capabilities`). A session holds no more than that,
//! and the exported functions (`exports`) only translate it into NVML's C interface.

#[allow(dead_code)]
mod abi;
mod calls;
pub mod capabilities;
pub mod code;
mod events;
mod exports;
pub mod faults;
mod functions;
pub mod location;
pub mod node_state;
pub mod notation;
pub mod partition;
pub mod portrait;
mod session;
pub mod settings;
pub mod topology;
