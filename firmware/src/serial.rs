//! Results over the console: for a board with a serial line and nothing else.
//!
//! After the run the boot core sends the region as lines (`trace_ring::line`): summary and histograms first, then the trails
//! around the greatest latencies, then all records, so that what matters most arrives even where a lab cuts the log. Then, and
//! while it sends, it answers requests: whatever the host found damaged goes out again. It sends by itself only if the boot
//! arguments say so (`options`); requests are always answered.
//!
//! A UART's receive FIFO holds 16 to 64 bytes and nobody else empties it, so it is looked at after every byte that is sent.
//! Nothing here writes to the region.
#![cfg_attr(target_os = "none", expect(unsafe_code))] // UNSAFETY: the region is read through raw pointers.

use trace_ring::calls::{CallDescriptor, LiveEntry};
use trace_ring::layout::{
    Context, CoreEntry, Directory, FaultEntry, HISTOGRAM_BYTES, HeadLine, LANES_PER_CORE, LaneDescriptor, LogHeader,
    PairSlot, PhaseResult, Truth,
};
use trace_ring::line::{Line, MOST_BYTES, MOST_LINE, Scanner};
use trace_ring::plan::MOST_LOG2_RECORDS;
use trace_ring::record::{FLAG_UNTIMED, Kind, RECORD_BYTES, Record};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::options::Results;

/// Zeros from here on are told, not sent.
const LEAST_ZEROS: u64 = 64;
/// Zeros counted for one line: a look at so much memory is shorter than a receive FIFO is deep.
const MOST_ZEROS: u64 = 64 << 10;
/// Requests that wait. What comes above that is dropped: the host asks again.
const MOST_REQUESTS: usize = 16;
/// Greatest latencies whose trails are sent first.
const LATE: usize = 16;
/// Messages given up whose trails are sent before these.
const GIVEN_UP: usize = 8;
/// Records of a trail before the one in question, and after it.
const BEFORE: u64 = 32;
const AFTER: u64 = 16;

/// What the sender stands on: the region and the console.
pub trait Port {
    /// Copies bytes of the region. Whoever calls stays inside it.
    fn read(&self, offset: u64, bytes: &mut [u8]);
    /// Sends one byte.
    fn put(&mut self, byte: u8);
    /// The next byte that came in, if one did.
    fn get(&mut self) -> Option<u8>;
    /// Nothing to do: sleeps a little. `false`: the sender is to end (tests do).
    fn rest(&mut self) -> bool;
}

/// Requests in the order they came.
struct Queue {
    items: [(u64, u64); MOST_REQUESTS],
    first: usize,
    count: usize,
}

impl Queue {
    const fn new() -> Self {
        Queue { items: [(0, 0); MOST_REQUESTS], first: 0, count: 0 }
    }

    fn push(&mut self, item: (u64, u64)) {
        if self.count < MOST_REQUESTS {
            self.items[(self.first + self.count) % MOST_REQUESTS] = item;
            self.count += 1;
        }
    }

    fn pop(&mut self) -> Option<(u64, u64)> {
        self.count = self.count.checked_sub(1)?;
        let item = self.items[self.first];
        self.first = (self.first + 1) % MOST_REQUESTS;
        Some(item)
    }
}

/// A lane as the region describes it.
#[derive(Clone, Copy)]
struct Lane {
    core: u64,
    context: Context,
    offset: u64,
    capacity: u64,
    head: u64,
}

impl Lane {
    fn oldest(&self) -> u64 {
        self.head.saturating_sub(self.capacity)
    }
}

/// A record worth its neighbourhood.
#[derive(Clone, Copy)]
struct Suspect {
    ticks: u64,
    core: u64,
    context: Context,
    index: u64,
    peer: u64,
    /// When the other end of it happened.
    peer_time: u64,
}

/// The greatest of what it is shown.
struct Worst<const N: usize> {
    items: [Option<Suspect>; N],
}

impl<const N: usize> Worst<N> {
    const fn new() -> Self {
        Worst { items: [None; N] }
    }

    fn show(&mut self, suspect: Suspect) {
        let mut carried = Some(suspect);
        for item in &mut self.items {
            if item.is_none_or(|known| carried.is_some_and(|new| new.ticks > known.ticks)) {
                core::mem::swap(item, &mut carried);
            }
            if carried.is_none() {
                break;
            }
        }
    }
}

/// Records that were sent as part of a trail: core, context, from, to.
struct Sent {
    items: [(u64, Context, u64, u64); 2 * (LATE + GIVEN_UP)],
    count: usize,
}

impl Sent {
    const fn new() -> Self {
        Sent { items: [(0, Context::Thread, 0, 0); 2 * (LATE + GIVEN_UP)], count: 0 }
    }

    /// Notes a window; `false`: it lies in one that was sent.
    fn note(&mut self, lane: &Lane, from: u64, to: u64) -> bool {
        let covers = |known: &(u64, Context, u64, u64)| {
            (known.0, known.1) == (lane.core, lane.context) && known.2 <= from && to <= known.3
        };
        if self.items[..self.count].iter().any(covers) {
            return false;
        }
        if let Some(item) = self.items.get_mut(self.count) {
            *item = (lane.core, lane.context, from, to);
            self.count += 1;
        }
        true
    }
}

/// Sends the region, and answers.
pub struct Sender<P> {
    port: P,
    directory: Directory,
    scanner: Scanner,
    requests: Queue,
    /// `Data` and `Zeros` lines since `Begin`.
    lines: u64,
    /// The host said that it has everything.
    quiet: bool,
}

impl<P: Port> Sender<P> {
    /// One for the region behind `port`.
    pub fn new(port: P) -> Self {
        let mut directory = Directory::new_zeroed();
        port.read(0, directory.as_mut_bytes());
        Sender { port, directory, scanner: Scanner::new(), requests: Queue::new(), lines: 0, quiet: false }
    }

    /// Sends what `results` asks for, then answers for as long as the port goes on.
    pub fn run(&mut self, results: Results) {
        if results != Results::None {
            self.send_all(results);
        }
        loop {
            self.listen();
            if self.requests.count > 0 {
                self.answer();
            } else if !self.port.rest() {
                return;
            }
        }
    }

    fn send_all(&mut self, results: Results) {
        let (region_len, nonce) = (self.directory.region_len, self.directory.nonce);
        self.lines = 0;
        self.line(Line::Begin { region_len, nonce });
        self.send_summary();
        if results == Results::Console {
            self.send_trails();
            for lane in 0..u64::from(self.directory.core_count) * LANES_PER_CORE as u64 {
                if let Some(lane) =
                    self.lane(lane / LANES_PER_CORE as u64, Context::ALL[lane as usize % LANES_PER_CORE])
                {
                    self.send(lane.offset, lane.head.min(lane.capacity) * RECORD_BYTES);
                }
            }
        }
        if !self.quiet {
            self.line(Line::End { lines: self.lines, nonce });
        }
    }

    /// Everything but records: few bytes that say most.
    fn send_summary(&mut self) {
        fn bytes<T>(count: u32) -> u64 {
            u64::from(count) * size_of::<T>() as u64
        }
        let Directory { sections, core_count, phase_count, slot_count, .. } = self.directory;
        let Directory { histogram_count, descriptor_count, meta_len, .. } = self.directory;
        for (offset, length) in [
            (0, size_of::<Directory>() as u64),
            (sections.cores, bytes::<CoreEntry>(core_count)),
            (sections.heads, bytes::<HeadLine>(core_count)),
            (sections.lanes, bytes::<[LaneDescriptor; LANES_PER_CORE]>(core_count)),
            (sections.phases, bytes::<PhaseResult>(phase_count)),
            (sections.faults, bytes::<FaultEntry>(core_count)),
            (sections.live, bytes::<LiveEntry>(core_count)),
            (sections.meta, meta_len),
            (sections.slots, bytes::<PairSlot>(slot_count)),
            (sections.calls, bytes::<CallDescriptor>(descriptor_count)),
            (sections.truth, bytes::<Truth>(core_count)),
        ] {
            self.send(offset, length);
        }
        for core in 0..u64::from(core_count) {
            let log = sections.logs + core * u64::from(self.directory.log_stride);
            if let Some(header) = self.object::<LogHeader>(log) {
                self.send(log, header.head.min(header.capacity).saturating_add(size_of::<LogHeader>() as u64));
            }
        }
        self.send(sections.histograms, u64::from(histogram_count) * HISTOGRAM_BYTES);
    }

    /// The records around messages that were given up, and around the greatest latencies, at both ends.
    fn send_trails(&mut self) {
        let (mut late, mut given_up) = (Worst::<LATE>::new(), Worst::<GIVEN_UP>::new());
        for core in 0..u64::from(self.directory.core_count) {
            for context in [Context::Thread, Context::Irq, Context::Nmi] {
                let Some(lane) = self.lane(core, context) else { continue };
                for index in lane.oldest()..lane.head {
                    if index % 64 == 0 {
                        self.listen();
                    }
                    let Some(Record { event, .. }) = self.record(&lane, index) else { continue };
                    let peer = event.peer.into();
                    let suspect = Suspect { ticks: 0, core, context, index, peer, peer_time: event.t };
                    match event.kind {
                        Kind::Receive if event.arg != 0 && event.flags & FLAG_UNTIMED == 0 => late.show(Suspect {
                            ticks: event.t.saturating_sub(event.arg),
                            peer_time: event.arg,
                            ..suspect
                        }),
                        Kind::Retire => given_up.show(suspect),
                        _ => {}
                    }
                }
            }
        }
        let mut sent = Sent::new();
        for suspect in given_up.items.into_iter().chain(late.items).flatten() {
            if let Some(lane) = self.lane(suspect.core, suspect.context) {
                self.send_around(&lane, suspect.index, &mut sent);
            }
            let other = if suspect.context == Context::Thread { Context::Irq } else { Context::Thread };
            if let Some(lane) = self.lane(suspect.peer, other) {
                let index = self.first_since(&lane, suspect.peer_time);
                self.send_around(&lane, index, &mut sent);
            }
        }
    }

    fn send_around(&mut self, lane: &Lane, index: u64, sent: &mut Sent) {
        let from = index.saturating_sub(BEFORE).max(lane.oldest());
        let to = index.saturating_add(AFTER + 1).min(lane.head);
        if from >= to || !sent.note(lane, from, to) {
            return;
        }
        // A window may run over the lane's end.
        let (first, count) = (from % lane.capacity, to - from);
        let head = count.min(lane.capacity - first);
        self.send(lane.offset + first * RECORD_BYTES, head * RECORD_BYTES);
        self.send(lane.offset, (count - head) * RECORD_BYTES);
    }

    /// The first record of a lane that was written at `time` or later. Torn records count as old.
    fn first_since(&self, lane: &Lane, time: u64) -> u64 {
        let (mut low, mut high) = (lane.oldest(), lane.head);
        while low < high {
            let middle = low + (high - low) / 2;
            match self.record(lane, middle) {
                Some(record) if record.event.t >= time => high = middle,
                _ => low = middle + 1,
            }
        }
        low
    }

    fn lane(&self, core: u64, context: Context) -> Option<Lane> {
        if core >= self.directory.core_count.into() {
            return None;
        }
        let sections = self.directory.sections;
        let heads: HeadLine = self.object(sections.heads + core * size_of::<HeadLine>() as u64)?;
        let place = core * LANES_PER_CORE as u64 + context as u64;
        let lane: LaneDescriptor = self.object(sections.lanes + place * size_of::<LaneDescriptor>() as u64)?;
        if lane.log2_records > MOST_LOG2_RECORDS.into() {
            return None;
        }
        let capacity = 1 << lane.log2_records;
        let end = lane.offset.checked_add(capacity * RECORD_BYTES)?;
        let head = heads.head[context as usize];
        (end <= self.directory.region_len).then_some(Lane { core, context, offset: lane.offset, capacity, head })
    }

    fn record(&self, lane: &Lane, index: u64) -> Option<Record> {
        let mut bytes = [0; RECORD_BYTES as usize];
        self.port.read(lane.offset + index % lane.capacity * RECORD_BYTES, &mut bytes);
        Record::from_bytes(&bytes, index)
    }

    fn object<T: FromBytes + IntoBytes>(&self, offset: u64) -> Option<T> {
        let end = offset.checked_add(size_of::<T>() as u64)?;
        let mut object = T::new_zeroed();
        (end <= self.directory.region_len).then(|| self.port.read(offset, object.as_mut_bytes()))?;
        Some(object)
    }

    /// Sends a part of the region unasked, and in between whatever was asked for.
    fn send(&mut self, offset: u64, length: u64) {
        let end = offset.saturating_add(length).min(self.directory.region_len);
        let mut next = offset;
        while next < end && !self.quiet {
            next = self.piece(next, end);
            self.answer();
        }
    }

    /// Answers all requests.
    fn answer(&mut self) {
        while let Some((offset, length)) = self.requests.pop() {
            let end = offset.saturating_add(length).min(self.directory.region_len);
            let mut next = offset;
            while next < end {
                next = self.piece(next, end);
            }
        }
    }

    /// Sends one line of the region from `offset`, not beyond `end`; returns where the next begins.
    fn piece(&mut self, offset: u64, end: u64) -> u64 {
        self.lines += 1;
        let zeros = self.zeros(offset, end);
        if zeros >= LEAST_ZEROS {
            self.line(Line::Zeros { offset, length: zeros });
            return offset + zeros;
        }
        let mut bytes = [0; MOST_BYTES];
        let bytes = &mut bytes[..(end - offset).min(MOST_BYTES as u64) as usize];
        self.port.read(offset, bytes);
        self.line(Line::Data { offset, bytes });
        offset + bytes.len() as u64
    }

    /// Zero bytes from `offset` on, not beyond `end`.
    fn zeros(&self, offset: u64, end: u64) -> u64 {
        let end = end.min(offset + MOST_ZEROS);
        let mut bytes = [0; 64];
        let mut next = offset;
        while next < end {
            let bytes = &mut bytes[..(end - next).min(64) as usize];
            self.port.read(next, bytes);
            if let Some(first) = bytes.iter().position(|byte| *byte != 0) {
                return next + first as u64 - offset;
            }
            next += bytes.len() as u64;
        }
        next - offset
    }

    fn line(&mut self, line: Line<'_>) {
        let mut text = [0; MOST_LINE];
        let length = line.encode(&mut text);
        for byte in text[..length].iter().chain(b"\r\n") {
            self.port.put(*byte);
            self.listen();
        }
    }

    /// Takes what came in.
    fn listen(&mut self) {
        while let Some(byte) = self.port.get() {
            match self.scanner.push(byte) {
                Some(Line::Request { offset, length }) => self.requests.push((offset, length)),
                // Of another run: whoever said it speaks of a boot before this one.
                Some(Line::Done { nonce }) if nonce == self.directory.nonce => {
                    self.quiet = true;
                    self.requests = Queue::new();
                }
                _ => {}
            }
        }
    }
}

#[cfg(target_os = "none")]
pub use target::{configure, serve};

#[cfg(target_os = "none")]
mod target {
    use core::mem::offset_of;
    use core::sync::atomic::{AtomicBool, AtomicU8, Ordering};

    use trace_ring::layout::Directory;

    use super::{Port, Sender};
    use crate::arch::{self, write_register};
    use crate::options::Results;
    use crate::percore::{Core, Shared};
    use crate::{clock, console, gic, watchdog};

    static RESULTS: AtomicU8 = AtomicU8::new(0);
    static SERVING: AtomicBool = AtomicBool::new(false);

    /// Between two looks at an idle line: at 115200 baud twelve bytes arrive in that time, less than any FIFO holds.
    const NAP_NS: u64 = 1_000_000;
    /// After a byte the next is likely: no nap for so long.
    const AWAKE_NS: u64 = 5_000_000;

    /// Says what is sent after the run.
    pub fn configure(results: Results) {
        RESULTS.store(results as u8, Ordering::Relaxed);
    }

    /// The region in memory, and the console.
    struct Target {
        region: u64,
        awake_until: u64,
    }

    impl Port for Target {
        fn read(&self, offset: u64, bytes: &mut [u8]) {
            let start = self.region + offset;
            let (words, rest) = bytes.as_chunks_mut::<8>();
            let aligned = start.is_multiple_of(8);
            for (word, at) in words.iter_mut().zip((start..).step_by(8)) {
                // SAFETY: the sender stays inside the region, which is mapped for ever. Volatile: a core that was given up
                // may still write there.
                *word = unsafe {
                    if aligned {
                        (at as *const u64).read_volatile().to_le_bytes()
                    } else {
                        (at as *const [u8; 8]).read_volatile()
                    }
                };
            }
            for (byte, at) in rest.iter_mut().zip(start + words.len() as u64 * 8..) {
                // SAFETY: as above.
                *byte = unsafe { (at as *const u8).read_volatile() };
            }
        }

        fn put(&mut self, byte: u8) {
            console::put(byte);
            watchdog::feed_if_due();
        }

        fn get(&mut self) -> Option<u8> {
            let byte = console::get()?;
            self.awake_until = arch::counter() + clock::ticks(AWAKE_NS);
            Some(byte)
        }

        fn rest(&mut self) -> bool {
            watchdog::feed_if_due();
            if arch::counter() < self.awake_until {
                arch::yield_now();
            } else {
                write_register!("cntv_cval_el0", arch::counter() + clock::ticks(NAP_NS));
                write_register!("cntv_ctl_el0", 1);
                arch::instruction_barrier();
                arch::sleep();
                write_register!("cntv_ctl_el0", 0);
                arch::instruction_barrier();
            }
            true
        }
    }

    /// The boot core's last duty, interrupts masked: results for whoever listens. Nobody writes to the region any more.
    pub fn serve() -> ! {
        let (Some(core), Some(shared)) = (Core::try_this(), Shared::try_get()) else { Core::retire() };
        let wanted = console::is_open() || watchdog::is_active();
        let ready = core.id as usize == shared.boot_core && core.up.load(Ordering::Relaxed);
        // A fault in here ends here, too: the second time there is nothing left to say.
        if !wanted || !ready || SERVING.swap(true, Ordering::Relaxed) {
            Core::retire();
        }
        gic::keep_timer_only(core.redistributor, core.timer);
        let region = shared.status as u64 - offset_of!(Directory, status) as u64;
        let results = match RESULTS.load(Ordering::Relaxed) {
            code if code == Results::Summary as u8 => Results::Summary,
            code if code == Results::Console as u8 => Results::Console,
            _ => Results::None,
        };
        Sender::new(Target { region, awake_until: 0 }).run(results);
        Core::retire()
    }
}

#[cfg(test)]
mod tests {
    use core::mem::offset_of;
    use std::collections::VecDeque;

    use trace_ring::layout::{Shape, lay_out};
    use trace_ring::record::{Event, FLAG_DELIVERED};

    use super::*;

    const CORES: u64 = 2;
    const DESCRIPTORS: u64 = 14;
    const LOG2: u32 = 8;
    const NONCE: u64 = 0xC0FFEE;

    /// A region in a vector, a host that hears everything and says what it was told to say.
    struct Fake {
        region: Vec<u8>,
        heard: Vec<u8>,
        says: VecDeque<(usize, Vec<u8>)>,
        incoming: VecDeque<u8>,
    }

    impl Port for &mut Fake {
        fn read(&self, offset: u64, bytes: &mut [u8]) {
            bytes.copy_from_slice(&self.region[offset as usize..][..bytes.len()]);
        }

        fn put(&mut self, byte: u8) {
            self.heard.push(byte);
            if self.says.front().is_some_and(|(at, _)| *at <= self.heard.len()) {
                let (_, text) = self.says.pop_front().unwrap();
                self.incoming.extend(text);
            }
        }

        fn get(&mut self) -> Option<u8> {
            self.incoming.pop_front()
        }

        fn rest(&mut self) -> bool {
            match self.says.pop_front() {
                Some((_, text)) => self.incoming.extend(text),
                None => return false,
            }
            true
        }
    }

    fn text(line: Line<'_>) -> Vec<u8> {
        let mut text = [0; MOST_LINE];
        let length = line.encode(&mut text);
        text[..length].to_vec()
    }

    impl Fake {
        /// Two cores, lanes of 256 records of which 400 were written in the first core's thread lane and 300 in the second's IRQ
        /// lane: one IPI every 1000 ticks, with a latency of 10 ticks, but for message 350, which took 900.
        fn new() -> Self {
            let shape = Shape {
                cores: CORES,
                phases: 1,
                meta: 5,
                slots: 3,
                histograms: 1,
                descriptors: DESCRIPTORS,
                records: (CORES * 4) << LOG2,
            };
            let (sections, region_len) = lay_out(shape);
            let mut region = vec![0xEE; region_len as usize];
            region[..sections.records as usize].fill(0);
            let directory = Directory {
                magic: trace_ring::layout::MAGIC,
                nonce: NONCE,
                region_len,
                sections,
                core_count: CORES as u32,
                phase_count: 1,
                slot_count: 3,
                histogram_count: 1,
                descriptor_count: DESCRIPTORS as u32,
                meta_len: 5,
                log_stride: trace_ring::layout::LOG_STRIDE as u32,
                ..Directory::new_zeroed()
            };
            let mut fake = Fake { region, heard: Vec::new(), says: VecDeque::new(), incoming: VecDeque::new() };
            fake.write(0, directory.as_bytes());
            fake.write(sections.meta, b"{\"a\"}");
            for core in 0..CORES {
                let live = LiveEntry { since: 77 + core, waits_descriptor: 9, ..LiveEntry::default() };
                fake.write(sections.live + core * 64, live.as_bytes());
            }
            // The second core's last descriptor is in use, those before it never were.
            let call = CallDescriptor { next: 1, queued: 88, source: 1, ..CallDescriptor::default() };
            fake.write(sections.calls + (DESCRIPTORS - 1) * 64, call.as_bytes());
            for lane in 0..CORES * 4 {
                let descriptor = LaneDescriptor {
                    offset: sections.records + (lane << LOG2) * RECORD_BYTES,
                    log2_records: LOG2,
                    context: (lane % 4) as u16,
                    core: (lane / 4) as u16,
                    reserved: [0; 2],
                };
                fake.write(sections.lanes + lane * 32, descriptor.as_bytes());
            }
            for core in 0..CORES {
                let log = sections.logs + core * trace_ring::layout::LOG_STRIDE;
                let header = LogHeader { head: 100 * core, dropped: 0, capacity: 4096, reserved: [0; 5] };
                fake.write(log, header.as_bytes());
                fake.write(log + 64, &vec![0xAB; 100 * core as usize]);
            }
            let event = |t, kind, msg, arg| Event {
                t,
                kind,
                flags: FLAG_DELIVERED,
                peer: u16::from(kind == Kind::Send),
                msg,
                intid: 0,
                extra: 0,
                arg,
            };
            for index in 0..400 {
                fake.append(0, Context::Thread, index, event(1000 * index, Kind::Send, index as u32, 0));
            }
            for index in 100..400 {
                let late = if index == 350 { 900 } else { 10 };
                let event = event(1000 * index + late, Kind::Receive, index as u32, 1000 * index);
                fake.append(1, Context::Irq, index - 100, event);
            }
            fake
        }

        fn write(&mut self, offset: u64, bytes: &[u8]) {
            self.region[offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }

        fn append(&mut self, core: u64, context: Context, index: u64, event: Event) {
            self.write(self.record(core, context, index), event.words(index).as_bytes());
            self.write(self.sections().heads + core * 64 + context as u64 * 8, &(index + 1).to_le_bytes());
        }

        fn sections(&self) -> trace_ring::layout::Sections {
            Directory::read_from_prefix(&self.region).unwrap().0.sections
        }

        fn record(&self, core: u64, context: Context, index: u64) -> u64 {
            let lane = core * 4 + context as u64;
            self.sections().records + (lane << LOG2) * RECORD_BYTES + (index % (1 << LOG2)) * RECORD_BYTES
        }

        /// Runs the sender to its end; returns the lines that it sent, as (offset, bytes), and what `End` said.
        fn run(&mut self, results: Results) -> (Vec<(u64, Vec<u8>)>, Option<u64>) {
            Sender::new(&mut *self).run(results);
            let (mut pieces, mut end) = (Vec::new(), None);
            let mut scanner = Scanner::new();
            let mut begun = false;
            for byte in &self.heard {
                match scanner.push(*byte) {
                    Some(Line::Data { offset, bytes }) => pieces.push((offset, bytes.to_vec())),
                    Some(Line::Zeros { offset, length }) => pieces.push((offset, vec![0; length as usize])),
                    Some(Line::Begin { region_len, nonce }) => {
                        assert_eq!((region_len, nonce), (self.region.len() as u64, NONCE));
                        assert!(!begun && pieces.is_empty());
                        begun = true;
                    }
                    Some(Line::End { lines, nonce }) => {
                        assert_eq!(nonce, NONCE);
                        end = Some(lines);
                    }
                    Some(other) => panic!("{other:?}"),
                    None => {}
                }
            }
            assert_eq!(scanner.damaged(), 0);
            assert_eq!(begun, results != Results::None);
            for (offset, bytes) in &pieces {
                assert_eq!(&self.region[*offset as usize..][..bytes.len()], bytes, "at {offset:#x}");
            }
            (pieces, end)
        }
    }

    /// Which bytes of the region were told.
    fn told(fake: &Fake, pieces: &[(u64, Vec<u8>)]) -> Vec<bool> {
        let mut told = vec![false; fake.region.len()];
        for (offset, bytes) in pieces {
            told[*offset as usize..][..bytes.len()].fill(true);
        }
        told
    }

    #[test]
    fn a_summary_is_everything_that_counts_and_no_record() {
        let mut fake = Fake::new();
        let (pieces, end) = fake.run(Results::Summary);
        assert_eq!(end, Some(pieces.len() as u64));
        let (told, sections) = (told(&fake, &pieces), fake.sections());
        let all = |from: u64, length: u64| told[from as usize..][..length as usize].iter().all(|told| *told);
        assert!(all(0, sections.meta + 5), "directory to meta");
        assert!(all(sections.slots, 3 * 192));
        assert!(all(sections.histograms, HISTOGRAM_BYTES));
        assert!(all(sections.faults, CORES * 512));
        assert!(all(sections.truth, CORES * 64));
        assert!(all(sections.live, CORES * 64));
        assert!(all(sections.calls, DESCRIPTORS * 64));
        let unused = (DESCRIPTORS - 1) * 64;
        assert!(
            pieces.contains(&(sections.calls, vec![0; unused as usize])),
            "one line for those that were never used"
        );
        let second = sections.logs + trace_ring::layout::LOG_STRIDE;
        assert!(all(sections.logs, 64) && all(second, 64 + 100));
        assert!(!told[sections.logs as usize + 64], "nothing was logged there");
        assert!(!told[sections.records as usize..].iter().any(|told| *told));
        let bytes: usize = pieces.iter().map(|piece| piece.1.len()).sum();
        assert!(fake.heard.len() < bytes, "zeros are told, not sent: {} for {bytes}", fake.heard.len());
    }

    #[test]
    fn a_plan_that_does_not_call_sends_no_descriptors() {
        let mut fake = Fake::new();
        let (sections, at) = (fake.sections(), offset_of!(Directory, descriptor_count) as u64);
        fake.write(at, &0u32.to_le_bytes());
        let (pieces, _) = fake.run(Results::Summary);
        let told = told(&fake, &pieces);
        assert!(told[sections.live as usize..][..128].iter().all(|told| *told));
        assert!(!told[sections.calls as usize..][..DESCRIPTORS as usize * 64].iter().any(|told| *told));
    }

    #[test]
    fn all_published_records_are_sent_and_the_worst_trail_first() {
        let mut fake = Fake::new();
        let (pieces, end) = fake.run(Results::Console);
        assert_eq!(end, Some(pieces.len() as u64));
        let told = told(&fake, &pieces);
        for (core, context) in [(0, Context::Thread), (1, Context::Irq)] {
            let lane = fake.record(core, context, 0) as usize;
            assert!(told[lane..lane + (32 << LOG2)].iter().all(|told| *told));
        }
        assert!(!told[fake.record(0, Context::Irq, 0) as usize], "an empty lane");
        // Message 350 is record 250 of its receiver's lane and 350 of its sender's, which wraps at 256.
        let first = pieces.iter().position(|piece| piece.0 >= fake.sections().records).unwrap();
        assert_eq!(pieces[first].0, fake.record(1, Context::Irq, 250 - BEFORE));
        let receiver = fake.record(1, Context::Irq, 256);
        let next = pieces[first..].iter().find(|piece| piece.0 < receiver).map(|piece| piece.0);
        assert_eq!(next, Some(fake.record(0, Context::Thread, 350 - BEFORE)));
    }

    #[test]
    fn a_trail_over_the_end_of_a_lane_is_whole() {
        let mut fake = Fake::new();
        // A lane's slot 0 holds record 256: the trail of what came just before it lies at both ends.
        let event =
            |t, msg| Event { t, kind: Kind::Receive, flags: 8, peer: 0, msg, intid: 0, extra: 0, arg: t - 5000 };
        for index in 300..310 {
            fake.append(1, Context::Irq, index, event(1_000_000 + index, 1));
        }
        let (pieces, _) = fake.run(Results::Console);
        let first = pieces.iter().position(|piece| piece.0 >= fake.sections().records).unwrap();
        assert_eq!(pieces[first].0, fake.record(1, Context::Irq, 300 - BEFORE));
        assert!(pieces[first..].iter().any(|piece| piece.0 == fake.record(1, Context::Irq, 256)));
    }

    #[test]
    fn a_message_that_was_given_up_comes_before_the_late() {
        let mut fake = Fake::new();
        let event = Event { t: 398_500, kind: Kind::Retire, flags: 0, peer: 1, msg: 1, intid: 0, extra: 0, arg: 1 };
        fake.append(0, Context::Thread, 400, event);
        let (pieces, _) = fake.run(Results::Console);
        let first = pieces.iter().position(|piece| piece.0 >= fake.sections().records).unwrap();
        assert_eq!(pieces[first].0, fake.record(0, Context::Thread, 400 - BEFORE));
    }

    #[test]
    fn a_late_nmi_has_its_trail_at_both_ends() {
        let mut fake = Fake::new();
        let event =
            Event { t: 302_000, kind: Kind::Receive, flags: 8, peer: 0, msg: 300, intid: 7, extra: 0, arg: 300_000 };
        fake.append(1, Context::Nmi, 0, event);
        let (pieces, _) = fake.run(Results::Console);
        let first = pieces.iter().position(|piece| piece.0 >= fake.sections().records).unwrap();
        assert_eq!(pieces[first].0, fake.record(1, Context::Nmi, 0));
        assert_eq!(pieces[first + 1].0, fake.record(0, Context::Thread, 300 - BEFORE));
    }

    #[test]
    fn requests_are_answered_unasked_or_not_and_clipped_to_the_region() {
        let mut fake = Fake::new();
        let end = fake.region.len() as u64;
        let request = |offset, length| text(Line::Request { offset, length });
        fake.says.push_back((0, request(16, 16)));
        fake.says.push_back((0, request(end - 8, u64::MAX)));
        fake.says.push_back((0, [request(end, 8), request(u64::MAX, 8), request(5, 0)].concat()));
        fake.says.push_back((0, request(3, 100)));
        let (pieces, _) = fake.run(Results::None);
        let places: Vec<_> = pieces.iter().map(|(offset, bytes)| (*offset, bytes.len())).collect();
        assert_eq!(places, [(16, 16), (end - 8, 8), (3, 48), (51, 48), (99, 4)]);
    }

    #[test]
    fn a_request_in_the_middle_is_answered_there() {
        let mut fake = Fake::new();
        fake.says.push_back((1000, text(Line::Request { offset: 16, length: 16 })));
        let (pieces, end) = fake.run(Results::Summary);
        let at = pieces.iter().skip(1).position(|piece| piece.0 == 16).expect("an answer");
        assert!((8..pieces.len() - 8).contains(&at), "{at} of {}", pieces.len());
        assert_eq!(end, Some(pieces.len() as u64), "answers count");
    }

    #[test]
    fn more_requests_than_the_queue_holds_are_dropped() {
        let mut fake = Fake::new();
        let requests = (0..MOST_REQUESTS as u64 + 5).flat_map(|at| text(Line::Request { offset: at * 8, length: 8 }));
        fake.says.push_back((0, requests.collect()));
        let (pieces, _) = fake.run(Results::None);
        let places: Vec<_> = pieces.iter().map(|piece| piece.0).collect();
        assert_eq!(places, (0..MOST_REQUESTS as u64).map(|at| at * 8).collect::<Vec<_>>());
    }

    #[test]
    fn the_host_that_has_everything_makes_it_quiet_but_not_deaf() {
        let mut fake = Fake::new();
        fake.says.push_back((1000, text(Line::Done { nonce: NONCE + 1 })));
        fake.says.push_back((5000, text(Line::Done { nonce: NONCE })));
        fake.says.push_back((usize::MAX, text(Line::Request { offset: 8, length: 8 })));
        let (pieces, end) = fake.run(Results::Console);
        assert_eq!(end, None);
        assert!((4900..5300).contains(&fake.heard.len()), "{}", fake.heard.len());
        assert_eq!(pieces.last().map(|piece| (piece.0, piece.1.len())), Some((8, 8)));
    }

    #[test]
    fn a_region_that_makes_no_sense_is_not_read_outside() {
        let mut fake = Fake::new();
        let sections = fake.sections();
        fake.write(sections.lanes, &[0xFF; 64]);
        fake.write(sections.logs, &[0xFF; 64]);
        fake.write(sections.heads, &[0xFF; 32]);
        let (_, end) = fake.run(Results::Console);
        assert!(end.is_some());
    }
}
