//! ipiscope on the host: runs a plan on a target, drains its trace while it runs, and says what the trace means.
//!
//! | module | what it does | takes -> gives |
//! |---|---|---|
//! | [`plan`] | reads a plan (built-in or TOML), compiles it | `PlanRequest` -> `CompiledPlan` |
//! | [`fault`] | parses `--inject` | text -> `Fault` |
//! | [`firmware`] | finds or builds the image and its ELF | request -> `Firmware` |
//! | [`machine`] | what to tell QEMU so that a board of `boards` comes to life | board, options -> arguments |
//! | [`qemu`] | boots a machine, owns its end | arguments, image, plan -> running target |
//! | [`monitor`] | asks QEMU where the cores stand | socket -> `CorePicture` |
//! | [`scratch`] | the folder of a run: nothing of it survives the run, or the next one | |
//! | [`probe`] | checks, loads, starts and drains a board behind a debug probe, or attaches to it | board, plan -> capture |
//! | [`drain`] | polls the region into the capture until the run ended | `RegionSource` -> capture, `Ended` |
//! | [`load`] | what the host's scheduler says of an emulated target | -> `HostLoad` |
//! | [`memory`] | memory that others took: a dump, a GDB server | `FILE@ADDRESS` -> capture |
//! | [`adopt`] | a region whose run was started elsewhere -> capture | `RegionSource` -> capture |
//! | [`sparse`] | a region put together from pieces, and what its gaps would have said | pieces -> `RegionSource` |
//! | [`image`] | what boots a board without a probe: image, plan, U-Boot script | request -> folder |
//! | [`serial`] | a run's results from a console that answers, or from its log | bytes -> capture |
//! | [`stop`] | `--stop-on`: an expression over live counters | text -> `StopOn` |
//! | [`progress`] | what the user sees meanwhile | |
//! | [`live`] | the same on the whole terminal | counters, records -> screen |
//! | [`terminal`] | what a terminal can show, and text that fits it | |
//! | [`capture`] | the file: writer, reader | bytes <-> `Capture` |
//! | [`series`] | the counters of a long run over time | pair slots -> `Series` |
//! | [`correlate`] | sends and receives -> outcomes | records, slots -> `Ipis` |
//! | [`sorted`] | rows in order, of whatever number | |
//! | [`choice`] | which IPIs a filter picks | text, `Message` -> yes or no |
//! | [`stats`] | latencies -> figures that the sample carries | ticks -> `Summary` |
//! | [`detect`] | check, summary, evidence | figures -> `Suspect`s, verdict |
//! | [`compare`] | captures against golden ones: what changed, how sure; limits made of them | captures -> `Comparison`, TOML |
//! | [`limits`] | what a machine is held to, rule by rule | file, `Ipis` -> `LimitsReport` |
//! | [`log`] | the firmware's log: frames from the capture, text from the ELF | capture -> `Log` |
//! | [`reason`] | what an SGI asks for | plan -> IPI kinds |
//! | [`symbols`] | names for code addresses, as Linux prints them | ELF -> `Symbols` |
//! | [`report`] | the numbers in several coats | capture -> `Report` -> text, JSON |
//! | [`trail`] | what cores did around the worst IPIs | capture -> `Trail`s |
//! | [`junit`] | the verdict and the limits for a lab's CI | `Report` -> XML |
//! | [`export`] | the records in other tools' formats | capture -> text, trace.dat, Perfetto, CSV, JSON |
//! | [`replay`] | a capture becomes a plan that sends the same again | capture -> TOML |
//! | [`inspect`] | where the cores of a target stand, what waits on their queues | capture, RAM, probe -> `Inspection` |
//! | [`selftest`] | proves the detectors on faults whose truth is known | seeds -> `Outcome` |
//! | [`doctor`] | what this machine lacks | -> list with remedies |
//! | [`cli`] | the command line's definitions | |
//! | [`generate`] | shell completions and man pages of them | |
//! | [`error`] | every error has a kind, a next step and an exit code | |

// No input makes the host panic. Tests may.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable, clippy::todo)
)]

pub mod adopt;
pub mod capture;
pub mod child;
pub mod choice;
pub mod cli;
pub mod compare;
pub mod correlate;
pub mod detect;
pub mod doctor;
pub mod drain;
pub mod error;
pub mod export;
pub mod fault;
pub mod firmware;
pub mod generate;
pub mod image;
pub mod import;
pub mod inspect;
pub mod interrupt;
pub mod junit;
pub mod limits;
pub mod linux;
pub mod live;
pub mod load;
pub mod log;
pub mod machine;
pub mod memory;
pub mod monitor;
pub mod plan;
pub mod probe;
pub mod progress;
pub mod qemu;
pub mod reason;
pub mod replay;
pub mod report;
pub mod run;
pub mod scratch;
pub mod selftest;
pub mod serial;
pub mod series;
pub mod sorted;
pub mod sparse;
pub mod stats;
pub mod stop;
pub mod symbols;
pub mod terminal;
pub mod trail;
