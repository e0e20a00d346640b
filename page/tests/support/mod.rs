//! What the tests of the page share: reports that are made up here, one of a real run, and a browser.

#![allow(dead_code, reason = "no test needs all of it")]

pub mod chromium;

use report_page::{Arrow, Trail, TrailEvent};
use serde_json::{Value, json};

/// A run of the self-test's plan on eight emulated cores, time counting instructions, with core 3 made 4 us late (`late:3:4000`), as
/// `ipiscope report --json` tells it; of its five phases two are kept, and QEMU's arguments are not.
pub fn late() -> Value {
    serde_json::from_str(include_str!("../data/late.json")).expect("JSON")
}

/// What a pair of [`machine`] takes, ns: more over clusters of eight, core 5 as receiver late.
pub fn median(from: usize, to: usize) -> f64 {
    let far = if from / 8 == to / 8 { 180.0 } else { 420.0 };
    far + ((from * 31 + to * 17) % 53) as f64 + if to == 5 { 9000.0 } else { 0.0 }
}

/// A report of a machine of clusters of eight cores, every pair measured, with different figures in all of them.
pub fn machine(cores: usize) -> Value {
    let latency = |p50: f64, n: u64| {
        json!({
            "n": n, "min_ns": p50 - 21.0, "p50_ns": p50, "p90_ns": p50 + 64.0, "p99_ns": p50 * 2.0 + 7.0, "p999_ns": null,
            "max_ns": p50 * 11.0 + 3.0, "mean_ns": p50 + 11.5, "mean_ci_ns": 2.5,
        })
    };
    let with = |mut figures: Value, more: Value| {
        let (Some(figures_map), Some(more)) = (figures.as_object_mut(), more.as_object()) else { return figures };
        figures_map.extend(more.clone());
        figures
    };
    // As the host bounds them: a large machine's report has those of its latest pairs alone.
    let steps =
        |p50: f64, n: u64| (1..=5).map(|step| json!([p50 * f64::from(step), n * step as u64 / 5])).collect::<Value>();
    let with_cdf = |row: Value, p50: f64, n: u64, is_kept: bool| {
        if is_kept { with(row, json!({ "cdf": steps(p50, n) })) } else { row }
    };
    let mut pairs = Vec::new();
    for from in 0..cores {
        for to in (0..cores).filter(|to| *to != from) {
            let more = json!({
                "from": from, "to": to, "kind": "sgi0", "delivery": "irq", "state": "wfi", "level": "ipi", "phase": "matrix",
                "exact": true, "sent": 1000, "delivered": 1000, "coalesced": 0, "lost": u64::from((from, to) == (1, 2)),
                "misrouted": 0, "in_flight": 0, "unknown": 0, "stolen": 0, "doubtful": 0, "recovered": 0, "backwards": 0,
            });
            let row = with(latency(median(from, to), 1000), more);
            pairs.push(with_cdf(row, median(from, to), 1000, pairs.len() < 10_000));
        }
    }
    let of_core = |core: usize, role: &str| {
        let p50 = if core == 5 && role == "receiver" { 9400.0 } else { 400.0 + core as f64 };
        let more = json!({ "core": core, "role": role, "kind": "sgi0", "state": "wfi", "lost": 0 });
        let n = 1000 * (cores as u64 - 1);
        with_cdf(with(latency(p50, n), more), p50, n, true)
    };
    let points = |core: usize| -> Value {
        let point = |piece: usize| {
            let mean = 400.0 + ((core * 7 + piece * 13) % 91) as f64 / 3.0;
            json!({ "n": 100, "mean_ns": mean, "min_ns": mean - 90.0, "max_ns": mean * 9.0 })
        };
        (0..120).map(|piece| if piece % 10 == 9 { Value::Null } else { point(piece) }).collect()
    };
    let each = |make: &dyn Fn(usize) -> Value| -> Value { (0..cores).map(make).collect() };
    let all = (cores * (cores - 1)) as u64;
    json!({
        "schema": "ipiscope.report/1",
        "verdict": "suspect", "verdict_scope": "silicon", "ended": "complete", "error": null,
        "target": {
            "source": "made", "machine": "made-up", "board": "made", "cpu": "", "accel": "", "core_count": cores, "cores_up": cores,
            "counter_hz": 1_000_000_000, "resolution_ns": 1.0, "tags": { "rack": "7" },
            "cores": each(&|core| json!({
                "id": core, "mpidr": format!("{:#x}", ((core / 8) << 8) | (core % 8)), "midr": "0x410fd4f0", "revidr": "0x0",
                "class": "made", "cluster": core / 8, "up": true, "nmi": "none", "error": null,
                "gicr_iidr": "0x43b", "gicr_typer": "0x1000001", "suspend": null,
            })),
            "gic": { "iidr": "0x43b", "typer": "0x37a0208", "pidr2": "0x3b", "version": 3 },
        },
        "clock": {
            "trusted": true, "tested": true,
            "cores": each(&|core| json!({
                "core": core, "cntfrq": 1_000_000_000, "read_cost_ticks": 7, "read_cost_max_ticks": 37 + core, "step_ticks": 1,
                "backwards": 0, "misreads": 0, "skew_before": { "low": -(core as i64), "high": 13, "round_trip": 40 },
            })),
        },
        "ipis": { "sent": all * 1000, "delivered": all * 1000 - 1, "coalesced": 0, "lost": 1, "misrouted": 0, "in_flight": 0,
            "unknown": 0, "late": 0, "duplicate": 0, "spurious": 0, "from": "target" },
        "phases": [with(latency(450.0, all * 1000), json!({ "name": "matrix", "pattern": "matrix", "state": "wfi", "timed": true,
            "rounds": 1, "sent": all * 1000, "delivered": all * 1000 - 1, "lost": 1, "elapsed_ns": 9.5e9, "ipis_per_second": 27_540_000.0 }))],
        "pairs": pairs,
        "distributions": [with(latency(450.0, all), json!({ "kind": "sgi0", "state": "wfi", "distance": null,
            "cdf": (0..40).map(|step| json!([180.0 * 1.12_f64.powi(step), (step as u64 + 1) * all / 40])).collect::<Vec<_>>() }))],
        "core_figures": (["sender", "receiver"].iter().flat_map(|role| (0..cores).map(move |core| of_core(core, role))).collect::<Value>()),
        "series": each(&|core| json!({ "core": core, "start_ns": -840.0, "piece_ns": 65536.0, "points": points(core) })),
        "stages": (["send_to_entry", "entry_to_acknowledge", "acknowledge_to_end"].iter().flat_map(|stage| (0..cores).map(move |core| {
            with(latency(40.0 + (core * 3 + stage.len()) as f64, 900), json!({ "stage": stage, "kind": "sgi", "core": core }))
        })).collect::<Value>()),
        "queue_depth": each(&|core| json!({ "core": core, "kind": "call_function", "max": core % 4 + 1, "max_at_ns": 4e6, "mean": 0.1,
            "series": (0..100).map(|step| json!([step as f64 * 1e6, (step + core) % (core % 4 + 2)])).collect::<Vec<_>>() })),
        "lanes": each(&|core| json!({ "core": core, "context": "thread", "written": 2000, "accepted": 2000, "lapped": 0, "torn": 0,
            "dropped": 0, "missing": 0 })),
        "suspects": [{ "core": 5, "role": "receiver", "from": null, "to": null, "detector": "late",
            "evidence": "IPIs to core 5 take 9.4 us where like pairs take 450 ns", "effect_ns": 9000.0, "q_value": 1e-9 }],
        "advisories": [], "notes": ["made up for the tests"],
        "plan": { "name": "matrix", "source": "name = \"matrix\"", "cores": cores, "level": "ipi" },
        "build": { "reporter": "0.1.0" },
    })
}

/// A trail: core 2 calls core 5 while that is busy.
pub fn trail() -> Trail {
    let event = |t_ns, core, what: &str| TrailEvent { t_ns, core, what: what.into(), detail: None };
    Trail {
        title: "The slowest IPI: 2 to 5".into(),
        cores: vec![2, 5, 6],
        events: vec![
            event(1000.0, 2, "call queued"),
            event(1400.0, 2, "send"),
            TrailEvent { detail: Some("INTID 1".into()), ..event(1100.0, 5, "acknowledge") },
            event(3100.0, 5, "callback begins"),
            event(8200.0, 5, "callback ends"),
            event(8400.0, 5, "end of interrupt"),
            event(8900.0, 5, "acknowledge"),
            event(700.0, 6, "send"),
        ],
        arrows: vec![
            Arrow { from_t: 700.0, from_core: 6, to_t: 1050.0, to_core: 5, latency: Some(350.0) },
            Arrow { from_t: 1400.0, from_core: 2, to_t: 8850.0, to_core: 5, latency: Some(7450.0) },
        ],
    }
}
