//! Ids, capabilities and namespaces of this process.

/// A run of consecutive ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRange {
    /// First id inside the namespace.
    pub inside: u32,
    /// First id outside of it.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The user and group ids that a user namespace has.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct IdMap {
    /// User ids.
    pub uids: Vec<IdRange>,
    /// Group ids.
    pub gids: Vec<IdRange>,
}

impl IdMap {
    /// Says whether files can belong to this user.
    pub fn has_uid(&self, uid: u32) -> bool {
        contains(&self.uids, uid)
    }

    /// Says whether files can belong to this group.
    pub fn has_gid(&self, gid: u32) -> bool {
        contains(&self.gids, gid)
    }

    /// Says whether it holds one id only, so that the disk cannot tell owners apart.
    pub fn is_single(&self) -> bool {
        self.uids.iter().map(|r| u64::from(r.count)).sum::<u64>() <= 1
    }

    /// Gives a short text that differs between maps under which directories look different.
    pub fn fingerprint(&self) -> String {
        let text = |ranges: &[IdRange]| {
            let parts: Vec<String> =
                ranges.iter().map(|r| format!("{}-{}-{}", r.inside, r.outside, r.count)).collect();
            parts.join(",")
        };
        format!("u{};g{}", text(&self.uids), text(&self.gids))
    }
}

fn contains(ranges: &[IdRange], id: u32) -> bool {
    ranges.iter().any(|r| id >= r.inside && id - r.inside < r.count)
}
