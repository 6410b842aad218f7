//! Services of compose files, as targets: each service with `build`, and a group `default` of all.
//!
//! What compose says besides `build`, `image`, `environment` and `secrets` is about running
//! containers, and has no part in a build.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;

use serde::Deserializer;
use serde::de::{self, DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_yaml_ng::Value as Yaml;

use super::combine::Files;
use super::config::{Config, Group};
use super::csv;
use super::error::{Error, FileId, Place, Result};
use super::functions::World;
use super::interpolate::interpolate;
use super::scope::is_name;
use super::target::Target;
use super::value::Value;
use super::{File, Given};

/// How deep lists and objects may lie within each other.
const MAX_DEPTH: usize = 64;

/// Attributes that `x-bake` may have.
const EXTENSION: [&str; 11] = [
    "tags",
    "cache-from",
    "cache-to",
    "secret",
    "ssh",
    "platforms",
    "output",
    "pull",
    "no-cache",
    "no-cache-filter",
    "contexts",
];

/// What a variable is.
pub(super) type Lookup<'l> = &'l dyn Fn(&str) -> Option<String>;

pub(super) fn wrong(file: FileId, message: impl Into<String>) -> Error {
    Error::at("E0711", Place::file(file), message)
}

/// Parses a file, with variables replaced. What it comes to is taken from `left`, bytes.
pub(super) fn parse(
    file: FileId,
    text: &str,
    lookup: Lookup<'_>,
    left: &Cell<usize>,
) -> Result<BTreeMap<String, Value>> {
    let unread = |error: serde_yaml_ng::Error| {
        let at = error.location().map_or(0, |place| place.index().min(text.len()));
        let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let end = text[at..].chars().next().map_or(at, |char| at + char.len_utf8());
        let message = error.to_string();
        let message = message.split(" at line").next().unwrap_or_default();
        let place = super::syntax::place(file, Some(at..end));
        Error::at("E0701", place, format!("this is not YAML: {message}"))
    };
    // Aliases can make any amount of little text; so it is counted before it is built.
    let size = Size { left };
    size.deserialize(serde_yaml_ng::Deserializer::from_str(text)).map_err(unread)?;
    let mut yaml: Yaml = serde_yaml_ng::from_str(text).map_err(unread)?;
    yaml.apply_merge().map_err(|error| wrong(file, error.to_string()))?;
    match value(&yaml, lookup, 0).map_err(|error| wrong(file, error))? {
        Value::Map(root) => Ok(root),
        _ => Err(wrong(file, "a compose file is an object with services")),
    }
}

/// Reads a file and those that it names, and adds its targets to `config`.
pub fn read(
    id: FileId,
    file: &File,
    given: &Given,
    world: &World<'_>,
    config: &mut Config,
) -> Result<()> {
    let lookup = |name: &str| {
        let var = given.variables.get(name).cloned();
        var.or_else(|| (world.variable)(name)).or_else(|| given.dotenv.get(name).cloned())
    };
    let left = Cell::new(super::MAX_TEXT);
    let files = Files { id, name: &file.name, world, left: &left, count: Cell::new(0) };
    let root = files.read(&file.text, &lookup)?;
    let file = id;
    let empty = BTreeMap::new();
    let services = match root.get("services") {
        Some(Value::Map(services)) => services,
        Some(Value::Null) | None => &empty,
        Some(_) => return Err(wrong(file, "services must be an object")),
    };
    if services.len() + config.targets.len() > super::MOST_TARGETS {
        return Err(wrong(file, format!("there are more than {} targets", super::MOST_TARGETS)));
    }
    let mut group = Group { name: "default".to_owned(), ..Group::default() };
    if let Some(known) = config.groups.iter().find(|known| known.name == "default") {
        group.targets.clone_from(&known.targets);
    }
    for (service, definition) in services {
        let Value::Map(definition) = definition else { continue };
        let Some(build) = definition.get("build").filter(|build| **build != Value::Null) else {
            continue;
        };
        let name = service.replace('.', "_");
        if !is_name(&name) {
            return Err(wrong(file, format!("services.{service}: this is no name of a target")));
        }
        let reader = Reader { file, service, root: &root, definition, lookup: &lookup };
        let target = reader.target(&name, build)?;
        if !group.targets.contains(&name) {
            group.targets.push(name);
        }
        config.add_target(target);
    }
    config.add_group(group);
    Ok(())
}

/// Counts the bytes that a document would take, and fails when these are too many.
#[derive(Clone, Copy)]
struct Size<'a> {
    left: &'a Cell<usize>,
}

impl Size<'_> {
    fn take<E: de::Error>(self, bytes: usize) -> Result<(), E> {
        match self.left.get().checked_sub(NODE + bytes) {
            Some(left) => {
                self.left.set(left);
                Ok(())
            }
            None => Err(E::custom("its aliases make more of it than is read")),
        }
    }
}

/// What a value takes besides its text, about, bytes.
const NODE: usize = 100;

impl<'de> DeserializeSeed<'de> for Size<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Size<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        self.take(0)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        self.take(0)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        self.take(0)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        self.take(0)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        self.take(0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        self.take(text.len())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.take(0)?;
        while items.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        self.take(0)?;
        while members.next_entry_seed(self, self)?.is_some() {}
        Ok(())
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<(), A::Error> {
        let (tag, content) = tagged.variant::<String>()?;
        self.take(tag.len())?;
        content.newtype_variant_seed(self)
    }
}

/// Turns YAML into a value, with variables replaced.
fn value(
    yaml: &Yaml,
    lookup: &dyn Fn(&str) -> Option<String>,
    depth: usize,
) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err("lists and objects lie too deep within each other".to_owned());
    }
    Ok(match yaml {
        Yaml::Null => Value::Null,
        Yaml::Bool(on) => Value::Bool(*on),
        Yaml::Number(number) => Value::Number(number.as_f64().unwrap_or_default()),
        Yaml::String(text) => Value::String(interpolate(text, lookup)?),
        Yaml::Sequence(list) => Value::List(
            list.iter().map(|item| value(item, lookup, depth + 1)).collect::<Result<_, _>>()?,
        ),
        Yaml::Mapping(map) => {
            let mut out = BTreeMap::new();
            for (key, item) in map {
                let key = match key {
                    Yaml::String(key) => key.clone(),
                    other => value(other, lookup, depth + 1)?.text()?,
                };
                out.insert(key, value(item, lookup, depth + 1)?);
            }
            Value::Map(out)
        }
        Yaml::Tagged(tagged) if tagged.tag == "reset" || tagged.tag == "override" => {
            return Err(format!(
                "the tag {} is not supported: leave out what it takes away",
                tagged.tag
            ));
        }
        Yaml::Tagged(tagged) => value(&tagged.value, lookup, depth + 1)?,
    })
}

/// Reads one service.
struct Reader<'a> {
    file: FileId,
    service: &'a str,
    root: &'a BTreeMap<String, Value>,
    definition: &'a BTreeMap<String, Value>,
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl Reader<'_> {
    fn wrong(&self, message: impl std::fmt::Display) -> Error {
        wrong(self.file, format!("services.{}.build: {message}", self.service))
    }

    fn target(&self, name: &str, build: &Value) -> Result<Target> {
        let mut target = Target::new(name);
        target.place = Some(Place::file(self.file));
        let short;
        let build = match build {
            Value::Map(build) => build,
            other => {
                let context = other.text().map_err(|error| self.wrong(error))?;
                short = BTreeMap::from([("context".to_owned(), Value::String(context))]);
                &short
            }
        };
        for (key, given) in build {
            if *given == Value::Null {
                continue;
            }
            self.key(&mut target, key, given)?;
        }
        if target.list("tags").is_empty()
            && let Some(image) = self.definition.get("image").filter(|image| **image != Value::Null)
        {
            self.set(&mut target, "tags", Value::List(vec![image.clone()]))?;
        }
        if let Some(extension) = build.get("x-bake").filter(|value| **value != Value::Null) {
            self.extension(&mut target, extension)?;
        }
        Ok(target)
    }

    fn set(&self, target: &mut Target, name: &str, value: Value) -> Result<()> {
        target.set(name, &value, Place::file(self.file)).map_err(|error| self.wrong(&error))
    }

    fn key(&self, target: &mut Target, key: &str, given: &Value) -> Result<()> {
        let renamed = match key {
            "context" | "dockerfile" | "target" | "network" | "tags" | "platforms" | "pull"
            | "entitlements" => key,
            "dockerfile_inline" => "dockerfile-inline",
            "no_cache" => "no-cache",
            "cache_from" => "cache-from",
            "cache_to" => "cache-to",
            "no_cache_filter" => "no-cache-filter",
            "x-bake" => return Ok(()),
            "shm_size" => {
                let text = given.text().map_err(|error| self.wrong(error))?;
                return self.set(target, "shm-size", Value::String(text));
            }
            "args" => {
                let mut args = BTreeMap::new();
                for (name, value) in self.pairs(key, given, '=')? {
                    let value = value.or_else(|| self.variable(&name));
                    if let Some(value) = value {
                        args.insert(name, Value::String(value));
                    }
                }
                return self.set(target, "args", Value::Map(args));
            }
            "labels" => {
                let pairs = self.pairs(key, given, '=')?;
                return self.set(target, "labels", map(pairs));
            }
            "additional_contexts" => {
                let pairs = self.pairs(key, given, '=')?.into_iter().map(linked).collect();
                return self.set(target, "contexts", map(pairs));
            }
            "extra_hosts" => {
                let pairs = self.pairs(key, given, ':')?;
                return self.set(target, "extra-hosts", map(pairs));
            }
            "ssh" => {
                let keys = self.pairs(key, given, '=')?.into_iter();
                let keys = keys.map(|(id, path)| match path.filter(|path| !path.is_empty()) {
                    Some(path) => format!("{id}={path}"),
                    None => id,
                });
                return self.set(target, "ssh", Value::strings(keys));
            }
            "ulimits" => return self.ulimits(target, given),
            "secrets" => return self.secrets(target, given),
            "provenance" | "sbom" => {
                let text = given.text().map_err(|error| self.wrong(error))?;
                let text = match text.as_str() {
                    "true" => format!("type={key}"),
                    "false" => format!("type={key},disabled=true"),
                    more => format!("type={key},{more}"),
                };
                return self.set(target, "attest", Value::strings([text]));
            }
            "privileged" | "isolation" => {
                let off = matches!(given, Value::Bool(false)) || *given == Value::from("default");
                return match off {
                    true => Ok(()),
                    false => Err(self.wrong(format!("{key} is not supported"))),
                };
            }
            other if other.starts_with("x-") => return Ok(()),
            other => return Err(self.wrong(format!("there is no attribute {other:?}"))),
        };
        let value = match (renamed, given) {
            ("tags" | "platforms" | "cache-from" | "cache-to", Value::String(one)) => {
                Value::strings([one.clone()])
            }
            (_, other) => other.clone(),
        };
        self.set(target, renamed, value)
    }

    /// Reads `name: value`, or a list of `name=value`.
    fn pairs(
        &self,
        key: &str,
        given: &Value,
        separator: char,
    ) -> Result<Vec<(String, Option<String>)>> {
        let wrong = |error: String| self.wrong(format!("{key}: {error}"));
        match given {
            Value::Map(map) => map
                .iter()
                .map(|(name, value)| match value {
                    Value::Null => Ok((name.clone(), None)),
                    // Several addresses of one host.
                    Value::List(list) => {
                        let texts = list.iter().map(Value::text).collect::<Result<Vec<_>, _>>();
                        Ok((name.clone(), Some(texts.map_err(wrong)?.join(","))))
                    }
                    value => Ok((name.clone(), Some(value.text().map_err(wrong)?))),
                })
                .collect(),
            other => {
                let list = other.elements().map_err(wrong)?;
                list.iter()
                    .map(|item| {
                        let text = item.text().map_err(wrong)?;
                        let pair = text.split_once('=').or_else(|| text.split_once(separator));
                        Ok(match pair {
                            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                            None => (text, None),
                        })
                    })
                    .collect()
            }
        }
    }

    /// A variable of the service, else of the environment: for `args` without a value.
    fn variable(&self, name: &str) -> Option<String> {
        let own = self.definition.get("environment").and_then(|given| {
            let pairs = self.pairs("environment", given, '=').ok()?;
            pairs.into_iter().find(|(known, _)| known == name)?.1
        });
        own.or_else(|| (self.lookup)(name))
    }

    fn ulimits(&self, target: &mut Target, given: &Value) -> Result<()> {
        let limits = given.entries().map_err(|error| self.wrong(format!("ulimits: {error}")))?;
        let mut list = Vec::new();
        for (name, limit) in limits {
            let number = |value: Option<&Value>| -> Result<i64> {
                let value = value.ok_or_else(|| {
                    self.wrong(format!("ulimits.{name}: soft and hard are needed"))
                })?;
                value.integer().map_err(|error| self.wrong(format!("ulimits.{name}: {error}")))
            };
            let (soft, hard) = match limit {
                Value::Map(map) => (number(map.get("soft"))?, number(map.get("hard"))?),
                one => (number(Some(one))?, number(Some(one))?),
            };
            list.push(format!("{name}={soft}:{hard}"));
        }
        self.set(target, "ulimits", Value::strings(list))
    }

    fn secrets(&self, target: &mut Target, given: &Value) -> Result<()> {
        let list = given.elements().map_err(|error| self.wrong(format!("secrets: {error}")))?;
        let mut entries = Vec::new();
        for item in list {
            let id = match &item {
                Value::Map(map) => map.get("source").cloned().unwrap_or(Value::Null).text(),
                other => other.text(),
            };
            let id = id.map_err(|error| self.wrong(format!("secrets: {error}")))?;
            let defined = match self.root.get("secrets") {
                Some(Value::Map(secrets)) => secrets.get(&id),
                _ => None,
            };
            let Some(Value::Map(defined)) = defined else {
                return Err(self
                    .wrong(format!("the secret {id:?} is not defined"))
                    .with_help("define it at the top: secrets: { … file: … }"));
            };
            let text = |key: &str| defined.get(key).and_then(|value| value.text().ok());
            let mut fields = vec![("id", id.clone())];
            match (text("file"), text("environment")) {
                (Some(file), _) => fields.push(("src", file)),
                (None, Some(variable)) => fields.push(("env", variable)),
                (None, None) => {
                    return Err(
                        self.wrong(format!("the secret {id:?} is neither a file nor a variable"))
                    );
                }
            }
            let fields = fields.iter().map(|(key, value)| (*key, value.as_str()));
            entries.push(csv::pairs(fields));
        }
        self.set(target, "secret", Value::strings(entries))
    }

    /// `x-bake`: what compose has no word for; joined to what there is.
    fn extension(&self, target: &mut Target, extension: &Value) -> Result<()> {
        let members =
            extension.entries().map_err(|error| self.wrong(format!("x-bake: {error}")))?;
        for (name, given) in members.iter().filter(|(_, given)| **given != Value::Null) {
            if !EXTENSION.contains(&name.as_str()) {
                return Err(self
                    .wrong(format!("x-bake has no attribute {name:?}"))
                    .with_suggestion(crate::dockerfile::suggest(name, EXTENSION, true)));
            }
            let given = match (name.as_str(), given) {
                ("pull" | "no-cache", _) => given.clone(),
                ("contexts", _) => {
                    let pairs = self.pairs(name, given, '=')?.into_iter().map(linked).collect();
                    map(pairs)
                }
                (_, Value::List(_)) => given.clone(),
                (_, one) => Value::List(vec![one.clone()]),
            };
            let mut more = Target::default();
            self.set(&mut more, name, given)?;
            let lists = ["tags", "platforms"];
            if lists.contains(&name.as_str()) {
                let mut all: Vec<String> = target.list(name).to_vec();
                all.extend(more.list(name).iter().cloned());
                self.set(target, name, Value::strings(all))?;
                continue;
            }
            target.merge(&more);
        }
        Ok(())
    }
}

/// `service:NAME` is the result of another service.
fn linked((name, source): (String, Option<String>)) -> (String, Option<String>) {
    let source = source.map(|source| {
        let link = source.strip_prefix("service:").or_else(|| source.strip_prefix("target:"));
        link.map(|link| format!("target:{}", link.replace('.', "_"))).unwrap_or(source)
    });
    (name, source)
}

fn map(pairs: Vec<(String, Option<String>)>) -> Value {
    let pairs =
        pairs.into_iter().map(|(name, value)| (name, Value::String(value.unwrap_or_default())));
    Value::Map(pairs.collect())
}
