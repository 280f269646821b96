//! The command line: every mistake in a configuration is named, and `check` says what `run` would do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use support::payload::{Push, commit};
use support::program;
use tempfile::TempDir;

/// A service manager that every host has.
const MANAGER: &str = "service_manager: {name: none, stop: [\"true\", \"{service}\"], start: [\"true\", \"{service}\"], \
                       status: [\"true\", \"{service}\"]}";

struct Directory(TempDir);

impl Directory {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

fn agent(arguments: &[&str]) -> Output {
    agent_given(arguments, &[])
}

fn agent_given(arguments: &[&str], input: &[u8]) -> Output {
    let variables = [("PATH", "/usr/bin:/bin"), ("AWS_EC2_METADATA_DISABLED", "true")];
    program::run(arguments, &variables, input)
}

fn errors(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The lines that `check` complains with about this file. `run` must say the same.
fn complaints_about(path: &Path, flags: &[&str]) -> Vec<String> {
    let config = ["--config", path.to_str().unwrap()];
    let checked = agent(&[&["check"], &config[..], flags].concat());
    assert_eq!(checked.status.code(), Some(78), "{checked:?}");
    assert!(checked.stdout.is_empty(), "{checked:?}");
    let lines: Vec<String> = errors(&checked).lines().map(str::to_owned).collect();
    let run = agent(&[&["run", "--log-format", "json"], &config[..], flags].concat());
    assert_eq!(run.status.code(), Some(78), "{run:?}");
    let logged: Vec<Value> = errors(&run).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(logged.len(), lines.len(), "{run:?}");
    for (event, line) in logged.iter().zip(&lines) {
        assert_eq!(event["level"], "ERROR");
        assert_eq!(event["message"].as_str().unwrap(), format!("invalid configuration: {line}"));
    }
    lines
}

/// Each mistake as its line (0: none) and the words that must follow in this order.
fn assert_mistakes(text: &str, expected: &[(usize, &[&str])]) {
    let directory = Directory::new();
    let path = directory.write("config.yaml", text);
    let lines = complaints_about(&path, &[]);
    let path = path.display();
    assert_eq!(lines.len(), expected.len(), "{text}\n{lines:#?}");
    for (line, (number, parts)) in lines.iter().zip(expected) {
        let start = if *number == 0 { format!("{path}: ") } else { format!("{path}:{number}: ") };
        let mut rest = line.strip_prefix(&start).unwrap_or_else(|| panic!("{start}\n{text}\n{lines:#?}"));
        for part in *parts {
            let at = rest.find(part).unwrap_or_else(|| panic!("{part} is missing: {line}\n{text}"));
            rest = &rest[at + part.len()..];
        }
    }
}

/// A document whose first line is this, and which is right otherwise.
fn beside_apps(first: &str) -> String {
    format!("{first}\nmqtt: {{url: mqtt://localhost}}\n{MANAGER}\napps: [{{repo: acme/api, service: api}}]\n")
}

/// A document with this in its `mqtt` section, on line 3.
fn in_mqtt(line: &str) -> String {
    format!(
        "mqtt:\n  url: mqtts://localhost\n  {line}\n{MANAGER}\napps: [{{repo: acme/api, service: api}}]\n"
    )
}

/// A document whose only app says this from line 4 on.
fn in_app(lines: &str) -> String {
    format!("mqtt: {{url: mqtt://localhost}}\n{MANAGER}\napps:\n- {}\n", lines.replace('\n', "\n  "))
}

/// A document whose only app has this beside its repository and service, on line 6.
fn app_with(line: &str) -> String {
    in_app(&format!("repo: acme/api\nservice: api\n{line}"))
}

#[test]
fn the_documents_of_these_tests_are_right_without_their_mistakes() {
    for text in [beside_apps("max_parallel: 2"), in_mqtt("keep_alive: 60s"), app_with("settle: 1s")] {
        let path = Directory::new();
        let path = path.write("config.yaml", text);
        let output = agent(&["check", "--config", path.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}

#[test]
fn unknown_keys_are_named_with_the_known_ones() {
    let top = ["unknown key \"app\"", "mqtt, environment, service_manager", "stagger", "state_dir", "apps"];
    assert_mistakes(&beside_apps("app: []"), &[(1, &top)]);
    assert_mistakes(
        &in_mqtt("host: x"),
        &[(3, &["unknown key \"host\"", "url, protocol, topic", "max_payload"])],
    );
    assert_mistakes(
        &app_with("branches: x"),
        &[(6, &["unknown key \"branches\"", "repo", "branch", "retries"])],
    );
    let command = ["unknown key \"cmd\"", "command, user, dir, timeout"];
    assert_mistakes(&app_with("update: {cmd: [x]}"), &[(6, &command)]);
    assert_mistakes(&beside_apps("on_outcome: {cmd: [x]}"), &[(1, &command)]);
    let manager = "mqtt: {url: mqtt://h}\nservice_manager:\n  name: x\n  restart: [y]\n";
    assert_mistakes(manager, &[(4, &["unknown key \"restart\"", "name, stop, start, status"])]);
}

#[test]
fn keys_given_twice_are_named() {
    assert_mistakes(&beside_apps("mqtt: {url: mqtt://other}"), &[(2, &["\"mqtt\" is given twice"])]);
    assert_mistakes(&in_mqtt("url: mqtt://other"), &[(3, &["\"url\" is given twice"])]);
    assert_mistakes(&app_with("service: web"), &[(6, &["\"service\" is given twice"])]);
    assert_mistakes(
        &app_with("update: {command: [a], command: [b]}"),
        &[(6, &["\"command\" is given twice"])],
    );
    assert_mistakes(&app_with("branch: {demo: a, demo: b}"), &[(6, &["\"demo\" is given twice"])]);
}

#[test]
fn values_of_the_wrong_type_are_named_with_the_right_one() {
    for (text, mistake) in [
        (beside_apps("environment: [a]"), (1, &["environment: is a list, but must be text"][..])),
        (beside_apps("environment: true"), (1, &["environment: is true or false", "put it in quotes"])),
        (beside_apps("environment: {a: b}"), (1, &["environment: is a mapping, but must be text"])),
        (beside_apps("state_dir: 5"), (1, &["state_dir: is a number", "put it in quotes"])),
        (beside_apps("state_dir: 1.5"), (1, &["state_dir: is a decimal number"])),
        (beside_apps("max_parallel: four"), (1, &["max_parallel: is text", "a whole number from 1 to 1000"])),
        (beside_apps("max_parallel: 0"), (1, &["max_parallel: 0", "from 1 to 1000"])),
        (beside_apps("max_parallel: 1.5"), (1, &["max_parallel: is a decimal number", "whole number"])),
        (beside_apps("max_parallel: 1e3"), (1, &["max_parallel: is a decimal number", "written in digits"])),
        (in_mqtt("max_payload: 1e6"), (3, &["mqtt.max_payload: is a decimal number", "written in digits"])),
        (beside_apps("stagger: 1.5"), (1, &["stagger: is a decimal number", "needs a unit"])),
        (beside_apps("max_parallel: -1"), (1, &["max_parallel: -1", "from 1 to 1000"])),
        (beside_apps("max_parallel: 99999999999999999999"), (1, &["max_parallel: ", "from 1 to 1000"])),
        (beside_apps("on_outcome: [a]"), (1, &["on_outcome: is a list, but must be a mapping"])),
        (in_mqtt("client_id: [a]"), (3, &["mqtt.client_id: is a list, but must be text"])),
        (in_mqtt("username: 5"), (3, &["mqtt.username: is a number", "put it in quotes"])),
        (in_mqtt("username: \"\""), (3, &["mqtt.username: is empty"])),
        (in_mqtt("client_id: \"a\\nb\""), (3, &["mqtt.client_id: holds control characters"])),
        (
            app_with("services: api").replace("  service: api\n", ""),
            (5, &["apps[0].services: is text", "a list"]),
        ),
        (app_with("name: true"), (6, &["apps[0].name: is true or false", "put it in quotes"])),
        (app_with("retries: often"), (6, &["apps[0].retries: is text", "a whole number from 0 to 100"])),
        (app_with("retries: 101"), (6, &["apps[0].retries: 101", "from 0 to 100"])),
        (app_with("update: [a]"), (6, &["apps[0].update: is a list, but must be a mapping"])),
        (app_with("update: a"), (6, &["apps[0].update: is text, but must be a mapping"])),
        (in_app("repo: [acme/api]\nservice: api"), (4, &["apps[0].repo: is a list, but must be text"])),
        (in_app("repo: acme/api\nservice: [api]"), (5, &["apps[0].service: is a list, but must be text"])),
    ] {
        assert_mistakes(&text, &[mistake]);
    }
    let text = format!("mqtt: {{url: mqtt://h}}\n{MANAGER}\napps: [acme/api]\n");
    assert_mistakes(&text, &[(3, &["apps[0]: is text, but must be a mapping"])]);
}

/// MQTT gives the length of a string 16 bits.
#[test]
fn a_login_that_mqtt_cannot_carry_is_refused() {
    let long = "x".repeat(65_536);
    let username = in_mqtt(&format!("username: {long}"));
    assert_mistakes(&username, &[(3, &["mqtt.username: is longer than 65535 bytes"])]);
    let client_id = in_mqtt(&format!("client_id: {long}"));
    assert_mistakes(&client_id, &[(3, &["mqtt.client_id: is longer than 256 bytes"])]);
    let directory = Directory::new();
    let file = directory.write("password", &long);
    let password = in_mqtt(&format!("username: a\n  password_file: {}", file.display()));
    assert_mistakes(&password, &[(4, &["mqtt.password_file", "first line longer than 65535 bytes"])]);
}

/// Nothing is said to be missing or empty that is only wrong.
#[test]
fn a_section_of_the_wrong_type_is_one_mistake() {
    let text = format!("mqtt: {{url: mqtt://h}}\n{MANAGER}\napps: acme/api\n");
    assert_mistakes(&text, &[(3, &["apps: is text, but must be a list"])]);
    let text = format!("mqtt: mqtt://h\n{MANAGER}\napps: [{{repo: a/b, service: c}}]\n");
    assert_mistakes(&text, &[(1, &["mqtt: is text, but must be a mapping"])]);
}

impl Directory {
    /// The file outlives this.
    fn write_kept(self, name: &str, content: &str) -> KeptFile {
        let path = self.write(name, content);
        KeptFile { path, _directory: self }
    }
}

struct KeptFile {
    path: PathBuf,
    _directory: Directory,
}

impl std::ops::Deref for KeptFile {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

#[test]
fn durations_and_sizes_are_explained() {
    for (text, mistake) in [
        (in_mqtt("keep_alive: 30"), (3, &["mqtt.keep_alive: 30: a duration needs a unit, such as 30s"][..])),
        (in_mqtt("keep_alive: soon"), (3, &["mqtt.keep_alive: \"soon\" is no duration", "30s"])),
        (in_mqtt("keep_alive: -5s"), (3, &["mqtt.keep_alive: \"-5s\" is no duration"])),
        (in_mqtt("keep_alive: 1s"), (3, &["mqtt.keep_alive: 1s: must be from 5s to"])),
        (in_mqtt("keep_alive: 2days"), (3, &["mqtt.keep_alive: 2days: must be from 5s to"])),
        (in_mqtt("session_expiry: 0s"), (3, &["mqtt.session_expiry: 0s: must be from 1m"])),
        (in_mqtt("max_payload: lots"), (3, &["mqtt.max_payload: \"lots\" is no size", "32MiB"])),
        (in_mqtt("max_payload: 1GiB"), (3, &["mqtt.max_payload: ", "must be from", "to 128"])),
        (in_mqtt("max_payload: -1"), (3, &["mqtt.max_payload: -1 bytes: must be from", "to 128"])),
        (in_mqtt("max_payload: 5"), (3, &["mqtt.max_payload: 5 bytes: must be from"])),
        (beside_apps("stagger: 5"), (1, &["stagger: 5: a duration needs a unit"])),
        (beside_apps("stagger: 2d"), (1, &["stagger: 2d: must be from 0s to 1day"])),
        (app_with("settle: 1h"), (6, &["apps[0].settle: 1h: must be from 0s to 10m"])),
        (app_with("stop_timeout: 0s"), (6, &["apps[0].stop_timeout: 0s: must be from 1s to"])),
        (app_with("start_timeout: never"), (6, &["apps[0].start_timeout: \"never\" is no duration"])),
        (
            app_with("check: {command: [a], timeout: 0s}"),
            (6, &["apps[0].check.timeout: 0s: must be from 1s"]),
        ),
    ] {
        assert_mistakes(&text, &[mistake]);
    }
}

#[test]
fn urls_and_topics_are_explained() {
    let url = |url: &str| beside_apps("").replace("mqtt://localhost", &format!("\"{url}\""));
    for (bad, part) in [
        ("http://broker", "mqtt://HOST[:PORT] or mqtts://HOST[:PORT]"),
        ("broker:1883", "mqtt://HOST[:PORT]"),
        ("mqtt://broker/path", "no path"),
        ("mqtt://broker:0", "from 1 to 65535"),
        ("mqtt://broker:99999", "from 1 to 65535"),
        ("mqtt://bro ker", "no valid host"),
        ("mqtt://agent:hunter2@broker", "mqtt.username and mqtt.password_file"),
        ("http://agent:hunter2@broker", "mqtt://HOST[:PORT]"),
        ("mqtt://agent:hunter2#@broker/x?y", "mqtt."),
    ] {
        let text = url(bad);
        assert_mistakes(&text, &[(2, &["mqtt.url: ", part])]);
        let file = Directory::new().write_kept("config.yaml", &text);
        assert!(!complaints_about(&file, &[]).concat().contains("hunter2"), "{bad}");
    }
    for bad in ["github/#", "github/+", "a/+/github/+/+", "$share/x/github/+/+"] {
        assert_mistakes(&in_mqtt(&format!("topic: \"{bad}\"")), &[(3, &["mqtt.topic: ", "must"])]);
    }
    let protocol = ["mqtt.protocol: \"4\": must be \"5\" or \"3.1.1\""];
    assert_mistakes(&in_mqtt("protocol: 4"), &[(3, &protocol)]);
    let subscribe = ["mqtt.subscribe: \"all\": must be \"wildcard\" or \"exact\""];
    assert_mistakes(&in_mqtt("subscribe: all"), &[(3, &subscribe)]);
    let manager = format!("{}\n", beside_apps("").replace(MANAGER, "service_manager: openrc"));
    let allowed =
        ["service_manager: \"openrc\"", "\"auto\"", "\"systemd\"", "\"upstart\"", "stop, start and status"];
    assert_mistakes(&manager, &[(3, &allowed)]);
}

#[test]
fn names_are_explained() {
    for bad in ["acme", "acme/", "/api", "acme/api/x", "acme/a b", "acme/..", "https://github.com/acme/api"] {
        let text = in_app(&format!("repo: \"{bad}\"\nservice: api"));
        assert_mistakes(&text, &[(4, &["apps[0].repo: ", bad, "OWNER/NAME"])]);
    }
    let git = ["apps[0].repo: \"acme/api.git\"", "OWNER/NAME without .git"];
    assert_mistakes(&in_app("repo: acme/api.git\nservice: api"), &[(4, &git)]);
    for bad in ["-api", "../api", "a/b", "a b", "a;b", "$(id)", ".api", "api\u{e9}", "--help"] {
        let text = in_app(&format!("repo: acme/api\nservice: \"{bad}\""));
        assert_mistakes(&text, &[(5, &["apps[0].service: ", bad, "not a service name: letters, digits"])]);
    }
    for bad in ["-a", "a/b", "a b", ".a", &"a".repeat(101)] {
        assert_mistakes(
            &app_with(&format!("name: \"{bad}\"")),
            &[(6, &["apps[0].name: ", "letters, digits"])],
        );
        assert_mistakes(
            &beside_apps(&format!("environment: \"{bad}\"")),
            &[(1, &["environment: ", "letters, digits"])],
        );
    }
    for own in ["instance-agent", "instance-agent.service"] {
        let text = in_app(&format!("repo: acme/api\nservice: {own}"));
        assert_mistakes(&text, &[(5, &["apps[0].service: ", own, "the agent itself"])]);
    }
}

#[test]
fn apps_and_services_must_be_distinct_and_complete() {
    let head = format!("mqtt: {{url: mqtt://localhost}}\n{MANAGER}\n");
    let two = format!(
        "{head}apps:\n- {{repo: acme/api, service: api}}\n- {{repo: acme/web, services: [api, web]}}\n"
    );
    assert_mistakes(&two, &[(5, &["apps[1].name: \"api\"", "config.yaml:4", "set another"])]);
    let two =
        format!("{head}apps:\n- {{repo: a/b, service: c, name: x}}\n- {{repo: a/d, service: e, name: x}}\n");
    assert_mistakes(&two, &[(5, &["apps[1].name: \"x\"", "config.yaml:4"])]);
    let twice = in_app("repo: acme/api\nservices:\n- api\n- web\n- api.service");
    assert_mistakes(&twice, &[(8, &["apps[0].services: api.service is listed twice"])]);
    let both = in_app("repo: acme/api\nservice: api\nservices: [web]");
    assert_mistakes(&both, &[(5, &["apps[0].service: stands beside `services`", "keep one"])]);
    assert_mistakes(&in_app("service: api"), &[(4, &["apps[0].repo: is missing", "OWNER/NAME"])]);
    assert_mistakes(&in_app("repo: acme/api"), &[(4, &["apps[0].service: is missing"])]);
    assert_mistakes(&in_app("repo: acme/api\nservices: []"), &[(4, &["apps[0].services: is empty"])]);
    assert_mistakes(&format!("{head}apps: []\n"), &[(3, &["apps: is empty: list at least one app"])]);
}

#[test]
fn a_missing_section_is_named() {
    for (text, part) in [
        (
            format!("{MANAGER}\napps: [{{repo: a/b, service: c}}]\n"),
            "mqtt.url: is missing: the broker, as mqtts://HOST",
        ),
        (format!("mqtt: {{url: mqtt://h}}\n{MANAGER}\n"), "apps: is missing: list at least one app"),
    ] {
        let lines = complaints_about(&Directory::new().write_kept("config.yaml", &text), &[]);
        assert!(lines.len() == 1 && lines[0].contains(part), "{lines:?}");
        assert!(lines[0].contains("config.yaml"), "it does not say where it was looked for: {lines:?}");
    }
    let text = format!("{MANAGER}\nmqtt: {{keep_alive: 30s}}\napps: [{{repo: a/b, service: c}}]\n");
    assert_mistakes(&text, &[(2, &["mqtt.url: is missing"])]);
    let output = agent(&["check", "--broker", "mqtt://h"]);
    let missing = "command line (there is no configuration file): apps: is missing";
    assert!(errors(&output).starts_with(missing), "{output:?}");
    let output = agent(&["check", "--app", "a/b=c"]);
    let missing = "command line (there is no configuration file): mqtt.url: is missing";
    assert!(errors(&output).starts_with(missing), "{output:?}");
}

#[test]
fn branches_are_explained() {
    let map = ["apps[0].branch: is given per environment", "set `environment`"];
    assert_mistakes(&app_with("branch: {demo: demo}"), &[(6, &map)]);
    for bad in ["a b", "a..b", "refs heads", "a~1", "feature[1]", "-\\\\", "/a"] {
        let text = app_with(&format!("branch: \"{bad}\""));
        assert_mistakes(&text, &[(6, &["apps[0].branch: ", "can match no git ref", "release/*"])]);
    }
    for (bad, advice) in [
        ("refs/heads/main", "write main, not refs/heads/main"),
        ("!main", "must not begin with !"),
        ("{main,demo}", "write a list"),
        ("***", "too many stars"),
    ] {
        for key in ["branch", "tags"] {
            let mistake = [&format!("apps[0].{key}: {bad:?} ")[..], advice];
            assert_mistakes(&app_with(&format!("{key}: \"{bad}\"")), &[(6, &mistake)]);
        }
    }
    assert_mistakes(&app_with("branch: []"), &[(6, &["apps[0].branch: is empty"])]);
    assert_mistakes(&app_with("tags: []"), &[(6, &["apps[0].tags: is empty"])]);
    assert_mistakes(&app_with("branch: [[a]]"), &[(6, &["apps[0].branch: is a list, but must be text"])]);
    assert_mistakes(&app_with("branch: 5"), &[(6, &["apps[0].branch: is a number", "put it in quotes"])]);
    let empty = app_with("branch: {}").replace("apps:", "environment: demo\napps:");
    let file = Directory::new().write_kept("config.yaml", &empty);
    let output = agent(&["check", "--config", file.to_str().unwrap()]);
    assert!(words(&output).contains("Warning: no app is managed here"), "{output:?}");
}

#[test]
fn commands_are_lists() {
    let shell = ["apps[0].update.command: is text", "a list: the program and each argument, no shell line"];
    assert_mistakes(&app_with("update: {command: git pull}"), &[(6, &shell)]);
    assert_mistakes(
        &app_with("update: {command: []}"),
        &[(6, &["apps[0].update.command: names no program"])],
    );
    assert_mistakes(
        &app_with("update: {command: [\"\"]}"),
        &[(6, &["apps[0].update.command: names no program"])],
    );
    assert_mistakes(&app_with("update: {dir: /srv}"), &[(6, &["apps[0].update.command: is missing"])]);
    assert_mistakes(
        &app_with("update: {command: [a, [b]]}"),
        &[(6, &["apps[0].update.command[1]: is a list"])],
    );
    let user = ["apps[0].update.user: \"nobody-by-this-name\": no such user"];
    assert_mistakes(&app_with("update: {command: [a], user: nobody-by-this-name}"), &[(6, &user)]);
    // One that is looked up for one command is not taken for known by the next.
    let again = "{command: [a], user: nobody-by-this-name}";
    let check = ["apps[0].check.user: \"nobody-by-this-name\": no such user"];
    assert_mistakes(&app_with(&format!("update: {again}\ncheck: {again}")), &[(6, &user), (7, &check)]);
    let dir = ["apps[0].update.dir: here: must be an absolute path"];
    assert_mistakes(&app_with("update: {command: [a], dir: here}"), &[(6, &dir)]);
    let manager = |line: &str| beside_apps("").replace(MANAGER, &format!("service_manager: {{{line}}}"));
    assert_mistakes(
        &manager("name: x, stop: [a, \"{service}\"]"),
        &[
            (3, &["service_manager.start: is missing", "[rc-service, \"{service}\", stop]"]),
            (3, &["service_manager.status: is missing"]),
        ],
    );
    let service = "\"{service}\"";
    let text = manager(&format!("name: x, stop: [a], start: [a, {service}], status: [a, {service}]"));
    assert_mistakes(&text, &[(3, &["service_manager.stop: does not mention \"{service}\""])]);
    assert_mistakes(
        &text.replace("name: x, ", "").replace("stop: [a]", &format!("stop: [a, {service}]")),
        &[(3, &["service_manager.name: is missing"])],
    );
}

#[test]
fn files_and_their_neighbours_are_explained() {
    let missing = ["mqtt.password_file: /no/such/file: No such file"];
    assert_mistakes(&in_mqtt("username: a\n  password_file: /no/such/file"), &[(4, &missing)]);
    let directory = ["mqtt.password_file: /tmp: is a directory"];
    assert_mistakes(&in_mqtt("username: a\n  password_file: /tmp"), &[(4, &directory)]);
    let directory = certificates();
    let path = |name: &str| directory.0.path().join(name).display().to_string();
    let password = directory.write("password", "hunter2\n");
    let alone = ["mqtt.password_file: ", "mqtt.username"];
    assert_mistakes(&in_mqtt(&format!("password_file: {}", password.display())), &[(3, &alone)]);
    let key = ["mqtt.cert_file: needs mqtt.key_file"];
    assert_mistakes(&in_mqtt(&format!("cert_file: {}", path("cert.pem"))), &[(3, &key)]);
    let cert = ["mqtt.key_file: needs mqtt.cert_file"];
    assert_mistakes(&in_mqtt(&format!("key_file: {}", path("key.pem"))), &[(3, &cert)]);
    assert_mistakes(&in_mqtt("ca_file: ca.pem"), &[(3, &["mqtt.ca_file: ca.pem: must be an absolute path"])]);
    let plain = in_mqtt(&format!("ca_file: {}", path("cert.pem"))).replace("mqtts://", "mqtt://");
    assert_mistakes(&plain, &[(3, &["mqtt.ca_file: needs a broker with TLS", "mqtts://"])]);
    let plain = in_mqtt("alpn: x").replace("mqtts://", "mqtt://");
    assert_mistakes(&plain, &[(3, &["mqtt.alpn: needs a broker with TLS", "mqtts://"])]);
}

/// Two certificates that signed themselves, and their keys.
fn certificates() -> Directory {
    let directory = Directory::new();
    let script = "for prefix in '' other-; do \
                    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=x \
                      -keyout ${prefix}key.pem -out ${prefix}cert.pem || exit; \
                  done";
    let made = Command::new("sh").args(["-c", script]).current_dir(directory.0.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    directory
}

#[test]
fn files_that_no_connection_could_use_are_named() {
    let directory = certificates();
    let path = |name: &str| directory.0.path().join(name).display().to_string();
    let fifo = Command::new("mkfifo").arg(path("fifo")).status().unwrap();
    assert!(fifo.success());
    for (name, content) in [("empty", ""), ("blank", "\nhunter2\n"), ("words", "hunter2\n")] {
        directory.write(name, content);
    }
    let right = format!("cert_file: {}\n  key_file: {}", path("cert.pem"), path("key.pem"));
    let file = directory.write("right.yaml", in_mqtt(&format!("{right}\n  ca_file: {}", path("cert.pem"))));
    assert!(agent(&["check", "--config", file.to_str().unwrap()]).status.success());
    for (key, name, problem) in [
        ("password_file", "fifo", "is no regular file"),
        ("password_file", "empty", "has no password in its first line"),
        ("password_file", "blank", "has no password in its first line"),
        ("ca_file", "fifo", "is no regular file"),
        ("ca_file", "empty", "holds no certificate in PEM form"),
        ("ca_file", "words", "holds no certificate in PEM form"),
        ("ca_file", "key.pem", "holds no certificate in PEM form"),
    ] {
        let text = in_mqtt(&format!("{key}: {}\n  username: a", path(name)));
        assert_mistakes(&text, &[(3, &[&format!("mqtt.{key}: {}", path(name)), problem])]);
    }
    let wrong = |from: &str, to: &str| in_mqtt(&right.replace(&path(from), &path(to)));
    assert_mistakes(&wrong("cert.pem", "words"), &[(3, &["mqtt.cert_file: ", "words holds no certificate"])]);
    assert_mistakes(
        &wrong("key.pem", "cert.pem"),
        &[(4, &["mqtt.key_file: ", "cert.pem holds no private key"])],
    );
    let pair = ["mqtt.cert_file: ", "cannot be used with mqtt.key_file ", "other-key.pem"];
    assert_mistakes(&wrong("key.pem", "other-key.pem"), &[(3, &pair)]);
    let words = path("words");
    let mistake = format!("state_dir: {words}: is there already, but is no directory");
    assert_mistakes(&beside_apps(&format!("state_dir: {words}")), &[(1, &[&mistake])]);
    let mistake = format!("state_dir: {words}/state: lies below");
    assert_mistakes(&beside_apps(&format!("state_dir: {words}/state")), &[(1, &[&mistake])]);
}

#[test]
fn files_that_are_no_configuration_are_named() {
    let directory = Directory::new();
    let nested = format!("apps: {}\n", "[".repeat(100_000));
    let cases: [(&str, &[u8], &str); 8] = [
        ("binary", b"\x7fELF\x02\x01\x01\x00\x00\xff\xfe", "not UTF-8"),
        ("nul", b"mqtt:\n  url: \x00\n", "control character"),
        ("latin1", b"environment: gr\xf6\xdfe\n", "not UTF-8 text (byte 15)"),
        ("nested", nested.as_bytes(), "recursion limit"),
        ("list", b"- a\n", "must be a mapping with the keys mqtt, apps"),
        ("text", b"hello\n", "must be a mapping with the keys mqtt, apps"),
        ("empty", b"", "is empty: it was named by --config"),
        ("comments", b"# soon\n", "is empty: it was named by --config"),
    ];
    for (name, content, part) in cases {
        let path = directory.write(name, content);
        let lines = complaints_about(&path, &[]);
        assert_eq!(lines.len(), 1, "{name}: {lines:?}");
        assert!(lines[0].starts_with(path.to_str().unwrap()) && lines[0].contains(part), "{name}: {lines:?}");
    }
    for (path, part) in [
        (directory.0.path().join("missing"), "does not exist"),
        (directory.0.path().to_owned(), "irectory"),
        (PathBuf::from("/dev/zero"), "larger than 16 MiB"),
    ] {
        let lines = complaints_about(&path, &[]);
        assert!(lines.len() == 1 && lines[0].contains(part), "{lines:?}");
        assert!(lines[0].starts_with(path.to_str().unwrap()), "{lines:?}");
    }
}

#[test]
fn an_alias_bomb_is_refused() {
    let bomb = (0..9).fold("environment:\n- &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
        text + &format!("- &a{} [{}]\n", n + 1, vec![format!("*a{n}"); 10].join(", "))
    });
    assert_mistakes(
        &bomb,
        &[(6, &["the document is too large or too complex once its aliases are expanded"])],
    );
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_their_lines() {
    let text = "apps:\n- repo: acme\n  service: -x\n  settle: 5\n- repo: acme/web\n  service: web\n  retries: x\n\
                max_parallel: 0\nstagger: later\nmqtt:\n  url: http://x\n  keep_alive: 1s\n  protocol: 6\n";
    assert_mistakes(
        text,
        &[
            (2, &["apps[0].repo: "]),
            (3, &["apps[0].service: "]),
            (4, &["apps[0].settle: "]),
            (7, &["apps[1].retries: "]),
            (8, &["max_parallel: "]),
            (9, &["stagger: "]),
            (11, &["mqtt.url: "]),
            (12, &["mqtt.keep_alive: "]),
            (13, &["mqtt.protocol: "]),
        ],
    );
}

#[test]
fn mistakes_in_flags_name_the_flag() {
    let file = Directory::new().write_kept("config.yaml", &beside_apps(""));
    for (flags, parts) in [
        (
            &["--app", "acme/web=web", "--app", "acme/api"][..],
            &["--app: \"acme/api\" must be OWNER/REPO[@BRANCH]=SERVICE"][..],
        ),
        (&["--app", "acme=api"], &["--app: apps[0].repo: \"acme\"", "OWNER/NAME"]),
        (&["--app", "acme/api=-x"], &["--app: apps[0].service: \"-x\""]),
        (&["--app", "acme/api@a b=x"], &["--app: apps[0].branch: \"a b\""]),
        (&["--app", "acme/api=x", "--app", "acme/web=x"], &["--app: apps[1].name: \"x\""]),
        (&["--app", "acme/api@=x"], &["--app: apps[0].branch: "]),
        (&["--app", ""], &["--app: \"\" must be OWNER/REPO"]),
        (&["--broker", "http://x"], &["--broker: mqtt.url: must be mqtt://"]),
        (&["--environment", "a b"], &["--environment: environment: \"a b\""]),
    ] {
        let lines = complaints_about(&file, flags);
        assert_eq!(lines.len(), 1, "{flags:?} {lines:?}");
        assert!(parts.iter().all(|part| lines[0].contains(part)), "{flags:?} {lines:?}");
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &[][..],
        &["walk"],
        &["run", "--nonsense"],
        &["run", "extra"],
        &["run", "--config"],
        &["run", "--log-format", "xml"],
        &["run", "--log-level", "loud"],
        &["check", "--message", "file"],
        &["check", "--topic", "github/a/b"],
        &["check", "--message", "-", "--topic", "t", "--header", "no colon"],
    ] {
        let output = agent(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?} {output:?}");
        assert!(errors(&output).contains("Usage") || errors(&output).contains("--help"), "{output:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"], &["check", "--help"]] {
        let output = agent(arguments);
        assert!(output.status.success() && !output.stdout.is_empty(), "{output:?}");
    }
    assert!(!words(&agent(&["--help"])).contains("exec-as"));
}

#[test]
fn check_says_where_each_setting_comes_from() {
    let directory = Directory::new();
    let password = directory.write("password", "hunter2\n");
    let text = format!(
        "mqtt:\n  url: mqtt://localhost\n  username: agent\n  password_file: {}\n{MANAGER}\nenvironment: demo\n\
         apps:\n- repo: acme/api\n  service: api\n  branch: {{demo: [demo, \"demo/*\"], production: main}}\n\
         - {{repo: acme/web, service: web, update: {{command: [x]}}}}\n",
        password.display()
    );
    let path = directory.write("config.yaml", text);
    let config = path.to_str().unwrap();
    let output = agent(&["check", "--config", config, "--environment", "production"]);
    assert!(output.status.success(), "{output:?}");
    let text = words(&output);
    let shown = |key: &str, value: &str, source: &str| {
        let fits = |line: &str| {
            let mut words = line.split_whitespace();
            words.next() == Some(key) && line.contains(value) && line.ends_with(source)
        };
        assert!(text.lines().any(fits), "{key} {value} {source} is missing:\n{text}");
    };
    let line = |number: usize| format!("{config}:{number}");
    shown("mqtt.url", "mqtt://localhost", &line(2));
    shown("mqtt.password_file", "password", &line(4));
    shown("mqtt.protocol", "5", "default");
    shown("mqtt.client_id", "instance-agent-", "default");
    shown("max_parallel", "4", "default");
    shown("state_dir", "/var/lib/instance-agent", "default");
    shown("environment", "production", "--environment");
    shown("service_manager.name", "none", &line(5));
    shown("apps[0].repo", "acme/api", &line(8));
    shown("apps[0].service", "api", &line(9));
    shown("apps[0].name", "api", "default");
    shown("apps[0].branch.demo", "demo/*", &line(10));
    for key in [
        "mqtt.topic",
        "mqtt.subscribe",
        "mqtt.keep_alive",
        "mqtt.session_expiry",
        "mqtt.max_payload",
        "stagger",
    ] {
        shown(key, "", "default");
    }
    // Every setting is shown, given or not.
    for key in ["apps[0].settle", "apps[0].retries"] {
        shown(key, "", "default");
    }
    for (key, value) in [
        ("apps[0].settle", "2s"),
        ("apps[0].stop_timeout", "the unit's own, plus 10s"),
        ("apps[0].start_timeout", "the unit's own, plus 10s"),
        ("apps[0].tags", "none"),
        ("apps[0].update", "none"),
        ("apps[1].update.user", "the agent's own"),
        ("apps[1].update.dir", "the user's home"),
        ("apps[1].update.timeout", "10m"),
        ("on_outcome", "none"),
    ] {
        shown(key, value, "default");
    }
    let bare = directory.write("bare.yaml", beside_apps(""));
    let bare = words(&agent(&["check", "--config", bare.to_str().unwrap()]));
    for key in ["environment", "mqtt.username", "mqtt.password_file"] {
        let told = |line: &str| line.split_whitespace().eq([key, "none", "default"]);
        assert!(bare.lines().any(told), "{key} is missing:\n{bare}");
    }
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("Service manager: none") && text.contains("api: running"), "{text}");
}

/// The keys in the tables of `docs/configuration.md` about the instance, those of `mqtt` with their section.
fn documented() -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let docs = fs::read_to_string(docs).unwrap();
    let keys_below = |heading: &str, section: &str| -> Vec<String> {
        let lines = docs.lines().skip_while(|line| *line != heading).skip(1);
        let rows =
            lines.take_while(|line| !line.starts_with('#')).filter_map(|line| line.strip_prefix("| `"));
        let keys = rows.flat_map(|row| row.split('|').next().unwrap().split(['`', ',', ' ']));
        keys.filter(|key| !key.is_empty()).map(|key| format!("{section}{key}")).collect()
    };
    [keys_below("## mqtt", "mqtt."), keys_below("## The instance", "")].concat()
}

#[test]
fn check_shows_every_setting_that_is_documented() {
    let documented = documented();
    assert!(documented.len() > 20, "{documented:?}");
    for url in ["mqtt://localhost", "mqtts://localhost"] {
        let file =
            Directory::new().write_kept("config.yaml", &beside_apps("").replace("mqtt://localhost", url));
        let text = words(&agent(&["check", "--config", file.path.to_str().unwrap()]));
        for key in &documented {
            let is_shown = text.lines().any(|line| line.starts_with(key.as_str()));
            assert!(is_shown || key == "apps", "{key} is missing:\n{text}");
        }
    }
}

#[test]
fn check_says_what_is_wrong_with_services() {
    let text = beside_apps("").replace("status: [\"true\"", "status: [/no/such/program");
    let file = Directory::new().write_kept("config.yaml", &text);
    let output = agent(&["check", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told = |line: &str| line.starts_with("api: ") && line.contains("cannot run `/no/such/program api`");
    assert!(words(&output).lines().any(told), "{output:?}");
}

const APPS: &str = "
environment: demo
apps:
- {name: exact, repo: acme/api, service: s1, branch: main}
- {name: glob, repo: acme/api, service: s2, branch: \"release/*\"}
- {name: default, repo: acme/api, service: s3}
- {name: tags, repo: acme/api, service: s4, tags: \"v*\"}
- {name: here, repo: acme/api, service: s5, branch: {demo: demo, production: main}}
- {name: elsewhere, repo: acme/api, service: s6, branch: {production: main}}
";

/// What `check --message` answers: its exit code and its words.
fn answer(topic: &str, payload: &[u8], headers: &[&str]) -> (i32, String) {
    let text = format!("mqtt: {{url: mqtt://localhost}}\n{MANAGER}\n{APPS}");
    let file = Directory::new().write_kept("config.yaml", &text);
    let mut arguments = vec!["check", "--config", file.to_str().unwrap(), "--topic", topic, "--message", "-"];
    for header in headers {
        arguments.extend(["--header", header]);
    }
    let output = agent_given(&arguments, payload);
    assert!(output.stderr.is_empty(), "{output:?}");
    (output.status.code().unwrap(), words(&output))
}

/// The apps that the message deploys, and those that it does not.
fn verdicts(payload: &[u8], headers: &[&str]) -> (Vec<String>, Vec<String>) {
    let (code, text) = answer("github/acme/api", payload, headers);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("A push of "), "{text}");
    let names = |part: &str| {
        let named = text.lines().filter(|line| line.contains(part));
        named.map(|line| line.split(':').next().unwrap().to_owned()).collect()
    };
    (names(": deployed"), names(": not deployed"))
}

fn deployed_by(payload: &[u8]) -> Vec<String> {
    let (deployed, others) = verdicts(payload, &[]);
    assert_eq!(deployed.len() + others.len(), 5, "one app is not managed here");
    deployed
}

#[test]
fn a_message_deploys_by_branch_and_tag() {
    let push = Push::new("acme/api", 'a');
    for (push, expected) in [
        (push.clone(), &["exact", "default"][..]),
        (push.clone().to("main-2"), &[]),
        (push.clone().to("Main"), &[]),
        (push.clone().to("release/1"), &["glob"]),
        (push.clone().to("release/1/2"), &[]),
        (push.clone().to("demo"), &["here"]),
        (push.clone().tag("v1"), &["tags"]),
        (push.clone().tag("main"), &[]),
        (Push { git_ref: "refs/pull/1/head".to_owned(), ..push.clone() }, &[]),
        (Push { default_branch: Some("trunk".to_owned()), ..push.clone() }.to("trunk"), &["default"]),
        (Push { default_branch: Some("trunk".to_owned()), ..push.clone() }, &["exact"]),
        (Push { default_branch: None, ..push.clone() }, &["exact"]),
    ] {
        assert_eq!(deployed_by(&push.bytes()), expected, "{push:?}");
    }
    let (_, text) = answer("github/acme/api", &Push { default_branch: None, ..push.clone() }.bytes(), &[]);
    assert!(text.contains("default: not deployed") && text.contains("set `branch`"), "{text}");
    let mut old = push.json();
    old["repository"].as_object_mut().unwrap().remove("default_branch");
    assert_eq!(deployed_by(old.to_string().as_bytes()), ["exact", "default"], "by master_branch");
}

#[test]
fn what_the_agent_does_not_read_is_explained_all_the_same() {
    let mut cut_short = Push::new("acme/api", 'a').to("main-2").bytes();
    cut_short.truncate(cut_short.len() - 10);
    let (code, text) = answer("github/acme/api", &cut_short, &[]);
    let ignored = "Ignored: no app follows refs/heads/main-2. To another ref it would be rejected: ";
    assert!(code == 0 && text.starts_with(ignored) && text.contains("cut short"), "{text}");
}

#[test]
fn names_of_repositories_and_headers_have_no_case() {
    let push = Push::new("ACME/Api", 'a').bytes();
    let (code, text) = answer("github/Acme/API", &push, &["x-github-EVENT: push"]);
    assert!(code == 0 && text.contains("exact: deployed"), "{text}");
    let (code, text) = answer("github/Acme/API", &push, &["x-github-EVENT: issues"]);
    assert!(code == 0 && text.contains("X-GitHub-Event is not push"), "{text}");
}

#[test]
fn deletions_and_other_events_deploy_nothing() {
    let push = Push::new("acme/api", 'a');
    for gone in [Push { deleted: true, ..push.clone() }, Push { after: commit('0'), ..push.clone() }] {
        let (code, text) = answer("github/acme/api", &gone.bytes(), &[]);
        assert!(code == 0 && text.contains("Ignored: the ref was deleted"), "{text}");
    }
    for (payload, headers, part) in [
        (push.bytes(), &["X-GitHub-Event: workflow_run"][..], "X-GitHub-Event is not push"),
        (b"{\"zen\":\"Design for failure.\"}".to_vec(), &[], "not a push"),
        (Vec::new(), &[], "the payload is empty"),
    ] {
        let (code, text) = answer("github/acme/api", &payload, headers);
        assert!(code == 0 && text.starts_with("Ignored: ") && text.contains(part), "{text}");
    }
    for topic in ["gitlab/acme/api", "github/acme", "github/acme/api/x", "GitHub/acme/api"] {
        let (code, text) = answer(topic, b"junk", &[]);
        let told = "Not received: the topic does not fit mqtt.topic, which is github/+/+.";
        assert!(code == 0 && text.starts_with(told), "{text}");
    }
    let (code, text) = answer("github/acme/other", b"junk", &[]);
    assert!(code == 0 && text.contains("no app here is of the repository"), "{text}");
}

#[test]
fn messages_that_contradict_themselves_are_rejected() {
    let push = Push::new("acme/api", 'a');
    let number = |key: &str, value: Value| {
        let mut json = push.json();
        json[key] = value;
        json.to_string().into_bytes()
    };
    for (payload, headers, part) in [
        (Push::new("acme/web", 'a').bytes(), &[][..], "the payload is for acme/web, the topic for acme/api"),
        (b"junk".to_vec(), &[], "not the JSON object of a push"),
        (b"[1]".to_vec(), &[], "no object"),
        (push.bytes()[..2000].to_vec(), &[], "cut short"),
        (number("after", json!(5)), &[], "wrong type"),
        (number("after", json!("abc")), &[], "after: not a commit"),
        (number("before", json!("abc")), &[], "before: not a commit"),
        (number("ref", json!("main")), &[], "ref: not a full git ref"),
        (number("ref", json!("refs/heads/a\nb")), &[], "ref: not a full git ref"),
        (push.bytes(), &["X-GitHub-Delivery: 1", "X-GitHub-Delivery: 2"], "came twice"),
    ] {
        let (code, text) = answer("github/acme/api", &payload, headers);
        assert!(code == 1 && text.starts_with("Rejected: ") && text.contains(part), "{part}: {code} {text}");
    }
}

#[test]
fn all_shapes_of_a_push_are_known() {
    let push = Push::new("acme/api", 'a');
    let body = push.json().to_string();
    let form: String = form_urlencoded::Serializer::new(String::new()).append_pair("payload", &body).finish();
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &body);
    let headers =
        json!({"x-github-event": "push", "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"});
    for payload in [
        body.clone(),
        form.clone(),
        json!({"headers": headers, "body": body}).to_string(),
        json!({"headers": headers, "body": form}).to_string(),
        json!({"headers": {}, "body_base64": base64}).to_string(),
        format!("\n{body}\n"),
    ] {
        assert_eq!(deployed_by(payload.as_bytes()), ["exact", "default"], "{payload:.60}");
    }
    // 2012 had no default branch to say.
    assert_eq!(deployed_by(push.json_of_2012().to_string().as_bytes()), ["exact"]);

    let envelope = json!({"headers": {"X-GitHub-Event": "issues"}, "body": body}).to_string();
    let (code, text) = answer("github/acme/api", envelope.as_bytes(), &[]);
    assert!(code == 0 && text.contains("X-GitHub-Event is not push"), "{text}");
    let inner = json!({"headers": {}, "body": body}).to_string();
    for bad in [
        json!({"headers": {}, "body": inner}),
        json!({"headers": {}, "body": body, "body_base64": base64}),
        json!({"headers": {}, "body_base64": "not base64!"}),
        json!({"headers": {}}),
        json!({"body": body}),
    ] {
        let (code, text) = answer("github/acme/api", bad.to_string().as_bytes(), &[]);
        assert!(code == 1 && text.contains("the envelope must hold"), "{text}");
    }
}

#[test]
fn exact_subscriptions_know_one_spelling() {
    let text = beside_apps("").replace("localhost}", "localhost, subscribe: exact}");
    let file = Directory::new().write_kept("config.yaml", &text);
    let push = Push::new("acme/api", 'a').bytes();
    let told = |topic: &str| {
        let config = file.to_str().unwrap();
        words(&agent_given(&["check", "--config", config, "--topic", topic, "--message", "-"], &push))
    };
    assert!(told("github/acme/api").contains("api: deployed"));
    let text = told("github/Acme/API");
    assert!(text.starts_with("Not received: ") && text.contains("github/acme/api."), "{text}");
    assert!(told("github/acme/other").starts_with("Ignored: no app here"));
}

/// Neither is a reason to panic.
#[test]
fn a_reader_that_leaves_and_a_full_disk_are_borne() {
    let file = Directory::new().write_kept("config.yaml", &beside_apps(""));
    let state = tempfile::tempdir().unwrap();
    let state = state.path().to_str().unwrap();
    let config = ["--config", file.to_str().unwrap()];
    let message = ["--topic", "github/acme/other", "--message", "/dev/null"];
    for arguments in [
        [&["check"], &config[..]].concat(),
        [&["check"], &config[..], &message].concat(),
        vec!["status", "--state-dir", state],
    ] {
        let output = |stdout: Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_instance-agent"));
            command.args(&arguments).stdin(Stdio::null()).stdout(stdout).output().unwrap()
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let left = output(writer.into());
        assert!(left.status.code() == Some(0) && left.stderr.is_empty(), "{arguments:?} {left:?}");
        let full = output(fs::File::create("/dev/full").unwrap().into());
        assert_eq!(full.status.code(), Some(1), "{arguments:?} {full:?}");
        assert!(errors(&full).starts_with("instance-agent: No space left"), "{arguments:?} {full:?}");
    }
}

/// systemd says by `$JOURNAL_STREAM` which file the journal listens on.
#[test]
fn the_journal_gets_priorities_and_no_times() {
    let directory = Directory::new();
    let file = directory.write("config.yaml", "mqtt: {url: mqtt://localhost}\n");
    let log = fs::File::create(directory.0.path().join("log")).unwrap();
    let facts = log.metadata().unwrap();
    let run = |stream: String| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_instance-agent"));
        command.args(["run", "--config", file.to_str().unwrap()]);
        command.env_clear().env("AWS_EC2_METADATA_DISABLED", "true").env("JOURNAL_STREAM", stream);
        command.stderr(log.try_clone().unwrap()).status().unwrap();
        fs::read_to_string(directory.0.path().join("log")).unwrap()
    };
    let text = run(format!("{}:{}", facts.dev(), facts.ino()));
    assert!(text.starts_with("<3>invalid configuration: ") && text.lines().count() == 1, "{text}");
    let text = run(format!("{}:{}", facts.dev(), facts.ino() + 1));
    let elsewhere = text.lines().nth(1).unwrap();
    assert!(elsewhere.starts_with("20") && elsewhere.contains("ERROR invalid configuration"), "{text}");
}

/// Each look waits for the others, so one after the other none would end.
#[test]
fn services_are_looked_at_side_by_side() {
    let meeting = tempfile::tempdir().unwrap();
    let meet = "touch $0/$1; until [ $(ls $0 | wc -l) -ge 4 ]; do sleep 0.05; done";
    let status = format!("status: [sh, -c, \"{meet}\", {}, \"{{service}}\"]", meeting.path().display());
    let text = beside_apps("")
        .replace("status: [\"true\", \"{service}\"]", &status)
        .replace("service: api", "services: [a, b, c, d, e, f, g, h, i, j]");
    let file = Directory::new().write_kept("config.yaml", &text);
    let output = agent(&["check", "--config", file.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    let order: Vec<_> =
        words(&output).lines().filter_map(|it| it.strip_suffix(": running").map(str::to_owned)).collect();
    assert_eq!(order.concat(), "abcdefghij");
}

#[test]
fn a_host_without_a_service_manager_is_a_mistake_of_the_configuration() {
    let text = beside_apps("").replace(MANAGER, "");
    let file = Directory::new().write_kept("config.yaml", &text);
    let output = agent(&["check", "--config", file.to_str().unwrap()]);
    // Where systemd runs, it is found, and does not know the service.
    let code = if Path::new("/run/systemd/system").is_dir() { 1 } else { 78 };
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

#[test]
fn a_message_may_be_a_file() {
    let directory = Directory::new();
    let config = directory.write("config.yaml", beside_apps(""));
    let message = directory.write("push.json", Push::new("acme/api", 'a').bytes());
    let run = |message: &Path| {
        let (config, message) = (config.to_str().unwrap(), message.to_str().unwrap());
        agent(&["check", "--config", config, "--topic", "github/acme/api", "--message", message])
    };
    let output = run(&message);
    assert!(output.status.success() && words(&output).contains("api: deployed"), "{output:?}");
    let output = run(Path::new("/no/such/push.json"));
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("/no/such/push.json: No such file"), "{output:?}");
}
