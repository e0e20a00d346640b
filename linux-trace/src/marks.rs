//! What private marks of `trace_printk` mean, by rules.
//!
//! Kernels without tracepoints for what is looked for get marks of their own, and each team words them otherwise. A rule names the
//! function that prints a mark, a pattern for its text, and what the mark stands for. Rules are TOML; those of the recipe that
//! found late cores by such marks come with the kit ([`SHIPPED`]).

use std::collections::HashMap;

use regex::Regex;
use serde::Deserialize;

use crate::text::Wanted;
use crate::{Event, Mask, Name, Names, What};

/// The rules that come with the kit.
pub const SHIPPED: &str = include_str!("marks.toml");

/// A file of rules that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// It is no TOML, or has other keys.
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    /// A rule whose pattern is none.
    #[error("rule {rule} (function `{function}`): {error}")]
    Pattern {
        /// Which one, from 1.
        rule: usize,
        /// Its function.
        function: String,
        /// What is wrong.
        error: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    rule: Vec<Lines>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lines {
    function: String,
    text: String,
    is: Meaning,
    #[serde(default)]
    reason: String,
}

/// What a mark stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Meaning {
    /// A call was put on the queue of CPU `to`, which the next `send` of this CPU is for.
    Queue,
    /// An IPI is sent: to CPU `to`, to the mask `mask`, or to all that were queued since this CPU's last one.
    Send,
    /// The handler began.
    Entry,
    /// It ended.
    Exit,
}

struct Rule {
    function: Box<[u8]>,
    text: Regex,
    meaning: Meaning,
    reason: Box<str>,
}

/// Rules, and what is queued while a trace is read by them.
pub struct Rules {
    rules: Vec<Rule>,
    /// Whom each CPU's next send goes to.
    queued: HashMap<u16, Mask>,
    /// How often each rule told something.
    used: Vec<u64>,
}

impl Wanted for Rules {
    fn wants(&self, function: &[u8]) -> bool {
        self.rules.iter().any(|rule| *rule.function == *function)
    }
}

impl Rules {
    /// Reads rules. Those of an earlier text come first; the first that fits a mark tells what it is.
    ///
    /// # Errors
    ///
    /// [`RulesError`], with the line or the rule.
    pub fn parse(texts: &[&str]) -> Result<Rules, RulesError> {
        let mut rules = Vec::new();
        for text in texts {
            for (at, lines) in toml::from_str::<File>(text)?.rule.into_iter().enumerate() {
                let bad = |error: String| RulesError::Pattern { rule: at + 1, function: lines.function.clone(), error };
                let pattern = Regex::new(&lines.text).map_err(|error| bad(error.to_string()))?;
                let has = |group: &str| pattern.capture_names().flatten().any(|name| name == group);
                if lines.is == Meaning::Queue && !has("to") {
                    return Err(bad("a queue needs a group `to`, the CPU: write `(?<to>\\d+)`".into()));
                }
                if matches!(lines.is, Meaning::Send | Meaning::Entry | Meaning::Exit)
                    && lines.reason.is_empty()
                    && !has("reason")
                {
                    return Err(bad("it needs a `reason`, or a group of that name: which IPI it is".into()));
                }
                rules.push(Rule {
                    function: lines.function.into_bytes().into(),
                    text: pattern,
                    meaning: lines.is,
                    reason: lines.reason.into(),
                });
            }
        }
        let used = vec![0; rules.len()];
        Ok(Rules { rules, queued: HashMap::new(), used })
    }

    /// What a mark is, in place of [`What::Mark`]; other events as they are. `None`: a mark that no rule knows.
    pub fn meaning(&mut self, event: &Event, names: &mut Names) -> Option<Event> {
        let What::Mark { function, text, user } = event.what else { return Some(*event) };
        let name = if user { "tracing_mark_write" } else { names.text(function) };
        let (at, what) = self.rules.iter().enumerate().find_map(|(at, rule)| {
            if *rule.function != *name.as_bytes() {
                return None;
            }
            let groups = rule.text.captures(names.text(text))?;
            let group = |name: &str| groups.name(name).map(|it| it.as_str().to_owned());
            Some((
                at,
                (rule.meaning, group("to"), group("mask"), group("reason").unwrap_or_else(|| rule.reason.to_string())),
            ))
        })?;
        let (meaning, to, mask, reason) = what;
        let to = to.and_then(|to| to.parse::<u32>().ok()).and_then(|cpu| Some((cpu, Mask::of(cpu)?)));
        let reason = names.add(reason.as_bytes());
        let what = match meaning {
            Meaning::Queue => {
                let (cpu, _) = to?;
                self.queued.entry(event.cpu).or_default().insert(cpu);
                What::Queue { cpu: cpu as u16, callsite: function, function: Name::NONE, csd: 0 }
            }
            Meaning::Send => {
                let queued = self.queued.remove(&event.cpu).filter(|_| to.is_none() && mask.is_none());
                let targets = match (to, mask) {
                    (Some((_, one)), _) => one,
                    (None, Some(mask)) => Mask::parse(mask.as_bytes())?,
                    (None, None) => queued?,
                };
                What::Raise { targets, reason }
            }
            Meaning::Entry => What::Entry { reason },
            Meaning::Exit => What::Exit { reason },
        };
        self.used[at] += 1;
        Some(Event { what, ..*event })
    }

    /// How many marks told something.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    /// An excerpt in the manner of the recipe, with its other spelling.
    const RECIPE: &str = "\
 <...>-822   [004] ...2    41.459370: smp_call_function_many: IPI is queued for target cpu : 1
           <...>-822   [004] ...2    41.459372: smp_call_function_many: IPI target cpu : 7
           <...>-822   [004] ...2    41.459374: smp_call_function_many: IPI sent to 2 cpus
 Ril Proxy Main -1250  [001] d.h.    41.459378: handle_IPI: + IPI_CALL_FUNC
           <...>-9     [007] d.h1    41.459379: handle_IPI: ++ IPI_CALL_FUNC ++
           <...>-9     [007] d.h1    41.459380: handle_IPI: -- IPI_CALL_FUNC --
 Ril Proxy Main -1250  [001] d.h.    41.459382: handle_IPI: - IPI_CALL_FUNC
           <...>-9     [007] d.h1    41.459383: handle_IPI: something else
";

    #[test]
    fn the_recipes_marks_are_queues_sends_and_handlers() {
        let (mut names, mut events) = (Names::new(), Vec::new());
        let mut rules = Rules::parse(&[SHIPPED]).unwrap();
        let keep = |event: &Event, _: &mut Names| -> Result<(), std::convert::Infallible> {
            events.push(*event);
            Ok(())
        };
        let (_, tally) = text::read(RECIPE.as_bytes(), &rules, &mut names, keep).unwrap();
        assert_eq!((tally.events, tally.unknown), (8, 0), "{tally:?}");
        let events: Vec<Event> = events.iter().filter_map(|event| rules.meaning(event, &mut names)).collect();
        let call = names.add(b"Function call interrupts");
        let mut told = events.iter().map(|event| (event.cpu, event.t / 1000, event.what));
        assert!(matches!(told.next(), Some((4, 41_459_370, What::Queue { cpu: 1, .. }))));
        assert!(matches!(told.next(), Some((4, 41_459_372, What::Queue { cpu: 7, .. }))));
        let Some((4, 41_459_374, What::Raise { targets, reason })) = told.next() else { panic!("no send") };
        assert_eq!((targets.to_string(), reason), ("1,7".into(), call));
        let handlers = [
            (1, 41_459_378, What::Entry { reason: call }),
            (7, 41_459_379, What::Entry { reason: call }),
            (7, 41_459_380, What::Exit { reason: call }),
            (1, 41_459_382, What::Exit { reason: call }),
        ];
        assert_eq!(told.collect::<Vec<_>>(), handlers);
        assert_eq!(rules.used(), 7);
    }

    #[test]
    fn marks_that_were_pasted_from_a_page_read_the_same() {
        let pasted = RECIPE.replace("  ", "\u{A0} ");
        let mut rules = Rules::parse(&[SHIPPED]).unwrap();
        let (mut names, mut told) = (Names::new(), 0);
        let wanted = Rules::parse(&[SHIPPED]).unwrap();
        let keep = |event: &Event, names: &mut Names| -> Result<(), std::convert::Infallible> {
            told += u64::from(rules.meaning(event, names).is_some());
            Ok(())
        };
        let (_, tally) = text::read(pasted.as_bytes(), &wanted, &mut names, keep).unwrap();
        assert_eq!((told, tally.unknown), (7, 0), "{tally:?}");
    }

    #[test]
    fn a_rule_that_can_tell_nothing_is_refused_with_what_it_lacks() {
        for (rule, words) in [
            ("function = \"f\"\ntext = \"(\"\nis = \"send\"\nreason = \"r\"", "unclosed group"),
            ("function = \"f\"\ntext = \"x\"\nis = \"queue\"", "group `to`"),
            ("function = \"f\"\ntext = \"x\"\nis = \"entry\"", "`reason`"),
            ("function = \"f\"\ntext = \"x\"\nis = \"answer\"", "unknown variant `answer`"),
            ("function = \"f\"\nwords = \"x\"\nis = \"send\"", "unknown field `words`"),
        ] {
            let error = Rules::parse(&[&format!("[[rule]]\n{rule}\n")]).err().expect("refused").to_string();
            assert!(error.contains(words), "expected {words:?} in {error}");
        }
    }
}
