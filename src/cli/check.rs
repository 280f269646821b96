//! `instance-agent check`: what `run` would do, said instead of done.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use tokio::runtime;

use crate::config::{self, App, DEFAULT_FILE, Host, Loaded, Settings, Shown, Subscribe};
use crate::push::Headers;
use crate::router::{Routed, Router};
use crate::service::{self, DetectionRoot, ServiceManager, Status};

use super::{ConfigArgs, exit};

/// Arguments of `check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Say what the agent would do with this message, and why; - reads standard input
    #[arg(long, value_name = "FILE", requires = "topic")]
    message: Option<PathBuf>,
    /// The topic of the message, such as github/OWNER/REPO
    #[arg(long, value_name = "TOPIC", requires = "message")]
    topic: Option<String>,
    /// A header of the message, as an MQTT 5 user property would carry it; repeatable
    #[arg(long = "header", value_name = "NAME: VALUE", requires = "message", value_parser = header)]
    headers: Vec<(String, String)>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("must be NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

pub(super) fn check(args: CheckArgs) -> ExitCode {
    let loaded = match config::load(&args.config.into_request(), &Host::detect()) {
        Ok(Some(loaded)) => loaded,
        Ok(None) => {
            println!("Not configured: {DEFAULT_FILE} is missing or empty, and no flag says what to do.");
            return ExitCode::SUCCESS;
        }
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(exit::CONFIG);
        }
    };
    match (&args.message, &args.topic) {
        (Some(message), Some(topic)) => explain(&loaded.settings, message, topic, &args.headers),
        _ => show(&loaded),
    }
}

fn show(loaded: &Loaded) -> ExitCode {
    print_settings(&loaded.shown);
    for warning in &loaded.warnings {
        println!("Warning: {warning}");
    }
    let settings = &loaded.settings;
    if settings.subscribe == Subscribe::Exact {
        println!(
            "Note: exact subscriptions are case-sensitive: topics must spell each repository as it is here."
        );
    }
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failure(&error, exit::FAILED),
    };
    runtime.block_on(async {
        match service::detect(&settings.service_manager, &DetectionRoot::default()).await {
            Ok(manager) => show_services(manager.as_ref(), &settings.apps).await,
            Err(error) => exit::failure(&error, exit::FAILED),
        }
    })
}

fn print_settings(shown: &[Shown]) {
    let key_width = shown.iter().map(|it| it.key.chars().count()).max().unwrap_or(0);
    let value_width = shown.iter().map(|it| it.value.chars().count()).max().unwrap_or(0).min(50);
    for Shown { key, value, place } in shown {
        println!("{key:key_width$}  {value:value_width$}  {place}");
    }
}

async fn show_services(manager: &dyn ServiceManager, apps: &[Arc<App>]) -> ExitCode {
    println!("\nService manager: {}", manager.name());
    let mut all_known = true;
    for app in apps {
        for service in &app.services {
            let state = match manager.status(service).await {
                Ok(Status::Running { .. }) => "running".to_owned(),
                Ok(Status::Completed) => "completed (oneshot)".to_owned(),
                Ok(Status::Starting) => "starting".to_owned(),
                Ok(Status::Stopped) => "stopped".to_owned(),
                Ok(Status::Failed(what)) => format!("failed: {what}"),
                Ok(Status::NotFound) => {
                    all_known = false;
                    format!("UNKNOWN to {}: pushes to {} would fail", manager.name(), app.name)
                }
                Err(error) => {
                    all_known = false;
                    error.to_string()
                }
            };
            println!("{service}: {state}");
        }
    }
    if all_known { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) }
}

fn explain(settings: &Settings, message: &Path, topic: &str, headers: &[(String, String)]) -> ExitCode {
    let payload = match read(message, settings.mqtt.max_payload) {
        Ok(payload) => payload,
        Err(error) => {
            eprintln!("instance-agent: {}: {error}", message.display());
            return ExitCode::from(exit::FAILED);
        }
    };
    let router = Router::new(settings.topic.clone(), &settings.apps);
    let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let routed = match Headers::from_pairs(pairs) {
        Ok(headers) => router.route(topic, &headers, &payload),
        Err(error) => error.into(),
    };
    match routed {
        Routed::Unmanaged => println!("Ignored: no app here is of the repository that the topic names."),
        Routed::Ignored(why) => println!("Ignored: {why}."),
        Routed::Rejected(why) => {
            println!("Rejected: {why}.");
            return ExitCode::from(exit::FAILED);
        }
        Routed::Push(revision, verdicts) => {
            println!("A push of {} to {} of {}.", revision.commit, revision.git_ref, revision.repo);
            for (app, verdict) in verdicts {
                match verdict {
                    Ok(()) => println!("{app}: deployed, unless it runs this commit already."),
                    Err(why) => println!("{app}: not deployed: {why}."),
                }
            }
        }
    }
    ExitCode::SUCCESS
}

/// The agent drops what is larger before it looks at it, and so does this.
fn read(path: &Path, max_payload: usize) -> Result<Vec<u8>, String> {
    let mut payload = Vec::new();
    let limit = max_payload as u64 + 1;
    let read = if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut payload)
    } else {
        fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut payload))
    };
    read.map_err(|error| error.to_string())?;
    if payload.len() > max_payload {
        return Err(format!("larger than mqtt.max_payload ({max_payload} bytes): the agent would drop it"));
    }
    Ok(payload)
}
