//! Finds out which service manager runs this host.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::client::{UNTRANSLATED, run};
use super::{CustomManager, ServiceManager, Systemd, Upstart};

/// `initctl` speaks to init, which may be anything.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which service manager the configuration wants.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ManagerChoice {
    /// The one that runs this host.
    #[default]
    Auto,
    /// systemd, whether or not it looks like it.
    Systemd,
    /// upstart, whether or not it looks like it.
    Upstart,
    /// Commands of the configuration.
    Custom(CustomManager),
}

/// Where service managers show themselves, and their programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetectionRoot {
    /// A directory that exists while systemd runs the host.
    pub systemd_dir: PathBuf,
    /// Program to speak to systemd with.
    pub systemctl: String,
    /// Program to speak to upstart with.
    pub initctl: String,
}

impl Default for DetectionRoot {
    fn default() -> Self {
        Self {
            systemd_dir: "/run/systemd/system".into(),
            systemctl: "systemctl".to_owned(),
            initctl: "initctl".to_owned(),
        }
    }
}

/// No service manager that is known runs this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no service manager found: {} is no directory, so it is not systemd, and `{initctl} version` {upstart}, so it is \
     not upstart; set `service_manager` to the commands that stop, start and look at a service",
    .systemd_dir.display()
)]
pub struct DetectError {
    systemd_dir: PathBuf,
    initctl: String,
    upstart: String,
}

/// The service manager of the configuration's choice.
pub async fn detect(
    choice: &ManagerChoice,
    environment: &DetectionRoot,
) -> Result<Arc<dyn ServiceManager>, DetectError> {
    match choice {
        ManagerChoice::Auto => find(environment).await,
        ManagerChoice::Systemd => Ok(systemd(environment)),
        ManagerChoice::Upstart => Ok(upstart(environment)),
        ManagerChoice::Custom(manager) => Ok(Arc::new(manager.clone())),
    }
}

async fn find(environment: &DetectionRoot) -> Result<Arc<dyn ServiceManager>, DetectError> {
    if is_systemd(&environment.systemd_dir) {
        return Ok(systemd(environment));
    }
    match not_upstart(&environment.initctl).await {
        None => Ok(upstart(environment)),
        Some(why) => Err(DetectError {
            systemd_dir: environment.systemd_dir.clone(),
            initctl: environment.initctl.clone(),
            upstart: why,
        }),
    }
}

fn systemd(environment: &DetectionRoot) -> Arc<dyn ServiceManager> {
    Arc::new(Systemd::with_program(&environment.systemctl))
}

fn upstart(environment: &DetectionRoot) -> Arc<dyn ServiceManager> {
    Arc::new(Upstart::with_program(&environment.initctl))
}

/// The test of `sd_booted(3)`, which does not follow a link either.
fn is_systemd(directory: &Path) -> bool {
    directory.symlink_metadata().is_ok_and(|found| found.is_dir())
}

/// None when init says that it is upstart, as in `init (upstart 1.12.1)`; else what it said instead.
async fn not_upstart(initctl: &str) -> Option<String> {
    match tokio::time::timeout(PATIENCE, run(&[initctl, "version"], &UNTRANSLATED, None)).await {
        Ok(Ok(finished)) if finished.success() && finished.says("upstart") => None,
        Ok(Ok(finished)) if finished.output.is_empty() => Some("says nothing".to_owned()),
        Ok(Ok(finished)) => Some(format!("says \"{}\"", finished.output.join(" | "))),
        Ok(Err(_)) => Some("cannot be run".to_owned()),
        Err(_) => Some(format!("does not answer within {} s", PATIENCE.as_secs())),
    }
}
