//! protoc reads what is written, by a schema that shares nothing with the writer but the numbers.

use std::process::{Command, Stdio};

use perfetto_writer::{Mark, Note, Options, Unit, Writer};

/// What protoc prints of a trace; `None`: it is not installed.
fn decode(trace: &[u8]) -> Option<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let mut input = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut input, trace).unwrap();
    std::io::Seek::rewind(&mut input).unwrap();
    let mut protoc = Command::new("protoc");
    protoc.args(["--decode=perfetto.protos.Trace", "--proto_path", folder, "trace.proto"]).stdin(Stdio::from(input));
    let Ok(output) = protoc.output() else {
        // ./setup.sh installs it.
        assert!(std::env::var_os("CI").is_none(), "no protoc here, and under CI nothing is skipped");
        eprintln!("skipped: protoc is not installed");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// A text without its white space at the lines' ends and begins.
fn lines(text: &str) -> String {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

#[test]
fn protoc_knows_every_field_of_every_packet() {
    let mut trace = Vec::new();
    let mut writer = Writer::new(&mut trace, &Options { root: "IPI" }).unwrap();
    let core = writer.track(writer.root(), "core 0", 0).unwrap();
    let send = writer.track(core, "send", -1).unwrap();
    let cycles = writer.counter(core, "cycles", Unit::Named("cycles"), 1).unwrap();
    let notes = [
        ("uint", Note::Uint(u64::MAX)),
        ("int", Note::Int(-5)),
        ("double", Note::Double(0.25)),
        ("text", Note::Text("a \"b\"")),
        ("bool", Note::Bool(false)),
    ];
    let mark = Mark { name: "SGI 1", category: "ipi", flows: &[7, u64::MAX], ends: &[1 << 40], notes: &notes };
    writer.begin(send, 1_000_000_000, &mark).unwrap();
    writer.end(send, 1_000_000_080, &[("int", Note::Int(1))]).unwrap();
    writer.count(cycles, 5, -7).unwrap();
    writer.lost(send, u64::MAX, Some(12)).unwrap();
    let finish = writer.finish().unwrap();
    let Some(text) = decode(&trace) else { return };
    assert_eq!(text.matches("packet {").count() as u64, finish.packets);
    // A field that the schema does not know would be a number.
    assert!(text.lines().all(|line| !line.trim_start().starts_with(|first: char| first.is_ascii_digit())), "{text}");
    assert_eq!(lines(&text), lines(include_str!("every_field.txt")));
}
