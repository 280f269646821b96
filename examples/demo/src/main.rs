//! Shows the whole job of instance-agent on one machine: a push restarts the app that it is for.

mod agent;
mod app;
mod broker;
mod ctl;

mod http;
mod payload;
mod play;
mod repository;
mod site;
mod stage;
mod watch;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::runtime;

use crate::play::Interrupted;
use crate::site::Site;
use crate::stage::Stage;

/// Shows the whole job of instance-agent: a push to GitHub restarts the app that it is for.
///
/// Makes a git repository, an app that runs from it and an MQTT broker in a temporary directory and on 127.0.0.1,
/// starts the agent, pushes version 2 and sees it served. Everything is ended and removed afterwards.
#[derive(Parser)]
#[command(override_usage = "cargo run -p demo [-- --keep]", disable_help_subcommand = true)]
struct Arguments {
    /// Leave everything running until Ctrl-C, and print commands to play with
    #[arg(long)]
    keep: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

/// The other programs of the demo, in this one executable because nothing else may have to be installed.
#[derive(Subcommand)]
enum Part {
    /// Stops, starts or looks at a service, as a service manager would
    #[command(hide = true)]
    Ctl {
        #[arg(long)]
        dir: PathBuf,
        action: ctl::Action,
        service: String,
    },
    /// Is the app, serving the version in the current directory
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        dir: PathBuf,
        service: String,
    },
}

fn main() -> ExitCode {
    let result =
        if called_as(repository::HOOK) { repository::post_receive() } else { run(Arguments::parse()) };
    match result {
        Ok(code) => code,
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("\ninterrupted");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// git calls this program by the name of its hook, which is a link to it.
fn called_as(name: &str) -> bool {
    std::env::args_os().next().is_some_and(|program| Path::new(&program).ends_with(name))
}

fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.part {
        Some(Part::Ctl { dir, action, service }) => ctl::run(&dir, action, &service),
        Some(Part::Serve { dir, service }) => app::serve(&dir, &service),
        None => play(arguments.keep),
    }
}

fn play(keep: bool) -> anyhow::Result<ExitCode> {
    let stage = Stage::new();
    // Declared first to be dropped last, even in a panic: the agent ends before its surroundings.
    let site;
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let interrupted = {
        let _inside = runtime.enter();
        play::interrupted().context("cannot wait for signals")?
    };
    site = Site::new(&stage)?;
    runtime.block_on(play::perform(&site, &stage, keep, interrupted))?;
    Ok(ExitCode::SUCCESS)
}
