//! The type checker: resolves names, picks overloads and makes the tree that is evaluated.

mod calls;
mod literals;
mod unify;

use std::collections::HashMap;
use std::sync::Arc;

use super::Declared;
use super::ast::{Error, Expr, Kind, qualified_name};
use super::functions::Function;
use super::types::Type;
use super::value::Value;
use crate::profile::Quirks;

#[derive(Debug)]
pub enum Node {
    Const(Value),
    Attr(Attr),
    /// `early`: a failing argument ends the call before the next is evaluated. `open`: more than one overload fits.
    Call {
        function: &'static Function,
        args: Vec<Node>,
        early: bool,
        open: bool,
    },
    And(Vec<Node>),
    Or(Vec<Node>),
    /// `or` and `orValue`: the right side is only evaluated if needed. `lenient`: a value that is not optional is kept.
    Default {
        lenient: bool,
        optional: Box<Node>,
        other: Box<Node>,
        unwrap: bool,
    },
    /// `in` over a constant list.
    Member {
        item: Box<Node>,
        list: Vec<Value>,
    },
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Fold(Box<FoldNode>),
}

/// A variable or value with selections and indexes.
#[derive(Debug)]
pub struct Attr {
    pub root: Root,
    pub steps: Vec<Step>,
}

#[derive(Debug)]
pub enum Root {
    Device,
    Local(usize),
    Value(Box<Node>),
    Cond(Box<[Node; 3]>),
}

#[derive(Debug)]
pub struct Step {
    pub key: Node,
    pub optional: bool,
    pub test: bool,
}

#[derive(Debug)]
pub struct FoldNode {
    pub range: Node,
    pub two: bool,
    pub init: Node,
    pub condition: Node,
    pub step: Node,
    pub result: Node,
}

pub enum Problem {
    Invalid(Error),
    /// Folding a constant failed: the program cannot be made.
    Program(String),
    Unsupported(String),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        Problem::Invalid(error)
    }
}

type Checked = Result<(Node, Type), Problem>;

pub struct Checker {
    bound: HashMap<u32, Type>,
    next: u32,
    scopes: Vec<(Arc<str>, Type)>,
    /// Calls around the expression whose literals may mix types.
    mixed: usize,
    declared: Declared,
    /// The functions are those of releases before 1.37.
    old: bool,
}

fn invalid<T>(at: usize, text: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Invalid((at, text.into())))
}

impl Checker {
    pub fn new(quirks: &Quirks, declared: Declared) -> Checker {
        Checker {
            bound: HashMap::new(),
            next: 0,
            scopes: Vec::new(),
            mixed: 0,
            declared,
            old: quirks.old_functions,
        }
    }

    /// The tree and the type of the whole expression.
    pub fn run(mut self, expr: &Expr) -> Checked {
        let (node, found) = self.expr(expr)?;
        let found = self.resolved(&found);
        Ok((node, found))
    }

    fn expr(&mut self, expr: &Expr) -> Checked {
        let at = expr.at;
        match &expr.kind {
            Kind::Const(value) => Ok((Node::Const(value.clone()), type_of(value))),
            Kind::Ident(name) => self.ident(at, name),
            Kind::Select {
                operand,
                field,
                test,
                optional,
            } => self.select(at, operand, field, *test, *optional),
            Kind::Index {
                operand,
                key,
                optional,
            } => {
                let (base, base_type) = self.expr(operand)?;
                let (key, key_type) = self.expr(key)?;
                let name = if *optional { "_[?_]" } else { "_[_]" };
                let result = self.overload(at, name, false, &[base_type, key_type])?;
                Ok((
                    step(
                        base,
                        Step {
                            key,
                            optional: *optional,
                            test: false,
                        },
                    ),
                    result,
                ))
            }
            Kind::Call { name, target, args } => self.call(at, name, target.as_deref(), args),
            Kind::And(terms) => Ok((Node::And(self.bools(terms, "_&&_")?), Type::Bool)),
            Kind::Or(terms) => Ok((Node::Or(self.bools(terms, "_||_")?), Type::Bool)),
            Kind::Cond(parts) => {
                let [condition, truthy, falsy] = &**parts;
                let (c, c_type) = self.expr(condition)?;
                let (t, t_type) = self.expr(truthy)?;
                let (f, f_type) = self.expr(falsy)?;
                let result = self.fresh();
                if !self.assign_all(
                    &[Type::Bool, result.clone(), result.clone()],
                    &[c_type.clone(), t_type.clone(), f_type.clone()],
                ) {
                    return Err(self.mismatch(at, "_?_:_", &[c_type, t_type, f_type]));
                }
                let result = self.substituted(&result);
                Ok((
                    Node::Attr(Attr {
                        root: Root::Cond(Box::new([c, t, f])),
                        steps: Vec::new(),
                    }),
                    result,
                ))
            }
            Kind::List(items) => self.list(at, items),
            Kind::Map(entries) => self.map_literal(at, entries),
            Kind::Fold(fold) => self.fold(fold),
        }
    }

    fn ident(&mut self, at: usize, name: &Arc<str>) -> Checked {
        if let Some(slot) = self.scopes.iter().rposition(|(known, _)| known == name) {
            let found = self.scopes[slot].1.clone();
            return Ok((
                Node::Attr(Attr {
                    root: Root::Local(slot),
                    steps: Vec::new(),
                }),
                found,
            ));
        }
        if &**name == "device" {
            return Ok((
                Node::Attr(Attr {
                    root: Root::Device,
                    steps: Vec::new(),
                }),
                Type::Device,
            ));
        }
        let named = match &**name {
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::Str,
            "bytes" => Type::Bytes,
            "null_type" => Type::Null,
            "dyn" => Type::Dyn,
            "type" => Type::Kind(Box::new(Type::Dyn)),
            "list" => Type::list(Type::Dyn),
            "map" => Type::map(Type::Dyn, Type::Dyn),
            "optional_type" => Type::optional(Type::Dyn),
            _ => {
                return invalid(
                    at,
                    format!("undeclared reference to '{name}' (in container '')"),
                );
            }
        };
        Ok((
            Node::Const(Value::Type(name.clone())),
            Type::Kind(Box::new(named)),
        ))
    }

    fn select(
        &mut self,
        at: usize,
        operand: &Expr,
        field: &Arc<str>,
        test: bool,
        optional: bool,
    ) -> Checked {
        if let Some(name) = qualified_name(operand) {
            let named = match format!("{name}.{field}").as_str() {
                "kubernetes.Quantity" => Some(Type::Quantity),
                "kubernetes.Semver" => Some(Type::Semver),
                "google.protobuf.Duration" => Some(Type::Duration),
                "google.protobuf.Timestamp" => Some(Type::Timestamp),
                "net.IP" => Some(Type::Ip),
                "net.CIDR" => Some(Type::Cidr),
                _ => None,
            };
            if let Some(named) = named.filter(|_| !test && !optional) {
                let text: Arc<str> = format!("{name}.{field}").into();
                return Ok((Node::Const(Value::Type(text)), Type::Kind(Box::new(named))));
            }
        }
        let (base, base_type) = self.expr(operand)?;
        let mut target = self.substituted(&base_type);
        let mut is_optional = optional;
        if let Type::Optional(inner) = target {
            target = *inner;
            is_optional = true;
        }
        let found = match &target {
            Type::Dyn | Type::Any => Type::Dyn,
            Type::Map(_, value) => (**value).clone(),
            Type::Var(n) => {
                self.bound.insert(*n, Type::Dyn);
                Type::Dyn
            }
            Type::Device => match &**field {
                "driver" => Type::Str,
                "allowMultipleAllocations" if self.declared.shareable => Type::Bool,
                "attributes" => {
                    let any = self.declared.any;
                    let value = if any { Type::Any } else { Type::Dyn };
                    Type::map(Type::Str, Type::map(Type::Str, value))
                }
                "capacity" => Type::map(Type::Str, Type::map(Type::Str, Type::Quantity)),
                _ => return invalid(at, format!("undefined field '{field}'")),
            },
            other => {
                return invalid(
                    at,
                    format!(
                        "type '{}' does not support field selection",
                        self.resolved(other)
                    ),
                );
            }
        };
        let found = match (test, is_optional) {
            (true, _) => Type::Bool,
            (false, true) => Type::optional(found),
            (false, false) => found,
        };
        let key = Node::Const(Value::Str(field.clone()));
        Ok((
            step(
                base,
                Step {
                    key,
                    optional,
                    test,
                },
            ),
            found,
        ))
    }

    fn bools(&mut self, terms: &[Expr], name: &str) -> Result<Vec<Node>, Problem> {
        let mut nodes = Vec::new();
        for term in terms {
            let (node, found) = self.expr(term)?;
            if !self.assign(&Type::Bool, &found) {
                return Err(self.mismatch(term.at, name, &[found, Type::Bool]));
            }
            nodes.push(node);
        }
        Ok(nodes)
    }
}

fn step(base: Node, step: Step) -> Node {
    match base {
        Node::Attr(mut attr) => {
            attr.steps.push(step);
            Node::Attr(attr)
        }
        other => Node::Attr(Attr {
            root: Root::Value(Box::new(other)),
            steps: vec![step],
        }),
    }
}

fn type_of(value: &Value) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::Str(_) => Type::Str,
        Value::Bytes(_) => Type::Bytes,
        _ => Type::Dyn,
    }
}
