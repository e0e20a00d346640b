//! QEMU's test protocol beside its gdbstub: for what a debugger of hardware needs and the stub does not do.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// Longest time that QEMU may take for an answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// A connection.
#[derive(Debug)]
pub(super) struct Qtest {
    stream: BufReader<UnixStream>,
}

impl Qtest {
    pub(super) fn connect(path: &Path) -> io::Result<Qtest> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER_DEADLINE))?;
        stream.set_write_timeout(Some(ANSWER_DEADLINE))?;
        Ok(Qtest { stream: BufReader::new(stream) })
    }

    /// Writes physical memory as a device would: QEMU translates anew what it had translated there.
    pub(super) fn write(&mut self, address: u64, bytes: &[u8]) -> io::Result<()> {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.command(&format!("write {address:#x} {:#x} 0x{hex}", bytes.len()))
    }

    /// Sets the level of a core's IRQ input. On `virt` the cores are the first devices that have no parent.
    pub(super) fn set_irq(&mut self, core: usize, level: bool) -> io::Result<()> {
        let level = u8::from(level);
        self.command(&format!("set_irq_in /machine/unattached/device[{core}] unnamed-gpio-in 0 {level}"))
    }

    fn command(&mut self, line: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let mut answer = String::new();
        self.stream.read_line(&mut answer)?;
        let verb = line.split(' ').next().unwrap_or_default();
        match answer.trim_end() {
            "OK" => Ok(()),
            "" => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "QEMU ended")),
            other => Err(io::Error::other(format!("QEMU's qtest answers `{verb}` with {other:?}"))),
        }
    }
}
