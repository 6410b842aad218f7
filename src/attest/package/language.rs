//! Packages of languages: Python, npm, Cargo.

use serde_json::Value;

use super::{Package, simple};

/// Reads METADATA or PKG-INFO (Python's core metadata): headers of a mail.
pub(super) fn python(text: &str) -> Option<Package> {
    let header = |key: &str| {
        let head = text.lines().take_while(|line| !line.trim().is_empty());
        let mut found = head.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case(key).then(|| value.trim().to_owned())
        });
        found.next().filter(|value| !value.is_empty() && value != "UNKNOWN")
    };
    let (name, version) = (header("Name")?, header("Version")?);
    // The name in a package URL is normalised (PEP 503).
    let mut normal = String::new();
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            c => normal.push(c.to_ascii_lowercase()),
        }
    }
    let supplier = match (header("Author"), header("Author-email")) {
        (Some(author), Some(mail)) if !mail.contains('<') => Some(format!("{author} <{mail}>")),
        (None, mail) => mail,
        (author, _) => author,
    };
    Some(Package {
        name,
        license: header("License-Expression").or_else(|| header("License")),
        homepage: header("Home-page"),
        supplier,
        ..simple("pypi", "", &normal, &version)
    })
}

/// Reads `package.json`.
pub(super) fn npm(bytes: &[u8]) -> Option<Package> {
    let value: Value = serde_json::from_slice(bytes).ok()?;
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let (name, version) = (text(&value["name"])?, text(&value["version"])?);
    let (namespace, bare) = match name.split_once('/') {
        Some((scope, bare)) if scope.starts_with('@') => (scope, bare),
        _ => ("", name.as_str()),
    };
    let license = &value["license"];
    let author = &value["author"];
    Some(Package {
        license: text(license).or_else(|| text(&license["type"])),
        homepage: text(&value["homepage"]),
        supplier: text(author).or_else(|| text(&author["name"])),
        ..simple("npm", namespace, bare, &version)
    })
}

/// Reads `Cargo.lock`: its tables of packages, as Cargo writes them, a key a line.
pub(super) fn cargo(text: &str) -> Vec<Package> {
    let mut out = Vec::new();
    for table in text.split("[[package]]").skip(1) {
        // The next table of another kind ends it.
        let own = table.split("\n[").next().unwrap_or_default();
        let get = |key: &str| {
            own.lines().find_map(|line| {
                let (name, value) = line.split_once('=')?;
                (name.trim() == key).then(|| value.trim().trim_matches('"').to_owned())
            })
        };
        if let (Some(name), Some(version)) = (get("name"), get("version")) {
            out.push(simple("cargo", "", &name, &version));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_distributions() {
        let text = "Metadata-Version: 2.1\nName: Foo_Bar.baz\nVersion: 1.0\nLicense: MIT\n\
                    Author: Jane\nAuthor-email: jane@example\nHome-page: UNKNOWN\n\nName: not this\n";
        let found = python(text).expect("it is one");
        assert_eq!(found.purl, "pkg:pypi/foo-bar-baz@1.0");
        assert_eq!(found.name, "Foo_Bar.baz");
        assert_eq!(found.supplier.as_deref(), Some("Jane <jane@example>"));
        assert_eq!((found.license.as_deref(), found.homepage), (Some("MIT"), None));
        assert_eq!(python("Name: x\n"), None);
    }

    #[test]
    fn npm_packages() {
        for (text, want) in [
            (
                r#"{"name":"left-pad","version":"1.3.0","license":"WTFPL"}"#,
                Some("pkg:npm/left-pad@1.3.0"),
            ),
            (
                r#"{"name":"@a/b","version":"2.0.0-rc.1","license":{"type":"MIT"}}"#,
                Some("pkg:npm/%40a/b@2.0.0-rc.1"),
            ),
            (r#"{"name":"x"}"#, None),
            ("{", None),
        ] {
            assert_eq!(npm(text.as_bytes()).map(|found| found.purl).as_deref(), want);
        }
        let named = npm(br#"{"name":"@a/b","version":"1"}"#).map(|found| found.name);
        assert_eq!(named.as_deref(), Some("@a/b"));
    }

    #[test]
    fn cargo_locks() {
        let text = "version = 4\n\n[[package]]\nname = \"serde\"\nversion = \"1.0.1\"\n\
                    source = \"registry+https://x\"\ndependencies = [\n \"a\",\n]\n\n[[package]]\n\
                    name = \"own\"\nversion = \"0.1.0\"\n\n[metadata]\nname = \"no\"\n";
        let purls: Vec<String> = cargo(text).into_iter().map(|found| found.purl).collect();
        assert_eq!(purls, ["pkg:cargo/serde@1.0.1", "pkg:cargo/own@0.1.0"]);
    }
}
