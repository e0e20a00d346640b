//! A plan's bytes: each thing that can be wrong is found and named, and no bytes make the check panic.

use proptest::prelude::*;
use trace_ring::calls::{CoreMask, Function, IpiKind, Onward};
use trace_ring::layout::{ABI_VERSION, MAX_CORES, NO_HISTOGRAM};
use trace_ring::plan::{
    CoreProgram, Op, PLAN_MAGIC, Plan, PlanError, PlanHeader, PlanSlot, Twin, checksum, op, plan_flag, twin_kind,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const HEADER: usize = size_of::<PlanHeader>();

/// Bit of a call's `a`: the caller waits.
const WAITS: u8 = 0x80;

/// Where [`Parts::calling`] has its operations of the call layer.
const CALL: usize = 1;
const ONWARD: usize = 2;
const MANY: usize = 3;
const IPI: usize = 4;
const TICK: usize = 5;
const WORK: usize = 6;
const RELEASE: usize = 8;
const AWAIT: usize = 9;
const ROW: usize = 11;

/// The parts of a plan, to be spoiled one by one.
#[derive(Clone)]
struct Parts {
    header: PlanHeader,
    ops: Vec<Op>,
    programs: Vec<CoreProgram>,
    slots: Vec<PlanSlot>,
    twins: Vec<Twin>,
    masks: Vec<CoreMask>,
}

fn word(code: u8, a: u8, b: u16, c: u32, d: u64) -> Op {
    Op { code, a, b, c, d }
}

impl Parts {
    /// A plan with one of each operation that names something.
    fn right() -> Self {
        let mut header = PlanHeader::new_zeroed();
        header.phase_count = 1;
        header.histogram_count = 1;
        header.sgi_count = 2;
        let program = CoreProgram { first_op: 0, reserved: 0, log2_records: [4, 10, 4, 40], reserved1: 0 };
        let slot = |from, to, histogram| PlanSlot {
            from,
            to,
            phase: 0,
            intid: 1,
            state: 1,
            histogram,
            kind: 0,
            delivery: 0,
            reserved: 0,
        };
        Parts {
            header,
            ops: vec![
                word(op::PHASE, 1, 0, 0, 0),
                word(op::TURN, 0, 0, 2, 0),
                word(op::PASS, 0, 1, 1, 0),
                word(op::PASS, 0, 0xFFFF, 0, 0),
                word(op::POSTURE, 1, 1, 0, 0),
                word(op::PING, 1, 1, 100, 0),
                word(op::SEND, 0, 1, 100, 1),
                word(op::BROADCAST, 1, 0, 100, 0),
                word(op::PHASE_END, 0, 0, 0, 0),
                word(op::AGAIN, 0, 0, 0, 0),
                word(op::END, 0, 0, 0, 0),
            ],
            programs: vec![program; 2],
            slots: vec![slot(0, 1, 0), slot(1, 0, NO_HISTOGRAM)],
            twins: vec![Twin { kind: twin_kind::DROP, core: 0, peer: 1, ticks: 0, rate: 1 << 31, seed: 1 }],
            masks: Vec::new(),
        }
    }

    /// The same with one of each operation of the call layer behind the phase's begin, and two sets of cores.
    fn calling() -> Self {
        let mut parts = Parts::right();
        parts.header.flags = plan_flag::CALLS;
        parts.header.sgi_count = 8;
        let (slow, onward) = (Function::Slow as u8, Function::Onward as u8);
        let route = Onward { origin: 1, hops: 3, stride: 1 };
        let words = [
            word(op::CALL, WAITS | slow, 1, 0, u64::MAX),
            word(op::CALL, onward, 1, 0, route.info()),
            word(op::CALL_MANY, Function::Drain as u8, 1, 0, 0),
            word(op::IPI, IpiKind::Reschedule.intid(), 1, 1, 10),
            word(op::TICK, 0, 0, 0, 1000),
            word(op::IRQ_WORK, Function::Gather as u8, 0, 0, 0),
            word(op::HOLD, 1, 0, 0, 0),
            word(op::RELEASE, 0, 1, 0, 0),
            word(op::AWAIT, 2, 1, 0, 0),
            word(op::DELIVERY, 2, 0, 0, 0),
            word(op::ROW, 0, 0, 0, 0),
        ];
        parts.ops.splice(1..1, words);
        parts.masks = vec![CoreMask([3, 0, 0, 0, 0, 0, 0, 0]), CoreMask::default()];
        parts
    }

    /// Its bytes, with offsets, counts and checksum put in.
    fn bytes(mut self) -> Aligned {
        let mut bytes = vec![0; HEADER];
        let mut add = |section: &[u8]| {
            let offset = bytes.len() as u64;
            bytes.extend_from_slice(section);
            offset
        };
        let header = &mut self.header;
        header.ops = add(self.ops.as_bytes());
        header.programs = add(self.programs.as_bytes());
        header.slots = add(self.slots.as_bytes());
        header.twins = add(self.twins.as_bytes());
        header.masks = add(self.masks.as_bytes());
        (header.magic, header.version, header.header_len) = (PLAN_MAGIC, ABI_VERSION, HEADER as u32);
        header.op_count = self.ops.len() as u32;
        header.core_count = self.programs.len() as u32;
        header.slot_count = self.slots.len() as u32;
        header.twin_count = self.twins.len() as u32;
        header.mask_count = self.masks.len() as u32;
        header.total_len = bytes.len() as u64;
        bytes[..HEADER].copy_from_slice(header.as_bytes());
        self.header.crc = checksum(&bytes);
        bytes[..HEADER].copy_from_slice(self.header.as_bytes());
        Aligned::new(&bytes)
    }
}

/// Bytes on an 8-byte boundary, as a plan must lie.
#[derive(Clone)]
struct Aligned(Vec<u64>);

impl Aligned {
    fn new(bytes: &[u8]) -> Self {
        let mut words = vec![0; bytes.len().div_ceil(8)];
        words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        Aligned(words)
    }

    fn header(&mut self) -> &mut PlanHeader {
        PlanHeader::mut_from_bytes(&mut self.0.as_mut_bytes()[..HEADER]).unwrap()
    }

    fn parse(&self) -> Result<Plan<'_>, PlanError> {
        Plan::parse(self.0.as_bytes())
    }

    /// Makes the checksum right again, so that the checks behind it are reached.
    fn seal(&mut self) {
        let length = self.0.len() * 8;
        let end = (self.header().total_len as usize).clamp(HEADER, length);
        let crc = checksum(&self.0.as_bytes()[..end]);
        self.header().crc = crc;
    }
}

#[test]
fn a_right_plan_is_parsed_whole() {
    let bytes = Parts::right().bytes();
    let plan = bytes.parse().unwrap();
    let parts = Parts::right();
    assert_eq!((plan.ops, plan.programs), (&parts.ops[..], &parts.programs[..]));
    assert_eq!((plan.slots, plan.twins), (&parts.slots[..], &parts.twins[..]));
    let shape = plan.shape();
    assert_eq!((shape.cores, shape.phases, shape.slots, shape.histograms), (2, 1, 2, 1));
    assert_eq!(shape.records, 2 * (16 + 1024 + 16 + (1 << 40)));
    assert_eq!((plan.masks.len(), shape.descriptors), (0, 0), "it does not call");
}

#[test]
fn a_plan_that_calls_has_its_masks_and_room_for_its_descriptors() {
    let bytes = Parts::calling().bytes();
    let plan = bytes.parse().unwrap();
    assert_eq!((plan.ops, plan.masks), (&Parts::calling().ops[..], &Parts::calling().masks[..]));
    assert!(plan.masks[0].contains(0) && plan.masks[0].contains(1) && !plan.masks[0].contains(2));
    // Of two cores each has one for each target, one for each chain, one for single calls, one to wait, one for work.
    assert_eq!((plan.descriptors(), plan.shape().descriptors), (14, 14));
}

#[test]
fn a_plan_shorter_than_its_header_or_than_it_says_is_short() {
    let mut bytes = Parts::right().bytes();
    let length = (bytes.0.len() * 8) as u64;
    for cut in [0, 8, HEADER - 8] {
        let expected = PlanError::Short { have: cut as u64, need: HEADER as u64 };
        assert_eq!(Plan::parse(&bytes.0.as_bytes()[..cut]).unwrap_err(), expected);
    }
    let expected = PlanError::Short { have: length - 8, need: length };
    assert_eq!(Plan::parse(&bytes.0.as_bytes()[..length as usize - 8]).unwrap_err(), expected);
    bytes.header().total_len = u64::MAX;
    assert_eq!(bytes.parse().unwrap_err(), PlanError::Short { have: length, need: u64::MAX });
    bytes.header().total_len = 8;
    assert_eq!(bytes.parse().unwrap_err(), PlanError::Short { have: length, need: HEADER as u64 });
}

#[test]
fn bytes_behind_the_plan_are_not_part_of_it() {
    let mut bytes = Parts::right().bytes();
    bytes.0.extend([u64::MAX; 3]); // an initrd may be padded
    assert!(bytes.parse().is_ok());
}

#[test]
fn a_wrong_magic_version_or_checksum_is_named() {
    let mut bytes = Parts::right().bytes();
    bytes.header().magic ^= 1;
    assert_eq!(bytes.parse().unwrap_err(), PlanError::Magic(PLAN_MAGIC ^ 1));
    let mut bytes = Parts::right().bytes();
    bytes.header().version = ABI_VERSION + 1;
    assert_eq!(bytes.parse().unwrap_err(), PlanError::Version(ABI_VERSION + 1));
    let mut bytes = Parts::right().bytes();
    let stored = bytes.header().crc;
    bytes.0[HEADER / 8] ^= 1 << 63;
    assert!(
        matches!(bytes.parse().unwrap_err(), PlanError::Crc { stored: word, computed } if word == stored && computed != stored)
    );
    let mut bytes = Parts::right().bytes();
    bytes.header().timeout_ns ^= 1; // the header is covered too
    assert!(matches!(bytes.parse().unwrap_err(), PlanError::Crc { .. }));
}

#[test]
fn a_section_outside_the_plan_or_off_its_boundary_is_named() {
    type Offset = fn(&mut PlanHeader) -> &mut u64;
    type Count = fn(&mut PlanHeader) -> &mut u32;
    let sections: [(&str, Offset, Count); 5] = [
        ("ops", |header| &mut header.ops, |header| &mut header.op_count),
        ("programs", |header| &mut header.programs, |header| &mut header.core_count),
        ("slots", |header| &mut header.slots, |header| &mut header.slot_count),
        ("twins", |header| &mut header.twins, |header| &mut header.twin_count),
        ("masks", |header| &mut header.masks, |header| &mut header.mask_count),
    ];
    for (name, offset, count) in sections {
        let length = Parts::calling().bytes().header().total_len;
        let right = *offset(Parts::calling().bytes().header());
        for wrong in [length, length + 8, u64::MAX, right + 1] {
            let mut bytes = Parts::calling().bytes();
            *offset(bytes.header()) = wrong;
            bytes.seal();
            assert_eq!(bytes.parse().unwrap_err(), PlanError::Section { name }, "offset {wrong:#x}");
        }
        for wrong in [1000, u32::MAX] {
            let mut bytes = Parts::calling().bytes();
            *count(bytes.header()) = wrong;
            bytes.seal();
            assert_eq!(bytes.parse().unwrap_err(), PlanError::Section { name }, "count {wrong}");
        }
    }
}

#[test]
fn every_value_out_of_range_is_named_with_what_it_holds() {
    type Spoil = fn(&mut Parts);
    let none = PlanError::Value { name: "core_count", value: 0 };
    let mut parts = Parts::right();
    parts.programs.clear();
    assert_eq!(parts.bytes().parse().unwrap_err(), none);
    let mut parts = Parts::right();
    parts.programs = vec![parts.programs[0]; MAX_CORES + 1];
    assert_eq!(parts.bytes().parse().unwrap_err(), PlanError::Value { name: "core_count", value: 513 });

    let cases: [(&str, u64, Spoil); 25] = [
        ("sgi_count", 0, |parts| parts.header.sgi_count = 0),
        ("sgi_count", 7, |parts| parts.header.sgi_count = 7),
        ("first_op", 11, |parts| parts.programs[1].first_op = 11),
        ("log2_records", 3, |parts| parts.programs[0].log2_records[2] = 3),
        ("log2_records", 41, |parts| parts.programs[1].log2_records[3] = 41),
        ("slot.from", 2, |parts| parts.slots[0].from = 2),
        ("slot.to", 2, |parts| parts.slots[1].to = 2),
        ("slot.phase", 1, |parts| parts.slots[0].phase = 1),
        ("slot.intid", 2, |parts| parts.slots[0].intid = 2),
        ("slot.histogram", 1, |parts| parts.slots[0].histogram = 1),
        ("twin.core", 2, |parts| parts.twins[0].core = 2),
        ("twin.seed", 0, |parts| parts.twins[0].seed = 0),
        ("op.to", 2, |parts| parts.ops[5].b = 2),
        ("op.slot", 2, |parts| parts.ops[5].d = 2),
        ("op.intid", 2, |parts| parts.ops[6].a = 2),
        ("op.slot", 2, |parts| parts.ops[7].d = 1),
        ("op.slot", u64::MAX, |parts| parts.ops[7].d = u64::MAX),
        ("op.intid", 2, |parts| parts.ops[7].a = 2),
        ("op.phase", 1, |parts| parts.ops[0].c = 1),
        ("op.phase", 1, |parts| parts.ops[8].c = 1),
        ("op.jump", 11, |parts| parts.ops[1].c = 11),
        ("op.next", 2, |parts| parts.ops[2].b = 2),
        ("op.jump", 11, |parts| parts.ops[9].c = 11),
        ("op.core", 2, |parts| parts.ops[4].b = 2),
        ("last op", u64::from(op::AGAIN), |parts| parts.ops.truncate(10)),
    ];
    for (name, value, spoil) in cases {
        let mut parts = Parts::right();
        spoil(&mut parts);
        assert_eq!(parts.bytes().parse().unwrap_err(), PlanError::Value { name, value });
    }
    let mut parts = Parts::right();
    parts.ops[2].c = 11;
    assert_eq!(parts.bytes().parse().unwrap_err(), PlanError::Value { name: "op.jump", value: 11 });
}

#[test]
fn every_value_of_a_call_out_of_range_is_named_with_what_it_holds() {
    type Spoil = fn(&mut Parts);
    let route = |origin, stride| Onward { origin, hops: 1, stride }.info();
    let cases: [(&str, u64, Spoil); 34] = [
        ("sgi_count", 0, |parts| parts.header.sgi_count = 0),
        ("sgi_count", 6, |parts| parts.header.sgi_count = 6),
        ("sgi_count", 7, |parts| parts.header.sgi_count = 7),
        ("sgi_count", 9, |parts| parts.header.sgi_count = 9),
        ("slot.intid", 8, |parts| parts.slots[0].intid = 8),
        ("op.function", 5, |parts| parts.ops[CALL].a = 5),
        ("op.function", 5, |parts| parts.ops[CALL].a = WAITS | 5),
        ("op.function", 63, |parts| parts.ops[CALL].a = 255),
        ("op.function", 5, |parts| parts.ops[CALL].a = op::ALWAYS_SENDS | 5),
        ("op.function", 5, |parts| parts.ops[MANY].a = 5),
        ("op.function", 5, |parts| parts.ops[WORK].a = 5),
        ("op.to", 2, |parts| parts.ops[CALL].b = 2),
        ("op.to", 0xFFFF, |parts| parts.ops[CALL].b = 0xFFFF),
        ("op.mask", 2, |parts| parts.ops[MANY].b = 2),
        ("op.mask", 1, |parts| parts.masks.truncate(1)),
        ("op.mask", 1, |parts| parts.masks.clear()),
        // Of a row the last slot is named: that of the last core.
        ("op.row", 2, |parts| parts.ops[CALL].c = 1),
        ("op.row", 0x1_0000_0000, |parts| parts.ops[CALL].c = u32::MAX),
        ("op.row", 2, |parts| parts.ops[MANY].c = 1),
        ("op.row", 2, |parts| parts.ops[WORK].c = 1),
        ("op.row", 2, |parts| parts.ops[TICK].c = 1),
        ("op.row", 0x1_0000_0000, |parts| parts.ops[TICK].c = u32::MAX),
        ("op.row", 2, |parts| parts.ops[ROW].c = 1),
        ("op.kind", 1, |parts| parts.ops[IPI].a = IpiKind::CallFunction.intid()),
        ("op.kind", 129, |parts| parts.ops[IPI].a = op::GOES_ON | IpiKind::CallFunction.intid()),
        ("op.kind", 8, |parts| parts.ops[IPI].a = 8),
        ("op.kind", 255, |parts| parts.ops[IPI].a = 255),
        ("op.to", 2, |parts| parts.ops[IPI].b = 2),
        ("op.slot", 2, |parts| parts.ops[IPI].c = 2),
        ("op.core", 2, |parts| parts.ops[RELEASE].b = 2),
        ("op.core", 2, |parts| parts.ops[AWAIT].b = 2),
        ("op.core", 0xFFFF, |parts| parts.ops[AWAIT].b = 0xFFFF),
        ("op.intid", 8, |parts| parts.ops.insert(1, word(op::PING, 8, 1, 1, 0))),
        // A third core, and no slots for it: the row is too short.
        ("op.row", 2, |parts| parts.programs.push(parts.programs[0])),
    ];
    for (name, value, spoil) in cases {
        let mut parts = Parts::calling();
        spoil(&mut parts);
        assert_eq!(parts.bytes().parse().unwrap_err(), PlanError::Value { name, value });
    }
    // A route is looked at wherever the function is the one that calls on, whether the caller waits or not.
    for place in [ONWARD, MANY, WORK] {
        for a in [Function::Onward as u8, WAITS | Function::Onward as u8] {
            for (name, value, info) in [
                ("op.origin", 2, route(2, 1)),
                ("op.origin", 0xFFFF, route(0xFFFF, 1)),
                ("op.stride", 0, route(0, 0)),
                ("op.stride", 2, route(0, 2)),
            ] {
                let mut parts = Parts::calling();
                (parts.ops[place].a, parts.ops[place].d) = (a, info);
                assert_eq!(parts.bytes().parse().unwrap_err(), PlanError::Value { name, value }, "operation {place}");
            }
        }
    }
}

#[test]
fn every_value_of_a_call_in_range_is_taken() {
    type Change = fn(&mut Parts);
    let changes: [Change; 11] = [
        |parts| parts.ops[CALL].b = 0,
        |parts| parts.ops[CALL].a = WAITS,
        // What is no route is any argument.
        |parts| parts.ops[MANY].d = Onward { origin: 0xFFFF, hops: 0, stride: 0 }.info(),
        |parts| parts.ops[MANY].b = 0,
        |parts| parts.ops[ONWARD].d = Onward { origin: 0, hops: 0xFFFF, stride: 1 }.info(),
        |parts| parts.ops[IPI].c = 0,
        |parts| parts.ops[IPI].b = 0,
        |parts| parts.slots[0].intid = 7,
        |parts| parts.ops.insert(1, word(op::PING, 7, 1, 1, 0)),
        |parts| parts.ops[AWAIT].b = 0,
        |parts| parts.header.flags |= plan_flag::BACKTRACE | plan_flag::CLOCK_TEST,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut parts = Parts::calling();
        change(&mut parts);
        assert!(parts.bytes().parse().is_ok(), "change {number}");
    }
    let route = Onward { origin: 0, hops: 1, stride: 1 }.info();
    for place in [CALL, MANY, WORK] {
        for function in Function::ALL {
            for waits in [0, WAITS] {
                let mut parts = Parts::calling();
                (parts.ops[place].a, parts.ops[place].d) = (waits | function as u8, route);
                assert!(parts.bytes().parse().is_ok(), "operation {place}: {function:?}");
            }
        }
    }
    let sent = [IpiKind::Reschedule, IpiKind::Stop, IpiKind::CrashStop, IpiKind::Wakeup, IpiKind::Backtrace];
    for kind in sent {
        let mut parts = Parts::calling();
        parts.ops[IPI].a = kind.intid();
        assert!(parts.bytes().parse().is_ok(), "{kind:?}");
    }
    // A machine of one core: a chain's next core is itself.
    let mut parts = Parts::calling();
    parts.programs.truncate(1);
    parts.masks.clear();
    parts.twins.clear();
    parts.slots = vec![PlanSlot { to: 0, ..parts.slots[0] }];
    parts.ops = vec![word(op::CALL, Function::Onward as u8, 0, 0, route), word(op::END, 0, 0, 0, 0)];
    assert_eq!(parts.bytes().parse().unwrap().descriptors(), 5);
}

#[test]
fn a_value_of_a_call_that_no_firmware_knows_is_named() {
    let place = |code: u8| Parts::calling().ops.iter().position(|word| word.code == code).unwrap();
    for (code, name) in [(op::HOLD, "op.hold"), (op::AWAIT, "op.state"), (op::DELIVERY, "op.delivery")] {
        let mut parts = Parts::calling();
        parts.ops[place(code)].a = 2;
        assert!(parts.clone().bytes().parse().is_ok(), "{name}");
        parts.ops[place(code)].a = 3;
        assert_eq!(parts.bytes().parse().unwrap_err(), PlanError::Value { name, value: 3 });
    }
    // A core that the plan does not have.
    let mut parts = Parts::calling();
    parts.masks[1].insert(2);
    assert_eq!(parts.bytes().parse().unwrap_err(), PlanError::Value { name: "mask.core", value: 2 });
    // A slot's kind is its INTID's, or none.
    for (kind, right) in [(0, true), (2, true), (1, false), (9, false)] {
        let mut parts = Parts::calling();
        parts.slots[0].kind = kind; // its INTID is 1
        let found = parts.bytes().parse().map(|_| ());
        let expected = if right { Ok(()) } else { Err(PlanError::Value { name: "slot.kind", value: kind.into() }) };
        assert_eq!(found, expected, "kind {kind}");
    }
    let mut parts = Parts::calling();
    parts.slots[0].delivery = 3;
    assert_eq!(parts.bytes().parse().unwrap_err(), PlanError::Value { name: "slot.delivery", value: 3 });
    // Twins of calls: only where there are calls, and callbacks count from 1.
    for kind in [twin_kind::SLOW_CALLBACK, twin_kind::STUCK, twin_kind::CSD_LOCK] {
        let twin = Twin { kind, core: 0, peer: 0, ticks: 1, rate: 0, seed: 1 };
        let mut parts = Parts::calling();
        parts.twins = vec![twin];
        assert!(parts.clone().bytes().parse().is_ok());
        parts.twins[0].ticks = 0;
        assert_eq!(parts.bytes().parse().unwrap_err(), PlanError::Value { name: "twin.ticks", value: 0 });
        let mut parts = Parts::right();
        parts.twins = vec![twin];
        assert_eq!(parts.bytes().parse().unwrap_err(), PlanError::Value { name: "twin.kind", value: kind.into() });
    }
}

#[test]
fn a_plan_that_does_not_say_that_it_calls_has_no_such_operation() {
    for (place, code) in (1..).zip(op::CALL..=op::ROW) {
        let mut parts = Parts::right();
        parts.ops.insert(1, Parts::calling().ops.into_iter().find(|word| word.code == code).unwrap());
        parts.masks = Parts::calling().masks;
        let expected = PlanError::Value { name: "op.code", value: code.into() };
        assert_eq!(parts.clone().bytes().parse().unwrap_err(), expected, "number {place}");
        // BACKTRACE alone does not say so.
        parts.header.flags = plan_flag::BACKTRACE | plan_flag::DETERMINISTIC;
        assert_eq!(parts.clone().bytes().parse().unwrap_err(), expected, "number {place}");
        (parts.header.flags, parts.header.sgi_count) = (plan_flag::CALLS, 8);
        assert!(parts.bytes().parse().is_ok(), "number {place}");
    }
    let mut parts = Parts::right();
    parts.header.sgi_count = 8;
    assert_eq!(parts.bytes().parse().unwrap_err(), PlanError::Value { name: "sgi_count", value: 8 });
}

#[test]
fn errors_say_the_thing_and_the_value() {
    for (error, text) in [
        (PlanError::Short { have: 8, need: 192 }, "plan has 8 bytes, needs 192"),
        (PlanError::Value { name: "core_count", value: 0 }, "plan field `core_count` can't be 0"),
        (PlanError::Section { name: "ops" }, "plan section `ops` lies outside the plan"),
    ] {
        assert_eq!(error.to_string(), text);
    }
}

/// Reads whatever a parsed plan points at.
fn walk(bytes: &Aligned) {
    if let Ok(plan) = bytes.parse() {
        assert_eq!(plan.programs.len(), plan.header.core_count as usize);
        assert!(plan.programs.iter().all(|program| plan.ops.get(program.first_op as usize).is_some()));
        for word in plan.ops {
            let row = word.c as usize + plan.programs.len() - 1;
            match word.code {
                op::CALL_MANY => {
                    assert!(plan.masks.get(usize::from(word.b)).is_some() && plan.slots.get(row).is_some())
                }
                op::CALL => assert!(usize::from(word.b) < plan.programs.len() && plan.slots.get(row).is_some()),
                op::IRQ_WORK | op::TICK | op::ROW => assert!(plan.slots.get(row).is_some()),
                op::IPI => assert!(plan.slots.get(word.c as usize).is_some()),
                _ => {}
            }
        }
        let _ = plan.shape();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_spoiled_plan_with_a_right_checksum_never_panics(
        spoiled in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u64>(), 0u64..64, Just(u64::MAX)]), 1..6),
        cut in prop_oneof![3 => Just(None), 1 => any::<prop::sample::Index>().prop_map(Some)],
    ) {
        let mut bytes = Parts::calling().bytes();
        for (index, word) in spoiled {
            let place = index.index(bytes.0.len());
            bytes.0[place] = word;
        }
        (bytes.header().magic, bytes.header().version) = (PLAN_MAGIC, ABI_VERSION);
        if let Some(cut) = cut {
            let length = cut.index(bytes.0.len());
            bytes.0.truncate(length.max(HEADER / 8));
        }
        bytes.seal();
        walk(&bytes);
    }

    #[test]
    fn a_flipped_bit_anywhere_never_panics_and_behind_the_header_is_found(bit: prop::sample::Index) {
        let mut bytes = Parts::calling().bytes();
        let bit = bit.index(bytes.0.len() * 64);
        bytes.0[bit / 64] ^= 1 << (bit % 64);
        if bit / 8 >= HEADER {
            let damaged = matches!(bytes.parse(), Err(PlanError::Crc { .. }));
            prop_assert!(damaged);
        }
        walk(&bytes);
    }

    #[test]
    fn noise_on_any_boundary_is_no_plan(noise in prop::collection::vec(any::<u8>(), 0..400), skip in 0usize..8) {
        prop_assert!(Plan::parse(noise.get(skip..).unwrap_or_default()).is_err());
    }
}
