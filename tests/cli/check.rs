//! `check` without a message.

use std::fs;
use std::path::Path;

use crate::{Directory, MANAGER, agent, app_with, beside_apps, words};

#[test]
fn check_says_where_each_setting_comes_from() {
    let directory = Directory::new();
    let password = directory.write("password", "hunter2\n");
    let text = format!(
        "mqtt:\n  url: mqtt://localhost\n  username: agent\n  password_file: {}\n{MANAGER}\nenvironment: demo\n\
         apps:\n- repo: acme/api\n  service: api\n  branch: {{demo: [demo, \"demo/*\"], production: main}}\n\
         - {{repo: acme/web, service: web, update: {{command: [x]}}}}\n\
         on_outcome: {{command: [x]}}\n",
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
        ("on_outcome.timeout", "30s"),
    ] {
        shown(key, value, "default");
    }
    let bare = directory.write("bare.yaml", beside_apps(""));
    let bare = words(&agent(&["check", "--config", bare.to_str().unwrap()]));
    for key in ["environment", "mqtt.username", "mqtt.password_file", "on_outcome"] {
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

/// It would be seen only once the services are stopped.
#[test]
fn check_doubts_commands_that_cannot_run_now() {
    let directory = Directory::new();
    let plain = directory.write("plain", "").display().to_string();
    for (command, doubt) in [
        ("command: [/no/such/program]".to_owned(), "/no/such/program: No such file"),
        (format!("command: [{plain}]"), "plain: is not executable"),
        ("command: [/etc]".to_owned(), "/etc: is no file"),
        ("command: [\"git pull\"]".to_owned(), "each argument is an item of its own"),
        ("command: [sh], dir: /no/such/directory".to_owned(), "/no/such/directory: No such file"),
        (format!("command: [sh], dir: {plain}"), "plain: is no directory"),
    ] {
        let text = format!("on_outcome: {{{command}}}\n{}", app_with(&format!("update: {{{command}}}")));
        let path = directory.write("config.yaml", text);
        let output = agent(&["check", "--config", path.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        let text = words(&output);
        for whose in ["Warning: update of api: ", "Warning: on_outcome: "] {
            let told = text.lines().any(|line| line.starts_with(whose) && line.contains(doubt));
            assert!(told, "{whose}{doubt} is missing:\n{text}");
        }
    }
    let right = directory.write("config.yaml", app_with("update: {command: [sh, -c, \"true\"], dir: /}"));
    let text = words(&agent(&["check", "--config", right.to_str().unwrap()]));
    assert!(!text.contains("Warning"), "{text}");
}
