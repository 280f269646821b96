//! GitHub's names, validated once, in their constructors: what a message may carry inwards.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest repository name accepted, in bytes: GitHub's own limits are 39 for the owner and 100 for the name.
const MAX_REPOSITORY: usize = 255;
/// Longest ref accepted, in bytes: GitHub caps branch names at 255.
const MAX_REF: usize = 255 + "refs/heads/".len();

/// A name from outside that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `owner/name` in GitHub's alphabet.
    #[error("not a repository: must be OWNER/NAME, each of letters, digits, '.', '_' and '-'")]
    Repository,
    /// The name of a clone's URL, where the repository's is asked for: GitHub lets no name end so.
    #[error("not a repository: must be OWNER/NAME without .git at the end")]
    DotGit,
    /// Not 40 or 64 hexadecimal digits.
    #[error("not a commit: must be 40 or 64 hexadecimal digits")]
    Commit,
    /// Breaks a rule of git-check-ref-format(1), or holds characters that turn text around.
    #[error(
        "not a full git ref: must be refs/… and keep the rules of git-check-ref-format(1), without line separators \
         and characters that set the direction of text"
    )]
    Ref,
}

/// A repository, `owner/name`. Compares without regard to case, as GitHub does; shows itself as it was written.
#[derive(Clone, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepoName(Box<str>);

impl RepoName {
    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name in lower case: equal for names that GitHub takes to be the same.
    pub fn key(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl FromStr for RepoName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (owner, name) = text.split_once('/').ok_or(NameError::Repository)?;
        if text.len() > MAX_REPOSITORY || !is_repository_part(owner) || !is_repository_part(name) {
            return Err(NameError::Repository);
        }
        if name.to_ascii_lowercase().as_bytes().ends_with(b".git") {
            return Err(NameError::DotGit);
        }
        Ok(Self(text.into()))
    }
}

/// `.` and `..` are refused although their characters are allowed: a script may use the name as a path.
fn is_repository_part(part: &str) -> bool {
    !matches!(part, "" | "." | "..")
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

impl PartialEq for RepoName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for RepoName {}

impl Hash for RepoName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A commit: 40 (SHA-1) or 64 (SHA-256) hexadecimal digits, in lower case.
#[derive(Clone, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitId(Box<str>);

impl CommitId {
    /// All digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The digits people read: the first seven, as git abbreviates.
    pub fn short(&self) -> &str {
        &self.0[..7]
    }

    /// True for the id of zeros by which git says that there is no commit.
    pub fn is_none(&self) -> bool {
        self.0.bytes().all(|b| b == b'0')
    }
}

impl FromStr for CommitId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Self(text.to_ascii_lowercase().into()))
        } else {
            Err(NameError::Commit)
        }
    }
}

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A full git ref, `refs/heads/main`, that keeps the rules of git-check-ref-format(1).
#[derive(Clone, PartialEq, Eq, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct GitRef(Box<str>);

impl GitRef {
    /// The ref of a branch.
    pub fn of_branch(branch: &str) -> Result<Self, NameError> {
        format!("refs/heads/{branch}").parse()
    }

    /// The whole ref.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The branch, when this is one.
    pub fn branch(&self) -> Option<&str> {
        self.0.strip_prefix("refs/heads/")
    }

    /// The tag, when this is one.
    pub fn tag(&self) -> Option<&str> {
        self.0.strip_prefix("refs/tags/")
    }

    /// The branch or tag, without what says which (GitHub Actions' `GITHUB_REF_NAME`).
    pub fn name(&self) -> &str {
        self.branch().or_else(|| self.tag()).unwrap_or_else(|| self.0.trim_start_matches("refs/"))
    }
}

impl FromStr for GitRef {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let rest = text.strip_prefix("refs/").ok_or(NameError::Ref)?;
        let allowed = |c: char| {
            !c.is_control() && !turns_text(c) && !matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\')
        };
        let well_formed = text.len() <= MAX_REF
            && text.chars().all(allowed)
            && !text.contains("..")
            && !text.contains("@{")
            && !text.ends_with('.')
            && rest.contains('/')
            && rest.split('/').all(is_ref_part);
        if well_formed { Ok(Self(text.into())) } else { Err(NameError::Ref) }
    }
}

/// Git allows these, we do not: in a log they would end its line or show what follows back to front.
pub(crate) fn turns_text(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn is_ref_part(part: &str) -> bool {
    // With regard to case, as git does: this is no file name's extension.
    let is_lock = part.as_bytes().ends_with(b".lock");
    !part.is_empty() && !part.starts_with('.') && !is_lock
}

impl fmt::Display for GitRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GitRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }
    )*};
}

as_text!(RepoName, CommitId, GitRef);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_compare_without_regard_to_case_and_keep_their_spelling() {
        let repo: RepoName = "2lemetry/InstanceAPI".parse().unwrap();
        assert_eq!(repo, "2LEMETRY/instanceapi".parse().unwrap());
        assert_eq!(repo.to_string(), "2lemetry/InstanceAPI");
    }

    #[test]
    fn repositories_outside_githubs_alphabet_are_refused() {
        for bad in
            ["", "/", "a", "a/", "/b", "a/b/c", "a/..", "./b", "a b/c", "a/b\n", "a/b;c", "a/é", "a/$(id)"]
        {
            assert_eq!(bad.parse::<RepoName>(), Err(NameError::Repository), "{bad:?}");
        }
        assert!(format!("a/{}", "b".repeat(300)).parse::<RepoName>().is_err());
    }

    #[test]
    fn the_name_of_a_clones_url_is_no_repository() {
        for bad in ["acme/api.git", "acme/api.GIT", "acme/.git"] {
            assert_eq!(bad.parse::<RepoName>(), Err(NameError::DotGit), "{bad:?}");
        }
        assert!("acme/git".parse::<RepoName>().is_ok());
    }

    #[test]
    fn commits_are_40_or_64_hexadecimal_digits() {
        for good in ["a".repeat(40), "0".repeat(64), "AbCdEf0123".repeat(4)] {
            assert_eq!(good.parse::<CommitId>().unwrap().as_str(), good.to_lowercase());
        }
        for bad in ["", "abc", &"a".repeat(39), &"a".repeat(41), &"g".repeat(40)] {
            assert_eq!(bad.parse::<CommitId>(), Err(NameError::Commit), "{bad:?}");
        }
        assert!("0".repeat(40).parse::<CommitId>().unwrap().is_none());
    }

    #[test]
    fn refs_keep_gits_rules() {
        for good in ["refs/heads/main", "refs/heads/feature/a-b_c", "refs/tags/v1.0", "refs/heads/größe"] {
            assert_eq!(good.parse::<GitRef>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "main",
            "refs/",
            "refs/heads",
            "refs/heads/",
            "refs/heads/a..b",
            "refs/heads/.a",
            "refs/heads/a.lock",
            "refs/heads/a.lock/b",
            "refs/heads/a.",
            "refs/heads/a b",
            "refs/heads/a\nb",
            "refs/heads/a\u{85}b",
            "refs/heads/a*",
            "refs/heads/a//b",
            "refs/heads/a@{b",
            "refs/heads/a\\b",
            "refs/heads/\u{7f}",
            "refs/heads/a\u{2028}b",
            "refs/heads/a\u{202e}b",
            "refs/heads/a\u{2066}b",
            "refs/heads/a\u{2069}b",
            "refs/heads/a\u{200e}b",
            "refs/heads/a\u{200f}b",
        ] {
            assert_eq!(bad.parse::<GitRef>(), Err(NameError::Ref), "{bad:?}");
        }
    }

    #[test]
    fn a_ref_knows_its_branch_or_tag() {
        let branch: GitRef = "refs/heads/release/1".parse().unwrap();
        assert_eq!((branch.branch(), branch.tag(), branch.name()), (Some("release/1"), None, "release/1"));
        let tag: GitRef = "refs/tags/v1".parse().unwrap();
        assert_eq!((tag.branch(), tag.tag(), tag.name()), (None, Some("v1"), "v1"));
    }
}
