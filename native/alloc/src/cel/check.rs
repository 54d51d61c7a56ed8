//! The type checker: resolves names, picks overloads and makes the tree that is evaluated.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{Error, Expr, Fold, Kind, qualified_name};
use super::functions::{self, Function};
use super::types::{Type, declarations};
use super::value::Value;

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

#[derive(Default)]
pub struct Checker {
    bound: HashMap<u32, Type>,
    next: u32,
    scopes: Vec<(Arc<str>, Type)>,
    /// Calls around the expression whose literals may mix types.
    mixed: usize,
    /// Attributes are of type any, as releases before 1.37 declare them.
    any: bool,
}

fn invalid<T>(at: usize, text: impl Into<String>) -> Result<T, Problem> {
    Err(Problem::Invalid((at, text.into())))
}

impl Checker {
    pub fn new(any: bool) -> Checker {
        Checker {
            any,
            ..Checker::default()
        }
    }

    /// The tree and the type of the whole expression.
    pub fn run(mut self, expr: &Expr) -> Checked {
        let (node, found) = self.expr(expr)?;
        let found = self.resolved(&found);
        Ok((node, found))
    }

    fn fresh(&mut self) -> Type {
        self.next += 1;
        Type::Var(self.next)
    }

    /// The type with bound variables replaced; open ones become dyn.
    fn resolved(&self, of: &Type) -> Type {
        self.map(of, &|_| Type::Dyn)
    }

    fn substituted(&self, of: &Type) -> Type {
        self.map(of, &Type::Var)
    }

    fn map(&self, of: &Type, open: &dyn Fn(u32) -> Type) -> Type {
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

    fn assign_all(&mut self, expected: &[Type], actual: &[Type]) -> bool {
        let saved = self.bound.clone();
        let fits = expected.len() == actual.len()
            && expected.iter().zip(actual).all(|(e, a)| self.assign(e, a));
        if !fits {
            self.bound = saved;
        }
        fits
    }

    /// Whether a value of one type can stand for the other; binds variables.
    fn assign(&mut self, a: &Type, b: &Type) -> bool {
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
    fn substitute(&mut self, var: u32, with: &Type) -> (bool, bool) {
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
    fn bind(&mut self, var: u32, to: Type) -> bool {
        let free = !self.refers(var, &to);
        if free {
            self.bound.insert(var, to);
        }
        free
    }

    fn refers(&self, var: u32, within: &Type) -> bool {
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
    fn join(&mut self, at: usize, known: Option<Type>, next: Type) -> Result<Type, Problem> {
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
                "allowMultipleAllocations" => Type::Bool,
                "attributes" => {
                    let value = if self.any { Type::Any } else { Type::Dyn };
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

    fn call(
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
        if !declarations().contains_key(name.as_str()) {
            return invalid(
                at,
                format!("undeclared reference to '{name}' (in container '')"),
            );
        }
        let mut nodes = Vec::new();
        let mut types = Vec::new();
        let mixes = usize::from(name == "format");
        self.mixed += mixes;
        for one in target.into_iter().chain(args) {
            let (node, found) = self.expr(one)?;
            nodes.push(node);
            types.push(found);
        }
        self.mixed -= mixes;
        let (result, overloads) = self.overloads(at, &name, target.is_some(), &types)?;
        if matches!(name.as_str(), "or" | "orValue") {
            let unwrap = name == "orValue";
            let other = nodes.pop().map(Box::new);
            let optional = nodes.pop().map(Box::new);
            if let (Some(optional), Some(other)) = (optional, other) {
                return Ok((
                    Node::Default {
                        lenient: self.any,
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
        let Some(function) = functions::find(&name, self.any) else {
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
    fn item_types(&mut self, items: &[(Expr, bool)]) -> Result<Vec<Type>, Problem> {
        self.mixed += 1;
        let types = items
            .iter()
            .map(|(item, _)| self.expr(item).map(|(_, found)| self.resolved(&found)))
            .collect();
        self.mixed -= 1;
        types
    }

    fn overload(
        &mut self,
        at: usize,
        name: &str,
        member: bool,
        args: &[Type],
    ) -> Result<Type, Problem> {
        Ok(self.overloads(at, name, member, args)?.0)
    }

    /// The type of a call and the number of overloads that fit.
    fn overloads(
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

    fn instantiate(&mut self, of: &Type, params: &mut HashMap<char, Type>) -> Type {
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

    fn mismatch(&self, at: usize, name: &str, args: &[Type]) -> Problem {
        let args: Vec<String> = args.iter().map(|t| self.resolved(t).to_string()).collect();
        Problem::Invalid((
            at,
            format!(
                "found no matching overload for '{name}' applied to '({})'",
                args.join(", ")
            ),
        ))
    }

    fn list(&mut self, at: usize, items: &[(Expr, bool)]) -> Checked {
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

    fn unwrapped(&mut self, at: usize, found: &Type) -> Result<Type, Problem> {
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

    fn map_literal(&mut self, at: usize, entries: &[(Expr, Expr, bool)]) -> Checked {
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

    fn fold(&mut self, fold: &Fold) -> Checked {
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

fn has_duplicates(entries: &[(Value, Value)]) -> bool {
    let view = functions::Input::of_constants();
    entries.iter().enumerate().any(|(i, (key, _))| {
        entries[..i]
            .iter()
            .any(|(known, _)| matches!(view.equal(known, key), Ok(true)))
    })
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
