//! Which allocator of which Kubernetes release is imitated.

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Features {
    pub admin_access: bool,
    pub consumable_capacity: bool,
    pub device_binding_and_status: bool,
    pub device_taints: bool,
    pub fractional_capacity_range: bool,
    pub list_type_attributes: bool,
    pub partitionable_devices: bool,
    pub prioritized_list: bool,
}

/// Names of the features, as the scheduler's allocator calls them.
pub const FEATURES: [&str; 8] = [
    "AdminAccess",
    "ConsumableCapacity",
    "DeviceBindingAndStatus",
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
            "ConsumableCapacity" => &mut self.consumable_capacity,
            "DeviceBindingAndStatus" => &mut self.device_binding_and_status,
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

    fn supports(self, f: &Features) -> bool {
        let beyond_stable =
            f.device_binding_and_status || f.consumable_capacity || f.fractional_capacity_range;
        match self {
            Variant::Stable => !beyond_stable && !f.list_type_attributes,
            Variant::Incubating => !f.list_type_attributes,
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

/// What earlier releases do otherwise than the newest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quirks {
    /// Slices with counters count for every node, whatever node they name.
    pub counters_for_every_node: bool,
    /// A claim's configuration is listed once for each request that it is for, and keeps its requests.
    pub config_for_each_request: bool,
    /// A distinct attribute remembers one value for each request.
    pub distinct_by_request: bool,
    /// A request for all devices leaves out those whose capacity is in use.
    pub all_drops_exhausted: bool,
    /// A share that consumes no capacity does not count as paid for its counters.
    pub shares_pay_again: bool,
    /// Capacities beyond 64 bits wrap around, and what cannot be computed skips the device instead of failing.
    pub capacity_wraps: bool,
    /// Errors of selectors name no device and give no hint.
    pub terse_errors: bool,
    /// Attributes are of type any, which no comprehension takes, and lists are no values.
    pub attributes_are_any: bool,
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
pub const RELEASES: [&str; 2] = ["1.36", "1.37"];

/// The patch releases whose modules they are proven against, in the same order.
const PATCHES: [&str; 2] = ["1.36.6", "1.37.2"];

impl Quirks {
    fn of(release: &str) -> Quirks {
        let old = release == "1.36";
        Quirks {
            counters_for_every_node: old,
            config_for_each_request: old,
            distinct_by_request: old,
            all_drops_exhausted: old,
            shares_pay_again: old,
            capacity_wraps: old,
            terse_errors: old,
            attributes_are_any: old,
        }
    }
}

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
        let quirks = Quirks::of(release);
        for (name, on) in [
            (
                "FractionalCapacityRange",
                features.fractional_capacity_range,
            ),
            ("ListTypeAttributes", features.list_type_attributes),
        ] {
            if on && quirks.terse_errors {
                return Err(format!(
                    "feature {name} of Kubernetes {release} is not known to this engine"
                ));
            }
        }
        let all = [Variant::Stable, Variant::Incubating, Variant::Experimental];
        let variant = match variant {
            "auto" => all.into_iter().find(|v| v.supports(&features)),
            name => {
                let named = all.into_iter().find(|v| v.name() == name);
                Some(named.ok_or_else(|| format!("no allocator named {name}"))?)
                    .filter(|v| v.supports(&features))
            }
        };
        let variant = variant.ok_or("internal error: no allocator available for feature set")?;
        Ok(Profile {
            release,
            variant,
            features,
            quirks,
        })
    }

    /// The gates that a release has on by default.
    pub fn defaults(release: &str) -> Result<Profile, String> {
        let features = Features {
            admin_access: true,
            consumable_capacity: true,
            device_binding_and_status: true,
            device_taints: true,
            fractional_capacity_range: false,
            list_type_attributes: false,
            partitionable_devices: true,
            prioritized_list: true,
        };
        Profile::new(release, "auto", features)
    }

    /// The patch release that the answers are proven against.
    pub fn patch(&self) -> &'static str {
        let known = RELEASES.iter().position(|release| *release == self.release);
        known.map_or(self.release, |index| PATCHES[index])
    }

    pub fn arithmetic(&self) -> Arithmetic {
        Arithmetic {
            fractional: self.features.fractional_capacity_range,
            wraps: self.quirks.capacity_wraps,
        }
    }

    pub fn is_stable(&self) -> bool {
        self.variant == Variant::Stable
    }
}
