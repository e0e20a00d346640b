//! Writes the seeds of the host's and the firmware's fuzzers: `cargo run -p host --example host-seeds -- FOLDER`.
//!
//! They are made, not kept: captures of the simulator that the tests use, the lines that the firmware's own sender sends, the
//! built-in plans and boards, what the documents say of limits and filters. Beside each folder of texts stands a list of their
//! words, `NAME.dict`.

#[allow(dead_code, reason = "what uses it knows hardware")]
#[path = "../../firmware/src/options.rs"]
mod options;
#[path = "../../fuzz/src/region.rs"]
mod region;
#[allow(dead_code, reason = "what uses it knows hardware")]
#[path = "../../firmware/src/serial.rs"]
mod serial;
#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/simulator/mod.rs"]
mod simulator;

use std::collections::BTreeSet;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use boards::TreeOptions;
use host::import;
use host::plan::{PlanRequest, builtins, compile};
use mcap::sans_io::linear_reader::{LinearReadEvent, LinearReader, LinearReaderOptions};
use simulator::Simulator;
use simulator::calls::Wish;
use trace_ring::calls::IpiKind;
use trace_ring::layout::{Directory, LaneDescriptor, Sections};
use trace_ring::line::{Line, MOST_LINE};
use vm_fdt::{FdtReserveEntry, FdtWriter};
use zerocopy::{FromBytes as _, IntoBytes as _};

type Done = Result<(), Box<dyn Error>>;

/// Seeds beyond this are left out: a fuzzer's inputs are no longer (fuzz/run, `-max_len`).
const LONGEST: usize = 128 << 10;

const FILTERS: &[&str] = &[
    "latency > 10us && target == 4",
    "around(latency > p99.9, 20)",
    "around(lost || outcome == \"lost\", 1.5ms)",
    "!(sender in {0-3, 7}) || pair in {0->1, 1->0}",
    "kind == reschedule && !coalesced && t in [1ms, 2s]",
    "callback ~ \"*flush*\" || callsite == \"a+0x10/0x48 [mod]\"",
    "msg & 0xff && intid != 3 && phase !~ \"self*\"",
    "target & 0-3,7 && latency in [100ticks, 3us]",
    "stolen || unmatched && pid == 17 && task == \"swapper/2\"",
];

const WORDS: &[&str] = &[
    "drop:0:1:0.01",
    "late:1:250:0.5",
    "slow-sender:2:100",
    "slow-pair:0:1:40:1",
    "slow-wake:1:wfi:300",
    "misroute:0:1:2:0.1",
    "spurious:2:0.02",
    "steal:0:1000:0.1",
    "skew:1:-100",
    "jump:1:-5000:7",
    "csd-lock:1:3",
    "dead:3",
    "0-3,7",
    "worst:100",
    "none",
    "lost > 0 && latency >= 212us",
    "(spurious > 3 || duplicate > 1) && sent > 1e6",
    "core-off:1",
    "fault:0x40000000:0x1000",
];

/// Ftrace's text of what a capture of Linux is made of.
const LINUX: &str = "# tracer: nop\n#\n\
            a-1       [003] d....     8.034540: ipi_send_cpu: cpu=2 callsite=a+0x54/0x98 callback=b+0x0/0x10\n\
            a-1       [003] d....     8.034541: csd_queue_cpu: cpu=2 callsite=a func=b csd=000000006952b938\n\
            a-1       [003] d....     8.034542: ipi_raise: target_mask=00000000,00000004 (Function call interrupts)\n\
            b-2       [002] d.h..     8.034550: ipi_entry: (Function call interrupts)\n\
            b-2       [002] d.h..     8.034551: csd_function_entry: func=b, csd=000000006952b938\n\
            b-2       [002] d.h..     8.034560: csd_function_exit: func=b, csd=000000006952b938\n\
            b-2       [002] d.h..     8.034561: ipi_exit: (Function call interrupts)\n\
            b-2       [002] d.h..     8.034570: ipi_raise: target_mask=00000000,0000000a (Rescheduling interrupts)\n\
            a-1       [003] d.h..     8.034580: ipi_entry: (Rescheduling interrupts)\n\
            a-1       [003] d.h..     8.034581: ipi_exit: (Rescheduling interrupts)\n\
CPU:3 [LOST 5 EVENTS]\n";

struct Seeds(PathBuf);

impl Seeds {
    fn put(&self, target: &str, name: &str, bytes: &[u8]) -> Done {
        if bytes.len() > LONGEST {
            return Ok(());
        }
        let folder = self.0.join(target);
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join(name), bytes)?)
    }

    /// The words of texts, as libFuzzer's `-dict` takes them.
    fn words(&self, target: &str, texts: &[&str]) -> Done {
        let letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
        let words = texts.iter().flat_map(|text| text.split(|other| !letter(other)));
        let words: BTreeSet<&str> = words.filter(|word| (2..=20).contains(&word.len())).collect();
        let lines: String = words.iter().map(|word| format!("\"{word}\"\n")).collect();
        Ok(fs::write(self.0.join(format!("{target}.dict")), lines)?)
    }

    /// A capture, for all that read one.
    fn capture(&self, name: &str, path: &Path) -> Done {
        let bytes = unpacked(&fs::read(path)?);
        self.put("capture", name, &bytes)?;
        self.put("report", name, &bytes)
    }
}

fn main() -> Done {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err("give the folder that the seeds go to".into());
    };
    fs::create_dir_all(&folder)?;
    let seeds = Seeds(folder);
    plans(&seeds)?;
    texts(&seeds)?;
    captures(&seeds)?;
    rings(&seeds)?;
    console(&seeds)?;
    wire(&seeds)
}

/// Job files, and what they are compiled into.
fn plans(seeds: &Seeds) -> Done {
    let texts: Vec<&str> = builtins().iter().map(|builtin| builtin.toml).collect();
    seeds.words("plan", &texts)?;
    for builtin in builtins() {
        for (cores, choice) in [(0, 0), (2, 4)] {
            seeds.put(
                "plan",
                &format!("{}-{cores}", builtin.name),
                &[&[cores, choice], builtin.toml.as_bytes()].concat(),
            )?;
        }
        for cores in [2, 3] {
            let request = PlanRequest { plan: Some(builtin.name.into()), cores, nonce: 1, ..PlanRequest::default() };
            seeds.put("program", &format!("{}-{cores}", builtin.name), &compile(&request)?.blob)?;
        }
    }
    Ok(())
}

/// Limits, filters, words, boards and the trees of those.
fn texts(seeds: &Seeds) -> Done {
    let blocks: Vec<&str> = include_str!("../../docs/limits.md")
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    seeds.words("limits", &blocks)?;
    for (at, block) in blocks.iter().enumerate() {
        seeds.put("limits", &format!("block-{at:02}"), block.as_bytes())?;
    }
    seeds.words("filter", &[include_str!("../../docs/filters.md")])?;
    for (at, text) in FILTERS.iter().enumerate() {
        seeds.put("filter", &format!("filter-{at:02}"), text.as_bytes())?;
    }
    seeds.words("words", WORDS)?;
    for (at, text) in WORDS.iter().enumerate() {
        seeds.put("words", &format!("word-{at:02}"), text.as_bytes())?;
    }
    seeds.put("tree", "buses", &tree()?)?;
    let sources: Vec<&str> = boards::names().filter_map(boards::source).collect();
    seeds.words("board", &sources)?;
    for (name, source) in boards::names().zip(&sources) {
        // The fuzzer knows one name.
        let text = source.replacen(&format!("name = \"{name}\""), "name = \"board\"", 1);
        seeds.put("board", name, &[&[255], text.as_bytes()].concat())?;
        let board = boards::parse(name, source)?;
        for cores in [1, board.cores.max] {
            let memory_bytes = board.memory.size.unwrap_or(1 << 30);
            if let Ok(tree) = board.device_tree(TreeOptions { cores, memory_bytes }) {
                seeds.put("tree", &format!("{name}-{cores}"), &tree)?;
            }
        }
    }
    Ok(())
}

/// A tree with all that the firmware looks for, and buses that translate addresses.
fn tree() -> Result<Vec<u8>, vm_fdt::Error> {
    let mut tree = FdtWriter::new_with_mem_reserv(&[FdtReserveEntry::new(0x4100_0000, 0x5000)?])?;
    let root = tree.begin_node("")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    tree.property_string("compatible", "linux,dummy-virt")?;
    let chosen = tree.begin_node("chosen")?;
    tree.property_string("stdout-path", "serial0:115200n8")?;
    tree.property_string("bootargs", "quiet ipiscope.results=console ipiscope.rings=cacheable ipiscope.other")?;
    tree.property_u64("linux,initrd-start", 0x4800_0000)?;
    tree.property_u64("linux,initrd-end", 0x4800_1000)?;
    tree.end_node(chosen)?;
    let aliases = tree.begin_node("aliases")?;
    tree.property_string("serial0", "/soc@10000000/bus@2000000/serial@1000")?;
    tree.end_node(aliases)?;
    let cpus = tree.begin_node("cpus")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 0)?;
    for core in 0..2 {
        let cpu = tree.begin_node(&format!("cpu@{core}"))?;
        tree.property_u32("reg", core)?;
        tree.property_array_u32("cpu-idle-states", &[7])?;
        tree.end_node(cpu)?;
    }
    let states = tree.begin_node("idle-states")?;
    let state = tree.begin_node("sleep")?;
    tree.property_u32("phandle", 7)?;
    tree.property_u32("arm,psci-suspend-param", 0x1_0000)?;
    tree.end_node(state)?;
    tree.end_node(states)?;
    tree.end_node(cpus)?;
    let psci = tree.begin_node("psci")?;
    tree.property_string("method", "smc")?;
    tree.end_node(psci)?;
    let timer = tree.begin_node("timer")?;
    tree.property_string("compatible", "arm,armv8-timer")?;
    tree.property_array_u32("interrupts", &[1, 13, 4, 1, 14, 4, 1, 11, 4, 1, 10, 4])?;
    tree.end_node(timer)?;
    let memory = tree.begin_node("memory@40000000")?;
    tree.property_array_u64("reg", &[0x4000_0000, 0x2000_0000])?;
    tree.end_node(memory)?;
    let reserved = tree.begin_node("reserved-memory")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 2)?;
    let secure = tree.begin_node("secure@50000000")?;
    tree.property_array_u64("reg", &[0x5000_0000, 0x10_0000])?;
    tree.end_node(secure)?;
    tree.end_node(reserved)?;
    let soc = tree.begin_node("soc@10000000")?;
    tree.property_u32("#address-cells", 2)?;
    tree.property_u32("#size-cells", 1)?;
    tree.property_array_u32("ranges", &[0, 0, 0, 0x1000_0000, 0x1000_0000])?;
    let gic = tree.begin_node("interrupt-controller@800000")?;
    tree.property_string("compatible", "arm,gic-v3")?;
    tree.property_u32("#redistributor-regions", 2)?;
    tree.property_u32("#interrupt-cells", 3)?;
    tree.property_array_u32("reg", &[0, 0x80_0000, 0x1_0000, 0, 0x88_0000, 0x2_0000, 0, 0x90_0000, 0x2_0000])?;
    tree.end_node(gic)?;
    let watchdog = tree.begin_node("watchdog@a00000")?;
    tree.property_string("compatible", "arm,sbsa-gwdt")?;
    tree.property_array_u32("reg", &[0, 0xA0_0000, 0x1000, 0, 0xA1_0000, 0x1000])?;
    tree.end_node(watchdog)?;
    let bus = tree.begin_node("bus@2000000")?;
    tree.property_u32("#address-cells", 1)?;
    tree.property_u32("#size-cells", 1)?;
    tree.property_array_u32("ranges", &[0, 0, 0x200_0000, 0x10_0000])?;
    let serial = tree.begin_node("serial@1000")?;
    tree.property_string("compatible", "ns16550a")?;
    tree.property_array_u32("reg", &[0x1000, 0x100])?;
    tree.property_u32("reg-shift", 2)?;
    tree.property_u32("reg-io-width", 4)?;
    tree.property_u32("reg-offset", 0x10)?;
    tree.end_node(serial)?;
    tree.end_node(bus)?;
    tree.end_node(soc)?;
    tree.end_node(root)?;
    tree.finish()
}

/// Small captures of every kind.
fn captures(seeds: &Seeds) -> Done {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("run.mcap");
    let small = |plan: &str| {
        let mut target = Simulator::new(PlanRequest { plan: Some(plan.into()), cores: 2, ..PlanRequest::default() });
        target.with_plan = false;
        target
    };
    let mut matrix = small("matrix");
    matrix.run(4, |from, to, round| 10 + u64::from(from) + u64::from(to) + round);
    matrix.write(&path);
    seeds.capture("matrix", &path)?;
    matrix.lose(matrix.slot(0, 1));
    matrix.now += 10_000_000;
    matrix.acknowledge(1, 0, matrix.now);
    matrix.watch(1_000_000, 100_000);
    matrix.gap(1, trace_ring::layout::Context::Thread, matrix.now - 500);
    matrix.heartbeat(0, matrix.now - 300, 1);
    matrix.lapped.insert(0, (1, 3));
    matrix.write(&path);
    seeds.capture("trouble", &path)?;
    matrix.ended = None;
    matrix.write(&path);
    seeds.capture("killed", &path)?;
    matrix.with_snapshot = false;
    matrix.write(&path);
    seeds.capture("blind", &path)?;
    let mut calls = Simulator::calls(2);
    calls.with_plan = false;
    for wait in [true, false] {
        calls.call(trace_ring::layout::Context::Thread, 0, 1, Wish::drain(wait));
        calls.now += 20;
        calls.interrupt(1, IpiKind::CallFunction, calls.now, |_| 30);
    }
    calls.write(&path);
    seeds.capture("calls", &path)?;
    let trace = folder.path().join("trace.txt");
    fs::write(&trace, LINUX)?;
    fs::remove_file(&path)?;
    let request = import::Request { file: trace, out: Some(path.clone()), ..import::Request::default() };
    import::import(&request).map_err(|failure| failure.message)?;
    seeds.capture("linux", &path)
}

/// A capture whose chunks are not packed: a fuzzer's changes then reach what is in them.
fn unpacked(capture: &[u8]) -> Vec<u8> {
    const CHUNK: u8 = 6;
    let Some((magic, mut rest)) = capture.split_at_checked(8) else { return Vec::new() };
    let mut out = magic.to_vec();
    while let Some((head, after)) = rest.split_first_chunk::<9>() {
        let [code, length @ ..] = *head;
        let Some((body, after)) = after.split_at_checked(u64::from_le_bytes(length) as usize) else { break };
        rest = after;
        let body = match body.split_first_chunk::<16>() {
            Some((times, _)) if code == CHUNK => {
                let records = records_of(body);
                let length = (records.len() as u64).to_le_bytes();
                // Times, bytes, no CRC, packed by nothing, bytes again (<https://mcap.dev/spec>, "Chunk").
                [&times[..], &length, &[0; 4], &[0; 4], &length, &records].concat()
            }
            _ => body.to_vec(),
        };
        out.push(code);
        out.extend((body.len() as u64).to_le_bytes());
        out.extend(body);
    }
    out.extend(rest);
    out
}

/// The records inside a chunk.
fn records_of(chunk: &[u8]) -> Vec<u8> {
    let options = LinearReaderOptions::default().with_skip_start_magic(true).with_skip_end_magic(true);
    let mut reader = LinearReader::new_with_options(options);
    let bytes = [&[6], &(chunk.len() as u64).to_le_bytes()[..], chunk].concat();
    let (mut rest, mut records) = (bytes.as_slice(), Vec::new());
    while let Some(Ok(event)) = reader.next_event() {
        match event {
            LinearReadEvent::ReadRequest(need) => {
                let (now, later) = rest.split_at(need.min(rest.len()));
                reader.insert(now.len()).copy_from_slice(now);
                reader.notify_read(now.len());
                rest = later;
            }
            LinearReadEvent::Record { opcode, data } => {
                records.push(opcode);
                records.extend((data.len() as u64).to_le_bytes());
                records.extend(data);
            }
        }
    }
    records
}

/// A region as it is, and one whose sections lie over one another, so that few bytes hold it. In front: how it is read, and
/// words that change meanwhile.
fn rings(seeds: &Seeds) -> Done {
    let region = region::small_region();
    let directory = Directory::read_from_prefix(&region).map_err(|_| "a region begins with a directory")?.0;
    let Sections { heads, lanes, records, .. } = directory.sections;
    let kept = &region[..records as usize + 8 * 16 * 32];
    let poke = |when: u32, at: u64, value: u64| {
        [&when.to_le_bytes()[..], &(at as u32).to_le_bytes(), &value.to_le_bytes()].concat()
    };
    seeds.put("ring", "whole", &[&[8], kept].concat())?;
    seeds.put("ring", "live", &[&[0], kept].concat())?;
    let pokes = [poke(6, heads, 24), poke(6, records + 40, 7)].concat();
    seeds.put("ring", "changing", &[&[2], &pokes[..], kept].concat())?;
    let (small_heads, small_lanes, small_records) = (512_u64, 640_u64, 1024_u64);
    let mut small = directory;
    let mut bytes = vec![0; small_records as usize];
    for section in small.sections.as_mut_bytes().chunks_exact_mut(8) {
        section.copy_from_slice(&512_u64.to_le_bytes());
    }
    (small.sections.heads, small.sections.lanes, small.sections.records) = (small_heads, small_lanes, small_records);
    bytes[..512].copy_from_slice(small.as_bytes());
    bytes[512..640].copy_from_slice(&region[heads as usize..][..128]);
    for lane in 0..8 {
        let at = lane * size_of::<LaneDescriptor>();
        let mut descriptor =
            LaneDescriptor::read_from_prefix(&region[lanes as usize + at..]).map_err(|_| "a lane descriptor")?.0;
        descriptor.offset = descriptor.offset - records + small_records;
        bytes[small_lanes as usize + at..][..size_of::<LaneDescriptor>()].copy_from_slice(descriptor.as_bytes());
    }
    bytes.extend(&region[records as usize..][..8 * 16 * 32]);
    seeds.put("ring", "small", &[&[0], &bytes[..]].concat())?;
    let lane: Vec<u8> = region[records as usize..][..16 * 32]
        .chunks_exact(32)
        .flat_map(|record| [&u64::from(record[8]).to_le_bytes()[..], record].concat())
        .collect();
    seeds.put("record", "lane", &lane)
}

struct Port<'a>(&'a [u8], Vec<u8>);

impl serial::Port for &mut Port<'_> {
    fn read(&self, offset: u64, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0[offset as usize..][..bytes.len()]);
    }

    fn put(&mut self, byte: u8) {
        self.1.push(byte);
    }

    fn get(&mut self) -> Option<u8> {
        None
    }

    fn rest(&mut self) -> bool {
        false
    }
}

fn line(line: Line<'_>) -> Vec<u8> {
    let mut text = [0; MOST_LINE];
    let length = line.encode(&mut text);
    text[..length].to_vec()
}

/// What the firmware sends, as it is and as a console server shows it; what a host asks.
fn console(seeds: &Seeds) -> Done {
    let region = region::small_region();
    for (name, results) in [("summary", options::Results::Summary), ("console", options::Results::Console)] {
        let mut port = Port(&region, Vec::new());
        serial::Sender::new(&mut port).run(results);
        seeds.put("lines", name, &port.1)?;
        seeds.put("console", name, &[b"\0ipiscope START nonce=c0ffee\r\n", &port.1[..]].concat())?;
        let text = String::from_utf8(port.1)?;
        let halves = text.lines().map(|line| line.split_at(line.len() / 2));
        let stamped: String = halves.map(|(head, rest)| format!("[   12.034] {head}\n[   12.035] {rest}\n")).collect();
        seeds.put("console", &format!("{name}-stamped"), &[b"\0", stamped.as_bytes()].concat())?;
        let twice = [b"\0", text.as_bytes(), b"ipiscope START nonce=1\r\n", text.as_bytes()].concat();
        seeds.put("console", &format!("{name}-twice"), &twice)?;
    }
    let length = region.len() as u64;
    let asks = [
        line(Line::Request { offset: 16, length: 100 }),
        line(Line::Request { offset: length - 8, length: u64::MAX }),
        line(Line::Done { nonce: 0x00C0_FFEE }),
        line(Line::Request { offset: 0, length: 4096 }),
    ]
    .concat();
    for (name, choice) in [("asked", 0), ("summary", 1), ("console", 2), ("slow", 0x42)] {
        seeds.put("answers", name, &[&[choice, 0], &asks[..]].concat())?;
    }
    let poke = [&[0, 0x20, 0][..], &u64::MAX.to_le_bytes()].concat();
    seeds.put("answers", "poked", &[&[2, 1], &poke[..], &asks].concat())
}

/// Consistent overhead byte stuffing of a frame of fewer than 254 bytes, with its end.
fn stuffed(frame: &[u8]) -> Vec<u8> {
    let pieces = frame.split(|byte| *byte == 0).flat_map(|piece| [&[piece.len() as u8 + 1], piece].concat());
    pieces.chain([0]).collect()
}

/// What a debugger's driver says first: who are you, power, an access port's IDR, memory.
fn wire(seeds: &Seeds) -> Done {
    let write = |command: u8, value: u32| [&[1, command][..], &value.to_le_bytes()].concat();
    let frames: Vec<Vec<u8>> = vec![
        vec![0, 0x00, 0x10, 0x12, 7, 0, 0x11],
        vec![1, 0x02],
        write(0x04, 0x5000_0000),
        vec![1, 0x06],
        write(0x08, 0xF0),
        vec![1, 0x0F, 0x0E],
        write(0x08, 0),
        write(0x01, 0xB000_0052),
        write(0x05, 0x4000_0000),
        write(0x0D, 0x1234_5678),
        write(0x05, 0x4000_0000),
        vec![1, 0x0F, 0x0F, 0x0E],
        write(0x08, 0x0100_0000),
        write(0x05, 0x8041_0300),
        vec![1, 0x0F, 0x0E],
    ];
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| stuffed(frame)).collect();
    for knob in [0_u8, 9, 0x22] {
        seeds.put("wire", &format!("driver-{knob}"), &[&[knob], &bytes[..]].concat())?;
    }
    seeds.put("wire", "greeting", &[&[0], &stuffed(&[0, 0x00])[..]].concat())
}
