//! Records as lines that a person reads: what a core did last.

use std::iter::Peekable;

use trace_ring::calls::IpiKind;
use trace_ring::layout::Context;
use trace_ring::plan::transition;
use trace_ring::record::{
    Event, FLAG_NMI, FLAG_PSEUDO_NMI, FLAG_STATE_MASK, FLAG_SYNCHRONOUS, FLAG_UNTIMED, FRAME_SENDER, Kind, PEER_ALL,
    PROBE_ACTIVE, PROBE_ENABLED, PROBE_PENDING, ReceiverState, Record, Retired, Witness, code_address,
};

use crate::detect::duration;
use crate::plan::PhaseMeta;
use crate::reason::Reasons;
use crate::symbols::Symbols;

/// What words need beside a record.
#[derive(Clone, Copy, Debug)]
pub struct Lexicon<'a> {
    /// Ticks of the counter in a second; 0: not known.
    pub hz: u64,
    /// Physical address of the first call descriptor.
    pub calls_pa: u64,
    /// What SGIs ask for.
    pub reasons: &'a Reasons,
    /// The plan's phases.
    pub phases: &'a [PhaseMeta],
    /// The firmware's names.
    pub symbols: &'a Symbols,
}

/// The last events of a core: time, context, text. `tails`: the newest records of its lanes.
pub fn last(lexicon: Lexicon<'_>, core: u16, tails: &[Vec<Record>], count: usize) -> Vec<(u64, Context, String)> {
    let reader = Reader { lexicon, core };
    let mut events = Vec::new();
    for (tail, context) in tails.iter().zip(Context::ALL) {
        let mut records = tail.iter().map(|record| record.event).peekable();
        while let Some(event) = records.next() {
            if let Some(text) = reader.text(&event, &mut records) {
                events.push((event.t, context, text));
            }
        }
    }
    // Stable: lanes keep their order where times are equal. A reception has its vector's time, and stands behind the stamp of
    // its acknowledge.
    events.sort_by_key(|(t, ..)| *t);
    events.split_off(events.len().saturating_sub(count))
}

struct Reader<'a> {
    lexicon: Lexicon<'a>,
    core: u16,
}

impl Reader<'_> {
    /// What a record says, with those behind it that explain it; `None`: nothing of its own.
    fn text(&self, event: &Event, rest: &mut Peekable<impl Iterator<Item = Event>>) -> Option<String> {
        let peer = event.peer;
        let Lexicon { reasons, hz, .. } = self.lexicon;
        let time = |ticks: u64| match hz {
            0 => format!("{ticks} ticks"),
            hz => duration(ticks as f64 * 1e9 / hz as f64, 1e9 / hz as f64),
        };
        let sgi = |kind: Option<IpiKind>| match kind {
            Some(kind) => format!("SGI {} ({})", event.intid, kind.name()),
            None => format!("SGI {}", event.intid),
        };
        let seen = |word: u64| {
            let is = |bit: u64, yes: &'static str, no: &'static str| if word & bit != 0 { yes } else { no };
            let enabled = is(PROBE_ENABLED, "enabled", "disabled");
            let pending = is(PROBE_PENDING, "pending", "not pending");
            format!("{enabled}, {pending}, {}", is(PROBE_ACTIVE, "active", "not active"))
        };
        let waits = if event.flags & FLAG_SYNCHRONOUS != 0 { ", and waits" } else { "" };
        let function = |bits: u32| self.function(bits);
        Some(match event.kind {
            Kind::Send => {
                let whom = if peer == PEER_ALL { "all others".to_string() } else { format!("core {peer}") };
                let by = self.sender(event, rest);
                format!("sent {} to {whom}, message {}{by}", sgi(reasons.of_slot(event.slot())), event.msg)
            }
            Kind::SendMask => {
                let mut targets = cores_of(event);
                while let Some(more) =
                    rest.next_if(|next| next.kind == Kind::SendMask && (next.t, next.intid) == (event.t, event.intid))
                {
                    targets.extend(cores_of(&more));
                }
                let by = self.sender(event, rest);
                format!("sent {} to cores {}{by}", sgi(reasons.of_intid(event.intid)), ranges(&targets))
            }
            // Those that explain a send went with it.
            Kind::CallSite => return None,
            Kind::Receive => {
                let kind = reasons.of_flow(peer, self.core, event.intid);
                let latency = match event.t.checked_sub(event.arg).filter(|_| event.flags & FLAG_UNTIMED == 0) {
                    Some(ticks) if event.arg != 0 => format!(", {} after its send", time(ticks)),
                    _ => String::new(),
                };
                let older = match event.extra {
                    0 => String::new(),
                    255 => " and 255 or more before it".into(),
                    count => format!(" and {count} before it"),
                };
                let how = match event.flags & (FLAG_PSEUDO_NMI | FLAG_NMI) {
                    0 => "",
                    FLAG_PSEUDO_NMI => ", as a pseudo-NMI",
                    _ => ", as an NMI",
                };
                let state = match ReceiverState::from_code(event.flags & FLAG_STATE_MASK) {
                    ReceiverState::Unknown => String::new(),
                    state => format!(" ({})", state.name()),
                };
                format!("took {} of core {peer}, message {}{older}{latency}{how}{state}", sgi(kind), event.msg)
            }
            Kind::ReceiveEmpty => format!("took {}, and found no message", sgi(reasons.of_intid(event.intid))),
            Kind::SpuriousIntid => format!("acknowledged INTID {}: no interrupt was there", event.msg),
            Kind::Retire => {
                let why = match Retired::from_code(event.extra) {
                    Retired::Lost => "lost",
                    Retired::Unknown => "what became of it is not known",
                };
                let count = event.arg & 0xFFFF_FFFF;
                let what = if count > 1 { format!("{count} messages up to") } else { "message".into() };
                let kind = reasons.of_flow(self.core, peer, event.intid);
                format!("gave up {what} {} of {} to core {peer}: {why} ({})", event.msg, sgi(kind), seen(event.arg))
            }
            Kind::Probe => {
                let kind = reasons.of_flow(self.core, peer, event.intid);
                format!("looked at core {peer}'s redistributor: {} is {}", sgi(kind), seen(event.arg))
            }
            Kind::Mark => format!("mark {}", event.msg),
            Kind::Phase => {
                let verb = if event.extra == 0 { "began" } else { "ended" };
                match self.lexicon.phases.get(event.msg as usize) {
                    Some(phase) => format!("phase `{}` {verb}", phase.name),
                    None => format!("phase {} {verb}", event.msg),
                }
            }
            Kind::Fault => format!("took an exception, ESR_EL1 {:#x}", event.arg),
            Kind::Stage if event.extra == 0 => format!("acknowledged SGI {}", event.intid),
            Kind::Stage if event.extra == 1 => format!("ended SGI {}", event.intid),
            Kind::Stage => format!("stage {} of SGI {}", event.extra, event.intid),
            Kind::Queued => {
                let (name, site) = (function(event.arg as u32), code_address((event.arg >> 32) as u32));
                let what = if event.intid == IpiKind::IrqWork.intid() { "work" } else { "call" };
                let site = self.lexicon.symbols.at_return(site);
                format!("queued {what} {name} for core {peer}{waits}, at {site}, csd {}", self.csd(event.msg))
            }
            Kind::FunctionEntry => {
                let info = event.arg >> 32;
                format!("begins {}({info:#x}) for core {peer}, csd {}", function(event.arg as u32), self.csd(event.msg))
            }
            Kind::FunctionExit => format!("ended {} for core {peer}", function(event.arg as u32)),
            Kind::Frame => {
                let mut frames = vec![self.lexicon.symbols.at_return(event.arg)];
                let same =
                    |next: &Event| next.kind == Kind::Frame && next.flags == event.flags && next.extra > event.extra;
                while let Some(next) = rest.next_if(same) {
                    frames.push(self.lexicon.symbols.at_return(next.arg));
                }
                let whose = if event.flags & FRAME_SENDER != 0 { "sent from" } else { "stood in" };
                format!("{whose} {}", frames.join(" < "))
            }
            Kind::CallWait => {
                format!("has waited {} for csd {} of core {peer}", time(event.arg), self.csd(event.msg))
            }
            Kind::Park if event.extra == 0 => format!("parked by SGI {}", event.intid),
            Kind::Park => "left its park".into(),
            Kind::Gap => {
                format!(
                    "was away for {} ({})",
                    time(event.t.saturating_sub(event.arg)),
                    Witness::from_code(event.extra).name()
                )
            }
            Kind::Heartbeat => {
                let (late, bits) = (event.t.saturating_sub(event.arg), event.msg);
                format!(
                    "took a heartbeat, {} after it was due, with SGIs pending (GICR_ISPENDR0 {bits:#x})",
                    time(late)
                )
            }
            Kind::Sweep => {
                let before = event.arg as i64 - event.t as i64;
                let what = transition::name(event.extra);
                format!(
                    "times message {} to core {peer} against its transition {what}, {before} ticks from now",
                    event.msg
                )
            }
            Kind::Unknown(code) => format!("record of kind {code}, which this version does not know"),
        })
    }

    /// Who sent, where the record behind a send says so.
    fn sender(&self, sent: &Event, rest: &mut Peekable<impl Iterator<Item = Event>>) -> String {
        let of_this = |next: &Event| next.kind == Kind::CallSite && (next.t, next.intid) == (sent.t, sent.intid);
        let Some(site) = rest.next_if(of_this) else { return String::new() };
        let callback = match (site.arg >> 32) as u32 {
            0 => String::new(),
            bits => format!(", for {}", self.function(bits)),
        };
        format!(", at {}{callback}", self.lexicon.symbols.at_return(code_address(site.arg as u32)))
    }

    fn function(&self, bits: u32) -> String {
        let address = code_address(bits);
        self.lexicon.symbols.name(address).unwrap_or_else(|| format!("{address:#x}"))
    }

    /// A descriptor by its physical address.
    fn csd(&self, index: u32) -> String {
        format!("{:x}", self.lexicon.calls_pa.wrapping_add(64 * u64::from(index)))
    }
}

fn cores_of(event: &Event) -> Vec<u32> {
    (0..64).filter(|bit| event.arg >> bit & 1 == 1).map(|bit| u32::from(event.peer) + bit).collect()
}

/// `0-3,7`, as the command line writes lists of cores.
pub fn ranges(cores: &[u32]) -> String {
    let mut text = String::new();
    let mut rest = cores;
    while let Some(first) = rest.first().copied() {
        let length = rest.iter().zip(first..).take_while(|(core, expected)| *core == expected).count();
        if !text.is_empty() {
            text.push(',');
        }
        match length {
            1 => text.push_str(&first.to_string()),
            _ => text.push_str(&format!("{first}-{}", first + length as u32 - 1)),
        }
        rest = &rest[length..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_short() {
        assert_eq!(ranges(&[0, 1, 2, 3, 7]), "0-3,7");
        assert_eq!(ranges(&[5]), "5");
        assert_eq!(ranges(&[]), "");
        assert_eq!(ranges(&[1, 2, 64, 65, 66]), "1-2,64-66");
    }
}
