//! The resource pools that a node can use: which slices count, and whether a pool is complete and valid.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};

use crate::api::Node;
use crate::nodes;
use crate::profile::Profile;
use crate::world::{Device, PoolId, Slice, Sym, World};

/// Why a slice or pool offers nothing to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A newer generation is being published, and none of its slices is for this node.
    Obsolete {
        generation: i64,
    },
    /// Too few or too many slices.
    Incomplete {
        have: usize,
        want: i64,
        generation: i64,
        /// What is wrong besides, where releases look.
        invalid: Option<String>,
    },
    Invalid(String),
}

pub struct Pool {
    pub id: PoolId,
    pub trouble: Option<Trouble>,
    /// Slices with devices for the node, in the order in which devices are tried.
    pub slices: Vec<u32>,
    /// Slices whose devices are for other nodes; they only take part in counters.
    pub others: Vec<u32>,
    /// Slices with counter sets.
    pub counters: Vec<u32>,
    /// Whether a device has binding conditions: such pools come last.
    binds: bool,
}

/// Pools that were built for other nodes, with the slices of which they were.
#[derive(Default)]
pub struct Built(Mutex<HashMap<PoolId, FromSlices>>);

type FromSlices = (Vec<u32>, Arc<Pool>);

impl Built {
    fn pool(&self, world: &World, profile: &Profile, id: PoolId, slices: Vec<u32>) -> Arc<Pool> {
        let known = |built: &HashMap<PoolId, FromSlices>| {
            let (_, pool) = built.get(&id).filter(|(of, _)| *of == slices)?;
            Some(pool.clone())
        };
        if let Some(pool) = known(&self.0.lock().expect("no panic while locked")) {
            return pool;
        }
        // Other threads go on meanwhile; two that build the same pool build it alike.
        let pool = Arc::new(build(world, profile, id, slices.clone()));
        let mut built = self.0.lock().expect("no panic while locked");
        built.insert(id, (slices, pool.clone()));
        pool
    }
}

impl Pool {
    pub fn is_bad(&self) -> bool {
        self.trouble.is_some()
    }

    /// Why the pool is invalid.
    pub fn invalid(&self) -> Option<&str> {
        match &self.trouble {
            Some(Trouble::Invalid(reason)) => Some(reason),
            Some(Trouble::Incomplete { invalid, .. }) => invalid.as_deref(),
            _ => None,
        }
    }
}

/// Pools in the order in which the allocator looks at them; obsolete pools only if `with_obsolete`.
pub fn gather(
    world: &World,
    profile: &Profile,
    node: &Node,
    with_obsolete: bool,
    built: &Built,
) -> Result<Vec<Arc<Pool>>, String> {
    let quirks = &profile.quirks;
    let all: Vec<u32>;
    let own = world
        .slices_of_node
        .get(node.metadata.name.as_str())
        .map_or(&[][..], |v| v);
    let everywhere = |s: &u32| !world.slices[*s as usize].counters.is_empty();
    let candidates: &mut dyn Iterator<Item = u32> = if quirks.unordered {
        all = (0..world.slices.len() as u32).collect();
        &mut all.into_iter()
    } else if quirks.counters_for_every_node {
        let shared = (0..world.slices.len() as u32)
            .filter(|s| world.slices[*s as usize].node().is_empty() || everywhere(s));
        all = own
            .iter()
            .copied()
            .filter(|s| !everywhere(s))
            .chain(shared)
            .collect();
        &mut all.into_iter()
    } else {
        &mut own.iter().chain(&world.slices_of_no_node).copied()
    };
    let mut relevant: Vec<u32> = Vec::new();
    let mut last: Vec<u32> = Vec::new();
    for index in candidates {
        if !is_relevant(profile, node, &world.slices[index as usize])? {
            continue;
        }
        let first = everywhere(&index) && !quirks.plain_pools;
        match quirks.binding_slices_last && !first && binds(world, &[index]) {
            true => last.push(index),
            false => relevant.push(index),
        }
    }
    relevant.append(&mut last);
    let mut order: Vec<PoolId> = Vec::new();
    let mut kept: HashMap<PoolId, Vec<u32>> = HashMap::new();
    for index in relevant {
        let slice = &world.slices[index as usize];
        let list = kept.entry(slice.pool).or_insert_with(|| {
            order.push(slice.pool);
            Vec::new()
        });
        if let Some(first) = list.first() {
            let newest = world.slices[*first as usize].generation;
            if slice.generation < newest {
                continue;
            }
            if slice.generation > newest {
                list.clear();
            }
        }
        list.push(index);
    }
    let mut pools: Vec<(bool, Arc<Pool>)> = Vec::with_capacity(order.len());
    for id in order {
        let pool = built.pool(world, profile, id, kept.remove(&id).unwrap_or_default());
        if matches!(pool.trouble, Some(Trouble::Obsolete { .. })) && !with_obsolete {
            continue;
        }
        pools.push((!quirks.basic && pool.binds, pool));
    }
    pools.sort_by(|(a_late, a), (b_late, b)| {
        let names = || world.pool_name(a.id).cmp(&world.pool_name(b.id));
        let by_name = || match quirks.unordered {
            true => std::cmp::Ordering::Equal,
            false => names(),
        };
        a_late.cmp(b_late).then_with(by_name)
    });
    Ok(pools.into_iter().map(|(_, pool)| pool).collect())
}

fn is_relevant(profile: &Profile, node: &Node, slice: &Slice) -> Result<bool, String> {
    let partitions = profile.features.partitionable_devices;
    let counters = !slice.counters.is_empty() && !profile.quirks.plain_pools;
    if !partitions && (slice.per_device.is_some() || counters) {
        return Ok(false);
    }
    if slice.compatibility_groups && !profile.features.compatibility_groups {
        return Ok(false);
    }
    if profile.quirks.counters_for_every_node && counters {
        return Ok(true);
    }
    if !slice.node().is_empty() || slice.all_nodes || slice.node_selector.is_some() {
        return nodes::matches(
            node,
            slice.node(),
            slice.all_nodes,
            slice.node_selector.as_deref(),
        )
        .map_err(|e| {
            format!(
                "failed to perform node selection for slice {}: {e}",
                slice.name
            )
        });
    }
    if slice.is_per_device() {
        for device in &slice.devices {
            if device_matches(node, device).map_err(|e| {
                format!(
                    "failed to perform node selection for device in slice {}: {e}",
                    slice.name
                )
            })? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Whether a device with its own node selection is for the node.
pub fn device_matches(node: &Node, device: &Device) -> Result<bool, String> {
    match &device.rare {
        None => Ok(false),
        Some(rare) => nodes::matches(
            node,
            rare.node_name.as_deref().unwrap_or(""),
            rare.all_nodes,
            rare.node_selector.as_ref(),
        ),
    }
}

fn binds(world: &World, slices: &[u32]) -> bool {
    let mut devices = slices
        .iter()
        .flat_map(|s| &world.slices[*s as usize].devices);
    devices.any(|d| {
        d.rare
            .as_ref()
            .is_some_and(|r| r.binding_conditions.is_some())
    })
}

fn build(world: &World, profile: &Profile, id: PoolId, mut slices: Vec<u32>) -> Pool {
    if profile.quirks.plain_pools {
        return plain(world, profile, id, slices);
    }
    let first = &world.slices[slices[0] as usize];
    let (want, generation) = (first.count, first.generation);
    let mut others: Vec<u32> = Vec::new();
    let bad = |trouble| Pool {
        id,
        trouble: Some(trouble),
        slices: Vec::new(),
        others: Vec::new(),
        counters: Vec::new(),
        binds: false,
    };
    if slices.len() as i64 != want {
        let published = &world.slices_of_pool[id.0 as usize];
        let newest = published
            .iter()
            .map(|s| world.slices[*s as usize].generation)
            .max()
            .unwrap_or(generation);
        if newest > generation {
            return bad(Trouble::Obsolete { generation: newest });
        }
        let all: Vec<u32> = published
            .iter()
            .copied()
            .filter(|s| {
                let slice = &world.slices[*s as usize];
                let ignored = slice.compatibility_groups && !profile.features.compatibility_groups;
                slice.generation == generation && !ignored
            })
            .collect();
        if all.len() as i64 != want {
            return bad(Trouble::Incomplete {
                have: all.len(),
                want,
                generation,
                invalid: None,
            });
        }
        if slices.len() < all.len() {
            let names: HashSet<&str> = slices
                .iter()
                .map(|s| &*world.slices[*s as usize].name)
                .collect();
            others = all
                .into_iter()
                .filter(|s| !names.contains(&*world.slices[*s as usize].name))
                .collect();
        }
    }
    if !profile.quirks.unordered {
        slices.sort_by(|a, b| {
            world.slices[*a as usize]
                .name
                .cmp(&world.slices[*b as usize].name)
        });
    }
    let partitions = profile.features.partitionable_devices;
    let has_counters = |s: &u32| partitions && !world.slices[*s as usize].counters.is_empty();
    let mut counters: Vec<u32> = slices.iter().copied().filter(has_counters).collect();
    slices.retain(|s| !has_counters(s));
    if !profile.quirks.unordered {
        counters.extend(others.iter().copied().filter(has_counters));
        others.retain(|s| !has_counters(s));
    }
    let pool = Pool {
        id,
        trouble: None,
        binds: binds(world, &slices),
        slices,
        others,
        counters,
    };
    match validate(world, profile, &pool) {
        Ok(()) => pool,
        Err(reason) => bad(Trouble::Invalid(reason)),
    }
}

/// A pool as releases up to 1.34 build it, and the stable variant of 1.35.
fn plain(world: &World, profile: &Profile, id: PoolId, slices: Vec<u32>) -> Pool {
    let first = &world.slices[slices[0] as usize];
    let (want, generation) = (first.count, first.generation);
    let invalid = unique_devices(world, &slices).err();
    let mut have = slices.len();
    let mut obsolete = None;
    if have as i64 != want && !profile.quirks.bad_pools_serve {
        let published = &world.slices_of_pool[id.0 as usize];
        let generations = || {
            published
                .iter()
                .map(|s| world.slices[*s as usize].generation)
        };
        have = generations().filter(|g| *g == generation).count();
        obsolete = generations().max().filter(|newest| *newest > generation);
    }
    let trouble = match (obsolete, have as i64 == want, invalid) {
        (Some(generation), _, _) => Some(Trouble::Obsolete { generation }),
        (None, false, invalid) => Some(Trouble::Incomplete {
            have,
            want,
            generation,
            invalid,
        }),
        (None, true, invalid) => invalid.map(Trouble::Invalid),
    };
    let serves = match &trouble {
        None => true,
        Some(Trouble::Incomplete { invalid: None, .. }) => profile.quirks.bad_pools_serve,
        Some(_) => false,
    };
    Pool {
        id,
        trouble,
        binds: binds(world, &slices),
        slices: if serves { slices } else { Vec::new() },
        others: Vec::new(),
        counters: Vec::new(),
    }
}

fn unique_devices(world: &World, slices: &[u32]) -> Result<(), String> {
    let mut names: HashSet<Sym> = HashSet::new();
    for device in slices
        .iter()
        .flat_map(|s| &world.slices[*s as usize].devices)
    {
        if !names.insert(device.name) {
            return Err(format!(
                "duplicate device name {}",
                world.names.text(device.name)
            ));
        }
    }
    Ok(())
}

fn validate(world: &World, profile: &Profile, pool: &Pool) -> Result<(), String> {
    unique_devices(world, &pool.slices)?;
    if !profile.features.partitionable_devices {
        return Ok(());
    }
    let mut sets: HashMap<Sym, Vec<Sym>> = HashMap::new();
    for set in pool
        .counters
        .iter()
        .flat_map(|s| &world.slices[*s as usize].counters)
    {
        let counters = set.counters.iter().map(|(name, _)| *name).collect();
        if sets.insert(set.name, counters).is_some() {
            return Err(format!(
                "duplicate counter set name {}",
                world.names.text(set.name)
            ));
        }
    }
    for device in pool
        .slices
        .iter()
        .chain(&pool.others)
        .flat_map(|s| &world.slices[*s as usize].devices)
    {
        for consumed in device.consumes.iter() {
            let Some(set) = sets.get(&consumed.set) else {
                return Err(format!(
                    "counter set {} not found",
                    world.names.text(consumed.set)
                ));
            };
            if let Some((missing, _)) = consumed
                .counters
                .iter()
                .find(|(name, _)| !set.contains(name))
            {
                let (missing, set) = (world.names.text(*missing), world.names.text(consumed.set));
                return Err(format!("counter {missing} not found in counter set {set}"));
            }
        }
    }
    Ok(())
}
