//! How latencies spread: by what was sent and how the receiver waited, and core by core.

use std::collections::BTreeMap;

use serde::Serialize;
use trace_ring::record::ReceiverState;

use super::{Latency, kind_name};
use crate::correlate::{Ipis, Slot, View};
use crate::detect::distance;
use crate::stats::{Pool, Spread};

/// All latencies of one kind in one state, or those over one distance.
#[derive(Clone, Debug, Serialize)]
pub struct Distribution {
    /// What was sent: a kind's name, or `sgi` and the INTID of bare SGIs.
    pub kind: String,
    /// The receiver's state.
    pub state: &'static str,
    /// The highest affinity level that differs between sender and receiver, 1 to 4; 0: a core to itself; null: all together.
    pub distance: Option<u8>,
    /// The figures.
    #[serde(flatten)]
    pub latency: Latency,
    /// Points of the cumulative distribution: ns, and how many latencies are at most that long.
    pub cdf: Vec<(f64, u64)>,
}

/// A core's latencies in one part.
#[derive(Clone, Debug, Serialize)]
pub struct CoreFigures {
    /// The core.
    pub core: u16,
    /// `sender` or `receiver`.
    pub role: &'static str,
    /// What was sent.
    pub kind: String,
    /// The receiver's state.
    pub state: &'static str,
    /// The figures.
    #[serde(flatten)]
    pub latency: Latency,
    /// IPIs that were lost.
    pub lost: u64,
}

/// Pairs by how far apart they are.
type Distances<'a> = BTreeMap<Option<u8>, Vec<&'a Slot>>;

pub(super) fn distributions(ipis: &Ipis, view: Option<&View>, tick_ns: f64) -> Vec<Distribution> {
    let cores = view.map_or(&[][..], |view| &view.cores);
    let apart = |slot: &Slot| {
        let affinity = |core: u16| cores.get(usize::from(core)).map(|core| core.mpidr);
        let (from, to) = affinity(slot.from).zip(affinity(slot.to))?;
        Some(if slot.from == slot.to { 0 } else { distance(from, to) })
    };
    let mut groups: BTreeMap<(String, ReceiverState), Distances<'_>> = BTreeMap::new();
    for slot in ipis.slots.iter().filter(|slot| slot.latency.is_some()) {
        let group = groups.entry((kind_name(slot), slot.state)).or_default();
        group.entry(apart(slot)).or_default().push(slot);
    }
    let mut distributions = Vec::new();
    for ((kind, state), distances) in groups {
        let mut tell = |distance: Option<u8>, slots: &mut dyn Iterator<Item = &&Slot>| {
            let (mut pool, mut spread) = (Pool::default(), Spread::default());
            for slot in slots {
                pool.add(&slot.figures);
                spread.add(&slot.figures);
            }
            distributions.push(Distribution {
                kind: kind.clone(),
                state: state.name(),
                distance,
                latency: Latency::of(pool.summary(1.0), tick_ns),
                cdf: spread.points().into_iter().map(|(ticks, count)| (ticks as f64 * tick_ns, count)).collect(),
            });
        };
        tell(None, &mut distances.values().flatten());
        // One distance is all of it.
        if distances.len() > 1 {
            for (distance, slots) in distances.iter().filter(|(distance, _)| distance.is_some()) {
                tell(*distance, &mut slots.iter());
            }
        }
    }
    distributions
}

pub(super) fn core_figures(ipis: &Ipis, tick_ns: f64) -> Vec<CoreFigures> {
    let mut groups: BTreeMap<(u16, &'static str, String, ReceiverState), Vec<&Slot>> = BTreeMap::new();
    for slot in ipis.slots.iter().filter(|slot| slot.counts.sent > 0) {
        for (core, role) in [(slot.from, "sender"), (slot.to, "receiver")] {
            groups.entry((core, role, kind_name(slot), slot.state)).or_default().push(slot);
        }
    }
    let figures = |((core, role, kind, state), slots): ((u16, &'static str, String, ReceiverState), Vec<&Slot>)| {
        let mut pool = Pool::default();
        slots.iter().for_each(|slot| pool.add(&slot.figures));
        let latency = Latency::of(pool.summary(1.0), tick_ns);
        let lost = slots.iter().map(|slot| slot.counts.lost).sum();
        CoreFigures { core, role, kind, state: state.name(), latency, lost }
    };
    groups.into_iter().map(figures).collect()
}
