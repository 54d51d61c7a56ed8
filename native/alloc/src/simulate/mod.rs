//! A fleet under a stream of pods: each placed by the scheduler's allocator, by its way of choosing nodes, over time.
//!
//! Nodes that publish the same devices are one `NodeType`. What a node answers to a pod depends on its type and its
//! occupancy alone, so each pair is searched once and looked up from then on.

mod answer;
mod node_type;
mod occupancy;
mod random;
mod record;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};

use serde_json::{Value, json};

use crate::api::{DeviceClass, Metadata, Node, ResourceClaim, ResourceSlice};
use crate::profile::{Features, Profile};
use crate::search::claim_text;
pub use node_type::Allocated;
use node_type::{CAUSES, Cause, NodeType, Verdict};
use random::Random;
use record::{Record, by_code, waits};

const NONE: u32 = u32::MAX;
const SAMPLES: u32 = 200;
/// Feasible nodes that the scheduler wants at least, and the smallest share of nodes that it looks for, in percent.
const LEAST_FEASIBLE: usize = 100;
const LEAST_PERCENT: usize = 5;

/// Which of the feasible nodes gets the pod.
#[derive(Clone, Copy, PartialEq)]
pub enum Policy {
    /// As the scheduler scores devices: only alternatives count, ties are broken at random.
    Scheduler,
    /// The node with the least free memory of GPUs.
    Packing,
    /// The node with the most free memory of GPUs.
    Spreading,
}

pub const POLICIES: [&str; 3] = ["scheduler", "packing", "spreading"];

impl Policy {
    pub fn named(name: &str) -> Option<Policy> {
        let all = [Policy::Scheduler, Policy::Packing, Policy::Spreading];
        let index = POLICIES.iter().position(|known| *known == name)?;
        Some(all[index])
    }
}

#[derive(Clone, Copy)]
struct Place {
    node_type: u16,
    occupancy: u32,
}

struct Pod {
    arrival: f64,
    duration: f64,
    template: u32,
    /// The only node that it may have.
    wanted: u32,
    node: u32,
    placement: u32,
    start: f64,
}

/// When a pod ends. Times are not negative, so their bits sort as they do.
type End = Reverse<(u64, u32)>;

/// Waiting pods by template and wanted node.
type Queues = BTreeMap<(u32, u32), VecDeque<(u32, Cause)>>;

pub struct Simulation {
    profile: Profile,
    policy: Policy,
    percent: usize,
    random: Random,
    classes: Vec<DeviceClass>,
    types: Vec<NodeType>,
    nodes: Vec<Place>,
    names: Vec<Box<str>>,
    templates: Vec<Vec<ResourceClaim>>,
    pods: Vec<Pod>,
    next_pod: usize,
    start_node: usize,
    ends: BinaryHeap<End>,
    queues: Queues,
    record: Option<Record>,
    errors: BTreeMap<usize, String>,
}

impl Simulation {
    /// `percent` is the share of nodes to look for; 0 chooses it by the number of nodes, as the scheduler does.
    pub fn new(
        release: &str,
        gates: &[(String, bool)],
        policy: &str,
        percent: usize,
        seed: u64,
    ) -> Result<Simulation, String> {
        let mut features: Features = Profile::defaults(release)?.features;
        for (name, on) in gates {
            features.set(name, *on)?;
        }
        let policy = Policy::named(policy)
            .ok_or_else(|| format!("no policy {policy}; there are {}", POLICIES.join(", ")))?;
        Ok(Simulation {
            profile: Profile::new(release, "auto", features)?,
            policy,
            percent,
            random: Random::new(seed),
            classes: Vec::new(),
            types: Vec::new(),
            nodes: Vec::new(),
            names: Vec::new(),
            templates: Vec::new(),
            pods: Vec::new(),
            next_pod: 0,
            start_node: 0,
            ends: BinaryHeap::new(),
            queues: Queues::new(),
            record: None,
            errors: BTreeMap::new(),
        })
    }

    /// Adds a list of DeviceClasses; before any node.
    pub fn add_classes(&mut self, json: &[u8]) -> Result<(), String> {
        let classes: Vec<DeviceClass> =
            serde_json::from_slice(json).map_err(|e| format!("DeviceClasses: {e}"))?;
        self.classes.extend(classes);
        Ok(())
    }

    /// Adds nodes that publish the same; `json` lists the slices of one of them, `node` is its name in them.
    pub fn add_nodes(&mut self, json: &[u8], node: &str, names: Vec<String>) -> Result<(), String> {
        let slices: Vec<ResourceSlice> =
            serde_json::from_slice(json).map_err(|e| format!("slices of node {node}: {e}"))?;
        let node = Node {
            metadata: Metadata {
                name: node.into(),
                ..Metadata::default()
            },
        };
        let made = NodeType::read(slices, node, &self.classes)?;
        let node_type =
            u16::try_from(self.types.len()).map_err(|_| "more than 65,536 types of nodes")?;
        self.types.push(made);
        for name in names {
            self.names.push(name.into());
            self.nodes.push(Place {
                node_type,
                occupancy: 0,
            });
        }
        Ok(())
    }

    /// Takes devices of a node that stay in use.
    pub fn occupy(&mut self, node: usize, devices: &[Allocated]) -> Result<(), String> {
        let place = &mut self.nodes[node];
        place.occupancy = self.types[place.node_type as usize].occupied(devices)?;
        Ok(())
    }

    /// Adds the claims of a pod, a list of ResourceClaims; returns its number.
    pub fn add_template(&mut self, json: &[u8]) -> Result<usize, String> {
        let mut claims: Vec<ResourceClaim> =
            serde_json::from_slice(json).map_err(|e| e.to_string())?;
        for claim in &mut claims {
            crate::cluster::default(claim);
            if claim.spec.devices.requests.is_empty() {
                return Err(format!("claim {} has no request", claim_text(claim)));
            }
        }
        self.templates.push(claims);
        Ok(self.templates.len() - 1)
    }

    /// Adds a pod. Pods come in the order of their arrivals; a duration may be infinite.
    pub fn add_pod(&mut self, arrival: f64, duration: f64, template: u32, node: Option<u32>) {
        self.pods.push(Pod {
            arrival,
            duration,
            template,
            wanted: node.unwrap_or(NONE),
            node: NONE,
            placement: 0,
            start: f64::NAN,
        });
    }

    fn begin(&mut self) {
        let sum = |of: &dyn Fn(&NodeType) -> u64| {
            let nodes = self.nodes.iter();
            nodes.map(|n| of(&self.types[n.node_type as usize])).sum()
        };
        let (total, gpus) = (sum(&NodeType::total), sum(&|one| one.gpus() as u64));
        let first = self.pods.first().map_or(0.0, |pod| pod.arrival);
        let last = self.pods.last().map_or(0.0, |pod| pod.arrival);
        let mut record = Record::new(total, gpus, first, last, SAMPLES);
        for place in &self.nodes {
            let figures = self.types[place.node_type as usize].figures(place.occupancy);
            record.now.change(Default::default(), figures);
        }
        self.record = Some(record);
    }

    fn record(&mut self) -> &mut Record {
        self.record.as_mut().expect("begun")
    }

    /// Goes on by about so many arrivals and ends; whether there is more to come.
    pub fn advance(&mut self, events: usize) -> bool {
        if self.record.is_none() {
            self.begin();
        }
        for _ in 0..events {
            let arrival = self.pods.get(self.next_pod).map(|pod| pod.arrival);
            let end = self
                .ends
                .peek()
                .map(|Reverse((bits, _))| f64::from_bits(*bits));
            match (arrival, end) {
                (None, None) => {
                    return false;
                }
                (Some(arrival), end) if end.is_none_or(|end| arrival < end) => {
                    self.record().advance(arrival);
                    let pod = self.next_pod as u32;
                    self.next_pod += 1;
                    self.arrive(pod);
                }
                (_, Some(end)) => {
                    self.record().advance(end);
                    self.end(end);
                }
                (Some(_), None) => unreachable!("an arrival without an end comes first"),
            }
        }
        true
    }

    pub fn progress(&self) -> (usize, usize, f64, usize) {
        let waiting = self.queues.values().map(VecDeque::len).sum();
        let time = self.record.as_ref().map_or(0.0, Record::time);
        (self.next_pod, self.pods.len(), time, waiting)
    }

    fn verdict(&mut self, node: u32, template: u32) -> Verdict {
        let place = self.nodes[node as usize];
        let node_type = &mut self.types[place.node_type as usize];
        let claims = &self.templates[template as usize];
        node_type.verdict(&self.profile, template as usize, claims, place.occupancy)
    }

    fn arrive(&mut self, pod: u32) {
        let (template, wanted) = (
            self.pods[pod as usize].template,
            self.pods[pod as usize].wanted,
        );
        // Others with the same claims wait: nothing came back since that they could have had.
        if let Some(queue) = self.queues.get_mut(&(template, wanted))
            && let Some((_, cause)) = queue.back().copied()
        {
            queue.push_back((pod, cause));
            self.record().refused[cause as usize] += 1;
            self.record().wait(cause);
            return;
        }
        match self.choose(template, wanted) {
            Ok((node, placement)) => self.place(pod, node, placement),
            Err(cause) => {
                self.record().refused[cause as usize] += 1;
                if self.is_never(template, wanted) || cause >= Cause::Error {
                    self.record().never[cause as usize] += 1;
                    return;
                }
                self.record().wait(cause);
                let queue = self.queues.entry((template, wanted)).or_default();
                queue.push_back((pod, cause));
            }
        }
    }

    /// How many feasible nodes the scheduler looks for.
    fn wanted_nodes(&self) -> usize {
        let nodes = self.nodes.len();
        if nodes < LEAST_FEASIBLE {
            return nodes;
        }
        let percent = match self.percent {
            0 => 50usize.saturating_sub(nodes / 125).max(LEAST_PERCENT),
            given => given,
        };
        (nodes * percent / 100).max(LEAST_FEASIBLE)
    }

    /// The node for a pod by the policy, among the first that fit from where the last attempt stopped.
    fn choose(&mut self, template: u32, wanted: u32) -> Result<(u32, u32), Cause> {
        let mut best = Best::default();
        let mut refused = [0u32; CAUSES.len()];
        let (first, count, most) = match wanted {
            NONE => (self.start_node, self.nodes.len(), self.wanted_nodes()),
            node => (node as usize, 1, 1),
        };
        let mut tried = 0;
        let mut node = first;
        while tried < count && best.feasible < most {
            match self.verdict(node as u32, template) {
                Verdict::Refused(cause @ (Cause::Error | Cause::Unknown)) => return Err(cause),
                Verdict::Refused(cause) => refused[cause as usize] += 1,
                Verdict::Fits(placement) => self.consider(&mut best, node as u32, placement),
            }
            tried += 1;
            node += 1;
            if node == self.nodes.len() {
                node = 0;
            }
        }
        if wanted == NONE {
            self.start_node = node;
        }
        best.choice.ok_or_else(|| most_frequent(&refused))
    }

    fn consider(&mut self, best: &mut Best, node: u32, placement: u32) {
        best.feasible += 1;
        let place = self.nodes[node as usize];
        let node_type = &self.types[place.node_type as usize];
        let free = || node_type.total() as i64 - node_type.figures(place.occupancy).used as i64;
        let score = (
            node_type.placement(placement).score,
            match self.policy {
                Policy::Scheduler => 0,
                Policy::Packing => -free(),
                Policy::Spreading => free(),
            },
        );
        if best.choice.is_none() || score > best.score {
            best.ties = 1;
        } else if score == best.score {
            best.ties += 1;
            if self.random.below(best.ties) != 0 {
                return;
            }
        } else {
            return;
        }
        best.score = score;
        best.choice = Some((node, placement));
    }

    fn place(&mut self, pod: u32, node: u32, placement: u32) {
        let time = self.record().time();
        let place = &mut self.nodes[node as usize];
        let node_type = &self.types[place.node_type as usize];
        let before = node_type.figures(place.occupancy);
        place.occupancy = node_type.placement(placement).after;
        let after = node_type.figures(place.occupancy);
        let record = self.record.as_mut().expect("begun");
        record.now.change(before, after);
        record.now.running += 1;
        let one = &mut self.pods[pod as usize];
        (one.node, one.placement, one.start) = (node, placement, time);
        let end = time + one.duration;
        if end.is_finite() {
            self.ends.push(Reverse((end.to_bits(), pod)));
        }
    }

    /// Ends all pods of this moment, then tries waiting pods on the nodes that got devices back.
    fn end(&mut self, time: f64) {
        let mut freed: Vec<u32> = Vec::new();
        while let Some(Reverse((bits, pod))) = self.ends.peek().copied() {
            if f64::from_bits(bits) > time {
                break;
            }
            self.ends.pop();
            let pod = &self.pods[pod as usize];
            let (node, placement) = (pod.node, pod.placement);
            let place = &mut self.nodes[node as usize];
            let node_type = &mut self.types[place.node_type as usize];
            let taken = node_type.placement(placement).taken.clone();
            let before = node_type.figures(place.occupancy);
            place.occupancy = node_type.without(place.occupancy, &taken);
            let after = node_type.figures(place.occupancy);
            let record = self.record.as_mut().expect("begun");
            record.now.change(before, after);
            record.now.running -= 1;
            freed.push(node);
        }
        freed.sort_unstable();
        freed.dedup();
        self.retry(&freed);
    }

    /// The longest-waiting pod first. A queue whose first pod does not fit has none that does.
    fn retry(&mut self, freed: &[u32]) {
        let heads = self.queues.iter().filter(|((_, wanted), queue)| {
            !queue.is_empty() && (*wanted == NONE || freed.binary_search(wanted).is_ok())
        });
        let mut heads: BinaryHeap<Reverse<(u32, (u32, u32))>> = heads
            .map(|(key, queue)| Reverse((queue[0].0, *key)))
            .collect();
        while let Some(Reverse((pod, key))) = heads.pop() {
            let (template, wanted) = key;
            let mut best = Best::default();
            for node in freed.iter().copied() {
                if wanted != NONE && wanted != node {
                    continue;
                }
                if let Verdict::Fits(placement) = self.verdict(node, template) {
                    self.consider(&mut best, node, placement);
                }
            }
            let Some((node, placement)) = best.choice else {
                continue;
            };
            let queue = self.queues.get_mut(&key).expect("it has a first pod");
            let (_, cause) = queue.pop_front().expect("it has a first pod");
            let next = queue.front().map(|(pod, _)| *pod);
            self.record().now.waiting[cause as usize] -= 1;
            self.place(pod, node, placement);
            match next {
                Some(next) => heads.push(Reverse((next, key))),
                None => {
                    self.queues.remove(&key);
                }
            }
        }
    }

    /// Whether no node could serve the pod even if the fleet were empty.
    fn is_never(&mut self, template: u32, wanted: u32) -> bool {
        let types: Vec<usize> = match wanted {
            NONE => (0..self.types.len()).collect(),
            node => vec![self.nodes[node as usize].node_type as usize],
        };
        let claims = &self.templates[template as usize];
        !types.into_iter().any(|index| {
            let found = self.types[index].verdict(&self.profile, template as usize, claims, 0);
            matches!(found, Verdict::Fits(_))
        })
    }
}

#[derive(Default)]
struct Best {
    feasible: usize,
    ties: u64,
    score: (i64, i64),
    choice: Option<(u32, u32)>,
}

/// The cause of most nodes that have such devices; the deepest of those that are equally frequent.
fn most_frequent(refused: &[u32; CAUSES.len()]) -> Cause {
    let deeper = (Cause::NoDevice as usize + 1)..CAUSES.len();
    let found = deeper
        .filter(|cause| refused[*cause] > 0)
        .max_by_key(|cause| (refused[*cause], *cause));
    found.map_or(Cause::NoDevice, Cause::of)
}
