//! The commands of deploys as transient units. What services and scopes have in common is tried with both.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use instance_agent::command::{
    CommandError, CommandSpec, JobName, JobStep, Runner, Running, StartError, Stop, SystemdTools,
};
use nix::unistd::User;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{must_be_inside, systemctl};

pub(super) const HELPER: &str = env!("CARGO_BIN_EXE_instance-agent");
/// No event of these cases takes this long.
const LONG: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
enum Kind {
    Service,
    Scope,
}

const BOTH: [Kind; 2] = [Kind::Service, Kind::Scope];

/// The commands of one app, with a directory to leave marks in.
struct Bench {
    kind: Kind,
    job: JobName,
    runner: Runner,
    tools: SystemdTools,
    stop: Stop,
    dir: PathBuf,
}

impl Bench {
    async fn new(app: &str, kind: Kind) -> Self {
        let systemd_run = match kind {
            Kind::Service => "systemd-run".into(),
            Kind::Scope => client(&format!("{app}-229"), r#"[ "$1" != --version ] || exec echo systemd 229"#),
        };
        Self::with_client(app, kind, systemd_run).await
    }

    async fn with_client(app: &str, kind: Kind, systemd_run: PathBuf) -> Self {
        must_be_inside();
        let app = format!("{app}-{}", if matches!(kind, Kind::Scope) { "scope" } else { "service" });
        let dir = Path::new("/run").join(&app);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o777)).unwrap();
        let tools = SystemdTools { systemd_run, ..SystemdTools::default() };
        let runner = Runner::under_systemd(HELPER.into(), tools.clone()).await.unwrap();
        let stop = Stop { shutdown: CancellationToken::new(), grace: Duration::ZERO };
        Self { kind, job: JobName::new(JobStep::Update, &app.parse().unwrap()), runner, tools, stop, dir }
    }

    async fn run(&self, spec: &CommandSpec) -> Result<(), CommandError> {
        self.run_with(spec, &[]).await
    }

    async fn run_with(&self, spec: &CommandSpec, given: &[(String, String)]) -> Result<(), CommandError> {
        let result = within(self.runner.run(&self.job, spec, given, &self.stop, drop)).await;
        assert_eq!(self.state(), "not-found", "a unit is left");
        result
    }

    async fn failure(&self, script: &str) -> CommandError {
        self.run(&self.shell(script)).await.expect_err("the command should have failed")
    }

    /// In the directory of the marks.
    fn shell(&self, script: &str) -> CommandSpec {
        CommandSpec { dir: Some(self.dir.clone()), ..command(&["sh", "-c", script]) }
    }

    fn unit(&self) -> String {
        format!("{}.{}", self.job, if matches!(self.kind, Kind::Scope) { "scope" } else { "service" })
    }

    fn state(&self) -> String {
        let show = Command::new("systemctl").args(["show", "--property=LoadState", &self.unit()]).output();
        String::from_utf8(show.unwrap().stdout).unwrap().trim().trim_start_matches("LoadState=").to_owned()
    }

    /// A unit of the same name, which marks that it runs, until when it is `up`.
    async fn start_by_hand(&self, script: &str) {
        let mut client = Command::new("systemd-run");
        client.args(["--quiet", &format!("--unit={}", self.unit())]);
        // The arguments of a service are expanded.
        let script = match self.kind {
            Kind::Service => script.replace('$', "$$"),
            Kind::Scope => script.to_owned(),
        };
        client.args(matches!(self.kind, Kind::Scope).then_some("--scope"));
        client.args(["--", "sh", "-c", &script, "sh"]).arg(&self.dir);
        std::thread::spawn(move || client.status());
        self.mark("up").await;
    }

    async fn mark(&self, name: &str) {
        until(|| self.dir.join(name).exists()).await;
    }
}

/// A stand-in for systemd-run that does something first.
fn client(name: &str, first: &str) -> PathBuf {
    must_be_inside();
    let path = Path::new("/run").join(name);
    // By another process: while a child of this one has the file open for writing, nobody can run it.
    let install = format!("cat >'{0}' && chmod 755 '{0}'", path.display());
    let script = format!("#!/bin/sh\n{first}\nexec systemd-run \"$@\"\n");
    let write = format!("cat <<'EOF' | ({install})\n{script}EOF\n");
    assert!(Command::new("sh").args(["-c", &write]).status().unwrap().success());
    path
}

fn command(argv: &[&str]) -> CommandSpec {
    let argv = argv.iter().map(|&word| word.into()).collect();
    CommandSpec { argv, user: None, dir: None, timeout: LONG }
}

async fn within<T>(event: impl Future<Output = T>) -> T {
    timeout(LONG / 2, event).await.expect("it did not come about")
}

async fn until(condition: impl Fn() -> bool) {
    let looking = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    within(looking).await;
}

fn is_alive(pid: &str) -> bool {
    Path::new("/proc").join(pid.trim()).exists()
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_command_succeeds_or_names_its_exit_status_and_its_last_lines() {
    for kind in BOTH {
        let bench = Bench::new("exit", kind).await;
        for _ in 0..5 {
            bench.run(&command(&["true"])).await.unwrap();
        }
        let error = bench.failure("for n in 1 2 3; do echo out $n; echo err $n >&2; done; exit 3").await;
        assert_eq!(error.exit_code(), Some(3));
        assert_eq!(error.tail(), ["out 1", "err 1", "out 2", "err 2", "out 3", "err 3"]);
        for code in [1, 125, 126, 127, 200, 203, 217, 255] {
            let error = bench.failure(&format!("exit {code}")).await;
            assert_eq!(error.exit_code(), Some(code), "{error}");
        }
        let error = bench.failure("seq 100000; exit 1").await;
        assert_eq!(error.tail().last().map(String::as_str), Some("100000"));
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_signal_from_elsewhere_is_named() {
    for kind in BOTH {
        let bench = Bench::new("signal", kind).await;
        // Not SIGHUP, which whoever runs the tests may have ignored (nohup).
        for signal in [9, 10, 13, 15] {
            let error = bench.failure(&format!("kill -{signal} $$")).await;
            assert!(matches!(error, CommandError::Signalled { signal: s, .. } if s == signal), "{error}");
        }
    }
}

/// As a unit is that systemd has forgotten by the time it is asked.
#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_failure_of_which_systemd_knows_no_more_is_a_failure() {
    let forget =
        r#"[ "$1" = --version ] || { systemd-run "$@"; systemctl reset-failed "${2#--unit=}"; exit 0; }"#;
    let bench = Bench::with_client("forgotten", Kind::Service, client("forgotten", forget)).await;
    bench.run(&command(&["true"])).await.unwrap();
    assert_eq!(bench.failure("exit 3").await.exit_code(), Some(3));
    let error = bench.failure("kill -9 $$").await;
    assert!(matches!(error, CommandError::Signalled { signal: 9, .. }), "{error}");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_unit_that_is_killed_as_a_whole_has_failed() {
    let silent = r#"[ "$1" = --version ] || { systemd-run "$@"; exit 0; }"#;
    for (app, systemd_run) in [("killed", "systemd-run".into()), ("killed-0", client("killed-0", silent))] {
        let bench = Bench::with_client(app, Kind::Service, systemd_run).await;
        let error = bench.failure(&format!("systemctl kill --signal=KILL {}; sleep 60", bench.unit())).await;
        assert!(matches!(error, CommandError::Lost { .. }), "{error:?}");
        assert!(error.to_string().contains("ended before its command was seen to end"), "{error}");
    }
}

/// The unit's first process blocks them all.
#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_command_begins_with_no_signal_blocked() {
    for kind in BOTH {
        let error = Bench::new("signals", kind).await.failure("grep ^SigBlk /proc/self/status; exit 1").await;
        assert_eq!(error.tail(), ["SigBlk: 0000000000000000"]);
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_the_time_limit_ends_every_process_of_the_unit() {
    for kind in BOTH {
        let mut bench = Bench::new("late", kind).await;
        bench.runner.kill_after = Duration::from_millis(500);
        let script = "trap '' TERM; setsid sh -c 'echo $$ >child; sleep 60; :' & echo waiting; wait";
        let spec = CommandSpec { timeout: Duration::from_secs(3), ..bench.shell(script) };
        let error = bench.run(&spec).await.unwrap_err();
        assert!(matches!(error, CommandError::TimedOut { killed: true, .. }), "{error}");
        let text = "was killed, as it did not heed SIGTERM, after its time limit of 3s (raise `timeout` if it \
                    needs longer): waiting";
        assert!(error.to_string().ends_with(text), "{error}");
        assert!(!is_alive(&fs::read_to_string(bench.dir.join("child")).unwrap()));
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_time_limit_that_is_over_before_the_start_leaves_no_unit() {
    for kind in BOTH {
        let bench = Bench::new("early", kind).await;
        for limit in [0, 1, 3, 10, 20, 30] {
            let timeout = Duration::from_millis(limit);
            let error = bench.run(&CommandSpec { timeout, ..command(&["sleep", "60"]) }).await.unwrap_err();
            assert!(matches!(error, CommandError::TimedOut { killed: false, .. }), "{error}");
        }
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_shutdown_ends_the_unit_and_keeps_its_last_words() {
    for kind in BOTH {
        let bench = Bench::new("shutdown", kind).await;
        let spec = bench.shell("trap 'echo bye; exit 0' TERM; touch up; while :; do sleep 0.02; done");
        let shutdown = async {
            bench.mark("up").await;
            bench.stop.shutdown.cancel();
        };
        let (result, ()) = tokio::join!(bench.run(&spec), shutdown);
        let error = result.unwrap_err();
        assert!(matches!(error, CommandError::Interrupted { killed: false, .. }), "{error}");
        assert_eq!(error.tail().last().map(String::as_str), Some("bye"));
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_another_user_has_its_ids_and_groups_and_nothing_else_has() {
    must_be_inside();
    for argv in [["groupadd", "extra"].as_slice(), &["useradd", "--create-home", "--groups=extra", "tester"]]
    {
        assert!(Command::new(argv[0]).args(&argv[1..]).status().unwrap().success());
    }
    let groups = Command::new("id").args(["-G", "tester"]).output().unwrap().stdout;
    let groups = String::from_utf8(groups).unwrap();
    assert_eq!(groups.split_whitespace().count(), 2);
    for kind in BOTH {
        let bench = Bench::new("user", kind).await;
        // Bit 12 is SIGPIPE, which systemd's services ignore.
        let ignored = "$((0x$(sed -n 's/SigIgn:.//p' /proc/self/status) & 0x1000))";
        let script = format!("id -un; id -G; pwd; readlink /proc/self/fd/0; echo {ignored}; exit 1");
        let spec = CommandSpec { user: Some("tester".into()), ..command(&["sh", "-c", &script]) };
        let error = bench.run(&spec).await.unwrap_err();
        let expected = ["tester", groups.trim(), "/home/tester", "/dev/null", "0"];
        assert_eq!(error.tail(), expected);
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_the_environment_is_the_users_and_what_is_given() {
    must_be_inside();
    systemctl(&["set-environment", "LEAK=1"]);
    for kind in BOTH {
        let bench = Bench::new("environment", kind).await;
        let given = [("GITHUB_SHA".to_owned(), "a=b c\n$HOME $$ %n \\x41 '\"".to_owned())];
        for user in ["root", "nobody"] {
            let file = bench.dir.join(user);
            let copy = command(&["cp", "/proc/self/environ", file.to_str().unwrap()]);
            let copy = CommandSpec { user: Some(user.into()), ..copy };
            bench.run_with(&copy, &given).await.unwrap();
            let text = fs::read_to_string(file).unwrap();
            let mut found: Vec<_> = text.split_terminator('\0').collect();
            found.sort_unstable();
            assert_eq!(found, expected_environment(user, &given[0].1));
        }
    }
}

fn expected_environment(user: &str, sha: &str) -> Vec<String> {
    let User { dir, shell, .. } = User::from_name(user).unwrap().unwrap();
    let lang = std::env::var("LANG").ok().filter(|lang| !lang.is_empty());
    vec![
        format!("GITHUB_SHA={sha}"),
        format!("HOME={}", dir.display()),
        format!("LANG={}", lang.unwrap_or("C.UTF-8".into())),
        format!("LOGNAME={user}"),
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
        format!("SHELL={}", shell.display()),
        format!("USER={user}"),
    ]
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_what_a_command_is_given_is_nobody_elses_to_see() {
    let bench = Bench::new("private", Kind::Service).await;
    let given = [("TOLD".to_owned(), "$HOME is\nsecret-word".to_owned())];
    let seen = "grep -rlsz [s]ecret-word /proc/[0-9]*/cmdline; systemctl show $1 | grep [s]ecret-word";
    let script = format!("printf '<%s>\\n' \"$TOLD\"; {seen}; exit 1");
    let argv = ["sh", "-c", &script, "sh", &bench.unit()];
    let error = bench.run_with(&command(&argv), &given).await.unwrap_err();
    assert_eq!(error.tail(), ["<$HOME is", "secret-word>"]);
}

/// The second comes while the first still runs, as notices may.
#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_notices_of_one_app_run_side_by_side_outside_the_agents_unit() {
    for kind in BOTH {
        let bench = Bench::new("notice", kind).await;
        let app = "a@b".parse().unwrap();
        let first = CommandSpec {
            user: Some("nobody".into()),
            ..bench.shell("echo $USER $TOLD $(cat) >first; until test -e second; do sleep 0.02; done")
        };
        let second = bench
            .shell("until test -s first; do sleep 0.02; done; cat >second; cat /proc/self/cgroup >cgroup");
        let told = [("TOLD".to_owned(), "failed".to_owned())];
        let run = |spec, told, stdin: &str| {
            let (bench, app, stdin) = (&bench, &app, stdin.as_bytes().to_vec());
            async move { within(bench.runner.run_notice(app, spec, told, stdin, &bench.stop)).await }
        };
        let (one, two) = tokio::join!(run(&first, &told, "{json}"), run(&second, &[], "second"));
        one.unwrap();
        two.unwrap();
        let left = |name| fs::read_to_string(bench.dir.join(name)).unwrap();
        assert_eq!((left("first").as_str(), left("second").as_str()), ("nobody failed {json}\n", "second"));
        assert!(
            left("cgroup").contains(r"instance-agent-outcome-a\x5cab-")
                || left("cgroup").contains(r"instance-agent-outcome-a\ab-"),
            "{}",
            left("cgroup")
        );
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_arguments_are_handed_on_as_they_are() {
    for kind in BOTH {
        let bench = Bench::new("arguments@1", kind).await;
        let words = ["$HOME", "${HOME}", "$$", "$$$", "%n", r"\x41", "a b", "", "'", "--uid=1", "ä;|"];
        let argv = [["sh", "-c", r#"printf '<%s>\n' "$@"; exit 1"#, "sh"].as_slice(), &words].concat();
        let error = bench.run(&command(&argv)).await.unwrap_err();
        assert_eq!(error.tail(), words.map(|word| format!("<{word}>")));
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_what_keeps_a_command_from_its_start_is_named() {
    for kind in BOTH {
        let bench = Bench::new("refusals", kind).await;
        let user = CommandSpec { user: Some("no-such-user".into()), ..command(&["true"]) };
        let dir = CommandSpec { dir: Some("/no/such/dir".into()), ..command(&["true"]) };
        for (spec, why) in [
            (
                command(&["no-such-program"]),
                "cannot run program `no-such-program`: No such file or directory",
            ),
            (command(&["/no/such/program"]), ": install it, or correct `command`"),
            (user, ": there is no user `no-such-user`: create it, or correct `user`"),
            (dir, ": cannot enter directory `/no/such/dir`: No such file or directory"),
            (command(&["true", "a\0b"]), "nul byte"),
            (command(&[]), ": it names no program"),
        ] {
            let error = bench.run(&spec).await.unwrap_err();
            assert!(matches!(error, CommandError::Start { .. }), "{error:?}");
            let text = error.to_string();
            assert!(
                text.starts_with("cannot start `") && text.contains(why) && !text.contains('\n'),
                "{text}"
            );
        }
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_start_that_systemd_or_the_helper_prevents_is_told() {
    for kind in BOTH {
        let mut bench = Bench::new("prevented", kind).await;
        bench.runner = Runner::under_systemd("/no/such/helper".into(), bench.tools.clone()).await.unwrap();
        let text = bench.run(&command(&["true"])).await.unwrap_err().to_string();
        assert!(text.contains("systemd did not run it: ") && text.contains("/no/such/helper"), "{text}");
        let refusing = client(&bench.unit(), r#"[ "$1" = --version ] || { echo no bus >&2; exit 1; }"#);
        let bench = Bench::with_client("refused", kind, refusing).await;
        let error = bench.run(&command(&["true"])).await.unwrap_err();
        assert!(matches!(error, CommandError::Start { cause: StartError::Refused(_), .. }), "{error:?}");
        assert_eq!(error.to_string(), "cannot start `true`: systemd did not run it: no bus");
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_survivor_is_ended_before_the_command_starts() {
    for kind in BOTH {
        let bench = Bench::new("survivor", kind).await;
        // It holds the lock as long as any of its processes lives.
        let script = "cd $1; exec 9>lock; flock 9; trap 'sleep 0.3; touch ended; exit' TERM; touch up; \
                      while :; do sleep 0.02; done";
        bench.start_by_hand(script).await;
        let mut started = None;
        let spec = bench.shell("test -e ended && flock --nonblock lock true");
        let note = |running| started = Some((running, bench.dir.join("ended").exists()));
        within(bench.runner.run(&bench.job, &spec, &[], &bench.stop, note)).await.unwrap();
        assert_eq!(started, Some((Running::Unit(bench.job.clone()), true)));
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_survivor_that_failed_does_not_hold_the_name() {
    let bench = Bench::new("failed", Kind::Service).await;
    bench.start_by_hand("cd $1; touch up; exit 1").await;
    until(|| {
        Command::new("systemctl").args(["--quiet", "is-failed", &bench.unit()]).status().unwrap().success()
    })
    .await;
    bench.run(&command(&["true"])).await.unwrap();
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_survivors_are_ended_on_request() {
    for kind in BOTH {
        let mut bench = Bench::new("request", kind).await;
        bench.runner.kill_after = Duration::from_millis(500);
        let script = "cd $1; trap '' TERM; echo $$ >pid; touch up; while :; do sleep 0.02; done";
        bench.start_by_hand(script).await;
        let unknown = JobName::new(JobStep::Check, &"unknown".parse().unwrap());
        bench.runner.end_survivors(&[unknown, bench.job.clone()]).await.unwrap();
        assert_eq!(bench.state(), "not-found");
        assert!(!is_alive(&fs::read_to_string(bench.dir.join("pid")).unwrap()));
        fs::remove_file(bench.dir.join("up")).unwrap();
        bench.start_by_hand(script).await;
        bench.runner.end_survivor(&Running::Unit(bench.job.clone())).await.unwrap();
        assert_eq!(bench.state(), "not-found");
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_dropped_future_leaves_no_unit() {
    for kind in BOTH {
        let bench = Bench::new("dropped", kind).await;
        let spec = bench.shell("echo $$ >pid; touch up; sleep 60");
        tokio::select! {
            result = bench.run(&spec) => panic!("it ended: {result:?}"),
            () = bench.mark("up") => {}
        }
        until(|| bench.state() == "not-found").await;
        assert!(!is_alive(&fs::read_to_string(bench.dir.join("pid")).unwrap()));
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_nothing_outlives_its_unit() {
    for kind in BOTH {
        let bench = Bench::new("leftover", kind).await;
        bench
            .run(&bench.shell("setsid sh -c 'echo $$ >pid; sleep 60; :' & until test -s pid; do :; done"))
            .await
            .unwrap();
        assert!(!is_alive(&fs::read_to_string(bench.dir.join("pid")).unwrap()));
    }
}

/// As it does when D-Bus is restarted.
#[tokio::test]
#[ignore = "runs inside the container"]
async fn case_a_client_that_ends_before_its_unit_is_not_believed() {
    let dir = "/run/liar-service";
    let lie = format!(
        r#"[ "$1" = --version ] || {{ exec 3<&0; systemd-run "$@" <&3 & until test -e {dir}/up; do :; done; kill -9 $!; exit 0; }}"#
    );
    let bench = Bench::with_client("liar", Kind::Service, client("liar", &lie)).await;
    let error = bench.failure("echo $$ >pid; touch up; sleep 60").await;
    assert!(matches!(error, CommandError::Lost { .. }), "{error:?}");
    assert!(
        error.to_string().contains("lost sight of instance-agent-update-liar-service.service"),
        "{error}"
    );
    assert!(!is_alive(&fs::read_to_string(bench.dir.join("pid")).unwrap()));
}
