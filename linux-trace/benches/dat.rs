//! How fast a `trace.dat` becomes events: `cargo bench -p linux-trace --bench dat`.
//!
//! A file of a million events is read ten times over for each sample: as many events as a file of ten million has.

#[path = "../tests/writer/mod.rs"]
mod writer;

use std::io::Cursor;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use linux_trace::{Names, dat};

/// Calls of a file, six events each.
const CALLS: usize = 170_000;

/// Times that it is read.
const TIMES: u64 = 10;

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("trace.dat");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(15));
    let events = 6 * CALLS as u64;
    group.throughput(Throughput::Elements(TIMES * events));
    for (cpus, packing) in [(4, "v6"), (4, "v7 zstd"), (4, "v7 zlib"), (64, "v6"), (64, "v7 zstd")] {
        let mut writer = writer::Writer::new(false, 8, cpus);
        writer::calls(&mut writer, CALLS);
        let file = match packing {
            "v6" => writer.v6(),
            "v7 zstd" => writer.v7("zstd"),
            _ => writer.v7("zlib"),
        };
        group.bench_function(BenchmarkId::new(packing, format!("{cpus} CPUs")), |bencher| {
            bencher.iter(|| {
                let mut sum = 0;
                for _ in 0..TIMES {
                    let mut names = Names::new();
                    let read = dat::read(Cursor::new(&file), &mut names, &mut |event, _| sum ^= event.t);
                    assert_eq!(read.ok().map(|(_, tally)| (tally.events, tally.unknown)), Some((events, 0)));
                }
                sum
            });
        });
    }
    group.finish();
}

criterion_group!(benches, read);
criterion_main!(benches);
