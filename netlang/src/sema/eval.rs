//! Evaluation of expressions, to values or to closed forms of a group's index.
//!
//! `None` means that an error was reported already; whoever gets it gives up quietly, so that one unknown name makes
//! one diagnostic.

use super::World;
use super::value::{QuantityError, Value, example, quantity};
use crate::address::prefix::Prefix;
use crate::diag::{Diagnostic, codes};
use crate::plan::form::{Op, apply};
use crate::source::Span;
use crate::syntax::intern::Symbol;
use crate::syntax::tree::{BinaryOp, Expr, ExprId};
use crate::text::thousands;
use crate::vocab::{Kind, Ty};

/// Values that need values that need values: so deep at most.
const MAX_LETS: u32 = 200;
/// Expressions within expressions, through all those values: it bounds the stack that evaluation needs.
const MAX_DEPTH: u32 = 1000;

/// Where an expression is evaluated: names are those of the instance, and perhaps an index has a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Env {
    pub(crate) instance: u32,
    pub(crate) index: Option<(Symbol, i64)>,
}

impl Env {
    /// Without an index.
    pub(crate) fn of(instance: u32) -> Env {
        Env { instance, index: None }
    }
}

/// How far the evaluation of a `let` or parameter is.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Known {
    Busy,
    Done(Option<Value>),
}

impl World<'_> {
    /// The value of an expression.
    pub(crate) fn eval(&mut self, env: Env, id: ExprId) -> Option<Value> {
        let span = self.tree.span(id);
        if self.eval_depth == MAX_DEPTH {
            self.sink.push(
                Diagnostic::error(codes::CYCLE, "values are nested too deep", span)
                    .label("needed here")
                    .help("shorter sums in the `let`s that need one another"),
            );
            return None;
        }
        self.eval_depth += 1;
        let value = self.eval_within(env, id, span);
        self.eval_depth -= 1;
        value
    }

    fn eval_within(&mut self, env: Env, id: ExprId, span: Span) -> Option<Value> {
        match self.tree.expr(id) {
            Expr::Int(index) => Some(Value::Int(self.tree.int(index))),
            Expr::Quantity => self.quantity(span),
            Expr::Ipv4(address) => Some(Value::Address(address)),
            Expr::Prefix(address, len) => self.prefix(address, len, span),
            Expr::PrefixLen(len) => Some(Value::PrefixLen(len)),
            Expr::Text => Some(Value::Text(span)),
            Expr::Name(symbol) => self.named_value(env, symbol, span),
            Expr::Binary(left, right, op) => {
                let (left_value, right_value) = (self.eval(env, left), self.eval(env, right));
                self.binary(op, left_value?, right_value?, span)
            }
            Expr::Call(callee, args) => self.call(env, callee, args, span),
            _ => {
                let text = span.text(self.text);
                self.sink.push(
                    Diagnostic::error(codes::BAD_OPERANDS, format!("`{text}` is no value"), span)
                        .label("a number, a quantity, a prefix or the name of one is wanted here"),
                );
                None
            }
        }
    }

    fn quantity(&mut self, span: Span) -> Option<Value> {
        let text = span.text(self.text);
        let error = match quantity(text) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == '%' || c == '_');
        let diagnostic = match error {
            QuantityError::NoUnit => Diagnostic::error(codes::BAD_NUMBER, format!("`{text}` needs a unit"), span)
                .label("a number with a fraction")
                .note("units are ns us ms s min h, KiB MiB GiB, kbit Mbit Gbit, pps, %"),
            QuantityError::UnknownUnit(similar) => {
                let it = Diagnostic::error(codes::BAD_NUMBER, format!("`{}` is no unit", &text[digits.len()..]), span);
                match similar {
                    Some(unit) => it.label(format!("help: `{digits}{unit}`")),
                    None => {
                        it.label("not a unit").note("units are ns us ms s min h, KiB MiB GiB, kbit Mbit Gbit, pps, %")
                    }
                }
            }
            QuantityError::TooLarge => Diagnostic::error(codes::BAD_NUMBER, format!("`{text}` is too large"), span)
                .label("more than 64 bits hold"),
        };
        self.sink.push(diagnostic);
        None
    }

    fn prefix(&mut self, address: u32, len: u8, span: Span) -> Option<Value> {
        let prefix = Prefix::new(address, len);
        if !Prefix::has_host_bits(address, len) {
            return Some(Value::Prefix(prefix));
        }
        let text = span.text(self.text);
        self.sink.push(
            Diagnostic::error(codes::BAD_PREFIX, format!("`{text}` has bits set behind its length"), span)
                .label(format!("help: `{prefix}`")),
        );
        None
    }

    fn named_value(&mut self, env: Env, symbol: Symbol, span: Span) -> Option<Value> {
        if let Some((name, value)) = env.index
            && name == symbol
        {
            return Some(Value::Int(value));
        }
        let Some((instance, decl, found)) = self.data.names.lookup(env.instance, symbol) else {
            self.unknown_name(env.instance, symbol, span, "value");
            return None;
        };
        let found = *found;
        match found.kind {
            Kind::Let | Kind::Param => self.value_of(instance, decl, span),
            kind => {
                let name = self.data.names.interner.name(symbol);
                self.sink.push(
                    Diagnostic::error(codes::WRONG_KIND, format!("`{name}` is {}, a value is wanted", kind.a()), span)
                        .label("not a value")
                        .also(found.span, "declared here"),
                );
                None
            }
        }
    }

    /// The value of a `let` or parameter in an instance.
    pub(crate) fn value_of(&mut self, instance: u32, decl: u32, asked: Span) -> Option<Value> {
        match self.values.get(&(instance, decl)) {
            Some(Known::Done(value)) => return *value,
            None if self.value_depth < MAX_LETS => {}
            busy => {
                let found = *self.data.names.decl(instance, decl);
                let name = self.data.names.interner.name(found.symbol);
                let (what, label) = match busy {
                    Some(_) => (format!("the value of `{name}` needs itself"), "needed here again"),
                    None => (format!("the value of `{name}` is nested too deep"), "needed here"),
                };
                self.sink
                    .push(Diagnostic::error(codes::CYCLE, what, found.span).label("this value").also(asked, label));
                return None;
            }
        }
        self.values.insert((instance, decl), Known::Busy);
        self.value_depth += 1;
        let value = self.compute_value(instance, decl);
        self.value_depth -= 1;
        self.values.insert((instance, decl), Known::Done(value));
        value
    }

    fn compute_value(&mut self, instance: u32, decl: u32) -> Option<Value> {
        let found = *self.data.names.decl(instance, decl);
        if found.kind == Kind::Param {
            return self.param_value(instance, decl);
        }
        // `let NAME = VALUE`: its shape was checked when it was declared.
        let value = *self.tree.words(found.stmt).get(3)?;
        self.eval(Env::of(instance), value)
    }

    fn binary(&mut self, op: BinaryOp, left: Value, right: Value, span: Span) -> Option<Value> {
        let wide = |l: u64, r: u64| match op {
            BinaryOp::Add => l.checked_add(r),
            BinaryOp::Subtract => l.checked_sub(r),
            _ => None,
        };
        let result = match (left, right) {
            (Value::Int(l), Value::Int(r)) => apply(op, l, r).map(Value::Int),
            (Value::Address(l), Value::Int(r)) => {
                apply(op, i64::from(l), r).and_then(|a| u32::try_from(a).ok()).map(Value::Address)
            }
            (Value::Duration(l), Value::Duration(r)) => wide(l, r).map(Value::Duration),
            (Value::Size(l), Value::Size(r)) => wide(l, r).map(Value::Size),
            (Value::Rate(l), Value::Rate(r)) => wide(l, r).map(Value::Rate),
            _ => {
                self.sink.push(
                    Diagnostic::error(codes::BAD_OPERANDS, "these values do not go together", span).label(format!(
                        "{} and {}",
                        left.a(),
                        right.a()
                    )),
                );
                return None;
            }
        };
        if result.is_none() {
            self.sink.push(
                Diagnostic::error(codes::OUT_OF_BOUNDS, "this has no value", span)
                    .label("too large, below zero, or a division by zero"),
            );
        }
        result
    }

    /// `PREFIX.sub(/LEN, N)` and `PREFIX.host(N)`.
    fn call(&mut self, env: Env, callee: ExprId, args: u32, span: Span) -> Option<Value> {
        let Expr::Field(base, method) = self.tree.expr(callee) else {
            self.sink.push(
                Diagnostic::error(codes::BAD_OPERANDS, "this cannot be called", span)
                    .label("prefixes have `sub(/LEN, N)` and `host(N)`"),
            );
            return None;
        };
        let base_value = self.eval(env, base)?;
        let Value::Prefix(prefix) = base_value else {
            self.sink.push(
                Diagnostic::error(codes::BAD_OPERANDS, "only prefixes have methods", self.tree.span(base))
                    .label(format!("this is {}", base_value.a())),
            );
            return None;
        };
        let list: Vec<ExprId> = self.tree.args(args).to_vec();
        let mut values = Vec::new();
        for arg in list {
            values.push(self.eval(env, arg)?);
        }
        let method = self.data.names.interner.name(method).to_owned();
        match (method.as_str(), values.as_slice()) {
            ("sub", [Value::PrefixLen(len), Value::Int(n)]) => {
                let sub = u64::try_from(*n).ok().and_then(|n| prefix.sub(*len, n));
                if sub.is_none() {
                    let most = if *len < prefix.len() { 0 } else { 1u64 << (len - prefix.len()) };
                    self.sink.push(
                        Diagnostic::error(codes::BAD_PREFIX, format!("{prefix} has no /{len} number {n}"), span)
                            .label(format!("it has {} of them", thousands(most))),
                    );
                }
                sub.map(Value::Prefix)
            }
            ("host", [Value::Int(n)]) => {
                let host = u64::try_from(*n).ok().filter(|n| *n < prefix.size());
                if host.is_none() {
                    self.sink.push(
                        Diagnostic::error(codes::OUTSIDE_PREFIX, format!("{prefix} has no address number {n}"), span)
                            .label(format!("it has {}", thousands(prefix.size()))),
                    );
                }
                host.map(|n| Value::Address((u64::from(prefix.first()) + n) as u32))
            }
            _ => {
                self.sink.push(
                    Diagnostic::error(codes::BAD_WORDS, format!("a prefix has no `{method}` like this"), span)
                        .label("prefixes have `sub(/LEN, N)` and `host(N)`"),
                );
                None
            }
        }
    }

    /// A value that must have a type; `what` is named in the message.
    pub(crate) fn want(&mut self, env: Env, id: ExprId, ty: Ty, what: &str) -> Option<Value> {
        let value = self.eval(env, id)?;
        self.fits(value, id, ty, what).then_some(value)
    }

    fn fits(&mut self, value: Value, id: ExprId, ty: Ty, what: &str) -> bool {
        let span = self.tree.span(id);
        if !value.is(ty) {
            let number = if let Value::Int(n) = value { Some(n) } else { None };
            let label = example(ty, number).map_or_else(String::new, |e| format!("help: `{e}`"));
            self.sink.push(
                Diagnostic::error(codes::WRONG_TYPE, format!("`{what}` wants {}, found {}", ty.a(), value.a()), span)
                    .label(label),
            );
            return false;
        }
        if let (Value::Int(n), Ty::Int(least, most)) = (value, ty)
            && !(least..=most).contains(&n)
        {
            let bounds = format!("from {} to {}", thousands(least.max(0) as u64), thousands(most.max(0) as u64));
            self.sink
                .push(Diagnostic::error(codes::OUT_OF_BOUNDS, format!("`{what}` cannot be {n}"), span).label(bounds));
            return false;
        }
        true
    }

    /// A whole number.
    pub(crate) fn want_int(&mut self, env: Env, id: ExprId, ty: Ty, what: &str) -> Option<i64> {
        match self.want(env, id, ty, what)? {
            Value::Int(n) => Some(n),
            _ => None,
        }
    }

    /// The bounds of `a..b`.
    pub(crate) fn range(&mut self, env: Env, id: ExprId) -> Option<(i64, i64)> {
        let int = Ty::Int(0, u32::MAX as i64);
        let Expr::Range(from, until) = self.tree.expr(id) else { return None };
        let (from, until) = (self.want_int(env, from, int, "range"), self.want_int(env, until, int, "range"));
        Some((from?, until?))
    }

    /// Whether an expression mentions a name.
    pub(crate) fn mentions(&self, id: ExprId, name: Symbol) -> bool {
        match self.tree.expr(id) {
            Expr::Name(symbol) => symbol == name,
            Expr::Binary(l, r, _) | Expr::Range(l, r) | Expr::At(l, r) => {
                self.mentions(l, name) || self.mentions(r, name)
            }
            Expr::Field(base, _) => self.mentions(base, name),
            Expr::Call(callee, args) => {
                self.mentions(callee, name) || self.tree.args(args).iter().any(|a| self.mentions(*a, name))
            }
            _ => false,
        }
    }

    /// Compiles a whole-number expression in which `index` stands for a VM's own index.
    pub(crate) fn lower(&mut self, env: Env, id: ExprId, index: Option<Symbol>, code: &mut Vec<Op>) -> Option<()> {
        match self.tree.expr(id) {
            Expr::Name(symbol) if Some(symbol) == index => code.push(Op::Index),
            Expr::Binary(left, right, op) => {
                self.lower(env, left, index, code)?;
                self.lower(env, right, index, code)?;
                match code[..] {
                    // What does not depend on the index is worked out now.
                    [.., Op::Const(l), Op::Const(r)] => {
                        let value = self.binary(op, Value::Int(l), Value::Int(r), self.tree.span(id))?;
                        let Value::Int(value) = value else { return None };
                        code.truncate(code.len() - 2);
                        code.push(Op::Const(value));
                    }
                    _ => code.push(Op::Apply(op)),
                }
            }
            _ if index.is_some_and(|i| self.mentions(id, i)) => {
                self.sink.push(
                    Diagnostic::error(
                        codes::BAD_OPERANDS,
                        "the index can only be used in sums, `mod` and `div` here",
                        self.tree.span(id),
                    )
                    .label("no closed form"),
                );
                return None;
            }
            _ => code.push(Op::Const(self.want_int(env, id, Ty::HostNumber, "number")?)),
        }
        Some(())
    }
}
