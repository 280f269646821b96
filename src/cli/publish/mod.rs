//! `instance-agent publish`: tells agents of a push, for relays, CI, scripts and people.

mod connection;
mod content;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use tokio::runtime;

use crate::exposure::Exposed;
use crate::mqtt::{self, MqttSettings, Reception};
use crate::publish::{ComposeError, Composed, Delivery, Destination, Plan, compose};
use crate::signature::Secrets;

use super::exit;

use connection::ConnectionArgs;
use content::{ContentArgs, GitHub};

/// Arguments of `publish`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(super) struct PublishArgs {
    #[command(flatten)]
    connection: ConnectionArgs,
    /// Topic, or the agents' mqtt.topic as a pattern for each repository [default: github/+/+]
    #[arg(long, value_name = "TOPIC")]
    topic: Option<Destination>,
    /// Have the broker keep the message for agents that subscribe later
    #[arg(long)]
    retain: bool,
    #[command(flatten)]
    content: ContentArgs,
    /// Leave out what agents do not read, such as the commits
    #[arg(long)]
    slim: bool,
    /// Sign with the first secret of this file, in the place of any signature that came along
    #[arg(long, value_name = "FILE")]
    sign_with: Option<PathBuf>,
    /// Carry the headers inside the payload; implied by --protocol 3.1.1 when there are any
    #[arg(long)]
    envelope: bool,
    /// How long the broker may take, from the first attempt to its confirmation, such as 30s or 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time_limit)]
    timeout: Duration,
}

const AFTER_HELP: &str = "\
Without --payload, --repo, --ref and --sha it publishes the event of the GitHub Actions run that it is part of.
A push by hand is dated by this host's clock, and agents ignore what is dated before the oldest push they remember.
Secrets are read from files, never from arguments; <(command) is as good as a file.

Exit status: 0 the broker has confirmed the message, or the event is no push; 1 it has not; 2 wrong usage.";

fn time_limit(text: &str) -> Result<Duration, String> {
    let limit = humantime::parse_duration(text).map_err(|_| "write it as 500ms, 30s or 2m".to_owned())?;
    let allowed = Duration::from_millis(1)..=Duration::from_secs(3600);
    if allowed.contains(&limit) { Ok(limit) } else { Err("must be from 1ms to 1h".to_owned()) }
}

/// Why nothing was published.
#[derive(Debug)]
enum Problem {
    /// The arguments contradict each other, or something is missing.
    Usage(String),
    /// Something did not work.
    Failed(String),
}

impl Problem {
    fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }

    fn failed(error: &dyn std::error::Error) -> Self {
        Self::Failed(error.to_string())
    }
}

pub(super) fn publish(args: PublishArgs) -> ExitCode {
    match run(args) {
        Ok(done) => {
            // Whoever tries again for a failure would publish again.
            match done.write(&mut io::stdout().lock()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    say(&format!("warning: what was done cannot be printed: {error}"));
                }
                _ => {}
            }
            ExitCode::SUCCESS
        }
        Err(Problem::Usage(problem)) => complain(&problem, exit::USAGE),
        Err(Problem::Failed(problem)) => complain(&problem, exit::FAILED),
    }
}

fn complain(problem: &str, code: u8) -> ExitCode {
    say(problem);
    ExitCode::from(code)
}

/// Nobody need listen: what is published does not depend on it.
fn say(text: &str) {
    let _ = writeln!(io::stderr(), "instance-agent: {}", connection::in_options(text));
}

/// What `run` warns of at each start.
fn warn(settings: &MqttSettings, signed: bool, sign_with: Option<&Path>) {
    let secret_file = sign_with.and_then(|path| Exposed::look("--sign-with", path));
    let exposed = secret_file.into_iter().chain(mqtt::exposed_files(settings)).map(|file| file.to_string());
    for warning in mqtt::in_the_clear(settings, signed).into_iter().chain(exposed) {
        say(&format!("warning: {warning}"));
    }
}

fn run(args: PublishArgs) -> Result<Done, Problem> {
    if args.retain && args.content.again {
        return Err(Problem::usage(
            "--again cannot be retained: each agent that subscribes later would deploy again what it runs; leave out \
             one of --again and --retain",
        ));
    }
    let settings = args.connection.settings()?;
    let delivery = args.content.delivery(&GitHub::from_environment(), SystemTime::now())?;
    let secrets = args.sign_with.as_deref().map(secrets).transpose()?;
    let plan = Plan {
        slim: args.slim,
        secret: secrets.as_ref().map(Secrets::first),
        envelope: args.envelope,
        protocol: settings.protocol,
        destination: args.topic.unwrap_or_default(),
        retain: args.retain,
    };
    match composed(delivery, &plan)? {
        Some(composed) => {
            warn(&settings, composed.signed, args.sign_with.as_deref());
            send(&settings, composed, args.timeout)
        }
        None => Ok(Done::Nothing),
    }
}

fn secrets(path: &Path) -> Result<Secrets, Problem> {
    Secrets::read(path).map_err(|error| Problem::Failed(format!("--sign-with {}: {error}", path.display())))
}

/// The message, or nothing when the event is another.
fn composed(delivery: Delivery, plan: &Plan<'_>) -> Result<Option<Composed>, Problem> {
    match compose(delivery, plan) {
        Ok(composed) => Ok(Some(composed)),
        Err(ComposeError::OtherEvent) => Ok(None),
        Err(
            error @ (ComposeError::StaleSignature
            | ComposeError::AgainRetained
            | ComposeError::TooManyHeaders { .. }
            | ComposeError::Destination(_)),
        ) => Err(Problem::usage(error.to_string())),
        Err(error) => Err(Problem::Failed(format!("not published, as agents would not take it: {error}"))),
    }
}

fn send(settings: &MqttSettings, composed: Composed, limit: Duration) -> Result<Done, Problem> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::failed(&error))?;
    let sent = runtime.block_on(mqtt::publish(settings, &composed.message, limit));
    // Not dropped: that would wait for a name server that does not answer.
    runtime.shutdown_background();
    let reception = sent.map_err(|error| Problem::failed(&error))?;
    Ok(Done::Published { broker: settings.broker(), composed: Box::new(composed), reception })
}

/// How it ended well.
enum Done {
    Published {
        broker: String,
        composed: Box<Composed>,
        reception: Reception,
    },
    /// Agents have no use for other events.
    Nothing,
}

impl Done {
    fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        match self {
            Self::Nothing => writeln!(out, "Nothing published: the event is not push.")?,
            Self::Published { broker, composed, reception } => {
                let Composed { message, push, signed } = &**composed;
                let signed = if *signed { "signed" } else { "not signed" };
                let (topic, size) = (&message.topic, message.payload.len());
                writeln!(
                    out,
                    "Published on {topic}: {} of {} at {}, {signed}, {size} bytes, confirmed by {broker}.",
                    push.git_ref, push.repo, push.after,
                )?;
                if *reception == Reception::NoSubscribers {
                    writeln!(out, "The broker says that nobody is subscribed to this topic.")?;
                }
            }
        }
        Ok(())
    }
}
