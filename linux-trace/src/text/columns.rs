//! The columns of a line where the kernel and trace-cmd put them, eight bytes at a time.
//!
//! What stands in front of a time stamp (task, process id, CPU, flags) has a few hundred spellings in a trace of millions of lines:
//! each is read once and then known by its bytes. Nothing here decides what a line means: it gives what [`super::task`] gives, or
//! nothing.

use super::{Context, DASH, spaces, stamp};
use crate::mask::MOST_CPUS;
use crate::words::{self, BLANKS};
use crate::{Name, Names};

/// Fronts that are remembered.
const FRONTS: usize = 128;

/// The longest front that is remembered, words: the kernel's with seven letters of flags has 38 bytes.
const WORDS: usize = 5;

/// What stands in front of a time stamp, up to its blanks.
#[derive(Clone, Copy, Default)]
struct Front {
    /// Its bytes, and those of them that count.
    words: [u64; WORDS],
    masks: [u64; 2],
    /// Bytes of it.
    len: usize,
    pid: u32,
    cpu: u16,
    flags: [u8; 8],
    /// The task's name, once an event wanted it.
    comm: Option<Name>,
}

/// A front in the table; `None`: it is not there.
pub(super) type Task = Option<usize>;

pub(super) struct Columns {
    fronts: [Front; FRONTS],
}

impl Default for Columns {
    fn default() -> Self {
        Columns { fronts: [Front::default(); FRONTS] }
    }
}

impl Columns {
    /// What stands in front of the event of a line all of which is in its columns.
    #[inline(always)]
    pub(super) fn context<'a>(&mut self, line: &'a [u8]) -> Option<(Context<'a>, Task)> {
        let (front, _) = line.split_first_chunk::<{ 8 * WORDS }>()?;
        let (words, _) = front.as_chunks::<8>();
        let [a, b, c, d, e] = *words else { return None };
        let [a, b, c, d, e] = [a, b, c, d, e].map(u64::from_le_bytes);
        // The process id and the CPU.
        let at = ((c ^ d.rotate_left(29)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize % FRONTS;
        let known = &self.fronts[at];
        let [x, y, z, v, w] = known.words;
        let differ = (a ^ x) | (b ^ y) | (c ^ z) | ((d ^ v) & known.masks[0]) | ((e ^ w) & known.masks[1]);
        if differ != 0 || known.len == 0 {
            return self.read(line, at);
        }
        let (t, unit, event) = time(line.get(known.len..)?)?;
        let Front { pid, cpu, flags, .. } = *known;
        Some((Context { comm: &line[..DASH], pid, cpu, flags, t, unit, event }, Some(at)))
    }

    /// Reads a front, and remembers it at `at`.
    #[inline(never)]
    fn read<'a>(&mut self, line: &'a [u8], at: usize) -> Option<(Context<'a>, Task)> {
        let (front, rest) = front(line)?;
        let (t, unit, event) = time(rest)?;
        let Front { pid, cpu, flags, .. } = front;
        let context = Context { comm: &line[..DASH], pid, cpu, flags, t, unit, event };
        if !(3 * 8..8 * WORDS).contains(&front.len) {
            return Some((context, None));
        }
        self.fronts[at] = front;
        Some((context, Some(at)))
    }

    /// The name of the task of the line that was read last.
    #[inline(always)]
    pub(super) fn comm(&mut self, task: Task, comm: &[u8], names: &mut Names) -> Name {
        let Some(front) = task.and_then(|at| self.fronts.get_mut(at)) else { return names.add(comm.trim_ascii()) };
        *front.comm.get_or_insert_with(|| names.add(comm.trim_ascii()))
    }
}

/// What stands in front of a time stamp, and the stamp and all behind it.
///
/// `            init-1       [003] d....     8.034540: ipi_raise: …`
fn front(line: &[u8]) -> Option<(Front, &[u8])> {
    let (_, rest) = line.split_first_chunk::<DASH>()?;
    // The process id is padded to seven places by the kernel, to five by trace-cmd.
    let (field, rest) = match rest {
        [b'-', _, _, _, _, _, _, _, b' ', b'[', rest @ ..] => (7, rest),
        [b'-', _, _, _, _, _, b' ', b'[', rest @ ..] => (5, rest),
        _ => return None,
    };
    let pid = words::word(line, DASH + 1)?;
    let digits = words::digits(pid);
    if digits == 0 || digits > field || words::leading_zeros((pid ^ BLANKS) >> (8 * digits)) < field - digits {
        return None;
    }
    let [a @ b'0'..=b'9', b @ b'0'..=b'9', c @ b'0'..=b'9', b']', b' ', rest @ ..] = rest else { return None };
    let cpu = u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0');
    let (mut rest, mut flags) = (rest, [0; 8]);
    if !matches!(rest, [b' ' | b'0'..=b'9', ..]) {
        let word = words::word(rest, 0)?;
        let count = words::first_zero(word ^ BLANKS);
        if count == 8 {
            return None;
        }
        flags = (word & !(u64::MAX << (8 * count))).to_le_bytes();
        rest = rest.get(count..)?;
    }
    let len = line.len() - rest.len();
    let words = std::array::from_fn(|at| words::word(line, 8 * at).unwrap_or(0));
    // The bytes in front of `len` that the fourth word and the fifth hold, and the blank that ends the flags: without it, they go on.
    let ends = len + usize::from(flags[0] != 0);
    let mask = |from: usize| match ends.saturating_sub(from) {
        count @ 0..8 => !(u64::MAX << (8 * count)),
        _ => u64::MAX,
    };
    let pid = words::decimal(pid, digits) as u32;
    let front = Front { words, masks: [mask(24), mask(32)], len, pid, cpu, flags, comm: None };
    (usize::from(cpu) < MOST_CPUS).then_some((front, rest))
}

/// A stamp behind blanks, the unit of its last digit, and what stands behind it.
#[inline(always)]
fn time(text: &[u8]) -> Option<(u64, u64, &[u8])> {
    let text = text.get(words::leading_zeros(words::word(text, 0)? ^ BLANKS)..)?;
    short_stamp(text).or_else(|| stamp(text))
}

/// What [`stamp`] gives of up to seven digits of seconds and six or nine of their fraction.
#[inline(always)]
fn short_stamp(text: &[u8]) -> Option<(u64, u64, &[u8])> {
    let seconds = words::word(text, 0)?;
    let count = words::digits(seconds);
    if count == 0 || count == 8 || text.get(count) != Some(&b'.') {
        return None;
    }
    let digits = text.get(count + 1..)?;
    let fraction = words::word(digits, 0)?;
    let (fraction, unit, behind) = match (words::digits(fraction), digits) {
        (6, [_, _, _, _, _, _, b':', behind @ ..]) => (words::decimal(fraction, 6) * 1000, 1000, behind),
        (8, [_, _, _, _, _, _, _, _, last @ b'0'..=b'9', b':', behind @ ..]) => {
            (words::decimal(fraction, 8) * 10 + u64::from(last - b'0'), 1, behind)
        }
        _ => return None,
    };
    Some((words::decimal(seconds, count) * 1_000_000_000 + fraction, unit, spaces(behind)))
}

#[cfg(test)]
mod tests {
    use super::super::task;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        /// Lines of both layouts, as they are printed and with some bytes changed; each is read twice, so that the second comes from
        /// the table.
        #[test]
        fn columns_give_what_the_general_reader_gives(
            comm in "[ a-z<>/:\\[\\]-]{1,16}",
            numbers in (0_u64..100_000_000, 0_u16..1000, 0_u64..3_000_000_000, 0_u64..1_000_000_000),
            flags in "(|[a-zA-Z.0-9#]{1,9} )",
            layout in 0_usize..4,
            changes in prop::collection::vec((0_usize..70, prop::sample::select(b" -0189[].:dN\xFFx".to_vec())), 0..4),
            second in (0_usize..70, prop::sample::select(b" -0189[].:dN\xFFx".to_vec())),
        ) {
            let (pid, cpu, seconds, rest) = numbers;
            let micro = rest / 1000;
            let text = match layout {
                0 => format!("{comm:>16}-{pid:<7} [{cpu:03}] {flags}{seconds:>5}.{micro:06}: ipi_entry: (x)"),
                1 => format!("{comm:>16}-{pid:<5} [{cpu:03}] {flags}{seconds:>5}.{micro:06}: ipi_entry:            (x)"),
                2 => format!("{comm:>16}-{pid:<5} [{cpu:03}] {flags}{seconds:>5}.{rest:09}: ipi_entry:            (x)"),
                _ => format!("{comm:>16}-{pid:<7} [{cpu:03}] {flags}{rest}: ipi_entry: (x)"),
            };
            let mut line = text.into_bytes();
            for (at, byte) in changes {
                if let Some(place) = line.get_mut(at) {
                    *place = byte;
                }
            }
            let mut changed = line.clone();
            if let Some(place) = changed.get_mut(second.0) {
                *place = second.1;
            }
            let (mut columns, mut names) = (Columns::default(), Names::new());
            for line in [&line, &line, &changed, &line, &changed] {
                if let Some((context, place)) = columns.context(line) {
                    let comm = columns.comm(place, context.comm, &mut names);
                    let printed = String::from_utf8_lossy(context.comm.trim_ascii());
                    prop_assert_eq!(names.text(comm), printed);
                    prop_assert_eq!(line.get(DASH), Some(&b'-'));
                    prop_assert_eq!(Some(context), task(line, DASH));
                }
            }
        }
    }

    #[test]
    fn lines_of_todays_layouts_are_read_by_their_columns() {
        for line in [
            "            init-1       [003] d.h..     8.034540: ipi_entry: (Rescheduling interrupts)",
            "            init-1       [003] d.h1...     8.034540: ipi_entry: (Rescheduling interrupts)",
            "            init-4194304 [003]     8.034540: ipi_entry: (Rescheduling interrupts)",
            "            init-1     [003]     8.034540123: ipi_entry:            (Rescheduling interrupts)",
            "            init-1     [003] 1700000000.034540: ipi_entry:            (Rescheduling interrupts)",
        ] {
            let mut columns = Columns::default();
            for _ in 0..2 {
                let read = columns.context(line.as_bytes()).map(|(context, _)| context);
                assert_eq!(read, task(line.as_bytes(), DASH), "{line}");
                assert!(read.is_some(), "{line}");
            }
        }
    }
}
