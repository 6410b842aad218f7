//! What instructions may ask for only when the user allows it.

use crate::dockerfile::{
    Device, Diagnostic, Network as NetworkFlag, Run as RunInstruction, Security, Span,
};

use super::Allow;
use super::plan::Failure;

pub(super) fn refuse_run(run: &RunInstruction, allow: &Allow) -> Result<(), Failure> {
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
    for Device { name, span, .. } in &run.devices {
        let kind = name.split('=').next().unwrap_or_default();
        let is_allowed = |allowed: &String| {
            allowed == name || allowed == kind || *allowed == format!("{kind}=*")
        };
        if !kind.contains('/') {
            return Err(Diagnostic::error(
                "E0632",
                *span,
                format!("`{name}` is no name of a device"),
            )
            .with_help("devices are named as vendor.com/class=name (CDI)")
            .into());
        }
        if !allow.all_devices && !allow.devices.iter().any(is_allowed) {
            let what = format!("RUN --device={name}");
            return Err(not_allowed(*span, &what, &format!("device={kind}")));
        }
    }
    Ok(())
}
