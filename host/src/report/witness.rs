//! What else was seen, in the report: time that was taken from cores, sweeps against transitions, latencies over time.

use serde::Serialize;
use trace_ring::plan::transition;

use crate::correlate::witness::{SeriesLine, SeriesPoint, SweepStep};
use crate::correlate::{Ipis, View};

/// Time that was taken from cores.
#[derive(Clone, Debug, Serialize)]
pub struct Stolen {
    /// How long a waiting core goes without a heartbeat, ns; 0: for ever; null: nobody knows.
    pub heartbeat_ns: Option<u64>,
    /// What is shorter is no gap, ns; 0: nobody looked; null: nobody knows.
    pub gap_ns: Option<u64>,
    /// The cores that had gaps or heartbeats.
    pub cores: Vec<StolenCore>,
    /// IPIs whose latency was taken from a core for the greater part. They are not judged.
    pub ipis_stolen: u64,
    /// IPIs of whose latency a smaller part was. They are not judged either.
    pub ipis_doubtful: u64,
}

/// What one core noticed.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StolenCore {
    /// The core.
    pub core: u16,
    /// How often it was away.
    pub gaps: u64,
    /// All together, ns.
    pub total_ns: f64,
    /// The longest, ns.
    pub longest_ns: f64,
    /// Heartbeats that it took.
    pub heartbeats: u64,
    /// Gaps that no record tells of.
    pub unrecorded: u64,
}

pub(super) fn stolen(ipis: &Ipis, tick_ns: f64) -> Stolen {
    let cores = (0..).zip(&ipis.gap_totals).filter(|(_, totals)| totals.count > 0 || totals.heartbeats > 0);
    Stolen {
        heartbeat_ns: ipis.watching.map(|watching| watching.heartbeat_ns),
        gap_ns: ipis.watching.map(|watching| watching.gap_ns),
        cores: cores
            .map(|(core, totals)| StolenCore {
                core,
                gaps: totals.count,
                total_ns: totals.ticks as f64 * tick_ns,
                longest_ns: totals.longest as f64 * tick_ns,
                heartbeats: totals.heartbeats,
                unrecorded: totals.unrecorded,
            })
            .collect(),
        ipis_stolen: ipis.slots.iter().map(|slot| slot.excused.stolen).sum(),
        ipis_doubtful: ipis.slots.iter().map(|slot| slot.excused.doubtful).sum(),
    }
}

/// Messages timed against a transition of their receiver.
#[derive(Clone, Debug, Serialize)]
pub struct SweepReport {
    /// The sender.
    pub from: u16,
    /// The receiver.
    pub to: u16,
    /// Its transition: `wfi`, `unmask`, `end_of_interrupt`, `suspend`, `wfe`.
    pub transition: &'static str,
    /// The distances, in order.
    pub steps: Vec<SweepStepReport>,
    /// The distance at which most were given up, or else the greatest latency was; null: nothing was answered or given up.
    pub worst_offset_ns: Option<f64>,
}

/// One distance.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SweepStepReport {
    /// From the planned time of the transition to the send, ns.
    pub offset_ns: f64,
    /// Messages sent.
    pub sent: u64,
    /// Those that have a latency which nothing else explains.
    pub timed: u64,
    /// The least of these, ns.
    pub min_ns: Option<f64>,
    /// The greatest.
    pub max_ns: Option<f64>,
    /// Messages that were given up.
    pub given_up: u64,
}

pub(super) fn sweeps(ipis: &Ipis, tick_ns: f64) -> Vec<SweepReport> {
    let step = |step: &SweepStep| SweepStepReport {
        offset_ns: step.offset as f64 * tick_ns,
        sent: step.sent,
        timed: step.timed,
        min_ns: (step.timed > 0).then_some(step.min as f64 * tick_ns),
        max_ns: (step.timed > 0).then_some(step.max as f64 * tick_ns),
        given_up: step.given_up,
    };
    let told = |step: &&SweepStep| step.timed > 0 || step.given_up > 0;
    let sweeps = ipis.sweeps.iter();
    sweeps
        .map(|sweep| SweepReport {
            from: sweep.from,
            to: sweep.to,
            transition: transition::name(sweep.transition),
            steps: sweep.steps.iter().map(step).collect(),
            worst_offset_ns: sweep
                .steps
                .iter()
                .filter(told)
                // Of several, the first.
                .rev()
                .max_by_key(|step| (step.given_up, step.max))
                .map(|step| step.offset as f64 * tick_ns),
        })
        .collect()
}

/// A core's latencies as receiver over time, in equal pieces.
#[derive(Clone, Debug, Serialize)]
pub struct SeriesReport {
    /// The core.
    pub core: u16,
    /// When the first piece begins, ns from the plan's begin; the pieces lie on a grid of their own, so this can be below 0.
    pub start_ns: f64,
    /// How long a piece is, ns.
    pub piece_ns: f64,
    /// The pieces; null: nothing was measured in it.
    pub points: Vec<Option<SeriesPointReport>>,
}

/// One piece.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct SeriesPointReport {
    /// Latencies.
    pub n: u64,
    /// Their mean, ns.
    pub mean_ns: f64,
    /// The least, ns.
    pub min_ns: f64,
    /// The greatest, ns.
    pub max_ns: f64,
}

pub(super) fn series(ipis: &Ipis, view: Option<&View>, tick_ns: f64) -> Vec<SeriesReport> {
    let series = &ipis.series;
    // Without the target's begin there is no other than the first piece's; without its counter's rate there are no times.
    let Some(view) = view.filter(|view| view.directory.counter_hz > 0) else { return Vec::new() };
    let started = view.status.started;
    let point = |point: &SeriesPoint| {
        (point.n > 0).then(|| SeriesPointReport {
            n: point.n,
            mean_ns: point.sum as f64 / point.n as f64 * tick_ns,
            min_ns: point.min as f64 * tick_ns,
            max_ns: point.max as f64 * tick_ns,
        })
    };
    let line = |line: &SeriesLine| SeriesReport {
        core: line.core,
        start_ns: (series.start as f64 - started as f64) * tick_ns,
        piece_ns: series.piece_ticks as f64 * tick_ns,
        points: line.points.iter().map(point).collect(),
    };
    series.receivers.iter().map(line).collect()
}
