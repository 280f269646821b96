//! A mark in the environment of what an attempt runs, by which the next agent finds what has outlived this one.
//!
//! A process group can be noted only once there is one, and the agent may be killed just before. The mark is on
//! record before anything is begun, and every child inherits it.

use std::collections::HashSet;
use std::time::Duration;
use std::{fs, io};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, getpgid, getpgrp, getsid};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::SurvivorError;
use super::survivor::GONE;

/// The variable.
const VARIABLE: &str = "INSTANCE_AGENT_RUN";
/// Ends the value for commands of a service manager.
const OF_MANAGER: &str = ":service";
/// Digits of the random part.
const DIGITS: usize = 32;
/// How often all processes are looked at while some of them end.
const LOOK: Duration = Duration::from_millis(50);

/// What the processes of one attempt have in common, and no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mark(String);

impl Mark {
    /// One that no other attempt has.
    pub fn random() -> Self {
        Self(format!("{:0DIGITS$x}", fastrand::u128(..)))
    }

    /// The variable for a command of the attempt.
    pub fn of_command(&self) -> (&'static str, String) {
        (VARIABLE, self.0.clone())
    }

    /// The variable for a command of the service manager, whose daemons inherit it too.
    pub fn of_manager(&self) -> (&'static str, String) {
        (VARIABLE, format!("{}{OF_MANAGER}", self.0))
    }

    /// Ends every process that has the mark, and waits until none is left.
    pub(super) async fn end(&self, kill_after: Duration) -> Result<(), SurvivorError> {
        let look = || self.groups().map_err(SurvivorError::Processes);
        for (signal, patience) in [(Signal::SIGTERM, kill_after), (Signal::SIGKILL, GONE)] {
            let deadline = Instant::now() + patience;
            let mut told = HashSet::new();
            // Looked at again and again, because one may fork while the others are looked at.
            loop {
                let groups = look()?;
                if groups.is_empty() {
                    return Ok(());
                }
                for group in groups.into_iter().filter(|group| told.insert(*group)) {
                    let _ = killpg(group, signal);
                    // A stopped process takes no notice of SIGTERM until it is continued.
                    let _ = killpg(group, Signal::SIGCONT);
                }
                if Instant::now() >= deadline {
                    break;
                }
                sleep(LOOK).await;
            }
        }
        let left: Vec<_> = look()?.into_iter().map(Pid::as_raw).collect();
        if left.is_empty() { Ok(()) } else { Err(SurvivorError::Marked { groups: left }) }
    }

    /// The process groups of all that have the mark.
    fn groups(&self) -> io::Result<HashSet<Pid>> {
        let mut groups = HashSet::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw) else {
                continue;
            };
            groups.extend(self.group_of(pid));
        }
        groups.remove(&getpgrp());
        Ok(groups)
    }

    /// `None`: it has not the mark, has ended, or is a daemon.
    fn group_of(&self, pid: Pid) -> Option<Pid> {
        let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
        let of_manager = self.marks(&environment)?;
        let group = getpgid(Some(pid)).ok()?;
        // Who has left the session of the command that started it is the service itself.
        let is_daemon = of_manager && getsid(Some(pid)).ok()? == group;
        (group.as_raw() > 1 && !is_daemon).then_some(group)
    }

    /// Whether it is in this environment; true: as that of a service manager's command.
    fn marks(&self, environment: &[u8]) -> Option<bool> {
        let variables = environment.split(|byte| *byte == 0);
        let mut values = variables.filter_map(|it| it.strip_prefix(VARIABLE.as_bytes())?.strip_prefix(b"="));
        let rest = values.find_map(|value| value.strip_prefix(self.0.as_bytes()))?;
        match rest {
            b"" => Some(false),
            rest => (rest == OF_MANAGER.as_bytes()).then_some(true),
        }
    }
}

impl From<Mark> for String {
    fn from(mark: Mark) -> Self {
        mark.0
    }
}

/// From a record, which may be damaged: a mark that is empty would be found in other environments.
impl TryFrom<String> for Mark {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            Ok(Self(text))
        } else {
            Err("the mark of an attempt has 32 hexadecimal digits")
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell that runs `line`, in a group of its own, and what it has said.
    fn marked((name, value): (&str, String), line: &str) -> (Child, String) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", line]).env(name, value).process_group(0).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut said).unwrap();
        (child, said.trim().to_owned())
    }

    #[tokio::test]
    async fn all_that_have_the_mark_are_ended_and_no_others() {
        let (mark, other) = (Mark::random(), Mark::random());
        let (mut bystander, _) = marked(other.of_command(), "echo; sleep 60");
        // One has left group and session, one ignores SIGTERM.
        let children = [
            marked(mark.of_command(), "echo; sleep 60"),
            marked(mark.of_command(), "setsid sleep 60 & echo; wait"),
            marked(mark.of_command(), "trap '' TERM; echo; sleep 60"),
            marked(mark.of_manager(), "sleep 60 & echo; wait"),
        ];
        mark.end(Duration::from_millis(200)).await.unwrap();
        assert!(mark.groups().unwrap().is_empty());
        for (mut child, _) in children {
            assert!(!child.wait().unwrap().success());
        }
        assert_eq!(bystander.try_wait().unwrap(), None);
        other.end(Duration::from_secs(10)).await.unwrap();
        assert!(!bystander.wait().unwrap().success());
    }

    #[tokio::test]
    async fn a_daemon_that_a_service_manager_started_is_let_be() {
        let mark = Mark::random();
        let line = "setsid sh -c 'echo $$; exec sleep 60' & wait";
        let (mut starter, daemon) = marked(mark.of_manager(), line);
        mark.end(Duration::from_secs(10)).await.unwrap();
        assert!(!starter.wait().unwrap().success());
        let daemon = Pid::from_raw(daemon.parse().unwrap());
        killpg(daemon, Signal::SIGKILL).unwrap();
    }

    #[test]
    fn only_the_whole_mark_counts() {
        let mark = Mark("0123456789abcdef0123456789abcdef".to_owned());
        let says = |value: &str| mark.marks(format!("A=b\0INSTANCE_AGENT_RUN={value}\0C=d\0").as_bytes());
        assert_eq!(says(&mark.0), Some(false));
        assert_eq!(says(&format!("{}:service", mark.0)), Some(true));
        assert_eq!(says(&format!("{}0", mark.0)), None);
        assert_eq!(says(""), None);
        assert_eq!(mark.marks(format!("X_INSTANCE_AGENT_RUN={}\0", mark.0).as_bytes()), None);
    }

    #[test]
    fn a_damaged_record_marks_nothing() {
        let mark = Mark::random();
        let text = serde_json::to_string(&mark).unwrap();
        assert_eq!(serde_json::from_str::<Mark>(&text).unwrap(), mark);
        for text in [r#""""#, r#""abc""#, r#""0123456789abcdef0123456789abcdeg""#] {
            assert!(serde_json::from_str::<Mark>(text).is_err(), "{text}");
        }
    }
}
