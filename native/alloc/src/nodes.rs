//! Whether a slice or device is reachable from a node.

use crate::api::{Node, NodeSelector, NodeSelectorTerm, Requirement};

/// The first applicable of the three ways to name nodes decides.
pub fn matches(
    node: &Node,
    name: &str,
    all: bool,
    selector: Option<&NodeSelector>,
) -> Result<bool, String> {
    if !name.is_empty() {
        return Ok(node.metadata.name == name);
    }
    if all {
        return Ok(true);
    }
    let Some(selector) = selector else {
        return Ok(false);
    };
    for term in &selector.node_selector_terms {
        validate(term).map_err(|e| format!("failed to parse node selector: {e}"))?;
    }
    Ok(selector
        .node_selector_terms
        .iter()
        .any(|term| term_matches(node, term)))
}

/// A bad term makes the whole selector an error, even if another term matches.
fn validate(term: &NodeSelectorTerm) -> Result<(), String> {
    for one in &term.match_expressions {
        let bad = |text: &str| Err(format!("requirement on label {:?}: {text}", one.key));
        match one.operator.as_str() {
            "In" | "NotIn" if one.values.is_empty() => return bad("needs values"),
            "Exists" | "DoesNotExist" if !one.values.is_empty() => return bad("takes no values"),
            "Gt" | "Lt" if one.values.len() != 1 || integer(&one.values[0]).is_none() => {
                return bad("needs one integer value");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => return bad(&format!("{other:?} is not a valid operator")),
        }
        if !is_qualified_name(&one.key) {
            return bad("not a valid label key");
        }
        if let Some(value) = one.values.iter().find(|v| !is_label_value(v)) {
            return bad(&format!("{value:?} is not a valid label value"));
        }
    }
    for one in &term.match_fields {
        if !matches!(one.operator.as_str(), "In" | "NotIn") || one.values.len() != 1 {
            return Err(format!(
                "requirement on field {:?}: needs In or NotIn with one value",
                one.key
            ));
        }
    }
    Ok(())
}

fn term_matches(node: &Node, term: &NodeSelectorTerm) -> bool {
    if term.match_expressions.is_empty() && term.match_fields.is_empty() {
        return false;
    }
    term.match_expressions
        .iter()
        .all(|one| label_matches(node, one))
        && term.match_fields.iter().all(|one| {
            let value = if one.key == "metadata.name" {
                node.metadata.name.as_str()
            } else {
                ""
            };
            (one.operator == "In") == (one.values[0] == value)
        })
}

fn label_matches(node: &Node, one: &Requirement) -> bool {
    let label = node.metadata.labels.get(&one.key);
    match one.operator.as_str() {
        "In" => label.is_some_and(|l| one.values.contains(l)),
        "NotIn" => label.is_none_or(|l| !one.values.contains(l)),
        "Exists" => label.is_some(),
        "DoesNotExist" => label.is_none(),
        operator => match (label.and_then(|l| integer(l)), integer(&one.values[0])) {
            (Some(have), Some(limit)) if operator == "Gt" => have > limit,
            (Some(have), Some(limit)) => have < limit,
            _ => false,
        },
    }
}

fn integer(text: &str) -> Option<i64> {
    text.parse().ok()
}

fn is_label_value(text: &str) -> bool {
    text.is_empty() || (text.len() <= 63 && is_name_part(text))
}

fn is_name_part(text: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    ends(text.chars().next())
        && ends(text.chars().last())
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let subdomain = |text: &str| {
        !text.is_empty()
            && text.len() <= 253
            && text.split('.').all(|part| {
                let edge = |c: Option<char>| {
                    c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
                };
                edge(part.chars().next())
                    && edge(part.chars().last())
                    && part
                        .chars()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
            })
    };
    !name.is_empty() && name.len() <= 63 && is_name_part(name) && prefix.is_none_or(subdomain)
}
