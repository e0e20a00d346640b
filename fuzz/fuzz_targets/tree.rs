//! Any bytes as a device tree, read by the firmware's code: an error, or a machine with cores, memory and a GIC, twice the same.
#![no_main]

// The firmware is a program: its sources are taken as they are.
#[allow(dead_code, reason = "what uses it knows hardware")]
#[path = "../../firmware/src/fdt.rs"]
mod fdt;
#[allow(dead_code, reason = "what uses it knows hardware")]
#[path = "../../firmware/src/machine.rs"]
mod machine;
#[allow(dead_code, reason = "what uses it knows hardware")]
#[path = "../../firmware/src/options.rs"]
mod options;

use dtoolkit::fdt::Fdt;
use libfuzzer_sys::fuzz_target;
use machine::{Machine, Range, find_free};

/// All that a machine is, to be compared.
fn told(machine: &Machine) -> String {
    let ranges: [Vec<Range>; 3] =
        [machine.memory.iter().collect(), machine.reserved.iter().collect(), machine.redistributors.iter().collect()];
    let Machine { distributor, redistributor_stride, conduit, console, virtual_timer, plan, watchdogs, .. } = machine;
    format!(
        "{:?} {ranges:?} {distributor:?} {redistributor_stride} {conduit:?} {console:?} {virtual_timer} {plan:?} {watchdogs:?}",
        &machine.cores[..machine.core_count]
    )
}

fuzz_target!(|data: &[u8]| {
    let Ok(tree) = Fdt::new(data) else { return };
    let mut machine = Box::new(Machine::new());
    let read = fdt::read(tree, &mut machine);
    match &read {
        Ok(()) => {
            assert!((1..=machine.cores.len()).contains(&machine.core_count));
            assert!(machine.memory.len() > 0 && machine.memory.iter().all(|range| range.length > 0));
            assert!(machine.distributor.length > 0 && machine.redistributors.len() > 0);
            let (length, align) = (8 << 20, 2 << 20);
            if let Some(start) = find_free(&machine.memory, &machine.reserved, length, align, 0x4020_0000) {
                let free = Range { start, length };
                assert!(start % align == 0 && machine.reserved.iter().all(|taken| !taken.overlaps(free)));
                let holds = |range: Range| start >= range.start && start + length <= range.start + range.length;
                assert!(machine.memory.iter().any(holds));
            }
        }
        Err(error) => assert!(error.to_string().starts_with("device tree: ")),
    }
    let mut again = Box::new(Machine::new());
    assert_eq!(fdt::read(tree, &mut again), read);
    assert_eq!(told(&again), told(&machine));
    if let Some(text) = fdt::boot_arguments(tree) {
        let mut complaints = 0;
        let options = options::Options::parse(text, |word| {
            assert!(word.starts_with("ipiscope."));
            complaints += 1;
        });
        assert!(complaints > 0 || text.contains("ipiscope.") || options == options::Options::DEFAULT);
    }
});
