//! Configuration of registries in the format of containers-registries.conf(5), version 2: where the
//! images of a name really are, which registries are blocked or may do without TLS, and what short
//! names mean.
//!
//! Texts come in from the caller, who knows where such files lie; later ones overrule earlier ones as
//! containers-registries.conf.d(5) says. Nothing here opens a file.
//!
//! What is understood is checked when it is read, and every error names file and line. A file that
//! cannot be understood is no reason to refuse a build that asks no registry, so [`Registries`] keeps
//! the error until somebody asks.
//!
//! Differs from containers/image: a prefix `example.com` does not match `example.com:5000`, which its
//! manual calls unintended; `location` may be left out; nobody is ever prompted for a choice.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Error, Result};
use crate::oci::Reference;

/// The most rules of one file; real ones have some dozens.
const MAX_RULES: usize = 10_000;

/// What a file may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfKind {
    /// A registries.conf, or a file of registries.conf.d.
    Registries,
    /// short-name-aliases.conf, which Podman writes: nothing but `[aliases]`.
    Aliases,
}

/// A configuration file as it was read.
#[derive(Debug, Clone)]
pub struct ConfFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it holds, or why it cannot be read.
    pub text: std::result::Result<String, String>,
    /// What it may hold.
    pub kind: ConfKind,
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {reason}")]
pub struct ConfError {
    /// Where.
    pub place: Place,
    /// What is wrong there, and what to do.
    pub reason: String,
}

/// A line of a configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// From 1; 0 for the whole file.
    pub line: usize,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.path.display()),
            line => write!(f, "{}:{line}", self.path.display()),
        }
    }
}

/// Which references a mirror is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PullFrom {
    All,
    DigestOnly,
    TagOnly,
}

/// A place where images may be got.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mirror {
    location: String,
    insecure: bool,
    pull: PullFrom,
}

/// One `[[registry]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    prefix: String,
    /// None for `*.example.com` without a location: the name stays.
    location: Option<String>,
    insecure: bool,
    blocked: Option<Place>,
    mirrors: Vec<Mirror>,
}

/// `short-name-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum ShortNames {
    Enforcing,
    #[default]
    Permissive,
    Disabled,
}

/// A physical name of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// What is asked for there.
    pub(super) reference: Reference,
    /// Whether plain http and unverified certificates will do.
    pub(super) insecure: bool,
    /// Whether a reference of this kind (by tag, by digest) may be looked up there.
    pub(super) eligible: bool,
    /// Whether it is a mirror, and not the registry itself.
    pub(super) is_mirror: bool,
}

impl Endpoint {
    /// The registry that a reference names.
    pub(super) fn itself(reference: &Reference) -> Endpoint {
        let reference = reference.clone();
        Endpoint { reference, insecure: false, eligible: true, is_mirror: false }
    }
}

/// What a short name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShortName {
    /// In the order in which they are tried.
    pub candidates: Vec<Reference>,
    /// The file that says so.
    pub origin: PathBuf,
}

/// All configuration of registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registries {
    rules: Vec<Rule>,
    /// By short name; None takes an earlier alias away.
    aliases: BTreeMap<String, (Option<Reference>, PathBuf)>,
    search: Vec<String>,
    search_origin: PathBuf,
    short_names: ShortNames,
    fault: Option<ConfError>,
    warnings: Vec<String>,
}

impl Registries {
    /// Reads files, later ones of which overrule earlier ones. An error is kept, see [`Self::fault`].
    pub fn read(files: &[ConfFile]) -> Registries {
        let mut all = Registries::default();
        for file in files {
            if let Err(error) = all.add(file) {
                all.fault = Some(error);
                break;
            }
        }
        all
    }

    /// Gives the error of a file that cannot be used. It comes up in every request to a registry.
    pub fn fault(&self) -> Option<&ConfError> {
        self.fault.as_ref()
    }

    /// Gives what was found and has no effect.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn check(&self) -> Result<()> {
        match &self.fault {
            Some(fault) => Err(Error::Configuration(fault.clone())),
            None => Ok(()),
        }
    }

    /// Finds the rule with the longest prefix of a name, which is `host/path[:tag][@digest]` or a host.
    fn rule(&self, name: &str) -> Option<&Rule> {
        let matching = self.rules.iter().filter(|rule| matched(&rule.prefix, name).is_some());
        matching.max_by_key(|rule| rule.prefix.len())
    }

    /// Says whether requests about a name may do without TLS, or that there may be none.
    pub(super) fn admit(&self, name: &str) -> Result<bool> {
        self.check()?;
        let Some(rule) = self.rule(name) else { return Ok(false) };
        match &rule.blocked {
            Some(place) => Err(Error::Blocked {
                what: name.to_owned(),
                prefix: rule.prefix.clone(),
                place: place.clone(),
            }),
            None => Ok(rule.insecure),
        }
    }

    /// Gives the places of an image: its mirrors in order, then the registry itself.
    pub(super) fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let name = reference.to_string();
        let insecure = self.admit(&name)?;
        let Some(rule) = self.rule(&name) else { return Ok(vec![Endpoint::itself(reference)]) };
        let rest = matched(&rule.prefix, &name).unwrap_or_default();
        let moved = |location: &str| {
            format!("{location}{rest}").parse::<Reference>().map_err(|error| Error::Rewrite {
                what: name.clone(),
                location: location.to_owned(),
                source: error,
            })
        };
        let mut endpoints = Vec::new();
        for mirror in &rule.mirrors {
            let eligible = match mirror.pull {
                PullFrom::All => true,
                PullFrom::DigestOnly => reference.digest.is_some(),
                PullFrom::TagOnly => reference.digest.is_none(),
            };
            let (reference, insecure) = (moved(&mirror.location)?, mirror.insecure);
            endpoints.push(Endpoint { reference, insecure, eligible, is_mirror: true });
        }
        let own = match &rule.location {
            Some(location) => moved(location)?,
            None => reference.clone(),
        };
        endpoints.push(Endpoint { insecure, ..Endpoint::itself(&own) });
        Ok(endpoints)
    }

    /// Says what a name without a registry stands for; None where no file has anything to say, so
    /// that it means what it means to Docker.
    pub fn short_name(&self, text: &str) -> Result<Option<ShortName>> {
        let (bare, suffix) = split_suffix(text);
        if !is_short(bare) {
            return Ok(None);
        }
        self.check()?;
        let complete = |name: &str| {
            format!("{name}{suffix}").parse::<Reference>().map_err(|error| Error::Rewrite {
                what: text.to_owned(),
                location: name.to_owned(),
                source: error,
            })
        };
        if let Some((Some(alias), origin)) = self.aliases.get(bare) {
            let candidates = vec![complete(&alias.name())?];
            return Ok(Some(ShortName { candidates, origin: origin.clone() }));
        }
        if self.search.is_empty() {
            return Ok(None);
        }
        if self.short_names == ShortNames::Enforcing && self.search.len() > 1 {
            return Err(Error::ShortName {
                name: bare.to_owned(),
                choices: self.search.iter().map(|host| format!("{host}/{bare}")).collect(),
                origin: self.search_origin.clone(),
            });
        }
        let named = self.search.iter().map(|host| complete(&format!("{host}/{bare}")));
        let candidates = named.collect::<Result<Vec<_>>>()?;
        Ok(Some(ShortName { candidates, origin: self.search_origin.clone() }))
    }

    fn add(&mut self, file: &ConfFile) -> std::result::Result<(), ConfError> {
        let reader = |text| Reader { path: &file.path, text };
        let text = match &file.text {
            Ok(text) => text.as_str(),
            Err(reason) => return Err(reader("").at(None, format!("cannot be read: {reason}"))),
        };
        let reader = reader(text);
        let table = DeTable::parse(text)
            .map_err(|error| reader.at(error.span().map(|span| span.start), error.message()))?;
        let mut seen: Vec<Rule> = Vec::new();
        for (key, value) in table.get_ref().iter() {
            let key_at = Some(key.span().start);
            match (key.get_ref().as_ref(), file.kind) {
                ("aliases", _) => self.add_aliases(&reader, value)?,
                (other, ConfKind::Aliases) => {
                    return Err(
                        reader.at(key_at, format!("only [aliases] may stand here, not {other}"))
                    );
                }
                ("registry", _) => {
                    for table in reader.tables(value, "registry")? {
                        let rule = reader.rule(table, &mut self.warnings)?;
                        // The first of equal prefixes counts, as in containers/image.
                        if !seen.iter().any(|other| other.prefix == rule.prefix) {
                            seen.push(rule);
                        }
                        if seen.len() > MAX_RULES {
                            return Err(
                                reader.at(key_at, format!("more than {MAX_RULES} registries"))
                            );
                        }
                    }
                }
                ("unqualified-search-registries", _) => {
                    self.search = reader.hosts(value)?;
                    self.search_origin.clone_from(&file.path);
                }
                ("short-name-mode", _) => {
                    self.short_names = match reader.string(value, "short-name-mode")? {
                        "enforcing" => ShortNames::Enforcing,
                        "permissive" | "" => ShortNames::Permissive,
                        "disabled" => ShortNames::Disabled,
                        other => {
                            let reason = format!(
                                "short-name-mode {other:?}: expected enforcing, permissive or disabled"
                            );
                            return Err(reader.at(Some(value.span().start), reason));
                        }
                    };
                }
                ("registries", _) => {
                    return Err(reader.at(
                        key_at,
                        "this is the old format (version 1), which is not read: write \
                         `unqualified-search-registries = […]` for [registries.search], and \
                         [[registry]] with `location` and `insecure = true` or `blocked = true` for \
                         the others",
                    ));
                }
                ("credential-helpers", _) => {
                    let names = reader.strings(value, "credential-helpers")?;
                    if names.iter().any(|(name, _)| *name != "containers-auth.json") {
                        let place = reader.place(key_at);
                        self.warnings.push(format!(
                            "{place}: credential-helpers has no effect; name the helper in auth.json: \
                             {{\"credHelpers\": {{\"HOST\": \"NAME\"}}}}"
                        ));
                    }
                }
                // For a way of storing layers that is not ours.
                ("additional-layer-store-auth-helper", _) => {}
                (other, _) => {
                    let place = reader.place(key_at);
                    self.warnings.push(format!("{place}: {other} is not known and has no effect"));
                }
            }
        }
        self.rules.retain(|rule| !seen.iter().any(|newer| newer.prefix == rule.prefix));
        self.rules.append(&mut seen);
        Ok(())
    }

    fn add_aliases(
        &mut self,
        reader: &Reader<'_>,
        value: &Spanned<DeValue<'_>>,
    ) -> std::result::Result<(), ConfError> {
        let at = Some(value.span().start);
        let DeValue::Table(table) = value.get_ref() else {
            return Err(reader.at(at, "aliases must be a table: [aliases]"));
        };
        for (name, value) in table.iter() {
            let short = name.get_ref().as_ref();
            let (bare, suffix) = split_suffix(short);
            if !suffix.is_empty() || !is_short(bare) || bare.parse::<Reference>().is_err() {
                let reason = format!(
                    "alias {short:?}: the name must be a short one, without registry, tag and digest"
                );
                return Err(reader.at(Some(name.span().start), reason));
            }
            let target = reader.string(value, short)?;
            let wrong =
                |why: &str| reader.at(Some(value.span().start), format!("alias {short:?}: {why}"));
            let reference = if target.is_empty() {
                None
            } else {
                let (bare, suffix) = split_suffix(target);
                if !suffix.is_empty() || is_short(bare) {
                    return Err(wrong(
                        "its value must be registry/repository, without tag and digest",
                    ));
                }
                Some(target.parse::<Reference>().map_err(|error| wrong(&error.to_string()))?)
            };
            self.aliases.insert(short.to_owned(), (reference, reader.path.to_owned()));
        }
        Ok(())
    }
}

/// One file while it is read.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> Reader<'a> {
    fn place(&self, at: Option<usize>) -> Place {
        let line = at.map_or(0, |at| {
            1 + self.text.as_bytes().iter().take(at).filter(|byte| **byte == b'\n').count()
        });
        Place { path: self.path.to_owned(), line }
    }

    fn at(&self, at: Option<usize>, reason: impl Into<String>) -> ConfError {
        ConfError { place: self.place(at), reason: reason.into() }
    }

    fn string<'v>(
        &self,
        value: &'v Spanned<DeValue<'_>>,
        key: &str,
    ) -> std::result::Result<&'v str, ConfError> {
        match value.get_ref() {
            DeValue::String(text) => Ok(text),
            _ => Err(self.at(Some(value.span().start), format!("{key} must be a string"))),
        }
    }

    fn boolean(
        &self,
        value: &Spanned<DeValue<'_>>,
        key: &str,
    ) -> std::result::Result<bool, ConfError> {
        match value.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            _ => Err(self.at(Some(value.span().start), format!("{key} must be true or false"))),
        }
    }

    fn strings<'v>(
        &self,
        value: &'v Spanned<DeValue<'_>>,
        key: &str,
    ) -> std::result::Result<Vec<(&'v str, usize)>, ConfError> {
        let DeValue::Array(array) = value.get_ref() else {
            return Err(self.at(Some(value.span().start), format!("{key} must be an array")));
        };
        array.iter().map(|item| Ok((self.string(item, key)?, item.span().start))).collect()
    }

    fn hosts(&self, value: &Spanned<DeValue<'_>>) -> std::result::Result<Vec<String>, ConfError> {
        let mut hosts = Vec::new();
        for (text, at) in self.strings(value, "unqualified-search-registries")? {
            let host = text.trim_end_matches('/');
            if !is_host(host) {
                let reason = format!("{text:?} is no registry: expected host.domain or host:port");
                return Err(self.at(Some(at), reason));
            }
            hosts.push(host.to_owned());
        }
        Ok(hosts)
    }

    fn tables<'v>(
        &self,
        value: &'v Spanned<DeValue<'a>>,
        key: &str,
    ) -> std::result::Result<Vec<&'v DeTable<'a>>, ConfError> {
        let wrong = |at| self.at(Some(at), format!("{key} must be an array of tables: [[{key}]]"));
        let DeValue::Array(array) = value.get_ref() else { return Err(wrong(value.span().start)) };
        let table = |item: &'v Spanned<DeValue<'a>>| match item.get_ref() {
            DeValue::Table(table) => Ok(table),
            _ => Err(wrong(item.span().start)),
        };
        array.iter().map(table).collect()
    }

    /// Reads a location: `host[:port][/path]`, optionally with tag or digest.
    fn location(
        &self,
        value: &Spanned<DeValue<'_>>,
        key: &str,
    ) -> std::result::Result<String, ConfError> {
        let text = self.string(value, key)?;
        let wrong = |why: &str| self.at(Some(value.span().start), format!("{key} {text:?}: {why}"));
        let text = text.trim_end_matches('/');
        if text.contains("://") {
            return Err(wrong("write it without http:// or https://"));
        }
        if key == "prefix"
            && let Some(domain) = text.strip_prefix("*.")
        {
            if domain.is_empty()
                || !domain.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'-')
            {
                return Err(wrong("a wildcard stands for subdomains only, as in *.example.com"));
            }
            return Ok(text.to_owned());
        }
        let host = text.split_once('/').map_or(text, |(host, _)| host);
        // A bare host, or a name below it; a tag or digest may follow.
        let good = if host == text {
            is_host(host)
        } else {
            is_host(host) && text.parse::<Reference>().is_ok()
        };
        if good { Ok(text.to_owned()) } else { Err(wrong("expected host.domain[:port][/path]")) }
    }

    fn rule(
        &self,
        table: &DeTable<'a>,
        warnings: &mut Vec<String>,
    ) -> std::result::Result<Rule, ConfError> {
        let mut prefix = None;
        let mut location = None;
        let mut insecure = false;
        let mut blocked = None;
        let mut by_digest = false;
        let mut mirrors: Vec<(Mirror, Option<usize>)> = Vec::new();
        let mut start = usize::MAX;
        for (key, value) in table.iter() {
            let at = key.span().start;
            start = start.min(at);
            match key.get_ref().as_ref() {
                "prefix" => prefix = Some(self.location(value, "prefix")?),
                "location" => {
                    location =
                        Some(self.location(value, "location")?).filter(|text| !text.is_empty());
                }
                "insecure" => insecure = self.boolean(value, "insecure")?,
                "blocked" => {
                    blocked = self.boolean(value, "blocked")?.then(|| self.place(Some(at)));
                }
                "mirror-by-digest-only" => {
                    by_digest = self.boolean(value, "mirror-by-digest-only")?
                }
                "mirror" => {
                    for table in self.tables(value, "registry.mirror")? {
                        mirrors.push(self.mirror(table, at, warnings)?);
                    }
                }
                "pull-from-mirror" => {
                    return Err(
                        self.at(Some(at), "pull-from-mirror is for [[registry.mirror]] only")
                    );
                }
                other => warnings.push(format!(
                    "{}: {other} is not known and has no effect",
                    self.place(Some(at))
                )),
            }
        }
        let here = (start != usize::MAX).then_some(start);
        let prefix = prefix
            .filter(|prefix| !prefix.is_empty())
            .or_else(|| location.clone())
            .ok_or_else(|| self.at(here, "a [[registry]] needs `prefix` or `location`"))?;
        let location =
            location.or_else(|| Some(prefix.clone()).filter(|prefix| !prefix.starts_with("*.")));
        let mut all = Vec::new();
        for (mut mirror, pull_at) in mirrors {
            if by_digest {
                if pull_at.is_some() {
                    let reason = "pull-from-mirror and mirror-by-digest-only exclude each other";
                    return Err(self.at(pull_at, reason));
                }
                mirror.pull = PullFrom::DigestOnly;
            }
            all.push(mirror);
        }
        Ok(Rule { prefix, location, insecure, blocked, mirrors: all })
    }

    /// Reads a mirror; gives also where `pull-from-mirror` stands.
    fn mirror(
        &self,
        table: &DeTable<'_>,
        at: usize,
        warnings: &mut Vec<String>,
    ) -> std::result::Result<(Mirror, Option<usize>), ConfError> {
        let mut mirror = Mirror { location: String::new(), insecure: false, pull: PullFrom::All };
        let mut pull_at = None;
        let mut start = at;
        for (key, value) in table.iter() {
            start = key.span().start;
            match key.get_ref().as_ref() {
                "location" => mirror.location = self.location(value, "location")?,
                "insecure" => mirror.insecure = self.boolean(value, "insecure")?,
                "pull-from-mirror" => {
                    mirror.pull = match self.string(value, "pull-from-mirror")? {
                        "all" | "" => PullFrom::All,
                        "digest-only" => PullFrom::DigestOnly,
                        "tag-only" => PullFrom::TagOnly,
                        other => {
                            let reason = format!(
                                "pull-from-mirror {other:?}: expected all, digest-only or tag-only"
                            );
                            return Err(self.at(Some(value.span().start), reason));
                        }
                    };
                    pull_at = Some(start);
                }
                other => warnings.push(format!(
                    "{}: {other} is not known and has no effect",
                    self.place(Some(start))
                )),
            }
        }
        if mirror.location.is_empty() {
            return Err(self.at(Some(start), "a [[registry.mirror]] needs a location"));
        }
        Ok((mirror, pull_at))
    }
}

/// Splits tag and digest off a name.
fn split_suffix(text: &str) -> (&str, &str) {
    let name = text.split_once('@').map_or(text, |(name, _)| name);
    // A colon before the last slash belongs to a port.
    let from = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name[from..].find(':').map_or(name.len(), |colon| from + colon);
    text.split_at(end)
}

/// Tells whether a name without tag and digest says no registry (containers/image,
/// `parseUnnormalizedShortName`).
fn is_short(bare: &str) -> bool {
    bare.split_once('/').is_none_or(|(first, _)| !is_host(first))
}

/// Tells whether the first part of a name is a registry, and a legal one.
fn is_host(text: &str) -> bool {
    !text.contains('/')
        && (text.contains(['.', ':']) || text == "localhost" || text.to_lowercase() != *text)
        && format!("{text}/x").parse::<Reference>().is_ok()
}

/// Gives what follows a prefix in a name, if it is one of it.
fn matched<'n>(prefix: &str, name: &'n str) -> Option<&'n str> {
    let host_end = name.find('/').unwrap_or(name.len());
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = name[..host_end].split_once(':').map_or(&name[..host_end], |(host, _)| host);
        let is_below = host.len() > domain.len() && host.ends_with(domain);
        return is_below.then(|| &name[host.len()..]);
    }
    let rest = name.strip_prefix(prefix)?;
    // After a host, a colon would begin its port, and that is another registry.
    let is_port = prefix.len() < host_end && rest.starts_with(':');
    (rest.is_empty() || rest.starts_with(['/', ':', '@']) && !is_port).then_some(rest)
}

#[cfg(test)]
#[path = "conf_tests.rs"]
mod tests;
