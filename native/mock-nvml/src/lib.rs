//! `libnvidia-ml.so.1` without hardware.
//!
//! A portrait describes the node (`portrait`). The library's location decides which GPUs are visible (`location`). A file
//! describes faults (`faults`). Only partitions and settings of GPUs change: their rules are pure (`partition`, `settings`),
//! and their state is stored in the root (`node_state`, `capabilities`). A session holds nothing else, and the exported
//! functions (`exports`) only translate it into NVML's C interface.

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
