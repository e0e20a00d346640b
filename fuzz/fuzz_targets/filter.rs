//! Any text as a filter: an error that points into it, or a filter that is printed, read again as the same, and asked of rows.
#![no_main]

use filter::{Clock, Cpus, FieldId, Filter, LONGEST, Row, Schema};
use libfuzzer_sys::fuzz_target;

/// A row of which a number says what it has.
struct Made(u64);

const CPUS: [&[u64]; 3] = [&[1], &[0x8000_0000_0000_0001, 0xFF], &[]];

impl Made {
    /// Of every eight fields one is missing.
    fn value(&self, field: FieldId) -> Option<u64> {
        let value = self.0.rotate_left(u32::from(field.0) * 7) ^ u64::from(field.0);
        (value % 8 != 0).then_some(value)
    }
}

impl Row for Made {
    fn cpus(&self, field: FieldId) -> Cpus<'_> {
        self.value(field).map_or(Cpus::Unknown, |value| match value % 4 {
            3 => Cpus::One((value >> 8) as u32 % 600),
            which => CPUS.get(which as usize).map_or(Cpus::Unknown, |words| Cpus::Set(words)),
        })
    }

    fn number(&self, field: FieldId) -> Option<u64> {
        self.value(field)
    }

    fn text(&self, field: FieldId) -> Option<&str> {
        self.value(field).map(|value| ["", "a+0x10/0x48 [mod]", "swapper/2", "üä\u{10FFFF}"][value as usize % 4])
    }

    fn flag(&self, field: FieldId) -> Option<bool> {
        self.value(field).map(|value| value & 16 != 0)
    }
}

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for clock in [Clock::Ns, Clock::NsOfTicks(24_000_000), Clock::Ticks(62_500_000)] {
        let schema = Schema::ipi(clock);
        let mut filter = match Filter::parse(text, &schema) {
            Ok(filter) => filter,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                continue;
            }
        };
        assert!(text.len() <= LONGEST);
        let printed = filter.to_string();
        // What is printed may be longer than what a person may write.
        if printed.len() <= LONGEST {
            let again = Filter::parse(&printed, &schema).unwrap_or_else(|error| panic!("{printed}\n{error}"));
            assert!(again == filter, "{printed}");
            assert_eq!(again.to_string(), printed);
            assert!((0..64).all(|row| again.picks(&Made(row * 0x9E37_79B9)) == filter.picks(&Made(row * 0x9E37_79B9))));
        }
        let _ = (filter.explain(), filter.kernel().map(|all| all.len()), filter.neighbours());
        assert!(filter.fields().iter().all(|id| schema.field(*id).is_some()));
        for percentile in filter.percentiles() {
            assert!((0.0..=100.0).contains(&percentile.percent));
        }
        filter.resolve(|percentile| Some(percentile.percent as u64));
        let _ = filter.picks(&Made(u64::MAX));
    }
    let _ = host::choice::explain(text);
});
