//! The call single queue under the model checker: who pushes on an empty queue sends the SGI, and no call is left behind.
//!
//! `CallQueue` and `reverse` are trace-ring's own source, built with loom's atomics. What the models add is what stands around
//! a queue: descriptors with a payload and a lock, and the SGI, which is a pending bit that sending sets and acknowledging
//! clears. A core that acknowledged takes the whole queue, and takes no other look at it until the next SGI: so a descriptor
//! that is left on the queue while no SGI is pending would wait for ever. That, a payload that is not the one of the push, a
//! descriptor that comes twice or never, and an order that is not that of the pushes: each fails a model.
//!
//! The barriers around the SGI are part of what makes the queue right: a push reads the zero of a take, but does not
//! synchronize with it. What puts its SGI behind the acknowledge is the DSB that follows the acknowledge on the target.
//!
//! A model that can't fail proves nothing. So the same models run without that barrier, with a target that takes before it
//! acknowledges, with one that unlocks a descriptor before it has read it, and with queues that have one thing wrong;
//! each must be caught.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64 as Most;

use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use loom::thread;
use trace_ring_under_loom::calls::{CallQueue, reverse};

/// What the models ask of a queue: the shipped one, and copies with a fault.
trait Queue: Send + Sync + 'static {
    fn push(&self, index: u32, next: &AtomicU64) -> bool;
    fn take(&self) -> u64;
}

impl Queue for CallQueue {
    fn push(&self, index: u32, next: &AtomicU64) -> bool {
        CallQueue::push(self, index, next)
    }

    fn take(&self) -> u64 {
        CallQueue::take(self)
    }
}

/// A copy of the shipped queue, of which one thing can be made wrong.
struct Copied {
    head: AtomicU64,
    /// Order of the exchange that publishes.
    exchange: Ordering,
    /// Order of the exchange that takes.
    take: Ordering,
    /// Whether the first look at the head decides about sending, and not the look that the exchange succeeded with.
    hasty: bool,
}

impl Copied {
    /// One that is right.
    fn right() -> Self {
        Copied { head: AtomicU64::new(0), exchange: Ordering::Release, take: Ordering::Acquire, hasty: false }
    }
}

impl Queue for Copied {
    fn push(&self, index: u32, next: &AtomicU64) -> bool {
        let looked = self.head.load(Ordering::Relaxed);
        let mut first = looked;
        loop {
            next.store(first, Ordering::Relaxed);
            match self.head.compare_exchange_weak(first, u64::from(index) + 1, self.exchange, Ordering::Relaxed) {
                Ok(_) => return if self.hasty { looked == 0 } else { first == 0 },
                Err(now) => first = now,
            }
        }
    }

    fn take(&self) -> u64 {
        self.head.swap(0, self.take)
    }
}

/// In which order caller and target do what they do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// As the firmware: acknowledge, barrier, take, run; and a descriptor is read before it is unlocked.
    Right,
    /// Has no barrier behind the acknowledge.
    WithoutBarrier,
    /// Takes before it acknowledges.
    TakesFirst,
    /// Unlocks a descriptor before it has read it.
    UnlocksFirst,
    /// The caller fills the descriptor when it has pushed it.
    FillsLast,
}

/// A link that no push has written yet.
const UNWRITTEN: u64 = u64::MAX;

/// What a model keeps of a descriptor.
struct Descriptor {
    link: AtomicU64,
    payload: AtomicU64,
    /// Set by the caller, cleared by the target, as `call_flag::LOCK` is.
    locked: AtomicBool,
}

/// A core that is called, and the descriptors of those that call it.
struct Target<Q> {
    queue: Q,
    /// The SGI: pending at the target.
    pending: AtomicBool,
    descriptors: Vec<Descriptor>,
    order: Order,
}

impl<Q: Queue> Target<Q> {
    /// A target for so many descriptors, whose links hold `link` before their first push.
    fn new(queue: Q, descriptors: usize, link: u64, order: Order) -> Arc<Self> {
        let descriptor =
            |_| Descriptor { link: AtomicU64::new(link), payload: AtomicU64::new(0), locked: AtomicBool::new(false) };
        let (pending, descriptors) = (AtomicBool::new(false), (0..descriptors).map(descriptor).collect());
        Arc::new(Target { queue, pending, descriptors, order })
    }

    /// Calls: fills the descriptor, locks it, pushes it and sends the SGI if the push says so. Returns what it said.
    fn call(&self, index: u32, payload: u64) -> bool {
        let descriptor = &self.descriptors[index as usize];
        descriptor.locked.store(true, Ordering::Relaxed);
        if self.order != Order::FillsLast {
            descriptor.payload.store(payload, Ordering::Relaxed);
        }
        let send = self.queue.push(index, &descriptor.link);
        if self.order == Order::FillsLast {
            descriptor.payload.store(payload, Ordering::Relaxed);
        }
        if send {
            // Release: the DSB ISHST before ICC_SGI1R_EL1; pairs with the fence behind the acknowledge. Acquire: that register is
            // not written before the branch on what the push said; pairs with the same fence, which the take read by the push
            // stands behind.
            fence(Ordering::AcqRel);
            self.pending.store(true, Ordering::Relaxed);
        }
        send
    }

    /// Whether the target is done with a descriptor, and its caller may use it again.
    fn is_free(&self, index: u32) -> bool {
        // Acquire: pairs with the Release of the unlock.
        !self.descriptors[index as usize].locked.load(Ordering::Acquire)
    }

    /// One look at the SGI; if it is pending, all that its handler does.
    fn interrupt(&self, seen: &mut Seen) {
        let newest = if self.order == Order::TakesFirst {
            if !self.pending.load(Ordering::Relaxed) {
                return;
            }
            fence(Ordering::AcqRel);
            let newest = self.queue.take();
            self.pending.store(false, Ordering::Relaxed);
            newest
        } else {
            // Who finds nothing pending leaves no trace: an exchange, not a swap.
            if self.pending.compare_exchange(true, false, Ordering::Relaxed, Ordering::Relaxed).is_err() {
                return;
            }
            if self.order != Order::WithoutBarrier {
                // The DSB SY behind ICC_IAR1_EL1: pairs with the fence in `call`.
                fence(Ordering::AcqRel);
            }
            // A push that is held up before its exchange has written its link by now.
            seen.links = self.descriptors.iter().map(|descriptor| descriptor.link.load(Ordering::Relaxed)).collect();
            self.queue.take()
        };
        seen.interrupts += 1;
        let descriptor = |index: u64| self.descriptors.get(index as usize).expect("a link that no push has written");
        let mut link = reverse(newest, |index| &descriptor(index.into()).link);
        while link != 0 {
            let index = link - 1;
            let descriptor = descriptor(index);
            if self.order == Order::UnlocksFirst {
                descriptor.locked.store(false, Ordering::Release);
            }
            link = descriptor.link.load(Ordering::Relaxed);
            seen.taken.push((seen.interrupts, index as u32, descriptor.payload.load(Ordering::Relaxed)));
            assert!(seen.taken.len() <= 8, "a list without an end");
            // Release: pairs with the Acquire in `is_free`. From here on the link is its caller's again.
            descriptor.locked.store(false, Ordering::Release);
        }
    }

    /// Handles what is pending when nobody calls any more; after that nothing may be left.
    fn settle(&self, seen: &mut Seen) {
        while self.pending.load(Ordering::Relaxed) {
            self.interrupt(seen);
        }
        assert_eq!(self.queue.take(), 0, "calls are left on the queue and no SGI is pending");
    }
}

/// What a target has run.
#[derive(Default)]
struct Seen {
    interrupts: u32,
    /// Number of the interrupt, descriptor, payload; in the order in which they ran.
    taken: Vec<(u32, u32, u64)>,
    /// The links of all descriptors right before the newest take.
    links: Vec<u64>,
}

impl Seen {
    /// The payloads of what a caller's descriptors were, in the order in which they ran.
    fn payloads(&self, of: impl Fn(u32) -> bool) -> Vec<u64> {
        self.taken.iter().filter(|(_, index, _)| of(*index)).map(|(_, _, payload)| *payload).collect()
    }

    /// Number of the interrupt in which this payload came; 0: in none.
    fn interrupt_of(&self, payload: u64) -> u32 {
        self.taken.iter().find(|(_, _, taken)| *taken == payload).map_or(0, |(interrupt, _, _)| *interrupt)
    }
}

/// Runs a model in every order in which the processor is taken from a thread that could go on at most so many times.
fn check(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Fails unless loom finds a run in which the model's asserts fail with this text.
#[track_caller]
fn assert_caught(expected: &str, model: impl Fn() + Sync + Send + 'static) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(3, model))) else {
        panic!("the model checker found no fault in a queue that has one: it can't be trusted with the real one");
    };
    let got = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
    assert!(got.is_some_and(|text| text.contains(expected)), "expected: {expected}\ngot: {got:?}");
}

/// Two callers of two descriptors each, and a target that looks at its SGI twice while they call. Returns how many interrupts
/// there were, how many calls sent no SGI, and the most calls that one interrupt ran.
fn two_callers<Q: Queue>(queue: Q, order: Order) -> [u64; 3] {
    let target = Target::new(queue, 4, 0, order);
    let (called, calls) = (target.clone(), target.clone());
    let core = thread::spawn(move || {
        let mut seen = Seen::default();
        called.interrupt(&mut seen);
        called.interrupt(&mut seen);
        seen
    });
    let other = thread::spawn(move || [calls.call(2, 102), calls.call(3, 103)]);
    let sent = [target.call(0, 100), target.call(1, 101)];
    let sent = [sent, other.join().expect("loom stops the model where a thread panics")];
    let mut seen = core.join().expect("loom stops the model where a thread panics");
    target.settle(&mut seen);
    assert_eq!(seen.payloads(|index| index < 2), [100, 101], "each call of a caller once, in the order of its pushes");
    assert_eq!(seen.payloads(|index| index >= 2), [102, 103], "each call of a caller once, in the order of its pushes");
    let ran = |interrupt| seen.taken.iter().filter(|(number, _, _)| *number == interrupt).count() as u64;
    let counts: Vec<u64> = (1..=seen.interrupts).map(ran).collect();
    assert!(counts.iter().all(|count| *count > 0), "an SGI for nothing: {counts:?}");
    let silent = sent.iter().flatten().filter(|sent| !**sent).count() as u64;
    [seen.interrupts.into(), silent, counts.into_iter().max().unwrap_or(0)]
}

/// How a caller met a target that took the queue while its push was on its way.
struct Met {
    /// What the push had written to its link before each take that it was not part of.
    links: Vec<u64>,
    /// The push said that the queue was empty.
    sent: bool,
    /// It ran in the same interrupt as the other's second call.
    together: bool,
}

/// A caller uses its descriptor 0 twice, the second time if the target is done with it by then; another pushes descriptor 1
/// once, whatever the queue has become between its look at the head and its exchange.
fn wrapping<Q: Queue>(queue: Q, order: Order) -> Met {
    let target = Target::new(queue, 2, UNWRITTEN, order);
    let (called, calls) = (target.clone(), target.clone());
    target.call(0, 100);
    let core = thread::spawn(move || {
        let (mut seen, mut links) = (Seen::default(), Vec::new());
        for _ in 0..2 {
            let before = seen.interrupts;
            called.interrupt(&mut seen);
            let written = seen.links.get(1).copied().filter(|link| *link != UNWRITTEN);
            if seen.interrupts > before && seen.payloads(|index| index == 1).is_empty() {
                links.extend(written);
            }
        }
        (seen, links)
    });
    let other = thread::spawn(move || calls.call(1, 200));
    let again = target.is_free(0);
    if again {
        target.call(0, 101);
    }
    let sent = other.join().expect("loom stops the model where a thread panics");
    let (mut seen, links) = core.join().expect("loom stops the model where a thread panics");
    target.settle(&mut seen);
    let expected: &[u64] = if again { &[100, 101] } else { &[100] };
    assert_eq!(seen.payloads(|index| index == 0), expected, "each use of a descriptor once, with its own payload");
    assert_eq!(seen.payloads(|index| index == 1), [200], "the other's call once");
    Met { links, sent, together: again && seen.interrupt_of(101) == seen.interrupt_of(200) }
}

#[test]
fn every_call_of_two_callers_runs_once_and_in_order_and_none_waits_without_an_sgi() {
    // A model in which no SGI ever stands for more than one call would prove nothing.
    static MOST: [Most; 3] = [Most::new(0), Most::new(0), Most::new(0)];
    check(3, || {
        let came = two_callers(CallQueue::new(), Order::Right);
        MOST.iter().zip(came).for_each(|(most, value)| _ = most.fetch_max(value, Ordering::Relaxed));
    });
    let most = [0, 1, 2].map(|index: usize| MOST[index].load(Ordering::Relaxed));
    assert_eq!(most, [3, 3, 4], "the most interrupts, calls without an SGI, calls run by one interrupt");
}

#[test]
fn a_push_that_was_held_up_while_the_queue_was_emptied_and_filled_again_is_not_lost() {
    // Runs in which the queue was empty at the push's look, was filled and emptied, and was empty at its exchange; in which
    // descriptor 0 was the newest at its look, ran, and was the newest again at its exchange, so that no SGI was needed; and in
    // which descriptor 0 was the newest at its look, and the queue was empty at its exchange.
    static MET: [Most; 3] = [Most::new(0), Most::new(0), Most::new(0)];
    check(5, || {
        let met = wrapping(CallQueue::new(), Order::Right);
        let kinds = [
            met.links.contains(&0) && met.sent,
            met.links.contains(&1) && !met.sent && met.together,
            met.links == [1] && met.sent,
        ];
        MET.iter().zip(kinds).for_each(|(most, met)| _ = most.fetch_max(met.into(), Ordering::Relaxed));
    });
    let met = [0, 1, 2].map(|index: usize| MET[index].load(Ordering::Relaxed));
    assert_eq!(met, [1, 1, 1], "each of these runs was looked at");
}

#[test]
fn a_copy_of_the_queue_with_nothing_wrong_passes() {
    check(2, || {
        two_callers(Copied::right(), Order::Right);
    });
    check(3, || {
        wrapping(Copied::right(), Order::Right);
    });
}

#[test]
fn a_target_that_takes_before_it_acknowledges_is_caught() {
    assert_caught("no SGI is pending", || {
        two_callers(CallQueue::new(), Order::TakesFirst);
    });
    assert_caught("no SGI is pending", || {
        wrapping(CallQueue::new(), Order::TakesFirst);
    });
}

#[test]
fn a_target_without_a_barrier_behind_its_acknowledge_is_caught() {
    assert_caught("no SGI is pending", || {
        two_callers(CallQueue::new(), Order::WithoutBarrier);
    });
}

#[test]
fn a_target_that_unlocks_before_it_has_read_the_descriptor_is_caught() {
    assert_caught("each use of a descriptor once", || {
        wrapping(CallQueue::new(), Order::UnlocksFirst);
    });
}

#[test]
fn a_descriptor_that_is_filled_behind_its_push_is_caught() {
    assert_caught("each call of a caller once", || {
        two_callers(CallQueue::new(), Order::FillsLast);
    });
}

#[test]
fn a_relaxed_exchange_is_caught() {
    assert_caught("each call of a caller once", || {
        two_callers(Copied { exchange: Ordering::Relaxed, ..Copied::right() }, Order::Right);
    });
}

#[test]
fn a_relaxed_take_is_caught() {
    assert_caught("each call of a caller once", || {
        two_callers(Copied { take: Ordering::Relaxed, ..Copied::right() }, Order::Right);
    });
}

#[test]
fn a_push_that_judges_by_its_first_look_is_caught() {
    assert_caught("no SGI is pending", || {
        wrapping(Copied { hasty: true, ..Copied::right() }, Order::Right);
    });
}
