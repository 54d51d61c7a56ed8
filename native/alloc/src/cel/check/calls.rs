//! Calls: which overloads fit, and what is decided before the evaluation.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Checked, Checker, Node, Problem, invalid};
use crate::cel::ast::{Expr, Kind, qualified_name};
use crate::cel::functions;
use crate::cel::types::{Type, declarations};
use crate::cel::value::Value;

impl Checker {
    pub(super) fn call(
        &mut self,
        at: usize,
        name: &Arc<str>,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Checked {
        let mut name = name.to_string();
        let mut target = target;
        if let Some(prefix) = target.and_then(qualified_name) {
            let full = format!("{prefix}.{name}");
            if declarations().contains_key(full.as_str()) {
                name = full;
                target = None;
            }
        }
        if self.declared.lacks(&name) || !declarations().contains_key(name.as_str()) {
            return invalid(
                at,
                format!("undeclared reference to '{name}' (in container '')"),
            );
        }
        let mut nodes = Vec::new();
        let mut types = Vec::new();
        let mixes = usize::from(name == "format");
        self.mixed += mixes;
        // The target is checked last: what its arguments decide about open types holds for it.
        for one in args.iter().chain(target) {
            let (node, found) = self.expr(one)?;
            nodes.push(node);
            types.push(found);
        }
        nodes.rotate_right(usize::from(target.is_some()));
        types.rotate_right(usize::from(target.is_some()));
        self.mixed -= mixes;
        let (result, overloads) = self.overloads(at, &name, target.is_some(), &types)?;
        if matches!(name.as_str(), "or" | "orValue") {
            let unwrap = name == "orValue";
            let other = nodes.pop().map(Box::new);
            let optional = nodes.pop().map(Box::new);
            if let (Some(optional), Some(other)) = (optional, other) {
                return Ok((
                    Node::Default {
                        lenient: self.old,
                        optional,
                        other,
                        unwrap,
                    },
                    result,
                ));
            }
            return invalid(at, "missing argument");
        }
        if name == "@in"
            && let Some(Node::Const(Value::List(list))) = nodes.get(1)
        {
            if list.is_empty() {
                return Ok((Node::Const(Value::Bool(false)), result));
            }
            if can_be_set(list) {
                let list = list.to_vec();
                return Ok((
                    Node::Member {
                        item: Box::new(nodes.remove(0)),
                        list,
                    },
                    result,
                ));
            }
        }
        let Some(function) = functions::find(&name, self.old) else {
            return Err(Problem::Unsupported(format!(
                "function {name} is not evaluated by this engine"
            )));
        };
        if name == "format"
            && let Some(Kind::Const(Value::Str(text))) = target.map(|t| &t.kind)
            && let [
                Expr {
                    kind: Kind::List(items),
                    ..
                },
            ] = args
        {
            let types = self.item_types(items)?;
            functions::check_format(text, &types).or_else(|error| invalid(at, error))?;
        }
        if name == "matches"
            && let Some(Node::Const(Value::Str(pattern))) = nodes.get(1)
            && let Err(error) = functions::regex(pattern)
        {
            return invalid(at, format!("invalid matches argument: {error}"));
        }
        if matches!(
            name.as_str(),
            "bool"
                | "bytes"
                | "double"
                | "duration"
                | "dyn"
                | "int"
                | "string"
                | "timestamp"
                | "type"
                | "uint"
        ) && let [Node::Const(value)] = &nodes[..]
        {
            return match (function.body)(
                &functions::Input::of_constants(),
                std::slice::from_ref(value),
            ) {
                Ok(value) => Ok((Node::Const(value), result)),
                Err(_) => Err(Problem::Program(format!(
                    "constant conversion to {name} failed"
                ))),
            };
        }
        // Operators have one implementation for all types; the others are bound by overload.
        let bound = matches!(
            name.as_str(),
            "check"
                | "isGreaterThan"
                | "isLessThan"
                | "compareTo"
                | "add"
                | "sub"
                | "containsCIDR"
                | "containsIP"
                | "indexOf"
                | "lastIndexOf"
                | "@sortByAssociatedKeys"
        );
        // A constant pattern is compiled beforehand, which makes a function of one argument.
        let compiled = matches!(name.as_str(), "matches" | "find" | "findAll")
            && matches!(nodes.get(1), Some(Node::Const(_)));
        let early = nodes.len() > 2 || compiled || (bound && overloads > 1);
        Ok((
            Node::Call {
                function,
                args: nodes,
                early,
                open: overloads > 1,
            },
            result,
        ))
    }

    /// The types of the items of a list, each alone.
    pub(super) fn item_types(&mut self, items: &[(Expr, bool)]) -> Result<Vec<Type>, Problem> {
        self.mixed += 1;
        let types = items
            .iter()
            .map(|(item, _)| self.expr(item).map(|(_, found)| self.resolved(&found)))
            .collect();
        self.mixed -= 1;
        types
    }

    pub(super) fn overload(
        &mut self,
        at: usize,
        name: &str,
        member: bool,
        args: &[Type],
    ) -> Result<Type, Problem> {
        Ok(self.overloads(at, name, member, args)?.0)
    }

    /// The type of a call and the number of overloads that fit.
    pub(super) fn overloads(
        &mut self,
        at: usize,
        name: &str,
        member: bool,
        args: &[Type],
    ) -> Result<(Type, usize), Problem> {
        let mut result: Option<Type> = None;
        let mut number = 0;
        for overload in declarations()
            .get(name)
            .into_iter()
            .flatten()
            .filter(|o| o.member == member)
        {
            let mut params = HashMap::new();
            let expected: Vec<Type> = overload
                .args
                .iter()
                .map(|t| self.instantiate(t, &mut params))
                .collect();
            let returned = self.instantiate(&overload.result, &mut params);
            if !self.assign_all(&expected, args) {
                continue;
            }
            number += 1;
            let returned = self.substituted(&returned);
            result = Some(match result {
                None => returned,
                Some(known) if known == Type::Dyn || known == returned => known,
                Some(_) => Type::Dyn,
            });
        }
        match result {
            Some(result) => Ok((result, number)),
            None => Err(self.mismatch(at, name, args)),
        }
    }

    pub(super) fn mismatch(&self, at: usize, name: &str, args: &[Type]) -> Problem {
        let args: Vec<String> = args.iter().map(|t| self.resolved(t).to_string()).collect();
        Problem::Invalid((
            at,
            format!(
                "found no matching overload for '{name}' applied to '({})'",
                args.join(", ")
            ),
        ))
    }
}

fn can_be_set(list: &[Value]) -> bool {
    let scalar = |v: &Value| {
        matches!(
            v,
            Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Str(_)
        )
    };
    list.iter()
        .all(|v| scalar(v) && v.type_name() == list[0].type_name())
}
