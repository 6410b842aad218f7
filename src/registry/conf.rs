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

mod read;

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::error::{Error, Result};
use crate::oci::Reference;

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

    /// Puts a mirror (`host[:port][/path]`) before all others of a registry. Says what is wrong with it.
    pub fn add_mirror(&mut self, registry: &str, mirror: &str) -> std::result::Result<(), String> {
        for (text, what) in [(registry, "registry"), (mirror, "mirror")] {
            let host = text.split_once('/').map_or(text, |(host, _)| host);
            let named = if host == text { format!("{text}/x") } else { text.to_owned() };
            if !is_host(host) || named.parse::<Reference>().is_err() {
                return Err(format!("{text:?} is no {what}: expected host.domain[:port][/path]"));
            }
        }
        let location = mirror.trim_end_matches('/').to_owned();
        let mirror = Mirror { location, insecure: false, pull: PullFrom::All };
        if let Some(rule) = self.rules.iter_mut().find(|rule| rule.prefix == registry) {
            rule.mirrors.insert(0, mirror);
            return Ok(());
        }
        self.rules.push(Rule {
            prefix: registry.to_owned(),
            location: Some(registry.to_owned()),
            // What a wider rule says still holds.
            insecure: self.rule(registry).is_some_and(|rule| rule.insecure),
            blocked: self.rule(registry).and_then(|rule| rule.blocked.clone()),
            mirrors: vec![mirror],
        });
        Ok(())
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
            // Debian's package lists many that say nothing new.
            if bare.parse().is_ok_and(|docker: Reference| docker == *alias) {
                return Ok(None);
            }
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
