//! Lists, maps and comprehensions.

use std::sync::Arc;

use super::{Checked, Checker, FoldNode, Node, Problem, invalid};
use crate::cel::ast::{Expr, Fold};
use crate::cel::functions;
use crate::cel::types::Type;
use crate::cel::value::Value;

impl Checker {
    pub(super) fn list(&mut self, at: usize, items: &[(Expr, bool)]) -> Checked {
        let mut nodes = Vec::new();
        let mut element = None;
        for (item, optional) in items {
            let (node, found) = self.expr(item)?;
            let found = if *optional {
                self.unwrapped(item.at, &found)?
            } else {
                found
            };
            element = Some(self.join(item.at, element, found)?);
            nodes.push((node, *optional));
        }
        let element = match element {
            Some(element) => element,
            None => self.fresh(),
        };
        let _ = at;
        let constants: Option<Vec<Value>> = nodes
            .iter()
            .map(|(node, optional)| match node {
                Node::Const(value) if !optional => Some(value.clone()),
                _ => None,
            })
            .collect();
        let node = match constants {
            Some(values) => Node::Const(Value::list(values)),
            None => Node::List(nodes),
        };
        Ok((node, Type::list(element)))
    }

    pub(super) fn unwrapped(&mut self, at: usize, found: &Type) -> Result<Type, Problem> {
        match self.substituted(found) {
            Type::Optional(inner) => Ok(*inner),
            Type::Dyn => Ok(Type::Dyn),
            other => invalid(
                at,
                format!(
                    "expected type 'optional_type' but found '{}'",
                    self.resolved(&other)
                ),
            ),
        }
    }

    pub(super) fn map_literal(&mut self, at: usize, entries: &[(Expr, Expr, bool)]) -> Checked {
        let mut nodes = Vec::new();
        let (mut key_type, mut value_type) = (None, None);
        for (key, value, optional) in entries {
            let (key_node, found) = self.expr(key)?;
            key_type = Some(self.join(key.at, key_type, found)?);
            let (value_node, found) = self.expr(value)?;
            let found = if *optional {
                self.unwrapped(value.at, &found)?
            } else {
                found
            };
            value_type = Some(self.join(value.at, value_type, found)?);
            nodes.push((key_node, value_node, *optional));
        }
        let _ = at;
        let key_type = key_type.unwrap_or_else(|| self.fresh());
        let value_type = match value_type {
            Some(value) => value,
            None => self.fresh(),
        };
        let mut constants: Option<Vec<(Value, Value)>> = Some(Vec::new());
        for node in &nodes {
            constants = match (node, constants) {
                ((Node::Const(k), Node::Const(v), false), Some(mut list)) => {
                    list.push((k.clone(), v.clone()));
                    Some(list)
                }
                _ => None,
            };
        }
        let node = match constants {
            Some(values) if !has_duplicates(&values) => Node::Const(Value::Map(Arc::new(values))),
            _ => Node::Map(nodes),
        };
        Ok((node, Type::map(key_type, value_type)))
    }

    pub(super) fn fold(&mut self, fold: &Fold) -> Checked {
        let (range, range_type) = self.expr(&fold.range)?;
        let range_type = self.substituted(&range_type);
        let (first, second) = match range_type {
            Type::List(element) if fold.second.is_some() => (Type::Int, *element),
            Type::List(element) => (*element, Type::Dyn),
            Type::Map(key, value) => (*key, *value),
            Type::Dyn => (Type::Dyn, Type::Dyn),
            Type::Var(n) => {
                self.bound.insert(n, Type::Dyn);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let found = match self.resolved(&other) {
                    Type::Any => "any".to_string(),
                    other => other.to_string(),
                };
                return invalid(
                    fold.range.at,
                    format!(
                        "expression of type '{found}' cannot be range of a comprehension (must be list, map, or dynamic)"
                    ),
                );
            }
        };
        let (init, accumulator) = self.expr(&fold.init)?;
        self.scopes
            .push((fold.accumulator.clone(), accumulator.clone()));
        self.scopes.push((fold.var.clone(), first));
        if let Some(name) = &fold.second {
            self.scopes.push((name.clone(), second));
        }
        let (condition, found) = self.expr(&fold.condition)?;
        if !self.assign(&Type::Bool, &found) {
            return invalid(
                fold.condition.at,
                format!("expected type 'bool' but found '{}'", self.resolved(&found)),
            );
        }
        let (step, found) = self.expr(&fold.step)?;
        if !self.assign(&accumulator, &found) {
            let (expected, found) = (self.resolved(&accumulator), self.resolved(&found));
            return invalid(
                fold.step.at,
                format!("expected type '{expected}' but found '{found}'"),
            );
        }
        self.scopes
            .truncate(self.scopes.len() - 1 - usize::from(fold.second.is_some()));
        let (result, result_type) = self.expr(&fold.result)?;
        self.scopes.pop();
        let result_type = self.substituted(&result_type);
        let node = FoldNode {
            range,
            two: fold.second.is_some(),
            init,
            condition,
            step,
            result,
        };
        Ok((Node::Fold(Box::new(node)), result_type))
    }
}

fn has_duplicates(entries: &[(Value, Value)]) -> bool {
    let view = functions::Input::of_constants();
    entries.iter().enumerate().any(|(i, (key, _))| {
        entries[..i]
            .iter()
            .any(|(known, _)| matches!(view.equal(known, key), Ok(true)))
    })
}
