//! QEMU's `virt` as the machine behind the port: RAM is a file that QEMU shares, cores are reached through the gdbstub.
//!
//! RAM is read and written with positioned reads and writes of the file: nothing stops for it. To stop, look into or let
//! go one core, the stub stops all of them for about a millisecond; a set of cores is stopped as one. Once all cores are
//! halted the system counter stands still too, which on hardware it does not.
//!
//! Two things QEMU does otherwise than hardware, and what is done about them:
//!
//! - It does not notice that somebody else wrote into the file and would go on executing what it had translated. What the
//!   port wrote is therefore written once more as a device would: before the port writes elsewhere, so that a core that
//!   waits for a word finds what was written before that word, and before a halted core goes on.
//! - A core that waits for an interrupt (WFI) does not wake up when it is halted, and does not go where it is sent. It is
//!   woken by its IRQ input for the length of one step, during which the stub masks interrupts.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use host::child::Guarded;
use host::qemu::PROGRAM;
use host::scratch::Scratch;

use super::gdb::Gdb;
use super::qtest::Qtest;
use super::{Machine, MachineError, Registers};

/// Where RAM begins on QEMU's `virt`.
const RAM_BASE: u64 = 0x4000_0000;

/// Where the loop lies that the boot core runs after [`Boot::Spin`], in bytes from the start of RAM: behind the device
/// tree, that QEMU puts at the start and pads to 1 MiB.
const SPIN_OFFSET: u64 = 0x10_0000;

/// The loop: `wfe`, `b .-4`.
const SPIN: [u32; 2] = [0xD503_205F, 0x17FF_FFFF];

/// Longest time that QEMU may take to listen.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Longest time for one instruction: what takes longer sleeps, and is woken, or is off.
const STEP_DEADLINE: Duration = Duration::from_millis(200);

/// `wfi` and `nop`.
const WFI: u32 = 0xD503_207F;
const NOP: u32 = 0xD503_201F;

/// Bytes that are written once more at a time.
const PIECE_BYTES: usize = 16 << 10;

/// Bytes of a page, the least that is mapped at once.
const PAGE: u64 = 4096;

/// What the cores find when they start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Boot {
    /// As a boot loader leaves a board: the boot core in a loop, the others off.
    #[default]
    Spin,
    /// Linux's boot protocol.
    Kernel {
        /// The image.
        image: PathBuf,
        /// The initial RAM disk.
        initrd: Option<PathBuf>,
    },
    /// Firmware, such as U-Boot, in flash.
    Bios(PathBuf),
}

/// What machine to start.
#[derive(Clone, Debug)]
pub struct QemuOptions {
    /// Cores.
    pub cores: usize,
    /// Bytes of RAM.
    pub memory_bytes: u64,
    /// Whether cores start at EL2, with PSCI by SMC; else at EL1, with PSCI by HVC.
    pub el2: bool,
    /// What they find.
    pub boot: Boot,
    /// A folder that the machine sees as a read-only disk.
    pub disk: Option<PathBuf>,
    /// Where the serial line goes: `unix:PATH` (QEMU listens there) or `file:PATH`.
    pub serial: Option<String>,
    /// Further arguments.
    pub extra: Vec<String>,
}

impl Default for QemuOptions {
    fn default() -> Self {
        QemuOptions {
            cores: 4,
            memory_bytes: 1 << 30,
            el2: false,
            boot: Boot::Spin,
            disk: None,
            serial: None,
            extra: Vec::new(),
        }
    }
}

/// A core that stands still.
#[derive(Debug)]
struct Halted {
    /// As the debugger sees and changes them.
    registers: Registers,
    /// As QEMU has them.
    known: Registers,
    /// Where it stood when it was halted.
    stood: u64,
    /// Physical pages of virtual ones.
    pages: HashMap<u64, u64>,
}

/// A machine that runs in QEMU. Dropping it ends QEMU and removes its files.
#[derive(Debug)]
pub struct QemuMachine {
    // Field order is drop order: the child goes before the folder it works in.
    gdb: Gdb,
    qtest: Qtest,
    child: Guarded,
    ram: File,
    ram_bytes: u64,
    halted: Vec<Option<Halted>>,
    /// Physical addresses that were written behind QEMU's back.
    written: Range<u64>,
    scratch: Scratch,
}

impl QemuMachine {
    /// Starts it. Call this from a thread that lives as long as the machine shall ([`Guarded::spawn`] says why).
    pub fn start(options: &QemuOptions) -> io::Result<QemuMachine> {
        let nonce = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        let scratch = Scratch::create(options.memory_bytes.min(256 << 20), nonce).map_err(io::Error::other)?;
        let (ram_path, gdb_path, qtest_path) = (scratch.file("ram"), scratch.file("gdb"), scratch.file("qtest"));
        let complaints = scratch.file("stderr");
        let ram = File::options().read(true).write(true).create_new(true).open(&ram_path)?;
        ram.set_len(options.memory_bytes)?;
        let spin: Vec<u8> = SPIN.iter().flat_map(|word| word.to_le_bytes()).collect();
        let spin_path = scratch.write("spin", &spin).map_err(io::Error::other)?;

        let virtualization = if options.el2 { ",virtualization=on" } else { "" };
        let mut command = Command::new(PROGRAM);
        command
            .args(["-M", &format!("virt,gic-version=3,memory-backend=m{virtualization}")])
            .args(["-cpu", "max", "-accel", "tcg,thread=multi", "-smp", &options.cores.to_string()])
            .args(["-m", &format!("{}k", options.memory_bytes >> 10), "-object"])
            .arg(format!(
                "memory-backend-file,id=m,share=on,mem-path={},size={}",
                ram_path.display(),
                options.memory_bytes
            ))
            .args(["-nic", "none", "-display", "none", "-monitor", "none", "-no-shutdown", "-S"])
            .arg("-chardev")
            .arg(format!("socket,id=gdb,path={},server=on,wait=off", gdb_path.display()))
            .args(["-gdb", "chardev:gdb", "-qtest-log", "none", "-qtest"])
            .arg(format!("unix:{},server=on,wait=off", qtest_path.display()));
        match &options.serial {
            None => command.args(["-serial", "null"]),
            Some(place) => match place.strip_prefix("unix:") {
                Some(path) => {
                    command.arg("-chardev").arg(format!("socket,id=serial,path={path},server=on,wait=off"));
                    command.args(["-serial", "chardev:serial"])
                }
                None => command.args(["-serial", place]),
            },
        };
        match &options.boot {
            Boot::Spin => {
                let at = RAM_BASE + SPIN_OFFSET;
                let file = spin_path.display();
                command.args(["-device", &format!("loader,file={file},addr={at:#x},cpu-num=0,force-raw=on")]);
            }
            Boot::Kernel { image, initrd } => {
                command.arg("-kernel").arg(image);
                if let Some(initrd) = initrd {
                    command.arg("-initrd").arg(initrd);
                }
            }
            Boot::Bios(file) => {
                command.arg("-bios").arg(file);
            }
        }
        if let Some(folder) = &options.disk {
            command.arg("-drive").arg(format!("file=fat:{},format=raw,readonly=on,if=none,id=d0", folder.display()));
            command.args(["-device", "virtio-blk-device,drive=d0"]);
        }
        command.args(&options.extra).stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&complaints)?);

        let mut child = Guarded::spawn(&mut command)?;
        scratch.record_qemu(child.id()).map_err(io::Error::other)?;
        let deadline = Instant::now() + START_DEADLINE;
        let mut gdb = loop {
            if let Some(status) = child.poll()? {
                let said = fs::read_to_string(&complaints).unwrap_or_default();
                return Err(io::Error::other(format!("{PROGRAM} ended at once ({status}): {}", said.trim())));
            }
            match Gdb::connect(&gdb_path) {
                Ok(gdb) => break gdb,
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        let qtest = Qtest::connect(&qtest_path)?;
        let all: Vec<usize> = (0..options.cores).collect();
        if options.boot == Boot::Spin {
            // As a boot loader hands over: the device tree's address in X0.
            let known = gdb.registers(0)?;
            let mut registers = known.clone();
            registers.x[0] = RAM_BASE;
            gdb.set_registers(0, &known, &registers)?;
        }
        gdb.go(&all, true)?;
        Ok(QemuMachine {
            gdb,
            qtest,
            child,
            ram,
            ram_bytes: options.memory_bytes,
            halted: all.iter().map(|_| None).collect(),
            written: 0..0,
            scratch,
        })
    }

    /// QEMU's process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Does something while the whole machine stands still; the cores that are not halted go on afterwards.
    fn while_stopped<T>(
        &mut self,
        action: impl FnOnce(&mut QemuMachine) -> Result<T, MachineError>,
    ) -> Result<T, MachineError> {
        self.gdb.stop()?;
        let result = action(self);
        let running: Vec<usize> = (0..self.halted.len()).filter(|core| self.halted[*core].is_none()).collect();
        debug_assert!(!self.gdb.runs());
        self.gdb.go(&running, running.len() == self.halted.len())?;
        result
    }

    /// Hands a halted core's changed registers to QEMU.
    fn push_registers(&mut self, core: usize) -> Result<(), MachineError> {
        if let Some(halted) = &mut self.halted[core] {
            self.gdb.set_registers(core, &halted.known, &halted.registers)?;
            halted.known = halted.registers.clone();
        }
        Ok(())
    }

    /// Writes once more, as a device would, what was written behind QEMU's back: it then translates that anew.
    fn push_written(&mut self) -> Result<(), MachineError> {
        let range = std::mem::take(&mut self.written);
        if range.is_empty() {
            return Ok(());
        }
        let mut bytes = vec![0; PIECE_BYTES];
        for start in range.clone().step_by(PIECE_BYTES) {
            let piece = &mut bytes[..(range.end - start).min(PIECE_BYTES as u64) as usize];
            self.ram.read_exact_at(piece, start - RAM_BASE)?;
            self.qtest.write(start, piece)?;
        }
        Ok(())
    }

    fn halted(&mut self, core: usize) -> Result<&mut Halted, MachineError> {
        let halted = self.halted.get_mut(core).and_then(Option::as_mut);
        halted.ok_or_else(|| MachineError::Gone(io::Error::other(format!("core {core} is not halted"))))
    }

    /// The file's offset of physical memory.
    fn offset(&self, address: u64, bytes: usize) -> Result<u64, MachineError> {
        let offset = address.checked_sub(RAM_BASE).ok_or(MachineError::Bus(address))?;
        let end = offset.checked_add(bytes as u64).filter(|end| *end <= self.ram_bytes);
        end.map(|_| offset).ok_or(MachineError::Bus(address))
    }

    /// The physical address of a virtual one, where that is RAM.
    fn translate(&mut self, core: usize, address: u64) -> Result<Option<u64>, MachineError> {
        let page = address - address % PAGE;
        let physical = match self.halted(core)?.pages.get(&page) {
            Some(physical) => *physical,
            None => {
                let physical = self.while_stopped(|machine| {
                    machine.push_registers(core)?;
                    Ok(machine.gdb.translate(core, page)?)
                })?;
                let physical = physical.ok_or(MachineError::Bus(address))?;
                self.halted(core)?.pages.insert(page, physical);
                physical
            }
        };
        Ok(self.offset(physical, PAGE as usize).is_ok().then_some(physical + address % PAGE))
    }

    /// Lets a halted core execute the instruction at its PC.
    fn step_stopped(&mut self, core: usize) -> Result<(), MachineError> {
        self.push_registers(core)?;
        self.push_written()?;
        let mut executed = self.gdb.step(core, STEP_DEADLINE)?;
        if !executed {
            self.qtest.set_irq(core, true)?;
            executed = self.gdb.step(core, STEP_DEADLINE)?;
            self.qtest.set_irq(core, false)?;
        }
        let registers = self.gdb.registers(core)?;
        let halted = self.halted(core)?;
        (halted.known, halted.registers) = (registers.clone(), registers);
        halted.pages.clear();
        if executed { Ok(()) } else { Err(MachineError::Instruction(0)) }
    }

    /// Puts an instruction where a halted core stands, lets it execute that, and puts back what was there: the others
    /// stand still meanwhile. An exception shows in where the core ends up; as on hardware, its syndrome registers are
    /// lost.
    fn execute_stopped(&mut self, core: usize, instruction: u32) -> Result<(), MachineError> {
        let before = self.halted(core)?.registers.clone();
        self.push_registers(core)?;
        let mut there = [0; 4];
        let page = self.gdb.translate(core, before.pc - before.pc % PAGE)?;
        let physical = page.map(|page| page + before.pc % PAGE).filter(|at| self.offset(*at, 4).is_ok());
        if !self.gdb.read(core, before.pc, &mut there)?
            || !self.gdb.write(core, before.pc, &instruction.to_le_bytes())?
        {
            return Err(MachineError::Bus(before.pc));
        }
        let executed = self.step_stopped(core);
        let mut restored = self.gdb.write(core, before.pc, &there)?;
        if let (false, Some(physical)) = (restored, physical) {
            // The instruction turned the MMU off, or changed the map: the place is where it was.
            self.ram.write_all_at(&there, physical - RAM_BASE)?;
            self.qtest.write(physical, &there)?;
            restored = true;
        }
        let halted = self.halted(core)?;
        let went_on = halted.registers.pc == before.pc.wrapping_add(4);
        if executed.is_err() || !went_on || !restored {
            halted.registers = before;
            return Err(MachineError::Instruction(instruction));
        }
        (halted.registers.pc, halted.registers.pstate) = (before.pc, before.pstate);
        Ok(())
    }

    /// Wakes a halted core that is sent elsewhere out of a WFI.
    fn wake(&mut self, core: usize) -> Result<(), MachineError> {
        let halted = self.halted(core)?;
        let (stood, goes) = (halted.stood, halted.registers.pc);
        let mut before = [0; 4];
        if stood != goes
            && self.gdb.read(core, stood.wrapping_sub(4), &mut before)?
            && u32::from_le_bytes(before) == WFI
            && let Err(error) = self.execute_stopped(core, NOP)
        {
            crate::debug::complain(&format!("core {core} does not wake up: {error}"));
        }
        Ok(())
    }
}

impl Halted {
    fn new(registers: Registers) -> Halted {
        Halted { known: registers.clone(), stood: registers.pc, registers, pages: HashMap::new() }
    }
}

/// Pieces of a range that do not cross a page: their address, and where they are in the range.
fn pages(address: u64, bytes: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = address.wrapping_add(done as u64);
        let count = (bytes - done).min((PAGE - at % PAGE) as usize);
        let piece = done..done + count;
        done += count;
        (count > 0).then_some((at, piece))
    })
}

impl Machine for QemuMachine {
    fn cores(&self) -> usize {
        self.halted.len()
    }

    /// As QEMU numbers them on `virt` with a GICv3: 16 cores to a cluster.
    fn mpidr(&self, core: usize) -> u64 {
        0x8000_0000 | ((core as u64 / 16) << 8) | (core as u64 % 16)
    }

    fn ram(&self) -> (u64, u64) {
        (RAM_BASE, self.ram_bytes)
    }

    fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        let offset = self.offset(address, bytes.len())?;
        Ok(self.ram.read_exact_at(bytes, offset)?)
    }

    fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MachineError> {
        let offset = self.offset(address, bytes.len())?;
        let end = address + bytes.len() as u64;
        let continued = !self.written.is_empty() && (self.written.start..=self.written.end).contains(&address);
        if !continued && !self.written.is_empty() {
            self.while_stopped(QemuMachine::push_written)?;
        }
        self.ram.write_all_at(bytes, offset)?;
        self.written = if continued { self.written.start..self.written.end.max(end) } else { address..end };
        Ok(())
    }

    fn halt(&mut self, cores: &[usize]) -> Result<(), MachineError> {
        self.while_stopped(|machine| {
            for core in cores {
                machine.halted[*core] = Some(Halted::new(machine.gdb.registers(*core)?));
            }
            Ok(())
        })
    }

    fn resume(&mut self, cores: &[usize]) -> Result<(), MachineError> {
        self.while_stopped(|machine| {
            machine.push_written()?;
            for core in cores {
                machine.wake(*core)?;
                machine.push_registers(*core)?;
            }
            for core in cores {
                machine.halted[*core] = None;
            }
            Ok(())
        })
    }

    fn step(&mut self, core: usize) -> Result<(), MachineError> {
        self.while_stopped(|machine| machine.step_stopped(core))
    }

    fn registers(&mut self, core: usize) -> Result<&mut Registers, MachineError> {
        Ok(&mut self.halted(core)?.registers)
    }

    fn execute(&mut self, core: usize, instruction: u32) -> Result<(), MachineError> {
        self.while_stopped(|machine| machine.execute_stopped(core, instruction))
    }

    fn read_virtual(&mut self, core: usize, address: u64, bytes: &mut [u8]) -> Result<(), MachineError> {
        for (address, piece) in pages(address, bytes.len()) {
            let piece = &mut bytes[piece];
            match self.translate(core, address)? {
                Some(physical) => self.read(physical, piece)?,
                None => {
                    let seen = self.while_stopped(|machine| Ok(machine.gdb.read(core, address, piece)?))?;
                    seen.then_some(()).ok_or(MachineError::Bus(address))?;
                }
            }
        }
        Ok(())
    }

    fn write_virtual(&mut self, core: usize, address: u64, bytes: &[u8]) -> Result<(), MachineError> {
        for (address, piece) in pages(address, bytes.len()) {
            let piece = &bytes[piece];
            match self.translate(core, address)? {
                Some(physical) => self.write(physical, piece)?,
                None => {
                    let seen = self.while_stopped(|machine| Ok(machine.gdb.write(core, address, piece)?))?;
                    seen.then_some(()).ok_or(MachineError::Bus(address))?;
                }
            }
        }
        Ok(())
    }

    fn ended(&mut self) -> Option<String> {
        self.child.poll().ok().flatten().map(|status| {
            let said = fs::read_to_string(self.scratch.file("stderr")).unwrap_or_default();
            format!("{status} {}", said.trim())
        })
    }
}
