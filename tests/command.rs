//! Commands as real processes. Those that change the user need root and fail without it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use instance_agent::command::{
    CommandError, CommandSpec, JobName, JobStep, Runner, Running, StartError, Stop, SystemdError,
    SystemdTools,
};
use nix::sys::signal::kill;
use nix::sys::stat::Mode;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, User, geteuid, mkfifo};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

const HELPER: &str = env!("CARGO_BIN_EXE_instance-agent");
/// No event of these tests takes this long.
const LONG: Duration = Duration::from_secs(60);

fn command(argv: &[&str]) -> CommandSpec {
    let argv = argv.iter().map(|&word| word.into()).collect();
    CommandSpec { argv, user: None, dir: None, timeout: LONG }
}

fn shell(script: &str) -> CommandSpec {
    command(&["sh", "-c", script])
}

/// The script finds the path as `$1`.
fn shell_with(script: &str, path: &Path) -> CommandSpec {
    command(&["sh", "-c", script, "sh", path.to_str().unwrap()])
}

fn as_nobody(spec: CommandSpec) -> CommandSpec {
    CommandSpec { user: Some("nobody".into()), ..spec }
}

fn runner() -> Runner {
    Runner::new(HELPER.into())
}

/// Kills soon what does not heed SIGTERM.
fn impatient() -> Runner {
    let mut runner = runner();
    runner.kill_after = Duration::from_millis(200);
    runner
}

fn never() -> Stop {
    Stop { shutdown: CancellationToken::new(), grace: LONG }
}

fn at_once() -> Stop {
    Stop { grace: Duration::ZERO, ..never() }
}

async fn run(spec: &CommandSpec) -> Result<(), CommandError> {
    within(runner().run_child(spec, &[], None, &never())).await
}

async fn within<T>(event: impl Future<Output = T>) -> T {
    timeout(LONG / 2, event).await.expect("it did not come about")
}

async fn failure(spec: &CommandSpec) -> CommandError {
    run(spec).await.expect_err("the command should have failed")
}

async fn tail(script: &str) -> Vec<String> {
    failure(&shell(script)).await.tail().to_vec()
}

/// A test that was left out would look like one that passed.
fn must_be_root() {
    assert!(geteuid().is_root(), "this test changes the user: run `make test`, or run it as root");
}

fn open_to_all() -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    dir
}

/// What processes write to a named pipe, and when the last of them that has it open is gone.
struct Witness {
    _dir: TempDir,
    path: PathBuf,
    go: PathBuf,
    lines: mpsc::UnboundedReceiver<String>,
}

impl Witness {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("pipe");
        let go = dir.path().join("pipe.go");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        mkfifo(&go, Mode::S_IRWXU).unwrap();
        let (sender, lines) = mpsc::unbounded_channel();
        let opened = path.clone();
        std::thread::spawn(move || {
            let lines = BufReader::new(File::open(opened).unwrap()).lines();
            lines.map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        Self { _dir: dir, path, go, lines }
    }

    /// `None`: nobody has the pipe open any more.
    async fn line(&mut self) -> Option<String> {
        within(self.lines.recv()).await
    }

    /// Ends the script's `read line <$1.go`.
    fn tell(&self) {
        let go = self.go.clone();
        std::thread::spawn(move || fs::write(go, "go\n"));
    }

    async fn pid(&mut self) -> Pid {
        Pid::from_raw(self.line().await.unwrap().parse().unwrap())
    }
}

async fn until(condition: impl Fn() -> bool) {
    let looking = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    within(looking).await;
}

fn is_reaped(pid: Pid) -> bool {
    kill(pid, None).is_err()
}

#[tokio::test]
async fn a_command_succeeds_or_names_its_exit_status() {
    run(&command(&["true"])).await.unwrap();
    let error = failure(&shell("echo first; echo 'disk full'; exit 3")).await;
    assert_eq!(error.exit_code(), Some(3));
    assert_eq!(error.tail(), ["first", "disk full"]);
    let text = "`sh -c 'echo first; echo '\\''disk full'\\''; exit 3'` exited with status 3: disk full";
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn a_signal_from_elsewhere_is_named() {
    let error = failure(&shell("kill -KILL $$")).await;
    assert!(matches!(error, CommandError::Signalled { signal: 9, .. }), "{error}");
    assert!(error.to_string().ends_with("was ended by SIGKILL"), "{error}");
}

#[tokio::test]
async fn both_outputs_come_in_the_order_of_writing() {
    let script = "for n in 1 2 3 4 5; do echo out $n; echo err $n >&2; done; exit 1";
    let expected: Vec<_> = (1..=5).flat_map(|n| [format!("out {n}"), format!("err {n}")]).collect();
    assert_eq!(tail(script).await, expected);
}

#[tokio::test]
async fn a_hundred_megabytes_without_a_newline_are_read_in_bounded_memory() {
    let before = peak_memory();
    let lines = tail("head -c 100000000 /dev/zero | tr '\\0' x; exit 1").await;
    assert_eq!(lines, ["x".repeat(1000)]);
    let grown = peak_memory() - before;
    // A backtrace of another test in this process takes 60 MB.
    assert!(grown < 80_000, "{grown} kB more");
}

/// In kB.
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn output_is_made_fit_for_logs() {
    let lines = tail(r"printf 'a\377b\n\033[2Jc\000d\302\205e'; exit 1").await;
    assert_eq!(lines, ["a\u{fffd}b", "\u{fffd}[2Jc\u{fffd}d\u{fffd}e"]);
}

#[tokio::test]
async fn standard_input_is_what_is_given_or_nothing() {
    let given = Some(b"hello".to_vec());
    runner().run_child(&shell(r#"test "$(cat)" = hello"#), &[], given, &never()).await.unwrap();
    run(&shell(r#"test "$(readlink /proc/self/fd/0)" = /dev/null"#)).await.unwrap();
}

#[tokio::test]
async fn standard_input_need_not_be_read() {
    let much = Some(vec![b'x'; 1_000_000]);
    runner().run_child(&command(&["true"]), &[], much, &never()).await.unwrap();
}

#[tokio::test]
async fn much_input_and_output_do_not_wait_for_each_other() {
    let much = Some(vec![b'x'; 1_000_000]);
    let error = within(runner().run_child(&shell("cat; exit 1"), &[], much, &never())).await.unwrap_err();
    assert_eq!(error.tail(), ["x".repeat(1000)]);
}

#[tokio::test]
async fn the_time_limit_ends_a_command() {
    let spec = CommandSpec { timeout: Duration::from_millis(100), ..command(&["sleep", "60"]) };
    let error = failure(&spec).await;
    assert!(matches!(error, CommandError::TimedOut { killed: false, .. }), "{error}");
    let text = "`sleep 60` was ended after its time limit of 100ms (raise `timeout` if it needs longer)";
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn a_flood_of_output_does_not_hold_up_the_time_limit() {
    let spec = CommandSpec { timeout: Duration::from_secs(1), ..command(&["yes"]) };
    let error = failure(&spec).await;
    assert!(matches!(error, CommandError::TimedOut { killed: false, .. }), "{error}");
    assert_eq!(error.tail().len(), 20);
}

#[tokio::test]
async fn the_time_limit_ends_children_that_ignore_sigterm() {
    let mut witness = Witness::new();
    let script = "exec 3>$1; trap '' TERM; sleep 60 & (sleep 60; :) & echo up >&3; wait";
    let spec = CommandSpec { timeout: Duration::from_secs(2), ..shell_with(script, &witness.path) };
    let error = within(impatient().run_child(&spec, &[], None, &never())).await.unwrap_err();
    assert!(matches!(error, CommandError::TimedOut { killed: true, .. }), "{error}");
    assert!(error.to_string().contains("killed, as it did not heed SIGTERM"), "{error}");
    assert_eq!(witness.line().await.as_deref(), Some("up"));
    assert_eq!(witness.line().await, None);
}

/// Runs until the script says `up`, then shuts down; the error and what the script said further.
async fn shut_down(runner: Runner, script: &str) -> (CommandError, Vec<String>) {
    let mut witness = Witness::new();
    let (spec, stop) = (shell_with(script, &witness.path), at_once());
    let running = runner.run_child(&spec, &[], None, &stop);
    let watching = async {
        assert_eq!(witness.line().await.as_deref(), Some("up"));
        stop.shutdown.cancel();
        let mut lines = Vec::new();
        while let Some(line) = witness.line().await {
            lines.push(line);
        }
        lines
    };
    let (result, lines) = tokio::join!(running, watching);
    (result.unwrap_err(), lines)
}

#[tokio::test]
async fn children_are_killed_when_only_their_parent_heeded_sigterm() {
    let script = "exec 3>$1; (trap '' TERM; echo up >&3; sleep 60; :) & wait";
    let (error, _) = shut_down(impatient(), script).await;
    assert!(matches!(error, CommandError::Interrupted { killed: true, .. }), "{error}");
}

#[tokio::test]
async fn children_get_their_time_when_their_parent_ended_at_once() {
    let script = "exec 3>$1; (trap 'sleep 0.1; echo saved >&3; exit' TERM; echo up >&3; \
                  while :; do sleep 0.02; done) & wait";
    let (error, lines) = shut_down(runner(), script).await;
    assert_eq!(lines, ["saved"]);
    assert!(matches!(error, CommandError::Interrupted { killed: false, .. }), "{error}");
}

#[tokio::test]
async fn what_a_command_says_at_its_end_is_kept() {
    let script = "exec 3>$1; trap 'echo bye; exit 0' TERM; echo up >&3; while :; do sleep 0.02; done";
    let (error, _) = shut_down(runner(), script).await;
    assert_eq!(error.tail().last().map(String::as_str), Some("bye"));
    let text = "was ended because the agent is shutting down and waited 0s for it: bye";
    assert!(error.to_string().ends_with(text), "{error}");
}

#[tokio::test]
async fn a_stopped_command_can_heed_sigterm_too() {
    let mut witness = Witness::new();
    let script = "exec 3>$1; trap 'echo bye >&3; exit' TERM; echo $$ >&3; kill -STOP $$; sleep 60";
    let (spec, stop) = (shell_with(script, &witness.path), at_once());
    let runner = runner();
    let running = runner.run_child(&spec, &[], None, &stop);
    let watching = async {
        let stat = format!("/proc/{}/stat", witness.pid().await);
        until(|| fs::read_to_string(&stat).unwrap().contains(" T ")).await;
        stop.shutdown.cancel();
        witness.line().await
    };
    let (result, line) = tokio::join!(running, watching);
    let error = result.unwrap_err();
    assert_eq!(line.as_deref(), Some("bye"));
    assert!(matches!(error, CommandError::Interrupted { killed: false, .. }), "{error}");
}

#[tokio::test]
async fn a_command_may_end_in_the_grace_time_of_a_shutdown() {
    let mut witness = Witness::new();
    let (spec, stop) = (shell_with("echo up >$1; read line <$1.go", &witness.path), never());
    let runner = runner();
    let running = runner.run_child(&spec, &[], None, &stop);
    let watching = async {
        assert_eq!(witness.line().await.as_deref(), Some("up"));
        stop.shutdown.cancel();
        // By the time that a command without grace time has been ended, the other would have been too.
        let without = Stop { grace: Duration::ZERO, ..stop.clone() };
        runner.run_child(&command(&["sleep", "60"]), &[], None, &without).await.unwrap_err();
        witness.tell();
    };
    let (result, ()) = tokio::join!(running, watching);
    result.unwrap();
}

#[tokio::test]
async fn a_shutdown_does_not_lengthen_the_time_limit() {
    let spec = CommandSpec { timeout: Duration::from_millis(100), ..command(&["sleep", "60"]) };
    let stop = never();
    stop.shutdown.cancel();
    let error = runner().run_child(&spec, &[], None, &stop).await.unwrap_err();
    assert!(matches!(error, CommandError::TimedOut { .. }), "{error}");
}

#[tokio::test]
async fn a_dropped_future_kills_and_reaps_the_group() {
    let mut witness = Witness::new();
    let script = "exec 3>$1; trap '' TERM; sleep 60 & echo $$ >&3; wait";
    let (spec, stop) = (shell_with(script, &witness.path), never());
    let runner = runner();
    let pid = tokio::select! {
        result = runner.run_child(&spec, &[], None, &stop) => panic!("it ended: {result:?}"),
        pid = witness.pid() => pid,
    };
    assert_eq!(witness.line().await, None);
    until(|| is_reaped(pid)).await;
}

#[tokio::test]
async fn what_a_success_leaves_behind_lives_on() {
    let mut witness = Witness::new();
    let script = "(read line <$1.go; echo alive >$1) & exit 0";
    // The child holds the output open for good: only the limit of that wait lets this end.
    run(&shell_with(script, &witness.path)).await.unwrap();
    witness.tell();
    assert_eq!(witness.line().await.as_deref(), Some("alive"));
}

#[tokio::test]
async fn what_a_failure_leaves_behind_is_ended() {
    let mut witness = Witness::new();
    let error = failure(&shell_with("exec 3>$1; echo up >&3; sleep 60 & exit 4", &witness.path)).await;
    assert_eq!(error.exit_code(), Some(4));
    assert_eq!(witness.line().await.as_deref(), Some("up"));
    assert_eq!(witness.line().await, None);
}

/// The environment in which the command ran, and what it had to be.
async fn environments(
    user: &str,
    spec: impl Fn(CommandSpec) -> CommandSpec,
) -> [BTreeMap<String, String>; 2] {
    let dir = open_to_all();
    let file = dir.path().join("environ");
    let given = [("GITHUB_SHA".to_owned(), "a=b c\n".to_owned())];
    let copy = spec(command(&["cp", "/proc/self/environ", file.to_str().unwrap()]));
    runner().run_child(&copy, &given, None, &never()).await.unwrap();
    let text = fs::read_to_string(file).unwrap();
    let pairs = text.split_terminator('\0').map(|pair| pair.split_once('=').unwrap());
    let found = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    [found, expected_environment(&User::from_name(user).unwrap().unwrap(), given)]
}

fn expected_environment(user: &User, given: [(String, String); 1]) -> BTreeMap<String, String> {
    let lang = std::env::var("LANG").unwrap_or_default();
    let variables = [
        ("HOME", user.dir.to_str().unwrap()),
        ("USER", &user.name),
        ("LOGNAME", &user.name),
        ("SHELL", user.shell.to_str().unwrap()),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("LANG", if lang.is_empty() { "C.UTF-8" } else { &lang }),
    ];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned()));
    variables.into_iter().chain(given).collect()
}

#[tokio::test]
async fn the_environment_is_the_users_and_what_is_given() {
    let own = User::from_uid(geteuid()).unwrap().unwrap().name;
    let [found, expected] = environments(&own, |spec| spec).await;
    assert_eq!(found, expected);
    must_be_root();
    let [found, expected] = environments("nobody", as_nobody).await;
    assert_eq!(found, expected);
}

#[tokio::test]
async fn given_variables_go_before_the_users() {
    let given = [("HOME".to_owned(), "/given".to_owned())];
    let spec = shell("test $HOME = /given");
    runner().run_child(&spec, &given, None, &never()).await.unwrap();
    must_be_root();
    runner().run_child(&as_nobody(spec), &given, None, &never()).await.unwrap();
}

#[tokio::test]
async fn a_command_runs_in_its_directory_or_at_home() {
    let dir = open_to_all();
    let here = CommandSpec { dir: Some(dir.path().into()), ..shell("touch here") };
    run(&here).await.unwrap();
    assert!(dir.path().join("here").exists());
    let home = User::from_uid(geteuid()).unwrap().unwrap().dir;
    let expected = home.canonicalize().unwrap_or_else(|_| "/".into());
    assert_eq!(tail("pwd -P; exit 1").await, [expected.to_str().unwrap()]);
}

#[tokio::test]
async fn another_user_has_its_ids_its_groups_and_the_root_without_a_home() {
    must_be_root();
    let groups = std::process::Command::new("id").args(["-G", "nobody"]).output().unwrap().stdout;
    let nobody = User::from_name("nobody").unwrap().unwrap();
    assert!(!nobody.dir.exists(), "this host's nobody has a home");
    let script = "id -u; id -g; id -G; grep Uid: /proc/self/status; pwd; echo $0 >&2; exit 1";
    let error = failure(&as_nobody(shell(script))).await;
    let (uid, gid) = (nobody.uid, nobody.gid);
    let groups = String::from_utf8(groups).unwrap();
    let ids = format!("Uid: {uid} {uid} {uid} {uid}");
    let expected = [uid.to_string(), gid.to_string(), groups.trim().into(), ids, "/".into(), "sh".into()];
    assert_eq!(error.tail(), expected);
}

#[tokio::test]
async fn another_user_has_none_of_the_agents_groups() {
    must_be_root();
    let helper = format!("'{HELPER}' exec-as --user=nobody -- id -G; exit 1");
    let error = failure(&command(&["setpriv", "--groups=4,27", "sh", "-c", &helper])).await;
    let nobody = User::from_name("nobody").unwrap().unwrap();
    assert_eq!(error.tail(), [nobody.gid.to_string()]);
}

#[tokio::test]
async fn another_user_works_in_the_given_directory() {
    must_be_root();
    let dir = open_to_all();
    let spec = CommandSpec { dir: Some(dir.path().into()), ..as_nobody(shell("touch here; exit 5")) };
    let error = failure(&spec).await;
    assert!(dir.path().join("here").exists());
    let text = format!(
        "`sh -c 'touch here; exit 5'` as `nobody` in `{}` exited with status 5",
        dir.path().display()
    );
    assert_eq!(error.to_string(), text);
}

#[tokio::test]
async fn another_user_has_the_same_time_limit_and_input() {
    must_be_root();
    let late = CommandSpec { timeout: Duration::from_millis(300), ..as_nobody(command(&["sleep", "60"])) };
    let error = failure(&late).await;
    assert!(matches!(error, CommandError::TimedOut { killed: false, .. }), "{error}");
    let given = Some(b"hello".to_vec());
    let spec = as_nobody(shell(r#"test "$(cat)" = hello"#));
    runner().run_child(&spec, &[], given, &never()).await.unwrap();
}

#[tokio::test]
async fn commands_do_not_inherit_that_sigpipe_is_ignored() {
    // Bit 12 is SIGPIPE.
    let spec = shell("test $((0x$(sed -n 's/SigIgn:.//p' /proc/self/status) & 0x1000)) = 0");
    run(&spec).await.unwrap();
    must_be_root();
    run(&as_nobody(spec)).await.unwrap();
}

/// Why the command was not started, as the agent itself and as nobody.
async fn refusals(spec: CommandSpec) -> Vec<String> {
    let mut refusals = vec![refusal(&spec).await];
    must_be_root();
    refusals.push(refusal(&as_nobody(spec)).await);
    refusals
}

async fn refusal(spec: &CommandSpec) -> String {
    let error = failure(spec).await;
    assert!(matches!(error, CommandError::Start { .. }), "{error:?}");
    assert!(error.tail().is_empty() && error.exit_code().is_none());
    let text = error.to_string();
    assert!(text.starts_with("cannot start `") && !text.contains('\n'), "{text}");
    text
}

fn script(dir: &TempDir, text: &str, mode: u32) -> String {
    let (source, path) = (dir.path().join("source"), dir.path().join("script"));
    fs::write(&source, text).unwrap();
    install(&source, &path, mode);
    path.to_str().unwrap().into()
}

/// By another process: while a child of this one has a file open for writing, nobody can run it.
fn install(source: &Path, target: &Path, mode: u32) {
    let mut install = std::process::Command::new("install");
    assert!(install.arg(format!("-m{mode:o}")).args([source, target]).status().unwrap().success());
}

#[tokio::test]
async fn a_missing_program_is_named() {
    for text in refusals(command(&["no-such-program", "x"])).await {
        let expected = "cannot run program `no-such-program`: No such file or directory (os error 2): \
                        install it in one of /usr/local/sbin:";
        assert!(text.contains(expected), "{text}");
    }
    for text in refusals(command(&["/no/such/program"])).await {
        assert!(text.ends_with(": install it, or correct `command`"), "{text}");
    }
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_told_from_a_missing_one() {
    let dir = open_to_all();
    let without_interpreter = script(&dir, "#!/no/such/interpreter\n", 0o755);
    for text in refusals(command(&[&without_interpreter])).await {
        assert!(text.contains(": the file is there, but what its first line"), "{text}");
    }
    let not_executable = script(&dir, "#!/bin/sh\n", 0o644);
    for text in refusals(command(&[&not_executable])).await {
        assert!(text.contains("Permission denied") && text.contains("execute it"), "{text}");
    }
    let with_nul = command(&["true", "a\0b"]);
    assert!(refusal(&with_nul).await.contains("nul byte"));
}

#[tokio::test]
async fn a_missing_directory_is_not_blamed_on_the_program() {
    let missing = CommandSpec { dir: Some("/no/such/dir".into()), ..command(&["true"]) };
    for text in refusals(missing).await {
        let expected = "cannot enter directory `/no/such/dir`: No such file or directory";
        assert!(text.contains(expected) && text.ends_with("or correct `dir`"), "{text}");
    }
    let file = CommandSpec { dir: Some("/etc/passwd".into()), ..command(&["true"]) };
    for text in refusals(file).await {
        assert!(text.contains("cannot enter directory `/etc/passwd`: not a directory"), "{text}");
    }
}

#[tokio::test]
async fn a_directory_that_the_user_may_not_enter_is_named() {
    must_be_root();
    let dir = open_to_all();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    let spec = CommandSpec { dir: Some(dir.path().into()), ..as_nobody(command(&["true"])) };
    let text = refusal(&spec).await;
    let path = dir.path().display();
    let expected = format!(
        "cannot start `true` as `nobody` in `{path}`: cannot enter directory `{path}`: Permission denied \
         (os error 13): create it, let the command's user enter it, or correct `dir`"
    );
    assert_eq!(text, expected);
}

#[tokio::test]
async fn a_missing_user_is_named() {
    for user in ["no-such-user", "--dir=/"] {
        let text = refusal(&CommandSpec { user: Some(user.into()), ..command(&["true"]) }).await;
        let expected = format!(
            "cannot start `true` as `{user}`: there is no user `{user}`: create it, or correct `user`"
        );
        assert_eq!(text, expected);
    }
}

#[tokio::test]
async fn a_missing_helper_is_named() {
    let spec = CommandSpec { user: Some("no-such-user".into()), ..command(&["true"]) };
    let runner = Runner::new("/no/such/helper".into());
    let error = runner.run_child(&spec, &[], None, &never()).await.unwrap_err();
    assert!(matches!(error, CommandError::Start { cause: StartError::Helper { .. }, .. }), "{error:?}");
    assert!(error.to_string().contains("cannot run `/no/such/helper`"), "{error}");
}

#[tokio::test]
async fn only_root_may_become_another_user() {
    must_be_root();
    let dir = open_to_all();
    let helper = dir.path().join("helper");
    install(Path::new(HELPER), &helper, 0o755);
    let argv = [helper.to_str().unwrap(), "exec-as", "--user=root", "--", "true"];
    let error = failure(&as_nobody(command(&argv))).await;
    assert_eq!(error.exit_code(), Some(125));
    assert!(error.tail()[0].starts_with("cannot become user `root`: "), "{error}");
}

#[tokio::test]
async fn a_command_cannot_pass_for_the_helper() {
    must_be_root();
    let error = failure(&as_nobody(shell("echo 'there is no user `nobody`' >&2; exit 125"))).await;
    assert_eq!((error.exit_code(), error.tail().len()), (Some(125), 1), "{error:?}");
}

#[tokio::test]
async fn an_empty_command_is_refused() {
    assert!(refusal(&command(&[])).await.ends_with("it names no program"));
}

fn job() -> JobName {
    JobName::new(JobStep::Update, &"web".parse().unwrap())
}

#[tokio::test]
async fn a_deploys_command_is_on_record_while_it_runs() {
    let mut witness = Witness::new();
    let spec = shell_with("exec 3>$1; echo $$ >&3; read line <$1.go; exit 3", &witness.path);
    let (runner, stop, job) = (runner(), never(), job());
    let mut record = None;
    let running = runner.run(&job, &spec, &[], &stop, |running| record = Some(running));
    let watching = async {
        let pid = witness.pid().await;
        witness.tell();
        pid
    };
    let (result, pid) = tokio::join!(running, watching);
    assert_eq!(result.unwrap_err().exit_code(), Some(3));
    let text = serde_json::to_string(&record.unwrap()).unwrap();
    assert!(text.starts_with(&format!(r#"{{"group":{{"pgid":{pid},"start_time":"#)), "{text}");
}

/// What an agent leaves that is killed: the script's first line, which is its number, has come. Its end is
/// waited for as the system's first process would.
async fn survivor(script: &str) -> (Running, Witness) {
    let mut witness = Witness::new();
    let (spec, runner) = (shell_with(script, &witness.path), runner());
    let (sender, mut record) = mpsc::unbounded_channel();
    let mut agent = Box::pin(async move {
        let started = move |running| drop(sender.send(running));
        runner.run(&job(), &spec, &[], &never(), started).await
    });
    let pid = tokio::select! {
        result = &mut agent => panic!("it ended: {result:?}"),
        pid = witness.pid() => pid,
    };
    std::mem::forget(agent);
    std::thread::spawn(move || waitpid(pid, None));
    (record.recv().await.unwrap(), witness)
}

#[tokio::test]
async fn a_survivor_is_ended_with_all_its_children() {
    let script = "exec 3>$1; trap 'echo bye >&3; exit' TERM; sleep 60 & echo $$ >&3; wait";
    let (running, mut witness) = survivor(script).await;
    runner().end_survivor(&running).await.unwrap();
    assert_eq!(witness.line().await.as_deref(), Some("bye"));
    assert_eq!(witness.line().await, None);
}

#[tokio::test]
async fn a_survivor_that_ignores_sigterm_is_killed() {
    let script = "exec 3>$1; trap '' TERM; sleep 60 & echo $$ >&3; wait";
    let (running, mut witness) = survivor(script).await;
    impatient().end_survivor(&running).await.unwrap();
    assert_eq!(witness.line().await, None);
    runner().end_survivor(&running).await.unwrap();
}

#[tokio::test]
async fn a_survivor_is_ended_when_only_its_children_are_left() {
    let script = "exec 3>$1; sleep 60 & echo $$ >&3; read line <$1.go";
    let (running, mut witness) = survivor(script).await;
    let Running::Group(group) = &running else { panic!("{running:?}") };
    let record = serde_json::to_value(group).unwrap();
    let leader = Pid::from_raw(record["pgid"].as_i64().unwrap().try_into().unwrap());
    witness.tell();
    until(|| is_reaped(leader)).await;
    runner().end_survivor(&running).await.unwrap();
    assert_eq!(witness.line().await, None);
}

#[tokio::test]
async fn a_missing_systemd_is_named() {
    let tools = SystemdTools { systemd_run: "/no/such/systemd-run".into(), ..SystemdTools::default() };
    let error = Runner::under_systemd(HELPER.into(), tools).await.unwrap_err();
    assert!(matches!(error, SystemdError::Run { .. }), "{error:?}");
    assert!(error.to_string().starts_with("cannot run `/no/such/systemd-run`: No such file"), "{error}");
    let tools = SystemdTools { systemd_run: "echo".into(), ..SystemdTools::default() };
    let error = Runner::under_systemd(HELPER.into(), tools).await.unwrap_err().to_string();
    assert!(error.starts_with("`systemd-run --version` is not understood: echo "), "{error}");
}
