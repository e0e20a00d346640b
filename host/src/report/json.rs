//! The report as JSON.

use serde_json::{Value, json};

use super::{Report, SCHEMA};

impl Report {
    /// The report as JSON.
    pub fn json(&self) -> Value {
        // Plain data with text keys: it can't fail, and a report that did would still name its schema and verdict.
        serde_json::to_value(self).unwrap_or_else(|_| json!({ "schema": SCHEMA, "verdict": self.verdict.name() }))
    }
}

/// The report of a run that left no capture: what `--json` writes then. `ended` is null where nothing was started.
pub fn error_report(kind: &str, message: &str, next_step: &str) -> Value {
    let ended = match kind {
        "interrupted" | "deadline" => Some(kind),
        "target" => Some("target_died"),
        _ => None,
    };
    json!({
        "schema": SCHEMA,
        "verdict": "incomplete",
        "ended": ended,
        "error": { "kind": kind, "message": message, "next_step": next_step },
    })
}
