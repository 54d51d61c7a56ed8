//! The error type of all modules, distinguished by kind.

use std::fmt;

/// The kind of wrong input; Python gets its name as `CoreError.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The bytes are not JSON.
    Syntax,
    /// The bytes end before the JSON does.
    Truncated,
    /// JSON, but not of the shape this object has.
    Malformed,
    /// A claim without an allocation.
    Unallocated,
    /// A stored checksum disagrees with the bytes.
    Checksum,
    /// Intact, but of a shape or version this release does not know.
    Future,
}

impl Kind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Syntax => "syntax",
            Kind::Truncated => "truncated",
            Kind::Malformed => "malformed",
            Kind::Unallocated => "unallocated",
            Kind::Checksum => "checksum",
            Kind::Future => "future",
        }
    }
}

/// An error: its kind, and a text for users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    pub text: String,
}

impl Error {
    pub fn new(kind: Kind, text: impl Into<String>) -> Self {
        Error {
            kind,
            text: text.into(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;
