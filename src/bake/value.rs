//! Values of the bake language, and how they turn into each other (cty: `convert`).

use std::collections::BTreeMap;
use std::fmt;

/// A value. Lists, sets and tuples are one kind here, and so are maps and objects: bake files can
/// not tell them apart, except by the functions for sets, which sort and drop what is there twice.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`: an attribute that is null counts as not given.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(f64),
    /// Text.
    String(String),
    /// `[…]`.
    List(Vec<Value>),
    /// `{…}`, in the order of its keys.
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// Says what it is, in the language's words.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "bool",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::List(_) => "list",
            Value::Map(_) => "object",
        }
    }

    /// Makes a list of strings.
    pub fn strings<S: Into<String>>(list: impl IntoIterator<Item = S>) -> Value {
        Value::List(list.into_iter().map(|text| Value::String(text.into())).collect())
    }

    /// Gives it as text, as `"${…}"` does; lists, objects and null have none.
    pub fn text(&self) -> Result<String, String> {
        match self {
            Value::String(text) => Ok(text.clone()),
            Value::Bool(value) => Ok(value.to_string()),
            Value::Number(value) => Ok(number_text(*value)),
            other => Err(format!("a string is needed, not {}", article(other.kind()))),
        }
    }

    /// Gives it as a number; text that is one is taken.
    pub fn number(&self) -> Result<f64, String> {
        match self {
            Value::Number(value) => Ok(*value),
            Value::String(text) => parse_number(text)
                .ok_or_else(|| format!("a number is needed, and {text:?} is none")),
            other => Err(format!("a number is needed, not {}", article(other.kind()))),
        }
    }

    /// Gives it as a whole number.
    pub fn integer(&self) -> Result<i64, String> {
        let number = self.number()?;
        if number.fract() != 0.0 || number.abs() > 9.0e15 {
            return Err(format!("a whole number is needed, not {}", number_text(number)));
        }
        Ok(number as i64)
    }

    /// Gives it as truth; the texts `true` and `false` are taken.
    pub fn truth(&self) -> Result<bool, String> {
        match self {
            Value::Bool(value) => Ok(*value),
            Value::String(text) => match text.as_str() {
                "true" | "1" => Ok(true),
                "false" | "0" => Ok(false),
                _ => Err(format!("true or false is needed, not {text:?}")),
            },
            other => Err(format!("true or false is needed, not {}", article(other.kind()))),
        }
    }

    /// Gives the elements of a list, or the values of an object.
    pub fn elements(&self) -> Result<Vec<Value>, String> {
        match self {
            Value::List(list) => Ok(list.clone()),
            Value::Map(map) => Ok(map.values().cloned().collect()),
            other => Err(format!("a list is needed, not {}", article(other.kind()))),
        }
    }

    /// Gives the entries of an object.
    pub fn entries(&self) -> Result<&BTreeMap<String, Value>, String> {
        match self {
            Value::Map(map) => Ok(map),
            other => Err(format!("an object is needed, not {}", article(other.kind()))),
        }
    }

    /// Writes it as JSON; whole numbers without a point.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Null => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Number(value) if value.fract() == 0.0 && value.abs() < 9.0e15 => {
                (*value as i64).into()
            }
            Value::Number(value) => (*value).into(),
            Value::String(text) => text.clone().into(),
            Value::List(list) => list.iter().map(Value::to_json).collect(),
            Value::Map(map) => {
                let entries = map.iter().map(|(key, value)| (key.clone(), value.to_json()));
                serde_json::Value::Object(entries.collect())
            }
        }
    }

    /// Reads JSON.
    pub fn from_json(json: &serde_json::Value) -> Value {
        match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(value) => Value::Number(value.as_f64().unwrap_or_default()),
            serde_json::Value::String(text) => Value::String(text.clone()),
            serde_json::Value::Array(list) => {
                Value::List(list.iter().map(Value::from_json).collect())
            }
            serde_json::Value::Object(map) => Value::Map(
                map.iter().map(|(key, value)| (key.clone(), Value::from_json(value))).collect(),
            ),
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.to_owned())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Ok(text) => f.write_str(&text),
            Err(_) => write!(f, "{}", self.to_json()),
        }
    }
}

/// Puts `a` or `an` in front of a kind.
pub fn article(kind: &str) -> String {
    match kind {
        "null" => kind.to_owned(),
        "object" => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}

/// Writes a number the shortest way.
pub fn number_text(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 9.0e15 {
        format!("{}", value as i64)
    } else {
        format!("{value}")
    }
}

/// Reads a number as the language writes them.
pub fn parse_number(text: &str) -> Option<f64> {
    text.trim().parse::<f64>().ok().filter(|value| value.is_finite())
}
