//! The app's git repository: where GitHub would have it, where the developer works, and where the instance runs it.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, ExitCode, Output, Stdio};

use anyhow::{Context, bail};

use crate::app::PAGE;
use crate::payload::{Commit, Push};
use crate::site::Site;
use crate::stage::Stage;

/// What GitHub would call it.
pub(crate) const REPO: &str = "octo-org/hello";
/// git calls this in the repository that was pushed to.
pub(crate) const HOOK: &str = "post-receive";
/// What the hook writes, beside that repository.
pub(crate) const PAYLOAD: &str = "payload.json";

const DEVELOPER: &str = "developer";
/// Brings the app's checkout to the commit of a push.
const DEPLOY: &str = include_str!("../files/deploy.sh");

/// Makes the repository, with version 1, and the checkout that the instance runs.
pub(crate) async fn create(site: &Site, stage: &Stage) -> anyhow::Result<()> {
    let at_home = Git { stage, dir: site.path(), name: "" };
    at_home.run(&["init", "--quiet", "--bare", "origin.git"]).await?;
    at_home.quietly(&["--git-dir=origin.git", "symbolic-ref", "HEAD", "refs/heads/main"]).await?;
    fs::create_dir_all(site.origin().join("hooks"))?;
    symlink(site.demo(), site.origin().join("hooks").join(HOOK)).context("cannot install the hook")?;
    at_home.run(&["clone", "--quiet", "origin.git", "developer"]).await?;
    let developer = Git { stage, dir: &site.developer(), name: DEVELOPER };
    for [key, value] in [
        ["user.name", "Octo Developer"],
        ["user.email", "developer@example.com"],
        ["commit.gpgsign", "false"],
    ] {
        developer.quietly(&["config", key, value]).await?;
    }
    developer.quietly(&["checkout", "--quiet", "-B", "main"]).await?;
    fs::write(site.developer().join("deploy.sh"), DEPLOY)?;
    push_version(site, stage, 1).await?;
    at_home.run(&["clone", "--quiet", "origin.git", "app"]).await
}

/// Commits and pushes, as the developer. Returns the commit.
pub(crate) async fn push_version(site: &Site, stage: &Stage, version: u32) -> anyhow::Result<String> {
    let developer = Git { stage, dir: &site.developer(), name: DEVELOPER };
    stage.command(DEVELOPER, &format!("echo 'version {version}' > {PAGE}"));
    fs::write(site.developer().join(PAGE), format!("version {version}\n"))?;
    developer.quietly(&["add", "."]).await?;
    developer.run(&["commit", "--quiet", "--all", "--message", &format!("Version {version}")]).await?;
    developer.run(&["push", "--quiet", "origin", "main"]).await?;
    developer.quietly(&["rev-parse", "HEAD"]).await
}

/// git's commands in one directory.
struct Git<'a> {
    stage: &'a Stage,
    dir: &'a Path,
    /// What the spectator calls it.
    name: &'a str,
}

impl Git<'_> {
    /// Shows the command, and runs it.
    async fn run(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let words = arguments.iter().filter(|word| **word != "--quiet").map(|word| quoted(word));
        self.stage.command(self.name, &format!("git {}", words.collect::<Vec<_>>().join(" ")));
        self.quietly(arguments).await.map(drop)
    }

    /// Runs the command. Returns its output.
    async fn quietly(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = tokio::process::Command::from(command(self.dir, arguments));
        judge(arguments, command.kill_on_drop(true).output().await)
    }
}

/// Free of the spectator's own settings and hooks, which the demo must not depend on.
fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(dir).stdin(Stdio::null());
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"GIT_")) {
        command.env_remove(name);
    }
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("LC_ALL", "C");
    command
}

fn judge(arguments: &[&str], output: io::Result<Output>) -> anyhow::Result<String> {
    let name = arguments.join(" ");
    let output = output.with_context(|| format!("cannot run `git {name}`: is git installed?"))?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("`git {name}` failed ({}): {}", output.status, words.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A word as one would type it.
fn quoted(word: &str) -> String {
    if word.contains(' ') { format!("'{word}'") } else { word.to_owned() }
}

/// Plays GitHub's part: run by git after a push, in the bare repository, writes the payload for the push.
pub(crate) fn post_receive() -> anyhow::Result<ExitCode> {
    for line in io::stdin().lines() {
        if let [before, after, git_ref] = line?.split_whitespace().collect::<Vec<_>>()[..] {
            let push = Push {
                repo: REPO.to_owned(),
                git_ref: git_ref.to_owned(),
                before: before.to_owned(),
                after: after.to_owned(),
                commit: describe(after)?,
            };
            fs::write(Path::new("..").join(PAYLOAD), push.payload()?).context("cannot write the payload")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(commit: &str) -> anyhow::Result<Commit> {
    let arguments = ["show", "--no-patch", "--format=%T%n%cI%n%an%n%ae%n%s", commit];
    let text = judge(&arguments, command(Path::new("."), &arguments).output())?;
    let mut lines = text.lines().map(str::to_owned);
    let mut next = || lines.next().context("git show says too little");
    Ok(Commit { tree: next()?, time: next()?, name: next()?, email: next()?, subject: next()? })
}
