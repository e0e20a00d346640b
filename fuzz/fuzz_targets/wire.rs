//! Any bytes on the virtual probe's wire: no panic, whole frames as answers, transfers all accounted for, in pieces the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use virtual_probe::front::wire::{Connection, Next};
use virtual_probe::knobs::{Knob, Knobs};
use virtual_probe::layout::SocLayout;
use virtual_probe::machine::FlatMachine;
use virtual_probe::port::Port;

const KNOBS: [Option<Knob>; 8] = [
    None,
    Some(Knob::CoreOff(1)),
    Some(Knob::CoreFault(0)),
    Some(Knob::NoLargeData),
    Some(Knob::NoSystemAp),
    Some(Knob::NoInputGate),
    Some(Knob::Stale),
    Some(Knob::Cut(20)),
];

/// What comes out, how it ended, and what was counted.
fn serve(knob: u8, pieces: &mut dyn Iterator<Item = &[u8]>) -> (Vec<u8>, Next, String) {
    let machine = FlatMachine::new(0x4000_0000, 64 << 10, 2);
    let knobs: Knobs = KNOBS[usize::from(knob & 7)].clone().into_iter().collect();
    let mut port = Port::new(SocLayout::qemu_virt(2), Box::new(machine), knobs);
    port.connect();
    let (mut connection, mut out, mut next) = (Connection::default(), Vec::new(), Next::Serve);
    for piece in pieces {
        next = connection.receive(&mut port, piece, &mut out);
        if next != Next::Serve {
            break;
        }
    }
    let stats = port.stats();
    assert_eq!(stats.purposes.total(), stats.transfers.total);
    assert_eq!(stats.halts.cores.iter().sum::<u64>(), stats.halts.total);
    (out, next, format!("{stats:?}"))
}

fuzz_target!(|data: &[u8]| {
    let [knob, bytes @ ..] = data else { return };
    let whole = serve(*knob, &mut std::iter::once(bytes));
    // Each answer is a frame: an endpoint that there is, then zeroes stuffed away, then one zero.
    if let Some((last, frames)) = whole.0.split_last() {
        assert_eq!(*last, 0);
        assert!(frames.split(|byte| *byte == 0).all(|frame| frame.len() >= 2));
    }
    assert!(serve(*knob, &mut bytes.chunks(1 + usize::from(*knob >> 3))) == whole);
});
