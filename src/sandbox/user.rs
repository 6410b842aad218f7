//! `USER` → uid, gid, groups, HOME.
