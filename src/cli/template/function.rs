//! The functions of templates, and how Go prints and weighs values.

use base64::Engine as _;
use serde_json::Value;

use super::{Result, error};

/// Go's notion of what is not empty.
pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(yes) => *yes,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// Prints a value as Go does.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(shown).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let items: Vec<String> =
                map.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect();
            format!("map[{}]", items.join(" "))
        }
        other => other.to_string(),
    }
}

/// Calls a function.
pub(super) fn call(name: &str, arguments: Vec<Value>) -> Result<Value> {
    let wants = |count: usize| match arguments.len() == count {
        true => Ok(()),
        false => error(format!("{name} takes {count} arguments, not {}", arguments.len())),
    };
    let text = |at: usize| arguments.get(at).map(shown).unwrap_or_default();
    Ok(match name {
        "json" => {
            wants(1)?;
            arguments[0].to_string().into()
        }
        "len" => {
            wants(1)?;
            match &arguments[0] {
                Value::Array(list) => list.len().into(),
                Value::Object(map) => map.len().into(),
                Value::String(text) => text.len().into(),
                Value::Null => 0.into(),
                other => return error(format!("{other} has no length")),
            }
        }
        "index" => index(&arguments)?,
        "join" => {
            wants(2)?;
            match &arguments[0] {
                Value::Array(list) => {
                    list.iter().map(shown).collect::<Vec<_>>().join(&text(1)).into()
                }
                Value::Null => "".into(),
                other => return error(format!("join needs a list, not {other}")),
            }
        }
        "split" => {
            wants(2)?;
            text(0).split(&text(1)).collect::<Vec<_>>().into()
        }
        "slice" => {
            let whole = text(0);
            let at = |at: usize, default: usize| match arguments.get(at) {
                None => Some(default),
                Some(value) => usize::try_from(value.as_u64()?).ok(),
            };
            match (at(1, 0), at(2, whole.len())) {
                (Some(from), Some(to)) => match whole.get(from..to) {
                    Some(part) => part.into(),
                    None => return error(format!("slice {from} {to} is out of {whole:?}")),
                },
                _ => return error("slice takes a text and positions"),
            }
        }
        "upper" | "lower" | "title" | "trim" => {
            wants(1)?;
            let text = text(0);
            match name {
                "upper" => text.to_uppercase(),
                "lower" => text.to_lowercase(),
                "trim" => text.trim().to_owned(),
                _ => {
                    let mut chars = text.chars();
                    let first = chars.next().map(|c| c.to_uppercase().to_string());
                    first.unwrap_or_default() + chars.as_str()
                }
            }
            .into()
        }
        "b64enc" => {
            wants(1)?;
            if arguments[0].is_null() {
                return error("b64enc has no value to encode");
            }
            base64::engine::general_purpose::STANDARD.encode(text(0)).into()
        }
        "print" => arguments.iter().map(shown).collect::<String>().into(),
        "println" => (arguments.iter().map(shown).collect::<Vec<_>>().join(" ") + "\n").into(),
        "printf" => printf(&text(0), arguments.get(1..).unwrap_or_default())?.into(),
        "not" => {
            wants(1)?;
            (!truth(&arguments[0])).into()
        }
        "and" => {
            let first = arguments.iter().find(|value| !truth(value));
            first.or(arguments.last()).cloned().unwrap_or_default()
        }
        "or" => {
            let first = arguments.iter().find(|value| truth(value));
            first.or(arguments.last()).cloned().unwrap_or_default()
        }
        "eq" => match arguments.split_first() {
            Some((first, rest)) if !rest.is_empty() => rest.contains(first).into(),
            _ => return error("eq takes two arguments or more"),
        },
        "ne" => {
            wants(2)?;
            (arguments[0] != arguments[1]).into()
        }
        "lt" | "le" | "gt" | "ge" => {
            wants(2)?;
            let order = match (arguments[0].as_f64(), arguments[1].as_f64()) {
                (Some(a), Some(b)) => a.total_cmp(&b),
                _ => text(0).cmp(&text(1)),
            };
            match name {
                "lt" => order.is_lt(),
                "le" => order.is_le(),
                "gt" => order.is_gt(),
                _ => order.is_ge(),
            }
            .into()
        }
        _ => return error(format!("there is no function {name}")),
    })
}

fn index(arguments: &[Value]) -> Result<Value> {
    let Some((first, keys)) = arguments.split_first() else {
        return error("index takes a list or an object");
    };
    let mut value = first.clone();
    for key in keys {
        let found = match (&mut value, key) {
            (Value::Array(list), key) => {
                let at = key.as_u64().and_then(|at| usize::try_from(at).ok());
                let count = list.len();
                match at.and_then(|at| list.get_mut(at)) {
                    Some(item) => item.take(),
                    None => return error(format!("there is no element {key} of {count}")),
                }
            }
            // As of Go's map of strings: what is not there is empty.
            (Value::Object(map), key) => {
                map.get_mut(&shown(key)).map_or_else(|| Value::from(""), Value::take)
            }
            (Value::Null, _) => Value::from(""),
            (other, _) => return error(format!("{other} has no elements")),
        };
        value = found;
    }
    Ok(value)
}

fn printf(format: &str, arguments: &[Value]) -> Result<String> {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut spec = String::new();
        let verb = loop {
            match chars.next() {
                Some(c) if c == '-' || c == '.' || c.is_ascii_digit() => spec.push(c),
                Some(c) => break c,
                None => return error(format!("{format:?} ends within a verb")),
            }
        };
        if verb == '%' {
            out.push('%');
            continue;
        }
        let Some(value) = arguments.next() else {
            return error(format!("{format:?} has more verbs than there are values"));
        };
        let text = match verb {
            's' | 'v' | 'd' => shown(value),
            'q' => Value::from(shown(value)).to_string(),
            't' => truth(value).to_string(),
            _ => return error(format!("%{verb} is not supported (%s %v %d %q %t are)")),
        };
        let (left, width) = match spec.strip_prefix('-') {
            Some(width) => (true, width),
            None => (false, spec.as_str()),
        };
        let (width, most) = width.split_once('.').unwrap_or((width, ""));
        let text: String = match most.parse::<usize>() {
            Ok(most) => text.chars().take(most).collect(),
            Err(_) => text,
        };
        // No terminal is wider, and no typing error makes gigabytes.
        let width = width.parse::<usize>().unwrap_or(0).min(4096);
        match left {
            true => out.push_str(&format!("{text:<width$}")),
            false => out.push_str(&format!("{text:>width$}")),
        }
    }
    Ok(out)
}
