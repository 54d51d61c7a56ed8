//! The CEL environment of device selectors: compiled once, evaluated for each device, with the runtime costs of the scheduler.

mod ast;
mod check;
mod declared;
mod eval;
mod functions;
mod lex;
mod macros;
pub mod references;
pub mod semver;
mod time;
mod types;
mod url;
mod value;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::profile::{Profile, Quirks};
use crate::world::{AttributeValue, Device, Slice, World};
use check::{Checker, Node, Problem};
pub use declared::Declared;
use semver::Semver;
use types::Type;
use value::{Fault, Value};

/// Cost of one evaluation at most.
pub const COST_LIMIT: u64 = 1_000_000;
const OVER_LIMIT: &str = "operation cancelled: actual cost limit exceeded";
const MAX_LENGTH: usize = 10 * 1024;
const KEY_HINT: &str = "consider using CEL optional chaining (.? followed by orValue()) or guarding the check with has() for optional fields";

/// A device as expressions see it.
pub struct DeviceView<'a> {
    pub world: &'a World,
    pub slice: &'a Slice,
    pub device: &'a Device,
    pub shareable: bool,
}

#[derive(Clone, Debug)]
pub enum CompileError {
    Invalid(String),
    Unsupported(String),
}

#[derive(Clone, Debug)]
pub enum RunError {
    Error(String),
    Unsupported(String),
}

#[derive(Debug)]
pub struct Program {
    pub expression: String,
    pub output: String,
    root: Node,
    quirks: Quirks,
}

impl Program {
    /// Compiles an expression as the scheduler does, which reads it from a stored object.
    pub fn compile(expression: &str, quirks: &Quirks) -> Result<Program, CompileError> {
        Program::compile_declared(expression, quirks, Declared::stored(quirks))
    }

    /// Compiles an expression with what is declared for it: `Declared::new_expressions` is the API server's view.
    pub fn compile_declared(
        expression: &str,
        quirks: &Quirks,
        declared: Declared,
    ) -> Result<Program, CompileError> {
        let invalid = |(at, text): (usize, String)| {
            let before = &expression[..at.min(expression.len())];
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
            CompileError::Invalid(format!(
                "compilation failed: ERROR: <input>:{line}:{column}: {text}"
            ))
        };
        if expression.len() > MAX_LENGTH {
            return Err(CompileError::Unsupported(format!(
                "expression is longer than {MAX_LENGTH} bytes"
            )));
        }
        let tree = ast::parse(expression).map_err(invalid)?;
        let (root, output) = Checker::new(quirks, declared)
            .run(&tree)
            .map_err(|problem| match problem {
                Problem::Invalid(error) => invalid(error),
                Problem::Program(text) => {
                    CompileError::Invalid(format!("program instantiation failed: {text}"))
                }
                Problem::Unsupported(text) => CompileError::Unsupported(text),
            })?;
        let open = match declared.any {
            true => matches!(output, Type::Any),
            false => matches!(output, Type::Dyn),
        };
        if !open && output != Type::Bool {
            return Err(CompileError::Invalid(format!(
                "must evaluate to bool or the unknown type, not {output}"
            )));
        }
        Ok(Program {
            expression: expression.into(),
            output: output.to_string(),
            root,
            quirks: *quirks,
        })
    }

    /// Whether the device matches.
    pub fn matches(&self, view: &DeviceView) -> Result<bool, RunError> {
        self.run(view, COST_LIMIT).0
    }

    /// Whether the device matches, and what the evaluation cost.
    pub fn run(&self, view: &DeviceView, limit: u64) -> (Result<bool, RunError>, Option<u64>) {
        let attributes = match view.device.plain {
            true => &[][..],
            false => &view.device.attributes,
        };
        for attribute in attributes {
            let lists = !self.quirks.lists_are_no_values;
            if let Err(text) = convertible(&attribute.value, lists) {
                let name = view.world.names.text(attribute.name);
                return (
                    Err(RunError::Error(format!("attribute {name}: {text}"))),
                    None,
                );
            }
        }
        let mut evaluator = eval::Evaluator::new(Some(view), limit);
        let result = evaluator.eval(&self.root);
        let result = match result {
            Ok(Value::Bool(matches)) => Ok(matches),
            Ok(other) => Err(RunError::Error(format!(
                "CEL result of type {} could not be converted to bool: type conversion error",
                other.type_name()
            ))),
            Err(Fault::Unsupported(text)) => Err(RunError::Unsupported(text)),
            Err(Fault::Cancelled(text)) => Err(RunError::Error(text)),
            Err(Fault::Error(text))
                if text.contains("no such key:") && !self.quirks.terse_errors =>
            {
                Err(RunError::Error(format!("{text}. {KEY_HINT}")))
            }
            Err(Fault::Error(text)) => Err(RunError::Error(text)),
        };
        (result, Some(evaluator.cost))
    }
}

/// Whether an attribute has a value that expressions can hold; one that has not fails every expression on its device.
pub fn convertible(value: &AttributeValue, lists: bool) -> Result<(), String> {
    let version = |text: &str| {
        Semver::parse(text)
            .map(|_| ())
            .map_err(|e| format!("parse semantic version: {e}"))
    };
    match value {
        AttributeValue::Unknown => Err("unsupported attribute value".into()),
        AttributeValue::Ints(_)
        | AttributeValue::Bools(_)
        | AttributeValue::Strs(_)
        | AttributeValue::Versions(_)
            if !lists =>
        {
            Err("unsupported attribute value".into())
        }
        AttributeValue::Version(text) => version(text),
        AttributeValue::Versions(list) => list.iter().try_for_each(|text| version(text)),
        _ => Ok(()),
    }
}

/// Compiled expressions by text.
#[derive(Default)]
pub struct Cache {
    known: Mutex<HashMap<String, Result<Arc<Program>, CompileError>>>,
}

impl Cache {
    pub fn get(&self, expression: &str, profile: &Profile) -> Result<Arc<Program>, CompileError> {
        let mut known = self.known.lock().expect("no panic while locked");
        if let Some(found) = known.get(expression) {
            return found.clone();
        }
        let made = Program::compile(expression, &profile.quirks).map(Arc::new);
        known.insert(expression.into(), made.clone());
        made
    }
}

/// Attributes and capacities of a device whose identifiers the expression mentions, as `name=value`.
pub fn mentioned(
    world: &World,
    candidate: crate::search::Candidate,
    expression: &str,
) -> Vec<String> {
    let device = &world.slices[candidate.slice as usize].devices[candidate.device as usize];
    let is_mentioned = |id: crate::world::Sym| {
        let id = world.names.text(id);
        expression
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .any(|word| word == &**id)
    };
    let attributes = device
        .attributes
        .iter()
        .filter(|a| is_mentioned(a.id))
        .map(|a| format!("{}={}", world.names.text(a.name), a.value));
    let capacity = device.capacity.iter().filter(|c| is_mentioned(c.id));
    attributes
        .chain(capacity.map(|c| format!("{}={}", world.names.text(c.name), c.value)))
        .collect()
}
