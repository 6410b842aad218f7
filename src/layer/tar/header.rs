//! The 512-byte header block: ustar, with what GNU, star and v7 do differently.

use super::Problem;

/// Bytes of a block.
pub(super) const BLOCK: usize = 512;

/// The largest number that the 12-byte fields (size, mtime) hold in octal.
pub(super) const MOST_OCTAL_12: u64 = 0o77777777777;
/// The largest number that the 8-byte fields (ids, device numbers) hold in octal.
pub(super) const MOST_OCTAL_8: u64 = 0o7777777;

const CHECKSUM: std::ops::Range<usize> = 148..156;

/// Says whether a block is the header of a tar entry, by its checksum. A block of zeros is not.
pub fn is_header(block: &[u8]) -> bool {
    <&[u8; BLOCK]>::try_from(block.get(..BLOCK).unwrap_or_default())
        .is_ok_and(|block| block[0] != 0 && Header(*block).checksum_fits())
}

/// One header block.
#[derive(Clone)]
pub(super) struct Header(pub(super) [u8; BLOCK]);

impl Header {
    /// Starts a ustar header with all numbers zero.
    pub(super) fn ustar(kind: u8) -> Header {
        let mut header = Header([0; BLOCK]);
        header.0[156] = kind;
        header.0[257..265].copy_from_slice(b"ustar\x0000");
        header.set_octal(100..108, 0);
        header.set_ids(0, 0);
        header.set_size(0);
        header.set_mtime(0);
        header.set_device(0, 0);
        header
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    pub(super) fn is_zero(&self) -> bool {
        self.0 == [0; BLOCK]
    }

    /// Compares the stored checksum with the sum of the block as unsigned bytes, or as signed ones
    /// as some old tars did.
    pub(super) fn checksum_fits(&self) -> bool {
        let Ok(stored) = number(&self.0[CHECKSUM]) else { return false };
        let others = || self.0[..CHECKSUM.start].iter().chain(&self.0[CHECKSUM.end..]);
        let unsigned: i64 = others().map(|&b| i64::from(b)).sum();
        let signed: i64 = others().map(|&b| i64::from(b as i8)).sum();
        let spaces = 8 * i64::from(b' ');
        stored == unsigned + spaces || stored == signed + spaces
    }

    /// Gives the name with its ustar prefix.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        // The prefix exists in POSIX ustar only: GNU keeps other things there, star a shorter one.
        let prefix = match (&self.0[257..263] == b"ustar\0", &self.0[508..512] == b"tar\0") {
            (true, false) => text(&self.0[345..500]),
            (true, true) => text(&self.0[345..476]),
            (false, _) => b"",
        };
        match prefix.is_empty() {
            true => name.to_vec(),
            false => [prefix, b"/", name].concat(),
        }
    }

    pub(super) fn link_name(&self) -> &[u8] {
        text(&self.0[157..257])
    }

    pub(super) fn mode(&self) -> Result<u32, Problem> {
        // Some writers put the file type into the upper bits.
        number(&self.0[100..108])
            .ok()
            .and_then(|mode| u32::try_from(mode).ok())
            .map(|mode| mode & 0o7777)
            .ok_or(Problem::Number("mode"))
    }

    pub(super) fn uid(&self) -> Result<i64, Problem> {
        number(&self.0[108..116]).map_err(|()| Problem::Number("uid"))
    }

    pub(super) fn gid(&self) -> Result<i64, Problem> {
        number(&self.0[116..124]).map_err(|()| Problem::Number("gid"))
    }

    pub(super) fn size(&self) -> Result<u64, Problem> {
        size_field(&self.0[124..136])
    }

    pub(super) fn mtime(&self) -> Result<i64, Problem> {
        number(&self.0[136..148]).map_err(|()| Problem::Number("mtime"))
    }

    pub(super) fn device(&self) -> Result<(u32, u32), Problem> {
        let part = |field: &[u8]| {
            number(field).ok().and_then(|n| u32::try_from(n).ok()).ok_or(Problem::Number("device"))
        };
        Ok((part(&self.0[329..337])?, part(&self.0[337..345])?))
    }

    /// Sets the name; false when it fits neither the name field nor prefix and name.
    pub(super) fn set_name(&mut self, name: &[u8]) -> bool {
        if name.len() <= 100 {
            self.0[..name.len()].copy_from_slice(name);
            return true;
        }
        if name.len() > 256 {
            return false;
        }
        // The slash between prefix and name is not stored. The rightmost one that leaves a prefix of
        // at most 155 bytes makes the name shortest; a slash at the end belongs to the name.
        let end = name.len().min(156).min(name.len() - 1);
        let Some(cut) = name[..end].iter().rposition(|&b| b == b'/') else { return false };
        let (prefix, rest) = (&name[..cut], &name[cut + 1..]);
        if prefix.is_empty() || rest.is_empty() || rest.len() > 100 {
            return false;
        }
        self.0[..rest.len()].copy_from_slice(rest);
        self.0[345..345 + prefix.len()].copy_from_slice(prefix);
        true
    }

    /// Sets the link target; false when it does not fit.
    pub(super) fn set_link_name(&mut self, name: &[u8]) -> bool {
        let fits = name.len() <= 100;
        if fits {
            self.0[157..157 + name.len()].copy_from_slice(name);
        }
        fits
    }

    pub(super) fn set_mode(&mut self, mode: u32) {
        self.set_octal(100..108, u64::from(mode & 0o7777));
    }

    pub(super) fn set_ids(&mut self, uid: u32, gid: u32) {
        self.set_octal(108..116, uid.into());
        self.set_octal(116..124, gid.into());
    }

    pub(super) fn set_size(&mut self, size: u64) {
        self.set_octal(124..136, size);
    }

    pub(super) fn set_mtime(&mut self, mtime: u64) {
        self.set_octal(136..148, mtime);
    }

    pub(super) fn set_device(&mut self, major: u32, minor: u32) {
        self.set_octal(329..337, major.into());
        self.set_octal(337..345, minor.into());
    }

    /// Computes the checksum; to be called last.
    pub(super) fn seal(&mut self) {
        self.0[CHECKSUM].fill(b' ');
        let sum: u64 = self.0.iter().map(|&b| u64::from(b)).sum();
        self.set_octal(148..155, sum);
        self.0[155] = b' ';
    }

    /// Writes octal digits that fill the field but for a closing NUL. Numbers must fit.
    fn set_octal(&mut self, field: std::ops::Range<usize>, mut value: u64) {
        let field = &mut self.0[field];
        let digits = field.len() - 1;
        field[digits] = 0;
        for digit in field[..digits].iter_mut().rev() {
            *digit = b'0' + (value & 7) as u8;
            value >>= 3;
        }
        debug_assert_eq!(value, 0, "number too large for its field");
    }
}

/// Gives the bytes before the first NUL.
fn text(field: &[u8]) -> &[u8] {
    field.iter().position(|&b| b == 0).map_or(field, |end| &field[..end])
}

pub(super) fn size_field(field: &[u8]) -> Result<u64, Problem> {
    number(field).ok().and_then(|size| u64::try_from(size).ok()).ok_or(Problem::Number("size"))
}

/// Reads a numeric field: octal digits among spaces and NULs, or base-256 in two's complement when
/// the first bit is set. An empty field is zero.
pub(super) fn number(field: &[u8]) -> Result<i64, ()> {
    if field[0] & 0x80 != 0 {
        // The flag bit is not part of the number; the bit below it is its sign.
        let negative = field[0] & 0x40 != 0;
        let first = if negative { field[0] } else { field[0] & 0x7f };
        let mut value = if negative { -1i128 } else { 0 };
        for (index, &byte) in field.iter().enumerate() {
            let byte = if index == 0 { first } else { byte };
            value = value << 8 | i128::from(byte);
        }
        return i64::try_from(value).map_err(|_| ());
    }
    let is_filler = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !is_filler(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(is_filler).unwrap_or(digits.len());
    if !digits[end..].iter().all(is_filler) {
        return Err(());
    }
    let mut value = 0i64;
    for &digit in &digits[..end] {
        if !(b'0'..=b'7').contains(&digit) {
            return Err(());
        }
        value = value.checked_mul(8).ok_or(())? | i64::from(digit - b'0');
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_all_tars_write_them() {
        for (field, expect) in [
            (&b"0000644\0"[..], Ok(0o644)),
            (b"   644 \0", Ok(0o644)),
            (b"\0\0\0\0\0\0\0\0", Ok(0)),
            (b"       ", Ok(0)),
            (b"77777777777\0", Ok(MOST_OCTAL_12 as i64)),
            (b"777777777777", Ok(0o777777777777)),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Ok(1 << 33)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Ok(-1)),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", Err(())),
            (b"\x80\xff\xff\xff\xff\xff\xff\xff", Ok((1 << 56) - 1)),
            (b"0000948\0", Err(())),
            (b"644 644\0", Err(())),
            (b"-000001\0", Err(())),
        ] {
            assert_eq!(number(field), expect, "{}", field.escape_ascii());
        }
    }

    #[test]
    fn long_names_are_split_at_a_slash() {
        for (name, fits) in [
            ("a".repeat(100), true),
            ("a".repeat(101), false),
            (format!("{}/{}", "a".repeat(155), "b".repeat(100)), true),
            (format!("{}/{}", "a".repeat(156), "b".repeat(100)), false),
            (format!("{}/{}", "a".repeat(155), "b".repeat(101)), false),
            (format!("{}/{}/", "a".repeat(50), "b".repeat(99)), true),
            (format!("{}/", "b".repeat(100)), false),
            (format!("/{}", "b".repeat(100)), false),
        ] {
            let mut header = Header::ustar(b'0');
            assert_eq!(header.set_name(name.as_bytes()), fits, "{name}");
            if fits {
                assert_eq!(header.name(), name.as_bytes());
            }
        }
    }

    #[test]
    fn a_header_is_told_by_its_checksum() {
        let mut header = Header::ustar(b'0');
        header.set_name(b"a");
        header.seal();
        assert!(is_header(&header.0));
        header.0[0] = b'b';
        assert!(!is_header(&header.0));
        assert!(!is_header(&[0; BLOCK]));
        assert!(!is_header(b"short"));
    }
}
