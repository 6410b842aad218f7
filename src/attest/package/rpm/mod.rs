//! The database of rpm: headers of packages, in one of three kinds of files.
//!
//! | file | kind | of |
//! |---|---|---|
//! | `rpmdb.sqlite` | SQLite | Fedora 33, RHEL 9 and later |
//! | `Packages.db` | ndb | SUSE |
//! | `Packages` | Berkeley DB, hash | RHEL 8 and before |
//!
//! Each holds the headers as rpm's `headerExport` writes them (lib/header.c): two counts, an index of
//! tags, and their data. What a file may claim is bounded by its size: every piece is looked at once.

mod berkeley;
mod ndb;
mod sqlite;

use super::{Os, Package};
use crate::attest::purl::purl;

/// Tags of headers (rpm: `rpmtag.h`).
const NAME: u32 = 1000;
const VERSION: u32 = 1001;
const RELEASE: u32 = 1002;
const EPOCH: u32 = 1003;
const VENDOR: u32 = 1011;
const LICENSE: u32 = 1014;
const URL: u32 = 1020;
const ARCH: u32 = 1022;
const SOURCE: u32 = 1044;

/// Types of tags.
const INT32: u32 = 4;
const STRING: u32 = 6;
const I18N: u32 = 9;

/// Reads a database; None when it is none that is known.
pub(super) fn packages(bytes: &[u8], os: &Os) -> Option<Vec<Package>> {
    let headers = match bytes {
        _ if bytes.starts_with(sqlite::MAGIC) => sqlite::blobs(bytes, "Packages")?,
        _ if bytes.starts_with(ndb::MAGIC) => ndb::blobs(bytes)?,
        _ => berkeley::values(bytes)?,
    };
    Some(headers.iter().filter_map(|blob| package(&Header::read(blob)?, os)).collect())
}

fn package(header: &Header<'_>, os: &Os) -> Option<Package> {
    let (name, version, release) =
        (header.text(NAME)?, header.text(VERSION)?, header.text(RELEASE)?);
    // Keys of signatures are kept as packages, and are none.
    if name == "gpg-pubkey" {
        return None;
    }
    let epoch = header.number(EPOCH).filter(|epoch| *epoch > 0).map(|epoch| epoch.to_string());
    let plain = format!("{version}-{release}");
    let namespace = if os.id.is_empty() { "rpm" } else { &os.id };
    let (arch, source) = (header.text(ARCH), header.text(SOURCE));
    let distro = os.distro();
    let qualifiers = [
        ("arch", arch.as_deref().unwrap_or_default()),
        ("distro", distro.as_str()),
        ("epoch", epoch.as_deref().unwrap_or_default()),
        ("upstream", source.as_deref().unwrap_or_default()),
    ];
    let known = |tag| header.text(tag).filter(|text| !text.is_empty());
    Some(Package {
        purl: purl("rpm", namespace, &name, &plain, &qualifiers),
        kind: "rpm",
        version: epoch.map_or_else(|| plain.clone(), |epoch| format!("{epoch}:{plain}")),
        supplier: known(VENDOR),
        license: known(LICENSE),
        homepage: known(URL),
        name,
        ..Package::default()
    })
}

/// The header of a package.
struct Header<'a> {
    index: &'a [u8],
    data: &'a [u8],
}

impl<'a> Header<'a> {
    /// Bytes of an entry of the index: tag, type, offset, count.
    const ENTRY: usize = 16;

    fn read(blob: &'a [u8]) -> Option<Header<'a>> {
        let entries = usize::try_from(big(blob, 0)?).ok()?;
        let length = usize::try_from(big(blob, 4)?).ok()?;
        let index = entries.checked_mul(Self::ENTRY)?;
        let rest = blob.get(8..)?;
        Some(Header { index: rest.get(..index)?, data: rest.get(index..)?.get(..length)? })
    }

    /// Finds a tag: its type and data.
    fn find(&self, tag: u32) -> Option<(u32, &'a [u8])> {
        let mut entries = self.index.chunks_exact(Self::ENTRY);
        let entry = entries.find(|entry| big(entry, 0) == Some(tag))?;
        let offset = usize::try_from(big(entry, 8)?).ok()?;
        Some((big(entry, 4)?, self.data.get(offset..)?))
    }

    /// Gives a text; the first one where there are several languages.
    fn text(&self, tag: u32) -> Option<String> {
        let (kind, data) = self.find(tag)?;
        let end = data.iter().position(|byte| *byte == 0)?;
        matches!(kind, STRING | I18N).then(|| String::from_utf8_lossy(&data[..end]).into_owned())
    }

    fn number(&self, tag: u32) -> Option<u32> {
        let (kind, data) = self.find(tag)?;
        (kind == INT32).then(|| big(data, 0))?
    }
}

/// Reads a number of four bytes, the largest first.
fn big(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(four.try_into().ok()?))
}

/// Reads a number of four bytes, the smallest first.
fn little(bytes: &[u8], at: usize) -> Option<u32> {
    big(bytes, at).map(u32::swap_bytes)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
