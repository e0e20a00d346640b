//! Size and speed of a trace: `cargo bench -p perfetto-writer`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use perfetto_writer::{Finish, Mark, Note, Options, Writer};

/// IPIs of a measurement: a send and a handler's slice with an arrow between them and a note each.
const IPIS: u64 = 10_000;

fn trace(out: &mut Vec<u8>) -> std::io::Result<Finish> {
    out.clear();
    let mut writer = Writer::new(out, &Options { root: "IPI" })?;
    let root = writer.root();
    let mut lanes = Vec::new();
    for core in 0..4 {
        let track = writer.track(root, &format!("core {core}"), core)?;
        lanes.push((writer.track(track, "send", 0)?, writer.track(track, "handler", 1)?));
    }
    for (ipi, ((send, _), (_, handler))) in (0..IPIS).zip(lanes.iter().zip(lanes.iter().skip(1)).cycle()) {
        let (t, flow) = (1_000_000_000 + ipi * 3000, [ipi + 1]);
        let (target, latency) = ([("target", Note::Uint(1))], [("latency_ns", Note::Uint(700 + ipi % 100))]);
        writer.begin(
            *send,
            t,
            &Mark { name: "SGI 1", category: "ipi", flows: &flow, notes: &target, ..Mark::default() },
        )?;
        writer.end(*send, t + 80, &[])?;
        let entry = Mark { name: "SGI 1", category: "ipi", ends: &flow, notes: &latency, ..Mark::default() };
        writer.begin(*handler, t + 700, &entry)?;
        writer.end(*handler, t + 900, &[])?;
    }
    writer.finish()
}

fn write(criterion: &mut Criterion) {
    let mut out = Vec::new();
    let finish = trace(&mut out).unwrap_or_default();
    let events = finish.begins + finish.ends;
    println!("{events} events, {:.1} bytes each", finish.bytes as f64 / events as f64);
    let mut group = criterion.benchmark_group("write");
    group.throughput(Throughput::Elements(events));
    group.bench_function("ipis", |bencher| bencher.iter(|| trace(&mut out)));
    group.finish();
}

criterion_group!(benches, write);
criterion_main!(benches);
