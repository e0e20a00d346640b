//! Cores seen from outside: v8-A external debug and cross triggers, through the access port of the debug components.
//!
//! Only what a run needs: who a core is and whether it has power, a halt of chosen cores at one moment, registers and
//! memory of a halted core, and going on. Registers and their fields are those of DDI 0487 (Arm ARM), H9.2 (external
//! debug) and H9.3 (cross-trigger interface); the procedures are those of H2 and H5. A core is touched no more than
//! asked for: what is switched on for a halt is switched off again by [`Cores::release`].

use std::time::{Duration, Instant};

use boards::{AccessPort, CoreDebug};

use super::link::{Link, LinkError, Step};

// External debug registers, offsets.
const EDSCR: u64 = 0x088;
const EDRCR: u64 = 0x090;
const EDITR: u64 = 0x084;
const DTRRX: u64 = 0x080;
const DTRTX: u64 = 0x08C;
const OSLAR: u64 = 0x300;
const EDPRSR: u64 = 0x314;
const MIDR: u64 = 0xD00;
const EDDEVAFF0: u64 = 0xFA8;
const EDDEVAFF1: u64 = 0xFAC;
const LAR: u64 = 0xFB0;
// Cross-trigger interface, offsets.
const CTICONTROL: u64 = 0x000;
const CTIINTACK: u64 = 0x010;
const CTIAPPPULSE: u64 = 0x01C;
const CTIOUTEN0: u64 = 0x0A0;
const CTIOUTEN1: u64 = 0x0A4;
const CTITRIGOUTSTATUS: u64 = 0x134;
const CTIGATE: u64 = 0x140;
/// Unlocks a component that has a software lock (CoreSight, IHI 0029, B2.3.9); written to one without, nothing happens.
const UNLOCK: u32 = 0xC5AC_CE55;

// EDPRSR fields.
const POWERED: u32 = 1;
const DOUBLE_LOCKED: u32 = 1 << 6;
const LOCKED: u32 = 1 << 5;
const HALTED: u32 = 1 << 4;
// EDSCR fields.
const STATUS: u32 = 0x3F;
const ERR: u32 = 1 << 6;
const HDE: u32 = 1 << 14;
const NS: u32 = 1 << 18;
const MA: u32 = 1 << 20;
const ITE: u32 = 1 << 24;
const TXFULL: u32 = 1 << 29;
const RXFULL: u32 = 1 << 30;
/// What a debugger sets in EDSCR: INTdis, TDA, SC2, HDE. (MA is ours, set and cleared for each use.)
const CHOSEN: u32 = 3 << 22 | 1 << 21 | 1 << 19 | HDE;
/// EDSCR.STATUS up to which a core runs: 1 restarting, 2 in Non-debug state.
const RUNNING: u32 = 2;
/// EDRCR.CSE: clears EDSCR's sticky errors.
const CSE: u32 = 1 << 2;

// Instructions, executed by EDITR.
/// MRS x0, DBGDTR_EL0; the number of the register is added.
const GET_X: u32 = 0xD533_0400;
/// MSR DBGDTR_EL0, x0; the number of the register is added.
const PUT_X: u32 = 0xD513_0400;
/// MRS x0, DBGDTRRX_EL0: takes what waits there.
const TAKE_RX: u32 = 0xD533_0500;
/// MRS x0, DLR_EL0 and MSR DLR_EL0, x0: where the core goes on.
const GET_DLR: u32 = 0xD53B_4520;
const SET_DLR: u32 = 0xD51B_4520;
/// MRS x0, DSPSR_EL0 and MSR DSPSR_EL0, x0: in which state.
const GET_DSPSR: u32 = 0xD53B_4500;
const SET_DSPSR: u32 = 0xD51B_4500;
/// ADD x0, SP, #0: the stack pointer in use (allowed in Debug state, DDI 0487, H2.4).
const GET_SP: u32 = 0x9100_03E0;
const DSB_SY: u32 = 0xD503_3F9F;
const ISB: u32 = 0xD503_3FDF;
/// DC CIVAC, x0.
const CLEAN: u32 = 0xD50B_7E20;
/// IC IALLU.
const FORGET_INSTRUCTIONS: u32 = 0xD508_751F;

/// MRS x0, SCTLR_ELx and MSR SCTLR_ELx, x0, by exception level.
const GET_SCTLR: [u32; 4] = [0, 0xD538_1000, 0xD53C_1000, 0xD53E_1000];
const SET_SCTLR: [u32; 4] = [0, 0xD518_1000, 0xD51C_1000, 0xD51E_1000];
/// SCTLR_ELx: I, C and M.
const CACHES_AND_MMU: u64 = 0x1005;

/// DAIF in DSPSR_EL0: everything masked.
const DAIF: u64 = 0xF << 6;

/// How long a core may take to halt or to go on.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a core looks like from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// EDPRSR; `None`: its registers don't answer.
    pub edprsr: Option<u32>,
    /// MIDR_EL1, where the core has power.
    pub midr: Option<u32>,
    /// Affinity fields of MPIDR_EL1 (EDDEVAFF), where the core has power.
    pub affinity: Option<u64>,
    /// Why it can't be used, if it can't.
    pub trouble: Option<String>,
}

impl Seen {
    /// Whether it can be debugged.
    pub fn is_usable(&self) -> bool {
        self.trouble.is_none()
    }
}

/// Why something with a core failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CoreError {
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The core did not do as told.
    #[error("core {core} {what} (EDPRSR {edprsr:#x}, EDSCR {edscr:#x})")]
    Stubborn {
        /// The core.
        core: usize,
        /// What it did not do.
        what: String,
        /// Its state.
        edprsr: u32,
        /// See above.
        edscr: u32,
    },
}

/// In which state a halted core stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// Exception level, 0 to 3.
    pub level: u8,
    /// Whether it is in AArch64 state.
    pub wide: bool,
    /// Whether it is in Secure state.
    pub secure: bool,
}

/// Where a halted core stood, and the registers that a launch changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// DLR_EL0: the address at which it goes on.
    pub pc: u64,
    /// DSPSR_EL0.
    state: u64,
    /// SCTLR_ELx of its exception level.
    control: u64,
    level: usize,
    /// x0 to x4.
    x: [u64; 5],
}

/// Registers of a halted core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registers {
    /// DLR_EL0: the address at which it goes on.
    pub pc: u64,
    /// DSPSR_EL0.
    pub pstate: u64,
    /// The stack pointer in use.
    pub sp: u64,
    /// x29.
    pub fp: u64,
    /// x30.
    pub lr: u64,
}

/// A core whose debug logic was opened, with what was there before.
#[derive(Clone, Copy, Debug)]
struct Opened {
    core: usize,
    /// Whether the OS lock was set.
    locked: bool,
    edscr: u32,
    control: u32,
    outputs: [u32; 2],
    gate: u32,
}

/// The cores of a board, by their debug components.
#[derive(Clone, Debug)]
pub struct Cores {
    port: AccessPort,
    cores: Vec<CoreDebug>,
    opened: Vec<Opened>,
}

impl Cores {
    /// The components of `cores` behind `port`.
    pub fn new(port: AccessPort, cores: &[CoreDebug]) -> Cores {
        Cores { port, cores: cores.to_vec(), opened: Vec::new() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.cores.len()
    }

    /// Looks at core `core` without changing anything but EDPRSR's sticky bits.
    pub fn look(&self, link: &mut Link, core: usize) -> Result<Seen, LinkError> {
        let base = self.cores[core].debug;
        let edprsr = match link.read_word(self.port, base + EDPRSR) {
            Ok(edprsr) => edprsr,
            Err(lost @ LinkError::Lost(_)) => return Err(lost),
            Err(error) => {
                let trouble = format!("its debug registers at {base:#x} do not answer ({error})");
                return Ok(Seen { trouble: Some(trouble), ..Seen::default() });
            }
        };
        let trouble = |what: &str| {
            let trouble = Some(format!("{what} (EDPRSR {edprsr:#x})"));
            Ok(Seen { edprsr: Some(edprsr), trouble, ..Seen::default() })
        };
        if edprsr & POWERED == 0 {
            return trouble("it has no power");
        }
        if edprsr & DOUBLE_LOCKED != 0 {
            return trouble("the OS double lock is set: it is about to be powered down");
        }
        let identity = [MIDR, EDDEVAFF0, EDDEVAFF1].map(|register| Step::Read(base + register)).to_vec();
        match link.registers(self.port, identity).as_deref() {
            Ok([midr, low, high]) => Ok(Seen {
                edprsr: Some(edprsr),
                midr: Some(*midr),
                affinity: Some((u64::from(*high) << 32 | u64::from(*low)) & 0xFF_00FF_FFFF),
                trouble: None,
            }),
            Err(lost @ LinkError::Lost(_)) => Err(lost.clone()),
            _ => trouble("its identity can't be read"),
        }
    }

    /// Halts `cores` at one moment: one pulse on channel 0 of the cross-trigger matrix, and no other core hears it. One
    /// that loses its power meanwhile is not waited for. Where a core refuses, all go on again.
    pub fn halt(&mut self, link: &mut Link, cores: &[usize]) -> Result<(), CoreError> {
        let halted = self.stop(link, cores);
        if halted.is_err() {
            // A request that was not heard is withdrawn too: it would halt the core later.
            let _ = self.restart(link, cores);
        }
        halted
    }

    fn stop(&mut self, link: &mut Link, cores: &[usize]) -> Result<(), CoreError> {
        for core in cores {
            self.open(link, *core)?;
        }
        self.route(link, cores, [1, 0])?;
        let Some(first) = cores.first() else { return Ok(()) };
        link.write_word(self.port, self.cores[*first].cti + CTIAPPPULSE, 1)?;
        for core in cores {
            self.wait(link, *core, "does not halt", |edprsr| edprsr & HALTED != 0 || edprsr & POWERED == 0)?;
        }
        Ok(())
    }

    /// Lets halted `cores` go on at one moment: channel 1. What fails with one keeps none of the others halted.
    pub fn restart(&mut self, link: &mut Link, cores: &[usize]) -> Result<(), CoreError> {
        let mut result = Ok(());
        let mut note = |step: Result<(), CoreError>| {
            if result.is_ok() {
                result = step;
            }
        };
        for core in cores {
            note(self.acknowledge(link, *core));
        }
        note(self.route(link, cores, [0, 2]));
        let Some(first) = cores.first() else { return result };
        note(link.write_word(self.port, self.cores[*first].cti + CTIAPPPULSE, 2).map_err(CoreError::from));
        for core in cores {
            let goes = |edprsr: u32| edprsr & HALTED == 0;
            let mut gone = self.wait(link, *core, "does not go on", goes);
            if matches!(gone, Err(CoreError::Stubborn { .. })) {
                // The matrix did not carry the pulse: the core's own interface is told.
                let own = link.write_word(self.port, self.cores[*core].cti + CTIAPPPULSE, 2);
                gone = own.map_err(CoreError::from).and_then(|()| self.wait(link, *core, "does not go on", goes));
            }
            note(gone);
        }
        result
    }

    /// Takes a halt request back: it must be acknowledged and gone, or the core halts again at once (DDI 0487, H5.4).
    fn acknowledge(&self, link: &mut Link, core: usize) -> Result<(), CoreError> {
        let cti = self.cores[core].cti;
        link.write_word(self.port, cti + CTIINTACK, 1)?;
        let deadline = Instant::now() + PATIENCE;
        while link.read_word(self.port, cti + CTITRIGOUTSTATUS)? & 1 != 0 {
            if Instant::now() > deadline {
                return Err(self.stubborn(link, core, "keeps its halt request"));
            }
        }
        Ok(())
    }

    /// Maps channels to the halt and the restart trigger of `cores`, and of no other core that was opened: where a gate does
    /// not mask inputs, a pulse reaches all whose outputs are enabled. A pulse for one core stays behind its gate.
    fn route(&self, link: &mut Link, cores: &[usize], outputs: [u32; 2]) -> Result<(), CoreError> {
        let mut result = Ok(());
        for opened in &self.opened {
            let chosen = cores.contains(&opened.core);
            let [halt, restart] = if chosen { outputs } else { [0; 2] };
            let gate = if cores.len() > 1 { halt | restart } else { 0 };
            let cti = self.cores[opened.core].cti;
            let steps = vec![
                Step::Write(cti + CTIOUTEN0, halt),
                Step::Write(cti + CTIOUTEN1, restart),
                Step::Write(cti + CTIGATE, gate),
            ];
            match link.registers(self.port, steps) {
                // One that was opened before may have lost its power since.
                Err(LinkError::Access { .. }) if !chosen => {}
                Err(error) if result.is_ok() => result = Err(error.into()),
                _ => {}
            }
        }
        result
    }

    /// Leaves the debug logic as it was found. Cores that are halted stay so.
    pub fn release(&mut self, link: &mut Link) -> Result<(), LinkError> {
        let mut result = Ok(());
        for was in std::mem::take(&mut self.opened) {
            let CoreDebug { debug, cti } = self.cores[was.core];
            let mut steps = vec![
                Step::Write(cti + CTICONTROL, was.control),
                Step::Write(cti + CTIOUTEN0, was.outputs[0]),
                Step::Write(cti + CTIOUTEN1, was.outputs[1]),
                Step::Write(cti + CTIGATE, was.gate),
                Step::Write(debug + EDSCR, was.edscr & CHOSEN),
            ];
            if was.locked {
                steps.push(Step::Write(debug + OSLAR, 1));
            }
            let released = link.registers(self.port, steps).map(drop);
            if result.is_ok() {
                result = released;
            }
        }
        result
    }

    /// Makes a core's debug logic usable: locks off, triggers on.
    fn open(&mut self, link: &mut Link, core: usize) -> Result<(), LinkError> {
        let CoreDebug { debug, cti } = self.cores[core];
        if self.opened.iter().any(|opened| opened.core == core) {
            // A core that lost its power since has its OS lock set again.
            return link.write_word(self.port, debug + OSLAR, 0);
        }
        let before = link.registers(
            self.port,
            vec![
                Step::Write(debug + LAR, UNLOCK),
                Step::Write(cti + LAR, UNLOCK),
                Step::Read(debug + EDPRSR),
                Step::Write(debug + OSLAR, 0),
                Step::Read(debug + EDSCR),
                Step::Read(cti + CTICONTROL),
                Step::Read(cti + CTIOUTEN0),
                Step::Read(cti + CTIOUTEN1),
                Step::Read(cti + CTIGATE),
            ],
        )?;
        let [edprsr, edscr, control, halt, restart, gate] = before[..] else { return Ok(()) };
        let locked = edprsr & LOCKED != 0;
        self.opened.push(Opened { core, locked, edscr, control, outputs: [halt, restart], gate });
        // Nothing is mapped when the interface is switched on.
        let steps = vec![
            Step::Write(cti + CTIOUTEN0, 0),
            Step::Write(cti + CTIOUTEN1, 0),
            Step::Write(cti + CTIGATE, 0),
            Step::Write(cti + CTICONTROL, 1),
            Step::Write(debug + EDSCR, edscr & CHOSEN | HDE),
        ];
        link.registers(self.port, steps).map(drop)
    }

    fn wait(&self, link: &mut Link, core: usize, what: &str, done: impl Fn(u32) -> bool) -> Result<(), CoreError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if done(link.read_word(self.port, self.cores[core].debug + EDPRSR)?) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.stubborn(link, core, what));
            }
        }
    }

    fn stubborn(&self, link: &mut Link, core: usize, what: &str) -> CoreError {
        let base = self.cores[core].debug;
        let edprsr = link.read_word(self.port, base + EDPRSR).unwrap_or(0);
        let edscr = link.read_word(self.port, base + EDSCR).unwrap_or(0);
        CoreError::Stubborn { core, what: what.into(), edprsr, edscr }
    }

    // --- a halted core ------------------------------------------------------------------------------------------------

    /// In which state a halted core stands.
    pub fn level(&self, link: &mut Link, core: usize) -> Result<Level, LinkError> {
        let edscr = link.read_word(self.port, self.cores[core].debug + EDSCR)?;
        // EL: bits 9:8. RW: bits 13:10, bit n for ELn: AArch64.
        let level = (edscr >> 8 & 3) as u8;
        Ok(Level { level, wide: edscr >> 10 >> level & 1 == 1, secure: edscr & NS == 0 })
    }

    /// Makes sure that a core stands still, and that nothing is in the way that others left in its transfer registers (a
    /// console over the debug channel does).
    fn prepare(&self, link: &mut Link, core: usize) -> Result<(), CoreError> {
        let base = self.cores[core].debug;
        let edscr = link.read_word(self.port, base + EDSCR)?;
        if edscr & STATUS <= RUNNING {
            return Err(self.stubborn(link, core, "is not halted"));
        }
        if edscr & ERR != 0 {
            link.write_word(self.port, base + EDRCR, CSE)?;
        }
        if edscr & TXFULL != 0 {
            link.read_word(self.port, base + DTRTX)?;
        }
        if edscr & RXFULL != 0 {
            let kept = self.x(link, core, 0)?;
            self.execute(link, core, &[TAKE_RX])?;
            self.set_x(link, core, 0, kept)?;
        }
        Ok(())
    }

    /// Does something with a halted core that needs its x0 and x1, and gives them back to it, whatever comes of that.
    fn borrowing<R>(
        &self,
        link: &mut Link,
        core: usize,
        work: impl FnOnce(&mut Link) -> Result<R, CoreError>,
    ) -> Result<R, CoreError> {
        self.prepare(link, core)?;
        let kept = [self.x(link, core, 0)?, self.x(link, core, 1)?];
        let result = work(link);
        for (number, value) in (0..).zip(kept) {
            self.set_x(link, core, number, value)?;
        }
        result
    }

    /// Has a halted core execute instructions, one after another.
    fn execute(&self, link: &mut Link, core: usize, instructions: &[u32]) -> Result<(), CoreError> {
        let base = self.cores[core].debug;
        for instruction in instructions {
            let edscr = link
                .registers(self.port, vec![Step::Write(base + EDITR, *instruction), Step::Read(base + EDSCR)])?
                .pop()
                .unwrap_or(0);
            self.settle(link, core, edscr, ITE)?;
        }
        Ok(())
    }

    /// Waits for a flag of EDSCR; an error that an instruction left is cleared and told.
    fn settle(&self, link: &mut Link, core: usize, mut edscr: u32, flag: u32) -> Result<(), CoreError> {
        let base = self.cores[core].debug;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if edscr & ERR != 0 {
                let error =
                    self.stubborn(link, core, "can't execute what it was told: the access faulted, or is not allowed");
                link.write_word(self.port, base + EDRCR, CSE)?;
                // What was under way would be in the way of the next transfer.
                if edscr & TXFULL != 0 {
                    link.read_word(self.port, base + DTRTX)?;
                }
                if edscr & RXFULL != 0 {
                    link.write_word(self.port, base + EDITR, TAKE_RX)?;
                }
                return Err(error);
            }
            if edscr & flag != 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.stubborn(link, core, "does not execute what it was told"));
            }
            edscr = link.read_word(self.port, base + EDSCR)?;
        }
    }

    /// Writes x`number` of a halted core.
    pub fn set_x(&self, link: &mut Link, core: usize, number: u32, value: u64) -> Result<(), CoreError> {
        let base = self.cores[core].debug;
        let steps = vec![
            Step::Write(base + DTRTX, (value >> 32) as u32),
            Step::Write(base + DTRRX, value as u32),
            Step::Write(base + EDITR, GET_X | number),
            Step::Read(base + EDSCR),
        ];
        let edscr = link.registers(self.port, steps)?.pop().unwrap_or(0);
        self.settle(link, core, edscr, ITE)
    }

    /// Reads x`number` of a halted core.
    pub fn x(&self, link: &mut Link, core: usize, number: u32) -> Result<u64, CoreError> {
        let base = self.cores[core].debug;
        let steps = vec![Step::Write(base + EDITR, PUT_X | number), Step::Read(base + EDSCR)];
        let edscr = link.registers(self.port, steps)?.pop().unwrap_or(0);
        self.settle(link, core, edscr, TXFULL)?;
        let words = link.registers(self.port, vec![Step::Read(base + DTRRX), Step::Read(base + DTRTX)])?;
        let [high, low] = words[..] else { return Ok(0) };
        Ok(u64::from(high) << 32 | u64::from(low))
    }

    /// Where a halted core stands at exception level `level`, and what a launch will change of it.
    pub fn standing(&self, link: &mut Link, core: usize, level: u8) -> Result<Standing, CoreError> {
        let level = usize::from(level.clamp(1, 3));
        let mut x = [0; 5];
        let [pc, state, control] = self.borrowing(link, core, |link| {
            for (number, value) in (0..).zip(&mut x) {
                *value = self.x(link, core, number)?;
            }
            let mut read = |instruction| {
                self.execute(link, core, &[instruction])?;
                self.x(link, core, 0)
            };
            Ok([read(GET_DLR)?, read(GET_DSPSR)?, read(GET_SCTLR[level])?])
        })?;
        Ok(Standing { pc, state, control, level, x })
    }

    /// Where a halted core stands; nothing of it is changed.
    pub fn registers(&self, link: &mut Link, core: usize) -> Result<Registers, CoreError> {
        self.borrowing(link, core, |link| {
            let (fp, lr) = (self.x(link, core, 29)?, self.x(link, core, 30)?);
            let mut read = |instruction| {
                self.execute(link, core, &[instruction])?;
                self.x(link, core, 0)
            };
            let (pc, pstate, sp) = (read(GET_DLR)?, read(GET_DSPSR)?, read(GET_SP)?);
            Ok(Registers { pc, pstate, sp, fp, lr })
        })
    }

    /// Has a halted core go on where it stood.
    pub fn put_back(&self, link: &mut Link, core: usize, stood: &Standing) -> Result<(), CoreError> {
        self.prepare(link, core)?;
        for (value, instruction) in
            [(stood.pc, SET_DLR), (stood.state, SET_DSPSR), (stood.control, SET_SCTLR[stood.level])]
        {
            self.set_x(link, core, 0, value)?;
            self.execute(link, core, &[instruction])?;
        }
        self.execute(link, core, &[ISB])?;
        (0..).zip(stood.x).try_for_each(|(number, value)| self.set_x(link, core, number, value))
    }

    /// Makes a halted core go on at `address` with everything masked, in the exception level it is in. Clobbers x0.
    pub fn set_start(&self, link: &mut Link, core: usize, address: u64) -> Result<(), CoreError> {
        self.set_x(link, core, 0, address)?;
        self.execute(link, core, &[SET_DLR, GET_DSPSR])?;
        let state = self.x(link, core, 0)?;
        self.set_x(link, core, 0, state | DAIF)?;
        self.execute(link, core, &[SET_DSPSR])
    }

    /// Turns MMU and caches of a halted core off, so that addresses are physical ones whatever it ran before (a boot loader's
    /// own map, or an earlier run's firmware high up). What its caches hold dirty stays there until it is cleaned by address.
    /// Clobbers x0.
    pub fn set_physical(&self, link: &mut Link, core: usize, stood: &Standing) -> Result<(), CoreError> {
        self.execute(link, core, &[DSB_SY])?;
        self.set_x(link, core, 0, stood.control & !CACHES_AND_MMU)?;
        self.execute(link, core, &[SET_SCTLR[stood.level], ISB])
    }

    /// Writes 64-bit words through a halted core, at addresses as it sees them, and sees to it that they reach memory and
    /// that no older instructions are left there; x0 and x1 are kept.
    pub fn store(&self, link: &mut Link, core: usize, address: u64, words: &[u64]) -> Result<(), CoreError> {
        let base = self.cores[core].debug;
        let bytes = words.len() as u64 * 8;
        // A dirty line there would later be written over what is stored now. A long range is the launcher's business.
        let short = words.len() <= 512;
        self.borrowing(link, core, |link| {
            if short {
                self.clean(link, core, address, bytes)?;
            }
            self.set_x(link, core, 0, address)?;
            for piece in words.chunks(2048) {
                // In memory access mode each word written to DTRRX becomes STR W1, [X0], #4 (H4.3.2).
                let halves = piece.iter().flat_map(|word| [*word as u32, (*word >> 32) as u32]).collect();
                self.access_memory(link, core, |link, port| link.write_repeated(port, base + DTRRX, halves))?;
            }
            if short {
                self.clean(link, core, address, bytes)?;
            }
            self.execute(link, core, &[DSB_SY, FORGET_INSTRUCTIONS, DSB_SY, ISB])
        })
    }

    /// Cleans and invalidates the lines of a short range by address. Clobbers x0.
    fn clean(&self, link: &mut Link, core: usize, address: u64, bytes: u64) -> Result<(), CoreError> {
        /// No line of an A-profile core that was built is shorter; a longer one is cleaned several times.
        const LINE: u64 = 64;
        let mut line = address & !(LINE - 1);
        while line < address.saturating_add(bytes) {
            self.set_x(link, core, 0, line)?;
            self.execute(link, core, &[CLEAN])?;
            line += LINE;
        }
        self.execute(link, core, &[DSB_SY])
    }

    /// Has a halted core access memory by its address in x0, a word for each access to its DTR; what faulted is told.
    fn access_memory<R>(
        &self,
        link: &mut Link,
        core: usize,
        access: impl FnOnce(&mut Link, AccessPort) -> Result<R, LinkError>,
    ) -> Result<R, CoreError> {
        let edscr_at = self.cores[core].debug + EDSCR;
        let edscr = link.read_word(self.port, edscr_at)?;
        link.write_word(self.port, edscr_at, edscr | MA)?;
        let result = access(link, self.port);
        link.write_word(self.port, edscr_at, edscr & !MA)?;
        let after = link.read_word(self.port, edscr_at)?;
        self.settle(link, core, after, ITE)?;
        Ok(result?)
    }

    /// Reads 64-bit words through a halted core, at an address as it sees it; x0 and x1 are kept.
    pub fn load(&self, link: &mut Link, core: usize, address: u64, words: usize) -> Result<Vec<u64>, CoreError> {
        let base = self.cores[core].debug;
        self.borrowing(link, core, |link| {
            let mut read = Vec::with_capacity(words);
            self.set_x(link, core, 0, address)?;
            while read.len() < words {
                let count = (words - read.len()).min(2048) * 2;
                // What is loaded is handed out one read later: the first is nothing, the last is fetched when the mode is off,
                // so that no word too many is loaded.
                self.execute(link, core, &[PUT_X])?;
                let mut halves =
                    self.access_memory(link, core, |link, port| link.read_repeated(port, base + DTRTX, count))?;
                halves.push(link.read_word(self.port, base + DTRTX)?);
                read.extend(halves[1..].chunks_exact(2).map(|half| u64::from(half[1]) << 32 | u64::from(half[0])));
            }
            Ok(read)
        })
    }
}
