//! The probe over QEMU, opened by unmodified probe-rs over its socket. Skipped where QEMU is missing.

mod support;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use probe_rs::config::{Registry, TargetSelector};
use probe_rs::{CoreStatus, MemoryInterface as _, Permissions};
use support::{Cores, ap, attach, open, qemu, serve, serve_qemu, wait_for, within};
use virtual_probe::machine::QemuOptions;
use virtual_probe::stats::Stats;

const CODE: u64 = 0x4040_0000;
const COUNTER: u64 = 0x4050_0000;
/// Where the boot core spins.
const SPIN: std::ops::RangeInclusive<u64> = 0x4010_0000..=0x4010_0004;

/// Adds `step` to the word at \[X1\] for ever: `ldr w2, [x1]; add w2, w2, #step; str w2, [x1]; b .-12`.
fn count_by(step: u32) -> [u32; 4] {
    [0xB940_0022, 0x1100_0042 | step << 10, 0xB900_0022, 0x17FF_FFFD]
}

#[test]
fn a_halted_core_goes_where_it_is_sent_and_memory_is_seen_meanwhile() {
    if !qemu() {
        return;
    }
    within(60, || {
        let (server, folder) = serve(4, &[]);
        let mut arm = attach(open(server.selector()));
        {
            let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
            memory.write_32(CODE, &count_by(1)).expect("is written");
            assert_eq!(memory.read_word_32(0x4000_0000).expect("is read"), 0xEDFE_0DD0, "the device tree");
        }
        {
            let mut cores = Cores::new(&mut *arm, 4);
            for core in 0..4 {
                cores.prepare(core, 0);
                assert_eq!(cores.debug(core, 0xFA8), 0x8000_0000 | core as u32);
            }
            assert_eq!(cores.debug(0, 0x314), 0b1011, "powered, runs, unlocked; was reset and had lost power");
            assert_eq!(cores.debug(0, 0x314), 1, "reading cleared the sticky bits");
            cores.halt(0);
            assert_eq!(cores.debug(0, 0x088) & 0x3F, 0x13);
            assert_eq!(cores.debug(0, 0x088) >> 8 & 3, 1, "EL1");
            assert!((1..4).all(|core| !cores.is_halted(core)));
            assert_eq!(cores.x(0, 0), 0x4000_0000, "X0 names the device tree");
            let pc = cores.pc(0);
            assert!(SPIN.contains(&pc), "{pc:#x}");
            cores.set_x(0, 1, COUNTER);
            cores.set_pc(0, CODE);
            cores.restart(0);
        }
        {
            let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
            wait_for("the core counts", || memory.read_word_32(COUNTER).expect("is read") > 1000);
        }
        let stats = server.stats();
        assert_eq!((stats.halts.total, stats.halts.since_restart, stats.restarts), (1, 0, 1));
        drop(arm);
        wait_for("the books", || {
            Stats::read(&folder.path().join("stats.json")).is_ok_and(|books| books.halts.cores == [1, 0, 0, 0])
        });
        server.stop().expect("ends well");
    });
}

#[test]
fn system_registers_are_those_of_the_core() {
    if !qemu() {
        return;
    }
    within(60, || {
        for el2 in [false, true] {
            let (server, _folder) = serve_qemu(QemuOptions { cores: 2, el2, ..QemuOptions::default() }, &[]);
            let mut arm = attach(open(server.selector()));
            let mut cores = Cores::new(&mut *arm, 2);
            cores.prepare(0, 0);
            cores.halt(0);
            cores.set_x(0, 3, 33);
            // MRS X4, MPIDR_EL1; CurrentEL; MIDR_EL1.
            for instruction in [0xD538_00A4, 0xD538_4245, 0xD538_0006] {
                assert!(cores.execute(0, instruction), "{instruction:#x}");
            }
            assert_eq!(cores.x(0, 4), 0x8000_0000);
            assert_eq!(cores.x(0, 5), if el2 { 8 } else { 4 });
            assert_eq!(cores.x(0, 6), u64::from(cores.debug(0, 0xD00)));
            // SCTLR_EL2 is undefined at EL1: the exception leaves nothing behind but the error flag.
            assert_eq!(cores.execute(0, 0xD53C_1007), el2);
            // SCTLR_EL1.A on and off again, by MSR and MRS.
            assert!(cores.execute(0, 0xD538_1008));
            let sctlr = cores.x(0, 8);
            cores.set_x(0, 9, sctlr ^ 2);
            assert!(cores.execute(0, 0xD518_1009) && cores.execute(0, 0xD538_100A));
            assert_eq!(cores.x(0, 10), sctlr ^ 2);
            // MOV SP, X9; MOV X11, SP.
            assert!(cores.execute(0, 0x9100_013F) && cores.execute(0, 0x9100_03EB));
            assert_eq!(cores.x(0, 11), sctlr ^ 2);
            assert_eq!(cores.x(0, 3), 33);
            let pc = cores.pc(0);
            assert!(SPIN.contains(&pc), "{pc:#x}");
            cores.restart(0);
        }
    });
}

#[test]
fn a_core_that_waits_for_an_interrupt_goes_where_it_is_sent() {
    if !qemu() {
        return;
    }
    within(60, || {
        let (server, _folder) = serve(2, &[]);
        let mut arm = attach(open(server.selector()));
        {
            let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
            memory.write_32(CODE, &count_by(1)).expect("is written");
            // WFI; B .-4
            memory.write_32(CODE + 0x1000, &[0xD503_207F, 0x17FF_FFFF]).expect("is written");
        }
        {
            let mut cores = Cores::new(&mut *arm, 2);
            cores.prepare(0, 0);
            cores.halt(0);
            cores.set_pc(0, CODE + 0x1000);
            cores.restart(0);
            std::thread::sleep(Duration::from_millis(50));
            cores.halt(0);
            assert_eq!(cores.pc(0), CODE + 0x1004);
            // A system register of a core that sleeps.
            assert!(cores.execute(0, 0xD538_00A4));
            assert_eq!(cores.x(0, 4), 0x8000_0000);
            cores.restart(0);
            cores.halt(0);
            cores.set_x(0, 1, COUNTER);
            cores.set_pc(0, CODE);
            cores.restart(0);
        }
        let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
        wait_for("the core counts", || memory.read_word_32(COUNTER).expect("is read") > 1000);
    });
}

#[test]
fn code_that_is_written_over_is_not_executed_any_more() {
    if !qemu() {
        return;
    }
    within(60, || {
        let (server, _folder) = serve(2, &[]);
        let mut arm = attach(open(server.selector()));
        // Calls CODE whenever the word at [X3] is not 0, and clears that: LDR W4, [X3]; CBZ W4, .-4; STR WZR, [X3];
        // BLR X5; B .-16.
        const WAIT: [u32; 5] = [0xB940_0064, 0x34FF_FFE4, 0xB900_007F, 0xD63F_00A0, 0x17FF_FFFC];
        const FLAG: u64 = CODE + 0x2000;
        arm.memory_interface(&ap(0)).expect("AP 0").write_32(CODE + 0x1000, &WAIT).expect("is written");
        {
            let mut cores = Cores::new(&mut *arm, 2);
            cores.prepare(0, 0);
            cores.halt(0);
            for (register, value) in [(1, COUNTER), (3, FLAG), (5, CODE)] {
                cores.set_x(0, register, value);
            }
            cores.set_pc(0, CODE + 0x1000);
            cores.restart(0);
        }
        let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
        for (step, sum) in [(2, 2), (5, 7), (1, 8)] {
            let [load, add, store, _] = count_by(step);
            // RET.
            memory.write_32(CODE, &[load, add, store, 0xD65F_03C0]).expect("is written");
            memory.write_word_32(FLAG, 1).expect("is written");
            wait_for("the core counts", || memory.read_word_32(FLAG).expect("is read") == 0);
            wait_for("the right step is added", || memory.read_word_32(COUNTER).expect("is read") == sum);
        }
    });
}

#[test]
fn a_machine_that_was_shut_down_keeps_its_memory() {
    if !qemu() {
        return;
    }
    within(60, || {
        let (server, _folder) = serve(2, &[]);
        let mut arm = attach(open(server.selector()));
        {
            // MOV W0, #0x8400_0008 (PSCI's SYSTEM_OFF); HVC #0.
            let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
            memory.write_32(CODE, &[0x52B0_8000, 0x7280_0100, 0xD400_0002]).expect("is written");
        }
        {
            let mut cores = Cores::new(&mut *arm, 2);
            cores.prepare(0, 0);
            cores.halt(0);
            cores.set_pc(0, CODE);
            cores.restart(0);
            std::thread::sleep(Duration::from_millis(100));
            cores.halt(0);
            assert_eq!(cores.x(0, 0), 0x8400_0008);
            cores.restart(0);
        }
        let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
        assert_eq!(memory.read_word_32(CODE).expect("is read"), 0x52B0_8000);
        assert!(server.is_serving());
    });
}

#[test]
fn a_group_is_stopped_as_one() {
    if !qemu() {
        return;
    }
    within(60, || {
        let (server, _folder) = serve(4, &[]);
        let mut arm = attach(open(server.selector()));
        let mut cores = Cores::new(&mut *arm, 4);
        for core in 0..4 {
            cores.prepare(core, 0b11);
        }
        cores.pulse(2, 1);
        assert!((0..4).all(|core| cores.is_halted(core)));
        // A core that is off stands at its reset vector.
        assert_eq!(cores.debug(3, 0x088) >> 8 & 3, 1);
        for core in 0..4 {
            cores.set_cti(core, 0x010, 1);
        }
        cores.pulse(1, 2);
        assert!((0..4).all(|core| !cores.is_halted(core)));
        let halts = server.stats().halts;
        assert_eq!((halts.total, halts.stops, halts.cores), (4, 1, vec![1; 4]));
    });
}

/// The machine, as probe-rs wants it described.
fn target() -> Registry {
    let mut yaml = String::from("name: virtual\nvariants:\n- name: virtual4\n  cores:\n");
    for core in 0..4u64 {
        let (debug, cti) = (0x8041_0000 + core * 0x10_0000, 0x8042_0000 + core * 0x10_0000);
        yaml += &format!(
            "  - name: core{core}\n    type: armv8a\n    core_access_options: !Arm\n      ap: !v1 1\n      debug_base: \
             {debug:#x}\n      cti_base: {cti:#x}\n"
        );
    }
    yaml += "  memory_map:\n  - !Ram\n    range:\n      start: 0x40000000\n      end: 0x50000000\n    cores:\n";
    for core in 0..4 {
        yaml += &format!("    - core{core}\n");
    }
    yaml += "  rtt_scan_ranges: []\n";
    let mut registry = Registry::new();
    registry.add_target_family_from_yaml(&yaml).expect("is a target");
    registry
}

#[test]
fn a_session_of_probe_rs_debugs_it() {
    if !qemu() {
        return;
    }
    within(120, || {
        let (server, _folder) = serve(4, &[]);
        let target_name = TargetSelector::Unspecified("virtual4".into());
        let session = open(server.selector()).attach_with_registry(target_name, Permissions::new(), &target());
        let mut session = session.expect("is attached");
        assert_eq!(server.stats().halts.cores, [1; 4], "an attach halts every core");
        {
            let mut core = session.core(0).expect("core 0");
            // Over MA mode, the word path, and the DTR.
            let words: Vec<u32> = (0..256).map(|word| word * 0x0101_0101).collect();
            core.write_32(CODE + 0x3000, &words).expect("is written");
            let mut read = vec![0; 256];
            core.read_32(CODE + 0x3000, &mut read).expect("is read");
            assert_eq!(read, words);
            core.write_word_64(CODE + 0x3000, 0x0123_4567_89AB_CDEF).expect("is written");
            assert_eq!(core.read_word_64(CODE + 0x3000).expect("is read"), 0x0123_4567_89AB_CDEF);
            core.write_32(CODE, &count_by(1)).expect("is written");
            core.halt(Duration::from_secs(1)).expect("halts");
            core.write_core_reg(1, COUNTER).expect("X1");
            let pc = core.program_counter();
            core.write_core_reg(pc, CODE).expect("PC");
            let stepped = core.step().expect("steps");
            assert_eq!(stepped.pc, CODE + 4);
            core.run().expect("runs");
        }
        let before = server.stats().halts;
        {
            let mut core = session.core(2).expect("core 2");
            let there = core.halt(Duration::from_secs(1)).expect("halts");
            assert!(matches!(core.status().expect("is known"), CoreStatus::Halted(_)));
            assert_eq!(there.pc, 0, "core 2 is off: it stands at its reset vector");
            core.run().expect("runs");
        }
        let after = server.stats().halts;
        assert_eq!(after.cores[2], before.cores[2] + 1);
        assert_eq!(after.total, before.total + 1);
        let arm = session.get_arm_interface().expect("the debug port");
        let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
        wait_for("core 0 counts", || memory.read_word_32(COUNTER).expect("is read") > 1000);
    });
}

/// Where Debian's package u-boot-qemu has U-Boot for this machine.
const U_BOOT: &str = "/usr/lib/u-boot/qemu_arm64/u-boot.bin";

#[test]
fn a_boot_loader_is_taken_over_with_its_mmu_on() {
    if !qemu() {
        return;
    }
    if !std::path::Path::new(U_BOOT).exists() {
        println!("skipped: there is no {U_BOOT}");
        return;
    }
    within(120, || {
        let files = tempfile::tempdir().expect("a folder");
        std::fs::write(files.path().join("hello"), "hello").expect("is written");
        let serial = files.path().join("serial");
        let machine = QemuOptions {
            cores: 2,
            boot: virtual_probe::machine::Boot::Bios(U_BOOT.into()),
            disk: Some(files.path().into()),
            serial: Some(format!("unix:{}", serial.display())),
            ..QemuOptions::default()
        };
        let (server, _folder) = serve_qemu(machine, &[]);
        let mut line = std::os::unix::net::UnixStream::connect(&serial).expect("listens");
        line.set_read_timeout(Some(Duration::from_millis(100))).expect("is set");
        let mut said = String::new();
        let mut say_until = |command: &str, expected: &str| {
            wait_for(expected, || {
                let mut bytes = [0; 4096];
                let count = line.read(&mut bytes).unwrap_or(0);
                said += &String::from_utf8_lossy(&bytes[..count]);
                line.write_all(command.as_bytes()).expect("is sent");
                said.contains(expected)
            });
        };
        say_until("\r", "=> \r\n=> ");
        // The folder is a disk.
        say_until("fatls virtio 0:1\r", "   hello");
        let mut arm = attach(open(server.selector()));
        {
            let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
            memory.write_32(CODE, &count_by(1)).expect("is written");
        }
        {
            let mut cores = Cores::new(&mut *arm, 2);
            cores.prepare(0, 0);
            cores.halt(0);
            let pc = cores.pc(0);
            // MRS X4, SCTLR_EL1: the MMU is on.
            assert!(cores.execute(0, 0xD538_1004));
            assert_ne!(cores.x(0, 4) & 1, 0);
            assert_eq!(cores.pc(0), pc);
            // LDR W1, [X0], #4 of RAM, and of the UART's peripheral identification; LDR from nowhere.
            cores.set_x(0, 0, CODE);
            assert!(cores.execute(0, 0xB840_4401));
            assert_eq!(cores.x(0, 1), u64::from(count_by(1)[0]));
            cores.set_x(0, 0, 0x0900_0FE0);
            assert!(cores.execute(0, 0xB840_4401));
            assert_eq!(cores.x(0, 1), 0x11, "a PL011");
            cores.set_x(0, 0, 0xFFFF_0000_0000_0000);
            assert!(!cores.execute(0, 0xB840_4401));
            cores.set_x(0, 1, COUNTER);
            cores.set_pc(0, CODE);
            cores.restart(0);
        }
        let mut memory = arm.memory_interface(&ap(0)).expect("AP 0");
        wait_for("the core counts", || memory.read_word_32(COUNTER).expect("is read") > 1000);
    });
}
