//! SecretInLayer: looks for the values of secrets in the files that a RUN made.
//!
//! Every RUN of a build that was given secrets is looked at, before its layer is kept: a step that
//! does not mount one may still meet it, in a cache mount or below. Files are read once, in pieces,
//! so the search costs what reading them costs and no memory to speak of. Values are looked for as
//! they are, without white space around them: what is compressed or encoded is not found.
//!
//! Start reading at [`search`].

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::Path;

use memchr::memmem::Finder;

use crate::dockerfile::Rule;
use crate::layer::toc::{KindRef, Toc};
use crate::snapshot::Contents;

use super::advice::Checks;
use super::error::{Failure, Kind};

/// Shorter values are not looked for: they are found in files that have nothing to do with them.
const SHORTEST: usize = 8;
/// Shorter ones need a digit: `[global]` is in every second file of settings.
const PLAIN: usize = 12;
/// How much of a file is read at a time.
const PIECE: usize = 256 << 10;

/// One value to look for.
struct Needle<'a> {
    id: &'a str,
    finder: Finder<'a>,
}

/// Fails when a file of the layer in `dir` holds the value of a secret.
pub fn search(
    checks: &Checks<'_>,
    secrets: &BTreeMap<String, Vec<u8>>,
    node: &crate::graph::Node,
    dir: &Path,
    toc: &Toc,
) -> Result<(), Failure> {
    let needles: Vec<Needle<'_>> = secrets
        .iter()
        .map(|(id, value)| (id, value.trim_ascii()))
        .filter(|(_, value)| is_telling(value))
        .map(|(id, value)| Needle { id, finder: Finder::new(value) })
        .collect();
    let Some(shortest) = needles.iter().map(|needle| needle.finder.needle().len()).min() else {
        return Ok(());
    };
    if !checks.allow(Rule::SecretInLayer, node) {
        return Ok(());
    }
    let unreadable = |error: &(dyn std::error::Error + 'static)| {
        Failure::of(Kind::Store, "cannot look for secrets in the step's layer", error)
    };
    let contents = Contents::open(dir).map_err(|error| unreadable(&error))?;
    for entry in toc.iter() {
        let KindRef::File { size, .. } = entry.kind else { continue };
        if size < shortest as u64 {
            continue;
        }
        let path = entry.root_path();
        let mut file = contents.file(&path).map_err(|error| unreadable(&error))?;
        let found = find(&mut file, &needles).map_err(|error| unreadable(&error))?;
        if let Some(id) = found {
            let name = Rule::SecretInLayer.name();
            return Err(Failure::new(
                Kind::Step,
                format!(
                    "the value of the secret {id:?} is in {path}, which would be in the image \
                     for all to read ({name})"
                ),
            )
            .with_hint("write it to a mount instead, as --mount=type=tmpfs, or remove the file in the same RUN")
            .with_hint(format!("where the value is no secret: # check=skip={name}")));
        }
    }
    Ok(())
}

/// Says whether a value, met in a file, can only come from the secret. Certificates are handed in as
/// secrets to leave no trace, and are in every image that trusts them.
fn is_telling(value: &[u8]) -> bool {
    let has = |text: &[u8]| memchr::memmem::find(value, text).is_some();
    let is_public = value.starts_with(b"-----BEGIN CERTIFICATE-----") && !has(b"PRIVATE KEY-----");
    let is_long = value.len() >= PLAIN;
    !is_public && value.len() >= SHORTEST && (is_long || value.iter().any(u8::is_ascii_digit))
}

/// Finds the first of the needles that a file holds.
fn find<'a>(file: &mut dyn Read, needles: &[Needle<'a>]) -> io::Result<Option<&'a str>> {
    let longest = needles.iter().map(|needle| needle.finder.needle().len()).max().unwrap_or(0);
    let mut buffer = vec![0; PIECE.max(2 * longest)];
    let mut filled = 0;
    loop {
        let count = match file.read(&mut buffer[filled..]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        filled += count;
        if count == 0 || filled == buffer.len() {
            for needle in needles {
                if needle.finder.find(&buffer[..filled]).is_some() {
                    return Ok(Some(needle.id));
                }
            }
            // A value may begin in this piece and end in the next.
            let kept = filled.min(longest.saturating_sub(1));
            buffer.copy_within(filled - kept..filled, 0);
            filled = kept;
        }
        if count == 0 {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a few bytes at a time.
    struct Drips<'a>(&'a [u8], usize);

    impl Read for Drips<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = buffer.len().min(self.0.len()).min(self.1);
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn found(bytes: &[u8], drip: usize, values: &[&'static str]) -> Option<&'static str> {
        let needles: Vec<Needle<'static>> =
            values.iter().map(|value| Needle { id: value, finder: Finder::new(*value) }).collect();
        find(&mut Drips(bytes, drip), &needles).expect("it can be read")
    }

    proptest! {
        #[test]
        fn a_value_is_found_wherever_it_lies(at in 0usize..2 * PIECE + 20, drip in 1000usize..PIECE * 2) {
            let mut bytes = vec![b'x'; at];
            prop_assert_eq!(found(&bytes, drip, &["s3cr3t-value", "other"]), None);
            bytes.extend_from_slice(b"s3cr3t-value");
            prop_assert_eq!(found(&bytes, drip, &["absent-value", "s3cr3t-value"]), Some("s3cr3t-value"));
            bytes.extend_from_slice(&[b'y'; 100]);
            prop_assert_eq!(found(&bytes, drip, &["s3cr3t-value"]), Some("s3cr3t-value"));
        }
    }

    #[test]
    fn what_is_found_anywhere_or_public_is_not_looked_for() {
        for (value, telling) in [
            ("hunter2", false),
            ("[global]", false),
            ("hunter2hunter2", true),
            ("correct horse battery", true),
            ("pa55word", true),
            ("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----", false),
            (
                "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n",
                true,
            ),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n", true),
        ] {
            assert_eq!(is_telling(value.as_bytes()), telling, "{value}");
        }
    }

    #[test]
    fn empty_files_hold_nothing() {
        assert_eq!(found(b"", 10, &["s3cr3t-value"]), None);
    }
}
