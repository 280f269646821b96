//! The topics that pushes are published on: any prefix, then the two levels owner and repository.

use std::fmt;
use std::str::FromStr;

use crate::github::RepoName;

/// `mqtt.topic`: `github/+/+`, or another prefix that ends in `+/+`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicPattern {
    /// With its last slash; empty when the pattern is `+/+`.
    prefix: Box<str>,
}

impl TopicPattern {
    /// The filter that receives the pushes of every repository.
    pub fn filter(&self) -> String {
        format!("{}+/+", self.prefix)
    }

    /// The topic of one repository.
    pub fn of(&self, repo: &RepoName) -> String {
        format!("{}{repo}", self.prefix)
    }

    /// The `owner/repository` of a topic, not validated; `None` when the topic has another shape.
    pub fn repository<'t>(&self, topic: &'t str) -> Option<&'t str> {
        let repo = topic.strip_prefix(&*self.prefix)?;
        let (_, name) = repo.split_once('/')?;
        (!name.contains('/')).then_some(repo)
    }
}

impl Default for TopicPattern {
    fn default() -> Self {
        Self { prefix: "github/".into() }
    }
}

impl fmt::Display for TopicPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.filter())
    }
}

/// Why a text is no topic pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Its end is not the two levels.
    #[error("must end in the two levels owner and repository, as in github/+/+")]
    End,
    /// Wildcards or control characters before the end.
    #[error(
        "what stands before the final +/+ must be plain topic levels, without +, # and control characters"
    )]
    Prefix,
    /// A shared subscription or a topic of the broker's own.
    #[error("must not begin with $: a shared subscription would give each push to one instance only")]
    Dollar,
    /// MQTT's limit.
    #[error("is longer than the 65,535 bytes that MQTT allows")]
    Length,
}

impl FromStr for TopicPattern {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        let prefix = text.strip_suffix("+/+").ok_or(TopicError::End)?;
        if prefix.starts_with('$') {
            return Err(TopicError::Dollar);
        }
        if !prefix.is_empty() && !prefix.ends_with('/') {
            return Err(TopicError::End);
        }
        if prefix.contains(|c: char| c.is_control() || matches!(c, '+' | '#')) {
            return Err(TopicError::Prefix);
        }
        // Room for the longest repository name after the prefix.
        if prefix.len() > 60_000 {
            return Err(TopicError::Length);
        }
        Ok(Self { prefix: prefix.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_the_last_two_levels() {
        let cases = [
            ("github/+/+", "github/a/b", Some("a/b")),
            ("github/+/+", "github/a/b/c", None),
            ("github/+/+", "github/a", None),
            ("github/+/+", "gitlab/a/b", None),
            ("github/+/+", "github//", Some("/")),
            ("eu/prod/github/+/+", "eu/prod/github/a/b", Some("a/b")),
            ("+/+", "a/b", Some("a/b")),
            ("+/+", "a/b/c", None),
        ];
        for (pattern, topic, expected) in cases {
            let pattern: TopicPattern = pattern.parse().unwrap();
            assert_eq!(pattern.repository(topic), expected, "{pattern} {topic}");
        }
    }

    #[test]
    fn patterns_of_another_shape_are_refused() {
        for (bad, error) in [
            ("", TopicError::End),
            ("github/#", TopicError::End),
            ("github/+", TopicError::End),
            ("github+/+", TopicError::End),
            ("+/github/+/+", TopicError::Prefix),
            ("git\nhub/+/+", TopicError::Prefix),
            ("$share/a/github/+/+", TopicError::Dollar),
        ] {
            assert_eq!(bad.parse::<TopicPattern>(), Err(error), "{bad:?}");
        }
        assert_eq!(format!("{}/+/+", "a".repeat(65_535)).parse::<TopicPattern>(), Err(TopicError::Length));
    }

    #[test]
    fn a_repositorys_topic_keeps_its_spelling() {
        let pattern: TopicPattern = "ci/+/+".parse().unwrap();
        assert_eq!(pattern.of(&"2lemetry/InstanceAPI".parse().unwrap()), "ci/2lemetry/InstanceAPI");
        assert_eq!(pattern.filter(), "ci/+/+");
    }
}
