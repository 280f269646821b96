//! Options and GitHub's environment → what to publish.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;

use crate::github::{CommitId, GitRef, NameError, RepoName};
use crate::publish::{ByHandWish, Delivery, MAX_PAYLOAD, parse_header};

use super::Problem;

/// What to publish: a payload, or a push made by hand.
#[derive(Debug, Args)]
pub(super) struct ContentArgs {
    /// The body of GitHub's webhook, published byte for byte; - reads standard input
    #[arg(long, value_name = "FILE")]
    payload: Option<PathBuf>,
    /// A header of the webhook, such as X-Hub-Signature-256; repeatable; goes with --payload
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Push made by hand: the repository, spelled as on GitHub [default: $GITHUB_REPOSITORY]
    #[arg(long, value_name = "OWNER/NAME")]
    repo: Option<RepoName>,
    /// Push made by hand: a branch, or a full ref such as refs/tags/v1 [default: $GITHUB_REF]
    #[arg(long = "ref", value_name = "REF", value_parser = git_ref)]
    git_ref: Option<GitRef>,
    /// Push made by hand: the commit, all its digits; it may be an old one [default: $GITHUB_SHA]
    #[arg(long, value_name = "COMMIT", value_parser = commit)]
    sha: Option<CommitId>,
    /// Push made by hand: the repository's default branch, for apps that name no branch
    #[arg(long, value_name = "BRANCH", value_parser = branch)]
    default_branch: Option<String>,
    /// Push made by hand: deploy it even where it runs already
    #[arg(long)]
    pub(super) again: bool,
}

/// `main` means the branch, as everywhere in git; `heads/main`, which git reads as `refs/heads/main`, would not.
fn git_ref(text: &str) -> Result<GitRef, String> {
    if text.starts_with("heads/") || text.starts_with("tags/") {
        return Err(format!("write refs/{text}, or refs/heads/{text} if that is the branch's name"));
    }
    if text.trim() != text {
        return Err("begins or ends with white space, which no ref does: leave it out".to_owned());
    }
    if text.starts_with("refs/") {
        return text.parse().map_err(|error: NameError| error.to_string());
    }
    GitRef::of_branch(text).map_err(|_| NOT_A_BRANCH.to_owned())
}

/// Of a name that was not written as a full ref, and need not be.
const NOT_A_BRANCH: &str = "not a branch's name: must keep the rules of git-check-ref-format(1), without line \
                            separators and characters that set the direction of text";

fn branch(text: &str) -> Result<String, String> {
    if text.starts_with("refs/") {
        return Err("must be the name alone, without refs/heads/".to_owned());
    }
    GitRef::of_branch(text).map(|_| text.to_owned()).map_err(|_| "not a branch's name".to_owned())
}

fn commit(text: &str) -> Result<CommitId, String> {
    let commit: CommitId =
        text.parse().map_err(|error: NameError| format!("{error}, which `git rev-parse NAME` prints"))?;
    if commit.is_none() { Err("zeros stand for no commit".to_owned()) } else { Ok(commit) }
}

/// What GitHub Actions tells the steps of a run.
#[derive(Debug, Default)]
pub(super) struct GitHub {
    event_path: Option<OsString>,
    event_name: Option<String>,
    /// This run, as an id of the delivery.
    run: Option<String>,
    repository: Option<String>,
    git_ref: Option<String>,
    sha: Option<String>,
}

impl GitHub {
    pub(super) fn from_environment() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            event_path: std::env::var_os("GITHUB_EVENT_PATH").filter(|path| !path.is_empty()),
            event_name: text("GITHUB_EVENT_NAME"),
            run: text("GITHUB_RUN_ID")
                .map(|id| text("GITHUB_RUN_ATTEMPT").map_or(id.clone(), |attempt| format!("{id}-{attempt}"))),
            repository: text("GITHUB_REPOSITORY"),
            git_ref: text("GITHUB_REF"),
            sha: text("GITHUB_SHA"),
        }
    }

    /// Whether this file is the event of this run.
    fn event_is(&self, path: &Path) -> bool {
        self.event_path.as_deref() == Some(path.as_os_str())
    }
}

impl ContentArgs {
    /// The body and headers to publish.
    pub(super) fn delivery(self, github: &GitHub, now: SystemTime) -> Result<Delivery, Problem> {
        let by_hand = self.first_by_hand();
        match (&self.payload, by_hand) {
            (Some(_), Some(option)) => Err(Problem::Usage(format!(
                "{option} is for a push made by hand, and --payload is published as it is: leave out one of them"
            ))),
            (Some(path), None) => payload(path, self.headers, github),
            (None, Some(option)) if !self.headers.is_empty() => Err(Problem::Usage(format!(
                "--header goes with --payload; with {option} the headers are made with the push: leave it out"
            ))),
            (None, Some(_)) => self.by_hand(github, now),
            (None, None) => match &github.event_path {
                Some(path) => payload(Path::new(path), self.headers, github),
                None => Err(Problem::usage(
                    "nothing to publish: give --payload FILE, or --repo, --ref and --sha, or run it in GitHub Actions",
                )),
            },
        }
    }

    /// An option that asks for a push made by hand.
    fn first_by_hand(&self) -> Option<&'static str> {
        let given = [
            ("--repo", self.repo.is_some()),
            ("--ref", self.git_ref.is_some()),
            ("--sha", self.sha.is_some()),
            ("--default-branch", self.default_branch.is_some()),
            ("--again", self.again),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(option, _)| option)
    }

    fn by_hand(self, github: &GitHub, now: SystemTime) -> Result<Delivery, Problem> {
        let repository = |text: &str| text.parse().map_err(|error: NameError| error.to_string());
        let wish = ByHandWish {
            repo: given_or(self.repo, "--repo", ("GITHUB_REPOSITORY", &github.repository), repository)?,
            git_ref: given_or(self.git_ref, "--ref", ("GITHUB_REF", &github.git_ref), git_ref)?,
            commit: given_or(self.sha, "--sha", ("GITHUB_SHA", &github.sha), commit)?,
            default_branch: self.default_branch,
            again: self.again,
        };
        Ok(Delivery::by_hand(wish, format!("{:032x}", fastrand::u128(..)), now))
    }
}

fn given_or<T>(
    given: Option<T>,
    option: &str,
    (variable, value): (&str, &Option<String>),
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, Problem> {
    if let Some(given) = given {
        return Ok(given);
    }
    let text = value.as_deref().ok_or_else(|| {
        Problem::Usage(format!("{option} is missing: a push made by hand needs --repo, --ref and --sha"))
    })?;
    parse(text).map_err(|problem| Problem::Usage(format!("{variable}: {problem}; or give {option}")))
}

fn payload(path: &Path, headers: Vec<(String, String)>, github: &GitHub) -> Result<Delivery, Problem> {
    let body = read(path).map_err(|problem| Problem::Failed(format!("{}: {problem}", path.display())))?;
    let delivery = Delivery { body, headers };
    if !github.event_is(path) {
        return Ok(delivery);
    }
    Ok(delivery.of_event(github.event_name.as_deref()).with_id(github.run.as_deref()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    let limit = MAX_PAYLOAD as u64 + 1;
    let read = if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut body)
    } else {
        File::open(path).and_then(|file| file.take(limit).read_to_end(&mut body))
    };
    read.map_err(|error| error.to_string())?;
    if body.len() > MAX_PAYLOAD { Err("is larger than any push, 32 MiB".to_owned()) } else { Ok(body) }
}
