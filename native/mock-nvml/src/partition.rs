//! The rules of partitioning on plain values, without files, clock or handles.
//!
//! Each rule says where it comes from: measured (seen on hardware), documented (nvml.h, NVIDIA's MIG user guide), or
//! assumed (plausible, and nothing more). README.md has them in one table.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::code::{Answer, Code};
use crate::portrait::{Mig, MigProfile, ModeChange};

/// Memory slices of a whole GPU as instance ids count them.
pub const MEMORY_SLICES: u32 = 8;
/// GPU instance ids there can be: the nodes of the tree of halves.
pub const GPU_INSTANCES: u32 = 2 * MEMORY_SLICES - 1;
/// Compute instance ids in a GPU instance.
pub const COMPUTE_INSTANCES: u32 = 8;
/// Compute profile indices from here on are an invalid argument. Documented: nvml.h counts nine.
pub const COMPUTE_INDICES: u32 = 9;

/// How a GPU is partitioned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partitioning {
    pub mode: bool,
    pub pending: bool,
    /// By id.
    pub instances: Vec<GpuInstance>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GpuInstance {
    pub id: u32,
    /// The profile's id; nobody knows it where only device nodes tell of the instance.
    pub profile: Option<u32>,
    pub start: u32,
    pub size: u32,
    /// By id.
    pub compute: Vec<ComputeInstance>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputeInstance {
    pub id: u32,
    pub profile: Option<u32>,
    /// In compute slices of the GPU instance.
    pub start: u32,
    pub size: u32,
}

/// A program that uses a GPU, said from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    pub minor: u32,
    #[serde(default)]
    pub gi: Option<u32>,
    #[serde(default)]
    pub ci: Option<u32>,
    pub pid: u32,
    #[serde(default)]
    pub memory_bytes: u64,
    /// It holds the GPU and is in no list, as one of another PID namespace.
    #[serde(default)]
    pub hidden: bool,
}

/// What a compute instance of so many slices would be, inside one GPU instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ComputeProfile {
    /// The index is the id too. Documented: `nvidia-smi mig -lcip` in the MIG user guide.
    pub id: u32,
    pub slices: u32,
    pub instances: u32,
}

/// The id of an instance at this placement: its node in the tree of halves, counted from the root.
///
/// Documented by example: the listings of the MIG user guide (7g is 0, 3g at 4 is 2, 2g at 4 is 5, 1g at 6 is 13).
pub fn instance_id(start: u32, size: u32) -> u32 {
    MEMORY_SLICES / size - 1 + start / size
}

/// The placement (start and size) an instance id stands for.
pub fn placement(id: u32) -> (u32, u32) {
    let level = (id + 1).ilog2();
    let size = MEMORY_SLICES >> level;
    ((id + 1 - (1 << level)) * size, size)
}

/// The profile with this id. Documented: an unknown id is an invalid argument.
pub fn profile_by_id(mig: &Mig, id: u32) -> Answer<&MigProfile> {
    let found = mig.profiles.iter().find(|profile| profile.id == id);
    found.ok_or(Code::INVALID_ARGUMENT)
}

/// The profiles an instance can have been made from: one if it is known, else all that fit its placement.
pub fn profiles_of<'a>(mig: &'a Mig, instance: &GpuInstance) -> Vec<&'a MigProfile> {
    let fits = |profile: &&MigProfile| match instance.profile {
        Some(id) => profile.id == id,
        None => profile.size == instance.size && profile.starts.contains(&instance.start),
    };
    mig.profiles.iter().filter(fits).collect()
}

/// What all the values agree on; they may differ where the profile is not known.
pub fn agreed<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Answer<T> {
    let mut values = values.into_iter();
    let first = values.next().ok_or(Code::NOT_SUPPORTED)?;
    if values.all(|value| value == first) {
        Ok(first)
    } else {
        Err(Code::NOT_SUPPORTED)
    }
}

/// The compute profile with this index in an instance of the profile.
///
/// Documented: 1, 2, 3, 4 and 7 slices are the indices 0 to 4; none is wider than its GPU instance; four slices take no
/// three. Assumed: the other indices nvml.h names (8 and 6 slices, second one-slice form, NVL) are not supported.
pub fn compute_profile(profile: &MigProfile, index: u32) -> Answer<ComputeProfile> {
    if index >= COMPUTE_INDICES {
        return Err(Code::INVALID_ARGUMENT);
    }
    let slices = *[1, 2, 3, 4, 7]
        .get(index as usize)
        .ok_or(Code::NOT_SUPPORTED)?;
    if slices > profile.slices || (profile.slices == 4 && slices == 3) {
        return Err(Code::NOT_SUPPORTED);
    }
    Ok(ComputeProfile {
        id: index,
        slices,
        instances: profile.slices / slices,
    })
}

impl Partitioning {
    pub fn instance(&self, id: u32) -> Option<&GpuInstance> {
        self.instances.iter().find(|instance| instance.id == id)
    }

    fn instance_mut(&mut self, id: u32) -> Answer<&mut GpuInstance> {
        let found = self.instances.iter_mut().find(|found| found.id == id);
        found.ok_or(Code::INVALID_ARGUMENT)
    }

    /// Why an instance cannot be made there, if it cannot.
    ///
    /// Documented: memory slices are had by one instance; a profile has a highest number of instances; a GPU has so
    /// many compute slices. Documented in the field: an occupied placement is INSUFFICIENT_RESOURCES.
    fn hindrance(&self, mig: &Mig, profile: &MigProfile, start: u32) -> Answer {
        let wanted = start..start + profile.size;
        let is_taken = self
            .instances
            .iter()
            .any(|other| overlap(&wanted, &(other.start..other.start + other.size)));
        let of_profile = self
            .instances
            .iter()
            .filter(|other| other.profile == Some(profile.id));
        let slices_of = |id: u32| profile_by_id(mig, id).map_or(0, |profile| profile.slices);
        let used: u32 = self
            .instances
            .iter()
            .filter_map(|other| other.profile.map(slices_of))
            .sum();
        let all = mig.profiles.iter().map(|profile| profile.slices).max();
        let is_full = of_profile.count() as u32 >= profile.instances;
        if is_taken || is_full || used + profile.slices > all.unwrap_or(0) {
            return Err(Code::INSUFFICIENT_RESOURCES);
        }
        Ok(())
    }

    /// A new GPU instance; its id.
    ///
    /// Documented: MIG mode must be on, else NOT_SUPPORTED; a placement that is none of the profile's is an invalid
    /// argument. Assumed: without a placement it is the lowest free one.
    pub fn create_instance(
        &mut self,
        mig: &Mig,
        profile: u32,
        at: Option<(u32, u32)>,
    ) -> Answer<u32> {
        if !self.mode {
            return Err(Code::NOT_SUPPORTED);
        }
        let profile = profile_by_id(mig, profile)?;
        let start = match at {
            Some((start, size)) if profile.size == size && profile.starts.contains(&start) => {
                self.hindrance(mig, profile, start)?;
                start
            }
            Some(_) => return Err(Code::INVALID_ARGUMENT),
            None => *profile
                .starts
                .iter()
                .find(|start| self.hindrance(mig, profile, **start).is_ok())
                .ok_or(Code::INSUFFICIENT_RESOURCES)?,
        };
        let id = instance_id(start, profile.size);
        self.instances.push(GpuInstance {
            id,
            profile: Some(profile.id),
            start,
            size: profile.size,
            compute: Vec::new(),
        });
        self.instances.sort_by_key(|instance| instance.id);
        Ok(id)
    }

    /// The GPU instance gone. Documented: IN_USE while it has a compute instance or a process.
    pub fn destroy_instance(&mut self, id: u32, processes: &[Process]) -> Answer {
        let instance = self.instance(id).ok_or(Code::INVALID_ARGUMENT)?;
        let is_used = processes.iter().any(|process| process.gi == Some(id));
        if is_used || !instance.compute.is_empty() {
            return Err(Code::IN_USE);
        }
        self.instances.retain(|instance| instance.id != id);
        Ok(())
    }

    /// How many more instances of the profile fit. Assumed: 0 while MIG mode is off.
    pub fn remaining(&self, mig: &Mig, profile: u32) -> Answer<u32> {
        profile_by_id(mig, profile)?;
        let mut trial = self.clone();
        let mut count = 0;
        while trial.create_instance(mig, profile, None).is_ok() {
            count += 1;
        }
        Ok(count)
    }

    /// A new compute instance; its id.
    ///
    /// Documented: an unknown profile is an invalid argument, one that has no room INSUFFICIENT_RESOURCES.
    /// Assumed: the lowest free run of slices, the lowest free id.
    pub fn create_compute(&mut self, mig: &Mig, instance: u32, profile: u32) -> Answer<u32> {
        let instance = self.instance_mut(instance)?;
        let of = profile_by_id(mig, instance.profile.ok_or(Code::NO_PERMISSION)?)?;
        let compute = compute_profile(of, profile)?;
        let start = instance.free_run(of.slices, compute.slices)?;
        let is_free = |id: &u32| instance.compute.iter().all(|other| other.id != *id);
        let id = (0..COMPUTE_INSTANCES)
            .find(is_free)
            .ok_or(Code::INSUFFICIENT_RESOURCES)?;
        instance.compute.push(ComputeInstance {
            id,
            profile: Some(profile),
            start,
            size: compute.slices,
        });
        instance.compute.sort_by_key(|compute| compute.id);
        Ok(id)
    }

    /// How many more compute instances of the profile fit.
    pub fn remaining_compute(&self, mig: &Mig, instance: u32, profile: u32) -> Answer<u32> {
        let mut trial = self.clone();
        let mut count = 0;
        while trial.create_compute(mig, instance, profile).is_ok() {
            count += 1;
        }
        Ok(count)
    }

    /// The compute instance gone. Documented: IN_USE while a process is in it.
    pub fn destroy_compute(&mut self, instance: u32, id: u32, processes: &[Process]) -> Answer {
        let within = self.instance_mut(instance)?;
        if !within.compute.iter().any(|compute| compute.id == id) {
            return Err(Code::INVALID_ARGUMENT);
        }
        let is_there = |process: &Process| process.gi == Some(instance) && process.ci == Some(id);
        if processes.iter().any(is_there) {
            return Err(Code::IN_USE);
        }
        within.compute.retain(|compute| compute.id != id);
        Ok(())
    }

    /// Another MIG mode asked for; how its activation went.
    ///
    /// Assumed: with instances the call is refused with IN_USE and touches nothing. Documented (nvml.h): the call can
    /// succeed and the activation not: IN_USE while a program has the GPU, RESET_REQUIRED where a reset is needed; the
    /// mode is pending then. Documented (MIG user guide): GPUs before Hopper need a reset, Hopper and later do not.
    pub fn set_mode(&mut self, on: bool, rule: ModeChange, processes: &[Process]) -> Answer<Code> {
        if on == self.mode {
            self.pending = on;
            return Ok(Code::SUCCESS);
        }
        if !self.instances.is_empty() {
            return Err(Code::IN_USE);
        }
        self.pending = on;
        if !processes.is_empty() {
            return Ok(Code::IN_USE);
        }
        match rule {
            ModeChange::AfterReset => Ok(Code::RESET_REQUIRED),
            ModeChange::AtOnce => {
                self.mode = on;
                Ok(Code::SUCCESS)
            }
        }
    }

    /// The GPU reset: what was pending counts, instances are gone. Documented: refused while a program has the GPU.
    pub fn reset(&mut self, processes: &[Process]) -> Answer {
        if !processes.is_empty() {
            return Err(Code::IN_USE);
        }
        self.instances.clear();
        self.mode = self.pending;
        Ok(())
    }
}

impl ComputeProfile {
    /// As people write it: `1c.3g.40gb`, or the GPU instance's own text for all of it.
    pub fn name(&self, of: &MigProfile) -> String {
        name(self.slices, of)
    }
}

impl ComputeInstance {
    /// As people write it; one that is known from its node only counts as all of its GPU instance.
    pub fn name(&self, of: &MigProfile) -> String {
        match self.profile {
            Some(_) => name(self.size, of),
            None => of.text.clone(),
        }
    }
}

fn name(slices: u32, of: &MigProfile) -> String {
    if slices == of.slices {
        of.text.clone()
    } else {
        format!("{slices}c.{}", of.text)
    }
}

impl GpuInstance {
    /// The lowest run of compute slices that nobody has.
    fn free_run(&self, all: u32, wanted: u32) -> Answer<u32> {
        let is_free = |start: &u32| {
            let run = *start..*start + wanted;
            self.compute
                .iter()
                .all(|other| !overlap(&run, &(other.start..other.start + other.size)))
        };
        (0..=all.saturating_sub(wanted))
            .find(is_free)
            .ok_or(Code::INSUFFICIENT_RESOURCES)
    }
}

fn overlap(one: &Range<u32>, other: &Range<u32>) -> bool {
    one.start < other.end && other.start < one.end
}
