//! `--provenance`, `--sbom`, `--attest` and `--attach` of a build.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::attest::{Attach, Attached, Mode, ProvenanceOptions, Wanted};
use crate::build::attest::{self, Told};
use crate::build::conductor::Conductor;
use crate::build::image::Product;
use crate::build::layers::BlobForm;
use crate::graph::{Request, args::is_proxy};
use crate::oci::Reference;
use crate::store::Store;
use crate::transport::{Sink, stored::StoreSink};

use super::args::{AttachArg, AttestArgs, BuildArgs};
use super::options;
use super::output::Output;
use super::report::{Exit, Report, Result};
use super::sources::{DockerfileSource, Main};

/// Reads the flags.
pub fn wanted(args: &AttestArgs) -> Result<Wanted> {
    let mut out = Wanted::default();
    for text in &args.attest {
        let mut fields = options::fields(text);
        let kind = fields.iter().position(|(key, _)| key == "type").map(|at| fields.remove(at).1);
        let flag = format!("--attest {text}");
        match kind.as_deref() {
            Some("provenance") => out.provenance = provenance(&flag, fields)?,
            Some("sbom") => out.sbom = sbom(&flag, fields)?,
            Some(other) => {
                return Err(Report::usage(format!("{flag}: there is no attestation {other:?}"))
                    .with_hint("types are provenance and sbom"));
            }
            None => {
                return Err(Report::usage(format!("{flag}: type= is missing"))
                    .with_hint("as in --attest type=provenance,mode=max"));
            }
        }
    }
    if let Some(value) = &args.provenance {
        let flag = format!("--provenance={value}");
        out.provenance = match boolean(value) {
            Some(true) => Some(ProvenanceOptions::default()),
            Some(false) => None,
            None => provenance(&flag, options::fields(value))?,
        };
    }
    if let Some(value) = &args.sbom {
        let flag = format!("--sbom={value}");
        out.sbom = match boolean(value) {
            Some(value) => value,
            None => sbom(&flag, options::fields(value))?,
        };
    }
    out.attach = match args.attach {
        None | Some(AttachArg::Index) => Attach::Index,
        Some(AttachArg::Referrers) => Attach::Referrers,
    };
    if args.attach.is_some() && out.is_empty() {
        return Err(Report::usage("--attach: there is no attestation to attach")
            .with_hint("add --provenance or --sbom"));
    }
    Ok(out)
}

fn boolean(value: &str) -> Option<bool> {
    match value.to_lowercase().as_str() {
        "true" | "1" | "t" => Some(true),
        "false" | "0" | "f" => Some(false),
        _ => None,
    }
}

fn flag_value(flag: &str, key: &str, value: &str) -> Result<bool> {
    boolean(value)
        .ok_or_else(|| Report::usage(format!("{flag}: {key}={value}: expected true or false")))
}

fn provenance(flag: &str, fields: Vec<(String, String)>) -> Result<Option<ProvenanceOptions>> {
    let mut out = ProvenanceOptions::default();
    let mut disabled = false;
    for (key, value) in fields {
        match (key.as_str(), value.as_str()) {
            ("mode", "min") => out.mode = Mode::Min,
            ("mode", "max") => out.mode = Mode::Max,
            ("mode", other) => {
                return Err(Report::usage(format!("{flag}: there is no mode {other:?}"))
                    .with_hint("modes are min and max"));
            }
            ("builder-id", _) => out.builder_id = value,
            ("reproducible", _) => out.reproducible = flag_value(flag, &key, &value)?,
            ("disabled", _) => disabled = flag_value(flag, &key, &value)?,
            // BuildKit: not in images, only beside files. Ours are in images only.
            ("inline-only", "true" | "false") => {}
            ("version", "v1" | "1") => {}
            ("version", other) => {
                return Err(Report::usage(format!(
                    "{flag}: SLSA provenance {other} is not written"
                ))
                .with_hint("leave version= out: v1 is written"));
            }
            _ => {
                return Err(unknown(
                    flag,
                    &key,
                    &["mode", "builder-id", "reproducible", "version"],
                ));
            }
        }
    }
    Ok((!disabled).then_some(out))
}

fn sbom(flag: &str, fields: Vec<(String, String)>) -> Result<bool> {
    let mut disabled = false;
    for (key, value) in fields {
        match key.as_str() {
            "disabled" => disabled = flag_value(flag, &key, &value)?,
            "generator" => {
                return Err(Report::usage(format!(
                    "{flag}: images that make SBOMs are not run; lapstrake reads the packages itself"
                ))
                .with_hint("leave generator= out"));
            }
            _ => return Err(unknown(flag, &key, &["disabled"])),
        }
    }
    Ok(!disabled)
}

fn unknown(flag: &str, key: &str, known: &[&str]) -> Report {
    let report = Report::usage(format!("{flag}: there is no option {key:?}"));
    match crate::dockerfile::suggest(key, known.iter().copied(), true) {
        Some(name) => report.with_hint(format!("did you mean {name}=?")),
        None => report.with_hint(format!("options are {}", known.join(", "))),
    }
}

/// Refuses outputs that hold no manifest, so nothing to attach to.
pub fn check_outputs(wanted: &Wanted, outputs: &[Output]) -> Result<()> {
    if !wanted.is_empty() && outputs.iter().any(|output| !output.kind.has_blobs()) {
        return Err(Report::usage(
            "files (-o type=local, -o type=tar) have no attestations: those are about images",
        )
        .with_hint("write the image too, with -o type=oci, in a build of its own"));
    }
    let is_docker = |output: &Output| {
        output.docker_types && output.kind != super::output::OutputKind::DockerArchive
    };
    if !wanted.is_empty() && outputs.iter().any(is_docker) {
        return Err(Report::usage("attestations need OCI media types")
            .with_hint("leave oci-mediatypes=false out"));
    }
    Ok(())
}

/// What a build says of itself, gathered before it runs.
pub struct Asked<'a> {
    /// What is wanted.
    pub wanted: Wanted,
    told: Told<'a>,
}

/// Gathers it.
pub fn asked<'a>(
    wanted: Wanted,
    args: &BuildArgs,
    request: &Request,
    main: &'a Main,
    source: &DockerfileSource,
    dockerfile: &'a str,
    names: Vec<Reference>,
) -> Asked<'a> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &request.build_args {
        // Proxies are the machine's, and change nothing that is built.
        if !is_proxy(name) {
            all.insert(format!("build-arg:{name}"), value.clone());
        }
    }
    for (name, value) in &request.labels {
        all.insert(format!("label:{name}"), value.clone());
    }
    if let Some(target) = &args.target {
        all.insert("target".to_owned(), target.clone());
    }
    if args.no_cache || !args.no_cache_filter.is_empty() {
        all.insert("no-cache".to_owned(), args.no_cache_filter.join(","));
    }
    let context = match main {
        Main::Remote(remote, _) => Some(remote),
        _ => None,
    };
    let told = Told {
        context,
        path: path(source),
        local_dockerfile: source.path.is_some(),
        args: all,
        dockerfile,
        parts: BTreeSet::from([0]),
        contexts: None,
        names,
    };
    Asked { wanted, told }
}

impl Asked<'_> {
    /// Says that the build is one of several in a graph: which parts of it have the same Dockerfile,
    /// and the names of its contexts in the whole.
    pub fn among(mut self, parts: BTreeSet<usize>, contexts: &BTreeMap<String, String>) -> Self {
        let turned = contexts.iter().map(|(own, whole)| (whole.clone(), own.clone()));
        self.told.contexts = Some(turned.collect());
        self.told.parts = parts;
        self
    }
}

/// Names the Dockerfile without telling where the context lies on this machine.
fn path(source: &DockerfileSource) -> String {
    let Some(path) = &source.path else { return source.name.clone() };
    let inside = source.context.as_ref().and_then(|context| {
        let (path, context) = (path.canonicalize().ok()?, context.canonicalize().ok()?);
        Some(path.strip_prefix(context).ok()?.to_owned())
    });
    let name = || path.file_name().map(Path::new).unwrap_or(path).to_owned();
    inside.unwrap_or_else(name).display().to_string()
}

impl Asked<'_> {
    /// Makes the attestations of a product; gives it with them, and what refers to it.
    pub fn attach(
        &self,
        conductor: &Conductor<'_>,
        product: Product,
        outputs: &[crate::graph::Output],
        form: BlobForm,
    ) -> Result<(Product, Vec<Attached>)> {
        if self.wanted.is_empty() {
            return Ok((product, Vec::new()));
        }
        let made =
            attest::make(conductor, &self.wanted, &self.told, &product.images, outputs, form)?;
        let store = conductor.build.store;
        let product = attest::attach(store, product, self.wanted.attach, &made)?;
        match self.wanted.attach {
            Attach::Index => Ok((product, Vec::new())),
            Attach::Referrers => Ok((product, made)),
        }
    }
}

/// Makes the referrers of an image found under its name in the store.
pub fn keep(store: &Store, names: &[Reference], made: &[Attached]) -> Result<()> {
    for name in names {
        for attached in made {
            StoreSink::new(store, name)
                .and_then(|sink| {
                    sink.put_referrer(&attached.subject, &attached.descriptor, &attached.manifest)
                })
                .map_err(|error| {
                    Report::of(Exit::Damaged, "cannot keep the attestations", &error)
                })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(provenance: Option<&str>, sbom: Option<&str>, attest: &[&str]) -> AttestArgs {
        AttestArgs {
            provenance: provenance.map(str::to_owned),
            sbom: sbom.map(str::to_owned),
            attest: attest.iter().map(|text| (*text).to_owned()).collect(),
            attach: None,
        }
    }

    #[test]
    fn flags_say_what_is_wanted() {
        for (given, mode, has_sbom) in [
            (args(None, None, &[]), None, false),
            (args(Some("true"), None, &[]), Some(Mode::Min), false),
            (args(Some("false"), Some("false"), &[]), None, false),
            (args(Some("mode=max"), Some("true"), &[]), Some(Mode::Max), true),
            (args(None, None, &["type=provenance,mode=max", "type=sbom"]), Some(Mode::Max), true),
            (args(None, None, &["type=sbom,disabled=true"]), None, false),
            (args(Some("false"), None, &["type=provenance"]), None, false),
        ] {
            let found = wanted(&given).expect("valid");
            assert_eq!(found.provenance.map(|p| p.mode), mode, "{given:?}");
            assert_eq!(found.sbom, has_sbom, "{given:?}");
        }
        let all = args(Some("mode=max,builder-id=https://ci/1,reproducible=true"), None, &[]);
        let options = wanted(&all).expect("valid").provenance.expect("wanted");
        assert_eq!((options.builder_id.as_str(), options.reproducible), ("https://ci/1", true));
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (given, message) in [
            (args(Some("mode=full"), None, &[]), "there is no mode"),
            (args(Some("maybe"), None, &[]), "there is no option"),
            (args(Some("version=v0.2"), None, &[]), "not written"),
            (args(None, Some("generator=x"), &[]), "not run"),
            (args(None, None, &["mode=max"]), "type= is missing"),
            (args(None, None, &["type=vex"]), "there is no attestation"),
        ] {
            let report = wanted(&given).expect_err(message);
            assert!(report.message.contains(message), "{}", report.message);
        }
        let alone = AttestArgs { attach: Some(AttachArg::Referrers), ..args(None, None, &[]) };
        assert!(wanted(&alone).is_err());
    }
}
