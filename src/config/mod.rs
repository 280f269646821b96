//! The configuration: sources → fragments → [`Settings`] in which nothing is invalid.

mod apps;
mod checker;
mod commands;
mod error;
mod file;
mod flags;
mod fragment;
mod host;
mod lined;
mod loader;
mod source;
mod tags;
mod trust;
mod user_data;
mod validate;
mod values;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::command::CommandSpec;
use crate::github::RepoName;
use crate::mqtt::MqttSettings;
use crate::refs::RefRules;
use crate::service::{ManagerChoice, ServiceName};
use crate::state_dir;
use crate::topic::TopicPattern;
use crate::trust::Trust;

pub use checker::Shown;
pub use error::{ConfigError, ConfigErrors};
pub use flags::Flags;
pub use host::Host;
pub use loader::{LoadError, Loader, Tried};
pub use source::{DEFAULT_FILE, Place, Request, Source};
pub use user_data::{Form, source_of};
pub(crate) use values::{BrokerUrl, check_alpn};

/// Everything that the agent was told, valid and complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The connection to the broker.
    pub mqtt: MqttSettings,
    /// The topics that pushes are published on.
    pub topic: TopicPattern,
    /// Which of them to subscribe to.
    pub subscribe: Subscribe,
    /// This instance's environment, such as `production`.
    pub environment: Option<String>,
    /// What stops and starts services.
    pub service_manager: ManagerChoice,
    /// How many apps are deployed at a time.
    pub max_parallel: usize,
    /// The longest that an instance waits before a deploy; its share is fixed by its client id.
    pub stagger: Duration,
    /// Where the agent keeps what outlives it.
    pub state_dir: PathBuf,
    /// What a push must prove.
    pub trust: Trust,
    /// Runs after each outcome.
    pub on_outcome: Option<CommandSpec>,
    /// How often the instance's tags are read again; `None`: never.
    pub tag_refresh: Option<Duration>,
    /// The apps of this instance. Their names are unique.
    pub apps: Vec<Arc<App>>,
}

impl Settings {
    /// The MQTT filters to subscribe to.
    pub fn filters(&self) -> Vec<String> {
        match self.subscribe {
            Subscribe::Wildcard => vec![self.topic.filter()],
            Subscribe::Exact => {
                let mut filters: Vec<_> = self.apps.iter().map(|app| self.topic.of(&app.repo)).collect();
                filters.sort();
                filters.dedup();
                filters
            }
        }
    }
}

/// `mqtt.subscribe`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscribe {
    /// One filter for every repository.
    Wildcard,
    /// One filter for each managed repository, in the configuration's spelling.
    Exact,
}

/// One managed application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct App {
    /// Its name, unique on this instance.
    pub name: AppName,
    /// Its repository.
    pub repo: RepoName,
    /// Its services, at least one, in the order of starting.
    pub services: Vec<ServiceName>,
    /// The refs that deploy it.
    pub refs: RefRules,
    /// Runs before the services stop.
    pub prepare: Option<Box<CommandSpec>>,
    /// Runs while they are down.
    pub update: Option<Box<CommandSpec>>,
    /// Runs when they are up again.
    pub check: Option<Box<CommandSpec>>,
    /// How long the services must stay up to count as started.
    pub settle: Duration,
    /// How often a failed deploy is tried again.
    pub retries: u32,
    /// Limit for stopping one service; `None`: the unit's own, plus 10 s.
    pub stop_timeout: Option<Duration>,
    /// Limit for starting one service; `None`: the unit's own, plus 10 s.
    pub start_timeout: Option<Duration>,
}

#[cfg(test)]
impl App {
    /// One that does nothing but stop and start its services, for pushes to the default branch.
    pub(crate) fn for_test(services: &[&str]) -> Self {
        Self {
            name: "api".parse().unwrap(),
            repo: "o/r".parse().unwrap(),
            services: services.iter().map(|service| service.parse().unwrap()).collect(),
            refs: RefRules { branches: crate::refs::Branches::Default, tags: Vec::new() },
            prepare: None,
            update: None,
            check: None,
            settle: Duration::ZERO,
            retries: 0,
            stop_timeout: None,
            start_timeout: None,
        }
    }
}

/// The name of an app: letters, digits and `. _ @ : -`, so that it can be part of a file's or a unit's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct AppName(Arc<str>);

impl AppName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AppName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if values::is_name(text) { Ok(Self(text.into())) } else { Err(values::not_a_name(text)) }
    }
}

impl TryFrom<String> for AppName {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<AppName> for String {
    fn from(name: AppName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for AppName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Settings, and what each was taken from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Each effective setting with its source, in the order of the documentation, unless nobody is
    /// shown it. No secret is among them.
    pub shown: Vec<Shown>,
    /// What is valid but probably not meant.
    pub warnings: Vec<String>,
}

/// The state directory that the sources on this host name, even where they are invalid; else where the last valid
/// configuration had it.
pub fn state_dir(request: &Request) -> PathBuf {
    named_state_dir(request).unwrap_or_else(|| state_dir::follow(default_state_dir()))
}

/// The configuration file, where it cannot be read although it counts, and why.
pub(crate) fn unread_file(request: &Request) -> Option<(&Path, io::Error)> {
    let path = request.path();
    let error = File::open(path).err().filter(|_| request.flags.state_dir.is_none())?;
    let is_none = error.kind() == io::ErrorKind::NotFound && request.file.is_none();
    (!is_none).then_some((path, error))
}

fn named_state_dir(request: &Request) -> Option<PathBuf> {
    let named = source::read(request).ok().and_then(|sources| sources.state_dir());
    let flag = || request.flags.state_dir.clone();
    let in_invalid_file = || {
        let text = file::state_dir(request.path())?;
        values::path(&fragment::Scalar::Text(text.into())).ok()
    };
    named.or_else(flag).or_else(in_invalid_file)
}

/// systemd's, else the default.
fn default_state_dir() -> PathBuf {
    let of_unit = std::env::var_os("STATE_DIRECTORY").map(PathBuf::from).filter(|dir| dir.is_absolute());
    of_unit.unwrap_or_else(|| PathBuf::from(validate::STATE_DIR))
}
