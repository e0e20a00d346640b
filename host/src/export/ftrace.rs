//! Text as Linux's `trace` file has it, so that whatever reads that reads this: arm64, v6.12's tracepoints of IPIs and calls.
//!
//! Formats are those of the kernel's `print fmt`, lines those of its default layout (`TASK-PID [CPU] flags seconds: event`).
//! There are two tasks: `ipiscope`, a core's thread (its process id is the core's number plus one), and `<idle>`, a core that
//! an interrupt found asleep. The clock is the target's counter, from its start, rounded down.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;

use trace_ring::calls::IpiKind;
use trace_ring::layout::Context;

use super::{ExportError, Moment, Survey, Target, Targets, What, replay, survey};
use crate::capture::Capture;
use crate::plan::Keep;
use crate::reason;
use crate::symbols::Symbols;

/// How the text is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Nine digits behind the second, not six.
    pub nanoseconds: bool,
}

/// The kernel's legend of the columns; five of flags, as a kernel without lazy preemption has.
pub(super) const LEGEND: &str = "\
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

/// A capture that was looked through, and can be written.
#[derive(Debug)]
pub struct Text<'a> {
    capture: &'a Capture,
    target: Target,
    found: Survey,
    symbols: Symbols,
}

impl<'a> Text<'a> {
    /// Looks through the capture: what can't be exported is found out before anything is written.
    pub fn prepare(capture: &'a Capture) -> Result<Text<'a>, ExportError> {
        let target = Target::of(capture)?;
        let found = survey(capture, &target)?;
        Ok(Text { capture, target, found, symbols: Symbols::of(capture) })
    }

    /// Writes it.
    pub fn write(&self, options: Options, out: &mut dyn Write) -> Result<(), ExportError> {
        let Text { capture, target, found, symbols } = self;
        let up = target.up.iter().filter(|up| **up).count();
        let written = found.moments.saturating_add(found.lost);
        writeln!(out, "# tracer: nop\n#\n# entries-in-buffer/entries-written: {}/{written}   #P:{up}", found.moments)?;
        out.write_all(LEGEND.as_bytes())?;
        let (places, names) = (HashMap::new(), HashMap::new());
        let mut page = Page { target, symbols, options, places, names, stack: None };
        replay(capture, target, found, |moment, nested| page.line(moment, nested, out))??;
        Ok(out.flush()?)
    }

    /// What the text does not say of itself, one sentence each.
    pub fn notes(&self) -> Vec<String> {
        notes(self.capture, &self.target, &self.found, &self.symbols)
    }
}

fn notes(capture: &Capture, target: &Target, found: &Survey, symbols: &Symbols) -> Vec<String> {
    let mut notes = Vec::new();
    let plan = &capture.info().plan;
    if found.entries > 0 && found.exits == 0 {
        notes.push(format!(
            "there is no ipi_exit: trace level `{}` records no end of interrupt (run with --level stages)",
            plan.level
        ));
    }
    if found.moments == 0 {
        notes.push(format!("the capture holds no sends and no receptions (trace level `{}`)", plan.level));
    }
    if plan.keep != Keep::All {
        notes.push("the capture was made to keep a part of the records alone (--keep): most lines are missing".into());
    }
    if target.has_kinds() && symbols.is_empty() {
        notes.push("the capture holds no ELF of the firmware: functions and call sites stay numbers".into());
    }
    if found.work > 0 {
        notes.push("IRQ work has no csd events, as in Linux: its ipi_send_cpu names the function".into());
    }
    if found.cut > 0 {
        notes.push(format!("{} sends to many cores are left out: a part of their targets was lost", found.cut));
    }
    let damage = found.damage;
    if damage.chunks + damage.messages > 0 || damage.truncated {
        notes.push("the capture is damaged or cut: what could be read is here".into());
    }
    notes
}

struct Page<'a> {
    target: &'a Target,
    symbols: &'a Symbols,
    options: Options,
    /// Addresses that calls return to, as they are printed.
    places: HashMap<u64, String>,
    /// Functions, as `%pS` and as `%ps` print them.
    names: HashMap<u64, (String, String)>,
    /// Whose stack the newest line belongs to, if it is one's.
    stack: Option<(u16, Context)>,
}

impl Page<'_> {
    fn line(&mut self, moment: &Moment, nested: bool, out: &mut dyn Write) -> Result<(), ExportError> {
        let core = moment.core;
        if let What::Lost(count) = moment.what {
            self.stack = None;
            return Ok(writeln!(out, "CPU:{core} [LOST {count} EVENTS]")?);
        }
        let place = Some((core, moment.context));
        if let What::Frame { address, first: false } = moment.what {
            // Only behind the frame that it was called from: where that is missing, it says nothing.
            if self.stack != place {
                return Ok(());
            }
            return Ok(writeln!(out, " => {}", self.frame(address))?);
        }
        self.stack = place.filter(|_| matches!(moment.what, What::Frame { .. }));
        let (task, process) = if moment.idle { ("<idle>", 0) } else { ("ipiscope", u32::from(core) + 1) };
        let flags = match moment.context {
            Context::Thread | Context::Fault => ".....",
            Context::Irq => "d.h..",
            Context::Nmi if nested => "d.Z..",
            Context::Nmi => "d.z..",
        };
        let hz = u128::from(self.target.counter_hz);
        let (scale, digits) = if self.options.nanoseconds { (1_000_000_000, 9) } else { (1_000_000, 6) };
        let units = u128::from(moment.t) * scale / hz;
        let (seconds, rest) = (units / scale, units % scale);
        write!(out, "{task:>16}-{process:<7} [{core:03}] {flags} {seconds:>5}.{rest:0digits$}: ")?;
        match &moment.what {
            What::Queue { target, function, site, descriptor, .. } => {
                let csd = self.target.descriptor(*descriptor);
                let func = self.function(*function).1.clone();
                let site = self.place(*site);
                writeln!(out, "csd_queue_cpu: cpu={target} callsite={site} func={func} csd={csd:016x}")?;
            }
            What::Send { targets: Targets::One(target), site, callback } => {
                let callback = self.function(*callback).0.clone();
                let site = self.place(*site);
                writeln!(out, "ipi_send_cpu: cpu={target} callsite={site} callback={callback}")?;
            }
            What::Send { targets, site, callback } => {
                let mask = self.mask(core, targets);
                let callback = self.function(*callback).0.clone();
                let site = self.place(*site);
                writeln!(out, "ipi_send_cpumask: cpumask={mask} callsite={site} callback={callback}")?;
            }
            What::Raise { targets, kind, intid } => {
                let mask = self.mask(core, targets);
                writeln!(out, "ipi_raise: target_mask={mask} ({})", why(*kind, *intid))?;
            }
            What::Entry { kind, intid } => writeln!(out, "ipi_entry: ({})", why(*kind, *intid))?,
            What::FunctionEntry { function, descriptor, .. } => {
                let csd = self.target.descriptor(*descriptor);
                writeln!(out, "csd_function_entry: func={}, csd={csd:016x}", self.function(*function).1)?;
            }
            What::FunctionExit { function, descriptor } => {
                let csd = self.target.descriptor(*descriptor);
                writeln!(out, "csd_function_exit: func={}, csd={csd:016x}", self.function(*function).1)?;
            }
            What::Exit { kind, intid } => writeln!(out, "ipi_exit: ({})", why(*kind, *intid))?,
            What::Frame { address, .. } => writeln!(out, "<stack trace>\n => {}", self.frame(*address))?,
            What::Lost(_) => {}
        }
        Ok(())
    }

    fn place(&mut self, address: u64) -> &str {
        self.places.entry(address).or_insert_with(|| self.symbols.at_return(address))
    }

    /// A frame's function, as the kernel's stack traces print it: the name alone.
    fn frame(&self, address: u64) -> String {
        // Where a call returns to may lie behind its function's end.
        let name = self.symbols.name(address.saturating_sub(1)).or_else(|| self.symbols.name(address));
        name.unwrap_or_else(|| format!("{address:#x}"))
    }

    fn function(&mut self, address: u64) -> &(String, String) {
        self.names.entry(address).or_insert_with(|| {
            let name = self.symbols.name(address).unwrap_or_else(|| format!("{address:#x}"));
            (self.symbols.at(address), name)
        })
    }

    /// 32 bits a group, the most significant first, whole words of 64 bits.
    fn mask(&self, from: u16, targets: &Targets) -> String {
        let words = self.target.mask(from, targets);
        let groups = words.iter().rev().flat_map(|word| [word >> 32, word & 0xFFFF_FFFF]);
        groups.map(|group| format!("{group:08x}")).collect::<Vec<_>>().join(",")
    }
}

fn why(kind: Option<IpiKind>, intid: u8) -> Cow<'static, str> {
    reason::text(kind, intid)
}
