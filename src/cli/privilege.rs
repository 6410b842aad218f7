//! Arguments of `build` that shape the sandbox of its steps: `--allow`, `--ulimit`, `--ca-cert`.

use std::path::{Path, PathBuf};

use crate::build::CaCerts;
use crate::graph::Allow;
use crate::sandbox::{Limit, limit_names};

use super::report::{Exit, Report, Result};

/// Reads the `--allow`s, by the names of BuildKit's entitlements.
pub fn allow(list: &[String]) -> Result<Allow> {
    let mut out = Allow::default();
    for text in list {
        match text.as_str() {
            "network.host" => out.host_network = true,
            "security.insecure" => out.insecure = true,
            _ => {
                let known = ["network.host", "security.insecure"];
                let report = Report::usage(format!("--allow {text}: there is no such entitlement"));
                return Err(match crate::dockerfile::suggest(text, known, true) {
                    Some(name) => report.with_hint(format!("did you mean {name}?")),
                    None => report.with_hint("there are network.host and security.insecure"),
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
    fn entitlements_are_known_by_name() {
        let both = allow(&["network.host".into(), "security.insecure".into()]).expect("known");
        assert!(both.host_network && both.insecure);
        let report = allow(&["security.insecur".into()]).expect_err("unknown");
        assert_eq!(report.hints, ["did you mean security.insecure?"]);
    }
}
