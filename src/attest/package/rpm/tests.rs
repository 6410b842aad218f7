//! Databases that rpm and Berkeley DB wrote (testdata/rpm), and one made by the book.

use super::*;

const SQLITE: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/rpm/rpmdb.sqlite.zst"));
const BERKELEY: &[u8] =
    include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/rpm/Packages.zst"));
const EXPECTED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/rpm/expected"));

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    zstd::decode_all(bytes).unwrap()
}

fn os() -> Os {
    Os { id: "rocky".into(), version: "9".into(), name: String::new() }
}

/// Puts blobs into a file of rpm's own kind (rpm: `lib/backend/ndb/rpmpkg.c`).
fn ndb_of(blobs: &[Vec<u8>]) -> Vec<u8> {
    let mut slots = Vec::new();
    let mut body = Vec::new();
    for (number, blob) in blobs.iter().enumerate() {
        let number = number as u32 + 1;
        let place = (4096 + body.len()) / 16;
        let begin = body.len();
        for word in [u32::from_le_bytes(*b"BlbS"), number, 7, blob.len() as u32] {
            body.extend_from_slice(&word.to_le_bytes());
        }
        body.extend_from_slice(blob);
        // Checksum, length and end of the tail stand at the end of the last block.
        body.resize(begin + (body.len() - begin + 12).next_multiple_of(16), 0);
        let blocks = (body.len() - begin) / 16;
        for word in [u32::from_le_bytes(*b"Slot"), number, place as u32, blocks as u32] {
            slots.extend_from_slice(&word.to_le_bytes());
        }
    }
    let mut file = Vec::new();
    for word in [u32::from_le_bytes(*b"RpmP"), 0, 3, 1, blobs.len() as u32 + 1, 0, 0, 0] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file.extend_from_slice(&slots);
    while file.len() < 4096 {
        file.extend_from_slice(b"Slot\0\0\0\0\0\0\0\0\0\0\0\0");
    }
    file.extend_from_slice(&body);
    file
}

fn databases() -> [Vec<u8>; 3] {
    let sqlite = unpacked(SQLITE);
    let ndb = ndb_of(&sqlite::blobs(&sqlite, "Packages").unwrap());
    [sqlite, unpacked(BERKELEY), ndb]
}

#[test]
fn all_kinds_tell_what_rpm_tells() {
    for (kind, database) in databases().iter().enumerate() {
        let mut found: Vec<String> = packages(database, &os())
            .unwrap()
            .into_iter()
            .map(|package| {
                let none = || "(none)".to_owned();
                let (epoch, plain) = match package.version.split_once(':') {
                    Some((epoch, plain)) => (epoch.to_owned(), plain.to_owned()),
                    None => (none(), package.version.clone()),
                };
                let of = |key: &str| {
                    let found =
                        package.purl.split(['?', '&']).find_map(|part| part.strip_prefix(key));
                    found.unwrap_or_default().to_owned()
                };
                let license = package.license.unwrap_or_else(none);
                let (vendor, url) =
                    (package.supplier.unwrap_or_else(none), package.homepage.unwrap_or_else(none));
                let (name, arch, source) = (&package.name, of("arch="), of("upstream="));
                format!("{name}|{epoch}|{plain}|{arch}|{license}|{vendor}|{url}|{source}")
            })
            .collect();
        found.sort();
        assert_eq!(found.join("\n"), EXPECTED.trim_end(), "{kind}");
    }
}

#[test]
fn package_urls_are_those_of_the_specification() {
    let [database, ..] = databases();
    let all = packages(&database, &os()).unwrap();
    let of = |name: &str| &all.iter().find(|package| package.name == name).unwrap().purl;
    assert_eq!(
        of("plank-10"),
        "pkg:rpm/rocky/plank-10@1.10-3.el9?arch=noarch&distro=rocky-9&epoch=2&upstream=plank-10-1.10-3.el9.src.rpm"
    );
    assert!(all.iter().all(|package| package.name != "gpg-pubkey"));
    // Without an os-release.
    assert!(packages(&database, &Os::default()).unwrap()[0].purl.starts_with("pkg:rpm/rpm/plank-"));
}

#[test]
fn what_is_damaged_is_told_or_gives_less_and_never_more() {
    let whole = 40;
    for database in databases() {
        for length in (0..database.len()).step_by(4099) {
            let found = packages(&database[..length], &os()).map_or(0, |found| found.len());
            assert!(found <= whole, "{length}: {found}");
        }
        // Every byte of what steers most, some of the rest.
        let steps = (0..128).chain((128..4096).step_by(61));
        let mut changed = database.clone();
        for at in steps.chain((4096..database.len()).step_by(5003)) {
            for change in [0x01, 0xff] {
                changed[at] ^= change;
                let found = packages(&changed, &os()).unwrap_or_default();
                let size: usize = found.iter().map(|package| package.name.len()).sum();
                assert!(size <= database.len(), "{at}");
                changed[at] ^= change;
            }
        }
    }
    for bytes in [&b""[..], b"SQLite format 3\0", b"RpmP", &[0; 5000]] {
        assert_eq!(packages(bytes, &os()), None);
    }
}
