//! The layout, byte by byte: what a build of another day must still mean by the same bytes.
//!
//! Each struct is filled with values that all differ and compared with bytes put together here from offset and value. A
//! field that is moved, widened or swapped with another fails, and whoever meant it bumps `ABI_VERSION` and this file.

use trace_ring::calls::{
    CallDescriptor, CoreMask, Delivery, DescriptorUse, Function, IpiKind, LiveEntry, Onward, call_flag, call_state,
    descriptors_per_core, doing,
};
use trace_ring::layout::*;
use trace_ring::mailbox;
use trace_ring::plan::{
    CoreProgram, KIND_SGIS, LAST_MEASURED_SGI, Op, PLAN_MAGIC, PlanHeader, PlanSlot, Policy, TraceLevel, Twin,
    WAKE_SGI, op, plan_flag, twin_kind,
};
use trace_ring::record::*;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Bytes of a struct: zeroes, with little-endian values at offsets.
struct Golden(Vec<u8>);

impl Golden {
    fn of(bytes: usize) -> Self {
        Golden(vec![0; bytes])
    }

    /// Values of `width` bytes, one behind the other from `offset`.
    fn at<const N: usize>(mut self, offset: usize, width: usize, values: [u64; N]) -> Self {
        for (index, value) in values.into_iter().enumerate() {
            let target = &mut self.0[offset + index * width..][..width];
            assert!(target.iter().all(|byte| *byte == 0), "two fields at {offset}");
            target.copy_from_slice(&value.to_le_bytes()[..width]);
        }
        self
    }

    #[track_caller]
    fn assert_eq(self, got: &[u8]) {
        assert_eq!(self.0.len(), got.len(), "size");
        for (line, (expected, got)) in self.0.chunks(16).zip(got.chunks(16)).enumerate() {
            assert_eq!(expected, got, "bytes from {:#x}", line * 16);
        }
    }
}

#[test]
fn the_version_is_the_one_that_this_file_describes() {
    assert_eq!(ABI_VERSION, 4);
    assert_eq!(
        (MAGIC, LOCATOR_MAGIC, PLAN_MAGIC),
        (0x6570_6F63_7369_7069, 0x9A8F_909C_8C96_8F96, 0x314E_414C_5049_5049)
    );
    assert_eq!(
        (LOCATOR_OFFSET, REGION_ALIGN, LANES_PER_CORE, HISTOGRAM_BYTES, LOG_STRIDE),
        (64, 0x20_0000, 4, 2048, 4160)
    );
}

#[test]
fn a_record_is_these_32_bytes() {
    let event = Event {
        t: 0x0807_0605_0403_0201,
        kind: Kind::Receive,
        flags: FLAG_DELIVERED | ReceiverState::Wfi.code(),
        peer: 0x0102,
        msg: 0xA4A3_A2A1,
        intid: 5,
        extra: 0xEE,
        arg: 0xB8B7_B6B5_B4B3_B2B1,
    };
    let expected = [
        0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08, // t
        0xC1, 0xC2, 0xC3, 0xC4, 0x02, 0x0A, 0x02, 0x01, // number, kind, flags, peer
        0xA1, 0xA2, 0xA3, 0xA4, 0x05, 0xEE, 0xC1, 0xC2, // msg, intid, extra, number again
        0xB1, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, // arg
    ];
    let index = 0x0077_0066_C4C3_C2C1;
    assert_eq!(event.words(index).as_bytes(), expected);
    assert_eq!(Record::from_bytes(&expected, index), Some(Record { index, event }));
}

#[test]
fn the_mailbox_word_is_these_bits() {
    assert_eq!(mailbox::pack(0xFF12_3456_789A, 0xFF81_2345), 0x8123_4512_3456_789A);
}

#[test]
fn the_locator_and_the_directory_lie_like_this() {
    let build_id = std::array::from_fn(|index| 0xA0 + index as u8);
    let ids: [u64; 32] = std::array::from_fn(|index| 0xA0 + index as u64);
    let locator = Locator {
        magic: LOCATOR_MAGIC,
        version: 2,
        reserved: 0,
        directory_pa: 3,
        primary_mpidr: 4,
        device_tree_pa: 5,
        plan_pa: 6,
        plan_len: 7,
        build_id,
        launcher_offset: 8,
        launcher_len: 9,
    };
    let golden = Golden::of(96).at(0, 8, [LOCATOR_MAGIC]).at(8, 4, [2]).at(16, 8, [3, 4, 5, 6, 7]).at(56, 1, ids).at(
        88,
        4,
        [8, 9],
    );
    golden.assert_eq(locator.as_bytes());

    let mut directory = Directory::new_zeroed();
    directory.magic = MAGIC;
    directory.version = 2;
    directory.header_len = 512;
    directory.nonce = 3;
    directory.region_pa = 4;
    directory.region_len = 5;
    directory.counter_hz = 6;
    directory.image_pa = 7;
    directory.image_len = 8;
    directory.build_id = build_id;
    directory.sections = Sections {
        cores: 10,
        heads: 11,
        lanes: 12,
        phases: 13,
        meta: 61,
        slots: 14,
        histograms: 15,
        faults: 16,
        logs: 17,
        truth: 18,
        live: 66,
        calls: 67,
        records: 19,
    };
    directory.core_count = 20;
    directory.slot_count = 21;
    directory.histogram_count = 22;
    directory.phase_count = 23;
    directory.log_stride = 24;
    directory.gicd_pa_low = 25;
    directory.gicd_pa_high = 26;
    directory.gicd_typer = 27;
    directory.gicd_iidr = 28;
    directory.gicd_pidr2 = 29;
    directory.entry_el = 30;
    directory.run_el = 31;
    directory.psci_conduit = 32;
    directory.trace_level = 33;
    directory.policy = 34;
    directory.non_cacheable = 35;
    directory.deterministic = 36;
    directory.platform = 62;
    directory.meta_len = 63;
    (directory.record_ticks, directory.record_ticks_cacheable) = (64, 65);
    directory.descriptor_count = 68;
    directory.hypervisor_uid = [37, 38, 39, 40];
    directory.psci_version = 41;
    directory.boot_core = 42;
    directory.status = Status {
        state: 50,
        phase: 51,
        rounds: 52,
        reason: 53,
        detail: 54,
        cores_up: 55,
        started: 56,
        ended: 57,
        reserved: [0; 3],
    };
    directory.request.stop = 60;
    Golden::of(512)
        .at(0, 8, [MAGIC])
        .at(8, 4, [2, 512])
        .at(16, 8, [3, 4, 5, 6, 7, 8])
        .at(64, 1, ids)
        .at(96, 8, [10, 11, 12, 13, 61, 14, 15, 16, 17, 18, 66, 67, 19])
        .at(200, 4, [20, 21, 22, 23, 24, 25, 26, 27, 28, 29])
        .at(240, 1, [30, 31, 32, 33, 34, 35, 36, 62])
        .at(248, 4, [37, 38, 39, 40, 41, 42])
        .at(272, 8, [63])
        .at(280, 4, [64, 65, 68])
        .at(384, 4, [50, 51, 52, 53, 54, 55])
        .at(408, 8, [56, 57])
        .at(448, 4, [60])
        .assert_eq(directory.as_bytes());
}

#[test]
fn what_a_core_writes_lies_like_this() {
    let mut entry = CoreEntry::new_zeroed();
    entry.mpidr = 1;
    entry.midr = 2;
    entry.revidr = 3;
    entry.state = 4;
    entry.error = -5;
    entry.gicr_pa = 6;
    entry.gicr_typer = 7;
    entry.gicr_iidr = 8;
    entry.cntfrq = 9;
    entry.read_cost_min = 10;
    entry.resolution = 11;
    entry.backwards = 12;
    entry.clock_flags = 13;
    entry.skew_before_low = 14;
    entry.skew_before_high = 15;
    entry.skew_after_low = 16;
    entry.skew_after_high = 17;
    entry.acknowledges = 18;
    entry.empty_acknowledges = 19;
    entry.spurious_intids = 20;
    entry.other_interrupts = 21;
    entry.skipped_ops = 22;
    (entry.features, entry.masking_priority) = (23, 24);
    (entry.gaps, entry.gap_ticks, entry.gap_longest, entry.heartbeats) = (25, 26, 27, 28);
    (entry.read_cost_max, entry.misreads, entry.backwards_after, entry.misreads_after) = (29, 30, 31, 32);
    (entry.round_trip_before, entry.round_trip_after) = (33, 34);
    (entry.cycles_busy, entry.cycle_ticks_busy, entry.cycles_wfi, entry.cycle_ticks_wfi) = (35, 36, 37, 38);
    (entry.suspend_state, entry.suspend_error, entry.untimed) = (39, -40, 41);
    Golden::of(320)
        .at(0, 8, [1])
        .at(8, 4, [2, 3, 4, 0xFFFF_FFFB])
        .at(24, 8, [6, 7])
        .at(40, 4, [8, 9, 10, 11, 12, 13])
        .at(64, 8, [14, 15, 16, 17, 18, 19, 20, 21, 22])
        .at(136, 4, [23, 24])
        .at(144, 8, [25, 26, 27, 28])
        .at(176, 4, [29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 0xFFFF_FFD8])
        .at(224, 8, [41])
        .assert_eq(entry.as_bytes());

    let line = HeadLine { head: [1, 2, 3, 4], dropped: [5, 6, 7, 8] };
    Golden::of(64).at(0, 8, [1, 2, 3, 4, 5, 6, 7, 8]).assert_eq(line.as_bytes());

    let lane = LaneDescriptor { offset: 1, log2_records: 2, context: 3, core: 4, reserved: [0; 2] };
    Golden::of(32).at(0, 8, [1]).at(8, 4, [2]).at(12, 2, [3, 4]).assert_eq(lane.as_bytes());

    let mut phase = PhaseResult::new_zeroed();
    (phase.started, phase.ended, phase.elapsed, phase.rounds) = (1, 2, 3, 4);
    Golden::of(64).at(0, 8, [1, 2, 3]).at(24, 4, [4]).assert_eq(phase.as_bytes());

    let mut fault = FaultEntry::new_zeroed();
    (fault.kind, fault.message_len) = (1, 2);
    (fault.esr, fault.elr, fault.far, fault.spsr, fault.sp, fault.t) = (3, 4, 5, 6, 7, 8);
    fault.x = std::array::from_fn(|index| 100 + index as u64);
    fault.message[0] = 9;
    fault.message[199] = 10;
    let registers: [u64; 31] = std::array::from_fn(|index| 100 + index as u64);
    Golden::of(512)
        .at(0, 4, [1, 2])
        .at(8, 8, [3, 4, 5, 6, 7, 8])
        .at(56, 8, registers)
        .at(312, 1, [9])
        .at(511, 1, [10])
        .assert_eq(fault.as_bytes());

    let log = LogHeader { head: 1, dropped: 2, capacity: 3, reserved: [0; 5] };
    Golden::of(64).at(0, 8, [1, 2, 3]).assert_eq(log.as_bytes());

    let mut truth = Truth::new_zeroed();
    (truth.dropped, truth.delayed, truth.masked, truth.slowed, truth.stuck, truth.left_locked) = (1, 2, 3, 4, 5, 6);
    (truth.held_back, truth.misdirected, truth.repeated, truth.invented, truth.stalled) = (7, 8, 9, 10, 11);
    (truth.stolen, truth.stolen_ticks, truth.shifted) = (12, 13, 14);
    Golden::of(128).at(0, 8, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]).assert_eq(truth.as_bytes());
}

#[test]
fn what_the_call_layer_leaves_lies_like_this() {
    let descriptor = CallDescriptor {
        next: 1,
        function: 2,
        info: 3,
        queued: 4,
        call_site: 5,
        flags: 6,
        generation: 7,
        source: 8,
        target: 9,
        state: 10,
        intid: 11,
        reserved: [0; 5],
    };
    Golden::of(64)
        .at(0, 8, [1, 2, 3, 4, 5])
        .at(40, 4, [6, 7])
        .at(48, 2, [8, 9])
        .at(52, 1, [10, 11])
        .assert_eq(descriptor.as_bytes());

    let live = LiveEntry {
        doing: 1,
        irq: 2,
        nmi: 3,
        parked: 4,
        op: 5,
        since: 6,
        site: 7,
        waits_for: 8,
        reserved0: 0,
        waits_descriptor: 9,
        function: 10,
        function_since: 11,
        function_info: 12,
        executed: 13,
    };
    Golden::of(64)
        .at(0, 1, [1, 2, 3, 4])
        .at(4, 4, [5])
        .at(8, 8, [6, 7])
        .at(24, 2, [8])
        .at(28, 4, [9])
        .at(32, 8, [10, 11, 12, 13])
        .assert_eq(live.as_bytes());
}

#[test]
fn a_set_of_cores_is_these_bits() {
    let cores = [0, 9, 63, 64, 200, 511];
    let mut mask = CoreMask::default();
    for core in cores {
        mask.insert(core);
    }
    // What is no core of any machine is left out, and touches no other core's bit.
    mask.insert(512);
    mask.insert(u16::MAX);
    Golden::of(64)
        .at(0, 8, [0x8000_0000_0000_0201, 1])
        .at(24, 8, [0x100])
        .at(56, 8, [1 << 63])
        .assert_eq(mask.as_bytes());
    let read = CoreMask::read_from_bytes(mask.as_bytes()).unwrap();
    assert!((0..=u16::MAX).filter(|core| read.contains(*core)).eq(cores));
}

#[test]
fn descriptors_lie_among_those_of_their_caller_like_this() {
    let counts: Vec<u32> = [1, 2, 8, 512].into_iter().map(descriptors_per_core).collect();
    assert_eq!(counts, [5, 7, 19, 1027]);
    let uses = [
        DescriptorUse::Many(0),
        DescriptorUse::Many(3),
        DescriptorUse::Onward(0),
        DescriptorUse::Onward(3),
        DescriptorUse::Single,
        DescriptorUse::Waiting,
        DescriptorUse::Work,
    ];
    let of = |source| uses.map(|one| one.index(source, 4));
    assert_eq!((of(0), of(2)), ([0, 3, 4, 7, 8, 9, 10], [22, 25, 26, 29, 30, 31, 32]));
    assert_eq!(DescriptorUse::Work.index(511, 512), 512 * 1027 - 1);
}

#[test]
fn a_route_is_these_bits() {
    let route = Onward { origin: 0x0102, hops: 0x0304, stride: 0x0506 };
    assert_eq!(route.info(), 0x0506_0304_0102);
    assert_eq!(Onward::from_info(0xFFFF_0506_0304_0102), route, "bits 63..48 mean nothing");
}

#[test]
fn a_code_address_has_lost_its_upper_half_only() {
    assert_eq!([0, 0x8000_0000, 0xFFFF_FFFF].map(code_address), [0, 0xFFFF_FFFF_8000_0000, u64::MAX]);
}

#[test]
fn a_pair_slot_lies_like_this() {
    let mut slot = PairSlot::new_zeroed();
    (slot.from, slot.to, slot.phase, slot.intid, slot.state, slot.histogram) = (1, 2, 3, 4, 5, 6);
    (slot.kind, slot.delivery) = (21, 22);
    (slot.sent, slot.lost, slot.unknown, slot.busy) = (7, 8, 9, 10);
    (slot.probes_masked, slot.probes_pending, slot.probes_absent, slot.probes_active) = (11, 12, 13, 14);
    (slot.delivered, slot.sum, slot.min, slot.max) = (15, 16, 17, 18);
    (slot.coalesced, slot.timed_adjust) = (19, 20);
    Golden::of(192)
        .at(0, 2, [1, 2, 3])
        .at(6, 1, [4, 5])
        .at(8, 4, [6])
        .at(12, 1, [21, 22])
        .at(64, 8, [7, 8, 9, 10])
        .at(96, 4, [11, 12, 13, 14])
        .at(128, 8, [15, 16, 17, 18, 19, 20])
        .assert_eq(slot.as_bytes());
}

#[test]
fn a_plan_lies_like_this() {
    let mut header = PlanHeader::new_zeroed();
    (header.magic, header.version, header.header_len, header.total_len) = (PLAN_MAGIC, 2, 3, 4);
    (header.crc, header.flags, header.nonce) = (5, 6, 7);
    (header.core_count, header.phase_count, header.op_count) = (8, 9, 10);
    (header.slot_count, header.histogram_count, header.twin_count) = (11, 12, 13);
    (header.ops, header.programs, header.slots, header.twins) = (14, 15, 16, 17);
    (header.timeout_ns, header.probe_ns, header.boot_ns) = (18, 19, 20);
    (header.deadline_ns, header.duration_ns, header.trigger_ns) = (21, 22, 23);
    (header.trace_level, header.policy, header.sgi_count) = (24, 25, 26);
    (header.patience_ns, header.meta, header.meta_len) = (27, 28, 29);
    (header.masks, header.mask_count) = (30, 31);
    (header.suspend_state, header.heartbeat_ns, header.gap_ns, header.seed) = (32, 33, 34, 35);
    Golden::of(224)
        .at(0, 8, [PLAN_MAGIC])
        .at(8, 4, [2, 3])
        .at(16, 8, [4])
        .at(24, 4, [5, 6])
        .at(32, 8, [7])
        .at(40, 4, [8, 9, 10, 11, 12, 13])
        .at(64, 8, [14, 15, 16, 17, 18, 19, 20, 21, 22, 23])
        .at(144, 1, [24, 25, 26])
        .at(152, 8, [27, 28, 29, 30])
        .at(184, 4, [31, 32])
        .at(192, 8, [33, 34, 35])
        .assert_eq(header.as_bytes());

    let program = CoreProgram { first_op: 1, reserved: 0, log2_records: [2, 3, 4, 5], reserved1: 0 };
    Golden::of(16).at(0, 4, [1]).at(8, 1, [2, 3, 4, 5]).assert_eq(program.as_bytes());

    let slot =
        PlanSlot { from: 1, to: 2, phase: 3, intid: 4, state: 5, histogram: 6, kind: 7, delivery: 8, reserved: 0 };
    Golden::of(16).at(0, 2, [1, 2, 3]).at(6, 1, [4, 5]).at(8, 4, [6]).at(12, 1, [7, 8]).assert_eq(slot.as_bytes());

    let twin = Twin { kind: 1, core: 2, peer: 3, ticks: 4, rate: 5, seed: 6 };
    Golden::of(32).at(0, 4, [1]).at(4, 2, [2, 3]).at(8, 8, [4, 5, 6]).assert_eq(twin.as_bytes());

    let word = Op { code: 1, a: 2, b: 3, c: 4, d: 5 };
    Golden::of(16).at(0, 1, [1, 2]).at(2, 2, [3]).at(4, 4, [4]).at(8, 8, [5]).assert_eq(word.as_bytes());
}

#[test]
fn the_numbers_of_names_stay() {
    let kinds = [
        Kind::Send,
        Kind::Receive,
        Kind::ReceiveEmpty,
        Kind::SpuriousIntid,
        Kind::Retire,
        Kind::Probe,
        Kind::Mark,
        Kind::Phase,
        Kind::Fault,
        Kind::Stage,
        Kind::CallSite,
        Kind::SendMask,
        Kind::Queued,
        Kind::FunctionEntry,
        Kind::FunctionExit,
        Kind::Frame,
        Kind::CallWait,
        Kind::Park,
        Kind::Gap,
        Kind::Heartbeat,
        Kind::Sweep,
    ];
    for (code, kind) in (1..).zip(kinds) {
        assert_eq!((kind.code(), Kind::from_code(code)), (code, kind));
    }
    for code in [0, 22, 200] {
        assert_eq!((Kind::from_code(code), Kind::from_code(code).code()), (Kind::Unknown(code), code));
    }
    let states = ["unknown", "spin", "wfi", "wfe", "masked", "suspend"];
    for (code, name) in (0..).zip(states) {
        assert_eq!((ReceiverState::from_code(code).code(), ReceiverState::from_code(code).name()), (code, name));
    }
    for (code, name) in (0..).zip(["overwrite", "stop", "trigger"]) {
        assert_eq!((Policy::from_code(code).code(), Policy::from_code(code).name()), (code, name));
    }
    for (code, name) in (0..).zip(["off", "ipi", "stages", "calls"]) {
        assert_eq!((TraceLevel::from_code(code).code(), TraceLevel::from_code(code).name()), (code, name));
    }
    assert_eq!([Retired::Lost.code(), Retired::Unknown.code()], [0, 1]);
    assert_eq!((FLAG_STATE_MASK, FLAG_DELIVERED, FLAG_UNTIMED, PEER_ALL), (0x07, 0x08, 0x10, 0xFFFF));
    assert_eq!((FLAG_PSEUDO_NMI, FLAG_NMI, FLAG_SYNCHRONOUS, FRAME_SENDER, FRAME_TARGET), (0x20, 0x40, 1, 1, 2));
    assert_eq!((PROBE_ENABLED, PROBE_PENDING, PROBE_ACTIVE), (1 << 32, 1 << 33, 1 << 34));
    assert_eq!(Context::ALL.map(Context::name), ["thread", "irq", "nmi", "fault"]);
    let states = [run_state::BOOTING, run_state::STARTING, run_state::RUNNING, run_state::ENDED, run_state::ABORTED];
    assert_eq!(states, [0, 1, 2, 3, 4]);
    let reasons = [abort_reason::NONE, abort_reason::REQUESTED, abort_reason::FAULT, abort_reason::DEADLINE];
    assert_eq!((reasons, abort_reason::BAD_OP), ([0, 1, 2, 3], 4));
    let cores = [core_state::OFF, core_state::STARTING, core_state::UP, core_state::REFUSED, core_state::NO_SHOW];
    assert_eq!(cores, [0, 1, 2, 3, 4]);
    assert_eq!(core_state::UNREACHABLE, 8);
    assert_eq!([core_state::NO_REDISTRIBUTOR, core_state::FAULTED, core_state::DISABLED], [5, 6, 7]);
    let faults = [fault_kind::NONE, fault_kind::SYNCHRONOUS, fault_kind::SERROR, fault_kind::FIQ, fault_kind::PANIC];
    assert_eq!((faults, fault_kind::REFUSED, fault_kind::CRASH_STOP), ([0, 1, 2, 3, 4], 5, 6));
    assert_eq!([core_feature::PSEUDO_NMI, core_feature::NMI], [1, 2]);
    assert_eq!([clock_flag::ECV, clock_flag::PMU, clock_flag::SKEW_BEFORE, clock_flag::SKEW_AFTER], [1, 2, 4, 8]);
    assert_eq!([conduit::NONE, conduit::HVC, conduit::SMC], [0, 1, 2]);
    assert_eq!([plan_flag::DETERMINISTIC, plan_flag::NON_CACHEABLE, plan_flag::CLOCK_TEST], [1, 2, 4]);
    assert_eq!([plan_flag::CALLS, plan_flag::BACKTRACE], [8, 16]);
    assert_eq!([LAST_MEASURED_SGI, WAKE_SGI, KIND_SGIS], [5, 6, 8]);
    assert_eq!([twin_kind::DROP, twin_kind::LATE, twin_kind::MASK, twin_kind::DEAD], [1, 2, 3, 4]);
    assert_eq!([twin_kind::CRASH, twin_kind::OVERFLOW, twin_kind::SLOW_CALLBACK], [5, 6, 7]);
    assert_eq!([twin_kind::STUCK, twin_kind::CSD_LOCK], [8, 9]);
    assert_eq!([twin_kind::SLOW_SENDER, twin_kind::SLOW_PAIR, twin_kind::SLOW_WAKE], [10, 11, 12]);
    assert_eq!([twin_kind::MISROUTE, twin_kind::DUPLICATE, twin_kind::SPURIOUS, twin_kind::STALL], [13, 14, 15, 16]);
    assert_eq!([twin_kind::STEAL, twin_kind::SKEW, twin_kind::JUMP, twin_kind::STEP_BACK], [17, 18, 19, 20]);
    use trace_ring::plan::{posture, transition};
    assert_eq!(posture::PRESSURE, 0x40);
    assert_eq!([transition::WFI, transition::UNMASK, transition::END_OF_INTERRUPT], [0, 1, 2]);
    assert_eq!([transition::SUSPEND, transition::WFE], [3, 4]);
    let words = [
        op::END,
        op::PHASE,
        op::PHASE_END,
        op::TURN,
        op::PASS,
        op::POSTURE,
        op::PING,
        op::SEND,
        op::BROADCAST,
        op::SETTLE,
        op::DELAY,
        op::AT,
        op::MASK,
        op::IDLE,
        op::PRESSURE,
        op::LOOP,
        op::LOOP_END,
        op::MARK,
        op::BARRIER,
        op::AGAIN,
        op::CALL,
        op::CALL_MANY,
        op::IPI,
        op::TICK,
        op::IRQ_WORK,
        op::HOLD,
        op::RELEASE,
        op::AWAIT,
        op::DELIVERY,
        op::ROW,
        op::DITHER,
        op::SWEEP_RANGE,
        op::SWEEP,
    ];
    assert!(words.iter().copied().eq(0..33), "{words:?}");
}

#[test]
fn ipi_kinds_are_those_of_linux_by_number_and_text() {
    // arch/arm64/kernel/smp.c, v5.10 to v6.6: `enum ipi_msg_type` and `ipi_types`, 0 to 6. Number 7 is this kit's own.
    let kinds = [
        (IpiKind::Reschedule, "reschedule", "Rescheduling interrupts"),
        (IpiKind::CallFunction, "call_function", "Function call interrupts"),
        (IpiKind::Stop, "stop", "CPU stop interrupts"),
        (IpiKind::CrashStop, "crash_stop", "CPU stop (for crash dump) interrupts"),
        (IpiKind::TimerBroadcast, "timer_broadcast", "Timer broadcast interrupts"),
        (IpiKind::IrqWork, "irq_work", "IRQ work interrupts"),
        (IpiKind::Wakeup, "wakeup", "CPU wake-up interrupts"),
        (IpiKind::Backtrace, "backtrace", "CPU backtrace interrupts"),
    ];
    assert_eq!(kinds.map(|(kind, _, _)| kind), IpiKind::ALL);
    for (intid, (kind, name, reason)) in (0..).zip(kinds) {
        assert_eq!((kind.intid(), kind.name(), kind.reason()), (intid, name, reason));
        assert_eq!((kind.slot_code(), IpiKind::from_slot_code(intid + 1)), (intid + 1, Some(kind)));
        assert_eq!(IpiKind::from_intid(intid), Some(kind));
    }
    assert_eq!([8, 255].map(IpiKind::from_intid), [None; 2]);
    assert_eq!([0, 9, 255].map(IpiKind::from_slot_code), [None; 3], "bare SGIs, and numbers of another version");
}

#[test]
fn the_numbers_of_the_call_layer_stay() {
    for (code, name) in (0..).zip(["irq", "pseudo_nmi", "nmi"]) {
        assert_eq!((Delivery::from_code(code) as u8, Delivery::from_code(code).name()), (code, name));
    }
    assert_eq!([3, 255].map(Delivery::from_code), [Delivery::Irq; 2]);
    let functions = [
        (Function::Drain, "drain", "drain_local_list"),
        (Function::Gather, "gather", "gather_local_statistics"),
        (Function::SyncIcache, "sync_icache", "sync_icache"),
        (Function::Slow, "slow", "slow_callback"),
        (Function::Onward, "onward", "call_onward"),
    ];
    assert_eq!(functions.map(|(function, _, _)| function), Function::ALL);
    for (code, (function, name, symbol)) in (0..).zip(functions) {
        assert_eq!((function as u8, Function::from_code(code)), (code, Some(function)));
        assert_eq!((function.name(), function.symbol()), (name, symbol));
    }
    assert_eq!([5, 255].map(Function::from_code), [None; 2]);
    assert_eq!([call_flag::LOCK, call_flag::SYNCHRONOUS], [1, 2]);
    assert_eq!([call_state::FREE, call_state::QUEUED, call_state::RUNNING, call_state::EXECUTED], [0, 1, 2, 3]);
    assert_eq!([doing::OFF, doing::RUNNING, doing::WAITING, doing::ANSWER], [0, 1, 2, 3]);
    assert_eq!([doing::CALL, doing::MASKED, doing::PRIORITY_MASKED, doing::DONE], [4, 5, 6, 7]);
}

#[test]
fn the_sections_of_a_known_shape_lie_where_they_always_did() {
    let shape = Shape { cores: 3, phases: 2, meta: 100, slots: 5, histograms: 4, descriptors: 0, records: 1000 };
    let sections = Sections {
        cores: 512,
        heads: 1472,
        lanes: 1664,
        phases: 2048,
        meta: 2176,
        slots: 2304,
        histograms: 3264,
        faults: 11_456,
        logs: 12_992,
        truth: 25_472,
        live: 25_856,
        calls: 26_048,
        records: 28_672,
    };
    assert_eq!(lay_out(shape), (sections, 0x20_0000));
    let (sections, length) = lay_out(Shape { records: 65_536, ..shape });
    assert_eq!(length, 0x40_0000, "2 MiB of records and what stands before them");
    assert_eq!(sections.records, 28_672);

    // What calls takes its place between the cores' lines and the records; nothing before it moves.
    let calling = |descriptors| lay_out(Shape { descriptors, ..shape });
    assert_eq!(calling(41), (sections, 0x20_0000), "41 descriptors fill the page that the records' begin had left");
    assert_eq!(calling(42), (Sections { records: 32_768, ..sections }, 0x20_0000));
    let (most, length) = lay_out(Shape { cores: 512, descriptors: 512 * 1027, records: 0, ..shape });
    assert_eq!(most.records, (most.calls + 512 * 1027 * 64).next_multiple_of(4096));
    assert_eq!((most.calls - most.live, length), (512 * 64, most.records.next_multiple_of(0x20_0000)));
}
