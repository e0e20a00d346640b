//! Text to tree: reads left to right once, with the field's type deciding what may follow it.
//!
//! ```text
//! filter     = "around(" any "," (rows | duration) ")" | any
//! any        = all ("||" all)*
//! all        = one ("&&" one)*
//! one        = "!" one | "(" any ")" | flag | field operator value
//! ```
//!
//! `!` negates the comparison behind it, as in Linux's filters: `!target == 4` is `!(target == 4)`.

use crate::Around;
use crate::error::{FilterError, closest};
use crate::expr::{CpuRelation, Ends, Expr, Order, Range, Test, What};
use crate::fields::{Clock, Field, FieldId, Schema, Type};
use crate::program::places;
use crate::value::{Amount, CpuSet, MOST_CPUS, UNITS, scaled};
use crate::widen::MOST_NEIGHBOURS;

/// Longer filters are a mistake, bytes.
pub const LONGEST: usize = 4096;

/// Parentheses and negations inside one another: more are a mistake, and each costs stack.
pub const MOST_DEPTH: usize = 32;

type Parsed<T> = Result<T, FilterError>;

pub(crate) fn parse(text: &str, schema: &Schema) -> Parsed<(Expr, Option<Around>)> {
    let mut parser = Parser { text, at: 0, schema, depth: 0 };
    if text.len() > LONGEST {
        parser.at = LONGEST;
        return parser
            .wrong(format!("a filter ends before here: it is {} bytes, at most {LONGEST} are read", text.len()));
    }
    parser.blanks();
    if parser.rest().is_empty() {
        return parser.wrong_of("a filter is expected, this is empty".into(), parser.names(""));
    }
    let parsed = if parser.is_around() { parser.around()? } else { (parser.any()?, None) };
    parser.blanks();
    match parser.rest().chars().next() {
        None => Ok(parsed),
        Some(')') => parser.wrong("no `(` is open that this `)` would close".into()),
        Some(_) if parsed.1.is_some() => parser.wrong("the filter ends here: `around` stands alone".into()),
        Some(_) => {
            let next = parser.peek_word();
            let possible = match next.to_ascii_lowercase().as_str() {
                "and" => vec!["&&".into()],
                "or" => vec!["||".into()],
                _ => vec!["&&".into(), "||".into()],
            };
            parser.wrong_of(
                format!("the end of the filter is expected here, or more of it{}", parser.not_found()),
                possible,
            )
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    schema: &'a Schema,
    depth: usize,
}

/// The operators of a type, as they are told.
const fn operators(kind: &Type) -> &'static [&'static str] {
    match kind {
        Type::Cpu => &["&", "==", "!=", "in", "<", "<=", ">", ">="],
        Type::CpuSet => &["&", "==", "!=", "in"],
        Type::Duration | Type::Time => &["<", "<=", ">", ">=", "==", "!=", "in"],
        Type::Number => &["==", "!=", "<", "<=", ">", ">=", "&", "in"],
        Type::Text | Type::Symbol | Type::Enum(_) => &["==", "!=", "~", "!~", "in"],
        Type::Pair(..) => &["==", "!=", "in"],
        Type::Flag => &[],
    }
}

/// What a type is called.
const fn title(kind: &Type) -> &'static str {
    match kind {
        Type::Cpu => "a CPU",
        Type::CpuSet => "a set of CPUs",
        Type::Duration => "a duration",
        Type::Time => "a time",
        Type::Number => "a number",
        Type::Text => "a text",
        Type::Symbol => "a symbol",
        Type::Enum(_) => "one of a few words",
        Type::Flag => "true or false",
        Type::Pair(..) => "a pair",
    }
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn blanks(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    /// Takes `token`, blanks in front of it too.
    fn take(&mut self, token: &str) -> bool {
        self.blanks();
        let there = self.rest().starts_with(token);
        self.at += if there { token.len() } else { 0 };
        there
    }

    /// The word that begins here: what a name, a number or an unquoted text is made of.
    fn peek_word(&self) -> &'a str {
        let rest = self.rest();
        let part = |c: char| c.is_alphanumeric() || "_.*?+/:@$#%-[]\\".contains(c);
        rest.get(..rest.find(|c| !part(c)).unwrap_or(rest.len())).unwrap_or("")
    }

    fn peek_name(&self) -> &'a str {
        let rest = self.rest();
        let part = |c: char| c.is_alphanumeric() || c == '_';
        rest.get(..rest.find(|c| !part(c)).unwrap_or(rest.len())).unwrap_or("")
    }

    /// `, `x` is none`: what stands here instead.
    fn not_found(&self) -> String {
        let word = self.peek_word();
        let found = if word.is_empty() {
            self.rest().get(..self.rest().chars().next().map_or(0, char::len_utf8))
        } else {
            Some(word)
        };
        match found.unwrap_or("") {
            "" => ", the filter ends".into(),
            found if found.len() > 40 => ", this is none".into(),
            found => format!(", `{found}` is none"),
        }
    }

    fn wrong<T>(&self, expected: String) -> Parsed<T> {
        self.wrong_of(expected, Vec::new())
    }

    fn wrong_of<T>(&self, expected: String, possible: Vec<String>) -> Parsed<T> {
        // An error copies no more than it may have read.
        let end = (0..=self.text.len().min(LONGEST)).rev().find(|at| self.text.is_char_boundary(*at)).unwrap_or(0);
        let text = self.text.get(..end).unwrap_or("").to_string();
        Err(FilterError { column: self.at.min(text.len()), text, expected, possible })
    }

    /// Names that a word could have meant: fields first, then comparisons with an enumeration's word.
    fn names(&self, word: &str) -> Vec<String> {
        let mut all = closest(word, self.schema.fields.iter().map(|field| field.name));
        for field in self.schema.fields.iter().rev() {
            if let Type::Enum(words) = field.kind
                && let Some(found) = words.iter().find(|found| same_word(found, word))
            {
                all.insert(0, format!("{} == {found}", field.name));
            }
        }
        all
    }

    fn is_around(&self) -> bool {
        self.peek_name().eq_ignore_ascii_case("around")
            && self.rest().get("around".len()..).is_some_and(|rest| rest.trim_start().starts_with('('))
    }

    fn around(&mut self) -> Parsed<(Expr, Option<Around>)> {
        self.at += "around".len();
        self.take("(");
        let expr = self.any()?;
        if !self.take(",") {
            return self.wrong(format!("`,` and how far the neighbours reach is expected here{}", self.not_found()));
        }
        self.blanks();
        let start = self.at;
        let amount = self.amount(false).map_err(|mut error| {
            if error.expected.is_empty() {
                error.expected = format!("how far the neighbours reach is expected here{}", self.not_found());
                error.possible = vec!["20".into(), "50us".into()];
            }
            error
        })?;
        let around = match amount {
            Amount::Plain(0) | Amount::Ns(0) | Amount::Ticks(0) => {
                self.at = start;
                return self
                    .wrong("more than nothing is expected here: `around` of nothing is the expression itself".into());
            }
            Amount::Plain(rows) if rows > MOST_NEIGHBOURS => {
                self.at = start;
                return self.wrong(format!("at most {MOST_NEIGHBOURS} rows are expected here"));
            }
            Amount::Plain(rows) => Around::Rows(rows),
            span => Around::Within(span),
        };
        if !self.take(")") {
            return self.wrong(format!("`)` is expected here{}", self.not_found()));
        }
        Ok((expr, Some(around)))
    }

    fn any(&mut self) -> Parsed<Expr> {
        let mut parts = links(self.all()?, false);
        while self.take("||") {
            parts.extend(links(self.all()?, false));
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Expr::Any(parts) })
    }

    fn all(&mut self) -> Parsed<Expr> {
        let mut parts = links(self.one()?, true);
        while self.take("&&") {
            parts.extend(links(self.one()?, true));
        }
        Ok(if parts.len() == 1 { parts.swap_remove(0) } else { Expr::All(parts) })
    }

    fn one(&mut self) -> Parsed<Expr> {
        self.blanks();
        let nested = self.rest().starts_with(['!', '(']);
        if nested && self.depth == MOST_DEPTH {
            return self
                .wrong(format!("no more is read than {MOST_DEPTH} parentheses and negations inside one another"));
        }
        if self.take("!") {
            self.depth += 1;
            let part = self.one()?;
            self.depth -= 1;
            return Ok(Expr::Not(Box::new(part)));
        }
        if self.take("(") {
            self.depth += 1;
            let part = self.any()?;
            self.depth -= 1;
            if !self.take(")") {
                let possible = vec![")".into(), "&&".into(), "||".into()];
                return self.wrong_of(
                    format!("`)` is expected here, or more of the expression{}", self.not_found()),
                    possible,
                );
            }
            return Ok(part);
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Parsed<Expr> {
        if self.is_around() {
            return self.wrong("a field is expected here: `around(…)` is the whole filter or none of it".into());
        }
        let name = self.peek_name();
        if name.eq_ignore_ascii_case("not") && self.schema.find(name).is_none() {
            return self.wrong_of("a field is expected here, `not` is none".into(), vec!["!".into()]);
        }
        let Some((id, field)) = self.schema.find(name).and_then(|id| Some((id, self.schema.field(id)?))) else {
            return self.wrong_of(format!("a field is expected here{}", self.not_found()), self.names(name));
        };
        self.at += name.len();
        self.blanks();
        if let Type::Flag = field.kind {
            return self.flag(id, field);
        }
        let operator = self.operator();
        let possible = || operators(&field.kind).iter().map(|operator| (*operator).to_string()).collect();
        let Some(operator) = operator else {
            return self.wrong_of(
                format!("a comparison is expected here, `{}` is {}", field.name, title(&field.kind)),
                possible(),
            );
        };
        if !operators(&field.kind).contains(&operator) {
            return self.wrong_of(
                format!("`{}` is {}, which has no `{operator}`", field.name, title(&field.kind)),
                possible(),
            );
        }
        self.at += operator.len();
        self.blanks();
        Ok(Expr::Test(Test { field: id, what: self.value(field, operator)? }))
    }

    /// The operator that begins here.
    fn operator(&self) -> Option<&'static str> {
        const SYMBOLS: [&str; 9] = ["==", "!=", "!~", "<=", ">=", "<", ">", "~", "&"];
        let rest = self.rest();
        if self.peek_name().eq_ignore_ascii_case("in") {
            return Some("in");
        }
        SYMBOLS.into_iter().find(|symbol| rest.starts_with(symbol)).filter(|_| !rest.starts_with("&&"))
    }

    /// A flag alone, or compared with `true` or `false`.
    fn flag(&mut self, field: FieldId, found: &Field) -> Parsed<Expr> {
        let flag = Expr::Test(Test { field, what: What::Flag });
        let equal = match self.operator() {
            None => return Ok(flag),
            Some("==") => true,
            Some("!=") => false,
            Some(_) => {
                let expected = format!("`{}` is true or false, which stands alone", found.name);
                return self.wrong_of(expected, vec!["&&".into(), "||".into(), "==".into(), "!=".into()]);
            }
        };
        self.at += "==".len();
        self.blanks();
        let word = self.peek_word();
        let value = match word.to_ascii_lowercase().as_str() {
            "true" | "1" => true,
            "false" | "0" => false,
            _ => {
                let possible = vec!["true".into(), "false".into()];
                return self.wrong_of(format!("`true` or `false` is expected here{}", self.not_found()), possible);
            }
        };
        self.at += word.len();
        Ok(if value == equal { flag } else { Expr::Not(Box::new(flag)) })
    }

    fn value(&mut self, field: &Field, operator: &str) -> Parsed<What> {
        let equal = operator == "==";
        match field.kind {
            Type::Cpu | Type::CpuSet => match operator {
                "&" => Ok(What::Cpus(CpuRelation::Meets, self.cpus()?)),
                "==" => Ok(What::Cpus(CpuRelation::Is, self.cpus()?)),
                "!=" => Ok(What::Cpus(CpuRelation::IsNot, self.cpus()?)),
                "in" => Ok(What::Cpus(CpuRelation::Within, self.cpus()?)),
                _ => Ok(What::Amount(order(operator), Amount::Plain(self.cpu()?.into()))),
            },
            Type::Pair(..) if operator == "in" => Ok(What::Pairs(self.list(Parser::ends)?)),
            Type::Pair(..) => Ok(What::Pair(equal, self.ends()?)),
            Type::Duration | Type::Time | Type::Number => match operator {
                "in" if self.rest().starts_with('{') => Ok(What::Amounts(self.list(|parser| parser.amount_of(field))?)),
                "in" => Ok(What::Range(self.range(field)?)),
                "&" => self.bits(field),
                _ => Ok(What::Amount(order(operator), self.amount_of(field)?)),
            },
            Type::Enum(words) => match operator {
                "in" => Ok(What::Words(self.list(|parser| parser.word(field, words))?)),
                "~" | "!~" => {
                    let start = self.at;
                    let pattern = self.string()?;
                    if places(words, &pattern) == 0 {
                        self.at = start;
                        let possible = closest(&pattern, words.iter().copied());
                        return self.wrong_of(format!("no `{}` is like this", field.name), possible);
                    }
                    Ok(What::Like(operator == "~", pattern))
                }
                _ => Ok(What::Word(equal, self.word(field, words)?)),
            },
            _ => match operator {
                "in" => Ok(What::Texts(self.list(Parser::string)?)),
                "~" | "!~" => Ok(What::Like(operator == "~", self.string()?)),
                _ => Ok(What::Text(equal, self.string()?)),
            },
        }
    }

    /// `{a, b}`.
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        if !self.take("{") {
            return self.wrong(format!("a list in braces is expected here, {{a, b}}{}", self.not_found()));
        }
        let mut items = Vec::new();
        loop {
            self.blanks();
            items.push(item(self)?);
            if self.take("}") {
                return Ok(items);
            }
            if !self.take(",") {
                return self.wrong_of(
                    format!("`,` or `}}` is expected here{}", self.not_found()),
                    vec![",".into(), "}".into()],
                );
            }
        }
    }

    /// `CPUS{0-3,7}`, in the kernel's format of CPU lists (`Documentation/admin-guide/kernel-parameters.rst`: "cpu
    /// lists"), or one CPU's number.
    fn cpus(&mut self) -> Parsed<CpuSet> {
        let mut set = CpuSet::default();
        let prefix = self.peek_name();
        if prefix.eq_ignore_ascii_case("CPUS") {
            self.at += prefix.len();
            if !self.take("{") {
                return self.wrong(format!("`{{` is expected here, CPUS{{0-3,7}}{}", self.not_found()));
            }
        } else if !self.take("{") {
            let Some(set) = CpuSet::of(self.cpu()?) else {
                return self.wrong("a CPU's number is expected here".into());
            };
            return Ok(set);
        }
        loop {
            self.cpu_range(&mut set)?;
            if self.take("}") {
                return Ok(set);
            }
            if !self.take(",") {
                return self.wrong_of(
                    format!("`,` or `}}` is expected here{}", self.not_found()),
                    vec![",".into(), "-".into(), "}".into()],
                );
            }
        }
    }

    /// `3`, `0-3`, or `0-31:2/8`: of each eight the first two.
    fn cpu_range(&mut self, set: &mut CpuSet) -> Parsed<()> {
        self.blanks();
        let start = self.at;
        let first = self.cpu()?;
        let last = if self.take("-") { self.cpu()? } else { first };
        if last < first {
            self.at = start;
            return self.wrong(format!("a range that ascends is expected here, {last}-{first}"));
        }
        let (mut used, mut group) = (1, 1);
        if self.take(":") {
            used = self.cpu()?;
            let slash = self.take("/");
            group = if slash { self.cpu()? } else { 0 };
            if used == 0 || used > group {
                self.at = start;
                return self.wrong("a range with a group is expected here, 0-31:2/8 is two of each eight".into());
            }
        }
        for cpu in (first..=last).filter(|cpu| (cpu - first) % group < used) {
            set.insert(cpu);
        }
        Ok(())
    }

    fn cpu(&mut self) -> Parsed<u32> {
        self.blanks();
        let start = self.at;
        let digits: &str = self.digits();
        let follows = self.rest().chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
        if digits.is_empty() || follows {
            self.at = start;
            return self.wrong(format!("a CPU's number is expected here{}", self.not_found_cpu()));
        }
        match digits.parse::<u32>() {
            Ok(cpu) if cpu < MOST_CPUS => Ok(cpu),
            _ => {
                self.at = start;
                self.wrong(format!("a CPU's number is expected here, 0 to {}", MOST_CPUS - 1))
            }
        }
    }

    fn not_found_cpu(&self) -> String {
        match self.peek_name() {
            "" => self.not_found(),
            name if name.len() > 40 => ", this is none".into(),
            name => format!(", `{name}` is none"),
        }
    }

    /// Takes decimal digits.
    fn digits(&mut self) -> &'a str {
        let rest = self.rest();
        let digits = rest.get(..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())).unwrap_or("");
        self.at += digits.len();
        digits
    }

    /// `0->4`, `*->CPUS{4-7}`.
    fn ends(&mut self) -> Parsed<Ends> {
        self.blanks();
        let start = self.at;
        let from = self.end()?;
        if !self.take("->") {
            return self.wrong(format!("`->` is expected here, a pair is 0->4{}", self.not_found()));
        }
        let to = self.end()?;
        if from.is_none() && to.is_none() {
            self.at = start;
            return self.wrong("a CPU is expected at one end: *->* is every pair".into());
        }
        Ok(Ends { from, to })
    }

    fn end(&mut self) -> Parsed<Option<CpuSet>> {
        if self.take("*") {
            return Ok(None);
        }
        self.cpus().map(Some)
    }

    fn range(&mut self, field: &Field) -> Parsed<Range> {
        let start = self.at;
        let from = if self.rest().starts_with("..") { None } else { Some(self.amount_of(field)?) };
        self.blanks();
        let dots = self.at;
        if !self.take("..") {
            return self.wrong_of(
                format!("`..` is expected here, a range is {}{}", example(&field.kind).1, self.not_found()),
                vec!["..".into(), "..=".into()],
            );
        }
        let closed = self.rest().starts_with('=');
        self.at += usize::from(closed);
        self.blanks();
        let open = self.rest().is_empty() || self.rest().starts_with([')', '&', '|', ',']);
        let until = if open { None } else { Some(self.amount_of(field)?) };
        if until.is_none() && (from.is_none() || closed) {
            self.at = if closed { self.at } else { dots };
            return self.wrong(format!("an end of the range is expected here, {}", example(&field.kind).1));
        }
        if let (Some(from), Some(until)) = (from, until)
            && is_empty(from, until, closed)
        {
            self.at = start;
            return self.wrong(format!("a range that ascends is expected here, nothing is in {from}..{until}"));
        }
        Ok(Range { from, until, closed })
    }

    fn bits(&mut self, field: &Field) -> Parsed<What> {
        let start = self.at;
        match self.amount_of(field)? {
            Amount::Plain(bits) if bits != 0 => Ok(What::Bits(bits)),
            _ => {
                self.at = start;
                self.wrong("a number with a bit set is expected here: no number shares a bit with 0".into())
            }
        }
    }

    /// An amount that fits the field's type.
    fn amount_of(&mut self, field: &Field) -> Parsed<Amount> {
        self.blanks();
        let start = self.at;
        let percentile = matches!(field.kind, Type::Duration | Type::Number);
        let amount = self.amount(percentile).map_err(|mut error| {
            if error.column == start && error.expected.is_empty() {
                error.expected = format!("{} is expected here{}", title(&field.kind), self.not_found());
                error.possible = example(&field.kind).0.iter().map(|text| (*text).to_string()).collect();
            }
            error
        })?;
        let (plain, number) = (matches!(amount, Amount::Plain(_)), matches!(field.kind, Type::Number));
        if plain != number && !matches!(amount, Amount::Percentile(_)) {
            let read = self.text.get(start..self.at).unwrap_or("");
            let (expected, possible) = match amount {
                Amount::Plain(_) => (
                    format!("a unit is expected, `{}` is {}", field.name, title(&field.kind)),
                    ["ns", "us", "ms", "s"].map(|unit| format!("{}{unit}", read.trim_end())).to_vec(),
                ),
                _ => (format!("a number is expected here, `{}` has no unit of time", field.name), Vec::new()),
            };
            self.at = start;
            return self.wrong_of(expected, possible);
        }
        Ok(amount)
    }

    /// A number, a duration, ticks or a percentile. An error without words: it is none of them.
    fn amount(&mut self, percentile: bool) -> Parsed<Amount> {
        self.blanks();
        let start = self.at;
        if let Some(rest) = self.rest().strip_prefix(['p', 'P'])
            && rest.starts_with(|c: char| c.is_ascii_digit())
        {
            self.at += 1;
            let digits = self.decimal();
            let Some(millionths) = scaled(&digits, 1_000_000).filter(|value| *value <= 100_000_000) else {
                self.at = start;
                return self.wrong("a percentile is expected here, p0 to p100 with six digits at most".into());
            };
            if !percentile {
                self.at = start;
                return self.wrong("a percentile is of durations and numbers only".into());
            }
            return Ok(Amount::Percentile(u32::try_from(millionths).unwrap_or(u32::MAX)));
        }
        if let Some(rest) = self.rest().strip_prefix("0x") {
            let digits = rest.get(..rest.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(rest.len())).unwrap_or("");
            let Ok(value) = u64::from_str_radix(digits, 16) else {
                return self.wrong("a number of up to 64 bits is expected here".into());
            };
            self.at += "0x".len() + digits.len();
            return Ok(Amount::Plain(value));
        }
        let digits = self.decimal();
        if digits.is_empty() {
            return self.wrong(String::new());
        }
        let unit_at = self.at;
        let unit = self.peek_name();
        self.at = start;
        let amount = match unit {
            "" => scaled(&digits, 1).map(Amount::Plain),
            "tk" if self.schema.clock == Clock::Ns => {
                return self.wrong_of(
                    "a time is expected here: this source has no counter whose ticks could be asked for".into(),
                    UNITS.iter().rev().map(|(unit, _)| (*unit).to_string()).collect(),
                );
            }
            "tk" => scaled(&digits, 1).map(Amount::Ticks),
            _ => match UNITS.iter().find(|(name, _)| *name == unit) {
                Some((_, size)) => scaled(&digits, *size).map(Amount::Ns),
                None => {
                    self.at = unit_at;
                    let possible = UNITS.iter().rev().map(|(unit, _)| *unit).chain(["tk"]);
                    return self
                        .wrong_of(format!("a unit is expected here{}", self.not_found_cpu()), closest(unit, possible));
                }
            },
        };
        match amount {
            Some(amount) => {
                self.at = unit_at + unit.len();
                Ok(amount)
            }
            None if digits.contains('.') && matches!(unit, "" | "tk") => {
                self.wrong("a whole number is expected here".into())
            }
            None => self.wrong(format!(
                "an amount is expected here of whole nanoseconds, up to 2^64 - 1: `{digits}{unit}` can't be held exactly"
            )),
        }
    }

    /// Takes digits, with `_` among them and at most one point that a digit follows (`..` is a range).
    fn decimal(&mut self) -> String {
        let rest = self.rest();
        let mut point = false;
        let mut end = 0;
        let mut digits = String::new();
        for (at, c) in rest.char_indices() {
            let follows = rest.get(at + 1..).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            match c {
                '0'..='9' => digits.push(c),
                '_' if end > 0 && follows => {}
                '.' if end > 0 && follows && !point => {
                    point = true;
                    digits.push(c);
                }
                _ => break,
            }
            end = at + 1;
        }
        self.at += end;
        digits
    }

    /// A word of an enumeration, by its place.
    fn word(&mut self, field: &Field, words: &[&str]) -> Parsed<u8> {
        self.blanks();
        let start = self.at;
        let found = if self.rest().starts_with(['"', '\'']) {
            self.string()?
        } else {
            let word = self.peek_word();
            self.at += word.len();
            word.to_string()
        };
        let place = words.iter().position(|word| same_word(word, &found)).and_then(|place| u8::try_from(place).ok());
        place.map_or_else(
            || {
                self.at = start;
                let possible = closest(&found, words.iter().copied());
                self.wrong_of(format!("a word of `{}` is expected here{}", field.name, self.not_found()), possible)
            },
            Ok,
        )
    }

    /// A text, in quotes or a word without.
    fn string(&mut self) -> Parsed<String> {
        self.blanks();
        let rest = self.rest();
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            let word = self.peek_word();
            if word.is_empty() {
                return self.wrong(format!("a name is expected here, or a text in quotes{}", self.not_found()));
            }
            self.at += word.len();
            return Ok(word.to_string());
        };
        let mut text = String::new();
        let mut chars = rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += at + c.len_utf8();
                    return Ok(text);
                }
                '\\' => match chars.next_if(|(_, next)| *next == quote || *next == '\\') {
                    Some((_, next)) => text.push(next),
                    None => text.push(c),
                },
                c => text.push(c),
            }
        }
        self.wrong(format!("a text is expected here, with {quote} at its end too"))
    }
}

/// The links of a chain of `&&` (or of `||`), itself where it is none.
fn links(part: Expr, all: bool) -> Vec<Expr> {
    match part {
        Expr::All(parts) if all => parts,
        Expr::Any(parts) if !all => parts,
        part => vec![part],
    }
}

fn order(operator: &str) -> Order {
    match operator {
        "!=" => Order::Unequal,
        "<" => Order::Below,
        "<=" => Order::AtMost,
        ">" => Order::Above,
        ">=" => Order::AtLeast,
        _ => Order::Equal,
    }
}

/// Upper or lower case, `-` as `_`.
fn same_word(word: &str, found: &str) -> bool {
    word.eq_ignore_ascii_case(found) || word.eq_ignore_ascii_case(&found.replace('-', "_"))
}

/// Values of a type, and a range.
const fn example(kind: &Type) -> (&'static [&'static str], &'static str) {
    match kind {
        Type::Number => (&["12", "0x1f"], "3..9"),
        Type::Time => (&["1.2s", "500us"], "1.2s..1.3s"),
        _ => (&["500ns", "10us", "1.5ms", "p99.9"], "10us..20us"),
    }
}

/// Whether nothing can be in a range; of different units that is not known here.
fn is_empty(from: Amount, until: Amount, closed: bool) -> bool {
    let (from, until) = match (from, until) {
        (Amount::Plain(from), Amount::Plain(until))
        | (Amount::Ns(from), Amount::Ns(until))
        | (Amount::Ticks(from), Amount::Ticks(until)) => (from, until),
        (Amount::Percentile(from), Amount::Percentile(until)) => (from.into(), until.into()),
        _ => return false,
    };
    if closed { from > until } else { from >= until }
}
