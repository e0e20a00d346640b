//! Detectors of outcomes: cores that never came, interrupts that did not arrive, or elsewhere, or that nobody sent.
//!
//! They count what happened, so a busy host has no say in them, with two exceptions that [`super::detect`] knows: a core that did not
//! arrive or did not answer in time may not have been allowed to run.

use std::collections::{BTreeMap, BTreeSet};

use trace_ring::layout::{CoreEntry, core_state, fault_kind, run_state};

use super::like::Line;
use super::{Detector, Evidence, Role, Suspect, list, plural, plural_verb, race};
use crate::report::message_text;

/// Cores that never took part.
pub(super) struct CoreMissing;

impl Detector for CoreMissing {
    fn name(&self) -> &'static str {
        "core_missing"
    }

    fn looks_for(&self) -> &'static str {
        "cores that could not be started, or never arrived"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let started = evidence.view().is_some_and(|view| view.status.state >= run_state::RUNNING);
        evidence
            .cores()
            .filter_map(|(core, entry)| {
                let text = core_error(entry, started)?;
                let text = format!("core {core} (MPIDR {:#x}) {text}", entry.mpidr);
                Some(Suspect::core(self.name(), Role::Core, core, text))
            })
            .collect()
    }
}

/// The name of a PSCI error.
pub(crate) const fn psci_error(code: i32) -> &'static str {
    match code {
        -1 => "NOT_SUPPORTED",
        -2 => "INVALID_PARAMETERS",
        -3 => "DENIED",
        -4 => "ALREADY_ON",
        -5 => "ON_PENDING",
        -6 => "INTERNAL_FAILURE",
        -7 => "NOT_PRESENT",
        -8 => "DISABLED",
        -9 => "INVALID_ADDRESS",
        _ => "unknown",
    }
}

/// IPIs of a Linux trace that were never answered.
pub(super) struct Unanswered;

impl Detector for Unanswered {
    fn name(&self) -> &'static str {
        "unanswered"
    }

    fn looks_for(&self) -> &'static str {
        "CPUs that had not answered an IPI when the trace ends, long after others did"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let Some(linux) = &evidence.ipis.linux else { return Vec::new() };
        let mut cpus: BTreeMap<u16, Vec<&crate::correlate::linux::Unanswered>> = BTreeMap::new();
        for unanswered in &linux.unanswered {
            cpus.entry(unanswered.to).or_default().push(unanswered);
        }
        let suspect = |(cpu, open): (u16, Vec<&crate::correlate::linux::Unanswered>)| {
            let oldest = open.first()?;
            let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
            for unanswered in &open {
                *reasons.entry(&unanswered.reason).or_default() += 1;
            }
            let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} of {reason}")).collect();
            let text = format!(
                "core {cpu} had not answered {} when the trace ends ({}); the oldest was sent by core {} {} before",
                plural(open.len() as u64, "IPI"),
                reasons.join(", "),
                oldest.from,
                evidence.length(oldest.age as f64),
            );
            Some(Suspect::core(self.name(), Role::Receiver, cpu, text))
        };
        cpus.into_iter().filter_map(suspect).collect()
    }
}

/// Why a core did not take part; `None` for one that did, or was never meant to. `started`: the plan was begun without it.
pub fn core_error(entry: &CoreEntry, started: bool) -> Option<String> {
    Some(match entry.state {
        core_state::REFUSED => {
            format!("was refused by PSCI CPU_ON: {} ({})", psci_error(entry.error), entry.error)
        }
        core_state::NO_SHOW => "was started and did not arrive within the boot deadline".into(),
        core_state::NO_REDISTRIBUTOR => {
            "arrived, but no redistributor carries its affinity, or that frame did not wake".into()
        }
        core_state::UNREACHABLE => {
            "was not started: its affinity level 0 is above 15, and the distributor has no range selector".into()
        }
        core_state::OFF if started => "was asked for, but the device tree does not describe it".into(),
        core_state::STARTING if started => "was started and had not arrived when the plan began".into(),
        _ => return None,
    })
}

/// Exceptions and panics on the target.
pub(super) struct Fault;

impl Detector for Fault {
    fn name(&self) -> &'static str {
        "fault"
    }

    fn looks_for(&self) -> &'static str {
        "exceptions and panics on the target"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let faults = evidence.view().map_or(&[][..], |view| view.faults.as_slice());
        (0..)
            .zip(faults)
            .filter(|(_, fault)| !matches!(fault.kind, fault_kind::NONE | fault_kind::REFUSED | fault_kind::CRASH_STOP))
            .map(|(core, fault)| {
                let what = fault_name(fault.kind);
                let text = if fault.kind == fault_kind::UNHANDLED {
                    format!("core {core} took {what}: {}, ELR_EL1 {:#x}", message_text(fault), fault.elr)
                } else {
                    let (esr, elr, far) = (fault.esr, fault.elr, fault.far);
                    format!("core {core} took {what}: ESR_EL1 {esr:#x}, ELR_EL1 {elr:#x}, FAR_EL1 {far:#x}")
                };
                Suspect::core(self.name(), Role::Core, core, text)
            })
            .collect()
    }
}

/// What a fault entry tells of, with its article.
pub fn fault_name(kind: u32) -> &'static str {
    match kind {
        fault_kind::SYNCHRONOUS => "a synchronous exception",
        fault_kind::SERROR => "an SError",
        fault_kind::FIQ => "an FIQ",
        fault_kind::PANIC => "a panic",
        fault_kind::REFUSED => "a refusal",
        fault_kind::CRASH_STOP => "a crash stop",
        fault_kind::UNHANDLED => "an interrupt that nobody handles",
        _ => "an unknown fault",
    }
}

/// Receivers whose redistributor had the SGI disabled.
pub(super) struct Masked;

impl Detector for Masked {
    fn name(&self) -> &'static str {
        "masked"
    }

    fn looks_for(&self) -> &'static str {
        "cores whose redistributor has the SGI disabled while it is pending"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let mut receivers: BTreeMap<u16, (u64, u64, f64)> = BTreeMap::new();
        for slot in evidence.ipis.slots.iter().filter(|slot| slot.probes.masked > 0) {
            let (probes, unknown, worst) = receivers.entry(slot.to).or_default();
            *probes += slot.probes.masked;
            *unknown += slot.counts.unknown;
            *worst = worst.max(slot.latency.map_or(0.0, |latency| latency.max));
        }
        receivers
            .into_iter()
            .map(|(core, (probes, unknown, worst))| {
                let mut text = format!(
                    "{probes} {} found the SGI pending and disabled in GICR_ISENABLER0 of core {core}",
                    plural(probes, "probe")
                );
                if unknown > 0 {
                    text += &format!("; {unknown} {} not answered within T", plural_verb(unknown, "message"));
                } else if worst > 0.0 {
                    text += &format!("; the latest answer took {}", evidence.length(worst));
                }
                let mut suspect = Suspect::core(self.name(), Role::Receiver, core, text);
                suspect.effect_ns = (worst > 0.0).then(|| evidence.nanoseconds(worst));
                suspect
            })
            .collect()
    }
}

/// Messages that another core took.
pub(super) struct Misroute;

impl Detector for Misroute {
    fn name(&self) -> &'static str {
        "misrouted"
    }

    fn looks_for(&self) -> &'static str {
        "interrupts that another core took"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let mut pairs: BTreeMap<(u16, u16), (u64, BTreeSet<u16>)> = BTreeMap::new();
        for message in &evidence.ipis.misrouted {
            let (count, takers) = pairs.entry((message.from, message.to)).or_default();
            *count += 1;
            takers.insert(message.taken_by);
        }
        let measured: Vec<(u16, u16)> = sent(evidence).into_keys().collect();
        let told = |who: &str, of: &dyn Fn(&(u16, u16)) -> bool| {
            let own = || pairs.iter().filter(|(pair, _)| of(pair));
            let count: u64 = own().map(|(_, (count, _))| count).sum();
            let takers: BTreeSet<u16> = own().flat_map(|(_, (_, takers))| takers.iter().copied()).collect();
            format!(
                "{count} {} {who} went unanswered while {} took the same INTID without a message",
                plural(count, "IPI"),
                list(takers)
            )
        };
        // A distributor that is wrong about all is no pair's fault.
        if pairs.len() >= 3 && pairs.len() * 4 >= measured.len() * 3 {
            let text = told(&format!("of {} of {} pairs", pairs.len(), measured.len()), &|_| true);
            return vec![Suspect { core: None, ..Suspect::core(self.name(), Role::Core, 0, text) }];
        }
        let suspect = |line: Line| match line {
            Line::Receiver(core) => {
                let text = told(&format!("to core {core} from several senders"), &|pair| pair.1 == core);
                Suspect::core(self.name(), Role::Receiver, core, text)
            }
            Line::Sender(core) | Line::Core(core) => {
                let text = told(&format!("from core {core} to several receivers"), &|pair| pair.0 == core);
                Suspect::core(self.name(), Role::Sender, core, text)
            }
            Line::Pair(from, to) => {
                let text = told(&format!("from core {from} to core {to}"), &|pair| *pair == (from, to));
                Suspect::pair(self.name(), from, to, text)
            }
        };
        fold(&measured, pairs.keys().copied().collect()).into_iter().map(suspect).collect()
    }
}

/// Messages sent and lost by each pair that sent any.
fn sent(evidence: &Evidence<'_>) -> BTreeMap<(u16, u16), (u64, u64)> {
    let mut pairs: BTreeMap<(u16, u16), (u64, u64)> = BTreeMap::new();
    for slot in evidence.ipis.slots.iter().filter(|slot| slot.counts.sent > 0) {
        let (sent, lost) = pairs.entry((slot.from, slot.to)).or_default();
        *sent += slot.counts.sent;
        *lost += slot.counts.lost;
    }
    pairs
}

/// Messages that nobody took.
pub(super) struct Lost;

impl Detector for Lost {
    fn name(&self) -> &'static str {
        "lost"
    }

    fn looks_for(&self) -> &'static str {
        "interrupts that were sent and that nobody took"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let pairs = sent(evidence);
        let measured: Vec<(u16, u16)> = pairs.keys().copied().collect();
        let lossy = pairs.iter().filter(|(_, (_, lost))| *lost > 0).map(|(pair, _)| *pair).collect();
        let sum = |of: &dyn Fn(&(u16, u16)) -> bool| {
            pairs
                .iter()
                .filter(|(pair, _)| of(pair))
                .fold((0, 0), |sum, (_, counts)| (sum.0 + counts.0, sum.1 + counts.1))
        };
        fold(&measured, lossy)
            .into_iter()
            .map(|line| match line {
                Line::Receiver(core) => {
                    let (sent, lost) = sum(&|pair| pair.1 == core);
                    let text = format!("{lost} of {sent} IPIs to core {core} were lost, from several senders");
                    Suspect::core(self.name(), Role::Receiver, core, text)
                }
                Line::Sender(core) | Line::Core(core) => {
                    let (sent, lost) = sum(&|pair| pair.0 == core);
                    let text = format!("{lost} of {sent} IPIs from core {core} were lost, to several receivers");
                    Suspect::core(self.name(), Role::Sender, core, text)
                }
                Line::Pair(from, to) => {
                    let (sent, lost) = sum(&|pair| *pair == (from, to));
                    let text = format!(
                        "{lost} of {sent} IPIs from core {from} to core {to} were lost: enabled, neither pending nor active, unanswered after T{}",
                        race::lost_at(evidence, from, to)
                    );
                    Suspect::pair(self.name(), from, to, text)
                }
            })
            .collect()
    }
}

/// Interrupts that stood pending and enabled, and were not taken.
pub(super) struct NotTaken;

impl Detector for NotTaken {
    fn name(&self) -> &'static str {
        "not_taken"
    }

    fn looks_for(&self) -> &'static str {
        "cores that do not take a pending, enabled interrupt within T"
    }

    // On a live emulator, a core that does not run takes nothing.
    fn judges_latency(&self) -> bool {
        true
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        let mut receivers: BTreeMap<u16, u64> = BTreeMap::new();
        for slot in &evidence.ipis.slots {
            let seen = slot.probes.pending + slot.probes.active;
            if slot.counts.unknown > 0 && seen > 0 {
                *receivers.entry(slot.to).or_default() += slot.counts.unknown;
            }
        }
        receivers
            .into_iter()
            .map(|(core, count)| {
                let text = format!(
                    "core {core} did not answer {count} {} within T though the SGI stood pending or active and enabled",
                    plural(count, "IPI")
                );
                Suspect::core(self.name(), Role::Receiver, core, text)
            })
            .collect()
    }
}

/// Receptions without a message, by core: the spurious ones, and those that came twice.
pub(super) fn strays(evidence: &Evidence<'_>) -> BTreeMap<u16, (u64, u64)> {
    let mut cores: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
    for reception in &evidence.ipis.receptions {
        let (spurious, twice) = cores.entry(reception.core).or_default();
        *(if reception.duplicate { twice } else { spurious }) += 1;
    }
    cores
}

/// A core's strays are one finding, named as most of them are: one that nobody sent may come shortly after an answer by chance.
fn receptions(evidence: &Evidence<'_>, detector: &'static str, duplicate: bool) -> Vec<Suspect> {
    let told = |(core, (spurious, twice)): (u16, (u64, u64))| {
        if (twice > spurious) != duplicate {
            return None;
        }
        let (count, other) = if duplicate { (twice, spurious) } else { (spurious, twice) };
        let interrupts = plural(count, "interrupt");
        let mut text = if duplicate {
            format!("core {core} took {count} {interrupts} again, shortly after the one that answered the message")
        } else {
            format!("core {core} took {count} {interrupts} that no message explains")
        };
        if other > 0 {
            let where_from = if duplicate { "that no message explains" } else { "shortly after an answer" };
            text += &format!(", and {other} {where_from}");
        }
        Some(Suspect::core(detector, Role::Receiver, core, text))
    };
    strays(evidence).into_iter().filter_map(told).collect()
}

/// Interrupts that nobody sent.
pub(super) struct Spurious;

impl Detector for Spurious {
    fn name(&self) -> &'static str {
        "spurious"
    }

    fn looks_for(&self) -> &'static str {
        "interrupts that nobody sent"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        receptions(evidence, self.name(), false)
    }
}

/// Interrupts that came twice.
pub(super) struct Duplicate;

impl Detector for Duplicate {
    fn name(&self) -> &'static str {
        "duplicate"
    }

    fn looks_for(&self) -> &'static str {
        "interrupts that came twice"
    }

    fn check(&self, evidence: &Evidence<'_>) -> Vec<Suspect> {
        receptions(evidence, self.name(), true)
    }
}

/// The row or column with the most pairs outside, where at least two and three quarters of its pairs are.
pub(super) fn whole_line(measured: &[(u16, u16)], outside: &BTreeSet<(u16, u16)>) -> Option<Line> {
    let mut lines: BTreeMap<Line, (usize, usize)> = BTreeMap::new();
    for (from, to) in measured.iter().filter(|(from, to)| from != to) {
        for line in [Line::Receiver(*to), Line::Sender(*from)] {
            let (all, out) = lines.entry(line).or_default();
            *all += 1;
            *out += usize::from(outside.contains(&(*from, *to)));
        }
    }
    let whole = lines.into_iter().filter(|(_, (all, out))| *out >= 2 && out * 4 >= all * 3);
    // The most pairs; of equals the fullest line; of those, receivers before senders.
    whole
        .max_by(|(a, (a_all, a_out)), (b, (b_all, b_out))| {
            a_out.cmp(b_out).then(b_all.cmp(a_all)).then_with(|| b.cmp(a))
        })
        .map(|(line, _)| line)
}

/// Lines and pairs that explain a set of pairs, as few as possible.
pub(super) fn fold(measured: &[(u16, u16)], mut pairs: BTreeSet<(u16, u16)>) -> Vec<Line> {
    let mut lines = Vec::new();
    while let Some(line) = whole_line(measured, &pairs) {
        pairs.retain(|(from, to)| !line.holds(*from, *to));
        lines.push(line);
    }
    lines.extend(pairs.into_iter().map(|(from, to)| Line::Pair(from, to)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lossy_pairs_fold_into_their_common_core() {
        let measured: Vec<(u16, u16)> =
            (0..4).flat_map(|from| (0..4).map(move |to| (from, to))).filter(|(from, to)| from != to).collect();
        let fold = |pairs: &[(u16, u16)]| fold(&measured, pairs.iter().copied().collect());
        assert_eq!(fold(&[(0, 1)]), [Line::Pair(0, 1)]);
        assert_eq!(fold(&[(0, 1), (2, 1), (3, 1)]), [Line::Receiver(1)]);
        assert_eq!(fold(&[(1, 0), (1, 2), (1, 3)]), [Line::Sender(1)]);
        assert_eq!(fold(&[(0, 1), (1, 0)]), [Line::Pair(0, 1), Line::Pair(1, 0)]);
    }
}
