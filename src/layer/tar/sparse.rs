//! Sparse files: which pieces of a file are stored, and their expansion to zeros.
//!
//! Layers should not hold them (OCI image-spec, layer.md), yet archives for ADD and some images do.

use std::io::{self, Read};

use super::header::{BLOCK, Header, size_field};
use super::{MOST_SEGMENTS, MOST_SPARSE, Problem, pax};

/// One piece of stored data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// All pieces, in order.
pub(super) type Map = Vec<Segment>;

/// Checks a map against the sizes of the file and of its stored data.
pub(super) fn check(map: &Map, real_size: u64, stored: u64) -> Result<(), Problem> {
    if real_size > MOST_SPARSE {
        return Err(Problem::SparseTooLarge(real_size));
    }
    let mut end = 0u64;
    let mut sum = 0u64;
    for segment in map {
        if segment.offset < end {
            return Err(Problem::Sparse("pieces overlap or are out of order"));
        }
        end = segment
            .offset
            .checked_add(segment.length)
            .filter(|&end| end <= real_size)
            .ok_or(Problem::Sparse("a piece lies beyond the end"))?;
        sum += segment.length;
    }
    match sum == stored {
        true => Ok(()),
        false => Err(Problem::Sparse("its pieces are not what is stored")),
    }
}

/// Reads the map of GNU's own format: four pieces in the header, more in the blocks behind it.
/// Gives the map, the file's size and the bytes of the extra blocks.
pub(super) fn read_gnu(
    header: &Header,
    input: &mut impl Read,
) -> io::Result<Result<(Map, u64, u64), Problem>> {
    let mut map = Map::new();
    let real_size = match size_field(&header.0[483..495]) {
        Ok(size) => size,
        Err(problem) => return Ok(Err(problem)),
    };
    if let Err(problem) = add_gnu(&mut map, &header.0[386..482]) {
        return Ok(Err(problem));
    }
    let mut more = header.0[482] != 0;
    let mut extra = 0;
    let mut block = [0; BLOCK];
    while more {
        input.read_exact(&mut block)?;
        extra += BLOCK as u64;
        if let Err(problem) = add_gnu(&mut map, &block[..504]) {
            return Ok(Err(problem));
        }
        if extra > (MOST_SEGMENTS * 24) as u64 {
            return Ok(Err(Problem::Sparse("too many pieces")));
        }
        more = block[504] != 0;
    }
    Ok(Ok((map, real_size, extra)))
}

fn add_gnu(map: &mut Map, fields: &[u8]) -> Result<(), Problem> {
    for field in fields.chunks_exact(24) {
        // An unused slot is empty; a piece of length 0 at the end marks the size.
        if field[0] == 0 {
            continue;
        }
        map.push(Segment { offset: size_field(&field[..12])?, length: size_field(&field[12..])? });
    }
    Ok(())
}

/// Reads the map of PAX version 1.0, which stands in front of the data as decimal lines, padded to a
/// block. Gives the map and the bytes it took.
pub(super) fn read_pax_1_0(
    input: &mut impl Read,
    stored: u64,
) -> io::Result<Result<(Map, u64), Problem>> {
    const PROBLEM: Problem = Problem::Sparse("the map is not made of numbers");
    let mut block = [0; BLOCK];
    let mut taken = 0u64;
    let mut digits: Vec<u8> = Vec::new();
    let mut numbers: Vec<u64> = Vec::new();
    let mut expected: Option<usize> = None;
    while expected != Some(numbers.len()) {
        if taken + BLOCK as u64 > stored.next_multiple_of(BLOCK as u64) {
            return Ok(Err(Problem::Sparse("the map does not end")));
        }
        input.read_exact(&mut block)?;
        taken += BLOCK as u64;
        for &byte in &block {
            if expected == Some(numbers.len()) {
                break;
            }
            if byte != b'\n' {
                if digits.len() > 20 {
                    return Ok(Err(PROBLEM));
                }
                digits.push(byte);
                continue;
            }
            let Some(number) = pax::decimal(&digits) else { return Ok(Err(PROBLEM)) };
            digits.clear();
            match expected {
                Some(_) => numbers.push(number),
                None if number <= MOST_SEGMENTS as u64 => expected = Some(number as usize * 2),
                None => return Ok(Err(Problem::Sparse("too many pieces"))),
            }
        }
    }
    let map = numbers.chunks_exact(2).map(|pair| Segment { offset: pair[0], length: pair[1] });
    Ok(Ok((map.collect(), taken)))
}

/// Where a reader is in an expanded file.
#[derive(Debug)]
pub(super) struct Expansion {
    map: std::vec::IntoIter<Segment>,
    current: Option<Segment>,
    position: u64,
    size: u64,
}

impl Expansion {
    /// Starts at the beginning; the map has been checked.
    pub(super) fn new(map: Map, size: u64) -> Expansion {
        let mut map = map.into_iter();
        Expansion { current: map.next(), map, position: 0, size }
    }

    /// Reads expanded bytes; stored ones come from `stored`.
    pub(super) fn read(
        &mut self,
        out: &mut [u8],
        mut stored: impl FnMut(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        while self.current.is_some_and(|s| s.offset + s.length <= self.position) {
            self.current = self.map.next();
        }
        let (until, is_hole) = match self.current {
            Some(segment) if segment.offset <= self.position => {
                (segment.offset + segment.length, false)
            }
            Some(segment) => (segment.offset, true),
            None => (self.size, true),
        };
        let count = (until - self.position).min(out.len() as u64) as usize;
        let count = match is_hole {
            true => {
                out[..count].fill(0);
                count
            }
            false => stored(&mut out[..count])?,
        };
        self.position += count as u64;
        Ok(count)
    }
}
