//! What the tests share: probes opened by selector or in process, and a debugger made of raw register accesses.
#![allow(dead_code, reason = "each test file uses its part")]

use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use probe_rs::architecture::arm::dp::{DpAddress, DpRegisterAddress};
use probe_rs::architecture::arm::memory::ArmMemoryInterface;
use probe_rs::architecture::arm::sequences::DefaultArmSequence;
use probe_rs::architecture::arm::{ArmDebugInterface, ArmError, FullyQualifiedApAddress};
use probe_rs::probe::list::Lister;
use probe_rs::probe::{DebugProbeSelector, Probe};
use virtual_probe::front::{VirtualProbe, share};
use virtual_probe::knobs::Knob;
use virtual_probe::layout::SocLayout;
use virtual_probe::machine::{FlatMachine, Machine, QemuOptions};
use virtual_probe::port::Port;
use virtual_probe::serve::{Listen, Options, Server};

/// Where RAM begins.
pub const RAM: u64 = 0x4000_0000;

/// Runs `action`, and fails when it takes longer: probe-rs itself waits without a deadline.
pub fn within<T: Send + 'static>(seconds: u64, action: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, when_done) = mpsc::channel();
    let worker = std::thread::spawn(move || {
        let _ = done.send(action());
    });
    match when_done.recv_timeout(Duration::from_secs(seconds)) {
        Ok(value) => value,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("no end after {seconds} s"),
        Err(mpsc::RecvTimeoutError::Disconnected) => match worker.join() {
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(()) => unreachable!("it ended without a value"),
        },
    }
}

/// Polls until `check` holds.
pub fn wait_for(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether QEMU is there. Without it tests are skipped, but not in continuous integration.
pub fn qemu() -> bool {
    match host::qemu::Version::ask() {
        Ok(_) => true,
        Err(error) => {
            assert!(std::env::var_os("CI").is_none(), "{error}");
            println!("skipped: {error}");
            false
        }
    }
}

/// A server over QEMU with the boot core in its loop, and the folder of its socket.
pub fn serve(cores: usize, knobs: &[&str]) -> (Server, tempfile::TempDir) {
    serve_qemu(QemuOptions { cores, ..QemuOptions::default() }, knobs)
}

/// A server over a machine in QEMU, with less memory.
pub fn serve_qemu(machine: QemuOptions, knobs: &[&str]) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let machine = QemuOptions { memory_bytes: 256 << 20, ..machine };
    (Server::start(options(&folder, knobs), machine).expect("starts"), folder)
}

/// A server over an array that holds `memory`.
pub fn serve_flat(memory: Vec<u8>, knobs: &[&str]) -> (Server, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let server = Server::start_over(options(&folder, knobs), move || {
        let mut machine = FlatMachine::new(RAM, 8 << 20, 4);
        machine.write(RAM, &memory).expect("fits");
        Ok((SocLayout::qemu_virt(4), Box::new(machine) as Box<dyn Machine>))
    });
    (server.expect("starts"), folder)
}

fn options(folder: &tempfile::TempDir, knobs: &[&str]) -> Options {
    Options {
        listen: Listen::Unix(folder.path().join("probe")),
        knobs: parse(knobs),
        stats: Some(folder.path().join("stats.json")),
    }
}

/// Knobs of their names.
pub fn parse(knobs: &[&str]) -> Vec<Knob> {
    knobs.iter().map(|knob| knob.parse().expect("is a knob")).collect()
}

/// A port over an array of 8 MiB with 4 cores, in this process.
pub fn flat(knobs: &[&str]) -> Arc<Mutex<Port>> {
    let machine = FlatMachine::new(RAM, 8 << 20, 4);
    share(Port::new(SocLayout::qemu_virt(4), Box::new(machine), parse(knobs).into_iter().collect()))
}

/// The debug port of [`flat`].
pub fn attach_flat(port: &Arc<Mutex<Port>>) -> Box<dyn ArmDebugInterface> {
    attach(VirtualProbe::new(Arc::clone(port)).into_probe())
}

/// Some bytes that do not repeat soon.
pub fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes as u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8).collect()
}

/// The probe of a selector.
pub fn open(selector: &str) -> Probe {
    let selector: DebugProbeSelector = selector.parse().expect("is a selector");
    Lister::new().open(selector).expect("is opened")
}

/// The debug port of a probe, without a session.
pub fn attach(mut probe: Probe) -> Box<dyn ArmDebugInterface> {
    probe.attach_to_unspecified().expect("is attached");
    let opened = probe.try_into_arm_debug_interface(DefaultArmSequence::create());
    let mut arm = opened.map_err(|(_, error)| error).expect("has a debug port");
    arm.select_debug_port(DpAddress::Default).expect("is powered");
    arm
}

/// Access port `index`.
pub fn ap(index: u8) -> FullyQualifiedApAddress {
    FullyQualifiedApAddress::v1_with_default_dp(index)
}

/// Clears sticky errors.
pub fn abort(arm: &mut dyn ArmDebugInterface) {
    arm.write_raw_dp_register(DpAddress::Default, DpRegisterAddress { address: 0, bank: None }, 0x1E).expect("ABORT");
}

/// External debug registers and CTIs of a machine, used raw.
pub struct Cores<'a> {
    pub memory: Box<dyn ArmMemoryInterface + 'a>,
    layout: SocLayout,
}

impl<'a> Cores<'a> {
    pub fn new(arm: &'a mut dyn ArmDebugInterface, cores: usize) -> Cores<'a> {
        Cores { memory: arm.memory_interface(&ap(1)).expect("AP 1"), layout: SocLayout::qemu_virt(cores) }
    }

    pub fn read(&mut self, core: usize, offset: u64) -> Result<u32, ArmError> {
        self.memory.read_word_32(self.layout.debug_base[core] + offset)
    }

    pub fn debug(&mut self, core: usize, offset: u64) -> u32 {
        self.read(core, offset).expect("is read")
    }

    pub fn set_debug(&mut self, core: usize, offset: u64, value: u32) {
        self.memory.write_word_32(self.layout.debug_base[core] + offset, value).expect("is written");
    }

    pub fn cti(&mut self, core: usize, offset: u64) -> u32 {
        self.memory.read_word_32(self.layout.cti_base[core] + offset).expect("is read")
    }

    pub fn set_cti(&mut self, core: usize, offset: u64, value: u32) {
        self.memory.write_word_32(self.layout.cti_base[core] + offset, value).expect("is written");
    }

    /// Unlocks a core and maps channel 0 to halt, 1 to restart; its gate lets `gate` through.
    pub fn prepare(&mut self, core: usize, gate: u32) {
        self.set_debug(core, 0x300, 0);
        self.set_cti(core, 0xFB0, 0xC5AC_CE55);
        self.set_cti(core, 0x000, 1);
        self.set_cti(core, 0x140, gate);
        self.set_cti(core, 0x0A0, 1);
        self.set_cti(core, 0x0A4, 2);
    }

    pub fn pulse(&mut self, core: usize, channels: u32) {
        self.set_cti(core, 0x01C, channels);
    }

    pub fn halt(&mut self, core: usize) {
        self.pulse(core, 1);
        assert!(self.is_halted(core), "core {core} runs");
    }

    pub fn restart(&mut self, core: usize) {
        self.set_cti(core, 0x010, 1);
        assert_eq!(self.cti(core, 0x134) & 1, 0, "the request is acknowledged");
        self.debug(core, 0x314);
        self.pulse(core, 2);
        assert_ne!(self.debug(core, 0x314) & 1 << 11, 0, "EDPRSR.SDR");
    }

    pub fn is_halted(&mut self, core: usize) -> bool {
        self.debug(core, 0x314) & 1 << 4 != 0
    }

    /// Has a core execute an instruction; whether EDSCR.ERR stayed clear.
    pub fn execute(&mut self, core: usize, instruction: u32) -> bool {
        self.set_debug(core, 0x084, instruction);
        let status = self.debug(core, 0x088);
        assert_ne!(status & 1 << 24, 0, "EDSCR.ITE");
        if status & 1 << 6 != 0 {
            self.set_debug(core, 0x090, 4);
        }
        status & 1 << 6 == 0
    }

    /// Xn.
    pub fn x(&mut self, core: usize, index: u32) -> u64 {
        // MSR DBGDTR_EL0, Xn
        assert!(self.execute(core, 0xD513_0400 | index));
        let high = self.debug(core, 0x080);
        u64::from(high) << 32 | u64::from(self.debug(core, 0x08C))
    }

    pub fn set_x(&mut self, core: usize, index: u32, value: u64) {
        self.set_debug(core, 0x08C, (value >> 32) as u32);
        self.set_debug(core, 0x080, value as u32);
        // MRS Xn, DBGDTR_EL0
        assert!(self.execute(core, 0xD533_0400 | index));
    }

    /// DLR_EL0, by way of X0, which is lost.
    pub fn pc(&mut self, core: usize) -> u64 {
        assert!(self.execute(core, 0xD53B_4520));
        self.x(core, 0)
    }

    pub fn set_pc(&mut self, core: usize, value: u64) {
        self.set_x(core, 0, value);
        assert!(self.execute(core, 0xD51B_4520));
    }
}
