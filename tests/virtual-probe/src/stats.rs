//! What went over the port, counted: transfers by register and by purpose, what was read of a trace region, halts.
//!
//! Every transfer has a purpose: that of the data access (DRW or BD0 to BD3) that it prepares or, for the RDBUFF read
//! that fetches a posted result, follows. So `transfers.total` is always the sum of `data` and `overhead` over all
//! purposes, plus `unattributed`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What a data access is for, told by where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Reads records of a trace region.
    Payload,
    /// Reads head lines.
    Heads,
    /// Reads the directory's status or request line.
    Status,
    /// Reads anything else of a region before its records.
    Prefix,
    /// Reads other memory.
    Outside,
    /// Writes memory.
    SystemWrites,
    /// Reads or writes debug components.
    Debug,
}

/// Everything that is counted, since the probe was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Debuggers that connected.
    pub connections: u64,
    /// Transfers on the wire.
    pub transfers: Transfers,
    /// Data reads through the system access port, by where in a trace region they lie.
    pub system_reads: SystemReads,
    /// Transfers by purpose.
    pub purposes: Purposes,
    /// Halts of cores.
    pub halts: Halts,
    /// Restarts of cores that a debugger made.
    pub restarts: u64,
    /// Transfers that were answered FAULT.
    pub faults: u64,
    /// Times that the wire was cut.
    pub cuts: u64,
    /// Times that the probe stopped to answer.
    pub hangs: u64,
}

/// Transfers on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transfers {
    /// All of them.
    pub total: u64,
    /// Reads of the debug port.
    pub dp_reads: u64,
    /// Of those, the ones of RDBUFF.
    pub rdbuff_reads: u64,
    /// Writes of the debug port.
    pub dp_writes: u64,
    /// Of those, the ones of SELECT.
    pub select_writes: u64,
    /// Those of access ports, by index.
    pub ap: BTreeMap<u8, ApTransfers>,
}

/// Transfers of one access port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApTransfers {
    /// Reads.
    pub reads: Registers,
    /// Writes.
    pub writes: Registers,
}

/// Transfers by register.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// CSW.
    pub csw: u64,
    /// TAR, both words.
    pub tar: u64,
    /// DRW, and BD0 to BD3.
    pub drw: u64,
    /// IDR, CFG, BASE and the rest.
    pub other: u64,
}

/// Transfers and the bytes they carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// Transfers.
    pub transfers: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Data reads through the system access port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemReads {
    /// The records section.
    pub payload: Span,
    /// The head lines section.
    pub heads: Span,
    /// The directory's status and request lines.
    pub status: Span,
    /// The rest of the region before the records.
    pub prefix: Span,
    /// Other memory.
    pub outside: Span,
}

/// Transfers that one purpose took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cost {
    /// Data accesses.
    pub data: u64,
    /// What they needed besides: SELECT, CSW, TAR, RDBUFF.
    pub overhead: u64,
}

/// Transfers by purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Purposes {
    /// Reading records.
    pub payload: Cost,
    /// Reading head lines.
    pub heads: Cost,
    /// Reading the status and request lines.
    pub status: Cost,
    /// Reading the rest of a region before the records.
    pub prefix: Cost,
    /// Reading other memory.
    pub outside: Cost,
    /// Writing memory.
    pub system_writes: Cost,
    /// Reading and writing debug components.
    pub debug: Cost,
    /// Transfers that no data access followed, up to now.
    pub unattributed: u64,
}

/// Halts of cores, each core of a group counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halts {
    /// All cores together.
    pub total: u64,
    /// Times that one or more cores were halted at once.
    pub stops: u64,
    /// By core.
    pub cores: Vec<u64>,
    /// Halts since a debugger last restarted a core (since the start, if none did).
    pub since_restart: u64,
}

impl Halts {
    pub(crate) fn count(&mut self, cores: &[usize]) {
        self.stops += u64::from(!cores.is_empty());
        for core in cores {
            if self.cores.len() <= *core {
                self.cores.resize(*core + 1, 0);
            }
            self.cores[*core] += 1;
            self.total += 1;
            self.since_restart += 1;
        }
    }
}

impl Purposes {
    fn of(&mut self, purpose: Purpose) -> &mut Cost {
        match purpose {
            Purpose::Payload => &mut self.payload,
            Purpose::Heads => &mut self.heads,
            Purpose::Status => &mut self.status,
            Purpose::Prefix => &mut self.prefix,
            Purpose::Outside => &mut self.outside,
            Purpose::SystemWrites => &mut self.system_writes,
            Purpose::Debug => &mut self.debug,
        }
    }

    /// Sum of everything: equals [`Transfers::total`].
    pub fn total(&self) -> u64 {
        let Purposes { payload, heads, status, prefix, outside, system_writes, debug, unattributed } = self;
        let costs = [payload, heads, status, prefix, outside, system_writes, debug];
        costs.into_iter().map(|cost| cost.data + cost.overhead).sum::<u64>() + unattributed
    }
}

impl Stats {
    /// A data access of `bytes` bytes, prepared by the `prepared` transfers that were last left without purpose.
    pub(crate) fn data(&mut self, purpose: Purpose, bytes: u64, prepared: u64) {
        self.purposes.unattributed -= prepared;
        let cost = self.purposes.of(purpose);
        cost.data += 1;
        cost.overhead += prepared;
        let reads = &mut self.system_reads;
        let span = match purpose {
            Purpose::Payload => &mut reads.payload,
            Purpose::Heads => &mut reads.heads,
            Purpose::Status => &mut reads.status,
            Purpose::Prefix => &mut reads.prefix,
            Purpose::Outside => &mut reads.outside,
            Purpose::SystemWrites | Purpose::Debug => return,
        };
        span.transfers += 1;
        span.bytes += bytes;
    }

    /// A transfer that belongs to the data access before it.
    pub(crate) fn fetch(&mut self, purpose: Purpose) {
        self.purposes.of(purpose).overhead += 1;
    }

    pub(crate) fn restart(&mut self, cores: usize) {
        self.restarts += cores as u64;
        self.halts.since_restart = 0;
    }

    /// Writes it as JSON; whoever reads the file sees all of it or what was there before.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        fs::write(&new, serde_json::to_vec_pretty(self)?)?;
        fs::rename(&new, path)
    }

    /// Reads what [`Stats::write`] wrote.
    pub fn read(path: &Path) -> io::Result<Stats> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }
}
