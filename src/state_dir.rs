//! The state directory: made where it is missing, and one agent's at a time.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::journal::Store;

/// In the directory that is usual: a link to the one that user-data names instead.
const ELSEWHERE: &str = "elsewhere";

/// Where the state is that would usually be here.
pub fn follow(usual: PathBuf) -> PathBuf {
    fs::read_link(usual.join(ELSEWHERE)).unwrap_or(usual)
}

/// Notes in the usual directory where the state is.
pub fn remember(usual: &Path, actual: &Path) -> io::Result<()> {
    let link = usual.join(ELSEWHERE);
    if usual == actual {
        return match fs::remove_file(&link) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                Ok(())
            }
            done => done,
        };
    }
    if fs::read_link(&link).is_ok_and(|noted| noted == actual) {
        return Ok(());
    }
    fs::create_dir_all(usual)?;
    let new = usual.join("elsewhere.new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(actual, &new)?;
    fs::rename(&new, &link)?;
    File::open(usual)?.sync_all()
}

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// It cannot be made.
    #[error("the state directory {} cannot be made: {source}; set state_dir to one that can", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent has it.
    #[error("{}: another instance-agent runs on this state directory: stop it, or set another state_dir", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
}

/// Keeps other agents out: two on one journal would undo each other's work.
#[derive(Debug)]
pub struct StateDir {
    store: Store,
    // The directory itself is locked, which needs no write.
    _lock: Flock<File>,
}

impl StateDir {
    /// Makes the directory if need be, and locks it.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let failed = |source| StateDirError::Unusable { path: path.to_owned(), source };
        let store = Store::new(path);
        fs::create_dir_all(path).and_then(|()| store.create()).map_err(failed)?;
        let dir = File::open(path).map_err(failed)?;
        let lock = Flock::lock(dir, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
            Errno::EWOULDBLOCK => StateDirError::Locked { path: path.to_owned() },
            errno => failed(errno.into()),
        })?;
        Ok(Self { store, _lock: lock })
    }

    /// The records in it.
    pub fn store(&self) -> &Store {
        &self.store
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_elsewhere_is_found_again_for_as_long_as_it_is_used() {
        let root = tempfile::tempdir().unwrap();
        let (usual, other) = (root.path().join("usual"), root.path().join("other"));
        remember(&usual, &usual).unwrap();
        assert!(!usual.exists(), "nothing to remember");
        for actual in [&other, &other, &root.path().join("third"), &usual, &usual] {
            remember(&usual, actual).unwrap();
            assert_eq!(follow(usual.clone()), *actual);
        }
        assert_eq!(fs::read_dir(&usual).unwrap().count(), 0, "nothing is left behind");
    }
}
