//! `--chmod`: octal and symbolic modes.
//!
//! Symbolic modes are those of BSD's setmode(3), which BuildKit uses, with a umask of 0: clauses with
//! commas between them; each is `[ugoa…]`, then one or more of `+`, `-`, `=` with `rwxXst` or a class
//! to copy from. `X` looks at the mode before all clauses.

use std::str::FromStr;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;
const READ: u32 = 0o444;
const WRITE: u32 = 0o222;
const EXECUTE: u32 = 0o111;
/// What `a` stands for; the sticky bit is in no class.
const EVERYBODY: u32 = SET_UID | SET_GID | 0o777;

/// A parsed `--chmod`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ChmodSpec {
    /// All twelve bits, given as a number.
    Octal(u32),
    /// Changes, applied one after the other.
    Symbolic(Vec<Change>),
}

/// One change of a symbolic mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// Sets bits.
    Set(u32),
    /// Clears bits.
    Clear(u32),
    /// Sets bits of directories and of what anybody could execute before.
    SetIfExecutable(u32),
    /// Copies the permissions of a class, given by its shift.
    Copy {
        /// 6 for the user, 3 for the group, 0 for others.
        from: u32,
        /// The `rwx` bits of the classes to change.
        to: u32,
        /// `+`, `-` or `=`.
        operator: char,
    },
}

/// A `--chmod` that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It looks like a number and is none.
    #[error("invalid chmod parameter `{0}`: must be an octal number between 0 and 07777")]
    Octal(String),
    /// Neither a number nor a symbolic mode.
    #[error("invalid chmod parameter `{0}`: must be octal (`644`) or symbolic (`u=rwX,go=rX`)")]
    Symbolic(String),
}

impl FromStr for ChmodSpec {
    type Err = Error;

    fn from_str(text: &str) -> Result<ChmodSpec, Error> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let octal = text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
            return match u32::from_str_radix(text, 8) {
                Ok(mode) if octal && mode <= 0o7777 => Ok(ChmodSpec::Octal(mode)),
                _ => Err(Error::Octal(text.to_owned())),
            };
        }
        let changes = text.split(',').map(clause).collect::<Option<Vec<_>>>();
        match changes {
            Some(changes) => Ok(ChmodSpec::Symbolic(changes.concat())),
            None => Err(Error::Symbolic(text.to_owned())),
        }
    }
}

/// Parses one clause.
fn clause(text: &str) -> Option<Vec<Change>> {
    let mut changes = Vec::new();
    let mut chars = text.chars().peekable();
    let mut who = 0;
    while let Some(class) = chars.next_if(|c| "ugoa".contains(*c)) {
        who |= match class {
            'u' => SET_UID | 0o700,
            'g' => SET_GID | 0o070,
            'o' => 0o007,
            _ => EVERYBODY,
        };
    }
    chars.peek()?;
    while let Some(operator) = chars.next() {
        if !matches!(operator, '+' | '-' | '=') {
            return None;
        }
        let mut permissions = String::new();
        while let Some(c) = chars.next_if(|c| "rwxXstugo".contains(*c)) {
            permissions.push(c);
        }
        action(&mut changes, who, operator, &permissions);
    }
    Some(changes)
}

/// Translates one operator and its permissions.
fn action(changes: &mut Vec<Change>, mut who: u32, operator: char, permissions: &str) {
    let mask = |who: u32| if who == 0 { EVERYBODY | STICKY } else { who };
    let (mut bits, mut execute_if) = (0, 0);
    // `=` clears once: before the first bits that it sets, or by its first copy.
    let mut cleared = operator != '=';
    let flush = |changes: &mut Vec<Change>, who: u32, bits: &mut u32, cleared: &mut bool| {
        if operator == '=' && (*bits != 0 || !*cleared) {
            changes.push(Change::Clear(if who == 0 { EVERYBODY } else { who }));
            *cleared = true;
        }
        match operator {
            '-' => changes.push(Change::Clear(mask(who) & *bits)),
            _ => changes.push(Change::Set(mask(who) & *bits)),
        }
        *bits = 0;
    };
    // Set-id and sticky bits mean nothing for others alone.
    let special = who == 0 || who & !0o007 != 0;
    for permission in permissions.chars() {
        match permission {
            'r' => bits |= READ,
            'w' => bits |= WRITE,
            'x' => bits |= EXECUTE,
            'X' if operator == '-' => bits |= EXECUTE,
            'X' => execute_if = EXECUTE,
            's' if special => bits |= SET_UID | SET_GID,
            't' if special => {
                who |= STICKY;
                bits |= STICKY;
            }
            'u' | 'g' | 'o' => {
                if bits != 0 {
                    flush(changes, who, &mut bits, &mut cleared);
                }
                cleared = true;
                if execute_if != 0 {
                    changes.push(Change::SetIfExecutable(mask(who) & execute_if));
                    execute_if = 0;
                }
                let from = match permission {
                    'u' => 6,
                    'g' => 3,
                    _ => 0,
                };
                changes.push(Change::Copy { from, to: mask(who) & 0o777, operator });
            }
            _ => {}
        }
    }
    if bits != 0 || !cleared {
        flush(changes, who, &mut bits, &mut cleared);
    }
    if execute_if != 0 {
        changes.push(Change::SetIfExecutable(mask(who) & execute_if));
    }
}

impl ChmodSpec {
    /// Gives the new twelve mode bits of a file that had `mode`.
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let changes = match self {
            ChmodSpec::Octal(mode) => return *mode,
            ChmodSpec::Symbolic(changes) => changes,
        };
        let before = mode & 0o7777;
        changes.iter().fold(before, |now, change| match *change {
            Change::Set(bits) => now | bits,
            Change::Clear(bits) => now & !bits,
            Change::SetIfExecutable(bits) if is_dir || before & EXECUTE != 0 => now | bits,
            Change::SetIfExecutable(_) => now,
            Change::Copy { from, to, operator } => {
                let copied = (((now >> from) & 0o007) * EXECUTE) & to;
                match operator {
                    '+' => now | copied,
                    '-' => now & !copied,
                    _ => (now & !to) | copied,
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `expect` is the new mode in octal, or `error`.
    fn check(spec: &str, mode: u32, is_dir: bool, expect: &str) {
        let got = match spec.parse::<ChmodSpec>() {
            Ok(parsed) => format!("{:o}", parsed.apply(mode, is_dir)),
            Err(_) => "error".to_owned(),
        };
        assert_eq!(got, expect, "{spec} of {mode:o}, directory: {is_dir}");
    }

    /// Trap 11: octal and symbolic modes, X by file and directory.
    #[test]
    fn modes() {
        for (spec, mode, is_dir, expect) in [
            ("755", 0o600, false, "755"),
            ("0644", 0o777, true, "644"),
            ("7777", 0, false, "7777"),
            ("0", 0o777, false, "0"),
            ("u=rwX,go=rX", 0o600, false, "644"),
            ("u=rwX,go=rX", 0o600, true, "755"),
            ("u=rwX,go=rX", 0o700, false, "755"),
            ("g=u", 0o640, false, "660"),
            ("g=u,o=", 0o647, false, "660"),
            ("go=u-w", 0o755, false, "755"),
            ("go=u-w", 0o666, false, "644"),
            ("+x", 0o644, false, "755"),
            ("a-x", 0o755, true, "644"),
            ("-x", 0o4755, false, "4644"),
            ("=", 0o4777, false, "0"),
            ("go=", 0o2777, false, "700"),
            ("=rw,+X", 0o700, false, "777"),
            ("u+s", 0o755, false, "4755"),
            ("g+s", 0o755, false, "2755"),
            ("+s", 0o755, false, "6755"),
            ("o+s", 0o755, false, "755"),
            ("+t", 0o755, true, "1755"),
            ("o+t", 0o755, true, "755"),
            ("a=r", 0o1777, true, "1444"),
            ("u=rw+x", 0o000, false, "700"),
            ("u+rwx-x", 0o000, false, "600"),
            ("ug+rw,o-rwx", 0o107, false, "760"),
            ("o=g", 0o640, false, "644"),
            ("u-o", 0o755, false, "255"),
            ("+X", 0o644, false, "644"),
            ("-X", 0o755, false, "644"),
        ] {
            check(spec, mode, is_dir, expect);
        }
    }

    /// Trap 11: what looks like a number must be one.
    #[test]
    fn wrong_modes() {
        for spec in ["", "888", "0o755", "10000", "77777777777777", "rwx", "u", "u=", "a,b", "u+q"]
        {
            let expect = if spec == "u=" { "77" } else { "error" };
            check(spec, 0o777, false, expect);
        }
        for spec in ["u+rw,", ",u+r", "z=r", "-1", "+r w"] {
            let expect = "error";
            check(spec, 0o777, false, expect);
        }
        let text = |spec: &str| spec.parse::<ChmodSpec>().map_err(|error| error.to_string());
        let octal = "invalid chmod parameter `08`: must be an octal number between 0 and 07777";
        assert_eq!(text("08"), Err(octal.to_owned()));
    }
}
