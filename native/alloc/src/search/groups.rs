//! Compatibility groups: devices that draw on one counter set must have a group in common.

use super::*;

/// What the devices on one counter set have in common.
#[derive(Clone, Default, Debug, PartialEq)]
pub enum Common {
    /// There is no device yet.
    #[default]
    Unused,
    /// No device names groups: only such devices can join.
    Ungrouped,
    Groups(Vec<Sym>),
}

impl Common {
    fn admits(&self, groups: &[Sym]) -> bool {
        match self {
            Common::Unused => true,
            Common::Ungrouped => groups.is_empty(),
            Common::Groups(common) => groups.iter().any(|group| common.contains(group)),
        }
    }

    fn with(&self, groups: &[Sym]) -> Common {
        match self {
            Common::Unused if groups.is_empty() => Common::Ungrouped,
            Common::Unused => Common::Groups(groups.to_vec()),
            Common::Groups(common) if !groups.is_empty() => {
                let both = common.iter().filter(|group| groups.contains(group));
                Common::Groups(both.copied().collect())
            }
            unchanged => unchanged.clone(),
        }
    }
}

/// What the counter sets of a pool admit, by set.
pub type OfPool = HashMap<Sym, Common>;

/// Sets that a candidate changed, with what they admitted before.
pub type Before = Vec<(Sym, Option<Common>)>;

impl<O: Observer> Search<'_, O> {
    /// Joins the candidate to the devices on its counter sets, or says which set does not admit it.
    pub(super) fn join_groups(
        &mut self,
        candidate: Candidate,
        device: &Device,
    ) -> Result<Before, Sym> {
        let pool = self.pools[candidate.pool as usize].id;
        let mut before = Before::new();
        for one in device.consumes.iter() {
            let known = self.groups.entry(pool).or_default().get(&one.set).cloned();
            let current = match &known {
                Some(current) => current.clone(),
                None => self.groups_of_allocated(candidate.pool, one.set),
            };
            if !current.admits(&one.groups) {
                self.leave_groups(candidate, before);
                return Err(one.set);
            }
            before.push((one.set, known));
            let sets = self.groups.entry(pool).or_default();
            sets.insert(one.set, current.with(&one.groups));
        }
        Ok(before)
    }

    pub(super) fn leave_groups(&mut self, candidate: Candidate, before: Before) {
        let pool = self.pools[candidate.pool as usize].id;
        let sets = self.groups.entry(pool).or_default();
        for (set, known) in before.into_iter().rev() {
            match known {
                Some(common) => sets.insert(set, common),
                None => sets.remove(&set),
            };
        }
    }

    /// What the allocated devices on a counter set have in common.
    fn groups_of_allocated(&self, pool: u32, set: Sym) -> Common {
        let pool = &self.pools[pool as usize];
        let slices = pool.slices.iter().chain(&pool.others);
        let devices = slices.flat_map(|slice| &self.world.slices[*slice as usize].devices);
        let allocated = devices.filter(|device| self.world.state.is_allocated(device.id));
        let on_set = allocated.flat_map(|device| device.consumes.iter());
        on_set
            .filter(|one| one.set == set)
            .fold(Common::Unused, |common, one| common.with(&one.groups))
    }
}
