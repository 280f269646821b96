//! Mistakes in keys and values.

use crate::{
    Directory, MANAGER, agent, app_with, assert_mistakes, beside_apps, complaints_about, errors, in_app,
    in_mqtt, words,
};

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
        (
            app_with("update: {command: [sh, \"\\0\"]}"),
            (6, &["apps[0].update.command[1]: holds control characters"]),
        ),
        (in_mqtt("alpn: \"\""), (3, &["mqtt.alpn: is empty"])),
        (in_app("repo: [acme/api]\nservice: api"), (4, &["apps[0].repo: is a list, but must be text"])),
        (in_app("repo: acme/api\nservice: [api]"), (5, &["apps[0].service: is a list, but must be text"])),
    ] {
        assert_mistakes(&text, &[mistake]);
    }
    let text = format!("mqtt: {{url: mqtt://h}}\n{MANAGER}\napps: [acme/api]\n");
    assert_mistakes(&text, &[(3, &["apps[0]: is text, but must be a mapping"])]);
}

/// As a template leaves it that was filled in with nothing: what it protects must not be left open in silence.
#[test]
fn a_key_without_a_value_is_a_mistake() {
    let empty = "is empty, but must be ";
    for key in ["webhook_secret_file", "max_push_age", "state_dir", "environment", "stagger", "max_parallel"]
    {
        assert_mistakes(&beside_apps(&format!("{key}:")), &[(1, &[key, "is empty, but"])]);
    }
    for key in ["ca_file", "username", "client_id", "protocol", "keep_alive", "alpn"] {
        assert_mistakes(&in_mqtt(&format!("{key}:")), &[(3, &[&format!("mqtt.{key}: {empty}")])]);
    }
    for key in ["branch", "tags", "prepare", "update", "check", "name", "settle", "retries"] {
        assert_mistakes(
            &app_with(&format!("{key}: ~")),
            &[(6, &[&format!("apps[0].{key}: is empty, but ")])],
        );
    }
    assert_mistakes(
        &beside_apps("on_outcome: {command: [x], user: }"),
        &[(1, &["on_outcome.user: ", empty])],
    );
    let text = format!("mqtt:\n{MANAGER}\napps:\n");
    assert_mistakes(
        &text,
        &[(1, &["mqtt: is empty, but must be a mapping"]), (3, &["apps: is empty, but must be a list"])],
    );
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

#[test]
fn durations_and_sizes_are_explained() {
    for (text, mistake) in [
        (in_mqtt("keep_alive: 30"), (3, &["mqtt.keep_alive: 30: a duration needs a unit, such as 30s"][..])),
        (in_mqtt("keep_alive: soon"), (3, &["mqtt.keep_alive: \"soon\" is no duration", "30s"])),
        (in_mqtt("keep_alive: -5s"), (3, &["mqtt.keep_alive: \"-5s\" is no duration"])),
        (in_mqtt("keep_alive: 1s"), (3, &["mqtt.keep_alive: 1s: must be from 5s to"])),
        (beside_apps("max_push_age: 400d"), (1, &["max_push_age: 400d: must be from 1m to 365d"])),
        (
            beside_apps("max_push_age: 5M"),
            (1, &["max_push_age: \"5M\": M is no fixed time", "5m for minutes"]),
        ),
        (in_mqtt("session_expiry: 1 month"), (3, &["mqtt.session_expiry: ", "month is no fixed time"])),
        (in_mqtt("keep_alive: true"), (3, &["mqtt.keep_alive: is true or false, but must be a duration"])),
        (in_mqtt("max_payload: true"), (3, &["mqtt.max_payload: is true or false, but must be a size"])),
        (in_mqtt("keep_alive: 2days"), (3, &["mqtt.keep_alive: 2days: must be from 5s to"])),
        (in_mqtt("session_expiry: 0s"), (3, &["mqtt.session_expiry: 0s: must be from 1m"])),
        (in_mqtt("max_payload: lots"), (3, &["mqtt.max_payload: \"lots\" is no size", "32MiB"])),
        (in_mqtt("max_payload: 1GiB"), (3, &["mqtt.max_payload: ", "must be from", "to 128"])),
        (in_mqtt("max_payload: -1"), (3, &["mqtt.max_payload: -1 bytes: must be from", "to 128"])),
        (in_mqtt("max_payload: 5"), (3, &["mqtt.max_payload: 5 bytes: must be from"])),
        (beside_apps("stagger: 5"), (1, &["stagger: 5: a duration needs a unit"])),
        (beside_apps("stagger: 2d"), (1, &["stagger: 2d: must be from 0s to 1d"])),
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
