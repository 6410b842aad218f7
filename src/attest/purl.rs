//! Package URLs (purl-spec): `pkg:TYPE/NAMESPACE/NAME@VERSION?QUALIFIERS`.

use std::fmt::Write as _;

use crate::oci::{Platform, Reference};

/// Makes a package URL. Namespace components are split at `/`; qualifiers are sorted, and those
/// without a value are left out.
pub fn purl(
    kind: &str,
    namespace: &str,
    name: &str,
    version: &str,
    qualifiers: &[(&str, &str)],
) -> String {
    let mut out = format!("pkg:{kind}/");
    for part in namespace.split('/').filter(|part| !part.is_empty()) {
        out.push_str(&encode(part));
        out.push('/');
    }
    out.push_str(&encode(name));
    if !version.is_empty() {
        out.push('@');
        out.push_str(&encode(version));
    }
    let mut list: Vec<_> = qualifiers.iter().filter(|(_, value)| !value.is_empty()).collect();
    list.sort();
    for (number, (key, value)) in list.into_iter().enumerate() {
        out.push(if number == 0 { '?' } else { '&' });
        out.push_str(key);
        out.push('=');
        out.push_str(&encode(value));
    }
    out
}

/// Names an image of a registry as BuildKit does (`util/purl`): Docker Hub goes without saying.
pub fn docker(reference: &Reference, platform: &Platform) -> String {
    let familiar = Reference { tag: None, digest: None, ..reference.clone() }.familiar();
    let (namespace, name) = familiar.rsplit_once('/').unwrap_or(("", &familiar));
    let tagged = reference.clone().with_default_tag();
    let version = tagged.tag.unwrap_or_default();
    let digest = reference.digest.map(|digest| digest.to_string()).unwrap_or_default();
    let platform = platform.to_string();
    purl("docker", namespace, name, &version, &[("digest", &digest), ("platform", &platform)])
}

/// Encodes all but the unreserved characters and the colon, as the specification has it.
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purls_are_encoded_and_sorted() {
        for (made, want) in [
            (
                purl(
                    "deb",
                    "debian",
                    "libstdc++6",
                    "12.2.0-14",
                    &[("distro", "debian-12"), ("arch", "amd64")],
                ),
                "pkg:deb/debian/libstdc%2B%2B6@12.2.0-14?arch=amd64&distro=debian-12",
            ),
            (purl("npm", "@babel", "core", "7.1.0", &[]), "pkg:npm/%40babel/core@7.1.0"),
            (
                purl("golang", "github.com/pkg", "errors", "v0.9.1", &[]),
                "pkg:golang/github.com/pkg/errors@v0.9.1",
            ),
            (purl("deb", "", "x", "1:2+b1", &[("arch", "")]), "pkg:deb/x@1:2%2Bb1"),
        ] {
            assert_eq!(made, want);
        }
    }

    #[test]
    fn images_are_named_as_buildkit_does() {
        let platform = "linux/amd64".parse().unwrap();
        for (name, want) in [
            ("alpine:3.17", "pkg:docker/alpine@3.17?platform=linux%2Famd64"),
            ("foo/bar", "pkg:docker/foo/bar@latest?platform=linux%2Famd64"),
            ("localhost:5000/a/b:1", "pkg:docker/localhost:5000/a/b@1?platform=linux%2Famd64"),
        ] {
            assert_eq!(docker(&name.parse().unwrap(), &platform), want);
        }
    }
}
