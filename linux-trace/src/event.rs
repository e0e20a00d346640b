//! What a trace tells: one event, its time, its CPU, and what was told beside it.

use crate::{Mask, Name};

/// The clock that stamped a trace (`trace_clock` of tracefs, `Documentation/trace/ftrace.rst`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clock {
    /// Not told. Text does not say it; seconds with a fraction are nanoseconds of some clock.
    #[default]
    Unknown,
    /// Per CPU, fast, may differ between CPUs.
    Local,
    /// In step between CPUs, slow.
    Global,
    /// One tick an event: an order, not a time.
    Counter,
    /// Jiffies.
    Uptime,
    /// As perf stamps.
    Perf,
    /// `CLOCK_MONOTONIC`.
    Mono,
    /// `CLOCK_MONOTONIC_RAW`.
    MonoRaw,
    /// `CLOCK_BOOTTIME`.
    Boot,
    /// `CLOCK_TAI`.
    Tai,
}

impl Clock {
    /// By the name that tracefs gives it.
    #[must_use]
    pub fn from_name(name: &str) -> Clock {
        match name {
            "local" => Clock::Local,
            "global" => Clock::Global,
            "counter" => Clock::Counter,
            "uptime" => Clock::Uptime,
            "perf" => Clock::Perf,
            "mono" => Clock::Mono,
            "mono_raw" => Clock::MonoRaw,
            "boot" => Clock::Boot,
            "tai" => Clock::Tai,
            _ => Clock::Unknown,
        }
    }

    /// Whether its stamps are nanoseconds; else they are ticks that say nothing of lengths.
    #[must_use]
    pub const fn is_time(self) -> bool {
        !matches!(self, Clock::Counter | Clock::Uptime)
    }
}

/// One event of a trace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Event {
    /// Its time, ns of the trace's clock (ticks of `counter` and `uptime`).
    pub t: u64,
    /// The CPU that recorded it.
    pub cpu: u16,
    /// The process id of the task that ran; 0: idle. `None`: not told.
    pub pid: Option<u32>,
    /// The task's name, where it is told.
    pub comm: Name,
    /// What the flags column says, as printed (up to eight characters, rest zero); all zero: not told.
    pub flags: [u8; 8],
    /// What happened.
    pub what: What,
}

/// What happened. Events that are none of these are counted ([`Tally::others`]), not given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum What {
    /// `ipi_raise`: the architecture's code is about to send an IPI (recorded in front of the write that sends it).
    Raise {
        /// To whom.
        targets: Mask,
        /// Which IPI, as the kernel words it: `Function call interrupts`.
        reason: Name,
    },
    /// `ipi_entry`: a handler of this CPU began.
    Entry {
        /// Which IPI.
        reason: Name,
    },
    /// `ipi_exit`: it ended.
    Exit {
        /// Which IPI.
        reason: Name,
    },
    /// `ipi_send_cpu`: the generic code is about to send an IPI to one CPU.
    SendCpu {
        /// To whom.
        cpu: u16,
        /// Who asked: `generic_exec_single+0x54/0x178`.
        callsite: Name,
        /// The function that its handler will call; none: reschedule.
        callback: Name,
    },
    /// `ipi_send_cpumask`: the same to several.
    SendMask {
        /// To whom; empty where it was not told.
        targets: Mask,
        /// Who asked.
        callsite: Name,
        /// The function that the handlers will call; none: reschedule.
        callback: Name,
    },
    /// `csd_queue_cpu`: a call was put on a CPU's call single queue.
    Queue {
        /// Whose queue.
        cpu: u16,
        /// Who asked.
        callsite: Name,
        /// What is to be called.
        function: Name,
        /// The address of the call single data, or a hash of it: the same call, the same number.
        csd: u64,
    },
    /// `csd_function_entry`: a queued call begins.
    FunctionEntry {
        /// What is called.
        function: Name,
        /// The call.
        csd: u64,
    },
    /// `csd_function_exit`: it ended.
    FunctionExit {
        /// What was called.
        function: Name,
        /// The call.
        csd: u64,
    },
    /// `irq_handler_entry`.
    IrqEntry {
        /// Linux's interrupt number.
        irq: u32,
        /// The action's name; arm64 calls all IPIs `IPI`.
        name: Name,
    },
    /// `irq_handler_exit`.
    IrqExit {
        /// Linux's interrupt number.
        irq: u32,
    },
    /// `cpu_idle`: the CPU goes into an idle state, or comes out.
    Idle {
        /// Which one; `None`: it comes out (the kernel prints 4294967295).
        state: Option<u32>,
    },
    /// `sched_switch`.
    Switch {
        /// The process id that ran.
        from: u32,
        /// The process id that runs now; 0: idle.
        to: u32,
    },
    /// `print`, `bprint`, `tracing_mark_write` or a function-named mark of `trace_printk`: free text.
    Mark {
        /// The function that printed it; none for `tracing_mark_write`.
        function: Name,
        /// What it printed.
        text: Name,
        /// Whether user space wrote it (`trace_marker`), and no kernel function.
        user: bool,
    },
    /// Events of this CPU are missing here.
    Lost {
        /// How many; `None`: some.
        count: Option<u64>,
    },
}

impl What {
    /// The kernel's name for it; `mark` and `lost` of what has none.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            What::Raise { .. } => "ipi_raise",
            What::Entry { .. } => "ipi_entry",
            What::Exit { .. } => "ipi_exit",
            What::SendCpu { .. } => "ipi_send_cpu",
            What::SendMask { .. } => "ipi_send_cpumask",
            What::Queue { .. } => "csd_queue_cpu",
            What::FunctionEntry { .. } => "csd_function_entry",
            What::FunctionExit { .. } => "csd_function_exit",
            What::IrqEntry { .. } => "irq_handler_entry",
            What::IrqExit { .. } => "irq_handler_exit",
            What::Idle { .. } => "cpu_idle",
            What::Switch { .. } => "sched_switch",
            What::Mark { .. } => "mark",
            What::Lost { .. } => "lost",
        }
    }
}

/// Where something stands in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A line of text, from 1.
    Line(u64),
    /// A byte of a binary file.
    Byte(u64),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Line(line) => write!(f, "line {line}"),
            Place::Byte(byte) => write!(f, "byte {byte:#x}"),
        }
    }
}

/// What was read and what was not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tally {
    /// Events that were given.
    pub events: u64,
    /// Events of other kinds, which are none of [`What`].
    pub others: u64,
    /// Lines that are legal and no events: headers, stack traces, continuation of them.
    pub ignored: u64,
    /// What could not be understood (lines, or records of a binary file).
    pub unknown: u64,
    /// The first of those: where, and why.
    pub first_unknown: Option<(Place, String)>,
    /// Events that the kernel says it lost, where it says how many.
    pub lost: u64,
    /// How often it says that some are lost.
    pub gaps: u64,
}
