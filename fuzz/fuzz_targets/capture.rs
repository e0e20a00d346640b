//! Any bytes as a capture: refused or opened; no more records than the bytes can hold, and a second reading gives the same.
#![no_main]

use std::hash::{DefaultHasher, Hasher as _};

use fuzz::{InputFile, repair};
use host::capture::{Batch, Capture, Damage};
use libfuzzer_sys::fuzz_target;
use trace_ring::reader::{Region, records};

/// What zstd's frames begin with (RFC 8878, 3.1.1).
const ZSTD: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];

#[derive(Debug, PartialEq)]
struct Read {
    damage: Damage,
    records: u64,
    rows: u64,
    sum: u64,
    told: String,
}

fn read(capture: &Capture) -> Read {
    let (mut count, mut rows, mut sum) = (0, 0, DefaultHasher::new());
    let damage = capture.lanes(|batch| match batch {
        Batch::Records { core, context, first, bytes } => {
            assert!(bytes.len() % 32 == 0);
            count += bytes.len() as u64;
            sum.write_u16(core);
            sum.write_u8(context);
            sum.write_u64(first);
            sum.write(bytes);
            sum.write_usize(records(first, bytes).count());
        }
        Batch::Lost { first, count, .. } | Batch::Unkept { first, count, .. } => {
            sum.write_u64(first);
            sum.write_u64(count);
        }
    });
    let of_rows = capture.linux_rows(|first, bytes| {
        assert!(bytes.len() % 32 == 0);
        rows += bytes.len() as u64;
        sum.write_u64(first);
        sum.write(bytes);
    });
    let damage = damage.expect("the file is there");
    assert_eq!(of_rows.expect("the file is there"), damage);
    let names: Vec<(String, usize)> = capture
        .attachments()
        .map(|(name, _)| {
            (name.into(), capture.attachment(name).expect("the file is there").map_or(0, |data| data.len()))
        })
        .collect();
    if let Some(mut source) = capture.snapshot()
        && let Ok(region) = Region::open(&mut source)
    {
        let _ = region.slots(&mut source);
    }
    let told = format!("{:?} {:?} {names:?} {}", capture.info(), capture.ending(), capture.console());
    Read { damage, records: count, rows, sum: sum.finish(), told }
}

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    repair(&mut bytes);
    let file = InputFile::of(&bytes);
    let Ok(capture) = Capture::open(&file.path()) else { return };
    let found = read(&capture);
    if !bytes.windows(4).any(|window| window == ZSTD) {
        let length = bytes.len() as u64;
        assert!(found.records + found.rows <= length, "{} and {} of {length} bytes", found.records, found.rows);
    }
    assert_eq!(read(&capture), found);
    let again = Capture::open(&file.path()).expect("opened before");
    assert_eq!(read(&again), found);
});
