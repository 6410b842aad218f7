//! What is installed in an image, from the files that tell of it.
//!
//! | files | what they are |
//! |---|---|
//! | `var/lib/dpkg/status`, `var/lib/dpkg/status.d/*` | dpkg's database; the second is distroless' |
//! | `lib/apk/db/installed`, `usr/lib/apk/db/installed` | apk's |
//! | `*.dist-info/METADATA`, `*.egg-info/PKG-INFO` | Python |
//! | `node_modules/*/package.json` | npm, pnpm, yarn |
//! | `rpmdb.sqlite`, `Packages.db`, `Packages` below `var/lib/rpm` and where it is today | rpm's database ([`rpm`]) |
//! | `Cargo.lock` | Rust, where sources or their lock lie in the image |
//! | executables with Go's build information | Go 1.18 and later |

mod dpkg;
mod go;
mod language;
mod rpm;

use super::purl::purl;

/// The largest metadata file that is read; the largest real databases have some 10 MB.
pub const MAX_TEXT: u64 = 64 << 20;
/// The largest executable that is looked into.
pub const MAX_PROGRAM: u64 = 512 << 20;
/// The smallest: Go's smallest programs have more than a megabyte.
const MIN_PROGRAM: u64 = 512 << 10;

/// What a file is, as far as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// `os-release`.
    OsRelease,
    /// A database of dpkg.
    Dpkg,
    /// The database of apk.
    Apk,
    /// The database of rpm.
    Rpm,
    /// Metadata of a Python distribution.
    Python,
    /// `package.json` of an installed package.
    Npm,
    /// `Cargo.lock`.
    Cargo,
    /// An executable, which may be Go's.
    Program,
}

/// The distribution of an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Os {
    /// `ID=`, as `debian`.
    pub id: String,
    /// `VERSION_ID=`, as `12`.
    pub version: String,
    /// `PRETTY_NAME=`.
    pub name: String,
}

/// One package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Package {
    /// Its package URL.
    pub purl: String,
    /// The kind in the package URL, as `deb`.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Who made the package, as `Jane <jane@example>`.
    pub supplier: Option<String>,
    /// Its licence, as it says.
    pub license: Option<String>,
    /// Its home page.
    pub homepage: Option<String>,
    /// The file that tells of it, without leading slash.
    pub found_in: String,
}

/// Tells what a regular file is by its path (without leading slash), mode and size.
pub fn classify(path: &str, mode: u32, size: u64) -> Option<Source> {
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let source = match path {
        "etc/os-release" | "usr/lib/os-release" => Source::OsRelease,
        "var/lib/dpkg/status" => Source::Dpkg,
        "lib/apk/db/installed" | "usr/lib/apk/db/installed" => Source::Apk,
        _ if is_rpm(dir, name) => Source::Rpm,
        _ if dir == "var/lib/dpkg/status.d" && !name.ends_with(".md5sums") => Source::Dpkg,
        _ if name == "METADATA" && dir.ends_with(".dist-info") => Source::Python,
        _ if name == "PKG-INFO" && dir.ends_with(".egg-info") => Source::Python,
        _ if name == "package.json" && is_npm_package(dir) => Source::Npm,
        _ if name == "Cargo.lock" => Source::Cargo,
        _ if mode & 0o111 != 0 && (MIN_PROGRAM..=MAX_PROGRAM).contains(&size) => {
            return Some(Source::Program);
        }
        _ => return None,
    };
    // Of a database that is too large, it is told that it is not read.
    (size > 0 && (size <= MAX_TEXT || source == Source::Rpm)).then_some(source)
}

/// Says whether a directory is that of a package itself and not something inside of it.
fn is_npm_package(dir: &str) -> bool {
    let Some((parent, name)) = dir.rsplit_once('/') else { return false };
    let parent = match parent.rsplit_once('/') {
        Some((parent, scope)) if scope.starts_with('@') => parent,
        _ => parent,
    };
    let in_modules = parent == "node_modules" || parent.ends_with("/node_modules");
    in_modules && !name.starts_with(['.', '@'])
}

/// Says whether a file is a database of rpm.
fn is_rpm(dir: &str, name: &str) -> bool {
    matches!(dir, "var/lib/rpm" | "usr/lib/sysimage/rpm" | "usr/share/rpm")
        && matches!(name, "rpmdb.sqlite" | "Packages" | "Packages.db")
}

/// Reads one file. What can't be read is no package: an image may hold anything. None is a database that
/// nobody can read, and that an SBOM should tell of.
pub fn parse(source: Source, path: &str, bytes: &[u8], os: &Os) -> Option<Vec<Package>> {
    let text = String::from_utf8_lossy(bytes);
    let mut packages = match source {
        Source::OsRelease => Vec::new(),
        Source::Dpkg => dpkg::dpkg(&text, os),
        Source::Apk => dpkg::apk(&text, os),
        Source::Rpm => rpm::packages(bytes, os)?,
        Source::Python => language::python(&text).into_iter().collect(),
        Source::Npm => language::npm(bytes).into_iter().collect(),
        Source::Cargo => language::cargo(&text),
        Source::Program => go::modules(bytes),
    };
    for package in &mut packages {
        package.found_in = path.to_owned();
    }
    Some(packages)
}

/// Reads `os-release` (os-release(5)).
pub fn os_release(text: &str) -> Os {
    let get = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        line.map(|value| value.trim().trim_matches(['"', '\'']).to_owned()).unwrap_or_default()
    };
    Os { id: get("ID"), version: get("VERSION_ID"), name: get("PRETTY_NAME") }
}

impl Os {
    /// The qualifier `distro` of a package URL.
    fn distro(&self) -> String {
        match self.version.as_str() {
            "" => self.id.clone(),
            version => format!("{}-{version}", self.id),
        }
    }
}

/// Makes a package of a language.
fn simple(kind: &'static str, namespace: &str, name: &str, version: &str) -> Package {
    let full = if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") };
    Package {
        purl: purl(kind, namespace, name, version, &[]),
        kind,
        name: full,
        version: version.to_owned(),
        ..Package::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_known_by_their_names() {
        for (path, mode, size, want) in [
            ("var/lib/dpkg/status", 0o644, 10, Some(Source::Dpkg)),
            ("var/lib/dpkg/status", 0o644, 0, None),
            ("var/lib/dpkg/status.d/base", 0o644, 10, Some(Source::Dpkg)),
            ("var/lib/dpkg/status.d/base.md5sums", 0o644, 10, None),
            ("lib/apk/db/installed", 0o644, 10, Some(Source::Apk)),
            (
                "usr/lib/python3/dist-packages/a-1.dist-info/METADATA",
                0o644,
                10,
                Some(Source::Python),
            ),
            ("app/node_modules/left/package.json", 0o644, 10, Some(Source::Npm)),
            ("node_modules/@a/b/package.json", 0o644, 10, Some(Source::Npm)),
            ("app/node_modules/left/test/package.json", 0o644, 10, None),
            ("app/node_modules/.bin/package.json", 0o644, 10, None),
            ("app/package.json", 0o644, 10, None),
            ("src/Cargo.lock", 0o644, 10, Some(Source::Cargo)),
            ("usr/bin/tool", 0o755, 2 << 20, Some(Source::Program)),
            ("usr/bin/sh", 0o755, 1000, None),
            ("usr/lib/os-release", 0o644, 10, Some(Source::OsRelease)),
            ("var/lib/rpm/rpmdb.sqlite", 0o644, 10, Some(Source::Rpm)),
            ("usr/lib/sysimage/rpm/Packages.db", 0o644, 10, Some(Source::Rpm)),
            ("var/lib/rpm/x", 0o644, 10, None),
        ] {
            assert_eq!(classify(path, mode, size), want, "{path}");
        }
    }

    #[test]
    fn os_release_is_read() {
        let text = "NAME=x\nID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME='Debian 12'\n";
        let os = os_release(text);
        assert_eq!((os.distro().as_str(), os.name.as_str()), ("debian-12", "Debian 12"));
    }
}
