//! Calls of functions and methods, with the macros among them written out.

use std::sync::Arc;

use super::ast::{ACCUMULATOR, Error, Expr, Fold, Kind, call, constant, ident};
use super::value::Value;

pub fn function(at: usize, name: &str, mut args: Vec<Expr>) -> Result<Expr, Error> {
    if name != "has" || args.len() != 1 {
        return Ok(call(at, name, args));
    }
    match args.remove(0).kind {
        Kind::Select {
            operand,
            field,
            test: false,
            optional: false,
        } => Ok(Expr {
            at,
            kind: Kind::Select {
                operand,
                field,
                test: true,
                optional: false,
            },
        }),
        _ => Err((at, "invalid argument to has() macro".into())),
    }
}

/// The variable that a macro declares.
fn variable(expr: &Expr) -> Result<Arc<str>, Error> {
    match &expr.kind {
        Kind::Ident(name) if &**name == ACCUMULATOR => Err((
            expr.at,
            "iteration variable overwrites accumulator variable".into(),
        )),
        Kind::Ident(name) => Ok(name.clone()),
        _ => Err((expr.at, "argument must be a simple name".into())),
    }
}

pub fn method(at: usize, target: Expr, name: &str, args: Vec<Expr>) -> Result<Expr, Error> {
    let plain = |target: Expr, args: Vec<Expr>| {
        Ok(Expr {
            at,
            kind: Kind::Call {
                name: name.into(),
                target: Some(Box::new(target)),
                args,
            },
        })
    };
    if name == "bind" && args.len() == 3 && matches!(&target.kind, Kind::Ident(n) if &**n == "cel")
    {
        let [var, init, body] = take(args);
        return Ok(bind(at, variable(&var)?, init, body));
    }
    if matches!(name, "optMap" | "optFlatMap") && args.len() == 2 {
        let [var, body] = take(args);
        return Ok(optional_map(
            at,
            target,
            variable(&var)?,
            body,
            name == "optMap",
        ));
    }
    if name == "sortBy" && args.len() == 2 {
        let input: Arc<str> = "@__sortBy_input__".into();
        let [var, key] = take(args);
        let keys = Macro {
            name: "map",
            at,
            range: ident(at, &input),
            var: variable(&var)?,
            second: None,
        }
        .expand(vec![key])?;
        let sorted = Expr {
            at,
            kind: Kind::Call {
                name: "@sortByAssociatedKeys".into(),
                target: Some(Box::new(ident(at, &input))),
                args: vec![keys],
            },
        };
        return Ok(bind(at, input, target, sorted));
    }
    let one = matches!(
        (name, args.len()),
        ("all" | "exists" | "exists_one" | "filter", 2) | ("map", 2 | 3)
    );
    let two = matches!(
        (name, args.len()),
        ("all" | "exists" | "exists_one" | "existsOne", 3)
            | (
                "transformList" | "transformMap" | "transformMapEntry",
                3 | 4
            )
    );
    if !one && !two {
        return plain(target, args);
    }
    let mut args = args;
    let var = variable(&args.remove(0))?;
    let second = if two {
        Some(variable(&args.remove(0))?)
    } else {
        None
    };
    if second.as_ref() == Some(&var) {
        return Err((at, format!("duplicate variable name: {var}")));
    }
    Macro {
        name,
        at,
        range: target,
        var,
        second,
    }
    .expand(args)
}

fn take<const N: usize>(args: Vec<Expr>) -> [Expr; N] {
    args.try_into()
        .unwrap_or_else(|_| unreachable!("the number of arguments was checked"))
}

/// `cel.bind`: a comprehension over nothing whose accumulator is the variable.
fn bind(at: usize, var: Arc<str>, init: Expr, body: Expr) -> Expr {
    let fold = Fold {
        range: Expr {
            at,
            kind: Kind::List(Vec::new()),
        },
        var: "#unused".into(),
        second: None,
        accumulator: var.clone(),
        init,
        condition: constant(at, Value::Bool(false)),
        step: ident(at, &var),
        result: body,
    };
    Expr {
        at,
        kind: Kind::Fold(Box::new(fold)),
    }
}

fn optional_map(at: usize, target: Expr, var: Arc<str>, body: Expr, wrap: bool) -> Expr {
    let on = |target: Expr, name: &str| Expr {
        at,
        kind: Kind::Call {
            name: name.into(),
            target: Some(Box::new(target)),
            args: Vec::new(),
        },
    };
    let mapped = bind(at, var, on(target.clone(), "value"), body);
    let found = if wrap {
        call(at, "optional.of", vec![mapped])
    } else {
        mapped
    };
    let none = call(at, "optional.none", Vec::new());
    Expr {
        at,
        kind: Kind::Cond(Box::new([on(target, "hasValue"), found, none])),
    }
}

struct Macro<'a> {
    name: &'a str,
    at: usize,
    range: Expr,
    var: Arc<str>,
    second: Option<Arc<str>>,
}

impl Macro<'_> {
    fn expand(self, mut args: Vec<Expr>) -> Result<Expr, Error> {
        let at = self.at;
        let accumulated = || ident(at, ACCUMULATOR);
        let boolean = |b| constant(at, Value::Bool(b));
        let int = |i| constant(at, Value::Int(i));
        let not_strictly_false = |e| call(at, "@not_strictly_false", vec![e]);
        let cond = |c, t, f| Expr {
            at,
            kind: Kind::Cond(Box::new([c, t, f])),
        };
        let list = |items: Vec<Expr>| Expr {
            at,
            kind: Kind::List(items.into_iter().map(|e| (e, false)).collect()),
        };
        let Some(last) = args.pop() else {
            return Err((at, "missing argument".into()));
        };
        let filter = args.pop();
        let second = self.second.clone();
        let (init, condition, step, result) = match self.name {
            "all" => (
                boolean(true),
                not_strictly_false(accumulated()),
                Expr {
                    at,
                    kind: Kind::And(vec![accumulated(), last]),
                },
                accumulated(),
            ),
            "exists" => (
                boolean(false),
                not_strictly_false(call(at, "!_", vec![accumulated()])),
                Expr {
                    at,
                    kind: Kind::Or(vec![accumulated(), last]),
                },
                accumulated(),
            ),
            "exists_one" | "existsOne" => (
                int(0),
                boolean(true),
                cond(
                    last,
                    call(at, "_+_", vec![accumulated(), int(1)]),
                    accumulated(),
                ),
                call(at, "_==_", vec![accumulated(), int(1)]),
            ),
            "filter" => {
                let step = call(
                    at,
                    "_+_",
                    vec![accumulated(), list(vec![ident(at, &self.var)])],
                );
                (
                    list(Vec::new()),
                    boolean(true),
                    cond(last, step, accumulated()),
                    accumulated(),
                )
            }
            "map" | "transformList" => {
                let mut step = call(at, "_+_", vec![accumulated(), list(vec![last])]);
                if let Some(filter) = filter {
                    step = cond(filter, step, accumulated());
                }
                (list(Vec::new()), boolean(true), step, accumulated())
            }
            name => {
                let mut step = if name == "transformMap" {
                    call(
                        at,
                        "cel.@mapInsert",
                        vec![accumulated(), ident(at, &self.var), last],
                    )
                } else {
                    call(at, "cel.@mapInsert", vec![accumulated(), last])
                };
                if let Some(filter) = filter {
                    step = cond(filter, step, accumulated());
                }
                (
                    Expr {
                        at,
                        kind: Kind::Map(Vec::new()),
                    },
                    boolean(true),
                    step,
                    accumulated(),
                )
            }
        };
        let fold = Fold {
            range: self.range,
            var: self.var,
            second,
            accumulator: ACCUMULATOR.into(),
            init,
            condition,
            step,
            result,
        };
        Ok(Expr {
            at,
            kind: Kind::Fold(Box::new(fold)),
        })
    }
}
