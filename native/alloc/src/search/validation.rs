//! What is checked and collected before the search: requests, alternatives, constraints, requests for all devices.

use super::*;

impl<'a, O: Observer> Search<'a, O> {
    pub(super) fn validate(&mut self) -> Result<(), Failure> {
        let features = self.profile.features;
        let quirks = self.profile.quirks;
        for (claim_index, claim) in self.claims.iter().enumerate() {
            let claim: &'a ResourceClaim = claim;
            let display = claim_text(claim);
            let mut least_of_claim = 0i64;
            self.wishes.push(Vec::new());
            for (index, request) in claim.spec.devices.requests.iter().enumerate() {
                let name = &request.name;
                if !features.prioritized_list && !request.first_available.is_empty() {
                    return Err(Failure::Error(format!(
                        "claim {display}, request {name}: has subrequests, but the DRAPrioritizedList feature is disabled"
                    )));
                }
                if !features.consumable_capacity && !quirks.basic {
                    let text =
                        "has capacity requests, but the DRAConsumableCapacity feature is disabled";
                    if request
                        .exactly
                        .as_ref()
                        .is_some_and(|e| e.capacity.is_some())
                    {
                        return Err(Failure::Error(format!(
                            "claim {display}, request {name}: {text}"
                        )));
                    }
                    if let Some(sub) = request
                        .first_available
                        .iter()
                        .find(|s| s.capacity.is_some())
                    {
                        if quirks.capacity_gate_names_request {
                            return Err(Failure::Error(format!(
                                "claim {display}, request {name}: {text}"
                            )));
                        }
                        return Err(Failure::Error(format!(
                            "claim {display}, subrequest {}: {text}",
                            sub.name
                        )));
                    }
                }
                self.wishes[claim_index].push(Vec::new());
                let at = At {
                    claim: claim_index,
                    request: index,
                    alternative: 0,
                };
                let least = if request.first_available.is_empty() {
                    let Some(exactly) = &request.exactly else {
                        return Err(Failure::Error(format!(
                            "claim {display}, request {name}: unknown request type"
                        )));
                    };
                    self.prepare(at, &display, Spec::exact(name, exactly))?
                } else {
                    let mut least = i64::MAX;
                    for (alternative, sub) in request.first_available.iter().enumerate() {
                        least = least.min(self.prepare(
                            At { alternative, ..at },
                            &display,
                            Spec::sub(name, sub),
                        )?);
                    }
                    least
                };
                if least > MAX_RESULTS - least_of_claim {
                    self.observer.refused(at, None, &|| Reason::TooMany);
                    return Err(Failure::Error(format!(
                        "claim {display}, request {name}: adding {least} devices exceeds the claim limit of {MAX_RESULTS}, with {least_of_claim} already accounted for"
                    )));
                }
                least_of_claim += least;
            }
            let mut constraints = Vec::new();
            for (index, constraint) in claim.spec.devices.constraints.iter().enumerate() {
                let made = Constraint::new(
                    self.world,
                    constraint,
                    features.list_type_attributes,
                    &quirks,
                );
                constraints.push(made.ok_or_else(|| {
                    Failure::Error(format!(
                        "claim {display}, constraint #{index}: empty constraint (unsupported constraint type?)"
                    ))
                })?);
            }
            self.constraints.push(constraints);
        }
        if quirks.alternatives_misindexed {
            // What was remembered for the wrong alternative ends with the checks.
            let wishes = self.wishes.iter_mut().flatten().flatten();
            wishes.for_each(|wish| wish.selectable.fill(0));
        }
        Ok(())
    }

    /// Checks one request or alternative; returns the number of devices it wants.
    fn prepare(&mut self, at: At, display: &str, spec: Spec<'a>) -> Result<i64, Failure> {
        let name = spec.name;
        let fail = |text: String| {
            Err(Failure::Error(format!(
                "claim {display}, request {name}: {text}"
            )))
        };
        if spec.derived {
            return fail(
                "cannot handle request with derived attributes, the feature is disabled".into(),
            );
        }
        if let Some(index) = spec.selectors.iter().position(|s| s.cel.is_none()) {
            return Err(Failure::Error(format!(
                "claim {display}, request {name}, selector #{index}: CEL expression empty (unsupported selector type?)"
            )));
        }
        if !self.profile.features.admin_access && spec.admin_access.is_some() {
            return fail("admin access is requested, but the feature is disabled".into());
        }
        if spec.class.is_empty() {
            return fail("missing device class name (unsupported request type?)".into());
        }
        let Some(class) = self.world.classes.get(spec.class).cloned() else {
            return fail(format!(
                "could not retrieve device class {}: deviceclass.resource.k8s.io \"{}\" not found",
                spec.class, spec.class
            ));
        };
        let programs = class.spec.selectors.len() + spec.selectors.len();
        let wish = Wish {
            name,
            parent: spec.parent,
            full: match spec.parent {
                Some(parent) => format!("{parent}/{name}").into(),
                None => name.into(),
            },
            class,
            selectors: spec.selectors,
            admin: spec.admin_access == Some(true),
            tolerations: spec.tolerations.into(),
            wanted: spec.capacity.map(|c| wanted(self.world, c)),
            count: spec.count,
            all: None,
            programs: vec![None; programs],
            selectable: self.shared.kept.take(at, self.candidates.len()),
        };
        self.wishes[at.claim][at.request].push(wish);
        match spec.mode {
            "ExactCount" if spec.count < 0 => fail(format!("negative count {}", spec.count)),
            "ExactCount" => Ok(spec.count),
            "All" => {
                let all = self.collect_all(at, display)?;
                let wish = &mut self.wishes[at.claim][at.request][at.alternative];
                wish.count = all.len() as i64;
                wish.all = Some(all);
                Ok(wish.count)
            }
            mode => fail(format!("unsupported count mode {mode}")),
        }
    }

    fn collect_all(&mut self, at: At, display: &str) -> Result<Vec<Candidate>, Failure> {
        let mut all = Vec::new();
        let mut next = 0;
        let remembered = match self.profile.quirks.alternatives_misindexed {
            true => at.alternative.saturating_sub(1),
            false => at.alternative,
        };
        for index in 0..self.pools.len() {
            let pool = &self.pools[index];
            if let Some(trouble) = &pool.trouble {
                let state = match trouble {
                    pools::Trouble::Invalid(_) => "invalid",
                    _ => "being updated",
                };
                let name = self.wishes[at.claim][at.request][at.alternative].name;
                return Err(Failure::Error(format!(
                    "claim {display}, request {name}: asks for all devices, but resource pool {} is currently {state}",
                    self.world.pool_text(pool.id)
                )));
            }
            while next < self.candidates.len() && self.candidates[next].pool as usize == index {
                let candidate = self.candidates[next];
                if self.is_selectable(at, next, remembered)?
                    && self.has_static_capacity(at, candidate, display)?
                {
                    all.push(candidate);
                }
                next += 1;
            }
        }
        Ok(all)
    }

    /// Whether an unused device could hold the request.
    fn has_static_capacity(
        &mut self,
        at: At,
        candidate: Candidate,
        display: &str,
    ) -> Result<bool, Failure> {
        if !self.profile.features.consumable_capacity {
            return Ok(true);
        }
        if self.profile.quirks.all_drops_exhausted {
            return self.has_capacity(at, candidate, "checking capacity");
        }
        let wish = &self.wishes[at.claim][at.request][at.alternative];
        let (_, device) = self.device(candidate);
        match capacity::check(wish.wanted.as_ref(), device, &[], self.profile.arithmetic()) {
            Ok(None) => Ok(true),
            Ok(Some(shortage)) => {
                self.observer
                    .refused(at, Some(candidate), &|| Reason::Capacity(shortage.clone()));
                Ok(false)
            }
            Err((capacity, error)) => Err(Failure::Error(format!(
                "claim {display}, request {}: checking capacity for device {}: capacity \"{}\": {error}",
                wish.name,
                self.world.names.text(device.name),
                self.world.names.text(capacity),
            ))),
        }
    }
}

/// The fields that requests and alternatives have in common.
struct Spec<'a> {
    name: &'a str,
    parent: Option<&'a str>,
    class: &'a str,
    selectors: &'a [api::Selector],
    mode: &'a str,
    count: i64,
    admin_access: Option<bool>,
    tolerations: &'a [Toleration],
    capacity: Option<&'a api::CapacityRequirements>,
    derived: bool,
}

impl<'a> Spec<'a> {
    fn exact(name: &'a str, from: &'a api::ExactRequest) -> Spec<'a> {
        Spec {
            name,
            parent: None,
            class: &from.device_class_name,
            selectors: &from.selectors,
            mode: &from.allocation_mode,
            count: from.count,
            admin_access: from.admin_access,
            tolerations: &from.tolerations,
            capacity: from.capacity.as_ref(),
            derived: !from.derived_attributes.is_empty(),
        }
    }

    fn sub(parent: &'a str, from: &'a api::SubRequest) -> Spec<'a> {
        Spec {
            name: &from.name,
            parent: Some(parent),
            class: &from.device_class_name,
            selectors: &from.selectors,
            mode: &from.allocation_mode,
            count: from.count,
            admin_access: None,
            tolerations: &from.tolerations,
            capacity: from.capacity.as_ref(),
            derived: !from.derived_attributes.is_empty(),
        }
    }
}

fn wanted(world: &World, from: &api::CapacityRequirements) -> Wanted {
    let mut wanted = Wanted {
        known: Default::default(),
        unknown: None,
        texts: Default::default(),
    };
    for (name, quantity) in &from.requests {
        match world.names.get(name) {
            Some(sym) => {
                wanted.known.insert(sym, *quantity);
                wanted.texts.insert(sym, name.clone());
            }
            None => wanted.unknown = Some(name.clone()),
        }
    }
    wanted
}
