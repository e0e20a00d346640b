//! The inspection: a hang that is told from memory alone, by capture, dump and RAM file alike.

mod scene;

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use host::capture::Ended;
use host::error::exit;
use host::inspect::{Inspection, of_capture, of_memory, tails};
use host::monitor::{CorePicture, Redistributor};
use host::qemu::RamFile;
use proptest::prelude::*;
use scene::{CODE, REGION, Scene, function};
use trace_ring::calls::{CallDescriptor, DescriptorUse, LiveEntry, call_flag, call_state, doing};
use trace_ring::layout::{Context, LANES_PER_CORE, abort_reason, core_state, run_state};
use trace_ring::reader::Region;
use trace_ring::record::{Event, FLAG_DELIVERED, Kind, ReceiverState, SLOT_SHIFT};

/// A second of the scene's counter.
const SECOND: u64 = 62_500_000;

/// Core 2 hangs in a callback with interrupts masked. Core 0 waits for that call, core 1 for an answer of core 2, core 3 never
/// came up. Two more calls wait for core 2. Everything happened within a millisecond; the run was given up a second later.
fn hang() -> Scene {
    let mut scene = Scene::new(4);
    let waiting = DescriptorUse::Waiting.index(0, 4);
    let site = function("call_single") + 0x84;
    let call = |source: u16, state: u8, queued: u64, next: u64| CallDescriptor {
        next,
        function: function("drain_local_list"),
        info: 0x10,
        queued,
        call_site: site,
        flags: call_flag::LOCK,
        generation: 3,
        source,
        target: 2,
        state,
        intid: 1,
        ..CallDescriptor::default()
    };
    let t = 10 * SECOND;
    let many = DescriptorUse::Many(2);
    let (older, newer) = (many.index(0, 4), many.index(1, 4));
    scene.descriptors[waiting as usize] = CallDescriptor {
        function: function("slow_callback"),
        flags: call_flag::LOCK | call_flag::SYNCHRONOUS,
        ..call(0, call_state::RUNNING, t + 100, 0)
    };
    // The newer names the older; their times are equal.
    scene.descriptors[older as usize] = call(0, call_state::QUEUED, t + 6250, 0);
    scene.descriptors[newer as usize] = call(1, call_state::QUEUED, t + 6250, u64::from(older) + 1);
    let live = LiveEntry { waits_for: 0xFFFF, op: 7, ..LiveEntry::default() };
    scene.live[0] =
        LiveEntry { doing: doing::CALL, since: t + 200, site, waits_for: 2, waits_descriptor: waiting + 1, ..live };
    scene.live[1] = LiveEntry { doing: doing::ANSWER, since: t + 300, waits_for: 2, ..live };
    scene.live[2] = LiveEntry {
        doing: doing::WAITING,
        irq: 2,
        since: t,
        function: function("slow_callback"),
        function_since: t + 1000,
        function_info: 0x1388,
        executed: 41,
        ..live
    };
    (scene.cores[3].state, scene.cores[3].error) = (core_state::REFUSED, -2);
    scene.cores[3].gicr_pa = 0;
    let slot = scene.slot(0, 2);
    let arg = slot << SLOT_SHIFT | 3;
    scene.emit(0, Context::Thread, Event { msg: 7, arg, ..Scene::event(t + 150, Kind::Send, 2, 1) });
    let arg = (site & 0xFFFF_FFFF) | (function("slow_callback") & 0xFFFF_FFFF) << 32;
    scene.emit(0, Context::Thread, Event { msg: 7, arg, ..Scene::event(t + 150, Kind::CallSite, 2, 1) });
    scene.emit(2, Context::Irq, Event { ..Scene::event(t + 900, Kind::Stage, 0, 1) });
    let flags = ReceiverState::Wfi.code() | FLAG_DELIVERED;
    let arg = t + 150;
    scene.emit(2, Context::Irq, Event { flags, msg: 7, arg, ..Scene::event(t + 775, Kind::Receive, 0, 1) });
    let arg = function("slow_callback") & 0xFFFF_FFFF | 0x1388 << 32;
    scene.emit(2, Context::Irq, Event { msg: waiting, arg, ..Scene::event(t + 1000, Kind::FunctionEntry, 0, 1) });
    (scene.state, scene.reason, scene.detail) = (run_state::ABORTED, abort_reason::DEADLINE, 1);
    scene.now = t + SECOND;
    scene.ended = Some(Ended::Deadline);
    let picture = |core: u16, pc: u64, pstate: u64| CorePicture {
        core,
        pc,
        pstate,
        sp: 0xFFFF_FFFF_800A_4700,
        fp: 0xFFFF_FFFF_800A_4720,
        lr: site,
        gicr: Some(Redistributor { enabled: 0xFF, pending: 0, active: 0 }),
        frames: Vec::new(),
    };
    scene.picture = Some(vec![
        picture(0, function("call_single") + 0x90, 0x6000_0204),
        picture(1, CODE + 0x40, 0x6000_0004),
        CorePicture {
            gicr: Some(Redistributor { enabled: 0x4F, pending: 0x0001_0000, active: 2 }),
            frames: vec![function("generic_smp_call_function_single_interrupt") + 0x30, CODE + 0x10],
            ..picture(2, function("slow_callback") + 0x40, 0x6000_03C5)
        },
    ]);
    scene
}

fn inspect(scene: &Scene) -> Inspection {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.mcap");
    scene.capture(&path);
    let mut inspection = of_capture(&path, 8).expect("can be inspected");
    inspection.source = "a.mcap".into();
    inspection
}

/// The block of a core.
fn block(text: &str, core: u16) -> String {
    let start = text.find(&format!("\nCore {core} ")).unwrap_or_else(|| panic!("core {core} is not in:\n{text}"));
    let rest = &text[start + 1..];
    rest.find("\n\n").map_or(rest, |end| &rest[..=end]).to_string()
}

#[test]
fn a_hang_is_told_from_its_capture() {
    let scene = hang();
    let text = inspect(&scene).text(100);
    let (waiting, older, newer) = (
        scene.csd(DescriptorUse::Waiting.index(0, 4) as usize),
        scene.csd(DescriptorUse::Many(2).index(0, 4) as usize),
        scene.csd(DescriptorUse::Many(2).index(1, 4) as usize),
    );
    let head = "Source      a.mcap\n\
                Target      virt, 3 of 4 cores up, plan calls\n\
                Run         cut short in phase `ping`: core 1 waited longer than the run's deadline\n\
                Now         11.000000 s by the target's counter, the newest time seen: ages count from it\n";
    assert!(text.starts_with(head), "{text}");
    let expected = format!(
        "Core 0      waits for the lock of a call to core 2, in operation 7, for 1000 ms\n  \
           waits at  call_single+0x84/0x100\n  \
           waits for csd {waiting:016x}: slow_callback on core 2, running, locked, queued 1000 ms ago\n  \
           pc        call_single+0x90/0x100 at EL1, D masked (PSTATE 0x60000204)\n  \
           SGIs      enabled 0-7; pending none; active none\n  \
           queue     call_single_queue: empty\n  \
           last      events, seconds before now\n    \
             -0.999997600  thread sent SGI 1 (call_function) to core 2, message 7, at call_single+0x84/0x100,\n                         \
                                  for slow_callback\n"
    );
    assert_eq!(block(&text, 0), expected, "{text}");
    let expected = format!(
        "Core 2      in the IRQ handler of SGI 1 (Function call interrupts)\n  \
           callback  slow_callback(0x1388), for 1000 ms\n  \
           thread    waits in operation 7, for 1.00 s\n  \
           wanted    by cores 0, 1\n  \
           pc        slow_callback+0x40/0x80 at EL1, DAIF masked (PSTATE 0x600003c5)\n  \
           called by generic_smp_call_function_single_interrupt+0x30/0x60 < 0xffffffff80000010\n  \
           SGIs      enabled 0-3,6; pending none; active 1\n  \
           queue     call_single_queue: 3 entries, the oldest first\n    \
             csd {waiting:016x}  slow_callback(0x10)  running lock sync\n        \
                 of core 0 at call_single+0x84/0x100, queued 1000 ms ago\n    \
             csd {older:016x}  drain_local_list(0x10)  queued lock\n        \
                 of core 0 at call_single+0x84/0x100, queued 1000 ms ago\n    \
             csd {newer:016x}  drain_local_list(0x10)  queued lock\n        \
                 of core 1 at call_single+0x84/0x100, queued 1000 ms ago\n  \
           last      events, seconds before now\n    \
             -0.999987600  irq    took SGI 1 (call_function) of core 0, message 7, 10.0 us after its send\n                         \
                                  (wfi)\n    \
             -0.999985600  irq    acknowledged SGI 1\n    \
             -0.999984000  irq    begins slow_callback(0x1388) for core 0, csd {waiting:x}\n"
    );
    assert_eq!(block(&text, 2), expected, "{text}");
    assert!(
        block(&text, 1).starts_with("Core 1      waits for an answer of core 2, in operation 7, for 1000 ms\n"),
        "{text}"
    );
    assert_eq!(block(&text, 3), "Core 3      never up: PSCI refused it (error -2)\n", "{text}");
}

#[test]
fn the_json_says_the_same() {
    let json = inspect(&hang()).json();
    assert_eq!(json["schema"], "ipiscope.inspect/1");
    let states: Vec<&str> = (0..4).map(|core| json["cores"][core]["state"].as_str().expect("a word")).collect();
    assert_eq!(states, ["waiting_call", "waiting_answer", "in_irq", "never_up"]);
    let core = &json["cores"][2];
    assert_eq!(core["waited_for_by"], serde_json::json!([0, 1]));
    let sgis: Vec<(bool, bool, bool)> = (0..8)
        .map(|intid| {
            let sgi = &core["sgis"][intid];
            assert_eq!(sgi["intid"], intid);
            (sgi["enabled"] == true, sgi["pending"] == true, sgi["active"] == true)
        })
        .collect();
    let (on, off) = ((true, false, false), (false, false, false));
    assert_eq!(sgis, [on, (true, false, true), on, on, off, off, on, off]);
    assert_eq!((&core["queue"][0]["state"], &core["queue"][0]["source"]), (&"running".into(), &0.into()));
    assert_eq!(core["queue"][1]["function"]["name"], "drain_local_list");
    assert_eq!(core["function"]["name"], "slow_callback");
    assert_eq!((&core["masked"], &core["masks"]), (&true.into(), &"DAIF".into()));
    assert_eq!(core["pc"]["symbol"], "slow_callback+0x40/0x80");
    let wait = &json["cores"][0]["waits"];
    assert_eq!((&wait["core"], &wait["call"]["target"]), (&2.into(), &2.into()));
    assert_eq!(wait["site"]["symbol"], "call_single+0x84/0x100");
    assert_eq!(json["cores"][3]["pc"], serde_json::Value::Null);
    assert_eq!(json["cores"][0]["for_ns"], 999_996_800.0);
    assert_eq!(json["now"], 11 * SECOND);
}

#[test]
fn whose_call_was_unlocked_waits_for_nobody_any_more() {
    let mut scene = hang();
    scene.descriptors[DescriptorUse::Waiting.index(0, 4) as usize].flags = call_flag::SYNCHRONOUS;
    let inspection = inspect(&scene);
    assert_eq!(inspection.cores[2].waited_for_by, [1]);
    assert!(block(&inspection.text(100), 0).contains("not locked"));
}

#[test]
fn a_core_that_has_no_mmu_yet_stands_where_the_image_was_loaded() {
    let mut scene = hang();
    let stands = |pc: u64| CorePicture { core: 3, pc, pstate: 0x3C5, ..CorePicture::default() };
    for (pc, symbol) in [
        (scene::IMAGE + 0x1044, "slow_callback+0x4/0x80"),
        (scene::IMAGE - 4, "0x401ffffc"),
        (scene::IMAGE + 0x10_0000, "0x40300000"),
    ] {
        scene.picture = Some(vec![stands(pc)]);
        let registers = inspect(&scene).cores.swap_remove(3).registers.expect("has some");
        assert_eq!((registers.pc.symbol.as_str(), registers.pc.address), (symbol, format!("{pc:#x}")));
    }
}

#[test]
fn each_state_of_a_core_has_its_words() {
    let mut scene = Scene::new(4);
    let live = |doing: u8| LiveEntry { doing, waits_for: 0xFFFF, since: 500, ..LiveEntry::default() };
    scene.now = 1000;
    let mut look = |core: usize, entry: LiveEntry| {
        scene.live[core] = entry;
        let view = inspect(&scene).cores.swap_remove(core);
        (view.state, view.summary, view.thread)
    };
    for (entry, state, words) in [
        (live(doing::RUNNING), "running", "runs operation 0"),
        (live(doing::WAITING), "waiting", "waits in operation 0"),
        (live(doing::ANSWER), "waiting_answer", "waits for an answer of others, in operation 0"),
        (live(doing::MASKED), "masked", "has interrupts masked by PSTATE.I, in operation 0"),
        (live(doing::PRIORITY_MASKED), "priority_masked", "has interrupts masked by ICC_PMR_EL1, in operation 0"),
        (live(doing::DONE), "done", "its part in the plan is over"),
        (live(doing::OFF), "up", "up; what it does is not recorded"),
        (live(99), "up", "up; what it does is not recorded"),
        (LiveEntry { irq: 1, ..live(doing::OFF) }, "in_irq", "in the IRQ handler of SGI 0 (Rescheduling interrupts)"),
        (LiveEntry { irq: 10, ..live(doing::OFF) }, "in_irq", "in the IRQ handler of SGI 9"),
        (LiveEntry { irq: 28, ..live(doing::OFF) }, "in_irq", "in the IRQ handler of interrupt 27"),
        (LiveEntry { parked: 3, ..live(doing::OFF) }, "parked", "parked by SGI 2 (CPU stop interrupts)"),
        (
            LiveEntry { nmi: 8, irq: 2, parked: 4, ..live(doing::OFF) },
            "in_nmi",
            "in the NMI handler of SGI 7 (CPU backtrace interrupts), over that of SGI 1 (Function call interrupts)",
        ),
    ] {
        assert_eq!(look(1, entry), (state, words.to_string(), None), "{entry:?}");
    }
    let (state, _, thread) = look(1, LiveEntry { irq: 2, ..live(doing::RUNNING) });
    assert_eq!((state, thread.as_deref()), ("in_irq", Some("runs operation 0")));

    let mut scene = Scene::new(2);
    for (state, words) in [
        (core_state::OFF, "not started"),
        (core_state::STARTING, "has not arrived"),
        (core_state::NO_SHOW, "boot deadline"),
        (core_state::NO_REDISTRIBUTOR, "no redistributor"),
        (core_state::DISABLED, "device tree"),
        (core_state::UNREACHABLE, "no SGI reaches"),
        (core_state::UNKNOWN, "is not known"),
        (4711, "0x1267"),
    ] {
        scene.cores[1].state = state;
        let inspection = inspect(&scene);
        assert_eq!(inspection.cores[1].state, "never_up");
        assert!(inspection.cores[1].summary.contains(words), "{}", inspection.cores[1].summary);
        assert!(inspection.text(80).contains("1 of 2 cores up"));
    }
    scene.cores[1].state = core_state::FAULTED;
    (scene.faults[1].kind, scene.faults[1].elr, scene.faults[1].esr) = (1, function("slow_callback") + 4, 0x9600_0004);
    let summary = inspect(&scene).cores.swap_remove(1).summary;
    assert_eq!(summary, "took an exception at slow_callback+0x4/0x80 (ESR_EL1 0x96000004)");
}

#[test]
fn events_are_the_last_of_all_lanes_and_tell_what_records_say() {
    let mut scene = Scene::new(3);
    let context = Context::Thread;
    let say = |scene: &mut Scene, event: Event| scene.emit(0, context, event);
    for t in 1..=40 {
        say(&mut scene, Event { msg: t as u32, ..Scene::event(t, Kind::Mark, 0, 0) });
    }
    let site = (function("call_single") + 0x84) & 0xFFFF_FFFF;
    let drain = function("drain_local_list") & 0xFFFF_FFFF;
    say(&mut scene, Event { extra: 1, arg: 0b110, ..Scene::event(50, Kind::SendMask, 0, 1) });
    say(&mut scene, Event { arg: 0, ..Scene::event(50, Kind::SendMask, 64, 1) });
    say(&mut scene, Event { arg: site, ..Scene::event(50, Kind::CallSite, 64, 1) });
    scene.emit(0, Context::Irq, Event { extra: 0, ..Scene::event(51, Kind::Park, 0, 2) });
    scene.emit(
        0,
        Context::Nmi,
        Event { extra: 0, flags: 2, arg: CODE + 0x1004, ..Scene::event(52, Kind::Frame, 0, 7) },
    );
    scene.emit(
        0,
        Context::Nmi,
        Event { extra: 1, flags: 2, arg: CODE + 0x1104, ..Scene::event(52, Kind::Frame, 0, 7) },
    );
    say(&mut scene, Event { msg: 3, extra: 1, arg: 1 << 32 | 2, ..Scene::event(53, Kind::Retire, 1, 1) });
    say(&mut scene, Event { msg: 2, arg: 625, ..Scene::event(54, Kind::CallWait, 1, 1) });
    say(&mut scene, Event { msg: 2, flags: 1, arg: drain | site << 32, ..Scene::event(55, Kind::Queued, 1, 1) });
    say(&mut scene, Scene::event(56, Kind::Unknown(77), 0, 0));
    let texts: Vec<String> = inspect(&scene).cores.swap_remove(0).events.into_iter().map(|event| event.text).collect();
    let csd = scene.csd(2);
    let expected = [
        "mark 40".to_string(),
        "sent SGI 1 (call_function) to cores 1-2, at call_single+0x84/0x100".to_string(),
        "parked by SGI 2".to_string(),
        "stood in drain_local_list+0x4/0x40 < call_single+0x4/0x100".to_string(),
        "gave up 2 messages up to 3 of SGI 1 (call_function) to core 1: what became of it is not known (enabled, not \
         pending, not active)"
            .to_string(),
        format!("has waited 10.0 us for csd {csd:x} of core 1"),
        format!("queued call drain_local_list for core 1, and waits, at call_single+0x84/0x100, csd {csd:x}"),
        "record of kind 77, which this version does not know".to_string(),
    ];
    assert_eq!(texts, expected);
}

/// A source whose head of lane 0 is further on at each look, as that of a target that goes on.
struct Moving {
    bytes: Vec<u8>,
    head: u64,
    heads: Vec<u64>,
}

impl trace_ring::reader::RegionSource for Moving {
    type Error = std::io::Error;

    fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), std::io::Error> {
        buffer.copy_from_slice(&self.bytes[offset as usize..][..buffer.len()]);
        Ok(())
    }

    fn read_u64(&mut self, offset: u64) -> Result<u64, std::io::Error> {
        if offset == self.head && !self.heads.is_empty() {
            return Ok(self.heads.remove(0));
        }
        let mut bytes = [0; 8];
        self.read(offset, &mut bytes).map(|()| u64::from_le_bytes(bytes))
    }
}

#[test]
fn the_newest_records_are_read_where_they_lie_and_none_that_may_be_overwritten() {
    let mut scene = Scene::new(2);
    for t in 0..100 {
        scene.emit(0, Context::Thread, Scene::event(t, Kind::Mark, 0, 0));
    }
    let bytes = scene.region();
    let mut source = Moving { bytes, head: 0, heads: Vec::new() };
    let region = Region::open(&mut source).expect("opens");
    source.head = region.directory.sections.heads;
    let mut numbers = |most: usize, heads: &[u64]| -> Vec<u64> {
        source.heads = heads.to_vec();
        tails(&region, &mut source, most).expect("is read")[0].iter().map(|record| record.index).collect()
    };
    assert_eq!(numbers(5, &[]), [95, 96, 97, 98, 99]);
    // Of 64 slots two may be under way: 38 is the oldest that is safe.
    assert_eq!(numbers(1000, &[]), (38..100).collect::<Vec<_>>());
    // The head went on to 130 meanwhile: slots up to 131's were written, which held records up to 67.
    assert_eq!(numbers(1000, &[100, 130]), (68..100).collect::<Vec<_>>());
    assert_eq!(numbers(1000, &[100, 1000]), [0u64; 0]);
}

#[test]
fn a_dump_is_inspected_like_a_capture() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("dump.bin");
    std::fs::write(&path, hang().region()).expect("is written");
    let memory = format!("{}@{REGION:#x}", path.display()).parse().expect("is memory");
    let mut said = Vec::new();
    let inspection = of_memory(&memory, None, 8, &mut |text| said.push(text.to_string())).expect("can be inspected");
    assert!(inspection.source.contains("dump.bin"), "{}", inspection.source);
    let core = &inspection.cores[2];
    assert_eq!((core.state, core.waited_for_by.as_slice()), ("in_irq", &[0, 1][..]));
    assert_eq!(core.queue.len(), 3);
    assert_eq!(core.events.len(), 3);
    assert!(core.registers.is_none(), "a dump has no registers");
    // Without its ELF a function is its address.
    let function = &core.function.as_ref().expect("runs one").function;
    assert_eq!((function.name.as_ref(), function.address.as_str()), (None, "0xffffffff80001040"));
    assert!(said.iter().any(|text| text.contains("--firmware")), "{said:?}");
}

fn tool(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ipiscope"));
    let output = command.args(arguments).stdin(Stdio::null()).output().expect("runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// A run that goes on: its folder, locked by this process, its RAM and its capture, as `ipiscope qemu` lays them out.
#[test]
fn a_run_that_goes_on_is_read_from_its_ram() {
    use host::scratch::Scratch;
    use trace_ring::layout::{LOCATOR_MAGIC, LOCATOR_OFFSET, Locator};
    use zerocopy::{FromZeros as _, IntoBytes as _};

    const BASE: u64 = 0x4000_0000;
    let scene = hang();
    let scratch = Scratch::create(1 << 20, u64::from(std::process::id())).expect("is made");
    let capture = scratch.file("a.mcap");
    scene.capture(&capture);
    let locator = Locator { magic: LOCATOR_MAGIC, directory_pa: REGION, ..Locator::new_zeroed() };
    let ram = File::options().read(true).write(true).create_new(true).open(scratch.file("ram")).expect("is made");
    use std::os::unix::fs::FileExt as _;
    ram.write_all_at(locator.as_bytes(), (2 << 20) + LOCATOR_OFFSET).expect("is written");
    ram.write_all_at(&scene.region(), REGION - BASE).expect("is written");
    let manifest = serde_json::json!({
        "machine": "virt", "plan": "calls", "capture": capture, "ram_base": BASE, "qemu": 4_000_000_000u32,
    });
    scratch.write("run.json", manifest.to_string().as_bytes()).expect("is written");

    let folder = scratch.path().to_str().expect("a path");
    let (code, stdout, stderr) = tool(&["inspect", "--live", folder, "--last", "3"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(block(&stdout, 2).contains("call_single_queue: 3 entries"), "{stdout}");
    assert!(block(&stdout, 2).contains("acknowledged SGI 1"), "{stdout}");
    assert!(block(&stdout, 2).contains("slow_callback(0x1388)"), "{stdout}");
    // Nobody serves its monitor: the rest is told all the same.
    assert!(stdout.contains("registers are not known: QEMU's monitor at"), "{stdout}");
    // By the process that owns it, which is this one.
    let (code, stdout, stderr) = tool(&["inspect", "--live", &std::process::id().to_string(), "--json", "-"]);
    assert_eq!(code, Some(0), "{stderr}");
    let json: serde_json::Value = serde_json::from_str(&stdout).expect("is JSON");
    assert_eq!(json["cores"][2]["state"], "in_irq");
    let (code, _, stderr) = tool(&["inspect", "--live", "/nonexistent"]);
    assert_eq!(code, Some(i32::from(exit::MISUSED)), "{stderr}");
    assert!(stderr.contains("/nonexistent") && stderr.contains(folder), "{stderr}");
}

#[test]
fn what_can_t_be_inspected_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.mcap");
    let text = path.to_str().expect("a path");
    let mut scene = Scene::new(2);
    scene.snapshot = false;
    scene.capture(&path);
    let (code, _, stderr) = tool(&["inspect", text]);
    assert_eq!(code, Some(i32::from(exit::UNMEASURED)), "{stderr}");
    assert!(stderr.contains("no snapshot") && stderr.contains("next step"), "{stderr}");
    // A firmware that never laid its region out: where its cores stood is told.
    scene.picture = Some(vec![CorePicture { pc: function("slow_callback"), pstate: 0x3C5, ..CorePicture::default() }]);
    scene.capture(&path);
    let (code, stdout, stderr) = tool(&["inspect", text]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(block(&stdout, 0).contains("pc        slow_callback+0x0/0x80 at EL1, DAIF masked"), "{stdout}");
    std::fs::write(&path, "no capture").expect("is written");
    let (code, _, stderr) = tool(&["inspect", text]);
    assert_eq!(code, Some(i32::from(exit::MISUSED)), "{stderr}");
    for arguments in [&["inspect"][..], &["inspect", text, "--live"], &["inspect", text, "--halt"]] {
        assert_eq!(tool(arguments).0, Some(i32::from(exit::MISUSED)), "{arguments:?}");
    }
}

/// Whether QEMU is there. Under CI it must be.
fn has_qemu() -> bool {
    match host::qemu::Version::ask() {
        Ok(_) => true,
        Err(error) if std::env::var_os("CI").is_some() => panic!("under CI nothing is skipped: {error}"),
        Err(error) => {
            eprintln!("skipped: {error}");
            false
        }
    }
}

/// QEMU without firmware: a few instructions leave a chain of frames, enable and raise SGIs, and spin.
#[test]
fn qemu_says_where_a_core_stands() {
    use host::child::Guarded;
    use host::monitor::{Monitor, picture};

    if !has_qemu() {
        return;
    }
    // Behind the device tree, which QEMU puts at the beginning of RAM.
    const CODE_AT: u64 = 0x4020_0000;
    const STACK: u64 = 0x4020_1000;
    const GICR: u64 = 0x080A_0000;
    let words: [(u64, u64); 9] = [
        (CODE_AT, 0x5800_0122_5800_011D),        // ldr x29, STACK; ldr x2, GICR_ISENABLER0
        (CODE_AT + 0x08, 0xB900_0041_5280_0061), // mov w1, #3; str w1, [x2]
        (CODE_AT + 0x10, 0xB901_0041_5280_0041), // mov w1, #2; str w1, [x2, #0x100]: GICR_ISPENDR0
        (CODE_AT + 0x18, 0x1400_0000),           // b .
        (CODE_AT + 0x20, STACK),
        (CODE_AT + 0x28, GICR + 0x1_0100),
        (STACK, STACK + 0x40),
        (STACK + 8, 0x4000_0ABC),
        (STACK + 0x48, 0x4000_0DEC),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("qmp");
    let mut command = Command::new(host::qemu::PROGRAM);
    command.args(["-M", "virt,gic-version=3,acpi=off", "-cpu", "max", "-smp", "2", "-m", "64M", "-accel", "tcg"]);
    command.args(["-display", "none", "-nic", "none", "-monitor", "none", "-serial", "none", "-nodefaults"]);
    command.arg("-qmp").arg(format!("unix:{},server=on,wait=off", socket.display()));
    for (address, word) in words {
        command.arg("-device").arg(format!("loader,addr={address:#x},data={word:#x},data-len=8"));
    }
    command.arg("-device").arg(format!("loader,addr={CODE_AT:#x},cpu-num=0"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let _qemu = Guarded::spawn(&mut command).expect("QEMU starts");

    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let mut monitor = loop {
        match Monitor::connect(&socket) {
            Ok(monitor) => break monitor,
            Err(error) if std::time::Instant::now() > deadline => panic!("{error}"),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(20)),
        }
    };
    assert_eq!(monitor.cores().expect("is counted"), 2);
    let entries = Scene::new(2).cores;
    let pictures = loop {
        let pictures = picture(&mut monitor, &entries, std::time::Duration::from_secs(20)).expect("is taken");
        if pictures.first().is_some_and(|core| core.pc == CODE_AT + 0x18) || std::time::Instant::now() > deadline {
            break pictures;
        }
    };
    let core = &pictures[0];
    assert_eq!((core.core, core.pc, core.fp), (0, CODE_AT + 0x18, STACK), "{pictures:?}");
    assert_eq!(core.frames, [0x4000_0ABC, 0x4000_0DEC]);
    assert_eq!(core.pstate & 0x3CF, 0x3C5, "EL1h, all masked: {:#x}", core.pstate);
    let gicr = core.gicr.expect("is read");
    assert_eq!((gicr.enabled & 0xFF, gicr.pending & 0xFF, gicr.active & 0xFF), (3, 2, 0));
    // Core 1 was never switched on; another who asks is turned away and told why.
    assert_eq!((pictures[1].core, pictures[1].gicr.map(|gicr| gicr.pending & 0xFF)), (1, Some(0)));
    let error = Monitor::connect(&socket).expect_err("one at a time");
    assert!(error.to_string().contains("serves somebody else"), "{error}");
    monitor.stop().expect("stops");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Memory may hold anything: an inspection of it says something, and ends.
    #[test]
    fn any_memory_is_inspected(
        live in prop::collection::vec(any::<[u64; 8]>(), 3),
        calls in prop::collection::vec((0u64..30, any::<u64>(), 0u16..4, 0u8..5, 0u32..4), 27),
        records in prop::collection::vec((0u8..4, any::<u64>(), 0u8..20, any::<u64>(), any::<u16>()), 0..80),
        hz in prop::sample::select(vec![0u64, 1, 62_500_000, u64::MAX]),
    ) {
        use zerocopy::FromBytes as _;
        use zerocopy::IntoBytes as _;
        let mut scene = Scene::new(3);
        scene.hz = hz;
        for (entry, words) in scene.live.iter_mut().zip(&live) {
            *entry = LiveEntry::read_from_bytes(words.as_bytes()).expect("has its length");
        }
        for (call, (next, queued, target, state, flags)) in scene.descriptors.iter_mut().zip(calls) {
            *call = CallDescriptor { next, queued, target, state, flags, intid: 1, ..CallDescriptor::default() };
        }
        for (context, t, kind, arg, peer) in records {
            let event = Event { t, peer, msg: arg as u32, arg, extra: arg as u8, ..Scene::event(t, Kind::from_code(kind), 0, 1) };
            scene.emit(1, Context::ALL[usize::from(context)], event);
        }
        let queued: Vec<usize> = (0..3)
            .map(|core| {
                let waits = |call: &&CallDescriptor| {
                    let left = call.state == call_state::EXECUTED && call.flags & call_flag::LOCK != 0;
                    call.target == core && (matches!(call.state, call_state::QUEUED | call_state::RUNNING) || left)
                };
                scene.descriptors.iter().filter(waits).count()
            })
            .collect();
        let inspection = inspect(&scene);
        prop_assert!(inspection.text(80).contains("Core 2"));
        // Whatever the links say: each call that waits is told once.
        for (core, count) in inspection.cores.iter().zip(queued) {
            prop_assert_eq!(core.queue.len(), count);
        }
    }
}

#[test]
fn a_ram_file_is_a_region_like_a_dump() {
    let folder = tempfile::tempdir().expect("a folder");
    let path: &Path = &folder.path().join("ram");
    std::fs::write(path, hang().region()).expect("is written");
    let mut source = RamFile::new(File::open(path).expect("opens"), 0).expect("is a region");
    let region = Region::open(&mut source).expect("opens");
    let tails = tails(&region, &mut source, 8).expect("is read");
    assert_eq!(tails[2 * LANES_PER_CORE + Context::Irq as usize].len(), 3);
}
