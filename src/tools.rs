//! What deploys are made with: a service manager, and a runner of commands that suits it.

use std::path::PathBuf;
use std::sync::Arc;

use nix::unistd::geteuid;
use tracing::warn;

use crate::command::{Runner, SystemdTools};
use crate::service::{self, DetectError, DetectionRoot, ManagerChoice, ServiceManager, Systemd};

/// What stops and starts services, and what runs commands.
#[derive(Clone)]
pub struct Tools {
    /// Stops and starts services.
    pub manager: Arc<dyn ServiceManager>,
    /// Runs commands.
    pub runner: Runner,
}

impl Tools {
    /// Those of this choice, with this program as the commands' helper.
    pub async fn of(choice: &ManagerChoice, root: &DetectionRoot) -> Result<Self, DetectError> {
        let manager = service::detect(choice, root).await?;
        let runner = runner(manager.as_ref()).await;
        Ok(Self { manager, runner })
    }
}

/// Under systemd, commands run as units of their own, if the agent may start such; else as its children.
async fn runner(manager: &dyn ServiceManager) -> Runner {
    // The link goes on naming this program when an upgrade replaces its file, and names it to other processes too.
    let helper = PathBuf::from(format!("/proc/{}/exe", std::process::id()));
    if manager.name() == Systemd::NAME && geteuid().is_root() {
        match Runner::under_systemd(helper.clone(), SystemdTools::default()).await {
            Ok(runner) => return runner,
            Err(problem) => warn!("commands will end with the agent: they cannot run as units: {problem}"),
        }
    }
    Runner::new(helper)
}
