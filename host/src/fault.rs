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
}

impl Fault {
    /// The cores that it names.
    pub fn cores(&self) -> impl Iterator<Item = u16> {
        let (first, second) = match *self {
            Fault::Drop { from, to, .. } => (from, Some(to)),
            Fault::Late { core, .. }
            | Fault::Mask { core, .. }
            | Fault::Dead { core }
            | Fault::Crash { core }
            | Fault::Overflow { core } => (core, None),
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
        }
    }
}

/// Why a fault's text is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// The first field names no kind.
    #[error(
        "fault `{text}`: there is no kind `{kind}`; write drop:FROM:TO:RATE, late:CORE:TICKS, mask:CORE:TICKS, dead:CORE, crash:CORE or overflow:CORE"
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
            _ => Err(FaultError::Fields { text: text.into(), form }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_printed_as_it_was_written() {
        for text in ["drop:0:1:0.01", "drop:3:2:1", "late:2:5000", "mask:511:1", "dead:2", "crash:1", "overflow:3"] {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
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
