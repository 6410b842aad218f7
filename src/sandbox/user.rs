//! `USER` → uid, gid, supplementary groups and HOME, by the image's own /etc/passwd and /etc/group.
//!
//! The rules are BuildKit's (`solver/llbsolver`, `executor/oci/user.go`) and those of the library it
//! asks (moby/sys/user, `GetExecUser`):
//!
//! * nothing: 0:0, with root's groups where passwd knows root;
//! * a name, or a number: the first line of passwd with that name or uid; its gid, and the groups
//!   that list its name as a member;
//! * a number that passwd lacks: that uid, gid 0, no groups;
//! * an explicit group, name or number: that gid, no groups;
//! * `uid:gid`, both numbers: as they are, passwd is not read for them;
//! * a name that passwd or group lacks is an error.
//!
//! HOME is the home directory of the uid, `/` where passwd lacks it (as runc does).
//!
//! Pure: gets both files as bytes.

/// Who runs a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Supplementary groups, without `gid`.
    pub(super) groups: Vec<u32>,
    pub(super) home: String,
}

/// Why a `USER` names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("unable to find user {0}: no matching entries in the image's /etc/passwd")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in the image's /etc/group")]
    NoGroup(String),
}

/// One line of /etc/passwd.
struct Account<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

/// Finds the user that `spec` names.
pub(super) fn resolve(spec: &str, passwd: &[u8], group: &[u8]) -> Result<User, Error> {
    let (user, group_name) = spec.split_once(':').unwrap_or((spec, ""));
    let user = if user.is_empty() { "0" } else { user };
    if let (Some(uid), Some(gid)) = (number(user), number(group_name)) {
        return Ok(User { uid, gid, groups: Vec::new(), home: home_of(uid, passwd) });
    }
    let account = accounts(passwd)
        .find(|a| a.name == user.as_bytes() || number(user).is_some_and(|uid| uid == a.uid));
    let (uid, mut gid) = match (&account, number(user)) {
        (Some(account), _) => (account.uid, account.gid),
        (None, Some(uid)) => (uid, 0),
        (None, None) => return Err(Error::NoUser(user.to_owned())),
    };
    let mut groups = Vec::new();
    if group_name.is_empty() {
        if let Some(account) = &account {
            groups = memberships(account.name, group);
            groups.retain(|g| *g != gid);
        }
    } else {
        gid = group_by_name(group_name.as_bytes(), group)
            .or_else(|| number(group_name))
            .ok_or_else(|| Error::NoGroup(group_name.to_owned()))?;
    }
    Ok(User { uid, gid, groups, home: home_of(uid, passwd) })
}

/// Reads a decimal id; -1 means "no change" to the kernel and is none.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().filter(|&id| id != u32::MAX)
}

fn number_bytes(text: &[u8]) -> Option<u32> {
    number(std::str::from_utf8(text).ok()?)
}

fn accounts(passwd: &[u8]) -> impl Iterator<Item = Account<'_>> {
    lines(passwd).filter_map(|line| {
        let mut fields = line.split(|&b| b == b':');
        let name = fields.next()?;
        let uid = number_bytes(fields.nth(1)?)?;
        let gid = number_bytes(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Account { name, uid, gid, home })
    })
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|&b| b == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && !line.starts_with(b"#"))
}

fn home_of(uid: u32, passwd: &[u8]) -> String {
    accounts(passwd)
        .find(|a| a.uid == uid)
        .filter(|a| !a.home.is_empty())
        .map_or_else(|| "/".to_owned(), |a| String::from_utf8_lossy(a.home).into_owned())
}

/// Gives (name, gid, members) of each line of /etc/group.
fn groups_of(group: &[u8]) -> impl Iterator<Item = (&[u8], u32, &[u8])> {
    lines(group).filter_map(|line| {
        let mut fields = line.split(|&b| b == b':');
        let name = fields.next()?;
        let gid = number_bytes(fields.nth(1)?)?;
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn memberships(user: &[u8], group: &[u8]) -> Vec<u32> {
    let mut gids: Vec<u32> = groups_of(group)
        .filter(|(_, _, members)| members.split(|&b| b == b',').any(|m| m.trim_ascii() == user))
        .map(|(_, gid, _)| gid)
        .collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

fn group_by_name(name: &[u8], group: &[u8]) -> Option<u32> {
    groups_of(group).find(|(n, _, _)| *n == name).map(|(_, gid, _)| gid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\n\
        app:x:1000:1001:App:/home/app:/bin/sh\r\nbare:x:7:8::\n";
    const GROUP: &[u8] = b"root:x:0:root\nwheel:x:10:root,app\napp:x:1001:\ndocker:x:99:app\n";

    fn check(spec: &str, expect: Result<(u32, u32, &[u32], &str), Error>) {
        let found = resolve(spec, PASSWD, GROUP);
        let expect = expect.map(|(uid, gid, groups, home)| User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.into(),
        });
        assert_eq!(found, expect, "{spec:?}");
    }

    #[test]
    fn users_resolve_as_buildkit_does() {
        check("", Ok((0, 0, &[10], "/root")));
        check("root", Ok((0, 0, &[10], "/root")));
        check("0", Ok((0, 0, &[10], "/root")));
        check("app", Ok((1000, 1001, &[10, 99], "/home/app")));
        check("1000", Ok((1000, 1001, &[10, 99], "/home/app")));
        check("app:wheel", Ok((1000, 10, &[], "/home/app")));
        check("app:55", Ok((1000, 55, &[], "/home/app")));
        check("1000:docker", Ok((1000, 99, &[], "/home/app")));
        check("1000:1000", Ok((1000, 1000, &[], "/home/app")));
        check("4242", Ok((4242, 0, &[], "/")));
        check("4242:wheel", Ok((4242, 10, &[], "/")));
        check("app:", Ok((1000, 1001, &[10, 99], "/home/app")));
        check(":wheel", Ok((0, 10, &[], "/root")));
        check("bare", Ok((7, 8, &[], "/")));
        check("nobody", Err(Error::NoUser("nobody".into())));
        check("app:none", Err(Error::NoGroup("none".into())));
        check("0:0\n", Err(Error::NoGroup("0\n".into())));
        check("4294967295", Err(Error::NoUser("4294967295".into())));
        check("-1", Err(Error::NoUser("-1".into())));
    }

    #[test]
    fn an_image_without_accounts_still_has_numbers() {
        assert_eq!(resolve("", b"", b"").map(|u| (u.uid, u.gid, u.home)), Ok((0, 0, "/".into())));
        assert!(resolve("app", b"", b"").is_err());
    }
}
