//! The link: a debug probe's access ports as memory, behind a deadline.
//!
//! probe-rs does the wire; its drivers may wait for ever on a cable that was pulled. So they run in a thread of their own,
//! which is asked and given up on when it does not answer: a link that is dead stays dead, and says so at once from then on.
//! No `Session` of probe-rs is opened: opening one halts every core, dropping it halts them again, and one core without power
//! makes it fail. What is left is plain reads and writes through access ports, which disturb nobody.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use boards::{AccessPort, Debug, Wire};
use probe_rs::architecture::arm::dp::{DpAddress, DpRegisterAddress};
use probe_rs::architecture::arm::memory::ArmMemoryInterface;
use probe_rs::architecture::arm::sequences::DefaultArmSequence;
use probe_rs::architecture::arm::{ApV2Address, ArmDebugInterface, ArmError, DapError, FullyQualifiedApAddress};
use probe_rs::probe::list::Lister;
use probe_rs::probe::{DebugProbeError, DebugProbeSelector, Probe, WireProtocol};

use crate::error::{Explain, exit};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of one request, at most.
pub const MOST: usize = 32 << 10;

/// Bytes of the first request, and of any at least: a wire that moves no more in [`PATIENCE`] is no use.
const FIRST: usize = 4 << 10;
const LEAST: usize = 512;

/// How long a request should take: long enough for its own cost not to count, short enough to be heard between two.
const BRISK: Duration = Duration::from_millis(250);
const SLUGGISH: Duration = Duration::from_secs(1);

/// Why the link can't be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// What was named is no probe's name.
    #[error("{0}")]
    Selector(String),
    /// There is no such probe, or several.
    #[error("{0}")]
    NoProbe(String),
    /// The probe can't be opened, or sees no debug port.
    #[error("probe {probe}: {what}")]
    Open {
        /// Its selector.
        probe: String,
        /// What its driver says.
        what: String,
    },
    /// An access port refused or faulted: the board answers, but not there.
    #[error("access port {port} at {address:#x}: {what}")]
    Access {
        /// The port.
        port: String,
        /// Where.
        address: u64,
        /// What probe-rs says.
        what: String,
    },
    /// The probe does not answer any more.
    #[error("the probe was lost: {0}")]
    Lost(String),
}

impl Explain for LinkError {
    fn kind(&self) -> &'static str {
        match self {
            LinkError::Selector(_) => "arguments",
            LinkError::NoProbe(_) | LinkError::Open { .. } | LinkError::Lost(_) => "probe",
            LinkError::Access { .. } => "access_port",
        }
    }

    fn next_step(&self) -> String {
        match self {
            LinkError::Selector(_) | LinkError::NoProbe(_) => "`ipiscope probe --list` shows the probes; --probe VID:PID[:SERIAL] names one".into(),
            LinkError::Open { .. } => {
                "check cable, power and wire (--protocol), try a slower clock (--speed), or end whoever else uses the probe"
                    .into()
            }
            LinkError::Access { .. } => {
                "check the access ports and addresses in the board file, and that the board's debug power is on".into()
            }
            LinkError::Lost(_) => {
                "plug it in again; a target that still runs is drained with `ipiscope probe --attach --board NAME`".into()
            }
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            LinkError::Selector(_) => exit::MISUSED,
            _ => exit::UNMEASURED,
        }
    }
}

impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> io::Error {
        io::Error::other(error)
    }
}

/// What the driver's thread does for us, on the memory of one access port, or why there is none. Gives whether what the
/// driver knows of the port still holds.
type Work = Box<dyn FnOnce(Result<&mut (dyn ArmMemoryInterface + '_), Refusal>) -> bool + Send>;

/// What an access came to that failed.
struct Refusal {
    what: String,
    /// Whether the probe or the wire is gone, and not only this access.
    gone: bool,
}

struct Job {
    port: AccessPort,
    work: Work,
}

/// An open probe.
pub struct Link {
    jobs: mpsc::Sender<Job>,
    /// Its name, for people.
    name: String,
    dpidr: u32,
    /// Why it is dead, if it is.
    dead: Option<String>,
    /// Bytes of one request, as the wire turned out to be.
    piece: usize,
}

/// The probes that are there: a line each.
pub fn list() -> Vec<String> {
    Lister::new().list_all().iter().map(|info| info.to_string()).collect()
}

impl Link {
    /// Opens the probe that `selector` names, or the only one there is.
    pub fn open(
        selector: Option<&str>,
        debug: &Debug,
        wire: Option<Wire>,
        speed_khz: Option<u32>,
    ) -> Result<Link, LinkError> {
        let wire = match wire.unwrap_or(debug.protocol) {
            Wire::Swd => WireProtocol::Swd,
            Wire::Jtag => WireProtocol::Jtag,
        };
        let speed = speed_khz.unwrap_or(debug.speed_khz);
        let selector = selector.map(String::from);
        let asked_for_wire = wire;
        let (jobs, work) = mpsc::channel::<Job>();
        let (opened, answer) = mpsc::channel();
        let csw = [Some(debug.components), debug.memory];
        std::thread::spawn(move || {
            let mut interface = match connect(selector.as_deref(), asked_for_wire, speed) {
                Ok((interface, name, dpidr)) => {
                    if opened.send(Ok((name, dpidr))).is_err() {
                        return;
                    }
                    interface
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                    return;
                }
            };
            for port in csw.into_iter().flatten() {
                if let (Some(value), Some(address)) = (port.csw, address(port)) {
                    // CSW is register 0x00 of an ADIv5 port, 0xD00 of an ADIv6 one.
                    let register = if port.index.is_some() { 0x00 } else { 0xD00 };
                    let _ = interface.write_raw_ap_register(&address, register, value);
                }
            }
            serve(&mut *interface, &work);
        });
        match answer.recv_timeout(PATIENCE) {
            Ok(Ok((name, dpidr))) => Ok(Link { jobs, name, dpidr, dead: None, piece: FIRST }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(LinkError::Open {
                probe: "that was named".into(),
                what: format!("its driver did not answer within {} s", PATIENCE.as_secs()),
            }),
        }
    }

    /// The probe's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The debug port's DPIDR.
    pub fn dpidr(&self) -> u32 {
        self.dpidr
    }

    /// Why the link is dead, if it is.
    pub fn dead(&self) -> Option<&str> {
        self.dead.as_deref()
    }

    /// Has the driver's thread do something with the memory of a port. `address` and `what` are for the error.
    fn ask<R: Send + 'static>(
        &mut self,
        port: AccessPort,
        address: u64,
        work: impl FnOnce(&mut (dyn ArmMemoryInterface + '_)) -> Result<R, ArmError> + Send + 'static,
    ) -> Result<R, LinkError> {
        if let Some(why) = &self.dead {
            return Err(LinkError::Lost(why.clone()));
        }
        let (done, answer) = mpsc::channel();
        let work: Work = Box::new(move |memory| {
            let result = memory.and_then(|memory| {
                work(memory).map_err(|error| {
                    let gone = is_gone(&error);
                    if !gone && let Ok(interface) = memory.get_arm_debug_interface() {
                        clear(interface, &error);
                    }
                    Refusal { what: story(&error), gone }
                })
            });
            let holds = result.is_ok();
            // Whoever asked may have given up.
            let _ = done.send(result);
            holds
        });
        if self.jobs.send(Job { port, work }).is_err() {
            return Err(self.lose("its driver ended".into()));
        }
        match answer.recv_timeout(PATIENCE) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(Refusal { what, gone: true })) => Err(self.lose(what)),
            Ok(Err(Refusal { what, gone: false })) => Err(LinkError::Access { port: spell(port), address, what }),
            Err(RecvTimeoutError::Timeout) => {
                Err(self.lose(format!("it has not answered for {} s", PATIENCE.as_secs())))
            }
            Err(RecvTimeoutError::Disconnected) => Err(self.lose("its driver ended".into())),
        }
    }

    fn lose(&mut self, why: String) -> LinkError {
        self.dead = Some(why.clone());
        LinkError::Lost(why)
    }

    /// IDR of an access port; 0: there is none.
    pub fn port_identity(&mut self, port: AccessPort) -> Result<u32, LinkError> {
        // Asked through the components' port or any other: the register belongs to the debug port's select.
        self.ask(port, 0, move |memory| {
            let Some(address) = address(port) else { return Ok(0) };
            let register = if port.index.is_some() { 0xFC } else { 0xDFC };
            let interface = memory.get_arm_debug_interface()?;
            interface.read_raw_ap_register(&address, register)
        })
    }

    /// Whether the port does 64-bit accesses whole.
    pub fn is_wide(&mut self, port: AccessPort) -> Result<bool, LinkError> {
        self.ask(port, 0, |memory| Ok(memory.supports_native_64bit_access()))
    }

    /// One aligned 32-bit word.
    pub fn read_word(&mut self, port: AccessPort, address: u64) -> Result<u32, LinkError> {
        self.ask(port, address, move |memory| memory.read_word_32(address))
    }

    /// Writes one aligned 32-bit word.
    pub fn write_word(&mut self, port: AccessPort, address: u64, value: u32) -> Result<(), LinkError> {
        self.ask(port, address, move |memory| memory.write_word_32(address, value))
    }

    /// Several register accesses in one request, in order; gives what the reads read.
    pub fn registers(&mut self, port: AccessPort, steps: Vec<Step>) -> Result<Vec<u32>, LinkError> {
        let address = steps.first().map_or(0, Step::address);
        self.ask(port, address, move |memory| {
            let mut read = Vec::new();
            for step in &steps {
                match *step {
                    Step::Read(address) => read.push(memory.read_word_32(address)?),
                    Step::Write(address, value) => memory.write_word_32(address, value)?,
                }
            }
            Ok(read)
        })
    }

    /// Reads the same word `count` times: a register behind which a core works.
    pub fn read_repeated(&mut self, port: AccessPort, register: u64, count: usize) -> Result<Vec<u32>, LinkError> {
        self.ask(port, register, move |memory| {
            let mut words = vec![0; count];
            standing(memory, port, register, |interface, address, data| {
                interface.read_raw_ap_register_repeated(address, data, &mut words)
            })?;
            Ok(words)
        })
    }

    /// Writes words to the same register, one after another.
    pub fn write_repeated(&mut self, port: AccessPort, register: u64, words: Vec<u32>) -> Result<(), LinkError> {
        self.ask(port, register, move |memory| {
            standing(memory, port, register, |interface, address, data| {
                interface.write_raw_ap_register_repeated(address, data, &words)
            })
        })
    }

    /// Aligned 64-bit words, each read whole where the port is wide.
    pub fn read_wide(&mut self, port: AccessPort, address: u64, words: usize) -> Result<Vec<u64>, LinkError> {
        self.ask(port, address, move |memory| {
            let mut read = vec![0; words];
            memory.read_64(address, &mut read)?;
            Ok(read)
        })
    }

    /// Any bytes.
    pub fn read(&mut self, port: AccessPort, address: u64, buffer: &mut [u8]) -> Result<(), LinkError> {
        self.read_while(port, address, buffer, || true)
    }

    /// Any bytes, as long as `go_on` says so between two requests.
    pub fn read_while(
        &mut self,
        port: AccessPort,
        address: u64,
        buffer: &mut [u8],
        mut go_on: impl FnMut() -> bool,
    ) -> Result<(), LinkError> {
        let beyond = |what: &str| LinkError::Access { port: spell(port), address, what: what.into() };
        // The last word is read whole.
        address
            .checked_add(buffer.len() as u64 + 8)
            .ok_or_else(|| beyond("what was asked for leaves the address space"))?;
        let (mut at, mut rest) = (address, buffer);
        while !rest.is_empty() {
            if !go_on() {
                return Err(beyond("stopped while it was read"));
            }
            let count = rest.len().min(self.piece);
            let (piece, more) = rest.split_at_mut(count);
            let first = at & !7;
            let words = (at + count as u64 - first).div_ceil(8) as usize;
            let started = Instant::now();
            let read = self.read_wide(port, first, words)?;
            self.adapt(count, started.elapsed());
            let bytes = read.iter().flat_map(|word| word.to_le_bytes()).skip((at - first) as usize);
            for (place, byte) in piece.iter_mut().zip(bytes) {
                *place = byte;
            }
            at += count as u64;
            rest = more;
        }
        Ok(())
    }

    /// Writes bytes to an address on an 8-byte boundary; the last word is filled up with zeroes.
    pub fn write(&mut self, port: AccessPort, address: u64, bytes: &[u8]) -> Result<(), LinkError> {
        let (mut at, mut rest) = (address, bytes);
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(self.piece));
            let words = words_of(piece);
            let started = Instant::now();
            self.ask(port, at, move |memory| {
                memory.write_64(at, &words)?;
                memory.flush()
            })?;
            self.adapt(piece.len(), started.elapsed());
            at += piece.len() as u64;
            rest = more;
        }
        Ok(())
    }

    /// Fits the size of a request to how long the last one took.
    fn adapt(&mut self, bytes: usize, took: Duration) {
        self.piece = fitting(self.piece, bytes, took);
    }
}

/// Bytes of the next request (a multiple of 8), after one of `bytes` of at most `piece` took so long.
fn fitting(piece: usize, bytes: usize, took: Duration) -> usize {
    if took > SLUGGISH {
        (piece / 2).max(LEAST)
    } else if took < BRISK && bytes == piece {
        (piece * 2).min(MOST)
    } else {
        piece
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("name", &self.name).field("dead", &self.dead).finish_non_exhaustive()
    }
}

/// Accesses to one address again and again: the port's address register stands still meanwhile, which saves half of the
/// transfers.
fn standing(
    memory: &mut (dyn ArmMemoryInterface + '_),
    port: AccessPort,
    register: u64,
    access: impl FnOnce(&mut dyn ArmDebugInterface, &FullyQualifiedApAddress, u64) -> Result<(), ArmError>,
) -> Result<(), ArmError> {
    /// CSW: AddrInc, Size, and Size for words (IHI 0031, C2.6.4).
    const INCREMENT_AND_SIZE: u32 = 0x37;
    const WORDS: u32 = 2;
    let Some(address) = address(port) else { return Ok(()) };
    // CSW, TAR, TAR's high half, DRW of an ADIv5 port; an ADIv6 one has them 0xD00 further on.
    let base = if port.index.is_some() { 0 } else { 0xD00 };
    let interface = memory.get_arm_debug_interface()?;
    let csw = interface.read_raw_ap_register(&address, base)?;
    let accessed = || -> Result<(), ArmError> {
        interface.write_raw_ap_register(&address, base, csw & !INCREMENT_AND_SIZE | WORDS)?;
        if register >> 32 != 0 {
            interface.write_raw_ap_register(&address, base + 8, (register >> 32) as u32)?;
        }
        interface.write_raw_ap_register(&address, base + 4, register as u32)?;
        access(interface, &address, base + 0xC)?;
        interface.flush()
    };
    let result = accessed();
    // The driver believes that addresses go up by themselves: so it must be again, and after a fault no register is
    // written before the error is cleared.
    if let Err(error) = &result {
        clear(interface, error);
    }
    let restored = interface.write_raw_ap_register(&address, base, csw).and_then(|()| interface.flush());
    result.and(restored)
}

/// A register access.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Read this word.
    Read(u64),
    /// Write this word.
    Write(u64, u32),
}

impl Step {
    const fn address(&self) -> u64 {
        match *self {
            Step::Read(address) | Step::Write(address, _) => address,
        }
    }
}

/// Bytes as little-endian words, the last one filled up with zeroes.
pub fn words_of(bytes: &[u8]) -> Vec<u64> {
    let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
    bytes.chunks(8).map(word).collect()
}

/// How a port is called.
pub fn spell(port: AccessPort) -> String {
    match (port.index, port.base) {
        (Some(index), _) => format!("{index}"),
        (None, Some(base)) => format!("at {base:#x}"),
        (None, None) => "without a name".into(),
    }
}

fn address(port: AccessPort) -> Option<FullyQualifiedApAddress> {
    match (port.index, port.base) {
        (Some(index), _) => Some(FullyQualifiedApAddress::v1_with_default_dp(index)),
        (None, Some(base)) => Some(FullyQualifiedApAddress::v2_with_default_dp(ApV2Address::new(base))),
        (None, None) => None,
    }
}

/// Opens the probe and its debug port.
fn connect(
    selector: Option<&str>,
    wire: WireProtocol,
    speed: u32,
) -> Result<(Box<dyn ArmDebugInterface>, String, u32), LinkError> {
    let lister = Lister::new();
    let selector: DebugProbeSelector = match selector {
        Some(text) => text.parse().map_err(|error| {
            LinkError::Selector(format!("--probe {text}: {error}; write VID:PID or VID:PID:SERIAL"))
        })?,
        None => match lister.list_all().as_slice() {
            [] => {
                return Err(LinkError::NoProbe(
                    "no debug probe is plugged in, or none may be used (udev rules)".into(),
                ));
            }
            [one] => DebugProbeSelector::from(one),
            several => {
                let names: Vec<String> = several.iter().map(|info| info.to_string()).collect();
                return Err(LinkError::NoProbe(format!("several probes are plugged in: {}", names.join("; "))));
            }
        },
    };
    let name = selector.to_string();
    let failed = |what: String| LinkError::Open { probe: name.clone(), what };
    if let Some(path) = selector.serial_number.as_deref().and_then(|serial| serial.strip_prefix("unix:"))
        && !std::path::Path::new(path).exists()
    {
        return Err(failed("there is no such socket".into()));
    }
    let mut probe: Probe = lister.open(selector).map_err(|error| failed(chain(&error)))?;
    // A probe that knows one wire only refuses to be told.
    let _ = probe.select_protocol(wire);
    let _ = probe.set_speed(speed);
    probe.attach_to_unspecified().map_err(|error| failed(chain(&error)))?;
    let label = probe.get_name();
    let mut interface =
        probe.try_into_arm_debug_interface(DefaultArmSequence::create()).map_err(|(_, error)| failed(chain(&error)))?;
    interface.select_debug_port(DpAddress::Default).map_err(|error| failed(chain(&error)))?;
    let dpidr = interface
        .read_raw_dp_register(DpAddress::Default, DpRegisterAddress { address: 0, bank: None })
        .map_err(|error| failed(chain(&error)))?;
    Ok((interface, format!("{label} ({name})"), dpidr))
}

/// Does one job after another. The memory of a port stays open from one job on it to the next: opening it costs a dozen
/// transfers.
fn serve(interface: &mut dyn ArmDebugInterface, jobs: &mpsc::Receiver<Job>) {
    let mut next = jobs.recv().ok();
    while let Some(job) = next.take() {
        let port = job.port;
        let Some(address) = address(port) else {
            (job.work)(Err(Refusal { what: "the board file does not name it".into(), gone: false }));
            next = jobs.recv().ok();
            continue;
        };
        let refused = match interface.memory_interface(&address) {
            Ok(mut memory) => {
                let mut holds = (job.work)(Ok(&mut *memory));
                loop {
                    match jobs.recv() {
                        // After a fault what was queued may not have been written: the port is opened anew.
                        Ok(job) if holds && same(job.port, port) => holds = (job.work)(Ok(&mut *memory)),
                        Ok(job) => {
                            next = Some(job);
                            break;
                        }
                        Err(_) => return,
                    }
                }
                None
            }
            Err(error) => Some((job.work, error)),
        };
        if let Some((work, error)) = refused {
            let gone = is_gone(&error);
            if !gone {
                clear(interface, &error);
            }
            work(Err(Refusal { what: story(&error), gone }));
            next = jobs.recv().ok();
        }
    }
}

fn same(one: AccessPort, other: AccessPort) -> bool {
    (one.index, one.base) == (other.index, other.base)
}

/// Clears what an error left in the debug port: not every driver does.
fn clear(interface: &mut dyn ArmDebugInterface, error: &ArmError) {
    /// ABORT: ORUNERRCLR, WDERRCLR, STKERRCLR, STKCMPCLR (IHI 0031, B2.2.1).
    const CLEAR: u32 = 0x1E;
    /// ABORT.DAPABORT: gives up the access that a port answers with nothing but WAIT.
    const GIVE_UP: u32 = 1;
    let stuck = causes(error).any(|cause| matches!(cause.downcast_ref(), Some(DapError::WaitResponse)));
    let abort = DpRegisterAddress { address: 0, bank: None };
    // What this fails with, the next access fails with.
    let _ = interface.write_raw_dp_register(DpAddress::Default, abort, if stuck { CLEAR | GIVE_UP } else { CLEAR });
    let _ = interface.flush();
}

/// An error and all its causes, from the outermost.
fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Whether an error says that the wire or the probe is gone, and not that the target refused.
fn is_gone(error: &ArmError) -> bool {
    // An answer of the debug port, however its driver wraps it, came over a wire that works.
    if causes(error).any(|cause| cause.is::<DapError>()) {
        return false;
    }
    causes(error).any(|cause| match cause.downcast_ref::<DebugProbeError>() {
        Some(
            DebugProbeError::BatchError(_)
            | DebugProbeError::TargetNotFound
            | DebugProbeError::NotImplemented { .. }
            | DebugProbeError::CommandNotSupportedByProbe { .. }
            | DebugProbeError::InterfaceNotAvailable { .. },
        ) => false,
        Some(_) => true,
        None => cause.is::<io::Error>(),
    })
}

/// What an error comes to: its innermost cause, in the words of the field.
fn story(error: &ArmError) -> String {
    let innermost = causes(error).last().unwrap_or(error);
    if let Some(ArmError::ApDoesNotExist(_)) = innermost.downcast_ref() {
        return "nothing answers there".into();
    }
    match innermost.downcast_ref::<DapError>() {
        Some(DapError::FaultResponse) => "it answers FAULT".into(),
        Some(DapError::WaitResponse) => "it answers nothing but WAIT".into(),
        Some(DapError::NoAcknowledge) => "nobody acknowledges: the wire is off, or the board has no power".into(),
        _ => innermost.to_string().replace('\n', " "),
    }
}

/// An error with all its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in causes(error).skip(1) {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use probe_rs::architecture::arm::ap::AccessPortError;
    use probe_rs::architecture::arm::dp::DebugPortError;

    use super::*;

    /// The error of an access through a port, as drivers wrap it.
    fn through_port(source: impl std::error::Error + Send + Sync + 'static) -> ArmError {
        let source = AccessPortError::RegisterRead { address: 0xC, name: "DRW", source: Box::new(source) };
        ArmError::AccessPort { address: FullyQualifiedApAddress::v1_with_default_dp(0), source }
    }

    #[test]
    fn a_target_that_refuses_is_not_a_probe_that_is_gone() {
        let cut = || io::Error::from(io::ErrorKind::BrokenPipe);
        let fault = || ArmError::Dap(DapError::FaultResponse);
        let port = |error| AccessPortError::DebugPort(error);
        let access = |source| ArmError::AccessPort { address: FullyQualifiedApAddress::v1_with_default_dp(0), source };
        for (error, gone) in [
            (fault(), false),
            (through_port(fault()), false),
            (through_port(through_port(fault())), false),
            (ArmError::DebugPort(DebugPortError::Dap(DapError::WaitResponse)), false),
            (access(port(DebugPortError::Dap(DapError::NoAcknowledge))), false),
            (ArmError::alignment_error(1, 4), false),
            (ArmError::Probe(DebugProbeError::TargetNotFound), false),
            (ArmError::Probe(DebugProbeError::Usb(cut())), true),
            (ArmError::Probe(DebugProbeError::Timeout), true),
            (through_port(ArmError::Probe(DebugProbeError::Usb(cut()))), true),
            (ArmError::DebugPort(DebugPortError::DebugProbe(DebugProbeError::Other("no answer".into()))), true),
            (access(port(DebugPortError::DebugProbe(DebugProbeError::Timeout))), true),
            (access(AccessPortError::Flush(DebugProbeError::Usb(cut()))), true),
        ] {
            assert_eq!(is_gone(&error), gone, "{error:?}");
        }
        assert_eq!(story(&through_port(fault())), "it answers FAULT");
    }

    #[test]
    fn requests_fit_the_wire() {
        let slow = Duration::from_secs(2);
        let fast = Duration::from_millis(1);
        assert_eq!(fitting(FIRST, FIRST, fast), 2 * FIRST);
        assert_eq!(fitting(FIRST, 8, fast), FIRST, "a small request says nothing of large ones");
        assert_eq!(fitting(FIRST, FIRST, Duration::from_millis(500)), FIRST);
        let after = |took| (0..20).fold(FIRST, |piece, _| fitting(piece, piece, took));
        assert_eq!((after(fast), after(slow)), (MOST, LEAST));
    }

    #[test]
    fn bytes_become_words_and_ports_have_names() {
        assert_eq!(words_of(&[1, 2, 0, 0, 0, 0, 0, 0x80, 0xFF]), [0x8000_0000_0000_0201, 0xFF]);
        assert!(words_of(&[]).is_empty());
        let port = |index, base| AccessPort { index, base, csw: None, coherent: false };
        assert_eq!((spell(port(Some(1), None)), spell(port(None, Some(0x8000)))), ("1".into(), "at 0x8000".into()));
        assert!(same(port(Some(1), None), port(Some(1), None)) && !same(port(Some(1), None), port(None, Some(1))));
    }
}
