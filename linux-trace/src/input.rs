//! Opens a trace however it was packed: plain, gzip, xz or zstd, told apart by its first bytes.
//!
//! Names mean nothing here: a `trace.txt` that somebody packed is still read.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::Path;

/// How a file is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip (RFC 1952, section 2.3.1: `1F 8B`).
    Gzip,
    /// xz (The .xz File Format, section 2.1.1.1: `FD 37 7A 58 5A 00`).
    Xz,
    /// Zstandard (RFC 8878, section 3.1.1: `28 B5 2F FD`).
    Zstd,
}

impl Packing {
    /// By the first bytes of a file.
    #[must_use]
    pub fn of(first: &[u8]) -> Packing {
        match first {
            [0x1F, 0x8B, ..] => Packing::Gzip,
            [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
            [0x28, 0xB5, 0x2F, 0xFD, ..] => Packing::Zstd,
            _ => Packing::Plain,
        }
    }
}

/// The most memory that unpacking may take: what xz files made with its strongest preset need (65 MiB), and some more.
const MOST_MEMORY: u64 = 256 << 20;

/// Opens a file for reading from its begin to its end.
///
/// # Errors
///
/// What opening and reading its first bytes gives.
pub fn open(path: &Path) -> io::Result<(Packing, Box<dyn Read>)> {
    let mut file = File::open(path)?;
    let mut first = Vec::new();
    (&mut file).take(8).read_to_end(&mut first)?;
    file.rewind()?;
    let packing = Packing::of(&first);
    let input: Box<dyn Read> = match packing {
        Packing::Plain => Box::new(file),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(BufReader::new(file))),
        Packing::Xz => {
            let stream = liblzma::stream::Stream::new_auto_decoder(MOST_MEMORY, liblzma::stream::CONCATENATED)?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(BufReader::new(file), stream))
        }
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::new(file)?),
    };
    Ok((packing, input))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_packed_file_reads_as_what_was_packed() {
        let text =
            b"            init-1       [003] d....     8.034540: ipi_entry: (Rescheduling interrupts)\n".repeat(2000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&text).unwrap();
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 6);
        xz.write_all(&text).unwrap();
        let packed = [
            (Packing::Plain, text.clone()),
            (Packing::Gzip, gzip.finish().unwrap()),
            (Packing::Xz, xz.finish().unwrap()),
            (Packing::Zstd, zstd::encode_all(&text[..], 3).unwrap()),
        ];
        for (packing, bytes) in packed {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            let (found, mut input) = open(file.path()).unwrap();
            let mut read = Vec::new();
            input.read_to_end(&mut read).unwrap();
            assert_eq!((found, read == text), (packing, true));
            // Cut short: what was whole is given, then an error, never a panic.
            if packing != Packing::Plain {
                std::fs::write(file.path(), &bytes[..bytes.len() / 2]).unwrap();
                assert!(open(file.path()).unwrap().1.read_to_end(&mut Vec::new()).is_err(), "{packing:?}");
            }
        }
    }
}
