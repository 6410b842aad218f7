//! PAX records: `LENGTH KEY=VALUE\n`, where LENGTH counts all of it. Values are bytes and may hold
//! newlines and NULs (binary xattrs do), so records are cut by length only.

use std::collections::BTreeMap;

use super::Problem;
use super::sparse::{Map, Segment};
use super::{MOST_SEGMENTS, header};
use crate::layer::toc::Xattrs;

/// What the records of one header say. Keys that mean nothing to layers are dropped at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link_path: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<i64>,
    /// Name → value; None unsets what a global header gave.
    pub(super) xattrs: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pub(super) sparse: SparseKeys,
}

/// GNU's keys for sparse files, in their three versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SparseKeys {
    pub(super) major: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Of version 0.0 and 0.1.
    pub(super) map: Map,
    pub(super) blocks: Option<u64>,
    offset: Option<u64>,
}

impl SparseKeys {
    /// Says whether the entry is a sparse file.
    pub(super) fn is_sparse(&self) -> bool {
        self.major.is_some() || self.real_size.is_some() || self.blocks.is_some()
    }
}

impl Pax {
    /// Reads all records of an extended header.
    pub(super) fn parse(mut body: &[u8]) -> Result<Pax, Problem> {
        let mut pax = Pax::default();
        while !body.is_empty() {
            let record = Record::cut(body)?;
            pax.set(record.key, record.value)?;
            body = record.rest;
        }
        Ok(pax)
    }

    /// Refuses what a global header must not say: it would rename or resize all entries.
    pub(super) fn check_global(&self) -> Result<(), Problem> {
        for (key, given) in [
            ("path", self.path.is_some()),
            ("linkpath", self.link_path.is_some()),
            ("size", self.size.is_some()),
            ("GNU.sparse", self.sparse != SparseKeys::default()),
        ] {
            if given {
                return Err(Problem::PaxGlobal(key));
            }
        }
        Ok(())
    }

    /// Lays the records of `over` on top.
    pub(super) fn merge(&mut self, over: Pax) {
        self.path = over.path.or(self.path.take());
        self.link_path = over.link_path.or(self.link_path.take());
        self.size = over.size.or(self.size);
        self.uid = over.uid.or(self.uid);
        self.gid = over.gid.or(self.gid);
        self.mtime = over.mtime.or(self.mtime);
        self.xattrs.extend(over.xattrs);
        if over.sparse.is_sparse() {
            self.sparse = over.sparse;
        }
    }

    fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Problem> {
        let text = |name: &'static str| match value.contains(&0) {
            true => Err(Problem::Nul(name)),
            // An empty value unsets, which for these means to take the header's.
            false => Ok((!value.is_empty()).then(|| value.to_vec())),
        };
        match key {
            b"path" => self.path = text("path")?,
            b"linkpath" => self.link_path = text("link target")?,
            b"size" => self.size = unsigned("size", value)?,
            b"uid" => self.uid = unsigned("uid", value)?.map(saturate),
            b"gid" => self.gid = unsigned("gid", value)?.map(saturate),
            b"mtime" => self.mtime = seconds(value)?,
            b"GNU.sparse.major" => self.sparse.major = unsigned("GNU.sparse.major", value)?,
            b"GNU.sparse.minor" => {
                if unsigned("GNU.sparse.minor", value)?.is_some_and(|minor| minor > 1) {
                    return Err(Problem::PaxValue("GNU.sparse.minor"));
                }
            }
            b"GNU.sparse.name" => self.sparse.name = text("path")?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = unsigned("GNU.sparse.realsize", value)?;
            }
            b"GNU.sparse.numblocks" => {
                self.sparse.blocks = unsigned("GNU.sparse.numblocks", value)?;
            }
            b"GNU.sparse.offset" => self.sparse.offset = unsigned("GNU.sparse.offset", value)?,
            b"GNU.sparse.numbytes" => {
                let length = unsigned("GNU.sparse.numbytes", value)?;
                let (Some(offset), Some(length)) = (self.sparse.offset.take(), length) else {
                    return Err(Problem::Sparse("a length without an offset"));
                };
                push(&mut self.sparse.map, Segment { offset, length })?;
            }
            b"GNU.sparse.map" => {
                let numbers: Vec<&[u8]> = value.split(|&b| b == b',').collect();
                for pair in numbers.chunks(2) {
                    let [offset, length] = pair else {
                        return Err(Problem::Sparse("a map with an odd number of numbers"));
                    };
                    let number =
                        |digits: &[u8]| decimal(digits).ok_or(Problem::PaxValue("GNU.sparse.map"));
                    let (offset, length) = (number(offset)?, number(length)?);
                    push(&mut self.sparse.map, Segment { offset, length })?;
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    if name.is_empty() || name.contains(&0) {
                        return Err(Problem::Pax("an xattr without a proper name"));
                    }
                    self.xattrs.insert(name.to_vec(), Some(value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn push(map: &mut Map, segment: Segment) -> Result<(), Problem> {
    if map.len() >= MOST_SEGMENTS {
        return Err(Problem::Sparse("too many pieces"));
    }
    map.push(segment);
    Ok(())
}

/// The first record of a body, and what follows it.
struct Record<'a> {
    key: &'a [u8],
    value: &'a [u8],
    rest: &'a [u8],
}

impl Record<'_> {
    fn cut(body: &[u8]) -> Result<Record<'_>, Problem> {
        let space = body.iter().take(20).position(|&b| b == b' ');
        let space = space.ok_or(Problem::Pax("no length"))?;
        let length = decimal(&body[..space]).ok_or(Problem::Pax("length is not a number"))?;
        let length = usize::try_from(length).map_err(|_| Problem::Pax("length is too large"))?;
        // At least a space, a key of one byte, `=` and a newline.
        if length > body.len() || length < space + 4 {
            return Err(Problem::Pax("length does not fit"));
        }
        let (record, rest) = body.split_at(length);
        let Some(record) = record[space + 1..].strip_suffix(b"\n") else {
            return Err(Problem::Pax("no newline at the end"));
        };
        let equals = record.iter().position(|&b| b == b'=');
        let equals = equals.filter(|&at| at > 0).ok_or(Problem::Pax("no key"))?;
        Ok(Record { key: &record[..equals], value: &record[equals + 1..], rest })
    }
}

/// Reads decimal digits and nothing else.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 20 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn unsigned(key: &'static str, value: &[u8]) -> Result<Option<u64>, Problem> {
    match value.is_empty() {
        true => Ok(None),
        false => decimal(value).map(Some).ok_or(Problem::PaxValue(key)),
    }
}

/// Ids beyond the signed range are refused later, as all that are no ids.
fn saturate(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

/// Reads seconds with a fraction, rounded down.
fn seconds(value: &[u8]) -> Result<Option<i64>, Problem> {
    const PROBLEM: Problem = Problem::PaxValue("mtime");
    if value.is_empty() {
        return Ok(None);
    }
    let (negative, digits) = match value.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, value),
    };
    let mut parts = digits.splitn(2, |&b| b == b'.');
    let whole = parts.next().and_then(decimal).ok_or(PROBLEM)?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(PROBLEM);
    }
    let whole = i64::try_from(whole).map_err(|_| PROBLEM)?;
    let rest = i64::from(fraction.iter().any(|&b| b != b'0'));
    let seconds = if negative { (-whole).checked_sub(rest) } else { Some(whole) };
    seconds.map(Some).ok_or(PROBLEM)
}

/// Builds the body of an extended header; keys come out sorted.
#[derive(Debug, Default)]
pub(super) struct Records(BTreeMap<Vec<u8>, Vec<u8>>);

impl Records {
    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) {
        self.0.insert(key.to_vec(), value.to_vec());
    }

    pub(super) fn set_xattrs(&mut self, xattrs: &Xattrs) {
        for (name, value) in xattrs {
            self.0.insert([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for (key, value) in &self.0 {
            // Space, equals sign and newline, then the digits of the length, which count themselves.
            let bare = key.len() + value.len() + 3;
            let mut length = bare + bare.to_string().len();
            if length.to_string().len() > bare.to_string().len() {
                length = bare + length.to_string().len();
            }
            body.extend_from_slice(format!("{length} ").as_bytes());
            body.extend_from_slice(key);
            body.push(b'=');
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        body
    }
}

/// Gives the header block in front of an extended header's body.
pub(super) fn local_header(entry_name: &[u8], body_len: usize) -> header::Header {
    let mut header = header::Header::ustar(b'x');
    let trimmed = entry_name.strip_suffix(b"/").unwrap_or(entry_name);
    let base = trimmed.rsplit(|&b| b == b'/').next().unwrap_or_default();
    let name = [b"PaxHeaders.0/", &base[..base.len().min(80)]].concat();
    let fits = header.set_name(&name);
    debug_assert!(fits, "93 bytes fit");
    header.set_mode(0o644);
    header.set_size(body_len as u64);
    header.seal();
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_cut_by_length() {
        let mut records = Records::default();
        records.set(b"SCHILY.xattr.user.x", b"a\n17 path=/etc/x\n\0=");
        records.set(b"path", b"p");
        let body = records.body();
        let pax = Pax::parse(&body).expect("own records");
        assert_eq!(pax.path.as_deref(), Some(&b"p"[..]));
        assert_eq!(pax.xattrs[&b"user.x"[..]].as_deref(), Some(&b"a\n17 path=/etc/x\n\0="[..]));
    }

    #[test]
    fn the_length_counts_its_own_digits() {
        for value_len in 0..1200 {
            let mut records = Records::default();
            records.set(b"path", &vec![b'x'; value_len]);
            let body = records.body();
            let record = Record::cut(&body).expect("own record");
            assert_eq!(record.key, b"path");
            assert_eq!((record.value.len(), record.rest.len()), (value_len, 0));
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        for body in [
            &b"path=x\n"[..],
            b"x path=x\n",
            b"9 path=xy\n",
            b"99 path=x\n",
            b"-10 path=x\n",
            b"+9 path=x\n",
            b"5 =x\n",
            b"8 pathx\n",
            b"10 path=x\n\0\0",
            b"4 \n",
            b"0 \n",
            b"99999999999999999999 path=x\n",
        ] {
            assert!(Pax::parse(body).is_err(), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn times_are_rounded_down() {
        for (text, expect) in [
            ("0", Some(0)),
            ("1.999999999", Some(1)),
            ("-1", Some(-1)),
            ("-1.5", Some(-2)),
            ("-1.000", Some(-1)),
            ("1.", Some(1)),
            ("9223372036854775807", Some(i64::MAX)),
            ("9223372036854775808", None),
            ("1e9", None),
            ("--1", None),
            (".5", None),
        ] {
            assert_eq!(seconds(text.as_bytes()).ok().flatten(), expect, "{text}");
        }
    }
}
