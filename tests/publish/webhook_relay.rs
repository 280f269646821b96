//! `examples/webhook-relay`: GitHub's deliveries, by the real webhook daemon, to an agent that verifies them itself.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Instant;

use ring::hmac;
use tempfile::TempDir;

use crate::broker::ExampleBroker;
use crate::support::agent::Agent;
use crate::support::payload::{Push, commit};
use crate::support::{LOOK, PATIENCE, free_port};
use crate::{example, holds};

const SECRET: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
const JSON: &str = "application/json";
const FORM: &str = "application/x-www-form-urlencoded";

/// A running webhook daemon; ended when dropped.
struct Relay {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl Relay {
    fn start(broker: &ExampleBroker) -> Self {
        let directory = tempfile::tempdir().unwrap();
        symlink(env!("CARGO_BIN_EXE_instance-agent"), directory.path().join("instance-agent")).unwrap();
        // The port may be gone again by the time webhook wants it.
        for _ in 0..20 {
            let port = free_port();
            if let Some(child) = try_start(broker, &directory, port) {
                return Self { child, port, directory };
            }
        }
        panic!("webhook does not start");
    }

    /// What GitHub does: a POST with these headers. Gives the status and the answer.
    fn post(&self, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String) {
        let file = self.directory.path().join("delivery");
        fs::write(&file, body).unwrap();
        let mut command = Command::new("curl");
        command.args([
            "-sS",
            "--noproxy",
            "*",
            "-w",
            "\n%{http_code}",
            "-H",
            &format!("Content-Type: {content_type}"),
        ]);
        for (name, value) in headers {
            command.args(["-H", &format!("{name}: {value}")]);
        }
        let output = command
            .args(["--data-binary", &format!("@{}", file.display())])
            .arg(format!("http://127.0.0.1:{}/hooks/github", self.port))
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let (answer, status) = text.rsplit_once('\n').unwrap();
        (status.parse().unwrap(), answer.to_owned())
    }

    /// A delivery of GitHub's, signed.
    fn deliver(&self, content_type: &str, event: &str, body: &[u8]) -> (u16, String) {
        let signature = signature(SECRET, body);
        let headers = [
            ("X-GitHub-Event", event),
            ("X-GitHub-Delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958"),
            ("X-Hub-Signature-256", &signature),
        ];
        self.post(content_type, &headers, body)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn try_start(broker: &ExampleBroker, directory: &TempDir, port: u16) -> Option<Child> {
    let hooks = example("webhook-relay").join("hooks.json");
    let mut command = Command::new("webhook");
    command.args(["-template", "-ip", "127.0.0.1", "-port", &port.to_string(), "-hooks"]).arg(hooks);
    command.env_clear().envs(environment(broker));
    command.env("PATH", format!("{}:/usr/bin:/bin", directory.path().display()));
    command.env("TMPDIR", directory.path());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(child);
        }
        assert!(Instant::now() < deadline, "webhook neither listens nor ends");
        thread::sleep(LOOK);
    }
    None
}

/// The variables of `relay.env`, with values of this test's.
fn environment(broker: &ExampleBroker) -> [(&'static str, String); 6] {
    let text = |path: PathBuf| path.display().to_string();
    let environment = [
        ("WEBHOOK_SECRET", SECRET.to_owned()),
        ("RELAY", text(example("webhook-relay").join("relay"))),
        ("MQTT_URL", broker.url()),
        ("MQTT_USERNAME", "publisher".to_owned()),
        ("MQTT_PASSWORD_FILE", text(broker.file("secrets/publisher.password"))),
        ("MQTT_CA_FILE", text(broker.file("ca.crt"))),
    ];
    let file = fs::read_to_string(example("webhook-relay").join("relay.env")).unwrap();
    let names = file.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
    let names: BTreeSet<&str> = names.map(|(name, _)| name).filter(|name| !name.contains(' ')).collect();
    assert_eq!(names, environment.iter().map(|(name, _)| *name).collect());
    environment
}

fn signature(secret: &str, body: &[u8]) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), body);
    let digits: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

/// A body that nobody can take apart and put together again without a trace.
fn body(digit: char) -> Vec<u8> {
    let text = serde_json::to_string_pretty(&Push::new("Acme/api", digit).json()).unwrap();
    text.replacen('{', "{ \"n\": 12345678901234567890, \"f\": 1.0, \"e\": \"\\u00e9 <&>\",\r\n", 1)
        .into_bytes()
}

fn subscribed(broker: &ExampleBroker) -> Agent {
    let instance = broker.instance();
    instance.write("secret", SECRET);
    instance.configure(
        "webhook_secret_file: {dir}/secret\napps: [{repo: acme/api, service: api, branch: main, settle: 0s}]",
    );
    let agent = instance.start();
    agent.subscribed(1);
    agent
}

#[test]
fn a_signed_delivery_is_deployed_and_a_forged_one_goes_nowhere() {
    let broker = ExampleBroker::start();
    let (agent, relay) = (subscribed(&broker), Relay::start(&broker));
    let unsigned = [("X-GitHub-Event", "push"), ("X-GitHub-Delivery", "1")];
    let forged = signature("another", &body('f'));
    let (status, answer) = relay.post(JSON, &unsigned, &body('f'));
    assert_eq!((status, &*answer), (403, "Hook rules were not satisfied."));
    let headers = [unsigned[0], unsigned[1], ("X-Hub-Signature-256", &*forged)];
    let (status, answer) = relay.post(JSON, &headers, &body('f'));
    assert_eq!((status, &*answer), (500, "Error occurred while evaluating hook rules."));
    let (status, answer) = relay.deliver(JSON, "push", &body('a'));
    assert_eq!(status, 200, "{answer}");
    holds(&answer, &["Published on github/Acme/api", "signed", "confirmed by localhost"]);
    agent.logged("deployed", &[("sha", &commit('a'))]);
    agent.logged("push taken", &[("delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958")]);

    let field: String = form_urlencoded::byte_serialize(&body('b')).collect();
    let (status, answer) = relay.deliver(FORM, "push", format!("payload={field}").as_bytes());
    assert_eq!(status, 200, "{answer}");
    agent.logged("deployed", &[("sha", &commit('b'))]);
    assert!(agent.log_of("message rejected", &[]).is_empty(), "nothing else came: {}", agent.report());
    assert_eq!(agent.instance.history("api").len(), 2);
}

#[test]
fn other_events_are_answered_and_failures_are_githubs_to_show() {
    let broker = ExampleBroker::start();
    let relay = Relay::start(&broker);
    let (status, answer) = relay.deliver(JSON, "ping", b"{\"zen\": \"Keep it logically awesome.\"}");
    assert_eq!((status, &*answer), (200, "Nothing published: the event is not push.\n"));
    let nameless = body('a');
    let signed = signature(SECRET, &nameless);
    let (status, _) = relay.post(JSON, &[("X-Hub-Signature-256", &signed)], &nameless);
    assert_eq!(status, 500, "without its event it is no delivery of GitHub's");
    drop(broker);
    let (status, answer) = relay.deliver(JSON, "push", &body('a'));
    assert_eq!(status, 500, "{answer}");
    // Without the file of the authority it does not get as far as the broker.
    holds(&answer, &["instance-agent: cannot read --ca-file"]);
}
