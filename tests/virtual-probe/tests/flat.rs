//! The port in process over an array of bytes, used by unmodified probe-rs.

mod support;

use probe_rs::architecture::arm::dp::{DpAddress, DpRegisterAddress};
use probe_rs::architecture::arm::memory::{Component, CoresightComponent};
use support::{Cores, RAM, abort, ap, attach, attach_flat, flat, open, pattern, serve_flat, within};

#[test]
fn memory_is_read_and_written_in_all_widths() {
    let port = flat(&[]);
    let mut arm = attach_flat(&port);
    let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
    // Over two of the boundaries at which TAR stops to increment.
    let bytes = pattern(2048);
    let at = RAM + 0x3F8;
    memory.write_8(at, &bytes[..1500]).expect("is written");
    let mut read = vec![0; 1500];
    memory.read_8(at, &mut read).expect("is read");
    assert_eq!(read, bytes[..1500]);
    let mut halves = vec![0; 600];
    memory.read_16(at + 2, &mut halves).expect("is read");
    assert!(halves.iter().zip(bytes[2..].chunks(2)).all(|(half, pair)| half.to_le_bytes() == pair));
    let words: Vec<u32> = bytes.chunks(4).map(|word| u32::from_le_bytes(word.try_into().expect("4"))).collect();
    let mut read = vec![0; words.len()];
    memory.write_32(at + 0x1000, &words).expect("is written");
    memory.read_32(at + 0x1000, &mut read).expect("is read");
    assert_eq!(read, words);
    let longs: Vec<u64> = bytes.chunks(8).map(|long| u64::from_le_bytes(long.try_into().expect("8"))).collect();
    let mut read = vec![0; longs.len()];
    memory.write_64(at + 0x2000, &longs).expect("is written");
    memory.read_64(at + 0x2000, &mut read).expect("is read");
    assert_eq!(read, longs);
    memory.write_word_8(at + 0x2001, 0xA5).expect("is written");
    assert_eq!(memory.read_word_64(at + 0x2000).expect("is read"), longs[0] & !0xFF00 | 0xA500);
    drop(memory);
    let stats = port.lock().expect("is free").stats().clone();
    assert_eq!(stats.purposes.total(), stats.transfers.total);
    assert_eq!((stats.faults, stats.halts.total, stats.connections), (0, 0, 1));
    assert!(stats.transfers.ap[&0].reads.drw > 2000 && stats.transfers.ap[&0].writes.tar > 10);
}

#[test]
fn tar_increments_within_a_kibibyte_only() {
    let port = flat(&[]);
    let mut arm = attach_flat(&port);
    let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
    memory.write_word_32(RAM, 0x1111_1111).expect("is written");
    memory.write_word_32(RAM + 0x3FC, 0x2222_2222).expect("is written");
    memory.write_word_32(RAM + 0x400, 0x3333_3333).expect("is written");
    drop(memory);
    arm.write_raw_ap_register(&ap(0), 0x04, RAM as u32 + 0x3FC).expect("TAR");
    let mut words = [0; 2];
    arm.read_raw_ap_register_repeated(&ap(0), 0x0C, &mut words).expect("DRW");
    assert_eq!(words, [0x2222_2222, 0x1111_1111]);
}

#[test]
fn a_fault_is_sticky_until_abort() {
    let port = flat(&[]);
    let mut arm = attach_flat(&port);
    {
        let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
        assert!(memory.read_word_32(0x1000).is_err(), "there is no memory");
        assert!(memory.read_word_32(RAM).is_err(), "the error is sticky");
    }
    let control = DpRegisterAddress { address: 4, bank: Some(0) };
    assert_ne!(arm.read_raw_dp_register(DpAddress::Default, control).expect("CTRL/STAT") & 1 << 5, 0);
    abort(&mut *arm);
    assert_eq!(arm.read_raw_dp_register(DpAddress::Default, control).expect("CTRL/STAT") & 1 << 5, 0);
    let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
    assert_eq!(memory.read_word_32(RAM).expect("is read"), 0);
    // A write that fails shows at the next transfer.
    let _ = memory.write_word_32(0x1000, 1);
    assert!(memory.read_word_32(RAM).is_err());
    drop(memory);
    assert!(port.lock().expect("is free").stats().faults >= 3);
}

#[test]
fn the_rom_table_names_every_component() {
    let port = flat(&[]);
    let mut arm = attach_flat(&port);
    let mut memory = arm.memory_interface(&ap(1)).expect("AP 1");
    assert_eq!(memory.base_address().expect("BASE"), 0x8000_0000);
    let table = Component::try_parse(&mut *memory, 0x8000_0000).expect("is a ROM table");
    let table = CoresightComponent::new(table, ap(1));
    let Component::Class1RomTable(_, entries) = &table.component else { panic!("{table:?}") };
    let found: Vec<(u64, u16)> = entries
        .entries()
        .map(|entry| {
            let id = entry.component().id();
            (id.component_address(), id.peripheral_id().arch_id())
        })
        .collect();
    let expected: Vec<(u64, u16)> = (0..4)
        .flat_map(|core| [(0x8041_0000 + core * 0x10_0000, 0x6A15), (0x8042_0000 + core * 0x10_0000, 0x1A14)])
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_group_is_halted_by_one_pulse() {
    let port = flat(&[]);
    let mut arm = attach_flat(&port);
    let mut cores = Cores::new(&mut *arm, 4);
    for core in 0..4 {
        cores.prepare(core, if core == 3 { 0 } else { 1 });
    }
    cores.pulse(1, 1);
    assert_eq!([0, 1, 2, 3].map(|core| cores.is_halted(core)), [true, true, true, false]);
    for core in 0..3 {
        cores.set_cti(core, 0x010, 1);
        cores.set_cti(core, 0x140, 2);
    }
    cores.pulse(0, 2);
    assert!((0..4).all(|core| !cores.is_halted(core)));
    // A gate that is closed keeps a pulse at home.
    cores.set_cti(2, 0x140, 0);
    cores.halt(2);
    assert_eq!([0, 1, 2, 3].map(|core| cores.is_halted(core)), [false, false, true, false]);
    // A request that was not acknowledged halts the core again at once.
    cores.pulse(2, 2);
    assert!(cores.is_halted(2));
    drop(cores);
    let stats = port.lock().expect("is free").stats().clone();
    assert_eq!((stats.halts.total, stats.halts.stops, stats.restarts), (5, 3, 4));
    assert_eq!(stats.halts.cores, [1, 1, 3, 0]);
    assert_eq!(stats.halts.since_restart, 1);
}

#[test]
fn a_halt_can_trigger_the_halt_of_others() {
    let port = flat(&[]);
    let mut arm = attach_flat(&port);
    let mut cores = Cores::new(&mut *arm, 4);
    for core in 0..4 {
        cores.prepare(core, 1 << 2);
        // Trigger in 0 (the core halted) to channel 2, and channel 2 to the debug request.
        cores.set_cti(core, 0x020, 1 << 2);
        cores.set_cti(core, 0x0A0, 1 | 1 << 2);
    }
    cores.pulse(3, 1);
    assert!((0..4).all(|core| cores.is_halted(core)));
    drop(cores);
    assert_eq!(port.lock().expect("is free").stats().halts.stops, 1);
}

#[test]
fn registers_memory_and_locks_are_those_of_a_halted_core() {
    let port = flat(&[]);
    let mut arm = attach_flat(&port);
    arm.memory_interface(&ap(0)).expect("AP 0").write_32(RAM, &[1, 2, 3, 4]).expect("is written");
    {
        let mut cores = Cores::new(&mut *arm, 4);
        // The OS lock is locked after a reset: EDSCR answers with an error, EDPRSR does not.
        assert_ne!(cores.debug(1, 0x314) & 1 << 5, 0);
        assert!(cores.read(1, 0x088).is_err());
    }
    abort(&mut *arm);
    let mut cores = Cores::new(&mut *arm, 4);
    cores.prepare(1, 0);
    assert_eq!(cores.debug(1, 0xFBC), 0x4770_6A15);
    assert_eq!(cores.debug(1, 0x088) & 0x3F, 2);
    cores.halt(1);
    cores.set_x(1, 5, 0x0123_4567_89AB_CDEF);
    assert_eq!(cores.x(1, 5), 0x0123_4567_89AB_CDEF);
    cores.set_pc(1, RAM + 0x80);
    assert_eq!(cores.pc(1), RAM + 0x80);
    // MOV SP, X5; MOV X6, SP; CurrentEL; SCTLR_EL1; barriers, IC IALLU, DC CIVAC.
    for instruction in [0x9100_00BF, 0x9100_03E6, 0xD538_4247, 0xD518_1005, 0xD538_1008, 0xD503_3F9F, 0xD503_3FDF] {
        assert!(cores.execute(1, instruction), "{instruction:#x}");
    }
    assert!(cores.execute(1, 0xD508_751F) && cores.execute(1, 0xD50B_7E20));
    assert_eq!((cores.x(1, 6), cores.x(1, 7), cores.x(1, 8)), (0x0123_4567_89AB_CDEF, 4, 0x0123_4567_89AB_CDEF));
    // What is no known instruction sets EDSCR.ERR, and nothing is executed until it is cleared.
    cores.set_debug(1, 0x084, 0xFFFF_FFFF);
    assert_ne!(cores.debug(1, 0x088) & 1 << 6, 0);
    cores.set_debug(1, 0x084, 0x9100_07DE);
    cores.set_debug(1, 0x090, 4);
    assert_eq!(cores.x(1, 30), 0);
    // LDR X1, [X0], #8 and STRB W5, [X0], #1.
    cores.set_x(1, 0, RAM);
    assert!(cores.execute(1, 0xF840_8401) && cores.execute(1, 0x3800_1405));
    assert_eq!((cores.x(1, 1), cores.x(1, 0)), (2 << 32 | 1, RAM + 9));
    // Memory access mode, as the manual's fast download and upload have it.
    cores.set_x(1, 0, RAM + 0x100);
    let status = cores.debug(1, 0x088);
    cores.set_debug(1, 0x088, status | 1 << 20);
    for word in 0..4 {
        cores.set_debug(1, 0x080, 0x100 + word);
    }
    cores.set_debug(1, 0x088, status);
    assert_eq!(cores.x(1, 0), RAM + 0x110);
    cores.set_x(1, 0, RAM + 0x100);
    assert!(cores.execute(1, 0xD513_0400));
    cores.set_debug(1, 0x088, status | 1 << 20);
    cores.debug(1, 0x08C);
    assert_eq!([0; 3].map(|_| cores.debug(1, 0x08C)), [0x100, 0x101, 0x102]);
    cores.set_debug(1, 0x088, status);
    assert_eq!(cores.debug(1, 0x08C), 0x103);
    assert_eq!(cores.debug(1, 0x088) & 1 << 6, 0);
    // Nothing to read: an underrun.
    cores.debug(1, 0x08C);
    assert_eq!(cores.debug(1, 0x088) & (1 << 26 | 1 << 6), 1 << 26 | 1 << 6);
    // A load from nowhere.
    cores.set_debug(1, 0x090, 4);
    cores.set_x(1, 0, 0x10);
    assert!(!cores.execute(1, 0xF840_8401));
}

#[test]
fn the_glasgow_driver_reads_what_is_there() {
    within(60, || {
        let bytes = pattern(64 << 10);
        let (server, _folder) = serve_flat(bytes.clone(), &[]);
        for round in 1..=2u64 {
            let mut arm = attach(open(server.selector()));
            let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
            let mut read = vec![0; 16 << 10];
            memory.read_32(RAM, &mut read).expect("is read");
            assert!(read.iter().zip(bytes.chunks(4)).all(|(word, bytes)| word.to_le_bytes() == bytes));
            let mut read = vec![0; 8 << 10];
            memory.read_64(RAM, &mut read).expect("is read");
            assert!(read.iter().zip(bytes.chunks(8)).all(|(word, bytes)| word.to_le_bytes() == bytes));
            assert_eq!(server.stats().connections, round);
        }
        let stats = server.stats();
        assert_eq!(stats.system_reads.outside.bytes, 4 * (64 << 10));
        assert_eq!(stats.purposes.total(), stats.transfers.total);
        // Of what the reads took, nearly all is data.
        assert!(stats.purposes.outside.overhead * 50 < stats.purposes.outside.data, "{:?}", stats.purposes);
        server.stop().expect("ends well");
    });
}
