//! How a command fails, each in one plain line.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use humantime::format_duration;
use nix::sys::signal::Signal;

use super::{CommandSpec, PATH, SystemdError, clean};

/// Characters of a command that errors show: enough to know it by.
const SHOWN: usize = 200;

/// A command did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// It never ran.
    #[error("cannot start {command}: {cause}")]
    Start {
        /// The command, its user and its directory.
        command: String,
        /// Why.
        cause: StartError,
    },
    /// It failed by its own account.
    #[error("{command} exited with status {code}{}", last(.tail))]
    Exited {
        /// The command, its user and its directory.
        command: String,
        /// The exit status, not 0.
        code: i32,
        /// Its last lines of output.
        tail: Vec<String>,
    },
    /// Something else ended it.
    #[error("{command} was ended by {}{}", name(*.signal), last(.tail))]
    Signalled {
        /// The command, its user and its directory.
        command: String,
        /// The signal's number.
        signal: i32,
        /// Its last lines of output.
        tail: Vec<String>,
    },
    /// It took too long.
    #[error(
        "{command} was {} after its time limit of {} (raise `timeout` if it needs longer){}",
        ended(*.killed), format_duration(*.after), last(.tail)
    )]
    TimedOut {
        /// The command, its user and its directory.
        command: String,
        /// How long it had.
        after: Duration,
        /// True when it did not heed SIGTERM and was killed.
        killed: bool,
        /// Its last lines of output.
        tail: Vec<String>,
    },
    /// The agent is shutting down.
    #[error(
        "{command} was {} because the agent is shutting down and waited {} for it{}",
        ended(*.killed), format_duration(*.grace), last(.tail)
    )]
    Interrupted {
        /// The command, its user and its directory.
        command: String,
        /// How long the shutdown waited.
        grace: Duration,
        /// True when it did not heed SIGTERM and was killed.
        killed: bool,
        /// Its last lines of output.
        tail: Vec<String>,
    },
    /// The system did not say how it ended.
    #[error("{command} ran, but its exit status is unknown: {error}{}", last(.tail))]
    Lost {
        /// The command, its user and its directory.
        command: String,
        /// Why.
        error: io::Error,
        /// Its last lines of output.
        tail: Vec<String>,
    },
}

impl CommandError {
    /// The exit status, when it ended with one.
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Exited { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Its last lines of output, oldest first, cleaned of control characters.
    pub fn tail(&self) -> &[String] {
        match self {
            Self::Start { .. } => &[],
            Self::Exited { tail, .. }
            | Self::Signalled { tail, .. }
            | Self::TimedOut { tail, .. }
            | Self::Interrupted { tail, .. }
            | Self::Lost { tail, .. } => tail,
        }
    }
}

/// Why a command never ran.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// There is nothing to run.
    #[error("it names no program")]
    Empty,
    /// No such user.
    #[error("there is no user `{}`: create it, or correct `user`", clean(.user))]
    UnknownUser {
        /// The name.
        user: String,
    },
    /// The user database cannot be read.
    #[error("user `{}` cannot be looked up: {error}", clean(.user))]
    LookUp {
        /// The name.
        user: String,
        /// Why.
        error: io::Error,
    },
    /// The change of user was refused.
    #[error(
        "cannot become user `{}`: {error}: only root may, so run the agent as root or leave `user` out",
        clean(.user)
    )]
    Become {
        /// The name.
        user: String,
        /// Why.
        error: io::Error,
    },
    /// The change of user can be undone.
    #[error(
        "user `{}` could become root again, so nothing was run: take the agent's CAP_SETUID away or run it as root",
        clean(.user)
    )]
    Undoable {
        /// The name.
        user: String,
    },
    /// The directory cannot be entered.
    #[error(
        "cannot enter directory `{}`: {error}: create it, let the command's user enter it, or correct `dir`",
        clean(&.dir.to_string_lossy())
    )]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The program cannot be run.
    #[error("cannot run program `{}`: {error}{advice}", clean(.program))]
    Program {
        /// The program.
        program: String,
        /// Why.
        error: io::Error,
        /// What to do, with the colon before it; may be empty.
        advice: String,
    },
    /// The program that changes the user cannot be run.
    #[error("cannot run `{}`, which changes the user: {error}: install the agent again", clean(&.helper.to_string_lossy()))]
    Helper {
        /// The program.
        helper: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// What that program said.
    #[error("{0}")]
    Reported(String),
    /// The same command still runs, from an agent that was killed.
    #[error("an earlier run of it could not be ended: {0}")]
    Survivor(SystemdError),
    /// The program that starts units cannot be run.
    #[error("{0}")]
    Systemd(SystemdError),
    /// What that program said.
    #[error("systemd did not run it: {0}")]
    Refused(String),
    /// The process group could not be told from a later one.
    #[error("its process group cannot be recorded: {0}: mount /proc so that the agent can read it")]
    Unrecorded(io::Error),
    /// The system has no pipe for the command's output.
    #[error("no pipe for its output: {0}: raise the agent's limit of open files")]
    Pipe(io::Error),
}

impl StartError {
    /// A program that could not be run, with advice where the cause is known. `exists`: the file is there.
    pub(super) fn program(program: &str, exists: bool, error: io::Error) -> Self {
        let advice = match error.kind() {
            io::ErrorKind::NotFound if exists => {
                ": the file is there, but what its first line (`#!`) or its ELF header names is not".into()
            }
            io::ErrorKind::NotFound if !program.contains('/') => {
                format!(": install it in one of {PATH}, or give its full path")
            }
            io::ErrorKind::NotFound => ": install it, or correct `command`".into(),
            io::ErrorKind::PermissionDenied => {
                ": let the command's user execute it and enter the directories above it".into()
            }
            _ => String::new(),
        };
        Self::Program { program: program.into(), error, advice }
    }
}

/// The command as errors name it: `switch app` as `deploy` in `/srv/app`.
pub(super) fn describe(spec: &CommandSpec) -> String {
    let words: Vec<_> = spec.argv.iter().map(|word| quote(word)).collect();
    let command = shorten(&words.join(" "));
    let user = spec.user.as_ref().map(|user| format!(" as `{}`", clean(user))).unwrap_or_default();
    let dir = spec.dir.as_ref().map(|dir| format!(" in `{}`", clean(&dir.to_string_lossy())));
    format!("`{command}`{user}{}", dir.unwrap_or_default())
}

/// As a shell would want it, so that where an argument ends can be seen.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "_@%+=:,./-{}".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", clean(word).replace('\'', r"'\''"))
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.into(),
    }
}

fn last(tail: &[String]) -> String {
    tail.last().map(|line| format!(": {line}")).unwrap_or_default()
}

fn name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |signal| signal.as_str().into())
}

fn ended(killed: bool) -> &'static str {
    if killed { "killed, as it did not heed SIGTERM," } else { "ended" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(argv: &[&str]) -> CommandSpec {
        let argv = argv.iter().map(|&word| word.into()).collect();
        CommandSpec { argv, user: None, dir: None, timeout: Duration::from_secs(1) }
    }

    #[test]
    fn a_command_is_described_with_its_user_and_directory() {
        let plain = spec(&["/usr/local/bin/switch", "app"]);
        assert_eq!(describe(&plain), "`/usr/local/bin/switch app`");
        let full = CommandSpec { user: Some("deploy".into()), dir: Some("/srv/app".into()), ..plain };
        assert_eq!(describe(&full), "`/usr/local/bin/switch app` as `deploy` in `/srv/app`");
    }

    #[test]
    fn arguments_are_quoted_cleaned_and_shortened() {
        assert_eq!(describe(&spec(&["echo", "", "a b", "it's"])), r"`echo '' 'a b' 'it'\''s'`");
        assert_eq!(describe(&spec(&["echo", "a\n\x1b[2J"])), "`echo 'a\u{fffd}\u{fffd}[2J'`");
        assert_eq!(describe(&spec(&[&"é".repeat(1000)])), format!("`{}…`", "é".repeat(SHOWN)));
        let hostile = CommandSpec { user: Some("a\nb".into()), dir: Some("/c\rd".into()), ..spec(&["x"]) };
        assert_eq!(describe(&hostile), "`x` as `a\u{fffd}b` in `/c\u{fffd}d`");
    }

    #[test]
    fn every_failure_is_one_line_that_says_what_happened() {
        let command = || "`switch app`".to_owned();
        let tail = || vec!["first".to_owned(), "disk full".to_owned()];
        let minute = Duration::from_secs(60);
        let exited = CommandError::Exited { command: command(), code: 3, tail: tail() };
        assert_eq!(exited.to_string(), "`switch app` exited with status 3: disk full");
        assert_eq!((exited.exit_code(), exited.tail()), (Some(3), tail().as_slice()));
        let signalled = CommandError::Signalled { command: command(), signal: 9, tail: vec![] };
        assert_eq!(signalled.to_string(), "`switch app` was ended by SIGKILL");
        assert_eq!(signalled.exit_code(), None);
        let late = CommandError::TimedOut { command: command(), after: minute, killed: false, tail: tail() };
        assert_eq!(
            late.to_string(),
            "`switch app` was ended after its time limit of 1m (raise `timeout` if it needs longer): disk full"
        );
        let stopped =
            CommandError::Interrupted { command: command(), grace: minute, killed: true, tail: tail() };
        assert_eq!(
            stopped.to_string(),
            "`switch app` was killed, as it did not heed SIGTERM, because the agent is shutting down \
             and waited 1m for it: disk full"
        );
    }
}
