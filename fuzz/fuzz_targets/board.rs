//! Any text as a board file: refused, or a board whose tree, where it can be written, the firmware reads as the same machine.
#![no_main]

#[allow(dead_code, reason = "what uses it knows hardware")]
#[path = "../../firmware/src/fdt.rs"]
mod fdt;
#[allow(dead_code, reason = "what uses it knows hardware")]
#[path = "../../firmware/src/machine.rs"]
mod machine;

use boards::TreeOptions;
use dtoolkit::fdt::Fdt;
use libfuzzer_sys::fuzz_target;
use machine::{Conduit, Machine};

fuzz_target!(|data: &[u8]| {
    let [cores, text @ ..] = data else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let board = match boards::parse("board", text) {
        Ok(board) => board,
        Err(error) => {
            assert!(error.to_string().contains("board"));
            return;
        }
    };
    let cores = if *cores < 128 { u16::from(*cores) } else { board.cores.max };
    let memory_bytes = board.memory.size.unwrap_or(1 << 30);
    let Ok(blob) = board.device_tree(TreeOptions { cores, memory_bytes }) else { return };
    let mut machine = Box::new(Machine::new());
    let tree = Fdt::new(&blob).expect("what was written is a tree");
    if let Err(error) = fdt::read(tree, &mut machine) {
        // The firmware has room for so many ranges, and a board file may name more.
        assert!(matches!(error, fdt::TreeError::TooMany(_)), "{error}");
        return;
    }
    assert_eq!(machine.core_count, usize::from(cores));
    for (core, affinity) in machine.cores.iter().zip(&board.cores.affinity).take(machine.core_count) {
        assert_eq!(core.mpidr, *affinity);
    }
    let gic = board.gic.as_ref().expect("a tree is written with a GIC only");
    assert_eq!((machine.distributor.start, machine.distributor.length), (gic.distributor.base, gic.distributor.size));
    let memory: Vec<_> = machine.memory.iter().map(|range| (range.start, range.length)).collect();
    assert_eq!(memory, [(board.memory.base, memory_bytes)]);
    assert_eq!(
        machine.conduit,
        match board.psci.conduit {
            boards::Conduit::None => Conduit::None,
            boards::Conduit::Hvc => Conduit::Hvc,
            boards::Conduit::Smc => Conduit::Smc,
        }
    );
});
