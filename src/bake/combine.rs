//! `include` and `extends` of compose files: what several files and services say becomes one.
//!
//! Behaviour of compose-go (`loader/include.go`, `loader/extends.go`, `override/merge.go`), as far as
//! it concerns builds: of services `build`, `image` and `environment`, and `secrets`. Included files
//! come first, and the file that includes them wins; then services are extended. Relative paths are
//! relative to the project directory of the file that they stand in, or to the directory of a file
//! that is extended.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::compose::{Lookup, parse, wrong};
use super::dotenv::dotenv;
use super::error::{FileId, Result};
use super::functions::World;
use super::value::Value;

/// Members of an object.
pub type Map = BTreeMap<String, Value>;

/// How many files may include or extend one another in a row.
const MAX_CHAIN: usize = 32;

/// How many files may be read for one, each time counted.
const MAX_FILES: usize = 500;

/// What a value takes besides its text, about, bytes.
const NODE: usize = 100;

/// What of a service concerns builds.
const SERVICE: [&str; 4] = ["build", "image", "environment", "extends"];

/// Reads a compose file and those that it names.
pub struct Files<'a> {
    /// The file that all errors are about.
    pub id: FileId,
    /// How it is shown.
    pub name: &'a str,
    /// Reads other files.
    pub world: &'a World<'a>,
    /// How much text all may still come to, bytes.
    pub left: &'a Cell<usize>,
    /// How many other files were read.
    pub count: Cell<usize>,
}

impl Files<'_> {
    /// Reads the file itself, whose directory is the one that paths are relative to.
    pub fn read(&self, text: &str, lookup: Lookup<'_>) -> Result<Map> {
        self.project(text, self.name, "", lookup, &mut Vec::new())
    }

    fn project(
        &self,
        text: &str,
        name: &str,
        dir: &str,
        lookup: Lookup<'_>,
        chain: &mut Vec<String>,
    ) -> Result<Map> {
        let mut root = self.parsed(text, name, dir, lookup)?;
        chain.push(name.to_owned());
        let include = root.remove("include");
        for item in include.iter().flat_map(|list| match list {
            Value::List(list) => list.as_slice(),
            Value::Null => &[],
            one => std::slice::from_ref(one),
        }) {
            let included = self.included(item, dir, lookup, chain)?;
            root = self.joined(included, root)?;
        }
        chain.pop();
        if let Some(Value::Map(services)) = root.get_mut("services") {
            let names: Vec<String> = services.keys().cloned().collect();
            for service in names {
                self.extended(name, &service, services, lookup, &mut Vec::new())?;
            }
        }
        Ok(root)
    }

    /// Parses a file, keeps what concerns builds, and makes its paths relative to where all begins.
    fn parsed(&self, text: &str, name: &str, dir: &str, lookup: Lookup<'_>) -> Result<Map> {
        let about = |mut error: super::error::Error| {
            if name != self.name {
                // The place is one of another file.
                error = wrong(self.id, format!("{name}: {}", error.diagnostic.message));
            }
            error
        };
        let mut root = parse(self.id, text, lookup, self.left).map_err(about)?;
        root.retain(|key, _| ["services", "secrets", "include"].contains(&key.as_str()));
        if let Some(Value::Map(services)) = root.get_mut("services") {
            for service in services.values_mut() {
                if let Value::Map(members) = service {
                    members.retain(|key, _| SERVICE.contains(&key.as_str()));
                    place_service(members, dir);
                }
            }
        }
        if let Some(Value::Map(secrets)) = root.get_mut("secrets") {
            for secret in secrets.values_mut() {
                if let Value::Map(secret) = secret {
                    place(secret.get_mut("file"), |file| join(dir, file));
                }
            }
        }
        Ok(root)
    }

    fn file(&self, name: &str) -> Result<String> {
        self.count.set(self.count.get() + 1);
        if self.count.get() > MAX_FILES {
            return Err(wrong(
                self.id,
                format!("more than {MAX_FILES} files include or extend others"),
            ));
        }
        let text = (self.world.file)(name);
        text.map_err(|error| wrong(self.id, format!("cannot read {name}: {error}")))
    }

    /// Reads what one entry of `include` names.
    fn included(
        &self,
        item: &Value,
        dir: &str,
        lookup: Lookup<'_>,
        chain: &mut Vec<String>,
    ) -> Result<Map> {
        let bad = |what: String| wrong(self.id, format!("include: {what}"));
        let texts = |value: &Value| -> Result<Vec<String>> {
            match value {
                Value::List(list) => list.iter().map(|text| text.text().map_err(bad)).collect(),
                one => Ok(vec![one.text().map_err(bad)?]),
            }
        };
        let (mut paths, mut home, mut env_files) = (Vec::new(), None, None);
        match item {
            Value::Map(members) => {
                for (key, value) in members.iter().filter(|(_, value)| **value != Value::Null) {
                    match key.as_str() {
                        "path" => paths = texts(value)?,
                        "project_directory" => home = Some(value.text().map_err(bad)?),
                        "env_file" => env_files = Some(texts(value)?),
                        other => return Err(bad(format!("there is no attribute {other:?}"))),
                    }
                }
            }
            one => paths = texts(one)?,
        }
        let paths: Vec<String> = paths.iter().map(|path| join(dir, path)).collect();
        let Some(first) = paths.first() else { return Err(bad("path is missing".to_owned())) };
        if chain.contains(first) || chain.len() > MAX_CHAIN {
            return Err(bad(format!("{first} includes itself: {}", chain.join(", "))));
        }
        let home = home.map_or_else(|| parent(first).to_owned(), |home| join(dir, &home));
        let mut variables = BTreeMap::new();
        match env_files {
            Some(files) => {
                for file in files.iter().filter(|file| *file != "/dev/null") {
                    variables.extend(dotenv(&self.file(&join(dir, file))?));
                }
            }
            // It may be there.
            None => {
                if let Ok(text) = (self.world.file)(&join(&home, ".env")) {
                    variables = dotenv(&text);
                }
            }
        }
        let lookup = |name: &str| lookup(name).or_else(|| variables.get(name).cloned());
        let mut all = Map::new();
        for path in &paths {
            let one = self.project(&self.file(path)?, path, &home, &lookup, chain)?;
            all = self.joined(all, one)?;
        }
        Ok(all)
    }

    /// Joins two files; the second one wins.
    fn joined(&self, mut base: Map, over: Map) -> Result<Map> {
        for (key, value) in over {
            let merged = match (base.remove(&key), value) {
                (Some(Value::Map(mut old)), Value::Map(new)) => {
                    for (name, value) in new {
                        let value = match (old.remove(&name), value) {
                            (Some(Value::Map(old)), Value::Map(new)) if key == "services" => {
                                Value::Map(self.services(&name, old, new)?)
                            }
                            (Some(old), new) => generic(old, new),
                            (None, new) => new,
                        };
                        old.insert(name, value);
                    }
                    Value::Map(old)
                }
                (Some(old), Value::Null) => old,
                (_, value) => value,
            };
            base.insert(key, merged);
        }
        Ok(base)
    }

    /// Gives a service with everything that it extends, and keeps it.
    fn extended(
        &self,
        file: &str,
        name: &str,
        services: &mut Map,
        lookup: Lookup<'_>,
        chain: &mut Vec<(String, String)>,
    ) -> Result<Value> {
        let service = services.get(name).cloned().unwrap_or(Value::Null);
        self.take(&service)?;
        let Value::Map(mut members) = service else { return Ok(service) };
        let bad = |what: String| wrong(self.id, format!("services.{name}.extends: {what}"));
        let (other, from) = match members.remove("extends") {
            None => return Ok(Value::Map(members)),
            Some(Value::Map(extends)) => {
                let text = |key: &str| {
                    let value = extends.get(key).filter(|value| **value != Value::Null);
                    value.map(|value| value.text().map_err(bad)).transpose()
                };
                (text("service")?, text("file")?)
            }
            Some(other) => (Some(other.text().map_err(bad)?), None),
        };
        let Some(other) = other else { return Err(bad("service is missing".to_owned())) };
        let this = (file.to_owned(), name.to_owned());
        if chain.contains(&this) || chain.len() > MAX_CHAIN {
            let names: Vec<&str> = chain.iter().map(|(_, name)| name.as_str()).collect();
            return Err(bad(format!("{name} extends itself: {}", names.join(", "))));
        }
        chain.push(this);
        let missing = |file: &str| bad(format!("there is no service {other:?} in {file}"));
        let base = match from {
            Some(from) => {
                let root = self.parsed(&self.file(&from)?, &from, parent(&from), lookup)?;
                let Some(Value::Map(mut services)) = root.get("services").cloned() else {
                    return Err(missing(&from));
                };
                if !services.contains_key(&other) {
                    return Err(missing(&from));
                }
                self.extended(&from, &other, &mut services, lookup, chain)?
            }
            None if !services.contains_key(&other) => return Err(missing(file)),
            None => self.extended(file, &other, services, lookup, chain)?,
        };
        chain.pop();
        let merged = match base {
            Value::Map(base) => self.services(name, base, members)?,
            _ => members,
        };
        let merged = Value::Map(merged);
        self.take(&merged)?;
        services.insert(name.to_owned(), merged.clone());
        Ok(merged)
    }

    /// Merges what two say of one service.
    fn services(&self, name: &str, mut base: Map, over: Map) -> Result<Map> {
        for (key, value) in over {
            let merged = match (key.as_str(), base.remove(&key)) {
                (_, None) => value,
                ("build", Some(old)) => {
                    let of = |value| match value {
                        Value::Map(members) => Ok(members),
                        Value::Null => Ok(Map::new()),
                        other => other
                            .text()
                            .map(|context| {
                                Map::from([("context".to_owned(), Value::String(context))])
                            })
                            .map_err(|error| {
                                wrong(self.id, format!("services.{name}.build: {error}"))
                            }),
                    };
                    Value::Map(builds(of(old)?, of(value)?))
                }
                ("environment", Some(old)) => sequence(old, value),
                (_, Some(old)) => generic(old, value),
            };
            base.insert(key, merged);
        }
        Ok(base)
    }

    /// Counts what is there twice.
    fn take(&self, value: &Value) -> Result<()> {
        match self.left.get().checked_sub(size(value)) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(wrong(self.id, "extends makes more of it than is read")),
        }
    }
}

/// About how much a value takes, bytes.
fn size(value: &Value) -> usize {
    NODE + match value {
        Value::String(text) => text.len(),
        Value::List(list) => list.iter().map(size).sum(),
        Value::Map(members) => members.iter().map(|(key, value)| key.len() + size(value)).sum(),
        _ => 0,
    }
}

fn builds(mut base: Map, over: Map) -> Map {
    for (key, value) in over {
        let merged = match (key.as_str(), base.remove(&key)) {
            (_, None) => value,
            ("args" | "additional_contexts" | "labels" | "extra_hosts", Some(old)) => {
                sequence(old, value)
            }
            // The later limit of a name counts, whole.
            ("ulimits", Some(Value::Map(mut old))) => match value {
                Value::Map(new) => {
                    old.extend(new);
                    Value::Map(old)
                }
                Value::Null => Value::Map(old),
                other => other,
            },
            (_, Some(old)) => generic(old, value),
        };
        base.insert(key, merged);
    }
    base
}

/// Members are joined, lists appended; of everything else the later one counts.
fn generic(base: Value, over: Value) -> Value {
    match (base, over) {
        (base, Value::Null) => base,
        (Value::Map(mut base), Value::Map(over)) => {
            for (key, value) in over {
                let merged = match base.remove(&key) {
                    Some(old) => generic(old, value),
                    None => value,
                };
                base.insert(key, merged);
            }
            Value::Map(base)
        }
        (Value::List(mut base), Value::List(over)) => {
            base.extend(over);
            Value::List(base)
        }
        (_, over) => over,
    }
}

/// Joins what may be `name: value` or a list of `name=value`; the later one of a name counts.
fn sequence(base: Value, over: Value) -> Value {
    let list = |value: Value| match value {
        Value::Map(members) => members
            .into_iter()
            .flat_map(|(name, value)| match value {
                Value::Null => vec![Value::String(name)],
                Value::List(list) => list
                    .iter()
                    .map(|one| Value::String(format!("{name}={}", one.text().unwrap_or_default())))
                    .collect(),
                one => vec![Value::String(format!("{name}={}", one.text().unwrap_or_default()))],
            })
            .collect(),
        Value::List(list) => list,
        Value::Null => Vec::new(),
        one => vec![one],
    };
    match (base, over) {
        // As long as both are objects there is nothing to order.
        (Value::Map(mut base), Value::Map(over)) => {
            base.extend(over);
            Value::Map(base)
        }
        (base, over) => {
            let mut all = list(base);
            all.extend(list(over));
            Value::List(all)
        }
    }
}

/// Makes the paths of a service relative to where all begins.
fn place_service(members: &mut Map, dir: &str) {
    if let Some(Value::Map(extends)) = members.get_mut("extends") {
        place(extends.get_mut("file"), |file| join(dir, file));
    }
    match members.get_mut("build") {
        Some(Value::Map(build)) => {
            place(build.get_mut("context"), |context| source(dir, context));
            place_all(build.get_mut("additional_contexts"), |text| source(dir, text));
            place_all(build.get_mut("ssh"), |text| join(dir, text));
        }
        build => place(build, |context| source(dir, context)),
    }
}

fn place(value: Option<&mut Value>, of: impl Fn(&str) -> String) {
    if let Some(Value::String(text)) = value {
        *text = of(text);
    }
}

/// The same for the values of an object, or of a list of `name=value`.
fn place_all(values: Option<&mut Value>, of: impl Fn(&str) -> String) {
    match values {
        Some(Value::Map(members)) => {
            members.values_mut().for_each(|value| place(Some(value), &of));
        }
        Some(Value::List(list)) => {
            let pair = |text: &str| match text.split_once('=') {
                Some((name, value)) => format!("{name}={}", of(value)),
                None => text.to_owned(),
            };
            list.iter_mut().for_each(|item| place(Some(item), pair));
        }
        _ => {}
    }
}

/// A context: a path, unless it says that it is something else (compose-go: `absContextPath`).
fn source(dir: &str, text: &str) -> String {
    let other = text.contains("://")
        || ["service:", "target:", "github.com/", "git@"]
            .iter()
            .any(|start| text.starts_with(start));
    if other { text.to_owned() } else { join(dir, text) }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Joins paths without looking at any file. What stands where all begins stays as it is written.
fn join(dir: &str, path: &str) -> String {
    if dir.is_empty() || path.starts_with(['/', '~']) || path.is_empty() {
        return path.to_owned();
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in dir.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if dir.starts_with('/') => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (dir.starts_with('/'), joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_joined() {
        for (dir, path, expected) in [
            ("", "./a", "./a"),
            ("a", ".", "a"),
            ("a/b", "../c", "a/c"),
            ("a", "..", "."),
            ("a", "../..", ".."),
            ("..", "../a", "../../a"),
            ("a", "/b", "/b"),
            ("/a", "../../b", "/b"),
            ("a", "~/b", "~/b"),
        ] {
            assert_eq!(join(dir, path), expected, "{dir} {path}");
        }
        assert_eq!(source("a", "docker-image://x"), "docker-image://x");
        assert_eq!(source("a", "git@h:r"), "git@h:r");
        assert_eq!(source("a", "service:b"), "service:b");
        assert_eq!(source("a", "b"), "a/b");
    }
}
