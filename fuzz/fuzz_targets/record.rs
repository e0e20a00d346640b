//! Any 32 bytes as record number N: refused, or decoded and encoded again to the same bytes, and never taken for another number.
#![no_main]

use libfuzzer_sys::fuzz_target;
use trace_ring::calls::Onward;
use trace_ring::record::{ReceiverState, Record, Retired, Witness};

fuzz_target!(|data: &[u8]| {
    for chunk in data.chunks_exact(40) {
        let Some((number, bytes)) = chunk.split_first_chunk::<8>() else { return };
        let Some(bytes) = bytes.first_chunk::<32>() else { return };
        // Every other one carries the number that is in the words.
        let index = match number {
            [0 | 2 | 4, ..] => u64::from_le_bytes(*number),
            _ => u64::from(u32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]])),
        };
        let Some(record) = Record::from_bytes(bytes, index) else { continue };
        assert_eq!(record.index, index);
        let words = record.event.words(index);
        assert!(words.iter().flat_map(|word| word.to_le_bytes()).eq(*bytes), "{record:?}");
        assert_eq!(Record::from_bytes(bytes, index.wrapping_add(1)), None);
        assert_eq!(Record::from_bytes(bytes, index ^ 0x8000), None);
        let event = record.event;
        assert!(event.window() | u64::from(event.slot()) << 40 == event.arg);
        assert_eq!(Witness::from_code(event.extra).code(), event.extra);
        let state = ReceiverState::from_code(event.flags);
        assert!(state == ReceiverState::Unknown || state.code() == event.flags);
        assert_eq!(Retired::from_code(Retired::from_code(event.extra).code()), Retired::from_code(event.extra));
        assert_eq!(Onward::from_info(event.arg).info(), event.arg & 0xFFFF_FFFF_FFFF);
    }
});
