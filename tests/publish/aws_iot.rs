//! `examples/aws-iot`: the configuration as `check` sees it, and policies that allow what it and `publish` do.

use std::fs;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::program;
use crate::{example, holds};

/// The statement of a policy that allows an action.
struct Policy(Value);

impl Policy {
    fn read(name: &str) -> Self {
        Self(serde_json::from_slice(&fs::read(example("aws-iot").join(name)).unwrap()).unwrap())
    }

    fn actions(&self) -> Vec<&str> {
        let actions = self.statements().map(|it| &it["Action"]);
        actions
            .flat_map(|it| it.as_array().map_or(vec![it], |list| list.iter().collect()))
            .filter_map(Value::as_str)
            .collect()
    }

    /// What it may be done to, without the account.
    fn resource(&self, action: &str) -> &str {
        let allows = |it: &&Value| {
            it["Action"] == action
                || it["Action"].as_array().is_some_and(|list| list.contains(&action.into()))
        };
        let statement = self.statements().find(allows).unwrap();
        assert_eq!(statement["Effect"], "Allow");
        statement["Resource"].as_str().unwrap().strip_prefix("arn:aws:iot:eu-west-1:123456789012:").unwrap()
    }

    fn statements(&self) -> impl Iterator<Item = &Value> {
        assert_eq!(self.0["Version"], "2012-10-17");
        self.0["Statement"].as_array().unwrap().iter()
    }
}

/// AWS's `*`, of which there is one, at the end.
fn covers(pattern: &str, text: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == text, |start| text.starts_with(start))
}

/// What `check` prints of the configuration, its files made for it and put in another place.
fn checked() -> String {
    let directory = TempDir::new().unwrap();
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=web-7 \
                  -keyout key.pem -out cert.pem && echo sesame > webhook-secret && chmod o= *";
    let made = Command::new("sh").args(["-ec", script]).current_dir(&directory).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let text = fs::read_to_string(example("aws-iot").join("config.yaml")).unwrap();
    let there = directory.path().display().to_string();
    let manager = "service_manager: {name: none, stop: [\"true\", \"{service}\"], start: [\"true\", \"{service}\"], \
                   status: [\"true\", \"{service}\"]}";
    let text = format!("{}{manager}\n", text.replace(": /etc/instance-agent/", &format!(": {there}/")));
    let path = directory.path().join("config.yaml");
    fs::write(&path, text).unwrap();
    let arguments = ["check", "--config", path.to_str().unwrap()];
    let output = program::run(&arguments, &[("PATH", "/usr/bin:/bin")], b"");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_configuration_is_valid_and_the_policy_allows_it() {
    let shown = checked();
    assert!(!shown.contains("Warning"), "{shown}");
    let value = |key: &str| {
        let line = shown.lines().find(|line| line.split_whitespace().next() == Some(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    assert_eq!(value("mqtt.subscribe"), "exact");
    assert_eq!(value("mqtt.alpn"), "x-amzn-mqtt-ca");
    holds(&value("mqtt.url"), &["mqtts://", "-ats.iot.eu-west-1.amazonaws.com:443"]);
    let policy = Policy::read("agent-policy.json");
    assert_eq!(policy.actions(), ["iot:Connect", "iot:Subscribe", "iot:Receive"], "and nothing else");
    assert_eq!(policy.resource("iot:Connect"), "client/${iot:Connection.Thing.ThingName}");
    let topic = format!("github/{}", value("apps[0].repo"));
    assert!(covers(policy.resource("iot:Subscribe"), &format!("topicfilter/{topic}")));
    assert!(covers(policy.resource("iot:Receive"), &format!("topic/{topic}")));
    assert!(!covers(policy.resource("iot:Subscribe"), "topicfilter/github/+/+"));
}

#[test]
fn the_publishers_policy_lets_it_publish_and_no_more() {
    let policy = Policy::read("publisher-policy.json");
    assert_eq!(policy.actions(), ["iot:Connect", "iot:Publish", "iot:RetainPublish"]);
    assert!(covers(policy.resource("iot:Connect"), "client/publish-0123456789ab"));
    assert!(covers(policy.resource("iot:Publish"), "topic/github/octocat/hello"));
}
