//! The IPI path: a message into the mailbox, the SGI, the interrupt, the answer, the counts, the record.
//!
//! See `docs/design.md`, "Outcomes". Everything that may run in every IPI is `#[inline(always)]` into one function for each
//! way of recording, so that what is off costs nothing; everything rare is `#[cold]`. Instructions are counted in CI.
// UNSAFETY: mailboxes and pair slots are tables sized at boot, reached through raw pointers; each word has one writer.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use trace_ring::calls::doing;
use trace_ring::histogram;
use trace_ring::layout::{Context, HISTOGRAM_BYTES, PairSlot};
use trace_ring::mailbox;
use trace_ring::plan::{KIND_SGIS, LAST_MEASURED_SGI, SETTLING_TURNS, WAKE_SGI};
use trace_ring::record::{
    Event, FLAG_DELIVERED, FLAG_UNTIMED, Kind, PEER_ALL, PROBE_ACTIVE, PROBE_ENABLED, PROBE_PENDING, Retired,
    SLOT_SHIFT,
};

use crate::percore::{BARE, BROADCAST, CARE, Core, Mail, Pending, Shared, place};
use crate::{arch, calls, exception, gic, sgi, twins, watch};

/// How a routine records: nothing.
pub const OFF: u8 = 0;
/// One record a send, one an answer; lanes overwrite.
pub const IPI: u8 = 1;
/// The same, and lanes may turn records away.
pub const BOUNDED: u8 = 2;
/// As `BOUNDED`, with acknowledge and end of interrupt.
pub const STAGES: u8 = 3;

#[inline(always)]
fn emit<const MODE: u8>(core: &Core, context: Context, event: Event) {
    match MODE {
        OFF => {}
        IPI => core.lane(context).append(event),
        _ => core.lane(context).append_bounded(event),
    }
}

// --- receive --------------------------------------------------------------------------------------------------------

macro_rules! irq_handler {
    ($name:ident, $mode:expr) => {
        #[unsafe(no_mangle)]
        extern "C" fn $name(entry: u64, core: &'static Core) {
            receive::<{ $mode }>(entry, core);
        }
    };
}

// The vector tables call these by name (`vectors.s`).
irq_handler!(irq_off, OFF);
irq_handler!(irq_ipi, IPI);
irq_handler!(irq_bounded, BOUNDED);
irq_handler!(irq_stages, STAGES);

/// Answers one interrupt. `entry`: the counter as the vector's second instruction read it.
///
/// The common interrupt is answered here, without a call: one sender among the first 64 cores, one message with its own time,
/// sent before the entry. Everything else goes to [`receive_rare`] with what was taken out of the bitmap.
#[inline(always)]
fn receive<const MODE: u8>(entry: u64, core: &'static Core) {
    let acknowledged = sgi::acknowledge();
    let intid = acknowledged & 0xFF_FFFF;
    let hot = &core.hot;
    // The tables' own bound: what a faulty GIC or other firmware delivers must not lead out of them.
    if intid >= hot.sgi_count {
        return other_interrupt::<MODE>(entry, core, intid);
    }
    if MODE == STAGES {
        stage::<MODE>(core, 0, intid);
    }
    // SAFETY: this core has one pending line for each INTID below `sgi_count`, which was checked just now.
    let line = unsafe { &*((hot.pending + intid * size_of::<Pending>() as u64) as *const Pending) };
    // Acquire: pairs with the Release that set the bit; the mailbox word behind it is then visible.
    let senders = line.0[0].swap(0, Ordering::Acquire);
    if senders == 0 || senders & (senders - 1) != 0 {
        return receive_rare::<MODE>(entry, core, acknowledged, senders);
    }
    let sender = u64::from(senders.trailing_zeros());
    let (word, place) = take_mail(hot.mail + sender * hot.row_bytes + intid * size_of::<Mail>() as u64);
    let answered = hot.answered + (sender * hot.sgi_count + intid) * 4;
    // SAFETY: this core's answered row has a place for every sender and SGI.
    let answered = unsafe { &*(answered as *const AtomicU32) };
    let number = answered.load(Ordering::Relaxed).wrapping_add(1);
    let age = mailbox::age(word, entry);
    if !mailbox::is_number(word, number) || age < 0 || place & CARE != 0 {
        return receive_rare::<MODE>(entry, core, acknowledged, senders);
    }
    let age = age as u64;
    let slot = (hot.slots + u64::from(place as u32)) as *mut PairSlot;
    let counters = (hot.histograms + (place >> 32) * HISTOGRAM_BYTES) as *mut u32;
    // SAFETY: the place names a slot and a histogram of the region (`percore::place`), of which this core is the one writer.
    unsafe {
        (*slot).delivered += 1;
        count_latency(slot, age);
        count_bucket(counters, age);
    }
    if MODE >= BOUNDED && age > Shared::get().trigger {
        fire(core);
    }
    if MODE != OFF {
        // The words of Event::words, the constant parts prepared: kind and flags in the template, `peer` and `intid` shifted in.
        let head = hot.template.get() + (sender << 48);
        let tail = u64::from(number) + (intid << 32);
        emit_words::<MODE>(core, Context::Irq, [entry, head, tail, entry.wrapping_sub(age)]);
    }
    // Release: pairs with the Acquire of the waiting sender. It comes before the end of interrupt, as the rival's flag does.
    answered.store(number, Ordering::Release);
    sgi::end_of_interrupt(acknowledged);
    if MODE == STAGES {
        stage::<MODE>(core, 1, intid);
    }
}

#[inline(always)]
fn emit_words<const MODE: u8>(core: &Core, context: Context, words: [u64; 4]) {
    match MODE {
        OFF => {}
        IPI => core.lane(context).append_words(words),
        _ => core.lane(context).append_words_bounded(words),
    }
}

/// Word and place of a mailbox in one load of a pair; each half is single-copy atomic.
#[inline(always)]
fn take_mail(mail: u64) -> (u64, u64) {
    let (word, place): (u64, u64);
    // SAFETY: `mail` lies in the mailbox table.
    unsafe {
        core::arch::asm!("ldp {}, {}, [{}]", out(reg) word, out(reg) place, in(reg) mail, options(nostack, preserves_flags, readonly));
    }
    (word, place)
}

/// The other interrupts: several senders, several messages of one sender, one answered early, a broadcast, more than 64
/// cores, none at all. `senders`: what was already taken out of the first word of the bitmap.
#[cold]
#[inline(never)]
fn receive_rare<const MODE: u8>(entry: u64, core: &'static Core, acknowledged: u64, senders: u64) {
    let intid = acknowledged & 0xFF_FFFF;
    let line = core.pending(core.id, intid);
    let mut flags = core.receive_flags();
    let mut senders = senders;
    for word in 0..core.layout.words as usize {
        if word > 0 && line.0[word].load(Ordering::Relaxed) != 0 {
            senders = line.0[word].swap(0, Ordering::Acquire); // as in `receive`
        }
        while senders != 0 {
            let sender = word as u64 * 64 + u64::from(senders.trailing_zeros());
            senders &= senders - 1;
            flags = answer::<MODE>(core, sender, intid, entry, flags, Context::Irq);
        }
    }
    if flags & FLAG_DELIVERED != 0 {
        empty_acknowledge::<MODE>(entry, core, intid);
    }
    sgi::end_of_interrupt(acknowledged);
    if MODE == STAGES {
        stage::<MODE>(core, 1, intid);
    }
}

/// # Safety
///
/// `slot` must be one of the region's, and this core its receiver.
#[inline(always)]
unsafe fn count_latency(slot: *mut PairSlot, latency: u64) {
    // SAFETY: by the caller's word.
    unsafe {
        (*slot).sum = (*slot).sum.wrapping_add(latency);
        if latency < (*slot).min {
            (*slot).min = latency;
        }
        if latency > (*slot).max {
            (*slot).max = latency;
        }
    }
}

/// # Safety
///
/// `counters` must be a histogram of the region, and this core its receiver.
#[inline(always)]
unsafe fn count_bucket(counters: *mut u32, latency: u64) {
    let counter = counters.wrapping_add(histogram::bucket(latency));
    // SAFETY: a bucket's index is below the histogram's stride. A counter that reaches its top stays there; the host sees
    // u32::MAX and says so.
    unsafe { *counter = (*counter).saturating_add(1) };
}

/// Whether anybody's message to this core on an INTID waits for an answer.
pub fn is_asked(core: &'static Core, intid: u64) -> bool {
    let line = core.pending(core.id, intid);
    line.0.iter().take(core.layout.words as usize).any(|word| word.load(Ordering::Acquire) != 0)
}

/// Answers all messages of all senders to this core on an INTID, in whatever context it is. `flags`: of the records. `false`:
/// there was none.
pub fn answer_all(core: &'static Core, intid: u64, entry: u64, flags: u8, context: Context) -> bool {
    let line = core.pending(core.id, intid);
    let mut flags = flags | FLAG_DELIVERED;
    for word in 0..core.layout.words as usize {
        if line.0[word].load(Ordering::Relaxed) == 0 {
            continue;
        }
        let mut senders = line.0[word].swap(0, Ordering::Acquire); // as in `receive`
        while senders != 0 {
            let sender = word as u64 * 64 + u64::from(senders.trailing_zeros());
            senders &= senders - 1;
            flags = match Shared::get().mode {
                OFF => answer::<OFF>(core, sender, intid, entry, flags, context),
                _ => answer::<BOUNDED>(core, sender, intid, entry, flags, context),
            };
        }
    }
    flags & FLAG_DELIVERED == 0
}

/// Answers all messages of one sender; returns the flags for the next. `flags` holds `FLAG_DELIVERED` until one message of
/// this acknowledge was counted as delivered.
fn answer<const MODE: u8>(core: &'static Core, sender: u64, intid: u64, entry: u64, flags: u8, context: Context) -> u8 {
    let (word, place) = take_mail(core.mail(sender, core.id, intid) as u64);
    let answered = core.answered(core.id, sender, intid);
    let last = answered.load(Ordering::Relaxed);
    let count = mailbox::messages_since(word, last);
    if count == 0 {
        return flags; // answered with the message before it: its word was there, its bit was not yet set
    }
    let (age, timed) = if place & BROADCAST != 0 {
        let sent = core.row_head(sender).broadcast_time.load(Ordering::Relaxed);
        let age = if sent == 0 { 0 } else { entry.wrapping_sub(sent) as i64 };
        (age, sent != 0 && age >= 0)
    } else {
        let age = mailbox::age(word, entry);
        (age, age >= 0)
    };
    let delivered = flags & FLAG_DELIVERED != 0;
    let slot = (core.hot.slots + u64::from(place as u32)) as *mut PairSlot;
    // SAFETY: as in `receive`.
    unsafe {
        if delivered {
            (*slot).delivered += 1;
            if !timed {
                (*slot).timed_adjust = (*slot).timed_adjust.wrapping_sub(1);
            }
        } else {
            (*slot).coalesced += 1;
            if timed {
                (*slot).timed_adjust = (*slot).timed_adjust.wrapping_add(1);
            }
        }
        (*slot).coalesced += u64::from(count) - 1;
        if timed {
            count_latency(slot, age as u64);
            if place & BARE == 0 {
                let index = place >> 32 & 0xFF_FFFF;
                count_bucket((core.hot.histograms + index * HISTOGRAM_BYTES) as *mut u32, age as u64);
            }
        }
    }
    if age < 0 && age + (twins::now(core).wrapping_sub(entry) as i64) < 0 {
        // Not only the entry, which another interrupt may have caused: this very moment lies before the message that is here.
        // SAFETY: this core's own entry.
        unsafe { (*core.entry).untimed += 1 };
    }
    let number = last.wrapping_add(count);
    emit::<MODE>(
        core,
        context,
        Event {
            t: entry,
            kind: Kind::Receive,
            flags: if timed { flags } else { flags | FLAG_UNTIMED },
            peer: sender as u16,
            msg: number,
            intid: intid as u8,
            extra: u8::try_from(count - 1).unwrap_or(u8::MAX),
            arg: if timed { entry.wrapping_sub(age as u64) } else { 0 },
        },
    );
    if MODE != OFF && timed && age as u64 > Shared::get().trigger {
        fire(core);
    }
    answered.store(number, Ordering::Release); // as in `receive`
    flags & !FLAG_DELIVERED
}

/// Policy `trigger`: this core's lanes go on for half a ring.
#[cold]
fn fire(core: &Core) {
    for lane in &core.lanes {
        lane.fire();
    }
}

#[cold]
#[inline(never)]
fn empty_acknowledge<const MODE: u8>(entry: u64, core: &'static Core, intid: u64) {
    // SAFETY: this core's own entry.
    unsafe { (*core.entry).empty_acknowledges += 1 };
    let event = Event {
        t: entry,
        kind: Kind::ReceiveEmpty,
        flags: core.receive_flags() & !FLAG_DELIVERED,
        peer: PEER_ALL,
        msg: 0,
        intid: intid as u8,
        extra: 0,
        arg: 0,
    };
    emit::<MODE>(core, Context::Irq, event);
}

/// Wake-ups, the timer, and what nobody handles.
#[cold]
#[inline(never)]
pub fn other_interrupt<const MODE: u8>(entry: u64, core: &'static Core, intid: u64) {
    if intid >= 1020 {
        // SAFETY: this core's own entry.
        unsafe { (*core.entry).spurious_intids += 1 };
        let event = Event {
            t: twins::stamp(core, entry),
            kind: Kind::SpuriousIntid,
            flags: 0,
            peer: PEER_ALL,
            msg: intid as u32,
            intid: 0xFF,
            extra: 0,
            arg: 0,
        };
        return emit::<MODE>(core, Context::Irq, event); // special INTIDs are not ended
    }
    if intid <= u64::from(LAST_MEASURED_SGI) {
        // An SGI that the plan does not use: nobody of ours sent it.
        empty_acknowledge::<MODE>(twins::stamp(core, entry), core, intid);
        return sgi::end_of_interrupt(intid);
    }
    // LPIs are of devices that an earlier owner of the machine set up, and often can't be turned off: they are counted.
    const FIRST_LPI: u64 = 8192;
    if (u64::from(KIND_SGIS)..FIRST_LPI).contains(&intid) && intid != u64::from(core.timer) {
        // Ended first: while it is active, nothing of its priority wakes this core.
        sgi::end_of_interrupt(intid);
        exception::unhandled(intid);
    }
    // SAFETY: this core's own entry.
    unsafe { (*core.entry).other_interrupts += 1 };
    watch::note(core, Context::Irq, entry);
    if intid == u64::from(core.timer) {
        crate::wait::timer_interrupt(core, entry);
    }
    sgi::end_of_interrupt(intid);
}

#[cold]
#[inline(never)]
fn stage<const MODE: u8>(core: &Core, which: u8, intid: u64) {
    let t = twins::now(core);
    let event =
        Event { t, kind: Kind::Stage, flags: 0, peer: PEER_ALL, msg: 0, intid: intid as u8, extra: which, arg: 0 };
    emit::<MODE>(core, Context::Irq, event);
}

/// The vector table of machines of more than 64 cores: everything is looked for in all words of the bitmap.
#[unsafe(no_mangle)]
extern "C" fn irq_wide(entry: u64, core: &'static Core) {
    match Shared::get().mode {
        OFF => receive_wide::<OFF>(entry, core),
        IPI => receive_wide::<IPI>(entry, core),
        STAGES => receive_wide::<STAGES>(entry, core),
        _ => receive_wide::<BOUNDED>(entry, core),
    }
}

fn receive_wide<const MODE: u8>(entry: u64, core: &'static Core) {
    receive_acknowledged::<MODE>(entry, core, sgi::acknowledge());
}

fn receive_acknowledged<const MODE: u8>(entry: u64, core: &'static Core, acknowledged: u64) {
    let intid = acknowledged & 0xFF_FFFF;
    if intid >= core.hot.sgi_count {
        return other_interrupt::<MODE>(entry, core, intid); // as in `receive`
    }
    if MODE == STAGES {
        stage::<MODE>(core, 0, intid);
    }
    let senders = core.pending(core.id, intid).0[0].swap(0, Ordering::Acquire); // as in `receive`
    receive_rare::<MODE>(entry, core, acknowledged, senders);
}

/// The vector table of a core with a twin on its receive side calls this. `entry` is the true one; the twin's may be another.
#[unsafe(no_mangle)]
extern "C" fn irq_twin(entry: u64, core: &'static Core) {
    watch::note(core, Context::Irq, entry);
    // Before the acknowledge: to everybody else a late core has the SGI pending.
    let next = sgi::highest_pending();
    let taken = if twins::is_measured(core, next) { twins::before(core, entry, next) } else { entry };
    let acknowledged = sgi::acknowledge();
    let intid = acknowledged & 0xFF_FFFF;
    let measured = twins::is_measured(core, intid);
    let stamp = if measured { twins::stamp(core, taken) } else { entry };
    match Shared::get().mode {
        OFF => receive_acknowledged::<OFF>(stamp, core, acknowledged),
        STAGES => receive_acknowledged::<STAGES>(stamp, core, acknowledged),
        _ => receive_acknowledged::<BOUNDED>(stamp, core, acknowledged),
    }
    if measured {
        twins::after(core, intid);
    } else {
        twins::let_through(core);
    }
    core.watch.was_busy();
}

// --- send -----------------------------------------------------------------------------------------------------------

/// One sender's messages to one target on one INTID, ready to go.
pub struct Series {
    /// The mailbox.
    pub mail: &'static Mail,
    /// Number of the newest message.
    pub number: &'static AtomicU32,
    answered: &'static AtomicU32,
    /// The target's bitmap, and this sender's bit in it.
    pub pending: &'static AtomicU64,
    /// See above.
    pub bit: u64,
    /// The pair slot.
    pub slot: *mut PairSlot,
    slot_index: u32,
    target: &'static Core,
    intid: u8,
    /// A fault twin may touch them.
    pub twins: bool,
}

impl Series {
    /// Finds everything, and says in the mailbox where the messages are counted.
    pub fn new(core: &'static Core, target: &'static Core, intid: u8, slot_index: u32, broadcast: bool) -> Self {
        let column = u64::from(intid);
        // SAFETY: the mailbox table lives for ever.
        let mail = unsafe { &*core.mail(core.id, target.id, column) };
        // SAFETY: the constant part of a slot.
        let histogram = unsafe { (*core.slot(slot_index.into())).histogram };
        mail.place.store(place(slot_index, histogram, broadcast), Ordering::Relaxed); // seen with the next message's bit
        Series {
            mail,
            number: core.number(target.id, column),
            answered: core.answered(target.id, core.id, column),
            pending: &core.pending(target.id, column).0[core.id as usize / 64],
            bit: 1 << (core.id % 64),
            slot: core.slot(slot_index.into()),
            slot_index,
            target,
            intid,
            twins: twins::concerns(core, target),
        }
    }

    /// Whether this message was answered, or given up.
    pub fn is_answered(&self, number: u32) -> bool {
        self.answered.load(Ordering::Acquire) == number
    }
}

/// How a message is sent when an operation says so.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Each message waits for its answer.
    ForAnswer,
    /// None waits.
    No,
}

/// Sends `count` messages to `target`, waiting for each answer or not.
pub fn send_series(core: &'static Core, target: &'static Core, intid: u8, slot: u32, count: u32, waiting: Waiting) {
    let series = Series::new(core, target, intid, slot, false);
    send_prepared(core, &series, count, waiting, core.dither.get() != 0);
}

/// The same, with all that can be found before found. `dithered`: as DITHER says.
#[inline(always)]
pub fn send_prepared(core: &'static Core, series: &Series, count: u32, waiting: Waiting, dithered: bool) {
    let wait = waiting == Waiting::ForAnswer;
    let dithered = wait && dithered;
    match (series.twins, wait, Shared::get().mode) {
        // The twins' routine is their own; the others hold no trace of it.
        (true, _, OFF) => run::<OFF, TWIN>(core, series, count, wait, dithered),
        (true, ..) => run::<BOUNDED, TWIN>(core, series, count, wait, dithered),
        (false, true, OFF) if dithered => run::<OFF, DITHERED>(core, series, count, true, true),
        (false, true, IPI) if dithered => run::<IPI, DITHERED>(core, series, count, true, true),
        (false, true, _) if dithered => run::<BOUNDED, DITHERED>(core, series, count, true, true),
        (false, true, IPI) => ping_traced(core, series, count),
        (false, true, OFF) => ping_untraced(core, series, count),
        (false, _, OFF) => run::<OFF, PLAIN>(core, series, count, wait, false),
        (false, _, IPI) => run::<IPI, PLAIN>(core, series, count, wait, false),
        (false, ..) => run::<BOUNDED, PLAIN>(core, series, count, wait, false),
    }
}

/// A series as it should be.
const PLAIN: u8 = 0;
/// A series with a random time before each message.
const DITHERED: u8 = 1;
/// A series that fault twins may touch.
const TWIN: u8 = 2;

/// Goes through [`SETTLING_TURNS`] of an empty loop and a random number more, up to what DITHER said. YIELD is left out: it may take
/// any time.
#[inline(never)]
fn dither(core: &Core) {
    let most = u64::from(core.dither.get());
    let mut state = core.random.get();
    let turns = ((twins::draw(&mut state) >> 32) * (most + 1)) >> 32;
    core.random.set(state);
    for _ in 0..u64::from(SETTLING_TURNS) + turns {
        arch::no_operation();
    }
}

#[inline(never)]
fn ping_traced(core: &'static Core, series: &Series, count: u32) {
    run::<IPI, PLAIN>(core, series, count, true, false);
}

#[inline(never)]
fn ping_untraced(core: &'static Core, series: &Series, count: u32) {
    run::<OFF, PLAIN>(core, series, count, true, false);
}

#[inline(always)]
fn run<const MODE: u8, const WAY: u8>(core: &'static Core, series: &Series, count: u32, wait: bool, dithered: bool) {
    let value = sgi::to_core(series.target.affinity, series.intid);
    let send_tail = Event {
        t: 0,
        kind: Kind::Send,
        flags: 0,
        peer: series.target.id as u16,
        msg: 0,
        intid: series.intid,
        extra: 0,
        arg: u64::from(series.slot_index) << SLOT_SHIFT,
    };
    let begun = arch::counter_ordered();
    let mut number = series.number.load(Ordering::Relaxed);
    // SAFETY: `sent` and `busy` of this slot have this core as their one writer.
    let mut sent = unsafe { (*series.slot).sent };
    let goal = sent + u64::from(count);
    while sent != goal {
        if WAY == DITHERED || WAY == TWIN && dithered {
            dither(core);
        }
        number = number.wrapping_add(1);
        sent += 1;
        // Drawn before the stamp: what the twins are costs the message nothing, only what they do.
        let fate = (WAY == TWIN).then(|| twins::fate(core, series.target));
        let fate = fate.map(|fate| (fate.hold, fate.value(series.intid)));
        let since = arch::counter_ordered();
        let before = if WAY == TWIN { twins::stamp(core, since) } else { since };
        series.mail.word.store(mailbox::pack(before, number), Ordering::Relaxed);
        // Release: pairs with the receiver's swap; the word above is visible with the bit.
        series.pending.fetch_or(series.bit, Ordering::Release);
        match fate {
            Some((hold, value)) => send_by_fate(core, hold, value),
            None => sgi::send(value),
        }
        let window = arch::counter().wrapping_sub(since);
        // SAFETY: as above. Volatile: the host may look at any time.
        unsafe { core::ptr::addr_of_mut!((*series.slot).sent).write_volatile(sent) };
        // A window of 2^40 ticks lies beyond every deadline.
        emit::<MODE>(core, Context::Thread, Event { t: before, msg: number, arg: send_tail.arg + window, ..send_tail });
        // Acquire: pairs with the Release of the answer.
        if wait && series.answered.load(Ordering::Acquire) != number {
            arch::yield_now();
            if series.answered.load(Ordering::Acquire) != number {
                series.number.store(number, Ordering::Relaxed);
                if !wait_for_answer(core, series, since) {
                    break;
                }
            }
        }
    }
    series.number.store(number, Ordering::Relaxed);
    // SAFETY: as above.
    unsafe { (*series.slot).busy += arch::counter_ordered().wrapping_sub(begun) };
}

/// Sends an SGI as the twins of this core have it: after so many ticks, by that value of ICC_SGI1R_EL1 or not at all.
#[inline(always)]
pub fn send_by_fate(core: &'static Core, hold: u64, value: Option<u64>) {
    twins::hold_back(core, hold);
    match value {
        Some(value) => sgi::send(value),
        None => arch::publish_stores(),
    }
}

/// Polls for the answer to the newest message; looks at the target's redistributor once, and retires the message after T.
/// `false`: the run is to end.
#[inline(never)]
pub fn wait_for_answer(core: &'static Core, series: &Series, since: u64) -> bool {
    let shared = Shared::get();
    let number = series.number.load(Ordering::Relaxed);
    let mut probed = false;
    let mut polls = 0u32;
    let mut deadline = shared.timeout;
    loop {
        if series.answered.load(Ordering::Acquire) == number {
            if polls >= 16 {
                calls::say_running(core);
            }
            return true;
        }
        if shared.abort.load(Ordering::Relaxed) != 0 {
            return false;
        }
        arch::yield_now();
        polls = polls.wrapping_add(1);
        if !polls.is_multiple_of(16) {
            continue;
        }
        if polls == 16 {
            calls::say(core, doing::ANSWER, series.target.id as u16, 0, 0);
        }
        let waited = arch::counter().wrapping_sub(since);
        if !probed && waited > shared.probe {
            probed = true;
            probe(core, series, number);
        }
        if waited > deadline {
            // An SGI that is on its way is not lost: somebody keeps the core from taking it. Look again after another T.
            if waited < shared.patience && look(series) & (PROBE_PENDING | PROBE_ACTIVE) != 0 {
                deadline += shared.timeout;
                continue;
            }
            retire(core, series, number);
            return true;
        }
    }
}

/// What the target's redistributor says, as the bits of a record.
fn look(series: &Series) -> u64 {
    let (enabled, pending, active) = gic::look_at(series.target.redistributor, series.intid.into());
    let bit = |set: bool, bit: u64| if set { bit } else { 0 };
    bit(enabled, PROBE_ENABLED) | bit(pending, PROBE_PENDING) | bit(active, PROBE_ACTIVE)
}

fn evidence(core: &Core, series: &Series, kind: Kind, extra: u8, number: u32, arg: u64) {
    if Shared::get().mode != OFF {
        let t = twins::now(core);
        let peer = series.target.id as u16;
        let event = Event { t, kind, flags: 0, peer, msg: number, intid: series.intid, extra, arg };
        core.lane(Context::Thread).append_bounded(event);
    }
}

#[cold]
#[inline(never)]
fn probe(core: &'static Core, series: &Series, number: u32) {
    let seen = look(series);
    if series.is_answered(number) {
        return; // meanwhile: a core that parks after its answer has all disabled, which says nothing of this message
    }
    // SAFETY: the probe counters of this slot have this core as their one writer.
    unsafe {
        let slot = series.slot;
        if seen & PROBE_ACTIVE != 0 {
            (*slot).probes_active += 1;
        } else if seen & PROBE_PENDING == 0 {
            (*slot).probes_absent += 1;
        } else if seen & PROBE_ENABLED == 0 {
            (*slot).probes_masked += 1;
        } else {
            (*slot).probes_pending += 1;
        }
    }
    evidence(core, series, Kind::Probe, 0, number, seen);
}

/// Takes unanswered messages back. Whoever clears the bit owns them: if it was still set, no receiver has seen it since.
#[cold]
#[inline(never)]
fn retire(core: &'static Core, series: &Series, number: u32) {
    let shared = Shared::get();
    // AcqRel: our reads below come after it, and a receiver that swaps later sees what we write to `answered`.
    let taken = series.pending.fetch_and(!series.bit, Ordering::AcqRel) & series.bit != 0;
    // A handler that is under way may hold a bit swapped out before, or read the newest word with an older bit. It is under
    // way while the SGI is active; until that ends the count is not final.
    let deadline = arch::counter() + shared.timeout;
    let mut seen = look(series);
    while (seen & PROBE_ACTIVE != 0 || !taken)
        && series.answered.load(Ordering::Acquire) != number
        && arch::counter() < deadline
    {
        arch::yield_now();
        seen = look(series);
    }
    let missing = number.wrapping_sub(series.answered.load(Ordering::Acquire));
    if missing == 0 || missing > i32::MAX as u32 {
        return; // answered after all
    }
    if !taken || seen & PROBE_ACTIVE != 0 {
        // A handler that does not end still owns what it took, and may have read the newest word: counting the messages here
        // could count them twice. They stay open: it answers them, or the next wait for this target finds it gone.
        if taken {
            series.pending.fetch_or(series.bit, Ordering::Release);
        }
        return;
    }
    let idle = seen & (PROBE_ENABLED | PROBE_PENDING) == PROBE_ENABLED;
    let reason = if idle { Retired::Lost } else { Retired::Unknown };
    // The numbers are used up: the receiver must not count them with the next message.
    series.answered.store(number, Ordering::Release);
    // SAFETY: `lost` and `unknown` of this slot have this core as their one writer.
    unsafe {
        match reason {
            Retired::Lost => (*series.slot).lost += u64::from(missing),
            Retired::Unknown => (*series.slot).unknown += u64::from(missing),
        }
    }
    evidence(core, series, Kind::Retire, reason.code(), number, seen | u64::from(missing));
}

/// Sends `count` broadcasts and waits for all answers to each. `slot`: that of core 0.
pub fn broadcast(core: &'static Core, intid: u8, slot: u32, count: u32) {
    let shared = Shared::get();
    let value = sgi::to_others(intid);
    let row = core.row_head(core.id);
    let others = || shared.live_cores().filter(|other| other.id != core.id);
    for _ in 0..count {
        // Until the time stands there, a receiver that looks early has no time to take.
        row.broadcast_time.store(0, Ordering::Relaxed);
        for target in others() {
            let series = Series::new(core, target, intid, slot + target.id as u32, true);
            let number = series.number.load(Ordering::Relaxed).wrapping_add(1);
            series.number.store(number, Ordering::Relaxed);
            series.mail.word.store(mailbox::pack(0, number), Ordering::Relaxed);
            series.pending.fetch_or(series.bit, Ordering::Release); // as in `run`
            // SAFETY: as in `run`.
            unsafe { (*series.slot).sent += 1 };
        }
        let broadcasts = row.broadcasts.load(Ordering::Relaxed).wrapping_add(1);
        row.broadcasts.store(broadcasts, Ordering::Relaxed);
        let begun = arch::counter_ordered();
        let before = twins::stamp(core, begun);
        row.broadcast_time.store(before, Ordering::Relaxed);
        twins::hold_back(core, twins::broadcast_hold(core));
        sgi::send(value);
        let window = arch::counter().wrapping_sub(begun);
        if shared.mode != OFF {
            core.lane(Context::Thread).append_bounded(Event {
                t: before,
                kind: Kind::Send,
                flags: 0,
                peer: PEER_ALL,
                msg: broadcasts,
                intid,
                extra: 0,
                arg: (u64::from(slot) << SLOT_SHIFT) + window,
            });
        }
        for target in others() {
            if !wait_for_answer(core, &Series::new(core, target, intid, slot + target.id as u32, true), begun) {
                return;
            }
        }
    }
}

/// Waits until all that this core has sent was answered, or retires it.
pub fn settle(core: &'static Core) {
    let shared = Shared::get();
    let since = arch::counter();
    for target in shared.live_cores() {
        for intid in 0..core.layout.sgi_count {
            if core.answered(target.id, core.id, intid).load(Ordering::Acquire)
                == core.number(target.id, intid).load(Ordering::Relaxed)
            {
                continue;
            }
            // SAFETY: the mailbox table lives for ever.
            let place = unsafe { &*core.mail(core.id, target.id, intid) }.place.load(Ordering::Relaxed);
            let slot = place as u32 / size_of::<PairSlot>() as u32;
            let series = Series::new(core, target, intid as u8, slot, place & BROADCAST != 0);
            if !wait_for_answer(core, &series, since) {
                return;
            }
        }
    }
}

// --- wake-ups -------------------------------------------------------------------------------------------------------

/// Makes a core look up from its wait.
pub fn wake(target: &Core) {
    bump(&target.inbox.attention);
    sgi::send(sgi::to_core(target.affinity, WAKE_SGI));
}

/// Makes all other cores look up.
pub fn wake_all() {
    for other in Shared::get().live_cores() {
        bump(&other.inbox.attention);
    }
    sgi::send(sgi::to_others(WAKE_SGI));
}

/// Release: what was changed before is visible to whoever sees the new number.
fn bump(attention: &AtomicU32) {
    attention.fetch_add(1, Ordering::Release);
}
