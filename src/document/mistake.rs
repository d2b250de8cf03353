//! Mistakes with their position, as text, as JSON and for the terminal.
//! Not here: which mistakes there are (`decode`, `expand`, and the rooms that check).

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::conceal::conceal;
use super::{MISTAKES_MAX, Span};

/// Characters of a source line that a snippet shows.
const SNIPPET_CHARS_MAX: usize = 160;

/// The kind of a mistake, stable for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// The file is missing, unreadable or not UTF-8.
    Unreadable,
    /// The file, or what its aliases come to, is too large.
    TooLarge,
    /// Not YAML.
    Syntax,
    /// A key that stands twice in one mapping.
    DuplicateKey,
    /// A key nobody knows.
    UnknownKey,
    /// Text where a number is wanted, and the like.
    WrongType,
    /// `${NAME}` without a value.
    UnsetVariable,
    /// `${…}` that is not one of the two forms.
    BadVariable,
    /// Something required is absent.
    Missing,
    /// The right type, but not a value we accept.
    InvalidValue,
    /// An id that stands twice.
    DuplicateId,
    /// A key that would do nothing.
    NoEffect,
    /// Keys that exclude each other.
    Conflict,
    /// A command, file or directory that is not there.
    NotFound,
    /// A secret anybody could guess.
    WeakSecret,
    /// A secret that others can read, in a file or on the wire.
    Exposed,
    /// Something whose time is over.
    Expired,
    /// Something that nothing refers to.
    Unused,
}

impl Code {
    /// The code as text, such as `unknown_key`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::TooLarge => "too_large",
            Self::Syntax => "syntax",
            Self::DuplicateKey => "duplicate_key",
            Self::UnknownKey => "unknown_key",
            Self::WrongType => "wrong_type",
            Self::UnsetVariable => "unset_variable",
            Self::BadVariable => "bad_variable",
            Self::Missing => "missing",
            Self::InvalidValue => "invalid_value",
            Self::DuplicateId => "duplicate_id",
            Self::NoEffect => "no_effect",
            Self::Conflict => "conflict",
            Self::NotFound => "not_found",
            Self::WeakSecret => "weak_secret",
            Self::Exposed => "exposed",
            Self::Expired => "expired",
            Self::Unused => "unused",
        }
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file is not accepted.
    Error,
    /// The file is accepted, and probably does not do what its author wants.
    Warning,
}

/// Something that values come from.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    text: Option<Arc<str>>,
}

impl Source {
    /// A file, or a text that is treated as one.
    pub fn file(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: Some(Arc::from(text)) }
    }

    /// An environment variable or a flag. Its value is not kept: it may be a secret.
    pub fn outside(name: impl Into<String>) -> Self {
        Self { name: name.into(), text: None }
    }

    /// What mistakes call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether positions in it mean something.
    pub fn is_file(&self) -> bool {
        self.text.is_some()
    }
}

/// What is wrong in one place.
#[derive(Debug, Clone)]
pub struct Mistake {
    /// The file, or the variable or flag the value came from.
    pub file: String,
    /// Line, from 1; 0 when the value did not come from a file.
    pub line: usize,
    /// Column in characters, from 1; 0 when the value did not come from a file.
    pub column: usize,
    /// Bytes of the file.
    pub span: (usize, usize),
    /// Whether the file is refused because of it.
    pub severity: Severity,
    /// Its kind.
    pub code: Code,
    /// What is wrong.
    pub message: String,
    /// What to do about it, where we know.
    pub suggestion: Option<String>,
    /// The line of the file, at most 160 characters; empty when there is none.
    pub snippet: String,
    source: Option<Arc<NamedSource<Arc<str>>>>,
}

impl Mistake {
    /// A mistake about a file as a whole.
    pub fn whole(file: impl Into<String>, code: Code, message: impl Into<String>) -> Self {
        Self {
            file: file.into(),
            line: 0,
            column: 0,
            span: (0, 0),
            severity: Severity::Error,
            code,
            message: message.into(),
            suggestion: None,
            snippet: String::new(),
            source: None,
        }
    }

    /// Place, message and advice without the snippet, for a line of a log.
    pub fn one_line(&self) -> String {
        let place = if self.line > 0 { format!(":{}:{}", self.line, self.column) } else { String::new() };
        let advice = self.suggestion.as_ref().map_or_else(String::new, |text| format!(" ({text})"));
        format!("{}{place}: {}{advice}", self.file, self.message)
    }

    /// How many characters the caret underlines.
    fn width(&self) -> usize {
        let rest = self.snippet.chars().count().saturating_sub(self.column.saturating_sub(1));
        let bytes = self.span.1.saturating_sub(self.span.0);
        let text = self.snippet.chars().skip(self.column.saturating_sub(1));
        let mut left = bytes;
        let chars = text.take_while(|c| {
            let fits = left > 0;
            left = left.saturating_sub(c.len_utf8());
            fits
        });
        chars.count().clamp(1, rest.max(1))
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        let word = if self.severity == Severity::Warning { "warning: " } else { "" };
        write!(f, ": {word}{}", self.message)?;
        if self.snippet.is_empty() {
            return self.suggestion.as_ref().map_or(Ok(()), |text| write!(f, " ({text})"));
        }
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        // Tabs keep their width when the line under them has them too.
        let pad: String = self
            .snippet
            .chars()
            .take(self.column.saturating_sub(1))
            .map(|c| if c == '\t' { '\t' } else { ' ' })
            .collect();
        write!(f, "\n  {number} | {}\n  {margin} | {pad}{}", self.snippet, "^".repeat(self.width()))?;
        self.suggestion.as_ref().map_or(Ok(()), |text| write!(f, " {text}"))
    }
}

impl std::error::Error for Mistake {}

impl Diagnostic for Mistake {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code.as_str()))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.suggestion.as_ref().map(|text| Box::new(text) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_deref().map(|source| source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let (start, end) = self.span;
        self.source.as_ref()?;
        Some(Box::new(std::iter::once(LabeledSpan::new(None, start, end.saturating_sub(start)))))
    }
}

impl Serialize for Mistake {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Mistake", 9)?;
        out.serialize_field("file", &self.file)?;
        out.serialize_field("line", &self.line)?;
        out.serialize_field("column", &self.column)?;
        out.serialize_field("span", &self.span)?;
        out.serialize_field("severity", &self.severity)?;
        out.serialize_field("code", &self.code)?;
        out.serialize_field("message", &self.message)?;
        out.serialize_field("suggestion", &self.suggestion)?;
        out.serialize_field("snippet", &self.snippet)?;
        out.end()
    }
}

/// What is wrong, in file order. As an error it is never empty; what a file was accepted with may be.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(transparent)]
pub struct Mistakes {
    /// The mistakes.
    pub list: Vec<Mistake>,
}

impl Mistakes {
    /// One mistake.
    pub fn one(mistake: Mistake) -> Self {
        Self { list: vec![mistake] }
    }

    /// Whether there is nothing wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many of them are of that severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|mistake| mistake.severity == severity).count()
    }

    /// The first error, or if there is none the first warning.
    pub fn first(&self) -> Option<&Mistake> {
        self.list.iter().find(|mistake| mistake.severity == Severity::Error).or(self.list.first())
    }

    /// The first line of the first mistake, for a log line or an API answer. Errors come before warnings.
    pub fn brief(&self) -> String {
        let first = self.first().map_or_else(String::new, |mistake| {
            let place = if mistake.line > 0 { format!(" at line {}", mistake.line) } else { String::new() };
            format!("{}{place}", mistake.message)
        });
        match self.list.len() {
            0 | 1 => first,
            count => format!("{first} (and {} more)", count - 1),
        }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, mistake) in self.list.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            mistake.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl Diagnostic for Mistakes {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(self.list.iter().map(|mistake| mistake as &dyn Diagnostic)))
    }
}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub struct Report {
    sources: Vec<Source>,
    found: Vec<Found>,
    seen: HashSet<(Span, Code, String)>,
    left_out: usize,
    errors: usize,
    taken_out: Vec<Span>,
}

#[derive(Debug)]
struct Found {
    span: Span,
    severity: Severity,
    code: Code,
    message: String,
    suggestion: Option<String>,
}

impl Found {
    fn new(span: Span, severity: Severity, code: Code, message: String, suggestion: Option<String>) -> Self {
        Self { span, severity, code, message, suggestion }
    }
}

impl Report {
    /// Adds something that values come from and tells its number.
    pub fn add_source(&mut self, source: Source) -> u32 {
        self.sources.push(source);
        u32::try_from(self.sources.len() - 1).unwrap_or(u32::MAX)
    }

    /// The source of that number.
    pub fn source(&self, number: u32) -> Option<&Source> {
        self.sources.get(number as usize)
    }

    /// The beginning of a source.
    pub fn start(&self, source: u32) -> Span {
        Span { source, start: 0, end: 0 }
    }

    /// Reports a mistake.
    pub fn add(&mut self, span: Span, code: Code, message: impl Into<String>) {
        self.push(Found::new(span, Severity::Error, code, message.into(), None));
    }

    /// Reports a mistake and what to do about it.
    pub fn advise(
        &mut self,
        span: Span,
        code: Code,
        message: impl Into<String>,
        suggestion: impl Into<String>,
    ) {
        self.push(Found::new(span, Severity::Error, code, message.into(), Some(suggestion.into())));
    }

    /// Reports something that is accepted and yet hardly meant.
    pub fn warn(&mut self, span: Span, code: Code, message: impl Into<String>) {
        self.push(Found::new(span, Severity::Warning, code, message.into(), None));
    }

    /// As [`Report::warn`], and what to do about it.
    pub fn warn_advise(
        &mut self,
        span: Span,
        code: Code,
        message: impl Into<String>,
        suggestion: impl Into<String>,
    ) {
        self.push(Found::new(span, Severity::Warning, code, message.into(), Some(suggestion.into())));
    }

    /// Notes that a value was taken out because it was wrong, which was reported.
    pub(super) fn take_out(&mut self, span: Span) {
        self.taken_out.push(span);
    }

    /// Whether something inside `span` was taken out: what seems to be missing there may be just that.
    pub fn is_incomplete(&self, span: Span) -> bool {
        let inside =
            |inner: &Span| inner.source == span.source && inner.start >= span.start && inner.end <= span.end;
        self.taken_out.iter().any(inside)
    }

    /// Whether nothing was reported but warnings.
    pub fn is_empty(&self) -> bool {
        self.errors == 0
    }

    /// The source's text at a span.
    pub fn text(&self, span: Span) -> Option<&str> {
        let text = self.source(span.source)?.text.as_deref()?;
        text.get(span.start as usize..span.end as usize)
    }

    /// The line of a span, from 1; 0 when its source has no lines.
    pub fn line(&self, span: Span) -> usize {
        let text = self.source(span.source).and_then(|source| source.text.as_deref());
        text.map_or(0, |text| position(text, span.start as usize).0)
    }

    /// Everything that was reported, in file order: the warnings if there is nothing worse, else all of it as the
    /// error.
    ///
    /// # Errors
    /// If anything but warnings was reported.
    pub fn finish(mut self) -> Result<Mistakes, Mistakes> {
        self.found.sort_by_key(|found| found.span);
        let named: Vec<_> = self.sources.iter().map(named).collect();
        let mut list: Vec<_> = self.found.iter().map(|found| self.mistake(found, &named)).collect();
        if self.left_out > 0 {
            let file = self.sources.first().map_or("", Source::name);
            let message = format!("{} more mistakes are not listed", self.left_out);
            let mut rest = Mistake::whole(file, Code::TooLarge, message);
            rest.severity = if self.errors > 0 { Severity::Error } else { Severity::Warning };
            list.push(rest);
        }
        if self.errors > 0 { Err(Mistakes { list }) } else { Ok(Mistakes { list }) }
    }

    fn push(&mut self, found: Found) {
        let is_error = found.severity == Severity::Error;
        // Warnings must not crowd out what has to be mended first.
        let alike = if is_error { self.errors } else { self.found.len() - self.errors };
        // The same thing is met again when an alias repeats it, or when decoding starts over.
        if alike >= MISTAKES_MAX {
            self.left_out += 1;
        } else if self.seen.insert((found.span, found.code, found.message.clone())) {
            self.errors += usize::from(is_error);
            self.found.push(found);
        }
    }

    fn mistake(&self, found: &Found, named: &[Option<Arc<NamedSource<Arc<str>>>>]) -> Mistake {
        let source = self.source(found.span.source);
        let name = source.map_or("", Source::name);
        let mut mistake = Mistake::whole(name, found.code, found.message.as_str());
        mistake.severity = found.severity;
        mistake.suggestion.clone_from(&found.suggestion);
        if let Some(text) = source.and_then(|source| source.text.as_deref()) {
            let (start, end) = (found.span.start as usize, found.span.end as usize);
            mistake.span = (start, end);
            (mistake.line, mistake.column) = position(text, start);
            let line = text.lines().nth(mistake.line.saturating_sub(1)).unwrap_or_default();
            let line = conceal(line);
            mistake.snippet = line.chars().take(SNIPPET_CHARS_MAX).collect::<String>().trim_end().to_owned();
            mistake.source = named.get(found.span.source as usize).cloned().flatten();
        }
        mistake
    }
}

fn named(source: &Source) -> Option<Arc<NamedSource<Arc<str>>>> {
    source.text.as_ref().map(|text| Arc::new(NamedSource::new(source.name(), conceal(text).into())))
}

/// Line and column, both from 1, of a byte.
fn position(text: &str, at: usize) -> (usize, usize) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = text.get(..at).unwrap_or_default();
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let column = before.get(start..).unwrap_or_default().chars().count() + 1;
    (line, column)
}
