//! What to tell QEMU so that a board comes to life: a board file and the user's wishes, checked, become arguments.
//!
//! Nothing here runs anything; the arguments of every machine are fixed by a test.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use boards::{Board, BoardError, Qemu, Start, Tree, TreeOptions};

use crate::error::{Explain, exit};

/// The machine that runs where none is named.
pub const DEFAULT_MACHINE: &str = "virt";

/// Cores where none are asked for and the board has as many.
pub const DEFAULT_CORES: u16 = 4;

/// Granule of everything that the host places in a target's RAM.
const BLOCK: u64 = 2 << 20;

/// Where QEMU puts an arm64 Image of text_offset 0 (hw/arm/boot.c: behind its own boot stub), from RAM's base.
pub const IMAGE_OFFSET: u64 = BLOCK;

/// QEMU puts an initrd at half of RAM or here, whichever is lower (hw/arm/boot.c), and the tree behind it, from RAM's
/// base.
const INITRD_OFFSET: u64 = 128 << 20;

/// Who executes the target's instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Accelerator {
    /// QEMU's emulator: every host, and no silicon's times.
    #[default]
    Tcg,
    /// Linux's hypervisor, on an aarch64 host.
    Kvm,
    /// macOS's hypervisor, on an aarch64 host.
    Hvf,
}

impl Accelerator {
    /// Its name on the command line and QEMU's.
    pub const fn name(self) -> &'static str {
        match self {
            Accelerator::Tcg => "tcg",
            Accelerator::Kvm => "kvm",
            Accelerator::Hvf => "hvf",
        }
    }
}

/// What the user asks of a machine.
#[derive(Clone, Debug, Default)]
pub struct MachineRequest {
    /// `--machine`; `None`: [`DEFAULT_MACHINE`].
    pub machine: Option<String>,
    /// `--cores`; `None`: [`DEFAULT_CORES`], or all that the board has.
    pub cores: Option<u64>,
    /// `--cpu`.
    pub cpu: Option<String>,
    /// `--accel`.
    pub accelerator: Accelerator,
    /// `--deterministic`.
    pub deterministic: bool,
    /// What stands behind `--`.
    pub extra: Vec<OsString>,
}

/// What this host can do.
#[derive(Clone, Debug)]
pub struct HostAbilities {
    /// The processor: [`std::env::consts::ARCH`].
    pub architecture: String,
    /// The system: [`std::env::consts::OS`].
    pub system: String,
    /// Why /dev/kvm can't be opened, if it can't.
    pub kvm: Result<(), String>,
}

impl HostAbilities {
    /// Looks at this host.
    pub fn look() -> HostAbilities {
        let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm");
        HostAbilities {
            architecture: std::env::consts::ARCH.into(),
            system: std::env::consts::OS.into(),
            kvm: kvm.map(drop).map_err(|error| error.to_string()),
        }
    }

    fn refuses(&self, accelerator: Accelerator) -> Option<String> {
        let foreign = (self.architecture != "aarch64").then(|| {
            format!("this host is {}, and a hypervisor runs only what the host's own processor runs", self.architecture)
        });
        match accelerator {
            Accelerator::Tcg => None,
            Accelerator::Kvm => foreign.or_else(|| {
                if self.system != "linux" {
                    return Some(format!("KVM is Linux's, and this host runs {}", self.system));
                }
                self.kvm.as_ref().err().map(|reason| format!("/dev/kvm can't be opened: {reason}"))
            }),
            Accelerator::Hvf => foreign.or_else(|| {
                (self.system != "macos").then(|| format!("HVF is macOS's, and this host runs {}", self.system))
            }),
        }
    }
}

/// Why a machine can't be had.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// No such board.
    #[error("there is no machine `{name}`; there are {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// A board file that is wrong: a fault of this program.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// A board that QEMU does not model.
    #[error("QEMU has no model of board `{0}`")]
    NotInQemu(String),
    /// More or fewer cores than the board can have.
    #[error("--cores {cores}: machine `{machine}` can have 1 to {max}")]
    Cores {
        /// Asked for.
        cores: u64,
        /// The machine.
        machine: String,
        /// What it can have.
        max: u16,
    },
    /// Another processor where the machine has its own.
    #[error("--cpu {cpu}: machine `{machine}` has its own processors")]
    Cpu {
        /// Asked for.
        cpu: String,
        /// The machine.
        machine: String,
    },
    /// The machine does not run with that accelerator.
    #[error("--accel {accelerator}: machine `{machine}` runs with {can} only")]
    MachineAccelerator {
        /// Asked for.
        accelerator: &'static str,
        /// The machine.
        machine: String,
        /// What it runs with.
        can: String,
    },
    /// The host does not have that accelerator.
    #[error("--accel {accelerator} can't be had here: {reason}")]
    HostAccelerator {
        /// Asked for.
        accelerator: &'static str,
        /// Why not.
        reason: String,
    },
    /// Counted instructions on real processors.
    #[error("--deterministic counts emulated instructions, --accel {0} emulates none")]
    Deterministic(&'static str),
    /// QEMU is too old for the machine.
    #[error("machine `{machine}` needs QEMU {needed} or newer, {found} is installed")]
    TooOld {
        /// The machine.
        machine: String,
        /// From when on QEMU has it.
        needed: String,
        /// What is installed.
        found: String,
    },
    /// The device tree can't be written: a fault of the board file.
    #[error("board `{board}`: {source}")]
    Tree {
        /// The board.
        board: String,
        /// Why.
        source: boards::TreeError,
    },
}

impl Explain for MachineError {
    fn kind(&self) -> &'static str {
        match self {
            MachineError::HostAccelerator { .. } => "accelerator",
            MachineError::TooOld { .. } => "qemu_version",
            _ => "machine",
        }
    }

    fn next_step(&self) -> String {
        match self {
            MachineError::Unknown { .. } | MachineError::NotInQemu(_) => "`ipiscope boards` lists them".into(),
            MachineError::Board(_) | MachineError::Tree { .. } => "mend the board file and build ipiscope again".into(),
            MachineError::Cores { max: 1, .. } => "leave --cores out".into(),
            MachineError::Cores { max, .. } => format!("name 1 to {max}, or another --machine"),
            MachineError::Cpu { .. } => "leave --cpu out, or use --machine virt".into(),
            MachineError::MachineAccelerator { .. } => "leave --accel out, or use --machine virt".into(),
            MachineError::HostAccelerator { .. } => "leave --accel out to use QEMU's emulator".into(),
            MachineError::Deterministic(_) => "leave one of the two out".into(),
            MachineError::TooOld { .. } => "run ./setup.sh, or use --machine virt".into(),
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            MachineError::HostAccelerator { .. } | MachineError::TooOld { .. } => exit::UNMEASURED,
            _ => exit::MISUSED,
        }
    }
}

/// A machine that can be had, and what the user wants of it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The board.
    pub board: Board,
    /// Cores that run the plan.
    pub cores: u16,
    /// Who executes.
    pub accelerator: Accelerator,
    /// Whether time counts instructions.
    pub deterministic: bool,
    qemu: Qemu,
    cpu: Option<String>,
    extra: Vec<OsString>,
}

/// What a run puts into the target's RAM, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The image with its zeroed part.
    pub image: u64,
    /// The plan.
    pub plan: u64,
    /// The region.
    pub region: u64,
    /// SGIs whose mailboxes the firmware keeps.
    pub sgi_count: u64,
}

/// The files of a run, in its scratch folder.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// The image.
    pub image: &'a Path,
    /// The plan.
    pub plan: &'a Path,
    /// The device tree, where the board file makes it.
    pub tree: Option<&'a Path>,
    /// What backs the RAM.
    pub ram: &'a Path,
    /// What the console goes to.
    pub console: &'a Path,
    /// Sockets of QEMU's monitor, one for each that may ask at the same time.
    pub monitors: &'a [PathBuf],
}

/// What the firmware can't learn from its loader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handover {
    /// Where QEMU puts the device tree.
    pub device_tree: u64,
    /// Where the image is loaded.
    pub image: u64,
    /// Where the plan is loaded.
    pub plan: u64,
    /// Affinity of the core that goes first.
    pub primary: u64,
}

impl Machine {
    /// Checks what the user asks for against what board and host can do. All that needs no QEMU is checked here.
    pub fn resolve(request: &MachineRequest, host: &HostAbilities) -> Result<Machine, MachineError> {
        let name = request.machine.as_deref().unwrap_or(DEFAULT_MACHINE);
        let board = boards::find(name).ok_or_else(|| MachineError::Unknown {
            name: name.into(),
            known: boards::names().collect::<Vec<_>>().join(", "),
        })??;
        let qemu = board.qemu.clone().ok_or_else(|| MachineError::NotInQemu(name.into()))?;
        let max = board.cores.max;
        let asked = request.cores.unwrap_or(DEFAULT_CORES.min(max).into());
        let cores = u16::try_from(asked)
            .ok()
            .filter(|cores| (1..=max).contains(cores))
            .ok_or_else(|| MachineError::Cores { cores: asked, machine: name.into(), max })?;
        let accelerator = request.accelerator;
        if request.deterministic && accelerator != Accelerator::Tcg {
            return Err(MachineError::Deterministic(accelerator.name()));
        }
        if !qemu.accelerators.iter().any(|can| can == accelerator.name()) {
            let can = qemu.accelerators.join(", ");
            return Err(MachineError::MachineAccelerator {
                accelerator: accelerator.name(),
                machine: name.into(),
                can,
            });
        }
        let cpu = match &request.cpu {
            Some(cpu) if !qemu.cpu_choice => {
                return Err(MachineError::Cpu { cpu: cpu.clone(), machine: name.into() });
            }
            Some(cpu) => Some(cpu.clone()),
            // A hypervisor runs the host's processor, whatever the board file prefers under emulation.
            None if accelerator != Accelerator::Tcg => Some("host".into()),
            None => qemu.cpu.clone(),
        };
        if let Some(reason) = host.refuses(accelerator) {
            return Err(MachineError::HostAccelerator { accelerator: accelerator.name(), reason });
        }
        let (deterministic, extra) = (request.deterministic, request.extra.clone());
        Ok(Machine { board, cores, accelerator, deterministic, qemu, cpu, extra })
    }

    /// Checks that QEMU of version `found` has the machine.
    pub fn check_version(&self, found: (u32, u32)) -> Result<(), MachineError> {
        match boards::version(&self.qemu.since) {
            Some(needed) if found < needed => Err(MachineError::TooOld {
                machine: self.board.name.clone(),
                needed: self.qemu.since.clone(),
                found: format!("{}.{}", found.0, found.1),
            }),
            _ => Ok(()),
        }
    }

    /// Whose time the run measures, as the report names it.
    pub const fn verdict_scope(&self) -> &'static str {
        match (self.accelerator, self.deterministic) {
            (Accelerator::Tcg, true) => "instructions",
            (Accelerator::Tcg, false) => "emulated",
            (Accelerator::Kvm | Accelerator::Hvf, _) => "virtualized",
        }
    }

    /// The processor type that the report names.
    pub fn cpu(&self) -> &str {
        self.cpu.as_deref().unwrap_or("its own")
    }

    /// Physical address of RAM's first byte, which is also byte 0 of the file that backs it.
    pub const fn ram_base(&self) -> u64 {
        self.board.memory.base
    }

    /// Whether the run's `request` word is read by the firmware.
    pub const fn reads_request(&self) -> bool {
        !self.deterministic
    }

    /// Bytes of RAM that the machine gets: what lies below the initrd is room for the image alone, so that the region
    /// finds one stretch above it however QEMU places things. The file that backs it is sparse.
    pub fn memory_bytes(&self, load: Load) -> u64 {
        let cores = u64::from(self.cores);
        let firmware = load.region + cores * cores * load.sgi_count * 24 + cores * (64 << 10);
        let bytes = INITRD_OFFSET.max(load.image + IMAGE_OFFSET) + load.plan + firmware + (64 << 20);
        bytes.next_multiple_of(64 << 20)
    }

    /// What has to be written into the image's locator; `None`: the loader says it all.
    pub fn handover(&self, load: Load) -> Option<Handover> {
        match self.qemu.start {
            Start::Kernel => None,
            Start::Loader => {
                let base = self.ram_base();
                let image = base + IMAGE_OFFSET;
                let plan = (image + load.image).next_multiple_of(BLOCK);
                let primary = self.board.cores.affinity.first().copied().unwrap_or(0);
                Some(Handover { device_tree: base, image, plan, primary })
            }
        }
    }

    /// The device tree that has to be passed; `None`: QEMU makes its own.
    pub fn device_tree(&self, memory_bytes: u64) -> Result<Option<Vec<u8>>, MachineError> {
        match self.qemu.tree {
            Tree::Machine => Ok(None),
            Tree::Board => self
                .board
                .device_tree(TreeOptions { cores: self.cores, memory_bytes })
                .map(Some)
                .map_err(|source| MachineError::Tree { board: self.board.name.clone(), source }),
        }
    }

    /// QEMU's arguments.
    pub fn arguments(&self, files: &Files<'_>, memory_bytes: u64, load: Load) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: OsString| arguments.extend([name.into(), value]);

        let mut machine = format!("{},memory-backend=ram", self.qemu.machine);
        if self.deterministic
            && let Some(options) = &self.qemu.deterministic
        {
            machine = format!("{machine},{options}");
        }
        add("-M", machine.into());
        let memory = format!("memory-backend-file,id=ram,size={memory_bytes},share=on,mem-path=");
        add("-object", with_path(&memory, files.ram, ""));
        add("-m", format!("{}M", memory_bytes >> 20).into());
        add("-smp", self.qemu.smp.unwrap_or(self.cores).to_string().into());
        if let Some(cpu) = &self.cpu {
            add("-cpu", cpu.into());
        }
        match (self.accelerator, self.deterministic) {
            (Accelerator::Tcg, false) => add("-accel", "tcg,thread=multi".into()),
            (Accelerator::Tcg, true) => {
                add("-accel", "tcg,thread=single".into());
                add("-icount", "shift=0,sleep=off".into());
            }
            (hypervisor, _) => add("-accel", hypervisor.name().into()),
        }
        add("-display", "none".into());
        add("-nic", "none".into());
        add("-monitor", "none".into());
        for monitor in files.monitors {
            add("-qmp", with_path("unix:", monitor, ",server=on,wait=off"));
        }
        for _ in 0..self.qemu.serial {
            add("-serial", "null".into());
        }
        let mut console = OsString::from("file:");
        console.push(files.console);
        add("-serial", console);
        if let Some(tree) = files.tree {
            add("-dtb", tree.into());
        }
        match self.handover(load) {
            None => {
                add("-kernel", files.image.into());
                add("-initrd", files.plan.into());
            }
            Some(at) => {
                let image = format!(",addr={:#x},force-raw=on", at.image);
                add("-device", with_path("loader,file=", files.image, &image));
                let plan = format!(",addr={:#x},force-raw=on", at.plan);
                add("-device", with_path("loader,file=", files.plan, &plan));
                for core in 0..self.cores {
                    add("-device", format!("loader,addr={:#x},cpu-num={core}", at.image).into());
                }
            }
        }
        arguments.extend(["-no-reboot".into(), "-nodefaults".into(), "-no-user-config".into()]);
        arguments.extend(self.extra.iter().cloned());
        arguments
    }
}

/// `before`, the path with commas doubled as QEMU's option lists want, `after`.
fn with_path(before: &str, path: &Path, after: &str) -> OsString {
    let mut text = OsString::from(before);
    let mut pieces = path.as_os_str().as_encoded_bytes().split(|byte| *byte == b',').peekable();
    while let Some(piece) = pieces.next() {
        push_bytes(&mut text, piece);
        if pieces.peek().is_some() {
            text.push(",,");
        }
    }
    text.push(after);
    text
}

fn push_bytes(text: &mut OsString, bytes: &[u8]) {
    use std::os::unix::ffi::OsStrExt as _;
    text.push(OsStr::from_bytes(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load { image: 3 << 20, plan: 4096, region: 8 << 20, sgi_count: 2 };

    fn host() -> HostAbilities {
        HostAbilities { architecture: "x86_64".into(), system: "linux".into(), kvm: Err("not there".into()) }
    }

    fn request(machine: &str) -> MachineRequest {
        MachineRequest { machine: Some(machine.into()), ..MachineRequest::default() }
    }

    fn arguments(machine: &Machine) -> String {
        let files = Files {
            image: Path::new("/s/image"),
            plan: Path::new("/s/plan"),
            tree: matches!(machine.qemu.tree, Tree::Board).then_some(Path::new("/s/tree")),
            ram: Path::new("/s,1/ram"),
            console: Path::new("/s/console"),
            monitors: &[],
        };
        let arguments = machine.arguments(&files, machine.memory_bytes(LOAD), LOAD);
        arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    /// What every machine gets, between what its board file says.
    const MEMORY: &str = "-object memory-backend-file,id=ram,size=268435456,share=on,mem-path=/s,,1/ram -m 256M";
    const QUIET: &str = "-display none -nic none -monitor none";
    const KERNEL: &str = "-kernel /s/image -initrd /s/plan";
    const END: &str = "-no-reboot -nodefaults -no-user-config";

    #[test]
    fn each_machine_gets_its_arguments() {
        let tcg = "-accel tcg,thread=multi";
        let console = "-serial file:/s/console";
        for (name, expected) in [
            (
                "virt",
                format!(
                    "-M virt,gic-version=3,acpi=off,memory-backend=ram {MEMORY} -smp 4 -cpu max {tcg} {QUIET} {console} {KERNEL} {END}"
                ),
            ),
            (
                "virt-el2",
                format!(
                    "-M virt,gic-version=3,acpi=off,virtualization=on,memory-backend=ram {MEMORY} -smp 4 -cpu max {tcg} {QUIET} \
                     {console} {KERNEL} {END}"
                ),
            ),
            (
                "virt-el3",
                format!(
                    "-M virt,gic-version=3,acpi=off,secure=on,memory-backend=ram {MEMORY} -smp 4 -cpu max {tcg} {QUIET} {console} \
                     -device loader,file=/s/image,addr=0x40200000,force-raw=on \
                     -device loader,file=/s/plan,addr=0x40600000,force-raw=on \
                     -device loader,addr=0x40200000,cpu-num=0 -device loader,addr=0x40200000,cpu-num=1 \
                     -device loader,addr=0x40200000,cpu-num=2 -device loader,addr=0x40200000,cpu-num=3 {END}"
                ),
            ),
            (
                "imx8mp-evk",
                format!(
                    "-M imx8mp-evk,memory-backend=ram {MEMORY} -smp 4 {tcg} {QUIET} -serial null {console} -dtb /s/tree {KERNEL} {END}"
                ),
            ),
            (
                "xlnx-versal-virt",
                format!(
                    "-M xlnx-versal-virt,memory-backend=ram {MEMORY} -smp 4 {tcg} {QUIET} {console} {KERNEL} {END}"
                ),
            ),
        ] {
            let machine = Machine::resolve(&request(name), &host()).expect("can be had");
            assert_eq!(arguments(&machine), expected, "{name}");
        }
    }

    #[test]
    fn each_monitor_has_a_socket_of_its_own() {
        let machine = Machine::resolve(&request("virt"), &host()).expect("can be had");
        let file = Path::new("/s/file");
        let monitors = [PathBuf::from("/s,1/qmp"), PathBuf::from("/s,1/inspect")];
        let files = Files { image: file, plan: file, tree: None, ram: file, console: file, monitors: &monitors };
        let arguments = machine.arguments(&files, machine.memory_bytes(LOAD), LOAD);
        let text = arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let sockets =
            "-monitor none -qmp unix:/s,,1/qmp,server=on,wait=off -qmp unix:/s,,1/inspect,server=on,wait=off -serial";
        assert!(text.contains(sockets), "{text}");
    }

    #[test]
    fn a_deterministic_run_counts_instructions_and_reads_no_host_word() {
        let request =
            MachineRequest { deterministic: true, cores: Some(2), extra: vec!["-s".into()], ..request("virt") };
        let machine = Machine::resolve(&request, &host()).expect("can be had");
        let got = arguments(&machine);
        assert!(got.contains("acpi=off,memory-backend=ram,dtb-randomness=off -object"), "{got}");
        assert!(got.contains("-smp 2 -cpu max -accel tcg,thread=single -icount shift=0,sleep=off"), "{got}");
        assert!(got.ends_with(" -s"), "{got}");
        assert_eq!((machine.verdict_scope(), machine.reads_request()), ("instructions", false));
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_a_reason() {
        let with = |change: fn(&mut MachineRequest)| {
            let mut request = request("virt");
            change(&mut request);
            let error = Machine::resolve(&request, &host()).expect_err("is refused");
            (error.exit_code(), error.to_string(), error.next_step())
        };
        for (change, code, names) in [
            ((|request| request.machine = Some("pc".into())) as fn(&mut MachineRequest), exit::MISUSED, "imx8mp-evk"),
            (|request| request.cores = Some(0), exit::MISUSED, "1 to 512"),
            (|request| request.cores = Some(10_000), exit::MISUSED, "10000"),
            (|request| request.accelerator = Accelerator::Kvm, exit::UNMEASURED, "x86_64"),
            (|request| request.accelerator = Accelerator::Hvf, exit::UNMEASURED, "x86_64"),
            (
                |request| (request.machine, request.accelerator) = (Some("virt-el2".into()), Accelerator::Kvm),
                exit::MISUSED,
                "virt-el2",
            ),
            (
                |request| (request.deterministic, request.accelerator) = (true, Accelerator::Kvm),
                exit::MISUSED,
                "--deterministic",
            ),
            (
                |request| (request.machine, request.cpu) = (Some("imx8mp-evk".into()), Some("max".into())),
                exit::MISUSED,
                "--cpu max",
            ),
            (
                |request| (request.machine, request.cores) = (Some("xlnx-versal-virt".into()), Some(3)),
                exit::MISUSED,
                "1 to 2",
            ),
        ] {
            let (got, message, next_step) = with(change);
            assert_eq!(got, code, "{message}");
            assert!(message.contains(names), "expected {names:?} in {message:?}");
            assert!(!next_step.is_empty());
        }
    }

    #[test]
    fn a_hypervisor_is_taken_where_the_host_has_one() {
        let host = HostAbilities { architecture: "aarch64".into(), system: "linux".into(), kvm: Ok(()) };
        let request = MachineRequest { accelerator: Accelerator::Kvm, ..request("virt") };
        let machine = Machine::resolve(&request, &host).expect("can be had");
        assert!(arguments(&machine).contains("-cpu host -accel kvm"));
        assert_eq!(machine.verdict_scope(), "virtualized");
        let closed = HostAbilities { kvm: Err("permission denied".into()), ..host };
        let error = Machine::resolve(&request, &closed).expect_err("is refused");
        assert!(error.to_string().contains("/dev/kvm can't be opened: permission denied"));
    }

    #[test]
    fn an_old_qemu_is_refused_for_the_machine_that_it_lacks() {
        let machine = Machine::resolve(&request("imx8mp-evk"), &host()).expect("can be had");
        assert!(machine.check_version((10, 0)).is_ok());
        let error = machine.check_version((7, 2)).expect_err("is refused");
        assert_eq!(error.to_string(), "machine `imx8mp-evk` needs QEMU 10.0 or newer, 7.2 is installed");
        assert_eq!(error.exit_code(), exit::UNMEASURED);
    }

    #[test]
    fn memory_holds_the_region_above_the_initrd() {
        let request = MachineRequest { cores: Some(512), ..request("virt") };
        let machine = Machine::resolve(&request, &host()).expect("can be had");
        let load = Load { region: 300 << 20, ..LOAD };
        let bytes = machine.memory_bytes(load);
        assert!(bytes >= (128 << 20) + load.region + 512 * 512 * 2 * 24 + 512 * (64 << 10));
        assert_eq!(bytes % (64 << 20), 0);
    }
}
