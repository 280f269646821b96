//! Shows the agent's log as the agent itself would, and notes what the demo waits for.

use std::fmt::{self, Write as _};
use std::io;

use tokio::sync::watch;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::stage::Stage;

/// What the agent has logged so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The broker has granted the subscription.
    pub(crate) subscribed: bool,
    /// How many pushes it took for its own.
    pub(crate) taken: u32,
    /// How many deploys it began.
    pub(crate) began: u32,
    /// How many of them went well.
    pub(crate) deployed: u32,
    /// How many did not.
    pub(crate) failed: u32,
}

/// From now on the agent's log goes to the stage.
pub(crate) fn start(stage: &Stage) -> watch::Receiver<Facts> {
    let (sender, facts) = watch::channel(Facts::default());
    let agents = Targets::new().with_target("instance_agent", LevelFilter::INFO);
    let stage = stage.clone();
    let shown = tracing_subscriber::fmt::layer()
        .with_ansi(stage.colours())
        .with_target(false)
        .compact()
        .with_writer(move || Lines(stage.clone()));
    tracing_subscriber::registry().with(shown.and_then(Notes(sender)).with_filter(agents)).init();
    facts
}

/// Takes an event at a time, which the format writes in one go.
struct Lines(Stage);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.agent(&String::from_utf8_lossy(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Notes(watch::Sender<Facts>);

impl<S: Subscriber> Layer<S> for Notes {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message::default();
        event.record(&mut message);
        self.0.send_modify(|facts| match message.0.as_str() {
            "subscribed" => facts.subscribed = true,
            "push taken" => facts.taken += 1,
            "deploy began" => facts.began += 1,
            "deployed" => facts.deployed += 1,
            text if text.starts_with("deploy failed") => facts.failed += 1,
            _ => {}
        });
    }
}

#[derive(Default)]
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            // Writing to a String cannot fail.
            let _ = write!(self.0, "{value:?}");
        }
    }
}
