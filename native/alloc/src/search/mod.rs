//! The depth-first search for devices: claims, requests, alternatives and devices in order; the first full solution wins.

mod acceptance;
mod counters;
mod filter;
mod groups;
mod validation;

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

pub use acceptance::{blocks, tolerated};

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
    /// The counter set carries devices without a common compatibility group.
    Groups {
        set: Sym,
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
    available: Mutex<HashMap<u32, Arc<Counters>>>,
    pub pools: pools::Built,
    pub programs: cel::Cache,
    pub kept: Kept,
}

/// Verdicts of selectors, for attempts that all have the same claims and the same node. Nothing is kept by default.
#[derive(Default)]
pub struct Kept(Option<Mutex<HashMap<At, Vec<u8>>>>);

impl Kept {
    /// Keeps verdicts from now on.
    pub fn on() -> Kept {
        Kept(Some(Mutex::default()))
    }

    fn take(&self, at: At, candidates: usize) -> Vec<u8> {
        let known = self.0.as_ref();
        known
            .and_then(|kept| kept.lock().expect("no panic while locked").remove(&at))
            .unwrap_or_else(|| vec![0; candidates])
    }

    fn put(&self, wishes: Vec<Vec<Vec<Wish>>>) {
        let Some(kept) = &self.0 else { return };
        let mut kept = kept.lock().expect("no panic while locked");
        for (claim, requests) in wishes.into_iter().enumerate() {
            for (request, alternatives) in requests.into_iter().enumerate() {
                for (alternative, wish) in alternatives.into_iter().enumerate() {
                    let at = At {
                        claim,
                        request,
                        alternative,
                    };
                    kept.insert(at, wish.selectable);
                }
            }
        }
    }
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
    let quirks = &attempt.profile.quirks;
    let mut candidates = Vec::new();
    let mut invalid_pool = None;
    for (index, pool) in pools.iter().enumerate() {
        if quirks.bad_pools_serve
            && let Some(reason) = pool.invalid()
        {
            let (_, name) = attempt.world.pool_name(pool.id);
            let end = (
                candidates.len(),
                format!("pool {name} is invalid: {reason}"),
            );
            invalid_pool.get_or_insert(end);
        }
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
        invalid_pool,
        wishes: Vec::new(),
        constraints: Vec::new(),
        allocating: HashMap::default(),
        capacity: HashMap::default(),
        consumed: HashMap::default(),
        available: HashMap::default(),
        groups: HashMap::default(),
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
    attempt.shared.kept.put(std::mem::take(&mut search.wishes));
    if !outcome? {
        if !quirks.invalid_pools_unnamed && pools.iter().any(|p| p.invalid().is_some()) {
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
    /// Where an invalid pool ends every search, and its error; in old releases only.
    invalid_pool: Option<(usize, String)>,
    /// By claim, request, alternative.
    wishes: Vec<Vec<Vec<Wish<'a>>>>,
    constraints: Vec<Vec<Constraint<'a>>>,
    /// Claims for which a device is being allocated.
    allocating: HashMap<DeviceId, Vec<usize>>,
    capacity: HashMap<DeviceId, Amounts>,
    /// Charged and available counters by `counter_key`.
    consumed: HashMap<u32, Counters>,
    available: HashMap<u32, Arc<Counters>>,
    groups: HashMap<PoolId, groups::OfPool>,
    results: Vec<Vec<Granted>>,
    chosen: Vec<Vec<usize>>,
    steps: u64,
}

/// What accepting one candidate changed.
struct Undo {
    groups: groups::Before,
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
            return match self.profile.quirks.no_cutoff {
                true => Ok(false),
                false => Err(Stop::TooMany),
            };
        }
        if let Some(all) = &wish.all {
            let candidate = all[k as usize];
            let Some(undo) = self.accept(at, candidate, k, true)? else {
                self.observer
                    .refused(at, Some(candidate), &|| Reason::AllBlocked);
                return Ok(false);
            };
            let alternative = match self.profile.quirks.alternatives_misindexed {
                true => 0,
                false => at.alternative,
            };
            let done = self.step(At { alternative, ..at }, k + 1, in_alternative, 0);
            if !matches!(done, Ok(true)) {
                self.undo(at, candidate, undo);
            }
            return done;
        }
        let admin = wish.admin;
        let end = match &self.invalid_pool {
            Some((end, _)) => *end,
            None => self.candidates.len(),
        };
        for index in start..end {
            let candidate = self.candidates[index];
            if let Some(reason) = self.in_use(at, candidate.id, admin, false) {
                self.observer
                    .refused(at, Some(candidate), &|| reason.clone());
                continue;
            }
            if !self.is_selectable(at, index, at.alternative)? {
                continue;
            }
            if !self.has_capacity(at, candidate, "checking capacity")? {
                continue;
            }
            let Some(undo) = self.accept(at, candidate, k, false)? else {
                continue;
            };
            let next = if self.profile.quirks.unordered {
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
        match &self.invalid_pool {
            Some((_, error)) => Err(Failure::Error(error.clone()).into()),
            None => Ok(false),
        }
    }
}
