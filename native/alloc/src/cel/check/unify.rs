//! Types that are still open: what can stand for what.

use std::collections::HashMap;

use super::{Checker, Problem, invalid};
use crate::cel::types::Type;

impl Checker {
    pub(super) fn fresh(&mut self) -> Type {
        self.next += 1;
        Type::Var(self.next)
    }

    /// The type with bound variables replaced; open ones become dyn.
    pub(super) fn resolved(&self, of: &Type) -> Type {
        self.map(of, &|_| Type::Dyn)
    }

    pub(super) fn substituted(&self, of: &Type) -> Type {
        self.map(of, &Type::Var)
    }

    pub(super) fn map(&self, of: &Type, open: &dyn Fn(u32) -> Type) -> Type {
        match of {
            Type::Var(n) => match self.bound.get(n) {
                Some(bound) => self.map(bound, open),
                None => open(*n),
            },
            Type::List(t) => Type::list(self.map(t, open)),
            Type::Optional(t) => Type::optional(self.map(t, open)),
            Type::Kind(t) => Type::Kind(Box::new(self.map(t, open))),
            Type::Map(k, v) => Type::map(self.map(k, open), self.map(v, open)),
            other => other.clone(),
        }
    }

    pub(super) fn assign_all(&mut self, expected: &[Type], actual: &[Type]) -> bool {
        let saved = self.bound.clone();
        let fits = expected.len() == actual.len()
            && expected.iter().zip(actual).all(|(e, a)| self.assign(e, a));
        if !fits {
            self.bound = saved;
        }
        fits
    }

    /// Whether a value of one type can stand for the other; binds variables.
    pub(super) fn assign(&mut self, a: &Type, b: &Type) -> bool {
        if let Type::Var(x) = a {
            match self.substitute(*x, b) {
                (true, _) => return true,
                (false, true) => return false,
                (false, false) => {}
            }
        }
        if let Type::Var(y) = b {
            return self.substitute(*y, a).0;
        }
        match (a, b) {
            (Type::Dyn | Type::Any, _) | (_, Type::Dyn | Type::Any) => true,
            (Type::Null, other) | (other, Type::Null) => {
                matches!(
                    other,
                    Type::Null
                        | Type::Device
                        | Type::Quantity
                        | Type::Semver
                        | Type::Duration
                        | Type::Timestamp
                        | Type::Ip
                        | Type::Cidr
                        | Type::Url
                        | Type::Format
                        | Type::Authorization(_)
                        | Type::Optional(_)
                )
            }
            (Type::List(x), Type::List(y)) | (Type::Optional(x), Type::Optional(y)) => {
                self.assign(x, y)
            }
            (Type::Map(k, v), Type::Map(l, w)) => self.assign(k, l) && self.assign(v, w),
            (Type::Kind(_), Type::Kind(_)) => true,
            _ => a == b,
        }
    }

    /// Whether the variable can be the type, and whether that is already decided by an earlier binding.
    pub(super) fn substitute(&mut self, var: u32, with: &Type) -> (bool, bool) {
        if *with == Type::Var(var) {
            return (true, true);
        }
        if let Some(known) = self.bound.get(&var).cloned() {
            if known == *with {
                return (true, true);
            }
            if !self.assign(&known, with) {
                return (false, true);
            }
            self.bind(var, most_general(&known, with));
            return (true, true);
        }
        if let Type::Var(other) = with
            && let Some(known) = self.bound.get(other).cloned()
        {
            let own = Type::Var(var);
            if !self.assign(&own, &known) {
                return (false, true);
            }
            self.bind(*other, most_general(&own, &known));
            return (true, true);
        }
        (self.bind(var, with.clone()), false)
    }

    /// Binds the variable unless it occurs in the type.
    pub(super) fn bind(&mut self, var: u32, to: Type) -> bool {
        let free = !self.refers(var, &to);
        if free {
            self.bound.insert(var, to);
        }
        free
    }

    pub(super) fn refers(&self, var: u32, within: &Type) -> bool {
        match within {
            Type::Var(n) if *n == var => true,
            Type::Var(n) => self
                .bound
                .get(n)
                .is_some_and(|bound| self.refers(var, bound)),
            Type::List(t) | Type::Optional(t) | Type::Kind(t) => self.refers(var, t),
            Type::Map(k, v) => self.refers(var, k) || self.refers(var, v),
            _ => false,
        }
    }

    /// The more general of two types of which one can stand for the other.
    pub(super) fn join(
        &mut self,
        at: usize,
        known: Option<Type>,
        next: Type,
    ) -> Result<Type, Problem> {
        let Some(known) = known else { return Ok(next) };
        if self.mixed > 0 {
            return Ok(match self.assign(&known, &next) {
                true => most_general(&known, &next),
                false => Type::Dyn,
            });
        }
        if !self.assign(&known, &next) {
            let (known, next) = (self.resolved(&known), self.resolved(&next));
            return invalid(at, format!("expected type '{known}' but found '{next}'"));
        }
        // Literals must be of one exact type.
        let (a, b) = (self.substituted(&known), self.substituted(&next));
        if a != b {
            return invalid(
                at,
                format!(
                    "expected type '{}' but found '{}'",
                    self.resolved(&a),
                    self.resolved(&b)
                ),
            );
        }
        Ok(a)
    }

    pub(super) fn instantiate(&mut self, of: &Type, params: &mut HashMap<char, Type>) -> Type {
        match of {
            Type::Param(c) => {
                if let Some(known) = params.get(c) {
                    return known.clone();
                }
                let fresh = self.fresh();
                params.insert(*c, fresh.clone());
                fresh
            }
            Type::List(t) => Type::list(self.instantiate(t, params)),
            Type::Optional(t) => Type::optional(self.instantiate(t, params)),
            Type::Kind(t) => Type::Kind(Box::new(self.instantiate(t, params))),
            Type::Map(k, v) => Type::map(self.instantiate(k, params), self.instantiate(v, params)),
            other => other.clone(),
        }
    }
}

/// The first type if it is as general as the second or more, else the second.
fn most_general(a: &Type, b: &Type) -> Type {
    if is_as_general(a, b) {
        a.clone()
    } else {
        b.clone()
    }
}

fn is_as_general(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Any | Type::Var(_), _) => true,
        (_, Type::Dyn | Type::Any | Type::Var(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => {
            is_as_general(a, b)
        }
        (Type::Map(k, v), Type::Map(l, w)) => is_as_general(k, l) && is_as_general(v, w),
        (Type::Kind(_), Type::Kind(_)) => true,
        _ => a == b,
    }
}
