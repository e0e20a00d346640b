//! A report as JUnit XML, for a lab's CI: one suite, a test case for the verdict and one for each rule of the limits.
//!
//! `failure` is the target's fault (exit code 1); `error` is a run that could not be measured, or a rule that it can't answer
//! (exit codes 2 and 3): a CI that takes either for a pass would call a board good that nobody looked at.

use std::fmt::Write as _;

use crate::detect::Verdict;
use crate::error::Failure;
use crate::limits::{BoundReport, Outcome, RuleReport, Unit, show};
use crate::report::Report;

/// How a test case ended.
enum Ended {
    Passed,
    /// Kind, one line, all lines.
    Failure(&'static str, String, String),
    Error(String, String, String),
}

struct Case {
    class: &'static str,
    name: String,
    ended: Ended,
    output: String,
}

/// The report as JUnit XML.
pub fn of_report(report: &Report) -> String {
    let mut cases = vec![verdict(report)];
    if let Some(limits) = &report.limits {
        if !limits.mismatch.is_empty() {
            let text = limits.mismatch.join("\n");
            cases.push(Case {
                class: "ipiscope.limits",
                name: "target".into(),
                ended: Ended::Error("limits".into(), "the limits are not for this target".into(), text),
                output: String::new(),
            });
        }
        cases.extend(limits.rules.iter().map(|limit| rule(report, limit)));
    }
    suite(&suite_name(report), Some(&report.build.created), &properties(report), &cases)
}

/// What is left of a run that gave no report.
pub fn of_failure(failure: &Failure) -> String {
    let case = Case {
        class: "ipiscope.run",
        name: "verdict".into(),
        ended: Ended::Error(failure.kind.clone(), failure.message.clone(), format!("next step: {}", failure.next_step)),
        output: String::new(),
    };
    suite("ipiscope", None, &[], &[case])
}

fn suite_name(report: &Report) -> String {
    let target = &report.target;
    let machine = [&target.board, &target.machine].into_iter().find(|name| !name.is_empty());
    format!("ipiscope.{}.{}", machine.map_or("unnamed", String::as_str), report.plan.name)
}

fn verdict(report: &Report) -> Case {
    let suspect =
        |suspect: &crate::detect::Suspect| format!("{}: {}: {}", suspect.subject(), suspect.detector, suspect.evidence);
    let mut lines: Vec<String> = report.suspects.iter().map(suspect).collect();
    lines.extend(report.faults.iter().map(|fault| format!("core {}: {} {}", fault.core, fault.kind, fault.message)));
    if let Some(limits) = report.limits.as_ref().filter(|limits| limits.failed > 0) {
        lines.push(format!("{} of {} limits are broken", limits.failed, limits.rules.len()));
    }
    let counts = &report.ipis.counts;
    let sent = format!("{} sent, {} lost, {} unknown", counts.sent, counts.lost, counts.unknown);
    let ended = match report.verdict {
        Verdict::Clean => Ended::Passed,
        Verdict::Suspect | Verdict::Failed => {
            let first = lines.first().cloned().unwrap_or_else(|| sent.clone());
            Ended::Failure(report.verdict.name(), first, lines.join("\n"))
        }
        Verdict::Inconclusive | Verdict::Incomplete => {
            let (message, next_step) = match &report.error {
                Some(error) => (error.message.clone(), error.next_step.clone()),
                None => (format!("{}: {sent}", report.ended.name()), "run it again".into()),
            };
            Ended::Error(report.verdict.name().into(), message, format!("next step: {next_step}"))
        }
    };
    Case { class: "ipiscope.run", name: "verdict".into(), ended, output: sent }
}

fn rule(report: &Report, rule: &RuleReport) -> Case {
    let lines: Vec<String> = rule.bounds.iter().map(|bound| line(report, bound)).collect();
    let worst = rule.bounds.iter().max_by_key(|bound| bound.outcome);
    let message = worst.map_or_else(String::new, |bound| line(report, bound));
    let text = format!("{} (line {})\n{}", rule.select, rule.line, lines.join("\n"));
    let ended = match rule.outcome {
        Outcome::Passed => Ended::Passed,
        Outcome::Failed => Ended::Failure("limit", message, text.clone()),
        Outcome::Inconclusive => Ended::Error("inconclusive".into(), message, text.clone()),
    };
    Case { class: "ipiscope.limits", name: rule.name.clone(), ended, output: text }
}

/// A bound in a line.
fn line(report: &Report, bound: &BoundReport) -> String {
    let tick = report.target.counter_hz.filter(|hz| *hz > 0).map(|hz| 1e9 / hz as f64);
    let worst = bound.worst.map_or_else(|| "not measured".into(), |worst| show(worst, bound.unit, tick));
    let sense = if bound.bound == "cores_up" || bound.bound == "min_samples" { "at least" } else { "at most" };
    let limit = show(bound.limit, bound.unit, None);
    let mut text = format!("{} {}: {worst}, {sense} {limit}", bound.bound, bound.outcome.name());
    if let Some(subject) = &bound.subject {
        let _ = write!(text, " ({subject}; n {})", bound.n);
    }
    if bound.outcome != Outcome::Passed && bound.figures > 1 {
        let _ = write!(text, "; {} of {} broken, {} not to be told", bound.broken, bound.figures, bound.undecided);
    }
    if bound.unit == Unit::Ns && bound.finer_than_clock {
        text += "; the limit is finer than the clock's step";
    }
    if let Some(message) = &bound.message {
        let _ = write!(text, "; {message}");
    }
    text
}

fn properties(report: &Report) -> Vec<(String, String)> {
    let (target, clock) = (&report.target, &report.clock);
    let mut list = vec![
        ("verdict".to_owned(), report.verdict.name().to_owned()),
        ("verdict_scope".into(), report.verdict_scope.name().into()),
        ("ended".into(), report.ended.name().into()),
        ("plan".into(), report.plan.name.clone()),
        ("machine".into(), target.machine.clone()),
        ("board".into(), target.board.clone()),
        ("cores_up".into(), format!("{} of {}", target.cores_up, target.core_count)),
        ("firmware".into(), report.build.firmware.clone()),
        ("tool".into(), report.build.reporter.into()),
    ];
    list.extend(target.tags.iter().map(|(key, value)| (format!("tag.{key}"), value.clone())));
    for core in &target.cores {
        list.push((format!("core{}.midr", core.id), core.midr.clone()));
        list.push((format!("core{}.mpidr", core.id), core.mpidr.clone()));
    }
    list.extend(target.counter_hz.map(|hz| ("clock.hz".into(), hz.to_string())));
    list.extend(target.resolution_ns.map(|ns| ("clock.resolution_ns".into(), ns.to_string())));
    list.extend(clock.max_skew_ticks.map(|ticks| ("clock.max_skew_ticks".into(), ticks.to_string())));
    list.push(("clock.trusted".into(), clock.trusted.to_string()));
    if let Some(limits) = &report.limits {
        list.push(("limits.file".into(), limits.file.clone()));
        list.extend(limits.name.iter().map(|name| ("limits.name".into(), name.clone())));
        list.push(("limits.crc32".into(), limits.crc32.clone()));
    }
    list
}

fn suite(name: &str, created: Option<&str>, properties: &[(String, String)], cases: &[Case]) -> String {
    let failures = cases.iter().filter(|case| matches!(case.ended, Ended::Failure(..))).count();
    let errors = cases.iter().filter(|case| matches!(case.ended, Ended::Error(..))).count();
    let totals = format!("tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\"", cases.len());
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(xml, "<testsuites name=\"ipiscope\" {totals}>");
    let _ = write!(xml, "  <testsuite name=\"{}\" {totals} skipped=\"0\"", escaped(name));
    if let Some(created) = created {
        let _ = write!(xml, " timestamp=\"{}\"", escaped(created));
    }
    xml += ">\n";
    if !properties.is_empty() {
        xml += "    <properties>\n";
        for (name, value) in properties {
            let _ = writeln!(xml, "      <property name=\"{}\" value=\"{}\"/>", escaped(name), escaped(value));
        }
        xml += "    </properties>\n";
    }
    for case in cases {
        let _ = writeln!(xml, "    <testcase classname=\"{}\" name=\"{}\">", case.class, escaped(&case.name));
        match &case.ended {
            Ended::Passed => {}
            Ended::Failure(kind, message, text) => element(&mut xml, "failure", kind, message, text),
            Ended::Error(kind, message, text) => element(&mut xml, "error", kind, message, text),
        }
        if !case.output.is_empty() {
            let _ = writeln!(xml, "      <system-out>{}</system-out>", escaped(&case.output));
        }
        xml += "    </testcase>\n";
    }
    xml += "  </testsuite>\n</testsuites>\n";
    xml
}

fn element(xml: &mut String, name: &str, kind: &str, message: &str, text: &str) {
    let (kind, message, text) = (escaped(kind), escaped(message), escaped(text));
    let _ = writeln!(xml, "      <{name} type=\"{kind}\" message=\"{message}\">{text}</{name}>");
}

/// Text as XML 1.0 takes it, in content and in attributes: five characters escaped, line breaks kept in attributes by number,
/// and what no XML may hold replaced.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&apos;",
            '\n' => out += "&#10;",
            '\t' => out += "&#9;",
            '\r' => out += "&#13;",
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push(char::REPLACEMENT_CHARACTER),
            letter => out.push(letter),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_name_holds_the_xml_stays_one() {
        assert_eq!(
            escaped("a<b>&\"c'\n\u{1}\u{7}\u{fffe}ü"),
            "a&lt;b&gt;&amp;&quot;c&apos;&#10;\u{fffd}\u{fffd}\u{fffd}ü"
        );
    }

    #[test]
    fn a_run_that_failed_before_it_began_is_an_error_and_no_pass() {
        let failure = Failure {
            kind: "qemu".into(),
            message: "`qemu-system-aarch64` <is> not \"there\"".into(),
            next_step: "./setup.sh".into(),
            exit_code: 2,
        };
        let xml = of_failure(&failure);
        assert!(xml.contains("tests=\"1\" failures=\"0\" errors=\"1\""), "{xml}");
        assert!(xml.contains("message=\"`qemu-system-aarch64` &lt;is&gt; not &quot;there&quot;\""), "{xml}");
    }
}
