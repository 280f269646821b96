//! A deploy that an agent began and did not live to end.

use super::*;

/// Kills the agent while this step of a deploy of commit b is held up; commit a ran before. What was held up is let go
/// only when all is over.
fn killed_during(step: &str) -> Bench {
    let bench = Bench::new(STEPS);
    bench.deploy("acme/api", 'a');
    begins_anew_after_a_kill_during(bench, step, |_| ())
}

fn begins_anew_after_a_kill_during(mut bench: Bench, step: &str, ready: impl Fn(&Bench)) -> Bench {
    bench.instance.hold(step, "api");
    bench.push("acme/api", 'b');
    let held = bench.instance.held(step, "api");
    ready(&bench);
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

/// As sysvinit's `service` does, which no mark in the environment outlives.
fn killed_during_what_clears_its_environment(step: &str) {
    let mut bench = Bench::new(STEPS);
    let mut config = bench.instance.read("config.yaml");
    for verb in ["stop", "start"] {
        assert!(config.contains(&format!("  {verb}: [")));
        // The commit is handed on, for the events.
        let shell = "/bin/sh, -c, 'exec env -i PATH=/usr/bin:/bin GITHUB_SHA=\"$GITHUB_SHA\" \"$@\"', sh";
        config = config.replace(&format!("  {verb}: ["), &format!("  {verb}: [{shell}, "));
    }
    bench.instance.write("config.yaml", config);
    bench.start_again();
    bench.deploy("acme/api", 'a');
    begins_anew_after_a_kill_during(bench, step, |bench| bench.noted(step));
}

#[test]
fn killed_during_a_stop_that_clears_its_environment() {
    killed_during_what_clears_its_environment("stop");
}

#[test]
fn killed_during_a_start_that_clears_its_environment() {
    killed_during_what_clears_its_environment("start");
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

#[test]
fn the_third_interruption_by_sigterm_is_a_failure_too() {
    let mut bench = Bench::new(&format!("{STEPS}{ON_OUTCOME}"));
    for attempt in 1..=3 {
        bench.instance.hold("update", "api");
        if attempt == 1 {
            bench.push("acme/api", 'a');
        } else {
            bench.agent = debugging(&bench.instance);
        }
        let held = bench.instance.held("update", "api");
        bench.agent.signal(Signal::SIGTERM);
        bench.agent.logged("shutting down", &[]);
        drop(held);
        bench.instance.hold_no_more("update", "api");
        assert!(bench.agent.wait().success(), "{}", bench.report());
        assert!(bench.instance.is_up("api"));
    }
    let reason = "interrupted 3 times: it waits for a new push";
    let verdicts: Vec<_> = bench.instance.outcomes().iter().map(|told| told["outcome"].clone()).collect();
    assert_eq!(verdicts, ["interrupted", "interrupted", "interrupted", "failed"]);
    assert_says(&bench.instance.outcomes()[3], &[("/sha", &commit('a')), ("/reason", reason)]);
    let history = bench.instance.history("api");
    assert_eq!(history.len(), 4, "{history:?}");
    assert_says(&history[3], &[("/outcome", "failed"), ("/error", reason)]);
    assert_eq!(bench.instance.status("api")["state"], "failed");
    bench.agent = debugging(&bench.instance);
    bench.witnessed('c');
    assert_eq!(bench.count("update api"), 3, "{}", bench.report());
}

#[test]
fn a_start_that_hangs_holds_the_next_agent_up_no_longer_than_it_may_take() {
    let mut bench = Bench::new(&STEPS.replacen("settle: 0s", "settle: 0s\n  start_timeout: 1s", 1));
    bench.deploy("acme/api", 'a');
    bench.instance.hold("update", "api");
    bench.push("acme/api", 'b');
    let held = bench.instance.held("update", "api");
    bench.agent.kill();
    bench.instance.hold_no_more("update", "api");
    bench.instance.hold("start", "api");
    bench.start_again();
    let event = bench.agent.logged("takes too long", &[("service", "api"), ("limit", "1s")]);
    assert_eq!(event["level"], "ERROR");
    bench.witnessed('c');
    drop(held);
    bench.instance.hold_no_more("start", "api");
}
