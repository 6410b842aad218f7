//! The databases of dpkg and apk: paragraphs of `key: value` lines.

use std::collections::BTreeMap;

use super::{Os, Package};
use crate::attest::purl::purl;

/// Splits a text at empty lines, and each piece into its fields. Lines that go on are left out: no
/// field of several lines is needed.
fn paragraphs(text: &str) -> impl Iterator<Item = BTreeMap<&str, &str>> {
    let mut lines = text.lines();
    std::iter::from_fn(move || {
        let mut fields = BTreeMap::new();
        for line in lines.by_ref() {
            if line.trim().is_empty() {
                if fields.is_empty() {
                    continue;
                }
                return Some(fields);
            }
            if line.starts_with([' ', '\t']) {
                continue;
            }
            if let Some((key, value)) = line.split_once(':') {
                fields.insert(key, value.trim());
            }
        }
        (!fields.is_empty()).then_some(fields)
    })
}

/// Reads `status` (dpkg(1), "Package states"), or a file of `status.d`, which has no `Status:`.
pub(super) fn dpkg(text: &str, os: &Os) -> Vec<Package> {
    let installed = |fields: &BTreeMap<&str, &str>| {
        fields.get("Status").is_none_or(|status| status.split(' ').next_back() == Some("installed"))
    };
    let namespace = if os.id.is_empty() { "debian" } else { &os.id };
    let one = |fields: BTreeMap<&str, &str>| {
        let get = |key: &str| fields.get(key).copied().unwrap_or_default();
        let (name, version) = (get("Package"), get("Version"));
        if name.is_empty() || version.is_empty() {
            return None;
        }
        // `Source: name (version)`; the version is there where it is another one.
        let source = get("Source").split(' ').next().unwrap_or_default();
        let distro = os.distro();
        let qualifiers =
            [("arch", get("Architecture")), ("distro", distro.as_str()), ("upstream", source)];
        Some(Package {
            purl: purl("deb", namespace, name, version, &qualifiers),
            kind: "deb",
            name: name.to_owned(),
            version: version.to_owned(),
            supplier: some(get("Maintainer")),
            homepage: some(get("Homepage")),
            ..Package::default()
        })
    };
    paragraphs(text).filter(installed).filter_map(one).collect()
}

/// Reads `installed` (apk-tools, `apk_db_fdb_read`).
pub(super) fn apk(text: &str, os: &Os) -> Vec<Package> {
    let namespace = if os.id.is_empty() { "alpine" } else { &os.id };
    let one = |fields: BTreeMap<&str, &str>| {
        let get = |key: &str| fields.get(key).copied().unwrap_or_default();
        let (name, version) = (get("P"), get("V"));
        if name.is_empty() || version.is_empty() {
            return None;
        }
        let origin = if get("o") == name { "" } else { get("o") };
        let distro = os.distro();
        let qualifiers = [("arch", get("A")), ("distro", distro.as_str()), ("upstream", origin)];
        Some(Package {
            purl: purl("apk", namespace, name, version, &qualifiers),
            kind: "apk",
            name: name.to_owned(),
            version: version.to_owned(),
            supplier: some(get("m")),
            license: some(get("L")),
            homepage: some(get("U")),
            ..Package::default()
        })
    };
    paragraphs(text).filter_map(one).collect()
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(id: &str, version: &str) -> Os {
        Os { id: id.to_owned(), version: version.to_owned(), name: String::new() }
    }

    #[test]
    fn dpkg_tells_what_is_installed() {
        let text = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\n\
                    Source: glibc (2.36-9)\nVersion: 2.36-9+deb12u4\nMaintainer: GNU <g@debian.example>\n\
                    Description: C library\n more: text\n\nPackage: gone\nStatus: deinstall ok config-files\n\
                    Version: 1\n\n\nPackage: broken\n";
        let found = dpkg(text, &os("debian", "12"));
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].purl,
            "pkg:deb/debian/libc6@2.36-9%2Bdeb12u4?arch=amd64&distro=debian-12&upstream=glibc"
        );
        assert_eq!(found[0].supplier.as_deref(), Some("GNU <g@debian.example>"));
        let bare = dpkg("Package: base-files\nVersion: 12\nArchitecture: all\n", &Os::default());
        assert_eq!(bare[0].purl, "pkg:deb/debian/base-files@12?arch=all");
    }

    #[test]
    fn apk_tells_what_is_installed() {
        let text = "C:Q1abc=\nP:musl\nV:1.2.4-r2\nA:x86_64\nL:MIT\nU:https://musl.libc.org/\no:musl\n\
                    m:Timo <t@example>\nF:lib\nR:ld-musl-x86_64.so.1\n\nP:libcrypto3\nV:3.1.4-r1\nA:x86_64\n\
                    L:Apache-2.0\no:openssl\n";
        let found = apk(text, &os("alpine", "3.18.4"));
        let purls: Vec<&str> = found.iter().map(|package| package.purl.as_str()).collect();
        assert_eq!(
            purls,
            [
                "pkg:apk/alpine/musl@1.2.4-r2?arch=x86_64&distro=alpine-3.18.4",
                "pkg:apk/alpine/libcrypto3@3.1.4-r1?arch=x86_64&distro=alpine-3.18.4&upstream=openssl",
            ]
        );
        assert_eq!(found[0].license.as_deref(), Some("MIT"));
        assert_eq!(found[0].homepage.as_deref(), Some("https://musl.libc.org/"));
    }
}
