//! Machines as data: `boards/NAME.toml`, one file each, and the one parser of them.
//!
//! A file says what a machine is (cores, counter, memory, the frames of its GIC), and under `[qemu]` how QEMU brings it
//! to life. No constant of a board is compiled into the firmware: it reads a device tree. Where a machine's loader
//! passes none, [`Board::device_tree`] writes one from the file.
//!
//! `status` says honestly what was tried: a file made from a manual alone says so. Unknown fields are errors, so that a
//! misspelt one is not silently ignored. A section on debug probes gets its own optional field beside [`Board::qemu`].

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
    /// Written from manuals; nothing ran.
    #[serde(rename = "untested")]
    Untested,
}

impl Status {
    /// As the files spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Status::Silicon => "tested on silicon",
            Status::Emulation => "tested in emulation",
            Status::Untested => "untested",
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
}

/// A board's power interface.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Psci {
    /// How it is called.
    pub conduit: Conduit,
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
const FILES: [(&str, &str); 5] = [
    ("virt", include_str!("../virt.toml")),
    ("virt-el2", include_str!("../virt-el2.toml")),
    ("virt-el3", include_str!("../virt-el3.toml")),
    ("imx8mp-evk", include_str!("../imx8mp-evk.toml")),
    ("xlnx-versal-virt", include_str!("../xlnx-versal-virt.toml")),
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
    use super::*;

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
            assert!(text.contains("# Sources: "), "{name} names no sources");
            assert!(names().any(|listed| listed == board.name), "{name} is not in FILES");
            found += 1;
        }
        assert_eq!(found, names().count());
    }

    #[test]
    fn a_misspelt_field_and_a_value_that_cannot_be_are_named() {
        let good = source("imx8mp-evk").expect("is listed");
        let broken = |from: &str, to: &str| {
            assert!(good.contains(from), "the test looks for {from}");
            parse("imx8mp-evk", &good.replace(from, to)).expect_err("is refused").to_string()
        };
        for (from, to, names) in [
            ("serial = 1", "seriell = 1", "seriell"),
            ("max = 4", "max = 0", "cores.max"),
            ("max = 4", "max = 3", "cores.affinity"),
            ("0x2, 0x3", "0x2, 0x1_0000_0000_0000", "Aff3"),
            ("hz = 8_000_000", "hz = 0", "counter.hz"),
            ("size = 0xC_0000", "size = 0x4_0000", "gic.redistributor.size"),
            ("conduit = \"smc\"", "conduit = \"none\"", "psci.conduit"),
            ("since = \"10.0\"", "since = \"ten\"", "qemu.since"),
            ("[\"tcg\"]", "[\"xen\"]", "xen"),
            ("interrupts = [13, 14, 11, 10]", "", "counter.interrupts"),
            ("base = 0x4000_0000", "base = 0x4000_1000", "memory.base"),
        ] {
            let message = broken(from, to);
            assert!(message.contains(names) && message.contains("imx8mp-evk"), "expected {names:?} in {message:?}");
        }
    }

    #[test]
    fn versions_are_read_from_what_qemu_prints() {
        assert_eq!(version("10.0"), Some((10, 0)));
        assert_eq!(version("7.2.14"), Some((7, 2)));
        assert_eq!(version("9.0rc1"), Some((9, 0)));
        assert_eq!(version("ten"), None);
    }
}
