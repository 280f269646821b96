//! `examples/github-actions`: the steps of each workflow, run as a runner runs them.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use ring::digest;
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::broker::ExampleBroker;
use crate::example;
use crate::support::agent::Agent;
use crate::support::payload::{Push, commit};

const SECRET: &str = "It's a Secret to Everybody";
/// Longer than a block of SHA-256, and no ASCII.
const LONG_SECRET: &str =
    "Ein Geheimnis, das größer ist als ein Block, `wird` $zuerst zu seiner eigenen Prüfsumme \\x00 %s";

/// All that the steps may run. Each notes its arguments, which anybody on the machine could read.
const PROGRAMS: [&str; 11] =
    ["cat", "chmod", "curl", "head", "mkdir", "mosquitto_pub", "od", "openssl", "sha256sum", "tee", "tr"];

#[derive(Deserialize)]
struct Workflow {
    on: String,
    jobs: BTreeMap<String, Job>,
}

#[derive(Deserialize)]
struct Job {
    defaults: Defaults,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Defaults {
    run: Run,
}

#[derive(Deserialize)]
struct Run {
    shell: String,
}

#[derive(Deserialize)]
struct Step {
    run: String,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

fn steps(file: &str) -> Vec<Step> {
    let text = fs::read_to_string(example("github-actions").join(file)).unwrap();
    let workflow: Workflow = serde_yaml::from_str(&text).unwrap();
    assert_eq!(workflow.on, "push");
    let job = workflow.jobs.into_values().next().unwrap();
    assert_eq!(job.defaults.run.shell, "bash");
    for step in &job.steps {
        assert!(!step.run.contains("${{"), "text of the event's could become a command: {}", step.run);
    }
    assert!(job.steps.len() > 1, "{file}");
    job.steps
}

/// A directory of a runner's, and what the repository's settings hold.
struct Runner {
    directory: TempDir,
    settings: BTreeMap<&'static str, String>,
    authority: String,
}

impl Runner {
    fn new(broker: &ExampleBroker, event: &Push) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        // A runner's file is laid out anew, so GitHub's own signature would not fit it.
        fs::write(at("event.json"), serde_json::to_vec_pretty(&event.json()).unwrap()).unwrap();
        fs::write(at("path"), "").unwrap();
        fs::create_dir(at("temp")).unwrap();
        fs::create_dir(at("bin")).unwrap();
        let program = |name: &str, does: &str| {
            let notes = format!("printf '%s\\n' \"{name} $*\" >> {}\n", at("arguments").display());
            fs::write(at("bin").join(name), format!("#!/bin/sh\n{notes}{does}\n")).unwrap();
            fs::set_permissions(at("bin").join(name), Permissions::from_mode(0o755)).unwrap();
        };
        // The package is there already.
        program("sudo", "test \"$1 $2\" = 'apt-get install'");
        for name in PROGRAMS {
            let path =
                ["/usr/bin", "/bin"].map(|it| Path::new(it).join(name)).into_iter().find(|it| it.exists());
            program(name, &format!("exec {} \"$@\"", path.unwrap().display()));
        }
        // Beside the others it would be found before it was fetched.
        program("fetched", concat!("exec ", env!("CARGO_BIN_EXE_instance-agent"), " \"$@\""));
        let digest = digest::digest(&digest::SHA256, &fs::read(at("bin/fetched")).unwrap());
        let settings = BTreeMap::from([
            ("vars.INSTANCE_AGENT_URL", format!("file://{}", at("bin/fetched").display())),
            ("vars.INSTANCE_AGENT_SHA256", digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()),
            ("vars.MQTT_URL", broker.url()),
            ("vars.MQTT_HOST", "localhost".to_owned()),
            ("vars.MQTT_PORT", broker.port().to_string()),
            ("vars.MQTT_USERNAME", "publisher".to_owned()),
            ("secrets.MQTT_PASSWORD", broker.password("publisher")),
            ("secrets.WEBHOOK_SECRET", SECRET.to_owned()),
        ]);
        let authority = broker.file("ca.crt").display().to_string();
        Self { directory, settings, authority }
    }

    fn set(mut self, name: &'static str, value: String) -> Self {
        self.settings.insert(name, value);
        self
    }

    /// `${{ vars.NAME }}` as the settings have it.
    fn resolved(&self, value: &str) -> &str {
        let name = value.trim().strip_prefix("${{").and_then(|rest| rest.strip_suffix("}}")).unwrap();
        &self.settings[name.trim()]
    }

    /// Runs the steps until one fails; gives what the last one said.
    fn run(&self, file: &str) -> Output {
        let mut last = None;
        for step in steps(file) {
            let output = self.step(&step);
            let failed = !output.status.success();
            last = Some(output);
            if failed {
                break;
            }
        }
        let arguments = self.arguments();
        for secret in ["secrets.MQTT_PASSWORD", "secrets.WEBHOOK_SECRET"] {
            assert!(!arguments.contains(&self.settings[secret]), "{secret} was an argument: {arguments}");
        }
        last.unwrap()
    }

    /// Of all programs that were run, each on a line with its name.
    fn arguments(&self) -> String {
        fs::read_to_string(self.directory.path().join("arguments")).unwrap()
    }

    fn step(&self, step: &Step) -> Output {
        let at = |name: &str| self.directory.path().join(name);
        fs::write(at("step.sh"), &step.run).unwrap();
        let event: Value = serde_json::from_slice(&fs::read(at("event.json")).unwrap()).unwrap();
        let added = fs::read_to_string(at("path")).unwrap().replace('\n', ":");
        let text = |key: &str| event[key].as_str().unwrap().to_owned();
        Command::new("/bin/bash")
            .args(["--noprofile", "--norc", "-eo", "pipefail"])
            .arg(at("step.sh"))
            .current_dir(self.directory.path())
            .env_clear()
            .env("PATH", format!("{added}{}", at("bin").display()))
            .env("HOME", self.directory.path())
            .env("SSL_CERT_FILE", &self.authority)
            .env("RUNNER_TEMP", at("temp"))
            .env("GITHUB_ACTIONS", "true")
            .env("GITHUB_PATH", at("path"))
            .env("GITHUB_EVENT_PATH", at("event.json"))
            .env("GITHUB_EVENT_NAME", "push")
            .env("GITHUB_REPOSITORY", event["repository"]["full_name"].as_str().unwrap())
            .env("GITHUB_REF", text("ref"))
            .env("GITHUB_SHA", text("after"))
            .env("GITHUB_RUN_ID", "1658821493")
            .env("GITHUB_RUN_ATTEMPT", "1")
            .envs(step.env.iter().map(|(name, value)| (name, self.resolved(value))))
            .output()
            .unwrap()
    }
}

fn subscribed(broker: &ExampleBroker) -> Agent {
    let instance = broker.instance();
    instance.write("secret", format!("{SECRET}\n{LONG_SECRET}\n"));
    instance.configure(
        "webhook_secret_file: {dir}/secret\napps: [{repo: Acme/api, service: api, branch: main, settle: 0s}]",
    );
    let agent = instance.start();
    agent.subscribed(1);
    agent
}

/// A push is deployed; one that is signed with another secret is not; a broker that refuses fails the run. `runs` is
/// among the programs that were run, with these arguments.
fn the_workflow_deploys(file: &str, runs: &str) -> Agent {
    let broker = ExampleBroker::start();
    let agent = subscribed(&broker);
    let forged = Runner::new(&broker, &Push::new("Acme/api", 'f'));
    let output = forged.set("secrets.WEBHOOK_SECRET", "another".to_owned()).run(file);
    assert!(output.status.success(), "{output:?}");
    for (digit, secret) in [('a', SECRET), ('c', LONG_SECRET)] {
        let runner = Runner::new(&broker, &Push::new("Acme/api", digit))
            .set("secrets.WEBHOOK_SECRET", secret.to_owned());
        let output = runner.run(file);
        assert!(output.status.success(), "{output:?}");
        assert!(runner.arguments().contains(runs), "{}", runner.arguments());
        agent.logged("deployed", &[("sha", &commit(digit))]);
    }
    agent.logged("message rejected", &[]);
    assert_eq!(agent.instance.history("api").len(), 2, "{}", agent.report());

    let runner = || Runner::new(&broker, &Push::new("Acme/api", 'b'));
    let as_agent = runner()
        .set("vars.MQTT_USERNAME", "agent".to_owned())
        .set("secrets.MQTT_PASSWORD", broker.password("agent"));
    let refused = as_agent.run(file);
    assert!(!refused.status.success() && said(&refused).contains("uthorized"), "{refused:?}");
    let wrong = runner().set("secrets.MQTT_PASSWORD", "wrong".to_owned()).run(file);
    assert!(!wrong.status.success(), "{wrong:?}");
    agent
}

fn said(output: &Output) -> String {
    String::from_utf8([output.stdout.clone(), output.stderr.clone()].concat()).unwrap()
}

#[test]
fn the_workflow_with_instance_agent() {
    let agent = the_workflow_deploys("instance-agent.yml", "\nfetched publish --broker");
    agent.logged("push taken", &[("sha", &commit('a')), ("delivery", "1658821493-1")]);
}

#[test]
fn the_workflow_with_mosquitto_pub_and_openssl() {
    the_workflow_deploys("mosquitto.yml", "\nmosquitto_pub -V mqttv5");
}

#[test]
fn another_program_than_expected_is_not_run() {
    let broker = ExampleBroker::start();
    let runner = Runner::new(&broker, &Push::new("Acme/api", 'a'));
    let output = runner.set("vars.INSTANCE_AGENT_SHA256", "0".repeat(64)).run("instance-agent.yml");
    assert!(!output.status.success() && said(&output).contains("did NOT match"), "{output:?}");
}

#[test]
fn every_workflow_is_tried() {
    let is_workflow = |path: &Path| path.extension().is_some_and(|it| it == "yml");
    let files = fs::read_dir(example("github-actions")).unwrap().map(|file| file.unwrap().path());
    let mut workflows: Vec<_> =
        files.filter(|path| is_workflow(path)).map(|path| path.file_name().unwrap().to_owned()).collect();
    workflows.sort();
    assert_eq!(workflows, ["instance-agent.yml", "mosquitto.yml"]);
}
