//! What comes first at a start: damaged records are set aside, and services that an interrupted deploy had stopped
//! are started, whatever the configuration says now.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::command::{JobName, JobStep, Runner};
use crate::config::AppName;
use crate::handover;
use crate::journal::{InProgress, ReadError, Record, Store};
use crate::service::{ServiceManager, Status};

/// A start that hangs must not keep the agent from its other apps.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// For a look at a service.
const LOOK: Duration = Duration::from_secs(10);

/// The journal cannot be read, so that nothing may be done that would replace it.
#[derive(Debug, thiserror::Error)]
#[error("{0}; nothing is begun until it can be read")]
pub struct RecoveryError(ReadError);

/// Reads the journal, and mends what an agent that was killed left behind: all apps side by side.
pub async fn recover(
    store: &Store,
    manager: &Arc<dyn ServiceManager>,
    runner: &Runner,
    environment: Option<&str>,
) -> Result<Vec<Record>, RecoveryError> {
    let mut mended = Vec::new();
    let mut mending = JoinSet::new();
    for record in read(store)? {
        if record.attempt.is_some() {
            let (manager, runner) = (manager.clone(), runner.clone());
            mending.spawn(mend(record, store.clone(), manager, runner, environment.map(str::to_owned)));
        } else {
            mended.push(record);
        }
    }
    mended.extend(mending.join_all().await);
    Ok(mended)
}

async fn mend(
    mut record: Record,
    store: Store,
    manager: Arc<dyn ServiceManager>,
    runner: Runner,
    environment: Option<String>,
) -> Record {
    // Counted first: should the agent be killed in here, this one is not made for ever.
    let Some(attempt) = record.count_interruption() else { return record };
    write(&store, &record);
    let (app, sha) = (record.app.clone(), &attempt.revision.commit);
    warn!(%app, %sha, attempt = attempt.number, "a deploy was interrupted when the agent ended");
    end_survivors(&app, &attempt, &runner).await;
    if attempt.touched {
        // Of the revision that ran for certain last: the interrupted one may be half in place.
        let environment =
            handover::environment(&record.app, environment.as_deref(), record.last_good.as_ref(), None);
        start_services(&record.app, &attempt, manager.as_ref(), &environment).await;
    }
    if record.interrupted(SystemTime::now()) {
        error!(%app, %sha, "deploy given up after too many interruptions: waiting for a new push");
    }
    write(&store, &record);
    record
}

fn write(store: &Store, record: &Record) {
    if let Err(error) = store.write(record) {
        warn!(app = %record.app, file = %store.file(&record.app).display(), %error, "cannot write the journal");
    }
}

fn read(store: &Store) -> Result<Vec<Record>, RecoveryError> {
    let (records, unread) = store.read_all().map_err(RecoveryError)?;
    for problem in unread {
        let ReadError::Damaged { path, .. } = &problem else { return Err(RecoveryError(problem)) };
        match store.set_aside(path, "damaged") {
            Ok(aside) => {
                error!(error = %problem, aside = %aside.display(), "record set aside: the app starts anew");
            }
            Err(error) => error!(%error, problem = %problem, "cannot set a damaged record aside"),
        }
    }
    Ok(records)
}

/// A command may have outlived the agent: no other of the app may begin beside it.
async fn end_survivors(app: &AppName, attempt: &InProgress, runner: &Runner) {
    let jobs = [JobStep::Prepare, JobStep::Update, JobStep::Check].map(|step| JobName::new(step, app));
    let named = runner.end_survivors(&jobs).await;
    let noted = match &attempt.running {
        Some(running) => runner.end_survivor(running).await,
        None => Ok(()),
    };
    let marked = runner.end_marked(&attempt.mark).await;
    for error in [named, noted, marked].into_iter().filter_map(Result::err) {
        error!(%app, %error, "cannot end a command that outlived the agent");
    }
}

async fn start_services(
    app: &AppName,
    attempt: &InProgress,
    manager: &dyn ServiceManager,
    environment: &[(String, String)],
) {
    let sha = &attempt.revision.commit;
    for service in &attempt.services {
        // A start of what is up could make it run twice, where the manager does not see to that.
        if let Ok(Ok(Status::Running { .. } | Status::Completed)) =
            timeout(LOOK, manager.status(service)).await
        {
            continue;
        }
        match timeout(START_TIMEOUT, manager.start(service, environment, &attempt.mark)).await {
            Ok(Ok(())) => {
                info!(%app, %sha, %service, "service started that an interrupted deploy had stopped");
            }
            Ok(Err(error)) => {
                error!(%app, %sha, %service, %error, "cannot start a service that an interrupted deploy had stopped");
            }
            Err(_) => {
                error!(%app, %sha, %service, "starting a service that an interrupted deploy had stopped takes too long");
            }
        }
    }
}
