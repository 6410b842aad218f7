//! HCL and its JSON form, as one tree: attributes with expressions, and blocks with labels.
//!
//! JSON becomes the same expressions as HCL, its strings being templates (HCL's JSON specification).
//! The parser refuses nesting deeper than 64 and chains of more than 128 operators, so that nothing
//! after it can run out of stack.

use hcl_edit::expr::{Array, Expression, Object, ObjectKey, ObjectValue};
use hcl_edit::structure::{Body as HclBody, Structure};
use hcl_edit::template::{Element, StringTemplate, Template};
use hcl_edit::{Decorated, Number, Span as _};

use crate::dockerfile::Span;

use super::error::{Error, FileId, Place, Result};

/// How deep braces may lie in each other: of some wrong files, the parser reads the inside of each twice.
const MAX_DEPTH: usize = 16;

/// The most members of one object: the parser looks through all of them for each.
const MOST_MEMBERS: usize = 4_000;

/// `name = expression`.
#[derive(Debug, Clone)]
pub struct Attribute {
    /// Its name.
    pub name: String,
    /// Its value.
    pub expr: Expression,
    /// Where it stands.
    pub place: Place,
}

/// `kind "label" { … }`.
#[derive(Debug, Clone)]
pub struct Block {
    /// As `target`.
    pub kind: String,
    /// Its labels.
    pub labels: Vec<String>,
    /// What is in it.
    pub body: Body,
    /// Where it begins.
    pub place: Place,
}

/// The inside of a file or block.
#[derive(Debug, Clone, Default)]
pub struct Body {
    /// Attributes, in order.
    pub attributes: Vec<Attribute>,
    /// Blocks, in order.
    pub blocks: Vec<Block>,
}

impl Body {
    /// Finds an attribute.
    pub fn attribute(&self, name: &str) -> Option<&Attribute> {
        self.attributes.iter().find(|attribute| attribute.name == name)
    }
}

/// Makes a place of a parser's range.
pub fn place(file: FileId, range: Option<std::ops::Range<usize>>) -> Place {
    Place { file, span: range.map_or(Span::default(), |range| Span::new(range.start, range.end)) }
}

/// Gives the place of an expression.
pub fn place_of(file: FileId, expr: &Expression) -> Place {
    place(file, expr.span())
}

/// Reads HCL.
pub fn parse_hcl(file: FileId, text: &str) -> Result<Body> {
    if let Some((at, message)) = unreadable(text) {
        return Err(Error::at("E0701", place(file, Some(at..at + 1)), message)
            .with_help("split it up: variables hold parts, and a `for` computes members"));
    }
    let body: HclBody = text.parse().map_err(|error: hcl_edit::parser::Error| {
        // The parser counts bytes, and stops in the middle of characters.
        let range = character(text, error.location().offset());
        Error::at("E0701", place(file, Some(range)), error.message().to_owned())
    })?;
    Ok(convert(file, body))
}

/// Finds the character that an offset lies in, or the end of the text.
fn character(text: &str, offset: usize) -> std::ops::Range<usize> {
    let mut at = offset.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at..text[at..].chars().next().map_or(at, |char| at + char.len_utf8())
}

/// What is open at a place of a text.
enum Open<'a> {
    /// A brace: where it is, and how many members were counted in it.
    Brace(usize, usize),
    Quote,
    /// A heredoc, with the word that ends it.
    Heredoc(&'a str),
}

/// Finds the brace of an object or block that is too deep or has too many members. In strings and heredocs
/// only what begins an expression counts; comments are passed over.
fn unreadable(text: &str) -> Option<(usize, String)> {
    let mut open: Vec<Open<'_>> = Vec::new();
    let (mut depth, mut before) = (0, b' ');
    let mut at = 0;
    while let Some(&byte) = text.as_bytes().get(at) {
        let rest = &text.as_bytes()[at..];
        let template = matches!(open.last(), Some(Open::Quote | Open::Heredoc(_)));
        let mut next = at + 1;
        match (byte, open.last()) {
            (b'\\', Some(Open::Quote)) => next += 1,
            // No string goes on in the next line.
            (b'"' | b'\n', Some(Open::Quote)) => drop(open.pop()),
            (b'\n', Some(Open::Heredoc(word))) => {
                let line = line_at(text, next);
                if line.trim_matches([' ', '\t', '\r']) == *word {
                    next += line.len();
                    open.pop();
                }
            }
            (b'{', _) if !template || matches!(before, b'$' | b'%') => {
                open.push(Open::Brace(at, 0));
                depth += 1;
                if depth > MAX_DEPTH {
                    let message = format!("braces lie more than {MAX_DEPTH} deep in each other");
                    return Some((at, message));
                }
            }
            _ if template => {}
            (b'"', _) => open.push(Open::Quote),
            (b'}', Some(_)) => {
                open.pop();
                depth -= 1;
            }
            (b'<', _) if rest.starts_with(b"<<") => {
                if let Some(word) = heredoc(&text[at + 2..]) {
                    open.push(Open::Heredoc(word));
                    next = at + line_at(text, at).len();
                }
            }
            (b'#', _) => next = at + line_at(text, at).len(),
            (b'/', _) if rest.starts_with(b"//") => next = at + line_at(text, at).len(),
            (b'/', _) if rest.starts_with(b"/*") => {
                next = text[at + 2..].find("*/").map_or(text.len(), |length| at + length + 4);
            }
            (b'=' | b':', _) => {
                if let Some(Open::Brace(start, count)) = open.last_mut() {
                    *count += 1;
                    if *count > MOST_MEMBERS {
                        let message = format!("an object has more than {MOST_MEMBERS} members");
                        return Some((*start, message));
                    }
                }
            }
            _ => {}
        }
        before = byte;
        at = next;
    }
    None
}

/// Reads the word that a heredoc begins with, the last of its line. Looks no further than the word: of a line
/// full of signs, nothing is read twice.
fn heredoc(text: &str) -> Option<&str> {
    let text = text.strip_prefix('-').unwrap_or(text);
    let length = text
        .bytes()
        .position(|b| !b.is_ascii_alphanumeric() && !matches!(b, b'_' | b'-'))
        .unwrap_or(text.len());
    let (word, rest) = text.split_at(length);
    (!word.is_empty() && (rest.is_empty() || rest.starts_with(['\n', '\r']))).then_some(word)
}

/// Gives the text from an offset, which follows or is ASCII, to the end of its line, without that.
fn line_at(text: &str, at: usize) -> &str {
    text[at..].split('\n').next().unwrap_or_default()
}

fn convert(file: FileId, body: HclBody) -> Body {
    let mut out = Body::default();
    for structure in body {
        match structure {
            Structure::Attribute(attribute) => out.attributes.push(Attribute {
                name: attribute.key.to_string(),
                place: place(file, attribute.key.span()),
                expr: attribute.value,
            }),
            Structure::Block(block) => {
                let start = block.ident.span();
                let end = block.labels.last().and_then(|label| label.span()).or(start.clone());
                let range = start.zip(end).map(|(start, end)| start.start..end.end);
                out.blocks.push(Block {
                    kind: block.ident.to_string(),
                    labels: block.labels.iter().map(|label| label.as_str().to_owned()).collect(),
                    body: convert(file, block.body),
                    place: place(file, range),
                });
            }
        }
    }
    out
}

/// Blocks of a bake file that a JSON object can name; the members of theirs are labels.
const LABELLED: [&str; 4] = ["target", "group", "variable", "function"];

/// Reads the JSON form.
pub fn parse_json(file: FileId, text: &str) -> Result<Body> {
    let json: serde_json::Value = serde_json::from_str(text).map_err(|error| {
        let line = text.split_inclusive('\n').take(error.line().saturating_sub(1));
        let start: usize = line.map(str::len).sum();
        let range = character(text, start + error.column().saturating_sub(1));
        let message = error.to_string();
        let message = message.split(" at line").next().unwrap_or_default().to_owned();
        Error::at("E0701", place(file, Some(range)), format!("this is not JSON: {message}"))
    })?;
    let serde_json::Value::Object(members) = json else {
        return Err(Error::at("E0701", Place::file(file), "a bake file in JSON is one object"));
    };
    let mut out = Body::default();
    for (name, value) in members {
        if LABELLED.contains(&name.as_str()) {
            json_blocks(file, &name, &value, &mut out)?;
        } else {
            out.attributes.push(json_attribute(file, &name, &value)?);
        }
    }
    Ok(out)
}

/// Reads `{label: {…}}`, `{label: [{…}]}` or a list of such.
fn json_blocks(file: FileId, kind: &str, value: &serde_json::Value, out: &mut Body) -> Result<()> {
    let wrong = |what: &str| {
        Error::at("E0702", Place::file(file), format!("{kind:?} must be an object of {what}"))
    };
    if let serde_json::Value::Array(list) = value {
        return list.iter().try_for_each(|value| json_blocks(file, kind, value, out));
    }
    let members = value.as_object().ok_or_else(|| wrong("objects by name"))?;
    for (label, bodies) in members {
        let bodies: Vec<&serde_json::Value> = match bodies {
            serde_json::Value::Array(list) => list.iter().collect(),
            one => vec![one],
        };
        for body in bodies {
            let members = body.as_object().ok_or_else(|| wrong("objects by name"))?;
            let mut inner = Body::default();
            for (name, value) in members {
                if kind == "variable" && name == "validation" {
                    let list = match value {
                        serde_json::Value::Array(list) => list.clone(),
                        one => vec![one.clone()],
                    };
                    for rule in &list {
                        let members = rule.as_object().ok_or_else(|| wrong("rules"))?;
                        let mut rule = Body::default();
                        for (name, value) in members {
                            rule.attributes.push(json_expression(file, name, value)?);
                        }
                        inner.blocks.push(Block {
                            kind: name.clone(),
                            labels: Vec::new(),
                            body: rule,
                            place: Place::file(file),
                        });
                    }
                } else if kind == "function" || name == "type" {
                    // Names and types are expressions, written as strings.
                    inner.attributes.push(json_expression(file, name, value)?);
                } else {
                    inner.attributes.push(json_attribute(file, name, value)?);
                }
            }
            out.blocks.push(Block {
                kind: kind.to_owned(),
                labels: vec![label.clone()],
                body: inner,
                place: Place::file(file),
            });
        }
    }
    Ok(())
}

fn json_attribute(file: FileId, name: &str, value: &serde_json::Value) -> Result<Attribute> {
    let expr = json_value(file, name, value, false)?;
    Ok(Attribute { name: name.to_owned(), expr, place: Place::file(file) })
}

/// As [`json_attribute`]; a string that is a bare expression (`params`, `type`) is taken as one.
fn json_expression(file: FileId, name: &str, value: &serde_json::Value) -> Result<Attribute> {
    let bare = matches!(name, "params" | "variadic_params" | "type");
    let expr = json_value(file, name, value, bare)?;
    Ok(Attribute { name: name.to_owned(), expr, place: Place::file(file) })
}

fn json_value(
    file: FileId,
    name: &str,
    value: &serde_json::Value,
    bare: bool,
) -> Result<Expression> {
    Ok(match value {
        serde_json::Value::Null => Expression::null(),
        serde_json::Value::Bool(value) => Expression::from(*value),
        serde_json::Value::Number(number) => Expression::from(
            number.as_f64().and_then(Number::from_f64).unwrap_or_else(|| Number::from(0)),
        ),
        serde_json::Value::String(text) if bare => text.parse().map_err(|_| {
            Error::at("E0701", Place::file(file), format!("{name}: {text:?} is no expression"))
        })?,
        serde_json::Value::String(text) => json_template(file, name, text)?,
        serde_json::Value::Array(list) => {
            let items: Result<Vec<Expression>> =
                list.iter().map(|value| json_value(file, name, value, bare)).collect();
            Expression::from(Array::from(items?))
        }
        serde_json::Value::Object(members) if members.len() > MOST_MEMBERS => {
            let message = format!("{name}: an object has more than {MOST_MEMBERS} members");
            return Err(Error::at("E0701", Place::file(file), message));
        }
        serde_json::Value::Object(members) => {
            let mut object = Object::new();
            for (key, value) in members {
                let key = ObjectKey::Expression(json_template(file, name, key)?);
                object.insert(key, ObjectValue::new(json_value(file, name, value, false)?));
            }
            Expression::from(object)
        }
    })
}

/// Reads a string of JSON: a template. `"${x}"` alone is x itself, whatever kind it has.
pub fn json_template(file: FileId, name: &str, text: &str) -> Result<Expression> {
    if !text.contains("${") && !text.contains("%{") {
        return Ok(Expression::String(Decorated::new(text.to_owned())));
    }
    let template: Template = text.parse().map_err(|error: hcl_edit::parser::Error| {
        Error::at("E0701", Place::file(file), format!("{name}: {text:?}: {}", error.message()))
    })?;
    let elements: Vec<Element> = template.iter().cloned().collect();
    Ok(Expression::StringTemplate(StringTemplate::from(elements)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_braces_and_members_of_expressions_count() {
        let deep = "{".repeat(MAX_DEPTH + 1);
        let many = "x = 1\n".repeat(MOST_MEMBERS + 1);
        let refused = [
            format!("a = {deep}"),
            format!("a = <<EOF\n$${{}} text ${}\nEOF\n", "{".repeat(MAX_DEPTH + 2)),
            format!("a = \"${deep}\""),
            // What follows a heredoc, a comment or a string is an expression again.
            format!("a = <<EOF\n{{\nEOF\nb = {deep}"),
            format!("a = <<-EOF\n{{\n  EOF\nb = {deep}"),
            format!("# {{\n// {{\n/* {{ */ b = {deep}"),
            format!("a = \"{{\" b = {deep}"),
            format!("target \"x\" {{\n{many}}}"),
        ];
        for text in &refused {
            assert!(unreadable(text).is_some(), "{text}");
        }
        let fine = [
            format!("# {deep}\na = 1\n"),
            format!("// {deep}\na = 1\n"),
            format!("/* {deep}\n{deep} */ a = 1\n"),
            format!("a = <<EOF\n{deep}\nEOF\nb = 1\n"),
            format!("a = <<-EOF\r\n{deep}\r\n\tEOF\r\nb = 1\r\n"),
            format!("target \"x\" {{\n  dockerfile-inline = <<EOF\n{many}EOF\n}}\n"),
            format!("a = \"{deep} \\\" {deep}\"\n"),
            "target \"x\" { a = <<EOF\nfoo() { echo \"}\nEOF\n}\n".repeat(MAX_DEPTH + 1),
            "a = ".to_owned() + &"<<".repeat(200_000),
            // A backslash before a character of several bytes; an unfinished heredoc.
            "a = \"\\é\"\nb = <<EOF\n".to_owned(),
        ];
        for text in &fine {
            assert_eq!(unreadable(text), None, "{text}");
        }
    }
}
