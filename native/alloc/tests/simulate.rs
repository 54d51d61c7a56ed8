//! A simulated fleet keeps what it knows between searches, and answers as one that knows nothing.

use nvdra_alloc::simulate::{Allocated, Simulation};
use serde_json::{Value, json};

/// A node with two GPUs, each whole or in two halves.
fn slices() -> Value {
    let mut devices = Vec::new();
    for gpu in 0..2 {
        let device = |name: String, kind: &str, halves: &[usize]| {
            let used: serde_json::Map<String, Value> = halves
                .iter()
                .map(|half| (format!("half-{half}"), json!({"value": "1"})))
                .collect();
            json!({
                "name": name,
                "attributes": {"kind": {"string": kind}, "uuid": {"string": format!("GPU-{gpu}")}},
                "capacity": {"memory": {"value": format!("{}Gi", 40 * halves.len())}},
                "consumesCounters": [{"counterSet": format!("gpu-{gpu}"), "counters": used}],
            })
        };
        devices.push(device(format!("gpu-{gpu}"), "gpu", &[0, 1]));
        devices.push(device(format!("gpu-{gpu}-a"), "half", &[0]));
        devices.push(device(format!("gpu-{gpu}-b"), "half", &[1]));
    }
    let pool = json!({"name": "n", "generation": 1, "resourceSliceCount": 2});
    let set = |gpu: usize| json!({"name": format!("gpu-{gpu}"), "counters": {"half-0": {"value": "1"}, "half-1": {"value": "1"}}});
    json!([
        {"metadata": {"name": "0"}, "spec": {"driver": "d", "nodeName": "n", "pool": pool, "sharedCounters": [set(0), set(1)]}},
        {"metadata": {"name": "1"}, "spec": {"driver": "d", "nodeName": "n", "pool": pool, "devices": devices}},
    ])
}

fn claims(kind: &str, count: usize) -> Vec<u8> {
    let selector =
        json!({"cel": {"expression": format!("device.attributes['d'].kind == '{kind}'")}});
    let exactly = json!({"deviceClassName": "any", "selectors": [selector], "count": count});
    json!([{"metadata": {"name": "c"}, "spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}}])
        .to_string()
        .into_bytes()
}

fn fleet(nodes: usize) -> Simulation {
    let mut made = Simulation::new("1.37", &[], "scheduler", 0, 1).unwrap();
    made.add_classes(br#"[{"metadata": {"name": "any"}}]"#)
        .unwrap();
    let names = (0..nodes).map(|number| format!("n-{number}")).collect();
    made.add_nodes(slices().to_string().as_bytes(), "n", names)
        .unwrap();
    for (kind, count) in [("gpu", 1), ("half", 1), ("half", 3), ("gpu", 2)] {
        made.add_template(&claims(kind, count)).unwrap();
    }
    made
}

/// Devices of one pod that comes after others, all on one node: each fleet that is asked searches anew.
fn devices_after(before: &[u32], template: u32) -> Option<Vec<String>> {
    let mut made = fleet(1);
    for (at, one) in before.iter().chain([&template]).enumerate() {
        made.add_pod(at as f64, f64::INFINITY, *one, None);
    }
    while made.advance(1) {}
    let placed = made.placements();
    let (number, _, _, devices) = placed.last()?.clone();
    (number == before.len()).then_some(devices)
}

#[test]
fn one_fleet_answers_as_fleets_that_know_nothing() {
    let pods: Vec<u32> = (0..60).map(|at| (at * 7 + at / 3) % 4).collect();
    let mut made = fleet(30);
    for (at, template) in pods.iter().enumerate() {
        made.add_pod(at as f64, f64::INFINITY, *template, Some(at as u32 % 30));
    }
    while made.advance(1) {}
    let mut placed: Vec<Vec<(usize, Vec<String>)>> = vec![Vec::new(); 30];
    for (number, _, _, devices) in made.placements() {
        placed[number % 30].push((number, devices));
    }
    for of_node in placed {
        for (at, (number, devices)) in of_node.iter().enumerate() {
            let before: Vec<u32> = of_node[..at].iter().map(|(one, _)| pods[*one]).collect();
            assert_eq!(
                devices_after(&before, pods[*number]).as_ref(),
                Some(devices)
            );
        }
    }
}

#[test]
fn devices_in_use_from_the_start_stay_in_use() {
    let mut made = fleet(1);
    let device = |name: &str| Allocated {
        driver: "d".into(),
        pool: "n".into(),
        device: name.into(),
        share: None,
    };
    made.occupy(0, &[device("gpu-0-b"), device("no-such")])
        .unwrap();
    for at in 0..4 {
        made.add_pod(f64::from(at), 10.0, 1, None);
    }
    made.advance(4);
    let placed: Vec<String> = made
        .placements()
        .into_iter()
        .flat_map(|one| one.3)
        .collect();
    assert_eq!(placed, ["gpu-0-a", "gpu-1-a", "gpu-1-b"]);
}
