//! What becomes of a record when the configuration is another one, or none.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;

/// Kills the agent while the update of commit b is held up; `api` is down then, and commit a ran before.
fn killed_in_mid_deploy() -> Bench {
    let mut bench = Bench::new(STEPS);
    bench.deploy("acme/api", 'a');
    bench.instance.hold("update", "api");
    bench.push("acme/api", 'b');
    let _held = bench.instance.held("update", "api");
    bench.agent.kill();
    bench.instance.hold_no_more("update", "api");
    assert!(!bench.instance.is_up("api"));
    bench
}

/// The next start meets this configuration, which is invalid, and after that a valid one.
fn invalid_after_a_kill(configure: impl FnOnce(&Instance)) {
    invalid_start_after_a_kill(configure, |_| ());
}

/// The same, with more in the environment of that start.
fn invalid_start_after_a_kill(configure: impl FnOnce(&Instance), more: impl FnOnce(&mut Command)) {
    let mut bench = killed_in_mid_deploy();
    configure(&bench.instance);
    let mut second = bench.instance.start_with(more);
    assert_eq!(second.wait().code(), Some(78), "{}", second.report());
    assert!(bench.instance.is_up("api"), "{}", second.report());
    assert_eq!(bench.instance.events().last().unwrap(), "start api aaaaaaa");
    second.logged("service started that an interrupted deploy had stopped", &[("app", "api")]);
    bench.instance.configure(STEPS);
    bench.start_again();
    bench.agent.logged("deployed", &[("sha", &commit('b'))]);
    assert_eq!(bench.instance.overlaps(), "");
}

#[test]
fn an_invalid_configuration_leaves_no_service_down() {
    invalid_after_a_kill(|instance| {
        instance.configure("max_parallel: 0\napps: [{repo: acme, service: api}]");
    });
}

#[test]
fn a_metadata_service_at_no_address_leaves_no_service_down() {
    for (variable, wrong) in
        [("AWS_EC2_METADATA_SERVICE_ENDPOINT", "nowhere"), ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IP6")]
    {
        invalid_start_after_a_kill(
            |_| (),
            |command| {
                command.args(["--ec2"]).env(variable, wrong).env_remove("AWS_EC2_METADATA_DISABLED");
            },
        );
    }
}

#[test]
fn an_unknown_key_leaves_no_service_down() {
    invalid_after_a_kill(|instance| instance.configure(&format!("colour: red\n{API}")));
}

#[test]
fn a_file_that_is_no_yaml_leaves_no_service_down() {
    invalid_after_a_kill(|instance| instance.configure("apps: [\n\t}"));
}

#[test]
fn an_invalid_configuration_does_not_meddle_with_an_agent_that_runs() {
    let bench = Bench::new(STEPS);
    bench.instance.hold("update", "api");
    bench.push("acme/api", 'a');
    let held = bench.instance.held("update", "api");
    bench.instance.configure("colour: red");
    let mut second = bench.instance.start();
    assert_eq!(second.wait().code(), Some(78), "{}", second.report());
    second.logged("another instance-agent runs on this state directory", &[]);
    bench.instance.hold_no_more("update", "api");
    drop(held);
    bench.agent.logged("deployed", &[]);
    let once =
        ["prepare api aaaaaaa", "stop api", "update api aaaaaaa", "start api aaaaaaa", "check api aaaaaaa"];
    bench.agent.did(&once);
}

/// Another service manager, which has services of its own.
fn managed_by_another(bench: &Bench) {
    let other = bench.instance.file("other");
    let script = r#"#!/bin/sh
if [ "$1" != status ]; then echo "other $1 $2" >> "${0%/*}/events"; fi
case $1 in
  stop) rm -f "$0.$2" ;;
  start) : > "$0.$2" ;;
  *) test -e "$0.$2" ;;
esac
"#;
    fs::write(&other, script).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    let config = bench.instance.read("config.yaml");
    let config = ["stop", "start", "status"].iter().fold(config, |config, verb| {
        let ours = format!("{}, {verb}", bench.instance.file("do").display());
        assert!(config.contains(&format!("  {verb}: [{ours}")), "{config}");
        config.replace(&format!("  {verb}: [{ours}"), &format!("  {verb}: [{}, {verb}", other.display()))
    });
    bench.instance.write("config.yaml", config);
}

/// What the old one had stopped it starts again, and the rest is the new one's work.
fn bridged(mut bench: Bench, events: usize) {
    bench.agent = debugging(&bench.instance);
    bench.agent.logged("deployed", &[("sha", &commit('b'))]);
    assert_eq!(
        bench.instance.events()[events..],
        [
            "start api aaaaaaa",
            "prepare api bbbbbbb",
            "other stop api",
            "update api bbbbbbb",
            "other start api",
            "check api bbbbbbb"
        ],
        "{}",
        bench.report()
    );
    assert!(bench.instance.is_up("api"));
}

#[test]
fn another_service_manager_leaves_no_service_down() {
    let bench = killed_in_mid_deploy();
    managed_by_another(&bench);
    let events = bench.instance.events().len();
    bridged(bench, events);
}

#[test]
fn another_service_manager_since_a_reload_in_mid_deploy_leaves_no_service_down() {
    let mut bench = Bench::new(STEPS);
    bench.deploy("acme/api", 'a');
    bench.instance.hold("update", "api");
    bench.push("acme/api", 'b');
    let _held = bench.instance.held("update", "api");
    managed_by_another(&bench);
    bench.agent.signal(Signal::SIGHUP);
    bench.agent.logged("configuration reloaded", &[]);
    bench.agent.kill();
    bench.instance.hold_no_more("update", "api");
    let events = bench.instance.events().len();
    bridged(bench, events);
}

#[test]
fn a_pending_push_of_a_branch_that_is_no_longer_wanted_is_dropped() {
    let mut bench = killed_in_mid_deploy();
    bench.instance.configure(&format!("{}{ON_OUTCOME}", STEPS.replacen("branch: main", "branch: next", 1)));
    bench.start_again();
    bench.agent.logged("pending push dropped", &[("sha", &commit('b')), ("level", "WARN")]);
    let why = "the configuration no longer has its ref";
    assert_says(&bench.agent.outcomes(1)[0], &[("/outcome", "dropped"), ("/app", "api"), ("/reason", why)]);
    bench.witnessed('c');
    assert_eq!(bench.count("update api bbbbbbb"), 1, "{}", bench.report());
    assert!(bench.instance.is_up("api"));
    let last = bench.instance.history("api").pop().unwrap();
    assert_says(&last, &[("/outcome", "dropped"), ("/sha", &commit('b'))]);
    let push = Push::new("acme/api", 'd').to("next");
    publish(&bench.broker, &push);
    bench.agent.logged("deployed", &[("sha", &commit('d'))]);
}

/// What is pending of a branch when the configuration comes to follow the default branch, which is `main`.
fn pending_when_the_default_branch_is_followed(branch: &str) -> Bench {
    let mut bench = Bench::new(&format!("stagger: 1d\n{}", API.replace("main", branch)));
    publish(&bench.broker, &Push::new("acme/api", 'a').to(branch));
    bench.agent.logged("push taken", &[]);
    bench.instance.configure(&API.replace("branch: main, ", ""));
    bench.start_again();
    bench
}

#[test]
fn a_pending_push_of_the_default_branch_is_still_wanted() {
    let bench = pending_when_the_default_branch_is_followed("main");
    bench.agent.logged("deployed", &[("sha", &commit('a'))]);
}

#[test]
fn a_pending_push_of_another_branch_is_not_wanted_by_the_default() {
    let bench = pending_when_the_default_branch_is_followed("next");
    bench.agent.logged("pending push dropped", &[("sha", &commit('a'))]);
    bench.deploy("acme/api", 'b');
    bench.agent.did(&["stop api", "start api bbbbbbb"]);
}

#[test]
fn another_repository_under_the_same_name_is_another_app() {
    let mut bench = killed_in_mid_deploy();
    bench.instance.configure(&STEPS.replace("acme/api", "acme/api-2"));
    bench.start_again();
    assert!(bench.instance.is_up("api"));
    bench.agent.logged("set aside", &[("file", "state/apps/api.json.replaced-1")]);
    let why = "its app has another repository now";
    bench.agent.logged("pending push dropped", &[("sha", &commit('b')), ("why", why)]);
    assert!(bench.instance.read("state/apps/api.json.replaced-1").contains("\"acme/api\""));
    bench.push("acme/api", 'c');
    bench.deploy("acme/api-2", 'd');
    assert_eq!(bench.count("update api bbbbbbb"), 1, "{}", bench.report());
    assert_eq!(bench.count("update api ccccccc"), 0, "{}", bench.report());
    assert_eq!(bench.instance.status("api")["repository"], "acme/api-2");
    assert_eq!(bench.instance.history("api").len(), 1);
}

#[test]
fn a_reload_with_another_repository_says_the_same_as_a_start() {
    let bench = Bench::new(&format!("stagger: 1d\n{API}{ON_OUTCOME}"));
    bench.push("acme/api", 'a');
    bench.agent.logged("push taken", &[]);
    bench.instance.configure(&format!("{}{ON_OUTCOME}", API.replace("acme/api", "acme/api-2")));
    bench.agent.signal(Signal::SIGHUP);
    bench.agent.logged("set aside", &[("file", "state/apps/api.json.replaced-1")]);
    let why = "its app has another repository now";
    bench.agent.logged("pending push dropped", &[("sha", &commit('a')), ("why", why)]);
    assert_says(&bench.agent.outcomes(1)[0], &[("/outcome", "dropped"), ("/reason", why)]);
    bench.deploy("acme/api-2", 'b');
}

#[test]
fn the_record_of_a_removed_app_is_not_revived() {
    let mut bench = killed_in_mid_deploy();
    bench.instance.configure(&format!("{WEB}{ON_OUTCOME}"));
    bench.start_again();
    let why = "the app is no longer in the configuration";
    bench.agent.logged("pending push dropped", &[("sha", &commit('b')), ("why", why)]);
    assert_says(&bench.agent.outcomes(1)[0], &[("/outcome", "dropped"), ("/app", "api"), ("/reason", why)]);
    assert!(bench.instance.is_up("api"));
    bench.agent.logged("set aside", &[("file", "state/apps/api.json.removed-1")]);
    bench.instance.configure(STEPS);
    bench.start_again();
    bench.witnessed('c');
    assert_eq!(bench.count("update api bbbbbbb"), 1, "{}", bench.report());
    assert_eq!(bench.instance.ask(&["history", "api"]).status.code(), Some(1));
    // It starts anew: even what was deployed long ago is new to it.
    bench.deploy("acme/api", 'a');
}
