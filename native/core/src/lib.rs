//! The pure half of the native code: bytes in, bytes out. It knows no Python, no file and no clock.

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
