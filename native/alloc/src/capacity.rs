//! Consumable capacity: what a request takes of a device, and whether that fits.

use std::collections::BTreeMap;

use crate::api::{RequestPolicy, ValidRange};
use crate::profile::Arithmetic;
use crate::quantity::{Format, Quantity};
use crate::world::{Capacity, Device, Sym};

const NOT_REPRESENTABLE: &str =
    "capacity request cannot be represented in the device's range arithmetic";

/// Capacity names with amounts.
pub type Amounts = Vec<(Sym, Quantity)>;

/// Why a device's capacity cannot hold a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Shortage {
    /// The device has no capacity of that name; the name may not even be known.
    Undefined(String),
    Policy {
        name: Sym,
        requested: Option<Quantity>,
        amount: Quantity,
    },
    Exhausted {
        name: Sym,
        amount: Quantity,
        used: Quantity,
        total: Quantity,
    },
}

/// Requested amounts by name; a name that no device has keeps its text.
pub struct Wanted {
    pub known: BTreeMap<Sym, Quantity>,
    pub unknown: Option<String>,
    /// The names as text, in the order of `known`.
    pub texts: BTreeMap<Sym, String>,
}

/// What the request takes of each capacity of the device.
pub fn consumed(
    wanted: Option<&Wanted>,
    device: &Device,
    arithmetic: Arithmetic,
) -> Result<Amounts, (Sym, String)> {
    let mut amounts = Vec::with_capacity(device.capacity.len());
    for capacity in device.capacity.iter() {
        let requested = wanted.and_then(|w| w.known.get(&capacity.name));
        let amount = amount(requested, capacity, arithmetic).map_err(|e| (capacity.name, e))?;
        if amount.sign() < 0 && !arithmetic.wraps {
            return Err((capacity.name, "capacity value is negative".into()));
        }
        amounts.push((capacity.name, amount));
    }
    Ok(amounts)
}

/// Whether the request fits into what the device has left; an error aborts the allocation.
pub fn check(
    wanted: Option<&Wanted>,
    device: &Device,
    used: &[&[(Sym, Quantity)]],
    arithmetic: Arithmetic,
) -> Result<Option<Shortage>, (Sym, String)> {
    if let Some(wanted) = wanted {
        if let Some(name) = &wanted.unknown {
            return Ok(Some(Shortage::Undefined(name.clone())));
        }
        let has = |name: &Sym| device.capacity.iter().any(|c| c.name == *name);
        if let Some(name) = wanted.known.keys().find(|name| !has(name)) {
            return Ok(Some(Shortage::Undefined(wanted.texts[name].clone())));
        }
    }
    let unused = used.iter().all(|amounts| amounts.is_empty());
    let plain = |capacity: &Capacity| capacity.policy.is_none() && capacity.value.sign() >= 0;
    if wanted.is_none() && unused && device.capacity.iter().all(plain) {
        return Ok(None);
    }
    let amounts = consumed(wanted, device, arithmetic)?;
    for (capacity, (name, amount)) in device.capacity.iter().zip(amounts) {
        if violates(&amount, capacity.policy.as_deref(), arithmetic) {
            let requested = wanted.and_then(|w| w.known.get(&name)).copied();
            return Ok(Some(Shortage::Policy {
                name,
                requested,
                amount,
            }));
        }
        let mut sum = Quantity::ZERO;
        for (_, quantity) in used
            .iter()
            .flat_map(|list| list.iter())
            .filter(|(known, _)| *known == name)
        {
            sum = sum
                .plus(quantity)
                .ok_or((name, crate::quantity::TOO_LARGE.to_string()))?;
        }
        let total = sum
            .plus(&amount)
            .ok_or((name, crate::quantity::TOO_LARGE.to_string()))?;
        if total > capacity.value {
            return Ok(Some(Shortage::Exhausted {
                name,
                amount,
                used: sum,
                total: capacity.value,
            }));
        }
    }
    Ok(None)
}

fn amount(
    requested: Option<&Quantity>,
    capacity: &Capacity,
    arithmetic: Arithmetic,
) -> Result<Quantity, String> {
    let policy = capacity.policy.as_deref();
    let Some(requested) = requested else {
        return Ok(policy.and_then(|p| p.default).unwrap_or(capacity.value));
    };
    match policy {
        Some(RequestPolicy {
            valid_range: Some(range @ ValidRange { min: Some(min), .. }),
            ..
        }) => round_up(requested, min, range, arithmetic),
        Some(RequestPolicy {
            valid_values: Some(values),
            ..
        }) => Ok(*values.iter().find(|v| requested <= v).unwrap_or(requested)),
        _ => Ok(*requested),
    }
}

fn round_up(
    requested: &Quantity,
    min: &Quantity,
    range: &ValidRange,
    arithmetic: Arithmetic,
) -> Result<Quantity, String> {
    if requested < min {
        return Ok(*min);
    }
    let Some(step) = &range.step else {
        return Ok(*requested);
    };
    if in_milli(range, arithmetic) {
        let wanted = requested.exact_milli().ok_or_else(|| {
            format!("{NOT_REPRESENTABLE}: request {requested} is not a representable milli value")
        })?;
        let (Some(step_milli), Some(min_milli)) = (step.exact_milli(), min.exact_milli()) else {
            return Err(NOT_REPRESENTABLE.into());
        };
        let value = stepped(wanted, step_milli, min_milli).ok_or_else(|| {
            format!("{NOT_REPRESENTABLE}: rounding request {requested} up to the next step passes the milli-value range")
        })?;
        return Ok(match value % 1000 {
            0 => Quantity::of(value / 1000, step.format()),
            _ => Quantity::of_milli(value, step.format()),
        });
    }
    if arithmetic.wraps {
        let (wanted, step, min) = (requested.value(), step.value(), min.value());
        let added = wanted.wrapping_sub(min);
        let steps = added.checked_div(step).unwrap_or(0)
            + i64::from(added.checked_rem(step).unwrap_or(0) != 0);
        let value = min.wrapping_add(step.wrapping_mul(steps));
        return Ok(Quantity::of(value, Format::BinarySi));
    }
    if *requested > Quantity::of(i64::MAX, requested.format()) {
        return Err(format!(
            "{NOT_REPRESENTABLE}: request {requested} exceeds MaxInt64"
        ));
    }
    let value = stepped(requested.value(), step.value(), min.value()).ok_or_else(|| {
        format!(
            "{NOT_REPRESENTABLE}: rounding request {requested} up to the next step passes MaxInt64"
        )
    })?;
    Ok(Quantity::of(value, step.format()))
}

/// The smallest `min + n * step` that is not below `wanted`.
fn stepped(wanted: i64, step: i64, min: i64) -> Option<i64> {
    let added = wanted.wrapping_sub(min);
    let steps = added.checked_div(step)? + i64::from(added.checked_rem(step)? != 0);
    if min >= 0 {
        min.checked_add(step.checked_mul(steps)?)
    } else {
        Some(min.wrapping_add(step.wrapping_mul(steps)))
    }
}

fn violates(amount: &Quantity, policy: Option<&RequestPolicy>, arithmetic: Arithmetic) -> bool {
    let Some(policy) = policy else { return false };
    if policy
        .default
        .is_some_and(|default| amount.identical(&default))
    {
        return false;
    }
    if let Some(range) = &policy.valid_range {
        if range.max.is_some_and(|max| *amount > max) {
            return true;
        }
        let (Some(step), Some(min)) = (&range.step, &range.min) else {
            return false;
        };
        let off = |amount: i64, step: i64, min: i64| {
            amount.wrapping_sub(min).checked_rem(step) != Some(0)
        };
        if in_milli(range, arithmetic) {
            return match (amount.exact_milli(), step.exact_milli(), min.exact_milli()) {
                (Some(amount), Some(step), Some(min)) => off(amount, step, min),
                _ => true,
            };
        }
        return off(amount.value(), step.value(), min.value());
    }
    match &policy.valid_values {
        Some(values) if !values.is_empty() => !values.contains(amount),
        _ => false,
    }
}

/// Whether a range is computed in thousandths instead of whole units.
fn in_milli(range: &ValidRange, arithmetic: Arithmetic) -> bool {
    arithmetic.fractional
        && [&range.min, &range.max, &range.step]
            .into_iter()
            .flatten()
            .all(|q| q.exact_milli().is_some())
        && range
            .step
            .is_none_or(|step| step.exact_milli().is_some_and(|milli| milli >= 1))
}
