//! Arguments that exist without an ARG: platforms, proxies.

use std::collections::BTreeMap;

use crate::oci::Platform;

/// Arguments that are settings of the build and never reach a RUN's environment
/// (BuildKit: `nonEnvArgs`).
pub const NOT_EXPORTED: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Settings of BuildKit that are followed, or that ask for nothing but BuildKit's own frontend.
const FOLLOWED: [&str; 6] = [
    "BUILDKIT_CACHE_MOUNT_NS",
    "BUILDKIT_CONTEXT_KEEP_GIT_DIR",
    "BUILDKIT_DOCKERFILE_CHECK",
    "BUILDKIT_INLINE_CACHE",
    "BUILDKIT_SANDBOX_HOSTNAME",
    "BUILDKIT_SYNTAX",
];

/// Says whether a build argument is a setting of BuildKit that changes nothing here.
pub fn is_without_effect(name: &str) -> bool {
    name.starts_with("BUILDKIT_") && !FOLLOWED.contains(&name)
}

/// Says what to write instead of such a setting.
pub fn way_out(name: &str) -> Option<&'static str> {
    match name {
        "BUILDKIT_MULTI_PLATFORM" => Some("`lapstrake index` makes an index of one image"),
        _ => None,
    }
}

const PROXIES: [&str; 5] = ["HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"];

/// Says whether `name` is a proxy variable, in upper or lower case.
pub fn is_proxy(name: &str) -> bool {
    PROXIES.iter().any(|proxy| proxy.eq_ignore_ascii_case(name))
}

/// Gives the variables that a RUN sees for the proxies among `build_args`: each in upper and lower
/// case, as BuildKit's executor sets them.
pub fn proxy_env(build_args: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for proxy in PROXIES {
        let value = build_args
            .iter()
            .filter(|(name, _)| proxy.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
            .next_back();
        if let Some(value) = value {
            out.push((proxy.to_owned(), value.clone()));
            out.push((proxy.to_ascii_lowercase(), value.clone()));
        }
    }
    out
}

/// Gives the automatic arguments of the global scope, in BuildKit's order; `overrides` are the
/// `--build-arg`s.
pub fn automatic(
    host: &Platform,
    target: &Platform,
    stage: &str,
    overrides: &BTreeMap<String, String>,
) -> Vec<(String, String)> {
    let none = String::new;
    let pairs = [
        ("BUILDPLATFORM", host.to_string()),
        ("BUILDOS", host.os.clone()),
        ("BUILDOSVERSION", host.os_version.clone().unwrap_or_else(none)),
        ("BUILDARCH", host.architecture.clone()),
        ("BUILDVARIANT", host.variant.clone().unwrap_or_else(none)),
        ("TARGETPLATFORM", target.format_all()),
        ("TARGETOS", target.os.clone()),
        ("TARGETOSVERSION", target.os_version.clone().unwrap_or_else(none)),
        ("TARGETARCH", target.architecture.clone()),
        ("TARGETVARIANT", target.variant.clone().unwrap_or_else(none)),
        ("TARGETSTAGE", if stage.is_empty() { "default".into() } else { stage.to_owned() }),
    ];
    pairs
        .into_iter()
        .map(|(name, value)| match overrides.get(name) {
            Some(own) => (name.to_owned(), own.clone()),
            None => (name.to_owned(), value),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platform_args_follow_the_target() {
        let host: Platform = "linux/amd64".parse().expect("a platform");
        let target: Platform = "linux/arm64/v8".parse().expect("a platform");
        let args: BTreeMap<String, String> =
            automatic(&host, &target, "", &BTreeMap::new()).into_iter().collect();
        assert_eq!(args["TARGETPLATFORM"], "linux/arm64");
        assert_eq!(args["TARGETVARIANT"], "");
        assert_eq!(args["TARGETSTAGE"], "default");
        assert_eq!(args["BUILDPLATFORM"], "linux/amd64");
    }

    #[test]
    fn a_build_arg_overrides_a_platform_arg() {
        let host: Platform = "linux/amd64".parse().expect("a platform");
        let own = BTreeMap::from([("TARGETARCH".to_owned(), "mine".to_owned())]);
        let args: BTreeMap<String, String> =
            automatic(&host, &host, "x", &own).into_iter().collect();
        assert_eq!(args["TARGETARCH"], "mine");
        assert_eq!(args["TARGETSTAGE"], "x");
    }

    #[test]
    fn proxies_come_in_both_cases() {
        let args = BTreeMap::from([("http_proxy".to_owned(), "http://p".to_owned())]);
        assert_eq!(
            proxy_env(&args),
            [
                ("HTTP_PROXY".to_owned(), "http://p".to_owned()),
                ("http_proxy".to_owned(), "http://p".to_owned())
            ]
        );
        assert!(is_proxy("No_Proxy"));
        assert!(!is_proxy("PROXY"));
    }
}
