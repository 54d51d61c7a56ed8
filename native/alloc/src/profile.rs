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

/// One release's allocator with its gates.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    pub release: &'static str,
    pub variant: Variant,
    pub features: Features,
}

/// Releases that the engine imitates, proven against their own module.
pub const RELEASES: [&str; 1] = ["1.37"];

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

    pub fn is_stable(&self) -> bool {
        self.variant == Variant::Stable
    }
}
