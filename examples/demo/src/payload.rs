//! The payload of a push, as GitHub's webhook sends it.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde_json::Value;

/// A payload of GitHub's, with names in place of what differs from push to push.
const TEMPLATE: &str = include_str!("../files/push.json");

/// A ref was moved.
#[derive(Debug, Clone, Default)]
pub(crate) struct Push {
    /// `OWNER/NAME`
    pub(crate) repo: String,
    /// The ref.
    pub(crate) git_ref: String,
    /// What it pointed to.
    pub(crate) before: String,
    /// What it points to now.
    pub(crate) after: String,
    /// What the commit says of itself.
    pub(crate) commit: Commit,
}

/// What a commit says of itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Commit {
    /// The id of its tree.
    pub(crate) tree: String,
    /// RFC 3339.
    pub(crate) time: String,
    /// Who made it.
    pub(crate) name: String,
    /// How to reach them.
    pub(crate) email: String,
    /// The first line of its message.
    pub(crate) subject: String,
}

impl Push {
    /// The JSON, without spaces, as GitHub sends it.
    pub(crate) fn payload(&self) -> anyhow::Result<Vec<u8>> {
        let (owner, name) = self.repo.split_once('/').context("a repository is OWNER/NAME")?;
        let created = self.before.bytes().all(|digit| digit == b'0');
        let pushed_at = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let json = TEMPLATE
            .replace("\"@CREATED@\"", &created.to_string())
            .replace("\"@PUSHED_AT@\"", &pushed_at.to_string())
            .replace("@REPO@", &escaped(&self.repo))
            .replace("@OWNER@", &escaped(owner))
            .replace("@REPOSITORY@", &escaped(name))
            .replace("@REF@", &escaped(&self.git_ref))
            .replace("@BEFORE@", &escaped(&self.before))
            .replace("@AFTER@", &escaped(&self.after))
            .replace("@TREE@", &escaped(&self.commit.tree))
            .replace("@TIMESTAMP@", &escaped(&self.commit.time))
            .replace("@NAME@", &escaped(&self.commit.name))
            .replace("@EMAIL@", &escaped(&self.commit.email))
            .replace("@MESSAGE@", &escaped(&self.commit.subject));
        let payload: Value = serde_json::from_str(&json).context("the payload is no JSON")?;
        Ok(payload.to_string().into_bytes())
    }

    /// Where it is published.
    pub(crate) fn topic(&self) -> String {
        format!("github/{}", self.repo)
    }
}

/// The text as it stands between the quotes of JSON.
fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_commit_says_of_itself_cannot_break_the_json() {
        let subject = r#""quoted", \ and @AFTER@"#;
        let commit = Commit { subject: subject.to_owned(), ..Commit::default() };
        let push = Push { repo: "a/b".to_owned(), before: "00".to_owned(), commit, ..Push::default() };
        let payload: Value = serde_json::from_slice(&push.payload().unwrap()).unwrap();
        assert_eq!(payload["head_commit"]["message"], subject);
        assert_eq!(payload["repository"]["full_name"], "a/b");
        assert_eq!(payload["created"], true);
        assert!(payload["repository"]["pushed_at"].is_u64());
        let rest = payload.to_string().replace(&escaped(subject), "").replace("git@github.com", "");
        assert!(!rest.contains('@'), "a name was not replaced");
    }
}
