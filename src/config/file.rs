//! YAML file → fragment.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::{Error, Options, UserMessageFormatter};

use super::error::{ConfigError, ConfigErrors};
use super::fragment::{Fragment, Mapping};
use super::source::{Place, Source};

/// Far above any real configuration: 10,000 apps are about 1 MB.
const MAX_FILE: u64 = 16 << 20;

/// Reads the file. `Ok(None)`: it is missing, or says nothing.
pub(super) fn read(path: &Path) -> Result<Option<(Source, Fragment)>, ConfigErrors> {
    let source = Source::File(Arc::from(path));
    let whole = Place { source: source.clone(), line: None };
    let text = match read_text(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(ConfigError::of_source(whole, format!("cannot be read: {error}")).into()),
    };
    let fragment = parse(&text, &source)?;
    Ok(fragment.map(|fragment| (source, fragment)))
}

fn read_text(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "larger than 16 MiB: is this the right file?",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let offset = error.utf8_error().valid_up_to();
        let problem = format!("not UTF-8 text (byte {offset}): is this the right file?");
        io::Error::new(io::ErrorKind::InvalidData, problem)
    })
}

/// What the file says of the state directory, even where it is no configuration, or no YAML.
pub(super) fn state_dir(path: &Path) -> Option<String> {
    #[derive(Deserialize)]
    struct Only {
        state_dir: String,
    }
    let text = read_text(path).ok()?;
    let source = Source::File(Arc::from(path));
    if let Ok(Some(Only { state_dir })) = document(&text, &source, Limits::FILE) {
        return Some(state_dir);
    }
    let line = text.lines().find(|line| line.starts_with("state_dir:"))?;
    serde_yaml::from_str(line).ok().map(|Only { state_dir }| state_dir)
}

/// Parses a document. `Ok(None)`: it holds nothing but comments.
pub(super) fn parse(text: &str, source: &Source) -> Result<Option<Fragment>, ConfigErrors> {
    let document = document(text, source, Limits::FILE)?;
    fields(document, &Place { source: source.clone(), line: None }, None)
}

/// The fields of what must be a mapping; `key`: what it stands under.
pub(super) fn fields(
    mapping: Option<Mapping<Fragment>>,
    place: &Place,
    key: Option<&str>,
) -> Result<Option<Fragment>, ConfigErrors> {
    match (mapping, key) {
        (None, _) => Ok(None),
        (Some(Mapping::Fields(fragment)), _) => Ok(Some(fragment)),
        (Some(Mapping::Other(kind)), None) => {
            let problem = format!("holds {kind}, but must be a mapping with the keys mqtt, apps, …");
            Err(ConfigError::of_source(place.clone(), problem).into())
        }
        (Some(Mapping::Other(kind)), Some(key)) => {
            let problem = format!("is {kind}, but must be a mapping with the keys mqtt, apps, …");
            Err(ConfigError::of_key(place.clone(), key, problem).into())
        }
    }
}

/// What is asked of a document from this kind of source.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    max_nodes: usize,
    /// Messages of the YAML parser may repeat what stands in the document.
    quotes: bool,
}

impl Limits {
    const FILE: Self = Self { max_nodes: 1_000_000, quotes: true };
    pub(super) const USER_DATA: Self = Self { max_nodes: 20_000, quotes: false };

    fn options(self) -> Options {
        // No snippet: it could show a secret that was put where it does not belong.
        serde_yaml::options! {
            with_snippet: false,
            // Such as `!env NAME`, which would be taken for the text NAME.
            reject_unsupported_tags: true,
            budget: serde_yaml::budget! { max_nodes: self.max_nodes, max_events: 2 * self.max_nodes },
            alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: self.max_nodes / 10 },
        }
    }
}

/// Parses a document of any type. `Ok(None)`: it holds nothing but comments.
pub(super) fn document<T: DeserializeOwned>(
    text: &str,
    source: &Source,
    limits: Limits,
) -> Result<Option<T>, ConfigErrors> {
    let at = |line| Place { source: source.clone(), line };
    if let Some(position) = text.find(|c: char| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        let line = text[..position].matches('\n').count() + 1;
        let problem = "holds a control character: this is no YAML text".to_owned();
        return Err(ConfigError::of_source(at(Some(line as u64)), problem).into());
    }
    serde_yaml::from_str_with_options::<Option<T>>(text, limits.options()).map_err(|error| {
        let line = error.location().map(|location| location.line());
        ConfigError::of_source(at(line), explain(&error, limits)).into()
    })
}

fn explain(error: &Error, limits: Limits) -> String {
    match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key {field:?}: allowed here are {}", expected.join(", "))
        }
        Error::DuplicateMappingKey { key: Some(key), .. } if limits.quotes => {
            format!("the key {key:?} is given twice")
        }
        Error::DuplicateMappingKey { .. } => {
            "a key is given twice; its name is not shown, as it may be a secret".to_owned()
        }
        error => {
            let text = error.render_with_formatter(&UserMessageFormatter);
            // At an alias the error is wrapped as text with several places in it.
            if text.contains("too large or too complex") {
                return "the document is too large or too complex once its aliases are expanded".to_owned();
            }
            if !limits.quotes {
                return "not valid YAML here; its text is not shown, as it may hold secrets".to_owned();
            }
            let located =
                error.location().map(|at| format!(" at line {}, column {}", at.line(), at.column()));
            let text = located.and_then(|at| text.strip_suffix(&at).map(str::to_owned)).unwrap_or(text);
            format!("not valid YAML here: {text}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake(text: &str) -> String {
        parse(text, &Source::File(Arc::from(Path::new("c.yaml")))).unwrap_err().to_string()
    }

    #[test]
    fn documents_that_say_nothing_are_none() {
        let source = Source::File(Arc::from(Path::new("c.yaml")));
        for text in ["", "# only a comment\n", "---\n", "~\n", "\n\n", "\u{feff}"] {
            assert!(parse(text, &source).unwrap().is_none(), "{text:?}");
        }
        for text in [
            "environment: !!str demo\n",
            "environment: demo\r\n",
            "\u{feff}environment: demo\n",
            "{environment: demo}",
        ] {
            assert!(parse(text, &source).unwrap().is_some(), "{text:?}");
        }
    }

    #[test]
    fn mistakes_of_syntax_name_the_line_and_what_is_allowed() {
        assert_eq!(
            mistake("mqtt:\n  urll: x\n"),
            "c.yaml:2: unknown key \"urll\": allowed here are url, protocol, topic, subscribe, client_id, username, \
             password_file, ca_file, cert_file, key_file, alpn, keep_alive, session_expiry, max_payload"
        );
        assert_eq!(
            mistake("environment: a\n\nenvironment: b\n"),
            "c.yaml:3: the key \"environment\" is given twice"
        );
        assert_eq!(mistake("apps:\n- branch: {a: b, a: c}\n"), "c.yaml:2: the key \"a\" is given twice");
        assert_eq!(
            mistake("- a\n"),
            "c.yaml: holds a list, but must be a mapping with the keys mqtt, apps, …"
        );
        assert!(mistake("mqtt: [\n").starts_with("c.yaml:"), "{}", mistake("mqtt: [\n"));
        assert!(mistake("mqtt:\n\turl: x\n").starts_with("c.yaml:2: not valid YAML here: tab"));
        assert!(mistake("environment: !env NAME\n").starts_with("c.yaml:1: not valid YAML here: "));
        assert_eq!(mistake("a: \u{0}"), "c.yaml:1: holds a control character: this is no YAML text");
    }

    #[test]
    fn the_state_directory_is_found_in_what_is_no_configuration() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("c.yaml");
        for (text, expected) in [
            ("colour: red\nstate_dir: /var/x # here\n", Some("/var/x")),
            ("apps: [\n]]\n\tx\nstate_dir: \"/var/x\"\r\n", Some("/var/x")),
            ("mqtt:\n  state_dir: /var/x\n", None),
            ("state_dir_: /var/x\n", None),
            ("state_dir: [a]\n", None),
            ("state_dir: [\n", None),
            ("{\n  \"colour\": \"red\",\n  \"state_dir\": \"/var/x\"\n}\n", Some("/var/x")),
            ("{colour: red, state_dir: /var/x}\n", Some("/var/x")),
            ("\"state_dir\": >-\n  /var/x\ncolour: red\n", Some("/var/x")),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(state_dir(&file).as_deref(), expected, "{text:?}");
        }
    }

    #[test]
    fn an_alias_bomb_is_refused_quickly() {
        let mut bomb = "stagger: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (depth, key) in
            ["environment", "max_parallel", "state_dir", "service_manager", "apps"].iter().enumerate()
        {
            let aliases = vec![format!("*a{depth}"); 10].join(", ");
            bomb.push_str(&format!("{key}: &a{} [{aliases}]\n", depth + 1));
        }
        let mistake = mistake(&bomb);
        assert!(
            mistake.starts_with("c.yaml:5: ") && mistake.contains("too large or too complex"),
            "{mistake}"
        );
    }
}
