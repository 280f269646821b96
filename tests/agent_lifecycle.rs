//! Starts, ends, reloads and lost connections of the real program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use support::agent::{Agent, Instance, eventually};
use support::apps::{API, API_AND_WEB};
use support::payload::{Push, commit};
use support::publisher::{Outgoing, publish_all};
use support::{Mosquitto, PATIENCE};

const STEPS: &str = r#"
on_outcome: {command: ["{dir}/do", outcome, all], dir: "{dir}"}
apps:
- repo: acme/api
  service: api
  branch: main
  prepare: {command: ["{dir}/do", prepare, api], dir: "{dir}"}
  update: {command: ["{dir}/do", update, api], dir: "{dir}"}
  settle: 0s
"#;

fn publish(broker: &Mosquitto, repo: &str, digit: char) {
    let push = Push::new(repo, digit);
    broker.publish(&push.topic(), &push.bytes());
}

fn started(broker: &Mosquitto, configuration: &str) -> Agent {
    let instance = Instance::new(broker);
    instance.configure(configuration);
    let agent = instance.start();
    agent.subscribed(1);
    agent
}

fn debugging(instance: &Instance) -> Agent {
    instance.start_with(|command| {
        command.args(["--log-level", "debug"]);
    })
}

fn time(event: &Value) -> SystemTime {
    humantime::parse_rfc3339(event["timestamp"].as_str().unwrap()).unwrap()
}

/// The agent was subscribed within 2 s of the attempt that it had announced last.
fn assert_subscribed_in_time(agent: &Agent, subscribed: &Value) {
    let down = |event: &Value| event["retry_in"].is_string() && time(event) < time(subscribed);
    let last = agent.log().into_iter().rfind(down).expect("never down");
    let attempt = time(&last) + humantime::parse_duration(last["retry_in"].as_str().unwrap()).unwrap();
    let late = time(subscribed).duration_since(attempt).unwrap_or_default();
    assert!(late < Duration::from_secs(2), "{late:?} after the attempt\n{}", agent.report());
}

#[test]
fn the_broker_may_come_later() {
    for protocol in ["\"5\"", "3.1.1"] {
        let mut broker = Mosquitto::start();
        broker.stop();
        let instance = Instance::new(&broker).mqtt(&format!("protocol: {protocol}"));
        instance.configure(API);
        let agent = debugging(&instance);
        let event = agent.logged("no connection", &[("level", "WARN")]);
        assert!(event["reason"].as_str().unwrap().contains("refused"), "{event}");
        broker.start_again();
        assert_subscribed_in_time(&agent, &agent.subscribed(1));
        publish(&broker, "acme/api", 'a');
        agent.did(&["stop api", "start api aaaaaaa"]);
    }
}

#[test]
fn the_broker_may_be_restarted() {
    let mut broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(API);
    let agent = debugging(&instance);
    agent.subscribed(1);
    broker.stop();
    agent.logged("connection lost", &[("level", "WARN")]);
    broker.start_again();
    // The agent may not be back yet, but its session is.
    publish(&broker, "acme/api", 'a');
    let event = agent.subscribed(2);
    assert_eq!(event["session_present"], true);
    assert_subscribed_in_time(&agent, &event);
    agent.did(&["stop api", "start api aaaaaaa"]);
}

/// Published while the agent was away, and kept over a restart of the broker as well.
#[test]
fn pushes_wait_for_the_agent() {
    let mut broker = Mosquitto::start();
    let mut agent = started(&broker, API_AND_WEB);
    assert!(agent.stop().success());
    let push = |n: u32| Push { after: format!("{n:040x}"), ..Push::new("acme/api", 'a') };
    let mut pushes: Vec<_> = (1..=100).map(push).collect();
    // A second later than all others, in whatever order the broker sends them.
    let newest = Push::new("acme/api", 'c');
    pushes.push(Push { pushed_at: newest.pushed_at + 1, ..newest });
    pushes.push(Push::new("acme/web", 'd'));
    publish_all(&broker, pushes.into_iter().map(|push| Outgoing::new(push.topic(), push.bytes())));
    broker.start_again();
    let again = agent.instance.start();
    again.logged("deployed", &[("app", "web")]);
    again.logged("deployed", &[("app", "api")]);
    let events = again.instance.events();
    // The whole queue is read before anything is deployed.
    assert!(events.contains(&"start api ccccccc".to_owned()) && events.len() == 4, "{}", again.report());
    // mosquitto 2.0.11 may send the newest before others, which are stale then, and replace nothing.
    let superseded = again.logged("deploy began", &[("app", "api")])["superseded"].as_u64().unwrap();
    assert!((1..=100).contains(&superseded), "{superseded}: {}", again.report());
}

#[test]
fn sigterm_ends_an_idle_agent_at_once() {
    let broker = Mosquitto::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut agent = started(&broker, API);
        let begun = Instant::now();
        agent.signal(signal);
        assert_eq!(agent.wait().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
        agent.logged("stopped", &[]);
        assert!(agent.complaints().is_empty(), "{}", agent.report());
    }
}

#[test]
fn a_disk_that_hangs_does_not_keep_an_idle_agent_from_its_end() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(API);
    let mut agent = instance.start();
    agent.subscribed(1);
    // Written for the last time before the end.
    let remembered = || instance.read("state/session.json").contains("github/+/+").then_some(());
    eventually(remembered, || agent.report());
    // Whoever opens it to write waits.
    mkfifo(&instance.file("state/session.json.new"), Mode::S_IRWXU).unwrap();
    assert_eq!(agent.stop().code(), Some(0));
    agent.logged("cannot remember the session", &[]);
    agent.logged("stopped", &[]);
}

#[test]
fn sigterm_ends_an_agent_without_a_broker_at_once() {
    let instance = Instance::at(support::free_port());
    instance.configure(API);
    let mut agent = instance.start();
    agent.logged("no connection", &[]);
    let begun = Instant::now();
    assert_eq!(agent.stop().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// SIGTERM while this step is held up; then it may go on.
fn sigterm_during(step: &str) -> Agent {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(STEPS);
    instance.hold(step, "api");
    let mut agent = instance.start();
    agent.subscribed(1);
    publish(&broker, "acme/api", 'a');
    eventually(
        || instance.events().last().is_some_and(|event| event.starts_with(step)).then_some(()),
        || format!("{step} never begins\n{}", agent.report()),
    );
    // One that came too late to be deployed.
    publish(&broker, "acme/api", 'b');
    agent.logged("push taken", &[("sha", &commit('b'))]);
    agent.signal(Signal::SIGTERM);
    agent.logged("shutting down", &[]);
    instance.release_for_good(step, "api");
    assert_eq!(agent.wait().code(), Some(0), "{}", agent.report());
    assert!(instance.events().iter().all(|event| !event.ends_with("bbbbbbb")), "{}", agent.report());
    agent
}

#[test]
fn sigterm_during_an_update_leaves_the_service_started() {
    let agent = sigterm_during("update");
    assert_eq!(
        agent.instance.events()[..4],
        ["prepare api aaaaaaa", "stop api", "update api aaaaaaa", "start api aaaaaaa"]
    );
    assert!(agent.instance.is_up("api"));
}

#[test]
fn sigterm_during_a_start_leaves_the_service_started() {
    let agent = sigterm_during("start");
    assert!(agent.instance.is_up("api"));
}

/// What is left runs again at the next start: nothing new is begun but what brings the service back.
#[test]
fn sigterm_during_a_stop_starts_the_service_and_updates_nothing() {
    let agent = sigterm_during("stop");
    assert!(agent.instance.is_up("api"));
    let events = agent.instance.events();
    assert!(!events.iter().any(|event| event.starts_with("update")), "{}", agent.report());
}

#[test]
fn sigterm_during_prepare_stops_no_service() {
    let agent = sigterm_during("prepare");
    let events = agent.instance.events();
    assert!(!events.iter().any(|event| event.starts_with("stop")), "{}", agent.report());
}

#[test]
fn a_reload_adds_changes_and_removes_apps() {
    let broker = Mosquitto::start();
    let agent = started(&broker, API);
    publish(&broker, "acme/api", 'a');
    agent.logged("deployed", &[("app", "api")]);

    agent.instance.configure(API_AND_WEB);
    agent.signal(Signal::SIGHUP);
    let event = agent.logged("configuration reloaded", &[("apps", "2")]);
    assert_eq!(event["reconnect"], false);
    publish(&broker, "acme/web", 'b');
    agent.logged("deployed", &[("app", "web")]);

    agent
        .instance
        .configure(&API_AND_WEB.replace("service: api, branch: main", "service: api, branch: next"));
    agent.signal(Signal::SIGHUP);
    agent.logged_times(2, "configuration reloaded", &[]);
    publish(&broker, "acme/api", 'c');
    let push = Push::new("acme/api", 'd').to("next");
    broker.publish(&push.topic(), &push.bytes());
    agent.logged("deployed", &[("sha", &push.after)]);

    agent.instance.configure("apps: [{repo: acme/web, service: web, settle: 0s}]");
    agent.signal(Signal::SIGHUP);
    agent.logged_times(3, "configuration reloaded", &[]);
    broker.publish(&push.topic(), &Push::new("acme/api", 'e').to("next").bytes());
    publish(&broker, "acme/web", 'f');
    agent.did(&[
        "stop api",
        "start api aaaaaaa",
        "stop web",
        "start web bbbbbbb",
        "stop api",
        "start api ddddddd",
        "stop web",
        "start web fffffff",
    ]);
    assert_eq!(broker.logged(&format!("as {}", agent.instance.client_id())), 1, "it reconnected");
}

#[test]
fn a_bad_new_configuration_changes_nothing() {
    let broker = Mosquitto::start();
    let agent = started(&broker, API);
    let file = agent.instance.file("config.yaml");
    let bad: [(&[u8], &str); 3] = [
        (b"mqtt:\n  url: mqtt://x\n  urll: y\n", ":3: unknown key \"urll\""),
        (b"mqtt: [\n", "not valid YAML"),
        (b"", "is empty"),
    ];
    for (n, (text, part)) in bad.into_iter().enumerate() {
        agent.instance.write("config.yaml", text);
        agent.signal(Signal::SIGHUP);
        agent.logged_times(n + 1, "the old configuration stays in force", &[]);
        let path = file.to_str().unwrap();
        let event = agent.logged("cannot reload", &[("message", part), ("message", path)]);
        assert_eq!(event["level"], "ERROR");
    }
    // Two mistakes, each with its line.
    agent.instance.configure("max_parallel: many\napps: [{repo: acme, service: api}]");
    agent.signal(Signal::SIGHUP);
    agent.logged("cannot reload", &[("message", "max_parallel")]);
    agent.logged("cannot reload", &[("message", "apps[0].repo")]);
    publish(&broker, "acme/api", 'a');
    agent.did(&["stop api", "start api aaaaaaa"]);
}

#[test]
fn a_reload_with_another_mqtt_section_reconnects() {
    let broker = Mosquitto::start();
    let agent = started(&broker, API);
    let instance = agent.instance.clone().mqtt("protocol: 3.1.1");
    instance.configure(API);
    agent.signal(Signal::SIGHUP);
    assert_eq!(agent.logged("configuration reloaded", &[])["reconnect"], true);
    assert_eq!(agent.subscribed(2)["protocol"], "3.1.1");
    publish(&broker, "acme/api", 'a');
    agent.did(&["stop api", "start api aaaaaaa"]);
}

#[test]
fn exact_subscriptions_follow_the_apps() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker).mqtt("subscribe: exact");
    instance.configure(API);
    let agent = instance.start();
    assert_eq!(agent.subscribed(1)["filters"], "github/acme/api");
    instance.configure(API_AND_WEB);
    agent.signal(Signal::SIGHUP);
    assert_eq!(agent.subscribed(2)["filters"], "github/acme/api github/acme/web");
    instance.configure("apps: [{repo: acme/web, service: web, settle: 0s}]");
    agent.signal(Signal::SIGHUP);
    assert_eq!(agent.subscribed(3)["filters"], "github/acme/web");
    publish(&broker, "acme/api", 'a');
    publish(&broker, "acme/web", 'b');
    agent.did(&["stop web", "start web bbbbbbb"]);
    let client = instance.client_id();
    assert_eq!(broker.logged(&format!("Sending PUBLISH to {client}")), 1, "{}", broker.log());
    assert_eq!(broker.logged(&format!("as {client}")), 1, "it reconnected");
}

#[test]
fn an_app_removed_in_mid_deploy_is_deployed_to_its_end() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(STEPS);
    instance.hold("update", "api");
    let agent = instance.start();
    agent.subscribed(1);
    publish(&broker, "acme/api", 'a');
    agent.did_at_last("update api aaaaaaa");
    publish(&broker, "acme/api", 'b');
    agent.logged("push taken", &[("sha", &commit('b'))]);
    instance.configure("apps: [{repo: acme/web, service: web, settle: 0s}]");
    agent.signal(Signal::SIGHUP);
    agent.logged("configuration reloaded", &[]);
    instance.release_for_good("update", "api");
    agent.logged("deployed", &[("sha", &commit('a'))]);
    let why = "the app is no longer in the configuration";
    agent.logged("pending push dropped", &[("sha", &commit('b')), ("why", why)]);
    publish(&broker, "acme/web", 'c');
    agent.did_at_last("start web ccccccc");
    let done = |event: &String| event.ends_with("bbbbbbb") && !event.starts_with("outcome");
    assert!(!instance.events().iter().any(done), "{}", agent.report());
    assert!(instance.is_up("api"));
}

/// Nobody waits for it while the agent goes on.
#[test]
fn sigterm_waits_for_a_notification_that_is_on_its_way() {
    let broker = Mosquitto::start();
    let notified = r#"on_outcome: {command: ["{dir}/do", outcome, all], dir: "{dir}"}"#;
    let mut agent = started(&broker, &format!("stagger: 1d\n{notified}\n{API}"));
    publish(&broker, "acme/api", 'a');
    agent.logged("push taken", &[]);
    let instance = agent.instance.clone();
    instance.hold("outcome", "all");
    instance.configure(&format!("{notified}\napps: [{{repo: acme/web, service: web, settle: 0s}}]"));
    agent.signal(Signal::SIGHUP);
    agent.logged("pending push dropped", &[]);
    let held = instance.held("outcome", "all");
    agent.signal(Signal::SIGTERM);
    let gone = format!("Client {} disconnected", instance.client_id());
    eventually(|| (broker.logged(&gone) > 0).then_some(()), || broker.log());
    drop(held);
    instance.hold_no_more("outcome", "all");
    assert!(agent.wait().success());
    let told: Vec<_> = instance.outcomes().iter().map(|told| told["outcome"].clone()).collect();
    assert_eq!(told, ["dropped"]);
}

/// Listens as systemd does.
struct Letters(UnixDatagram);

impl Letters {
    fn bind(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// The next letter with this in it, and those before it.
    fn until(&self, part: &str) -> Vec<String> {
        let mut letters = Vec::new();
        loop {
            let mut buffer = [0; 4096];
            let size =
                self.0.recv(&mut buffer).unwrap_or_else(|error| panic!("no {part} ({error}): {letters:?}"));
            letters.push(String::from_utf8_lossy(&buffer[..size]).into_owned());
            if letters.last().unwrap().contains(part) {
                return letters;
            }
        }
    }
}

#[test]
fn systemd_is_told_how_it_goes() {
    let mut broker = Mosquitto::start();
    broker.stop();
    let instance = Instance::new(&broker);
    instance.configure(API);
    let letters = Letters::bind(&instance.file("notify"));
    let mut agent = instance.start_with(|command| {
        command.env("NOTIFY_SOCKET", instance.file("notify")).env("WATCHDOG_USEC", "200000");
    });
    letters.until("READY=1");
    let port = broker.port();
    // An unreachable broker does not fail the start.
    let down = letters.until(&format!("STATUS=Not connected to 127.0.0.1:{port}: ")).pop().unwrap();
    assert!(down.contains("refused") && down.contains("apps: 1"), "{down}");
    letters.until("WATCHDOG=1");
    broker.start_again();
    letters.until(&format!("STATUS=Connected to 127.0.0.1:{port}; apps: 1"));
    letters.until("WATCHDOG=1");
    instance.configure(API_AND_WEB);
    agent.signal(Signal::SIGHUP);
    let reloading = letters.until("RELOADING=1").pop().unwrap();
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    let reloaded = letters.until("READY=1");
    assert!(reloaded.iter().any(|letter| letter.contains("apps: 2")), "{reloaded:?}");
    instance.write("config.yaml", "nonsense");
    agent.signal(Signal::SIGHUP);
    letters.until("RELOADING=1");
    letters.until("READY=1");
    publish(&broker, "acme/api", 'a');
    agent.did(&["stop api", "start api aaaaaaa"]);
    broker.publish("github/acme/api", b"junk");
    letters.until("apps: 2; refused: undecodable 1");
    let inherited = instance.read("env.start.api");
    assert!(!inherited.contains("NOTIFY_SOCKET") && !inherited.contains("WATCHDOG"), "{inherited}");
    agent.signal(Signal::SIGTERM);
    letters.until("STOPPING=1");
    assert!(agent.wait().success());
}

#[test]
fn systemd_is_kept_patient_while_services_are_started_without_a_configuration() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(STEPS);
    instance.hold("update", "api");
    let mut agent = instance.start();
    agent.subscribed(1);
    publish(&broker, "acme/api", 'a');
    let held = instance.held("update", "api");
    agent.kill();
    instance.configure("colour: red");
    instance.hold("start", "api");
    let letters = Letters::bind(&instance.file("notify"));
    let mut second = instance.start_with(|command| {
        command.env("NOTIFY_SOCKET", instance.file("notify"));
    });
    letters.until("EXTEND_TIMEOUT_USEC=60000000");
    instance.release_for_good("start", "api");
    assert_eq!(second.wait().code(), Some(78), "{}", second.report());
    assert!(instance.is_up("api"));
    drop(held);
}

#[test]
fn a_freshly_installed_agent_is_calm() {
    let default = "/etc/instance-agent/config.yaml";
    assert!(!Path::new(default).exists(), "this test needs a host without {default}");
    let instance = Instance::at(support::free_port());
    let letters = Letters::bind(&instance.file("notify"));
    let mut agent = instance.start_without_file(|command| {
        command.env("NOTIFY_SOCKET", instance.file("notify"));
    });
    assert_eq!(agent.wait().code(), Some(0));
    let event = agent.logged("not configured", &[("message", default)]);
    assert_eq!(event["level"], "INFO");
    let text = event["message"].as_str().unwrap();
    assert!(text.contains("mqtt.url") && text.contains("apps") && text.contains("--app"), "{text}");
    let told = letters.until("READY=1");
    assert!(told.iter().any(|letter| letter.contains("STATUS=Not configured")), "{told:?}");
}

#[test]
fn flags_are_configuration_enough() {
    let default = "/etc/instance-agent/config.yaml";
    assert!(!Path::new(default).exists(), "this test needs a host without {default}");
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure("environment: demo\napps: [{repo: acme/other, service: other}]");
    let url = format!("mqtt://127.0.0.1:{}", broker.port());
    let state = instance.file("elsewhere");
    let agent = instance.start_with(|command| {
        command.args(["--broker", &url, "--app", "acme/api@a=b=api", "--app", "acme/web=web"]);
        command.args(["--environment", "sandbox", "--state-dir", state.to_str().unwrap()]);
    });
    agent.subscribed(1);
    publish(&broker, "acme/other", 'c');
    publish(&broker, "acme/web", 'a');
    let push = Push::new("acme/api", 'b').to("a=b");
    broker.publish(&push.topic(), &push.bytes());
    // These two have the default settling time, which is theirs and not this test's.
    agent.did_at_last("start web aaaaaaa");
    agent.did_at_last("start api bbbbbbb");
    assert!(!instance.events().iter().any(|event| event.contains("other")), "{}", agent.report());
    assert!(instance.read("elsewhere/env/api.env").contains("INSTANCE_AGENT_ENVIRONMENT=\"sandbox\""));
}
