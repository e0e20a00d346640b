//! The atomics of the ring, and the two seams at which the target and every other machine differ.
//!
//! The writer's code is the same everywhere but for [`store_record`] and [`publish_barrier`]: on the target they are the
//! instructions that the protocol is written for, elsewhere relaxed atomics and a fence, which a model checker and the
//! host's own tests understand. Under `--cfg loom` the atomics are loom's.
// UNSAFETY: the two seams are inline assembly on the target; `Slots` steps a pointer inside memory it was promised.
#![expect(unsafe_code)]

use core::marker::PhantomData;

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU64, Ordering, fence};
#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU64, Ordering, fence};

/// One record as the ring stores it: four 64-bit words, 32-byte aligned, two to a 64-byte cache line.
#[repr(C, align(32))]
#[derive(Debug)]
pub struct Slot(pub [AtomicU64; 4]);

impl Slot {
    /// A slot that holds four zero words.
    pub fn zeroed() -> Self {
        Slot([AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0)])
    }
}

/// The slots of a lane: a power of two of them, reached by record number without a bounds check or a division.
#[repr(C)]
#[derive(Debug)]
pub struct Slots<'a> {
    base: *const Slot,
    mask: u64,
    lives: PhantomData<&'a [Slot]>,
}

// SAFETY: a `Slots` is a shared borrow of atomics, which any thread may use.
unsafe impl Send for Slots<'_> {}

impl<'a> Slots<'a> {
    /// Borrows a slice; `None` unless its length is a power of two.
    pub fn new(slots: &'a [Slot]) -> Option<Self> {
        slots.len().is_power_of_two().then(|| Slots {
            base: slots.as_ptr(),
            mask: slots.len() as u64 - 1,
            lives: PhantomData,
        })
    }

    /// Takes `1 << log2` slots at `base`.
    ///
    /// # Safety
    ///
    /// That many slots must be mapped at `base` for `'a`, 32-byte aligned, and written by nobody else.
    pub const unsafe fn from_raw(base: *const Slot, log2: u32) -> Self {
        Slots { base, mask: (1 << log2) - 1, lives: PhantomData }
    }

    /// How many slots there are.
    #[inline(always)]
    pub const fn capacity(&self) -> u64 {
        self.mask + 1
    }

    /// The slot of record `index`.
    #[inline(always)]
    pub fn get(&self, index: u64) -> &'a Slot {
        // SAFETY: `index & mask` is below the number of slots that `new` saw or `from_raw` was promised.
        unsafe { &*self.base.add((index & self.mask) as usize) }
    }
}

/// Stores the four words of a record into its slot. Nothing is promised about their order among themselves.
#[inline(always)]
pub fn store_record(slot: &Slot, words: [u64; 4]) {
    #[cfg(target_os = "none")]
    {
        // Two STPs: a torn pair is legal and found by the reader (`seq` and `seq2` stand in different pairs).
        // SAFETY: `slot` is a live, 32-byte aligned slot; its words are atomics, so stores through `&` are allowed.
        unsafe {
            core::arch::asm!(
                "stp {a}, {b}, [{p}]",
                "stp {c}, {d}, [{p}, #16]",
                p = in(reg) core::ptr::from_ref(slot),
                a = in(reg) words[0], b = in(reg) words[1], c = in(reg) words[2], d = in(reg) words[3],
                options(nostack, preserves_flags),
            );
        }
    }
    #[cfg(not(target_os = "none"))]
    for (cell, word) in slot.0.iter().zip(words) {
        cell.store(word, Ordering::Relaxed);
    }
}

/// Orders the record's stores before the store of the head that publishes it, and that head before the stores of the
/// record after the next (the reader's guard of two slots rests on the second half; `docs/ring-protocol.md`).
///
/// `DMB ST` on the target, full system: a debug port reads from outside the inner shareable domain.
#[inline(always)]
pub fn publish_barrier() {
    #[cfg(target_os = "none")]
    // SAFETY: a barrier has no operands. Memory is clobbered on purpose, so no store moves across it.
    unsafe {
        core::arch::asm!("dmb st", options(nostack, preserves_flags));
    }
    #[cfg(not(target_os = "none"))]
    fence(Ordering::Release); // pairs with the Acquire fence that every RegionSource has between its reads
}
