//! `lapstrake index`: multi-platform images made of images that exist.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::oci::descriptor::{IMAGE_NAME, REF_NAME};
use crate::oci::{Descriptor, Digest, Reference};
use crate::transport::assemble::{Assembly, Claim, Same};
use crate::transport::layout::entries_of;
use crate::transport::{self, CopyOptions, ImageName, Selector, Source};

use super::copy::{Place, failed, hold, parse_name};
use super::environment::Environment;
use super::image_args::{
    IndexAnnotateArgs, IndexArgs, IndexCommand, IndexCreateArgs, IndexMergeArgs, IndexRemoveArgs,
};
use super::report::{Report, Result};

/// Blobs that go at a time.
const JOBS: usize = 4;

/// Runs the command.
pub fn run(args: &IndexArgs, env: &Environment) -> Result<()> {
    match &args.command {
        IndexCommand::Create(args) => create(args, env, false),
        IndexCommand::Append(args) => create(args, env, true),
        IndexCommand::Annotate(args) => annotate(args, env),
        IndexCommand::Merge(args) => merge(args, env),
        IndexCommand::Remove(args) => remove(args, env),
    }
}

fn create(args: &IndexCreateArgs, env: &Environment, append: bool) -> Result<()> {
    let to = parse_name(env, &args.destination)?;
    // Everything that can be wrong with the words is told before anybody is asked.
    let mut given = Vec::new();
    for text in &args.sources {
        let (name, claim) = parse_source(text)?;
        given.push((name, parse_name(env, name)?, claim));
    }
    let annotations = pairs(&args.annotation)?;
    let place = Place::open(env, &args.registry)?;
    let _held = hold(&place.store)?;
    let what = format!("cannot make {}", args.destination);
    let mut assembly =
        if append { existing(&place, &to, &args.destination)? } else { Assembly::default() };
    let same = if append { Same::Replace } else { Same::Refuse };
    for (shown, name, claim) in &given {
        let source: Arc<dyn Source> = place.source(name, shown)?.into();
        assembly.add(source, claim, same, args.force).map_err(|error| failed(&what, &error))?;
    }
    set_annotations(&mut assembly, &annotations);
    write(env, &place, &to, &args.destination, assembly)
}

fn annotate(args: &IndexAnnotateArgs, env: &Environment) -> Result<()> {
    let to = parse_name(env, &args.destination)?;
    let annotations = pairs(&args.annotation)?;
    let claim = Claim {
        os: args.os.clone(),
        architecture: args.arch.clone(),
        variant: args.variant.clone(),
        os_version: args.os_version.clone(),
        os_features: (!args.os_features.is_empty()).then(|| {
            args.os_features.iter().filter(|feature| !feature.is_empty()).cloned().collect()
        }),
        annotations: annotations.clone(),
    };
    let place = Place::open(env, &args.registry)?;
    let _held = hold(&place.store)?;
    let mut assembly = existing(&place, &to, &args.destination)?;
    match &args.entry {
        Some(entry) => {
            let what = format!("cannot annotate {entry} of {}", args.destination);
            assembly.annotate(entry, &claim, args.force).map_err(|error| failed(&what, &error))?;
        }
        None if claim.is_platform() => {
            return Err(Report::usage("a platform is one of an entry, and none is named")
                .with_hint("name the entry by its platform or digest after the index"));
        }
        None if annotations.is_empty() => {
            return Err(Report::usage("nothing to change").with_hint(
                "give --annotation, --os, --arch, --variant, --os-version or --os-features",
            ));
        }
        None => set_annotations(&mut assembly, &annotations),
    }
    write(env, &place, &to, &args.destination, assembly)
}

fn remove(args: &IndexRemoveArgs, env: &Environment) -> Result<()> {
    let to = parse_name(env, &args.destination)?;
    let place = Place::open(env, &args.registry)?;
    let _held = hold(&place.store)?;
    let mut assembly = existing(&place, &to, &args.destination)?;
    for entry in &args.entries {
        let what = format!("cannot remove {entry} from {}", args.destination);
        assembly.remove(entry).map_err(|error| failed(&what, &error))?;
    }
    if assembly.is_empty() {
        return Err(Report::usage("that would leave an index without images")
            .with_hint("`lapstrake rmi` removes a name of the store"));
    }
    write(env, &place, &to, &args.destination, assembly)
}

/// Joins layouts. Images of one name become one image; nameless ones another.
fn merge(args: &IndexMergeArgs, env: &Environment) -> Result<()> {
    let (to, is_dir) = match ImageName::parse(&args.output) {
        Ok(
            name @ (ImageName::Layout { .. }
            | ImageName::OciArchive { .. }
            | ImageName::Registry(_)),
        ) => (name.relative_to(&env.cwd), false),
        _ => {
            let path = env.cwd.join(&args.output);
            (ImageName::Layout { path, selector: Selector::default() }, true)
        }
    };
    let place = Place::open(env, &args.registry)?;
    let _held = hold(&place.store)?;
    // By name, in the order of first appearance.
    let mut images: Vec<(Option<Reference>, Option<String>, Assembly)> = Vec::new();
    for path in &args.layouts {
        let path = env.cwd.join(path);
        let entries = entries_of(&path)
            .map_err(|error| failed(&format!("cannot read {}", path.display()), &error))?;
        for entry in entries.iter().filter(|entry| is_image(entry)) {
            let full = entry.annotations.get(IMAGE_NAME).and_then(|name| name.parse().ok());
            let tag = entry.annotations.get(REF_NAME).cloned().filter(|_| full.is_none());
            let name = layout_image(&path, entry.digest);
            let source: Arc<dyn Source> = place.source(&name, &path.display().to_string())?.into();
            let at = match images.iter().position(|(f, t, _)| *f == full && *t == tag) {
                Some(at) => at,
                None => {
                    images.push((full, tag, Assembly::default()));
                    images.len() - 1
                }
            };
            images[at]
                .2
                .add(source, &Claim::default(), Same::Refuse, args.force)
                .map_err(|error| failed(&format!("cannot merge {}", path.display()), &error))?;
        }
    }
    match (images.len(), &to) {
        (0, _) => return Err(Report::usage("there are no images in these layouts")),
        (1, _) | (_, ImageName::Layout { .. }) => {}
        (count, _) => {
            return Err(Report::usage(format!(
                "there are {count} images of different names, and {} holds one",
                args.output
            ))
            .with_hint("merge into a directory: -o out/"));
        }
    }
    let many = images.len() > 1;
    for (full, tag, assembly) in images {
        let (sink, mut names) = match &to {
            ImageName::Layout { path, selector } if is_dir || many || selector.is_empty() => {
                let sink = transport::layout::LayoutSink::create(path)
                    .map_err(|error| failed(&format!("cannot write {}", args.output), &error))?;
                let sink: Box<dyn transport::Sink> = Box::new(sink.with_tag(tag));
                (sink, full.into_iter().collect())
            }
            to => place.sink(to, &args.output)?,
        };
        names.dedup();
        let source = assembly.finish();
        let options = CopyOptions { jobs: JOBS, referrers: true };
        let copied = transport::copy_with(&source, sink.as_ref(), &names, options, &|_, _, _| {})
            .map_err(|error| failed(&format!("cannot write {}", args.output), &error))?;
        let name = names.first().map_or_else(|| args.output.clone(), Reference::familiar);
        env.print(&format!("{name}@{}\n", copied.root.digest));
    }
    Ok(())
}

/// Tells an entry of index.json that is an image from what is about one.
fn is_image(entry: &Descriptor) -> bool {
    // The list of an image's referrers has a tag that is made of the image's digest.
    let is_list = entry.annotations.get(REF_NAME).is_some_and(|tag| {
        tag.strip_prefix("sha256-").is_some_and(|hex| Digest::from_hex(hex).is_some())
    });
    !entry.is_attestation() && entry.artifact_type.is_none() && !is_list
}

/// Names one image of a layout by its digest.
fn layout_image(path: &Path, digest: Digest) -> ImageName {
    let selector = Selector { name: None, digest: Some(digest) };
    let path = path.to_owned();
    if path.is_dir() {
        ImageName::Layout { path, selector }
    } else {
        ImageName::OciArchive { path, selector }
    }
}

fn existing(place: &Place, name: &ImageName, shown: &str) -> Result<Assembly> {
    // It is written again where it is: a mirror may have an older one.
    let place = Place { store: place.store.clone(), client: Arc::new(place.client.direct()) };
    let source: Arc<dyn Source> = place.source(name, shown)?.into();
    Assembly::from_existing(source).map_err(|error| failed(&format!("cannot read {shown}"), &error))
}

fn write(
    env: &Environment,
    place: &Place,
    to: &ImageName,
    shown: &str,
    assembly: Assembly,
) -> Result<()> {
    let source = assembly.finish();
    let what = format!("cannot write {shown}");
    // Told before the sink makes anything.
    let (root, bytes) = source.root().map_err(|error| failed(&what, &error))?;
    if matches!(to, ImageName::Dir { .. } | ImageName::DockerArchive { .. }) {
        return Err(Report::usage(format!(
            "{shown}: an index goes into a layout, an archive of one, the store or a registry"
        )));
    }
    let (sink, names) = place.sink(to, shown)?;
    sink.accepts(&root, &bytes).map_err(|error| failed(&what, &error))?;
    let options = CopyOptions { jobs: JOBS, referrers: false };
    let copied = transport::copy_with(&source, sink.as_ref(), &names, options, &|_, _, _| {})
        .map_err(|error| failed(&what, &error))?;
    let name = match names.first() {
        Some(name) => Reference { digest: None, ..name.clone() }.familiar(),
        None => shown.to_owned(),
    };
    env.print(&format!("{name}@{}\n", copied.root.digest));
    Ok(())
}

fn set_annotations(assembly: &mut Assembly, annotations: &BTreeMap<String, String>) {
    for (key, value) in annotations {
        if value.is_empty() {
            assembly.annotations.remove(key);
        } else {
            assembly.annotations.insert(key.clone(), value.clone());
        }
    }
}

fn pairs(list: &[String]) -> Result<BTreeMap<String, String>> {
    list.iter()
        .map(|text| match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(Report::usage(format!("--annotation {text}: expected KEY=VALUE"))),
        })
        .collect()
}

/// Splits `SRC[,KEY=VALUE…]`.
fn parse_source(text: &str) -> Result<(&str, Claim)> {
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default();
    let mut claim = Claim::default();
    for part in parts {
        let wrong = || {
            Report::usage(format!("{text}: {part:?} says nothing of an entry")).with_hint(
                "keys are platform, os, arch, variant, os.version, os.features, annotation.KEY",
            )
        };
        let (key, value) = part.split_once('=').ok_or_else(wrong)?;
        let value_text = value.to_owned();
        match key {
            "platform" => claim
                .set_platform(value)
                .map_err(|error| Report::of(super::report::Exit::Usage, text, &error))?,
            "os" => claim.os = Some(value_text),
            "arch" | "architecture" => claim.architecture = Some(value_text),
            "variant" => claim.variant = Some(value_text),
            "os.version" | "os-version" => claim.os_version = Some(value_text),
            "os.features" | "os-features" => {
                let features = value.split('+').filter(|feature| !feature.is_empty());
                claim.os_features = Some(features.map(str::to_owned).collect());
            }
            _ => match key.strip_prefix("annotation.").filter(|key| !key.is_empty()) {
                Some(key) => {
                    claim.annotations.insert(key.to_owned(), value_text);
                }
                None => return Err(wrong()),
            },
        }
    }
    Ok((name, claim))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_say_more_of_their_entries() {
        let (name, claim) = parse_source(
            "app:win,platform=windows(10.0.1.2)/amd64,os.features=a+b,annotation.k.x=v=w",
        )
        .unwrap();
        assert_eq!(name, "app:win");
        assert_eq!(claim.os.as_deref(), Some("windows"));
        assert_eq!(claim.os_version.as_deref(), Some("10.0.1.2"));
        assert_eq!(claim.os_features, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(claim.annotations["k.x"], "v=w");
        for bad in ["app,platform", "app,cpu=x86", "app,annotation.=x", "app,platform=nonsense"] {
            assert!(parse_source(bad).is_err(), "{bad}");
        }
    }
}
