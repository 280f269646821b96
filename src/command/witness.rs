//! Tells how a command's unit ended, from within the unit.
//!
//! systemd and its client are not believed: of a unit that is forgotten by the time they are asked, both say that it
//! succeeded. So the unit's main process starts the command and reports its end; without a report nothing has succeeded.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use nix::sys::signal::SigSet;

/// The hidden subcommand that calls [`witness`].
pub(super) const WITNESS: &str = "witness";
const REPORT: &str = "command ended with wait status ";

/// Runs this program with these arguments as a child, waits for its end, and reports that on standard error: what
/// `instance-agent witness exec-as …` does. Signals that the unit gets are for the command: they do not end this process.
pub fn witness(arguments: &[OsString]) -> io::Result<ExitStatus> {
    let mut child = Command::new("/proc/self/exe").args(arguments).spawn()?;
    // Not before: a signal that comes while there is no command yet would reach nobody.
    SigSet::all().thread_block()?;
    let status = child.wait()?;
    // Nobody reads it any more when the agent was killed.
    let _ = writeln!(io::stderr(), "{REPORT}{}", status.into_raw());
    Ok(status)
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
    fn half_a_report_is_none() {
        for line in ["", REPORT, "command ended with wait status x", "command ended"] {
            assert!(heard(&mut vec![line.to_owned()]).is_none(), "{line}");
        }
    }
}
