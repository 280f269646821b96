//! The code against a real systemd, booted in a container. The test that boots it runs this very program again inside,
//! where the ignored tests are the cases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

#[path = "systemd/agent.rs"]
mod agent;
#[path = "support/container.rs"]
mod container;
#[path = "systemd/deploys.rs"]
mod deploys;
#[path = "systemd/relay.rs"]
mod relay;
#[path = "systemd/transient.rs"]
mod transient;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use container::Container;
use instance_agent::command::Mark;
use instance_agent::service::{
    DetectionRoot, Limits, ManagerChoice, ServiceError, ServiceManager as _, ServiceName, Status, Systemd,
    Trace, detect,
};

/// Only the container has this file.
const INSIDE: &str = "/run/instance-agent-test";

#[test]
fn cases_in_a_container() {
    let skipped = ["--test-threads=8", "--skip", "relay::", "--skip", "case_reloading_"];
    run_inside(&[Path::new(transient::HELPER)], &skipped);
}

/// Not beside the others, nor each other: they have systemd read all units again, and in that moment it may forget a
/// transient unit that failed, and the starts that a case counts.
#[test]
fn cases_that_reload_in_a_container() {
    run_inside(&[Path::new(transient::HELPER)], &["--test-threads=1", "case_reloading_"]);
}

/// Not beside the others for the same reason.
#[test]
fn the_relay_in_a_container() {
    run_inside(&[Path::new(transient::HELPER), Path::new(relay::EXAMPLE)], &["relay::"]);
}

/// Runs the cases that these arguments choose; `visible` is what they need of the host's.
fn run_inside(visible: &[&Path], chosen: &[&str]) {
    let program = std::env::current_exe().unwrap();
    let container = Container::boot(&[&[program.as_path()], visible].concat());
    fs::write(container.path(INSIDE), "").unwrap();
    let path = program.to_str().unwrap();
    let output = container.command(path).arg("--ignored").args(chosen).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "cases failed inside the container: {}", output.status);
    assert!(said.contains("case_") && !said.contains(" 0 passed"), "no cases ran inside the container");
}

/// Writes a unit under a name that no other case uses: systemd finds new files by itself.
fn unit(name: &str, content: &str) -> ServiceName {
    must_be_inside();
    let file = if name.contains('.') { name.to_owned() } else { format!("{name}.service") };
    fs::write(Path::new("/etc/systemd/system").join(file), content).unwrap();
    name.parse().unwrap()
}

/// The cases stop and start units: never those of the host.
fn must_be_inside() {
    assert!(Path::new(INSIDE).exists(), "this case runs in the container that cases_in_a_container boots");
}

fn systemctl(arguments: &[&str]) {
    must_be_inside();
    assert!(Command::new("systemctl").arg("--quiet").args(arguments).status().unwrap().success());
}

async fn status(service: &ServiceName) -> Status {
    Systemd::new().status(service).await.unwrap()
}

async fn start(service: &ServiceName) {
    Systemd::new().start(service, &[], &Trace::unnoted(&Mark::random())).await.unwrap();
}

async fn incarnation(service: &ServiceName) -> String {
    match status(service).await {
        Status::Running { incarnation: Some(id) } => id,
        other => panic!("{service} is {other:?}"),
    }
}

/// Looks until the status is as it should be.
async fn wait_for(service: &ServiceName, wanted: impl Fn(&Status) -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let now = status(service).await;
        if wanted(&now) {
            return;
        }
        assert!(Instant::now() < end, "{service} stays {now:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn failed(why: &str) -> Status {
    Status::Failed(why.to_owned())
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_systemd_is_detected() {
    must_be_inside();
    let manager = detect(&ManagerChoice::Auto, &DetectionRoot::default()).await.unwrap();
    assert_eq!(manager.name(), "systemd");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_simple_unit_starts_and_stops() {
    let api = unit("simple", "[Service]\nExecStart=sleep infinity\n");
    assert_eq!(status(&api).await, Status::Stopped);
    Systemd::new().stop(&api, &Trace::unnoted(&Mark::random())).await.unwrap();
    start(&api).await;
    let first = incarnation(&api).await;
    start(&api).await;
    assert_eq!(incarnation(&api).await, first, "a start of what runs is none");
    let mark = Mark::random();
    Systemd::new().start_anew(&api, &[], &Trace::unnoted(&mark)).await.unwrap();
    assert_ne!(incarnation(&api).await, first, "others have started it");
    let first = incarnation(&api).await;
    Systemd::new().stop(&api, &Trace::unnoted(&Mark::random())).await.unwrap();
    assert_eq!(status(&api).await, Status::Stopped);
    start(&api).await;
    assert_ne!(incarnation(&api).await, first);
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_oneshot_unit_completes() {
    let once = unit("once", "[Service]\nType=oneshot\nExecStart=true\n");
    let systemd = Systemd::new();
    assert_eq!(systemd.status(&once).await.unwrap(), Status::Stopped);
    systemd.start(&once, &[], &Trace::unnoted(&Mark::random())).await.unwrap();
    assert_eq!(systemd.status(&once).await.unwrap(), Status::Completed { remains: false });
    assert_eq!(status(&once).await, Status::Stopped, "systemd itself forgets a unit that nothing refers to");
    systemd.stop(&once, &Trace::unnoted(&Mark::random())).await.unwrap();
    assert_eq!(systemd.status(&once).await.unwrap(), Status::Stopped);
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_reloading_systemd_remembers_an_enabled_oneshot_unit() {
    let install = "[Install]\nWantedBy=basic.target\n";
    let once = unit("enabled-once", &format!("[Service]\nType=oneshot\nExecStart=true\n{install}"));
    systemctl(&["enable", "enabled-once"]);
    assert_eq!(status(&once).await, Status::Stopped);
    start(&once).await;
    assert_eq!(status(&once).await, Status::Completed { remains: false });
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_oneshot_unit_that_remains_is_completed_until_it_is_stopped() {
    let once = unit("remains", "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\n");
    let systemd = Systemd::new();
    systemd.start(&once, &[], &Trace::unnoted(&Mark::random())).await.unwrap();
    assert_eq!(systemd.status(&once).await.unwrap(), Status::Completed { remains: true });
    systemctl(&["stop", "remains"]);
    assert_eq!(systemd.status(&once).await.unwrap(), Status::Stopped);
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_unit_that_fails_to_start_says_why() {
    let bad = unit("bad", "[Service]\nType=exec\nExecStart=/no/such/program\n");
    let error =
        Systemd::new().start(&bad, &[], &Trace::unnoted(&Mark::random())).await.unwrap_err().to_string();
    assert!(
        error.starts_with("`systemctl start -- bad` failed (exit status: 1): Job for bad.service"),
        "{error}"
    );
    assert!(error.ends_with("Result=exit-code, ExecMainStatus=203"), "{error}");
    assert_eq!(status(&bad).await, failed("Result=exit-code, ExecMainStatus=203"));
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_unit_that_fails_later_is_failed() {
    let exits = unit("exits", "[Service]\nExecStart=sh -c 'exit 3'\n");
    start(&exits).await;
    wait_for(&exits, |status| *status == failed("Result=exit-code, ExecMainStatus=3")).await;
    let crashes = unit("crashes", "[Service]\nExecStart=sh -c 'kill -KILL $$$$'\n");
    start(&crashes).await;
    wait_for(&crashes, |status| *status == failed("Result=signal, killed by signal 9")).await;
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_unit_that_dies_every_second_changes_its_incarnation() {
    let limits = "[Unit]\nStartLimitIntervalSec=0\n";
    let dies =
        unit("dies", &format!("{limits}[Service]\nExecStart=sleep 1\nRestart=always\nRestartSec=50ms\n"));
    start(&dies).await;
    let first = incarnation(&dies).await;
    wait_for(&dies, |status| matches!(status, Status::Running { incarnation: Some(id) } if *id != first))
        .await;
    Systemd::new().stop(&dies, &Trace::unnoted(&Mark::random())).await.unwrap();
    assert_eq!(status(&dies).await, Status::Stopped);
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_unit_that_waits_to_be_restarted_is_starting() {
    let waits = unit("waits", "[Service]\nExecStart=false\nRestart=always\nRestartSec=1h\n");
    start(&waits).await;
    wait_for(&waits, |status| *status == Status::Starting).await;
    Systemd::new().stop(&waits, &Trace::unnoted(&Mark::random())).await.unwrap();
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_reloading_a_masked_unit_cannot_be_started() {
    must_be_inside();
    let masked: ServiceName = "masked".parse().unwrap();
    systemctl(&["mask", "masked.service"]);
    assert_eq!(status(&masked).await, failed("masked: `systemctl unmask` it"));
    Systemd::new().stop(&masked, &Trace::unnoted(&Mark::random())).await.unwrap();
    let error =
        Systemd::new().start(&masked, &[], &Trace::unnoted(&Mark::random())).await.unwrap_err().to_string();
    assert!(error.contains("Unit masked.service is masked."), "{error}");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_an_unknown_unit_is_not_found() {
    must_be_inside();
    for name in ["unknown", "unknown.service", "unknown@x", "a\\x2db"] {
        let unknown: ServiceName = name.parse().unwrap();
        assert_eq!(status(&unknown).await, Status::NotFound);
        for error in [
            Systemd::new().stop(&unknown, &Trace::unnoted(&Mark::random())).await.unwrap_err(),
            Systemd::new().start(&unknown, &[], &Trace::unnoted(&Mark::random())).await.unwrap_err(),
        ] {
            assert!(matches!(error, ServiceError::NotFound { .. }), "{error}");
        }
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_missing_dependency_is_not_taken_for_the_unit() {
    let needs = unit("needs", "[Unit]\nRequires=missing.service\n[Service]\nExecStart=sleep infinity\n");
    let error =
        Systemd::new().start(&needs, &[], &Trace::unnoted(&Mark::random())).await.unwrap_err().to_string();
    assert!(error.contains("Unit missing.service not found."), "{error}");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_an_instance_of_a_template_is_a_unit_and_the_template_is_none() {
    let template = unit("worker@.service", "[Service]\nExecStart=sleep infinity\n");
    let instance: ServiceName = "worker@1".parse().unwrap();
    start(&instance).await;
    incarnation(&instance).await;
    let error =
        Systemd::new().start(&template, &[], &Trace::unnoted(&Mark::random())).await.unwrap_err().to_string();
    assert!(error.contains("worker@.service is missing the instance name"), "{error}");
    assert!(Systemd::new().status(&template).await.is_err());
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_limits_are_the_units_own() {
    let limits = "TimeoutStopSec=infinity\nTimeoutStartSec=90.5s\n";
    let patient = unit("patient", &format!("[Service]\nExecStart=sleep infinity\n{limits}"));
    let expected = Limits { stop: None, start: Some(Duration::from_millis(90_500)) };
    assert_eq!(Systemd::new().limits(&patient).await.unwrap(), expected);
    let commands = "ExecStartPre=true\nExecStartPre=true\nExecStop=true\nTimeoutSec=5s\n";
    let busy = unit("busy", &format!("[Service]\nExecStart=sleep infinity\n{commands}"));
    let [stop, start] = [10, 15].map(|seconds| Some(Duration::from_secs(seconds)));
    assert_eq!(Systemd::new().limits(&busy).await.unwrap(), Limits { stop, start });
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_broken_unit_file_is_told() {
    let broken = unit("broken", "[Service]\nType=banana\n");
    let Status::Failed(why) = status(&broken).await else { panic!("not failed") };
    assert!(why.contains("broken.service has a bad unit file setting"), "{why}");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_unit_that_remains_without_its_process_has_ended() {
    let remains = unit("remains-only", "[Service]\nRemainAfterExit=yes\nExecStart=true\n");
    start(&remains).await;
    wait_for(&remains, |status| *status == Status::Ended).await;
}

/// In a unit such as systemd makes for it when it reads all units again.
#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_whether_an_init_script_has_a_daemon_is_not_clear() {
    must_be_inside();
    let daemon = "case $1 in start) sh -c 'until test -e /run/old-may-end; do sleep 0.05; done' & ;; esac";
    fs::write("/etc/init.d/old", format!("#!/bin/sh\n{daemon}\n")).unwrap();
    let generated = "[Unit]\nSourcePath=/etc/init.d/old\n[Service]\nType=forking\nGuessMainPID=no\n\
                     RemainAfterExit=yes\nKillMode=process\nExecStart=sh /etc/init.d/old start\n";
    let old = unit("old", generated);
    start(&old).await;
    incarnation(&old).await;
    fs::write("/run/old-may-end", "").unwrap();
    wait_for(&old, |status| *status == Status::Unclear).await;
}

/// As a socket or a monitor would, which knows nothing of the update.
#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_reloading_what_others_started_in_vain_since_the_stop_is_started() {
    const CODE: &str = "/run/updated-code";
    let command = format!("/bin/sh -c 'test -e {CODE} && exec sleep infinity'");
    let updated =
        unit("updated", &format!("[Service]\nExecStart={command}\n[Install]\nWantedBy=basic.target\n"));
    systemctl(&["enable", "updated"]);
    fs::write(CODE, "").unwrap();
    let (systemd, mark) = (Systemd::new(), Mark::random());
    let trace = Trace::unnoted(&mark);
    systemd.start(&updated, &[], &trace).await.unwrap();
    systemd.stop(&updated, &trace).await.unwrap();
    fs::remove_file(CODE).unwrap();
    let start = || Command::new("systemctl").args(["start", "updated"]).status().unwrap().success();
    for _ in 0..5 {
        start();
    }
    fs::write(CODE, "").unwrap();
    assert!(!start(), "no limit to test");
    systemd.start(&updated, &[], &trace).await.unwrap();
    incarnation(&updated).await;
}

/// Enabled, because systemd forgets the starts of a unit that nothing refers to.
#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_reloading_the_start_limit_does_not_leave_the_sixth_start_down() {
    let often = unit("often", "[Service]\nExecStart=sleep infinity\n[Install]\nWantedBy=basic.target\n");
    systemctl(&["enable", "often"]);
    for _ in 0..5 {
        systemctl(&["start", "often"]);
        systemctl(&["stop", "often"]);
    }
    assert!(
        !Command::new("systemctl").args(["start", "often"]).status().unwrap().success(),
        "no limit to test"
    );
    assert_eq!(status(&often).await, failed("Result=start-limit-hit"));
    let (systemd, mark) = (Systemd::new(), Mark::random());
    let trace = Trace::unnoted(&mark);
    for _ in 0..7 {
        systemd.start(&often, &[], &trace).await.unwrap();
        systemd.stop(&often, &trace).await.unwrap();
    }
    systemd.start(&often, &[], &trace).await.unwrap();
    incarnation(&often).await;
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_dropped_stop_goes_on_in_systemd() {
    let wait = "until test -e /run/slow-may-stop; do sleep 0.05; done";
    let slow = unit("slow", &format!("[Service]\nExecStart=sleep infinity\nExecStop=sh -c '{wait}'\n"));
    start(&slow).await;
    let (systemd, mark) = (Systemd::new(), Mark::random());
    let trace = Trace::unnoted(&mark);
    tokio::select! {
        stopped = systemd.stop(&slow, &trace) => panic!("{stopped:?}, but it may not stop yet"),
        () = wait_for(&slow, |status| *status == Status::Stopped) => {}
    }
    let answer = Command::new("systemctl").args(["show", "--property=ActiveState", "slow"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "ActiveState=deactivating\n");
    fs::write("/run/slow-may-stop", "").unwrap();
    systemd.stop(&slow, &Trace::unnoted(&Mark::random())).await.unwrap();
    systemd.start(&slow, &[], &Trace::unnoted(&Mark::random())).await.unwrap();
    incarnation(&slow).await;
}
