//! How far a plan's times were kept: sends that a script has do at a time, and when their records say that they did.
//!
//! Both stand in the order of their core's program, so that the n-th operation is the n-th record; where records are missing, the next
//! one that goes to the same cores is taken. A core that is late because a call before it was not over says so here.

use std::collections::VecDeque;

use serde::Serialize;
use trace_ring::layout::Context;
use trace_ring::plan::{Plan, op};
use trace_ring::record::{Event, Kind};
use zerocopy::IntoBytes as _;

use crate::capture::{Batch, Capture, CaptureError, PLAN_ATTACHMENT};
use crate::correlate::Ipis;
use crate::stats::Samples;

/// Operations that are passed over to find the one of a record.
const FARTHEST: usize = 1024;

/// Latenesses that are kept as they are.
const KEPT: usize = 1 << 20;

/// How the times of a plan were kept.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// Sends that the plan has at a time.
    pub planned: u64,
    /// Of those, the ones whose record is there, in the plan's order.
    pub reproduced: u64,
    /// Every core's sends came in the order of its program.
    pub in_order: bool,
    /// Half of them were at most so long behind their time.
    pub late_p50_ns: Option<f64>,
    /// All but a hundredth.
    pub late_p99_ns: Option<f64>,
    /// The latest.
    pub late_max_ns: Option<f64>,
    /// The core that sent it.
    pub latest_core: Option<u16>,
}

/// A send as the plan has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Planned {
    /// ns behind the phase's begin.
    at: u64,
    phase: u32,
    intid: u8,
    to: To,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum To {
    One(u16),
    Set(Vec<u16>),
}

/// Measures it; `None`: the plan has no times, or runs more than once.
pub(super) fn timing(capture: &Capture, ipis: &Ipis, tick_ns: f64) -> Result<Option<Timing>, CaptureError> {
    let Some(planned) = planned(capture) else { return Ok(None) };
    let view = ipis.view.as_ref();
    let phases = view.map_or(&[][..], |view| &view.phases);
    if phases.iter().any(|phase| phase.rounds > 1) {
        return Ok(None);
    }
    let mut timing = Timing {
        planned: planned.iter().map(|list| list.len() as u64).sum(),
        reproduced: 0,
        in_order: true,
        late_p50_ns: None,
        late_p99_ns: None,
        late_max_ns: None,
        latest_core: None,
    };
    let mut open: Vec<VecDeque<Planned>> = planned.into_iter().map(VecDeque::from).collect();
    let mut sets: Vec<Vec<u16>> = vec![Vec::new(); open.len()];
    let mut late = Samples::new(KEPT);
    let mut latest = 0;
    capture.lanes(|batch| {
        let Batch::Records { core, context, first, bytes } = batch else { return };
        let Some((open, set)) = open.get_mut(usize::from(core)).zip(sets.get_mut(usize::from(core))) else { return };
        if context != Context::Thread as u8 {
            return;
        }
        for record in trace_ring::reader::records(first, bytes) {
            let Event { kind, t, peer, intid, extra, arg, .. } = record.event;
            let to = match kind {
                Kind::Send => To::One(peer),
                Kind::SendMask => {
                    set.extend((0..64).filter(|bit| arg >> bit & 1 == 1).map(|bit| peer.saturating_add(bit)));
                    if extra > 0 {
                        continue;
                    }
                    To::Set(std::mem::take(set))
                }
                _ => continue,
            };
            let same = |planned: &Planned| planned.intid == intid && planned.to == to;
            let Some(at) = open.iter().take(FARTHEST).position(same) else {
                // A send that no operation with a time has: it is none of ours, or out of order.
                timing.in_order &= open.is_empty();
                continue;
            };
            timing.in_order &= at == 0;
            let Some(planned) = open.drain(..=at).next_back() else { continue };
            timing.reproduced += 1;
            let Some(phase) = phases.get(planned.phase as usize).filter(|phase| phase.rounds > 0) else { continue };
            let happened = t.saturating_sub(phase.started) as f64 * tick_ns;
            let behind = (happened - planned.at as f64).max(0.0).round() as u64;
            late.push(behind);
            if behind >= latest {
                (latest, timing.latest_core) = (behind, Some(core));
            }
        }
    })?;
    if let Some(summary) = late.summary(1.0) {
        timing.late_p50_ns = Some(summary.median);
        timing.late_p99_ns = summary.p99;
        timing.late_max_ns = Some(summary.max);
    }
    Ok(Some(timing))
}

/// What each core sends at a time; `None`: nobody sends so, or a loop repeats it.
fn planned(capture: &Capture) -> Option<Vec<Vec<Planned>>> {
    let bytes = capture.attachment(PLAN_ATTACHMENT).ok().flatten()?;
    let mut aligned = vec![0_u64; bytes.len().div_ceil(8)];
    aligned.as_mut_bytes().get_mut(..bytes.len())?.copy_from_slice(&bytes);
    let plan = Plan::parse(aligned.as_bytes()).ok()?;
    let mut all = Vec::new();
    for program in plan.programs {
        let mut list = Vec::new();
        let (mut at, mut phase) = (None, 0);
        for word in plan.ops.get(program.first_op as usize..)? {
            let to = match word.code {
                op::END => break,
                op::PHASE => {
                    (phase, at) = (word.c, None);
                    continue;
                }
                op::AT => {
                    at = Some(word.d);
                    continue;
                }
                op::LOOP if at.is_some() => return None,
                op::IPI | op::SEND | op::CALL => To::One(word.b),
                op::CALL_MANY => {
                    let mask = plan.masks.get(usize::from(word.b))?;
                    let cores = plan.header.core_count as u16;
                    To::Set((0..cores).filter(|core| mask.contains(*core)).collect())
                }
                // Whatever else takes time of its own.
                _ => {
                    at = None;
                    continue;
                }
            };
            let intid = match word.code {
                op::IPI => word.a & !op::GOES_ON,
                op::SEND => word.a,
                _ => trace_ring::calls::IpiKind::CallFunction.intid(),
            };
            if let Some(at) = at {
                list.push(Planned { at, phase, intid, to });
            }
        }
        all.push(list);
    }
    all.iter().any(|list| !list.is_empty()).then_some(all)
}
