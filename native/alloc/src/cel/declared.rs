//! What expressions may use: stored ones everything that their release knows, new ones what the API server still accepts.

use crate::profile::{Profile, Quirks};

#[derive(Clone, Copy, Debug)]
pub struct Declared {
    /// Attributes are of type any, which no comprehension takes; else of type dyn.
    pub any: bool,
    pub includes: bool,
    /// The field allowMultipleAllocations of the device.
    pub shareable: bool,
    /// The list functions that came with 1.34.
    pub lists: bool,
}

/// Functions of the lists library.
const LISTS: [&str; 7] = [
    "slice",
    "flatten",
    "sort",
    "@sortByAssociatedKeys",
    "reverse",
    "distinct",
    "lists.range",
];

impl Declared {
    /// What the scheduler compiles with: whatever the release knows, its gates on or off.
    pub fn stored(quirks: &Quirks) -> Declared {
        Declared {
            any: quirks.attributes_are_any,
            includes: !quirks.no_includes,
            shareable: true,
            lists: true,
        }
    }

    /// What the API server accepts in new objects: what the release before knew, and what gates are on for.
    pub fn new_expressions(profile: &Profile) -> Declared {
        let lists_gate = profile.features.list_type_attributes;
        Declared {
            any: !lists_gate,
            includes: lists_gate,
            shareable: profile.features.consumable_capacity,
            lists: profile.minor() > 34,
        }
    }

    /// Whether a function that the engine knows is not there.
    pub fn lacks(&self, function: &str) -> bool {
        (!self.includes && function == "includes") || (!self.lists && LISTS.contains(&function))
    }
}
