//! What a deploy waits for: its turn, and the stagger.

use super::*;

#[tokio::test(start_paused = true)]
async fn apps_that_share_a_service_take_turns() {
    let bench = Bench::new(Fake { hangs: vec!["start shared"], ..Fake::default() });
    let limit = Some(Duration::from_secs(30));
    let mut first = bench.worker(App { start_timeout: limit, ..app(&["shared"]) });
    let second =
        App { name: "two".parse().unwrap(), start_timeout: limit, ..app(&["other", "shared.service"]) };
    let mut second = bench.worker(second);
    push(&first, 'a');
    bench.fake.until_called("start shared a").await;
    push(&second, 'b');
    bench.fake.until_called("start shared.service b").await;
    let calls = bench.fake.calls();
    assert_eq!(calls[..2], ["stop shared", "start shared a"], "{calls:?}");
    assert_eq!(calls[2..], ["stop shared.service", "stop other", "start other b", "start shared.service b"]);
    bench.shutdown.cancel();
    first.ended().await;
    second.ended().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_apps_than_max_parallel_deploy_at_a_time() {
    let mut bench = Bench::new(Fake { hangs: vec!["stop one"], ..Fake::default() });
    bench.context.turns = Arc::new(Turns::new(1));
    let named = |name: &str| App {
        name: name.parse().unwrap(),
        stop_timeout: Some(Duration::from_secs(30)),
        ..app(&[name])
    };
    let (mut one, mut two) = (bench.worker(named("one")), bench.worker(named("two")));
    push(&one, 'a');
    bench.fake.until_called("stop one").await;
    push(&two, 'b');
    bench.fake.until_called("start two b").await;
    let calls = bench.fake.calls();
    assert_eq!(calls, ["stop one", "start one", "stop two", "start two b"]);
    bench.shutdown.cancel();
    one.ended().await;
    two.ended().await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_turn_has_those_that_a_reload_adds() {
    let mut bench = Bench::new(Fake { hangs: vec!["stop one"], ..Fake::default() });
    bench.context.turns = Arc::new(Turns::new(1));
    let hour = Duration::from_secs(60 * 60);
    let named = |name: &str| App { name: name.parse().unwrap(), stop_timeout: Some(hour), ..app(&[name]) };
    let (mut one, mut two) = (bench.worker(named("one")), bench.worker(named("two")));
    push(&one, 'a');
    bench.fake.until_called("stop one").await;
    push(&two, 'b');
    until_waits_for_its_turn(&two).await;
    let context =
        Arc::new(Context { turns: Arc::new(bench.context.turns.resized(4)), ..bench.context.clone() });
    let reloaded = Instant::now();
    two.configure(Arc::new(named("two")), context);
    bench.fake.until_called("start two b").await;
    assert!(reloaded.elapsed() < hour, "it waits for the turn that was");
    bench.shutdown.cancel();
    one.ended().await;
    two.ended().await;
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_ends_the_stagger_ends_the_waiting() {
    let mut bench = Bench::new(Fake::default());
    bench.context.stagger = Duration::from_secs(60 * 60);
    let mut worker = bench.worker(app(&["api"]));
    push(&worker, 'a');
    until_waits_for_its_turn(&worker).await;
    bench.context.stagger = Duration::ZERO;
    let reloaded = Instant::now();
    worker.configure(Arc::new(app(&["api"])), Arc::new(bench.context.clone()));
    bench.fake.until_called("start api a").await;
    assert!(reloaded.elapsed() < Duration::from_secs(60), "{:?}", reloaded.elapsed());
    bench.shutdown.cancel();
    worker.ended().await;
}

async fn until_waits_for_its_turn(worker: &Worker) {
    while worker.shared.ledger.machine().record().pending().is_none() {
        sleep(Duration::from_millis(1)).await;
    }
    // It is due now, and whoever deploys does nothing but wait.
    sleep(Duration::from_millis(1)).await;
}

#[test]
fn the_share_of_the_stagger_is_fixed_and_within_it() {
    let stagger = Duration::from_secs(600);
    let shares: Vec<_> = (0..100).map(|i| share_of(stagger, &format!("instance-{i}"))).collect();
    assert!(shares.iter().all(|share| *share <= stagger));
    assert_eq!(shares[7], share_of(stagger, "instance-7"));
    let early = shares.iter().filter(|share| **share < stagger / 2).count();
    assert!((30..70).contains(&early), "{early} of 100 in the first half");
}
