//! Cases and answers of the differential tests: one JSON object each, in the form that the oracle reads and writes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::api;
use crate::cel::{COST_LIMIT, CompileError, Declared, DeviceView, Program, RunError};
use crate::profile::{Features, Profile};
use crate::result;
use crate::search::{Attempt, Failure, Shared, Silent};
use crate::world::World;

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Objects {
    nodes: Vec<api::Node>,
    resource_slices: Vec<api::ResourceSlice>,
    device_classes: Vec<api::DeviceClass>,
    resource_claims: Vec<api::ResourceClaim>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Consumed {
    id: [String; 3],
    consumed: BTreeMap<String, crate::quantity::Quantity>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Allocated {
    devices: Vec<[String; 3]>,
    shares: Vec<[String; 4]>,
    capacity: Vec<Consumed>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[derive(Default)]
struct CelDevice {
    driver: String,
    allow_multiple_allocations: Option<bool>,
    attributes: BTreeMap<String, api::Attribute>,
    capacity: BTreeMap<String, CelCapacity>,
}

#[derive(Deserialize, Clone)]
struct CelCapacity {
    value: Value,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Case {
    id: String,
    kind: String,
    release: Option<String>,
    variant: String,
    features: BTreeMap<String, bool>,
    objects: Objects,
    allocated: Allocated,
    claims: Vec<String>,
    nodes: Vec<String>,
    timeout_ms: u64,
    r#loop: u32,
    env: String,
    expression: String,
    devices: Vec<CelDevice>,
    cost_limit: Option<u64>,
}

/// Answers one line.
pub fn answer(line: &str) -> Value {
    let case: Case = match serde_json::from_str(line) {
        Ok(case) => case,
        Err(error) => return json!({"error": format!("decode: {error}")}),
    };
    let id = case.id.clone();
    let answered = match case.kind.as_str() {
        "cel" => cel(&case),
        "allocate" => allocate(case),
        other => Err(format!("unknown kind {other}")),
    };
    let mut answer =
        answered.unwrap_or_else(|error| Map::from_iter([("error".to_string(), error.into())]));
    answer.insert("id".into(), id.into());
    answer.into()
}

fn cel(case: &Case) -> Result<Map<String, Value>, String> {
    let mut answer = Map::new();
    let profile = profile(case)?;
    let declared = match case.env.as_str() {
        "new" => Declared::new_expressions(&profile),
        _ => Declared::stored(&profile.quirks),
    };
    let compiled = Program::compile_declared(&case.expression, &profile.quirks, declared);
    let program = match compiled {
        Ok(program) => program,
        Err(CompileError::Invalid(text)) => {
            answer.insert("compileError".into(), text.into());
            return Ok(answer);
        }
        Err(CompileError::Unsupported(text)) => {
            answer.insert("unsupported".into(), text.into());
            return Ok(answer);
        }
    };
    answer.insert("outputType".into(), program.output.clone().into());
    let mut devices = Vec::new();
    for device in &case.devices {
        let mut world = World::default();
        let capacity: Map<String, Value> = device
            .capacity
            .iter()
            .map(|(n, c)| (n.clone(), json!({"value": c.value})))
            .collect();
        let mut published = json!({"name": "d", "capacity": capacity});
        if let Some(on) = device.allow_multiple_allocations {
            published["allowMultipleAllocations"] = on.into();
        }
        let mut published: api::Device =
            serde_json::from_value(published).map_err(|e| e.to_string())?;
        published.attributes = device.attributes.clone();
        let slice = json!({"metadata": {"name": "s"}, "spec": {"driver": device.driver, "pool": {"name": "p"}}});
        let mut slice: api::ResourceSlice =
            serde_json::from_value(slice).map_err(|e| e.to_string())?;
        slice.spec.devices = vec![published];
        world.add_slice(slice)?;
        let slice = &world.slices[0];
        let view = DeviceView {
            world: &world,
            slice,
            device: &slice.devices[0],
            shareable: slice.devices[0].shareable,
        };
        let (result, cost) = program.run(&view, case.cost_limit.unwrap_or(COST_LIMIT));
        let mut one = Map::new();
        match result {
            Ok(matches) => one.insert("match".into(), matches.into()),
            Err(RunError::Error(text)) => one.insert("error".into(), text.into()),
            Err(RunError::Unsupported(text)) => one.insert("unsupported".into(), text.into()),
        };
        if let Some(cost) = cost {
            one.insert("cost".into(), cost.into());
        }
        devices.push(Value::Object(one));
    }
    if !devices.is_empty() {
        answer.insert("devices".into(), devices.into());
    }
    Ok(answer)
}

fn profile(case: &Case) -> Result<Profile, String> {
    let mut features = Features::default();
    for (name, on) in &case.features {
        features.set(name, *on)?;
    }
    let variant = if case.variant.is_empty() {
        "auto"
    } else {
        &case.variant
    };
    Profile::new(case.release.as_deref().unwrap_or("1.37"), variant, features)
}

fn allocate(case: Case) -> Result<Map<String, Value>, String> {
    let profile = profile(&case)?;
    let mut world = World::default();
    case.objects
        .nodes
        .into_iter()
        .for_each(|node| world.add_node(node));
    case.objects
        .device_classes
        .into_iter()
        .for_each(|class| world.add_class(class));
    for slice in case.objects.resource_slices {
        world.add_slice(slice)?;
    }
    for [driver, pool, device] in &case.allocated.devices {
        let id = world.device(driver, pool, device);
        world.state.dedicate(id);
    }
    for [driver, pool, device, _] in &case.allocated.shares {
        let id = world.device(driver, pool, device);
        world.state.share(id);
    }
    for Consumed {
        id: [driver, pool, device],
        consumed,
    } in &case.allocated.capacity
    {
        let id = world.device(driver, pool, device);
        let consumed: Vec<_> = consumed
            .iter()
            .map(|(n, q)| (world.names.add(n), *q))
            .collect();
        world.state.consume(id, &consumed)?;
    }
    let claims: Vec<&api::ResourceClaim> = case
        .claims
        .iter()
        .flat_map(|name| {
            case.objects
                .resource_claims
                .iter()
                .filter(move |c| c.metadata.name == *name)
        })
        .collect();
    let shared = Shared::default();
    let mut nodes = Vec::new();
    for name in &case.nodes {
        let node = world.node(name).ok_or_else(|| format!("no node {name}"))?;
        nodes.push(one_node(
            &world,
            &profile,
            node,
            &claims,
            &shared,
            case.timeout_ms,
            case.r#loop,
        ));
    }
    Ok(Map::from_iter([("nodes".to_string(), nodes.into())]))
}

fn one_node(
    world: &World,
    profile: &Profile,
    node: &api::Node,
    claims: &[&api::ResourceClaim],
    shared: &Shared,
    timeout_ms: u64,
    loops: u32,
) -> Value {
    let begin = Instant::now();
    let deadline = (timeout_ms > 0).then(|| begin + Duration::from_millis(timeout_ms));
    let run = || {
        let observer = &mut Silent;
        Attempt {
            world,
            profile,
            node,
            claims,
            shared,
            deadline,
            max_steps: None,
            observer,
        }
        .run()
    };
    for _ in 1..loops {
        std::hint::black_box(run().steps);
    }
    let answer = run();
    let nanos = begin.elapsed().as_nanos() / u128::from(loops.max(1));
    let mut one = Map::new();
    one.insert("name".into(), node.metadata.name.clone().into());
    let rendered = answer.outcome.and_then(|fit| {
        let Some(results) = fit else { return Ok(None) };
        let mut shares = 0;
        let rendered: Result<Vec<Value>, Failure> = claims
            .iter()
            .zip(&results)
            .map(|(claim, one)| result::render(world, profile, node, claim, one, &mut shares))
            .collect();
        rendered.map(Some)
    });
    let (outcome, error) = match &rendered {
        Ok(Some(_)) => ("fit", None),
        Ok(None) => ("nofit", None),
        Err(Failure::Error(text)) => ("error", Some(text.clone())),
        Err(Failure::NodeError(text)) => ("nodeError", Some(text.clone())),
        Err(Failure::TimedOut) => ("timeout", None),
        Err(Failure::Unsupported(text)) => ("unsupported", Some(text.clone())),
    };
    one.insert("outcome".into(), outcome.into());
    if let Ok(Some(results)) = rendered
        && !results.is_empty()
    {
        one.insert("results".into(), results.into());
    }
    if let Some(error) = error {
        one.insert("error".into(), error.into());
    }
    one.insert("steps".into(), answer.steps.into());
    if loops > 0 {
        one.insert("nanos".into(), (nanos as u64).into());
    }
    one.into()
}
