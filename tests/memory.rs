//! Memory that others took: a raw dump, and a debugger's GDB server, read like a live target.

mod console;

use std::time::Instant;

use console::{Machine, SMALL, SMALL_SENT, card, until};
use system_tests::{Run, alone, can_run, command, finish, run, wait};

/// Runs `ipiscope report --memory` to its end.
fn report(folder: tempfile::TempDir, arguments: &[&str]) -> Run {
    let start = Instant::now();
    let all = [&["report", "--json", "report.json", "--out", "run.mcap", "--memory"], arguments].concat();
    let output = wait(command(folder.path(), &all).spawn().expect("the tool starts"));
    finish(folder, output, start)
}

#[test]
fn a_dump_and_a_gdb_server_are_reported_on() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let _alone = alone();
    let card = card(folder.path(), SMALL, &["--results", "none"]);
    let (ram, gdb) = (folder.path().join("ram"), folder.path().join("gdb"));
    let backend = format!("memory-backend-file,id=ram,share=on,mem-path={},size=256M", ram.display());
    let server = format!("unix:{},server=on,wait=off", gdb.display());
    let machine = Machine::boot(
        folder.path(),
        &card,
        "",
        &["-object", &backend, "-machine", "memory-backend=ram", "-gdb", &server],
    );
    let mut console = machine.connect();
    console::read_until(&mut console, "ipiscope END");
    // The line is printed, then the run's state changes: a dump in between is one of a run that has not ended.
    std::thread::sleep(std::time::Duration::from_millis(500));
    until("the GDB server is there", || gdb.exists());

    // As a debugger's `dump memory` writes it: the file, and the address of its first byte.
    let dump = folder.path().join("dump.bin");
    std::fs::copy(&ram, &dump).expect("is copied");
    let argument = format!("{}@0x4000_0000", dump.display());
    let dumped = report(tempfile::tempdir().expect("a folder"), &[&argument, "--board", "virt", "--tag", "unit=A17"]);
    dumped.expect(0, "clean");
    assert_eq!((dumped.number("/ipis/sent"), dumped.number("/trace/lost_records")), (SMALL_SENT, 0), "{dumped}");
    assert_eq!((dumped.text("/target/source"), dumped.text("/plan/name")), ("memory", "small"), "{dumped}");
    assert_eq!(dumped.text("/target/tags/unit"), "A17", "{dumped}");

    // The region alone, without the image that names it.
    let bytes = std::fs::read(&dump).expect("is read");
    let whole = host::capture::Capture::open(&dumped.capture).expect("is a capture");
    let region = trace_ring::reader::Region::open(&mut whole.snapshot().expect("a snapshot")).expect("a region");
    let at = (region.directory.region_pa - 0x4000_0000) as usize;
    let alone_in_file = folder.path().join("region.bin");
    std::fs::write(&alone_in_file, &bytes[at..at + region.directory.region_len as usize]).expect("is written");
    let argument = format!("{}@{:#x}", alone_in_file.display(), region.directory.region_pa);
    let part = report(tempfile::tempdir().expect("a folder"), &[&argument]);
    part.expect(0, "clean");
    assert_eq!(part.number("/ipis/sent"), SMALL_SENT, "{part}");

    // The same through a debugger's server; nothing is said of where the image lies.
    let argument = format!("gdb:unix:{}", gdb.display());
    let asked = report(tempfile::tempdir().expect("a folder"), &[&argument]);
    asked.expect(0, "clean");
    assert_eq!((asked.number("/ipis/sent"), asked.number("/trace/lost_records")), (SMALL_SENT, 0), "{asked}");

    // A dump of the wrong place, a wrong address, and no server.
    let argument = format!("{}@0x8000_0000", alone_in_file.display());
    let moved = report(tempfile::tempdir().expect("a folder"), &[&argument]);
    moved.expect(0, "clean");
    let zeroes = folder.path().join("zeroes.bin");
    std::fs::write(&zeroes, vec![0; 4 << 20]).expect("is written");
    for (argument, code, words) in [
        (format!("{}@0x4000_0000", zeroes.display()), 3, "holds no trace region"),
        (format!("{}@0x4000_0000", folder.path().join("none").display()), 2, "can't read"),
        (format!("{}@here", zeroes.display()), 3, "hexadecimal"),
        ("gdb:unix:/nonexistent".into(), 2, "GDB server"),
    ] {
        let (ended, _, said) = run(folder.path(), &["report", "--memory", &argument]);
        assert_eq!(ended, code, "{argument}: {said}");
        assert!(said.contains(words), "{argument}: {said}");
    }
}

#[test]
fn a_dump_of_a_run_that_goes_on_says_so() {
    if !can_run() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let _alone = alone();
    let card = card(folder.path(), SMALL, &["--results", "none", "--duration", "60s"]);
    let ram = folder.path().join("ram");
    let backend = format!("memory-backend-file,id=ram,share=on,mem-path={},size=256M", ram.display());
    let machine = Machine::boot(folder.path(), &card, "", &["-object", &backend, "-machine", "memory-backend=ram"]);
    let mut console = machine.connect();
    console::read_until(&mut console, "KTAP");
    std::thread::sleep(std::time::Duration::from_millis(500));
    let dump = folder.path().join("dump.bin");
    std::fs::copy(&ram, &dump).expect("is copied");
    let argument = format!("{}@0x4000_0000", dump.display());
    let run = report(tempfile::tempdir().expect("a folder"), &[&argument]);
    assert_eq!((run.code, run.text("/verdict")), (2, "incomplete"), "{run}");
    assert!(run.text("/error/message").contains("had not ended"), "{run}");
    run.expect_sums();
    assert!(run.number("/trace/records") > 0, "{run}");
}

#[test]
fn the_firmwares_log_is_read_from_a_capture() {
    if !can_run() {
        return;
    }
    let run = system_tests::qemu(&["--plan", "ping", "--cores", "3", "--log"]);
    run.expect(0, "clean");
    assert!(run.stderr.contains("core 0   info  3 of 3 cores are up"), "{run}");
}
