//! The folder of a run: RAM file, console, image, plan. Nothing of it survives the run, and if a kill left something,
//! the next run clears it.
//!
//! A folder is named `ipiscope-PID-NONCE` and lies in /dev/shm where that has room, else among the temporary files. It
//! holds a `lock` file, locked for the life of its host: a folder whose lock is free belongs to nobody. The folder is
//! made under another name and renamed once it is locked, so that a sweep never meets one that is not locked yet.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::FileError;

/// What a finished folder's name begins with.
const PREFIX: &str = "ipiscope-";
/// What the name of one in the making begins with.
const NEW_PREFIX: &str = ".ipiscope-new-";
/// The file that is locked.
const LOCK: &str = "lock";
/// The file that holds the process id of QEMU.
const QEMU_PID: &str = "qemu.pid";
/// A folder without a lock is in the making, unless it is older than this.
const MAKING: Duration = Duration::from_secs(60);
/// How long a killed process may take to end.
const ENDING: Duration = Duration::from_secs(5);

/// A run's folder; dropping it removes it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    /// Holds the lock as long as it is open.
    _lock: File,
}

impl Scratch {
    /// Clears what earlier runs left, then makes a folder where `bytes` find room.
    pub fn create(bytes: u64, nonce: u64) -> Result<Scratch, FileError> {
        let shared_memory = Path::new("/dev/shm");
        let temporary = std::env::temp_dir();
        for base in [shared_memory, &temporary] {
            sweep(base);
        }
        let base = if room(shared_memory).is_some_and(|room| room >= bytes) { shared_memory } else { &temporary };
        Scratch::create_in(base, nonce)
    }

    fn create_in(base: &Path, nonce: u64) -> Result<Scratch, FileError> {
        let process = std::process::id();
        let making = base.join(format!("{NEW_PREFIX}{process}-{nonce:016x}"));
        let path = base.join(format!("{PREFIX}{process}-{nonce:016x}"));
        fs::DirBuilder::new().mode(0o700).create(&making).map_err(FileError::of("create", &making))?;
        let lock = || -> io::Result<File> {
            let lock = File::create_new(making.join(LOCK))?;
            lock.lock()?;
            fs::rename(&making, &path)?;
            Ok(lock)
        };
        match lock() {
            Ok(lock) => Ok(Scratch { path, _lock: lock }),
            Err(source) => {
                let _ = fs::remove_dir_all(&making);
                Err(FileError { action: "create", path, source })
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, FileError> {
        let path = self.file(name);
        fs::write(&path, bytes).map_err(FileError::of("write", &path))?;
        Ok(path)
    }

    /// Notes which process a later sweep has to end if this one is killed.
    pub fn record_qemu(&self, process: u32) -> Result<(), FileError> {
        self.write(QEMU_PID, process.to_string().as_bytes()).map(drop)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A run of this user that goes on: its folder is locked by a living host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its folder.
    pub folder: PathBuf,
    /// Process id of its host.
    pub host: u32,
}

/// All runs of this user that go on, by the process id of their hosts.
pub fn running() -> Vec<Running> {
    let bases = [PathBuf::from("/dev/shm"), std::env::temp_dir()];
    let mut found: Vec<Running> = bases.iter().flat_map(|base| running_in(base)).collect();
    found.sort_by(|a, b| (a.host, &a.folder).cmp(&(b.host, &b.folder)));
    found.dedup();
    found
}

fn running_in(base: &Path) -> Vec<Running> {
    let entries = fs::read_dir(base).into_iter().flatten().flatten();
    let living = entries.filter_map(|entry| {
        let host = entry.file_name().to_str()?.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()?;
        let folder = entry.path();
        let metadata = fs::symlink_metadata(&folder).ok()?;
        if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
            return None;
        }
        // Taken for a moment only: a sweep that meets it locked comes again.
        let lock = File::options().write(true).open(folder.join(LOCK)).ok()?;
        matches!(lock.try_lock(), Err(TryLockError::WouldBlock)).then_some(Running { folder, host })
    });
    living.collect()
}

/// Bytes free in the file system of `folder`; `None`: there is no such folder.
pub fn room(folder: &Path) -> Option<u64> {
    let system = rustix::fs::statvfs(folder).ok()?;
    Some(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Removes the folders in `base` that killed runs of this user left, after ending their QEMU. Failures are left for the
/// next sweep.
fn sweep(base: &Path) {
    for entry in fs::read_dir(base).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let making = name.starts_with(NEW_PREFIX);
        if !making && !name.starts_with(PREFIX) {
            continue;
        }
        // Whoever shares the folder could have made a link or a folder of that name.
        let path = entry.path();
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if !metadata.is_dir() || metadata.uid() != rustix::process::geteuid().as_raw() {
            continue;
        }
        let old =
            metadata.modified().is_ok_and(|time| SystemTime::now().duration_since(time).is_ok_and(|age| age > MAKING));
        match File::options().write(true).open(path.join(LOCK)) {
            Ok(lock) => match lock.try_lock() {
                Ok(()) if !making || old => clear(&path),
                Ok(()) | Err(TryLockError::WouldBlock) | Err(TryLockError::Error(_)) => {}
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound && old => clear(&path),
            Err(_) => {}
        }
    }
}

/// Ends the QEMU of a folder that nobody owns any more, and removes the folder.
fn clear(folder: &Path) {
    let recorded = fs::read_to_string(folder.join(QEMU_PID)).ok();
    if let Some(process) = recorded.and_then(|text| text.trim().parse().ok()).and_then(Pid::from_raw)
        && !end_process_of(process, folder)
    {
        return;
    }
    let _ = fs::remove_dir_all(folder);
}

/// Kills a process if its command line names `folder`; whether no such process is left.
///
/// Process ids are used again: the descriptor is taken first and the command line read second, so that what is killed
/// is what was read.
fn end_process_of(process: Pid, folder: &Path) -> bool {
    let Ok(descriptor) = rustix::process::pidfd_open(process, PidfdFlags::empty()) else { return true };
    let command_line = PathBuf::from(format!("/proc/{}/cmdline", process.as_raw_nonzero()));
    let folder = folder.as_os_str().as_encoded_bytes();
    let deadline = Instant::now() + ENDING;
    let mut killed = false;
    while !has_ended(&descriptor) {
        let Ok(arguments) = fs::read(&command_line) else { return true };
        if arguments.windows(folder.len()).any(|window| window == folder) {
            if !killed {
                killed = rustix::process::pidfd_send_signal(&descriptor, Signal::KILL).is_ok();
            }
        } else if !arguments.is_empty() {
            return true;
        }
        // An empty one is asked again: a process has none in the midst of execve(2), and a kernel thread never has.
        if Instant::now() >= deadline {
            return !killed && arguments.is_empty();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Whether the process of a pidfd has ended, waited for or not: the descriptor is readable from then on (pidfd_open(2)).
fn has_ended(descriptor: &OwnedFd) -> bool {
    let mut wanted = [PollFd::new(descriptor, PollFlags::IN)];
    rustix::event::poll(&mut wanted, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::child::Guarded;

    #[test]
    fn a_folder_lives_as_long_as_its_owner() {
        let base = tempfile::tempdir().expect("a folder");
        let scratch = Scratch::create_in(base.path(), 7).expect("is made");
        let path = scratch.write("plan", b"x").expect("is written");
        sweep(base.path());
        assert!(path.is_file(), "a sweep must not touch a living run");
        let folder = scratch.path().to_path_buf();
        drop(scratch);
        assert!(!folder.exists());
    }

    #[test]
    fn runs_that_go_on_are_told_from_those_that_were_killed() {
        let base = tempfile::tempdir().expect("a folder");
        let left = base.path().join("ipiscope-1-0000000000000001");
        fs::create_dir(&left).expect("is made");
        fs::write(left.join(LOCK), "").expect("is written");
        fs::create_dir(base.path().join("ipiscope-notes")).expect("is made");
        assert_eq!(running_in(base.path()), []);
        let live = Scratch::create_in(base.path(), 2).expect("is made");
        let expected = Running { folder: live.path().to_path_buf(), host: std::process::id() };
        assert_eq!(running_in(base.path()), [expected]);
        drop(live);
        assert_eq!(running_in(base.path()), []);
    }

    #[test]
    fn a_sweep_clears_what_a_kill_left_and_ends_its_qemu() {
        let base = tempfile::tempdir().expect("a folder");
        // A kill leaves the folder, unlocked.
        let left = base.path().join("ipiscope-1-0000000000000001");
        fs::create_dir(&left).expect("is made");
        fs::write(left.join(LOCK), "").expect("is written");
        let marker = left.join("ram");
        // A sleeping process whose command line names the folder, as QEMU's does.
        let orphan =
            Guarded::spawn(Command::new("sh").args(["-c", "sleep 100; :", "sh"]).arg(&marker)).expect("starts");
        fs::write(left.join(QEMU_PID), orphan.id().to_string()).expect("is written");
        // Another run's folder and files that are none of ours.
        let live = Scratch::create_in(base.path(), 2).expect("is made");
        fs::write(base.path().join("ipiscope-notes.txt"), "mine").expect("is written");
        std::os::unix::fs::symlink("/", base.path().join("ipiscope-link")).expect("is made");

        let mut orphan = orphan;
        let waiter = std::thread::spawn(move || orphan.wait_until(Instant::now() + Duration::from_secs(20)));
        sweep(base.path());

        let ended = waiter.join().expect("the waiter ends").expect("it can be waited for");
        assert!(ended.is_some(), "the left-over process was not ended");
        assert!(!left.exists());
        assert!(live.path().exists());
        assert!(base.path().join("ipiscope-notes.txt").exists());
        assert!(base.path().join("ipiscope-link").exists());
    }

    #[test]
    fn a_process_that_took_over_the_number_is_left_alone() {
        let base = tempfile::tempdir().expect("a folder");
        let left = base.path().join("ipiscope-1-0000000000000001");
        fs::create_dir(&left).expect("is made");
        fs::write(left.join(LOCK), "").expect("is written");
        let mut stranger = Guarded::spawn(Command::new("sleep").arg("100")).expect("starts");
        fs::write(left.join(QEMU_PID), stranger.id().to_string()).expect("is written");
        sweep(base.path());
        assert!(!left.exists());
        assert_eq!(stranger.poll().expect("it can be asked"), None);
    }

    #[test]
    fn a_folder_in_the_making_is_left_alone() {
        let base = tempfile::tempdir().expect("a folder");
        let making = base.path().join(".ipiscope-new-1-1");
        fs::create_dir(&making).expect("is made");
        sweep(base.path());
        fs::write(making.join(LOCK), "").expect("is written");
        sweep(base.path());
        assert!(making.exists());
    }
}
