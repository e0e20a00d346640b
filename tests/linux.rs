//! Linux traces through the tool itself: a bare-metal run that was exported as Linux prints it, and imported again, gives the same IPIs,
//! outcomes and latencies; and what a user sees of a bad trace.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use system_tests::{can_run, qemu, run};

/// Of each pair: how many latencies, the shortest and the longest, ns.
type Pairs = BTreeMap<(u64, u64), (u64, f64, f64)>;

/// Phases and kinds of a pair together: a trace has one phase.
fn pairs(report: &Value) -> Pairs {
    let mut pairs = Pairs::new();
    for pair in report["pairs"].as_array().expect("pairs") {
        let whole = |name: &str| pair[name].as_u64().expect("a number");
        let Some((least, most)) = pair["min_ns"].as_f64().zip(pair["max_ns"].as_f64()) else { continue };
        let entry = pairs.entry((whole("from"), whole("to"))).or_insert((0, f64::INFINITY, 0.0));
        *entry = (entry.0 + whole("n"), entry.1.min(least), entry.2.max(most));
    }
    pairs
}

/// The outcomes.
fn outcomes(report: &Value) -> Vec<u64> {
    let names = ["sent", "delivered", "coalesced", "lost", "misrouted", "in_flight", "unknown"];
    names.map(|name| report["ipis"][name].as_u64().expect("a count")).to_vec()
}

/// A report of an import of `text`.
fn imported(folder: &Path, text: &str) -> Value {
    let (code, _, said) = run(folder, &["import", text, "--out", "linux.mcap"]);
    assert_eq!(code, 0, "{said}");
    let (_, _, said) = run(folder, &["report", "linux.mcap", "--json", "linux.json"]);
    serde_json::from_slice(&std::fs::read(folder.join("linux.json")).unwrap_or_default())
        .unwrap_or_else(|_| panic!("{said}"))
}

#[test]
fn a_bare_metal_run_comes_back_from_its_linux_text() {
    if !can_run() {
        return;
    }
    // Of messages that merged, bare metal times the newest of each sender, a Linux trace all: there, outcomes are compared alone.
    for (plan, timed) in [("matrix", true), ("broadcast", true), ("calls", true), ("storm", false)] {
        let bare = qemu(&["--deterministic", "--plan", plan, "--cores", "4", "--level", "calls"]);
        bare.expect(0, "clean");
        let folder = bare.folder.path();
        let (code, _, said) = run(folder, &["export", "run.mcap", "--to", "ftrace", "--ns", "--out", "bare.trace.txt"]);
        assert_eq!(code, 0, "{said}");
        let linux = imported(folder, "bare.trace.txt");
        assert_eq!(outcomes(&linux), outcomes(&bare.report), "{plan}");
        if timed {
            assert_eq!(pairs(&linux), pairs(&bare.report), "{plan}");
        }
        assert_eq!(linux["verdict_scope"], "linux trace");
        assert_eq!(linux["linux"]["unknown"], 0, "{plan}: every line is read");
        if plan == "calls" {
            for name in ["queued", "executed"] {
                assert_eq!(linux["calls"][name], bare.report["calls"][name], "{name}");
            }
        }
    }
}

#[test]
fn a_trace_that_is_none_ends_with_three_and_leaves_no_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path();
    std::fs::write(path.join("not.txt"), "Dear kernel people,\n").expect("written");
    std::fs::write(path.join("cut.dat"), b"\x17\x08Dtracing7\0").expect("written");
    std::fs::write(path.join("bad.toml"), "[[rule]]\nfunction = \"f\"\n").expect("written");
    let good = "            init-1       [000] d....     8.034540: ipi_entry: (Rescheduling interrupts)\n";
    std::fs::write(path.join("good.txt"), good).expect("written");
    for (arguments, words) in [
        (&["import", "not.txt", "--out", "x.mcap"][..], "no ftrace text (line 1"),
        (&["import", "cut.dat", "--out", "x.mcap"], "ends at byte"),
        (&["import", "missing.txt", "--out", "x.mcap"], "missing.txt"),
        (&["import", ".", "--out", "x.mcap"], "directory"),
        (&["import", "good.txt", "--rules", "bad.toml", "--out", "x.mcap"], "bad.toml"),
        (&["import", "good.txt", "--out", "good.txt"], "is the trace itself"),
    ] {
        let (code, stdout, said) = run(path, arguments);
        assert_eq!((code, stdout.as_str()), (3, ""), "{arguments:?}: {said}");
        assert!(said.contains(words) && said.contains("next step: "), "{arguments:?}: expected {words:?} in {said}");
        assert!(!path.join("x.mcap").exists(), "{arguments:?}");
    }
    assert_eq!(std::fs::read_to_string(path.join("good.txt")).ok().as_deref(), Some(good));
    let (code, _, said) = run(path, &["import", "good.txt"]);
    assert_eq!(code, 0, "{said}");
}
