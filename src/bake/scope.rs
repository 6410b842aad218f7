//! What names stand for: variables, functions of the files, attributes of targets; and the walk
//! over all blocks that makes targets and groups of them.
//!
//! Variables are looked for among the built-in ones, then among top-level attributes and
//! `variable` blocks, whose defaults `--var` and the environment override (buildx:
//! `hclparser.resolveValue`).

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use hcl_edit::expr::Expression;

use super::Given;
use super::config::{Config, Group, Variable};
use super::error::{Error, FileId, Place, Result};
use super::eval::{self, Evaluator};
use super::functions::{self, World};
use super::syntax::{Attribute, Block, Body, place_of};
use super::target::Target;
use super::types::{self, Type};
use super::value::Value;

/// Most targets that one `matrix` makes: beyond any that a machine builds in a day.
const MAX_MATRIX: usize = 2_000;

/// A target or group block with its final name; `matrix` makes several of one.
struct Instance<'a> {
    name: String,
    block: &'a Block,
    file: FileId,
    locals: Vec<(String, Value)>,
}

struct Files<'a> {
    given: &'a Given,
    world: &'a World<'a>,
    builtins: BTreeMap<&'a str, &'a str>,
    variables: BTreeMap<&'a str, (FileId, &'a Block)>,
    attributes: BTreeMap<&'a str, (FileId, &'a Attribute)>,
    functions: BTreeMap<&'a str, (FileId, &'a Block)>,
    blocks: Vec<(FileId, &'a Block)>,
    instances: OnceCell<Vec<Instance<'a>>>,
    known: RefCell<BTreeMap<String, Value>>,
    /// What is being computed, outermost first.
    under_way: RefCell<Vec<String>>,
    left: Cell<usize>,
    depth: Cell<usize>,
}

/// Evaluates all blocks, and adds targets, groups and variables to `config`.
pub fn evaluate<'a>(
    bodies: &'a [(FileId, Body)],
    given: &'a Given,
    world: &'a World<'a>,
    config: &mut Config,
) -> Result<()> {
    let mut files = Files {
        given,
        world,
        builtins: given.builtins.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect(),
        variables: BTreeMap::new(),
        attributes: BTreeMap::new(),
        functions: BTreeMap::new(),
        blocks: Vec::new(),
        instances: OnceCell::new(),
        known: RefCell::default(),
        under_way: RefCell::default(),
        left: Cell::new(eval::budget()),
        depth: Cell::new(0),
    };
    for (file, body) in bodies {
        files.collect(*file, body)?;
    }
    files.variables(config)?;
    let instances = files.instantiate()?;
    let instances = files.instances.get_or_init(|| instances);
    for instance in instances {
        files.finish(instance, config)?;
    }
    files.rename(instances, config);
    // What nobody needs must be right too: an error in a file is told at once.
    for (name, (file, attribute)) in &files.attributes {
        files.variable_at(name, place_of(*file, &attribute.expr))?;
    }
    Ok(())
}

/// Says whether a name fits a target or group (buildx: `validateTargetName`).
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'))
}

impl<'a> Files<'a> {
    fn collect(&mut self, file: FileId, body: &'a Body) -> Result<()> {
        for attribute in &body.attributes {
            self.attributes.insert(&attribute.name, (file, attribute));
        }
        for block in &body.blocks {
            let label = match &block.labels[..] {
                [label] => label,
                labels => {
                    let kind = &block.kind;
                    let message = format!("{kind} takes one name, not {}", labels.len());
                    return Err(Error::at("E0702", block.place, message)
                        .with_help(format!("as in: {kind} \"name\" {{ … }}")));
                }
            };
            match block.kind.as_str() {
                "variable" => drop(self.variables.insert(label, (file, block))),
                "function" => drop(self.functions.insert(label, (file, block))),
                "target" | "group" => self.blocks.push((file, block)),
                other => {
                    let kinds = ["target", "group", "variable", "function"];
                    let message = format!("bake files have no block {other:?}");
                    return Err(Error::at("E0702", block.place, message)
                        .with_suggestion(crate::dockerfile::suggest(other, kinds, true)));
                }
            }
        }
        Ok(())
    }

    fn evaluator(&self, file: FileId, locals: Vec<(String, Value)>) -> Evaluator<'_> {
        Evaluator { scope: self, file, locals }
    }

    /// Computes something once, and notices circles.
    fn once(
        &self,
        key: &str,
        place: Place,
        compute: impl FnOnce() -> Result<Value>,
    ) -> Result<Value> {
        if let Some(value) = self.known.borrow().get(key) {
            return Ok(value.clone());
        }
        self.enter(key, place)?;
        let value = compute();
        self.under_way.borrow_mut().pop();
        let value = value?;
        self.known.borrow_mut().insert(key.to_owned(), value.clone());
        Ok(value)
    }

    fn enter(&self, key: &str, place: Place) -> Result<()> {
        let mut under_way = self.under_way.borrow_mut();
        if let Some(start) = under_way.iter().position(|other| other == key) {
            let circle: Vec<&str> =
                under_way[start..].iter().map(String::as_str).chain([key]).collect();
            return Err(Error::at("E0707", place, format!("{key} needs itself"))
                .with_help(format!("the circle is {}", circle.join(" → "))));
        }
        under_way.push(key.to_owned());
        Ok(())
    }

    fn variable_at(&self, name: &str, place: Place) -> Result<Option<Value>> {
        if let Some(value) = self.builtins.get(name) {
            return Ok(Some((*value).into()));
        }
        if !self.attributes.contains_key(name) && !self.variables.contains_key(name) {
            return Ok(None);
        }
        self.once(name, place, || self.define(name)).map(Some)
    }

    /// Gives what the environment or `--var` says of a variable, and whether it is JSON.
    fn outside(&self, name: &str, typed: bool) -> Option<(String, bool)> {
        let find = |name: &str| {
            self.given.variables.get(name).cloned().or_else(|| (self.world.variable)(name))
        };
        let json = typed.then(|| find(&format!("{name}_JSON"))).flatten();
        json.map(|text| (text, true)).or_else(|| find(name).map(|text| (text, false)))
    }

    fn define(&self, name: &str) -> Result<Value> {
        let block = self.variables.get(name);
        let mut kind = Type::Any;
        let mut typed = false;
        if let Some((file, block)) = block
            && let Some(attribute) = block.body.attribute("type")
        {
            kind = types::parse(*file, &attribute.expr)?;
            typed = true;
        }
        let default = match (self.attributes.get(name), block) {
            (Some((file, attribute)), _) => Some((*file, *attribute)),
            (None, Some((file, block))) => {
                block.body.attribute("default").map(|attribute| (*file, attribute))
            }
            (None, None) => None,
        };
        let outside = self.outside(name, typed).filter(|_| block.is_some());
        let mut value = match (&default, typed) {
            // A variable without a default is empty; with a type it has no value.
            (None, false) => Value::from(""),
            (None, true) => Value::Null,
            (Some((file, attribute)), _) => {
                let value = self.evaluator(*file, Vec::new()).value(&attribute.expr)?;
                let at = place_of(*file, &attribute.expr);
                types::convert(&value, &kind).map_err(|error| {
                    Error::at("E0708", at, format!("the default of {name}: {error}"))
                })?
            }
        };
        let at = block.map(|(_, block)| block.place).or(default.map(|(_, found)| found.place));
        if let (Some((text, json)), Some(at)) = (outside, at) {
            let kind = match (typed, &value) {
                (true, _) => kind.clone(),
                (false, Value::Bool(_)) => Type::Bool,
                (false, Value::Number(_)) => Type::Number,
                (false, Value::String(_) | Value::Null) => Type::String,
                (false, Value::List(_) | Value::Map(_)) => {
                    let message = format!(
                        "{name} holds {}, and the environment overrides it with text",
                        value.kind()
                    );
                    return Err(Error::at("E0708", at, message)
                        .with_help("give the variable a type, as type = list(string)"));
                }
            };
            let wrong = |error: String| Error::at("E0708", at, error);
            value = if json {
                let parsed: serde_json::Value = serde_json::from_str(&text).map_err(|error| {
                    wrong(format!("{name}_JSON in the environment is not JSON: {error}"))
                })?;
                types::convert(&Value::from_json(&parsed), &kind)
                    .map_err(|error| wrong(format!("{name}_JSON: {error}")))?
            } else {
                types::from_text(name, &text, &kind).map_err(wrong)?
            };
        }
        Ok(value)
    }

    /// Evaluates and validates all variables.
    fn variables(&self, config: &mut Config) -> Result<()> {
        const KNOWN: [&str; 3] = ["type", "default", "description"];
        for (name, (file, block)) in &self.variables {
            for attribute in &block.body.attributes {
                if !KNOWN.contains(&attribute.name.as_str()) {
                    let message = format!("a variable has no attribute {:?}", attribute.name);
                    let suggestion = crate::dockerfile::suggest(&attribute.name, KNOWN, true);
                    let error = Error::at("E0703", attribute.place, message);
                    return Err(error.with_suggestion(suggestion));
                }
            }
            let value = self.variable_at(name, block.place)?.unwrap_or(Value::Null);
            for rule in &block.body.blocks {
                if rule.kind != "validation" {
                    let message = format!("a variable has no block {:?}", rule.kind);
                    return Err(Error::at("E0703", rule.place, message));
                }
                self.validate(name, *file, rule)?;
            }
            let text = |attribute: &str| -> Result<Option<String>> {
                let Some(found) = block.body.attribute(attribute) else { return Ok(None) };
                let value = self.evaluator(*file, Vec::new()).value(&found.expr)?;
                Ok(Some(value.to_string()))
            };
            let kind = match block.body.attribute("type") {
                Some(attribute) => Some(types::parse(*file, &attribute.expr)?.name()),
                None => None,
            };
            config.variables.push(Variable {
                name: (*name).to_owned(),
                description: text("description")?,
                kind,
                value: (value != Value::Null).then(|| value.to_string()),
            });
        }
        Ok(())
    }

    fn validate(&self, name: &str, file: FileId, rule: &Block) -> Result<()> {
        let needed = |what: &str| {
            rule.body.attribute(what).ok_or_else(|| {
                Error::at("E0703", rule.place, format!("a validation needs {what} = …"))
            })
        };
        let condition = needed("condition")?;
        let at = place_of(file, &condition.expr);
        let at = if at.span.is_empty() { condition.place } else { at };
        let holds = self.evaluator(file, Vec::new()).value(&condition.expr)?;
        let holds = holds.truth().map_err(|error| Error::at("E0708", at, error))?;
        if !holds {
            let message = self.evaluator(file, Vec::new()).value(&needed("error_message")?.expr)?;
            let message = format!("the value of {name} is not valid: {message}");
            return Err(Error::at("E0708", at, message));
        }
        Ok(())
    }

    /// Gives every block its names: `matrix` makes several of one.
    fn instantiate(&self) -> Result<Vec<Instance<'a>>> {
        let mut out = Vec::new();
        for &(file, block) in &self.blocks {
            if out.len() > super::MOST_TARGETS {
                let message = format!("there are more than {} targets", super::MOST_TARGETS);
                return Err(Error::at("E0709", block.place, message)
                    .with_help("build them in several runs, from several files"));
            }
            let label = block.labels[0].clone();
            let matrix = block.body.attribute("matrix").filter(|_| block.kind == "target");
            let name = block.body.attribute("name").filter(|_| block.kind == "target");
            let wrong =
                |attribute: &Attribute, message: &str| Error::at("E0703", attribute.place, message);
            match (matrix, name) {
                (None, None) => {
                    if !is_name(&label) {
                        return Err(bad_name(&label, block.place));
                    }
                    out.push(Instance { name: label, block, file, locals: Vec::new() });
                }
                (None, Some(name)) => {
                    return Err(wrong(name, "name goes with matrix only")
                        .with_help("the name of the target stands after the word target"));
                }
                (Some(matrix), None) => {
                    return Err(wrong(matrix, "matrix needs name = …")
                        .with_help("as in name = \"app-${tag}\", with a key of the matrix"));
                }
                (Some(matrix), Some(name)) => {
                    let mut seen = BTreeSet::new();
                    for locals in self.rows(file, matrix)? {
                        let at = place_of(file, &name.expr);
                        let value = self.evaluator(file, locals.clone()).value(&name.expr)?;
                        let text = value
                            .text()
                            .map_err(|error| Error::at("E0703", at, format!("name: {error}")))?;
                        if !is_name(&text) {
                            return Err(bad_name(&text, at));
                        }
                        if !seen.insert(text.clone()) {
                            return Err(Error::at(
                                "E0703",
                                at,
                                format!("the name {text:?} comes twice"),
                            )
                            .with_help("use every key of the matrix in the name"));
                        }
                        out.push(Instance { name: text, block, file, locals });
                    }
                }
            }
        }
        Ok(out)
    }

    /// Gives all combinations of a matrix.
    fn rows(&self, file: FileId, matrix: &Attribute) -> Result<Vec<Vec<(String, Value)>>> {
        let at = place_of(file, &matrix.expr);
        let at = if at.span.is_empty() { matrix.place } else { at };
        let wrong = |message: String| Error::at("E0703", at, message);
        let value = self.evaluator(file, Vec::new()).value(&matrix.expr)?;
        let axes = value.entries().map_err(|error| wrong(format!("matrix: {error}")))?;
        let mut rows: Vec<Vec<(String, Value)>> = vec![Vec::new()];
        for (name, axis) in axes {
            let Value::List(list) = axis else {
                return Err(wrong(format!("matrix: {name} must be a list")));
            };
            if rows.len().saturating_mul(list.len()) > MAX_MATRIX {
                return Err(wrong(format!("a matrix makes at most {MAX_MATRIX} targets")));
            }
            let longer = |row: &Vec<(String, Value)>| {
                let row = row.clone();
                let more = |value: &Value| {
                    row.iter().cloned().chain([(name.clone(), value.clone())]).collect()
                };
                list.iter().map(more).collect::<Vec<Vec<(String, Value)>>>()
            };
            rows = rows.iter().flat_map(longer).collect();
        }
        Ok(rows)
    }

    /// Evaluates the attributes of a block.
    fn finish(&self, instance: &Instance<'a>, config: &mut Config) -> Result<()> {
        let block = instance.block;
        if let Some(inner) = block.body.blocks.first() {
            let message = format!("a {} has no block {:?}", block.kind, inner.kind);
            return Err(Error::at("E0703", inner.place, message)
                .with_help(format!("write {} = {{ … }}", inner.kind)));
        }
        if block.kind == "group" {
            let mut group = Group { name: instance.name.clone(), ..Group::default() };
            for attribute in &block.body.attributes {
                let value = self.attribute(instance, attribute)?;
                let wrong = |error: String| {
                    Error::at("E0703", attribute.place, format!("{}: {error}", attribute.name))
                };
                match attribute.name.as_str() {
                    "targets" => {
                        let list = value.elements().map_err(wrong)?;
                        let list = list.iter().map(Value::text).collect::<Result<Vec<_>, _>>();
                        group.targets.extend(list.map_err(wrong)?);
                    }
                    "description" => group.description = Some(value.text().map_err(wrong)?),
                    other => {
                        let known = ["targets", "description"];
                        let message = format!("a group has no attribute {other:?}");
                        let suggestion = crate::dockerfile::suggest(other, known, true);
                        return Err(Error::at("E0703", attribute.place, message)
                            .with_suggestion(suggestion));
                    }
                }
            }
            config.add_group(group);
            return Ok(());
        }
        let mut target = Target::new(&instance.name);
        target.place = Some(block.place);
        for attribute in &block.body.attributes {
            if matches!(attribute.name.as_str(), "matrix" | "name") {
                continue;
            }
            let value = self.attribute(instance, attribute)?;
            let at = place_of(instance.file, &attribute.expr);
            let unknown = super::target::kind(&attribute.name).is_none() || at.span.is_empty();
            target.set(&attribute.name, &value, if unknown { attribute.place } else { at })?;
        }
        config.add_target(target);
        Ok(())
    }

    fn attribute(&self, instance: &Instance<'a>, attribute: &Attribute) -> Result<Value> {
        let at = place_of(instance.file, &attribute.expr);
        let key = format!("{}.{}.{}", instance.block.kind, instance.name, attribute.name);
        // Several blocks may have one name, so the value is not kept under it.
        self.enter(&key, at)?;
        let value = self.evaluator(instance.file, instance.locals.clone()).value(&attribute.expr);
        self.under_way.borrow_mut().pop();
        value
    }

    /// A block whose targets have other names than its own is a group of them.
    fn rename(&self, instances: &[Instance<'a>], config: &mut Config) {
        let mut names: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for instance in instances.iter().filter(|instance| instance.block.kind == "target") {
            let renamed = names.entry(&instance.block.labels[0]).or_default();
            if !renamed.contains(&instance.name) {
                renamed.push(instance.name.clone());
            }
        }
        for (name, targets) in names {
            if targets != [name] {
                config.add_group(Group { name: name.to_owned(), targets, description: None });
            }
        }
    }
}

fn bad_name(name: &str, place: Place) -> Error {
    Error::at("E0702", place, format!("{name:?} is no name of a target or group"))
        .with_help("names have letters, digits, - and _; sanitize(…) makes one of any text")
}

impl eval::Scope for Files<'_> {
    fn variable(&self, name: &str, place: Place) -> Result<Option<Value>> {
        self.variable_at(name, place)
    }

    fn block(&self, kind: &str, path: &[String], place: Place) -> Result<Option<(Value, usize)>> {
        if !matches!(kind, "target" | "group") {
            return Ok(None);
        }
        let Some(instances) = self.instances.get() else {
            let message = "names and matrices can not use attributes of targets";
            return Err(Error::at("E0706", place, message));
        };
        let mine = || instances.iter().filter(|instance| instance.block.kind == kind);
        let Some(name) = path.first() else {
            return Err(Error::at("E0706", place, format!("{kind} alone has no value"))
                .with_help(format!("as in {kind}.NAME.ATTRIBUTE")));
        };
        let found: Vec<&Instance<'_>> = mine().filter(|instance| instance.name == *name).collect();
        if found.is_empty() {
            let names = mine().map(|instance| instance.name.as_str());
            let suggestion = crate::dockerfile::suggest(name, names, true);
            return Err(Error::at("E0709", place, format!("there is no {kind} {name:?}"))
                .with_suggestion(suggestion));
        }
        let Some(attribute) = path.get(1) else {
            let mut all = BTreeMap::new();
            for instance in &found {
                for attribute in &instance.block.body.attributes {
                    if !matches!(attribute.name.as_str(), "matrix" | "name") {
                        let value = self.attribute(instance, attribute)?;
                        all.insert(attribute.name.clone(), value);
                    }
                }
            }
            all.insert("name".to_owned(), name.as_str().into());
            return Ok(Some((Value::Map(all), 1)));
        };
        if attribute == "name" {
            return Ok(Some((name.as_str().into(), 2)));
        }
        let defined = found.iter().rev().find_map(|instance| {
            instance.block.body.attribute(attribute).map(|found| (instance, found))
        });
        match defined {
            Some((instance, found)) => Ok(Some((self.attribute(instance, found)?, 2))),
            None => Ok(Some((Value::Null, 2))),
        }
    }

    fn names(&self) -> Vec<String> {
        let names = self.builtins.keys().chain(self.variables.keys()).chain(self.attributes.keys());
        names.map(|name| (*name).to_owned()).collect()
    }

    fn call(&self, name: &str, args: Vec<Value>, place: Place) -> Result<Value> {
        let Some(&(file, block)) = self.functions.get(name) else {
            if let Some(answer) = functions::call(self.world, name, &args) {
                return answer.map_err(|error| Error::at("E0705", place, error));
            }
            let error = Error::at("E0705", place, format!("there is no function {name:?}"));
            if let Some(way_out) = functions::refused(name) {
                return Err(Error::at(
                    "E0705",
                    place,
                    format!("the function {name} is not supported"),
                )
                .with_help(way_out));
            }
            let own = self.functions.keys().map(|name| (*name).to_owned());
            let names: Vec<String> = functions::names().map(str::to_owned).chain(own).collect();
            let names = names.iter().map(String::as_str);
            return Err(error.with_suggestion(crate::dockerfile::suggest(name, names, true)));
        };
        let list = |attribute: &str| -> Result<Vec<String>> {
            match block.body.attribute(attribute) {
                None => Ok(Vec::new()),
                Some(found) => parameters(file, found),
            }
        };
        let params = list("params")?;
        let rest = match block.body.attribute("variadic_params") {
            None => None,
            Some(found) => parameters(file, found)?.pop(),
        };
        if args.len() < params.len() || (rest.is_none() && args.len() > params.len()) {
            let message = format!("{name} takes {} arguments, not {}", params.len(), args.len());
            return Err(Error::at("E0705", place, message));
        }
        let result = block.body.attribute("result").ok_or_else(|| {
            Error::at("E0705", block.place, format!("the function {name} has no result = …"))
        })?;
        let mut args = args.into_iter();
        let mut locals: Vec<(String, Value)> = params.into_iter().zip(args.by_ref()).collect();
        if let Some(rest) = rest {
            locals.push((rest, Value::List(args.collect())));
        }
        self.enter(&format!("{name}()"), place)?;
        let value = self.evaluator(file, locals).value(&result.expr);
        self.under_way.borrow_mut().pop();
        value
    }

    fn spend(&self, amount: usize) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(amount));
        left >= amount
    }

    fn depth(&self) -> &Cell<usize> {
        &self.depth
    }
}

/// Reads the names of a function's parameters: `[a, b]`, or one name.
fn parameters(file: FileId, attribute: &Attribute) -> Result<Vec<String>> {
    let name = |expr: &Expression| match expr {
        Expression::Variable(name) => Ok(name.to_string()),
        Expression::String(name) => Ok(name.value().clone()),
        other => {
            let at = place_of(file, other);
            let at = if at.span.is_empty() { attribute.place } else { at };
            Err(Error::at("E0705", at, "a parameter is a name"))
        }
    };
    match &attribute.expr {
        Expression::Array(list) => list.iter().map(name).collect(),
        one => Ok(vec![name(one)?]),
    }
}
