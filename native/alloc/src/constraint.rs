//! Constraints over an attribute of several devices of a claim.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::api;
use crate::profile::Quirks;
use crate::world::{AttributeValue, Device, Slice, Sym, World};

/// Values of one type; scalars are sets of one.
#[derive(Clone, Debug, PartialEq)]
enum Set {
    Ints(Vec<i64>),
    Bools(Vec<bool>),
    Strs(Vec<Arc<str>>),
    Versions(Vec<Arc<str>>),
}

impl Set {
    fn of(value: &AttributeValue) -> Option<Set> {
        let set = match value {
            AttributeValue::Ints(list) if !list.is_empty() => Set::Ints(list.to_vec()),
            AttributeValue::Bools(list) if !list.is_empty() => Set::Bools(list.to_vec()),
            AttributeValue::Strs(list) if !list.is_empty() => Set::Strs(list.to_vec()),
            AttributeValue::Versions(list) if !list.is_empty() => Set::Versions(list.to_vec()),
            AttributeValue::Int(one) => Set::Ints(vec![*one]),
            AttributeValue::Bool(one) => Set::Bools(vec![*one]),
            AttributeValue::Str(one) => Set::Strs(vec![one.clone()]),
            AttributeValue::Version(one) => Set::Versions(vec![one.clone()]),
            _ => return None,
        };
        Some(set)
    }

    fn is_disjoint(&self, from: &AttributeValue) -> bool {
        Set::of(from).is_none_or(|known| self.common(&known).is_none())
    }

    /// What both have; nothing if that is empty or the types differ.
    fn common(&self, other: &Set) -> Option<Set> {
        fn both<T: Clone + PartialEq>(a: &[T], b: &[T]) -> Option<Vec<T>> {
            let common: Vec<T> = a.iter().filter(|one| b.contains(one)).cloned().collect();
            (!common.is_empty()).then_some(common)
        }
        match (self, other) {
            (Set::Ints(a), Set::Ints(b)) => both(a, b).map(Set::Ints),
            (Set::Bools(a), Set::Bools(b)) => both(a, b).map(Set::Bools),
            (Set::Strs(a), Set::Strs(b)) => both(a, b).map(Set::Strs),
            (Set::Versions(a), Set::Versions(b)) => both(a, b).map(Set::Versions),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Absent,
    Mismatch,
    Duplicate,
}

pub struct Constraint<'w> {
    requests: Vec<String>,
    pub attribute: String,
    qualified: Option<Sym>,
    /// Driver and identifier, for devices that name the attribute without its domain.
    parts: Option<(Sym, Sym)>,
    distinct: bool,
    sets: bool,
    /// Only the latest value of each request is compared, and forgotten with any device of the request.
    by_request: Option<BTreeMap<String, &'w AttributeValue>>,
    /// Only a value of the same device is a duplicate.
    by_device: bool,
    /// What lists have in common is not widened again.
    narrowed_stays: bool,
    /// Values of the devices accepted so far.
    values: Vec<&'w AttributeValue>,
    /// Running intersections of a match over sets, one for each accepted device.
    narrowed: Vec<Set>,
}

impl<'w> Constraint<'w> {
    /// Nothing if the constraint is of an unknown kind.
    pub fn new(
        world: &'w World,
        from: &api::Constraint,
        sets: bool,
        quirks: &Quirks,
    ) -> Option<Constraint<'w>> {
        let (attribute, distinct) = match (&from.match_attribute, &from.distinct_attribute) {
            (Some(name), _) => (name, false),
            (None, Some(name)) if !quirks.basic => (name, true),
            _ => return None,
        };
        let parts = attribute
            .split_once('/')
            .and_then(|(d, id)| Some((world.names.get(d)?, world.names.get(id)?)));
        Some(Constraint {
            requests: from.requests.clone(),
            qualified: world.names.get(attribute),
            attribute: attribute.clone(),
            parts,
            distinct,
            sets,
            by_request: (quirks.distinct_by_request && distinct).then(BTreeMap::new),
            by_device: quirks.distinct_by_device,
            narrowed_stays: quirks.narrowed_stays,
            values: Vec::new(),
            narrowed: Vec::new(),
        })
    }

    pub fn applies(&self, request: &str, full_name: &str) -> bool {
        self.requests.is_empty() || self.requests.iter().any(|r| r == request || r == full_name)
    }

    pub fn find(&self, slice: &Slice, device: &'w Device) -> Option<&'w AttributeValue> {
        let exact = self
            .qualified
            .and_then(|name| device.attributes.iter().find(|a| a.name == name));
        let found = exact.or_else(|| {
            let (driver, id) = self.parts?;
            (driver == slice.driver).then(|| device.attributes.iter().find(|a| a.name == id))?
        });
        found.map(|a| &a.value)
    }

    /// Accepts the device and remembers its value, or says why not.
    pub fn add(&mut self, slice: &Slice, device: &'w Device, request: &str) -> Result<(), Refusal> {
        let value = self.find(slice, device).ok_or(Refusal::Absent)?;
        if let Some(known) = &mut self.by_request {
            let by_device = self.by_device;
            let same = |known: &AttributeValue| match by_device {
                true => std::ptr::eq(known, value),
                false => known == value,
            };
            let differs = match (self.sets, Set::of(value)) {
                (true, Some(set)) => known.values().all(|k| set.is_disjoint(k)),
                (true, None) => false,
                (false, _) => is_scalar(value) && !known.values().any(|k| same(k)),
            };
            if !self.values.is_empty() && !differs {
                return Err(Refusal::Duplicate);
            }
            known.insert(request.to_string(), value);
        } else if self.distinct {
            if !self.is_distinct(value) {
                return Err(Refusal::Duplicate);
            }
        } else if self.sets {
            let set = Set::of(value).ok_or(Refusal::Mismatch)?;
            let narrowed = match self.narrowed.last() {
                None => set,
                Some(current) => current.common(&set).ok_or(Refusal::Mismatch)?,
            };
            self.narrowed.push(narrowed);
        } else if let Some(first) = self.values.first()
            && (!is_scalar(value) || *first != value)
        {
            return Err(Refusal::Mismatch);
        }
        self.values.push(value);
        Ok(())
    }

    pub fn remove(&mut self, request: &str) {
        if let Some(known) = &mut self.by_request {
            known.remove(request);
        }
        self.values.pop();
        let last = self.narrowed.pop();
        if self.narrowed_stays
            && let (Some(current), Some(last)) = (self.narrowed.last_mut(), last)
        {
            *current = last;
        }
    }

    fn is_distinct(&self, value: &AttributeValue) -> bool {
        if self.sets {
            let Some(set) = Set::of(value) else {
                return false;
            };
            return self.values.iter().all(|known| set.is_disjoint(known));
        }
        if self.values.is_empty() {
            return true;
        }
        is_scalar(value) && self.values.iter().all(|known| *known != value)
    }

    /// The value that the accepted devices have fixed.
    pub fn fixed(&self) -> Option<&'w AttributeValue> {
        self.values.first().copied()
    }
}

fn is_scalar(value: &AttributeValue) -> bool {
    use AttributeValue::{Bool, Int, Str, Version};
    matches!(value, Int(_) | Bool(_) | Str(_) | Version(_))
}
