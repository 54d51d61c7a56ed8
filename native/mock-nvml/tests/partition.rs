//! The rules of partitioning against a model of eight slices that knows nothing of ids.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use nvdra_mock_nvml::code::Code;
use nvdra_mock_nvml::partition::{
    GPU_INSTANCES, Partitioning, Process, compute_profile, instance_id, placement,
};
use nvdra_mock_nvml::portrait::{Mig, ModeChange, Model};

fn models() -> Vec<(String, Model)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("portraits/models");
    let files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files
        .map(|file| {
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            (
                name,
                serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap(),
            )
        })
        .collect()
}

fn tables() -> Vec<(String, Mig)> {
    let all = models()
        .into_iter()
        .filter_map(|(name, model)| Some((name, model.mig?)));
    all.filter(|(_, mig)| !mig.profiles.is_empty()).collect()
}

fn on() -> Partitioning {
    Partitioning {
        mode: true,
        pending: true,
        instances: vec![],
    }
}

fn process(gi: Option<u32>, ci: Option<u32>) -> Process {
    Process {
        minor: 0,
        gi,
        ci,
        pid: 7,
        memory_bytes: 0,
        hidden: false,
    }
}

/// The same sequence in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

#[test]
fn ids_and_placements_are_the_same_thing_said_twice() {
    for id in 0..GPU_INSTANCES {
        let (start, size) = placement(id);
        assert_eq!(instance_id(start, size), id);
        assert!(start % size == 0 && start + size <= 8);
    }
    // The listings of the MIG user guide.
    assert_eq!(
        [
            instance_id(0, 8),
            instance_id(0, 4),
            instance_id(4, 2),
            instance_id(6, 1)
        ],
        [0, 1, 5, 13]
    );
}

#[test]
fn any_sequence_keeps_to_the_model() {
    for (name, mig) in tables() {
        for seed in 1..60u64 {
            let mut dice = Dice(seed * 0x9e37_79b9);
            let mut state = on();
            let mut model: BTreeMap<u32, (u32, Vec<bool>)> = BTreeMap::new(); // by id: profile, slices it has
            for step in 0..200 {
                let here = format!("{name}, seed {seed}, step {step}");
                if dice.below(3) < 2 {
                    let profile = &mig.profiles[dice.below(mig.profiles.len())];
                    let start = profile.starts[dice.below(profile.starts.len())];
                    let wanted: Vec<bool> = (0..8)
                        .map(|slice| (start..start + profile.size).contains(&slice))
                        .collect();
                    let is_taken = model.values().any(|(_, slices)| {
                        slices
                            .iter()
                            .zip(&wanted)
                            .any(|(one, other)| *one && *other)
                    });
                    let count = model.values().filter(|(id, _)| *id == profile.id).count();
                    let slices = |id: u32| {
                        mig.profiles
                            .iter()
                            .find(|other| other.id == id)
                            .unwrap()
                            .slices
                    };
                    let used: u32 = model.values().map(|(id, _)| slices(*id)).sum();
                    let has_room = !is_taken
                        && count < profile.instances as usize
                        && used + profile.slices <= 7;
                    let before = state.remaining(&mig, profile.id).unwrap();
                    match state.create_instance(&mig, profile.id, Some((start, profile.size))) {
                        Ok(id) => {
                            assert!(has_room, "{here}");
                            assert!(before > 0, "{here}");
                            assert!(model.insert(id, (profile.id, wanted)).is_none(), "{here}");
                        }
                        Err(code) => {
                            assert_eq!(code, Code::INSUFFICIENT_RESOURCES, "{here}");
                            assert!(!has_room, "{here}");
                        }
                    }
                } else if let Some(id) = state.instances.get(dice.below(8)).map(|made| made.id) {
                    state.destroy_instance(id, &[]).unwrap();
                    model.remove(&id).unwrap();
                }
                let said: Vec<(u32, u32, Vec<bool>)> = state
                    .instances
                    .iter()
                    .map(|made| {
                        let has = (0..8)
                            .map(|slice| (made.start..made.start + made.size).contains(&slice))
                            .collect();
                        (made.id, made.profile.unwrap(), has)
                    })
                    .collect();
                let modelled: Vec<_> = model
                    .iter()
                    .map(|(id, (profile, slices))| (*id, *profile, slices.clone()))
                    .collect();
                assert_eq!(said, modelled, "{here}");
            }
        }
    }
}

#[test]
fn compute_instances_never_overlap_and_fill_their_instance() {
    for (name, mig) in tables() {
        for profile in &mig.profiles {
            let mut state = on();
            let id = state.create_instance(&mig, profile.id, None).unwrap();
            for index in 0..9 {
                let Ok(compute) = compute_profile(profile, index) else {
                    continue;
                };
                let here = format!("{name}, {}, {}", profile.text, compute.name(profile));
                for made in 0..compute.instances {
                    let left = state.remaining_compute(&mig, id, index).unwrap();
                    assert_eq!(left, compute.instances - made, "{here}");
                    assert_eq!(state.create_compute(&mig, id, index), Ok(made), "{here}");
                }
                assert_eq!(
                    state.create_compute(&mig, id, index),
                    Err(Code::INSUFFICIENT_RESOURCES)
                );
                let mut taken = [0; 8];
                for within in &state.instance(id).unwrap().compute {
                    (within.start..within.start + within.size)
                        .for_each(|at| taken[at as usize] += 1);
                }
                assert!(taken.iter().all(|count| *count <= 1), "{here}");
                for made in 0..compute.instances {
                    state.destroy_compute(id, made, &[]).unwrap();
                }
            }
        }
    }
}

#[test]
fn refusals_change_nothing() {
    let mig = tables().remove(0).1;
    let mut state = on();
    let small = &mig.profiles[0];
    let id = state.create_instance(&mig, small.id, Some((2, 1))).unwrap();
    let ci = state.create_compute(&mig, id, 0).unwrap();
    let before = state.clone();
    let users = [process(Some(id), Some(ci))];
    assert_eq!(
        state.create_instance(&mig, small.id, Some((2, 1))),
        Err(Code::INSUFFICIENT_RESOURCES)
    );
    assert_eq!(
        state.create_instance(&mig, small.id, Some((2, 2))),
        Err(Code::INVALID_ARGUMENT)
    );
    assert_eq!(
        state.create_instance(&mig, small.id, Some((7, 1))),
        Err(Code::INVALID_ARGUMENT)
    );
    assert_eq!(
        state.create_instance(&mig, 99, None),
        Err(Code::INVALID_ARGUMENT)
    );
    assert_eq!(state.create_compute(&mig, id, 1), Err(Code::NOT_SUPPORTED));
    assert_eq!(
        state.create_compute(&mig, id, 9),
        Err(Code::INVALID_ARGUMENT)
    );
    assert_eq!(state.destroy_instance(id, &[]), Err(Code::IN_USE));
    assert_eq!(state.destroy_compute(id, ci, &users), Err(Code::IN_USE));
    assert_eq!(
        state.destroy_compute(id, ci + 1, &[]),
        Err(Code::INVALID_ARGUMENT)
    );
    assert_eq!(
        state.set_mode(false, ModeChange::AtOnce, &[]),
        Err(Code::IN_USE)
    );
    assert_eq!(state.reset(&users), Err(Code::IN_USE));
    assert_eq!(state, before);
}

#[test]
fn the_mode_changes_at_once_or_after_a_reset() {
    let mut state = Partitioning::default();
    let set = |state: &mut Partitioning, on, rule, processes: &[Process]| {
        (
            state.set_mode(on, rule, processes),
            state.mode,
            state.pending,
        )
    };
    let busy = [process(None, None)];
    assert_eq!(
        set(&mut state, true, ModeChange::AfterReset, &[]),
        (Ok(Code::RESET_REQUIRED), false, true)
    );
    assert_eq!(
        set(&mut state, false, ModeChange::AfterReset, &[]),
        (Ok(Code::SUCCESS), false, false)
    );
    assert_eq!(
        set(&mut state, true, ModeChange::AtOnce, &busy),
        (Ok(Code::IN_USE), false, true)
    );
    assert_eq!(
        set(&mut state, true, ModeChange::AtOnce, &[]),
        (Ok(Code::SUCCESS), true, true)
    );
    assert_eq!(
        set(&mut state, false, ModeChange::AfterReset, &[]),
        (Ok(Code::RESET_REQUIRED), true, false)
    );
    state.reset(&[]).unwrap();
    assert_eq!(state, Partitioning::default());
}

#[test]
fn models_before_hopper_need_the_reset() {
    for (name, model) in models() {
        let expected = if model.architecture.value < 9 {
            ModeChange::AfterReset
        } else {
            ModeChange::AtOnce
        };
        assert_eq!(model.mode_change(), expected, "{name}");
    }
}
