//! Flags of other builders that `build` does not have: what to write instead.
//!
//! An unknown flag is an error anyway; those who come from another builder also learn the way out.

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::report::Report;

const BUILDKIT: &str = "buildx";
const BUILDAH: &str = "Buildah";
const DOCKER: &str = "Docker's old builder";
const KANIKO: &str = "kaniko";

/// Flag, whose it is, way out.
const FLAGS: [(&str, &str, &str); 67] = [
    (
        "--all-platforms",
        BUILDAH,
        "name them: --platform linux/amd64,linux/arm64; `lapstrake inspect BASE` tells which a base has",
    ),
    ("--authfile", BUILDAH, "set REGISTRY_AUTH_FILE, or keep it in ~/.docker/config.json"),
    (
        "--cap-add",
        BUILDAH,
        "write RUN --security=insecure for the step that needs more, and allow it: --allow security.insecure",
    ),
    (
        "--cap-drop",
        BUILDAH,
        "leave it out: steps have Docker's default capabilities in a user namespace",
    ),
    ("--compat-volumes", BUILDAH, "leave it out: what a RUN changes below a VOLUME is kept"),
    ("--compress", DOCKER, "leave it out: no context is sent to a daemon"),
    (
        "--cpp-flag",
        BUILDAH,
        "run cpp before, and build from its output: cpp -P Dockerfile.in | lapstrake build -f - .",
    ),
    ("--creds", BUILDAH, "keep them in ~/.docker/config.json, out of the process list"),
    ("--device", BUILDAH, "write RUN --device=vendor.com/class=name, and allow it: --allow device"),
    ("--disable-compression", BUILDAH, "write -o type=oci,dest=DIR,compression=none"),
    ("--force-rm", DOCKER, "leave it out: no container is left behind"),
    (
        "--format",
        BUILDAH,
        "leave it out: images are OCI and keep SHELL, HEALTHCHECK and ONBUILD; -o type=docker writes an archive for Docker",
    ),
    (
        "--from",
        BUILDAH,
        "name the base in the Dockerfile by an ARG, and give it: --build-arg BASE=…",
    ),
    ("--group-add", BUILDAH, "write USER user:group in the Dockerfile"),
    (
        "--hooks-dir",
        BUILDAH,
        "leave it out: steps run without an OCI runtime, so there is none to call hooks",
    ),
    ("--http-proxy", BUILDAH, "leave it out, and give what steps need: --build-arg HTTPS_PROXY"),
    ("--inherit-annotations", BUILDAH, "leave it out: annotations of a base are not inherited"),
    ("--inherit-labels", BUILDAH, "name those that are not wanted: --unsetlabel NAME"),
    ("--ipc", BUILDAH, "leave it out: each step has its own"),
    ("--layers", BUILDAH, "leave it out: every step is cached"),
    ("--link", BUILDAH, "write COPY --link in the Dockerfile"),
    ("--logfile", BUILDAH, "send standard error there: 2> FILE"),
    ("--manifest", BUILDAH, "use -t NAME: what has several platforms is an index"),
    (
        "--mount",
        BUILDAH,
        "write RUN --mount, and give its source: --build-context NAME=DIR or --secret",
    ),
    ("--no-hostname", BUILDAH, "leave it out: /etc/hostname is not touched"),
    (
        "--no-hosts",
        BUILDAH,
        "leave it out: /etc/hosts is mounted over the image's for a step, and ends in no layer",
    ),
    ("--no-pivot", BUILDAH, "leave it out"),
    (
        "--omit-history",
        BUILDAH,
        "leave it out: history holds no secrets and no times but SOURCE_DATE_EPOCH",
    ),
    ("--os-feature", BUILDAH, "set it in an index: lapstrake index"),
    ("--os-version", BUILDAH, "set it in an index: lapstrake index"),
    ("--pid", BUILDAH, "leave it out: each step has its own"),
    ("--policy", BUILDKIT, "pin bases by digest in the Dockerfile"),
    ("--pull-always", BUILDAH, "use --pull=always"),
    ("--pull-never", BUILDAH, "use --pull=never"),
    ("--retry", BUILDAH, "leave it out: what fails for a while is tried again"),
    ("--retry-delay", BUILDAH, "leave it out: what fails for a while is tried again"),
    ("--rm", BUILDAH, "leave it out: no container is left behind"),
    ("--runtime", BUILDAH, "leave it out: steps run without an OCI runtime"),
    ("--runtime-flag", BUILDAH, "leave it out: steps run without an OCI runtime"),
    (
        "--security-opt",
        DOCKER,
        "leave it out, or write RUN --security=insecure for one step, and allow it",
    ),
    ("--sign-by", BUILDAH, "sign what was pushed by its digest, with cosign or skopeo"),
    ("--signature-policy", BUILDAH, "leave it out: bases are trusted by digest"),
    (
        "--squash",
        DOCKER,
        "copy the result into a stage of its own: FROM scratch, COPY --from=build / /",
    ),
    (
        "--squash-all",
        BUILDAH,
        "copy the result into a stage of its own: FROM scratch, COPY --from=build / /",
    ),
    ("--stdin", BUILDAH, "leave it out: standard input of a step is empty"),
    ("--stream", DOCKER, "leave it out: no context is sent to a daemon"),
    ("--timestamp", BUILDAH, "set SOURCE_DATE_EPOCH"),
    ("--source-date-epoch", BUILDAH, "set SOURCE_DATE_EPOCH"),
    ("--rewrite-timestamp", BUILDAH, "set SOURCE_DATE_EPOCH: new layers have no later times"),
    (
        "--tls-verify",
        BUILDAH,
        "name the registry: --insecure-registry HOST, or trust its certificate: --tls-ca FILE",
    ),
    ("--userns", BUILDAH, "use --isolation"),
    ("--userns-uid-map", BUILDAH, "leave it out: the range of /etc/subuid is used"),
    ("--userns-gid-map", BUILDAH, "leave it out: the range of /etc/subgid is used"),
    ("--uts", BUILDAH, "leave it out: each step has its own; --hostname names it"),
    ("--variant", BUILDAH, "use --platform linux/arm/v7"),
    ("--arch", BUILDAH, "use --platform linux/ARCH"),
    ("--os", BUILDAH, "use --platform OS/ARCH"),
    (
        "--volume",
        BUILDAH,
        "write RUN --mount=type=bind,from=NAME,target=…, and give it: --build-context NAME=DIR",
    ),
    (
        "-v",
        BUILDAH,
        "write RUN --mount=type=bind,from=NAME,target=…, and give it: --build-context NAME=DIR",
    ),
    ("--context", KANIKO, "the context is the last argument: lapstrake build ."),
    ("--customPlatform", KANIKO, "use --platform"),
    ("--destination", KANIKO, "use -t NAME --push"),
    ("--dockerfile", KANIKO, "use -f FILE"),
    ("--no-push", KANIKO, "leave it out: nothing is pushed without --push"),
    ("--reproducible", KANIKO, "set SOURCE_DATE_EPOCH"),
    (
        "--single-snapshot",
        KANIKO,
        "copy the result into a stage of its own: FROM scratch, COPY --from=build / /",
    ),
    ("--tar-path", KANIKO, "use -o type=docker,dest=FILE"),
];

/// Gives the report of a flag that another builder has, if that is what was wrong with the arguments.
pub fn report(error: &clap::Error) -> Option<Report> {
    if error.kind() == ErrorKind::ArgumentConflict {
        return second_file(error);
    }
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    let (_, whose, way_out) = FLAGS.iter().find(|(known, ..)| known == flag)?;
    let message = format!("{flag} is a flag of {whose} that lapstrake does not have");
    Some(Report::usage(message).with_hint(*way_out))
}

/// Buildah takes several files as if they were one.
fn second_file(error: &clap::Error) -> Option<Report> {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(flag)) if flag.starts_with("--file ") => {
            let report = Report::usage("-f: one Dockerfile is built at a time");
            Some(report.with_hint("join them before: cat A B | lapstrake build -f - ."))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Cli;
    use clap::{CommandFactory, Parser};

    #[test]
    fn flags_of_other_builders_have_a_way_out() {
        for (flag, whose, way_out) in FLAGS {
            let error = Cli::try_parse_from(["lapstrake", "build", flag, "."]).expect_err(flag);
            let report = report(&error).unwrap_or_else(|| panic!("{flag}: {error}"));
            assert!(report.message.contains(flag) && report.message.contains(whose));
            assert_eq!(report.hints, [way_out]);
        }
        let error = Cli::try_parse_from(["lapstrake", "build", "--nonsense"]).expect_err("unknown");
        assert!(report(&error).is_none());
    }

    #[test]
    fn ways_out_name_flags_that_there_are() {
        let command = Cli::command();
        let build = command.find_subcommand("build").expect("there is one");
        let known: Vec<&str> = build.get_arguments().filter_map(|arg| arg.get_long()).collect();
        // Of instructions, of git, of cosign.
        let others = ["security", "device", "mount", "link", "from"];
        for (flag, _, way_out) in FLAGS {
            for word in way_out.split([' ', ',', ';', ':']) {
                let Some(word) = word.strip_prefix("--") else { continue };
                let name = word.split(['=', '[']).next().unwrap_or_default();
                assert!(known.contains(&name) || others.contains(&name), "{flag}: --{name}");
            }
        }
    }
}
