//! The names of a deploy's commands, and what is put on record of one that runs.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ProcessGroup;
use crate::config::AppName;

const PREFIX: &str = "instance-agent-";

/// The steps of a deploy that run a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobStep {
    /// While the old version still serves.
    Prepare,
    /// While the services are down.
    Update,
    /// Once they are up again.
    Check,
}

impl JobStep {
    /// All of them, in their order.
    pub const ALL: [Self; 3] = [Self::Prepare, Self::Update, Self::Check];

    fn as_str(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Update => "update",
            Self::Check => "check",
        }
    }
}

/// The name of one app's command of one step, `instance-agent-<step>-<app>`: under systemd that of its unit.
///
/// An `@`, which would make the unit an instance of a template, is written `\a`: app names have no `\`, so
/// different apps have different names, and twice the longest app name is still shorter than a unit's may be.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobName(String);

impl JobName {
    /// The command of the app in this step.
    pub fn new(step: JobStep, app: &AppName) -> Self {
        Self(format!("{PREFIX}{}-{}", step.as_str(), escape(app)))
    }

    /// One that no other command has or had, for what tells how a deploy of the app ended.
    pub(super) fn notice(app: &AppName) -> Self {
        let number = fastrand::u64(..);
        Self(format!("{PREFIX}outcome-{}-{number:016x}", escape(app)))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<JobName> for String {
    fn from(name: JobName) -> Self {
        name.0
    }
}

/// From a record, which may be damaged: a name that is no command's could stop any unit of the system.
impl TryFrom<String> for JobName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let app = text.strip_prefix(PREFIX).and_then(|rest| {
            let rests =
                JobStep::ALL.into_iter().map(|step| rest.strip_prefix(step.as_str())?.strip_prefix('-'));
            rests.flatten().next()
        });
        let app = app.and_then(|app| app.replace(r"\a", "@").parse::<AppName>().ok());
        if app.is_some() { Ok(Self(text)) } else { Err(format!("{text:?} is not the name of a command")) }
    }
}

fn escape(app: &AppName) -> String {
    app.as_str().replace('@', r"\a")
}

/// A command that runs, as a journal keeps it: enough to end it when the agent did not live to see its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Running {
    /// A unit of systemd's.
    Unit(JobName),
    /// A process group.
    Group(ProcessGroup),
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn name(app: &str) -> JobName {
        JobName::new(JobStep::Update, &app.parse().unwrap())
    }

    #[test]
    fn a_name_is_made_of_step_and_app() {
        assert_eq!(name("web-1.example:8_0").as_str(), "instance-agent-update-web-1.example:8_0");
        let names = JobStep::ALL.map(|step| JobName::new(step, &"web".parse().unwrap()).to_string());
        let expected =
            ["instance-agent-prepare-web", "instance-agent-update-web", "instance-agent-check-web"];
        assert_eq!(names, expected);
    }

    #[test]
    fn no_name_is_a_template_and_no_two_apps_share_one() {
        let apps = ["a@b", "aab", "a-b", "a.b", "a:b", "a@@b", "a@ab", "a@a@b", "aa@b", "a@", "aa"];
        let names: HashSet<_> = apps.iter().map(|app| name(app).to_string()).collect();
        assert_eq!(names.len(), apps.len());
        assert!(names.iter().all(|name| !name.contains('@')));
        assert_eq!(name("worker@1").as_str(), r"instance-agent-update-worker\a1");
    }

    #[test]
    fn the_longest_name_is_a_unit_name() {
        let app = format!("a{}", "@".repeat(99)).parse().unwrap();
        for longest in [JobName::new(JobStep::Prepare, &app), JobName::notice(&app)] {
            assert!(longest.as_str().len() + ".service".len() <= 255);
        }
    }

    #[test]
    fn a_record_is_read_again() {
        for app in ["web", "worker@1", "a.service"] {
            let running = Running::Unit(name(app));
            let text = serde_json::to_string(&running).unwrap();
            assert_eq!(serde_json::from_str::<Running>(&text).unwrap(), running, "{text}");
        }
        assert_eq!(serde_json::to_string(&name("web")).unwrap(), r#""instance-agent-update-web""#);
    }

    #[test]
    fn a_damaged_record_names_no_other_unit() {
        let names = ["sshd", "instance-agent", "instance-agent-update-", "instance-agent-boot-web"];
        for text in names.into_iter().chain(["instance-agent-update-a@b c", "instance-agent-update-*", ""]) {
            assert!(JobName::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
