//! The portraits that ship: each can be read whole, and says nothing impossible.

use std::fs;
use std::path::{Path, PathBuf};

use nvdra_mock_nvml::portrait::Portrait;
use nvdra_mock_nvml::topology::{Level, common_ancestor, remote_ends};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("portraits")
}

/// A portrait's text with its models put in, as it is laid beside the library.
fn whole(file: &Path) -> Value {
    let mut portrait: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
    for (_, model) in portrait["models"].as_object_mut().unwrap() {
        if let Some(name) = model.as_str() {
            *model =
                serde_json::from_str(&fs::read_to_string(folder().join(name)).unwrap()).unwrap();
        }
    }
    portrait
}

fn all() -> Vec<(String, Value)> {
    let files = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let portraits = files.filter(|file| file.extension().is_some_and(|ending| ending == "json"));
    portraits
        .map(|file| {
            (
                file.file_stem().unwrap().to_str().unwrap().to_string(),
                whole(&file),
            )
        })
        .collect()
}

fn parsed(name: &str) -> Portrait {
    Portrait::parse(&whole(&folder().join(format!("{name}.json"))).to_string()).unwrap()
}

#[test]
fn every_portrait_is_read_and_named_as_its_file() {
    let all = all();
    assert!(all.len() >= 5);
    for (name, text) in all {
        let portrait =
            Portrait::parse(&text.to_string()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(portrait.name, name);
    }
}

#[test]
fn profiles_fit_into_the_gpu() {
    for (name, _) in all() {
        for (model, about) in parsed(&name).models {
            let Some(mig) = about.mig else { continue };
            for profile in mig.profiles {
                let here = format!("{name}, {model}, {}", profile.text);
                assert!(
                    profile.starts.iter().all(|start| start + profile.size <= 8),
                    "{here}: placements"
                );
                assert!(
                    profile.instances as usize <= profile.starts.len(),
                    "{here}: more instances than placements"
                );
                assert!(
                    profile.memory_mib << 20 <= about.memory_total_bytes.as_ref().unwrap().value,
                    "{here}: memory"
                );
                assert!(profile.index < mig.index_limit.value, "{here}: index");
            }
        }
    }
}

/// The name a profile gets from its memory: eighths of the whole, as marketing counts gigabytes.
#[test]
fn profile_texts_follow_from_memory() {
    for (name, _) in all() {
        for model in parsed(&name).models.into_values() {
            let (Some(mig), Some(total)) = (model.mig, model.memory_total_bytes) else {
                continue;
            };
            let total = total.value as f64;
            for profile in mig.profiles {
                let eighths = ((profile.memory_mib << 20) as f64 / total * 8.0).ceil() / 8.0;
                let gigabytes = (eighths * (total / f64::from(1 << 30)).ceil()).round();
                let plain = format!("{}g.{gigabytes}gb", profile.slices);
                assert_eq!(
                    profile.text.split('+').next(),
                    Some(plain.as_str()),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn every_link_has_a_far_end() {
    for (name, _) in all() {
        let portrait = parsed(&name);
        for gpu in &portrait.gpus {
            if let Some(nvlink) = &portrait.models[&gpu.model].nvlink {
                // All links or, for a GPU that was taken off them, none.
                let ends = remote_ends(gpu, nvlink).len();
                assert!(
                    ends == nvlink.links.value as usize || ends == 0,
                    "{name}, {}",
                    gpu.minor
                );
            }
        }
    }
}

#[test]
fn the_sixteen_show_every_level() {
    let portrait = parsed("gpus16");
    let level = |one: u32, other: u32| {
        let gpu = |minor| portrait.gpus.iter().find(|gpu| gpu.minor == minor).unwrap();
        common_ancestor(gpu(one), gpu(other))
    };
    assert_eq!(level(8, 8), Level::Internal);
    assert_eq!(level(8, 9), Level::Single);
    assert_eq!(level(8, 10), Level::Multiple);
    assert_eq!(level(8, 12), Level::HostBridge);
    assert_eq!(level(8, 0), Level::System);
    let h100 = parsed("h100x8");
    assert_eq!(common_ancestor(&h100.gpus[0], &h100.gpus[1]), Level::Node);
}

#[test]
fn contradictions_are_named() {
    let change = |path: &str, value: Value| {
        let mut portrait = whole(&folder().join("h100x8.json"));
        *portrait.pointer_mut(path).unwrap() = value;
        Portrait::parse(&portrait.to_string()).unwrap_err()
    };
    assert!(change("/gpus/1/minor", 0.into()).contains("minor 0"));
    assert!(change("/gpus/1/pci_bus_id/0", "0000:1b:00.0".into()).contains("given twice"));
    assert!(change("/gpus/1/pci_bus_id/0", "1b".into()).contains("\"1b\""));
    assert!(change("/gpus/1/model", "b200".into()).contains("b200"));
    assert!(change("/gpus/1/numa_node/0", 7.into()).contains("NUMA node 7"));
    assert!(change("/gpus/1/minor", 256.into()).contains("255"));
    assert!(change("/host/numa_nodes/0/cpus/0", "4-1".into()).contains("4-1"));
    assert!(change("/driver_version/1", "guessed".into()).contains("guessed"));
    assert!(change("/portrait", 2.into()).contains("format 2"));
}
