//! An inspection as text: a block for each core, no line wider than asked where words allow it.

use std::fmt::Write as _;

use super::{Call, CoreView, Inspection, Sgi, events};
use crate::detect::duration;

/// Where what stands behind a label begins.
const INDENT: usize = 12;

impl Inspection {
    /// For a terminal of so many columns.
    pub fn text(&self, width: usize) -> String {
        let mut page = Page { inspection: self, width: width.clamp(60, 200), text: String::new() };
        page.head();
        for core in &self.cores {
            page.core(core);
        }
        if !self.notes.is_empty() {
            page.text.push('\n');
        }
        for note in &self.notes {
            page.item("note:", 6, note);
        }
        page.text
    }

    /// A time span as the target's counter can tell it.
    fn span(&self, nanoseconds: f64) -> String {
        duration(nanoseconds, 1e9 / self.counter_hz.max(1) as f64)
    }
}

struct Page<'a> {
    inspection: &'a Inspection,
    width: usize,
    text: String,
}

impl Page<'_> {
    /// A label and text, wrapped under itself.
    fn item(&mut self, label: &str, indent: usize, text: &str) {
        let room = self.width.saturating_sub(indent);
        let mut line = format!("{label:<indent$}");
        let mut used = 0;
        for word in text.split_whitespace() {
            let length = word.chars().count();
            if used > 0 && used + 1 + length > room {
                let _ = writeln!(self.text, "{}", line.trim_end());
                line = " ".repeat(indent);
                used = 0;
            }
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
        let _ = writeln!(self.text, "{}", line.trim_end());
    }

    fn head(&mut self) {
        let inspection = self.inspection;
        self.item("Source", INDENT, &inspection.source);
        let up = inspection.cores.iter().filter(|core| core.state != "never_up").count();
        let machine = if inspection.machine.is_empty() { "a machine" } else { &inspection.machine };
        let cores = inspection.cores.len();
        let plan = if inspection.plan.is_empty() { "of no name" } else { &inspection.plan };
        self.item("Target", INDENT, &format!("{machine}, {up} of {cores} cores up, plan {plan}"));
        self.item("Run", INDENT, &inspection.run);
        if inspection.counter_hz > 0 {
            let hz = u128::from(inspection.counter_hz);
            let microseconds = u128::from(inspection.now) * 1_000_000 / hz;
            let (seconds, rest) = (microseconds / 1_000_000, microseconds % 1_000_000);
            let now =
                format!("{seconds}.{rest:06} s by the target's counter, the newest time seen: ages count from it");
            self.item("Now", INDENT, &now);
        }
    }

    fn core(&mut self, core: &CoreView) {
        self.text.push('\n');
        let lasted = |text: &str, nanoseconds: Option<f64>| match nanoseconds {
            Some(nanoseconds) => format!("{text}, for {}", self.inspection.span(nanoseconds)),
            None => text.to_string(),
        };
        // How long the thread has done what it does is told with the thread.
        let own = core.thread.is_none() && !matches!(core.state, "never_up" | "up");
        let summary = lasted(&core.summary, core.for_ns.filter(|_| own));
        let thread = core.thread.as_ref().map(|thread| lasted(thread, core.for_ns));
        let callback = core
            .function
            .as_ref()
            .map(|callback| lasted(&format!("{}({})", callback.function.text(), callback.info), callback.for_ns));
        self.item(&format!("Core {}", core.id), INDENT, &summary);
        if let Some(callback) = callback {
            self.item("  callback", INDENT, &callback);
        }
        if let Some(thread) = thread {
            self.item("  thread", INDENT, &thread);
        }
        if let Some(site) = core.waits.as_ref().and_then(|wait| wait.site.as_ref()) {
            self.item("  waits at", INDENT, &site.symbol);
        }
        if let Some(call) = core.waits.as_ref().and_then(|wait| wait.call.as_ref()) {
            let lock = if call.locked { "locked" } else { "not locked" };
            let to = format!("{} on core {}, {}, {lock}", call.function.text(), call.target, call.state);
            self.item("  waits for", INDENT, &format!("csd {}: {to}{}", call.address, self.age(call.age_ns)));
        }
        if !core.waited_for_by.is_empty() {
            let cores: Vec<String> = core.waited_for_by.iter().map(ToString::to_string).collect();
            let plural = if cores.len() == 1 { "" } else { "s" };
            self.item("  wanted", INDENT, &format!("by core{plural} {}", cores.join(", ")));
        }
        self.registers(core);
        if core.state != "never_up" {
            self.queue("call_single_queue", &core.queue);
            if !core.work.is_empty() {
                self.queue("IRQ work", &core.work);
            }
        }
        self.events(core);
    }

    fn registers(&mut self, core: &CoreView) {
        if let Some(registers) = &core.registers {
            let masked = match registers.masks.as_str() {
                "" => "nothing masked".to_string(),
                masked => format!("{masked} masked"),
            };
            let at =
                format!("{} at EL{}, {masked} (PSTATE {})", registers.pc.symbol, registers.level, registers.pstate);
            self.item("  pc", INDENT, &at);
            if !registers.frames.is_empty() {
                let frames: Vec<&str> = registers.frames.iter().map(|frame| frame.symbol.as_str()).collect();
                self.item("  called by", INDENT, &frames.join(" < "));
            }
        }
        if let Some(sgis) = &core.sgis {
            let list = |is: fn(&Sgi) -> bool| {
                let found: Vec<u32> = sgis.iter().filter(|sgi| is(sgi)).map(|sgi| sgi.intid.into()).collect();
                if found.is_empty() { "none".to_string() } else { events::ranges(&found) }
            };
            let (enabled, pending, active) = (list(|sgi| sgi.enabled), list(|sgi| sgi.pending), list(|sgi| sgi.active));
            self.item("  SGIs", INDENT, &format!("enabled {enabled}; pending {pending}; active {active}"));
        }
    }

    fn queue(&mut self, name: &str, calls: &[Call]) {
        let count = match calls.len() {
            0 => "empty".to_string(),
            1 => "1 entry".to_string(),
            count => format!("{count} entries, the oldest first"),
        };
        self.item("  queue", INDENT, &format!("{name}: {count}"));
        for call in calls {
            let mut flags = vec![call.state];
            flags.extend(call.locked.then_some("lock"));
            flags.extend(call.synchronous.then_some("sync"));
            let text = format!("csd {}  {}({})  {}", call.address, call.function.text(), call.info, flags.join(" "));
            let _ = writeln!(self.text, "    {text}");
            let from = format!("of core {} at {}{}", call.source, call.call_site.symbol, self.age(call.age_ns));
            self.item("", 8, &from);
        }
    }

    fn age(&self, nanoseconds: Option<f64>) -> String {
        nanoseconds.map(|age| format!(", queued {} ago", self.inspection.span(age))).unwrap_or_default()
    }

    fn events(&mut self, core: &CoreView) {
        if core.events.is_empty() {
            return;
        }
        self.item("  last", INDENT, "events, seconds before now");
        for event in &core.events {
            let ago = match event.ns_ago {
                Some(age) => format!("-{:.9}", age / 1e9),
                None => event.t.to_string(),
            };
            self.item(&format!("{ago:>16}  {:<6} ", event.context), 25, &event.text);
        }
    }
}
