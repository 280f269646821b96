//! A push as the body of a webhook that says nothing else.

use std::time::SystemTime;

use serde::Serialize;

use crate::github::{CommitId, GitRef, RepoName};
use crate::push::Push;

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "ref")]
    git_ref: &'a GitRef,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<&'a CommitId>,
    after: &'a CommitId,
    #[serde(skip_serializing_if = "is_false")]
    deleted: bool,
    repository: Repository<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance_agent: Option<Made<'a>>,
}

#[derive(Serialize)]
struct Repository<'a> {
    full_name: &'a RepoName,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_branch: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pushed_at: Option<u64>,
}

#[derive(Serialize)]
struct Made<'a> {
    id: &'a str,
    time: u64,
    #[serde(skip_serializing_if = "is_false")]
    again: bool,
}

// serde hands a field over by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(value: &bool) -> bool {
    !value
}

/// All that an agent reads of a push, and nothing else.
pub(super) fn of(push: &Push) -> Vec<u8> {
    let body = Body {
        git_ref: &push.git_ref,
        before: push.before.as_ref(),
        after: &push.after,
        deleted: push.deleted,
        repository: Repository {
            full_name: &push.repo,
            default_branch: push.default_branch.as_deref(),
            pushed_at: push.pushed_at.and_then(seconds),
        },
        instance_agent: push.by_hand.as_ref().map(|made| Made {
            id: &made.id,
            time: seconds(made.at).unwrap_or_default(),
            again: made.again,
        }),
    };
    // Text, numbers and booleans under names of text: nothing here has no form in JSON.
    serde_json::to_vec(&body).unwrap_or_default()
}

/// As GitHub counts.
fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs())
}
