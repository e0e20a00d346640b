//! Limits as TOML. What can't be is refused with the line that says it.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use toml::{Spanned, Value};
use trace_ring::calls::IpiKind;
use trace_ring::record::ReceiverState;

use super::{Bound, Count, Expected, Figure, Kind, Limits, LimitsError, Most, Per, Rule, Select};
use crate::capture::VerdictScope;
use crate::correlate::stages::Stage;
use crate::detect::duration;
use crate::plan::CoreList;

/// States that a receiver may be in.
const STATES: [ReceiverState; 6] = [
    ReceiverState::Spin,
    ReceiverState::Wfi,
    ReceiverState::Wfe,
    ReceiverState::Masked,
    ReceiverState::Suspend,
    ReceiverState::Unknown,
];

/// Those that it must be woken from.
const SLEEPING: [ReceiverState; 3] = [ReceiverState::Wfi, ReceiverState::Wfe, ReceiverState::Suspend];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Option<String>,
    #[serde(default)]
    target: RawTarget,
    #[serde(default)]
    limit: Vec<Spanned<RawRule>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTarget {
    machine: Option<String>,
    board: Option<String>,
    cores: Option<u16>,
    #[serde(default)]
    midr: Vec<u32>,
    scope: Option<VerdictScope>,
    plan: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: Option<String>,
    kind: Option<Named<Kind>>,
    state: Option<Named<ReceiverState>>,
    phase: Option<String>,
    distance: Option<Distance>,
    from: Option<Cores>,
    to: Option<Cores>,
    stage: Option<Named<Stage>>,
    timed: Option<bool>,
    per: Option<RawPer>,
    p50: Option<Length>,
    p90: Option<Length>,
    p99: Option<Length>,
    p999: Option<Length>,
    max: Option<Length>,
    mean: Option<Length>,
    wake_up: Option<Length>,
    lost: Option<RawMost>,
    unknown: Option<RawMost>,
    misrouted: Option<RawMost>,
    coalesced: Option<RawMost>,
    duplicate: Option<RawMost>,
    spurious: Option<RawMost>,
    cores_up: Option<u32>,
    skew: Option<Length>,
    min_samples: Option<u64>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawPer {
    Pair,
    Receiver,
    Sender,
    All,
}

/// A word that stands for one of a few things.
#[derive(Deserialize)]
#[serde(try_from = "String", bound = "T: FromName")]
struct Named<T>(T);

trait FromName: Sized {
    fn from_name(name: &str) -> Option<Self>;
    fn known() -> String;
}

impl<T: FromName> TryFrom<String> for Named<T> {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        T::from_name(&name).map(Named).ok_or_else(|| format!("there is no `{name}` here; write one of {}", T::known()))
    }
}

impl FromName for Kind {
    fn from_name(name: &str) -> Option<Self> {
        if name == "sgi" {
            return Some(Kind::AnySgi);
        }
        let number = name.strip_prefix("sgi").and_then(|digits| digits.parse().ok()).filter(|number| *number < 16);
        let kind = || IpiKind::ALL.into_iter().find(|kind| kind.name() == name);
        number.map(Kind::Sgi).or_else(|| kind().map(Kind::Of))
    }

    fn known() -> String {
        format!("sgi, sgi0 to sgi15, {}", IpiKind::ALL.map(IpiKind::name).join(", "))
    }
}

impl FromName for ReceiverState {
    fn from_name(name: &str) -> Option<Self> {
        STATES.into_iter().find(|state| state.name() == name)
    }

    fn known() -> String {
        STATES.map(ReceiverState::name).join(", ")
    }
}

impl FromName for Stage {
    fn from_name(name: &str) -> Option<Self> {
        Stage::ALL.into_iter().find(|stage| stage.name() == name)
    }

    fn known() -> String {
        Stage::ALL.map(Stage::name).join(", ")
    }
}

/// How far apart two cores are.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "Value")]
struct Distance(u8);

impl TryFrom<Value> for Distance {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match &value {
            Value::Integer(level @ 0..=4) => Ok(Distance(*level as u8)),
            Value::String(name) if name == "self" => Ok(Distance(0)),
            Value::String(name) if name == "same-cluster" => Ok(Distance(1)),
            other => Err(format!(
                "{other} is no distance; write \"self\", \"same-cluster\", or the affinity level in which the cores differ: 1 \
                 (Aff0) to 4 (Aff3)"
            )),
        }
    }
}

/// Cores: a number, a list, or a text like "0-3,7".
#[derive(Deserialize)]
#[serde(try_from = "Value")]
struct Cores(CoreList);

impl TryFrom<Value> for Cores {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let core = |value: &Value| {
            let core = value.as_integer().and_then(|core| u16::try_from(core).ok());
            core.ok_or_else(|| format!("{value} is no core; write 2, [0, 1] or \"0-3,7\""))
        };
        match &value {
            Value::String(text) => {
                text.parse().map(Cores).map_err(|error: crate::plan::CoreListError| error.to_string())
            }
            Value::Array(items) if items.is_empty() => Err("a list of no cores excludes everything".into()),
            Value::Array(items) => {
                let mut list = items.iter().map(core).collect::<Result<Vec<u16>, String>>()?;
                list.sort_unstable();
                list.dedup();
                Ok(Cores(CoreList(list)))
            }
            other => core(other).map(|core| Cores(CoreList(vec![core]))),
        }
    }
}

/// A length of time, ns.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "Value")]
struct Length(f64);

impl TryFrom<Value> for Length {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        match &value {
            Value::String(text) => length(text).map(Length),
            other => Err(format!("{other} has no unit; write \"120ns\", \"1.5us\" or \"2ms\"")),
        }
    }
}

/// A length of time above zero, ns.
pub(crate) fn length(text: &str) -> Result<f64, String> {
    let trimmed = text.trim();
    let digits = trimmed.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let scale = match unit.trim() {
        "ns" => Some(1.0),
        "us" | "\u{b5}s" | "\u{3bc}s" => Some(1e3),
        "ms" => Some(1e6),
        "s" => Some(1e9),
        _ => None,
    };
    let wrong = || format!("`{text}` is no length of time; write \"120ns\", \"1.5us\" or \"2ms\"");
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let length = number * scale.ok_or_else(wrong)?;
    if length > 0.0 && length.is_finite() {
        Ok(length)
    } else {
        Err(format!("`{text}`: nothing takes no time; write a length above zero"))
    }
}

/// A number or a share of something.
#[derive(Clone, Copy, Deserialize)]
#[serde(try_from = "Value")]
struct RawMost(Most);

impl TryFrom<Value> for RawMost {
    type Error = String;

    fn try_from(value: Value) -> Result<Self, String> {
        let share = match &value {
            Value::Integer(number) => {
                let number = u64::try_from(*number).map_err(|_| format!("{number} is below zero; write 0 or more"))?;
                return Ok(RawMost(Most::Number(number)));
            }
            Value::Float(share) => Some(*share),
            Value::String(text) => {
                text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok()).map(|number| number / 100.0)
            }
            _ => None,
        };
        match share {
            Some(share) if share > 0.0 && share <= 1.0 => Ok(RawMost(Most::Share(share))),
            Some(share) => {
                Err(format!("{value}: a share of {share} can't be; write 0 for none, or a share above 0 and up to 1"))
            }
            None => Err(format!("{value} is neither a number nor a share; write 0, 0.001 or \"0.1%\"")),
        }
    }
}

pub(super) fn parse(path: &Path, text: String) -> Result<Limits, LimitsError> {
    let file: File = toml::from_str(&text)
        .map_err(|error| LimitsError::Toml { file: path.into(), error: error.to_string().trim_end().into() })?;
    if file.limit.is_empty() {
        return Err(LimitsError::Empty { file: path.into() });
    }
    let target = target(path, file.target)?;
    let mut rules: Vec<Rule> = Vec::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for (number, raw) in (1..).zip(file.limit) {
        let line = 1 + text.get(..raw.span().start).unwrap_or_default().matches('\n').count();
        let raw = raw.into_inner();
        let name = raw.name.clone().unwrap_or_else(|| format!("rule {number}"));
        let refuse = |what: String| LimitsError::Rule { file: path.into(), line, rule: name.clone(), what };
        if name.trim().is_empty() {
            return Err(refuse("its name is empty; leave it out, or say something".into()));
        }
        if let Some(before) = names.insert(name.clone(), line) {
            return Err(refuse(format!(
                "the rule in line {before} has the same name; a report could not tell them apart"
            )));
        }
        rules.push(rule(raw, name.clone(), line, &target).map_err(refuse)?);
    }
    Ok(Limits { file: path.into(), name: file.name, text, target, rules })
}

fn target(path: &Path, raw: RawTarget) -> Result<Expected, LimitsError> {
    let RawTarget { machine, board, cores, midr, scope, plan } = raw;
    let refuse = |what: String| Err(LimitsError::Target { file: path.into(), what });
    if cores == Some(0) {
        return refuse("`cores = 0`: a run has 1 to 512 cores".into());
    }
    if let Some(cores) = cores.filter(|cores| midr.len() > 1 && midr.len() != usize::from(*cores)) {
        return refuse(format!(
            "`midr` names {} cores and `cores` says {cores}; name one for all, or each",
            midr.len()
        ));
    }
    Ok(Expected { machine, board, cores, midr, scope, plan })
}

fn rule(raw: RawRule, name: String, line: usize, target: &Expected) -> Result<Rule, String> {
    let latencies = [
        (Figure::P50, raw.p50),
        (Figure::P90, raw.p90),
        (Figure::P99, raw.p99),
        (Figure::P999, raw.p999),
        (Figure::Max, raw.max),
        (Figure::Mean, raw.mean),
    ];
    let latencies: Vec<(Figure, f64)> =
        latencies.into_iter().filter_map(|(figure, length)| Some((figure, length?.0))).collect();
    ordered(&latencies)?;
    let counts = [
        (Count::Lost, raw.lost),
        (Count::Unknown, raw.unknown),
        (Count::Misrouted, raw.misrouted),
        (Count::Coalesced, raw.coalesced),
        (Count::Duplicate, raw.duplicate),
        (Count::Spurious, raw.spurious),
    ];
    let counts: Vec<(Count, Most)> = counts.into_iter().filter_map(|(count, most)| Some((count, most?.0))).collect();

    let mut bounds: Vec<Bound> = latencies.iter().map(|(figure, length)| Bound::Latency(*figure, *length)).collect();
    bounds.extend(raw.wake_up.map(|length| Bound::WakeUp(length.0)));
    bounds.extend(counts.iter().map(|(count, most)| Bound::Count(*count, *most)));
    bounds.extend(raw.cores_up.map(Bound::CoresUp));
    bounds.extend(raw.skew.map(|length| Bound::Skew(length.0)));
    if bounds.is_empty() && raw.min_samples.is_none() {
        return Err(
            "it bounds nothing; write p50, p90, p99, p999, max, mean, wake_up, lost, unknown, misrouted, coalesced, \
             duplicate, spurious, cores_up, skew or min_samples"
                .into(),
        );
    }

    let named = [
        ("kind", raw.kind.is_some()),
        ("state", raw.state.is_some()),
        ("phase", raw.phase.is_some()),
        ("distance", raw.distance.is_some()),
        ("from", raw.from.is_some()),
        ("to", raw.to.is_some()),
        ("stage", raw.stage.is_some()),
        ("timed", raw.timed.is_some()),
        ("per", raw.per.is_some()),
    ];
    let picks = |allowed: &[&str]| {
        let wrong = named.iter().find(|(name, given)| *given && !allowed.contains(name));
        wrong.map(|(name, _)| *name)
    };
    let machines = raw.cores_up.map(|_| "cores_up").or(raw.skew.map(|_| "skew"));
    if let (Some(bound), Some(picked)) = (machines, picks(&[])) {
        return Err(format!("`{bound}` is the whole machine's and `{picked}` picks a part; write two rules"));
    }
    if let Some(cores) = raw.cores_up {
        match target.cores {
            _ if cores == 0 => return Err("`cores_up = 0` always holds; write how many cores must be up".into()),
            Some(all) if cores > u32::from(all) => {
                return Err(format!("`cores_up = {cores}` can't be: [target] has {all} cores"));
            }
            _ => {}
        }
    }
    if raw.stage.is_some() {
        if let Some(picked) = picks(&["kind", "to", "stage", "per"]) {
            return Err(format!("a stage is timed on one core, whoever sent: `{picked}` can't pick any; take it out"));
        }
        if raw.wake_up.is_some() || !counts.is_empty() {
            let bound = counts.first().map_or("wake_up", |(count, _)| count.name());
            return Err(format!("a stage has lengths and no `{bound}`; write two rules"));
        }
        if matches!(raw.per, Some(RawPer::Pair | RawPer::Sender)) {
            return Err("a stage is timed on one core, whoever sent; write per = \"receiver\" or \"all\"".into());
        }
    }
    let state = raw.state.map(|state| state.0);
    if let Some(state) = state.filter(|state| raw.wake_up.is_some() && !SLEEPING.contains(state)) {
        return Err(format!(
            "nobody wakes up from `{}`: `wake_up` is how much longer the median is in {} than spinning",
            state.name(),
            SLEEPING.map(ReceiverState::name).join(", ")
        ));
    }
    if raw.min_samples == Some(0) {
        return Err("`min_samples = 0` always holds; write how many latencies each figure must be of".into());
    }
    if raw.min_samples.is_some() && latencies.is_empty() && raw.wake_up.is_none() && !bounds.is_empty() {
        return Err("`min_samples` is of latencies, and the rule bounds none; take it out".into());
    }
    if let Some((count, _)) = counts.iter().find(|(count, _)| count.is_of_receptions()) {
        if let Some(picked) = picks(&["kind", "to", "per"]) {
            return Err(format!(
                "`{}` counts receptions that no message explains, so `{picked}` can't pick any; write two rules",
                count.name()
            ));
        }
        if matches!(raw.per, Some(RawPer::Pair | RawPer::Sender)) {
            return Err(format!(
                "`{}` has a receiver and no sender; write per = \"receiver\" or \"all\"",
                count.name()
            ));
        }
    }
    if let (Some(Distance(0)), Some(from), Some(to)) = (raw.distance, &raw.from, &raw.to)
        && !from.0.0.iter().any(|core| to.0.0.contains(core))
    {
        return Err(format!("no core of `from` {} is in `to` {}, so none sends to itself", from.0, to.0));
    }

    let per = match raw.per {
        Some(RawPer::Pair) => Per::Pair,
        Some(RawPer::Receiver) => Per::Receiver,
        Some(RawPer::Sender) => Per::Sender,
        Some(RawPer::All) => Per::All,
        None if raw.stage.is_some() => Per::Receiver,
        None => Per::Pair,
    };
    // Who names a phase means that phase, whatever it does.
    let timed = raw.timed.unwrap_or(raw.phase.is_none());
    let select = Select {
        kind: raw.kind.map(|kind| kind.0),
        state,
        phase: raw.phase,
        distance: raw.distance.map(|distance| distance.0),
        from: raw.from.map(|cores| cores.0),
        to: raw.to.map(|cores| cores.0),
        stage: raw.stage.map(|stage| stage.0),
        timed,
    };
    Ok(Rule { name, line, select, per, bounds, min_samples: raw.min_samples })
}

/// Percentiles rise, and nothing is above the greatest.
fn ordered(latencies: &[(Figure, f64)]) -> Result<(), String> {
    let rising: Vec<&(Figure, f64)> = latencies.iter().filter(|(figure, _)| *figure != Figure::Mean).collect();
    let mean = latencies.iter().find(|(figure, _)| *figure == Figure::Mean);
    let most = latencies.iter().find(|(figure, _)| *figure == Figure::Max);
    let mean = mean.zip(most);
    let neighbours = rising.windows(2).filter_map(|pair| Some((*pair.first()?, *pair.last()?)));
    let wrong = neighbours.chain(mean).find(|((_, low), (_, high))| low > high);
    match wrong {
        Some(((low, low_ns), (high, high_ns))) => Err(format!(
            "`{}` ({}) is above `{}` ({}), and can never be reached before it",
            low.name(),
            duration(*low_ns, 0.01),
            high.name(),
            duration(*high_ns, 0.01)
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Limits, LimitsError> {
        parse(Path::new("board.toml"), text.into())
    }

    fn refused(text: &str) -> String {
        match read(text) {
            Ok(limits) => panic!("{text:?} was taken for {:?}", limits.rules),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_rule_says_what_it_picks_and_what_it_bounds() {
        let text = r#"
            name = "a board"
            [target]
            board = "imx8mp-evk"
            cores = 4
            midr = [0x410fd034]
            scope = "silicon"

            [[limit]]
            name = "awake"
            kind = "sgi0"
            state = "spin"
            distance = "same-cluster"
            from = "0-1,3"
            to = [2]
            p50 = "1.5us"
            p99 = "2us"
            max = "1ms"
            lost = 0
            unknown = "0.1%"
            min_samples = 1000

            [[limit]]
            stage = "entry_to_acknowledge"
            kind = "call_function"
            mean = "120ns"

            [[limit]]
            cores_up = 4
            skew = "100ns"
        "#;
        let limits = read(text).expect("is taken");
        assert_eq!((limits.name.as_deref(), limits.rules.len()), (Some("a board"), 3));
        assert_eq!(
            (limits.target.midr.as_slice(), limits.target.scope),
            (&[0x410F_D034][..], Some(VerdictScope::Silicon))
        );
        let [first, second, third] = limits.rules.as_slice() else { panic!("three rules") };
        assert_eq!((first.name.as_str(), first.line, first.per), ("awake", 9, Per::Pair));
        let select = &first.select;
        assert_eq!(
            (select.kind, select.state, select.distance),
            (Some(Kind::Sgi(0)), Some(ReceiverState::Spin), Some(1))
        );
        assert_eq!((select.from.clone(), select.to.clone()), (Some(CoreList(vec![0, 1, 3])), Some(CoreList(vec![2]))));
        assert!(select.timed);
        assert_eq!(
            first.bounds,
            [
                Bound::Latency(Figure::P50, 1500.0),
                Bound::Latency(Figure::P99, 2000.0),
                Bound::Latency(Figure::Max, 1e6),
                Bound::Count(Count::Lost, Most::Number(0)),
                Bound::Count(Count::Unknown, Most::Share(0.001)),
            ]
        );
        assert_eq!((second.name.as_str(), second.per), ("rule 2", Per::Receiver));
        assert_eq!(second.select.stage, Some(Stage::EntryToAcknowledge));
        assert_eq!(third.bounds, [Bound::CoresUp(4), Bound::Skew(100.0)]);
    }

    #[test]
    fn a_phase_that_is_named_need_not_have_one_ipi_under_way() {
        let timed =
            |text: &str| read(&format!("[[limit]]\np50 = \"1us\"\n{text}")).expect("is taken").rules[0].select.timed;
        assert!(timed(""));
        assert!(!timed("phase = \"storm\""));
        assert!(timed("phase = \"storm\"\ntimed = true"));
        assert!(!timed("timed = false"));
    }

    #[test]
    fn what_can_t_be_is_refused_with_its_line_and_the_values() {
        for (rule, words) in [
            ("", &["line 2", "rule 1", "bounds nothing"][..]),
            ("p50 = \"2us\"\np99 = \"1us\"", &["p50", "2000 ns", "p99", "1000 ns"]),
            ("p99 = \"2us\"\nmax = \"1us\"", &["p99", "max"]),
            ("mean = \"2us\"\nmax = \"1us\"", &["mean", "max"]),
            ("p50 = 5", &["line 3", "5", "120ns"]),
            ("p50 = \"5\"", &["`5`", "120ns"]),
            ("p50 = \"-5us\"", &["-5us"]),
            ("p50 = \"0us\"", &["0us", "above zero"]),
            ("max = \"5 parsecs\"", &["parsecs"]),
            ("lost = -1", &["line 3", "-1", "below zero"]),
            ("lost = 1.5", &["1.5"]),
            ("lost = \"few\"", &["few", "0.1%"]),
            ("lost = \"0%\"", &["0%"]),
            ("lost = 0\nkind = \"gpi\"", &["gpi", "call_function"]),
            ("lost = 0\nkind = \"sgi16\"", &["sgi16", "sgi15"]),
            ("lost = 0\nstate = \"asleep\"", &["asleep", "wfi"]),
            ("p50 = \"1us\"\nstage = \"middle\"", &["middle", "entry_to_acknowledge"]),
            ("lost = 0\ndistance = 5", &["5", "same-cluster"]),
            ("lost = 0\nfrom = \"3-1\"", &["3-1", "0-3,7"]),
            ("lost = 0\nto = []", &["no cores"]),
            ("lost = 0\nper = \"core\"", &["core", "receiver"]),
            ("lost = 0\nlast = 1", &["last"]),
            ("lost = 0\nname = \" \"", &["empty"]),
            ("min_samples = 0", &["min_samples"]),
            ("min_samples = 5\nlost = 0", &["min_samples", "bounds none"]),
            ("cores_up = 0", &["cores_up"]),
            ("cores_up = 2\nkind = \"sgi\"", &["cores_up", "kind"]),
            ("skew = \"1us\"\nto = 1", &["skew", "to"]),
            ("wake_up = \"1us\"\nstate = \"spin\"", &["spin", "wfi"]),
            ("wake_up = \"1us\"\nstage = \"callback\"", &["stage", "wake_up"]),
            ("p50 = \"1us\"\nstage = \"callback\"\nstate = \"wfi\"", &["state"]),
            ("p50 = \"1us\"\nstage = \"callback\"\nper = \"pair\"", &["receiver"]),
            ("spurious = 0\nper = \"pair\"", &["spurious", "receiver"]),
            ("spurious = 0\nfrom = 1", &["spurious", "from"]),
            ("lost = 0\ndistance = 0\nfrom = 1\nto = 2", &["itself"]),
        ] {
            let message = refused(&format!("\n[[limit]]\n{rule}\n"));
            for word in ["board.toml"].iter().chain(words) {
                assert!(message.contains(word), "{rule:?}: no {word:?} in {message:?}");
            }
        }
    }

    #[test]
    fn files_without_a_rule_and_rules_of_one_name_are_refused() {
        assert!(refused("").contains("no rule"));
        assert!(refused("name = \"x\"\n").contains("no rule"));
        let twice = refused("[[limit]]\nname = \"a\"\nlost = 0\n[[limit]]\nname = \"a\"\nlost = 1\n");
        assert!(twice.contains("line 4") && twice.contains("line 1"), "{twice}");
        // A rule without a name has one, too.
        assert!(refused("[[limit]]\nname = \"rule 2\"\nlost = 0\n[[limit]]\nlost = 1\n").contains("rule 2"));
        assert!(refused("[[limit]\n").contains("line 1"));
        assert!(refused("[target]\ncores = 2\nmidr = [1, 2, 3]\n[[limit]]\nlost = 0\n").contains("midr"));
        assert!(refused("[target]\ncores = 0\n[[limit]]\nlost = 0\n").contains("cores"));
        assert!(refused("[target]\ncores = 2\n[[limit]]\ncores_up = 3\n").contains("cores_up = 3"));
        assert!(refused("[target]\nscope = \"hearsay\"\n[[limit]]\nlost = 0\n").contains("hearsay"));
    }

    #[test]
    fn lengths_are_read_in_any_unit() {
        for (text, ns) in [("120ns", 120.0), ("1.5us", 1500.0), ("1.5 \u{b5}s", 1500.0), ("2ms", 2e6), ("3s", 3e9)] {
            assert_eq!(length(text), Ok(ns), "{text}");
        }
        for text in ["", "us", "1.2.3us", "1e3", "infs", "nans"] {
            assert!(length(text).is_err(), "{text}");
        }
    }
}
