//! `lapstrake copy` and `pull`, and what all commands on images share: opening what a name stands
//! for, telling of progress, and turning errors into reports.

use std::sync::Arc;

use crate::build::event::{Event, Watch, Work};
use crate::layer::Compression;
use crate::oci::{Platform, Reference};
use crate::registry::Client;
use crate::store::Store;
use crate::transport::filter::Filtered;
use crate::transport::recompress::Recompressed;
use crate::transport::{self, Copied, CopyOptions, ImageName, Sink, Source};
use crate::ui::progress::{Progress, Style};

use super::environment::{Environment, threads};
use super::image_args::{CompressionArg, CopyArgs, PullArgs};
use super::options;
use super::report::{Exit, Report, Result};

/// Blobs that go at a time.
const JOBS: usize = 4;

/// The store and the registries.
pub struct Place {
    /// The store.
    pub store: Store,
    /// The client for registries.
    pub client: Arc<Client>,
}

impl Place {
    /// Opens both; nobody is asked yet.
    pub fn open(env: &Environment, args: &super::args::RegistryArgs) -> Result<Place> {
        let store = env.open_store()?;
        let client = env.registry_client(args, false)?;
        Ok(Place { store, client })
    }

    /// Opens an image.
    pub fn source(&self, name: &ImageName, shown: &str) -> Result<Box<dyn Source>> {
        transport::open_source(name, &self.store, &self.client)
            .map_err(|error| failed(&format!("cannot read {shown}"), &error))
    }

    /// Opens a place to write to, and gives the names that the image gets there.
    pub fn sink(&self, name: &ImageName, shown: &str) -> Result<(Box<dyn Sink>, Vec<Reference>)> {
        transport::open_sink(name, &self.store, &self.client)
            .map_err(|error| failed(&format!("cannot write {shown}"), &error))
    }
}

/// Says to a prune that what is about to get a name, or is being read, is in use. Held until dropped.
pub fn hold(store: &Store) -> Result<crate::store::Guard> {
    store
        .locks()
        .build(&|| false)
        .map_err(|error| Report::of(Exit::Damaged, "cannot lock the store", &error))
}

/// Reads a name.
pub fn parse_name(env: &Environment, text: &str) -> Result<ImageName> {
    Ok(ImageName::parse(text)
        .map_err(|error| Report::of(Exit::Usage, text, &error))?
        .relative_to(&env.cwd))
}

/// Turns an error into a report.
pub fn failed(what: &str, error: &transport::Error) -> Report {
    let exit = if error.is_usage() {
        Exit::Usage
    } else if error.is_damage() {
        Exit::Damaged
    } else {
        Exit::Network
    };
    let mut report = Report::of(exit, what, error);
    report.hints.extend(error.hint());
    report
}

/// Runs one piece of work under a line of progress.
pub fn tell<T>(
    env: &Environment,
    watch: &dyn Watch,
    name: &str,
    what: &str,
    work: impl FnOnce(&transport::Progress<'_>) -> transport::Result<T>,
) -> Result<T> {
    // Steps of a build are numbered from 0; this is none of them.
    let step = usize::MAX - env.pushes();
    let started = std::time::Instant::now();
    let (work_kind, name) = (Work::Export, name.to_owned());
    watch.event(Event::Planned { step, work: work_kind, name, emulated: false });
    watch.event(Event::Started { step });
    let progress = |item: &str, done: u64, total: Option<u64>| {
        watch.event(Event::Progress { step, item: item.to_owned(), done, total });
    };
    let took = |started: std::time::Instant| started.elapsed();
    match work(&progress) {
        Ok(value) => {
            watch.event(Event::Finished { step, took: took(started) });
            Ok(value)
        }
        Err(error) => {
            let report = failed(what, &error);
            let message = report.message.clone();
            watch.event(Event::Failed { step, message, took: took(started) });
            Err(report)
        }
    }
}

/// Makes the display of progress.
pub fn display(env: &Environment, quiet: bool) -> Progress {
    Progress::new(if quiet { Style::Quiet } else { Style::Auto }, !env.colour)
}

/// Leaves only some platforms of a source.
pub fn choose(
    source: Box<dyn Source>,
    platforms: &[Platform],
    what: &str,
) -> Result<Box<dyn Source>> {
    if platforms.is_empty() {
        return Ok(source);
    }
    let chosen = Filtered::new(source, platforms).map_err(|error| failed(what, &error))?;
    Ok(Box::new(chosen))
}

/// Runs `lapstrake copy`.
pub fn copy(args: &CopyArgs, env: &Environment) -> Result<()> {
    let from = parse_name(env, &args.source)?;
    let to = parse_name(env, &args.destination)?;
    let platforms = options::platforms(&args.platform, &Platform::host())?;
    let compression = compression(args)?;
    let place = Place::open(env, &args.registry)?;
    // What is read from the store stays until it is copied.
    let _held = hold(&place.store)?;
    let what = format!("cannot copy {} to {}", args.source, args.destination);
    let source = place.source(&from, &args.source)?;
    let mut source = choose(source, &platforms, &what)?;
    let progress = display(env, args.quiet);
    let mut dropped = 0;
    let done: Result<Copied> = (|| {
        if let Some(compression) = compression {
            // Held until the end: the scratch space is the store's.
            let dir = place.store.tmp().dir("copy").map_err(|error| {
                Report::of(Exit::Damaged, "cannot use the store for temporary files", &error)
            })?;
            let threads = threads();
            let name = format!("compressing {}", args.source);
            let packed = tell(env, &progress, &name, &what, |progress| {
                Recompressed::new(source, compression, dir.path(), threads, progress)
            })?;
            dropped = packed.dropped;
            source = Box::new(packed);
            let result = send(args, env, &place, &to, source.as_ref(), &progress, &what);
            drop(dir);
            return result;
        }
        send(args, env, &place, &to, source.as_ref(), &progress, &what)
    })();
    progress.end();
    let copied = done?;
    if dropped > 0 {
        env.say(&format!(
            "note: {dropped} attestations were left out: they are about the layers as they were\n"
        ));
    }
    if args.referrers {
        env.say(&format!("{} referrers went along\n", copied.referrers));
    }
    env.print(&format!("{}@{}\n", shown(&args.destination, &to), copied.root.digest));
    Ok(())
}

fn send(
    args: &CopyArgs,
    env: &Environment,
    place: &Place,
    to: &ImageName,
    source: &dyn Source,
    watch: &dyn Watch,
    what: &str,
) -> Result<Copied> {
    let (sink, mut names) = place.sink(to, &args.destination)?;
    if !args.additional_tag.is_empty() {
        let (ImageName::Registry(name) | ImageName::Store(name)) = to else {
            return Err(Report::usage("--additional-tag is for registries and the store")
                .with_hint("copy again with another name"));
        };
        for tag in &args.additional_tag {
            if !Reference::is_tag(tag) {
                return Err(Report::usage(format!("--additional-tag {tag}: not a tag")));
            }
            names.push(Reference { digest: None, ..name.clone() }.with_tag(tag));
        }
    }
    let options = CopyOptions { jobs: JOBS, referrers: args.referrers };
    let name = format!("copying {} to {}", args.source, args.destination);
    tell(env, watch, &name, what, |progress| {
        transport::copy_with(source, sink.as_ref(), &names, options, progress)
    })
}

/// Shows a name without the digest that it may have.
fn shown(text: &str, name: &ImageName) -> String {
    match name {
        ImageName::Registry(reference) | ImageName::Store(reference) => {
            let reference = Reference { digest: None, ..reference.clone() };
            reference.familiar()
        }
        _ => text.to_owned(),
    }
}

fn compression(args: &CopyArgs) -> Result<Option<Compression>> {
    let level = args.compression_level;
    let check = |most: u32| match level {
        Some(level) if level < 1 || level > most => {
            Err(Report::usage(format!("--compression-level {level}: expected 1 to {most}")))
        }
        _ => Ok(()),
    };
    Ok(match args.compression {
        None => None,
        Some(CompressionArg::None) => Some(Compression::None),
        Some(CompressionArg::Gzip) => {
            check(9)?;
            Some(level.map_or(Compression::GZIP, |level| Compression::Gzip { level }))
        }
        Some(CompressionArg::Estargz) => {
            check(9)?;
            Some(level.map_or(Compression::ESTARGZ, |level| Compression::Estargz { level }))
        }
        Some(CompressionArg::Zstd) => {
            check(19)?;
            let level = level.map(|level| i32::try_from(level).unwrap_or(1));
            Some(level.map_or(Compression::ZSTD, |level| Compression::Zstd { level }))
        }
    })
}

/// Runs `lapstrake pull`.
pub fn pull(args: &PullArgs, env: &Environment) -> Result<()> {
    let platforms = options::platforms(&args.platform, &Platform::host())?;
    let place = Place::open(env, &args.registry)?;
    let mut names = Vec::new();
    for text in &args.names {
        names.push(candidates(text, &place.client)?);
    }
    let progress = display(env, args.quiet);
    let mut out = Vec::new();
    let mut pull = |reference: &Reference| -> Result<()> {
        let shown = reference.familiar();
        let what = format!("cannot pull {shown}");
        let source = place.source(&ImageName::Registry(reference.clone()), &shown)?;
        let source = choose(source, &platforms, &what)?;
        // A digest is a name of its own; with a tag beside it, the tag is what the store needs.
        let (sink, names) = place.sink(&ImageName::Store(stored_name(reference)), &shown)?;
        let options = CopyOptions { jobs: JOBS, referrers: args.referrers };
        let copied = tell(env, &progress, &format!("pulling {shown}"), &what, |progress| {
            transport::copy_with(source.as_ref(), sink.as_ref(), &names, options, progress)
        })?;
        let bare = Reference { digest: None, ..reference.clone() };
        let bare = if reference.digest.is_some() { bare } else { bare.with_default_tag() };
        out.push(format!("{}@{}\n", bare.familiar(), copied.root.digest));
        Ok(())
    };
    let done: Result<()> = names.iter().try_for_each(|candidates| {
        let mut failures: Vec<Report> = Vec::new();
        for reference in candidates {
            match pull(reference) {
                Ok(()) => return Ok(()),
                Err(failure) => failures.push(failure),
            }
        }
        let Some(mut report) = failures.pop() else { return Ok(()) };
        failures.iter().rev().for_each(|failure| {
            report.message = format!("{}; {}", failure.message, report.message);
        });
        Err(report)
    });
    progress.end();
    done?;
    out.iter().for_each(|line| env.print(line));
    Ok(())
}

/// Gives what a name to pull stands for; several where configuration says so of a short name.
fn candidates(text: &str, client: &Client) -> Result<Vec<Reference>> {
    let wrong = |error: &(dyn std::error::Error + 'static)| Report::of(Exit::Usage, text, error);
    let bare = text.strip_prefix("docker://").unwrap_or(text);
    let reference = bare.parse::<Reference>().map_err(|error| wrong(&error))?;
    // With a scheme it is Docker Hub's, as for skopeo.
    if bare != text {
        return Ok(vec![reference]);
    }
    let short = client.short_name(text).map_err(|error| wrong(&error))?;
    Ok(short.map_or_else(|| vec![reference], |short| short.candidates))
}

/// Gives the name that an image of a registry has in the store.
fn stored_name(reference: &Reference) -> Reference {
    match (&reference.tag, &reference.digest) {
        (Some(_), Some(_)) => Reference { digest: None, ..reference.clone() },
        _ => reference.clone(),
    }
}
