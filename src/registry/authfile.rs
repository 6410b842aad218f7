//! Writing credentials where Docker and Podman read them: one entry of a config.json or auth.json,
//! or the credential helper that such a file names.
//!
//! A file keeps everything that is not ours to change, and is replaced whole: a temporary file
//! beside it, mode 0600, synced, then renamed. A file that is a symbolic link (dotfiles kept
//! elsewhere) stays one. Two programs of ours that change it at the same time take turns: the
//! directory is locked from reading to writing (a lock file would be one more thing that lies about).

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::credential::{Credential, normalize, run_helper};
use super::error::{Error, Result};
use crate::oci::reference::DOCKER_HUB;

/// The key under which Docker files Docker Hub; `docker login` knows no other.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// Where a credential went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// Into the file, readable for whoever reads the file.
    File,
    /// Into this credential helper (its name without `docker-credential-`).
    Helper(String),
}

/// A config.json or auth.json that is changed. One that does not exist is made.
#[derive(Debug)]
pub struct AuthFile {
    path: PathBuf,
    top: Map<String, Value>,
    /// Held to the end.
    _turn: Option<fs::File>,
}

impl AuthFile {
    /// Reads the file in order to change it: others who want that wait until this is dropped. The
    /// directory is made when it is not there.
    pub fn edit(path: &Path) -> Result<AuthFile> {
        let turn = turn(path)
            .map_err(|source| Error::CredentialWrite { path: path.to_owned(), source })?;
        Ok(AuthFile { _turn: turn, ..AuthFile::open(path)? })
    }

    /// Reads the file.
    pub fn open(path: &Path) -> Result<AuthFile> {
        let failed = |source| Error::CredentialFile { path: path.to_owned(), source };
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(failed(source)),
        };
        let top = if bytes.iter().all(u8::is_ascii_whitespace) {
            Map::new()
        } else {
            serde_json::from_slice(&bytes).map_err(|error| failed(error.into()))?
        };
        let file = AuthFile { path: path.to_owned(), top, _turn: None };
        if let Some(other) = file.top.get("auths").filter(|auths| !auths.is_object()) {
            let reason = format!("`auths` must be an object, not {other}");
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, reason)));
        }
        Ok(file)
    }

    /// Tells whether it has an entry for `key` (`host[:port][/path]`), or a helper for just that.
    pub fn knows(&self, key: &str) -> bool {
        let key = normalize(key);
        ["auths", "credHelpers"]
            .iter()
            .filter_map(|part| self.top.get(*part)?.as_object())
            .any(|entries| entries.keys().any(|name| normalize(name) == key))
    }

    /// Keeps a credential for `key`, in the helper that the file names for it, else in the file.
    pub fn store(mut self, key: &str, credential: &Credential) -> Result<Kept> {
        let (username, secret) = match credential {
            Credential::Basic { username, password } => (username.as_str(), password),
            Credential::Identity(token) => ("<token>", token),
            // Only a file written by hand has one.
            Credential::Bearer(token) => ("<token>", token),
        };
        let name = self.key(key);
        if let Some(helper) = self.helper(key) {
            let input =
                json!({ "ServerURL": name, "Username": username, "Secret": secret.reveal() });
            run_helper(&helper, "store", key, input.to_string().as_bytes())?;
            // An older password in the file would go before the helper's, and be readable. The
            // empty entry is how Docker notes that its store has one.
            let known = self.take(key);
            if known || self.top.get("credsStore").is_some() {
                self.auths().insert(name, json!({}));
                self.write()?;
            }
            return Ok(Kept::Helper(helper));
        }
        self.take(key);
        let entry = match credential {
            Credential::Basic { username, password } => {
                let text = format!("{username}:{}", password.reveal());
                json!({ "auth": STANDARD.encode(text) })
            }
            Credential::Identity(token) => json!({ "identitytoken": token.reveal() }),
            Credential::Bearer(token) => json!({ "registrytoken": token.reveal() }),
        };
        self.auths().insert(name, entry);
        self.write()?;
        Ok(Kept::File)
    }

    /// Forgets what it has for `key`, in the helper too. Tells whether there was anything.
    pub fn forget(mut self, key: &str) -> Result<bool> {
        let mut had = false;
        if let Some(helper) = self.helper(key) {
            let name = self.key(key);
            // Erasing what is not there is no error for most helpers, so they are asked before.
            had = run_helper(&helper, "get", key, name.as_bytes())?.is_some();
            if had {
                run_helper(&helper, "erase", key, name.as_bytes())?;
            }
        }
        if self.take(key) {
            self.write()?;
            had = true;
        }
        Ok(had)
    }

    /// The spelling of a key in this file.
    fn key(&self, key: &str) -> String {
        let dockers = self.path.file_name().is_some_and(|name| name == "config.json");
        if dockers && key == DOCKER_HUB { DOCKER_HUB_KEY.to_owned() } else { key.to_owned() }
    }

    fn helper(&self, key: &str) -> Option<String> {
        let key = normalize(key);
        let helpers = self.top.get("credHelpers").and_then(Value::as_object);
        helpers
            .and_then(|helpers| helpers.iter().find(|(name, _)| normalize(name) == key))
            .map(|(_, helper)| helper)
            .or_else(|| self.top.get("credsStore"))
            .and_then(Value::as_str)
            .filter(|helper| !helper.is_empty())
            .map(str::to_owned)
    }

    fn auths(&mut self) -> &mut Map<String, Value> {
        let auths = self.top.entry("auths").or_insert_with(|| json!({}));
        auths.as_object_mut().expect("open has refused anything else")
    }

    /// Takes all spellings of a key out.
    fn take(&mut self, key: &str) -> bool {
        let key = normalize(key);
        let Some(auths) = self.top.get_mut("auths").and_then(Value::as_object_mut) else {
            return false;
        };
        let before = auths.len();
        auths.retain(|name, _| normalize(name) != key);
        auths.len() != before
    }

    fn write(&self) -> Result<()> {
        self.replace().map_err(|source| Error::CredentialWrite { path: self.path.clone(), source })
    }

    fn replace(&self) -> io::Result<()> {
        let (dest, dir) = destination(&self.path);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        // Its mode is 0600.
        let mut file = tempfile::NamedTempFile::new_in(dir)?;
        let mut text = serde_json::to_string_pretty(&self.top)?;
        text.push('\n');
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&dest).map(drop).map_err(|error| error.error)
    }
}

/// Gives the file that a path leads to, and its directory.
fn destination(path: &Path) -> (PathBuf, PathBuf) {
    let dest = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = dest.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let dir = dir.to_owned();
    (dest, dir)
}

/// Waits for our turn. Where the file system has no locks (some network ones) there are no turns.
fn turn(path: &Path) -> io::Result<Option<fs::File>> {
    let (_, dir) = destination(path);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let file = fs::File::open(dir)?;
    Ok(file.lock().is_ok().then_some(file))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::credential::{CredentialSource, Credentials, Secret};
    use super::*;

    fn user(password: &str) -> Credential {
        Credential::Basic { username: "alice".to_owned(), password: Secret::new(password) }
    }

    fn find(path: &Path, name: &str) -> Option<Credential> {
        Credentials::new(vec![CredentialSource::File(path.to_owned())])
            .find(&name.parse().unwrap())
            .unwrap()
    }

    #[test]
    fn entries_are_kept_found_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["config.json", "auth.json"] {
            let path = dir.path().join("new/deep").join(name);
            for (key, image) in [("docker.io", "alpine"), ("reg.io:5000", "reg.io:5000/a/b")] {
                let file = || AuthFile::open(&path).unwrap();
                assert_eq!(file().store(key, &user("old")).unwrap(), Kept::File);
                assert_eq!(file().store(key, &user("a:b")).unwrap(), Kept::File);
                assert!(file().knows(key));
                assert_eq!(find(&path, image), Some(user("a:b")));
                assert!(file().forget(key).unwrap());
                assert!(!file().forget(key).unwrap());
                assert_eq!(find(&path, image), None);
            }
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn other_keys_links_and_spellings_are_minded() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().join("real.json");
        let path = dir.path().join("config.json");
        fs::write(
            &real,
            r#"{"detachKeys":"ctrl-e","auths":{"http://reg.io/v2/":{"auth":"b2xkOm9sZA=="},"other.io":{"auth":"YTox"}}}"#,
        )
        .unwrap();
        fs::set_permissions(&real, fs::Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::symlink("real.json", &path).unwrap();
        AuthFile::open(&path).unwrap().store("reg.io", &user("new")).unwrap();
        assert!(fs::symlink_metadata(&path).unwrap().is_symlink());
        assert_eq!(fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
        let now: Value = serde_json::from_slice(&fs::read(&real).unwrap()).unwrap();
        let want = json!({ "detachKeys": "ctrl-e", "auths": {
            "reg.io": { "auth": STANDARD.encode("alice:new") }, "other.io": { "auth": "YTox" } } });
        assert_eq!(now, want);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left over");
    }

    #[test]
    fn many_at_a_time_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/config.json");
        std::thread::scope(|scope| {
            for i in 0..16 {
                let path = &path;
                scope.spawn(move || {
                    let key = format!("r{i}.io");
                    AuthFile::edit(path).unwrap().store(&key, &user("x")).unwrap();
                });
            }
        });
        let file = AuthFile::open(&path).unwrap();
        assert!((0..16).all(|i| file.knows(&format!("r{i}.io"))));
        assert_eq!(fs::read_dir(dir.path().join("new")).unwrap().count(), 1, "no lock file");
    }

    #[test]
    fn damaged_files_are_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        for bad in ["{", "[]", r#"{"auths":[]}"#] {
            fs::write(&path, bad).unwrap();
            let error = AuthFile::open(&path).unwrap_err().to_string();
            assert!(error.contains("config.json"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), bad);
        }
    }
}
