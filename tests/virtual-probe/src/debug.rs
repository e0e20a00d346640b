//! What lies behind the debug access port: each core's external debug registers and cross-trigger interface.
//!
//! A debugger halts a core by a pulse on a channel that the core's CTI maps to its debug request, and lets it go by one
//! that it maps to its restart request. Channels of all CTIs meet in the cross-trigger matrix, past each CTI's gate: a
//! pulse that reaches several cores stops them as one.

mod core;
mod cti;
mod itr;

use std::io::{self, Write as _};

use self::core::{CoreDebug, Effect};
use self::cti::{Cti, DEBUG_REQUEST, RESTART_REQUEST};
use crate::knobs::Knobs;
use crate::layout::{Component, SocLayout};
use crate::machine::{Machine, MachineError};
use crate::stats::Stats;

/// An access that is answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// The machine and the books that an access may touch.
pub(crate) struct Context<'a> {
    pub(crate) machine: &'a mut dyn Machine,
    pub(crate) stats: &'a mut Stats,
}

/// All debug components of a machine.
#[derive(Debug)]
pub(crate) struct DebugBus {
    layout: SocLayout,
    cores: Vec<CoreDebug>,
    ctis: Vec<Cti>,
    off: Vec<usize>,
    faulty: Vec<usize>,
}

impl DebugBus {
    pub(crate) fn new(layout: SocLayout, knobs: &Knobs) -> DebugBus {
        let cores = layout.cores();
        DebugBus {
            layout,
            cores: (0..cores).map(|_| CoreDebug::new()).collect(),
            ctis: (0..cores).map(|_| Cti::new(!knobs.no_input_gate)).collect(),
            off: knobs.core_off.clone(),
            faulty: knobs.core_fault.clone(),
        }
    }

    pub(crate) fn read(&mut self, context: &mut Context<'_>, address: u64) -> Result<u32, Fault> {
        let (component, offset) = self.component(address)?;
        match component {
            Component::RomTable => Ok(self.layout.rom_table(offset)),
            Component::Debug(core) if self.off.contains(&core) => {
                if offset == core::EDPRSR {
                    Ok(0)
                } else {
                    Err(Fault)
                }
            }
            Component::Debug(core) => match offset {
                0xFD0..=0xFFC => Ok(component.identity(offset)),
                _ => self.cores[core].read(context.machine, core, offset),
            },
            Component::Cti(core) if self.off.contains(&core) => Err(Fault),
            Component::Cti(core) => match offset {
                0xFD0..=0xFFC => Ok(component.identity(offset)),
                _ => Ok(self.ctis[core].read(offset)),
            },
        }
    }

    pub(crate) fn write(&mut self, context: &mut Context<'_>, address: u64, value: u32) -> Result<(), Fault> {
        let (component, offset) = self.component(address)?;
        match component {
            Component::RomTable => Ok(()),
            Component::Debug(core) | Component::Cti(core) if self.off.contains(&core) => Err(Fault),
            Component::Debug(core) => self.cores[core].write(context.machine, core, offset, value).map(drop),
            Component::Cti(core) => {
                let channels = self.ctis[core].write(offset, value);
                self.raise(context, core, channels);
                Ok(())
            }
        }
    }

    fn component(&self, address: u64) -> Result<(Component, u64), Fault> {
        let (component, offset) = self.layout.component_at(address).ok_or(Fault)?;
        match component {
            Component::Debug(core) | Component::Cti(core) if self.faulty.contains(&core) => Err(Fault),
            _ => Ok((component, offset)),
        }
    }

    /// An event on `channels` of one CTI: follows it through the matrix, then stops and lets go what it reaches, each as
    /// one.
    fn raise(&mut self, context: &mut Context<'_>, source: usize, channels: u32) {
        // Events that a CTI has seen already lead nowhere new.
        let mut seen = vec![0u32; self.ctis.len()];
        let mut events = vec![(source, channels)];
        let (mut to_halt, mut to_restart) = (Vec::new(), Vec::new());
        while let Some((at, channels)) = events.pop() {
            let new = channels & !seen[at] & self.ctis[at].live();
            if new == 0 {
                continue;
            }
            seen[at] |= new;
            if self.off.contains(&at) || self.faulty.contains(&at) {
                continue;
            }
            // Out to the matrix, and in to the others.
            let sent = self.ctis[at].sends(new);
            for other in (0..self.ctis.len()).filter(|other| *other != at) {
                let received = self.ctis[other].receives(sent);
                events.push((other, received));
            }
            let triggers = self.ctis[at].trigger(new);
            if triggers & DEBUG_REQUEST != 0 && !self.cores[at].is_halted() && !to_halt.contains(&at) {
                to_halt.push(at);
                // A core that halts triggers its own CTI.
                events.push((at, self.ctis[at].on_halt()));
            }
            if triggers & RESTART_REQUEST != 0 && self.cores[at].is_halted() && !to_restart.contains(&at) {
                to_restart.push(at);
            }
        }
        to_halt.sort_unstable();
        to_restart.sort_unstable();
        self.restart(context, &to_restart);
        self.halt(context, &to_halt);
    }

    fn halt(&mut self, context: &mut Context<'_>, cores: &[usize]) {
        if cores.is_empty() {
            return;
        }
        if let Err(error) = context.machine.halt(cores) {
            complain(&format!("cores {cores:?} can't be halted: {error}"));
            return;
        }
        for core in cores {
            self.cores[*core].enter(context.machine, *core, core::status::EXTERNAL_REQUEST);
        }
        context.stats.halts.count(cores);
    }

    fn restart(&mut self, context: &mut Context<'_>, cores: &[usize]) {
        if cores.is_empty() {
            return;
        }
        let (stepping, free): (Vec<usize>, Vec<usize>) = cores.iter().partition(|core| self.cores[**core].steps());
        for core in &stepping {
            if let Err(error) = context.machine.step(*core) {
                complain(&format!("core {core} can't be stepped: {error}"));
            }
        }
        if !free.is_empty()
            && let Err(error) = context.machine.resume(&free)
        {
            complain(&format!("cores {free:?} can't be restarted: {error}"));
            return;
        }
        context.stats.restart(cores.len());
        for core in cores {
            self.cores[*core].leave();
        }
        for core in &stepping {
            self.cores[*core].enter(context.machine, *core, core::status::STEP);
        }
        context.stats.halts.count(&stepping);
        // A debug request that was not acknowledged is still there.
        let requested: Vec<usize> = free.into_iter().filter(|core| self.ctis[*core].requests_halt()).collect();
        self.halt(context, &requested);
    }
}

/// Says on stderr what a debugger could not be told.
pub(crate) fn complain(text: &str) {
    // Nobody may be listening.
    let _ = writeln!(io::stderr(), "virtual-probe: {text}");
}

/// What an instruction's failure means for the debugger: an error flag, unless the machine is gone.
fn effect_of(result: Result<(), MachineError>, core: usize) -> Effect {
    match result {
        Ok(()) => Effect::Done,
        // A data abort: nothing that the log need say.
        Err(MachineError::Bus(_)) => Effect::Error,
        Err(error) => {
            complain(&format!("core {core}: {error}"));
            Effect::Error
        }
    }
}
