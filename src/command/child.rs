//! A command as a child of this process, and a process group of its own.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, Stdio};

use tokio::process::Child;

use super::error::{CommandError, StartError, describe};
use super::group::Group;
use super::output::Output;
use super::{CommandSpec, PATH, Runner, Stop, accompany, feed, judge, spawn, user};

impl Runner {
    /// `record` is called as soon as the command is started; when it fails, the command is killed.
    pub(super) async fn run_group(
        &self,
        spec: &CommandSpec,
        environment: &[(String, String)],
        stdin: Option<Vec<u8>>,
        stop: &Stop,
        record: impl FnOnce(&Group) -> io::Result<()>,
    ) -> Result<(), CommandError> {
        let command = describe(spec);
        let source = if stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        let (mut child, mut output) = match self.start(spec, environment, source) {
            Ok(started) => started,
            Err(cause) => return Err(CommandError::Start { command, cause }),
        };
        let group = Group::of(&child);
        if let Err(error) = record(&group) {
            return Err(CommandError::Start { command, cause: StartError::Unrecorded(error) });
        }
        let feed = feed(child.stdin.take(), stdin.unwrap_or_default());
        let supervise = group.supervise(&mut child, spec.timeout, stop, self.kill_after);
        let ending = accompany(supervise, feed, &mut output).await;
        judge(command, spec.timeout, stop.grace, ending, output)
    }

    fn start(
        &self,
        spec: &CommandSpec,
        environment: &[(String, String)],
        stdin: Stdio,
    ) -> Result<(Child, Output), StartError> {
        match spec.user.as_deref().filter(|user| !self.own.is(user)) {
            None => self.start_own(spec, environment, stdin),
            Some(user) => self.start_as(user, spec, environment, stdin),
        }
    }

    fn start_own(
        &self,
        spec: &CommandSpec,
        environment: &[(String, String)],
        stdin: Stdio,
    ) -> Result<(Child, Output), StartError> {
        let (program, arguments) = spec.argv.split_first().ok_or(StartError::Empty)?;
        let dir = self.own.dir(spec.dir.as_deref());
        let (output, writer) = Output::open()?;
        let mut command = self.bare(program.as_ref());
        command.args(arguments).current_dir(dir).envs(self.own.variables());
        command.stdin(stdin).stderr(writer.try_clone().map_err(StartError::Pipe)?).stdout(writer);
        command.envs(variables(environment));
        let child = spawn(command).map_err(|error| user::blame(error, dir, program.as_ref()))?;
        Ok((child, output))
    }

    fn start_as(
        &self,
        user: &str,
        spec: &CommandSpec,
        environment: &[(String, String)],
        stdin: Stdio,
    ) -> Result<(Child, Output), StartError> {
        let (mut output, writer) = Output::open()?;
        let mut command = self.bare(self.helper.as_ref());
        command.args(user::arguments(user, spec.dir.as_deref(), &spec.argv)).current_dir("/");
        command.stdin(stdin).stdout(writer).stderr(output.open_reports()?);
        command.envs(variables(environment));
        let child =
            spawn(command).map_err(|error| StartError::Helper { helper: self.helper.clone(), error })?;
        Ok((child, output))
    }

    fn bare(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("PATH", PATH).env("LANG", &self.lang);
        command
    }
}

fn variables(environment: &[(String, String)]) -> impl Iterator<Item = (&String, &String)> {
    environment.iter().map(|(name, value)| (name, value))
}
