//! The state directory: made where it is missing, and one agent's at a time.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::journal::Store;

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
