//! Starts the agent as its own program does: settings from a file, a service manager, and `run`.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use instance_agent::agent::{self, AgentError, Dependencies};
use instance_agent::command::Runner;
use instance_agent::config::{Host, Loaded, Loader, Request};
use instance_agent::service::{self, DetectionRoot};
use instance_agent::supervisor::Supervisor;
use instance_agent::tools::Tools;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::site::Site;

/// The configuration, with names in place of what is known only when the demo runs.
const CONFIG: &str = include_str!("../files/config.yaml");
/// How long the agent may take to end.
const FAREWELL: Duration = Duration::from_secs(10);

/// The agent, running.
pub(crate) struct Agent {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), AgentError>>,
}

impl Agent {
    /// Starts it with this configuration.
    pub(crate) async fn start(config: &Path) -> anyhow::Result<Self> {
        let request = Request { file: Some(config.to_owned()), ..Request::default() };
        let mut loader = Loader::new(request, Host::detect(), None)?;
        let Loaded { settings, warnings, .. } =
            loader.load(Duration::ZERO).await.context("invalid configuration")?;
        if !warnings.is_empty() {
            bail!("the configuration is questionable: {}", warnings.join("; "));
        }
        let dependencies = Dependencies {
            tools: Tools {
                manager: service::detect(&settings.service_manager, &DetectionRoot::default()).await?,
                // Its help is needed only for commands that name a user.
                runner: Runner::new("/proc/self/exe".into()),
            },
            supervisor: Supervisor::none(),
        };
        let shutdown = CancellationToken::new();
        let (_, reloads) = mpsc::channel(1);
        let task = tokio::spawn(agent::run(settings, dependencies, reloads, shutdown.clone()));
        Ok(Self { shutdown, task })
    }

    /// Whether it has ended by itself, which it should not.
    pub(crate) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Ends it as SIGTERM would.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        timeout(FAREWELL, self.task).await.context("the agent does not end")??.context("the agent failed")
    }
}

/// The configuration for this site and a broker on this port.
pub(crate) fn config(site: &Site, broker: u16, repo: &str) -> String {
    CONFIG
        .replace("@PORT@", &broker.to_string())
        .replace("@REPO@", repo)
        .replace("@DEMO@", &yaml(&site.demo()))
        .replace("@DIR@", &yaml(site.path()))
}

/// A path inside double quotes.
fn yaml(path: &Path) -> String {
    path.display().to_string().replace('\\', r"\\").replace('"', r#"\""#)
}
