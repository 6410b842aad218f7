//! SLSA provenance v1: what was built, from what, how (slsa.dev/spec/v1.1/provenance).
//!
//! The shape is BuildKit's, so that what reads its provenance reads ours: `buildType` names its
//! definition, and fields beyond the specification have its names (`buildkit_metadata` and so on).
//!
//! | field | min | max |
//! |---|---|---|
//! | where the Dockerfile and the context came from, target, platforms | x | x |
//! | base images, repositories and downloads with their digests | x | x |
//! | build arguments, labels, ids of secrets and of SSH agents | | x |
//! | the steps, with arguments and variables | | x |
//! | the Dockerfile, layers of the steps | | x |
//!
//! Times are those of the image: when its first and last step ran, or SOURCE_DATE_EPOCH. So a build
//! that finds everything in the cache states the same bytes again.

use std::collections::BTreeMap;

use base64::Engine as _;
use serde_json::{Value, json};

use super::{Mode, ProvenanceOptions, Scrubber};
use crate::oci::Descriptor;

/// What the statement says that it holds.
pub const PREDICATE: &str = "https://slsa.dev/provenance/v1";

/// What defines the shape of the predicate.
const BUILD_TYPE: &str =
    "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";

/// Something that was built from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Dependency {
    /// Its URI.
    pub uri: String,
    /// Algorithm (`sha256`, `sha1`).
    pub algorithm: &'static str,
    /// Its digest, in hex.
    pub hex: String,
}

/// A secret or an SSH agent that a step asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wish {
    /// Its name.
    pub id: String,
    /// The step does without it.
    pub optional: bool,
}

/// One step.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// The operation, in the shape of BuildKit's `pb.Op`.
    pub op: Value,
    /// Indexes of the steps that it reads.
    pub inputs: Vec<usize>,
    /// Line and last line in the Dockerfile, from 1; None where no line made it.
    pub lines: Option<(usize, usize)>,
    /// The layers of the image up to this step.
    pub layers: Vec<Descriptor>,
}

/// What is known of a build of one platform.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// A context that was fetched, and its digest.
    pub context: Option<Dependency>,
    /// The Dockerfile's path, as it was named.
    pub path: String,
    /// `target`, `platform` and the like, by BuildKit's names; `build-arg:` and `label:` too.
    pub args: BTreeMap<String, String>,
    /// Names of local directories.
    pub locals: Vec<String>,
    /// Secrets that steps ask for.
    pub secrets: Vec<Wish>,
    /// SSH agents that steps ask for.
    pub ssh: Vec<Wish>,
    /// The platform of the machine.
    pub builder_platform: String,
    /// Base images, repositories, downloads.
    pub dependencies: Vec<Dependency>,
    /// When the first step ran, RFC 3339.
    pub started: Option<String>,
    /// When the last one did.
    pub finished: Option<String>,
    /// No step could reach a network.
    pub hermetic: bool,
    /// All steps, in an order to run them.
    pub steps: Vec<Step>,
    /// The Dockerfile's text.
    pub dockerfile: String,
}

/// Makes the predicate.
pub fn predicate(facts: &Facts, options: &ProvenanceOptions, scrubber: &Scrubber) -> Value {
    let max = options.mode == Mode::Max;
    let mut out = json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "configSource": config_source(facts),
                "request": request(facts, max, scrubber),
            },
            "internalParameters": { "builderPlatform": facts.builder_platform },
            "resolvedDependencies": dependencies(facts),
        },
        "runDetails": {
            "builder": {
                "id": options.builder_id,
                "version": { "lapstrake": env!("CARGO_PKG_VERSION") },
            },
            "metadata": {
                "buildkit_hermetic": facts.hermetic,
                "buildkit_reproducible": options.reproducible,
                "buildkit_completeness": {
                    "request": max,
                    // What lies in a directory of this machine is not followed any further.
                    "resolvedDependencies": facts.locals.is_empty(),
                },
                "buildkit_metadata": {},
            },
        },
    });
    let metadata = &mut out["runDetails"]["metadata"];
    if let Some(started) = &facts.started {
        metadata["startedOn"] = json!(started);
    }
    if let Some(finished) = &facts.finished {
        metadata["finishedOn"] = json!(finished);
    }
    if max {
        metadata["buildkit_metadata"] = json!({
            "source": source(facts, scrubber),
            "layers": layers(facts),
        });
        let steps: Vec<Value> = facts.steps.iter().enumerate().map(step).collect();
        out["buildDefinition"]["internalParameters"]["buildConfig"] =
            json!({ "llbDefinition": steps });
    }
    scrubber.document(&mut out);
    if max {
        // Base64 hides what the scrubber looks for, so the text was cleaned before.
        let text = scrubber.text(&facts.dockerfile);
        let data = base64::engine::general_purpose::STANDARD.encode(text);
        out["runDetails"]["metadata"]["buildkit_metadata"]["source"]["infos"][0]["data"] =
            json!(data);
    }
    out
}

fn config_source(facts: &Facts) -> Value {
    let mut out = json!({ "path": facts.path });
    if let Some(context) = &facts.context {
        out["uri"] = json!(context.uri);
        out["digest"] = json!({ context.algorithm: context.hex });
    }
    out
}

fn request(facts: &Facts, max: bool, scrubber: &Scrubber) -> Value {
    let mut args = BTreeMap::new();
    for (name, value) in &facts.args {
        let bare = name.strip_prefix("build-arg:").or_else(|| name.strip_prefix("label:"));
        match bare {
            Some(bare) if max => {
                args.insert(name.clone(), scrubber.value(bare, value));
            }
            Some(_) => {}
            None => {
                args.insert(name.clone(), value.clone());
            }
        }
    }
    let locals: Vec<Value> = facts.locals.iter().map(|name| json!({ "name": name })).collect();
    let mut out = json!({ "frontend": "dockerfile.v0", "args": args, "locals": locals });
    if max {
        let wishes = |list: &[Wish]| -> Vec<Value> {
            let one = |wish: &Wish| match wish.optional {
                true => json!({ "id": wish.id, "optional": true }),
                false => json!({ "id": wish.id }),
            };
            list.iter().map(one).collect()
        };
        out["secrets"] = json!(wishes(&facts.secrets));
        out["ssh"] = json!(wishes(&facts.ssh));
    }
    out
}

fn dependencies(facts: &Facts) -> Vec<Value> {
    let mut all: Vec<&Dependency> = facts.dependencies.iter().chain(&facts.context).collect();
    all.sort();
    all.dedup();
    let one = |dependency: &Dependency| json!({ "uri": dependency.uri, "digest": { dependency.algorithm: dependency.hex } });
    all.into_iter().map(one).collect()
}

fn step((number, step): (usize, &Step)) -> Value {
    let mut out = json!({ "id": format!("step{number}"), "op": step.op });
    if !step.inputs.is_empty() {
        let inputs: Vec<String> =
            step.inputs.iter().map(|input| format!("step{input}:0")).collect();
        out["inputs"] = json!(inputs);
    }
    out
}

/// Which lines made which step, and the lines.
fn source(facts: &Facts, scrubber: &Scrubber) -> Value {
    let mut locations = serde_json::Map::new();
    for (number, step) in facts.steps.iter().enumerate() {
        if let Some((first, last)) = step.lines {
            let range = json!({ "start": { "line": first }, "end": { "line": last } });
            let location = json!({ "locations": [{ "ranges": [range] }] });
            locations.insert(format!("step{number}"), location);
        }
    }
    let name = scrubber.text(&facts.path);
    json!({
        "locations": locations,
        "infos": [{ "filename": name, "language": "Dockerfile", "data": "" }],
    })
}

fn layers(facts: &Facts) -> Value {
    let mut out = serde_json::Map::new();
    for (number, step) in facts.steps.iter().enumerate() {
        if !step.layers.is_empty() {
            out.insert(format!("step{number}:0"), json!([step.layers]));
        }
    }
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let wish = |id: &str, optional| Wish { id: id.to_owned(), optional };
        Facts {
            path: "Dockerfile".to_owned(),
            args: [
                ("target", "release"),
                ("build-arg:VERSION", "1.2"),
                ("build-arg:API_TOKEN", "abc"),
                ("build-arg:MIRROR", "https://me:pw@mirror.example/"),
                ("label:note", "holds hunter22"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            locals: vec!["context".to_owned()],
            secrets: vec![wish("npm", false), wish("extra", true)],
            builder_platform: "linux/amd64".to_owned(),
            dependencies: vec![Dependency {
                uri: "pkg:docker/alpine@3?platform=linux%2Famd64".to_owned(),
                algorithm: "sha256",
                hex: "ab".repeat(32),
            }],
            finished: Some("2009-02-13T23:31:30Z".to_owned()),
            steps: vec![
                Step { op: json!({"Op": {"source": {}}}), ..Step::default() },
                Step {
                    op: json!({"Op": {"exec": {"meta": {"env": ["A=hunter22"]}}}}),
                    inputs: vec![0],
                    lines: Some((2, 3)),
                    ..Step::default()
                },
            ],
            dockerfile: "FROM alpine\nRUN echo hunter22\n".to_owned(),
            ..Facts::default()
        }
    }

    fn make(mode: Mode) -> Value {
        let options = ProvenanceOptions { mode, ..ProvenanceOptions::default() };
        predicate(&facts(), &options, &Scrubber::new([&b"hunter22"[..]]))
    }

    #[test]
    fn min_tells_what_and_not_how() {
        let made = make(Mode::Min);
        let definition = &made["buildDefinition"];
        assert_eq!(definition["buildType"], BUILD_TYPE);
        assert_eq!(definition["externalParameters"]["configSource"]["path"], "Dockerfile");
        let request = &definition["externalParameters"]["request"];
        assert_eq!(request["args"], json!({"target": "release"}));
        assert_eq!(request["locals"], json!([{"name": "context"}]));
        assert_eq!(request.get("secrets"), None);
        assert_eq!(definition["internalParameters"], json!({"builderPlatform": "linux/amd64"}));
        assert_eq!(
            definition["resolvedDependencies"][0]["uri"],
            "pkg:docker/alpine@3?platform=linux%2Famd64"
        );
        let metadata = &made["runDetails"]["metadata"];
        assert_eq!(metadata["finishedOn"], "2009-02-13T23:31:30Z");
        assert_eq!(metadata["buildkit_completeness"]["request"], false);
        assert_eq!(made["runDetails"]["builder"]["id"], "");
    }

    #[test]
    fn max_tells_all_but_secrets() {
        let made = make(Mode::Max);
        let request = &made["buildDefinition"]["externalParameters"]["request"];
        assert_eq!(
            request["args"],
            json!({
                "target": "release",
                "build-arg:VERSION": "1.2",
                "build-arg:API_TOKEN": "xxxxx",
                "build-arg:MIRROR": "https://xxxxx:xxxxx@mirror.example/",
                "label:note": "holds xxxxx",
            })
        );
        assert_eq!(request["secrets"], json!([{"id": "npm"}, {"id": "extra", "optional": true}]));
        let steps = &made["buildDefinition"]["internalParameters"]["buildConfig"]["llbDefinition"];
        assert_eq!(steps[1]["inputs"], json!(["step0:0"]));
        assert_eq!(steps[1]["op"]["Op"]["exec"]["meta"]["env"][0], "A=xxxxx");
        let source = &made["runDetails"]["metadata"]["buildkit_metadata"]["source"];
        let line = &source["locations"]["step1"]["locations"][0]["ranges"][0]["start"]["line"];
        assert_eq!(*line, 2);
        let data = source["infos"][0]["data"].as_str().unwrap_or_default();
        let text = base64::engine::general_purpose::STANDARD.decode(data).expect("base64");
        assert_eq!(text, b"FROM alpine\nRUN echo xxxxx\n");
        assert!(!made.to_string().contains("hunter22"));
    }
}
