//! Numbers and truth.

use super::super::value::{Value, number_text};
use super::{Answer, World};

fn number(value: f64) -> Answer {
    if value.is_finite() {
        Ok(Value::Number(value))
    } else {
        Err("the result is no finite number".to_owned())
    }
}

fn two(args: &[Value]) -> Result<(f64, f64), String> {
    Ok((args[0].number()?, args[1].number()?))
}

pub(super) fn absolute(_: &World<'_>, args: &[Value]) -> Answer {
    number(args[0].number()?.abs())
}

pub(super) fn add(_: &World<'_>, args: &[Value]) -> Answer {
    two(args).and_then(|(a, b)| number(a + b))
}

pub(super) fn subtract(_: &World<'_>, args: &[Value]) -> Answer {
    two(args).and_then(|(a, b)| number(a - b))
}

pub(super) fn multiply(_: &World<'_>, args: &[Value]) -> Answer {
    two(args).and_then(|(a, b)| number(a * b))
}

pub(super) fn divide(_: &World<'_>, args: &[Value]) -> Answer {
    two(args).and_then(|(a, b)| number(a / b))
}

pub(super) fn modulo(_: &World<'_>, args: &[Value]) -> Answer {
    two(args).and_then(|(a, b)| number(a % b))
}

pub(super) fn pow(_: &World<'_>, args: &[Value]) -> Answer {
    two(args).and_then(|(a, b)| number(a.powf(b)))
}

pub(super) fn log(_: &World<'_>, args: &[Value]) -> Answer {
    let (value, base) = two(args)?;
    // Exact for the bases that are exact.
    number(match base {
        2.0 => value.log2(),
        10.0 => value.log10(),
        base => value.ln() / base.ln(),
    })
}

pub(super) fn negate(_: &World<'_>, args: &[Value]) -> Answer {
    number(-args[0].number()?)
}

pub(super) fn ceil(_: &World<'_>, args: &[Value]) -> Answer {
    number(args[0].number()?.ceil())
}

pub(super) fn floor(_: &World<'_>, args: &[Value]) -> Answer {
    number(args[0].number()?.floor())
}

pub(super) fn int(_: &World<'_>, args: &[Value]) -> Answer {
    number(args[0].number()?.trunc())
}

pub(super) fn signum(_: &World<'_>, args: &[Value]) -> Answer {
    let value = args[0].number()?;
    number(if value == 0.0 { 0.0 } else { value.signum() })
}

pub(super) fn max(_: &World<'_>, args: &[Value]) -> Answer {
    extreme(args, f64::max)
}

pub(super) fn min(_: &World<'_>, args: &[Value]) -> Answer {
    extreme(args, f64::min)
}

fn extreme(args: &[Value], choose: fn(f64, f64) -> f64) -> Answer {
    let mut best = args[0].number()?;
    for arg in &args[1..] {
        best = choose(best, arg.number()?);
    }
    number(best)
}

pub(super) fn parseint(_: &World<'_>, args: &[Value]) -> Answer {
    let text = args[0].text()?;
    let base = args[1].integer()?;
    let base = u32::try_from(base)
        .ok()
        .filter(|base| (2..=36).contains(base))
        .ok_or_else(|| format!("the base is 2 to 36, not {base}"))?;
    let parsed = i64::from_str_radix(&text, base);
    let parsed = parsed.map_err(|_| format!("{text:?} is no whole number of base {base}"))?;
    number(parsed as f64)
}

pub(super) fn equal(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::Bool(args[0] == args[1]))
}

pub(super) fn notequal(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::Bool(args[0] != args[1]))
}

pub(super) fn greaterthan(_: &World<'_>, args: &[Value]) -> Answer {
    two(args).map(|(a, b)| Value::Bool(a > b))
}

pub(super) fn greaterthanorequalto(_: &World<'_>, args: &[Value]) -> Answer {
    two(args).map(|(a, b)| Value::Bool(a >= b))
}

pub(super) fn lessthan(_: &World<'_>, args: &[Value]) -> Answer {
    two(args).map(|(a, b)| Value::Bool(a < b))
}

pub(super) fn lessthanorequalto(_: &World<'_>, args: &[Value]) -> Answer {
    two(args).map(|(a, b)| Value::Bool(a <= b))
}

pub(super) fn and(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::Bool(args[0].truth()? && args[1].truth()?))
}

pub(super) fn or(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::Bool(args[0].truth()? || args[1].truth()?))
}

pub(super) fn not(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::Bool(!args[0].truth()?))
}

/// Gives a whole number that is an index or a count.
pub(super) fn count(value: &Value) -> Result<usize, String> {
    let number = value.integer()?;
    usize::try_from(number).map_err(|_| format!("{} is less than zero", number_text(number as f64)))
}
