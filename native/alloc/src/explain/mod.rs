//! Why claims do not fit: a second pass over each node with recording on, causes added up, and changes that were tried.

mod describe;
mod relax;

use std::collections::{BTreeMap, HashMap};
use std::thread;

use serde_json::{Map, Value, json};

use crate::api::{Node, ResourceClaim};
use crate::pools::{self, Trouble};
use crate::profile::Profile;
use crate::search::{
    Answer, At, Attempt, Candidate, Failure, Observer, Reason, Shared, claim_text,
};
use crate::world::{DeviceId, World};
use describe::{describe, request_text};
pub use relax::release;

/// Steps of one search at most. The scheduler's time limit of 10 s a node allows more, so a fit is never missed early.
const MAX_STEPS: u64 = 2_000_000;
/// Nodes that are worth a thread.
const NODES_OF_A_THREAD: usize = 64;
/// Nodes and devices named as examples of one cause.
const EXAMPLES: usize = 5;

/// Holders named for one cause.
const HOLDERS: usize = 64;

/// Claims by the device that they hold.
pub type Holders = HashMap<DeviceId, Vec<String>>;

pub struct Question<'a> {
    pub world: &'a World,
    pub profile: &'a Profile,
    pub holders: &'a Holders,
    pub claims: &'a [&'a ResourceClaim],
    /// Only this node.
    pub node: Option<&'a str>,
}

/// What one node refuses, each candidate by its first refusal at each place.
#[derive(Default)]
struct Recorder {
    refused: HashMap<(At, Option<DeviceId>), (Option<Candidate>, Reason)>,
    furthest: At,
}

impl Observer for Recorder {
    fn refused(&mut self, at: At, candidate: Option<Candidate>, reason: &dyn Fn() -> Reason) {
        self.furthest = self.furthest.max(At {
            alternative: 0,
            ..at
        });
        self.refused
            .entry((at, candidate.map(|c| c.id)))
            .or_insert_with(|| (candidate, reason()));
    }
}

/// One cause, over all nodes.
#[derive(Default)]
struct Cause {
    text: String,
    detail: Map<String, Value>,
    nodes: Vec<String>,
    devices: Vec<String>,
    number_of_devices: usize,
}

impl Cause {
    fn merge(&mut self, other: Cause) {
        self.nodes.extend(other.nodes);
        self.number_of_devices += other.number_of_devices;
        self.devices.extend(other.devices);
        self.devices.truncate(EXAMPLES);
        self.learn(other.detail);
    }

    /// Keeps the first of each fact; holders add up.
    fn learn(&mut self, detail: Map<String, Value>) {
        for (key, value) in detail {
            match (self.detail.get_mut(&key), value) {
                (Some(Value::Array(known)), Value::Array(more)) if key == "holders" => {
                    for holder in more {
                        if known.len() < HOLDERS && !known.contains(&holder) {
                            known.push(holder);
                        }
                    }
                }
                (Some(_), _) => {}
                (None, value) => {
                    self.detail.insert(key, value);
                }
            }
        }
    }
}

type Causes = BTreeMap<(String, String), Cause>;

/// What a part of the nodes answers.
#[derive(Default)]
struct Verdicts<'a> {
    lines: Vec<Value>,
    fits: Vec<String>,
    failing: Vec<&'a Node>,
    errors: BTreeMap<String, usize>,
    causes: Causes,
}

impl<'a> Verdicts<'a> {
    fn add(&mut self, question: &Question, shared: &Shared, node: &'a Node) {
        let mut recorder = Recorder::default();
        let claims = question.claims;
        let answer = attempt(question, claims, shared, node, MAX_STEPS, &mut recorder);
        let name = &node.metadata.name;
        let (verdict, error) = match &answer.outcome {
            Ok(Some(_)) => ("fits", None),
            Ok(None) => ("no fit", None),
            Err(Failure::NodeError(text)) => ("no fit", Some(text.clone())),
            Err(Failure::Error(text)) => ("error", Some(text.clone())),
            Err(Failure::TimedOut) => ("would time out in the scheduler after 10 s", None),
            Err(Failure::Unsupported(text)) => ("unknown", Some(text.clone())),
        };
        let mut line = Map::new();
        line.insert("node".into(), name.clone().into());
        line.insert("verdict".into(), verdict.into());
        line.insert("steps".into(), answer.steps.into());
        if let Some(text) = &error {
            line.insert("error".into(), text.clone().into());
        }
        match verdict {
            "fits" => self.fits.push(name.clone()),
            "error" | "unknown" => {
                *self.errors.entry(error.unwrap_or_default()).or_default() += 1;
            }
            _ => {
                let codes = collect(
                    question,
                    &shared.pools,
                    node,
                    &answer,
                    &recorder,
                    &mut self.causes,
                );
                line.insert("causes".into(), json!(codes));
                self.failing.push(node);
            }
        }
        self.lines.push(Value::Object(line));
    }

    fn merge(&mut self, other: Verdicts<'a>) {
        self.lines.extend(other.lines);
        self.fits.extend(other.fits);
        self.failing.extend(other.failing);
        for (text, nodes) in other.errors {
            *self.errors.entry(text).or_default() += nodes;
        }
        for (key, cause) in other.causes {
            match self.causes.get_mut(&key) {
                Some(known) => known.merge(cause),
                None => {
                    self.causes.insert(key, cause);
                }
            }
        }
    }
}

/// The explanation as JSON.
pub fn explain(question: &Question) -> Value {
    let shared = Shared::default();
    let wanted = |node: &&Node| question.node.is_none_or(|only| only == node.metadata.name);
    let nodes: Vec<&Node> = question.world.nodes.iter().filter(wanted).collect();
    let mut found = Verdicts::default();
    for part in over_nodes(&nodes, |part| {
        let mut found = Verdicts::default();
        for node in part {
            found.add(question, &shared, node);
        }
        found
    }) {
        found.merge(part);
    }
    let relaxations = if found.fits.is_empty() && !found.failing.is_empty() {
        relax::relax(question, &found.failing)
    } else {
        Vec::new()
    };
    json!({
        "profile": {"release": question.profile.release, "patch": question.profile.patch(), "variant": question.profile.variant.name()},
        "claims": question.claims.iter().map(|c| claim_text(c)).collect::<Vec<_>>(),
        "fits": found.fits,
        "errors": found.errors.iter().map(|(text, nodes)| json!({"code": error_code(text), "error": text, "nodes": nodes})).collect::<Vec<_>>(),
        "causes": ranked(found.causes),
        "relaxations": relaxations,
        "nodes": found.lines,
    })
}

/// What `work` makes of consecutive parts of the nodes, in their order; one thread a core.
fn over_nodes<'a, T: Send>(nodes: &[&'a Node], work: impl Fn(&[&'a Node]) -> T + Sync) -> Vec<T> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    if threads == 1 || nodes.len() < NODES_OF_A_THREAD * 2 {
        return vec![work(nodes)];
    }
    let size = nodes.len().div_ceil(threads).max(NODES_OF_A_THREAD);
    let work = &work;
    thread::scope(|scope| {
        let running: Vec<_> = nodes
            .chunks(size)
            .map(|part| scope.spawn(move || work(part)))
            .collect();
        running
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

fn attempt<O: Observer>(
    question: &Question,
    claims: &[&ResourceClaim],
    shared: &Shared,
    node: &Node,
    max_steps: u64,
    observer: &mut O,
) -> Answer {
    Attempt {
        world: question.world,
        profile: question.profile,
        node,
        claims,
        shared,
        deadline: None,
        max_steps: Some(max_steps),
        observer,
    }
    .run()
}

fn error_code(text: &str) -> &'static str {
    let codes = [
        ("CEL compile error", "cel.compile"),
        ("actual cost limit exceeded", "cel.cost"),
        ("CEL runtime error", "cel.runtime"),
        ("could not retrieve device class", "class.missing"),
        ("asks for all devices", "all.bad-pool"),
        ("claim constraint would not be satisfied", "all.blocked"),
        ("exceeds the claim limit", "limit.results"),
        ("feature is disabled", "claim.gate"),
        ("not evaluated by this engine", "engine.unsupported"),
    ];
    codes
        .iter()
        .find(|(part, _)| text.contains(part))
        .map_or("claim.unsupported", |(_, code)| code)
}

/// Adds what one node refuses; returns the codes.
fn collect(
    question: &Question,
    built: &pools::Built,
    node: &Node,
    answer: &Answer,
    recorder: &Recorder,
    causes: &mut Causes,
) -> Vec<String> {
    let mut codes = Vec::new();
    let world = question.world;
    let mut add = |code: &str, text: String, devices: &[DeviceId], detail: Map<String, Value>| {
        let cause = causes.entry((code.to_string(), text.clone())).or_default();
        cause.text = text;
        cause.learn(detail);
        if cause.nodes.last() != Some(&node.metadata.name) {
            cause.nodes.push(node.metadata.name.clone());
        }
        cause.number_of_devices += devices.len();
        for device in devices
            .iter()
            .take(EXAMPLES - cause.devices.len().min(EXAMPLES))
        {
            cause.devices.push(world.device_text(*device));
        }
        if !codes.contains(&code.to_string()) {
            codes.push(code.to_string());
        }
    };
    let gathered = pools::gather(world, question.profile, node, true, built).unwrap_or_default();
    for pool in &gathered {
        let name = world.pool_text(pool.id);
        match &pool.trouble {
            None => {}
            Some(Trouble::Obsolete { generation }) => {
                add(
                    "pool.obsolete",
                    format!(
                        "pool {name} is being replaced: generation {generation} has no slice for the node yet"
                    ),
                    &[],
                    Map::new(),
                );
            }
            Some(Trouble::Incomplete {
                have,
                want,
                generation,
                ..
            }) => {
                let text = format!(
                    "pool {name} is incomplete: {have} of {want} slices of generation {generation} are published"
                );
                add("pool.incomplete", text, &[], Map::new());
            }
            Some(Trouble::Invalid(reason)) => add(
                "pool.invalid",
                format!("pool {name} is invalid: {reason}"),
                &[],
                Map::new(),
            ),
        }
    }
    if gathered.iter().all(|pool| pool.slices.is_empty()) {
        // A pool in trouble is the cause already named.
        if gathered.iter().all(|pool| pool.trouble.is_none()) {
            let text = "no pool offers devices to the node".into();
            add("slice.other-node", text, &[], Map::new());
        }
        return codes;
    }
    let decisive =
        |at: &At| (at.claim, at.request) == (recorder.furthest.claim, recorder.furthest.request);
    let mut entries: Vec<_> = recorder
        .refused
        .iter()
        .filter(|((at, _), _)| decisive(at))
        .collect();
    entries.sort_by_key(|((at, id), _)| (*at, *id));
    let nothing_refused = entries.is_empty();
    // A selector refuses most devices of most nodes: it is described once a node.
    let mut selectors: BTreeMap<(At, bool, usize), Vec<Candidate>> = BTreeMap::new();
    for ((at, _), (candidate, reason)) in entries {
        if let (Reason::Selector { class, index }, Some(candidate)) = (reason, candidate) {
            let refused = selectors.entry((*at, *class, *index)).or_default();
            refused.push(*candidate);
            if refused.len() > 1 {
                continue;
            }
        }
        let (code, text, detail) = describe(question, answer, *at, *candidate, reason);
        let devices: Vec<DeviceId> = candidate.iter().map(|c| c.id).collect();
        add(code, text, &devices, detail);
    }
    for ((at, class, index), refused) in selectors {
        let reason = Reason::Selector { class, index };
        let (code, text, _) = describe(question, answer, at, None, &reason);
        let devices: Vec<DeviceId> = refused[1..].iter().map(|c| c.id).collect();
        add(code, text, &devices, Map::new());
    }
    if nothing_refused && gathered.iter().all(|pool| pool.trouble.is_none()) {
        let text = format!(
            "{} asks for more devices than the node offers",
            request_text(question, recorder.furthest)
        );
        add("devices.few", text, &[], Map::new());
    }
    codes
}
fn ranked(causes: Causes) -> Vec<Value> {
    let mut list: Vec<((String, String), Cause)> = causes.into_iter().collect();
    list.sort_by_key(|(_, cause)| std::cmp::Reverse((cause.nodes.len(), cause.number_of_devices)));
    list.into_iter()
        .map(|((code, _), cause)| {
            let examples: Vec<&String> = cause.nodes.iter().take(EXAMPLES).collect();
            let mut entry = json!({
                "code": code,
                "text": cause.text,
                "nodes": cause.nodes.len(),
                "devices": cause.number_of_devices,
                "exampleNodes": examples,
                "exampleDevices": cause.devices,
            });
            if let Value::Object(entry) = &mut entry {
                entry.extend(cause.detail);
            }
            entry
        })
        .collect()
}
