//! What boots a board without a probe: the flat image, the plan, a device tree where the board file makes one, and a
//! U-Boot script that loads and starts them like a Linux kernel with its initrd.
//!
//! The script comes twice: as text to read and to change (`boot.cmd`), and wrapped in U-Boot's legacy image header as
//! `source` and distro boot want it (`boot.scr`). The header is written here: no mkimage is needed. All files are written
//! under other names first and renamed together at the end, so that a folder never holds half of two runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use boards::{Board, TreeError, TreeOptions};
use trace_ring::layout::lay_out;
use trace_ring::line::MOST_BYTES;
use trace_ring::plan::Plan;
use trace_ring::record::RECORD_BYTES;

use crate::error::{Failure, FileError, exit};
use crate::firmware;
use crate::machine::{DEFAULT_CORES, MachineError};
use crate::plan::{self, PlanRequest};

/// RAM that a tree claims where the board file doesn't say: U-Boot puts the true size in before it starts an image.
const SOME_MEMORY: u64 = 256 << 20;

/// Characters that a line takes on the wire for [`MOST_BYTES`] bytes of the region, with CR and LF.
const LINE_CHARACTERS: u64 = 90;

/// A console's usual speed, and the characters a second that it carries.
const BAUD: u32 = 115_200;

/// What the firmware sends over the console by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Results {
    /// Everything.
    #[default]
    Console,
    /// Everything but the trace records.
    Summary,
    /// Nothing, until it is asked.
    None,
}

impl Results {
    /// Its name in bootargs.
    pub const fn name(self) -> &'static str {
        match self {
            Results::Console => "console",
            Results::Summary => "summary",
            Results::None => "none",
        }
    }
}

/// How the rings are mapped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Rings {
    /// Like all memory.
    #[default]
    Cacheable,
    /// So that a memory access port that does not snoop sees them while the plan runs.
    NonCacheable,
}

/// Where U-Boot loads things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The image.
    pub image: u64,
    /// The plan.
    pub plan: u64,
    /// The device tree.
    pub tree: u64,
}

/// What the user asks for.
#[derive(Clone, Debug)]
pub struct Request {
    /// `--board`.
    pub board: String,
    /// `--cores`.
    pub cores: Option<u64>,
    /// The plan; cores, nonce and mapping are filled in here.
    pub plan: PlanRequest,
    /// `--results`.
    pub results: Results,
    /// `--rings`.
    pub rings: Rings,
    /// `--tag`: told in the read-me, for the command that takes the results.
    pub tags: BTreeMap<String, String>,
    /// `--firmware`.
    pub firmware: Option<PathBuf>,
    /// `--out`; `None`: `./ipiscope-NAME`.
    pub out: Option<PathBuf>,
    /// `--addresses`.
    pub addresses: Option<Addresses>,
    /// `--force`.
    pub force: bool,
}

/// What was written.
#[derive(Clone, Debug)]
pub struct Written {
    /// The folder.
    pub folder: PathBuf,
    /// The files in it, and their bytes.
    pub files: Vec<(&'static str, u64)>,
    /// What to do with them: the read-me.
    pub instructions: String,
}

/// The image, as U-Boot and every other loader of arm64 kernels takes it.
pub const IMAGE: &str = "Image";
/// The compiled plan, passed as the initrd.
pub const PLAN: &str = "plan.bin";
/// The device tree, where the board file makes one.
pub const TREE: &str = "board.dtb";
/// The script to read.
pub const SCRIPT: &str = "boot.cmd";
/// The script to run.
pub const WRAPPED_SCRIPT: &str = "boot.scr";
/// What to type.
pub const README: &str = "README.txt";

const FILES: [&str; 6] = [IMAGE, PLAN, TREE, SCRIPT, WRAPPED_SCRIPT, README];

/// What the name of a file in the making begins with.
const MAKING: &str = ".ipiscope-new-";

/// Writes everything. `say` gets what takes long and what the user should know.
pub fn write(request: &Request, say: &mut dyn FnMut(&str)) -> Result<Written, Failure> {
    let board = boards::find(&request.board)
        .ok_or_else(|| MachineError::Unknown {
            name: request.board.clone(),
            known: boards::names().collect::<Vec<_>>().join(", "),
        })?
        .map_err(MachineError::from)?;
    let cores = cores(&board, request.cores)?;
    let nonce = RandomState::new().hash_one(std::process::id());
    let non_cacheable = request.rings == Rings::NonCacheable;
    let compiled = plan::compile(&PlanRequest { cores, nonce, non_cacheable, ..request.plan.clone() })?;
    for note in &compiled.notes {
        say(&format!("note: {note}"));
    }
    let folder = request.out.clone().unwrap_or_else(|| PathBuf::from(format!("ipiscope-{}", board.name)));
    // Before the firmware is built: that takes long, and this may be refused.
    let folder = Folder::open(folder, request.force)?;
    let firmware = firmware::find(request.firmware.as_deref(), say)?;
    let image = firmware.image.bytes();
    check_header(image).map_err(|reason| Failure {
        kind: "firmware".into(),
        message: format!("{}: its header breaks the arm64 boot protocol: {reason}", firmware.image_path.display()),
        next_step: "build firmware and host from the same sources, or name another image with --firmware".into(),
        exit_code: exit::UNMEASURED,
    })?;
    let tree = match board.device_tree(TreeOptions { cores, memory_bytes: board.memory.size.unwrap_or(SOME_MEMORY) }) {
        Ok(tree) => Some(tree),
        // Then the board's own has to do, which is the better one anyway.
        Err(TreeError::Missing(_)) => None,
        Err(source) => return Err(MachineError::Tree { board: board.name.clone(), source }.into()),
    };
    let about = About { board: &board, request, cores, plan: &compiled.meta.name, has_tree: tree.is_some() };
    let script = about.script();
    // What the firmware sends: the sections, and the records that the plan makes.
    let records = if request.results == Results::Summary { 0 } else { compiled.meta.expected_records * RECORD_BYTES };
    let instructions = about.instructions(bytes_before_records(&compiled.blob) + records);

    let mut files = vec![
        (IMAGE, image.to_vec()),
        (PLAN, compiled.blob.clone()),
        (WRAPPED_SCRIPT, wrap_script(script.as_bytes(), "ipiscope", SystemTime::now())),
        (SCRIPT, script.into_bytes()),
        (README, instructions.clone().into_bytes()),
    ];
    files.extend(tree.map(|tree| (TREE, tree)));
    folder.write(&files)?;
    let files = files.iter().map(|(name, bytes)| (*name, bytes.len() as u64)).collect();
    Ok(Written { folder: folder.path, files, instructions })
}

/// Bytes of the region in front of its records, by the plan that lays it out.
fn bytes_before_records(plan: &[u8]) -> u64 {
    Plan::parse(plan).map_or(0, |plan| lay_out(plan.shape()).0.records)
}

fn cores(board: &Board, asked: Option<u64>) -> Result<u16, MachineError> {
    let max = board.cores.max;
    let all = if board.cores.affinity.is_empty() { DEFAULT_CORES.min(max) } else { max };
    let asked = asked.unwrap_or(all.into());
    u16::try_from(asked).ok().filter(|cores| (1..=max).contains(cores)).ok_or_else(|| MachineError::Cores {
        cores: asked,
        machine: board.name.clone(),
        max,
    })
}

// --- the arm64 Image header -----------------------------------------------------------------------------------------

/// The fields of an arm64 Image header that a boot loader reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Distance of the image from a 2 MiB boundary.
    pub text_offset: u64,
    /// Bytes of memory that it takes, with its zeroed part.
    pub image_size: u64,
    /// Bit 0: big-endian; bits 1 and 2: page size; bit 3: anywhere in memory.
    pub flags: u64,
}

/// Checks the header against the arm64 boot protocol (Linux, Documentation/arch/arm64/booting.rst, "Call the kernel
/// image"): a boot loader that is strict takes what passes here.
pub fn check_header(image: &[u8]) -> Result<Header, String> {
    let word = |at: usize| -> Result<u64, String> {
        let bytes = image.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        bytes.ok_or_else(|| format!("it has {} bytes, the header alone has 64", image.len()))
    };
    let (code, text_offset, image_size, flags) = (word(0)?, word(8)?, word(16)?, word(24)?);
    let (magic, pe) = (word(56)? as u32, word(56)? >> 32);
    let require = |holds: bool, what: String| if holds { Ok(()) } else { Err(what) };
    require(magic == 0x644D_5241, format!("`magic` is {magic:#x}, not \"ARM\\x64\""))?;
    // B imm26 (DDI 0487, C6.2.26), or the "MZ" that is an instruction without effect, with the branch behind it.
    let first = code as u32;
    let mz = first & 0xFFFF == 0x5A4D;
    let branch = if mz { (code >> 32) as u32 } else { first };
    let target = u64::from(branch & 0x3FF_FFFF) * 4 + if mz { 4 } else { 0 };
    require(branch >> 26 == 0b000101, format!("`code{}` is {branch:#010x}, not a branch", u8::from(mz)))?;
    require(
        (64..image.len() as u64).contains(&target),
        format!("its first instruction branches to {target:#x}, outside the image"),
    )?;
    require(
        text_offset < 2 << 20 && text_offset.is_multiple_of(4096),
        format!("`text_offset` is {text_offset:#x}, not whole pages below 2 MiB"),
    )?;
    require(
        image_size >= image.len() as u64,
        format!("`image_size` is {image_size:#x}, the file alone has {:#x} bytes", image.len()),
    )?;
    require(flags >> 4 == 0, format!("`flags` is {flags:#x}: bits 4 to 63 are reserved"))?;
    require(flags & 1 == 0, format!("`flags` is {flags:#x}: bit 0 says big-endian"))?;
    for (name, at) in [("res2", 32), ("res3", 40), ("res4", 48)] {
        require(word(at)? == 0, format!("`{name}` is {:#x}, not 0", word(at)?))?;
    }
    let is_pe = usize::try_from(pe).ok().and_then(|at| image.get(at..at + 4)).is_some_and(|bytes| bytes == b"PE\0\0");
    require(pe == 0 || is_pe, format!("`res5` is {pe:#x}, and no PE header is there"))?;
    Ok(Header { text_offset, image_size, flags })
}

// --- U-Boot's legacy image of a script ------------------------------------------------------------------------------

/// Wraps a script as `mkimage -A arm64 -O linux -T script -C none` does (U-Boot, include/image.h: `legacy_img_hdr`, and a
/// table of lengths before the text, ended by 0). All words are big-endian.
pub fn wrap_script(text: &[u8], name: &str, time: SystemTime) -> Vec<u8> {
    const MAGIC: u32 = 0x2705_1956;
    const OS_LINUX: u8 = 5;
    const ARCH_ARM64: u8 = 22;
    const TYPE_SCRIPT: u8 = 6;
    const COMPRESSION_NONE: u8 = 0;
    let mut data = Vec::with_capacity(text.len() + 8);
    data.extend_from_slice(&(text.len() as u32).to_be_bytes());
    data.extend_from_slice(&0u32.to_be_bytes());
    data.extend_from_slice(text);
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs() as u32;
    let mut header = Vec::with_capacity(64 + data.len());
    let (load, entry) = (0u32, 0u32);
    for word in [MAGIC, 0, seconds, data.len() as u32, load, entry, crc32fast::hash(&data)] {
        header.extend_from_slice(&word.to_be_bytes());
    }
    header.extend_from_slice(&[OS_LINUX, ARCH_ARM64, TYPE_SCRIPT, COMPRESSION_NONE]);
    let mut field = [0; 32];
    let length = name.len().min(field.len() - 1);
    field[..length].copy_from_slice(&name.as_bytes()[..length]);
    header.extend_from_slice(&field);
    // The header's own checksum is made with its field zero.
    let checksum = crc32fast::hash(&header);
    header[4..8].copy_from_slice(&checksum.to_be_bytes());
    header.extend_from_slice(&data);
    header
}

// --- texts ----------------------------------------------------------------------------------------------------------

struct About<'a> {
    board: &'a Board,
    request: &'a Request,
    cores: u16,
    plan: &'a str,
    has_tree: bool,
}

impl About<'_> {
    fn bootargs(&self) -> String {
        let rings = if self.request.rings == Rings::NonCacheable { " ipiscope.rings=non-cacheable" } else { "" };
        format!("ipiscope.results={}{rings}", self.request.results.name())
    }

    /// For U-Boot's hush shell, old and new. `run` of a variable, because old ones don't split an expanded word.
    fn script(&self) -> String {
        let mut text = format!(
            "# ipiscope for board `{}`, plan `{}`, {} cores: loads image and plan, starts them like a Linux kernel.\n\
             #\n\
             # Found by distro boot as boot.scr, or by hand:  setenv ipiscope_load 'load mmc 0:1'\n\
             #                                               load mmc 0:1 ${{scriptaddr}} boot.scr && source ${{scriptaddr}}\n\
             # Variables that change what it does:\n\
             #   ipiscope_load   how a file is loaded: `load mmc 0:1`, `tftpboot` (default: where this script came from)\n\
             #   ipiscope_args   bootargs (default: {})\n\
             #   ipiscope_fdt    address of the device tree to pass (default: looked for, see below)\n\n",
            self.board.name,
            self.plan,
            self.cores,
            self.bootargs()
        );
        if let Some(Addresses { image, plan, tree }) = self.request.addresses {
            let _ = writeln!(
                text,
                "# --addresses\nsetenv kernel_addr_r {image:#x}\nsetenv ramdisk_addr_r {plan:#x}\nsetenv fdt_addr_r {tree:#x}\n"
            );
        }
        let _ = write!(
            text,
            "if test -z \"${{ipiscope_load}}\"; then\n\
             \x20 if test -n \"${{devtype}}\"; then\n\
             \x20   setenv ipiscope_load \"load ${{devtype}} ${{devnum}}:${{distro_bootpart}}\"\n\
             \x20 else\n\
             \x20   setenv ipiscope_load tftpboot\n\
             \x20 fi\n\
             fi\n\
             if test -z \"${{ipiscope_args}}\"; then setenv ipiscope_args \"{}\"; fi\n\
             setenv bootargs \"${{ipiscope_args}}\"\n\n\
             setenv ipiscope_get_image \"${{ipiscope_load}} ${{kernel_addr_r}} ${{prefix}}{IMAGE}\"\n\
             setenv ipiscope_get_plan \"${{ipiscope_load}} ${{ramdisk_addr_r}} ${{prefix}}{PLAN}\"\n\
             setenv ipiscope_get_tree \"${{ipiscope_load}} ${{fdt_addr_r}} ${{prefix}}${{fdtfile}}\"\n\n",
            self.bootargs()
        );
        text.push_str(
            "# The device tree: the one that an earlier stage left, else the board's from beside the image, else U-Boot's own.\n\
             # These know the board better than a board file does: memory that secure firmware keeps, for one.\n\
             if test -z \"${ipiscope_fdt}\"; then\n\
             \x20 if test -n \"${fdt_addr}\"; then\n\
             \x20   if fdt addr ${fdt_addr}; then setenv ipiscope_fdt ${fdt_addr}; fi\n\
             \x20 fi\n\
             fi\n\
             if test -z \"${ipiscope_fdt}\"; then\n\
             \x20 if test -n \"${fdtfile}\"; then\n\
             \x20   if run ipiscope_get_tree; then setenv ipiscope_fdt ${fdt_addr_r}; fi\n\
             \x20 fi\n\
             fi\n\
             if test -z \"${ipiscope_fdt}\"; then setenv ipiscope_fdt ${fdtcontroladdr}; fi\n",
        );
        if self.has_tree {
            let _ = write!(
                text,
                "if test -z \"${{ipiscope_fdt}}\"; then\n\
                 \x20 setenv ipiscope_get_tree \"${{ipiscope_load}} ${{fdt_addr_r}} ${{prefix}}{TREE}\"\n\
                 \x20 if run ipiscope_get_tree; then setenv ipiscope_fdt ${{fdt_addr_r}}; fi\n\
                 fi\n"
            );
        }
        text.push_str(
            "\nif run ipiscope_get_image; then\n\
             \x20 if run ipiscope_get_plan; then\n\
             \x20   booti ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${ipiscope_fdt}\n\
             \x20   echo ipiscope: booti refused the image: see above\n\
             \x20 else\n\
             \x20   echo ipiscope: the plan was not loaded: check ipiscope_load and ramdisk_addr_r\n\
             \x20 fi\n\
             else\n\
             \x20 echo ipiscope: the image was not loaded: check ipiscope_load and kernel_addr_r\n\
             fi\n",
        );
        text
    }

    /// `bytes`: what goes over the console if all is sent.
    fn instructions(&self, bytes: u64) -> String {
        let Request { addresses, .. } = self.request;
        let (kernel, ramdisk) = match addresses {
            Some(at) => (format!("{:#x}", at.image), format!("{:#x}", at.plan)),
            None => ("${kernel_addr_r}".into(), "${ramdisk_addr_r}".into()),
        };
        let baud = self.board.console.as_ref().and_then(|console| console.baud).unwrap_or(BAUD);
        let tags: String = self.request.tags.iter().map(|(key, value)| format!(" --tag {key}={value}")).collect();
        let speed = if baud == BAUD { String::new() } else { format!(" --baud {baud}") };
        // Else it would go on and ask for the records.
        let only = if self.request.results == Results::Summary { " --summary" } else { "" };
        let seconds = bytes.div_ceil(MOST_BYTES as u64) * LINE_CHARACTERS * 10 / u64::from(baud);
        let sends = match self.request.results {
            Results::None => "The firmware sends nothing by itself; `serial` asks for it.".to_string(),
            _ => format!(
                "The firmware sends up to {} KiB by itself after the run: about {} at {baud} bits/s (runs of zeros are shorter).",
                bytes.div_ceil(1024),
                humantime::format_duration(Duration::from_secs(seconds.max(1)))
            ),
        };
        let tree = if self.has_tree {
            format!("{TREE:11} a device tree from the board file: passed where the boot loader has none\n")
        } else {
            String::new()
        };
        let provider = match &self.board.psci.provider {
            Some(provider) => format!("PSCI: {provider}.\n"),
            None => String::new(),
        };
        format!(
            "ipiscope on board `{board}` ({summary}), plan `{plan}`, {cores} cores\n\
             {rule}\n\n\
             {IMAGE:11} the firmware, an arm64 kernel Image for any 2 MiB boundary\n\
             {PLAN:11} what the cores shall do, passed as the initrd\n\
             {tree}\
             {WRAPPED_SCRIPT:11} a U-Boot script that loads and starts them ({SCRIPT}: the same to read)\n\n\
             With a card or disk: copy all files into the root (or /boot) of its boot partition. Distro boot finds {WRAPPED_SCRIPT}.\n\
             By hand, at U-Boot's prompt (put your device in place of `mmc 0:1`, or `tftpboot` in place of `load mmc 0:1`):\n\n\
             \x20 setenv bootargs {bootargs}\n\
             \x20 load mmc 0:1 {kernel} {IMAGE}\n\
             \x20 load mmc 0:1 {ramdisk} {PLAN}\n\
             \x20 booti {kernel} {ramdisk}:${{filesize}} ${{fdtcontroladdr}}\n\n\
             {provider}{sends}\n\
             Take the results on the machine at the other end of the console, before or after the run:\n\n\
             \x20 ipiscope serial /dev/ttyUSB0{speed}{only} --board {board}{tags}\n\n\
             or from its log:\n\n\
             \x20 ipiscope serial --from-log console.log{only} --board {board}{tags}\n",
            board = self.board.name,
            summary = self.board.summary,
            plan = self.plan,
            cores = self.cores,
            rule = "-".repeat(72),
            bootargs = self.bootargs(),
        )
    }
}

// --- the folder -----------------------------------------------------------------------------------------------------

#[derive(Debug)]
struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes the folder, or checks that it holds nothing but what an earlier `image` wrote.
    fn open(path: PathBuf, force: bool) -> Result<Folder, Failure> {
        fs::create_dir_all(&path).map_err(FileError::of("create", &path))?;
        let mut foreign = Vec::new();
        for entry in fs::read_dir(&path).map_err(FileError::of("read", &path))? {
            let name = entry.map_err(FileError::of("read", &path))?.file_name();
            let name = name.to_string_lossy().into_owned();
            if !FILES.contains(&name.as_str()) && !name.starts_with(MAKING) {
                foreign.push(name);
            }
        }
        foreign.sort();
        match foreign.first() {
            Some(first) if !force => Err(Failure {
                kind: "file".into(),
                message: format!("{} holds {} files of others, `{first}` among them", path.display(), foreign.len()),
                next_step: "name another folder with --out, or add --force to write into this one".into(),
                exit_code: exit::MISUSED,
            }),
            _ => Ok(Folder { path }),
        }
    }

    /// Writes all files under other names, then renames them; a tree that an earlier run left goes where this run has none.
    fn write(&self, files: &[(&str, Vec<u8>)]) -> Result<(), FileError> {
        let making = |name: &str| self.path.join(format!("{MAKING}{name}"));
        let written = files.iter().try_for_each(|(name, bytes)| {
            let path = making(name);
            fs::write(&path, bytes).map_err(FileError::of("write", &path))
        });
        if written.is_err() {
            for (name, _) in files {
                let _ = fs::remove_file(making(name));
            }
        }
        written?;
        for (name, _) in files {
            let path = self.path.join(name);
            fs::rename(making(name), &path).map_err(FileError::of("write", &path))?;
        }
        for name in FILES.iter().filter(|name| files.iter().all(|(written, _)| written != *name)) {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(FileError::of("remove", Path::new(&path))(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[0..4].copy_from_slice(&(0x1400_0000u32 | (0x200 / 4)).to_le_bytes());
        bytes[16..24].copy_from_slice(&8192u64.to_le_bytes());
        bytes[24] = 0xA;
        bytes[56..60].copy_from_slice(b"ARM\x64");
        bytes
    }

    #[test]
    fn a_header_is_checked_field_by_field() {
        let good = check_header(&header()).expect("is good");
        assert_eq!(good, Header { text_offset: 0, image_size: 8192, flags: 0xA });
        for (at, value, names) in [
            (3, 0, "code0"),
            (2, 0xFF, "branches"),
            (0, 4, "branches"),
            (8, 1, "text_offset"),
            (10, 0x20, "text_offset"),
            (17, 1, "image_size"),
            (24, 0x0B, "big-endian"),
            (24, 0x1A, "reserved"),
            (32, 1, "res2"),
            (40, 1, "res3"),
            (55, 1, "res4"),
            (56, b'X', "magic"),
            (60, 64, "res5"),
        ] {
            let mut bad = header();
            bad[at] = value;
            let reason = check_header(&bad).expect_err(names);
            assert!(reason.contains(names), "expected {names:?} in {reason:?}");
        }
        for length in 0..64 {
            assert!(check_header(&header()[..length]).is_err(), "{length} bytes");
        }
        // What an EFI stub needs: "MZ" in front, the branch behind it, a PE header where res5 says.
        let mut stub = header();
        stub[0..8].copy_from_slice(&[0x4D, 0x5A, 0x00, 0x91, 0x80, 0, 0, 0x14]);
        stub[60] = 0x80;
        stub[0x80..0x84].copy_from_slice(b"PE\0\0");
        assert!(check_header(&stub).is_ok());
    }

    #[test]
    fn a_script_is_wrapped_as_mkimage_wraps_it() {
        let time = UNIX_EPOCH + Duration::from_secs(0x0102_0304);
        let wrapped = wrap_script(b"echo hello\n", "ipiscope", time);
        let word = |at: usize| u32::from_be_bytes([wrapped[at], wrapped[at + 1], wrapped[at + 2], wrapped[at + 3]]);
        assert_eq!((word(0), word(8), word(12), word(16), word(20)), (0x2705_1956, 0x0102_0304, 19, 0, 0));
        assert_eq!(wrapped[28..32], [5, 22, 6, 0]);
        assert_eq!(&wrapped[32..41], b"ipiscope\0");
        assert_eq!((word(64), word(68), &wrapped[72..]), (11, 0, &b"echo hello\n"[..]));
        // zlib's CRC-32 of the data, and of the header with its own field zero.
        assert_eq!(word(24), crc32fast::hash(&wrapped[64..]));
        let mut bare = wrapped[..64].to_vec();
        bare[4..8].fill(0);
        assert_eq!(word(4), crc32fast::hash(&bare));
        assert_eq!(wrap_script(b"", &"n".repeat(99), time)[32..64], *[b"n".repeat(31), vec![0]].concat());
    }

    fn request(board: &str) -> Request {
        Request {
            board: board.into(),
            cores: None,
            plan: PlanRequest::default(),
            results: Results::Summary,
            rings: Rings::NonCacheable,
            tags: BTreeMap::from([("unit".into(), "A17".into())]),
            firmware: None,
            out: None,
            addresses: Some(Addresses { image: 0x4048_0000, plan: 0x4380_0000, tree: 0x4300_0000 }),
            force: false,
        }
    }

    #[test]
    fn the_script_says_what_was_asked_for_and_every_if_has_its_fi() {
        for name in boards::names() {
            let board = boards::find(name).expect("is listed").expect("is valid");
            for has_tree in [false, true] {
                let request = request(name);
                let about = About { board: &board, request: &request, cores: 2, plan: "ping", has_tree };
                let script = about.script();
                assert!(script.contains("ipiscope.results=summary ipiscope.rings=non-cacheable"), "{script}");
                assert!(script.contains("setenv kernel_addr_r 0x40480000\n"), "{script}");
                assert_eq!(script.contains(TREE), has_tree);
                let code: Vec<&str> = script.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
                let code = code.join("\n");
                let count = |word: &str| code.split([' ', '\n', ';']).filter(|found| *found == word).count();
                assert_eq!(count("if"), count("fi"), "{script}");
                assert_eq!(count("if"), count("then"), "{script}");
                assert!(script.is_ascii() && script.lines().all(|line| line.len() < 200), "{script}");
                let text = about.instructions(48 * 1000);
                assert!(
                    text.contains(" --summary --board")
                        && text.contains("--tag unit=A17")
                        && text.contains("booti 0x40480000 0x43800000:"),
                    "{text}"
                );
                assert!(text.contains("up to 47 KiB"), "{text}");
            }
        }
    }

    #[test]
    fn all_cores_that_a_board_file_names_run_unless_fewer_are_asked_for() {
        let board = |name: &str| boards::find(name).expect("is listed").expect("is valid");
        assert_eq!(cores(&board("virt"), None).expect("some"), 4);
        assert_eq!(cores(&board("virt"), Some(64)).expect("some"), 64);
        assert_eq!(cores(&board("imx8mp-evk"), None).expect("some"), 4);
        assert_eq!(cores(&board("imx8mp-evk"), Some(1)).expect("some"), 1);
        assert!(cores(&board("imx8mp-evk"), Some(5)).is_err());
        assert!(cores(&board("virt"), Some(0)).is_err());
    }

    #[test]
    fn a_folder_of_others_is_left_alone_and_an_old_one_is_replaced_whole() {
        let base = tempfile::tempdir().expect("a folder");
        let path = base.path().join("card");
        let open = |force| Folder::open(path.clone(), force);
        let files = |text: &str| vec![(IMAGE, text.as_bytes().to_vec()), (TREE, b"tree".to_vec())];
        open(false).expect("is made").write(&files("old")).expect("is written");
        open(false).expect("our own").write(&files("new")[..1]).expect("is written");
        assert_eq!(fs::read(path.join(IMAGE)).expect("is there"), b"new");
        assert!(!path.join(TREE).exists(), "a tree of the run before");
        assert_eq!(fs::read_dir(&path).expect("a folder").count(), 1, "nothing in the making is left");

        fs::write(path.join("photos.zip"), "mine").expect("is written");
        let failure = open(false).expect_err("is refused");
        assert_eq!(failure.exit_code, exit::MISUSED);
        assert!(failure.message.contains("photos.zip") && failure.next_step.contains("--force"), "{failure:?}");
        open(true).expect("forced").write(&files("forced")).expect("is written");
        assert_eq!(fs::read(path.join("photos.zip")).expect("is there"), b"mine");
    }
}
