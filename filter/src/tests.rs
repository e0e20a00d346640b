//! The language as a whole: what is picked, what is printed, what is refused.

use proptest::prelude::*;

use crate::expr::{CpuRelation, Ends, Expr, Order, Range, Test, What};
use crate::*;

const HZ: u64 = 24_000_000;

fn ns() -> Schema {
    Schema::ipi(Clock::NsOfTicks(HZ))
}

fn filter(text: &str) -> Filter {
    Filter::parse(text, &ns()).unwrap_or_else(|error| panic!("{error}"))
}

fn id(name: &str) -> FieldId {
    ns().find(name).expect("a field")
}

/// A row as a list of what it has.
#[derive(Debug, Clone, Default)]
struct Have {
    cpus: Vec<(FieldId, Vec<u64>)>,
    numbers: Vec<(FieldId, u64)>,
    texts: Vec<(FieldId, String)>,
    flags: Vec<(FieldId, bool)>,
}

impl Have {
    fn cpu(mut self, name: &str, cpu: u32) -> Have {
        let set = CpuSet::of(cpu).expect("a CPU");
        self.cpus.push((id(name), set.words().to_vec()));
        self
    }

    fn number(mut self, name: &str, value: u64) -> Have {
        self.numbers.push((id(name), value));
        self
    }

    fn text(mut self, name: &str, value: &str) -> Have {
        self.texts.push((id(name), value.into()));
        self
    }

    fn flag(mut self, name: &str, value: bool) -> Have {
        self.flags.push((id(name), value));
        self
    }
}

fn find<T>(list: &[(FieldId, T)], field: FieldId) -> Option<&T> {
    list.iter().find(|(id, _)| *id == field).map(|(_, value)| value)
}

impl Row for Have {
    fn cpus(&self, field: FieldId) -> Cpus<'_> {
        let Some(words) = find(&self.cpus, field) else { return Cpus::Unknown };
        let cpus: Vec<u32> =
            (0..512).filter(|cpu| words[cpu / 64] >> (cpu % 64) & 1 != 0).map(|cpu| cpu as u32).collect();
        if let [cpu] = cpus[..] { Cpus::One(cpu) } else { Cpus::Set(words) }
    }
    fn number(&self, field: FieldId) -> Option<u64> {
        find(&self.numbers, field).copied()
    }
    fn text(&self, field: FieldId) -> Option<&str> {
        find(&self.texts, field).map(|text| &**text)
    }
    fn flag(&self, field: FieldId) -> Option<bool> {
        find(&self.flags, field).copied()
    }
}

#[test]
fn rows_are_picked_by_what_they_have() {
    let row = Have::default()
        .cpu("target", 4)
        .cpu("sender", 0)
        .number("latency", 12_000)
        .number("t", 1_250_000_000)
        .number("kind", 1)
        .number("state", 1)
        .number("pid", 42)
        .text("callback", "drain_local+0x0/0x48 [mm]")
        .text("reason", "Function call interrupts")
        .flag("late", true)
        .flag("lost", false);
    for (text, picked) in [
        ("target & CPUS{0-3,7}", false),
        ("target & CPUS{0-3,4}", true),
        ("target == CPUS{4}", true),
        ("target == 4", true),
        ("dst == 4 && TO == 4", true),
        ("target != 4", false),
        ("target == CPUS{4,5}", false),
        ("target in CPUS{4,5}", true),
        ("sender < 1", true),
        ("sender >= 1", false),
        ("sender & CPUS{0-31:2/8}", true),
        ("target & CPUS{0-31:2/8}", false),
        ("kind == call_function", true),
        ("kind == Call-Function", true),
        ("kind ~ \"CALL*\"", true),
        ("kind !~ call*", false),
        ("state in {wfi, wfe}", true),
        ("state in {spin}", false),
        ("callback ~ \"drain*\"", true),
        ("callback == drain_local", true),
        ("callback == drain_local+0x0/0x48", false),
        ("callback in {a, drain_local}", true),
        ("callback ~ *mm]", false),
        ("callback !~ drain?local", false),
        ("reason == 'Function call interrupts'", true),
        ("latency > 10us", true),
        ("latency > 12us", false),
        ("latency >= 12us", true),
        ("latency == 0.012ms", true),
        ("latency == 288tk", true),
        ("latency < 289tk", true),
        ("latency in 10us..12us", false),
        ("latency in 10us..=12us", true),
        ("latency in ..12us", false),
        ("latency in 12us..", true),
        ("latency in {1us, 12us}", true),
        ("t in 1.2s..1.3s", true),
        ("pair == 0->4", true),
        ("pair == *->CPUS{4-7}", true),
        ("pair != 0->4", false),
        ("pair in {1->4, 0->*}", true),
        ("pid & 2", true),
        ("pid & 0x1", false),
        ("late", true),
        ("lost", false),
        ("!lost && late == true", true),
        ("lost == false", true),
        ("!target == 5", true),
        ("lost && late || target == 4", true),
        ("lost && (late || target == 4)", false),
    ] {
        assert_eq!(filter(text).picks(&row), picked, "{text}");
        if !text.starts_with("!") {
            assert_eq!(filter(&format!("!({text})")).picks(&row), !picked, "!({text})");
        }
    }
}

#[test]
fn what_a_row_does_not_have_is_unknown_and_so_is_its_opposite() {
    let row = Have::default().cpu("target", 4);
    for text in [
        "latency > 1us",
        "latency != 1us",
        "latency in {1us}",
        "callback ~ *",
        "kind != stop",
        "late",
        "sender == 0",
        "pair == 0->4",
        "latency > 1us && target == 4",
    ] {
        assert!(!filter(text).picks(&row), "{text}");
        assert!(!filter(&format!("!({text})")).picks(&row), "!({text})");
    }
    assert!(filter("pair == *->4").picks(&row), "who sent it need not be known");
    assert!(filter("!(pair == 0->5)").picks(&row), "the receiver alone tells");
    assert!(filter("latency > 1us || target == 4").picks(&row));
    assert!(filter("!(latency > 1us && target == 5)").picks(&row), "false of the one is enough");
}

#[test]
fn sets_of_targets_meet_equal_and_lie_within() {
    let mut row = Have::default();
    row.cpus.push((id("target"), vec![0b1110, 0, 0, 0, 0, 0, 0, 0]));
    for (text, picked) in [
        ("target & 2", true),
        ("target & 0", false),
        ("target == CPUS{1-3}", true),
        ("target == CPUS{1-4}", false),
        ("target in CPUS{1-4}", true),
        ("target in CPUS{1-2}", false),
        ("target == 2", false),
    ] {
        assert_eq!(filter(text).picks(&row), picked, "{text}");
    }
}

#[test]
fn nanoseconds_are_compared_with_ticks_exactly() {
    // A tick of 24 MHz is 41 2/3 ns.
    let schema = Schema::ipi(Clock::Ticks(HZ));
    for (text, first, last) in [
        ("latency > 125ns", 4, u64::MAX),
        ("latency >= 125ns", 3, u64::MAX),
        ("latency > 124ns", 3, u64::MAX),
        ("latency >= 126ns", 4, u64::MAX),
        ("latency < 125ns", 0, 2),
        ("latency <= 125ns", 0, 3),
        ("latency < 126ns", 0, 3),
        ("latency == 125ns", 3, 3),
        ("latency in 42ns..125ns", 2, 2),
        ("latency > 5tk", 6, u64::MAX),
        ("latency >= 18446744073709551615tk", u64::MAX, u64::MAX),
    ] {
        let filter = Filter::parse(text, &schema).expect(text);
        let picks = |ticks| filter.picks(&Have::default().number("latency", ticks));
        assert!(picks(first) && picks(last), "{text}");
        assert!(first == 0 || !picks(first - 1), "{text}");
        assert!(last == u64::MAX || !picks(last + 1), "{text}");
    }
    let never = Filter::parse("latency == 124ns || latency > 18446744073709551615tk", &schema).expect("a filter");
    assert!((0..10).chain([u64::MAX]).all(|ticks| !never.picks(&Have::default().number("latency", ticks))));
}

#[test]
fn percentiles_are_unknown_until_they_are_told() {
    let mut filter = filter("latency > p99.9 && !(latency > p99.99) || pid == p50 || latency > p99.9");
    assert_eq!(
        filter.percentiles(),
        [("latency", 99.9), ("latency", 99.99), ("pid", 50.0)]
            .map(|(name, percent)| Percentile { field: id(name), percent })
    );
    let row = |ns| Have::default().number("latency", ns);
    assert!(!filter.picks(&row(5_000)));
    filter.resolve(|asked| (asked.field == id("latency")).then_some(if asked.percent == 99.9 { 4_000 } else { 6_000 }));
    assert!(filter.picks(&row(5_000)) && !filter.picks(&row(4_000)));
    assert!(!filter.picks(&Have::default().number("pid", 1)), "nobody told this one");
}

#[test]
fn neighbours_are_of_the_whole_filter_only() {
    assert_eq!(filter("latency > 1us").neighbours(), None);
    assert_eq!(filter("around(latency > 1us, 20)").neighbours(), Some(Around::Rows(20)));
    assert_eq!(filter(" AROUND (late, 50us) ").neighbours(), Some(Around::Within(Amount::Ns(50_000))));
    assert!(filter("around(late, 1)").picks(&Have::default().flag("late", true)));
    for text in
        ["!around(late, 20)", "late && around(late, 2)", "around(late, 2) && late", "around(around(late, 1), 2)"]
    {
        assert!(Filter::parse(text, &ns()).is_err(), "{text}");
    }
}

#[test]
fn a_filter_prints_one_way() {
    for (text, canonical) in [
        ("dst&CPUS{3,0-2}", "target & CPUS{0-3}"),
        ("target==cpus{4}", "target == 4"),
        ("((late)&&(lost))&&stolen", "late && lost && stolen"),
        ("late || (lost && stolen)", "late || lost && stolen"),
        ("(late || lost) && stolen", "(late || lost) && stolen"),
        ("!(late)", "!late"),
        ("!target == 4", "!(target == 4)"),
        ("late == false", "!late"),
        ("latency>1500ns", "latency > 1.5us"),
        ("latency > 1_000us", "latency > 1ms"),
        ("func~drain*", "callback ~ \"drain*\""),
        ("callback == 'a\"b\\\\'", "callback == \"a\\\"b\\\\\""),
        ("state in {WFI,wfe}", "state in {wfi, wfe}"),
        ("pair==*->CPUS{4-7}", "pair == *->CPUS{4-7}"),
        ("around( late , 0.05ms )", "around(late, 50us)"),
        ("pid == 0x10", "pid == 16"),
    ] {
        assert_eq!(filter(text).to_string(), canonical, "{text}");
    }
}

#[test]
fn a_mistake_is_told_at_its_place() {
    for (text, column, words) in [
        ("", 0, vec!["a filter is expected"]),
        ("target & CPUS{0-3,x}", 18, vec!["a CPU's number is expected here, `x` is none"]),
        ("target & CPUS{", 14, vec!["the filter ends"]),
        ("target & CPUS{}", 14, vec!["`}` is none"]),
        ("target & CPUS{3-1}", 14, vec!["ascends"]),
        ("target & CPUS{512}", 14, vec!["0 to 511"]),
        ("target & CPUS{0-8:3/2}", 14, vec!["group"]),
        ("tarket == 4", 0, vec!["`tarket` is none", "possible: target,"]),
        ("latncy > 1us", 0, vec!["possible: latency,"]),
        ("wfi", 0, vec!["possible: state == wfi,"]),
        ("target", 6, vec!["a comparison is expected here, `target` is a set of CPUs", "possible: &, ==, !=, in"]),
        ("target > 4", 7, vec!["a set of CPUs, which has no `>`"]),
        ("target == 10us", 10, vec!["`10us` is none"]),
        ("latency > 10", 10, vec!["a unit is expected", "possible: 10ns, 10us"]),
        ("latency > 10min", 12, vec!["`min` is none", "ms"]),
        ("latency > CPUS{3}", 10, vec!["a duration is expected here, `CPUS` is none"]),
        ("latency > 1.5ns", 10, vec!["whole nanoseconds"]),
        ("latency > 99999999999s", 10, vec!["2^64"]),
        ("latency > p101", 10, vec!["p0 to p100"]),
        ("t > p50", 4, vec!["of durations and numbers only"]),
        ("latency ~ x", 8, vec!["which has no `~`"]),
        ("latency in 2us..1us", 11, vec!["ascends"]),
        ("latency in 2us", 14, vec!["`..` is expected"]),
        ("latency in ..", 11, vec!["an end of the range"]),
        ("kind == cal_function", 8, vec!["a word of `kind`", "possible: call_function,"]),
        ("kind ~ zzz", 7, vec!["no `kind` is like this"]),
        ("callback == \"x", 12, vec!["at its end too"]),
        ("callback ==", 11, vec!["the filter ends"]),
        ("pid == 1us", 7, vec!["no unit of time"]),
        ("pid & 0", 6, vec!["a bit set"]),
        ("pair == 0", 9, vec!["`->` is expected"]),
        ("pair == *->*", 8, vec!["every pair"]),
        ("late and lost", 5, vec!["`and` is none", "possible: &&"]),
        ("not late", 0, vec!["possible: !"]),
        ("late == maybe", 8, vec!["`true` or `false`"]),
        ("late > 3", 5, vec!["stands alone"]),
        ("(late", 5, vec!["`)` is expected"]),
        ("late)", 4, vec!["no `(` is open"]),
        ("around(late)", 11, vec!["how far the neighbours reach"]),
        ("around(late, 0)", 13, vec!["more than nothing"]),
        ("around(late, x)", 13, vec!["how far", "`x` is none", "possible: 20, 50us"]),
        ("around(late, p50)", 13, vec!["of durations and numbers only"]),
        ("around(late, 1048577)", 13, vec!["at most 1048576 rows"]),
        ("late && around(late, 3)", 8, vec!["the whole filter or none of it"]),
        ("pid == 1.5", 7, vec!["a whole number"]),
    ] {
        let error = Filter::parse(text, &ns()).expect_err(text);
        assert_eq!(error.column, column, "{error}");
        let shown = error.to_string();
        for word in words {
            assert!(shown.contains(word), "{word}:\n{shown}");
        }
    }
    let error = Filter::parse("latency > 5tk", &Schema::ipi(Clock::Ns)).expect_err("no counter");
    assert!(error.to_string().contains("no counter"), "{error}");
}

#[test]
fn depth_and_length_are_bounded() {
    for text in
        ["(".repeat(100_000), "!".repeat(100_000), "(".repeat(4_000), "!".repeat(4_000), "late||".repeat(100_000)]
    {
        let error = Filter::parse(&text, &ns()).expect_err("too much");
        assert!(error.to_string().len() < 1_000 && error.text.len() <= LONGEST, "{error}");
    }
    let deepest = format!("{}late{}", "(".repeat(MOST_DEPTH), ")".repeat(MOST_DEPTH));
    assert_eq!(filter(&deepest).to_string(), "late");
    assert!(Filter::parse(&format!("({deepest})"), &ns()).is_err());
    let long = vec!["late"; 500].join(" && ");
    assert!(filter(&long).picks(&Have::default().flag("late", true)));
}

#[test]
fn the_tree_is_explained() {
    assert_eq!(
        filter("around(target & CPUS{0-3,7} && !(latency > 10us || lost), 20)").explain(),
        "\
picks what this is true of, and 20 rows before and after:
  all of
    target (to whom it was sent) has one or more of CPUs 0-3,7
    not
      any of
        latency (from the send to the handler's entry) is above 10us
        lost (nobody acknowledged it) is so
A comparison of what a row does not have is unknown, and so is its opposite: neither picks the row.
"
    );
}

#[test]
fn the_kernel_is_asked_for_what_it_knows() {
    let lines = |text: &str| -> Vec<(&'static str, String)> {
        let lines = filter(text).kernel().unwrap_or_else(|error| panic!("{text}: {error}"));
        lines.into_iter().map(|line| (line.event, line.expression)).collect()
    };
    let all = |cpu: &str, mask: &str, raise: &str| -> Vec<(&'static str, String)> {
        [("ipi_send_cpu", cpu), ("ipi_send_cpumask", mask), ("ipi_raise", raise)]
            .into_iter()
            .filter(|(_, text)| !text.is_empty())
            .map(|(event, text)| (event, text.into()))
            .collect()
    };
    for (text, cpu, mask, raise) in [
        ("target & CPUS{0-3,7}", "cpu & CPUS{0-3,7}", "cpumask & CPUS{0-3,7}", "target_cpus & CPUS{0-3,7}"),
        ("target == 4", "cpu == 4", "cpumask == CPUS{4}", "target_cpus == CPUS{4}"),
        ("target == CPUS{4,5}", "", "cpumask == CPUS{4-5}", "target_cpus == CPUS{4-5}"),
        ("target != CPUS{4,5}", "0", "cpumask != CPUS{4-5}", "target_cpus != CPUS{4-5}"),
        ("!(target & 4)", "!(cpu & CPUS{4})", "!(cpumask & CPUS{4})", "!(target_cpus & CPUS{4})"),
        (
            "callback == drain_local || target & 4",
            "callback.function == drain_local || cpu & CPUS{4}",
            "callback.function == drain_local || cpumask & CPUS{4}",
            "target_cpus & CPUS{4}",
        ),
        ("callback != f", "callback.function != f", "callback.function != f", ""),
        ("event == ipi_send_cpu && target & 1", "cpu & CPUS{1}", "", ""),
        ("event !~ ipi_send*", "", "", "0"),
        (
            "pair == 0->4",
            "CPU & CPUS{0} && cpu & CPUS{4}",
            "CPU & CPUS{0} && cpumask & CPUS{4}",
            "CPU & CPUS{0} && target_cpus & CPUS{4}",
        ),
        ("reason ~ Func*", "", "", "reason ~ \"Func*\""),
        (
            "event ~ *cpu && (comm == bash || pid in 3..9)",
            "COMM == \"bash\" || common_pid >= 3 && common_pid < 9",
            "",
            "",
        ),
        ("event ~ *cpu && pid in {1, 2} && sender < 3", "(common_pid == 1 || common_pid == 2) && CPU < 3", "", ""),
    ] {
        assert_eq!(lines(text), all(cpu, mask, raise), "{text}");
    }
    for (text, part) in [
        ("target & 4 && latency > 10us", "latency > 10us"),
        ("callback ~ \"drain*\"", "callback ~ \"drain*\""),
        ("target in CPUS{0-3}", "target in CPUS{0-3}"),
        ("around(target == 4, 3)", "around(target == 4, 3)"),
        ("event == ipi_entry", "event == \"ipi_entry\""),
        ("late", "late"),
        ("comm ~ \"[a]\"", "task ~ \"[a]\""),
        ("pid > p50", "pid > p50"),
    ] {
        assert_eq!(filter(text).kernel().expect_err(text).part, part);
    }
    let raise = filter("target == 4 && comm == \"it's\"").kernel().expect("a filter").pop().expect("a line");
    assert!(raise.needs.is_some_and(|needs| needs.contains("cpumask_t")));
    assert_eq!(
        raise.to_string(),
        "echo 'target_cpus == CPUS{4} && COMM == \"it'\\''s\"' > events/ipi/ipi_raise/filter"
    );
}

fn cpu_set() -> impl Strategy<Value = CpuSet> {
    prop::collection::vec(0..MOST_CPUS, 1..6).prop_map(|cpus| {
        let mut set = CpuSet::default();
        assert!(cpus.into_iter().all(|cpu| set.insert(cpu)));
        set
    })
}

fn ends() -> impl Strategy<Value = Ends> {
    (prop::option::of(cpu_set()), prop::option::of(cpu_set()))
        .prop_filter("an end", |(from, to)| from.is_some() || to.is_some())
        .prop_map(|(from, to)| Ends { from, to })
}

fn any_order() -> impl Strategy<Value = Order> {
    prop::sample::select(vec![Order::Equal, Order::Unequal, Order::Below, Order::AtMost, Order::Above, Order::AtLeast])
}

fn duration() -> impl Strategy<Value = Amount> {
    prop_oneof![
        any::<u64>().prop_map(Amount::Ns),
        (0..100_000u64).prop_map(|us| Amount::Ns(us * 1_000)),
        any::<u64>().prop_map(Amount::Ticks),
        (0..=100_000_000u32).prop_map(Amount::Percentile),
    ]
}

fn test(name: &'static str, what: impl Strategy<Value = What> + 'static) -> BoxedStrategy<Expr> {
    what.prop_map(move |what| Expr::Test(Test { field: id(name), what })).boxed()
}

fn relation() -> impl Strategy<Value = CpuRelation> {
    prop::sample::select(vec![CpuRelation::Meets, CpuRelation::Is, CpuRelation::IsNot, CpuRelation::Within])
}

/// Comparisons of every type.
fn comparison() -> impl Strategy<Value = Expr> {
    let many = 1..4usize;
    let range = (prop::option::of(0..1000u64), 1000..2000u64, any::<bool>(), any::<bool>()).prop_map(
        |(from, until, open, closed)| {
            let open = open && from.is_some();
            let until = (!open).then_some(Amount::Ns(until));
            What::Range(Range { from: from.map(Amount::Ns), until, closed: closed && !open })
        },
    );
    prop_oneof![
        test("late", Just(What::Flag)),
        test("target", (relation(), cpu_set()).prop_map(|(relation, set)| What::Cpus(relation, set))),
        test(
            "cpu",
            (2..6usize, 0..MOST_CPUS).prop_map(|(at, cpu)| {
                let order =
                    [Order::Equal, Order::Unequal, Order::Below, Order::AtMost, Order::Above, Order::AtLeast][at];
                What::Amount(order, Amount::Plain(cpu.into()))
            })
        ),
        test("pair", (any::<bool>(), ends()).prop_map(|(yes, ends)| What::Pair(yes, ends))),
        test("pair", prop::collection::vec(ends(), many.clone()).prop_map(What::Pairs)),
        test("latency", (any_order(), duration()).prop_map(|(order, amount)| What::Amount(order, amount))),
        test("latency", prop::collection::vec(duration(), many.clone()).prop_map(What::Amounts)),
        test("t", range),
        test("pid", (1..=u64::MAX).prop_map(What::Bits)),
        test("msg", (any_order(), any::<u64>()).prop_map(|(order, value)| What::Amount(order, Amount::Plain(value)))),
        test("kind", (any::<bool>(), 0..8u8).prop_map(|(yes, word)| What::Word(yes, word))),
        test("state", prop::collection::vec(0..6u8, many.clone()).prop_map(What::Words)),
        test(
            "kind",
            (any::<bool>(), "\\*?[a-c]?\\*")
                .prop_filter("a word is like it", |(_, pattern)| {
                    Filter::parse(&format!("kind ~ \"{pattern}\""), &ns()).is_ok()
                })
                .prop_map(|(yes, pattern)| What::Like(yes, pattern))
        ),
        test("callback", (any::<bool>(), ".{0,12}").prop_map(|(yes, text)| What::Text(yes, text))),
        test("task", prop::collection::vec("[ -~]{0,8}", many).prop_map(What::Texts)),
        test("reason", (any::<bool>(), ".{0,12}").prop_map(|(yes, text)| What::Like(yes, text))),
    ]
}

/// Trees as the parser makes them: no chain directly in a chain of its own kind.
fn tree() -> impl Strategy<Value = Expr> {
    comparison().prop_recursive(5, 24, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|part| Expr::Not(Box::new(part))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(|parts| {
                Expr::All(
                    parts
                        .into_iter()
                        .flat_map(|part| if let Expr::All(parts) = part { parts } else { vec![part] })
                        .collect(),
                )
            }),
            prop::collection::vec(inner, 2..4).prop_map(|parts| {
                Expr::Any(
                    parts
                        .into_iter()
                        .flat_map(|part| if let Expr::Any(parts) = part { parts } else { vec![part] })
                        .collect(),
                )
            }),
        ]
    })
}

/// A row's answer by the definition of the three values, not by the program.
fn defined(expr: &Expr, row: &Have) -> Option<bool> {
    match expr {
        Expr::Not(part) => defined(part, row).map(|value| !value),
        Expr::All(parts) | Expr::Any(parts) => {
            // What decides alone, and what each must be otherwise.
            let decides = !matches!(expr, Expr::All(_));
            let values: Vec<Option<bool>> = parts.iter().map(|part| defined(part, row)).collect();
            match values.contains(&Some(decides)) {
                true => Some(decides),
                false => values.iter().all(Option::is_some).then_some(!decides),
            }
        }
        // A comparison alone, and its opposite alone, tell its value.
        Expr::Test(_) => {
            let alone = |expr: &Expr| {
                let schema = ns();
                Program::new(expr, &schema, &mut |_| Some(500)).picks(row)
            };
            match (alone(expr), alone(&Expr::Not(Box::new(expr.clone())))) {
                (true, false) => Some(true),
                (false, true) => Some(false),
                (false, false) => None,
                (true, true) => panic!("true and false"),
            }
        }
    }
}

fn row() -> impl Strategy<Value = Have> {
    let cpu = || prop::option::of(0..8u32);
    let number = || prop::option::of(0..2000u64);
    (cpu(), cpu(), cpu(), number(), number(), prop::option::of("[a-d]{0,3}"), prop::option::of(any::<bool>()), number())
        .prop_map(|(target, cpu, sender, latency, t, text, late, word)| {
            let mut row = Have::default();
            for (name, value) in [("target", target), ("cpu", cpu), ("sender", sender)] {
                row = value.map_or(row.clone(), |value| row.cpu(name, value));
            }
            for (name, value) in [("latency", latency), ("t", t), ("pid", word), ("kind", word.map(|word| word % 8))] {
                row = value.map_or(row.clone(), |value| row.number(name, value));
            }
            if let Some(text) = text {
                row = row.text("callback", &text).text("reason", &text);
            }
            late.map_or(row.clone(), |late| row.flag("late", late))
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_printed_reads_the_same(expr in tree(), rows in prop::option::of(1..100u64)) {
        let around = rows.map(Around::Rows);
        let program = Program::new(&expr, &ns(), &mut |_| None);
        let whole = Filter { schema: ns(), expr, around, program };
        let text = whole.to_string();
        if text.len() <= LONGEST {
            match Filter::parse(&text, &ns()) {
                Ok(read) => prop_assert_eq!(&read, &whole, "{}", text),
                Err(error) => prop_assert!(false, "{error}"),
            }
        }
    }

    #[test]
    fn the_program_follows_the_three_values(expr in tree(), row in row()) {
        let program = Program::new(&expr, &ns(), &mut |_| Some(500));
        prop_assert_eq!(program.picks(&row), defined(&expr, &row) == Some(true));
    }

    #[test]
    fn explaining_and_asking_the_kernel_never_panic(expr in tree()) {
        let program = Program::new(&expr, &ns(), &mut |_| None);
        let whole = Filter { schema: ns(), expr, around: None, program };
        prop_assert!(whole.explain().lines().count() > 2);
        if let Err(error) = whole.kernel() {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    #[test]
    fn random_text_never_panics(text in ".{0,200}") {
        if let Err(error) = Filter::parse(&text, &ns()) {
            prop_assert!(error.column <= text.len() && !error.expected.is_empty() && error.to_string().contains('^'));
        }
    }

    #[test]
    fn random_pieces_of_the_language_never_panic(pieces in prop::collection::vec(prop::sample::select(vec![
        "target", "latency", "t", "kind", "pair", "callback", "late", "pid", "cpu", "&", "&&", "||", "!", "(", ")", "==", "~", "!~",
        "in", "CPUS{", "}", "{", ",", "->", "*", "..", "..=", "0-3", "4", "10us", "1.5", "p99.9", "99999999999999999999", "tk", "ns",
        "\"", "'", "\\", "é", "around(", " ", "call_function", ".", "_", ":", "/", "0x", "-", "\n",
    ]), 0..24)) {
        let text = pieces.concat();
        if let Err(error) = Filter::parse(&text, &ns()) {
            prop_assert!(error.column <= text.len() && !error.expected.is_empty(), "{error}");
        }
    }
}
