//! The probe as a server: starts the machine, listens, serves one debugger after another, keeps the books on disk.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::front::wire::{Connection, Next};
use crate::knobs::{Knob, Knobs};
use crate::layout::SocLayout;
use crate::machine::{Machine, QemuMachine, QemuOptions};
use crate::port::Port;
use crate::stats::Stats;

/// USB vendor and product that a selector of probe-rs's Glasgow driver begins with.
pub const GLASGOW: &str = "20b7:9db1";

/// How long a wait lasts before it looks around: whether to stop, whether QEMU lives, whether books are to be written.
const LOOK_AROUND: Duration = Duration::from_millis(20);
/// How often the books are written while they change.
const BOOKS_EVERY: Duration = Duration::from_millis(100);
/// Longest time that a start may take.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// Longest time that a debugger may take to read an answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A socket in the file system.
    Unix(PathBuf),
    /// HOST:PORT; port 0: any that is free.
    Tcp(String),
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Listen, String> {
        match text.split_once(':') {
            Some(("unix", path)) if !path.is_empty() => Ok(Listen::Unix(path.into())),
            Some(("tcp", address)) if address.contains(':') => Ok(Listen::Tcp(address.into())),
            _ => Err(format!("`{text}` is neither unix:PATH nor tcp:HOST:PORT")),
        }
    }
}

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where.
    pub listen: Listen,
    /// What is wrong with the machine, the port, the wire.
    pub knobs: Vec<Knob>,
    /// Where to write what is counted.
    pub stats: Option<PathBuf>,
}

/// A probe that serves. Dropping it ends the machine and removes its files.
#[derive(Debug)]
pub struct Server {
    selector: String,
    stop: Arc<AtomicBool>,
    stats: Arc<Mutex<Stats>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Server {
    /// Starts QEMU, and a server over it. It is ready when this returns.
    pub fn start(options: Options, machine: QemuOptions) -> io::Result<Server> {
        Server::start_over(options, move || {
            let layout = SocLayout::qemu_virt(machine.cores);
            Ok((layout, Box::new(QemuMachine::start(&machine)?) as Box<dyn Machine>))
        })
    }

    /// Starts a server over any machine. `build` runs in the thread that serves, which lives as long as the machine.
    pub fn start_over(
        options: Options,
        build: impl FnOnce() -> io::Result<(SocLayout, Box<dyn Machine>)> + Send + 'static,
    ) -> io::Result<Server> {
        let stop = Arc::new(AtomicBool::new(false));
        let stats = Arc::new(Mutex::new(Stats::default()));
        let (ready, when_ready) = mpsc::channel();
        let thread = std::thread::Builder::new().name("virtual-probe".into()).spawn({
            let (stop, stats) = (Arc::clone(&stop), Arc::clone(&stats));
            move || {
                let (mut service, selector) = Service::start(options, build, stop, stats)?;
                let _ = ready.send(selector);
                service.run()
            }
        })?;
        match when_ready.recv_timeout(START_DEADLINE) {
            Ok(selector) => Ok(Server { selector, stop, stats, thread: Some(thread) }),
            Err(mpsc::RecvTimeoutError::Timeout) => Err(io::Error::new(io::ErrorKind::TimedOut, "QEMU does not start")),
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(match thread.join() {
                Ok(Err(error)) => error,
                _ => io::Error::other("the probe did not start"),
            }),
        }
    }

    /// What probe-rs is told to open.
    pub fn selector(&self) -> &str {
        &self.selector
    }

    /// What was counted, up to the last batch that was answered.
    pub fn stats(&self) -> Stats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it still serves: it does not once QEMU ended.
    pub fn is_serving(&self) -> bool {
        self.thread.as_ref().is_some_and(|thread| !thread.is_finished())
    }

    /// Ends it, and says how it went.
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(io::Error::other("the probe panicked")),
            None => Ok(()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// What the server's thread holds.
struct Service {
    listener: Listener,
    port: Port,
    stop: Arc<AtomicBool>,
    shared: Arc<Mutex<Stats>>,
    books: Option<PathBuf>,
    written: Option<Instant>,
    /// The stats that are on disk.
    on_disk: Stats,
}

/// Why a connection ended.
enum End {
    Disconnected,
    Stopped,
}

impl Service {
    fn start(
        options: Options,
        build: impl FnOnce() -> io::Result<(SocLayout, Box<dyn Machine>)>,
        stop: Arc<AtomicBool>,
        shared: Arc<Mutex<Stats>>,
    ) -> io::Result<(Service, String)> {
        // First the address: whoever can't have it need not wait for QEMU.
        let listener = Listener::bind(&options.listen)?;
        let selector = format!("{GLASGOW}:{}", listener.address()?);
        let (layout, machine) = build()?;
        let port = Port::new(layout, machine, options.knobs.into_iter().collect::<Knobs>());
        let on_disk = Stats::default();
        let mut service = Service { listener, port, stop, shared, books: options.stats, written: None, on_disk };
        service.write_books()?;
        Ok((service, selector))
    }

    fn run(&mut self) -> io::Result<()> {
        let result = self.serve();
        self.publish();
        result.and(self.write_books())
    }

    fn serve(&mut self) -> io::Result<()> {
        while !self.stopped()? {
            let Some(stream) = self.listener.accept()? else {
                std::thread::sleep(Duration::from_millis(2));
                continue;
            };
            self.port.connect();
            let end = self.serve_one(stream);
            self.publish();
            self.write_books()?;
            match end {
                Ok(End::Disconnected) => {}
                Ok(End::Stopped) => return Ok(()),
                // A debugger that went away while it was answered.
                Err(error) => crate::debug::complain(&format!("the debugger is gone: {error}")),
            }
        }
        Ok(())
    }

    fn stopped(&mut self) -> io::Result<bool> {
        if let Some(how) = self.port.machine().ended() {
            return Err(io::Error::other(format!("QEMU ended: {how}")));
        }
        Ok(self.stop.load(Ordering::Relaxed))
    }

    fn serve_one(&mut self, mut stream: Stream) -> io::Result<End> {
        stream.set_timeouts(LOOK_AROUND, ANSWER_DEADLINE)?;
        let mut connection = Connection::default();
        let (mut bytes, mut out) = (vec![0; 64 << 10], Vec::new());
        let mut hung = false;
        let mut looked = Instant::now();
        loop {
            if looked.elapsed() >= LOOK_AROUND {
                looked = Instant::now();
                if self.stopped()? {
                    return Ok(End::Stopped);
                }
                self.write_books_if_due()?;
            }
            // A connection that is closed with something unread is reset, and only that the driver notices: on an end of
            // file it would read on for ever. So before a cut bytes are read one by one.
            let most = if self.port.knobs_mut().cut.is_some() { 1 } else { bytes.len() };
            let count = match stream.read(&mut bytes[..most]) {
                Ok(0) => return Ok(End::Disconnected),
                Ok(count) => count,
                Err(error) if is_timeout(&error) => continue,
                Err(error) => return Err(error),
            };
            if hung {
                continue;
            }
            let next = self.connection_receive(&mut connection, &bytes[..count], &mut out);
            stream.write_all(&out)?;
            out.clear();
            match next {
                Next::Serve => {}
                Next::Hang => hung = true,
                Next::Refuse => {
                    crate::debug::complain("what is connected is no Glasgow driver");
                    return Ok(End::Disconnected);
                }
                Next::Cut => return Ok(End::Disconnected),
            }
        }
    }

    fn connection_receive(&mut self, connection: &mut Connection, bytes: &[u8], out: &mut Vec<u8>) -> Next {
        let next = connection.receive(&mut self.port, bytes, out);
        // Before the answer goes out: who has it finds it counted.
        if !out.is_empty() || next != Next::Serve {
            self.publish();
        }
        next
    }

    fn publish(&self) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone_from(self.port.stats());
    }

    fn write_books_if_due(&mut self) -> io::Result<()> {
        if self.written.is_none_or(|at| at.elapsed() >= BOOKS_EVERY) { self.write_books() } else { Ok(()) }
    }

    fn write_books(&mut self) -> io::Result<()> {
        if let Some(path) = &self.books
            && (self.written.is_none() || self.on_disk != *self.port.stats())
        {
            self.on_disk.clone_from(self.port.stats());
            self.on_disk.write(path)?;
            self.written = Some(Instant::now());
        }
        Ok(())
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

impl Listener {
    fn bind(listen: &Listen) -> io::Result<Listener> {
        match listen {
            Listen::Unix(path) => {
                // What a killed probe left: a socket on which nobody listens.
                if fs::symlink_metadata(path).is_ok_and(|there| there.file_type().is_socket())
                    && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
                {
                    fs::remove_file(path)?;
                }
                let listener = UnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Unix(listener, path.clone()))
            }
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Listener::Tcp(listener))
            }
        }
    }

    fn address(&self) -> io::Result<String> {
        Ok(match self {
            Listener::Unix(_, path) => format!("unix:{}", path.display()),
            Listener::Tcp(listener) => format!("tcp:{}", listener.local_addr()?),
        })
    }

    fn accept(&self) -> io::Result<Option<Stream>> {
        let accepted = match self {
            Listener::Unix(listener, _) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
        };
        match accepted {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if is_timeout(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Listener::Unix(_, path) = self {
            let _ = fs::remove_file(path);
        }
    }
}

enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    fn set_timeouts(&self, read: Duration, write: Duration) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(read))?;
                stream.set_write_timeout(Some(write))
            }
            Stream::Tcp(stream) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(read))?;
                stream.set_write_timeout(Some(write))
            }
        }
    }

    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Unix(stream) => stream.read(bytes),
            Stream::Tcp(stream) => stream.read(bytes),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tcp(stream) => stream.write_all(bytes),
        }
    }
}
