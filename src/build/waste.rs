//! RepeatedFiles and PackageCache: what a RUN's layer holds that nobody needs, in bytes.
//!
//! Measured from tables of contents alone, so it costs no reading of files; kept in the step's
//! record, so that a cached step says the same. Only layers that end in an output are told of.
//!
//! Start reading at [`measure`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::dockerfile::{Diagnostic, Rule, Span};
use crate::layer::toc::{KindRef, Toc};
use crate::layer::tree::Tree;

/// Less than this is not worth a line (1 MB: some tenth of a second of anybody's download).
const LEAST: u64 = 1_000_000;

/// What a layer could do without.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Costs {
    /// Bytes of files that differ from those below in owner or mode only.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub repeated: u64,
    /// How many such files there are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub files: u64,
    /// Bytes that package managers left, by the name of the manager.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub caches: BTreeMap<String, u64>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Where a package manager keeps what it downloaded.
struct Place {
    manager: &'static str,
    /// Below the root, or below any home directory.
    path: &'static str,
    home: bool,
}

const fn place(manager: &'static str, path: &'static str) -> Place {
    Place { manager, path, home: false }
}

const fn at_home(manager: &'static str, path: &'static str) -> Place {
    Place { manager, path, home: true }
}

/// From the manuals of each (apt.conf(5), apk(8), dnf.conf(5), `pip cache dir`, `npm config get
/// cache`, `yarn cache dir`, The Cargo Book, `go help environment`, composer's `cache-dir`).
const PLACES: [Place; 21] = [
    place("apt", "var/cache/apt/"),
    place("apt", "var/lib/apt/lists/"),
    place("apk", "var/cache/apk/"),
    place("apk", "etc/apk/cache/"),
    place("dnf", "var/cache/dnf/"),
    place("dnf", "var/cache/libdnf5/"),
    place("yum", "var/cache/yum/"),
    place("zypper", "var/cache/zypp/"),
    place("pacman", "var/cache/pacman/pkg/"),
    place("yarn", "usr/local/share/.cache/yarn/"),
    place("cargo", "usr/local/cargo/registry/"),
    place("go", "go/pkg/mod/cache/"),
    at_home("pip", ".cache/pip/"),
    at_home("uv", ".cache/uv/"),
    at_home("npm", ".npm/_cacache/"),
    at_home("yarn", ".cache/yarn/"),
    at_home("pnpm", ".cache/pnpm/"),
    at_home("cargo", ".cargo/registry/"),
    at_home("go", ".cache/go-build/"),
    at_home("go", "go/pkg/mod/cache/"),
    at_home("composer", ".cache/composer/"),
];

/// Finds the package manager that a path is the cache of.
fn manager_of(path: &[u8]) -> Option<&'static str> {
    let home = path.strip_prefix(b"root/").or_else(|| {
        let below = path.strip_prefix(b"home/")?;
        let user = below.iter().position(|&b| b == b'/')?;
        Some(&below[user + 1..])
    });
    let lies_in = |place: &&Place| match (place.home, home) {
        (true, Some(home)) => home.starts_with(place.path.as_bytes()),
        (true, None) => false,
        (false, _) => path.starts_with(place.path.as_bytes()),
    };
    PLACES.iter().find(lies_in).map(|place| place.manager)
}

/// Measures the layer of a RUN against what lay below it.
pub fn measure(toc: &Toc, below: &Tree) -> Costs {
    let mut costs = Costs::default();
    for entry in toc.iter() {
        let KindRef::File { size, .. } = entry.kind else { continue };
        if size == 0 {
            continue;
        }
        if let Some(manager) = manager_of(entry.path) {
            *costs.caches.entry(manager.to_owned()).or_default() += size;
            continue;
        }
        // A program that writes a file changes its time; chown and chmod do not.
        if let Some(found) = below.lookup(&entry.root_path())
            && let KindRef::File { size: before, .. } = found.target().entry.kind
            && before == size
            && found.entry.mtime == entry.mtime
            && (found.entry.mode, found.entry.uid, found.entry.gid)
                != (entry.mode, entry.uid, entry.gid)
        {
            costs.repeated += size;
            costs.files += 1;
        }
    }
    costs.caches.retain(|_, bytes| *bytes >= LEAST);
    if costs.repeated < LEAST {
        (costs.repeated, costs.files) = (0, 0);
    }
    costs
}

impl Costs {
    /// Says whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        *self == Costs::default()
    }

    /// Writes the findings.
    pub fn findings(&self, span: Span) -> Vec<Diagnostic> {
        let mut found = Vec::new();
        if self.repeated > 0 {
            let count = match self.files {
                1 => "a file".to_owned(),
                count => format!("{count} files"),
            };
            let message = format!(
                "this RUN stores {} again: only owner or mode of {count} changed",
                megabytes(self.repeated)
            );
            found.push(
                Diagnostic::lint(Rule::RepeatedFiles, span, message)
                    .with_help("set both where the files come from: COPY --chown=… --chmod=…, or the RUN that makes them"),
            );
        }
        for (manager, bytes) in &self.caches {
            let message =
                format!("this RUN leaves {} of {manager}'s cache in its layer", megabytes(*bytes));
            found
                .push(Diagnostic::lint(Rule::PackageCache, span, message).with_help(mend(manager)));
        }
        found
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10)
}

fn mend(manager: &str) -> String {
    let mounts = |targets: &[&str]| {
        let mounts = targets.iter().map(|target| format!("--mount=type=cache,target={target}"));
        format!(
            "keep it out of the image and for the next build:\nRUN {} …",
            mounts.collect::<Vec<_>>().join(" ")
        )
    };
    match manager {
        "apt" => mounts(&["/var/cache/apt,sharing=locked", "/var/lib/apt/lists,sharing=locked"]),
        "apk" => "use `apk add --no-cache …`".to_owned(),
        "dnf" => mounts(&["/var/cache/dnf", "/var/cache/libdnf5"]),
        "yum" => mounts(&["/var/cache/yum"]),
        "zypper" => mounts(&["/var/cache/zypp"]),
        "pacman" => mounts(&["/var/cache/pacman/pkg"]),
        "pip" => mounts(&["/root/.cache/pip"]),
        "uv" => mounts(&["/root/.cache/uv"]),
        "npm" => mounts(&["/root/.npm"]),
        "yarn" => mounts(&["/usr/local/share/.cache/yarn"]),
        "pnpm" => mounts(&["/root/.cache/pnpm"]),
        "cargo" => mounts(&["/usr/local/cargo/registry"]),
        "go" => mounts(&["/go/pkg/mod", "/root/.cache/go-build"]),
        _ => mounts(&["/root/.cache"]),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::layer::toc::TocBuilder;
    use crate::layer::{Entry, Kind};

    fn toc(files: &[(&str, u64, u32, i64)]) -> Toc {
        let mut builder = TocBuilder::new();
        for (path, size, uid, mtime) in files {
            let kind = Kind::File { size: *size, digest: None };
            let xattrs = Default::default();
            builder.push(Entry {
                path: (*path).into(),
                kind,
                mode: 0o644,
                uid: *uid,
                gid: 0,
                mtime: *mtime,
                xattrs,
            });
        }
        builder.finish()
    }

    #[test]
    fn what_only_changed_its_owner_is_repeated() {
        let below =
            Tree::new(vec![Arc::new(toc(&[("a", 2_000_000, 0, 5), ("b", 3_000_000, 0, 5)]))]);
        let chowned = toc(&[("a", 2_000_000, 33, 5), ("b", 3_000_000, 0, 5)]);
        let costs = measure(&chowned, &below);
        assert_eq!((costs.repeated, costs.files), (2_000_000, 1));
        let written =
            toc(&[("a", 2_000_000, 33, 6), ("b", 3_000_001, 33, 5), ("c", 4_000_000, 33, 5)]);
        assert!(measure(&written, &below).is_empty());
        assert!(measure(&toc(&[("a", 10, 33, 5)]), &below).is_empty());
    }

    #[test]
    fn caches_are_known_by_their_places() {
        for (path, expect) in [
            ("var/lib/apt/lists/x_Packages", Some("apt")),
            ("var/cache/apt/archives/curl.deb", Some("apt")),
            ("root/.cache/pip/http/a", Some("pip")),
            ("home/app/.npm/_cacache/a", Some("npm")),
            ("home/app/go/pkg/mod/cache/download/x", Some("go")),
            ("go/pkg/mod/example.org/x", None),
            ("var/lib/dpkg/status", None),
            ("home/app/node_modules/x", None),
            ("app/root/.cache/pip/x", None),
        ] {
            assert_eq!(manager_of(path.as_bytes()), expect, "{path}");
        }
        let small = toc(&[("var/cache/apt/a", 999_999, 0, 0)]);
        assert!(measure(&small, &Tree::default()).is_empty());
        let large = toc(&[("var/cache/apt/a", 12_345_678, 0, 0), ("var/lib/apt/lists/a", 1, 0, 0)]);
        let found = measure(&large, &Tree::default()).findings(Span::new(1, 2));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].message, "this RUN leaves 12.3 MB of apt's cache in its layer");
    }

    #[test]
    fn records_of_layers_without_costs_stay_as_they_are() {
        let costs = Costs { repeated: 7, files: 1, caches: BTreeMap::new() };
        let json = serde_json::to_value(&costs).expect("JSON");
        assert_eq!(json, serde_json::json!({"repeated": 7, "files": 1}));
        assert_eq!(serde_json::from_value::<Costs>(json).expect("costs"), costs);
    }
}
