//! What an SGI asks for: an IPI kind where the plan has kinds, nothing but itself where it has not.
//!
//! A send names its pair slot, and slots have kinds. A reception names sender, receiver and INTID alone: their slots agree,
//! but for plans that send bare SGIs and kinds over one INTID, where the kind is told.

use std::borrow::Cow;
use std::collections::HashMap;

use trace_ring::calls::IpiKind;
use trace_ring::layout::PairSlot;
use trace_ring::plan::{Plan, plan_flag};
use trace_ring::reader::Region;
use zerocopy::IntoBytes as _;

use crate::capture::{Capture, PLAN_ATTACHMENT, SnapshotSource};

/// The kinds of a plan's slots.
#[derive(Clone, Debug, Default)]
pub struct Reasons {
    /// The plan uses IPI kinds.
    calls: bool,
    slots: Vec<Option<IpiKind>>,
    /// By sender, receiver, INTID: flows that have a kind.
    flows: HashMap<(u16, u16, u8), IpiKind>,
}

impl Reasons {
    /// Of a capture: from its plan, or from its newest snapshot where the plan is not attached.
    pub fn of(capture: &Capture) -> Reasons {
        if let Some(reasons) =
            capture.attachment(PLAN_ATTACHMENT).ok().flatten().and_then(|plan| Reasons::of_plan(&plan))
        {
            return reasons;
        }
        let read = |mut source: SnapshotSource<'_>| {
            let region = Region::open(&mut source).ok()?;
            let slots = region.slots(&mut source).ok()?;
            Some(Reasons::of_slots(region.directory.descriptor_count > 0, &slots))
        };
        capture.snapshot().and_then(read).unwrap_or_default()
    }

    /// Of a compiled plan; `None`: it is none.
    pub fn of_plan(bytes: &[u8]) -> Option<Reasons> {
        let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
        aligned.as_mut_bytes().get_mut(..bytes.len())?.copy_from_slice(bytes);
        let plan = Plan::parse(aligned.as_bytes()).ok()?;
        let slots = plan.slots.iter().map(|slot| (slot.from, slot.to, slot.intid, slot.kind));
        Some(Reasons::new(plan.header.flags & plan_flag::CALLS != 0, slots))
    }

    /// Of a region's slots. `calls`: its plan uses IPI kinds.
    pub fn of_slots(calls: bool, slots: &[PairSlot]) -> Reasons {
        Reasons::new(calls, slots.iter().map(|slot| (slot.from, slot.to, slot.intid, slot.kind)))
    }

    fn new(calls: bool, slots: impl Iterator<Item = (u16, u16, u8, u8)>) -> Reasons {
        let mut reasons = Reasons { calls, ..Reasons::default() };
        if calls {
            for (from, to, intid, code) in slots {
                let kind = IpiKind::from_slot_code(code);
                reasons.slots.push(kind);
                if let Some(kind) = kind {
                    reasons.flows.insert((from, to, intid), kind);
                }
            }
        }
        reasons
    }

    /// Whether the plan uses IPI kinds.
    pub const fn has_kinds(&self) -> bool {
        self.calls
    }

    /// What the message of a pair slot asks for.
    pub fn of_slot(&self, slot: u32) -> Option<IpiKind> {
        self.slots.get(slot as usize).copied().flatten()
    }

    /// What messages of one core to another over an INTID ask for.
    pub fn of_flow(&self, from: u16, to: u16, intid: u8) -> Option<IpiKind> {
        self.flows.get(&(from, to, intid)).copied()
    }

    /// What an INTID stands for where nothing else is known of the message.
    pub fn of_intid(&self, intid: u8) -> Option<IpiKind> {
        if self.calls { IpiKind::from_intid(intid) } else { None }
    }
}

/// What Linux prints between parentheses; a bare SGI is told by its number.
pub fn text(kind: Option<IpiKind>, intid: u8) -> Cow<'static, str> {
    match kind {
        Some(kind) => kind.reason().into(),
        None => format!("SGI {intid}").into(),
    }
}

/// The kind that a reason stands for (`arch/arm64/kernel/smp.c`, `ipi_types`); others pass through by their words.
pub fn kind(reason: &str) -> Option<IpiKind> {
    Some(match reason {
        "Rescheduling interrupts" => IpiKind::Reschedule,
        "Function call interrupts" | "Single function call interrupts" => IpiKind::CallFunction,
        "CPU stop interrupts" | "CPU stop NMIs" => IpiKind::Stop,
        "CPU stop (for crash dump) interrupts" | "CPU stop for crash dump NMIs" => IpiKind::CrashStop,
        "Timer broadcast interrupts" => IpiKind::TimerBroadcast,
        "IRQ work interrupts" => IpiKind::IrqWork,
        "CPU wake-up interrupts" => IpiKind::Wakeup,
        "CPU backtrace interrupts" => IpiKind::Backtrace,
        _ => return None,
    })
}

/// The reason of a send of which a trace tells the callback alone (`ipi_send_cpu` without `ipi_raise`).
pub fn of_callback(callback: &str) -> &'static str {
    match callback {
        "" => "Rescheduling interrupts",
        name if name.starts_with("generic_smp_call_function_single_interrupt") => "Function call interrupts",
        _ => "IRQ work interrupts",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_those_of_slots_and_bare_sgis_keep_their_number() {
        let bare = (0, 1, 1, 0);
        let call = (1, 2, 1, IpiKind::CallFunction.slot_code());
        let reasons = Reasons::new(true, [bare, call].into_iter());
        assert_eq!(
            (reasons.of_slot(0), reasons.of_slot(1), reasons.of_slot(2)),
            (None, Some(IpiKind::CallFunction), None)
        );
        assert_eq!((reasons.of_flow(0, 1, 1), reasons.of_flow(1, 2, 1)), (None, Some(IpiKind::CallFunction)));
        assert_eq!(reasons.of_intid(5), Some(IpiKind::IrqWork));
        assert_eq!(text(reasons.of_flow(1, 2, 1), 1), "Function call interrupts");
        assert_eq!(text(reasons.of_flow(0, 1, 1), 1), "SGI 1");
        // Without kinds no INTID means anything, whatever lies in the slots.
        let reasons = Reasons::new(false, [call].into_iter());
        assert_eq!((reasons.of_slot(0), reasons.of_flow(1, 2, 1), reasons.of_intid(1)), (None, None, None));
    }
}
