//! One refusal in words: its code, its text and what else is known.

use serde_json::{Map, Value, json};

use super::relax::taint_text;
use super::{EXAMPLES, Question};
use crate::capacity::Shortage;
use crate::cel;
use crate::constraint::Refusal;
use crate::search::{Answer, At, Candidate, Reason, claim_text};

pub fn request_text(question: &Question, at: At) -> String {
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
pub fn describe(
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
            detail.insert("holders".into(), json!(holders(question, candidate)));
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
        }) => {
            detail.insert("holders".into(), json!(holders(question, candidate)));
            (
                "capacity.exhausted",
                format!(
                    "{request}: capacity {}: {amount} needed, {used} of {total} in use",
                    name(*capacity)
                ),
            )
        }
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
        Reason::Groups { set } => {
            let holders = counter_holders(question, answer, candidate);
            detail.insert("holders".into(), json!(holders));
            let text = format!(
                "{request}: the devices in use on counter set {} have no compatibility group of the device",
                name(*set)
            );
            ("counters.groups", text)
        }
        Reason::Taint(taint) => {
            let origin = taint
                .rule
                .as_ref()
                .map_or("the driver".to_string(), |rule| {
                    format!("DeviceTaintRule {rule}")
                });
            let taint = taint_text(&taint.taint);
            (
                "taint",
                format!("{request}: taint {taint} of {origin} is not tolerated"),
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

pub fn shortened(expression: &str) -> String {
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

/// Claims that hold the device.
fn holders<'a>(question: &Question<'a>, candidate: Option<Candidate>) -> &'a [String] {
    let known = candidate.and_then(|c| question.holders.get(&c.id));
    known.map_or(&[], |names| names)
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
