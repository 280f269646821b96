//! A start while the metadata service gives no answer, and what follows when it gives one.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use instance_agent::ec2::Platform;
use nix::sys::signal::Signal;

use crate::agent::{cloud_config, on_ec2};
use crate::support::Mosquitto;
use crate::support::agent::{Agent, Instance};
use crate::support::apps::API;
use crate::support::imds::{Imds, Trouble};
use crate::support::payload::Push;

const UPDATED: &str = r#"
apps:
- repo: acme/api
  service: api
  branch: main
  update: {command: ["{dir}/do", update, api], dir: "{dir}"}
  settle: 0s
"#;

const WAITS: &str = "waiting for the metadata service";
const STARTED: &str = "service started that an interrupted deploy had stopped";

fn start(instance: &Instance, imds: &Imds) -> Agent {
    instance.start_with(|command| {
        on_ec2(command, imds);
    })
}

fn start_without_file(instance: &Instance, imds: &Imds) -> Agent {
    instance.start_without_file(|command| {
        on_ec2(command, imds);
    })
}

fn publish(broker: &Mosquitto, repo: &str, digit: char) {
    let push = Push::new(repo, digit);
    broker.publish(&push.topic(), &push.bytes());
}

fn silent() -> Imds {
    let imds = Imds::start();
    imds.state().trouble = Some(Trouble::Silent);
    imds
}

/// Kills the agent while an update is held up: its service is down then.
fn kill_in_mid_deploy(broker: &Mosquitto, agent: &mut Agent) {
    let instance = agent.instance.clone();
    instance.hold("update", "api");
    publish(broker, "acme/api", 'a');
    let _held = instance.held("update", "api");
    agent.kill();
    instance.hold_no_more("update", "api");
    assert!(!instance.is_up("api"));
}

/// From exec until the broker has granted the subscription, off EC2. A debug build takes several times as long.
#[test]
fn a_host_elsewhere_waits_for_nothing() {
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 500 } else { 50 });
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(API);
    let start = || {
        let begun = Instant::now();
        let mut agent = instance.start_with(|command| {
            if !Platform::detect(Path::new("/")).is_ec2 {
                command.env_remove("AWS_EC2_METADATA_DISABLED");
            }
        });
        agent.subscribed(1);
        let taken = begun.elapsed();
        assert!(agent.stop().success());
        taken
    };
    // The host may be busy with something else, but not each time.
    let best = (0..10).map(|_| start()).min().unwrap();
    assert!(best < limit, "{best:?}");
}

#[test]
fn a_start_that_waits_ends_at_once_when_it_is_told_to() {
    let instance = Instance::at(1);
    let imds = silent();
    let agents =
        [Signal::SIGTERM, Signal::SIGINT].map(|signal| (start_without_file(&instance, &imds), signal));
    for (mut agent, signal) in agents {
        agent.logged(WAITS, &[("level", "WARN")]);
        agent.signal(signal);
        assert_eq!(agent.wait().code(), Some(0), "{}", agent.report());
    }
}

#[test]
fn a_start_that_waits_reads_its_file_anew_at_sighup() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure("");
    let agent = start(&instance, &silent());
    agent.logged(WAITS, &[]);
    instance.configure(API);
    agent.signal(Signal::SIGHUP);
    agent.subscribed(1);
    publish(&broker, "acme/api", 'a');
    agent.logged("deployed", &[("app", "api")]);
}

#[test]
fn services_are_up_again_before_anybody_is_waited_for() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure("environment: demo");
    let imds = Imds::with_user_data(format!("#instance-agent\n{}", instance.document(UPDATED)));
    let mut agent = start(&instance, &imds);
    agent.subscribed(1);
    kill_in_mid_deploy(&broker, &mut agent);
    imds.state().trouble = Some(Trouble::Silent);
    let second = start(&instance, &imds);
    second.logged(STARTED, &[("app", "api")]);
    assert!(instance.is_up("api"));
    second.logged(WAITS, &[]);
    imds.state().trouble = None;
    second.logged("deployed", &[("app", "api")]);
    assert_eq!(instance.overlaps(), "");
}

#[test]
fn a_state_directory_that_only_user_data_names_is_remembered() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    let imds = Imds::with_user_data(cloud_config(&instance, UPDATED));
    let mut agent = start_without_file(&instance, &imds);
    agent.subscribed(1);
    kill_in_mid_deploy(&broker, &mut agent);
    imds.state().trouble = Some(Trouble::Silent);
    let second = start_without_file(&instance, &imds);
    second.logged(STARTED, &[("app", "api")]);
    assert!(instance.is_up("api"));
    let mut status = Command::new(env!("CARGO_BIN_EXE_instance-agent"));
    status.env_clear().env("STATE_DIRECTORY", instance.file("usual")).args(["status", "--json"]);
    let status = String::from_utf8(status.output().unwrap().stdout).unwrap();
    assert!(status.contains("acme/api"), "{status}");
}

#[test]
fn a_revision_given_up_before_the_configuration_is_known_is_told_of() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    let on_outcome = "on_outcome: {command: [\"{dir}/do\", outcome, all], dir: \"{dir}\"}";
    let imds = Imds::with_user_data(cloud_config(&instance, &format!("{UPDATED}{on_outcome}")));
    instance.hold("update", "api");
    let mut agent = start_without_file(&instance, &imds);
    agent.subscribed(1);
    publish(&broker, "acme/api", 'a');
    for attempt in ["1", "2", "3"] {
        agent.logged("deploy began", &[("attempt", attempt)]);
        agent.logged("running command", &[("step", "update")]);
        let _held = instance.held("update", "api");
        agent.kill();
        agent = start_without_file(&instance, &imds);
    }
    let told = agent.outcomes(1).remove(0);
    assert_eq!(told["reason"], "interrupted 3 times: it waits for a new push", "{told}");
    agent.subscribed(1);
    assert_eq!(agent.outcomes(1).len(), 1);
}

/// What user-data adds to a complete file may be what keeps strangers' pushes out.
#[test]
fn what_user_data_adds_takes_effect_when_it_can_be_read() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(API);
    instance.write("secret", "hunter2\n");
    fs::set_permissions(instance.file("secret"), Permissions::from_mode(0o600)).unwrap();
    let user_data = format!(
        "#instance-agent\nwebhook_secret_file: {}\nec2: {{tags: true, refresh: 1s}}\n",
        instance.file("secret").display()
    );
    let imds = Imds::with_user_data(user_data);
    imds.tag(&[("instance-agent:app:web", "acme/web@main=nginx")]);
    imds.state().trouble = Some(Trouble::Status(403));
    let agent = start(&instance, &imds);
    agent.subscribed(1);
    publish(&broker, "acme/api", 'a');
    agent.logged("deployed", &[("app", "api")]);
    imds.wait_for_requests(1, "token");
    assert_eq!(imds.state().requests.len(), 2, "a look is one question");
    imds.state().trouble = None;
    agent.logged("the instance metadata service answers", &[]);
    agent.logged("configuration reloaded", &[("apps", "2")]);
    publish(&broker, "acme/api", 'b');
    agent.logged("message rejected", &[("repository", "acme/api")]);
    // From now on as if it had been there from the start.
    imds.tag(&[]);
    agent.logged("configuration reloaded", &[("apps", "1")]);
    assert_eq!(imds.requests("user-data"), 1, "{:?}", imds.state().requests);
}

#[test]
fn a_mistake_in_user_data_that_was_read_late_can_be_mended() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(API);
    let imds = Imds::with_user_data("#instance-agent\nbroker: x\n");
    imds.state().trouble = Some(Trouble::Status(403));
    let agent = start(&instance, &imds);
    agent.subscribed(1);
    imds.state().trouble = None;
    agent.logged("cannot reload: invalid configuration: user-data (#instance-agent):2", &[]);
    imds.state().user_data = Some(b"#instance-agent\nmax_parallel: 7\n".to_vec());
    agent.signal(Signal::SIGHUP);
    agent.logged("configuration reloaded", &[("apps", "1")]);
}

#[test]
fn a_changed_tag_is_not_forgotten_when_something_else_is_wrong() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    let tagged = format!("{API}\nec2: {{tags: true, refresh: 1s}}");
    instance.configure(&tagged);
    let imds = Imds::start();
    imds.tag(&[]);
    let agent = start(&instance, &imds);
    agent.subscribed(1);
    instance.configure(&format!("{tagged}\nmax_parallel: 0"));
    imds.tag(&[("instance-agent:app:web", "acme/web@main=nginx")]);
    agent.logged("cannot reload: invalid configuration", &[("message", "max_parallel")]);
    imds.wait_for_requests(2, "tags/instance");
    // Said once, tried again and again.
    assert_eq!(agent.log_of("cannot reload", &[]).len(), 1, "{}", agent.report());
    instance.configure(&tagged);
    agent.logged("configuration reloaded", &[("apps", "2")]);
}
