//! What comes first at a start: damaged records are set aside, and services that an interrupted deploy had stopped
//! are started, whatever the configuration says now.

use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::command::{JobName, JobStep, Runner};
use crate::config::AppName;
use crate::handover;
use crate::journal::{InProgress, ReadError, Record, Store};
use crate::service::ServiceManager;

/// A start that hangs must not keep the agent from its other apps.
const START_TIMEOUT: Duration = Duration::from_secs(100);

/// Reads the journal, and mends what an agent that was killed left behind.
pub async fn recover(store: &Store, manager: &dyn ServiceManager, runner: &Runner) -> Vec<Record> {
    let mut records = read(store);
    for record in &mut records {
        let Some(attempt) = record.interrupted(SystemTime::now()) else { continue };
        let (app, sha) = (&record.app, &attempt.revision.commit);
        warn!(%app, %sha, attempt = attempt.number, "a deploy was interrupted when the agent ended");
        end_survivors(&record.app, &attempt, runner).await;
        if attempt.touched {
            start_services(record, &attempt, manager).await;
        }
        if let Err(error) = store.write(record) {
            // The attempt stays in the file, so that the next start counts it again.
            warn!(app = %record.app, file = %store.file(&record.app).display(), %error, "cannot write the journal");
        }
    }
    records
}

fn read(store: &Store) -> Vec<Record> {
    let (records, damaged) = match store.read_all() {
        Ok(read) => read,
        Err(error) => {
            error!(%error, "cannot read the journal: what was pending is not known");
            return Vec::new();
        }
    };
    for problem in damaged {
        match &problem {
            ReadError::Damaged { path, .. } => match store.set_aside(path, "damaged") {
                Ok(aside) => {
                    error!(error = %problem, aside = %aside.display(), "record set aside: the app starts anew");
                }
                Err(error) => error!(%error, problem = %problem, "cannot set a damaged record aside"),
            },
            ReadError::Io { .. } => error!(error = %problem, "record not read: the app starts anew"),
        }
    }
    records
}

/// A command may have outlived the agent: no other of the app may begin beside it.
async fn end_survivors(app: &AppName, attempt: &InProgress, runner: &Runner) {
    let jobs = [JobStep::Prepare, JobStep::Update, JobStep::Check].map(|step| JobName::new(step, app));
    let named = runner.end_survivors(&jobs).await;
    let noted = match &attempt.running {
        Some(running) => runner.end_survivor(running).await,
        None => Ok(()),
    };
    for error in [named, noted].into_iter().filter_map(Result::err) {
        error!(%app, %error, "cannot end a command that outlived the agent");
    }
}

/// With the environment of the revision that ran for certain last: the interrupted one may be half in place.
async fn start_services(record: &Record, attempt: &InProgress, manager: &dyn ServiceManager) {
    let environment = handover::environment(&record.app, None, record.last_good.as_ref(), None);
    for service in &record.services {
        let (app, sha) = (&record.app, &attempt.revision.commit);
        match timeout(START_TIMEOUT, manager.start(service, &environment)).await {
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
