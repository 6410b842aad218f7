//! Each check fires and stays silent, by rows of Dockerfiles; and the examples of docs/checks.md.

use super::*;
use crate::dockerfile::parse;
use crate::graph::{Request, ResolveError, Resolved, Resolver, plan};
use crate::oci::{Digest, ImageConfig};

/// Every image has PATH and NODE_VERSION; `windowsy` has a SHELL, `arm` is always for arm64, and
/// nothing is known of `mystery`.
struct Fake;

impl Resolver for Fake {
    fn named_context(&mut self, _: &str, _: &Platform) -> Result<Option<Resolved>, ResolveError> {
        Ok(None)
    }

    fn image(&mut self, name: &str, platform: &Platform) -> Result<BaseImage, ResolveError> {
        let platform =
            if name == "arm" { "linux/arm64".parse().expect("p") } else { platform.clone() };
        let mut config = ImageConfig::empty(&platform);
        config.config.env = vec!["PATH=/bin".to_owned(), "NODE_VERSION=20".to_owned()];
        if name == "windowsy" {
            config.config.shell = Some(vec!["bash".to_owned()]);
        }
        if name == "onbuild" {
            config.config.on_build = vec!["ENV A=$NOPE".to_owned()];
        }
        Ok(BaseImage {
            name: name.to_owned(),
            handle: if name == "mystery" { UNKNOWN } else { 0 },
            platform,
            digest: Digest::of(name.as_bytes()),
            config,
        })
    }
}

fn found_with(text: &str, change: impl FnOnce(&mut Request)) -> (Vec<Diagnostic>, String) {
    let parsed = parse(text.as_bytes());
    assert!(!parsed.has_errors(), "{text}: {:?}", parsed.diagnostics);
    let amd64: Platform = "linux/amd64".parse().expect("a platform");
    let mut request = Request { host: Some(amd64), ..Request::default() };
    change(&mut request);
    let mut graph = plan(&parsed.dockerfile, &request, &mut Fake).expect("a plan");
    let planned = std::mem::take(&mut graph.warnings);
    let source = parsed.dockerfile.source.clone();
    (settle(&parsed.dockerfile, parsed.diagnostics, &graph.checks, planned), source)
}

fn found(text: &str) -> Vec<String> {
    let (found, source) = found_with(text, |_| {});
    found
        .iter()
        .filter_map(|finding| Some((finding.rule?, finding)))
        .map(|(rule, finding)| format!("{} {}", rule.name(), finding.span.slice(&source)))
        .collect()
}

/// One row a check that fires and one that must not; `None` is nothing at all.
#[test]
fn every_check_fires_and_stays_silent() {
    let rows: &[(&str, Option<&str>)] = &[
        ("FROM a AS Base\n", Some("StageNameCasing Base")),
        ("FROM a AS base\n", None),
        ("FROM a as base\n", Some("FromAsCasing as")),
        ("from a as base\n", None),
        ("FROM a\nRUN x \\\n\n  y\n", Some("NoEmptyContinuation ")),
        ("FROM a\nRUN x \\\n  # why\n  y\n", None),
        ("FROM a\nrun x\nRUN y\n", Some("ConsistentInstructionCasing run")),
        ("from a\nrun x\n", None),
        ("FROM a AS b\nFROM a AS b\n", Some("DuplicateStageName b")),
        ("FROM a AS b\nFROM a AS c\n", None),
        ("FROM a AS scratch\n", Some("ReservedStageName scratch")),
        ("FROM a AS scratch2\n", None),
        ("FROM a\nCMD run it\n", Some("JSONArgsRecommended run it")),
        ("FROM a\nCMD [\"run\"]\n", None),
        ("FROM a\nSHELL [\"sh\"]\nENTRYPOINT run it\n", None),
        ("FROM windowsy\nCMD run it\n", None),
        ("FROM windowsy AS w\nFROM w\nCMD run it\n", None),
        ("FROM a AS unused\nCMD run it\nFROM a\n", None),
        ("FROM a\nMAINTAINER me\n", Some("MaintainerDeprecated MAINTAINER")),
        ("FROM a\nLABEL maintainer=me\n", None),
        ("FROM $NOPE-a\n", Some("UndefinedArgInFrom $NOPE")),
        ("FROM a${NOPE}\n", Some("UndefinedArgInFrom ${NOPE}")),
        ("ARG T=x\nFROM a:$T\n", None),
        ("FROM a-$TARGETARCH\n", None),
        ("FROM --platform=linux/${NOPE:-arm64} a AS arm64\n", Some("UndefinedArgInFrom ${NOPE")),
        ("FROM a\nWORKDIR x\n", Some("WorkdirRelativePath x")),
        ("FROM a\nWORKDIR /x\nWORKDIR y\n", None),
        ("FROM a\nENV D=x\nWORKDIR $D\n", Some("WorkdirRelativePath $D")),
        ("FROM a\nENV D=/x\nWORKDIR $D\n", None),
        ("FROM a AS b\nWORKDIR /x\nFROM b\nENV D=x\nWORKDIR $D\n", None),
        ("FROM a\nENV B=$NOPE\n", Some("UndefinedVar $NOPE")),
        ("FROM a\nCOPY x${NOPE}y /z\n", Some("UndefinedVar ${NOPE}")),
        ("FROM a\nLABEL l=$NOPE\n", Some("UndefinedVar $NOPE")),
        ("FROM a\nARG X=$NOPE\n", Some("UndefinedVar $NOPE")),
        ("FROM a\nUSER $NOPE\n", Some("UndefinedVar $NOPE")),
        ("FROM a\nVOLUME /$NOPE\n", Some("UndefinedVar $NOPE")),
        ("FROM a\nRUN --mount=type=cache,target=/c$NOPE x\n", Some("UndefinedVar $NOPE")),
        ("FROM a\nCOPY <<e /f\n$NOPE\ne\n", Some("UndefinedVar $NOPE")),
        ("FROM a\nCOPY <<\"e\" /f\n$NOPE\ne\n", None),
        ("ARG G=1\nFROM a\nLABEL l=$G\n", Some("UndefinedVar $G")),
        ("FROM a\nLABEL l=$TARGETARCH\n", Some("UndefinedVar $TARGETARCH")),
        ("FROM a\nARG TARGETARCH\nLABEL l=$TARGETARCH\n", None),
        ("FROM a\nARG UNSET\nLABEL l=$UNSET\n", None),
        ("FROM a\nARG A B=$A C=$B\nLABEL l=$C\n", None),
        ("FROM a AS b\nARG A\nFROM b\nLABEL l=$A\n", None),
        ("FROM a\nLABEL l=$PATH$NODE_VERSION\n", None),
        ("FROM a\nRUN echo $NOPE\n", None),
        ("FROM a\nCMD [\"$NOPE\"]\n", None),
        ("FROM a\nEXPOSE 80$NOPE\n", None),
        ("FROM mystery\nLABEL l=$ITS_OWN\n", None),
        ("FROM a AS unused\nLABEL l=$NOPE\nFROM a\n", None),
        ("FROM a\n# check=skip=UndefinedVar\nLABEL l=$NOPE\n", None),
        ("FROM onbuild\n", Some("UndefinedVar FROM onbuild")),
        ("FROM a\nCMD [\"a\"]\nCMD [\"b\"]\n", Some("MultipleInstructionsDisallowed CMD")),
        ("FROM a AS b\nCMD [\"a\"]\nFROM b\nCMD [\"b\"]\n", None),
        ("FROM a\nENV A b\n", Some("LegacyKeyValueFormat A b")),
        ("FROM a\nENV A=b\n", None),
        ("FROM arm\n", Some("InvalidBaseImagePlatform arm")),
        ("# check=skip=InvalidBaseImagePlatform\nFROM arm\n", None),
        ("FROM a\n", None),
        ("FROM --platform=$TARGETPLATFORM a\n", Some("RedundantTargetPlatform $TARGETPLATFORM")),
        (
            "FROM --platform=${TARGETPLATFORM:-linux/amd64} a\n",
            Some("RedundantTargetPlatform ${TARGETPLATFORM:-linux/amd64}"),
        ),
        ("FROM --platform=$BUILDPLATFORM a\n", None),
        ("FROM a\nARG NPM_TOKEN\n", Some("SecretsUsedInArgOrEnv NPM_TOKEN")),
        ("FROM a\nARG TOKEN_FILE\n", None),
        ("ARG NPM_TOKEN\nFROM a\n", None),
        ("ARG V\nFROM a:${V}\n", Some("InvalidDefaultArgInFrom a:${V}")),
        ("ARG V=1\nFROM a:${V}\n", None),
        ("FROM a AS b1\nARG V\nFROM b1\n", None),
        ("FROM --platform=linux/amd64 a\n", Some("FromPlatformFlagConstDisallowed linux/amd64")),
        ("FROM --platform=linux/amd64 a AS build-amd64\n", None),
        ("FROM --platform=linux/x86_64 a AS build-amd64\n", None),
        ("FROM a\nEXPOSE 80/TCP\n", Some("ExposeProtoCasing 80/TCP")),
        ("FROM a\nEXPOSE 80/tcp\n", None),
        ("FROM a\nENV P=80/TCP\nEXPOSE $P\n", Some("ExposeProtoCasing $P")),
        ("FROM a\nEXPOSE 127.0.0.1:80:80\n", Some("ExposeInvalidFormat 127.0.0.1:80:80")),
        ("FROM a\nENV P=80:80\nEXPOSE $P\n", Some("ExposeInvalidFormat $P")),
        ("FROM a\nENV P=80\nEXPOSE $P\n", None),
        ("# check=skip=all\nFROM a as B\nLABEL l=$NOPE\nCMD x\n", None),
        (
            "# check=experimental=InvalidDefinitionDescription\n# words\nARG X=1\nFROM a:$X\n",
            Some("InvalidDefinitionDescription # words"),
        ),
        ("# words\n\n# X is\nARG X=1\nFROM a:$X\n", None),
    ];
    for (text, expect) in rows {
        let found = found(text);
        match expect {
            // A blank default makes an empty name too; what the row is about comes first.
            Some(expect) => assert!(
                found.iter().any(|one| one.trim_end().starts_with(expect.trim_end())),
                "{text}: {found:?}"
            ),
            None => assert_eq!(found, [] as [&str; 0], "{text}"),
        }
    }
}

#[test]
fn near_names_are_suggested() {
    for (text, expect) in [
        ("FROM a\nLABEL l=$PAHT\n", "did you mean `$PATH`?"),
        ("FROM a\nENV FOO=1\nLABEL l=$FO\n", "did you mean `$FOO`?"),
        ("ARG TAG=1\nFROM a:${TGA:-1}\n", "did you mean `TAG`?"),
        (
            "FROM a\nLABEL l=$FARAWAY\n",
            "declare it in this stage with `ARG FARAWAY`, or set it with `ENV FARAWAY=…`",
        ),
    ] {
        let (found, _) = found_with(text, |_| {});
        assert_eq!(found[0].help.as_deref(), Some(expect), "{text}");
    }
}

#[test]
fn build_args_mend_names_and_not_defaults() {
    let text = "ARG V\nFROM a:${V}\n";
    let (found, _) = found_with(text, |request| {
        request.build_args.insert("V".to_owned(), "1".to_owned());
    });
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].rule, Some(Rule::InvalidDefaultArgInFrom));
}

#[test]
fn several_platforms_say_it_once() {
    let (found, _) = found_with("FROM a\nLABEL l=$NOPE\n", |request| {
        request.platforms =
            ["linux/amd64", "linux/arm64"].map(|text| text.parse().expect("a platform")).to_vec();
    });
    assert_eq!(found.len(), 1);
}

#[test]
fn all_stages_are_checked_when_asked_for() {
    let text = "FROM a AS unused\nLABEL l=$NOPE\nCMD x\nFROM a\n";
    let (found, _) = found_with(text, |request| request.all_stages = true);
    assert_eq!(found.len(), 2);
}

/// docs/checks.md has a section for every check, and its examples do what they are there for.
#[test]
fn the_manual_shows_every_check() {
    let manual = include_str!("../../docs/checks.md");
    // What these find is not in the file alone.
    let beyond = |rule: Rule| rule == Rule::CopyIgnoredFile || Rule::OWN.contains(&rule);
    for rule in Rule::every() {
        let name = rule.name();
        let start = manual.find(&format!("\n## {name}\n")).unwrap_or_else(|| panic!("{name}"));
        let section = manual[start + 4..].split("\n## ").next().expect("text");
        assert!(section.contains(&format!("skip={name}`")), "{name}: how to skip it");
        let mut blocks = section.split("```");
        let mut block = || blocks.nth(1).and_then(|text| text.strip_prefix("dockerfile\n"));
        let (bad, good) = (block().expect("an example"), block().expect("an example"));
        let finds = |text: &str| found(text).iter().any(|one| one.starts_with(name));
        assert!(finds(bad) || beyond(rule), "{name} is not found in:\n{bad}");
        assert!(!finds(good), "{name} is found in:\n{good}");
    }
}

fn refused(text: &str) -> (&'static str, String) {
    let parsed = parse(text.as_bytes());
    let error = parsed.diagnostics.into_iter().find(Diagnostic::is_error).unwrap_or_else(|| {
        let host = Some("linux/amd64".parse().expect("a platform"));
        let request = Request { host, ..Request::default() };
        plan(&parsed.dockerfile, &request, &mut Fake).expect_err("an error").diagnostic
    });
    assert!(!error.span.is_empty(), "{error:?}");
    (error.code, error.message)
}

/// What would fill memory or take for ever is an error with a place.
#[test]
fn variables_have_bounds() {
    let many = |line: &dyn Fn(usize) -> String| (0..4010).map(line).collect::<String>();
    let args = many(&|number| format!("ARG A{number}={number}\n"));
    assert_eq!(refused(&format!("{args}FROM a\n")).0, "E0624");
    assert_eq!(refused(&format!("FROM a\n{args}")).0, "E0624");
    let envs = many(&|number| format!("ENV A{number}={number}\n"));
    assert_eq!(refused(&format!("FROM a\n{envs}")).0, "E0624");
    // The same name again is no other variable.
    let same = many(&|number| format!("ARG A={number}\n"));
    assert_eq!(found(&format!("FROM a\n{same}")), [] as [&str; 0]);
    let doubling: String =
        (1..40).map(|number| format!("ARG A{number}=$A{0}${{A{0}}}\n", number - 1)).collect();
    let (code, message) = refused(&format!("FROM a\nARG A0=xxxxxxxxxx\n{doubling}"));
    assert_eq!((code, message.as_str()), ("E0506", "variables expand to more than 1 MiB here"));
    assert_eq!(refused(&format!("ARG A0=xxxxxxxxxx\n{doubling}FROM a\n")).0, "E0506");
    let long = "x".repeat(2_000);
    let text = format!("FROM a\nARG A={long}\nARG B={long}\nARG C=${{A//x/$B}}\n");
    assert_eq!(refused(&text).0, "E0506");
    assert_eq!(refused(&format!("FROM a\nENV A={}\n", "${A:-".repeat(10_000))).0, "E0501");
    // Many large values; stages that hand all of them down; ranges of all ports.
    let large = format!("ARG A={}\n", "x".repeat(100_000));
    let copies = (0..1_000).map(|number| format!("ARG B{number}=$A\n")).collect::<String>();
    assert_eq!(refused(&format!("{large}{copies}FROM a\n")).0, "E0625");
    assert_eq!(refused(&format!("FROM a\n{large}{copies}")).0, "E0625");
    let labels = copies.replace("ARG", "LABEL");
    assert_eq!(refused(&format!("FROM a\n{large}{labels}")).0, "E0625");
    let stages = (1..1_000)
        .map(|number| format!("FROM s{} AS s{number}\nLABEL x=y\n", number - 1))
        .collect::<String>();
    assert_eq!(refused(&format!("FROM a AS s0\n{large}RUN x\n{stages}")).0, "E0625");
    let ports = (1..100).map(|port| format!(" {port}-65535")).collect::<String>();
    assert_eq!(refused(&format!("FROM a\nEXPOSE{ports}\n")).0, "E0625");
}

#[test]
fn huge_files_are_read_in_bounds() {
    let long = "x".repeat(1 << 18);
    assert_eq!(refused(&long).0, "E0201");
    assert_eq!(found(&format!("FROM a\nLABEL a={long}\n")), [] as [&str; 0]);
    let junk = "NOPE x\n".repeat(1_000);
    assert_eq!(refused(&junk).0, "E0201");
    assert_eq!(refused(&format!("FROM a\nRUN <<EOF\n{}", "x\n".repeat(20_000))).0, "E0104");
    assert_eq!(refused(&format!("FROM a\n{}", "\0".repeat(1 << 16))).0, "E0103");
}
