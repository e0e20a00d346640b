//! Memory: the page tables that map only what is used, and work memory.
//!
//! 4 KiB pages, 48-bit addresses. The image lies in the top 2 GiB (TTBR1), W^X, with guard pages under its stacks. All else
//! (tree, plan, work memory, region, device frames) is mapped where it physically is (TTBR0). Descriptor fields: DDI 0487,
//! D8.3. Tables come from a pool in the image: 96 tables map 512 cores' redistributors and rings with room to spare.
// UNSAFETY: page tables are written through raw pointers, and the result is what the MMU believes.
#![expect(unsafe_code)]

use core::sync::atomic::{AtomicUsize, Ordering};

use crate::arch::{self, read_register};

const PAGE: u64 = 4096;
const BLOCK: u64 = 2 << 20;
const POOL: usize = 96;

/// Where secondaries' stacks are mapped: 32 KiB a core in the last GiB, each stack above an unmapped page.
const STACK_WINDOW: u64 = 0xFFFF_FFFF_C000_0000;
const STACK_STRIDE: u64 = 32 << 10;
/// Bytes of each of a secondary's two stacks.
const STACK_BYTES: u64 = 12 << 10;

/// How memory is mapped.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Attribute {
    /// Normal, write-back, read and write, never executed.
    Data,
    /// Normal, write-back, read only.
    ReadOnly,
    /// Normal, write-back, read and execute.
    Code,
    /// Normal, non-cacheable, read and write.
    NonCacheable,
    /// Device-nGnRnE.
    Device,
}

impl Attribute {
    const fn bits(self) -> u64 {
        const ACCESSED: u64 = 1 << 10;
        const INNER: u64 = 3 << 8;
        const OUTER: u64 = 2 << 8;
        const READ_ONLY: u64 = 2 << 6;
        const NEVER_EXECUTED: u64 = 1 << 53 | 1 << 54; // PXN, UXN
        const UXN: u64 = 1 << 54;
        match self {
            Attribute::Data => ACCESSED | INNER | NEVER_EXECUTED,
            Attribute::ReadOnly => ACCESSED | INNER | READ_ONLY | NEVER_EXECUTED,
            Attribute::Code => ACCESSED | INNER | READ_ONLY | UXN,
            Attribute::NonCacheable => ACCESSED | OUTER | NEVER_EXECUTED | 1 << 2,
            Attribute::Device => ACCESSED | OUTER | NEVER_EXECUTED | 2 << 2,
        }
    }
}

#[repr(C, align(4096))]
struct Table([u64; 512]);

#[repr(C, align(4096))]
struct Pool(core::cell::UnsafeCell<[Table; POOL]>);

// SAFETY: tables are handed out once each by an atomic counter and written by the boot core alone, before others start.
unsafe impl Sync for Pool {}

static TABLES: Pool = Pool(core::cell::UnsafeCell::new([const { Table([0; 512]) }; POOL]));
static TABLES_USED: AtomicUsize = AtomicUsize::new(0);

unsafe extern "C" {
    fn replace_tables(low: u64, high: u64, offset: u64);
    static _image_start: u8;
    static _text_start: u8;
    static _text_end: u8;
    static _rodata_end: u8;
    static _image_end: u8;
    static _boot_guard_thread: u8;
    static _boot_guard_exception: u8;
    static _boot_stack_thread: u8;
    static _boot_stack_exception: u8;
}

/// Address of a linker symbol.
macro_rules! symbol {
    ($name:ident) => {
        core::ptr::addr_of!($name) as u64
    };
}

/// Bytes of the image in memory.
pub fn image_length() -> u64 {
    symbol!(_image_end) - symbol!(_image_start)
}

/// Physical address of something in the image, given where the image was loaded.
pub fn image_physical(virtual_address: u64, load: u64) -> u64 {
    virtual_address - symbol!(_image_start) + load
}

/// The two stacks (from, to) that belong together with the one that `pointer` points into: exceptions', thread's.
pub fn stacks_around(pointer: u64) -> [(u64, u64); 2] {
    if pointer >= STACK_WINDOW {
        let window = pointer & !(STACK_STRIDE - 1);
        let (exception, thread) = (window + PAGE, window + STACK_STRIDE - STACK_BYTES);
        return [(exception, exception + STACK_BYTES), (thread, thread + STACK_BYTES)];
    }
    let (thread, exception) = (symbol!(_boot_guard_thread) + PAGE, symbol!(_boot_guard_exception) + PAGE);
    [(exception, symbol!(_boot_stack_exception)), (thread, symbol!(_boot_stack_thread))]
}

/// The two translation tables being built.
pub struct Tables {
    low: *mut Table,
    high: *mut Table,
    load: u64,
}

impl Tables {
    /// Empty tables for an image that was loaded at `load`.
    pub fn new(load: u64) -> Option<Self> {
        Some(Tables { low: take_table()?, high: take_table()?, load })
    }

    /// Maps the image page by page, each with the rights of its section, and the boot stub where it physically is (a
    /// secondary turns its MMU on there).
    pub fn map_image(&mut self) -> Option<()> {
        let (start, text, text_end) = (symbol!(_image_start), symbol!(_text_start), symbol!(_text_end));
        let (rodata_end, end) = (symbol!(_rodata_end), symbol!(_image_end));
        let load = self.load;
        let physical = |address: u64| image_physical(address, load);
        self.map(start, physical(start), text - start, Attribute::Data)?;
        self.map(text, physical(text), text_end - text, Attribute::Code)?;
        self.map(text_end, physical(text_end), rodata_end - text_end, Attribute::ReadOnly)?;
        let mut from = rodata_end;
        for guard in [symbol!(_boot_guard_thread), symbol!(_boot_guard_exception)] {
            self.map(from, physical(from), guard - from, Attribute::Data)?;
            from = guard + PAGE;
        }
        self.map(from, physical(from), end - from, Attribute::Data)?;
        self.map(physical(text), physical(text), PAGE, Attribute::Code)
    }

    /// Maps `length` bytes at `physical` to the same address.
    pub fn map_identity(&mut self, physical: u64, length: u64, attribute: Attribute) -> Option<()> {
        let start = physical & !(PAGE - 1);
        let end = physical.checked_add(length)?.checked_next_multiple_of(PAGE)?;
        self.map(start, start, end - start, attribute)
    }

    /// Maps the two stacks of core `index` onto the memory at `physical`; returns the tops (exception, thread).
    pub fn map_stacks(&mut self, index: usize, physical: u64) -> Option<(u64, u64)> {
        let window = STACK_WINDOW + index as u64 * STACK_STRIDE;
        let exception = window + PAGE;
        let thread = window + STACK_STRIDE - STACK_BYTES;
        self.map(exception, physical, STACK_BYTES, Attribute::Data)?;
        self.map(thread, physical + STACK_BYTES, STACK_BYTES, Attribute::Data)?;
        Some((exception + STACK_BYTES, thread + STACK_BYTES))
    }

    fn map(&mut self, virtual_address: u64, physical: u64, length: u64, attribute: Attribute) -> Option<()> {
        let (mut from, mut to) = (virtual_address, physical);
        let end = virtual_address.checked_add(length)?;
        while from != end {
            let root = if from >> 63 == 1 { self.high } else { self.low };
            let whole = from % BLOCK == 0 && to % BLOCK == 0 && end.wrapping_sub(from) >= BLOCK;
            let level1 = next_table(root, from >> 39 & 511, self.load)?;
            let level2 = next_table(level1, from >> 30 & 511, self.load)?;
            let (table, index, kind) = if whole {
                (level2, from >> 21 & 511, 0b01)
            } else {
                (next_table(level2, from >> 21 & 511, self.load)?, from >> 12 & 511, 0b11)
            };
            // SAFETY: `table` came from the pool, the index is below 512; the boot core alone writes tables.
            unsafe { (*table).0[index as usize] = to | attribute.bits() | kind };
            let step = if whole { BLOCK } else { PAGE };
            from = from.wrapping_add(step);
            to += step;
        }
        Some(())
    }

    /// Physical addresses of the two roots (TTBR0, TTBR1).
    pub fn roots(&self) -> (u64, u64) {
        (image_physical(self.low as u64, self.load), image_physical(self.high as u64, self.load))
    }

    /// Makes these tables the ones in force on the boot core, in place of the boot stub's. Later additions to them need a
    /// DSB and an ISB only ([`Tables::publish`]): no entry that was valid changes.
    pub fn activate(&self) {
        let (low, high) = self.roots();
        arch::publish_stores();
        // SAFETY: both tables map the image where it was linked and the stub where it is; the routine touches no memory.
        unsafe { replace_tables(low, high, self.load.wrapping_sub(symbol!(_image_start))) };
    }

    /// Makes entries that were added usable on this core.
    pub fn publish(&self) {
        arch::publish_stores();
        arch::instruction_barrier();
    }

    /// Cleans all tables to memory, for cores that walk them before their caches are on.
    pub fn clean(&self) {
        let start = TABLES.0.get() as u64;
        arch::clean_to_memory(start, TABLES_USED.load(Ordering::Relaxed) as u64 * PAGE);
    }
}

fn take_table() -> Option<*mut Table> {
    let index = TABLES_USED.fetch_add(1, Ordering::Relaxed);
    if index >= POOL {
        return None;
    }
    // SAFETY: each index is taken once, and lies inside the pool.
    Some(unsafe { TABLES.0.get().cast::<Table>().add(index) })
}

/// The table behind entry `index` of `table`, made if there is none.
fn next_table(table: *mut Table, index: u64, load: u64) -> Option<*mut Table> {
    let base = TABLES.0.get() as u64;
    // SAFETY: `table` is a pool table, the index below 512; entries point into the pool, by physical address.
    unsafe {
        let entry = &mut (*table).0[index as usize];
        if *entry == 0 {
            let fresh = take_table()?;
            *entry = image_physical(fresh as u64, load) | 0b11;
        } else if *entry & 0b11 == 0b01 {
            return None; // a block is there already: two things overlap
        }
        let physical = *entry & 0x0000_FFFF_FFFF_F000;
        Some((physical - image_physical(base, load) + base) as *mut Table)
    }
}

/// The registers with which a secondary turns its MMU on: TCR_EL1 and MAIR_EL1 of this core.
pub fn translation_registers() -> (u64, u64) {
    (read_register!("tcr_el1"), read_register!("mair_el1"))
}

/// Hands out work memory: zeroed, aligned, never given back.
pub struct Arena {
    next: u64,
    end: u64,
}

impl Arena {
    /// Over memory that is mapped where it is.
    pub fn new(start: u64, length: u64) -> Self {
        Arena { next: start, end: start + length }
    }

    /// `bytes` on a boundary of `align`, zeroed.
    pub fn take(&mut self, bytes: u64, align: u64) -> Option<u64> {
        let start = self.next.next_multiple_of(align);
        let next = start.checked_add(bytes)?;
        if next > self.end {
            return None;
        }
        self.next = next;
        // SAFETY: the range was found free, is mapped writable and belongs to nobody else yet.
        unsafe { core::ptr::write_bytes(start as *mut u8, 0, bytes as usize) };
        Some(start)
    }
}

/// Bytes of work memory that the stacks of one core take.
pub const STACK_MEMORY: u64 = 2 * STACK_BYTES;
