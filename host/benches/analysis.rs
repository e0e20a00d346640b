//! How fast a capture becomes a report: `cargo bench -p host --bench analysis`.
//!
//! `read` unpacks the records, `correlate` joins them as well, `report` judges besides: each holds the one before it.

mod synthetic;

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use host::capture::{Batch, Capture};
use host::correlate::correlate;
use host::report;
use synthetic::Shape;

/// Records of each capture.
const RECORDS: u64 = 4_000_000;

/// Cores of each run.
const CORES: u16 = 64;

fn analysis(criterion: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut group = criterion.benchmark_group("analysis");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group.warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(10));
    for shape in [Shape::Matrix, Shape::Storm] {
        let path = folder.path().join(shape.name());
        let records = synthetic::write(&path, shape, CORES, RECORDS).expect("a capture");
        group.throughput(Throughput::Elements(records));
        let capture = Capture::open(&path).expect("opens");
        group.bench_function(BenchmarkId::new("read", shape.name()), |bencher| {
            bencher.iter(|| {
                let mut bytes = 0;
                let damage = capture.lanes(|batch| {
                    if let Batch::Records { bytes: records, .. } = batch {
                        bytes += black_box(records).len() as u64;
                    }
                });
                assert_eq!(damage.ok(), Some(capture.damage()));
                assert_eq!(bytes, 32 * records);
            });
        });
        group.bench_function(BenchmarkId::new("correlate", shape.name()), |bencher| {
            bencher.iter(|| {
                let ipis = correlate(&capture).expect("is read");
                assert_eq!((ipis.records, ipis.totals.lost, ipis.totals.unknown), (records, 0, 0));
                ipis.totals
            });
        });
        group.bench_function(BenchmarkId::new("report", shape.name()), |bencher| {
            bencher.iter(|| report::build(&path).expect("a report"));
        });
    }
    group.finish();
}

criterion_group!(benches, analysis);
criterion_main!(benches);
