//! The instructions that a debugger has a halted core execute, as far as debuggers use them.
//!
//! Transfers between general registers, the data transfer registers, DLR, DSPSR, SP and memory are done here. Other
//! system registers and vector lanes are left to the machine. Barriers and cache maintenance have nothing to do: no
//! machine behind the port has caches.

use super::core::CoreDebug;
use crate::machine::{Machine, MachineError, Registers};

/// The 15 bits of MRS and MSR that name a system register.
const fn name(op0: u32, op1: u32, crn: u32, crm: u32, op2: u32) -> u32 {
    (op0 & 1) << 14 | op1 << 11 | crn << 7 | crm << 3 | op2
}

const DBGDTR: u32 = name(2, 3, 0, 4, 0);
/// DBGDTRRX_EL0 to read, DBGDTRTX_EL0 to write.
const DBGDTR_32: u32 = name(2, 3, 0, 5, 0);
const DLR: u32 = name(3, 3, 4, 5, 1);
const DSPSR: u32 = name(3, 3, 4, 5, 0);
const CURRENT_EL: u32 = name(3, 0, 4, 2, 2);

fn get(registers: &Registers, index: u32) -> u64 {
    registers.x.get(index as usize).copied().unwrap_or(0)
}

fn set(registers: &mut Registers, index: u32, value: u64) {
    if let Some(register) = registers.x.get_mut(index as usize) {
        *register = value;
    }
}

pub(super) fn execute(
    debug: &mut CoreDebug,
    machine: &mut dyn Machine,
    core: usize,
    instruction: u32,
) -> Result<(), MachineError> {
    let (target, source) = (instruction & 31, instruction >> 5 & 31);
    match instruction {
        // NOP, DSB, DMB, ISB.
        0xD503_201F => Ok(()),
        word if word & 0xFFFF_F01F == 0xD503_301F => Ok(()),
        // IC, DC (but for AT, CRm 8) and TLBI.
        word if word & 0xFFF8_0000 == 0xD508_0000
            && matches!((word >> 12 & 15, word >> 8 & 15), (7, 0..=7 | 9..) | (8, _)) =>
        {
            Ok(())
        }
        word if word & 0xFFF0_0000 == 0xD530_0000 => read_system(debug, machine, core, word),
        word if word & 0xFFF0_0000 == 0xD510_0000 => write_system(debug, machine, core, word),
        // UMOV Xd, Vn.D[i] and INS Vd.D[i], Xn.
        word if matches!(word & 0xFFEF_FC00, 0x4E08_3C00 | 0x4E08_1C00) => machine.execute(core, word),
        // ADD Xd, Xn, #imm, where 31 is SP: MOV to and from SP is this with 0.
        word if word & 0xFF80_0000 == 0x9100_0000 => {
            let shift = 12 * (word >> 22 & 1);
            let addend = u64::from(word >> 10 & 0xFFF) << shift;
            let registers = machine.registers(core)?;
            let value = if source == 31 { registers.sp } else { get(registers, source) }.wrapping_add(addend);
            if target == 31 {
                registers.sp = value;
            } else {
                set(registers, target, value);
            }
            Ok(())
        }
        // LDR and STR of 1, 2, 4, 8 bytes, post-indexed.
        word if word & 0x3FA0_0C00 == 0x3800_0400 => transfer(machine, core, word),
        word => Err(MachineError::Instruction(word)),
    }
}

fn read_system(
    debug: &mut CoreDebug,
    machine: &mut dyn Machine,
    core: usize,
    instruction: u32,
) -> Result<(), MachineError> {
    let target = instruction & 31;
    let value = match instruction >> 5 & 0x7FFF {
        DBGDTR => {
            debug.rx_full = false;
            u64::from(debug.tx) << 32 | u64::from(debug.rx)
        }
        DBGDTR_32 => {
            debug.rx_full = false;
            debug.rx.into()
        }
        DLR => machine.registers(core)?.pc,
        DSPSR => machine.registers(core)?.pstate.into(),
        CURRENT_EL => u64::from(debug.level() << 2),
        _ => return machine.execute(core, instruction),
    };
    set(machine.registers(core)?, target, value);
    Ok(())
}

fn write_system(
    debug: &mut CoreDebug,
    machine: &mut dyn Machine,
    core: usize,
    instruction: u32,
) -> Result<(), MachineError> {
    let value = get(machine.registers(core)?, instruction & 31);
    match instruction >> 5 & 0x7FFF {
        DBGDTR => {
            (debug.rx, debug.tx) = ((value >> 32) as u32, value as u32);
            debug.tx_full = true;
        }
        DBGDTR_32 => {
            debug.tx = value as u32;
            debug.tx_full = true;
        }
        DLR => machine.registers(core)?.pc = value,
        DSPSR => machine.registers(core)?.pstate = value as u32,
        _ => return machine.execute(core, instruction),
    }
    Ok(())
}

fn transfer(machine: &mut dyn Machine, core: usize, instruction: u32) -> Result<(), MachineError> {
    let bytes = 1usize << (instruction >> 30);
    let (register, base) = (instruction & 31, instruction >> 5 & 31);
    // 9 bits, signed.
    let step = i64::from((instruction << 11) as i32 >> 23);
    let registers = machine.registers(core)?;
    let address = if base == 31 { registers.sp } else { get(registers, base) };
    let mut data = get(registers, register).to_le_bytes();
    if instruction & 1 << 22 != 0 {
        data = [0; 8];
        machine.read_virtual(core, address, &mut data[..bytes])?;
        set(machine.registers(core)?, register, u64::from_le_bytes(data));
    } else {
        machine.write_virtual(core, address, &data[..bytes])?;
    }
    let registers = machine.registers(core)?;
    let next = address.wrapping_add_signed(step);
    if base == 31 {
        registers.sp = next;
    } else {
        set(registers, base, next);
    }
    Ok(())
}
