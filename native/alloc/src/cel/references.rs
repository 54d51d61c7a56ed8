//! The attributes and capacities that an expression names.

use super::ast::{self, Expr, Kind};
use super::value::Value;

/// `device.attributes["domain"].id`, or the same of `device.capacity`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    pub is_capacity: bool,
    pub domain: String,
    pub id: String,
}

/// What a text names, each once; nothing if it is no expression.
pub fn references(expression: &str) -> Vec<Reference> {
    let mut found = Vec::new();
    if let Ok(tree) = ast::parse(expression) {
        walk(&tree, &mut found);
    }
    found.sort();
    found.dedup();
    found
}

fn walk(expr: &Expr, found: &mut Vec<Reference>) {
    match &expr.kind {
        Kind::Const(_) | Kind::Ident(_) => {}
        Kind::Select { operand, field, .. } => {
            if let Some((is_capacity, domain)) = domain_of(operand) {
                let id = field.to_string();
                found.push(Reference {
                    is_capacity,
                    domain,
                    id,
                });
            }
            walk(operand, found);
        }
        Kind::Index { operand, key, .. } => {
            if let (Some((is_capacity, domain)), Some(id)) = (domain_of(operand), text(key)) {
                found.push(Reference {
                    is_capacity,
                    domain,
                    id,
                });
            }
            walk(operand, found);
            walk(key, found);
        }
        Kind::Call { target, args, .. } => {
            target.iter().for_each(|one| walk(one, found));
            args.iter().for_each(|one| walk(one, found));
        }
        Kind::And(list) | Kind::Or(list) => list.iter().for_each(|one| walk(one, found)),
        Kind::Cond(three) => three.iter().for_each(|one| walk(one, found)),
        Kind::List(list) => list.iter().for_each(|(one, _)| walk(one, found)),
        Kind::Map(list) => list.iter().for_each(|(key, value, _)| {
            walk(key, found);
            walk(value, found);
        }),
        Kind::Fold(fold) => {
            for one in [
                &fold.range,
                &fold.init,
                &fold.condition,
                &fold.step,
                &fold.result,
            ] {
                walk(one, found);
            }
        }
    }
}

/// The domain of `device.attributes["domain"]` or `device.capacity["domain"]`.
fn domain_of(expr: &Expr) -> Option<(bool, String)> {
    let (map, domain) = match &expr.kind {
        Kind::Index { operand, key, .. } => (operand, text(key)?),
        Kind::Select { operand, field, .. } => (operand, field.to_string()),
        _ => return None,
    };
    let Kind::Select { operand, field, .. } = &map.kind else {
        return None;
    };
    match &operand.kind {
        Kind::Ident(name) if &**name == "device" => {}
        _ => return None,
    }
    match &**field {
        "attributes" => Some((false, domain)),
        "capacity" => Some((true, domain)),
        _ => None,
    }
}

fn text(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Const(Value::Str(text)) => Some(text.to_string()),
        _ => None,
    }
}
