//! The syntax tree after macros, and the parser that makes it.

use std::sync::Arc;

use super::lex::{Token, tokens};
use super::macros::{function, method};
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

pub fn call(at: usize, name: &str, args: Vec<Expr>) -> Expr {
    Expr {
        at,
        kind: Kind::Call {
            name: name.into(),
            target: None,
            args,
        },
    }
}

pub fn ident(at: usize, name: &str) -> Expr {
    Expr {
        at,
        kind: Kind::Ident(name.into()),
    }
}

pub fn constant(at: usize, value: Value) -> Expr {
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
