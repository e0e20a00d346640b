//! The worst IPIs of a run that goes on, and what both cores did around them.
//!
//! Records pass by lane after lane, a sender's apart from its receiver's, and are gone from the target soon after. So the newest of
//! every lane are kept for a while, within a budget; the greatest latency of each pair since the last sweep is remembered; and
//! once a sweep has brought all lanes to one time, the best of these get their trail. What a phase is comes from the lanes too: the
//! newest that had begun when the IPI was taken.

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};

use trace_ring::layout::LANES_PER_CORE;
use trace_ring::record::{FLAG_UNTIMED, Kind, RECORD_BYTES, Record};

use crate::inspect::events::{self, Lexicon};

/// Bytes of records that are kept of all lanes together, and of one lane at most and at least.
const BUDGET: usize = 64 << 20;
const MOST_OF_A_LANE: usize = 512 << 10;
const LEAST_OF_A_LANE: usize = 4 << 10;

/// IPIs that are remembered, of different pairs.
pub const WORST: usize = 8;

/// Events of a trail: of the sender the first ones from the send on, of the receiver the last ones until it took the IPI; and so many
/// of each before the send.
const EVENTS: usize = 8;
/// See above.
const BEFORE: usize = 2;

/// Records of a lane that are looked through for a trail.
const LOOKED_THROUGH: usize = 4096;

/// Phases whose begin is remembered: a plan that is repeated for days begins many.
const BEGINS: usize = 1024;

/// One IPI that took long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worst {
    /// Its sender.
    pub from: u16,
    /// Its receiver.
    pub to: u16,
    /// INTID of its SGI.
    pub intid: u8,
    /// Its latency, ticks.
    pub ticks: u64,
    /// When it was taken, ticks.
    pub entry: u64,
    /// The phase in which it was; `None`: its begin was not seen.
    pub phase: Option<usize>,
    /// What both cores did from a little before its send to its entry: ticks after the send, core, words.
    pub trail: Vec<(i64, u16, String)>,
}

impl Worst {
    const fn pair(&self) -> (u16, u16) {
        (self.from, self.to)
    }
}

/// Finds them while records pass by.
#[derive(Debug)]
pub struct Tracker {
    /// The newest records of each lane, as they lay in memory, and the number of the first.
    lanes: Vec<(u64, VecDeque<u8>)>,
    most: usize,
    /// Of phases: when each began, as its cores say.
    begins: VecDeque<(u64, usize)>,
    /// The greatest of each pair since the last sweep, phase by phase.
    fresh: HashMap<(u16, u16, usize), Worst>,
    /// The worst of phases whose latencies are judged, and those of the others: there IPIs wait for each other.
    judged: Vec<Worst>,
    others: Vec<Worst>,
}

impl Tracker {
    /// For so many lanes.
    pub fn new(lanes: usize) -> Tracker {
        let most = (BUDGET / lanes.max(1)).clamp(LEAST_OF_A_LANE, MOST_OF_A_LANE);
        Tracker {
            lanes: vec![(0, VecDeque::new()); lanes],
            most,
            begins: VecDeque::new(),
            fresh: HashMap::new(),
            judged: Vec::new(),
            others: Vec::new(),
        }
    }

    /// The worst so far, the worst first: those of judged phases, or of all where there are no others.
    pub fn worst(&self) -> &[Worst] {
        if self.judged.is_empty() { &self.others } else { &self.judged }
    }

    /// Records of a lane, `first` the number of the first.
    pub fn records(&mut self, core: u16, context: u8, first: u64, bytes: &[u8]) {
        for bytes in bytes.chunks_exact(RECORD_BYTES as usize) {
            // The kind stands in the low byte of word 1's upper half: most records are looked at no closer.
            let kind = bytes.get(12).copied().map_or(Kind::Unknown(0), Kind::from_code);
            match kind {
                Kind::Receive => self.answer(core, bytes),
                Kind::Phase => self.phase(bytes),
                _ => {}
            }
        }
        self.keep(core, context, first, bytes);
    }

    fn keep(&mut self, core: u16, context: u8, first: u64, bytes: &[u8]) {
        let most = self.most;
        let index = usize::from(core) * LANES_PER_CORE + usize::from(context);
        let Some((begin, lane)) = self.lanes.get_mut(index) else { return };
        let size = RECORD_BYTES as usize;
        // A gap parts what is known from what comes: only the newer side is kept.
        if *begin + (lane.len() / size) as u64 != first {
            lane.clear();
            *begin = first;
        }
        lane.extend(bytes);
        let over = lane.len().saturating_sub(most).next_multiple_of(size).min(lane.len());
        lane.drain(..over);
        *begin += (over / size) as u64;
    }

    fn answer(&mut self, core: u16, bytes: &[u8]) {
        let Some(event) = decoded(bytes) else { return };
        let Some(ticks) = event.t.checked_sub(event.arg) else { return };
        if event.arg == 0 || event.flags & FLAG_UNTIMED != 0 {
            return;
        }
        // How many phases had begun keeps apart what the begins known later will tell apart.
        let place = self.fresh.entry((event.peer, core, self.begins.len())).or_insert(Worst {
            from: event.peer,
            to: core,
            intid: event.intid,
            ticks: 0,
            entry: 0,
            phase: None,
            trail: Vec::new(),
        });
        if ticks >= place.ticks {
            (place.ticks, place.entry, place.intid) = (ticks, event.t, event.intid);
        }
    }

    fn phase(&mut self, bytes: &[u8]) {
        let Some(event) = decoded(bytes).filter(|event| event.extra == 0) else { return };
        let phase = event.msg as usize;
        // Each core says that a phase began: the first of them is its begin.
        match self.begins.back_mut() {
            Some((t, newest)) if *newest == phase && event.t.abs_diff(*t) < 1 << 40 => *t = event.t.min(*t),
            _ => self.begins.push_back((event.t, phase)),
        }
        if self.begins.len() > BEGINS {
            self.begins.pop_front();
        }
    }

    /// All lanes have been read up to about now. `is_judged`: whether a phase's latencies are.
    pub fn swept(&mut self, lexicon: Lexicon<'_>) {
        let fresh = std::mem::take(&mut self.fresh);
        for mut candidate in fresh.into_values() {
            let phase = self.begins.iter().rev().find(|(t, _)| *t <= candidate.entry).map(|(_, phase)| *phase);
            candidate.phase = phase;
            let judged = phase.and_then(|phase| lexicon.phases.get(phase)).is_some_and(|phase| phase.timed);
            let list = if judged { &self.judged } else { &self.others };
            let before = list.iter().find(|worst| worst.pair() == candidate.pair()).map(|worst| worst.ticks);
            let floor = if list.len() < WORST { None } else { list.last().map(|worst| worst.ticks) };
            if before.or(floor).is_some_and(|ticks| ticks >= candidate.ticks) {
                continue;
            }
            candidate.trail = self.trail(&candidate, lexicon);
            let list = if judged { &mut self.judged } else { &mut self.others };
            list.retain(|worst| worst.pair() != candidate.pair());
            list.push(candidate);
            list.sort_by_key(|worst| (Reverse(worst.ticks), worst.entry));
            list.truncate(WORST);
        }
    }

    fn trail(&self, worst: &Worst, lexicon: Lexicon<'_>) -> Vec<(i64, u16, String)> {
        let sent = worst.entry.saturating_sub(worst.ticks);
        let margin = worst.ticks / 4 + 16;
        let span = sent.saturating_sub(margin)..=worst.entry;
        let told = |core: u16| {
            let first = usize::from(core) * LANES_PER_CORE;
            let lanes = first..first + LANES_PER_CORE;
            let tails: Vec<Vec<Record>> = lanes
                .map(|lane| self.lanes.get(lane).map_or(Vec::new(), |(begin, lane)| within(*begin, lane, &span)))
                .collect();
            events::last(lexicon, core, &tails, usize::MAX)
        };
        let told = |core: u16| {
            let mut events = told(core);
            let before = events.iter().take_while(|(t, ..)| *t < sent).count();
            events.drain(..before.saturating_sub(BEFORE));
            events
        };
        let mut senders = told(worst.from);
        senders.truncate(EVENTS);
        let mut trail: Vec<(u64, u16, String)> =
            senders.into_iter().map(|(t, _, words)| (t, worst.from, words)).collect();
        if worst.to != worst.from {
            let receivers = told(worst.to);
            let first = receivers.len().saturating_sub(EVENTS);
            trail.extend(receivers.into_iter().skip(first).map(|(t, _, words)| (t, worst.to, words)));
        }
        trail.sort_by_key(|(t, ..)| *t);
        trail.into_iter().map(|(t, core, words)| ((t as i64).wrapping_sub(sent as i64), core, words)).collect()
    }
}

/// The records of a lane within a span, the newest [`LOOKED_THROUGH`] at most.
fn within(begin: u64, lane: &VecDeque<u8>, span: &std::ops::RangeInclusive<u64>) -> Vec<Record> {
    let size = RECORD_BYTES as usize;
    let mut found = Vec::new();
    for index in (0..lane.len() / size).rev() {
        let mut bytes = [0; RECORD_BYTES as usize];
        for (byte, from) in bytes.iter_mut().zip(lane.range(index * size..(index + 1) * size)) {
            *byte = *from;
        }
        let Some(record) = Record::from_bytes(&bytes, begin + index as u64) else { continue };
        if span.contains(&record.event.t) {
            found.push(record);
        } else if record.event.t < *span.start() && record.event.t != 0 {
            // Times of a lane rise, but for a reception's, which is its vector's.
            break;
        }
        if found.len() >= LOOKED_THROUGH {
            break;
        }
    }
    found.reverse();
    found
}

/// An event as it lies in memory, whatever its number in the lane.
fn decoded(bytes: &[u8]) -> Option<trace_ring::record::Event> {
    let bytes: &[u8; RECORD_BYTES as usize] = bytes.try_into().ok()?;
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[8..12]);
    Record::from_bytes(bytes, u64::from(u32::from_le_bytes(number))).map(|record| record.event)
}

#[cfg(test)]
mod tests {
    use trace_ring::record::Event;

    use super::*;
    use crate::plan::PhaseMeta;
    use crate::reason::Reasons;
    use crate::symbols::Symbols;

    fn event(kind: Kind, t: u64, peer: u16, msg: u32, arg: u64) -> Event {
        Event { t, kind, flags: 0, peer, msg, intid: 1, extra: 0, arg }
    }

    fn bytes(first: u64, events: &[Event]) -> Vec<u8> {
        let words = events.iter().zip(first..).flat_map(|(event, index)| event.words(index));
        words.flat_map(u64::to_le_bytes).collect()
    }

    fn phases() -> Vec<PhaseMeta> {
        let phase = |name: &str, timed| PhaseMeta {
            name: name.into(),
            pattern: "all_pairs".into(),
            timed,
            state: "wfi".into(),
            intid: 1,
            pairs: 2,
            sends: 10,
            dither: 0,
            pressure: false,
            transition: None,
        };
        vec![phase("pairs", true), phase("storm", false)]
    }

    fn sweep(tracker: &mut Tracker) {
        let (reasons, symbols, phases) = (Reasons::default(), Symbols::default(), phases());
        tracker.swept(Lexicon {
            hz: 1_000_000_000,
            calls_pa: 0,
            reasons: &reasons,
            phases: &phases,
            symbols: &symbols,
        });
    }

    #[test]
    fn the_worst_of_a_pair_has_its_sender_and_its_receiver_in_the_trail() {
        let mut tracker = Tracker::new(2 * LANES_PER_CORE);
        tracker.records(0, 0, 0, &bytes(0, &[event(Kind::Phase, 900, 0, 0, 0), event(Kind::Send, 1000, 1, 7, 3)]));
        tracker.records(1, 1, 0, &bytes(0, &[event(Kind::Receive, 1500, 0, 7, 1000)]));
        sweep(&mut tracker);
        let [worst] = tracker.worst() else { panic!("{:?}", tracker.worst()) };
        assert_eq!((worst.from, worst.to, worst.ticks, worst.phase), (0, 1, 500, Some(0)));
        let [(began, 0, phase), (0, 0, sent), (500, 1, took)] = &worst.trail[..] else { panic!("{:?}", worst.trail) };
        assert_eq!((*began, phase.as_str()), (-100, "phase `pairs` began"));
        assert!(sent.starts_with("sent SGI 1 to core 1"), "{sent}");
        assert!(took.starts_with("took SGI 1 of core 0, message 7, 500 ns after its send"), "{took}");
    }

    #[test]
    fn a_storm_does_not_drive_out_what_is_judged() {
        let mut tracker = Tracker::new(2 * LANES_PER_CORE);
        tracker.records(0, 0, 0, &bytes(0, &[event(Kind::Phase, 900, 0, 0, 0)]));
        tracker.records(1, 1, 0, &bytes(0, &[event(Kind::Receive, 1500, 0, 7, 1000)]));
        sweep(&mut tracker);
        // The receiver's lane may come before the sender's that says which phase it is.
        tracker.records(1, 1, 1, &bytes(1, &[event(Kind::Receive, 90_000, 0, 8, 3000)]));
        tracker.records(0, 0, 1, &bytes(1, &[event(Kind::Phase, 2000, 0, 1, 0)]));
        sweep(&mut tracker);
        let [worst] = tracker.worst() else { panic!("{:?}", tracker.worst()) };
        assert_eq!((worst.ticks, worst.phase), (500, Some(0)));
        let [storm] = &tracker.others[..] else { panic!("{:?}", tracker.others) };
        assert_eq!((storm.ticks, storm.phase), (87_000, Some(1)));
    }

    #[test]
    fn a_pair_stands_once_and_the_list_ends() {
        let mut tracker = Tracker::new(64 * LANES_PER_CORE);
        for to in 0..20 {
            let late = [100 + u64::from(to), 50].map(|ticks| event(Kind::Receive, 1000 + ticks, 30, 1, 1000));
            tracker.records(to, 1, 0, &bytes(0, &late));
            sweep(&mut tracker);
        }
        let ticks: Vec<u64> = tracker.worst().iter().map(|worst| worst.ticks).collect();
        assert_eq!(ticks, [119, 118, 117, 116, 115, 114, 113, 112]);
    }

    #[test]
    fn what_is_kept_of_a_lane_is_bounded_and_without_gaps() {
        let mut tracker = Tracker::new(LANES_PER_CORE);
        let many: Vec<Event> = (0..20_000).map(|t| event(Kind::Send, t, 1, 0, 0)).collect();
        tracker.records(0, 0, 0, &bytes(0, &many));
        let (begin, lane) = &tracker.lanes[0];
        assert_eq!(lane.len(), MOST_OF_A_LANE);
        assert_eq!(*begin as usize, 20_000 - MOST_OF_A_LANE / 32);
        tracker.records(0, 0, 30_000, &bytes(30_000, &many[..5]));
        let (begin, lane) = &tracker.lanes[0];
        assert_eq!((*begin, lane.len()), (30_000, 5 * 32));
    }

    #[test]
    fn untimed_answers_and_torn_bytes_are_no_latency() {
        let mut tracker = Tracker::new(LANES_PER_CORE);
        let untimed = Event { flags: FLAG_UNTIMED, ..event(Kind::Receive, 5000, 1, 0, 1) };
        let mut torn = bytes(2, &[event(Kind::Receive, 9000, 1, 0, 1)]);
        torn[22] ^= 1;
        let early = event(Kind::Receive, 10, 1, 0, 5000);
        let unknown = event(Kind::Receive, 10, 1, 0, 0);
        tracker.records(0, 1, 0, &bytes(0, &[untimed, early, unknown]));
        tracker.records(0, 1, 3, &torn);
        sweep(&mut tracker);
        assert!(tracker.worst().is_empty(), "{:?}", tracker.worst());
    }
}
