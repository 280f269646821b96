//! Loads the configuration again: on SIGHUP, and when the metadata service says what is not in force yet.

use std::future::pending;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::agent::Reload;
use crate::config::{LoadError, Loaded, Loader};
use crate::imds::ImdsError;
use crate::service::{DetectError, DetectionRoot};
use crate::supervisor::Supervisor;
use crate::tools::Tools;

use super::log;
use super::run::{log_errors, log_warnings};

/// How long the metadata service may take, when there is a configuration already.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one look may take at what has waited for longer.
const GLANCE: Duration = Duration::from_secs(2);
/// The first pause before what was missing at the start is asked for again, or a reload of the agent's own is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// The pauses grow up to this, unless they are longer anyway.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

pub(super) struct Reloader {
    loader: Loader,
    /// How often to look at the tags.
    refresh: Option<Duration>,
    /// How often in a row the metadata service gave no answer.
    unanswered: u32,
    /// Why the agent's own reloads fail, and how often they have in a row.
    refused: Option<(String, u32)>,
    reloads: mpsc::Sender<Reload>,
}

/// A new configuration cannot be used.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Manager(#[from] DetectError),
}

impl Reloader {
    /// What was loaded is in force. `refresh`: how often to look at the tags.
    pub(super) fn new(mut loader: Loader, refresh: Option<Duration>, reloads: mpsc::Sender<Reload>) -> Self {
        loader.taken_over();
        Self { loader, refresh, unanswered: 0, refused: None, reloads }
    }

    pub(super) async fn run(mut self, mut hangup: Signal) {
        loop {
            tokio::select! {
                Some(()) = hangup.recv() => self.reload_as_told().await,
                () = elapsed(self.pause()) => self.look().await,
                else => return,
            }
        }
    }

    /// Before the next look. `None`: there is nothing to look for.
    fn pause(&self) -> Option<Duration> {
        let tags = self.refresh.map(|refresh| pause(refresh, self.unanswered));
        let refused = self.refused.as_ref().map_or(0, |(_, times)| *times);
        let open = self.loader.awaits_metadata() || self.loader.has_news();
        let rest = open.then(|| pause(FIRST_PAUSE, self.unanswered.max(refused)));
        tags.into_iter().chain(rest).min()
    }

    /// Says nothing when all is as it was.
    async fn look(&mut self) {
        let (awaited, known) = (self.loader.awaits_metadata(), self.loader.has_news());
        let limit = if awaited { GLANCE } else { PATIENCE };
        match self.loader.look(limit).await {
            Ok(()) => self.answered(awaited),
            Err(trouble) => self.not_answered(awaited, &trouble),
        }
        self.loader.instance_id().inspect(|id| log::name_instance(id));
        if self.loader.has_news() {
            if !known && !awaited {
                info!("the tags of the instance have changed");
            }
            self.reload_by_itself().await;
        }
    }

    fn answered(&mut self, awaited: bool) {
        if awaited {
            info!("the instance metadata service answers");
        } else if self.unanswered > 0 {
            info!("the tags of the instance can be read again");
        }
        self.unanswered = 0;
    }

    fn not_answered(&mut self, awaited: bool, trouble: &ImdsError) {
        self.unanswered = self.unanswered.saturating_add(1);
        let failures = self.unanswered;
        if awaited {
            // The start has said what is missing.
            debug!(%trouble, failures, "the instance metadata service does not answer yet");
        } else {
            // The pauses grow, so that this is not said often.
            warn!(%trouble, failures, "cannot read the tags of the instance: what they said last holds");
        }
    }

    /// Somebody waits for this, and wants to know why it fails.
    async fn reload_as_told(&mut self) {
        let supervisor = Supervisor::from_environment();
        supervisor.reloading();
        match self.read_again().await {
            Ok(reload) => self.hand_over(reload).await,
            Err(refusal) => {
                say(&refusal);
                // What was read for it is tried again, but not told again.
                self.refused = self.loader.has_news().then(|| (refusal.to_string(), 1));
                supervisor.ready();
            }
        }
    }

    /// Tried again until it succeeds; why it fails is said once.
    async fn reload_by_itself(&mut self) {
        match self.read_again().await {
            Ok(reload) => {
                Supervisor::from_environment().reloading();
                self.hand_over(reload).await;
            }
            Err(refusal) => {
                let why = refusal.to_string();
                let times = match &self.refused {
                    Some((earlier, times)) if *earlier == why => times.saturating_add(1),
                    _ => {
                        say(&refusal);
                        1
                    }
                };
                self.refused = Some((why, times));
            }
        }
    }

    async fn hand_over(&mut self, reload: Reload) {
        self.refresh = reload.settings.tag_refresh;
        self.loader.taken_over();
        self.refused = None;
        // Refused only when the agent is ending.
        let _ = self.reloads.send(reload).await;
    }

    async fn read_again(&mut self) -> Result<Reload, Refusal> {
        let loaded = self.loader.load(PATIENCE).await;
        self.loader.instance_id().inspect(|id| log::name_instance(id));
        let Loaded { settings, warnings, .. } = loaded?;
        let tools = Tools::of(&settings.service_manager, &DetectionRoot::default()).await?;
        log_warnings(&warnings);
        Ok(Reload { settings, tools })
    }
}

/// A bad configuration changes nothing.
fn say(refusal: &Refusal) {
    match refusal {
        Refusal::Load(LoadError::Unconfigured(tried)) => {
            error!(%tried, "cannot reload: there is no configuration any more");
        }
        Refusal::Load(error) => log_errors(error, "cannot reload: "),
        Refusal::Manager(error) => error!("cannot reload: {error}"),
    }
    warn!("the old configuration stays in force");
}

/// Grows with each failure, so that a metadata service in trouble is left in peace.
fn pause(refresh: Duration, failures: u32) -> Duration {
    let growing = refresh.saturating_mul(1 << failures.min(10));
    growing.min(LONGEST_PAUSE.max(refresh))
}

async fn elapsed(pause: Option<Duration>) {
    match pause {
        Some(pause) => sleep(pause).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_ten_minutes() {
        let minute = Duration::from_secs(60);
        let pauses: Vec<u64> = (0..6).map(|failures| pause(minute, failures).as_secs() / 60).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        assert_eq!(pause(60 * minute, 3), 60 * minute);
        assert_eq!(pause(minute, u32::MAX), 10 * minute);
    }
}
