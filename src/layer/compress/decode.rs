//! [`Decoder`]: reads what others compressed, whatever they called it.

use std::io::{self, BufRead, BufReader, Cursor, Read};

/// Bytes read at once from the compressed side.
const BUFFER: usize = 128 * 1024;

/// The largest zstd window accepted: 128 MiB, the most that any of zstd's levels uses without
/// `--long`, and what decoders must support by default.
const MOST_WINDOW_LOG: u32 = 27;

/// A compressed format that [`Decoder`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// bzip2.
    Bzip2,
    /// xz.
    Xz,
}

impl Format {
    /// Tells the format by its first bytes (6 are enough).
    pub fn detect(head: &[u8]) -> Option<Format> {
        // A zstd stream may start with a skippable frame (RFC 8878 section 3.1.2).
        let skippable = |head: &[u8]| matches!(head, [magic, 0x2a, 0x4d, 0x18, ..] if (0x50..=0x5f).contains(magic));
        match head {
            [0x1f, 0x8b, 8, ..] => Some(Format::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Format::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Some(Format::Bzip2),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Format::Xz),
            head if skippable(head) => Some(Format::Zstd),
            _ => None,
        }
    }
}

/// Decompresses a stream whose format it tells by content. Several gzip members, zstd frames, bzip2
/// or xz streams one after the other are read as one; anything else behind the end is an error.
pub struct Decoder<'a> {
    inner: Box<dyn Read + Send + 'a>,
    format: Option<Format>,
    /// Bytes that may still be read, and the limit they were counted from.
    left: Option<(u64, u64)>,
}

impl<'a> Decoder<'a> {
    /// Reads the first bytes and starts.
    pub fn new(mut input: impl Read + Send + 'a) -> io::Result<Decoder<'a>> {
        let mut head = Vec::with_capacity(8);
        (&mut input).take(8).read_to_end(&mut head)?;
        let format = Format::detect(&head);
        let input = Cursor::new(head).chain(input);
        let input = BufReader::with_capacity(BUFFER, input);
        let inner: Box<dyn Read + Send + 'a> = match format {
            None => Box::new(input),
            Some(Format::Gzip) => Box::new(Gunzip(State::Member(Box::new(gz(input))))),
            Some(Format::Zstd) => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(MOST_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Some(Format::Bzip2) => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
            Some(Format::Xz) => Box::new(lzma_rust2::XzReader::new(input, true)),
        };
        Ok(Decoder { inner, format, left: None })
    }

    /// Makes reading of more than `bytes` decompressed bytes an error.
    pub fn limit(self, bytes: u64) -> Decoder<'a> {
        Decoder { left: Some((bytes, bytes)), ..self }
    }

    /// Gives the format found; None for a stream that is not compressed.
    pub fn format(&self) -> Option<Format> {
        self.format
    }
}

impl Read for Decoder<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let Some((left, limit)) = &mut self.left else { return self.inner.read(out) };
        // At the limit one more byte tells whether the stream ends there.
        let wanted = out.len().min(usize::try_from(*left).unwrap_or(usize::MAX).max(1));
        let count = self.inner.read(&mut out[..wanted])?;
        match (count as u64).checked_sub(*left) {
            Some(over) if over > 0 => Err(io::Error::other(format!(
                "decompressed data exceeds the limit of {limit} bytes"
            ))),
            _ => {
                *left -= count as u64;
                Ok(count)
            }
        }
    }
}

/// Reads gzip members until the end; zeros may follow, as they do on tapes and as gzip allows.
struct Gunzip<R>(State<R>);

enum State<R> {
    Member(Box<flate2::bufread::GzDecoder<R>>),
    Zeros(R),
    Broken,
}

fn gz<R: BufRead>(input: R) -> flate2::bufread::GzDecoder<R> {
    flate2::bufread::GzDecoder::new(input)
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.0 {
                State::Member(decoder) => {
                    let count = decoder.read(out)?;
                    if count > 0 {
                        return Ok(count);
                    }
                    let State::Member(decoder) = std::mem::replace(&mut self.0, State::Broken)
                    else {
                        return Ok(0);
                    };
                    let mut input = decoder.into_inner();
                    self.0 = match input.fill_buf()?.first() {
                        Some(0x1f) => State::Member(Box::new(gz(input))),
                        _ => State::Zeros(input),
                    };
                }
                State::Zeros(input) => {
                    let rest = input.fill_buf()?;
                    if rest.is_empty() {
                        return Ok(0);
                    }
                    if rest.iter().any(|&b| b != 0) {
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidData,
                            "something else follows the end of the gzip data",
                        ));
                    }
                    let count = rest.len();
                    input.consume(count);
                }
                State::Broken => return Err(io::Error::other("an earlier read failed")),
            }
        }
    }
}
