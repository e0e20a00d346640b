//! A run on QEMU that another ipiscope process made and that goes on: found by its scratch folder, read from its RAM file.
//!
//! Nothing is stopped and nothing is written: memory is read as the run's own host reads it, registers come from a monitor
//! that the run keeps for this. Its capture, which is being written, has the firmware's symbols and the plan.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use trace_ring::reader::Region;

use super::{Contents, Evidence, Inspection, depth, tails};
use crate::capture::Capture;
use crate::error::{Failure, FileError, exit};
use crate::monitor::{self, Monitor};
use crate::qemu::Manifest;
use crate::scratch::{self, Running};

/// How long the look at registers may take: the target goes on meanwhile.
const LOOK: Duration = Duration::from_secs(3);

/// Inspects a run that goes on: the only one, that of a host or QEMU process, or that of a scratch folder.
pub fn of_run(which: Option<&str>, last: usize) -> Result<Inspection, Failure> {
    let (folder, manifest) = choose(scratch::running(), which)?;
    look(&folder, &manifest, last)
}

fn choose(running: Vec<Running>, which: Option<&str>) -> Result<(PathBuf, Manifest), Failure> {
    let mut known: Vec<(Running, Manifest)> = running
        .into_iter()
        .filter_map(|running| Some((Manifest::of(&running.folder)?, running)))
        .map(|(manifest, running)| (running, manifest))
        .collect();
    let list: Vec<String> = known
        .iter()
        .map(|(running, manifest)| format!("{} (plan {}, {})", running.host, manifest.plan, running.folder.display()))
        .collect();
    let list = list.join("; ");
    let failure = |message: String, next_step: &str, exit_code| Failure {
        kind: "live".into(),
        message,
        next_step: next_step.into(),
        exit_code,
    };
    if known.is_empty() {
        let next = "start one with `ipiscope qemu`, or name a capture: `ipiscope inspect runs/NAME.mcap`";
        return Err(failure("no run on QEMU goes on here".into(), next, exit::UNMEASURED));
    }
    if let Some(which) = which {
        let folder = Path::new(which);
        let process = which.parse::<u32>().ok();
        known.retain(|(running, manifest)| {
            process.is_some_and(|process| process == running.host || process == manifest.qemu)
                || same(folder, &running.folder)
        });
    }
    match (known.pop(), known.is_empty()) {
        (Some((running, manifest)), true) => Ok((running.folder, manifest)),
        (None, _) => {
            let message = format!("no run that goes on is of `{}`; there are {list}", which.unwrap_or_default());
            Err(failure(message, "name a process id of these", exit::MISUSED))
        }
        (Some(_), false) => {
            let message = format!("several runs go on: {list}");
            Err(failure(message, "name one by its process id: `ipiscope inspect --live PID`", exit::MISUSED))
        }
    }
}

fn same(one: &Path, other: &Path) -> bool {
    one == other || matches!((one.canonicalize(), other.canonicalize()), (Ok(one), Ok(other)) if one == other)
}

fn look(folder: &Path, manifest: &Manifest, last: usize) -> Result<Inspection, Failure> {
    let failed = |why: String| Failure {
        kind: "region".into(),
        message: format!("the run in {} can't be inspected: {why}", folder.display()),
        next_step: "wait until its cores run, or inspect its capture once it has ended".into(),
        exit_code: exit::UNMEASURED,
    };
    let capture = Capture::open(&manifest.capture)?;
    let ram = manifest.ram(folder)?;
    let read = |error: io::Error| FileError { action: "read", path: folder.into(), source: error };
    let found = match ram.find_region(false).map_err(read)? {
        Some(found) => Some(found),
        None => ram.find_region(true).map_err(read)?,
    };
    let mut source = found.ok_or_else(|| failed("its firmware has laid out no trace region yet".into()))?;
    let region = Region::open(&mut source).map_err(|error| failed(error.to_string()))?;
    let contents = Contents::read(&region, &mut source).map_err(|error| failed(error.to_string()))?;
    let tails = tails(&region, &mut source, depth(last)).map_err(|error| failed(error.to_string()))?;
    let entries = contents.cores.clone();
    let mut evidence = Evidence::of_capture(format!("the run in {}, live", folder.display()), &capture, contents);
    evidence.tails = tails;
    let picture = Monitor::connect(&Manifest::monitor(folder))
        .and_then(|mut monitor| monitor::picture(&mut monitor, &entries, LOOK));
    match picture {
        Ok(picture) => evidence.picture = Some(picture),
        Err(error) => evidence.notes.push(format!("registers are not known: {error}")),
    }
    evidence.notes.push("the cores went on while they were looked at: parts may not fit together".into());
    Ok(Inspection::of(&evidence, last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(folder: &Path, host: u32, qemu: u32) -> Running {
        std::fs::create_dir_all(folder).expect("is made");
        let text = format!(
            "{{\"machine\":\"virt\",\"plan\":\"ping\",\"capture\":\"/c.mcap\",\"ram_base\":1073741824,\"qemu\":{qemu}}}"
        );
        std::fs::write(folder.join("run.json"), text).expect("is written");
        Running { folder: folder.into(), host }
    }

    #[test]
    fn a_run_is_chosen_by_process_or_folder_and_never_guessed() {
        let base = tempfile::tempdir().expect("a folder");
        let (one, two) = (base.path().join("one"), base.path().join("two"));
        let runs = || vec![run(&one, 100, 101), run(&two, 200, 201)];
        assert_eq!(choose(vec![run(&one, 100, 101)], None).expect("the only one").0, one);
        for (which, expected) in [("100", &one), ("201", &two), (two.to_str().expect("a path"), &two)] {
            assert_eq!(&choose(runs(), Some(which)).expect("is there").0, expected);
        }
        let failure = choose(runs(), None).expect_err("two are there");
        assert_eq!(failure.exit_code, exit::MISUSED);
        assert!(failure.message.contains("100 (plan ping") && failure.message.contains("200"), "{failure}");
        let failure = choose(runs(), Some("300")).expect_err("is not there");
        assert!(failure.message.contains("`300`") && failure.message.contains("100"), "{failure}");
        let failure = choose(Vec::new(), None).expect_err("there is none");
        assert_eq!(failure.exit_code, exit::UNMEASURED);
    }
}
