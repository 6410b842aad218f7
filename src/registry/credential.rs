//! Credentials: where a user's names and passwords for registries come from.
//!
//! Two file formats, one grammar: Docker's `config.json` (`auths`, `credsStore`, `credHelpers`) and
//! Podman's `auth.json`, whose keys may also be paths below a registry (`quay.io/team`). The more
//! specific key wins; the first source that knows something wins.
//!
//! Paths come in from the caller; nothing here looks at the environment. Secrets never show in
//! `Debug`.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::error::{Error, Result};
use crate::oci::Reference;
use crate::oci::reference::DOCKER_HUB;

/// A text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

/// What a user has for a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password.
    Basic {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// A refresh token of OAuth 2 (Docker's `identitytoken`).
    Identity(Secret),
    /// A bearer token that is sent as it is (Docker's `registrytoken`).
    Bearer(Secret),
}

/// Where credentials come from.
#[derive(Debug, Clone)]
pub enum CredentialSource {
    /// A file in the format of Docker's config.json or Podman's auth.json. A file that does not
    /// exist holds nothing.
    File(PathBuf),
    /// The text of such a file, and a name for messages (GitLab's `DOCKER_AUTH_CONFIG`).
    Inline {
        /// What to call it.
        name: String,
        /// The text.
        json: Vec<u8>,
    },
    /// One credential for a registry, or for a path below it.
    Fixed {
        /// As the keys of Podman's files: `host[:port][/path]`.
        key: String,
        /// The credential.
        credential: Credential,
    },
}

/// All sources, in the order in which they are asked.
#[derive(Debug, Default)]
pub struct Credentials {
    sources: Vec<CredentialSource>,
    files: Mutex<Option<Vec<Loaded>>>,
}

#[derive(Debug, Clone)]
enum Loaded {
    File(File),
    Fixed(String, Credential),
}

#[derive(Debug, Clone, Default, Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credsStore")]
    creds_store: Option<String>,
    #[serde(default, rename = "credHelpers")]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    auth: Option<Secret>,
    #[serde(default)]
    username: Option<String>,
    #[serde(default)]
    password: Option<Secret>,
    #[serde(default)]
    identitytoken: Option<Secret>,
    #[serde(default)]
    registrytoken: Option<Secret>,
}

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// Gives the text, to send it and for nothing else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret)
    }
}

impl Credentials {
    /// Makes credentials from sources; nothing is read yet.
    pub fn new(sources: Vec<CredentialSource>) -> Credentials {
        Credentials { sources, files: Mutex::new(None) }
    }

    /// Gives what the user has for a repository.
    pub fn find(&self, reference: &Reference) -> Result<Option<Credential>> {
        let mut files = self.files.lock().unwrap_or_else(|poison| poison.into_inner());
        if files.is_none() {
            *files = Some(self.load()?);
        }
        let keys = keys(reference);
        for loaded in files.iter().flatten() {
            let found = match loaded {
                Loaded::Fixed(key, credential) => {
                    keys.contains(&normalize(key)).then(|| credential.clone())
                }
                Loaded::File(file) => file.find(&keys, &reference.registry)?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    fn load(&self) -> Result<Vec<Loaded>> {
        let mut out = Vec::new();
        for source in &self.sources {
            let (path, bytes) = match source {
                CredentialSource::Fixed { key, credential } => {
                    out.push(Loaded::Fixed(key.clone(), credential.clone()));
                    continue;
                }
                CredentialSource::Inline { name, json } => (PathBuf::from(name), json.clone()),
                CredentialSource::File(path) => match fs::read(path) {
                    Ok(bytes) => (path.clone(), bytes),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                    Err(source) => {
                        return Err(Error::CredentialFile { path: path.clone(), source });
                    }
                },
            };
            if bytes.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let file = serde_json::from_slice(&bytes)
                .map_err(|error| Error::CredentialFile { path, source: error.into() })?;
            out.push(Loaded::File(file));
        }
        Ok(out)
    }
}

impl File {
    /// Docker's order is helper of the registry, store, file; but a file that has both a store and
    /// an entry was written by Podman or by hand, and then the entry is meant.
    fn find(&self, keys: &[String], registry: &str) -> Result<Option<Credential>> {
        for (key, helper) in &self.cred_helpers {
            if keys.contains(&normalize(key)) {
                return ask_helper(helper, registry, std::slice::from_ref(key));
            }
        }
        for key in keys {
            for (name, entry) in &self.auths {
                if normalize(name) == *key
                    && let Some(credential) = entry.credential()
                {
                    return Ok(Some(credential));
                }
            }
        }
        match &self.creds_store {
            Some(helper) if !helper.is_empty() => {
                let servers = if registry == DOCKER_HUB {
                    vec!["https://index.docker.io/v1/".to_owned(), DOCKER_HUB.to_owned()]
                } else {
                    vec![registry.to_owned(), format!("https://{registry}")]
                };
                ask_helper(helper, registry, &servers)
            }
            _ => Ok(None),
        }
    }
}

impl Entry {
    fn credential(&self) -> Option<Credential> {
        let given = |secret: &Option<Secret>| secret.clone().filter(|s| !s.0.is_empty());
        if let Some(token) = given(&self.registrytoken) {
            return Some(Credential::Bearer(token));
        }
        if let Some(token) = given(&self.identitytoken) {
            return Some(Credential::Identity(token));
        }
        if let Some(auth) = given(&self.auth) {
            let bytes = STANDARD.decode(auth.0.trim()).ok()?;
            let text = String::from_utf8(bytes).ok()?;
            // Docker pads the password with NULs on some systems.
            let (username, password) = text.trim_end_matches('\0').split_once(':')?;
            return Some(basic(username, password));
        }
        let username = self.username.as_deref().filter(|name| !name.is_empty())?;
        Some(basic(username, &given(&self.password)?.0))
    }
}

fn basic(username: &str, password: &str) -> Credential {
    // The mark by which helpers and files say that the password is a refresh token.
    if username == "<token>" {
        return Credential::Identity(Secret::new(password));
    }
    Credential::Basic { username: username.to_owned(), password: Secret::new(password) }
}

/// Gives the keys under which a credential may be filed, from the most specific to the least.
fn keys(reference: &Reference) -> Vec<String> {
    let registry = reference.registry.to_ascii_lowercase();
    let mut out = Vec::new();
    let mut path = format!("{registry}/{}", reference.repository);
    while path.len() > registry.len() {
        out.push(path.clone());
        path.truncate(path.rfind('/').unwrap_or(0));
    }
    out.push(registry);
    out
}

/// Maps the spellings of a key to one: no scheme, no API path, Docker Hub's names to `docker.io`.
pub(super) fn normalize(key: &str) -> String {
    let key = key.trim();
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let bare = bare.trim_end_matches('/');
    let bare = ["/v1", "/v2"].iter().find_map(|end| bare.strip_suffix(end)).unwrap_or(bare);
    let (host, path) = match bare.split_once('/') {
        Some((host, path)) => (host, format!("/{path}")),
        None => (bare, String::new()),
    };
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" => DOCKER_HUB,
        host => host,
    };
    format!("{}{path}", host.to_ascii_lowercase())
}

/// Asks a credential helper (docker/docker-credential-helpers: `get`, the server on stdin, JSON on
/// stdout) about each of `servers` until it knows one.
fn ask_helper(name: &str, registry: &str, servers: &[String]) -> Result<Option<Credential>> {
    let error = |reason: String| Error::CredentialHelper {
        name: name.to_owned(),
        registry: registry.to_owned(),
        reason,
    };
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Answer {
        #[serde(default)]
        username: String,
        secret: Secret,
    }
    for server in servers {
        let Some(output) = run_helper(name, "get", registry, server.as_bytes())? else { continue };
        let answer: Answer = serde_json::from_slice(&output)
            .map_err(|source| error(format!("its answer is no JSON ({source})")))?;
        if answer.username.is_empty() && answer.secret.0.is_empty() {
            continue;
        }
        return Ok(Some(basic(&answer.username, answer.secret.reveal())));
    }
    Ok(None)
}

/// Runs `docker-credential-NAME VERB` and gives what it printed; None when it says that it does not
/// know the server.
pub(super) fn run_helper(
    name: &str,
    verb: &str,
    registry: &str,
    input: &[u8],
) -> Result<Option<Vec<u8>>> {
    let error = |reason: String| Error::CredentialHelper {
        name: name.to_owned(),
        registry: registry.to_owned(),
        reason,
    };
    if name.is_empty() || name.contains('/') {
        return Err(error("its name is not one of a program".to_owned()));
    }
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| error(format!("it cannot be started ({source})")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input says why on its output.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|source| error(source.to_string()))?;
    if output.status.success() {
        return Ok(Some(output.stdout));
    }
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    // Helpers say this in words only; the exit code is 1 for everything.
    if said.contains("credentials not found") {
        return Ok(None);
    }
    Err(error(said.trim().chars().filter(|c| !c.is_control()).take(300).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inline(json: &str) -> CredentialSource {
        CredentialSource::Inline { name: "test".to_owned(), json: json.as_bytes().to_vec() }
    }

    fn find(sources: Vec<CredentialSource>, reference: &str) -> Option<Credential> {
        Credentials::new(sources).find(&reference.parse().unwrap()).unwrap()
    }

    fn auth(text: &str) -> String {
        format!(r#"{{"auth":"{}"}}"#, STANDARD.encode(text))
    }

    #[test]
    fn keys_are_matched_from_the_most_specific() {
        let json = format!(
            r#"{{"auths":{{"quay.io":{},"quay.io/team":{},"quay.io/team/app":{},"https://index.docker.io/v1/":{},"http://reg.io:5000/v2/":{},"empty.io":{{}}}}}}"#,
            auth("a:1"),
            auth("b:2"),
            auth("c:x:y"),
            auth("hub:3"),
            auth("<token>:tok"),
        );
        let user = |reference: &str| match find(vec![inline(&json)], reference) {
            Some(Credential::Basic { username, password }) => {
                format!("{username}:{}", password.reveal())
            }
            Some(Credential::Identity(token)) => format!("identity {}", token.reveal()),
            other => format!("{other:?}"),
        };
        let table = [
            ("quay.io/other/app", "a:1"),
            ("quay.io/team/other", "b:2"),
            ("quay.io/team/app", "c:x:y"),
            ("quay.io/teams/app", "a:1"),
            ("alpine", "hub:3"),
            ("reg.io:5000/x", "identity tok"),
            ("reg.io/x", "None"),
            ("empty.io/x", "None"),
        ];
        for (reference, want) in table {
            assert_eq!(user(reference), want, "{reference}");
        }
    }

    #[test]
    fn first_source_wins_and_missing_files_hold_nothing() {
        let fixed = CredentialSource::Fixed {
            key: "reg.io".to_owned(),
            credential: Credential::Bearer(Secret::new("t")),
        };
        let file = inline(&format!(r#"{{"auths":{{"reg.io":{}}}}}"#, auth("a:1")));
        let missing = CredentialSource::File("/nonexistent/config.json".into());
        let first = find(vec![missing, fixed.clone(), file.clone()], "reg.io/x");
        assert_eq!(first, Some(Credential::Bearer(Secret::new("t"))));
        assert!(matches!(find(vec![file, fixed], "reg.io/x"), Some(Credential::Basic { .. })));
        assert_eq!(find(vec![inline("  ")], "reg.io/x"), None);
    }

    #[test]
    fn damaged_files_are_named() {
        let credentials = Credentials::new(vec![inline("{")]);
        let error = credentials.find(&"a/b".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "credentials in test cannot be read");
    }

    #[test]
    fn helpers_that_are_missing_are_named() {
        let credentials =
            Credentials::new(vec![inline(r#"{"credHelpers":{"reg.io":"no-such-helper"}}"#)]);
        let error = credentials.find(&"reg.io/b".parse().unwrap()).unwrap_err().to_string();
        assert!(error.contains("docker-credential-no-such-helper failed for reg.io"), "{error}");
        assert_eq!(credentials.find(&"other.io/b".parse().unwrap()).unwrap(), None);
    }

    #[test]
    fn secrets_do_not_show() {
        let credential = Credential::Basic { username: "u".into(), password: Secret::new("pw") };
        assert!(!format!("{credential:?}").contains("pw"));
    }
}
