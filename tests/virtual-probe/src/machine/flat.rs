//! A machine for tests: an array of bytes, cores whose counter grows when they are let go, no instructions of their own.

use std::collections::HashMap;

use super::{Machine, MachineError, Registers};

/// Memory and idle cores.
#[derive(Debug)]
pub struct FlatMachine {
    base: u64,
    memory: Vec<u8>,
    cores: Vec<Registers>,
    running: Vec<bool>,
    /// System registers and the like, by core and the instruction's bits without the general register.
    stored: HashMap<(usize, u32), u64>,
    /// Sets of cores that were stopped together, in order.
    pub stops: Vec<Vec<usize>>,
}

impl FlatMachine {
    /// `bytes` of zeroed memory from physical address `base`, and running cores at EL1.
    pub fn new(base: u64, bytes: usize, cores: usize) -> FlatMachine {
        let at_el1 = Registers { pstate: 0x3C5, pc: base, ..Registers::default() };
        FlatMachine {
            base,
            memory: vec![0; bytes],
            cores: vec![at_el1; cores],
            running: vec![true; cores],
            stored: HashMap::new(),
            stops: Vec::new(),
        }
    }

    fn range(&self, address: u64, bytes: usize) -> Result<std::ops::Range<usize>, MachineError> {
        let start = address.checked_sub(self.base).filter(|start| *start <= self.memory.len() as u64);
        let start = start.ok_or(MachineError::Bus(address))? as usize;
        let end = start.checked_add(bytes).filter(|end| *end <= self.memory.len());
        Ok(start..end.ok_or(MachineError::Bus(address))?)
    }
}

impl Machine for FlatMachine {
    fn cores(&self) -> usize {
        self.cores.len()
    }

    fn mpidr(&self, core: usize) -> u64 {
        0x8000_0000 | core as u64
    }

    fn ram(&self) -> (u64, u64) {
        (self.base, self.memory.len() as u64)
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        let range = self.range(address, bytes.len())?;
        bytes.copy_from_slice(&self.memory[range]);
        Ok(())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MachineError> {
        let range = self.range(address, bytes.len())?;
        self.memory[range].copy_from_slice(bytes);
        Ok(())
    }

    fn halt(&mut self, cores: &[usize]) -> Result<(), MachineError> {
        self.stops.push(cores.to_vec());
        for core in cores {
            self.running[*core] = false;
        }
        Ok(())
    }

    fn resume(&mut self, cores: &[usize]) -> Result<(), MachineError> {
        for core in cores {
            self.running[*core] = true;
        }
        Ok(())
    }

    fn step(&mut self, core: usize) -> Result<(), MachineError> {
        self.cores[core].pc += 4;
        Ok(())
    }

    fn registers(&mut self, core: usize) -> Result<&mut Registers, MachineError> {
        if self.running[core] {
            return Err(MachineError::Gone(std::io::Error::other("the core runs")));
        }
        Ok(&mut self.cores[core])
    }

    /// Whatever is written is stored under its encoding, and read back from there.
    fn execute(&mut self, core: usize, instruction: u32) -> Result<(), MachineError> {
        let registers = &mut self.cores[core];
        let (to, from) = ((instruction & 31) as usize, (instruction >> 5 & 31) as usize);
        if instruction & 0xFFE0_0000 == 0xD520_0000 {
            let value = self.stored.get(&(core, instruction & 0x001F_FFE0)).copied().unwrap_or(0);
            if let Some(register) = registers.x.get_mut(to) {
                *register = value;
            }
        } else if instruction & 0xFFE0_0000 == 0xD500_0000 {
            let value = registers.x.get(to).copied().unwrap_or(0);
            self.stored.insert((core, instruction & 0x001F_FFE0), value);
        } else if instruction & 0xFFEF_FC00 == 0x4E08_3C00 {
            let key = (core, 1 << 31 | (instruction >> 20 & 1) << 5 | from as u32);
            if let Some(register) = registers.x.get_mut(to) {
                *register = self.stored.get(&key).copied().unwrap_or(0);
            }
        } else if instruction & 0xFFEF_FC00 == 0x4E08_1C00 {
            let key = (core, 1 << 31 | (instruction >> 20 & 1) << 5 | to as u32);
            self.stored.insert(key, registers.x.get(from).copied().unwrap_or(0));
        } else {
            return Err(MachineError::Instruction(instruction));
        }
        Ok(())
    }

    fn read_virtual(&mut self, _core: usize, address: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        self.read(address, bytes)
    }

    fn write_virtual(&mut self, _core: usize, address: u64, bytes: &[u8]) -> Result<(), MachineError> {
        self.write(address, bytes)
    }
}
