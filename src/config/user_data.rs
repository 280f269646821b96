//! User-data → fragment, in each form that people give it.
//!
//! It may hold other people's secrets: no message here repeats a word of it, but for what is under the agent's own key.

use std::fmt;
use std::io::Read;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::read::MultiGzDecoder;
use mail_parser::{MessageParser, MessagePart, MimeHeaders, PartType};
use serde::Deserialize;

use super::error::{ConfigError, ConfigErrors};
use super::file::{self, Limits};
use super::fragment::{Field, Fragment, Mapping};
use super::source::{Place, Source};

/// EC2 takes 16 KB; text shrinks to a tenth at best.
const MAX_EXPANDED: u64 = 1 << 20;
/// Where cloud-init looks for the header that makes a MIME message.
const MIME_HEAD: usize = 4096;
const OWN_TYPE: (&str, &str) = ("text", "x-instance-agent");

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

impl Kind {
    fn of(bytes: &[u8]) -> Self {
        let start = bytes.trim_ascii_start();
        let first =
            start.split(|b| *b == b'\n').next().unwrap_or_default().trim_ascii_end().to_ascii_lowercase();
        let known: [(&[u8], _); 8] = [
            (b"#!", "a script (#!)"),
            (b"#cloud-config-archive", "a #cloud-config-archive"),
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
        if std::str::from_utf8(bytes).is_ok() { Self::Foreign("text in another form") } else { Self::Binary }
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

type Parse = fn(&str, &Source) -> Result<Option<Fragment>, ConfigErrors>;

fn read_yaml(bytes: &[u8], form: Form, parse: Parse) -> Result<UserData, ConfigErrors> {
    let foreign = match form {
        Form::CloudConfig => "a #cloud-config without instance_agent:",
        Form::Document | Form::MimePart(_) | Form::Unknown => "a document that says nothing",
    };
    let source = Source::UserData(form);
    let Ok(text) = std::str::from_utf8(bytes) else { return Ok(UserData::Damaged(not_utf8(&source))) };
    let fragment = parse(text, &source)?;
    Ok(fragment.map_or(UserData::Foreign(foreign), |it| UserData::Configuration(source, Box::new(it))))
}

fn not_utf8(source: &Source) -> String {
    format!("not UTF-8 text, but {source} must be")
}

fn document(text: &str, source: &Source) -> Result<Option<Fragment>, ConfigErrors> {
    file::fields(
        file::document(text, source, Limits::USER_DATA)?,
        &Place { source: source.clone(), line: None },
        None,
    )
}

/// The rest of the document is cloud-init's.
#[derive(Deserialize)]
struct CloudConfig {
    #[serde(default)]
    instance_agent: Field<Mapping<Fragment>>,
}

fn cloud_config(text: &str, source: &Source) -> Result<Option<Fragment>, ConfigErrors> {
    // What does not concern the agent is not even parsed: its mistakes are cloud-init's to report.
    if !text.contains("instance_agent") {
        return Ok(None);
    }
    let document = file::document::<CloudConfig>(text, source, Limits::USER_DATA)?;
    let Some(field) = document.and_then(|document| document.instance_agent) else { return Ok(None) };
    let place = Place::of(source, &field);
    file::fields(Some(field.value), &place, Some("instance_agent"))
}

fn read_mime(bytes: &[u8]) -> Result<UserData, ConfigErrors> {
    let Some(message) = MessageParser::new().with_mime_headers().parse(bytes) else {
        return Ok(UserData::Damaged("a MIME message that cannot be read".to_owned()));
    };
    if let Some(problem) = message.parts.iter().find_map(|part| cut_off(part, bytes)) {
        return Ok(UserData::Damaged(problem.to_owned()));
    }
    let leaves = message.parts.iter().filter(|part| !matches!(part.body, PartType::Multipart(_)));
    let mut found = None;
    for (i, part) in leaves.enumerate() {
        match (read_part(part, Form::MimePart(i + 1))?, &found) {
            (UserData::Foreign(_), _) => {}
            (damaged @ UserData::Damaged(_), _) => return Ok(damaged),
            (UserData::Configuration(source, _), Some(UserData::Configuration(first, _))) => {
                let problem = format!("is a second configuration beside {first}: keep one");
                return Err(ConfigError::of_source(Place { source, line: None }, problem).into());
            }
            (configuration, _) => found = Some(configuration),
        }
    }
    Ok(found.unwrap_or(UserData::Foreign(
        "a MIME message without a part of type text/x-instance-agent or a #cloud-config with instance_agent:",
    )))
}

/// The parser takes what is there; a configuration must not be taken for all when it is not.
fn cut_off(part: &MessagePart, message: &[u8]) -> Option<&'static str> {
    let (PartType::Multipart(_), Some(kind)) = (&part.body, part.content_type()) else {
        let multipart =
            part.content_type().is_some_and(|kind| kind.ctype().eq_ignore_ascii_case("multipart"));
        return multipart.then_some("a MIME multipart without any part: it is cut off");
    };
    let end = format!("--{}--", kind.attribute("boundary").unwrap_or_default());
    let closed = message.windows(end.len()).any(|window| window == end.as_bytes());
    (!closed).then_some("a MIME multipart without its closing boundary: it is cut off")
}

fn read_part(part: &MessagePart, form: Form) -> Result<UserData, ConfigErrors> {
    let kind = part
        .content_type()
        .map(|it| (it.ctype().to_lowercase(), it.subtype().unwrap_or_default().to_lowercase()));
    let kind = kind.as_ref().map_or(("text", "plain"), |(kind, subtype)| (kind, subtype));
    let body = part.contents();
    let start = Kind::of(body);
    let parse: Parse = match kind {
        OWN_TYPE => document,
        ("text", "plain") if start == Kind::Document => document,
        ("text", "cloud-config") => cloud_config,
        ("text", "plain") if start == Kind::CloudConfig => cloud_config,
        _ => return Ok(UserData::Foreign("another part")),
    };
    let source = Source::UserData(form.clone());
    // The parser puts this sign where a character cannot be decoded.
    if part.is_encoding_problem || String::from_utf8_lossy(body).contains('\u{fffd}') {
        let ours = kind == OWN_TYPE;
        return Ok(if ours {
            UserData::Damaged(not_utf8(&source))
        } else {
            UserData::Foreign("another part")
        });
    }
    read_yaml(body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body), form, parse)
}

#[cfg(test)]
mod tests;
