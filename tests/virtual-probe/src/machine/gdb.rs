//! QEMU's gdbstub: the remote serial protocol, as far as it is needed to stop cores and to look into them.
//!
//! The stub stops the whole machine before it answers anything, and lets any set of cores go on.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Registers;

/// Longest time that the stub may take for an answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of memory in one packet; QEMU 7.2 to 10.0 take packets of 4096 characters.
const PIECE_BYTES: usize = 1920;

/// Signal number of a machine that was shut down (SIGQUIT).
const SHUT_DOWN: u8 = 3;

/// A connection to the stub.
#[derive(Debug)]
pub(super) struct Gdb {
    stream: UnixStream,
    received: Vec<u8>,
    taken: usize,
    runs: bool,
    shut_down: bool,
    /// The core that `g`, `P`, `m` and `M` are about.
    current: Option<usize>,
}

impl Gdb {
    /// Connects to a machine that has not begun to run.
    pub(super) fn connect(path: &Path) -> io::Result<Gdb> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE))?;
        let mut gdb = Gdb { stream, received: Vec::new(), taken: 0, runs: false, shut_down: false, current: None };
        // Whatever the stub supports beyond what is used here is not asked for.
        gdb.request("qSupported:vContSupported+")?;
        Ok(gdb)
    }

    /// Whether any core may be executing.
    pub(super) fn runs(&self) -> bool {
        self.runs
    }

    /// Stops the whole machine.
    pub(super) fn stop(&mut self) -> io::Result<()> {
        if self.runs {
            self.stream.write_all(&[3])?;
            self.wait_for_stop(ANSWER_DEADLINE)?;
        }
        Ok(())
    }

    /// Lets these cores go on, the others stand still.
    pub(super) fn go(&mut self, cores: &[usize], all: bool) -> io::Result<()> {
        if cores.is_empty() || self.shut_down {
            return Ok(());
        }
        if all {
            self.send("vCont;c")?;
        } else {
            let each: String = cores.iter().map(|core| format!(";c:{:x}", core + 1)).collect();
            self.send(&format!("vCont{each}"))?;
        }
        self.runs = true;
        Ok(())
    }

    /// One instruction of one core; whether it was executed within `patience`.
    pub(super) fn step(&mut self, core: usize, patience: Duration) -> io::Result<bool> {
        if self.shut_down {
            return Ok(false);
        }
        self.send(&format!("vCont;s:{:x}", core + 1))?;
        self.runs = true;
        match self.wait_for_stop(patience) {
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                self.stop()?;
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// All general registers of a core.
    pub(super) fn registers(&mut self, core: usize) -> io::Result<Registers> {
        self.select(core)?;
        let answer = self.request("g")?;
        let bytes = unhex(&answer).filter(|bytes| bytes.len() >= 33 * 8 + 4).ok_or_else(|| strange("g", &answer))?;
        let word = |index: usize| u64::from_le_bytes(std::array::from_fn(|byte| bytes[index * 8 + byte]));
        Ok(Registers {
            x: std::array::from_fn(word),
            sp: word(31),
            pc: word(32),
            pstate: u32::from_le_bytes(std::array::from_fn(|byte| bytes[33 * 8 + byte])),
        })
    }

    /// Changes a core's registers from `old` to `new`.
    pub(super) fn set_registers(&mut self, core: usize, old: &Registers, new: &Registers) -> io::Result<()> {
        if old == new {
            return Ok(());
        }
        self.select(core)?;
        let words = |registers: &Registers| {
            let mut words = registers.x.to_vec();
            words.extend([registers.sp, registers.pc]);
            words
        };
        for (index, (old, new)) in words(old).into_iter().zip(words(new)).enumerate() {
            if old != new {
                self.command(&format!("P{index:x}={}", hex(&new.to_le_bytes())))?;
            }
        }
        if old.pstate != new.pstate {
            self.command(&format!("P21={}", hex(&new.pstate.to_le_bytes())))?;
        }
        Ok(())
    }

    /// Reads memory as a core sees it; `false`: it sees none there.
    pub(super) fn read(&mut self, core: usize, address: u64, bytes: &mut [u8]) -> io::Result<bool> {
        self.select(core)?;
        for (piece, address) in bytes.chunks_mut(PIECE_BYTES).zip((address..).step_by(PIECE_BYTES)) {
            let answer = self.request(&format!("m{address:x},{:x}", piece.len()))?;
            match unhex(&answer).filter(|data| data.len() == piece.len()) {
                Some(data) => piece.copy_from_slice(&data),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Writes memory as a core sees it; `false`: it sees none there.
    pub(super) fn write(&mut self, core: usize, address: u64, bytes: &[u8]) -> io::Result<bool> {
        self.select(core)?;
        for (piece, address) in bytes.chunks(PIECE_BYTES).zip((address..).step_by(PIECE_BYTES)) {
            let answer = self.request(&format!("M{address:x},{:x}:{}", piece.len(), hex(piece)))?;
            if answer != b"OK" {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The physical address that a core's MMU makes of a virtual one.
    pub(super) fn translate(&mut self, core: usize, address: u64) -> io::Result<Option<u64>> {
        self.monitor(&format!("cpu {core}"))?;
        let answer = self.monitor(&format!("gva2gpa {address:#x}"))?;
        Ok(answer.trim().strip_prefix("gpa: ").and_then(crate::knobs::number))
    }

    /// A command of QEMU's own monitor.
    fn monitor(&mut self, command: &str) -> io::Result<String> {
        self.send(&format!("qRcmd,{}", hex(command.as_bytes())))?;
        let deadline = Instant::now() + ANSWER_DEADLINE;
        let mut text = Vec::new();
        loop {
            let packet = self.receive(deadline)?;
            match packet.strip_prefix(b"O").filter(|_| packet != b"OK") {
                Some(output) => text.extend(unhex(output).unwrap_or_default()),
                None => return Ok(String::from_utf8_lossy(&text).into_owned()),
            }
        }
    }

    fn select(&mut self, core: usize) -> io::Result<()> {
        if self.current != Some(core) {
            self.command(&format!("Hg{:x}", core + 1))?;
            self.current = Some(core);
        }
        Ok(())
    }

    fn command(&mut self, packet: &str) -> io::Result<()> {
        let answer = self.request(packet)?;
        if answer == b"OK" { Ok(()) } else { Err(strange(packet, &answer)) }
    }

    fn request(&mut self, packet: &str) -> io::Result<Vec<u8>> {
        debug_assert!(!self.runs, "the stub would stop the machine at {packet}");
        self.send(packet)?;
        self.receive(Instant::now() + ANSWER_DEADLINE)
    }

    fn wait_for_stop(&mut self, patience: Duration) -> io::Result<()> {
        let deadline = Instant::now() + patience;
        loop {
            let packet = self.receive(deadline)?;
            if let [b'T' | b'S', digits @ ..] = &packet[..] {
                let signal = digits.get(..2).and_then(unhex).and_then(|bytes| bytes.first().copied());
                self.shut_down |= signal == Some(SHUT_DOWN);
                self.runs = false;
                // A stop selects the core that caused it.
                self.current = None;
                return Ok(());
            }
            if let [b'W' | b'X', ..] = &packet[..] {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "QEMU ended"));
            }
        }
    }

    fn send(&mut self, packet: &str) -> io::Result<()> {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.stream.write_all(format!("${packet}#{sum:02x}").as_bytes())
    }

    /// The next packet.
    fn receive(&mut self, deadline: Instant) -> io::Result<Vec<u8>> {
        loop {
            if let Some(packet) = self.take_packet() {
                self.stream.write_all(b"+")?;
                return Ok(packet);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "QEMU ended")),
                Ok(count) => self.received.extend(&bytes[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if Instant::now() >= deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "QEMU's gdbstub does not answer"));
            }
        }
    }

    fn take_packet(&mut self) -> Option<Vec<u8>> {
        let bytes = &self.received[self.taken..];
        let start = bytes.iter().position(|byte| *byte == b'$')? + 1;
        let length = bytes[start..].iter().position(|byte| *byte == b'#')?;
        if bytes.len() < start + length + 3 {
            return None;
        }
        let packet = expand(&bytes[start..start + length]);
        self.taken += start + length + 3;
        if self.taken == self.received.len() {
            self.received.clear();
            self.taken = 0;
        }
        Some(packet)
    }
}

/// Undoes run-length encoding and escapes.
fn expand(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'*' => {
                let count = rest.next().map_or(0, |count| count.saturating_sub(29));
                let last = plain.last().copied().unwrap_or(b'0');
                plain.extend(std::iter::repeat_n(last, count.into()));
            }
            b'}' => plain.extend(rest.next().map(|byte| byte ^ 0x20)),
            byte => plain.push(*byte),
        }
    }
    plain
}

fn strange(packet: &str, answer: &[u8]) -> io::Error {
    let packet: String = packet.chars().take(40).collect();
    io::Error::other(format!("QEMU's gdbstub answers {packet:?} with {:?}", String::from_utf8_lossy(answer)))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    if !text.len().is_multiple_of(2) {
        return None;
    }
    text.chunks_exact(2).map(|pair| Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_expanded() {
        assert_eq!(expand(b"0* "), b"0000");
        assert_eq!(expand(b"a}\x03b"), b"a#b");
        assert_eq!(expand(b"*"), b"");
        assert_eq!(unhex(b"0aFf"), Some(vec![10, 255]));
        assert_eq!(unhex(b"0"), None);
        assert_eq!(unhex(b"E."), None);
    }
}
