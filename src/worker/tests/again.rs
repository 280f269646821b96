//! What must be stopped or started although nobody asked for it.

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
