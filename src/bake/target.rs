//! The attributes of a target: what there is, how it is read, merged, overridden and printed.
//!
//! Behaviour of buildx's `bake.Target`: what an inherited value becomes depends on the attribute,
//! so the table [`ATTRIBUTES`] says for each whether a later value replaces or adds.

use std::collections::BTreeMap;

use super::csv;
use super::error::{Error, Place, Result};
use super::value::{Value, article};

/// What an attribute holds, and what a second value does to the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text; the later one counts.
    Text,
    /// True or false; the later one counts.
    Switch,
    /// Texts; the later list counts.
    List,
    /// Texts; lists are joined.
    Joined,
    /// Texts by name; joined, the later one of a name counts.
    Map,
    /// `type=…,key=value` or an object; the later list counts.
    Entries,
    /// The same; lists are joined, what is there twice counts once.
    JoinedEntries,
}

/// Every attribute of a target, in the order of buildx's documentation.
pub const ATTRIBUTES: [(&str, Kind); 30] = [
    ("inherits", Kind::Joined),
    ("annotations", Kind::Joined),
    ("args", Kind::Map),
    ("attest", Kind::JoinedEntries),
    ("cache-from", Kind::JoinedEntries),
    ("cache-to", Kind::Entries),
    ("call", Kind::Text),
    ("context", Kind::Text),
    ("contexts", Kind::Map),
    ("description", Kind::Text),
    ("dockerfile", Kind::Text),
    ("dockerfile-inline", Kind::Text),
    ("entitlements", Kind::Joined),
    ("extra-hosts", Kind::Map),
    ("labels", Kind::Map),
    ("network", Kind::Text),
    ("no-cache", Kind::Switch),
    ("no-cache-filter", Kind::Joined),
    ("output", Kind::Entries),
    ("platforms", Kind::List),
    ("policy", Kind::JoinedEntries),
    ("pull", Kind::Switch),
    ("resources", Kind::Map),
    ("secret", Kind::JoinedEntries),
    ("shm-size", Kind::Text),
    ("ssh", Kind::JoinedEntries),
    ("tags", Kind::List),
    ("target", Kind::Text),
    ("ulimits", Kind::Joined),
    // Known to --set only.
    ("push", Kind::Switch),
];

/// Finds an attribute.
pub fn kind(name: &str) -> Option<Kind> {
    ATTRIBUTES.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

/// One of `output`, `cache-from`, `secret` and the like: keys and values.
pub type Entry = BTreeMap<String, String>;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting {
    /// Text.
    Text(String),
    /// True or false.
    Switch(bool),
    /// Texts.
    List(Vec<String>),
    /// Texts by name.
    Map(BTreeMap<String, String>),
    /// Entries.
    Entries(Vec<Entry>),
}

/// A target: attributes by name. What is not there was not given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Its attributes.
    pub settings: BTreeMap<String, Setting>,
    /// Where it is defined first.
    pub place: Option<Place>,
}

impl Target {
    /// Starts with no attributes.
    pub fn new(name: impl Into<String>) -> Target {
        Target { name: name.into(), ..Target::default() }
    }

    /// Says how much text it holds, about, bytes.
    pub fn size(&self) -> usize {
        let text = |text: &String| 40 + text.len();
        let pair = |(key, value): (&String, &String)| 80 + key.len() + value.len();
        let all = self.settings.values().map(|setting| match setting {
            Setting::Text(one) => text(one),
            Setting::Switch(_) => 0,
            Setting::List(list) => list.iter().map(text).sum(),
            Setting::Map(map) => map.iter().map(pair).sum(),
            Setting::Entries(list) => list.iter().flatten().map(pair).sum(),
        });
        100 + all.sum::<usize>()
    }

    /// Gives a text.
    pub fn text(&self, name: &str) -> Option<&str> {
        match self.settings.get(name) {
            Some(Setting::Text(text)) => Some(text),
            _ => None,
        }
    }

    /// Says whether a switch is on; off when it was not given.
    pub fn is_on(&self, name: &str) -> bool {
        matches!(self.settings.get(name), Some(Setting::Switch(true)))
    }

    /// Gives a list; empty when it was not given.
    pub fn list(&self, name: &str) -> &[String] {
        match self.settings.get(name) {
            Some(Setting::List(list)) => list,
            _ => &[],
        }
    }

    /// Gives a map's entries.
    pub fn map(&self, name: &str) -> impl Iterator<Item = (&str, &str)> {
        let map = match self.settings.get(name) {
            Some(Setting::Map(map)) => Some(map),
            _ => None,
        };
        map.into_iter().flatten().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Gives entries.
    pub fn entries(&self, name: &str) -> &[Entry] {
        match self.settings.get(name) {
            Some(Setting::Entries(list)) => list,
            _ => &[],
        }
    }

    /// Names the targets whose results are contexts of this one: (context, target).
    pub fn links(&self) -> impl Iterator<Item = (&str, &str)> {
        self.map("contexts")
            .filter_map(|(name, source)| source.strip_prefix("target:").map(|link| (name, link)))
    }

    /// Reads an attribute's value; null counts as not given.
    pub fn set(&mut self, name: &str, value: &Value, place: Place) -> Result<()> {
        let Some(kind) = kind(name).filter(|_| name != "push") else {
            let names = ATTRIBUTES.iter().map(|(name, _)| *name);
            let message = format!("a target has no attribute {name:?}");
            return Err(Error::at("E0703", place, message)
                .with_suggestion(crate::dockerfile::suggest(name, names, true)));
        };
        if *value == Value::Null {
            return Ok(());
        }
        let wrong = |error: String| Error::at("E0703", place, format!("{name}: {error}"));
        let setting = read(name, kind, value).map_err(wrong)?;
        self.merge_setting(name, setting);
        Ok(())
    }

    /// Joins another target into this one: what it says counts more.
    pub fn merge(&mut self, other: &Target) {
        for (name, setting) in &other.settings {
            self.merge_setting(name, setting.clone());
        }
    }

    fn merge_setting(&mut self, name: &str, setting: Setting) {
        let joins = matches!(kind(name), Some(Kind::Joined | Kind::Map | Kind::JoinedEntries));
        match (self.settings.get_mut(name), setting) {
            (Some(Setting::List(list)), Setting::List(more)) if joins => list.extend(more),
            (Some(Setting::Map(map)), Setting::Map(more)) if joins => map.extend(more),
            (Some(Setting::Entries(list)), Setting::Entries(more)) if joins => {
                for entry in more {
                    // An attestation is there once a type.
                    if name == "attest" {
                        list.retain(|known| known.get("type") != entry.get("type"));
                    }
                    if !list.contains(&entry) {
                        list.push(entry);
                    }
                }
            }
            (_, setting) => {
                self.settings.insert(name.to_owned(), setting);
            }
        }
    }

    /// Drops what is there twice, as buildx does before it prints a target, and what is empty.
    pub fn normalise(&mut self) {
        for name in
            ["annotations", "tags", "platforms", "no-cache-filter", "ulimits", "entitlements"]
        {
            if let Some(Setting::List(list)) = self.settings.get_mut(name) {
                let mut seen = std::collections::BTreeSet::new();
                list.retain(|text| !text.is_empty() && seen.insert(text.clone()));
            }
        }
        self.settings.retain(|_, setting| match setting {
            Setting::List(list) => !list.is_empty(),
            Setting::Map(map) => !map.is_empty(),
            Setting::Entries(list) => !list.is_empty(),
            Setting::Text(_) | Setting::Switch(_) => true,
        });
    }

    /// Writes it as `--print` does.
    pub fn to_json(&self) -> serde_json::Value {
        let hidden = |name: &str| matches!(name, "inherits" | "push");
        let shown = self.settings.iter().filter(|(name, _)| !hidden(name));
        let members = shown.map(|(name, setting)| (name.clone(), setting.to_json()));
        serde_json::Value::Object(members.collect())
    }
}

impl Setting {
    fn to_json(&self) -> serde_json::Value {
        match self {
            Setting::Text(text) => text.as_str().into(),
            Setting::Switch(on) => (*on).into(),
            Setting::List(list) => list.as_slice().into(),
            Setting::Map(map) => serde_json::json!(map),
            Setting::Entries(list) => list.iter().map(entry_json).collect(),
        }
    }
}

fn entry_json(entry: &Entry) -> serde_json::Value {
    let value = |(key, value): (&String, &String)| {
        let value = match key.as_str() {
            "paths" => value.split(',').collect(),
            _ => serde_json::Value::from(value.as_str()),
        };
        (key.clone(), value)
    };
    serde_json::Value::Object(entry.iter().map(value).collect())
}

/// Writes an entry as a flag of `build` takes it.
pub fn entry_text(entry: &Entry) -> String {
    let first = entry.get_key_value("type");
    let rest = entry.iter().filter(|(key, _)| *key != "type");
    csv::pairs(first.into_iter().chain(rest).map(|(key, value)| (key.as_str(), value.as_str())))
}

fn read(name: &str, kind: Kind, value: &Value) -> Result<Setting, String> {
    let given = |list: Vec<Value>| list.into_iter().filter(|value| *value != Value::Null);
    Ok(match kind {
        Kind::Text => Setting::Text(value.text()?),
        Kind::Switch => Setting::Switch(value.truth()?),
        Kind::List | Kind::Joined => {
            let Value::List(list) = value else {
                return Err(format!("a list is needed, not {}", article(value.kind())));
            };
            let list = given(list.clone()).map(|value| value.text());
            Setting::List(list.collect::<Result<_, String>>()?)
        }
        Kind::Map => {
            let entries = value.entries()?.iter().filter(|(_, value)| **value != Value::Null);
            let entries = entries.map(|(key, value)| {
                let text = value.text().map_err(|error| format!("{key}: {error}"))?;
                Ok((key.clone(), text))
            });
            Setting::Map(entries.collect::<Result<_, String>>()?)
        }
        Kind::Entries | Kind::JoinedEntries => {
            let list = match value {
                Value::List(list) => list.clone(),
                // One object stands for a list of one.
                one @ Value::Map(_) => vec![one.clone()],
                other => return Err(format!("a list is needed, not {}", article(other.kind()))),
            };
            let entries = given(list).map(|value| match value {
                Value::Map(map) => object_entry(&map),
                other => entry(name, &other.text()?),
            });
            let entries: Vec<Entry> = entries.collect::<Result<_, String>>()?;
            Setting::Entries(entries.into_iter().filter(|entry| !entry.is_empty()).collect())
        }
    })
}

fn object_entry(map: &BTreeMap<String, Value>) -> Result<Entry, String> {
    let mut entry = Entry::new();
    for (key, value) in map.iter().filter(|(_, value)| **value != Value::Null) {
        let text = match value {
            Value::List(list) => {
                let texts: Vec<String> =
                    list.iter().map(Value::text).collect::<Result<_, String>>()?;
                texts.join(",")
            }
            other => other.text().map_err(|error| format!("{key}: {error}"))?,
        };
        entry.insert(key.clone(), text);
    }
    Ok(entry)
}

/// Reads an entry that is written as text; an empty one is none.
pub fn entry(attribute: &str, text: &str) -> Result<Entry, String> {
    let mut entry = Entry::new();
    if text.is_empty() {
        return Ok(entry);
    }
    let mut put = |key: &str, value: &str| entry.insert(key.to_owned(), value.to_owned());
    if attribute == "ssh" {
        let (id, paths) = text.split_once('=').unwrap_or((text, ""));
        put("id", id);
        if !paths.is_empty() {
            put("paths", paths);
        }
        return Ok(entry);
    }
    let fields = csv::record(text)?;
    let plain = fields.len() == 1 && !text.contains('=');
    match (attribute, plain) {
        ("output", true) if text == "-" => {
            put("type", "tar");
            put("dest", "-");
        }
        // A directory alone is the root file system, as buildx has it.
        ("output", true) => {
            let bare = matches!(text, "cacheonly" | "registry" | "image" | "docker" | "oci");
            match bare {
                false => {
                    put("type", "local");
                    put("dest", text);
                }
                true => {
                    return Err(format!("{text:?} is a directory here; write type={text}"));
                }
            }
        }
        ("cache-from" | "cache-to", true) => {
            put("type", "registry");
            put("ref", text);
        }
        _ => {
            for field in &fields {
                let (key, value) = field
                    .split_once('=')
                    .ok_or_else(|| format!("{field:?} is no key=value in {text:?}"))?;
                put(&key.trim().to_lowercase(), value);
            }
        }
    }
    Ok(entry)
}

/// One `--set`, understood: which attribute, and what becomes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    /// The attribute, by its name in the file.
    pub attribute: String,
    /// The member of a map.
    pub member: Option<String>,
    /// The value; several for a list that is given several times.
    pub values: Vec<String>,
    /// `+=`.
    pub append: bool,
}

impl Override {
    /// Changes a target.
    pub fn apply(&self, target: &mut Target) -> Result<(), String> {
        let last = || self.values.last().cloned().unwrap_or_default();
        let name = self.attribute.as_str();
        let Some(kind) = kind(name) else { return Err(format!("there is no {name:?}")) };
        let setting = match (kind, &self.member) {
            (Kind::Text, _) => Setting::Text(last()),
            (Kind::Switch, _) => Setting::Switch(Value::String(last()).truth()?),
            (Kind::List | Kind::Joined, _) => {
                Setting::List(self.values.iter().filter(|text| !text.is_empty()).cloned().collect())
            }
            (Kind::Map, Some(member)) => Setting::Map(BTreeMap::from([(member.clone(), last())])),
            (Kind::Entries | Kind::JoinedEntries, Some(id)) => {
                let entry = Entry::from([
                    ("id".to_owned(), id.clone()),
                    ("type".to_owned(), "file".to_owned()),
                    ("src".to_owned(), last()),
                ]);
                if let Some(Setting::Entries(list)) = target.settings.get_mut(name) {
                    list.retain(|known| known.get("id") != Some(id));
                }
                target.merge_setting(name, Setting::Entries(vec![entry]));
                return Ok(());
            }
            (Kind::Entries | Kind::JoinedEntries, None) => {
                let entries = self.values.iter().map(|text| entry(name, text));
                let entries: Vec<Entry> = entries.collect::<Result<_, String>>()?;
                Setting::Entries(entries.into_iter().filter(|entry| !entry.is_empty()).collect())
            }
            (Kind::Map, None) => return Err(format!("{name} takes a name: {name}.NAME=VALUE")),
        };
        // These are added to also without `+=` (buildx: `AddOverrides`).
        let adds = matches!(name, "annotations" | "entitlements" | "attest");
        match (target.settings.get_mut(name), setting) {
            (Some(Setting::List(list)), Setting::List(more)) if self.append || adds => {
                list.extend(more);
            }
            (Some(Setting::Entries(list)), Setting::Entries(more)) if self.append && !adds => {
                list.extend(more);
            }
            (Some(_), setting @ Setting::Entries(_)) if adds => target.merge_setting(name, setting),
            (_, setting @ Setting::Map(_)) => target.merge_setting(name, setting),
            (_, setting) => {
                target.settings.insert(name.to_owned(), setting);
            }
        }
        Ok(())
    }
}
