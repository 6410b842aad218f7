//! Plans of small Dockerfiles, through a resolver that knows a few images.

use std::collections::BTreeMap;

use super::*;
use crate::dockerfile::parse;
use crate::oci::{DiffId, config::History};

/// Knows `busybox`, `onbuild` and one directory context.
struct Fake {
    images: usize,
    contexts: BTreeMap<String, String>,
}

fn image(name: &str, platform: &Platform, handle: usize) -> BaseImage {
    let mut config = ImageConfig::empty(platform);
    config.rootfs.diff_ids = vec![DiffId(Digest::of(format!("{name} {platform}").as_bytes()))];
    config.config.env = vec!["PATH=/bin".to_owned(), "BASE=yes".to_owned()];
    config.config.cmd = Some(vec!["sh".to_owned()]);
    config.history = vec![History { created_by: Some("base".to_owned()), ..History::default() }];
    if name == "onbuild" {
        config.config.on_build = vec!["COPY . /src".to_owned(), "RUN make".to_owned()];
    }
    BaseImage {
        name: name.to_owned(),
        handle,
        platform: platform.clone(),
        digest: Digest::of(name.as_bytes()),
        config,
    }
}

impl Resolver for Fake {
    fn named_context(
        &mut self,
        name: &str,
        _: &Platform,
    ) -> Result<Option<Resolved>, ResolveError> {
        Ok(self.contexts.get(name).map(|context| Resolved::Directory(context.clone())))
    }

    fn image(&mut self, name: &str, platform: &Platform) -> Result<BaseImage, ResolveError> {
        if !["busybox", "onbuild", "debian"].contains(&name) {
            return Err(ResolveError {
                message: "not found".to_owned(),
                hint: None,
                exit: ResolveExit::Network,
            });
        }
        self.images += 1;
        Ok(image(name, platform, self.images - 1))
    }
}

fn request(platforms: &[&str]) -> Request {
    Request {
        platforms: platforms.iter().map(|text| text.parse().expect("a platform")).collect(),
        host: Some("linux/amd64".parse().expect("a platform")),
        ..Request::default()
    }
}

fn plan_with(text: &str, request: &Request) -> Result<Graph, Failure> {
    let parsed = parse(text.as_bytes());
    assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
    let mut fake = Fake { images: 0, contexts: BTreeMap::from([("dir".into(), "dir".into())]) };
    plan(&parsed.dockerfile, request, &mut fake)
}

fn plan_one(text: &str) -> Graph {
    plan_with(text, &request(&[])).expect("a plan")
}

fn message(text: &str) -> String {
    plan_with(text, &request(&[])).expect_err("no plan").diagnostic.message
}

fn names(graph: &Graph) -> Vec<&str> {
    graph.nodes.iter().map(|node| node.name.as_str()).collect()
}

fn history(graph: &Graph) -> Vec<(String, bool)> {
    graph.outputs[0]
        .config
        .history
        .iter()
        .map(|entry| (entry.created_by.clone().unwrap_or_default(), entry.empty_layer))
        .collect()
}

fn runs(graph: &Graph) -> Vec<&Run> {
    graph
        .nodes
        .iter()
        .filter_map(|node| match &node.op {
            Op::Run(run) => Some(&**run),
            _ => None,
        })
        .collect()
}

#[test]
fn steps_are_named_as_buildkit_names_them() {
    let graph = plan_one("FROM busybox AS build\nRUN a\nCOPY x /y\nFROM build\nWORKDIR /w\n");
    assert_eq!(
        names(&graph),
        [
            "FROM busybox",
            "[build 2/3] RUN a",
            "[internal] load build context",
            "[build 3/3] COPY x /y",
            "[stage-1 1/1] WORKDIR /w",
        ]
    );
}

#[test]
fn history_reads_as_buildkit_writes_it() {
    let graph = plan_one(
        "FROM busybox\nARG A=1\nENV B=$A C=\"x y\"\nRUN echo $B\nCOPY --chown=1:2 x /y/\nWORKDIR /w\n\
         EXPOSE 80 53/udp\nCMD [\"a\", \"b\"]\nENTRYPOINT e f\nUSER me\nVOLUME /v /u\nLABEL l=1\nSTOPSIGNAL 9\n",
    );
    let history = history(&graph);
    let expect = [
        ("base", false),
        ("ARG A=1", true),
        ("ENV B=1 C=x y", true),
        ("RUN |1 A=1 /bin/sh -c echo $B # buildkit", false),
        ("COPY --chown=1:2 x /y/ # buildkit", false),
        ("WORKDIR /w", false),
        ("EXPOSE [80/tcp 53/udp]", true),
        ("CMD [\"a\" \"b\"]", true),
        ("ENTRYPOINT [\"/bin/sh\" \"-c\" \"e f\"]", true),
        ("USER me", true),
        ("VOLUME [/v /u]", true),
        ("LABEL l=1", true),
        ("STOPSIGNAL 9", true),
    ];
    let found: Vec<(&str, bool)> =
        history.iter().map(|(text, empty)| (text.as_str(), *empty)).collect();
    assert_eq!(found, expect);
}

#[test]
fn entrypoint_resets_an_inherited_cmd_only() {
    let inherited = plan_one("FROM busybox\nENTRYPOINT [\"e\"]\n");
    assert_eq!(inherited.outputs[0].config.config.cmd, None);
    let own = plan_one("FROM busybox\nCMD [\"c\"]\nENTRYPOINT [\"e\"]\n");
    assert_eq!(own.outputs[0].config.config.cmd, Some(vec!["c".to_owned()]));
}

#[test]
fn env_pairs_see_the_environment_before_their_instruction() {
    let graph = plan_one("FROM scratch\nENV abc=hello\nENV abc=bye def=$abc\n");
    let env = &graph.outputs[0].config.config.env;
    assert!(env.contains(&"def=hello".to_owned()), "{env:?}");
    assert!(env.contains(&"abc=bye".to_owned()), "{env:?}");
}

#[test]
fn a_scratch_image_has_a_path_and_a_root_workdir() {
    let graph = plan_one("FROM scratch\nLABEL a=b\n");
    let output = &graph.outputs[0];
    assert_eq!(output.node, None);
    assert_eq!(output.config.config.working_dir, "/");
    assert_eq!(output.config.config.env, [format!("PATH={}", stage::DEFAULT_PATH)]);
}

#[test]
fn global_args_reach_from_and_need_to_be_declared_again() {
    let text = "ARG base=busy\nARG tag=box\nFROM ${base}${tag}\nARG base\nRUN x\n";
    let graph = plan_one(text);
    assert_eq!(graph.images[0].name, "busybox");
    let run = runs(&graph)[0];
    assert!(run.env.get("base") == Some("busy"));
    assert!(!run.env.iter().any(|(name, _)| name == "tag"));
}

#[test]
fn an_arg_without_value_is_not_set_and_an_empty_one_is() {
    let graph = plan_one("FROM busybox\nARG FOO\nARG BAR=\nRUN x\n");
    let run = runs(&graph)[0];
    assert!(!run.env.iter().any(|(name, _)| name == "FOO"));
    assert!(run.env.get("BAR") == Some(""));
}

#[test]
fn build_args_beat_defaults_of_both_scopes() {
    let mut request = request(&[]);
    request.build_args = BTreeMap::from([("A".to_owned(), "cli".to_owned())]);
    let graph =
        plan_with("ARG A=global\nFROM busybox\nARG A=stage\nRUN x\n", &request).expect("a plan");
    assert!(runs(&graph)[0].env.get("A") == Some("cli"));
}

#[test]
fn proxy_arguments_reach_a_run_without_arg_and_stay_out_of_history() {
    let mut with_proxy = request(&[]);
    with_proxy.build_args = BTreeMap::from([("http_proxy".to_owned(), "http://p".to_owned())]);
    let graph = plan_with("FROM busybox\nRUN x\n", &with_proxy).expect("a plan");
    let run = runs(&graph)[0];
    assert!(run.proxy.contains(&("HTTP_PROXY".to_owned(), "http://p".to_owned())));
    assert!(run.env.iter().all(|(name, _)| !args::is_proxy(name)));
    assert!(history(&graph).iter().all(|(text, _)| !text.contains("http://p")));
    let declared = plan_with("FROM busybox\nARG http_proxy\nRUN x\n", &with_proxy).expect("a plan");
    assert!(runs(&declared)[0].env.get("http_proxy") == Some("http://p"));
}

#[test]
fn stages_that_no_output_needs_are_pruned() {
    let graph = plan_one("FROM debian AS unused\nRUN no\nFROM busybox AS a\nRUN yes\nFROM a\n");
    assert_eq!(names(&graph), ["FROM busybox", "[a 2/2] RUN yes"]);
}

#[test]
fn per_arch_stage_selection_prunes_the_others() {
    let text = "FROM busybox AS base-amd64\nRUN amd\nFROM debian AS base-arm64\nRUN arm\nARG TARGETARCH\nFROM base-${TARGETARCH}\n";
    // ARG after a FROM is not global, TARGETARCH is automatic there all the same.
    let graph = plan_with(text, &request(&["linux/arm64"])).expect("a plan");
    assert_eq!(names(&graph), ["FROM debian", "[base-arm64 2/2] RUN arm"]);
}

#[test]
fn a_stage_for_the_build_platform_is_one_chain_for_all_platforms() {
    let text = "FROM --platform=$BUILDPLATFORM busybox AS build\nRUN tool\nFROM busybox\nCOPY --from=build /x /x\nRUN here\n";
    let graph = plan_with(text, &request(&["linux/amd64", "linux/arm64"])).expect("a plan");
    let tools = runs(&graph).iter().filter(|run| run.args[2] == "tool").count();
    let here = runs(&graph).iter().filter(|run| run.args[2] == "here").count();
    assert_eq!((tools, here), (1, 2));
    assert_eq!(graph.outputs.len(), 2);
    let mine = graph.nodes.iter().find(|node| node.name.contains("RUN here")).expect("a node");
    assert_eq!(mine.name, "[linux/amd64 stage-1 3/3] RUN here");
}

#[test]
fn a_stage_that_uses_target_args_is_one_chain_a_platform() {
    let text = "FROM --platform=$BUILDPLATFORM busybox AS build\nARG TARGETARCH\nRUN tool $TARGETARCH\nFROM scratch\nCOPY --from=build /x /x\n";
    let graph = plan_with(text, &request(&["linux/amd64", "linux/arm64"])).expect("a plan");
    assert_eq!(runs(&graph).len(), 2);
    assert!(graph.nodes.iter().any(|node| node.name.contains("[linux/amd64->arm64 build 2/2]")));
}

#[test]
fn metadata_above_a_run_does_not_change_its_node() {
    let plain = plan_one("FROM busybox\nRUN x\n");
    let labelled = plan_one("FROM busybox\nLABEL a=b\nCMD [\"c\"]\nEXPOSE 1\n# words\nRUN x\n");
    assert_eq!(runs(&plain), runs(&labelled));
}

#[test]
fn onbuild_triggers_run_right_after_from_and_are_cleared() {
    let graph = plan_one("FROM onbuild\nRUN own\n");
    assert_eq!(
        names(&graph),
        [
            "FROM onbuild",
            "[internal] load build context",
            "[stage-0 2/4] ONBUILD COPY . /src",
            "[stage-0 3/4] ONBUILD RUN make",
            "[stage-0 4/4] RUN own",
        ]
    );
    assert!(graph.outputs[0].config.config.on_build.is_empty());
}

#[test]
fn onbuild_of_a_stage_of_this_file_runs_in_its_child() {
    let graph = plan_one("FROM busybox AS base\nONBUILD RUN later\nFROM base\n");
    assert_eq!(runs(&graph).len(), 1);
    let kept = plan_one("FROM busybox\nONBUILD RUN later\n");
    assert_eq!(kept.outputs[0].config.config.on_build, ["RUN later"]);
}

#[test]
fn a_named_context_wins_over_a_stage() {
    let graph = plan_one("FROM busybox AS dir\nRUN never\nFROM scratch\nCOPY --from=dir /a /a\n");
    assert!(runs(&graph).is_empty(), "{:?}", names(&graph));
}

#[test]
fn forward_references_are_errors() {
    let text = "FROM busybox AS one\nCOPY --from=two /a /b\nFROM busybox AS two\n";
    let failure = plan_with(text, &{
        let mut request = request(&[]);
        request.target = Some("one".to_owned());
        request
    });
    let message = failure.expect_err("no plan").diagnostic.message;
    assert!(message.contains("it needs to be defined before current stage \"one\""), "{message}");
    assert!(message_of_self().contains("needs to be defined before"));
}

fn message_of_self() -> String {
    message("FROM busybox AS me\nCOPY --from=me /a /b\n")
}

#[test]
fn an_unknown_target_suggests_a_name() {
    let mut request = request(&[]);
    request.target = Some("biuld".to_owned());
    let failure = plan_with("FROM busybox AS build\n", &request).expect_err("no plan");
    assert_eq!(failure.diagnostic.help.as_deref(), Some("did you mean `build`?"));
}

#[test]
fn targets_are_found_in_any_case_and_by_number() {
    for target in ["STAGE1", "stage1", "0"] {
        let mut request = request(&[]);
        request.target = Some(target.to_owned());
        let graph = plan_with("FROM busybox AS staGE1\nRUN a\nFROM debian\n", &request);
        assert_eq!(runs(&graph.expect("a plan")).len(), 1, "{target}");
    }
}

#[test]
fn empty_stages() {
    let parsed = parse(b"ARG foo\n");
    let mut fake = Fake { images: 0, contexts: BTreeMap::new() };
    let failure = plan(&parsed.dockerfile, &request(&[]), &mut fake).expect_err("no plan");
    assert_eq!(failure.diagnostic.message, "dockerfile contains no stages to build");
}

#[test]
fn a_blank_base_names_the_variable() {
    let failure = plan_with("FROM $nope\n", &request(&[])).expect_err("no plan");
    assert!(failure.diagnostic.message.contains("should not be blank"));
    assert!(failure.diagnostic.label.contains("nope"));
}

#[test]
fn several_sources_need_a_directory() {
    assert!(
        message("FROM busybox\nCOPY a b /c\n").contains("must be a directory and end with a /")
    );
}

#[test]
fn secrets_have_their_defaults() {
    let text = "FROM busybox\nRUN --mount=type=secret,id=a --mount=type=secret,target=/t/b --mount=type=secret,id=c,env=C x\n";
    let graph = plan_one(text);
    let mounts: Vec<(&str, &MountKind)> =
        runs(&graph)[0].mounts.iter().map(|mount| (mount.target.as_str(), &mount.kind)).collect();
    assert_eq!(mounts[0].0, "/run/secrets/a");
    assert_eq!(mounts[1].0, "/t/b");
    assert!(matches!(mounts[1].1, MountKind::Secret { id, .. } if id == "b"));
    assert_eq!(mounts[2].0, "");
}

#[test]
fn cache_mounts_are_named_after_their_target() {
    let graph = plan_one("FROM busybox\nWORKDIR /w\nRUN --mount=type=cache,target=c/../d x\n");
    let mount = &runs(&graph)[0].mounts[0];
    assert_eq!(mount.target, "/w/d");
    assert!(matches!(&mount.kind, MountKind::Cache { id, .. } if id == "/w/d"), "{mount:?}");
}

#[test]
fn a_mount_on_the_root_is_refused() {
    assert_eq!(message("FROM busybox\nRUN --mount=target=. x\n"), "invalid mount target \"/\"");
}

#[test]
fn heredocs_become_scripts_and_files() {
    let graph = plan_one(
        "FROM busybox\nARG V=1\nRUN <<EOF\necho $V\nEOF\nRUN <<PY\n#!/bin/awk\nx\nPY\nCOPY <<a <<\"b\" /d/\nv=$V\na\nv=$V\nb\n",
    );
    let all = runs(&graph);
    assert_eq!(all[0].args, ["/bin/sh", "-c", "echo $V\n"]);
    assert_eq!(all[1].args, ["/bin/sh", "-c", "/dev/pipes/PY"]);
    assert_eq!(all[1].script.as_ref().map(|script| script.data.as_str()), Some("#!/bin/awk\nx\n"));
    let copied = graph.nodes.iter().find_map(|node| match &node.op {
        Op::Copy(copy) => Some(copy),
        _ => None,
    });
    let data: Vec<&str> =
        copied.expect("a copy").inline.iter().map(|file| file.data.as_str()).collect();
    assert_eq!(data, ["v=1\n", "v=$V\n"]);
}

#[test]
fn labels_of_stages_only_copied_from_are_not_inherited() {
    let graph = plan_one("FROM busybox AS a\nLABEL no=1\nFROM scratch\nCOPY --from=a /x /x\n");
    assert!(graph.outputs[0].config.config.labels.is_empty());
}

#[test]
fn a_plan_of_five_thousand_instructions_is_linear() {
    let mut text = String::from("FROM busybox\n");
    for number in 0..5000 {
        text.push_str(&format!("RUN echo {number}\n"));
    }
    assert_eq!(plan_one(&text).nodes.len(), 5001);
}

#[test]
fn caches_have_a_name_space() {
    let id = |space: Option<&str>, mount: &str| {
        let mut request = request(&[]);
        if let Some(space) = space {
            request.build_args.insert("BUILDKIT_CACHE_MOUNT_NS".into(), space.into());
        }
        let text = format!("FROM busybox\nRUN --mount=type=cache,{mount} x\n");
        let graph = plan_with(&text, &request).unwrap_or_else(|_| panic!("{text}"));
        graph.nodes.iter().find_map(|node| match &node.op {
            Op::Run(run) => match &run.mounts[0].kind {
                MountKind::Cache { id, .. } => Some(id.clone()),
                _ => None,
            },
            _ => None,
        })
    };
    assert_eq!(id(None, "target=/a/b/").as_deref(), Some("/a/b"));
    assert_eq!(id(Some(""), "target=/a,id=x").as_deref(), Some("x"));
    assert_eq!(id(Some("ci"), "target=/a,id=x").as_deref(), Some("ci/x"));
    assert_eq!(id(Some("ci/"), "target=/a").as_deref(), Some("ci/a"));
}

#[test]
fn settings_of_buildkit_without_effect_are_told() {
    let warnings = |name: &str| {
        let mut request = request(&[]);
        request.build_args.insert(name.to_owned(), "1".to_owned());
        let graph =
            plan_with("FROM busybox\nRUN x\n", &request).unwrap_or_else(|_| panic!("{name}"));
        graph
            .warnings
            .into_iter()
            .map(|warning| (warning.message, warning.help))
            .collect::<Vec<_>>()
    };
    for name in ["BUILDKIT_MULTI_PLATFORM", "BUILDKIT_SBOM_SCAN_STAGE", "BUILDKIT_SANDBOX_HOSTNAM"]
    {
        let [(message, help)] = &warnings(name)[..] else { panic!("{name}") };
        assert!(message.contains(name), "{message}");
        assert_eq!(help.is_some(), name == "BUILDKIT_MULTI_PLATFORM");
    }
    for name in [
        "BUILDKIT_SYNTAX",
        "BUILDKIT_INLINE_CACHE",
        "BUILDKIT_SANDBOX_HOSTNAME",
        "BUILDKIT_CACHE_MOUNT_NS",
    ] {
        assert!(warnings(name).is_empty(), "{name}");
    }
}

#[test]
fn the_result_is_edited_and_steps_are_not() {
    let mut request = request(&[]);
    request.edits = Edits {
        env: BTreeMap::from([("A".into(), "2".into()), ("NEW".into(), "n".into())]),
        unset_env: vec!["B".into(), "PATH".into()],
        unset_labels: vec!["l".into()],
    };
    request.labels = BTreeMap::from([("m".to_owned(), "2".to_owned())]);
    let text = "FROM scratch\nENV A=1 B=1 BB=1\nLABEL l=1 m=1\nRUN x\n";
    let graph = plan_with(text, &request).unwrap_or_else(|_| panic!("{text}"));
    let config = &graph.outputs[0].config.config;
    assert_eq!(config.env, ["A=2", "BB=1", "NEW=n"]);
    assert_eq!(config.labels, BTreeMap::from([("m".to_owned(), "2".to_owned())]));
    let seen = graph.nodes.iter().find_map(|node| match &node.op {
        Op::Run(run) => Some(run.env.get("A") == Some("1")),
        _ => None,
    });
    assert_eq!(seen, Some(true));
}
