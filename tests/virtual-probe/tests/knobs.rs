//! Each knob does what it says, and only that.

mod support;

use std::time::{Duration, Instant};

use support::{Cores, RAM, abort, ap, attach, attach_flat, flat, open, pattern, serve_flat, wait_for, within};
use trace_ring::layout::{
    ABI_VERSION, Directory, HeadLine, LANES_PER_CORE, LOCATOR_MAGIC, LOCATOR_OFFSET, LOG_STRIDE, LaneDescriptor,
    Locator, MAGIC, Sections,
};
use virtual_probe::stats::Stats;
use zerocopy::{FromZeros as _, IntoBytes as _};

#[test]
fn a_core_without_power_says_so_and_nothing_else() {
    let port = flat(&["core-off:2"]);
    let mut arm = attach_flat(&port);
    {
        let mut cores = Cores::new(&mut *arm, 4);
        assert_eq!(cores.debug(2, 0x314) & 1, 0);
        assert_eq!(cores.debug(1, 0x314) & 1, 1);
        assert!(cores.read(2, 0x088).is_err());
    }
    abort(&mut *arm);
    let mut cores = Cores::new(&mut *arm, 4);
    for core in [0, 1, 3] {
        cores.prepare(core, 1);
    }
    cores.halt(0);
    assert!(cores.is_halted(1) && cores.is_halted(3) && !cores.is_halted(2));
    assert!(cores.memory.read_word_32(0x8062_0000).is_err(), "its CTI");
}

#[test]
fn a_core_can_answer_nothing_at_all() {
    let port = flat(&["core-fault:1"]);
    let mut arm = attach_flat(&port);
    assert!(Cores::new(&mut *arm, 4).read(1, 0x314).is_err());
    abort(&mut *arm);
    assert_eq!(Cores::new(&mut *arm, 4).debug(0, 0x314) & 1, 1);
}

#[test]
fn addresses_can_answer_with_errors() {
    let port = flat(&["fault:0x40001000:0x10"]);
    let mut arm = attach_flat(&port);
    for (address, good) in [(0xFFC, true), (0x1000, false), (0x100C, false), (0x1010, true)] {
        let read = arm.memory_interface(&ap(0)).expect("AP 0").read_word_32(RAM + address);
        assert_eq!(read.is_ok(), good, "{address:#x}");
        abort(&mut *arm);
    }
}

#[test]
fn without_large_data_64_bits_are_two_accesses() {
    for (knobs, transfers) in [(&[][..], 2), (&["no-ld"], 2)] {
        let port = flat(knobs);
        let mut arm = attach_flat(&port);
        let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
        memory.write_word_32(RAM + 4, 7).expect("is written");
        assert_eq!(memory.read_word_64(RAM).expect("is read"), 7 << 32);
        drop(memory);
        let size = arm.read_raw_ap_register(&ap(0), 0x00).expect("CSW") & 7;
        assert_eq!(size, if knobs.is_empty() { 3 } else { 2 });
        // A size that is not there can't be set.
        let csw = arm.read_raw_ap_register(&ap(0), 0x00).expect("CSW") & !7;
        arm.write_raw_ap_register(&ap(0), 0x00, csw | 3).expect("CSW");
        assert_eq!(arm.read_raw_ap_register(&ap(0), 0x00).expect("CSW") & 7, size);
        assert_eq!(port.lock().expect("is free").stats().system_reads.outside.transfers, transfers);
    }
}

#[test]
fn the_system_port_can_be_absent() {
    let port = flat(&["no-system-ap"]);
    let mut arm = attach_flat(&port);
    assert_eq!(arm.read_raw_ap_register(&ap(0), 0xFC).expect("IDR"), 0);
    assert!(arm.memory_interface(&ap(0)).is_err());
    assert_eq!(Cores::new(&mut *arm, 4).debug(0, 0x314) & 1, 1);
}

#[test]
fn without_an_input_gate_a_pulse_reaches_all_that_are_mapped() {
    for (knobs, expected) in [(&[][..], [true, false, false, false]), (&["no-input-gate"], [true, true, true, false])] {
        let port = flat(knobs);
        let mut arm = attach_flat(&port);
        let mut cores = Cores::new(&mut *arm, 4);
        for core in 0..3 {
            cores.prepare(core, 0);
        }
        assert_eq!(cores.cti(0, 0xFC8) >> 24 & 3, u32::from(knobs.is_empty()));
        cores.set_cti(0, 0x140, 1);
        cores.pulse(0, 1);
        assert_eq!([0, 1, 2, 3].map(|core| cores.is_halted(core)), expected);
    }
}

const IMAGE: u64 = RAM + (2 << 20);
const REGION: u64 = RAM + (4 << 20);

/// An image and a region of one core, as the firmware lays them out.
fn region(non_cacheable: u8) -> (Vec<u8>, Vec<u8>) {
    let mut locator = Locator::new_zeroed();
    (locator.magic, locator.directory_pa) = (LOCATOR_MAGIC, REGION);
    let mut directory = Directory::new_zeroed();
    directory.magic = MAGIC;
    directory.version = ABI_VERSION;
    directory.header_len = size_of::<Directory>() as u32;
    (directory.region_pa, directory.region_len) = (REGION, 2 << 20);
    (directory.core_count, directory.log_stride) = (1, LOG_STRIDE as u32);
    directory.non_cacheable = non_cacheable;
    let anywhere = 0x1000;
    directory.sections = Sections {
        cores: anywhere,
        heads: 0x800,
        lanes: 0x900,
        phases: anywhere,
        meta: anywhere,
        slots: anywhere,
        histograms: anywhere,
        faults: anywhere,
        logs: anywhere,
        truth: anywhere,
        live: anywhere,
        calls: anywhere,
        records: 0x4_0000,
    };
    let mut bytes = directory.as_bytes().to_vec();
    bytes.resize(0x900, 0);
    for lane in 0..LANES_PER_CORE as u16 {
        let offset = 0x4_0000 + u64::from(lane) * 0x4000;
        let lane = LaneDescriptor { offset, log2_records: 8, context: lane, core: 0, reserved: [0; 2] };
        bytes.extend(lane.as_bytes());
    }
    (locator.as_bytes().to_vec(), bytes)
}

#[test]
fn reads_are_told_apart_by_where_in_the_region_they_lie() {
    let port = flat(&[]);
    let mut arm = attach_flat(&port);
    let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
    let mut words = [0; 16];
    memory.read_32(REGION, &mut words).expect("is read");
    let (locator, bytes) = region(0);
    memory.write_8(IMAGE + LOCATOR_OFFSET, &locator).expect("is written");
    memory.write_8(REGION, &bytes).expect("is written");
    let before = port.lock().expect("is free").stats().clone();
    assert_eq!(before.system_reads.outside.bytes, 64);
    // Locator, directory, status and request, a head line, records.
    for (at, count) in [(IMAGE + LOCATOR_OFFSET, 4), (REGION, 8), (REGION + 384, 32), (REGION + 0x800, 16)] {
        memory.read_32(at, &mut vec![0; count]).expect("is read");
    }
    memory.read_64(REGION + 0x4_0000, &mut [0; 512]).expect("is read");
    drop(memory);
    let stats = port.lock().expect("is free").stats().clone();
    let bytes = |span: virtual_probe::stats::Span| span.bytes;
    assert_eq!(bytes(stats.system_reads.outside) - 64, 16);
    assert_eq!(bytes(stats.system_reads.prefix), 32);
    assert_eq!(bytes(stats.system_reads.status), 128);
    assert_eq!(bytes(stats.system_reads.heads), size_of::<HeadLine>() as u64);
    assert_eq!(bytes(stats.system_reads.payload), 4096);
    assert_eq!(stats.purposes.payload.data, 1024);
    // CSW and its read back, TAR and TAR2 for each KiB, SELECT, RDBUFF for each block.
    assert!(stats.purposes.payload.overhead <= 20, "{:?}", stats.purposes.payload);
    assert_eq!(stats.purposes.total(), stats.transfers.total);
}

#[test]
fn a_port_that_does_not_snoop_sees_what_was_there_first() {
    for non_cacheable in [0, 1] {
        let port = flat(&["stale"]);
        let mut arm = attach_flat(&port);
        let (locator, bytes) = region(non_cacheable);
        let head = REGION + 0x800;
        {
            let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
            memory.write_8(IMAGE + LOCATOR_OFFSET, &locator).expect("is written");
            memory.write_8(REGION, &bytes).expect("is written");
            assert_eq!(memory.read_word_64(head).expect("is read"), 0);
            memory.read_word_32(RAM).expect("is read");
            memory.read_word_32(IMAGE).expect("is read");
        }
        // The cores write.
        {
            let mut port = port.lock().expect("is free");
            for at in [head, RAM, IMAGE + LOCATOR_OFFSET + 80, IMAGE + 0x800] {
                port.machine().write(at, &[5]).expect("is written");
            }
        }
        let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
        assert_eq!(memory.read_word_64(head).expect("is read"), if non_cacheable == 1 { 5 } else { 0 });
        // Outside of regions memory was cleaned when it was handed over.
        for at in [RAM, IMAGE + LOCATOR_OFFSET + 80, IMAGE + 0x800] {
            assert_eq!(memory.read_word_8(at).expect("is read"), 5);
        }
        // What the port itself writes it sees.
        memory.write_word_32(head + 8, 9).expect("is written");
        assert_eq!(memory.read_word_64(head + 8).expect("is read"), 9);
    }
}

#[test]
fn a_wire_is_cut_once() {
    within(60, || {
        let (server, folder) = serve_flat(pattern(4096), &["cut:100"]);
        {
            let mut arm = attach(open(server.selector()));
            let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
            assert!(memory.read_32(RAM, &mut [0; 1024]).is_err());
        }
        wait_for("the cut is counted", || server.stats().cuts == 1);
        assert_eq!(server.stats().transfers.total, 100);
        let mut arm = attach(open(server.selector()));
        let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
        memory.read_32(RAM, &mut [0; 1024]).expect("is read");
        let books = Stats::read(&folder.path().join("stats.json")).expect("are there");
        assert_eq!((books.cuts, books.transfers.total), (1, 100));
    });
}

#[test]
fn a_probe_that_hangs_does_so_once() {
    within(60, || {
        let (server, _folder) = serve_flat(pattern(4096), &["hang:100"]);
        // Who waits for the answer waits for ever, on a thread that this test leaves behind.
        let selector = server.selector().to_owned();
        std::thread::spawn(move || {
            let mut arm = attach(open(&selector));
            let _ = arm.memory_interface(&ap(0)).map(|mut memory| memory.read_32(RAM, &mut [0; 1024]));
        });
        wait_for("it hangs", || server.stats().hangs == 1);
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(server.stats().transfers.total, 100);
        server.stop().expect("it ends all the same");
    });
}

#[test]
fn a_slow_wire_takes_its_time() {
    within(60, || {
        let (server, _folder) = serve_flat(pattern(4096), &["slow:2000"]);
        let mut arm = attach(open(server.selector()));
        let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
        let start = Instant::now();
        for _ in 0..10 {
            memory.read_word_32(RAM).expect("is read");
        }
        // TAR2, TAR and DRW each.
        assert!(start.elapsed() >= Duration::from_millis(60), "{:?}", start.elapsed());
    });
}
