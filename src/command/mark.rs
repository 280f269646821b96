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
/// Digits of the random part.
const DIGITS: usize = 32;
/// How often all processes are looked at while some of them end.
const LOOK: Duration = Duration::from_millis(50);

/// What the processes of one attempt have in common, and no others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    id: MarkId,
    /// The session of the agent and its commands. Who has left it is a daemon, which outlives its command.
    session: i32,
}

/// The value of the variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct MarkId(String);

impl Mark {
    /// One that no other attempt has, for what this process starts.
    pub fn random() -> Self {
        // It fails only for other processes than this one.
        let session = getsid(None).map_or(0, Pid::as_raw);
        Self { id: MarkId(format!("{:0DIGITS$x}", fastrand::u128(..))), session }
    }

    /// The variable, for the environment of a command.
    pub fn variable(&self) -> (&'static str, String) {
        (VARIABLE, self.id.0.clone())
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
        if !self.is_in(&environment) || getsid(Some(pid)).ok()?.as_raw() != self.session {
            return None;
        }
        getpgid(Some(pid)).ok().filter(|group| group.as_raw() > 1)
    }

    fn is_in(&self, environment: &[u8]) -> bool {
        let mut variables = environment.split(|byte| *byte == 0);
        variables.any(|it| {
            let value = it.strip_prefix(VARIABLE.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
            value == Some(self.id.0.as_bytes())
        })
    }
}

impl From<MarkId> for String {
    fn from(mark: MarkId) -> Self {
        mark.0
    }
}

/// From a record, which may be damaged: a mark that is empty would be found in other environments.
impl TryFrom<String> for MarkId {
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
        let (mut bystander, _) = marked(other.variable(), "echo; sleep 60");
        // One has children in groups of their own, one ignores SIGTERM.
        let children = [
            marked(mark.variable(), "echo; sleep 60"),
            marked(mark.variable(), "set -m; sleep 60 & sleep 60 & echo; wait"),
            marked(mark.variable(), "trap '' TERM; echo; sleep 60"),
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
    async fn a_daemon_is_let_be_with_all_its_children() {
        let mark = Mark::random();
        let line = "setsid bash -c 'set -m; sleep 60 & echo $$; wait' & wait";
        let (mut starter, daemon) = marked(mark.variable(), line);
        mark.end(Duration::from_secs(10)).await.unwrap();
        assert!(!starter.wait().unwrap().success());
        let daemon = Pid::from_raw(daemon.parse().unwrap());
        let children = fs::read_to_string(format!("/proc/{daemon}/task/{daemon}/children")).unwrap();
        let child = Pid::from_raw(children.trim().parse().unwrap());
        for group in [child, daemon] {
            killpg(group, Signal::SIGKILL).unwrap();
        }
    }

    #[test]
    fn only_the_whole_mark_counts() {
        let mark = Mark::random();
        let id = &mark.id.0;
        let says = |value: &str| mark.is_in(format!("A=b\0INSTANCE_AGENT_RUN={value}\0C=d\0").as_bytes());
        assert!(says(id));
        assert!(!says(&format!("{id}0")) && !says("") && !says(&id[1..]));
        assert!(!mark.is_in(format!("X_INSTANCE_AGENT_RUN={id}\0").as_bytes()));
    }

    #[test]
    fn a_damaged_record_marks_nothing() {
        let mark = Mark::random();
        let text = serde_json::to_string(&mark).unwrap();
        assert_eq!(serde_json::from_str::<Mark>(&text).unwrap(), mark);
        for id in ["", "abc", "0123456789abcdef0123456789abcdeg"] {
            let text = format!(r#"{{"id": "{id}", "session": 1}}"#);
            assert!(serde_json::from_str::<Mark>(&text).is_err(), "{text}");
        }
    }
}
