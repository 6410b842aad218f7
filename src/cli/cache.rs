//! `--cache-from` and `--cache-to`, checked and opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::build::cache::{self, Cache, Mode, To, inline::InlineShelf, lease::Lease};
use crate::build::carried::{Carried, Spot};
use crate::build::event::{Event, Watch};
use crate::layer::compress::Compression;
use crate::oci::Reference;
use crate::registry::Client;
use crate::transport::{
    self, ImageName,
    shelf::{LayoutShelf, RegistryShelf, Shelf},
};

use super::args::BuildArgs;
use super::environment::Environment;
use super::options;
use super::report::{Exit, Report, Result};

/// One cache, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Where it is.
    pub place: Place,
    /// `mode=`.
    pub mode: Mode,
    /// `ignore-error=`.
    pub ignore_error: bool,
    /// `compression=`.
    pub compression: Option<Compression>,
    /// `lease=`.
    pub lease: Option<Duration>,
}

/// Where a cache is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A repository of a registry; the tag is that of an image with a cache in it.
    Registry(Reference),
    /// An OCI layout directory.
    Local(PathBuf),
    /// The images themselves.
    Inline,
}

/// Which of the two flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    From,
    To,
}

impl Way {
    fn flag(self) -> &'static str {
        match self {
            Way::From => "--cache-from",
            Way::To => "--cache-to",
        }
    }
}

/// Reads the `--cache-from`s.
pub fn sources(list: &[String]) -> Result<Vec<Spec>> {
    list.iter().map(|text| spec(Way::From, text)).collect()
}

/// Reads the `--cache-to`s.
pub fn targets(list: &[String]) -> Result<Vec<Spec>> {
    list.iter().map(|text| spec(Way::To, text)).collect()
}

fn spec(way: Way, text: &str) -> Result<Spec> {
    let flag = way.flag();
    let fields = if text.contains('=') {
        options::fields(text)
    } else if way == Way::To && text == "inline" {
        vec![("type".to_owned(), "inline".to_owned())]
    } else {
        vec![("type".to_owned(), "registry".to_owned()), ("ref".to_owned(), text.to_owned())]
    };
    let kind = fields.iter().find(|(key, _)| key == "type").map(|(_, value)| value.as_str());
    let path_key = if way == Way::From { "src" } else { "dest" };
    let known: &[&str] = match (kind, way) {
        (Some("registry"), Way::From) => &["type", "ref"],
        (Some("registry"), Way::To) => &[
            "type",
            "ref",
            "mode",
            "ignore-error",
            "compression",
            "compression-level",
            "force-compression",
            "oci-mediatypes",
            "image-manifest",
            "lease",
        ],
        (Some("local"), Way::From) => &["type", "src", "tag", "digest"],
        (Some("local"), Way::To) => &[
            "type",
            "dest",
            "mode",
            "ignore-error",
            "compression",
            "compression-level",
            "force-compression",
            "oci-mediatypes",
            "image-manifest",
            "tag",
            "reset",
        ],
        (Some("inline"), Way::To) => &["type"],
        (Some("inline"), Way::From) => {
            return Err(Report::usage(format!("{flag} {text}: type=inline is for --cache-to"))
                .with_hint("name the image: --cache-from type=registry,ref=NAME"));
        }
        (Some(kind @ ("gha" | "s3" | "azblob")), _) => return Err(elsewhere(flag, text, kind)),
        (Some(other), _) => {
            let report = Report::usage(format!("{flag} {text}: there is no cache type {other:?}"));
            return Err(
                match crate::dockerfile::suggest(other, ["registry", "local", "inline"], true) {
                    Some(name) => report.with_hint(format!("did you mean type={name}?")),
                    None => report.with_hint("types are registry, local and inline"),
                },
            );
        }
        (None, _) => {
            return Err(Report::usage(format!("{flag} {text}: type= is missing"))
                .with_hint(format!("as in {flag} type=registry,ref=registry.example/app/cache")));
        }
    };
    let (mut reference, mut path, mut mode, mut ignore_error) = (None, None, Mode::Min, false);
    let (mut compression, mut level, mut lease) = (None, None, None);
    for (key, value) in &fields {
        let truth = || options::boolean(&format!("{flag} {key}"), value);
        let bad =
            |expected: &str| Report::usage(format!("{flag} {key}={value}: expected {expected}"));
        if !known.contains(&key.as_str()) {
            let report = Report::usage(format!("{flag} {text}: there is no option {key:?}"));
            return Err(match crate::dockerfile::suggest(key, known.iter().copied(), true) {
                Some(name) => report.with_hint(format!("did you mean {name}=?")),
                None => report.with_hint(format!("options are {}", known.join(", "))),
            });
        }
        match key.as_str() {
            "ref" => {
                let parsed = value
                    .parse::<Reference>()
                    .map_err(|error| Report::of(Exit::Usage, &format!("{flag} {text}"), &error))?;
                reference = Some(parsed);
            }
            "src" | "dest" => path = Some(PathBuf::from(value)),
            "mode" => {
                mode = match value.as_str() {
                    "min" => Mode::Min,
                    "max" => Mode::Max,
                    _ => return Err(bad("min or max")),
                }
            }
            "ignore-error" => ignore_error = truth()?,
            "compression" => compression = Some(value.as_str()),
            "lease" => lease = Some(lease_time(value).ok_or_else(|| bad("2s to 1h, as in 30s"))?),
            "compression-level" => {
                level = Some(value.parse::<u32>().map_err(|_| bad("a number"))?);
            }
            // With compression=, every entry has it; without, nothing is forced.
            "force-compression" => {
                truth()?;
            }
            "oci-mediatypes" | "image-manifest" if !truth()? => {
                return Err(Report::usage(format!("{flag} {key}={value} is not supported"))
                    .with_hint("leave it out: entries are OCI manifests, as every registry of today takes them"));
            }
            "tag" | "digest" => {
                return Err(Report::usage(format!("{flag} {key}={value} is not supported"))
                    .with_hint("leave it out: entries are found by the keys of steps, so one directory serves every branch"));
            }
            "reset" if truth()? => {
                return Err(Report::usage(format!("{flag} {key}={value} is not supported"))
                    .with_hint("remove the directory before the build instead"));
            }
            _ => {}
        }
    }
    if level.is_some() && compression.is_none() {
        return Err(Report::usage(format!("{flag} {text}: compression-level= needs compression=")));
    }
    let compression = match compression {
        Some(name) => Some(options::compression(flag, name, level)?),
        None => None,
    };
    let missing = |key: &str, example: &str| {
        Report::usage(format!("{flag} {text}: {key}= is missing"))
            .with_hint(format!("as in {flag} {example}"))
    };
    let place = if kind == Some("inline") {
        Place::Inline
    } else if kind == Some("registry") {
        Place::Registry(
            reference
                .ok_or_else(|| missing("ref", "type=registry,ref=registry.example/app/cache"))?,
        )
    } else {
        let path = path.filter(|path| !path.as_os_str().is_empty());
        Place::Local(path.ok_or_else(|| missing(path_key, &format!("type=local,{path_key}=DIR")))?)
    };
    if lease.is_some() && mode == Mode::Min {
        // With mode=min, what most steps make is in no cache: there would be nothing to wait for.
        return Err(Report::usage(format!("{flag} {text}: lease= needs mode=max")));
    }
    Ok(Spec { place, mode, ignore_error, compression, lease })
}

/// Reads the time of a lease: a number with `s`, `m` or `h`.
fn lease_time(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let factor = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let seconds = number.parse::<u64>().ok()?.checked_mul(factor)?;
    (2..=3600).contains(&seconds).then(|| Duration::from_secs(seconds))
}

/// Refuses leases that nobody could wait for.
fn check_leases(from: &[Spec], to: &[Spec]) -> Result<()> {
    let leased: Vec<&Spec> = to.iter().filter(|spec| spec.lease.is_some()).collect();
    let [spec] = leased[..] else {
        return match leased.len() {
            0 => Ok(()),
            _ => Err(Report::usage("--cache-to: lease= can be given once")),
        };
    };
    let Place::Registry(reference) = &spec.place else { return Ok(()) };
    let name = reference.name();
    let read = from.iter().any(|spec| match &spec.place {
        Place::Registry(reference) => reference.name() == name,
        _ => false,
    });
    match read {
        true => Ok(()),
        false => Err(Report::usage("--cache-to lease= needs --cache-from of the same repository")
            .with_hint(format!("add --cache-from type=registry,ref={name}"))),
    }
}

/// The types that belong to one provider's API.
fn elsewhere(flag: &str, text: &str, kind: &str) -> Report {
    let hint = match kind {
        "gha" => {
            "use type=registry,ref=ghcr.io/OWNER/REPO/cache (the token of the job may write packages), or type=local with actions/cache around it"
        }
        "s3" => {
            "use type=registry with any registry (it may keep its data in S3), or type=local with `aws s3 sync` around it"
        }
        _ => {
            "use type=registry,ref=NAME.azurecr.io/cache, or type=local with `azcopy sync` around it"
        }
    };
    Report::usage(format!("{flag} {text}: type={kind} is not supported")).with_hint(hint)
}

/// Opens the caches. Those that cannot be written are told now.
pub fn open(
    args: &BuildArgs,
    env: &Environment,
    client: &Client,
    from: &[Spec],
    to: &[Spec],
    watch: &dyn Watch,
) -> Result<Cache> {
    if from.is_empty() && to.is_empty() {
        return Ok(Cache::default());
    }
    check_leases(from, to)?;
    let mut registry = args.registry.clone();
    registry.tls_ca.extend_from_slice(&args.ca_cert);
    let asking = env.registry_client_with(&registry, args.offline, 1)?;
    let shelf = |place: &Place| -> Option<Arc<dyn Shelf>> {
        let shelf: Arc<dyn Shelf> = match place {
            Place::Inline => return None,
            Place::Registry(reference) => Arc::new(RegistryShelf::new(&asking, client, reference)),
            Place::Local(path) => Arc::new(LayoutShelf::new(&env.cwd.join(path))),
        };
        Some(shelf)
    };
    let mut cache = Cache::default();
    for spec in to {
        let Some(shelf) = shelf(&spec.place) else {
            cache.inline = true;
            continue;
        };
        let to = To {
            shelf,
            mode: spec.mode,
            ignore_error: spec.ignore_error,
            compression: spec.compression,
            lease: match (&spec.place, spec.lease) {
                // With few retries: a lease that cannot be had soon is no use.
                (Place::Registry(reference), Some(time)) => {
                    let shelf = RegistryShelf::new(&asking, &asking, reference);
                    Some(Lease::new(Arc::new(shelf), time))
                }
                _ => None,
            },
        };
        match cache::export::refused(&to) {
            None => cache.to.push(to),
            Some(failure) if spec.ignore_error => watch.event(Event::Warning(failure.message)),
            Some(failure) => return Err(failure.into()),
        }
    }
    for spec in from {
        shelf(&spec.place).into_iter().for_each(|shelf| cache.look_in(shelf));
        if let Place::Registry(reference) = &spec.place {
            let image = transport::registry_source(&asking, reference);
            cache.look_in(Arc::new(InlineShelf::new(image)));
        }
    }
    Ok(cache)
}

/// One `--cache-mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountSpec {
    id: String,
    from: Vec<(Place, Option<String>)>,
    to: Vec<(Place, Option<String>)>,
}

/// Reads the `--cache-mount`s: `id=ID[,from=PLACE][,to=PLACE]`.
pub fn mounts(list: &[String]) -> Result<Vec<MountSpec>> {
    let flag = "--cache-mount";
    let mut out = Vec::new();
    for text in list {
        let (mut id, mut from, mut to) = (None, Vec::new(), Vec::new());
        for (key, value) in options::fields(text) {
            match key.as_str() {
                "id" => id = Some(value),
                "from" => from.push(mount_place(text, &value)?),
                "to" => to.push(mount_place(text, &value)?),
                _ => {
                    let report =
                        Report::usage(format!("{flag} {text}: there is no option {key:?}"));
                    let known = ["id", "from", "to"];
                    return Err(match crate::dockerfile::suggest(&key, known, true) {
                        Some(name) => report.with_hint(format!("did you mean {name}=?")),
                        None => report.with_hint("options are id, from and to"),
                    });
                }
            }
        }
        let hint = "as in --cache-mount id=go,from=docker://registry.example/app/go,to=docker://registry.example/app/go";
        let id = id.filter(|id| !id.is_empty()).ok_or_else(|| {
            Report::usage(format!("{flag} {text}: id= is missing")).with_hint(hint)
        })?;
        if from.is_empty() && to.is_empty() {
            return Err(
                Report::usage(format!("{flag} {text}: from= or to= is missing")).with_hint(hint)
            );
        }
        out.push(MountSpec { id, from, to });
    }
    Ok(out)
}

/// Reads a place of a cache mount, and its tag.
fn mount_place(text: &str, value: &str) -> Result<(Place, Option<String>)> {
    let bad = |reason: &dyn std::fmt::Display| {
        Report::usage(format!("--cache-mount {text}: {value:?} is no place: {reason}"))
            .with_hint("use a directory, oci:DIR[:TAG] or docker://NAME")
    };
    if !["oci:", "docker://", "docker-image://", "oci-layout://"]
        .iter()
        .any(|scheme| value.starts_with(scheme))
    {
        if value.is_empty() {
            return Err(bad(&"it is empty"));
        }
        return Ok((Place::Local(PathBuf::from(value)), None));
    }
    match ImageName::parse(value).map_err(|error| bad(&error))? {
        ImageName::Registry(reference) if reference.digest.is_none() => {
            let tag = reference.tag.clone();
            Ok((Place::Registry(reference), tag))
        }
        ImageName::Layout { path, selector } if selector.digest.is_none() => {
            Ok((Place::Local(path), selector.name))
        }
        _ => Err(bad(&"it names no tag")),
    }
}

/// Opens the places of cache mounts.
pub fn open_mounts(env: &Environment, client: &Client, list: Vec<MountSpec>) -> Result<Carried> {
    let spot = |(place, tag): (Place, Option<String>)| -> Option<Spot> {
        let shelf: Arc<dyn Shelf> = match place {
            Place::Inline => return None,
            Place::Registry(reference) => Arc::new(RegistryShelf::new(client, client, &reference)),
            Place::Local(path) => Arc::new(LayoutShelf::new(&env.cwd.join(path))),
        };
        Some(Spot { shelf, tag })
    };
    let mut carried = Carried::default();
    for spec in list {
        let ways = carried.ways.entry(spec.id).or_default();
        ways.from.extend(spec.from.into_iter().filter_map(spot));
        for to in spec.to.into_iter().filter_map(spot) {
            to.shelf.check_writable().map_err(|error| {
                let what = format!("--cache-mount: {} cannot be written", to.shelf.describe());
                let mut report = Report::of(Exit::Network, &what, &error);
                report.hints.extend(error.hint());
                report
            })?;
            ways.to.push(to);
        }
    }
    Ok(carried)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_read_as_buildx_does() {
        let registry = |text: &str| Place::Registry(text.parse().expect("a reference"));
        for (way, text, place, mode) in [
            (Way::From, "example.com/app:cache", registry("example.com/app:cache"), Mode::Min),
            (
                Way::From,
                "type=registry,ref=example.com/app",
                registry("example.com/app"),
                Mode::Min,
            ),
            (
                Way::To,
                "type=registry,ref=example.com/app,mode=max",
                registry("example.com/app"),
                Mode::Max,
            ),
            (Way::To, "type=local,dest=d,oci-mediatypes=true", Place::Local("d".into()), Mode::Min),
            (Way::From, "type=local,src=d", Place::Local("d".into()), Mode::Min),
        ] {
            let found = spec(way, text).expect(text);
            assert_eq!((found.place, found.mode), (place, mode), "{text}");
        }
        let zstd = spec(
            Way::To,
            "type=local,dest=d,compression=zstd,compression-level=7,ignore-error=true",
        );
        let zstd = zstd.expect("fine");
        assert_eq!(zstd.compression, Some(Compression::Zstd { level: 7 }));
        assert!(zstd.ignore_error);
    }

    #[test]
    fn mounts_have_places() {
        let read = |text: &str| mounts(&[text.to_owned()]).map(|mut list| list.remove(0));
        let found =
            read("id=go,from=a/b,to=docker://example.com/go:1,to=oci:dir:go").expect("fine");
        assert_eq!(found.id, "go");
        assert_eq!(found.from, [(Place::Local("a/b".into()), None)]);
        let reference = "example.com/go:1".parse().expect("a reference");
        assert_eq!(
            found.to,
            [
                (Place::Registry(reference), Some("1".to_owned())),
                (Place::Local("dir".into()), Some("go".to_owned())),
            ]
        );
        for (text, message) in [
            ("from=a", "id= is missing"),
            ("id=go", "from= or to= is missing"),
            ("id=go,form=a", "there is no option"),
            ("id=go,to=", "it is empty"),
            ("id=go,to=docker://UPPER", "is no place"),
        ] {
            let report = read(text).expect_err(text);
            assert!(report.message.contains(message), "{text}: {}", report.message);
        }
    }

    #[test]
    fn bad_caches_say_what_to_do() {
        for (way, text, message, hint) in [
            (Way::To, "type=registry", "ref= is missing", "type=registry,ref="),
            (Way::To, "ref=x", "type= is missing", "type=registry"),
            (Way::To, "type=registri,ref=x", "no cache type", "did you mean type=registry?"),
            (Way::To, "type=registry,ref=x,moed=max", "no option \"moed\"", "did you mean mode=?"),
            (
                Way::From,
                "type=registry,ref=x,mode=max",
                "no option \"mode\"",
                "options are type, ref",
            ),
            (Way::To, "type=local,src=x", "no option \"src\"", "options are"),
            (Way::To, "type=local,dest=x,mode=all", "expected min or max", ""),
            (Way::To, "type=gha", "type=gha is not supported", "ghcr.io"),
            (Way::To, "type=s3,bucket=b", "type=s3 is not supported", "type=registry"),
            (Way::From, "type=azblob,name=b", "type=azblob is not supported", "azurecr.io"),
            (Way::From, "type=local,src=x,tag=t", "tag=t is not supported", "keys of steps"),
            (Way::To, "type=local,dest=x,reset=true", "reset=true is not supported", "remove"),
            (Way::To, "type=local,dest=x,compression-level=3", "needs compression=", ""),
        ] {
            let report = spec(way, text).expect_err(text);
            assert!(report.message.contains(message), "{text}: {}", report.message);
            let hints = report.hints.join("\n");
            assert!(hints.contains(hint), "{text}: {hints}");
        }
    }
}
