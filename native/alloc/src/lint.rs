//! What is wrong with the selectors of a claim, before it is created: compiled, and evaluated on every device.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::api::{self, ResourceClaim};
use crate::cel::{self, COST_LIMIT, CompileError, DeviceView, Program, RunError};
use crate::cluster::Cluster;
use crate::profile::{Profile, RELEASES};

/// One selector that was compiled, and what the devices of the cluster said to it.
struct Tried<'a> {
    of: &'static str,
    index: usize,
    expression: &'a str,
    program: Option<Program>,
    error: Option<String>,
    /// What the release before says, by whose rules the API server takes new expressions.
    new_error: Option<String>,
    cost: u64,
    matched: u64,
    /// By text: the number of devices, and one of them.
    failures: BTreeMap<String, (u64, String)>,
}

fn compile(expression: &str, profile: &Profile) -> Result<Program, String> {
    Program::compile(expression, &profile.quirks).map_err(|error| match error {
        CompileError::Invalid(text) | CompileError::Unsupported(text) => text,
    })
}

impl Cluster {
    /// Tries the selectors of a claim's requests and alternatives, and of their classes, as JSON.
    pub fn lint(&mut self, claim: &str) -> Result<Value, String> {
        self.seal()?;
        let mut claim: ResourceClaim = serde_json::from_str(claim).map_err(|e| e.to_string())?;
        crate::cluster::default(&mut claim);
        let mut requests = Vec::new();
        for request in &claim.spec.devices.requests {
            if let Some(exactly) = &request.exactly {
                let class = &exactly.device_class_name;
                requests.push(self.request(&request.name, class, &exactly.selectors));
            }
            for sub in &request.first_available {
                let name = format!("{}/{}", request.name, sub.name);
                requests.push(self.request(&name, &sub.device_class_name, &sub.selectors));
            }
        }
        Ok(json!({
            "requests": requests,
            "known": self.known(),
            "constraints": claim.spec.devices.constraints.iter().map(|one| &one.match_attribute).collect::<Vec<_>>(),
            "devices": self.world.slices.iter().map(|s| s.devices.len()).sum::<usize>(),
            "release": self.profile.patch(),
        }))
    }

    /// Names of attributes and capacities, with the domain.
    fn known(&self) -> Value {
        let names = &self.world.names;
        let mut attributes = BTreeSet::new();
        let mut capacity = BTreeSet::new();
        for device in self.world.slices.iter().flat_map(|slice| &slice.devices) {
            attributes.extend(device.attributes.iter().map(|one| (one.domain, one.id)));
            capacity.extend(device.capacity.iter().map(|one| (one.domain, one.id)));
        }
        let texts = |set: BTreeSet<_>| -> BTreeSet<String> {
            set.into_iter()
                .map(|(domain, id)| format!("{}/{}", names.text(domain), names.text(id)))
                .collect()
        };
        json!({"attributes": texts(attributes), "capacity": texts(capacity)})
    }

    fn request(&self, name: &str, class: &str, selectors: &[api::Selector]) -> Value {
        let of_class = self.world.classes.get(class);
        let class_selectors = of_class.map_or(&[][..], |one| &one.spec.selectors);
        let both = [("class", class_selectors), ("request", selectors)];
        let mut tried: Vec<Tried> = both
            .into_iter()
            .flat_map(|(of, list)| list.iter().enumerate().map(move |one| (of, one)))
            .map(|(of, (index, selector))| self.tried(of, index, selector))
            .collect();
        let mut matched = 0u64;
        if tried.iter().all(|one| one.program.is_some()) {
            for slice in &self.world.slices {
                for device in &slice.devices {
                    let view = DeviceView {
                        world: &self.world,
                        slice,
                        device,
                        shareable: device.shareable && !self.profile.quirks.basic,
                    };
                    let place = || self.world.device_text(device.id);
                    matched += u64::from(tried.iter_mut().all(|one| one.accepts(&view, &place)));
                }
            }
        }
        json!({
            "name": name,
            "class": class,
            "classExists": of_class.is_some(),
            "matched": matched,
            "selectors": tried.iter().map(Tried::as_json).collect::<Vec<_>>(),
        })
    }

    fn tried<'a>(&self, of: &'static str, index: usize, selector: &'a api::Selector) -> Tried<'a> {
        let expression = selector.cel.as_ref().map_or("", |cel| &cel.expression);
        let (program, error) = match compile(expression, &self.profile) {
            Ok(program) => (Some(program), None),
            Err(error) => (None, Some(error)),
        };
        let at = RELEASES.iter().position(|one| *one == self.profile.release);
        let before = at.filter(|at| *at > 0).map(|at| RELEASES[at - 1]);
        let before = before.and_then(|release| Profile::defaults(release).ok());
        Tried {
            of,
            index,
            expression,
            program,
            new_error: before.and_then(|profile| compile(expression, &profile).err()),
            error,
            cost: 0,
            matched: 0,
            failures: BTreeMap::new(),
        }
    }
}

impl Tried<'_> {
    fn accepts(&mut self, view: &DeviceView, place: &dyn Fn() -> String) -> bool {
        let Some(program) = &self.program else {
            return false;
        };
        let (result, cost) = program.run(view, COST_LIMIT);
        self.cost = self.cost.max(cost.unwrap_or(0));
        match result {
            Ok(matches) => {
                self.matched += u64::from(matches);
                matches
            }
            Err(RunError::Error(text) | RunError::Unsupported(text)) => {
                let (count, _) = self.failures.entry(text).or_insert_with(|| (0, place()));
                *count += 1;
                false
            }
        }
    }

    fn as_json(&self) -> Value {
        let failures = self.failures.iter().map(
            |(text, (devices, example))| json!({"text": text, "devices": devices, "example": example}),
        );
        let references = cel::references::references(self.expression);
        let references = references.iter().map(|one| {
            let kind = if one.is_capacity {
                "capacity"
            } else {
                "attributes"
            };
            json!({"kind": kind, "name": format!("{}/{}", one.domain, one.id)})
        });
        json!({
            "of": self.of,
            "index": self.index,
            "expression": self.expression,
            "error": self.error,
            "newError": self.new_error,
            "cost": self.cost,
            "limit": COST_LIMIT,
            "matched": self.matched,
            "failures": failures.collect::<Vec<_>>(),
            "references": references.collect::<Vec<_>>(),
        })
    }
}
