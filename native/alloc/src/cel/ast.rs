//! The syntax tree after macros, and the parser that makes it.

use std::sync::Arc;

use super::lex::{Token, tokens};
use super::value::Value;

const MAX_DEPTH: usize = 250;
/// The variable that a comprehension accumulates in.
pub const ACCUMULATOR: &str = "@result";

#[derive(Clone, Debug)]
pub struct Expr {
    pub at: usize,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    Const(Value),
    Ident(Arc<str>),
    Select {
        operand: Box<Expr>,
        field: Arc<str>,
        test: bool,
        optional: bool,
    },
    Index {
        operand: Box<Expr>,
        key: Box<Expr>,
        optional: bool,
    },
    Call {
        name: Arc<str>,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Cond(Box<[Expr; 3]>),
    List(Vec<(Expr, bool)>),
    Map(Vec<(Expr, Expr, bool)>),
    Fold(Box<Fold>),
}

#[derive(Clone, Debug)]
pub struct Fold {
    pub range: Expr,
    pub var: Arc<str>,
    pub second: Option<Arc<str>>,
    pub accumulator: Arc<str>,
    pub init: Expr,
    pub condition: Expr,
    pub step: Expr,
    pub result: Expr,
}

pub type Error = (usize, String);

pub fn parse(text: &str) -> Result<Expr, Error> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        next: 0,
        depth: 0,
    };
    let expr = parser.expr()?;
    match parser.peek() {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected()),
    }
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    next: usize,
    depth: usize,
}

const RESERVED: [&str; 16] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
];

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].1
    }

    fn at(&self) -> usize {
        self.tokens[self.next].0
    }

    fn take(&mut self) -> Token {
        let token = self.tokens[self.next].1.clone();
        if self.next + 1 < self.tokens.len() {
            self.next += 1;
        }
        token
    }

    fn unexpected(&self) -> Error {
        let text = match self.peek() {
            Token::End => "mismatched input '<EOF>'".into(),
            Token::Ident(name) => format!("mismatched input '{name}'"),
            Token::Sign(sign) => format!("mismatched input '{sign}'"),
            _ => "mismatched input".into(),
        };
        (self.at(), format!("Syntax error: {text}"))
    }

    fn is(&self, sign: &str) -> bool {
        matches!(self.peek(), Token::Sign(s) if *s == sign)
    }

    fn eat(&mut self, sign: &str) -> bool {
        let found = self.is(sign);
        if found {
            self.take();
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), Error> {
        if self.eat(sign) {
            Ok(())
        } else {
            Err(self.unexpected())
        }
    }

    fn expr(&mut self) -> Result<Expr, Error> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err((
                self.at(),
                format!("expression recursion limit exceeded: {MAX_DEPTH}"),
            ));
        }
        let expr = self.conditional();
        self.depth -= 1;
        expr
    }

    fn conditional(&mut self) -> Result<Expr, Error> {
        let condition = self.or()?;
        let at = self.at();
        if !self.eat("?") {
            return Ok(condition);
        }
        let truthy = self.or()?;
        self.expect(":")?;
        let falsy = self.expr()?;
        Ok(Expr {
            at,
            kind: Kind::Cond(Box::new([condition, truthy, falsy])),
        })
    }

    fn or(&mut self) -> Result<Expr, Error> {
        let at = self.at();
        let mut terms = vec![self.and()?];
        while self.eat("||") {
            terms.push(self.and()?);
        }
        Ok(if terms.len() == 1 {
            terms.remove(0)
        } else {
            Expr {
                at,
                kind: Kind::Or(terms),
            }
        })
    }

    fn and(&mut self) -> Result<Expr, Error> {
        let at = self.at();
        let mut terms = vec![self.relation()?];
        while self.eat("&&") {
            terms.push(self.relation()?);
        }
        Ok(if terms.len() == 1 {
            terms.remove(0)
        } else {
            Expr {
                at,
                kind: Kind::And(terms),
            }
        })
    }

    fn binary(
        &mut self,
        operand: fn(&mut Parser) -> Result<Expr, Error>,
        operators: &[(&str, &str)],
    ) -> Result<Expr, Error> {
        let mut left = operand(self)?;
        let mut nested = 0;
        loop {
            let at = self.at();
            let found = match self.peek() {
                Token::Sign(sign) => operators.iter().find(|(s, _)| s == sign),
                Token::Ident(name) if &**name == "in" => operators.iter().find(|(s, _)| *s == "in"),
                _ => None,
            };
            let Some((_, name)) = found else {
                return Ok(left);
            };
            nested += 1;
            if nested > MAX_DEPTH {
                return Err((
                    at,
                    format!("expression recursion limit exceeded: {MAX_DEPTH}"),
                ));
            }
            self.take();
            let right = operand(self)?;
            left = call(at, name, vec![left, right]);
        }
    }

    fn relation(&mut self) -> Result<Expr, Error> {
        let operators = [
            ("==", "_==_"),
            ("!=", "_!=_"),
            ("<=", "_<=_"),
            (">=", "_>=_"),
            ("<", "_<_"),
            (">", "_>_"),
            ("in", "@in"),
        ];
        self.binary(Parser::sum, &operators)
    }

    fn sum(&mut self) -> Result<Expr, Error> {
        self.binary(Parser::product, &[("+", "_+_"), ("-", "_-_")])
    }

    fn product(&mut self) -> Result<Expr, Error> {
        self.binary(Parser::unary, &[("*", "_*_"), ("/", "_/_"), ("%", "_%_")])
    }

    fn unary(&mut self) -> Result<Expr, Error> {
        let at = self.at();
        if self.is("!") {
            let mut count = 0;
            while self.eat("!") {
                count += 1;
            }
            let operand = self.member()?;
            return Ok(if count % 2 == 0 {
                operand
            } else {
                call(at, "!_", vec![operand])
            });
        }
        if self.is("-") {
            let mut count = 0;
            while self.eat("-") {
                count += 1;
            }
            let negative = count % 2 == 1;
            if negative {
                let value = match *self.peek() {
                    Token::Int(i) => Some(Value::Int(i.wrapping_neg())),
                    Token::Double(d) => Some(Value::Double(-d)),
                    _ => None,
                };
                if let Some(value) = value {
                    self.take();
                    return self.members(Expr {
                        at,
                        kind: Kind::Const(value),
                    });
                }
            }
            let operand = self.member()?;
            return Ok(if negative {
                call(at, "-_", vec![operand])
            } else {
                operand
            });
        }
        self.member()
    }

    fn member(&mut self) -> Result<Expr, Error> {
        if let Token::Int(i64::MIN) = self.peek() {
            return Err((self.at(), "invalid int literal".into()));
        }
        let at = self.at();
        let after = self.tokens.get(self.next + 1).map(|(_, token)| token);
        let negative = match after.filter(|_| self.is("-")) {
            Some(Token::Int(i)) => Some(Value::Int(i.wrapping_neg())),
            Some(Token::Double(d)) => Some(Value::Double(-d)),
            _ => None,
        };
        if let Some(value) = negative {
            self.take();
            self.take();
            return self.members(Expr {
                at,
                kind: Kind::Const(value),
            });
        }
        let primary = self.primary()?;
        self.members(primary)
    }

    fn members(&mut self, mut expr: Expr) -> Result<Expr, Error> {
        let mut nested = 0;
        loop {
            let at = self.at();
            nested += 1;
            if nested > MAX_DEPTH {
                return Err((
                    at,
                    format!("expression recursion limit exceeded: {MAX_DEPTH}"),
                ));
            }
            if self.eat(".") {
                let optional = self.eat("?");
                let at_name = self.at();
                let Token::Ident(name) = self.take() else {
                    self.next -= 1;
                    return Err(self.unexpected());
                };
                if &*name == "in" {
                    return Err((at_name, "Syntax error: mismatched input 'in'".into()));
                }
                if !optional && self.eat("(") {
                    let args = self.list(")")?;
                    expr = method(at, expr, &name, args)?;
                } else {
                    expr = Expr {
                        at,
                        kind: Kind::Select {
                            operand: Box::new(expr),
                            field: name,
                            test: false,
                            optional,
                        },
                    };
                }
            } else if self.eat("[") {
                let optional = self.eat("?");
                let key = Box::new(self.expr()?);
                self.expect("]")?;
                expr = Expr {
                    at,
                    kind: Kind::Index {
                        operand: Box::new(expr),
                        key,
                        optional,
                    },
                };
            } else if self.is("{") && qualified_name(&expr).is_some() {
                return Err((at, "messages are not supported in this environment".into()));
            } else {
                return Ok(expr);
            }
        }
    }

    fn list(&mut self, end: &str) -> Result<Vec<Expr>, Error> {
        let mut list = Vec::new();
        if self.eat(end) {
            return Ok(list);
        }
        loop {
            list.push(self.expr()?);
            if !self.eat(",") {
                self.expect(end)?;
                return Ok(list);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, Error> {
        let at = self.at();
        let kind = match self.take() {
            Token::Int(i) => Kind::Const(Value::Int(i)),
            Token::Uint(u) => Kind::Const(Value::Uint(u)),
            Token::Double(d) => Kind::Const(Value::Double(d)),
            Token::Str(s) => Kind::Const(Value::Str(s)),
            Token::Bytes(b) => Kind::Const(Value::Bytes(b)),
            Token::Sign("(") => {
                let inner = self.expr()?;
                self.expect(")")?;
                return Ok(inner);
            }
            Token::Sign("[") => return self.list_literal(at),
            Token::Sign("{") => return self.map_literal(at),
            Token::Sign(".") => match self.take() {
                Token::Ident(name) => return self.name(at, name, true),
                _ => {
                    self.next -= 1;
                    return Err(self.unexpected());
                }
            },
            Token::Ident(name) => return self.name(at, name, false),
            Token::End => return Err((at, "Syntax error: mismatched input '<EOF>'".into())),
            Token::Sign(_) => {
                self.next -= 1;
                return Err(self.unexpected());
            }
        };
        Ok(Expr { at, kind })
    }

    fn name(&mut self, at: usize, name: Arc<str>, rooted: bool) -> Result<Expr, Error> {
        let constant = match &*name {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            "null" => Some(Value::Null),
            "in" => return Err((at, "Syntax error: mismatched input 'in'".into())),
            _ => None,
        };
        if let Some(value) = constant.filter(|_| !rooted) {
            return Ok(Expr {
                at,
                kind: Kind::Const(value),
            });
        }
        if self.eat("(") {
            let args = self.list(")")?;
            return function(at, &name, args);
        }
        if RESERVED.contains(&&*name) || &*name == "while" {
            return Err((at, format!("reserved identifier: {name}")));
        }
        Ok(Expr {
            at,
            kind: Kind::Ident(name),
        })
    }

    fn list_literal(&mut self, at: usize) -> Result<Expr, Error> {
        let mut list = Vec::new();
        while !self.eat("]") {
            let optional = self.eat("?");
            list.push((self.expr()?, optional));
            if !self.eat(",") {
                self.expect("]")?;
                break;
            }
        }
        Ok(Expr {
            at,
            kind: Kind::List(list),
        })
    }

    fn map_literal(&mut self, at: usize) -> Result<Expr, Error> {
        let mut entries = Vec::new();
        while !self.eat("}") {
            let optional = self.eat("?");
            let key = self.expr()?;
            self.expect(":")?;
            entries.push((key, self.expr()?, optional));
            if !self.eat(",") {
                self.expect("}")?;
                break;
            }
        }
        Ok(Expr {
            at,
            kind: Kind::Map(entries),
        })
    }
}

fn call(at: usize, name: &str, args: Vec<Expr>) -> Expr {
    Expr {
        at,
        kind: Kind::Call {
            name: name.into(),
            target: None,
            args,
        },
    }
}

fn ident(at: usize, name: &str) -> Expr {
    Expr {
        at,
        kind: Kind::Ident(name.into()),
    }
}

fn constant(at: usize, value: Value) -> Expr {
    Expr {
        at,
        kind: Kind::Const(value),
    }
}

/// `a.b.c` as one name, if the expression is only that.
pub fn qualified_name(expr: &Expr) -> Option<String> {
    match &expr.kind {
        Kind::Ident(name) => Some(name.to_string()),
        Kind::Select {
            operand,
            field,
            test: false,
            optional: false,
        } => Some(format!("{}.{field}", qualified_name(operand)?)),
        _ => None,
    }
}

fn function(at: usize, name: &str, mut args: Vec<Expr>) -> Result<Expr, Error> {
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

fn method(at: usize, target: Expr, name: &str, args: Vec<Expr>) -> Result<Expr, Error> {
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
