//! A card from `ipiscope image` boots under a real U-Boot: found by itself, and typed by hand; results come over the console.
//!
//! U-Boot is Debian's package `u-boot-qemu` (arm64, for QEMU's `virt`). It brings its own device tree, moves the plan to where it
//! likes, and enters the image as it enters Linux: all that a board's boot loader does.

mod console;

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use console::{Machine, SMALL, SMALL_SENT, card, read_until, serial, until};
use host::child::Guarded;
use system_tests::{Run, alone, can_run, finish, root, tool, wait};
use virtual_probe::machine::{Boot, QemuOptions};
use virtual_probe::serve::{Listen, Options, Server};

/// U-Boot for QEMU's `virt`.
const U_BOOT: &str = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";

/// Whether U-Boot is here. Under CI it must be.
fn can_boot() -> bool {
    if !can_run() {
        return false;
    }
    let here = Path::new(U_BOOT).exists();
    assert!(
        here || std::env::var_os("CI").is_none(),
        "under CI nothing is skipped, but {U_BOOT} is missing: ./setup.sh"
    );
    if !here {
        eprintln!("skipped: {U_BOOT} is missing (./setup.sh installs it)");
    }
    here
}

/// U-Boot on a machine with this card in it.
fn power_on(folder: &Path, card: &Path, machine: &str, memory: &str) -> Machine {
    let drive = format!("file=fat:{},format=raw,if=none,id=card,readonly=on", card.display());
    let arguments =
        ["-m", memory, "-bios", U_BOOT, "-no-reboot", "-drive", &drive, "-device", "virtio-blk-device,drive=card"];
    Machine::start(folder, machine, &arguments)
}

/// Stops the countdown to a boot.
fn prompt(console: &mut UnixStream) {
    read_until(console, "stop autoboot");
    console.write_all(b" ").expect("is typed");
    read_until(console, "=> ");
}

/// Types a command and waits for `words`.
fn command(console: &mut UnixStream, text: &str, words: &str) -> String {
    console.write_all(format!("{text}\n").as_bytes()).expect("is typed");
    read_until(console, words)
}

fn expect_whole(run: &Run, entry_el: u64, conduit: &str) {
    run.expect(0, "clean");
    assert_eq!(run.number("/ipis/sent"), SMALL_SENT, "{run}");
    assert_eq!((run.number("/trace/lost_records"), run.number("/target/cores_up")), (0, 4), "{run}");
    assert_eq!((run.number("/target/entry_el"), run.text("/target/psci_conduit")), (entry_el, conduit), "{run}");
    assert_eq!(run.text("/target/board"), "virt", "{run}");
}

#[test]
fn u_boot_finds_the_card_by_itself() {
    if !can_boot() {
        return;
    }
    for (machine, entry_el, conduit) in [("", 1, "hvc"), (",virtualization=on", 2, "smc")] {
        let folder = tempfile::tempdir().expect("a folder");
        let _alone = alone();
        let card = card(folder.path(), SMALL, &[]);
        let machine = power_on(folder.path(), &card, machine, "512");
        // Nothing is typed: `serial` listens through U-Boot's countdown, its scan of devices, the script and the run.
        let run = serial(folder, &[&machine.device(), "--board", "virt", "--verbose"]);
        expect_whole(&run, entry_el, conduit);
        assert!(run.stderr.contains("boot.scr"), "{run}");
        assert!(run.stderr.contains("ipiscope START"), "{run}");
    }
}

#[test]
fn the_script_and_the_read_mes_commands_boot_by_hand() {
    if !can_boot() {
        return;
    }
    for by_script in [true, false] {
        let folder = tempfile::tempdir().expect("a folder");
        let _alone = alone();
        let card = card(folder.path(), SMALL, &["--results", "summary"]);
        let readme = std::fs::read_to_string(card.join("README.txt")).expect("a read-me");
        let machine = power_on(folder.path(), &card, "", "512");
        let mut console = machine.connect();
        prompt(&mut console);
        if by_script {
            command(&mut console, "setenv ipiscope_load 'load virtio 0:1'", "=> ");
            let said = command(&mut console, "load virtio 0:1 ${scriptaddr} boot.scr", "=> ");
            assert!(said.contains("bytes read"), "{said}");
            command(&mut console, "source ${scriptaddr}", "Starting kernel");
        } else {
            let commands: Vec<&str> = readme.lines().filter_map(|line| line.strip_prefix("  ")).collect();
            let (boot, before) = commands
                .iter()
                .position(|line| line.starts_with("booti"))
                .map(|at| (commands[at], &commands[..at]))
                .expect("the read-me has a command line with booti");
            assert_eq!(before.len(), 3, "{readme}");
            for line in before {
                let said = command(&mut console, &line.replace("mmc 0:1", "virtio 0:1"), "=> ");
                assert!(!line.starts_with("load") || said.contains("bytes read"), "{line}: {said}");
            }
            command(&mut console, boot, "Starting kernel");
        }
        // The line is free for a while: what is said meanwhile is lost, and asked for.
        drop(console);
        let run = serial(folder, &[&machine.device(), "--board", "virt"]);
        expect_whole(&run, 1, "hvc");
    }
}

#[test]
fn the_image_runs_at_other_addresses() {
    if !can_boot() {
        return;
    }
    // Any 2 MiB boundary: low, odd, and above 4 GiB, where 32 bits don't reach.
    for (image, plan, memory) in
        [("0x40200000", "0x48000000", "512"), ("0x4e600000", "0x48000000", "512"), ("0x140a00000", "0x150000000", "6G")]
    {
        let folder = tempfile::tempdir().expect("a folder");
        let _alone = alone();
        let addresses = format!("{image},{plan},0x49000000");
        let card = card(folder.path(), SMALL, &["--results", "none", "--addresses", &addresses]);
        let machine = power_on(folder.path(), &card, "", memory);
        let mut console = machine.connect();
        prompt(&mut console);
        command(&mut console, "setenv ipiscope_load 'load virtio 0:1'", "=> ");
        let said = command(&mut console, "load virtio 0:1 0x44000000 boot.scr", "=> ");
        assert!(said.contains("bytes read"), "{said}");
        command(&mut console, "source 0x44000000", "Starting kernel");
        drop(console);
        let run = serial(folder, &[&machine.device(), "--board", "virt"]);
        expect_whole(&run, 1, "hvc");
        let capture = host::capture::Capture::open(&run.capture).expect("a capture");
        let mut snapshot = capture.snapshot().expect("a snapshot");
        let region = trace_ring::reader::Region::open(&mut snapshot).expect("a region");
        let at = u64::from_str_radix(&image[2..], 16).expect("a number");
        assert_eq!(region.directory.image_pa, at, "{run}");
    }
}

#[test]
fn a_run_that_u_boot_started_is_attached_to_and_drained_over_a_probe() {
    if !can_boot() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let _alone = alone();
    let card = card(folder.path(), SMALL, &["--results", "none", "--rings", "non-cacheable"]);
    let socket = folder.path().join("console");
    let machine = QemuOptions {
        boot: Boot::Bios(U_BOOT.into()),
        disk: Some(card),
        serial: Some(format!("unix:{}", socket.display())),
        ..QemuOptions::default()
    };
    let listen = Listen::Unix(folder.path().join("probe"));
    let board = Server::start(Options { listen, knobs: Vec::new(), stats: None }, machine).expect("the board is there");
    let attach = |folder: &Path| {
        let start = Instant::now();
        let selector = board.selector();
        let arguments = ["probe", "--board", "qemu-virt", "--probe", selector, "--attach"];
        let all = [&arguments[..], &["--json", "report.json", "--out", "run.mcap"]].concat();
        (wait(system_tests::command(folder, &all).spawn().expect("the tool starts")), start)
    };

    // Before U-Boot has loaded anything there is nothing to attach to, which is said.
    let mut console = UnixStream::connect(&socket).expect("the console is there");
    console.set_read_timeout(Some(std::time::Duration::from_millis(100))).expect("is set");
    prompt(&mut console);
    let none = tempfile::tempdir().expect("a folder");
    let (output, _) = attach(none.path());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("no ipiscope image was found"), "{said}");

    command(&mut console, "setenv ipiscope_load 'load virtio 0:1'", "=> ");
    let said = command(&mut console, "load virtio 0:1 ${scriptaddr} boot.scr", "=> ");
    assert!(said.contains("bytes read"), "{said}");
    command(&mut console, "source ${scriptaddr}", "ipiscope END");
    drop(console);
    let found = tempfile::tempdir().expect("a folder");
    let (output, start) = attach(found.path());
    let run = finish(found, output, start);
    run.expect(0, "clean");
    assert_eq!(run.number("/ipis/sent"), SMALL_SENT, "{run}");
    assert_eq!((run.number("/trace/lost_records"), run.number("/target/cores_up")), (0, 4), "{run}");
    let stats = board.stats();
    assert_eq!((stats.halts.total, stats.restarts, stats.purposes.system_writes.data), (0, 0, 0), "{stats:?}");
}

#[test]
fn a_core_in_u_boot_with_its_caches_on_is_taken_over_by_a_probe() {
    if !can_boot() {
        return;
    }
    {
        let (el2, entry_el) = (false, 1);
        let folder = tempfile::tempdir().expect("a folder");
        let _alone = alone();
        let socket = folder.path().join("console");
        let serial = Some(format!("unix:{}", socket.display()));
        let machine = QemuOptions { boot: Boot::Bios(U_BOOT.into()), serial, el2, ..QemuOptions::default() };
        let listen = Listen::Unix(folder.path().join("probe"));
        let board =
            Server::start(Options { listen, knobs: Vec::new(), stats: None }, machine).expect("the board is there");
        let mut console = UnixStream::connect(&socket).expect("the console is there");
        console.set_read_timeout(Some(std::time::Duration::from_millis(100))).expect("is set");
        prompt(&mut console);
        // Read all the while: QEMU's UART stops its core when nobody takes what it says.
        let said = std::thread::spawn(move || read_until(&mut console, "ipiscope END"));
        let selector = board.selector();
        let start = Instant::now();
        let arguments = ["probe", "--board", "qemu-virt", "--probe", selector, "--plan", "matrix", "--cores", "4"];
        let all = [&arguments[..], &["--json", "report.json", "--out", "run.mcap"]].concat();
        let output = wait(system_tests::command(folder.path(), &all).spawn().expect("the tool starts"));
        let run = finish(folder, output, start);
        run.expect(0, "clean");
        assert_eq!((run.number("/target/entry_el"), run.number("/target/cores_up")), (entry_el, 4), "{run}");
        assert_eq!(board.stats().halts.cores, [1, 0, 0, 0], "{run}");
        // The console tells the same story.
        let said = said.join().expect("the run ended on the console, too");
        assert!(said.contains("ipiscope START"), "{said}");
    }
}

#[test]
fn a_card_without_its_files_says_what_is_missing() {
    if !can_boot() {
        return;
    }
    for (missing, words) in [("Image", "the image was not loaded"), ("plan.bin", "the plan was not loaded")] {
        let folder = tempfile::tempdir().expect("a folder");
        let _alone = alone();
        let card = card(folder.path(), SMALL, &[]);
        std::fs::remove_file(card.join(missing)).expect("is removed");
        let machine = power_on(folder.path(), &card, "", "512");
        let mut console = machine.connect();
        prompt(&mut console);
        command(&mut console, "setenv ipiscope_load 'load virtio 0:1'", "=> ");
        let said = command(&mut console, "load virtio 0:1 ${scriptaddr} boot.scr", "=> ");
        assert!(said.contains("bytes read"), "{said}");
        let said = command(&mut console, "source ${scriptaddr}", "=> ");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn the_commands_of_the_page_run() {
    if !can_boot() {
        return;
    }
    let page = std::fs::read_to_string(root().join("docs/u-boot.md")).expect("the page");
    let section = page.split("\n## ").find(|part| part.starts_with("5. ")).expect("the section without a board");
    let code: String =
        section.lines().filter_map(|line| line.strip_prefix("    ")).map(|line| format!("{line}\n")).collect();
    let code = code.replace("\\\n", " ");
    let commands: Vec<&str> = code.lines().filter_map(|line| line.strip_prefix("$ ")).collect();
    let [image, qemu, results] = commands[..] else { panic!("not three commands: {commands:?}") };

    let folder = tempfile::tempdir().expect("a folder");
    let start = Instant::now();
    let _alone = alone();
    let shell = |line: &str| {
        let tools = tool().parent().expect("a folder").display().to_string();
        let path = format!("{tools}:{}", std::env::var("PATH").unwrap_or_default());
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {line}")]).env("PATH", path).current_dir(folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let output = wait(shell(image).spawn().expect("a shell starts"));
    assert!(output.status.success(), "{image}: {}", String::from_utf8_lossy(&output.stderr));
    let mut machine = shell(qemu.trim_end_matches('&'));
    let _qemu = Guarded::spawn(machine.stdout(Stdio::null()).stderr(Stdio::null())).expect("a shell starts");
    until("QEMU opens its console", || folder.path().join("console.sock").exists());
    let output = wait(shell(&format!("{results} --json report.json")).spawn().expect("a shell starts"));
    let run = finish(folder, output, start);
    run.expect(0, "clean");
    assert_eq!((run.number("/ipis/sent"), run.text("/target/board")), (48_000, "virt"), "{run}");

    // What the LAVA job looks for is what the console says.
    let log = std::fs::read(run.folder.path().join("console.log")).expect("a log");
    let log = String::from_utf8_lossy(&log);
    let job = std::fs::read_to_string(root().join("docs/lava/ipiscope.yaml")).expect("the job");
    for (pattern, said) in [
        ("start: ipiscope START nonce=", "ipiscope START nonce="),
        ("end: ipiscope END nonce=", "ipiscope END nonce="),
        ("(?P<result>not ok|ok) \\d+ (?P<test_case_id>phase-\\d+) # sent=\\d+", "ok 2 phase-1 # sent=24000 "),
        ("start: '~b[0-9a-f]+:'", "~b"),
        ("end: '~e[0-9a-f]+:[0-9a-f]+:[0-9a-f]{8};'", "~e"),
    ] {
        assert!(job.contains(pattern) && log.contains(said), "{pattern}: {log}");
    }
}

#[test]
fn the_image_keeps_to_the_arm64_boot_protocol() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let _alone = alone();
    let card = card(folder.path(), SMALL, &[]);
    let image = std::fs::read(card.join("Image")).expect("an image");
    // Read here by the offsets of Documentation/arch/arm64/booting.rst, not by the code under test.
    let word = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"));
    assert_eq!(&image[56..60], b"ARM\x64");
    assert_eq!(word(8), 0, "text_offset");
    assert!(word(16) >= image.len() as u64 && word(16) < 64 << 20, "image_size {:#x}", word(16));
    assert_eq!(word(24), 0b1010, "flags: little-endian, 4 KiB pages, anywhere in memory");
    assert_eq!((word(32), word(40), word(48)), (0, 0, 0), "reserved");
    let code0 = u32::from_le_bytes(image[..4].try_into().expect("four bytes"));
    assert_eq!(code0 >> 26, 0b000101, "code0 {code0:#010x} is no branch");
    assert!(host::image::check_header(&image).is_ok());

    // What U-Boot checks of the script, from include/image.h.
    let script = std::fs::read(card.join("boot.scr")).expect("a script");
    let text = std::fs::read(card.join("boot.cmd")).expect("a script");
    let word = |at: usize| u32::from_be_bytes(script[at..at + 4].try_into().expect("four bytes")) as usize;
    assert_eq!((word(0), word(12), script.len() - 64), (0x2705_1956, text.len() + 8, text.len() + 8));
    assert_eq!((word(64), word(68), &script[72..]), (text.len(), 0, &text[..]));
}
