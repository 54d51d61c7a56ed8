//! Empty on purpose: this crate exists for its build script, which compiles the Cython module.
