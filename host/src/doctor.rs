//! The doctor: what this machine lacks for a run, and the command that mends each lack.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Explain as _, exit};
use crate::firmware::{self, Core, Found, TARGET};
use crate::qemu::{self, Version};
use crate::scratch;

/// Room that a run of 512 cores takes with the default ring memory, in MiB.
const WANTED_ROOM: u64 = 512;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub subject: &'static str,
    /// What was found.
    pub found: String,
    /// The command that mends it; `None`: nothing to mend.
    pub remedy: Option<String>,
    /// Whether a run on `virt` is impossible without it.
    pub essential: bool,
}

impl Finding {
    fn good(subject: &'static str, found: String) -> Finding {
        Finding { subject, found, remedy: None, essential: true }
    }

    fn lack(subject: &'static str, found: String, remedy: String) -> Finding {
        Finding { subject, found, remedy: Some(remedy), essential: true }
    }

    fn wish(subject: &'static str, found: String, remedy: String) -> Finding {
        Finding { subject, found, remedy: Some(remedy), essential: false }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match (&self.remedy, self.essential) {
            (None, _) => "ok",
            (Some(_), false) => "partly",
            (Some(_), true) => "LACKS",
        };
        writeln!(f, "{mark:6}  {:16}  {}", self.subject, self.found)?;
        match &self.remedy {
            Some(remedy) => writeln!(f, "{:6}  {:16}  -> {remedy}", "", ""),
            None => Ok(()),
        }
    }
}

/// Looks at everything.
pub fn examine() -> Vec<Finding> {
    let mut findings = qemu_and_machines();
    findings.push(firmware_source());
    findings.extend(memory());
    findings
}

/// 0 when nothing is lacking, 2 otherwise.
pub fn exit_code(findings: &[Finding]) -> u8 {
    if findings.iter().all(|finding| finding.remedy.is_none()) { exit::CLEAN } else { exit::UNMEASURED }
}

fn qemu_and_machines() -> Vec<Finding> {
    let version = match Version::ask() {
        Ok(version) => version,
        Err(error) => return vec![Finding::lack("QEMU", error.to_string(), error.next_step())],
    };
    let mut findings = vec![Finding::good("QEMU", version.text.clone())];
    let known = match qemu::machines() {
        Ok(known) => known,
        Err(error) => return vec![Finding::lack("QEMU", error.to_string(), error.next_step())],
    };
    let (mut have, mut lack) = (Vec::new(), Vec::new());
    for name in boards::names() {
        let Some(Ok(board)) = boards::find(name) else { continue };
        let Some(qemu) = &board.qemu else { continue };
        let model = qemu.machine.split(',').next().unwrap_or_default();
        let new_enough = boards::version(&qemu.since).is_none_or(|since| version.number >= since);
        if new_enough && known.iter().any(|machine| machine == model) {
            have.push(name);
        } else {
            lack.push(format!("{name} (QEMU {} or newer)", qemu.since));
        }
    }
    findings.push(if lack.is_empty() {
        Finding::good("machines", have.join(", "))
    } else {
        let found = format!("{}; not {}", have.join(", "), lack.join(", "));
        Finding::wish("machines", found, "./setup.sh (Debian: qemu-system-arm of the backports)".into())
    });
    findings
}

fn firmware_source() -> Finding {
    const SUBJECT: &str = "firmware";
    match firmware::look() {
        Ok(Found::Bundled(path)) => Finding::good(SUBJECT, format!("{} (release bundle)", path.display())),
        Ok(Found::Buildable { toolchain, .. }) => {
            let core = match toolchain.core {
                Core::Installed => format!("has {TARGET}"),
                Core::FromSources => format!("builds core for {TARGET} from its library sources"),
            };
            let linker = toolchain.linker.map_or_else(|| "rust-lld".to_string(), |linker| linker.display().to_string());
            let rustc = toolchain.rustc.display();
            Finding::good(SUBJECT, format!("{rustc} {} {core}, linker {linker}", toolchain.version))
        }
        Err(error) => Finding::lack(SUBJECT, error.to_string(), error.next_step()),
    }
}

fn memory() -> Vec<Finding> {
    let mut findings = Vec::new();
    let temporary = std::env::temp_dir();
    let rooms: Vec<(PathBuf, u64)> = [PathBuf::from("/dev/shm"), temporary]
        .into_iter()
        .filter_map(|folder| scratch::room(&folder).map(|room| (folder, room >> 20)))
        .collect();
    let text = rooms
        .iter()
        .map(|(folder, room)| format!("{} {room} MiB free", folder.display()))
        .collect::<Vec<_>>()
        .join(", ");
    findings.push(match rooms.first() {
        Some((folder, room)) if *room >= WANTED_ROOM && folder == Path::new("/dev/shm") => {
            Finding::good("room for RAM", text)
        }
        _ if rooms.iter().any(|(_, room)| *room >= WANTED_ROOM) => Finding::wish(
            "room for RAM",
            text,
            "mount -o remount,size=1G /dev/shm (runs are steadier with RAM in memory)".into(),
        ),
        _ => Finding::lack("room for RAM", text, format!("set TMPDIR to a folder with {WANTED_ROOM} MiB free")),
    });
    let available = fs::read_to_string("/proc/meminfo").ok().and_then(|text| available_mebibytes(&text));
    if let Some(available) = available {
        let text = format!("{available} MiB available");
        findings.push(if available >= 2 * WANTED_ROOM {
            Finding::good("memory", text)
        } else {
            Finding::wish("memory", text, "use fewer --cores, or lower --ring-memory".into())
        });
    }
    findings
}

fn available_mebibytes(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? >> 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_shows_its_remedy_and_sets_the_exit_code() {
        let good = Finding::good("QEMU", "10.0.2".into());
        assert_eq!(good.to_string(), "ok      QEMU              10.0.2\n");
        assert_eq!(exit_code(std::slice::from_ref(&good)), exit::CLEAN);
        let lack = Finding::lack("QEMU", "not there".into(), "./setup.sh".into());
        assert_eq!(lack.to_string(), "LACKS   QEMU              not there\n                          -> ./setup.sh\n");
        assert_eq!(exit_code(&[good, lack]), exit::UNMEASURED);
    }

    #[test]
    fn available_memory_is_read() {
        assert_eq!(available_mebibytes("MemTotal: 100 kB\nMemAvailable:   2097152 kB\n"), Some(2048));
        assert_eq!(available_mebibytes(""), None);
    }
}
