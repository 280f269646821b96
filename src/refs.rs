//! Which refs deploy an app: its branches and tags, exact or by pattern.

use std::fmt;
use std::str::FromStr;

use crate::github::GitRef;

/// A branch or tag name, in which `*` stands for anything but `/` and `**` for anything, as in GitHub Actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefPattern {
    text: Box<str>,
}

#[derive(Clone, Copy)]
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
        for part in self.parts() {
            match part {
                Part::Literal(byte) => {
                    for i in (1..=name.len()).rev() {
                        reach[i] = reach[i - 1] && name[i - 1] == byte;
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

    fn parts(&self) -> impl Iterator<Item = Part> {
        let mut bytes = self.text.bytes().peekable();
        std::iter::from_fn(move || {
            Some(match bytes.next()? {
                b'*' if bytes.next_if_eq(&b'*').is_some() => Part::Anything,
                b'*' => Part::WithinLevel,
                byte => Part::Literal(byte),
            })
        })
    }
}

/// Why a text is no pattern, and how to write what was meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// No name that git allows could fit.
    #[error("can match no git ref: write main, release/* or ** (no ? or [])")]
    NoRef,
    /// A whole ref, where its name is asked for.
    #[error("must be the name alone: write {name}, not {whole}")]
    WholeRef {
        /// The name alone.
        name: String,
        /// What was written.
        whole: String,
    },
    /// An exception, as GitHub Actions has them.
    #[error("must not begin with !: there are no exceptions, so list what deploys the app")]
    Exception,
    /// Alternatives, as a shell has them.
    #[error("{{a,b}} does not mean either of both: write a list, such as [main, demo]")]
    Alternatives,
    /// Three stars or more.
    #[error("has too many stars in a row: write * for anything but /, or ** for anything")]
    Stars,
}

/// What git would allow in a name, but means something else to whoever writes it.
fn misunderstood(text: &str) -> Option<PatternError> {
    if text.starts_with("refs/") {
        let name = ["refs/heads/", "refs/tags/", "refs/"].iter().find_map(|it| text.strip_prefix(it));
        return Some(PatternError::WholeRef {
            name: name.unwrap_or_default().to_owned(),
            whole: text.to_owned(),
        });
    }
    if text.starts_with('!') {
        return Some(PatternError::Exception);
    }
    let in_braces = |(_, rest): (&str, &str)| rest.split_once('}').is_some_and(|(it, _)| it.contains(','));
    if text.split_once('{').is_some_and(in_braces) {
        return Some(PatternError::Alternatives);
    }
    text.contains("***").then_some(PatternError::Stars)
}

impl FromStr for RefPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if let Some(error) = misunderstood(text) {
            return Err(error);
        }
        // What is left when each star stands for a letter must be a name that git allows.
        GitRef::of_branch(&text.replace('*', "x")).map_err(|_| PatternError::NoRef)?;
        Ok(Self { text: text.into() })
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

    /// The same as [`Self::allow`], as far as it can be told while the default branch may not be known yet.
    pub fn may_allow(&self, git_ref: &GitRef, default_branch: Option<&str>) -> bool {
        matches!(self.allow(git_ref, default_branch), Ok(()) | Err(RefMismatch::NoDefaultBranch))
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

    #[test]
    fn patterns_that_mean_something_else_elsewhere_say_how_to_write_it() {
        for (bad, advice) in [
            ("refs/heads/main", "write main, not refs/heads/main"),
            ("refs/tags/v*", "write v*, not refs/tags/v*"),
            ("!demo", "no exceptions"),
            ("{main,demo}", "[main, demo]"),
            ("release/{1,2}", "[main, demo]"),
            ("***", "* for anything but /"),
            ("a/*****", "** for anything"),
            ("a?", "no ? or []"),
        ] {
            let error = bad.parse::<RefPattern>().unwrap_err().to_string();
            assert!(error.contains(advice), "{bad}: {error}");
        }
        for good in ["a!", "{a}", "a,b", "heads/refs/x", "refs"] {
            assert!(good.parse::<RefPattern>().is_ok(), "{good}");
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
