//! The worker's access to its record: each change is on disk before it counts.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::journal::{Record, Store};

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
    shutdown: CancellationToken,
}

impl Ledger {
    pub(super) fn new(store: Store, record: Record, shutdown: CancellationToken) -> Self {
        let machine = Mutex::new(Machine::new(record, Instant::now()));
        Self { store, machine, writing: AsyncMutex::new(()), shutdown }
    }

    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change, and once it is on disk has the machine take it over.
    pub(super) async fn change<T, U>(
        &self,
        change: impl FnOnce(&mut Record) -> T,
        take_over: impl FnOnce(&mut Machine, Record, T) -> U,
    ) -> Result<U, NotRecorded> {
        let _writing = self.writing.lock().await;
        let former = self.machine().record().clone();
        let mut record = former.clone();
        let value = change(&mut record);
        if record != former {
            self.write(&record).await?;
        }
        Ok(take_over(&mut self.machine(), record, value))
    }

    /// Tries until the disk takes it.
    async fn write(&self, record: &Record) -> Result<(), NotRecorded> {
        let mut complained: Option<Instant> = None;
        loop {
            let Err(problem) = self.try_write(record.clone()).await else {
                if complained.is_some() {
                    info!(app = %record.app, "the journal can be written again");
                }
                return Ok(());
            };
            if complained.is_none_or(|at| at.elapsed() >= COMPLAINT) {
                complained = Some(Instant::now());
                error!(
                    app = %record.app,
                    file = %self.store.file(&record.app).display(),
                    error = %problem,
                    "cannot write the journal: its pushes stay unacknowledged until the disk takes it"
                );
            }
            tokio::select! {
                () = sleep(RETRY) => {}
                () = self.shutdown.cancelled() => return Err(NotRecorded),
            }
        }
    }

    async fn try_write(&self, record: Record) -> std::io::Result<()> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || store.write(&record))
            .await
            .unwrap_or_else(|panic| Err(panic.into()))
    }
}
