//! What must be stopped or started although nobody asked for it.

use crate::service::{CustomManager, Template};

use super::*;

#[tokio::test(start_paused = true)]
async fn what_others_started_before_the_update_was_in_place_is_stopped_again() {
    let early = Mutex::new(["proxy", "api"].into());
    let bench = Bench::new(Fake { early, later: vec!["front"], ..Fake::default() });
    let outcome = bench.deploy(&app(&["proxy", "db", "api"])).await;
    assert_eq!(outcome.verdict, Verdict::Deployed, "{outcome:?}");
    let stops = ["stop api", "stop db", "stop proxy", "stop api", "stop proxy"];
    assert_eq!(
        bench.fake.calls(),
        [&stops[..], &["start proxy b", "start db b", "start api b", "again front"]].concat()
    );
}

#[tokio::test(start_paused = true)]
async fn what_goes_down_with_the_services_is_started_after_them() {
    let bench = Bench::new(Fake { dependents: vec!["front", "edge"], ..Fake::default() });
    let outcome = bench.deploy(&app(&["api"])).await;
    assert_eq!(outcome.verdict, Verdict::Deployed, "{outcome:?}");
    assert_eq!(bench.fake.calls(), ["stop api", "start api b", "again front", "again edge"]);
    assert_eq!(*bench.owed.lock().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn what_went_down_with_the_services_and_does_not_start_is_a_failure_and_owed_to_the_next_deploy() {
    let fails = vec!["again front"];
    let bench = Bench::new(Fake { dependents: vec!["front", "edge"], fails, ..Fake::default() });
    let outcome = bench.deploy(&app(&["api"])).await;
    assert_eq!(bench.failed(&outcome), (vec!["start"], true));
    assert_eq!(outcome.cause().unwrap().service.as_deref(), Some("front"));
    assert_eq!(bench.fake.calls(), ["stop api", "start api b", "again front", "again edge"]);
    let front: Vec<ServiceName> = vec!["front".parse().unwrap()];
    assert_eq!(*bench.owed.lock().unwrap(), front);
    // It is down now, so a stop does not take it down.
    let next = Bench { owed: Mutex::new(front), ..Bench::new(Fake::default()) };
    assert_eq!(next.deploy(&app(&["api"])).await.verdict, Verdict::Deployed);
    assert_eq!(next.fake.calls(), ["stop api", "start api b", "again front"]);
    assert_eq!(*next.owed.lock().unwrap(), []);
}

#[tokio::test(start_paused = true)]
async fn what_a_stop_that_failed_took_down_is_started_again() {
    let fails = vec!["stop proxy"];
    let bench = Bench::new(Fake { dependents: vec!["front"], fails, ..Fake::default() });
    let outcome = bench.deploy(&app(&["proxy", "api"])).await;
    assert_eq!(bench.failed(&outcome), (vec!["stop"], true));
    let calls = ["stop api", "stop proxy", "start proxy a", "start api a", "again front"];
    assert_eq!(bench.fake.calls(), calls, "and nothing is asked to stop a second time");
}

/// A look or a second stop that fails is no reason to leave the service down.
#[tokio::test]
async fn whatever_becomes_of_a_second_stop_the_service_is_started() {
    for (status, first_stop_only) in [("kill -9 $$", "true"), ("true", "mkdir \"$0.stopped\"")] {
        let mut bench = Bench::new(Fake::default());
        let file = bench.context.state_dir.join("started");
        let template = |line: &str| {
            let argv = ["/bin/sh", "-c", line, file.to_str().unwrap(), "{service}"].map(str::to_owned);
            Template::new(argv.to_vec()).unwrap()
        };
        bench.context.manager = Arc::new(CustomManager {
            name: "mine".into(),
            stop: template(first_stop_only),
            start: template("touch \"$0\""),
            status: template(status),
        });
        let outcome = bench.deploy(&App { settle: Duration::ZERO, ..app(&["api"]) }).await;
        assert_eq!(outcome.verdict, Verdict::Failed, "{outcome:?}");
        assert!(file.exists(), "{status}: not started");
    }
}

#[tokio::test]
async fn the_services_do_not_wait_for_a_disk_that_refuses() {
    let early = Mutex::new(["api"].into());
    let bench = Bench::new(Fake { early, later: vec!["front"], ..Fake::default() });
    let refusal = bench.context.state_dir.join("apps/api.json.new");
    // As if it had filled the disk, though another write may just have that file.
    let update = shell(&format!("until mkdir {} 2>&-; do :; done", refusal.display()));
    let update = Some(update.into());
    let app = App { update, settle: Duration::ZERO, ..app(&["proxy", "api"]) };
    let disk = async {
        bench.fake.until_called("start api b").await;
        std::fs::remove_dir(&refusal).unwrap();
    };
    let deploy = async { tokio::join!(bench.deploy(&app), disk).0 };
    let outcome = tokio::time::timeout(Duration::from_secs(30), deploy).await.expect("they wait");
    assert_eq!(bench.fake.calls(), ["stop api", "stop proxy", "start proxy b", "start api b"]);
    assert_eq!(bench.failed(&outcome).0, ["start"], "it may run what was there before: {outcome:?}");
    let error = &outcome.cause().unwrap().error;
    assert!(error.starts_with("api: it is up before all of its update is in place"), "{error}");
}

/// A migration that others had run with the old code is run once more.
#[tokio::test(start_paused = true)]
async fn a_oneshot_that_remains_and_was_run_early_is_run_again() {
    let early = Mutex::new(["migrate"].into());
    let done = Status::Completed { remains: true };
    let bench = Bench::new(Fake { early, ..Fake::default() }.looking("migrate", &[done]));
    let outcome = bench.deploy(&app(&["api", "migrate"])).await;
    assert_eq!(outcome.verdict, Verdict::Deployed, "{outcome:?}");
    let calls = ["stop migrate", "stop api", "stop migrate", "start api b", "start migrate b"];
    assert_eq!(bench.fake.calls(), calls);
}
