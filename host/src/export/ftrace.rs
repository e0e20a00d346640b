//! Text as Linux's `trace` file has it, so that whatever reads that reads this: of bare metal in the words of arm64's tracepoints
//! (v6.12), of a Linux trace the kernel's own lines again.
//!
//! Formats are those of the kernel's `print fmt`, lines those of its default layout (`TASK-PID [CPU] flags seconds: event`).
//! Bare metal has two tasks: `ipiscope`, a core's thread (its process id is the core's number plus one), and `<idle>`, a core that
//! an interrupt found asleep; its clock is the target's counter, from its start, rounded down. What was imported from that layout
//! comes out line by line as it went in, but for its header. Events of kinds that are not imported are not here.

use std::io::Write;

use linux_trace::{Event, Mask, Name, Texts, What};
use trace_ring::layout::Context;

use super::ExportError;
use super::events::{Events, Step};
use crate::choice::Choice;

/// The kernel's legend of the columns; five of flags, as a kernel without lazy preemption has.
const LEGEND: &str = "\
#
#                                _-----=> irqs-off/BH-disabled
#                               / _----=> need-resched
#                              | / _---=> hardirq/softirq
#                              || / _--=> preempt-depth
#                              ||| / _-=> migrate-disable
#                              |||| /     delay
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
";

/// Writes it. `nanoseconds`: nine digits behind the second, not six.
///
/// # Errors
///
/// The capture's and the output's.
pub fn write(
    events: &Events<'_>,
    choice: Option<&Choice>,
    nanoseconds: bool,
    out: &mut dyn Write,
) -> Result<(), ExportError> {
    let (count, lost) = events.counts();
    let written = count.saturating_add(lost);
    writeln!(out, "# tracer: nop\n#\n# entries-in-buffer/entries-written: {count}/{written}   #P:{}", events.online())?;
    if let Some(choice) = choice {
        writeln!(out, "# filter: {}", choice.filter())?;
    }
    out.write_all(LEGEND.as_bytes())?;
    // Masks are padded to the words that hold all CPUs.
    let words = usize::from(events.cpus()).div_ceil(64).max(1);
    let mut page = Page { events, words, timed: events.is_timed(), nanoseconds, stack: None };
    let mut line = Vec::new();
    events.each(choice, false, |step, names| {
        line.clear();
        page.step(step, names, &mut line)?;
        Ok(out.write_all(&line)?)
    })?;
    Ok(out.flush()?)
}

struct Page<'a> {
    events: &'a Events<'a>,
    words: usize,
    timed: bool,
    nanoseconds: bool,
    /// Whose stack the newest line belongs to, if it is one's.
    stack: Option<(u16, Context)>,
}

impl Page<'_> {
    fn step(&mut self, step: &Step, names: &dyn Texts, out: &mut Vec<u8>) -> std::io::Result<()> {
        let place = Some((step.event.cpu, step.context));
        match step.frame {
            None => {
                self.stack = None;
                self.line(&step.event, names, out)
            }
            Some((address, true)) => {
                self.stack = place;
                self.head(&step.event, names, out)?;
                writeln!(out, "<stack trace>\n => {}", self.events.frame(address))
            }
            // Only behind the frame that it was called from: where that is missing, it says nothing.
            Some(_) if self.stack != place => Ok(()),
            Some((address, false)) => writeln!(out, " => {}", self.events.frame(address)),
        }
    }

    /// What stands before the event's own words.
    fn head(&self, event: &Event, names: &dyn Texts, out: &mut Vec<u8>) -> std::io::Result<()> {
        let comm = if event.comm.is_none() { "<...>" } else { names.text(event.comm) };
        write!(out, "{comm:>16}-{:<7} [{:03}] ", event.pid.unwrap_or(0), event.cpu)?;
        let flags = event.flags.split(|byte| *byte == 0).next().unwrap_or_default();
        if !flags.is_empty() {
            out.write_all(flags)?;
            out.push(b' ');
        }
        let (seconds, rest) = (event.t / 1_000_000_000, event.t % 1_000_000_000);
        match (self.timed, self.nanoseconds) {
            (false, _) => write!(out, "{:>12}: ", event.t),
            (true, true) => write!(out, "{seconds:>5}.{rest:09}: "),
            (true, false) => write!(out, "{seconds:>5}.{:06}: ", rest / 1000),
        }
    }

    fn line(&self, event: &Event, names: &dyn Texts, out: &mut Vec<u8>) -> std::io::Result<()> {
        let name = |name: Name| names.text(name);
        let or_null = |name: Name| if name.is_none() { "0x0" } else { names.text(name) };
        if let What::Lost { count } = event.what {
            return match count {
                Some(count) => writeln!(out, "CPU:{} [LOST {count} EVENTS]", event.cpu),
                None => writeln!(out, "##### CPU {} buffer started ####", event.cpu),
            };
        }
        self.head(event, names, out)?;
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
