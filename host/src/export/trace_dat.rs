//! A capture as a trace.dat, with the real names of the kernel's events: trace-cmd and KernelShark open it, and so do their users' scripts.
//!
//! Of bare metal, a core's thread is the task `ipiscope` with the core's number plus one as its process id, as in the text. Stacks
//! (`--backtrace`) are left out: the kernel's event for them holds addresses of its own text.

use std::io::{self, Write};

use linux_trace::dat::{Meta, WriteError, Writer};

use super::ExportError;
use super::events::Events;
use crate::capture::Capture;
use crate::choice::Choice;

/// Writes it.
///
/// # Errors
///
/// The capture's, the scratch file's, the output's.
pub fn write(
    capture: &Capture,
    events: &Events<'_>,
    choice: Option<&Choice>,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let meta = Meta {
        cpus: events.cpus(),
        clock: events.clock(),
        machine: capture.info().machine.clone(),
        recorder: format!("ipiscope {}", env!("CARGO_PKG_VERSION")),
    };
    let scratch = tempfile::tempfile().map_err(ExportError::Scratch)?;
    let mut writer = Writer::new(out, scratch, meta);
    let spoken = events.each(choice, false, |step, names| match step.frame {
        None => writer.event(&step.event, names).map_err(failed),
        Some(_) => Ok(()),
    })?;
    writer.finish(&spoken).map_err(failed)?;
    Ok(())
}

fn failed(error: WriteError) -> ExportError {
    match error {
        WriteError::Out(error) => ExportError::Write(error),
        WriteError::Scratch(error) => ExportError::Scratch(error),
        // A capture has at most 512 cores.
        other => ExportError::Write(io::Error::other(other)),
    }
}
