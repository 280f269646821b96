//! Runs a configured command: its user, directory, environment, time limit, and its last lines of output.

use std::path::PathBuf;
use std::time::Duration;

/// A command of the configuration. `argv` is never empty and no shell reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandSpec {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Whom to run it as; `None`: as the agent itself.
    pub user: Option<String>,
    /// Where to run it; `None`: the user's home directory.
    pub dir: Option<PathBuf>,
    /// How long it may take.
    pub timeout: Duration,
}
