//! Settings of a GPU besides its partitions: compute mode and time slice.

use serde::{Deserialize, Serialize};

use crate::code::{Answer, Code};

/// Names of compute modes, by NVML's numbers.
pub const COMPUTE_MODES: [&str; 4] = [
    "DEFAULT",
    "EXCLUSIVE_THREAD",
    "PROHIBITED",
    "EXCLUSIVE_PROCESS",
];
/// Names of time slices, by the numbers that `--set-timeslice` takes.
pub const TIME_SLICES: [&str; 4] = ["DEFAULT", "SHORT", "MEDIUM", "LONG"];

const EXCLUSIVE_THREAD: u32 = 1;

/// The settings of one GPU; all zero on a driver that was just loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    pub compute_mode: u32,
    pub time_slice: u32,
}

impl Settings {
    /// Another compute mode.
    ///
    /// Documented (nvml.h): an unknown mode is an invalid argument. Documented (texts of nvidia-smi): a GPU in MIG mode
    /// does not support it. Assumed: neither is EXCLUSIVE_THREAD supported, which is deprecated.
    pub fn set_compute_mode(&mut self, mode: u32, is_mig: bool) -> Answer {
        if mode as usize >= COMPUTE_MODES.len() {
            return Err(Code::INVALID_ARGUMENT);
        }
        if is_mig || mode == EXCLUSIVE_THREAD {
            return Err(Code::NOT_SUPPORTED);
        }
        self.compute_mode = mode;
        Ok(())
    }

    /// Another time slice. Assumed: a GPU in MIG mode takes it too.
    pub fn set_time_slice(&mut self, slice: u32) -> Answer {
        if slice as usize >= TIME_SLICES.len() {
            return Err(Code::INVALID_ARGUMENT);
        }
        self.time_slice = slice;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compute_modes_are_nvmls() {
        let mut gpu = Settings::default();
        for (mode, is_mig, result) in [
            (3, false, Ok(())),
            (1, false, Err(Code::NOT_SUPPORTED)),
            (4, false, Err(Code::INVALID_ARGUMENT)),
            (0, true, Err(Code::NOT_SUPPORTED)),
        ] {
            assert_eq!(gpu.set_compute_mode(mode, is_mig), result);
            assert_eq!(gpu.compute_mode, 3, "a refusal changes nothing");
        }
    }

    #[test]
    fn there_are_four_time_slices() {
        let mut gpu = Settings::default();
        assert_eq!(gpu.set_time_slice(3), Ok(()));
        assert_eq!(gpu.set_time_slice(4), Err(Code::INVALID_ARGUMENT));
        assert_eq!((gpu.compute_mode, gpu.time_slice), (0, 3));
    }
}
