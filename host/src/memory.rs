//! Memory that others took: a raw dump by any debugger or boot loader, or a debugger's GDB server.
//!
//! `FILE@ADDRESS` is a file whose first byte lies at that physical address. `gdb:HOST:PORT` is a server that speaks GDB's
//! remote protocol (OpenOCD, J-Link, TRACE32, QEMU); it is asked for memory and for nothing else. Connecting halts the
//! target with most servers; it goes on when we leave, as it does for GDB's `detach`.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use trace_ring::layout::{LOCATOR_MAGIC, LOCATOR_OFFSET, Locator, MAGIC, REGION_ALIGN};
use trace_ring::reader::RegionSource;
use zerocopy::FromBytes as _;

use crate::adopt::{self, Origin};
use crate::error::{Failure, FileError, exit};
use crate::firmware::LINKED_AT;
use crate::interrupt;
use crate::qemu::RamFile;
use crate::run::Finished;

/// How long a server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Bytes of an answer, at most.
const MOST_ANSWER: usize = 1 << 20;

/// Where memory comes from: `FILE@ADDRESS`, or `gdb:HOST:PORT`, `gdb:unix:PATH`, both with or without `@ADDRESS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Memory {
    /// A file whose first byte lies at `address`.
    Dump {
        /// The file.
        path: PathBuf,
        /// Physical address of its first byte.
        address: u64,
    },
    /// A GDB server.
    Gdb {
        /// `HOST:PORT` or `unix:PATH`.
        server: String,
        /// Where the image or the region lies, as the core that the server shows sees it.
        address: Option<u64>,
    },
}

impl std::str::FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Memory, String> {
        let number = |digits: &str| {
            let digits = digits.replace('_', "");
            let digits = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")).unwrap_or(&digits);
            u64::from_str_radix(digits, 16).map_err(|_| format!("`{digits}` is no hexadecimal address"))
        };
        if let Some(server) = text.strip_prefix("gdb:") {
            let (server, address) = match server.rsplit_once('@') {
                Some((server, address)) => (server, Some(number(address)?)),
                None => (server, None),
            };
            if !server.contains(':') {
                return Err("write it like gdb:localhost:3333 or gdb:unix:PATH".into());
            }
            return Ok(Memory::Gdb { server: server.into(), address });
        }
        let (path, address) = text
            .rsplit_once('@')
            .ok_or("write it like dump.bin@0x40000000 (the address of its first byte), or gdb:HOST:PORT")?;
        Ok(Memory::Dump { path: path.into(), address: number(address)? })
    }
}

/// Finds the region in that memory and puts it into a capture.
pub fn collect(memory: &Memory, origin: &Origin, say: &mut dyn FnMut(&str)) -> Result<Finished, Failure> {
    match memory {
        Memory::Dump { path, address } => {
            let mut source = find_in_dump(path, *address)?;
            adopt::collect(&mut source, origin, say)
        }
        Memory::Gdb { server, address } => {
            let mut server = Server::connect(server)?;
            let base = find_at_server(&mut server, *address)?;
            adopt::collect(&mut ServerRegion { server: &mut server, base }, origin, say)
        }
    }
}

fn nothing(message: String, next_step: &str) -> Failure {
    Failure { kind: "region".into(), message, next_step: next_step.into(), exit_code: exit::MISUSED }
}

/// A dump holds the region at a 2 MiB boundary of physical memory, and often the image that names it.
fn find_in_dump(path: &Path, address: u64) -> Result<RamFile, Failure> {
    let file = File::open(path).map_err(FileError::of("read", path))?;
    let length = file.metadata().map_err(FileError::of("read", path))?.len();
    let word = |offset: u64| -> Option<u64> {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, offset).ok().map(|()| u64::from_le_bytes(bytes))
    };
    let Some(first) = address.checked_next_multiple_of(REGION_ALIGN).map(|aligned| aligned - address) else {
        let next = "give the physical address of the file's first byte behind the @";
        return Err(nothing(format!("no memory begins at {address:#x}"), next));
    };
    let blocks = || (0..).map(|block| first + block * REGION_ALIGN).take_while(|offset| *offset < length);
    let named = blocks().find_map(|offset| {
        let mut bytes = [0; size_of::<Locator>()];
        file.read_exact_at(&mut bytes, offset.checked_add(LOCATOR_OFFSET)?).ok()?;
        let locator = Locator::read_from_bytes(&bytes).ok().filter(|locator| locator.magic == LOCATOR_MAGIC)?;
        let region = locator.directory_pa.checked_sub(address)?;
        (word(region)? == MAGIC).then_some(region)
    });
    let region = named.or_else(|| blocks().find(|offset| word(*offset) == Some(MAGIC))).ok_or_else(|| {
        nothing(
            format!(
                "{} ({length} bytes from {address:#x}) holds no trace region: none of its 2 MiB boundaries begins one",
                path.display()
            ),
            "dump the memory from the address that the console's START line names (region=0x…), and give that address behind \
             the @",
        )
    })?;
    Ok(RamFile::new(file, region).map_err(FileError::of("read", path))?)
}

fn find_at_server(server: &mut Server, address: Option<u64>) -> Result<u64, Failure> {
    let locator_at = |server: &mut Server, image: u64| -> Option<u64> {
        let mut bytes = [0; size_of::<Locator>()];
        server.read(image.checked_add(LOCATOR_OFFSET)?, &mut bytes).ok()?;
        let locator = Locator::read_from_bytes(&bytes).ok()?;
        (locator.magic == LOCATOR_MAGIC && locator.directory_pa != 0).then_some(locator.directory_pa)
    };
    let is_region = |server: &mut Server, at: u64| {
        let mut bytes = [0; 8];
        server.read(at, &mut bytes).is_ok() && u64::from_le_bytes(bytes) == MAGIC
    };
    let candidates = [address, Some(LINKED_AT)].into_iter().flatten();
    for candidate in candidates {
        if is_region(server, candidate) {
            return Ok(candidate);
        }
        if let Some(region) = locator_at(server, candidate)
            && is_region(server, region)
        {
            return Ok(region);
        }
    }
    Err(Failure {
        exit_code: exit::UNMEASURED,
        ..nothing(
            match address {
                Some(address) => format!("the GDB server shows neither image nor trace region at {address:#x}"),
                None => format!("the GDB server shows no image at {LINKED_AT:#x}, where it is linked"),
            },
            "select a core that runs the firmware, or give the region's address from the console's START line: \
             gdb:HOST:PORT@ADDRESS",
        )
    })
}

/// A connection to a GDB server.
struct Server {
    stream: BufReader<Stream>,
    name: String,
    /// Bytes of memory in one answer.
    most: usize,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl io::Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }
}

impl io::Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Server {
    fn connect(name: &str) -> Result<Server, Failure> {
        let failed = |error: io::Error| Failure {
            kind: "gdb".into(),
            message: format!("GDB server {name}: {error}"),
            next_step: "see that it runs there and has no other client".into(),
            exit_code: exit::UNMEASURED,
        };
        let stream = match name.strip_prefix("unix:") {
            Some(path) => UnixStream::connect(path).and_then(|stream| {
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Stream::Unix(stream))
            }),
            None => name.to_socket_addrs().and_then(|mut addresses| {
                let address = addresses.next().ok_or_else(|| io::Error::other("the name has no address"))?;
                let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Stream::Tcp(stream))
            }),
        };
        let stream = BufReader::new(stream.map_err(failed)?);
        let mut server = Server { stream, name: name.into(), most: 512 };
        let features = server.ask("qSupported:").map_err(failed)?;
        let size = features
            .split(';')
            .find_map(|feature| usize::from_str_radix(feature.strip_prefix("PacketSize=")?, 16).ok());
        // Two digits a byte, and the packet's frame.
        server.most = size.map_or(512, |size| (size.saturating_sub(8) / 2).clamp(8, 16 << 10)) & !7;
        // A server that knows none of this still reads memory.
        let _ = server.ask("?");
        Ok(server)
    }

    /// Sends a packet and gives the answer's body.
    fn ask(&mut self, body: &str) -> io::Result<String> {
        let sum = body.bytes().fold(0u8, u8::wrapping_add);
        write!(self.stream.get_mut(), "${body}#{sum:02x}")?;
        let deadline = Instant::now() + PATIENCE;
        // Acknowledgements and stray bytes stand before the answer.
        while self.byte(deadline)? != b'$' {}
        let mut answer = Vec::new();
        loop {
            if answer.len() >= MOST_ANSWER {
                return Err(io::Error::other("its answer does not end"));
            }
            match self.byte(deadline)? {
                b'#' => break,
                // Run-length encoding: the last byte again, as often as the next says.
                b'*' => {
                    let count = self.byte(deadline)?.saturating_sub(29);
                    let last = answer.last().copied().unwrap_or(b'0');
                    answer.extend(std::iter::repeat_n(last, count.into()));
                }
                byte => answer.push(byte),
            }
        }
        let (_, _) = (self.byte(deadline)?, self.byte(deadline)?);
        // Whoever has answered and left needs no thanks.
        let _ = self.stream.get_mut().write_all(b"+");
        String::from_utf8(answer).map_err(io::Error::other)
    }

    /// The next byte. Each read waits for a time; the deadline ends an answer that comes in drops.
    fn byte(&mut self, deadline: Instant) -> io::Result<u8> {
        if self.stream.buffer().is_empty() && Instant::now() > deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let byte = *self.stream.fill_buf()?.first().ok_or(io::ErrorKind::UnexpectedEof)?;
        self.stream.consume(1);
        Ok(byte)
    }

    fn read(&mut self, address: u64, buffer: &mut [u8]) -> io::Result<()> {
        let mut at = address;
        // A long read ends with a run that is ended at once, by asking twice.
        let asked = interrupt::requests();
        for piece in buffer.chunks_mut(self.most) {
            if interrupt::requests() >= asked.saturating_add(2) {
                return Err(io::Error::other("stopped while memory was read"));
            }
            let answer = self.ask(&format!("m{at:x},{:x}", piece.len()))?;
            if answer.len() != piece.len() * 2 {
                let what = if answer.is_empty() { "nothing" } else { answer.get(..16).unwrap_or(&answer) };
                let message = format!("GDB server {}: asked for memory at {at:#x}, it says {what}", self.name);
                return Err(io::Error::other(message));
            }
            for (place, digits) in piece.iter_mut().zip(answer.as_bytes().chunks_exact(2)) {
                let digits = std::str::from_utf8(digits).map_err(io::Error::other)?;
                *place = u8::from_str_radix(digits, 16).map_err(io::Error::other)?;
            }
            at = at.wrapping_add(piece.len() as u64);
        }
        Ok(())
    }
}

/// Lets the target go on, whatever came of the visit.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.ask("D");
    }
}

struct ServerRegion<'a> {
    server: &'a mut Server,
    base: u64,
}

impl RegionSource for ServerRegion<'_> {
    type Error = io::Error;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let address =
            self.base.checked_add(offset).ok_or_else(|| io::Error::other("the region leaves the address space"))?;
        self.server.read(address, buffer)
    }

    /// The server's target stands still while it is read.
    fn read_u64(&mut self, offset: u64) -> io::Result<u64> {
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::sparse::tests::{all_calls, captured_calls, region};

    #[test]
    fn where_memory_comes_from_is_read() {
        let dump = |path: &str, address| Ok(Memory::Dump { path: path.into(), address });
        assert_eq!("a@b.bin@0x4000_0000".parse(), dump("a@b.bin", 0x4000_0000));
        assert_eq!("dump.bin@42000000".parse(), dump("dump.bin", 0x4200_0000));
        let gdb = |server: &str, address| Ok(Memory::Gdb { server: server.into(), address });
        assert_eq!("gdb:localhost:3333".parse(), gdb("localhost:3333", None));
        assert_eq!("gdb:unix:/run/s@0x10".parse(), gdb("unix:/run/s", Some(0x10)));
        for (text, names) in [("dump.bin", "@0x4"), ("dump.bin@x", "hexadecimal"), ("gdb:host", "gdb:localhost")] {
            let message = text.parse::<Memory>().expect_err("is refused");
            assert!(message.contains(names), "{message}");
        }
    }

    #[test]
    fn a_dump_without_a_region_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("zeroes");
        std::fs::write(&path, vec![0; 5 << 20]).expect("is written");
        let beyond = find_in_dump(&path, u64::MAX).expect_err("nothing lies there");
        assert_eq!((beyond.exit_code, beyond.message.contains("0xffffffffffffffff")), (exit::MISUSED, true));
        let failure = find_in_dump(&path, 0x4000_1000).expect_err("holds nothing");
        assert!(failure.message.contains("zeroes") && failure.message.contains("0x40001000"), "{}", failure.message);
        assert_eq!(failure.exit_code, exit::MISUSED);
    }

    #[test]
    fn a_dump_brings_what_cores_did_and_called() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("dump");
        // The dump begins 4 KiB below the boundary on which the region lies.
        let region = region(1);
        std::fs::write(&path, [vec![0x55; 0x1000], region].concat()).expect("is written");
        let origin = Origin { source: "memory", out: Some(folder.path().join("capture.mcap")), ..Origin::default() };
        let memory = Memory::Dump { path, address: 0x4020_0000 - 0x1000 };
        let finished = collect(&memory, &origin, &mut |_| ()).expect("is collected");
        assert_eq!(captured_calls(&finished.capture), all_calls());
    }

    /// A client, and a server that answers each packet with the next of `answers`, then hangs up; gives what it was asked.
    fn visit(answers: &'static [&'static str], with: impl FnOnce(&mut Server)) -> Vec<String> {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let server = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for answer in answers {
                // One packet: thanks for the last answer, then all up to the two digits of its sum.
                let mut packet = Vec::new();
                while !matches!(packet.as_slice(), [.., b'#', _, _]) {
                    let mut byte = [0];
                    theirs.read_exact(&mut byte).expect("asks");
                    packet.extend(byte);
                }
                asked.push(String::from_utf8_lossy(&packet).into_owned());
                theirs.write_all(answer.as_bytes()).expect("answers");
            }
            asked
        });
        with(&mut Server { stream: BufReader::new(Stream::Unix(ours)), name: "test".into(), most: 64 });
        server.join().expect("ends")
    }

    #[test]
    fn packets_of_a_server_are_read_with_run_lengths() {
        // Four zero bytes as one digit and seven more.
        let asked = visit(&["+$0*$#00", "+$OK#9a"], |client| {
            let mut bytes = [9; 4];
            client.read(0x1000, &mut bytes).expect("reads");
            assert_eq!(bytes, [0; 4]);
        });
        assert_eq!(asked, ["$m1000,4#8e", "+$D#44"], "the target is let go");
    }

    #[test]
    fn an_answer_that_is_wrong_short_or_endless_is_an_error() {
        let endless: &'static str = Box::leak(format!("$0{}", "*~".repeat(20_000)).into_boxed_str());
        for (answer, words) in [("$E01#a6", "says E01"), ("$#00", "says nothing"), ("$zz#00", "digit"), ("$00", "")] {
            let answers: &'static [&'static str] = Box::leak(Box::new([answer]));
            visit(answers, |client| {
                let error = client.read(0x1000, &mut [0]).expect_err("is refused");
                assert!(error.to_string().contains(words), "{answer}: {error}");
            });
        }
        let answers: &'static [&'static str] = Box::leak(Box::new([endless]));
        visit(answers, |client| {
            let error = client.read(0x1000, &mut [0]).expect_err("is refused");
            assert!(error.to_string().contains("does not end"), "{error}");
        });
    }
}
