//! What is allocated on one node, as a value: two nodes of a type with equal occupancies answer every claim alike.

use crate::quantity::{Format, Quantity};
use crate::world::{DeviceId, State, Sym};

/// Shares of one device that claims hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shared {
    device: u32,
    shares: u32,
    /// Consumed amounts in billionths.
    consumed: Vec<(Sym, i128)>,
}

/// One device, or one share of it, that a placement takes.
#[derive(Clone, Debug)]
pub struct Taken {
    pub device: u32,
    pub is_share: bool,
    pub consumed: Vec<(Sym, i128)>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Occupancy {
    /// One bit for each device.
    dedicated: Vec<u64>,
    shared: Vec<Shared>,
}

impl Occupancy {
    pub fn take(&mut self, taken: &Taken) {
        if !taken.is_share {
            let word = taken.device as usize / 64;
            if self.dedicated.len() <= word {
                self.dedicated.resize(word + 1, 0);
            }
            self.dedicated[word] |= 1 << (taken.device % 64);
            return;
        }
        match self
            .shared
            .binary_search_by_key(&taken.device, |one| one.device)
        {
            Ok(index) => self.shared[index].add(&taken.consumed, 1),
            Err(index) => self.shared.insert(
                index,
                Shared {
                    device: taken.device,
                    shares: 1,
                    consumed: taken.consumed.clone(),
                },
            ),
        }
    }

    pub fn give_back(&mut self, taken: &Taken) {
        if !taken.is_share {
            if let Some(word) = self.dedicated.get_mut(taken.device as usize / 64) {
                *word &= !(1 << (taken.device % 64));
            }
            while self.dedicated.last() == Some(&0) {
                self.dedicated.pop();
            }
            return;
        }
        if let Ok(index) = self
            .shared
            .binary_search_by_key(&taken.device, |one| one.device)
        {
            self.shared[index].add(&taken.consumed, -1);
            if self.shared[index].shares == 0 {
                self.shared.remove(index);
            }
        }
    }

    /// The same as the allocator's table of allocated devices.
    pub fn state(&self) -> State {
        let mut state = State::default();
        for device in self.dedicated() {
            state.dedicate(DeviceId(device));
        }
        for one in &self.shared {
            state.share(DeviceId(one.device));
            let consumed: Vec<_> = one
                .consumed
                .iter()
                .map(|(name, nanos)| (*name, Quantity::of_nanos(*nanos, Format::BinarySi)))
                .collect();
            if !consumed.is_empty() {
                // Never more than a device has: the allocator checked it.
                let _ = state.consume(DeviceId(one.device), &consumed);
            }
        }
        state
    }

    pub fn dedicated(&self) -> impl Iterator<Item = u32> + '_ {
        self.dedicated.iter().enumerate().flat_map(|(index, word)| {
            (0..64)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| index as u32 * 64 + bit)
        })
    }

    /// Devices with shares, each with the consumed amount of a capacity in billionths.
    pub fn shared(&self, capacity: Option<Sym>) -> impl Iterator<Item = (u32, i128)> + '_ {
        self.shared.iter().map(move |one| {
            let consumed = one
                .consumed
                .iter()
                .find(|(name, _)| Some(*name) == capacity);
            (one.device, consumed.map_or(0, |(_, nanos)| *nanos))
        })
    }
}

impl Shared {
    fn add(&mut self, consumed: &[(Sym, i128)], sign: i128) {
        self.shares = self.shares.saturating_add_signed(sign as i32);
        for (name, nanos) in consumed {
            match self.consumed.iter_mut().find(|(known, _)| known == name) {
                Some((_, sum)) => *sum += sign * nanos,
                None => self.consumed.push((*name, sign * nanos)),
            }
        }
    }
}
