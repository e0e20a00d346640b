//! Numbers and texts of a `trace.dat`, read in the file's byte order, from the file or from an unpacked section.
//!
//! A length in the file is a claim: what is read grows with the bytes that come, never with the claim.

use std::io::{self, ErrorKind, Read, Seek, SeekFrom};

use super::DatError;

/// The longest text or section of a file's description, bytes: forty times the kallsyms of a distribution's kernel.
pub(super) const LONGEST_TEXT: u64 = 256 << 20;

/// A number of `bytes.len()` bytes (1 to 8).
pub(super) fn number(bytes: &[u8], big: bool) -> u64 {
    let push = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    if big { bytes.iter().fold(0, push) } else { bytes.iter().rev().fold(0, push) }
}

/// The number of `size` (1, 2, 4 or 8) bytes at `at`; `None`: it is not all there, or no such size.
#[inline]
pub(super) fn number_at(bytes: &[u8], at: usize, size: usize, big: bool) -> Option<u64> {
    let bytes = bytes.get(at..)?;
    Some(match size {
        4 => {
            let word = *bytes.first_chunk()?;
            u64::from(if big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) })
        }
        8 => {
            let word = *bytes.first_chunk()?;
            if big { u64::from_be_bytes(word) } else { u64::from_le_bytes(word) }
        }
        1 | 2 => number(bytes.get(..size)?, big),
        _ => return None,
    })
}

/// The file: its length, and reads at places.
pub(super) struct Input<S> {
    source: S,
    /// Bytes of it.
    pub(super) len: u64,
}

impl<S: Read + Seek> Input<S> {
    pub(super) fn open(mut source: S) -> Result<Self, DatError> {
        let len = source.seek(SeekFrom::End(0)).map_err(DatError::Io)?;
        Ok(Input { source, len })
    }

    /// Fills `buffer` with what stands at `at`, at most `most` bytes; less where the file ends.
    pub(super) fn read_at(&mut self, at: u64, most: u64, buffer: &mut Vec<u8>) -> Result<(), DatError> {
        buffer.clear();
        // A place beyond what a file can have is damage, and no error of the file.
        if at >= self.len {
            return Ok(());
        }
        self.source.seek(SeekFrom::Start(at)).map_err(DatError::Io)?;
        (&mut self.source).take(most.min(self.len.saturating_sub(at))).read_to_end(buffer).map_err(DatError::Io)?;
        Ok(())
    }

    /// The file from `at` on, to be read in sequence.
    pub(super) fn from(&mut self, at: u64, big: bool) -> Result<Bytes<io::BufReader<&mut S>>, DatError> {
        self.source.seek(SeekFrom::Start(at)).map_err(DatError::Io)?;
        Ok(Bytes { inner: io::BufReader::with_capacity(1 << 16, &mut self.source), at, big })
    }
}

/// Bytes in sequence.
pub(super) struct Bytes<R> {
    inner: R,
    /// The place of the next byte (in an unpacked section: as if it were not packed).
    pub(super) at: u64,
    pub(super) big: bool,
}

impl<'a> Bytes<&'a [u8]> {
    pub(super) fn of(bytes: &'a [u8], at: u64, big: bool) -> Self {
        Bytes { inner: bytes, at, big }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }
}

impl<R: Read> Bytes<R> {
    /// The next `N` bytes; `what` is named where they are not there.
    pub(super) fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DatError> {
        let mut bytes = [0; N];
        self.inner.read_exact(&mut bytes).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => DatError::Truncated { what, at: self.at },
            _ => DatError::Io(error),
        })?;
        self.at += N as u64;
        Ok(bytes)
    }

    pub(super) fn u16(&mut self, what: &'static str) -> Result<u16, DatError> {
        Ok(number(&self.array::<2>(what)?, self.big) as u16)
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, DatError> {
        Ok(number(&self.array::<4>(what)?, self.big) as u32)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, DatError> {
        Ok(number(&self.array::<8>(what)?, self.big))
    }

    /// `len` bytes.
    pub(super) fn bytes(&mut self, len: u64, what: &'static str) -> Result<Vec<u8>, DatError> {
        if len > LONGEST_TEXT {
            return Err(DatError::Malformed { what, value: format!("a length of {len}"), at: self.at });
        }
        let mut bytes = Vec::new();
        (&mut self.inner).take(len).read_to_end(&mut bytes).map_err(DatError::Io)?;
        self.at += bytes.len() as u64;
        if (bytes.len() as u64) < len {
            return Err(DatError::Truncated { what, at: self.at });
        }
        Ok(bytes)
    }

    /// A text that ends with a zero byte.
    pub(super) fn string(&mut self, what: &'static str) -> Result<String, DatError> {
        let mut text = Vec::new();
        loop {
            match self.array::<1>(what)? {
                [0] => return Ok(String::from_utf8_lossy(&text).into_owned()),
                [byte] if text.len() < 4096 => text.push(byte),
                _ => return Err(DatError::Malformed { what, value: "a text without an end".into(), at: self.at }),
            }
        }
    }

    /// The text that must stand here.
    pub(super) fn expect<const N: usize>(&mut self, text: &[u8; N], what: &'static str) -> Result<(), DatError> {
        let at = self.at;
        let found = self.array::<N>(what)?;
        if &found == text {
            return Ok(());
        }
        Err(DatError::Malformed { what, value: format!("`{}`", found.escape_ascii()), at })
    }
}
