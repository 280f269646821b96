//! The command line: one file for each subcommand.

mod check;
mod exec_as;
mod exit;
mod log;
mod output;
mod publish;
mod reload;
mod run;
mod status;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::config::{Flags, Host, LoadError, Loader, Request};
use crate::imds;

use log::LogArgs;

/// Restarts the apps of this instance when GitHub pushes to them, over MQTT.
#[derive(Debug, Parser)]
#[command(name = "instance-agent", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Listen for pushes and deploy them, until SIGTERM or SIGINT; SIGHUP reloads the configuration
    Run(RunArgs),
    /// Validate the configuration as `run` would, and show every setting and where it came from
    Check(check::CheckArgs),
    /// Show what is deployed, pending and failed, whether or not the agent runs
    Status(status::StatusArgs),
    /// Show the last outcomes of one app, or of all
    History(status::HistoryArgs),
    /// Tell agents of a push, for relays, CI, scripts and people: sends one message and awaits the broker's answer
    Publish(Box<publish::PublishArgs>),
    /// Become a user, then run a command: how `run` carries out commands with a `user`
    #[command(hide = true)]
    ExecAs(exec_as::ExecAsArgs),
    /// Run this program with these arguments, and tell how it ended: the main process of a command's unit
    #[command(hide = true)]
    Witness(exec_as::WitnessArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// What names or replaces parts of the configuration.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file; must exist [default: /etc/instance-agent/config.yaml, which may be missing]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Broker, as mqtts://HOST[:PORT] or mqtt://HOST[:PORT]; replaces mqtt.url
    #[arg(long, value_name = "URL")]
    broker: Option<String>,
    /// This instance's environment, such as production; replaces environment
    #[arg(long, value_name = "NAME")]
    environment: Option<String>,
    /// An app, as OWNER/REPO[@BRANCH]=SERVICE; repeatable; replaces apps
    #[arg(long = "app", value_name = "APP")]
    apps: Vec<String>,
    /// Where to keep state; replaces state_dir
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// This is an EC2 instance, even if it does not look like one: use its user-data
    #[arg(long)]
    ec2: bool,
    /// Take environment and apps from the tags of this EC2 instance; replaces ec2.tags
    #[arg(long)]
    ec2_tags: bool,
}

impl ConfigArgs {
    fn into_request(self) -> Request {
        // A path on the command line is meant from where it was typed.
        let state_dir = self.state_dir.map(|dir| std::path::absolute(&dir).unwrap_or(dir));
        let flags = Flags {
            broker: self.broker,
            environment: self.environment,
            apps: self.apps,
            state_dir,
            ec2: self.ec2,
            ec2_tags: self.ec2_tags,
        };
        Request { file: self.config, flags }
    }

    fn into_loader(self) -> Result<Loader, LoadError> {
        loader_of(self.into_request())
    }
}

/// With this host around it.
fn loader_of(request: Request) -> Result<Loader, LoadError> {
    let host = Host::detect();
    // Elsewhere nobody is asked, so that nothing about it can be wrong.
    let endpoint =
        if request.is_on_ec2(&host) { imds::endpoint(|name| std::env::var(name).ok())? } else { None };
    Loader::new(request, host, endpoint.as_deref())
}

/// All that may be said on the command line, for manual pages and completions.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Runs the subcommand that the arguments name.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(args) => run::run(args.config, &args.log),
        Command::Check(args) => check::check(args),
        Command::Status(args) => status::status(args),
        Command::History(args) => status::history(args),
        Command::Publish(args) => publish::publish(*args),
        Command::ExecAs(args) => exec_as::exec_as(&args),
        Command::Witness(args) => exec_as::witness(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        command().debug_assert();
    }
}
