//! A software bill of materials: SPDX 2.3 in JSON (spdx.github.io/spdx-spec/v2.3).
//!
//! One document an image: the image itself, its operating system, and every package that
//! [`super::package`] found, all contained in the image. Identifiers follow from what they name, and
//! the namespace from the image's digest, so equal images have equal documents.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::package::{Os, Package};
use crate::oci::Digest;

/// What the statement says that it holds.
pub const PREDICATE: &str = "https://spdx.dev/Document";

/// What SPDX has for "nobody said".
const NO_ASSERTION: &str = "NOASSERTION";

/// Licences of SPDX's list that distributions name most. Others become a `LicenseRef-` with their
/// text, which is valid whatever the text.
const LICENSES: [&str; 42] = [
    "0BSD",
    "AGPL-3.0-only",
    "AGPL-3.0-or-later",
    "Apache-1.1",
    "Apache-2.0",
    "Artistic-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSD-4-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "GPL-1.0-or-later",
    "GPL-2.0-only",
    "GPL-2.0-or-later",
    "GPL-3.0-only",
    "GPL-3.0-or-later",
    "HPND",
    "ICU",
    "ISC",
    "LGPL-2.0-only",
    "LGPL-2.0-or-later",
    "LGPL-2.1-only",
    "LGPL-2.1-or-later",
    "LGPL-3.0-only",
    "LGPL-3.0-or-later",
    "MIT",
    "MIT-0",
    "MPL-1.1",
    "MPL-2.0",
    "OFL-1.1",
    "OLDAP-2.8",
    "OpenSSL",
    "PSF-2.0",
    "PostgreSQL",
    "Python-2.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Vim",
    "WTFPL",
    "X11",
    "Zlib",
    "curl",
];

/// What is known of an image.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    /// Its operating system.
    pub os: Os,
    /// All packages.
    pub packages: Vec<Package>,
    /// Databases that are there and that nobody here can read.
    pub unread: Vec<String>,
}

/// Makes the document. `name` is shown to people; `created` is RFC 3339.
pub fn document(contents: &Contents, name: &str, image: &Digest, created: &str) -> Value {
    let mut licenses = Licenses::default();
    let mut packages = vec![json!({
        "SPDXID": "SPDXRef-Image",
        "name": name,
        "versionInfo": image.to_string(),
        "downloadLocation": NO_ASSERTION,
        "filesAnalyzed": false,
        "licenseConcluded": NO_ASSERTION,
        "licenseDeclared": NO_ASSERTION,
        "copyrightText": NO_ASSERTION,
        "supplier": NO_ASSERTION,
        "primaryPackagePurpose": "CONTAINER",
        "checksums": [{ "algorithm": "SHA256", "checksumValue": image.hex() }],
    })];
    let relation = |from: &str, kind: &str, to: &str| json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to });
    let mut relations = vec![relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-Image")];
    if !contents.os.id.is_empty() {
        packages.push(operating_system(&contents.os));
        relations.push(relation("SPDXRef-Image", "CONTAINS", "SPDXRef-OperatingSystem"));
    }
    let all: BTreeSet<&Package> = contents.packages.iter().collect();
    for package in all {
        let id = identifier(package);
        relations.push(relation("SPDXRef-Image", "CONTAINS", &id));
        packages.push(one(package, &id, &mut licenses));
    }
    let mut out = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": format!("https://spdx.org/spdxdocs/lapstrake-{}", image.hex()),
        "creationInfo": {
            "created": created,
            "creators": [concat!("Tool: lapstrake-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relations,
    });
    if !licenses.other.is_empty() {
        let other: Vec<Value> = licenses
            .other
            .iter()
            .map(|(id, text)| json!({ "licenseId": id, "extractedText": text, "name": text }))
            .collect();
        out["hasExtractedLicensingInfos"] = json!(other);
    }
    if !contents.unread.is_empty() {
        out["comment"] = json!(format!(
            "This document does not tell of the packages in {}, which cannot be read or is too large.",
            contents.unread.join(", ")
        ));
    }
    out
}

fn operating_system(os: &Os) -> Value {
    let mut out = json!({
        "SPDXID": "SPDXRef-OperatingSystem",
        "name": os.id,
        "downloadLocation": NO_ASSERTION,
        "filesAnalyzed": false,
        "licenseConcluded": NO_ASSERTION,
        "licenseDeclared": NO_ASSERTION,
        "copyrightText": NO_ASSERTION,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    });
    if !os.version.is_empty() {
        out["versionInfo"] = json!(os.version);
    }
    if !os.name.is_empty() {
        out["description"] = json!(os.name);
    }
    out
}

fn one(package: &Package, id: &str, licenses: &mut Licenses) -> Value {
    let declared = match &package.license {
        Some(text) => licenses.expression(text),
        None => NO_ASSERTION.to_owned(),
    };
    let mut out = json!({
        "SPDXID": id,
        "name": package.name,
        "supplier": supplier(package.supplier.as_deref()),
        "downloadLocation": NO_ASSERTION,
        "filesAnalyzed": false,
        "licenseConcluded": NO_ASSERTION,
        "licenseDeclared": declared,
        "copyrightText": NO_ASSERTION,
        "sourceInfo": format!("found in /{}", package.found_in),
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": package.purl,
        }],
    });
    if !package.version.is_empty() {
        out["versionInfo"] = json!(package.version);
    }
    if let Some(page) = &package.homepage
        && (page.starts_with("http://") || page.starts_with("https://"))
        && !page.contains(char::is_whitespace)
    {
        out["homepage"] = json!(page);
    }
    out
}

/// Names a package after its URL and where it was found: the same one may be there twice.
fn identifier(package: &Package) -> String {
    let plain: String = package
        .name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
        .collect();
    let digest = Digest::of(format!("{}\n{}", package.purl, package.found_in).as_bytes()).hex();
    // 16 digits tell the packages of one image apart.
    format!("SPDXRef-Package-{}-{plain}-{}", package.kind, &digest[..16])
}

/// `Organization: name (mail)`: whether it is a person, nobody says, and most are teams.
fn supplier(text: Option<&str>) -> String {
    let Some(text) = text else { return NO_ASSERTION.to_owned() };
    let line = text.lines().next().unwrap_or_default();
    match line.split_once('<') {
        Some((name, mail)) if !name.trim().is_empty() => {
            let mail = mail.split('>').next().unwrap_or_default().trim();
            format!("Organization: {} ({mail})", name.trim())
        }
        _ => format!("Organization: {}", line.trim().trim_matches(['<', '>'])),
    }
}

/// Licences that are not in SPDX's list, by the id that this document gives them.
#[derive(Default)]
struct Licenses {
    other: BTreeMap<String, String>,
}

impl Licenses {
    /// Gives a valid expression for what a package says.
    fn expression(&mut self, text: &str) -> String {
        let words: Vec<&str> = text.split_whitespace().collect();
        let is_list = words.len() % 2 == 1
            && words.iter().skip(1).step_by(2).all(|word| matches!(*word, "AND" | "OR"))
            && text.matches('(').count() == text.matches(')').count();
        if !is_list {
            return self.other(text);
        }
        let mut out = Vec::new();
        for (index, word) in words.into_iter().enumerate() {
            if index % 2 == 1 {
                out.push(word.to_owned());
                continue;
            }
            let bare = word.trim_matches(['(', ')']);
            let id = if LICENSES.contains(&bare) { bare.to_owned() } else { self.other(bare) };
            let open = word.len() - word.trim_start_matches('(').len();
            let close = word.len() - word.trim_end_matches(')').len();
            out.push(format!("{}{id}{}", "(".repeat(open), ")".repeat(close)));
        }
        out.join(" ")
    }

    fn other(&mut self, text: &str) -> String {
        let text = text.trim();
        if text.is_empty() || text == NO_ASSERTION {
            return NO_ASSERTION.to_owned();
        }
        let digest = Digest::of(text.as_bytes()).hex();
        let plain: String = text
            .chars()
            .take(32)
            .map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' })
            .collect();
        let id = format!("LicenseRef-{plain}-{}", &digest[..8]);
        self.other.insert(id.clone(), text.to_owned());
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, license: Option<&str>) -> Package {
        Package {
            purl: format!("pkg:apk/alpine/{name}@1"),
            kind: "apk",
            name: name.to_owned(),
            version: "1".to_owned(),
            license: license.map(str::to_owned),
            supplier: Some("Jane Doe <jane@example.org>".to_owned()),
            found_in: "lib/apk/db/installed".to_owned(),
            ..Package::default()
        }
    }

    #[test]
    fn a_document_has_what_spdx_wants() {
        let contents = Contents {
            os: Os { id: "alpine".into(), version: "3.18".into(), name: String::new() },
            packages: vec![
                package("zlib", Some("Zlib")),
                package("a+b", None),
                package("zlib", Some("Zlib")),
            ],
            unread: vec!["var/lib/rpm/rpmdb.sqlite".into()],
        };
        let image = Digest::of(b"image");
        let made = document(&contents, "app:1", &image, "2009-02-13T23:31:30Z");
        for key in ["spdxVersion", "dataLicense", "SPDXID", "name", "documentNamespace"] {
            assert!(made[key].is_string(), "{key}");
        }
        assert_eq!(made["creationInfo"]["created"], "2009-02-13T23:31:30Z");
        let packages = made["packages"].as_array().expect("a list");
        assert_eq!(packages.len(), 4, "the image, its system, and each package once");
        let ids: BTreeSet<&str> =
            packages.iter().filter_map(|package| package["SPDXID"].as_str()).collect();
        assert_eq!(ids.len(), 4);
        for id in &ids {
            let valid = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
            assert!(id.strip_prefix("SPDXRef-").is_some_and(|id| id.chars().all(valid)), "{id}");
        }
        for relation in made["relationships"].as_array().expect("a list") {
            let to = relation["relatedSpdxElement"].as_str().unwrap_or_default();
            assert!(ids.contains(to), "{to}");
        }
        assert_eq!(packages[2]["name"], "a+b");
        assert_eq!(packages[2]["supplier"], "Organization: Jane Doe (jane@example.org)");
        assert_eq!(packages[3]["licenseDeclared"], "Zlib");
        assert!(made["comment"].as_str().is_some_and(|text| text.contains("rpmdb.sqlite")));
        assert_eq!(made, document(&contents, "app:1", &image, "2009-02-13T23:31:30Z"));
    }

    #[test]
    fn licences_become_valid_expressions() {
        let mut licenses = Licenses::default();
        for (text, want) in [
            ("MIT", "MIT"),
            ("GPL-2.0-or-later AND (MIT OR ISC)", "GPL-2.0-or-later AND (MIT OR ISC)"),
            ("", NO_ASSERTION),
        ] {
            assert_eq!(licenses.expression(text), want);
        }
        assert!(licenses.other.is_empty());
        let id = licenses.expression("BSD License, see COPYING");
        assert!(id.starts_with("LicenseRef-BSD-License--see-COPYING-"), "{id}");
        assert_eq!(licenses.other[&id], "BSD License, see COPYING");
        let mixed = licenses.expression("MIT AND Custom");
        assert!(mixed.starts_with("MIT AND LicenseRef-Custom-"), "{mixed}");
    }
}
