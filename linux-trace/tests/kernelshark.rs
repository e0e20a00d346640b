//! KernelShark shows what the writer writes, by the picture of its window.

use std::process::Command;

use linux_trace::dat::{Meta, Writer};
use linux_trace::{Clock, Event, Mask, Names, What};

#[test]
fn kernelshark_draws_the_cpus_of_a_file_made_here() {
    // Not by starting it: KernelShark takes every option for a file, and waits.
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let has = |tool: &str| std::env::split_paths(&paths).any(|folder| folder.join(tool).is_file());
    let missing: Vec<_> =
        ["kernelshark", "xvfb-run", "xauth", "xwininfo", "import"].into_iter().filter(|tool| !has(tool)).collect();
    // ./setup.sh installs them.
    assert!(missing.is_empty() || std::env::var_os("CI").is_none(), "no {missing:?}, and under CI nothing is skipped");
    if !missing.is_empty() {
        return eprintln!("skipped: {missing:?} are not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, picture) = (folder.path().join("trace.dat"), folder.path().join("window.png"));
    let mut names = Names::new();
    let reason = names.add(b"Function call interrupts");
    // KernelShark draws no bars of idle, nor of tasks without a number: each core is a task.
    let tasks = [0, 1, 2, 3].map(|cpu| names.add(format!("core{cpu}").as_bytes()));
    let meta = Meta { cpus: 4, clock: Clock::Local, ..Meta::default() };
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = Writer::new(file, tempfile::tempfile().unwrap(), meta);
    for ipi in 0_u16..400 {
        let (t, from) = (1_000_000 + u64::from(ipi) * 5000, ipi % 4);
        let to = (from + 1) % 4;
        let targets = Mask::of(to.into()).unwrap();
        let lost = What::Lost { count: Some(12) };
        let happened = [
            (t, from, What::Raise { targets, reason }),
            (t + 1200, to, What::Entry { reason }),
            (t + 2200, to, What::Exit { reason }),
            (t + 2300, to, lost),
        ];
        for (t, cpu, what) in happened.into_iter().take(if ipi == 200 { 4 } else { 3 }) {
            let (pid, comm) = (Some(u32::from(cpu) + 1), tasks[usize::from(cpu)]);
            writer.event(&Event { t, cpu, pid, comm, flags: *b"d.h1.\0\0\0", what }, &names).unwrap();
        }
    }
    writer.finish(&names).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernelshark.sh");
    let output = Command::new(script).arg(&path).arg(&picture).output().unwrap();
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    if let Some(keep) = std::env::var_os("KERNELSHARK_PICTURE") {
        std::fs::copy(&picture, keep).unwrap();
    }
}
