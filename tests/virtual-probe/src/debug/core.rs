//! A core's external debug registers (DDI 0487, H9.2): status, the data and instruction transfer registers, locks.

use super::{Fault, effect_of, itr};
use crate::machine::Machine;

pub(super) const EDPRSR: u64 = 0x314;

const EDECR: u64 = 0x024;
const DBGDTRRX: u64 = 0x080;
const EDITR: u64 = 0x084;
const EDSCR: u64 = 0x088;
const DBGDTRTX: u64 = 0x08C;
const EDRCR: u64 = 0x090;
const EDECCR: u64 = 0x098;
const OSLAR: u64 = 0x300;
const EDPRCR: u64 = 0x310;
const MIDR: u64 = 0xD00;
const EDPFR: u64 = 0xD20;
const EDDFR: u64 = 0xD28;
const CLAIM_SET: u64 = 0xFA0;
const CLAIM_CLEAR: u64 = 0xFA4;
const EDDEVAFF0: u64 = 0xFA8;
const EDDEVAFF1: u64 = 0xFAC;
const EDLSR: u64 = 0xFB4;
const AUTHENTICATION: u64 = 0xFB8;
const EDDEVARCH: u64 = 0xFBC;
const EDDEVTYPE: u64 = 0xFCC;

/// EDSCR.STATUS.
pub(super) mod status {
    /// The core runs.
    pub(in super::super) const RUNNING: u32 = 0b00_0010;
    /// Halted by an external debug request.
    pub(in super::super) const EXTERNAL_REQUEST: u32 = 0b01_0011;
    /// Halted after a step.
    pub(in super::super) const STEP: u32 = 0b01_1011;
}

/// EDSCR's bits that a debugger writes: TFO, INTdis, TDA, MA, SC2, HDE.
const CONTROL: u32 = 1 << 31 | 3 << 22 | 1 << 21 | MEMORY_ACCESS | 1 << 19 | 1 << 14;
/// EDSCR.MA: DTR accesses read and write memory.
const MEMORY_ACCESS: u32 = 1 << 20;
const RX_FULL: u32 = 1 << 30;
const TX_FULL: u32 = 1 << 29;
const ITR_OVERRUN: u32 = 1 << 28;
const RX_OVERRUN: u32 = 1 << 27;
const TX_UNDERRUN: u32 = 1 << 26;
const PIPE_ADVANCE: u32 = 1 << 25;
const ITR_EMPTY: u32 = 1 << 24;
const NON_SECURE: u32 = 1 << 18;
/// EDSCR.RW: all exception levels are AArch64.
const ALL_64_BIT: u32 = 0xF << 10;
const ERROR: u32 = 1 << 6;
/// What EDRCR.CSE clears.
const STICKY: u32 = ERROR | ITR_OVERRUN | RX_OVERRUN | TX_UNDERRUN;

/// EDPRSR's sticky bits: restarted, reset, power lost.
const RESTARTED: u32 = 1 << 11;
const WAS_RESET: u32 = 1 << 3;
const LOST_POWER: u32 = 1 << 1;

/// What came of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It was executed.
    Done,
    /// It was not: EDSCR.ERR.
    Error,
}

/// One core's registers.
#[derive(Debug)]
pub(super) struct CoreDebug {
    status: u32,
    /// The exception level in which the core was halted.
    level: u32,
    control: u32,
    /// ERR, ITO, RXO, TXU.
    sticky: u32,
    pub(super) rx_full: bool,
    pub(super) tx_full: bool,
    pub(super) rx: u32,
    pub(super) tx: u32,
    os_lock: bool,
    power_sticky: u32,
    execution_control: u32,
    exception_catch: u32,
    power_control: u32,
    claims: u32,
    /// DBGBVR/DBGBCR at 0x400, DBGWVR/DBGWCR at 0x800: kept, without effect.
    comparators: [[u32; 64]; 2],
}

impl CoreDebug {
    /// After a cold reset: the OS lock is locked.
    pub(super) fn new() -> CoreDebug {
        CoreDebug {
            status: status::RUNNING,
            level: 0,
            control: 0,
            sticky: 0,
            rx_full: false,
            tx_full: false,
            rx: 0,
            tx: 0,
            os_lock: true,
            power_sticky: WAS_RESET | LOST_POWER,
            execution_control: 0,
            exception_catch: 0,
            power_control: 0,
            claims: 0,
            comparators: [[0; 64]; 2],
        }
    }

    pub(super) fn is_halted(&self) -> bool {
        self.status != status::RUNNING
    }

    /// Whether a restart ends after one instruction (EDECR.SS).
    pub(super) fn steps(&self) -> bool {
        self.execution_control & 4 != 0
    }

    /// The exception level of a halted core.
    pub(super) fn level(&self) -> u32 {
        self.level
    }

    /// The core entered Debug state.
    pub(super) fn enter(&mut self, machine: &mut dyn Machine, core: usize, status: u32) {
        self.status = status;
        self.level = machine.registers(core).map_or(0, |registers| registers.pstate >> 2 & 3);
    }

    /// The core left Debug state.
    pub(super) fn leave(&mut self) {
        self.status = status::RUNNING;
        self.power_sticky |= RESTARTED;
    }

    pub(super) fn read(&mut self, machine: &mut dyn Machine, core: usize, offset: u64) -> Result<u32, Fault> {
        if self.os_lock && is_locked_away(offset) {
            return Err(Fault);
        }
        Ok(match offset {
            EDECR => self.execution_control,
            DBGDTRRX => self.rx,
            EDSCR => self.status_and_control(),
            DBGDTRTX => self.read_tx(machine, core),
            EDECCR => self.exception_catch,
            EDPRCR => self.power_control,
            EDPRSR => {
                let halted = u32::from(self.is_halted()) << 4;
                let lock = u32::from(self.os_lock) << 5;
                1 | halted | lock | std::mem::take(&mut self.power_sticky)
            }
            // QEMU's `max`.
            MIDR => 0x000F_0510,
            // EL0 to EL2, a GICv3 interface.
            EDPFR => 0x0100_0111,
            // As a Cortex-A53: 6 breakpoints, 4 watchpoints.
            EDDFR => 0x1030_5106,
            CLAIM_SET => 0xFF,
            CLAIM_CLEAR => self.claims,
            EDDEVAFF0 => machine.mpidr(core) as u32,
            EDDEVAFF1 => (machine.mpidr(core) >> 32) as u32,
            // The lock is for software on the cores alone.
            EDLSR => 0,
            // Non-secure debug, invasive and not, is allowed.
            AUTHENTICATION => 0x0F,
            // Armv8.0-A.
            EDDEVARCH => 0x4770_6A15,
            EDDEVTYPE => 0x15,
            _ => comparator(offset).map_or(0, |(kind, index)| self.comparators[kind][index]),
        })
    }

    pub(super) fn write(
        &mut self,
        machine: &mut dyn Machine,
        core: usize,
        offset: u64,
        value: u32,
    ) -> Result<(), Fault> {
        if self.os_lock && is_locked_away(offset) {
            return Err(Fault);
        }
        match offset {
            EDECR => self.execution_control = value & 7,
            DBGDTRRX => self.write_rx(machine, core, value),
            EDITR => self.write_instruction(machine, core, value),
            EDSCR => self.control = value & CONTROL,
            DBGDTRTX => self.tx = value,
            EDRCR if value & 4 != 0 => self.sticky &= !STICKY,
            EDECCR => self.exception_catch = value,
            OSLAR => self.os_lock = value & 1 != 0,
            EDPRCR => {
                self.power_control = value & 1;
                if value & 2 != 0 {
                    // A warm reset of one core is not done, only reported: what waits for it would wait for ever.
                    super::complain(&format!("core {core}: EDPRCR.CWRR is not modelled"));
                    self.power_sticky |= WAS_RESET;
                }
            }
            CLAIM_SET => self.claims |= value & 0xFF,
            CLAIM_CLEAR => self.claims &= !value,
            _ => {
                if let Some((kind, index)) = comparator(offset) {
                    self.comparators[kind][index] = value;
                }
            }
        }
        Ok(())
    }

    fn status_and_control(&self) -> u32 {
        let flag = |set: bool, bit: u32| if set { bit } else { 0 };
        let state = if self.is_halted() { ITR_EMPTY | self.level << 8 } else { PIPE_ADVANCE };
        flag(self.rx_full, RX_FULL)
            | flag(self.tx_full, TX_FULL)
            | self.control
            | self.sticky
            | state
            | NON_SECURE
            | ALL_64_BIT
            | self.status
    }

    fn memory_access(&self) -> bool {
        self.is_halted() && self.control & MEMORY_ACCESS != 0
    }

    /// An external write to DBGDTRRX_EL0, as its pseudocode has it.
    fn write_rx(&mut self, machine: &mut dyn Machine, core: usize, value: u32) {
        if self.sticky & ERROR != 0 {
            return;
        }
        if self.rx_full {
            self.sticky |= RX_OVERRUN | ERROR;
            return;
        }
        (self.rx, self.rx_full) = (value, true);
        if self.memory_access() {
            // MRS X1, DBGDTRRX_EL0; STR W1, [X0], #4
            self.run(machine, core, &[0xD533_0501, 0xB800_4401]);
        }
    }

    /// An external read of DBGDTRTX_EL0, as its pseudocode has it.
    fn read_tx(&mut self, machine: &mut dyn Machine, core: usize) -> u32 {
        let value = self.tx;
        if self.sticky & ERROR != 0 {
            return value;
        }
        if !self.tx_full {
            self.sticky |= TX_UNDERRUN | ERROR;
            return value;
        }
        self.tx_full = false;
        if self.memory_access() {
            // LDR W1, [X0], #4; MSR DBGDTRTX_EL0, X1
            self.run(machine, core, &[0xB840_4401, 0xD513_0501]);
        }
        value
    }

    /// An external write to EDITR: ignored by a core that runs, and after an error.
    fn write_instruction(&mut self, machine: &mut dyn Machine, core: usize, instruction: u32) {
        if self.is_halted() && self.sticky & ERROR == 0 {
            self.run(machine, core, &[instruction]);
        }
    }

    fn run(&mut self, machine: &mut dyn Machine, core: usize, instructions: &[u32]) {
        for instruction in instructions {
            let result = itr::execute(self, machine, core, *instruction);
            if effect_of(result, core) == Effect::Error {
                self.sticky |= ERROR;
                return;
            }
        }
    }
}

/// Registers that answer with an error while the OS lock is locked.
fn is_locked_away(offset: u64) -> bool {
    matches!(
        offset,
        DBGDTRRX | EDITR | EDSCR | DBGDTRTX | EDRCR | EDECCR | CLAIM_SET | CLAIM_CLEAR | 0x400..=0x4FF | 0x800..=0x8FF
    )
}

/// Which comparator register lies at an offset.
fn comparator(offset: u64) -> Option<(usize, usize)> {
    match offset {
        0x400..=0x4FF => Some((0, (offset as usize - 0x400) / 4)),
        0x800..=0x8FF => Some((1, (offset as usize - 0x800) / 4)),
        _ => None,
    }
}
