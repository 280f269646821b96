//! Which refs deploy an app: its branches and tags, exact or by pattern.

use std::fmt;
use std::str::FromStr;

use crate::github::{GitRef, NameError};

/// A branch or tag name, in which `*` stands for anything but `/` and `**` for anything, as in GitHub Actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefPattern {
    text: Box<str>,
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(u8),
    WithinLevel,
    Anything,
}

impl RefPattern {
    /// True when the whole of `name` fits. Names compare with regard to case, as git does.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.as_bytes();
        // reach[i]: the parts so far can stand for name[..i]. Linear in both lengths, whatever the pattern.
        let mut reach = vec![false; name.len() + 1];
        reach[0] = true;
        for part in &self.parts {
            match part {
                Part::Literal(byte) => {
                    for i in (1..=name.len()).rev() {
                        reach[i] = reach[i - 1] && name[i - 1] == *byte;
                    }
                    reach[0] = false;
                }
                Part::WithinLevel => {
                    for i in 1..=name.len() {
                        reach[i] |= reach[i - 1] && name[i - 1] != b'/';
                    }
                }
                Part::Anything => {
                    for i in 1..=name.len() {
                        reach[i] |= reach[i - 1];
                    }
                }
            }
        }
        reach[name.len()]
    }
}

impl FromStr for RefPattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // What is left when each star stands for a letter must be a name that git allows.
        GitRef::of_branch(&text.replace('*', "x"))?;
        let mut parts = Vec::with_capacity(text.len());
        let mut bytes = text.bytes().peekable();
        while let Some(byte) = bytes.next() {
            parts.push(match byte {
                b'*' if bytes.next_if_eq(&b'*').is_some() => Part::Anything,
                b'*' => Part::WithinLevel,
                byte => Part::Literal(byte),
            });
        }
        Ok(Self { text: text.into(), parts })
    }
}

impl fmt::Display for RefPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Which branches deploy an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Branches {
    /// The repository's default branch, as each payload names it.
    Default,
    /// These. None at all when the app lists tags only.
    Listed(Vec<RefPattern>),
}

/// The refs that deploy an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefRules {
    /// Branches.
    pub branches: Branches,
    /// Tags.
    pub tags: Vec<RefPattern>,
}

/// Why a ref does not deploy an app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefMismatch {
    /// Another branch.
    #[error("its branch is not one that deploys the app")]
    Branch,
    /// A tag that the app does not list.
    #[error("its tag is not one that the app lists under tags")]
    Tag,
    /// Neither a branch nor a tag, such as refs/pull/1/head.
    #[error("its ref is neither a branch nor a tag")]
    Kind,
    /// The app follows the default branch, which the payload does not name.
    #[error("the payload does not name the repository's default branch: set `branch` for the app")]
    NoDefaultBranch,
}

impl RefRules {
    /// Does a push to `git_ref` deploy the app?
    pub fn allow(&self, git_ref: &GitRef, default_branch: Option<&str>) -> Result<(), RefMismatch> {
        if let Some(tag) = git_ref.tag() {
            return fits(self.tags.iter().any(|pattern| pattern.matches(tag)), RefMismatch::Tag);
        }
        let branch = git_ref.branch().ok_or(RefMismatch::Kind)?;
        match &self.branches {
            Branches::Default => {
                fits(default_branch.ok_or(RefMismatch::NoDefaultBranch)? == branch, RefMismatch::Branch)
            }
            Branches::Listed(patterns) => {
                fits(patterns.iter().any(|pattern| pattern.matches(branch)), RefMismatch::Branch)
            }
        }
    }
}

fn fits(yes: bool, otherwise: RefMismatch) -> Result<(), RefMismatch> {
    if yes { Ok(()) } else { Err(otherwise) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_names() {
        for (pattern, name, expected) in [
            ("main", "main", true),
            ("main", "main-2", false),
            ("main", "Main", false),
            ("main", "xmain", false),
            ("release/*", "release/1.0", true),
            ("release/*", "release/", true),
            ("release/*", "release/1/2", false),
            ("release/**", "release/1/2", true),
            ("*", "main", true),
            ("*", "a/b", false),
            ("**", "a/b", true),
            ("v*.*", "v1.2", true),
            ("v*.*", "v12", false),
            ("*-demo", "a-demo-demo", true),
            ("a*a*a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            let pattern: RefPattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(name), expected, "{pattern} against {name}");
        }
    }

    #[test]
    fn patterns_that_no_ref_could_match_are_refused() {
        for bad in ["", " main", "a b", "a..b", "/a", "a/", "feature[1]", "a?", "a\nb"] {
            assert!(bad.parse::<RefPattern>().is_err(), "{bad:?}");
        }
    }

    fn rules(branches: Branches, tags: &[&str]) -> RefRules {
        RefRules { branches, tags: tags.iter().map(|tag| tag.parse().unwrap()).collect() }
    }

    fn listed(branches: &[&str]) -> Branches {
        Branches::Listed(branches.iter().map(|branch| branch.parse().unwrap()).collect())
    }

    #[test]
    fn rules_decide_by_branch_tag_and_default_branch() {
        let cases = [
            (rules(listed(&["main", "demo"]), &[]), "refs/heads/demo", None, Ok(())),
            (rules(listed(&["main"]), &[]), "refs/heads/dev", Some("dev"), Err(RefMismatch::Branch)),
            (rules(listed(&["main"]), &[]), "refs/tags/main", None, Err(RefMismatch::Tag)),
            (rules(Branches::Default, &[]), "refs/heads/trunk", Some("trunk"), Ok(())),
            (rules(Branches::Default, &[]), "refs/heads/dev", Some("trunk"), Err(RefMismatch::Branch)),
            (rules(Branches::Default, &[]), "refs/heads/dev", None, Err(RefMismatch::NoDefaultBranch)),
            (rules(Branches::Default, &["v*"]), "refs/tags/v1", None, Ok(())),
            (rules(listed(&[]), &["v*"]), "refs/heads/main", Some("main"), Err(RefMismatch::Branch)),
            (rules(listed(&["**"]), &["*"]), "refs/pull/1/head", None, Err(RefMismatch::Kind)),
        ];
        for (rules, git_ref, default_branch, expected) in cases {
            let git_ref: GitRef = git_ref.parse().unwrap();
            assert_eq!(rules.allow(&git_ref, default_branch), expected, "{rules:?} {git_ref}");
        }
    }
}
