//! Which files of containers-registries.conf(5) and containers-certs.d(5) count for this user.
//!
//! Of registries.conf there is one: that of `--registries-conf`, else of `CONTAINERS_REGISTRIES_CONF`,
//! else the user's, else the system's. Files of registries.conf.d go on top in alphabetical order, the
//! system's first; not with `--registries-conf`, and the system's not beside a registries.conf of the
//! user's own. Last come the aliases that Podman wrote down. (containers/image, `newConfigWrapper`.)

use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::oci::reference::DOCKER_HUB;
use crate::registry::{ConfFile, ConfKind, Registries};

use super::args::RegistryArgs;
use super::environment::Environment;
use super::report::{Report, Result};

const SYSTEM: &str = "/etc/containers";

/// Reads the configuration, and says once what of it has no effect.
pub fn read(env: &Environment, args: &RegistryArgs) -> Result<Registries> {
    let mut registries = Registries::read(&files(env, args.registries_conf.as_deref()));
    // The last of the line goes in first, so that the first is asked first.
    for text in args.registry_mirror.iter().rev() {
        let (registry, mirror) = text.split_once('=').unwrap_or((DOCKER_HUB, text));
        registries
            .add_mirror(registry, mirror)
            .map_err(|reason| Report::usage(format!("--registry-mirror {text}: {reason}")))?;
    }
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        for warning in registries.warnings() {
            env.say(&format!("warning: {warning}\n"));
        }
    });
    Ok(registries)
}

/// Reads all files that count, the ones that overrule the others last.
pub fn files(env: &Environment, given: Option<&Path>) -> Vec<ConfFile> {
    if let Some(path) = given {
        return vec![required(&env.cwd.join(path))];
    }
    let own = env.config_dir().map(|dir| dir.join("containers"));
    let system = Path::new(SYSTEM);
    let mut files = Vec::new();
    let mut dirs = vec![system.to_owned()];
    let named = env.variable("CONTAINERS_REGISTRIES_CONF").filter(|name| !name.is_empty());
    let of_user = own.as_ref().map(|dir| dir.join("registries.conf")).filter(|path| path.exists());
    match (named, of_user) {
        (Some(path), _) => files.push(required(&env.cwd.join(path))),
        (None, Some(path)) => {
            files.push(required(&path));
            dirs.clear();
        }
        (None, None) => {
            files.extend(optional(&system.join("registries.conf"), ConfKind::Registries));
        }
    }
    dirs.extend(own);
    for dir in dirs {
        files.extend(drop_ins(&dir.join("registries.conf.d")));
    }
    let cache = if env.user() == 0 { Some(PathBuf::from("/var/cache")) } else { env.cache_dir() };
    if let Some(cache) = cache {
        let aliases = cache.join("containers/short-name-aliases.conf");
        files.extend(optional(&aliases, ConfKind::Aliases));
    }
    files
}

/// Gives the directories that may hold certificates of registries, best first.
pub fn certificate_dirs(env: &Environment) -> Vec<PathBuf> {
    let own = env.config_dir();
    // Rootless Docker reads its own.
    let own =
        own.iter().flat_map(|dir| ["containers/certs.d", "docker/certs.d"].map(|d| dir.join(d)));
    let system = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
    own.chain(system).collect()
}

fn required(path: &Path) -> ConfFile {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string());
    ConfFile { path: path.to_owned(), text, kind: ConfKind::Registries }
}

/// Reads a file that need not be there.
fn optional(path: &Path, kind: ConfKind) -> Option<ConfFile> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        // What Podman wrote down for another user. (In a user namespace everybody looks like root.)
        Err(error)
            if kind == ConfKind::Aliases
                && error.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            return None;
        }
        text => text.map_err(|error| error.to_string()),
    };
    Some(ConfFile { path: path.to_owned(), text, kind })
}

fn drop_ins(dir: &Path) -> Vec<ConfFile> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "conf"))
        .filter(|path| !path.is_dir())
        .collect();
    paths.sort();
    paths.iter().filter_map(|path| optional(path, ConfKind::Registries)).collect()
}
