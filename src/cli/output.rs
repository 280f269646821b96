//! What subcommands print: a reader may go away at any time, and a disk may be full.

use std::io::{self, Write};
use std::process::ExitCode;

use super::exit;

/// Writes to standard output; the exit code is what `write` says, or failure.
pub(super) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<ExitCode>) -> ExitCode {
    let mut out = io::stdout().lock();
    let written = write(&mut out).and_then(|code| out.flush().map(|()| code));
    written.unwrap_or_else(|error| unwritten(&error))
}

/// A reader that has seen enough, as `head` has, is no failure.
pub(super) fn unwritten(error: &io::Error) -> ExitCode {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return ExitCode::SUCCESS;
    }
    exit::failure(error, exit::FAILED)
}
