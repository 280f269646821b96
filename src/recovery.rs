//! What comes first at a start: damaged records are set aside, and services that an interrupted deploy had stopped
//! are started, whatever the configuration says now.

mod owed;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::command::{JobName, JobStep, Runner, Running};
use crate::config::AppName;
use crate::handover;
use crate::journal::{InProgress, ReadError, Record, Store};
use crate::outcome::Outcome;
use crate::service::{
    DEFAULT_LIMIT, DetectionRoot, ManagerChoice, ServiceManager, ServiceName, Status, Trace, start_limit,
};
use crate::tools::Tools;

use owed::{start_owed, stop_what_has_ended};

/// How long services are still brought up once the agent is to end.
const GRACE: Duration = Duration::from_secs(60);
/// For a look at a service.
const LOOK: Duration = Duration::from_secs(10);

/// The journal cannot be read, so that nothing may be done that would replace it.
#[derive(Debug, thiserror::Error)]
#[error("{0}; no push is taken until it can be read, or is removed so that its app starts anew")]
pub struct RecoveryError(ReadError);

/// What an earlier agent left, mended.
#[derive(Debug, Default)]
pub struct Recovered {
    /// The records of all apps.
    pub records: Vec<Record>,
    /// Revisions that were interrupted too often.
    pub given_up: Vec<Outcome>,
}

/// `None`: the agent is to end, and has waited for the recovery long enough. The next one goes on with it.
pub async fn unless_ended<T>(shutdown: &CancellationToken, recovery: impl Future<Output = T>) -> Option<T> {
    let ended = async {
        shutdown.cancelled().await;
        sleep(GRACE).await;
    };
    tokio::select! {
        recovered = recovery => Some(recovered),
        () = ended => None,
    }
}

/// Reads the journal, and mends what an agent that was killed left behind: all apps side by side, each with the service
/// manager that its attempt was made with. `current`: what the configuration has now, where there is a valid one.
pub async fn recover(
    store: &Store,
    current: Option<(&ManagerChoice, &Tools)>,
) -> Result<Recovered, RecoveryError> {
    let (records, unreadable) = read(store)?;
    let mut toolbox = Toolbox::new(current);
    let mut recovered = Recovered::default();
    let mut mending = JoinSet::new();
    for record in records {
        match toolbox.tools_for(&record).await {
            Some(tools) => {
                mending.spawn(mend(record, store.clone(), tools));
            }
            None => recovered.records.push(record),
        }
    }
    for (record, given_up) in mending.join_all().await {
        recovered.records.push(record);
        recovered.given_up.extend(given_up);
    }
    // Only now, so that no other app's services stay down for it.
    unreadable.map_or(Ok(recovered), |problem| Err(RecoveryError(problem)))
}

/// The tools that were looked for so far.
struct Toolbox<'a> {
    current: Option<&'a Tools>,
    found: Vec<(ManagerChoice, Tools)>,
}

impl<'a> Toolbox<'a> {
    fn new(current: Option<(&ManagerChoice, &'a Tools)>) -> Self {
        let found = current.map(|(choice, tools)| (choice.clone(), tools.clone()));
        Self { current: current.map(|(_, tools)| tools), found: found.into_iter().collect() }
    }

    /// Those that the record's attempt was made with; where they are gone, what there is. `None`: there is nothing to
    /// mend, or nothing to mend it with.
    async fn tools_for(&mut self, record: &Record) -> Option<Tools> {
        let attempt = record.attempt.as_ref().or(record.left_down.as_ref())?;
        let choice = &attempt.rescue.service_manager;
        if let Some((_, tools)) = self.found.iter().find(|(known, _)| known == choice) {
            return Some(tools.clone());
        }
        match Tools::of(choice, &DetectionRoot::default()).await {
            Ok(tools) => {
                self.found.push((choice.clone(), tools.clone()));
                Some(tools)
            }
            Err(error) => {
                error!(app = %record.app, %error, "the service manager of an interrupted deploy is gone");
                self.current.cloned()
            }
        }
    }
}

async fn mend(mut record: Record, store: Store, tools: Tools) -> (Record, Option<Outcome>) {
    // Counted first: should the agent be killed in here, this one is not made for ever.
    let Some(attempt) = record.count_interruption() else {
        return (start_what_was_left_down(record, &store, &tools).await, None);
    };
    write(&store, &record);
    let (app, sha) = (record.app.clone(), &attempt.revision.commit);
    warn!(%app, %sha, attempt = attempt.number, "a deploy was interrupted when the agent ended");
    end_survivors(&app, &attempt, &tools.runner).await;
    let (mut record, is_up) = start_services(record, &store, &attempt, &tools).await;
    let given_up = record.interrupted(is_up);
    if given_up.is_some() {
        error!(%app, %sha, "deploy given up after too many interruptions: waiting for a new push");
    }
    write(&store, &record);
    if !attempt.touched {
        record = start_what_was_left_down(record, &store, &tools).await;
    }
    (record, given_up)
}

/// An earlier agent could not do it.
async fn start_what_was_left_down(record: Record, store: &Store, tools: &Tools) -> Record {
    let Some(attempt) = record.left_down.clone() else { return record };
    let (mut record, is_up) = start_services(record, store, &attempt, tools).await;
    if is_up {
        record.brought_up(&attempt.services);
        write(store, &record);
    }
    record
}

/// For the next agent, should this one be killed in here.
fn note(record: &Mutex<Record>, store: &Store, running: Running) {
    let mut record = lock(record);
    record.set_running(Some(running));
    write(store, &record);
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write(store: &Store, record: &Record) {
    if let Err(error) = store.write(record) {
        warn!(app = %record.app, file = %store.file(&record.app).display(), %error, "cannot write the journal");
    }
}

/// The records, and what is wrong with one that cannot be read at all: there may be nothing wrong with its content.
fn read(store: &Store) -> Result<(Vec<Record>, Option<ReadError>), RecoveryError> {
    let (records, unread) = store.read_all().map_err(RecoveryError)?;
    let mut unreadable = None;
    for problem in unread {
        let ReadError::Damaged { path, .. } = &problem else {
            error!(error = %problem, "cannot read a record");
            unreadable = Some(problem);
            continue;
        };
        match store.set_aside(path, "damaged") {
            Ok(aside) => {
                error!(error = %problem, aside = %aside.display(), "record set aside: the app starts anew");
            }
            Err(error) => error!(%error, problem = %problem, "cannot set a damaged record aside"),
        }
    }
    Ok((records, unreadable))
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

/// False: one of them is not up.
async fn start_services(
    record: Record,
    store: &Store,
    attempt: &InProgress,
    tools: &Tools,
) -> (Record, bool) {
    if !attempt.touched {
        return (record, true);
    }
    // Of the revision that ran for certain last: the interrupted one may be half in place.
    let variables = attempt.rescue.environment.as_deref();
    let environment = handover::environment(&record.app, variables, record.last_good.as_ref(), None);
    let app = record.app.clone();
    let record = Mutex::new(record);
    let note = |running| note(&record, store, running);
    let trace = Trace::new(&attempt.mark, &note);
    let mut is_up = true;
    for service in &attempt.services {
        is_up &= start_service(&app, service, attempt, tools.manager.as_ref(), &environment, &trace).await;
    }
    is_up &= start_owed(&record, attempt, tools.manager.as_ref(), &trace).await;
    (record.into_inner().unwrap_or_else(PoisonError::into_inner), is_up)
}

async fn start_service(
    app: &AppName,
    service: &ServiceName,
    attempt: &InProgress,
    manager: &dyn ServiceManager,
    environment: &[(String, String)],
    trace: &Trace<'_>,
) -> bool {
    // A start of what is up could make it run twice, where the manager does not see to that.
    if let Ok(Ok(Status::Running { .. } | Status::Completed { .. })) =
        timeout(LOOK, manager.status(service)).await
    {
        return true;
    }
    stop_what_has_ended(app, service, manager, trace).await;
    let sha = &attempt.revision.commit;
    let limit = start_limit(manager, service, attempt.rescue.start_timeout).await.unwrap_or(DEFAULT_LIMIT);
    match timeout(limit, manager.start(service, environment, trace)).await {
        Ok(Ok(())) => {
            info!(%app, %sha, %service, "service started that an interrupted deploy had stopped");
            return true;
        }
        Ok(Err(error)) => {
            error!(%app, %sha, %service, %error, "cannot start a service that an interrupted deploy had stopped: the next start of the agent tries again");
        }
        Err(_) => {
            let limit = humantime::format_duration(limit);
            error!(%app, %sha, %service, %limit, "starting a service that an interrupted deploy had stopped takes too long: the next start of the agent tries again");
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::time::SystemTime;

    use crate::journal::Rescue;
    use crate::router::Revision;
    use crate::service::{CustomManager, Template};

    use super::*;

    fn shell(line: String) -> Template {
        Template::new(vec!["/bin/sh".into(), "-c".into(), line, "{service}".into()]).unwrap()
    }

    #[tokio::test]
    async fn each_start_tries_again_to_start_what_was_left_down() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        store.create().unwrap();
        let [starts, database] = ["starts", "database"].map(|name| directory.path().join(name));
        let manager = CustomManager {
            name: "mine".into(),
            stop: shell("exit 1".into()),
            start: shell(format!("echo >> {}; test -e {}", starts.display(), database.display())),
            status: shell("exit 3".into()),
        };
        let choice = ManagerChoice::Custom(manager.clone());
        let tools = Tools { manager: Arc::new(manager), runner: Runner::new("/nonexistent".into()) };
        let mut record = Record::for_test("api", "o/r");
        let now = SystemTime::now();
        record.admit(&Revision::for_test('a'), false, now);
        record.begin(true, Rescue { service_manager: choice.clone(), ..Rescue::default() }, now).unwrap();
        store.write(&record).unwrap();
        for (start, tried, is_down) in
            [(1, 1, true), (2, 2, true), (3, 3, true), (4, 4, false), (5, 4, false)]
        {
            if start == 3 {
                // Meanwhile its next attempt was killed before it stopped anything.
                let (mut records, _) = store.read_all().unwrap();
                records[0].begin(false, Rescue { service_manager: choice.clone(), ..Rescue::default() }, now);
                store.write(&records[0]).unwrap();
            } else if start == 4 {
                fs::write(&database, "").unwrap();
            }
            let recovered = recover(&store, Some((&choice, &tools))).await.unwrap();
            let record = &recovered.records[0];
            assert_eq!(fs::read_to_string(&starts).unwrap().lines().count(), tried, "start {start}");
            assert_eq!((record.left_down.is_some(), record.attempt.is_some()), (is_down, false), "{start}");
            let interrupted = if start < 3 { 1 } else { 2 };
            assert_eq!(record.desired.as_ref().unwrap().interrupted, interrupted, "each counts once");
            assert_eq!(&store.read_all().unwrap().0[0], record);
        }
    }
}
