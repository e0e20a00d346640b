//! `virtual-probe`: starts a machine in QEMU and serves a debug port over it until it is told to end.
//!
//! It prints `ready SELECTOR`, where the selector is what probe-rs opens, and ends on SIGTERM, on SIGINT, or when its
//! standard input ends: a test that dies takes it along.

use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use virtual_probe::knobs::Knob;
use virtual_probe::machine::{Boot, QemuOptions};
use virtual_probe::serve::{Listen, Options, Server};

/// A debug probe that is a program: an Arm debug port over a machine in QEMU, for probe-rs's Glasgow driver
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Where to listen: unix:PATH or tcp:HOST:PORT (port 0: any)
    #[arg(long, value_name = "ADDRESS")]
    listen: Listen,
    /// Cores of the machine
    #[arg(long, default_value_t = 4)]
    cores: usize,
    /// RAM of the machine: a number with M or G
    #[arg(long, default_value = "1G", value_parser = memory)]
    memory: u64,
    /// Cores start at EL2, with PSCI by SMC
    #[arg(long)]
    el2: bool,
    /// What the cores find: spin, kernel:IMAGE[,INITRD] or bios:FILE
    #[arg(long, default_value = "spin", value_parser = boot)]
    boot: Boot,
    /// A folder that the machine sees as a read-only disk
    #[arg(long, value_name = "FOLDER")]
    disk: Option<PathBuf>,
    /// Where the serial line goes: unix:PATH (QEMU listens there) or file:PATH
    #[arg(long, value_name = "PLACE")]
    serial: Option<String>,
    /// Something that is wrong: core-off:N, core-fault:N, fault:START:LEN, no-ld, no-system-ap, no-input-gate, stale,
    /// cut:N, slow:US, hang:N
    #[arg(long = "knob", value_name = "KNOB")]
    knobs: Vec<Knob>,
    /// Where to write what is counted, as JSON
    #[arg(long, value_name = "FILE")]
    stats: Option<PathBuf>,
    /// Further arguments for QEMU
    #[arg(last = true)]
    extra: Vec<String>,
}

fn memory(text: &str) -> Result<u64, String> {
    let bytes = match text.split_at_checked(text.len().saturating_sub(1)) {
        Some((number, "M" | "m")) => number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << 20)),
        Some((number, "G" | "g")) => number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << 30)),
        _ => None,
    };
    bytes.filter(|bytes| (64 << 20..=1 << 40).contains(bytes)).ok_or_else(|| "wants 64M to 1024G".into())
}

fn boot(text: &str) -> Result<Boot, String> {
    match text.split_once(':') {
        None if text == "spin" => Ok(Boot::Spin),
        Some(("kernel", files)) => Ok(match files.split_once(',') {
            Some((image, initrd)) => Boot::Kernel { image: image.into(), initrd: Some(initrd.into()) },
            None => Boot::Kernel { image: files.into(), initrd: None },
        }),
        Some(("bios", file)) => Ok(Boot::Bios(file.into())),
        _ => Err("wants spin, kernel:IMAGE[,INITRD] or bios:FILE".into()),
    }
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("virtual-probe: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let Arguments { listen, cores, memory, el2, boot, disk, serial, knobs, stats, extra } = arguments;
    let stop = Arc::new(AtomicBool::new(false));
    let request = {
        let stop = Arc::clone(&stop);
        move || stop.store(true, Ordering::Relaxed)
    };
    ctrlc::set_handler(request.clone()).context("signals can't be handled")?;
    let machine = QemuOptions { cores, memory_bytes: memory, el2, boot, disk, serial, extra };
    let server = Server::start(Options { listen, knobs, stats }, machine).context("the machine can't be started")?;
    std::thread::spawn(move || {
        let mut bytes = [0; 256];
        loop {
            match io::stdin().read(&mut bytes) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::Interrupted => break,
                _ => {}
            }
        }
        request();
    });
    // Who started it may be gone already.
    let _ = writeln!(io::stdout(), "ready {}", server.selector()).and_then(|()| io::stdout().flush());
    while server.is_serving() && !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
    }
    server.stop().context("the probe ended")
}
