//! Where things are in the model: access ports, RAM, debug components, and the ROM table that lists them.
//!
//! [`SocLayout::qemu_virt`] is the one machine that the binary serves; a board file of the kit says the same numbers.

/// Bytes that one debug component takes (CoreSight architecture IHI 0029, B2.1: 4 KiB at least).
pub const COMPONENT_BYTES: u64 = 0x1000;

/// What a debugger has to know of the machine before it can touch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocLayout {
    /// Index of the access port to the system's memory (AXI).
    pub system_ap: u8,
    /// Index of the access port to the debug components (APB).
    pub debug_ap: u8,
    /// Address of the ROM table behind `debug_ap`.
    pub rom_base: u64,
    /// Address of each core's external debug registers behind `debug_ap`.
    pub debug_base: Vec<u64>,
    /// Address of each core's cross-trigger interface behind `debug_ap`.
    pub cti_base: Vec<u64>,
    /// Physical address where RAM begins.
    pub ram_base: u64,
}

impl SocLayout {
    /// QEMU's machine `virt` with the debug components where an i.MX 8M or a Zynq MPSoC has them.
    pub fn qemu_virt(cores: usize) -> SocLayout {
        let bases = |first: u64| (0..cores as u64).map(|core| first + core * 0x10_0000).collect();
        SocLayout {
            system_ap: 0,
            debug_ap: 1,
            rom_base: 0x8000_0000,
            debug_base: bases(0x8041_0000),
            cti_base: bases(0x8042_0000),
            ram_base: 0x4000_0000,
        }
    }

    /// Number of cores.
    pub fn cores(&self) -> usize {
        self.debug_base.len()
    }

    /// What lies at an address behind the debug access port, and at which offset of it.
    pub fn component_at(&self, address: u64) -> Option<(Component, u64)> {
        let offset = address % COMPONENT_BYTES;
        let base = address - offset;
        if base == self.rom_base {
            return Some((Component::RomTable, offset));
        }
        let core = |bases: &[u64]| bases.iter().position(|at| *at == base);
        core(&self.debug_base)
            .map(|core| (Component::Debug(core), offset))
            .or_else(|| core(&self.cti_base).map(|core| (Component::Cti(core), offset)))
    }

    /// A word of the ROM table (IHI 0029, D3.2: class 1, 32-bit entries: offset, format, present).
    pub fn rom_table(&self, offset: u64) -> u32 {
        let index = (offset / 4) as usize;
        let bases = self.debug_base.iter().zip(&self.cti_base).flat_map(|(debug, cti)| [*debug, *cti]);
        match offset {
            0xFD0..=0xFFC => Component::RomTable.identity(offset),
            // MEMTYPE 0: only debug components behind this port.
            0xFCC => 0,
            _ => bases.into_iter().nth(index).map_or(0, |base| (base.wrapping_sub(self.rom_base) as u32) & !0xFFF | 3),
        }
    }
}

/// A debug component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The list of the others.
    RomTable,
    /// A core's external debug registers.
    Debug(usize),
    /// A core's cross-trigger interface.
    Cti(usize),
}

impl Component {
    /// Words 0xFD0 to 0xFFC, that name the component: PIDR4 to 7, PIDR0 to 3, CIDR0 to 3 (IHI 0029, B2.2).
    pub fn identity(self, offset: u64) -> u32 {
        // Part numbers as a Cortex-A53 has them (DDI 0500, 11.10 and 14.6), the ROM table's as the processor's own.
        let (part, class): (u32, u32) = match self {
            Component::RomTable => (0x4A1, 0x1),
            Component::Debug(_) => (0xD03, 0x9),
            Component::Cti(_) => (0x9A8, 0x9),
        };
        match offset {
            // Arm's JEP106 code: bank 4, number 0x3B.
            0xFD0 => 0x04,
            0xFE0 => part & 0xFF,
            0xFE4 => 0xB0 | part >> 8,
            // Revision 0, JEDEC assigned, upper bits of 0x3B.
            0xFE8 => 0x0B,
            0xFF0 => 0x0D,
            0xFF4 => class << 4,
            0xFF8 => 0x05,
            0xFFC => 0xB1,
            _ => 0,
        }
    }
}
