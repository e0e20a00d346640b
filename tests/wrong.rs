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
fn a_firmware_that_is_none_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("image");
    std::fs::write(&file, b"not an image").expect("a file");
    refused(&["qemu", "--firmware", file.to_str().expect("a path")], 3, &["image"]);
}
