//! Markdown, as far as the documentation uses it, to the language of manual pages.

use std::io;

use pulldown_cmark::{CodeBlockKind, Event, HeadingLevel, Options, Parser, Tag, TagEnd};

/// Fails on what it does not know, rather than leave it out.
pub(crate) fn to_roff(text: &str) -> io::Result<String> {
    let mut page = Page::default();
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        page.take(event)?;
    }
    Ok(page.roff)
}

#[derive(Default)]
struct Page {
    roff: String,
    /// The line that is being written.
    line: String,
    in_code: bool,
    heading: bool,
    after_heading: bool,
    /// The header of a table, and of its current row what there is so far.
    header: Vec<String>,
    row: Vec<String>,
}

impl Page {
    fn take(&mut self, event: Event<'_>) -> io::Result<()> {
        match event {
            Event::Start(tag) => return self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text) if self.in_code => self.line += &escape(&text),
            Event::Text(text) if self.heading => self.line += &escape(&text.to_uppercase()),
            Event::Text(text) => self.line += &escape(&text),
            Event::Code(code) => self.line += &format!("\\fB{}\\fR", escape(&code)),
            Event::SoftBreak => self.line.push('\n'),
            other => return Err(unknown(&other)),
        }
        Ok(())
    }

    fn start(&mut self, tag: &Tag<'_>) -> io::Result<()> {
        match tag {
            // A heading begins one too.
            Tag::Paragraph if self.after_heading => self.after_heading = false,
            Tag::Paragraph => self.roff += ".PP\n",
            Tag::Heading { level: HeadingLevel::H2, .. } => {
                self.heading = true;
                self.line = ".SH ".into();
            }
            Tag::Heading { level: HeadingLevel::H3, .. } => self.line = ".SS ".into(),
            Tag::CodeBlock(CodeBlockKind::Fenced(_)) => {
                self.in_code = true;
                self.roff += ".PP\n.RS 4\n.nf\n";
            }
            Tag::Item => self.roff += ".IP \\(bu 2\n",
            Tag::Emphasis => self.line += "\\fI",
            Tag::Strong => self.line += "\\fB",
            // Where a link leads is of no use on paper.
            Tag::List(None) | Tag::Link { .. } | Tag::TableCell | Tag::TableRow | Tag::TableHead => {}
            Tag::Table(_) => self.header.clear(),
            other => return Err(unknown(other)),
        }
        Ok(())
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Paragraph | TagEnd::Item => self.flush(),
            TagEnd::Heading(_) => {
                self.heading = false;
                self.flush();
                self.after_heading = true;
            }
            TagEnd::CodeBlock => {
                self.in_code = false;
                self.flush();
                self.roff += ".fi\n.RE\n";
            }
            TagEnd::Emphasis | TagEnd::Strong => self.line += "\\fR",
            TagEnd::TableCell => self.row.push(std::mem::take(&mut self.line)),
            TagEnd::TableHead => self.header = std::mem::take(&mut self.row),
            TagEnd::TableRow => self.entry(),
            _ => {}
        }
    }

    /// A row of a table: its first cell with what the second says of it in short, then the rest.
    fn entry(&mut self) {
        let row = std::mem::take(&mut self.row);
        let mut cells = row.iter().map(String::as_str);
        let name = cells.next().unwrap_or_default();
        let second = cells.next().unwrap_or_default();
        let (tag, text) = match (cells.next(), second) {
            (None, text) => (name.to_owned(), self.predicate(text)),
            (Some(text), "required") => (format!("{name} (required)"), text.to_owned()),
            (Some(text), default) => (format!("{name} (default: {default})"), text.to_owned()),
        };
        let text = if text.is_empty() { "\\&" } else { &text };
        self.after_heading = false;
        self.roff += &format!(".TP\n{tag}\n{}\n", protected(text));
    }

    /// A header of one word, such as "replaces", makes a sentence with the cell below it.
    fn predicate(&self, text: &str) -> String {
        match self.header.get(1) {
            Some(verb) if !verb.is_empty() && !verb.contains(' ') => format!("{verb} {text}"),
            _ => text.to_owned(),
        }
    }

    fn flush(&mut self) {
        let line = std::mem::take(&mut self.line);
        let line = line.trim_end_matches('\n');
        if line.is_empty() {
            return;
        }
        if line.starts_with(".S") {
            self.roff += line;
        } else {
            self.roff += &protected(line);
        }
        self.roff.push('\n');
    }
}

/// No line of text may look like a request.
fn protected(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() });
    lines.collect::<Vec<_>>().join("\n")
}

/// `troff` would make typographic signs of some, and drop others.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => escaped += "\\e",
            '-' => escaped += "\\-",
            '\'' => escaped += "\\(aq",
            '`' => escaped += "\\(ga",
            '^' => escaped += "\\(ha",
            '~' => escaped += "\\(ti",
            '"' => escaped += "\\(dq",
            '…' => escaped += "...",
            '→' => escaped += "\\->",
            c => escaped.push(c),
        }
    }
    escaped
}

fn unknown(what: &impl std::fmt::Debug) -> io::Error {
    io::Error::other(format!("this Markdown has no translation into a manual page: {what:?}"))
}
