//! Ctrl-C as a number: how often the user asked this process to stop.
//!
//! The first request ends a run in order, with its report; a second ends it at once. SIGTERM and SIGHUP count alike.

use std::sync::atomic::{AtomicU32, Ordering};

static REQUESTS: AtomicU32 = AtomicU32::new(0);

/// From now on Ctrl-C counts instead of killing the process. Calling it twice is harmless.
pub fn install() {
    // A second installation fails, and the first goes on counting: nothing to report.
    let _ = ctrlc::set_handler(ask);
}

/// As Ctrl-C does: for keys of a terminal that passes none on as signals.
pub fn ask() {
    REQUESTS.fetch_add(1, Ordering::Relaxed);
}

/// How often the user asked to stop.
pub fn requests() -> u32 {
    REQUESTS.load(Ordering::Relaxed)
}
