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

    /// Adds one, unless one that is there already contains it; `false` when there is no room.
    pub fn push(&mut self, start: u64, length: u64) -> bool {
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
