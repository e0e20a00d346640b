//! The firmware's log: defmt frames from the region, their text from the ELF of the same build.
//!
//! Each core writes whole frames behind one another into 4 KiB of its own, and counts what does not fit: reading them
//! needs no word from the host, so an attached target's log is read like everything else of it. (SEGGER's RTT block, which
//! debuggers usually read logs from, wants its reader to write: an index a channel. Nothing here writes.)

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use defmt_decoder::{DecodeError, Table};
use trace_ring::reader::Region;

use crate::capture::{Capture, CaptureError, ELF_ATTACHMENT};

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The core that wrote it.
    pub core: usize,
    /// When, counter ticks; `None`: the frame does not say.
    pub ticks: Option<u64>,
    /// `info`, `warn` …; empty where the frame does not say.
    pub level: String,
    /// Its text.
    pub text: String,
}

/// A target's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// All lines, by time.
    pub lines: Vec<Line>,
    /// Frames that did not fit, by core.
    pub dropped: Vec<(usize, u64)>,
    /// Why there is no text, or not all of it.
    pub trouble: Option<String>,
    /// Ticks per second.
    pub counter_hz: u64,
}

/// Reads the log that a capture holds.
pub fn read(capture: &Capture) -> Result<Log, CaptureError> {
    let mut log = Log::default();
    let Some(mut source) = capture.snapshot() else {
        log.trouble = Some("the capture holds no snapshot of the region, and the log is part of it".into());
        return Ok(log);
    };
    let region = match Region::open(&mut source) {
        Ok(region) => region,
        Err(error) => {
            log.trouble = Some(error.to_string());
            return Ok(log);
        }
    };
    log.counter_hz = region.directory.counter_hz;
    let elf = capture.attachment(ELF_ATTACHMENT)?;
    let table = match elf.as_deref().map(Table::parse) {
        Some(Ok(Some(table))) => Some(table),
        Some(Ok(None)) => {
            log.trouble = Some("the firmware's ELF holds no log strings".into());
            None
        }
        Some(Err(error)) => {
            log.trouble = Some(format!("the log strings in the firmware's ELF can't be read: {error}"));
            None
        }
        None => {
            log.trouble =
                Some("the capture holds no ELF of the firmware, and so no log strings (--firmware names it)".into());
            None
        }
    };
    for core in 0..region.directory.core_count as usize {
        let Ok((header, bytes)) = region.log(&mut source, core) else { continue };
        if header.dropped > 0 {
            log.dropped.push((core, header.dropped));
        }
        let used = usize::try_from(header.head).unwrap_or(usize::MAX).min(bytes.len());
        if let Some(table) = &table {
            frames(&bytes[..used], |frame| log.take(core, table, frame));
        }
    }
    log.lines.sort_by_key(|line| line.ticks);
    Ok(log)
}

/// Hands on each frame: two bytes of length, little-endian, then the frame. A length that leaves the log ends it.
fn frames(mut bytes: &[u8], mut each: impl FnMut(&[u8])) {
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let length = usize::from(u16::from_le_bytes(*length));
        let Some((frame, rest)) = rest.split_at_checked(length) else { return };
        each(frame);
        bytes = rest;
    }
}

impl Log {
    fn take(&mut self, core: usize, table: &Table, frame: &[u8]) {
        // The decoder panics at some frames that no firmware writes; memory may hold any.
        let line = catch_unwind(AssertUnwindSafe(|| {
            table.decode(frame).map(|(frame, _)| Line {
                core,
                ticks: frame.display_timestamp().and_then(|text| text.to_string().parse().ok()),
                level: frame.level().map(|level| level.as_str().to_string()).unwrap_or_default(),
                text: frame.display_message().to_string(),
            })
        }));
        match line {
            Ok(Ok(line)) => self.lines.push(line),
            Ok(Err(DecodeError::Malformed | DecodeError::UnexpectedEof)) | Err(_) => {
                self.trouble.get_or_insert_with(|| format!("core {core} left a log frame that can't be read"));
            }
        }
    }
}

impl fmt::Display for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.lines.iter().find_map(|line| line.ticks).unwrap_or(0);
        for line in &self.lines {
            match line.ticks {
                Some(ticks) if self.counter_hz > 0 => {
                    let since = ticks.saturating_sub(first) as f64 / self.counter_hz as f64;
                    write!(f, "{since:12.6} ")?;
                }
                _ => write!(f, "{:12} ", "")?,
            }
            writeln!(f, "core {:<3} {:5} {}", line.core, line.level, line.text)?;
        }
        for (core, count) in &self.dropped {
            writeln!(f, "core {core}: {count} log frames did not fit")?;
        }
        if let Some(trouble) = &self.trouble {
            writeln!(f, "log: {trouble}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_taken_apart_and_a_length_that_lies_ends_them() {
        let mut seen = Vec::new();
        frames(&[2, 0, 7, 8, 0, 0, 1, 0, 9, 200, 0, 1], |frame| seen.push(frame.to_vec()));
        assert_eq!(seen, [vec![7, 8], vec![], vec![9]]);
        frames(&[5], |_| panic!("half a length is no frame"));
    }
}
