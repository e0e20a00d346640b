//! The `ipiscope` command: parses, runs, prints the error and its next step, exits with a code that scripts rely on.
//!
//! Data goes to standard output, talk to standard error. A reader that closes the pipe early is content, not an error.

// No input makes the host panic. Tests may.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable, clippy::todo)
)]

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser as _;
use host::adopt::Origin;
use host::capture::Capture;
use host::choice::{self, Choice};
use host::cli::{
    Cli, Color, CompareArguments, ExportArguments, FirmwareVerb, ImportArguments, InspectArguments, PlanArguments,
    QemuArguments, ReplayArguments, ReportArguments, SerialArguments, Showing, Verb,
};
use host::error::{Failure, FileError, exit};
use host::export::{Export, ExportError};
use host::limits::{Known, Limits};
use host::run::Finished;
use host::{
    compare, detect, doctor, firmware, generate, image, import, inspect, interrupt, junit, log, machine, memory, plan,
    probe, replay, report, run, selftest, serial, terminal, trail,
};
use trace_ring::plan::TraceLevel;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; the rest was asked wrongly.
            let code = if error.use_stderr() { exit::MISUSED } else { exit::CLEAN };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    ExitCode::from(match execute(&cli.verb) {
        Ok(code) => code,
        Err(failure) => {
            complain(&failure);
            failure.exit_code
        }
    })
}

fn execute(verb: &Verb) -> Result<u8, Failure> {
    if let Some(filter) = verb.explains() {
        return print(&choice::explain(filter)?);
    }
    match verb {
        Verb::Qemu(arguments) => or_json(qemu(arguments), &arguments.showing),
        Verb::Probe(arguments) if arguments.list => {
            let probes = probe::list();
            if probes.is_empty() {
                say("no debug probe is plugged in, or none may be used (udev rules)");
            }
            print(&probes.iter().map(|probe| format!("{probe}\n")).collect::<String>())
        }
        Verb::Probe(arguments) => {
            interrupt::install();
            let run = || {
                let limits = limits(&arguments.showing)?;
                check_filter(&arguments.showing, &arguments.plan)?;
                let (board, plan) = (arguments.board.as_deref(), arguments.plan.plan.as_deref());
                // Of a target that runs already, nobody knows the plan.
                let plan = if arguments.attach { None } else { built_in(plan) };
                check(&limits, &Known { machine: board, board, plan, ..Known::default() })?;
                let finished = probe::run(&arguments.request(), &mut say)?;
                present(&finished, &arguments.showing, &limits, arguments.timings)
            };
            or_json(run(), &arguments.showing)
        }
        Verb::Image(arguments) => {
            interrupt::install();
            let written = image::write(&arguments.request(), &mut say)?;
            for (name, bytes) in &written.files {
                say(&format!("wrote {} ({bytes} bytes)", written.folder.join(name).display()));
            }
            print(&written.instructions)
        }
        Verb::Serial(arguments) => or_json(serial(arguments), &arguments.showing),
        Verb::Report(arguments) => or_json(report(arguments), &arguments.showing),
        Verb::Compare(arguments) => {
            let result = comparison(arguments);
            if let (Err(failure), Some(file)) = (&result, &arguments.json) {
                write_json(file, &compare::error_json(failure))?;
            }
            result
        }
        Verb::Inspect(arguments) => look(arguments),
        Verb::Export(arguments) => export(arguments),
        Verb::Import(arguments) => imported(arguments),
        Verb::Replay(arguments) => replayed(arguments),
        Verb::Plans { name: None } => {
            let mut text = String::new();
            for builtin in plan::builtins() {
                let _ = writeln!(text, "{:12} {}", builtin.name, builtin.summary);
            }
            print(&text)
        }
        Verb::Plans { name: Some(name) } => match plan::builtins().iter().find(|builtin| builtin.name == name) {
            Some(builtin) => print(builtin.toml),
            None => Err(Failure {
                kind: "plan".into(),
                message: format!("there is no built-in plan `{name}`"),
                next_step: "`ipiscope plans` lists them".into(),
                exit_code: exit::MISUSED,
            }),
        },
        Verb::Boards => {
            let mut text = String::new();
            for name in boards::names() {
                match boards::find(name) {
                    Some(Ok(board)) => {
                        let _ = writeln!(text, "{:18} {:24} {}", board.name, board.status.name(), board.summary);
                    }
                    Some(Err(error)) => say(&error.to_string()),
                    None => {}
                }
            }
            print(&text)
        }
        Verb::Doctor => {
            let findings = doctor::examine();
            let text: String = findings.iter().map(ToString::to_string).collect();
            print(&text)?;
            Ok(doctor::exit_code(&findings))
        }
        Verb::Selftest(arguments) => {
            interrupt::install();
            let outcome = selftest::run(&arguments.settings(), &say)?;
            if let Some(file) = &arguments.json {
                write_json(file, &serde_json::to_value(&outcome).unwrap_or_default())?;
            }
            if arguments.json.as_deref() != Some(Path::new("-")) {
                print(&outcome.text())?;
            }
            Ok(outcome.exit_code())
        }
        Verb::Generate { out } => {
            for file in generate::generate(out)? {
                say(&format!("wrote {}", file.display()));
            }
            Ok(exit::CLEAN)
        }
        Verb::Firmware { verb: FirmwareVerb::Lint } => {
            interrupt::install();
            firmware::lint(&mut say)?;
            Ok(exit::CLEAN)
        }
        Verb::Firmware { verb: FirmwareVerb::Build } => {
            interrupt::install();
            let firmware = firmware::find(None, &mut say)?;
            let mut text = format!("{}\n", firmware.image_path.display());
            if let Some(elf) = firmware.elf {
                let _ = writeln!(text, "{}", elf.path.display());
            }
            print(&text)
        }
    }
}

fn qemu(arguments: &QemuArguments) -> Result<u8, Failure> {
    if let Some(count) = &arguments.cpus {
        let count = if count.is_empty() { "N" } else { count };
        return Err(Failure {
            kind: "arguments".into(),
            message: "--cpus is reserved for a later meaning".into(),
            next_step: format!("for the number of cores write --cores {count}"),
            exit_code: exit::MISUSED,
        });
    }
    interrupt::install();
    let limits = limits(&arguments.showing)?;
    check_filter(&arguments.showing, &arguments.plan)?;
    let machine = arguments.machine.as_deref().unwrap_or(machine::DEFAULT_MACHINE);
    check(
        &limits,
        &Known {
            machine: Some(machine),
            board: Some(machine),
            plan: built_in(arguments.plan.plan.as_deref()),
            ..Known::default()
        },
    )?;
    let finished = run::qemu(&arguments.request(), &mut say)?;
    present(&finished, &arguments.showing, &limits, arguments.timings)
}

/// The limits that are asked for: what can't be held is refused before anything runs.
fn limits(showing: &Showing) -> Result<Option<Limits>, Failure> {
    Ok(showing.limits.as_deref().map(Limits::read).transpose()?)
}

/// Refuses a filter that can't be read, or that a run would leave nothing to choose among for.
fn check_filter(showing: &Showing, plan: &PlanArguments) -> Result<(), Failure> {
    let level = plan.level.unwrap_or(TraceLevel::Ipi);
    Ok(showing.filter.as_deref().map_or(Ok(()), |text| choice::check(text, plan.keep, level))?)
}

/// Refuses a run that the limits are not for.
fn check(limits: &Option<Limits>, known: &Known<'_>) -> Result<(), Failure> {
    limits.iter().try_for_each(|limits| Ok(limits.are_for(known)?))
}

/// The name of the plan that is asked for, where it is not in a file.
fn built_in(plan: Option<&str>) -> Option<&str> {
    let name = plan.unwrap_or(plan::STANDARD);
    plan::builtins().iter().map(|builtin| builtin.name).find(|builtin| *builtin == name)
}

/// `report`: on a capture, or on one made of memory first.
fn report(arguments: &ReportArguments) -> Result<u8, Failure> {
    let limits = limits(&arguments.showing)?;
    if let Some(capture) = &arguments.capture {
        return show(capture, &arguments.showing, &limits);
    }
    let Some(memory) = &arguments.memory else { return Ok(exit::MISUSED) };
    interrupt::install();
    let origin = Origin {
        source: "memory",
        board: arguments.board.clone(),
        out: arguments.out.clone(),
        firmware: arguments.firmware.clone(),
        tags: arguments.tag.iter().cloned().collect(),
        ..Origin::default()
    };
    let finished = memory::collect(memory, &origin, &mut say)?;
    present(&finished, &arguments.showing, &limits, false)
}

/// `compare`.
fn comparison(arguments: &CompareArguments) -> Result<u8, Failure> {
    let CompareArguments { captures, force, .. } = arguments;
    if arguments.make_limits {
        let request = compare::LimitsRequest { captures: captures.clone(), margin: arguments.margin, force: *force };
        let text = compare::make_limits(&request)?;
        let file = arguments.out.as_deref().unwrap_or(Path::new("-"));
        if let Some(capture) = captures.iter().find(|capture| compare::same_file(capture, file)) {
            return Err(Failure {
                kind: "arguments".into(),
                message: format!("--out {} is a golden capture itself", capture.display()),
                next_step: "name another file".into(),
                exit_code: exit::MISUSED,
            });
        }
        write_text(file, &text)?;
        if file != Path::new("-") {
            say(&format!("wrote {}; see `ipiscope report CAPTURE --limits {}`", file.display(), file.display()));
        }
        return Ok(exit::CLEAN);
    }
    if captures.len() < 2 {
        return Err(Failure {
            kind: "arguments".into(),
            message: format!("{} capture is nothing to compare", captures.len()),
            next_step: "name a golden capture and another: `ipiscope compare A B`".into(),
            exit_code: exit::MISUSED,
        });
    }
    let comparison = compare::compare(&compare::Request {
        captures: captures.clone(),
        force: *force,
        filter: arguments.filter.clone(),
    })?;
    if let Some(file) = &arguments.json {
        write_json(file, &comparison.json())?;
    }
    if arguments.json.as_deref() != Some(Path::new("-")) {
        print(&comparison.text(&options(arguments.color)))?;
    }
    Ok(comparison.exit_code())
}

/// `inspect`.
fn look(arguments: &InspectArguments) -> Result<u8, Failure> {
    let last = usize::from(arguments.last);
    let inspection = match arguments {
        InspectArguments { capture: Some(capture), .. } => inspect::of_capture(capture, last)?,
        InspectArguments { live: Some(which), .. } => {
            inspect::of_run(Some(which.as_str()).filter(|which| !which.is_empty()), last)?
        }
        InspectArguments { memory: Some(memory), firmware, .. } => {
            interrupt::install();
            inspect::of_memory(memory, firmware.as_deref(), last, &mut say)?
        }
        InspectArguments { .. } => {
            interrupt::install();
            probe::look(&arguments.request(), &mut say)?
        }
    };
    if let Some(file) = &arguments.json {
        write_json(file, &inspection.json())?;
    }
    if arguments.json.as_deref() != Some(Path::new("-")) {
        print(&inspection.text(terminal_width().map_or(inspect::WIDTH, usize::from)))?;
    }
    Ok(exit::CLEAN)
}

/// `export`.
fn export(arguments: &ExportArguments) -> Result<u8, Failure> {
    let ExportArguments { capture: path, to, out, ns, filter, .. } = arguments;
    if to.is_binary() && out.is_none() && io::stdout().is_terminal() {
        return Err(Failure {
            kind: "arguments".into(),
            message: "this format is no text, and standard output is a terminal".into(),
            next_step: "name a file with --out, or pipe it".into(),
            exit_code: exit::MISUSED,
        });
    }
    let capture = Capture::open(path)?;
    let prepared = Export::prepare(&capture, *to, filter.as_deref())?;
    let write = |out: &mut dyn io::Write| prepared.write(*ns, out);
    let written = match out {
        Some(out) => {
            // Creating the file would empty it.
            if out.canonicalize().is_ok_and(|out| path.canonicalize().is_ok_and(|path| out == path)) {
                return Err(Failure {
                    kind: "arguments".into(),
                    message: format!("--out {} is the capture itself", out.display()),
                    next_step: "name another file".into(),
                    exit_code: exit::MISUSED,
                });
            }
            let file = File::create(out).map_err(FileError::of("create", out))?;
            write(&mut io::BufWriter::with_capacity(1 << 16, file))
        }
        None => write(&mut io::BufWriter::with_capacity(1 << 16, io::stdout().lock())),
    };
    match written {
        Ok(()) => {}
        Err(ExportError::Write(error)) if out.is_none() && error.kind() == io::ErrorKind::BrokenPipe => {}
        Err(ExportError::Write(source)) => {
            let path = out.as_deref().unwrap_or(Path::new("standard output"));
            return Err(FileError::of("write", path)(source).into());
        }
        Err(error) => return Err(error.into()),
    }
    for note in prepared.notes() {
        say(&format!("note: {note}"));
    }
    Ok(exit::CLEAN)
}

/// `import`.
fn imported(arguments: &ImportArguments) -> Result<u8, Failure> {
    let request = import::Request {
        file: arguments.trace.clone(),
        out: arguments.out.clone(),
        rules: arguments.rules.clone(),
        tags: arguments.tag.iter().cloned().collect(),
    };
    let imported = import::import(&request)?;
    for note in &imported.notes {
        say(&format!("note: {note}"));
    }
    let counts: Vec<String> = imported.table.counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    say(&format!(
        "{}: {}; {} CPUs, {}, {:.1} s",
        imported.table.file,
        counts.join(", "),
        imported.cpus,
        imported.table.format,
        imported.seconds
    ));
    say(&format!("wrote {}; see `ipiscope report {}`", imported.capture.display(), imported.capture.display()));
    Ok(exit::CLEAN)
}

/// `replay`.
fn replayed(arguments: &ReplayArguments) -> Result<u8, Failure> {
    let made = replay::replay(&arguments.request())?;
    match &arguments.out {
        Some(out) => std::fs::write(out, &made.toml).map_err(FileError::of("write", out))?,
        None => {
            print(&made.toml)?;
        }
    }
    for note in &made.notes {
        say(&format!("note: {note}"));
    }
    for (what, count) in &made.left_out {
        say(&format!("note: {count} left out: {what}"));
    }
    let ns = |ns: u64| detect::duration(ns as f64, 1.0);
    let callbacks = match made.callbacks {
        (0, ..) => String::new(),
        (count, median, longest) => {
            format!("; {count} callbacks of {} (median) to {} (the longest)", ns(median), ns(longest))
        }
    };
    let (sends, ipis, cores) = (made.sends, made.ipis, made.cores);
    say(&format!("{sends} sends ({ipis} IPIs) of {cores} cores over {}{callbacks}", ns(made.span_ns)));
    if let Some(out) = &arguments.out {
        let run = format!("ipiscope qemu --cores {cores} --plan {}", out.display());
        say(&format!("run it: `{run}`"));
        if !made.twins.is_empty() {
            let twins: String = made.twins.iter().map(|twin| format!(" --inject {twin}")).collect();
            say(&format!("with its suspects' delays: `{run} --deterministic{twins}`"));
        }
    }
    Ok(exit::CLEAN)
}

/// Where a verb failed before there was a report, the files of scripts say why.
fn or_json(result: Result<u8, Failure>, showing: &Showing) -> Result<u8, Failure> {
    if let (Err(failure), Some(file)) = (&result, &showing.junit)
        && let Err(second) = write_text(file, &junit::of_failure(failure))
        && second.message != failure.message
    {
        complain(&second);
    }
    if let (Err(failure), Some(file)) = (&result, &showing.json) {
        let error = report::error_report(&failure.kind, &failure.message, &failure.next_step);
        if let Err(second) = write_json(file, &error)
            && second.message != failure.message
        {
            complain(&second);
        }
    }
    result
}

/// Reports on a run that was made, and says where its capture is.
fn present(finished: &Finished, showing: &Showing, limits: &Option<Limits>, with_timings: bool) -> Result<u8, Failure> {
    say(&format!("capture: {}", finished.capture.display()));
    // On a terminal the report's own words suffice.
    let told = io::stdout().is_terminal() && showing.json.as_deref() != Some(Path::new("-"));
    if let Some(error) = finished.outcome.ending.error.as_ref().filter(|_| !told) {
        say(&format!("error: {}", error.message));
        say(&format!("next step: {}", error.next_step));
    }
    let started = std::time::Instant::now();
    let code = show(&finished.capture, showing, limits)?;
    if with_timings {
        let timings = finished.outcome.timings;
        let marks = [("booted", timings.region), ("plan began", timings.running), ("plan ended", timings.ended)];
        for (name, took) in &finished.steps {
            say(&format!("{:>9.3} s  {name}", took.as_secs_f64()));
            for (mark, at) in marks.iter().filter(|_| *name == "run") {
                if let Some(at) = at {
                    say(&format!("{:>9.3} s    after the start: {mark}", at.as_secs_f64()));
                }
            }
        }
        say(&format!("{:>9.3} s  report", started.elapsed().as_secs_f64()));
    }
    Ok(code)
}

fn serial(arguments: &SerialArguments) -> Result<u8, Failure> {
    // A log may come through a pipe that never ends: there Ctrl-C kills.
    if arguments.from_log.is_none() {
        interrupt::install();
    }
    let limits = limits(&arguments.showing)?;
    let finished = serial::take(&arguments.request()?, &mut say)?;
    present(&finished, &arguments.showing, &limits, false)
}

/// Reports on a capture: text, or JSON, or both, and JUnit XML besides.
fn show(capture: &Path, showing: &Showing, limits: &Option<Limits>) -> Result<u8, Failure> {
    if showing.log {
        let log = log::read(&Capture::open(capture)?)?;
        let _ = write!(io::stderr().lock(), "{log}");
    }
    let read = Capture::open(capture)?;
    let choice = showing.filter.as_deref().map(|text| Choice::of_counts(text, &read, "a report")).transpose()?;
    let report = report::build_of(&read, limits.as_ref(), choice.as_ref())?;
    if let Some(file) = &showing.json {
        write_json(file, &report.json())?;
    }
    if let Some(file) = &showing.junit {
        write_text(file, &junit::of_report(&report))?;
    }
    let taken = |file: &Option<PathBuf>| file.as_deref() == Some(Path::new("-"));
    if let Some(file) = &showing.markdown {
        write_text(file, &report.markdown())?;
    }
    if let Some(file) = &showing.html {
        // A page without trails is better than none.
        let trails = trail::trails(&read, choice.as_ref()).unwrap_or_else(|error| {
            say(&format!("note: the page has no trails: {error}"));
            Vec::new()
        });
        write_text(file, &report_page::html(&report.json(), &trails))?;
    }
    if ![&showing.json, &showing.junit, &showing.markdown, &showing.html].into_iter().any(taken) {
        print(&report.text(&options(showing.color)))?;
    }
    if let (Some(limits), Some(held)) = (limits, &report.limits)
        && !held.mismatch.is_empty()
    {
        complain(&limits.of_another(held.mismatch.clone()).into());
    }
    Ok(report.exit_code())
}

fn options(color: Color) -> report::Options {
    let terminal = io::stdout().is_terminal();
    let color = match color {
        Color::Always => true,
        Color::Never => false,
        Color::Auto => {
            terminal && !terminal::is_set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
        }
    };
    let width = terminal_width();
    report::Options { color, width: width.unwrap_or(120), unicode: terminal::is_utf8() }
}

/// Columns of the terminal; `None`: standard output is none.
fn terminal_width() -> Option<u16> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok().filter(|_| io::stdout().is_terminal());
    size.map(|size| size.ws_col).filter(|width| *width > 0)
}

fn write_json(file: &Path, json: &serde_json::Value) -> Result<(), Failure> {
    let mut text = serde_json::to_string_pretty(json).unwrap_or_default();
    text.push('\n');
    write_text(file, &text)
}

/// To a file; `-`: to standard output.
fn write_text(file: &Path, text: &str) -> Result<(), Failure> {
    if file == Path::new("-") {
        print(text).map(drop)
    } else {
        std::fs::write(file, text).map_err(|source| FileError::of("write", file)(source).into())
    }
}

/// Data, to standard output.
fn print(text: &str) -> Result<u8, Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(exit::CLEAN),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(exit::CLEAN),
        Err(source) => Err(FileError::of("write", Path::new("standard output"))(source).into()),
    }
}

/// Talk, to standard error. Nobody can be told that it failed.
fn say(text: &str) {
    let _ = writeln!(io::stderr().lock(), "ipiscope: {text}");
}

fn complain(failure: &Failure) {
    say(&format!("error: {failure}"));
    say(&format!("next step: {}", failure.next_step));
}
