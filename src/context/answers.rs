//! Answers: what was computed from a context, kept from build to build for as long as it looks the same.
//!
//! A build that changes nothing asks of a context what the one before asked: the digest of what a COPY
//! selects. [`super::walk::Forest::print`] stands for everything that such an answer depends on, the
//! contents of files included ([`super::print`] says why), so that neither the table of contents nor the
//! stat cache is needed to give it again. Over 100,000 files that saves a third of the time.
//!
//! ```text
//! file = "lapstrake-answer", print 32 bytes, (question 32 bytes, answer 32 bytes)*, checksum u64 (little-endian)
//! ```
//!
//! Answers are only kept of a context in which nothing changed right before it was listed: see "Racily
//! clean files" in [`super::stat`].

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;

use super::print::checksum;
use crate::oci::Digest;

const MAGIC: &[u8; 16] = b"lapstrake-answer";

/// The most answers that are kept; far more COPY instructions than Dockerfiles of one context have.
const MOST: usize = 4096;

/// Bytes of a digest.
const DIGEST: usize = 32;

/// Answers about one state of a context.
#[derive(Default)]
pub(super) struct Answers {
    known: BTreeMap<Digest, Digest>,
    /// Whether there are any that the file does not have.
    news: bool,
}

impl Answers {
    /// Reads what is known of the state `print`. A file that is damaged, or about another state, knows
    /// nothing.
    pub(super) fn load(path: &Path, print: &Digest) -> Answers {
        let mut bytes = Vec::new();
        let most = (MAGIC.len() + DIGEST + MOST * 2 * DIGEST + 8) as u64;
        let read =
            std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes));
        let known = read.ok().and_then(|_| parse(&bytes, print)).unwrap_or_default();
        Answers { known, news: false }
    }

    /// Gives the answer to a question.
    pub(super) fn get(&self, question: &Digest) -> Option<Digest> {
        self.known.get(question).copied()
    }

    /// Keeps an answer.
    pub(super) fn insert(&mut self, question: Digest, answer: Digest) {
        if self.known.len() < MOST {
            self.news |= self.known.insert(question, answer) != Some(answer);
        }
    }

    /// Writes the file by way of one in `scratch`, if there is anything new; gives whether it did.
    pub(super) fn save(&mut self, path: &Path, scratch: &Path, print: &Digest) -> io::Result<bool> {
        if !self.news {
            return Ok(false);
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(print.as_bytes());
        for (question, answer) in &self.known {
            bytes.extend_from_slice(question.as_bytes());
            bytes.extend_from_slice(answer.as_bytes());
        }
        bytes.extend_from_slice(&checksum(0, &bytes).to_le_bytes());
        let mut tmp = tempfile::Builder::new().prefix("answers-").tempfile_in(scratch)?;
        tmp.write_all(&bytes)?;
        tmp.persist(path).map_err(|error| error.error)?;
        self.news = false;
        Ok(true)
    }
}

fn parse(bytes: &[u8], print: &Digest) -> Option<BTreeMap<Digest, Digest>> {
    let (bytes, sum) = bytes.split_last_chunk::<8>()?;
    if checksum(0, bytes) != u64::from_le_bytes(*sum) {
        return None;
    }
    let bytes = bytes.strip_prefix(MAGIC)?.strip_prefix(print.as_bytes())?;
    let pairs = bytes.chunks_exact(2 * DIGEST);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let digest = |bytes: &[u8]| bytes.try_into().ok().map(Digest::from_bytes);
    pairs.map(|pair| Some((digest(&pair[..DIGEST])?, digest(&pair[DIGEST..])?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_for_the_same_state_and_from_a_whole_file_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("answers");
        let (state, other) = (Digest::of(b"state"), Digest::of(b"other"));
        let question = |n: u8| Digest::of(&[n]);
        let mut answers = Answers::load(&path, &state);
        assert_eq!(answers.get(&question(0)), None);
        assert!(!answers.save(&path, dir.path(), &state).unwrap(), "nothing to say");
        for n in 0..3 {
            answers.insert(question(n), Digest::of(&[n, n]));
        }
        assert!(answers.save(&path, dir.path(), &state).unwrap());
        let mut again = Answers::load(&path, &state);
        for n in 0..3 {
            assert_eq!(again.get(&question(n)), Some(Digest::of(&[n, n])));
        }
        again.insert(question(1), Digest::of(&[1, 1]));
        assert!(!again.save(&path, dir.path(), &state).unwrap(), "nothing new");
        assert_eq!(Answers::load(&path, &other).get(&question(0)), None);

        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length], &state), None, "{length}");
        }
        for at in 0..whole.len() {
            let mut altered = whole.clone();
            altered[at] ^= 4;
            assert_eq!(parse(&altered, &state), None, "{at}");
        }
    }
}
