//! Whether one candidate can serve a request: in use, selectors, nodes, capacity.

use super::*;

impl<'a, O: Observer> Search<'a, O> {
    pub(super) fn in_use(
        &self,
        at: At,
        id: DeviceId,
        admin: bool,
        shareable: bool,
    ) -> Option<Reason> {
        let taken = self.allocating.get(&id).map_or(&[][..], |v| v);
        if admin {
            let own = !shareable && taken.contains(&at.claim);
            return own.then_some(Reason::TakenHere { claim: at.claim });
        }
        if self.world.state.is_dedicated(id) {
            return Some(Reason::InUse);
        }
        taken
            .first()
            .map(|claim| Reason::TakenHere { claim: *claim })
    }

    /// Class selectors, request selectors, then the device's own node selection; the verdict is kept.
    /// `remembered`: for which alternative the verdict is kept.
    pub(super) fn is_selectable(
        &mut self,
        at: At,
        index: usize,
        remembered: usize,
    ) -> Result<bool, Failure> {
        let candidate = self.candidates[index];
        let (slice, device) = self.device(candidate);
        let binding = device
            .rare
            .as_ref()
            .and_then(|r| r.binding_conditions.as_ref());
        if !self.profile.features.device_binding_and_status
            && binding.is_some_and(|b| !b.is_empty())
        {
            self.observer
                .refused(at, Some(candidate), &|| Reason::BindingGate);
            return Ok(false);
        }
        match self.wishes[at.claim][at.request][remembered].selectable[index] {
            1 => return Ok(false),
            2 => return Ok(true),
            _ => {}
        }
        let mut refusal = self.selectors(at, slice, device)?;
        if refusal.is_none() && slice.is_per_device() {
            let here = match &device.rare {
                None => false,
                Some(rare) => nodes::matches(
                    self.node,
                    rare.node_name.as_deref().unwrap_or(""),
                    rare.all_nodes,
                    rare.node_selector.as_ref(),
                )
                .map_err(Failure::Error)?,
            };
            if !here {
                refusal = Some(Reason::OtherNode);
            }
        }
        self.wishes[at.claim][at.request][remembered].selectable[index] =
            if refusal.is_some() { 1 } else { 2 };
        let Some(reason) = refusal else {
            return Ok(true);
        };
        self.observer
            .refused(at, Some(candidate), &|| reason.clone());
        Ok(false)
    }

    pub(super) fn selectors(
        &mut self,
        at: At,
        slice: &Slice,
        device: &Device,
    ) -> Result<Option<Reason>, Failure> {
        let wish = &mut self.wishes[at.claim][at.request][at.alternative];
        let of_class = wish.class.spec.selectors.len();
        for index in 0..wish.programs.len() {
            let class = index < of_class;
            let (selectors, number) = match class {
                true => (&wish.class.spec.selectors[..], index),
                false => (wish.selectors, index - of_class),
            };
            let owner = || match class {
                true => format!("class {}: selector #{number}", wish.class.metadata.name),
                false => format!(
                    "claim {}: selector #{number}",
                    claim_text(self.claims[at.claim])
                ),
            };
            if wish.programs[index].is_none() {
                let expression = match &selectors[number].cel {
                    Some(cel) => cel.expression.as_str(),
                    None => {
                        return Err(Failure::Unsupported(format!(
                            "{}: no CEL expression",
                            owner()
                        )));
                    }
                };
                let compiled = self.shared.programs.get(expression, self.profile).map_err(
                    |error| match error {
                        cel::CompileError::Invalid(text) => {
                            Failure::Error(format!("{}: CEL compile error: {text}", owner()))
                        }
                        cel::CompileError::Unsupported(text) => {
                            Failure::Unsupported(format!("{}: {text}", owner()))
                        }
                    },
                )?;
                wish.programs[index] = Some(compiled);
            }
            let Some(program) = &wish.programs[index] else {
                continue;
            };
            let shareable = device.shareable && !self.profile.quirks.basic;
            let view = cel::DeviceView {
                world: self.world,
                slice,
                device,
                shareable,
            };
            match program.matches(&view) {
                Ok(true) => {}
                Ok(false) => {
                    return Ok(Some(Reason::Selector {
                        class,
                        index: number,
                    }));
                }
                Err(cel::RunError::Unsupported(text)) => {
                    return Err(Failure::Unsupported(format!("{}: {text}", owner())));
                }
                Err(cel::RunError::Error(text)) => {
                    let place = match self.profile.quirks.terse_errors {
                        true => String::new(),
                        false => format!(" on device {}", self.world.device_text(device.id)),
                    };
                    return Err(Failure::Error(format!(
                        "{}{place}: CEL runtime error: {text}",
                        owner()
                    )));
                }
            }
        }
        Ok(None)
    }

    /// The second look at a candidate's capacity; `k` is its number within the request.
    pub(super) fn still_has_capacity(
        &mut self,
        at: At,
        candidate: Candidate,
        k: i64,
    ) -> Result<bool, Failure> {
        let mut looked_at = candidate;
        if self.profile.quirks.capacity_of_other_device && self.profile.features.consumable_capacity
        {
            let slice = &self.world.slices[candidate.slice as usize];
            let Some(other) = slice.devices.get(k as usize) else {
                return Err(Failure::Unsupported(format!(
                    "kube-scheduler {} crashes here: it looks for device number {k} of slice {}",
                    self.profile.release, slice.name
                )));
            };
            looked_at.device = k as u32;
            looked_at.id = other.id;
        }
        self.has_capacity(at, looked_at, "rechecking capacity")
    }

    pub(super) fn has_capacity(
        &mut self,
        at: At,
        candidate: Candidate,
        doing: &str,
    ) -> Result<bool, Failure> {
        let features = self.profile.features;
        if !features.consumable_capacity {
            return Ok(true);
        }
        let wish = &self.wishes[at.claim][at.request][at.alternative];
        let (_, device) = self.device(candidate);
        let used = self
            .world
            .state
            .aggregate
            .get(&candidate.id)
            .map_or(&[][..], |amounts| amounts);
        let taking = self
            .capacity
            .get(&candidate.id)
            .map_or(&[][..], |amounts| amounts);
        match capacity::check(
            wish.wanted.as_ref(),
            device,
            &[used, taking],
            self.profile.arithmetic(),
        ) {
            Ok(None) => Ok(true),
            Ok(Some(shortage)) => {
                self.observer
                    .refused(at, Some(candidate), &|| Reason::Capacity(shortage.clone()));
                Ok(false)
            }
            Err(_) if self.profile.quirks.capacity_wraps => Ok(false),
            Err((capacity, error)) => Err(Failure::Error(format!(
                "claim {}, request {}: {doing} for device {}: capacity \"{}\": {error}",
                claim_text(self.claims[at.claim]),
                wish.name,
                self.world.device_text(device.id),
                self.world.names.text(capacity),
            ))),
        }
    }
}
