//! The pure half of the native code: bytes in, bytes out. It knows no Python, no file and no clock.

pub mod error;
