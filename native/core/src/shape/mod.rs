//! Go structs as tables, and the text that Go's encoder writes for a JSON value decoded into such a struct.
//!
//! Decoding into a struct and encoding it again drops unknown keys, sorts the others in the struct's order, fills in zero
//! values and omits `omitempty` fields. Claims are projected onto the checkpoint's fields this way, and old checkpoints
//! are re-encoded to verify their checksums.

mod checkpoint;
mod marshal;
mod tables;

pub use checkpoint::{DOMAIN, GPU, Sections};
pub use marshal::marshal;
pub use tables::CLAIM_STATUS;

/// The type of a Go field, as far as its JSON is concerned.
pub enum Shape {
    Text,
    Integer,
    Boolean,
    /// JSON kept as it is, but compact.
    Raw,
    /// RFC 3339 with seconds in UTC; the zero time is null.
    Time,
    /// A resource quantity in canonical form.
    Quantity,
    /// An integer, or 0 while the checksum itself is taken.
    Checksum,
    Struct(&'static [Field]),
    List(&'static Shape),
    Map(&'static Shape),
}

/// When a field is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Always; an absent value is the type's zero value.
    Always,
    /// Always; an absent value is null.
    OrNull,
    /// If the value is there, be it zero.
    Present,
    /// If the value is there and not zero.
    NonEmpty,
    /// `Always` or `NonEmpty`, as the writer's release had it.
    ByRelease,
}

pub struct Field {
    pub name: &'static str,
    pub shape: &'static Shape,
    pub keep: Keep,
}

/// How a struct is encoded: the release to imitate, and whether checksums count as zero.
#[derive(Clone, Copy)]
pub struct Style {
    pub mps_id_always: bool,
    pub zero_checksums: bool,
}

impl Style {
    pub const RELEASED: Style = Style {
        mps_id_always: true,
        zero_checksums: false,
    };
}
