//! NVML's return codes and their texts.

/// A return code other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(pub u32);

/// What an exported function comes to before it is turned into a number.
pub type Answer<T = ()> = Result<T, Code>;

macro_rules! codes {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        #[allow(dead_code)]
        impl Code {
            $(pub const $name: Code = Code($number);)*
        }

        /// Code, name as in `nvml.h` without its prefix, text as `nvmlErrorString` gives it (NUL at the end).
        const CODES: &[(u32, &str, &str)] = &[$(($number, stringify!($name), concat!($text, "\0")),)*];
    };
}

codes! {
    SUCCESS = 0, "Success";
    UNINITIALIZED = 1, "Uninitialized";
    INVALID_ARGUMENT = 2, "Invalid Argument";
    NOT_SUPPORTED = 3, "Not Supported";
    NO_PERMISSION = 4, "Insufficient Permissions";
    ALREADY_INITIALIZED = 5, "Already Initialized";
    NOT_FOUND = 6, "Not Found";
    INSUFFICIENT_SIZE = 7, "Insufficient Size";
    INSUFFICIENT_POWER = 8, "Insufficient External Power";
    DRIVER_NOT_LOADED = 9, "Driver Not Loaded";
    TIMEOUT = 10, "Timeout";
    IRQ_ISSUE = 11, "Interrupt Request Issue";
    LIBRARY_NOT_FOUND = 12, "NVML Shared Library Not Found";
    FUNCTION_NOT_FOUND = 13, "Function Not Found";
    CORRUPTED_INFOROM = 14, "Corrupted infoROM";
    GPU_IS_LOST = 15, "GPU is lost";
    RESET_REQUIRED = 16, "GPU requires reset";
    OPERATING_SYSTEM = 17, "The operating system has blocked the request";
    LIB_RM_VERSION_MISMATCH = 18, "RM has detected an NVML/RM version mismatch";
    IN_USE = 19, "In use by another client";
    MEMORY = 20, "Insufficient Memory";
    NO_DATA = 21, "No data";
    VGPU_ECC_NOT_SUPPORTED = 22, "The requested vgpu operation is not available on target device, because ECC is enabled";
    INSUFFICIENT_RESOURCES = 23, "Insufficient Resources";
    FREQ_NOT_SUPPORTED = 24, "Frequency Not Supported";
    ARGUMENT_VERSION_MISMATCH = 25, "Argument version mismatch";
    DEPRECATED = 26, "Deprecated";
    NOT_READY = 27, "System Not Ready";
    GPU_NOT_FOUND = 28, "No GPUs were found";
    INVALID_STATE = 29, "Invalid State";
    RESET_TYPE_NOT_SUPPORTED = 30, "Reset type not supported";
    UNKNOWN = 999, "Unknown Error";
}

/// The text of a code, NUL at its end; codes nobody knows have a text too.
pub fn text(code: u32) -> &'static str {
    CODES
        .iter()
        .find(|entry| entry.0 == code)
        .map_or("Unknown Error\0", |entry| entry.2)
}

/// The code of this name (`GPU_IS_LOST` or `NVML_ERROR_GPU_IS_LOST`).
pub fn named(name: &str) -> Option<Code> {
    let bare = name
        .strip_prefix("NVML_ERROR_")
        .or_else(|| name.strip_prefix("NVML_"))
        .unwrap_or(name);
    CODES
        .iter()
        .find(|entry| entry.1 == bare)
        .map(|entry| Code(entry.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_prefix() {
        assert_eq!(named("GPU_IS_LOST"), Some(Code(15)));
        assert_eq!(named("NVML_ERROR_GPU_IS_LOST"), Some(Code(15)));
        assert_eq!(named("NVML_SUCCESS"), Some(Code(0)));
        assert_eq!(named("gpu is lost"), None);
    }

    #[test]
    fn every_text_ends_in_one_nul() {
        for code in 0..1000 {
            assert_eq!(text(code).find('\0'), Some(text(code).len() - 1));
        }
    }
}
