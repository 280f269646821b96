//! Loads the configuration again, on SIGHUP and when the instance's tags have changed.

use std::future::pending;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::agent::Reload;
use crate::config::{LoadError, Loaded, Loader};
use crate::service::DetectionRoot;
use crate::supervisor::Supervisor;
use crate::tools::Tools;

use super::log;
use super::run::{log_errors, log_warnings};

/// How long the metadata service may take, when there is a configuration already.
const PATIENCE: Duration = Duration::from_secs(10);
/// While it gives no answer, the pauses grow up to this, unless they are longer anyway.
const LONGEST_PAUSE: Duration = Duration::from_secs(10 * 60);

pub(super) struct Reloader {
    loader: Loader,
    refresh: Option<Duration>,
    /// How often in a row the tags could not be read.
    failures: u32,
    reloads: mpsc::Sender<Reload>,
}

impl Reloader {
    /// `refresh`: how often to look at the tags.
    pub(super) fn new(loader: Loader, refresh: Option<Duration>, reloads: mpsc::Sender<Reload>) -> Self {
        Self { loader, refresh, failures: 0, reloads }
    }

    pub(super) async fn run(mut self, mut hangup: Signal) {
        loop {
            let pause = self.refresh.map(|refresh| pause(refresh, self.failures));
            let wanted = tokio::select! {
                Some(()) = hangup.recv() => true,
                () = elapsed(pause) => self.tags_have_changed().await,
                else => return,
            };
            if wanted {
                self.reload().await;
            }
        }
    }

    /// Says nothing when all is as it was.
    async fn tags_have_changed(&mut self) -> bool {
        match self.loader.tags_have_changed(PATIENCE).await {
            Ok(changed) => {
                if self.failures > 0 {
                    info!("the tags of the instance can be read again");
                }
                self.failures = 0;
                if changed {
                    info!("the tags of the instance have changed");
                }
                changed
            }
            Err(trouble) => {
                self.failures = self.failures.saturating_add(1);
                // The pauses grow, so that this is not said often.
                warn!(%trouble, failures = self.failures, "cannot read the tags of the instance: what they said last holds");
                false
            }
        }
    }

    /// Hands the agent a new configuration; a bad one changes nothing.
    async fn reload(&mut self) {
        let supervisor = Supervisor::from_environment();
        supervisor.reloading();
        let Some(reload) = self.read_again().await else {
            warn!("the old configuration stays in force");
            supervisor.ready();
            return;
        };
        self.refresh = reload.settings.tag_refresh;
        // Refused only when the agent is ending.
        let _ = self.reloads.send(reload).await;
    }

    async fn read_again(&mut self) -> Option<Reload> {
        let loaded = self.loader.load(PATIENCE).await;
        self.loader.instance_id().inspect(|id| log::name_instance(id));
        let Loaded { settings, warnings, .. } = match loaded {
            Ok(loaded) => loaded,
            Err(LoadError::Unconfigured(tried)) => {
                error!(%tried, "cannot reload: there is no configuration any more");
                return None;
            }
            Err(error) => {
                log_errors(&error, "cannot reload: ");
                return None;
            }
        };
        log_warnings(&warnings);
        match Tools::of(&settings.service_manager, &DetectionRoot::default()).await {
            Ok(tools) => Some(Reload { settings, tools }),
            Err(problem) => {
                error!("cannot reload: {problem}");
                None
            }
        }
    }
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
