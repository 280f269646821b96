//! `instance-agent check`: what `run` would do, said instead of done.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio::runtime::{self, Runtime};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::command::{CommandSpec, doubt};
use crate::config::{App, AppName, LoadError, Loaded, Settings, Shown, Subscribe, Tried};
use crate::outcome::Step;
use crate::push::Headers;
use crate::router::{Ignored, Routed, Router};
use crate::service::{self, DetectionRoot, ServiceError, ServiceManager, ServiceName, Status};

use super::{ConfigArgs, exit, output};

/// A status is a matter of milliseconds where all is well, and so is an answer of the metadata service.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOKS_AT_ONCE: usize = 8;

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
    let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::failure(&error, exit::FAILED),
    };
    let loaded = args.config.into_loader().and_then(|mut loader| runtime.block_on(loader.load(PATIENCE)));
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(LoadError::Unconfigured(tried)) => return output::print(|out| unconfigured(out, &tried)),
        Err(error) => {
            output::complain(&error);
            return exit::of_load(&error);
        }
    };
    match (&args.message, &args.topic) {
        (Some(message), Some(topic)) => explain(&loaded.settings, message, topic, &args.headers),
        _ => show(&loaded, &runtime),
    }
}

fn unconfigured(out: &mut dyn Write, tried: &Tried) -> io::Result<ExitCode> {
    writeln!(out, "Not configured: {tried}.")?;
    Ok(ExitCode::SUCCESS)
}

fn show(loaded: &Loaded, runtime: &Runtime) -> ExitCode {
    output::print(|out| {
        print_settings(out, loaded)?;
        // Seen before the services are looked at, which may take a while.
        out.flush()?;
        runtime.block_on(show_services(out, &loaded.settings))
    })
}

fn print_settings(out: &mut dyn Write, loaded: &Loaded) -> io::Result<()> {
    let shown = &loaded.shown;
    let key_width = shown.iter().map(|it| it.key.chars().count()).max().unwrap_or(0);
    let value_width = shown.iter().map(|it| it.value.chars().count()).max().unwrap_or(0).min(50);
    for Shown { key, value, place } in shown {
        writeln!(out, "{key:key_width$}  {value:value_width$}  {place}")?;
    }
    for warning in &loaded.warnings {
        writeln!(out, "Warning: {warning}")?;
    }
    for (whose, command) in commands(&loaded.settings) {
        if let Some(doubt) = doubt(command) {
            writeln!(out, "Warning: {whose}: {doubt}")?;
        }
    }
    if loaded.settings.subscribe == Subscribe::Exact {
        writeln!(
            out,
            "Note: exact subscriptions are case-sensitive: topics must spell each repository as it is here."
        )?;
    }
    Ok(())
}

/// All commands, and whose they are.
fn commands(settings: &Settings) -> impl Iterator<Item = (String, &CommandSpec)> {
    let on_outcome = settings.on_outcome.iter().map(|command| ("on_outcome".to_owned(), command));
    settings.apps.iter().flat_map(|app| commands_of(app)).chain(on_outcome)
}

fn commands_of(app: &App) -> impl Iterator<Item = (String, &CommandSpec)> {
    let commands = [(Step::Prepare, &app.prepare), (Step::Update, &app.update), (Step::Check, &app.check)];
    commands
        .into_iter()
        .filter_map(|(step, command)| Some((format!("{step} of {}", app.name), command.as_deref()?)))
}

async fn show_services(out: &mut dyn Write, settings: &Settings) -> io::Result<ExitCode> {
    let manager = match service::detect(&settings.service_manager, &DetectionRoot::default()).await {
        Ok(manager) => manager,
        // As `run` ends then.
        Err(error) => return Ok(exit::failure(&error, exit::CONFIG)),
    };
    writeln!(out, "\nService manager: {}", manager.name())?;
    let mut all_known = true;
    for (app, service, look) in looks(&manager, &settings.apps) {
        let state = match look.await {
            Ok(Ok(state)) => state,
            Ok(Err(problem)) => {
                all_known = false;
                problem.for_app(manager.name(), &app)
            }
            Err(panicked) => return Err(io::Error::other(panicked)),
        };
        writeln!(out, "{service}: {state}")?;
    }
    Ok(if all_known { ExitCode::SUCCESS } else { ExitCode::from(exit::FAILED) })
}

/// Why a service cannot be deployed to.
enum Unusable {
    Unknown,
    Silent,
    Error(ServiceError),
}

impl Unusable {
    fn for_app(&self, manager: &str, app: &AppName) -> String {
        match self {
            Self::Unknown => format!("UNKNOWN to {manager}: pushes to {app} would fail"),
            Self::Silent => format!("{manager} does not answer within {} s", PATIENCE.as_secs()),
            Self::Error(error) => error.to_string(),
        }
    }
}

type Look = JoinHandle<Result<String, Unusable>>;

/// Looks at all services side by side, a few at a time; in the order of the apps.
fn looks(manager: &Arc<dyn ServiceManager>, apps: &[Arc<App>]) -> Vec<(AppName, ServiceName, Look)> {
    let turns = Arc::new(Semaphore::new(LOOKS_AT_ONCE));
    let services = apps.iter().flat_map(|app| app.services.iter().map(|service| (&app.name, service)));
    let begin = |(app, service): (&AppName, &ServiceName)| {
        let look = look(manager.clone(), service.clone(), turns.clone());
        (app.clone(), service.clone(), tokio::spawn(look))
    };
    services.map(begin).collect()
}

async fn look(
    manager: Arc<dyn ServiceManager>,
    service: ServiceName,
    turns: Arc<Semaphore>,
) -> Result<String, Unusable> {
    // Never closed; the patience begins with the turn.
    let _turn = turns.acquire().await;
    let status = timeout(PATIENCE, manager.status(&service)).await.map_err(|_| Unusable::Silent)?;
    Ok(match status.map_err(Unusable::Error)? {
        Status::Running { .. } => "running".to_owned(),
        Status::Completed { .. } => "completed (oneshot)".to_owned(),
        Status::Ended => "its process has ended".to_owned(),
        Status::Unclear => "up by its init script, without a process".to_owned(),
        Status::Starting => "starting".to_owned(),
        Status::Stopped => "stopped".to_owned(),
        Status::Failed(what) => format!("failed: {what}"),
        Status::NotFound => return Err(Unusable::Unknown),
    })
}

fn explain(settings: &Settings, message: &Path, topic: &str, headers: &[(String, String)]) -> ExitCode {
    let payload = match read(message, settings.mqtt.max_payload) {
        Ok(payload) => payload,
        Err(error) => {
            output::complain(format_args!("instance-agent: {}: {error}", message.display()));
            return ExitCode::from(exit::FAILED);
        }
    };
    let router = Router::new(settings.topic.clone(), settings.trust.clone(), &settings.apps);
    if let Some(why) = not_received(settings, &router, topic) {
        return output::print(|out| {
            writeln!(out, "Not received: {why}.")?;
            Ok(ExitCode::SUCCESS)
        });
    }
    let pairs = headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let now = SystemTime::now();
    let (routed, whole) = match Headers::from_pairs(pairs) {
        Ok(headers) => (
            router.route(topic, headers.clone(), &payload, now),
            router.explain(topic, headers, &payload, now),
        ),
        Err(error) => (error.clone().into(), error.into()),
    };
    output::print(|out| match (routed, whole) {
        (Routed::Ignored(why @ Ignored::Unfollowed(_)), Routed::Rejected(problem)) => {
            writeln!(out, "Ignored: {why}. To another ref it would be rejected: {problem}.")?;
            Ok(ExitCode::SUCCESS)
        }
        (_, whole) => print_routed(out, whole),
    })
}

/// Why the broker would not hand the agent what is published on this topic.
fn not_received(settings: &Settings, router: &Router, topic: &str) -> Option<String> {
    if settings.topic.repository(topic).is_none() {
        return Some(format!("the topic does not fit mqtt.topic, which is {}", settings.topic));
    }
    // Not of a managed repository at all: the router says so better.
    let first = router.repository(topic)?;
    let received =
        settings.subscribe == Subscribe::Wildcard || settings.filters().iter().any(|it| it == topic);
    (!received).then(|| {
        let spelled = settings.topic.of(first);
        format!("mqtt.subscribe is exact and topics are case-sensitive: the one subscribed to is {spelled}")
    })
}

fn print_routed(out: &mut dyn Write, routed: Routed) -> io::Result<ExitCode> {
    match routed {
        Routed::Unmanaged => {
            writeln!(out, "Ignored: no app here is of the repository that the topic names.")?;
        }
        Routed::Ignored(why) => writeln!(out, "Ignored: {why}.")?,
        Routed::Rejected(why) => {
            writeln!(out, "Rejected: {why}.")?;
            return Ok(ExitCode::from(exit::FAILED));
        }
        Routed::Push(revision, verdicts) => {
            writeln!(out, "A push of {} to {} of {}.", revision.commit, revision.git_ref, revision.repo)?;
            for (app, verdict) in verdicts {
                match verdict {
                    Ok(()) => writeln!(out, "{app}: deployed, unless it runs this commit already.")?,
                    Err(why) => writeln!(out, "{app}: not deployed: {why}.")?,
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
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

#[cfg(test)]
mod tests {
    use crate::service::{Answer, Limits, Trace};

    use super::*;

    /// Never answers.
    struct Silent;

    impl ServiceManager for Silent {
        fn name(&self) -> &'static str {
            "silent"
        }

        fn stop<'a>(&'a self, _: &'a ServiceName, _: &'a Trace<'a>) -> Answer<'a, ()> {
            Box::pin(std::future::pending())
        }

        fn start<'a>(
            &'a self,
            _: &'a ServiceName,
            _: &'a [(String, String)],
            _: &'a Trace<'a>,
        ) -> Answer<'a, ()> {
            Box::pin(std::future::pending())
        }

        fn status<'a>(&'a self, _: &'a ServiceName) -> Answer<'a, Status> {
            Box::pin(std::future::pending())
        }

        fn limits<'a>(&'a self, _: &'a ServiceName) -> Answer<'a, Limits> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_manager_that_does_not_answer_is_given_up() {
        let turns = Arc::new(Semaphore::new(1));
        let look = look(Arc::new(Silent), "api".parse().unwrap(), turns);
        let problem = look.await.unwrap_err();
        let text = problem.for_app("silent", &"api".parse().unwrap());
        assert_eq!(text, "silent does not answer within 30 s");
    }
}
