//! The worker's access to its record: each change is on disk before it counts.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::journal::{Record, Store};

use super::departure::Departure;
use super::machine::Machine;

/// Between two tries to write to a disk that refuses.
const RETRY: Duration = Duration::from_secs(2);
/// Between two complaints about it.
const COMPLAINT: Duration = Duration::from_secs(60);

/// The agent is to end, and the change could not be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotRecorded;

pub(super) struct Ledger {
    store: Store,
    machine: Mutex<Machine>,
    /// Held while a change is written: the next one builds on it.
    writing: AsyncMutex<()>,
    /// Nothing is written any more: the agent is ending, or the record is another worker's now.
    closed: CancellationToken,
    /// The file has been set aside.
    retired: AtomicBool,
    /// The disk refuses a change.
    stuck: AtomicBool,
}

impl Ledger {
    pub(super) fn new(store: Store, record: Record, shutdown: &CancellationToken) -> Self {
        let machine = Mutex::new(Machine::new(record, Instant::now()));
        Self {
            store,
            machine,
            writing: AsyncMutex::new(()),
            closed: shutdown.child_token(),
            retired: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
        }
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change waits for a disk that takes no writes.
    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Relaxed)
    }

    /// Makes a change, and once it is on disk has the machine take it over.
    pub(super) async fn change<T, U>(
        &self,
        change: impl FnOnce(&mut Record) -> T,
        take_over: impl FnOnce(&mut Machine, Record, T) -> U,
    ) -> Result<U, NotRecorded> {
        self.change_unless(&self.closed, change, take_over).await
    }

    /// The same, but a disk that refuses it is not waited for any more once it is `moot`.
    pub(super) async fn change_unless<T, U>(
        &self,
        moot: &CancellationToken,
        change: impl FnOnce(&mut Record) -> T,
        take_over: impl FnOnce(&mut Machine, Record, T) -> U,
    ) -> Result<U, NotRecorded> {
        let _writing = self.writing.lock().await;
        if self.retired.load(Ordering::Relaxed) {
            return Err(NotRecorded);
        }
        let mut record = self.machine().record().clone();
        let value = change(&mut record);
        let differs = record != *self.machine().record();
        if differs {
            record = self.write(record, moot).await?;
        }
        Ok(take_over(&mut self.machine(), record, value))
    }

    /// Ends the ledger, and puts its file out of the way: the record of a removed app is not revived later.
    pub(super) async fn set_aside(&self, departure: Departure) -> io::Result<PathBuf> {
        self.closed.cancel();
        let _writing = self.writing.lock().await;
        self.retired.store(true, Ordering::Relaxed);
        let (store, app) = (self.store.clone(), self.machine().record().app.clone());
        spawn_blocking(move || store.set_app_aside(&app, departure.as_str()))
            .await
            .unwrap_or_else(|panic| Err(panic.into()))
    }

    /// Tries until the disk takes it, and gives it back.
    async fn write(&self, record: Record, moot: &CancellationToken) -> Result<Record, NotRecorded> {
        let record = Arc::new(record);
        let mut complained: Option<Instant> = None;
        loop {
            let Err(problem) = self.try_write(record.clone()).await else {
                if complained.is_some() {
                    self.stuck.store(false, Ordering::Relaxed);
                    info!(app = %record.app, "the journal can be written again");
                }
                return Ok(Arc::unwrap_or_clone(record));
            };
            if complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
                complained = Some(Instant::now());
                self.stuck.store(true, Ordering::Relaxed);
                error!(
                    app = %record.app,
                    file = %self.store.file(&record.app).display(),
                    error = %problem,
                    "cannot write the journal: its pushes stay unacknowledged until the disk takes it"
                );
            }
            tokio::select! {
                () = sleep(RETRY) => {}
                () = self.closed.cancelled() => return Err(NotRecorded),
                () = moot.cancelled() => return Err(NotRecorded),
            }
        }
    }

    async fn try_write(&self, record: Arc<Record>) -> io::Result<()> {
        let store = self.store.clone();
        spawn_blocking(move || store.write(&record)).await.unwrap_or_else(|panic| Err(panic.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn once_set_aside_a_record_is_not_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        store.create().unwrap();
        let record = Record::for_test("api", "o/r");
        let file = store.file(&record.app);
        let ledger = Ledger::new(store, record, &CancellationToken::new());
        let count = |record: &mut Record| record.superseded += 1;
        assert_eq!(ledger.change(count, Machine::noted).await, Ok(()));
        assert!(file.exists());
        let aside = ledger.set_aside(Departure::Removed).await.unwrap();
        // The file may be another worker's by now.
        assert_eq!(ledger.change(count, Machine::noted).await, Err(NotRecorded));
        assert!(aside.exists() && !file.exists());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_moot_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let (store, moot) = (Store::new(dir.path()), CancellationToken::new());
        let ledger = Ledger::new(store, Record::for_test("api", "o/r"), &CancellationToken::new());
        let count = |record: &mut Record| record.superseded += 1;
        let refused = async {
            while !ledger.is_stuck() {
                sleep(RETRY).await;
            }
            moot.cancel();
        };
        let (changed, ()) = tokio::join!(ledger.change_unless(&moot, count, Machine::noted), refused);
        assert_eq!((changed, ledger.machine().record().superseded), (Err(NotRecorded), 0));
    }
}
