//! User-data → fragment, in each form that people give it.
//!
//! It may hold other people's secrets: no message here repeats a word of it, but for what is under the agent's own key.

mod mime;

use std::fmt;
use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::MultiGzDecoder;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::error::{ConfigError, ConfigErrors};
use super::file::{self, Limits};
use super::fragment::{Field, Fragment, Mapping, present};
use super::source::{Place, Source};

use mime::Leaf;

/// EC2 takes 16 KB; text shrinks to a tenth at best.
const MAX_EXPANDED: u64 = 1 << 20;
/// Where cloud-init looks for the header that makes a MIME message.
const MIME_HEAD: usize = 4096;
const OWN_TYPE: (&str, &str) = ("text", "x-instance-agent");
const CLOUD_TYPE: (&str, &str) = ("text", "cloud-config");
const PLAIN_TYPE: (&str, &str) = ("text", "plain");
/// Of the agent's part of a `#cloud-config`.
const OWN_KEY: &str = "instance_agent";

/// How the configuration stood in the user-data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// Under `instance_agent:` in a `#cloud-config`.
    CloudConfig,
    /// A document that begins with `#instance-agent`.
    Document,
    /// A part of a MIME message, counted from 1.
    MimePart(usize),
    /// Not found out.
    Unknown,
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CloudConfig => f.write_str("user-data (#cloud-config)"),
            Self::Document => f.write_str("user-data (#instance-agent)"),
            Self::MimePart(number) => write!(f, "user-data (MIME part {number})"),
            Self::Unknown => f.write_str("user-data"),
        }
    }
}

/// What user-data turned out to be.
#[derive(Debug, Clone)]
pub(super) enum UserData {
    Configuration(Source, Box<Fragment>),
    /// Not meant for the agent; what it is, in a few words.
    Foreign(&'static str),
    /// Cannot be read, so it may or may not be meant for the agent.
    Damaged(String),
}

/// Where in this user-data the agent's configuration stands, if it holds one; what it says is not looked into.
pub fn source_of(raw: &[u8]) -> Result<Option<Source>, ConfigErrors> {
    Ok(match read(raw)? {
        UserData::Configuration(source, _) => Some(source),
        UserData::Foreign(_) | UserData::Damaged(_) => None,
    })
}

/// Tells what this is. An error is one of a configuration that is the agent's.
pub(super) fn read(raw: &[u8]) -> Result<UserData, ConfigErrors> {
    if !raw.starts_with(&[0x1f, 0x8b]) {
        return read_plain(raw);
    }
    match expand(raw) {
        Ok(expanded) => read_plain(&expanded),
        Err(problem) => Ok(UserData::Damaged(problem)),
    }
}

fn expand(raw: &[u8]) -> Result<Vec<u8>, String> {
    let mut expanded = Vec::new();
    let read = MultiGzDecoder::new(raw).take(MAX_EXPANDED + 1).read_to_end(&mut expanded);
    read.map_err(|error| format!("gzip that cannot be expanded: {error}"))?;
    if expanded.len() as u64 > MAX_EXPANDED {
        return Err("gzip that expands to more than 1 MiB".to_owned());
    }
    Ok(expanded)
}

fn read_plain(bytes: &[u8]) -> Result<UserData, ConfigErrors> {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    match Kind::of(bytes) {
        Kind::Mime => read_mime(bytes),
        Kind::CloudConfig => read_yaml(bytes, Form::CloudConfig, cloud_config),
        Kind::Document => read_yaml(bytes, Form::Document, document),
        Kind::Foreign(what) => Ok(UserData::Foreign(what)),
        Kind::Binary => Ok(UserData::Damaged("binary data in no form that is known".to_owned())),
    }
}

/// What a text begins like; cloud-init skips white space and does not mind case.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Mime,
    CloudConfig,
    Document,
    Foreign(&'static str),
    Binary,
}

const OTHER_TEXT: &str =
    "text in another form: a document for the agent has #instance-agent alone in its first line";

impl Kind {
    fn of(bytes: &[u8]) -> Self {
        let start = bytes.trim_ascii_start();
        let first =
            start.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii_end().to_ascii_lowercase();
        let known: [(&[u8], _); 9] = [
            (b"#!", "a script (#!)"),
            (b"#cloud-config-archive", "a #cloud-config-archive"),
            (b"#cloud-config-jsonp", "a #cloud-config-jsonp"),
            (b"#cloud-boothook", "a #cloud-boothook"),
            (b"#include", "a list of addresses (#include)"),
            (b"#part-handler", "a #part-handler"),
            (b"#upstart-job", "an #upstart-job"),
            (b"## template:", "a template (## template), which only cloud-init can fill in"),
            (b"<", "a script for Windows or a document in XML"),
        ];
        if start.is_empty() {
            return Self::Foreign("empty");
        } else if first == b"#instance-agent" {
            return Self::Document;
        } else if let Some((_, what)) = known.iter().find(|(start, _)| first.starts_with(start)) {
            return Self::Foreign(what);
        } else if first.starts_with(b"#cloud-config") {
            return Self::CloudConfig;
        } else if first.starts_with(b"content-type:") || mentions_mime(start) {
            return Self::Mime;
        } else if is_base64(start) {
            return Self::Foreign("base64: encoded once too often, as EC2 decodes it only once");
        }
        if std::str::from_utf8(bytes).is_ok() { Self::Foreign(OTHER_TEXT) } else { Self::Binary }
    }
}

fn mentions_mime(text: &[u8]) -> bool {
    let head = text.get(..MIME_HEAD).unwrap_or(text).to_ascii_lowercase();
    head.windows(13).any(|window| window == b"mime-version:")
}

/// Base64 of something that would be understood.
fn is_base64(text: &[u8]) -> bool {
    let digits: Vec<u8> = text.iter().copied().filter(|b| !b.is_ascii_whitespace()).collect();
    STANDARD.decode(digits).is_ok_and(|inner| {
        [&b"#"[..], &[0x1f, 0x8b], b"Content-Type:", b"MIME-Version:"]
            .iter()
            .any(|start| inner.starts_with(start))
    })
}

type Parse = fn(&str, &Source) -> Result<Parsed, ConfigErrors>;

/// What a text holds. A mistake in what is the agent's for certain is an error instead.
enum Parsed {
    Nothing,
    Fields(Box<Fragment>),
    Unreadable(String),
}

impl From<Option<Fragment>> for Parsed {
    fn from(fragment: Option<Fragment>) -> Self {
        fragment.map_or(Self::Nothing, |fragment| Self::Fields(Box::new(fragment)))
    }
}

fn read_yaml(bytes: &[u8], form: Form, parse: Parse) -> Result<UserData, ConfigErrors> {
    let foreign = match form {
        Form::CloudConfig => "a #cloud-config without instance_agent:",
        Form::Document | Form::MimePart(_) | Form::Unknown => "a document that says nothing",
    };
    let source = Source::UserData(form);
    let Ok(text) = std::str::from_utf8(bytes) else { return Ok(UserData::Damaged(not_utf8(&source))) };
    Ok(match parse(text, &source)? {
        Parsed::Nothing => UserData::Foreign(foreign),
        Parsed::Fields(fragment) => UserData::Configuration(source, fragment),
        Parsed::Unreadable(problem) => UserData::Damaged(problem),
    })
}

fn not_utf8(source: &Source) -> String {
    format!("not UTF-8 text, but {source} must be")
}

fn document(text: &str, source: &Source) -> Result<Parsed, ConfigErrors> {
    let document = file::document(text, source, Limits::USER_DATA)?;
    let fragment = file::fields(document, &Place { source: source.clone(), line: None }, None)?;
    Ok(fragment.into())
}

/// The rest of the document is cloud-init's.
#[derive(Deserialize)]
struct CloudConfig {
    #[serde(default, deserialize_with = "present")]
    instance_agent: Field<Mapping<Fragment>>,
}

fn cloud_config(text: &str, source: &Source) -> Result<Parsed, ConfigErrors> {
    // What does not concern the agent is not even parsed: its mistakes are cloud-init's to report.
    if !text.contains(OWN_KEY) {
        return Ok(Parsed::Nothing);
    }
    let mistakes = match fields_of(text, source) {
        Ok(fragment) => return Ok(fragment.into()),
        Err(mistakes) => mistakes,
    };
    // The mistake is the agent's where the document is right as YAML.
    if file::document::<IgnoredAny>(text, source, Limits::USER_DATA).is_ok() {
        return Err(mistakes);
    }
    let Some(own) = OwnLines::of(text) else {
        return Ok(Parsed::Unreadable(format!("a #cloud-config with {OWN_KEY} in it, but {mistakes}")));
    };
    if mistakes.iter().all(|mistake| own.have(mistake)) {
        return Err(mistakes);
    }
    // It is in what is not the agent's, which hides nothing of its own.
    Ok(fields_of(&own.alone(), source)?.into())
}

fn fields_of(text: &str, source: &Source) -> Result<Option<Fragment>, ConfigErrors> {
    let document = file::document::<CloudConfig>(text, source, Limits::USER_DATA)?;
    let Some(field) = document.and_then(|document| document.instance_agent) else { return Ok(None) };
    let place = Place::of(source, &field);
    file::fields(Some(field.value), &place, Some(OWN_KEY))
}

/// `instance_agent:` at the top level of a `#cloud-config`, and all below it.
struct OwnLines<'t> {
    /// Lines before it.
    before: usize,
    lines: Vec<&'t str>,
}

impl<'t> OwnLines<'t> {
    /// `None`: it does not stand at the beginning of a line, as in `{instance_agent: …}`.
    fn of(text: &'t str) -> Option<Self> {
        let keys: Vec<usize> =
            (0..).zip(text.lines()).filter(|(_, line)| is_own_key(line)).map(|it| it.0).collect();
        // Given twice is a mistake in what is the agent's, so all from the first to the last is.
        let (before, last) = (*keys.first()?, *keys.last()?);
        let below = text.lines().skip(last + 1).take_while(|line| is_below(line)).count();
        let lines = text.lines().take(last + 1 + below).skip(before).collect();
        Some(Self { before, lines })
    }

    fn have(&self, mistake: &ConfigError) -> bool {
        let line = mistake.place().line.and_then(|line| usize::try_from(line).ok());
        line.is_some_and(|line| line > self.before && line <= self.before + self.lines.len())
    }

    /// With as many empty lines before, so that mistakes name their lines.
    fn alone(&self) -> String {
        "\n".repeat(self.before) + &self.lines.join("\n")
    }
}

fn is_own_key(line: &str) -> bool {
    line.strip_prefix(OWN_KEY).is_some_and(|rest| rest.trim_start().starts_with(':'))
}

/// A line of the value of the key above: indented, but for items of a list and the end of a flow mapping.
fn is_below(line: &str) -> bool {
    let line = line.trim_end();
    line.is_empty() || line == "-" || line.starts_with("- ") || line.starts_with([' ', '\t', '#', '}', ']'])
}

fn read_mime(bytes: &[u8]) -> Result<UserData, ConfigErrors> {
    let leaves = match mime::leaves(bytes.trim_ascii_start()) {
        Ok(leaves) => leaves,
        Err(problem) => return Ok(UserData::Damaged(problem)),
    };
    let mut found = UserData::Foreign(
        "a MIME message without a part of type text/x-instance-agent or a #cloud-config with instance_agent:",
    );
    for (i, leaf) in leaves.iter().enumerate() {
        match (read_part(leaf, Form::MimePart(i + 1))?, &found) {
            (UserData::Configuration(source, _), UserData::Configuration(first, _)) => {
                let problem = format!("is a second configuration beside {first}: keep one");
                return Err(ConfigError::of_source(Place { source, line: None }, problem).into());
            }
            (damaged @ UserData::Damaged(_), _) if leaf.is(OWN_TYPE) => return Ok(damaged),
            (found_here @ UserData::Configuration(..), _)
            | (found_here @ UserData::Damaged(_), UserData::Foreign(_)) => found = found_here,
            _ => {}
        }
    }
    Ok(found)
}

fn read_part(leaf: &Leaf<'_>, form: Form) -> Result<UserData, ConfigErrors> {
    let is_own = leaf.is(OWN_TYPE);
    if !is_own && !leaf.is(CLOUD_TYPE) && !leaf.is(PLAIN_TYPE) {
        return Ok(UserData::Foreign("another part"));
    }
    let Some(text) = leaf.text() else {
        let damaged = UserData::Damaged(not_utf8(&Source::UserData(form)));
        return Ok(if is_own { damaged } else { UserData::Foreign("another part") });
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let parse: Parse = match Kind::of(text.as_bytes()) {
        _ if is_own => document,
        _ if leaf.is(CLOUD_TYPE) => cloud_config,
        Kind::Document => document,
        Kind::CloudConfig => cloud_config,
        _ => return Ok(UserData::Foreign("another part")),
    };
    read_yaml(text.as_bytes(), form, parse)
}

#[cfg(test)]
mod tests;
