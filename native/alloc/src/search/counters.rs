//! Counters that devices of a pool share.

use super::*;

impl<'a, O: Observer> Search<'a, O> {
    pub(super) fn has_shares(&self, id: DeviceId) -> bool {
        let state = &self.world.state;
        let shared = state.is_shared(id) && !self.profile.quirks.shares_pay_again;
        state.aggregate.contains_key(&id) || shared || self.capacity.contains_key(&id)
    }

    pub(super) fn charge(&mut self, pool: PoolId, device: &Device, sign: i128) {
        let consumed = self.consumed.entry(pool).or_default();
        for one in device.consumes.iter() {
            for (counter, quantity) in &one.counters {
                *consumed.entry((one.set, *counter)).or_insert(0) += sign * quantity.nanos();
            }
        }
    }

    /// Charges the device's counters; if any counter of the pool is then short, takes it back and says which.
    pub(super) fn take_counters(
        &mut self,
        candidate: Candidate,
        device: &Device,
    ) -> Option<Reason> {
        let pool = &self.pools[candidate.pool as usize];
        let available = match self.available.get(&pool.id) {
            Some(known) => known.clone(),
            None => {
                let counters = self.available(pool);
                self.available.insert(pool.id, counters.clone());
                counters
            }
        };
        self.charge(pool.id, device, 1);
        let consumed = &self.consumed[&pool.id];
        let short = available.iter().filter_map(|(key, have)| {
            let taken = consumed.get(key).copied().unwrap_or(0);
            (taken > *have).then_some((*key, *have, taken))
        });
        // The search only needs to know whether; an explanation names the same counter each time.
        let own = |(set, counter): (Sym, Sym)| {
            let lists = device.consumes.iter().filter(|one| one.set == set);
            lists
                .flat_map(|one| &one.counters)
                .find(|(name, _)| *name == counter)
                .map(|(_, quantity)| *quantity)
        };
        let (key, have, taken) = short.min_by_key(|(key, _, _)| (own(*key).is_none(), *key))?;
        self.charge(pool.id, device, -1);
        let need = own(key).unwrap_or(Quantity::ZERO);
        let foreign = own(key).is_none();
        Some(Reason::Counters {
            set: key.0,
            counter: key.1,
            need,
            available: have,
            taken: taken - need.nanos(),
            foreign,
        })
    }

    /// Total of each counter minus what allocated devices of the pool consume; computed once for all nodes.
    pub(super) fn available(&self, pool: &Pool) -> Arc<Counters> {
        if let Some(known) = self
            .shared
            .available
            .lock()
            .expect("no panic while locked")
            .get(&pool.id)
        {
            return known.clone();
        }
        let mut counters = Counters::default();
        for set in pool
            .counters
            .iter()
            .flat_map(|s| &self.world.slices[*s as usize].counters)
        {
            for (counter, total) in &set.counters {
                counters.insert((set.name, *counter), total.nanos());
            }
        }
        let state = &self.world.state;
        for device in pool
            .slices
            .iter()
            .chain(&pool.others)
            .flat_map(|s| &self.world.slices[*s as usize].devices)
        {
            let allocated = match self.profile.is_stable() {
                true => state.is_dedicated(device.id),
                false => state.is_allocated(device.id),
            };
            if !allocated {
                continue;
            }
            for one in device.consumes.iter() {
                for (counter, quantity) in &one.counters {
                    if let Some(left) = counters.get_mut(&(one.set, *counter)) {
                        *left -= quantity.nanos();
                    }
                }
            }
        }
        let counters = Arc::new(counters);
        self.shared
            .available
            .lock()
            .expect("no panic while locked")
            .insert(pool.id, counters.clone());
        counters
    }
}
