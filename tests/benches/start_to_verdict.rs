//! How long a user waits: `ipiscope qemu` from its start to its end, with everything built. `cargo bench -p system-tests`.
//!
//! Whole processes of the release binary, one after another; least, median and most of ten for 4 cores, of three for 64 and 512.
//! Goals: 3 s at 4 cores, 60 s at 512.

use std::process::{Command, Stdio};
use std::time::Instant;

fn main() {
    // `cargo test` runs bench targets too, without this argument: there is nothing to test here.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let root = system_tests::root();
    let built = Command::new(env!("CARGO"))
        .args(["build", "--release", "--quiet", "--package", "host"])
        .current_dir(&root)
        .status()
        .expect("cargo starts");
    assert!(built.success(), "the tool builds");
    let tool = root.join("target/release/ipiscope");
    let folder = tempfile::tempdir().expect("a folder");
    for (cores, runs) in [(4, 10), (64, 3), (512, 3)] {
        let mut seconds: Vec<f64> = (0..=runs)
            .map(|run| {
                let start = Instant::now();
                let status = Command::new(&tool)
                    .args(["qemu", "--cores", &cores.to_string(), "--out", &format!("{cores}-{run}.mcap")])
                    .current_dir(folder.path())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .expect("the tool starts");
                assert!(status.success(), "{cores} cores: {status}");
                start.elapsed().as_secs_f64()
            })
            .skip(1) // the first may build the firmware
            .collect();
        seconds.sort_by(f64::total_cmp);
        let (least, median, most) = (seconds[0], seconds[seconds.len() / 2], seconds[seconds.len() - 1]);
        println!("{cores:4} cores, {runs:2} runs: least {least:.2} s, median {median:.2} s, most {most:.2} s");
    }
}
