//! The firmware: finds its flat image and ELF, or builds them.
//!
//! Three places, in this order: the file that the user names; `firmware.img` beside the executable (a release bundle,
//! which needs no toolchain); the `firmware` crate of the workspace, built on demand. A build that is up to date costs
//! one look at the sources' times.
//!
//! The target `aarch64-unknown-none-softfloat` needs a `core`. Where the toolchain has it, plain cargo builds the
//! firmware. Where it has not, `core` is built from the library sources of a compiler that carries them (rustup's
//! `rust-src`, Debian's `rust-web-src`), with that same compiler: sources of one version never meet the compiler of
//! another.
//!
//! The image is made here from the ELF's loadable segments: no objcopy is needed.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use object::read::elf::{ElfFile64, FileHeader as _, ProgramHeader as _};
use trace_ring::layout::{ABI_VERSION, LOCATOR_MAGIC, LOCATOR_OFFSET, Locator};
use zerocopy::{FromBytes as _, IntoBytes as _};

use crate::child::{Guarded, ask};
use crate::error::{Explain, FileError, exit};
use crate::interrupt;

/// The target that the firmware is built for.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";

/// The compiler's flags: frame records in every function that calls, none in the leaves (the measured handler is one). IPI
/// backtrace and `--backtrace` follow them. The value `non-leaf` is not stable yet, hence RUSTC_BOOTSTRAP.
const FLAGS: &str = "-Cforce-frame-pointers=non-leaf -Zunstable-options";

/// Longest time that a build may take, and that a build may wait for another host's build.
const BUILD_DEADLINE: Duration = Duration::from_secs(15 * 60);

/// Longest time that a compiler may take to say who it is.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// An image spans at most this much: what is larger was not linked for this kit.
const IMAGE_LIMIT: u64 = 64 << 20;

/// Files whose change calls for a new build, from the workspace's root.
const SOURCES: [&str; 7] =
    ["firmware", "trace-ring", "linker", "Cargo.toml", "Cargo.lock", "rust-toolchain.toml", ".cargo/config.toml"];

/// Why there is no firmware.
#[derive(Debug, thiserror::Error)]
pub enum FirmwareError {
    /// `--firmware` names something that is not an image.
    #[error("{path} is no ipiscope firmware: {reason}", path = .path.display())]
    NotFirmware {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// Whether the user named it.
        named: bool,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// `--firmware` names a file that can't be read.
    #[error("can't read the firmware that --firmware names, {path}: {source}", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no image beside the executable and no workspace to build it from.
    #[error("no firmware: neither firmware.img beside {executable} nor the sources of ipiscope were found", executable = .executable.display())]
    Nowhere {
        /// The running executable.
        executable: PathBuf,
    },
    /// No compiler can build for the target.
    #[error("no Rust compiler here can build for {TARGET}: {tried}")]
    NoToolchain {
        /// What was looked at.
        tried: String,
    },
    /// There is a compiler, but no linker for it.
    #[error("no linker for {TARGET}: {rustc} has no rust-lld, and there is no ld.lld in PATH", rustc = .rustc.display())]
    NoLinker {
        /// The compiler.
        rustc: PathBuf,
    },
    /// Another host builds the same firmware and does not end.
    #[error("another ipiscope has been building the firmware for {seconds} s (it holds {lock})", lock = .lock.display())]
    Locked {
        /// How long it was waited for.
        seconds: u64,
        /// The lock file.
        lock: PathBuf,
    },
    /// cargo could not be started.
    #[error("can't start {cargo}: {source}", cargo = .cargo.display())]
    Cargo {
        /// The cargo.
        cargo: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// cargo failed.
    #[error("the firmware does not build ({command}):\n{last_lines}")]
    Build {
        /// The command, shortened.
        command: String,
        /// The end of what it printed.
        last_lines: String,
    },
    /// The user asked to stop, or the build took too long.
    #[error("the firmware's build was cut short: {0}")]
    CutShort(&'static str),
}

impl Explain for FirmwareError {
    fn kind(&self) -> &'static str {
        match self {
            FirmwareError::NoToolchain { .. } | FirmwareError::NoLinker { .. } => "firmware_target",
            FirmwareError::File(error) => error.kind(),
            _ => "firmware",
        }
    }

    fn next_step(&self) -> String {
        match self {
            FirmwareError::NotFirmware { named: false, .. } => {
                "remove it and run again, or name a built image: --firmware FILE".into()
            }
            FirmwareError::NotFirmware { .. } => {
                "name an image or ELF that `ipiscope firmware build` of this version made, or leave --firmware out"
                    .into()
            }
            FirmwareError::File(error) => error.next_step(),
            FirmwareError::Unreadable { .. } => "check the path, or leave --firmware out to build the firmware".into(),
            FirmwareError::Nowhere { .. } => {
                "run from a checkout of ipiscope, unpack the whole release bundle, or name the image: --firmware FILE"
                    .into()
            }
            FirmwareError::NoToolchain { .. } => format!(
                "run `rustup target add {TARGET}`, or ./setup.sh to install a compiler with its library sources, \
                 or name a built image: --firmware FILE"
            ),
            FirmwareError::NoLinker { .. } => "run ./setup.sh, or install your distribution's `lld`".into(),
            FirmwareError::Locked { .. } => "wait for it or end it, then run again".into(),
            FirmwareError::Cargo { .. } => "run ./setup.sh, then `cargo run -p host -- doctor`".into(),
            FirmwareError::Build { .. } => {
                "mend what the compiler names, or name a built image: --firmware FILE".into()
            }
            FirmwareError::CutShort(_) => "run again".into(),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            FirmwareError::NotFirmware { named: true, .. } | FirmwareError::Unreadable { .. } => exit::MISUSED,
            _ => exit::UNMEASURED,
        }
    }
}

/// Where the image is linked (`linker/firmware.ld`): what a core that runs it sees at the image's start.
pub const LINKED_AT: u64 = 0xFFFF_FFFF_8000_0000;

/// The firmware of a run.
#[derive(Debug)]
pub struct Firmware {
    /// The flat image.
    pub image: Image,
    /// Where it was read from (or where it was written).
    pub image_path: PathBuf,
    /// The ELF that it was made of, for symbols and log strings.
    pub elf: Option<Elf>,
}

/// The ELF of an image.
#[derive(Debug)]
pub struct Elf {
    /// Where it lies.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A flat image that was checked: arm64 Image header, locator, version.
#[derive(Debug, Clone)]
pub struct Image {
    bytes: Vec<u8>,
    memory_bytes: u64,
    locator: Locator,
}

impl Image {
    /// Checks a flat image; the error says what is wrong with it.
    pub fn parse(bytes: Vec<u8>) -> Result<Image, String> {
        let word = |at: usize| -> Option<u64> {
            bytes.get(at..at + 8).and_then(|raw| raw.try_into().ok()).map(u64::from_le_bytes)
        };
        if bytes.get(56..60) != Some(b"ARM\x64") {
            return Err("it has no arm64 Image header (\"ARM\\x64\" at byte 56)".into());
        }
        let (Some(text_offset), Some(memory_bytes)) = (word(8), word(16)) else {
            return Err("it ends within its header".into());
        };
        let locator = bytes
            .get(LOCATOR_OFFSET as usize..)
            .and_then(|rest| Locator::read_from_prefix(rest).ok())
            .map(|(locator, _)| locator)
            .filter(|locator| locator.magic == LOCATOR_MAGIC)
            .ok_or_else(|| format!("an arm64 Image, but without ipiscope's locator at byte {LOCATOR_OFFSET}"))?;
        if locator.version != ABI_VERSION {
            return Err(format!("its ABI version is {}, this host speaks {ABI_VERSION}", locator.version));
        }
        if text_offset != 0 {
            return Err(format!("its text_offset is {text_offset:#x}, it should be 0"));
        }
        if memory_bytes < bytes.len() as u64 || memory_bytes > IMAGE_LIMIT * 16 {
            return Err(format!("its header claims {memory_bytes} bytes of memory for {} bytes of file", bytes.len()));
        }
        Ok(Image { bytes, memory_bytes, locator })
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of memory that it takes, with its zeroed part.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// What the image says of itself, and where its loader tells it what it can't know otherwise.
    pub fn locator(&self) -> &Locator {
        &self.locator
    }

    /// Identity of the build.
    pub fn build_id(&self) -> [u8; 32] {
        self.locator.build_id
    }

    /// The bytes with a locator that tells the firmware what its loader can't: where tree and plan lie, who goes first.
    pub fn patched(&self, patch: impl FnOnce(&mut Locator)) -> Vec<u8> {
        let mut locator = self.locator;
        patch(&mut locator);
        let mut bytes = self.bytes.clone();
        let start = LOCATOR_OFFSET as usize;
        // `parse` read a locator from this very place.
        bytes[start..start + size_of::<Locator>()].copy_from_slice(locator.as_bytes());
        bytes
    }
}

/// The flat image of an ELF: its loadable segments from the lowest address to the end of the last byte that the file
/// has.
pub fn flatten(elf: &[u8]) -> Result<Vec<u8>, String> {
    let file: ElfFile64<'_> = ElfFile64::parse(elf).map_err(|error| format!("not a 64-bit ELF: {error}"))?;
    let endian = file.endian();
    if file.elf_header().e_machine(endian) != object::elf::EM_AARCH64 {
        return Err("an ELF, but not for aarch64 (the firmware builds as a stub on the host)".into());
    }
    let mut segments = Vec::new();
    for header in file.elf_program_headers() {
        if header.p_type(endian) == object::elf::PT_LOAD && header.p_filesz(endian) > 0 {
            let data = header.data(endian, elf).map_err(|()| "a segment lies outside the file".to_string())?;
            segments.push((header.p_vaddr(endian), data));
        }
    }
    let base = segments.iter().map(|(address, _)| *address).min().ok_or("it has nothing to load")?;
    // Distances wrap like addresses do: the image is linked at the very top.
    let end =
        segments.iter().map(|(address, data)| (address - base).saturating_add(data.len() as u64)).max().unwrap_or(0);
    if end > IMAGE_LIMIT {
        return Err(format!("its segments span {end} bytes, more than {IMAGE_LIMIT}"));
    }
    let mut image = vec![0; end as usize];
    for (address, data) in segments {
        let at = (address - base) as usize;
        image[at..at + data.len()].copy_from_slice(data);
    }
    Ok(image)
}

/// Finds the firmware, building it if need be. `named` is the user's `--firmware`; `say` is told what takes long.
pub fn find(named: Option<&Path>, say: &mut dyn FnMut(&str)) -> Result<Firmware, FirmwareError> {
    if let Some(path) = named {
        return load(path, true);
    }
    match place()? {
        Place::Bundle(path) => load(&path, false),
        Place::Workspace(root) => build(&root, say),
    }
}

/// The firmware that is there, built or not, without building it: for symbols and log strings. The caller compares
/// build ids.
pub fn existing(named: Option<&Path>) -> Result<Option<Firmware>, FirmwareError> {
    if let Some(path) = named {
        return load(path, true).map(Some);
    }
    Ok(match place() {
        Ok(Place::Bundle(path)) => load(&path, false).ok(),
        Ok(Place::Workspace(root)) => {
            let elf = elf_path(&root);
            load_built(elf.with_extension("img"), elf).ok()
        }
        Err(_) => None,
    })
}

/// Where the firmware would come from.
#[derive(Debug)]
pub enum Found {
    /// The image of a release bundle.
    Bundled(PathBuf),
    /// The sources of a workspace, and a toolchain for them.
    Buildable {
        /// The workspace.
        root: PathBuf,
        /// The toolchain.
        toolchain: Toolchain,
    },
}

/// Looks where the firmware would come from, and builds nothing.
pub fn look() -> Result<Found, FirmwareError> {
    match place()? {
        Place::Bundle(path) => load(&path, false).map(|firmware| Found::Bundled(firmware.image_path)),
        Place::Workspace(root) => Toolchain::search(&root).map(|toolchain| Found::Buildable { root, toolchain }),
    }
}

enum Place {
    Bundle(PathBuf),
    Workspace(PathBuf),
}

fn place() -> Result<Place, FirmwareError> {
    let executable = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("ipiscope"));
    let bundled = executable.with_file_name("firmware.img");
    if bundled.is_file() {
        return Ok(Place::Bundle(bundled));
    }
    workspace().map(Place::Workspace).ok_or(FirmwareError::Nowhere { executable })
}

/// Reads a flat image with the ELF beside it, or an ELF alone.
fn load(path: &Path, named: bool) -> Result<Firmware, FirmwareError> {
    let read = |path: &Path| -> Result<Vec<u8>, FirmwareError> {
        // A device or a pipe could be endless.
        let file = File::open(path).and_then(|file| {
            if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("not a regular file")) }
        });
        let mut bytes = Vec::new();
        file.and_then(|file| file.take(16 * IMAGE_LIMIT).read_to_end(&mut bytes))
            .map_err(|source| FirmwareError::Unreadable { path: path.into(), source })?;
        Ok(bytes)
    };
    let refuse = |path: &Path, reason| FirmwareError::NotFirmware { path: path.into(), reason, named };
    let bytes = read(path)?;
    if bytes.starts_with(b"\x7fELF") {
        let image = flatten(&bytes).and_then(Image::parse).map_err(|reason| refuse(path, reason))?;
        return Ok(Firmware { image, image_path: path.into(), elf: Some(Elf { path: path.into(), bytes }) });
    }
    let image = Image::parse(bytes).map_err(|reason| refuse(path, reason))?;
    // An ELF of another build would give wrong symbols: better none.
    let elf = [path.with_extension("elf"), path.with_extension("")]
        .into_iter()
        .filter(|beside| beside != path)
        .find_map(|beside| {
            let bytes = read(&beside).ok()?;
            (flatten(&bytes).ok()? == image.bytes).then_some(Elf { path: beside, bytes })
        });
    Ok(Firmware { image, image_path: path.into(), elf })
}

/// The workspace that holds the firmware: the one this host was built in, else the one around the current folder.
fn workspace() -> Option<PathBuf> {
    let built_in = Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf);
    let here = std::env::current_dir().ok();
    let around = here.iter().flat_map(|folder| folder.ancestors()).map(Path::to_path_buf);
    built_in.into_iter().chain(around).find(|root| {
        ["Cargo.toml", "firmware/Cargo.toml", "trace-ring/Cargo.toml"].iter().all(|file| root.join(file).is_file())
    })
}

/// The folder of the nested build.
fn target_folder(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .filter(|folder| !folder.is_empty())
        .map_or_else(|| root.join("target"), |folder| root.join(folder))
        .join("firmware")
}

/// Where the nested build leaves the ELF; the image lies beside it.
fn elf_path(root: &Path) -> PathBuf {
    target_folder(root).join(TARGET).join("release").join("firmware")
}

/// Builds the firmware of the workspace at `root`, unless it is up to date.
pub fn build(root: &Path, say: &mut dyn FnMut(&str)) -> Result<Firmware, FirmwareError> {
    let target_folder = target_folder(root);
    let elf_path = elf_path(root);
    let image_path = elf_path.with_extension("img");
    let stamp_path = elf_path.with_extension("stamp");

    fs::create_dir_all(&target_folder).map_err(FileError::of("create", &target_folder))?;
    let _lock = lock(&target_folder.join("lock"), say)?;

    // The stamp is taken before the build: what is edited meanwhile is newer than it, and built the next time.
    let stamp = stamp(root);
    let fresh = |toolchain: &str| format!("{stamp}{toolchain}{FLAGS}, paths left out\n");
    if let Ok(last) = fs::read_to_string(&stamp_path)
        && let Some((_, toolchain)) = last.split_once(TOOLCHAIN_MARK)
        && let Some(rustc) = toolchain.lines().next()
        && last == fresh(&toolchain_stamp(Path::new(rustc)))
        && image_path.is_file()
        && elf_path.is_file()
    {
        return load_built(image_path, elf_path);
    }

    let toolchain = Toolchain::search(root)?;
    say(&format!("building the firmware for {TARGET} with {}", toolchain.description()));
    toolchain.run(Job::Build, root, &target_folder)?;
    let elf = fs::read(&elf_path).map_err(FileError::of("read", &elf_path))?;
    let refuse = |reason| FirmwareError::NotFirmware { path: elf_path.clone(), reason, named: false };
    let image = flatten(&elf).map_err(refuse)?;
    Image::parse(image.clone()).map_err(refuse)?;
    fs::write(&image_path, &image).map_err(FileError::of("write", &image_path))?;
    fs::write(&stamp_path, fresh(&toolchain_stamp(&toolchain.rustc))).map_err(FileError::of("write", &stamp_path))?;
    load_built(image_path, elf_path)
}

/// Runs clippy over the firmware of the workspace, for the target, warnings denied.
pub fn lint(say: &mut dyn FnMut(&str)) -> Result<(), FirmwareError> {
    let executable = || std::env::current_exe().unwrap_or_default();
    let root = workspace().ok_or_else(|| FirmwareError::Nowhere { executable: executable() })?;
    let target_folder = root.join("target").join("firmware-lint");
    fs::create_dir_all(&target_folder).map_err(FileError::of("create", &target_folder))?;
    let _lock = lock(&target_folder.join("lock"), say)?;
    let toolchain = Toolchain::search(&root)?;
    say(&format!("linting the firmware with {}", toolchain.description()));
    toolchain.run(Job::Lint, &root, &target_folder)
}

fn load_built(image_path: PathBuf, elf_path: PathBuf) -> Result<Firmware, FirmwareError> {
    let bytes = fs::read(&image_path).map_err(FileError::of("read", &image_path))?;
    let image = Image::parse(bytes).map_err(|reason| FirmwareError::NotFirmware {
        path: image_path.clone(),
        reason,
        named: false,
    })?;
    let bytes = fs::read(&elf_path).map_err(FileError::of("read", &elf_path))?;
    Ok(Firmware { image, image_path, elf: Some(Elf { path: elf_path, bytes }) })
}

/// Takes the build's lock; it is free again when the file is dropped, or when this process dies.
fn lock(path: &Path, say: &mut dyn FnMut(&str)) -> Result<File, FirmwareError> {
    let file =
        File::options().create(true).truncate(false).write(true).open(path).map_err(FileError::of("create", path))?;
    let started = Instant::now();
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(source)) => {
                return Err(FileError { action: "lock", path: path.into(), source }.into());
            }
        }
        if interrupt::requests() > 0 {
            return Err(FirmwareError::CutShort("interrupted"));
        }
        if started.elapsed() > BUILD_DEADLINE {
            return Err(FirmwareError::Locked { seconds: started.elapsed().as_secs(), lock: path.into() });
        }
        if !told && started.elapsed() > Duration::from_secs(1) {
            say("waiting for another ipiscope that builds the firmware");
            told = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Begins the last part of a stamp.
const TOOLCHAIN_MARK: &str = "\ntoolchain\n";

/// Path, size and time of everything that the firmware is built from, and the one variable that its log macros read.
fn stamp(root: &Path) -> String {
    let mut lines = Vec::new();
    let mut folders = Vec::new();
    let mut visit = |path: PathBuf, folders: &mut Vec<PathBuf>| {
        let Ok(metadata) = fs::metadata(&path) else { return };
        if metadata.is_dir() {
            folders.push(path);
        } else {
            lines.push(format!("{} {}", path.display(), identity(&metadata)));
        }
    };
    for source in SOURCES {
        visit(root.join(source), &mut folders);
    }
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            visit(entry.path(), &mut folders);
        }
    }
    lines.sort();
    lines.push(format!("DEFMT_LOG {:?}", std::env::var_os("DEFMT_LOG")));
    lines.push(format!("host {}", env!("CARGO_PKG_VERSION")));
    lines.push(format!("flags {FLAGS}"));
    lines.join("\n")
}

fn toolchain_stamp(rustc: &Path) -> String {
    let identity = fs::metadata(rustc).map(|metadata| identity(&metadata)).unwrap_or_default();
    format!("{TOOLCHAIN_MARK}{}\n{identity}\n", rustc.display())
}

fn identity(metadata: &fs::Metadata) -> String {
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    format!("{} {} {}", metadata.len(), metadata.ino(), modified.unwrap_or_default().as_nanos())
}

/// Where a toolchain's `core` for the target comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Core {
    /// The toolchain has it.
    Installed,
    /// It is built from the toolchain's own library sources.
    FromSources,
}

/// What cargo is to do with the firmware.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Job {
    Build,
    Lint,
}

/// A compiler, its own cargo, its own `core` and a linker.
#[derive(Debug)]
pub struct Toolchain {
    /// The compiler itself, not rustup's proxy.
    pub rustc: PathBuf,
    /// The cargo of the same toolchain.
    pub cargo: PathBuf,
    /// Its version as it prints it: "1.96.0".
    pub version: String,
    /// Where `core` comes from.
    pub core: Core,
    /// The linker to name; `None`: the toolchain has its own rust-lld.
    pub linker: Option<PathBuf>,
}

impl Toolchain {
    /// Finds one: the compiler that PATH names first, then any other in PATH or /usr/bin. One that has the target is
    /// preferred to one that has sources.
    pub fn search(root: &Path) -> Result<Toolchain, FirmwareError> {
        let mut tried = String::new();
        let mut no_linker = None;
        let mut with_sources = None;
        for rustc in in_path(|name| name == "rustc") {
            match Toolchain::probe(&rustc, root) {
                Ok(toolchain)
                    if toolchain.linker.is_none() || toolchain.linker.as_deref().is_some_and(Path::is_file) =>
                {
                    if toolchain.core == Core::Installed {
                        return Ok(toolchain);
                    }
                    with_sources = with_sources.or(Some(toolchain));
                }
                Ok(toolchain) => no_linker = no_linker.or(Some(toolchain.rustc)),
                Err(reason) => {
                    let separator = if tried.is_empty() { "" } else { "; " };
                    let _ = write!(tried, "{separator}{}: {reason}", rustc.display());
                }
            }
        }
        match (with_sources, no_linker) {
            (Some(toolchain), _) => Ok(toolchain),
            (None, Some(rustc)) => Err(FirmwareError::NoLinker { rustc }),
            (None, None) if tried.is_empty() => {
                Err(FirmwareError::NoToolchain { tried: "there is no rustc in PATH".into() })
            }
            (None, None) => Err(FirmwareError::NoToolchain { tried }),
        }
    }

    /// Looks at one compiler; the error says what it lacks. A linker that was not found is an empty path.
    fn probe(rustc: &Path, root: &Path) -> Result<Toolchain, String> {
        let question = |arguments: &[&str]| -> Result<String, String> {
            // The proxy of rustup obeys rust-toolchain.toml of the folder it runs in.
            let answer = ask(clean(Command::new(rustc).args(arguments).current_dir(root)), ANSWER_DEADLINE)
                .map_err(|error| error.to_string())?;
            if answer.success {
                Ok(answer.stdout)
            } else {
                Err(answer.stderr.lines().next().unwrap_or("it fails").trim().to_string())
            }
        };
        let verbose = question(&["-vV"])?;
        let field =
            |name: &str| verbose.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().to_string());
        let (Some(version), Some(host)) = (field("release:"), field("host:")) else {
            return Err("it does not say its version".into());
        };
        if version_number(&version) < version_number(env!("CARGO_PKG_RUST_VERSION")) {
            return Err(format!("version {version} is older than {}", env!("CARGO_PKG_RUST_VERSION")));
        }
        let paths = question(&["--print", "sysroot", "--print", "target-libdir", "--target", TARGET])?;
        let mut paths = paths.lines().map(PathBuf::from);
        let (Some(sysroot), Some(library)) = (paths.next(), paths.next()) else {
            return Err("it does not say where its libraries are".into());
        };
        let installed = fs::read_dir(&library).is_ok_and(|entries| {
            entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"))
        });
        let sources = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file();
        let core = match (installed, sources) {
            (true, _) => Core::Installed,
            (false, true) => Core::FromSources,
            (false, false) => return Err(format!("version {version} has neither that target nor library sources")),
        };
        // The compiler itself: a proxy would choose again, by its environment.
        let own = sysroot.join("bin/rustc");
        let rustc = if own.is_file() { own } else { rustc.to_path_buf() };
        let cargo = rustc.with_file_name("cargo");
        if !cargo.is_file() {
            return Err(format!("version {version} has no cargo beside it"));
        }
        let rust_lld = sysroot.join("lib/rustlib").join(host).join("bin/rust-lld");
        let linker = if rust_lld.is_file() { None } else { Some(find_linker().unwrap_or_default()) };
        Ok(Toolchain { rustc, cargo, version, core, linker })
    }

    /// For people.
    pub fn description(&self) -> String {
        let core = match self.core {
            Core::Installed => "its installed core",
            Core::FromSources => "core from its library sources",
        };
        format!("{} {} and {core}", self.rustc.display(), self.version)
    }

    /// Runs cargo, quietly; what it printed is shown if it fails.
    fn run(&self, job: Job, root: &Path, target_folder: &Path) -> Result<(), FirmwareError> {
        let (program, verb) = match job {
            Job::Build => (self.cargo.clone(), "build"),
            Job::Lint => (self.cargo.with_file_name("cargo-clippy"), "clippy"),
        };
        let mut command = Command::new(&program);
        clean(&mut command).current_dir(root).stdin(Stdio::null()).stdout(Stdio::null()).env("RUSTC", &self.rustc);
        if job == Job::Lint {
            command.env("CARGO", &self.cargo); // cargo-clippy would take the one of PATH
        }
        if std::env::var_os("DEFMT_LOG").is_none() {
            command.env("DEFMT_LOG", "info"); // defmt compiles everything out where it is not set
        }
        command
            .args([verb, "--release", "--package", "firmware", "--target", TARGET, "--target-dir"])
            .arg(target_folder);
        if self.core == Core::FromSources {
            command.arg("-Zbuild-std=core");
        }
        let mut flags: Vec<OsString> = FLAGS.split_whitespace().map(OsString::from).collect();
        flags.extend(remaps(root));
        command.env("RUSTC_BOOTSTRAP", "1");
        if let Some(linker) = &self.linker {
            command.env("CARGO_TARGET_AARCH64_UNKNOWN_NONE_SOFTFLOAT_LINKER", linker);
            flags.push("-Clinker-flavor=ld.lld".into());
        }
        // One flag to a separator, so that a path may have blanks; with --target, cargo's build scripts don't get them.
        command.env("CARGO_ENCODED_RUSTFLAGS", flags.join(OsStr::new("\x1f")));
        if job == Job::Lint {
            command.args(["--", "--deny", "warnings"]);
        }
        let log = target_folder.join("build.log");
        let output = File::create(&log).map_err(FileError::of("create", &log))?;
        command.stderr(output);
        let mut child =
            Guarded::spawn(&mut command).map_err(|source| FirmwareError::Cargo { cargo: program.clone(), source })?;
        let deadline = Instant::now() + BUILD_DEADLINE;
        let status = loop {
            let ended = child
                .wait_until(Instant::now() + Duration::from_millis(100))
                .map_err(|source| FirmwareError::Cargo { cargo: program.clone(), source })?;
            if let Some(status) = ended {
                break status;
            }
            if interrupt::requests() > 0 {
                return Err(FirmwareError::CutShort("interrupted"));
            }
            if Instant::now() > deadline {
                return Err(FirmwareError::CutShort("it took longer than 15 minutes"));
            }
        };
        if status.success() {
            return Ok(());
        }
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last_lines = lines[lines.len().saturating_sub(40)..].join("\n");
        Err(FirmwareError::Build {
            command: format!("cargo {verb} -p firmware --target {TARGET}, {status}"),
            last_lines,
        })
    }
}

/// All files in PATH, /usr/local/bin and /usr/bin whose name the filter takes, each file once.
fn in_path(takes: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/local/bin".into(), "/usr/bin".into()]);
    let mut found: Vec<(PathBuf, PathBuf)> = Vec::new();
    for folder in folders.filter(|folder| folder.is_absolute()) {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        let mut files: Vec<PathBuf> = entries
            .flatten()
            .filter(|entry| entry.file_name().to_str().is_some_and(&takes))
            .map(|entry| entry.path())
            .filter(|file| file.is_file())
            .collect();
        files.sort();
        for file in files {
            // rustup's proxies are links to one file: what they are called is part of who they are.
            let real =
                folder.canonicalize().unwrap_or_else(|_| folder.clone()).join(file.file_name().unwrap_or_default());
            if !found.iter().any(|(known, _)| *known == real) {
                found.push((real, file));
            }
        }
    }
    found.into_iter().map(|(_, file)| file).collect()
}

/// A linker for the target: `rust-lld`, `ld.lld`, or the newest `ld.lld-NN`.
fn find_linker() -> Option<PathBuf> {
    let rank = |file: &PathBuf| {
        let name = file.file_name().and_then(OsStr::to_str).unwrap_or_default();
        match name.strip_prefix("ld.lld-") {
            Some(version) => version.parse().unwrap_or(0),
            None => u32::MAX,
        }
    };
    let is_linker = |name: &str| {
        name == "rust-lld"
            || name == "ld.lld"
            || name.strip_prefix("ld.lld-").is_some_and(|version| version.parse::<u32>().is_ok())
    };
    // Equal ranks: the first in PATH.
    in_path(is_linker).into_iter().rev().max_by_key(rank)
}

fn version_number(text: &str) -> (u32, u32) {
    let mut parts = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Takes out of a nested build's environment all that another build or the user set for another target.
fn clean(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(belongs_to_another_build) {
            command.env_remove(&name);
        }
    }
    // `cargo run` puts its toolchain's libraries in front: another compiler must not load them.
    if let Some(folders) = std::env::var_os("LD_LIBRARY_PATH") {
        let kept = std::env::split_paths(&folders).filter(|folder| {
            let text = folder.to_string_lossy();
            !text.contains("/rustlib/") && !text.contains("/toolchains/") && !text.contains("/target/")
        });
        let kept: OsString = std::env::join_paths(kept).unwrap_or_default();
        if kept.is_empty() {
            command.env_remove("LD_LIBRARY_PATH")
        } else {
            command.env("LD_LIBRARY_PATH", kept)
        };
    }
    command
}

/// Flags that leave out of the image where it was built: panics name their source file, and the same sources make the same image
/// in every folder.
fn remaps(root: &Path) -> Vec<OsString> {
    let home = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let home = home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))).unwrap_or_default();
    // A folder for each registry: its name is a machine's choice of mirror.
    let registries = fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten();
    let mut folders: Vec<(PathBuf, &str)> = registries.map(|entry| (entry.path(), "crates")).collect();
    // The last one that fits is taken: what is deeper comes behind.
    folders.sort();
    folders.insert(0, (home, "cargo"));
    folders.insert(0, (root.to_path_buf(), "ipiscope"));
    let flag = |(folder, name): (PathBuf, &str)| {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(folder);
        flag.push("=");
        flag.push(name);
        flag
    };
    folders.into_iter().map(flag).collect()
}

/// Whether a variable steers a build. Cargo's settings of network, registries and home stay: they belong to the
/// machine.
fn belongs_to_another_build(name: &str) -> bool {
    const EXACT: [&str; 12] = [
        "CARGO",
        "CARGO_CRATE_NAME",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "CARGO_MAKEFLAGS",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_LINKS",
        "CARGO_MANIFEST_PATH",
        "CARGO_PRIMARY_PACKAGE",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
    ];
    const PREFIXES: [&str; 10] = [
        "CARGO_BIN_",
        "CARGO_BUILD_",
        "CARGO_CFG_",
        "CARGO_FEATURE_",
        "CARGO_PKG_",
        "CARGO_PROFILE_",
        "CARGO_TARGET_",
        "CARGO_UNSTABLE_",
        "RUSTC",
        "RUSTDOC",
    ];
    EXACT.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A minimal image: header, locator, some text.
    fn image() -> Vec<u8> {
        let mut bytes = vec![0u8; 256];
        bytes[16..24].copy_from_slice(&4096u64.to_le_bytes());
        bytes[56..60].copy_from_slice(b"ARM\x64");
        bytes[64..72].copy_from_slice(&LOCATOR_MAGIC.to_le_bytes());
        bytes[72..76].copy_from_slice(&ABI_VERSION.to_le_bytes());
        bytes[64 + 56..64 + 88].copy_from_slice(&[7; 32]);
        bytes
    }

    /// An ELF of two segments, the first in two pieces of memory: file bytes at `base`, then a gap, then more.
    fn elf(segments: &[(u64, &[u8], u64)]) -> Vec<u8> {
        let mut file = Vec::new();
        file.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        file.extend_from_slice(&2u16.to_le_bytes());
        file.extend_from_slice(&object::elf::EM_AARCH64.0.to_le_bytes());
        file.extend_from_slice(&1u32.to_le_bytes());
        file.extend_from_slice(&[0; 8]); // e_entry
        file.extend_from_slice(&64u64.to_le_bytes()); // e_phoff
        file.extend_from_slice(&[0; 8]); // e_shoff
        file.extend_from_slice(&[0; 4]); // e_flags
        for half in [64u16, 56, segments.len() as u16, 64, 0, 0] {
            file.extend_from_slice(&half.to_le_bytes());
        }
        let mut offset = 64 + 56 * segments.len() as u64;
        for (address, data, memory) in segments {
            file.extend_from_slice(&object::elf::PT_LOAD.0.to_le_bytes());
            file.extend_from_slice(&5u32.to_le_bytes());
            for word in [offset, *address, *address, data.len() as u64, *memory, 8] {
                file.extend_from_slice(&word.to_le_bytes());
            }
            offset += data.len() as u64;
        }
        for (_, data, _) in segments {
            file.extend_from_slice(data);
        }
        file
    }

    #[test]
    fn an_elf_at_the_top_of_memory_becomes_a_flat_image() {
        let base = 0xFFFF_FFFF_8000_0000;
        let flat = flatten(&elf(&[(base + 8, b"cd", 2), (base, b"ab", 2), (base + 16, b"", 4096)])).expect("flattens");
        assert_eq!(flat, b"ab\0\0\0\0\0\0cd");
    }

    #[test]
    fn hostile_elfs_are_refused() {
        assert!(flatten(b"\x7fELF").is_err());
        assert!(flatten(&elf(&[])).is_err());
        assert!(flatten(&elf(&[(0, b"a", 1), (1 << 40, b"b", 1)])).expect_err("spans too much").contains("span"));
        let mut outside = elf(&[(0, b"abcd", 4)]);
        outside.truncate(outside.len() - 2);
        assert!(flatten(&outside).is_err());
        let mut foreign = elf(&[(0, b"abcd", 4)]);
        foreign[18] = 62; // EM_X86_64
        assert!(flatten(&foreign).expect_err("another machine").contains("aarch64"));
    }

    #[test]
    fn an_image_is_checked_before_it_is_booted() {
        let good = Image::parse(image()).expect("parses");
        assert_eq!((good.memory_bytes(), good.build_id()), (4096, [7; 32]));
        for (at, value, names) in
            [(56, 0, "header"), (64, 0, "locator"), (72, 99, "version"), (8, 1, "text_offset"), (17, 0, "memory")]
        {
            let mut bad = image();
            bad[at] = value;
            let reason = Image::parse(bad).expect_err("is refused");
            assert!(reason.contains(names), "expected {names:?} in {reason:?}");
        }
        for length in 0..152 {
            assert!(Image::parse(image()[..length].to_vec()).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_patch_changes_the_locator_and_nothing_else() {
        let good = Image::parse(image()).expect("parses");
        let patched = good.patched(|locator| locator.plan_pa = 0x4840_0000);
        assert_eq!(&patched[..64], &good.bytes()[..64]);
        assert_eq!(&patched[152..], &good.bytes()[152..]);
        assert_eq!(patched[64 + 40..64 + 48], 0x4840_0000u64.to_le_bytes());
    }

    #[test]
    fn a_nested_build_keeps_the_machines_settings_and_loses_the_builds() {
        for name in
            ["CARGO_HOME", "CARGO_NET_OFFLINE", "CARGO_HTTP_PROXY", "CARGO_REGISTRIES_X_INDEX", "PATH", "RUSTUP_HOME"]
        {
            assert!(!belongs_to_another_build(name), "{name}");
        }
        for name in [
            "RUSTUP_TOOLCHAIN",
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTFLAGS",
            "CARGO_ENCODED_RUSTFLAGS",
            "CARGO_BUILD_TARGET",
            "CARGO_TARGET_DIR",
            "CARGO_PKG_NAME",
            "CARGO",
        ] {
            assert!(belongs_to_another_build(name), "{name}");
        }
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(version_number("1.100.0-nightly") > version_number("1.96.0"));
        assert!(version_number("1.63.0") < version_number("1.90"));
    }

    #[test]
    fn a_missing_named_image_was_asked_wrongly_and_a_missing_target_is_not_measurable() {
        let error = find(Some(Path::new("/nonexistent/firmware.img")), &mut |_| ()).expect_err("is refused");
        assert_eq!((error.exit_code(), error.kind()), (exit::MISUSED, "firmware"));
        let error = FirmwareError::NoToolchain { tried: String::new() };
        assert_eq!((error.exit_code(), error.kind()), (exit::UNMEASURED, "firmware_target"));
        assert!(error.next_step().contains("rustup target add"));
    }
}
