//! Lists and objects.

use std::collections::BTreeMap;

use super::super::value::{Value, article};
use super::numbers::count;
use super::{Answer, World};

/// Most elements that `range` and `setproduct` make.
pub(super) const MAX_LIST: usize = 100_000;

fn list(value: &Value) -> Result<&[Value], String> {
    match value {
        Value::List(list) => Ok(list),
        other => Err(format!("a list is needed, not {}", article(other.kind()))),
    }
}

pub(super) fn length(_: &World<'_>, args: &[Value]) -> Answer {
    let length = match &args[0] {
        Value::List(list) => list.len(),
        Value::Map(map) => map.len(),
        other => {
            let kind = article(other.kind());
            return Err(format!("a list or an object is needed, not {kind} (strlen is for text)"));
        }
    };
    Ok(Value::Number(length as f64))
}

pub(super) fn concat(_: &World<'_>, args: &[Value]) -> Answer {
    let mut out = Vec::new();
    for arg in args {
        out.extend_from_slice(list(arg)?);
    }
    Ok(Value::List(out))
}

pub(super) fn merge(_: &World<'_>, args: &[Value]) -> Answer {
    let mut out = BTreeMap::new();
    for arg in args.iter().filter(|arg| **arg != Value::Null) {
        out.extend(arg.entries()?.clone());
    }
    Ok(Value::Map(out))
}

pub(super) fn keys(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::strings(args[0].entries()?.keys().cloned()))
}

pub(super) fn values(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::List(args[0].entries()?.values().cloned().collect()))
}

pub(super) fn lookup(_: &World<'_>, args: &[Value]) -> Answer {
    let key = args[1].text()?;
    match (args[0].entries()?.get(&key), args.get(2)) {
        (Some(value), _) | (None, Some(value)) => Ok(value.clone()),
        (None, None) => Err(format!("there is no key {key:?}, and no default is given")),
    }
}

pub(super) fn zipmap(_: &World<'_>, args: &[Value]) -> Answer {
    let (keys, values) = (list(&args[0])?, list(&args[1])?);
    if keys.len() != values.len() {
        return Err(format!("there are {} keys and {} values", keys.len(), values.len()));
    }
    let pairs = keys.iter().zip(values).map(|(key, value)| Ok((key.text()?, value.clone())));
    Ok(Value::Map(pairs.collect::<Result<_, String>>()?))
}

pub(super) fn contains(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::Bool(args[0].elements()?.contains(&args[1])))
}

pub(super) fn element(_: &World<'_>, args: &[Value]) -> Answer {
    let list = list(&args[0])?;
    if list.is_empty() {
        return Err("the list is empty".to_owned());
    }
    // Beyond its end it begins anew; below zero it counts from there.
    let index = args[1].integer()?.rem_euclid(list.len() as i64);
    Ok(list[index as usize].clone())
}

pub(super) fn index(_: &World<'_>, args: &[Value]) -> Answer {
    match &args[0] {
        Value::Map(map) => {
            let key = args[1].text()?;
            map.get(&key).cloned().ok_or_else(|| format!("there is no key {key:?}"))
        }
        other => {
            let list = list(other)?;
            let index = count(&args[1])?;
            list.get(index)
                .cloned()
                .ok_or_else(|| format!("there is no element {index} of {}", list.len()))
        }
    }
}

pub(super) fn hasindex(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::Bool(match &args[0] {
        Value::Map(map) => args[1].text().is_ok_and(|key| map.contains_key(&key)),
        Value::List(list) => count(&args[1]).is_ok_and(|index| index < list.len()),
        other => {
            return Err(format!("a list or object is needed, not {}", article(other.kind())));
        }
    }))
}

pub(super) fn indexof(_: &World<'_>, args: &[Value]) -> Answer {
    let list = list(&args[0])?;
    if list.is_empty() {
        return Err("the list is empty".to_owned());
    }
    let found = list.iter().position(|item| *item == args[1]);
    found.map(|at| Value::Number(at as f64)).ok_or_else(|| "it is not in the list".to_owned())
}

pub(super) fn coalesce(_: &World<'_>, args: &[Value]) -> Answer {
    let found = args.iter().find(|arg| **arg != Value::Null);
    found.cloned().ok_or_else(|| "all arguments are null".to_owned())
}

pub(super) fn coalescelist(_: &World<'_>, args: &[Value]) -> Answer {
    for arg in args.iter().filter(|arg| **arg != Value::Null) {
        if !list(arg)?.is_empty() {
            return Ok(arg.clone());
        }
    }
    Err("all lists are empty".to_owned())
}

pub(super) fn compact(_: &World<'_>, args: &[Value]) -> Answer {
    let empty = |item: &&Value| !matches!(item, Value::Null) && **item != Value::from("");
    Ok(Value::List(list(&args[0])?.iter().filter(empty).cloned().collect()))
}

pub(super) fn distinct(_: &World<'_>, args: &[Value]) -> Answer {
    let mut out: Vec<Value> = Vec::new();
    for item in list(&args[0])? {
        if !out.contains(item) {
            out.push(item.clone());
        }
    }
    Ok(Value::List(out))
}

pub(super) fn flatten(_: &World<'_>, args: &[Value]) -> Answer {
    fn into(list: &[Value], out: &mut Vec<Value>) {
        for item in list {
            match item {
                Value::List(inner) => into(inner, out),
                other => out.push(other.clone()),
            }
        }
    }
    let mut out = Vec::new();
    into(list(&args[0])?, &mut out);
    Ok(Value::List(out))
}

pub(super) fn chunklist(_: &World<'_>, args: &[Value]) -> Answer {
    let list = list(&args[0])?;
    let size = count(&args[1])?;
    // Zero means one chunk, as in cty.
    let size = if size == 0 { list.len().max(1) } else { size };
    Ok(Value::List(list.chunks(size).map(|chunk| Value::List(chunk.to_vec())).collect()))
}

pub(super) fn reverselist(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::List(list(&args[0])?.iter().rev().cloned().collect()))
}

pub(super) fn slice(_: &World<'_>, args: &[Value]) -> Answer {
    let list = list(&args[0])?;
    let start = count(&args[1])?;
    let end = args.get(2).map_or(Ok(list.len()), count)?;
    let part = list.get(start..end);
    part.map(|part| Value::List(part.to_vec()))
        .ok_or_else(|| format!("there is no part from {start} to {end} of {}", list.len()))
}

pub(super) fn sort(_: &World<'_>, args: &[Value]) -> Answer {
    let texts: Result<Vec<String>, String> = list(&args[0])?.iter().map(Value::text).collect();
    let mut texts = texts?;
    texts.sort();
    Ok(Value::strings(texts))
}

pub(super) fn range(_: &World<'_>, args: &[Value]) -> Answer {
    let number = |index: usize| args[index].number();
    let (start, end) = match args.len() {
        1 => (0.0, number(0)?),
        _ => (number(0)?, number(1)?),
    };
    let step = match args.len() {
        3 => number(2)?,
        _ if end < start => -1.0,
        _ => 1.0,
    };
    if step == 0.0 || (end - start) * step < 0.0 {
        return Err(format!("from {start} to {end} by {step} has no end"));
    }
    let mut out = Vec::new();
    let mut next = start;
    while (step > 0.0 && next < end) || (step < 0.0 && next > end) {
        if out.len() >= MAX_LIST {
            return Err(format!("a range has {MAX_LIST} elements at most"));
        }
        out.push(Value::Number(next));
        next += step;
    }
    Ok(Value::List(out))
}
