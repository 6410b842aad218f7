//! Evaluates expressions, lazily: a [`Scope`] is asked for a variable or function when one is met,
//! so the order of definitions does not matter and what nobody needs is never computed.

use std::cell::Cell;
use std::collections::BTreeMap;

use hcl_edit::Span as _;
use hcl_edit::expr::{
    BinaryOperator, Expression, ForExpr, FuncCall, Object, ObjectKey, TraversalOperator,
    UnaryOperator,
};
use hcl_edit::template::{Directive, Element, Strip, Template};

use super::error::{Error, FileId, Place, Result};
use super::syntax::{place, place_of};
use super::types;
use super::value::{Value, article, number_text};

/// Largest value that is made, in elements and bytes of text: a bake file is no place for more, and
/// nested loops could ask for anything.
const MAX_WORK: usize = 20_000_000;

/// How deep evaluations may lie within each other: what the parser allows in one expression, twice.
const MAX_DEPTH: usize = 400;

/// What names stand for.
pub trait Scope {
    /// Gives a variable; None when there is none of that name.
    fn variable(&self, name: &str, place: Place) -> Result<Option<Value>>;
    /// Gives an attribute of a block, as `target.app.args`; None when there is no such block kind.
    fn block(&self, kind: &str, path: &[String], place: Place) -> Result<Option<(Value, usize)>>;
    /// Names of variables, for suggestions.
    fn names(&self) -> Vec<String>;
    /// Calls a function.
    fn call(&self, name: &str, args: Vec<Value>, place: Place) -> Result<Value>;
    /// Counts work, and fails when it is too much.
    fn spend(&self, amount: usize) -> bool;
    /// How many evaluations are under way, one within the other.
    fn depth(&self) -> &Cell<usize>;
}

/// Says how much work an evaluation may do.
pub fn budget() -> usize {
    MAX_WORK
}

/// Evaluates expressions of one file.
pub struct Evaluator<'a> {
    /// What names stand for.
    pub scope: &'a dyn Scope,
    /// The file.
    pub file: FileId,
    /// Names of `for` and of parameters, innermost last.
    pub locals: Vec<(String, Value)>,
}

fn failed(place: Place, message: impl Into<String>) -> Error {
    Error::at("E0706", place, message)
}

impl Evaluator<'_> {
    /// Gives the value of an expression.
    pub fn value(&mut self, expr: &Expression) -> Result<Value> {
        let at = place_of(self.file, expr);
        if !self.scope.spend(1) {
            return Err(failed(at, "the file asks for too much work"));
        }
        let depth = self.scope.depth();
        if depth.get() >= MAX_DEPTH {
            return Err(failed(at, "expressions need each other over too many steps"));
        }
        depth.set(depth.get() + 1);
        let value = self.value_of(expr, at);
        let depth = self.scope.depth();
        depth.set(depth.get() - 1);
        value
    }

    fn value_of(&mut self, expr: &Expression, at: Place) -> Result<Value> {
        match expr {
            Expression::Null(_) => Ok(Value::Null),
            Expression::Bool(value) => Ok(Value::Bool(*value.value())),
            Expression::Number(number) => {
                Ok(Value::Number(number.value().as_f64().unwrap_or_default()))
            }
            Expression::String(text) => Ok(Value::String(text.value().clone())),
            Expression::Array(array) => {
                array.iter().map(|item| self.value(item)).collect::<Result<_>>().map(Value::List)
            }
            Expression::Object(object) => self.object(object),
            Expression::StringTemplate(template) => {
                self.template(&template.iter().cloned().collect::<Vec<_>>(), at)
            }
            Expression::HeredocTemplate(heredoc) => {
                let mut heredoc = heredoc.as_ref().clone();
                if heredoc.indent().is_some() {
                    heredoc.dedent();
                }
                let elements: Vec<Element> = heredoc.template.iter().cloned().collect();
                self.template(&elements, at)
            }
            Expression::Parenthesis(inner) => self.value(inner.inner()),
            Expression::Variable(name) => self.variable(name.as_str(), at),
            Expression::Conditional(conditional) => {
                let condition = self.value(&conditional.cond_expr)?;
                let condition = condition
                    .truth()
                    .map_err(|error| failed(place_of(self.file, &conditional.cond_expr), error))?;
                self.value(if condition { &conditional.true_expr } else { &conditional.false_expr })
            }
            Expression::FuncCall(call) => self.call(call, at),
            Expression::Traversal(traversal) => {
                self.traversal(&traversal.expr, &traversal.operators, at)
            }
            Expression::UnaryOp(operation) => {
                let value = self.value(&operation.expr)?;
                match operation.operator.value() {
                    UnaryOperator::Neg => value.number().map(|number| Value::Number(-number)),
                    UnaryOperator::Not => value.truth().map(|truth| Value::Bool(!truth)),
                }
                .map_err(|error| failed(at, error))
            }
            Expression::BinaryOp(operation) => {
                let left = self.value(&operation.lhs_expr)?;
                let right = self.value(&operation.rhs_expr)?;
                binary(*operation.operator.value(), &left, &right)
                    .map_err(|error| failed(at, error))
            }
            Expression::ForExpr(for_expr) => self.for_expr(for_expr, at),
        }
    }

    fn object(&mut self, object: &Object) -> Result<Value> {
        let mut map = BTreeMap::new();
        for (key, value) in object.iter() {
            let name = match key {
                ObjectKey::Ident(name) => name.to_string(),
                ObjectKey::Expression(expr) => {
                    let at = place_of(self.file, expr);
                    self.value(expr)?
                        .text()
                        .map_err(|error| failed(at, format!("a key of an object: {error}")))?
                }
            };
            let value = self.value(value.expr())?;
            map.insert(name, value);
        }
        Ok(Value::Map(map))
    }

    /// Gives a copy of a variable, which is paid for: in a loop, copies grow large.
    fn variable(&mut self, name: &str, at: Place) -> Result<Value> {
        let value = self.named(name, at)?;
        self.pay(&value, at)?;
        Ok(value)
    }

    fn pay(&self, value: &Value, at: Place) -> Result<()> {
        match self.scope.spend(weight(value)) {
            true => Ok(()),
            false => Err(failed(at, "the file asks for too much work")),
        }
    }

    fn named(&mut self, name: &str, at: Place) -> Result<Value> {
        if let Some((_, value)) = self.locals.iter().rev().find(|(local, _)| local == name) {
            return Ok(value.clone());
        }
        if let Some(value) = self.scope.variable(name, at)? {
            return Ok(value);
        }
        if let Some((value, _)) = self.scope.block(name, &[], at)? {
            return Ok(value);
        }
        let names = self.scope.names();
        let locals = self.locals.iter().map(|(name, _)| name.as_str());
        let candidates = names.iter().map(String::as_str).chain(locals);
        let suggestion = crate::dockerfile::suggest(name, candidates, true);
        let error = Error::at("E0704", at, format!("there is no variable {name:?}"));
        Err(match suggestion {
            Some(_) => error.with_suggestion(suggestion),
            None => error.with_help(format!("define it: variable {name:?} {{ default = … }}")),
        })
    }

    /// Gives a value, and leaves no names of loops behind when there is none.
    fn attempt(&mut self, expr: &Expression) -> Result<Value> {
        let depth = self.locals.len();
        let value = self.value(expr);
        self.locals.truncate(depth);
        value
    }

    fn call(&mut self, call: &FuncCall, at: Place) -> Result<Value> {
        let name = call.name.name.as_str();
        let at_name = place(self.file, call.name.name.span());
        if call.name.is_namespaced() {
            return Err(Error::at("E0705", at, "functions have no namespaces in bake files"));
        }
        let exprs: Vec<&Expression> = call.args.iter().collect();
        match name {
            "try" => {
                let mut last = None;
                for expr in &exprs {
                    match self.attempt(expr) {
                        Ok(value) => return Ok(value),
                        Err(error) => last = Some(error),
                    }
                }
                return Err(last.unwrap_or_else(|| {
                    Error::at("E0705", at, "try: at least one argument is needed")
                }));
            }
            "can" => {
                let [expr] = exprs[..] else {
                    return Err(Error::at("E0705", at, "can: one argument is needed"));
                };
                return Ok(Value::Bool(self.attempt(expr).is_ok()));
            }
            "convert" => {
                let [expr, kind] = exprs[..] else {
                    return Err(Error::at("E0705", at, "convert: a value and a type are needed"));
                };
                let value = self.value(expr)?;
                let kind = types::parse(self.file, kind)?;
                return types::convert(&value, &kind).map_err(|error| failed(at, error));
            }
            _ => {}
        }
        let mut args = Vec::with_capacity(exprs.len());
        for (index, expr) in exprs.iter().enumerate() {
            let value = self.value(expr)?;
            if call.args.expand_final() && index + 1 == exprs.len() {
                args.extend(value.elements().map_err(|error| failed(at, error))?);
            } else {
                args.push(value);
            }
        }
        let value =
            self.scope.call(name, args, if at_name.span.is_empty() { at } else { at_name })?;
        self.pay(&value, at)?;
        Ok(value)
    }

    fn traversal(
        &mut self,
        base: &Expression,
        operators: &[hcl_edit::Decorated<TraversalOperator>],
        at: Place,
    ) -> Result<Value> {
        let mut rest = operators;
        let mut value = None;
        if let Expression::Variable(name) = base
            && !self.locals.iter().any(|(local, _)| local == name.as_str())
        {
            let path: Vec<String> = operators
                .iter()
                .map_while(|operator| match operator.value() {
                    TraversalOperator::GetAttr(name) => Some(name.to_string()),
                    TraversalOperator::Index(Expression::String(name)) => {
                        Some(name.value().clone())
                    }
                    _ => None,
                })
                .collect();
            if let Some((found, used)) = self.scope.block(name.as_str(), &path, at)? {
                self.pay(&found, at)?;
                value = Some(found);
                rest = &operators[used..];
            }
        }
        let value = match value {
            Some(value) => value,
            None => self.value(base)?,
        };
        self.traverse(value, rest, at)
    }

    fn traverse(
        &mut self,
        mut value: Value,
        operators: &[hcl_edit::Decorated<TraversalOperator>],
        at: Place,
    ) -> Result<Value> {
        for (index, operator) in operators.iter().enumerate() {
            value = match operator.value() {
                TraversalOperator::GetAttr(name) => member(&value, name.as_str(), at)?,
                TraversalOperator::LegacyIndex(number) => {
                    indexed(&value, &Value::Number(*number.value() as f64), at)?
                }
                TraversalOperator::Index(expr) => {
                    let key = self.value(expr)?;
                    indexed(&value, &key, at)?
                }
                TraversalOperator::AttrSplat(_) | TraversalOperator::FullSplat(_) => {
                    let list = match value {
                        Value::List(list) => list,
                        Value::Null => Vec::new(),
                        one => vec![one],
                    };
                    let full = matches!(operator.value(), TraversalOperator::FullSplat(_));
                    // `a.*.b[0]` indexes the list of results, `a[*].b[0]` each of them.
                    let stop = operators[index + 1..]
                        .iter()
                        .position(|operator| {
                            !full && !matches!(operator.value(), TraversalOperator::GetAttr(_))
                        })
                        .map_or(operators.len(), |found| index + 1 + found);
                    let each = &operators[index + 1..stop];
                    let list = list
                        .into_iter()
                        .map(|item| self.traverse(item, each, at))
                        .collect::<Result<Vec<_>>>()?;
                    return self.traverse(Value::List(list), &operators[stop..], at);
                }
            };
        }
        Ok(value)
    }

    fn for_expr(&mut self, for_expr: &ForExpr, at: Place) -> Result<Value> {
        let collection = self.value(&for_expr.intro.collection_expr)?;
        let pairs = pairs(&collection)
            .map_err(|error| failed(place_of(self.file, &for_expr.intro.collection_expr), error))?;
        let key_var = for_expr.intro.key_var.as_ref().map(|name| name.to_string());
        let value_var = for_expr.intro.value_var.to_string();
        let mut list = Vec::new();
        let mut map: BTreeMap<String, Value> = BTreeMap::new();
        let depth = self.locals.len();
        for (key, value) in pairs {
            self.locals.truncate(depth);
            if let Some(name) = &key_var {
                self.locals.push((name.clone(), key));
            }
            self.locals.push((value_var.clone(), value));
            if let Some(condition) = &for_expr.cond {
                let wanted = self.value(&condition.expr)?;
                if !wanted.truth().map_err(|error| failed(at, error))? {
                    continue;
                }
            }
            let value = self.value(&for_expr.value_expr)?;
            let Some(key_expr) = &for_expr.key_expr else {
                list.push(value);
                continue;
            };
            let key = self.value(key_expr)?.text().map_err(|error| failed(at, error))?;
            if for_expr.grouping {
                match map.entry(key).or_insert_with(|| Value::List(Vec::new())) {
                    Value::List(group) => group.push(value),
                    _ => unreachable!("groups are lists"),
                }
            } else if map.insert(key.clone(), value).is_some() {
                return Err(failed(at, format!("the key {key:?} comes twice"))
                    .with_help("group the values with … after the value"));
            }
        }
        self.locals.truncate(depth);
        Ok(if for_expr.key_expr.is_some() { Value::Map(map) } else { Value::List(list) })
    }

    /// Evaluates a template; one that is a single `${…}` keeps the kind of its value.
    pub fn template(&mut self, elements: &[Element], at: Place) -> Result<Value> {
        if let [Element::Interpolation(only)] = elements {
            return self.value(&only.expr);
        }
        let mut text = String::new();
        self.elements(elements, &mut text, at)?;
        let value = Value::String(text);
        self.pay(&value, at)?;
        Ok(value)
    }

    fn elements(&mut self, elements: &[Element], out: &mut String, at: Place) -> Result<()> {
        for (index, element) in elements.iter().enumerate() {
            match element {
                Element::Literal(literal) => {
                    let before = index.checked_sub(1).map(|index| &elements[index]);
                    let mut piece = literal.value().as_str();
                    if before.is_some_and(|element| strips(element).1) {
                        piece = piece.trim_start();
                    }
                    if elements.get(index + 1).is_some_and(|element| strips(element).0) {
                        piece = piece.trim_end();
                    }
                    out.push_str(piece);
                }
                Element::Interpolation(interpolation) => {
                    let place = place_of(self.file, &interpolation.expr);
                    let place = if place.span.is_empty() { at } else { place };
                    let value = self.value(&interpolation.expr)?;
                    let text = value.text().map_err(|error| {
                        failed(place, error).with_help(match value {
                            Value::List(_) => "join it: ${join(\",\", …)}",
                            Value::Map(_) => "encode it: ${jsonencode(…)}",
                            _ => "give another value where it may be null: ${x == null ? \"\" : x}",
                        })
                    })?;
                    out.push_str(&text);
                }
                Element::Directive(directive) => self.directive(directive, out, at)?,
            }
            if !self.scope.spend(1 + out.len() / 64) {
                return Err(failed(at, "the file asks for too much work"));
            }
        }
        Ok(())
    }

    fn directive(&mut self, directive: &Directive, out: &mut String, at: Place) -> Result<()> {
        match directive {
            Directive::If(found) => {
                let condition = self.value(&found.if_expr.cond_expr)?;
                let next = found.else_expr.as_ref().map(|other| other.strip);
                if condition.truth().map_err(|error| failed(at, error))? {
                    let end = next.unwrap_or(found.endif_expr.strip);
                    self.inner(&found.if_expr.template, found.if_expr.strip, end, out, at)
                } else if let Some(other) = &found.else_expr {
                    self.inner(&other.template, other.strip, found.endif_expr.strip, out, at)
                } else {
                    Ok(())
                }
            }
            Directive::For(found) => {
                let collection = self.value(&found.for_expr.collection_expr)?;
                let pairs = pairs(&collection).map_err(|error| failed(at, error))?;
                let depth = self.locals.len();
                for (key, value) in pairs {
                    self.locals.truncate(depth);
                    if let Some(name) = &found.for_expr.key_var {
                        self.locals.push((name.to_string(), key));
                    }
                    self.locals.push((found.for_expr.value_var.to_string(), value));
                    let (start, end) = (found.for_expr.strip, found.endfor_expr.strip);
                    self.inner(&found.for_expr.template, start, end, out, at)?;
                }
                self.locals.truncate(depth);
                Ok(())
            }
        }
    }

    /// Evaluates what is between two markers, which may strip the blanks next to them.
    fn inner(
        &mut self,
        template: &Template,
        start: Strip,
        end: Strip,
        out: &mut String,
        at: Place,
    ) -> Result<()> {
        let mut text = String::new();
        let elements: Vec<Element> = template.iter().cloned().collect();
        self.elements(&elements, &mut text, at)?;
        let mut piece = text.as_str();
        let first = matches!(elements.first(), Some(Element::Literal(_)));
        if first && matches!(start, Strip::End | Strip::Both) {
            piece = piece.trim_start();
        }
        let last = matches!(elements.last(), Some(Element::Literal(_)));
        if last && matches!(end, Strip::Start | Strip::Both) {
            piece = piece.trim_end();
        }
        out.push_str(piece);
        Ok(())
    }
}

/// Says whether an element strips the literal before it, and the one after it.
fn strips(element: &Element) -> (bool, bool) {
    let (start, end) = match element {
        Element::Literal(_) => return (false, false),
        Element::Interpolation(found) => (found.strip, found.strip),
        Element::Directive(directive) => match directive.as_ref() {
            Directive::If(found) => (found.if_expr.strip, found.endif_expr.strip),
            Directive::For(found) => (found.for_expr.strip, found.endfor_expr.strip),
        },
    };
    (matches!(start, Strip::Start | Strip::Both), matches!(end, Strip::End | Strip::Both))
}

/// What an element of a value costs in units of work: so all values together take some 30 MB at most.
const ELEMENT: usize = 24;

/// Says what a value costs.
fn weight(value: &Value) -> usize {
    match value {
        Value::String(text) => ELEMENT * (1 + text.len() / 16),
        Value::List(list) => ELEMENT + list.iter().map(weight).sum::<usize>(),
        Value::Map(map) => {
            let member =
                |(key, value): (&String, &Value)| ELEMENT * (2 + key.len() / 16) + weight(value);
            ELEMENT + map.iter().map(member).sum::<usize>()
        }
        _ => ELEMENT,
    }
}

fn pairs(collection: &Value) -> Result<Vec<(Value, Value)>, String> {
    match collection {
        Value::List(list) => Ok(list
            .iter()
            .enumerate()
            .map(|(index, value)| (Value::Number(index as f64), value.clone()))
            .collect()),
        Value::Map(map) => {
            Ok(map.iter().map(|(key, value)| (key.as_str().into(), value.clone())).collect())
        }
        other => {
            Err(format!("for goes over a list or an object, not over {}", article(other.kind())))
        }
    }
}

fn member(value: &Value, name: &str, at: Place) -> Result<Value> {
    match value {
        Value::Map(map) => map.get(name).cloned().ok_or_else(|| {
            let error = failed(at, format!("the object has no attribute {name:?}"));
            error.with_suggestion(crate::dockerfile::suggest(
                name,
                map.keys().map(String::as_str),
                true,
            ))
        }),
        other => Err(failed(at, format!("{} has no attributes", article(other.kind())))),
    }
}

fn indexed(value: &Value, key: &Value, at: Place) -> Result<Value> {
    match value {
        Value::Map(_) => {
            let name = key.text().map_err(|error| failed(at, error))?;
            member(value, &name, at)
        }
        Value::List(list) => {
            let index = key.integer().map_err(|error| failed(at, error))?;
            usize::try_from(index).ok().and_then(|index| list.get(index)).cloned().ok_or_else(
                || {
                    let message =
                        format!("there is no element {index}: the list has {}", list.len());
                    failed(at, message)
                },
            )
        }
        other => Err(failed(at, format!("{} has no elements", article(other.kind())))),
    }
}

fn binary(operator: BinaryOperator, left: &Value, right: &Value) -> Result<Value, String> {
    use BinaryOperator as Op;
    let numbers = || Ok::<_, String>((left.number()?, right.number()?));
    Ok(match operator {
        Op::Eq => Value::Bool(left == right),
        Op::NotEq => Value::Bool(left != right),
        Op::And => Value::Bool(left.truth()? && right.truth()?),
        Op::Or => Value::Bool(left.truth()? || right.truth()?),
        Op::LessEq | Op::GreaterEq | Op::Less | Op::Greater => {
            let (a, b) = numbers()?;
            Value::Bool(match operator {
                Op::LessEq => a <= b,
                Op::GreaterEq => a >= b,
                Op::Less => a < b,
                _ => a > b,
            })
        }
        Op::Plus | Op::Minus | Op::Mul | Op::Div | Op::Mod => {
            let (a, b) = numbers()?;
            let result = match operator {
                Op::Plus => a + b,
                Op::Minus => a - b,
                Op::Mul => a * b,
                Op::Div => a / b,
                _ => a % b,
            };
            if !result.is_finite() {
                return Err(format!("{} {} {} has no value", number_text(a), operator.as_str(), b));
            }
            Value::Number(result)
        }
    })
}
