//! Nodes that publish the same devices: one world for all of them, and a table of what each occupancy answers.

use std::collections::HashMap;
use std::sync::Arc;

use super::occupancy::{Occupancy, Taken};
use crate::api::{Node, ResourceClaim, ResourceSlice};
use crate::profile::Profile;
use crate::quantity::Quantity;
use crate::search::{At, Attempt, Candidate, ClaimResult, Failure, Kept, Observer, Reason, Shared};
use crate::world::{AttributeValue, Device, Sym, World};

/// Steps of one search at most; what takes more counts as timed out.
const MAX_STEPS: u64 = 200_000;
const MIB_NANOS: i128 = 1_000_000_000 * 1024 * 1024;

/// Why a node refuses, from the shallowest reason to the deepest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Cause {
    NoDevice = 1,
    TooFew,
    InUse,
    Taint,
    Capacity,
    Counters,
    Constraint,
    Pool,
    Timeout,
    Error,
    Unknown,
}

/// Codes by cause; as in `nvdra claim explain`.
pub const CAUSES: [&str; 12] = [
    "",
    "device.none",
    "devices.few",
    "device.in-use",
    "taint",
    "capacity.exhausted",
    "counters.short",
    "constraint.mismatch",
    "pool.invalid",
    "timeout",
    "cel.runtime",
    "claim.unsupported",
];

const ALL_CAUSES: [Cause; 11] = [
    Cause::NoDevice,
    Cause::TooFew,
    Cause::InUse,
    Cause::Taint,
    Cause::Capacity,
    Cause::Counters,
    Cause::Constraint,
    Cause::Pool,
    Cause::Timeout,
    Cause::Error,
    Cause::Unknown,
];

impl Cause {
    /// The cause with this number, from 1.
    pub fn of(number: usize) -> Cause {
        ALL_CAUSES[number - 1]
    }
}

/// A device in use from the start; `share` is what a share of it consumes.
pub struct Allocated {
    pub driver: String,
    pub pool: String,
    pub device: String,
    pub share: Option<Vec<(String, String)>>,
}

/// What a placement takes of a node, and the occupancy after it.
pub struct Placement {
    pub taken: Arc<[Taken]>,
    pub after: u32,
    /// Higher where better alternatives were chosen, as the scheduler scores them.
    pub score: i64,
}

#[derive(Clone, Copy)]
pub enum Verdict {
    Fits(u32),
    Refused(Cause),
}

/// Figures of one occupancy, in MiB and GPUs.
#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Figures {
    pub used: u64,
    pub busy: u32,
    /// Free memory of GPUs that are in use.
    pub scattered: u64,
}

struct Placed {
    gpu: u32,
    memory: u64,
}

pub struct NodeType {
    world: World,
    node: Node,
    shared: Shared,
    devices: Vec<Placed>,
    /// Memory of each GPU, in MiB.
    gpus: Vec<u64>,
    memory: Option<Sym>,
    occupancies: Vec<Occupancy>,
    figures: Vec<Figures>,
    known: HashMap<Occupancy, u32>,
    /// By template and occupancy: 0 unknown, up to 15 a cause, else the number of a placement plus 16.
    verdicts: Vec<Vec<u32>>,
    placements: Vec<Placement>,
    /// Verdicts of selectors by template.
    kept: Vec<Kept>,
    /// The first error by template, for people.
    pub errors: HashMap<usize, String>,
    pub searches: u64,
}

const FIRST_PLACEMENT: u32 = 16;

impl NodeType {
    pub fn new(world: World, node: Node) -> NodeType {
        let memory = world.names.get("memory");
        let (devices, gpus) = gpus(&world, memory);
        let mut made = NodeType {
            world,
            node,
            shared: Shared::default(),
            devices,
            gpus,
            memory,
            occupancies: Vec::new(),
            figures: Vec::new(),
            known: HashMap::new(),
            verdicts: Vec::new(),
            placements: Vec::new(),
            kept: Vec::new(),
            errors: HashMap::new(),
            searches: 0,
        };
        made.number(Occupancy::default());
        made
    }

    /// A world with the slices of one node.
    pub fn read(
        slices: Vec<ResourceSlice>,
        node: Node,
        classes: &[crate::api::DeviceClass],
    ) -> Result<NodeType, String> {
        let mut world = World::default();
        world.add_node(node.clone());
        for class in classes {
            world.add_class(class.clone());
        }
        for slice in slices {
            world.add_slice(slice)?;
        }
        Ok(NodeType::new(world, node))
    }

    pub fn gpus(&self) -> usize {
        self.gpus.len()
    }

    pub fn devices(&self) -> usize {
        self.devices.len()
    }

    /// Memory of all GPUs, in MiB.
    pub fn total(&self) -> u64 {
        self.gpus.iter().sum()
    }

    pub fn figures(&self, occupancy: u32) -> Figures {
        self.figures[occupancy as usize]
    }

    pub fn placement(&self, index: u32) -> &Placement {
        &self.placements[index as usize]
    }

    /// Driver, pool and name of a device.
    pub fn device_name(&self, device: u32) -> String {
        let (_, name) = self.world.device_name(crate::world::DeviceId(device));
        name.to_string()
    }

    /// The occupancy with devices by name taken; names that the node does not have are left out.
    pub fn occupied(&mut self, devices: &[Allocated]) -> Result<u32, String> {
        let mut made = Occupancy::default();
        for one in devices {
            let found = self.world.find_device(&one.driver, &one.pool, &one.device);
            let Some(id) = found.filter(|id| (id.0 as usize) < self.devices.len()) else {
                continue;
            };
            let mut consumed = Vec::new();
            for (name, amount) in one.share.iter().flatten() {
                let amount = Quantity::parse(amount)
                    .map_err(|e| format!("device {}: consumed {name}: {e}", one.device))?;
                consumed.push((self.world.names.add(name), amount.nanos()));
            }
            made.take(&Taken {
                device: id.0,
                is_share: one.share.is_some(),
                consumed,
            });
        }
        Ok(self.number(made))
    }

    /// The occupancy after devices came back.
    pub fn without(&mut self, occupancy: u32, taken: &[Taken]) -> u32 {
        let mut made = self.occupancies[occupancy as usize].clone();
        for one in taken {
            made.give_back(one);
        }
        self.number(made)
    }

    /// What a node with this occupancy answers, if it was asked before.
    pub fn known(&self, template: usize, occupancy: u32) -> Option<Verdict> {
        let row = self.verdicts.get(template)?;
        match row.get(occupancy as usize).copied().unwrap_or(0) {
            0 => None,
            code if code < FIRST_PLACEMENT => Some(Verdict::Refused(Cause::of(code as usize))),
            code => Some(Verdict::Fits(code - FIRST_PLACEMENT)),
        }
    }

    pub fn verdict(
        &mut self,
        profile: &Profile,
        template: usize,
        claims: &[ResourceClaim],
        occupancy: u32,
    ) -> Verdict {
        if let Some(found) = self.known(template, occupancy) {
            return found;
        }
        let found = self.search(profile, template, claims, occupancy);
        if self.verdicts.len() <= template {
            self.verdicts.resize_with(template + 1, Vec::new);
        }
        let row = &mut self.verdicts[template];
        if row.len() <= occupancy as usize {
            row.resize(self.occupancies.len().max(row.len() * 2), 0);
        }
        row[occupancy as usize] = match found {
            Verdict::Refused(cause) => cause as u32,
            Verdict::Fits(index) => index + FIRST_PLACEMENT,
        };
        found
    }

    fn search(
        &mut self,
        profile: &Profile,
        template: usize,
        claims: &[ResourceClaim],
        occupancy: u32,
    ) -> Verdict {
        self.searches += 1;
        self.world.state = self.occupancies[occupancy as usize].state();
        // Counters depend on the occupancy; pools and compiled expressions do not.
        let mut shared = Shared::default();
        std::mem::swap(&mut shared.pools, &mut self.shared.pools);
        std::mem::swap(&mut shared.programs, &mut self.shared.programs);
        if self.kept.len() <= template {
            self.kept.resize_with(template + 1, Kept::on);
        }
        // Where verdicts may be those of another alternative, every search asks anew.
        let keeps = !profile.quirks.alternatives_misindexed;
        if keeps {
            std::mem::swap(&mut shared.kept, &mut self.kept[template]);
        }
        let list: Vec<&ResourceClaim> = claims.iter().collect();
        let mut causes = Deepest::default();
        let answer = Attempt {
            world: &self.world,
            profile,
            node: &self.node,
            claims: &list,
            shared: &shared,
            deadline: None,
            max_steps: Some(MAX_STEPS),
            observer: &mut causes,
        }
        .run();
        if keeps {
            std::mem::swap(&mut shared.kept, &mut self.kept[template]);
        }
        self.shared = shared;
        match answer.outcome {
            Ok(Some(results)) => {
                let (taken, score) = self.taken(claims, &results);
                let mut after = self.occupancies[occupancy as usize].clone();
                for one in &taken {
                    after.take(one);
                }
                let after = self.number(after);
                self.placements.push(Placement {
                    taken: taken.into(),
                    after,
                    score,
                });
                Verdict::Fits(self.placements.len() as u32 - 1)
            }
            Ok(None) if answer.pools.is_empty() => Verdict::Refused(Cause::NoDevice),
            Ok(None) => Verdict::Refused(causes.cause),
            Err(Failure::NodeError(_)) => Verdict::Refused(Cause::Pool),
            Err(Failure::TimedOut) => Verdict::Refused(Cause::Timeout),
            Err(Failure::Error(text)) => {
                self.errors.entry(template).or_insert(text);
                Verdict::Refused(Cause::Error)
            }
            Err(Failure::Unsupported(text)) => {
                self.errors.entry(template).or_insert(text);
                Verdict::Refused(Cause::Unknown)
            }
        }
    }

    fn taken(&self, claims: &[ResourceClaim], results: &[ClaimResult]) -> (Vec<Taken>, i64) {
        let granted = results.iter().flat_map(|result| &result.devices);
        let taken = granted.filter(|one| !one.admin).map(|one| Taken {
            device: one.candidate.id.0,
            is_share: one.shared,
            consumed: one
                .consumed
                .iter()
                .flatten()
                .map(|(name, quantity)| (*name, quantity.nanos()))
                .collect(),
        });
        let chosen = claims.iter().zip(results).flat_map(|(claim, result)| {
            let requests = claim.spec.devices.requests.iter();
            requests.zip(&result.alternatives)
        });
        let score = chosen
            .filter(|(request, _)| !request.first_available.is_empty())
            .map(|(_, index)| 8 - *index as i64)
            .sum();
        (taken.collect(), score)
    }

    fn number(&mut self, occupancy: Occupancy) -> u32 {
        if let Some(found) = self.known.get(&occupancy) {
            return *found;
        }
        let index = self.occupancies.len() as u32;
        self.figures.push(self.figure(&occupancy));
        self.known.insert(occupancy.clone(), index);
        self.occupancies.push(occupancy);
        index
    }

    fn figure(&self, occupancy: &Occupancy) -> Figures {
        let mut used: Vec<Option<u64>> = vec![None; self.gpus.len()];
        let dedicated = occupancy
            .dedicated()
            .map(|device| (device, self.devices[device as usize].memory));
        let shared = occupancy
            .shared(self.memory)
            .map(|(device, nanos)| (device, (nanos / MIB_NANOS) as u64));
        for (device, memory) in dedicated.chain(shared) {
            *used[self.devices[device as usize].gpu as usize].get_or_insert(0) += memory;
        }
        let mut figures = Figures::default();
        for (used, total) in used.iter().zip(&self.gpus) {
            if let Some(used) = used {
                figures.used += used.min(total);
                figures.busy += 1;
                figures.scattered += total - used.min(total);
            }
        }
        figures
    }
}

/// The deepest refusal at the furthest request.
struct Deepest {
    at: At,
    cause: Cause,
}

impl Default for Deepest {
    fn default() -> Self {
        Deepest {
            at: At::default(),
            cause: Cause::NoDevice,
        }
    }
}

impl Observer for Deepest {
    fn refused(&mut self, at: At, _: Option<Candidate>, reason: &dyn Fn() -> Reason) {
        let at = At {
            alternative: 0,
            ..at
        };
        if at < self.at {
            return;
        }
        let cause = match reason() {
            Reason::InUse | Reason::TakenHere { .. } => Cause::InUse,
            Reason::Capacity(_) => Cause::Capacity,
            Reason::Counters { .. } => Cause::Counters,
            Reason::Taint(_) => Cause::Taint,
            Reason::Constraint { .. } => Cause::Constraint,
            Reason::AllBlocked => Cause::InUse,
            Reason::TooMany => Cause::TooFew,
            _ => Cause::NoDevice,
        };
        self.cause = match at > self.at {
            true => cause,
            false => self.cause.max(cause),
        };
        self.at = at;
    }
}

/// The GPU and memory of each device, and the memory of each GPU, in MiB.
fn gpus(world: &World, memory: Option<Sym>) -> (Vec<Placed>, Vec<u64>) {
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let mut devices = Vec::new();
    let mut whole: Vec<u64> = Vec::new();
    let mut parts: Vec<u64> = Vec::new();
    for device in world.slices.iter().flat_map(|slice| &slice.devices) {
        let (key, is_part) = gpu_of(world, device);
        let next = numbers.len() as u32;
        let gpu = *numbers.entry(key).or_insert(next);
        if gpu == next {
            whole.push(0);
            parts.push(0);
        }
        let found = device.capacity.iter().find(|one| Some(one.name) == memory);
        let mib = found.map_or(0, |one| (one.value.nanos() / MIB_NANOS) as u64);
        match is_part {
            true => parts[gpu as usize] += mib,
            false => whole[gpu as usize] = whole[gpu as usize].max(mib),
        }
        devices.push((device.id, Placed { gpu, memory: mib }));
    }
    // A pool with two devices of one name is invalid and offers none; its numbers must fit all the same.
    devices.sort_by_key(|(id, _)| *id);
    devices.dedup_by_key(|(id, _)| *id);
    let totals = whole.into_iter().zip(parts);
    (
        devices.into_iter().map(|(_, placed)| placed).collect(),
        totals
            .map(|(whole, parts)| if whole > 0 { whole } else { parts })
            .collect(),
    )
}

/// What identifies the GPU of a device on its node, and whether the device is a part of it.
fn gpu_of(world: &World, device: &Device) -> (String, bool) {
    let attribute = |wanted: &str| {
        let wanted = world.names.get(wanted)?;
        let found = device.attributes.iter().find(|one| one.id == wanted)?;
        match &found.value {
            AttributeValue::Str(text) => Some(text.to_string()),
            _ => None,
        }
    };
    if let Some(parent) = attribute("parentUUID") {
        return (parent, true);
    }
    let own = attribute("uuid").unwrap_or_else(|| world.names.text(device.name).to_string());
    (own, false)
}
