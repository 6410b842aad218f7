//! `type = list(string)`: the types of variables, and how values are made to fit.

use std::collections::BTreeMap;

use hcl_edit::expr::{Expression, ObjectKey};

use super::error::{Error, FileId, Result};
use super::syntax::place_of;
use super::value::{Value, article};

/// A type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// `any`
    Any,
    /// `string`
    String,
    /// `number`
    Number,
    /// `bool`
    Bool,
    /// `list(…)`
    List(Box<Type>),
    /// `set(…)`
    Set(Box<Type>),
    /// `map(…)`
    Map(Box<Type>),
    /// `tuple([…])`
    Tuple(Vec<Type>),
    /// `object({…})`: type and whether it may be left out.
    Object(BTreeMap<String, (Type, bool)>),
}

impl Type {
    /// Says it as users write it.
    pub fn name(&self) -> String {
        match self {
            Type::Any => "any".to_owned(),
            Type::String => "string".to_owned(),
            Type::Number => "number".to_owned(),
            Type::Bool => "bool".to_owned(),
            Type::List(inner) => format!("list of {}", inner.name()),
            Type::Set(inner) => format!("set of {}", inner.name()),
            Type::Map(inner) => format!("map of {}", inner.name()),
            Type::Tuple(_) => "tuple".to_owned(),
            Type::Object(_) => "object".to_owned(),
        }
    }
}

/// Reads a type expression.
pub fn parse(file: FileId, expr: &Expression) -> Result<Type> {
    let at = place_of(file, expr);
    let wrong = |what: String| {
        Error::at("E0708", at, what).with_help(
            "types are string, number, bool, any, list(T), set(T), map(T), tuple([T, …]) and object({name = T})",
        )
    };
    match expr {
        Expression::Variable(name) => match name.as_str() {
            "any" => Ok(Type::Any),
            "string" => Ok(Type::String),
            "number" => Ok(Type::Number),
            "bool" => Ok(Type::Bool),
            other => Err(wrong(format!("there is no type {other:?}"))),
        },
        Expression::Parenthesis(inner) => parse(file, inner.inner()),
        Expression::FuncCall(call) => {
            let args: Vec<&Expression> = call.args.iter().collect();
            let name = call.name.name.as_str();
            let [arg] = args[..] else {
                return Err(wrong(format!("{name} takes one type")));
            };
            match (name, arg) {
                ("list", arg) => Ok(Type::List(Box::new(parse(file, arg)?))),
                ("set", arg) => Ok(Type::Set(Box::new(parse(file, arg)?))),
                ("map", arg) => Ok(Type::Map(Box::new(parse(file, arg)?))),
                ("tuple", Expression::Array(list)) => list
                    .iter()
                    .map(|item| parse(file, item))
                    .collect::<Result<_>>()
                    .map(Type::Tuple),
                ("object", Expression::Object(object)) => {
                    let mut fields = BTreeMap::new();
                    for (key, value) in object.iter() {
                        let name = match key {
                            ObjectKey::Ident(name) => name.to_string(),
                            ObjectKey::Expression(Expression::String(name)) => name.to_string(),
                            ObjectKey::Expression(Expression::Variable(name)) => name.to_string(),
                            ObjectKey::Expression(_) => {
                                return Err(wrong("an attribute of object() is a name".to_owned()));
                            }
                        };
                        let field = match value.expr() {
                            Expression::FuncCall(call) if call.name.name.as_str() == "optional" => {
                                let first = call
                                    .args
                                    .iter()
                                    .next()
                                    .ok_or_else(|| wrong("optional takes a type".to_owned()))?;
                                (parse(file, first)?, true)
                            }
                            other => (parse(file, other)?, false),
                        };
                        fields.insert(name, field);
                    }
                    Ok(Type::Object(fields))
                }
                _ => Err(wrong(format!("there is no type {name}(…)"))),
            }
        }
        _ => Err(wrong("this is no type".to_owned())),
    }
}

/// Makes a value fit a type, or says why it does not.
pub fn convert(value: &Value, kind: &Type) -> Result<Value, String> {
    if *value == Value::Null {
        return Ok(Value::Null);
    }
    Ok(match kind {
        Type::Any => value.clone(),
        Type::String => Value::String(value.text()?),
        Type::Number => Value::Number(value.number()?),
        Type::Bool => Value::Bool(value.truth()?),
        Type::List(inner) | Type::Set(inner) => {
            let Value::List(list) = value else {
                return Err(format!("{} is needed, not {}", kind.name(), article(value.kind())));
            };
            let mut out = Vec::new();
            for item in list {
                let item = convert(item, inner)?;
                if !(matches!(kind, Type::Set(_)) && out.contains(&item)) {
                    out.push(item);
                }
            }
            Value::List(out)
        }
        Type::Map(inner) => {
            let map = value.entries()?.iter();
            let map = map.map(|(key, item)| Ok((key.clone(), convert(item, inner)?)));
            Value::Map(map.collect::<Result<_, String>>()?)
        }
        Type::Tuple(types) => {
            let Value::List(list) = value else {
                return Err(format!("a tuple is needed, not {}", article(value.kind())));
            };
            if list.len() != types.len() {
                return Err(format!("{} elements are needed, not {}", types.len(), list.len()));
            }
            let list = list.iter().zip(types).map(|(item, kind)| convert(item, kind));
            Value::List(list.collect::<Result<_, String>>()?)
        }
        Type::Object(fields) => {
            let map = value.entries()?;
            let mut out = BTreeMap::new();
            for (name, (kind, optional)) in fields {
                let item = match map.get(name) {
                    Some(item) => {
                        convert(item, kind).map_err(|error| format!("{name}: {error}"))?
                    }
                    None if *optional => Value::Null,
                    None => return Err(format!("the attribute {name:?} is missing")),
                };
                out.insert(name.clone(), item);
            }
            Value::Map(out)
        }
    })
}

/// Reads the text of an environment variable as a value of a type: lists as CSV, maps as
/// `key:value` in CSV.
pub fn from_text(name: &str, text: &str, kind: &Type) -> Result<Value, String> {
    let fields = || super::csv::record(text).map_err(|error| format!("{name}: {error}"));
    match kind {
        Type::Any | Type::String => Ok(Value::String(text.to_owned())),
        Type::Number => super::value::parse_number(text)
            .map(Value::Number)
            .ok_or_else(|| format!("{name}={text} is no number")),
        Type::Bool => match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(format!("{name}={text} is neither true nor false")),
        },
        Type::List(inner) | Type::Set(inner) => {
            let list: Result<Vec<Value>, String> =
                fields()?.iter().map(|field| from_text(name, field, inner)).collect();
            convert(&Value::List(list?), kind)
        }
        Type::Tuple(types) => {
            let fields = fields()?;
            if fields.len() != types.len() {
                return Err(format!("{name} has {} elements, not {}", types.len(), fields.len()));
            }
            let list = fields.iter().zip(types).map(|(field, kind)| from_text(name, field, kind));
            Ok(Value::List(list.collect::<Result<_, String>>()?))
        }
        Type::Map(inner) => {
            let mut map = BTreeMap::new();
            for field in fields()? {
                let (key, value) = field
                    .split_once(':')
                    .ok_or_else(|| format!("{name}: {field:?} is no key:value"))?;
                map.insert(key.to_owned(), from_text(name, value, inner)?);
            }
            Ok(Value::Map(map))
        }
        Type::Object(_) => {
            Err(format!("{name} is an object: give it as JSON in the variable {name}_JSON"))
        }
    }
}
