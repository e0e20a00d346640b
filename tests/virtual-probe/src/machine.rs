//! What the port debugs: memory by physical address, and cores that can be stopped and looked into.
//!
//! [`FlatMachine`] is an array with idle cores, for tests of the port. [`QemuMachine`] is a machine that runs.

mod flat;
mod gdb;
mod qemu;
mod qtest;

use std::io;

pub use flat::FlatMachine;
pub use qemu::{Boot, QemuMachine, QemuOptions};

/// Why a machine did not do something.
#[derive(Debug)]
pub enum MachineError {
    /// There is no memory at this address, or the core can't reach it.
    Bus(u64),
    /// The instruction took an exception, or is not one that the machine executes.
    Instruction(u32),
    /// The machine is gone or does not answer.
    Gone(io::Error),
}

impl std::fmt::Display for MachineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            MachineError::Bus(address) => write!(f, "no memory answers at {address:#x}"),
            MachineError::Instruction(word) => write!(f, "the instruction {word:#010x} is not executed"),
            MachineError::Gone(error) => write!(f, "the machine does not answer: {error}"),
        }
    }
}

impl std::error::Error for MachineError {}

impl From<io::Error> for MachineError {
    fn from(error: io::Error) -> Self {
        MachineError::Gone(error)
    }
}

/// Registers of a halted core.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// X0 to X30.
    pub x: [u64; 31],
    /// The stack pointer that PSTATE.SP selects.
    pub sp: u64,
    /// Where the core goes on: DLR_EL0 while it is halted.
    pub pc: u64,
    /// DSPSR_EL0 while it is halted.
    pub pstate: u32,
}

/// A machine with cores. Cores are named by index; what takes several does it in one stop.
pub trait Machine: Send {
    /// Number of cores.
    fn cores(&self) -> usize;

    /// MPIDR_EL1 of a core.
    fn mpidr(&self, core: usize) -> u64;

    /// Where RAM begins and how many bytes it has.
    fn ram(&self) -> (u64, u64);

    /// Reads physical memory, whatever runs.
    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), MachineError>;

    /// Writes physical memory, whatever runs.
    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MachineError>;

    /// Stops these running cores, all at the same time.
    fn halt(&mut self, cores: &[usize]) -> Result<(), MachineError>;

    /// Lets these halted cores go on, all at the same time.
    fn resume(&mut self, cores: &[usize]) -> Result<(), MachineError>;

    /// Lets a halted core execute one instruction; it is halted afterwards.
    fn step(&mut self, core: usize) -> Result<(), MachineError>;

    /// Registers of a halted core. What is changed in them takes effect before the core executes anything.
    fn registers(&mut self, core: usize) -> Result<&mut Registers, MachineError>;

    /// Executes an instruction on a halted core, that neither branches nor touches memory; PC and PSTATE stay.
    fn execute(&mut self, core: usize, instruction: u32) -> Result<(), MachineError>;

    /// Reads memory as a halted core sees it.
    fn read_virtual(&mut self, core: usize, address: u64, bytes: &mut [u8]) -> Result<(), MachineError>;

    /// Writes memory as a halted core sees it.
    fn write_virtual(&mut self, core: usize, address: u64, bytes: &[u8]) -> Result<(), MachineError>;

    /// How it ended, if it has.
    fn ended(&mut self) -> Option<String> {
        None
    }
}
