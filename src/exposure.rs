//! Files that others on this host can read or change, and should not.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

/// The bits of a file's mode by which those outside its owner and group read and write it. A group is a list that
/// somebody chose, and how Debian hands keys to services (`ssl-cert`).
const OTHERS: u32 = 0o006;

/// Those by which they write it.
const OTHERS_WRITE: u32 = 0o002;

/// A warning, if others can write the configuration: it says what the agent runs, and as whom.
pub(crate) fn command_of_others(path: &Path) -> Option<String> {
    let mode = mode(path)?;
    (mode & OTHERS_WRITE != 0).then(|| {
        format!(
            "{0} has mode {mode:04o}, so others on this host can have the agent run whatever they write there: chmod o-w {0}",
            path.display()
        )
    })
}

fn mode(path: &Path) -> Option<u32> {
    // A device such as /dev/null holds no secret.
    path.metadata().ok().filter(fs::Metadata::is_file).map(|file| file.mode() & 0o7777)
}

/// A file of keys, passwords or secrets, which the configuration calls `key`, with the mode that lets others in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exposed {
    key: &'static str,
    path: PathBuf,
    mode: u32,
}

impl Exposed {
    /// `None`: others are kept out, or there is no such file.
    pub(crate) fn look(key: &'static str, path: &Path) -> Option<Self> {
        let mode = mode(path)?;
        (mode & OTHERS != 0).then(|| Self { key, path: path.to_owned(), mode })
    }
}

impl fmt::Display for Exposed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, path, mode } = self;
        write!(
            f,
            "{key}: {} has mode {mode:04o}, so others on this host can read or change what is in it: chmod o= {0}, and \
             replace what it holds if somebody may have looked",
            path.display()
        )
    }
}

/// What of this is known, so that each change is told of once.
#[derive(Debug, Default)]
pub(crate) struct Known(Option<Vec<Exposed>>);

impl Known {
    /// Those that are new. At first none is: whoever loads a configuration tells of what it finds.
    pub(crate) fn news(&mut self, now: &[Exposed]) -> Vec<Exposed> {
        let before = self.0.replace(now.to_vec());
        let is_new = |file: &&Exposed| before.as_ref().is_some_and(|before| !before.contains(file));
        now.iter().filter(is_new).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn owner_and_group_are_not_others() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, exposed) in [(0o600, false), (0o660, false), (0o641, false), (0o604, true), (0o602, true)]
        {
            fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            assert_eq!(Exposed::look("key", file.path()).is_some(), exposed, "{mode:o}");
        }
        for none in ["/nowhere", "/dev/null"] {
            assert_eq!(Exposed::look("key", Path::new(none)), None);
        }
    }

    #[test]
    fn each_change_is_news_once() {
        let file = |mode| Exposed { key: "key", path: "/secret".into(), mode };
        let mut known = Known::default();
        assert!(known.news(&[file(0o604)]).is_empty(), "told of already");
        for (now, news) in [
            (vec![file(0o604)], vec![]),
            (vec![file(0o644)], vec![file(0o644)]),
            (vec![file(0o644)], vec![]),
            (vec![], vec![]),
            (vec![file(0o644)], vec![file(0o644)]),
        ] {
            assert_eq!(known.news(&now), news);
        }
    }
}
