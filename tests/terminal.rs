//! A real terminal: tmux takes keys, tells what stands on its screen, and whether the program gave the screen's other page back.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::tool;

/// Whether tmux is here. Under CI it has to be.
pub fn has_tmux() -> bool {
    let found = Command::new("tmux").arg("-V").output().is_ok_and(|output| output.status.success());
    assert!(found || std::env::var_os("CI").is_none(), "tmux is missing: ./setup.sh installs it");
    if !found {
        eprintln!("skipped: no tmux here (./setup.sh installs it)");
    }
    found
}

/// A terminal in which the tool runs, then a shell that says how it ended and how the terminal is set.
#[derive(Debug)]
pub struct Terminal {
    folder: tempfile::TempDir,
}

impl Terminal {
    /// Starts the tool with some arguments.
    pub fn start(columns: u16, rows: u16, arguments: &[&str]) -> Terminal {
        let folder = tempfile::tempdir().expect("a folder");
        let terminal = Terminal { folder };
        let quoted: Vec<String> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
        // `exec` gives the tool the process id that the shell wrote down.
        let script = format!(
            "cd '{folder}'\nstty -a > before\n(echo $BASHPID > pid; exec '{tool}' {arguments})\n\
             echo EXIT $?\nstty -a > after\necho SET BACK\nsleep 600\n",
            folder = terminal.path().display(),
            tool = tool().display(),
            arguments = quoted.join(" "),
        );
        std::fs::write(terminal.path().join("script"), script).expect("is written");
        let size = [columns.to_string(), rows.to_string()];
        let shell = "bash ./script";
        let status = terminal.tmux(&["new-session", "-d", "-x", &size[0], "-y", &size[1], shell]).0;
        assert!(status, "tmux starts");
        terminal
    }

    /// The folder in which the tool runs.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Asks tmux something: whether it could, and what it says.
    pub fn tmux(&self, arguments: &[&str]) -> (bool, String) {
        let socket = self.path().join("tmux");
        let output = Command::new("tmux")
            .args(["-f", "/dev/null", "-u", "-S"])
            .arg(socket)
            .args(arguments)
            .current_dir(self.path())
            .env("LANG", "C.UTF-8")
            .env_remove("LC_ALL")
            .env_remove("LC_CTYPE")
            .env_remove("NO_COLOR")
            .env_remove("TMUX")
            .output()
            .expect("tmux starts");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// What stands on the screen.
    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"]).1
    }

    /// Presses keys, by tmux's names.
    pub fn press(&self, keys: &[&str]) {
        let mut arguments = vec!["send-keys"];
        arguments.extend_from_slice(keys);
        assert!(self.tmux(&arguments).0, "keys {keys:?}");
    }

    /// Whether the screen's other page is shown.
    pub fn has_other_page(&self) -> bool {
        self.tmux(&["display", "-p", "#{alternate_on}"]).1.trim() == "1"
    }

    /// Waits until something stands on the screen.
    pub fn until(&self, what: &str, is_there: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if is_there(&screen) {
                return screen;
            }
            assert!(start.elapsed() < Duration::from_secs(90), "{what} does not come:\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What a file in the folder holds; nothing where it is not there.
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join(name)).unwrap_or_default()
    }

    /// The tool's process id.
    pub fn host(&self) -> u32 {
        self.read("pid").trim().parse().expect("the shell wrote it")
    }

    /// The terminal is as it was before the tool took it.
    pub fn expect_given_back(&self) {
        self.until("the shell's last word", |screen| screen.contains("SET BACK"));
        assert!(!self.has_other_page(), "the screen's other page is still shown");
        let lines = |name: &str| self.read(name).lines().skip(1).map(String::from).collect::<Vec<_>>();
        assert_eq!(lines("after"), lines("before"), "stty -a");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}
