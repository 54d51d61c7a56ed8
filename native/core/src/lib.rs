//! The pure part of the native code: bytes in, bytes out. No Python, no files, no clock.

pub mod cdi;
pub mod checkpoint;
pub mod claim;
pub mod error;
pub mod fnv;
pub mod json;
pub mod matching;
pub mod quantity;
pub mod scalar;
pub mod shape;
pub mod time;
