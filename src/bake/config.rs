//! All files together: targets, groups and variables; inheritance, `--set`, and what was chosen.

use std::collections::{BTreeMap, BTreeSet};

use super::error::{Error, Result};
use super::target::{ATTRIBUTES, Kind, Override, Setting, Target, kind};

/// What the files define.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Targets, one a name, in the order of the files.
    pub targets: Vec<Target>,
    /// Groups, one a name.
    pub groups: Vec<Group>,
    /// Variables, by name.
    pub variables: Vec<Variable>,
}

/// A group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Targets and groups in it.
    pub targets: Vec<String>,
    /// For `--list`.
    pub description: Option<String>,
}

/// A variable, for `--list=variables`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// Its type, where it was given one.
    pub kind: Option<String>,
    /// Its value now, as text or JSON.
    pub value: Option<String>,
}

/// What is to be built.
#[derive(Debug, Clone, Default)]
pub struct Chosen {
    /// Targets by name, with what they inherit and with `--set`; linked ones as well.
    pub targets: BTreeMap<String, Target>,
    /// Those that were asked for, in the order of groups and arguments.
    pub wanted: Vec<String>,
    /// The groups that led to them, and `default`.
    pub groups: BTreeMap<String, Vec<String>>,
}

/// How deep targets may inherit, and groups hold groups.
const MAX_DEPTH: usize = 100;

impl Config {
    /// Adds a target, or joins it into the one of its name.
    pub fn add_target(&mut self, target: Target) {
        match self.targets.iter_mut().find(|known| known.name == target.name) {
            Some(known) => known.merge(&target),
            None => self.targets.push(target),
        }
    }

    /// Adds a group; a later one of the same name takes its place (buildx: `mergeConfig`).
    pub fn add_group(&mut self, group: Group) {
        match self.groups.iter_mut().find(|known| known.name == group.name) {
            Some(known) => {
                let description = group.description.or(known.description.take());
                *known = Group { description, name: group.name, targets: group.targets };
            }
            None => self.groups.push(group),
        }
    }

    fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }

    fn defined(&self, name: &str) -> Option<&Target> {
        self.targets.iter().find(|target| target.name == name)
    }

    /// All names of targets and groups.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let targets = self.targets.iter().map(|target| target.name.as_str());
        targets.chain(self.groups.iter().map(|group| group.name.as_str()))
    }

    fn unknown(&self, name: &str) -> Error {
        let error = Error::usage("E0709", format!("there is no target or group {name:?}"));
        if name == "default" {
            return error.with_help("name the targets to build, or define a group \"default\"");
        }
        error.with_suggestion(crate::dockerfile::suggest(name, self.names(), true))
    }

    /// Resolves what was asked for, with `--set`s applied.
    pub fn choose(&self, asked: &[String], sets: &[String], env: Lookup<'_>) -> Result<Chosen> {
        let default = ["default".to_owned()];
        let asked = if asked.is_empty() { &default[..] } else { asked };
        let mut wanted: Vec<String> = Vec::new();
        let mut chosen = Chosen::default();
        let mut named: Vec<String> = Vec::new();
        for pattern in asked {
            // As in older bake files, whose names had dots.
            let pattern = pattern.replace('.', "_");
            let matching: Vec<&str> = match pattern.contains(['*', '?', '[']) {
                true => self.names().filter(|name| glob(&pattern, name)).collect(),
                false => vec![&pattern],
            };
            if matching.is_empty() {
                return Err(Error::usage(
                    "E0709",
                    format!("no target or group matches {pattern:?}"),
                ));
            }
            for name in matching {
                if !named.iter().any(|known| known == name) {
                    named.push(name.to_owned());
                }
                self.expand(name, &mut wanted, &mut chosen.groups, &mut Vec::new())?;
            }
        }
        let sets = self.overrides(sets, env)?;
        let mut all = 0;
        for name in &wanted {
            if !chosen.targets.contains_key(name) {
                let target = self.resolve(name, &sets)?;
                all += target.size();
                small_enough(all)?;
                chosen.targets.insert(name.clone(), target);
            }
        }
        if named != ["default"] || !chosen.groups.contains_key("default") {
            named.retain(|name| name != "default" || !chosen.groups.contains_key(name));
            let group = chosen.groups.entry("default".to_owned()).or_default();
            group.extend(named);
        }
        for group in chosen.groups.values_mut() {
            let mut seen = BTreeSet::new();
            group.retain(|name| seen.insert(name.clone()));
        }
        let mut linked = BTreeSet::new();
        for name in &wanted {
            self.link(name, &sets, &mut chosen.targets, &mut linked, &mut Vec::new())?;
        }
        chosen.wanted = wanted;
        Ok(chosen)
    }

    fn expand(
        &self,
        name: &str,
        wanted: &mut Vec<String>,
        groups: &mut BTreeMap<String, Vec<String>>,
        path: &mut Vec<String>,
    ) -> Result<()> {
        if path.iter().any(|outer| outer == name) {
            // buildx goes on: a group in itself holds nothing new.
            return Ok(());
        }
        let Some(group) = self.group(name) else {
            if self.defined(name).is_none() {
                return Err(self.unknown(name));
            }
            if !wanted.iter().any(|known| known == name) {
                wanted.push(name.to_owned());
            }
            return Ok(());
        };
        if groups.contains_key(name) {
            return Ok(());
        }
        if path.len() >= MAX_DEPTH {
            return Err(Error::usage("E0707", "groups lie too deep within each other"));
        }
        groups.insert(name.to_owned(), group.targets.clone());
        path.push(name.to_owned());
        for member in &group.targets {
            // A group may hold the target of its own name.
            if member == name && self.defined(name).is_some() {
                if !wanted.iter().any(|known| known == name) {
                    wanted.push(name.to_owned());
                }
                continue;
            }
            self.expand(member, wanted, groups, path)?;
        }
        path.pop();
        Ok(())
    }

    /// Gives a target with what it inherits, its `--set`s and defaults.
    fn resolve(&self, name: &str, sets: &Overrides) -> Result<Target> {
        let mut known = BTreeMap::new();
        let mut target = self.inherited(name, sets, &mut known, &mut Vec::new())?;
        target.settings.remove("inherits");
        let context = target.settings.entry("context".to_owned());
        context.or_insert_with(|| Setting::Text(".".to_owned()));
        if target.text("dockerfile").is_none_or(str::is_empty) {
            let dockerfile = Setting::Text("Dockerfile".to_owned());
            target.settings.insert("dockerfile".to_owned(), dockerfile);
        }
        Ok(target)
    }

    fn inherited(
        &self,
        name: &str,
        sets: &Overrides,
        known: &mut BTreeMap<String, Target>,
        path: &mut Vec<String>,
    ) -> Result<Target> {
        if let Some(target) = known.get(name) {
            return Ok(target.clone());
        }
        let Some(own) = self.defined(name) else {
            let error = self.unknown(name);
            let user = path.last().and_then(|user| self.defined(user));
            return Err(match user.and_then(|user| user.place) {
                Some(place) => Error { file: Some(place.file), ..error }.placed(place),
                None => error,
            });
        };
        if path.iter().any(|outer| outer == name) || path.len() >= MAX_DEPTH {
            let circle: Vec<&str> = path.iter().map(String::as_str).chain([name]).collect();
            let error = Error::usage("E0707", format!("the target {name:?} inherits from itself"))
                .with_help(format!("the circle is {}", circle.join(" → ")));
            return Err(match own.place {
                Some(place) => Error { file: Some(place.file), ..error }.placed(place),
                None => error,
            });
        }
        path.push(name.to_owned());
        let mut target = Target::new(name);
        for parent in own.list("inherits") {
            let mut parent = self.inherited(parent, sets, known, path)?;
            // What a parent is good for does not describe its child.
            parent.settings.remove("description");
            target.merge(&parent);
            small_enough(target.size())?;
        }
        path.pop();
        target.merge(own);
        target.place = own.place;
        for set in sets.get(name).into_iter().flatten() {
            set.apply(&mut target).map_err(|error| {
                Error::usage("E0710", format!("--set {name}.{}: {error}", set.attribute))
            })?;
        }
        target.normalise();
        known.insert(name.to_owned(), target.clone());
        Ok(target)
    }

    /// Adds the targets that `contexts = "target:…"` names.
    fn link(
        &self,
        name: &str,
        sets: &Overrides,
        targets: &mut BTreeMap<String, Target>,
        linked: &mut BTreeSet<String>,
        path: &mut Vec<String>,
    ) -> Result<()> {
        // Two ways may lead to a target, and as many again from there.
        if !linked.insert(name.to_owned()) {
            return Ok(());
        }
        path.push(name.to_owned());
        let links: Vec<String> = targets
            .get(name)
            .map(|target| target.links().map(|(_, link)| link.to_owned()).collect())
            .unwrap_or_default();
        for link in links {
            let place = targets.get(name).and_then(|target| target.place);
            let here = |error: Error| match place {
                Some(place) => Error { file: Some(place.file), ..error }.placed(place),
                None => error,
            };
            if path.contains(&link) || path.len() >= MAX_DEPTH {
                let circle: Vec<&str> = path.iter().map(String::as_str).chain([&*link]).collect();
                let message = format!("the target {link:?} is a context of itself");
                return Err(here(
                    Error::usage("E0707", message)
                        .with_help(format!("the circle is {}", circle.join(" → "))),
                ));
            }
            if !targets.contains_key(&link) {
                let mut found = self.resolve(&link, sets).map_err(here)?;
                // It is built for its user's sake: nothing of it is written anywhere.
                let nothing = Setting::Entries(vec![BTreeMap::from([(
                    "type".to_owned(),
                    "cacheonly".to_owned(),
                )])]);
                found.settings.insert("output".to_owned(), nothing);
                found.settings.remove("push");
                targets.insert(link.clone(), found);
                small_enough(targets.values().map(Target::size).sum())?;
            }
            self.link(&link, sets, targets, linked, path)?;
            let more: Vec<String> = targets[&link].list("entitlements").to_vec();
            let theirs = targets[&link].list("platforms").to_vec();
            let Some(user) = targets.get_mut(name) else { continue };
            if !more.is_empty() {
                let mut all = user.list("entitlements").to_vec();
                all.extend(more.into_iter().filter(|new| !user.list("entitlements").contains(new)));
                user.settings.insert("entitlements".to_owned(), Setting::List(all));
            }
            let lacking = user.list("platforms").iter().find(|own| !theirs.contains(own));
            if let Some(platform) = lacking
                && theirs.len() > 1
                && user.list("platforms").len() > 1
            {
                let message = format!(
                    "{name:?} is built for {platform}, and its context {link:?} only for {}",
                    theirs.join(", ")
                );
                return Err(here(Error::usage("E0703", message)));
            }
        }
        path.pop();
        Ok(())
    }

    /// Understands the `--set`s.
    fn overrides(&self, sets: &[String], env: Lookup<'_>) -> Result<Overrides> {
        let mut out = Overrides::new();
        for text in sets {
            let wrong = |message: String| {
                Error::usage("E0710", format!("--set {text}: {message}"))
                    .with_help("as in --set app.args.VERSION=1 or --set '*.platform=linux/arm64'")
            };
            let (key, value) = match text.split_once('=') {
                Some((key, value)) => (key, Some(value.to_owned())),
                None => (text.as_str(), None),
            };
            let (key, append) = match key.strip_suffix('+') {
                Some(key) => (key, true),
                None => (key, false),
            };
            let mut parts = key.splitn(3, '.');
            let (Some(pattern), Some(attribute)) = (parts.next(), parts.next()) else {
                return Err(wrong("expected target.attribute=value".to_owned()));
            };
            let member = parts.next().map(str::to_owned);
            let attribute = match attribute {
                "platform" => "platforms",
                "secrets" => "secret",
                "secret" if member.is_none() => {
                    return Err(wrong("secret takes an id: secret.ID=FILE".to_owned()));
                }
                other => other,
            };
            let known = kind(attribute)
                .filter(|_| !matches!(attribute, "inherits" | "description" | "dockerfile-inline"));
            let Some(kind) = known else {
                let names = ATTRIBUTES.iter().map(|(name, _)| *name);
                return Err(wrong(format!("there is no attribute {attribute:?} to set"))
                    .with_suggestion(crate::dockerfile::suggest(attribute, names, true)));
            };
            match (kind, &member) {
                (Kind::Map, None) => {
                    return Err(wrong(format!("{attribute} takes a name: {attribute}.NAME=VALUE")));
                }
                (Kind::Map, Some(_)) => {}
                (_, Some(_)) if attribute == "secret" => {}
                (_, Some(_)) => return Err(wrong(format!("{attribute} has no members"))),
                (_, None) => {}
            }
            let lists =
                matches!(kind, Kind::List | Kind::Joined | Kind::Entries | Kind::JoinedEntries)
                    && member.is_none();
            if append && !lists {
                return Err(wrong(format!("{attribute} is no list, so += has no place")));
            }
            let value = match (value, &member, attribute) {
                (Some(value), ..) => value,
                (None, Some(name), "args") => match env(name) {
                    Some(value) => value,
                    None => continue,
                },
                _ => return Err(wrong("the value is missing".to_owned())),
            };
            let names: Vec<&str> = match pattern.contains(['*', '?', '[']) {
                true => {
                    let targets = self.targets.iter().map(|target| target.name.as_str());
                    targets.filter(|name| glob(pattern, name)).collect()
                }
                false if self.group(pattern).is_some() && self.defined(pattern).is_none() => {
                    let mut members = Vec::new();
                    self.expand(pattern, &mut members, &mut BTreeMap::new(), &mut Vec::new())?;
                    let all = self.targets.iter().map(|target| target.name.as_str());
                    all.filter(|name| members.iter().any(|member| member == name)).collect()
                }
                false => match self.defined(pattern) {
                    Some(target) => vec![target.name.as_str()],
                    None => Vec::new(),
                },
            };
            if names.is_empty() {
                return Err(wrong(format!("there is no target {pattern:?}"))
                    .with_suggestion(crate::dockerfile::suggest(pattern, self.names(), true)));
            }
            for name in names {
                let list = out.entry(name.to_owned()).or_default();
                let same = list
                    .iter_mut()
                    .find(|known| lists && known.attribute == attribute && known.member == member);
                match same {
                    // Given several times, a list has all values.
                    Some(known) => {
                        known.values.push(value.clone());
                        known.append = append;
                    }
                    None => list.push(Override {
                        attribute: attribute.to_owned(),
                        member: member.clone(),
                        values: vec![value.clone()],
                        append,
                    }),
                }
            }
        }
        Ok(out)
    }
}

/// Fails when targets, which inherit from each other, come to more text than anybody means.
fn small_enough(size: usize) -> Result<()> {
    if size <= super::MAX_TEXT {
        return Ok(());
    }
    let most = super::MAX_TEXT >> 20;
    let message = format!("with all that they inherit, the targets come to more than {most} MiB");
    Err(Error::usage("E0706", message).with_help("build fewer of them at a time"))
}

/// Looks a variable of the environment up.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

type Overrides = BTreeMap<String, Vec<Override>>;

impl Error {
    /// Moves it to a place.
    fn placed(mut self, place: super::error::Place) -> Error {
        self.diagnostic.span = place.span;
        self
    }
}

/// Matches a name against a pattern with `*`, `?` and `[…]` (Go: `path.Match`, without slashes).
pub fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if p < pattern.len() && pattern[p] == '*' {
            retry = Some((p, n));
            p += 1;
            continue;
        }
        if n == name.len() && p == pattern.len() {
            return true;
        }
        if n < name.len()
            && let Some(next) = one(&pattern[p..], name[n])
        {
            p += next;
            n += 1;
            continue;
        }
        // Let the last star take one character more.
        match retry {
            Some((star, from)) if from < name.len() => {
                retry = Some((star, from + 1));
                (p, n) = (star + 1, from + 1);
            }
            _ => return false,
        }
    }
}

/// Matches one character; gives how long the piece of the pattern is.
fn one(pattern: &[char], char: char) -> Option<usize> {
    match pattern.first()? {
        '?' => Some(1),
        '[' => {
            let end = pattern.iter().skip(2).position(|char| *char == ']')? + 2;
            let negated = pattern[1] == '^';
            let set = &pattern[1 + usize::from(negated)..end];
            let mut found = false;
            let mut index = 0;
            while index < set.len() {
                if index + 2 < set.len() && set[index + 1] == '-' {
                    found |= (set[index]..=set[index + 2]).contains(&char);
                    index += 3;
                } else {
                    found |= set[index] == char;
                    index += 1;
                }
            }
            (found != negated).then_some(end + 1)
        }
        literal => (*literal == char).then_some(1),
    }
}
