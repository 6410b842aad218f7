//! `lapstrake inspect`: an image as a tree, as JSON, or as its raw manifest.

use serde_json::{Value, json};

use crate::oci::{Descriptor, Document, ImageConfig, Manifest};
use crate::transport::{self, ImageName, Source};
use crate::ui::text;

use super::args::InspectArgs;
use super::environment::Environment;
use super::images;
use super::report::{Exit, Report, Result};

/// One node of what is shown.
struct Shown {
    descriptor: Descriptor,
    kind: ShownKind,
}

enum ShownKind {
    Index(Vec<Shown>),
    Image(Box<(Manifest, Option<ImageConfig>)>),
    Missing(String),
}

/// Runs the command.
pub fn run(args: &InspectArgs, env: &Environment) -> Result<()> {
    let store = env.open_store()?;
    let client = env.registry_client(&args.registry, false)?;
    let name = ImageName::parse(&args.image)
        .map_err(|error| Report::of(Exit::Usage, &args.image, &error))?
        .relative_to(&env.cwd);
    if let ImageName::Store(_) = &name {
        // For the suggestion when there is none.
        images::find(&store, &args.image)?;
    }
    let failed = |error: &transport::Error| {
        let exit = if error.is_usage() {
            Exit::Usage
        } else if error.is_damage() {
            Exit::Damaged
        } else {
            Exit::Network
        };
        let mut report = Report::of(exit, &format!("cannot read {}", args.image), error);
        report.hints.extend(error.hint());
        report
    };
    let source = transport::open_source(&name, &store, &client).map_err(|error| failed(&error))?;
    let (root, bytes) = source.root().map_err(|error| failed(&error))?;
    if args.raw {
        env.print(&String::from_utf8_lossy(&bytes));
        return Ok(());
    }
    let shown = read(source.as_ref(), root, &bytes, 0);
    if args.format.is_some() {
        env.print(&format!("{:#}\n", to_json(&shown)));
    } else {
        let mut out = format!("{}\n", args.image);
        draw(&shown, "", &mut out);
        env.print(&out);
    }
    Ok(())
}

fn read(source: &dyn Source, descriptor: Descriptor, bytes: &[u8], depth: usize) -> Shown {
    let kind = match Document::parse(bytes, &descriptor.media_type) {
        Ok(Document::Index(index)) if depth < crate::oci::manifest::MAX_DEPTH => {
            let children = index.manifests.into_iter().map(|child| match source.manifest(&child) {
                Ok(bytes) => read(source, child, &bytes, depth + 1),
                Err(error) => Shown {
                    kind: ShownKind::Missing(crate::build::error::chain(&error)),
                    descriptor: child,
                },
            });
            ShownKind::Index(children.collect())
        }
        Ok(Document::Index(_)) => ShownKind::Missing("nested too deeply".to_owned()),
        Ok(Document::Manifest(manifest)) => {
            let config = transport::read_small(source, &manifest.config)
                .ok()
                .and_then(|bytes| ImageConfig::parse(&bytes).ok());
            ShownKind::Image(Box::new((manifest, config)))
        }
        Err(error) => ShownKind::Missing(crate::build::error::chain(&error)),
    };
    Shown { descriptor, kind }
}

fn draw(shown: &Shown, indent: &str, out: &mut String) {
    let descriptor = &shown.descriptor;
    match &shown.kind {
        ShownKind::Index(children) => {
            out.push_str(&format!("{indent}index {}\n", descriptor.digest));
            for (number, child) in children.iter().enumerate() {
                let last = number + 1 == children.len();
                let (branch, trunk) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
                let mut text = String::new();
                draw(child, "", &mut text);
                for (line, piece) in text.lines().enumerate() {
                    let lead = if line == 0 { branch } else { trunk };
                    out.push_str(&format!("{indent}{lead}{piece}\n"));
                }
            }
        }
        ShownKind::Image(image) => {
            let (manifest, config) = &**image;
            let platform = descriptor
                .platform
                .clone()
                .or_else(|| config.as_ref().map(ImageConfig::platform))
                .map_or_else(|| "unknown platform".to_owned(), |platform| platform.to_string());
            let size: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
            out.push_str(&format!(
                "{indent}{platform}  {}  {} in {} layers\n",
                descriptor.digest,
                text::size(size),
                manifest.layers.len()
            ));
            let mut texts = config
                .iter()
                .flat_map(|config| config.history.iter().filter(|entry| !entry.empty_layer));
            let told = config.as_ref().map_or(0, ImageConfig::history_layers);
            for layer in &manifest.layers {
                let by = (told == manifest.layers.len())
                    .then(|| texts.next().and_then(|entry| entry.created_by.clone()))
                    .flatten()
                    .unwrap_or_default();
                let by = text::fit(&text::printable(by.replace('\n', " ").as_bytes(), false), 60);
                out.push_str(
                    format!(
                        "{indent}   sha256:{}  {:>9}  {by}",
                        &layer.digest.hex()[..12],
                        text::size(layer.size)
                    )
                    .trim_end(),
                );
                out.push('\n');
            }
        }
        ShownKind::Missing(why) => {
            let platform = descriptor.platform.as_ref().map(|platform| format!("{platform}  "));
            out.push_str(&format!(
                "{indent}{}{}  ({why})\n",
                platform.unwrap_or_default(),
                descriptor.digest
            ));
        }
    }
}

fn to_json(shown: &Shown) -> Value {
    let mut value = json!({ "descriptor": shown.descriptor });
    match &shown.kind {
        ShownKind::Index(children) => {
            value["manifests"] = children.iter().map(to_json).collect();
        }
        ShownKind::Image(image) => {
            value["manifest"] = json!(image.0);
            value["config"] = json!(image.1);
        }
        ShownKind::Missing(why) => value["missing"] = json!(why),
    }
    value
}
