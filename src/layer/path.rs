//! [`RootPath`]: a path inside an image, never handed to std::fs.

use std::fmt;

/// A normalised path inside an image: relative to its root, bytes, no leading or trailing slash, no
/// empty, `.` or `..` component. The root itself is the empty path.
///
/// Ordered component by component, so that a directory comes right before what it holds
/// (`a`, `a/b`, `a-b`: the slash sorts before every other byte).
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct RootPath(Vec<u8>);

impl RootPath {
    /// The root of the image.
    pub fn root() -> RootPath {
        RootPath::default()
    }

    /// Makes a path lexically clean: slashes collapsed, `.` dropped, `..` removes the component
    /// before it and is clamped at the root.
    pub fn clean(path: &[u8]) -> RootPath {
        let mut out: Vec<u8> = Vec::with_capacity(path.len());
        for part in path.split(|&b| b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    let cut = out.iter().rposition(|&b| b == b'/').unwrap_or(0);
                    out.truncate(cut);
                }
                _ => {
                    if !out.is_empty() {
                        out.push(b'/');
                    }
                    out.extend_from_slice(part);
                }
            }
        }
        RootPath(out)
    }

    /// Takes bytes that are clean already: those of a Toc, or of another RootPath.
    pub(crate) fn from_clean(bytes: &[u8]) -> RootPath {
        debug_assert_eq!(RootPath::clean(bytes).0, bytes, "not a clean path");
        RootPath(bytes.to_vec())
    }

    /// Appends `path`, lexically clean, below this one.
    pub fn join(&self, path: &[u8]) -> RootPath {
        let mut joined = self.0.clone();
        joined.push(b'/');
        joined.extend_from_slice(path);
        RootPath::clean(&joined)
    }

    /// Says whether this is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives the bytes, without a leading slash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Gives the last component; None for the root.
    pub fn file_name(&self) -> Option<&[u8]> {
        self.0.rsplit(|&b| b == b'/').next().filter(|name| !name.is_empty())
    }

    /// Gives the directory that holds this path; None for the root.
    pub fn parent(&self) -> Option<RootPath> {
        if self.0.is_empty() {
            return None;
        }
        let cut = self.0.iter().rposition(|&b| b == b'/').unwrap_or(0);
        Some(RootPath(self.0[..cut].to_vec()))
    }

    /// Gives the components from the root down.
    pub fn components(&self) -> impl DoubleEndedIterator<Item = &[u8]> {
        self.0.split(|&b| b == b'/').filter(|part| !part.is_empty())
    }

    /// Gives all ancestors from the topmost (`a` of `a/b/c`) to the parent, without the root.
    pub fn ancestors(&self) -> impl Iterator<Item = RootPath> + '_ {
        self.0
            .iter()
            .enumerate()
            .filter(|&(_, &b)| b == b'/')
            .map(|(i, _)| RootPath(self.0[..i].to_vec()))
    }

    /// Says whether this path is `dir` or lies below it.
    pub fn starts_with(&self, dir: &RootPath) -> bool {
        dir.is_root()
            || self.0 == dir.0
            || (self.0.len() > dir.0.len()
                && self.0.starts_with(&dir.0)
                && self.0[dir.0.len()] == b'/')
    }

    /// Gives the rest of the path below `dir`; None when it does not lie there.
    pub fn strip_prefix(&self, dir: &RootPath) -> Option<RootPath> {
        if !self.starts_with(dir) {
            return None;
        }
        if dir.is_root() {
            return Some(self.clone());
        }
        Some(RootPath(self.0.get(dir.0.len() + 1..).unwrap_or_default().to_vec()))
    }
}

/// Compares two clean paths component by component: the slash sorts before every other byte.
pub fn compare(a: &[u8], b: &[u8]) -> std::cmp::Ordering {
    // Eight bytes at a time: paths of one directory share long beginnings.
    let words = a.chunks_exact(8).zip(b.chunks_exact(8)).take_while(|(x, y)| x == y).count();
    let same = words * 8;
    let shared = a[same..].iter().zip(&b[same..]).position(|(x, y)| x != y);
    match shared.map(|rest| same + rest) {
        None => a.len().cmp(&b.len()),
        Some(i) => match (a[i], b[i]) {
            (b'/', _) => std::cmp::Ordering::Less,
            (_, b'/') => std::cmp::Ordering::Greater,
            (x, y) => x.cmp(&y),
        },
    }
}

impl Ord for RootPath {
    fn cmp(&self, other: &RootPath) -> std::cmp::Ordering {
        compare(&self.0, &other.0)
    }
}

impl PartialOrd for RootPath {
    fn partial_cmp(&self, other: &RootPath) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl From<&str> for RootPath {
    fn from(path: &str) -> RootPath {
        RootPath::clean(path.as_bytes())
    }
}

impl fmt::Display for RootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for RootPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", self.0.escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clean_clamps_at_the_root() {
        for (input, expect) in [
            ("", "/"),
            ("/", "/"),
            ("a//b/./c/", "/a/b/c"),
            ("../../x", "/x"),
            ("a/../../b", "/b"),
            ("/a/b/../c", "/a/c"),
        ] {
            assert_eq!(RootPath::from(input).to_string(), expect, "{input}");
        }
    }

    #[test]
    fn a_directory_sorts_right_before_its_contents() {
        let mut paths: Vec<RootPath> =
            ["a-b", "a/c", "a", "a.b", "b", "a/b/z", "a/b"].map(RootPath::from).to_vec();
        paths.sort();
        let text: Vec<String> = paths.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["/a", "/a/b", "/a/b/z", "/a/c", "/a-b", "/a.b", "/b"]);
    }

    #[test]
    fn prefixes_end_at_components() {
        let path = RootPath::from("usr/lib/x");
        assert_eq!(path.strip_prefix(&"usr".into()), Some("lib/x".into()));
        assert_eq!(path.strip_prefix(&"us".into()), None);
        assert_eq!(path.strip_prefix(&RootPath::root()), Some(path.clone()));
        assert_eq!(path.ancestors().collect::<Vec<_>>(), ["usr".into(), "usr/lib".into()]);
        assert_eq!(path.parent(), Some("usr/lib".into()));
        assert_eq!(RootPath::from("usr").parent(), Some(RootPath::root()));
    }
}
