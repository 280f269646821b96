//! Service managers against stand-ins for the programs that they call; tests/systemd.rs has the real systemd.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use instance_agent::command::Mark;
use instance_agent::service::{
    CustomManager, DetectionRoot, Limits, ManagerChoice, ServiceError, ServiceManager, ServiceName, Status,
    Systemd, Template, Trace, Upstart, detect,
};
use tempfile::TempDir;

fn service(name: &str) -> ServiceName {
    name.parse().unwrap()
}

fn environment() -> Vec<(String, String)> {
    vec![("GITHUB_SHA".into(), "abc".into()), ("GITHUB_REF_NAME".into(), "a b;c'd".into())]
}

fn running(incarnation: &str) -> Status {
    Status::Running { incarnation: Some(incarnation.to_owned()) }
}

/// A host of upstart with the jobs `api` and `worker`, both down.
struct UpstartHost {
    directory: TempDir,
    upstart: Upstart,
}

impl UpstartHost {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let initctl = directory.path().join("initctl");
        symlink(stand_in("initctl"), &initctl).unwrap();
        fs::create_dir(directory.path().join("jobs")).unwrap();
        let host = Self { directory, upstart: Upstart::with_program(initctl.to_str().unwrap()) };
        host.write("api", "");
        host.write("worker", "");
        host
    }

    fn write(&self, file: &str, content: &str) {
        fs::write(self.directory.path().join("jobs").join(file), content).unwrap();
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.directory.path().join("jobs").join(file)).unwrap()
    }
}

fn stand_in(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stand-ins").join(name)
}

#[tokio::test]
async fn upstart_starts_stops_and_looks_at_a_job() {
    let host = UpstartHost::new();
    let api = service("api");
    assert_eq!(host.upstart.status(&api).await.unwrap(), Status::Stopped);
    host.upstart.start(&api, &environment(), &Trace::unnoted(&Mark::random())).await.unwrap();
    assert_eq!(host.upstart.status(&api).await.unwrap(), running(host.read("api").trim()));
    host.upstart.stop(&api, &Trace::unnoted(&Mark::random())).await.unwrap();
    assert_eq!(host.upstart.status(&api).await.unwrap(), Status::Stopped);
    assert_eq!(host.upstart.limits(&api).await.unwrap(), Limits::default());
}

#[tokio::test]
async fn upstart_hands_the_environment_to_the_job_untouched_by_a_shell() {
    let host = UpstartHost::new();
    host.upstart.start(&service("api"), &environment(), &Trace::unnoted(&Mark::random())).await.unwrap();
    assert_eq!(host.read("api.environment"), "GITHUB_SHA=abc\nGITHUB_REF_NAME=a b;c'd\n");
}

#[tokio::test]
async fn upstart_takes_what_is_so_already_for_no_failure() {
    let host = UpstartHost::new();
    host.upstart.stop(&service("api"), &Trace::unnoted(&Mark::random())).await.unwrap();
    host.write("api", "77\n");
    host.upstart.start(&service("api"), &[], &Trace::unnoted(&Mark::random())).await.unwrap();
    assert_eq!(host.upstart.status(&service("api")).await.unwrap(), running("77"));
}

#[tokio::test]
async fn upstart_tells_an_unknown_job_from_one_that_fails() {
    let host = UpstartHost::new();
    let nope = service("nope");
    assert_eq!(host.upstart.status(&nope).await.unwrap(), Status::NotFound);
    let error = host.upstart.stop(&nope, &Trace::unnoted(&Mark::random())).await.unwrap_err();
    assert!(matches!(error, ServiceError::NotFound { .. }), "{error}");
    let error = host.upstart.start(&nope, &[], &Trace::unnoted(&Mark::random())).await.unwrap_err();
    assert_eq!(error.to_string(), "upstart knows no service nope: check its name, and that it is installed");
    host.write("api.fails", "");
    let error = host
        .upstart
        .start(&service("api"), &[], &Trace::unnoted(&Mark::random()))
        .await
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("start api` failed (exit status: 1): initctl: Job failed to start"), "{error}");
}

#[tokio::test]
async fn upstart_sees_a_job_on_its_way_up_and_refuses_nonsense() {
    let host = UpstartHost::new();
    host.write("api.answer", "api start/pre-start, process 1234\n");
    assert_eq!(host.upstart.status(&service("api")).await.unwrap(), Status::Starting);
    host.write("api.answer", "hello\n");
    let error = host.upstart.status(&service("api")).await.unwrap_err();
    assert!(matches!(&error, ServiceError::Answer { answer, .. } if answer == "hello"), "{error}");
}

/// Commands that keep a service as a file in `directory`.
fn files(directory: &Path) -> CustomManager {
    let template = |script: &str| {
        let words = ["sh", "-ec", script, "sh", directory.to_str().unwrap(), "--name={service}"];
        Template::new(words.map(str::to_owned).to_vec()).unwrap()
    };
    CustomManager {
        name: "files".to_owned(),
        stop: template("rm -f \"$1/$2\""),
        start: template("echo \"$GITHUB_SHA $GITHUB_REF_NAME\" > \"$1/$2\""),
        status: template("test -e \"$1/$2\""),
    }
}

#[tokio::test]
async fn commands_of_the_configuration_start_stop_and_look_at_a_service() {
    let directory = tempfile::tempdir().unwrap();
    let manager = files(directory.path());
    let api = service("api");
    assert_eq!(manager.name(), "files");
    assert_eq!(manager.status(&api).await.unwrap(), Status::Stopped);
    manager.start(&api, &environment(), &Trace::unnoted(&Mark::random())).await.unwrap();
    assert_eq!(manager.status(&api).await.unwrap(), Status::Running { incarnation: None });
    assert_eq!(fs::read_to_string(directory.path().join("--name=api")).unwrap(), "abc a b;c'd\n");
    manager.stop(&api, &Trace::unnoted(&Mark::random())).await.unwrap();
    manager.stop(&api, &Trace::unnoted(&Mark::random())).await.unwrap();
    assert_eq!(manager.status(&api).await.unwrap(), Status::Stopped);
    assert_eq!(manager.limits(&api).await.unwrap(), Limits::default());
}

#[tokio::test]
async fn a_command_of_the_configuration_fails_with_its_last_words() {
    let directory = tempfile::tempdir().unwrap();
    let manager = files(&directory.path().join("missing"));
    let error =
        manager.start(&service("api"), &[], &Trace::unnoted(&Mark::random())).await.unwrap_err().to_string();
    assert!(error.contains("--name=api` failed (exit status: ") && error.contains("missing"), "{error}");
}

#[tokio::test]
async fn a_status_command_that_was_killed_has_not_answered() {
    let words = ["sh", "-c", "kill -KILL $$", "{service}"].map(str::to_owned).to_vec();
    let killed = Template::new(words).unwrap();
    let manager = CustomManager { status: killed, ..files(Path::new("/")) };
    let error = manager.status(&service("api")).await.unwrap_err().to_string();
    assert!(error.contains("signal: 9"), "{error}");
}

/// A program that ignores its arguments and prints `output`. Not a script written here: executing what another thread
/// of this process has just written fails now and then, with "text file busy".
fn program(directory: &Path, name: &str, output: &str, code: u8) -> String {
    let path = directory.join(name);
    let _ = fs::remove_file(&path);
    symlink(stand_in("says"), &path).unwrap();
    fs::write(directory.join(format!("{name}.output")), output).unwrap();
    fs::write(directory.join(format!("{name}.code")), code.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn systemctl_that_answers_nonsense_or_not_at_all_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let systemd = Systemd::with_program(program(directory.path(), "systemctl", "hello", 0));
    let error = systemd.status(&service("api")).await.unwrap_err().to_string();
    assert!(error.ends_with("-- api` answered what is not understood: hello"), "{error}");
    let refusal = "Failed to connect to bus: No such file or directory";
    let systemd = Systemd::with_program(program(directory.path(), "refuses", refusal, 1));
    let error =
        systemd.stop(&service("api"), &Trace::unnoted(&Mark::random())).await.unwrap_err().to_string();
    assert!(error.ends_with(&format!("refuses stop -- api` failed (exit status: 1): {refusal}")), "{error}");
    let error = Systemd::with_program("/no/systemctl")
        .start(&service("api"), &[], &Trace::unnoted(&Mark::random()))
        .await
        .unwrap_err();
    assert!(matches!(error, ServiceError::Spawn { .. }), "{error}");
}

fn host(directory: &Path) -> DetectionRoot {
    DetectionRoot {
        systemd_dir: directory.join("systemd"),
        initctl: directory.join("initctl").to_str().unwrap().to_owned(),
        ..DetectionRoot::default()
    }
}

#[tokio::test]
async fn systemd_is_found_by_its_directory() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("systemd")).unwrap();
    let manager = detect(&ManagerChoice::Auto, &host(directory.path())).await.unwrap();
    assert_eq!(manager.name(), "systemd");
}

#[tokio::test]
async fn a_link_in_place_of_systemds_directory_does_not_count() {
    let directory = tempfile::tempdir().unwrap();
    symlink("/", directory.path().join("systemd")).unwrap();
    assert!(detect(&ManagerChoice::Auto, &host(directory.path())).await.is_err());
}

#[tokio::test]
async fn upstart_is_found_by_what_init_says() {
    let directory = tempfile::tempdir().unwrap();
    symlink(stand_in("initctl"), directory.path().join("initctl")).unwrap();
    let manager = detect(&ManagerChoice::Auto, &host(directory.path())).await.unwrap();
    assert_eq!(manager.name(), "upstart");
}

#[tokio::test]
async fn where_nothing_is_found_the_error_says_what_was_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let root = host(directory.path());
    let cases = [
        (None, "cannot be run"),
        // What Docker images had in its place.
        (Some(("", 0)), "says nothing"),
        (
            Some(("initctl: Unable to connect to Upstart", 1)),
            "says \"initctl: Unable to connect to Upstart\"",
        ),
    ];
    for (initctl, says) in cases {
        if let Some((output, code)) = initctl {
            program(directory.path(), "initctl", output, code);
        }
        let error = detect(&ManagerChoice::Auto, &root).await.err().unwrap().to_string();
        let systemd = format!("{} is no directory", root.systemd_dir.display());
        for part in [&systemd, &format!("`{} version` {says}", root.initctl), "set `service_manager`"] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
}

#[tokio::test]
async fn a_choice_of_the_configuration_is_not_questioned() {
    let nothing = host(Path::new("/no/such/directory"));
    let choices = [
        (ManagerChoice::Systemd, "systemd"),
        (ManagerChoice::Upstart, "upstart"),
        (ManagerChoice::Custom(files(Path::new("/"))), "files"),
    ];
    for (choice, name) in choices {
        assert_eq!(detect(&choice, &nothing).await.unwrap().name(), name);
    }
}
