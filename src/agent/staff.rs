//! The workers of all apps: who has one, whose is taken away, and how they end.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{App, AppName};
use crate::journal::Record;
use crate::worker::{self, Context, Departure, Notices, Worker};

/// For what is left to do at the end beside deploys: changes on their way to the disk, and notifications.
pub(super) const REST: Duration = Duration::from_secs(30);

pub(super) struct Staff {
    /// Sorted by name. Most have no worker: no push for them has ever come, so there is nothing to do or on disk.
    apps: Vec<Arc<App>>,
    workers: BTreeMap<AppName, Worker>,
    /// Workers of apps that were removed, which may still end a deploy.
    retired: Vec<Worker>,
    shutdown: CancellationToken,
}

impl Staff {
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        Self { apps: Vec::new(), workers: BTreeMap::new(), retired: Vec::new(), shutdown }
    }

    /// The worker of an app, which gets one with its first push; `None`: there is no such app.
    pub(super) fn worker(&mut self, app: &AppName, context: &Arc<Context>) -> Option<&Worker> {
        if !self.workers.contains_key(app) {
            let position = self.apps.binary_search_by(|it| it.name.cmp(app)).ok()?;
            let app = self.apps.get(position)?;
            let (record, context, shutdown) = (Record::new(app), context.clone(), self.shutdown.clone());
            let worker = Worker::spawn(app.clone(), record, context, shutdown, None);
            self.workers.insert(app.name.clone(), worker);
        }
        self.workers.get(app)
    }

    /// How many apps have a record that the disk does not take.
    pub(super) fn stuck(&self) -> usize {
        self.workers.values().filter(|worker| worker.is_stuck()).count()
    }

    fn all_workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.values().chain(&self.retired)
    }

    /// Gives each app its worker, and takes them from apps that are gone.
    ///
    /// `records`: what an earlier agent left. What of it no longer fits is set aside, not revived later.
    pub(super) fn assign(&mut self, apps: &[Arc<App>], records: Vec<Record>, context: &Arc<Context>) {
        let mut records: HashMap<_, _> =
            records.into_iter().map(|record| (record.app.clone(), record)).collect();
        let mut former = std::mem::take(&mut self.workers);
        for app in apps {
            let worker = match former.remove(&app.name) {
                Some(worker) if worker.app().repo == app.repo => {
                    worker.configure(app.clone(), context.clone());
                    Some(worker)
                }
                replaced => {
                    let record = self.record_of(app, records.remove(&app.name), context);
                    let former = replaced.inspect(|worker| worker.retire(Departure::Replaced));
                    let former = former.or_else(|| self.take_retired(&app.name));
                    self.hire(app, record, context, former)
                }
            };
            self.workers.extend(worker.map(|worker| (app.name.clone(), worker)));
        }
        self.apps = apps.to_vec();
        self.apps.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        for record in records.values() {
            if record.left_down.is_none() {
                self.abandon(record, Departure::Removed, context);
                continue;
            }
            let file = context.store.file(&record.app);
            warn!(
                app = %record.app,
                file = %file.display(),
                "record of an app that is no longer here kept, as its services could not be started: remove it if nobody wants them"
            );
        }
        self.retired.extend(former.into_values().inspect(|worker| worker.retire(Departure::Removed)));
        self.retired.retain(|worker| !worker.has_ended());
    }

    /// A worker where there is something to go on with.
    fn hire(
        &self,
        app: &Arc<App>,
        record: Option<Record>,
        context: &Arc<Context>,
        former: Option<Worker>,
    ) -> Option<Worker> {
        let needed = record.is_some() || former.is_some();
        needed.then(|| {
            let record = record.unwrap_or_else(|| Record::new(app));
            Worker::spawn(app.clone(), record, context.clone(), self.shutdown.clone(), former)
        })
    }

    /// The worker of a removed app that has come back while its last deploy still runs.
    fn take_retired(&mut self, app: &AppName) -> Option<Worker> {
        let position = self.retired.iter().position(|worker| worker.app().name == *app)?;
        Some(self.retired.swap_remove(position))
    }

    /// The record that a new worker goes on with, where there is one.
    fn record_of(&self, app: &App, record: Option<Record>, context: &Arc<Context>) -> Option<Record> {
        let record = record?;
        if record.repository == app.repo {
            return Some(record);
        }
        self.abandon(&record, Departure::Replaced, context);
        None
    }

    /// Nothing more is done for this record, which is kept under another name.
    fn abandon(&self, record: &Record, departure: Departure, context: &Arc<Context>) {
        worker::abandon(record, departure, context, &self.shutdown);
        worker::report_set_aside(&record.app, &context.store.set_app_aside(&record.app, departure.as_str()));
    }

    pub(super) fn say_what_runs(&self) {
        for worker in self.all_workers() {
            if let Some(sha) = worker.deploying() {
                info!(app = %worker.app().name, %sha, "waiting for a running deploy: its services are brought up first");
            }
        }
    }

    /// Waits until all have ended and all is told, but not for ever: a disk that hangs would keep the agent from ending.
    /// `rest`: how long all but the deploys may take.
    pub(super) async fn end(self, notices: &Notices, rest: Duration) {
        let limit = self.longest_end().await.saturating_add(rest);
        let mut workers: Vec<_> = self.workers.into_values().chain(self.retired).collect();
        let ending = async {
            for worker in &mut workers {
                worker.ended().await;
            }
            notices.given().await;
        };
        if timeout(limit, ending).await.is_err() {
            let apps: Vec<_> = workers.iter().filter(|worker| !worker.has_ended()).map(Worker::app).collect();
            let apps: Vec<_> = apps.iter().map(|app| app.name.as_str()).collect();
            let (limit, apps) = (humantime::format_duration(limit), apps.join(" "));
            error!(%limit, apps, "not everything has ended in time: the next start goes on with it");
        }
    }

    /// How long that may take: deploys end side by side.
    async fn longest_end(&self) -> Duration {
        let mut longest = Duration::ZERO;
        for worker in self.all_workers() {
            longest = longest.max(worker.longest_end().await.unwrap_or_default());
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::path::{Path, PathBuf};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use tokio::runtime::Builder;
    use tokio::task::yield_now;
    use tokio::time::Instant;

    use crate::agent::{Shared, context};
    use crate::config::{Host, Loader, Request, Settings};
    use crate::mqtt::Ack;
    use crate::router::Revision;
    use crate::service::DetectionRoot;
    use crate::tools::Tools;
    use crate::worker::{Gate, Offer, Receipt, Turns};

    use super::*;

    async fn settings(directory: &Path) -> Settings {
        let file = directory.join("config.yaml");
        let text = format!(
            "mqtt: {{url: mqtt://localhost, client_id: test}}\nstate_dir: {}\n\
             service_manager: {{name: none, stop: [\"{{service}}\"], start: [\"{{service}}\"], status: [\"{{service}}\"]}}\n\
             apps: [{{repo: o/r, service: api}}]\n",
            directory.display()
        );
        fs::write(&file, text).unwrap();
        let request = Request { file: Some(file), ..Request::default() };
        let mut loader = Loader::new(request, Host::detect(), None).unwrap();
        loader.load(Duration::ZERO).await.unwrap().settings
    }

    async fn context_of(settings: &Settings) -> Arc<Context> {
        let tools = Tools::of(&settings.service_manager, &DetectionRoot::default()).await.unwrap();
        let shared = Shared {
            turns: Arc::new(Turns::new(1)),
            gate: Gate::new(),
            refusals: Arc::default(),
            notices: Arc::default(),
        };
        let context = Arc::new(context(settings, tools, shared));
        context.store.create().unwrap();
        context
    }

    /// Whoever opens it to write waits, until this is dropped.
    struct Hanging(PathBuf);

    impl Drop for Hanging {
        fn drop(&mut self) {
            // Not closed again: whoever waits may come to it only later.
            std::mem::forget(File::options().read(true).write(true).open(&self.0));
        }
    }

    #[test]
    fn a_disk_that_hangs_does_not_keep_the_agent_from_its_end() {
        let directory = tempfile::tempdir().unwrap();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(ends_beside_a_write_that_hangs(directory.path()));
        // As the program does: whoever still waits for the disk is not waited for.
        runtime.shutdown_background();
    }

    /// By the real clock: one that is paused goes on only once no blocking call runs, and one hangs here.
    async fn ends_beside_a_write_that_hangs(directory: &Path) {
        let settings = settings(directory).await;
        let context = context_of(&settings).await;
        let hanging = Hanging(directory.join("apps/api.json.new"));
        mkfifo(&hanging.0, Mode::S_IRWXU).unwrap();
        let shutdown = CancellationToken::new();
        let mut staff = Staff::new(shutdown.clone());
        staff.assign(&settings.apps, Vec::new(), &context);
        let receipt = Receipt::new(Ack::none(), 1);
        let offer = Offer { revision: Revision::for_test('a'), retained: false, receipt };
        staff.worker(&"api".parse().unwrap(), &context).unwrap().offer(offer);
        for _ in 0..10 {
            yield_now().await;
        }
        // Its record is to be set aside, after the write that hangs.
        staff.assign(&[], Vec::new(), &context);
        shutdown.cancel();
        let (rest, begun) = (Duration::from_millis(10), Instant::now());
        timeout(Duration::from_secs(60), staff.end(&context.notices, rest)).await.unwrap();
        assert!(begun.elapsed() >= rest, "nothing hung");
        drop(hanging);
    }

    #[tokio::test]
    async fn an_app_gets_its_worker_with_its_first_push_as_it_is_configured_then() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path()).await;
        let context = context_of(&settings).await;
        let mut staff = Staff::new(CancellationToken::new());
        let app = &settings.apps[0];
        staff.assign(&settings.apps, Vec::new(), &context);
        let other = Arc::new(App { retries: 7, ..(**app).clone() });
        staff.assign(std::slice::from_ref(&other), Vec::new(), &context);
        assert_eq!(staff.workers.len(), 0, "nothing has come for it");
        assert!(staff.worker(&"web".parse().unwrap(), &context).is_none(), "there is no such app");
        assert!(Arc::ptr_eq(&staff.worker(&app.name, &context).unwrap().app(), &other));
        staff.worker(&app.name, &context);
        assert_eq!(staff.workers.len(), 1, "one is enough");
        staff.assign(&[], Vec::new(), &context);
        assert!(staff.worker(&app.name, &context).is_none(), "it is gone");
    }

    #[tokio::test]
    async fn what_an_earlier_agent_left_has_a_worker_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let settings = settings(directory.path()).await;
        let context = context_of(&settings).await;
        let mut staff = Staff::new(CancellationToken::new());
        let mut record = Record::new(&settings.apps[0]);
        record.admit(&Revision::for_test('a'), false, std::time::SystemTime::now());
        staff.assign(&settings.apps, vec![record], &context);
        assert_eq!(staff.workers.len(), 1);
    }
}
