//! Writes the seeds of the fuzzers: `cargo run -p linux-trace --example fuzz-seeds -- FOLDER`.
//!
//! They are made, not kept: a file of every version, byte order, word size and packing, and lines of every layout.

#[path = "../tests/writer/mod.rs"]
mod writer;

use std::path::{Path, PathBuf};
use std::{fs, io};

use writer::{CALL, FORMAT, HANDLER, MARKER, SENDER, Value, Writer};

/// Lines of every layout and kind; each is a seed, and all together are one.
const LINES: &[&str] = &[
    "# tracer: nop\n#\n# entries-in-buffer/entries-written: 691/691   #P:4\n",
    "# nop latency trace v1.1.5 on 6.12.95\n# latency: 0 us, #691/691, CPU#3 | (M:server VP:0, KP:0, SP:0 HP:0 #P:4)\n",
    "cpus=4\n",
    "CPU:1 [LOST 528 EVENTS]\n",
    "##### CPU 1 buffer started ####\n",
    "            init-1       [003] d....     8.034540: ipi_raise: target_mask=00000000,0000000e (Function call interrupts)\n",
    "            init-1     [003]     8.034540123: ipi_raise:            target_cpus=ARRAY[04, 00] reason=(0xff:x)\n",
    "            init-1       (      1) [003] d....     8.034540: ipi_entry: (Rescheduling interrupts)\n",
    "            init-1       [003] d....     8.034540: ipi_exit: reason=Rescheduling interrupts\n",
    "            init-1       [003] d....     8.034540: ipi_send_cpu: cpu=2 callsite=a+0x54/0x98 [mod] callback=0x0\n",
    "            init-1       [003] d....     8.034540: ipi_send_cpumask: cpumask=1-3,7 callsite=a callback=0x0 (0)\n",
    "            init-1       [003] d....     8.034540: csd_queue_cpu: cpu=2 callsite=a func=b csd=000000006952b938\n",
    "            init-1       [003] d....     8.034540: csd_function_entry: func=b [mod], csd=ffff00006952b938\n",
    "            init-1       [003] d....     8.034540: csd_function_exit: func=b, csd=(____ptrval____)\n",
    "            init-1       [003] d....     8.034540: irq_handler_entry: irq=2 name=IPI\n",
    "            init-1       [003] d....     8.034540: irq_handler_exit: irq=2 ret=handled\n",
    "            init-1       [003] d....     8.034540: cpu_idle: state=4294967295 cpu_id=3\n",
    "            init-1       [003] d....     8.034540: sched_switch: prev_comm=a prev_pid=1 ==> next_comm=b next_pid=2\n",
    "            init-1       [003] d....     8.034540: sched_switch: w.sh:172 [120] S ==> swapper/2:0 [120]\n",
    "            init-1       [003] d....     8.034540: bprint:               a_mark: text\n",
    "            init-1       [003] d....     8.034540: tracing_mark_write: text\nof two lines\n",
    "    init-1         3d.h.. 278088us!: ipi_entry: (Rescheduling interrupts)\n",
    "            init       1   3 1 00000000 00000002 [007a98ec] 278.088ms (+0.923ms): ipi_entry: (x)\n",
    " 0)   1.234 us    |  function() {\n",
    "ipi_entry: (Rescheduling interrupts)\n",
];

/// One event of every kind, on two CPUs.
fn events(writer: &mut Writer) {
    let (number, long) = (Value::Number, writer.long);
    let mut arguments = Vec::new();
    writer.put(&mut arguments, 3, 4);
    arguments.extend_from_slice(b"ten\0");
    writer.put(&mut arguments, HANDLER, long);
    for (at, (cpu, name, values)) in [
        (0, "ipi_raise", vec![Value::Mask(6), number(CALL)]),
        (1, "ipi_entry", vec![number(CALL)]),
        (1, "ipi_exit", vec![number(CALL)]),
        (0, "ipi_send_cpu", vec![number(1), number(SENDER + 0x54), number(0)]),
        (0, "ipi_send_cpumask", vec![Value::Mask(3), number(SENDER), number(HANDLER)]),
        (0, "csd_queue_cpu", vec![number(1), number(SENDER), number(HANDLER), number(0x9000_0040)]),
        (1, "csd_function_entry", vec![number(HANDLER), number(0x9000_0040)]),
        (1, "csd_function_exit", vec![number(HANDLER), number(0x9000_0040)]),
        (1, "irq_handler_entry", vec![number(2), Value::Bytes(b"IPI\0")]),
        (1, "irq_handler_exit", vec![number(2), number(1)]),
        (1, "cpu_idle", vec![number(1), number(1)]),
        (0, "print", vec![number(MARKER + 8), Value::Bytes(b"from user space\n\0")]),
        (0, "bprint", vec![number(SENDER), number(FORMAT), Value::Bytes(&arguments)]),
        (0, "raw_data", vec![number(0x1234), Value::Bytes(&[1, 2])]),
    ]
    .into_iter()
    .enumerate()
    {
        let record = writer.record(name, 7, &values);
        // Every distance: within a record's head, and beyond it.
        writer.event(cpu, 100 + (77 << (3 * at)), &record);
    }
    writer.missed(0, Some(528));
    let record = writer.record("ipi_entry", 0, &[number(CALL)]);
    writer.event(0, 1 << 50, &record);
}

fn main() -> io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("give the folder that the seeds go to"));
    };
    let put = |target: &str, name: String, bytes: &[u8]| {
        let folder = folder.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(Path::new(&name)), bytes)
    };
    for (at, line) in LINES.iter().enumerate() {
        put("text", format!("line-{at:02}"), line.as_bytes())?;
    }
    put("text", "all".into(), LINES.concat().as_bytes())?;
    for (big, long) in [(false, 8), (true, 8), (false, 4), (true, 4)] {
        let mut writer = Writer::new(big, long, 2);
        // Small pages: a fuzzer's bytes should hit something.
        writer.page_size = 512;
        events(&mut writer);
        let order = if big { "big" } else { "little" };
        put("dat", format!("v6-{order}-{long}"), &writer.v6())?;
        for packing in ["none", "zlib", "zstd"] {
            put("dat", format!("v7-{packing}-{order}-{long}"), &writer.v7(packing))?;
        }
    }
    Ok(())
}
