//! The debug port (DPv2, serial wire) and its two memory access ports, register by register (ADIv5.2, IHI 0031).
//!
//! An access port's read is posted: the transfer answers with the result of the one before, RDBUFF fetches the last. An
//! access that fails sets STICKYERR and shows at the *next* transfer, which is answered FAULT, and so are all others but
//! reads of DPIDR and CTRL/STAT and writes of ABORT, until ABORT clears it.

use std::collections::HashMap;

use crate::debug::{Context, DebugBus, Fault, complain};
use crate::knobs::Knobs;
use crate::layout::SocLayout;
use crate::machine::{Machine, MachineError};
use crate::region::Regions;
use crate::stats::{Purpose, Stats};

/// Bytes that the `stale` knob captures at once.
const PAGE: u64 = 4096;

/// A debug port of version 2, as CoreSight SoC-400 has it.
const DPIDR: u32 = 0x6BA0_2477;
/// TARGETID: a part of Arm's without a number.
const TARGETID: u32 = 0x0000_0477;
/// DLPIDR: serial wire protocol version 2.
const DLPIDR: u32 = 0x0000_0001;

/// CTRL/STAT: power-up requests of the debug and the system domain. Their acknowledges are one bit above.
const POWER_REQUESTS: u32 = 1 << 28 | 1 << 30;
const STICKY_ERROR: u32 = 1 << 5;
const READ_OK: u32 = 1 << 6;
/// CTRL/STAT: MASKLANE, TRNMODE, ORUNDETECT and the requests are kept.
const CONTROL: u32 = POWER_REQUESTS | 1 << 26 | 0xF << 8 | 3 << 2 | 1;
/// ABORT.STKERRCLR.
const CLEAR_STICKY_ERROR: u32 = 1 << 2;

/// Address bits that a memory access port increments.
const INCREMENT_MASK: u64 = 0x3FF;

/// One transfer on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whether it is for an access port; else for the debug port.
    pub ap: bool,
    /// Bits 3 and 2 of the register's address: 0, 4, 8 or 0xC.
    pub address: u8,
    /// What is written; `None`: it is a read.
    pub write: Option<u32>,
}

/// A memory access port's own registers.
#[derive(Debug)]
struct MemoryAp {
    csw: u32,
    tar: u64,
    /// The low word of a 64-bit write, or the high word of a 64-bit read, between its two transfers.
    half: Option<Half>,
}

#[derive(Clone, Copy, Debug)]
enum Half {
    ToRead { high: u32, purpose: Purpose },
    ToWrite { low: u32 },
}

/// The port, and all that is behind it.
pub struct Port {
    layout: SocLayout,
    knobs: Knobs,
    machine: Box<dyn Machine>,
    bus: DebugBus,
    regions: Regions,
    /// Pages as the system access port first saw them (knob `stale`).
    captured: HashMap<u64, Box<[u8; PAGE as usize]>>,
    stats: Stats,
    select: u32,
    control: u32,
    sticky_error: bool,
    posted: u32,
    /// What the access that was posted last was for, if it was one of data.
    posted_for: Option<Purpose>,
    /// Transfers since the last data access.
    prepared: u64,
    system: MemoryAp,
    debug: MemoryAp,
}

impl std::fmt::Debug for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Port").field("layout", &self.layout).field("stats", &self.stats).finish_non_exhaustive()
    }
}

impl Port {
    /// A port over a machine that has the layout's cores.
    pub fn new(layout: SocLayout, machine: Box<dyn Machine>, knobs: Knobs) -> Port {
        let mut stats = Stats::default();
        stats.halts.cores = vec![0; machine.cores()];
        for ap in [layout.system_ap, layout.debug_ap] {
            stats.transfers.ap.entry(ap).or_default();
        }
        Port {
            bus: DebugBus::new(layout.clone(), &knobs),
            regions: Regions::default(),
            captured: HashMap::new(),
            stats,
            select: 0,
            control: 0,
            sticky_error: false,
            posted: 0,
            posted_for: None,
            prepared: 0,
            // DbgSwEnable, privileged non-secure data, not cached; DeviceEn, 32 bits.
            system: MemoryAp { csw: 0xB000_0042, tar: 0, half: None },
            debug: MemoryAp { csw: 0x8000_0042, tar: 0, half: None },
            layout,
            knobs,
            machine,
        }
    }

    /// A debugger connects: the debug port starts anew, access ports keep what they hold.
    pub fn connect(&mut self) {
        self.stats.connections += 1;
        (self.select, self.control, self.sticky_error) = (0, 0, false);
        (self.posted, self.posted_for, self.prepared) = (0, None, 0);
    }

    /// What was counted.
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    pub(crate) fn stats_mut(&mut self) -> &mut Stats {
        &mut self.stats
    }

    pub(crate) fn knobs_mut(&mut self) -> &mut Knobs {
        &mut self.knobs
    }

    /// The machine behind the port.
    pub fn machine(&mut self) -> &mut dyn Machine {
        &mut *self.machine
    }

    /// One transfer. What it reads, 0 for a write.
    pub fn transfer(&mut self, request: Request) -> Result<u32, Fault> {
        self.stats.transfers.total += 1;
        self.stats.purposes.unattributed += 1;
        self.prepared += 1;
        let address = request.address & 0xC;
        let result = match (request.ap, request.write) {
            (false, None) => self.read_dp(address),
            (false, Some(value)) => self.write_dp(address, value).map(|()| 0),
            (true, write) => self.access_ap(address, write),
        };
        self.stats.faults += u64::from(result.is_err());
        result
    }

    fn read_dp(&mut self, address: u8) -> Result<u32, Fault> {
        self.stats.transfers.dp_reads += 1;
        match (address, self.select & 0xF) {
            (0x0, _) => Ok(DPIDR),
            (0x4, 0) => {
                let acknowledged = (self.control & POWER_REQUESTS) << 1;
                let error = if self.sticky_error { STICKY_ERROR } else { READ_OK };
                Ok(self.control | acknowledged | error)
            }
            (0xC, _) => {
                self.stats.transfers.rdbuff_reads += 1;
                if let Some(purpose) = self.posted_for.take() {
                    // It ends the access before it and prepares none.
                    self.stats.purposes.unattributed -= 1;
                    self.prepared -= 1;
                    self.stats.fetch(purpose);
                }
                self.unless_sticky()?;
                Ok(self.posted)
            }
            (0x4, bank) => {
                self.unless_sticky()?;
                Ok(match bank {
                    // DLCR: one turnaround cycle.
                    1 => 0x40,
                    2 => TARGETID,
                    3 => DLPIDR,
                    _ => 0,
                })
            }
            // RESEND.
            _ => {
                self.unless_sticky()?;
                Ok(self.posted)
            }
        }
    }

    fn write_dp(&mut self, address: u8, value: u32) -> Result<(), Fault> {
        self.stats.transfers.dp_writes += 1;
        self.stats.transfers.select_writes += u64::from(address == 0x8);
        match address {
            0x0 => {
                if value & CLEAR_STICKY_ERROR != 0 {
                    self.sticky_error = false;
                }
                return Ok(());
            }
            // TARGETSEL: there is one target on the wire, and it is selected.
            0xC => return Ok(()),
            _ => {}
        }
        self.unless_sticky()?;
        match (address, self.select & 0xF) {
            (0x4, 0) => self.control = value & CONTROL,
            (0x8, _) => self.select = value,
            _ => {}
        }
        Ok(())
    }

    fn unless_sticky(&self) -> Result<(), Fault> {
        if self.sticky_error { Err(Fault) } else { Ok(()) }
    }

    fn access_ap(&mut self, address: u8, write: Option<u32>) -> Result<u32, Fault> {
        let index = (self.select >> 24) as u8;
        let register = self.select as u8 & 0xF0 | address;
        let counted = self.stats.transfers.ap.entry(index).or_default();
        let counted = if write.is_some() { &mut counted.writes } else { &mut counted.reads };
        *match register {
            0x00 => &mut counted.csw,
            0x04 | 0x08 => &mut counted.tar,
            0x0C | 0x10..=0x1C => &mut counted.drw,
            _ => &mut counted.other,
        } += 1;
        self.unless_sticky()?;
        if self.control & POWER_REQUESTS != POWER_REQUESTS {
            // Nobody asked for power.
            self.sticky_error = true;
            return Err(Fault);
        }
        let system = index == self.layout.system_ap && !self.knobs.no_system_ap;
        let debug = index == self.layout.debug_ap;
        self.posted_for = None;
        let result = match write {
            // A port that is not there reads as zeroes.
            None if system || debug => self.read_ap(system, register),
            None => Ok(0),
            Some(value) if system || debug => self.write_ap(system, register, value).map(|()| 0),
            Some(_) => Ok(0),
        };
        if result.is_err() {
            self.sticky_error = true;
        }
        Ok(match write {
            None => std::mem::replace(&mut self.posted, result.unwrap_or(0)),
            Some(_) => 0,
        })
    }

    fn ap(&mut self, system: bool) -> &mut MemoryAp {
        if system { &mut self.system } else { &mut self.debug }
    }

    fn read_ap(&mut self, system: bool, register: u8) -> Result<u32, Fault> {
        let large_data = !self.knobs.no_large_data;
        Ok(match register {
            0x00 => self.ap(system).csw,
            0x04 => self.ap(system).tar as u32,
            0x08 => (self.ap(system).tar >> 32) as u32,
            0x0C => return self.read_data(system),
            0x10..=0x1C => {
                let at = self.ap(system).tar & !0xF | u64::from(register & 0xC);
                return self.read_bus(system, at, 4).map(|word| word as u32);
            }
            0xF4 => match system {
                // CFG.LA, CFG.LD.
                true => 1 << 1 | u32::from(large_data) << 2,
                false => 0,
            },
            // BASE: the format is ADIv5; behind the system port there are no components.
            0xF8 => match system {
                true => 2,
                false => self.layout.rom_base as u32 | 3,
            },
            // IDR: Arm's, class memory access port, AXI3/4 or APB2/3.
            0xFC => match system {
                true => 0x4477_0004,
                false => 0x4477_0002,
            },
            _ => 0,
        })
    }

    fn write_ap(&mut self, system: bool, register: u8, value: u32) -> Result<(), Fault> {
        let large_data = !self.knobs.no_large_data;
        let ap = self.ap(system);
        match register {
            0x00 => {
                ap.half = None;
                // DeviceEn reads as one. Packed increments there are none.
                let increment = if value >> 4 & 3 == 1 { 1 << 4 } else { 0 };
                ap.csw = match system {
                    true => {
                        let size = match value & 7 {
                            size @ 0..=2 => size,
                            3 if large_data => 3,
                            _ => 2,
                        };
                        value & 0xFF00_7F00 | 1 << 6 | increment | size
                    }
                    false => value & 0x8000_0000 | 1 << 6 | increment | 2,
                };
            }
            0x04 => {
                ap.half = None;
                ap.tar = ap.tar & !0xFFFF_FFFF | u64::from(value);
            }
            0x08 if system => {
                ap.half = None;
                ap.tar = ap.tar & 0xFFFF_FFFF | u64::from(value) << 32;
            }
            0x0C => return self.write_data(system, value),
            0x10..=0x1C => {
                let at = ap.tar & !0xF | u64::from(register & 0xC);
                return self.write_bus(system, at, 4, value.into());
            }
            _ => {}
        }
        Ok(())
    }

    /// Bytes of one access of DRW, and its address.
    fn access(&mut self, system: bool) -> (u64, u64) {
        let ap = self.ap(system);
        (1 << (ap.csw & 7), ap.tar)
    }

    fn increment(&mut self, system: bool) {
        let ap = self.ap(system);
        if ap.csw >> 4 & 3 == 1 {
            let next = ap.tar.wrapping_add(1 << (ap.csw & 7));
            ap.tar = ap.tar & !INCREMENT_MASK | next & INCREMENT_MASK;
        }
    }

    fn read_data(&mut self, system: bool) -> Result<u32, Fault> {
        let (bytes, address) = self.access(system);
        if let Some(Half::ToRead { high, purpose }) = self.ap(system).half.take() {
            self.count_data(purpose, 4);
            self.increment(system);
            return Ok(high);
        }
        let value = self.read_bus(system, address, bytes)?;
        if bytes == 8 {
            // The second transfer is for what the first one is for.
            if let Some(purpose) = self.posted_for {
                self.ap(system).half = Some(Half::ToRead { high: (value >> 32) as u32, purpose });
            }
            return Ok(value as u32);
        }
        self.increment(system);
        // Each byte lies in the lane of its address.
        Ok((value << (8 * (address & 3))) as u32)
    }

    fn write_data(&mut self, system: bool, value: u32) -> Result<(), Fault> {
        let (bytes, address) = self.access(system);
        let wide = match self.ap(system).half.take() {
            Some(Half::ToWrite { low }) if bytes == 8 => u64::from(value) << 32 | u64::from(low),
            _ if bytes == 8 => {
                self.ap(system).half = Some(Half::ToWrite { low: value });
                self.count_data(if system { Purpose::SystemWrites } else { Purpose::Debug }, 4);
                return Ok(());
            }
            _ => u64::from(value) >> (8 * (address & 3)),
        };
        self.write_bus(system, address, bytes, wide)?;
        self.increment(system);
        Ok(())
    }

    fn count_data(&mut self, purpose: Purpose, bytes: u64) {
        self.stats.data(purpose, bytes, self.prepared - 1);
        // The access itself was counted as unattributed too.
        self.stats.purposes.unattributed -= 1;
        self.prepared = 0;
        self.posted_for = Some(purpose);
    }

    fn read_bus(&mut self, system: bool, address: u64, bytes: u64) -> Result<u64, Fault> {
        if !system {
            self.count_data(Purpose::Debug, 4);
            let mut context = Context { machine: &mut *self.machine, stats: &mut self.stats };
            return self.bus.read(&mut context, address & 0xFFFF_FFFF).map(u64::from);
        }
        let purpose = self.regions.purpose(&mut *self.machine, address);
        self.count_data(purpose, bytes.min(4));
        if !address.is_multiple_of(bytes) || self.knobs.faults_at(address, bytes) {
            return Err(Fault);
        }
        let mut data = [0; 8];
        let data_bytes = &mut data[..bytes as usize];
        if self.knobs.stale && !self.regions.is_clean(&mut *self.machine, address) {
            self.read_captured(address, data_bytes)?;
        } else {
            self.machine.read(address, data_bytes).map_err(refused)?;
        }
        Ok(u64::from_le_bytes(data))
    }

    /// Reads a page as it was at its first read.
    fn read_captured(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Fault> {
        let start = address - address % PAGE;
        if !self.captured.contains_key(&start) {
            let mut page = Box::new([0; PAGE as usize]);
            self.machine.read(start, &mut page[..]).map_err(refused)?;
            self.captured.insert(start, page);
        }
        let from = (address % PAGE) as usize;
        bytes.copy_from_slice(&self.captured[&start][from..from + bytes.len()]);
        Ok(())
    }

    fn write_bus(&mut self, system: bool, address: u64, bytes: u64, value: u64) -> Result<(), Fault> {
        if !system {
            self.count_data(Purpose::Debug, 4);
            let mut context = Context { machine: &mut *self.machine, stats: &mut self.stats };
            return self.bus.write(&mut context, address & 0xFFFF_FFFF, value as u32);
        }
        self.count_data(Purpose::SystemWrites, bytes.min(4));
        if !address.is_multiple_of(bytes) || self.knobs.faults_at(address, bytes) {
            return Err(Fault);
        }
        let data = &value.to_le_bytes()[..bytes as usize];
        self.machine.write(address, data).map_err(refused)?;
        self.regions.wrote(&*self.machine, address);
        if let Some(page) = self.captured.get_mut(&(address - address % PAGE)) {
            let from = (address % PAGE) as usize;
            page[from..from + data.len()].copy_from_slice(data);
        }
        Ok(())
    }
}

fn refused(error: MachineError) -> Fault {
    if let MachineError::Gone(_) = error {
        complain(&error.to_string());
    }
    Fault
}
