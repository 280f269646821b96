//! The whole agent as a unit of the real systemd, beside a real mosquitto: a push restarts a real unit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::transient::HELPER;
use super::{incarnation, must_be_inside, start, systemctl, unit};

const PORT: &str = "18831";
const PATIENCE: Duration = Duration::from_secs(60);
const COMMIT: &str = "7fd1a60b01f91b314f59955a4e4d4e80d8edf11d";

/// Killed when dropped.
pub(super) struct Broker(pub(super) Child);

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(super) fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}: {}", journal());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn journal() -> String {
    let output =
        Command::new("systemctl").args(["status", "--no-pager", "agent-under-test"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
        + &fs::read_to_string("/run/agent-under-test.log").unwrap_or_default()
}

fn status_says(state: &str) -> bool {
    let output =
        Command::new(HELPER).args(["status", "--json", "--state-dir", "/var/lib/agent-under-test"]).output();
    String::from_utf8_lossy(&output.unwrap().stdout).contains(&format!("\"state\": \"{state}\""))
}

/// What the update writes: who it is, in which unit, and what it is told.
const UPDATE: &str =
    "id -un > /tmp/updated; cat /proc/self/cgroup >> /tmp/updated; echo $GITHUB_SHA >> /tmp/updated";

fn configure() -> PathBuf {
    let file = Path::new("/etc/agent-under-test.yaml");
    let text = format!(
        "mqtt: {{url: \"mqtt://127.0.0.1:{PORT}\"}}\n\
         state_dir: /var/lib/agent-under-test\n\
         apps:\n\
         - repo: octocat/hello\n\
         \x20 service: agent-app\n\
         \x20 branch: main\n\
         \x20 settle: 100ms\n\
         \x20 update: {{command: [sh, -c, \"{UPDATE}\"], user: nobody, dir: /tmp}}\n"
    );
    fs::write(file, text).unwrap();
    file.to_owned()
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_the_agent_restarts_a_unit_for_a_push() {
    must_be_inside();
    let _broker = Broker(Command::new("mosquitto").args(["-p", PORT]).spawn().unwrap());
    let app = unit(
        "agent-app",
        "[Service]\nEnvironmentFile=-/var/lib/agent-under-test/env/agent-app.env\n\
         ExecStart=/bin/sh -c 'echo \"$GITHUB_SHA\" > /run/agent-app.sha; exec sleep 1000'\n",
    );
    start(&app).await;
    let before = incarnation(&app).await;
    let file = configure();
    unit(
        "agent-under-test",
        &format!(
            "[Service]\nType=notify\nExecStart={HELPER} run --config {}\n\
             StandardError=file:/run/agent-under-test.log\n",
            file.display()
        ),
    );
    // Returns when the agent is ready, or fails.
    systemctl(&["start", "agent-under-test"]);
    let payload = format!(
        r#"{{"ref":"refs/heads/main","after":"{COMMIT}","repository":{{"full_name":"octocat/hello"}}}}"#
    );
    // Retained, so that it arrives whenever the agent has subscribed.
    let publish = ["-p", PORT, "-q", "1", "-r", "-t", "github/octocat/hello", "-m", &payload];
    until("published", || Command::new("mosquitto_pub").args(publish).status().unwrap().success());
    until("deployed", || status_says("deployed"));
    assert_ne!(incarnation(&app).await, before, "{}", journal());
    assert_eq!(fs::read_to_string("/run/agent-app.sha").unwrap().trim(), COMMIT);
    let updated = fs::read_to_string("/tmp/updated").unwrap();
    assert!(updated.starts_with("nobody\n") && updated.ends_with(&format!("{COMMIT}\n")), "{updated}");
    assert!(updated.contains("/instance-agent-update-agent-app.service"), "{updated}");
    systemctl(&["stop", "agent-under-test"]);
    assert!(fs::read_to_string("/run/agent-under-test.log").unwrap().contains("stopped"));
}
