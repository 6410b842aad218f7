//! `lapstrake inspect`: an image as a tree, as JSON, as a template asks for it, as its raw manifest,
//! or file by file.

mod view;

use serde_json::{Value, json};

use crate::oci::{Descriptor, Document, ImageConfig, Manifest, Platform};
use crate::transport::{self, ImageName, Source, filter::REFERENCE_DIGEST};
use crate::ui::text;

use super::args::InspectArgs;
use super::copy::{Place, choose, failed, parse_name};
use super::environment::Environment;
use super::report::{Exit, Report, Result};
use super::template::Template;
use super::{files, images, options};

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
    // A template that is wrong is told before anybody is asked.
    let template = match args.format.as_deref() {
        None | Some("json") => None,
        Some(text) if text.contains("{{") => Some((
            text,
            Template::parse(text)
                .map_err(|error| Report::of(Exit::Usage, &format!("--format {text}"), &error))?,
        )),
        Some(other) => {
            return Err(Report::usage(format!("--format {other}: expected json or a template"))
                .with_hint("as in --format '{{.Os}}/{{.Architecture}}'"));
        }
    };
    if args.layers && template.is_some() {
        return Err(files::refuse_template());
    }
    let name = parse_name(env, &args.image)?;
    let platforms = options::platforms(&args.platform, &Platform::host())?;
    let place = Place::open(env, &args.registry)?;
    if let ImageName::Store(_) = &name {
        // For the suggestion when there is none.
        images::find(&place.store, &args.image).map_err(|report| {
            match std::path::Path::new(&args.image).join("oci-layout").is_file() {
                true => Report::usage(format!("no image {:?} in the store", args.image))
                    .with_hint(format!("it is an OCI layout directory: oci:{}", args.image)),
                false => report,
            }
        })?;
    }
    let what = format!("cannot read {}", args.image);
    let failed = |error: transport::Error| failed(&what, &error);
    let source = place.source(&name, &args.image)?;
    // Attestations are in the index, which one platform alone has not.
    let attests = |text: &str| text.contains("Provenance") || text.contains("SBOM");
    let source = match template {
        Some((text, _)) if attests(text) => source,
        _ => choose(source, &platforms, &what)?,
    };
    let (root, bytes) = source.root().map_err(failed)?;
    if args.raw {
        env.print(&String::from_utf8_lossy(&bytes));
        return Ok(());
    }
    if args.layers {
        let platform = platforms.first();
        let json = args.format.is_some();
        return files::layers(env, source.as_ref(), &args.image, platform, json);
    }
    let shown = read(source.as_ref(), root, &bytes, 0);
    if let Some((text, template)) = template {
        let all = view::images(&shown);
        let chosen = one(&all, platforms.first(), &args.image)?;
        let data = view::view(&name, &args.image, &shown, chosen, source.as_ref(), text)
            .map_err(failed)?;
        let out = template
            .render(&data)
            .map_err(|error| Report::of(Exit::Usage, &format!("--format {text}"), &error))?;
        env.print(&format!("{out}\n"));
    } else if args.format.is_some() {
        env.print(&format!("{:#}\n", to_json(&shown)));
    } else {
        let mut out = format!("{}\n", args.image);
        draw(&shown, "", &mut out);
        env.print(&out);
    }
    Ok(())
}

/// Chooses the image that is meant: the one asked for, else this machine's, else the first.
fn one<'a, 'b>(
    all: &'b [view::Image<'a>],
    platform: Option<&Platform>,
    name: &str,
) -> Result<&'b view::Image<'a>> {
    let best = |wanted: &Platform| {
        let ranked = all.iter().filter_map(|image| Some((wanted.rank(&image.platform())?, image)));
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, image)| image)
    };
    if let Some(wanted) = platform {
        return best(wanted).ok_or_else(|| {
            let there = all.iter().map(|image| image.platform().format_all());
            let there = there.collect::<Vec<_>>().join(", ");
            Report::usage(format!(
                "{name} has no image for {} (there are {there})",
                wanted.format_all()
            ))
        });
    }
    best(&Platform::host()).or(all.first()).ok_or_else(|| {
        Report::usage(format!("{name} is no container image: a template has nothing to show"))
            .with_hint("--raw prints what it is")
    })
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
        ShownKind::Image(image) if descriptor.is_attestation() || !image.0.is_image() => {
            draw_artifact(descriptor, &image.0, indent, out);
        }
        ShownKind::Image(image) => {
            let (manifest, config) = &**image;
            let platform = descriptor
                .platform
                .clone()
                .or_else(|| config.as_ref().map(ImageConfig::platform))
                .map_or_else(|| "unknown platform".to_owned(), |platform| platform.format_all());
            let size: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
            out.push_str(&format!(
                "{indent}{platform}  {}  {} in {}\n",
                descriptor.digest,
                text::size(size),
                text::count(manifest.layers.len(), "layer")
            ));
            for (layer, by) in manifest.layers.iter().zip(instructions(manifest, config.as_ref())) {
                out.push_str(
                    format!(
                        "{indent}   sha256:{}  {:>9}  {}",
                        &layer.digest.hex()[..12],
                        text::size(layer.size),
                        text::fit(&by, 60)
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

/// Draws what is about an image, or is no image.
fn draw_artifact(descriptor: &Descriptor, manifest: &Manifest, indent: &str, out: &mut String) {
    let size: u64 = manifest.layers.iter().map(|layer| layer.size).sum();
    let (kind, about) = match descriptor.annotations.get(REFERENCE_DIGEST) {
        Some(about) => ("attestation", Some(about.clone())),
        None => {
            let about = manifest.subject.as_ref().map(|subject| subject.digest.to_string());
            (manifest.artifact_type.as_deref().unwrap_or(&manifest.config.media_type), about)
        }
    };
    let kind = text::printable(kind.as_bytes(), false);
    let short = |digest: &String| digest.get(..19).unwrap_or(digest).to_owned();
    let about = about.as_ref().map(|about| format!("  of {}", short(about))).unwrap_or_default();
    let about = text::printable(about.as_bytes(), false);
    out.push_str(&format!("{indent}{kind}  {}  {}{about}\n", descriptor.digest, text::size(size)));
    for layer in &manifest.layers {
        let said = predicate_type(layer).unwrap_or(&layer.media_type);
        let said = text::printable(said.as_bytes(), false);
        let (digest, size) = (&layer.digest.hex()[..12], text::size(layer.size));
        out.push_str(&format!("{indent}   sha256:{digest}  {size:>9}  {said}\n"));
    }
}

/// Says what an in-toto statement states, where the layer tells.
fn predicate_type(layer: &Descriptor) -> Option<&str> {
    layer.annotations.get("in-toto.io/predicate-type").map(String::as_str)
}

/// Gives the instruction that made each layer; empty where the history does not tell.
pub(super) fn instructions(manifest: &Manifest, config: Option<&ImageConfig>) -> Vec<String> {
    let told = config.map_or(0, ImageConfig::history_layers);
    let mut texts = config
        .iter()
        .flat_map(|config| config.history.iter().filter(|entry| !entry.empty_layer))
        .map(|entry| entry.created_by.clone().unwrap_or_default());
    let one = |_| {
        let text = if told == manifest.layers.len() { texts.next() } else { None };
        text::printable(text.unwrap_or_default().replace('\n', " ").as_bytes(), false)
    };
    manifest.layers.iter().map(one).collect()
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
