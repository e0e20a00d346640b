//! The README's pictures, made of real runs: `cargo run -p system-tests --example pictures [FOLDER]` makes them anew, in
//! `docs/pictures` where no folder is named. Needs QEMU, tmux and Chromium.
//!
//! A terminal's picture is what tmux has on its screen, put into a page that a browser photographs. Nothing in it is drawn by
//! hand: after a change that shows, run this, look at the pictures, and commit them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use system_tests::terminal::Terminal;
use system_tests::{root, run};

/// A letter of the terminal's picture, pixels.
const LETTER: (f64, f64) = (8.43, 17.0);
const MARGIN: u32 = 14;

fn main() {
    let folder = std::env::args_os().nth(1).map_or_else(|| root().join("docs/pictures"), PathBuf::from);
    std::fs::create_dir_all(&folder).expect("the folder is there");
    let folder = folder.canonicalize().expect("the folder is there");
    live(&folder.join("live.png"));
    verdict(&folder.join("verdict.png"));
    page(&folder.join("page.png"));
}

/// The live view of eight cores, a few seconds after the start.
fn live(picture: &Path) {
    let (columns, rows) = (116, 30);
    let arguments = ["qemu", "--live", "--cores", "8", "--plan", "matrix", "--duration", "60s", "--out", "run.mcap"];
    let terminal = Terminal::start(columns, rows, &arguments);
    terminal.until("the second phase", |screen| screen.contains("8 of 8 cores up") && screen.contains("2 of 2"));
    // The first phase is whole by now.
    terminal.press(&["P", "Down", "Down"]);
    std::thread::sleep(Duration::from_secs(2));
    let screen = terminal.tmux(&["capture-pane", "-e", "-p"]).1;
    terminal.press(&["q"]);
    photograph(&screen, (columns, rows), picture);
}

/// The end of the report on a core that answers late, in counted time.
fn verdict(picture: &Path) {
    let (columns, rows) = (80, 34);
    let arguments =
        ["qemu", "--cores", "8", "--plan", "matrix", "--deterministic", "--inject", "late:5:3000", "--out", "run.mcap"];
    let terminal = Terminal::start(columns, rows, &arguments);
    terminal.until("the verdict", |screen| screen.contains("Verdict: "));
    terminal.expect_given_back();
    let screen = terminal.tmux(&["capture-pane", "-e", "-p"]).1;
    // What the shell says behind the report is the test's.
    let mut lines: Vec<&str> = screen.lines().collect();
    let end = lines.iter().position(|line| line.contains("EXIT ")).unwrap_or(lines.len());
    lines.truncate(end);
    photograph(&lines.join("\n"), (columns, u16::try_from(lines.len()).unwrap_or(rows)), picture);
}

/// The first screen of the page of the same run.
fn page(picture: &Path) {
    let folder = tempfile::tempdir().expect("a folder");
    let arguments = [
        "qemu",
        "--cores",
        "8",
        "--plan",
        "matrix",
        "--deterministic",
        "--inject",
        "late:5:3000",
        "--out",
        "run.mcap",
        "--html",
        "page.html",
    ];
    let (code, _, stderr) = run(folder.path(), &arguments);
    assert_eq!(code, 1, "core 5 is late, and found: {stderr}");
    shoot(&folder.path().join("page.html"), (1200, 900), picture);
}

/// A terminal's screen, with its escape sequences, as a picture.
fn photograph(screen: &str, (columns, rows): (u16, u16), picture: &Path) {
    let body = ansi_to_html::convert(screen.trim_end()).expect("tmux writes no other sequences");
    let page = format!(
        "<!doctype html><meta charset=utf-8><style>html {{ background: #16181d }} pre {{ margin: {MARGIN}px; \
         font: 14px/{height}px 'DejaVu Sans Mono', monospace; color: #d7dae0; }}</style><pre>{body}</pre>",
        height = LETTER.1
    );
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("screen.html");
    std::fs::write(&file, page).expect("is written");
    let width = (f64::from(columns) * LETTER.0).ceil() as u32 + 2 * MARGIN;
    let height = (f64::from(rows) * LETTER.1).ceil() as u32 + 2 * MARGIN;
    shoot(&file, (width, height), picture);
}

/// A page's picture.
fn shoot(page: &Path, (width, height): (u32, u32), picture: &Path) {
    let profile = tempfile::tempdir().expect("a folder");
    let browsers = ["chromium", "chromium-browser", "google-chrome"];
    let browser = browsers.into_iter().find(|name| Command::new(name).arg("--version").output().is_ok());
    let mut child = Command::new(browser.expect("Chromium is here: ./setup.sh installs it"))
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-color-profile=srgb"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={width},{height}"))
        .arg(format!("--screenshot={}", picture.display()))
        .arg(format!("file://{}", page.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the browser starts");
    let start = Instant::now();
    while child.try_wait().expect("the browser can be waited for").is_none() {
        if start.elapsed() > Duration::from_secs(60) {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the browser takes no picture of {}", page.display());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{}: {} bytes", picture.display(), std::fs::metadata(picture).map_or(0, |file| file.len()));
}
