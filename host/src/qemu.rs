//! QEMU: boots a machine in a scratch folder of its own and owns its end.
//!
//! Guest RAM is a file that QEMU shares: the host reads it with positioned reads while the cores run, stops nothing and
//! maps nothing. It is made anew for every run, so nothing in it is older than the run. Whatever happens, the child is
//! killed and the folder removed when a [`Target`] is dropped. Before a run that was cut short is killed, QEMU is asked where
//! its cores stand: what a hang was is gone with the process.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use trace_ring::layout::{
    Directory, LOCATOR_MAGIC, LOCATOR_OFFSET, Locator, REGION_ALIGN, Request, abort_reason, run_state,
};
use trace_ring::plan::PlanHeader;
use trace_ring::reader::{Region, RegionSource};
use zerocopy::FromBytes as _;

use crate::child::{Guarded, ask};
use crate::error::{Explain, FileError, exit};
use crate::firmware::Image;
use crate::machine::{Files, IMAGE_OFFSET, Load, Machine, MachineError};
use crate::monitor::{self, CorePicture, Monitor};
use crate::scratch::{Scratch, room};

/// The program.
pub const PROGRAM: &str = "qemu-system-aarch64";

/// The oldest version that anything here was tried with.
pub const OLDEST: (u32, u32) = (7, 2);

/// Longest time that QEMU may take to say its version.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// How much of RAM is searched for an image that is not where QEMU usually puts it.
const SEARCHED: u64 = 128 << 20;

/// How long the look at the cores of a run that was cut short may take.
const LOOK: Duration = Duration::from_secs(3);

/// How long QEMU may take to name its threads: it is asked when the plan is about to begin.
const THREADS: Duration = Duration::from_millis(500);

/// Names in the scratch folder: the run's own monitor, the one for `inspect --live`, what backs the RAM, and what tells of all.
const OWN_MONITOR: &str = "qmp";
const GUEST_MONITOR: &str = "inspect";
const RAM: &str = "ram";
const MANIFEST: &str = "run.json";

/// What QEMU says although nothing is wrong.
const HARMLESS: [&str; 4] = [
    "icount sleep disabled and no active timers", // all cores wait in WFI, which they do
    "has no peer",                                // boards with network interfaces on them
    "terminating on signal",                      // the host ends it
    "Number of SMP cpus requested",               // a hint on host cores
];

/// Why QEMU can't be used.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// It is not installed.
    #[error("{PROGRAM} can't be started: {0}")]
    Missing(io::Error),
    /// It does not say its version.
    #[error("{PROGRAM} --version says {0:?}, and no version")]
    Version(String),
    /// It is too old.
    #[error("{PROGRAM} {found} is installed, {}.{} or newer is needed", OLDEST.0, OLDEST.1)]
    TooOld {
        /// What is installed.
        found: String,
    },
    /// There is no room for guest RAM.
    #[error("the target needs {needed} MiB for its RAM, {folder} has {free} MiB free", folder = .folder.display())]
    NoRoom {
        /// Where it was to go.
        folder: PathBuf,
        /// MiB needed.
        needed: u64,
        /// MiB free.
        free: u64,
    },
    /// The machine can't be had.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// A file of the run.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Explain for QemuError {
    fn kind(&self) -> &'static str {
        match self {
            QemuError::Missing(_) | QemuError::Version(_) => "qemu",
            QemuError::TooOld { .. } => "qemu_version",
            QemuError::NoRoom { .. } => "memory",
            QemuError::Machine(error) => error.kind(),
            QemuError::File(error) => error.kind(),
        }
    }

    fn next_step(&self) -> String {
        match self {
            QemuError::Missing(_) | QemuError::Version(_) | QemuError::TooOld { .. } => {
                "run ./setup.sh, or install QEMU 7.2 or newer (Debian: qemu-system-arm)".into()
            }
            QemuError::NoRoom { .. } => {
                "free some memory, lower --ring-memory, or set TMPDIR to a folder with room".into()
            }
            QemuError::Machine(error) => error.next_step(),
            QemuError::File(error) => error.next_step(),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            QemuError::Machine(error) => error.exit_code(),
            _ => exit::UNMEASURED,
        }
    }
}

/// A version of QEMU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Major and minor number.
    pub number: (u32, u32),
    /// As QEMU prints it: "10.0.2 (Debian 1:10.0.2+ds-2)".
    pub text: String,
}

impl Version {
    /// Asks the installed QEMU.
    pub fn ask() -> Result<Version, QemuError> {
        let answer = ask(Command::new(PROGRAM).arg("--version"), ANSWER_DEADLINE).map_err(QemuError::Missing)?;
        let version = Version::parse(&answer.stdout).ok_or_else(|| {
            let text = if answer.stdout.is_empty() { &answer.stderr } else { &answer.stdout };
            QemuError::Version(text.lines().next().unwrap_or_default().into())
        })?;
        if version.number < OLDEST { Err(QemuError::TooOld { found: version.text }) } else { Ok(version) }
    }

    fn parse(text: &str) -> Option<Version> {
        let text = text.lines().next()?.split_once("version ")?.1.trim();
        Some(Version { number: boards::version(text.split_whitespace().next()?)?, text: text.into() })
    }
}

/// Names of the machines that the installed QEMU has.
pub fn machines() -> Result<Vec<String>, QemuError> {
    let answer = ask(Command::new(PROGRAM).args(["-M", "help"]), ANSWER_DEADLINE).map_err(QemuError::Missing)?;
    let names = answer.stdout.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    Ok(names.map(String::from).collect())
}

/// A machine, ready to be booted: what goes into its RAM is known.
#[derive(Debug)]
pub struct Setup<'a> {
    machine: &'a Machine,
    image: &'a Image,
    plan: &'a [u8],
    load: Load,
    memory_bytes: u64,
    tree: Option<Vec<u8>>,
}

impl<'a> Setup<'a> {
    /// Puts machine, image and plan together. `region_bytes`: what the firmware will take for the region.
    pub fn new(machine: &'a Machine, image: &'a Image, plan: &'a [u8], region_bytes: u64) -> Result<Self, QemuError> {
        let sgi_count = PlanHeader::ref_from_prefix(plan).map_or(0, |(header, _)| header.sgi_count.into());
        let load = Load { image: image.memory_bytes(), plan: plan.len() as u64, region: region_bytes, sgi_count };
        let memory_bytes = machine.memory_bytes(load);
        let tree = machine.device_tree(memory_bytes)?;
        Ok(Setup { machine, image, plan, load, memory_bytes, tree })
    }

    /// The device tree that the host makes for the machine, if it does.
    pub fn tree(&self) -> Option<&[u8]> {
        self.tree.as_deref()
    }

    /// Bytes of RAM that the machine gets.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Makes the scratch folder and all files in it. `nonce` names the folder.
    pub fn prepare(&self, nonce: u64) -> Result<Prepared, QemuError> {
        // What will really be touched; the rest of the file stays sparse.
        let needed = self.load.image + self.load.plan + self.load.region + (32 << 20);
        let scratch = Scratch::create(needed, nonce)?;
        if let Some(free) = room(scratch.path()).filter(|free| *free < needed) {
            let folder = scratch.path().parent().unwrap_or(Path::new("/")).to_path_buf();
            return Err(QemuError::NoRoom { folder, needed: needed >> 20, free: free >> 20 });
        }
        let image = match self.machine.handover(self.load) {
            None => scratch.write("image", self.image.bytes())?,
            Some(at) => {
                let patched = self.image.patched(|locator| {
                    locator.device_tree_pa = at.device_tree;
                    locator.plan_pa = at.plan;
                    locator.plan_len = self.plan.len() as u64;
                    locator.primary_mpidr = at.primary;
                });
                scratch.write("image", &patched)?
            }
        };
        let plan = scratch.write("plan", self.plan)?;
        let tree = self.tree.as_deref().map(|tree| scratch.write("tree", tree)).transpose()?;
        let (ram_path, console) = (scratch.file(RAM), scratch.write("console", b"")?);
        let monitors = monitors_in(scratch.path());
        let ram = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&ram_path)
            .and_then(|file| file.set_len(self.memory_bytes).map(|()| file))
            .map_err(FileError::of("create", &ram_path))?;
        let tree = tree.as_deref();
        let files = Files { image: &image, plan: &plan, tree, ram: &ram_path, console: &console, monitors: &monitors };
        let arguments = self.machine.arguments(&files, self.memory_bytes, self.load);
        let (ram_base, ram_bytes) = (self.machine.ram_base(), self.memory_bytes);
        let ram = Ram { file: ram, base: ram_base, bytes: ram_bytes };
        let (monitor, parallel) = (monitors.into_iter().next(), !self.machine.deterministic);
        Ok(Prepared { arguments, ram, console, monitor, parallel, scratch })
    }
}

/// A machine whose files lie ready. Dropping it removes them.
#[derive(Debug)]
pub struct Prepared {
    arguments: Vec<OsString>,
    ram: Ram,
    console: PathBuf,
    /// The run's own; `None`: the folder's name is too long for a socket.
    monitor: Option<PathBuf>,
    parallel: bool,
    scratch: Scratch,
}

impl Prepared {
    /// QEMU's arguments.
    pub fn arguments(&self) -> Vec<String> {
        self.arguments.iter().map(|argument| argument.to_string_lossy().into_owned()).collect()
    }

    /// What of the run will be missing, if something will.
    pub fn lack(&self) -> Option<String> {
        self.monitor.is_none().then(|| {
            format!(
                "{} is too long for a socket: QEMU can't be asked where its cores stand (set TMPDIR to a shorter path)",
                self.scratch.path().display()
            )
        })
    }

    /// Boots it. Call this from a thread that lives as long as the target shall ([`Guarded::spawn`] says why).
    pub fn start(self) -> Result<Target, QemuError> {
        let Prepared { arguments, ram, console, monitor, parallel, scratch } = self;
        let complaints_path = scratch.file("stderr");
        let complaints = File::create(&complaints_path).map_err(FileError::of("create", &complaints_path))?;
        let mut command = Command::new(PROGRAM);
        command.args(&arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(complaints);
        let child = Guarded::spawn(&mut command).map_err(QemuError::Missing)?;
        scratch.record_qemu(child.id())?;
        let picture = Picture::Never;
        Ok(Target { child, ram, console, complaints: complaints_path, monitor, parallel, picture, scratch })
    }
}

/// The sockets of a run's monitors, its own first; none where the folder's path is too long for one.
fn monitors_in(folder: &Path) -> Vec<PathBuf> {
    let paths: Vec<PathBuf> = [OWN_MONITOR, GUEST_MONITOR].map(|name| folder.join(name)).into();
    let fit = paths.iter().all(|path| path.as_os_str().len() <= monitor::MOST_PATH);
    if fit { paths } else { Vec::new() }
}

/// What tells others of a run: how `inspect --live` finds its RAM, its monitor and its symbols.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Name of the machine.
    pub machine: String,
    /// Name of the plan.
    pub plan: String,
    /// Its capture, which holds the firmware's symbols.
    pub capture: PathBuf,
    /// Physical address of RAM's first byte.
    pub ram_base: u64,
    /// Process id of QEMU.
    pub qemu: u32,
}

impl Manifest {
    /// Reads that of a scratch folder; `None`: it has none (yet), or one of another version.
    pub fn of(folder: &Path) -> Option<Manifest> {
        serde_json::from_slice(&fs::read(folder.join(MANIFEST)).ok()?).ok()
    }

    /// The RAM of the run in a scratch folder.
    pub fn ram(&self, folder: &Path) -> Result<Ram, FileError> {
        let path = folder.join(RAM);
        let file = File::open(&path).map_err(FileError::of("read", &path))?;
        let bytes = file.metadata().map_err(FileError::of("read", &path))?.len();
        Ok(Ram { file, base: self.ram_base, bytes })
    }

    /// The socket of the monitor that such a run keeps for others.
    pub fn monitor(folder: &Path) -> PathBuf {
        folder.join(GUEST_MONITOR)
    }
}

/// The file that backs a target's RAM.
#[derive(Debug)]
pub struct Ram {
    file: File,
    /// Physical address of its first byte.
    base: u64,
    bytes: u64,
}

impl Ram {
    /// Looks for the region: `None`, as long as the firmware has not laid it out. `everywhere` searches the beginning
    /// of RAM for the image instead of looking only where QEMU usually puts it.
    pub fn find_region(&self, everywhere: bool) -> io::Result<Option<RamFile>> {
        let last = if everywhere { SEARCHED.min(self.bytes) } else { IMAGE_OFFSET };
        let mut offset = if everywhere { 0 } else { IMAGE_OFFSET };
        while offset <= last {
            if let Some(directory) = self.directory_of_image_at(offset)?
                && let Some(offset) = directory.checked_sub(self.base)
                && offset.is_multiple_of(REGION_ALIGN)
                && offset < self.bytes
            {
                let ram = self.file.try_clone()?;
                return Ok(Some(RamFile { ram, offset, end: self.bytes }));
            }
            offset += IMAGE_OFFSET;
        }
        Ok(None)
    }

    /// The directory's address as the image at this offset of RAM says it; `None`: no image there, or no region yet.
    fn directory_of_image_at(&self, offset: u64) -> io::Result<Option<u64>> {
        let mut bytes = [0; size_of::<Locator>()];
        let at = offset + LOCATOR_OFFSET;
        if at + bytes.len() as u64 > self.bytes {
            return Ok(None);
        }
        self.file.read_exact_at(&mut bytes, at)?;
        let Ok(locator) = Locator::read_from_bytes(&bytes) else { return Ok(None) };
        Ok((locator.magic == LOCATOR_MAGIC && locator.directory_pa != 0).then_some(locator.directory_pa))
    }
}

/// Where the cores stood when a run was cut short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Picture {
    /// Nobody looked: the run ended by itself, or has not ended.
    Never,
    /// What was seen.
    Taken(Vec<CorePicture>),
    /// Why nothing was seen.
    Failed(String),
}

/// A machine that runs. Dropping it kills QEMU, then removes the scratch folder.
#[derive(Debug)]
pub struct Target {
    // Field order is drop order: the child goes before the folder it works in.
    child: Guarded,
    ram: Ram,
    console: PathBuf,
    complaints: PathBuf,
    monitor: Option<PathBuf>,
    /// Each core has a thread of its own: instructions are not counted.
    parallel: bool,
    picture: Picture,
    scratch: Scratch,
}

impl Target {
    /// QEMU's process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// The scratch folder.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// The threads that execute the cores, by core; none where they have none of their own, or QEMU does not say.
    pub fn threads(&self) -> Vec<(u16, u32)> {
        let path = self.monitor.as_ref().filter(|_| self.parallel);
        let ask = |path: &PathBuf| Monitor::connect_within(path, THREADS)?.threads();
        path.and_then(|path| ask(path).ok()).unwrap_or_default()
    }

    /// How QEMU ended, if it has.
    pub fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.poll()
    }

    /// Tells others of the run.
    pub fn announce(&self, machine: &str, plan: &str, capture: &Path) -> Result<(), FileError> {
        let manifest = Manifest {
            machine: machine.into(),
            plan: plan.into(),
            capture: std::path::absolute(capture).unwrap_or_else(|_| capture.into()),
            ram_base: self.ram.base,
            qemu: self.process(),
        };
        // Plain data with text keys can't fail. Whoever looks meanwhile finds no manifest, never half of one.
        let text = serde_json::to_vec(&manifest).unwrap_or_default();
        let written = self.scratch.write("run.json.new", &text)?;
        let path = self.scratch.file(MANIFEST);
        fs::rename(&written, &path).map_err(FileError::of("write", &path))
    }

    /// Ends QEMU. Its RAM file, console and complaints stay readable. A run that was cut short is looked at before.
    pub fn kill(&mut self) {
        if self.picture == Picture::Never && matches!(self.poll(), Ok(None)) && self.is_cut_short() {
            self.picture = self.look();
        }
        self.child.kill();
    }

    /// Where the cores stood when the run was cut short.
    pub fn picture(&self) -> &Picture {
        &self.picture
    }

    /// Whether the run has not ended, or ended because a core hangs or faulted.
    fn is_cut_short(&self) -> bool {
        let Some(mut source) = self.find_region(false).ok().flatten() else { return true };
        let status = Region::open(&mut source).and_then(|region| region.status(&mut source));
        let Ok(status) = status else { return true };
        match status.state {
            run_state::ENDED => false,
            run_state::ABORTED => matches!(status.reason, abort_reason::DEADLINE | abort_reason::FAULT),
            _ => true,
        }
    }

    /// Stops the cores and looks where they stand.
    fn look(&self) -> Picture {
        let Some(path) = &self.monitor else {
            return Picture::Failed("the scratch folder's path is too long for the socket of QEMU's monitor".into());
        };
        let source = self.find_region(false).ok().flatten();
        let entries = source.and_then(|mut source| Region::open(&mut source).ok()?.core_entries(&mut source).ok());
        let look = || {
            let mut monitor = Monitor::connect(path)?;
            monitor.stop()?;
            monitor::picture(&mut monitor, &entries.unwrap_or_default(), LOOK)
        };
        match look() {
            Ok(pictures) => Picture::Taken(pictures),
            Err(error) => Picture::Failed(error.to_string()),
        }
    }

    /// What the console said so far.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    /// What QEMU complained of, without what is harmless.
    pub fn complaints(&self) -> String {
        sift(&String::from_utf8_lossy(&fs::read(&self.complaints).unwrap_or_default()))
    }

    /// Looks for the region, as [`Ram::find_region`] does.
    pub fn find_region(&self, everywhere: bool) -> io::Result<Option<RamFile>> {
        self.ram.find_region(everywhere)
    }
}

/// QEMU's complaints without the harmless ones.
fn sift(text: &str) -> String {
    let kept: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !HARMLESS.iter().any(|known| line.contains(known)))
        .collect();
    kept.join("\n")
}

/// The region inside the file that backs a target's RAM.
#[derive(Debug)]
pub struct RamFile {
    ram: File,
    /// Of the region in the file.
    offset: u64,
    /// Bytes of the file.
    end: u64,
}

impl RamFile {
    /// The region at byte `offset` of a file of RAM, or of a dump.
    pub fn new(ram: File, offset: u64) -> io::Result<RamFile> {
        let end = ram.metadata()?.len();
        Ok(RamFile { ram, offset, end })
    }

    /// Asks the firmware to end the run at its next operation: the one word that a host writes.
    pub fn request_stop(&self) -> io::Result<()> {
        let word = core::mem::offset_of!(Directory, request) + core::mem::offset_of!(Request, stop);
        self.ram.write_all_at(&1u32.to_le_bytes(), self.offset + word as u64)
    }
}

impl RegionSource for RamFile {
    type Error = io::Error;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), io::Error> {
        let at = self.offset.checked_add(offset).filter(|at| *at <= self.end && self.end - at >= buffer.len() as u64);
        let Some(at) = at else {
            let message = format!("{} bytes at {offset:#x} of the region lie beyond the target's RAM", buffer.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        };
        self.ram.read_exact_at(buffer, at)?;
        // Acquire: no later read may be answered with older data; pairs with the target's DMB ST before each head.
        fence(Ordering::Acquire);
        Ok(())
    }

    /// The kernel's copy of eight aligned bytes is one load on every machine this was tried on, but nothing promises
    /// it. The words read this way only grow, so three reads in ascending order show that the middle one was not torn.
    fn read_u64(&mut self, offset: u64) -> Result<u64, io::Error> {
        let mut word = || -> Result<u64, io::Error> {
            let mut bytes = [0; 8];
            self.read(offset, &mut bytes)?;
            Ok(u64::from_le_bytes(bytes))
        };
        let (mut before, mut value) = (word()?, word()?);
        for _ in 0..16 {
            let after = word()?;
            if before <= value && value <= after {
                break;
            }
            (before, value) = (value, after);
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_qemu_prints() {
        let text = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright (c) 2003-2025\n";
        let version = Version::parse(text).expect("is a version");
        assert_eq!(version.number, (10, 0));
        assert_eq!(version.text, "10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)");
        assert_eq!(Version::parse("QEMU emulator version 7.2.0").map(|version| version.number), Some((7, 2)));
        assert_eq!(Version::parse("no such thing"), None);
        assert_eq!(Version::parse(""), None);
    }

    #[test]
    fn a_folder_too_long_for_sockets_has_no_monitors() {
        let folder = tempfile::tempdir().expect("a folder");
        // As long as a socket can be bound there: the system's word counts, not ours.
        let room = monitor::MOST_PATH - folder.path().as_os_str().len() - "/".len() - "/inspect".len();
        for (length, expected) in [(room, 2), (room + 1, 0)] {
            let long = folder.path().join("x".repeat(length));
            fs::create_dir(&long).expect("is made");
            assert_eq!(monitors_in(&long).len(), expected, "{length}");
            let bound = std::os::unix::net::UnixListener::bind(long.join(GUEST_MONITOR));
            assert_eq!(bound.is_ok(), expected > 0, "{length}");
        }
    }

    #[test]
    fn harmless_complaints_are_not_shown() {
        let text = "qemu-system-aarch64: warning: nic imx.enet.0 has no peer\nqemu-system-aarch64: unable to find CPU model 'x'\n";
        assert_eq!(sift(text), "qemu-system-aarch64: unable to find CPU model 'x'");
    }

    #[test]
    fn a_ram_file_is_read_within_its_bounds() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4 << 20).expect("is grown");
        file.write_all_at(&0x0123_4567_89AB_CDEF_u64.to_le_bytes(), (2 << 20) + 8).expect("is written");
        let mut source = RamFile::new(file, 2 << 20).expect("is a region");
        assert_eq!(source.read_u64(8).expect("is read"), 0x0123_4567_89AB_CDEF);
        assert!(source.read(2 << 20, &mut [0; 1]).is_err());
        assert!(source.read(u64::MAX - 4, &mut [0; 8]).is_err());
        source.request_stop().expect("is written");
        let mut word = [0; 4];
        source.read(448, &mut word).expect("is read");
        assert_eq!(word, [1, 0, 0, 0]);
    }
}
