//! Any bytes as a console's log: a clear error, or a capture that opens; what was put in as lines of a whole region is in it.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use fuzz::InputFile;
use host::adopt::Origin;
use host::capture::Capture;
use host::serial::{Input, Request, take};
use host::sparse::Want;
use libfuzzer_sys::fuzz_target;

/// Where captures are written, one over the other: memory where the system has a file system of it.
fn out() -> &'static PathBuf {
    static OUT: OnceLock<PathBuf> = OnceLock::new();
    OUT.get_or_init(|| {
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
        folder.join(format!("ipiscope-fuzz-console-{}.mcap", std::process::id()))
    })
}

fuzz_target!(|data: &[u8]| {
    let [choice, log @ ..] = data else { return };
    let file = InputFile::of(log);
    let request = Request {
        input: Input::Log(file.path()),
        want: if choice & 1 == 0 { Want::All } else { Want::Summary },
        verbose: choice & 2 != 0,
        log_to: None,
        origin: Origin { source: "serial", out: Some(out().clone()), ..Origin::default() },
    };
    let taken = take(&request, &mut |told| assert!(!told.is_empty()));
    match taken {
        Ok(finished) => {
            let capture = Capture::open(&finished.capture).expect("what was written opens");
            assert!(capture.damage() == Default::default() && capture.ending().is_some());
            let mut accepted = 0;
            let damage = capture.lanes(|batch| {
                if let host::capture::Batch::Records { bytes, .. } = batch {
                    accepted += bytes.len() as u64 / 32;
                }
            });
            assert!(damage.is_ok_and(|damage| damage == Default::default()));
            // A line of 48 bytes takes more than twice as many characters as a record has bytes.
            assert!(accepted * 32 <= log.len() as u64, "{accepted} records of {} bytes", log.len());
            let ending = capture.ending().expect("looked at above");
            assert_eq!(ending.lanes.iter().map(|lane| lane.accepted).sum::<u64>(), accepted);
            let whole = |lane: &host::capture::LaneAccount| {
                lane.written == lane.accepted + lane.lapped + lane.torn + lane.dropped + lane.left
            };
            assert!(ending.lanes.iter().all(whole));
        }
        Err(failure) => assert!(!failure.message.is_empty() && !failure.next_step.is_empty()),
    }
    let _ = std::fs::remove_file(out());
});
