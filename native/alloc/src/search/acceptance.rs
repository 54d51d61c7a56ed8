//! Taking a candidate, and giving it back exactly.

use super::*;

impl<'a, O: Observer> Search<'a, O> {
    /// Takes the candidate for the request, or returns nothing if it cannot be had.
    pub(super) fn accept(
        &mut self,
        at: At,
        candidate: Candidate,
        k: i64,
        must: bool,
    ) -> Result<Option<Undo>, Failure> {
        let quirks = self.profile.quirks;
        let features = self.profile.features;
        let (slice, device) = self.device(candidate);
        let shareable = features.consumable_capacity && device.shareable;
        let admin = self.wishes[at.claim][at.request][at.alternative].admin;
        if let Some(reason) = self.in_use(at, candidate.id, admin, shareable) {
            self.observer
                .refused(at, Some(candidate), &|| reason.clone());
            return Ok(None);
        }
        let consumes = !device.consumes.is_empty();
        if consumes && !features.partitionable_devices {
            self.observer
                .refused(at, Some(candidate), &|| Reason::CounterGate);
            return Ok(None);
        }
        let paid = shareable && !quirks.shares_always_pay && self.has_shares(candidate.id);
        let mut undo = Undo {
            groups: Vec::new(),
            counters: false,
            constraints: 0,
            marked: false,
            capacity: None,
            result: false,
        };
        if consumes && !paid {
            if features.compatibility_groups {
                match self.join_groups(candidate, device) {
                    Ok(before) => undo.groups = before,
                    Err(set) => {
                        let reason = || Reason::Groups { set };
                        self.observer.refused(at, Some(candidate), &reason);
                        return Ok(None);
                    }
                }
            }
            if let Some(reason) = self.take_counters(candidate, device) {
                self.observer
                    .refused(at, Some(candidate), &|| reason.clone());
                self.undo(at, candidate, undo);
                return Ok(None);
            }
            undo.counters = !quirks.refused_keep;
        }
        let wish = &self.wishes[at.claim][at.request][at.alternative];
        if features.device_taints
            && let Some(taint) = device.taints.iter().find(|t| {
                (quirks.every_taint_blocks || blocks(&t.taint))
                    && !tolerated(&t.taint, &wish.tolerations)
            })
        {
            self.observer.refused(at, Some(candidate), &|| {
                Reason::Taint(Box::new(taint.clone()))
            });
            self.undo(at, candidate, undo);
            return Ok(None);
        }
        if !self.constraints[at.claim].is_empty() {
            let (base, full) = (wish.base(), &wish.full);
            for (index, constraint) in self.constraints[at.claim].iter_mut().enumerate() {
                if constraint.applies(base, full)
                    && let Err(why) = constraint.add(slice, device, base)
                {
                    self.observer
                        .refused(at, Some(candidate), &|| Reason::Constraint { index, why });
                    let error = must.then(|| {
                            Failure::Error(format!(
                                "claim {}, request {}: cannot add device {} because a claim constraint would not be satisfied",
                                claim_text(self.claims[at.claim]),
                                wish.name,
                                self.world.device_text(device.id)
                            ))
                        });
                    self.undo(at, candidate, undo);
                    return error.map_or(Ok(None), Err);
                }
                undo.constraints += 1;
            }
        }
        if !shareable {
            let claims = self.allocating.entry(candidate.id).or_default();
            if !claims.contains(&at.claim) {
                claims.push(at.claim);
            }
            undo.marked = true;
        }
        if features.consumable_capacity {
            match self.still_has_capacity(at, candidate, k) {
                Ok(true) => {}
                Ok(false) if quirks.refused_keep => return Ok(None),
                other => {
                    self.undo(at, candidate, undo);
                    return other.map(|_| None);
                }
            }
        }
        let wish = &self.wishes[at.claim][at.request][at.alternative];
        let mut consumed = None;
        if shareable {
            let amounts =
                capacity::consumed(wish.wanted.as_ref(), device, self.profile.arithmetic())
                    .unwrap_or_default();
            let known = self.capacity.contains_key(&candidate.id);
            let entry = self.capacity.entry(candidate.id).or_default();
            for (name, amount) in &amounts {
                match entry.iter_mut().find(|(n, _)| n == name) {
                    Some((_, sum)) => *sum = sum.plus(amount).unwrap_or(*sum),
                    None => entry.push((*name, *amount)),
                }
            }
            undo.capacity = Some((amounts.clone(), known));
            consumed = (!amounts.is_empty()).then_some(amounts);
        }
        self.results[at.claim].push(Granted {
            request: wish.full.clone(),
            candidate,
            admin: wish.admin,
            consumed,
            shared: shareable,
            tolerations: wish.tolerations.clone(),
        });
        undo.result = true;
        // Releases that keep what was refused take counters back here, but not those of a share.
        undo.counters = match quirks.refused_keep {
            true => consumes && !shareable,
            false => undo.counters,
        };
        Ok(Some(undo))
    }

    pub(super) fn undo(&mut self, at: At, candidate: Candidate, undo: Undo) {
        if undo.result {
            self.results[at.claim].pop();
        }
        if let Some((amounts, known)) = undo.capacity {
            self.give_capacity_back(candidate.id, &amounts, known);
        }
        if undo.marked
            && let Some(claims) = self.allocating.get_mut(&candidate.id)
        {
            claims.retain(|claim| *claim != at.claim);
        }
        if undo.constraints > 0 {
            let wish = &self.wishes[at.claim][at.request][at.alternative];
            let (base, full) = (wish.base(), &wish.full);
            for constraint in self.constraints[at.claim][..undo.constraints]
                .iter_mut()
                .rev()
            {
                if constraint.applies(base, full) {
                    constraint.remove(base);
                }
            }
        }
        if undo.counters {
            let (_, device) = self.device(candidate);
            self.charge(self.counter_key(candidate), device, -1);
        }
        if !undo.groups.is_empty() {
            self.leave_groups(candidate, undo.groups);
        }
    }

    /// `known`: whether an earlier share had marked the device as shared.
    fn give_capacity_back(&mut self, id: DeviceId, amounts: &[(Sym, Quantity)], known: bool) {
        let keeps = self.profile.quirks.refused_keep;
        if keeps && amounts.is_empty() {
            return;
        }
        if let Some(entry) = self.capacity.get_mut(&id) {
            for (name, amount) in amounts {
                if let Some((_, sum)) = entry.iter_mut().find(|(n, _)| n == name) {
                    *sum = sum.minus(amount).unwrap_or(*sum);
                }
            }
            if entry.iter().all(|(_, sum)| sum.is_zero()) {
                self.capacity.remove(&id);
            }
        }
        if known && !keeps {
            self.capacity.entry(id).or_default();
        }
    }
}

pub fn blocks(taint: &api::Taint) -> bool {
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
}

pub fn tolerated(taint: &api::Taint, tolerations: &[Toleration]) -> bool {
    tolerations.iter().any(|one| {
        (one.effect.is_empty() || one.effect == taint.effect)
            && (one.key.is_empty() || one.key == taint.key)
            && match one.operator.as_str() {
                "" | "Equal" => one.value == taint.value,
                "Exists" => true,
                _ => false,
            }
    })
}
