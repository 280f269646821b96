//! Deploys by the whole agent of units that others need, or that others start.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use instance_agent::service::{ServiceName, Status};

use super::agent::Broker;
use super::transient::HELPER;
use super::{must_be_inside, start, systemctl, unit, wait_for};

const PATIENCE: Duration = Duration::from_secs(60);
const COMMIT: &str = "7fd1a60b01f91b314f59955a4e4d4e80d8edf11d";
const SLEEPS: &str = "[Service]\nExecStart=sleep infinity\n";

/// An agent that deploys one app; its units and files bear the name of the app.
struct Host {
    app: &'static str,
    port: u16,
    broker: Option<Broker>,
}

impl Host {
    /// `settings` are those of the app beside its repository and branch.
    fn new(app: &'static str, port: u16, settings: &str) -> Self {
        must_be_inside();
        let broker = Command::new("mosquitto").args(["-p", &port.to_string()]).spawn().unwrap();
        let host = Self { app, port, broker: Some(Broker(broker)) };
        host.configure(settings);
        let run = format!("{HELPER} run --config /etc/{app}.yaml");
        unit(
            &host.agent(),
            &format!("[Service]\nType=notify\nExecStart={run}\nStandardError=append:/run/{app}.log\n"),
        );
        host
    }

    fn configure(&self, settings: &str) {
        let Self { app, port, .. } = self;
        let text = format!(
            "mqtt: {{url: \"mqtt://127.0.0.1:{port}\"}}\nstate_dir: /var/lib/{app}\n\
             apps: [{{repo: octocat/hello, name: {app}, branch: main, settle: 100ms, {settings}}}]\n"
        );
        fs::write(format!("/etc/{app}.yaml"), text).unwrap();
    }

    fn agent(&self) -> String {
        format!("{}-agent", self.app)
    }

    fn log(&self) -> String {
        fs::read_to_string(format!("/run/{}.log", self.app)).unwrap_or_default()
    }

    fn until(&self, what: &str, holds: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds() {
            assert!(Instant::now() < end, "{what}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Retained, so that it arrives whenever the agent has subscribed.
    fn push(&self, commit: &str) {
        let payload = format!(
            r#"{{"ref":"refs/heads/main","after":"{commit}","repository":{{"full_name":"octocat/hello"}}}}"#
        );
        let port = self.port.to_string();
        let publish = ["-p", &port, "-q", "1", "-r", "-t", "github/octocat/hello", "-m", &payload];
        self.until("published", || Command::new("mosquitto_pub").args(publish).status().unwrap().success());
    }

    fn status(&self) -> String {
        let state_dir = format!("/var/lib/{}", self.app);
        let said = Command::new(HELPER).args(["status", "--json", "--state-dir", &state_dir]).output();
        String::from_utf8_lossy(&said.unwrap().stdout).into_owned()
    }

    fn ends(&self, state: &str, commit: &str) {
        let over = |status: &str| {
            let ended =
                ["deployed", "failed"].iter().any(|it| status.contains(&format!("\"state\": \"{it}\"")));
            ended && status.contains(commit)
        };
        self.until("an outcome", || over(&self.status()));
        let status = self.status();
        assert!(status.contains(&format!("\"state\": \"{state}\"")), "{status}\n{}", self.log());
    }

    async fn kill(&self) {
        systemctl(&["kill", "--signal=KILL", "--kill-who=main", &self.agent()]);
        wait_for(&self.agent().parse().unwrap(), |status| matches!(status, Status::Failed(_))).await;
    }

    /// Starts the agent with a configuration that is no longer valid.
    fn only_recovers(&self) {
        self.configure("services: []");
        assert!(!Command::new("systemctl").args(["start", &self.agent()]).status().unwrap().success());
    }

    /// Has the agent deploy a first push.
    fn deploys(&self, state: &str) {
        systemctl(&["start", &self.agent()]);
        self.push(COMMIT);
        self.ends(state, COMMIT);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("systemctl").args(["stop", &self.agent()]).status();
        self.broker.take();
    }
}

fn is_active(unit: &str) -> bool {
    Command::new("systemctl").args(["is-active", "--quiet", unit]).status().unwrap().success()
}

/// Three ways to need a service, one that needs it through another, a target, and one that nobody had started.
#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_what_stops_with_a_service_is_started_again() {
    let hello = unit("needed", SLEEPS);
    for (name, how) in [
        ("needs-requires", "Requires=needed.service"),
        ("needs-binds", "BindsTo=needed.service"),
        ("needs-part", "PartOf=needed.service"),
        ("needs-indirectly", "Requires=needs-part.service\nAfter=needs-part.service"),
        ("needs-target.target", "Requires=needs-binds.service\nWants=needs-wanted.service"),
        ("needs-idle", "Requires=needed.service"),
    ] {
        let service = if name.ends_with(".target") { "" } else { SLEEPS };
        unit(name, &format!("[Unit]\nAfter=needed.service\n{how}\n{service}"));
    }
    unit("needs-wanted", SLEEPS);
    start(&hello).await;
    let needing = ["needs-requires", "needs-binds", "needs-part", "needs-indirectly", "needs-target.target"];
    for unit in needing {
        systemctl(&["start", unit]);
    }
    systemctl(&["stop", "needs-wanted"]);
    let host = Host::new("needed-app", 18841, "service: needed");
    host.deploys("deployed");
    for unit in needing {
        host.until(unit, || is_active(unit));
        let said = host.log();
        let line = said.lines().find(|line| line.contains("brought up again") && line.contains(unit));
        assert!(line.is_some_and(|line| line.contains("INFO")), "{unit}: {said}");
    }
    assert!(!is_active("needs-idle"), "nobody had started it");
    assert!(!is_active("needs-wanted"), "somebody had stopped it");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_what_does_not_start_again_is_a_failure_and_started_by_the_next_deploy() {
    let hello = unit("leaned-on", SLEEPS);
    let runs = "Type=exec\nExecStartPre=test ! -e /run/leans-fails\nExecStart=sleep infinity\n";
    let leans = unit(
        "leans",
        &format!("[Unit]\nRequires=leaned-on.service\nAfter=leaned-on.service\n[Service]\n{runs}"),
    );
    start(&hello).await;
    start(&leans).await;
    fs::write("/run/leans-fails", "").unwrap();
    let host = Host::new("leaned-on-app", 18842, "service: leaned-on");
    host.deploys("failed");
    let history = Command::new(HELPER).args(["history", "--state-dir", "/var/lib/leaned-on-app"]).output();
    let history = String::from_utf8(history.unwrap().stdout).unwrap();
    assert!(history.contains("start") && history.contains("leans.service"), "{history}");
    assert!(is_active("leaned-on"));
    fs::remove_file("/run/leans-fails").unwrap();
    let next = COMMIT.replace('7', "8");
    host.push(&next);
    host.ends("deployed", &next);
    assert!(is_active("leans"), "{}", host.log());
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_what_stopped_with_a_service_is_started_after_a_kill() {
    let hello = unit("struck", SLEEPS);
    let beside = unit(
        "beside",
        "[Unit]\nBindsTo=struck.service\nAfter=struck.service\n[Service]\nExecStart=sleep infinity\n",
    );
    start(&hello).await;
    start(&beside).await;
    let update = "update: {command: [sh, -c, \"touch /run/struck-update; exec sleep infinity\"]}";
    let host = Host::new("struck-app", 18843, &format!("service: struck, {update}"));
    systemctl(&["start", &host.agent()]);
    host.push(COMMIT);
    host.until("the update", || Path::new("/run/struck-update").exists());
    assert!(!is_active("struck") && !is_active("beside"));
    host.kill().await;
    host.only_recovers();
    host.until("services", || is_active("struck") && is_active("beside"));
}

/// A start would do nothing to it.
#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_daemon_that_died_is_started_after_a_kill_although_its_unit_remains() {
    let forks = "ExecStart=sh -c 'sleep infinity & echo $$! > /run/mortal.pid'\n";
    let mortal = unit("mortal", &format!("[Service]\nType=forking\nRemainAfterExit=yes\n{forks}"));
    start(&mortal).await;
    let check = "check: {command: [sh, -c, \"touch /run/mortal-check; exec sleep infinity\"]}";
    let host = Host::new("mortal-app", 18848, &format!("service: mortal, {check}"));
    systemctl(&["start", &host.agent()]);
    host.push(COMMIT);
    host.until("the check", || Path::new("/run/mortal-check").exists());
    host.kill().await;
    let process = fs::read_to_string("/run/mortal.pid").unwrap();
    assert!(Command::new("kill").arg(process.trim()).status().unwrap().success());
    wait_for(&mortal, |status| *status == Status::Ended).await;
    host.only_recovers();
    wait_for(&mortal, |status| matches!(status, Status::Running { .. })).await;
}

const SOCKET: &str = "[Socket]\nListenStream=127.0.0.1:";

/// A service that keeps the code that it was started with, and its socket on this port.
fn activated(name: &str, port: u16) -> ServiceName {
    unit(&format!("{name}.socket"), &format!("{SOCKET}{port}\n"));
    fs::write(format!("/run/{name}.code"), "old").unwrap();
    let keeps = format!("/bin/sh -c 'cat /run/{name}.code > /run/{name}.running; exec sleep infinity'");
    let service = unit(name, &format!("[Service]\nType=exec\nExecStart={keeps}\n"));
    systemctl(&["start", &format!("{name}.socket")]);
    service
}

/// An update in the course of which somebody connects, and after which nobody need have.
fn update(name: &str, port: u16) -> String {
    let connect = format!("(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null || true");
    let script = format!("{connect}; sleep 0.3; echo -n new > /run/{name}.code");
    format!("update: {{command: [bash, -c, \"{script}\"]}}")
}

fn running(name: &str) -> String {
    fs::read_to_string(format!("/run/{name}.running")).unwrap()
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_what_a_socket_starts_in_mid_update_does_not_keep_the_old_code() {
    let service = activated("socketed", 18851);
    start(&service).await;
    let host = Host::new("socketed-app", 18844, &format!("service: socketed, {}", update("socketed", 18851)));
    host.deploys("deployed");
    host.until("the code", || running("socketed") == "new");
    assert!(host.log().contains("socketed.socket"), "systemctl names it: {}", host.log());
}

/// The first one is restarted; others may have been started by the first.
#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_second_service_does_not_keep_the_old_code_either_and_is_started_once() {
    let service = activated("second", 18853);
    let counts = "ExecStartPre=/bin/sh -c 'echo once >> /run/pulled.starts'\nExecStart=sleep infinity\n";
    let pulled = unit("pulled", &format!("[Service]\n{counts}"));
    let first = unit("first", &format!("[Unit]\nWants=pulled.service\n{SLEEPS}"));
    for service in [&service, &pulled, &first] {
        start(service).await;
    }
    fs::remove_file("/run/pulled.starts").unwrap();
    let services = "services: [first, pulled, second]";
    let host = Host::new("second-app", 18849, &format!("{services}, {}", update("second", 18853)));
    host.deploys("deployed");
    host.until("the code", || running("second") == "new");
    assert!(host.log().contains("stopping it again"), "{}", host.log());
    assert_eq!(fs::read_to_string("/run/pulled.starts").unwrap(), "once\n");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_socket_that_is_listed_first_keeps_others_out() {
    let service = activated("guarded", 18852);
    start(&service).await;
    let services = "services: [guarded.socket, guarded]";
    let host = Host::new("guarded-app", 18845, &format!("{services}, {}", update("guarded", 18852)));
    host.deploys("deployed");
    host.until("the code", || running("guarded") == "new");
    assert!(is_active("guarded.socket"));
    let said = host.log();
    assert!(!said.contains("stopping it again") && !said.contains("systemctl warns"), "{said}");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_unit_file_that_was_not_read_again_is_warned_of() {
    unit("changed", SLEEPS);
    // systemd forgets a unit that is down and that nothing refers to, and reads its file again.
    let refers = unit("refers", &format!("[Unit]\nWants=changed.service\n{SLEEPS}"));
    start(&refers).await;
    let update = "update: {command: [sh, -c, \"echo '# new' >> /etc/systemd/system/changed.service\"]}";
    let host = Host::new("changed-app", 18846, &format!("service: changed, {update}"));
    host.deploys("deployed");
    let said = host.log();
    let warning = said.lines().find(|line| line.contains("changed on disk"));
    assert!(warning.is_some_and(|line| line.contains("WARN") && line.contains("daemon-reload")), "{said}");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_daemon_that_died_is_no_success_because_its_unit_remains() {
    // One that forks leaves nothing to wait for: it has ended when its start has.
    let remains = unit("outlived", "[Service]\nType=forking\nRemainAfterExit=yes\nExecStart=true\n");
    start(&remains).await;
    let host = Host::new("outlived-app", 18847, "service: outlived");
    host.deploys("failed");
    assert!(host.log().contains("its process ended"), "{}", host.log());
}
