//! Tags of the instance → fragments. They supply its environment and apps, and nothing else: whoever may tag an instance
//! must not be able to point its agent at another broker.

use crate::imds::Tags;

use super::error::{ConfigError, ConfigErrors};
use super::flags::{app_of, text};
use super::fragment::{AppFragment, Fragment, Mapping};
use super::lined::Lined;
use super::source::{Place, Placed, Source};
use super::values;

const PREFIX: &str = "instance-agent:";
const ENVIRONMENT: &str = "environment";
const APP: &str = "app:";

/// What the tags say.
#[derive(Debug, Clone, Default)]
pub(super) struct Tagged {
    pub(super) environment: Option<(Source, Fragment)>,
    pub(super) apps: Vec<TaggedApp>,
    pub(super) warnings: Vec<String>,
}

/// An app, and the name in its tag's key.
#[derive(Debug, Clone)]
pub(super) struct TaggedApp {
    pub(super) name: String,
    pub(super) app: Placed<Mapping<AppFragment>>,
}

/// Tags with other keys are nobody's business here.
pub(super) fn is_for_agent(key: &str) -> bool {
    key.starts_with(PREFIX)
}

/// Reads all of them, and reports all mistakes together.
pub(super) fn read(tags: &Tags) -> Result<Tagged, ConfigErrors> {
    let mut tagged = Tagged::default();
    let mut mistakes = Vec::new();
    for (key, value) in tags {
        let source = Source::Tag(key.escape_debug().to_string().into());
        let Some(what) = key.strip_prefix(PREFIX) else { continue };
        if what == ENVIRONMENT {
            let fragment = Fragment { environment: Some(text(value)), ..Fragment::default() };
            tagged.environment = Some((source, fragment));
        } else if let Some(name) = what.strip_prefix(APP) {
            match app(name, value) {
                Ok(app) => {
                    tagged.apps.push(TaggedApp { name: name.to_owned(), app: Placed::of(&source, app) });
                }
                Err(problem) => mistakes.push(ConfigError::of_source(Place { source, line: None }, problem)),
            }
        } else {
            tagged.warnings.push(format!(
                "{source}: no such tag is known; there are {PREFIX}{ENVIRONMENT} and {PREFIX}{APP}NAME"
            ));
        }
    }
    ConfigErrors::check(mistakes)?;
    Ok(tagged)
}

fn app(name: &str, value: &str) -> Result<Lined<Mapping<AppFragment>>, String> {
    if !values::is_name(name) {
        return Err(values::not_a_name(name));
    }
    let app = app_of(value).ok_or("its value must be OWNER/REPO[@BRANCH]=SERVICE")?;
    Ok(Lined::nowhere(Mapping::Fields(AppFragment { name: Some(text(name)), ..app })))
}

impl Source {
    /// A tag of the instance, with its key.
    fn is_tag(&self) -> bool {
        matches!(self, Self::Tag(_))
    }
}

impl ConfigErrors {
    /// Somebody can mend it from afar, without a change to the host.
    pub fn of_tags(&self) -> bool {
        self.iter().any(|error| error.place().source.is_tag())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn tags(tags: &[(&str, &str)]) -> Tags {
        tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn mistakes_name_their_tags_all_at_once() {
        let mistakes = read(&tags(&[
            ("instance-agent:app:a b", "acme/api=api"),
            ("instance-agent:app:api", "acme/api"),
            ("instance-agent:app:web", "acme/web=web"),
        ]));
        let lines: Vec<String> = mistakes.unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("tag instance-agent:app:a b: \"a b\": must be letters"), "{lines:?}");
        assert_eq!(lines[1], "tag instance-agent:app:api: its value must be OWNER/REPO[@BRANCH]=SERVICE");
    }

    #[test]
    fn a_misspelt_key_is_a_warning() {
        let tagged =
            read(&tags(&[("instance-agent:env", "demo"), ("instance-agent:environment", "demo")])).unwrap();
        assert!(tagged.environment.is_some() && tagged.apps.is_empty());
        assert!(
            tagged.warnings[0].starts_with("tag instance-agent:env: no such tag"),
            "{:?}",
            tagged.warnings
        );
    }
}
