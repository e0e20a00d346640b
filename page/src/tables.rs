//! Which tables the page has, and what stands in their columns: the fields of `ipiscope.report/1` by name.

use serde_json::{Value, json};

use crate::table::{Column, Kind, LATENCY, OUTCOMES, Table, at, column, list};

/// A table as it is described.
struct Description {
    id: &'static str,
    title: &'static str,
    about: &'static str,
    /// The list in the report; empty: [`Made`] has the rows.
    rows: &'static str,
    columns: &'static [&'static [Column]],
    sort: &'static [&'static str],
}

const PAIR: &[Column] = &[
    column("from", "from", Kind::Core),
    column("to", "to", Kind::Core),
    column("kind", "kind", Kind::Text),
    column("delivery", "came as", Kind::Text),
    column("state", "state", Kind::Text),
    column("phase", "phase", Kind::Text),
];

const JUDGED: &[Column] = &[
    Column { path: "exact", label: "exact", kind: Kind::Flag, drop: 3 },
    Column { path: "stolen", label: "stolen", kind: Kind::Count, drop: 3 },
    Column { path: "doubtful", label: "doubtful", kind: Kind::Count, drop: 3 },
    Column { path: "recovered", label: "recovered", kind: Kind::Count, drop: 3 },
    Column { path: "backwards", label: "backwards", kind: Kind::Count, drop: 3 },
];

const CORE: &[Column] = &[column("core", "core", Kind::Core)];
const FROM_TO: &[Column] = &[column("from", "from", Kind::Core), column("to", "to", Kind::Core)];

const TABLES: &[Description] = &[
    Description {
        id: "phases",
        title: "Phases of the plan",
        about: "",
        rows: "phases",
        columns: &[
            &[
                column("name", "phase", Kind::Text),
                column("pattern", "pattern", Kind::Text),
                column("state", "state", Kind::Text),
                column("timed", "timed", Kind::Flag),
                column("rounds", "rounds", Kind::Count),
                column("elapsed_ns", "took", Kind::Length),
                column("ipis_per_second", "IPIs/s", Kind::Rate),
            ],
            LATENCY,
            OUTCOMES,
        ],
        sort: &[],
    },
    Description {
        id: "pairs",
        title: "Pairs of sender and receiver",
        about: "",
        rows: "pairs",
        columns: &[PAIR, LATENCY, OUTCOMES, JUDGED],
        sort: &["p50_ns", "mean_ns", "max_ns"],
    },
    Description {
        id: "core-figures",
        title: "Cores as senders and receivers",
        about: "",
        rows: "core_figures",
        columns: &[
            CORE,
            &[
                column("role", "role", Kind::Text),
                column("kind", "kind", Kind::Text),
                column("state", "state", Kind::Text),
            ],
            LATENCY,
            &[column("lost", "lost", Kind::Count)],
        ],
        sort: &["p50_ns", "mean_ns", "max_ns"],
    },
    Description {
        id: "kinds",
        title: "IPI kinds",
        about: "",
        rows: "kinds",
        columns: &[&[column("kind", "kind", Kind::Text), column("delivery", "came as", Kind::Text)], LATENCY, OUTCOMES],
        sort: &[],
    },
    Description {
        id: "distributions",
        title: "Latencies by kind, receiver state and distance",
        about: "Distance is the highest affinity level that differs; 0 is a core to itself, none is all together.",
        rows: "distributions",
        columns: &[
            &[
                column("kind", "kind", Kind::Text),
                column("state", "state", Kind::Text),
                column("distance", "distance", Kind::Count),
            ],
            LATENCY,
        ],
        sort: &[],
    },
    Description {
        id: "stages",
        title: "Stages of interrupts and calls",
        about: "",
        rows: "stages",
        columns: &[&[column("kind", "kind", Kind::Text), column("stage", "stage", Kind::Text)], CORE, LATENCY],
        sort: &[],
    },
    Description {
        id: "slowest-calls",
        title: "Calls that waited longest",
        about: "",
        rows: "calls/slowest",
        columns: &[&[
            column("caller", "caller", Kind::Core),
            column("target", "target", Kind::Core),
            column("kind", "queue", Kind::Text),
            column("symbol", "function", Kind::Text),
            column("function", "address", Kind::Text),
            column("call_site", "called from", Kind::Text),
            column("synchronous", "waited for", Kind::Flag),
            column("sent", "own SGI", Kind::Flag),
            column("queued_at_ns", "queued at", Kind::Time),
            column("queue_to_callback_ns", "queue to callback", Kind::Length),
            column("callback_ns", "callback", Kind::Length),
        ]],
        sort: &["queue_to_callback_ns"],
    },
    Description {
        id: "call-waits",
        title: "Callers that waited for descriptors",
        about: "",
        rows: "calls/waits",
        columns: &[&[
            column("caller", "caller", Kind::Core),
            column("target", "target", Kind::Core),
            column("count", "times", Kind::Count),
            column("longest_ns", "longest", Kind::Length),
        ]],
        sort: &["longest_ns"],
    },
    Description {
        id: "callbacks",
        title: "Callbacks",
        about: "How long functions took, by core.",
        rows: "callbacks",
        columns: &[
            &[column("symbol", "function", Kind::Text), column("function", "address", Kind::Text)],
            CORE,
            LATENCY,
        ],
        sort: &[],
    },
    Description {
        id: "queue-depth",
        title: "Queues",
        about: "What stood on the queues of each core.",
        rows: "queue_depth",
        columns: &[
            CORE,
            &[
                column("kind", "queue", Kind::Text),
                column("max", "most", Kind::Count),
                column("max_at_ns", "first at", Kind::Time),
                column("mean", "mean", Kind::Number),
            ],
        ],
        sort: &[],
    },
    Description {
        id: "linux-paths",
        title: "Linux: senders, receivers, reasons and callbacks",
        about: "",
        rows: "linux/paths",
        columns: &[
            FROM_TO,
            &[column("reason", "reason", Kind::Text), column("callback", "callback", Kind::Text)],
            LATENCY,
        ],
        sort: &["max_ns"],
    },
    Description {
        id: "linux-call-sites",
        title: "Linux: who sends, and from where",
        about: "",
        rows: "linux/call_sites",
        columns: &[&[
            column("from", "core", Kind::Core),
            column("sent", "IPIs", Kind::Count),
            column("reason", "for", Kind::Text),
            column("call_site", "from", Kind::Text),
        ]],
        sort: &["sent"],
    },
    Description {
        id: "linux-unanswered",
        title: "Linux: IPIs that had no answer when the trace ends",
        about: "",
        rows: "linux/unanswered",
        columns: &[
            FROM_TO,
            &[
                column("reason", "reason", Kind::Text),
                column("sent_at_ns", "sent at", Kind::Time),
                column("age_ns", "age", Kind::Time),
            ],
        ],
        sort: &["age_ns"],
    },
    Description {
        id: "sweeps",
        title: "Sends timed against a transition of their receiver",
        about: "The offset is the time from the planned transition to the send.",
        rows: "",
        columns: &[
            FROM_TO,
            &[
                column("transition", "transition", Kind::Text),
                column("offset_ns", "offset", Kind::Time),
                column("sent", "sent", Kind::Count),
                column("timed", "timed", Kind::Count),
                column("min_ns", "min", Kind::Length),
                column("max_ns", "max", Kind::Length),
                column("given_up", "given up", Kind::Count),
            ],
        ],
        sort: &["max_ns"],
    },
    Description {
        id: "limits",
        title: "Limits",
        about: "",
        rows: "",
        columns: &[&[
            column("rule", "rule", Kind::Text),
            column("select", "of", Kind::Text),
            column("bound", "bound", Kind::Text),
            column("limit", "limit", Kind::Number),
            column("worst", "worst", Kind::Number),
            column("unit", "unit", Kind::Text),
            column("where", "where", Kind::Text),
            column("n", "n", Kind::Count),
            column("outcome", "outcome", Kind::Text),
            column("figures", "figures", Kind::Count),
            column("broken", "broken", Kind::Count),
            column("undecided", "undecided", Kind::Count),
            column("left_out", "left out", Kind::Count),
            column("message", "why", Kind::Text),
        ]],
        sort: &[],
    },
    Description {
        id: "stolen",
        title: "Time that was taken from cores",
        about: "",
        rows: "stolen/cores",
        columns: &[
            CORE,
            &[
                column("gaps", "times", Kind::Count),
                column("total_ns", "together", Kind::Length),
                column("longest_ns", "longest", Kind::Length),
                column("heartbeats", "heartbeats", Kind::Count),
                column("unrecorded", "unrecorded", Kind::Count),
            ],
        ],
        sort: &["total_ns"],
    },
    Description {
        id: "faults",
        title: "Faults on the target",
        about: "",
        rows: "faults",
        columns: &[
            CORE,
            &[
                column("kind", "what", Kind::Text),
                column("symbol", "in", Kind::Text),
                column("message", "message", Kind::Text),
                column("esr", "ESR_EL1", Kind::Text),
                column("elr", "ELR_EL1", Kind::Text),
                column("far", "FAR_EL1", Kind::Text),
                column("spsr", "SPSR_EL1", Kind::Text),
                column("sp", "SP", Kind::Text),
                column("registers", "x0 to x30", Kind::Text),
            ],
        ],
        sort: &[],
    },
    Description {
        id: "crash-stops",
        title: "Cores that a crash stop parked",
        about: "",
        rows: "crash_stops",
        columns: &[
            CORE,
            &[
                column("pc", "PC", Kind::Text),
                column("symbol", "in", Kind::Text),
                column("sp", "SP", Kind::Text),
                column("spsr", "SPSR_EL1", Kind::Text),
                column("registers", "x0 to x30", Kind::Text),
            ],
        ],
        sort: &[],
    },
    Description {
        id: "cores",
        title: "Cores of the target",
        about: "",
        rows: "target/cores",
        columns: &[&[
            column("id", "core", Kind::Core),
            column("class", "type", Kind::Text),
            column("cluster", "cluster", Kind::Core),
            column("up", "up", Kind::Flag),
            column("error", "why not", Kind::Text),
            column("mpidr", "MPIDR_EL1", Kind::Text),
            column("midr", "MIDR_EL1", Kind::Text),
            column("revidr", "REVIDR_EL1", Kind::Text),
            column("nmi", "NMI", Kind::Text),
            column("gicr_iidr", "GICR_IIDR", Kind::Text),
            column("gicr_typer", "GICR_TYPER", Kind::Text),
            column("suspend/state", "suspend state", Kind::Text),
            column("suspend/error", "PSCI said", Kind::Text),
        ]],
        sort: &[],
    },
    Description {
        id: "counters",
        title: "Counters of the cores",
        about: "In ticks, but for frequencies.",
        rows: "clock/cores",
        columns: &[
            CORE,
            &[
                column("cntfrq", "CNTFRQ_EL0", Kind::Count),
                column("read_cost_ticks", "read", Kind::Count),
                column("read_cost_max_ticks", "read, most", Kind::Count),
                column("step_ticks", "step", Kind::Count),
                column("backwards", "went back", Kind::Count),
                column("misreads", "misread", Kind::Count),
                column("backwards_after", "went back, after", Kind::Count),
                column("misreads_after", "misread, after", Kind::Count),
                column("skew_before/low", "skew before, from", Kind::Number),
                column("skew_before/high", "to", Kind::Number),
                column("skew_after/low", "skew after, from", Kind::Number),
                column("skew_after/high", "to", Kind::Number),
                column("cycles_per_tick_busy", "cycles a tick", Kind::Number),
                column("cycles_run_in_wfi", "cycles in WFI", Kind::Flag),
            ],
        ],
        sort: &[],
    },
    Description {
        id: "skew-pairs",
        title: "Bounds of one core's counter minus another's",
        about: "In ticks.",
        rows: "clock/skew_pairs",
        columns: &[
            CORE,
            &[
                column("other", "other", Kind::Core),
                column("low", "not less than", Kind::Number),
                column("high", "not more than", Kind::Number),
            ],
        ],
        sort: &[],
    },
    Description {
        id: "plan-phases",
        title: "What the plan has",
        about: "",
        rows: "plan/phases",
        columns: &[&[
            column("name", "phase", Kind::Text),
            column("pattern", "pattern", Kind::Text),
            column("state", "state", Kind::Text),
            column("timed", "timed", Kind::Flag),
            column("transition", "transition", Kind::Text),
            column("intid", "INTID", Kind::Core),
            column("pairs", "pairs", Kind::Count),
            column("sends", "sends", Kind::Count),
            column("dither", "dither", Kind::Count),
            column("pressure", "pressure", Kind::Flag),
        ]],
        sort: &[],
    },
    Description {
        id: "lanes",
        title: "Lanes: records written and read",
        about: "",
        rows: "lanes",
        columns: &[
            CORE,
            &[
                column("context", "written by", Kind::Text),
                column("written", "written", Kind::Count),
                column("accepted", "read", Kind::Count),
                column("lapped", "lapped", Kind::Count),
                column("torn", "torn", Kind::Count),
                column("dropped", "turned away", Kind::Count),
                column("missing", "missing", Kind::Count),
            ],
        ],
        sort: &[],
    },
    Description {
        id: "injected",
        title: "Faults that were put in",
        about: "",
        rows: "injected",
        columns: &[&[column("fault", "fault", Kind::Text), column("struck", "struck", Kind::Count)]],
        sort: &[],
    },
    Description {
        id: "linux-events",
        title: "Linux: events of the trace",
        about: "",
        rows: "",
        columns: &[&[column("event", "event", Kind::Text), column("count", "how many", Kind::Count)]],
        sort: &["count"],
    },
    Description {
        id: "linux-unannounced",
        title: "Linux: handlers that no raise of the trace explains",
        about: "",
        rows: "",
        columns: &[&[
            column("core", "core", Kind::Core),
            column("reason", "reason", Kind::Text),
            column("count", "how many", Kind::Count),
        ]],
        sort: &["count"],
    },
];

/// Rows that the report does not have as one list of objects.
pub(crate) struct Made {
    sweeps: Vec<Value>,
    limits: Vec<Value>,
    events: Vec<Value>,
    unannounced: Vec<Value>,
    trails: Vec<(String, Vec<Value>)>,
}

impl Made {
    /// Of a report and its trails.
    pub fn of(report: &Value, trails: &[crate::Trail]) -> Made {
        // A row of a nested list, with what stands around it.
        let joined = |inner: &Value, outer: &Value, keys: &[(&str, &str)]| {
            let mut row = inner.as_object().cloned().unwrap_or_default();
            for (key, name) in keys {
                row.insert((*name).into(), at(outer, key).cloned().unwrap_or_default());
            }
            row
        };
        let mut sweeps = Vec::new();
        for sweep in list(report, "sweeps") {
            let keys = [("from", "from"), ("to", "to"), ("transition", "transition")];
            sweeps.extend(list(sweep, "steps").iter().map(|step| Value::Object(joined(step, sweep, &keys))));
        }
        let mut limits = Vec::new();
        for rule in list(report, "limits/rules") {
            for bound in list(rule, "bounds") {
                let mut row = joined(bound, rule, &[("name", "rule"), ("select", "select")]);
                if let Some(subject) = at(bound, "subject") {
                    row.insert("where".into(), json!(subject_words(subject)));
                }
                limits.push(Value::Object(row));
            }
        }
        let events = list(report, "linux/events").iter();
        let unannounced = list(report, "linux/unannounced").iter();
        let trail = |trail: &crate::Trail| {
            let begin = trail.begin().unwrap_or(0.0);
            let events = trail.events.iter().map(|event| {
                json!({ "after_ns": event.t_ns - begin, "core": event.core, "what": event.what, "detail": event.detail })
            });
            (trail.title.clone(), events.collect())
        };
        Made {
            sweeps,
            limits,
            events: events.map(|row| json!({ "event": row[0], "count": row[1] })).collect(),
            unannounced: unannounced.map(|row| json!({ "core": row[0], "reason": row[1], "count": row[2] })).collect(),
            trails: trails.iter().map(trail).collect(),
        }
    }
}

/// Whose figure a limit's is.
fn subject_words(subject: &Value) -> String {
    let core = |key| at(subject, key).map(Value::to_string);
    let mut words = match (core("from"), core("to")) {
        (Some(from), Some(to)) => format!("pair {from} to {to}"),
        (Some(from), None) => format!("sender {from}"),
        (None, Some(to)) if at(subject, "stage").is_some() => format!("core {to}"),
        (None, Some(to)) => format!("receiver {to}"),
        (None, None) => "all".into(),
    };
    for key in ["kind", "stage", "state", "phase"] {
        if let Some(part) = at(subject, key).and_then(Value::as_str) {
            words.push_str(", ");
            words.push_str(part);
        }
    }
    words
}

/// All tables that have rows.
pub(crate) fn tables<'a>(report: &'a Value, made: &'a Made) -> Vec<Table<'a>> {
    let mut tables = Vec::new();
    for description in TABLES {
        let rows = match description.id {
            "sweeps" => made.sweeps.as_slice(),
            "limits" => made.limits.as_slice(),
            "linux-events" => made.events.as_slice(),
            "linux-unannounced" => made.unannounced.as_slice(),
            _ => list(report, description.rows),
        };
        if rows.is_empty() {
            continue;
        }
        let mut table = Table {
            id: description.id.into(),
            title: description.title.into(),
            about: description.about,
            columns: description.columns.concat(),
            rows: rows.iter().collect(),
            sort: description.sort,
            same: Vec::new(),
        };
        table.trim();
        tables.push(table);
    }
    for (index, (title, events)) in made.trails.iter().enumerate().filter(|(_, (_, events))| !events.is_empty()) {
        let mut table = Table {
            id: format!("trail-events-{index}"),
            title: format!("Events: {title}"),
            about: "",
            columns: vec![
                column("after_ns", "after", Kind::Time),
                column("core", "core", Kind::Core),
                column("what", "what", Kind::Text),
                column("detail", "detail", Kind::Text),
            ],
            rows: events.iter().collect(),
            sort: &[],
            same: Vec::new(),
        };
        table.trim();
        tables.push(table);
    }
    tables
}
