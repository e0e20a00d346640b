//! Child processes that never outlive their use: own process group, killed with their parent, reaped on drop.
//!
//! The group keeps a terminal's Ctrl-C from the child (the host decides how a run ends) and takes a child's own
//! children along when it is killed. The parent-death signal is for the end that no destructor sees: kill -9 of the
//! host.
// UNSAFETY: `CommandExt::pre_exec` runs code between fork and exec, which std can't check.
#![expect(unsafe_code)]

use std::io::{self, Read as _};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// A running child; dropping it kills its process group and reaps it.
#[derive(Debug)]
pub struct Guarded {
    child: Child,
    status: Option<ExitStatus>,
}

impl Guarded {
    /// Starts `command` in a process group of its own.
    ///
    /// The kernel ties the parent-death signal to the *thread* that calls this: call it from one that lives as long as
    /// the child shall.
    pub fn spawn(command: &mut Command) -> io::Result<Guarded> {
        command.process_group(0);
        #[cfg(target_os = "linux")]
        {
            let parent = rustix::process::getpid();
            // SAFETY: between fork and exec only async-signal-safe calls may be made: these are two bare system calls,
            // which allocate nothing, take no lock and touch no memory of the parent.
            unsafe {
                command.pre_exec(move || {
                    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                    // The parent may have died before the signal was armed.
                    if rustix::process::getppid() != Some(parent) {
                        return Err(io::Error::from(rustix::io::Errno::SRCH));
                    }
                    Ok(())
                });
            }
        }
        let child = command.spawn()?;
        Ok(Guarded { child, status: None })
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn poll(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits for its end until `deadline`; `None`: it still runs.
    pub fn wait_until(&mut self, deadline: Instant) -> io::Result<Option<ExitStatus>> {
        let mut pause = Duration::from_micros(200);
        loop {
            if let Some(status) = self.poll()? {
                return Ok(Some(status));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Kills its process group and reaps it.
    pub fn kill(&mut self) {
        // While the child is not reaped its id, which is also the group's, belongs to it.
        if self.status.is_none() {
            if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                let _ = rustix::process::kill_process_group(group, Signal::KILL);
            }
            // A process in an uninterruptible sleep dies late: then the next run's sweep finds its folder.
            let _ = self.wait_until(Instant::now() + Duration::from_secs(10));
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a short command said.
#[derive(Debug)]
pub struct Answer {
    /// Whether it succeeded.
    pub success: bool,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs a command that answers in a few lines (less than a pipe holds), for at most `patience`.
pub fn ask(command: &mut Command, patience: Duration) -> io::Result<Answer> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut guarded = Guarded::spawn(command)?;
    let Some(status) = guarded.wait_until(Instant::now() + patience)? else {
        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} s", patience.as_secs())));
    };
    let read = |mut pipe: Box<dyn io::Read>| -> io::Result<String> {
        let mut bytes = Vec::new();
        pipe.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let stdout = guarded.child.stdout.take().map_or_else(|| Ok(String::new()), |pipe| read(Box::new(pipe)))?;
    let stderr = guarded.child.stderr.take().map_or_else(|| Ok(String::new()), |pipe| read(Box::new(pipe)))?;
    Ok(Answer { success: status.success(), stdout, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_child_is_gone() {
        let child = Guarded::spawn(Command::new("sleep").arg("100")).expect("sleep starts");
        let folder = format!("/proc/{}", child.id());
        assert!(std::path::Path::new(&folder).exists());
        drop(child);
        assert!(!std::path::Path::new(&folder).exists());
    }

    #[test]
    fn a_wait_has_a_deadline() {
        let mut child = Guarded::spawn(Command::new("sleep").arg("100")).expect("sleep starts");
        let ended = child.wait_until(Instant::now() + Duration::from_millis(20)).expect("it can be waited for");
        assert_eq!(ended, None);
    }

    #[test]
    fn a_command_that_does_not_answer_is_given_up() {
        let answer = ask(Command::new("echo").arg("yes"), Duration::from_secs(10)).expect("echo answers");
        assert_eq!((answer.success, answer.stdout.as_str()), (true, "yes\n"));
        let error = ask(Command::new("sleep").arg("100"), Duration::from_millis(20)).expect_err("it does not");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
