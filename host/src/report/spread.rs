//! How latencies spread: by what was sent and how the receiver waited, and core by core.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;
use trace_ring::record::ReceiverState;

use super::{Latency, kind_name};
use crate::correlate::{Ipis, Slot, View};
use crate::detect::distance;
use crate::stats::{Figures, Pool, Spread};

/// Points of the distributions of single pairs together, and of single cores: a report of many cores keeps those of the rows with the
/// greatest latencies.
const MOST_POINTS: usize = 50_000;

/// Points of a cumulative distribution: ns, and how many latencies are at most that long.
pub type Cdf = Vec<(f64, u64)>;

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
    pub cdf: Cdf,
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
    /// Points of the cumulative distribution; left out of a row that has none, and of those with the least latencies where there are
    /// many rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cdf: Option<Cdf>,
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
                cdf: cdf(&spread, tick_ns),
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
    let rows: Vec<Vec<&Figures>> =
        groups.values().map(|slots| slots.iter().map(|slot| &slot.figures).collect()).collect();
    let cdfs = cdfs(&rows, tick_ns);
    let figures = |(((core, role, kind, state), slots), cdf): ((_, Vec<&Slot>), Option<Cdf>)| {
        let mut pool = Pool::default();
        slots.iter().for_each(|slot| pool.add(&slot.figures));
        let latency = Latency::of(pool.summary(1.0), tick_ns);
        let lost = slots.iter().map(|slot| slot.counts.lost).sum();
        CoreFigures { core, role, kind, state: ReceiverState::name(state), latency, lost, cdf }
    };
    groups.into_iter().zip(cdfs).map(figures).collect()
}

/// The distribution of each row of figures, of those with the greatest latencies where all have more than [`MOST_POINTS`] points.
pub(super) fn cdfs(rows: &[Vec<&Figures>], tick_ns: f64) -> Vec<Option<Cdf>> {
    let mut latest: Vec<(u64, usize)> = Vec::new();
    for (row, figures) in rows.iter().enumerate() {
        // The greatest is known without the points.
        let greatest = figures.iter().filter_map(|figures| figures.quantile(1.0)).max();
        latest.extend(greatest.map(|greatest| (greatest, row)));
    }
    latest.sort_by_key(|(greatest, row)| (Reverse(*greatest), *row));
    let mut cdfs = vec![None; rows.len()];
    let mut left = MOST_POINTS;
    for (_, row) in latest {
        let mut spread = Spread::default();
        rows.get(row).into_iter().flatten().for_each(|figures| spread.add(figures));
        let points = cdf(&spread, tick_ns);
        let Some(rest) = left.checked_sub(points.len()) else { break };
        left = rest;
        if let Some(place) = cdfs.get_mut(row) {
            *place = Some(points);
        }
    }
    cdfs
}

fn cdf(spread: &Spread, tick_ns: f64) -> Cdf {
    spread.points().into_iter().map(|(ticks, count)| (ticks as f64 * tick_ns, count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Samples;

    #[test]
    fn of_many_rows_those_with_the_greatest_latencies_keep_their_distribution() {
        let figures: Vec<Figures> = (0..2000_u64)
            .map(|row| {
                let mut samples = Samples::new(1000);
                (0..60).for_each(|step| samples.push((1 << (step / 2)) + row));
                Figures::of_samples(samples)
            })
            .chain([Figures::None])
            .collect();
        let rows: Vec<Vec<&Figures>> = figures.iter().map(|figures| vec![figures]).collect();
        let cdfs = cdfs(&rows, 2.0);
        assert_eq!(cdfs.len(), rows.len());
        let points: usize = cdfs.iter().flatten().map(Vec::len).sum();
        assert!((MOST_POINTS - 100..=MOST_POINTS).contains(&points), "{points}");
        // The last rows are the latest, and the very last one has no latency.
        let kept: Vec<bool> = cdfs.iter().map(Option::is_some).collect();
        let first = kept.iter().position(|kept| *kept).expect("some are kept");
        assert!(first > 0 && kept[first..2000].iter().all(|kept| *kept) && !kept[2000], "{first}");
        assert_eq!(cdfs[1999].as_ref().and_then(|cdf| cdf.last()).map(|(_, count)| *count), Some(60));
    }
}
