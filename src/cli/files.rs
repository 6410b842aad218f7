//! `lapstrake inspect --layers` and `lapstrake diff`: the files of images, layer by layer.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::layer::changes::{Change, What, changes, differences};
use crate::layer::{RootPath, Toc, Tree};
use crate::oci::{Descriptor, Document, ImageConfig, Manifest, Platform};
use crate::transport::{self, Source, read_contents, select_platform};
use crate::ui::text;

use super::copy::{Place, display, parse_name, tell};
use super::environment::Environment;
use super::image_args::DiffArgs;
use super::inspect::instructions;
use super::report::{Report, Result};

/// Layers that are read at a time.
const JOBS: usize = 2;

/// One image with the tables of contents of its layers.
struct Listed {
    name: String,
    digest: String,
    platform: String,
    manifest: Manifest,
    config: ImageConfig,
    tocs: Vec<Arc<Toc>>,
}

/// Chooses the image for a platform: the one asked for, else this machine's, else the only one.
fn choose(
    source: &dyn Source,
    platform: Option<&Platform>,
) -> transport::Result<(Descriptor, Manifest)> {
    let (root, bytes) = source.root()?;
    let wrong = |descriptor: &Descriptor, error| transport::Error::Document {
        place: source.describe(),
        what: descriptor.digest.to_string(),
        source: error,
    };
    let index = match Document::parse(&bytes, &root.media_type).map_err(|e| wrong(&root, e))? {
        Document::Manifest(manifest) => return Ok((root, manifest)),
        Document::Index(index) => index,
    };
    let all = transport::children(source, &index)?;
    let chosen = match (platform, all.as_slice()) {
        (None, [only]) => only.clone(),
        (wanted, _) => {
            select_platform(source, &index, &wanted.cloned().unwrap_or_else(Platform::host))?
        }
    };
    let bytes = source.manifest(&chosen)?;
    match Document::parse(&bytes, &chosen.media_type).map_err(|e| wrong(&chosen, e))? {
        Document::Manifest(manifest) => Ok((chosen, manifest)),
        Document::Index(_) => {
            let what = chosen.digest.to_string();
            Err(transport::Error::NotAnImage { place: source.describe(), what })
        }
    }
}

fn list(
    env: &Environment,
    source: &dyn Source,
    name: &str,
    platform: Option<&Platform>,
) -> Result<Listed> {
    let what = format!("cannot read {name}");
    let watch = display(env, false);
    let read = tell(env, &watch, &format!("reading {name}"), &what, |progress| {
        let (descriptor, manifest) = choose(source, platform)?;
        let place = source.describe();
        if !manifest.is_image() {
            let what = descriptor.digest.to_string();
            return Err(transport::Error::NotAnImage { place, what });
        }
        let config = transport::read_small(source, &manifest.config)?;
        let config = ImageConfig::parse(&config).map_err(|error| transport::Error::Json {
            place,
            what: format!("config {}", manifest.config.digest),
            source: error,
        })?;
        let tocs = read_contents(source, &manifest, JOBS, progress)?;
        Ok((descriptor, manifest, config, tocs))
    });
    watch.end();
    let (descriptor, manifest, config, tocs) = read?;
    let platform = descriptor.platform.clone().unwrap_or_else(|| config.platform());
    Ok(Listed {
        name: name.to_owned(),
        digest: descriptor.digest.to_string(),
        platform: platform.normalized().format_all(),
        manifest,
        config,
        tocs,
    })
}

/// Lists the files of each layer of an image.
pub fn layers(
    env: &Environment,
    source: &dyn Source,
    name: &str,
    platform: Option<&Platform>,
    as_json: bool,
) -> Result<()> {
    let image = list(env, source, name, platform)?;
    let all = changes(&image.tocs);
    let wasted: u64 = all.iter().flatten().map(|change| change.hidden).sum();
    let total: u64 = all.iter().flatten().map(|change| change.size).sum();
    let made_by = instructions(&image.manifest, Some(&image.config));
    if as_json {
        let layers: Vec<Value> = image
            .manifest
            .layers
            .iter()
            .zip(&all)
            .enumerate()
            .map(|(at, (layer, list))| {
                json!({
                    "digest": layer.digest,
                    "diffId": image.config.rootfs.diff_ids.get(at),
                    "size": layer.size,
                    "createdBy": made_by[at],
                    "wasted": list.iter().map(|change| change.hidden).sum::<u64>(),
                    "files": list.iter().map(change_json).collect::<Vec<_>>(),
                })
            })
            .collect();
        let value = json!({
            "name": image.name, "digest": image.digest, "platform": image.platform,
            "size": total, "wasted": wasted, "layers": layers,
        });
        env.print(&format!("{value:#}\n"));
        return Ok(());
    }
    let mut out = format!(
        "{}  {}  {}\n{} in {}, {} of it wasted\n",
        image.name,
        image.platform,
        image.digest,
        text::size(total),
        text::count(all.len(), "layer"),
        text::size(wasted)
    );
    for (at, (layer, list)) in image.manifest.layers.iter().zip(&all).enumerate() {
        let size: u64 = list.iter().map(|change| change.size).sum();
        out.push_str(
            format!(
                "\nlayer {}  sha256:{}  {}  {}",
                at + 1,
                &layer.digest.hex()[..12],
                text::size(size),
                text::fit(&made_by[at], 80)
            )
            .trim_end(),
        );
        out.push('\n');
        for change in list {
            out.push_str(&change_line(change));
        }
    }
    env.print(&out);
    Ok(())
}

fn shown_path(path: &RootPath, is_dir: bool) -> String {
    let text = text::printable(path.as_bytes(), false);
    if is_dir { format!("{text}/") } else { text }
}

fn mark(what: What) -> char {
    match what {
        What::Added => '+',
        What::Changed | What::Touched => '~',
        What::Deleted => '-',
    }
}

fn change_line(change: &Change) -> String {
    let path = shown_path(&change.path, change.is_dir);
    let size = match change.what {
        What::Deleted => String::new(),
        _ if change.is_dir => String::new(),
        _ => text::size(change.size),
    };
    let hides = match (change.hidden, change.what) {
        (0, What::Touched) => "  (only mode, owner or attributes)".to_owned(),
        (0, _) => String::new(),
        (hidden, What::Touched) => {
            format!("  (same content: wastes {})", text::size(hidden))
        }
        (hidden, What::Deleted) => format!("  (wastes {})", text::size(hidden)),
        (hidden, _) => format!("  (overwrites: wastes {})", text::size(hidden)),
    };
    format!("  {} {size:>9}  {path}{hides}\n", mark(change.what))
}

fn what_name(what: What) -> &'static str {
    match what {
        What::Added => "added",
        What::Changed => "changed",
        What::Touched => "touched",
        What::Deleted => "deleted",
    }
}

fn change_json(change: &Change) -> Value {
    json!({
        "path": shown_path(&change.path, change.is_dir),
        "change": what_name(change.what),
        "size": change.size,
        "hides": change.hidden,
    })
}

/// Runs `lapstrake diff`.
pub fn diff(args: &DiffArgs, env: &Environment) -> Result<()> {
    let platforms: Vec<String> = args.platform.iter().cloned().collect();
    let platforms = super::options::platforms(&platforms, &Platform::host())?;
    let place = Place::open(env, &args.registry)?;
    let open = |text: &str| -> Result<Listed> {
        let name = parse_name(env, text)?;
        let source = place.source(&name, text)?;
        list(env, source.as_ref(), text, platforms.first())
    };
    let (before, after) = (open(&args.before)?, open(&args.after)?);
    let shared = before
        .config
        .rootfs
        .diff_ids
        .iter()
        .zip(&after.config.rootfs.diff_ids)
        .take_while(|(a, b)| a == b)
        .count();
    let files = differences(&Tree::new(before.tocs.clone()), &Tree::new(after.tocs.clone()));
    let config = config_differences(&before.config, &after.config);
    let made_by = instructions(&after.manifest, Some(&after.config));
    if args.format.is_some() {
        let files: Vec<Value> = files
            .iter()
            .map(|file| {
                json!({
                    "path": text::printable(file.path.as_bytes(), false),
                    "change": what_name(file.what),
                    "how": file.how,
                    "before": file.before,
                    "after": file.after,
                    "layer": file.layer + 1,
                })
            })
            .collect();
        let config: Vec<Value> = config
            .iter()
            .map(|(key, old, new)| json!({ "key": key, "before": old, "after": new }))
            .collect();
        let side = |image: &Listed| {
            json!({
                "name": image.name, "digest": image.digest, "platform": image.platform,
                "layers": image.manifest.layers.len(),
            })
        };
        let value = json!({
            "before": side(&before), "after": side(&after), "sharedLayers": shared,
            "config": config, "files": files,
        });
        env.print(&format!("{value:#}\n"));
        return Ok(());
    }
    let mut out = String::new();
    for (sign, image) in [('-', &before), ('+', &after)] {
        out.push_str(&format!(
            "{sign} {}  {}  {}  {}\n",
            image.name,
            image.platform,
            image.digest,
            text::count(image.manifest.layers.len(), "layer")
        ));
    }
    out.push_str(&format!("{shared} of the layers are the same\n"));
    for (key, old, new) in &config {
        out.push_str(&format!("\n{key}\n"));
        for (sign, value) in [('-', old), ('+', new)] {
            if !value.is_null() {
                let text = text::printable(value.to_string().as_bytes(), false);
                out.push_str(&format!("  {sign} {text}\n"));
            }
        }
    }
    // What went, then what each layer of the new image brings.
    let title = |text: String, out: &mut String| out.push_str(format!("\n{text}").trim_end());
    if files.iter().any(|file| file.what == What::Deleted) {
        title("deleted".to_owned(), &mut out);
        out.push('\n');
    }
    for file in files.iter().filter(|file| file.what == What::Deleted) {
        let path = text::printable(file.path.as_bytes(), false);
        out.push_str(&format!("  - {:>9}  {path}\n", text::size(file.before)));
    }
    for (layer, by) in made_by.iter().enumerate() {
        let mut of_layer = files
            .iter()
            .filter(|file| file.what != What::Deleted && file.layer == layer)
            .peekable();
        if of_layer.peek().is_none() {
            continue;
        }
        let by = text::fit(by, 80);
        title(format!("layer {}  {by}", layer + 1), &mut out);
        out.push('\n');
        for file in of_layer {
            let path = text::printable(file.path.as_bytes(), false);
            let how = match (file.how.as_str(), file.before == file.after) {
                ("", _) => String::new(),
                (how, true) => format!("  ({how})"),
                (how, false) => format!("  ({how}, was {})", text::size(file.before)),
            };
            let how = text::printable(how.as_bytes(), false);
            let size = text::size(file.after);
            out.push_str(&format!("  {} {size:>9}  {path}{how}\n", mark(file.what)));
        }
    }
    if files.is_empty() {
        out.push_str("\nno file is different\n");
    }
    env.print(&out);
    Ok(())
}

/// Gives what two configs say differently, by key. How the images came to be is left out: history,
/// layers, times.
fn config_differences(before: &ImageConfig, after: &ImageConfig) -> Vec<(String, Value, Value)> {
    let mut out = Vec::new();
    let mut compare = |prefix: &str, old: &Value, new: &Value, skip: &[&str]| {
        let keys: std::collections::BTreeSet<&String> = [old, new]
            .iter()
            .filter_map(|value| value.as_object())
            .flat_map(|map| map.keys())
            .collect();
        for key in keys {
            let get = |value: &Value| value.get(key).cloned().unwrap_or_default();
            let (old, new) = (get(old), get(new));
            if old != new && !skip.contains(&key.as_str()) {
                out.push((format!("{prefix}{key}"), old, new));
            }
        }
    };
    let (old, new) = (json!(before), json!(after));
    compare("", &old, &new, &["history", "rootfs", "created", "config"]);
    compare("config.", &json!(before.config), &json!(after.config), &[]);
    out
}

/// Says that `--layers` and a template do not go together.
pub fn refuse_template() -> Report {
    Report::usage("--layers prints a list, or json with --format json; a template is for the image")
        .with_hint("leave --layers out, or give --format json")
}
