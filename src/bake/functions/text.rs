//! Text: case, parts, patterns, formats.

use std::collections::BTreeMap;

use regex_lite::Regex;

use super::super::value::{Value, number_text};
use super::numbers::count;
use super::{Answer, World};

/// Largest text that `indent`, `replace` and `format` make, bytes.
const MAX_TEXT: usize = 4 << 20;

fn string(text: impl Into<String>) -> Answer {
    Ok(Value::String(text.into()))
}

pub(super) fn upper(_: &World<'_>, args: &[Value]) -> Answer {
    string(args[0].text()?.to_uppercase())
}

pub(super) fn lower(_: &World<'_>, args: &[Value]) -> Answer {
    string(args[0].text()?.to_lowercase())
}

pub(super) fn title(_: &World<'_>, args: &[Value]) -> Answer {
    let mut out = String::new();
    let mut inside = false;
    for char in args[0].text()?.chars() {
        if inside {
            out.push(char);
        } else {
            out.extend(char.to_uppercase());
        }
        inside = char.is_alphanumeric() || char == '_' || char == '\'';
    }
    string(out)
}

pub(super) fn reverse(_: &World<'_>, args: &[Value]) -> Answer {
    string(args[0].text()?.chars().rev().collect::<String>())
}

pub(super) fn strlen(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::Number(args[0].text()?.chars().count() as f64))
}

pub(super) fn byteslen(_: &World<'_>, args: &[Value]) -> Answer {
    Ok(Value::Number(args[0].text()?.len() as f64))
}

pub(super) fn bytesslice(_: &World<'_>, args: &[Value]) -> Answer {
    let text = args[0].text()?;
    let (start, length) = (count(&args[1])?, count(&args[2])?);
    let end = start.saturating_add(length);
    let part = text.get(start..end);
    let part = part.ok_or_else(|| format!("there are no characters at {start} to {end}"))?;
    string(part)
}

pub(super) fn substr(_: &World<'_>, args: &[Value]) -> Answer {
    let text: Vec<char> = args[0].text()?.chars().collect();
    let (start, length) = (args[1].integer()?, args[2].integer()?);
    // A start below zero counts from the end; a length below zero takes the rest.
    let start = if start < 0 { text.len() as i64 + start } else { start };
    let start = usize::try_from(start).unwrap_or(0).min(text.len());
    let left = text.len() - start;
    let length = usize::try_from(length).unwrap_or(left).min(left);
    string(text[start..start + length].iter().collect::<String>())
}

pub(super) fn trim(_: &World<'_>, args: &[Value]) -> Answer {
    let cut: Vec<char> = args[1].text()?.chars().collect();
    string(args[0].text()?.trim_matches(&cut[..]))
}

pub(super) fn trimprefix(_: &World<'_>, args: &[Value]) -> Answer {
    let (text, prefix) = (args[0].text()?, args[1].text()?);
    string(text.strip_prefix(&prefix).unwrap_or(&text))
}

pub(super) fn trimsuffix(_: &World<'_>, args: &[Value]) -> Answer {
    let (text, suffix) = (args[0].text()?, args[1].text()?);
    string(text.strip_suffix(&suffix).unwrap_or(&text))
}

pub(super) fn trimspace(_: &World<'_>, args: &[Value]) -> Answer {
    string(args[0].text()?.trim())
}

pub(super) fn chomp(_: &World<'_>, args: &[Value]) -> Answer {
    string(args[0].text()?.trim_end_matches(['\r', '\n']))
}

pub(super) fn indent(_: &World<'_>, args: &[Value]) -> Answer {
    let (spaces, text) = (count(&args[0])?, args[1].text()?);
    let lines = text.matches('\n').count();
    if spaces.saturating_mul(lines) > MAX_TEXT {
        return Err("the text would be too large".to_owned());
    }
    string(text.replace('\n', &format!("\n{}", " ".repeat(spaces))))
}

pub(super) fn basename(_: &World<'_>, args: &[Value]) -> Answer {
    let text = args[0].text()?;
    let trimmed = text.trim_end_matches('/');
    string(match (text.is_empty(), trimmed.is_empty()) {
        (true, _) => ".",
        (false, true) => "/",
        _ => trimmed.rsplit('/').next().unwrap_or_default(),
    })
}

pub(super) fn dirname(_: &World<'_>, args: &[Value]) -> Answer {
    let text = args[0].text()?;
    let Some((dir, _)) = text.rsplit_once('/') else { return string(".") };
    let absolute = text.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in dir.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if absolute => {}
            part => parts.push(part),
        }
    }
    match (absolute, parts.is_empty()) {
        (true, _) => string(format!("/{}", parts.join("/"))),
        (false, true) => string("."),
        (false, false) => string(parts.join("/")),
    }
}

pub(super) fn homedir(world: &World<'_>, _: &[Value]) -> Answer {
    world.home.clone().map(Value::String).ok_or_else(|| "HOME is not set".to_owned())
}

pub(super) fn sanitize(_: &World<'_>, args: &[Value]) -> Answer {
    let keep = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '-';
    string(args[0].text()?.replace(|char| !keep(char), "_"))
}

pub(super) fn join(_: &World<'_>, args: &[Value]) -> Answer {
    let separator = args[0].text()?;
    let mut parts = Vec::new();
    for list in &args[1..] {
        for item in list.elements()? {
            parts.push(item.text()?);
        }
    }
    string(parts.join(&separator))
}

pub(super) fn split(_: &World<'_>, args: &[Value]) -> Answer {
    let (separator, text) = (args[0].text()?, args[1].text()?);
    if separator.is_empty() {
        return Ok(Value::strings(text.chars().map(String::from)));
    }
    Ok(Value::strings(text.split(&separator)))
}

pub(super) fn replace(_: &World<'_>, args: &[Value]) -> Answer {
    let (text, from, to) = (args[0].text()?, args[1].text()?, args[2].text()?);
    if text.matches(&from).count().saturating_mul(to.len()) > MAX_TEXT {
        return Err("the text would be too large".to_owned());
    }
    string(text.replace(&from, &to))
}

fn pattern(value: &Value) -> Result<Regex, String> {
    let text = value.text()?;
    let compiled = regex_lite::RegexBuilder::new(&text).size_limit(1 << 20).build();
    compiled.map_err(|error| {
        let error = error.to_string();
        let last = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        format!("the pattern {text:?} is wrong: {last}")
    })
}

pub(super) fn regex_replace(_: &World<'_>, args: &[Value]) -> Answer {
    let (text, pattern, to) = (args[0].text()?, pattern(&args[1])?, args[2].text()?);
    if pattern.find_iter(&text).count().saturating_mul(to.len() + 1) > MAX_TEXT {
        return Err("the text would be too large".to_owned());
    }
    string(pattern.replace_all(&text, to.as_str()))
}

/// Gives a match as cty does: the text, or the groups as a list, or the named groups as an object.
fn matched(pattern: &Regex, found: &regex_lite::Captures<'_>) -> Value {
    let group = |index: usize| {
        found.get(index).map_or(Value::Null, |text| Value::String(text.as_str().to_owned()))
    };
    if pattern.captures_len() == 1 {
        return group(0);
    }
    let named: BTreeMap<String, Value> = pattern
        .capture_names()
        .enumerate()
        .filter_map(|(index, name)| Some((name?.to_owned(), group(index))))
        .collect();
    if named.is_empty() {
        Value::List((1..pattern.captures_len()).map(group).collect())
    } else {
        Value::Map(named)
    }
}

pub(super) fn regex(_: &World<'_>, args: &[Value]) -> Answer {
    let (pattern, text) = (pattern(&args[0])?, args[1].text()?);
    let found = pattern.captures(&text);
    let found = found.ok_or_else(|| "the pattern did not match any part of the text".to_owned())?;
    Ok(matched(&pattern, &found))
}

pub(super) fn regexall(_: &World<'_>, args: &[Value]) -> Answer {
    let (pattern, text) = (pattern(&args[0])?, args[1].text()?);
    Ok(Value::List(pattern.captures_iter(&text).map(|found| matched(&pattern, &found)).collect()))
}

pub(super) fn format(_: &World<'_>, args: &[Value]) -> Answer {
    formatted(&args[0].text()?, &args[1..]).map(Value::String)
}

pub(super) fn formatlist(_: &World<'_>, args: &[Value]) -> Answer {
    let template = args[0].text()?;
    let lengths: Vec<usize> = args[1..]
        .iter()
        .filter_map(|arg| match arg {
            Value::List(list) => Some(list.len()),
            _ => None,
        })
        .collect();
    let length = lengths.first().copied().unwrap_or(1);
    if lengths.iter().any(|other| *other != length) {
        return Err("the lists have different lengths".to_owned());
    }
    let row = |index: usize| {
        let row: Vec<Value> = args[1..]
            .iter()
            .map(|arg| match arg {
                Value::List(list) => list[index].clone(),
                other => other.clone(),
            })
            .collect();
        formatted(&template, &row).map(Value::String)
    };
    Ok(Value::List((0..length).map(row).collect::<Result<_, String>>()?))
}

/// One `%[flags][width][.precision][[index]]verb`.
#[derive(Default)]
struct Verb {
    flags: String,
    width: Option<usize>,
    precision: Option<usize>,
    index: Option<usize>,
}

/// Formats as cty's `format`: Go's verbs %v %#v %t %b %d %o %x %X %e %f %g %s %q.
fn formatted(template: &str, args: &[Value]) -> Result<String, String> {
    let mut out = String::new();
    let mut next = 0;
    let mut indexed = false;
    let mut chars = template.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '%' {
            out.push(char);
            continue;
        }
        let mut verb = Verb::default();
        while let Some(flag) = chars.next_if(|char| "+-# 0".contains(*char)) {
            verb.flags.push(flag);
        }
        let number = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            // A larger one would be a bomb, and nothing that anybody wants to read.
            match digits.parse::<usize>() {
                Ok(number) if number > 10_000 => Err(format!("{digits} is too large in a format")),
                Ok(number) => Ok(Some(number)),
                Err(_) if digits.is_empty() => Ok(None),
                Err(_) => Err(format!("{digits} is too large in a format")),
            }
        };
        verb.width = number(&mut chars)?;
        if chars.next_if_eq(&'.').is_some() {
            verb.precision = Some(number(&mut chars)?.unwrap_or(0));
        }
        if chars.next_if_eq(&'[').is_some() {
            verb.index = number(&mut chars)?;
            if chars.next() != Some(']') || verb.index.is_none_or(|index| index == 0) {
                return Err("an index is written %[1]s, from 1".to_owned());
            }
            indexed = true;
        }
        let Some(kind) = chars.next() else {
            return Err("the format ends after %; write %% for a percent sign".to_owned());
        };
        if kind == '%' {
            out.push('%');
            continue;
        }
        let index = verb.index.map_or(next, |index| index - 1);
        next = index + 1;
        let value = args.get(index).ok_or_else(|| {
            format!("there are {} values, and %{kind} needs number {}", args.len(), index + 1)
        })?;
        out.push_str(&verb.write(kind, value)?);
        if out.len() > MAX_TEXT {
            return Err("the text would be too large".to_owned());
        }
    }
    if next < args.len() && !indexed {
        return Err(format!("there are {} values, and the format takes {next}", args.len()));
    }
    Ok(out)
}

impl Verb {
    fn has(&self, flag: char) -> bool {
        self.flags.contains(flag)
    }

    fn write(&self, kind: char, value: &Value) -> Result<String, String> {
        let body = match kind {
            'v' if self.has('#') => value.to_json().to_string(),
            'v' => value.to_string(),
            's' => self.cut(value.text()?),
            'q' => serde_json::Value::from(self.cut(value.text()?)).to_string(),
            't' => value.truth()?.to_string(),
            'd' => {
                let number = value.number()?.trunc();
                return Ok(self.number(number < 0.0, number_text(number.abs())));
            }
            'b' | 'o' | 'x' | 'X' => {
                let number = value.integer()?;
                let size = number.unsigned_abs();
                let digits = match kind {
                    'b' => format!("{size:b}"),
                    'o' => format!("{size:o}"),
                    'x' => format!("{size:x}"),
                    _ => format!("{size:X}"),
                };
                let prefix = match (self.has('#'), kind) {
                    (false, _) | (true, 'b') => "",
                    (true, 'o') => "0",
                    (true, 'x') => "0x",
                    (true, _) => "0X",
                };
                return Ok(self.number(number < 0, format!("{prefix}{digits}")));
            }
            'f' | 'F' => {
                let number = value.number()?;
                let digits = format!("{:.*}", self.precision.unwrap_or(6), number.abs());
                return Ok(self.number(number < 0.0, digits));
            }
            'e' | 'E' | 'g' | 'G' => {
                let number = value.number()?;
                let digits = match kind {
                    'g' | 'G' => number_text(number.abs()),
                    _ => {
                        let text = format!("{:.*e}", self.precision.unwrap_or(6), number.abs());
                        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                        let exponent: i32 = exponent.parse().unwrap_or(0);
                        format!("{mantissa}{kind}{exponent:+03}")
                    }
                };
                return Ok(self.number(number < 0.0, digits));
            }
            other => return Err(format!("there is no verb %{other}")),
        };
        Ok(self.pad(body))
    }

    fn cut(&self, text: String) -> String {
        match self.precision {
            Some(length) => text.chars().take(length).collect(),
            None => text,
        }
    }

    fn number(&self, negative: bool, digits: String) -> String {
        let sign = match (negative, self.has('+'), self.has(' ')) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        };
        let width = self.width.unwrap_or(0).saturating_sub(sign.len());
        if self.has('0') && !self.has('-') {
            return format!("{sign}{digits:0>width$}");
        }
        self.pad(format!("{sign}{digits}"))
    }

    fn pad(&self, text: String) -> String {
        let width = self.width.unwrap_or(0);
        match (self.has('-'), self.has('0')) {
            (true, _) => format!("{text:<width$}"),
            (false, true) => format!("{text:0>width$}"),
            (false, false) => format!("{text:>width$}"),
        }
    }
}
