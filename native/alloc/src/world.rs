//! The cluster as the allocator sees it: slices, classes, nodes and allocated devices, with interned names and indexes.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use crate::api;
use crate::cel;
use crate::quantity::Quantity;

/// A map by small numbers that nobody chooses: a multiplication hashes them well enough.
pub type FastMap<K, V> = HashMap<K, V, BuildHasherDefault<NumberHasher>>;

#[derive(Default)]
pub struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(number)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

/// An interned name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sym(u32);

#[derive(Default)]
pub struct Interner {
    known: HashMap<Arc<str>, Sym>,
    texts: Vec<Arc<str>>,
}

impl Interner {
    pub fn add(&mut self, text: &str) -> Sym {
        if let Some(sym) = self.known.get(text) {
            return *sym;
        }
        let sym = Sym(u32::try_from(self.texts.len()).expect("fewer than 2^32 names"));
        let text: Arc<str> = text.into();
        self.texts.push(text.clone());
        self.known.insert(text, sym);
        sym
    }

    pub fn get(&self, text: &str) -> Option<Sym> {
        self.known.get(text).copied()
    }

    pub fn text(&self, sym: Sym) -> &Arc<str> {
        &self.texts[sym.0 as usize]
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    Int(i64),
    Bool(bool),
    Str(Arc<str>),
    Version(Arc<str>),
    Ints(Arc<[i64]>),
    Bools(Arc<[bool]>),
    Strs(Arc<[Arc<str>]>),
    Versions(Arc<[Arc<str>]>),
    /// A type that this release does not know.
    Unknown,
}

impl fmt::Display for AttributeValue {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttributeValue::Int(i) => write!(out, "{i}"),
            AttributeValue::Bool(b) => write!(out, "{b}"),
            AttributeValue::Str(s) | AttributeValue::Version(s) => write!(out, "{s:?}"),
            AttributeValue::Ints(l) => write!(out, "{l:?}"),
            AttributeValue::Bools(l) => write!(out, "{l:?}"),
            AttributeValue::Strs(l) | AttributeValue::Versions(l) => write!(out, "{l:?}"),
            AttributeValue::Unknown => out.write_str("unknown"),
        }
    }
}

pub struct Attribute {
    /// As written.
    pub name: Sym,
    /// The part before the first slash, or the driver.
    pub domain: Sym,
    pub id: Sym,
    pub value: AttributeValue,
}

pub struct Capacity {
    pub name: Sym,
    pub domain: Sym,
    pub id: Sym,
    pub value: Quantity,
    pub policy: Option<Box<api::RequestPolicy>>,
}

pub struct Consumption {
    pub set: Sym,
    pub counters: Vec<(Sym, Quantity)>,
    pub groups: Vec<Sym>,
}

#[derive(Clone, Debug)]
pub struct Taint {
    pub taint: api::Taint,
    /// Name of the DeviceTaintRule; none if the driver publishes the taint.
    pub rule: Option<Arc<str>>,
}

pub struct Device {
    pub name: Sym,
    pub id: DeviceId,
    pub attributes: Box<[Attribute]>,
    /// Shared with devices of the same capacities; so are the counters below.
    pub capacity: Arc<[Capacity]>,
    pub consumes: Arc<[Consumption]>,
    pub taints: Vec<Taint>,
    pub shareable: bool,
    /// Whether every attribute is a scalar that expressions can hold.
    pub plain: bool,
    pub rare: Option<Box<Rare>>,
}

/// Fields that few devices have.
#[derive(Default)]
pub struct Rare {
    pub node_name: Option<String>,
    pub node_selector: Option<api::NodeSelector>,
    pub all_nodes: bool,
    pub binds_to_node: bool,
    pub binding_conditions: Option<Vec<String>>,
    pub binding_failure_conditions: Option<Vec<String>>,
}

/// Number of a (driver, pool, device).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(pub u32);

/// Number of a (driver, pool).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u32);

pub struct CounterSet {
    pub name: Sym,
    pub counters: Vec<(Sym, Quantity)>,
}

pub struct Slice {
    pub name: Box<str>,
    pub driver: Sym,
    pub pool: PoolId,
    pub generation: i64,
    pub count: i64,
    pub node_name: Option<Box<str>>,
    pub all_nodes: bool,
    pub node_selector: Option<Box<api::NodeSelector>>,
    pub per_device: Option<bool>,
    pub devices: Vec<Device>,
    pub counters: Vec<CounterSet>,
    pub compatibility_groups: bool,
    pub skip_node_operations: Option<Box<[String]>>,
}

impl Slice {
    pub fn is_per_device(&self) -> bool {
        self.per_device == Some(true)
    }

    pub fn node(&self) -> &str {
        self.node_name.as_deref().unwrap_or("")
    }
}

/// Devices in use: dedicated, shared by an identity, and the capacity that shares consume.
#[derive(Default, Clone)]
pub struct State {
    dedicated: Vec<u64>,
    shared: Vec<u64>,
    pub aggregate: HashMap<DeviceId, Vec<(Sym, Quantity)>>,
}

impl State {
    pub fn dedicate(&mut self, id: DeviceId) {
        set(&mut self.dedicated, id, true);
    }

    /// Takes the device out of the allocated state.
    pub fn release(&mut self, id: DeviceId) {
        set(&mut self.dedicated, id, false);
        set(&mut self.shared, id, false);
        self.aggregate.remove(&id);
    }

    /// Takes one of several shares back.
    pub fn give_back(&mut self, id: DeviceId, consumed: &[(Sym, Quantity)]) {
        for (name, quantity) in consumed {
            let entry = self.aggregate.get_mut(&id);
            let sum = entry.and_then(|list| list.iter_mut().find(|(known, _)| known == name));
            if let Some((_, sum)) = sum {
                *sum = sum.minus(quantity).unwrap_or(*sum);
            }
        }
    }

    pub fn share(&mut self, id: DeviceId) {
        set(&mut self.shared, id, true);
    }

    pub fn consume(&mut self, id: DeviceId, consumed: &[(Sym, Quantity)]) -> Result<(), String> {
        let entry = self.aggregate.entry(id).or_default();
        for (name, quantity) in consumed {
            match entry.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => {
                    *sum = sum
                        .plus(quantity)
                        .ok_or("consumed capacity is larger than this engine can represent")?;
                }
                None => entry.push((*name, *quantity)),
            }
        }
        Ok(())
    }

    pub fn is_dedicated(&self, id: DeviceId) -> bool {
        get(&self.dedicated, id)
    }

    pub fn is_shared(&self, id: DeviceId) -> bool {
        get(&self.shared, id)
    }

    pub fn is_allocated(&self, id: DeviceId) -> bool {
        self.is_dedicated(id) || self.is_shared(id) || self.aggregate.contains_key(&id)
    }
}

/// Everything about a named quantity.
fn quantity_key(name: Sym, quantity: &Quantity) -> impl Iterator<Item = u64> {
    [u64::from(name.0)].into_iter().chain(quantity.parts())
}

fn set(bits: &mut Vec<u64>, id: DeviceId, on: bool) {
    let (word, bit) = (id.0 as usize / 64, id.0 % 64);
    if bits.len() <= word {
        bits.resize(word + 1, 0);
    }
    if on {
        bits[word] |= 1 << bit;
    } else {
        bits[word] &= !(1 << bit);
    }
}

fn get(bits: &[u64], id: DeviceId) -> bool {
    bits.get(id.0 as usize / 64)
        .is_some_and(|word| word >> (id.0 % 64) & 1 == 1)
}

#[derive(Default)]
pub struct World {
    pub names: Interner,
    pub slices: Vec<Slice>,
    pub slices_of_node: HashMap<Box<str>, Vec<u32>>,
    pub slices_of_no_node: Vec<u32>,
    pub slices_of_pool: Vec<Vec<u32>>,
    pools: HashMap<(Sym, Sym), PoolId>,
    pool_names: Vec<(Sym, Sym)>,
    devices: HashMap<(PoolId, Sym), DeviceId>,
    device_names: Vec<(PoolId, Sym)>,
    pub nodes: Vec<api::Node>,
    node_index: HashMap<String, usize>,
    pub classes: HashMap<String, Arc<api::DeviceClass>>,
    pub rules: Vec<api::TaintRule>,
    pub state: State,
    capacities: Shapes<Capacity>,
    consumptions: Shapes<Consumption>,
}

/// Equal lists of many devices, kept once.
struct Shapes<T>(HashMap<Vec<u64>, Arc<[T]>>);

impl<T> Default for Shapes<T> {
    fn default() -> Self {
        Shapes(HashMap::new())
    }
}

impl<T> Shapes<T> {
    /// The list under its key, which says everything about it.
    fn shared(&mut self, key: Vec<u64>, list: Vec<T>) -> Arc<[T]> {
        self.0.entry(key).or_insert_with(|| list.into()).clone()
    }
}

impl World {
    pub fn pool(&mut self, driver: &str, pool: &str) -> PoolId {
        let key = (self.names.add(driver), self.names.add(pool));
        if let Some(id) = self.pools.get(&key) {
            return *id;
        }
        let id = PoolId(self.pool_names.len() as u32);
        self.pools.insert(key, id);
        self.pool_names.push(key);
        self.slices_of_pool.push(Vec::new());
        id
    }

    pub fn device(&mut self, driver: &str, pool: &str, device: &str) -> DeviceId {
        let pool = self.pool(driver, pool);
        let name = self.names.add(device);
        self.device_of(pool, name)
    }

    pub fn find_device(&self, driver: &str, pool: &str, device: &str) -> Option<DeviceId> {
        let pool = self
            .pools
            .get(&(self.names.get(driver)?, self.names.get(pool)?))?;
        self.devices.get(&(*pool, self.names.get(device)?)).copied()
    }

    fn device_of(&mut self, pool: PoolId, name: Sym) -> DeviceId {
        let next = DeviceId(self.device_names.len() as u32);
        let id = *self.devices.entry((pool, name)).or_insert(next);
        if id == next {
            self.device_names.push((pool, name));
        }
        id
    }

    pub fn pool_name(&self, pool: PoolId) -> (&Arc<str>, &Arc<str>) {
        let (driver, name) = self.pool_names[pool.0 as usize];
        (self.names.text(driver), self.names.text(name))
    }

    /// The number of the pool's name, whatever its driver.
    pub fn pool_name_number(&self, pool: PoolId) -> u32 {
        self.pool_names[pool.0 as usize].1.0
    }

    pub fn pool_text(&self, pool: PoolId) -> String {
        let (driver, name) = self.pool_name(pool);
        format!("{driver}/{name}")
    }

    pub fn device_name(&self, id: DeviceId) -> (PoolId, &Arc<str>) {
        let (pool, name) = self.device_names[id.0 as usize];
        (pool, self.names.text(name))
    }

    pub fn device_text(&self, id: DeviceId) -> String {
        let (pool, name) = self.device_name(id);
        format!("{}/{name}", self.pool_text(pool))
    }

    pub fn node(&self, name: &str) -> Option<&api::Node> {
        self.node_index.get(name).map(|index| &self.nodes[*index])
    }

    pub fn add_node(&mut self, node: api::Node) {
        self.node_index
            .entry(node.metadata.name.clone())
            .or_insert(self.nodes.len());
        self.nodes.push(node);
    }

    pub fn add_class(&mut self, class: api::DeviceClass) {
        self.classes
            .entry(class.metadata.name.clone())
            .or_insert_with(|| Arc::new(class));
    }

    pub fn add_slice(&mut self, slice: api::ResourceSlice) -> Result<(), String> {
        let name = slice.metadata.name;
        let spec = slice.spec;
        let pool = self.pool(&spec.driver, &spec.pool.name);
        let driver = self.names.add(&spec.driver);
        let compatibility_groups = spec.devices.iter().any(|d| {
            d.consumes_counters
                .iter()
                .any(|c| !c.compatibility_groups.is_empty())
        });
        let mut devices = Vec::with_capacity(spec.devices.len());
        for device in spec.devices {
            let label = device.name.clone();
            devices.push(
                self.convert(pool, driver, device)
                    .map_err(|e| format!("ResourceSlice {name}, device {label}: {e}"))?,
            );
        }
        let counters = spec
            .shared_counters
            .into_iter()
            .map(|set| CounterSet {
                name: self.names.add(&set.name),
                counters: set
                    .counters
                    .iter()
                    .map(|(n, c)| (self.names.add(n), c.value))
                    .collect(),
            })
            .collect();
        let index = self.slices.len() as u32;
        match spec.node_name.as_deref() {
            None | Some("") => self.slices_of_no_node.push(index),
            Some(node) => self
                .slices_of_node
                .entry(node.into())
                .or_default()
                .push(index),
        }
        self.slices_of_pool[pool.0 as usize].push(index);
        self.slices.push(Slice {
            name: name.into(),
            driver,
            pool,
            generation: spec.pool.generation,
            count: spec.pool.resource_slice_count,
            node_name: spec.node_name.map(Into::into),
            all_nodes: spec.all_nodes.unwrap_or(false),
            node_selector: spec.node_selector.map(Box::new),
            per_device: spec.per_device_node_selection,
            devices,
            counters,
            compatibility_groups,
            skip_node_operations: spec.skip_node_operations.map(Into::into),
        });
        Ok(())
    }

    fn convert(
        &mut self,
        pool: PoolId,
        driver: Sym,
        device: api::Device,
    ) -> Result<Device, String> {
        let name = self.names.add(&device.name);
        let mut attributes = Vec::with_capacity(device.attributes.len());
        for (key, value) in device.attributes {
            let (domain, id) = self.split(&key, driver);
            let value = self
                .attribute(value)
                .map_err(|e| format!("attribute {key}: {e}"))?;
            attributes.push(Attribute {
                name: self.names.add(&key),
                domain,
                id,
                value,
            });
        }
        let mut capacity = Vec::with_capacity(device.capacity.len());
        for (key, value) in device.capacity {
            let (domain, id) = self.split(&key, driver);
            if let Some(range) = value
                .request_policy
                .as_ref()
                .and_then(|p| p.valid_range.as_ref())
            {
                let stepped = range.step.as_ref();
                if stepped.is_some_and(|step| step.is_zero())
                    || (stepped.is_some() && range.min.is_none())
                {
                    return Err(format!(
                        "capacity {key}: validRange with a step needs a min, and a step above zero"
                    ));
                }
            }
            let policy = value.request_policy.map(Box::new);
            capacity.push(Capacity {
                name: self.names.add(&key),
                domain,
                id,
                value: value.value,
                policy,
            });
        }
        let capacity: Arc<[Capacity]> = match capacity.iter().all(|c| c.policy.is_none()) {
            true => {
                let key = capacity.iter().flat_map(|c| quantity_key(c.name, &c.value));
                let key = [u64::from(driver.0)].into_iter().chain(key).collect();
                self.capacities.shared(key, capacity)
            }
            false => capacity.into(),
        };
        let mut key = Vec::new();
        let mut consumes = Vec::with_capacity(device.consumes_counters.len());
        for one in device.consumes_counters {
            let set = self.names.add(&one.counter_set);
            let counters: Vec<_> = one
                .counters
                .iter()
                .map(|(n, c)| (self.names.add(n), c.value))
                .collect();
            let groups: Vec<_> = one
                .compatibility_groups
                .iter()
                .map(|group| self.names.add(group))
                .collect();
            key.extend([u64::from(set.0), counters.len() as u64, groups.len() as u64]);
            key.extend(counters.iter().flat_map(|(n, q)| quantity_key(*n, q)));
            key.extend(groups.iter().map(|group| u64::from(group.0)));
            consumes.push(Consumption {
                set,
                counters,
                groups,
            });
        }
        let consumes = self.consumptions.shared(key, consumes);
        let rare = Rare {
            node_name: device.node_name,
            node_selector: device.node_selector,
            all_nodes: device.all_nodes.unwrap_or(false),
            binds_to_node: device.binds_to_node.unwrap_or(false),
            binding_conditions: device.binding_conditions,
            binding_failure_conditions: device.binding_failure_conditions,
        };
        let is_rare = rare.node_name.is_some()
            || rare.node_selector.is_some()
            || rare.all_nodes
            || rare.binds_to_node
            || rare.binding_conditions.is_some()
            || rare.binding_failure_conditions.is_some();
        let plain = attributes
            .iter()
            .all(|a: &Attribute| cel::convertible(&a.value, false).is_ok());
        Ok(Device {
            name,
            id: self.device_of(pool, name),
            plain,
            attributes: attributes.into(),
            capacity,
            consumes,
            taints: device
                .taints
                .into_iter()
                .map(|taint| Taint { taint, rule: None })
                .collect(),
            shareable: device.allow_multiple_allocations.unwrap_or(false),
            rare: is_rare.then(|| Box::new(rare)),
        })
    }

    fn attribute(&mut self, value: api::Attribute) -> Result<AttributeValue, String> {
        let mut texts = |list: Vec<String>| -> Arc<[Arc<str>]> {
            list.iter()
                .map(|text| {
                    let sym = self.names.add(text);
                    self.names.text(sym).clone()
                })
                .collect()
        };
        let mut found = Vec::new();
        found.extend(value.ints.map(|v| AttributeValue::Ints(v.into())));
        found.extend(value.bools.map(|v| AttributeValue::Bools(v.into())));
        found.extend(value.strings.map(|v| AttributeValue::Strs(texts(v))));
        found.extend(value.versions.map(|v| AttributeValue::Versions(texts(v))));
        found.extend(value.int.map(AttributeValue::Int));
        found.extend(value.bool.map(AttributeValue::Bool));
        found.extend(
            value
                .string
                .map(|v| AttributeValue::Str(texts(vec![v])[0].clone())),
        );
        found.extend(
            value
                .version
                .map(|v| AttributeValue::Version(texts(vec![v])[0].clone())),
        );
        match found.len() {
            0 => Ok(AttributeValue::Unknown),
            1 => Ok(found.remove(0)),
            _ => Err("more than one value".into()),
        }
    }

    fn split(&mut self, name: &str, driver: Sym) -> (Sym, Sym) {
        match name.split_once('/') {
            Some((domain, id)) => (self.names.add(domain), self.names.add(id)),
            None => (driver, self.names.add(name)),
        }
    }

    /// Adds the taint of a rule to the devices that it selects. A rule without a selector selects every device.
    pub fn add_rule(&mut self, rule: api::TaintRule) {
        let name: Arc<str> = rule.metadata.name.as_str().into();
        let selector = rule.spec.device_selector.as_ref();
        let differs =
            |wanted: Option<&String>, text: &Arc<str>| wanted.is_some_and(|w| **w != **text);
        for slice in &mut self.slices {
            let (driver, pool) = self.pool_names[slice.pool.0 as usize];
            if selector.is_some_and(|s| {
                differs(s.driver.as_ref(), self.names.text(driver))
                    || differs(s.pool.as_ref(), self.names.text(pool))
            }) {
                continue;
            }
            for device in &mut slice.devices {
                if selector
                    .is_some_and(|s| differs(s.device.as_ref(), self.names.text(device.name)))
                {
                    continue;
                }
                device.taints.push(Taint {
                    taint: rule.spec.taint.clone(),
                    rule: Some(name.clone()),
                });
            }
        }
        self.rules.push(rule);
    }

    /// Takes the devices of an allocated claim back; `is_only` says whether no other claim has the device.
    pub fn remove_allocation(
        &mut self,
        allocation: &api::Allocation,
        is_only: impl Fn(DeviceId) -> bool,
    ) {
        for entry in &allocation.devices.results {
            if entry.admin_access == Some(true) {
                continue;
            }
            let id = self.device(&entry.driver, &entry.pool, &entry.device);
            if is_only(id) {
                self.state.release(id);
                continue;
            }
            let consumed: Vec<_> = entry
                .consumed_capacity
                .iter()
                .flatten()
                .map(|(name, quantity)| (self.names.add(name), *quantity))
                .collect();
            self.state.give_back(id, &consumed);
        }
    }

    /// Marks the devices of an allocated claim as in use, by the rule of the scheduler.
    pub fn add_allocation(
        &mut self,
        allocation: &api::Allocation,
        consumable_capacity: bool,
    ) -> Result<(), String> {
        for entry in &allocation.devices.results {
            if entry.admin_access == Some(true) {
                continue;
            }
            let id = self.device(&entry.driver, &entry.pool, &entry.device);
            if consumable_capacity && entry.share_id.is_some() {
                self.state.share(id);
                if let Some(consumed) = &entry.consumed_capacity {
                    let consumed: Vec<_> = consumed
                        .iter()
                        .map(|(n, q)| (self.names.add(n), *q))
                        .collect();
                    self.state.consume(id, &consumed)?;
                }
            } else {
                self.state.dedicate(id);
            }
        }
        Ok(())
    }
}
