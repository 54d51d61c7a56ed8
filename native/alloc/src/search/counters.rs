//! Counters that devices of a pool share.

use super::*;

impl<'a, O: Observer> Search<'a, O> {
    pub(super) fn has_shares(&self, id: DeviceId) -> bool {
        let state = &self.world.state;
        let shared = state.is_shared(id) && !self.profile.quirks.shares_pay_again;
        state.aggregate.contains_key(&id) || shared || self.capacity.contains_key(&id)
    }

    /// Whose counters a device consumes, as a number: its pool's, in old releases its slice's or its pool name's.
    pub(super) fn counter_key(&self, candidate: Candidate) -> u32 {
        let quirks = &self.profile.quirks;
        let pool = self.pools[candidate.pool as usize].id;
        match (quirks.counters_of_slice, quirks.counters_by_pool_name) {
            (true, _) => candidate.slice,
            (false, true) => self.world.pool_name_number(pool),
            (false, false) => pool.0,
        }
    }

    pub(super) fn charge(&mut self, key: u32, device: &Device, sign: i128) {
        let consumed = self.consumed.entry(key).or_default();
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
        let key = self.counter_key(candidate);
        let available = match self.available.get(&key) {
            Some(known) => known.clone(),
            None => {
                let counters = self.available(key, candidate);
                self.available.insert(key, counters.clone());
                counters
            }
        };
        self.charge(key, device, 1);
        let consumed = &self.consumed[&key];
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
        let (name, have, taken) = short.min_by_key(|(name, _, _)| (own(*name).is_none(), *name))?;
        self.charge(key, device, -1);
        let need = own(name).unwrap_or(Quantity::ZERO);
        let foreign = own(name).is_none();
        Some(Reason::Counters {
            set: name.0,
            counter: name.1,
            need,
            available: have,
            taken: taken - need.nanos(),
            foreign,
        })
    }

    /// Total of each counter minus what allocated devices consume; computed once for all nodes.
    fn available(&self, key: u32, candidate: Candidate) -> Arc<Counters> {
        let known = |shared: &Shared| {
            let available = shared.available.lock().expect("no panic while locked");
            available.get(&key).cloned()
        };
        if let Some(known) = known(self.shared) {
            return known;
        }
        let own = [candidate.slice];
        let pool = &self.pools[candidate.pool as usize];
        let (sets, devices) = match self.profile.quirks.counters_of_slice {
            true => (&own[..], [&own[..], &[]]),
            false => (&pool.counters[..], [&pool.slices[..], &pool.others]),
        };
        let slice = |index: &u32| &self.world.slices[*index as usize];
        let mut counters = Counters::default();
        for set in sets.iter().flat_map(|s| &slice(s).counters) {
            for (counter, total) in &set.counters {
                counters.insert((set.name, *counter), total.nanos());
            }
        }
        let state = &self.world.state;
        let dedicated_only = self.profile.quirks.counters_dedicated_only;
        let slices = devices.into_iter().flatten();
        for device in slices.flat_map(|s| &slice(s).devices) {
            let allocated = match dedicated_only {
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
        let mut available = self.shared.available.lock().expect("no panic while locked");
        available.insert(key, counters.clone());
        counters
    }
}
