//! Why claims do not fit: a second pass over each node with recording on, causes added up, and changes that were tried.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use crate::api::{Node, ResourceClaim, Toleration};
use crate::capacity::Shortage;
use crate::cel;
use crate::constraint::Refusal;
use crate::pools::{self, Trouble};
use crate::profile::Profile;
use crate::search::{
    Answer, At, Attempt, Candidate, Failure, Observer, Reason, Shared, Silent, claim_text,
};
use crate::world::{AttributeValue, DeviceId, State, World};

/// Steps of one search at most. The scheduler's time limit of 10 s a node allows more, so a fit is never missed early.
const MAX_STEPS: u64 = 2_000_000;
/// Steps of a trial at most: many trials are made, and a trial that takes longer proves nothing.
const TRIAL_STEPS: u64 = 20_000;
/// Trials of one kind at most.
const TRIALS: usize = 24;
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

/// The explanation as JSON.
pub fn explain(question: &Question) -> Value {
    let shared = Shared::default();
    let mut causes = Causes::new();
    let mut nodes = Vec::new();
    let mut fits = Vec::new();
    let mut errors: BTreeMap<String, usize> = BTreeMap::new();
    let mut failing: Vec<&Node> = Vec::new();
    let wanted = question
        .world
        .nodes
        .iter()
        .filter(|n| question.node.is_none_or(|only| only == n.metadata.name));
    for node in wanted {
        let mut recorder = Recorder::default();
        let answer = attempt(
            question,
            question.world,
            question.claims,
            &shared,
            node,
            MAX_STEPS,
            &mut recorder,
        );
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
            "fits" => fits.push(name.clone()),
            "error" | "unknown" => {
                *errors.entry(error.unwrap_or_default()).or_default() += 1;
            }
            _ => {
                let codes = collect(question, node, &answer, &recorder, &mut causes);
                line.insert("causes".into(), json!(codes));
                failing.push(node);
            }
        }
        nodes.push(Value::Object(line));
    }
    let relaxations = if fits.is_empty() && !failing.is_empty() {
        relax(question, &failing)
    } else {
        Vec::new()
    };
    json!({
        "profile": {"release": question.profile.release, "variant": question.profile.variant.name()},
        "claims": question.claims.iter().map(|c| claim_text(c)).collect::<Vec<_>>(),
        "fits": fits,
        "errors": errors.iter().map(|(text, nodes)| json!({"code": error_code(text), "error": text, "nodes": nodes})).collect::<Vec<_>>(),
        "causes": ranked(causes),
        "relaxations": relaxations,
        "nodes": nodes,
    })
}

fn attempt<O: Observer>(
    question: &Question,
    world: &World,
    claims: &[&ResourceClaim],
    shared: &Shared,
    node: &Node,
    max_steps: u64,
    observer: &mut O,
) -> Answer {
    let (profile, max_steps) = (question.profile, Some(max_steps));
    Attempt {
        world,
        profile,
        node,
        claims,
        shared,
        deadline: None,
        max_steps,
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
    node: &Node,
    answer: &Answer,
    recorder: &Recorder,
    causes: &mut Causes,
) -> Vec<String> {
    let mut codes = Vec::new();
    let world = question.world;
    let mut add = |code: &str, text: String, device: Option<String>, detail: Map<String, Value>| {
        let cause = causes.entry((code.to_string(), text.clone())).or_default();
        cause.text = text;
        cause.learn(detail);
        if cause.nodes.last() != Some(&node.metadata.name) {
            cause.nodes.push(node.metadata.name.clone());
        }
        if let Some(device) = device {
            cause.number_of_devices += 1;
            if cause.devices.len() < EXAMPLES {
                cause.devices.push(device);
            }
        }
        if !codes.contains(&code.to_string()) {
            codes.push(code.to_string());
        }
    };
    let gathered = pools::gather(
        world,
        question.profile,
        node,
        true,
        &pools::Built::default(),
    )
    .unwrap_or_default();
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
                    None,
                    Map::new(),
                );
            }
            Some(Trouble::Incomplete {
                have,
                want,
                generation,
            }) => {
                let text = format!(
                    "pool {name} is incomplete: {have} of {want} slices of generation {generation} are published"
                );
                add("pool.incomplete", text, None, Map::new());
            }
            Some(Trouble::Invalid(reason)) => add(
                "pool.invalid",
                format!("pool {name} is invalid: {reason}"),
                None,
                Map::new(),
            ),
        }
    }
    if gathered.iter().all(|pool| pool.slices.is_empty()) {
        add(
            "slice.other-node",
            "no pool offers devices to the node".into(),
            None,
            Map::new(),
        );
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
    for ((at, _), (candidate, reason)) in entries {
        let (code, text, detail) = describe(question, answer, *at, *candidate, reason);
        let device = candidate.map(|c| world.device_text(c.id));
        add(code, text, device, detail);
    }
    if nothing_refused && gathered.iter().all(|pool| pool.trouble.is_none()) {
        let text = format!(
            "{} asks for more devices than the node offers",
            request_text(question, recorder.furthest)
        );
        add("devices.few", text, None, Map::new());
    }
    codes
}

fn request_text(question: &Question, at: At) -> String {
    let claim = question.claims[at.claim];
    let Some(request) = claim.spec.devices.requests.get(at.request) else {
        return format!("claim {}", claim_text(claim));
    };
    match request.first_available.get(at.alternative) {
        Some(sub) => format!("request {}/{}", request.name, sub.name),
        None => format!("request {}", request.name),
    }
}

/// Code, text that is the same for equal causes on other nodes, and details.
fn describe(
    question: &Question,
    answer: &Answer,
    at: At,
    candidate: Option<Candidate>,
    reason: &Reason,
) -> (&'static str, String, Map<String, Value>) {
    let world = question.world;
    let request = request_text(question, at);
    let mut detail = Map::new();
    let name = |sym| world.names.text(sym).to_string();
    let driver = candidate
        .map(|c| {
            world
                .names
                .text(world.slices[c.slice as usize].driver)
                .to_string()
        })
        .unwrap_or_default();
    let (code, text) = match reason {
        Reason::InUse => {
            let holders = candidate
                .and_then(|c| question.holders.get(&c.id))
                .cloned()
                .unwrap_or_default();
            detail.insert("holders".into(), json!(holders));
            (
                "device.in-use",
                format!("{request}: devices of {driver} are allocated to other claims"),
            )
        }
        Reason::TakenHere { claim } => {
            let claim = claim_text(question.claims[*claim]);
            (
                "device.in-use",
                format!(
                    "{request}: a device of {driver} is taken by an earlier request of the same pod, in claim {claim}"
                ),
            )
        }
        Reason::BindingGate => (
            "device.binding-gate",
            format!("{request}: a device has binding conditions, and the feature is off"),
        ),
        Reason::OtherNode => (
            "device.other-node",
            format!("{request}: a device of {driver} is for other nodes"),
        ),
        Reason::Selector { class, index } => {
            let (owner, expression) = selector(question, at, *class, *index);
            detail.insert("expression".into(), expression.clone().into());
            if let Some(candidate) = candidate {
                let values = cel::mentioned(world, candidate, &expression);
                if !values.is_empty() {
                    detail.insert("values".into(), values.into());
                }
            }
            let code = if *class {
                "cel.class-false"
            } else {
                "cel.request-false"
            };
            (
                code,
                format!(
                    "{request}: selector #{index} of {owner} is false: {}",
                    shortened(&expression)
                ),
            )
        }
        Reason::Capacity(Shortage::Undefined(name)) => (
            "capacity.undefined",
            format!("{request}: a device of {driver} has no capacity {name}"),
        ),
        Reason::Capacity(Shortage::Policy {
            name: capacity,
            requested,
            amount,
        }) => {
            let requested = requested.map_or("nothing".into(), |q| q.to_string());
            (
                "capacity.policy",
                format!(
                    "{request}: capacity {}: {requested} is asked for, {amount} after rounding, which the device's policy does not allow",
                    name(*capacity)
                ),
            )
        }
        Reason::Capacity(Shortage::Exhausted {
            name: capacity,
            amount,
            used,
            total,
        }) => (
            "capacity.exhausted",
            format!(
                "{request}: capacity {}: {amount} needed, {used} of {total} in use",
                name(*capacity)
            ),
        ),
        Reason::CounterGate => (
            "claim.gate",
            format!("{request}: a device consumes counters, and the feature is off"),
        ),
        Reason::Counters {
            set,
            counter,
            need,
            available,
            taken,
            foreign,
        } => {
            let quantity = |nanos: i128| plain(nanos, need.format());
            let holders = counter_holders(question, answer, candidate);
            detail.insert("holders".into(), json!(holders));
            detail.insert("foreign".into(), (*foreign).into());
            let left = quantity(available - taken);
            let text = if *foreign {
                format!(
                    "{request}: counter {} of set {} is overdrawn by others ({left} left), which blocks all partitions of its pool",
                    name(*counter),
                    name(*set)
                )
            } else {
                format!(
                    "{request}: counter {} is short: {need} needed, {left} left",
                    name(*counter)
                )
            };
            ("counters.short", text)
        }
        Reason::Taint(taint) => {
            let value = if taint.taint.value.is_empty() {
                String::new()
            } else {
                format!("={}", taint.taint.value)
            };
            let origin = taint
                .rule
                .as_ref()
                .map_or("the driver".to_string(), |rule| {
                    format!("DeviceTaintRule {rule}")
                });
            (
                "taint",
                format!(
                    "{request}: taint {}{value}:{} of {origin} is not tolerated",
                    taint.taint.key, taint.taint.effect
                ),
            )
        }
        Reason::Constraint { index, why } => constraint(question, at, *index, *why),
        Reason::AllEmpty => (
            "all.empty",
            format!("{request}: asks for all devices, and none matches"),
        ),
        Reason::AllBlocked => (
            "all.blocked",
            format!("{request}: asks for all devices, and one of them cannot be had"),
        ),
        Reason::TooMany => (
            "limit.results",
            format!("{request}: more than 32 devices in one claim"),
        ),
    };
    (code, text, detail)
}

fn constraint(question: &Question, at: At, index: usize, why: Refusal) -> (&'static str, String) {
    let constraint = question.claims[at.claim]
        .spec
        .devices
        .constraints
        .get(index);
    let attribute =
        constraint.and_then(|c| c.match_attribute.as_ref().or(c.distinct_attribute.as_ref()));
    let attribute = attribute.map_or("", |a| a.as_str());
    let request = request_text(question, at);
    match why {
        Refusal::Absent => (
            "constraint.absent",
            format!("{request}: constraint #{index}: a device has no attribute {attribute}"),
        ),
        Refusal::Mismatch => (
            "constraint.mismatch",
            format!("{request}: constraint #{index}: too few devices have the same {attribute}"),
        ),
        Refusal::Duplicate => (
            "constraint.duplicate",
            format!("{request}: constraint #{index}: too few devices have different {attribute}"),
        ),
    }
}

fn plain(nanos: i128, format: crate::quantity::Format) -> String {
    match i64::try_from(nanos / 1_000_000_000) {
        Ok(whole) if nanos % 1_000_000_000 == 0 => {
            crate::quantity::Quantity::of(whole, format).to_string()
        }
        _ => format!("{}n", nanos),
    }
}

fn shortened(expression: &str) -> String {
    let line = expression.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(120) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line,
    }
}

fn selector(question: &Question, at: At, class: bool, index: usize) -> (String, String) {
    let request = &question.claims[at.claim].spec.devices.requests[at.request];
    let (class_name, selectors) = match (
        request.first_available.get(at.alternative),
        &request.exactly,
    ) {
        (Some(sub), _) => (&sub.device_class_name, &sub.selectors),
        (None, Some(exactly)) => (&exactly.device_class_name, &exactly.selectors),
        (None, None) => return (String::new(), String::new()),
    };
    let text = |list: &[crate::api::Selector]| {
        list.get(index)
            .and_then(|s| s.cel.as_ref())
            .map_or(String::new(), |cel| cel.expression.clone())
    };
    if class {
        let found = question
            .world
            .classes
            .get(class_name)
            .map_or(String::new(), |c| text(&c.spec.selectors));
        (format!("class {class_name}"), found)
    } else {
        ("the request".into(), text(selectors))
    }
}

/// Claims that hold devices which draw on the same counter sets.
fn counter_holders(
    question: &Question,
    answer: &Answer,
    candidate: Option<Candidate>,
) -> Vec<String> {
    let Some(candidate) = candidate else {
        return Vec::new();
    };
    let world = question.world;
    let wanted =
        &world.slices[candidate.slice as usize].devices[candidate.device as usize].consumes;
    let Some(pool) = answer.pools.get(candidate.pool as usize) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for device in pool
        .slices
        .iter()
        .chain(&pool.others)
        .flat_map(|s| &world.slices[*s as usize].devices)
    {
        let meets = device
            .consumes
            .iter()
            .any(|c| wanted.iter().any(|w| w.set == c.set));
        if meets && world.state.is_allocated(device.id) {
            let holders = question
                .holders
                .get(&device.id)
                .cloned()
                .unwrap_or_default();
            let by = if holders.is_empty() {
                "unknown".into()
            } else {
                holders.join(", ")
            };
            found.push(format!("{} ({by})", world.names.text(device.name)));
        }
    }
    found.truncate(EXAMPLES);
    found
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

/// Single changes after which a node fits. Each was tried; none is guessed.
fn relax(question: &Question, failing: &[&Node]) -> Vec<Value> {
    let mut found = Vec::new();
    let mut settled: Vec<(usize, usize)> = Vec::new();
    let owned: Vec<ResourceClaim> = question.claims.iter().map(|c| (*c).clone()).collect();
    for change in changes(question, &owned) {
        // Of several numbers of devices only the largest that fits is of use.
        if change
            .request
            .is_some_and(|request| settled.contains(&request))
        {
            continue;
        }
        let claims: Vec<&ResourceClaim> = change.claims.iter().collect();
        let shared = Shared::default();
        let fits = trial(question, question.world, &claims, &shared, failing);
        if !fits.is_empty() {
            settled.extend(change.request);
            found.push(json!({
                "kind": change.kind,
                "change": change.text,
                "nodes": fits.len(),
                "exampleNodes": examples(fits),
            }));
        }
    }
    found
}

/// Claims with one thing changed.
struct Change {
    text: String,
    kind: &'static str,
    /// The request whose number of devices is changed.
    request: Option<(usize, usize)>,
    claims: Vec<ResourceClaim>,
}

fn examples(mut nodes: Vec<String>) -> Vec<String> {
    nodes.truncate(EXAMPLES);
    nodes
}

fn trial(
    question: &Question,
    world: &World,
    claims: &[&ResourceClaim],
    shared: &Shared,
    nodes: &[&Node],
) -> Vec<String> {
    let fits = |node: &&&Node| {
        let answer = attempt(
            question,
            world,
            claims,
            shared,
            node,
            TRIAL_STEPS,
            &mut Silent,
        );
        matches!(answer.outcome, Ok(Some(_)))
    };
    nodes
        .iter()
        .filter(fits)
        .map(|n| n.metadata.name.clone())
        .collect()
}

/// The claims with one thing changed, for each thing that can be.
fn changes(question: &Question, claims: &[ResourceClaim]) -> Vec<Change> {
    let mut list: Vec<Change> = Vec::new();
    let mut push = |text: String,
                    kind: &'static str,
                    request: Option<(usize, usize)>,
                    edit: &dyn Fn(&mut Vec<ResourceClaim>)| {
        let mut changed = claims.to_vec();
        edit(&mut changed);
        list.push(Change {
            text,
            kind,
            request,
            claims: changed,
        });
    };
    for taint in taints(question) {
        let value = if taint.value.is_empty() {
            String::new()
        } else {
            format!("={}", taint.value)
        };
        let toleration = Toleration {
            key: taint.key.clone(),
            operator: "Equal".into(),
            value: taint.value.clone(),
            effect: taint.effect.clone(),
            toleration_seconds: None,
        };
        push(
            format!("tolerate the taint {}{value}:{}", taint.key, taint.effect),
            "tolerate",
            None,
            &|claims| {
                for request in claims.iter_mut().flat_map(|c| &mut c.spec.devices.requests) {
                    if let Some(exactly) = &mut request.exactly {
                        exactly.tolerations.push(toleration.clone());
                    }
                    for sub in &mut request.first_available {
                        sub.tolerations.push(toleration.clone());
                    }
                }
            },
        );
    }
    for (c, claim) in claims.iter().enumerate() {
        for (r, request) in claim.spec.devices.requests.iter().enumerate() {
            let Some(exactly) = &request.exactly else {
                continue;
            };
            let name = format!("request {} of claim {}", request.name, claim.metadata.name);
            for (s, selector) in exactly.selectors.iter().enumerate() {
                let expression = selector.cel.as_ref().map_or("", |cel| &cel.expression);
                push(
                    format!("drop selector #{s} of {name}: {}", shortened(expression)),
                    "drop-selector",
                    None,
                    &|claims| {
                        if let Some(exactly) = &mut claims[c].spec.devices.requests[r].exactly {
                            exactly.selectors.remove(s);
                        }
                    },
                );
            }
            for fewer in (1..exactly.count.min(33)).rev() {
                let text = format!(
                    "ask for {fewer} instead of {} devices in {name}",
                    exactly.count
                );
                push(text, "count", Some((c, r)), &|claims| {
                    if let Some(exactly) = &mut claims[c].spec.devices.requests[r].exactly {
                        exactly.count = fewer;
                    }
                });
            }
        }
        for (k, constraint) in claim.spec.devices.constraints.iter().enumerate() {
            let attribute = constraint
                .match_attribute
                .as_ref()
                .or(constraint.distinct_attribute.as_ref());
            let attribute = attribute.map_or("", |a| a.as_str());
            let text = format!(
                "drop constraint #{k} ({attribute}) of claim {}",
                claim.metadata.name
            );
            push(text, "drop-constraint", None, &|claims| {
                claims[c].spec.devices.constraints.remove(k);
            });
        }
    }
    list
}

fn taints(question: &Question) -> Vec<crate::api::Taint> {
    let mut found: Vec<crate::api::Taint> = Vec::new();
    for device in question.world.slices.iter().flat_map(|s| &s.devices) {
        for taint in device
            .taints
            .iter()
            .map(|t| &t.taint)
            .filter(|t| crate::search::blocks(t))
        {
            let same = |known: &crate::api::Taint| {
                (&known.key, &known.value, &known.effect)
                    == (&taint.key, &taint.value, &taint.effect)
            };
            if found.len() < TRIALS && !found.iter().any(same) {
                found.push(taint.clone());
            }
        }
    }
    found
}

/// Claims whose end would let the claims fit, each alone; `world` has its state back when this returns.
pub fn release(
    world: &mut World,
    profile: &Profile,
    holders: &Holders,
    claims: &[&ResourceClaim],
    wanted: &[String],
) -> Vec<Value> {
    let mut by_claim: BTreeMap<&String, Vec<DeviceId>> = BTreeMap::new();
    for (device, names) in holders {
        for name in names {
            by_claim.entry(name).or_default().push(*device);
        }
    }
    let mut found = Vec::new();
    for (name, devices) in by_claim
        .into_iter()
        .filter(|(name, _)| wanted.contains(name))
        .take(TRIALS)
    {
        let before: State = world.state.clone();
        for device in &devices {
            if holders.get(device).is_some_and(|h| h.len() == 1) {
                world.state.release(*device);
            }
        }
        let question = Question {
            world,
            profile,
            holders,
            claims,
            node: None,
        };
        let nodes: Vec<&Node> = world.nodes.iter().collect();
        let fits = trial(&question, world, claims, &Shared::default(), &nodes);
        if !fits.is_empty() {
            found.push(json!({
                "kind": "release",
                "change": format!("end claim {name}"),
                "nodes": fits.len(),
                "exampleNodes": examples(fits),
            }));
        }
        world.state = before;
    }
    found
}

/// An attribute's value as text.
pub fn attribute_text(value: &AttributeValue) -> String {
    match value {
        AttributeValue::Int(i) => i.to_string(),
        AttributeValue::Bool(b) => b.to_string(),
        AttributeValue::Str(s) | AttributeValue::Version(s) => format!("{s:?}"),
        AttributeValue::Ints(l) => format!("{l:?}"),
        AttributeValue::Bools(l) => format!("{l:?}"),
        AttributeValue::Strs(l) | AttributeValue::Versions(l) => format!("{l:?}"),
        AttributeValue::Unknown => "unknown".into(),
    }
}
