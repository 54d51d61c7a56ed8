//! One error for every room, told apart by its kind.

use std::fmt;

/// What kind of input was wrong; the name is what Python sees as `CoreError.kind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The bytes are not JSON, or not of the expected shape.
    Syntax,
    /// The bytes are well formed, but a stored checksum disagrees with them.
    Checksum,
}

impl Kind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Syntax => "syntax",
            Kind::Checksum => "checksum",
        }
    }
}

/// A refusal: its kind, and a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    pub kind: Kind,
    pub text: String,
}

impl Error {
    pub fn syntax(text: impl Into<String>) -> Self {
        Error { kind: Kind::Syntax, text: text.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Error {}

pub type Result<T> = std::result::Result<T, Error>;
