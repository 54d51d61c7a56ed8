//! `nvidia-smi mig`: creates, lists and destroys partitions.

use nvdra_mock_nvml::code::{self, Code};
use nvdra_mock_nvml::partition::{Partitioning, Process, profiles_of};
use nvdra_mock_nvml::portrait::{Gpu, Mig, MigProfile};
use nvdra_mock_nvml::settings::Settings;

use crate::node::Node;
use crate::{Failure, Outcome, misuse};

/// `nvidia-smi mig …`: one of -lgip, -lgi, -lci, -cgi, -cci, -dci, -dgi.
///
/// Without `-i` all but -lgip concern the GPUs in MIG mode only; that there are none is no failure (measured for -lgi).
pub fn run(node: &Node, words: &[&str]) -> Outcome<String> {
    let (mut choice, mut action, mut with_compute) = (None, None, false);
    let (mut instance, mut compute) = (None, None);
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let mut value = || {
            let value = rest.next().copied();
            value.ok_or_else(|| misuse(&format!("{word} needs a value")))
        };
        match *word {
            "-i" | "--id" => choice = Some(value()?),
            "-gi" | "--gpu-instance-id" => instance = Some(id(value()?)?),
            "-ci" | "--compute-instance-id" => compute = Some(id(value()?)?),
            "-C" | "--default-compute-instance" => with_compute = true,
            "-cgi" | "--create-gpu-instance" => action = Some(("-cgi", value()?)),
            "-cci" | "--create-compute-instance" => action = Some(("-cci", value()?)),
            "-lgip" | "-lgi" | "-lci" | "-dgi" | "-dci" => action = Some((word, "")),
            _ => return Err(misuse(&format!("mig has no option {word:?} here"))),
        }
    }
    let mut chosen = node.chosen(choice)?;
    if choice.is_none() && !matches!(action, Some(("-lgip", _)) | None) {
        chosen = node.in_mig_mode(chosen)?;
        if chosen.is_empty() {
            return Ok("No MIG-enabled devices found.\n".into());
        }
    }
    let mut text = String::new();
    if let Some(("-lgip" | "-lgi" | "-lci", _)) = action {
        text += &format!("{:<5}{:<18}{}\n", "GPU", "Name", "Ids, placement");
    }
    for (index, gpu) in chosen {
        let one = One { node, index, gpu };
        text += &match action {
            Some(("-lgip", _)) => one.profiles()?,
            Some(("-lgi", _)) => one.instances()?,
            Some(("-lci", _)) => one.compute_instances()?,
            Some(("-cgi", wanted)) => one.create(wanted, with_compute)?,
            Some(("-cci", wanted)) => one.create_compute(wanted, instance)?,
            Some(("-dci", _)) => one.destroy_compute(instance, compute)?,
            Some(("-dgi", _)) => one.destroy(instance)?,
            _ => return Err(misuse("mig needs to be told what to do")),
        };
    }
    if text.is_empty() && matches!(action, Some(("-dci" | "-dgi", _))) {
        return Err(Failure("There is no such instance: Not Found".into(), 6));
    }
    Ok(text)
}

/// `nvidia-smi -mig 0|1` on a GPU.
pub fn set_mode(node: &Node, index: usize, gpu: &Gpu, on: bool) -> Outcome<String> {
    let one = One { node, index, gpu };
    one.mig()?;
    let rule = node.portrait.models[&gpu.model].mode_change();
    let went = one.change("set MIG mode of", |state, processes| {
        state.set_mode(on, rule, processes)
    })?;
    let word = if on { "Enabled" } else { "Disabled" };
    let pending = match went {
        Code::SUCCESS => String::new(),
        code => format!(
            "Warning: MIG mode of GPU {index} is pending: {}\n",
            said(code)
        ),
    };
    Ok(format!("{pending}{word} MIG Mode for GPU {index}\n"))
}

/// `nvidia-smi --gpu-reset` of a GPU.
pub fn reset(node: &Node, index: usize, gpu: &Gpu) -> Outcome<String> {
    let one = One { node, index, gpu };
    one.change("reset", |state, processes| state.reset(processes))?;
    let back = node.state.set(&node.portrait, gpu.minor, |settings, _| {
        *settings = Settings::default();
        Ok(())
    });
    back.and_then(|()| node.state.recovered(gpu.minor))
        .map_err(|code| Failure(said(code).into(), 1))?;
    Ok(format!("GPU {index} was successfully reset.\n"))
}

impl Node {
    pub fn partitioning(&self, gpu: &Gpu) -> Outcome<Partitioning> {
        let state = self.state.gpu(&self.portrait, gpu.minor);
        state.map_err(|code| Failure(format!("cannot read the partitions: {}", said(code)), 1))
    }

    /// Those of the GPUs whose MIG mode is on.
    fn in_mig_mode<'a>(&self, gpus: Vec<(usize, &'a Gpu)>) -> Outcome<Vec<(usize, &'a Gpu)>> {
        let mut found = Vec::new();
        for (index, gpu) in gpus {
            if self.partitioning(gpu)?.mode {
                found.push((index, gpu));
            }
        }
        Ok(found)
    }

    /// The MIG devices of a GPU as `-L` lists them: name and UUID.
    pub fn mig_devices(&self, gpu: &Gpu) -> Outcome<Vec<(String, String)>> {
        let Some(mig) = &self.portrait.models[&gpu.model].mig else {
            return Ok(Vec::new());
        };
        let state = self.partitioning(gpu)?;
        let ids = self.state.devices(&self.portrait, gpu.minor);
        let ids = ids.map_err(|code| Failure(said(code).into(), 1))?;
        let device = |(instance, compute): (u32, u32)| {
            let made = state.instance(instance)?;
            let within = made.compute.iter().find(|other| other.id == compute)?;
            let names: Vec<String> = profiles_of(mig, made)
                .iter()
                .map(|profile| within.name(profile))
                .collect();
            let uuid = self.portrait.mig_uuid(gpu, instance, compute);
            Some((names.join("/"), uuid))
        };
        Ok(ids.into_iter().filter_map(device).collect())
    }
}

/// A GPU that something is done to.
struct One<'a> {
    node: &'a Node,
    index: usize,
    gpu: &'a Gpu,
}

impl One<'_> {
    fn mig(&self) -> Outcome<&Mig> {
        let mig = self.node.portrait.models[&self.gpu.model].mig.as_ref();
        mig.ok_or_else(|| Failure(format!("GPU {} is not capable of MIG", self.index), 3))
    }

    fn change<T>(
        &self,
        what: &str,
        rule: impl FnOnce(&mut Partitioning, &[Process]) -> Result<T, Code>,
    ) -> Outcome<T> {
        let node = self.node;
        node.state
            .change(&node.portrait, self.gpu.minor, rule)
            .map_err(|code| {
                let text = format!("Unable to {what} GPU {}: {}", self.index, said(code));
                Failure(text, code.0.min(255) as u8)
            })
    }

    /// The profile of a text or an id.
    fn profile(&self, wanted: &str) -> Outcome<&MigProfile> {
        let is_it =
            |profile: &&MigProfile| profile.text == wanted || wanted.parse() == Ok(profile.id);
        let found = self.mig()?.profiles.iter().find(is_it);
        found.ok_or_else(|| Failure(format!("GPU {} has no profile {wanted:?}", self.index), 2))
    }

    /// `PROFILE[:START]`, several with commas between.
    fn create(&self, wanted: &str, with_compute: bool) -> Outcome<String> {
        let mig = self.mig()?;
        let mut text = String::new();
        for one in wanted.split(',') {
            let (name, start) = one.split_once(':').unwrap_or((one, ""));
            let profile = self.profile(name)?;
            let at = match start {
                "" => None,
                start => Some((id(start)?, profile.size)),
            };
            let whole = match profile.slices {
                slices @ 1..=4 => slices - 1,
                _ => 4,
            };
            let (instance, compute) = self.change("create a GPU instance on", |state, _| {
                let instance = state.create_instance(mig, profile.id, at)?;
                let compute = if with_compute {
                    Some(state.create_compute(mig, instance, whole)?)
                } else {
                    None
                };
                Ok((instance, compute))
            })?;
            text += &format!(
                "Successfully created GPU instance ID {instance:2} on GPU {:2} using profile MIG {} (ID {:2})\n",
                self.index, profile.text, profile.id
            );
            if let Some(compute) = compute {
                text += &format!(
                    "Successfully created compute instance ID {compute:2} on GPU {:2} GPU instance ID {instance:2}\n",
                    self.index
                );
            }
        }
        Ok(text)
    }

    /// `PROFILE`, a compute profile's id.
    fn create_compute(&self, wanted: &str, instance: Option<u32>) -> Outcome<String> {
        let mig = self.mig()?;
        let profile = id(wanted)?;
        let instance = instance.ok_or_else(|| misuse("-cci needs -gi"))?;
        let compute = self.change("create a compute instance on", |state, _| {
            state.create_compute(mig, instance, profile)
        })?;
        Ok(format!(
            "Successfully created compute instance ID {compute:2} on GPU {:2} GPU instance ID {instance:2}\n",
            self.index
        ))
    }

    fn destroy_compute(&self, instance: Option<u32>, compute: Option<u32>) -> Outcome<String> {
        let mut text = String::new();
        for made in self.node.partitioning(self.gpu)?.instances {
            for within in &made.compute {
                let is_meant = instance.is_none_or(|id| id == made.id)
                    && compute.is_none_or(|id| id == within.id);
                if !is_meant {
                    continue;
                }
                self.change("destroy a compute instance of", |state, processes| {
                    state.destroy_compute(made.id, within.id, processes)
                })?;
                text += &format!(
                    "Successfully destroyed compute instance ID {:2} from GPU {:2} GPU instance ID {:2}\n",
                    within.id, self.index, made.id
                );
            }
        }
        Ok(text)
    }

    fn destroy(&self, instance: Option<u32>) -> Outcome<String> {
        let mut text = String::new();
        for made in self.node.partitioning(self.gpu)?.instances {
            if instance.is_none_or(|id| id == made.id) {
                self.change("destroy a GPU instance of", |state, processes| {
                    state.destroy_instance(made.id, processes)
                })?;
                text += &format!(
                    "Successfully destroyed GPU instance ID {:2} from GPU {:2}\n",
                    made.id, self.index
                );
            }
        }
        Ok(text)
    }

    fn profiles(&self) -> Outcome<String> {
        let mig = self.mig()?;
        let state = self.node.partitioning(self.gpu)?;
        let line = |profile: &MigProfile| {
            let left = state.remaining(mig, profile.id).unwrap_or(0);
            format!(
                "{:<5}MIG {:<14}profile {:2}, {left}/{} free, {} MiB, {} multiprocessors\n",
                self.index,
                profile.text,
                profile.id,
                profile.instances,
                profile.memory_mib,
                profile.sm
            )
        };
        Ok(mig.profiles.iter().map(line).collect())
    }

    fn instances(&self) -> Outcome<String> {
        let mig = self.mig()?;
        let line = |made: &nvdra_mock_nvml::partition::GpuInstance| {
            let names: Vec<&str> = profiles_of(mig, made)
                .iter()
                .map(|profile| profile.text.as_str())
                .collect();
            let profile = made.profile.map_or("?".into(), |id| id.to_string());
            format!(
                "{:<5}MIG {:<14}profile {profile:>2}, instance {:2}, placement {}:{}\n",
                self.index,
                names.join("/"),
                made.id,
                made.start,
                made.size
            )
        };
        Ok(self
            .node
            .partitioning(self.gpu)?
            .instances
            .iter()
            .map(line)
            .collect())
    }

    fn compute_instances(&self) -> Outcome<String> {
        let mig = self.mig()?;
        let mut text = String::new();
        for made in self.node.partitioning(self.gpu)?.instances {
            for within in &made.compute {
                let names: Vec<String> = profiles_of(mig, &made)
                    .iter()
                    .map(|profile| within.name(profile))
                    .collect();
                text += &format!(
                    "{:<5}MIG {:<14}instance {:2}, compute instance {:2}, placement {}:{}\n",
                    self.index,
                    names.join("/"),
                    made.id,
                    within.id,
                    within.start,
                    within.size
                );
            }
        }
        Ok(text)
    }
}

fn id(text: &str) -> Outcome<u32> {
    text.parse()
        .map_err(|_| misuse(&format!("{text:?} is no number")))
}

pub fn said(code: Code) -> &'static str {
    code::text(code.0).trim_end_matches('\0')
}
