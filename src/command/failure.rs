//! How dealing with systemd fails, and how ending a survivor does.

use std::io;
use std::time::Duration;

use humantime::format_duration;

/// systemd did not do what was asked of it.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// Its program cannot be run.
    #[error("cannot run `{program}`: {error}: it is part of systemd, so repair its package")]
    Run {
        /// The program.
        program: String,
        /// Why.
        error: io::Error,
    },
    /// Its program does not come to an end.
    #[error("`{program}` gave no answer within {}: look at what systemd does with `systemctl list-jobs`", format_duration(*.after))]
    Silent {
        /// The program.
        program: String,
        /// How long it had.
        after: Duration,
    },
    /// It is of no known kind.
    #[error("`systemd-run --version` is not understood: {said}")]
    Version {
        /// What it says.
        said: String,
    },
    /// It does not say how a unit is.
    #[error("systemd does not say how {unit} is: {said}: try `systemctl show {unit}`")]
    Answer {
        /// The unit.
        unit: String,
        /// What it says.
        said: String,
    },
    /// A unit cannot be stopped.
    #[error("{unit} does not end: see `systemctl status {unit}`, and stop it by hand")]
    Alive {
        /// The unit.
        unit: String,
    },
    /// The client ended before its unit.
    #[error(
        "`systemd-run` lost sight of {unit}, which was therefore stopped: was it killed, or D-Bus restarted?"
    )]
    Lost {
        /// The unit.
        unit: String,
    },
    /// Nothing was heard from within a unit.
    #[error(
        "{unit} ended before its command was seen to end: see `journalctl --unit={unit}` for what killed it"
    )]
    Unseen {
        /// The unit.
        unit: String,
    },
}

/// A command that outlived the agent that ran it could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum SurvivorError {
    /// It is a unit.
    #[error(transparent)]
    Systemd(#[from] SystemdError),
    /// It is a process group.
    #[error("process group {pgid} does not end: see `ps -g {pgid}`, and end it by hand")]
    Group {
        /// Its number.
        pgid: i32,
    },
    /// They are process groups that were found by their mark.
    #[error("process groups {groups:?} do not end: see `ps -g NUMBER` for each, and end them by hand")]
    Marked {
        /// Their numbers.
        groups: Vec<i32>,
    },
    /// Nobody can be looked for.
    #[error("/proc cannot be read: {0}: mount it, or look for commands that still run by hand")]
    Processes(io::Error),
    /// It cannot be told from another one.
    #[error("process group {pgid} cannot be looked at: {error}: mount /proc so that the agent can read it")]
    Unknown {
        /// Its number.
        pgid: i32,
        /// Why.
        error: io::Error,
    },
}
