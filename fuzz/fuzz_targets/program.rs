//! Any bytes as a compiled plan, its checksum made right: refused, or every index in it is in range and its region can be laid out.
#![no_main]

use core::mem::offset_of;

use libfuzzer_sys::fuzz_target;
use trace_ring::layout::{ABI_VERSION, lay_out};
use trace_ring::plan::{PLAN_MAGIC, Plan, PlanHeader, checksum, op};
use zerocopy::IntoBytes as _;

fuzz_target!(|data: &[u8]| {
    let mut words = vec![0_u64; data.len().div_ceil(8)];
    let bytes = &mut words.as_mut_bytes()[..data.len()];
    bytes.copy_from_slice(data);
    if bytes.len() >= size_of::<PlanHeader>() {
        for (at, value) in [
            (offset_of!(PlanHeader, magic), &PLAN_MAGIC.to_le_bytes()[..]),
            (offset_of!(PlanHeader, version), &ABI_VERSION.to_le_bytes()),
            (offset_of!(PlanHeader, header_len), &(size_of::<PlanHeader>() as u32).to_le_bytes()),
            (offset_of!(PlanHeader, total_len), &(data.len() as u64).to_le_bytes()),
        ] {
            bytes[at..at + value.len()].copy_from_slice(value);
        }
        let crc = checksum(bytes);
        bytes[offset_of!(PlanHeader, crc)..][..4].copy_from_slice(&crc.to_le_bytes());
    }
    let Ok(plan) = Plan::parse(bytes) else { return };
    let header = plan.header;
    assert_eq!(plan.ops.len(), header.op_count as usize);
    assert_eq!(plan.programs.len(), header.core_count as usize);
    assert!(plan.ops.last().is_some_and(|last| last.code == op::END));
    assert!(plan.programs.iter().all(|program| (program.first_op as usize) < plan.ops.len()));
    assert!(plan.slots.iter().all(|slot| u32::from(slot.from) < header.core_count));
    let (sections, length) = lay_out(plan.shape());
    assert!(sections.records <= length, "{sections:?}");
    // What was checked is checked again with its last byte damaged: the checksum tells.
    let Some(last) = bytes.last_mut() else { return };
    *last ^= 1;
    assert!(Plan::parse(bytes).is_err());
});
