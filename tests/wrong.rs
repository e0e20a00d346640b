//! Asked wrongly: one clear message with the next step, the right exit code, nothing left running.

use system_tests::{run, tool};

/// Runs the tool and asserts code and words of the message.
fn refused(arguments: &[&str], code: i32, words: &[&str]) {
    let folder = tempfile::tempdir().expect("a folder");
    let (got, stdout, stderr) = run(folder.path(), arguments);
    assert_eq!(got, code, "{arguments:?}\n{stdout}\n{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{arguments:?}: no `{word}` in\n{stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert!(stdout.is_empty(), "{arguments:?} printed data: {stdout}");
}

#[test]
fn core_counts_out_of_range_are_refused() {
    refused(&["qemu", "--cores", "0"], 3, &["0"]);
    refused(&["qemu", "--cores", "10000"], 3, &["10000", "512"]);
    refused(&["qemu", "--cores", "5", "--machine", "imx8mp-evk"], 3, &["5", "4", "imx8mp-evk"]);
    refused(&["qemu", "--cores", "many"], 3, &["many"]);
}

#[test]
fn unknown_names_are_refused_with_what_there_is() {
    refused(&["qemu", "--machine", "virt-el4"], 3, &["virt-el4", "virt-el3"]);
    refused(&["qemu", "--plan", "pong"], 3, &["pong", "ipiscope plans"]);
    refused(&["qemu", "--inject", "drip:0:1"], 3, &["drip", "drop"]);
    refused(&["qemu", "--cpus", "4"], 3, &["--cores"]);
    refused(&["frobnicate"], 3, &["frobnicate"]);
}

#[test]
fn a_bad_plan_is_refused_by_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bad.toml");
    for (text, word) in [
        ("name = \"bad\"\n[[phase]]\npattern = \"ping\"\ncuont = 3\n", "cuont"),
        ("name = \"bad\"\n[[phase]]\nname = \"p\"\npattern = \"ping\"\ncount = 3\nto = 9\n", "9"),
        ("not toml at all [", "bad.toml"),
        ("", "bad.toml"),
    ] {
        std::fs::write(&file, text).expect("a plan");
        refused(&["qemu", "--plan", file.to_str().expect("a path")], 3, &[word]);
    }
}

#[test]
fn cores_that_are_not_there_are_refused() {
    refused(&["qemu", "--cores", "2", "--from", "0-3"], 3, &["--from"]);
    refused(&["qemu", "--cores", "2", "--inject", "dead:7"], 3, &["7"]);
}

#[test]
fn an_accelerator_that_the_host_lacks_is_refused_with_the_reason() {
    // A host that can do it runs it; this one says why not.
    if cfg!(not(target_arch = "aarch64")) {
        refused(&["qemu", "--accel", "kvm"], 2, &["kvm", std::env::consts::ARCH]);
        refused(&["qemu", "--accel", "hvf"], 2, &["hvf"]);
    }
}

#[test]
fn without_qemu_the_message_says_how_to_get_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = std::process::Command::new(tool())
        .args(["qemu", "--json", "report.json"])
        .current_dir(folder.path())
        .env("PATH", folder.path())
        .output()
        .expect("the tool starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("qemu-system-aarch64") && stderr.contains("setup.sh"), "{stderr}");
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("report.json")).expect("a report")).expect("JSON");
    assert_eq!(report["schema"], "ipiscope.report/1");
    assert!(report["error"]["next_step"].is_string(), "{report}");
}

#[test]
fn what_is_no_capture_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in [("empty", &b""[..]), ("text", b"hello, this is no capture"), ("zeroes", &[0; 4096])] {
        let file = folder.path().join(name);
        std::fs::write(&file, bytes).expect("a file");
        refused(&["report", file.to_str().expect("a path")], 3, &[name]);
    }
    refused(&["report", "no-such-file.mcap"], 3, &["no-such-file.mcap"]);
}

#[test]
fn limits_that_can_t_be_held_are_refused_before_anything_runs() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("board.toml");
    let path = file.to_str().expect("a path");
    for (text, words) in [
        ("", &["board.toml", "no rule", "--make-limits"][..]),
        ("name = \"x\"\n[[limit]]\nkind = \"sgi0\"\n", &["line 2", "bounds nothing"]),
        ("[[limit]]\nname = \"tail\"\np50 = \"2us\"\np99 = \"1us\"\n", &["line 1", "`tail`", "p50", "p99"]),
        ("[[limit]]\nlost = -1\n", &["line 2", "-1"]),
        ("[[limit]]\nstate = \"asleep\"\nlost = 0\n", &["asleep", "wfi"]),
        ("[target]\nboard = \"rock-5b\"\n[[limit]]\nlost = 0\n", &["rock-5b", "virt", "not for this target"]),
        ("[target]\nplan = \"matrix\"\n[[limit]]\nlost = 0\n", &["matrix", "standard"]),
    ] {
        std::fs::write(&file, text).expect("limits");
        refused(&["qemu", "--limits", path], 3, words);
    }
    refused(&["qemu", "--limits", "no-such.toml"], 3, &["no-such.toml"]);
    refused(&["report", "no-such-file.mcap", "--limits", "no-such.toml"], 3, &["no-such.toml"]);
    // A lab's CI sees why, too.
    let (code, _, stderr) =
        run(folder.path(), &["qemu", "--limits", "no-such.toml", "--junit", "out.xml", "--json", "out.json"]);
    assert_eq!(code, 3, "{stderr}");
    let xml = std::fs::read_to_string(folder.path().join("out.xml")).expect("JUnit XML");
    assert!(xml.contains("errors=\"1\"") && xml.contains("no-such.toml"), "{xml}");
    let json = std::fs::read_to_string(folder.path().join("out.json")).expect("a report");
    assert!(json.contains("no-such.toml"), "{json}");
}

#[test]
fn what_can_t_be_compared_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("text.mcap");
    std::fs::write(&file, b"hello, this is no capture").expect("a file");
    let path = file.to_str().expect("a path");
    refused(&["compare"], 3, &["CAPTURE"]);
    refused(&["compare", path], 3, &["nothing to compare", "ipiscope compare A B"]);
    refused(&["compare", path, path], 3, &["text.mcap"]);
    refused(&["compare", "--make-limits", path], 3, &["text.mcap"]);
    refused(&["compare", "--make-limits", "--margin", "much", path], 3, &["much", "25%"]);
    refused(&["compare", "--margin", "5%", path, path], 3, &["--make-limits"]);
}

#[test]
fn a_firmware_that_is_none_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("image");
    std::fs::write(&file, b"not an image").expect("a file");
    refused(&["qemu", "--firmware", file.to_str().expect("a path")], 3, &["image"]);
}
