//! The API objects that take part in allocation, as the API server serves them. An unknown field of a spec is an error.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::quantity::Quantity;

#[derive(Deserialize, Default, Clone, Debug)]
#[serde(default, rename_all = "camelCase")]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    pub deletion_timestamp: Option<String>,
}

#[derive(Deserialize, Clone, Debug)]
pub struct Node {
    pub metadata: Metadata,
}

#[derive(Deserialize, Serialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NodeSelector {
    #[serde(default, deserialize_with = "nullable")]
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct NodeSelectorTerm {
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub match_fields: Vec<Requirement>,
}

#[derive(Deserialize, Serialize, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    pub key: String,
    pub operator: String,
    #[serde(
        default,
        deserialize_with = "nullable",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub values: Vec<String>,
}

#[derive(Deserialize)]
pub struct ResourceSlice {
    pub metadata: Metadata,
    pub spec: ResourceSliceSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ResourceSliceSpec {
    pub driver: String,
    pub pool: ResourcePool,
    pub node_name: Option<String>,
    pub node_selector: Option<NodeSelector>,
    pub all_nodes: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    pub devices: Vec<Device>,
    pub per_device_node_selection: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    pub shared_counters: Vec<CounterSet>,
    pub partition_type_attribute: Option<String>,
    pub skip_node_operations: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ResourcePool {
    pub name: String,
    #[serde(default)]
    pub generation: i64,
    #[serde(default)]
    pub resource_slice_count: i64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CounterSet {
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub counters: BTreeMap<String, Counter>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    pub value: Quantity,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Device {
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub attributes: BTreeMap<String, Attribute>,
    #[serde(default, deserialize_with = "nullable")]
    pub capacity: BTreeMap<String, Capacity>,
    #[serde(default, deserialize_with = "nullable")]
    pub consumes_counters: Vec<CounterConsumption>,
    pub node_name: Option<String>,
    pub node_selector: Option<NodeSelector>,
    pub all_nodes: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    pub taints: Vec<Taint>,
    pub binds_to_node: Option<bool>,
    pub binding_conditions: Option<Vec<String>>,
    pub binding_failure_conditions: Option<Vec<String>>,
    pub allow_multiple_allocations: Option<bool>,
    pub node_allocatable_resources: Option<Value>,
}

#[derive(Deserialize, Default, Clone, Debug, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Attribute {
    pub int: Option<i64>,
    pub bool: Option<bool>,
    pub string: Option<String>,
    pub version: Option<String>,
    pub ints: Option<Vec<i64>>,
    pub bools: Option<Vec<bool>>,
    pub strings: Option<Vec<String>>,
    pub versions: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Capacity {
    #[serde(default = "zero")]
    pub value: Quantity,
    pub request_policy: Option<RequestPolicy>,
}

fn zero() -> Quantity {
    Quantity::ZERO
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RequestPolicy {
    pub default: Option<Quantity>,
    pub valid_values: Option<Vec<Quantity>>,
    pub valid_range: Option<ValidRange>,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct ValidRange {
    pub min: Option<Quantity>,
    pub max: Option<Quantity>,
    pub step: Option<Quantity>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct CounterConsumption {
    pub counter_set: String,
    #[serde(default, deserialize_with = "nullable")]
    pub counters: BTreeMap<String, Counter>,
    #[serde(default, deserialize_with = "nullable")]
    pub compatibility_groups: Vec<String>,
}

#[derive(Deserialize, Serialize, Clone, Debug, PartialEq, Eq, Hash)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Taint {
    #[serde(default)]
    pub key: String,
    #[serde(default)]
    pub value: String,
    #[serde(default)]
    pub effect: String,
    #[serde(skip_serializing)]
    pub time_added: Option<String>,
}

#[derive(Deserialize, Clone, Debug)]
pub struct TaintRule {
    pub metadata: Metadata,
    pub spec: TaintRuleSpec,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TaintRuleSpec {
    pub device_selector: Option<TaintSelector>,
    pub taint: Taint,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct TaintSelector {
    pub driver: Option<String>,
    pub pool: Option<String>,
    pub device: Option<String>,
}

#[derive(Deserialize, Clone, Debug)]
pub struct DeviceClass {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: DeviceClassSpec,
}

#[derive(Deserialize, Default, Clone, Debug)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
pub struct DeviceClassSpec {
    #[serde(deserialize_with = "nullable")]
    pub selectors: Vec<Selector>,
    #[serde(deserialize_with = "nullable")]
    pub config: Vec<Configuration>,
    pub extended_resource_name: Option<String>,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    pub cel: Option<Cel>,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Cel {
    #[serde(default)]
    pub expression: String,
}

/// Configuration of a class or a claim; a class has no requests. Parameters are passed on as they are.
#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    #[serde(default, deserialize_with = "nullable")]
    pub requests: Vec<String>,
    #[serde(default, deserialize_with = "readable")]
    pub opaque: Option<Value>,
}

#[derive(Deserialize, Clone, Debug)]
pub struct ResourceClaim {
    pub metadata: Metadata,
    pub spec: ResourceClaimSpec,
    #[serde(default)]
    pub status: ResourceClaimStatus,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields)]
pub struct ResourceClaimSpec {
    #[serde(default)]
    pub devices: DeviceClaim,
}

#[derive(Deserialize, Default, Clone, Debug)]
#[serde(deny_unknown_fields, default)]
pub struct DeviceClaim {
    #[serde(deserialize_with = "nullable")]
    pub requests: Vec<Request>,
    #[serde(deserialize_with = "nullable")]
    pub constraints: Vec<Constraint>,
    #[serde(deserialize_with = "nullable")]
    pub config: Vec<Configuration>,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Request {
    pub name: String,
    pub exactly: Option<ExactRequest>,
    #[serde(default, deserialize_with = "nullable")]
    pub first_available: Vec<SubRequest>,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExactRequest {
    #[serde(default)]
    pub device_class_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub selectors: Vec<Selector>,
    #[serde(default)]
    pub allocation_mode: String,
    #[serde(default)]
    pub count: i64,
    pub admin_access: Option<bool>,
    #[serde(default, deserialize_with = "nullable")]
    pub tolerations: Vec<Toleration>,
    pub capacity: Option<CapacityRequirements>,
    #[serde(default, deserialize_with = "nullable")]
    pub derived_attributes: Vec<Value>,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct SubRequest {
    pub name: String,
    #[serde(default)]
    pub device_class_name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub selectors: Vec<Selector>,
    #[serde(default)]
    pub allocation_mode: String,
    #[serde(default)]
    pub count: i64,
    #[serde(default, deserialize_with = "nullable")]
    pub tolerations: Vec<Toleration>,
    pub capacity: Option<CapacityRequirements>,
    #[serde(default, deserialize_with = "nullable")]
    pub derived_attributes: Vec<Value>,
}

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct CapacityRequirements {
    #[serde(default, deserialize_with = "nullable")]
    pub requests: BTreeMap<String, Quantity>,
}

#[derive(Deserialize, Serialize, Clone, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Toleration {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub operator: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub effect: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Constraint {
    #[serde(default, deserialize_with = "nullable")]
    pub requests: Vec<String>,
    pub match_attribute: Option<String>,
    pub distinct_attribute: Option<String>,
}

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default, rename_all = "camelCase")]
pub struct ResourceClaimStatus {
    pub allocation: Option<Allocation>,
    #[serde(deserialize_with = "nullable")]
    pub reserved_for: Vec<Consumer>,
}

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub struct Consumer {
    pub resource: String,
    pub name: String,
    pub uid: String,
}

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default, rename_all = "camelCase")]
pub struct Allocation {
    pub devices: AllocationDevices,
    pub node_selector: Option<NodeSelector>,
}

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub struct AllocationDevices {
    #[serde(deserialize_with = "nullable")]
    pub results: Vec<AllocationEntry>,
}

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default, rename_all = "camelCase")]
pub struct AllocationEntry {
    pub request: String,
    pub driver: String,
    pub pool: String,
    pub device: String,
    pub admin_access: Option<bool>,
    #[serde(rename = "shareID")]
    pub share_id: Option<String>,
    pub consumed_capacity: Option<BTreeMap<String, Quantity>>,
}

/// A value that users may write as they like: none where `Value` cannot hold it (too deep, half a surrogate pair).
fn readable<'de, D: Deserializer<'de>>(source: D) -> Result<Option<Value>, D::Error> {
    let raw = Option::<Box<RawValue>>::deserialize(source)?;
    Ok(raw.and_then(|raw| serde_json::from_str(raw.get()).ok()))
}

/// Null stands for an empty list or map.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    source: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(source)?.unwrap_or_default())
}
