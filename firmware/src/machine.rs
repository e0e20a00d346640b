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

/// Up to 64 ranges.
pub struct Ranges {
    items: [Range; 64],
    count: usize,
}

impl Ranges {
    /// None.
    pub const fn new() -> Self {
        Ranges { items: [Range { start: 0, length: 0 }; 64], count: 0 }
    }

    /// Adds one; `false` when there is no room.
    pub fn push(&mut self, start: u64, length: u64) -> bool {
        if length == 0 {
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

/// A UART whose transmit side the console knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UartKind {
    /// PL011 and the SBSA generic UART.
    Pl011,
    /// i.MX.
    Imx,
}

/// The console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uart {
    /// What it is.
    pub kind: UartKind,
    /// Physical address.
    pub base: u64,
}

/// A core as the description names it.
#[derive(Clone, Copy, Debug, Default)]
pub struct CoreDescription {
    /// Affinity fields of its MPIDR.
    pub mpidr: u64,
    /// Whether it may be started.
    pub usable: bool,
}

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
    pub reserved: Ranges,
    /// Where console text goes.
    pub console: Option<Uart>,
    /// INTID of the EL1 virtual timer.
    pub virtual_timer: u32,
    /// The plan.
    pub plan: Range,
    /// Whether a watchdog runs that the description names.
    pub watchdog: bool,
}

impl Machine {
    /// Nothing known yet. 27 is the virtual timer's INTID by BSA (DEN0094, table of PPIs) where no node says otherwise.
    pub const fn new() -> Self {
        Machine {
            cores: [CoreDescription { mpidr: 0, usable: false }; MAX_CORES],
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
            watchdog: false,
        }
    }
}
