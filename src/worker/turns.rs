//! Whose turn it is: apps that share a service deploy one after the other, and only so many at a time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::config::App;

/// Hands out turns to deploy.
#[derive(Debug)]
pub struct Turns {
    slots: Arc<Semaphore>,
    locks: Arc<Mutex<HashMap<String, Arc<AsyncMutex<()>>>>>,
}

/// A turn; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    _locks: Vec<OwnedMutexGuard<()>>,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Turns {
    /// `max_parallel` turns at a time.
    pub fn new(max_parallel: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(max_parallel)), locks: Arc::default() }
    }

    /// The same locks with another number of turns. Turns that were taken before do not count in it.
    #[must_use]
    pub fn resized(&self, max_parallel: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(max_parallel)), locks: self.locks.clone() }
    }

    /// Waits for the app's turn.
    pub(super) async fn take(&self, app: &App) -> Turn {
        let mut locks = Vec::new();
        // A slot last, so that no one waits holding one.
        for lock in self.locks_of(app) {
            locks.push(lock.lock_owned().await);
        }
        // The semaphore is never closed, which is the only way to get none.
        Turn { _locks: locks, _slot: self.slots.clone().acquire_owned().await.ok() }
    }

    /// The app's turn, if it need not wait for it.
    pub(super) fn try_take(&self, app: &App) -> Option<Turn> {
        let locks: Result<_, _> = self.locks_of(app).into_iter().map(AsyncMutex::try_lock_owned).collect();
        Some(Turn { _locks: locks.ok()?, _slot: Some(self.slots.clone().try_acquire_owned().ok()?) })
    }

    /// Sorted, so that two apps never wait for each other.
    fn locks_of(&self, app: &App) -> Vec<Arc<AsyncMutex<()>>> {
        let services = app.services.iter().map(|service| format!("service {}", service.key()));
        let keys: BTreeSet<String> = services.chain([format!("app {}", app.name)]).collect();
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        keys.into_iter().map(|key| locks.entry(key).or_default().clone()).collect()
    }
}
