//! The worker's access to its record: each change is on disk before it counts.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::journal::{Record, Store};

use super::departure::Departure;
use super::machine::Machine;

/// Between two tries to write to a disk that refuses.
pub(super) const RETRY: Duration = Duration::from_secs(2);
/// Between two complaints about it.
const COMPLAINT: Duration = Duration::from_secs(60);

/// The change could not be written, and is not tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotRecorded;

pub(super) struct Ledger {
    store: Store,
    machine: Mutex<Machine>,
    /// Held while a change is written: the next one builds on it.
    writing: Arc<AsyncMutex<()>>,
    /// Nothing is written any more: the agent is ending, or the record is another worker's now.
    closed: CancellationToken,
    /// The file has been set aside.
    retired: AtomicBool,
    /// When it was said last that the disk refuses; `None`: it does not.
    complained: Mutex<Option<Instant>>,
    /// It has refused a change.
    refused: Notify,
}

impl Ledger {
    pub(super) fn new(store: Store, record: Record, shutdown: &CancellationToken) -> Self {
        let machine = Mutex::new(Machine::new(record, Instant::now()));
        Self {
            store,
            machine,
            writing: Arc::default(),
            closed: shutdown.child_token(),
            retired: AtomicBool::new(false),
            complained: Mutex::default(),
            refused: Notify::new(),
        }
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk took no write the last time.
    pub(super) fn is_stuck(&self) -> bool {
        self.complained().is_some()
    }

    fn complained(&self) -> MutexGuard<'_, Option<Instant>> {
        self.complained.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, and once it is on disk, however long that takes, has the machine take it over.
    pub(super) async fn change<T, U>(
        &self,
        change: impl FnOnce(&mut Record) -> T,
        take_over: impl FnOnce(&mut Machine, Record, T) -> U,
    ) -> Result<U, NotRecorded> {
        self.make(change, take_over, Tries::Endless).await
    }

    /// The same, but it is off if the disk refuses it: for what may no longer be right when the disk takes it.
    pub(super) async fn change_at_once<T, U>(
        &self,
        change: impl FnOnce(&mut Record) -> T,
        take_over: impl FnOnce(&mut Machine, Record, T) -> U,
    ) -> Result<U, NotRecorded> {
        self.make(change, take_over, Tries::One).await
    }

    async fn make<T, U>(
        &self,
        change: impl FnOnce(&mut Record) -> T,
        take_over: impl FnOnce(&mut Machine, Record, T) -> U,
        tries: Tries,
    ) -> Result<U, NotRecorded> {
        let writing = self.turn_to_write(tries).await?;
        if self.retired.load(Ordering::Relaxed) {
            return Err(NotRecorded);
        }
        let mut record = self.machine().record().clone();
        let value = change(&mut record);
        let differs = record != *self.machine().record();
        let (record, _writing) =
            if differs { self.write(record, writing, tries).await? } else { (record, writing) };
        Ok(take_over(&mut self.machine(), record, value))
    }

    /// What has one try does not wait behind what is tried again and again.
    async fn turn_to_write(&self, tries: Tries) -> Result<OwnedMutexGuard<()>, NotRecorded> {
        let refused = self.refused.notified();
        if let Ok(writing) = self.writing.clone().try_lock_owned() {
            return Ok(writing);
        }
        let writing = self.writing.clone().lock_owned();
        match tries {
            Tries::Endless => Ok(writing.await),
            Tries::One if self.is_stuck() => Err(NotRecorded),
            Tries::One => tokio::select! {
                writing = writing => Ok(writing),
                () = refused => Err(NotRecorded),
            },
        }
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

    /// Gives the record back once the disk has taken it.
    async fn write(
        &self,
        record: Record,
        mut writing: OwnedMutexGuard<()>,
        tries: Tries,
    ) -> Result<(Record, OwnedMutexGuard<()>), NotRecorded> {
        let record = Arc::new(record);
        loop {
            let written;
            (written, writing) = self.try_write(record.clone(), writing).await?;
            let Err(problem) = written else {
                if self.complained().take().is_some() {
                    info!(app = %record.app, "the journal can be written again");
                }
                return Ok((Arc::unwrap_or_clone(record), writing));
            };
            self.complain(&record, &problem);
            self.refused.notify_waiters();
            if tries == Tries::One {
                return Err(NotRecorded);
            }
            tokio::select! {
                () = sleep(RETRY) => {}
                () = self.closed.cancelled() => return Err(NotRecorded),
            }
        }
    }

    /// As while a change is written.
    #[cfg(test)]
    pub(super) async fn busy(&self) -> OwnedMutexGuard<()> {
        self.writing.clone().lock_owned().await
    }

    fn complain(&self, record: &Record, problem: &io::Error) {
        let mut complained = self.complained();
        if complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
            *complained = Some(Instant::now());
            error!(
                app = %record.app,
                file = %self.store.file(&record.app).display(),
                error = %problem,
                "cannot write the journal: its pushes wait until the disk takes it"
            );
        }
    }

    /// The lock goes with the write: if nobody waits for it any more, the next one still does.
    async fn try_write(
        &self,
        record: Arc<Record>,
        writing: OwnedMutexGuard<()>,
    ) -> Result<(io::Result<()>, OwnedMutexGuard<()>), NotRecorded> {
        let store = self.store.clone();
        // An error would be a panic, which has said so; the lock went with it, so this change may no longer be the next.
        spawn_blocking(move || (store.write(&record), writing)).await.map_err(|_| NotRecorded)
    }
}

/// How often a write is tried that the disk refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tries {
    One,
    Endless,
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::pin::pin;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

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
    async fn what_must_be_written_at_once_is_not_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("missing"));
        let ledger = Ledger::new(store.clone(), Record::for_test("api", "o/r"), &CancellationToken::new());
        let count = |record: &mut Record| record.superseded += 1;
        assert_eq!(ledger.change_at_once(count, Machine::noted).await, Err(NotRecorded));
        assert_eq!((ledger.is_stuck(), ledger.machine().record().superseded), (true, 0));
        store.create().unwrap();
        assert_eq!(ledger.change_at_once(count, Machine::noted).await, Ok(()));
        assert_eq!((ledger.is_stuck(), ledger.machine().record().superseded), (false, 1));
    }

    /// By the real clock: one that is paused goes on only once no blocking call runs.
    #[tokio::test]
    async fn a_write_that_nobody_waits_for_any_more_still_comes_before_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        store.create().unwrap();
        let record = Record::for_test("api", "o/r");
        let (file, hanging) = (store.file(&record.app), store.file(&record.app).with_extension("json.new"));
        mkfifo(&hanging, Mode::S_IRWXU).unwrap();
        let ledger = Ledger::new(store, record, &CancellationToken::new());
        let count = |record: &mut Record| record.superseded += 1;
        {
            let mut given_up = pin!(ledger.change(count, Machine::noted));
            // As far as the fifo, at which the write waits for a reader.
            assert!(poll_once(&mut given_up).await.is_none());
        }
        let mut aside = pin!(ledger.set_aside(Departure::Removed));
        assert!(poll_once(&mut aside).await.is_none(), "it waits for the write");
        let hung = hanging.with_extension("hung");
        std::fs::rename(&hanging, &hung).unwrap();
        std::fs::write(&hanging, "").unwrap();
        // Not closed again: the write waits for a reader.
        std::mem::forget(File::options().read(true).write(true).open(&hung).unwrap());
        let aside = aside.await.unwrap();
        assert!(aside.exists() && !file.exists(), "the record of a removed app is back");
    }

    async fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = std::future::ready(()) => None,
        }
    }
}
