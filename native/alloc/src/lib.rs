//! The structured allocator of kube-scheduler and its CEL environment: the same answers, faster, and with reasons.

pub mod api;
pub mod capacity;
pub mod cases;
pub mod cel;
pub mod cluster;
pub mod constraint;
mod dump;
pub mod explain;
pub mod lint;
pub mod nodes;
pub mod pools;
pub mod profile;
mod quirks;
pub mod result;
pub mod search;
pub mod simulate;
pub mod world;

pub use nvdra_core::quantity;
