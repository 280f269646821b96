//! How ending a survivor fails.

use std::io;

/// A command that outlived the agent that ran it could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum SurvivorError {
    /// It is a process group.
    #[error("process group {pgid} does not end: see `ps -g {pgid}`, and end it by hand")]
    Group {
        /// Its number.
        pgid: i32,
    },
    /// It cannot be told from another one.
    #[error("process group {pgid} cannot be looked at: {error}: mount /proc so that the agent can read it")]
    Unknown {
        /// Its number.
        pgid: i32,
        /// Why.
        error: io::Error,
    },
}
