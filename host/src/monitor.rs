//! QEMU's monitor: where the cores of an emulated target stand, and what their redistributors hold.
//!
//! The protocol is QMP, lines of JSON over a Unix socket in the run's scratch folder; registers and memory come from the
//! monitor's own commands, through `human-monitor-command`. Every answer has a deadline. Nothing is asked while a run goes
//! well: the host looks once, when a run is cut short, before it ends QEMU; `inspect --live` has a socket of its own.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use trace_ring::layout::CoreEntry;

/// The longest path of a Unix socket: `sun_path` has 108 bytes, the last of them zero (unix(7)).
pub const MOST_PATH: usize = 107;

/// How long QEMU may take for one answer: it gives most in a millisecond, and none while its global lock is held.
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes of an answer, at most: the registers of 512 cores take two million.
const MOST_ANSWER: usize = 32 << 20;

/// Frames of a stack that are followed.
const MOST_FRAMES: usize = 16;

/// Where the SGI registers begin in a redistributor (GIC spec IHI 0069, 12.10): SGI_base, 64 KiB above RD_base.
const SGI_FRAME: u64 = 0x1_0000;
/// GICR_ISENABLER0, GICR_ISPENDR0 and GICR_ISACTIVER0, from SGI_base: their low bits are the SGIs.
const REGISTERS: [u64; 3] = [0x100, 0x200, 0x300];

/// Why QEMU can't be asked.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// Nobody listens there.
    #[error("QEMU's monitor at {path} can't be reached: {source}", path = .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not answer in time.
    #[error("QEMU's monitor does not answer `{asked}` within {} ms", patience.as_millis())]
    Silent {
        /// What it was asked.
        asked: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// The connection broke.
    #[error("QEMU's monitor went away: {0}")]
    Gone(io::Error),
    /// It refuses.
    #[error("QEMU's monitor refuses `{asked}`: {why}")]
    Refused {
        /// What it was asked.
        asked: String,
        /// What it says.
        why: String,
    },
}

/// Where a core stands, as its emulator or a probe sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorePicture {
    /// The core.
    pub core: u16,
    /// Program counter.
    pub pc: u64,
    /// PSTATE, in the layout of SPSR_ELx.
    pub pstate: u64,
    /// Stack pointer.
    pub sp: u64,
    /// x29.
    pub fp: u64,
    /// x30.
    pub lr: u64,
    /// Its redistributor's view of the SGIs, where that can be read.
    #[serde(default)]
    pub gicr: Option<Redistributor>,
    /// Return addresses along the chain of frame records, the innermost first.
    #[serde(default)]
    pub frames: Vec<u64>,
}

/// GICR_ISENABLER0, GICR_ISPENDR0 and GICR_ISACTIVER0: a bit for each SGI (15..0) and PPI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redistributor {
    /// Enabled.
    pub enabled: u32,
    /// Pending.
    pub pending: u32,
    /// Active.
    pub active: u32,
}

impl Redistributor {
    /// Reads it word by word, by physical address.
    pub fn read<E>(gicr_pa: u64, mut word: impl FnMut(u64) -> Result<u32, E>) -> Result<Redistributor, E> {
        let sgis = gicr_pa.wrapping_add(SGI_FRAME);
        let [enabled, pending, active] = REGISTERS.map(|offset| word(sgis.wrapping_add(offset)));
        Ok(Redistributor { enabled: enabled?, pending: pending?, active: active? })
    }
}

/// A connection to QEMU's monitor.
#[derive(Debug)]
pub struct Monitor {
    stream: UnixStream,
    /// How long an answer may take.
    patience: Duration,
    /// What has come and was not taken yet.
    unread: Vec<u8>,
    /// Number of the newest command.
    number: u64,
}

impl Monitor {
    /// Connects and negotiates.
    pub fn connect(path: &Path) -> Result<Monitor, MonitorError> {
        Monitor::connect_within(path, PATIENCE)
    }

    /// Connects and negotiates, and gives no answer more time than `patience`.
    pub fn connect_within(path: &Path, patience: Duration) -> Result<Monitor, MonitorError> {
        let failed = |source| MonitorError::Connect { path: path.into(), source };
        // A connect waits where two others are before it, and std gives it no deadline: the thread ends with QEMU.
        let (sender, receiver) = mpsc::channel();
        let target = path.to_path_buf();
        std::thread::spawn(move || sender.send(UnixStream::connect(target)));
        let busy = || io::Error::new(io::ErrorKind::TimedOut, "it serves somebody else");
        let stream = receiver.recv_timeout(patience).unwrap_or_else(|_| Err(busy())).map_err(failed)?;
        stream.set_write_timeout(Some(patience)).map_err(failed)?;
        let mut monitor = Monitor { stream, patience, unread: Vec::new(), number: 0 };
        let deadline = Instant::now() + patience;
        let greeting = monitor.line("its greeting", deadline).map_err(|error| match error {
            // QEMU greets one at a time; the next in turn is connected, and hears nothing.
            MonitorError::Silent { .. } => failed(busy()),
            other => other,
        })?;
        if greeting.get("QMP").is_none() {
            return Err(failed(io::Error::other("what answers there is not QEMU")));
        }
        monitor.execute("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// Executes a command and gives what it returns.
    pub fn execute(&mut self, command: &str, arguments: Value) -> Result<Value, MonitorError> {
        self.number += 1;
        let id = self.number;
        let mut text = json!({ "execute": command, "arguments": arguments, "id": id }).to_string();
        text.push('\n');
        let deadline = Instant::now() + self.patience;
        self.stream.write_all(text.as_bytes()).map_err(|error| self.broken(command, error))?;
        loop {
            let mut answer = self.line(command, deadline)?;
            // Events stand between answers, and an answer that came too late belongs to a command that was given up.
            if answer.get("id").and_then(Value::as_u64) != Some(id) {
                continue;
            }
            return match answer.get_mut("return") {
                Some(value) => Ok(value.take()),
                None => {
                    let why = answer["error"]["desc"].as_str().unwrap_or("it does not say why").to_string();
                    Err(MonitorError::Refused { asked: command.into(), why })
                }
            };
        }
    }

    /// Executes a command for people, as `core` sees it where it is given, and gives its text.
    pub fn human(&mut self, command: &str, core: Option<u16>) -> Result<String, MonitorError> {
        let mut arguments = json!({ "command-line": command });
        if let Some(core) = core {
            arguments["cpu-index"] = core.into();
        }
        let text = self.execute("human-monitor-command", arguments)?;
        Ok(text.as_str().unwrap_or_default().to_string())
    }

    /// How many cores there are.
    pub fn cores(&mut self) -> Result<usize, MonitorError> {
        Ok(self.execute("query-cpus-fast", json!({}))?.as_array().map_or(0, Vec::len))
    }

    /// The host's threads that execute the cores, by core.
    pub fn threads(&mut self) -> Result<Vec<(u16, u32)>, MonitorError> {
        let answer = self.execute("query-cpus-fast", json!({}))?;
        let number = |cpu: &Value, name: &str| cpu.get(name).and_then(Value::as_u64);
        let thread = |cpu: &Value| {
            let (core, thread) = (number(cpu, "cpu-index")?, number(cpu, "thread-id")?);
            Some((u16::try_from(core).ok()?, u32::try_from(thread).ok()?))
        };
        Ok(answer.as_array().into_iter().flatten().filter_map(thread).collect())
    }

    /// Stops all cores and their clock.
    pub fn stop(&mut self) -> Result<(), MonitorError> {
        self.execute("stop", json!({})).map(drop)
    }

    /// A word of physical memory, or of a device.
    pub fn word(&mut self, address: u64) -> Result<u32, MonitorError> {
        let command = format!("xp /1wx {address:#x}");
        let text = self.human(&command, None)?;
        let refused = || MonitorError::Refused { asked: command.clone(), why: text.trim().to_string() };
        words(&text).first().and_then(|word| u32::try_from(*word).ok()).ok_or_else(refused)
    }

    /// Two 64-bit words of memory, at an address as a core sees it; `None`: nothing is mapped there.
    pub fn pair(&mut self, core: u16, address: u64) -> Result<Option<[u64; 2]>, MonitorError> {
        let text = self.human(&format!("x /2gx {address:#x}"), Some(core))?;
        Ok(words(&text).try_into().ok())
    }

    /// The next line: an answer or an event.
    fn line(&mut self, asked: &str, deadline: Instant) -> Result<Value, MonitorError> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|error| MonitorError::Gone(io::Error::other(error)));
            }
            if self.unread.len() > MOST_ANSWER {
                return Err(MonitorError::Gone(io::Error::other("its answer does not end")));
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(MonitorError::Silent { asked: asked.into(), patience: self.patience });
            }
            self.stream.set_read_timeout(Some(left)).map_err(MonitorError::Gone)?;
            let mut piece = [0; 64 << 10];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(MonitorError::Gone(io::ErrorKind::UnexpectedEof.into())),
                Ok(count) => self.unread.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(asked, error)),
            }
        }
    }

    fn broken(&self, asked: &str, error: io::Error) -> MonitorError {
        match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                MonitorError::Silent { asked: asked.into(), patience: self.patience }
            }
            _ => MonitorError::Gone(error),
        }
    }
}

/// Looks where all cores stand; `entries`: the region's, for their redistributors. What takes longer than `budget` in all is
/// left out: redistributors first, then frames. The registers of a core that runs are of about now.
pub fn picture(
    monitor: &mut Monitor,
    entries: &[CoreEntry],
    budget: Duration,
) -> Result<Vec<CorePicture>, MonitorError> {
    let until = Instant::now() + budget;
    let mut pictures = registers(&monitor.human("info registers -a", None)?);
    for picture in &mut pictures {
        let gicr_pa = entries.get(usize::from(picture.core)).map_or(0, |entry| entry.gicr_pa);
        if gicr_pa != 0 && Instant::now() < until {
            picture.gicr = match Redistributor::read(gicr_pa, |address| monitor.word(address)) {
                Ok(gicr) => Some(gicr),
                Err(MonitorError::Refused { .. }) => None,
                Err(error) => return Err(error),
            };
        }
    }
    for picture in &mut pictures {
        if Instant::now() < until {
            let core = picture.core;
            picture.frames = frames(picture.fp, |address| match monitor.pair(core, address) {
                Err(MonitorError::Refused { .. }) => Ok(None),
                other => other,
            })?;
        }
    }
    Ok(pictures)
}

/// Return addresses along a chain of frame records: at x29 lie the caller's x29 and the address to return to (AAPCS64, 6.4.6).
/// Callers lie higher on the stack; what says otherwise ends the chain.
pub fn frames<E>(mut fp: u64, mut pair: impl FnMut(u64) -> Result<Option<[u64; 2]>, E>) -> Result<Vec<u64>, E> {
    let mut found = Vec::new();
    while fp != 0 && fp.is_multiple_of(8) && found.len() < MOST_FRAMES {
        let Some([next, back]) = pair(fp)? else { break };
        if back == 0 {
            break;
        }
        found.push(back);
        if next <= fp {
            break;
        }
        fp = next;
    }
    Ok(found)
}

/// The numbers behind the address of each line: `0000000008000100: 0x00000001 0x00000002`.
fn words(text: &str) -> Vec<u64> {
    let numbers =
        text.lines().filter_map(|line| line.split_once(':')).flat_map(|(_, numbers)| numbers.split_whitespace());
    numbers.map_while(|number| u64::from_str_radix(number.strip_prefix("0x")?, 16).ok()).collect()
}

/// What `info registers -a` says of the cores that are in AArch64 state.
fn registers(text: &str) -> Vec<CorePicture> {
    let mut pictures = Vec::new();
    for block in text.split("CPU#").skip(1) {
        let number = |name: &str| -> Option<u64> {
            let value = block.split_whitespace().find_map(|field| field.strip_prefix(name)?.strip_prefix('='))?;
            u64::from_str_radix(value, 16).ok()
        };
        let core = block.split_whitespace().next().and_then(|core| core.parse().ok());
        if let (Some(core), Some(pc), Some(pstate)) = (core, number("PC"), number("PSTATE")) {
            let [sp, fp, lr] = ["SP", "X29", "X30"].map(|name| number(name).unwrap_or(0));
            pictures.push(CorePicture { core, pc, pstate, sp, fp, lr, gicr: None, frames: Vec::new() });
        }
    }
    pictures
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// As QEMU 10.0 prints them: one core that runs, one in AArch32 state, one that is off.
    const REGISTERS: &str = "\r\nCPU#0\r\n PC=ffffffff8001900c X00=0000000000000000 X01=ffffffff800a48c0\r\n\
        X26=ffffffff800310b0 X27=0000000000000001 X28=0000000000000001\r\n\
        X29=ffffffff800a47c0 X30=ffffffff8001f7a4  SP=ffffffff800a4790\r\n\
        PSTATE=600003c4 -ZC- EL1t  SVCR=00000000 --  BTYPE=0    FPU disabled\r\n\
        \r\nCPU#1\r\nR00=00000000 R01=00000000\r\nPSR=400001d3 -Z-- A S svc32\r\n\
        \r\nCPU#2\r\n PC=0000000000000000 X00=0000000000000000\r\nX29=0000000000000000 X30=0000000000000000  SP=0000000000000000\r\n\
        PSTATE=400003c5 -Z-- EL1h     FPU disabled\r\n";

    #[test]
    fn registers_are_read_from_what_qemu_prints() {
        let pictures = registers(REGISTERS);
        let [first, off] = &pictures[..] else { panic!("{pictures:?}") };
        assert_eq!((first.core, first.pc, first.pstate), (0, 0xFFFF_FFFF_8001_900C, 0x6000_03C4));
        assert_eq!(
            (first.sp, first.fp, first.lr),
            (0xFFFF_FFFF_800A_4790, 0xFFFF_FFFF_800A_47C0, 0xFFFF_FFFF_8001_F7A4)
        );
        assert_eq!((off.core, off.pc), (2, 0));
        assert!(registers("").is_empty());
    }

    #[test]
    fn words_are_those_behind_the_address() {
        assert_eq!(words("00000000080b0100: 0x0000ffff 0x1\r\n00000000080b0108: 0x2\r\n"), [0xFFFF, 1, 2]);
        assert_eq!(words("ffffffff80001000: Cannot access memory\r\n"), [0u64; 0]);
    }

    #[test]
    fn frames_end_where_the_chain_does() {
        let stack = |fp: u64| -> Result<Option<[u64; 2]>, ()> {
            Ok(match fp {
                0x1000 => Some([0x1040, 0xA0]),
                0x1040 => Some([0x1080, 0xB0]),
                0x1080 => Some([0, 0xC0]),
                // A chain that bites its tail, and one that goes on for ever.
                0x2000 => Some([0x2000, 0xD0]),
                at @ 0x1_0000.. => Some([at + 16, 0xE0]),
                _ => None,
            })
        };
        assert_eq!(frames(0x1000, stack), Ok(vec![0xA0, 0xB0, 0xC0]));
        assert_eq!(frames(0x2000, stack), Ok(vec![0xD0]));
        assert_eq!(frames(0x1_0000, stack).map(|frames| frames.len()), Ok(MOST_FRAMES));
        assert_eq!(frames(0x3000, stack), Ok(vec![]));
        assert_eq!(frames(0x1004, stack).map(|frames| frames.len()), Ok(0));
        assert_eq!(frames(0x1001, stack), Ok(vec![]));
    }

    /// Somebody who answers each line with the next of `answers`, then holds the connection for a while.
    fn server(answers: &'static [&'static str]) -> (tempfile::TempDir, PathBuf, std::thread::JoinHandle<Vec<String>>) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).expect("listens");
        let serve = std::thread::spawn(move || {
            let (stream, _) = listener.accept().expect("somebody connects");
            let mut asked = Vec::new();
            let mut lines = BufReader::new(stream.try_clone().expect("a twin")).lines();
            for (answer, index) in answers.iter().zip(0..) {
                if index > 0 {
                    match lines.next() {
                        Some(Ok(line)) => asked.push(line),
                        _ => return asked,
                    }
                }
                if (&stream).write_all(answer.as_bytes()).is_err() {
                    return asked;
                }
            }
            // Until the other side has enough.
            asked.extend(lines.map_while(Result::ok));
            asked
        });
        (folder, path, serve)
    }

    const GREETING: &str = "{\"QMP\": {\"version\": {}, \"capabilities\": []}}\n";

    #[test]
    fn answers_are_told_from_events_and_from_late_answers() {
        let (_folder, path, serve) = server(&[
            GREETING,
            "{\"return\": {}, \"id\": 1}\n",
            "{\"event\": \"STOP\"}\n{\"return\": 7, \"id\": 1}\n{\"return\": \"080b0100: 0x0000002a\\r\\n\", \"id\": 2}\n",
            "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no such core\"}, \"id\": 3}\n",
        ]);
        let mut monitor = Monitor::connect(&path).expect("connects");
        assert_eq!(monitor.word(0x80B_0100).expect("is read"), 42);
        let error = monitor.pair(9, 0x1000).expect_err("is refused");
        assert!(error.to_string().contains("no such core"), "{error}");
        drop(monitor);
        let asked = serve.join().expect("ends");
        assert!(asked[0].contains("qmp_capabilities"), "{asked:?}");
        assert!(asked[1].contains("xp /1wx 0x80b0100") && !asked[1].contains("cpu-index"), "{asked:?}");
        assert!(asked[2].contains("x /2gx 0x1000") && asked[2].contains("\"cpu-index\":9"), "{asked:?}");
    }

    #[test]
    fn threads_are_named_by_the_core_that_they_execute() {
        let (_folder, path, _serve) = server(&[
            GREETING,
            "{\"return\": {}, \"id\": 1}\n",
            "{\"return\": [{\"thread-id\": 4711, \"qom-path\": \"/machine/unattached/device[0]\", \"cpu-index\": 0, \
             \"target\": \"aarch64\"}, {\"cpu-index\": 1}, {\"thread-id\": 4713, \"cpu-index\": 2}], \"id\": 2}\n",
        ]);
        let mut monitor = Monitor::connect(&path).expect("connects");
        assert_eq!(monitor.threads().expect("answers"), [(0, 4711), (2, 4713)]);
    }

    #[test]
    fn who_says_nothing_is_given_up() {
        let (_folder, path, _serve) = server(&[GREETING, "{\"return\": {}, \"id\": 1}\n", "{\"event\": \"STOP\"}\n"]);
        let mut monitor = Monitor::connect_within(&path, Duration::from_millis(100)).expect("connects");
        let error = monitor.cores().expect_err("no answer comes");
        assert!(matches!(&error, MonitorError::Silent { asked, .. } if asked == "query-cpus-fast"), "{error}");
        let (_folder, path, _serve) = server(&[]);
        let error = Monitor::connect_within(&path, Duration::from_millis(100)).expect_err("no greeting comes");
        assert!(error.to_string().contains("serves somebody else"), "{error}");
        let error = Monitor::connect(Path::new("/nonexistent/qmp")).expect_err("nobody listens");
        assert!(error.to_string().contains("/nonexistent/qmp"), "{error}");
    }
}
