//! `--format` templates: the part of Go's text/template that people use with `docker inspect`.
//!
//! | written | means |
//! |---|---|
//! | `{{.A.B}}`, `{{$.A}}`, `{{$x.A}}` | a field, in any case; one that is not there prints `<no value>` |
//! | `{{json .A}}`, `{{.A \| json}}` | as JSON |
//! | `{{index .A "key" 0}}` | an element; one that is not there is empty |
//! | `{{range .A}}…{{else}}…{{end}}`, `{{range $k, $v := .A}}` | once for each element |
//! | `{{if …}}…{{else if …}}…{{else}}…{{end}}`, `{{with …}}…{{end}}` | by emptiness |
//! | `{{$x := …}}` | a variable |
//! | `len join split upper lower title trim printf println print b64enc slice eq ne lt le gt ge and or not` | functions |
//! | `{{-`, `-}}`, `{{/* */}}` | trimmed white space, comments |
//!
//! Values are JSON. Lists print as `[a b]` and objects as `map[k:v]`, as Go prints them.

mod function;

use std::collections::HashMap;

use serde_json::Value;

use function::{call, shown, truth};

/// A parsed template.
#[derive(Debug)]
pub struct Template {
    nodes: Vec<Node>,
}

/// What is wrong with a template.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug)]
enum Node {
    Text(String),
    Print(Pipeline),
    Set(String, Pipeline),
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    With(Pipeline, Vec<Node>, Vec<Node>),
    Range { names: Vec<String>, over: Pipeline, body: Vec<Node>, otherwise: Vec<Node> },
}

/// Commands, each of which gets the result of the one before as its last argument.
type Pipeline = Vec<Vec<Operand>>;

#[derive(Debug)]
struct Operand {
    base: Base,
    fields: Vec<String>,
}

#[derive(Debug)]
enum Base {
    Dot,
    Variable(String),
    Function(String),
    Literal(Value),
    Nested(Pipeline),
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Fields(Vec<String>),
    Variable(String),
    Literal(Value),
    Pipe,
    Open,
    Close,
    Comma,
    Assign,
}

fn error<T>(text: impl Into<String>) -> Result<T> {
    Err(Error(text.into()))
}

impl Template {
    /// Reads a template.
    pub fn parse(text: &str) -> Result<Template> {
        let pieces = split(text)?;
        let mut parser = Parser { pieces: pieces.into_iter().peekable() };
        let (nodes, end) = parser.block()?;
        match end {
            None => Ok(Template { nodes }),
            Some(end) => error(format!("{{{{{end}}}}} without a beginning")),
        }
    }

    /// Fills it in. A field of `data` itself that is not there is an error: it is a mistake more
    /// often than not.
    pub fn render(&self, data: &Value) -> Result<String> {
        let mut out = String::new();
        let mut run = Run { root: data, variables: HashMap::new() };
        run.nodes(&self.nodes, data, &mut out)?;
        Ok(out)
    }
}

enum Piece {
    Text(String),
    Action(String),
}

/// Splits text from actions.
fn split(text: &str) -> Result<Vec<Piece>> {
    let mut out = Vec::new();
    let mut rest = text;
    let mut trim = false;
    loop {
        let (before, after) = match rest.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        let mut before = if trim { before.trim_start() } else { before };
        let after = after.map(|after| match after.strip_prefix('-') {
            Some(inner) if inner.starts_with(char::is_whitespace) => {
                before = before.trim_end();
                inner
            }
            _ => after,
        });
        if !before.is_empty() {
            out.push(Piece::Text(before.to_owned()));
        }
        let Some(after) = after else { return Ok(out) };
        let Some(end) = end_of_action(after) else {
            return error(format!("{{{{{} is not closed by }}}}", after.trim_end()));
        };
        let mut action = &after[..end];
        rest = &after[end + 2..];
        trim = action.ends_with('-') && action[..action.len() - 1].ends_with(char::is_whitespace);
        if trim {
            action = &action[..action.len() - 1];
        }
        let action = action.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            out.push(Piece::Action(action.to_owned()));
        }
    }
}

/// Finds the `}}` that is in no string.
fn end_of_action(text: &str) -> Option<usize> {
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

/// Splits an action into tokens; each says whether it follows the one before without a space, since
/// `$x.A` is a field and `$x .A` are two words.
fn tokens(text: &str) -> Result<Vec<(Token, bool)>> {
    let mut out = Vec::new();
    let mut rest = text.trim_start();
    let mut glued = false;
    while let Some(c) = rest.chars().next() {
        let name = |text: &str| -> usize {
            text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len())
        };
        let (token, used) = match c {
            '|' => (Token::Pipe, 1),
            '(' => (Token::Open, 1),
            ')' => (Token::Close, 1),
            ',' => (Token::Comma, 1),
            ':' if rest.starts_with(":=") => (Token::Assign, 2),
            '=' => (Token::Assign, 1),
            '"' => string(rest)?,
            '`' => match rest[1..].find('`') {
                Some(end) => (Token::Literal(rest[1..=end].into()), end + 2),
                None => return error(format!("{rest} is not closed by `")),
            },
            '.' => {
                let (mut fields, mut used) = (Vec::new(), 0);
                while rest[used..].starts_with('.') {
                    let end = name(&rest[used + 1..]);
                    if end == 0 {
                        used += 1;
                        break;
                    }
                    fields.push(rest[used + 1..used + 1 + end].to_owned());
                    used += 1 + end;
                }
                (Token::Fields(fields), used)
            }
            '$' => {
                let end = name(&rest[1..]);
                (Token::Variable(rest[1..=end].to_owned()), end + 1)
            }
            c if c.is_ascii_digit() || c == '-' => {
                let end =
                    rest[1..].find(|c: char| !c.is_ascii_digit()).map_or(rest.len(), |e| e + 1);
                match rest[..end].parse::<i64>() {
                    Ok(number) => (Token::Literal(number.into()), end),
                    Err(_) => return error(format!("{rest:?} is no number")),
                }
            }
            c if c.is_alphabetic() || c == '_' => {
                let end = name(rest);
                let token = match &rest[..end] {
                    "true" => Token::Literal(true.into()),
                    "false" => Token::Literal(false.into()),
                    "nil" => Token::Literal(Value::Null),
                    word => Token::Word(word.to_owned()),
                };
                (token, end)
            }
            _ => return error(format!("{rest:?} is not understood")),
        };
        out.push((token, glued));
        let left = &rest[used..];
        rest = left.trim_start();
        glued = left.len() == rest.len();
    }
    Ok(out)
}

/// Reads a string as Go writes it.
fn string(text: &str) -> Result<(Token, usize)> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Token::Literal(out.into()), at + 1)),
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some(c @ ('"' | '\\' | '\'')) => out.push(c),
                other => return error(format!("unknown escape \\{}", other.unwrap_or(' '))),
            },
            c => out.push(c),
        }
    }
    error(format!("{text} is not closed by \""))
}

struct Parser {
    pieces: std::iter::Peekable<std::vec::IntoIter<Piece>>,
}

impl Parser {
    /// Reads up to an `else` or `end` that belongs to somebody above, and gives its text.
    fn block(&mut self) -> Result<(Vec<Node>, Option<String>)> {
        let mut out = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let action = match piece {
                Piece::Text(text) => {
                    out.push(Node::Text(text));
                    continue;
                }
                Piece::Action(action) => action,
            };
            let (word, rest) = match action.split_once(char::is_whitespace) {
                Some((word, rest)) => (word, rest.trim()),
                None => (action.as_str(), ""),
            };
            match word {
                "end" | "else" => return Ok((out, Some(action))),
                "if" => out.push(self.choice(rest)?),
                "with" => {
                    let over = pipeline(rest)?;
                    let (body, otherwise) = self.bodies("with")?;
                    out.push(Node::With(over, body, otherwise));
                }
                "range" => {
                    let (names, over) = assigned(rest)?;
                    let (body, otherwise) = self.bodies("range")?;
                    out.push(Node::Range { names, over, body, otherwise });
                }
                "break" | "continue" | "define" | "template" | "block" => {
                    return error(format!("{{{{{word}}}}} is not supported"));
                }
                _ => match assigned(&action)? {
                    (names, value) if names.len() == 1 => {
                        out.push(Node::Set(names[0].clone(), value));
                    }
                    (names, value) if names.is_empty() => out.push(Node::Print(value)),
                    _ => return error(format!("{{{{{action}}}}}: too many variables")),
                },
            }
        }
        Ok((out, None))
    }

    fn choice(&mut self, condition: &str) -> Result<Node> {
        let mut branches = Vec::new();
        let mut condition = pipeline(condition)?;
        loop {
            let (body, end) = self.block()?;
            branches.push((condition, body));
            let end = end.ok_or_else(|| Error("{{if}} without {{end}}".to_owned()))?;
            if end == "end" {
                return Ok(Node::If(branches, Vec::new()));
            }
            match end["else".len()..].trim().strip_prefix("if ") {
                Some(next) => condition = pipeline(next)?,
                None if end.trim() == "else" => {
                    let (otherwise, end) = self.block()?;
                    if end.as_deref() != Some("end") {
                        return error("{{if}} without {{end}}");
                    }
                    return Ok(Node::If(branches, otherwise));
                }
                None => return error(format!("{{{{{end}}}}} is not understood")),
            }
        }
    }

    fn bodies(&mut self, word: &str) -> Result<(Vec<Node>, Vec<Node>)> {
        let (body, end) = self.block()?;
        match end.as_deref() {
            Some("end") => Ok((body, Vec::new())),
            Some("else") => match self.block()? {
                (otherwise, Some(end)) if end == "end" => Ok((body, otherwise)),
                _ => error(format!("{{{{{word}}}}} without {{{{end}}}}")),
            },
            _ => error(format!("{{{{{word}}}}} without {{{{end}}}}")),
        }
    }
}

fn pipeline(text: &str) -> Result<Pipeline> {
    match assigned(text)? {
        (names, pipeline) if names.is_empty() => Ok(pipeline),
        _ => error(format!("{text}: no variable can be set here")),
    }
}

/// Reads `$a, $b := PIPELINE`, or a pipeline alone.
fn assigned(text: &str) -> Result<(Vec<String>, Pipeline)> {
    let all = tokens(text)?;
    let assign = all.iter().position(|(token, _)| *token == Token::Assign);
    let mut names = Vec::new();
    let mut from = 0;
    if let Some(at) = assign {
        for (token, _) in &all[..at] {
            match token {
                Token::Variable(name) if !name.is_empty() => names.push(name.clone()),
                Token::Comma => {}
                _ => return error(format!("{text}: expected $NAME := VALUE")),
            }
        }
        from = at + 1;
    }
    let mut at = from;
    let out = commands(&all, &mut at, text)?;
    if at < all.len() {
        return error(format!("{text}: a ) too many"));
    }
    Ok((names, out))
}

/// Reads commands up to a closing parenthesis or the end.
fn commands(all: &[(Token, bool)], at: &mut usize, text: &str) -> Result<Pipeline> {
    let mut out: Pipeline = vec![Vec::new()];
    while let Some((token, glued)) = all.get(*at) {
        if *token == Token::Close {
            break;
        }
        *at += 1;
        let last = out.last_mut().ok_or_else(|| Error("nothing to do".to_owned()))?;
        let base = match token {
            Token::Pipe => {
                out.push(Vec::new());
                continue;
            }
            Token::Fields(fields) => match last.last_mut() {
                Some(operand) if *glued => {
                    operand.fields.extend(fields.iter().cloned());
                    continue;
                }
                _ => {
                    last.push(Operand { base: Base::Dot, fields: fields.clone() });
                    continue;
                }
            },
            Token::Word(name) => Base::Function(name.clone()),
            Token::Variable(name) => Base::Variable(name.clone()),
            Token::Literal(value) => Base::Literal(value.clone()),
            Token::Open => {
                let inner = commands(all, at, text)?;
                if all.get(*at).map(|(token, _)| token) != Some(&Token::Close) {
                    return error(format!("{text}: a ( is not closed"));
                }
                *at += 1;
                Base::Nested(inner)
            }
            Token::Comma | Token::Assign | Token::Close => {
                return error(format!("{text} is not understood"));
            }
        };
        last.push(Operand { base, fields: Vec::new() });
    }
    if out.iter().any(Vec::is_empty) {
        return error(match text.is_empty() {
            true => "{{}} is empty".to_owned(),
            false => format!("{text}: a value is missing"),
        });
    }
    Ok(out)
}

struct Run<'a> {
    root: &'a Value,
    variables: HashMap<String, Value>,
}

impl Run<'_> {
    fn nodes(&mut self, nodes: &[Node], dot: &Value, out: &mut String) -> Result<()> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(pipeline) => out.push_str(&shown(&self.pipeline(pipeline, dot)?)),
                Node::Set(name, pipeline) => {
                    let value = self.pipeline(pipeline, dot)?;
                    self.variables.insert(name.clone(), value);
                }
                Node::If(branches, otherwise) => {
                    let mut body = otherwise;
                    for (condition, nodes) in branches {
                        if truth(&self.pipeline(condition, dot)?) {
                            body = nodes;
                            break;
                        }
                    }
                    self.nodes(body, dot, out)?;
                }
                Node::With(pipeline, body, otherwise) => {
                    let value = self.pipeline(pipeline, dot)?;
                    match truth(&value) {
                        true => self.nodes(body, &value, out)?,
                        false => self.nodes(otherwise, dot, out)?,
                    }
                }
                Node::Range { names, over, body, otherwise } => {
                    let items: Vec<(Value, Value)> = match self.pipeline(over, dot)? {
                        Value::Array(list) => list
                            .into_iter()
                            .enumerate()
                            .map(|(at, item)| (at.into(), item))
                            .collect(),
                        Value::Object(map) => {
                            map.into_iter().map(|(key, item)| (key.into(), item)).collect()
                        }
                        Value::Null => Vec::new(),
                        other => return error(format!("cannot range over {}", shown(&other))),
                    };
                    if items.is_empty() {
                        self.nodes(otherwise, dot, out)?;
                    }
                    for (key, item) in items {
                        match names.as_slice() {
                            [] => {}
                            [value] => {
                                self.variables.insert(value.clone(), item.clone());
                            }
                            [first, second, ..] => {
                                self.variables.insert(first.clone(), key);
                                self.variables.insert(second.clone(), item.clone());
                            }
                        }
                        self.nodes(body, &item, out)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn pipeline(&self, pipeline: &Pipeline, dot: &Value) -> Result<Value> {
        let mut result: Option<Value> = None;
        for command in pipeline {
            let Some((first, rest)) = command.split_first() else { continue };
            let mut arguments = Vec::new();
            for operand in rest {
                arguments.push(self.operand(operand, dot)?);
            }
            arguments.extend(result.take());
            result = Some(match &first.base {
                Base::Function(name) => {
                    let value = call(name, arguments)?;
                    walk(value, &first.fields)
                }
                _ if !arguments.is_empty() => {
                    return error("only functions take arguments (is a | or a function missing?)");
                }
                _ => self.operand(first, dot)?,
            });
        }
        Ok(result.unwrap_or_default())
    }

    fn operand(&self, operand: &Operand, dot: &Value) -> Result<Value> {
        let base = match &operand.base {
            Base::Dot => dot,
            Base::Variable(name) if name.is_empty() => self.root,
            Base::Variable(name) => match self.variables.get(name) {
                Some(value) => value,
                None => return error(format!("there is no variable ${name}")),
            },
            Base::Literal(value) => return Ok(walk(value.clone(), &operand.fields)),
            Base::Nested(inner) => return Ok(walk(self.pipeline(inner, dot)?, &operand.fields)),
            Base::Function(name) => return Ok(walk(call(name, Vec::new())?, &operand.fields)),
        };
        if let (Some(field), Value::Object(map)) = (operand.fields.first(), base)
            && std::ptr::eq(base, self.root)
            && field_of(base, field).is_none()
        {
            let there: Vec<&str> = map.keys().map(String::as_str).collect();
            return error(format!("there is no .{field} (there are {})", there.join(", ")));
        }
        let mut value = base;
        for field in &operand.fields {
            value = field_of(value, field).unwrap_or(&Value::Null);
        }
        Ok(value.clone())
    }
}

fn walk(value: Value, fields: &[String]) -> Value {
    let mut at = &value;
    for field in fields {
        at = field_of(at, field).unwrap_or(&Value::Null);
    }
    at.clone()
}

/// Finds a field. Go's programs show their own names of what JSON spells otherwise
/// (`.Manifest.MediaType` is `mediaType`, `.RootFS.DiffIDs` is `diff_ids`): without an exact match,
/// case and punctuation do not count.
fn field_of<'v>(value: &'v Value, field: &str) -> Option<&'v Value> {
    let map = value.as_object()?;
    let plain = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    let wanted = || {
        let wanted = plain(field);
        map.iter().find(|(key, _)| plain(key) == wanted).map(|(_, value)| value)
    };
    map.get(field).or_else(wanted)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn data() -> Value {
        json!({
            "Os": "linux", "Architecture": "arm64", "Size": 12, "Variant": "",
            "Config": {"Env": ["PATH=/bin", "A=b"], "Labels": {"a.b": "c", "x": "y"}, "Cmd": null},
            "RootFS": {"Layers": ["sha256:1", "sha256:2"]},
        })
    }

    #[test]
    fn templates_are_filled_in() {
        let check = |template: &str, want: &str| {
            let got = Template::parse(template).and_then(|parsed| parsed.render(&data()));
            assert_eq!(got.as_deref(), Ok(want), "{template}");
        };
        check("plain", "plain");
        check("{{.Os}}/{{.Architecture}}", "linux/arm64");
        check("{{.os}} {{.Root_FS.layers}}", "linux [sha256:1 sha256:2]");
        check("{{ .Os }}{{if .Variant}}/{{.Variant}}{{end}}", "linux");
        check("{{json .Config.Env}}", r#"["PATH=/bin","A=b"]"#);
        check("{{.Config.Env}} {{.Config.Labels}}", "[PATH=/bin A=b] map[a.b:c x:y]");
        check("{{.Config.Labels | json}}", r#"{"a.b":"c","x":"y"}"#);
        check(r#"{{index .Config.Labels "a.b"}}"#, "c");
        check(r#"{{index .Config.Labels "none"}}|{{.Config.Labels.none}}"#, "|<no value>");
        check("{{index .RootFS.Layers 1}}", "sha256:2");
        check("{{range .RootFS.Layers}}{{.}}\n{{end}}", "sha256:1\nsha256:2\n");
        check(
            "{{range $i, $l := .RootFS.Layers}}{{$i}}={{$l}} {{$.Os}} {{end}}",
            "0=sha256:1 linux 1=sha256:2 linux ",
        );
        check("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}};{{end}}", "a.b:c;x:y;");
        check("{{range .Config.Cmd}}x{{else}}none{{end}}", "none");
        check(r#"{{if eq .Os "windows"}}w{{else if eq .Os "linux"}}l{{else}}?{{end}}"#, "l");
        check("{{if and .Os (not .Variant)}}yes{{end}}", "yes");
        check(r#"{{join .Config.Env ","}} {{len .Config.Env}}"#, "PATH=/bin,A=b 2");
        check(r#"{{(index .Config.Env 0) | upper}} {{.Os | title}}"#, "PATH=/BIN Linux");
        check(r#"{{printf "%-6s|%4d|%q%%" .Os .Size .Os}}"#, r#"linux |  12|"linux"%"#);
        check("{{with .Config}}{{index .Env 1}}{{end}}", "A=b");
        check("a  {{- /* nothing */ -}}  b", "ab");
        check("{{$x := .Os}}{{$x}} {{`}}`}}", "linux }}");
        check(r#"{{range .Config.Env}}{{index (split . "=") 0}} {{end}}"#, "PATH A ");
        check("{{slice .Architecture 0 3}}{{println}}", "arm\n");
        check("{{if gt .Size 10}}big{{end}}", "big");
    }

    #[test]
    fn mistakes_are_told() {
        let check = |template: &str, want: &str| {
            let got = Template::parse(template).and_then(|parsed| parsed.render(&data()));
            let error = got.expect_err(template).to_string();
            assert!(error.contains(want), "{template}: {error}");
        };
        check("{{.Os", "not closed");
        check("{{.Oss}}", "there is no .Oss (there are Architecture");
        check("{{end}}", "without a beginning");
        check("{{if .Os}}x", "without {{end}}");
        check("{{range .Os}}x{{end}}", "cannot range");
        check("{{nonsense .Os}}", "no function nonsense");
        check("{{.Os .Size}}", "only functions");
        check("{{}}", "empty");
        check("{{.Os | }}", "missing");
        check("{{(.Os}}", "not closed");
        check("{{.Os)}}", "too many");
        check("{{index .RootFS.Layers 7}}", "no element 7 of 2");
        check("{{$x}}", "no variable $x");
        check("{{template \"x\"}}", "not supported");
        check("{{\"x}}", "not closed");
        check("{{printf \"%s\"}}", "more verbs");
        check("{{.Os ? 1}}", "not understood");
    }

    proptest::proptest! {
        #[test]
        fn any_template_is_answered(text in "(\\{\\{|\\}\\}|[.a-zA-Z$|()\"`:=, -]|if |range |end|index |json ){0,30}") {
            if let Ok(template) = Template::parse(&text) {
                let _ = template.render(&data());
            }
        }
    }
}
