//! Runs the command of a service manager (`systemctl`, `initctl`, …) and keeps its last words.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::{ServiceError, Trace};
use crate::tail::Tail;

/// How long the output may stay open after the command ended: a daemon that it started may hold it for good.
const GRACE: Duration = Duration::from_millis(200);
/// systemd's letters to the agent, which no program that the agent starts may answer, and what the agent's own unit and
/// job say of it and its memory: an app would take them for its own.
const NOT_INHERITED: [&str; 10] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
    "STATE_DIRECTORY",
    "SYSTEMD_EXEC_PID",
    "MALLOC_MMAP_THRESHOLD_",
];
/// For programs whose words are read: systemd and upstart hand nothing of it on to the service.
pub(super) const UNTRANSLATED: [(&str, &str); 1] = [("LC_ALL", "C")];

/// How a command ended and its last lines of output.
pub(super) struct Finished {
    command: String,
    status: ExitStatus,
    pub(super) output: Vec<String>,
}

impl Finished {
    pub(super) fn success(&self) -> bool {
        self.status.success()
    }

    /// True when the command ended by itself, so that its exit code means something.
    pub(super) fn exited(&self) -> bool {
        self.status.code().is_some()
    }

    /// True when any line of the output contains `words`.
    pub(super) fn says(&self, words: &str) -> bool {
        self.output.iter().any(|line| line.contains(words))
    }

    pub(super) fn into_failure(self) -> ServiceError {
        ServiceError::Failed { command: self.command, status: self.status.to_string(), output: self.output }
    }

    pub(super) fn into_misunderstanding(self) -> ServiceError {
        ServiceError::Answer { command: self.command, answer: self.output.join(" | ") }
    }
}

/// The process group of a command, killed on drop unless it was released: what was given up must not act later, say
/// a late stop take the fresh start down.
struct Group(Option<Pid>);

impl Group {
    /// The group that `child` leads.
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    /// The command has ended by itself: what it leaves running is a daemon.
    fn release(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // A drop cannot wait for anybody to heed SIGTERM.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Runs `argv` without a shell to its end. Dropping the future kills the command and its children; tokio reaps it.
pub(super) async fn run<K, V>(
    argv: &[&str],
    environment: &[(K, V)],
    trace: Option<&Trace<'_>>,
) -> Result<Finished, ServiceError>
where
    K: AsRef<str>,
    V: AsRef<str>,
{
    let variables = environment.iter().map(|(key, value)| (key.as_ref(), value.as_ref()));
    let mark = trace.map(Trace::variable);
    let variables = variables.chain(mark.iter().map(|(key, value)| (*key, value.as_str())));
    let cannot_run = |source| ServiceError::Spawn { command: display(argv), source };
    let (mut child, output) = spawn(argv, variables).map_err(cannot_run)?;
    let tail = Arc::new(Mutex::new(Tail::default()));
    let reading = tokio::spawn(read(output, Arc::clone(&tail)));
    let mut group = Group::of(&child);
    if let Some(trace) = trace {
        trace.started(&child);
    }
    let status = child.wait().await.map_err(cannot_run)?;
    group.release();
    // Running late is no error: the reader goes on, so that who holds the output meets no broken pipe while the agent
    // lives. A file would outlive the agent, but grow without end.
    let _ = tokio::time::timeout(GRACE, reading).await;
    let output = std::mem::take(&mut *tail.lock().unwrap_or_else(PoisonError::into_inner)).into_lines();
    Ok(Finished { command: display(argv), status, output })
}

/// Runs `argv` for all that it answers, which may be more than [`run`] keeps.
pub(super) async fn ask(argv: &[&str]) -> Result<String, ServiceError> {
    let cannot_run = |source| ServiceError::Spawn { command: display(argv), source };
    let mut command = command(argv, UNTRANSLATED.into_iter()).map_err(cannot_run)?;
    let answered = command.output().await.map_err(cannot_run)?;
    if answered.status.success() {
        return Ok(String::from_utf8_lossy(&answered.stdout).into_owned());
    }
    let output = lines_of(&answered.stderr);
    Err(ServiceError::Failed { command: display(argv), status: answered.status.to_string(), output })
}

/// What of it may be logged.
pub(super) fn lines_of(output: &[u8]) -> Vec<String> {
    let mut tail = Tail::default();
    tail.push(output);
    tail.into_lines()
}

fn command<'a>(argv: &[&str], environment: impl Iterator<Item = (&'a str, &'a str)>) -> io::Result<Command> {
    let (program, arguments) = argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(environment)
        .stdin(Stdio::null())
        // A ^C meant for the agent must not end the start of a service.
        .process_group(0)
        .kill_on_drop(true);
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    Ok(command)
}

/// Standard output and error share one pipe, so that their lines keep their order.
fn spawn<'a>(
    argv: &[&str],
    environment: impl Iterator<Item = (&'a str, &'a str)>,
) -> io::Result<(Child, pipe::Receiver)> {
    let (reader, writer) = io::pipe()?;
    let mut command = command(argv, environment)?;
    let child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    Ok((child, pipe::Receiver::from_owned_fd(reader.into())?))
}

async fn read(mut output: pipe::Receiver, tail: Arc<Mutex<Tail>>) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        tail.lock().unwrap_or_else(PoisonError::into_inner).push(&buffer[..count]);
    }
}

/// The command as one would type it.
pub(super) fn display(argv: &[&str]) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    let words = argv.iter().map(|word| {
        if !word.is_empty() && word.chars().all(is_plain) {
            (*word).to_owned()
        } else {
            // In one line: a script may be an argument.
            format!("'{}'", word.replace('\'', r"'\''").replace(char::is_control, " "))
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use std::io::{BufRead as _, Write as _};
    use std::path::Path;

    use super::*;

    const NONE: [(&str, &str); 0] = [];

    #[tokio::test]
    async fn both_streams_are_kept_in_order() {
        let finished =
            run(&["sh", "-c", "echo one; echo two >&2; echo three; exit 3"], &NONE, None).await.unwrap();
        assert_eq!(finished.output, ["one", "two", "three"]);
        let error = finished.into_failure().to_string();
        let command = "sh -c 'echo one; echo two >&2; echo three; exit 3'";
        assert_eq!(error, format!("`{command}` failed (exit status: 3): one | two | three"));
    }

    #[tokio::test]
    async fn an_answer_is_whole_and_without_what_is_said_beside_it() {
        let answer = ask(&["sh", "-c", "seq 30; printf '%2000d\\n' 7; echo no >&2"]).await.unwrap();
        assert_eq!((answer.lines().count(), answer.lines().last().unwrap().len()), (31, 2000));
        let error = ask(&["sh", "-c", "echo half; echo no >&2; exit 4"]).await.unwrap_err().to_string();
        assert!(error.ends_with("exit 4'` failed (exit status: 4): no"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = run(&["/no/such/systemctl", "stop"], &NONE, None).await.err().unwrap().to_string();
        assert!(error.starts_with("cannot run `/no/such/systemctl stop`: No such file"), "{error}");
    }

    #[tokio::test]
    async fn the_environment_is_handed_on_and_systemds_letters_are_not() {
        let own = NOT_INHERITED.map(|name| (name, "/x"));
        let environment = [&[("A", "1")][..], &own].concat();
        let finished =
            run(&["sh", "-c", "echo $A; cat; env | grep '=/x$'"], &environment, None).await.unwrap();
        assert_eq!(finished.output, ["1"]);
    }

    #[tokio::test]
    async fn a_daemon_that_keeps_the_output_open_is_not_waited_for() {
        let begun = std::time::Instant::now();
        let finished = run(&["sh", "-c", "sleep 3 & echo started"], &NONE, None).await.unwrap();
        assert_eq!(finished.output, ["started"]);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_dropped_answer_ends_the_command_and_leaves_no_zombie() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let script = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 60", file.display());
        let process = {
            let argv = ["sh", "-c", &script];
            let mut running = Box::pin(run(&argv, &NONE, None));
            loop {
                let waited = tokio::time::timeout(Duration::from_millis(5), &mut running).await;
                assert!(waited.is_err());
                if let Ok(pid) = std::fs::read_to_string(&file) {
                    break format!("/proc/{}", pid.trim());
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), async {
            while Path::new(&process).exists() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn a_dropped_answer_ends_the_children_before_they_do_their_work() {
        let directory = tempfile::tempdir().unwrap();
        let [words, go] = ["words", "go"].map(|name| {
            let path = directory.path().join(name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            path
        });
        let child = format!("echo ready; read line < {}; echo work", go.display());
        let script = format!("({child}) > {} & wait", words.display());
        let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let lines = std::io::BufReader::new(std::fs::File::open(words).unwrap()).lines();
            lines.for_each(|line| sender.send(line.unwrap()).unwrap());
        });
        let argv = ["sh", "-c", &script];
        tokio::select! {
            _ = run(&argv, &NONE, None) => panic!("the script waits for its child"),
            line = lines.recv() => assert_eq!(line.unwrap(), "ready"),
        }
        // Open for reading too: nobody else may be left to read.
        let mut told = std::fs::File::options().read(true).write(true).open(&go).unwrap();
        told.write_all(b"go\n").unwrap();
        let next = tokio::time::timeout(Duration::from_secs(10), lines.recv()).await;
        assert_eq!(next.unwrap(), None, "the child was to end without its work");
    }

    #[test]
    fn commands_are_shown_as_one_would_type_them() {
        assert_eq!(display(&["systemctl", "stop", "--", "a@b.service"]), "systemctl stop -- a@b.service");
        assert_eq!(display(&["x", "", "a b", "it's"]), r"x '' 'a b' 'it'\''s'");
    }
}
