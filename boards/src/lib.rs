//! Machines as data: `boards/NAME.toml`, one file each, and the one parser of them.
//!
//! A file says what a machine is (cores, counter, memory, the frames of its GIC), and under `[qemu]` how QEMU brings it
//! to life. No constant of a board is compiled into the firmware: it reads a device tree. Where a machine's loader
//! passes none, [`Board::device_tree`] writes one from the file.
//!
//! `status` says honestly what was tried: a file made from a manual alone says so. Unknown fields are errors, so that a
//! misspelt one is not silently ignored. Under `[debug]` it says where the debug components lie; a board whose documents
//! don't say so has `no_debug` with the reason in its place, and is reached by image and console alone.

// No input makes the host panic. Tests may.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable, clippy::todo)
)]

mod tree;

use serde::Deserialize;

pub use tree::{TreeError, TreeOptions};

/// A machine.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Board {
    /// Its name: the file's, without `.toml`.
    pub name: String,
    /// One line for a list.
    pub summary: String,
    /// What was tried on it.
    pub status: Status,
    /// It is an emulator: its time is not silicon's.
    #[serde(default)]
    pub emulator: bool,
    /// What whoever runs it should know, a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The root node's `compatible` where a tree is written for it.
    #[serde(default)]
    pub compatible: Vec<String>,
    /// Its cores.
    pub cores: Cores,
    /// The system counter.
    pub counter: Counter,
    /// Its RAM.
    pub memory: Memory,
    /// Its power interface.
    pub psci: Psci,
    /// The interrupt controller; may be left out where the machine's own tree says it.
    pub gic: Option<Gic>,
    /// The console; may be left out where the machine's own tree says it.
    pub console: Option<Console>,
    /// How QEMU brings it to life, if it does.
    pub qemu: Option<Qemu>,
    /// How a debug probe reaches it, where that is known.
    pub debug: Option<Debug>,
    /// Why there is no [`Board::debug`].
    pub no_debug: Option<String>,
}

/// What was tried on a board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Status {
    /// The firmware ran on silicon.
    #[serde(rename = "tested on silicon")]
    Silicon,
    /// The firmware ran on an emulator's model of it.
    #[serde(rename = "tested in emulation")]
    Emulation,
    /// Written from manuals and other projects' sources; nothing ran.
    #[serde(rename = "from documents, untested")]
    Untested,
}

impl Status {
    /// As the files spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Silicon => "tested on silicon",
            Status::Emulation => "tested in emulation",
            Status::Untested => "from documents, untested",
        }
    }
}

/// A board's cores.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cores {
    /// How many it has, or can have.
    pub max: u16,
    /// `compatible` of a core's node.
    pub compatible: Option<String>,
    /// MPIDR_EL1's affinity fields of each core, in order.
    #[serde(default)]
    pub affinity: Vec<u64>,
}

/// A board's system counter.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Counter {
    /// Ticks per second.
    pub hz: u64,
    /// Private peripheral interrupts of the secure, non-secure, virtual and hypervisor timers, counted from PPI 0 as
    /// device trees do (the INTID is 16 more).
    pub interrupts: Option<[u32; 4]>,
}

/// A board's RAM.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Physical address of its first byte.
    pub base: u64,
    /// Bytes of RAM from there that every variant of the board has; needed where the host writes into it (a debug probe).
    pub size: Option<u64>,
    /// What in it belongs to secure firmware or others.
    #[serde(default)]
    pub reserved: Vec<Frame>,
}

/// A board's power interface.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Psci {
    /// How it is called.
    pub conduit: Conduit,
    /// Who brings it, and when it is there: what must have run before a probe may load.
    pub provider: Option<String>,
}

/// How PSCI is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Conduit {
    /// There is none.
    None,
    /// HVC.
    Hvc,
    /// SMC.
    Smc,
}

/// A range of physical addresses.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frame {
    /// Its first byte.
    pub base: u64,
    /// Its bytes.
    pub size: u64,
}

/// A board's GICv3.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gic {
    /// GICD.
    pub distributor: Frame,
    /// The region of the GICRs.
    pub redistributor: Frame,
}

/// A board's console.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Console {
    /// What it is compatible with, most special first.
    pub compatible: Vec<String>,
    /// Physical address of its registers.
    pub base: u64,
    /// Bytes of its registers.
    pub size: u64,
    /// Its shared peripheral interrupt, counted from SPI 0.
    pub interrupt: u32,
    /// `reg-shift`: a register every 1 << shift bytes (16550 and its kin).
    pub reg_shift: Option<u32>,
    /// `reg-io-width`: bytes of an access to a register.
    pub reg_io_width: Option<u32>,
    /// Bits a second that its boot loader sets.
    pub baud: Option<u32>,
}

/// How a debug probe reaches a board. Addresses of components are those behind their access port.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debug {
    /// The wire.
    pub protocol: Wire,
    /// The wire's clock that is safe to begin with, kHz.
    pub speed_khz: u32,
    /// DPIDR of its debug port, where it is known: another value is another chip.
    pub dpidr: Option<u32>,
    /// The access port of the cores' debug components.
    pub components: AccessPort,
    /// The access port that sees the system's memory while the cores run; left out: there is none, and the memory is read
    /// through halted cores.
    pub memory: Option<AccessPort>,
    /// External debug and CTI of each core, in the order of `cores.affinity`.
    pub cores: Vec<CoreDebug>,
    /// Where the image is loaded: in RAM, on a 2 MiB boundary, with 64 MiB behind it that are nobody's.
    pub load: u64,
}

/// The wire between probe and board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// Serial wire debug.
    Swd,
    /// JTAG.
    Jtag,
}

/// An access port: by its index (ADIv5) or by its base address (ADIv6).
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessPort {
    /// ADIv5's APSEL.
    pub index: Option<u8>,
    /// ADIv6's base address.
    pub base: Option<u64>,
    /// Whether its accesses snoop the cores' caches: then the rings need not be non-cacheable.
    #[serde(default)]
    pub coherent: bool,
    /// CSW to write before its first access (secure or coherent attributes); left out: as it is found.
    pub csw: Option<u32>,
}

/// Where the debug components of a core lie.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreDebug {
    /// External debug registers (DDI 0487, H9.2).
    pub debug: u64,
    /// Its cross-trigger interface (DDI 0487, H9.3).
    pub cti: u64,
}

/// How QEMU brings a board to life.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Qemu {
    /// `-M`: name and options.
    pub machine: String,
    /// The first version that has it: "10.0".
    pub since: String,
    /// How the image is started.
    pub start: Start,
    /// `-cpu`; left out where the machine has its own.
    pub cpu: Option<String>,
    /// Whether `--cpu` may name another.
    #[serde(default)]
    pub cpu_choice: bool,
    /// The only `-smp` that the machine takes.
    pub smp: Option<u16>,
    /// Where the device tree comes from.
    #[serde(default)]
    pub tree: Tree,
    /// Which of QEMU's serial ports is the console.
    #[serde(default)]
    pub serial: u16,
    /// Machine options that a deterministic run needs.
    pub deterministic: Option<String>,
    /// Accelerators that it runs with.
    pub accelerators: Vec<String>,
}

/// How QEMU starts the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// As a Linux kernel: `-kernel IMAGE -initrd PLAN`, at RAM base + 2 MiB.
    Kernel,
    /// By the generic loader, on all cores, at the machine's highest exception level.
    Loader,
}

/// Where a machine's device tree comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tree {
    /// QEMU makes it.
    #[default]
    Machine,
    /// [`Board::device_tree`] makes it, `-dtb` passes it.
    Board,
}

/// What is wrong with a board file.
#[derive(Debug, thiserror::Error)]
pub enum BoardError {
    /// Not TOML, or not this schema.
    #[error("board `{name}`: {source}")]
    Syntax {
        /// The file's name.
        name: String,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value that can't be.
    #[error("board `{name}`: {what}")]
    Value {
        /// The file's name.
        name: String,
        /// What is wrong, with the field and its value.
        what: String,
    },
}

/// The files, by name.
const FILES: [(&str, &str); 8] = [
    ("virt", include_str!("../virt.toml")),
    ("virt-el2", include_str!("../virt-el2.toml")),
    ("virt-el3", include_str!("../virt-el3.toml")),
    ("imx8mp-evk", include_str!("../imx8mp-evk.toml")),
    ("xlnx-versal-virt", include_str!("../xlnx-versal-virt.toml")),
    ("qemu-virt", include_str!("../qemu-virt.toml")),
    ("rock-5b", include_str!("../rock-5b.toml")),
    ("vck190", include_str!("../vck190.toml")),
];

/// The names of all boards, the default first.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// The board of that name; `None`: there is none.
pub fn find(name: &str) -> Option<Result<Board, BoardError>> {
    FILES.iter().find(|(known, _)| *known == name).map(|(name, text)| parse(name, text))
}

/// The text of the file of that name.
pub fn source(name: &str) -> Option<&'static str> {
    FILES.iter().find(|(known, _)| *known == name).map(|(_, text)| *text)
}

/// Reads a board file and checks it. `name` is the file's, without `.toml`.
pub fn parse(name: &str, text: &str) -> Result<Board, BoardError> {
    let board: Board =
        toml::from_str(text).map_err(|source| BoardError::Syntax { name: name.into(), source: Box::new(source) })?;
    match board.check(name) {
        Ok(()) => Ok(board),
        Err(what) => Err(BoardError::Value { name: name.into(), what }),
    }
}

impl Board {
    fn check(&self, name: &str) -> Result<(), String> {
        let require = |holds: bool, what: String| if holds { Ok(()) } else { Err(what) };
        require(self.name == name, format!("`name` is `{}`, the file is `{name}.toml`", self.name))?;
        require(!self.summary.is_empty(), "`summary` is empty".into())?;
        require((1..=512).contains(&self.cores.max), format!("`cores.max` is {}, not 1 to 512", self.cores.max))?;
        require(
            (1_000_000..=10_000_000_000).contains(&self.counter.hz),
            format!("`counter.hz` is {}, not 1 MHz to 10 GHz", self.counter.hz),
        )?;
        require(
            self.memory.base.is_multiple_of(2 << 20),
            format!("`memory.base` is {:#x}, not a multiple of 2 MiB", self.memory.base),
        )?;
        require(
            self.cores.affinity.is_empty() || self.cores.affinity.len() == usize::from(self.cores.max),
            format!("`cores.affinity` names {} cores, `cores.max` is {}", self.cores.affinity.len(), self.cores.max),
        )?;
        if let Some(strange) = self.cores.affinity.iter().find(|affinity| **affinity & !0xFF_00FF_FFFF != 0) {
            return Err(format!("`cores.affinity` holds {strange:#x}, which has bits outside Aff3..Aff0"));
        }
        let mut seen = std::collections::BTreeSet::new();
        if let Some(twice) = self.cores.affinity.iter().find(|affinity| !seen.insert(**affinity)) {
            return Err(format!("`cores.affinity` holds {twice:#x} twice"));
        }
        require(self.memory.size != Some(0), "`memory.size` is 0".into())?;
        if let Some(empty) = self.memory.reserved.iter().find(|frame| frame.size == 0) {
            return Err(format!("`memory.reserved` holds a range of no bytes at {:#x}", empty.base));
        }
        if let Some(console) = &self.console {
            if let Some(shift) = console.reg_shift.filter(|shift| *shift > 4) {
                return Err(format!("`console.reg_shift` is {shift}, not 0 to 4"));
            }
            if let Some(width) = console.reg_io_width.filter(|width| ![1, 4].contains(width)) {
                return Err(format!("`console.reg_io_width` is {width}: the firmware knows 1 and 4"));
            }
            require(console.baud != Some(0), "`console.baud` is 0".into())?;
        }
        if let Some(gic) = &self.gic {
            for (field, frame) in [("distributor", gic.distributor), ("redistributor", gic.redistributor)] {
                require(
                    frame.base.is_multiple_of(0x1_0000) && frame.size >= 0x1_0000,
                    format!(
                        "`gic.{field}` at {:#x}, {:#x} bytes, is not made of 64 KiB frames",
                        frame.base, frame.size
                    ),
                )?;
            }
            let needed = u64::from(self.cores.max) * 0x2_0000;
            require(
                gic.redistributor.size >= needed,
                format!(
                    "`gic.redistributor.size` is {:#x}, {} cores need {needed:#x}",
                    gic.redistributor.size, self.cores.max
                ),
            )?;
        }
        self.check_debug()?;
        let Some(qemu) = &self.qemu else { return Ok(()) };
        require(version(&qemu.since).is_some(), format!("`qemu.since` is `{}`, not like 7.2", qemu.since))?;
        require(!qemu.accelerators.is_empty(), "`qemu.accelerators` is empty".into())?;
        if let Some(strange) = qemu.accelerators.iter().find(|name| !["tcg", "kvm", "hvf"].contains(&name.as_str())) {
            return Err(format!("`qemu.accelerators` holds `{strange}`, not tcg, kvm or hvf"));
        }
        require(!qemu.cpu_choice || qemu.cpu.is_some(), "`qemu.cpu_choice` without a default `qemu.cpu`".into())?;
        require(
            qemu.smp.is_none_or(|smp| smp >= self.cores.max),
            format!("`qemu.smp` is below `cores.max`, {}", self.cores.max),
        )?;
        require(qemu.serial < 4, format!("`qemu.serial` is {}, not below 4", qemu.serial))?;
        require(
            (qemu.start == Start::Loader) == (self.psci.conduit == Conduit::None),
            "`qemu.start = \"loader\"` goes with `psci.conduit = \"none\"`: at EL3 there is nobody to call".into(),
        )?;
        match qemu.tree {
            Tree::Machine => Ok(()),
            Tree::Board => {
                let options = TreeOptions { cores: self.cores.max, memory_bytes: 256 << 20 };
                self.device_tree(options).map(drop).map_err(|error| error.to_string())
            }
        }
    }

    fn check_debug(&self) -> Result<(), String> {
        let require = |holds: bool, what: String| if holds { Ok(()) } else { Err(what) };
        require(
            self.debug.is_none() || self.no_debug.is_none(),
            "`no_debug` says why there is no `debug`, and there is one".into(),
        )?;
        require(
            self.qemu.is_some() || self.debug.is_some() || self.no_debug.is_some(),
            "there is neither `qemu` nor `debug`; where a probe can't reach it, `no_debug` says why".into(),
        )?;
        let Some(debug) = &self.debug else { return Ok(()) };
        for (field, port) in [("components", Some(debug.components)), ("memory", debug.memory)] {
            require(
                port.is_none_or(|port| port.index.is_some() != port.base.is_some()),
                format!("`debug.{field}` names its port by `index` (ADIv5) or by `base` (ADIv6), one of them"),
            )?;
        }
        require(
            debug.memory.is_none_or(|memory| memory.index.is_some() == debug.components.index.is_some()),
            "`debug.components` and `debug.memory` are behind one debug port: both by `index` or both by `base`".into(),
        )?;
        require(
            debug.cores.len() == usize::from(self.cores.max),
            format!("`debug.cores` names {} cores, `cores.max` is {}", debug.cores.len(), self.cores.max),
        )?;
        require(debug.speed_khz > 0, "`debug.speed_khz` is 0".into())?;
        let mut seen = std::collections::BTreeSet::new();
        for component in debug.cores.iter().flat_map(|core| [core.debug, core.cti]) {
            require(
                component.is_multiple_of(0x1000) && seen.insert(component),
                format!("`debug.cores` holds {component:#x}, which is not a 4 KiB frame of its own"),
            )?;
        }
        let size = self.memory.size.ok_or("`memory.size` is missing: `debug` loads into that memory")?;
        require(
            debug.load.is_multiple_of(2 << 20)
                && debug.load >= self.memory.base
                && size.checked_sub(Self::LOAD_ROOM).is_some_and(|room| debug.load - self.memory.base <= room),
            format!(
                "`debug.load` is {:#x}: not a 2 MiB boundary with 64 MiB of the board's memory behind it",
                debug.load
            ),
        )?;
        if let Some(taken) = self.memory.reserved.iter().find(|frame| {
            frame.base < debug.load + Self::LOAD_ROOM && debug.load < frame.base.saturating_add(frame.size)
        }) {
            return Err(format!("`debug.load` at {:#x} runs into reserved memory at {:#x}", debug.load, taken.base));
        }
        self.device_tree(TreeOptions { cores: self.cores.max, memory_bytes: size })
            .map(drop)
            .map_err(|error| error.to_string())
    }

    /// Bytes behind `debug.load` that image, tree and plan may take.
    pub const LOAD_ROOM: u64 = 64 << 20;
}

/// Major and minor version of "10.0" or "7.2.14".
pub fn version(text: &str) -> Option<(u32, u32)> {
    let mut parts = text.split('.');
    let major = parts.next()?.parse().ok()?;
    let digits: String = parts.next()?.chars().take_while(char::is_ascii_digit).collect();
    Some((major, digits.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dtoolkit::fdt::Fdt;
    use dtoolkit::{Node as _, Property as _};

    use super::*;

    const TEMPLATE: &str = include_str!("../template/board.toml");

    fn all() -> impl Iterator<Item = Board> {
        names().map(|name| find(name).expect("is listed").unwrap_or_else(|error| panic!("{error}")))
    }

    #[test]
    fn every_board_file_loads_and_is_listed() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = 0;
        for entry in std::fs::read_dir(folder).expect("the crate's folder").flatten() {
            let path = entry.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default().to_string();
            if path.extension().is_none_or(|extension| extension != "toml") || name == "Cargo" {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("readable");
            let board = parse(&name, &text).unwrap_or_else(|error| panic!("{error}"));
            assert!(text.contains("\n# Sources: "), "{name} names no sources");
            assert!(names().any(|listed| listed == board.name), "{name} is not in FILES");
            found += 1;
        }
        assert_eq!(found, names().count());
    }

    #[test]
    fn a_debug_section_that_no_silicon_has_seen_says_so() {
        for board in all() {
            if board.debug.is_some() && !board.emulator && board.status != Status::Silicon {
                let said = board.status == Status::Untested || board.notes.iter().any(|note| note.contains("untested"));
                assert!(said, "{}: nothing says that `debug` is untested", board.name);
            }
        }
    }

    /// Cells of a property, as 32-bit numbers.
    fn cells(node: &dtoolkit::fdt::FdtNode<'_>, name: &str) -> Vec<u32> {
        let property = node.property(name).unwrap_or_else(|| panic!("no {name}"));
        let value = property.value();
        value.chunks_exact(4).map(|cell| u32::from_be_bytes(cell.try_into().expect("four bytes"))).collect()
    }

    fn wide(value: u64) -> [u32; 2] {
        [(value >> 32) as u32, value as u32]
    }

    #[test]
    fn the_tree_of_every_board_that_can_be_loaded_says_what_is_reserved_and_how_the_console_is_reached() {
        let mut loadable = 0;
        for board in all().filter(|board| board.memory.size.is_some()) {
            let size = board.memory.size.expect("filtered");
            let blob = board
                .device_tree(TreeOptions { cores: board.cores.max, memory_bytes: size })
                .unwrap_or_else(|error| panic!("{}: {error}", board.name));
            let tree = Fdt::new(&blob).expect("can be read");
            let root = tree.root();
            loadable += usize::from(board.debug.is_some());

            let memory = root.child(&format!("memory@{:x}", board.memory.base)).expect("a memory node");
            assert_eq!(cells(&memory, "reg"), [wide(board.memory.base), wide(size)].concat());
            let reserved = root.child("reserved-memory");
            assert_eq!(reserved.is_some(), !board.memory.reserved.is_empty(), "{}", board.name);
            if let Some(reserved) = reserved {
                let ranges: Vec<_> = reserved.children().map(|node| cells(&node, "reg")).collect();
                let expected: Vec<_> =
                    board.memory.reserved.iter().map(|frame| [wide(frame.base), wide(frame.size)].concat()).collect();
                assert_eq!(ranges, expected, "{}", board.name);
            }
            let console = board.console.as_ref().expect("a tree needs it");
            let node = root.children().find(|node| node.name().starts_with("serial@")).expect("a console node");
            for (name, value) in [("reg-shift", console.reg_shift), ("reg-io-width", console.reg_io_width)] {
                match value {
                    Some(value) => assert_eq!(cells(&node, name), [value], "{}", board.name),
                    None => assert!(node.property(name).is_none(), "{}: {name}", board.name),
                }
            }
            let cpus = root.child("cpus").expect("cpus");
            let affinity: Vec<_> = cpus.children().map(|core| cells(&core, "reg")).collect();
            assert_eq!(affinity, board.cores.affinity.iter().map(|core| wide(*core).to_vec()).collect::<Vec<_>>());
        }
        assert_eq!(loadable, all().filter(|board| board.debug.is_some()).count(), "a `debug` goes with `memory.size`");
        assert!(loadable > 0);
    }

    #[test]
    fn the_rock_5b_has_its_console_registers_four_bytes_apart_and_leaves_secure_firmware_alone() {
        let board = find("rock-5b").expect("is listed").expect("is valid");
        let blob = board.device_tree(TreeOptions { cores: 8, memory_bytes: 1 << 31 }).expect("can be written");
        let tree = Fdt::new(&blob).expect("can be read");
        let console = tree.root().child("serial@feb50000").expect("UART2");
        assert_eq!((cells(&console, "reg-shift"), cells(&console, "reg-io-width")), (vec![2], vec![4]));
        let reserved = tree.root().child("reserved-memory").expect("reserved");
        let ranges: Vec<_> = reserved.children().map(|node| cells(&node, "reg")).collect();
        assert_eq!(ranges, [[0, 0, 0, 0x20_0000], [0, 0x840_0000, 0, 0x200_0000]]);
    }

    /// Complains unless each change of `good` is refused with a message that names the board and what is wrong.
    fn refused(board: &str, good: &str, changes: &[(&str, &str, &str)]) {
        for (from, to, names) in changes {
            assert!(good.contains(from), "the test looks for {from}");
            let message = parse(board, &good.replace(from, to)).expect_err("is refused").to_string();
            assert!(message.contains(names) && message.contains(board), "expected {names:?} in {message:?}");
        }
    }

    #[test]
    fn a_misspelt_field_and_a_value_that_cannot_be_are_named() {
        let good = source("imx8mp-evk").expect("is listed");
        let changes = [
            ("serial = 1", "seriell = 1", "seriell"),
            ("max = 4", "max = 0", "cores.max"),
            ("max = 4", "max = 3", "cores.affinity"),
            ("0x2, 0x3", "0x2, 0x1_0000_0000_0000", "Aff3"),
            ("0x2, 0x3", "0x2, 0x2", "`cores.affinity` holds 0x2 twice"),
            ("hz = 8_000_000", "hz = 0", "counter.hz"),
            ("size = 0xC_0000", "size = 0x4_0000", "gic.redistributor.size"),
            ("conduit = \"smc\"", "conduit = \"none\"", "psci.conduit"),
            ("since = \"10.0\"", "since = \"ten\"", "qemu.since"),
            ("[\"tcg\"]", "[\"xen\"]", "xen"),
            ("interrupts = [13, 14, 11, 10]", "", "counter.interrupts"),
            ("base = 0x4000_0000", "base = 0x4000_1000", "memory.base"),
            ("baud = 115_200", "baud = 0", "console.baud"),
            ("\"tested in emulation\"", "\"works\"", "from documents, untested"),
        ];
        refused("imx8mp-evk", good, &changes);
        let rock = source("rock-5b").expect("is listed");
        let changes =
            [("reg_shift = 2", "reg_shift = 5", "reg_shift"), ("reg_io_width = 4", "reg_io_width = 3", "reg_io_width")];
        refused("rock-5b", rock, &changes);
    }

    #[test]
    fn a_debug_section_that_cannot_be_is_named() {
        let good = source("imx8mp-evk").expect("is listed");
        let changes = [
            ("components = { index = 1 }", "components = {}", "`debug.components` names its port"),
            ("components = { index = 1 }", "components = { index = 1, base = 0x1_0000 }", "one of them"),
            ("components = { index = 1 }", "", "components"),
            ("memory = { index = 0 }", "memory = { coherent = true }", "`debug.memory` names its port"),
            ("memory = { index = 0 }", "memory = { base = 0x1_0000 }", "both by `index` or both by `base`"),
            ("memory = { index = 0 }", "memory = { indx = 0 }", "indx"),
            ("{ index = 1 }", "{ index = 256 }", "256"),
            ("speed_khz = 1000", "speed_khz = 0", "debug.speed_khz"),
            ("speed_khz = 1000", "speed = 1000", "speed"),
            ("protocol = \"jtag\"", "protocol = \"cjtag\"", "cjtag"),
            ("debug = 0x8041_0000", "debug = 0x8041_0010", "0x80410010"),
            ("cti = 0x8042_0000", "cti = 0x8041_0000", "0x80410000, which is not a 4 KiB frame of its own"),
            ("cti = 0x8042_0000", "ctl = 0x8042_0000", "ctl"),
            ("    { debug = 0x8071_0000, cti = 0x8072_0000 },\n", "", "`debug.cores` names 3 cores, `cores.max` is 4"),
            ("load = 0x4400_0000", "load = 0x4410_0000", "debug.load"),
            ("load = 0x4400_0000", "load = 0x2000_0000", "debug.load"),
            ("load = 0x4400_0000", "load = 0xFE00_0000", "64 MiB"),
            ("load = 0x4400_0000", "load = 0x5400_0000", "runs into reserved memory at 0x56000000"),
            ("load = 0x4400_0000", "load = 0x5600_0000", "runs into reserved memory at 0x56000000"),
            ("size = 0xC000_0000\n", "", "memory.size"),
            ("size = 0xC000_0000\n", "size = 0\n", "memory.size"),
            ("size = 0x200_0000 }]", "size = 0 }]", "memory.reserved"),
            ("[debug]", "[debig]", "debig"),
            ("compatible = [\"fsl,imx8mp-evk\"", "no_debug = \"lost\"\ncompatible = [\"fsl,imx8mp-evk\"", "no_debug"),
        ];
        refused("imx8mp-evk", good, &changes);
        let silent = source("vck190").expect("is listed");
        refused("vck190", silent, &[("no_debug = ", "# no_debug = ", "no_debug")]);
    }

    /// Whether a comment's text is a field or a table that was commented out.
    fn is_code(text: &str) -> bool {
        let name = text.split_once(" = ").map_or("", |(name, _)| name);
        let is_field = !name.is_empty() && name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_');
        is_field || (text.starts_with('[') && text.ends_with(']'))
    }

    #[test]
    fn the_template_loads_as_it_is_and_with_everything_that_it_comments_out() {
        let board = parse("board", TEMPLATE).unwrap_or_else(|error| panic!("{error}"));
        assert!(board.debug.is_some() && board.qemu.is_none() && board.status == Status::Untested);
        assert!(names().all(|name| name != board.name), "the template is no board");
        let full: String = TEMPLATE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(code) if is_code(code) && !code.starts_with("no_debug") => format!("{code}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let board = parse("board", &full).unwrap_or_else(|error| panic!("{error}"));
        assert!(board.qemu.is_some() && board.debug.is_some_and(|debug| debug.dpidr.is_some()));
    }

    /// The schema's fields by table, as the parser lists them when it meets a strange one.
    fn fields() -> Vec<(&'static str, BTreeSet<String>)> {
        let tables = [
            ("", "zzz = 1"),
            ("cores", "[cores]\nzzz = 1"),
            ("counter", "[counter]\nzzz = 1"),
            ("memory", "[memory]\nzzz = 1"),
            ("memory.reserved", "[[memory.reserved]]\nzzz = 1"),
            ("psci", "[psci]\nzzz = 1"),
            ("gic", "[gic]\nzzz = 1"),
            ("gic.distributor", "[gic.distributor]\nzzz = 1"),
            ("gic.redistributor", "[gic.redistributor]\nzzz = 1"),
            ("console", "[console]\nzzz = 1"),
            ("qemu", "[qemu]\nzzz = 1"),
            ("debug", "[debug]\nzzz = 1"),
            ("debug.components", "[debug.components]\nzzz = 1"),
            ("debug.memory", "[debug.memory]\nzzz = 1"),
            ("debug.cores", "[[debug.cores]]\nzzz = 1"),
        ];
        let listed = |text: &str| {
            let message = parse("board", text).expect_err("has a strange field").to_string();
            let expected = message.split("expected").nth(1).unwrap_or_else(|| panic!("no list in {message}"));
            expected.split('`').skip(1).step_by(2).map(String::from).collect()
        };
        tables.map(|(table, text)| (table, listed(text))).into()
    }

    #[test]
    fn the_template_names_every_field_in_its_table_and_the_page_names_none_that_is_not() {
        let fields = fields();
        assert!(fields.iter().any(|(table, names)| *table == "debug" && names.contains("speed_khz")), "{fields:?}");
        let code: String = TEMPLATE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(code) if is_code(code) => code,
                _ => line,
            })
            .fold(String::new(), |text, line| text + "\n" + line);
        for (table, names) in &fields {
            // A table within a table is written inline.
            let above = table.split('.').next().unwrap_or_default();
            let text = match above {
                "" => Some(code.as_str()),
                _ => code.split_once(&format!("\n[{above}]\n")).map(|(_, rest)| rest),
            };
            let text = text.and_then(|text| text.split("\n[").next());
            let text = text.unwrap_or_else(|| panic!("the template has no [{above}]"));
            for field in names.iter().filter(|field| !fields.iter().any(|(table, _)| table == field)) {
                assert!(text.contains(&format!("{field} = ")), "the template's [{table}] lacks `{field}`");
            }
        }
        let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/adding-a-board.md");
        let page = std::fs::read_to_string(page).expect("the page");
        let mut named = 0;
        for span in page.split('`').skip(1).step_by(2) {
            let Some((table, field)) = span.split(' ').next().and_then(|name| name.rsplit_once('.')) else { continue };
            let known = fields.iter().find(|(known, _)| *known == table && !known.is_empty());
            let Some((_, names)) = known else { continue };
            assert!(names.contains(field), "docs/adding-a-board.md names `{span}`, which no board file can have");
            named += 1;
        }
        assert!(named > 10, "the page names {named} fields only");
    }

    #[test]
    fn versions_are_read_from_what_qemu_prints() {
        assert_eq!(version("10.0"), Some((10, 0)));
        assert_eq!(version("7.2.14"), Some((7, 2)));
        assert_eq!(version("9.0rc1"), Some((9, 0)));
        assert_eq!(version("ten"), None);
    }
}
