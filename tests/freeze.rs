//! Real delays, made from outside: the thread of one core is taken away from the host's processors for some milliseconds.
//!
//! ptrace stops one thread of QEMU and no other: SIGSTOP would stop them all, and QMP's `stop` their clock, too. Each freeze
//! seizes, interrupts and detaches, so that between two of them QEMU runs as if nobody watched it. The kernel takes requests
//! only from the thread that seized: all of [`freeze`] runs on its caller's. Who may trace: root, and the forebears of QEMU.
//!
//! A thread may be stopped while it holds QEMU's global lock. Then all cores come to a stand, and not one alone. So during each
//! freeze QEMU's monitor is asked something that it answers under that lock; without an answer the freeze is ended and counted
//! apart. Cores in WFI hold no lock: freeze receivers, not senders.

use std::path::Path;
use std::time::{Duration, Instant};

use host::monitor::{Monitor, MonitorError};
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;

/// How long QEMU may take to answer while a thread is frozen: a busy host takes its time.
const ANSWER: Duration = Duration::from_millis(100);

/// How long the kernel may take to stop a thread.
const STOP: Duration = Duration::from_secs(2);

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// How long each freeze lasted during which QEMU went on.
    pub freezes: Vec<Duration>,
    /// Those that held up all of QEMU.
    pub spoilt: Vec<Duration>,
}

impl Truth {
    /// All freezes of the one core together.
    pub fn together(&self) -> Duration {
        self.freezes.iter().sum()
    }
}

/// Freezes `thread` once for each of `lengths`, with `pause` between two. `monitor`: a socket of its QEMU. Ends early, with what was
/// done until then, when the thread is gone.
pub fn freeze(thread: u32, monitor: &Path, lengths: &[Duration], pause: Duration) -> Truth {
    let thread = Pid::from_raw(i32::try_from(thread).expect("a thread's id"));
    let mut truth = Truth::default();
    for length in lengths {
        std::thread::sleep(pause);
        // A connection that missed an answer is not asked again.
        let Ok(mut monitor) = Monitor::connect_within(monitor, ANSWER) else { continue };
        match once(thread, &mut monitor, *length) {
            Ok((lasted, true)) => truth.freezes.push(lasted),
            Ok((lasted, false)) => truth.spoilt.push(lasted),
            Err(Errno::ESRCH) => break,
            Err(error) => panic!("thread {thread} can't be frozen: {error}"),
        }
    }
    truth
}

/// How long it lasted, and whether QEMU went on meanwhile.
fn once(thread: Pid, monitor: &mut Monitor, length: Duration) -> nix::Result<(Duration, bool)> {
    ptrace::seize(thread, ptrace::Options::empty())?;
    let signal = stop(thread)?;
    let frozen = Instant::now();
    let answer = monitor.execute("query-status", json!({}));
    let went_on = !matches!(answer, Err(MonitorError::Silent { .. }));
    if went_on {
        std::thread::sleep(length.saturating_sub(frozen.elapsed()));
    }
    let lasted = frozen.elapsed();
    ptrace::detach(thread, signal)?;
    Ok((lasted, went_on))
}

/// Stops a thread that was seized. A signal that came first is handed back with the detach.
fn stop(thread: Pid) -> nix::Result<Option<Signal>> {
    ptrace::interrupt(thread)?;
    let asked = Instant::now();
    loop {
        match waitpid(thread, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG))? {
            WaitStatus::PtraceEvent(..) => return Ok(None),
            WaitStatus::Stopped(_, signal) => return Ok(Some(signal)),
            WaitStatus::StillAlive if asked.elapsed() < STOP => std::thread::sleep(Duration::from_micros(100)),
            WaitStatus::StillAlive => return Err(Errno::ETIMEDOUT),
            _ => return Err(Errno::ESRCH),
        }
    }
}
