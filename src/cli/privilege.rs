//! Arguments of `build` that shape the sandbox of its steps: `--allow`, `--ulimit`, `--ca-cert`,
//! `--resource`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::build::CaCerts;
use crate::graph::Allow;
use crate::sandbox::cgroup::{self, Cgroups, Resources};
use crate::sandbox::{Limit, limit_names};

use super::args::{BuildArgs, ResourceArgs};
use super::options;
use super::report::{Exit, Report, Result};

/// Reads the `--allow`s, by the names of BuildKit's entitlements.
pub fn allow(list: &[String]) -> Result<Allow> {
    let mut out = Allow::default();
    for text in list {
        match text.as_str() {
            "network.host" => out.host_network = true,
            "security.insecure" => out.insecure = true,
            "device" => out.all_devices = true,
            _ if text.starts_with("device=") => {
                let name = text.trim_start_matches("device=");
                let kind = name.split('=').next().unwrap_or_default();
                if !crate::sandbox::cdi::is_kind(kind) {
                    return Err(Report::usage(format!(
                        "--allow {text}: this is no name of a device"
                    ))
                    .with_hint("name a kind or a device: --allow device=vendor.com/class=name"));
                }
                out.devices.push(name.to_owned());
            }
            _ => {
                let known = ["network.host", "security.insecure", "device"];
                let report = Report::usage(format!("--allow {text}: there is no such entitlement"));
                return Err(match crate::dockerfile::suggest(text, known, true) {
                    Some(name) => report.with_hint(format!("did you mean {name}?")),
                    None => report
                        .with_hint("there are network.host, security.insecure and device[=NAME]"),
                });
            }
        }
    }
    Ok(out)
}

/// Reads the `--ulimit`s: `NAME=SOFT[:HARD]`, where -1 or `unlimited` is no limit. The last one of a
/// name counts.
pub fn limits(list: &[String]) -> Result<Vec<Limit>> {
    let mut out: Vec<Limit> = Vec::new();
    for text in list {
        let bad = || {
            Report::usage(format!("--ulimit {text}: expected NAME=SOFT[:HARD]"))
                .with_hint("as in --ulimit nofile=1024:4096; -1 is no limit")
        };
        let (name, values) = text.split_once('=').ok_or_else(bad)?;
        if !limit_names().any(|known| known == name) {
            let report = Report::usage(format!("--ulimit {text}: there is no limit {name:?}"));
            return Err(match crate::dockerfile::suggest(name, limit_names(), true) {
                Some(known) => report.with_hint(format!("did you mean {known}?")),
                None => report.with_hint(format!(
                    "limits are {}",
                    limit_names().collect::<Vec<_>>().join(", ")
                )),
            });
        }
        let value = |text: &str| match text {
            "-1" | "unlimited" => Ok(None),
            _ => text.parse::<u64>().map(Some).map_err(|_| bad()),
        };
        let (soft, hard) = match values.split_once(':') {
            Some((soft, hard)) => (value(soft)?, value(hard)?),
            None => (value(values)?, value(values)?),
        };
        if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
            return Err(Report::usage(format!(
                "--ulimit {text}: the soft limit is above the hard one"
            )));
        }
        out.retain(|known| known.name != name);
        out.push(Limit { name: name.to_owned(), soft, hard });
    }
    Ok(out)
}

/// Reads `--resource KEY=VALUE,…` (buildx's keys) and the flags that docker build had for the same,
/// and makes room for the control groups of steps.
pub fn cgroups(args: &BuildArgs) -> Result<Option<Arc<Cgroups>>> {
    let resources = resources(&args.resources)?;
    let groups = Cgroups::open(args.resources.cgroup_parent.as_deref(), &resources);
    groups.map(|groups| groups.map(Arc::new)).map_err(|error| {
        let exit = match error {
            cgroup::Error::Name { .. } => Exit::Usage,
            _ => Exit::Host,
        };
        let hint = error.hint();
        Report::of(exit, "steps can't be limited", &error).with_hint(hint)
    })
}

fn resources(args: &ResourceArgs) -> Result<Resources> {
    const KEYS: [&str; 7] = [
        "memory",
        "memory-swap",
        "cpu-quota",
        "cpu-period",
        "cpu-shares",
        "cpuset-cpus",
        "cpuset-mems",
    ];
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for text in &args.resource {
        // Values are lists of processors, too: a field without `=` belongs to the one before it.
        let mut found: Vec<String> = Vec::new();
        for field in text.split(',') {
            match found.last_mut() {
                Some(last) if !field.contains('=') => {
                    last.push(',');
                    last.push_str(field);
                }
                _ => found.push(field.to_owned()),
            }
        }
        for field in found {
            let (key, value) = field.split_once('=').unwrap_or((&field, ""));
            let Some(known) = KEYS.iter().find(|known| **known == key) else {
                let report = Report::usage(format!("--resource {text}: there is no key {key:?}"));
                return Err(match crate::dockerfile::suggest(key, KEYS, true) {
                    Some(name) => report.with_hint(format!("did you mean {name}?")),
                    None => report.with_hint(format!("keys are {}", KEYS.join(", "))),
                });
            };
            pairs.push((known, value.to_owned()));
        }
    }
    for (key, value) in KEYS.into_iter().zip([
        &args.memory,
        &args.memory_swap,
        &args.cpu_quota,
        &args.cpu_period,
        &args.cpu_shares,
        &args.cpuset_cpus,
        &args.cpuset_mems,
    ]) {
        pairs.extend(value.iter().map(|value| (key, value.clone())));
    }
    let mut out = Resources::default();
    for (key, value) in pairs {
        let bad =
            |expected: &str| Report::usage(format!("the limit {key}={value}: expected {expected}"));
        let number = |expected: &str| value.parse::<u64>().map_err(|_| bad(expected));
        let is_list = || {
            let mut parts = value.split([',', '-']);
            parts.all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
        };
        match key {
            "memory" => out.memory = Some(options::size("--memory", &value)?),
            "memory-swap" if value == "-1" => out.memory_swap = Some(None),
            "memory-swap" => out.memory_swap = Some(Some(options::size("--memory-swap", &value)?)),
            "cpu-quota" => out.cpu_quota = Some(number("microseconds of a period")?),
            "cpu-period" => out.cpu_period = Some(number("microseconds")?),
            "cpu-shares" => out.cpu_shares = Some(number("a weight; 1024 is the usual one")?),
            _ if !is_list() => return Err(bad("a list, as 0-3,7")),
            "cpuset-cpus" => out.cpuset_cpus = Some(value),
            _ => out.cpuset_mems = Some(value),
        }
    }
    if let (Some(Some(both)), memory) = (out.memory_swap, out.memory)
        && memory.is_none_or(|memory| memory > both)
    {
        return Err(Report::usage("memory-swap is the sum of memory and swap: it is too small")
            .with_hint("give memory as well, and at least as much memory-swap"));
    }
    Ok(out)
}

/// Reads the files of `--ca-cert`; None when there is none.
pub fn ca_certs(cwd: &Path, list: &[PathBuf]) -> Result<Option<CaCerts>> {
    if list.is_empty() {
        return Ok(None);
    }
    let mut added = Vec::new();
    for path in list {
        let pem = std::fs::read(cwd.join(path)).map_err(|error| {
            Report::of(Exit::Usage, &format!("--ca-cert: cannot read {}", path.display()), &error)
        })?;
        if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
            return Err(Report::usage(format!(
                "--ca-cert {}: there is no certificate in it",
                path.display()
            ))
            .with_hint("give PEM; of DER: openssl x509 -inform der -in CERT.cer -out CERT.pem"));
        }
        added.extend_from_slice(&pem);
        if !added.ends_with(b"\n") {
            added.push(b'\n');
        }
    }
    // Without them only the added ones are trusted, which is as much as can be known here.
    let system = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"]
        .iter()
        .find_map(|path| std::fs::read(path).ok())
        .unwrap_or_default();
    Ok(Some(CaCerts { added, system }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_docker_does() {
        let limit = |soft, hard| Limit { name: "nofile".into(), soft, hard };
        for (text, expect) in [
            ("nofile=1024", limit(Some(1024), Some(1024))),
            ("nofile=1024:2048", limit(Some(1024), Some(2048))),
            ("nofile=1024:-1", limit(Some(1024), None)),
            ("nofile=unlimited", limit(None, None)),
        ] {
            assert_eq!(limits(&[text.to_owned()]).ok(), Some(vec![expect]), "{text}");
        }
        let twice = limits(&["nofile=1".into(), "core=0".into(), "nofile=2".into()]);
        assert_eq!(twice.map(|list| list.len()).ok(), Some(2));
        for (text, message) in [
            ("nofile", "expected NAME=SOFT"),
            ("nofile=many", "expected NAME=SOFT"),
            ("nofiles=1", "there is no limit"),
            ("nofile=5:4", "above the hard one"),
            ("nofile=-1:4", "above the hard one"),
        ] {
            let report = limits(&[text.to_owned()]).expect_err(text);
            assert!(report.message.contains(message), "{text}: {}", report.message);
        }
    }

    #[test]
    fn resources_are_read_as_buildx_does() {
        let read = |list: &[&str]| {
            let resource = list.iter().map(|text| (*text).to_owned()).collect();
            resources(&ResourceArgs { resource, memory: Some("1m".into()), ..Default::default() })
        };
        let wanted = Resources {
            memory: Some(1 << 20),
            memory_swap: Some(None),
            cpu_quota: Some(5),
            cpuset_cpus: Some("0-1,3".into()),
            ..Resources::default()
        };
        let found = read(&["cpu-quota=5,cpuset-cpus=0-1,3", "memory-swap=-1", "memory=2g"]);
        assert_eq!(found.ok(), Some(wanted));
        for (text, message) in [
            ("memry=1", "no key"),
            ("memory=lots", "expected a size"),
            ("cpu-quota=-1", "microseconds"),
            ("cpuset-cpus=a", "a list"),
            ("memory-swap=1k", "too small"),
        ] {
            let report = read(&[text]).expect_err(text);
            assert!(report.message.contains(message), "{text}: {}", report.message);
        }
    }

    #[test]
    fn devices_are_allowed_by_name_or_all() {
        let list = ["device=vendor.com/gpu".to_owned(), "device".to_owned()];
        let found = allow(&list).expect("both are known");
        assert!(found.all_devices && found.devices == ["vendor.com/gpu"]);
        assert!(allow(&["device=gpu".into()]).is_err());
    }

    #[test]
    fn entitlements_are_known_by_name() {
        let both = allow(&["network.host".into(), "security.insecure".into()]).expect("known");
        assert!(both.host_network && both.insecure);
        let report = allow(&["security.insecur".into()]).expect_err("unknown");
        assert_eq!(report.hints, ["did you mean security.insecure?"]);
    }
}
