//! Deploys on a host that goes down, and has not yet asked the agent to end.

use super::*;

fn record(bench: &Bench) -> Record {
    let (mut records, errors) = bench.context.store.read_all().unwrap();
    assert!(errors.is_empty());
    records.pop().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_be_started_any_more_is_left_to_the_next_agent() {
    let fake = Fake { goes_down: true, ..Fake::failing(&["start api"]) }.looking("api", &[Status::Stopped]);
    let bench = Bench::new(fake);
    let mut worker = bench.worker(app(&["api"]));
    push(&worker, 'a');
    bench.fake.until_called("start api a").await;
    // However long the host takes, and whatever comes meanwhile.
    sleep(Duration::from_secs(600)).await;
    push(&worker, 'b');
    sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.fake.calls(), ["stop api", "start api a"]);
    assert_eq!(record(&bench).desired.unwrap().revision.commit, revision('b').commit, "taken all the same");
    bench.shutdown.cancel();
    worker.ended().await;
    assert_eq!(record(&bench).attempt.unwrap().revision.commit, revision('a').commit, "nobody mends it");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_begun_after_an_interruption_where_all_services_are_up() {
    let bench = Bench::new(Fake { goes_down: true, ..Fake::failing(&["stop api"]) });
    let mut worker = bench.worker(app(&["api"]));
    push(&worker, 'a');
    bench.fake.until_called("start api").await;
    sleep(Duration::from_secs(600)).await;
    push(&worker, 'b');
    sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.fake.calls(), ["stop api", "start api"]);
    let record = record(&bench);
    assert!(record.attempt.is_none(), "nothing is left to mend");
    let desired = record.desired.unwrap();
    assert!(!desired.failed && desired.revision.commit == revision('b').commit, "the next agent deploys it");
    bench.shutdown.cancel();
    worker.ended().await;
}

#[tokio::test]
async fn a_command_that_fails_then_is_no_failed_deploy() {
    let check = Some(shell("kill $$").into());
    let fails = App { check, settle: Duration::ZERO, ..app(&["api"]) };
    for (goes_down, verdict) in [(true, Verdict::Interrupted), (false, Verdict::Failed)] {
        let bench = Bench::new(Fake { goes_down, ..Fake::default() });
        let outcome = bench.deploy(&fails).await;
        assert_eq!((bench.failed(&outcome), outcome.verdict), ((vec!["check"], true), verdict));
        assert!(!outcome.leaves_services_down());
    }
}

#[tokio::test(start_paused = true)]
async fn a_deploy_that_succeeds_nevertheless_is_one() {
    let bench = Bench::new(Fake { goes_down: true, ..Fake::default() });
    assert_eq!(bench.deploy(&app(&["api"])).await.verdict, Verdict::Deployed);
}
