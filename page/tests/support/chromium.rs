//! A headless Chromium that a test drives: the DevTools protocol over a pipe, and an end that comes whatever happens.
//!
//! With `--remote-debugging-pipe` Chromium reads commands on descriptor 3 and answers on 4, each message ended by a zero byte
//! (Chromium, `content/browser/devtools/devtools_pipe_handler.cc`). A pipe needs no port that others may have, and when the test
//! dies, however it does, the pipe closes and Chromium ends itself.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// No test of a page takes so long; a browser that does is ended.
const DEADLINE: Duration = Duration::from_secs(180);

/// Names of the browser's program (Debian has the first).
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A browser with one page.
pub struct Browser {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<Value>,
    session: Option<String>,
    sent: u64,
    until: Instant,
    /// What it told without being asked.
    pub events: Vec<Value>,
    /// Its profile, and what it saves.
    folder: tempfile::TempDir,
}

/// Whether there is a browser; under CI there must be one.
pub fn is_here() -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    let here = NAMES.iter().any(|name| std::env::split_paths(&paths).any(|folder| folder.join(name).is_file()));
    // ./setup.sh installs it.
    assert!(here || std::env::var_os("CI").is_none(), "no chromium here, and under CI nothing is skipped");
    if !here {
        eprintln!("skipped: chromium is not installed");
    }
    here
}

impl Browser {
    /// Starts one, with an empty page.
    pub fn start() -> Browser {
        let folder = tempfile::tempdir().expect("a folder");
        let profile = folder.path().join("profile");
        // The shell puts the pipes where Chromium looks for them, and becomes Chromium.
        let script = format!(
            "for name in {}; do command -v $name >/dev/null && exec $name \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1; done",
            NAMES.join(" ")
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh", "--headless", "--remote-debugging-pipe"]);
        command.args([
            "--no-first-run",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--disable-breakpad",
        ]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        command.arg(format!("--user-data-dir={}", profile.display()));
        if rustix::process::geteuid().is_root() {
            // Chromium's sandbox does not start as root, which CI's containers are. The pages are our own.
            command.arg("--no-sandbox");
        }
        command.arg("about:blank");
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A group of its own, so that its children end with it.
        let mut child = command.process_group(0).spawn().expect("sh starts");
        let commands = child.stdin.take().expect("a pipe");
        let answers = child.stdout.take().expect("a pipe");
        let (tell, heard) = channel();
        std::thread::spawn(move || {
            let mut answers = BufReader::new(answers);
            let mut message = Vec::new();
            while answers.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                if let Ok(value) = serde_json::from_slice(&message)
                    && tell.send(value).is_err()
                {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Browser {
            child,
            commands,
            answers: heard,
            session: None,
            sent: 0,
            until: Instant::now() + DEADLINE,
            events: Vec::new(),
            folder,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attached =
            browser.call("Target.attachToTarget", json!({ "targetId": target["targetId"], "flatten": true }));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Its folder, for files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The next message; none in time is a failure.
    fn next(&mut self, what: &str) -> Value {
        let left = self.until.saturating_duration_since(Instant::now());
        self.answers.recv_timeout(left).unwrap_or_else(|error| panic!("chromium, {what}: {error}"))
    }

    /// A command of the DevTools protocol and its result.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": parameters });
        // What concerns the browser as a whole is not of the page's session.
        if let (Some(session), false) = (&self.session, method.starts_with("Browser.")) {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.commands.write_all(&bytes).unwrap_or_else(|error| panic!("chromium, {method}: {error}"));
        loop {
            let answer = self.next(method);
            if answer["id"] == json!(self.sent) {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            self.events.push(answer);
        }
    }

    /// The first event of this name from now on that holds.
    pub fn wait(&mut self, method: &str, holds: impl Fn(&Value) -> bool) -> Value {
        loop {
            let found = self.events.iter().find(|event| event["method"] == json!(method) && holds(&event["params"]));
            if let Some(event) = found {
                return event["params"].clone();
            }
            let event = self.next(method);
            self.events.push(event);
        }
    }

    /// Opens a file and waits until it is loaded.
    pub fn open(&mut self, file: &Path) {
        self.events.clear();
        self.call("Page.navigate", json!({ "url": format!("file://{}", file.display()) }));
        self.wait("Page.loadEventFired", |_| true);
    }

    /// The size of its window, in CSS pixels.
    pub fn size(&mut self, width: u32, height: u32) {
        let mobile = width < 600;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": if mobile { 2 } else { 1 }, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// What an expression of JavaScript comes to.
    pub fn eval(&mut self, expression: &str) -> Value {
        let answer = self.call(
            "Runtime.evaluate",
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true, "userGesture": true }),
        );
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Presses a key, by its name in DOM events.
    pub fn press(&mut self, key: &str) {
        let code = match key {
            "ArrowLeft" => 37,
            "ArrowUp" => 38,
            "ArrowRight" => 39,
            "ArrowDown" => 40,
            "Tab" => 9,
            "Enter" => 13,
            _ => 0,
        };
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            self.call(
                "Input.dispatchKeyEvent",
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": if kind == "keyDown" { text } else { "" } }),
            );
        }
    }

    /// Writes a picture of the page into a file.
    pub fn picture(&mut self, file: &Path, whole: bool) {
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": whole }));
        std::fs::write(file, base64(answer["data"].as_str().expect("data"))).expect("written");
    }

    /// The page on paper, as PDF.
    pub fn print(&mut self) -> Vec<u8> {
        let paper =
            json!({ "preferCSSPageSize": true, "printBackground": false, "paperWidth": 8.27, "paperHeight": 11.69 });
        let answer = self.call("Page.printToPDF", paper);
        base64(answer["data"].as_str().expect("data"))
    }

    /// Errors that the page caused, and requests for anything but itself.
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for event in &self.events {
            let told = &event["params"];
            let is = match event["method"].as_str().unwrap_or_default() {
                "Runtime.exceptionThrown" => true,
                "Runtime.consoleAPICalled" => {
                    ["error", "warning", "assert"].iter().any(|kind| told["type"] == json!(kind))
                }
                "Log.entryAdded" => ["error", "warning"].iter().any(|level| told["entry"]["level"] == json!(level)),
                "Network.requestWillBeSent" => {
                    let url = told["request"]["url"].as_str().unwrap_or_default();
                    !url.starts_with("file://") || told["type"] != json!("Document")
                }
                _ => false,
            };
            if is {
                complaints.push(event.to_string());
            }
        }
        complaints
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

/// Bytes of base64 (RFC 4648, section 4).
fn base64(text: &str) -> Vec<u8> {
    let (mut bytes, mut bits, mut held) = (Vec::with_capacity(text.len() / 4 * 3), 0, 0_u32);
    for c in text.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => break,
        };
        held = (held << 6) | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    bytes
}
