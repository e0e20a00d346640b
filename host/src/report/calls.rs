//! The call layer's part of the report: kinds, calls, callbacks, queues, and where crash stops found the cores.

use std::collections::BTreeMap;

use serde::Serialize;
use trace_ring::calls::{Delivery, IpiKind};
use trace_ring::layout::fault_kind;
use trace_ring::plan::TraceLevel;

use super::Latency;
use crate::capture::Capture;
use crate::correlate::calls::{Call, CallCounts, Calls};
use crate::correlate::{Counts, Ipis, View};
use crate::stats::{Pool, Samples};
use crate::symbols::Symbols;

/// An IPI kind, by how it came.
#[derive(Clone, Debug, Serialize)]
pub struct KindReport {
    /// Its name.
    pub kind: &'static str,
    /// How it came: `irq`, `pseudo_nmi`, `nmi`; null: no record says.
    pub delivery: Option<&'static str>,
    /// What became of its IPIs.
    #[serde(flatten)]
    pub counts: Counts,
    /// Their latencies.
    #[serde(flatten)]
    pub latency: Latency,
}

/// Calls: `queued = executed + not_executed + in_flight + unknown`.
#[derive(Clone, Debug, Serialize)]
pub struct CallsReport {
    /// What became of them.
    #[serde(flatten)]
    pub counts: CallCounts,
    /// Those that waited longest for their execution, the longest first.
    pub slowest: Vec<SlowCall>,
    /// Callers that waited longer than T for descriptors' locks.
    pub waits: Vec<WaitReport>,
}

/// One call that waited.
#[derive(Clone, Debug, Serialize)]
pub struct SlowCall {
    /// Who called.
    pub caller: u16,
    /// Who was called.
    pub target: u16,
    /// The queue that it stood on.
    pub kind: &'static str,
    /// Address of the function.
    pub function: String,
    /// Its name.
    pub symbol: Option<String>,
    /// Who asked: where the call returns to; null: no record says.
    pub call_site: Option<String>,
    /// Whether the caller waited.
    pub synchronous: bool,
    /// Whether it sent an SGI of its own.
    pub sent: bool,
    /// When it was queued, ns from the plan's begin.
    pub queued_at_ns: f64,
    /// From there to the begin of its function.
    pub queue_to_callback_ns: f64,
    /// How long its function took; null: its end was not recorded.
    pub callback_ns: Option<f64>,
}

/// A caller that waited for a target's descriptors.
#[derive(Clone, Debug, Serialize)]
pub struct WaitReport {
    /// Who waited.
    pub caller: u16,
    /// For whom.
    pub target: u16,
    /// How often.
    pub count: u64,
    /// The longest wait, when it was recorded.
    pub longest_ns: f64,
}

/// How long a function took on a core.
#[derive(Clone, Debug, Serialize)]
pub struct CallbackReport {
    /// Its address.
    pub function: String,
    /// Its name.
    pub symbol: Option<String>,
    /// The core.
    pub core: u16,
    /// Its durations.
    #[serde(flatten)]
    pub latency: Latency,
    /// The median, whatever the number of samples, ns.
    #[serde(skip)]
    pub(super) median_ns: f64,
}

/// What stood on a queue.
#[derive(Clone, Debug, Serialize)]
pub struct DepthReport {
    /// The core.
    pub core: u16,
    /// The queue: `call_function`, or `irq_work` for the core's own.
    pub kind: &'static str,
    /// The most calls that stood on it together.
    pub max: u64,
    /// When they first did, ns from the plan's begin.
    pub max_at_ns: f64,
    /// The mean over the run, by time.
    pub mean: f64,
    /// From when on (ns) which depth was the greatest, in equal pieces of the run; what does not change is left out.
    pub series: Vec<(f64, u64)>,
}

/// A core that a crash stop parked.
#[derive(Clone, Debug, Serialize)]
pub struct CrashStop {
    /// The core.
    pub core: u16,
    /// The interrupted instruction.
    pub pc: String,
    /// The place of it.
    pub symbol: Option<String>,
    /// The stack pointer.
    pub sp: String,
    /// SPSR_EL1.
    pub spsr: String,
    /// x0 to x30.
    pub registers: Vec<String>,
}

fn hex(value: u64) -> String {
    format!("{value:#x}")
}

/// The plan's kinds.
pub(super) fn kinds(ipis: &Ipis, tick_ns: f64) -> Vec<KindReport> {
    let mut kinds: BTreeMap<(IpiKind, Option<Delivery>), (Counts, Pool)> = BTreeMap::new();
    for slot in ipis.slots.iter().filter(|slot| slot.counts.sent > 0) {
        if let Some(kind) = slot.kind {
            let (counts, pool) = kinds.entry((kind, slot.delivery)).or_default();
            counts.add(&slot.counts);
            pool.add(&slot.figures);
        }
    }
    let report = |((kind, delivery), (counts, mut pool)): ((IpiKind, Option<Delivery>), (Counts, Pool))| KindReport {
        kind: kind.name(),
        delivery: delivery.map(Delivery::name),
        counts,
        latency: Latency::of(pool.summary(1.0), tick_ns),
    };
    kinds.into_iter().map(report).collect()
}

/// The calls that records tell of.
pub(super) fn calls(capture: &Capture, ipis: &Ipis, symbols: &Symbols, tick_ns: f64) -> Option<CallsReport> {
    let recorded = capture.info().plan.level == TraceLevel::Calls.name();
    let calls = ipis.calls.as_ref().filter(|calls| recorded || !calls.is_empty())?;
    let slow = |call: &Call| {
        let (queued, entry) = call.queued.zip(call.entry)?;
        Some(SlowCall {
            caller: call.caller,
            target: call.target,
            kind: call.kind.name(),
            function: hex(call.function),
            symbol: symbols.name(call.function),
            call_site: (call.call_site != 0).then(|| symbols.at_return(call.call_site)),
            synchronous: call.synchronous,
            sent: call.sent.is_some(),
            queued_at_ns: since(calls, queued, tick_ns),
            queue_to_callback_ns: entry.saturating_sub(queued) as f64 * tick_ns,
            callback_ns: call.exit.and_then(|exit| exit.checked_sub(entry)).map(|took| took as f64 * tick_ns),
        })
    };
    Some(CallsReport {
        counts: calls.counts,
        slowest: calls.slowest.iter().filter_map(slow).collect(),
        waits: calls
            .waits
            .iter()
            .map(|wait| WaitReport {
                caller: wait.caller,
                target: wait.target,
                count: wait.count,
                longest_ns: wait.longest as f64 * tick_ns,
            })
            .collect(),
    })
}

/// Ticks since the plan's begin, ns.
fn since(calls: &Calls, t: u64, tick_ns: f64) -> f64 {
    t.saturating_sub(calls.origin) as f64 * tick_ns
}

/// How long functions took, whatever their arguments.
pub(super) fn callbacks(ipis: &Ipis, symbols: &Symbols, tick_ns: f64) -> Vec<CallbackReport> {
    let mut functions: BTreeMap<(u64, u16), Samples> = BTreeMap::new();
    for callback in ipis.calls.iter().flat_map(|calls| &calls.callbacks) {
        functions
            .entry((callback.function, callback.core))
            .and_modify(|samples| samples.merge(&callback.samples))
            .or_insert_with(|| callback.samples.clone());
    }
    let report = |((function, core), mut samples): ((u64, u16), Samples)| {
        let summary = samples.summary(1.0);
        CallbackReport {
            function: hex(function),
            symbol: symbols.name(function),
            core,
            latency: Latency::of(summary, tick_ns),
            median_ns: summary.map_or(0.0, |summary| summary.median * tick_ns),
        }
    };
    functions.into_iter().map(report).collect()
}

/// What stood on the queues.
pub(super) fn queue_depth(ipis: &Ipis, tick_ns: f64) -> Vec<DepthReport> {
    let Some(calls) = &ipis.calls else { return Vec::new() };
    let depths = calls.depths.iter();
    depths
        .map(|depth| DepthReport {
            core: depth.core,
            kind: depth.kind.name(),
            max: depth.max,
            max_at_ns: since(calls, depth.max_at, tick_ns),
            mean: depth.mean,
            series: depth.series.iter().map(|(t, most)| (since(calls, *t, tick_ns), *most)).collect(),
        })
        .collect()
}

/// Where crash stops found the cores.
pub(super) fn crash_stops(view: Option<&View>, symbols: &Symbols) -> Vec<CrashStop> {
    let entries = view.map_or(&[][..], |view| view.faults.as_slice());
    let stopped = (0..).zip(entries).filter(|(_, entry)| entry.kind == fault_kind::CRASH_STOP);
    stopped
        .map(|(core, entry)| CrashStop {
            core,
            pc: hex(entry.elr),
            symbol: symbols.name(entry.elr).map(|_| symbols.at(entry.elr)),
            sp: hex(entry.sp),
            spsr: hex(entry.spsr),
            registers: entry.x.iter().map(|register| hex(*register)).collect(),
        })
        .collect()
}
