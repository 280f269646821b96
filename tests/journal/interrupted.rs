//! A deploy that an agent began and did not live to end.

use super::*;

/// Kills the agent while this step of a deploy of commit b is held up; commit a ran before. What was held up is let go
/// only when all is over.
fn killed_during(step: &str) -> Bench {
    let mut bench = Bench::new(STEPS);
    bench.deploy("acme/api", 'a');
    bench.instance.hold(step, "api");
    bench.push("acme/api", 'b');
    let held = bench.instance.held(step, "api");
    bench.agent.kill();
    bench.instance.hold_no_more(step, "api");
    let before = bench.instance.events().len();
    bench.start_again();
    bench.agent.logged("a deploy was interrupted", &[("level", "WARN"), ("sha", &commit('b'))]);
    bench.agent.logged("deployed", &[("sha", &commit('b'))]);
    assert_eq!(bench.instance.overlaps(), "", "{}", bench.report());
    // What outlived the first agent must not come to its end now.
    drop(held);
    bench.witnessed('e');
    bench.witnessed('f');
    assert!(bench.instance.is_up("api"), "{}", bench.report());
    let mut events = bench.instance.events().split_off(before);
    events.retain(|event| !event.contains("web"));
    let again =
        ["prepare api bbbbbbb", "stop api", "update api bbbbbbb", "start api bbbbbbb", "check api bbbbbbb"];
    if ["prepare", "stop", "check"].contains(&step) {
        // The service was up, so nothing had to be started first.
        assert_eq!(events, again, "{}", bench.report());
    } else {
        assert_eq!(events[0], "start api aaaaaaa", "{}", bench.report());
        assert_eq!(events[1..], again, "{}", bench.report());
    }
    let outcomes: Vec<_> = bench
        .instance
        .history("api")
        .iter()
        .map(|entry| entry["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(outcomes, ["deployed", "interrupted", "deployed"]);
    let status = bench.instance.status("api");
    assert_eq!((&status["state"], &status["attempts"]), (&"deployed".into(), &2.into()), "{status}");
    bench
}

#[test]
fn killed_during_prepare() {
    killed_during("prepare");
}

#[test]
fn killed_during_a_stop() {
    killed_during("stop");
}

#[test]
fn killed_during_an_update() {
    killed_during("update");
}

#[test]
fn killed_during_a_start() {
    killed_during("start");
}

#[test]
fn killed_during_a_check() {
    killed_during("check");
}

#[test]
fn killed_while_the_service_settles() {
    let mut bench = Bench::new(&STEPS.replacen("settle: 0s", "settle: 2s", 1));
    bench.push("acme/api", 'a');
    bench.agent.logged("services must stay up", &[]);
    assert_eq!(bench.instance.status("api")["state"], "deploying");
    bench.start_again();
    assert_eq!(bench.instance.status("api")["deployed"], Value::Null);
    bench.agent.logged("deployed", &[("app", "api")]);
    let once = ["prepare api aaaaaaa", "stop api", "update api aaaaaaa", "start api aaaaaaa"];
    let expected = [&once[..], &once[..], &["check api aaaaaaa"]].concat();
    bench.agent.did(&expected);
}

#[test]
fn the_third_interruption_is_a_failure() {
    let mut bench = Bench::new(&format!("{STEPS}{ON_OUTCOME}"));
    bench.instance.hold("update", "api");
    bench.push("acme/api", 'a');
    for attempt in 1..=3 {
        let _held = bench.instance.held("update", "api");
        bench.noted("update");
        assert_eq!(bench.count("update api"), attempt, "{}", bench.report());
        bench.start_again();
    }
    bench.witnessed('c');
    assert_eq!(bench.count("update api"), 3, "{}", bench.report());
    assert!(bench.instance.is_up("api"));
    assert_eq!(bench.instance.status("api")["state"], "failed");
    assert_eq!(bench.instance.overlaps(), "");
    let told = bench.agent.outcomes(2).into_iter().find(|outcome| outcome["app"] == "api").unwrap();
    assert_says(&told, &[("/outcome", "failed"), ("/sha", &commit('a'))]);
    assert_says(&told, &[("/reason", "interrupted 3 times: it waits for a new push")]);
    bench.instance.hold_no_more("update", "api");
    bench.deploy("acme/api", 'b');
    assert_eq!(bench.instance.status("api")["state"], "deployed");
}
