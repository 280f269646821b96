//! Where a push is published: where agents listen for its repository.

use std::str::FromStr;

use crate::github::RepoName;
use crate::mqtt::MAX_STRING;
use crate::topic::{TopicError, TopicPattern};

/// A topic, or a pattern that makes one for each repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// What the agents' `mqtt.topic` says.
    Pattern(TopicPattern),
    /// One topic, whichever repository it is for.
    Topic(Box<str>),
}

/// Why a push cannot be published there.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// A pattern that agents cannot have.
    #[error("{0}")]
    Pattern(#[from] TopicError),
    /// No topic that can be published on.
    #[error(
        "must be a topic without +, # and control characters, or the agents' mqtt.topic, such as github/+/+"
    )]
    Topic,
    /// Agents compare the two.
    #[error(
        "the push is for {repo}, and agents reject it on the topic {topic}: a topic must end in /{repo}, and \
         --topic PREFIX/+/+ makes one for each repository"
    )]
    Mismatch {
        /// The repository in the payload.
        repo: RepoName,
        /// What was asked for.
        topic: Box<str>,
    },
}

impl Destination {
    /// The topic for this repository, in this spelling: topics are case-sensitive.
    pub fn of(&self, repo: &RepoName) -> Result<String, DestinationError> {
        match self {
            Self::Pattern(pattern) => Ok(pattern.of(repo)),
            Self::Topic(topic) if ends_in(topic, repo) => Ok(topic.to_string()),
            Self::Topic(topic) => {
                Err(DestinationError::Mismatch { repo: repo.clone(), topic: topic.clone() })
            }
        }
    }
}

fn ends_in(topic: &str, repo: &RepoName) -> bool {
    let mut levels = topic.rsplitn(3, '/');
    let (name, owner) = (levels.next(), levels.next());
    owner.zip(name).is_some_and(|(owner, name)| {
        format!("{owner}/{name}").parse::<RepoName>().is_ok_and(|it| it == *repo)
    })
}

impl Default for Destination {
    fn default() -> Self {
        Self::Pattern(TopicPattern::default())
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        if text.ends_with("+/+") {
            return Ok(Self::Pattern(text.parse()?));
        }
        let forbidden = |c: char| c.is_control() || matches!(c, '+' | '#');
        if text.is_empty() || text.starts_with('$') || text.len() > MAX_STRING || text.contains(forbidden) {
            return Err(DestinationError::Topic);
        }
        Ok(Self::Topic(text.into()))
    }
}
