//! Sources on other machines, as ADD and contexts name them: URLs and Git repositories.
//!
//! The forms are BuildKit's (`frontend/dockerfile/dfgitutil` and `util/gitutil`): anything with the
//! scheme `git` or `ssh`, `user@host:path`, and http(s) URLs whose path ends in `.git` are
//! repositories; any other http(s) URL is a file. What follows the repository is
//! `#ref:subdir` or `?ref=…&subdir=…`, or both as long as they agree.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Something to fetch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Remote {
    /// A file over http or https.
    Url(UrlSource),
    /// A Git repository.
    Git(GitSource),
}

/// A file over http or https.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UrlSource {
    /// As written, with user and password if there are any.
    pub url: String,
    /// What the file is called in the end; None takes the server's word for it.
    pub name: Option<String>,
    /// `--checksum`.
    pub checksum: Option<Checksum>,
}

/// A digest that content must have.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Checksum {
    /// Which.
    pub algorithm: Algorithm,
    /// Lower case.
    pub hex: String,
}

/// The algorithms that OCI registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// A Git repository, and what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GitSource {
    /// What `git fetch` takes, with user and password if there are any.
    pub remote: String,
    /// Branch, tag, full ref or commit; None is the default branch.
    pub reference: Option<String>,
    /// A directory inside, relative and clean; empty is the whole.
    pub subdir: String,
    /// What the commit's id must begin with.
    pub checksum: Option<String>,
    /// Keep `.git`.
    pub keep_git_dir: bool,
    /// Fetch submodules too.
    pub submodules: bool,
    /// `mtime=checkout`: files get the time of now instead of the commit's.
    pub checkout_times: bool,
    /// `fetch-by-commit`: the checksum is the commit, whatever the ref says.
    pub by_commit: bool,
}

/// What a repository's name itself says, before flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitName {
    /// The source; flags that are not said have their defaults.
    pub source: GitSource,
    /// `keep-git-dir=`, if it is there.
    pub keep_git_dir: Option<bool>,
}

/// What a text names, as far as its form tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Named {
    /// Neither: a path.
    Path,
    /// A file over http(s).
    Url,
    /// A repository.
    Git(Box<GitName>),
}

/// Tells what a source of ADD is. The error says what is wrong with the name of a repository.
pub fn classify(text: &str) -> Result<Named, String> {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
    let is_http = matches!(scheme.as_deref(), Some("http" | "https"));
    match scheme.as_deref() {
        Some("http" | "https" | "git" | "ssh") => {
            let (base, query, fragment) = split(text);
            if is_http && !base.ends_with(".git") {
                return Ok(Named::Url);
            }
            git(base, query, fragment).map(Box::new).map(Named::Git)
        }
        Some(_) => Ok(Named::Path),
        None if is_scp_like(text) => {
            let (base, query, fragment) = split(text);
            git(base, query, fragment).map(Box::new).map(Named::Git)
        }
        None => Ok(Named::Path),
    }
}

/// As [`classify`], for what stands where a context is named: `github.com/…` is a repository there.
pub fn classify_context(text: &str) -> Result<Named, String> {
    if text.starts_with("github.com/") {
        let (base, query, fragment) = split(text);
        let base = format!("https://{base}");
        return git(&base, query, fragment).map(Box::new).map(Named::Git);
    }
    classify(text)
}

/// Splits at the first `#`, and before that at the first `?`.
fn split(text: &str) -> (&str, Option<&str>, Option<&str>) {
    let (rest, fragment) = match text.split_once('#') {
        Some((rest, fragment)) => (rest, Some(fragment)),
        None => (text, None),
    };
    match rest.split_once('?') {
        Some((base, query)) => (base, Some(query), fragment),
        None => (rest, None, fragment),
    }
}

/// `user@host:path`, with the characters that BuildKit allows (`util/sshutil/scpurl.go`).
fn is_scp_like(text: &str) -> bool {
    let Some((user, rest)) = text.split_once('@') else { return false };
    let Some((host, _)) = rest.split_once(':') else { return false };
    let word = |text: &str, more: &str| {
        !text.is_empty()
            && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || more.contains(c))
    };
    word(user, "_") && word(host, ".")
}

fn git(base: &str, query: Option<&str>, fragment: Option<&str>) -> Result<GitName, String> {
    if base.starts_with('-') || base.chars().any(|c| c.is_control() || c == ' ') {
        return Err("a repository's name has no blanks and does not begin with a dash".into());
    }
    let authority = base.split_once("://").map_or(base, |(_, rest)| rest);
    let host = authority.split('/').next().unwrap_or_default();
    let host = host.rsplit('@').next().unwrap_or_default();
    let host = host.split(':').next().unwrap_or_default();
    if host.is_empty() || host.starts_with('-') {
        return Err(format!("{} has no host", redact(base)));
    }
    let mut name = GitName {
        source: GitSource {
            remote: base.to_owned(),
            reference: None,
            subdir: String::new(),
            checksum: None,
            keep_git_dir: false,
            submodules: true,
            checkout_times: false,
            by_commit: false,
        },
        keep_git_dir: None,
    };
    let source = &mut name.source;
    if let Some(fragment) = fragment {
        let fragment = percent_decode(fragment)?;
        let (reference, subdir) = fragment.split_once(':').unwrap_or((&fragment, ""));
        source.reference = Some(reference.to_owned()).filter(|text| !text.is_empty());
        source.subdir = clean_subdir(subdir);
    }
    if let Some(query) = query {
        load_query(&mut name, query)?;
    }
    let source = &name.source;
    if let Some(reference) = &source.reference {
        check_reference(reference)?;
    }
    if let Some(checksum) = &source.checksum {
        check_commit(checksum)?;
    }
    let full = |text: &Option<String>| text.as_deref().is_some_and(is_commit);
    if source.by_commit && !full(&source.checksum) && !full(&source.reference) {
        return Err("fetch-by-commit needs the full commit id as checksum".into());
    }
    Ok(name)
}

fn load_query(name: &mut GitName, query: &str) -> Result<(), String> {
    let mut seen: Vec<String> = Vec::new();
    let (mut tag, mut branch) = (None, None);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (key, value) = (percent_decode(key)?, percent_decode(value)?);
        if seen.contains(&key) {
            return Err(format!("query {key:?} has multiple values"));
        }
        let flag = || match value.as_str() {
            "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
            _ => Err(format!("invalid {key} value: {value:?} (true or false)")),
        };
        let is_flag = matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit");
        if value.is_empty() && !is_flag {
            return Err(format!("query {key:?} has no value"));
        }
        let source = &mut name.source;
        match key.as_str() {
            "ref" => agree("ref", &mut source.reference, value)?,
            "tag" => tag = Some(value),
            "branch" => branch = Some(value),
            "subdir" => {
                let subdir = clean_subdir(&value);
                if !source.subdir.is_empty() && source.subdir != subdir {
                    return Err(format!("subdir conflicts: {:?} and {subdir:?}", source.subdir));
                }
                source.subdir = subdir;
            }
            "checksum" | "commit" => agree("checksum", &mut source.checksum, value)?,
            "keep-git-dir" => name.keep_git_dir = Some(flag()?),
            "submodules" => source.submodules = flag()?,
            "fetch-by-commit" => source.by_commit = flag()?,
            "mtime" => {
                source.checkout_times = match value.as_str() {
                    "checkout" => true,
                    "commit" => false,
                    _ => {
                        return Err(format!("invalid mtime value: {value:?} (checkout or commit)"));
                    }
                }
            }
            _ => return Err(format!("unexpected query {key:?}")),
        }
        seen.push(key);
    }
    let full = |prefix: &str, name: String| {
        if name.starts_with(prefix) { name } else { format!("{prefix}{name}") }
    };
    match (tag, branch) {
        (Some(_), Some(_)) => return Err("branch conflicts with tag".into()),
        (Some(tag), None) => {
            agree("ref", &mut name.source.reference, full("refs/tags/", tag))?;
        }
        (None, Some(branch)) => {
            agree("ref", &mut name.source.reference, full("refs/heads/", branch))?;
        }
        (None, None) => {}
    }
    Ok(())
}

fn agree(what: &str, place: &mut Option<String>, value: String) -> Result<(), String> {
    match place {
        Some(old) if *old != value => Err(format!("{what} conflicts: {old:?} and {value:?}")),
        _ => {
            *place = Some(value);
            Ok(())
        }
    }
}

/// Names a directory of a context on another machine, from the directory that the context's name
/// says (buildx: `remoteURLWithSubdir`). Of a repository it is named `#ref:dir`, and of an archive
/// `#:dir`, which is a form of ours.
pub fn within(text: &str, dir: &str) -> String {
    let (base, query, fragment) = split(text);
    let is_git = matches!(classify_context(text), Ok(Named::Git(_)));
    let (reference, own) = match fragment.map(|text| text.split_once(':').unwrap_or((text, ""))) {
        // Archives have no ref.
        Some((reference, own)) if is_git || reference.is_empty() => (reference, own.to_owned()),
        _ => ("", String::new()),
    };
    let mut own = percent_decode(&own).unwrap_or(own);
    let mut pairs: Vec<&str> = query.into_iter().flat_map(|query| query.split('&')).collect();
    pairs.retain(|pair| match pair.strip_prefix("subdir=") {
        Some(subdir) if is_git => {
            own = percent_decode(subdir).unwrap_or_else(|_| subdir.to_owned());
            false
        }
        _ => true,
    });
    let joined = clean_subdir(&format!("{own}/{dir}"));
    if joined == clean_subdir(&own) {
        return text.to_owned();
    }
    let query = if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) };
    let joined = joined.replace('%', "%25");
    match (reference.is_empty(), joined.is_empty()) {
        (true, true) => format!("{base}{query}"),
        (false, true) => format!("{base}{query}#{reference}"),
        (_, false) => format!("{base}{query}#{reference}:{joined}"),
    }
}

/// Splits the name of a context in an archive into URL and directory, which is empty for the whole:
/// `URL#:dir`, as [`within`] makes it.
pub fn archive_dir(text: &str) -> Result<(&str, String), String> {
    match text.split_once("#:") {
        Some((url, dir)) if !url.contains('#') => Ok((url, clean_subdir(&percent_decode(dir)?))),
        _ => Ok((text, String::new())),
    }
}

/// Makes a path relative, without `.` and without leaving what it starts from.
fn clean_subdir(path: &str) -> String {
    super::path::clean_workdir("/", path)[1..].to_owned()
}

/// Refuses what `git check-ref-format` refuses, and with it everything that `git` could take for an
/// option or for another refspec.
fn check_reference(text: &str) -> Result<(), String> {
    let bad = text.starts_with(['-', '/', '.'])
        || text.ends_with(['/', '.'])
        || text.contains("..")
        || text.contains("@{")
        || text.contains("//")
        || text.chars().any(|c| c.is_control() || " ~^:?*[\\".contains(c));
    if bad { Err(format!("{text:?} is no name of a branch, tag or commit")) } else { Ok(()) }
}

/// Checks that a text is (the beginning of) a commit id.
pub fn check_commit(text: &str) -> Result<(), String> {
    let hex = !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    if hex {
        Ok(())
    } else {
        Err(format!("invalid checksum {text} for a git repository, expected a hex commit id"))
    }
}

/// Tells whether a text is a full commit id, SHA-1 or SHA-256.
pub fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64)
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Algorithm {
    /// Gives the name in digests.
    pub fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha384 => "sha384",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn hex_length(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha384 => 96,
            Algorithm::Sha512 => 128,
        }
    }
}

impl std::str::FromStr for Checksum {
    type Err = String;

    fn from_str(text: &str) -> Result<Checksum, String> {
        let (name, hex) = text.split_once(':').unwrap_or(("", text));
        let all = [Algorithm::Sha256, Algorithm::Sha384, Algorithm::Sha512];
        let algorithm = all.into_iter().find(|algorithm| algorithm.as_str() == name);
        let algorithm = algorithm.ok_or_else(|| {
            format!("{text:?} is no checksum of a URL: expected sha256:, sha384: or sha512: and hex digits")
        })?;
        let digits = hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !digits || hex.len() != algorithm.hex_length() {
            return Err(format!(
                "{text:?} is no checksum: {name} has {} lower-case hex digits",
                algorithm.hex_length()
            ));
        }
        Ok(Checksum { algorithm, hex: hex.to_owned() })
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

impl Remote {
    /// Gives the name for messages, without credentials.
    pub fn shown(&self) -> String {
        match self {
            Remote::Url(source) => redact(&source.url),
            Remote::Git(source) => {
                let mut text = redact(&source.remote);
                match (&source.reference, source.subdir.as_str()) {
                    (None, "") => {}
                    (None, subdir) => text.push_str(&format!("#:{subdir}")),
                    (Some(reference), "") => text.push_str(&format!("#{reference}")),
                    (Some(reference), subdir) => text.push_str(&format!("#{reference}:{subdir}")),
                }
                text
            }
        }
    }
}

/// Gives the name that ADD gives to a URL's file: the last part of its path (BuildKit: `dispatchCopy`).
pub fn file_name(url: &str) -> String {
    let (base, ..) = split(url);
    let path = base.split_once("://").map_or(base, |(_, rest)| rest);
    let path = path.split_once('/').map_or("", |(_, path)| path);
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let name = percent_decode(last).unwrap_or_else(|_| last.to_owned());
    // An escaped slash is a part of the path too, once it is decoded.
    let name = name.rsplit('/').next().unwrap_or_default();
    if name.is_empty() || name == "." || name == ".." || name.contains('\0') {
        "__unnamed__".to_owned()
    } else {
        name.to_owned()
    }
}

/// Writes a file name as a pattern that matches only itself.
pub fn escape_pattern(name: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if "*?[]\\".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Replaces user and password of all URLs in a text. The user of an ssh URL says nothing and stays.
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after
            .find(|c: char| c.is_whitespace() || "/?#\"'`,<>".contains(c))
            .unwrap_or(after.len());
        match after[..end].rfind('@') {
            Some(user_end) => {
                let user = &after[..user_end];
                let is_ssh = before.ends_with("ssh://");
                match user.split_once(':') {
                    None if is_ssh => out.push_str(user),
                    None => out.push_str("xxxxx"),
                    Some(_) => out.push_str("xxxxx:xxxxx"),
                }
                rest = &after[user_end..];
            }
            None => rest = after,
        }
    }
    out.push_str(rest);
    out
}

/// The same without a copy of a text that has no URL.
pub(super) fn redacted(text: &str) -> Cow<'_, str> {
    let mut colons = memchr::memchr_iter(b':', text.as_bytes());
    match colons.any(|at| text[at..].starts_with("://")) {
        true => redact(text).into(),
        false => text.into(),
    }
}

/// Decodes `%XX`.
pub fn percent_decode(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| byte.and_then(|byte| (byte as char).to_digit(16));
        match (digit(rest.next()), digit(rest.next())) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err(format!("{text:?} has a % without two hex digits")),
        }
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is not UTF-8"))
}

/// Encodes what a header or message must not hold; the rest stays as it is.
pub fn printable(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_control() {
            let _ = write!(out, "%{:02X}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
