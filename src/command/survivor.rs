//! A command's process group on record, and its end when the agent that ran it is gone.

use std::time::Duration;
use std::{fs, io};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid, getsid};
use serde::{Deserialize, Serialize};
use tokio::time::{sleep, timeout};

use super::SurvivorError;
use super::group::LOOK;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// How long killed processes may take to be gone: some wait for a disk first.
pub(super) const GONE: Duration = Duration::from_secs(10);

/// A process group that a later process can tell from another one with the same number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessGroup {
    pgid: i32,
    /// When its leader began, in ticks since the boot.
    start_time: u64,
    /// The session that it lies in.
    #[serde(default)]
    session: i32,
    boot_id: String,
}

impl ProcessGroup {
    /// The group that the process leads, which must not have been reaped yet.
    pub(crate) fn led_by(pgid: i32) -> io::Result<Self> {
        let gone = || io::Error::other(format!("process {pgid} is gone"));
        let start_time = start_time(pgid)?.ok_or_else(gone)?;
        let session = getsid(Some(Pid::from_raw(pgid)))?.as_raw();
        Ok(Self { pgid, start_time, session, boot_id: boot_id()? })
    }

    /// Ends every process of the group, if it is still the same one, and waits until all are gone.
    pub(super) async fn end(&self, kill_after: Duration) -> Result<(), SurvivorError> {
        let unknown = |error| SurvivorError::Unknown { pgid: self.pgid, error };
        if !self.may_be_alive().map_err(unknown)? {
            return Ok(());
        }
        let group = Pid::from_raw(self.pgid);
        for (signal, patience) in [(Signal::SIGTERM, kill_after), (Signal::SIGKILL, GONE)] {
            let _ = killpg(group, signal);
            // A stopped process takes no notice of SIGTERM until it is continued.
            let _ = killpg(group, Signal::SIGCONT);
            if timeout(patience, gone(group)).await.is_ok() {
                return Ok(());
            }
        }
        Err(SurvivorError::Group { pgid: self.pgid })
    }

    /// The number of a group is not given to a process as long as one of the group is left. So another process
    /// with that number means that the group is gone; no process with that number, that its leader is.
    fn may_be_alive(&self) -> io::Result<bool> {
        // A damaged record: 0 is the agent's own group, 1 would stand for all processes.
        if self.pgid <= 1 || boot_id()? != self.boot_id {
            return Ok(false);
        }
        match start_time(self.pgid)? {
            Some(start_time) => Ok(start_time == self.start_time),
            None => self.has_members(),
        }
    }

    /// A later group of the same number, whose leader has gone as well, is a daemon's or a shell's: of another session.
    fn has_members(&self) -> io::Result<bool> {
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw) else {
                continue;
            };
            let is_member = getpgid(Some(pid)).is_ok_and(|group| group.as_raw() == self.pgid);
            if is_member {
                return Ok(getsid(Some(pid)).is_ok_and(|session| session.as_raw() == self.session));
            }
        }
        Ok(false)
    }
}

async fn gone(group: Pid) {
    while killpg(group, None) != Err(Errno::ESRCH) {
        sleep(LOOK).await;
    }
}

/// `None`: there is no such process.
fn start_time(pid: i32) -> io::Result<Option<u64>> {
    let path = format!("/proc/{pid}/stat");
    match fs::read_to_string(&path) {
        Ok(stat) => {
            parse(&stat).map(Some).ok_or_else(|| io::Error::other(format!("{path} is not understood")))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::exists(BOOT_ID)? => Ok(None),
        // The process ended between the opening and the reading.
        Err(error) if error.raw_os_error() == Some(Errno::ESRCH as i32) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Field 22; the second one is the program's name in parentheses, which may hold spaces and parentheses.
fn parse(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19)?.parse().ok()
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(BOOT_ID)?.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn sleeper() -> (Child, ProcessGroup) {
        let child = Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        let group = ProcessGroup::led_by(child.id().try_into().unwrap()).unwrap();
        (child, group)
    }

    async fn lives_through(child: &mut Child, group: ProcessGroup) {
        group.end(Duration::ZERO).await.unwrap();
        assert_eq!(child.try_wait().unwrap(), None, "{group:?}");
    }

    #[tokio::test]
    async fn only_the_same_group_of_the_same_boot_is_ended() {
        let (mut child, group) = sleeper();
        let reused = ProcessGroup { start_time: group.start_time + 1, ..group.clone() };
        lives_through(&mut child, reused).await;
        let rebooted = ProcessGroup { boot_id: "another".into(), ..group.clone() };
        lives_through(&mut child, rebooted).await;
        let reaper = tokio::task::spawn_blocking(move || child.wait());
        group.end(Duration::from_secs(10)).await.unwrap();
        assert!(!reaper.await.unwrap().unwrap().success());
        group.end(Duration::ZERO).await.unwrap();
    }

    /// As a daemon forks, and as a command that was ended leaves its children.
    #[tokio::test]
    async fn without_a_leader_a_group_is_the_same_only_in_its_session() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "sleep 60 & echo $!; read line"]).process_group(0);
        let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let group = ProcessGroup::led_by(shell.id().try_into().unwrap()).unwrap();
        let mut child = String::new();
        BufReader::new(shell.stdout.take().unwrap()).read_line(&mut child).unwrap();
        let child = Pid::from_raw(child.trim().parse().unwrap());
        drop(shell.stdin.take());
        shell.wait().unwrap();
        let later = ProcessGroup { session: group.session + 1, ..group.clone() };
        later.end(Duration::ZERO).await.unwrap();
        assert_eq!(getpgid(Some(child)).map(Pid::as_raw), Ok(group.pgid), "another's was ended");
        group.end(Duration::from_secs(10)).await.unwrap();
        assert_eq!(getpgid(Some(child)), Err(Errno::ESRCH));
    }

    #[tokio::test]
    async fn a_damaged_record_ends_nothing() {
        let (_, group) = sleeper();
        for pgid in [i32::MIN, -1, 0, 1] {
            assert!(!ProcessGroup { pgid, ..group.clone() }.may_be_alive().unwrap());
        }
        killpg(Pid::from_raw(group.pgid), Signal::SIGKILL).unwrap();
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        assert_eq!(parse(&format!("7 (sleep) {fields}")), Some(4711));
        assert_eq!(parse(&format!("7 (a) b (c) {fields}")), Some(4711));
        assert_eq!(parse("7 (sleep) S 1"), None);
    }

    #[test]
    fn a_record_is_read_again() {
        let group = ProcessGroup { pgid: 7, start_time: 4711, session: 5, boot_id: "x".into() };
        let text = serde_json::to_string(&group).unwrap();
        assert_eq!(text, r#"{"pgid":7,"start_time":4711,"session":5,"boot_id":"x"}"#);
        assert_eq!(serde_json::from_str::<ProcessGroup>(&text).unwrap(), group);
    }
}
