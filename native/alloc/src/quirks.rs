//! What releases and variants do otherwise than the newest release, each as one switch.

use crate::profile::{Arithmetic, Features, Variant};

/// All off is what the newest release does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quirks {
    // Pools.
    /// Pools come in random order (here as they are met), slices in the order of the list; a request tries its devices
    /// in every order.
    pub unordered: bool,
    /// Slices with counters count for every node, whatever node they name.
    pub counters_for_every_node: bool,
    /// Slices of a pool that have devices with binding conditions come last.
    pub binding_slices_last: bool,
    /// A pool holds the slices for the node, with their own counters; nothing but device names is checked.
    pub plain_pools: bool,
    /// An incomplete pool still serves requests for a number of devices; an invalid one ends the search.
    pub bad_pools_serve: bool,

    // Requests and devices.
    /// Capacity requests are ignored, distinct attributes are unsupported, nothing is shared or bound.
    pub basic: bool,
    /// A search that would pass the limit of results goes on instead of cutting off what cannot help.
    pub no_cutoff: bool,
    /// While alternatives are checked, what one selects is remembered for the one before it; All goes on with the
    /// first alternative.
    pub alternatives_misindexed: bool,
    /// A request for all devices leaves out those whose capacity is in use.
    pub all_drops_exhausted: bool,
    /// A taint of any effect keeps requests away.
    pub every_taint_blocks: bool,
    /// A request that asks for capacity while the feature is off is named itself, not its alternative.
    pub capacity_gate_names_request: bool,

    // Counters and capacity.
    /// Counters of a slice are for the devices of this slice.
    pub counters_of_slice: bool,
    /// Two pools of one name share counters, of whatever driver they are.
    pub counters_by_pool_name: bool,
    /// Counters are charged for dedicated devices, not for shares.
    pub counters_dedicated_only: bool,
    /// A share that consumes no capacity does not count as paid for its counters.
    pub shares_pay_again: bool,
    /// Every share pays the counters.
    pub shares_always_pay: bool,
    /// A refused candidate keeps what it took: counters, and with too little capacity also constraints and its mark.
    pub refused_keep: bool,
    /// Capacity is checked a second time on the device whose place in the slice is the number within the request.
    pub capacity_of_other_device: bool,
    /// Capacities beyond 64 bits wrap around, and what cannot be computed skips the device instead of failing.
    pub capacity_wraps: bool,

    // Constraints.
    /// A distinct attribute remembers one value for each request.
    pub distinct_by_request: bool,
    /// A distinct attribute compares which device a value is of, not the value.
    pub distinct_by_device: bool,

    /// What lists have in common stays as narrow as it was when a device is given back.
    pub narrowed_stays: bool,

    // Results and texts.
    /// A claim's configuration is listed once for each request that it is for, and keeps its requests.
    pub config_for_each_request: bool,
    /// Results do not list tolerations.
    pub no_tolerations: bool,
    /// A node with an invalid pool and no fit is just a node without a fit.
    pub invalid_pools_unnamed: bool,
    /// Errors of selectors name no device and give no hint.
    pub terse_errors: bool,

    // Expressions.
    /// Attributes are of type any, which no comprehension takes.
    pub attributes_are_any: bool,
    /// An attribute that is a list fails every expression on its device.
    pub lists_are_no_values: bool,
    /// Functions cost and convert as the libraries before 1.37 do.
    pub old_functions: bool,
    /// There is no function `includes`.
    pub no_includes: bool,
}

impl Quirks {
    /// The switches of a variant of the release 1.`minor`.
    pub fn of(minor: u32, variant: Variant, features: &Features) -> Quirks {
        let stable = variant == Variant::Stable;
        let experimental = variant == Variant::Experimental;
        let (to_34, to_35, to_36) = (minor <= 34, minor <= 35, minor <= 36);
        let basic = stable || (to_35 && !experimental);
        let plain = to_34 || (to_35 && stable);
        Quirks {
            unordered: to_35 || stable,
            counters_for_every_node: !plain && (to_36 || stable),
            binding_slices_last: to_35 && experimental,
            plain_pools: plain,
            bad_pools_serve: to_34,
            basic,
            no_cutoff: to_35 && stable,
            alternatives_misindexed: to_35,
            all_drops_exhausted: to_36,
            every_taint_blocks: plain,
            capacity_gate_names_request: to_34,
            counters_of_slice: plain,
            counters_by_pool_name: to_35 && !plain,
            counters_dedicated_only: to_35 || stable,
            shares_pay_again: to_36,
            shares_always_pay: to_34,
            refused_keep: to_35,
            capacity_of_other_device: to_34 && experimental,
            capacity_wraps: to_36,
            distinct_by_request: to_36,
            distinct_by_device: to_34,
            narrowed_stays: to_36,
            config_for_each_request: to_36,
            no_tolerations: plain,
            invalid_pools_unnamed: to_34,
            terse_errors: to_36,
            attributes_are_any: to_36 && !features.list_type_attributes,
            lists_are_no_values: to_36 && !features.list_type_attributes,
            old_functions: to_36,
            no_includes: to_35,
        }
    }

    pub fn arithmetic(&self, fractional: bool) -> Arithmetic {
        Arithmetic {
            fractional,
            wraps: self.capacity_wraps,
        }
    }
}
