//! What scripts and archives rely on (`docs/stability.md`): old captures, the fields of a report, the capture's format as its page says it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use system_tests::{root, run};

fn captures() -> PathBuf {
    root().join("tests/captures")
}

fn golden() -> Value {
    let text = std::fs::read_to_string(captures().join("format-1.json")).expect("is there");
    serde_json::from_str(&text).expect("is JSON")
}

fn report(capture: &str) -> (i32, Value) {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, json, stderr) = run(folder.path(), &["report", capture, "--json", "-"]);
    (code, serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {stderr}")))
}

fn format_1() -> (String, Vec<u8>) {
    let path = captures().join("format-1.mcap");
    let bytes = std::fs::read(&path).expect("is there");
    (path.to_str().expect("a path").into(), bytes)
}

/// All that `old` has, `new` has with the same value.
fn holds(new: &Value, old: &Value, at: &str) {
    match (old, new) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in old {
                let found = new.get(key).unwrap_or_else(|| panic!("{at}/{key} is gone"));
                holds(found, value, &format!("{at}/{key}"));
            }
        }
        (Value::Array(old), Value::Array(new)) => {
            assert_eq!(old.len(), new.len(), "{at}");
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                holds(new, old, &format!("{at}/{index}"));
            }
        }
        _ => assert_eq!(new, old, "{at}"),
    }
}

#[test]
fn a_capture_of_format_1_says_what_it_said() {
    let (path, _) = format_1();
    let (code, now) = report(&path);
    assert_eq!(code, 0);
    holds(&now, &golden(), "");
}

/// Section 5 of the design: a script may ask for each of these.
#[test]
fn a_report_has_every_field_of_the_contract() {
    let (_, report) = report(&format_1().0);
    let fields = "schema verdict verdict_scope ended error target clock trace ipis pairs stages suspects advisories plan build \
                  events_per_ipi instructions_per_ipi";
    let parts = [
        ("", fields),
        (
            "/target",
            "source machine board core_count cores_up counter_hz resolution_ns entry_el run_el psci_conduit hypervisor tags cores gic",
        ),
        ("/target/cores/0", "id mpidr midr revidr class cluster up error"),
        ("/target/gic", "iidr typer"),
        ("/clock", "read_cost_ticks max_skew_ticks monotonic"),
        ("/trace", "level records lost_records torn_records"),
        ("/ipis", "sent delivered coalesced lost misrouted in_flight unknown late duplicate spurious from"),
        ("/pairs/0", "from to kind state level n min_ns p50_ns p90_ns p99_ns max_ns mean_ns mean_ci_ns lost coalesced"),
    ];
    for (at, names) in parts {
        let part = report.pointer(at).unwrap_or_else(|| panic!("{at} is gone"));
        for name in names.split_whitespace() {
            assert!(part.get(name).is_some(), "{at}/{name} is gone");
        }
    }
    assert_eq!(report["schema"], "ipiscope.report/1");
}

/// A message as the page of the format describes it.
struct Message {
    tag: String,
    core: u16,
    context: u8,
    first: u64,
    body: Vec<u8>,
}

/// Reads a capture by `docs/capture-format.md` alone.
fn messages(bytes: &[u8]) -> Vec<Message> {
    let mut found = Vec::new();
    for message in mcap::MessageStream::new(bytes).expect("is MCAP") {
        let data = message.expect("is whole").data.into_owned();
        let number = |at: usize, length: usize| {
            data[at..at + length].iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let mut crc = crc32fast::Hasher::new();
        [&data[..12], &data[16..]].into_iter().for_each(|part| crc.update(part));
        assert_eq!(u64::from(crc.finalize()), number(12, 4), "the CRC");
        assert_eq!(number(4, 4), 1, "the format");
        found.push(Message {
            tag: String::from_utf8(data[..4].to_vec()).expect("a tag"),
            core: number(8, 2) as u16,
            context: data[10],
            first: number(16, 8),
            body: data[32..].to_vec(),
        });
    }
    found
}

/// Records from a folded body: differences byte plane by byte plane, word by word.
fn unfold(body: &[u8]) -> Vec<[u64; 4]> {
    let count = body.len() / 32;
    let mut records = vec![[0; 4]; count];
    for word in 0..4 {
        let planes = &body[word * 8 * count..(word + 1) * 8 * count];
        let mut sum = 0_u64;
        for (index, record) in records.iter_mut().enumerate() {
            let bytes: [u8; 8] = std::array::from_fn(|byte| planes[byte * count + index]);
            sum = sum.wrapping_add(u64::from_le_bytes(bytes));
            record[word] = sum;
        }
    }
    records
}

#[test]
fn the_page_of_the_format_is_enough_to_read_a_capture() {
    let (_, bytes) = format_1();
    let messages = messages(&bytes);
    let page = std::fs::read_to_string(root().join("docs/capture-format.md")).expect("the page is there");
    for message in &messages {
        assert!(page.contains(&format!("| `{}` |", message.tag)), "the page does not name {}", message.tag);
    }
    assert_eq!(messages[0].tag, "INFO");
    assert_eq!(messages[messages.len() - 1].tag, "DONE");
    // Lane by lane, numbers without a hole, each record carrying its own (docs/ring-protocol.md: word 1, bits 31..0).
    let mut next: BTreeMap<(u16, u8), u64> = BTreeMap::new();
    let mut kinds: BTreeMap<u8, u64> = BTreeMap::new();
    for message in messages.iter().filter(|message| message.tag == "LANE") {
        let next = next.entry((message.core, message.context)).or_default();
        assert_eq!(message.first, *next);
        for record in unfold(&message.body) {
            assert_eq!(record[1] as u32, *next as u32);
            *next += 1;
            *kinds.entry((record[1] >> 32) as u8).or_default() += 1;
        }
    }
    let golden = golden();
    assert_eq!(next.values().sum::<u64>(), golden["trace"]["records"].as_u64().expect("a count"));
    // A send and a receive for each IPI.
    let sent = golden["ipis"]["sent"].as_u64();
    assert_eq!((kinds.get(&1).copied(), kinds.get(&2).copied()), (sent, sent), "{kinds:?}");
}

#[test]
fn a_capture_of_a_later_format_is_refused_with_its_number() {
    let (_, bytes) = format_1();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("later.mcap");
    // The same messages, said to be of format 2, in a container of their own.
    let mut writer =
        mcap::WriteOptions::new().profile("ipiscope").create(std::io::Cursor::new(Vec::new())).expect("is opened");
    let channel = writer.add_channel(0, "run", "ipiscope.run", &BTreeMap::new()).expect("is added");
    for (sequence, message) in mcap::MessageStream::new(&bytes).expect("is MCAP").enumerate() {
        let mut data = message.expect("is whole").data.into_owned();
        data[4] = 2;
        let mut crc = crc32fast::Hasher::new();
        [&data[..12], &data[16..]].into_iter().for_each(|part| crc.update(part));
        data[12..16].copy_from_slice(&crc.finalize().to_le_bytes());
        let header = mcap::records::MessageHeader {
            channel_id: channel,
            sequence: sequence as u32,
            log_time: 0,
            publish_time: 0,
        };
        writer.write_to_known_channel(&header, &data).expect("is written");
    }
    writer.finish().expect("is closed");
    std::fs::write(&path, writer.into_inner().into_inner()).expect("is written");
    let (code, _, stderr) = run(folder.path(), &["report", "later.mcap"]);
    assert_eq!(code, 3, "{stderr}");
    assert!(stderr.contains("capture format 2") && stderr.contains("newer ipiscope"), "{stderr}");
}
