//! The deploy against a service manager made of memory; the real ones are in tests/.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio::time::sleep;

use crate::journal::Entry;
use crate::outcome::Verdict;
use crate::service::{Answer, Limits, ServiceError, ServiceName, Status, Trace};

use super::*;

mod again;
mod ending;
mod host;
mod waiting;

/// Remembers what it was asked, and does as it is told.
#[derive(Default)]
pub(super) struct Fake {
    calls: Mutex<Vec<String>>,
    fails: Vec<&'static str>,
    hangs: Vec<&'static str>,
    /// Per service, what it answers to each look in turn; the last answer stays.
    looks: Mutex<BTreeMap<&'static str, VecDeque<Status>>>,
    /// Stopped and not started since.
    down: Mutex<BTreeSet<String>>,
    /// What others start as soon as it is stopped, once each.
    early: Mutex<BTreeSet<&'static str>>,
    dependents: Vec<&'static str>,
    /// Those that come up once something was stopped.
    later: Vec<&'static str>,
    /// The host goes down.
    goes_down: bool,
    changed: Notify,
}

impl Fake {
    fn failing(fails: &[&'static str]) -> Self {
        Self { fails: fails.to_vec(), ..Self::default() }
    }

    fn looking(self, service: &'static str, looks: &[Status]) -> Self {
        self.looks.lock().unwrap().insert(service, looks.iter().cloned().collect());
        self
    }

    pub(super) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    async fn act(&self, verb: &str, service: &ServiceName, sha: Option<&str>) -> Result<(), ServiceError> {
        let call = format!("{verb} {service}");
        let sha = sha.map(|sha| format!(" {}", &sha[..1])).unwrap_or_default();
        self.calls.lock().unwrap().push(format!("{call}{sha}"));
        self.changed.notify_waiters();
        if self.hangs.contains(&call.as_str()) {
            std::future::pending::<()>().await;
        }
        if self.fails.contains(&call.as_str()) {
            let (status, output) = ("exit status: 1".to_owned(), vec!["it said why".to_owned()]);
            return Err(ServiceError::Failed { command: call, status, output });
        }
        if verb == "stop" && !self.early.lock().unwrap().remove(service.as_str()) {
            self.down.lock().unwrap().insert(service.to_string());
        }
        Ok(())
    }

    pub(super) async fn until_called(&self, call: &str) {
        loop {
            let changed = self.changed.notified();
            if self.calls().iter().any(|it| it == call) {
                return;
            }
            changed.await;
        }
    }
}

impl ServiceManager for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn stop<'a>(&'a self, service: &'a ServiceName, _: &'a Trace<'a>) -> Answer<'a, ()> {
        Box::pin(self.act("stop", service, None))
    }

    fn start<'a>(
        &'a self,
        service: &'a ServiceName,
        environment: &'a [(String, String)],
        _: &'a Trace<'a>,
    ) -> Answer<'a, ()> {
        let sha = environment.iter().find(|(name, _)| name == "GITHUB_SHA").map(|(_, sha)| sha.as_str());
        self.down.lock().unwrap().remove(service.as_str());
        Box::pin(self.act("start", service, sha))
    }

    fn dependents<'a>(
        &'a self,
        _: &'a [ServiceName],
        owed: &'a [ServiceName],
    ) -> Answer<'a, Vec<ServiceName>> {
        let later = if self.calls().is_empty() { &[][..] } else { &self.later };
        let new = self.dependents.iter().chain(later).map(|unit| unit.parse().unwrap());
        Box::pin(std::future::ready(Ok(owed.iter().cloned().chain(new).collect())))
    }

    fn start_again<'a>(&'a self, service: &'a ServiceName, _: &'a Trace<'a>) -> Answer<'a, ()> {
        Box::pin(self.act("again", service, None))
    }

    fn status<'a>(&'a self, service: &'a ServiceName) -> Answer<'a, Status> {
        if self.down.lock().unwrap().contains(service.as_str()) {
            return Box::pin(std::future::ready(Ok(Status::Stopped)));
        }
        let mut looks = self.looks.lock().unwrap();
        let status = match looks.get_mut(service.as_str()) {
            Some(answers) if answers.len() > 1 => answers.pop_front().unwrap(),
            Some(answers) => answers[0].clone(),
            None => running("1"),
        };
        Box::pin(std::future::ready(Ok(status)))
    }

    fn limits<'a>(&'a self, _: &'a ServiceName) -> Answer<'a, Limits> {
        Box::pin(std::future::ready(Ok(Limits::default())))
    }

    fn is_shutting_down(&self) -> Answer<'_, bool> {
        Box::pin(std::future::ready(Ok(self.goes_down)))
    }
}

fn running(incarnation: &str) -> Status {
    Status::Running { incarnation: Some(incarnation.to_owned()) }
}

pub(super) fn app(services: &[&str]) -> App {
    App { settle: Duration::from_secs(2), ..App::for_test(services) }
}

pub(super) fn shell(line: &str) -> CommandSpec {
    let argv = ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
    CommandSpec { argv, user: None, dir: None, timeout: Duration::from_secs(60) }
}

pub(super) fn revision(digit: char) -> Revision {
    Revision::for_test(digit)
}

pub(super) struct Bench {
    pub(super) fake: Arc<Fake>,
    pub(super) context: Context,
    pub(super) shutdown: CancellationToken,
    /// The last deploy forgot what is deployed, as it must before it stops anything.
    touched: Mutex<bool>,
    /// What earlier deploys took down and did not start again.
    owed: Mutex<Vec<ServiceName>>,
    _state: tempfile::TempDir,
}

impl Bench {
    pub(super) fn new(fake: Fake) -> Self {
        let fake = Arc::new(fake);
        let state = tempfile::tempdir().unwrap();
        let context = Context {
            manager: fake.clone(),
            service_manager: ManagerChoice::Auto,
            runner: Runner::new("/nonexistent".into()),
            turns: Arc::new(Turns::new(4)),
            gate: Gate::opened(),
            refusals: Arc::default(),
            environment: None,
            stagger: Duration::ZERO,
            state_dir: state.path().to_owned(),
            store: Store::new(state.path()),
            on_outcome: None,
            notices: Arc::default(),
        };
        context.store.create().unwrap();
        Self {
            fake,
            context,
            shutdown: CancellationToken::new(),
            touched: Mutex::default(),
            owed: Mutex::default(),
            _state: state,
        }
    }

    /// Deploys b where a ran.
    async fn deploy(&self, app: &App) -> Outcome {
        let now = SystemTime::now();
        let mut record = Record::new(app);
        record.owed.clone_from(&self.owed.lock().unwrap());
        for digit in ['a', 'b'] {
            record.admit(&revision(digit), false, now);
            if digit == 'a' {
                let ran = record.begin(true, Rescue::default(), now).unwrap().revision;
                record.end(Entry::without_attempt(Verdict::Deployed, &ran, now, String::new()), 0);
            }
        }
        let attempt = record.begin(app.prepare.is_none(), Rescue::default(), now).unwrap();
        let ledger = Arc::new(Ledger::new(self.context.store.clone(), record, &self.shutdown));
        let setup = Setup { app: Arc::new(app.clone()), context: Arc::new(self.context.clone()) };
        let outcome = deploy::deploy(&setup, &ledger, attempt, &self.shutdown).await;
        // After what the deploy has begun to note.
        ledger.change(|_| (), Machine::noted).await.unwrap();
        self.owed.lock().unwrap().clone_from(&ledger.machine().record().owed);
        let touched = ledger.machine().record().deployed.is_none();
        *self.touched.lock().unwrap() = touched;
        outcome
    }

    pub(super) fn worker(&self, app: App) -> Worker {
        let record = Record::new(&app);
        Worker::spawn(Arc::new(app), record, Arc::new(self.context.clone()), self.shutdown.clone(), None)
    }

    /// As a reload does that gives the app another repository.
    pub(super) fn replace(&self, former: Worker) -> Worker {
        former.retire(Departure::Replaced);
        let app = former.app();
        let (record, context) = (Record::new(&app), Arc::new(self.context.clone()));
        Worker::spawn(app, record, context, self.shutdown.clone(), Some(former))
    }

    fn failed(&self, outcome: &Outcome) -> (Vec<&'static str>, bool) {
        let steps = outcome.failures.iter().map(|failure| failure.step.as_str()).collect();
        (steps, *self.touched.lock().unwrap())
    }
}

/// Hands the worker a push, as the agent does.
pub(super) fn push(worker: &Worker, digit: char) {
    let receipt = Receipt::new(crate::mqtt::Ack::none(), 1);
    worker.offer(Offer { revision: revision(digit), retained: false, receipt });
}

#[tokio::test(start_paused = true)]
async fn services_stop_in_reverse_and_start_in_order_with_the_revision() {
    let bench = Bench::new(Fake::default());
    let outcome = bench.deploy(&app(&["proxy", "api"])).await;
    assert_eq!(outcome.verdict, Verdict::Deployed, "{outcome:?}");
    assert_eq!(bench.fake.calls(), ["stop api", "stop proxy", "start proxy b", "start api b"]);
    let file = std::fs::read_to_string(bench.context.state_dir.join("env/api.env")).unwrap();
    assert!(file.contains(&format!("GITHUB_SHA=\"{}\"\n", "b".repeat(40))), "{file}");
    assert!(file.contains(&format!("INSTANCE_AGENT_PREVIOUS_SHA=\"{}\"\n", "a".repeat(40))), "{file}");
}

#[tokio::test]
async fn a_failed_prepare_touches_nothing() {
    let bench = Bench::new(Fake::default());
    let app = App { prepare: Some(shell("echo no network; exit 3").into()), ..app(&["api"]) };
    let outcome = bench.deploy(&app).await;
    assert_eq!(bench.failed(&outcome), (vec!["prepare"], false));
    let cause = outcome.cause().unwrap();
    assert_eq!((cause.exit_code, cause.output.as_slice()), (Some(3), &["no network".to_owned()][..]));
    assert!(bench.fake.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn when_a_stop_fails_the_update_is_not_run_and_start_is_still_tried() {
    let bench = Bench::new(Fake::failing(&["stop api"]));
    let marker = bench.context.state_dir.join("updated");
    let app =
        App { update: Some(shell(&format!("touch {}", marker.display())).into()), ..app(&["proxy", "api"]) };
    let outcome = bench.deploy(&app).await;
    assert_eq!(bench.failed(&outcome), (vec!["stop"], true));
    assert_eq!(outcome.cause().unwrap().output, ["it said why"]);
    assert_eq!(
        bench.fake.calls(),
        ["stop api", "start proxy a", "start api a"],
        "with the previous revision"
    );
    assert!(!marker.exists());
}

#[tokio::test]
async fn when_the_update_fails_the_previous_revision_is_started() {
    let bench = Bench::new(Fake::default());
    let app = App {
        update: Some(shell("exit 4").into()),
        check: Some(shell("exit 5").into()),
        settle: Duration::ZERO,
        ..app(&["api"])
    };
    let outcome = bench.deploy(&app).await;
    assert_eq!(bench.failed(&outcome), (vec!["update"], true));
    assert_eq!(bench.fake.calls(), ["stop api", "start api a"]);
}

#[tokio::test(start_paused = true)]
async fn when_a_start_fails_the_others_are_started_all_the_same() {
    let fake = Fake::failing(&["start proxy"]).looking("proxy", &[Status::Failed("exit-code".into())]);
    let bench = Bench::new(fake);
    let outcome = bench.deploy(&app(&["proxy", "api"])).await;
    assert_eq!(bench.failed(&outcome), (vec!["start", "verify"], true));
    assert_eq!(bench.fake.calls(), ["stop api", "stop proxy", "start proxy b", "start api b"]);
}

#[tokio::test(start_paused = true)]
async fn services_that_may_run_another_revision_are_started_but_not_deployed() {
    let bench = Bench::new(Fake::default());
    // The disk refuses the new file, so a unit that reads it would fetch the old commit.
    std::fs::create_dir_all(bench.context.state_dir.join("env/api.env.new")).unwrap();
    let outcome = bench.deploy(&app(&["api"])).await;
    assert_eq!(bench.failed(&outcome), (vec!["start"], true));
    let error = &outcome.cause().unwrap().error;
    assert!(
        error.contains("cannot write the environment file /") && error.contains("env/api.env"),
        "{error}"
    );
    assert_eq!(bench.fake.calls(), ["stop api", "start api b"]);
}

#[tokio::test(start_paused = true)]
async fn a_step_that_hangs_is_given_up_at_its_limit() {
    let bench = Bench::new(Fake { hangs: vec!["stop api"], ..Fake::default() });
    let app = App { stop_timeout: Some(Duration::from_secs(60)), ..app(&["api"]) };
    let clock = Instant::now();
    let outcome = bench.deploy(&app).await;
    assert_eq!(bench.failed(&outcome), (vec!["stop"], true));
    assert!(outcome.cause().unwrap().error.contains("took longer than 1m"), "{outcome:?}");
    assert_eq!(clock.elapsed(), Duration::from_secs(62));
    assert_eq!(bench.fake.calls(), ["stop api", "start api a"]);
}

#[tokio::test(start_paused = true)]
async fn verification_compares_incarnations_after_settling() {
    let dead = Status::Failed("Result=exit-code".into());
    for (looks, expected) in [
        (vec![running("1"), running("1")], Ok(())),
        (vec![running("1"), running("2")], Err("restarted by its service manager")),
        (vec![running("1"), dead.clone()], Err("Result=exit-code")),
        (vec![running("1"), Status::Stopped], Err("stopped")),
        (vec![Status::Starting, Status::Starting], Err("still starting")),
        (vec![Status::Starting, running("1"), running("1")], Ok(())),
        (vec![Status::Starting, running("1"), running("2")], Err("restarted by its service manager")),
        (vec![Status::Completed { remains: false }, Status::Completed { remains: false }], Ok(())),
        (vec![running("1"), Status::Ended], Err("its process ended")),
        (vec![Status::Ended, Status::Ended], Err("its process ended")),
        (vec![running("1"), Status::Unclear], Err("its process ended")),
        (vec![Status::Unclear, Status::Unclear], Ok(())),
        (vec![Status::Running { incarnation: None }, Status::Running { incarnation: None }], Ok(())),
        (vec![Status::NotFound, Status::NotFound], Err("no longer knows it")),
    ] {
        let bench = Bench::new(Fake::default().looking("api", &looks));
        let outcome = bench.deploy(&app(&["api"])).await;
        match expected {
            Ok(()) => assert_eq!(outcome.verdict, Verdict::Deployed, "{looks:?}: {outcome:?}"),
            Err(part) => {
                assert_eq!(bench.failed(&outcome), (vec!["verify"], true), "{looks:?}");
                assert!(outcome.cause().unwrap().error.contains(part), "{looks:?}: {outcome:?}");
            }
        }
    }
}

#[tokio::test]
async fn the_check_decides_last_and_does_not_stop_the_service() {
    let bench = Bench::new(Fake::default());
    let app = App {
        check: Some(shell("test \"$INSTANCE_AGENT_APP\" = other").into()),
        settle: Duration::ZERO,
        ..app(&["api"])
    };
    let outcome = bench.deploy(&app).await;
    assert_eq!(bench.failed(&outcome), (vec!["check"], true));
    assert_eq!(bench.fake.calls(), ["stop api", "start api b"]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_deploys_the_newest_of_the_pushes_that_came_meanwhile() {
    let bench = Bench::new(Fake::default());
    let mut worker = bench.worker(app(&["api"]));
    push(&worker, 'a');
    bench.fake.until_called("start api a").await;
    for digit in ['b', 'c', 'd'] {
        push(&worker, digit);
    }
    bench.fake.until_called("start api d").await;
    assert_eq!(bench.fake.calls(), ["stop api", "start api a", "stop api", "start api d"]);
    bench.shutdown.cancel();
    worker.ended().await;
}
