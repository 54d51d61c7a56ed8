//! The allocation result that the scheduler would write into a claim.

use serde_json::{Map, Value, json};

use crate::api::{Configuration, Node, NodeSelector, NodeSelectorTerm, Requirement, ResourceClaim};
use crate::profile::Profile;
use crate::search::{ClaimResult, Failure, Granted};
use crate::world::World;

/// Renders one claim's result. `shares` numbers the identities of shares over all claims.
pub fn render(
    world: &World,
    profile: &Profile,
    node: &Node,
    claim: &ResourceClaim,
    result: &ClaimResult,
    shares: &mut u32,
) -> Result<Value, Failure> {
    let results: Vec<Value> = result
        .devices
        .iter()
        .map(|one| device(world, profile, one, shares))
        .collect();
    let mut devices = Map::new();
    if !results.is_empty() {
        devices.insert("results".into(), results.into());
    }
    let config = config(world, profile, claim, result);
    if !config.is_empty() {
        devices.insert("config".into(), config.into());
    }
    let mut allocation = Map::new();
    allocation.insert("devices".into(), devices.into());
    let selector = node_selector(world, profile, node, &result.devices).map_err(|terms| {
        Failure::Error(format!(
            "create NodeSelector for claim {}: unsupported ResourceSlice.NodeSelector with {terms} terms",
            claim.metadata.name
        ))
    })?;
    if let Some(selector) = selector {
        allocation.insert("nodeSelector".into(), json!(selector));
    }
    Ok(allocation.into())
}

fn device(world: &World, profile: &Profile, one: &Granted, shares: &mut u32) -> Value {
    let slice = &world.slices[one.candidate.slice as usize];
    let device = &slice.devices[one.candidate.device as usize];
    let (driver, pool) = world.pool_name(slice.pool);
    let mut entry = Map::new();
    entry.insert("request".into(), one.request.as_ref().into());
    entry.insert("driver".into(), driver.as_ref().into());
    entry.insert("pool".into(), pool.as_ref().into());
    entry.insert(
        "device".into(),
        world.names.text(device.name).as_ref().into(),
    );
    if one.admin {
        entry.insert("adminAccess".into(), true.into());
    }
    if !one.tolerations.is_empty() && !profile.quirks.no_tolerations {
        entry.insert("tolerations".into(), json!(one.tolerations[..]));
    }
    if let Some(rare) = device
        .rare
        .as_ref()
        .filter(|_| profile.features.device_binding_and_status)
    {
        for (key, list) in [
            ("bindingConditions", &rare.binding_conditions),
            ("bindingFailureConditions", &rare.binding_failure_conditions),
        ] {
            if let Some(list) = list.as_ref().filter(|l| !l.is_empty()) {
                entry.insert(key.into(), json!(list));
            }
        }
    }
    if one.shared {
        *shares += 1;
        entry.insert("shareID".into(), format!("share-{shares}").into());
    }
    if let Some(consumed) = &one.consumed {
        let consumed: Map<String, Value> = consumed
            .iter()
            .map(|(n, q)| (world.names.text(*n).to_string(), q.to_string().into()))
            .collect();
        entry.insert("consumedCapacity".into(), consumed.into());
    }
    if profile.variant == crate::profile::Variant::Experimental
        && let Some(skip) = slice
            .skip_node_operations
            .as_ref()
            .filter(|s| !s.is_empty())
    {
        entry.insert("skipNodeOperations".into(), json!(skip));
    }
    entry.into()
}

fn config(
    world: &World,
    profile: &Profile,
    claim: &ResourceClaim,
    result: &ClaimResult,
) -> Vec<Value> {
    let requests = &claim.spec.devices.requests;
    // The class and full name of what was chosen for each request.
    let chosen: Vec<(&str, String)> = requests
        .iter()
        .zip(&result.alternatives)
        .map(
            |(request, index)| match request.first_available.get(*index) {
                Some(sub) => (
                    sub.device_class_name.as_str(),
                    format!("{}/{}", request.name, sub.name),
                ),
                None => (
                    request
                        .exactly
                        .as_ref()
                        .map_or("", |e| e.device_class_name.as_str()),
                    request.name.clone(),
                ),
            },
        )
        .collect();
    let mut entries: Vec<(&str, Vec<String>, &Configuration)> = Vec::new();
    let mut classes: Vec<(&str, usize, usize)> = Vec::new();
    for (class, name) in &chosen {
        if let Some((_, from, to)) = classes.iter().find(|(known, _, _)| known == class) {
            for (_, requests, _) in &mut entries[*from..*to] {
                requests.push(name.clone());
            }
            continue;
        }
        let from = entries.len();
        let of_class = world
            .classes
            .get(*class)
            .map_or(&[][..], |c| &c.spec.config);
        entries.extend(
            of_class
                .iter()
                .map(|one| ("FromClass", vec![name.clone()], one)),
        );
        classes.push((class, from, entries.len()));
    }
    let covers = |list: &[String], index: usize| {
        list.contains(&requests[index].name) || list.contains(&chosen[index].1)
    };
    for one in &claim.spec.devices.config {
        let matching = (0..requests.len())
            .filter(|index| one.requests.is_empty() || covers(&one.requests, *index))
            .count();
        let times = match profile.quirks.config_for_each_request && !one.requests.is_empty() {
            true => matching,
            false => matching.min(1),
        };
        for _ in 0..times {
            entries.push(("FromClaim", one.requests.clone(), one));
        }
    }
    let render = |(source, list, one): (&str, Vec<String>, &Configuration)| {
        let mut entry = Map::new();
        entry.insert("source".into(), source.into());
        let all = (0..requests.len()).all(|index| covers(&list, index));
        if !list.is_empty() && (profile.quirks.config_for_each_request || !all) {
            entry.insert("requests".into(), json!(list));
        }
        if let Some(opaque) = &one.opaque {
            entry.insert("opaque".into(), opaque.clone());
        }
        Value::Object(entry)
    };
    entries.into_iter().map(render).collect()
}

/// Where the result can be used; the error is the number of terms of a selector that is not supported.
fn node_selector(
    world: &World,
    profile: &Profile,
    node: &Node,
    devices: &[Granted],
) -> Result<Option<NodeSelector>, usize> {
    let mut term = NodeSelectorTerm::default();
    for one in devices {
        let slice = &world.slices[one.candidate.slice as usize];
        let rare = slice.devices[one.candidate.device as usize].rare.as_deref();
        let (name, selector) = match slice.is_per_device() {
            true => (
                rare.and_then(|r| r.node_name.as_deref()),
                rare.and_then(|r| r.node_selector.as_ref()),
            ),
            false => (slice.node_name.as_deref(), slice.node_selector.as_deref()),
        };
        let binds = !profile.quirks.basic && rare.is_some_and(|r| r.binds_to_node);
        if name.is_some() || binds {
            let target = match (profile.quirks.basic, name) {
                (true, Some(name)) => name,
                _ => &node.metadata.name,
            };
            let only = Requirement {
                key: "metadata.name".into(),
                operator: "In".into(),
                values: vec![target.into()],
            };
            let term = NodeSelectorTerm {
                match_fields: vec![only],
                match_expressions: Vec::new(),
            };
            return Ok(Some(NodeSelector {
                node_selector_terms: vec![term],
            }));
        }
        match selector.map(|s| &s.node_selector_terms[..]) {
            None | Some([]) => {}
            Some([only]) => {
                merge(&only.match_fields, &mut term.match_fields);
                merge(&only.match_expressions, &mut term.match_expressions);
            }
            Some(terms) => return Err(terms.len()),
        }
    }
    let empty = term.match_fields.is_empty() && term.match_expressions.is_empty();
    Ok((!empty).then(|| NodeSelector {
        node_selector_terms: vec![term],
    }))
}

fn merge(from: &[Requirement], into: &mut Vec<Requirement>) {
    let same_values = |a: &[String], b: &[String]| {
        a.iter().all(|v| b.contains(v)) && b.iter().all(|v| a.contains(v))
    };
    for one in from {
        let known = into.iter().any(|k| {
            k.key == one.key && k.operator == one.operator && same_values(&k.values, &one.values)
        });
        if !known {
            into.push(one.clone());
        }
    }
}
