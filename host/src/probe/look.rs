//! A look inside a board that runs: its memory through the access port, and its cores' registers, if they may be halted.
//!
//! Nothing is written to memory. Without `--halt` no core notices; with it each one stands still for the milliseconds that its
//! registers take, one after another. Where a board has no memory access port, memory is read through the boot core, which
//! stands still for all of the look.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use boards::Wire;
use trace_ring::layout::core_state;
use trace_ring::reader::Region;

use super::debug::{CoreError, Cores};
use super::link::{Link, LinkError};
use super::{ARRIVAL, Target, Via, board, check, locate};
use crate::adopt::{self, Origin};
use crate::drain::Live as _;
use crate::error::{Failure, exit};
use crate::firmware;
use crate::inspect::{Contents, Evidence, Inspection, depth, tails};
use crate::monitor::{CorePicture, Redistributor, frames};
use crate::symbols::Symbols;

/// What the user asks of a look.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// `--board`.
    pub board: String,
    /// `--probe`: VID:PID or VID:PID:SERIAL; `None`: the only one.
    pub probe: Option<String>,
    /// `--protocol`; `None`: the board file's.
    pub wire: Option<Wire>,
    /// `--speed`, kHz; `None`: the board file's.
    pub speed_khz: Option<u32>,
    /// `--at`: physical address of the image.
    pub at: Option<u64>,
    /// `--halt`.
    pub halt: bool,
    /// `--firmware`, for symbols.
    pub firmware: Option<PathBuf>,
    /// Events of each core.
    pub last: usize,
}

/// Inspects a board behind a probe.
pub fn look(request: &Look, say: &mut dyn FnMut(&str)) -> Result<Inspection, Failure> {
    let (board, debug) = board(&request.board)?;
    let mut link = Link::open(request.probe.as_deref(), &debug, request.wire, request.speed_khz)?;
    say(&format!("probe: {}, debug port {:#010x}", link.name(), link.dpidr()));
    let checked = check(&mut link, &board, &debug, None, say)?;
    let halted = matches!(checked.via, Via::Halted);
    if halted && !request.halt {
        return Err(Failure {
            kind: "access_port".into(),
            message: "without a memory access port nothing can be read from running cores".into(),
            next_step: "allow that the boot core stands still for the look: --halt".into(),
            exit_code: exit::UNMEASURED,
        });
    }
    let link = Rc::new(RefCell::new(link));
    let image = match request.at {
        Some(address) => address,
        // Through the boot core the image is where it is linked: there is nothing to search.
        None if halted => debug.load,
        None => locate(&link, checked.via, &board, &debug, None, say)?,
    };
    let usable: Vec<usize> = (0..checked.cores.count()).filter(|core| checked.seen[*core].is_usable()).collect();
    let mut cores = checked.cores.clone();
    let mut target = Target::new(Rc::clone(&link), checked.cores, checked.via, None, image, true);
    let unreadable = |why: String| Failure {
        kind: "region".into(),
        message: format!("the image at {image:#x} has laid out no trace region that can be read: {why}"),
        next_step: "look at its console; --at names another image".into(),
        exit_code: exit::UNMEASURED,
    };
    // Held from here on, where memory is read through the boot core, and let go with the target whatever happens.
    let deadline = std::time::Instant::now() + ARRIVAL;
    let mut source = loop {
        target.hold().map_err(|error| unreadable(error.to_string()))?;
        match target.find_region(false) {
            Ok(Some(source)) => break source,
            Ok(None) if std::time::Instant::now() < deadline => {}
            Ok(None) => return Err(unreadable(format!("it did not come up within {} s", ARRIVAL.as_secs()))),
            Err(error) => return Err(unreadable(error.to_string())),
        }
        target.release().map_err(|error| unreadable(error.to_string()))?;
        std::thread::sleep(Duration::from_millis(50));
    };
    let region = Region::open(&mut source).map_err(|error| unreadable(error.to_string()))?;
    let contents = Contents::read(&region, &mut source).map_err(|error| unreadable(error.to_string()))?;
    let records = tails(&region, &mut source, depth(request.last)).map_err(|error| unreadable(error.to_string()))?;
    let origin = Origin { source: "probe", board: Some(board.name.clone()), ..Origin::default() };
    let info = adopt::describe(&region, &mut source, &origin, say);
    let symbols = symbols(request, &info.firmware_build_id)?;
    let entries = contents.cores.clone();
    let name = format!("board {} behind {}, live", board.name, link.borrow().name());
    let mut evidence = Evidence::new(name, &info, symbols, contents);
    evidence.tails = records;
    evidence.notes.extend(checked.notes);
    let up: Vec<usize> = usable
        .into_iter()
        .filter(|core| {
            entries.get(*core).is_some_and(|entry| matches!(entry.state, core_state::UP | core_state::FAULTED))
        })
        .collect();
    // The boot core is halted already where memory is read through it, and the look at memory is over.
    target.release().map_err(|error| unreadable(error.to_string()))?;
    let mut picture = Vec::new();
    if request.halt {
        for core in up {
            match stand(&mut cores, &mut link.borrow_mut(), core) {
                Ok(found) => picture.push(found),
                Err(CoreError::Link(lost @ LinkError::Lost(_))) => return Err(lost.into()),
                Err(error) => evidence.notes.push(format!("where core {core} stands is not known: {error}")),
            }
        }
        let released = cores.release(&mut link.borrow_mut());
        evidence.notes.extend(released.err().map(|error| format!("the cores' debug logic is not as it was: {error}")));
        evidence.notes.push("each core was halted for a moment: an IPI under way then looks late".into());
    } else {
        evidence.notes.push("no core was halted: registers are left out (--halt reads them)".into());
    }
    if let Via::Port { port, .. } = checked.via {
        for found in &mut picture {
            let gicr_pa = entries.get(usize::from(found.core)).map_or(0, |entry| entry.gicr_pa);
            if gicr_pa != 0 {
                let mut link = link.borrow_mut();
                // A port that reaches memory alone does not reach the GIC.
                found.gicr = Redistributor::read(gicr_pa, |address| link.read_word(port, address)).ok();
            }
        }
    }
    evidence.picture = Some(picture);
    evidence.notes.push("memory was read while cores went on: parts may not fit together".into());
    Ok(Inspection::of(&evidence, request.last))
}

/// Halts a core, reads where it stands, and lets it go on.
fn stand(cores: &mut Cores, link: &mut Link, core: usize) -> Result<CorePicture, CoreError> {
    cores.halt(link, &[core])?;
    let read = |link: &mut Link| -> Result<CorePicture, CoreError> {
        let found = cores.registers(link, core)?;
        let frames = frames(found.fp, |address| match cores.load(link, core, address, 2) {
            Ok(words) => Ok(<[u64; 2]>::try_from(words).ok()),
            // Nothing is mapped there: the chain ends.
            Err(CoreError::Stubborn { .. }) => Ok(None),
            Err(error) => Err(error),
        })?;
        Ok(CorePicture {
            core: core as u16,
            pc: found.pc,
            pstate: found.pstate,
            sp: found.sp,
            fp: found.fp,
            lr: found.lr,
            gicr: None,
            frames,
        })
    };
    let found = read(link);
    // It goes on whatever came of that.
    cores.restart(link, &[core]).and(found)
}

/// The names of the firmware that runs there; none where only another build's are here.
fn symbols(request: &Look, build_id: &str) -> Result<Symbols, Failure> {
    let found = firmware::existing(request.firmware.as_deref())?;
    let same = found.filter(|found| adopt::hex(&found.image.build_id()) == build_id);
    Ok(same.and_then(|found| found.elf).map(|elf| Symbols::from_elf(&elf.bytes)).unwrap_or_default())
}
