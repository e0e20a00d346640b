//! The machine: cores, interrupt controller, memory, console, as the rest of the firmware sees it.
//!
//! Free of device-tree types, so that another description (ACPI under EFI, a board file) can fill it. Nothing here knows a
//! board: every number comes from outside.

use trace_ring::layout::MAX_CORES;

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
}

impl Range {
    /// Whether the two share a byte.
    pub fn overlaps(self, other: Range) -> bool {
        self.start < other.start.saturating_add(other.length) && other.start < self.start.saturating_add(self.length)
    }
}

/// Up to `N` ranges.
pub struct Ranges<const N: usize = 64> {
    items: [Range; N],
    count: usize,
}

impl<const N: usize> Ranges<N> {
    /// None.
    pub const fn new() -> Self {
        Ranges { items: [Range { start: 0, length: 0 }; N], count: 0 }
    }

    /// Adds one, unless one that is there already contains it; `false` when there is no room. What runs over the end of the
    /// address space is cut there: in all that are kept, start and length can be added.
    pub fn push(&mut self, start: u64, length: u64) -> bool {
        let length = length.min(u64::MAX - start);
        let known = |range: &Range| {
            start >= range.start && start.saturating_add(length) <= range.start.saturating_add(range.length)
        };
        if length == 0 || self.items[..self.count].iter().any(known) {
            return true;
        }
        let Some(item) = self.items.get_mut(self.count) else { return false };
        *item = Range { start, length };
        self.count += 1;
        true
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Range> + '_ {
        self.items[..self.count].iter().copied()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.count
    }
}

/// Finds `length` bytes on a boundary of `align` in `memory` that touch nothing in `taken`, above `floor` if possible.
pub fn find_free<const N: usize>(
    memory: &Ranges,
    taken: &Ranges<N>,
    length: u64,
    align: u64,
    floor: u64,
) -> Option<u64> {
    [floor, 0].into_iter().find_map(|floor| {
        memory.iter().find_map(|range| {
            let mut start = range.start.max(floor).checked_next_multiple_of(align)?;
            // Every step moves past one taken range, so this ends.
            while start.checked_add(length)? <= range.start + range.length {
                let wanted = Range { start, length };
                match taken.iter().find(|other| other.overlaps(wanted)) {
                    None => return Some(start),
                    Some(other) => start = (other.start + other.length).checked_next_multiple_of(align)?,
                }
            }
            None
        })
    })
}

/// How to reach the power-state firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// There is none.
    None,
    /// HVC.
    Hvc,
    /// SMC.
    Smc,
}

/// A UART that the console knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartKind {
    /// PL011.
    Pl011,
    /// The SBSA generic UART: a PL011 without the registers that set it up.
    Sbsa,
    /// i.MX.
    Imx,
    /// 16550 and its relatives.
    Ns16550 {
        /// Bytes from one register to the next, as a power of two.
        shift: u8,
        /// Whether registers are accessed as 32-bit words; else as bytes.
        wide: bool,
    },
}

/// The console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uart {
    /// What it is.
    pub kind: UartKind,
    /// Physical address.
    pub base: u64,
}

/// A watchdog that the kit can feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchdogKind {
    /// i.MX, since i.MX21.
    Imx,
    /// The SBSA generic watchdog; the physical address of its refresh frame.
    Sbsa(u64),
    /// Synopsys DesignWare.
    DesignWare,
}

/// A watchdog that the description says is in use. Whether it runs, its registers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// What it is; `None`: a kind that the kit does not know.
    pub kind: Option<WatchdogKind>,
    /// Physical address of its (control) registers.
    pub base: u64,
}

/// How many watchdogs the kit looks after.
pub const MAX_WATCHDOGS: usize = 4;

/// A core as the description names it.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreDescription {
    /// Affinity fields of its MPIDR.
    pub mpidr: u64,
    /// Whether it may be started.
    pub usable: bool,
    /// Power states for PSCI CPU_SUSPEND, in the order in which the description names them for this core.
    pub idle_states: IdleStates,
}

/// Power states of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleStates {
    items: [u32; 4],
    count: u8,
}

impl IdleStates {
    /// None.
    pub const NONE: IdleStates = IdleStates { items: [0; 4], count: 0 };

    /// Adds one, if there is room: the first few are the shallow ones, and a standby state is among those.
    pub fn push(&mut self, state: u32) {
        if let Some(item) = self.items.get_mut(usize::from(self.count)) {
            *item = state;
            self.count += 1;
        }
    }

    /// All of them.
    pub fn as_slice(&self) -> &[u32] {
        self.items.get(..usize::from(self.count)).unwrap_or(&[])
    }
}

/// Room for what must not be touched: what a description reserves, and a table of pending LPIs for each core.
pub const RESERVED_RANGES: usize = MAX_CORES + 128;

/// Everything known about the machine.
pub struct Machine {
    /// Cores in the order of the description; their place is their id.
    pub cores: [CoreDescription; MAX_CORES],
    /// How many.
    pub core_count: usize,
    /// The distributor's frame.
    pub distributor: Range,
    /// The redistributor regions.
    pub redistributors: Ranges,
    /// Bytes from one redistributor to the next; 0: as GICR_TYPER says.
    pub redistributor_stride: u64,
    /// PSCI.
    pub conduit: Conduit,
    /// RAM.
    pub memory: Ranges,
    /// What in it must not be touched.
    pub reserved: Ranges<RESERVED_RANGES>,
    /// Where console text goes.
    pub console: Option<Uart>,
    /// INTID of the EL1 virtual timer.
    pub virtual_timer: u32,
    /// The plan.
    pub plan: Range,
    /// Watchdogs in use.
    pub watchdogs: [Option<Watchdog>; MAX_WATCHDOGS],
    /// [`trace_ring::layout::platform_flag`] bits.
    pub platform: u8,
}

impl Machine {
    /// Nothing known yet. 27 is the virtual timer's INTID by BSA (DEN0094, table of PPIs) where no node says otherwise.
    pub const fn new() -> Self {
        Machine {
            cores: [CoreDescription { mpidr: 0, usable: false, idle_states: IdleStates::NONE }; MAX_CORES],
            core_count: 0,
            distributor: Range { start: 0, length: 0 },
            redistributors: Ranges::new(),
            redistributor_stride: 0,
            conduit: Conduit::None,
            memory: Ranges::new(),
            reserved: Ranges::new(),
            console: None,
            virtual_timer: 27,
            plan: Range { start: 0, length: 0 },
            watchdogs: [None; MAX_WATCHDOGS],
            platform: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(all: &[(u64, u64)]) -> Ranges {
        let mut ranges = Ranges::new();
        assert!(all.iter().all(|(start, length)| ranges.push(*start, *length)));
        ranges
    }

    #[test]
    fn free_memory_is_on_its_boundary_clear_of_what_is_taken_and_above_the_floor_if_possible() {
        let memory = ranges(&[(0x4000_1000, 0x10_0000)]);
        let taken = ranges(&[(0x4000_2000, 0x1000), (0x4000_4800, 0x100)]);
        assert_eq!(find_free(&memory, &taken, 0x1000, 0x1000, 0), Some(0x4000_1000));
        assert_eq!(find_free(&memory, &taken, 0x1900, 0x1000, 0), Some(0x4000_5000));
        assert_eq!(find_free(&memory, &taken, 0x1000, 0x1000, 0x4008_0001), Some(0x4008_1000));
        assert_eq!(find_free(&memory, &taken, 0x8_0000, 0x1000, 0x400F_0000), Some(0x4000_5000));
        assert_eq!(find_free(&memory, &taken, 0x20_0000, 0x1000, 0), None);
    }

    /// Found by reading for the fuzzer: the sums wrapped, and the search began again below the range.
    #[test]
    fn ranges_up_to_the_end_of_the_address_space_are_searched_once() {
        let memory = ranges(&[(0x4000_0000, u64::MAX)]);
        assert_eq!(memory.iter().next(), Some(Range { start: 0x4000_0000, length: u64::MAX - 0x4000_0000 }));
        let taken = ranges(&[(0x4000_0000, u64::MAX)]);
        assert_eq!(find_free(&memory, &taken, 0x1000, 0x20_0000, 0), None);
        let nowhere = ranges(&[(u64::MAX - 0x1000, 0x2000)]);
        assert_eq!(find_free(&nowhere, &ranges(&[]), 0x1000, 0x20_0000, 0), None);
    }
}
