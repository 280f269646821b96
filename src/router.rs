//! Message → which apps it deploys, or why none. Pure: the topic is looked at before the payload is touched.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use ring::digest;
use serde::{Deserialize, Serialize};

use crate::config::{App, AppName};
use crate::github::{CommitId, GitRef, RepoName};
use crate::push::{self, ByHand, DecodeError, Decoded, Headers, Opened, Other, Push, Wanted};
use crate::refs::RefMismatch;
use crate::topic::TopicPattern;
use crate::trust::{Distrust, Trust};

/// What a push points an app to: a commit, and the ref it was pushed to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Revision {
    /// The repository, spelled as the payload does.
    pub repo: RepoName,
    /// The branch or tag.
    #[serde(rename = "ref")]
    pub git_ref: GitRef,
    /// What the ref pointed to before.
    pub before: Option<CommitId>,
    /// The commit to deploy.
    pub commit: CommitId,
    /// The ref was the repository's default branch then.
    #[serde(default)]
    pub on_default_branch: bool,
    /// When GitHub took the push.
    #[serde(with = "crate::journal::optional_time")]
    pub pushed_at: Option<SystemTime>,
    /// Set when it was made by hand, not by GitHub.
    pub by_hand: Option<ByHand>,
    /// GitHub's id of the delivery.
    pub delivery: Option<String>,
}

impl Revision {
    /// What tells this push from all others.
    pub fn identity(&self) -> String {
        let seconds = self.pushed_at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        let text = match &self.by_hand {
            Some(made) => format!("by hand {}", made.id),
            None => format!(
                "{} {} {} {} {}",
                self.repo.key(),
                self.git_ref,
                self.before.as_ref().map_or("-", CommitId::as_str),
                self.commit,
                seconds.map_or("-".to_owned(), |since| since.as_secs().to_string())
            ),
        };
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        digest.as_ref().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// A push to `main`, without a date, of a commit of such digits.
    #[cfg(test)]
    pub(crate) fn for_test(digit: char) -> Self {
        Self {
            repo: "o/r".parse().unwrap(),
            git_ref: "refs/heads/main".parse().unwrap(),
            before: None,
            commit: digit.to_string().repeat(40).parse().unwrap(),
            on_default_branch: true,
            pushed_at: None,
            by_hand: None,
            delivery: None,
        }
    }

    /// The same push as the other.
    pub fn is(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

/// What becomes of a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Routed {
    /// Its topic is for a repository of which nothing runs here.
    Unmanaged,
    /// It is no push, or one that deploys nothing by its nature.
    Ignored(Ignored),
    /// It is malformed, or contradicts its topic.
    Rejected(Rejected),
    /// A push, with the verdict for each app of its repository.
    Push(Box<Revision>, Vec<(AppName, Verdict)>),
}

impl Routed {
    /// A push to a managed repository, whether it deploys anything or not: more may be queued behind it.
    pub fn is_managed_push(&self) -> bool {
        matches!(self, Self::Push(..) | Self::Ignored(Ignored::Unfollowed(_) | Ignored::Deletion))
    }
}

/// Whether a push deploys one app.
pub type Verdict = Result<(), RefMismatch>;

/// Why a message for a managed repository deploys nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Not a push.
    #[error(transparent)]
    NotAPush(#[from] Other),
    /// No app of the repository is deployed by its ref. Whether the rest of it makes a push was not looked at.
    #[error("no app follows {0}")]
    Unfollowed(GitRef),
    /// Its ref was deleted.
    #[error("the ref was deleted")]
    Deletion,
}

/// Why a message for a managed repository is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It could not be decoded.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// It does not prove what it must.
    #[error(transparent)]
    Untrusted(#[from] Distrust),
    /// The payload is for another repository than its topic.
    #[error("the payload is for {payload}, the topic for {topic}")]
    TopicMismatch {
        /// The repository in the payload.
        payload: RepoName,
        /// The repository in the topic.
        topic: RepoName,
    },
}

impl Rejected {
    /// A word for the kind of mistake, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Undecodable(_) => "undecodable",
            Self::Untrusted(why) => why.kind(),
            Self::TopicMismatch { .. } => "topic mismatch",
        }
    }
}

impl From<DecodeError> for Routed {
    fn from(error: DecodeError) -> Self {
        Self::Rejected(error.into())
    }
}

/// Knows which repositories matter, and which apps and refs of each.
#[derive(Debug)]
pub struct Router {
    topic: TopicPattern,
    trust: Trust,
    /// Those of one repository side by side.
    apps: Vec<Arc<App>>,
    /// Where they stand, by the repository's name in lower case.
    repositories: HashMap<Box<str>, Range<usize>>,
}

impl Router {
    /// A router for the apps that this instance runs.
    pub fn new(topic: TopicPattern, trust: Trust, apps: &[Arc<App>]) -> Self {
        let mut keyed: Vec<(Box<str>, _)> = apps.iter().map(|app| (app.repo.key().into(), app)).collect();
        // Stable: the apps of one repository keep the configuration's order.
        keyed.sort_by(|(one, _), (other, _)| one.cmp(other));
        let apps = keyed.iter().map(|(_, app)| Arc::clone(app)).collect();
        let mut repositories = HashMap::<_, Range<usize>>::with_capacity(keyed.len());
        for (position, (key, _)) in keyed.into_iter().enumerate() {
            repositories.entry(key).or_insert(position..position).end = position + 1;
        }
        Self { topic, trust, apps, repositories }
    }

    /// True when something of the topic's repository runs here.
    pub fn manages(&self, topic: &str) -> bool {
        !self.apps_of(topic).is_empty()
    }

    /// The managed repository that a topic is for, as the configuration spells it.
    pub fn repository(&self, topic: &str) -> Option<&RepoName> {
        self.apps_of(topic).first().map(|app| &app.repo)
    }

    fn apps_of(&self, topic: &str) -> &[Arc<App>] {
        let repo = self.topic.repository(topic);
        let range = repo.and_then(|repo| self.repositories.get(repo.to_ascii_lowercase().as_str()));
        range.and_then(|range| self.apps.get(range.clone())).unwrap_or_default()
    }

    /// Decides what a message means here. Its payload is read no further than it takes to see that no app follows its ref.
    pub fn route(&self, topic: &str, headers: Headers, payload: &[u8], now: SystemTime) -> Routed {
        let apps = self.apps_of(topic);
        let wanted = |git_ref: &GitRef, default_branch: Option<&str>| {
            apps.iter().any(|app| app.refs.may_allow(git_ref, default_branch))
        };
        self.decide(apps, headers, payload, now, &wanted)
    }

    /// The same for who wants to know all of it: whether it is a push at all, and why each app is not deployed.
    pub fn explain(&self, topic: &str, headers: Headers, payload: &[u8], now: SystemTime) -> Routed {
        self.decide(self.apps_of(topic), headers, payload, now, &|_, _| true)
    }

    fn decide(
        &self,
        apps: &[Arc<App>],
        headers: Headers,
        payload: &[u8],
        now: SystemTime,
        wanted: &Wanted,
    ) -> Routed {
        let Some(first) = apps.first() else {
            return Routed::Unmanaged;
        };
        let push = match self.read(headers, payload, wanted) {
            Err(why) => return Routed::Rejected(why),
            Ok(Decoded::Other(other)) => return Routed::Ignored(other.into()),
            Ok(Decoded::Unwanted(git_ref)) => return Routed::Ignored(Ignored::Unfollowed(git_ref)),
            Ok(Decoded::Push(push)) => *push,
        };
        if push.repo != first.repo {
            let topic = first.repo.clone();
            return Routed::Rejected(Rejected::TopicMismatch { payload: push.repo, topic });
        }
        if push.is_deletion() {
            return Routed::Ignored(Ignored::Deletion);
        }
        match self.trust.check_age(&push, now) {
            Ok(()) => judge(push, apps),
            Err(why) => Routed::Rejected(why.into()),
        }
    }

    fn read(&self, headers: Headers, payload: &[u8], wanted: &Wanted) -> Result<Decoded, Rejected> {
        match push::open(headers, payload)? {
            Opened::Other(other) => Ok(Decoded::Other(other)),
            Opened::Delivery(delivery) => Ok(self.trust.authenticate(delivery)?.decode_if(wanted)?),
        }
    }
}

fn judge(push: Push, apps: &[Arc<App>]) -> Routed {
    let verdict = |app: &App| app.refs.allow(&push.git_ref, push.default_branch.as_deref());
    let verdicts = apps.iter().map(|app| (app.name.clone(), verdict(app))).collect();
    let on_default_branch = push.default_branch.is_some_and(|branch| push.git_ref.branch() == Some(&*branch));
    let revision = Revision {
        repo: push.repo,
        git_ref: push.git_ref,
        before: push.before,
        commit: push.after,
        on_default_branch,
        pushed_at: push.pushed_at,
        by_hand: push.by_hand,
        delivery: push.delivery,
    };
    Routed::Push(Box::new(revision), verdicts)
}

#[cfg(test)]
mod tests;
