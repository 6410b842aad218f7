//! From the upper directory of an overlay to a Toc.
//!
//! # Rules
//!
//! | in the upper directory | in the Toc |
//! |---|---|
//! | whiteout (device 0:0) | Whiteout if the Tree has the path, else nothing |
//! | opaque directory | Dir, and a Whiteout of everything that the Tree has in it and it has not |
//! | directory below an opaque one | the same: overlay marks only the topmost |
//! | directory that differs from the Tree's, or with changes below | Dir |
//! | directory that does not differ (its time alone may) and holds no change | nothing |
//! | several names of one inode | the first is the file, the others are hard links to it |
//! | socket | nothing; a Whiteout where it covers something of the Tree |
//! | what only a stub was copied up to | nothing |
//! | a name that starts with `.wh.` | an error |
//!
//! The disk does not hold everything. Owners outside of the id map, and attributes that a user
//! namespace cannot set, are taken from the Tree's entry of the same path and kind. With a single
//! id all files look alike: those that were given away have their owner in an attribute or in
//! [`DiffOptions::owned`]; of the others, those of the Tree keep its owner, new ones belong to who ran.
//! Where nobody kept owners, a new file in place of one of the Tree is taken for that one: programs that
//! write a file anew give it the owner that it had, which they could not see.
//!
//! /proc, /sys and /dev, which a RUN of an image without them sees, are in the layer, as they are
//! with BuildKit.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::Error;
use super::writer::{OPAQUE, at, is_whiteout, on_disk};
use crate::layer::toc::{KindRef, Xattrs, capability_v2, is_overlay_xattr};
use crate::layer::{Entry, Found, Kind, RootPath, Toc, TocBuilder, Tree};
use crate::sys;
use crate::sys::cred::IdMap;
use crate::sys::dir::{self, FileKind, Stat};
use crate::sys::stand_in::{self, Owned, parse_owner};
use crate::sys::xattr::{self, ORIGIN_XATTR, OWNER_XATTR};

/// What [`diff`] must know beyond the directory.
#[derive(Clone, Debug, Default)]
pub struct DiffOptions<'a> {
    /// Who ran the program (inside the image): new files belong to it where the id map is single.
    pub owner: (u32, u32),
    /// Paths that [`super::stubs`] made.
    pub stubs: &'a [RootPath],
    /// Owners of what has no attributes, where the id map is single and somebody kept owners.
    pub owned: Option<&'a [Owned]>,
    /// Time of entries that no disk has (/proc, /sys and /dev of an image without them).
    pub now: i64,
}

/// Lists what the upper directory of an overlay changes in `lower`.
pub fn diff(
    upper: &Path,
    lower: &Tree,
    map: &IdMap,
    options: &DiffOptions<'_>,
) -> Result<Toc, Error> {
    let root = RootPath::root();
    let dir = dir::open(upper).map_err(at("opening", &root))?;
    let mut walk = Walk {
        lower,
        map,
        owner: options.owner,
        stubs: options.stubs.iter().collect(),
        inodes: HashMap::new(),
        owned: options
            .owned
            .map(|all| all.iter().map(|owned| ((owned.ino, owned.born), owned)).collect()),
        out: TocBuilder::new(),
    };
    let hidden = is_opaque(dir.as_fd(), &root)?;
    walk.directory(dir.as_fd(), &root, hidden)?;
    for name in ["dev", "proc", "sys"] {
        let path = RootPath::from(name);
        if lower.lookup(&path).is_none() && !walk.inodes_has(dir.as_fd(), name) {
            walk.out.push(Entry {
                path,
                kind: Kind::Dir,
                mode: 0o755,
                uid: 0,
                gid: 0,
                mtime: options.now,
                xattrs: Xattrs::new(),
            });
        }
    }
    Ok(walk.out.finish())
}

/// Number and time of making.
type Born = (u64, (i64, u32));

struct Walk<'a> {
    lower: &'a Tree,
    map: &'a IdMap,
    owner: (u32, u32),
    stubs: BTreeSet<&'a RootPath>,
    /// First path of each inode that has several names.
    inodes: HashMap<(u64, u64), RootPath>,
    /// [`DiffOptions::owned`], by number and time of making.
    owned: Option<HashMap<Born, &'a Owned>>,
    out: TocBuilder,
}

impl Walk<'_> {
    /// Lists what is in a directory; says whether that is anything. `hidden`: nothing of lower
    /// layers shows in it.
    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &RootPath,
        hidden: bool,
    ) -> Result<bool, Error> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        dir::for_each_entry(dir, |name, _, _| names.push(name.to_vec()))
            .map_err(at("listing", path))?;
        names.sort_unstable();
        let mut any = false;
        for name in &names {
            any |= self.name(dir, &path.join(name), name, hidden)?;
        }
        if hidden {
            for gone in self.lower.children(path) {
                let name = gone.entry.file_name();
                if names.binary_search_by(|have| have.as_slice().cmp(name)).is_err() {
                    self.out.push(Entry::whiteout(gone.entry.root_path()));
                    any = true;
                }
            }
        }
        Ok(any)
    }

    /// Lists one name; says whether that is anything.
    fn name(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &RootPath,
        name: &[u8],
        hidden: bool,
    ) -> Result<bool, Error> {
        let stat = dir::statx(dir, name).map_err(at("reading", path))?;
        let found = self.lower.lookup(path);
        if is_whiteout(&stat) || stat.kind == FileKind::Socket {
            return Ok(self.gone(path, found.is_some()));
        }
        if name.starts_with(b".wh.") {
            return Err(Error::ReservedName { path: path.clone() });
        }
        if stat.kind == FileKind::Dir {
            return self.subdirectory(dir, path, name, &stat, found, hidden);
        }
        if stat.size == 0 && stat.kind == FileKind::File && self.stubs.contains(path) {
            return Ok(self.gone(path, found.is_some()));
        }
        if stat.nlink > 1 {
            if let Some(first) = self.inodes.get(&(stat.dev, stat.ino)) {
                let kind = Kind::Hardlink(first.clone());
                let entry = self.entry(dir, path, name, &stat, kind, found)?;
                self.out.push(entry);
                return Ok(true);
            }
            self.inodes.insert((stat.dev, stat.ino), path.clone());
        }
        let (major, minor) = stat.rdev;
        let kind = match stat.kind {
            FileKind::File => Kind::File { size: stat.size, digest: None },
            FileKind::Symlink => {
                Kind::Symlink(dir::readlink(dir, name).map_err(at("reading", path))?)
            }
            FileKind::Fifo => Kind::Fifo,
            FileKind::CharDevice => Kind::CharDevice { major, minor },
            FileKind::BlockDevice => Kind::BlockDevice { major, minor },
            FileKind::Dir | FileKind::Socket => return Ok(false),
        };
        let entry = self.entry(dir, path, name, &stat, kind, found)?;
        self.out.push(entry);
        Ok(true)
    }

    fn gone(&mut self, path: &RootPath, was_there: bool) -> bool {
        if was_there {
            self.out.push(Entry::whiteout(path.clone()));
        }
        was_there
    }

    fn subdirectory(
        &mut self,
        dir: BorrowedFd<'_>,
        path: &RootPath,
        name: &[u8],
        stat: &Stat,
        found: Option<Found<'_>>,
        hidden: bool,
    ) -> Result<bool, Error> {
        let sub = dir::open_dir_at(dir, name).map_err(at("opening", path))?;
        let was_dir = found.filter(Found::is_dir);
        let entry = self.entry(dir, path, name, stat, Kind::Dir, found)?;
        let hidden = hidden || is_opaque(sub.as_fd(), path)?;
        // Below what is no directory in the Tree there is nothing to hide.
        let any = self.directory(sub.as_fd(), path, hidden && was_dir.is_some())?;
        let emit = match was_dir {
            Some(was) => any || differs(&entry, &was),
            None => any || found.is_some() || !self.stubs.contains(path),
        };
        if emit {
            self.out.push(entry);
        }
        Ok(emit)
    }

    /// Makes the entry of a node from the disk, and from the Tree what the disk cannot hold.
    fn entry(
        &self,
        dir: BorrowedFd<'_>,
        path: &RootPath,
        name: &[u8],
        stat: &Stat,
        kind: Kind,
        found: Option<Found<'_>>,
    ) -> Result<Entry, Error> {
        let known = found.map(|found| found.target().entry).filter(|known| {
            matches!(
                (&kind, known.kind),
                (Kind::Dir, KindRef::Dir)
                    | (Kind::File { .. } | Kind::Hardlink(_), KindRef::File { .. })
                    | (Kind::Symlink(_), KindRef::Symlink(_))
                    | (Kind::Fifo, KindRef::Fifo)
            )
        });
        let (mut uid, mut gid) = (stat.uid, stat.gid);
        let (mut xattrs, marks) = match stat.kind {
            FileKind::File | FileKind::Dir => read_xattrs(dir, path, name)?,
            _ => {
                let noted = self.owner_without_attributes(dir, path, name)?;
                (Xattrs::new(), Marks { noted, copied_up: true })
            }
        };
        let single = self.map.is_single();
        match &known {
            Some(known) if !single || self.owned.is_none() || marks.copied_up => {
                if uid == 0 && !self.map.has_uid(known.uid) {
                    uid = known.uid;
                }
                if gid == 0 && !self.map.has_gid(known.gid) {
                    gid = known.gid;
                }
            }
            _ if single => (uid, gid) = self.owner,
            _ => {}
        }
        if let Some(noted) = marks.noted.filter(|_| single) {
            (uid, gid) = noted;
        }
        if let Some(known) = known {
            let kept = known.xattrs.iter().filter(|(key, _)| !on_disk(&kind, key));
            for (key, value) in kept {
                xattrs.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        let mode = if stat.kind == FileKind::Symlink { 0o777 } else { stat.mode };
        Ok(Entry { path: path.clone(), kind, mode, uid, gid, mtime: stat.mtime_sec, xattrs })
    }

    /// Finds the owner that a RUN gave to something that has no attributes.
    fn owner_without_attributes(
        &self,
        dir: BorrowedFd<'_>,
        path: &RootPath,
        name: &[u8],
    ) -> Result<Option<(u32, u32)>, Error> {
        if self.owned.as_ref().is_none_or(HashMap::is_empty) {
            return Ok(None);
        }
        let identity = stand_in::identity_at(dir, name)
            .map_err(|errno| at("reading", path)(sys::Error::new("statx", path, errno)))?;
        let owned = self.owned.as_ref().and_then(|all| all.get(&(identity.ino, identity.born)));
        Ok(owned.map(|owned| (owned.uid, owned.gid)))
    }

    /// Says whether the upper directory has a directory that was listed.
    fn inodes_has(&self, dir: BorrowedFd<'_>, name: &str) -> bool {
        let is_stub = self.stubs.contains(&RootPath::from(name));
        match dir::statx(dir, name.as_bytes()) {
            Ok(stat) if stat.kind == FileKind::Dir && is_stub => {
                // Copied up: listed only if there is something in it.
                dir::open_dir_at(dir, name.as_bytes())
                    .and_then(|sub| dir::read_dir(sub.as_fd()))
                    .is_ok_and(|entries| !entries.is_empty())
            }
            Ok(stat) => !is_whiteout(&stat),
            Err(_) => false,
        }
    }
}

/// Says whether a directory of the upper one differs from the Tree's, its time aside.
fn differs(entry: &Entry, was: &Found<'_>) -> bool {
    let was = &was.entry;
    (entry.mode, entry.uid, entry.gid) != (was.mode, was.uid, was.gid)
        || &entry.xattrs != was.xattrs
}

fn is_opaque(dir: BorrowedFd<'_>, path: &RootPath) -> Result<bool, Error> {
    let value = xattr::get(dir, b"", OPAQUE).map_err(at("reading attributes of", path))?;
    Ok(value.as_deref() == Some(b"y"))
}

/// What is on the disk about the owner of a file.
#[derive(Default)]
struct Marks {
    /// Whom a RUN gave it to.
    noted: Option<(u32, u32)>,
    /// Whether it comes from a lower layer.
    copied_up: bool,
}

/// Reads the attributes that layers carry: `user.*` without overlay's own, and capabilities in the
/// form of version 2, which names no namespace's root; and what others say of the owner.
fn read_xattrs(
    dir: BorrowedFd<'_>,
    path: &RootPath,
    name: &[u8],
) -> Result<(Xattrs, Marks), Error> {
    let mut out = BTreeMap::new();
    let mut marks = Marks::default();
    let all = xattr::get_all(dir, name).map_err(at("reading attributes of", path))?;
    for (key, value) in all {
        if key == OWNER_XATTR {
            marks.noted = parse_owner(&value);
        } else if key == ORIGIN_XATTR {
            marks.copied_up = true;
        } else if key == b"security.capability" {
            let value = capability_v2(&value).unwrap_or(value);
            out.insert(key, value);
        } else if key.starts_with(b"user.") && !is_overlay_xattr(&key) {
            out.insert(key, value);
        }
    }
    Ok((out, marks))
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
