//! What is parsed and not supported yet: an error that says so and names the way out.

use crate::dockerfile::{
    Device, Diagnostic, Network as NetworkFlag, Run as RunInstruction, Security, Span, Transfer,
};

use super::Allow;
use super::plan::Failure;

pub(super) fn not_yet(span: Span, what: &str, way_out: &str) -> Failure {
    Diagnostic::error("E0630", span, format!("{what} is not supported yet"))
        .with_help(way_out)
        .into()
}

pub(super) fn refuse_run(run: &RunInstruction, allow: Allow) -> Result<(), Failure> {
    let not_allowed = |span: Span, what: &str, entitlement: &str| -> Failure {
        Diagnostic::error("E0631", span, format!("{what} is not allowed"))
            .with_help(format!("allow it for this build: --allow {entitlement}"))
            .into()
    };
    if let Some(security) = &run.security
        && security.value == Security::Insecure
        && !allow.insecure
    {
        return Err(not_allowed(security.span, "RUN --security=insecure", "security.insecure"));
    }
    if let Some(network) = &run.network
        && network.value == NetworkFlag::Host
        && !allow.host_network
    {
        return Err(not_allowed(network.span, "RUN --network=host", "network.host"));
    }
    if let Some(Device { span, .. }) = run.devices.first() {
        return Err(not_yet(
            *span,
            "RUN --device",
            "drop the flag; devices of the host are not reachable",
        ));
    }
    Ok(())
}

pub(super) fn refuse_remote(text: &str, span: Span, keyword: &str) -> Result<(), Failure> {
    let lower = text.to_ascii_lowercase();
    let http = lower.starts_with("http://") || lower.starts_with("https://");
    let git = lower.starts_with("git@")
        || lower.starts_with("git://")
        || lower.starts_with("ssh://")
        || (http && lower.split('#').next().is_some_and(|url| url.ends_with(".git")));
    if !http && !git {
        return Ok(());
    }
    if keyword == "COPY" {
        let what = if git { "git ref" } else { "URL" };
        return Err(Diagnostic::error("E0621", span, format!("source can't be a {what} for COPY"))
            .with_help("ADD takes remote sources")
            .into());
    }
    let (what, way_out) = if git {
        (
            "ADD of a git repository",
            "clone it into the context and COPY it, or name it with --build-context as a directory",
        )
    } else {
        ("ADD of a URL", "download it into the context and COPY it, or fetch it in a RUN")
    };
    Err(not_yet(span, what, way_out))
}

pub(super) fn refuse_add_flags(transfer: &Transfer) -> Result<(), Failure> {
    if let Some(word) = &transfer.checksum {
        return Err(Diagnostic::error(
            "E0622",
            word.span,
            "checksum requires HTTP(S) or Git sources",
        )
        .with_help("drop --checksum: local files are digested anyway")
        .into());
    }
    Ok(())
}
