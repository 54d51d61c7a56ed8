//! Evaluation with cost accounting.

use super::check::{Attr, FoldNode, Node, Root, Step};
use super::functions::{self, Input};
use super::value::{self, Evaluated, Fault, Value, View, error, no_overload};

/// A variable; the first value of an accumulator is only computed when it is read.
enum Local<'a> {
    Known(Evaluated),
    Pending(&'a Node),
}

pub struct Evaluator<'a> {
    view: View<'a>,
    locals: Vec<Local<'a>>,
    pub cost: u64,
    limit: u64,
}

impl<'a> Evaluator<'a> {
    pub fn new(view: View<'a>, limit: u64) -> Evaluator<'a> {
        Evaluator {
            view,
            locals: Vec::new(),
            cost: 0,
            limit,
        }
    }

    fn charge(&mut self, cost: u64) -> Result<(), Fault> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit {
            return Err(Fault::Cancelled(super::OVER_LIMIT.into()));
        }
        Ok(())
    }

    pub fn eval(&mut self, node: &'a Node) -> Evaluated {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Attr(attr) => {
                let value = self.attr(attr);
                if is_final(&value) {
                    return value;
                }
                let test = attr.steps.last().is_some_and(|s| s.test);
                if !matches!(attr.root, Root::Cond(_)) && !test {
                    self.charge(1)?;
                }
                value
            }
            Node::Call {
                function,
                args,
                early,
                open,
            } => self.call(function, args, *early, *open),
            Node::And(terms) => self.logic(terms, false),
            Node::Or(terms) => self.logic(terms, true),
            Node::Default {
                lenient,
                optional,
                other,
                unwrap,
            } => match self.eval(optional)? {
                Value::Optional(Some(value)) if *unwrap => Ok((*value).clone()),
                some @ Value::Optional(Some(_)) => Ok(some),
                Value::Optional(None) => self.eval(other),
                value if *lenient => Ok(value),
                _ => no_overload(),
            },
            Node::Member { item, list } => {
                let item = self.eval(item)?;
                let input = Input { view: self.view };
                match item {
                    Value::Semver(_) | Value::Format(_) => {
                        Err(Fault::Cancelled(functions::UNHASHABLE.into()))
                    }
                    item => {
                        Ok(Value::Bool(list.iter().any(|known| {
                            matches!(input.equal(known, &item), Ok(true))
                        })))
                    }
                }
            }
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Fold(fold) => self.fold(fold),
        }
    }

    fn call(
        &mut self,
        function: &functions::Function,
        args: &'a [Node],
        early: bool,
        open: bool,
    ) -> Evaluated {
        let input = Input { view: self.view };
        if function.name == "@not_strictly_false" {
            let value = self.eval(&args[0]);
            if is_final(&value) {
                return value;
            }
            self.charge(1)?;
            return match value {
                Err(_) => Ok(Value::Bool(true)),
                Ok(value) => (function.body)(&input, &[value]),
            };
        }
        let mut values: Vec<Evaluated> = Vec::with_capacity(args.len());
        for arg in args {
            let value = self.eval(arg);
            if is_final(&value) {
                return value;
            }
            let failed = value.is_err();
            values.push(value);
            if failed && early {
                break;
            }
        }
        if values.iter().any(Result::is_err) {
            if values.len() == args.len() {
                let known: Vec<Option<&Value>> = values.iter().map(|v| v.as_ref().ok()).collect();
                let cost = functions::cost(function, &known, None, open, self.view)?;
                self.charge(cost)?;
            }
            return values
                .into_iter()
                .find(Result::is_err)
                .unwrap_or_else(no_overload);
        }
        let values: Vec<Value> = values.into_iter().flatten().collect();
        let result = (function.body)(&input, &values);
        if is_final(&result) {
            return result;
        }
        let known: Vec<Option<&Value>> = values.iter().map(Some).collect();
        let cost = functions::cost(function, &known, result.as_ref().ok(), open, self.view)?;
        self.charge(cost)?;
        result
    }

    /// `||` (or `&&`): one deciding value wins over errors; otherwise the leftmost error counts.
    fn logic(&mut self, terms: &'a [Node], deciding: bool) -> Evaluated {
        let mut first: Option<Fault> = None;
        for term in terms {
            match self.eval(term) {
                Ok(Value::Bool(value)) if value == deciding => return Ok(Value::Bool(deciding)),
                Ok(Value::Bool(_)) => {}
                Err(fault @ (Fault::Cancelled(_) | Fault::Unsupported(_))) => return Err(fault),
                Err(fault) => first = first.or(Some(fault)),
                Ok(_) => first = first.or(Some(Fault::Error("no such overload".into()))),
            }
        }
        first.map_or(Ok(Value::Bool(!deciding)), Err)
    }

    fn attr(&mut self, attr: &'a Attr) -> Evaluated {
        let mut value = match &attr.root {
            Root::Device => Value::Device,
            Root::Local(slot) => self.local(*slot)?,
            Root::Value(node) => self.eval(node)?,
            Root::Cond(parts) => {
                let [condition, truthy, falsy] = &**parts;
                let branch = match self.eval(condition)? {
                    Value::Bool(true) => truthy,
                    Value::Bool(false) => falsy,
                    _ => return no_overload(),
                };
                match branch {
                    Node::Attr(attr) => self.attr(attr)?,
                    other => self.eval(other)?,
                }
            }
        };
        let mut optional = false;
        if !attr.steps.is_empty() {
            match value {
                Value::Optional(None) => {
                    let test = attr.steps.last().is_some_and(|s| s.test);
                    return Ok(if test {
                        Value::Bool(false)
                    } else {
                        Value::Optional(None)
                    });
                }
                Value::Optional(Some(inner)) => {
                    value = (*inner).clone();
                    optional = true;
                }
                _ => {}
            }
        }
        for step in &attr.steps {
            let key = self.key(step);
            if is_final(&key) {
                return key;
            }
            if key.is_err() && !optional && !step.optional {
                self.charge(1)?;
            }
            let key = key?;
            if step.test {
                let present = self.present(&value, &key)?;
                self.charge(1)?;
                return Ok(Value::Bool(present.is_some()));
            }
            if optional || step.optional {
                match self.present(&value, &key)? {
                    None => return Ok(Value::Optional(None)),
                    Some(found) => value = found,
                }
                self.charge(1)?;
                optional = true;
            } else {
                self.charge(1)?;
                value = self.qualify(&value, &key)?;
            }
        }
        Ok(if optional { Value::some(value) } else { value })
    }

    fn local(&mut self, slot: usize) -> Evaluated {
        let init = match &self.locals[slot] {
            Local::Known(value) => return value.clone(),
            Local::Pending(node) => *node,
        };
        // Slots of variables inside it count from where it stands, not from where it is first used.
        let inner = self.locals.split_off(slot);
        let value = self.eval(init);
        self.locals.truncate(slot);
        self.locals.extend(inner);
        self.locals[slot] = Local::Known(value.clone());
        value
    }

    fn key(&mut self, step: &'a Step) -> Evaluated {
        let key = match &step.key {
            Node::Attr(attr) => self.attr(attr),
            other => self.eval(other),
        }?;
        match key {
            Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Str(_) => {
                Ok(key)
            }
            other => error(format!("invalid qualifier type: {}", go_type(&other))),
        }
    }

    fn qualify(&self, value: &Value, key: &Value) -> Evaluated {
        match value {
            Value::List(list) => {
                let Some(index) = index(key) else {
                    return error(format!(
                        "unsupported index type '{}' in list",
                        key.type_name()
                    ));
                };
                usize::try_from(index)
                    .ok()
                    .and_then(|i| list.get(i))
                    .cloned()
                    .map_or_else(|| error(format!("index out of bounds: {index}")), Ok)
            }
            map if map.is_map() => match value::find(map, key, self.view) {
                Some(found) => Ok(found),
                None => error(format!("no such key: {}", key_text(key))),
            },
            _ => error(format!("no such key: {}", key_text(key))),
        }
    }

    fn present(&self, value: &Value, key: &Value) -> Result<Option<Value>, Fault> {
        match value {
            Value::List(list) => Ok(index(key)
                .and_then(|i| usize::try_from(i).ok())
                .and_then(|i| list.get(i))
                .cloned()),
            Value::Optional(Some(inner)) => self.present(inner, key),
            map if map.is_map() => Ok(value::find(map, key, self.view)),
            _ => Ok(None),
        }
    }

    /// A list costs the same if an element fails.
    fn list(&mut self, items: &'a [(Node, bool)]) -> Evaluated {
        let made = self.elements(items);
        if !is_final(&made) {
            self.charge(10)?;
        }
        made
    }

    fn elements(&mut self, items: &'a [(Node, bool)]) -> Evaluated {
        let mut list = Vec::with_capacity(items.len());
        for (item, optional) in items {
            match (self.eval(item)?, optional) {
                (Value::Optional(Some(value)), true) => list.push((*value).clone()),
                (Value::Optional(None), true) => {}
                (_, true) => return no_overload(),
                (value, false) => list.push(value),
            }
        }
        Ok(Value::list(list))
    }

    fn map(&mut self, entries: &'a [(Node, Node, bool)]) -> Evaluated {
        let made = self.pairs(entries);
        if !is_final(&made) {
            self.charge(30)?;
        }
        made
    }

    fn pairs(&mut self, entries: &'a [(Node, Node, bool)]) -> Evaluated {
        let mut map: Vec<(Value, Value)> = Vec::with_capacity(entries.len());
        let input = Input { view: self.view };
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let value = match (self.eval(value)?, optional) {
                (Value::Optional(Some(value)), true) => (*value).clone(),
                (Value::Optional(None), true) => continue,
                (_, true) => return no_overload(),
                (value, false) => value,
            };
            if map
                .iter()
                .any(|(known, _)| matches!(input.equal(known, &key), Ok(true)))
            {
                return error("Failed with repeated key");
            }
            map.push((key, value));
        }
        Ok(Value::Map(map.into()))
    }

    fn fold(&mut self, fold: &'a FoldNode) -> Evaluated {
        let range = self.eval(&fold.range)?;
        let pairs: Vec<(Value, Value)> = match &range {
            Value::List(list) if fold.two => list
                .iter()
                .enumerate()
                .map(|(i, v)| (Value::Int(i as i64), v.clone()))
                .collect(),
            Value::List(list) => list.iter().map(|v| (v.clone(), Value::Null)).collect(),
            map if map.is_map() => value::entries(map, self.view),
            other => return error(format!("got '{}', expected iterable type", go_type(other))),
        };
        let base = self.locals.len();
        self.locals.push(Local::Pending(&fold.init));
        let result = self
            .iterate(fold, base, pairs)
            .and_then(|()| self.eval(&fold.result));
        self.locals.truncate(base);
        result
    }

    fn iterate(
        &mut self,
        fold: &'a FoldNode,
        base: usize,
        pairs: Vec<(Value, Value)>,
    ) -> Result<(), Fault> {
        for (first, second) in pairs {
            self.locals.truncate(base + 1);
            self.locals.push(Local::Known(Ok(first)));
            if fold.two {
                self.locals.push(Local::Known(Ok(second)));
            }
            let condition = self.eval(&fold.condition);
            if is_final(&condition) {
                condition?;
            } else if matches!(condition, Ok(Value::Bool(false))) {
                break;
            }
            let next = self.eval(&fold.step);
            if is_final(&next) {
                next?;
            } else {
                self.locals[base] = Local::Known(next);
            }
        }
        self.locals.truncate(base + 1);
        Ok(())
    }
}

/// Whether the evaluation is over, whatever surrounds it.
fn is_final(value: &Evaluated) -> bool {
    matches!(value, Err(Fault::Cancelled(_) | Fault::Unsupported(_)))
}

fn index(key: &Value) -> Option<i64> {
    match key {
        Value::Int(i) => Some(*i),
        Value::Uint(u) => i64::try_from(*u).ok(),
        Value::Double(d) if d.fract() == 0.0 => Some(*d as i64),
        _ => None,
    }
}

fn key_text(key: &Value) -> String {
    match key {
        Value::Str(s) => s.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Double(d) => d.to_string(),
        other => other.type_name().to_string(),
    }
}

/// The name that the Go environment gives a value that cannot be iterated.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "types.Bool",
        Value::Int(_) => "types.Int",
        Value::Uint(_) => "types.Uint",
        Value::Double(_) => "types.Double",
        Value::Str(_) => "types.String",
        Value::Bytes(_) => "types.Bytes",
        Value::Null => "types.Null",
        Value::Quantity { .. } => "cel.Quantity",
        Value::Semver(_) => "cel.Semver",
        Value::Duration(_) => "types.Duration",
        Value::Timestamp(_) => "types.Timestamp",
        Value::Ip(_) => "cel.IP",
        Value::Cidr(..) => "cel.CIDR",
        Value::Url(_) => "cel.URL",
        Value::Format(_) => "cel.Format",
        Value::Optional(_) => "*types.Optional",
        _ => "*types.Type",
    }
}
