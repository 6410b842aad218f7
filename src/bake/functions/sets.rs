//! Lists as sets: each element once, in order.

use super::super::value::Value;
use super::lists::MAX_LIST;
use super::{Answer, World};

/// Makes a set of a list: sorted, each element once.
fn set(value: &Value) -> Result<Vec<Value>, String> {
    let mut out: Vec<Value> = Vec::new();
    for item in value.elements()? {
        if !out.contains(&item) {
            out.push(item);
        }
    }
    sort(&mut out);
    Ok(out)
}

/// Sorts as cty does: numbers by size, all else by its text.
fn sort(list: &mut [Value]) {
    list.sort_by(|a, b| match (a, b) {
        (Value::Number(a), Value::Number(b)) => a.total_cmp(b),
        _ => a.to_string().cmp(&b.to_string()),
    });
}

pub(super) fn sethaselement(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::Bool(set(&args[0])?.contains(&args[1])))
}

pub(super) fn setintersection(_: &World<'_>, args: &[Value]) -> Answer {
    let mut out = set(&args[0])?;
    for arg in &args[1..] {
        let other = set(arg)?;
        out.retain(|item| other.contains(item));
    }
    Ok(Value::List(out))
}

pub(super) fn setunion(_: &World<'_>, args: &[Value]) -> Answer {
    let mut all = Vec::new();
    for arg in args {
        all.extend(set(arg)?);
    }
    set(&Value::List(all)).map(Value::List)
}

pub(super) fn setsubtract(_: &World<'_>, args: &[Value]) -> Answer {
    let other = set(&args[1])?;
    let mut out = set(&args[0])?;
    out.retain(|item| !other.contains(item));
    Ok(Value::List(out))
}

pub(super) fn setsymmetricdifference(_: &World<'_>, args: &[Value]) -> Answer {
    let mut out = set(&args[0])?;
    for arg in &args[1..] {
        let other = set(arg)?;
        let added: Vec<Value> = other.iter().filter(|item| !out.contains(item)).cloned().collect();
        out.retain(|item| !other.contains(item));
        out.extend(added);
    }
    sort(&mut out);
    Ok(Value::List(out))
}

pub(super) fn setproduct(_: &World<'_>, args: &[Value]) -> Answer {
    let mut out: Vec<Vec<Value>> = vec![Vec::new()];
    for arg in args {
        let items = arg.elements()?;
        if out.len().saturating_mul(items.len()) > MAX_LIST {
            return Err(format!("a product has {MAX_LIST} elements at most"));
        }
        out = out
            .iter()
            .flat_map(|row| {
                items.iter().map(move |item| {
                    let mut row = row.clone();
                    row.push(item.clone());
                    row
                })
            })
            .collect();
    }
    Ok(Value::List(out.into_iter().map(Value::List).collect()))
}
