//! What ends a deploy early: the agent's own end, and that of the app.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_the_settling_but_not_the_start() {
    let bench = Bench::new(Fake { hangs: vec!["stop api"], ..Fake::default() });
    let app = App { stop_timeout: Some(Duration::from_secs(30)), ..app(&["api"]) };
    let clock = Instant::now();
    let shut_down = async {
        bench.fake.until_called("stop api").await;
        bench.shutdown.cancel();
    };
    let (outcome, ()) = tokio::join!(bench.deploy(&app), shut_down);
    assert_eq!(bench.fake.calls(), ["stop api", "start api a"]);
    assert_eq!((outcome.verdict, clock.elapsed()), (Verdict::Interrupted, Duration::from_secs(30)));
}

/// How long a start that hangs is waited for once the agent is ending.
async fn a_start_at_the_end(start_timeout: Option<Duration>) -> Duration {
    let bench = Bench::new(Fake { hangs: vec!["start api"], ..Fake::default() });
    let app = App { start_timeout, ..app(&["api"]) };
    let shut_down = async {
        bench.fake.until_called("start api b").await;
        bench.shutdown.cancel();
        Instant::now()
    };
    let (outcome, begun) = tokio::join!(bench.deploy(&app), shut_down);
    assert!(outcome.failures.iter().any(|failure| failure.step.as_str() == "start"), "{outcome:?}");
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_a_start_as_long_as_it_may_take() {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    assert_eq!(a_start_at_the_end(Some(minutes(3))).await, minutes(3));
    assert_eq!(a_start_at_the_end(None).await, minutes(1), "nobody says how long it may take");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_deploy_is_bounded_by_the_starts_of_its_services() {
    let (hangs, dependents) = (vec!["stop api"], vec!["front"]);
    let bench = Bench::new(Fake { hangs, dependents, ..Fake::default() });
    let start_timeout = Some(Duration::from_secs(90));
    let mut worker = bench.worker(App { start_timeout, ..app(&["proxy", "api"]) });
    assert_eq!(worker.longest_end().await, None);
    push(&worker, 'a');
    bench.fake.until_called("stop api").await;
    assert_eq!(worker.longest_end().await, Some(Duration::from_secs(120 + 3 * 90)));
    bench.shutdown.cancel();
    let begun = Instant::now();
    worker.ended().await;
    assert!(begun.elapsed() <= Duration::from_secs(120 + 3 * 90), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_replaced_apps_deploy_is_waited_for_as_well() {
    let bench = Bench::new(Fake { hangs: vec!["stop api"], ..Fake::default() });
    let mut last = bench.worker(app(&["api"]));
    push(&last, 'a');
    bench.fake.until_called("stop api").await;
    for _ in 0..2 {
        last = bench.replace(last);
        assert!(last.deploying().is_some());
        assert_eq!(last.longest_end().await, Some(Duration::from_secs(120 + 60)));
    }
    bench.shutdown.cancel();
    last.ended().await;
    assert_eq!(last.longest_end().await, None);
}

#[tokio::test(start_paused = true)]
async fn so_is_that_of_one_that_was_about_to_begin() {
    let bench = Bench::new(Fake { hangs: vec!["stop api"], ..Fake::default() });
    let first = bench.worker(app(&["api"]));
    tokio::task::yield_now().await;
    let slow_disk = first.shared.ledger.busy().await;
    push(&first, 'a');
    tokio::task::yield_now().await;
    let mut last = bench.replace(bench.replace(first));
    assert_eq!(last.longest_end().await, None);
    drop(slow_disk);
    bench.fake.until_called("stop api").await;
    assert_eq!(last.longest_end().await, Some(Duration::from_secs(120 + 60)));
    bench.shutdown.cancel();
    last.ended().await;
    assert_eq!(last.former.iter().filter(|former| former.strong_count() > 0).count(), 0, "they are kept");
}

/// It looks for services to start where the app's record is.
#[tokio::test(start_paused = true)]
async fn a_removed_or_replaced_app_that_is_left_down_keeps_its_record_for_the_next_agent() {
    for departure in [Departure::Removed, Departure::Replaced] {
        let fake = Fake { hangs: vec!["start api"], ..Fake::default() }.looking("api", &[Status::Stopped]);
        let bench = Bench::new(fake);
        let mut worker = bench.worker(app(&["api"]));
        push(&worker, 'a');
        bench.fake.until_called("start api a").await;
        match departure {
            Departure::Removed => worker.retire(departure),
            Departure::Replaced => {
                worker = bench.replace(bench.replace(worker));
                push(&worker, 'b');
            }
        }
        bench.shutdown.cancel();
        worker.ended().await;
        let (records, _) = bench.context.store.read_all().unwrap();
        let commit = records[0].attempt.as_ref().map(|attempt| attempt.revision.commit.clone());
        assert_eq!(commit, Some(revision('a').commit), "{departure:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn once_the_agent_is_ending_nothing_is_stopped() {
    let bench = Bench::new(Fake::default());
    bench.shutdown.cancel();
    let outcome = bench.deploy(&app(&["api"])).await;
    assert_eq!(outcome.verdict, Verdict::Interrupted);
    assert!(bench.fake.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_retired_worker_begins_nothing_new() {
    let mut bench = Bench::new(Fake::default());
    bench.context.stagger = Duration::from_secs(60);
    let mut worker = bench.worker(app(&["api"]));
    push(&worker, 'a');
    worker.retire(Departure::Removed);
    worker.ended().await;
    assert!(bench.fake.calls().is_empty());
}
