//! Fault twins by name: what `--inject` takes, and what becomes of it in a plan.
//!
//! A twin is a send routine or a vector table that the firmware installs for one core before the plan starts; it costs
//! nothing when there is none. Fields are separated by colons only, so that no shell needs quotes.

use std::fmt;
use std::str::FromStr;

use trace_ring::plan::{Twin, twin_kind};

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
    /// `late:CORE:TICKS`: a core takes its interrupts late.
    Late {
        /// The core.
        core: u16,
        /// How late, in counter ticks.
        ticks: u64,
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

    /// The cores that it names.
    pub fn cores(&self) -> impl Iterator<Item = u16> {
        let (first, second) = match *self {
            Fault::Drop { from, to, .. } => (from, Some(to)),
            Fault::Late { core, .. }
            | Fault::Mask { core, .. }
            | Fault::Dead { core }
            | Fault::Crash { core }
            | Fault::Overflow { core }
            | Fault::SlowCallback { core, .. }
            | Fault::Stuck { core, .. }
            | Fault::CsdLock { core, .. } => (core, None),
        };
        std::iter::once(first).chain(second)
    }

    /// The twin in the words of a plan. `index` is its place in the list: twins draw from different generators.
    pub(crate) fn twin(&self, index: usize) -> Twin {
        let seed = seed(index);
        match *self {
            Fault::Drop { from, to, rate } => Twin {
                kind: twin_kind::DROP,
                core: from,
                peer: to,
                ticks: 0,
                // Times 2^32: a share of 1 becomes "always".
                rate: (rate * 4_294_967_296.0).round() as u64,
                seed,
            },
            Fault::Late { core, ticks } => Twin { kind: twin_kind::LATE, core, peer: core, ticks, rate: 0, seed },
            Fault::Mask { core, ticks } => Twin { kind: twin_kind::MASK, core, peer: core, ticks, rate: 0, seed },
            Fault::Dead { core } => Twin { kind: twin_kind::DEAD, core, peer: core, ticks: 0, rate: 0, seed },
            Fault::Crash { core } => Twin { kind: twin_kind::CRASH, core, peer: core, ticks: 0, rate: 0, seed },
            Fault::Overflow { core } => Twin { kind: twin_kind::OVERFLOW, core, peer: core, ticks: 0, rate: 0, seed },
            Fault::SlowCallback { core, ticks } => {
                Twin { kind: twin_kind::SLOW_CALLBACK, core, peer: core, ticks, rate: 0, seed }
            }
            // Which callback stands where others have ticks.
            Fault::Stuck { core, callback } => {
                let ticks = callback.unwrap_or(Fault::STUCK_IN);
                Twin { kind: twin_kind::STUCK, core, peer: core, ticks, rate: 0, seed }
            }
            Fault::CsdLock { core, callback } => {
                let ticks = callback.unwrap_or(Fault::LOCKED_AFTER);
                Twin { kind: twin_kind::CSD_LOCK, core, peer: core, ticks, rate: 0, seed }
            }
        }
    }
}

/// A seed for twin `index`, never 0: splitmix64 from a fixed start, so that a fault strikes alike in every run.
fn seed(index: usize) -> u64 {
    let mut word = 0x01D1_15C0_9E00_u64.wrapping_add((index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    (word ^ word >> 31).max(1)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Drop { from, to, rate } => write!(f, "drop:{from}:{to}:{rate}"),
            Fault::Late { core, ticks } => write!(f, "late:{core}:{ticks}"),
            Fault::Mask { core, ticks } => write!(f, "mask:{core}:{ticks}"),
            Fault::Dead { core } => write!(f, "dead:{core}"),
            Fault::Crash { core } => write!(f, "crash:{core}"),
            Fault::Overflow { core } => write!(f, "overflow:{core}"),
            Fault::SlowCallback { core, ticks } => write!(f, "slow-callback:{core}:{ticks}"),
            Fault::Stuck { core, callback: None } => write!(f, "stuck:{core}"),
            Fault::Stuck { core, callback: Some(nth) } => write!(f, "stuck:{core}:{nth}"),
            Fault::CsdLock { core, callback: None } => write!(f, "csd-lock:{core}"),
            Fault::CsdLock { core, callback: Some(nth) } => write!(f, "csd-lock:{core}:{nth}"),
        }
    }
}

/// Why a fault's text is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// The first field names no kind.
    #[error(
        "fault `{text}`: there is no kind `{kind}`; write drop:FROM:TO:RATE, late:CORE:TICKS, mask:CORE:TICKS, dead:CORE, crash:CORE, overflow:CORE, slow-callback:CORE:TICKS, stuck:CORE or csd-lock:CORE"
    )]
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
        const CORE: &str = "a core's number from 0";
        const TICKS: &str = "a number of counter ticks above 0";
        let fields: Vec<&str> = text.split(':').collect();
        let kind = fields.first().copied().unwrap_or_default();
        let form = match kind {
            "drop" => "drop:FROM:TO:RATE",
            "late" => "late:CORE:TICKS",
            "mask" => "mask:CORE:TICKS",
            "dead" => "dead:CORE",
            "crash" => "crash:CORE",
            "overflow" => "overflow:CORE",
            "slow-callback" => "slow-callback:CORE:TICKS",
            "stuck" => "stuck:CORE or stuck:CORE:NTH",
            "csd-lock" => "csd-lock:CORE or csd-lock:CORE:NTH",
            _ => return Err(FaultError::Kind { text: text.into(), kind: kind.into() }),
        };
        let value = |field, value: &str, wanted| FaultError::Value {
            text: text.into(),
            field,
            value: value.into(),
            form,
            wanted,
        };
        let core = |name, field: &str| field.parse::<u16>().map_err(|_| value(name, field, CORE));
        let ticks = |field: &str| match field.parse::<u64>() {
            Ok(ticks) if ticks > 0 => Ok(ticks),
            _ => Err(value("TICKS", field, TICKS)),
        };
        let nth = |field: &str| match field.parse::<u64>() {
            Ok(nth) if nth > 0 => Ok(Some(nth)),
            _ => Err(value("NTH", field, "a callback's number from 1")),
        };
        match (kind, fields.as_slice()) {
            ("drop", [_, from, to, rate]) => {
                let share = match rate.parse::<f64>() {
                    Ok(share) if share > 0.0 && share <= 1.0 => share,
                    _ => return Err(value("RATE", rate, "a share above 0 and at most 1")),
                };
                Ok(Fault::Drop { from: core("FROM", from)?, to: core("TO", to)?, rate: share })
            }
            ("late", [_, name, delay]) => Ok(Fault::Late { core: core("CORE", name)?, ticks: ticks(delay)? }),
            ("mask", [_, name, delay]) => Ok(Fault::Mask { core: core("CORE", name)?, ticks: ticks(delay)? }),
            ("dead", [_, name]) => Ok(Fault::Dead { core: core("CORE", name)? }),
            ("crash", [_, name]) => Ok(Fault::Crash { core: core("CORE", name)? }),
            ("overflow", [_, name]) => Ok(Fault::Overflow { core: core("CORE", name)? }),
            ("slow-callback", [_, name, delay]) => {
                Ok(Fault::SlowCallback { core: core("CORE", name)?, ticks: ticks(delay)? })
            }
            ("stuck", [_, name]) => Ok(Fault::Stuck { core: core("CORE", name)?, callback: None }),
            ("stuck", [_, name, which]) => Ok(Fault::Stuck { core: core("CORE", name)?, callback: nth(which)? }),
            ("csd-lock", [_, name]) => Ok(Fault::CsdLock { core: core("CORE", name)?, callback: None }),
            ("csd-lock", [_, name, which]) => Ok(Fault::CsdLock { core: core("CORE", name)?, callback: nth(which)? }),
            _ => Err(FaultError::Fields { text: text.into(), form }),
        }
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
            "mask:511:1",
            "dead:2",
            "crash:1",
            "overflow:3",
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
            let twin = fault.twin(0);
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
        assert_eq!(always.twin(0).rate, 1 << 32);
        let percent = Fault::Drop { from: 0, to: 1, rate: 0.01 };
        assert_eq!(percent.twin(0).rate, 42_949_673);
        let seeds: Vec<u64> = (0..64).map(|index| percent.twin(index).seed).collect();
        assert!(seeds.iter().all(|seed| *seed != 0));
        assert_eq!(seeds.iter().collect::<std::collections::BTreeSet<_>>().len(), 64);
    }
}
