//! Tells how a command's unit ended, from within the unit.
//!
//! systemd and its client are not believed: of a unit that is forgotten by the time they are asked, both say that it
//! succeeded. So the unit's main process starts the command and reports its end; without a report nothing has succeeded.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use nix::sys::signal::SigSet;

use super::error::StartError;

/// The hidden subcommand that calls [`witness`].
pub(super) const WITNESS: &str = "witness";
/// After the environment, on standard input.
const END: u8 = b'\n';
const REPORT: &str = "command ended with wait status ";

/// What goes to a witness's standard input: the environment, which as arguments everybody on the host could read, and
/// what is for the command.
pub(super) fn input(environment: &[(String, String)], command: &[u8]) -> Result<Vec<u8>, StartError> {
    let header = (environment, !command.is_empty());
    // JSON writes a line's end within a value otherwise.
    let mut input = serde_json::to_vec(&header).map_err(|error| StartError::Pipe(error.into()))?;
    input.push(END);
    input.extend_from_slice(command);
    Ok(input)
}

/// Reads the environment from standard input, runs this program with it and these arguments as a child, waits for its
/// end, and reports that on standard error: what `instance-agent witness exec-as …` does. Signals that the unit gets are
/// for the command: they do not end this process.
pub fn witness(arguments: &[OsString]) -> io::Result<ExitStatus> {
    let (environment, more) = read_header(File::from(io::stdin().as_fd().try_clone_to_owned()?))?;
    let stdin = if more { Stdio::inherit() } else { Stdio::null() };
    let mut child = Command::new("/proc/self/exe").args(arguments).envs(environment).stdin(stdin).spawn()?;
    // Not before: a signal that comes while there is no command yet would reach nobody.
    SigSet::all().thread_block()?;
    let status = child.wait()?;
    // Nobody reads it any more when the agent was killed.
    // On a line of its own, whatever a name service has left unfinished.
    let _ = writeln!(io::stderr(), "\n{REPORT}{}", status.into_raw());
    Ok(status)
}

/// The environment, and whether more follows: the command's, so this reads byte by byte.
fn read_header(mut input: impl Read) -> io::Result<(Vec<(String, String)>, bool)> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        input.read_exact(&mut byte)?;
        if byte == [END] {
            return Ok(serde_json::from_slice(&line)?);
        }
        line.extend(byte);
    }
}

/// Takes the report out of what was written.
pub(super) fn heard(lines: &mut Vec<String>) -> Option<ExitStatus> {
    let read = |line: &String| line.strip_prefix(REPORT)?.parse().ok().map(ExitStatus::from_raw);
    let position = lines.iter().rposition(|line| read(line).is_some())?;
    read(&lines.remove(position))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_told_from_other_words() {
        let mut lines = vec!["nss: no server".to_owned(), format!("{REPORT}{}", 3 << 8), "bye".to_owned()];
        assert_eq!(heard(&mut lines).unwrap().code(), Some(3));
        assert_eq!(lines, ["nss: no server", "bye"]);
        assert!(heard(&mut lines).is_none());
        assert_eq!(heard(&mut vec![format!("{REPORT}9")]).unwrap().signal(), Some(9));
    }

    #[test]
    fn the_environment_is_read_and_not_a_byte_more() {
        let environment = [("A".to_owned(), "1\n2".to_owned()), ("B".to_owned(), "\"ä".to_owned())];
        for command in ["for\nthe command", ""] {
            let input = input(&environment, command.as_bytes()).unwrap();
            let mut input = input.as_slice();
            assert_eq!(read_header(&mut input).unwrap(), (environment.to_vec(), !command.is_empty()));
            assert_eq!(input, command.as_bytes());
        }
        assert!(read_header(b"[[],false]".as_slice()).is_err(), "cut short");
    }

    #[test]
    fn half_a_report_is_none() {
        for line in ["", REPORT, "command ended with wait status x", "command ended"] {
            assert!(heard(&mut vec![line.to_owned()]).is_none(), "{line}");
        }
    }
}
