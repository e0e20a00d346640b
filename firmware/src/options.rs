//! Options: what whoever boots the image says in `/chosen/bootargs`, among words that are meant for others.
//!
//! An option begins with `ipiscope.`; everything else is a kernel's or a lab's and none of ours. An option that is not
//! understood is reported and changes nothing, so that a boot script written for a later firmware still measures.

/// What is sent over the console after the run without being asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Results {
    /// Nothing.
    #[default]
    None,
    /// All but records.
    Summary,
    /// Everything: summary, the trails around the greatest latencies, then all records.
    Console,
}

/// All options.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// `ipiscope.results=none|summary|console`.
    pub results: Results,
    /// `ipiscope.rings=cacheable|non-cacheable`; `None`: as the plan says.
    pub non_cacheable: Option<bool>,
    /// `ipiscope.watchdog=feed|ignore`: whether registers of watchdogs are touched at all. A watchdog whose clock is off may
    /// answer with a bus error.
    pub feed_watchdogs: bool,
}

impl Options {
    /// What holds where nothing is said.
    pub const DEFAULT: Options = Options { results: Results::None, non_cacheable: None, feed_watchdogs: true };

    /// Reads boot arguments; `complain` is told of every option that is not understood. Of two equal ones the last counts.
    pub fn parse<'a>(text: &'a str, mut complain: impl FnMut(&'a str)) -> Self {
        let mut options = Options::DEFAULT;
        for word in text.split_ascii_whitespace().map(|word| word.trim_matches('"')) {
            match word {
                "ipiscope.results=none" => options.results = Results::None,
                "ipiscope.results=summary" => options.results = Results::Summary,
                "ipiscope.results=console" => options.results = Results::Console,
                "ipiscope.rings=cacheable" => options.non_cacheable = Some(false),
                "ipiscope.rings=non-cacheable" => options.non_cacheable = Some(true),
                "ipiscope.watchdog=feed" => options.feed_watchdogs = true,
                "ipiscope.watchdog=ignore" => options.feed_watchdogs = false,
                _ if word.starts_with("ipiscope.") => complain(word),
                _ => {}
            }
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Options, Vec<&str>) {
        let mut unknown = Vec::new();
        let options = Options::parse(text, |word| unknown.push(word));
        (options, unknown)
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(parse(""), (Options::DEFAULT, vec![]));
        assert_eq!(parse("console=ttyAMA0,115200 root=/dev/nfs quiet"), (Options::DEFAULT, vec![]));
    }

    #[test]
    fn options_are_found_among_other_words_and_the_last_counts() {
        let (options, unknown) =
            parse("quiet ipiscope.results=summary\tipiscope.rings=non-cacheable \"ipiscope.results=console\" ro");
        assert_eq!(options.results, Results::Console);
        assert_eq!(options.non_cacheable, Some(true));
        assert!(unknown.is_empty());
        assert_eq!(parse("ipiscope.rings=non-cacheable ipiscope.rings=cacheable").0.non_cacheable, Some(false));
        assert!(!parse("ipiscope.watchdog=ignore").0.feed_watchdogs);
    }

    #[test]
    fn what_is_not_understood_is_told_and_changes_nothing() {
        let words = ["ipiscope.results=all", "ipiscope.rings", "ipiscope.", "ipiscope.colour=blue"];
        assert_eq!(parse(&words.join(" ")), (Options::DEFAULT, words.to_vec()));
    }
}
