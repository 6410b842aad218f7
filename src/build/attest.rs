//! Attestations of a build's images: the facts out of the graph and the layers, and the manifests in
//! the store.
//!
//! What a statement looks like is in [`crate::attest`]. Files of the image are read through its
//! layers, so neither a privilege nor a namespace is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use serde_json::{Value, json};

use crate::attest::package::{self, Source};
use crate::attest::provenance::{self, Dependency, Facts, Step, Wish};
use crate::attest::{Attach, Attached, Scrubber, Statement, Wanted, purl, sbom};
use crate::dockerfile::LineIndex;
use crate::graph::{self, BaseImage, Graph, MountKind, Network, NodeId, Op, Output, Remote};
use crate::layer::RootPath;
use crate::layer::toc::KindRef;
use crate::oci::{Descriptor, Document, Index, Platform, Reference, media_type};
use crate::remote::Origin;
use crate::store::Store;
use crate::transport::ImageName;

use super::conductor::Conductor;
use super::error::{Failure, Kind};
use super::files::Files;
use super::image::{Image, Product};
use super::layers::BlobForm;

/// What the command line knows of a build, and the graph does not.
pub struct Told<'a> {
    /// The build context, where it was fetched.
    pub context: Option<&'a Remote>,
    /// The Dockerfile's path in its context, or its URL.
    pub path: String,
    /// The Dockerfile lies on this machine.
    pub local_dockerfile: bool,
    /// `target`, `build-arg:…` and so on, by BuildKit's names.
    pub args: BTreeMap<String, String>,
    /// The Dockerfile.
    pub dockerfile: &'a str,
    /// The numbers of the parts of the graph that were planned from this Dockerfile.
    pub parts: BTreeSet<usize>,
    /// The names that local contexts have in the graph → those that they have in the build; None
    /// where they are the same.
    pub contexts: Option<BTreeMap<String, String>>,
    /// Names that the image gets.
    pub names: Vec<Reference>,
}

impl Told<'_> {
    /// Names a local context. In a graph of several builds its name tells where it lies on this machine.
    fn context(&self, name: &str) -> String {
        let own = match &self.contexts {
            None => name,
            Some(names) => names.get(name).map_or("", String::as_str),
        };
        if own.is_empty() { "context".to_owned() } else { own.to_owned() }
    }
}

/// Makes the attestations of all images, and puts them into the store. `outputs` are those of the
/// graph that became `images`.
pub fn make(
    conductor: &Conductor<'_>,
    wanted: &Wanted,
    told: &Told<'_>,
    images: &[Image],
    outputs: &[Output],
    form: BlobForm,
) -> Result<Vec<Attached>, Failure> {
    let build = conductor.build;
    let all = std::iter::once(&build.options).chain(&build.parts);
    let secrets = all.flat_map(|options| options.secrets.values().map(Vec::as_slice));
    let scrubber = Scrubber::new(secrets);
    let mut out = Vec::new();
    for (image, output) in images.iter().zip(outputs) {
        let platform = image.descriptor.platform.as_ref().unwrap_or(&image.platform);
        let digest = &image.descriptor.digest;
        let (started, finished) = times(image, output, conductor.build.store);
        let mut statements = Vec::new();
        let mut state = |kind: &'static str, predicate: &Value| {
            statements.push(Statement::new(kind, &told.names, platform, digest, predicate));
        };
        if let Some(options) = &wanted.provenance {
            let mut facts = facts(conductor, told, output, form)?;
            (facts.started, facts.finished) = (started, Some(finished.clone()));
            state(provenance::PREDICATE, &provenance::predicate(&facts, options, &scrubber));
        }
        if wanted.sbom {
            let contents = contents(conductor, output)?;
            let name = match told.names.first() {
                Some(name) => name.familiar(),
                None => "image".to_owned(),
            };
            let mut document = sbom::document(&contents, &name, digest, &finished);
            scrubber.document(&mut document);
            state(sbom::PREDICATE, &document);
        }
        let attached = Attached::new(wanted.attach, &image.descriptor, &statements);
        let blobs = conductor.build.store.blobs();
        for bytes in attached.blobs.iter().chain([&attached.manifest]) {
            blobs.put(bytes).map_err(|error| {
                Failure::of(Kind::Store, "cannot write the attestations", &error)
            })?;
        }
        out.push(attached);
    }
    Ok(out)
}

/// Puts attestations into the index of a product, which becomes one if it is a single image.
pub fn attach(
    store: &Store,
    product: Product,
    attach: Attach,
    attached: &[Attached],
) -> Result<Product, Failure> {
    if attach == Attach::Referrers || attached.is_empty() {
        return Ok(product);
    }
    let mut index = match Document::parse(&product.bytes, &product.root.media_type) {
        Ok(Document::Index(index)) => index,
        _ => Index::new(product.images.iter().map(|image| image.descriptor.clone()).collect()),
    };
    index.manifests.extend(attached.iter().map(|one| one.descriptor.clone()));
    let (mut root, bytes) = index.encode();
    root.annotations = product.root.annotations;
    store
        .blobs()
        .put(&bytes)
        .map_err(|error| Failure::of(Kind::Store, "cannot write the index", &error))?;
    Ok(Product { root, bytes, images: product.images })
}

/// When the first and the last own step of an image ran. Without a step of its own, the second is
/// the image's time. To the second, which is what SPDX allows.
fn times(image: &Image, output: &Output, store: &Store) -> (Option<String>, String) {
    let seconds = |text: &str| text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second);
    let text = |seconds: i64| {
        jiff::Timestamp::from_second(seconds)
            .map_or_else(|_| "1970-01-01T00:00:00Z".to_owned(), |time| time.to_string())
    };
    // It was just written; a base's history may lack entries, so its length is not that of the plan.
    let config = store.blobs().read(&image.config, crate::oci::config::MAX_SIZE).ok();
    let config = config.and_then(|bytes| crate::oci::ImageConfig::parse(&bytes).ok());
    let Some(config) = config else { return (None, text(0)) };
    let own = output.config.history.len() - output.base_history.min(output.config.history.len());
    let skip = config.history.len().saturating_sub(own);
    let ran = config.history.iter().skip(skip).filter(|entry| !entry.empty_layer);
    let all: BTreeSet<i64> =
        ran.filter_map(|entry| entry.created.as_deref().and_then(seconds)).collect();
    let whole = config.created.as_deref().and_then(seconds).unwrap_or(0);
    (all.first().map(|first| text(*first)), text(all.last().copied().unwrap_or(whole)))
}

/// Gives the nodes that an output is made of, in the order of the graph.
fn reached(graph: &Graph, output: &Output) -> Vec<NodeId> {
    let mut seen = BTreeSet::new();
    let mut todo: Vec<NodeId> = output.node.into_iter().collect();
    while let Some(id) = todo.pop() {
        if seen.insert(id) {
            todo.extend(graph.nodes[id].parent);
            todo.extend(&graph.nodes[id].inputs);
        }
    }
    seen.into_iter().collect()
}

fn facts(
    conductor: &Conductor<'_>,
    told: &Told<'_>,
    output: &Output,
    form: BlobForm,
) -> Result<Facts, Failure> {
    let (graph, build) = (conductor.graph, conductor.build);
    let nodes = reached(graph, output);
    let number: BTreeMap<NodeId, usize> =
        nodes.iter().enumerate().map(|(number, id)| (*id, number)).collect();
    let lines = LineIndex::new(told.dockerfile);
    let mut facts = Facts {
        context: told.context.and_then(|remote| dependency(conductor, remote)),
        path: told.path.clone(),
        args: told.args.clone(),
        builder_platform: build.options.host.to_string(),
        hermetic: true,
        dockerfile: told.dockerfile.to_owned(),
        ..Facts::default()
    };
    let mut locals: BTreeSet<String> = BTreeSet::new();
    let (mut secrets, mut ssh) = (BTreeSet::new(), BTreeSet::new());
    for &id in &nodes {
        let node = &graph.nodes[id];
        match &node.op {
            Op::Image { image } => facts.dependencies.push(base(&graph.images[*image])),
            Op::Remote(remote) => facts.dependencies.extend(dependency(conductor, remote)),
            Op::Local { context } => match build.lazy_contexts.get(context) {
                Some(
                    Origin::Source(remote) | Origin::Context(remote) | Origin::Directory(remote, _),
                ) => {
                    facts.dependencies.extend(dependency(conductor, remote));
                }
                _ if context.is_empty() && told.context.is_some() => {}
                _ => {
                    locals.insert(told.context(context));
                }
            },
            Op::Run(run) => {
                facts.hermetic &= run.network == Network::None;
                for mount in &run.mounts {
                    match &mount.kind {
                        MountKind::Secret { id, required, .. } => {
                            secrets.insert(Wish { id: id.clone(), optional: !required });
                        }
                        MountKind::Ssh { id, required, .. } => {
                            ssh.insert(Wish { id: id.clone(), optional: !required });
                        }
                        _ => {}
                    }
                }
            }
            Op::Copy(_) | Op::Workdir { .. } => {}
        }
        let inputs = node.parent.iter().chain(&node.inputs);
        facts.steps.push(Step {
            op: operation(graph, id, told),
            inputs: inputs.filter_map(|input| number.get(input).copied()).collect(),
            lines: (!node.span.is_empty() && told.parts.contains(&node.part))
                .then(|| (lines.line(node.span.start), lines.line(node.span.end - 1))),
            layers: Vec::new(),
        });
    }
    if told.local_dockerfile {
        locals.insert("dockerfile".to_owned());
    }
    facts.locals = locals.into_iter().collect();
    facts.secrets = secrets.into_iter().collect();
    facts.ssh = ssh.into_iter().collect();
    let mut next = output.node;
    while let Some(id) = next {
        if let (Some(number), Some(outcome)) = (number.get(&id), conductor.outcome(Some(id))) {
            for layer in outcome.layers.iter() {
                let blob = conductor.layers.blob(layer, form)?;
                let media_type = media_type::to_oci(&blob.media_type).to_owned();
                facts.steps[*number].layers.push(Descriptor::new(
                    &media_type,
                    blob.digest,
                    blob.size,
                ));
            }
        }
        next = graph.nodes[id].parent;
    }
    Ok(facts)
}

/// Names what was fetched, by what was found there.
fn dependency(conductor: &Conductor<'_>, remote: &Remote) -> Option<Dependency> {
    let (algorithm, hex) = conductor.build.remotes.known(remote)?;
    Some(Dependency { uri: remote.shown(), algorithm, hex })
}

/// Names a base image. Of one in a file or directory only the last part of the path: the rest is
/// this machine's.
fn base(image: &BaseImage) -> Dependency {
    Dependency {
        uri: base_uri(&image.name, &image.platform),
        algorithm: "sha256",
        hex: image.digest.hex(),
    }
}

fn base_uri(name: &str, platform: &Platform) -> String {
    // Planning put the digest behind the name.
    let bare = name.rsplit_once("@sha256:").map_or(name, |(bare, _)| bare);
    match ImageName::parse(bare) {
        Ok(ImageName::Store(reference) | ImageName::Registry(reference)) => {
            purl::docker(&Reference { digest: None, ..reference }, platform)
        }
        _ => {
            let (last, tag) = local_name(bare);
            let platform = platform.to_string();
            purl::purl("oci", "", &last, "", &[("tag", &tag), ("platform", &platform)])
        }
    }
}

/// Names an image of a file or directory without telling where that lies; gives its tag too.
fn local_name(name: &str) -> (String, String) {
    match ImageName::parse(name) {
        Ok(
            ImageName::Layout { path, selector }
            | ImageName::OciArchive { path, selector }
            | ImageName::DockerArchive { path, selector },
        ) => {
            let last = path.file_name().map(|last| last.to_string_lossy().into_owned());
            (last.unwrap_or_default(), selector.name.unwrap_or_default())
        }
        _ => (
            name.trim_end_matches('/').rsplit('/').next().unwrap_or(name).to_owned(),
            String::new(),
        ),
    }
}

/// Shows an operation in the shape of BuildKit's `pb.Op`.
fn operation(graph: &Graph, id: NodeId, told: &Told<'_>) -> Value {
    let node = &graph.nodes[id];
    let platform = json!({ "OS": node.platform.os, "Architecture": node.platform.architecture });
    let source = |identifier: String| json!({ "source": { "identifier": identifier } });
    let op = match &node.op {
        Op::Image { image } => {
            let image = &graph.images[*image];
            source(match ImageName::parse(&image.name) {
                Ok(ImageName::Store(_) | ImageName::Registry(_)) => {
                    format!("docker-image://{}", image.name.trim_start_matches("docker://"))
                }
                _ => {
                    let bare = image.name.rsplit_once("@sha256:").map_or("", |(bare, _)| bare);
                    // With a slash, so that the name is not taken for the user of a URL.
                    format!("oci-layout://local/{}@{}", local_name(bare).0, image.digest)
                }
            })
        }
        Op::Local { context } => source(format!("local://{}", told.context(context))),
        Op::Remote(remote) => source(remote.shown()),
        Op::Run(run) => exec(run),
        Op::Copy(copy) => file(node.parent.is_some(), copy),
        Op::Workdir { path, .. } => {
            let mkdir = json!({ "path": path, "mode": 0o755, "makeParents": true });
            json!({ "file": { "actions": [{ "Action": { "mkdir": mkdir } }] } })
        }
    };
    json!({ "Op": op, "platform": platform })
}

fn exec(run: &graph::Run) -> Value {
    let clean = Scrubber::default();
    let env: Vec<String> = run
        .env
        .iter()
        .map(|(name, value)| format!("{name}={}", clean.value(name, value)))
        .collect();
    let mut meta = json!({ "args": run.args, "env": env, "cwd": run.cwd });
    if !run.user.is_empty() {
        meta["user"] = json!(run.user);
    }
    let mut mounts = vec![json!({ "input": 0, "dest": "/" })];
    mounts.extend(run.mounts.iter().map(|mount| {
        let mut out = json!({ "dest": mount.target });
        match &mount.kind {
            MountKind::Bind { source, writable, .. } => {
                out["selector"] = json!(source);
                out["readonly"] = json!(!writable);
            }
            MountKind::Cache { id, .. } => {
                out["mountType"] = json!("CACHE");
                out["cacheOpt"] = json!({ "ID": id });
            }
            MountKind::Tmpfs { .. } => out["mountType"] = json!("TMPFS"),
            MountKind::Secret { id, required, .. } => {
                out["mountType"] = json!("SECRET");
                out["secretOpt"] = json!({ "ID": id, "optional": !required });
            }
            MountKind::Ssh { id, required, .. } => {
                out["mountType"] = json!("SSH");
                out["SSHOpt"] = json!({ "ID": id, "optional": !required });
            }
        }
        out
    }));
    let mut out = json!({ "meta": meta, "mounts": mounts });
    match run.network {
        Network::Default => {}
        Network::Host => out["network"] = json!("HOST"),
        Network::None => out["network"] = json!("NONE"),
    }
    if run.insecure {
        out["security"] = json!("INSECURE");
    }
    json!({ "exec": out })
}

fn file(has_parent: bool, copy: &graph::Copy) -> Value {
    let mut actions: Vec<Value> = Vec::new();
    for (index, source) in copy.sources.iter().enumerate() {
        let mut one = json!({ "src": source, "dest": copy.dest, "allowWildcard": true });
        if let Some(owner) = &copy.chown {
            one["owner"] = json!(owner);
        }
        if let Some(mode) = &copy.chmod {
            one["modeStr"] = json!(mode);
        }
        let input = usize::from(has_parent) + copy.origin(index);
        actions.push(json!({ "secondaryInput": input, "Action": { "copy": one } }));
    }
    for inline in &copy.inline {
        let path = if copy.dest.ends_with('/') {
            format!("{}{}", copy.dest, inline.name)
        } else {
            copy.dest.clone()
        };
        // Base64 hides secrets from whoever cleans the document, so only the digest is told.
        let digest = crate::oci::Digest::of(inline.data.as_bytes()).to_string();
        let one = json!({ "path": path, "digest": digest });
        actions.push(json!({ "Action": { "mkfile": one } }));
    }
    json!({ "file": { "actions": actions } })
}

/// Finds the packages of an image.
fn contents(conductor: &Conductor<'_>, output: &Output) -> Result<sbom::Contents, Failure> {
    let mut contents = sbom::Contents::default();
    let outcome = conductor
        .outcome(output.node)
        .ok_or_else(|| Failure::new(Kind::Store, "an SBOM was made before its image"))?;
    let tree = conductor.layers.tree(&outcome.layers)?;
    let mut files: Vec<(RootPath, String, Source)> = Vec::new();
    for found in tree.walk(&RootPath::root()) {
        let KindRef::File { size, .. } = found.target().entry.kind else { continue };
        let path = String::from_utf8_lossy(found.entry.path).into_owned();
        let mode = found.target().entry.mode;
        let Some(source) = package::classify(&path, mode, size) else { continue };
        if source == Source::Rpm && size > package::MAX_TEXT {
            contents.unread.push(path);
            continue;
        }
        // A program of many names is looked into once.
        let is_other_name = matches!(found.entry.kind, KindRef::Hardlink(_));
        if !(source == Source::Program && is_other_name) {
            files.push((found.entry.root_path(), path, source));
        }
    }
    let mut wanted = files.iter().map(|(path, ..)| path.clone());
    let chain = conductor.layers.chain(&outcome.layers, &tree, &mut wanted)?;
    let cannot = |path: &str, error: &std::io::Error| {
        Failure::of(Kind::Store, &format!("cannot read /{path} of the image"), error)
    };
    let open = |path: &RootPath, shown: &str, is_program: bool| -> Result<Vec<u8>, Failure> {
        conductor.build.check_cancelled()?;
        let mut file = chain.open(path).map_err(|error| cannot(shown, &error))?;
        let mut bytes = Vec::new();
        let limit = if is_program { package::MAX_PROGRAM } else { package::MAX_TEXT };
        let mut head = (&mut file).take(4);
        head.read_to_end(&mut bytes).map_err(|error| cannot(shown, &error))?;
        if is_program && bytes != b"\x7fELF" && !bytes.starts_with(b"MZ") {
            return Ok(Vec::new());
        }
        file.take(limit).read_to_end(&mut bytes).map_err(|error| cannot(shown, &error))?;
        Ok(bytes)
    };
    // First, since package URLs name the distribution. /etc comes first in the order of paths.
    if let Some((path, shown, _)) = files.iter().find(|(.., source)| *source == Source::OsRelease) {
        contents.os = package::os_release(&String::from_utf8_lossy(&open(path, shown, false)?));
    }
    for (path, shown, source) in &files {
        let bytes = open(path, shown, *source == Source::Program)?;
        match package::parse(*source, shown, &bytes, &contents.os) {
            Some(found) => contents.packages.extend(found),
            None => contents.unread.push(shown.clone()),
        }
    }
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_images_are_named_without_paths_of_this_machine() {
        let platform: Platform = "linux/arm64".parse().unwrap();
        let hex = "ab".repeat(32);
        for (name, want) in [
            ("docker.io/library/alpine:3", "pkg:docker/alpine@3?platform=linux%2Farm64"),
            ("oci-layout:///home/me/base:1", "pkg:oci/base?platform=linux%2Farm64&tag=1"),
            ("oci:base", "pkg:oci/base?platform=linux%2Farm64"),
        ] {
            let whole = format!("{name}@sha256:{hex}");
            let found = base_uri(&whole, &platform);
            assert_eq!(found, want, "{name}");
        }
    }
}
