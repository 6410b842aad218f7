//! Reading registries.conf: TOML, key by key, with the place of each mistake.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{
    ConfError, ConfFile, ConfKind, Mirror, Place, PullFrom, Registries, Rule, ShortNames, is_host,
    is_short, split_suffix,
};
use crate::oci::Reference;

/// The most rules of one file; real ones have some dozens.
const MAX_RULES: usize = 10_000;

impl Registries {
    /// Adds what a file says; it overrules what was there.
    pub(super) fn add(&mut self, file: &ConfFile) -> std::result::Result<(), ConfError> {
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
