//! `RUN --mount`: from words to what is mounted.

use crate::dockerfile::{Diagnostic, MountType, Span};

use super::path::clean_workdir;
use super::plan::Failure;
use super::stage::{StageState, Walk};
use super::{Mount, MountKind, NodeId, Sharing};

impl Walk<'_, '_> {
    /// Understands one `--mount`, and adds what it reads to `inputs`.
    pub(super) fn mount(
        &mut self,
        state: &StageState,
        mount: &crate::dockerfile::Mount,
        spec: crate::dockerfile::MountSpec,
        inputs: &mut Vec<NodeId>,
    ) -> Result<Mount, Failure> {
        let span = mount.span;
        let mut target = String::new();
        let has_own_place = matches!(spec.kind, MountType::Secret | MountType::Ssh);
        if !(has_own_place && spec.target.is_empty()) {
            target = clean_workdir(&state.config.config.working_dir, &spec.target);
            if target == "/" {
                return Err(Diagnostic::error("E0612", span, "invalid mount target \"/\"")
                    .with_help("mount below the root, as in target=/src")
                    .into());
            }
        }
        let source = clean_workdir("/", &spec.source);
        let mut input = |walk: &mut Self| -> Result<Option<usize>, Failure> {
            let node = match mount.from() {
                Some(from) => walk.planner.input(from, walk.index, &state.platform, walk.plan)?,
                None => Some(walk.planner.local_node("")),
            };
            Ok(node.map(|node| {
                inputs.push(node);
                inputs.len() - 1
            }))
        };
        let kind = match spec.kind {
            MountType::Bind => match input(self)? {
                Some(input) => MountKind::Bind { input, source, writable: !spec.read_only },
                // From scratch: an empty directory.
                None => MountKind::Tmpfs { size: None },
            },
            MountType::Cache => {
                let input = match mount.from() {
                    Some(_) => input(self)?,
                    None => None,
                };
                MountKind::Cache {
                    id: self.cache_id(spec.id.as_deref().unwrap_or_default(), &target),
                    sharing: match spec.sharing.unwrap_or_default() {
                        crate::dockerfile::Sharing::Shared => Sharing::Shared,
                        crate::dockerfile::Sharing::Private => Sharing::Private,
                        crate::dockerfile::Sharing::Locked => Sharing::Locked,
                    },
                    input,
                    source,
                    mode: spec.mode.unwrap_or(0o755),
                    uid: spec.uid.unwrap_or(0),
                    gid: spec.gid.unwrap_or(0),
                    read_only: spec.read_only,
                }
            }
            MountType::Tmpfs => MountKind::Tmpfs { size: (spec.size > 0).then_some(spec.size) },
            MountType::Secret => return secret(span, spec, target),
            MountType::Ssh => {
                let id = spec.id.clone().filter(|id| !id.is_empty());
                MountKind::Ssh {
                    id: id.unwrap_or_else(|| "default".to_owned()),
                    sets_variable: false,
                    required: spec.required,
                    mode: spec.mode.unwrap_or(0o600),
                    uid: spec.uid.unwrap_or(0),
                    gid: spec.gid.unwrap_or(0),
                }
            }
        };
        Ok(Mount { target, kind })
    }

    /// Names a cache: by its id, else its target, within the name space that the build argument
    /// BUILDKIT_CACHE_MOUNT_NS gives (BuildKit: `cacheIDNamespace`).
    fn cache_id(&self, id: &str, target: &str) -> String {
        let id = if id.is_empty() { target } else { id };
        match self.planner.request.build_args.get("BUILDKIT_CACHE_MOUNT_NS") {
            Some(space) if !space.is_empty() => {
                format!("{}/{}", space.trim_end_matches('/'), id.trim_start_matches('/'))
            }
            _ => id.to_owned(),
        }
    }
}

/// Gives ssh mounts that name no target theirs, and lets the first one be SSH_AUTH_SOCK (BuildKit:
/// `dispatchRunMounts`, and `WithSSHSocket` in `client/llb/exec.go`).
pub(super) fn place_ssh(mounts: &mut [Mount]) {
    let mut number = 0;
    for mount in mounts {
        if let MountKind::Ssh { sets_variable, .. } = &mut mount.kind {
            if mount.target.is_empty() {
                mount.target = format!("/run/buildkit/ssh_agent.{number}");
            }
            *sets_variable = number == 0;
            number += 1;
        }
    }
}

fn secret(
    span: Span,
    spec: crate::dockerfile::MountSpec,
    target: String,
) -> Result<Mount, Failure> {
    let base = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let id = if !spec.source.is_empty() {
        spec.source.clone()
    } else {
        match &spec.id {
            Some(id) if !id.is_empty() => id.clone(),
            _ if !target.is_empty() => base(&target),
            _ => {
                return Err(Diagnostic::error("E0620", span, "one of id, target required")
                    .with_help("as --mount=type=secret,id=token")
                    .into());
            }
        }
    };
    let env = spec.env.map(|name| if name.is_empty() { id.clone() } else { name });
    let target = match (target.is_empty(), &env) {
        (false, _) => target,
        (true, Some(_)) => String::new(),
        (true, None) => format!("/run/secrets/{}", base(&id)),
    };
    Ok(Mount {
        target,
        kind: MountKind::Secret {
            id,
            env,
            required: spec.required,
            mode: spec.mode.unwrap_or(0o400),
            uid: spec.uid.unwrap_or(0),
            gid: spec.gid.unwrap_or(0),
        },
    })
}
