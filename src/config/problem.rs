//! What is wrong with a file, shown where it is wrong.
//!
//! The reader of a problem is a person with the file open: every problem names its place, shows the
//! line with a caret, and says what to write instead where that is known. All problems of a file are
//! reported at once, in file order.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

/// Problems shown for one file. A file that has more is not the file that was meant; the rest is counted.
const SHOWN_MAX: usize = 100;

/// Bytes between two places that are still shown together.
const TOGETHER_MAX: usize = 4096;

/// Whether a file with this problem can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, and probably does not do what was meant.
    Warning,
}

/// One problem, ready to be shown: `Display` is the whole text with the source line and a caret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Whether the file can be used all the same.
    pub severity: Severity,
    /// One line, without the place.
    pub message: String,
    /// The file, as it was named by the caller.
    pub file: String,
    /// Line, from 1 on; 0 when the file could not be read at all.
    pub line: usize,
    /// Column in characters, from 1 on; 0 when the file could not be read at all.
    pub column: usize,
    #[serde(skip)]
    rendered: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

/// Why a configuration is refused: at least one error, and the warnings beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    unseen: usize,
}

impl Problems {
    /// The file could not be read at all.
    pub(super) fn unreadable(file: &str, why: &str) -> Self {
        let message = format!("cannot read `{file}`: {why}");
        let rendered = format!("error: {message}");
        let file = file.to_owned();
        Self {
            list: vec![Problem { severity: Severity::Error, message, file, line: 0, column: 0, rendered }],
            unseen: 0,
        }
    }

    /// How many problems there are, also those beyond what is shown.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "there is always at least one")]
    pub fn len(&self) -> usize {
        self.list.len() + self.unseen
    }

    /// The problems, in file order.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.list {
            writeln!(f, "{problem}\n")?;
        }
        match self.len() {
            1 => f.write_str("1 problem"),
            many if self.unseen > 0 => write!(f, "{many} problems, the first {} shown", self.list.len()),
            many => write!(f, "{many} problems"),
        }
    }
}

impl std::error::Error for Problems {}

/// A problem by its place in the text, before it is shown.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    severity: Severity,
    at: Range<usize>,
    message: String,
    label: String,
    also: Option<(Range<usize>, String)>,
    help: Option<String>,
}

impl Finding {
    /// Points at a second place that has to do with it.
    pub(super) fn also(&mut self, at: Range<usize>, label: impl Into<String>) -> &mut Self {
        self.also = Some((at, label.into()));
        self
    }

    /// Adds a line that says what to do.
    pub(super) fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }
}

/// What was found so far in one text.
#[derive(Debug, Default)]
pub(super) struct Findings {
    list: Vec<Finding>,
    errors: usize,
    hidden: Vec<Range<usize>>,
}

impl Findings {
    /// Something that makes the file unusable. The label stands beside the caret and may be empty.
    pub(super) fn error(
        &mut self,
        at: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> &mut Finding {
        self.errors += 1;
        self.push(Severity::Error, at, message.into(), label.into())
    }

    /// Something that is probably not meant.
    pub(super) fn warning(
        &mut self,
        at: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> &mut Finding {
        self.push(Severity::Warning, at, message.into(), label.into())
    }

    fn push(&mut self, severity: Severity, at: Range<usize>, message: String, label: String) -> &mut Finding {
        let place = self.list.len();
        self.list.push(Finding { severity, at, message, label, also: None, help: None });
        &mut self.list[place]
    }

    /// Keeps these bytes of the text from being shown: a secret that was put into the file.
    pub(super) fn hide(&mut self, at: Range<usize>) {
        self.hidden.push(at);
    }

    /// How many errors there are.
    pub(super) fn errors(&self) -> usize {
        self.errors
    }

    /// The warnings when there is no error, all problems when there is one.
    pub(super) fn conclude(mut self, text: &str, file: &str) -> Result<Vec<Problem>, Problems> {
        self.list.sort_by_key(|finding| finding.at.start);
        let unseen = self.list.len().saturating_sub(SHOWN_MAX);
        // Errors go first when not all can be shown: a warning must not hide the reason of a refusal.
        if unseen > 0 {
            self.list.sort_by_key(|finding| finding.severity == Severity::Warning);
            self.list.truncate(SHOWN_MAX);
        }
        let text = masked(text, &self.hidden);
        let list = self.list.into_iter().map(|finding| finding.show(&text, file)).collect();
        if self.errors == 0 { Ok(list) } else { Err(Problems { list, unseen }) }
    }
}

impl Finding {
    fn show(self, text: &str, file: &str) -> Problem {
        let at = within(text, self.at);
        let (also, far) = match self.also.map(|(range, label)| (within(text, range), label)) {
            Some((range, label)) if range.start.abs_diff(at.start) > TOGETHER_MAX => {
                let (line, column) = place(text, range.start);
                (None, Some(format!("{label}: {file}:{line}:{column}")))
            }
            also => (also, None),
        };
        let first = also.as_ref().map_or(at.start, |(range, _)| at.start.min(range.start));
        let last = also.as_ref().map_or(at.end, |(range, _)| at.end.max(range.end));
        // Only the lines that matter are handed over: rendering walks its whole source.
        let start = text[..first].rfind('\n').map_or(0, |newline| newline + 1);
        let end = text[last..].find('\n').map_or(text.len(), |newline| last + newline);
        let shift = |range: &Range<usize>| range.start - start..range.end - start;
        let mut snippet = Snippet::source(&text[start..end])
            .path(file)
            .line_start(text[..start].matches('\n').count() + 1)
            .annotation(
                AnnotationKind::Primary.span(shift(&at)).label((!self.label.is_empty()).then_some(&*self.label)),
            );
        if let Some((range, label)) = &also {
            snippet = snippet.annotation(AnnotationKind::Context.span(shift(range)).label(label));
        }
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let mut group = level.primary_title(&self.message).element(snippet);
        if let Some(far) = &far {
            group = group.element(Level::NOTE.message(far));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help));
        }
        let rendered = Renderer::plain().render(&[group]);
        let (line, column) = place(text, at.start);
        Problem { severity: self.severity, file: file.to_owned(), line, column, message: self.message, rendered }
    }
}

/// Line and column, from 1 on, of a place on a character.
fn place(text: &str, at: usize) -> (usize, usize) {
    let line_start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
    (text[..at].matches('\n').count() + 1, text[line_start..at].chars().count() + 1)
}

/// The text with the ranges starred out, of the same length so that places stay right.
fn masked<'a>(text: &'a str, hidden: &[Range<usize>]) -> Cow<'a, str> {
    let mut text = Cow::Borrowed(text);
    for range in hidden {
        let range = within(&text, range.clone());
        let stars: String = text[range.clone()].bytes().map(|byte| if byte == b'\n' { '\n' } else { '*' }).collect();
        text.to_mut().replace_range(range, &stars);
    }
    text
}

/// The range, moved to lie on characters of the text.
fn within(text: &str, range: Range<usize>) -> Range<usize> {
    let mut start = range.start.min(text.len());
    while !text.is_char_boundary(start) {
        start -= 1;
    }
    let mut end = range.end.clamp(start, text.len());
    while !text.is_char_boundary(end) {
        end += 1;
    }
    start..end
}

/// The known name that was probably meant, if one is near enough.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    known
        .into_iter()
        .map(|candidate| (candidate, strsim::jaro_winkler(&name, &candidate.to_lowercase())))
        .filter(|(_, likeness)| *likeness > 0.8)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(candidate, _)| candidate)
}

/// "did you mean …?", or nothing.
pub(super) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(name, known).map(|meant| format!("did you mean `{meant}`?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_place_and_shows_the_line() {
        let text = "a: 1\nb: ä oops\n";
        let mut findings = Findings::default();
        findings.error(11..15, "no such thing", "did you mean `ops`?").help("write ops");
        let problems = findings.conclude(text, "x.yaml").unwrap_err();
        assert_eq!(
            problems.to_string(),
            "error: no such thing\n --> x.yaml:2:6\n  |\n2 | b: ä oops\n  |      ^^^^ did you mean `ops`?\n  |\n  = help: write \
             ops\n\n1 problem"
        );
        let problem = problems.iter().next().unwrap();
        assert_eq!((problem.line, problem.column), (2, 6));
    }

    #[test]
    fn a_second_place_far_away_is_named_rather_than_shown() {
        let text = format!("a: 1\n{}a: 2\n", "#\n".repeat(TOGETHER_MAX));
        let mut findings = Findings::default();
        findings.error(text.len() - 5..text.len() - 4, "twice", "").also(0..1, "first given here");
        let shown = findings.conclude(&text, "x").unwrap_err().to_string();
        assert!(shown.contains("note: first given here: x:1:1"), "{shown}");
    }

    #[test]
    fn hidden_bytes_are_not_shown() {
        let mut findings = Findings::default();
        findings.error(8..16, "a secret in the file", "");
        findings.hide(8..16);
        let shown = findings.conclude("secret: pässwd2\n", "x").unwrap_err().to_string();
        assert!(shown.contains("secret: ********"), "{shown}");
    }

    #[test]
    fn any_range_can_be_shown() {
        for (start, end) in [(0, 0), (0, 900), (1, 2), (3, 4), (4, 4), (5, 2), (900, 901)] {
            let mut findings = Findings::default();
            findings.error(start..end, "m", "l").also(2..3, "here");
            assert_eq!(findings.conclude("ä\nbü", "x").unwrap_err().len(), 1, "{start} {end}");
        }
    }

    #[test]
    fn too_many_problems_are_counted_and_errors_are_shown_first() {
        let mut findings = Findings::default();
        for _ in 0..150 {
            findings.warning(0..1, "odd", "");
        }
        findings.error(1..2, "wrong", "");
        let problems = findings.conclude("ab", "x").unwrap_err();
        assert_eq!((problems.len(), problems.iter().count()), (151, SHOWN_MAX));
        assert_eq!(problems.iter().next().unwrap().message, "wrong");
        assert!(problems.to_string().ends_with("151 problems, the first 100 shown"));
    }

    #[test]
    fn a_far_name_is_not_suggested() {
        assert_eq!(nearest("audience", ["audiences", "issuer"]), Some("audiences"));
        assert_eq!(nearest("es256", ["ES384", "ES256"]), Some("ES256"));
        assert_eq!(nearest("zebra", ["audiences", "issuer"]), None);
    }
}
