//! Single changes after which a node fits. Each was tried by repeating the whole allocation; none is guessed.

use serde_json::{Map, Value, json};

use super::describe::shortened;
use super::{EXAMPLES, Holders, Question, attempt, over_nodes};
use crate::api::{Allocation, Node, ResourceClaim, Selector, Taint, Toleration};
use crate::profile::Profile;
use crate::search::{Shared, Silent, blocks, claim_text};
use crate::world::{State, World};

/// Steps of a trial at most: many trials are made, and a trial that takes longer proves nothing.
const TRIAL_STEPS: u64 = 20_000;
/// Trials of one kind at most.
const TRIALS: usize = 24;
/// Devices that a claim can have.
const MOST_DEVICES: i64 = 32;

/// A request, or one alternative of it: positions of claim, request and alternative.
type Place = (usize, usize, Option<usize>);

/// Claims with one thing changed.
struct Change {
    kind: &'static str,
    text: String,
    /// The same for programs: claim, request, position or value.
    facts: Value,
    /// Of changes with the same number only the first that fits is of use.
    group: Option<usize>,
    claims: Vec<ResourceClaim>,
}

/// The changes that make one of the failing nodes fit, as JSON.
pub fn relax(question: &Question, failing: &[&Node]) -> Vec<Value> {
    let mut found = Vec::new();
    let mut settled: Vec<usize> = Vec::new();
    for change in changes(question) {
        if change.group.is_some_and(|group| settled.contains(&group)) {
            continue;
        }
        let claims: Vec<&ResourceClaim> = change.claims.iter().collect();
        let fits = trial(question, &claims, failing);
        if !fits.is_empty() {
            settled.extend(change.group);
            found.push(entry(change.kind, &change.text, change.facts, fits));
        }
    }
    found
}

fn entry(kind: &str, text: &str, facts: Value, mut fits: Vec<String>) -> Value {
    let mut entry = Map::new();
    entry.insert("kind".into(), kind.into());
    entry.insert("change".into(), text.into());
    entry.insert("nodes".into(), fits.len().into());
    fits.truncate(EXAMPLES);
    entry.insert("exampleNodes".into(), fits.into());
    if let Value::Object(facts) = facts {
        entry.extend(facts);
    }
    Value::Object(entry)
}

/// The nodes on which the claims fit.
fn trial(question: &Question, claims: &[&ResourceClaim], nodes: &[&Node]) -> Vec<String> {
    let shared = Shared::default();
    let fits = |node: &&Node| {
        let answer = attempt(question, claims, &shared, node, TRIAL_STEPS, &mut Silent);
        matches!(answer.outcome, Ok(Some(_)))
    };
    over_nodes(nodes, |part| {
        let names = part.iter().filter(|node| fits(node));
        names.map(|n| n.metadata.name.clone()).collect::<Vec<_>>()
    })
    .concat()
}

/// The claims with one thing changed, for each thing that can be.
fn changes(question: &Question) -> Vec<Change> {
    let mut list = Changes {
        original: question.claims.iter().map(|c| (*c).clone()).collect(),
        list: Vec::new(),
    };
    for taint in taints(question) {
        list.tolerate(&taint);
    }
    for (c, claim) in question.claims.iter().enumerate() {
        for (r, request) in claim.spec.devices.requests.iter().enumerate() {
            match &request.exactly {
                Some(_) => list.request((c, r, None)),
                None => {
                    (0..request.first_available.len()).for_each(|a| list.request((c, r, Some(a))))
                }
            }
        }
        list.constraints(c, claim);
    }
    list.list
}

struct Changes {
    original: Vec<ResourceClaim>,
    list: Vec<Change>,
}

impl Changes {
    fn push(
        &mut self,
        kind: &'static str,
        text: String,
        facts: Value,
        group: Option<usize>,
        edit: impl FnOnce(&mut Vec<ResourceClaim>),
    ) {
        let mut claims = self.original.clone();
        edit(&mut claims);
        self.list.push(Change {
            kind,
            text,
            facts,
            group,
            claims,
        });
    }

    fn tolerate(&mut self, taint: &Taint) {
        let toleration = Toleration {
            key: taint.key.clone(),
            operator: "Equal".into(),
            value: taint.value.clone(),
            effect: taint.effect.clone(),
            toleration_seconds: None,
        };
        let text = format!("tolerate the taint {}", taint_text(taint));
        let facts = json!({"toleration": toleration});
        self.push("tolerate", text, facts, None, |claims| {
            for request in claims.iter_mut().flat_map(|c| &mut c.spec.devices.requests) {
                if let Some(exactly) = &mut request.exactly {
                    exactly.tolerations.push(toleration.clone());
                }
                for sub in &mut request.first_available {
                    sub.tolerations.push(toleration.clone());
                }
            }
        });
    }

    /// Changes of a request or alternative: a selector or capacity less, fewer devices.
    fn request(&mut self, at: Place) {
        let claim = &self.original[at.0];
        let request = &claim.spec.devices.requests[at.1];
        let sub = at.2.map(|a| &request.first_available[a]);
        let name = match sub {
            Some(sub) => format!("{}/{}", request.name, sub.name),
            None => request.name.clone(),
        };
        let (claim_name, place) = (
            claim_text(claim),
            format!("request {name} of claim {}", claim.metadata.name),
        );
        let mut wish = self.original.clone();
        let wish = fields(&mut wish, at);
        let (selectors, mode, count) = (wish.selectors.clone(), wish.mode.clone(), *wish.count);
        let capacities: Vec<String> = wish
            .capacity
            .iter()
            .flat_map(|c| c.requests.keys().cloned())
            .collect();
        for (s, selector) in selectors.iter().enumerate() {
            let expression = selector.cel.as_ref().map_or("", |cel| &cel.expression);
            let text = format!("drop selector #{s} of {place}: {}", shortened(expression));
            let facts = json!({"claim": claim_name, "request": name, "index": s});
            self.push("drop-selector", text, facts, None, |claims| {
                fields(claims, at).selectors.remove(s);
            });
        }
        for capacity in capacities {
            let text = format!("do not ask for capacity {capacity} in {place}");
            let facts = json!({"claim": claim_name, "request": name, "capacity": capacity});
            self.push("drop-capacity", text, facts, None, |claims| {
                if let Some(wanted) = fields(claims, at).capacity {
                    wanted.requests.remove(&capacity);
                }
            });
        }
        let all = mode == "All";
        let most = if all {
            MOST_DEVICES
        } else {
            count.min(MOST_DEVICES + 1) - 1
        };
        let group = Some(self.list.len());
        for fewer in (1..=most).rev() {
            let instead = match all {
                true => "all".to_string(),
                false => count.to_string(),
            };
            let text = format!("ask for {fewer} instead of {instead} devices in {place}");
            let facts = json!({"claim": claim_name, "request": name, "count": fewer});
            self.push("count", text, facts, group, |claims| {
                let wish = fields(claims, at);
                *wish.mode = "ExactCount".into();
                *wish.count = fewer;
            });
        }
    }

    fn constraints(&mut self, at: usize, claim: &ResourceClaim) {
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
            let facts = json!({"claim": claim_text(claim), "index": k});
            self.push("drop-constraint", text, facts, None, |claims| {
                claims[at].spec.devices.constraints.remove(k);
            });
        }
    }
}

/// The fields that requests and alternatives have in common.
struct Fields<'a> {
    selectors: &'a mut Vec<Selector>,
    mode: &'a mut String,
    count: &'a mut i64,
    capacity: Option<&'a mut crate::api::CapacityRequirements>,
}

fn fields(claims: &mut [ResourceClaim], (c, r, alternative): Place) -> Fields<'_> {
    let request = &mut claims[c].spec.devices.requests[r];
    match (alternative, &mut request.exactly) {
        (None, Some(exactly)) => Fields {
            selectors: &mut exactly.selectors,
            mode: &mut exactly.allocation_mode,
            count: &mut exactly.count,
            capacity: exactly.capacity.as_mut(),
        },
        (alternative, _) => {
            let sub = &mut request.first_available[alternative.unwrap_or(0)];
            Fields {
                selectors: &mut sub.selectors,
                mode: &mut sub.allocation_mode,
                count: &mut sub.count,
                capacity: sub.capacity.as_mut(),
            }
        }
    }
}

pub fn taint_text(taint: &Taint) -> String {
    let value = if taint.value.is_empty() {
        String::new()
    } else {
        format!("={}", taint.value)
    };
    format!("{}{value}:{}", taint.key, taint.effect)
}

/// Taints of devices that keep claims away.
fn taints(question: &Question) -> Vec<Taint> {
    let mut found: Vec<Taint> = Vec::new();
    let devices = question.world.slices.iter().flat_map(|s| &s.devices);
    for taint in devices
        .flat_map(|d| &d.taints)
        .map(|t| &t.taint)
        .filter(|t| blocks(t))
    {
        let same = |known: &Taint| {
            (&known.key, &known.value, &known.effect) == (&taint.key, &taint.value, &taint.effect)
        };
        if found.len() < TRIALS && !found.iter().any(same) {
            found.push(taint.clone());
        }
    }
    found
}

/// Claims whose end would let the claims fit, each alone: their names and allocations are given. `world` has its state
/// back when this returns.
pub fn release(
    world: &mut World,
    profile: &Profile,
    holders: &Holders,
    claims: &[&ResourceClaim],
    holding: &[(String, &Allocation)],
) -> Vec<Value> {
    let mut found = Vec::new();
    for (name, allocation) in holding.iter().take(TRIALS) {
        let before: State = world.state.clone();
        world.remove_allocation(allocation, |id| {
            holders
                .get(&id)
                .is_none_or(|names| names.iter().all(|holder| holder == name))
        });
        let question = Question {
            world,
            profile,
            holders,
            claims,
            node: None,
        };
        let nodes: Vec<&Node> = world.nodes.iter().collect();
        let fits = trial(&question, claims, &nodes);
        if !fits.is_empty() {
            let facts = json!({"claim": name.split(' ').next()});
            found.push(entry("release", &format!("end claim {name}"), facts, fits));
        }
        world.state = before;
    }
    found
}
