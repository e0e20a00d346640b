//! Whom a report accuses when the truth is known: cores that this test takes away, hosts that it keeps busy, clocks too coarse.
//!
//! An emulator's delays are its host's. However bad they get, none of these runs may end as a fault of the target (exit code 1).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use host::monitor::Monitor;
use host::qemu::Manifest;
use serde_json::Value;
use system_tests::freeze::{Truth, freeze};
use system_tests::{Run, alone, can_run, command, finish, qemu, scratch_of, wait};
use trace_ring::layout::run_state;
use trace_ring::reader::Region;

/// Runs that are made until one stands out of what a busy host does to all cores.
const ATTEMPTS: usize = 4;

/// The core that is taken away.
const VICTIM: u16 = 2;

/// Runs `plan` for a while and freezes the victim's thread as often as `lengths` says, 20 ms apart.
fn with_freezes(arguments: &[&str], lengths: &[Duration]) -> (Run, Truth) {
    let folder = tempfile::tempdir().expect("a folder");
    let _alone = alone();
    let start = Instant::now();
    let mut all = vec!["qemu", "--json", "report.json", "--out", "run.mcap"];
    all.extend_from_slice(arguments);
    let child = command(folder.path(), &all).spawn().expect("the tool starts");
    let (thread, monitor) = loop {
        // The firmware may have to be built first.
        assert!(start.elapsed() < Duration::from_secs(200), "the plan does not begin");
        std::thread::sleep(Duration::from_millis(10));
        let Some(scratch) = scratch_of(child.id()).pop() else { continue };
        let ram = Manifest::of(&scratch).and_then(|manifest| manifest.ram(&scratch).ok());
        let Some(mut source) = ram.and_then(|ram| ram.find_region(false).ok().flatten()) else { continue };
        let status = Region::open(&mut source).and_then(|region| region.status(&mut source));
        if status.is_ok_and(|status| status.state == run_state::RUNNING) {
            let monitor = Manifest::monitor(&scratch);
            let threads = Monitor::connect(&monitor).and_then(|mut monitor| monitor.threads()).expect("QEMU answers");
            let thread = threads.iter().find(|(core, _)| *core == VICTIM).expect("the victim has a thread");
            break (thread.1, monitor);
        }
    };
    let truth = freeze(thread, &monitor, lengths, Duration::from_millis(20));
    (finish(folder, wait(child), start), truth)
}

/// What the report says was taken from a core: how often, and ns in all.
fn stolen(run: &Run, core: u16) -> (u64, f64) {
    let cores = run.report["stolen"]["cores"].as_array().expect("cores are listed");
    let line = cores.iter().find(|line| line["core"] == core).unwrap_or(&Value::Null);
    (line["gaps"].as_u64().unwrap_or(0), line["total_ns"].as_f64().unwrap_or(0.0))
}

/// No fault of the target is claimed, whatever the host did.
fn accuses_nobody(run: &Run) {
    assert!(matches!(run.code, 0 | 2), "an emulator's delay reads as a fault of the target\n{run}");
    assert_eq!(run.report["suspects"].as_array().map(Vec::len), Some(0), "{run}");
    assert_eq!((run.number("/ipis/lost"), run.number("/ipis/misrouted")), (0, 0), "{run}");
    run.expect_sums();
}

#[test]
fn a_core_that_is_taken_away_is_named_and_its_ipis_are_not_called_late() {
    if !can_run() {
        return;
    }
    // Nobody spins: what a core of this plan waits for, it waits for in WFI. The host's own scheduling takes less than this gap,
    // most of the time.
    let folder = tempfile::tempdir().expect("a folder");
    let plan = folder.path().join("asleep.toml");
    let text =
        "name = \"asleep\"\n[defaults]\ngap = \"3ms\"\n[[phase]]\npattern = \"matrix\"\nstate = \"wfi\"\ncount = 200\n";
    std::fs::write(&plan, text).expect("a plan");
    let plan = plan.to_str().expect("a path");
    let lengths: Vec<Duration> = (0..160).map(|index| Duration::from_millis(8 + index % 5 * 3)).collect();
    let (mut seen, mut busy) = (Vec::new(), 0);
    for _ in 0..ATTEMPTS {
        let (run, truth) = with_freezes(&["--plan", plan, "--duration", "8s"], &lengths);
        // However busy the host is.
        accuses_nobody(&run);
        let advisories = run.report["advisories"].as_array().expect("advisories are listed");
        let found = advisories.iter().find(|advisory| advisory["detector"] == "stolen_time");
        let found = found.unwrap_or_else(|| panic!("nobody says that time was stolen\n{run}"));
        assert_eq!(found["role"], "host", "{run}");
        let evidence = found["evidence"].as_str().expect("a text");
        assert!(evidence.contains("away"), "{evidence}");
        // What is shorter is not seen, and the report says so.
        assert_eq!(run.number("/stolen/gap_ns"), 3_000_000, "{run}");

        // The victim lost what the host took from every core, and the freezes.
        let frozen = truth.together().as_nanos() as f64;
        let (gaps, total) = stolen(&run, VICTIM);
        let mut others: Vec<f64> = (0..4).filter(|core| *core != VICTIM).map(|core| stolen(&run, core).1).collect();
        others.sort_by(f64::total_cmp);
        let named = found["core"] == VICTIM || evidence.contains(&format!("core {VICTIM} the most"));
        let noticed = gaps >= truth.freezes.len() as u64 / 2 && total - others[1] >= frozen / 3.0;
        if named && noticed && truth.freezes.len() >= 40 {
            return;
        }
        // A host that took more from every core than this test from one hides the victim in the crowd.
        busy += usize::from(others[0] > frozen);
        seen.push(format!(
            "{} freezes, {frozen} ns; {gaps} gaps, {total} ns; others {others:?}\n{evidence}",
            truth.freezes.len()
        ));
    }
    if busy == ATTEMPTS {
        eprintln!("not told: this host took more from each core than the freezes did\n{}", seen.join("\n"));
        return;
    }
    panic!("core {VICTIM} was frozen, and no report of {ATTEMPTS} names it:\n{}", seen.join("\n"));
}

/// Keeps all processors of this host busy while it lives, twice over.
struct Busy {
    stop: std::sync::Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Busy {
    fn new() -> Busy {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let spin = |stop: std::sync::Arc<AtomicBool>| move || while !stop.load(Ordering::Relaxed) {};
        let count = 2 * available_parallelism().map_or(2, usize::from);
        let threads = (0..count).map(|_| std::thread::spawn(spin(stop.clone()))).collect();
        Busy { stop, threads }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[test]
fn a_busy_host_is_no_fault_of_the_target() {
    if !can_run() {
        return;
    }
    for plan in ["standard", "matrix", "standard"] {
        let busy = Busy::new();
        let run = qemu(&["--plan", plan]);
        drop(busy);
        accuses_nobody(&run);
        // The host's own witness: others ran, and the cores' threads stood in the queue.
        let capture = host::capture::Capture::open(&run.capture).expect("a capture");
        let ending = capture.ending().expect("an ending");
        assert!(ending.steal > Some(0.2), "{:?}\n{run}", ending.steal);
        if let Some(load) = &ending.host_load {
            assert!(load.processors > 0 && load.threads.len() == 4, "{load:?}");
            assert!(load.threads.iter().all(|thread| thread.ran_s > 0.0), "{load:?}");
            let waited: f64 = load.threads.iter().map(|thread| thread.waited_s).sum();
            assert!(waited > 0.0, "{load:?}");
        }
        assert!(!run.report["advisories"].as_array().expect("a list").is_empty(), "it says what it saw\n{run}");
    }
}

/// Means and the half widths of their 95 % intervals, ns: of all messages together, and pair by pair.
fn means(run: &Run) -> ((f64, f64), Vec<(f64, f64)>) {
    let number = |value: &Value, name: &str| value[name].as_f64().unwrap_or_else(|| panic!("{name} of {value}\n{run}"));
    let figures = |value: &Value| (number(value, "mean_ns"), number(value, "mean_ci_ns"));
    let pairs = run.report["pairs"].as_array().expect("pairs are listed");
    (figures(&run.report["phases"][0]), pairs.iter().map(figures).collect())
}

#[test]
fn a_mean_below_one_tick_is_what_a_finer_clock_measures() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("dithered.toml");
    let text = "name = \"dithered\"\n[[phase]]\npattern = \"matrix\"\nstate = \"wfi\"\ncount = 400\ndither = 1000\n";
    std::fs::write(&file, text).expect("a plan");
    let measured = |machine: &[&str]| {
        let mut arguments = vec!["--deterministic", "--plan", file.to_str().expect("a path")];
        arguments.extend_from_slice(machine);
        let run = qemu(&arguments);
        run.expect(0, "clean");
        (means(&run), run.report["target"]["resolution_ns"].as_f64().expect("a resolution"))
    };
    // A tick is an instruction is a nanosecond: every message takes as many, and the clock adds nothing.
    let ((truth, pairs), tick) = measured(&["--cpu", "max"]);
    assert_eq!(tick, 1.0);
    assert!(pairs.iter().all(|pair| pair.0 == truth.0), "{pairs:?}");
    // The same instructions on clocks of 16 and 125 ns, of which the second has ticks longer than any latency.
    for (machine, step) in [(["--cpu", "cortex-a72"], 16.0), (["--machine", "imx8mp-evk"], 125.0)] {
        let ((all, pairs), tick) = measured(&machine);
        assert_eq!(tick, step);
        // Counted runs are the same each time, but every change of the firmware draws other dithers. So the bounds are such
        // that an honest interval passes them for any draw: twice the half width is missed once in ten thousand, and of
        // twelve intervals of 95 % more than four miss once in five thousand.
        let within = |times: f64, (mean, half): (f64, f64)| (mean - truth.0).abs() <= times * half;
        assert!(within(2.0, all), "{machine:?}: {all:?}, true mean {}", truth.0);
        // Narrow enough to say something: a fiftieth of a tick for 4,800 messages.
        assert!(all.1 <= step / 50.0, "{machine:?}: {all:?}");
        assert_eq!(pairs.len(), 12);
        assert!(pairs.iter().all(|pair| within(2.0, *pair)), "{machine:?}: {pairs:?}, true mean {}", truth.0);
        let missed: Vec<_> = pairs.iter().filter(|pair| !within(1.0, **pair)).collect();
        assert!(missed.len() <= 4, "{machine:?}: {missed:?}, true mean {}", truth.0);
        assert!(pairs.iter().all(|pair| pair.1 <= step / 10.0), "{machine:?}: {pairs:?}");
    }
}
