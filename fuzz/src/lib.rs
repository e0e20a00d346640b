//! What several fuzzers need: an input as a file, checksums that hold again after a mutation, text in pieces.

mod region;

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

pub use region::small_region;

/// An input as a file, for readers that take a path. It lives in memory and is gone with this value.
#[derive(Debug)]
pub struct InputFile(File);

impl InputFile {
    /// A file of these bytes.
    ///
    /// # Panics
    ///
    /// The system gives no memory for it: the fuzzer ends there.
    pub fn of(bytes: &[u8]) -> InputFile {
        let file = rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC).expect("a file in memory");
        let mut file = File::from(file);
        file.write_all(bytes).expect("memory for the input");
        InputFile(file)
    }

    /// Where it can be opened, from its beginning.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// MCAP's record number of a chunk (<https://mcap.dev/spec>, "Records"), and of a message inside it.
const CHUNK: u8 = 0x06;
const MESSAGE: u8 = 0x05;
/// Bytes of a record before its body: number and length.
const RECORD_HEAD: usize = 9;
/// Bytes of a message before what is ours: channel, sequence, two times.
const MESSAGE_HEAD: usize = 22;
/// Where in a message of ours its CRC stands (host/src/capture.rs, `HEAD`).
const CRC: std::ops::Range<usize> = 12..16;

/// Makes the checksums of a capture's uncompressed chunks and of the messages in them right again, so that what a mutation
/// changed is read and not only refused.
pub fn repair(capture: &mut [u8]) {
    let mut at = 8;
    while let Some((code, body)) = record(capture, at) {
        if code == CHUNK {
            repair_chunk(&mut capture[body.clone()]);
        }
        at = body.end;
    }
}

/// A record's number and its body.
fn record(bytes: &[u8], at: usize) -> Option<(u8, std::ops::Range<usize>)> {
    let (head, rest) = bytes.get(at..)?.split_at_checked(RECORD_HEAD)?;
    let length = usize::try_from(u64::from_le_bytes(head[1..].try_into().ok()?)).ok()?;
    (length <= rest.len()).then(|| (head[0], at + RECORD_HEAD..at + RECORD_HEAD + length))
}

/// Start and end time, uncompressed size, CRC, compression (a text), length of the records, records.
fn repair_chunk(chunk: &mut [u8]) {
    let Some(length) = chunk.get(28..32).and_then(|bytes| bytes.try_into().ok()).map(u32::from_le_bytes) else {
        return;
    };
    if length != 0 || chunk.len() < 40 {
        return;
    }
    // 0: nobody computed one.
    chunk[24..28].fill(0);
    let records = &mut chunk[40..];
    let mut at = 0;
    while let Some((code, body)) = record(records, at) {
        at = body.end;
        let Some(message) = records[body].get_mut(MESSAGE_HEAD..) else { continue };
        if code == MESSAGE && message.len() >= 32 {
            let mut crc = crc32fast::Hasher::new();
            crc.update(&message[..CRC.start]);
            crc.update(&message[CRC.end..]);
            message[CRC].copy_from_slice(&crc.finalize().to_le_bytes());
        }
    }
}
