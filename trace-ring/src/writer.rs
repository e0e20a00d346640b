//! The target's end of a lane: one writer, no waiting, no locks, nothing read that the host wrote.
//!
//! Appending record `k` is three steps, each of which a reader may see alone:
//! 1. the four words go into slot `k mod N`, over record `k - N`: a reader finds neither record whole until they are all in;
//! 2. [`publish_barrier`]: the words are visible before the head, and the *previous* head before any word of record `k + 1`;
//! 3. the head becomes `k + 1`: a reader that sees it sees the record.
//!
//! On AArch64 this is twelve instructions at best: two LDP (base, mask, head, published), AND and ADD (slot address), ADD
//! (word 1 takes the number), ADD (word 2 takes it shifted), two STP, DMB ST, ADD, STR (own copy of the head), STR (published
//! head). The compiler takes up to two more. The writer keeps its own copy of the head because the published one may lie in
//! non-cacheable memory.

use core::cell::Cell;

use crate::plan::Policy;
use crate::record::{Event, Words, with_number};
use crate::sync::{AtomicU64, Ordering, Slots, publish_barrier, store_record};

/// The writing end of one lane. It belongs to one exception context of one core.
///
/// Field order: the four words that an append needs lie side by side and come in two loads of a pair.
#[repr(C)]
#[derive(Debug)]
pub struct LaneWriter<'a> {
    slots: Slots<'a>,
    head: Cell<u64>,
    published: &'a AtomicU64,
    dropped: &'a AtomicU64,
    /// First record number that is turned away.
    limit: Cell<u64>,
    policy: Policy,
}

impl<'a> LaneWriter<'a> {
    /// A writer that starts at record 0. `published` and `dropped` are the lane's words in the core's head line, both 0.
    pub fn new(slots: Slots<'a>, published: &'a AtomicU64, dropped: &'a AtomicU64, policy: Policy) -> Self {
        let limit = if policy == Policy::Stop { slots.capacity() } else { u64::MAX };
        LaneWriter { slots, head: Cell::new(0), published, dropped, limit: Cell::new(limit), policy }
    }

    /// Appends a record, over the oldest if the lane is full. Only for lanes of policy `overwrite`.
    #[inline(always)]
    pub fn append(&self, event: Event) {
        self.append_words(event.words(0));
    }

    /// Appends a record of which the words of number 0 are given ([`Event::words`]): the lane's number is added here.
    #[inline(always)]
    pub fn append_words(&self, words: Words) {
        let (head, published) = (self.head.get(), self.published);
        store_record(self.slots.get(head), with_number(words, head));
        publish_barrier();
        self.head.set(head + 1);
        published.store(head + 1, Ordering::Relaxed); // ordered after the record by the barrier above
    }

    /// Appends a record unless the lane's policy turns it away, which is counted.
    #[inline(always)]
    pub fn append_bounded(&self, event: Event) {
        self.append_words_bounded(event.words(0));
    }

    /// [`LaneWriter::append_words`], unless the lane's policy turns the record away, which is counted.
    #[inline(always)]
    pub fn append_words_bounded(&self, words: Words) {
        if self.head.get() < self.limit.get() {
            self.append_words(words);
        } else {
            // The last record's head before the first count: a reader that sees records dropped sees all that were kept.
            publish_barrier(); // pairs with the reader's read of `dropped` before `head`
            // Only this context writes the word: no read-modify-write is needed.
            self.dropped.store(self.dropped.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        }
    }

    /// Policy `trigger`: from now on half a ring more, then no more. Later calls change nothing, nor do other policies.
    pub fn fire(&self) {
        if self.policy == Policy::Trigger && self.limit.get() == u64::MAX {
            self.limit.set(self.head.get() + self.slots.capacity() / 2);
        }
    }

    /// Records appended so far.
    pub fn head(&self) -> u64 {
        self.head.get()
    }
}
