//! Any text as a job file: a clear error, or a program that the firmware's reader takes, of the size that was told, and twice the same.
#![no_main]

use fuzz::InputFile;
use host::plan::{CoreList, PlanError, PlanMeta, PlanRequest, compile};
use libfuzzer_sys::fuzz_target;
use trace_ring::layout::lay_out;
use trace_ring::plan::{Plan, Policy, TraceLevel};
use zerocopy::IntoBytes as _;

const CORES: [u16; 8] = [4, 1, 2, 3, 8, 17, 48, 512];
const LEVELS: [Option<TraceLevel>; 4] = [None, Some(TraceLevel::Off), Some(TraceLevel::Ipi), Some(TraceLevel::Calls)];

fuzz_target!(|data: &[u8]| {
    let [cores, choice, text @ ..] = data else { return };
    let file = InputFile::of(text);
    let bit = |number: u8| choice >> number & 1 == 1;
    let request = PlanRequest {
        plan: Some(file.path().display().to_string()),
        cores: CORES[usize::from(cores & 7)],
        from: bit(0).then(|| CoreList(vec![0, 1])),
        to: bit(1).then(|| CoreList(vec![0, 2])),
        deterministic: bit(2),
        backtrace: bit(3),
        level: LEVELS[usize::from(choice >> 4 & 3)],
        policy: if bit(6) { Policy::Stop } else { Policy::Overwrite },
        ring_records: bit(7).then_some(100),
        seed: (cores & 8 != 0).then_some(7),
        nonce: 1,
        ..PlanRequest::default()
    };
    let compiled = match compile(&request) {
        Ok(compiled) => compiled,
        Err(error) => {
            assert!(!matches!(error, PlanError::Internal { .. }), "{error}");
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let mut words = vec![0_u64; compiled.blob.len().div_ceil(8)];
    let blob = &mut words.as_mut_bytes()[..compiled.blob.len()];
    blob.copy_from_slice(&compiled.blob);
    let plan = Plan::parse(blob).expect("the firmware takes it");
    assert_eq!(plan.header.core_count, u32::from(request.cores));
    assert_eq!(plan.header.phase_count as usize, compiled.meta.phases.len());
    assert_eq!(lay_out(plan.shape()).1, compiled.region_bytes);
    let meta: PlanMeta = serde_json::from_slice(plan.meta).expect("the host reads what it wrote");
    assert_eq!(meta.phases, compiled.meta.phases);
    assert_eq!(compile(&request).expect("compiled before").blob, compiled.blob);
});
