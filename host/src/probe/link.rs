//! The link: a debug probe's access ports as memory, behind a deadline.
//!
//! probe-rs does the wire; its drivers may wait for ever on a cable that was pulled. So they run in a thread of their own,
//! which is asked and given up on when it does not answer: a link that is dead stays dead, and says so at once from then on.
//! No `Session` of probe-rs is opened: opening one halts every core, dropping it halts them again, and one core without power
//! makes it fail. What is left is plain reads and writes through access ports, which disturb nobody.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use boards::{AccessPort, Debug, Wire};
use probe_rs::architecture::arm::dp::{DpAddress, DpRegisterAddress};
use probe_rs::architecture::arm::memory::ArmMemoryInterface;
use probe_rs::architecture::arm::sequences::DefaultArmSequence;
use probe_rs::architecture::arm::{ApV2Address, ArmDebugInterface, ArmError, DapError, FullyQualifiedApAddress};
use probe_rs::probe::list::Lister;
use probe_rs::probe::{DebugProbeSelector, Probe, WireProtocol};

use crate::error::{Explain, exit};

/// How long one request may take: 64 KiB on a slow wire, with room.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of one request: what a slow wire moves in a second or so.
pub const MOST: usize = 32 << 10;

/// Why the link can't be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
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
            LinkError::NoProbe(_) | LinkError::Open { .. } | LinkError::Lost(_) => "probe",
            LinkError::Access { .. } => "access_port",
        }
    }

    fn next_step(&self) -> String {
        match self {
            LinkError::NoProbe(_) => "`ipiscope probe --list` shows the probes; --probe VID:PID[:SERIAL] names one".into(),
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
        exit::UNMEASURED
    }
}

impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> io::Error {
        io::Error::other(error)
    }
}

/// What the driver's thread does for us, on the memory of one access port.
type Work = Box<dyn FnOnce(Result<&mut (dyn ArmMemoryInterface + '_), String>) + Send>;

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
            Ok(Ok((name, dpidr))) => Ok(Link { jobs, name, dpidr, dead: None }),
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
            let result = match memory {
                Ok(memory) => match work(memory) {
                    Ok(value) => Ok(value),
                    Err(error) => {
                        let gone = is_gone(&error);
                        if !gone {
                            recover(memory);
                        }
                        Err((story(&error), gone))
                    }
                },
                Err(what) => Err((what, false)),
            };
            let _ = done.send(result);
        });
        if self.jobs.send(Job { port, work }).is_err() {
            return Err(self.lose("its driver ended".into()));
        }
        match answer.recv_timeout(PATIENCE) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err((what, true))) => Err(self.lose(what)),
            Ok(Err((what, false))) => Err(LinkError::Access { port: spell(port), address, what }),
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
        let mut at = address;
        for piece in buffer.chunks_mut(MOST) {
            let first = at & !7;
            let words = (at + piece.len() as u64 - first).div_ceil(8) as usize;
            let read = self.read_wide(port, first, words)?;
            let bytes = read.iter().flat_map(|word| word.to_le_bytes()).skip((at - first) as usize);
            for (place, byte) in piece.iter_mut().zip(bytes) {
                *place = byte;
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Writes bytes to an address on an 8-byte boundary; the last word is filled up with zeroes.
    pub fn write(
        &mut self,
        port: AccessPort,
        address: u64,
        bytes: &[u8],
        mut step: impl FnMut(u64),
    ) -> Result<(), LinkError> {
        for (piece, index) in bytes.chunks(MOST).zip(0u64..) {
            let at = address + index * MOST as u64;
            let words: Vec<u64> = piece.chunks(8).map(word_of).collect();
            self.ask(port, at, move |memory| {
                memory.write_64(at, &words)?;
                memory.flush()
            })?;
            step(index * MOST as u64 + piece.len() as u64);
        }
        Ok(())
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
    interface.write_raw_ap_register(&address, base, csw & !INCREMENT_AND_SIZE | WORDS)?;
    if register >> 32 != 0 {
        interface.write_raw_ap_register(&address, base + 8, (register >> 32) as u32)?;
    }
    interface.write_raw_ap_register(&address, base + 4, register as u32)?;
    let result = access(interface, &address, base + 0xC);
    interface.write_raw_ap_register(&address, base, csw)?;
    interface.flush()?;
    result
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

/// Up to eight bytes as a little-endian word.
fn word_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
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
        Some(text) => text
            .parse()
            .map_err(|error| LinkError::NoProbe(format!("--probe {text}: {error}; write VID:PID or VID:PID:SERIAL")))?,
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
            (job.work)(Err("the board file does not name it".into()));
            next = jobs.recv().ok();
            continue;
        };
        let refused = match interface.memory_interface(&address) {
            Ok(mut memory) => {
                (job.work)(Ok(&mut *memory));
                loop {
                    match jobs.recv() {
                        Ok(job) if same(job.port, port) => (job.work)(Ok(&mut *memory)),
                        Ok(job) => {
                            next = Some(job);
                            break;
                        }
                        Err(_) => return,
                    }
                }
                None
            }
            Err(error) => Some((job.work, story(&error))),
        };
        if let Some((work, what)) = refused {
            clear(interface);
            work(Err(what));
            next = jobs.recv().ok();
        }
    }
}

fn same(one: AccessPort, other: AccessPort) -> bool {
    (one.index, one.base) == (other.index, other.base)
}

/// Clears sticky errors after a FAULT: not every driver does.
fn recover(memory: &mut (dyn ArmMemoryInterface + '_)) {
    if let Ok(interface) = memory.get_arm_debug_interface() {
        clear(interface);
    }
}

fn clear(interface: &mut dyn ArmDebugInterface) {
    /// ABORT: ORUNERRCLR, WDERRCLR, STKERRCLR, STKCMPCLR (IHI 0031, B2.2.1).
    const CLEAR: u32 = 0x1E;
    let abort = DpRegisterAddress { address: 0, bank: None };
    let _ = interface.write_raw_dp_register(DpAddress::Default, abort, CLEAR);
    let _ = interface.flush();
}

/// Whether an error says that the wire or the probe is gone, and not that the target refused.
fn is_gone(error: &ArmError) -> bool {
    match error {
        ArmError::Probe(error) => !matches!(error, probe_rs::probe::DebugProbeError::BatchError(_)),
        ArmError::AccessPort { source, .. } => {
            let mut source: Option<&dyn std::error::Error> = Some(source);
            while let Some(error) = source {
                if let Some(error) = error.downcast_ref::<ArmError>() {
                    return is_gone(error);
                }
                if error.downcast_ref::<io::Error>().is_some() {
                    return true;
                }
                source = error.source();
            }
            false
        }
        _ => false,
    }
}

/// What an error comes to: its innermost cause, in the words of the field.
fn story(error: &ArmError) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    match innermost.downcast_ref::<DapError>() {
        Some(DapError::FaultResponse) => "it answers FAULT".into(),
        Some(DapError::WaitResponse) => "it answers nothing but WAIT".into(),
        Some(DapError::NoAcknowledge) => "nobody acknowledges".into(),
        _ => innermost.to_string().replace('\n', " "),
    }
}

/// An error with all its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}
