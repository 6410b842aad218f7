//! `lapstrake images`, `tag`, `rmi`: names of the store.

use crate::oci::{Descriptor, Document, Reference, media_type};
use crate::store::Store;
use crate::ui::text;

use super::args::{ImagesArgs, RmiArgs, TagArgs};
use super::environment::Environment;
use super::report::{Exit, Report, Result};

/// Reads a name as the store has it: normalised, with a tag.
pub fn name(text: &str) -> Result<Reference> {
    let reference =
        text.parse::<Reference>().map_err(|error| Report::of(Exit::Usage, text, &error))?;
    Ok(reference.with_default_tag())
}

/// Finds an image of the store.
pub fn find(store: &Store, text: &str) -> Result<(Reference, Descriptor)> {
    let reference = name(text)?;
    let full = reference.to_string();
    let damaged =
        |error: crate::store::Error| Report::of(Exit::Damaged, "cannot read the store", &error);
    if let Some(descriptor) = store.images().get(&full).map_err(damaged)? {
        return Ok((reference, descriptor));
    }
    let names: Vec<String> = store
        .images()
        .list()
        .map_err(damaged)?
        .into_iter()
        .map(|(name, _)| familiar(&name))
        .collect();
    let report = Report::usage(format!("no image {text:?} in the store"));
    let wanted = reference.familiar();
    Err(match crate::dockerfile::suggest(&wanted, names.iter().map(String::as_str), true) {
        Some(name) => report.with_hint(format!("did you mean {name}?")),
        None if names.is_empty() => {
            report.with_hint("the store has no images; build one: lapstrake build -t NAME .")
        }
        None => report.with_hint("`lapstrake images` lists what there is"),
    })
}

/// Shortens a whole name.
pub fn familiar(name: &str) -> String {
    name.parse::<Reference>().map_or_else(|_| name.to_owned(), |name| name.familiar())
}

/// Lists names.
pub fn list(args: &ImagesArgs, env: &Environment) -> Result<()> {
    let store = env.open_store()?;
    let images = store
        .images()
        .list()
        .map_err(|error| Report::of(Exit::Damaged, "cannot read the store", &error))?;
    if args.quiet {
        for (name, _) in &images {
            env.print(&format!("{}\n", familiar(name)));
        }
        return Ok(());
    }
    let mut rows = Vec::new();
    for (name, descriptor) in &images {
        let (platforms, size) = summary(&store, descriptor);
        rows.push((familiar(name), descriptor.digest, platforms, size));
    }
    if args.format.is_some() {
        let list: Vec<_> = rows
            .iter()
            .map(|(name, digest, platforms, size)| {
                serde_json::json!({
                    "name": name, "digest": digest, "platforms": platforms, "size": size
                })
            })
            .collect();
        env.print(&format!("{:#}\n", serde_json::json!(list)));
        return Ok(());
    }
    let width = rows.iter().map(|row| row.0.chars().count()).max().unwrap_or(0).max(4);
    let mut out = format!("{:width$}  {:19}  {:>9}  PLATFORMS\n", "NAME", "DIGEST", "SIZE");
    for (name, digest, platforms, size) in rows {
        let short = format!("sha256:{}", &digest.hex()[..12]);
        out.push_str(&format!(
            "{name:width$}  {short:19}  {:>9}  {}\n",
            text::size(size),
            platforms.join(", ")
        ));
    }
    env.print(&out);
    Ok(())
}

/// Gives the platforms of an image and the bytes of its blobs that are in the store.
fn summary(store: &Store, root: &Descriptor) -> (Vec<String>, u64) {
    const LIMIT: u64 = crate::oci::manifest::MAX_SIZE;
    let mut platforms = Vec::new();
    let mut seen = std::collections::BTreeMap::new();
    let mut todo = vec![root.clone()];
    while let Some(descriptor) = todo.pop() {
        let Ok(bytes) = store.blobs().read(&descriptor.digest, LIMIT) else { continue };
        seen.insert(descriptor.digest, descriptor.size);
        match Document::parse(&bytes, &descriptor.media_type) {
            Ok(Document::Index(index)) => todo.extend(index.manifests.into_iter().rev()),
            Ok(Document::Manifest(manifest)) => {
                let config = store.blobs().read(&manifest.config.digest, LIMIT).ok();
                let own = config
                    .and_then(|bytes| crate::oci::ImageConfig::parse(&bytes).ok())
                    .map(|config| config.platform());
                if let Some(platform) = descriptor.platform.clone().or(own) {
                    platforms.push(platform.to_string());
                }
                for blob in manifest.layers.iter().chain([&manifest.config]) {
                    if media_type::is_foreign(&blob.media_type) {
                        continue;
                    }
                    seen.insert(blob.digest, blob.size);
                }
            }
            Err(_) => {}
        }
    }
    (platforms, seen.values().sum())
}

/// Gives an image more names.
pub fn tag(args: &TagArgs, env: &Environment) -> Result<()> {
    let store = env.open_store()?;
    let _lock = super::copy::hold(&store)?;
    let (_, descriptor) = find(&store, &args.source)?;
    let mut names = Vec::new();
    for target in super::options::tags(&args.target)? {
        names.push((target.to_string(), descriptor.clone()));
    }
    store
        .images()
        .set(&names)
        .map_err(|error| Report::of(Exit::Damaged, "cannot name the image", &error))
}

/// Takes names away.
pub fn remove(args: &RmiArgs, env: &Environment) -> Result<()> {
    let store = env.open_store()?;
    let mut found = Vec::new();
    for text in &args.names {
        found.push(find(&store, text)?.0);
    }
    for reference in found {
        store
            .images()
            .remove(&reference.to_string())
            .map_err(|error| Report::of(Exit::Damaged, "cannot change the store", &error))?;
        env.print(&format!("{}\n", reference.familiar()));
    }
    env.say("note: `lapstrake prune` frees the space of what no name needs any more\n");
    Ok(())
}
