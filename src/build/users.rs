//! Users and groups of an image, read from its `/etc/passwd` and `/etc/group`: who `--chown` and
//! WORKDIR mean.
//!
//! The rules are those of BuildKit's file operations (`solver/llbsolver/file/user_linux.go`): a
//! user by name brings its group from passwd; a user by number alone has the group of the same
//! number; a name that does not exist is an error, never root.

use super::copy::Owner;

/// Why an owner can't be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such user.
    #[error("unknown user {0:?}: it is not in /etc/passwd of the image")]
    User(String),
    /// No such group.
    #[error("unknown group {0:?}: it is not in /etc/group of the image")]
    Group(String),
    /// Nothing before or after the colon, or more than one colon.
    #[error("{0:?} is not an owner (expected user, user:group, or numbers)")]
    Malformed(String),
}

/// Says whether names have to be looked up to know the owner that `text` means.
pub fn needs_lookup(text: &str) -> bool {
    text.split(':').any(|part| part.parse::<u32>().is_err())
}

/// Reads `user[:group]`. `passwd` and `group` are the files' bytes, empty when there are none.
pub fn resolve(text: &str, passwd: &[u8], group: &[u8]) -> Result<Owner, Error> {
    let mut parts = text.split(':');
    let user = parts.next().unwrap_or_default();
    let group_part = parts.next();
    if user.is_empty() || group_part == Some("") || parts.next().is_some() {
        return Err(Error::Malformed(text.to_owned()));
    }
    let (uid, mut gid) = match user.parse::<u32>() {
        Ok(uid) => (uid, uid),
        Err(_) => find(passwd, user)
            .and_then(|fields| Some((number(&fields, 2)?, number(&fields, 3)?)))
            .ok_or_else(|| Error::User(user.to_owned()))?,
    };
    if let Some(name) = group_part {
        gid = match name.parse::<u32>() {
            Ok(gid) => gid,
            Err(_) => find(group, name)
                .and_then(|fields| number(&fields, 2))
                .ok_or_else(|| Error::Group(name.to_owned()))?,
        };
    }
    Ok(Owner { uid, gid })
}

fn find<'f>(file: &'f [u8], name: &str) -> Option<Vec<&'f [u8]>> {
    file.split(|&b| b == b'\n')
        .map(|line| line.split(|&b| b == b':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name.as_bytes()))
}

fn number(fields: &[&[u8]], index: usize) -> Option<u32> {
    std::str::from_utf8(fields.get(index)?).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &[u8] = b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n";
    const GROUP: &[u8] = b"root:x:0:\nstaff:x:50:app\n";

    #[test]
    fn copy_chown_names_resolve_in_the_image() {
        for (text, expect) in [
            ("app", Ok((1000, 1001))),
            ("app:staff", Ok((1000, 50))),
            ("app:7", Ok((1000, 7))),
            ("12", Ok((12, 12))),
            ("12:13", Ok((12, 13))),
            ("12:staff", Ok((12, 50))),
            ("nobody", Err(Error::User("nobody".into()))),
            ("app:none", Err(Error::Group("none".into()))),
            ("", Err(Error::Malformed(String::new()))),
            ("a:b:c", Err(Error::Malformed("a:b:c".into()))),
        ] {
            let found = resolve(text, PASSWD, GROUP).map(|owner| (owner.uid, owner.gid));
            assert_eq!(found, expect, "{text}");
        }
    }

    #[test]
    fn numbers_need_no_files() {
        assert!(!needs_lookup("1000:1000"));
        assert!(needs_lookup("1000:staff"));
        assert_eq!(resolve("5", b"", b""), Ok(Owner { uid: 5, gid: 5 }));
    }
}
