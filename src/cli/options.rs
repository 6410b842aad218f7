//! Arguments of `build`, checked: strings become values, or a usage error that names the flag.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::graph::Network;
use crate::layer::compress::Compression;
use crate::oci::{Platform, Reference};
use crate::sandbox::Arch;

use super::args::{BuildArgs, NetworkMode, RefusedArgs};
use super::report::{Report, Result};

/// One `--build-context`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedContext {
    /// Its name, without platform, in lower case.
    pub name: String,
    /// `name::os/arch`: only for this platform.
    pub platform: Option<Platform>,
    /// What it is.
    pub source: String,
}

/// Where a secret comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file.
    File(PathBuf),
    /// A variable of the environment.
    Env(String),
}

/// Reads `compression=` and `compression-level=` of a flag.
pub(super) fn compression(flag: &str, name: &str, level: Option<u32>) -> Result<Compression> {
    let bad = |range: &str| Report::usage(format!("{flag} compression-level: {name} has {range}"));
    match (name, Compression::GZIP, Compression::ZSTD) {
        ("gzip", Compression::Gzip { level: usual }, _) => match level.unwrap_or(usual) {
            level @ 0..=9 => Ok(Compression::Gzip { level }),
            _ => Err(bad("0 to 9")),
        },
        ("zstd", _, Compression::Zstd { level: usual }) => {
            match level.map_or(usual, |level| i32::try_from(level).unwrap_or(i32::MAX)) {
                level @ 1..=19 => Ok(Compression::Zstd { level }),
                _ => Err(bad("1 to 19")),
            }
        }
        ("none" | "uncompressed", ..) => Ok(Compression::None),
        ("estargz", Compression::Gzip { level: usual }, _) => match level.unwrap_or(usual) {
            level @ 0..=9 => Ok(Compression::Estargz { level }),
            _ => Err(bad("0 to 9")),
        },
        _ => Err(Report::usage(format!("{flag} compression={name}: there is no such compression"))
            .with_hint("use gzip, zstd, estargz or none")),
    }
}

/// Splits `a=b,"c=d,e"` as buildx does (CSV): quoted fields may hold commas.
pub(super) fn fields(text: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    loop {
        match chars.next() {
            Some('"') if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            Some('"') => quoted = !quoted,
            Some(',') if !quoted => out.push(std::mem::take(&mut field)),
            Some(c) => field.push(c),
            None => {
                out.push(field);
                break;
            }
        }
    }
    out.into_iter()
        .map(|field| {
            let (key, value) = field.split_once('=').unwrap_or((&field, ""));
            let key = key.trim();
            // The names of annotations are part of the key, and keep their case.
            let keep = key.starts_with("annotation");
            (if keep { key.to_owned() } else { key.to_lowercase() }, value.to_owned())
        })
        .collect()
}

pub(super) fn boolean(flag: &str, value: &str) -> Result<bool> {
    match value.to_lowercase().as_str() {
        "true" | "1" | "t" | "" => Ok(true),
        "false" | "0" | "f" => Ok(false),
        _ => Err(Report::usage(format!("{flag}={value}: expected true or false"))),
    }
}

/// Reads the `--build-arg`s; `env` gives values for names without one.
pub fn build_args(
    list: &[String],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>> {
    assignments("--build-arg", list, env)
}

/// Reads `NAME[=VALUE]`s; `env` gives values for names without one. A name that has none is left out.
pub fn assignments(
    flag: &str,
    list: &[String],
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<BTreeMap<String, String>> {
    let mut out = BTreeMap::new();
    for arg in list {
        let (name, value) = match arg.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (arg.as_str(), env(arg)),
        };
        if name.is_empty() {
            return Err(Report::usage(format!("{flag} {arg}: the name is missing")));
        }
        if let Some(value) = value {
            out.insert(name.to_owned(), value);
        }
    }
    Ok(out)
}

/// Reads `NAME=VALUE` pairs.
pub fn pairs(flag: &str, list: &[String]) -> Result<BTreeMap<String, String>> {
    list.iter()
        .map(|pair| match pair.split_once('=') {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            None if !pair.is_empty() => Ok((pair.clone(), String::new())),
            _ => Err(Report::usage(format!("{flag} {pair}: expected NAME=VALUE"))),
        })
        .collect()
}

/// Reads the `--platform`s, each once.
pub fn platforms(list: &[String], host: &Platform) -> Result<Vec<Platform>> {
    let mut out: Vec<Platform> = Vec::new();
    for text in list {
        let platform = if text == "local" {
            host.clone()
        } else {
            text.trim().parse::<Platform>().map_err(|error| {
                Report::of(crate::cli::report::Exit::Usage, &format!("--platform {text}"), &error)
                    .with_hint("a platform is os/arch[/variant], as linux/arm64 or linux/arm/v7")
            })?
        };
        if !out.contains(&platform) {
            out.push(platform);
        }
    }
    Ok(out)
}

/// Reads the `-t`s, normalised, each once.
pub fn tags(list: &[String]) -> Result<Vec<Reference>> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for text in list {
        let reference = text.parse::<Reference>().map_err(|error| {
            Report::of(crate::cli::report::Exit::Usage, &format!("-t {text}"), &error)
        })?;
        if reference.digest.is_some() {
            return Err(Report::usage(format!(
                "-t {text}: a name for a new image can't hold a digest"
            )));
        }
        let reference = reference.with_default_tag();
        if seen.insert(reference.to_string()) {
            out.push(reference);
        }
    }
    Ok(out)
}

/// Reads the `--build-context`s.
pub fn named_contexts(list: &[String]) -> Result<Vec<NamedContext>> {
    list.iter()
        .map(|text| {
            let (name, source) = text
                .split_once('=')
                .filter(|(name, source)| !name.is_empty() && !source.is_empty())
                .ok_or_else(|| {
                    Report::usage(format!("--build-context {text}: expected NAME=SOURCE"))
                })?;
            let (name, platform) = match name.split_once("::") {
                Some((name, platform)) => {
                    let platform = platform.parse::<Platform>().map_err(|error| {
                        Report::usage(format!("--build-context {text}: {error}"))
                    })?;
                    (name, Some(platform))
                }
                None => (name, None),
            };
            Ok(NamedContext { name: name.to_lowercase(), platform, source: source.to_owned() })
        })
        .collect()
}

/// Reads a `--secret`: `id=ID[,type=file|env][,src=FILE][,env=NAME]`.
pub fn secret(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<(String, SecretSource)> {
    let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
    for (key, value) in fields(text) {
        match key.as_str() {
            "id" => id = Some(value),
            "src" | "source" => source = Some(value),
            "env" => variable = Some(value),
            "type" if value == "file" || value == "env" => kind = Some(value),
            _ => {
                return Err(Report::usage(format!("--secret {text}: unexpected {key}={value}"))
                    .with_hint(
                        "as in --secret id=token,src=token.txt or --secret id=token,env=TOKEN",
                    ));
            }
        }
    }
    let id = id
        .or_else(|| {
            source.as_ref().and_then(|path| {
                std::path::Path::new(path)
                    .file_name()
                    .map(|name| name.to_string_lossy().into_owned())
            })
        })
        .filter(|id| !id.is_empty())
        .ok_or_else(|| Report::usage(format!("--secret {text}: id= is missing")))?;
    if kind.as_deref() == Some("file") && variable.is_some() {
        return Err(Report::usage(format!(
            "--secret {text}: type=file and env= exclude each other"
        )));
    }
    let from = match (kind.as_deref(), source, variable) {
        (Some("env"), None, None) => SecretSource::Env(id.clone()),
        (Some("env"), Some(name), None) | (_, None, Some(name)) => SecretSource::Env(name),
        (_, Some(path), None) => SecretSource::File(PathBuf::from(path)),
        (Some("file"), None, None) => SecretSource::File(PathBuf::from(&id)),
        (_, None, None) if env(&id).is_some() => SecretSource::Env(id.clone()),
        (_, None, None) => SecretSource::File(PathBuf::from(&id)),
        (_, Some(_), Some(_)) => {
            return Err(Report::usage(format!(
                "--secret {text}: src= and env= exclude each other"
            )));
        }
    };
    Ok((id, from))
}

/// Reads a `--ssh`: `ID[=PATH[,PATH…]]`. Without a path it is the agent of SSH_AUTH_SOCK.
pub fn ssh(text: &str) -> Result<(String, Vec<PathBuf>)> {
    let (id, paths) = match text.split_once('=') {
        Some((id, paths)) => (id, paths.split(',').map(PathBuf::from).collect()),
        None => (text, Vec::new()),
    };
    if id.is_empty() || paths.iter().any(|path| path.as_os_str().is_empty()) {
        return Err(Report::usage(format!("--ssh {text}: expected ID[=SOCKET|KEY,…]"))
            .with_hint("as in --ssh default or --ssh default=$HOME/.ssh/id_ed25519"));
    }
    Ok((id.to_owned(), paths))
}

/// Reads a size, as `64m`, `1.5GB` or a number of bytes.
pub fn size(flag: &str, text: &str) -> Result<u64> {
    let bad = || Report::usage(format!("{flag} {text}: expected a size, as 64m, 2g or 10GB"));
    let lower = text.trim().to_lowercase();
    let digits = lower.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(lower.len());
    let number: f64 = lower[..digits].parse().map_err(|_| bad())?;
    let unit: f64 = match &lower[digits..] {
        "" | "b" => 1.0,
        "k" | "kb" | "kib" => 1024.0,
        "m" | "mb" | "mib" => 1024.0 * 1024.0,
        "g" | "gb" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tb" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(bad()),
    };
    Ok((number * unit) as u64)
}

/// Reads a duration in seconds, as `90s`, `24h` or `7d`.
pub fn seconds(flag: &str, text: &str) -> Result<u64> {
    let bad = || Report::usage(format!("{flag} {text}: expected a duration, as 90m, 24h or 7d"));
    if let Some(days) = text.strip_suffix('d') {
        return days.parse::<u64>().map(|days| days * 86_400).map_err(|_| bad());
    }
    let nanoseconds = crate::dockerfile::value::parse_duration(text).map_err(|_| bad())?;
    u64::try_from(nanoseconds / 1_000_000_000).map_err(|_| bad())
}

/// Reads `ARCH=PATH` pairs.
pub fn emulators(list: &[String]) -> Result<BTreeMap<Arch, PathBuf>> {
    let mut out = BTreeMap::new();
    for text in list {
        let (arch, path) = text
            .split_once('=')
            .ok_or_else(|| Report::usage(format!("--emulator {text}: expected ARCH=PATH")))?;
        let platform = format!("linux/{arch}").parse::<Platform>().map_err(|_| {
            Report::usage(format!("--emulator {text}: {arch:?} is no architecture"))
        })?;
        let arch = Arch::from_oci(&platform.architecture).ok_or_else(|| {
            Report::usage(format!("--emulator {text}: {arch:?} can't be emulated"))
        })?;
        out.insert(arch, PathBuf::from(path));
    }
    Ok(out)
}

/// Reads `NAME:ADDRESS` (or `NAME=ADDRESS`) pairs.
pub fn add_hosts(list: &[String]) -> Result<Vec<(String, String)>> {
    list.iter()
        .map(|text| {
            let pair = text.split_once('=').or_else(|| text.split_once(':'));
            let (name, address) = pair.ok_or_else(|| {
                Report::usage(format!("--add-host {text}: expected NAME:ADDRESS"))
            })?;
            let address = match address.trim_matches(['[', ']']) {
                "host-gateway" => "127.0.0.1".to_owned(),
                address => address
                    .parse::<std::net::IpAddr>()
                    .map_err(|_| {
                        Report::usage(format!("--add-host {text}: {address:?} is no address"))
                    })?
                    .to_string(),
            };
            Ok((name.to_owned(), address))
        })
        .collect()
}

/// Turns the flag into the graph's word.
pub fn network(mode: NetworkMode) -> Network {
    match mode {
        NetworkMode::Default => Network::Default,
        NetworkMode::None => Network::None,
        NetworkMode::Host => Network::Host,
    }
}

/// Refuses what buildx has and lapstrake does not yet.
pub fn refuse(args: &BuildArgs) -> Result<()> {
    let RefusedArgs { builder } = &args.refused;
    if builder.is_some() {
        return Err(Report::usage("--builder is not supported yet")
            .with_hint("leave it out: there is no daemon to choose"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_args_without_value_come_from_the_environment() {
        let env = |name: &str| (name == "A").then(|| "1".to_owned());
        let args = build_args(&["A".into(), "B".into(), "C=".into(), "D=x=y".into()], &env);
        let args = args.expect("fine");
        assert_eq!(args.get("A").map(String::as_str), Some("1"));
        assert_eq!(args.get("B"), None);
        assert_eq!(args.get("C").map(String::as_str), Some(""));
        assert_eq!(args.get("D").map(String::as_str), Some("x=y"));
    }

    #[test]
    fn secrets_find_their_source() {
        let env = |name: &str| (name == "TOKEN").then(|| "t".to_owned());
        for (text, id, source) in [
            ("id=a,src=f", "a", SecretSource::File("f".into())),
            ("id=a,env=E", "a", SecretSource::Env("E".into())),
            ("id=TOKEN", "TOKEN", SecretSource::Env("TOKEN".into())),
            ("id=a", "a", SecretSource::File("a".into())),
            ("type=env,id=a,src=E", "a", SecretSource::Env("E".into())),
            ("type=env,id=a", "a", SecretSource::Env("a".into())),
            ("type=file,id=TOKEN", "TOKEN", SecretSource::File("TOKEN".into())),
        ] {
            assert_eq!(secret(text, &env).expect(text), (id.to_owned(), source), "{text}");
        }
        assert!(secret("src=", &env).is_err());
        assert!(secret("id=a,src=f,env=E", &env).is_err());
        assert!(secret("type=file,id=a,env=E", &env).is_err());
        assert_eq!(ssh("default").ok(), Some(("default".into(), vec![])));
        assert_eq!(ssh("a=b,c").ok(), Some(("a".into(), vec!["b".into(), "c".into()])));
        assert!(ssh("=x").is_err() && ssh("a=").is_err());
    }

    #[test]
    fn sizes_and_durations() {
        assert_eq!(size("--x", "64m").ok(), Some(64 << 20));
        assert_eq!(size("--x", "1.5k").ok(), Some(1536));
        assert!(size("--x", "big").is_err());
        assert_eq!(seconds("--x", "7d").ok(), Some(604_800));
    }
}
