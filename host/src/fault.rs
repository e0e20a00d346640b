//! Fault twins by name: what `--inject` takes, and what becomes of it in a plan.
//!
//! A twin is a send routine or a vector table that the firmware installs for one core before the plan starts; it costs
//! nothing when there is none. Fields are separated by colons only, so that no shell needs quotes.

use std::fmt;
use std::str::FromStr;

use trace_ring::plan::{Twin, twin_kind};
use trace_ring::record::ReceiverState;

/// A fault that is put into the firmware on purpose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// `drop:FROM:TO:RATE`: sends from one core to another never reach the interrupt controller.
    Drop {
        /// The sender.
        from: u16,
        /// The receiver.
        to: u16,
        /// Share of the sends, above 0 and at most 1.
        rate: f64,
    },
    /// `late:CORE:TICKS` or `late:CORE:TICKS:RATE`: a core takes its interrupts late.
    Late {
        /// The core.
        core: u16,
        /// How late, in counter ticks.
        ticks: u64,
        /// Share of its interrupts, above 0 and at most 1.
        rate: f64,
    },
    /// `slow-sender:CORE:TICKS` or `slow-sender:CORE:TICKS:RATE`: a core's sends are held up behind their time stamp.
    SlowSender {
        /// The core.
        core: u16,
        /// For how long, in counter ticks.
        ticks: u64,
        /// Share of its sends, above 0 and at most 1.
        rate: f64,
    },
    /// `slow-pair:FROM:TO:TICKS` or `slow-pair:FROM:TO:TICKS:RATE`: the same on one way alone.
    SlowPair {
        /// The sender.
        from: u16,
        /// The receiver.
        to: u16,
        /// For how long, in counter ticks.
        ticks: u64,
        /// Share of the sends, above 0 and at most 1.
        rate: f64,
    },
    /// `slow-wake:CORE:STATE:TICKS`: a core takes its interrupts late where they find it in one state.
    SlowWake {
        /// The core.
        core: u16,
        /// The state: spin, wfi, wfe, masked or suspend.
        state: ReceiverState,
        /// How late, in counter ticks.
        ticks: u64,
    },
    /// `misroute:FROM:TO:OTHER` or `misroute:FROM:TO:OTHER:RATE`: sends from one core to another go to a third.
    Misroute {
        /// The sender.
        from: u16,
        /// The receiver that was meant.
        to: u16,
        /// The core that gets them.
        other: u16,
        /// Share of the sends, above 0 and at most 1.
        rate: f64,
    },
    /// `duplicate:CORE:RATE`: a core's interrupts come again after their end.
    Duplicate {
        /// The core.
        core: u16,
        /// Share of its interrupts, above 0 and at most 1.
        rate: f64,
    },
    /// `spurious:CORE:RATE`: a core takes interrupts that nobody sent.
    Spurious {
        /// The core.
        core: u16,
        /// Share of the chances (heartbeats, or interrupts where the plan has no heartbeat), above 0 and at most 1.
        rate: f64,
    },
    /// `stall:CORE:RATE`: a core's interrupts stay pending until another one comes.
    Stall {
        /// The core.
        core: u16,
        /// Share of its interrupts after which that happens, above 0 and at most 1.
        rate: f64,
    },
    /// `steal:CORE:TICKS:RATE`: a core is taken away while it waits.
    Steal {
        /// The core.
        core: u16,
        /// For how long, in counter ticks.
        ticks: u64,
        /// Share of its heartbeats and interrupts, above 0 and at most 1.
        rate: f64,
    },
    /// `skew:CORE:TICKS`: a core's counter is ahead, or behind where the number is negative.
    Skew {
        /// The core.
        core: u16,
        /// By how much, in counter ticks.
        ticks: i64,
    },
    /// `jump:CORE:TICKS` or `jump:CORE:TICKS:NTH`: the same from a core's NTH interrupt or send on.
    Jump {
        /// The core.
        core: u16,
        /// By how much, in counter ticks.
        ticks: i64,
        /// From which on, from 1; `None`: [`Fault::JUMPS_AT`].
        nth: Option<u64>,
    },
    /// `step-back:CORE:TICKS:RATE`: some of a core's time stamps lie in the past.
    StepBack {
        /// The core.
        core: u16,
        /// How far, in counter ticks.
        ticks: u64,
        /// Share of the stamps, above 0 and at most 1.
        rate: f64,
    },
    /// `mask:CORE:TICKS`: a core's redistributor has the SGI disabled for a while after each one.
    Mask {
        /// The core.
        core: u16,
        /// For how long, in counter ticks.
        ticks: u64,
    },
    /// `dead:CORE`: a core is started and never arrives.
    Dead {
        /// The core.
        core: u16,
    },
    /// `crash:CORE`: a core executes an undefined instruction in the first phase.
    Crash {
        /// The core.
        core: u16,
    },
    /// `overflow:CORE`: a core overflows its stack in the first phase.
    Overflow {
        /// The core.
        core: u16,
    },
    /// `stray:CORE`: a core gets an interrupt that nobody handles (an SPI) in the first phase.
    Stray {
        /// The core.
        core: u16,
    },
    /// `slow-callback:CORE:TICKS`: callbacks on a core take longer.
    SlowCallback {
        /// The core.
        core: u16,
        /// How much longer, in counter ticks.
        ticks: u64,
    },
    /// `stuck:CORE` or `stuck:CORE:NTH`: in one of its callbacks a core masks its interrupts and never comes back.
    Stuck {
        /// The core.
        core: u16,
        /// In which callback, from 1; `None`: [`Fault::STUCK_IN`].
        callback: Option<u64>,
    },
    /// `csd-lock:CORE` or `csd-lock:CORE:NTH`: after one of the callbacks that somebody waits for, a core leaves the call locked.
    CsdLock {
        /// The core that is called.
        core: u16,
        /// After which callback, from 1; `None`: [`Fault::LOCKED_AFTER`].
        callback: Option<u64>,
    },
}

impl Fault {
    /// The callback in which `stuck` strikes where nobody names one: late enough for others to have been seen whole.
    pub const STUCK_IN: u64 = 16;
    /// The callback after which `csd-lock` strikes where nobody names one.
    pub const LOCKED_AFTER: u64 = 1;

    /// The interrupt from which on `jump` shifts the counter where nobody names one.
    pub const JUMPS_AT: u64 = 100;

    /// The cores that it names.
    pub fn cores(&self) -> impl Iterator<Item = u16> {
        let (first, second, third) = match *self {
            Fault::Drop { from, to, .. } | Fault::SlowPair { from, to, .. } => (from, Some(to), None),
            Fault::Misroute { from, to, other, .. } => (from, Some(to), Some(other)),
            Fault::Late { core, .. }
            | Fault::SlowSender { core, .. }
            | Fault::SlowWake { core, .. }
            | Fault::Duplicate { core, .. }
            | Fault::Spurious { core, .. }
            | Fault::Stall { core, .. }
            | Fault::Steal { core, .. }
            | Fault::Skew { core, .. }
            | Fault::Jump { core, .. }
            | Fault::StepBack { core, .. }
            | Fault::Mask { core, .. }
            | Fault::Dead { core }
            | Fault::Crash { core }
            | Fault::Overflow { core }
            | Fault::Stray { core }
            | Fault::SlowCallback { core, .. }
            | Fault::Stuck { core, .. }
            | Fault::CsdLock { core, .. } => (core, None, None),
        };
        std::iter::once(first).chain(second).chain(third)
    }

    /// How much longer a message takes on average because of it, ns, at most; `timeout_ns`: T. Ticks are taken for a microsecond,
    /// which no counter's are.
    pub(crate) fn delay_ns(&self, timeout_ns: u64) -> u64 {
        let share = |ns: u64, rate: f64| (ns as f64 * rate) as u64;
        let long = |ticks: u64| ticks.saturating_mul(1_000);
        match *self {
            Fault::Drop { rate, .. } | Fault::Misroute { rate, .. } | Fault::Stall { rate, .. } => {
                share(timeout_ns, rate)
            }
            Fault::Late { ticks, rate, .. }
            | Fault::SlowSender { ticks, rate, .. }
            | Fault::SlowPair { ticks, rate, .. }
            | Fault::Steal { ticks, rate, .. } => share(long(ticks), rate).max(timeout_ns / 100),
            Fault::Mask { ticks, .. } | Fault::SlowWake { ticks, .. } => long(ticks).max(timeout_ns / 100),
            Fault::Duplicate { .. } | Fault::Spurious { .. } => timeout_ns / 100,
            Fault::Skew { .. } | Fault::Jump { .. } | Fault::StepBack { .. } => 0,
            Fault::Dead { .. } | Fault::Crash { .. } | Fault::Overflow { .. } | Fault::Stray { .. } => 0,
            Fault::SlowCallback { .. } | Fault::Stuck { .. } | Fault::CsdLock { .. } => 0,
        }
    }

    /// The twin in the words of a plan. `index` is its place in the list, `plan_seed` what the run was seeded with: twins draw from
    /// different generators, and from others in a run of another seed.
    pub(crate) fn twin(&self, index: usize, plan_seed: u64) -> Twin {
        let seed = seed(index, plan_seed);
        // Times 2^32: a share of 1 becomes "always".
        let chance = |rate: f64| (rate * 4_294_967_296.0).round() as u64;
        let of = |kind, core, ticks, rate| Twin { kind, core, peer: core, ticks, rate, seed };
        match *self {
            Fault::Drop { from, to, rate } => Twin { peer: to, ..of(twin_kind::DROP, from, 0, chance(rate)) },
            Fault::Late { core, ticks, rate } => of(twin_kind::LATE, core, ticks, chance(rate)),
            Fault::SlowSender { core, ticks, rate } => of(twin_kind::SLOW_SENDER, core, ticks, chance(rate)),
            Fault::SlowPair { from, to, ticks, rate } => {
                Twin { peer: to, ..of(twin_kind::SLOW_PAIR, from, ticks, chance(rate)) }
            }
            Fault::SlowWake { core, state, ticks } => {
                Twin { peer: state.code().into(), ..of(twin_kind::SLOW_WAKE, core, ticks, 1 << 32) }
            }
            Fault::Misroute { from, to, other, rate } => {
                Twin { peer: to, ..of(twin_kind::MISROUTE, from, other.into(), chance(rate)) }
            }
            Fault::Duplicate { core, rate } => of(twin_kind::DUPLICATE, core, 0, chance(rate)),
            Fault::Spurious { core, rate } => of(twin_kind::SPURIOUS, core, 0, chance(rate)),
            Fault::Stall { core, rate } => of(twin_kind::STALL, core, 0, chance(rate)),
            Fault::Steal { core, ticks, rate } => of(twin_kind::STEAL, core, ticks, chance(rate)),
            Fault::Skew { core, ticks } => of(twin_kind::SKEW, core, ticks as u64, 0),
            Fault::Jump { core, ticks, nth } => of(twin_kind::JUMP, core, ticks as u64, nth.unwrap_or(Fault::JUMPS_AT)),
            Fault::StepBack { core, ticks, rate } => of(twin_kind::STEP_BACK, core, ticks, chance(rate)),
            Fault::Mask { core, ticks } => of(twin_kind::MASK, core, ticks, 0),
            Fault::Dead { core } => of(twin_kind::DEAD, core, 0, 0),
            Fault::Crash { core } => of(twin_kind::CRASH, core, 0, 0),
            Fault::Overflow { core } => of(twin_kind::OVERFLOW, core, 0, 0),
            Fault::Stray { core } => of(twin_kind::STRAY, core, 0, 0),
            Fault::SlowCallback { core, ticks } => of(twin_kind::SLOW_CALLBACK, core, ticks, 0),
            // Which callback stands where others have ticks.
            Fault::Stuck { core, callback } => of(twin_kind::STUCK, core, callback.unwrap_or(Fault::STUCK_IN), 0),
            Fault::CsdLock { core, callback } => {
                of(twin_kind::CSD_LOCK, core, callback.unwrap_or(Fault::LOCKED_AFTER), 0)
            }
        }
    }
}

/// A seed for twin `index`, never 0: splitmix64 from a fixed start, so that a fault strikes alike in every run of the same seed.
fn seed(index: usize, plan_seed: u64) -> u64 {
    let start = 0x01D1_15C0_9E00_u64.wrapping_add(plan_seed.wrapping_mul(0xD6E8_FEB8_6659_FD93));
    let mut word = start.wrapping_add((index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    (word ^ word >> 31).max(1)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Drop { from, to, rate } => write!(f, "drop:{from}:{to}:{rate}"),
            Fault::Late { core, ticks, rate } => write!(f, "late:{core}:{ticks}{}", Share(*rate)),
            Fault::SlowSender { core, ticks, rate } => write!(f, "slow-sender:{core}:{ticks}{}", Share(*rate)),
            Fault::SlowPair { from, to, ticks, rate } => write!(f, "slow-pair:{from}:{to}:{ticks}{}", Share(*rate)),
            Fault::SlowWake { core, state, ticks } => write!(f, "slow-wake:{core}:{}:{ticks}", state.name()),
            Fault::Misroute { from, to, other, rate } => write!(f, "misroute:{from}:{to}:{other}{}", Share(*rate)),
            Fault::Duplicate { core, rate } => write!(f, "duplicate:{core}:{rate}"),
            Fault::Spurious { core, rate } => write!(f, "spurious:{core}:{rate}"),
            Fault::Stall { core, rate } => write!(f, "stall:{core}:{rate}"),
            Fault::Steal { core, ticks, rate } => write!(f, "steal:{core}:{ticks}:{rate}"),
            Fault::Skew { core, ticks } => write!(f, "skew:{core}:{ticks}"),
            Fault::Jump { core, ticks, nth: None } => write!(f, "jump:{core}:{ticks}"),
            Fault::Jump { core, ticks, nth: Some(nth) } => write!(f, "jump:{core}:{ticks}:{nth}"),
            Fault::StepBack { core, ticks, rate } => write!(f, "step-back:{core}:{ticks}:{rate}"),
            Fault::Mask { core, ticks } => write!(f, "mask:{core}:{ticks}"),
            Fault::Dead { core } => write!(f, "dead:{core}"),
            Fault::Crash { core } => write!(f, "crash:{core}"),
            Fault::Overflow { core } => write!(f, "overflow:{core}"),
            Fault::Stray { core } => write!(f, "stray:{core}"),
            Fault::SlowCallback { core, ticks } => write!(f, "slow-callback:{core}:{ticks}"),
            Fault::Stuck { core, callback: None } => write!(f, "stuck:{core}"),
            Fault::Stuck { core, callback: Some(nth) } => write!(f, "stuck:{core}:{nth}"),
            Fault::CsdLock { core, callback: None } => write!(f, "csd-lock:{core}"),
            Fault::CsdLock { core, callback: Some(nth) } => write!(f, "csd-lock:{core}:{nth}"),
        }
    }
}

/// `:RATE`, where it is not always.
struct Share(f64);

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1.0 { write!(f, ":{}", self.0) } else { Ok(()) }
    }
}

/// How each fault is written. Fields that may be left out stand in a second form.
pub const FORMS: [(&str, &str); 21] = [
    ("drop", "drop:FROM:TO:RATE"),
    ("late", "late:CORE:TICKS or late:CORE:TICKS:RATE"),
    ("slow-sender", "slow-sender:CORE:TICKS or slow-sender:CORE:TICKS:RATE"),
    ("slow-pair", "slow-pair:FROM:TO:TICKS or slow-pair:FROM:TO:TICKS:RATE"),
    ("slow-wake", "slow-wake:CORE:STATE:TICKS"),
    ("misroute", "misroute:FROM:TO:OTHER or misroute:FROM:TO:OTHER:RATE"),
    ("duplicate", "duplicate:CORE:RATE"),
    ("spurious", "spurious:CORE:RATE"),
    ("stall", "stall:CORE:RATE"),
    ("steal", "steal:CORE:TICKS:RATE"),
    ("skew", "skew:CORE:TICKS"),
    ("jump", "jump:CORE:TICKS or jump:CORE:TICKS:NTH"),
    ("step-back", "step-back:CORE:TICKS:RATE"),
    ("mask", "mask:CORE:TICKS"),
    ("dead", "dead:CORE"),
    ("crash", "crash:CORE"),
    ("overflow", "overflow:CORE"),
    ("stray", "stray:CORE"),
    ("slow-callback", "slow-callback:CORE:TICKS"),
    ("stuck", "stuck:CORE or stuck:CORE:NTH"),
    ("csd-lock", "csd-lock:CORE or csd-lock:CORE:NTH"),
];

fn forms() -> String {
    let forms: Vec<&str> = FORMS.iter().map(|(_, form)| *form).collect();
    forms.join(", ")
}

/// Why a fault's text is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// The first field names no kind.
    #[error("fault `{text}`: there is no kind `{kind}`; write one of {forms}", forms = forms())]
    Kind {
        /// The whole text.
        text: String,
        /// Its first field.
        kind: String,
    },
    /// Too few or too many fields.
    #[error("fault `{text}` has the wrong number of fields; write {form}")]
    Fields {
        /// The whole text.
        text: String,
        /// How it is written.
        form: &'static str,
    },
    /// A field is not what it must be.
    #[error("fault `{text}`: {field} can't be `{value}`; write {form}, with {wanted}")]
    Value {
        /// The whole text.
        text: String,
        /// The field's name.
        field: &'static str,
        /// What it holds.
        value: String,
        /// How the fault is written.
        form: &'static str,
        /// What the field takes.
        wanted: &'static str,
    },
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (kind, rest) = text.split_once(':').map_or((text, None), |(kind, rest)| (kind, Some(rest)));
        let Some((_, form)) = FORMS.iter().find(|(name, _)| *name == kind) else {
            return Err(FaultError::Kind { text: text.into(), kind: kind.into() });
        };
        let mut fields = Fields { text, form, rest };
        let fault = match kind {
            "drop" => Fault::Drop { from: fields.core("FROM")?, to: fields.core("TO")?, rate: fields.rate()? },
            "late" => {
                Fault::Late { core: fields.core("CORE")?, ticks: fields.ticks()?, rate: fields.rate_or_always()? }
            }
            "slow-sender" => {
                Fault::SlowSender { core: fields.core("CORE")?, ticks: fields.ticks()?, rate: fields.rate_or_always()? }
            }
            "slow-pair" => Fault::SlowPair {
                from: fields.core("FROM")?,
                to: fields.core("TO")?,
                ticks: fields.ticks()?,
                rate: fields.rate_or_always()?,
            },
            "slow-wake" => {
                Fault::SlowWake { core: fields.core("CORE")?, state: fields.state()?, ticks: fields.ticks()? }
            }
            "misroute" => Fault::Misroute {
                from: fields.core("FROM")?,
                to: fields.core("TO")?,
                other: fields.core("OTHER")?,
                rate: fields.rate_or_always()?,
            },
            "duplicate" => Fault::Duplicate { core: fields.core("CORE")?, rate: fields.rate()? },
            "spurious" => Fault::Spurious { core: fields.core("CORE")?, rate: fields.rate()? },
            "stall" => Fault::Stall { core: fields.core("CORE")?, rate: fields.rate()? },
            "steal" => Fault::Steal { core: fields.core("CORE")?, ticks: fields.ticks()?, rate: fields.rate()? },
            "skew" => Fault::Skew { core: fields.core("CORE")?, ticks: fields.signed()? },
            "jump" => {
                let (core, ticks) = (fields.core("CORE")?, fields.signed()?);
                Fault::Jump { core, ticks, nth: fields.nth("an interrupt's number from 1")? }
            }
            "step-back" => Fault::StepBack { core: fields.core("CORE")?, ticks: fields.ticks()?, rate: fields.rate()? },
            "mask" => Fault::Mask { core: fields.core("CORE")?, ticks: fields.ticks()? },
            "dead" => Fault::Dead { core: fields.core("CORE")? },
            "crash" => Fault::Crash { core: fields.core("CORE")? },
            "overflow" => Fault::Overflow { core: fields.core("CORE")? },
            "stray" => Fault::Stray { core: fields.core("CORE")? },
            "slow-callback" => Fault::SlowCallback { core: fields.core("CORE")?, ticks: fields.ticks()? },
            "stuck" => Fault::Stuck { core: fields.core("CORE")?, callback: fields.nth("a callback's number from 1")? },
            _ => Fault::CsdLock { core: fields.core("CORE")?, callback: fields.nth("a callback's number from 1")? },
        };
        fields.end()?;
        Ok(fault)
    }
}

/// The fields of a fault's text behind its kind, one after the other.
struct Fields<'a> {
    text: &'a str,
    form: &'static str,
    rest: Option<&'a str>,
}

impl<'a> Fields<'a> {
    fn wrong_number(&self) -> FaultError {
        FaultError::Fields { text: self.text.into(), form: self.form }
    }

    fn wrong(&self, field: &'static str, value: &str, wanted: &'static str) -> FaultError {
        FaultError::Value { text: self.text.into(), field, value: value.into(), form: self.form, wanted }
    }

    fn next(&mut self) -> Result<&'a str, FaultError> {
        let rest = self.rest.ok_or_else(|| self.wrong_number())?;
        let (field, rest) = rest.split_once(':').map_or((rest, None), |(field, rest)| (field, Some(rest)));
        self.rest = rest;
        Ok(field)
    }

    fn end(&self) -> Result<(), FaultError> {
        if self.rest.is_some() { Err(self.wrong_number()) } else { Ok(()) }
    }

    fn core(&mut self, name: &'static str) -> Result<u16, FaultError> {
        let field = self.next()?;
        field.parse().map_err(|_| self.wrong(name, field, "a core's number from 0"))
    }

    fn ticks(&mut self) -> Result<u64, FaultError> {
        let field = self.next()?;
        match field.parse() {
            Ok(ticks) if ticks > 0 => Ok(ticks),
            _ => Err(self.wrong("TICKS", field, "a number of counter ticks above 0")),
        }
    }

    fn signed(&mut self) -> Result<i64, FaultError> {
        let field = self.next()?;
        match field.parse() {
            Ok(ticks) if ticks != 0 => Ok(ticks),
            _ => Err(self.wrong("TICKS", field, "a number of counter ticks that is not 0; negative: behind")),
        }
    }

    fn rate(&mut self) -> Result<f64, FaultError> {
        let field = self.next()?;
        match field.parse::<f64>() {
            Ok(share) if share > 0.0 && share <= 1.0 => Ok(share),
            _ => Err(self.wrong("RATE", field, "a share above 0 and at most 1")),
        }
    }

    fn rate_or_always(&mut self) -> Result<f64, FaultError> {
        if self.rest.is_none() { Ok(1.0) } else { self.rate() }
    }

    fn nth(&mut self, wanted: &'static str) -> Result<Option<u64>, FaultError> {
        if self.rest.is_none() {
            return Ok(None);
        }
        let field = self.next()?;
        match field.parse() {
            Ok(nth) if nth > 0 => Ok(Some(nth)),
            _ => Err(self.wrong("NTH", field, wanted)),
        }
    }

    fn state(&mut self) -> Result<ReceiverState, FaultError> {
        let field = self.next()?;
        // All that a plan can put a receiver into; 0 is "unknown".
        let state = (1..=5).map(ReceiverState::from_code).find(|state| state.name() == field);
        state.ok_or_else(|| self.wrong("STATE", field, "spin, wfi, wfe, masked or suspend"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_printed_as_it_was_written() {
        for text in [
            "drop:0:1:0.01",
            "drop:3:2:1",
            "late:2:5000",
            "late:2:5000:0.25",
            "slow-sender:1:300",
            "slow-sender:1:300:0.5",
            "slow-pair:1:2:300:0.01",
            "slow-wake:3:wfe:900",
            "misroute:0:1:2",
            "misroute:0:1:2:0.1",
            "duplicate:1:0.01",
            "spurious:1:1",
            "stall:2:0.02",
            "steal:2:60000:0.1",
            "skew:1:-500",
            "jump:1:900",
            "jump:1:-900:7",
            "step-back:3:50:0.01",
            "mask:511:1",
            "dead:2",
            "crash:1",
            "overflow:3",
            "stray:2",
            "slow-callback:2:9000",
            "stuck:1",
            "stuck:1:16",
            "csd-lock:4",
            "csd-lock:4:300",
        ] {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn faults_of_callbacks_strike_one_core_and_say_when() {
        for (text, kind, core, ticks) in [
            ("slow-callback:2:9000", twin_kind::SLOW_CALLBACK, 2, 9000),
            ("stuck:1", twin_kind::STUCK, 1, 16),
            ("stuck:1:7", twin_kind::STUCK, 1, 7),
            ("csd-lock:3", twin_kind::CSD_LOCK, 3, 1),
            ("csd-lock:3:12", twin_kind::CSD_LOCK, 3, 12),
        ] {
            let fault: Fault = text.parse().unwrap();
            let twin = fault.twin(0, 0);
            assert_eq!((twin.kind, twin.core, twin.peer, twin.ticks), (kind, core, core, ticks), "{text}");
            assert_eq!(fault.cores().collect::<Vec<_>>(), [core]);
        }
    }

    #[test]
    fn a_wrong_fault_says_what_is_wrong_and_how_it_is_written() {
        for (text, part) in [
            ("drip:0:1", "no kind `drip`"),
            ("", "no kind ``"),
            ("drop:0:1", "drop:FROM:TO:RATE"),
            ("drop:0:1:2", "RATE can't be `2`"),
            ("drop:0:1:NaN", "RATE can't be `NaN`"),
            ("drop:a:1:0.5", "FROM can't be `a`"),
            ("late:1:5:0", "RATE can't be `0`"),
            ("late:1:5:0.5:1", "late:CORE:TICKS or late:CORE:TICKS:RATE"),
            (
                "slow-wake:1:awake:5",
                "STATE can't be `awake`; write slow-wake:CORE:STATE:TICKS, with spin, wfi, wfe, masked or suspend",
            ),
            ("slow-wake:1:unknown:5", "STATE can't be `unknown`"),
            ("misroute:0:1", "misroute:FROM:TO:OTHER"),
            ("skew:1:0", "TICKS can't be `0`"),
            ("jump:1:5:0", "NTH can't be `0`"),
            ("steal:1:5", "steal:CORE:TICKS:RATE"),
            ("late:2:0", "TICKS can't be `0`"),
            ("late:70000:5", "CORE can't be `70000`"),
            ("dead:1:2", "dead:CORE"),
            ("slow-callback:1", "slow-callback:CORE:TICKS"),
            ("slow-callback:1:0", "TICKS can't be `0`"),
            ("stuck:1:0", "NTH can't be `0`; write stuck:CORE or stuck:CORE:NTH, with a callback's number from 1"),
            ("stuck", "stuck:CORE:NTH"),
            ("csd-lock:x", "CORE can't be `x`"),
            ("csd-lock:1:2:3", "csd-lock:CORE or csd-lock:CORE:NTH"),
        ] {
            let message = text.parse::<Fault>().unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
    }

    #[test]
    fn rate_one_is_always_and_seeds_differ_and_are_not_zero() {
        let always = Fault::Drop { from: 0, to: 1, rate: 1.0 };
        assert_eq!(always.twin(0, 0).rate, 1 << 32);
        let percent = Fault::Drop { from: 0, to: 1, rate: 0.01 };
        assert_eq!(percent.twin(0, 0).rate, 42_949_673);
        let seeds: Vec<u64> = (0..64).map(|index| percent.twin(index % 8, index as u64 / 8).seed).collect();
        assert!(seeds.iter().all(|seed| *seed != 0));
        assert_eq!(seeds.iter().collect::<std::collections::BTreeSet<_>>().len(), 64);
    }
}
