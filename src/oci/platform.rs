//! Platforms: what an image runs on, and which image to take where several would do.
//!
//! A platform is `os/architecture[/variant]`, for Windows also `os(version)/architecture`. There
//! are many spellings of the same one; [`Platform::normalized`] and [`FromStr`] map them to
//! containerd's: `x86_64` → `amd64`, `aarch64` → `arm64`, `armhf` → `arm/v7`, `armel` → `arm/v6`,
//! `arm` → `arm/v7`, `arm64/v8` → `arm64`, `amd64/v1` → `amd64`.
//!
//! [`Platform::rank`] says how well an image suits a wanted platform. It knows variants only: a
//! wanted `linux/arm64` never gets a `linux/arm/v7` image, because only some 64-bit CPUs run those
//! and nobody can see it from the name (moby/moby#37647).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::descriptor::null_default;

/// What an image runs on (OCI image-spec, image-index.md).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// The operating system, by Go's names.
    #[serde(default)]
    pub os: String,
    /// The architecture, by Go's names.
    #[serde(default)]
    pub architecture: String,
    /// The variant of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The version of the operating system (Windows).
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Features of the operating system that are needed (Windows).
    #[serde(
        default,
        rename = "os.features",
        deserialize_with = "null_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
}

/// A platform that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// Not `os/architecture[/variant]`.
    #[error(
        "{0:?} is not a platform (expected os/architecture or os/architecture/variant, as in linux/arm64 or linux/arm/v7)"
    )]
    Malformed(String),
    /// One word that is neither a known operating system nor a known architecture.
    #[error(
        "{0:?} is neither an operating system nor an architecture that is known; write it as os/architecture"
    )]
    Unknown(String),
}

/// Operating systems and architectures of the Go tool chain (`go tool dist list`).
const KNOWN_OS: [&str; 16] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasip1",
    "windows",
];
const KNOWN_ARCHITECTURE: [&str; 16] = [
    "386", "amd64", "arm", "arm64", "loong64", "mips", "mips64", "mips64le", "mipsle", "ppc64",
    "ppc64le", "riscv64", "s390x", "sparc64", "wasm", "riscv",
];

impl Platform {
    /// Makes a platform of Linux.
    pub fn linux(architecture: &str, variant: Option<&str>) -> Platform {
        Platform {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.map(str::to_owned),
            os_version: None,
            os_features: Vec::new(),
        }
        .normalized()
    }

    /// The platform that this program was compiled for: what runs here without emulation.
    pub fn host() -> Platform {
        let architecture = match () {
            () if cfg!(target_arch = "x86_64") => "amd64",
            () if cfg!(target_arch = "x86") => "386",
            () if cfg!(target_arch = "aarch64") => "arm64",
            () if cfg!(target_arch = "arm") => "arm",
            () if cfg!(target_arch = "riscv64") => "riscv64",
            () if cfg!(target_arch = "s390x") => "s390x",
            () if cfg!(target_arch = "loongarch64") => "loong64",
            () if cfg!(all(target_arch = "powerpc64", target_endian = "little")) => "ppc64le",
            () if cfg!(target_arch = "powerpc64") => "ppc64",
            () if cfg!(all(target_arch = "mips64", target_endian = "little")) => "mips64le",
            () if cfg!(target_arch = "mips64") => "mips64",
            () => "unknown",
        };
        Platform::linux(architecture, None)
    }

    /// Gives the platform in its one normal spelling.
    #[must_use]
    pub fn normalized(mut self) -> Platform {
        self.os.make_ascii_lowercase();
        if self.os == "macos" {
            self.os = "darwin".to_owned();
        }
        let architecture = self.architecture.to_ascii_lowercase();
        let variant = self.variant.take().unwrap_or_default().to_ascii_lowercase();
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("i386" | "i486" | "i586" | "i686" | "x86", variant) => ("386", variant),
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64" | "arm64", "9" | "v9" | "v9.0") => ("arm64", "v9"),
            ("aarch64" | "arm64", variant) => ("arm64", variant),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("arm", "" | "7") => ("arm", "v7"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "6") => ("arm", "v6"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        let (architecture, variant) = (architecture.to_owned(), variant.to_owned());
        self.architecture = architecture;
        self.variant = if variant.is_empty() { None } else { Some(variant) };
        if self.os_version.as_deref() == Some("") {
            self.os_version = None;
        }
        self
    }

    /// Tells whether it is `unknown/unknown`, the mark of BuildKit's attestations.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" || self.architecture == "unknown"
    }

    /// Gives the name of a directory for it, as BuildKit's local exporter does: `linux_arm_v7`.
    pub fn dir_name(&self) -> String {
        self.to_string().replace('/', "_")
    }

    /// Gives the long form: as [`Display`](fmt::Display), with os.version and os.features in
    /// parentheses after the operating system: `windows(10.0.17763.1+win32k)/amd64`.
    pub fn format_all(&self) -> String {
        let mut out = self.os.clone();
        if self.os_version.is_some() || !self.os_features.is_empty() {
            out.push('(');
            out.push_str(self.os_version.as_deref().unwrap_or_default());
            for feature in &self.os_features {
                out.push('+');
                out.push_str(feature);
            }
            out.push(')');
        }
        out.push('/');
        out.push_str(&self.architecture);
        if let Some(variant) = &self.variant {
            out.push('/');
            out.push_str(variant);
        }
        out
    }

    /// Says how well an image for `candidate` suits `self`: 0 is best, `None` does not run.
    ///
    /// | wanted | taken, best first |
    /// |---|---|
    /// | linux/arm/v7 | v7 (and no variant), v6, v5 |
    /// | linux/arm64 | no variant or v8; for v9.m also every v8.n with n ≤ m + 5 |
    /// | linux/amd64/v3 | v3, v2, none |
    /// | another architecture | the same variant, none |
    /// | windows(10.0.17763.1) | the same version, then the same build (first three numbers) |
    ///
    /// Features of the operating system count only when `self` names some.
    pub fn rank(&self, candidate: &Platform) -> Option<u32> {
        let want = self.clone().normalized();
        let have = candidate.clone().normalized();
        if want.os != have.os || want.architecture != have.architecture {
            return None;
        }
        let variant = variant_rank(&want, &have)?;
        let version = version_rank(want.os_version.as_deref(), have.os_version.as_deref())?;
        if !want.os_features.is_empty()
            && !have.os_features.iter().all(|feature| want.os_features.contains(feature))
        {
            return None;
        }
        // A worse variant is worse than any difference of versions.
        Some(variant.saturating_mul(4).saturating_add(version))
    }
}

/// Ranks variants of one architecture.
fn variant_rank(want: &Platform, have: &Platform) -> Option<u32> {
    let (want_variant, have_variant) = (want.variant.as_deref(), have.variant.as_deref());
    if want_variant == have_variant {
        return Some(0);
    }
    let number = |variant: Option<&str>, default: u32| match variant {
        None => Some(default),
        Some(text) => text.strip_prefix('v')?.parse::<u32>().ok(),
    };
    match want.architecture.as_str() {
        "arm" => {
            let (want, have) = (number(want_variant, 7)?, number(have_variant, 7)?);
            (have >= 5).then_some(())?;
            want.checked_sub(have)
        }
        "amd64" => number(want_variant, 1)?.checked_sub(number(have_variant, 1)?),
        "arm64" => arm64_rank(want_variant, have_variant),
        // A variant that we cannot order: an image without one is the common base of all.
        _ if have_variant.is_none() => Some(1),
        _ => None,
    }
}

/// Ranks v8.0 … v9.n. Armv9.m has everything of Armv8.(m+5) (Arm's reference manual, and
/// containerd's table).
fn arm64_rank(want: Option<&str>, have: Option<&str>) -> Option<u32> {
    let parse = |variant: Option<&str>| -> Option<(u32, u32)> {
        let Some(text) = variant else { return Some((8, 0)) };
        let text = text.strip_prefix('v')?;
        let (major, minor) = text.split_once('.').unwrap_or((text, "0"));
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let level = |(major, minor): (u32, u32)| match major {
        8 => Some(minor),
        9 => Some(minor.saturating_add(5)),
        _ => None,
    };
    let (want, have) = (parse(want)?, parse(have)?);
    let distance = level(want)?.checked_sub(level(have)?)?;
    let older = want.0.checked_sub(have.0)?;
    // Between two of the same level, the one of the wanted major version is better.
    Some(distance.saturating_mul(2).saturating_add(older))
}

/// Ranks versions of the operating system.
fn version_rank(want: Option<&str>, have: Option<&str>) -> Option<u32> {
    let Some(want) = want else { return Some(0) };
    let Some(have) = have else { return Some(3) };
    if want == have {
        return Some(0);
    }
    let build =
        |version: &str| -> Vec<String> { version.split('.').take(3).map(str::to_owned).collect() };
    (build(want) == build(have)).then_some(1)
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Platform, PlatformError> {
        let malformed = || PlatformError::Malformed(text.to_owned());
        let mut parts = text.split('/');
        let first = parts.next().unwrap_or_default();
        let (os, os_version, os_features) = split_os(first).ok_or_else(malformed)?;
        let rest: Vec<&str> = parts.collect();
        let word = |w: &&str| {
            !w.is_empty()
                && w.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        if !word(&os) || !rest.iter().all(word) || rest.len() > 2 {
            return Err(malformed());
        }
        let make = |os: &str, architecture: &str, variant: Option<&str>| {
            Platform {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: variant.map(str::to_owned),
                os_version: os_version.clone(),
                os_features: os_features.clone(),
            }
            .normalized()
        };
        match rest.as_slice() {
            // As containerd: one word is an operating system or an architecture of this host.
            [] => {
                let host = Platform::host();
                let as_os = make(os, &host.architecture, host.variant.as_deref());
                if KNOWN_OS.contains(&as_os.os.as_str()) {
                    return Ok(as_os);
                }
                let as_architecture = make(&host.os, os, None);
                if KNOWN_ARCHITECTURE.contains(&as_architecture.architecture.as_str()) {
                    return Ok(as_architecture);
                }
                Err(PlatformError::Unknown(text.to_owned()))
            }
            [architecture] => Ok(make(os, architecture, None)),
            [architecture, variant] => Ok(make(os, architecture, Some(variant))),
            _ => Err(malformed()),
        }
    }
}

/// Splits `windows(10.0.17763.1+win32k)`.
fn split_os(text: &str) -> Option<(&str, Option<String>, Vec<String>)> {
    let Some((os, rest)) = text.split_once('(') else {
        return Some((text, None, Vec::new()));
    };
    let inner = rest.strip_suffix(')')?;
    if inner.contains(['(', ')']) {
        return None;
    }
    let mut parts = inner.split('+');
    let version = parts.next().filter(|version| !version.is_empty()).map(str::to_owned);
    Some((os, version, parts.map(str::to_owned).collect()))
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_of_any_size_are_compared() {
        let huge = u32::MAX;
        for (want, have) in [
            (format!("linux/arm64/v9.{huge}"), "linux/arm64/v8".to_owned()),
            (format!("linux/arm64/v8.{huge}"), format!("linux/arm64/v9.{huge}")),
            (format!("linux/arm/v{huge}"), "linux/arm/v5".to_owned()),
            (format!("linux/amd64/v{huge}"), "linux/amd64".to_owned()),
        ] {
            let platform = |text: &str| text.parse::<Platform>().expect("a platform");
            let (want, have) = (platform(&want), platform(&have));
            assert!(want.rank(&have).is_none_or(|rank| rank > 0));
            assert_eq!(want.rank(&want), Some(0));
        }
    }

    #[test]
    fn spellings_are_normalised() {
        let table = [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("Linux/X86-64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v2", "linux/amd64/v2"),
            ("linux/i386", "linux/386"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/8", "linux/arm64"),
            ("linux/arm64/v8.2", "linux/arm64/v8.2"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/7", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/armel", "linux/arm/v6"),
            ("linux/riscv64", "linux/riscv64"),
            ("macos/arm64", "darwin/arm64"),
            ("windows(10.0.17763.1)/amd64", "windows(10.0.17763.1)/amd64"),
            ("windows(10.0.17763.1+win32k)/amd64", "windows(10.0.17763.1+win32k)/amd64"),
            ("arm64", "linux/arm64"),
            ("riscv64", "linux/riscv64"),
        ];
        for (text, want) in table {
            let platform: Platform = text.parse().unwrap();
            assert_eq!(platform.format_all(), want, "{text}");
            assert_eq!(want.parse::<Platform>().unwrap(), platform, "{text}");
        }
        assert_eq!("linux".parse::<Platform>().unwrap(), Platform::host());
        assert_eq!("linux/arm".parse::<Platform>().unwrap().dir_name(), "linux_arm_v7");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "/", "linux/", "linux//v7", "linux/arm/v7/x", "linux/a b", "win(1/amd64"] {
            assert_eq!(
                text.parse::<Platform>(),
                Err(PlatformError::Malformed(text.to_owned())),
                "{text:?}"
            );
        }
        assert_eq!(
            "toaster".parse::<Platform>(),
            Err(PlatformError::Unknown("toaster".to_owned()))
        );
    }

    #[test]
    fn candidates_are_ranked() {
        // Wanted; candidates from best to worst; those that do not run.
        let table: [(&str, &[&str], &[&str]); 9] = [
            (
                "linux/arm/v7",
                &["linux/arm/v7", "linux/arm/v6", "linux/arm/v5"],
                &["linux/arm64", "linux/arm/v8"],
            ),
            ("linux/arm/v6", &["linux/arm/v6", "linux/arm/v5"], &["linux/arm", "linux/arm/v7"]),
            ("linux/arm64", &["linux/arm64"], &["linux/arm/v7", "linux/arm64/v9", "linux/amd64"]),
            (
                "linux/arm64/v9",
                &["linux/arm64/v9", "linux/arm64/v8.5", "linux/arm64/v8.1", "linux/arm64"],
                &["linux/arm64/v8.6", "linux/arm64/v9.1"],
            ),
            ("linux/amd64", &["linux/amd64/v1"], &["linux/amd64/v2", "linux/386", "windows/amd64"]),
            (
                "linux/amd64/v3",
                &["linux/amd64/v3", "linux/amd64/v2", "linux/amd64"],
                &["linux/amd64/v4"],
            ),
            ("linux/riscv64", &["linux/riscv64"], &["linux/riscv64/rva23u64"]),
            (
                "windows(10.0.17763.1)/amd64",
                &["windows(10.0.17763.1)/amd64", "windows(10.0.17763.9)/amd64", "windows/amd64"],
                &["windows(10.0.20348.1)/amd64"],
            ),
            ("windows/amd64", &["windows(10.0.20348.1+win32k)/amd64"], &["linux/amd64"]),
        ];
        for (want, better_first, never) in table {
            let want: Platform = want.parse().unwrap();
            let ranks: Vec<u32> = better_first
                .iter()
                .map(|text| want.rank(&text.parse().unwrap()).unwrap_or_else(|| panic!("{text}")))
                .collect();
            assert_eq!(ranks[0], 0, "{want}");
            assert!(ranks.windows(2).all(|pair| pair[0] < pair[1]), "{want}: {ranks:?}");
            for text in never {
                assert_eq!(want.rank(&text.parse().unwrap()), None, "{want} {text}");
            }
        }
    }

    #[test]
    fn json_is_that_of_the_specification() {
        let text = r#"{"architecture":"amd64","os":"windows","os.version":"10.0.17763.1"}"#;
        let platform: Platform = serde_json::from_str(text).unwrap();
        assert_eq!(platform.os_version.as_deref(), Some("10.0.17763.1"));
        assert_eq!(crate::oci::canonical::to_vec(&platform), text.as_bytes());
    }
}
