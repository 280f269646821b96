//! What the journal is for: pushes and deploys outlive an agent that is killed, a disk that refuses, and another
//! configuration.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::Value;
use support::Mosquitto;
use support::agent::{Agent, Instance, eventually};
use support::payload::{Push, commit};
use support::publisher::{Outgoing, publish_all};

const API: &str = "apps: [{repo: acme/api, service: api, branch: main, settle: 0s}]";
const WEB: &str = "apps: [{repo: acme/web, service: web, branch: main, settle: 0s}]";
const API_AND_WEB: &str = "
apps:
- {repo: acme/api, service: api, branch: main, settle: 0s}
- {repo: acme/web, service: web, branch: main, settle: 0s}
";
const STEPS: &str = r#"
apps:
- repo: acme/api
  service: api
  branch: main
  prepare: {command: ["{dir}/do", prepare, api], dir: "{dir}"}
  update: {command: ["{dir}/do", update, api], dir: "{dir}"}
  check: {command: ["{dir}/do", check, api], dir: "{dir}"}
  settle: 0s
- {repo: acme/web, service: web, branch: main, settle: 0s}
"#;

fn debugging(instance: &Instance) -> Agent {
    let agent = instance.start_with(|command| {
        command.args(["--log-level", "debug"]);
    });
    agent.subscribed(1);
    agent
}

/// Each of these pointers leads to this text.
fn assert_says(json: &Value, facts: &[(&str, &str)]) {
    for (pointer, expected) in facts {
        assert_eq!(json.pointer(pointer).and_then(Value::as_str), Some(*expected), "{pointer} of {json}");
    }
}

fn publish(broker: &Mosquitto, push: &Push) {
    broker.publish(&push.topic(), &push.bytes());
}

/// A broker, an instance with this configuration, and its agent.
struct Bench {
    broker: Mosquitto,
    instance: Instance,
    agent: Agent,
}

impl Bench {
    fn new(configuration: &str) -> Self {
        Self::on(Mosquitto::start(), configuration)
    }

    fn on(broker: Mosquitto, configuration: &str) -> Self {
        let instance = Instance::new(&broker);
        instance.configure(configuration);
        Self::of(broker, instance)
    }

    fn of(broker: Mosquitto, instance: Instance) -> Self {
        let agent = debugging(&instance);
        Self { broker, instance, agent }
    }

    fn push(&self, repo: &str, digit: char) {
        publish(&self.broker, &Push::new(repo, digit));
    }

    /// Pushes, and waits until it is deployed.
    fn deploy(&self, repo: &str, digit: char) {
        self.push(repo, digit);
        self.agent.logged("deployed", &[("sha", &commit(digit))]);
    }

    /// Another agent in the place of one that was killed.
    fn start_again(&mut self) {
        self.agent.kill();
        self.agent = debugging(&self.instance);
    }

    /// Messages that the broker has sent to the agent.
    fn sent(&self) -> usize {
        self.broker.logged(&format!("Sending PUBLISH to {}", self.instance.client_id()))
    }

    /// Waits until the agent has acknowledged so many.
    fn acknowledged(&self, count: usize) {
        let acknowledged = || self.acknowledgements() >= count;
        eventually(|| acknowledged().then_some(()), || format!("not {count}: {}", self.broker.log()));
    }

    fn acknowledgements(&self) -> usize {
        self.broker.logged(&format!("Received PUBACK from {}", self.instance.client_id()))
    }

    /// Waits until the journal knows the process group of this step's command, so that the next agent can end it.
    fn noted(&self, step: &str) {
        let noted = || {
            let record: Value = serde_json::from_str(&self.instance.read("state/apps/api.json")).ok()?;
            let leader = record.pointer("/attempt/running/group/pgid")?.as_i64()?;
            let command = fs::read_to_string(format!("/proc/{leader}/cmdline")).ok()?;
            command.contains(step).then_some(())
        };
        eventually(noted, || format!("{step} is not noted: {}", self.report()));
    }

    /// The events that start with this.
    fn count(&self, event: &str) -> usize {
        self.instance.events().iter().filter(|it| it.starts_with(event)).count()
    }

    /// Everything that was published before has been seen, and deployed if it ever will be.
    fn witnessed(&self, digit: char) {
        self.deploy("acme/web", digit);
    }

    fn report(&self) -> String {
        self.agent.report()
    }
}

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
    let mut bench = Bench::new(STEPS);
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
    bench.instance.hold_no_more("update", "api");
    bench.deploy("acme/api", 'b');
    assert_eq!(bench.instance.status("api")["state"], "deployed");
}

#[test]
fn an_acknowledged_push_needs_no_second_message() {
    let mut bench = Bench::new(&format!("stagger: 1d\n{API}"));
    bench.push("acme/api", 'a');
    bench.acknowledged(1);
    assert_eq!(bench.instance.status("api")["state"], "pending");
    bench.agent.kill();
    assert_eq!(bench.instance.events().len(), 0);
    bench.instance.configure(API);
    bench.start_again();
    bench.agent.logged("deployed", &[("sha", &commit('a'))]);
    bench.agent.did(&["stop api", "start api aaaaaaa"]);
    assert_eq!(bench.sent(), 1, "{}", bench.broker.log());
}

/// The broker never hears that the push was taken: it is killed after the agent has answered, but before it listens.
#[test]
#[ignore = "mosquitto 2.0.11, when it is killed, does not always send again what was not acknowledged"]
fn a_redelivered_push_is_not_deployed_again() {
    let mut bench = Bench::new(API_AND_WEB);
    bench.agent.signal(Signal::SIGSTOP);
    bench.push("acme/api", 'a');
    persisted(&bench.broker, "github/acme/api");
    let broker = pid_of(&bench.broker);
    kill(broker, Signal::SIGSTOP).unwrap();
    bench.agent.signal(Signal::SIGCONT);
    bench.agent.logged("deployed", &[]);
    bench.broker.kill();
    bench.agent.kill();
    assert_eq!(bench.acknowledgements(), 0);
    bench.broker.start_again();
    bench.start_again();
    bench.agent.logged("push ignored: it was taken before", &[("app", "api")]);
    bench.acknowledged(1);
    bench.witnessed('c');
    bench.agent.did(&["stop api", "start api aaaaaaa", "stop web", "start web ccccccc"]);
}

/// Waits until the broker has written down what it has of this topic; it does so after some further messages.
fn persisted(broker: &Mosquitto, topic: &str) {
    let saved = || {
        publish(broker, &Push::new("acme/other", 'f'));
        let log = broker.log();
        let (_, since) = log.rsplit_once(topic)?;
        since.contains("Saving in-memory database").then_some(())
    };
    eventually(saved, || format!("not saved: {}", broker.log()));
}

fn pid_of(broker: &Mosquitto) -> Pid {
    let conf = broker.directory().join("conf").display().to_string();
    let is_it = |process: &Path| {
        let arguments = fs::read(process.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&arguments).contains(&conf)
    };
    let process = fs::read_dir("/proc").unwrap().flatten().find(|entry| is_it(&entry.path())).unwrap();
    Pid::from_raw(process.file_name().to_str().unwrap().parse().unwrap())
}

fn retain(broker: &Mosquitto, push: &Push) {
    broker.publish_with(&["-q", "1", "-r", "-t", &push.topic(), "-s"], &push.bytes());
}

/// MQTT 3.1.1 sends retained messages on each subscription.
#[test]
fn a_retained_push_is_deployed_once() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker).mqtt("protocol: 3.1.1");
    instance.configure(API);
    let push = Push::new("acme/api", 'a');
    retain(&broker, &push);
    let mut bench = Bench::of(broker, instance);
    bench.agent.logged("deployed", &[("app", "api")]);
    for _ in 0..2 {
        bench.start_again();
        bench.agent.logged("push ignored: it was taken before", &[("app", "api")]);
    }
    // Published again: nobody wishes for a deploy of what runs.
    publish(&bench.broker, &push);
    bench.agent.logged_times(2, "push ignored: it was taken before", &[("app", "api")]);
    bench.deploy("acme/api", 'b');
    bench.agent.did(&["stop api", "start api aaaaaaa", "stop api", "start api bbbbbbb"]);
}

#[test]
fn a_retained_push_that_fails_is_not_bounced_by_reconnects() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker).mqtt("protocol: 3.1.1");
    instance.configure(API_AND_WEB);
    instance.fail("start", "api", "no\n");
    retain(&broker, &Push::new("acme/api", 'a'));
    let mut bench = Bench::of(broker, instance);
    bench.agent.logged("deploy failed", &[("app", "api")]);
    for reconnect in 1..=2 {
        bench.broker.start_again();
        bench.agent.logged_times(reconnect, "push ignored: it was taken before", &[("app", "api")]);
    }
    bench.start_again();
    bench.agent.logged("push ignored: it was taken before", &[("app", "api")]);
    bench.witnessed('c');
    bench.agent.did(&["stop api", "start api aaaaaaa", "stop web", "start web ccccccc"]);
}

/// The n-th of many pushes: each newer than the one before, none in the future.
fn nth(repo: &str, n: u64) -> Push {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    // The test takes less than this offset leaves.
    let pushed_at = now - 100_000 + 10 * n;
    Push { after: format!("{n:07x}{:033x}", 0xabc), pushed_at, ..Push::new(repo, '1') }
}

fn outgoing(push: &Push) -> Outgoing {
    Outgoing::new(push.topic(), push.bytes())
}

#[test]
fn a_burst_during_a_deploy_makes_two_further_ones_at_most() {
    let bench = Bench::on(Mosquitto::fast(), STEPS);
    bench.instance.hold("update", "api");
    publish(&bench.broker, &nth("acme/api", 1));
    let held = bench.instance.held("update", "api");
    let pushes: Vec<_> = (2..=201).map(|n| nth("acme/api", n)).collect();
    publish_all(&bench.broker, pushes.iter().map(outgoing));
    bench.acknowledged(201);
    bench.instance.hold_no_more("update", "api");
    drop(held);
    let last = pushes.last().unwrap();
    bench.agent.logged("deployed", &[("sha", &last.after)]);
    bench.witnessed('c');
    let deploys = bench.count("start api");
    assert!(deploys <= 3, "{}", bench.report());
    let status = bench.instance.status("api");
    assert_says(&status, &[("/state", "deployed"), ("/deployed/commit", &last.after)]);
    assert_eq!(status["superseded"], 201 - deploys);
}

#[test]
fn of_a_thousand_queued_pushes_only_the_newest_of_each_app_is_deployed() {
    const APPS: u64 = 10;
    let app = |n: u64| format!("- {{repo: acme/app{n}, service: app{n}, branch: main, settle: 0s}}\n");
    let configuration: String = (0..APPS).map(app).collect();
    let mut bench = Bench::on(Mosquitto::fast(), &format!("apps:\n{configuration}"));
    bench.agent.kill();
    let pushes: Vec<_> = (1..=1000).map(|n| nth(&format!("acme/app{}", n % APPS), n)).collect();
    publish_all(&bench.broker, pushes.iter().map(outgoing));
    bench.start_again();
    for push in &pushes[990..] {
        bench.agent.logged("deployed", &[("sha", &push.after)]);
    }
    bench.acknowledged(1000);
    assert_eq!(bench.count("start"), 10, "{}", bench.report());
    bench.start_again();
    let again = nth("acme/app0", 1001);
    publish(&bench.broker, &again);
    bench.agent.logged("deployed", &[("sha", &again.after)]);
    assert_eq!(bench.count("start"), 11, "{}", bench.report());
}

#[test]
fn damaged_records_are_set_aside() {
    let configuration: String = ["api", "web", "db"]
        .map(|app| format!("- {{repo: acme/{app}, service: {app}, branch: main, settle: 0s}}\n"))
        .concat();
    let mut bench = Bench::new(&format!("apps:\n{configuration}"));
    for (app, digit) in [("acme/api", 'a'), ("acme/web", 'b'), ("acme/db", 'c')] {
        bench.deploy(app, digit);
    }
    bench.agent.kill();
    let whole = bench.instance.read("state/apps/api.json");
    bench.instance.write("state/apps/web.json", b"\x00\xff{{{ garbage");
    bench.instance.write("state/apps/db.json", &whole);
    bench.instance.write("state/apps/api.json", &whole[..whole.len() / 2]);
    bench.start_again();
    let damaged =
        bench.agent.logged_times(3, "record set aside", &[("level", "ERROR"), ("error", "is damaged")]);
    for (app, event) in
        ["api", "web", "db"].iter().flat_map(|app| damaged.iter().map(move |event| (app, event)))
    {
        let aside = format!("state/apps/{app}.json.damaged-1");
        assert!(bench.instance.file(&aside).exists(), "no {aside}: {event}");
    }
    assert!(bench.instance.read("state/apps/db.json.damaged-1") == whole);
    for (app, digit) in [("acme/api", 'd'), ("acme/web", 'e'), ("acme/db", 'f')] {
        bench.deploy(app, digit);
    }
    bench.start_again();
    assert!(bench.agent.complaints().is_empty(), "{}", bench.report());
    assert_eq!(bench.instance.status("db")["deployed"]["commit"], *commit('f'));
}

/// A file system of its own, so small that it can be filled. Only root can have one.
struct SmallDisk {
    path: PathBuf,
    /// Its directory cannot be removed while this is mounted there.
    _instance: Instance,
}

impl SmallDisk {
    fn mount(instance: &Instance) -> Self {
        let path = instance.file("state");
        fs::create_dir(&path).unwrap();
        mount(&["-t", "tmpfs", "-o", "size=256k,mode=0755", "small", path.to_str().unwrap()]);
        Self { path, _instance: instance.clone() }
    }

    fn fill(&self) {
        let mut filler = File::create(self.path.join("filler")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.path.join("filler")).unwrap();
    }

    fn remount(&self, option: &str) {
        mount(&["-o", &format!("remount,{option}"), self.path.to_str().unwrap()]);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.path).status();
    }
}

fn mount(arguments: &[&str]) {
    let output = Command::new("mount").args(arguments).output().unwrap();
    assert!(output.status.success(), "mount {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn refused_by_the_disk(refuse: impl Fn(&SmallDisk), mend: impl Fn(&SmallDisk), why: &str) {
    if !geteuid().is_root() {
        println!("skipped: only root may mount a disk that refuses");
        return;
    }
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(API_AND_WEB);
    let disk = SmallDisk::mount(&instance);
    let mut bench = Bench::of(broker, instance);
    bench.deploy("acme/api", 'a');
    bench.acknowledged(1);
    refuse(&disk);
    bench.push("acme/api", 'b');
    let event = bench.agent.logged("cannot write the journal", &[("app", "api")]);
    assert_eq!(event["level"], "ERROR");
    for (field, part) in [("error", why), ("file", "state/apps/api.json")] {
        assert!(event[field].as_str().unwrap().contains(part), "{event}");
    }
    // The connection goes on with what needs no record.
    publish(&bench.broker, &Push::new("acme/other", 'c'));
    publish(&bench.broker, &Push::new("acme/web", 'c').to("next"));
    bench.acknowledged(3);
    assert_eq!(bench.sent(), 4);
    assert_eq!(bench.agent.log_of("cannot write the journal", &[]).len(), 1, "{}", bench.report());

    // A push that was not acknowledged is sent again.
    bench.start_again();
    bench.agent.logged("cannot write the journal", &[("app", "api")]);
    assert_eq!(bench.sent(), 5, "{}", bench.broker.log());
    assert_eq!(bench.acknowledgements(), 3, "{}", bench.broker.log());
    assert_eq!(bench.count("stop"), 1);
    mend(&disk);
    bench.agent.logged("the journal can be written again", &[]);
    bench.agent.logged("deployed", &[("sha", &commit('b'))]);
    bench.acknowledged(4);
    bench.witnessed('d');
    assert_eq!(bench.agent.log_of("cannot write the journal", &[]).len(), 1, "{}", bench.report());
    assert_eq!(bench.count("start api"), 2, "{}", bench.report());
    bench.agent.kill();
}

#[test]
fn a_full_disk_holds_up_acknowledgements_and_nothing_else() {
    refused_by_the_disk(SmallDisk::fill, SmallDisk::empty, "No space left");
}

#[test]
fn a_read_only_disk_holds_up_acknowledgements_and_nothing_else() {
    refused_by_the_disk(|disk| disk.remount("ro"), |disk| disk.remount("rw"), "Read-only");
}

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
    let mut bench = killed_in_mid_deploy();
    configure(&bench.instance);
    let mut second = bench.instance.start();
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

#[test]
fn a_pending_push_of_a_branch_that_is_no_longer_wanted_is_dropped() {
    let mut bench = killed_in_mid_deploy();
    bench.instance.configure(&STEPS.replacen("branch: main", "branch: next", 1));
    bench.start_again();
    bench.agent.logged("pending push dropped", &[("sha", &commit('b')), ("level", "WARN")]);
    bench.witnessed('c');
    assert_eq!(bench.count("update api bbbbbbb"), 1, "{}", bench.report());
    assert!(bench.instance.is_up("api"));
    let last = bench.instance.history("api").pop().unwrap();
    assert_says(&last, &[("/outcome", "dropped"), ("/sha", &commit('b'))]);
    let push = Push::new("acme/api", 'd').to("next");
    publish(&bench.broker, &push);
    bench.agent.logged("deployed", &[("sha", &commit('d'))]);
}

#[test]
fn another_repository_under_the_same_name_is_another_app() {
    let mut bench = killed_in_mid_deploy();
    bench.instance.configure(&STEPS.replace("acme/api", "acme/api-2"));
    bench.start_again();
    assert!(bench.instance.is_up("api"));
    bench.agent.logged("set aside", &[("file", "state/apps/api.json.replaced-1")]);
    assert!(bench.instance.read("state/apps/api.json.replaced-1").contains("\"acme/api\""));
    bench.push("acme/api", 'c');
    bench.deploy("acme/api-2", 'd');
    assert_eq!(bench.count("update api bbbbbbb"), 1, "{}", bench.report());
    assert_eq!(bench.count("update api ccccccc"), 0, "{}", bench.report());
    assert_eq!(bench.instance.status("api")["repository"], "acme/api-2");
    assert_eq!(bench.instance.history("api").len(), 1);
}

#[test]
fn the_record_of_a_removed_app_is_not_revived() {
    let mut bench = killed_in_mid_deploy();
    bench.instance.configure(WEB);
    bench.start_again();
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

fn stdout(output: &Output) -> String {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn status_and_history_are_told_whether_or_not_the_agent_runs() {
    let mut bench = Bench::new(STEPS);
    assert!(stdout(&bench.instance.ask(&["status"])).contains("No app has a record yet"));
    assert_eq!(stdout(&bench.instance.ask(&["status", "--json"])).trim(), "[]");
    bench.deploy("acme/api", 'a');
    bench.instance.fail("update", "api", "no space left\n");
    bench.push("acme/api", 'b');
    bench.agent.logged("deploy failed", &[]);
    bench.witnessed('c');
    let ask = |arguments: &[&str]| stdout(&bench.instance.ask(arguments));
    let all = || [&["status"][..], &["status", "--json"], &["history"], &["history", "--json"]].map(ask);
    let running = all();
    bench.agent.kill();
    assert_eq!(running, all());
    let lines: Vec<_> = running[0].lines().collect();
    assert_eq!(lines.len(), 3, "{}", running[0]);
    for part in ["api", "failed", "main bbbbbbb", "at update"] {
        assert!(lines[1].contains(part), "no {part} in {}", lines[1]);
    }
    assert!(lines[2].starts_with("web") && lines[2].contains("main ccccccc"), "{}", lines[2]);
    assert!(!running.concat().contains('\x1b'), "coloured");

    let status = bench.instance.status("api");
    let facts = [("/state", "failed"), ("/repository", "acme/api"), ("/last_outcome/outcome", "failed")];
    assert_says(&status, &facts);
    assert_says(&status, &[("/desired/commit", &commit('b')), ("/services/0", "api")]);
    assert_eq!(status["deployed"], Value::Null);
    let history = bench.instance.history("api");
    let [first, second] = &history[..] else { panic!("{history:?}") };
    assert_says(first, &[("/outcome", "deployed"), ("/sha", &commit('a'))]);
    assert_says(second, &[("/outcome", "failed"), ("/step", "update"), ("/output/0", "no space left")]);
    assert!(second["duration_ms"].is_u64() && second["started_at"].is_string(), "{second}");
    let table = ask(&["history", "api"]);
    assert_eq!(table.lines().count(), 3, "{table}");

    let nobody = bench.instance.ask(&["history", "NOSUCH"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("NOSUCH"), "{nobody:?}");
}

/// As `status | head -1` does, when it is quick.
#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let mut bench = Bench::new(API);
    bench.deploy("acme/api", 'a');
    bench.agent.kill();
    for arguments in [&["status"][..], &["status", "--json"], &["history"], &["history", "--json"]] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_instance-agent"));
        command.args(arguments).arg("--config").arg(bench.instance.file("config.yaml"));
        let output = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{arguments:?}");
    }
}

#[test]
fn obsolete_filters_are_unsubscribed_by_the_next_agent() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker).mqtt("subscribe: exact");
    instance.configure(API_AND_WEB);
    let mut bench = Bench::of(broker, instance);
    bench.witnessed('a');
    bench.agent.kill();
    bench.instance.configure(WEB);
    bench.start_again();
    let unsubscribed = || {
        let log = bench.broker.log();
        let (_, since) =
            log.split_once(&format!("Received UNSUBSCRIBE from {}", bench.instance.client_id()))?;
        since.contains("github/acme/api").then_some(())
    };
    eventually(unsubscribed, || format!("never unsubscribed: {}", bench.broker.log()));
    bench.push("acme/api", 'b');
    bench.witnessed('c');
    assert_eq!(bench.sent(), 2, "{}", bench.broker.log());
    // And the one after that has nothing left to remove.
    bench.start_again();
    bench.witnessed('d');
    assert_eq!(bench.broker.logged("Received UNSUBSCRIBE"), 1, "{}", bench.broker.log());
}
