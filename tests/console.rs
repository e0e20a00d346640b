//! What the tests of consoles share: a card with image and plan, a QEMU whose console is a socket, a line that is bad, and
//! what a capture holds.
#![allow(dead_code, reason = "each of the tests that share this uses its part")]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use host::capture::{Batch, Capture, LaneAccount};
use host::child::Guarded;
use system_tests::{Run, command, finish, wait};
use trace_ring::reader::{Region, RegionSource as _};

/// The longest that anything here is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A plan of few messages: what it leaves is small enough for a console.
pub const SMALL: &str = "name = \"small\"\n[[phase]]\nname = \"matrix\"\npattern = \"matrix\"\ncount = 20\n";

/// Messages of [`SMALL`] on four cores.
pub const SMALL_SENT: u64 = 4 * 3 * 20;

/// Writes image, plan and scripts; returns where they lie. `plan`: a job file's text.
pub fn card(folder: &Path, plan: &str, arguments: &[&str]) -> PathBuf {
    std::fs::write(folder.join("job.toml"), plan).expect("a plan");
    let mut all = vec!["image", "--board", "virt", "--plan", "job.toml", "--out", "card", "--force"];
    all.extend_from_slice(arguments);
    let output = wait(command(folder, &all).spawn().expect("the tool starts"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join("card")
}

/// A machine that runs, and the socket of its console.
pub struct Machine {
    pub qemu: Guarded,
    pub socket: PathBuf,
}

impl Machine {
    /// QEMU with four cores and its console on a socket that waits for nobody. `machine`: options of `-M virt`.
    pub fn start(folder: &Path, machine: &str, arguments: &[&str]) -> Machine {
        let socket = folder.join("console");
        let _ = std::fs::remove_file(&socket);
        let chardev = format!("socket,id=console,path={},server=on,wait=off", socket.display());
        let mut command = Command::new("qemu-system-aarch64");
        command
            .args(["-M", &format!("virt,gic-version=3{machine}"), "-cpu", "cortex-a72", "-smp", "4"])
            .args(["-nic", "none", "-display", "none", "-monitor", "none", "-nodefaults"])
            .args(["-chardev", &chardev, "-serial", "chardev:console"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let qemu = Guarded::spawn(&mut command).expect("QEMU starts");
        let machine = Machine { qemu, socket };
        until("QEMU opens its console", || machine.socket.exists());
        machine
    }

    /// Boots a card as QEMU boots a kernel.
    pub fn boot(folder: &Path, card: &Path, bootargs: &str, arguments: &[&str]) -> Machine {
        let path = |name: &str| card.join(name).display().to_string();
        let (image, plan) = (path("Image"), path("plan.bin"));
        let mut all = vec!["-m", "256", "-kernel", &image, "-initrd", &plan, "-append", bootargs];
        all.extend_from_slice(arguments);
        Machine::start(folder, "", &all)
    }

    /// What to tell `ipiscope serial`.
    pub fn device(&self) -> String {
        format!("unix:{}", self.socket.display())
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.socket).expect("QEMU's console is there");
        stream.set_read_timeout(Some(Duration::from_millis(100))).expect("is set");
        stream
    }
}

/// Waits until `holds`, with a deadline.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Reads a console until `words` come; all that came since the last call. Panics with it when they don't.
pub fn read_until(stream: &mut UnixStream, words: &str) -> String {
    let start = Instant::now();
    let mut text = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&text).contains(words) {
        assert!(start.elapsed() < PATIENCE, "no {words:?} in {}", String::from_utf8_lossy(&text));
        match stream.read(&mut buffer) {
            Ok(0) => panic!("the console was closed: {}", String::from_utf8_lossy(&text)),
            Ok(count) => text.extend_from_slice(&buffer[..count]),
            Err(_) => {}
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// Runs `ipiscope serial` to its end and reads its report.
pub fn serial(folder: tempfile::TempDir, arguments: &[&str]) -> Run {
    let start = Instant::now();
    let mut all = vec!["serial", "--json", "report.json", "--out", "run.mcap"];
    all.extend_from_slice(arguments);
    let child = command(folder.path(), &all).spawn().expect("the tool starts");
    finish(folder, wait(child), start)
}

/// The same on a recorded console.
pub fn from_log(log: &[u8], arguments: &[&str]) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("console.log"), log).expect("a log");
    let mut all = vec!["--from-log", "console.log"];
    all.extend_from_slice(arguments);
    serial(folder, &all)
}

/// Numbers from a seed.
pub fn random(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed.wrapping_mul(0x2545_F491_4F6C_DD1D) | 1;
    move |below| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) % below
    }
}

/// Flips one bit in one of a hundred bytes; returns how many.
pub fn flip(bytes: &mut [u8], random: &mut impl FnMut(u64) -> u64) -> u64 {
    let mut flipped = 0;
    for byte in bytes {
        if random(100) == 0 {
            *byte ^= 1 << random(8);
            flipped += 1;
        }
    }
    flipped
}

/// A line that flips one of a hundred bytes in both directions.
pub struct BadLine {
    pub device: String,
    /// Bytes flipped on the way to the host, and to the target.
    pub flipped: [Arc<AtomicU64>; 2],
    over: Arc<AtomicBool>,
}

impl BadLine {
    pub fn open(folder: &Path, machine: &Machine) -> BadLine {
        let path = folder.join("bad-line");
        let listener = UnixListener::bind(&path).expect("a socket");
        let target = machine.connect();
        let over = Arc::new(AtomicBool::new(false));
        let flipped = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let (counts, stop) = (flipped.clone(), over.clone());
        std::thread::spawn(move || {
            let (host, _) = listener.accept().expect("the tool connects");
            host.set_read_timeout(Some(Duration::from_millis(100))).expect("is set");
            let twin = |stream: &UnixStream| stream.try_clone().expect("a handle");
            let ways = [(twin(&target), twin(&host)), (host, target)];
            for (seed, ((mut from, mut to), count)) in ways.into_iter().zip(counts).enumerate() {
                let stop = stop.clone();
                std::thread::spawn(move || {
                    let mut random = random(seed as u64 + 1);
                    let mut buffer = [0; 4096];
                    while !stop.load(Ordering::Relaxed) {
                        let Ok(length) = from.read(&mut buffer) else { continue };
                        count.fetch_add(flip(&mut buffer[..length], &mut random), Ordering::Relaxed);
                        if length == 0 || to.write_all(&buffer[..length]).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        BadLine { device: format!("unix:{}", path.display()), flipped, over }
    }
}

impl Drop for BadLine {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// What a capture holds: its records by lane and number, and the region in front of them.
#[derive(PartialEq, Eq)]
pub struct Content {
    pub records: BTreeMap<(u16, u8, u64), Vec<u8>>,
    pub prefix: Vec<u8>,
    pub lanes: Vec<LaneAccount>,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} records, {} bytes before them, {:?}", self.records.len(), self.prefix.len(), self.lanes)
    }
}

/// Reads a capture back.
pub fn content(path: &Path) -> Content {
    let capture = Capture::open(path).expect("a capture");
    let mut records = BTreeMap::new();
    let damage = capture.lanes(|batch| {
        if let Batch::Records { core, context, first, bytes } = batch {
            for (record, number) in bytes.chunks_exact(32).zip(first..) {
                records.insert((core, context, number), record.to_vec());
            }
        }
    });
    assert_eq!(damage.expect("is read"), capture.damage());
    let mut snapshot = capture.snapshot().expect("a snapshot");
    let region = Region::open(&mut snapshot).expect("a region");
    let mut prefix = vec![0; region.directory.sections.records as usize];
    snapshot.read(0, &mut prefix).expect("is read");
    let lanes = capture.ending().expect("an ending").lanes.clone();
    Content { records, prefix, lanes }
}
