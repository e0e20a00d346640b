//! Errors: each has a kind for scripts, a message and a next step for people, and an exit code.
//!
//! Modules define their own enums; any of them becomes a [`Failure`]. A message says what is wrong and names the thing
//! and its value; the next step stands apart, so that the report's JSON can carry it apart.

use std::io;
use std::path::{Path, PathBuf};

/// Exit codes that scripts rely on.
pub mod exit {
    /// Measured, and nothing is wrong with the target.
    pub const CLEAN: u8 = 0;
    /// The target failed.
    pub const FAILED: u8 = 1;
    /// It could not be measured; worth a retry.
    pub const UNMEASURED: u8 = 2;
    /// Asked wrongly: arguments, plan, limits, not a capture.
    pub const MISUSED: u8 = 3;
}

/// What an error of this crate can say beyond its message.
pub trait Explain: std::error::Error {
    /// One word for scripts: `firmware`, `qemu`, `machine` …
    fn kind(&self) -> &'static str;
    /// What to do about it.
    fn next_step(&self) -> String;
    /// One of [`exit`].
    fn exit_code(&self) -> u8;
}

/// A file or folder could not be used.
#[derive(Debug, thiserror::Error)]
#[error("can't {action} {path}: {source}", path = .path.display())]
pub struct FileError {
    /// What was tried: "write", "create", "read" …
    pub action: &'static str,
    /// On what.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl FileError {
    /// For `map_err`: `fs::read(path).map_err(FileError::of("read", path))`.
    pub fn of(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError + use<> {
        let path = path.to_path_buf();
        move |source| FileError { action, path, source }
    }
}

impl Explain for FileError {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn next_step(&self) -> String {
        let folder = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        match self.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                format!("free some space in {} (`df -h {}`)", folder.display(), folder.display())
            }
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                format!("make {} accessible, or name another path", folder.display())
            }
            io::ErrorKind::NotFound if self.action == "create" => {
                format!("create the folder {}, or name another path", folder.display())
            }
            io::ErrorKind::NotFound => format!("check that {} exists", self.path.display()),
            _ => format!("check {}", self.path.display()),
        }
    }

    fn exit_code(&self) -> u8 {
        exit::UNMEASURED
    }
}

/// An error on its way to the user and to the report's JSON: any [`Explain`] becomes one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// See [`Explain::kind`].
    pub kind: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub next_step: String,
    /// One of [`exit`].
    pub exit_code: u8,
}

impl<E: Explain> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure {
            kind: error.kind().into(),
            message: error.to_string(),
            next_step: error.next_step(),
            exit_code: error.exit_code(),
        }
    }
}

impl Explain for crate::plan::PlanError {
    fn kind(&self) -> &'static str {
        "plan"
    }

    fn next_step(&self) -> String {
        "`ipiscope plans` lists the plans that come with the tool, `ipiscope plans NAME` prints one to start from"
            .into()
    }

    fn exit_code(&self) -> u8 {
        exit::MISUSED
    }
}

/// The capture can't be opened, read or written.
impl Explain for crate::capture::CaptureError {
    fn kind(&self) -> &'static str {
        "capture"
    }

    fn next_step(&self) -> String {
        if self.asked_wrongly() {
            "name a capture that `ipiscope qemu` wrote (default: in ./runs)".into()
        } else {
            "make room on that disk, or name another file with --out".into()
        }
    }

    fn exit_code(&self) -> u8 {
        if self.asked_wrongly() { exit::MISUSED } else { exit::UNMEASURED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_closed_folder_name_path_and_next_step() {
        for (kind, names) in
            [(io::ErrorKind::StorageFull, "free some space"), (io::ErrorKind::PermissionDenied, "accessible")]
        {
            let error = FileError { action: "write", path: "/out/run.mcap".into(), source: kind.into() };
            let failure = Failure::from(error);
            assert!(failure.message.contains("/out/run.mcap"), "{}", failure.message);
            assert!(failure.next_step.contains("/out") && failure.next_step.contains(names), "{}", failure.next_step);
            assert_eq!(failure.exit_code, exit::UNMEASURED);
        }
    }

    #[test]
    fn what_was_asked_wrongly_exits_with_three() {
        let error = crate::plan::PlanError::Cores(0);
        assert_eq!(Failure::from(error).exit_code, exit::MISUSED);
    }
}
