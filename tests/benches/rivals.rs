//! The same events, read by this tool and by those that people have: `cargo bench -p system-tests --bench rivals`.
//!
//! Events as a kernel of today writes them for synchronous calls are read as ftrace text, as `trace.dat`, as a capture and as CTF 1.8, each
//! by its tool to the end: whole processes, output to /dev/null, one after another, round by round, so that a machine that gets busy meets
//! them all alike. `trace-cmd` and `babeltrace2` are left out where they are not installed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Synchronous calls, and the cores that call each other.
const CALLS: u64 = 400_000;
const CORES: u64 = 16;

/// How often each tool reads its file.
const ROUNDS: usize = 5;

/// How often a process is asked how much memory it has.
const LOOK: Duration = Duration::from_millis(5);

/// A command that reads some events.
struct Reader {
    name: &'static str,
    events: u64,
    command: Command,
    /// Events/s of each round.
    rates: Vec<f64>,
    /// The most memory of all rounds, KiB.
    memory: u64,
}

impl Reader {
    fn new(name: &'static str, events: u64, program: &Path, arguments: &[&Path]) -> Self {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Reader { name, events, command, rates: Vec::new(), memory: 0 }
    }

    fn round(&mut self) {
        let start = Instant::now();
        let mut child = self.command.spawn().expect("the program starts");
        let status = format!("/proc/{}/status", child.id());
        let ended = loop {
            let peak = fs::read_to_string(&status).ok().and_then(|text| {
                let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
                line.split_whitespace().nth(1)?.parse().ok()
            });
            self.memory = self.memory.max(peak.unwrap_or(0));
            if let Some(ended) = child.try_wait().expect("a child") {
                break ended;
            }
            std::thread::sleep(LOOK);
        };
        let took = start.elapsed().as_secs_f64();
        assert!(ended.success(), "{}: {ended}", self.name);
        self.rates.push(self.events as f64 / took);
    }
}

/// An event: ns, core, name, the other core, arguments.
struct Moment {
    t: u64,
    core: u64,
    name: &'static str,
    peer: u64,
    arguments: String,
}

/// All events in the order of their times.
fn moments() -> Vec<Moment> {
    let mut all = Vec::new();
    let mut t = 1_000_000_000;
    for call in 0..CALLS {
        let from = call % CORES;
        let to = (from + 1 + call / CORES % (CORES - 1)) % CORES;
        let callback = "callback=generic_smp_call_function_single_interrupt+0x0/0x30";
        let site = "callsite=generic_exec_single+0x54/0x178";
        for (core, name, arguments) in [
            (from, "ipi_send_cpu", format!("cpu={to} {site} {callback}")),
            (from, "ipi_raise", format!("target_mask=00000000,{:08x} (Function call interrupts)", 1_u64 << to)),
            (to, "ipi_entry", "(Function call interrupts)".into()),
            (to, "ipi_exit", "(Function call interrupts)".into()),
        ] {
            t += 1200 + call % 7;
            all.push(Moment { t, core, name, peer: to, arguments });
        }
    }
    all
}

/// What `trace-cmd report -t` or the tracefs file `trace` shows of them.
fn text(moments: &[Moment]) -> String {
    let mut text = String::from("# tracer: nop\n#\n");
    for Moment { t, core, name, arguments, .. } in moments {
        let (seconds, rest) = (t / 1_000_000_000, t % 1_000_000_000 / 1000);
        let _ = writeln!(
            text,
            "          worker-{:<7} [{core:03}] d.h.. {seconds:>5}.{rest:06}: {name}: {arguments}",
            300 + core
        );
    }
    text
}

/// CTF 1.8 (<https://diamon.org/ctf/v1.8.3/>): one stream for each core, with one packet, and 64-bit time stamps.
fn write_ctf(folder: &Path, moments: &[Moment]) {
    fs::create_dir(folder).expect("a folder");
    let names: Vec<&str> =
        moments.iter().map(|moment| moment.name).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    let mut metadata = String::from(
        "/* CTF 1.8 */
typealias integer { size = 16; align = 8; signed = false; } := uint16_t;
typealias integer { size = 32; align = 8; signed = false; } := uint32_t;
typealias integer { size = 64; align = 8; signed = false; } := uint64_t;
trace { major = 1; minor = 8; byte_order = le; packet.header := struct { uint32_t magic; uint32_t stream_id; }; };
clock { name = target; freq = 1000000000; };
typealias integer { size = 64; align = 8; signed = false; map = clock.target.value; } := stamp_t;
stream {
    id = 0;
    event.header := struct { uint32_t id; stamp_t timestamp; };
    packet.context := struct { uint64_t content_size; uint64_t packet_size; uint32_t cpu_id; };
};
",
    );
    for (id, name) in names.iter().enumerate() {
        let _ = writeln!(
            metadata,
            "event {{ name = \"{name}\"; id = {id}; stream_id = 0; fields := struct {{ uint16_t peer; }}; }};"
        );
    }
    fs::write(folder.join("metadata"), metadata).expect("metadata");
    let mut streams: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    for Moment { t, core, name, peer, .. } in moments {
        let id = names.iter().position(|known| known == name).expect("is one of them") as u32;
        let stream = streams.entry(*core).or_default();
        stream.extend_from_slice(&id.to_le_bytes());
        stream.extend_from_slice(&t.to_le_bytes());
        stream.extend_from_slice(&(*peer as u16).to_le_bytes());
    }
    for (core, events) in streams {
        let bits = 8 * (events.len() as u64 + 28);
        let head = [
            0xC1FC_1FC1_u32.to_le_bytes().as_slice(),
            &0_u32.to_le_bytes(),
            &bits.to_le_bytes(),
            &bits.to_le_bytes(),
            &(core as u32).to_le_bytes(),
        ]
        .concat();
        fs::write(folder.join(format!("core{core}")), [head, events].concat()).expect("a stream");
    }
}

/// Lines that a command prints.
fn lines(program: &Path, arguments: &[&Path]) -> u64 {
    let output = Command::new(program).args(arguments).stderr(Stdio::null()).output().expect("the program starts");
    assert!(output.status.success(), "{}: {}", program.display(), output.status);
    output.stdout.iter().filter(|byte| **byte == b'\n').count() as u64
}

fn installed(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(program)).find(|path| path.is_file())
}

fn main() {
    // `cargo test` runs bench targets too, without this argument: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let root = system_tests::root();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--package", "host"])
        .current_dir(&root)
        .status()
        .expect("cargo starts");
    assert!(built.success(), "the tool builds");
    let tool = root.join("target/release/ipiscope");
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    let (written, dat, ctf, capture, again) =
        (at("trace.txt"), at("trace.dat"), at("ctf"), at("run.mcap"), at("again.mcap"));
    let moments = moments();
    let events = moments.len() as u64;
    fs::write(&written, text(&moments)).expect("a text");
    write_ctf(&ctf, &moments);
    let word = Path::new;
    let ours = |arguments: &[&Path]| {
        let status = Command::new(&tool).args(arguments).stdout(Stdio::null()).status().expect("the tool starts");
        assert!(status.success(), "{arguments:?}: {status}");
    };
    ours(&[word("import"), &written, word("--out"), &capture]);
    ours(&[word("export"), word("--to"), word("trace.dat"), &capture, word("--out"), &dat]);

    let mut readers = vec![
        Reader::new("ipiscope report, capture", events, &tool, &[word("report"), &capture]),
        Reader::new("ipiscope import, ftrace text", events, &tool, &[word("import"), &written, word("--out"), &again]),
        Reader::new("ipiscope import, trace.dat", events, &tool, &[word("import"), &dat, word("--out"), &again]),
    ];
    if let Some(program) = installed("trace-cmd") {
        let arguments = [word("report"), word("-i"), &dat];
        let printed = lines(&program, &arguments);
        assert!(printed >= events, "trace-cmd prints {printed} lines of {events} events");
        readers.push(Reader::new("trace-cmd report, trace.dat", events, &program, &arguments));
    }
    if let Some(program) = installed("babeltrace2") {
        assert_eq!(lines(&program, &[&ctf]), events, "babeltrace2 prints a line for each event");
        readers.push(Reader::new("babeltrace2, CTF to text", events, &program, &[&ctf]));
        readers.push(Reader::new("babeltrace2, CTF to nothing", events, &program, &[&ctf, word("-o"), word("dummy")]));
    }
    for _ in 0..ROUNDS {
        for reader in &mut readers {
            reader.round();
        }
    }
    println!("{:32} {:>9} {:>8} {:>8} {:>8} {:>8}", "", "events", "M/s min", "median", "max", "MiB");
    for reader in &mut readers {
        reader.rates.sort_by(f64::total_cmp);
        let [least, median, most] = [0, ROUNDS / 2, ROUNDS - 1].map(|at| reader.rates[at] / 1e6);
        let (name, events, memory) = (reader.name, reader.events, reader.memory / 1024);
        println!("{name:32} {events:>9} {least:>8.2} {median:>8.2} {most:>8.2} {memory:>8}");
    }
}
