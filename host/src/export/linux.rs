//! A Linux trace as text again: the lines that the kernel printed, from the events that the capture holds.
//!
//! What was imported from the kernel's own default layout comes out line by line as it went in, but for its header; other layouts,
//! and packed or binary files, come out in that layout too. Events of other kinds were not imported, and are not here.

use std::io::Write;

use linux_trace::{Event, Mask, Name, What};

use super::ExportError;
use crate::capture::Capture;
use crate::linux::{Decoder, Table};

/// Writes it. `nanoseconds`: nine digits behind the second, not six.
///
/// # Errors
///
/// The capture's and the output's.
pub fn write(capture: &Capture, table: &Table, nanoseconds: bool, out: &mut dyn Write) -> Result<(), ExportError> {
    let events: u64 = table.counts.iter().map(|(_, count)| count).sum();
    let cpus = capture.info().cores;
    writeln!(
        out,
        "# tracer: nop\n#\n# entries-in-buffer/entries-written: {events}/{}   #P:{cpus}",
        events + table.lost
    )?;
    out.write_all(super::ftrace::LEGEND.as_bytes())?;
    let mut decoder = Decoder::new(table);
    let mut line = Vec::new();
    let mut failed = None;
    // Masks are padded to the words that hold all CPUs.
    let page = Page { table, words: usize::from(cpus).div_ceil(64).max(1), nanoseconds };
    capture.linux_rows(|_, rows| {
        decoder.events(rows, |event| {
            if failed.is_some() {
                return;
            }
            line.clear();
            // Writing into memory does not fail.
            let _ = page.line(event, &mut line);
            failed = out.write_all(&line).err();
        });
    })?;
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(out.flush()?),
    }
}

struct Page<'a> {
    table: &'a Table,
    words: usize,
    nanoseconds: bool,
}

impl Page<'_> {
    fn line(&self, event: &Event, out: &mut Vec<u8>) -> std::io::Result<()> {
        let name = |name: Name| self.table.name(name);
        let or_null = |name: Name| if name.is_none() { "0x0" } else { self.table.name(name) };
        if let What::Lost { count } = event.what {
            return match count {
                Some(count) => writeln!(out, "CPU:{} [LOST {count} EVENTS]", event.cpu),
                None => writeln!(out, "##### CPU {} buffer started ####", event.cpu),
            };
        }
        let comm = if event.comm.is_none() { "<...>" } else { name(event.comm) };
        write!(out, "{comm:>16}-{:<7} [{:03}] ", event.pid.unwrap_or(0), event.cpu)?;
        let flags = event.flags.split(|byte| *byte == 0).next().unwrap_or_default();
        if !flags.is_empty() {
            out.write_all(flags)?;
            out.push(b' ');
        }
        let (seconds, rest) = (event.t / 1_000_000_000, event.t % 1_000_000_000);
        match (self.table.resolution_ns, self.nanoseconds) {
            (0, _) => write!(out, "{:>12}: ", event.t)?,
            (_, true) => write!(out, "{seconds:>5}.{rest:09}: ")?,
            (_, false) => write!(out, "{seconds:>5}.{:06}: ", rest / 1000)?,
        }
        match event.what {
            What::Raise { targets, reason } => {
                writeln!(out, "ipi_raise: target_mask={} ({})", self.mask(&targets), name(reason))
            }
            What::Entry { reason } => writeln!(out, "ipi_entry: ({})", name(reason)),
            What::Exit { reason } => writeln!(out, "ipi_exit: ({})", name(reason)),
            What::SendCpu { cpu, callsite, callback } => {
                writeln!(out, "ipi_send_cpu: cpu={cpu} callsite={} callback={}", or_null(callsite), or_null(callback))
            }
            What::SendMask { targets, callsite, callback } => writeln!(
                out,
                "ipi_send_cpumask: cpumask={} callsite={} callback={}",
                self.mask(&targets),
                or_null(callsite),
                or_null(callback)
            ),
            What::Queue { cpu, callsite, function, csd } => writeln!(
                out,
                "csd_queue_cpu: cpu={cpu} callsite={} func={} csd={csd:016x}",
                or_null(callsite),
                or_null(function)
            ),
            What::FunctionEntry { function, csd } => {
                writeln!(out, "csd_function_entry: func={}, csd={csd:016x}", or_null(function))
            }
            What::FunctionExit { function, csd } => {
                writeln!(out, "csd_function_exit: func={}, csd={csd:016x}", or_null(function))
            }
            What::IrqEntry { irq, name: action } => {
                writeln!(out, "irq_handler_entry: irq={irq} name={}", name(action))
            }
            What::IrqExit { irq } => writeln!(out, "irq_handler_exit: irq={irq} ret=handled"),
            What::Idle { state } => {
                writeln!(out, "cpu_idle: state={} cpu_id={}", state.unwrap_or(u32::MAX), event.cpu)
            }
            What::Switch { from, to } => writeln!(out, "sched_switch: prev_pid={from} ==> next_pid={to}"),
            What::Mark { function, text, user } => match user {
                true => writeln!(out, "tracing_mark_write: {}", name(text)),
                false => writeln!(out, "{}: {}", name(function), name(text)),
            },
            What::Lost { .. } => Ok(()),
        }
    }

    /// Groups of 32 bits, the highest first.
    fn mask(&self, mask: &Mask) -> String {
        let words = mask.words().iter().take(self.words).rev();
        words.map(|word| format!("{:08x},{:08x}", word >> 32, word & 0xFFFF_FFFF)).collect::<Vec<_>>().join(",")
    }
}
