//! What a report says of a Linux trace alone: what it holds, who sends from where, what was never answered.

use serde::Serialize;

use super::Latency;
use crate::capture::Capture;
use crate::correlate::Ipis;

/// Call sites that are listed, and IPIs without an answer.
const MOST_LISTED: usize = 1000;

/// A Linux trace.
#[derive(Clone, Debug, Serialize)]
pub struct LinuxReport {
    /// The file that was imported.
    pub file: String,
    /// `text`, `text, xz` …
    pub format: String,
    /// The step of its time stamps, ns; 0: they are no times.
    pub resolution_ns: u64,
    /// Events by the kernel's names.
    pub events: Vec<(String, u64)>,
    /// Events of other kinds, left out.
    pub others: u64,
    /// Lines that could not be read.
    pub unknown: u64,
    /// Events that the kernel says it lost.
    pub lost: u64,
    /// Who sends, and from where, the most first.
    pub call_sites: Vec<CallSiteReport>,
    /// Latencies by sender, receiver, reason and callback, those with the longest first.
    pub paths: Vec<PathReport>,
    /// Handlers that no raise of the trace explains: CPU, reason, how many.
    pub unannounced: Vec<(u16, String, u64)>,
    /// IPIs that had no answer when the trace ends, long after others had theirs; the oldest first.
    pub unanswered: Vec<UnansweredReport>,
}

/// Who sends from where.
#[derive(Clone, Debug, Serialize)]
pub struct CallSiteReport {
    /// The sender.
    pub from: u16,
    /// The place in the kernel; `None`: the trace does not say.
    pub call_site: Option<String>,
    /// Which IPI, as the kernel words it.
    pub reason: String,
    /// IPIs, one for each target.
    pub sent: u64,
}

/// IPIs of one sender, receiver, reason and callback.
#[derive(Clone, Debug, Serialize)]
pub struct PathReport {
    /// Who sent them.
    pub from: u16,
    /// To whom.
    pub to: u16,
    /// Which IPI, as the kernel words it.
    pub reason: String,
    /// What the handler was asked to call; `None`: the trace does not say.
    pub callback: Option<String>,
    /// From the raise to the handler's entry.
    #[serde(flatten)]
    pub latency: Latency,
}

/// An IPI without an answer.
#[derive(Clone, Debug, Serialize)]
pub struct UnansweredReport {
    /// Who sent it.
    pub from: u16,
    /// To whom.
    pub to: u16,
    /// Which IPI, as the kernel words it.
    pub reason: String,
    /// When, by the trace's clock, ns.
    pub sent_at_ns: u64,
    /// How long before the end of the trace, ns.
    pub age_ns: u64,
}

pub(super) fn linux(capture: &Capture, ipis: &Ipis) -> Option<LinuxReport> {
    let (table, linux) = capture.linux().zip(ipis.linux.as_ref())?;
    let site = |site: &crate::correlate::linux::CallSite| CallSiteReport {
        from: site.from,
        call_site: (!site.site.is_empty()).then(|| site.site.clone()),
        reason: site.reason.clone(),
        sent: site.count,
    };
    let open = |open: &crate::correlate::linux::Unanswered| UnansweredReport {
        from: open.from,
        to: open.to,
        reason: open.reason.clone(),
        sent_at_ns: open.t,
        age_ns: open.age,
    };
    let path = |path: &crate::correlate::linux::PathFigures| PathReport {
        from: path.from,
        to: path.to,
        reason: path.reason.clone(),
        callback: (!path.callback.is_empty()).then(|| path.callback.clone()),
        latency: Latency::of(Some(path.latency), 1.0),
    };
    Some(LinuxReport {
        file: table.file.clone(),
        format: table.format.clone(),
        resolution_ns: table.resolution_ns,
        events: table.counts.clone(),
        others: table.others,
        unknown: table.unknown,
        lost: table.lost,
        call_sites: linux.call_sites.iter().take(MOST_LISTED).map(site).collect(),
        paths: linux.paths.iter().take(MOST_LISTED).map(path).collect(),
        unannounced: linux.unannounced.clone(),
        unanswered: linux.unanswered.iter().take(MOST_LISTED).map(open).collect(),
    })
}
