//! What is parsed and not supported yet: an error that says so and names the way out.

use crate::dockerfile::{
    Device, Diagnostic, Network as NetworkFlag, Run as RunInstruction, Security, Span,
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
