//! What subcommands print: a reader may go away at any time, and a disk may be full.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use super::exit;

/// Writes to standard output; the exit code is what `write` says, or failure.
pub(super) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<ExitCode>) -> ExitCode {
    let mut out = io::stdout().lock();
    let written = write(&mut out).and_then(|code| out.flush().map(|()| code));
    written.unwrap_or_else(|error| unwritten(&error))
}

/// Writes a line to standard error, which may be full or gone as well: then there is nobody to tell.
pub(super) fn complain(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Whether this stream is to be coloured: a terminal's, unless its user wants none (no-color.org).
pub(super) fn in_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A reader that has seen enough, as `head` has, is no failure.
pub(super) fn unwritten(error: &io::Error) -> ExitCode {
    if error.kind() == io::ErrorKind::BrokenPipe {
        return ExitCode::SUCCESS;
    }
    exit::failure(error, exit::FAILED)
}
