//! Which allocator of which Kubernetes release is imitated.

pub use crate::quirks::Quirks;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Features {
    pub admin_access: bool,
    pub compatibility_groups: bool,
    pub consumable_capacity: bool,
    pub device_binding_and_status: bool,
    /// Only in 1.34, which chooses its variant by it.
    pub device_status: bool,
    pub device_taints: bool,
    pub fractional_capacity_range: bool,
    pub list_type_attributes: bool,
    pub partitionable_devices: bool,
    pub prioritized_list: bool,
}

/// Names of the features, as the scheduler's allocator calls them.
pub const FEATURES: [&str; 10] = [
    "AdminAccess",
    "CompatibilityGroups",
    "ConsumableCapacity",
    "DeviceBindingAndStatus",
    "DeviceStatus",
    "DeviceTaints",
    "FractionalCapacityRange",
    "ListTypeAttributes",
    "PartitionableDevices",
    "PrioritizedList",
];

impl Features {
    /// Switches a feature; an unknown one is an error if it is on, since ignoring it would be a guess.
    pub fn set(&mut self, name: &str, on: bool) -> Result<(), String> {
        let field = match name {
            "AdminAccess" => &mut self.admin_access,
            "CompatibilityGroups" => &mut self.compatibility_groups,
            "ConsumableCapacity" => &mut self.consumable_capacity,
            "DeviceBindingAndStatus" => &mut self.device_binding_and_status,
            "DeviceStatus" => &mut self.device_status,
            "DeviceTaints" => &mut self.device_taints,
            "FractionalCapacityRange" => &mut self.fractional_capacity_range,
            "ListTypeAttributes" => &mut self.list_type_attributes,
            "PartitionableDevices" => &mut self.partitionable_devices,
            "PrioritizedList" => &mut self.prioritized_list,
            _ if !on => return Ok(()),
            _ => {
                return Err(format!(
                    "feature {name} is not known to this engine; it knows {}",
                    FEATURES.join(", ")
                ));
            }
        };
        *field = on;
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Stable,
    Incubating,
    Experimental,
}

impl Variant {
    pub fn name(self) -> &'static str {
        match self {
            Variant::Stable => "stable",
            Variant::Incubating => "incubating",
            Variant::Experimental => "experimental",
        }
    }

    fn supports(self, minor: u32, f: &Features) -> bool {
        let late = f.device_binding_and_status
            || f.device_status
            || f.consumable_capacity
            || f.fractional_capacity_range;
        let early =
            f.admin_access || f.device_taints || f.partitionable_devices || f.prioritized_list;
        let alpha = f.compatibility_groups || f.list_type_attributes;
        let old = minor <= 35;
        match self {
            Variant::Stable => !(late || alpha || (old && early)),
            Variant::Incubating => !(alpha || (old && late)),
            Variant::Experimental => true,
        }
    }
}

/// How capacities are computed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arithmetic {
    pub fractional: bool,
    pub wraps: bool,
}

/// One release's allocator with its gates.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    pub release: &'static str,
    pub variant: Variant,
    pub features: Features,
    pub quirks: Quirks,
}

/// Releases that the engine imitates, proven against their own module.
pub const RELEASES: [&str; 4] = ["1.34", "1.35", "1.36", "1.37"];

/// The patch releases whose modules they are proven against, in the same order.
const PATCHES: [&str; 4] = ["1.34.13", "1.35.10", "1.36.6", "1.37.2"];

impl Profile {
    /// The profile of a release. `variant` is "auto" (the first that supports all features) or a name.
    pub fn new(release: &str, variant: &str, features: Features) -> Result<Profile, String> {
        let release = RELEASES
            .iter()
            .find(|known| **known == release)
            .ok_or_else(|| {
                format!(
                    "no profile for Kubernetes {release}; there is {}",
                    RELEASES.join(", ")
                )
            })?;
        let minor = minor_of(release);
        let since = [
            (
                "CompatibilityGroups",
                features.compatibility_groups,
                minor >= 37,
            ),
            (
                "FractionalCapacityRange",
                features.fractional_capacity_range,
                minor >= 37,
            ),
            (
                "ListTypeAttributes",
                features.list_type_attributes,
                minor >= 36,
            ),
            ("DeviceStatus", features.device_status, minor <= 34),
        ];
        if let Some((name, _, _)) = since.iter().find(|(_, on, known)| *on && !known) {
            return Err(format!(
                "feature {name} of Kubernetes {release} is not known to this engine"
            ));
        }
        let all = [Variant::Stable, Variant::Incubating, Variant::Experimental];
        let variant = match variant {
            "auto" => all.into_iter().find(|v| v.supports(minor, &features)),
            name => {
                let named = all.into_iter().find(|v| v.name() == name);
                Some(named.ok_or_else(|| format!("no allocator named {name}"))?)
                    .filter(|v| v.supports(minor, &features))
            }
        };
        let variant = variant.ok_or("internal error: no allocator available for feature set")?;
        Ok(Profile {
            release,
            variant,
            features,
            quirks: Quirks::of(minor, variant, &features),
        })
    }

    /// The gates that a release has on by default.
    pub fn defaults(release: &str) -> Result<Profile, String> {
        let minor = minor_of(release);
        let beta = minor >= 36;
        let features = Features {
            admin_access: true,
            compatibility_groups: false,
            consumable_capacity: beta,
            device_binding_and_status: beta,
            device_status: minor == 34,
            device_taints: beta,
            fractional_capacity_range: false,
            list_type_attributes: false,
            partitionable_devices: beta,
            prioritized_list: true,
        };
        Profile::new(release, "auto", features)
    }

    /// The patch release that the answers are proven against.
    pub fn patch(&self) -> &'static str {
        let known = RELEASES.iter().position(|release| *release == self.release);
        known.map_or(self.release, |index| PATCHES[index])
    }

    /// The number after the dot of the release.
    pub fn minor(&self) -> u32 {
        minor_of(self.release)
    }

    pub fn arithmetic(&self) -> Arithmetic {
        self.quirks
            .arithmetic(self.features.fractional_capacity_range)
    }
}

/// The number after the dot of a release; that of the newest for a text that is no release.
fn minor_of(release: &str) -> u32 {
    let minor = release.split_once('.').map(|(_, minor)| minor);
    minor.and_then(|text| text.parse().ok()).unwrap_or(u32::MAX)
}
