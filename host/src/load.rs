//! The host's own witness: what its scheduler says of an emulated target while the plan runs.
//!
//! Under QEMU a core is a thread. Linux counts for each thread how long it ran, and how long it was ready to run and stood in the
//! queue of a processor (`/proc/PID/task/TID/schedstat`, Documentation/scheduler/sched-stats.rst). A core whose thread waited is
//! late for reasons that are none of the target's.
//!
//! What is not seen here: a thread that somebody stopped (a debugger, a freezer) stands in no queue, just as one that sleeps in
//! WFI, so both are time in which it neither ran nor waited; the target's own heartbeats tell them apart. And where this host is
//! a guest itself, what its hypervisor takes away is in no queue either.
//!
//! Where the system does not tell (no Linux, no schedstat) nothing is claimed.

use std::fs;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use crate::capture::{HostLoad, ThreadLoad};

/// Between two looks at the threads of a small machine: waits are summed up over as much, and the longest is told.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A look costs a few microseconds for each thread: of large machines there are fewer, so that looking stays a few percent of a
/// processor.
const LOOK_EVERY_EACH: Duration = Duration::from_micros(250);

/// Watches the processors from its creation on, and the cores' threads from the first look on.
#[derive(Debug)]
pub struct Witness {
    /// The emulator.
    process: Option<u32>,
    /// The processors' time at the start.
    start: ProcessorTime,
    threads: Vec<Thread>,
    looked: Option<Instant>,
}

/// A core's thread.
#[derive(Debug)]
struct Thread {
    core: u16,
    path: String,
    first: Option<Times>,
    last: Times,
    longest_wait: u64,
}

impl Witness {
    /// `process`: the emulator; `None`: the target is no process of this host, and nothing is claimed.
    pub fn new(process: Option<u32>) -> Witness {
        Witness { process, start: ProcessorTime::now(process), threads: Vec::new(), looked: None }
    }

    /// These threads execute the cores. Where two cores share one, it says nothing of either.
    pub fn watch(&mut self, threads: &[(u16, u32)]) {
        let Some(process) = self.process else { return };
        let shared = |thread: u32| threads.iter().filter(|(_, other)| *other == thread).count() > 1;
        let alone = threads.iter().filter(|(_, thread)| !shared(*thread));
        let thread = |(core, thread): &(u16, u32)| Thread {
            core: *core,
            path: format!("/proc/{process}/task/{thread}/schedstat"),
            first: None,
            last: Times::default(),
            longest_wait: 0,
        };
        self.threads = alone.map(thread).collect();
    }

    /// Looks at the threads if it is time to. Call it from the begin of the plan on.
    pub fn look_if_due(&mut self) {
        let cores = u32::try_from(self.threads.len()).unwrap_or(u32::MAX);
        let every = LOOK_EVERY.max(LOOK_EVERY_EACH.saturating_mul(cores));
        if self.looked.is_none_or(|looked| looked.elapsed() >= every) {
            self.look();
        }
    }

    fn look(&mut self) {
        self.looked = Some(Instant::now());
        for thread in &mut self.threads {
            // A thread that is gone keeps what was seen of it last.
            let times = fs::read_to_string(&thread.path).ok().and_then(|text| Times::parse(&text));
            if let Some(times) = times {
                thread.see(times);
            }
        }
    }

    /// The last look, before the emulator is ended: the share of the processors' time that others took, and what became of the
    /// threads where they were looked at while the plan ran.
    pub fn finish(mut self) -> (Option<f64>, Option<HostLoad>) {
        let Some(process) = self.process else { return (None, None) };
        let steal = self.start.share_of_others(Some(process));
        if self.looked.is_none() {
            return (steal, None);
        }
        self.look();
        let threads: Vec<ThreadLoad> = self.threads.iter().filter_map(Thread::load).collect();
        let load = HostLoad { processors: processors(process), threads };
        (steal, Some(load).filter(|load| !load.threads.is_empty()))
    }
}

impl Thread {
    fn see(&mut self, times: Times) {
        if self.first.is_none() {
            self.first = Some(times);
        } else {
            self.longest_wait = self.longest_wait.max(times.waited.saturating_sub(self.last.waited));
        }
        self.last = times;
    }

    fn load(&self) -> Option<ThreadLoad> {
        let first = self.first?;
        let seconds = |nanoseconds: u64| Duration::from_nanos(nanoseconds).as_secs_f64();
        Some(ThreadLoad {
            core: self.core,
            ran_s: seconds(self.last.ran.saturating_sub(first.ran)),
            waited_s: seconds(self.last.waited.saturating_sub(first.waited)),
            waited_longest_s: seconds(self.longest_wait),
        })
    }
}

/// What schedstat says of a thread, ns since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Times {
    ran: u64,
    /// A wait is added when it ends.
    waited: u64,
}

impl Times {
    /// `ran waited slices`. All zeroes where the kernel was built with the file and without the counters.
    fn parse(text: &str) -> Option<Times> {
        let mut numbers = text.split_whitespace().map_while(|word| word.parse().ok());
        let (ran, waited, slices) = (numbers.next()?, numbers.next()?, numbers.next()?);
        (slices > 0 || ran > 0).then_some(Times { ran, waited })
    }
}

/// Processors that a process may use: those that it is bound to, or fewer where its control group has a quota, which it shares
/// with this process.
fn processors(process: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let quota = available_parallelism().map_or(u32::MAX, |count| u32::try_from(count.get()).unwrap_or(u32::MAX));
    allowed(&status).map_or(quota, |bound| bound.min(quota))
}

/// Bits of `Cpus_allowed`: hexadecimal words between commas.
fn allowed(status: &str) -> Option<u32> {
    let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:"))?;
    let words: Option<Vec<u32>> = mask.trim().split(',').map(|word| u32::from_str_radix(word, 16).ok()).collect();
    words.map(|words| words.iter().map(|word| word.count_ones()).sum()).filter(|count| *count > 0)
}

/// Processor time of the host, to tell how much of it others took.
#[derive(Clone, Copy, Debug)]
struct ProcessorTime {
    busy: u64,
    total: u64,
    own: u64,
}

impl ProcessorTime {
    /// Now, with the time of this process and of `child`. All zeroes where the system doesn't tell.
    fn now(child: Option<u32>) -> ProcessorTime {
        let (busy, total) =
            fs::read_to_string("/proc/stat").ok().and_then(|text| busy_and_total(&text)).unwrap_or_default();
        let of =
            |path: String| fs::read_to_string(path).ok().and_then(|text| processor_time(&text)).unwrap_or_default();
        let own = of("/proc/self/stat".into()) + child.map_or(0, |child| of(format!("/proc/{child}/stat")));
        ProcessorTime { busy, total, own }
    }

    /// The share (0 to 1) of the host's processor time since then that went to others.
    fn share_of_others(&self, child: Option<u32>) -> Option<f64> {
        let now = ProcessorTime::now(child);
        let total = now.total.checked_sub(self.total).filter(|total| *total > 0)?;
        let busy = now.busy.saturating_sub(self.busy);
        // A child that has ended by itself was reaped, and its time counts as this process's.
        let own = now.own.checked_sub(self.own)?;
        Some((busy.saturating_sub(own) as f64 / total as f64).clamp(0.0, 1.0))
    }
}

/// Busy and total ticks of all processors together, from /proc/stat.
fn busy_and_total(text: &str) -> Option<(u64, u64)> {
    let fields: Vec<u64> =
        text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|word| word.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guest times are part of user and nice.
    let total: u64 = fields.iter().take(8).sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    Some((total - idle, total))
}

/// User and system ticks of a process and of the children it has reaped, from /proc/PID/stat.
fn processor_time(text: &str) -> Option<u64> {
    // The name may hold spaces and parentheses; what follows the last one does not.
    let fields = text.rsplit_once(')')?.1.split_whitespace().skip(11).take(4);
    let times: Option<Vec<u64>> = fields.map(|field| field.parse().ok()).collect();
    times.filter(|times| times.len() == 4).map(|times| times.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_times_are_read_from_proc() {
        assert_eq!(busy_and_total("cpu  10 1 5 100 4 1 2 3 7 0\ncpu0 1 1 1\n"), Some((22, 126)));
        assert_eq!(busy_and_total("nothing"), None);
        let line = "123 (a) b c) S 1 123 123 0 -1 4194304 100 0 0 0 77 23 5 6 20 0 1 0 100 0 0";
        assert_eq!(processor_time(line), Some(77 + 23 + 5 + 6));
        assert_eq!(processor_time(""), None);
        assert!(ProcessorTime::now(None).total > 0);
    }

    #[test]
    fn thread_times_and_processors_are_read_from_proc() {
        assert_eq!(Times::parse("291608 3748592 2\n"), Some(Times { ran: 291_608, waited: 3_748_592 }));
        for text in ["", "0 0 0\n", "5 5", "a b c"] {
            assert_eq!(Times::parse(text), None, "{text:?}");
        }
        assert_eq!(allowed("Name:\tx\nCpus_allowed:\tff,0000000f\nCpus_allowed_list:\t0-3,32-39\n"), Some(12));
        assert_eq!(allowed("Cpus_allowed:\tx\n"), None);
        assert_eq!(allowed(""), None);
    }

    #[test]
    fn a_wait_counts_from_the_first_look_on_and_the_longest_is_of_one_look() {
        let mut thread = Thread { core: 3, path: String::new(), first: None, last: Times::default(), longest_wait: 0 };
        assert_eq!(thread.load(), None, "nobody looked");
        let second = 1_000_000_000;
        for (ran, waited) in [(5, 70), (6, 71), (7, 74), (9, 76)] {
            thread.see(Times { ran: ran * second, waited: waited * second });
        }
        let expected = ThreadLoad { core: 3, ran_s: 4.0, waited_s: 6.0, waited_longest_s: 3.0 };
        assert_eq!(thread.load(), Some(expected));
    }

    #[test]
    fn cores_that_share_a_thread_are_not_told_apart_and_so_not_told() {
        let mut witness = Witness::new(Some(std::process::id()));
        witness.watch(&[(0, 11), (1, 12), (2, 11)]);
        assert_eq!(witness.threads.iter().map(|thread| thread.core).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn a_thread_is_watched_while_it_lives_and_remembered_afterwards() {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            // "PID/task/TID".
            let name = fs::read_link("/proc/thread-self").unwrap_or_default();
            let id = name.file_name().and_then(|id| id.to_str()?.parse().ok());
            tell.send(id.unwrap_or(0)).expect("somebody listens");
            let _ = ended.recv();
        });
        let id = told.recv().expect("it says who it is");
        let mut witness = Witness::new(Some(std::process::id()));
        witness.watch(&[(0, id)]);
        witness.look_if_due();
        let known = fs::read_to_string("/proc/self/schedstat").is_ok();
        drop(end);
        thread.join().expect("it ends");
        let (_, load) = witness.finish();
        assert_eq!(load.is_some(), known, "where there is schedstat the thread was seen");
        assert!(load.is_none_or(|load| load.processors > 0 && load.threads[0].core == 0));

        // Nobody is claimed to have been watched where nobody was.
        assert_eq!(Witness::new(None).finish(), (None, None));
        let mut absent = Witness::new(Some(std::process::id()));
        absent.watch(&[(0, u32::MAX)]);
        absent.look_if_due();
        assert_eq!(absent.finish().1, None);
    }
}
