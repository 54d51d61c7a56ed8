//! The depth-first search for devices: claims, requests, alternatives and devices in order; the first full solution wins.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::api::{self, DeviceClass, Node, ResourceClaim, Toleration};
use crate::capacity::{self, Amounts, Shortage, Wanted};
use crate::cel;
use crate::constraint::{Constraint, Refusal};
use crate::nodes;
use crate::pools::{self, Pool};
use crate::profile::Profile;
use crate::quantity::Quantity;
use crate::world::{Device, DeviceId, FastMap as HashMap, PoolId, Slice, Sym, Taint, World};

/// Results of a claim at most.
const MAX_RESULTS: i64 = 32;

/// What ends a search without devices.
#[derive(Clone, Debug, PartialEq)]
pub enum Failure {
    /// Aborts the scheduling attempt of the pod.
    Error(String),
    /// Only this node is unsuitable.
    NodeError(String),
    TimedOut,
    /// The engine cannot answer as the scheduler would; never a verdict.
    Unsupported(String),
}

/// Why a candidate, request or pool was refused.
#[derive(Clone, Debug)]
pub enum Reason {
    InUse,
    TakenHere {
        claim: usize,
    },
    BindingGate,
    OtherNode,
    Selector {
        class: bool,
        index: usize,
    },
    Capacity(Shortage),
    CounterGate,
    Counters {
        set: Sym,
        counter: Sym,
        need: Quantity,
        available: i128,
        taken: i128,
        foreign: bool,
    },
    Taint(Box<Taint>),
    Constraint {
        index: usize,
        why: Refusal,
    },
    AllEmpty,
    AllBlocked,
    TooMany,
}

/// Learns what the search refuses. The default methods do nothing.
pub trait Observer {
    fn refused(&mut self, _at: At, _candidate: Option<Candidate>, _reason: &dyn Fn() -> Reason) {}
}

pub struct Silent;

impl Observer for Silent {}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct At {
    pub claim: usize,
    pub request: usize,
    pub alternative: usize,
}

#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub pool: u32,
    pub slice: u32,
    pub device: u32,
    pub id: DeviceId,
}

pub struct Granted {
    pub request: Arc<str>,
    pub candidate: Candidate,
    pub admin: bool,
    pub consumed: Option<Amounts>,
    pub shared: bool,
    pub tolerations: Arc<[Toleration]>,
}

pub struct ClaimResult {
    pub devices: Vec<Granted>,
    /// For each request the alternative in use.
    pub alternatives: Vec<usize>,
}

/// A request or one alternative of it.
struct Wish<'a> {
    name: &'a str,
    parent: Option<&'a str>,
    full: Arc<str>,
    class: Arc<DeviceClass>,
    selectors: &'a [api::Selector],
    admin: bool,
    tolerations: Arc<[Toleration]>,
    wanted: Option<Wanted>,
    count: i64,
    all: Option<Vec<Candidate>>,
    programs: Vec<Option<Arc<cel::Program>>>,
    /// Verdicts by candidate: 0 unknown, 1 no, 2 yes.
    selectable: Vec<u8>,
}

impl Wish<'_> {
    fn base(&self) -> &str {
        self.parent.unwrap_or(self.name)
    }
}

enum Stop {
    /// More than 32 results; ends only where no other device could help.
    TooMany,
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

type Counters = HashMap<(Sym, Sym), i128>;

/// Facts shared by all nodes of one attempt: compiled expressions and available counters.
#[derive(Default)]
pub struct Shared {
    available: Mutex<HashMap<PoolId, Arc<Counters>>>,
    pub pools: pools::Built,
    pub programs: cel::Cache,
}

pub struct Attempt<'a, O: Observer> {
    pub world: &'a World,
    pub profile: &'a Profile,
    pub node: &'a Node,
    pub claims: &'a [&'a ResourceClaim],
    pub shared: &'a Shared,
    pub deadline: Option<Instant>,
    pub max_steps: Option<u64>,
    pub observer: &'a mut O,
}

pub struct Answer {
    pub pools: Vec<Arc<Pool>>,
    pub outcome: Result<Option<Vec<ClaimResult>>, Failure>,
    pub steps: u64,
}

impl<O: Observer> Attempt<'_, O> {
    pub fn run(self) -> Answer {
        let pools = match pools::gather(
            self.world,
            self.profile,
            self.node,
            false,
            &self.shared.pools,
        ) {
            Ok(pools) => pools,
            Err(error) => {
                let outcome = Err(Failure::Error(format!("gather pool information: {error}")));
                return Answer {
                    pools: Vec::new(),
                    outcome,
                    steps: 0,
                };
            }
        };
        let mut steps = 0;
        let outcome = run(self, &pools, &mut steps);
        Answer {
            pools,
            outcome,
            steps,
        }
    }
}

fn run<O: Observer>(
    attempt: Attempt<'_, O>,
    pools: &[Arc<Pool>],
    steps: &mut u64,
) -> Result<Option<Vec<ClaimResult>>, Failure> {
    let mut candidates = Vec::new();
    for (index, pool) in pools.iter().enumerate() {
        for slice in &pool.slices {
            for (device, known) in attempt.world.slices[*slice as usize]
                .devices
                .iter()
                .enumerate()
            {
                candidates.push(Candidate {
                    pool: index as u32,
                    slice: *slice,
                    device: device as u32,
                    id: known.id,
                });
            }
        }
    }
    let mut search = Search {
        world: attempt.world,
        profile: attempt.profile,
        node: attempt.node,
        claims: attempt.claims,
        shared: attempt.shared,
        deadline: attempt.deadline,
        max_steps: attempt.max_steps,
        observer: attempt.observer,
        pools,
        candidates,
        wishes: Vec::new(),
        constraints: Vec::new(),
        allocating: HashMap::default(),
        capacity: HashMap::default(),
        consumed: HashMap::default(),
        available: HashMap::default(),
        results: attempt.claims.iter().map(|_| Vec::new()).collect(),
        chosen: attempt
            .claims
            .iter()
            .map(|c| vec![0; c.spec.devices.requests.len()])
            .collect(),
        steps: 0,
    };
    let outcome = search
        .validate()
        .and_then(|()| match search.step(At::default(), 0, false, 0) {
            Ok(done) => Ok(done),
            Err(Stop::TooMany) => Err(Failure::Error("allocation max size exceeded".into())),
            Err(Stop::Failed(failure)) => Err(failure),
        });
    *steps = search.steps;
    if !outcome? {
        if pools
            .iter()
            .any(|p| matches!(p.trouble, Some(pools::Trouble::Invalid(_))))
        {
            return Err(Failure::NodeError(
                "invalid resource pools were encountered".into(),
            ));
        }
        return Ok(None);
    }
    let chosen = std::mem::take(&mut search.chosen);
    let results = std::mem::take(&mut search.results);
    Ok(Some(
        results
            .into_iter()
            .zip(chosen)
            .map(|(devices, alternatives)| ClaimResult {
                devices,
                alternatives,
            })
            .collect(),
    ))
}

struct Search<'a, O: Observer> {
    world: &'a World,
    profile: &'a Profile,
    node: &'a Node,
    claims: &'a [&'a ResourceClaim],
    shared: &'a Shared,
    deadline: Option<Instant>,
    max_steps: Option<u64>,
    observer: &'a mut O,
    pools: &'a [Arc<Pool>],
    candidates: Vec<Candidate>,
    /// By claim, request, alternative.
    wishes: Vec<Vec<Vec<Wish<'a>>>>,
    constraints: Vec<Vec<Constraint<'a>>>,
    /// Claims for which a device is being allocated.
    allocating: HashMap<DeviceId, Vec<usize>>,
    capacity: HashMap<DeviceId, Amounts>,
    consumed: HashMap<PoolId, Counters>,
    available: HashMap<PoolId, Arc<Counters>>,
    results: Vec<Vec<Granted>>,
    chosen: Vec<Vec<usize>>,
    steps: u64,
}

/// What accepting one candidate changed.
struct Undo {
    counters: bool,
    constraints: usize,
    marked: bool,
    capacity: Option<(Amounts, bool)>,
    result: bool,
}

pub fn claim_text(claim: &ResourceClaim) -> String {
    match claim.metadata.namespace.as_str() {
        "" => claim.metadata.name.clone(),
        namespace => format!("{namespace}/{}", claim.metadata.name),
    }
}

impl<'a, O: Observer> Search<'a, O> {
    fn validate(&mut self) -> Result<(), Failure> {
        let features = self.profile.features;
        for (claim_index, claim) in self.claims.iter().enumerate() {
            let claim: &'a ResourceClaim = claim;
            let display = claim_text(claim);
            let mut least_of_claim = 0i64;
            self.wishes.push(Vec::new());
            for (index, request) in claim.spec.devices.requests.iter().enumerate() {
                let name = &request.name;
                if !features.prioritized_list && !request.first_available.is_empty() {
                    return Err(Failure::Error(format!(
                        "claim {display}, request {name}: has subrequests, but the DRAPrioritizedList feature is disabled"
                    )));
                }
                if !features.consumable_capacity && !self.profile.is_stable() {
                    let text =
                        "has capacity requests, but the DRAConsumableCapacity feature is disabled";
                    if request
                        .exactly
                        .as_ref()
                        .is_some_and(|e| e.capacity.is_some())
                    {
                        return Err(Failure::Error(format!(
                            "claim {display}, request {name}: {text}"
                        )));
                    }
                    if let Some(sub) = request
                        .first_available
                        .iter()
                        .find(|s| s.capacity.is_some())
                    {
                        return Err(Failure::Error(format!(
                            "claim {display}, subrequest {}: {text}",
                            sub.name
                        )));
                    }
                }
                self.wishes[claim_index].push(Vec::new());
                let at = At {
                    claim: claim_index,
                    request: index,
                    alternative: 0,
                };
                let least = if request.first_available.is_empty() {
                    let Some(exactly) = &request.exactly else {
                        return Err(Failure::Error(format!(
                            "claim {display}, request {name}: unknown request type"
                        )));
                    };
                    self.prepare(at, &display, Spec::exact(name, exactly))?
                } else {
                    let mut least = i64::MAX;
                    for (alternative, sub) in request.first_available.iter().enumerate() {
                        least = least.min(self.prepare(
                            At { alternative, ..at },
                            &display,
                            Spec::sub(name, sub),
                        )?);
                    }
                    least
                };
                if least > MAX_RESULTS - least_of_claim {
                    self.observer.refused(at, None, &|| Reason::TooMany);
                    return Err(Failure::Error(format!(
                        "claim {display}, request {name}: adding {least} devices exceeds the claim limit of {MAX_RESULTS}, with {least_of_claim} already accounted for"
                    )));
                }
                least_of_claim += least;
            }
            let mut constraints = Vec::new();
            for (index, constraint) in claim.spec.devices.constraints.iter().enumerate() {
                let made = Constraint::new(
                    self.world,
                    constraint,
                    features.list_type_attributes,
                    !self.profile.is_stable(),
                    self.profile.quirks.distinct_by_request,
                );
                constraints.push(made.ok_or_else(|| {
                    Failure::Error(format!(
                        "claim {display}, constraint #{index}: empty constraint (unsupported constraint type?)"
                    ))
                })?);
            }
            self.constraints.push(constraints);
        }
        Ok(())
    }

    /// Checks one request or alternative; returns the number of devices it wants.
    fn prepare(&mut self, at: At, display: &str, spec: Spec<'a>) -> Result<i64, Failure> {
        let name = spec.name;
        let fail = |text: String| {
            Err(Failure::Error(format!(
                "claim {display}, request {name}: {text}"
            )))
        };
        if spec.derived {
            return fail(
                "cannot handle request with derived attributes, the feature is disabled".into(),
            );
        }
        if let Some(index) = spec.selectors.iter().position(|s| s.cel.is_none()) {
            return Err(Failure::Error(format!(
                "claim {display}, request {name}, selector #{index}: CEL expression empty (unsupported selector type?)"
            )));
        }
        if !self.profile.features.admin_access && spec.admin_access.is_some() {
            return fail("admin access is requested, but the feature is disabled".into());
        }
        if spec.class.is_empty() {
            return fail("missing device class name (unsupported request type?)".into());
        }
        let Some(class) = self.world.classes.get(spec.class).cloned() else {
            return fail(format!(
                "could not retrieve device class {}: deviceclass.resource.k8s.io \"{}\" not found",
                spec.class, spec.class
            ));
        };
        let programs = class.spec.selectors.len() + spec.selectors.len();
        let wish = Wish {
            name,
            parent: spec.parent,
            full: match spec.parent {
                Some(parent) => format!("{parent}/{name}").into(),
                None => name.into(),
            },
            class,
            selectors: spec.selectors,
            admin: spec.admin_access == Some(true),
            tolerations: spec.tolerations.into(),
            wanted: spec.capacity.map(|c| wanted(self.world, c)),
            count: spec.count,
            all: None,
            programs: vec![None; programs],
            selectable: vec![0; self.candidates.len()],
        };
        self.wishes[at.claim][at.request].push(wish);
        match spec.mode {
            "ExactCount" if spec.count < 0 => fail(format!("negative count {}", spec.count)),
            "ExactCount" => Ok(spec.count),
            "All" => {
                let all = self.collect_all(at, display)?;
                let wish = &mut self.wishes[at.claim][at.request][at.alternative];
                wish.count = all.len() as i64;
                wish.all = Some(all);
                Ok(wish.count)
            }
            mode => fail(format!("unsupported count mode {mode}")),
        }
    }

    fn collect_all(&mut self, at: At, display: &str) -> Result<Vec<Candidate>, Failure> {
        let mut all = Vec::new();
        let mut next = 0;
        for index in 0..self.pools.len() {
            let pool = &self.pools[index];
            if let Some(trouble) = &pool.trouble {
                let state = match trouble {
                    pools::Trouble::Invalid(_) => "invalid",
                    _ => "being updated",
                };
                let name = self.wishes[at.claim][at.request][at.alternative].name;
                return Err(Failure::Error(format!(
                    "claim {display}, request {name}: asks for all devices, but resource pool {} is currently {state}",
                    self.world.pool_text(pool.id)
                )));
            }
            while next < self.candidates.len() && self.candidates[next].pool as usize == index {
                let candidate = self.candidates[next];
                if self.is_selectable(at, next)?
                    && self.has_static_capacity(at, candidate, display)?
                {
                    all.push(candidate);
                }
                next += 1;
            }
        }
        Ok(all)
    }

    /// Whether an unused device could hold the request.
    fn has_static_capacity(
        &mut self,
        at: At,
        candidate: Candidate,
        display: &str,
    ) -> Result<bool, Failure> {
        if !self.profile.features.consumable_capacity {
            return Ok(true);
        }
        if self.profile.quirks.all_drops_exhausted {
            return self.has_capacity(at, candidate, "checking capacity");
        }
        let wish = &self.wishes[at.claim][at.request][at.alternative];
        let (_, device) = self.device(candidate);
        match capacity::check(wish.wanted.as_ref(), device, &[], self.profile.arithmetic()) {
            Ok(None) => Ok(true),
            Ok(Some(shortage)) => {
                self.observer
                    .refused(at, Some(candidate), &|| Reason::Capacity(shortage.clone()));
                Ok(false)
            }
            Err((capacity, error)) => Err(Failure::Error(format!(
                "claim {display}, request {}: checking capacity for device {}: capacity \"{}\": {error}",
                wish.name,
                self.world.names.text(device.name),
                self.world.names.text(capacity),
            ))),
        }
    }

    fn device(&self, candidate: Candidate) -> (&'a Slice, &'a Device) {
        let slice = &self.world.slices[candidate.slice as usize];
        (slice, &slice.devices[candidate.device as usize])
    }

    fn step(&mut self, at: At, k: i64, in_alternative: bool, start: usize) -> Result<bool, Stop> {
        self.steps += 1;
        if self.max_steps.is_some_and(|max| self.steps > max)
            || (self.steps.is_multiple_of(256)
                && self
                    .deadline
                    .is_some_and(|deadline| Instant::now() >= deadline))
        {
            return Err(Failure::TimedOut.into());
        }
        if at.claim >= self.claims.len() {
            return Ok(true);
        }
        if at.request >= self.wishes[at.claim].len() {
            return match self.step(
                At {
                    claim: at.claim + 1,
                    ..At::default()
                },
                0,
                false,
                0,
            ) {
                Err(Stop::TooMany) => Ok(false),
                other => other,
            };
        }
        let alternatives = self.wishes[at.claim][at.request].len();
        let wish = &self.wishes[at.claim][at.request][at.alternative];
        if !in_alternative && wish.parent.is_some() {
            let mut all_too_many = true;
            for alternative in 0..alternatives {
                match self.step(At { alternative, ..at }, k, true, 0) {
                    Err(Stop::TooMany) => continue,
                    Err(stop) => return Err(stop),
                    Ok(true) => {
                        self.chosen[at.claim][at.request] = alternative;
                        return Ok(true);
                    }
                    Ok(false) => all_too_many = false,
                }
            }
            return if all_too_many {
                Err(Stop::TooMany)
            } else {
                Ok(false)
            };
        }
        if wish.all.as_ref().is_some_and(Vec::is_empty) {
            self.observer.refused(at, None, &|| Reason::AllEmpty);
            return Ok(false);
        }
        if k >= wish.count {
            return self.step(
                At {
                    request: at.request + 1,
                    alternative: 0,
                    ..at
                },
                0,
                false,
                0,
            );
        }
        if wish.count - k > MAX_RESULTS - self.results[at.claim].len() as i64 {
            self.observer.refused(at, None, &|| Reason::TooMany);
            return Err(Stop::TooMany);
        }
        if let Some(all) = &wish.all {
            let candidate = all[k as usize];
            let Some(undo) = self.accept(at, candidate, true)? else {
                self.observer
                    .refused(at, Some(candidate), &|| Reason::AllBlocked);
                return Ok(false);
            };
            let done = self.step(at, k + 1, in_alternative, 0);
            if !matches!(done, Ok(true)) {
                self.undo(at, candidate, undo);
            }
            return done;
        }
        let admin = wish.admin;
        for index in start..self.candidates.len() {
            let candidate = self.candidates[index];
            if let Some(reason) = self.in_use(at, candidate.id, admin, false) {
                self.observer
                    .refused(at, Some(candidate), &|| reason.clone());
                continue;
            }
            if !self.is_selectable(at, index)? {
                continue;
            }
            if !self.has_capacity(at, candidate, "checking capacity")? {
                continue;
            }
            let Some(undo) = self.accept(at, candidate, false)? else {
                continue;
            };
            let next = if self.profile.is_stable() {
                0
            } else {
                index + 1
            };
            let done = self.step(at, k + 1, in_alternative, next);
            if matches!(done, Ok(true)) {
                return Ok(true);
            }
            self.undo(at, candidate, undo);
            done?;
        }
        Ok(false)
    }

    fn in_use(&self, at: At, id: DeviceId, admin: bool, shareable: bool) -> Option<Reason> {
        let taken = self.allocating.get(&id).map_or(&[][..], |v| v);
        if admin {
            let own = !shareable && taken.contains(&at.claim);
            return own.then_some(Reason::TakenHere { claim: at.claim });
        }
        if self.world.state.is_dedicated(id) {
            return Some(Reason::InUse);
        }
        taken
            .first()
            .map(|claim| Reason::TakenHere { claim: *claim })
    }

    /// Class selectors, request selectors, then the device's own node selection; the verdict is kept.
    fn is_selectable(&mut self, at: At, index: usize) -> Result<bool, Failure> {
        let candidate = self.candidates[index];
        let (slice, device) = self.device(candidate);
        let binding = device
            .rare
            .as_ref()
            .and_then(|r| r.binding_conditions.as_ref());
        if !self.profile.features.device_binding_and_status
            && binding.is_some_and(|b| !b.is_empty())
        {
            self.observer
                .refused(at, Some(candidate), &|| Reason::BindingGate);
            return Ok(false);
        }
        match self.wishes[at.claim][at.request][at.alternative].selectable[index] {
            1 => return Ok(false),
            2 => return Ok(true),
            _ => {}
        }
        let mut refusal = self.selectors(at, slice, device)?;
        if refusal.is_none() && slice.is_per_device() {
            let here = match &device.rare {
                None => false,
                Some(rare) => nodes::matches(
                    self.node,
                    rare.node_name.as_deref().unwrap_or(""),
                    rare.all_nodes,
                    rare.node_selector.as_ref(),
                )
                .map_err(Failure::Error)?,
            };
            if !here {
                refusal = Some(Reason::OtherNode);
            }
        }
        self.wishes[at.claim][at.request][at.alternative].selectable[index] =
            if refusal.is_some() { 1 } else { 2 };
        let Some(reason) = refusal else {
            return Ok(true);
        };
        self.observer
            .refused(at, Some(candidate), &|| reason.clone());
        Ok(false)
    }

    fn selectors(
        &mut self,
        at: At,
        slice: &Slice,
        device: &Device,
    ) -> Result<Option<Reason>, Failure> {
        let wish = &mut self.wishes[at.claim][at.request][at.alternative];
        let of_class = wish.class.spec.selectors.len();
        for index in 0..wish.programs.len() {
            let class = index < of_class;
            let (selectors, number) = match class {
                true => (&wish.class.spec.selectors[..], index),
                false => (wish.selectors, index - of_class),
            };
            let owner = || match class {
                true => format!("class {}: selector #{number}", wish.class.metadata.name),
                false => format!(
                    "claim {}: selector #{number}",
                    claim_text(self.claims[at.claim])
                ),
            };
            if wish.programs[index].is_none() {
                let expression = match &selectors[number].cel {
                    Some(cel) => cel.expression.as_str(),
                    None => {
                        return Err(Failure::Unsupported(format!(
                            "{}: no CEL expression",
                            owner()
                        )));
                    }
                };
                let compiled = self.shared.programs.get(expression, self.profile).map_err(
                    |error| match error {
                        cel::CompileError::Invalid(text) => {
                            Failure::Error(format!("{}: CEL compile error: {text}", owner()))
                        }
                        cel::CompileError::Unsupported(text) => {
                            Failure::Unsupported(format!("{}: {text}", owner()))
                        }
                    },
                )?;
                wish.programs[index] = Some(compiled);
            }
            let Some(program) = &wish.programs[index] else {
                continue;
            };
            let shareable = device.shareable && !self.profile.is_stable();
            let view = cel::DeviceView {
                world: self.world,
                slice,
                device,
                shareable,
            };
            match program.matches(&view) {
                Ok(true) => {}
                Ok(false) => {
                    return Ok(Some(Reason::Selector {
                        class,
                        index: number,
                    }));
                }
                Err(cel::RunError::Unsupported(text)) => {
                    return Err(Failure::Unsupported(format!("{}: {text}", owner())));
                }
                Err(cel::RunError::Error(text)) => {
                    let place = match self.profile.quirks.terse_errors {
                        true => String::new(),
                        false => format!(" on device {}", self.world.device_text(device.id)),
                    };
                    return Err(Failure::Error(format!(
                        "{}{place}: CEL runtime error: {text}",
                        owner()
                    )));
                }
            }
        }
        Ok(None)
    }

    fn has_capacity(&mut self, at: At, candidate: Candidate, doing: &str) -> Result<bool, Failure> {
        let features = self.profile.features;
        if !features.consumable_capacity {
            return Ok(true);
        }
        let wish = &self.wishes[at.claim][at.request][at.alternative];
        let (_, device) = self.device(candidate);
        let used = self
            .world
            .state
            .aggregate
            .get(&candidate.id)
            .map_or(&[][..], |amounts| amounts);
        let taking = self
            .capacity
            .get(&candidate.id)
            .map_or(&[][..], |amounts| amounts);
        match capacity::check(
            wish.wanted.as_ref(),
            device,
            &[used, taking],
            self.profile.arithmetic(),
        ) {
            Ok(None) => Ok(true),
            Ok(Some(shortage)) => {
                self.observer
                    .refused(at, Some(candidate), &|| Reason::Capacity(shortage.clone()));
                Ok(false)
            }
            Err(_) if self.profile.quirks.capacity_wraps => Ok(false),
            Err((capacity, error)) => Err(Failure::Error(format!(
                "claim {}, request {}: {doing} for device {}: capacity \"{}\": {error}",
                claim_text(self.claims[at.claim]),
                wish.name,
                self.world.device_text(device.id),
                self.world.names.text(capacity),
            ))),
        }
    }

    /// Takes the candidate for the request, or returns nothing if it cannot be had.
    fn accept(
        &mut self,
        at: At,
        candidate: Candidate,
        must: bool,
    ) -> Result<Option<Undo>, Failure> {
        let features = self.profile.features;
        let (slice, device) = self.device(candidate);
        let shareable = features.consumable_capacity && device.shareable;
        let admin = self.wishes[at.claim][at.request][at.alternative].admin;
        if let Some(reason) = self.in_use(at, candidate.id, admin, shareable) {
            self.observer
                .refused(at, Some(candidate), &|| reason.clone());
            return Ok(None);
        }
        let consumes = !device.consumes.is_empty();
        if consumes && !features.partitionable_devices {
            self.observer
                .refused(at, Some(candidate), &|| Reason::CounterGate);
            return Ok(None);
        }
        let paid = shareable && self.has_shares(candidate.id);
        let mut undo = Undo {
            counters: false,
            constraints: 0,
            marked: false,
            capacity: None,
            result: false,
        };
        if consumes && !paid {
            if let Some(reason) = self.take_counters(candidate, device) {
                self.observer
                    .refused(at, Some(candidate), &|| reason.clone());
                return Ok(None);
            }
            undo.counters = true;
        }
        let wish = &self.wishes[at.claim][at.request][at.alternative];
        if features.device_taints
            && let Some(taint) = device
                .taints
                .iter()
                .find(|t| blocks(&t.taint) && !tolerated(&t.taint, &wish.tolerations))
        {
            self.observer.refused(at, Some(candidate), &|| {
                Reason::Taint(Box::new(taint.clone()))
            });
            self.undo(at, candidate, undo);
            return Ok(None);
        }
        if !self.constraints[at.claim].is_empty() {
            let (base, full) = (wish.base(), &wish.full);
            for (index, constraint) in self.constraints[at.claim].iter_mut().enumerate() {
                if constraint.applies(base, full)
                    && let Err(why) = constraint.add(slice, device, base)
                {
                    self.observer
                        .refused(at, Some(candidate), &|| Reason::Constraint { index, why });
                    let error = must.then(|| {
                            Failure::Error(format!(
                                "claim {}, request {}: cannot add device {} because a claim constraint would not be satisfied",
                                claim_text(self.claims[at.claim]),
                                wish.name,
                                self.world.device_text(device.id)
                            ))
                        });
                    self.undo(at, candidate, undo);
                    return error.map_or(Ok(None), Err);
                }
                undo.constraints += 1;
            }
        }
        if !shareable {
            let claims = self.allocating.entry(candidate.id).or_default();
            if !claims.contains(&at.claim) {
                claims.push(at.claim);
            }
            undo.marked = true;
        }
        if features.consumable_capacity {
            match self.has_capacity(at, candidate, "rechecking capacity") {
                Ok(true) => {}
                other => {
                    self.undo(at, candidate, undo);
                    return other.map(|_| None);
                }
            }
        }
        let wish = &self.wishes[at.claim][at.request][at.alternative];
        let mut consumed = None;
        if shareable {
            let amounts =
                capacity::consumed(wish.wanted.as_ref(), device, self.profile.arithmetic())
                    .unwrap_or_default();
            let known = self.capacity.contains_key(&candidate.id);
            let entry = self.capacity.entry(candidate.id).or_default();
            for (name, amount) in &amounts {
                match entry.iter_mut().find(|(n, _)| n == name) {
                    Some((_, sum)) => *sum = sum.plus(amount).unwrap_or(*sum),
                    None => entry.push((*name, *amount)),
                }
            }
            undo.capacity = Some((amounts.clone(), known));
            consumed = (!amounts.is_empty()).then_some(amounts);
        }
        self.results[at.claim].push(Granted {
            request: wish.full.clone(),
            candidate,
            admin: wish.admin,
            consumed,
            shared: shareable,
            tolerations: wish.tolerations.clone(),
        });
        undo.result = true;
        Ok(Some(undo))
    }

    fn undo(&mut self, at: At, candidate: Candidate, undo: Undo) {
        if undo.result {
            self.results[at.claim].pop();
        }
        if let Some((amounts, known)) = undo.capacity {
            if let Some(entry) = self.capacity.get_mut(&candidate.id) {
                for (name, amount) in &amounts {
                    if let Some((_, sum)) = entry.iter_mut().find(|(n, _)| n == name) {
                        *sum = sum.minus(amount).unwrap_or(*sum);
                    }
                }
                if entry.iter().all(|(_, sum)| sum.is_zero()) {
                    self.capacity.remove(&candidate.id);
                }
            }
            if known {
                self.capacity.entry(candidate.id).or_default();
            }
        }
        if undo.marked
            && let Some(claims) = self.allocating.get_mut(&candidate.id)
        {
            claims.retain(|claim| *claim != at.claim);
        }
        if undo.constraints > 0 {
            let wish = &self.wishes[at.claim][at.request][at.alternative];
            let (base, full) = (wish.base(), &wish.full);
            for constraint in self.constraints[at.claim][..undo.constraints]
                .iter_mut()
                .rev()
            {
                if constraint.applies(base, full) {
                    constraint.remove(base);
                }
            }
        }
        if undo.counters {
            let (slice, device) = self.device(candidate);
            self.charge(slice.pool, device, -1);
        }
    }

    fn has_shares(&self, id: DeviceId) -> bool {
        let state = &self.world.state;
        let shared = state.is_shared(id) && !self.profile.quirks.shares_pay_again;
        state.aggregate.contains_key(&id) || shared || self.capacity.contains_key(&id)
    }

    fn charge(&mut self, pool: PoolId, device: &Device, sign: i128) {
        let consumed = self.consumed.entry(pool).or_default();
        for one in &device.consumes {
            for (counter, quantity) in &one.counters {
                *consumed.entry((one.set, *counter)).or_insert(0) += sign * quantity.nanos();
            }
        }
    }

    /// Charges the device's counters; if any counter of the pool is then short, takes it back and says which.
    fn take_counters(&mut self, candidate: Candidate, device: &Device) -> Option<Reason> {
        let pool = &self.pools[candidate.pool as usize];
        let available = match self.available.get(&pool.id) {
            Some(known) => known.clone(),
            None => {
                let counters = self.available(pool);
                self.available.insert(pool.id, counters.clone());
                counters
            }
        };
        self.charge(pool.id, device, 1);
        let consumed = &self.consumed[&pool.id];
        let short = available.iter().filter_map(|(key, have)| {
            let taken = consumed.get(key).copied().unwrap_or(0);
            (taken > *have).then_some((*key, *have, taken))
        });
        // The search only needs to know whether; an explanation names the same counter each time.
        let own = |(set, counter): (Sym, Sym)| {
            let lists = device.consumes.iter().filter(|one| one.set == set);
            lists
                .flat_map(|one| &one.counters)
                .find(|(name, _)| *name == counter)
                .map(|(_, quantity)| *quantity)
        };
        let (key, have, taken) = short.min_by_key(|(key, _, _)| (own(*key).is_none(), *key))?;
        self.charge(pool.id, device, -1);
        let need = own(key).unwrap_or(Quantity::ZERO);
        let foreign = own(key).is_none();
        Some(Reason::Counters {
            set: key.0,
            counter: key.1,
            need,
            available: have,
            taken: taken - need.nanos(),
            foreign,
        })
    }

    /// Total of each counter minus what allocated devices of the pool consume; computed once for all nodes.
    fn available(&self, pool: &Pool) -> Arc<Counters> {
        if let Some(known) = self
            .shared
            .available
            .lock()
            .expect("no panic while locked")
            .get(&pool.id)
        {
            return known.clone();
        }
        let mut counters = Counters::default();
        for set in pool
            .counters
            .iter()
            .flat_map(|s| &self.world.slices[*s as usize].counters)
        {
            for (counter, total) in &set.counters {
                counters.insert((set.name, *counter), total.nanos());
            }
        }
        let state = &self.world.state;
        for device in pool
            .slices
            .iter()
            .chain(&pool.others)
            .flat_map(|s| &self.world.slices[*s as usize].devices)
        {
            let allocated = match self.profile.is_stable() {
                true => state.is_dedicated(device.id),
                false => state.is_allocated(device.id),
            };
            if !allocated {
                continue;
            }
            for one in &device.consumes {
                for (counter, quantity) in &one.counters {
                    if let Some(left) = counters.get_mut(&(one.set, *counter)) {
                        *left -= quantity.nanos();
                    }
                }
            }
        }
        let counters = Arc::new(counters);
        self.shared
            .available
            .lock()
            .expect("no panic while locked")
            .insert(pool.id, counters.clone());
        counters
    }
}

/// The fields that requests and alternatives have in common.
struct Spec<'a> {
    name: &'a str,
    parent: Option<&'a str>,
    class: &'a str,
    selectors: &'a [api::Selector],
    mode: &'a str,
    count: i64,
    admin_access: Option<bool>,
    tolerations: &'a [Toleration],
    capacity: Option<&'a api::CapacityRequirements>,
    derived: bool,
}

impl<'a> Spec<'a> {
    fn exact(name: &'a str, from: &'a api::ExactRequest) -> Spec<'a> {
        Spec {
            name,
            parent: None,
            class: &from.device_class_name,
            selectors: &from.selectors,
            mode: &from.allocation_mode,
            count: from.count,
            admin_access: from.admin_access,
            tolerations: &from.tolerations,
            capacity: from.capacity.as_ref(),
            derived: !from.derived_attributes.is_empty(),
        }
    }

    fn sub(parent: &'a str, from: &'a api::SubRequest) -> Spec<'a> {
        Spec {
            name: &from.name,
            parent: Some(parent),
            class: &from.device_class_name,
            selectors: &from.selectors,
            mode: &from.allocation_mode,
            count: from.count,
            admin_access: None,
            tolerations: &from.tolerations,
            capacity: from.capacity.as_ref(),
            derived: !from.derived_attributes.is_empty(),
        }
    }
}

fn wanted(world: &World, from: &api::CapacityRequirements) -> Wanted {
    let mut wanted = Wanted {
        known: Default::default(),
        unknown: None,
        texts: Default::default(),
    };
    for (name, quantity) in &from.requests {
        match world.names.get(name) {
            Some(sym) => {
                wanted.known.insert(sym, *quantity);
                wanted.texts.insert(sym, name.clone());
            }
            None => wanted.unknown = Some(name.clone()),
        }
    }
    wanted
}

pub fn blocks(taint: &api::Taint) -> bool {
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
}

pub fn tolerated(taint: &api::Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|one| {
        (one.effect.is_empty() || one.effect == taint.effect)
            && (one.key.is_empty() || one.key == taint.key)
            && match one.operator.as_str() {
                "" | "Equal" => one.value == taint.value,
                "Exists" => true,
                _ => false,
            }
    })
}
