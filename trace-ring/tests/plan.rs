//! A plan's bytes: each thing that can be wrong is found and named, and no bytes make the check panic.

use proptest::prelude::*;
use trace_ring::layout::{ABI_VERSION, MAX_CORES, NO_HISTOGRAM};
use trace_ring::plan::{
    CoreProgram, Op, PLAN_MAGIC, Plan, PlanError, PlanHeader, PlanSlot, Twin, checksum, op, twin_kind,
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const HEADER: usize = size_of::<PlanHeader>();

/// The parts of a plan, to be spoiled one by one.
#[derive(Clone)]
struct Parts {
    header: PlanHeader,
    ops: Vec<Op>,
    programs: Vec<CoreProgram>,
    slots: Vec<PlanSlot>,
    twins: Vec<Twin>,
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
        let slot = |from, to, histogram| PlanSlot { from, to, phase: 0, intid: 1, state: 1, histogram, reserved: 0 };
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
        }
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
        (header.magic, header.version, header.header_len) = (PLAN_MAGIC, ABI_VERSION, HEADER as u32);
        header.op_count = self.ops.len() as u32;
        header.core_count = self.programs.len() as u32;
        header.slot_count = self.slots.len() as u32;
        header.twin_count = self.twins.len() as u32;
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
    let sections: [(&str, Offset, Count); 4] = [
        ("ops", |header| &mut header.ops, |header| &mut header.op_count),
        ("programs", |header| &mut header.programs, |header| &mut header.core_count),
        ("slots", |header| &mut header.slots, |header| &mut header.slot_count),
        ("twins", |header| &mut header.twins, |header| &mut header.twin_count),
    ];
    for (name, offset, count) in sections {
        let length = Parts::right().bytes().header().total_len;
        let right = *offset(Parts::right().bytes().header());
        for wrong in [length, length + 8, u64::MAX, right + 1] {
            let mut bytes = Parts::right().bytes();
            *offset(bytes.header()) = wrong;
            bytes.seal();
            assert_eq!(bytes.parse().unwrap_err(), PlanError::Section { name }, "offset {wrong:#x}");
        }
        for wrong in [1000, u32::MAX] {
            let mut bytes = Parts::right().bytes();
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
        let mut bytes = Parts::right().bytes();
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
        let mut bytes = Parts::right().bytes();
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
