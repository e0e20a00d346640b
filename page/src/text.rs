//! Numbers and strings as the page writes them.
//!
//! The same rules as the report for a terminal has; `page.js` has them once more, and a test holds both against each other.

/// Appends `text` so that it can stand between tags and in a quoted attribute.
pub(crate) fn escape(text: &str, html: &mut String) {
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            // No text of the report may be something else to an HTML parser, nor turn the direction of what follows it.
            '\0' => html.push('\u{FFFD}'),
            c => html.push(c),
        }
    }
}

/// The same as a string of its own.
pub(crate) fn escaped(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    escape(text, &mut html);
    html
}

/// A number with its thousands apart.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A rate with no more than three digits that mean something.
pub(crate) fn three_digits(rate: f64) -> u64 {
    if !rate.is_finite() || rate < 1.0 {
        return 0;
    }
    let scale = 10_f64.powi((rate.log10().floor() as i32 - 2).max(0));
    ((rate / scale).round() * scale) as u64
}

/// A number without zeroes at its end.
pub(crate) fn trimmed(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A length of time in three digits at most, none of them below the resolution (both ns).
pub(crate) fn duration(nanoseconds: f64, resolution: f64) -> String {
    let (scale, unit) = match nanoseconds.abs() {
        length if length >= 1e9 => (1e9, "s"),
        length if length >= 1e6 => (1e6, "ms"),
        length if length >= 1e4 => (1e3, "us"),
        _ => (1.0, "ns"),
    };
    let value = nanoseconds / scale;
    let most = 2 - value.abs().max(1.0).log10().floor() as i32;
    let finest = -(resolution / scale).log10().floor() as i32;
    format!("{value:.*} {unit}", most.min(finest).max(0) as usize)
}

/// A length of time as a whole number of ticks (both ns), in three digits at most.
pub(crate) fn whole_ticks(nanoseconds: f64, tick: f64) -> String {
    match (nanoseconds / tick).round() * tick {
        0.0 => format!("<{} ns", trimmed(tick, 1)),
        length => duration(length, tick),
    }
}

/// A mean and its interval (ns): the mean has the interval's digits.
pub(crate) fn mean(mean: f64, interval: f64) -> String {
    let (scale, unit, finest) = match mean.abs() {
        mean if mean >= 1e6 => (1e6, "ms", 9),
        mean if mean >= 1e4 => (1e3, "us", 6),
        _ => (1.0, "ns", 3),
    };
    // A thousandth of a nanosecond is nobody's.
    let interval = interval.max(0.001);
    let digits = (1 - (interval / scale).log10().floor() as i32).clamp(0, finest) as usize;
    format!("{:.digits$} ± {:.digits$} {unit}", mean / scale, interval / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_in_the_report_for_a_terminal() {
        assert_eq!([0, 12, 1234, 1_234_567].map(grouped), ["0", "12", "1,234", "1,234,567"]);
        assert_eq!([84_217.3, 251.393, 0.4].map(three_digits), [84_200, 251, 0]);
        assert_eq!((trimmed(62.5, 3), trimmed(8.0, 3)), ("62.5".to_owned(), "8".to_owned()));
        assert_eq!(
            [49.0, 4052.0, 12_345.0, 713_002.0, 56_709_000.0].map(|ns| duration(ns, 1.0)),
            ["49 ns", "4052 ns", "12.3 us", "713 us", "56.7 ms"]
        );
        assert_eq!((whole_ticks(6.0, 16.0), whole_ticks(20.0, 16.0)), ("<16 ns".to_owned(), "16 ns".to_owned()));
        assert_eq!(mean(372.2, 5.9), "372.2 ± 5.9 ns");
        assert_eq!(mean(7880.0, 430.0), "7880 ± 430 ns");
    }

    #[test]
    fn nothing_that_html_takes_for_its_own_is_left() {
        assert_eq!(escaped("<b a=\"1\" b='2'>&\0"), "&lt;b a=&quot;1&quot; b=&#39;2&#39;&gt;&amp;\u{FFFD}");
    }
}
