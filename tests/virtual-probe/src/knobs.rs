//! Knobs: what can be wrong with a board, a port or a wire, each turned on by name.

use std::ops::Range;
use std::str::FromStr;
use std::time::Duration;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Knob {
    /// `core-off:N`: the core has no power. EDPRSR says so (PU = 0), all else of it answers FAULT.
    CoreOff(usize),
    /// `core-fault:N`: every access to the core's components answers FAULT.
    CoreFault(usize),
    /// `fault:START:LEN`: the system access port answers FAULT for these bytes.
    Fault(Range<u64>),
    /// `no-ld`: the system access port lacks the Large Data extension: 64-bit accesses are refused.
    NoLargeData,
    /// `no-system-ap`: there is no system access port (its IDR reads 0).
    NoSystemAp,
    /// `no-input-gate`: CTIDEVID.INOUT is 0: CTIGATE does not mask events that come from other cores.
    NoInputGate,
    /// `stale`: the system access port does not see the cores' caches: each page of a region that they map cacheable stays
    /// as it was at its first read.
    Stale,
    /// `cut:N`: after N transfers the connection is closed in the middle of a batch. Once.
    Cut(u64),
    /// `slow:US`: every batch takes this much longer, as a USB round trip does.
    Slow(Duration),
    /// `hang:N`: after N transfers nothing is answered any more on this connection. Once.
    Hang(u64),
}

/// Why a text is no knob.
#[derive(Debug)]
pub struct BadKnob(String);

impl std::fmt::Display for BadKnob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` is none of core-off:N, core-fault:N, fault:START:LEN, no-ld, no-system-ap, no-input-gate, stale, \
             cut:N, slow:US, hang:N",
            self.0
        )
    }
}

impl std::error::Error for BadKnob {}

impl FromStr for Knob {
    type Err = BadKnob;

    fn from_str(text: &str) -> Result<Knob, BadKnob> {
        let bad = || BadKnob(text.into());
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let mut value = || number(parts.next()?);
        let knob = match name {
            "core-off" => value().map(|core| Knob::CoreOff(core as usize)),
            "core-fault" => value().map(|core| Knob::CoreFault(core as usize)),
            "fault" => value().zip(value()).and_then(|(start, length)| {
                let end = start.checked_add(length)?;
                Some(Knob::Fault(start..end))
            }),
            "no-ld" => Some(Knob::NoLargeData),
            "no-system-ap" => Some(Knob::NoSystemAp),
            "no-input-gate" => Some(Knob::NoInputGate),
            "stale" => Some(Knob::Stale),
            "cut" => value().map(Knob::Cut),
            "slow" => value().map(|micros| Knob::Slow(Duration::from_micros(micros))),
            "hang" => value().map(Knob::Hang),
            _ => None,
        };
        if parts.next().is_some() { Err(bad()) } else { knob.ok_or_else(bad) }
    }
}

/// A number, hexadecimal behind `0x`.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// All knobs of a probe, ready to be asked.
#[derive(Clone, Debug, Default)]
pub struct Knobs {
    /// Cores without power.
    pub core_off: Vec<usize>,
    /// Cores whose components answer FAULT.
    pub core_fault: Vec<usize>,
    /// Physical addresses that answer FAULT.
    pub faults: Vec<Range<u64>>,
    /// No Large Data extension.
    pub no_large_data: bool,
    /// No system access port.
    pub no_system_ap: bool,
    /// No input gate.
    pub no_input_gate: bool,
    /// Caches are not snooped.
    pub stale: bool,
    /// Transfers, counted from the probe's start, after which the wire is cut.
    pub cut: Option<u64>,
    /// Transfers, counted from the probe's start, after which nothing is answered.
    pub hang: Option<u64>,
    /// What a batch takes longer.
    pub slow: Duration,
}

impl FromIterator<Knob> for Knobs {
    fn from_iter<I: IntoIterator<Item = Knob>>(list: I) -> Knobs {
        let mut knobs = Knobs::default();
        for knob in list {
            match knob {
                Knob::CoreOff(core) => knobs.core_off.push(core),
                Knob::CoreFault(core) => knobs.core_fault.push(core),
                Knob::Fault(range) => knobs.faults.push(range),
                Knob::NoLargeData => knobs.no_large_data = true,
                Knob::NoSystemAp => knobs.no_system_ap = true,
                Knob::NoInputGate => knobs.no_input_gate = true,
                Knob::Stale => knobs.stale = true,
                Knob::Cut(transfers) => knobs.cut = Some(transfers),
                Knob::Slow(time) => knobs.slow = time,
                Knob::Hang(transfers) => knobs.hang = Some(transfers),
            }
        }
        knobs
    }
}

impl Knobs {
    /// Whether the system access port answers FAULT for any of these bytes.
    pub fn faults_at(&self, address: u64, bytes: u64) -> bool {
        self.faults.iter().any(|range| address < range.end && range.start < address.saturating_add(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knobs_are_read_from_text() {
        for (text, knob) in [
            ("core-off:2", Knob::CoreOff(2)),
            ("core-fault:0x3", Knob::CoreFault(3)),
            ("fault:0x1000:0x20", Knob::Fault(0x1000..0x1020)),
            ("no-ld", Knob::NoLargeData),
            ("stale", Knob::Stale),
            ("cut:10", Knob::Cut(10)),
            ("slow:250", Knob::Slow(Duration::from_micros(250))),
            ("hang:0", Knob::Hang(0)),
        ] {
            assert_eq!(text.parse::<Knob>().expect(text), knob);
        }
        for text in ["", "core-off", "core-off:x", "fault:1", "no-ld:1", "fault:0xFFFFFFFFFFFFFFFF:1", "cut:1:2"] {
            assert!(text.parse::<Knob>().is_err(), "{text:?} was taken");
        }
    }
}
