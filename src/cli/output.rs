//! `-o`, `--annotation`: what is made of a result, checked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::build::image::{Annotation, Level};
use crate::layer::compress::Compression;
use crate::oci::{Platform, Reference};

use super::options::{self, boolean, fields};
use super::report::{Exit, Report, Result};

/// One `-o`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// What is written.
    pub kind: OutputKind,
    /// Where; `-` is standard output; empty for images that go by names.
    pub dest: PathBuf,
    /// Compression of layers.
    pub compression: Compression,
    /// `force-compression=`: of layers of the base too.
    pub force_compression: bool,
    /// `name=`: the names in the layout or archive, or in registries; None: those of `-t`.
    pub names: Option<Vec<Reference>>,
    /// `oci-mediatypes=false`.
    pub docker_types: bool,
    /// `annotation….KEY=VALUE`.
    pub annotations: Vec<Annotation>,
    /// `rewrite-timestamp=`.
    pub rewrite_timestamp: Option<bool>,
}

/// `type=` of an output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// OCI layout directory.
    OciDir,
    /// OCI archive.
    OciArchive,
    /// Docker archive.
    DockerArchive,
    /// Files.
    Local,
    /// Files in a tar.
    Tar,
    /// Names in the store.
    Store,
    /// Registries.
    Registry {
        /// Without a tag.
        by_digest: bool,
    },
}

impl OutputKind {
    /// Says whether it is made of blobs (and not of files).
    pub fn has_blobs(self) -> bool {
        !matches!(self, OutputKind::Local | OutputKind::Tar)
    }

    /// Says whether it goes by names and not to a path.
    pub fn is_named(self) -> bool {
        matches!(self, OutputKind::Store | OutputKind::Registry { .. })
    }
}

/// Keys of outputs that are images.
const IMAGE_KEYS: [&str; 9] = [
    "type",
    "name",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "rewrite-timestamp",
    "annotation.KEY",
    "annotation-index.KEY",
];

/// Gives the keys of a type.
fn keys(kind: &str) -> Vec<&'static str> {
    let more: &[&str] = match kind {
        "image" | "registry" => &["push", "push-by-digest", "store", "unpack"],
        "local" | "tar" => return vec!["type", "dest", "platform-split"],
        _ => &["dest", "tar"],
    };
    IMAGE_KEYS.iter().chain(more).copied().collect()
}

/// Reads an `-o`.
pub fn output(text: &str) -> Result<Output> {
    let plain = !text.contains('=');
    let fields = if plain {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        vec![pair("type", "oci"), pair("dest", text), pair("tar", "false")]
    } else {
        fields(text)
    };
    let kind = fields.iter().rev().find(|(key, _)| key == "type").map(|(_, value)| value.as_str());
    let kind = kind.ok_or_else(|| {
        Report::usage(format!("-o {text}: type= is missing"))
            .with_hint("as in -o type=oci,dest=app.tar")
    })?;
    let types = ["oci", "docker", "local", "tar", "image", "registry"];
    if !types.contains(&kind) {
        let report = Report::usage(format!("-o {text}: there is no output type {kind:?}"));
        return Err(match crate::dockerfile::suggest(kind, types, true) {
            Some(name) => report.with_hint(format!("did you mean type={name}?")),
            None => report.with_hint("types are oci, docker, local, tar, image and registry"),
        });
    }
    let known = keys(kind);
    let mut dest = None;
    let (mut tar, mut push, mut by_digest) = (None, kind == "registry", false);
    let (mut compression, mut level, mut force_compression) = ("gzip".to_owned(), None, false);
    let (mut names, mut docker_types, mut rewrite_timestamp) = (None, false, None);
    let (mut annotations, mut stored) = (Vec::new(), true);
    for (key, value) in fields.iter().cloned() {
        let flag = || boolean(&format!("-o {key}"), &value);
        let refuse = |hint: &str| {
            Err(Report::usage(format!("-o {key}={value} is not supported")).with_hint(hint))
        };
        if key.starts_with("annotation") && kind != "local" && kind != "tar" {
            annotations.push(annotation_key(text, &key, value)?);
            continue;
        }
        match key.as_str() {
            "dangling-name-prefix" | "name-canonical" => {
                return refuse("leave it out: every image has its digest as a name");
            }
            "registry.insecure" => {
                if flag()? {
                    return refuse("name the registry: --insecure-registry HOST[:PORT]");
                }
                continue;
            }
            "mode" if matches!(kind, "local") => {
                return refuse("leave it out: files are added to what the directory has");
            }
            "output" if known.contains(&"dest") => {
                dest = Some(PathBuf::from(value));
                continue;
            }
            _ if !known.contains(&key.as_str()) => {
                let report =
                    Report::usage(format!("-o {text}: there is no option {key:?} for type={kind}"));
                return Err(match crate::dockerfile::suggest(&key, known.iter().copied(), true) {
                    Some(name) => report.with_hint(format!("did you mean {name}=?")),
                    None => report.with_hint(format!("options are {}", known.join(", "))),
                });
            }
            _ => {}
        }
        match key.as_str() {
            "dest" => dest = Some(PathBuf::from(value)),
            "tar" => tar = Some(flag()?),
            "compression" => compression = value,
            "compression-level" => {
                level = Some(value.parse::<u32>().map_err(|_| {
                    Report::usage(format!("-o compression-level={value} is not a number"))
                })?);
            }
            "force-compression" => force_compression = flag()?,
            "name" => {
                let list: Vec<String> =
                    value.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
                names.get_or_insert_with(Vec::new).extend(list);
            }
            "oci-mediatypes" => docker_types = !flag()?,
            "rewrite-timestamp" => rewrite_timestamp = Some(flag()?),
            "push" => push = flag()?,
            "push-by-digest" => by_digest = flag()?,
            "platform-split" if !flag()? => {
                return refuse("leave it out, or build one platform at a time");
            }
            "unpack" if flag()? => {
                return refuse("leave it out: layers are unpacked when a step needs them");
            }
            "store" => stored = flag()?,
            _ => {}
        }
    }
    if !stored && !push {
        return Err(Report::usage(format!(
            "-o {text}: without a store and a registry nothing is made"
        ))
        .with_hint("leave store=false out, or add push=true"));
    }
    if by_digest && !push {
        return Err(Report::usage(format!("-o {text}: push-by-digest=true needs push=true")));
    }
    let kind = match (kind, tar) {
        ("oci", Some(false)) => OutputKind::OciDir,
        ("oci", _) => OutputKind::OciArchive,
        ("docker", Some(false)) => {
            return Err(Report::usage("-o type=docker,tar=false is not supported")
                .with_hint("use type=oci,tar=false for a directory"));
        }
        ("docker", _) => OutputKind::DockerArchive,
        ("local", _) => OutputKind::Local,
        ("tar", _) => OutputKind::Tar,
        _ if push => OutputKind::Registry { by_digest },
        _ => OutputKind::Store,
    };
    let dest = match dest.filter(|dest| !dest.as_os_str().is_empty()) {
        Some(dest) => dest,
        None if kind.is_named() => PathBuf::new(),
        None => {
            let report = Report::usage(format!("-o {text}: dest= is missing"))
                .with_hint("as in -o type=oci,dest=app.tar; dest=- is standard output");
            return Err(match kind {
                OutputKind::DockerArchive => {
                    report.with_hint("--load gives it to Docker or Podman")
                }
                _ => report,
            });
        }
    };
    if dest.as_os_str() == "-" && matches!(kind, OutputKind::OciDir | OutputKind::Local) {
        return Err(Report::usage(format!("-o {text}: a directory can't go to standard output")));
    }
    if docker_types && matches!(kind, OutputKind::OciDir | OutputKind::OciArchive) {
        return Err(Report::usage(format!("-o {text}: an OCI layout holds OCI media types"))
            .with_hint("use type=docker or type=registry for Docker's"));
    }
    if docker_types && matches!(compression.as_str(), "zstd" | "estargz") {
        let what = format!("-o {text}: Docker's media types have no {compression}");
        return Err(Report::usage(what)
            .with_hint("leave oci-mediatypes=false out, or use compression=gzip"));
    }
    if docker_types && !annotations.is_empty() {
        return Err(Report::usage(format!("-o {text}: Docker's media types have no annotations"))
            .with_hint("leave oci-mediatypes=false out"));
    }
    let names = match names {
        Some(list) => Some(options::tags(&list)?),
        None => None,
    };
    Ok(Output {
        kind,
        dest,
        compression: options::compression("-o", &compression, level)?,
        force_compression,
        names,
        docker_types,
        annotations,
        rewrite_timestamp,
    })
}

/// Reads `annotation.KEY`, `annotation-LEVEL.KEY`, `annotation[PLATFORM].KEY` of an `-o`.
fn annotation_key(text: &str, key: &str, value: String) -> Result<Annotation> {
    let bad = || {
        Report::usage(format!("-o {text}: {key:?} is no annotation"))
            .with_hint("as in annotation.KEY=VALUE or annotation-index.KEY=VALUE")
    };
    let rest = key.strip_prefix("annotation").ok_or_else(bad)?;
    // A platform in brackets may have dots in it, as a level has not.
    let end = match rest.find(']') {
        Some(bracket) if rest[..bracket].contains('[') => bracket + 1,
        _ => 0,
    };
    let dot = end + rest[end..].find('.').ok_or_else(bad)?;
    let (level, name) = (&rest[..dot], &rest[dot + 1..]);
    let level = if level.is_empty() || level.starts_with('[') {
        format!("manifest{level}")
    } else {
        level.strip_prefix('-').ok_or_else(bad)?.to_owned()
    };
    if name.is_empty() {
        return Err(bad());
    }
    let (level, platform) = self::level(&level).ok_or_else(bad)?;
    Ok(Annotation { level, platform, key: name.to_owned(), value })
}

fn level(text: &str) -> Option<(Level, Option<Platform>)> {
    let (name, platform) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((name, platform)) => (name, Some(platform.parse::<Platform>().ok()?)),
        None => (text, None),
    };
    let level = match name {
        "manifest" => Level::Manifest,
        "manifest-descriptor" => Level::ManifestDescriptor,
        "index" => Level::Index,
        "index-descriptor" => Level::IndexDescriptor,
        _ => return None,
    };
    Some((level, platform))
}

/// Reads the `--annotation`s: `[LEVEL[PLATFORM][,…]:]KEY=VALUE`.
pub fn annotations(list: &[String]) -> Result<Vec<Annotation>> {
    let mut out = Vec::new();
    for text in list {
        let hint =
            "as in KEY=VALUE, index:KEY=VALUE, manifest[linux/arm64],index-descriptor:KEY=VALUE";
        let (key, value) =
            text.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
                Report::usage(format!("--annotation {text}: expected KEY=VALUE")).with_hint(hint)
            })?;
        let (levels, key) = match key.split_once(':') {
            // A key may have colons in it, where what is before the first one is no list of levels.
            Some((levels, key)) if levels.split(',').all(looks_like_level) => (levels, key),
            _ => ("manifest", key),
        };
        if key.is_empty() {
            return Err(
                Report::usage(format!("--annotation {text}: the key is missing")).with_hint(hint)
            );
        }
        for name in levels.split(',') {
            let (level, platform) = level(name).ok_or_else(|| {
                let known = ["manifest", "manifest-descriptor", "index", "index-descriptor"];
                let report = Report::usage(format!("--annotation {text}: {name:?} is no level"));
                match crate::dockerfile::suggest(name, known, true) {
                    Some(name) => report.with_hint(format!("did you mean {name}:?")),
                    None => report.with_hint(hint),
                }
            })?;
            let (key, value) = (key.to_owned(), value.to_owned());
            out.push(Annotation { level, platform, key, value });
        }
    }
    Ok(out)
}

/// Says whether somebody meant a level: `index`, `manifest[linux/arm64]`, and what is nearly one.
fn looks_like_level(text: &str) -> bool {
    let name = text.split('[').next().unwrap_or_default();
    name.starts_with("manifest")
        || name.starts_with("index")
        || crate::dockerfile::suggest(name, ["manifest", "index"], true).is_some()
}

/// What several outputs have to agree on, and what needs more than their own text to be checked.
pub fn check(
    outputs: &[Output],
    annotations: &[Annotation],
    platforms: &[Platform],
    tags: &[Reference],
    epoch: Option<i64>,
) -> Result<()> {
    let several = platforms.len() > 1;
    for output in outputs {
        if output.kind == OutputKind::DockerArchive && several {
            return Err(Report::usage("-o type=docker holds one platform, and several are built")
                .with_hint("use type=oci, or build one platform at a time"));
        }
        match (output.rewrite_timestamp, epoch) {
            (Some(true), None) => {
                return Err(Report::usage("-o rewrite-timestamp=true needs SOURCE_DATE_EPOCH")
                    .with_hint("as in SOURCE_DATE_EPOCH=$(git log -1 --pretty=%ct)"));
            }
            (Some(false), Some(_)) => {
                return Err(Report::usage(
                    "-o rewrite-timestamp=false is not supported with SOURCE_DATE_EPOCH",
                )
                .with_hint(
                    "leave one of them out: with SOURCE_DATE_EPOCH, no time in a layer is later",
                ));
            }
            _ => {}
        }
        if output.kind.is_named() {
            let names = output.names.as_deref().unwrap_or(tags);
            if names.is_empty() {
                return Err(Report::usage("an output of type image or registry needs a name")
                    .with_hint("add name=REGISTRY/NAME:TAG to it, or -t NAME"));
            }
        }
        if matches!(output.kind, OutputKind::Registry { .. }) {
            let nowhere = |annotation: &&Annotation| match annotation.level {
                Level::IndexDescriptor => true,
                Level::ManifestDescriptor => !several,
                _ => false,
            };
            if let Some(annotation) = output.annotations.iter().find(nowhere) {
                return Err(Report::usage(format!(
                    "a registry has no descriptor for the annotation {}",
                    annotation.key
                ))
                .with_hint("annotate the manifest or the index itself"));
            }
        }
    }
    let all = annotations.iter().chain(outputs.iter().flat_map(|output| &output.annotations));
    for annotation in all {
        let of_index = matches!(annotation.level, Level::Index | Level::IndexDescriptor);
        if of_index && !several {
            return Err(Report::usage(format!(
                "there is no index for the annotation {}: one platform is built",
                annotation.key
            ))
            .with_hint("annotate the manifest: manifest:KEY=VALUE"));
        }
        let Some(platform) = &annotation.platform else { continue };
        if of_index {
            return Err(Report::usage(format!(
                "the annotation {} of an index can't be of a platform",
                annotation.key
            )));
        }
        if !platforms.contains(platform) {
            let there: Vec<String> = platforms.iter().map(ToString::to_string).collect();
            return Err(Report::new(
                Exit::Usage,
                format!("the annotation {} is for {platform}, which is not built", annotation.key),
            )
            .with_hint(format!("built are {}", there.join(", "))));
        }
    }
    let mut seen = BTreeMap::new();
    for output in outputs.iter().filter(|output| !output.kind.is_named()) {
        if seen.insert(&output.dest, ()).is_some() {
            return Err(Report::usage("two outputs (-o) have the same destination"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read_as_buildx_does() {
        let gzip = Compression::GZIP;
        for (text, kind, dest) in [
            ("out", OutputKind::OciDir, "out"),
            ("type=oci,dest=out.tar", OutputKind::OciArchive, "out.tar"),
            ("type=oci,dest=out,tar=false", OutputKind::OciDir, "out"),
            ("type=docker,dest=-", OutputKind::DockerArchive, "-"),
            ("type=local,dest=root", OutputKind::Local, "root"),
            ("type=tar,\"dest=a,b.tar\"", OutputKind::Tar, "a,b.tar"),
            ("type=image,name=app", OutputKind::Store, ""),
            (
                "type=image,name=app,store=false,push=true",
                OutputKind::Registry { by_digest: false },
                "",
            ),
            (
                "type=registry,\"name=a,b\",push-by-digest=true",
                OutputKind::Registry { by_digest: true },
                "",
            ),
        ] {
            let found = output(text).expect(text);
            assert_eq!((found.kind, found.dest), (kind, PathBuf::from(dest)), "{text}");
            assert_eq!(found.compression, gzip);
        }
        let names = output("type=registry,\"name=a,b:2\"").expect("fine").names;
        let names: Vec<String> =
            names.unwrap_or_default().iter().map(Reference::familiar).collect();
        assert_eq!(names, ["a:latest", "b:2"]);
    }

    #[test]
    fn bad_outputs_say_what_to_do() {
        for (text, message) in [
            ("type=oic,dest=x", "there is no output type"),
            ("type=oci", "dest= is missing"),
            ("dest=x", "type= is missing"),
            ("type=local,dest=-", "can't go to standard output"),
            ("type=oci,dest=x,compression=lz4", "there is no such compression"),
            ("type=oci,dest=x,compression-level=99", "gzip has 0 to 9"),
            ("type=oci,dest=x,oci-mediatypes=false", "an OCI layout holds OCI media types"),
            ("type=registry,name=a,oci-mediatypes=false,compression=zstd", "have no zstd"),
            ("type=registry,name=a,oci-mediatypes=false,compression=estargz", "have no estargz"),
            ("type=registry,name=a,oci-mediatypes=false,annotation.a=b", "have no annotations"),
            ("type=oci,dset=x", "there is no option"),
            ("type=local,dest=x,compression=gzip", "there is no option"),
            ("type=registry,name=a,registry.insecure=true", "is not supported"),
            ("type=image,name=a,push-by-digest=true", "needs push=true"),
            ("type=image,name=a,store=false", "nothing is made"),
            ("type=oci,dest=x,annotation-foo.a=b", "is no annotation"),
        ] {
            let report = output(text).expect_err(text);
            assert!(report.message.contains(message), "{text}: {}", report.message);
        }
    }

    #[test]
    fn annotations_have_levels_and_platforms() {
        let arm: Platform = "linux/arm64".parse().expect("a platform");
        let read = |text: &str| annotations(&[text.to_owned()]).expect(text);
        let plain = |level, platform: Option<&Platform>, key: &str, value: &str| Annotation {
            level,
            platform: platform.cloned(),
            key: key.to_owned(),
            value: value.to_owned(),
        };
        assert_eq!(read("a.b=c=d"), [plain(Level::Manifest, None, "a.b", "c=d")]);
        assert_eq!(read("x:y=z"), [plain(Level::Manifest, None, "x:y", "z")]);
        assert_eq!(
            read("index,manifest[linux/arm64]:k="),
            [plain(Level::Index, None, "k", ""), plain(Level::Manifest, Some(&arm), "k", "")]
        );
        for bad in ["a", "=b", "idnex:a=b", "manifest[nowhere/at/all/x]:a=b", "index:=b"] {
            assert!(annotations(&[bad.to_owned()]).is_err(), "{bad}");
        }
        let of = |text: &str| output(&format!("type=oci,dest=x,{text}")).expect(text).annotations;
        assert_eq!(of("annotation.a.b=c"), [plain(Level::Manifest, None, "a.b", "c")]);
        assert_eq!(
            of("annotation-index-descriptor.a=c"),
            [plain(Level::IndexDescriptor, None, "a", "c")]
        );
        assert_eq!(
            of("annotation[linux/arm64].a=c"),
            [plain(Level::Manifest, Some(&arm), "a", "c")]
        );
        assert_eq!(
            of("annotation-manifest-descriptor[linux/arm64].a.b=c"),
            [plain(Level::ManifestDescriptor, Some(&arm), "a.b", "c")]
        );
    }
}
